/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Recorded sizes of a pool against the values that its count of pages can have had: Counter of
 * replay/validate/page_counts.py in C, whose names and comments hold here too.
 */
#ifndef ZTRACE_COUNTER_H
#define ZTRACE_COUNTER_H

#include "vector.h"

/* The count changed by ``pages``, or was read as ``pages``, at some time from begin to end. */
struct zv_moment {
	int64_t begin, end, row, pages;
};

/* What is before ``first`` is done with. */
struct zv_moments {
	VECTOR(struct zv_moment) all;
	size_t first;
};

struct zv_counter {
	struct zv_moments changes, readings;
	int64_t settled, kept;
	uint64_t compared, sure;
	bool differs; /* a reading is none of the possible values: the rest is not looked at */
};

void zv_counter_change(struct zv_escape *escape, struct zv_counter *counter, struct zv_moment one);
void zv_counter_read(struct zv_escape *escape, struct zv_counter *counter, struct zv_moment one);
void zv_counter_advance(struct zv_counter *counter, int64_t now);
/* A malloc uses the pages of ``one`` again, whose giving back was put off. */
void zv_counter_revive(struct zv_escape *escape, struct zv_counter *counter, struct zv_moment one);
void zv_counter_clear(struct zv_counter *counter);

#endif
