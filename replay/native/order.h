/* SPDX-License-Identifier: GPL-2.0-only */
/* The order that was found, as arrays, and the stretches of it that a race may be in. */
#ifndef ZTRACE_ORDER_H
#define ZTRACE_ORDER_H

#include "search.h"

struct zv_ordered {
	struct zv_call call;
	uint8_t step;
	bool ended;  /* the malloc has made its last step */
	bool in_one; /* the three steps of a malloc follow each other; of the first of them */
};

struct zv_order {
	struct zv_escape *escape;
	bool wanted;
	VECTOR(struct zv_ordered) steps; /* of the stretch at hand */
	VECTOR(int64_t) latest;
	struct zc_map ended, marked;
	VECTOR(int64_t) at_ns;
	VECTOR(int64_t) row;
	VECTOR(int8_t) step;
	VECTOR(struct zv_call) race_calls;
	VECTOR(int8_t) race_steps;
	VECTOR(uint64_t) race_ends;
};

int zv_order_init(struct zv_order *order, struct zv_escape *escape, bool wanted);
void zv_order_clear(struct zv_order *order);
/* What was found last time is not wanted any more. */
void zv_order_begin(struct zv_order *order);
/* A call that took effect in one piece. */
void zv_order_add(struct zv_order *order, int64_t at_ns, int64_t row, int8_t step);
/* The first hypothesis' order is the one found. */
void zv_order_commit(struct zv_order *order, const struct zv_search *search,
		     struct zv_tally *tally);
void zv_order_publish(const struct zv_order *order, struct zv_found *found);

bool zv_equal_calls(const struct zv_call *a, const struct zv_call *b);

#endif
