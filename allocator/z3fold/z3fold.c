/* SPDX-License-Identifier: GPL-2.0-only */
/* z3fold of Linux 5.12 to 6.12: allocator/z3fold/model.py in C, whose names and comments hold here too. */
#include "core.h"

#include <stdlib.h>

enum { PAGE_CHUNKS = 64, HEADER_BYTES = 88, BIG_GAP_CHUNKS = 3, RECLAIM_TRIES = 8 };
enum { FIRST = 1, MIDDLE = 2, LAST = 3, WORDS = 4, WORD_BYTES = 8, SLOTS_BYTES = 64 };
enum { NO_CPU = -1, NO_LIST = -1, LISTS = PAGE_CHUNKS };

enum { HEADLESS_BIT = 44 };
#define HEADLESS (UINT64_C(1) << HEADLESS_BIT)

struct slots;

struct page { /* in two cache lines: what every call looks at, and lists */
	_Alignas(128) uint64_t number;
	uint8_t chunks[4];
	uint8_t middle_start, first_number;
	bool headless, middle_mapped, needs_compacting, claimed, queued, in_lru;
	bool owned,
		gone; /* of a headless page: its object was not freed; the page was given back */
	int8_t list_number;
	uint32_t id;
	int32_t cpu;
	uint32_t references, foreign;
	int64_t mapped;
	struct slots *slots;
	struct page *older, *newer; /* in its list */
	struct page *lru_older, *lru_newer; /* least recently used page first */
	struct page *queue_older, *queue_newer; /* awaiting compaction */
};

/* ``owner`` is the page whose slots these are; they outlive it while objects have words here. */
struct slots { /* in two cache lines */
	_Alignas(128) uint64_t number;
	struct page *owner;
	uint32_t objects, stale, id;
	bool abandoned;
	struct {
		struct page *page; /* NULL: not in use */
		uint32_t number;
	} words[WORDS];
};

struct ends {
	struct page *oldest, *newest;
};

struct z3fold {
	struct zc_pool base;
	uint32_t chunk_bytes, page_shift, header_chunks, chunks, cpus, cpu;
	bool deferred;
	int64_t largest;
	struct page **lists; /* newest page of list n of a cpu, at cpu * LISTS + n */
	uint64_t *filled; /* of each cpu: bit n is set if list n is not empty */
	struct ends lru, queue;
	uint64_t queue_len;
	struct zc_map queued; /* number -> page in the queue, if work is deferred */
	struct zc_map there;  /* numbers of all pages, if that will be asked */
	bool has_pages;
	/*
	 * Slots by number * 2, pages of live headless objects by handle, which is odd. By
	 * reference only the latter; a reference is the id of slots * 4 + word, or HEADLESS and
	 * the id of the page.
	 */
	struct zc_map named;
	struct zc_map evicted_unfreed;
	struct zc_slab page_slab, slots_slab;
	uint64_t pages_len, used_chunks, foreign, headless_pages, headless_objects;
	uint64_t pages_allocated, pages_freed, pages_reclaimed, evictions, slots_made, slots_held;
	uint64_t lists_searched, compactions, compactions_queued, objects_moved, middles_moved;
	/* For the statistics: pages of each list and their references but the queue's own. */
	uint64_t listed[LISTS], listed_used[LISTS], waiting, waiting_used;
};

static uint32_t word_of(const struct page *page, uint32_t buddy)
{
	return (buddy + page->first_number) % WORDS;
}

static uint64_t address(const struct slots *slots, uint32_t word)
{
	return (slots->number + 1) * SLOTS_BYTES + word * WORD_BYTES;
}

static uint64_t slots_key(uint64_t number)
{
	return number << 1;
}

static uint64_t headless_handle(const struct z3fold *z, const struct page *page)
{
	return (page->number + 1) << z->page_shift | 1;
}

/* Count a page for the statistics (sign 1), or no longer (-1), before a change of its state. */
static void tally(struct z3fold *z, const struct page *page, uint64_t sign)
{
	if (page->list_number != NO_LIST) {
		z->listed[page->list_number] += sign;
		z->listed_used[page->list_number] += sign * (page->references - page->queued);
	} else if (page->queued) {
		z->waiting += sign;
		z->waiting_used += sign * (page->references - 1u);
	}
}

static void add_references(struct z3fold *z, struct page *page, uint32_t count)
{
	tally(z, page, UINT64_MAX);
	page->references += count;
	tally(z, page, 1);
}

