/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * replay/validate/{steps,search,checker}.py in C, whose names and comments hold here too.
 *
 * Where memory runs out, a long jump leads back to the call from outside: everything that was
 * allocated belongs to the tree, which is not used any more.
 */
#include "check.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

enum { FREE, OCCUPIED, UNSEEN = 4 }; /* states of a slot */
enum { NOT_BEGUN, LOOKED, INSERTED, DONE };
enum { ANY = 1 << 30, NODES = 4000, NODES_PER_CALL = 50 };
enum { NONE = UINT32_MAX, SPARE_BLOCKS = 1024, SPARE_LOGS = 4096 };

#define NO_COUNTER (UINT64_C(1) << 60)
#define FOREVER INT64_MAX

/* What a call may do next: one step, or several without another call between. */
enum { WHOLE, LOOK, INSERT, TAKE, MISS, INSERT_AND_TAKE };

static const struct {
	uint8_t len, steps[3];
} runs[] = {
	[WHOLE] = {1, {ZV_WHOLE}},
	[LOOK] = {1, {ZV_LOOK}},
	[INSERT] = {1, {ZV_INSERT}},
	[TAKE] = {1, {ZV_TAKE}},
	[MISS] = {3, {ZV_LOOK, ZV_INSERT, ZV_TAKE}},
	[INSERT_AND_TAKE] = {2, {ZV_INSERT, ZV_TAKE}},
};

/* ``present``: the tree has it; ``gone``: it is in the list of blocks that it has not. */
struct block {
	int64_t index;
	uint32_t id;
	uint16_t free_slots, coeff;
	bool under_reclaim, present, gone, reached;
	uint8_t slots[ZV_SLOTS];
};

#define VECTOR(type)                                                                               \
	struct {                                                                                   \
		type *at;                                                                          \
		size_t len, cap;                                                                   \
	}

struct watched {
	int64_t index;
	struct block *block;
};

/* What a watched block is like. No padding is left unset: these are compared as bytes. */
struct variant {
	int64_t index;
	uint16_t free_slots, coeff;
	uint8_t known, present, under_reclaim, unused;
	uint8_t slots[ZV_SLOTS];
};

typedef VECTOR(struct variant) variants;

struct hidden {
	struct block *current, *last;
	size_t variant; /* where its variants begin */
	uint32_t variants;
};

/* ``origin``: number of the hypothesis that the order starts from. */
struct exit {
	struct hidden hidden;
	uint32_t origin, log;
};

/* Hypotheses, or exits, and the variants of both. */
struct exits {
	VECTOR(struct exit) list;
	variants variants;
};

/* A step that led to a state, and the number of the one before. */
struct log {
	uint32_t before, number;
	uint8_t step;
	struct zv_call call;
};

struct saved {
	struct block *current, *last, *block;
	uint64_t counter;
	uint16_t free_slots, coeff;
	bool under_reclaim, present;
	uint8_t slots[ZV_SLOTS];
};

struct applied {
	uint8_t progress;
	bool has_saved;
	struct saved saved;
};

struct option {
	uint32_t number;
	uint8_t run;
};

struct frame {
	uint32_t first, done, log, option, options, tried;
	int8_t applied_len; /* -1: nothing to take back */
	struct applied applied[3];
};

struct step {
	struct zv_call call;
	uint8_t step;
	bool ended; /* the malloc has made its last step */
	bool in_one; /* the three steps of a malloc follow each other; of the first of them */
};

/* Byte strings that were met; found by their hash. */
struct entry {
	uint64_t at, next;
	uint32_t len;
};

struct memory {
	struct zc_map map;
	VECTOR(struct entry) entries;
	VECTOR(uint8_t) bytes;
};

typedef VECTOR(int64_t) heap;

struct ranked {
	int64_t row;
	uint32_t number;
};

struct zv_tree {
	jmp_buf escape;
	int broken;
	uint32_t slots;
	uint64_t max_index;
	bool late, adrift, wants_order;

	/* the model's block tree */
	struct zc_map blocks;
	struct zc_slab slab;
	struct block *current, *last, unknown;
	uint64_t counter;
	heap oldest, newest; /* indices, negated in ``newest``; some of blocks that are gone */
	VECTOR(struct block *) gone;
	size_t gone_limit;

	/* what is unknown, and what depends on the order */
	struct zc_map unseen, old, fresh; /* fresh: slots given out in turn + 2, 1 for -1 */
	uint64_t first_known;
	VECTOR(struct watched) watched;
	struct exits hypotheses, exits;
	variants before, scratch;
	bool played; /* plainly, since ``hypotheses`` was set */
	VECTOR(struct log) logs;
	size_t logs_limit;

	/* one search */
	VECTOR(struct zv_call) calls;
	VECTOR(uint8_t) progress;
	VECTOR(struct block *) inserted;
	VECTOR(uint32_t) candidates, ranks; /* a call's place by row */
	VECTOR(struct ranked) ranked;
	VECTOR(struct option) options;
	VECTOR(struct frame) frames;
	VECTOR(uint8_t) key;
	struct memory visited, left;
	struct zc_map made; /* index -> block, by the order that was made true */
	uint32_t origin, splits_left, deepest_origin, deepest_log, stuck;
	int64_t deepest, nodes_left;
	uint64_t dead_ends;
	bool cut_short, withheld;

	/* one group */
	VECTOR(uint32_t) same; /* first call of the group with equal values */
	VECTOR(uint8_t) hazy;
	VECTOR(uint8_t) finished;
	VECTOR(uint32_t) redone;

	/* results */
	VECTOR(struct step) steps;
	VECTOR(int64_t) latest;
	struct zc_map ended, marked;
	VECTOR(int64_t) at_ns;
	VECTOR(int64_t) row;
	VECTOR(int8_t) step;
	VECTOR(struct zv_call) race_calls;
	VECTOR(int8_t) race_steps;
	VECTOR(uint64_t) race_ends;
	VECTOR(struct zv_failure) failures;
	VECTOR(struct zv_call) around;
	struct zv_found found;
};

/* -- memory --------------------------------------------------------------------------------- */

_Noreturn static void give_up(struct zv_tree *t, int code)
{
	t->broken = code;
	longjmp(t->escape, 1);
}

static void *grown(struct zv_tree *t, void *at, size_t *cap, size_t need, size_t bytes)
{
	size_t more = *cap < 8 ? 16 : 2 * *cap;
	if (more < need)
		more = need;
	void *moved = more <= SIZE_MAX / bytes ? realloc(at, more * bytes) : NULL;
	if (!moved)
		give_up(t, ZC_NO_MEMORY);
	*cap = more;
	return moved;
}

/* Room for ``n`` more; a new last element. */
#define ROOM(t, v, n)                                                                              \
	((v).cap - (v).len >= (size_t)(n)                                                          \
		 ? (void)0                                                                         \
		 : (void)((v).at = grown(t, (v).at, &(v).cap, (v).len + (n), sizeof(*(v).at))))
#define PUSH(t, v) (ROOM(t, v, 1), &(v).at[(v).len++])

static void put_key(struct zv_tree *t, struct zc_map *map, uint64_t key, uint64_t value)
{
	struct zc_slot *slot = zc_map_put(map, key);
	if (!slot)
		give_up(t, ZC_NO_MEMORY);
	slot->value = value;
}

/* Empty a map; one that has grown gives its memory back. */
static void empty(struct zv_tree *t, struct zc_map *map)
{
	if (!map->len)
		return;
	if (map->mask < 1024) {
		zc_map_wipe(map);
		return;
	}
	zc_map_clear(map);
	if (zc_map_init(map))
		give_up(t, ZC_NO_MEMORY);
}

