/* SPDX-License-Identifier: GPL-2.0-only */
/* Batches of recorded calls on the models: replay/engine.py in C, whose rules hold here too. */
#define _DEFAULT_SOURCE /* clock_gettime */
#include "play.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

__extension__ typedef __int128 wide;

/* Rows that are played together; what they will touch is brought nearer in time: struct ahead. */
enum { PIECE = 4096, RING = 16 };
/* How much in advance: entries by rows, the others by rows that name an object. */
enum { AHEAD_ENTRY = 32, AHEAD_OBJECT = 6, AHEAD_MORE = 2 };
enum { COUNT_BITS = 48 };
static const uint64_t MOST_RANKS = 0xFFFF;

enum { SIZE_BITS = 64 - ZC_REF_BITS };

static const int64_t LARGEST_NS = INT64_C(1) << 62;
/* In so long a time a piece's changes of stored bytes, times moments after its start, overflow not. */
static const int64_t LONGEST_NS = INT64_MAX / PIECE / ZC_MOST_PAGE_BYTES;
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
	bool plain; /* see play(): neither stopped nor with objects that need a second look */
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

static int fail(struct player *p, int code, uint64_t row, int kind, uint64_t handle)
{
	p->code = code;
	p->error = (struct zp_error){.row = row, .handle = handle, .kind = kind};
	return code;
}

/* -- columns -------------------------------------------------------------------------------- */

static inline uint32_t bit(const uint8_t *bitmap, uint64_t at)
{
	return bitmap[at >> 3] >> (at & 7) & 1;
}

static inline bool valid(const uint8_t *bitmap, uint64_t at, uint64_t row)
{
	return !bitmap || bit(bitmap, at + row);
}

static enum zp_kind kind_at(const struct player *p, uint64_t row)
{
	return p->options.kind_of[(uint8_t)p->in->op[row]];
}

static uint32_t size_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->size && valid(in->size_valid, in->size_at, row) ? in->size[row] : 0;
}

static uint64_t handle_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->handle && valid(in->handle_valid, in->handle_at, row) ? in->handle[row]
									   : NO_HANDLE;
}

static bool has_handle(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->handle && valid(in->handle_valid, in->handle_at, row);
}

static int64_t total_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	if (!in->total || !valid(in->total_valid, in->total_at, row))
		return NO_TOTAL;
	uint64_t total = in->total[row];
	return (int64_t)(total < LARGEST_TOTAL ? total : LARGEST_TOTAL);
}

static int64_t begin_at(const struct player *p, uint64_t row)
{
	int64_t ts = p->in->ts_ns[row];
	if (ZC_LIKELY(!p->far))
		return ts;
	return ts > LARGEST_NS ? LARGEST_NS : ts < -LARGEST_NS ? -LARGEST_NS : ts;
}

static int64_t end_at(const struct player *p, uint64_t row)
{
	return begin_at(p, row) + p->in->dur_ns[row];
}

static uint64_t number_at(const struct player *p, uint64_t row)
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
static bool is_wanted(const struct player *p, uint64_t row, enum zp_kind kind)
{
	return is_driven(kind) || kind == ZP_COMPACT || total_at(p, row) >= 0 ||
	       (kind == ZP_WRITEBACK && p->in->spans_len);
}

/* -- live objects --------------------------------------------------------------------------- */

static uint64_t ref_of(uint64_t value)
{
	return value >> SIZE_BITS;
}

static int64_t size_of(uint64_t value)
{
	return (int64_t)(value & ((1u << SIZE_BITS) - 1));
}

/* -- time ----------------------------------------------------------------------------------- */

/* Every time the pools grew by 1/128 is enough. */
static void snapshot(struct player *p)
{
	p->snapshot_above = p->held + (p->held >> 7);
	p->result.held_near_peak = p->held;
	for (uint32_t i = 0; i < p->met_len; i++) {
		p->backend->stats(p->met[i]->model, p->met[i]->near_peak);
		p->met[i]->result.snapshots++;
	}
}

static int64_t sum_recorded(const struct player *p)
{
	int64_t sum = 0;
	for (uint32_t i = 0; i < p->met_len; i++) {
		if (p->met[i]->recorded_total == NO_TOTAL)
			return NO_TOTAL;
		sum += p->met[i]->recorded_total;
	}
	return sum;
}

static void compare_total(struct player *p, struct run *run, int64_t total, uint64_t number)
{
	struct zp_pool_result *result = &run->result;
	if (run->compared) {
		result->totals.compared++;
		if (total == run->model_total)
			result->totals.equal++;
		else if (!*result->totals.first)
			snprintf(result->totals.first, ZP_FIRST,
				 "row %" PRIu64 ": kernel %" PRId64 ", model %" PRId64, number,
				 total, run->model_total);
	}
	int64_t difference = run->model_total - total;
	if (!result->has_difference || llabs(difference) > llabs(result->total_difference)) {
		result->has_difference = 1;
		result->total_difference = difference;
	}
	if (total != run->recorded_total) {
		run->recorded_total = total;
		p->kernel_total = sum_recorded(p);
	}
}

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
	struct zp_point *peaks = p->result.peaks;
	if (ZC_UNLIKELY(p->objects > peaks[0].objects))
		peaks[0] = *latest;
	if (ZC_UNLIKELY(p->stored > peaks[1].stored))
		peaks[1] = *latest;
	if (ZC_UNLIKELY(p->held > peaks[2].held))
		peaks[2] = *latest;
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
		snapshot(p);
}

/* Take over what the model holds after a call, and compare it with the kernel's total. */
static inline void point(struct player *p, struct run *run, int64_t end_ns, int64_t total,
			 uint64_t number)
{
	take_held(p, run);
	if (total >= 0)
		compare_total(p, run, total, number);
	move_clock(p, end_ns);
}

/* -- the end of a pool ---------------------------------------------------------------------- */

static int stop(struct player *p, struct run *run, const char *call, uint64_t number, int code)
{
	if (code != ZC_FATAL)
		return fail(p, code, number, ZP_OTHER, 0);
	run->stopped = true;
	run->plain = false;
	snprintf(run->result.stopped, sizeof(run->result.stopped), "row %" PRIu64 ": %s: %s: %s",
		 number, call, run->model->fatal.name, run->model->fatal.first);
	return 0;
}

/* -- durations ------------------------------------------------------------------------------ */

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A clock that waits for what came before: the processor's own where there is one. */
static uint64_t ticks(void)
{
#if defined(__x86_64__)
	unsigned cpu;
	uint64_t now = __rdtscp(&cpu);
	_mm_lfence();
	return now;
#else
	return now_ns();
#endif
}