/* -- handles -------------------------------------------------------------------------------- */

static struct slots *slots_of(const struct z3fold *z, uint64_t handle)
{
	return (struct slots *)(uintptr_t)zc_map_get(&z->named,
						     slots_key(handle / SLOTS_BYTES - 1));
}

/* The object in a word of slots. */
static struct page *in_word(const struct slots *slots, uint32_t word, uint32_t *buddy)
{
	struct page *page = slots->words[word].page;
	if (page)
		*buddy = (slots->words[word].number + WORDS - page->first_number) % WORDS;
	return page;
}

static uint64_t z3fold_handle_of(struct zc_pool *pool, uint64_t ref)
{
	const struct z3fold *z = (struct z3fold *)pool;
	if (ref & HEADLESS)
		return headless_handle(z, zc_slab_at(&z->page_slab, ref & ~HEADLESS));
	return address(zc_slab_at(&z->slots_slab, ref / WORDS), ref % WORDS);
}

/* As below, by reference. */
static struct page *dereference(const struct z3fold *z, uint64_t ref, uint32_t *buddy)
{
	*buddy = 0;
	if (!(ref & HEADLESS))
		return in_word(zc_slab_at(&z->slots_slab, ref / WORDS), ref % WORDS, buddy);
	struct page *page = zc_slab_at(&z->page_slab, ref & ~HEADLESS);
	return page->gone ? NULL : page;
}

/* The page of a live object and its place there, 0 if headless; NULL if there is none. */
static struct page *lookup(const struct z3fold *z, uint64_t handle, uint32_t *buddy)
{
	if (z->base.by_ref)
		return dereference(z, handle, buddy);
	if (handle & 1) {
		*buddy = 0;
		return (struct page *)(uintptr_t)zc_map_get(&z->named, handle);
	}
	uint64_t rest = handle % SLOTS_BYTES;
	if (rest % WORD_BYTES || rest >= WORDS * WORD_BYTES || handle < SLOTS_BYTES)
		return NULL;
	const struct slots *slots = slots_of(z, handle);
	if (!slots)
		return NULL;
	return in_word(slots, rest / WORD_BYTES, buddy);
}

static bool was_given(const struct z3fold *z, uint64_t handle)
{
	if (handle & 1) {
		uint64_t number = handle >> z->page_shift;
		return (handle & (z->base.page_bytes - 1)) == 1 && number &&
		       number <= z->pages_allocated;
	}
	uint64_t number = handle / SLOTS_BYTES, rest = handle % SLOTS_BYTES;
	return rest % WORD_BYTES == 0 && rest < WORDS * WORD_BYTES && number &&
	       number <= z->slots_made;
}

static int no_object(struct z3fold *z, uint64_t handle, const char *call, const char *stale)
{
	const char *name = stale;
	if (z->base.by_ref)
		handle = z3fold_handle_of(&z->base, handle);
	if (zc_map_find(&z->evicted_unfreed, handle))
		name = "evicted-unfreed";
	else if (!was_given(z, handle))
		name = "unknown-handle";
	return zc_fatal(&z->base, name, "%s of 0x%" PRIx64 ", which is no object's", call, handle);
}

static void leak(struct z3fold *z, const struct slots *slots)
{
	zc_meet(&z->base, "slots-leak",
		"slots %" PRIu64 " are kept for objects that reclaim had freed", slots->number);
}

/* Forget slots that nothing can name any more, whether or not the kernel has leaked them. */
static void forget_slots(struct z3fold *z, struct slots *slots)
{
	if (slots->objects || slots->owner)
		return;
	if (!z->base.by_ref)
		zc_map_take(&z->named, slots_key(slots->number));
	zc_slab_put(&z->slots_slab, slots, slots->id);
}

static int new_slots(struct z3fold *z, struct page *page)
{
	uint32_t id = 0;
	struct slots *slots = zc_slab_get(&z->slots_slab, &id);
	if (!slots)
		return zc_out_of_memory(&z->base);
	if (!z->base.by_ref) {
		struct zc_slot *entry = zc_map_put(&z->named, slots_key(z->slots_made));
		if (!entry) {
			zc_slab_put(&z->slots_slab, slots, id);
			return zc_out_of_memory(&z->base);
		}
		entry->value = (uintptr_t)slots;
	}
	*slots = (struct slots){.number = z->slots_made++, .owner = page, .id = id};
	z->slots_held++;
	page->slots = slots;
	return 0;
}

