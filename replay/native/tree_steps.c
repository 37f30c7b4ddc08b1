/* SPDX-License-Identifier: GPL-2.0-only */
#include "tree_steps.h"

#include <stdlib.h>
#include <string.h>

enum { SPARE_BLOCKS = 1024, NODES = 4000 };

/* What a watched block is like. No padding is left unset: these are compared as bytes. */
struct variant {
	uint64_t index;
	uint16_t free_slots, coeff, used, unseen;
	uint8_t known, present, under_reclaim, zero[5];
};

/* Followed by so many variants. */
struct hidden {
	struct block *current, *last;
	uint64_t variants;
};

/* One step's undo: the tree, and the block that the step works on, before it. */
struct saved {
	struct seen_block *block; /* NULL: nothing to take back */
	struct block *current, *last;
	uint64_t counter;
	uint16_t free_slots, coeff, used, unseen;
	bool under_reclaim, present;
};

/* -- blocks ----------------------------------------------------------------------------------- */

static struct seen_block *seen(struct block *block)
{
	return (struct seen_block *)block;
}

static uint16_t all_slots(const struct tree_state *t)
{
	return (uint16_t)((1u << t->tree.slots) - 1);
}

static struct seen_block *oldest(struct tree_state *t)
{
	return (struct seen_block *)(uintptr_t)zv_heap_top(&t->oldest, &t->blocks);
}

struct seen_block *tree_newest(struct tree_state *t)
{
	return (struct seen_block *)(uintptr_t)zv_heap_top(&t->newest, &t->blocks);
}

/* Have the tree have a block, or not. */
static void put(struct tree_state *t, struct seen_block *block, bool present)
{
	uint64_t index = index_of(&block->block);
	if (present && !find(t, index)) {
		zv_put_key(t->escape, &t->blocks, index, (uintptr_t)block);
		block->block.listed = true;
		zv_heap_note(t->escape, &t->oldest, &t->blocks, index);
		if (t->adrift)
			zv_heap_note(t->escape, &t->newest, &t->blocks, index);
	} else if (!present && block->block.listed) {
		zc_map_take(&t->blocks, index);
		block->block.listed = false;
		if (!block->gone) {
			block->gone = true;
			*PUSH(t->escape, t->gone) = block;
		}
	}
}

static struct seen_block *new_block(struct tree_state *t, uint64_t index, uint32_t free_slots)
{
	uint32_t id = 0;
	struct seen_block *block = zc_slab_get(&t->slab, &id);
	if (!block || id >> ID_BITS)
		zv_give_up(t->escape, ZC_NO_MEMORY);
	*block = (struct seen_block){
		.block = {.key = index, .id = id, .free_slots = (uint16_t)free_slots}};
	return block;
}

void tree_adopt(struct tree_state *t, uint64_t index)
{
	struct seen_block *block = new_block(t, index, 0);
	block->block.used = block->unseen = all_slots(t);
	put(t, block, true);
	zv_put_key(t->escape, &t->unseen, index, 1);
}

static void reach(struct block *block, bool reached)
{
	if (block)
		seen(block)->reached = reached;
}

void tree_sweep(struct tree_state *t, const struct zv_exits *hypotheses)
{
	if (t->gone.len < t->gone_limit)
		return;
	for (int reached = 1; reached >= 0; reached--) {
		reach(t->tree.current, reached);
		reach(t->tree.last, reached);
		for (size_t i = 0; i < hypotheses->list.len; i++) {
			struct hidden hidden;
			memcpy(&hidden, zv_hidden_of(hypotheses, i), sizeof(hidden));
			reach(hidden.current, reached);
			reach(hidden.last, reached);
		}
		for (size_t i = 0; i < t->watched.len; i++)
			if (t->watched.at[i].block)
				t->watched.at[i].block->reached = reached;
		if (!reached)
			break;
		size_t kept = 0;
		for (size_t i = 0; i < t->gone.len; i++) {
			struct seen_block *block = t->gone.at[i];
			if (block->block.listed)
				block->gone = false;
			else if (block->reached)
				t->gone.at[kept++] = block;
			else
				zc_slab_put(&t->slab, block, block->block.id);
		}
		t->gone.len = kept;
	}
	t->gone_limit = 2 * t->gone.len + SPARE_BLOCKS;
}

