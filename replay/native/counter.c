/* SPDX-License-Identifier: GPL-2.0-only */
#include "counter.h"

#include <stdlib.h>
#include <string.h>

static size_t waiting(const struct zv_moments *moments)
{
	return moments->all.len - moments->first;
}

static void add(struct zv_escape *escape, struct zv_moments *moments, struct zv_moment one)
{
	/* Done ones are as many as those that wait: to move these costs each of them one step. */
	if (moments->first && moments->first >= waiting(moments)) {
		memmove(moments->all.at, moments->all.at + moments->first,
			waiting(moments) * sizeof(one));
		moments->all.len -= moments->first;
		moments->first = 0;
	}
	*PUSH(escape, moments->all) = one;
}

void zv_counter_change(struct zv_escape *escape, struct zv_counter *counter, struct zv_moment one)
{
	add(escape, &counter->changes, one);
}

void zv_counter_read(struct zv_escape *escape, struct zv_counter *counter, struct zv_moment one)
{
	add(escape, &counter->readings, one);
}

void zv_counter_revive(struct zv_escape *escape, struct zv_counter *counter, struct zv_moment one)
{
	if (counter->kept >= one.pages)
		counter->kept -= one.pages;
	else
		zv_counter_change(escape, counter, one);
}

static const struct zv_moment *end_of(const struct zv_moments *moments)
{
	return moments->all.at + moments->all.len;
}

/* What every later reading comes after is settled. */
static void settle(struct zv_counter *counter, int64_t before)
{
	struct zv_moments *changes = &counter->changes;
	while (waiting(changes) && changes->all.at[changes->first].end < before)
		counter->settled += changes->all.at[changes->first++].pages;
}

static void range(const struct zv_counter *counter, const struct zv_moment *reading, int64_t *low,
		  int64_t *high)
{
	const struct zv_moments *changes = &counter->changes;
	*low = *high = counter->settled;
	if (!waiting(changes))
		return;
	for (const struct zv_moment *one = changes->all.at + changes->first;
	     one < end_of(changes) && one->begin <= reading->end; one++) {
		bool certain = one->end < reading->begin || one->row == reading->row;
		*low += certain || one->pages < 0 ? one->pages : 0;
		*high += certain || one->pages > 0 ? one->pages : 0;
	}
}

/* Pages that a free has emptied and not given back yet; negative: those of before now. */
static int64_t put_off(const struct zv_counter *counter, const struct zv_moment *reading,
		       int64_t low, int64_t high)
{
	const struct zv_moments *changes = &counter->changes;
	int64_t pages = reading->pages, own = 0;
	for (size_t at = changes->first; at < changes->all.len; at++)
		if (changes->all.at[at].row == reading->row)
			own -= changes->all.at[at].pages;
	if (own > 0 && low <= pages - own && pages - own <= high)
		return own;
	return low <= pages + counter->kept && pages + counter->kept <= high ? -counter->kept : 0;
}

void zv_counter_advance(struct zv_counter *counter, int64_t now)
{
	struct zv_moments *readings = &counter->readings;
	while (waiting(readings) && readings->all.at[readings->first].end < now) {
		const struct zv_moment *reading = &readings->all.at[readings->first++];
		int64_t low, high;
		settle(counter, reading->begin);
		range(counter, reading, &low, &high);
		if (ZC_UNLIKELY(reading->pages < low || reading->pages > high)) {
			int64_t correction = put_off(counter, reading, low, high);
			counter->settled += correction;
			counter->kept += correction;
			low += correction;
			high += correction;
		}
		counter->compared++;
		counter->sure += low == high;
		counter->differs |= reading->pages < low || reading->pages > high;
	}
}

void zv_counter_clear(struct zv_counter *counter)
{
	free(counter->changes.all.at);
	free(counter->readings.all.at);
}
