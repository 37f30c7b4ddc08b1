/* SPDX-License-Identifier: GPL-2.0-only */
/* ztree as posted: allocator/ztree/model.py in C, whose names and comments hold here too. */
#include "ztree.h"

#include <stdlib.h>
#include <string.h>

enum { TYPE_BITS = 4, MAX_ORDER = 10 };

/*
 * A reference is the block's number in its slab and the slot; ODD marks the position in ``odd`` of
 * a handle whose slot is not one of the block that gave it (H2 in a block of 16).
 */
enum { ODD_BIT = 44 };
#define ODD (UINT64_C(1) << ODD_BIT)

struct begun {
	struct tree *tree;
	struct block *block;
	uint32_t id;
};

struct ztree {
	struct zc_pool base;
	struct tree trees[ZC_MAX_TYPES];
	uint32_t types, type_shift;
	uint64_t max_index, handle_mask;
	uint8_t *type_of; /* size in units of 4 bytes, rounded up -> type */
	/*
	 * Blocks by index and by age. With objects named by reference neither is needed before
	 * something out of the ordinary, and until then not kept: see index_blocks().
	 */
	bool indexed;
	struct zc_map blocks; /* key -> block */
	struct zc_slab block_slab, begun_slab;
	struct zc_map strays; /* handles with an owner and without a block */
	struct zc_map evicted_unfreed;
	const struct block *stuck;
	uint64_t *odd;
	size_t odd_len, odd_cap;
	uint64_t evicting;
	bool is_evicting;
	/* begun mallocs and reclaims under way, which hold on to blocks that go meanwhile */
	uint32_t pins;
	uint64_t blocks_inserted, blocks_deleted, blocks_searched;
};

struct where {
	uint64_t kind, index;
	uint32_t slot;
};

static uint64_t key_of(uint64_t kind, uint64_t index)
{
	return kind << INDEX_BITS | index;
}

static struct tree *tree_of(struct ztree *z, const struct block *block)
{
	return &z->trees[block->key >> INDEX_BITS];
}

/* Number 0 is no block; block ``id`` has number id + 1. */
static struct block *numbered(const struct ztree *z, uint32_t number)
{
	return number ? zc_slab_at(&z->block_slab, number - 1) : NULL;
}

static uint64_t encode(const struct ztree *z, const struct tree *tree, uint64_t index,
		       uint32_t slot)
{
	uint64_t handle = ((uint64_t)tree->number << z->type_shift) + (index << SLOT_BITS) + slot;
	return handle & z->handle_mask;
}

static struct where decode(const struct ztree *z, uint64_t handle)
{
	uint64_t index_mask = (UINT64_C(1) << (z->type_shift - SLOT_BITS)) - 1;
	return (struct where){handle >> z->type_shift, handle >> SLOT_BITS & index_mask,
			      handle & (MAX_SLOTS - 1)};
}

static struct block *find(const struct ztree *z, uint64_t kind, uint64_t index)
{
	return (struct block *)(uintptr_t)zc_map_get(&z->blocks, key_of(kind, index));
}

/* -- blocks by index and age ----------------------------------------------------------------- */

static void append(struct ztree *z, struct tree *tree, struct block *block)
{
	block->older = tree->newest;
	block->newer = 0;
	if (tree->newest)
		numbered(z, tree->newest)->newer = block->id + 1;
	else
		tree->oldest = block->id + 1;
	tree->newest = block->id + 1;
}

static void unchain(struct ztree *z, struct tree *tree, const struct block *block)
{
	if (block->older)
		numbered(z, block->older)->newer = block->newer;
	else
		tree->oldest = block->newer;
	if (block->newer)
		numbered(z, block->newer)->older = block->older;
	else
		tree->newest = block->older;
}

static int compare_keys(const void *a, const void *b)
{
	uint64_t x = (*(struct block *const *)a)->key, y = (*(struct block *const *)b)->key;
	return (x > y) - (x < y);
}

/*
 * Begin to keep blocks by index and age. No index has been given twice yet, so the order of
 * indices is that of age.
 */
