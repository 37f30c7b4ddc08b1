/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A zbud pool against its recorded calls: PoolChecker of replay/validate/zbud_checker.py in C, whose
 * names and comments hold here too.
 */
#include "page_check.h"

#include "page_steps.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_BEGINNINGS = 4096 };

/* Orders, one after the other; ``at`` has where each begins and, last, where the last one ends. */
struct orders {
	zv_order_of_pages data;
	VECTOR(size_t) at;
};

/* Alternatives that cannot be told apart yet; the pool lies as the first of them. */
struct open {
	struct orders alternatives;
	VECTOR(struct seen_page *) pages;
	bool is_listed; /* in a list of those that are looked at */
};

/* A page of a group: whether it was there, when calls were at it, and the row of the only one. */
struct span {
	struct seen_page *page;
	int64_t begin, end, only;
	bool was;
};

struct zv_pages {
	struct zv_escape escape;
	struct page_state state;
	struct zv_search search;
	const struct zv_call *calls; /* those that are checked, and the sizes that they read */
	const int64_t *sizes;
	uint64_t count;
	uint64_t opens;
	VECTOR(struct open *) asked; /* those that the group's mallocs depend on */
	VECTOR(struct open *) left;  /* those whose pages have left their places */
	zv_seen_pages touched;
	VECTOR(struct span) spans;
	VECTOR(uint8_t) finished;
	struct orders kept, told;
	VECTOR(size_t) cursors, different; /* see count_different() */
	zv_bytes key;
	struct zv_met met;
	VECTOR(struct zv_reading) readings;
	VECTOR(struct zv_call) around; /* of the first failure */
	zv_tried_steps tried;
	struct zv_pages_found found;
};

/* -- orders ------------------------------------------------------------------------------------- */

static size_t orders_len(const struct orders *orders)
{
	return orders->at.len ? orders->at.len - 1 : 0;
}

static void orders_wipe(struct zv_escape *escape, struct orders *orders)
{
	orders->data.len = orders->at.len = 0;
	*PUSH(escape, orders->at) = 0;
}

static void orders_end(struct zv_escape *escape, struct orders *orders)
{
	*PUSH(escape, orders->at) = orders->data.len;
}

static void orders_clear(struct orders *orders)
{
	free(orders->data.at);
	free(orders->at.at);
}

static void add_words(struct zv_escape *escape, zv_order_of_pages *to, const uint64_t *words,
		      size_t len)
{
	ROOM(escape, *to, len);
	if (len)
		memcpy(to->at + to->len, words, len * sizeof(*words));
	to->len += len;
}

/* Add an order's segments without the pages that have left. */
static void add_without(struct zv_pages *p, struct orders *to, const uint64_t *order, size_t len)
{
	for (const uint64_t *end = order + len; order < end; order += 2 + order[1]) {
		size_t head = to->data.len;
		add_words(&p->escape, &to->data, order, 2);
		for (uint64_t i = 0; i < order[1]; i++) {
			const struct seen_page *page = (struct seen_page *)(uintptr_t)order[2 + i];
			if (!page->is_touched)
				add_words(&p->escape, &to->data, order + 2 + i, 1);
		}
		to->data.at[head + 1] = to->data.len - head - 2;
	}
}

/* The n-th segment of an order, NULL beyond the last. */
static const uint64_t *segment(const struct orders *orders, size_t order, size_t n)
{
	const uint64_t *at = orders->data.at + orders->at.at[order];
	const uint64_t *end = orders->data.at + orders->at.at[order + 1];
	for (; at < end && n; n--)
		at += 2 + at[1];
	return at < end ? at : NULL;
}

/* -- what is not decided ------------------------------------------------------------------------ */

static void forget(struct zv_pages *p, struct open *open)
{
	for (size_t i = 0; i < open->pages.len; i++)
		open->pages.at[i]->open = NULL;
	p->opens--;
	orders_clear(&open->alternatives);
	free(open->pages.at);
	free(open);
}

