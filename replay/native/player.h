/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of the player share: rows.c plays any row, plain.c nearly all of them and faster,
 * shrink.c what happens during a shrink, survey.c looks over a batch before, timing.c measures
 * calls; play.c puts them together. Nothing here is seen from outside.
 */
#ifndef ZTRACE_PLAYER_H
#define ZTRACE_PLAYER_H

#include "play.h"

#include <stdio.h>

__extension__ typedef __int128 wide;

enum { SIZE_BITS = 64 - ZC_REF_BITS };

static const int64_t LARGEST_NS = INT64_C(1) << 62;
static const uint64_t LARGEST_TOTAL = UINT64_C(1) << 55;
static const uint64_t NO_HANDLE = UINT64_MAX;
static const int64_t NO_TOTAL = -1;

/* An object whose handle was given out again before its free was seen to return. */
struct leaving {
	struct leaving *older, *newer;
	uint64_t handle, ref, row;
	uint32_t id;
	int64_t size, given_ns;
};

/* One pool of the trace and its model. ``live``: recorded handle -> reference and size, packed. */
struct run {
	struct zc_pool *model;
	struct zc_map live, begun, refused, leaving, failed;
	struct leaving *leaving_oldest, *leaving_newest;
	struct zc_slab leaving_slab;
	int64_t held, model_total, recorded_total;
	int64_t *near_peak;
	int32_t more_bytes;
	uint32_t unknown_met, cpus; /* whose lists are apart; 0: the same for all */
	bool compared, compacts, stopped;
	bool plain; /* see zp_play(): neither stopped nor with objects that need a second look */
	struct zc_map pages; /* address of the kernel's page / PAGE_SIZE -> the model's + 1 */
	struct zp_pool_result result;
};

struct eviction {
	uint64_t at, handle;
	int ret;
};

struct player {
	const struct zc_backend *backend;
	struct zc_config config;
	struct zp_options options;
	struct run *runs[ZP_POOLS];
	struct run *met[ZP_POOLS];
	uint32_t met_len;
	const struct zp_columns *in;
	bool far; /* some ts_ns of the batch are beyond LARGEST_NS */
	int code; /* why it ended */
	struct zp_error error;
	int64_t objects, stored, held, total, kernel_total;
	int64_t snapshot_above;
	int64_t clock, row_clock; /* of points, and of rows */
	struct zp_point latest;
	wide moments_of[3]; /* sum of each change of a figure times its moment */
	uint64_t state_reached, calls_reached; /* of the time series */
	struct zp_point *series;
	uint64_t *series_calls;
	struct eviction *evictions;
	uint64_t evictions_cap;
	struct zp_timing *timing; /* NULL: not asked for */
	struct zp_result result;
};

/* Ends the player: returns ``code``, with what zp_error_of() will say. */
int zp_fail(struct player *p, int code, uint64_t row, int kind, uint64_t handle);

/* rows.c: any row. zp_stop() ends a pool whose model did, which is no error, or the player. */
int zp_play_row(struct player *p, uint64_t row, uint32_t hint);
int zp_end_row(struct player *p, struct run *run, uint64_t row, enum zp_kind kind, int code);
int zp_note_malloc(struct player *p, struct run *run, int code, int64_t size, uint64_t handle,
		   uint64_t given, uint64_t number, int64_t end_ns);
void zp_leave(struct run *run, struct leaving *old);
int zp_drop(struct player *p, struct run *run, struct leaving *old);
int zp_stop(struct player *p, struct run *run, const char *call, uint64_t number, int code);
void zp_snapshot(struct player *p);
void zp_compare_total(struct player *p, struct run *run, int64_t total, uint64_t number);

/* plain.c: rows up to ``stop_at``. */
int zp_play(struct player *p, uint64_t row, uint64_t stop_at);