static int index_blocks(struct ztree *z)
{
	if (ZC_LIKELY(z->indexed))
		return 0;
	struct block **listed = malloc(((size_t)z->block_slab.used + 1) * sizeof(*listed));
	if (!listed)
		return zc_out_of_memory(&z->base);
	size_t count = 0;
	for (uint32_t id = 0; id < z->block_slab.used; id++) {
		struct block *block = zc_slab_at(&z->block_slab, id);
		if (block->listed) /* which a spare one is not */
			listed[count++] = block;
	}
	qsort(listed, count, sizeof(*listed), compare_keys);
	int code = 0;
	for (size_t i = 0; i < count && !code; i++) {
		struct zc_slot *slot = zc_map_put(&z->blocks, listed[i]->key);
		if (!slot) {
			code = zc_out_of_memory(&z->base);
			continue;
		}
		slot->value = (uintptr_t)listed[i];
		append(z, tree_of(z, listed[i]), listed[i]);
	}
	free(listed);
	z->indexed = true;
	return code;
}

/* -- owners: a bit in the block that the handle names, or an entry in ``strays`` ------------- */

static bool owns(const struct ztree *z, uint64_t handle, const struct where *at,
		 const struct block *block)
{
	if (ZC_LIKELY(block && block->listed && index_of(block) == at->index))
		return block->owned >> at->slot & 1;
	block = find(z, at->kind, at->index);
	if (block)
		return block->owned >> at->slot & 1;
	return z->strays.len && zc_map_find(&z->strays, handle);
}

static bool is_owned(const struct ztree *z, uint64_t handle)
{
	struct where at = decode(z, handle);
	return owns(z, handle, &at, find(z, at.kind, at.index));
}

static int add_stray(struct ztree *z, struct zc_map *set, uint64_t handle)
{
	struct zc_slot *slot = zc_map_put(set, handle);
	if (!slot)
		return zc_out_of_memory(&z->base);
	slot->value = 1;
	return 0;
}

static int own(struct ztree *z, uint64_t handle)
{
	struct where at = decode(z, handle);
	struct block *block = find(z, at.kind, at.index);
	if (is_owned(z, handle))
		return 0;
	z->base.objects++;
	if (!block)
		return add_stray(z, &z->strays, handle);
	block->owned |= 1u << at.slot;
	return 0;
}

static void disown(struct ztree *z, uint64_t handle)
{
	struct where at = decode(z, handle);
	struct block *block = find(z, at.kind, at.index);
	if (block)
		block->owned &= ~(1u << at.slot);
	else
		zc_map_take(&z->strays, handle);
	z->base.objects--;
}

/* A block that comes takes over the owners of its handles, one that goes leaves them behind. */
static int adopt_strays(struct ztree *z, struct tree *tree, struct block *block)
{
	if (ZC_LIKELY(!z->strays.len))
		return 0;
	for (uint32_t slot = 0; slot < MAX_SLOTS; slot++)
		if (zc_map_take(&z->strays, encode(z, tree, index_of(block), slot)))
			block->owned |= 1u << slot;
	return 0;
}

static int leave_strays(struct ztree *z, struct tree *tree, const struct block *block)
{
	for (uint32_t slot = 0; slot < MAX_SLOTS; slot++)
		if (block->owned >> slot & 1 &&
		    add_stray(z, &z->strays, encode(z, tree, index_of(block), slot)))
			return ZC_NO_MEMORY;
	return 0;
}

/* -- accounting ----------------------------------------------------------------------------- */

static void retotal(struct ztree *z, struct tree *tree)
{
	z->base.total_bytes -= tree->reported;
	tree->reported = (uint32_t)(tree->blocks * tree->slot_bytes * tree->slots);
	z->base.total_bytes += tree->reported;
	if (ZC_UNLIKELY(z->base.total_bytes < z->base.held_bytes >> 1))
		zc_meet(&z->base, "H30", "reports %" PRIu64 " of %" PRIu64 " bytes",
			z->base.total_bytes, z->base.held_bytes);
}

