/* SPDX-License-Identifier: GPL-2.0-only */
#include "page_steps.h"

#include <stdlib.h>
#include <string.h>

enum { NODES = 20000 };

/* One step's undo: the page that the step works on, before it. */
struct saved {
	struct seen_page *page; /* NULL: nothing to take back */
	struct page *older, *newer;
	int64_t pushed, used_ts, used_end, given[2];
	uint8_t first, last;
	bool under_reclaim, present, is_used;
};

static bool is_listed(const struct seen_page *page)
{
	return page->present && !page->page.under_reclaim;
}

struct seen_page *page_for(struct page_state *t, int64_t number)
{
	struct seen_page *page = page_named(t, number);
	if (page)
		return page;
	uint32_t id;
	page = zc_slab_get(&t->slab, &id);
	if (!page)
		zv_give_up(t->escape, ZC_NO_MEMORY);
	*page = (struct seen_page){.page = {.number = (uint64_t)number, .id = id},
				   .given = {INT64_MIN, INT64_MIN}};
	zv_put_key(t->escape, &t->pages, (uint64_t)number, (uintptr_t)page);
	*PUSH(t->escape, t->all) = page;
	return page;
}

/* -- lists -------------------------------------------------------------------------------------- */

static void toggle(struct page_state *t, const struct page *page)
{
	if (page)
		zv_hash_toggle(&t->neighbours, page->number,
			       page->older ? page->older->number + 1 : 0);
}

static void list_between(struct page_state *t, struct page *page, struct page *older,
			 struct page *newer)
{
	toggle(t, newer);
	insert(&t->lists, page, older, newer);
	toggle(t, page);
	toggle(t, newer);
}

static void list_newest(struct page_state *t, struct page *page)
{
	list_between(t, page, t->lists.list[list_number(page)].newest, NULL);
}

static void take_off(struct page_state *t, struct page *page)
{
	struct page *newer = page->newer;
	toggle(t, newer);
	toggle(t, page);
	unlink_page(&t->lists, page);
	toggle(t, newer);
}

/* -- what the search asks ----------------------------------------------------------------------- */

static int compare_numbers(const void *a, const void *b)
{
	uint64_t one = (*(struct seen_page *const *)a)->page.number;
	uint64_t other = (*(struct seen_page *const *)b)->page.number;
	return (one > other) - (one < other);
}

void page_gather(struct page_state *t, const struct zv_call *calls, size_t count,
		 bool mallocs_only, zv_seen_pages *into)
{
	into->len = 0;
	for (size_t i = 0; i < count; i++) {
		if (calls[i].kind == ZV_PAGE_NO_PAGE ||
		    (mallocs_only && calls[i].kind != ZV_PAGE_MALLOC))
			continue;
		struct seen_page *page = page_for(t, calls[i].block);
		if (!page->is_touched)
			*PUSH(t->escape, *into) = page;
		page->is_touched = true;
	}
	for (size_t i = 0; i < into->len; i++)
		into->at[i]->is_touched = false;
	if (into->len)
		qsort(into->at, into->len, sizeof(*into->at), compare_numbers);
}

static void begin(void *state, const struct zv_call *calls, size_t count)
{
	struct page_state *t = state;
	t->beginning = 0;
	page_gather(t, calls, count, false, &t->group);
}

static void hidden(void *state, zv_bytes *into)
{
	struct page_state *t = state;
	t->order.len = 0;
	page_order(t, t->group.at, t->group.len, &t->order);
	struct page_hidden hidden = {t->beginning, t->order.len};
	zv_add(t->escape, into, &hidden, sizeof(hidden));
	zv_add(t->escape, into, t->order.at, t->order.len * sizeof(*t->order.at));
}

static void key(void *state, zv_bytes *into)
{
	const struct page_state *t = state;
	zv_add(t->escape, into, &t->beginning, sizeof(t->beginning));
	zv_add(t->escape, into, &t->neighbours, sizeof(t->neighbours));
	if (t->locked)
		zv_add(t->escape, into, t->full_until, sizeof(t->full_until));
}

static void install(void *state, const uint8_t *from)
{
	struct page_state *t = state;
	struct page_hidden hidden;
	memcpy(&hidden, from, sizeof(hidden));
	t->beginning = hidden.beginning;
	const size_t *at = t->beginnings.at + t->beginning;
	page_arrange(t, t->arrangements.at + at[0], at[1] - at[0]);
}

