/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One block tree against its recorded calls, as a stream: TreeChecker of
 * replay/validate/ztree_checker.py in C, whose names and comments hold here too.
 */
#include "check.h"

#include "order.h"
#include "search.h"
#include "tree_steps.h"

#include <stdlib.h>
#include <string.h>

struct zv_tree {
	struct zv_escape escape;
	struct tree_state state;
	struct zv_search search;
	bool played; /* plainly, since ``hypotheses`` was set */

	/* blocks that were there before the trace, or may have been; see learn() */
	struct zc_map old, fresh; /* fresh: slots given out in turn + 2, 1 for -1 */
	uint64_t first_known;

	/* one group, by number of call */
	VECTOR(uint32_t) same; /* first call of the group with equal values */
	VECTOR(uint8_t) hazy;
	VECTOR(uint8_t) finished;

	struct zv_order order;
	VECTOR(struct zv_failure) failures;
	VECTOR(struct zv_call) around;
	zv_tried_steps tried;
	struct zv_found found;
};

/* -- reports ---------------------------------------------------------------------------------- */

/* Only one hypothesis is left: its order is the one found. */
static void commit(struct zv_tree *t)
{
	zv_order_commit(&t->order, &t->search, &t->found.tally);
	t->state.watched.len = 0;
	zv_decide(&t->search);
}

static void report_failure(struct zv_tree *t, const struct zv_call *call)
{
	t->found.failed++;
	if (t->found.failed > ZV_KEPT)
		return;
	struct zv_failure failure = tree_answer(&t->state, call);
	size_t calls = t->search.calls.len;
	if (t->search.cut_short)
		failure.cause = ZV_CUT_SHORT;
	failure.around = t->around.len;
	failure.around_len = calls;
	ROOM(&t->escape, t->around, calls);
	memcpy(t->around.at + t->around.len, t->search.calls.at, calls * sizeof(*t->around.at));
	t->around.len += calls;
	failure.tried = t->tried.len;
	zv_add_redone(&t->search, &t->tried);
	failure.tried_len = t->tried.len - failure.tried;
	*PUSH(&t->escape, t->failures) = failure;
}

/* -- blocks that were there before the trace -------------------------------------------------- */

/* Note such a block when it is first named. */
static void meet(struct zv_tree *t, const struct zv_call *call)
{
	uint64_t index = (uint64_t)call->block;
	if (index >= t->first_known || zc_map_get(&t->old, index) || find(&t->state, index))
		return;
	if (call->kind != ZV_MALLOC && call->kind != ZV_FREE && call->kind != ZV_CHOOSE)
		return;
	zv_put_key(&t->escape, &t->old, index, 1);
	tree_adopt(&t->state, index);
	if (t->state.adrift)
		zv_put_key(&t->escape, &t->fresh, index, 2);
}

/* Count slots that were given out in turn, of the steps that were made true. */
static void note_fresh(struct zv_tree *t)
{
	const struct zv_search *s = &t->search;
	for (size_t i = 0; i < s->redone.len; i++) {
		const struct zv_log *one = &s->logs.at[s->redone.at[i]];
		const struct zv_call *call = &one->call;
		uint64_t block = (uint64_t)call->block, slot = (uint64_t)call->slot;
		if (one->step == ZV_WHOLE && call->kind == ZV_MALLOC) {
			bool in_turn = zc_map_get(&t->fresh, block) == slot + 2;
			zv_put_key(&t->escape, &t->fresh, block, in_turn ? slot + 3 : 1);
		} else if (call->kind != ZV_PASS && call->kind != ZV_FAILED_MALLOC) {
			zv_put_key(&t->escape, &t->fresh, block, 1);
		}
	}
}

/* Draw conclusions from the steps made true; whether the tree is no longer adrift. */
static bool learn(struct zv_tree *t)
{
	const struct zv_search *s = &t->search;
	struct tree_state *state = &t->state;
	for (size_t i = 0; state->unseen.len && i < s->redone.len; i++) {
		uint64_t index = (uint64_t)s->logs.at[s->redone.at[i]].call.block;
		const struct seen_block *block = find(state, index);
		if (is_unseen(state, index) && (!block || !block->unseen))
			zc_map_take(&state->unseen, index);
	}
	if (!state->adrift)
		return false;
	note_fresh(t);
	/*
	 * A block all of whose slots were given out in turn was empty, hence new: it is the last
	 * one, and every block from here on is made under our eyes.
	 */
	struct seen_block *newest = tree_newest(state);
	uint64_t index = newest ? index_of(&newest->block) : 0;
	if (!newest || zc_map_get(&t->fresh, index) != state->tree.slots + 2)
		return false;
	state->adrift = false;
	zv_empty(&t->escape, &t->fresh);
	state->newest.keys.len = 0;
	t->first_known = state->tree.counter = index + 1;
	state->tree.last = &newest->block;
	return true;
}

/* -- groups ----------------------------------------------------------------------------------- */