static void grew(struct ztree *z, struct tree *tree)
{
	z->blocks_inserted++;
	z->base.held_bytes += tree->block_bytes;
	retotal(z, tree);
}

/* Take a block out of its tree; it is not gone before shrank(). */
static void unlink_block(struct ztree *z, struct tree *tree, struct block *block)
{
	if (z->indexed) {
		unchain(z, tree, block);
		zc_map_take(&z->blocks, block->key);
	}
	block->listed = false;
	tree->blocks--;
	tree->free_total -= block->free_slots;
}

static int shrank(struct ztree *z, struct tree *tree, struct block *block)
{
	z->blocks_deleted++;
	z->base.held_bytes -= tree->block_bytes;
	if (block == z->stuck)
		z->stuck = NULL;
	int code = 0;
	if (ZC_UNLIKELY(block->owned)) {
		for (uint32_t slot = 0; slot < tree->slots; slot++)
			if (block->owned >> slot & 1)
				zc_meet(&z->base, "H8",
					"block of live object 0x%" PRIx64 " was given back",
					encode(z, tree, index_of(block), slot));
		code = leave_strays(z, tree, block);
	}
	retotal(z, tree);
	if (!z->pins && block != tree->current && block != tree->last && !block->owned &&
	    !block->haunted)
		zc_slab_put(&z->block_slab, block, block->id);
	return code;
}

/* -- malloc --------------------------------------------------------------------------------- */

/* Enter a block into the index; ZC_FATAL if another has its key. */
static int enter(struct ztree *z, struct tree *tree, uint64_t key, struct zc_slot **entered)
{
	*entered = zc_map_put(&z->blocks, key);
	if (!*entered)
		return zc_out_of_memory(&z->base);
	if (!(*entered)->value)
		return 0;
	return zc_fatal(&z->base, "H28", "block index %" PRIu64 " of type %u is in use",
			key & ((UINT64_C(1) << INDEX_BITS) - 1), tree->number);
}

static int insert(struct ztree *z, struct tree *tree, struct block **made)
{
	uint64_t key = key_of(tree->number, tree->counter);
	struct zc_slot *slot = NULL;
	int code = 0;
	if (ZC_UNLIKELY(++tree->counter == z->max_index)) {
		tree->counter = 0;
		code = index_blocks(z);
	}
	if (z->indexed && !code)
		code = enter(z, tree, key, &slot);
	if (ZC_UNLIKELY(code))
		return code;
	uint32_t id = 0;
	struct block *block = zc_slab_get(&z->block_slab, &id);
	if (ZC_UNLIKELY(!block || id >> ID_BITS)) {
		if (slot)
			z->blocks.len--;
		return zc_out_of_memory(&z->base);
	}
	*block = (struct block){
		.key = key, .free_slots = (uint16_t)tree->slots, .listed = true, .id = id};
	if (slot) {
		slot->value = (uintptr_t)block;
		append(z, tree, block);
	}
	tree->last = block;
	tree->blocks++;
	tree->free_total += tree->slots;
	*made = block;
	return adopt_strays(z, tree, block);
}

static int add_odd(struct ztree *z, uint64_t handle)
{
	if (z->odd_len == z->odd_cap) {
		size_t cap = z->odd_cap ? 2 * z->odd_cap : 16;
		uint64_t *odd = realloc(z->odd, cap * sizeof(*odd));
		if (!odd)
			return ZC_NO_MEMORY;
		z->odd = odd;
		z->odd_cap = cap;
	}
	z->base.last_ref = ODD | z->odd_len;
	z->odd[z->odd_len++] = handle;
	return 0;
}

