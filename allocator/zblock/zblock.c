/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Late ztree, zblock of 2022 and of 2025: allocator/zblock/model.py in C, whose names and comments
 * hold here too.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

enum { LATE = 1, ZBLOCK_2022 = 2022, ZBLOCK_2025 = 2025 };
enum { MAX_ORDER = 10, CACHED_BLOCKS = 32, WORD_BITS = 64, LONG_BYTES = 8 };

/* A reference: the block type, the block's number in its type's slab, the slot. */
enum { REF_SLOT_BITS = 9, REF_ID_BITS = 28 };

/*
 * A slot's state is one bit in each of three masks, as in ztree.c: none set is FREE, USED alone
 * OCCUPIED. OWNED is ours: its object has an owner. A mask has a bit more than there are slots,
 * for a slot that was given though none was free.
 */
enum { USED, MAPPED, UNMAPPED, OWNED, MASKS };

/* ``haunted``: reclaim took a slot from an object that may still be named, by reference. */
struct block {
	uint64_t page; /* number of the first one */
	uint32_t id;
	uint16_t free_slots, coeff;
	uint8_t type, cached; /* place in the cache + 1 */
	bool under_reclaim, listed, haunted, active;
	struct block *older, *newer;      /* in its type */
	struct block *active_older, *active_newer;
	uint64_t masks[];
};

struct tree {
	uint32_t number, order, slots, slot_bytes, block_bytes, words; /* of a mask */
	struct zc_slab slab;
	struct block *oldest, *newest;
	uint64_t counter, blocks;
	int64_t free_total;
	struct block *current, *last;          /* late ztree */
	struct block *cache[CACHED_BLOCKS];    /* 2022 */
	/* bit i: cache[i] has a free slot */
	uint32_t room;
	struct block *active_first, *active_last; /* 2025: malloc takes from the first */
};

struct begun {
	struct tree *tree;
	struct block *block;
	uint32_t id;
};

struct successor {
	struct zc_pool base;
	uint32_t variant, types, slot_bits, page_shift;
	int64_t largest;
	struct tree *trees;
	uint8_t *type_of;     /* size in bytes -> type */
	struct zc_map blocks; /* first page -> block, not by reference */
	struct zc_map evicted_unfreed;
	struct zc_slab begun_slab;
	uint64_t pages;
	const struct block *stuck;
	uint64_t evicting;
	bool is_evicting;
	uint32_t pins; /* begun mallocs and reclaims under way, as in ztree.c */
	uint64_t blocks_inserted, blocks_deleted, blocks_searched;
};

/* -- slots ---------------------------------------------------------------------------------- */

static uint64_t *word_of(const struct tree *tree, struct block *block, int mask, uint32_t slot)
{
	return &block->masks[(uint32_t)mask * tree->words + slot / WORD_BITS];
}

static bool has(const struct tree *tree, struct block *block, int mask, uint32_t slot)
{
	return *word_of(tree, block, mask, slot) >> slot % WORD_BITS & 1;
}

static void set(const struct tree *tree, struct block *block, int mask, uint32_t slot)
{
	*word_of(tree, block, mask, slot) |= UINT64_C(1) << slot % WORD_BITS;
}

static void clear(const struct tree *tree, struct block *block, int mask, uint32_t slot)
{
	*word_of(tree, block, mask, slot) &= ~(UINT64_C(1) << slot % WORD_BITS);
}

static void set_free(const struct tree *tree, struct block *block, uint32_t slot)
{
	for (int mask = USED; mask <= UNMAPPED; mask++)
		clear(tree, block, mask, slot);
}

/* The lowest free slot, or the number of slots. */
static uint32_t find_free(const struct tree *tree, struct block *block)
{
	for (uint32_t word = 0; word < tree->words; word++) {
		uint64_t open = ~block->masks[USED * tree->words + word];
		if (open) {
			uint32_t slot = word * WORD_BITS + (uint32_t)__builtin_ctzll(open);
			return slot < tree->slots ? slot : tree->slots;
		}
	}
	return tree->slots;
}

