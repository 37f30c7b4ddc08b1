/* SPDX-License-Identifier: GPL-2.0-only */
#include "search.h"

#include <stdlib.h>
#include <string.h>

enum { NODES_PER_CALL = 50, SPARE_LOGS = 4096 };

int zv_search_init(struct zv_search *s, const struct zv_model *model, void *state,
		   struct zv_escape *escape)
{
	*s = (struct zv_search){
		.model = model, .state = state, .escape = escape, .logs_limit = SPARE_LOGS};
	int failed = zc_map_init(&s->visited.map);
	return zc_map_init(&s->left.map) || failed ? ZC_NO_MEMORY : 0;
}

void zv_search_clear(struct zv_search *s)
{
	void *vectors[] = {
		s->calls.at,
		s->hypotheses.list.at,
		s->hypotheses.hidden.at,
		s->exits.list.at,
		s->exits.hidden.at,
		s->logs.at,
		s->redone.at,
		s->made.at,
		s->candidates.at,
		s->ranks.at,
		s->ranked.at,
		s->offered.at,
		s->frames.at,
		s->undo.at,
		s->key.at,
		s->before.at,
		s->visited.entries.at,
		s->visited.bytes.at,
		s->left.entries.at,
		s->left.bytes.at,
	};
	for (size_t i = 0; i < sizeof(vectors) / sizeof(*vectors); i++)
		free(vectors[i]);
	zc_map_clear(&s->visited.map);
	zc_map_clear(&s->left.map);
}

/* -- nodes ---------------------------------------------------------------------------------- */

/* Unfinished calls that began before any unfinished call returned. */
static void find_candidates(struct zv_search *s, uint32_t first)
{
	int64_t limit = s->calls.at[first].end;
	s->candidates.len = 0;
	for (uint32_t number = first; number < s->calls.len; number++) {
		const struct zv_call *call = &s->calls.at[number];
		if (call->ts > limit)
			break;
		if (s->made.at[number] == ZV_DONE)
			continue;
		*PUSH(s->escape, s->candidates) = number;
		limit = call->end < limit ? call->end : limit;
	}
}

static int compare_ranked(const void *a, const void *b)
{
	const struct zv_ranked *one = a, *other = b;
	if (one->row != other->row)
		return one->row > other->row ? 1 : -1;
	return (one->number > other->number) - (one->number < other->number);
}

static int compare_ranks(const void *a, const void *b)
{
	uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
	return (one > other) - (one < other);
}

/* Number the calls by row, those of one row as they are. */
static void rank_calls(struct zv_search *s)
{
	uint32_t calls = (uint32_t)s->calls.len;
	s->ranked.len = s->ranks.len = 0;
	ROOM(s->escape, s->ranked, calls);
	ROOM(s->escape, s->ranks, calls);
	for (uint32_t i = 0; i < calls; i++)
		s->ranked.at[i] = (struct zv_ranked){s->calls.at[i].row, i};
	qsort(s->ranked.at, calls, sizeof(*s->ranked.at), compare_ranked);
	for (uint32_t i = 0; i < calls; i++)
		s->ranks.at[s->ranked.at[i].number] = i;
}

static void sort_by_row(struct zv_search *s)
{
	uint32_t *at = s->candidates.at;
	size_t len = s->candidates.len;
	for (size_t i = 0; i < len; i++)
		at[i] = s->ranks.at[at[i]];
	qsort(at, len, sizeof(*at), compare_ranks);
	for (size_t i = 0; i < len; i++)
		at[i] = s->ranked.at[at[i]].number;
}

static bool ends(const struct zv_search *s, uint8_t step)
{
	return s->model->ends >> step & 1;
}

/* Whether these steps begin a call and leave it to others to act before it ends. */
static bool splits(const struct zv_search *s, uint8_t made, const struct zv_run *run)
{
	return !made && !ends(s, run->steps[run->len - 1]);
}

void zv_offer(struct zv_search *s, uint32_t number, struct zv_run run)
{
	if (!s->splits_left && splits(s, s->made.at[number], &run))
		s->withheld = true;
	else
		*PUSH(s->escape, s->offered) = (struct zv_offered){number, run};
}

/* All calls have made their steps. */
static void note_exit(struct zv_search *s, uint32_t log)
{
	if (zv_was_met(s->escape, &s->left, &s->key))
		return;
	size_t hidden = s->exits.hidden.len;
	s->model->hidden(s->state, &s->exits.hidden);
	*PUSH(s->escape, s->exits.list) = (struct zv_exit){hidden, s->origin, log};
}

static void note_deepest(struct zv_search *s, uint32_t done, uint32_t log)
{
	if (done <= s->deepest)
		return;
	s->deepest = done;
	s->deepest_origin = s->origin;
	s->deepest_log = log;
	s->stuck = s->candidates.at[0];
	for (size_t i = 1; i < s->candidates.len; i++)
		if (s->calls.at[s->candidates.at[i]].end < s->calls.at[s->stuck].end)
			s->stuck = s->candidates.at[i];
}