static uint64_t hash_of(const uint8_t *bytes, size_t len)
{
	uint64_t hash = len, word;
	for (size_t at = 0; at < len; at += 8) {
		word = 0;
		memcpy(&word, bytes + at, len - at < 8 ? len - at : 8);
		hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
		hash ^= hash >> 29;
	}
	return hash;
}

static void forget(struct zv_tree *t, struct memory *memory)
{
	empty(t, &memory->map);
	memory->entries.len = memory->bytes.len = 0;
}

/* Whether these bytes were met before; from now on they were. */
static bool was_met(struct zv_tree *t, struct memory *memory, const uint8_t *bytes, size_t len)
{
	uint64_t hash = hash_of(bytes, len), first = zc_map_get(&memory->map, hash);
	for (uint64_t number = first; number; number = memory->entries.at[number - 1].next) {
		const struct entry *entry = &memory->entries.at[number - 1];
		if (entry->len == len && !memcmp(memory->bytes.at + entry->at, bytes, len))
			return true;
	}
	ROOM(t, memory->bytes, len);
	*PUSH(t, memory->entries) = (struct entry){memory->bytes.len, first, (uint32_t)len};
	memcpy(memory->bytes.at + memory->bytes.len, bytes, len);
	memory->bytes.len += len;
	put_key(t, &memory->map, hash, memory->entries.len);
	return false;
}

/* -- the block tree: BlockTree of allocator/ztree/model.py ------------------------------------------ */

static struct block *find(const struct zv_tree *t, int64_t index)
{
	return (struct block *)(uintptr_t)zc_map_get(&t->blocks, (uint64_t)index);
}

static void heap_push(struct zv_tree *t, heap *heap, int64_t key)
{
	(void)PUSH(t, *heap);
	size_t at = heap->len - 1;
	for (; at && heap->at[(at - 1) / 2] > key; at = (at - 1) / 2)
		heap->at[at] = heap->at[(at - 1) / 2];
	heap->at[at] = key;
}

static void heap_pop(heap *heap)
{
	int64_t key = heap->at[--heap->len];
	size_t at = 0;
	for (size_t child; (child = 2 * at + 1) < heap->len; at = child) {
		if (child + 1 < heap->len && heap->at[child + 1] < heap->at[child])
			child++;
		if (heap->at[child] >= key)
			break;
		heap->at[at] = heap->at[child];
	}
	heap->at[at] = key;
}

static int compare(const void *a, const void *b)
{
	int64_t one = *(const int64_t *)a, other = *(const int64_t *)b;
	return (one > other) - (one < other);
}

/* Leave out what is not there, or twice. */
static void heap_renew(struct zv_tree *t, heap *heap, int sign)
{
	size_t kept = 0;
	qsort(heap->at, heap->len, sizeof(*heap->at), compare);
	for (size_t i = 0; i < heap->len; i++)
		if ((!kept || heap->at[kept - 1] != heap->at[i]) && find(t, sign * heap->at[i]))
			heap->at[kept++] = heap->at[i];
	heap->len = kept; /* sorted, which is a heap too */
}

static void heap_note(struct zv_tree *t, heap *heap, int sign, int64_t index)
{
	heap_push(t, heap, sign * index);
	if (heap->len > 2 * t->blocks.len + 64)
		heap_renew(t, heap, sign);
}

/* The block of lowest (sign 1) or highest (sign -1) index, or NULL. */
static struct block *heap_top(struct zv_tree *t, heap *heap, int sign)
{
	while (heap->len) {
		struct block *block = find(t, sign * heap->at[0]);
		if (block)
			return block;
		heap_pop(heap);
	}
	return NULL;
}

static struct block *oldest(struct zv_tree *t)
{
	return heap_top(t, &t->oldest, 1);
}

static void put(struct zv_tree *t, struct block *block, bool present)
{
	if (present && !find(t, block->index)) {
		put_key(t, &t->blocks, (uint64_t)block->index, (uintptr_t)block);
		block->present = true;
		heap_note(t, &t->oldest, 1, block->index);
		if (t->adrift)
			heap_note(t, &t->newest, -1, block->index);
	} else if (!present && block->present) {
		zc_map_take(&t->blocks, (uint64_t)block->index);
		block->present = false;
		if (!block->gone) {
			block->gone = true;
			*PUSH(t, t->gone) = block;
		}
	}
}

static struct block *new_block(struct zv_tree *t, int64_t index, uint32_t free_slots)
{
	uint32_t id;
	struct block *block = zc_slab_get(&t->slab, &id);
	if (!block)
		give_up(t, ZC_NO_MEMORY);
	*block = (struct block){.index = index, .id = id, .free_slots = (uint16_t)free_slots};
	return block;
}

/* Give blocks back that neither the tree has nor anything may still name. */
static void sweep(struct zv_tree *t)
{
	if (t->gone.len < t->gone_limit)
		return;
	for (int reached = 1; reached >= 0; reached--) {
		struct block *roots[] = {t->current, t->last};
		for (size_t i = 0; i < 2; i++)
			if (roots[i])
				roots[i]->reached = reached;
		for (size_t i = 0; i < t->hypotheses.list.len; i++) {
			struct hidden *hidden = &t->hypotheses.list.at[i].hidden;
			if (hidden->current)
				hidden->current->reached = reached;
			if (hidden->last)
				hidden->last->reached = reached;
		}
		for (size_t i = 0; i < t->watched.len; i++)
			if (t->watched.at[i].block)
				t->watched.at[i].block->reached = reached;
		if (!reached)
			break;
		size_t kept = 0;
		for (size_t i = 0; i < t->gone.len; i++) {
			struct block *block = t->gone.at[i];
			if (block->present)
				block->gone = false;
			else if (block->reached)
				t->gone.at[kept++] = block;
			else
				zc_slab_put(&t->slab, block, block->id);
		}
		t->gone.len = kept;
	}
	t->gone_limit = 2 * t->gone.len + SPARE_BLOCKS;
}

static int lowest(const struct zv_tree *t, const struct block *block)
{
	const uint8_t *found = memchr(block->slots, FREE, t->slots);
	return found ? (int)(found - block->slots) : -1;
}

static struct block *look(const struct zv_tree *t)
{
	if (t->current && t->current->free_slots)
		return t->current;
	return t->last && t->last->free_slots ? t->last : NULL;
}

static void weigh(const struct zv_tree *t, struct block *block)
{
	block->coeff = (uint16_t)(block->free_slots * (t->slots - block->free_slots));
}

/* BlockTree.insert; NULL where the index is in use (H28). */
static struct block *insert(struct zv_tree *t)
{
	if (find(t, (int64_t)t->counter))
		return NULL;
	struct block *block = new_block(t, (int64_t)t->counter, t->slots);
	t->counter = (t->counter + 1) % t->max_index;
	put(t, block, true);
	t->last = block;
	return block;
}

static int model_take(struct zv_tree *t, struct block *block)
{
	block->free_slots--;
	int slot = lowest(t, block);
	if (slot < 0)
		slot = (int)t->slots;
	if (slot < ZV_SLOTS)
		block->slots[slot] = OCCUPIED;
	weigh(t, block);
	return slot;
}

struct released {
	bool dropped, deleted;
};

static struct released model_release(struct zv_tree *t, struct block *block, int slot)
{
	struct released done = {.dropped = block->under_reclaim};
	if (done.dropped)
		return done;
	block->free_slots++;
	done.deleted = block->free_slots == t->slots;
	if (done.deleted) {
		put(t, block, false);
		if (block == t->last)
			t->current = t->last = NULL;
		else
			t->current = t->last;
		return done;
	}
	if (!t->current || block->coeff >= t->current->coeff)
		t->current = block;
	block->slots[slot] = FREE;
	weigh(t, block);
	return done;
}

