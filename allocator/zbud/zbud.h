/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pages of zbud and the lists that malloc looks through, and their rules: what the pool (zbud.c) and
 * the validation of recordings (replay/native/page_steps.c) both do. Page and lists of model.py.
 */
#ifndef ZTRACE_ZBUD_H
#define ZTRACE_ZBUD_H

#include "core.h"

enum { PAGE_CHUNKS = 64, HEADER_CHUNKS = 1, CHUNKS = PAGE_CHUNKS - HEADER_CHUNKS, FULL = 0 };

struct page { /* in one cache line */
	_Alignas(64) uint64_t number;
	uint8_t first, last; /* chunks used at each end, 0 = free */
	bool under_reclaim;
	uint32_t id;
	struct page *older, *newer; /* in its list by free chunks */
	struct page *lru_older, *lru_newer; /* least recently used page first */
};

struct list {
	struct page *newest;
	uint64_t len;
};

/* By free chunks; bit n of filled: list n is not empty. */
struct lists {
	struct list list[CHUNKS];
	uint64_t filled;
};

static inline uint32_t list_number(const struct page *page)
{
	if (page->first && page->last)
		return FULL;
	return CHUNKS - page->first - page->last;
}

/* List a page as the one that is newer than ``older``, of the same list; NULL: as the oldest. */
static inline void insert(struct lists *lists, struct page *page, struct page *older,
			  struct page *newer)
{
	uint32_t number = list_number(page);
	struct list *list = &lists->list[number];
	page->older = older;
	page->newer = newer;
	if (older)
		older->newer = page;
	if (newer)
		newer->older = page;
	else
		list->newest = page;
	list->len++;
	lists->filled |= UINT64_C(1) << number;
}

static inline void push(struct lists *lists, struct page *page)
{
	insert(lists, page, lists->list[list_number(page)].newest, NULL);
}

static inline void unlink_page(struct lists *lists, struct page *page)
{
	uint32_t number = list_number(page);
	struct list *list = &lists->list[number];
	if (page->newer)
		page->newer->older = page->older;
	else
		list->newest = page->older;
	if (page->older)
		page->older->newer = page->newer;
	if (!--list->len)
		lists->filled &= ~(UINT64_C(1) << number);
}

/* The page that a malloc of ``chunks`` takes: the newest of the first list that fits; or NULL. */
static inline struct page *choose(const struct lists *lists, uint32_t chunks)
{
	uint64_t fitting = lists->filled >> chunks;
	return fitting ? lists->list[chunks + (uint32_t)__builtin_ctzll(fitting)].newest : NULL;
}

#endif