/* Use a word of the page's slots, which are there; returns its address. */
static uint64_t give_word(struct z3fold *z, struct page *page, uint32_t buddy)
{
	struct slots *slots = page->slots;
	uint32_t number = word_of(page, buddy);
	slots->objects++;
	slots->stale &= ~(1u << number);
	slots->words[number].page = page;
	slots->words[number].number = number;
	z->base.last_ref = (uint64_t)slots->id * WORDS + number;
	return address(slots, number);
}

static void clear_word(struct z3fold *z, struct slots *slots, uint32_t word, struct page *page,
		       bool claimed)
{
	slots->words[word].page = NULL;
	slots->objects--;
	if (claimed) {
		slots->stale |= 1u << word;
		forget_slots(z, slots);
		return;
	}
	if (page->slots != slots) {
		page->foreign--;
		z->foreign--;
	}
	if (slots->objects)
		return;
	if (!slots->stale) {
		z->slots_held--;
		if (page->slots == slots) {
			page->slots = NULL;
			slots->owner = NULL;
		}
	} else if (slots->abandoned) {
		leak(z, slots);
	}
	forget_slots(z, slots);
}

/* -- lists ---------------------------------------------------------------------------------- */

static uint32_t free_chunks(const struct z3fold *z, const struct page *page)
{
	uint32_t first = page->chunks[FIRST], middle = page->chunks[MIDDLE];
	uint32_t last = page->chunks[LAST];
	if (!middle)
		return z->chunks - first - last;
	uint32_t before = first ? 0 : page->middle_start - z->header_chunks;
	uint32_t behind = last ? 0 : PAGE_CHUNKS - (page->middle_start + middle);
	return before > behind ? before : behind;
}

static void add(struct z3fold *z, struct page *page)
{
	if (page->chunks[FIRST] && page->chunks[MIDDLE] && page->chunks[LAST])
		return;
	uint32_t number = free_chunks(z, page);
	struct page **newest = &z->lists[z->cpu * LISTS + number];
	tally(z, page, UINT64_MAX);
	page->newer = NULL;
	page->older = *newest;
	if (*newest)
		(*newest)->newer = page;
	*newest = page;
	page->cpu = (int32_t)z->cpu;
	page->list_number = (int8_t)number;
	tally(z, page, 1);
	if (number < z->chunks)
		z->filled[z->cpu] |= UINT64_C(1) << number;
	else
		zc_meet(&z->base, "list-out-of-range",
			"page %" PRIu64
			", emptied by reclaim while its compaction was pending, goes "
			"on list %u; the last one is %u",
			page->number, number, z->chunks - 1);
}

static void unlink_page(struct z3fold *z, struct page *page)
{
	if (page->list_number == NO_LIST)
		return;
	struct page **newest = &z->lists[(uint32_t)page->cpu * LISTS + (uint32_t)page->list_number];
	if (page->newer)
		page->newer->older = page->older;
	else
		*newest = page->older;
	if (page->older)
		page->older->newer = page->newer;
	if (!*newest)
		z->filled[page->cpu] &= ~(UINT64_C(1) << page->list_number);
	tally(z, page, UINT64_MAX);
	page->list_number = NO_LIST;
	tally(z, page, 1);
}

static struct page *take(struct z3fold *z, uint32_t cpu, uint32_t number)
{
	struct page *page = z->lists[cpu * LISTS + number];
	unlink_page(z, page);
	page->cpu = NO_CPU;
	if (page->needs_compacting || page->claimed)
		return NULL;
	add_references(z, page, 1);
	return page;
}

static struct page *find(struct z3fold *z, uint32_t chunks)
{
	uint64_t fitting;
	while ((fitting = z->filled[z->cpu] >> chunks)) {
		uint32_t skipped = (uint32_t)__builtin_ctzll(fitting);
		z->lists_searched += skipped + 1;
		struct page *page = take(z, z->cpu, chunks + skipped);
		if (page)
			return page;
	}
	z->lists_searched += z->chunks - chunks;
	for (uint32_t cpu = 0; cpu < z->cpus; cpu++) {
		z->lists_searched++;
		if (z->filled[cpu] >> chunks & 1) {
			struct page *page = take(z, cpu, chunks);
			if (page)
				return page;
		}
	}
	return NULL;
}

