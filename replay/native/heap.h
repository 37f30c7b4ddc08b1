/* SPDX-License-Identifier: GPL-2.0-only */
/* The block of lowest index, or of highest: blocks come and go in any order while orders are tried. */
#ifndef ZTRACE_HEAP_H
#define ZTRACE_HEAP_H

#include "vector.h"

/* Indices, negated if ``sign`` is -1; some of blocks that are gone. */
struct zv_heap {
	VECTOR(int64_t) keys;
	int sign;
};

/* Note that a block is there; ``blocks``: index -> block, of all that are. */
void zv_heap_note(struct zv_escape *escape, struct zv_heap *heap, const struct zc_map *blocks,
		  uint64_t index);
/* The value in ``blocks`` of the lowest index (sign 1) or highest (-1), or 0. */
uint64_t zv_heap_top(struct zv_heap *heap, const struct zc_map *blocks);

#endif