/* Whether there is an object at the call's handle that its caller can know of. */
static bool holds(const struct page_state *t, const struct seen_page *page,
		  const struct zv_call *call)
{
	if (page->given[call->slot] >= call->began)
		return false;
	if (!call->slot)
		return page->page.first;
	return page->page.last &&
	       offset_of(call) == t->chunk_bytes * (PAGE_CHUNKS - (uint32_t)page->page.last);
}

/* Whether no other page that is in order of use is sure to have been used before. */
static bool may_be_oldest(const struct page_state *t, const struct seen_page *page)
{
	for (size_t i = 0; i < t->all.len; i++) {
		const struct seen_page *other = t->all.at[i];
		if (other != page && is_listed(other) && other->used_end < page->used_ts)
			return false;
	}
	return true;
}

uint32_t page_options(const struct page_state *t, const struct zv_call *call, uint8_t made,
		      uint8_t options[2])
{
	uint32_t len = 0;
	if (call->kind == ZV_PAGE_NO_PAGE) {
		options[0] = ZV_STEP_WHOLE;
		return !choose(&t->lists, chunks_of(call));
	}
	const struct seen_page *page = page_named(t, call->block);
	bool present = page && page->present;
	if (call->kind == ZV_PAGE_MALLOC) {
		if (!present && !call->slot)
			options[len++] = ZV_STEP_GROW;
		if (made)
			return len;
		if (len && t->locked && t->full_until[chunks_of(call)] >= call->began)
			return len; /* it had looked before */
		const struct page *chosen = choose(&t->lists, chunks_of(call));
		if (!chosen) {
			if (!call->slot)
				options[len++] = ZV_STEP_LOOK;
			return call->slot ? 0 : len;
		}
		options[0] = ZV_STEP_WHOLE;
		return present && chosen == &page->page && !call->slot == !page->page.first;
	}
	options[0] = ZV_STEP_WHOLE;
	if (!present)
		return 0;
	if (call->kind == ZV_PAGE_FREE)
		return holds(t, page, call);
	if (call->kind == ZV_PAGE_RECLAIM)
		return !page->page.under_reclaim && may_be_oldest(t, page);
	return page->page.under_reclaim;
}

static void steps(void *state, struct zv_search *search, uint32_t number,
		  const struct zv_call *call, uint8_t made)
{
	uint8_t options[2];
	uint32_t count = page_options(state, call, made, options);
	for (uint32_t i = 0; i < count; i++)
		zv_offer(search, number, (struct zv_run){.len = 1, .steps = {options[i]}});
}

/* -- steps -------------------------------------------------------------------------------------- */

static void note_use(struct seen_page *page, const struct zv_call *call)
{
	if (!page->is_used || call->ts > page->used_ts)
		page->used_ts = call->ts;
	if (!page->is_used || call->end > page->used_end)
		page->used_end = call->end;
	page->is_used = true;
}

static void appear(struct page_state *t, struct seen_page *page)
{
	page->present = true;
	page->page.first = page->page.last = 0;
	page->page.under_reclaim = false;
	t->count++;
}

static void vanish(struct page_state *t, struct seen_page *page)
{
	page->present = false;
	t->count--;
}

/* List a page again, or give it back if it is empty. */
static void settle(struct page_state *t, struct seen_page *page)
{
	if (page->page.first || page->page.last)
		list_newest(t, &page->page);
	else
		vanish(t, page);
}

static bool malloc_in(struct page_state *t, struct seen_page *page, const struct zv_call *call,
		      uint8_t step)
{
	uint32_t chunks = chunks_of(call);
	if (step == ZV_STEP_GROW)
		appear(t, page);
	else
		take_off(t, &page->page);
	bool first = !page->page.first;
	*(first ? &page->page.first : &page->page.last) = (uint8_t)chunks;
	list_newest(t, &page->page);
	note_use(page, call);
	uint32_t given = first ? HEADER_CHUNKS * t->chunk_bytes
			       : t->page_bytes - chunks * t->chunk_bytes;
	return given == offset_of(call);
}