static uint64_t encode(const struct successor *z, const struct block *block, uint32_t slot)
{
	return ((block->page + 1) << z->page_shift) + ((uint64_t)block->type << z->slot_bits) +
	       slot;
}

/* -- the blocks that malloc looks at -------------------------------------------------------- */

static void note_room(struct tree *tree, const struct block *block)
{
	if (!block->cached)
		return;
	uint32_t bit = UINT32_C(1) << (block->cached - 1);
	tree->room = block->free_slots ? tree->room | bit : tree->room & ~bit;
}

static void forget(struct tree *tree, struct block *block)
{
	if (!block->cached)
		return;
	tree->cache[block->cached - 1] = NULL;
	tree->room &= ~(UINT32_C(1) << (block->cached - 1));
	block->cached = 0;
}

/* cache_insert_block() */
static void remember(struct tree *tree, struct block *block)
{
	uint32_t worst = 0;
	if (block->cached)
		return;
	if (~tree->room)
		worst = (uint32_t)__builtin_ctz(~tree->room);
	else
		for (uint32_t i = 1; i < CACHED_BLOCKS; i++)
			if (tree->cache[i]->free_slots < tree->cache[worst]->free_slots)
				worst = i;
	if (tree->cache[worst])
		forget(tree, tree->cache[worst]);
	tree->cache[worst] = block;
	block->cached = (uint8_t)(worst + 1);
	note_room(tree, block);
}

static void activate(struct tree *tree, struct block *block, bool first)
{
	if (block->active)
		return;
	block->active = true;
	block->active_older = first ? NULL : tree->active_last;
	block->active_newer = first ? tree->active_first : NULL;
	if (block->active_older)
		block->active_older->active_newer = block;
	else
		tree->active_first = block;
	if (block->active_newer)
		block->active_newer->active_older = block;
	else
		tree->active_last = block;
}

static void deactivate(struct tree *tree, struct block *block)
{
	if (!block->active)
		return;
	block->active = false;
	if (block->active_older)
		block->active_older->active_newer = block->active_newer;
	else
		tree->active_first = block->active_newer;
	if (block->active_newer)
		block->active_newer->active_older = block->active_older;
	else
		tree->active_last = block->active_older;
}

static struct block *look(const struct successor *z, const struct tree *tree)
{
	switch (z->variant) {
	case ZBLOCK_2022:
		return tree->room ? tree->cache[__builtin_ctz(tree->room)] : NULL;
	case ZBLOCK_2025:
		return tree->active_first;
	default:
		if (tree->current && tree->current->free_slots)
			return tree->current;
		return tree->last && tree->last->free_slots ? tree->last : NULL;
	}
}

static uint32_t looked_at(const struct successor *z, const struct tree *tree,
			  const struct block *found)
{
	switch (z->variant) {
	case ZBLOCK_2022:
		return found ? found->cached : CACHED_BLOCKS;
	case ZBLOCK_2025:
		return found != NULL;
	default:
		if (found && found == tree->current)
			return 1;
		return (tree->current != NULL) + (tree->last != NULL);
	}
}

/* -- steps ---------------------------------------------------------------------------------- */

static void weigh(const struct tree *tree, struct block *block)
{
	block->coeff = (uint16_t)(block->free_slots * (tree->slots - block->free_slots));
}

static uint32_t take(const struct successor *z, struct tree *tree, struct block *block)
{
	block->free_slots--;
	tree->free_total--;
	if (z->variant == ZBLOCK_2022)
		note_room(tree, block);
	else if (z->variant == ZBLOCK_2025 && !block->free_slots)
		deactivate(tree, block);
	uint32_t slot = find_free(tree, block);
	set(tree, block, USED, slot);
	clear(tree, block, MAPPED, slot);
	clear(tree, block, UNMAPPED, slot);
	weigh(tree, block);
	return slot;
}