/* -- State: what calls can do next, and how to take it back ---------------------------------- */

static bool is_unseen(const struct zv_tree *t, int64_t index)
{
	return t->unseen.len && zc_map_get(&t->unseen, (uint64_t)index);
}

static struct saved save(const struct zv_tree *t, struct block *block)
{
	struct saved saved = {t->current,           t->last,           block,
			      t->counter,           block->free_slots, block->coeff,
			      block->under_reclaim, block->present,    {0}};
	memcpy(saved.slots, block->slots, ZV_SLOTS);
	return saved;
}

static void undo(struct zv_tree *t, const struct saved *saved)
{
	struct block *block = saved->block;
	block->free_slots = saved->free_slots;
	block->coeff = saved->coeff;
	memcpy(block->slots, saved->slots, ZV_SLOTS);
	block->under_reclaim = saved->under_reclaim;
	put(t, block, saved->present);
	t->current = saved->current;
	t->last = saved->last;
	t->counter = saved->counter;
}

static void watch(struct zv_tree *t, int64_t index)
{
	for (size_t i = 0; i < t->watched.len; i++)
		if (t->watched.at[i].index == index)
			return;
	*PUSH(t, t->watched) = (struct watched){index, find(t, index)};
}

/* Hidden, whose variants are added to ``into``. */
static struct hidden hidden_now(struct zv_tree *t, variants *into)
{
	struct hidden hidden = {t->current, t->last, into->len, (uint32_t)t->watched.len};
	ROOM(t, *into, t->watched.len);
	for (size_t i = 0; i < t->watched.len; i++) {
		struct watched *watched = &t->watched.at[i];
		struct block *found = find(t, watched->index);
		struct block *block = found ? found : watched->block;
		struct variant variant = {.index = watched->index};
		if (block) {
			variant.known = 1;
			variant.present = found != NULL;
			variant.free_slots = block->free_slots;
			variant.coeff = block->coeff;
			variant.under_reclaim = block->under_reclaim;
			memcpy(variant.slots, block->slots, ZV_SLOTS);
		}
		into->at[into->len++] = variant;
	}
	return hidden;
}

static void install(struct zv_tree *t, const struct hidden *hidden, const variants *variants)
{
	t->current = hidden->current;
	t->last = hidden->last;
	for (uint32_t i = 0; i < hidden->variants; i++) {
		const struct variant *variant = &variants->at[hidden->variant + i];
		/* Watched blocks are added at the end, so they are those that were watched then. */
		struct block *found = find(t, variant->index);
		struct block *block = found ? found : t->watched.at[i].block;
		if (!block || !variant->known)
			continue;
		memcpy(block->slots, variant->slots, ZV_SLOTS);
		block->free_slots = variant->free_slots;
		block->coeff = variant->coeff;
		block->under_reclaim = variant->under_reclaim;
		put(t, block, variant->present);
	}
}

/* The only hypothesis is what is. */
static void decide(struct zv_tree *t)
{
	struct exits *hypotheses = &t->hypotheses;
	hypotheses->variants.len = hypotheses->list.len = 0;
	struct hidden hidden = hidden_now(t, &hypotheses->variants);
	*PUSH(t, hypotheses->list) = (struct exit){hidden, 0, NONE};
}

static bool fits(const struct zv_tree *t, const struct block *block, int slot)
{
	int free = lowest(t, block);
	if (is_unseen(t, block->index))
		return (block->slots[slot] == FREE || block->slots[slot] == UNSEEN) &&
		       (free < 0 || free >= slot);
	return free == slot || (free < 0 && slot == (int)t->slots);
}

static struct block *found(const struct zv_tree *t, const struct zv_call *call)
{
	struct block *block = look(t);
	if (t->current == &t->unknown && (!block || block->index != call->block))
		block = find(t, call->block);
	if (!block || block->index != call->block || !fits(t, block, call->slot))
		return NULL;
	return block;
}

/* State.insert: with the undo. */
static struct block *insert_saved(struct zv_tree *t, struct saved *saved)
{
	struct block *current = t->current, *last = t->last;
	uint64_t counter = t->counter;
	struct block *block = insert(t);
	if (!block)
		return NULL;
	for (size_t i = 0; i < t->watched.len; i++)
		if (t->watched.at[i].index == block->index)
			t->watched.at[i].block = block;
	*saved = (struct saved){.current = current,
				.last = last,
				.block = block,
				.counter = counter,
				.free_slots = block->free_slots};
	return block;
}

static int take(struct zv_tree *t, struct block *block, int slot, bool adopt)
{
	bool unseen = is_unseen(t, block->index);
	if (unseen) {
		for (int lower = 0; lower < slot; lower++)
			if (block->slots[lower] == UNSEEN)
				block->slots[lower] = OCCUPIED;
		if (block->slots[slot] == UNSEEN) {
			block->slots[slot] = FREE;
			block->free_slots++;
		}
	}
	bool was_hidden = t->current == &t->unknown && !adopt && block != t->last;
	if (adopt)
		t->current = block;
	int taken = model_take(t, block);
	if (unseen || t->adrift)
		t->current = &t->unknown;
	else if (was_hidden)
		t->current = block;
	return taken;
}

static bool can_free(const struct zv_tree *t, const struct zv_call *call)
{
	const struct block *block = find(t, call->block);
	return block && block->slots[call->slot] != FREE;
}

enum { NO, YES, DEPENDS };

/* State._preferred */
static int preferred(const struct zv_tree *t, const struct block *block)
{
	int slots = (int)t->slots, least = block->coeff, most = block->coeff;
	if (is_unseen(t, block->index)) {
		int free = 0, hidden = 0;
		for (int slot = 0; slot < slots; slot++) {
			free += block->slots[slot] == FREE;
			hidden += block->slots[slot] == UNSEEN;
		}
		least = most = free * (slots - free);
		for (int count = free; count <= free + hidden; count++) {
			int coeff = count * (slots - count);
			least = coeff < least ? coeff : least;
			most = coeff > most ? coeff : most;
		}
	}
	if (!t->current)
		return YES;
	bool is_unknown = t->current == &t->unknown;
	int greatest = is_unknown ? slots / 2 * (slots - slots / 2) : t->current->coeff;
	if (least >= greatest)
		return YES;
	return !is_unknown && most < greatest ? NO : DEPENDS;
}

static void release(struct zv_tree *t, const struct zv_call *call)
{
	struct block *block = find(t, call->block), *before = t->current;
	if (before != &t->unknown && !t->unseen.len) {
		model_release(t, block, call->slot);
		return;
	}
	int prefers = preferred(t, block);
	struct released done = model_release(t, block, call->slot);
	if (t->adrift) {
		t->current = &t->unknown;
	} else if (!done.deleted && !done.dropped) {
		if (prefers == DEPENDS || (prefers == YES && is_unseen(t, call->block)))
			t->current = &t->unknown;
		else
			t->current = prefers == YES ? block : before;
	}
}

/* The block that a shrink would take of this tree, or NULL. */
static struct block *chosen(struct zv_tree *t)
{
	struct block *block = oldest(t);
	return block == t->current || block == t->last ? NULL : block;
}

static bool passes(struct zv_tree *t)
{
	return t->late || t->current == &t->unknown || !chosen(t);
}

static bool chooses(struct zv_tree *t, int64_t index)
{
	const struct block *block = find(t, index);
	if (!block || block == t->current || block == t->last)
		return false;
	return t->late || block == chosen(t);
}

static bool reclaims(const struct zv_tree *t, int64_t index)
{
	const struct block *block = find(t, index);
	return block && block->under_reclaim;
}