static void lru_push(struct z3fold *z, struct page *page)
{
	page->lru_newer = NULL;
	page->lru_older = z->lru.newest;
	if (z->lru.newest)
		z->lru.newest->lru_newer = page;
	else
		z->lru.oldest = page;
	z->lru.newest = page;
	page->in_lru = true;
}

static void lru_unlink(struct z3fold *z, struct page *page)
{
	if (!page->in_lru)
		return;
	if (page->lru_newer)
		page->lru_newer->lru_older = page->lru_older;
	else
		z->lru.newest = page->lru_older;
	if (page->lru_older)
		page->lru_older->lru_newer = page->lru_newer;
	else
		z->lru.oldest = page->lru_newer;
	page->in_lru = false;
}

static int queue_push(struct z3fold *z, struct page *page)
{
	if (z->deferred) {
		struct zc_slot *entry = zc_map_put(&z->queued, page->number);
		if (!entry)
			return zc_out_of_memory(&z->base);
		entry->value = (uintptr_t)page;
	}
	tally(z, page, UINT64_MAX);
	page->queue_newer = NULL;
	page->queue_older = z->queue.newest;
	if (z->queue.newest)
		z->queue.newest->queue_newer = page;
	else
		z->queue.oldest = page;
	z->queue.newest = page;
	z->queue_len++;
	page->queued = true;
	tally(z, page, 1);
	return 0;
}

static void queue_unlink(struct z3fold *z, struct page *page)
{
	if (z->deferred)
		zc_map_take(&z->queued, page->number);
	tally(z, page, UINT64_MAX);
	if (page->queue_newer)
		page->queue_newer->queue_older = page->queue_older;
	else
		z->queue.newest = page->queue_older;
	if (page->queue_older)
		page->queue_older->queue_newer = page->queue_newer;
	else
		z->queue.oldest = page->queue_newer;
	z->queue_len--;
	page->queued = false;
	tally(z, page, 1);
}

static uint32_t put_in(const struct z3fold *z, struct page *page, uint32_t chunks)
{
	uint8_t *used = page->chunks;
	uint32_t buddy = MIDDLE;
	if (used[MIDDLE])
		buddy = !used[FIRST] && chunks + z->header_chunks <= page->middle_start ? FIRST
											: LAST;
	else if (!used[FIRST])
		buddy = FIRST;
	else if (!used[LAST])
		buddy = LAST;
	else
		page->middle_start = (uint8_t)(used[FIRST] + z->header_chunks);
	used[buddy] = (uint8_t)chunks;
	return buddy;
}

static void retotal(struct z3fold *z)
{
	z->base.total_bytes = z->base.held_bytes = z->pages_len << z->page_shift;
}

static struct page *new_page(struct z3fold *z, bool headless)
{
	uint32_t id = 0;
	struct page *page = zc_slab_get(&z->page_slab, &id);
	struct zc_slot unasked = {0, 0}, *entry = &unasked;
	if (page && z->has_pages && !(entry = zc_map_put(&z->there, z->pages_allocated))) {
		zc_slab_put(&z->page_slab, page, id);
		page = NULL;
	}
	if (!page)
		return NULL;
	entry->value = 1;
	*page = (struct page){.number = z->pages_allocated++,
			      .headless = headless,
			      .cpu = NO_CPU,
			      .list_number = NO_LIST,
			      .id = id};
	z->pages_len++;
	z->headless_pages += headless;
	retotal(z);
	lru_push(z, page);
	return page;
}

static void give_back(struct z3fold *z, struct page *page)
{
	lru_unlink(z, page);
	z->pages_len--;
	z->pages_freed++;
	z->headless_pages -= page->headless;
	retotal(z);
	zc_map_take(&z->there, page->number);
	page->gone = true;
	if (!page->owned)
		zc_slab_put(&z->page_slab, page, page->id);
}

/* kref_put(): true if that was the last reference and the page is gone. */
static bool drop_reference(struct z3fold *z, struct page *page)
{
	add_references(z, page, UINT32_MAX);
	if (page->references)
		return false;
	unlink_page(z, page);
	struct slots *slots = page->slots;
	give_back(z, page);
	if (slots) {
		slots->abandoned = true;
		slots->owner = NULL;
		if (!slots->objects)
			leak(z, slots);
		forget_slots(z, slots);
	}
	return true;
}