/* -- undo ------------------------------------------------------------------------------------- */

static struct saved save(const struct tree_state *t, struct seen_block *block)
{
	const struct block *b = &block->block;
	return (struct saved){
		block,    t->tree.current, t->tree.last,  t->tree.counter,  b->free_slots,
		b->coeff, b->used,         block->unseen, b->under_reclaim, b->listed};
}

static void undo_step(struct tree_state *t, const struct saved *saved)
{
	struct seen_block *block = saved->block;
	if (!block)
		return;
	block->block.free_slots = saved->free_slots;
	block->block.coeff = saved->coeff;
	block->block.used = saved->used;
	block->block.under_reclaim = saved->under_reclaim;
	block->unseen = saved->unseen;
	put(t, block, saved->present);
	t->tree.current = saved->current;
	t->tree.last = saved->last;
	t->tree.counter = saved->counter;
}

static void undo(void *state, const void *saved)
{
	undo_step(state, saved);
}

/* -- what depends on the order ------------------------------------------------------------------ */

static void watch(struct tree_state *t, uint64_t index)
{
	for (size_t i = 0; i < t->watched.len; i++)
		if (t->watched.at[i].index == index)
			return;
	*PUSH(t->escape, t->watched) = (struct watched){index, find(t, index)};
}

static void add_variants(struct tree_state *t, zv_bytes *into)
{
	for (size_t i = 0; i < t->watched.len; i++) {
		const struct watched *watched = &t->watched.at[i];
		struct seen_block *found = find(t, watched->index);
		const struct seen_block *block = found ? found : watched->block;
		struct variant variant = {.index = watched->index};
		if (block) {
			variant.known = 1;
			variant.present = found != NULL;
			variant.free_slots = block->block.free_slots;
			variant.coeff = block->block.coeff;
			variant.under_reclaim = block->block.under_reclaim;
			variant.used = block->block.used;
			variant.unseen = block->unseen;
		}
		zv_add(t->escape, into, &variant, sizeof(variant));
	}
}

static void hidden(void *state, zv_bytes *into)
{
	struct tree_state *t = state;
	struct hidden hidden = {t->tree.current, t->tree.last, t->watched.len};
	zv_add(t->escape, into, &hidden, sizeof(hidden));
	add_variants(t, into);
}

static void key(void *state, zv_bytes *into)
{
	struct tree_state *t = state;
	const struct block *current = t->tree.current, *last = t->tree.last;
	uint64_t names[2] = {current ? index_of(current) : UINT64_MAX,
			     last ? index_of(last) : UINT64_MAX};
	zv_add(t->escape, into, names, sizeof(names));
	add_variants(t, into);
}

static void install(void *state, const uint8_t *bytes)
{
	struct tree_state *t = state;
	struct hidden hidden;
	memcpy(&hidden, bytes, sizeof(hidden));
	t->tree.current = hidden.current;
	t->tree.last = hidden.last;
	for (uint64_t i = 0; i < hidden.variants; i++) {
		struct variant variant;
		memcpy(&variant, bytes + sizeof(hidden) + i * sizeof(variant), sizeof(variant));
		/* Watched blocks are added at the end, so they are those that were watched then. */
		struct seen_block *found = find(t, variant.index);
		struct seen_block *block = found ? found : t->watched.at[i].block;
		if (!block || !variant.known)
			continue;
		block->block.used = variant.used;
		block->block.free_slots = variant.free_slots;
		block->block.coeff = variant.coeff;
		block->block.under_reclaim = variant.under_reclaim;
		block->unseen = variant.unseen;
		put(t, block, variant.present);
	}
}

static void begin(void *state, const struct zv_call *calls, size_t count)
{
	struct tree_state *t = state;
	t->inserted.len = 0;
	ROOM(t->escape, t->inserted, count);
	for (size_t i = 0; count > 1 && i < count; i++) {
		const struct zv_call *call = &calls[i];
		bool is_new = call->kind == ZV_MALLOC && (uint64_t)call->block >= t->tree.counter;
		if (is_new || call->kind == ZV_CHOOSE || call->kind == ZV_SETTLE)
			watch(t, (uint64_t)call->block);
	}
}

