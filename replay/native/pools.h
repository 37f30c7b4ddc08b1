/* SPDX-License-Identifier: GPL-2.0-only */
/* A pool of the trace and its model, from its first row to the last. */
#ifndef ZTRACE_POOLS_H
#define ZTRACE_POOLS_H

#include "player.h"

/* The first row of a pool: makes its model. */
int zp_meet(struct player *p, uint32_t number);
/* Its model ended in a call: ends the pool, which is no error, or the player. */
int zp_stop(struct player *p, struct run *run, const char *call, uint64_t number, int code);
void zp_part(struct player *p, struct run *run);

#endif
