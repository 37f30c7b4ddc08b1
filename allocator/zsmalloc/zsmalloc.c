/* SPDX-License-Identifier: GPL-2.0-only */
/* zsmalloc of Linux 6.1 and 6.12 to 7.2: allocator/zsmalloc/model.py in C, whose names hold here too. */
#include "zsmalloc.h"

#include <stdlib.h>
#include <string.h>

enum { HANDLE_BYTES = 8, MIN_CLASS_BYTES = 32, CLASS_BITS = 8, MIN_CHAIN = 4, MAX_CHAIN = 16 };
enum { MAX_CLASSES_BITS = CLASS_BITS + 1, MAX_CLASSES = (1 << MAX_CLASSES_BITS) + 1, ALIGN = 8 };
enum { FULL_61 = 3, FULL_612 = 11 };

/*
 * What the kernel keeps behind a handle, and what a reference is: the zspage's id (28 bits, from
 * 1) and the slot (17).
 */
enum { SIZE_BITS = 19, SLOT_BITS = 17, ID_BITS = 28, HANDLE_BITS = 44 };

struct word {
	uint32_t id, slot;
};

static uint64_t pack(uint32_t id, uint32_t slot)
{
	return (uint64_t)id << SLOT_BITS | slot;
}

static struct word unpack(uint64_t value)
{
	return (struct word){(uint32_t)(value >> SLOT_BITS), value & ((1u << SLOT_BITS) - 1)};
}

static uint64_t used_cell(uint64_t handle, uint32_t size)
{
	return handle << (SIZE_BITS + 1) | (uint64_t)size << 1 | 1;
}

static uint64_t handle_in(uint64_t cell)
{
	return cell >> (SIZE_BITS + 1);
}

static uint32_t size_in(uint64_t cell)
{
	return cell >> 1 & ((1u << SIZE_BITS) - 1);
}

/* -- fullness lists ------------------------------------------------------------------------- */

static uint32_t group_of(const struct zsmalloc *z, uint32_t used, uint32_t slots)
{
	if (used == 0)
		return EMPTY;
	if (used == slots)
		return z->full;
	if (z->rules_61)
		return used <= 3 * slots / 4 ? 1 : 2;
	return 1 + 100 * used / slots / 10;
}

static void push(struct class *class, struct zspage *zspage, uint32_t group)
{
	struct zspage *head = class->heads[group];
	zspage->group = group;
	zspage->newer = NULL;
	zspage->older = head;
	if (head)
		head->newer = zspage;
	else
		class->present |= 1u << group;
	class->heads[group] = zspage;
}

static void insert(const struct zsmalloc *z, struct class *class, struct zspage *zspage)
{
	uint32_t group = class->groups[zspage->free];
	struct zspage *head = class->heads[group];
	if (!z->rules_61 || !head || zspage->free <= head->free) {
		push(class, zspage, group);
		return;
	}
	zspage->group = group;
	zspage->newer = head;
	zspage->older = head->older;
	if (head->older)
		head->older->newer = zspage;
	head->older = zspage;
}

static void unlink_zspage(struct class *class, struct zspage *zspage)
{
	if (zspage->newer) {
		zspage->newer->older = zspage->older;
	} else {
		class->heads[zspage->group] = zspage->older;
		if (!zspage->older)
			class->present &= ~(1u << zspage->group);
	}
	if (zspage->older)
		zspage->older->newer = zspage->newer;
}

static void fix(const struct zsmalloc *z, struct class *class, struct zspage *zspage)
{
	if (class->groups[zspage->free] == zspage->group)
		return;
	class->relinks++;
	unlink_zspage(class, zspage);
	insert(z, class, zspage);
}

/* -- slots ---------------------------------------------------------------------------------- */

static uint32_t pop_slot(struct zspage *zspage, uint64_t cell)
{
	uint32_t slot = zspage->next_free;
	zspage->next_free = (uint32_t)(zspage->cells[slot] >> 1);
	zspage->free--;
	zspage->cells[slot] = cell;
	return slot;
}

static void push_slot(struct zspage *zspage, uint32_t slot)
{
	zspage->cells[slot] = (uint64_t)zspage->next_free << 1;
	zspage->next_free = slot;
	zspage->free++;
}