/* -- malloc ----------------------------------------------------------------------------------- */

static bool fits(const struct tree_state *t, const struct seen_block *block, int slot)
{
	int free = (int)lowest(&t->tree, &block->block);
	if (is_unseen(t, index_of(&block->block)))
		return (!is_taken(block, slot) || block->unseen >> slot & 1) &&
		       (free == (int)t->tree.slots || free >= slot);
	return free == slot;
}

static struct seen_block *found(const struct tree_state *t, const struct zv_call *call)
{
	struct seen_block *block = seen(look(&t->tree));
	uint64_t index = (uint64_t)call->block;
	if (is_unknown(t) && (!block || index_of(&block->block) != index))
		block = find(t, index);
	if (!block || index_of(&block->block) != index || !fits(t, block, call->slot))
		return NULL;
	return block;
}

/* The model's insert; NULL where the index is in use (H28). */
static struct seen_block *insert(struct tree_state *t)
{
	uint64_t index = t->tree.counter;
	if (find(t, index))
		return NULL;
	struct seen_block *block = new_block(t, index, t->tree.slots);
	t->tree.counter = (index + 1) % t->max_index;
	put(t, block, true);
	t->tree.last = &block->block;
	return block;
}

static struct seen_block *insert_saved(struct tree_state *t, struct saved *saved)
{
	*saved = (struct saved){
		.current = t->tree.current, .last = t->tree.last, .counter = t->tree.counter};
	struct seen_block *block = insert(t);
	if (!block)
		return NULL;
	saved->block = block;
	saved->free_slots = block->block.free_slots;
	for (size_t i = 0; i < t->watched.len; i++)
		if (t->watched.at[i].index == index_of(&block->block))
			t->watched.at[i].block = block;
	return block;
}

/* The model's take, told by the recorded slot what was unseen; returns the model's slot. */
static int take_told(struct tree_state *t, struct seen_block *block, int slot, bool adopt)
{
	bool unseen = is_unseen(t, index_of(&block->block));
	if (unseen) {
		uint16_t bit = (uint16_t)(1u << slot);
		if (block->unseen & bit) {
			block->block.used &= ~bit;
			block->block.free_slots++;
		}
		block->unseen &= ~(uint16_t)(bit | (bit - 1)); /* those below are taken */
	}
	bool was_hidden = is_unknown(t) && !adopt && &block->block != t->tree.last;
	if (adopt)
		t->tree.current = &block->block;
	int taken = (int)take(&t->tree, &block->block);
	if (unseen || t->adrift)
		t->tree.current = &t->unknown.block;
	else if (was_hidden)
		t->tree.current = &block->block;
	return taken;
}

bool tree_grow(struct tree_state *t, uint64_t index)
{
	struct saved inserted, before;
	struct seen_block *block = insert_saved(t, &inserted);
	if (!block)
		return false;
	before = save(t, block);
	if (index_of(&block->block) == index && take_told(t, block, 0, true) == 0)
		return true;
	undo_step(t, &before);
	undo_step(t, &inserted);
	return false;
}

/* -- free ------------------------------------------------------------------------------------- */

struct released {
	bool dropped, deleted;
};

static struct released model_release(struct tree_state *t, struct seen_block *block, int slot)
{
	struct released done = {.dropped = block->block.under_reclaim};
	if (done.dropped)
		return done;
	credit(&t->tree, &block->block);
	done.deleted = block->block.free_slots == t->tree.slots;
	if (done.deleted) {
		put(t, block, false);
		look_elsewhere(&t->tree, &block->block);
		return done;
	}
	block->unseen &= (uint16_t)~(1u << slot);
	give_slot(&t->tree, &block->block, (uint32_t)slot);
	return done;
}

void tree_release(struct tree_state *t, struct seen_block *block, int slot)
{
	model_release(t, block, slot);
}

enum { NO, YES, DEPENDS };