static struct block *adopt_unseen(struct zv_tree *t, int64_t index)
{
	struct block *block = new_block(t, index, 0);
	memset(block->slots, UNSEEN, t->slots);
	put(t, block, true);
	put_key(t, &t->unseen, (uint64_t)index, 1);
	return block;
}

static void force(struct zv_tree *t, const struct zv_call *call)
{
	struct block *block = find(t, call->block);
	if (call->kind == ZV_MALLOC || call->kind == ZV_MISFIT) {
		if (!block && (uint64_t)call->block >= t->counter) {
			t->counter = (uint64_t)call->block;
			block = insert(t);
		} else if (!block) {
			block = adopt_unseen(t, call->block);
		}
		for (int slot = 0; slot <= call->slot && slot < (int)t->slots; slot++) {
			if (block->slots[slot] == FREE)
				block->free_slots--;
			if (block->slots[slot] == FREE || block->slots[slot] == UNSEEN)
				block->slots[slot] = OCCUPIED;
		}
		weigh(t, block);
	} else if ((call->kind == ZV_CHOOSE || call->kind == ZV_SETTLE) && block) {
		block->under_reclaim = call->kind == ZV_CHOOSE;
	}
	t->current = &t->unknown;
}

/* State.answer and State.cause. */
static struct zv_failure failure_of(struct zv_tree *t, const struct zv_call *call, bool cut_short)
{
	struct zv_failure failure = {.call = *call, .block = -1};
	struct block *block = find(t, call->block), *first = oldest(t), *given = look(t);
	bool is_malloc = call->kind == ZV_MALLOC || call->kind == ZV_FAILED_MALLOC;
	if (call->kind == ZV_MISFIT) {
		failure.said = ZV_OTHER_TYPE;
	} else if (is_malloc && t->current == &t->unknown && block && lowest(t, block) < 0) {
		failure.said = ZV_NO_FREE_SLOT;
	} else if (is_malloc) {
		if (t->current == &t->unknown && block)
			given = block;
		failure.said = given ? ZV_GIVES : t->adrift ? ZV_NEW_BLOCK_ADRIFT : ZV_NEW_BLOCK;
		failure.block = given ? given->index : (int64_t)t->counter;
		int slot = given ? lowest(t, given) : 0;
		failure.slot = slot < 0 ? (int32_t)t->slots : slot;
	} else if (call->kind == ZV_FREE) {
		failure.said = block ? ZV_FREE_ALREADY : ZV_NO_BLOCK;
	} else if (call->kind == ZV_RECOVER) {
		failure.said = ZV_NOT_TO_RECOVER;
	} else if (call->kind == ZV_SETTLE) {
		failure.said = ZV_NOT_RECLAIMED;
	} else {
		failure.said = call->kind == ZV_PASS ? ZV_TAKES : ZV_DOES_NOT_TAKE;
		failure.block = first ? first->index : -1;
	}
	failure.cause = ZV_OTHER_RULE;
	if (cut_short)
		failure.cause = ZV_CUT_SHORT;
	else if (call->kind == ZV_FREE)
		failure.cause = ZV_MALLOC_LOST;
	else if (call->kind == ZV_MALLOC && block && block->slots[call->slot] != FREE)
		failure.cause = ZV_FREE_LOST;
	else if (call->kind == ZV_MALLOC && !block && (uint64_t)call->block > t->counter)
		failure.cause = ZV_BLOCKS_LOST;
	return failure;
}

/* -- Search --------------------------------------------------------------------------------- */

static void key_hidden(struct zv_tree *t)
{
	t->scratch.len = 0;
	hidden_now(t, &t->scratch);
	size_t bytes = t->scratch.len * sizeof(struct variant);
	int64_t names[2] = {t->current ? t->current->index : -2, t->last ? t->last->index : -2};
	ROOM(t, t->key, sizeof(names) + bytes);
	memcpy(t->key.at + t->key.len, names, sizeof(names));
	if (bytes)
		memcpy(t->key.at + t->key.len + sizeof(names), t->scratch.at, bytes);
	t->key.len += sizeof(names) + bytes;
}

static void find_candidates(struct zv_tree *t, uint32_t first)
{
	int64_t limit = t->calls.at[first].end;
	t->candidates.len = 0;
	for (uint32_t number = first; number < t->calls.len; number++) {
		const struct zv_call *call = &t->calls.at[number];
		if (call->ts > limit)
			break;
		if (t->progress.at[number] == DONE)
			continue;
		*PUSH(t, t->candidates) = number;
		limit = call->end < limit ? call->end : limit;
	}
}

static int compare_ranked(const void *a, const void *b)
{
	const struct ranked *one = a, *other = b;
	if (one->row != other->row)
		return one->row > other->row ? 1 : -1;
	return (one->number > other->number) - (one->number < other->number);
}

static int compare_ranks(const void *a, const void *b)
{
	uint32_t one = *(const uint32_t *)a, other = *(const uint32_t *)b;
	return (one > other) - (one < other);
}

/* Number the calls by row, those of one row as they are. */
static void rank_calls(struct zv_tree *t)
{
	uint32_t calls = (uint32_t)t->calls.len;
	t->ranked.len = t->ranks.len = 0;
	ROOM(t, t->ranked, calls);
	ROOM(t, t->ranks, calls);
	for (uint32_t i = 0; i < calls; i++)
		t->ranked.at[i] = (struct ranked){t->calls.at[i].row, i};
	qsort(t->ranked.at, calls, sizeof(*t->ranked.at), compare_ranked);
	for (uint32_t i = 0; i < calls; i++)
		t->ranks.at[t->ranked.at[i].number] = i;
}

static void sort_by_row(struct zv_tree *t)
{
	uint32_t *at = t->candidates.at;
	size_t len = t->candidates.len;
	for (size_t i = 0; i < len; i++)
		at[i] = t->ranks.at[at[i]];
	qsort(at, len, sizeof(*at), compare_ranks);
	for (size_t i = 0; i < len; i++)
		at[i] = t->ranked.at[at[i]].number;
}

static void offer(struct zv_tree *t, uint32_t number, uint8_t run)
{
	*PUSH(t, t->options) = (struct option){number, run};
}

static void offer_malloc(struct zv_tree *t, uint32_t number, const struct zv_call *call)
{
	uint64_t index = (uint64_t)call->block;
	if (t->progress.at[number] == INSERTED) {
		if (fits(t, t->inserted.at[number], call->slot))
			offer(t, number, TAKE);
		return;
	}
	if (t->progress.at[number] == LOOKED) {
		if (t->counter != index)
			return;
		if (!call->slot)
			offer(t, number, INSERT_AND_TAKE);
		offer(t, number, INSERT);
		return;
	}
	if (found(t, call))
		offer(t, number, WHOLE);
	if (index >= t->counter && !look(t)) {
		if (index == t->counter && !call->slot)
			offer(t, number, MISS);
		if (t->splits_left)
			offer(t, number, LOOK);
		else
			t->withheld = true;
	}
}

static void offer_steps(struct zv_tree *t, uint32_t number)
{
	const struct zv_call *call = &t->calls.at[number];
	bool possible = false;
	switch (call->kind) {
	case ZV_MALLOC:
		offer_malloc(t, number, call);
		return;
	case ZV_FREE:
		possible = can_free(t, call);
		break;
	case ZV_FAILED_MALLOC:
		possible = !look(t);
		break;
	case ZV_PASS:
		possible = passes(t);
		break;
	case ZV_CHOOSE:
		possible = chooses(t, call->block);
		break;
	case ZV_RECOVER:
		possible = reclaims(t, call->block) && can_free(t, call);
		break;
	case ZV_SETTLE:
		possible = reclaims(t, call->block);
		break;
	}
	if (possible)
		offer(t, number, WHOLE);
}