/* Bytes that a reader of an object copies, because it spans two pages; copied() of model.py. */
static uint32_t copied(const struct zsmalloc *z, const struct class *class, uint32_t slot,
		       uint32_t size)
{
	uint32_t page_bytes = z->base.page_bytes;
	uint32_t start = slot * class->slot_bytes & (page_bytes - 1);
	if (class->pages == 1)
		return 0;
	if (z->reads_objects)
		return start + HANDLE_BYTES + size > page_bytes ? size : 0;
	return start + class->slot_bytes > page_bytes ? class->slot_bytes : 0;
}

/* -- zspages -------------------------------------------------------------------------------- */

static uint32_t new_id(struct zsmalloc *z)
{
	if (z->free_ids_len)
		return z->free_ids[--z->free_ids_len];
	if (z->ids_len == z->ids_cap) {
		uint32_t cap = z->ids_cap ? 2 * z->ids_cap : 1024;
		if (cap > UINT32_C(1) << ID_BITS)
			return 0;
		struct zspage **zspages = realloc(z->zspages, cap * sizeof(*zspages));
		if (!zspages)
			return 0;
		z->zspages = zspages;
		uint32_t *free_ids = realloc(z->free_ids, cap * sizeof(*free_ids));
		if (!free_ids)
			return 0;
		z->free_ids = free_ids;
		z->ids_cap = cap;
		if (!z->ids_len)
			z->zspages[z->ids_len++] = NULL; /* ids are from 1 */
	}
	z->zspages[z->ids_len] = NULL;
	return z->ids_len++;
}

static struct zspage *new_zspage(struct zsmalloc *z, uint32_t number)
{
	struct class *class = &z->classes[number];
	struct zspage *zspage = class->spare;
	if (zspage) {
		class->spare = NULL;
	} else {
		zspage = malloc(sizeof(*zspage) + class->slots * sizeof(uint64_t));
		if (!zspage)
			return NULL;
		zspage->id = new_id(z);
		if (!zspage->id) {
			free(zspage);
			return NULL;
		}
		z->zspages[zspage->id] = zspage;
	}
	zspage->page = z->next_page;
	zspage->next_free = 0;
	zspage->free = class->slots;
	zspage->class = number;
	zspage->mapped = 0;
	for (uint32_t slot = 0; slot < class->slots; slot++)
		zspage->cells[slot] = (uint64_t)(slot + 1) << 1;
	z->next_page += class->pages;
	return zspage;
}

/* free_zspage() of a listed, empty zspage; its pages can always be locked here. */
static void give_back(struct zsmalloc *z, struct class *class, struct zspage *zspage)
{
	unlink_zspage(class, zspage);
	class->zspages--;
	class->freed++;
	z->pages -= class->pages;
}

void zs_discard(struct zsmalloc *z, struct zspage *zspage)
{
	struct class *class = &z->classes[zspage->class];
	if (!class->spare) {
		class->spare = zspage;
		return;
	}
	z->zspages[zspage->id] = NULL;
	z->free_ids[z->free_ids_len++] = zspage->id;
	free(zspage);
}

static void retotal(struct zsmalloc *z)
{
	z->base.total_bytes = z->base.held_bytes = z->pages << z->page_shift;
}

void zs_keep(struct zsmalloc *z, struct zspage *zspage)
{
	struct class *class = &z->classes[zspage->class];
	class->zspages++;
	class->freed--;
	z->pages += class->pages;
	retotal(z);
	insert(z, class, zspage);
}

/* -- the driver's calls --------------------------------------------------------------------- */

int zs_malloc_from(struct zsmalloc *z, struct zspage *zspage, int64_t size, uint64_t *handle)
{
	struct zc_pool *pool = &z->base;
	struct class *class = zs_class_of(z, size);
	struct zc_slot nowhere = {0, 0}, *word = &nowhere;
	if (z->next_handle >> HANDLE_BITS ||
	    (!pool->by_ref && !(word = zc_map_put(&z->words, z->next_handle))))
		return zc_out_of_memory(pool);
	uint64_t cell = used_cell(z->next_handle, (uint32_t)size);
	uint32_t slot;
	if (ZC_LIKELY(zspage != NULL)) {
		class->revived += zspage->group == EMPTY;
		slot = pop_slot(zspage, cell);
		class->used++;
		fix(z, class, zspage);
	} else {
		zspage = new_zspage(z, z->class_of[size]);
		if (!zspage) {
			z->words.len -= !pool->by_ref; /* its value is still 0 */
			return zc_out_of_memory(pool);
		}
		slot = pop_slot(zspage, cell);
		class->used++;
		class->zspages++;
		class->made++;
		z->pages += class->pages;
		retotal(z);
		insert(z, class, zspage);
	}
	bool spans = copied(z, class, slot, (uint32_t)size);
	class->spanning += spans;
	class->spanned += spans;
	word->value = pack(zspage->id, slot);
	z->stored_bytes += (uint64_t)size;
	pool->objects++;
	*handle = z->next_handle++;
	pool->last_ref = pool->by_ref ? word->value : *handle;
	return 0;
}

