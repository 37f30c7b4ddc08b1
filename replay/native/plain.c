/* SPDX-License-Identifier: GPL-2.0-only */
/* The rows that nearly all are, played together; and the order in which all rows are played. */
#include "plain.h"

#include "columns.h"
#include "figures.h"
#include "lives.h"
#include "places.h"
#include "rows.h"

/* Rows that are played together; what they will touch is brought nearer in time: struct ahead. */
enum { PIECE = 4096, RING = 16 };
/* How much in advance: entries by rows, the others by rows that name an object. */
enum { AHEAD_ENTRY = 32, AHEAD_NEXT = 16, AHEAD_OBJECT = 6, AHEAD_MORE = 2 };
/* In so long a time a piece's changes of stored bytes, times moments after its start, overflow not. */
static const int64_t LONGEST_NS = INT64_MAX / PIECE / ZC_MOST_PAGE_BYTES;

struct object {
	struct zc_pool *model; /* NULL: none */
	uint64_t ref;
};

/* -- what rows will touch ------------------------------------------------------------------- */

/*
 * Brought nearer in four steps: the bucket of the recorded handle's entry, the next one if that is
 * full, then what leads to the model's object, then the object. Mallocs need the first two only, so
 * the rows of a piece that name an object are listed. An entry that is not where it belongs is not
 * worth a search.
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

static inline ZC_ALWAYS_INLINE void bring_next(const struct player *p, uint64_t row)
{
	const struct run *run = p->runs[p->in->pool[row]];
	if (ZC_LIKELY(run != NULL))
		zc_map_prefetch_next(&run->live, p->in->handle[row]);
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
 * this kind changes nothing before zp_play_row() gets it.
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

static struct zp_point point_of(const struct player *p, struct figures f)
{
	return (struct zp_point){f.clock, f.objects, f.stored, p->held, p->total, p->kernel_total};
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
	p->latest = point_of(p, f);
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
	raise_peaks(p, point_of(p, f));
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
		zp_compare_total(p, run, total, number_at(p, row));
	f->objects += objects;
	f->stored += stored;
	f->moments_of[0] += objects * (t - f->since);
	f->moments_of[1] += stored * (t - f->since);
	/* What goes down makes no peak. */
	if (ZC_UNLIKELY(moved || (objects > 0 && ((f->objects > peaks[0].objects) |
						  (f->stored > peaks[1].stored)))))
		note_peaks(p, *f);
}

static bool is_plain(const struct run *run)
{
	return !run->stopped && !run->cpus && !run->begun.len && !run->leaving.len;
}

/* A call that ended the model: nothing of it counts. */
static ZC_COLD struct figures end_plain(struct player *p, struct run *run, struct figures f,
					uint64_t row, enum zp_kind kind, int code)
{
	put_down(p, f);
	zp_end_row(p, run, row, kind, code);
	return take_up(p);
}

/* A malloc that the model refused or ended with, or whose handle is in use. */
static ZC_COLD struct figures end_malloc(struct player *p, struct run *run, struct figures f,
					 uint64_t row, int code, int64_t size, uint64_t given)
{
	put_down(p, f);
	code = zp_note_malloc(p, run, code, size, p->in->handle[row], given, number_at(p, row),
			      end_at(p, row));
	zp_end_row(p, run, row, ZP_MALLOC, code);
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
	if (ZC_UNLIKELY(run->tells != ZP_TELLS_NOTHING) && zp_place_malloc(p, run, row))
		return;
	point_plain(p, run, f, row, 1, size);
}

/* False: the object is not known. */
static inline ZC_ALWAYS_INLINE bool free_plain(struct player *p, struct run *run, struct figures *f,
					       uint64_t row, uint32_t hint)
{
	struct zc_slot *slot = find_live(run, p->in->handle[row], hint);
	if (ZC_UNLIKELY(!slot))
		return false;
	uint64_t value = slot->value;
	zc_map_remove_at(&run->live, slot);
	if (ZC_UNLIKELY(run->tells != ZP_TELLS_NOTHING))
		zp_leave_place(p, run, ref_of(value));
	int code = p->backend->free(run->model, ref_of(value));
	if (ZC_LIKELY(!code)) {
		point_plain(p, run, f, row, -1, -size_of(value));
		return true;
	}
	*f = end_plain(p, run, *f, row, ZP_FREE, code);
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
	if (ZC_UNLIKELY(code))
		*f = end_plain(p, run, *f, row, kind, code);
	return true;
}

/* Play rows one by one: where durations are measured, or nothing has a handle. */
static int play_rows(struct player *p, uint64_t row, uint64_t stop_at)
{
	for (; row < stop_at && !p->code; row++) {
		if (ZC_LIKELY(p->in->handle != NULL))
			bring_entry(p, least(row + AHEAD_ENTRY, stop_at - 1));
		if (ZC_UNLIKELY(is_impossible(p, row, kind_at(p, row))))
			return zp_refuse_row(p, row);
		zp_play_row(p, row, 0);
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
		bring_next(p, least(row + AHEAD_NEXT, stop_at - 1));
		enum zp_kind kind = kind_at(p, row);
		struct run *run = p->runs[p->in->pool[row]];
		bool plain = ZC_LIKELY(run != NULL) && run->plain && f.settled;
		uint32_t hint = 0;
		if (kind == ZP_MALLOC) {
			uint32_t size = size_at(p, row);
			if (ZC_UNLIKELY(p->in->ret[row] < 0))
				plain = false;
			else if (ZC_UNLIKELY(!fits(p, size) || !has_handle(p, row)))
				return zp_refuse_row(p, row);
			if (ZC_LIKELY(plain))
				malloc_plain(p, run, &f, row, size);
		} else if (is_one_of(NAMING, kind)) {
			hint = next_use(p, &ahead);
			if (ZC_UNLIKELY(!has_handle(p, row)))
				return zp_refuse_row(p, row);
			if (kind == ZP_FREE)
				plain = plain && free_plain(p, run, &f, row, hint);
			else
				plain = plain && use_plain(p, run, &f, row, kind, hint);
		} else {
			plain = kind == ZP_OTHER && total_at(p, row) < 0;
		}
		if (ZC_UNLIKELY(!plain)) {
			put_down(p, f);
			zp_play_row(p, row, hint);
			f = take_up(p);
			if (run)
				run->plain = is_plain(run);
		}
	}
	put_down(p, f);
	return p->code;
}

int zp_play(struct player *p, uint64_t row, uint64_t stop_at)
{
	if (p->timing || !p->in->handle)
		return play_rows(p, row, stop_at);
	for (uint32_t i = 0; i < p->met_len; i++)
		p->met[i]->plain = is_plain(p->met[i]);
	for (; row < stop_at && !p->code; row += PIECE)
		play_piece(p, row, least(row + PIECE, stop_at), stop_at);
	return p->code;
}