/* -- compaction ----------------------------------------------------------------------------- */

static uint32_t only_buddy(const struct page *page)
{
	uint32_t found = 0;
	for (uint32_t buddy = FIRST; buddy <= LAST; buddy++) {
		if (!page->chunks[buddy])
			continue;
		if (found)
			return 0;
		found = buddy;
	}
	return found;
}

/* compact_single_buddy(): true if the page's only object was moved into another page. */
static bool empty(struct z3fold *z, struct page *page)
{
	uint32_t buddy = only_buddy(page);
	if (page->foreign || !buddy || page->mapped || !page->slots)
		return false;
	uint32_t chunks = page->chunks[buddy];
	struct page *to = find(z, chunks);
	if (!to)
		return false;
	struct slots *slots = page->slots;
	uint32_t word = word_of(page, buddy);
	slots->words[word].page = to;
	slots->words[word].number = word_of(to, put_in(z, to, chunks));
	to->foreign++;
	z->foreign++;
	add(z, to);
	page->chunks[buddy] = 0;
	drop_reference(z, page);
	z->objects_moved++;
	return true;
}

static void move_middle(struct z3fold *z, struct page *page)
{
	uint32_t first = page->chunks[FIRST], middle = page->chunks[MIDDLE];
	uint32_t last = page->chunks[LAST], start = page->middle_start;
	if (!middle || page->middle_mapped)
		return;
	if (!first && !last) {
		page->chunks[FIRST] = (uint8_t)middle;
		page->chunks[MIDDLE] = 0;
		page->middle_start = 0;
		page->first_number = (page->first_number + 1) % WORDS;
	} else if (!last && start >= first + z->header_chunks + BIG_GAP_CHUNKS) {
		page->middle_start = (uint8_t)(first + z->header_chunks);
	} else if (!first && PAGE_CHUNKS >= last + start + middle + BIG_GAP_CHUNKS) {
		page->middle_start = (uint8_t)(PAGE_CHUNKS - last - middle);
	} else {
		return;
	}
	z->middles_moved++;
}

static void compact(struct z3fold *z, struct page *page)
{
	z->compactions++;
	page->needs_compacting = false;
	unlink_page(z, page);
	if (drop_reference(z, page) || page->claimed)
		return;
	page->claimed = true;
	if (!empty(z, page)) {
		move_middle(z, page);
		add(z, page);
		page->claimed = false;
	}
}

static int64_t z3fold_run_deferred(struct zc_pool *pool, int64_t limit)
{
	struct z3fold *z = (struct z3fold *)pool;
	int64_t done = 0;
	while (z->queue.oldest && done != limit) {
		struct page *page = z->queue.oldest;
		queue_unlink(z, page);
		compact(z, page);
		done++;
	}
	return done;
}

/* 1 if the page was queued, else 0. */
static bool z3fold_has_page(struct zc_pool *pool, uint64_t number)
{
	return zc_map_get(&((struct z3fold *)pool)->there, number);
}

static int z3fold_compact_page(struct zc_pool *pool, uint64_t number)
{
	struct z3fold *z = (struct z3fold *)pool;
	struct page *page = (struct page *)(uintptr_t)zc_map_get(&z->queued, number);
	if (!page)
		return 0;
	queue_unlink(z, page);
	compact(z, page);
	return 1;
}

/* -- the driver's calls --------------------------------------------------------------------- */

static int malloc_headless(struct z3fold *z, uint64_t *handle)
{
	uint64_t given = (z->pages_allocated + 1) << z->page_shift | 1;
	struct zc_slot *entry = zc_map_put(&z->named, given);
	if (!entry)
		return zc_out_of_memory(&z->base);
	struct page *page = new_page(z, true);
	entry->value = (uintptr_t)page;
	if (!page) {
		z->named.len--;
		return zc_out_of_memory(&z->base);
	}
	page->owned = true;
	z->base.last_ref = HEADLESS | page->id;
	z->headless_objects++;
	z->base.objects++;
	*handle = given;
	return 0;
}

