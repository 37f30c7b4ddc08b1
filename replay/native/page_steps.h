/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A pool of zbud with what the order of overlapping calls leaves open about it, and the steps that
 * recorded calls may make in it: allocator/zbud/steps.py in C, whose names and comments hold here
 * too.
 */
#ifndef ZTRACE_PAGE_STEPS_H
#define ZTRACE_PAGE_STEPS_H

#include "page_check.h"
#include "search.h"
#include "zbud/zbud.h"

struct open;

/* A page that the pool has or had. ``pushed``: when it was put on its list, by our count. */
struct seen_page {
	struct page page;
	bool present, is_used, is_touched;
	int64_t pushed, used_ts, used_end;
	int64_t given[2]; /* when the mallocs of its objects returned */
	size_t span; /* where it may be among those of the group's pages */
	struct open *open; /* what is not decided about its place, or NULL */
};

/*
 * An order: segments one after the other, each a list's number, a count and so many pages, oldest
 * first. Pages are pointers as numbers.
 */
typedef VECTOR(uint64_t) zv_order_of_pages;

typedef VECTOR(struct seen_page *) zv_seen_pages;

struct page_state {
	struct zv_escape *escape;
	uint32_t page_bytes, chunk_bytes;
	uint64_t count; /* pages that the pool has */
	/*
	 * Of each page with the one that is older on its list. Which pages there are and in which
	 * lists is fixed by the calls that were made, so that this tells how pages lie.
	 */
	struct zv_hash neighbours;
	int64_t clock;
	bool locked; /* it is known when calls held the lock */
	int64_t full_until[CHUNKS]; /* by chunks: when no page had room for so many, last */
	struct lists lists;
	struct zc_map pages; /* number -> page, also of those that are gone */
	struct zc_slab slab;
	VECTOR(struct seen_page *) all;
	zv_seen_pages group; /* those of the group's calls */
	/* arrangements that a group may begin with: where each begins, and the end of the last */
	VECTOR(size_t) beginnings;
	zv_order_of_pages arrangements;
	uint64_t beginning;
	VECTOR(struct seen_page *) sorted; /* of page_order() */
	zv_order_of_pages order;
};

/* What of a pool depends on the order of calls unseen: followed by an order so long. */
struct page_hidden {
	uint64_t beginning, len;
};

extern const struct zv_model zv_page_model;

int page_init(struct page_state *state, struct zv_escape *escape, uint32_t page_bytes, bool locked);
void page_clear(struct page_state *state);

/* The page of a number, or NULL where none was ever named. */
static inline struct seen_page *page_named(const struct page_state *state, int64_t number)
{
	return (struct seen_page *)(uintptr_t)zc_map_get(&state->pages, (uint64_t)number);
}

/* The same, made if none was. */
struct seen_page *page_for(struct page_state *state, int64_t number);

static inline uint32_t chunks_of(const struct zv_call *call)
{
	return (uint32_t)call->size;
}

static inline uint32_t offset_of(const struct zv_call *call)
{
	return (uint32_t)((uint64_t)call->size >> 32);
}

/* The pages that calls are about, or only those that a malloc is in, each once, by number. */
void page_gather(struct page_state *state, const struct zv_call *calls, size_t count,
		 bool mallocs_only, zv_seen_pages *into);

/* What a call may do next, at most two steps, each of them all that is done at once. */
uint32_t page_options(const struct page_state *state, const struct zv_call *call, uint8_t made,
		      uint8_t options[2]);
/* Make a step that is not undone; whether the answer is the record's. */
bool page_do(struct page_state *state, const struct zv_call *call, uint8_t step);
/* The same, undone at once where the answer is not the record's. */
bool page_try(struct page_state *state, const struct zv_call *call, uint8_t step);
/* Make the pool agree with a call that it cannot explain. */
void page_force(struct page_state *state, const struct zv_call *call);
/* Add to an order how some pages lie on their lists, by list. */
void page_order(struct page_state *state, struct seen_page *const *pages, size_t count,
		zv_order_of_pages *into);
/* Put pages that are neighbours on their lists into the given order. */
void page_arrange(struct page_state *state, const uint64_t *order, size_t len);

#endif
