/* SPDX-License-Identifier: GPL-2.0-only */
#define _DEFAULT_SOURCE /* clock_gettime */
#include "timing.h"

#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t zp_ticks(void)
{
#if defined(__x86_64__)
	unsigned cpu;
	uint64_t now = __rdtscp(&cpu);
	_mm_lfence();
	return now;
#else
	return now_ns();
#endif
}

static int compare_ticks(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

void zp_calibrate(struct zp_timing *timing)
{
	enum { EMPTY = 4001 };
	uint64_t spans[EMPTY], begun_ns = now_ns(), begun = zp_ticks();
	for (int i = 0; i < EMPTY; i++) {
		uint64_t from = zp_ticks();
		spans[i] = zp_ticks() - from;
	}
	qsort(spans, EMPTY, sizeof(*spans), compare_ticks);
	timing->overhead_ticks = spans[EMPTY / 2];
	while (now_ns() - begun_ns < 20000000)
		;
	uint64_t passed = zp_ticks() - begun;
	timing->ns_per_tick = passed ? (double)(now_ns() - begun_ns) / (double)passed : 1;
}

void zp_note_time(struct player *p, int call, int64_t size, uint64_t spent)
{
	struct zp_timing *timing = p->timing;
	spent = spent > timing->overhead_ticks ? spent - timing->overhead_ticks : 0;
	int64_t class = (size - 1) * ZP_TIME_CLASSES / p->options.page_bytes;
	if (class < 0 || class >= ZP_TIME_CLASSES)
		return;
	if (spent > UINT32_MAX)
		spent = UINT32_MAX;
	uint32_t high = 31 - (uint32_t)__builtin_clz((uint32_t)spent | 1);
	uint32_t fine = (uint32_t)((spent << 4 >> high) & (ZP_TIME_FINE - 1));
	timing->counts[call][class][high * ZP_TIME_FINE + fine]++;
	if (spent > timing->most_ticks[call][class])
		timing->most_ticks[call][class] = spent;
}
