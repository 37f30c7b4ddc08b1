/* SPDX-License-Identifier: GPL-2.0-only */
/* How long calls of a model take. */
#ifndef ZTRACE_TIMING_H
#define ZTRACE_TIMING_H

#include "player.h"

/* A clock that waits for what came before: the processor's own where there is one. */
uint64_t zp_ticks(void);
/* Measure the clock: its rate over 20 ms, its cost as the median of many empty intervals. */
void zp_calibrate(struct zp_timing *timing);
/* Note a malloc (0) or free (1) that took so many ticks. */
void zp_note_time(struct player *p, int call, int64_t size, uint64_t spent);

#endif