static struct open *new_open(struct zv_pages *p)
{
	struct open *open = calloc(1, sizeof(*open));
	if (!open)
		zv_give_up(&p->escape, ZC_NO_MEMORY);
	orders_wipe(&p->escape, &open->alternatives);
	return open;
}

/* Its alternatives are there: it is open from now on, unless there is only one. */
static void hold(struct zv_pages *p, struct open *open)
{
	p->opens++;
	const uint64_t *at = open->alternatives.data.at;
	const uint64_t *end = at + open->alternatives.at.at[1];
	for (; at < end; at += 2 + at[1])
		for (uint64_t i = 0; i < at[1]; i++) {
			struct seen_page *page = (struct seen_page *)(uintptr_t)at[2 + i];
			*PUSH(&p->escape, open->pages) = page;
			page->open = open;
		}
}

/* Of ``kept``, what can differ: segments of several pages; each such order once. */
static void tell(struct zv_pages *p)
{
	struct orders *told = &p->told;
	zv_forget(&p->escape, &p->met);
	orders_wipe(&p->escape, told);
	for (size_t n = 0; n < orders_len(&p->kept); n++) {
		const uint64_t *at = p->kept.data.at + p->kept.at.at[n];
		const uint64_t *end = p->kept.data.at + p->kept.at.at[n + 1];
		size_t head = told->data.len;
		for (; at < end; at += 2 + at[1])
			if (at[1] > 1)
				add_words(&p->escape, &told->data, at, 2 + at[1]);
		size_t bytes = (told->data.len - head) * sizeof(*told->data.at);
		p->key.len = 0;
		zv_add(&p->escape, &p->key, told->data.at + head, bytes);
		if (zv_was_met(&p->escape, &p->met, &p->key))
			told->data.len = head;
		else
			orders_end(&p->escape, told);
	}
}

/* Whether a segment is the first of its kind since p->met was emptied. */
static bool is_new(struct zv_pages *p, const uint64_t *segment)
{
	p->key.len = 0;
	zv_add(&p->escape, &p->key, segment, (2 + segment[1]) * sizeof(*segment));
	return !zv_was_met(&p->escape, &p->met, &p->key);
}

/* Of each position, how many different segments the orders of ``told`` have there. */
static void count_different(struct zv_pages *p)
{
	const struct orders *told = &p->told;
	size_t orders = orders_len(told);
	p->cursors.len = p->different.len = 0;
	for (size_t n = 0; n < orders; n++)
		*PUSH(&p->escape, p->cursors) = told->at.at[n];
	while (orders && p->cursors.at[0] < told->at.at[1]) {
		size_t count = 0;
		zv_forget(&p->escape, &p->met);
		for (size_t n = 0; n < orders; n++) {
			size_t *cursor = &p->cursors.at[n];
			if (*cursor >= told->at.at[n + 1])
				zv_give_up(&p->escape, ZV_CONTRADICTION);
			const uint64_t *one = told->data.at + *cursor;
			count += is_new(p, one);
			*cursor += 2 + one[1];
		}
		*PUSH(&p->escape, p->different) = count;
	}
}

/* What the orders of ``told`` have at a position, each once, is open by itself. */
static void hold_apart(struct zv_pages *p, size_t position)
{
	struct open *open = new_open(p);
	zv_forget(&p->escape, &p->met);
	for (size_t n = 0; n < orders_len(&p->told); n++) {
		const uint64_t *one = segment(&p->told, n, position);
		if (!is_new(p, one))
			continue;
		add_words(&p->escape, &open->alternatives.data, one, 2 + one[1]);
		orders_end(&p->escape, &open->alternatives);
	}
	hold(p, open);
}

/* All that differs in the orders of ``told`` is open together. */
static void hold_together(struct zv_pages *p)
{
	struct open *open = new_open(p);
	for (size_t n = 0; n < orders_len(&p->told); n++) {
		const uint64_t *one = p->told.data.at + p->told.at.at[n];
		for (size_t i = 0; i < p->different.len; i++, one += 2 + one[1])
			if (p->different.at[i] > 1)
				add_words(&p->escape, &open->alternatives.data, one, 2 + one[1]);
		orders_end(&p->escape, &open->alternatives);
	}
	hold(p, open);
}