static void credit(struct tree *tree, struct block *block)
{
	block->free_slots++;
	tree->free_total++;
	note_room(tree, block);
}

static void retotal(struct successor *z)
{
	z->base.total_bytes = z->base.held_bytes;
}

static int insert(struct successor *z, struct tree *tree, struct block **made)
{
	struct zc_slot nowhere = {0, 0}, *entry = &nowhere;
	if (!z->base.by_ref && !(entry = zc_map_put(&z->blocks, z->pages)))
		return zc_out_of_memory(&z->base);
	uint32_t id = 0;
	struct block *block = zc_slab_get(&tree->slab, &id);
	if (!block || id >> REF_ID_BITS) {
		z->blocks.len -= !z->base.by_ref; /* its value is still 0 */
		return zc_out_of_memory(&z->base);
	}
	entry->value = (uintptr_t)block;
	*block = (struct block){.page = z->pages,
				.id = id,
				.free_slots = (uint16_t)tree->slots,
				.type = (uint8_t)tree->number,
				.listed = true,
				.older = tree->newest};
	memset(block->masks, 0, MASKS * tree->words * sizeof(*block->masks));
	z->pages += UINT64_C(1) << tree->order;
	if (tree->newest)
		tree->newest->newer = block;
	else
		tree->oldest = block;
	tree->newest = block;
	tree->blocks++;
	tree->counter++;
	tree->free_total += tree->slots;
	if (z->variant == ZBLOCK_2022) {
		remember(tree, block);
	} else if (z->variant == ZBLOCK_2025) {
		activate(tree, block, true);
		take(z, tree, block); /* slot 0, which the malloc gets at its end */
	} else {
		tree->last = block;
	}
	*made = block;
	return 0;
}

/* Take a block out of its type; it is not gone before shrank(). */
static void unlink_block(struct successor *z, struct tree *tree, struct block *block)
{
	if (block->older)
		block->older->newer = block->newer;
	else
		tree->oldest = block->newer;
	if (block->newer)
		block->newer->older = block->older;
	else
		tree->newest = block->older;
	if (!z->base.by_ref)
		zc_map_take(&z->blocks, block->page);
	forget(tree, block);
	deactivate(tree, block);
	block->listed = false;
	tree->blocks--;
	tree->free_total -= block->free_slots;
}

static void shrank(struct successor *z, struct tree *tree, struct block *block)
{
	bool owned = false;
	z->blocks_deleted++;
	z->base.held_bytes -= tree->block_bytes;
	if (block == z->stuck)
		z->stuck = NULL;
	for (uint32_t slot = 0; slot < tree->slots; slot++) {
		if (!has(tree, block, OWNED, slot))
			continue;
		owned = true;
		zc_meet(&z->base, "H8", "block of live object 0x%" PRIx64 " was given back",
			encode(z, block, slot));
	}
	retotal(z);
	if (!z->pins && block != tree->current && block != tree->last && !owned && !block->haunted)
		zc_slab_put(&tree->slab, block, block->id);
}

/* -- malloc --------------------------------------------------------------------------------- */

static int add_block(struct successor *z, struct tree *tree, struct block **made)
{
	z->blocks_searched += looked_at(z, tree, NULL);
	if (tree->free_total > 0)
		zc_meet(&z->base, "H11",
			"a new block of type %u while %" PRId64
			" slots in other blocks of it were free",
			tree->number, tree->free_total);
	int code = insert(z, tree, made);
	if (code)
		return code;
	z->blocks_inserted++;
	z->base.held_bytes += tree->block_bytes;
	retotal(z);
	return 0;
}

/* The slot that a malloc gets in the block that it has added. */
static uint32_t take_first(const struct successor *z, struct tree *tree, struct block *block)
{
	if (z->variant == ZBLOCK_2025)
		return 0;
	if (z->variant == LATE)
		tree->current = block;
	return take(z, tree, block);
}