/* Note for which sizes there was no room until now. */
static void note_full(struct page_state *t, int64_t now)
{
	uint32_t room = t->lists.filled ? 64 - (uint32_t)__builtin_clzll(t->lists.filled) : 1;
	for (uint32_t chunks = room; chunks < CHUNKS; chunks++)
		if (t->full_until[chunks] < now)
			t->full_until[chunks] = now;
}

bool page_do(struct page_state *t, const struct zv_call *call, uint8_t step)
{
	if (t->locked)
		note_full(t, call->end);
	if (step == ZV_STEP_LOOK || call->kind == ZV_PAGE_NO_PAGE)
		return true;
	struct seen_page *page = page_for(t, call->block);
	bool agreed = true;
	switch (call->kind) {
	case ZV_PAGE_MALLOC:
		page->given[call->slot] = call->end;
		agreed = malloc_in(t, page, call, step);
		break;
	case ZV_PAGE_FREE:
		if (!page->page.under_reclaim)
			take_off(t, &page->page);
		*(call->slot ? &page->page.last : &page->page.first) = 0;
		if (!page->page.under_reclaim)
			settle(t, page);
		break;
	case ZV_PAGE_RECLAIM:
		take_off(t, &page->page);
		page->page.under_reclaim = true;
		break;
	default:
		page->page.under_reclaim = false;
		settle(t, page);
		if (page->present)
			note_use(page, call);
	}
	page->pushed = ++t->clock;
	return agreed;
}

static struct saved save(struct seen_page *page)
{
	bool listed = is_listed(page);
	return (struct saved){
		.page = page,
		.older = listed ? page->page.older : NULL,
		.newer = listed ? page->page.newer : NULL,
		.pushed = page->pushed,
		.used_ts = page->used_ts,
		.used_end = page->used_end,
		.given = {page->given[0], page->given[1]},
		.first = page->page.first,
		.last = page->page.last,
		.under_reclaim = page->page.under_reclaim,
		.present = page->present,
		.is_used = page->is_used,
	};
}

/* Steps are taken back in turn, so that a page's neighbours are those that it had. */
static void take_back(struct page_state *t, const struct saved *saved)
{
	struct seen_page *page = saved->page;
	if (!page)
		return;
	if (is_listed(page))
		take_off(t, &page->page);
	t->count += saved->present;
	t->count -= page->present;
	page->present = saved->present;
	page->page.first = saved->first;
	page->page.last = saved->last;
	page->page.under_reclaim = saved->under_reclaim;
	page->pushed = saved->pushed;
	page->used_ts = saved->used_ts;
	page->used_end = saved->used_end;
	page->given[0] = saved->given[0];
	page->given[1] = saved->given[1];
	page->is_used = saved->is_used;
	if (is_listed(page))
		list_between(t, &page->page, saved->older, saved->newer);
}

static bool act(void *state, uint32_t number, const struct zv_call *call, uint8_t step, void *undo)
{
	struct page_state *t = state;
	(void)number;
	bool changes = step != ZV_STEP_LOOK && call->kind != ZV_PAGE_NO_PAGE;
	struct saved saved = {0};
	if (changes)
		saved = save(page_for(t, call->block));
	memcpy(undo, &saved, sizeof(saved));
	return page_do(t, call, step);
}

static void undo(void *state, const void *saved)
{
	take_back(state, saved);
}

bool page_try(struct page_state *t, const struct zv_call *call, uint8_t step)
{
	struct saved saved;
	if (act(t, 0, call, step, &saved))
		return true;
	take_back(t, &saved);
	return false;
}

void page_force(struct page_state *t, const struct zv_call *call)
{
	if (call->kind == ZV_PAGE_NO_PAGE)
		return;
	struct seen_page *page = page_for(t, call->block);
	if (call->kind != ZV_PAGE_MALLOC && !page->present)
		return;
	if (!page->present)
		appear(t, page);
	else if (!page->page.under_reclaim)
		take_off(t, &page->page);
	page->page.under_reclaim = call->kind == ZV_PAGE_RECLAIM;
	if (call->kind == ZV_PAGE_MALLOC || call->kind == ZV_PAGE_FREE) {
		uint32_t chunks = call->kind == ZV_PAGE_MALLOC ? chunks_of(call) : 0;
		*(call->slot ? &page->page.last : &page->page.first) = (uint8_t)chunks;
		if (chunks)
			page->given[call->slot] = call->end;
	}
	page->pushed = ++t->clock;
	note_use(page, call);
	if (!page->page.under_reclaim)
		settle(t, page);
}