static int zs_malloc(struct zc_pool *pool, int64_t size, uint64_t *handle)
{
	struct zsmalloc *z = (struct zsmalloc *)pool;
	int refused = zs_refuses(z, size);
	if (refused)
		return refused;
	struct class *class = zs_class_of(z, size);
	struct zspage *chosen = zs_choose(z, class);
	class->searched += z->full - (chosen ? chosen->group : 0);
	return zs_malloc_from(z, chosen, size, handle);
}

static void note_bad(struct zsmalloc *z, uint64_t handle, const char *call, const char *stale)
{
	zc_meet(&z->base, handle && handle < z->next_handle ? stale : "unknown-handle",
		"%s of %" PRIu64 ", which is not allocated", call, handle);
}

/* The word of an object by handle or reference, 0 if there is none. */
static uint64_t word_of(const struct zsmalloc *z, uint64_t object)
{
	return z->base.by_ref ? object : zc_map_get(&z->words, object);
}

struct zspage *zs_holder(const struct zsmalloc *z, uint64_t handle)
{
	uint64_t value = word_of(z, handle);
	return value ? z->zspages[unpack(value).id] : NULL;
}

static uint64_t zs_handle_of(struct zc_pool *pool, uint64_t ref)
{
	if (!pool->by_ref)
		return ref;
	struct word word = unpack(ref);
	return handle_in(((struct zsmalloc *)pool)->zspages[word.id]->cells[word.slot]);
}

static int zs_free(struct zc_pool *pool, uint64_t object)
{
	struct zsmalloc *z = (struct zsmalloc *)pool;
	uint64_t value = pool->by_ref ? object : zc_map_take(&z->words, object);
	if (ZC_UNLIKELY(!value)) {
		note_bad(z, object, "free", "double-free");
		return 0;
	}
	struct word word = unpack(value);
	struct zspage *zspage = z->zspages[word.id];
	uint64_t cell = zspage->cells[word.slot];
	if (ZC_UNLIKELY(z->mapped.len) && zc_map_take(&z->mapped, handle_in(cell)))
		zspage->mapped--;
	z->stored_bytes -= size_in(cell);
	pool->objects--;
	struct class *class = &z->classes[zspage->class];
	class->spanning -= copied(z, class, word.slot, size_in(cell)) != 0;
	push_slot(zspage, word.slot);
	class->used--;
	fix(z, class, zspage);
	if (zspage->group == EMPTY) {
		give_back(z, class, zspage);
		retotal(z);
		if (z->keeps)
			z->emptied = zspage;
		else
			zs_discard(z, zspage);
	}
	return 0;
}

static int zs_map(struct zc_pool *pool, uint64_t object)
{
	struct zsmalloc *z = (struct zsmalloc *)pool;
	uint64_t value = word_of(z, object);
	if (ZC_UNLIKELY(!value)) {
		note_bad(z, object, "map", "use-after-free");
		return 0;
	}
	uint64_t handle = pool->by_ref ? zs_handle_of(pool, object) : object;
	struct zc_slot *open = zc_map_put(&z->mapped, handle);
	if (!open)
		return zc_out_of_memory(pool);
	struct word word = unpack(value);
	struct zspage *zspage = z->zspages[word.id];
	if (!open->value++)
		zspage->mapped++;
	uint32_t bytes = copied(z, &z->classes[zspage->class], word.slot,
				size_in(zspage->cells[word.slot]));
	z->copies += bytes != 0;
	z->copied_bytes += bytes;
	return 0;
}