static int give(struct successor *z, struct tree *tree, struct block *block, uint32_t slot,
		uint64_t *handle)
{
	*handle = encode(z, block, slot);
	if (ZC_UNLIKELY(slot == tree->slots || has(tree, block, OWNED, slot)))
		zc_meet(&z->base, "H2", "malloc gave 0x%" PRIx64 ": no slot was really free",
			*handle);
	if (!has(tree, block, OWNED, slot))
		z->base.objects++;
	set(tree, block, OWNED, slot);
	z->base.slots_scanned += slot + 1;
	z->base.last_ref = *handle;
	if (z->base.by_ref)
		z->base.last_ref = (uint64_t)tree->number << (REF_ID_BITS + REF_SLOT_BITS) |
				   (uint64_t)block->id << REF_SLOT_BITS | slot;
	return 0;
}

/* The errno of a size that no type takes, else 0. */
static int refuse(const struct successor *z, int64_t size)
{
	if (size <= 0)
		return -EINVAL;
	if (size <= z->largest)
		return 0;
	/* The search for a type of 2025 ends before a page. */
	return z->variant == ZBLOCK_2025 && size == z->base.page_bytes ? -EINVAL : -ENOSPC;
}

static int successor_malloc(struct zc_pool *pool, int64_t size, uint64_t *handle)
{
	struct successor *z = (struct successor *)pool;
	int code = refuse(z, size);
	if (code)
		return code;
	struct tree *tree = &z->trees[z->type_of[size]];
	struct block *block = look(z, tree);
	if (ZC_LIKELY(block)) {
		z->blocks_searched += looked_at(z, tree, block);
		return give(z, tree, block, take(z, tree, block), handle);
	}
	code = add_block(z, tree, &block);
	return code ? code : give(z, tree, block, take_first(z, tree, block), handle);
}

static int successor_begin(struct zc_pool *pool, int64_t size, uint64_t *ticket)
{
	struct successor *z = (struct successor *)pool;
	int code = refuse(z, size);
	if (code)
		return code;
	uint32_t id = 0;
	struct begun *begun = zc_slab_get(&z->begun_slab, &id);
	if (!begun)
		return zc_out_of_memory(pool);
	*begun = (struct begun){.tree = &z->trees[z->type_of[size]], .id = id};
	code = add_block(z, begun->tree, &begun->block);
	z->pins++;
	*ticket = (uintptr_t)begun;
	return code;
}

static int successor_end(struct zc_pool *pool, uint64_t ticket, uint64_t *handle)
{
	struct successor *z = (struct successor *)pool;
	struct begun begun = *(struct begun *)(uintptr_t)ticket;
	zc_slab_put(&z->begun_slab, (struct begun *)(uintptr_t)ticket, begun.id);
	z->pins--;
	return give(z, begun.tree, begun.block, take_first(z, begun.tree, begun.block), handle);
}

/* -- live objects --------------------------------------------------------------------------- */

struct named {
	uint64_t handle;
	struct tree *tree;
	struct block *block;
	uint32_t slot;
};

static struct block *dereference(const struct successor *z, uint64_t ref, struct named *named)
{
	named->tree = &z->trees[ref >> (REF_ID_BITS + REF_SLOT_BITS)];
	named->slot = ref & ((1u << REF_SLOT_BITS) - 1);
	uint64_t id = ref >> REF_SLOT_BITS & ((1u << REF_ID_BITS) - 1);
	return zc_slab_at(&named->tree->slab, id);
}

static uint64_t successor_handle_of(struct zc_pool *pool, uint64_t ref)
{
	const struct successor *z = (struct successor *)pool;
	struct named named;
	if (!pool->by_ref)
		return ref;
	const struct block *block = dereference(z, ref, &named);
	return encode(z, block, named.slot);
}

