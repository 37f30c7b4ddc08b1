/* SPDX-License-Identifier: GPL-2.0-only */
#include "order.h"

#include <stdlib.h>

int zv_order_init(struct zv_order *o, struct zv_escape *escape, bool wanted)
{
	o->escape = escape;
	o->wanted = wanted;
	int failed = zc_map_init(&o->ended);
	return zc_map_init(&o->marked) || failed ? ZC_NO_MEMORY : 0;
}

void zv_order_clear(struct zv_order *o)
{
	zc_map_clear(&o->ended);
	zc_map_clear(&o->marked);
	void *vectors[] = {o->steps.at, o->latest.at,     o->at_ns.at,      o->row.at,
			   o->step.at,  o->race_calls.at, o->race_steps.at, o->race_ends.at};
	for (size_t i = 0; i < sizeof(vectors) / sizeof(*vectors); i++)
		free(vectors[i]);
}

void zv_order_begin(struct zv_order *o)
{
	o->at_ns.len = o->row.len = o->step.len = 0;
	o->race_calls.len = o->race_steps.len = o->race_ends.len = 0;
}

void zv_order_add(struct zv_order *o, int64_t at_ns, int64_t row, int8_t step)
{
	*PUSH(o->escape, o->at_ns) = at_ns;
	*PUSH(o->escape, o->row) = row;
	*PUSH(o->escape, o->step) = step;
}

bool zv_equal_calls(const struct zv_call *a, const struct zv_call *b)
{
	return a->ts == b->ts && a->end == b->end && a->kind == b->kind && a->block == b->block &&
	       a->slot == b->slot && a->row == b->row && a->cpu == b->cpu && a->tid == b->tid &&
	       a->size == b->size;
}

/* Checker._count_order, and what an order consists of as validator writes it. */
static void count_order(struct zv_order *o, struct zv_tally *tally)
{
	int64_t latest = -1;
	for (size_t i = 0; i < o->steps.len; i++) {
		struct zv_ordered *step = &o->steps.at[i];
		if (step->step == ZV_LOOK) {
			step->in_one = i + 2 < o->steps.len && step[1].step == ZV_INSERT &&
				       step[2].step == ZV_TAKE &&
				       zv_equal_calls(&step[1].call, &step->call) &&
				       zv_equal_calls(&step[2].call, &step->call);
			tally->split += !step->in_one;
		}
		if (step->step == ZV_WHOLE || step->step == ZV_TAKE) {
			tally->out_of_order += step->call.row < latest;
			latest = step->call.row > latest ? step->call.row : latest;
		}
	}
}

static void order_steps(struct zv_order *o)
{
	int64_t moment = INT64_MIN;
	for (size_t i = 0; i < o->steps.len; i++) {
		const struct zv_ordered *step = &o->steps.at[i];
		uint8_t shown = step->step;
		if (step->in_one)
			shown = ZV_WHOLE;
		else if (step->call.kind > ZV_FAILED_MALLOC || !step->ended)
			continue;
		moment = step->call.ts > moment ? step->call.ts : moment;
		zv_order_add(o, moment, step->call.row, (int8_t)shown);
		if (step->in_one)
			i += 2;
	}
}

/* Whether races.py may find something in these steps: never less than it does. */
static bool may_race(struct zv_order *o)
{
	bool may = false;
	o->latest.len = 0;
	ROOM(o->escape, o->latest, o->steps.len);
	for (size_t i = 0; i < o->steps.len; i++) {
		const struct zv_ordered *step = &o->steps.at[i];
		const struct zv_call *call = &step->call;
		uint64_t block = (uint64_t)call->block;
		may |= step->step == ZV_LOOK && !step->in_one;
		if (call->kind == ZV_CHOOSE) {
			zv_put_key(o->escape, &o->marked, block, 1);
			may = true;
		} else if (call->kind == ZV_SETTLE) {
			zc_map_take(&o->marked, block);
			may = true;
		}
		int64_t latest = i ? o->latest.at[i - 1] : INT64_MIN;
		if (call->kind == ZV_FREE) {
			may |= o->marked.len && zc_map_get(&o->marked, block);
			/* backwards, as far as any free returned after this one began */
			for (size_t j = i; !may && j && o->latest.at[j - 1] >= call->ts; j--) {
				const struct zv_call *other = &o->steps.at[j - 1].call;
				may = other->kind == ZV_FREE && other->block == call->block &&
				      other->end >= call->ts && call->end >= other->ts;
			}
			latest = call->end > latest ? call->end : latest;
		}
		o->latest.at[i] = latest;
	}
	return may;
}

static void report_steps(struct zv_order *o, struct zv_tally *tally)
{
	count_order(o, tally);
	if (o->wanted)
		order_steps(o);
	if (!may_race(o))
		return;
	for (size_t i = 0; i < o->steps.len; i++) {
		*PUSH(o->escape, o->race_calls) = o->steps.at[i].call;
		*PUSH(o->escape, o->race_steps) = (int8_t)o->steps.at[i].step;
	}
	*PUSH(o->escape, o->race_ends) = o->race_calls.len;
}

void zv_order_commit(struct zv_order *o, const struct zv_search *search, struct zv_tally *tally)
{
	uint32_t log = search->hypotheses.list.at[0].log;
	o->steps.len = 0;
	for (; log != ZV_NO_LOG; log = search->logs.at[log].before) {
		const struct zv_log *one = &search->logs.at[log];
		struct zv_ordered *step = PUSH(o->escape, o->steps);
		*step = (struct zv_ordered){.call = one->call, .step = one->step};
		/* Newest first, so the last step of a malloc comes before its others. */
		uint64_t row = (uint64_t)one->call.row;
		if (one->step == ZV_TAKE)
			zv_put_key(o->escape, &o->ended, row, 1);
		step->ended = one->step == ZV_WHOLE || zc_map_get(&o->ended, row);
		if (one->step == ZV_LOOK)
			zc_map_take(&o->ended, row);
	}
	if (!o->steps.len)
		return;
	for (size_t i = 0, j = o->steps.len - 1; i < j; i++, j--) {
		struct zv_ordered step = o->steps.at[i];
		o->steps.at[i] = o->steps.at[j];
		o->steps.at[j] = step;
	}
	report_steps(o, tally);
}

void zv_order_publish(const struct zv_order *o, struct zv_found *found)
{
	found->at_ns = o->at_ns.at;
	found->row = o->row.at;
	found->step = o->step.at;
	found->order_len = o->at_ns.len;
	found->race_calls = o->race_calls.at;
	found->race_steps = o->race_steps.at;
	found->race_ends = o->race_ends.at;
	found->races_len = o->race_ends.len;
}