/* shrink.c: the rows of a shrink; late frees that will not come any more. */
int zp_play_shrink(struct player *p, uint64_t first, uint64_t last);
int zp_settle(struct player *p, uint64_t before, int64_t now_ns);

/* survey.c: a batch before it is played; a row that cannot have happened. */
int zp_survey(struct player *p, uint64_t row, uint64_t stop_at, int64_t *last_wanted);
uint64_t zp_find_impossible(const struct player *p, uint64_t row, uint64_t stop_at);
int zp_refuse_row(struct player *p, uint64_t row);

/* timing.c */
uint64_t zp_ticks(void);
void zp_calibrate(struct zp_timing *timing);
void zp_note_time(struct player *p, int call, int64_t size, uint64_t spent);

/* play.c: the first row of a pool. */
int zp_meet(struct player *p, uint32_t number);

/* -- columns -------------------------------------------------------------------------------- */

static inline uint32_t bit(const uint8_t *bitmap, uint64_t at)
{
	return bitmap[at >> 3] >> (at & 7) & 1;
}

static inline bool valid(const uint8_t *bitmap, uint64_t at, uint64_t row)
{
	return !bitmap || bit(bitmap, at + row);
}

static inline enum zp_kind kind_at(const struct player *p, uint64_t row)
{
	return p->options.kind_of[(uint8_t)p->in->op[row]];
}

static inline uint32_t size_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->size && valid(in->size_valid, in->size_at, row) ? in->size[row] : 0;
}

static inline uint64_t handle_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->handle && valid(in->handle_valid, in->handle_at, row) ? in->handle[row]
									   : NO_HANDLE;
}

static inline bool has_handle(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->handle && valid(in->handle_valid, in->handle_at, row);
}

static inline int64_t total_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	if (!in->total || !valid(in->total_valid, in->total_at, row))
		return NO_TOTAL;
	uint64_t total = in->total[row];
	return (int64_t)(total < LARGEST_TOTAL ? total : LARGEST_TOTAL);
}

static inline int64_t begin_at(const struct player *p, uint64_t row)
{
	int64_t ts = p->in->ts_ns[row];
	if (ZC_LIKELY(!p->far))
		return ts;
	return ts > LARGEST_NS ? LARGEST_NS : ts < -LARGEST_NS ? -LARGEST_NS : ts;
}

static inline int64_t end_at(const struct player *p, uint64_t row)
{
	return begin_at(p, row) + p->in->dur_ns[row];
}

static inline uint64_t number_at(const struct player *p, uint64_t row)
{
	return p->in->first_row + row;
}

/* Bits of kinds, to be asked for without branches. */
enum {
	DRIVEN = 1u << ZP_MALLOC | 1u << ZP_FREE | 1u << ZP_MAP | 1u << ZP_UNMAP | 1u << ZP_SHRINK |
		 1u << ZP_INSERT,
	USING = 1u << ZP_MAP | 1u << ZP_UNMAP,
	NAMING = 1u << ZP_FREE | USING,
};

static inline bool is_one_of(uint32_t kinds, enum zp_kind kind)
{
	return kinds >> kind & 1;
}

static inline bool is_driven(enum zp_kind kind)
{
	return is_one_of(DRIVEN, kind);
}

/* Whether the player takes notice of a row at all. */
static inline bool is_wanted(const struct player *p, uint64_t row, enum zp_kind kind)
{
	return is_driven(kind) || kind == ZP_COMPACT || total_at(p, row) >= 0 ||
	       (kind == ZP_WRITEBACK && p->in->spans_len);
}

/* -- live objects --------------------------------------------------------------------------- */

static inline uint64_t ref_of(uint64_t value)
{
	return value >> SIZE_BITS;
}

static inline int64_t size_of(uint64_t value)
{
	return (int64_t)(value & ((1u << SIZE_BITS) - 1));
}

static inline bool fits(const struct player *p, uint32_t size)
{
	return size - 1 < p->options.page_bytes;
}