static int not_live(struct successor *z, uint64_t handle, const char *call, bool is_free)
{
	const char *name = is_free ? "double-free" : "use-after-free", *what = "which is free";
	uint64_t page = handle >> z->page_shift, rest = handle & (z->base.page_bytes - 1);
	uint64_t kind = rest >> z->slot_bits;
	if (zc_map_find(&z->evicted_unfreed, handle)) {
		name = "H18";
		what = "whose slot reclaim has taken";
	} else if (page < 1 || page > z->pages || kind >= z->types) {
		name = "unknown-handle";
		what = "which was never given out";
	} else if ((rest & ((1u << z->slot_bits) - 1)) >= z->trees[kind].slots) {
		name = "unknown-handle";
		what = "which names no slot";
	}
	return zc_fatal(&z->base, name, "%s of 0x%" PRIx64 ", %s", call, handle, what);
}

/* Find a live object by handle or reference; anything else is a fatal hazard. */
static int find(struct successor *z, uint64_t object, const char *call, bool is_free,
		struct named *named)
{
	struct block *block;
	named->handle = object;
	if (z->base.by_ref) {
		block = dereference(z, object, named);
		named->handle = encode(z, block, named->slot);
	} else {
		uint64_t page = object >> z->page_shift, rest = object & (z->base.page_bytes - 1);
		block = (struct block *)(uintptr_t)zc_map_get(&z->blocks, page - 1);
		named->slot = rest & ((1u << z->slot_bits) - 1);
		if (!block || block->type != rest >> z->slot_bits)
			return not_live(z, object, call, is_free);
		named->tree = &z->trees[block->type];
		if (named->slot > named->tree->slots)
			return not_live(z, object, call, is_free);
	}
	named->block = block;
	if (!has(named->tree, block, OWNED, named->slot))
		return not_live(z, named->handle, call, is_free);
	return 0;
}

static void disown(struct successor *z, const struct named *named)
{
	clear(named->tree, named->block, OWNED, named->slot);
	z->base.objects--;
}

/* -- free ----------------------------------------------------------------------------------- */

/* Give an emptied block back; the late ztree may lose sight of others (H10). */
static void delete_empty(struct successor *z, struct tree *tree, struct block *block)
{
	uint64_t page = block->page;
	int64_t forgotten = 0;
	struct block *before = tree->current;
	unlink_block(z, tree, block);
	if (z->variant == LATE) {
		tree->current = tree->last;
		if (block == tree->last)
			tree->current = tree->last = NULL;
		if (!look(z, tree))
			forgotten = tree->free_total;
		else if (before && before != block && before != tree->current)
			forgotten = before->free_slots;
	}
	shrank(z, tree, block);
	if (forgotten)
		zc_meet(&z->base, "H10",
			"block %" PRIu64 " of type %u became empty and current was reset: %" PRId64
			" free slots of other blocks forgotten",
			page, tree->number, forgotten);
}

static int successor_free(struct zc_pool *pool, uint64_t object)
{
	struct successor *z = (struct successor *)pool;
	struct named named = {0};
	int code = find(z, object, "free", true, &named);
	if (code)
		return code;
	struct tree *tree = named.tree;
	struct block *block = named.block;
	disown(z, &named);
	if (ZC_UNLIKELY(!block->listed)) {
		zc_meet(pool, "H8", "free of 0x%" PRIx64 ": block not found", named.handle);
		return 0;
	}
	if (ZC_UNLIKELY(block->under_reclaim)) {
		if (!z->is_evicting || named.handle != z->evicting)
			zc_meet(pool, "H15",
				"free of 0x%" PRIx64 " dropped, its block is reclaimed",
				named.handle);
		return 0;
	}
	credit(tree, block);
	if (block->free_slots == tree->slots) {
		delete_empty(z, tree, block);
		return 0;
	}
	if (z->variant == ZBLOCK_2022)
		remember(tree, block);
	else if (z->variant == ZBLOCK_2025) {
		if (block->free_slots == 1)
			activate(tree, block, false);
	} else if (!tree->current || block->coeff >= tree->current->coeff) {
		tree->current = block;
	}
	set_free(tree, block, named.slot);
	weigh(tree, block);
	return 0;
}