static int z3fold_malloc(struct zc_pool *pool, int64_t size, uint64_t *handle)
{
	struct z3fold *z = (struct z3fold *)pool;
	if (size <= 0)
		return -EINVAL;
	if (size > pool->page_bytes)
		return -ENOSPC;
	if (size > z->largest)
		return malloc_headless(z, handle);
	uint32_t chunks = ((uint32_t)size + z->chunk_bytes - 1) / z->chunk_bytes;
	struct page *page = find(z, chunks);
	if (!page) {
		page = new_page(z, false);
		if (!page)
			return zc_out_of_memory(pool);
		page->references = 1;
	} else {
		lru_unlink(z, page);
		lru_push(z, page);
	}
	/* a new page, or one whose own objects have all been freed, has no slots */
	if (!page->slots && new_slots(z, page))
		return ZC_NO_MEMORY;
	uint32_t buddy = put_in(z, page, chunks);
	pool->objects++;
	z->used_chunks += chunks;
	add(z, page);
	*handle = give_word(z, page, buddy);
	return 0;
}

static int z3fold_free(struct zc_pool *pool, uint64_t handle)
{
	struct z3fold *z = (struct z3fold *)pool;
	uint32_t buddy;
	struct page *page = lookup(z, handle, &buddy);
	if (ZC_UNLIKELY(!page))
		return no_object(z, handle, "free", "double-free");
	pool->objects--;
	bool claimed = page->claimed;
	page->claimed = true;
	if (!buddy) {
		zc_map_take(&z->named, headless_handle(z, page));
		page->owned = false;
		z->headless_objects--;
		if (!claimed)
			give_back(z, page);
		return 0;
	}
	z->used_chunks -= page->chunks[buddy];
	page->chunks[buddy] = 0;
	if (pool->by_ref)
		clear_word(z, zc_slab_at(&z->slots_slab, handle / WORDS), handle % WORDS, page,
			   claimed);
	else
		clear_word(z, slots_of(z, handle), handle % SLOTS_BYTES / WORD_BYTES, page,
			   claimed);
	if (drop_reference(z, page) || claimed)
		return 0;
	page->claimed = false;
	if (page->needs_compacting)
		return 0;
	page->needs_compacting = true;
	add_references(z, page, 1);
	if (page->cpu == NO_CPU) {
		compact(z, page);
		return 0;
	}
	if (queue_push(z, page))
		return ZC_NO_MEMORY;
	z->compactions_queued++;
	if (!z->deferred)
		z3fold_run_deferred(pool, -1);
	return 0;
}

static int z3fold_map(struct zc_pool *pool, uint64_t handle)
{
	struct z3fold *z = (struct z3fold *)pool;
	uint32_t buddy;
	struct page *page = lookup(z, handle, &buddy);
	if (ZC_UNLIKELY(!page))
		return no_object(z, handle, "map", "use-after-free");
	if (buddy) {
		page->mapped++;
		if (buddy == MIDDLE)
			page->middle_mapped = true;
	}
	return 0;
}

static int z3fold_unmap(struct zc_pool *pool, uint64_t handle)
{
	struct z3fold *z = (struct z3fold *)pool;
	uint32_t buddy;
	struct page *page = lookup(z, handle, &buddy);
	if (ZC_UNLIKELY(!page))
		return no_object(z, handle, "unmap", "use-after-free");
	if (!buddy)
		return 0;
	page->mapped--;
	if (buddy == MIDDLE)
		page->middle_mapped = false;
	if (page->mapped < 0)
		zc_meet(pool, "unbalanced-unmap",
			"unmap of 0x%" PRIx64 ": page %" PRIu64 " was not mapped",
			pool->by_ref ? z3fold_handle_of(pool, handle) : handle, page->number);
	return 0;
}

/* -- reclaim, 6.1 --------------------------------------------------------------------------- */

static int reclaim_headless(struct z3fold *z, struct page *page, zc_evict evict, void *context,
			    bool *done)
{
	uint64_t handle = headless_handle(z, page);
	bool owned = zc_map_find(&z->named, handle);
	int refused = evict(context, handle);
	if (z->base.broken)
		return z->base.broken;
	if (refused == ZC_ABORTED)
		return refused;
	if (refused) {
		lru_push(z, page);
		if (owned && !zc_map_find(&z->named, handle))
			zc_meet(&z->base, "leaked-page",
				"evict(0x%" PRIx64 ") freed the object, then failed", handle);
		return 0;
	}
	z->evictions++;
	*done = true;
	give_back(z, page);
	if (zc_map_take(&z->named, handle)) {
		zc_meet(&z->base, "evicted-unfreed",
			"evict(0x%" PRIx64 ") gave 0 but did not free it", handle);
		z->headless_objects--;
		z->base.objects--;
		struct zc_slot *entry = zc_map_put(&z->evicted_unfreed, handle);
		if (!entry)
			return zc_out_of_memory(&z->base);
		entry->value = 1;
	}
	return 0;
}