static int give(struct ztree *z, struct tree *tree, struct block *block, uint32_t slot,
		uint64_t *given)
{
	uint64_t handle = encode(z, tree, index_of(block), slot);
	*given = handle;
	z->base.last_ref = (uint64_t)block->id << SLOT_BITS | slot;
	if (ZC_UNLIKELY(slot == MAX_SLOTS) && z->base.by_ref && add_odd(z, handle))
		return zc_out_of_memory(&z->base);
	bool strange = slot == tree->slots || !block->listed || block->owned >> slot & 1;
	if (ZC_UNLIKELY(strange)) {
		int code = index_blocks(z);
		if (code)
			return code;
		if (slot == tree->slots || is_owned(z, handle))
			zc_meet(&z->base, "H2",
				"malloc gave 0x%" PRIx64 ": no slot was really free", handle);
	}
	if (ZC_UNLIKELY(handle == 0))
		zc_meet(&z->base, "H27", "handle 0 was given out");
	if (ZC_UNLIKELY(strange))
		return own(z, handle);
	block->owned |= 1u << slot;
	z->base.objects++;
	return 0;
}

static struct tree *tree_for(struct ztree *z, int64_t size)
{
	return &z->trees[z->type_of[(uint64_t)(size + 3) / 4]];
}

/* Blocks whose free slots look() read until it found this one. */
static uint32_t looked_at(const struct tree *tree, const struct block *found)
{
	if (found && found == tree->current)
		return 1;
	return (tree->current != NULL) + (tree->last != NULL);
}

static int add_block(struct ztree *z, struct tree *tree, struct block **made)
{
	z->blocks_searched += looked_at(tree, NULL);
	if (tree->free_total > 0)
		zc_meet(&z->base, "H11",
			"a new block of type %u while %" PRId64
			" slots in other blocks of it were free",
			tree->number, tree->free_total);
	int code = insert(z, tree, made);
	if (!code)
		grew(z, tree);
	return code;
}

static int ztree_malloc(struct zc_pool *pool, int64_t size, uint64_t *handle)
{
	struct ztree *z = (struct ztree *)pool;
	if (size <= 0)
		return -EINVAL;
	if (size > pool->page_bytes)
		return -ENOSPC;
	struct tree *tree = tree_for(z, size);
	struct block *block = look(tree);
	if (ZC_UNLIKELY(!block)) {
		int code = add_block(z, tree, &block);
		if (code)
			return code;
		tree->current = block;
	} else {
		z->blocks_searched += looked_at(tree, block);
	}
	uint32_t slot = take(tree, block);
	pool->slots_scanned += slot + 1;
	return give(z, tree, block, slot, handle);
}

static int ztree_begin(struct zc_pool *pool, int64_t size, uint64_t *ticket)
{
	struct ztree *z = (struct ztree *)pool;
	if (size <= 0)
		return -EINVAL;
	if (size > pool->page_bytes)
		return -ENOSPC;
	uint32_t id = 0;
	struct begun *begun = zc_slab_get(&z->begun_slab, &id);
	if (!begun)
		return zc_out_of_memory(pool);
	begun->id = id;
	begun->tree = tree_for(z, size);
	int code = index_blocks(z);
	if (!code)
		code = add_block(z, begun->tree, &begun->block);
	z->pins++;
	*ticket = (uintptr_t)begun;
	return code;
}

static int ztree_end(struct zc_pool *pool, uint64_t ticket, uint64_t *handle)
{
	struct ztree *z = (struct ztree *)pool;
	struct begun *begun = (struct begun *)(uintptr_t)ticket;
	struct tree *tree = begun->tree;
	struct block *block = begun->block;
	zc_slab_put(&z->begun_slab, begun, begun->id);
	z->pins--;
	tree->current = block;
	return give(z, tree, block, take(tree, block), handle);
}

/* -- free ----------------------------------------------------------------------------------- */

/* What a call names: ``block`` is NULL if no block has that index. */
struct named {
	uint64_t handle;
	struct where at;
	struct tree *tree;
	struct block *block;
};

static uint64_t ztree_handle_of(struct zc_pool *pool, uint64_t ref)
{
	struct ztree *z = (struct ztree *)pool;
	if (ref & ODD)
		return z->odd[ref & ~ODD];
	const struct block *block = zc_slab_at(&z->block_slab, ref >> SLOT_BITS);
	return encode(z, tree_of(z, block), index_of(block), ref & (MAX_SLOTS - 1));
}

