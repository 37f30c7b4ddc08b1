/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the kernel has objects, against where the models have them: RecordedOrder of
 * replay/validate/recorded_order.py in C, whose names and comments hold here too. That one also says
 * what differs. Only where a pool's objects are compared at all; 0 or why the player ended.
 */
#ifndef ZTRACE_PLACES_H
#define ZTRACE_PLACES_H

#include "player.h"

/* After a malloc that the model has just played. */
int zp_place_malloc(struct player *p, struct run *run, uint64_t row);
/* After a map of an object, by its reference. */
int zp_place_map(struct player *p, struct run *run, uint64_t row, uint64_t ref);
/* Before an object is freed. */
void zp_leave_place(struct player *p, struct run *run, uint64_t ref);
/* After objects have moved. */
int zp_count_objects(struct player *p, struct run *run, uint64_t number);

#endif