/* -- the order within lists --------------------------------------------------------------------- */

static int compare_places(const void *a, const void *b)
{
	const struct seen_page *one = *(struct seen_page *const *)a;
	const struct seen_page *other = *(struct seen_page *const *)b;
	uint32_t list = list_number(&one->page), others = list_number(&other->page);
	if (list != others)
		return list > others ? 1 : -1;
	return (one->pushed > other->pushed) - (one->pushed < other->pushed);
}

void page_order(struct page_state *t, struct seen_page *const *pages, size_t count,
		zv_order_of_pages *into)
{
	t->sorted.len = 0;
	for (size_t i = 0; i < count; i++)
		if (is_listed(pages[i]))
			*PUSH(t->escape, t->sorted) = pages[i];
	qsort(t->sorted.at, t->sorted.len, sizeof(*t->sorted.at), compare_places);
	for (size_t i = 0, end; i < t->sorted.len; i = end) {
		uint32_t list = list_number(&t->sorted.at[i]->page);
		for (end = i; end < t->sorted.len; end++)
			if (list_number(&t->sorted.at[end]->page) != list)
				break;
		*PUSH(t->escape, *into) = list;
		*PUSH(t->escape, *into) = end - i;
		for (size_t n = i; n < end; n++)
			*PUSH(t->escape, *into) = (uintptr_t)t->sorted.at[n];
	}
}

static int compare_stamps(const void *a, const void *b)
{
	int64_t one = (*(struct seen_page *const *)a)->pushed;
	int64_t other = (*(struct seen_page *const *)b)->pushed;
	return (one > other) - (one < other);
}

void page_arrange(struct page_state *t, const uint64_t *order, size_t len)
{
	for (const uint64_t *end = order + len; order < end; order += 2 + order[1]) {
		size_t count = order[1];
		t->sorted.len = 0;
		for (size_t i = 0; i < count; i++)
			*PUSH(t->escape, t->sorted) = (struct seen_page *)(uintptr_t)order[2 + i];
		if (!count)
			continue;
		qsort(t->sorted.at, count, sizeof(*t->sorted.at), compare_stamps);
		struct page *older = t->sorted.at[0]->page.older;
		struct page *newer = t->sorted.at[count - 1]->page.newer;
		int64_t *stamps = malloc(count * sizeof(*stamps));
		if (!stamps)
			zv_give_up(t->escape, ZC_NO_MEMORY);
		for (size_t i = 0; i < count; i++) {
			stamps[i] = t->sorted.at[i]->pushed;
			take_off(t, &t->sorted.at[i]->page);
		}
		for (size_t i = 0; i < count; i++) {
			struct seen_page *page = (struct seen_page *)(uintptr_t)order[2 + i];
			page->pushed = stamps[i];
			list_between(t, &page->page, older, newer);
			older = &page->page;
		}
		free(stamps);
	}
}

/* -- the state ---------------------------------------------------------------------------------- */

int page_init(struct page_state *t, struct zv_escape *escape, uint32_t page_bytes, bool locked)
{
	*t = (struct page_state){.escape = escape,
				 .page_bytes = page_bytes,
				 .locked = locked,
				 .chunk_bytes = page_bytes / PAGE_CHUNKS};
	for (uint32_t chunks = 0; chunks < CHUNKS; chunks++)
		t->full_until[chunks] = INT64_MIN;
	zc_slab_init(&t->slab, sizeof(struct seen_page));
	return zc_map_init(&t->pages);
}

void page_clear(struct page_state *t)
{
	zc_map_clear(&t->pages);
	zc_slab_clear(&t->slab);
	free(t->all.at);
	free(t->group.at);
	free(t->beginnings.at);
	free(t->arrangements.at);
	free(t->sorted.at);
	free(t->order.at);
}

static const uint32_t any_split[] = {ZV_ANY};

const struct zv_model zv_page_model = {
	.nodes = NODES,
	.splits = any_split,
	.splits_len = 1,
	.ends = 1u << ZV_STEP_WHOLE | 1u << ZV_STEP_GROW,
	.undo_bytes = sizeof(struct saved),
	.begin = begin,
	.steps = steps,
	.act = act,
	.undo = undo,
	.hidden = hidden,
	.install = install,
	.key = key,
};