static int name(struct ztree *z, uint64_t name, const char *call, struct named *named)
{
	if (ZC_LIKELY(z->base.by_ref && !(name & ODD))) {
		struct block *block = zc_slab_at(&z->block_slab, name >> SLOT_BITS);
		named->tree = tree_of(z, block);
		named->at = (struct where){block->key >> INDEX_BITS, index_of(block),
					   name & (MAX_SLOTS - 1)};
		named->handle = encode(z, named->tree, named->at.index, named->at.slot);
		named->block = block;
		if (ZC_LIKELY(block->listed))
			return 0;
		int code = index_blocks(z);
		named->block = find(z, named->at.kind, named->at.index);
		return code;
	}
	int code = index_blocks(z);
	if (code)
		return code;
	uint64_t handle = z->base.by_ref ? ztree_handle_of(&z->base, name) : name;
	named->handle = handle;
	named->at = decode(z, handle);
	if (ZC_UNLIKELY(handle > z->handle_mask || named->at.kind >= z->types))
		return zc_fatal(&z->base, "H8", "%s of 0x%" PRIx64 ", which names no block type",
				call, handle);
	named->tree = &z->trees[named->at.kind];
	named->block = find(z, named->at.kind, named->at.index);
	return 0;
}

static void note_free(struct ztree *z, uint64_t handle, const struct where *at, struct block *block)
{
	if (ZC_LIKELY(block && block->owned >> at->slot & 1)) {
		block->owned &= ~(1u << at->slot);
		z->base.objects--;
	} else if (owns(z, handle, at, block)) {
		disown(z, handle);
	} else if (zc_map_take(&z->evicted_unfreed, handle)) {
		zc_meet(&z->base, "H18", "0x%" PRIx64 " freed after reclaim had taken its slot",
			handle);
	} else {
		zc_meet(&z->base, "H8", "free of 0x%" PRIx64 ", which is not allocated", handle);
	}
}

static int delete_empty(struct ztree *z, struct tree *tree, struct block *block)
{
	unlink_block(z, tree, block);
	struct block *before = tree->current;
	look_elsewhere(tree, block);
	int64_t forgotten = 0;
	if (!look(tree))
		forgotten = tree->free_total;
	else if (before && before != block && before != tree->current)
		forgotten = before->free_slots;
	uint64_t index = index_of(block);
	int code = shrank(z, tree, block);
	if (forgotten)
		zc_meet(&z->base, "H10",
			"block %" PRIu64 " of type %u became empty and current was reset: %" PRId64
			" free slots of other blocks forgotten",
			index, tree->number, forgotten);
	return code;
}

/* The kernel's part of a free: its block gets a slot back, or goes. */
static int give_back(struct ztree *z, struct tree *tree, struct block *block, uint32_t slot)
{
	credit(tree, block);
	if (ZC_UNLIKELY(block->free_slots == tree->slots))
		return delete_empty(z, tree, block);
	give_slot(tree, block, slot);
	return 0;
}

static void count_levels(struct ztree *z, const struct tree *tree)
{
	z->base.tree_levels += 64 - (uint32_t)__builtin_clzll(tree->blocks | 1);
}

/* The free of an object of which there is more to be said than that it goes. */
static int free_strange(struct ztree *z, uint64_t object)
{
	struct zc_pool *pool = &z->base;
	struct named named = {0};
	int code = name(z, object, "free", &named);
	if (code)
		return code;
	uint64_t handle = named.handle;
	struct tree *tree = named.tree;
	struct block *block = named.block;
	note_free(z, handle, &named.at, block);
	count_levels(z, tree);
	if (ZC_UNLIKELY(!block)) {
		zc_meet(pool, "H8", "free of 0x%" PRIx64 ": block not found", handle);
		return 0;
	}
	if (ZC_UNLIKELY(block->under_reclaim)) {
		if (!z->is_evicting || handle != z->evicting)
			zc_meet(pool, "H15",
				"free of 0x%" PRIx64 " dropped, its block is reclaimed", handle);
		return 0;
	}
	return give_back(z, tree, block, named.at.slot);
}