/* A node: what may come next. */
static void open_frame(struct zv_tree *t, uint32_t first, uint32_t done, uint32_t log)
{
	uint32_t calls = (uint32_t)t->calls.len;
	while (first < calls && t->progress.at[first] == DONE)
		first++;
	struct frame *frame = PUSH(t, t->frames);
	frame->first = first;
	frame->done = done;
	frame->log = log;
	frame->option = (uint32_t)t->options.len;
	frame->options = frame->tried = 0;
	frame->applied_len = -1;
	t->key.len = 0;
	key_hidden(t);
	if (first == calls) {
		if (!was_met(t, &t->left, t->key.at, t->key.len)) {
			struct hidden hidden = hidden_now(t, &t->exits.variants);
			*PUSH(t, t->exits.list) = (struct exit){hidden, t->origin, log};
		}
		return;
	}
	find_candidates(t, first);
	uint32_t begun = t->candidates.at[t->candidates.len - 1] + 1 - first;
	uint32_t numbers[2] = {first, t->splits_left};
	ROOM(t, t->key, begun + sizeof(numbers));
	memcpy(t->key.at + t->key.len, numbers, sizeof(numbers));
	memcpy(t->key.at + t->key.len + sizeof(numbers), t->progress.at + first, begun);
	t->key.len += begun + sizeof(numbers);
	if (was_met(t, &t->visited, t->key.at, t->key.len))
		return;
	t->nodes_left--;
	sort_by_row(t);
	for (size_t i = 0; i < t->candidates.len; i++)
		offer_steps(t, t->candidates.at[i]);
	frame->options = (uint32_t)t->options.len - frame->option;
	t->dead_ends += !frame->options;
	if (done > t->deepest) {
		t->deepest = done;
		t->deepest_origin = t->origin;
		t->deepest_log = log;
		t->stuck = t->candidates.at[0];
		for (size_t i = 1; i < t->candidates.len; i++)
			if (t->calls.at[t->candidates.at[i]].end < t->calls.at[t->stuck].end)
				t->stuck = t->candidates.at[i];
	}
}

/* A call's effect in one piece, which must be possible: act() of search.py. */
static bool act(struct zv_tree *t, const struct zv_call *call, struct applied *applied)
{
	applied->has_saved = call->kind != ZV_FAILED_MALLOC && call->kind != ZV_PASS;
	if (!applied->has_saved)
		return true;
	struct block *block = call->kind == ZV_MALLOC ? found(t, call) : find(t, call->block);
	if (!block)
		give_up(t, ZV_CONTRADICTION);
	applied->saved = save(t, block);
	switch (call->kind) {
	case ZV_MALLOC:
		return take(t, block, call->slot, false) == call->slot;
	case ZV_FREE:
		release(t, call);
		break;
	case ZV_CHOOSE:
		block->under_reclaim = true;
		break;
	case ZV_RECOVER:
		block->slots[call->slot] = FREE;
		block->free_slots++;
		break;
	default:
		if (block->free_slots == t->slots) {
			put(t, block, false);
		} else {
			block->under_reclaim = false;
			weigh(t, block);
		}
	}
	return true;
}

/* Have the model make a step; whether it answers as recorded. */
static bool apply(struct zv_tree *t, uint32_t number, uint8_t step, struct frame *frame)
{
	static const uint8_t after[] = {
		[ZV_WHOLE] = DONE, [ZV_LOOK] = LOOKED, [ZV_INSERT] = INSERTED, [ZV_TAKE] = DONE};
	const struct zv_call *call = &t->calls.at[number];
	struct applied *applied = &frame->applied[frame->applied_len];
	bool agreed = true;
	applied->has_saved = step != ZV_LOOK;
	if (step == ZV_INSERT) {
		struct block *made = insert_saved(t, &applied->saved);
		if (!made)
			return false;
		t->inserted.at[number] = made;
		agreed = made->index == call->block;
	} else if (step == ZV_TAKE) {
		struct block *block = t->inserted.at[number];
		applied->saved = save(t, block);
		agreed = take(t, block, call->slot, true) == call->slot;
	} else if (step == ZV_WHOLE) {
		agreed = act(t, call, applied);
	}
	applied->progress = t->progress.at[number];
	frame->applied_len++;
	t->progress.at[number] = after[step];
	return agreed;
}

static void take_back(struct zv_tree *t, uint32_t number, struct frame *frame)
{
	while (frame->applied_len > 0) {
		const struct applied *applied = &frame->applied[--frame->applied_len];
		t->progress.at[number] = applied->progress;
		if (applied->has_saved)
			undo(t, &applied->saved);
	}
	frame->applied_len = -1;
}

static uint32_t write_log(struct zv_tree *t, uint32_t before, uint32_t number, uint8_t step)
{
	if (t->logs.len >= NONE)
		give_up(t, ZC_NO_MEMORY);
	*PUSH(t, t->logs) = (struct log){before, number, step, t->calls.at[number]};
	return (uint32_t)t->logs.len - 1;
}

static void explore(struct zv_tree *t, const struct exit *hypothesis)
{
	t->before.len = 0;
	struct hidden before = hidden_now(t, &t->before);
	install(t, &hypothesis->hidden, &t->hypotheses.variants);
	open_frame(t, 0, 0, hypothesis->log);
	while (t->frames.len) {
		struct frame *frame = &t->frames.at[t->frames.len - 1];
		size_t next = frame->option + frame->tried;
		if (frame->applied_len >= 0) {
			const struct option *tried = &t->options.at[next - 1];
			take_back(t, tried->number, frame);
			if (tried->run == LOOK && t->splits_left < ANY)
				t->splits_left++;
		}
		if (frame->tried == frame->options || t->nodes_left < 0) {
			t->cut_short |= frame->tried < frame->options;
			t->options.len = frame->option;
			t->frames.len--;
			continue;
		}
		uint32_t number = t->options.at[next].number, after = frame->log;
		uint8_t run = t->options.at[next].run, made = 0;
		frame->tried++;
		frame->applied_len = 0;
		if (run == LOOK && t->splits_left < ANY)
			t->splits_left--;
		for (; made < runs[run].len; made++) {
			uint8_t step = runs[run].steps[made];
			if (!apply(t, number, step, frame))
				break;
			after = write_log(t, after, number, step);
		}
		if (made == runs[run].len)
			open_frame(t, frame->first, frame->done + (t->progress.at[number] == DONE),
				   after);
	}
	install(t, &before, &t->before);
}

static void search(struct zv_tree *t)
{
	static const uint32_t allowed[] = {0, 1, ANY};
	size_t calls = t->calls.len;
	t->progress.len = t->inserted.len = 0;
	ROOM(t, t->progress, calls);
	ROOM(t, t->inserted, calls);
	memset(t->progress.at, NOT_BEGUN, calls);
	rank_calls(t);
	t->exits.list.len = t->exits.variants.len = 0;
	forget(t, &t->left);
	t->deepest = -1;
	t->dead_ends = 0;
	t->cut_short = false;
	for (size_t i = 0; i < (calls > 1 ? 3 : 1); i++) {
		forget(t, &t->visited);
		t->splits_left = allowed[i];
		t->nodes_left = NODES + NODES_PER_CALL * (int64_t)calls;
		t->withheld = false;
		for (size_t n = 0; n < t->hypotheses.list.len; n++) {
			t->origin = (uint32_t)n;
			explore(t, &t->hypotheses.list.at[n]);
		}
		if (!t->withheld)
			break;
	}
}

/* -- reports ---------------------------------------------------------------------------------- */

static bool equal_calls(const struct zv_call *a, const struct zv_call *b)
{
	return a->ts == b->ts && a->end == b->end && a->kind == b->kind && a->block == b->block &&
	       a->slot == b->slot && a->row == b->row && a->cpu == b->cpu && a->tid == b->tid &&
	       a->size == b->size;
}

