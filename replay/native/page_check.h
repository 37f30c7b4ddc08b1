/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Searches for an order of a zbud pool's recorded calls that gives the recorded handles.
 *
 * The rules are those of allocator/zbud/steps.py and replay/validate/zbud_checker.py, which are the
 * specification: every count and every refusal is theirs. Calls are those of check.h, whose block is
 * the page's number, slot 0 for its first object and 1 for its last, and size the chunks of a malloc
 * and, from bit 32 on, where in the page the handle is. Where it is known when a call held the lock, ts
 * and end are that moment, and ``began`` is when it began. Structures here are mirrored in
 * replay/validate/zbud_native.py. One pool is used by one thread at a time.
 */
#ifndef ZTRACE_PAGE_CHECK_H
#define ZTRACE_PAGE_CHECK_H

#include "check.h"

/* What a call does: PageKind of steps.py. */
enum { ZV_PAGE_MALLOC, ZV_PAGE_FREE, ZV_PAGE_NO_PAGE, ZV_PAGE_RECLAIM, ZV_PAGE_PUT_BACK, ZV_PAGE_KINDS };

/* PageStep of steps.py. */
enum { ZV_STEP_WHOLE, ZV_STEP_LOOK, ZV_STEP_GROW };

/* What the model would do instead: PageState.answer() of steps.py. */
enum {
	ZV_SAYS_NEW_PAGE,
	ZV_SAYS_PAGE,
	ZV_SAYS_NO_OBJECT,
	ZV_SAYS_NO_PAGE,
	ZV_SAYS_NOT_RECLAIMED,
	ZV_SAYS_NOT_OLDEST
};

/* PoolTally of zbud_checker.py. */
struct zv_page_tally {
	uint64_t calls, explained, groups, overlapping, largest_group, dead_ends, cut_short,
		undecided;
};

/* A pool's size as a call read it, and what it can have been, in pages. */
struct zv_reading {
	int64_t row, pages, low, high;
};

/* What the last call found; the readings are valid until the next one. */
struct zv_pages_found {
	struct zv_page_tally tally;
	const struct zv_reading *readings;
	uint64_t readings_len;
	uint64_t failed; /* calls that nothing explains, of which the first is told */
	struct zv_call first;
	const struct zv_call *around; /* the group that it was in, and the longest order of its steps */
	const struct zv_tried *tried;
	uint64_t around_len, tried_len;
	int64_t page; /* that the model would have given, of ZV_SAYS_PAGE */
	uint32_t says, cause;
};

struct zv_pages;

/*
 * A pool that began empty; NULL for an impossible size of pages or if there is no memory. ``locked``:
 * it is known when calls held the lock.
 */
ZC_API struct zv_pages *zv_pages_create(uint32_t page_bytes, int locked);
ZC_API void zv_pages_destroy(struct zv_pages *pages);

/*
 * Check calls sorted by (ts, row), which no call still to come can overlap. ``sizes``: of the pool
 * in pages, as each returned, or -1. 0, ZC_NO_MEMORY, or a code of check.h.
 */
ZC_API int zv_pages_check(struct zv_pages *pages, const struct zv_call *calls, const int64_t *sizes,
			  uint64_t count);

ZC_API const struct zv_pages_found *zv_pages_found_of(const struct zv_pages *pages);

#endif