/* Whether a free in ``block`` makes it current, whatever is unknown. */
static int preferred(const struct tree_state *t, const struct seen_block *block)
{
	int slots = (int)t->tree.slots, least = block->block.coeff, most = least;
	if (is_unseen(t, index_of(&block->block))) {
		int free = __builtin_popcount(all_slots(t) & ~block->block.used);
		int unseen = __builtin_popcount(all_slots(t) & block->unseen);
		least = most = free * (slots - free);
		for (int count = free; count <= free + unseen; count++) {
			int coeff = count * (slots - count);
			least = coeff < least ? coeff : least;
			most = coeff > most ? coeff : most;
		}
	}
	if (!t->tree.current)
		return YES;
	int greatest = is_unknown(t) ? slots / 2 * (slots - slots / 2) : t->tree.current->coeff;
	if (least >= greatest)
		return YES;
	return !is_unknown(t) && most < greatest ? NO : DEPENDS;
}

static void release(struct tree_state *t, const struct zv_call *call, struct seen_block *block)
{
	struct block *before = t->tree.current;
	if (!is_unknown(t) && !t->unseen.len) {
		model_release(t, block, call->slot);
		return;
	}
	int prefers = preferred(t, block);
	struct released done = model_release(t, block, call->slot);
	if (t->adrift) {
		t->tree.current = &t->unknown.block;
	} else if (!done.deleted && !done.dropped) {
		if (prefers == DEPENDS || (prefers == YES && is_unseen(t, (uint64_t)call->block)))
			t->tree.current = &t->unknown.block;
		else
			t->tree.current = prefers == YES ? &block->block : before;
	}
}

/* -- reclaim ---------------------------------------------------------------------------------- */

/* Whether a shrink finds nothing to choose in this tree. */
static bool passes(struct tree_state *t)
{
	struct seen_block *first = t->late || is_unknown(t) ? NULL : oldest(t);
	return !first || !is_chosen(&t->tree, &first->block);
}

static bool chooses(struct tree_state *t, struct seen_block *block)
{
	if (!block || !is_chosen(&t->tree, &block->block))
		return false;
	/* Of blocks that no call has named yet, this shrink says that none is older. */
	return t->late || block == oldest(t);
}

/* -- steps ------------------------------------------------------------------------------------ */

static const struct zv_run whole = {1, {ZV_WHOLE}}, look_alone = {1, {ZV_LOOK}},
			   insert_alone = {1, {ZV_INSERT}}, take_alone = {1, {ZV_TAKE}},
			   miss = {3, {ZV_LOOK, ZV_INSERT, ZV_TAKE}},
			   insert_and_take = {2, {ZV_INSERT, ZV_TAKE}};

static void malloc_steps(struct tree_state *t, struct zv_search *search, uint32_t number,
			 const struct zv_call *call, uint8_t made)
{
	uint64_t index = (uint64_t)call->block, counter = t->tree.counter;
	if (made == insert_and_take.len) {
		if (fits(t, t->inserted.at[number], call->slot))
			zv_offer(search, number, take_alone);
		return;
	}
	/* The handle names the block that a call inserts. */
	bool at_once = counter == index && !call->slot;
	if (made) {
		if (at_once)
			zv_offer(search, number, insert_and_take);
		if (counter == index)
			zv_offer(search, number, insert_alone);
		return;
	}
	if (found(t, call))
		zv_offer(search, number, whole);
	if (index < counter || look(&t->tree))
		return;
	if (at_once)
		zv_offer(search, number, miss);
	zv_offer(search, number, look_alone);
}

static bool is_possible(struct tree_state *t, const struct zv_call *call)
{
	struct seen_block *block = find(t, (uint64_t)call->block);
	bool reclaimed = block && block->block.under_reclaim;
	switch (call->kind) {
	case ZV_FREE:
		return block && is_taken(block, call->slot);
	case ZV_FAILED_MALLOC:
		return !look(&t->tree);
	case ZV_PASS:
		return passes(t);
	case ZV_CHOOSE:
		return chooses(t, block);
	case ZV_RECOVER:
		return reclaimed && is_taken(block, call->slot);
	case ZV_SETTLE:
		return reclaimed;
	}
	return false;
}

static void steps(void *state, struct zv_search *search, uint32_t number,
		  const struct zv_call *call, uint8_t made)
{
	if (call->kind == ZV_MALLOC)
		malloc_steps(state, search, number, call, made);
	else if (is_possible(state, call))
		zv_offer(search, number, whole);
}