static void add_order(struct zv_tree *t, int64_t at_ns, int64_t row, int8_t step)
{
	*PUSH(t, t->at_ns) = at_ns;
	*PUSH(t, t->row) = row;
	*PUSH(t, t->step) = step;
}

/* Checker._count_order, and what an order consists of as validator writes it. */
static void count_order(struct zv_tree *t)
{
	int64_t latest = -1;
	for (size_t i = 0; i < t->steps.len; i++) {
		struct step *step = &t->steps.at[i];
		if (step->step == ZV_LOOK) {
			step->in_one = i + 2 < t->steps.len && step[1].step == ZV_INSERT &&
				       step[2].step == ZV_TAKE &&
				       equal_calls(&step[1].call, &step->call) &&
				       equal_calls(&step[2].call, &step->call);
			t->found.tally.split += !step->in_one;
		}
		if (step->step == ZV_WHOLE || step->step == ZV_TAKE) {
			t->found.tally.out_of_order += step->call.row < latest;
			latest = step->call.row > latest ? step->call.row : latest;
		}
	}
}

static void order_steps(struct zv_tree *t)
{
	int64_t moment = INT64_MIN;
	for (size_t i = 0; i < t->steps.len; i++) {
		const struct step *step = &t->steps.at[i];
		uint8_t shown = step->step;
		if (step->in_one)
			shown = ZV_WHOLE;
		else if (step->call.kind > ZV_FAILED_MALLOC || !step->ended)
			continue;
		moment = step->call.ts > moment ? step->call.ts : moment;
		add_order(t, moment, step->call.row, (int8_t)shown);
		if (step->in_one)
			i += 2;
	}
}

/* Whether races.py may find something in these steps: never less than it does. */
static bool may_race(struct zv_tree *t)
{
	bool may = false;
	t->latest.len = 0;
	ROOM(t, t->latest, t->steps.len);
	for (size_t i = 0; i < t->steps.len; i++) {
		const struct step *step = &t->steps.at[i];
		const struct zv_call *call = &step->call;
		uint64_t block = (uint64_t)call->block;
		may |= step->step == ZV_LOOK && !step->in_one;
		if (call->kind == ZV_CHOOSE) {
			put_key(t, &t->marked, block, 1);
			may = true;
		} else if (call->kind == ZV_SETTLE) {
			zc_map_take(&t->marked, block);
			may = true;
		}
		int64_t latest = i ? t->latest.at[i - 1] : INT64_MIN;
		if (call->kind == ZV_FREE) {
			may |= t->marked.len && zc_map_get(&t->marked, block);
			/* backwards, as far as any free returned after this one began */
			for (size_t j = i; !may && j && t->latest.at[j - 1] >= call->ts; j--) {
				const struct zv_call *other = &t->steps.at[j - 1].call;
				may = other->kind == ZV_FREE && other->block == call->block &&
				      other->end >= call->ts && call->end >= other->ts;
			}
			latest = call->end > latest ? call->end : latest;
		}
		t->latest.at[i] = latest;
	}
	return may;
}

static void report_steps(struct zv_tree *t)
{
	count_order(t);
	if (t->wants_order)
		order_steps(t);
	if (!may_race(t))
		return;
	for (size_t i = 0; i < t->steps.len; i++) {
		*PUSH(t, t->race_calls) = t->steps.at[i].call;
		*PUSH(t, t->race_steps) = (int8_t)t->steps.at[i].step;
	}
	*PUSH(t, t->race_ends) = t->race_calls.len;
}

static void commit(struct zv_tree *t)
{
	uint32_t log = t->hypotheses.list.at[0].log;
	t->steps.len = 0;
	for (; log != NONE; log = t->logs.at[log].before) {
		const struct log *one = &t->logs.at[log];
		struct step *step = PUSH(t, t->steps);
		*step = (struct step){.call = one->call, .step = one->step};
		/* Newest first, so the last step of a malloc comes before its others. */
		uint64_t row = (uint64_t)one->call.row;
		if (one->step == ZV_TAKE)
			put_key(t, &t->ended, row, 1);
		step->ended = one->step == ZV_WHOLE || zc_map_get(&t->ended, row);
		if (one->step == ZV_LOOK)
			zc_map_take(&t->ended, row);
	}
	t->watched.len = 0;
	decide(t);
	if (!t->steps.len)
		return;
	for (size_t i = 0, j = t->steps.len - 1; i < j; i++, j--) {
		struct step step = t->steps.at[i];
		t->steps.at[i] = t->steps.at[j];
		t->steps.at[j] = step;
	}
	report_steps(t);
}

static void report_failure(struct zv_tree *t, const struct zv_call *call)
{
	t->found.failed++;
	if (t->found.failed > ZV_KEPT)
		return;
	struct zv_failure failure = failure_of(t, call, t->cut_short);
	failure.around = t->around.len;
	failure.around_len = t->calls.len;
	ROOM(t, t->around, t->calls.len);
	memcpy(t->around.at + t->around.len, t->calls.at, t->calls.len * sizeof(*t->calls.at));
	t->around.len += t->calls.len;
	*PUSH(t, t->failures) = failure;
}

/* -- groups ----------------------------------------------------------------------------------- */

/* Checker._redo; the steps made are left in ``redone``, as numbers of logs. */
static void redo(struct zv_tree *t, uint32_t origin, uint32_t log, uint32_t base)
{
	t->redone.len = 0;
	for (; log != NONE && log >= base; log = t->logs.at[log].before)
		*PUSH(t, t->redone) = log;
	for (size_t i = 0, j = t->redone.len; i + 1 < j; i++) {
		uint32_t other = t->redone.at[--j];
		t->redone.at[j] = t->redone.at[i];
		t->redone.at[i] = other;
	}
	install(t, &t->hypotheses.list.at[origin].hidden, &t->hypotheses.variants);
	empty(t, &t->made);
	for (size_t i = 0; i < t->redone.len; i++) {
		const struct log *one = &t->logs.at[t->redone.at[i]];
		struct block **inserted = &t->inserted.at[one->number];
		struct applied applied;
		if (one->step == ZV_WHOLE) {
			act(t, &one->call, &applied);
		} else if (one->step == ZV_INSERT) {
			*inserted = insert(t);
			if (!*inserted)
				give_up(t, ZV_CONTRADICTION);
			put_key(t, &t->made, (uint64_t)(*inserted)->index, (uintptr_t)*inserted);
		} else if (one->step == ZV_TAKE) {
			take(t, *inserted, one->call.slot, true);
		}
	}
	for (size_t i = 0; t->made.len && i < t->watched.len; i++) {
		struct watched *watched = &t->watched.at[i];
		uint64_t made = zc_map_get(&t->made, (uint64_t)watched->index);
		if (made)
			watched->block = (struct block *)(uintptr_t)made;
	}
}

static struct block *real(const struct zv_tree *t, struct block *block)
{
	uint64_t made = block && t->made.len ? zc_map_get(&t->made, (uint64_t)block->index) : 0;
	return made ? (struct block *)(uintptr_t)made : block;
}