static int compare_ticks(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* Measure the clock: its rate over 20 ms, its cost as the median of many empty intervals. */
static void calibrate(struct zp_timing *timing)
{
	enum { EMPTY = 4001 };
	uint64_t spans[EMPTY], begun_ns = now_ns(), begun = ticks();
	for (int i = 0; i < EMPTY; i++) {
		uint64_t from = ticks();
		spans[i] = ticks() - from;
	}
	qsort(spans, EMPTY, sizeof(*spans), compare_ticks);
	timing->overhead_ticks = spans[EMPTY / 2];
	while (now_ns() - begun_ns < 20000000)
		;
	uint64_t passed = ticks() - begun;
	timing->ns_per_tick = passed ? (double)(now_ns() - begun_ns) / (double)passed : 1;
}

static void note_time(struct player *p, int call, int64_t size, uint64_t spent)
{
	struct zp_timing *timing = p->timing;
	spent = spent > timing->overhead_ticks ? spent - timing->overhead_ticks : 0;
	int64_t class = (size - 1) * ZP_TIME_CLASSES / p->options.page_bytes;
	if (class < 0 || class >= ZP_TIME_CLASSES)
		return;
	if (spent > UINT32_MAX)
		spent = UINT32_MAX;
	uint32_t high = 31 - (uint32_t)__builtin_clz((uint32_t)spent | 1);
	uint32_t fine = (uint32_t)((spent << 4 >> high) & (ZP_TIME_FINE - 1));
	timing->counts[call][class][high * ZP_TIME_FINE + fine]++;
	if (spent > timing->most_ticks[call][class])
		timing->most_ticks[call][class] = spent;
}

/* -- calls ---------------------------------------------------------------------------------- */

static int model_malloc(struct player *p, struct run *run, int64_t size, uint64_t *given)
{
	if (ZC_LIKELY(!p->timing))
		return p->backend->malloc(run->model, size, given);
	uint64_t begun = ticks();
	int code = p->backend->malloc(run->model, size, given);
	note_time(p, 0, size, ticks() - begun);
	return code;
}

static int model_free(struct player *p, struct run *run, uint64_t ref, int64_t size)
{
	if (ZC_LIKELY(!p->timing))
		return p->backend->free(run->model, ref);
	uint64_t begun = ticks();
	int code = p->backend->free(run->model, ref);
	note_time(p, 1, size, ticks() - begun);
	return code;
}

static const char *const KIND_NAMES[ZP_KINDS] = {
	"", "malloc", "free", "map", "unmap", "shrink", "insert", "writeback", "compact"};

static const char *errno_name(int code)
{
	switch (code) {
	case EINVAL:
		return "EINVAL";
	case ENOSPC:
		return "ENOSPC";
	default:
		return "ENOMEM";
	}
}

static void leave(struct run *run, struct leaving *old)
{
	if (old->older)
		old->older->newer = old->newer;
	else
		run->leaving_oldest = old->newer;
	if (old->newer)
		old->newer->older = old->older;
	else
		run->leaving_newest = old->older;
	zc_map_take(&run->leaving, old->handle);
	zc_slab_put(&run->leaving_slab, old, old->id);
}

/* Let go of an object whose free never came. */
static int drop(struct player *p, struct run *run, const struct leaving *old)
{
	if (p->options.whole)
		return fail(p, ZP_REISSUED, old->row, ZP_MALLOC, old->handle);
	int code = p->backend->free(run->model, old->ref);
	if (code)
		return code;
	run->result.reissued++;
	p->objects--;
	p->stored -= old->size;
	return 0;
}

static struct leaving *find_leaving(struct run *run, uint64_t handle)
{
	if (ZC_LIKELY(!run->leaving.len))
		return NULL;
	return (struct leaving *)(uintptr_t)zc_map_get(&run->leaving, handle);
}

/* Note that the handle of the object in ``value`` is given out again. */
static int give_again(struct player *p, struct run *run, uint64_t handle, uint64_t value,
		      int64_t given_ns, uint64_t number)
{
	struct leaving *old = find_leaving(run, handle);
	if (old) {
		struct leaving copy = *old;
		leave(run, old);
		int code = drop(p, run, &copy);
		if (code)
			return code;
	}
	uint32_t id = 0;
	old = zc_slab_get(&run->leaving_slab, &id);
	struct zc_slot *slot = old ? zc_map_put(&run->leaving, handle) : NULL;
	if (!slot)
		return fail(p, ZC_NO_MEMORY, number, ZP_MALLOC, 0);
	slot->value = (uintptr_t)old;
	*old = (struct leaving){.older = run->leaving_newest,
				.handle = handle,
				.id = id,
				.ref = ref_of(value),
				.row = number,
				.size = size_of(value),
				.given_ns = given_ns};
	if (run->leaving_newest)
		run->leaving_newest->newer = old;
	else
		run->leaving_oldest = old;
	run->leaving_newest = old;
	return 0;
}

static int refuse(struct player *p, struct run *run, uint64_t handle, uint64_t number,
		  int64_t size, int code)
{
	run->result.refused++;
	struct zc_slot *slot = zc_map_put(&run->refused, handle);
	if (!slot)
		return fail(p, ZC_NO_MEMORY, number, ZP_MALLOC, 0);
	slot->value = 1;
	if (run->compared) {
		struct zp_agreement *handles = &run->result.handles;
		handles->compared++;
		if (!*handles->first)
			snprintf(handles->first, ZP_FIRST,
				 "row %" PRIu64 ": malloc(%" PRId64 ") gave 0x%" PRIx64
				 ", model: %s",
				 number, size, handle, errno_name(-code));
	}
	return 0;
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

/* What follows the model's answer to a malloc: a code, or ``given``. */
static int note_malloc(struct player *p, struct run *run, int code, int64_t size, uint64_t handle,
		       uint64_t given, uint64_t number, int64_t end_ns)
{
	if (ZC_UNLIKELY(code)) {
		if (code > 0)
			return code;
		return refuse(p, run, handle, number, size, code);
	}
	if (tells(p, run))
		compare_handle(run, size, handle, given, number);
	uint64_t ref = run->model->last_ref;
	struct zc_slot *slot = zc_map_put(&run->live, handle);
	if (ZC_UNLIKELY(!slot))
		return fail(p, ZC_NO_MEMORY, number, ZP_MALLOC, 0);
	if (ZC_UNLIKELY(slot->value)) {
		code = give_again(p, run, handle, slot->value, end_ns, number);
		if (code)
			return code;
	}
	slot->value = ref << SIZE_BITS | (uint64_t)size;
	run->result.mallocs++;
	p->objects++;
	p->stored += size;
	return 0;
}

static int play_malloc(struct player *p, struct run *run, int64_t size, uint64_t handle,
		       uint64_t number, int64_t end_ns)
{
	uint64_t given = 0, ticket;
	int code;
	size += run->more_bytes;
	if (ZC_UNLIKELY(run->begun.len) && (ticket = zc_map_take(&run->begun, handle)))
		code = p->backend->end(run->model, ticket, &given);
	else
		code = model_malloc(p, run, size, &given);
	return note_malloc(p, run, code, size, handle, given, number, end_ns);
}

/* A malloc that failed; the page allocator's failures are not the model's. */
static int play_failed(struct player *p, struct run *run, int64_t size, int ret, uint64_t number)
{
	struct zc_slot *slot = zc_map_put(&run->failed, (uint32_t)ret);
	if (!slot)
		return fail(p, ZC_NO_MEMORY, number, ZP_MALLOC, 0);
	if (!slot->value) /* in which order they were met, above the count */
		slot->value = run->failed.len < MOST_RANKS ? run->failed.len << COUNT_BITS
							   : MOST_RANKS << COUNT_BITS;
	slot->value++;
	if (!run->compared || (ret != -EINVAL && ret != -ENOSPC))
		return 0;
	char answer[24];
	uint64_t given;
	int code = p->backend->malloc(run->model, size, &given);
	if (code > 0)
		return code;
	if (code < 0) {
		snprintf(answer, sizeof(answer), "%s", errno_name(-code));
	} else {
		snprintf(answer, sizeof(answer), "0x%" PRIx64, given);
		code = p->backend->free(run->model, run->model->last_ref);
		if (code > 0)
			return code;
	}
	struct zp_agreement *errors = &run->result.errors;
	errors->compared++;
	if (!strcmp(answer, errno_name(-ret)))
		errors->equal++;
	else if (!*errors->first)
		snprintf(errors->first, ZP_FIRST,
			 "row %" PRIu64 ": malloc(%" PRId64 ") failed with %s, model: %s", number,
			 size, errno_name(-ret), answer);
	return 0;
}

/* A call with a handle that is not live. */
static int unknown(struct player *p, struct run *run, enum zp_kind kind, uint64_t handle,
		   uint64_t number)
{
	if (run->refused.len && zc_map_find(&run->refused, handle)) {
		if (kind == ZP_FREE)
			zc_map_take(&run->refused, handle);
		return 0;
	}
	/* 6.1's zswap_writeback_entry() unmaps an object after it has freed it. */
	if (p->options.whole && kind != ZP_UNMAP)
		return fail(p, ZP_UNKNOWN, number, kind, handle);
	if (!run->result.unknown[kind]++)
		run->result.unknown_rank[kind] = ++run->unknown_met;
	return 0;
}

/* The entry of a live object, which the slot ``hint`` may be; or NULL. */
static inline struct zc_slot *find_live(const struct run *run, uint64_t handle, uint32_t hint)
{
	struct zc_slot *slot = &run->live.slots[hint];
	if (ZC_LIKELY(slot->key == handle && slot->value))
		return slot;
	return zc_map_find(&run->live, handle);
}

static int play_use(struct player *p, struct run *run, enum zp_kind kind, uint64_t handle,
		    uint32_t hint, uint64_t number)
{
	const struct zc_slot *slot = find_live(run, handle, hint);
	if (!slot)
		return unknown(p, run, kind, handle, number);
	uint64_t given = ref_of(slot->value);
	return kind == ZP_MAP ? p->backend->map(run->model, given)
			      : p->backend->unmap(run->model, given);
}

static int play_free(struct player *p, struct run *run, uint64_t handle, uint32_t hint,
		     uint64_t number, int64_t begun_ns)
{
	uint64_t given = 0;
	int64_t size = 0;
	struct leaving *old = find_leaving(run, handle);
	struct zc_slot *slot = find_live(run, handle, hint);
	bool known = slot != NULL;
	if (ZC_UNLIKELY(old != NULL) && known && begun_ns <= old->given_ns) {
		given = old->ref; /* the free of the one before, which was late */
		size = old->size;
		leave(run, old);
	} else {
		if (known) {
			given = ref_of(slot->value);
			size = size_of(slot->value);
			zc_map_remove_at(&run->live, slot);
		}
		if (old) {
			struct leaving copy = *old;
			leave(run, old);
			int code = drop(p, run, &copy);
			if (code)
				return code;
		}
	}
	if (!known)
		return unknown(p, run, ZP_FREE, handle, number);
	int code = model_free(p, run, given, size);
	if (code)
		return code;
	p->objects--;
	p->stored -= size;
	return 0;
}

static int play_insert(struct player *p, struct run *run, int64_t size, uint64_t handle,
		       uint64_t number)
{
	uint64_t ticket;
	if (!run->compared || !p->backend->begin)
		return 0;
	int code = p->backend->begin(run->model, size, &ticket);
	if (code)
		return code > 0 ? code : 0;
	struct zc_slot *slot = zc_map_put(&run->begun, handle);
	if (!slot)
		return fail(p, ZC_NO_MEMORY, number, ZP_INSERT, 0);
	slot->value = ticket;
	return 0;
}

/* -- compactions: replay/compaction.py ------------------------------------------------------ */

static uint64_t place_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->place && valid(in->place_valid, in->place_at, row) ? in->place[row] : 0;
}

/* The CPU of the calls that follow; one that the model has not is left out. */
static void on_cpu(struct player *p, struct run *run, uint64_t row, enum zp_kind kind)
{
	uint32_t cpu = p->in->cpu[row];
	if (cpu < run->cpus && is_wanted(p, row, kind))
		p->backend->set_cpu(run->model, cpu);
}

/* Note where the kernel has the page of an object that it mapped. */
static int note_page(struct player *p, struct run *run, uint64_t row)
{
	struct zc_place place;
	uint64_t address = place_at(p, row);
	uint64_t value = zc_map_get(&run->live, handle_at(p, row));
	if (!address || !value || p->backend->place(run->model, ref_of(value), &place))
		return 0;
	struct zc_slot *slot = zc_map_put(&run->pages, address / p->config.page_bytes);
	if (!slot)
		return fail(p, ZC_NO_MEMORY, number_at(p, row), ZP_MAP, 0);
	slot->value = place.page + 1;
	return 0;
}

/* zsmalloc compacts its pool; z3fold a page, unless it was at once, which the model knows. */
static void play_compact(struct player *p, struct run *run, uint64_t row)
{
	if (!run->cpus) {
		p->backend->compact(run->model);
		run->result.compactions++;
	} else if (!size_at(p, row) && p->options.recorded.deferred) {
		uint64_t page = zc_map_get(&run->pages, place_at(p, row) / p->config.page_bytes);
		if (page && p->backend->compact_page(run->model, page - 1))
			run->result.compactions++;
		else
			run->result.compactions_unmatched++;
	}
}

/* -- rows ----------------------------------------------------------------------------------- */

struct object {
	struct zc_pool *model; /* NULL: none */
	uint64_t ref;
};

static inline uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What follows any call that a model was driven with, or failed in. */
static inline int end_row(struct player *p, struct run *run, uint64_t row, enum zp_kind kind,
			  int code)
{
	uint64_t number = number_at(p, row);
	if (ZC_UNLIKELY(code))
		return p->code ? p->code : stop(p, run, KIND_NAMES[kind], number, code);
	point(p, run, end_at(p, row), total_at(p, row), number);
	return 0;
}

static inline int play_row(struct player *p, uint64_t row, uint32_t hint)
{
	const struct zp_columns *in = p->in;
	enum zp_kind kind = kind_at(p, row);
	struct run *run = p->runs[in->pool[row]];
	if (!run || run->stopped)
		return 0;
	uint64_t number = number_at(p, row);
	int64_t end_ns = end_at(p, row), total = total_at(p, row);
	int code = 0;
	if (ZC_UNLIKELY(run->cpus != 0))
		on_cpu(p, run, row, kind);
	switch (kind) {
	case ZP_MALLOC:
		if (ZC_UNLIKELY(in->ret[row] < 0))
			code = play_failed(p, run, size_at(p, row), in->ret[row], number);
		else
			code = play_malloc(p, run, size_at(p, row), handle_at(p, row), number,
					   end_ns);
		break;
	case ZP_FREE:
		code = play_free(p, run, handle_at(p, row), hint, number, begin_at(p, row));
		break;
	case ZP_MAP:
	case ZP_UNMAP:
		code = play_use(p, run, kind, handle_at(p, row), hint, number);
		if (ZC_UNLIKELY(run->cpus != 0) && !code && kind == ZP_MAP)
			code = note_page(p, run, row);
		if (!code && total < 0)
			return 0;
		break;
	case ZP_COMPACT:
		if (run->compacts)
			play_compact(p, run, row);
		else if (total < 0)
			return 0;
		break;
	case ZP_SHRINK:
		run->result.shrinks_not_replayed++;
		break;
	case ZP_INSERT:
		code = play_insert(p, run, size_at(p, row), handle_at(p, row), number);
		if (!code)
			return 0;
		break;
	case ZP_WRITEBACK:
		if (!in->spans_len && total < 0)
			return 0;
		break;
	default:
		if (total < 0)
			return 0;
	}
	return end_row(p, run, row, kind, code);
}

/* -- what rows will touch ------------------------------------------------------------------- */

/*
 * Brought nearer in three steps: the recorded handle's entry, then what leads to the model's
 * object, then the object. Mallocs need the first only, so the rows of a piece that name an
 * object are listed. An entry that is not where it belongs is not worth a search.
 */
struct ahead {
	uint64_t len, done; /* of ``rows``; and those that were played */
	uint32_t hints[RING]; /* see zc_map_glance() */
	struct object objects[RING];
	uint32_t rows[PIECE];
};

/* Always inline: GCC takes a function that only prefetches for one without effect. */
static inline ZC_ALWAYS_INLINE void bring_entry(const struct player *p, uint64_t row)
{
	const struct run *run = p->runs[p->in->pool[row]];
	if (ZC_LIKELY(run != NULL))
		zc_map_prefetch(&run->live, p->in->handle[row]);
}

static inline ZC_ALWAYS_INLINE void bring_object(const struct player *p, struct ahead *ahead,
						 uint64_t at)
{
	uint64_t row = ahead->rows[at], handle = p->in->handle[row];
	const struct run *run = p->runs[p->in->pool[row]];
	struct object *object = &ahead->objects[at % RING];
	object->model = NULL;
	ahead->hints[at % RING] = 0;
	if (ZC_UNLIKELY(!run))
		return;
	uint64_t hint = zc_map_glance(&run->live, handle);
	const struct zc_slot *slot = &run->live.slots[hint];
	ahead->hints[at % RING] = (uint32_t)hint;
	if (ZC_UNLIKELY(slot->key != handle || !slot->value))
		return;
	object->model = run->model;
	object->ref = ref_of(slot->value);
	p->backend->prefetch(object->model, object->ref);
}

/* List the rows of a piece that name an object. */
static void list_uses(const struct player *p, struct ahead *ahead, uint64_t row, uint64_t end)
{
	ahead->len = ahead->done = 0;
	for (; row < end; row++) {
		ahead->rows[ahead->len] = (uint32_t)row;
		ahead->len += is_one_of(NAMING, kind_at(p, row));
	}
	for (uint64_t at = 0; at < least(AHEAD_OBJECT, ahead->len); at++)
		bring_object(p, ahead, at);
}

/* Step on to the next row that names an object; returns its hint. */
static inline ZC_ALWAYS_INLINE uint32_t next_use(const struct player *p, struct ahead *ahead)
{
	uint64_t at = ahead->done++;
	uint32_t hint = ahead->hints[at % RING];
	if (ZC_LIKELY(at + AHEAD_OBJECT < ahead->len))
		bring_object(p, ahead, at + AHEAD_OBJECT);
	if (p->backend->prefetch_more && at + AHEAD_MORE < ahead->len) {
		const struct object *object = &ahead->objects[(at + AHEAD_MORE) % RING];
		if (ZC_LIKELY(object->model != NULL))
			p->backend->prefetch_more(object->model, object->ref);
	}
	return hint;
}

/* -- plain rows ----------------------------------------------------------------------------- */

/*
 * Nearly all rows are successful mallocs, frees, maps and unmaps, and nothing else is to be said
 * about their objects. Those are played here with the figures in registers. A row that is not of
 * this kind changes nothing before play_row() gets it.
 */

/*
 * What plain rows change. Sums of changes times moments are kept for the moments after ``since``
 * alone, which need half the bits; before they could overflow, or another moment of the time series
 * is passed, ``next_stop`` is.
 */
struct figures {
	int64_t clock, objects, stored;
	int64_t since, next_stop;
	int64_t moments_of[2]; /* of objects and stored, less what they would be at ``since`` */
	bool settled; /* what happened so far is part of p->latest */
};

static struct figures take_up(const struct player *p)
{
	const struct zp_options *o = &p->options;
	int64_t stop_at = p->clock < LARGEST_NS ? p->clock + LONGEST_NS : INT64_MAX;
	if (p->state_reached < o->moments_len && o->moments[p->state_reached] < stop_at)
		stop_at = o->moments[p->state_reached];
	return (struct figures){
		.clock = p->clock,
		.objects = p->objects,
		.stored = p->stored,
		.since = p->clock,
		.next_stop = stop_at,
		.settled = p->latest.objects == p->objects && p->latest.stored == p->stored,
	};
}

/* Before anything but a plain row: bring the player up to date. */
static void put_down(struct player *p, struct figures f)
{
	if (!f.settled)
		return;
	note_change(&p->moments_of[0], f.objects - p->objects, f.since);
	note_change(&p->moments_of[1], f.stored - p->stored, f.since);
	p->moments_of[0] += f.moments_of[0];
	p->moments_of[1] += f.moments_of[1];
	p->clock = f.clock;
	p->objects = f.objects;
	p->stored = f.stored;
	p->latest = (struct zp_point){f.clock, f.objects, f.stored,
				      p->held, p->total,  p->kernel_total};
}

/* Take up the figures at ``t``, before the call that returned then. */
static ZC_COLD struct figures pass(struct player *p, struct figures f, int64_t t)
{
	put_down(p, f);
	reach_moments(p, t);
	p->clock = t;
	return take_up(p);
}

static void note_peaks(struct player *p, struct figures f)
{
	struct zp_point *peaks = p->result.peaks;
	struct zp_point now = {f.clock, f.objects, f.stored, p->held, p->total, p->kernel_total};
	if (now.objects > peaks[0].objects)
		peaks[0] = now;
	if (now.stored > peaks[1].stored)
		peaks[1] = now;
	if (now.held > peaks[2].held)
		peaks[2] = now;
}

static void note_held(struct player *p, struct run *run, int64_t t)
{
	int64_t before = p->held;
	take_held(p, run);
	note_change(&p->moments_of[2], p->held - before, t);
}

/* point() for a malloc or free that changed the numbers of objects and bytes by so much. */
static inline ZC_ALWAYS_INLINE void point_plain(struct player *p, struct run *run,
						struct figures *f, uint64_t row, int64_t objects,
						int64_t stored)
{
	const struct zc_pool *model = run->model;
	const struct zp_point *peaks = p->result.peaks;
	int64_t end_ns = end_at(p, row), total = total_at(p, row);
	int64_t t = end_ns > f->clock ? end_ns : f->clock;
	if (ZC_UNLIKELY(t > f->next_stop))
		*f = pass(p, *f, t);
	f->clock = t;
	bool moved = ((int64_t)model->held_bytes ^ run->held) |
		     ((int64_t)model->total_bytes ^ run->model_total);
	if (moved)
		note_held(p, run, t);
	if (total >= 0)
		compare_total(p, run, total, number_at(p, row));
	f->objects += objects;
	f->stored += stored;
	f->moments_of[0] += objects * (t - f->since);
	f->moments_of[1] += stored * (t - f->since);
	/* What goes down makes no peak. */
	if (ZC_UNLIKELY(objects > 0 && ((f->objects > peaks[0].objects) |
					(f->stored > peaks[1].stored))))
		note_peaks(p, *f);
	else if (moved)
		note_peaks(p, *f);
}

static bool is_plain(const struct run *run)
{
	return !run->stopped && !run->cpus && !run->begun.len && !run->leaving.len;
}

/* A malloc that the model refused or ended with, or whose handle is in use. */
static ZC_COLD struct figures end_malloc(struct player *p, struct run *run, struct figures f,
					 uint64_t row, int code, int64_t size, uint64_t given)
{
	put_down(p, f);
	code = note_malloc(p, run, code, size, p->in->handle[row], given, number_at(p, row),
			   end_at(p, row));
	end_row(p, run, row, ZP_MALLOC, code);
	run->plain = is_plain(run);
	return take_up(p);
}

static inline ZC_ALWAYS_INLINE void malloc_plain(struct player *p, struct run *run,
						 struct figures *f, uint64_t row, int64_t size)
{
	uint64_t handle = p->in->handle[row], given = 0;
	size += run->more_bytes;
	int code = p->backend->malloc(run->model, size, &given);
	struct zc_slot *slot = code ? NULL : zc_map_put(&run->live, handle);
	if (ZC_UNLIKELY(!slot || slot->value)) {
		*f = end_malloc(p, run, *f, row, code, size, given);
		return;
	}
	if (tells(p, run))
		compare_handle(run, size, handle, given, number_at(p, row));
	slot->value = run->model->last_ref << SIZE_BITS | (uint64_t)size;
	run->result.mallocs++;
	point_plain(p, run, f, row, 1, size);
}

/* False: the object is not known. */
static inline ZC_ALWAYS_INLINE bool free_plain(struct player *p, struct run *run,
					       struct figures *f, uint64_t row, uint32_t hint)
{
	struct zc_slot *slot = find_live(run, p->in->handle[row], hint);
	if (ZC_UNLIKELY(!slot))
		return false;
	uint64_t value = slot->value;
	zc_map_remove_at(&run->live, slot);
	int code = p->backend->free(run->model, ref_of(value));
	if (ZC_LIKELY(!code)) {
		point_plain(p, run, f, row, -1, -size_of(value));
		return true;
	}
	put_down(p, *f);
	end_row(p, run, row, ZP_FREE, code);
	*f = take_up(p);
	return true;
}

/* False if the row has a total or the object is not known. */
static inline bool use_plain(struct player *p, struct run *run, struct figures *f, uint64_t row,
			     enum zp_kind kind, uint32_t hint)
{
	const struct zc_slot *slot = find_live(run, p->in->handle[row], hint);
	if (ZC_UNLIKELY(!slot) || total_at(p, row) >= 0)
		return false;
	int (*use)(struct zc_pool *, uint64_t) =
		kind == ZP_MAP ? p->backend->map : p->backend->unmap;
	int code = use(run->model, ref_of(slot->value));
	if (ZC_UNLIKELY(code)) {
		put_down(p, *f);
		end_row(p, run, row, kind, code);
		*f = take_up(p);
	}
	return true;
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

static int refuse_row(struct player *p, uint64_t row)
{
	enum zp_kind kind = kind_at(p, row);
	if (!has_handle(p, row))
		return fail(p, ZP_NO_HANDLE, number_at(p, row), kind, 0);
	fail(p, ZP_BAD_SIZE, number_at(p, row), kind, 0);
	p->error.size = size_at(p, row);
	return p->code;
}

/* Play rows one by one: where durations are measured, or nothing has a handle. */
static int play_rows(struct player *p, uint64_t row, uint64_t stop_at)
{
	for (; row < stop_at && !p->code; row++) {
		if (ZC_LIKELY(p->in->handle != NULL))
			bring_entry(p, least(row + AHEAD_ENTRY, stop_at - 1));
		if (ZC_UNLIKELY(is_impossible(p, row, kind_at(p, row))))
			return refuse_row(p, row);
		play_row(p, row, 0);
	}
	return p->code;
}

/* Play rows up to ``end``; those up to ``stop_at`` will follow. */
static int play_piece(struct player *p, uint64_t row, uint64_t end, uint64_t stop_at)
{
	struct ahead ahead;
	list_uses(p, &ahead, row, end);
	struct figures f = take_up(p);
	for (; row < end && ZC_LIKELY(!p->code); row++) {
		bring_entry(p, least(row + AHEAD_ENTRY, stop_at - 1));
		enum zp_kind kind = kind_at(p, row);
		struct run *run = p->runs[p->in->pool[row]];
		bool plain = ZC_LIKELY(run != NULL) && run->plain && f.settled;
		uint32_t hint = 0;
		if (kind == ZP_MALLOC) {
			uint32_t size = size_at(p, row);
			if (ZC_UNLIKELY(p->in->ret[row] < 0))
				plain = false;
			else if (ZC_UNLIKELY(!fits(p, size) || !has_handle(p, row)))
				return refuse_row(p, row);
			if (ZC_LIKELY(plain))
				malloc_plain(p, run, &f, row, size);
		} else if (is_one_of(NAMING, kind)) {
			hint = next_use(p, &ahead);
			if (ZC_UNLIKELY(!has_handle(p, row)))
				return refuse_row(p, row);
			if (kind == ZP_FREE)
				plain = plain && free_plain(p, run, &f, row, hint);
			else
				plain = plain && use_plain(p, run, &f, row, kind, hint);
		} else {
			plain = kind == ZP_OTHER && total_at(p, row) < 0;
		}
		if (ZC_UNLIKELY(!plain)) {
			put_down(p, f);
			play_row(p, row, hint);
			f = take_up(p);
			if (run)
				run->plain = is_plain(run);
		}
	}
	put_down(p, f);
	return p->code;
}

/* Play rows up to ``stop_at``. */
static int play(struct player *p, uint64_t row, uint64_t stop_at)
{
	if (p->timing || !p->in->handle)
		return play_rows(p, row, stop_at);
	for (uint32_t i = 0; i < p->met_len; i++)
		p->met[i]->plain = is_plain(p->met[i]);
	for (; row < stop_at && !p->code; row += PIECE)
		play_piece(p, row, least(row + PIECE, stop_at), stop_at);
	return p->code;
}

/* -- shrink --------------------------------------------------------------------------------- */

struct shrinking {
	struct player *p;
	struct run *run;
	uint64_t evictions_len, done, played, first;
	bool diverged;
};

static int add_eviction(struct player *p, uint64_t at, uint64_t handle, int ret, uint64_t *len)
{
	if (*len == p->evictions_cap) {
		uint64_t cap = p->evictions_cap ? 2 * p->evictions_cap : 64;
		struct eviction *grown = realloc(p->evictions, cap * sizeof(*grown));
		if (!grown)
			return fail(p, ZC_NO_MEMORY, at, ZP_SHRINK, 0);
		p->evictions = grown;
		p->evictions_cap = cap;
	}
	p->evictions[(*len)++] = (struct eviction){at, handle, ret};
	return 0;
}

/* The evictions of a shrink, in order: see _evictions() of replay/engine.py. */
static int find_evictions(struct player *p, uint64_t first, uint64_t last, uint64_t *len)
{
	const struct zp_columns *in = p->in;
	int64_t begun = begin_at(p, last);
	*len = 0;
	for (int inferred = 0; inferred < 2 && !*len; inferred++) {
		for (uint64_t row = first; row < last; row++) {
			if (in->tid[row] != in->tid[last] || in->pool[row] != in->pool[last] ||
			    begin_at(p, row) < begun)
				continue;
			enum zp_kind kind = kind_at(p, row);
			uint64_t handle = handle_at(p, row);
			int code = 0;
			if (!inferred) {
				if (kind == ZP_WRITEBACK && handle != NO_HANDLE)
					code = add_eviction(p, row, handle, in->ret[row], len);
			} else if (kind == ZP_MAP || kind == ZP_UNMAP || kind == ZP_FREE) {
				struct eviction *before = *len ? p->evictions + *len - 1 : NULL;
				int ret = kind == ZP_FREE ? 0 : -EEXIST;
				if (before && before->handle == handle) {
					before->at = row;
					before->ret = before->ret && ret ? ret : 0;
				} else {
					code = add_eviction(p, row, handle, ret, len);
				}
			}
			if (code)
				return code;
		}
	}
	return 0;
}

static int evict(void *context, uint64_t handle)
{
	struct shrinking *s = context;
	struct player *p = s->p;
	if (s->diverged || s->done == s->evictions_len) {
		s->diverged = true;
		return -EEXIST;
	}
	struct eviction wanted = p->evictions[s->done];
	uint64_t value = zc_map_get(&s->run->live, wanted.handle);
	if (handle != (value ? p->backend->handle_of(s->run->model, ref_of(value))
			     : wanted.handle)) {
		s->diverged = true;
		return -EEXIST;
	}
	s->done++;
	uint64_t from = s->played;
	s->played = wanted.at + 1;
	if (play(p, from, s->played) || s->run->stopped)
		return ZC_ABORTED;
	return wanted.ret;
}

static int play_shrink(struct player *p, uint64_t first, uint64_t last)
{
	const struct zp_columns *in = p->in;
	struct run *run = p->runs[in->pool[last]];
	if (!run || run->stopped || !run->compared)
		return play(p, first, last + 1);
	struct shrinking s = {.p = p, .run = run, .played = first, .first = first};
	if (find_evictions(p, first, last, &s.evictions_len))
		return p->code;
	int64_t ret = 0, reclaimed = 0;
	uint32_t pages = size_at(p, last);
	uint64_t number = number_at(p, last);
	int code = p->backend->shrink(run->model, pages ? pages : 1, evict, &s, &ret, &reclaimed);
	if (p->code)
		return p->code;
	if (code) {
		if (!run->stopped && stop(p, run, "shrink", number, code))
			return p->code;
		return play(p, s.played, last + 1);
	}
	int64_t begun = s.played > first ? end_at(p, s.played - 1) : begin_at(p, last);
	point(p, run, begun, NO_TOTAL, number);
	if (play(p, s.played, last))
		return p->code;
	run->result.shrinks_diverged += s.diverged || s.done < s.evictions_len;
	struct zp_agreement *shrinks = &run->result.shrinks;
	shrinks->compared++;
	if (ret == in->ret[last])
		shrinks->equal++;
	else if (!*shrinks->first)
		snprintf(shrinks->first, ZP_FIRST,
			 "row %" PRIu64 ": shrink returned %d, model: %" PRId64, number,
			 in->ret[last], ret);
	point(p, run, end_at(p, last), total_at(p, last), number);
	return 0;
}

/* Give up waiting for frees of handles given out again in rows under ``before``. */
static int settle(struct player *p, uint64_t before, int64_t now_ns)
{
	for (uint32_t i = 0; i < p->met_len; i++) {
		struct run *run = p->met[i];
		for (struct leaving *old = run->leaving_oldest, *next; old; old = next) {
			next = old->newer;
			if (old->row >= before)
				continue;
			struct leaving copy = *old;
			leave(run, old);
			if (run->stopped)
				continue;
			int code = drop(p, run, &copy);
			if (p->code)
				return p->code;
			if (code && stop(p, run, "reissue", copy.row, code))
				return p->code;
			point(p, run, now_ns, NO_TOTAL, copy.row);
		}
	}
	return 0;
}

/* -- batches -------------------------------------------------------------------------------- */

static int meet(struct player *p, uint32_t number)
{
	struct run *run = calloc(1, sizeof(*run));
	if (!run)
		return fail(p, ZC_NO_MEMORY, 0, ZP_OTHER, 0);
	p->met[p->met_len++] = run;
	run->result.pool = number;
	run->recorded_total = NO_TOTAL;
	run->compared = p->options.compared[number];
	run->more_bytes = p->options.more_bytes[number];
	run->compacts = p->options.compacts[number] &&
			(p->backend->compact || p->backend->compact_page);
	const struct zc_config *config = run->compacts ? &p->options.recorded : &p->config;
	run->cpus = run->compacts && p->backend->set_cpu ? config->cpus : 0;
	zc_slab_init(&run->leaving_slab, sizeof(struct leaving));
	if (p->backend->create(config, &run->model) || zc_map_init(&run->live) ||
	    zc_map_init(&run->begun) || zc_map_init(&run->refused) ||
	    zc_map_init(&run->leaving) || zc_map_init(&run->failed) || zc_map_init(&run->pages))
		return fail(p, ZC_NO_MEMORY, 0, ZP_OTHER, 0);
	run->near_peak = calloc(p->backend->stats_len(run->model), sizeof(int64_t));
	if (!run->near_peak)
		return fail(p, ZC_NO_MEMORY, 0, ZP_OTHER, 0);
	p->runs[number] = run;
	return 0;
}

/*
 * The parts of survey(), each a pass over few columns of some rows. Passes are branchless where
 * mallocs and frees, which nobody can foretell, would take different ways.
 */

static bool count_ops(const struct zp_columns *in, uint64_t row, uint64_t stop_at,
		      uint64_t counts[ZP_CODES])
{
	const int8_t *op = in->op;
	int8_t negative = 0;
	for (; row < stop_at; row++) {
		counts[op[row] & (ZP_CODES - 1)]++;
		negative |= op[row];
	}
	return negative >= 0;
}

static void note_cpus(const struct zp_columns *in, uint64_t row, uint64_t stop_at, uint8_t *cpus)
{
	const uint16_t *cpu = in->cpu;
	uint16_t first = cpu[row], others = 0;
	for (uint64_t at = row; at < stop_at; at++)
		others |= cpu[at] ^ first;
	for (stop_at = others ? stop_at : row + 1; row < stop_at; row++)
		cpus[cpu[row] >> 3] |= (uint8_t)(1u << (cpu[row] & 7));
}

/* Entry of the first and return of the last driven row; ``all`` of them may be. */
static inline ZC_ALWAYS_INLINE void note_span(struct player *p, uint64_t row, uint64_t stop_at,
					      bool all)
{
	int64_t first = p->result.first_ns, last = p->result.last_ns;
	for (; row < stop_at; row++) {
		bool driven = all || is_driven(kind_at(p, row));
		int64_t ts = begin_at(p, row), end = ts + p->in->dur_ns[row];
		int64_t begun = driven ? ts : INT64_MAX, ended = driven ? end : INT64_MIN;
		first = begun < first ? begun : first;
		last = ended > last ? ended : last;
	}
	p->result.first_ns = first;
	p->result.last_ns = last;
}

static int note_pools(struct player *p, uint64_t row, uint64_t stop_at)
{
	const uint8_t *pool = p->in->pool;
	uint8_t first = pool[row], others = 0;
	for (uint64_t at = row; at < stop_at; at++)
		others |= pool[at] ^ first;
	if (!others && p->runs[first])
		return 0;
	for (; row < stop_at; row++)
		if (ZC_UNLIKELY(!p->runs[pool[row]]) && is_driven(kind_at(p, row)) &&
		    meet(p, pool[row]))
			return p->code;
	return 0;
}

/* The first row that cannot have happened, or ``stop_at``. */
static uint64_t find_impossible(const struct player *p, uint64_t row, uint64_t stop_at)
{
	while (row < stop_at && !is_impossible(p, row, kind_at(p, row)))
		row++;
	return row;
}

/* Note in the time series how many calls had returned by the moments before each row's return. */
static void count_until(struct player *p, uint64_t row, uint64_t stop_at, uint64_t calls)
{
	const struct zp_options *o = &p->options;
	for (; row < stop_at; row++) {
		enum zp_kind kind = kind_at(p, row);
		if (!is_wanted(p, row, kind))
			continue;
		int64_t end = end_at(p, row);
		p->row_clock = end > p->row_clock ? end : p->row_clock;
		while (p->calls_reached < o->moments_len &&
		       o->moments[p->calls_reached] < p->row_clock)
			p->series_calls[p->calls_reached++] = calls;
		calls += is_driven(kind);
	}
}

/*
 * Look over rows before they are played: refuse calls that cannot have happened, count, meet new
 * pools. Sets the last row that is wanted.
 */
static int survey(struct player *p, uint64_t row, uint64_t stop_at, int64_t *last_wanted)
{
	const struct zp_columns *in = p->in;
	struct zp_result *result = &p->result;
	uint64_t counts[ZP_CODES] = {0}, calls = 0;
	if (!count_ops(in, row, stop_at, counts))
		return fail(p, ZP_BAD_OP, number_at(p, row), ZP_OTHER, 0);
	for (uint32_t code = 0; code < ZP_CODES; code++) {
		enum zp_kind kind = p->options.kind_of[code];
		if ((kind == ZP_SHRINK || kind == ZP_COMPACT) && counts[code] && !p->options.surveyed)
			return fail(p, ZP_SURVEY, 0, kind, 0);
		result->counts[code] += counts[code];
		calls += is_driven(kind) ? counts[code] : 0;
	}
	if (p->options.moments_len)
		count_until(p, row, stop_at, result->calls);
	result->calls += calls;
	result->rows += stop_at - row;
	note_cpus(in, row, stop_at, result->cpus);
	if (calls == stop_at - row)
		note_span(p, row, stop_at, true);
	else
		note_span(p, row, stop_at, false);
	for (uint64_t at = stop_at; at-- > row;)
		if (is_wanted(p, at, kind_at(p, at))) {
			*last_wanted = (int64_t)at;
			break;
		}
	return note_pools(p, row, stop_at);
}

static bool is_far(const struct zp_columns *in)
{
	uint64_t far = 0;
	for (uint64_t row = 0; row < in->rows; row++)
		far |= (uint64_t)in->ts_ns[row] + (uint64_t)LARGEST_NS;
	return far >> 63;
}

/* Whether the spans are rows of the batch, ascending and apart. */
static bool spans_fit(const struct zp_columns *in)
{
	uint64_t from = 0;
	for (uint64_t i = 0; i < in->spans_len; i++) {
		uint64_t first = in->spans[2 * i], last = in->spans[2 * i + 1];
		if (first < from || last < first || last >= in->rows)
			return false;
		from = last + 1;
	}
	return !in->spans_len || in->tid;
}

static int play_batch(struct player *p)
{
	const struct zp_columns *in = p->in;
	uint64_t played = 0;
	for (uint64_t i = 0; i < in->spans_len && !p->code; i++) {
		uint64_t first = in->spans[2 * i], last = in->spans[2 * i + 1];
		if (!play(p, played, first))
			play_shrink(p, first, last);
		played = last + 1;
	}
	if (!p->code)
		play(p, played, in->rows);
	if (p->code != ZP_UNKNOWN && p->code != ZP_REISSUED)
		return p->code;
	/* What cannot have happened at all is the batch's first fault. */
	uint64_t impossible = find_impossible(p, 0, in->rows);
	return impossible < in->rows ? refuse_row(p, impossible) : p->code;
}

/* Play one batch. After any code but 0 the player can only be destroyed. */
ZC_API int zp_feed(struct player *p, const struct zp_columns *columns)
{
	if (p->code)
		return p->code;
	p->in = columns;
	int64_t last_wanted = -1;
	p->far = is_far(columns);
	if (!spans_fit(columns))
		return fail(p, ZP_BAD_OP, columns->first_row, ZP_SHRINK, 0);
	if (columns->rows && survey(p, 0, columns->rows, &last_wanted))
		return p->code;
	if (play_batch(p))
		return p->code;
	if (last_wanted < 0)
		return 0;
	uint64_t number = number_at(p, (uint64_t)last_wanted);
	uint64_t before = number > p->options.patience_rows ? number - p->options.patience_rows : 0;
	if (settle(p, before, end_at(p, (uint64_t)last_wanted)))
		return p->code;
	while (p->state_reached < p->options.moments_len &&
	       p->options.moments[p->state_reached] < p->row_clock)
		p->series[p->state_reached++] = p->latest;
	return 0;
}

/* End the replay; the last call returned at ``last_ns``. */
ZC_API int zp_finish(struct player *p, int64_t last_ns)
{
	if (p->code)
		return p->code;
	uint64_t reached = p->state_reached;
	p->state_reached = p->options.moments_len; /* the rest of the series is the end's */
	if (settle(p, UINT64_MAX, last_ns))
		return p->code;
	for (; reached < p->options.moments_len; reached++)
		p->series[reached] = p->latest;
	for (; p->calls_reached < p->options.moments_len; p->calls_reached++)
		p->series_calls[p->calls_reached] = p->result.calls;
	int64_t end = last_ns > p->clock ? last_ns : p->clock;
	const int64_t levels[3] = {p->latest.objects, p->latest.stored, p->latest.held};
	for (int i = 0; i < 3; i++) {
		wide area = (wide)levels[i] * end - p->moments_of[i];
		p->result.area_low[i] = (uint64_t)area;
		p->result.area_high[i] = (int64_t)(area >> 64);
	}
	p->result.latest = p->latest;
	p->result.pools = p->met_len;
	return 0;
}

/* -- what came out -------------------------------------------------------------------------- */

ZC_API void zp_error_of(const struct player *p, struct zp_error *error)
{
	*error = p->error;
}

ZC_API const struct zp_result *zp_result_of(const struct player *p)
{
	return &p->result;
}

ZC_API const struct zp_pool_result *zp_pool_of(const struct player *p, uint32_t at)
{
	return &p->met[at]->result;
}

ZC_API struct zc_pool *zp_model_of(const struct player *p, uint32_t at)
{
	return p->met[at]->model;
}

ZC_API const int64_t *zp_near_peak_of(const struct player *p, uint32_t at)
{
	return p->met[at]->near_peak;
}

/*
 * The next failed malloc's return value from a position on; or 0. *count has how often, and in the
 * upper 16 bits the rank of the return value among those met.
 */
ZC_API int32_t zp_failed_of(const struct player *p, uint32_t at, uint64_t *position,
			    uint64_t *count)
{
	const struct zc_map *failed = &p->met[at]->failed;
	for (; *position < (failed->mask + 1) * ZC_BUCKET; ++*position) {
		const struct zc_slot *slot = &failed->slots[*position];
		if (slot->value) {
			++*position;
			*count = slot->value;
			return (int32_t)(uint32_t)slot->key;
		}
	}
	return 0;
}

ZC_API const struct zp_point *zp_series_of(const struct player *p, const uint64_t **calls)
{
	*calls = p->series_calls;
	return p->series;
}

ZC_API const struct zp_timing *zp_timing_of(const struct player *p)
{
	return p->timing;
}

/* Slots scanned and tree levels of pool number ``at``. */
ZC_API void zp_work_of(const struct player *p, uint32_t at, uint64_t work[2])
{
	work[0] = p->met[at]->model->slots_scanned;
	work[1] = p->met[at]->model->tree_levels;
}

/* -- life ----------------------------------------------------------------------------------- */

ZC_API void zp_destroy(struct player *p)
{
	for (uint32_t i = 0; i < p->met_len; i++) {
		struct run *run = p->met[i];
		zc_map_clear(&run->live);
		zc_map_clear(&run->begun);
		zc_map_clear(&run->refused);
		zc_map_clear(&run->leaving);
		zc_map_clear(&run->failed);
		zc_map_clear(&run->pages);
		zc_slab_clear(&run->leaving_slab);
		if (run->model)
			p->backend->destroy(run->model);
		free(run->near_peak);
		free(run);
	}
	free(p->series);
	free(p->series_calls);
	free(p->evictions);
	free(p->timing);
	free(p);
}

/* ``options.moments`` must stay where it is. NULL for an impossible backend or no memory. */
ZC_API struct player *zp_create(const char *backend, const struct zc_config *config,
				const struct zp_options *options)
{
	struct player *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->backend = zc_backend_named(backend);
	p->config = *config;
	p->config.by_ref = 1;
	p->options = *options;
	p->kernel_total = NO_TOTAL;
	p->clock = p->row_clock = options->first_ns;
	p->latest = (struct zp_point){.end_ns = options->first_ns, .kernel = -1};
	for (int i = 0; i < 3; i++)
		p->result.peaks[i].end_ns = options->first_ns;
	p->result.first_ns = INT64_MAX;
	p->result.last_ns = INT64_MIN;
	uint64_t moments = options->moments_len;
	if (moments) {
		p->series = calloc(moments, sizeof(*p->series));
		p->series_calls = calloc(moments, sizeof(*p->series_calls));
	}
	if (options->timing && (p->timing = calloc(1, sizeof(*p->timing))))
		calibrate(p->timing);
	if (!p->backend || (options->timing && !p->timing) || (moments && (!p->series || !p->series_calls))) {
		zp_destroy(p);
		return NULL;
	}
	return p;
}