static bool act_whole(struct tree_state *t, const struct zv_call *call, struct saved *saved)
{
	if (call->kind == ZV_FAILED_MALLOC || call->kind == ZV_PASS)
		return true;
	struct seen_block *block =
		call->kind == ZV_MALLOC ? found(t, call) : find(t, (uint64_t)call->block);
	if (!block)
		zv_give_up(t->escape, ZV_CONTRADICTION);
	*saved = save(t, block);
	switch (call->kind) {
	case ZV_MALLOC:
		return take_told(t, block, call->slot, false) == call->slot;
	case ZV_FREE:
		release(t, call, block);
		break;
	case ZV_CHOOSE:
		block->block.under_reclaim = true;
		break;
	case ZV_RECOVER:
		clear(&block->block, (uint32_t)call->slot);
		block->unseen &= (uint16_t)~(1u << call->slot);
		credit(&t->tree, &block->block);
		break;
	default:
		if (block->block.free_slots == t->tree.slots) {
			put(t, block, false);
		} else {
			block->block.under_reclaim = false;
			weigh(&t->tree, &block->block);
		}
	}
	return true;
}

static bool act(void *state, uint32_t number, const struct zv_call *call, uint8_t step, void *undo)
{
	struct tree_state *t = state;
	struct saved *saved = undo;
	*saved = (struct saved){0};
	if (step == ZV_WHOLE)
		return act_whole(t, call, saved);
	if (step == ZV_INSERT) {
		struct seen_block *made = insert_saved(t, saved);
		t->inserted.at[number] = made;
		return made && index_of(&made->block) == (uint64_t)call->block;
	}
	if (step == ZV_TAKE) {
		struct seen_block *block = t->inserted.at[number];
		*saved = save(t, block);
		return take_told(t, block, call->slot, true) == call->slot;
	}
	return true;
}

void tree_remember(struct tree_state *t, struct zv_search *search)
{
	zv_empty(t->escape, &t->made);
	for (size_t i = 0; i < search->redone.len; i++) {
		const struct zv_log *one = &search->logs.at[search->redone.at[i]];
		struct seen_block *made = t->inserted.at[one->number];
		if (one->step == ZV_INSERT)
			zv_put_key(t->escape, &t->made, index_of(&made->block), (uintptr_t)made);
	}
	if (!t->made.len)
		return;
	for (size_t i = 0; i < t->watched.len; i++) {
		struct watched *watched = &t->watched.at[i];
		uint64_t made = zc_map_get(&t->made, watched->index);
		if (made)
			watched->block = (struct seen_block *)(uintptr_t)made;
	}
	/* The search made blocks of its own and took them back: exits name the tree's instead. */
	for (size_t i = 0; i < search->exits.list.len; i++) {
		struct hidden hidden;
		uint8_t *bytes = search->exits.hidden.at + search->exits.list.at[i].hidden;
		memcpy(&hidden, bytes, sizeof(hidden));
		struct block **named[2] = {&hidden.current, &hidden.last};
		for (int k = 0; k < 2; k++) {
			uint64_t made = *named[k] ? zc_map_get(&t->made, index_of(*named[k])) : 0;
			if (made)
				*named[k] = &((struct seen_block *)(uintptr_t)made)->block;
		}
		memcpy(bytes, &hidden, sizeof(hidden));
	}
}

/* -- what the trace says although the model does not -------------------------------------------- */

void tree_force(struct tree_state *t, const struct zv_call *call)
{
	uint64_t index = (uint64_t)call->block;
	struct seen_block *block = find(t, index);
	if (call->kind == ZV_MALLOC || call->kind == ZV_MISFIT) {
		if (!block && index >= t->tree.counter) {
			t->tree.counter = index;
			block = insert(t);
		} else if (!block) {
			tree_adopt(t, index);
			block = find(t, index);
		}
		/* Slots are given out from the lowest up: those below are taken. */
		uint16_t taken = (uint16_t)((2u << call->slot) - 1) & all_slots(t);
		uint16_t claimed = taken & (uint16_t)~block->block.used;
		block->block.free_slots -= (uint16_t)__builtin_popcount(claimed);
		block->block.used |= taken;
		block->unseen &= (uint16_t)~taken;
		weigh(&t->tree, &block->block);
	} else if ((call->kind == ZV_CHOOSE || call->kind == ZV_SETTLE) && block) {
		block->block.under_reclaim = call->kind == ZV_CHOOSE;
	}
	t->tree.current = &t->unknown.block;
}