static int zs_unmap(struct zc_pool *pool, uint64_t object)
{
	struct zsmalloc *z = (struct zsmalloc *)pool;
	uint64_t handle = pool->by_ref ? zs_handle_of(pool, object) : object;
	struct zc_slot *open = zc_map_find(&z->mapped, handle);
	if (ZC_LIKELY(open != NULL)) {
		if (--open->value)
			return 0;
		open->value = 1; /* the map takes a value of 0 for an unused slot */
		zc_map_remove_at(&z->mapped, open);
		z->zspages[unpack(word_of(z, object)).id]->mapped--;
	} else if (word_of(z, object)) {
		zc_meet(pool, "unbalanced-unmap", "unmap of %" PRIu64 ", which is not mapped",
			handle);
	} else {
		note_bad(z, handle, "unmap", "use-after-free");
	}
	return 0;
}

/* The driver has no shrink, for which zpool_shrink gives -EINVAL; evicts nothing. */
static int zs_shrink(struct zc_pool *pool, int64_t pages, zc_evict evict, void *context,
		     int64_t *ret, int64_t *reclaimed)
{
	(void)pool, (void)pages, (void)evict, (void)context;
	*ret = -EINVAL;
	*reclaimed = 0;
	return 0;
}

/* -- compaction ----------------------------------------------------------------------------- */

static bool compactable(const struct class *class)
{
	return class->zspages * class->slots - class->used >= class->slots;
}

static struct zspage *isolate(const struct zsmalloc *z, struct class *class, bool fullest)
{
	uint32_t partial = with_room(z, class) & ~(1u << EMPTY);
	if (!partial) {
		class->searched += z->full - 1;
		return NULL;
	}
	uint32_t group = fullest ? highest(partial) : (uint32_t)__builtin_ctz(partial);
	class->searched += fullest ? z->full - group : group;
	struct zspage *zspage = class->heads[group];
	unlink_zspage(class, zspage);
	return zspage;
}

/* migrate_zspage(): true if the source was emptied. */
static bool migrate(struct zsmalloc *z, struct class *class, struct zspage *source,
		    struct zspage *target)
{
	for (uint32_t slot = 0; slot < class->slots; slot++) {
		if (!(source->cells[slot] & 1))
			continue;
		if (!target->free)
			return false;
		uint64_t handle = handle_in(source->cells[slot]);
		uint32_t size = size_in(source->cells[slot]);
		uint32_t to = pop_slot(target, source->cells[slot]);
		class->spanning -= copied(z, class, slot, size) != 0;
		class->spanning += copied(z, class, to, size) != 0;
		push_slot(source, slot);
		zc_map_find(&z->words, handle)->value = pack(target->id, to);
		if (ZC_UNLIKELY(z->mapped.len) && zc_map_find(&z->mapped, handle)) {
			source->mapped--;
			target->mapped++;
		}
		class->moved++;
	}
	return true;
}

static void end_source(struct zsmalloc *z, struct class *class, struct zspage *source)
{
	insert(z, class, source);
	class->emptied++;
	give_back(z, class, source);
	zs_discard(z, source);
}

static bool compact_once_61(struct zsmalloc *z, struct class *class)
{
	struct zspage *source = isolate(z, class, false);
	if (!source)
		return false;
	if (!compactable(class)) {
		insert(z, class, source);
		return false;
	}
	for (bool emptied = false; !emptied;) {
		struct zspage *target = isolate(z, class, true);
		if (!target) {
			insert(z, class, source);
			return false;
		}
		emptied = migrate(z, class, source, target);
		insert(z, class, target);
	}
	end_source(z, class, source);
	return true;
}

static bool compact_once_612(struct zsmalloc *z, struct class *class)
{
	struct zspage *target = NULL;
	while (compactable(class)) {
		if (!target && !(target = isolate(z, class, true)))
			return false;
		struct zspage *source = isolate(z, class, false);
		if (!source)
			break;
		if (z->readers_stop && source->mapped) {
			insert(z, class, source);
			break;
		}
		if (migrate(z, class, source, target))
			end_source(z, class, source);
		else
			insert(z, class, source);
		if (!target->free) {
			insert(z, class, target);
			return true;
		}
	}
	if (target)
		insert(z, class, target);
	return false;
}

static int64_t zs_compact(struct zc_pool *pool)
{
	struct zsmalloc *z = (struct zsmalloc *)pool;
	if (pool->by_ref)
		return -ENOSYS; /* objects would move away from under their references */
	z->compactions++;
	int64_t freed = 0;
	for (uint32_t i = z->classes_len; i-- > 0;) {
		struct class *class = &z->classes[i];
		uint64_t emptied = class->emptied;
		while (z->rules_61 ? compact_once_61(z, class) : compact_once_612(z, class))
			;
		freed += (int64_t)((class->emptied - emptied) * class->pages);
	}
	retotal(z);
	return freed;
}