/* Checker._learn, of the steps in ``redone``. */
static bool learn(struct zv_tree *t)
{
	for (size_t i = 0; t->unseen.len && i < t->redone.len; i++) {
		int64_t index = t->logs.at[t->redone.at[i]].call.block;
		const struct block *block = find(t, index);
		if (is_unseen(t, index) && (!block || !memchr(block->slots, UNSEEN, t->slots)))
			zc_map_take(&t->unseen, (uint64_t)index);
	}
	if (!t->adrift)
		return false;
	for (size_t i = 0; i < t->redone.len; i++) {
		const struct log *one = &t->logs.at[t->redone.at[i]];
		const struct zv_call *call = &one->call;
		uint64_t block = (uint64_t)call->block;
		if (one->step == ZV_WHOLE && call->kind == ZV_MALLOC) {
			bool in_turn = zc_map_get(&t->fresh, block) == (uint64_t)call->slot + 2;
			put_key(t, &t->fresh, block, in_turn ? (uint64_t)call->slot + 3 : 1);
		} else if (call->kind != ZV_PASS && call->kind != ZV_FAILED_MALLOC) {
			put_key(t, &t->fresh, block, 1);
		}
	}
	struct block *newest = heap_top(t, &t->newest, -1);
	if (!newest || zc_map_get(&t->fresh, (uint64_t)newest->index) != t->slots + 2)
		return false;
	t->adrift = false;
	empty(t, &t->fresh);
	t->newest.len = 0;
	t->first_known = t->counter = (uint64_t)newest->index + 1;
	t->last = newest;
	return true;
}

/* Note a block that was there before the trace when it is first named. */
static void meet(struct zv_tree *t, const struct zv_call *call)
{
	uint64_t index = (uint64_t)call->block;
	if (index >= t->first_known || zc_map_get(&t->old, index) || find(t, call->block))
		return;
	if (call->kind != ZV_MALLOC && call->kind != ZV_FREE && call->kind != ZV_CHOOSE)
		return;
	put_key(t, &t->old, index, 1);
	adopt_unseen(t, call->block);
	if (t->adrift)
		put_key(t, &t->fresh, index, 2);
}

static bool is_hazy(const struct zv_tree *t, const struct zv_call *call)
{
	switch (call->kind) {
	case ZV_PASS:
	case ZV_CHOOSE:
		if (t->late)
			return true;
		break;
	case ZV_FREE:
	case ZV_RECOVER:
	case ZV_SETTLE:
		return is_unseen(t, call->block);
	}
	return t->current == &t->unknown || is_unseen(t, call->block);
}

/* Which calls of the group are equal, and of which something is unknown. */
static void look_over(struct zv_tree *t)
{
	t->same.len = t->hazy.len = t->finished.len = 0;
	for (uint32_t i = 0; i < t->calls.len; i++) {
		const struct zv_call *call = &t->calls.at[i];
		uint32_t same = i;
		for (uint32_t j = i;
		     j-- && t->calls.at[j].row == call->row && t->calls.at[j].ts == call->ts;)
			if (equal_calls(&t->calls.at[j], call)) {
				same = t->same.at[j];
				break;
			}
		*PUSH(t, t->same) = same;
		*PUSH(t, t->hazy) = same == i && is_hazy(t, call);
		*PUSH(t, t->finished) = 0;
	}
}

/* Leave out logs that no hypothesis leads to. */
static void forget_logs(struct zv_tree *t)
{
	if (t->hypotheses.list.len == 1 && t->hypotheses.list.at[0].log == NONE)
		t->logs.len = 0;
	if (t->logs.len < t->logs_limit)
		return;
	uint32_t *moved = calloc(t->logs.len, sizeof(*moved)), len = 0;
	if (!moved)
		give_up(t, ZC_NO_MEMORY);
	for (size_t i = 0; i < t->hypotheses.list.len; i++)
		for (uint32_t log = t->hypotheses.list.at[i].log; log != NONE && !moved[log];
		     log = t->logs.at[log].before)
			moved[log] = 1;
	for (size_t i = 0; i < t->logs.len; i++) {
		if (!moved[i])
			continue;
		struct log one = t->logs.at[i];
		if (one.before != NONE)
			one.before = moved[one.before];
		moved[i] = len;
		t->logs.at[len++] = one;
	}
	for (size_t i = 0; i < t->hypotheses.list.len; i++)
		if (t->hypotheses.list.at[i].log != NONE)
			t->hypotheses.list.at[i].log = moved[t->hypotheses.list.at[i].log];
	free(moved);
	t->logs.len = len;
	t->logs_limit = 2 * t->logs.len + SPARE_LOGS;
}

/* The group has an order: Checker._search, where there are exits. */
static void accept(struct zv_tree *t, uint32_t base)
{
	struct zv_tally *tally = &t->found.tally;
	tally->explained += t->calls.len;
	for (size_t i = 0; i < t->calls.len; i++)
		tally->in_part += t->hazy.at[i];
	redo(t, t->exits.list.at[0].origin, t->exits.list.at[0].log, base);
	for (size_t i = 0; i < t->exits.list.len; i++) {
		struct hidden *hidden = &t->exits.list.at[i].hidden;
		hidden->current = real(t, hidden->current);
		hidden->last = real(t, hidden->last);
	}
	struct exits exits = t->exits;
	t->exits = t->hypotheses;
	t->hypotheses = exits;
	if (exits.list.len > tally->most_hypotheses)
		tally->most_hypotheses = exits.list.len;
	bool found_out = learn(t);
	if (exits.list.len == 1)
		commit(t);
	else if (found_out)
		decide(t);
}

/* No order: what is left to do, after the call that nothing explains, is left in ``calls``. */
static void refuse(struct zv_tree *t, uint32_t base)
{
	struct zv_tally *tally = &t->found.tally;
	redo(t, t->deepest_origin, t->deepest_log, base);
	for (size_t i = 0; i < t->redone.len; i++) {
		const struct log *one = &t->logs.at[t->redone.at[i]];
		uint32_t same = t->same.at[one->number];
		if ((one->step != ZV_WHOLE && one->step != ZV_TAKE) || t->finished.at[same])
			continue;
		t->finished.at[same] = 1;
		tally->in_part += t->hazy.at[same];
	}
	tally->explained += (uint64_t)t->deepest;
	struct exit partial = {t->hypotheses.list.at[t->deepest_origin].hidden, 0, t->deepest_log};
	t->hypotheses.list.at[0] = partial;
	t->hypotheses.list.len = 1;
	commit(t);
	struct zv_call stuck = t->calls.at[t->stuck];
	report_failure(t, &stuck);
	force(t, &stuck);
	if (t->adrift)
		put_key(t, &t->fresh, (uint64_t)stuck.block, 1);
	learn(t);
	decide(t);
	size_t left = 0;
	for (size_t i = 0; i < t->calls.len; i++)
		if (!t->finished.at[t->same.at[i]] && i != t->stuck)
			t->calls.at[left++] = t->calls.at[i];
	t->calls.len = left;
}

/* Explain the calls in ``calls``, which overlap, or one alone that needs thought. */
static void explain(struct zv_tree *t)
{
	struct zv_tally *tally = &t->found.tally;
	size_t count = t->calls.len;
	if (count > 1) {
		tally->groups++;
		tally->overlapping += count;
		if (count > tally->largest_group)
			tally->largest_group = count;
	}
	tally->calls += count;
	if (t->played)
		decide(t);
	t->played = false;
	while (t->calls.len) {
		sweep(t);
		forget_logs(t);
		for (size_t i = 0; i < t->calls.len; i++) {
			const struct zv_call *call = &t->calls.at[i];
			meet(t, call);
			bool is_new =
				call->kind == ZV_MALLOC && (uint64_t)call->block >= t->counter;
			if (t->calls.len > 1 &&
			    (is_new || call->kind == ZV_CHOOSE || call->kind == ZV_SETTLE))
				watch(t, call->block);
		}
		look_over(t);
		uint32_t base = (uint32_t)t->logs.len;
		search(t);
		tally->dead_ends += t->dead_ends;
		tally->cut_short += t->cut_short;
		if (!t->exits.list.len) {
			refuse(t, base);
			continue;
		}
		accept(t, base);
		return;
	}
}