/* Whether something that the call's answer depends on is unknown. */
static bool is_hazy(const struct zv_tree *t, const struct zv_call *call)
{
	const struct tree_state *state = &t->state;
	bool unseen = is_unseen(state, (uint64_t)call->block);
	switch (call->kind) {
	case ZV_PASS:
	case ZV_CHOOSE:
		if (state->late)
			return true;
		break;
	case ZV_FREE:
	case ZV_RECOVER:
	case ZV_SETTLE:
		return unseen;
	}
	return is_unknown(state) || unseen;
}

/* Which calls of the group are equal, and of which something is unknown. */
static void look_over(struct zv_tree *t)
{
	const struct zv_call *calls = t->search.calls.at;
	t->same.len = t->hazy.len = t->finished.len = 0;
	for (uint32_t i = 0; i < t->search.calls.len; i++) {
		uint32_t same = i;
		for (uint32_t j = i;
		     j-- && calls[j].row == calls[i].row && calls[j].ts == calls[i].ts;)
			if (zv_equal_calls(&calls[j], &calls[i])) {
				same = t->same.at[j];
				break;
			}
		*PUSH(&t->escape, t->same) = same;
		*PUSH(&t->escape, t->hazy) = same == i && is_hazy(t, &calls[i]);
		*PUSH(&t->escape, t->finished) = 0;
	}
}

/* The group has an order: Checker of checker.py, where there are exits. */
static void accept(struct zv_tree *t, uint32_t base)
{
	struct zv_search *s = &t->search;
	struct zv_tally *tally = &t->found.tally;
	tally->explained += s->calls.len;
	for (size_t i = 0; i < s->calls.len; i++)
		tally->in_part += t->hazy.at[i];
	zv_redo(s, s->exits.list.at[0].origin, s->exits.list.at[0].log, base);
	tree_remember(&t->state, s);
	zv_take_exits(s);
	size_t hypotheses = s->hypotheses.list.len;
	if (hypotheses > tally->most_hypotheses)
		tally->most_hypotheses = hypotheses;
	bool found_out = learn(t);
	if (hypotheses == 1)
		commit(t);
	else if (found_out)
		zv_decide(s);
}

/* No order: what is left to do, after the call that nothing explains, is left in the group. */
static void refuse(struct zv_tree *t, uint32_t base)
{
	struct zv_search *s = &t->search;
	struct zv_tally *tally = &t->found.tally;
	zv_redo(s, s->deepest_origin, s->deepest_log, base);
	tree_remember(&t->state, s);
	for (size_t i = 0; i < s->redone.len; i++) {
		const struct zv_log *one = &s->logs.at[s->redone.at[i]];
		uint32_t same = t->same.at[one->number];
		if (!(s->model->ends >> one->step & 1) || t->finished.at[same])
			continue;
		t->finished.at[same] = 1;
		tally->in_part += t->hazy.at[same];
	}
	tally->explained += (uint64_t)s->deepest;
	s->hypotheses.list.at[0].log = s->deepest_log;
	s->hypotheses.list.len = 1;
	commit(t);
	struct zv_call stuck = s->calls.at[s->stuck];
	report_failure(t, &stuck);
	tree_force(&t->state, &stuck);
	if (t->state.adrift)
		zv_put_key(&t->escape, &t->fresh, (uint64_t)stuck.block, 1);
	learn(t);
	zv_decide(s);
	size_t left = 0;
	for (size_t i = 0; i < s->calls.len; i++)
		if (!t->finished.at[t->same.at[i]] && i != s->stuck)
			s->calls.at[left++] = s->calls.at[i];
	s->calls.len = left;
}

/* Explain the group's calls, which overlap, or one alone that needs thought. */
static void explain(struct zv_tree *t)
{
	struct zv_search *s = &t->search;
	struct zv_tally *tally = &t->found.tally;
	size_t count = s->calls.len;
	if (count > 1) {
		tally->groups++;
		tally->overlapping += count;
		if (count > tally->largest_group)
			tally->largest_group = count;
	}
	tally->calls += count;
	if (t->played)
		zv_decide(s);
	t->played = false;
	while (s->calls.len) {
		tree_sweep(&t->state, &s->hypotheses);
		zv_forget_logs(s);
		for (size_t i = 0; i < s->calls.len; i++)
			meet(t, &s->calls.at[i]);
		look_over(t);
		uint32_t base = (uint32_t)s->logs.len;
		zv_search_run(s);
		tally->dead_ends += s->dead_ends;
		tally->cut_short += s->cut_short;
		if (s->exits.list.len) {
			accept(t, base);
			return;
		}
		refuse(t, base);
	}
}

/* -- calls that overlap nothing --------------------------------------------------------------- */

static bool is_plain(const struct zv_tree *t)
{
	const struct tree_state *state = &t->state;
	return t->search.hypotheses.list.len == 1 && !is_unknown(state) && !state->watched.len &&
	       !state->adrift;
}