/* Keep the alternatives of ``kept`` apart where they can be; the pool lies as the first. */
static void keep(struct zv_pages *p)
{
	tell(p);
	size_t orders = orders_len(&p->told);
	uint64_t product = 1;
	count_different(p);
	for (size_t i = 0; i < p->different.len; i++)
		product = product > orders ? product : product * p->different.at[i];
	if (orders > 1 && product == orders) {
		for (size_t i = 0; i < p->different.len; i++)
			if (p->different.at[i] > 1)
				hold_apart(p, i);
	} else if (orders > 1) {
		hold_together(p);
	}
	if (p->opens > p->found.tally.undecided)
		p->found.tally.undecided = p->opens;
}

/* Pages, which are marked, have left the places that were not decided. */
static void leave(struct zv_pages *p, const zv_seen_pages *pages)
{
	p->left.len = 0;
	for (size_t i = 0; i < pages->len; i++) {
		struct open *open = pages->at[i]->open;
		if (open && !open->is_listed)
			*PUSH(&p->escape, p->left) = open;
		if (open)
			open->is_listed = true;
	}
	for (size_t i = 0; i < p->left.len; i++) {
		struct open *open = p->left.at[i];
		const struct orders *all = &open->alternatives;
		orders_wipe(&p->escape, &p->kept);
		for (size_t n = 0; n < orders_len(all); n++) {
			add_without(p, &p->kept, all->data.at + all->at.at[n],
				    all->at.at[n + 1] - all->at.at[n]);
			orders_end(&p->escape, &p->kept);
		}
		forget(p, open);
		keep(p);
	}
}

/* -- groups ------------------------------------------------------------------------------------- */

/* Mark pages that leave their places, or take the marks off. */
static void mark(const zv_seen_pages *pages, bool touched)
{
	for (size_t i = 0; i < pages->len; i++)
		pages->at[i]->is_touched = touched;
}

/* Set the beginnings and hypotheses of a group; whether there are more than those. */
static bool prepare(struct zv_pages *p)
{
	struct zv_search *s = &p->search;
	struct page_state *t = &p->state;
	uint64_t number = 1;
	page_gather(t, s->calls.at, s->calls.len, true, &p->touched);
	p->asked.len = 0;
	for (size_t i = 0; i < p->touched.len; i++) {
		struct open *open = p->touched.at[i]->open;
		if (!open || open->is_listed)
			continue;
		open->is_listed = true;
		*PUSH(&p->escape, p->asked) = open;
		if (number <= MOST_BEGINNINGS)
			number *= orders_len(&open->alternatives);
	}
	for (size_t i = 0; i < p->asked.len; i++)
		p->asked.at[i]->is_listed = false;
	bool all = number <= MOST_BEGINNINGS;
	t->beginnings.len = t->arrangements.len = 0;
	s->hypotheses.list.len = s->hypotheses.hidden.len = 0;
	*PUSH(&p->escape, t->beginnings) = 0;
	for (uint64_t n = 0; n < (all ? number : 1); n++) {
		/* As digits of a number: the last one's alternatives change first. */
		uint64_t rest = n, weight = number;
		for (size_t i = 0; all && i < p->asked.len; i++) {
			const struct orders *orders = &p->asked.at[i]->alternatives;
			weight /= orders_len(orders);
			size_t chosen = rest / weight, at = orders->at.at[chosen];
			rest %= weight;
			add_words(&p->escape, &t->arrangements, orders->data.at + at,
				  orders->at.at[chosen + 1] - at);
		}
		*PUSH(&p->escape, t->beginnings) = t->arrangements.len;
		struct page_hidden hidden = {n, 0};
		*PUSH(&p->escape, s->hypotheses.list) =
			(struct zv_exit){s->hypotheses.hidden.len, 0, ZV_NO_LOG};
		zv_add(&p->escape, &s->hypotheses.hidden, &hidden, sizeof(hidden));
	}
	return !all;
}

