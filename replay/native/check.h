/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Searches for an order of one ztree block tree's recorded calls that gives the recorded handles.
 *
 * The rules are those of allocator/ztree/steps.py and replay/validate/{search,checker}.py, which are
 * the specification: every count and every refusal is theirs. Calls come in, in order of time; what
 * is found comes out as arrays. Structures here are mirrored in replay/validate/native.py, which
 * layout.c lets it check. One tree is used by one thread at a time; trees share nothing.
 */
#ifndef ZTRACE_CHECK_H
#define ZTRACE_CHECK_H

#include "core.h"

/* What a call asks of the tree: BlockKind of calls.py. */
enum {
	ZV_MALLOC,
	ZV_FREE,
	ZV_FAILED_MALLOC,
	ZV_PASS,
	ZV_CHOOSE,
	ZV_RECOVER,
	ZV_SETTLE,
	ZV_MISFIT,
	ZV_KINDS
};

/* How far a step takes a call: BlockStep of calls.py. */
enum { ZV_WHOLE, ZV_LOOK, ZV_INSERT, ZV_TAKE };

/* What the model does instead of a call that nothing explains: Said of calls.py. */
enum {
	ZV_OTHER_TYPE,
	ZV_NO_FREE_SLOT,
	ZV_NEW_BLOCK_ADRIFT,
	ZV_NEW_BLOCK,
	ZV_GIVES,
	ZV_NO_BLOCK,
	ZV_FREE_ALREADY,
	ZV_NOT_TO_RECOVER,
	ZV_NOT_RECLAIMED,
	ZV_TAKES,
	ZV_DOES_NOT_TAKE,
};

/* What a fault like this likely comes from: Cause of causes.py. */
enum { ZV_CUT_SHORT, ZV_MALLOC_LOST, ZV_FREE_LOST, ZV_BLOCKS_LOST, ZV_OTHER_RULE };

/*
 * Beside ZC_NO_MEMORY: calls out of order or that no trace can hold, and nothing was done; and the
 * tree is not what the search left, after which it is not used any more.
 */
enum { ZV_BAD_CALL = 32, ZV_CONTRADICTION = 33 };

enum { ZV_SLOTS = 16, ZV_KEPT = 20 };

/* Block and slot of the handle; times in ns. ``began``: see page_check.h. */
struct zv_call {
	int64_t ts, end;
	int8_t kind;
	int64_t block;
	int8_t slot;
	int64_t row;
	uint16_t cpu;
	uint32_t tid;
	int64_t size, began;
};

/* TreeTally of ztree_checker.py. */
struct zv_tally {
	uint64_t calls, explained, in_part, groups, overlapping, largest_group, dead_ends;
	uint64_t most_hypotheses, out_of_order, cut_short, split;
};

/* A step of a call that is number ``number`` of its group. */
struct zv_tried {
	uint32_t number;
	uint8_t step;
};

struct zv_failure {
	struct zv_call call;
	int64_t block; /* of the model's answer; -1: none */
	int32_t slot;
	uint8_t said, cause;
	uint64_t around, around_len; /* in zv_found.around: the group that it was in, itself too */
	uint64_t tried, tried_len; /* in zv_found.tried: the longest order of the group's steps */
};

/* What the last call found; valid until the next one. */
struct zv_found {
	/* the order, in order of time: a moment of each step, the row of its call, the step */
	const int64_t *at_ns, *row;
	const int8_t *step;
	uint64_t order_len;
	/* stretches of found order that a race may be in: steps, and the end of each stretch */
	const struct zv_call *race_calls;
	const int8_t *race_steps;
	const uint64_t *race_ends;
	uint64_t races_len;
	/* the first ZV_KEPT calls of the tree that nothing explains */
	const struct zv_failure *failures;
	const struct zv_call *around;
	const struct zv_tried *tried;
	uint64_t failures_len;
	uint64_t failed; /* how many there were, kept or not */
	/* begin of the earliest call whose place in the order is not certain yet, or INT64_MAX */
	int64_t undecided_since;
	struct zv_tally tally;
};

struct zv_tree;

/*
 * A tree with blocks of ``slots`` slots, whose indices wrap at ``max_index``. ``starts_empty``: it
 * had no blocks before the first call. ``wants_order``: fill the order's arrays. NULL for
 * impossible arguments or if there is no memory.
 */
ZC_API struct zv_tree *zv_create(uint32_t slots, uint64_t max_index, int starts_empty,
				 int wants_order);
ZC_API void zv_destroy(struct zv_tree *tree);

/*
 * Check calls sorted by (ts, row), after those of earlier batches, as far as no call that is still
 * to come can overlap them: it begins at ``limit`` or later. *done says how many that were.
 */
ZC_API int zv_check(struct zv_tree *tree, const struct zv_call *calls, uint64_t count,
		    int64_t limit, uint64_t *done);

/* No more calls: of orders that no call can tell apart, the first is taken. */
ZC_API int zv_finish(struct zv_tree *tree);

ZC_API const struct zv_found *zv_found_of(const struct zv_tree *tree);

#endif
