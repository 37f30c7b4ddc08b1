/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A tree of ztree with what is unknown of it, and the steps that recorded calls may make in it:
 * allocator/ztree/steps.py in C, whose names and comments hold here too.
 */
#ifndef ZTRACE_TREE_STEPS_H
#define ZTRACE_TREE_STEPS_H

#include "heap.h"
#include "search.h"
#include "ztree/ztree.h"

#define NO_COUNTER (UINT64_C(1) << 60)

/* ``unseen``: slots of which nobody knows whether they are free; they are in ``used``. */
struct seen_block {
	struct block block;
	uint16_t unseen;
	bool gone;    /* it is in the list of blocks that the tree has not */
	bool reached; /* something still names it */
};

struct watched {
	uint64_t index;
	struct seen_block *block; /* NULL: not known */
};

struct tree_state {
	struct zv_escape *escape;
	struct tree tree;
	uint64_t max_index;
	bool late, adrift;
	struct seen_block unknown; /* ``current`` where nobody knows it */
	struct zc_map blocks;      /* index -> block */
	struct zc_slab slab;
	struct zv_heap oldest, newest; /* the latter only while adrift */
	VECTOR(struct seen_block *) gone;
	size_t gone_limit;
	struct zc_map unseen; /* indices of blocks with unseen slots */
	VECTOR(struct watched) watched;
	VECTOR(struct seen_block *) inserted; /* by a call of the group */
	struct zc_map made; /* index -> block, by the order that was made true */
};

extern const struct zv_model zv_tree_model;

int tree_init(struct tree_state *t, struct zv_escape *escape, uint32_t slots, uint64_t max_index,
	      bool late); /* 0 or ZC_NO_MEMORY */
void tree_clear(struct tree_state *t);

static inline struct seen_block *find(const struct tree_state *t, uint64_t index)
{
	return (struct seen_block *)(uintptr_t)zc_map_get(&t->blocks, index);
}

static inline bool is_unknown(const struct tree_state *t)
{
	return t->tree.current == &t->unknown.block;
}

static inline bool is_unseen(const struct tree_state *t, uint64_t index)
{
	return t->unseen.len && zc_map_get(&t->unseen, index);
}

static inline bool is_taken(const struct seen_block *block, int slot)
{
	return block->block.used >> slot & 1;
}

/* The block of highest index of a tree that is adrift, or NULL. */
struct seen_block *tree_newest(struct tree_state *t);

/* A malloc that finds no free slot and answers slot 0 of block ``index``; false if not. */
bool tree_grow(struct tree_state *t, uint64_t index);
/* The model's release, where everything is known. */
void tree_release(struct tree_state *t, struct seen_block *block, int slot);

/* Add a block that was there before the trace: nothing is known of its slots. */
void tree_adopt(struct tree_state *t, uint64_t index);
/* Make the tree agree with a call that nothing explains; ``current`` is then unknown. */
void tree_force(struct tree_state *t, const struct zv_call *call);
/* What the model does instead of a call, and what the fault likely comes from. */
struct zv_failure tree_answer(struct tree_state *t, const struct zv_call *call);

/* After zv_redo(): the blocks that it made are those of the tree. */
void tree_remember(struct tree_state *t, struct zv_search *search);
/* Give blocks back that neither the tree has nor anything may still name. */
void tree_sweep(struct tree_state *t, const struct zv_exits *hypotheses);

#endif