/* -- the rest ------------------------------------------------------------------------------- */

static int zs_place(struct zc_pool *pool, uint64_t handle, struct zc_place *place)
{
	struct zsmalloc *z = (struct zsmalloc *)pool;
	uint64_t value = word_of(z, handle);
	if (!value)
		return -ENOENT;
	struct word word = unpack(value);
	*place = (struct zc_place){z->zspages[word.id]->page, word.slot};
	return 0;
}

static void zs_prefetch(struct zc_pool *pool, uint64_t ref)
{
	const struct zsmalloc *z = (struct zsmalloc *)pool;
	if (!pool->by_ref) {
		zc_map_prefetch(&z->words, ref);
		return;
	}
	struct word word = unpack(ref);
	const struct zspage *zspage = z->zspages[word.id];
	ZC_PREFETCH(zspage);
	if (zspage)
		ZC_PREFETCH(&zspage->cells[word.slot]);
}

/* A zspage that changes its list touches its neighbours there. */
static void zs_prefetch_more(struct zc_pool *pool, uint64_t ref)
{
	const struct zspage *zspage =
		pool->by_ref ? ((struct zsmalloc *)pool)->zspages[unpack(ref).id] : NULL;
	if (!zspage)
		return;
	ZC_PREFETCH(zspage->newer);
	ZC_PREFETCH(zspage->older);
}

enum { POOL_FIGURES = 6, CLASS_FIGURES = 13 };

static size_t zs_stats_len(struct zc_pool *pool)
{
	return POOL_FIGURES + CLASS_FIGURES * ((struct zsmalloc *)pool)->classes_len;
}

static void zs_stats(struct zc_pool *pool, int64_t *out)
{
	struct zsmalloc *z = (struct zsmalloc *)pool;
	*out++ = (int64_t)z->next_page;
	*out++ = (int64_t)pool->objects;
	*out++ = (int64_t)z->stored_bytes;
	*out++ = (int64_t)z->compactions;
	*out++ = (int64_t)z->copies;
	*out++ = (int64_t)z->copied_bytes;
	for (uint32_t i = 0; i < z->classes_len; i++) {
		const struct class *class = &z->classes[i];
		*out++ = class->number;
		*out++ = class->slot_bytes;
		*out++ = class->slots;
		*out++ = class->pages;
		*out++ = (int64_t)class->zspages;
		*out++ = (int64_t)class->made;
		*out++ = (int64_t)class->used;
		*out++ = (int64_t)class->moved;
		*out++ = (int64_t)class->relinks;
		*out++ = (int64_t)class->revived;
		*out++ = (int64_t)class->searched;
		*out++ = (int64_t)class->spanning;
		*out++ = (int64_t)class->spanned;
	}
}

static void zs_destroy(struct zc_pool *pool)
{
	struct zsmalloc *z = (struct zsmalloc *)pool;
	for (uint32_t id = 1; id < z->ids_len; id++)
		free(z->zspages[id]);
	for (uint32_t i = 0; i < z->classes_len; i++)
		free(z->classes[i].groups);
	free(z->zspages);
	free(z->free_ids);
	free(z->classes);
	free(z->class_of);
	zc_map_clear(&z->words);
	zc_map_clear(&z->mapped);
	free(z);
}

/* What a chain costs a class: CHAIN_RULES of the Python model. */
static int64_t cost(uint32_t rule, uint32_t size, uint32_t pages, uint32_t page_bytes)
{
	int64_t bytes = (int64_t)pages * page_bytes, waste = bytes % size;
	return rule == ZC_CHAIN_USED ? -((bytes - waste) * 100 / bytes) : waste;
}

/* Pages per zspage: see pages_of() of the Python model. */
static uint32_t pages_of(const struct zc_config *config, uint32_t size)
{
	uint32_t page_bytes = config->page_bytes, rule = config->chain_rule, best = 1;
	for (uint32_t pages = 2; pages <= config->chain_size; pages++) {
		if (cost(rule, size, pages, page_bytes) >= cost(rule, size, best, page_bytes))
			continue;
		int64_t saved = (int64_t)(best * page_bytes % size) * pages -
				(int64_t)(pages * page_bytes % size) * best;
		if (100 * saved >= (int64_t)config->chain_saving * page_bytes * best * pages)
			best = pages;
	}
	return best;
}