/* Add what a group left, by an exit's hidden state. */
static void add_left(struct zv_pages *p, const uint8_t *from)
{
	const struct page_state *t = &p->state;
	struct page_hidden hidden;
	memcpy(&hidden, from, sizeof(hidden));
	const size_t *at = t->beginnings.at + hidden.beginning;
	add_without(p, &p->kept, t->arrangements.at + at[0], at[1] - at[0]);
	for (uint64_t i = 0; i < hidden.len; i++) {
		uint64_t word;
		memcpy(&word, from + sizeof(hidden) + i * sizeof(word), sizeof(word));
		add_words(&p->escape, &p->kept.data, &word, 1);
	}
	orders_end(&p->escape, &p->kept);
}

/* A group left the model at the first of its exits. */
static void carry_on(struct zv_pages *p)
{
	struct zv_search *s = &p->search;
	size_t exits = s->exits.list.len;
	mark(&p->state.group, true);
	for (size_t i = 0; i < p->asked.len; i++)
		forget(p, p->asked.at[i]);
	leave(p, &p->state.group);
	orders_wipe(&p->escape, &p->kept);
	for (size_t n = 0; n < exits; n++)
		add_left(p, zv_hidden_of(&s->exits, n));
	if (!exits)
		add_left(p, zv_hidden_of(&s->hypotheses, s->deepest_origin));
	mark(&p->state.group, false);
	keep(p);
}

static void report_failure(struct zv_pages *p, const struct zv_call *call, bool cut_short)
{
	struct zv_pages_found *found = &p->found;
	if (found->failed++)
		return;
	const struct page_state *t = &p->state;
	const struct page *chosen = choose(&t->lists, chunks_of(call));
	const struct seen_page *page = page_named(t, call->block);
	size_t calls = p->search.calls.len;
	ROOM(&p->escape, p->around, calls);
	memcpy(p->around.at, p->search.calls.at, calls * sizeof(*p->around.at));
	zv_add_redone(&p->search, &p->tried);
	found->first = *call;
	found->around = p->around.at;
	found->around_len = calls;
	found->tried = p->tried.at;
	found->tried_len = p->tried.len;
	found->page = -1;
	found->cause = cut_short ? ZV_CUT_SHORT : ZV_OTHER_RULE;
	if (call->kind == ZV_PAGE_MALLOC || call->kind == ZV_PAGE_NO_PAGE) {
		found->says = chosen ? ZV_SAYS_PAGE : ZV_SAYS_NEW_PAGE;
		found->page = chosen ? (int64_t)chosen->number : -1;
	} else if (call->kind == ZV_PAGE_FREE) {
		found->says = ZV_SAYS_NO_OBJECT;
	} else if (!page || !page->present) {
		found->says = ZV_SAYS_NO_PAGE;
	} else {
		found->says = call->kind == ZV_PAGE_PUT_BACK ? ZV_SAYS_NOT_RECLAIMED
							     : ZV_SAYS_NOT_OLDEST;
	}
}

/* Explain what is left of a group; what still is, after a call that cannot be explained. */
static void explain(struct zv_pages *p)
{
	struct zv_search *s = &p->search;
	struct zv_page_tally *tally = &p->found.tally;
	bool cut_short = prepare(p);
	s->logs.len = 0;
	zv_search_run(s);
	cut_short |= s->cut_short;
	tally->dead_ends += s->dead_ends;
	tally->cut_short += cut_short;
	bool done = s->exits.list.len;
	if (done)
		zv_redo(s, s->exits.list.at[0].origin, s->exits.list.at[0].log, 0);
	else
		zv_redo(s, s->deepest_origin, s->deepest_log, 0);
	p->finished.len = 0;
	ROOM(&p->escape, p->finished, s->calls.len);
	memset(p->finished.at, 0, s->calls.len);
	for (size_t i = 0; i < s->redone.len; i++) {
		const struct zv_log *log = &s->logs.at[s->redone.at[i]];
		if (s->model->ends >> log->step & 1) {
			p->finished.at[log->number] = 1;
			tally->explained++;
		}
	}
	carry_on(p);
	if (done) {
		s->calls.len = 0;
		return;
	}
	struct zv_call stuck = s->calls.at[s->stuck];
	report_failure(p, &stuck, cut_short);
	page_force(&p->state, &stuck);
	p->finished.at[s->stuck] = 1;
	size_t left = 0;
	for (size_t i = 0; i < s->calls.len; i++)
		if (!p->finished.at[i])
			s->calls.at[left++] = s->calls.at[i];
	s->calls.len = left;
}