/* A node: what may come next. */
static void open_frame(struct zv_search *s, uint32_t first, uint32_t done, uint32_t log)
{
	uint32_t calls = (uint32_t)s->calls.len;
	while (first < calls && s->made.at[first] == ZV_DONE)
		first++;
	struct zv_frame *frame = PUSH(s->escape, s->frames);
	*frame = (struct zv_frame){.first = first,
				   .done = done,
				   .log = log,
				   .applied = -1,
				   .offered = (uint32_t)s->offered.len};
	s->key.len = 0;
	s->model->key(s->state, &s->key);
	if (first == calls) {
		note_exit(s, log);
		return;
	}
	find_candidates(s, first);
	zv_add(s->escape, &s->key, &s->splits_left, sizeof(s->splits_left));
	zv_add(s->escape, &s->key, &s->made_hash, sizeof(s->made_hash));
	if (zv_was_met(s->escape, &s->visited, &s->key))
		return;
	s->nodes_left--;
	/* In the order in which the calls returned, which is nearly always the true one. */
	sort_by_row(s);
	for (size_t i = 0; i < s->candidates.len; i++) {
		uint32_t number = s->candidates.at[i];
		s->model->steps(s->state, s, number, &s->calls.at[number], s->made.at[number]);
	}
	frame->options = (uint32_t)s->offered.len - frame->offered;
	s->dead_ends += !frame->options;
	note_deepest(s, done, log);
}

/* -- steps ---------------------------------------------------------------------------------- */

static uint32_t write_log(struct zv_search *s, uint32_t before, uint32_t number, uint8_t step)
{
	if (s->logs.len >= ZV_NO_LOG)
		zv_give_up(s->escape, ZC_NO_MEMORY);
	*PUSH(s->escape, s->logs) = (struct zv_log){before, number, step, s->calls.at[number]};
	return (uint32_t)s->logs.len - 1;
}

/* Note how many steps a call has made. */
static void set_made(struct zv_search *s, uint32_t number, uint8_t made)
{
	uint8_t before = s->made.at[number];
	s->made.at[number] = made;
	if (before)
		zv_hash_toggle(&s->made_hash, number, before);
	if (made)
		zv_hash_toggle(&s->made_hash, number, made);
}

static void *push_undo(struct zv_search *s)
{
	ROOM(s->escape, s->undo, s->model->undo_bytes);
	void *undo = s->undo.at + s->undo.len;
	s->undo.len += s->model->undo_bytes;
	return undo;
}

static void take_back(struct zv_search *s, struct zv_frame *frame)
{
	const struct zv_offered *tried = &s->offered.at[frame->offered + frame->tried - 1];
	for (; frame->applied > 0; frame->applied--) {
		s->undo.len -= s->model->undo_bytes;
		s->model->undo(s->state, s->undo.at + s->undo.len);
	}
	frame->applied = -1;
	set_made(s, tried->number, frame->made);
	if (splits(s, frame->made, &tried->run) && s->splits_left < ZV_ANY)
		s->splits_left++;
}

/* Try the next option of a node; where the model agrees, a node follows. */
static void try_next(struct zv_search *s, struct zv_frame *frame)
{
	const struct zv_offered tried = s->offered.at[frame->offered + frame->tried++];
	uint32_t number = tried.number, after = frame->log;
	frame->applied = 0;
	frame->made = s->made.at[number];
	if (splits(s, frame->made, &tried.run) && s->splits_left < ZV_ANY)
		s->splits_left--;
	for (uint8_t i = 0; i < tried.run.len; i++) {
		uint8_t step = tried.run.steps[i];
		bool agreed =
			s->model->act(s->state, number, &s->calls.at[number], step, push_undo(s));
		frame->applied++;
		set_made(s, number, ends(s, step) ? ZV_DONE : s->made.at[number] + 1);
		if (!agreed)
			return;
		after = write_log(s, after, number, step);
	}
	open_frame(s, frame->first, frame->done + (s->made.at[number] == ZV_DONE), after);
}

static void explore(struct zv_search *s)
{
	s->before.len = 0;
	s->model->hidden(s->state, &s->before);
	s->model->install(s->state, zv_hidden_of(&s->hypotheses, s->origin));
	open_frame(s, 0, 0, s->hypotheses.list.at[s->origin].log);
	while (s->frames.len) {
		struct zv_frame *frame = &s->frames.at[s->frames.len - 1];
		if (frame->applied >= 0)
			take_back(s, frame);
		if (frame->tried < frame->options && s->nodes_left >= 0) {
			try_next(s, frame);
			continue;
		}
		s->cut_short |= frame->tried < frame->options;
		s->offered.len = frame->offered;
		s->frames.len--;
	}
	s->model->install(s->state, s->before.at);
}

