/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Live objects by their recorded handles, and those whose handle was given out again before their
 * free was seen to return.
 */
#ifndef ZTRACE_LIVES_H
#define ZTRACE_LIVES_H

#include "player.h"

static inline uint64_t ref_of(uint64_t value)
{
	return value >> SIZE_BITS;
}

static inline int64_t size_of(uint64_t value)
{
	return (int64_t)(value & ((1u << SIZE_BITS) - 1));
}

/* The entry of a live object, which the slot ``hint`` may be; or NULL. */
static inline struct zc_slot *find_live(const struct run *run, uint64_t handle, uint32_t hint)
{
	struct zc_slot *slot = &run->live.slots[hint];
	if (ZC_LIKELY(slot->key == handle && slot->value))
		return slot;
	return zc_map_find(&run->live, handle);
}

static inline struct leaving *zp_find_leaving(struct run *run, uint64_t handle)
{
	if (ZC_LIKELY(!run->leaving.len))
		return NULL;
	return (struct leaving *)(uintptr_t)zc_map_get(&run->leaving, handle);
}

/* Note that the handle of the object in ``value`` is given out again. */
int zp_give_again(struct player *p, struct run *run, uint64_t handle, uint64_t value,
		  int64_t given_ns, uint64_t number);
/* An object waits for its free no more; ``old`` is gone. */
void zp_leave(struct run *run, struct leaving *old);
/* Let go of an object whose free never came; ``old`` is gone. */
int zp_drop(struct player *p, struct run *run, struct leaving *old);
/* Give up waiting for frees of handles given out again in rows under ``before``. */
int zp_settle(struct player *p, uint64_t before, int64_t now_ns);

#endif