/* Explain calls that overlap, or one alone that needs thought. */
static void explain_group(struct zv_pages *p, const struct zv_call *calls, size_t count)
{
	struct zv_search *s = &p->search;
	struct zv_page_tally *tally = &p->found.tally;
	if (count > 1) {
		tally->groups++;
		tally->overlapping += count;
		if (count > tally->largest_group)
			tally->largest_group = count;
	}
	tally->calls += count;
	s->calls.len = 0;
	ROOM(&p->escape, s->calls, count);
	memcpy(s->calls.at, calls, count * sizeof(*calls));
	s->calls.len = count;
	while (s->calls.len)
		explain(p);
}

/* A call that overlaps no other one. */
static void play(struct zv_pages *p, const struct zv_call *call)
{
	struct page_state *t = &p->state;
	struct seen_page *page =
		call->kind == ZV_PAGE_NO_PAGE ? NULL : page_named(t, call->block);
	uint8_t options[2];
	if ((call->kind == ZV_PAGE_MALLOC && page && page->open) ||
	    !page_options(t, call, 0, options) || options[0] == ZV_STEP_LOOK ||
	    !page_try(t, call, options[0])) {
		explain_group(p, call, 1);
		return;
	}
	p->found.tally.calls++;
	p->found.tally.explained++;
	if (page && page->open) {
		page_gather(t, call, 1, false, &p->touched);
		mark(&p->touched, true);
		leave(p, &p->touched);
		mark(&p->touched, false);
	}
}

/* -- sizes -------------------------------------------------------------------------------------- */

static void note_reading(struct zv_pages *p, int64_t row, int64_t pages, uint64_t low, uint64_t high)
{
	*PUSH(&p->escape, p->readings) =
		(struct zv_reading){row, pages, (int64_t)low, (int64_t)high};
}

/* The pages of a group's calls, before these; how many others the pool has. */
static uint64_t look_at_pages(struct zv_pages *p, const struct zv_call *calls, size_t count)
{
	uint64_t others = p->state.count;
	p->spans.len = 0;
	for (size_t i = 0; i < count; i++) {
		const struct zv_call *call = &calls[i];
		if (call->kind == ZV_PAGE_NO_PAGE)
			continue;
		struct seen_page *page = page_named(&p->state, call->block);
		size_t at = page->span;
		if (at >= p->spans.len || p->spans.at[at].page != page) {
			page->span = p->spans.len;
			*PUSH(&p->escape, p->spans) = (struct span){
				page, call->ts, call->end, call->row, page->present};
			others -= page->present;
			continue;
		}
		struct span *span = &p->spans.at[at];
		span->begin = call->ts < span->begin ? call->ts : span->begin;
		span->end = call->end > span->end ? call->end : span->end;
		span->only = -1;
	}
	return others;
}

/* Compare what a group's calls read: a page that several are about may have come and gone. */
static void compare_sizes(struct zv_pages *p, const struct zv_call *call, int64_t size,
			  uint64_t others)
{
	uint64_t low = others, high = others;
	for (size_t i = 0; i < p->spans.len; i++) {
		const struct span *span = &p->spans.at[i];
		bool now = span->page->present, was = span->was, alone = span->only >= 0;
		if (span->begin <= call->end && span->end >= call->ts && span->only != call->row) {
			low += was && now && alone;
			high += was || now || !alone;
		} else {
			bool sure = span->begin > call->end ? was : now;
			low += sure;
			high += sure;
		}
	}
	note_reading(p, call->row, size, low, high);
}