void zv_search_run(struct zv_search *s)
{
	const struct zv_model *model = s->model;
	size_t calls = s->calls.len;
	s->made.len = 0;
	ROOM(s->escape, s->made, calls);
	memset(s->made.at, 0, calls);
	s->made_hash = (struct zv_hash){{0, 0}};
	model->begin(s->state, s->calls.at, calls);
	rank_calls(s);
	s->exits.list.len = s->exits.hidden.len = 0;
	zv_forget(s->escape, &s->left);
	s->deepest = -1;
	s->dead_ends = 0;
	s->cut_short = false;
	for (size_t i = 0; i < (calls > 1 ? model->splits_len : 1); i++) {
		zv_forget(s->escape, &s->visited);
		s->splits_left = calls > 1 ? model->splits[i] : 0;
		s->nodes_left = model->nodes + NODES_PER_CALL * (int64_t)calls;
		s->withheld = false;
		for (size_t n = 0; n < s->hypotheses.list.len; n++) {
			s->origin = (uint32_t)n;
			explore(s);
		}
		if (!s->withheld)
			break;
	}
}

/* -- hypotheses ----------------------------------------------------------------------------- */

void zv_decide(struct zv_search *s)
{
	struct zv_exits *hypotheses = &s->hypotheses;
	hypotheses->hidden.len = hypotheses->list.len = 0;
	s->model->hidden(s->state, &hypotheses->hidden);
	*PUSH(s->escape, hypotheses->list) = (struct zv_exit){0, 0, ZV_NO_LOG};
}

void zv_take_exits(struct zv_search *s)
{
	struct zv_exits exits = s->exits;
	s->exits = s->hypotheses;
	s->hypotheses = exits;
}

void zv_redo(struct zv_search *s, uint32_t origin, uint32_t log, uint32_t base)
{
	s->redone.len = 0;
	for (; log != ZV_NO_LOG && log >= base; log = s->logs.at[log].before)
		*PUSH(s->escape, s->redone) = log;
	for (size_t i = 0, j = s->redone.len; i + 1 < j; i++) {
		uint32_t other = s->redone.at[--j];
		s->redone.at[j] = s->redone.at[i];
		s->redone.at[i] = other;
	}
	s->model->install(s->state, zv_hidden_of(&s->hypotheses, origin));
	for (size_t i = 0; i < s->redone.len; i++) {
		const struct zv_log *one = &s->logs.at[s->redone.at[i]];
		s->undo.len = 0;
		if (!s->model->act(s->state, one->number, &one->call, one->step, push_undo(s)))
			zv_give_up(s->escape, ZV_CONTRADICTION);
	}
	s->undo.len = 0;
}

void zv_add_redone(const struct zv_search *s, zv_tried_steps *to)
{
	for (size_t i = 0; i < s->redone.len; i++) {
		const struct zv_log *one = &s->logs.at[s->redone.at[i]];
		*PUSH(s->escape, *to) = (struct zv_tried){one->number, one->step};
	}
}

void zv_forget_logs(struct zv_search *s)
{
	struct zv_exits *hypotheses = &s->hypotheses;
	if (hypotheses->list.len == 1 && hypotheses->list.at[0].log == ZV_NO_LOG)
		s->logs.len = 0;
	if (s->logs.len < s->logs_limit)
		return;
	uint32_t *moved = calloc(s->logs.len, sizeof(*moved)), len = 0;
	if (!moved)
		zv_give_up(s->escape, ZC_NO_MEMORY);
	for (size_t i = 0; i < hypotheses->list.len; i++)
		for (uint32_t log = hypotheses->list.at[i].log; log != ZV_NO_LOG && !moved[log];
		     log = s->logs.at[log].before)
			moved[log] = 1;
	for (size_t i = 0; i < s->logs.len; i++) {
		if (!moved[i])
			continue;
		struct zv_log one = s->logs.at[i];
		if (one.before != ZV_NO_LOG)
			one.before = moved[one.before];
		moved[i] = len;
		s->logs.at[len++] = one;
	}
	for (size_t i = 0; i < hypotheses->list.len; i++)
		if (hypotheses->list.at[i].log != ZV_NO_LOG)
			hypotheses->list.at[i].log = moved[hypotheses->list.at[i].log];
	free(moved);
	s->logs.len = len;
	s->logs_limit = 2 * s->logs.len + SPARE_LOGS;
}

int64_t zv_undecided_since(const struct zv_search *s)
{
	int64_t since = INT64_MAX;
	if (s->hypotheses.list.len < 2)
		return since;
	for (size_t i = 0; i < s->hypotheses.list.len; i++)
		for (uint32_t log = s->hypotheses.list.at[i].log; log != ZV_NO_LOG;
		     log = s->logs.at[log].before)
			if (s->logs.at[log].call.ts < since)
				since = s->logs.at[log].call.ts;
	return since;
}