/* Whether the model answers as recorded, where everything is known. */
static bool play(struct tree_state *state, const struct zv_call *call)
{
	struct tree *tree = &state->tree;
	uint64_t index = (uint64_t)call->block;
	if (call->kind == ZV_MALLOC) {
		struct block *given = look(tree);
		if (!given)
			return tree->counter == index && !call->slot && tree_grow(state, index);
		if (index_of(given) != index || (int)lowest(tree, given) != call->slot ||
		    call->slot >= (int)tree->slots)
			return false;
		take(tree, given);
		return true;
	}
	if (call->kind != ZV_FREE)
		return false;
	struct seen_block *block = find(state, index);
	if (!block || call->slot >= (int)tree->slots || !is_taken(block, call->slot))
		return false;
	if (block->block.under_reclaim || is_unseen(state, index))
		return false;
	tree_release(state, block, call->slot);
	return true;
}

/* -- calls from outside ----------------------------------------------------------------------- */

static bool start(struct zv_tree *t, uint32_t slots, uint64_t max_index, bool late, bool ordered)
{
	int failed = tree_init(&t->state, &t->escape, slots, max_index, late);
	failed |= zv_search_init(&t->search, &zv_tree_model, &t->state, &t->escape);
	failed |= zv_order_init(&t->order, &t->escape, ordered);
	failed |= zc_map_init(&t->old);
	failed |= zc_map_init(&t->fresh);
	if (failed || setjmp(t->escape.jump))
		return false;
	zv_decide(&t->search);
	return true;
}

ZC_API struct zv_tree *zv_create(uint32_t slots, uint64_t max_index, int starts_empty,
				 int wants_order)
{
	if (!slots || slots > ZV_SLOTS || !max_index || max_index > NO_COUNTER)
		return NULL;
	struct zv_tree *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->first_known = starts_empty ? 0 : NO_COUNTER;
	t->found.tally.most_hypotheses = 1;
	t->found.undecided_since = INT64_MAX;
	if (start(t, slots, max_index, !starts_empty, wants_order))
		return t;
	zv_destroy(t);
	return NULL;
}

ZC_API void zv_destroy(struct zv_tree *t)
{
	if (!t)
		return;
	tree_clear(&t->state);
	zv_search_clear(&t->search);
	zv_order_clear(&t->order);
	zc_map_clear(&t->old);
	zc_map_clear(&t->fresh);
	void *vectors[] = {t->same.at, t->hazy.at, t->finished.at, t->failures.at, t->around.at,
			   t->tried.at};
	for (size_t i = 0; i < sizeof(vectors) / sizeof(*vectors); i++)
		free(vectors[i]);
	free(t);
}

/* What was found last time is not wanted any more. */
static void begin(struct zv_tree *t)
{
	zv_order_begin(&t->order);
	t->failures.len = t->around.len = t->tried.len = 0;
}

static void publish(struct zv_tree *t)
{
	struct zv_found *found = &t->found;
	zv_order_publish(&t->order, found);
	found->failures = t->failures.at;
	found->around = t->around.at;
	found->tried = t->tried.at;
	found->failures_len = t->failures.len;
	found->undecided_since = t->order.wanted ? zv_undecided_since(&t->search) : INT64_MAX;
}

static bool is_sound(const struct zv_call *calls, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		const struct zv_call *call = &calls[i];
		if (call->kind < 0 || call->kind >= ZV_KINDS || call->slot < 0 ||
		    call->slot >= ZV_SLOTS || call->block < 0 ||
		    call->block >= (int64_t)NO_COUNTER || call->end < call->ts ||
		    (i && call->ts < call[-1].ts))
			return false;
	}
	return count < ZV_NO_LOG;
}

/* The calls of a group of ``count``, or one alone, in order of time. */
static void check_group(struct zv_tree *t, const struct zv_call *calls, uint64_t count)
{
	struct zv_search *s = &t->search;
	if (count == 1 && is_plain(t) && play(&t->state, calls)) {
		t->found.tally.calls++;
		t->found.tally.explained++;
		t->played = true;
		if (t->order.wanted)
			zv_order_add(&t->order, calls->ts, calls->row, ZV_WHOLE);
		return;
	}
	s->calls.len = 0;
	ROOM(&t->escape, s->calls, count);
	memcpy(s->calls.at, calls, count * sizeof(*calls));
	s->calls.len = count;
	explain(t);
}

ZC_API int zv_check(struct zv_tree *t, const struct zv_call *calls, uint64_t count, int64_t limit,
		    uint64_t *done)
{
	*done = 0;
	if (t->escape.code)
		return t->escape.code;
	if (!is_sound(calls, count))
		return ZV_BAD_CALL;
	if (setjmp(t->escape.jump))
		return t->escape.code;
	begin(t);
	uint64_t first = 0;
	while (first < count) {
		tree_sweep(&t->state, &t->search.hypotheses);
		int64_t latest;
		uint64_t end = zv_group_end(calls, first, count, &latest);
		if (end == count && latest >= limit)
			break;
		check_group(t, calls + first, end - first);
		first = end;
	}
	*done = first;
	publish(t);
	return 0;
}

ZC_API int zv_finish(struct zv_tree *t)
{
	if (t->escape.code)
		return t->escape.code;
	if (setjmp(t->escape.jump))
		return t->escape.code;
	begin(t);
	t->search.hypotheses.list.len = 1;
	commit(t);
	publish(t);
	return 0;
}

ZC_API const struct zv_found *zv_found_of(const struct zv_tree *t)
{
	return &t->found;
}