/* -- calls from outside ------------------------------------------------------------------------- */

static void check_group(struct zv_pages *p, const struct zv_call *calls, const int64_t *sizes,
			size_t count)
{
	struct page_state *t = &p->state;
	if (count == 1) {
		play(p, calls);
		if (sizes[0] >= 0)
			note_reading(p, calls->row, sizes[0], t->count, t->count);
		return;
	}
	for (size_t i = 0; i < count; i++)
		if (calls[i].kind != ZV_PAGE_NO_PAGE)
			page_for(t, calls[i].block);
	uint64_t others = look_at_pages(p, calls, count);
	explain_group(p, calls, count);
	for (size_t i = 0; i < count; i++)
		if (sizes[i] >= 0)
			compare_sizes(p, &calls[i], sizes[i], others);
}

static bool is_sound(const struct zv_call *calls, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		const struct zv_call *call = &calls[i];
		bool asks = call->kind == ZV_PAGE_MALLOC || call->kind == ZV_PAGE_NO_PAGE;
		uint32_t chunks = chunks_of(call);
		if (call->kind < 0 || call->kind >= ZV_PAGE_KINDS || call->slot < 0 ||
		    call->slot > 1 || call->end < call->ts || (i && call->ts < call[-1].ts) ||
		    (asks && (!chunks || chunks >= CHUNKS)))
			return false;
	}
	return count < ZV_NO_LOG;
}

static void check_all(struct zv_pages *p)
{
	const struct zv_call *calls = p->calls;
	const int64_t *sizes = p->sizes;
	uint64_t count = p->count;
	p->readings.len = 0;
	int64_t latest;
	for (uint64_t first = 0, end; first < count; first = end) {
		end = zv_group_end(calls, first, count, &latest);
		check_group(p, calls + first, sizes + first, end - first);
	}
	p->found.readings = p->readings.at;
	p->found.readings_len = p->readings.len;
}

ZC_API int zv_pages_check(struct zv_pages *p, const struct zv_call *calls, const int64_t *sizes,
			  uint64_t count)
{
	if (p->escape.code)
		return p->escape.code;
	if (!is_sound(calls, count))
		return ZV_BAD_CALL;
	p->calls = calls;
	p->sizes = sizes;
	p->count = count;
	if (setjmp(p->escape.jump))
		return p->escape.code;
	check_all(p);
	return 0;
}

ZC_API void zv_pages_destroy(struct zv_pages *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->state.all.len; i++)
		if (p->state.all.at[i]->open)
			forget(p, p->state.all.at[i]->open);
	page_clear(&p->state);
	zv_search_clear(&p->search);
	orders_clear(&p->kept);
	orders_clear(&p->told);
	zc_map_clear(&p->met.map);
	void *vectors[] = {p->asked.at,    p->left.at,     p->touched.at,  p->spans.at,
			   p->finished.at, p->readings.at, p->met.entries.at, p->met.bytes.at,
			   p->around.at, p->tried.at, p->cursors.at,  p->different.at, p->key.at};
	for (size_t i = 0; i < sizeof(vectors) / sizeof(*vectors); i++)
		free(vectors[i]);
	free(p);
}

ZC_API struct zv_pages *zv_pages_create(uint32_t page_bytes, int locked)
{
	if (page_bytes < ZC_LEAST_PAGE_BYTES || page_bytes > ZC_MOST_PAGE_BYTES ||
	    page_bytes & (page_bytes - 1))
		return NULL;
	struct zv_pages *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	int failed = page_init(&p->state, &p->escape, page_bytes, locked);
	failed |= zv_search_init(&p->search, &zv_page_model, &p->state, &p->escape);
	failed |= zc_map_init(&p->met.map);
	if (!failed)
		return p;
	zv_pages_destroy(p);
	return NULL;
}

ZC_API const struct zv_pages_found *zv_pages_found_of(const struct zv_pages *p)
{
	return &p->found;
}
