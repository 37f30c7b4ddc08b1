/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Plays a zsmalloc pool's recorded calls in the order in which they held the lock, and says whether
 * all that they tell is what the model does.
 *
 * The rules are those of replay/validate/lock_order.py, which is the specification, and which says
 * what differs where something does: that is not asked here. Structures are mirrored in
 * replay/validate/lock_native.py. One pool is used by one thread at a time.
 */
#ifndef ZTRACE_LOCK_CHECK_H
#define ZTRACE_LOCK_CHECK_H

#include "core.h"

enum { ZV_LOCK_MALLOC, ZV_LOCK_FREE, ZV_LOCK_COMPACT };

/* A call and the moment at which it held the lock, in ns; ``address`` and ``slot`` of a malloc. */
struct zv_lock_call {
	int64_t now, ts, end, row;
	int64_t size;
	int64_t pages; /* the pool's as the call returned, -1: not told */
	uint64_t handle, address;
	uint32_t slot;
	int32_t ret;
	uint8_t kind;
};

/* What was played so far. */
struct zv_lock_tally {
	uint64_t places, errors, unknown, compactions, sizes, sure_sizes;
	uint64_t moved, added_beside_room, put_off, ties;
	uint8_t beside;  /* a compaction ran beside other calls */
	uint8_t differs; /* the model answers otherwise somewhere; nothing after it counts */
};

struct zv_locks;

/* A pool that began empty; NULL for an impossible configuration or if there is no memory. */
ZC_API struct zv_locks *zv_locks_create(const struct zc_config *config);
ZC_API void zv_locks_destroy(struct zv_locks *locks);
/* Play calls in the order of ``now``; no later one has an earlier moment. 0 or ZC_NO_MEMORY. */
ZC_API int zv_locks_play(struct zv_locks *locks, const struct zv_lock_call *calls, uint64_t count);
ZC_API int zv_locks_finish(struct zv_locks *locks);
ZC_API const struct zv_lock_tally *zv_locks_tally(const struct zv_locks *locks);

#endif