static int reclaim_normal(struct z3fold *z, struct page *page, zc_evict evict, void *context,
			  bool *done)
{
	static const uint32_t order[] = {MIDDLE, FIRST, LAST};
	unlink_page(z, page);
	page->cpu = NO_CPU;
	add_references(z, page, 1);
	struct slots *slots = page->slots;
	uint64_t handles[3]; /* noted before the first eviction */
	uint32_t count = 0;
	for (uint32_t i = 0; slots && i < 3; i++)
		if (page->chunks[order[i]])
			handles[count++] = address(slots, word_of(page, order[i]));
	for (uint32_t i = 0; i < count; i++) {
		int refused = evict(context, handles[i]);
		if (z->base.broken)
			return z->base.broken;
		if (refused == ZC_ABORTED)
			return refused;
		if (refused)
			break;
		z->evictions++;
	}
	slots = page->slots;
	if (page->references == 1 && slots) { /* the page goes, its slots with it */
		z->slots_held--;
		page->slots = NULL;
		slots->owner = NULL;
		forget_slots(z, slots);
	}
	if (drop_reference(z, page)) {
		*done = true;
		return 0;
	}
	lru_push(z, page);
	if (page->list_number == NO_LIST)
		add(z, page);
	return 0;
}

static int reclaim_page(struct zc_pool *pool, zc_evict evict, void *context, int64_t *ret)
{
	struct z3fold *z = (struct z3fold *)pool;
	for (int tries = 0; tries < RECLAIM_TRIES; tries++) {
		*ret = -EINVAL;
		if (!z->lru.oldest)
			return 0;
		struct page *page = z->lru.oldest;
		while (page && (page->foreign || page->claimed))
			page = page->lru_newer;
		if (!page)
			break;
		page->claimed = true;
		lru_unlink(z, page);
		bool done = false;
		int code = page->headless ? reclaim_headless(z, page, evict, context, &done)
					  : reclaim_normal(z, page, evict, context, &done);
		if (code)
			return code;
		if (done) {
			z->pages_reclaimed++;
			*ret = 0;
			return 0;
		}
		page->claimed = false;
	}
	*ret = -EAGAIN;
	return 0;
}

static int z3fold_shrink(struct zc_pool *pool, int64_t pages, zc_evict evict, void *context,
			 int64_t *ret, int64_t *reclaimed)
{
	return zc_shrink_by_page(pool, pages, reclaim_page, evict, context, ret, reclaimed);
}

/* -- the rest ------------------------------------------------------------------------------- */

static int z3fold_place(struct zc_pool *pool, uint64_t handle, struct zc_place *place)
{
	struct z3fold *z = (struct z3fold *)pool;
	uint32_t buddy, chunk = 0;
	const struct page *page = lookup(z, handle, &buddy);
	if (!page)
		return -ENOENT;
	if (buddy == FIRST)
		chunk = z->header_chunks;
	else if (buddy == MIDDLE)
		chunk = page->middle_start;
	else if (buddy == LAST)
		chunk = PAGE_CHUNKS - page->chunks[LAST];
	*place = (struct zc_place){page->number, chunk * z->chunk_bytes};
	return 0;
}

static int z3fold_set_cpu(struct zc_pool *pool, uint32_t cpu)
{
	struct z3fold *z = (struct z3fold *)pool;
	if (cpu >= z->cpus)
		return -EINVAL;
	z->cpu = cpu;
	return 0;
}

static void z3fold_prefetch(struct zc_pool *pool, uint64_t ref)
{
	const struct z3fold *z = (struct z3fold *)pool;
	if (ref & HEADLESS) {
		ZC_PREFETCH(zc_slab_at(&z->page_slab, ref & ~HEADLESS));
	} else {
		const struct slots *slots = zc_slab_at(&z->slots_slab, ref / WORDS);
		ZC_PREFETCH(slots);
		ZC_PREFETCH(slots->words + ref % WORDS);
	}
}