static bool is_full(const struct tree_state *t, const struct seen_block *block)
{
	return lowest(&t->tree, &block->block) == t->tree.slots;
}

static void answer_malloc(struct tree_state *t, struct seen_block *block,
			  struct zv_failure *failure)
{
	struct seen_block *given = seen(look(&t->tree));
	if (is_unknown(t) && block) {
		if (is_full(t, block)) {
			failure->said = ZV_NO_FREE_SLOT;
			return;
		}
		given = block;
	}
	failure->said = given ? ZV_GIVES : t->adrift ? ZV_NEW_BLOCK_ADRIFT : ZV_NEW_BLOCK;
	failure->block = (int64_t)(given ? index_of(&given->block) : t->tree.counter);
	failure->slot = given ? (int32_t)lowest(&t->tree, &given->block) : 0;
}

struct zv_failure tree_answer(struct tree_state *t, const struct zv_call *call)
{
	struct zv_failure failure = {.call = *call, .block = -1, .cause = ZV_OTHER_RULE};
	struct seen_block *block = find(t, (uint64_t)call->block), *first = oldest(t);
	switch (call->kind) {
	case ZV_MISFIT:
		failure.said = ZV_OTHER_TYPE;
		break;
	case ZV_MALLOC:
		if (block && is_taken(block, call->slot))
			failure.cause = ZV_FREE_LOST;
		else if (!block && (uint64_t)call->block > t->tree.counter)
			failure.cause = ZV_BLOCKS_LOST;
		/* fallthrough */
	case ZV_FAILED_MALLOC:
		answer_malloc(t, block, &failure);
		break;
	case ZV_FREE:
		failure.said = block ? ZV_FREE_ALREADY : ZV_NO_BLOCK;
		failure.cause = ZV_MALLOC_LOST;
		break;
	case ZV_RECOVER:
		failure.said = ZV_NOT_TO_RECOVER;
		break;
	case ZV_SETTLE:
		failure.said = ZV_NOT_RECLAIMED;
		break;
	default:
		failure.said = call->kind == ZV_PASS ? ZV_TAKES : ZV_DOES_NOT_TAKE;
		failure.block = first ? (int64_t)index_of(&first->block) : -1;
	}
	return failure;
}

/* -- life ------------------------------------------------------------------------------------- */

static const uint32_t splits[] = {0, 1, ZV_ANY};

const struct zv_model zv_tree_model = {
	.nodes = NODES,
	.splits = splits,
	.splits_len = sizeof(splits) / sizeof(*splits),
	.ends = 1u << ZV_WHOLE | 1u << ZV_TAKE,
	.undo_bytes = sizeof(struct saved),
	.begin = begin,
	.steps = steps,
	.act = act,
	.undo = undo,
	.hidden = hidden,
	.install = install,
	.key = key,
};

int tree_init(struct tree_state *t, struct zv_escape *escape, uint32_t slots, uint64_t max_index,
	      bool late)
{
	t->escape = escape;
	t->tree.slots = slots;
	t->max_index = max_index;
	t->late = t->adrift = late;
	t->unknown.block.key = UINT64_MAX;
	t->oldest.sign = 1;
	t->newest.sign = -1;
	t->gone_limit = SPARE_BLOCKS;
	zc_slab_init(&t->slab, sizeof(struct seen_block));
	if (late) {
		t->tree.counter = NO_COUNTER;
		t->tree.current = &t->unknown.block;
	}
	int failed = zc_map_init(&t->blocks);
	failed |= zc_map_init(&t->unseen);
	return zc_map_init(&t->made) || failed ? ZC_NO_MEMORY : 0;
}

void tree_clear(struct tree_state *t)
{
	zc_map_clear(&t->blocks);
	zc_map_clear(&t->unseen);
	zc_map_clear(&t->made);
	zc_slab_clear(&t->slab);
	free(t->oldest.keys.at);
	free(t->newest.keys.at);
	free(t->gone.at);
	free(t->watched.at);
	free(t->inserted.at);
}