static int ztree_free(struct zc_pool *pool, uint64_t object)
{
	struct ztree *z = (struct ztree *)pool;
	if (ZC_UNLIKELY(!pool->by_ref || object & ODD))
		return free_strange(z, object);
	struct block *block = zc_slab_at(&z->block_slab, object >> SLOT_BITS);
	uint32_t slot = object & (MAX_SLOTS - 1);
	if (ZC_UNLIKELY(!block->listed || block->under_reclaim || !(block->owned >> slot & 1)))
		return free_strange(z, object);
	struct tree *tree = tree_of(z, block);
	block->owned &= ~(1u << slot);
	pool->objects--;
	count_levels(z, tree);
	return give_back(z, tree, block, slot);
}

/* -- map and unmap -------------------------------------------------------------------------- */

static int set_state(struct ztree *z, uint64_t object, const char *call, bool mapped)
{
	struct named named = {0};
	int code = name(z, object, call, &named);
	if (code)
		return code;
	uint64_t handle = named.handle;
	struct where at = named.at;
	struct block *block = named.tree->current;
	if (!block || index_of(block) != at.index)
		block = named.block;
	if (ZC_UNLIKELY(!block)) {
		zc_meet(&z->base, "H26", "%s of 0x%" PRIx64 ": block not found, NULL returned",
			call, handle);
		return 0;
	}
	uint16_t bit = (uint16_t)(1u << at.slot);
	if (ZC_UNLIKELY(!(block->used & bit)) && !owns(z, handle, &at, block))
		zc_meet(&z->base, "H24", "%s of 0x%" PRIx64 ", which is free: slot resurrected",
			call, handle);
	block->used |= bit;
	if (mapped) {
		block->mapped |= bit;
		block->unmapped &= ~bit;
	} else {
		block->unmapped |= bit;
		block->mapped &= ~bit;
	}
	return 0;
}

static int ztree_map(struct zc_pool *pool, uint64_t object)
{
	return set_state((struct ztree *)pool, object, "map", true);
}

static int ztree_unmap(struct zc_pool *pool, uint64_t object)
{
	return set_state((struct ztree *)pool, object, "unmap", false);
}

/* -- reclaim -------------------------------------------------------------------------------- */

static struct block *choose(const struct ztree *z, const struct tree *tree)
{
	struct block *block = numbered(z, tree->oldest);
	if (!is_chosen(tree, block))
		return NULL;
	block->under_reclaim = true;
	return block;
}

static int evict_block(struct ztree *z, struct tree *tree, struct block *block, zc_evict evict,
		       void *context, int64_t *reclaimed)
{
	for (uint32_t slot = 0; slot < tree->slots; slot++) {
		uint16_t bit = (uint16_t)(1u << slot);
		if (!(block->unmapped & bit))
			continue;
		uint64_t handle = encode(z, tree, index_of(block), slot), outer = z->evicting;
		bool owned = is_owned(z, handle), was_evicting = z->is_evicting;
		z->evicting = handle;
		z->is_evicting = true;
		int refused = evict(context, handle);
		z->evicting = outer;
		z->is_evicting = was_evicting;
		if (z->base.broken)
			return z->base.broken;
		if (refused == ZC_ABORTED)
			return refused;
		if (refused) {
			if (owned && !is_owned(z, handle))
				zc_meet(&z->base, "H17",
					"evict(0x%" PRIx64
					") freed the object, then failed: leaked",
					handle);
			else if (block->mapped & bit)
				zc_meet(&z->base, "H17",
					"evict(0x%" PRIx64 ") failed and left the slot mapped",
					handle);
			break;
		}
		if (is_owned(z, handle)) {
			zc_meet(&z->base, "H16", "evict(0x%" PRIx64 ") gave 0 but did not free it",
				handle);
			disown(z, handle);
			block->haunted = true;
			if (add_stray(z, &z->evicted_unfreed, handle))
				return ZC_NO_MEMORY;
		}
		clear(block, slot);
		credit(tree, block);
		++*reclaimed;
	}
	return 0;
}