/* -- calls that overlap nothing --------------------------------------------------------------- */

static bool is_plain(const struct zv_tree *t)
{
	return t->hypotheses.list.len == 1 && t->current != &t->unknown && !t->watched.len &&
	       !t->adrift;
}

/* Whether the model answers as recorded, where everything is known. */
static bool play(struct zv_tree *t, const struct zv_call *call)
{
	if (call->kind == ZV_MALLOC) {
		struct block *block = look(t);
		if (block) {
			if (block->index != call->block || lowest(t, block) != call->slot)
				return false;
			model_take(t, block);
			return true;
		}
		if (t->counter != (uint64_t)call->block || call->slot)
			return false;
		struct saved inserted;
		block = insert_saved(t, &inserted);
		if (!block)
			return false;
		struct saved before = save(t, block);
		if (take(t, block, 0, true) == 0)
			return true;
		undo(t, &before);
		undo(t, &inserted);
		return false;
	}
	if (call->kind != ZV_FREE)
		return false;
	struct block *block = find(t, call->block);
	if (!block || call->slot >= (int)t->slots || block->slots[call->slot] == FREE)
		return false;
	if (block->under_reclaim || is_unseen(t, call->block))
		return false;
	model_release(t, block, call->slot);
	return true;
}

/* -- calls from outside ----------------------------------------------------------------------- */

enum { MAPS = 9 };

static void list_maps(struct zv_tree *t, struct zc_map *maps[MAPS])
{
	struct zc_map *all[MAPS] = {&t->blocks, &t->unseen, &t->old,      &t->fresh,      &t->made,
				    &t->ended,  &t->marked, &t->left.map, &t->visited.map};
	memcpy(maps, all, sizeof(all));
}

static bool start(struct zv_tree *t)
{
	struct zc_map *maps[MAPS];
	list_maps(t, maps);
	int failed = 0;
	for (size_t i = 0; i < MAPS; i++)
		failed |= zc_map_init(maps[i]);
	if (failed || setjmp(t->escape))
		return false;
	decide(t);
	return true;
}

ZC_API struct zv_tree *zv_create(uint32_t slots, uint64_t max_index, int starts_empty,
				 int wants_order)
{
	if (!slots || slots > ZV_SLOTS || !max_index || max_index > NO_COUNTER)
		return NULL;
	struct zv_tree *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->slots = slots;
	t->max_index = max_index;
	t->wants_order = wants_order;
	t->late = t->adrift = !starts_empty;
	t->unknown = (struct block){.index = -1};
	t->gone_limit = SPARE_BLOCKS;
	t->logs_limit = SPARE_LOGS;
	t->found.tally.most_hypotheses = 1;
	t->found.undecided_since = FOREVER;
	zc_slab_init(&t->slab, sizeof(struct block));
	if (t->late) {
		t->counter = t->first_known = NO_COUNTER;
		t->current = &t->unknown;
	}
	if (start(t))
		return t;
	zv_destroy(t);
	return NULL;
}

ZC_API void zv_destroy(struct zv_tree *t)
{
	if (!t)
		return;
	struct zc_map *maps[MAPS];
	list_maps(t, maps);
	for (size_t i = 0; i < MAPS; i++)
		zc_map_clear(maps[i]);
	void *vectors[] = {
		t->oldest.at,
		t->newest.at,
		t->gone.at,
		t->watched.at,
		t->hypotheses.list.at,
		t->hypotheses.variants.at,
		t->exits.list.at,
		t->exits.variants.at,
		t->before.at,
		t->scratch.at,
		t->logs.at,
		t->calls.at,
		t->progress.at,
		t->inserted.at,
		t->candidates.at,
		t->ranks.at,
		t->ranked.at,
		t->options.at,
		t->frames.at,
		t->key.at,
		t->visited.entries.at,
		t->visited.bytes.at,
		t->left.entries.at,
		t->left.bytes.at,
		t->same.at,
		t->hazy.at,
		t->finished.at,
		t->redone.at,
		t->steps.at,
		t->latest.at,
		t->at_ns.at,
		t->row.at,
		t->step.at,
		t->race_calls.at,
		t->race_steps.at,
		t->race_ends.at,
		t->failures.at,
		t->around.at,
	};
	for (size_t i = 0; i < sizeof(vectors) / sizeof(*vectors); i++)
		free(vectors[i]);
	zc_slab_clear(&t->slab);
	free(t);
}

/* What was found last time is not wanted any more. */
static void begin(struct zv_tree *t)
{
	t->at_ns.len = t->row.len = t->step.len = 0;
	t->race_calls.len = t->race_steps.len = t->race_ends.len = 0;
	t->failures.len = t->around.len = 0;
}

static void publish(struct zv_tree *t)
{
	struct zv_found *found = &t->found;
	found->at_ns = t->at_ns.at;
	found->row = t->row.at;
	found->step = t->step.at;
	found->order_len = t->at_ns.len;
	found->race_calls = t->race_calls.at;
	found->race_steps = t->race_steps.at;
	found->race_ends = t->race_ends.at;
	found->races_len = t->race_ends.len;
	found->failures = t->failures.at;
	found->around = t->around.at;
	found->failures_len = t->failures.len;
	found->undecided_since = FOREVER;
	if (!t->wants_order || t->hypotheses.list.len < 2)
		return;
	for (size_t i = 0; i < t->hypotheses.list.len; i++)
		for (uint32_t log = t->hypotheses.list.at[i].log; log != NONE;
		     log = t->logs.at[log].before)
			if (t->logs.at[log].call.ts < found->undecided_since)
				found->undecided_since = t->logs.at[log].call.ts;
}

static bool is_sound(const struct zv_call *calls, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		const struct zv_call *call = &calls[i];
		if (call->kind < 0 || call->kind >= ZV_KINDS || call->slot < 0 ||
		    call->slot >= ZV_SLOTS || call->block < 0 ||
		    call->block >= (int64_t)NO_COUNTER || call->end < call->ts ||
		    (i && call->ts < call[-1].ts))
			return false;
	}
	return count < NONE;
}

ZC_API int zv_check(struct zv_tree *t, const struct zv_call *calls, uint64_t count, int64_t limit,
		    uint64_t *done)
{
	*done = 0;
	if (t->broken)
		return t->broken;
	if (!is_sound(calls, count))
		return ZV_BAD_CALL;
	if (setjmp(t->escape))
		return t->broken;
	begin(t);
	uint64_t first = 0;
	while (first < count) {
		sweep(t);
		/* A group ends where everything so far returned before the next call began. */
		uint64_t end = first + 1;
		int64_t latest = calls[first].end;
		for (; end < count && calls[end].ts <= latest; end++)
			latest = calls[end].end > latest ? calls[end].end : latest;
		if (end == count && latest >= limit)
			break;
		if (end == first + 1 && is_plain(t) && play(t, &calls[first])) {
			t->found.tally.calls++;
			t->found.tally.explained++;
			t->played = true;
			if (t->wants_order)
				add_order(t, calls[first].ts, calls[first].row, ZV_WHOLE);
		} else {
			t->calls.len = 0;
			ROOM(t, t->calls, end - first);
			memcpy(t->calls.at, calls + first, (end - first) * sizeof(*calls));
			t->calls.len = end - first;
			explain(t);
		}
		first = end;
	}
	*done = first;
	publish(t);
	return 0;
}

ZC_API int zv_finish(struct zv_tree *t)
{
	if (t->broken)
		return t->broken;
	if (setjmp(t->escape))
		return t->broken;
	begin(t);
	t->hypotheses.list.len = 1;
	commit(t);
	publish(t);
	return 0;
}

ZC_API const struct zv_found *zv_found_of(const struct zv_tree *t)
{
	return &t->found;
}