static void z3fold_prefetch_more(struct zc_pool *pool, uint64_t ref)
{
	const struct slots *slots;
	if (ref & HEADLESS)
		return;
	slots = zc_slab_at(&((struct z3fold *)pool)->slots_slab, ref / WORDS);
	const struct page *page = slots->words[ref % WORDS].page;
	ZC_PREFETCH(page);
	ZC_PREFETCH((const void *)((uintptr_t)page + 64)); /* of NULL too */
}

enum { POOL_FIGURES = 22 };

static size_t z3fold_stats_len(struct zc_pool *pool)
{
	return POOL_FIGURES + 2 * (((struct z3fold *)pool)->chunks + 1);
}

static void z3fold_stats(struct zc_pool *pool, int64_t *out)
{
	struct z3fold *z = (struct z3fold *)pool;
	const uint64_t figures[POOL_FIGURES] = {
		z->pages_allocated,
		z->pages_freed,
		z->pages_reclaimed,
		z->evictions,
		z->lists_searched,
		z->compactions,
		z->compactions_queued,
		z->queue_len,
		z->objects_moved,
		z->middles_moved,
		z->foreign,
		z->slots_made,
		z->slots_held,
		z->used_chunks,
		z->pages_len,
		pool->objects,
		z->headless_pages,
		z->headless_objects,
		z->waiting,
		z->waiting_used,
		z->chunks,
		z->chunk_bytes,
	};
	for (uint32_t i = 0; i < POOL_FIGURES; i++)
		*out++ = (int64_t)figures[i];
	for (uint32_t i = 0; i <= z->chunks; i++) {
		*out++ = (int64_t)z->listed[i];
		*out++ = (int64_t)z->listed_used[i];
	}
}

static void z3fold_destroy(struct zc_pool *pool)
{
	struct z3fold *z = (struct z3fold *)pool;
	zc_map_clear(&z->named);
	zc_map_clear(&z->evicted_unfreed);
	zc_map_clear(&z->queued);
	zc_map_clear(&z->there);
	zc_slab_clear(&z->page_slab);
	zc_slab_clear(&z->slots_slab);
	free(z->lists);
	free(z->filled);
	free(z);
}

static int z3fold_create(const struct zc_config *config, struct zc_pool **made)
{
	if (config->cpus < 1)
		return -EINVAL;
	struct z3fold *z = calloc(1, sizeof(*z));
	if (!z)
		return ZC_NO_MEMORY;
	z->base.backend = &zc_z3fold;
	z->base.page_bytes = config->page_bytes;
	z->base.by_ref = config->by_ref;
	z->page_shift = (uint32_t)__builtin_ctz(config->page_bytes);
	z->chunk_bytes = config->page_bytes / PAGE_CHUNKS;
	z->header_chunks = (HEADER_BYTES + z->chunk_bytes - 1) / z->chunk_bytes;
	z->chunks = PAGE_CHUNKS - z->header_chunks;
	z->largest = (z->chunks - 1) * (int64_t)z->chunk_bytes;
	z->cpus = config->cpus;
	z->deferred = config->deferred;
	z->has_pages = config->has_pages;
	zc_slab_init(&z->page_slab, sizeof(struct page));
	zc_slab_init(&z->slots_slab, sizeof(struct slots));
	z->lists = calloc(config->cpus, LISTS * sizeof(*z->lists));
	z->filled = calloc(config->cpus, sizeof(*z->filled));
	if (!z->lists || !z->filled || zc_map_init(&z->named) || zc_map_init(&z->evicted_unfreed) ||
	    zc_map_init(&z->queued) || zc_map_init(&z->there)) {
		z3fold_destroy(&z->base);
		return ZC_NO_MEMORY;
	}
	*made = &z->base;
	return 0;
}

const struct zc_backend zc_z3fold = {
	.name = "z3fold",
	.create = z3fold_create,
	.destroy = z3fold_destroy,
	.malloc = z3fold_malloc,
	.free = z3fold_free,
	.map = z3fold_map,
	.unmap = z3fold_unmap,
	.shrink = z3fold_shrink,
	.handle_of = z3fold_handle_of,
	.place = z3fold_place,
	.prefetch = z3fold_prefetch,
	.prefetch_more = z3fold_prefetch_more,
	.stats_len = z3fold_stats_len,
	.stats = z3fold_stats,
	.set_cpu = z3fold_set_cpu,
	.run_deferred = z3fold_run_deferred,
	.compact_page = z3fold_compact_page,
	.has_page = z3fold_has_page,
};