/* A row that cannot have happened: a malloc of an impossible size, a call that names nothing. */
static inline bool is_impossible(const struct player *p, uint64_t row, enum zp_kind kind)
{
	bool given = kind == ZP_MALLOC && p->in->ret[row] >= 0;
	if (given && !fits(p, size_at(p, row)))
		return true;
	return (given || is_one_of(NAMING, kind)) && !has_handle(p, row);
}

/* -- time ----------------------------------------------------------------------------------- */

/* A figure's area below its end so far: each change counts against the time before it. */
static inline void note_change(wide *moment, int64_t change, int64_t t)
{
	*moment += (wide)change * t;
}

/* Note in the time series the state at the moments before ``t``. */
static inline void reach_moments(struct player *p, int64_t t)
{
	const struct zp_options *o = &p->options;
	while (ZC_UNLIKELY(p->state_reached < o->moments_len &&
			   o->moments[p->state_reached] < t))
		p->series[p->state_reached++] = p->latest;
}

static inline void raise_peaks(struct player *p, struct zp_point now)
{
	struct zp_point *peaks = p->result.peaks;
	if (ZC_UNLIKELY(now.objects > peaks[0].objects))
		peaks[0] = now;
	if (ZC_UNLIKELY(now.stored > peaks[1].stored))
		peaks[1] = now;
	if (ZC_UNLIKELY(now.held > peaks[2].held))
		peaks[2] = now;
}

/* Take over the state after a call that returned at ``end_ns``; time never steps back. */
static inline void move_clock(struct player *p, int64_t end_ns)
{
	int64_t t = end_ns > p->clock ? end_ns : p->clock;
	p->clock = t;
	struct zp_point *latest = &p->latest;
	reach_moments(p, t);
	note_change(&p->moments_of[0], p->objects - latest->objects, t);
	note_change(&p->moments_of[1], p->stored - latest->stored, t);
	if (p->held != latest->held)
		note_change(&p->moments_of[2], p->held - latest->held, t);
	*latest = (struct zp_point){t, p->objects, p->stored, p->held, p->total, p->kernel_total};
	raise_peaks(p, *latest);
}

static inline void take_held(struct player *p, struct run *run)
{
	const struct zc_pool *model = run->model;
	int64_t held = (int64_t)model->held_bytes, model_total = (int64_t)model->total_bytes;
	p->held += held - run->held;
	run->held = held;
	p->total += model_total - run->model_total;
	run->model_total = model_total;
	if (ZC_UNLIKELY(p->held > p->snapshot_above))
		zp_snapshot(p);
}

/* Take over what the model holds after a call, and compare it with the kernel's total. */
static inline void point(struct player *p, struct run *run, int64_t end_ns, int64_t total,
			 uint64_t number)
{
	take_held(p, run);
	if (total >= 0)
		zp_compare_total(p, run, total, number);
	move_clock(p, end_ns);
}

static inline bool tells(const struct player *p, const struct run *run)
{
	return run->compared && p->options.handles_tell;
}

static inline void compare_handle(struct run *run, int64_t size, uint64_t handle, uint64_t given,
				  uint64_t number)
{
	struct zp_agreement *handles = &run->result.handles;
	handles->compared++;
	if (given == handle)
		handles->equal++;
	else if (!*handles->first)
		snprintf(handles->first, ZP_FIRST,
			 "row %" PRIu64 ": malloc(%" PRId64 ") gave 0x%" PRIx64
			 ", model: 0x%" PRIx64,
			 number, size, handle, given);
}

/* The entry of a live object, which the slot ``hint`` may be; or NULL. */
static inline struct zc_slot *find_live(const struct run *run, uint64_t handle, uint32_t hint)
{
	struct zc_slot *slot = &run->live.slots[hint];
	if (ZC_LIKELY(slot->key == handle && slot->value))
		return slot;
	return zc_map_find(&run->live, handle);
}

static inline uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

#endif