/* -- map and unmap -------------------------------------------------------------------------- */

static int set_state(struct successor *z, uint64_t object, const char *call, bool mapped)
{
	struct named named = {0};
	int code = find(z, object, call, false, &named);
	if (code || z->variant == ZBLOCK_2025)
		return code;
	if (ZC_UNLIKELY(!named.block->listed && named.block != named.tree->current)) {
		zc_meet(&z->base, "H26", "%s of 0x%" PRIx64 ": block not found, NULL returned",
			call, named.handle);
		return 0;
	}
	set(named.tree, named.block, USED, named.slot);
	set(named.tree, named.block, mapped ? MAPPED : UNMAPPED, named.slot);
	clear(named.tree, named.block, mapped ? UNMAPPED : MAPPED, named.slot);
	return 0;
}

static int successor_map(struct zc_pool *pool, uint64_t object)
{
	return set_state((struct successor *)pool, object, "map", true);
}

static int successor_unmap(struct zc_pool *pool, uint64_t object)
{
	return set_state((struct successor *)pool, object, "unmap", false);
}

/* -- reclaim -------------------------------------------------------------------------------- */

/* The block that reclaim takes, or NULL; ZC_FATAL where it takes the empty list's head for one. */
static int choose(struct successor *z, struct tree *tree, struct block **chosen)
{
	struct block *block = tree->oldest;
	*chosen = NULL;
	if (z->variant == ZBLOCK_2022 && !block)
		return zc_fatal(&z->base, "empty-list",
				"type %u has no block: reclaim takes the list's head for one",
				tree->number);
	if (!block || block->cached || block == tree->current || block == tree->last)
		return 0;
	block->under_reclaim = true;
	*chosen = block;
	return 0;
}

static int evict_block(struct successor *z, struct tree *tree, struct block *block, zc_evict evict,
		       void *context, int64_t *reclaimed)
{
	for (uint32_t slot = 0; slot < tree->slots; slot++) {
		if (!has(tree, block, USED, slot) ||
		    (z->variant == LATE ? !has(tree, block, UNMAPPED, slot)
					: has(tree, block, MAPPED, slot)))
			continue;
		struct named named = {encode(z, block, slot), tree, block, slot};
		bool owned = has(tree, block, OWNED, slot), was_evicting = z->is_evicting;
		uint64_t outer = z->evicting;
		z->evicting = named.handle;
		z->is_evicting = true;
		int refused = evict(context, named.handle);
		z->evicting = outer;
		z->is_evicting = was_evicting;
		if (z->base.broken)
			return z->base.broken;
		if (refused == ZC_ABORTED)
			return refused;
		if (refused) {
			if (owned && !has(tree, block, OWNED, slot))
				zc_meet(&z->base, "H17",
					"evict(0x%" PRIx64
					") freed the object, then failed: leaked",
					named.handle);
			else if (has(tree, block, MAPPED, slot))
				zc_meet(&z->base, "H17",
					"evict(0x%" PRIx64 ") failed and left the slot mapped",
					named.handle);
			break;
		}
		if (has(tree, block, OWNED, slot)) {
			zc_meet(&z->base, "H16", "evict(0x%" PRIx64 ") gave 0 but did not free it",
				named.handle);
			disown(z, &named);
			block->haunted = true;
			struct zc_slot *entry = zc_map_put(&z->evicted_unfreed, named.handle);
			if (!entry)
				return zc_out_of_memory(&z->base);
			entry->value = 1;
		}
		set_free(tree, block, slot);
		credit(tree, block);
		++*reclaimed;
	}
	return 0;
}

/* Give the block back if it is empty (true), else leave it where it is. */
static bool settle(struct successor *z, struct tree *tree, struct block *block)
{
	if (!block->listed) /* a reclaim within this one's evictions was faster */
		return false;
	if (block->free_slots == tree->slots) {
		unlink_block(z, tree, block);
		shrank(z, tree, block);
		return true;
	}
	block->under_reclaim = false;
	weigh(tree, block);
	if (z->variant == ZBLOCK_2022)
		remember(tree, block);
	return false;
}