/* The class table of zs_create_pool; see layout() of the Python model. */
static int lay_out(struct zsmalloc *z, const struct zc_config *config)
{
	uint32_t page_bytes = config->page_bytes;
	uint32_t step = config->class_step ? config->class_step : page_bytes >> CLASS_BITS;
	uint32_t last = (page_bytes - MIN_CLASS_BYTES + step - 1) / step;
	struct class descending[MAX_CLASSES];
	uint32_t merged[MAX_CLASSES], len = 0;
	for (uint32_t index = last + 1; index-- > 0;) {
		uint32_t size = MIN_CLASS_BYTES + step * index;
		if (size > page_bytes)
			size = page_bytes;
		uint32_t pages = pages_of(config, size);
		uint32_t slots = pages * page_bytes / size;
		if (!len || descending[len - 1].pages != pages ||
		    descending[len - 1].slots != slots)
			descending[len++] = (struct class){.number = index,
							   .slot_bytes = size,
							   .pages = pages,
							   .slots = slots};
		merged[index] = len - 1;
	}
	z->classes = calloc(len, sizeof(*z->classes));
	z->class_of = malloc((page_bytes + 1) * sizeof(*z->class_of));
	if (!z->classes || !z->class_of)
		return ZC_NO_MEMORY;
	z->classes_len = len;
	for (uint32_t i = 0; i < len; i++) {
		struct class *class = &z->classes[i];
		*class = descending[len - 1 - i];
		class->groups = malloc(class->slots + 1);
		if (!class->groups)
			return ZC_NO_MEMORY;
		for (uint32_t free = 0; free <= class->slots; free++)
			class->groups[free] =
				(uint8_t)group_of(z, class->slots - free, class->slots);
	}
	for (uint32_t size = 0; size <= page_bytes; size++) {
		uint32_t need = size + HANDLE_BYTES;
		if (need < MIN_CLASS_BYTES)
			need = MIN_CLASS_BYTES;
		uint32_t index = (need - MIN_CLASS_BYTES + step - 1) / step;
		z->class_of[size] = (uint16_t)(len - 1 - merged[index < last ? index : last]);
	}
	return 0;
}

static int zs_create(const struct zc_config *config, struct zc_pool **made)
{
	uint32_t variant = config->variant, step = config->class_step;
	if ((variant != 61 && variant != 612 && variant != 72) || config->chain_size < MIN_CHAIN ||
	    config->chain_size > MAX_CHAIN || config->chain_rule > ZC_CHAIN_WASTE ||
	    config->chain_saving > 100)
		return -EINVAL;
	if (step && (step % ALIGN || step < config->page_bytes >> MAX_CLASSES_BITS ||
		     step > config->page_bytes >> 2))
		return -EINVAL;
	struct zsmalloc *z = calloc(1, sizeof(*z));
	if (!z)
		return ZC_NO_MEMORY;
	z->base.backend = &zc_zsmalloc;
	z->base.page_bytes = config->page_bytes;
	z->base.by_ref = config->by_ref;
	z->page_shift = (uint32_t)__builtin_ctz(config->page_bytes);
	z->rules_61 = variant == 61;
	z->readers_stop = variant == 72;
	z->reads_objects = variant == 72;
	z->full = z->rules_61 ? FULL_61 : FULL_612;
	z->too_large = z->rules_61 ? EINVAL : ENOSPC;
	z->next_handle = 1;
	if (lay_out(z, config) || zc_map_init(&z->words) || zc_map_init(&z->mapped)) {
		zs_destroy(&z->base);
		return ZC_NO_MEMORY;
	}
	*made = &z->base;
	return 0;
}

const struct zc_backend zc_zsmalloc = {
	.name = "zsmalloc",
	.create = zs_create,
	.destroy = zs_destroy,
	.malloc = zs_malloc,
	.free = zs_free,
	.map = zs_map,
	.unmap = zs_unmap,
	.shrink = zs_shrink,
	.handle_of = zs_handle_of,
	.place = zs_place,
	.prefetch = zs_prefetch,
	.prefetch_more = zs_prefetch_more,
	.stats_len = zs_stats_len,
	.stats = zs_stats,
	.compact = zs_compact,
};