/* Give the block back if it is empty, which sets ``empty``; else leave it in the tree. */
static int settle(struct ztree *z, struct tree *tree, struct block *block, bool *empty)
{
	*empty = block->listed && block->free_slots == tree->slots;
	if (!*empty) {
		block->under_reclaim = false;
		weigh(tree, block);
		return 0;
	}
	unlink_block(z, tree, block);
	return shrank(z, tree, block);
}

static int reclaim_block(struct ztree *z, zc_evict evict, void *context, int64_t *ret)
{
	for (uint32_t i = z->types; i-- > 0;) {
		struct tree *tree = &z->trees[i];
		struct block *block = choose(z, tree);
		if (!block) {
			if (tree->blocks > 1)
				zc_meet(&z->base, "H13",
					"type %u skipped: its oldest block is current or last",
					tree->number);
			continue;
		}
		int64_t reclaimed = 0;
		z->pins++;
		int code = evict_block(z, tree, block, evict, context, &reclaimed);
		z->pins--;
		if (code)
			return code;
		bool empty;
		code = settle(z, tree, block, &empty);
		if (code)
			return code;
		if (empty) {
			z->stuck = NULL;
		} else if (!reclaimed) {
			if (z->stuck == block)
				zc_meet(&z->base, "H14",
					"reclaim is stuck on one block of BlockType(number=%u, order=%u, "
					"slots=%u, slot_bytes=%u, block_bytes=%u)",
					tree->number, tree->order, tree->slots, tree->slot_bytes,
					tree->block_bytes);
			z->stuck = block;
		}
		*ret = reclaimed ? reclaimed : -EAGAIN;
		return 0;
	}
	zc_meet(&z->base, "H12", "no block to reclaim: the scan leaves the table of trees");
	return zc_stop(&z->base, "H12", "shrink found no block and ran off the table of trees");
}

static int ztree_shrink(struct zc_pool *pool, int64_t pages, zc_evict evict, void *context,
			int64_t *ret, int64_t *reclaimed)
{
	*reclaimed = 0;
	*ret = -EINVAL;
	int code = index_blocks((struct ztree *)pool);
	if (code)
		return code;
	while (*reclaimed < pages) {
		code = reclaim_block((struct ztree *)pool, evict, context, ret);
		if (code)
			return code;
		if (*ret < 0)
			break;
		*reclaimed += *ret;
		zc_meet(pool, "H23", "shrink counted %" PRId64 " slots as pages and returned them",
			*ret);
	}
	return 0;
}

/* -- the rest ------------------------------------------------------------------------------- */

static void ztree_prefetch(struct zc_pool *pool, uint64_t ref)
{
	if (!(ref & ODD))
		ZC_PREFETCH(zc_slab_at(&((struct ztree *)pool)->block_slab, ref >> SLOT_BITS));
}

enum { POOL_FIGURES = 3, TYPE_FIGURES = 8 };

static size_t ztree_stats_len(struct zc_pool *pool)
{
	return POOL_FIGURES + TYPE_FIGURES * ((struct ztree *)pool)->types;
}

static void ztree_stats(struct zc_pool *pool, int64_t *out)
{
	struct ztree *z = (struct ztree *)pool;
	*out++ = (int64_t)z->blocks_inserted;
	*out++ = (int64_t)z->blocks_deleted;
	*out++ = (int64_t)z->blocks_searched;
	for (uint32_t i = 0; i < z->types; i++) {
		const struct tree *tree = &z->trees[i];
		int64_t seen = tree->current ? tree->current->free_slots : 0;
		if (tree->last && tree->last != tree->current)
			seen += tree->last->free_slots;
		*out++ = tree->number;
		*out++ = tree->slot_bytes;
		*out++ = tree->slots;
		*out++ = tree->order;
		*out++ = (int64_t)tree->blocks;
		*out++ = (int64_t)tree->counter;
		*out++ = tree->free_total;
		*out++ = tree->free_total - seen;
	}
}

