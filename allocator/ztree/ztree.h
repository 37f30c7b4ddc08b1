/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A tree of blocks of the posted ztree, and its rules: what the pool (ztree.c) and the validation of
 * recordings (replay/native/tree_steps.c) both do. BlockTree of model.py.
 */
#ifndef ZTRACE_ZTREE_H
#define ZTRACE_ZTREE_H

#include "core.h"

enum { SLOT_BITS = 4, MAX_SLOTS = 16, INDEX_BITS = 60, ID_BITS = 28 };

/*
 * A slot's state is one bit in each of three masks; no bit set is FREE, ``used`` alone OCCUPIED.
 * ``owned`` is ours: the slots whose handle has an owner. ``listed``: in its tree.
 * ``haunted``: reclaim took a slot from an object that may still be named, by reference.
 * ``older`` and ``newer`` are numbers of blocks, 0 for none. Half a cache line: an object's free
 * waits for nothing else.
 */
struct block {
	uint64_t key; /* type << 60 | index */
	uint16_t free_slots, coeff;
	uint16_t used, mapped, unmapped, owned;
	uint32_t id : ID_BITS, listed : 1, under_reclaim : 1, haunted : 1;
	uint32_t older, newer;
};

_Static_assert(sizeof(struct block) == 32, "two blocks to a cache line");

struct tree {
	uint32_t number, order, slots, slot_bytes, block_bytes;
	struct block *current, *last;
	uint32_t oldest, newest;
	uint64_t counter, blocks;
	int64_t free_total;
	uint32_t reported; /* this tree's term of the pool's size, modulo 2^32 */
};

static inline uint64_t index_of(const struct block *block)
{
	return block->key & ((UINT64_C(1) << INDEX_BITS) - 1);
}

/* The block that a malloc takes a slot of, or NULL: it makes one. */
static inline struct block *look(const struct tree *tree)
{
	if (tree->current && tree->current->free_slots)
		return tree->current;
	if (tree->last && tree->last->free_slots)
		return tree->last;
	return NULL;
}

/* The lowest free slot; beyond the block's comes the one that a block without any gives (H2). */
static inline uint32_t lowest(const struct tree *tree, const struct block *block)
{
	return (uint32_t)__builtin_ctz(~(uint32_t)block->used | 1u << tree->slots);
}

static inline void weigh(const struct tree *tree, struct block *block)
{
	block->coeff = (uint16_t)(block->free_slots * (tree->slots - block->free_slots));
}

static inline uint32_t take(struct tree *tree, struct block *block)
{
	block->free_slots--;
	tree->free_total--;
	uint32_t slot = lowest(tree, block);
	uint16_t bit = (uint16_t)(1u << slot); /* 0 beyond the 16th */
	block->used |= bit;
	if (ZC_UNLIKELY(slot == tree->slots)) {
		block->mapped &= ~bit;
		block->unmapped &= ~bit;
	}
	weigh(tree, block);
	return slot;
}

static inline void credit(struct tree *tree, struct block *block)
{
	block->free_slots++;
	tree->free_total++;
}

static inline void clear(struct block *block, uint32_t slot)
{
	uint16_t keep = (uint16_t)~(1u << slot);
	block->used &= keep;
	block->mapped &= keep;
	block->unmapped &= keep;
}

/* Give a slot back to a block that does not become empty, which may become current. */
static inline void give_slot(struct tree *tree, struct block *block, uint32_t slot)
{
	const struct block *current = tree->current ? tree->current : block;
	tree->current = block->coeff >= current->coeff ? block : tree->current;
	clear(block, slot);
	weigh(tree, block);
}

/* What malloc looks at after a block has become empty and gone. */
static inline void look_elsewhere(struct tree *tree, const struct block *gone)
{
	if (gone == tree->last)
		tree->current = tree->last = NULL;
	else
		tree->current = tree->last;
}

/* Whether a shrink takes the oldest block of the tree. */
static inline bool is_chosen(const struct tree *tree, const struct block *oldest)
{
	return oldest && oldest != tree->current && oldest != tree->last;
}

#endif