static int reclaim_block(struct successor *z, zc_evict evict, void *context, int64_t *ret)
{
	for (uint32_t i = z->types; i-- > 0;) {
		struct tree *tree = &z->trees[i];
		struct block *block;
		int code = choose(z, tree, &block);
		if (code)
			return code;
		if (!block) {
			if (tree->blocks > 1)
				zc_meet(&z->base, "H13",
					"type %u skipped: its oldest block is current or last",
					tree->number);
			continue;
		}
		int64_t reclaimed = 0;
		z->pins++;
		code = evict_block(z, tree, block, evict, context, &reclaimed);
		z->pins--;
		if (code)
			return code;
		if (settle(z, tree, block)) {
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
	*ret = -EINVAL;
	if (z->variant == ZBLOCK_2022)
		return 0;
	zc_meet(&z->base, "H12", "no block to reclaim: the scan leaves the table of trees");
	return zc_stop(&z->base, "H12", "shrink found no block and ran off the table of trees");
}

static int successor_shrink(struct zc_pool *pool, int64_t pages, zc_evict evict, void *context,
			    int64_t *ret, int64_t *reclaimed)
{
	struct successor *z = (struct successor *)pool;
	*reclaimed = 0;
	*ret = -EINVAL;
	if (z->variant == ZBLOCK_2025)
		return 0;
	while (*reclaimed < pages) {
		int code = reclaim_block(z, evict, context, ret);
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

static void successor_prefetch(struct zc_pool *pool, uint64_t ref)
{
	struct named named;
	if (pool->by_ref)
		ZC_PREFETCH(dereference((struct successor *)pool, ref, &named));
}

enum { POOL_FIGURES = 3, TYPE_FIGURES = 8 };

static size_t successor_stats_len(struct zc_pool *pool)
{
	return POOL_FIGURES + TYPE_FIGURES * ((struct successor *)pool)->types;
}

/* Free slots in the blocks that malloc looks at. */
static int64_t seen_slots(const struct tree *tree)
{
	int64_t seen = tree->current ? tree->current->free_slots : 0;
	if (tree->last && tree->last != tree->current)
		seen += tree->last->free_slots;
	for (uint32_t i = 0; i < CACHED_BLOCKS; i++)
		seen += tree->cache[i] ? tree->cache[i]->free_slots : 0;
	for (const struct block *block = tree->active_first; block; block = block->active_newer)
		seen += block->free_slots;
	return seen;
}

static void successor_stats(struct zc_pool *pool, int64_t *out)
{
	struct successor *z = (struct successor *)pool;
	*out++ = (int64_t)z->blocks_inserted;
	*out++ = (int64_t)z->blocks_deleted;
	*out++ = (int64_t)z->blocks_searched;
	for (uint32_t i = 0; i < z->types; i++) {
		const struct tree *tree = &z->trees[i];
		*out++ = tree->number;
		*out++ = tree->slot_bytes;
		*out++ = tree->slots;
		*out++ = tree->order;
		*out++ = (int64_t)tree->blocks;
		*out++ = (int64_t)tree->counter;
		*out++ = tree->free_total;
		*out++ = tree->free_total - seen_slots(tree);
	}
}

static void successor_destroy(struct zc_pool *pool)
{
	struct successor *z = (struct successor *)pool;
	for (uint32_t i = 0; z->trees && i < z->types; i++)
		zc_slab_clear(&z->trees[i].slab);
	zc_map_clear(&z->blocks);
	zc_map_clear(&z->evicted_unfreed);
	zc_slab_clear(&z->begun_slab);
	free(z->trees);
	free(z->type_of);
	free(z);
}

/* What a variant takes of a block for its metadata, and how wide a handle's slot is. */
static int set_rules(struct successor *z, uint32_t *header_bytes, uint32_t *most_types)
{
	bool small = z->base.page_bytes == 4096;
	switch (z->variant) {
	case LATE:
		*header_bytes = 64, z->slot_bits = 4, *most_types = 256;
		return 0;
	case ZBLOCK_2022:
		*header_bytes = 64, z->slot_bits = 5, *most_types = 128;
		return 0;
	case ZBLOCK_2025:
		if (!small && z->base.page_bytes != 16384)
			return -EINVAL;
		*header_bytes = small ? 40 : 56;
		z->slot_bits = small ? 7 : 8;
		*most_types = small ? 32 : 64;
		return 0;
	default:
		return -EINVAL;
	}
}

/* Lay out the types; -EINVAL for a table outside the variant's limits. */
static int lay_out(struct successor *z, const struct zc_config *config)
{
	uint32_t header_bytes, most_types;
	if (set_rules(z, &header_bytes, &most_types) || config->table_len < 1 ||
	    config->table_len > most_types || config->table_len > ZC_TABLE)
		return -EINVAL;
	z->types = config->table_len;
	z->trees = calloc(z->types, sizeof(*z->trees));
	z->type_of = malloc(config->page_bytes + 1);
	if (!z->trees || !z->type_of)
		return ZC_NO_MEMORY;
	int64_t off = z->variant == ZBLOCK_2025, limit = 0; /* an object fills no slot there */
	uint32_t filled = 0;
	for (uint32_t i = 0; i < z->types; i++) {
		uint32_t order = config->table[i].order, slots = config->table[i].slots;
		if (order > MAX_ORDER || slots < 1 || slots > 1u << z->slot_bits)
			return -EINVAL;
		uint32_t block_bytes = config->page_bytes << order;
		uint32_t share = slots * LONG_BYTES;
		uint32_t slot_bytes = (block_bytes - header_bytes) / share * LONG_BYTES;
		int64_t next = (int64_t)slot_bytes - off;
		if (next < limit || (off && next == limit))
			return -EINVAL;
		limit = next;
		struct tree *tree = &z->trees[i];
		*tree = (struct tree){.number = i,
				      .order = order,
				      .slots = slots,
				      .slot_bytes = slot_bytes,
				      .block_bytes = block_bytes,
				      .words = slots / WORD_BITS + 1};
		zc_slab_init(&tree->slab,
			     sizeof(struct block) + MASKS * tree->words * sizeof(uint64_t));
		for (; filled <= config->page_bytes && filled <= limit; filled++)
			z->type_of[filled] = (uint8_t)i;
	}
	if (!off && limit < config->page_bytes)
		return -EINVAL;
	z->largest = limit < config->page_bytes ? limit : config->page_bytes;
	return 0;
}

static int successor_create(const struct zc_config *config, struct zc_pool **made)
{
	struct successor *z = calloc(1, sizeof(*z));
	if (!z)
		return ZC_NO_MEMORY;
	z->base.backend = &zc_zblock;
	z->base.page_bytes = config->page_bytes;
	z->base.by_ref = config->by_ref;
	z->variant = config->variant;
	z->page_shift = (uint32_t)__builtin_ctz(config->page_bytes);
	zc_slab_init(&z->begun_slab, sizeof(struct begun));
	int code = lay_out(z, config);
	if (!code && (zc_map_init(&z->blocks) || zc_map_init(&z->evicted_unfreed)))
		code = ZC_NO_MEMORY;
	if (code) {
		successor_destroy(&z->base);
		return code;
	}
	*made = &z->base;
	return 0;
}

const struct zc_backend zc_zblock = {
	.name = "zblock",
	.create = successor_create,
	.destroy = successor_destroy,
	.malloc = successor_malloc,
	.free = successor_free,
	.map = successor_map,
	.unmap = successor_unmap,
	.shrink = successor_shrink,
	.begin = successor_begin,
	.end = successor_end,
	.handle_of = successor_handle_of,
	.prefetch = successor_prefetch,
	.stats_len = successor_stats_len,
	.stats = successor_stats,
};