static void ztree_destroy(struct zc_pool *pool)
{
	struct ztree *z = (struct ztree *)pool;
	zc_map_clear(&z->blocks);
	zc_map_clear(&z->strays);
	zc_map_clear(&z->evicted_unfreed);
	zc_slab_clear(&z->block_slab);
	zc_slab_clear(&z->begun_slab);
	free(z->type_of);
	free(z->odd);
	free(z);
}

/* Lay out the types; -EINVAL for a table outside ztree's limits. */
static int lay_out(struct ztree *z, const struct zc_config *config)
{
	z->types = config->table_len;
	for (uint32_t i = 0; i < z->types; i++) {
		uint32_t order = config->table[i].order, slots = config->table[i].slots;
		if (order > MAX_ORDER || slots < 1 || slots > MAX_SLOTS)
			return -EINVAL;
		uint32_t block_bytes = config->page_bytes << order;
		uint32_t long_bytes = config->long_bytes;
		uint32_t slot_bytes = block_bytes / (slots * long_bytes) * long_bytes;
		if (i && slot_bytes < z->trees[i - 1].slot_bytes)
			return -EINVAL;
		z->trees[i] = (struct tree){.number = i,
					    .order = order,
					    .slots = slots,
					    .slot_bytes = slot_bytes,
					    .block_bytes = block_bytes};
	}
	return z->trees[z->types - 1].slot_bytes < config->page_bytes ? -EINVAL : 0;
}

static int ztree_create(const struct zc_config *config, struct zc_pool **made)
{
	if (config->table_len < 1 || config->table_len > ZC_MAX_TYPES ||
	    (config->long_bytes != 4 && config->long_bytes != 8))
		return -EINVAL;
	struct ztree *z = calloc(1, sizeof(*z));
	if (!z)
		return ZC_NO_MEMORY;
	z->base.backend = &zc_ztree;
	z->base.page_bytes = config->page_bytes;
	z->base.by_ref = config->by_ref;
	z->indexed = !config->by_ref;
	uint32_t bits = 8 * config->long_bytes;
	z->type_shift = bits - TYPE_BITS;
	z->handle_mask = UINT64_MAX >> (64 - bits);
	uint64_t most = (UINT64_C(1) << (z->type_shift - SLOT_BITS)) - 1;
	z->max_index = config->max_index ? config->max_index : most;
	zc_slab_init(&z->block_slab, sizeof(struct block));
	zc_slab_init(&z->begun_slab, sizeof(struct begun));
	int code = z->max_index > most ? -EINVAL : lay_out(z, config);
	if (!code && (zc_map_init(&z->blocks) || zc_map_init(&z->strays) ||
		      zc_map_init(&z->evicted_unfreed)))
		code = ZC_NO_MEMORY;
	size_t units = config->page_bytes / 4 + 1;
	if (!code && !(z->type_of = malloc(units)))
		code = ZC_NO_MEMORY;
	if (code) {
		ztree_destroy(&z->base);
		return code;
	}
	for (uint32_t unit = 0, type = 0; unit < units; unit++) {
		while (type < z->types - 1 && z->trees[type].slot_bytes < unit * 4)
			type++;
		z->type_of[unit] = (uint8_t)type;
	}
	*made = &z->base;
	return 0;
}

const struct zc_backend zc_ztree = {
	.name = "ztree",
	.create = ztree_create,
	.destroy = ztree_destroy,
	.malloc = ztree_malloc,
	.free = ztree_free,
	.map = ztree_map,
	.unmap = ztree_unmap,
	.shrink = ztree_shrink,
	.begin = ztree_begin,
	.end = ztree_end,
	.handle_of = ztree_handle_of,
	.prefetch = ztree_prefetch,
	.stats_len = ztree_stats_len,
	.stats = ztree_stats,
};
