/* SPDX-License-Identifier: GPL-2.0-only */
/* zbud of Linux 5.12 to 6.12: allocator/zbud/model.py in C, whose names and comments hold here too. */
#include "zbud.h"

#include <stdlib.h>

enum { RECLAIM_TRIES = 8 };

struct zbud {
	struct zc_pool base;
	uint32_t chunk_bytes, page_shift;
	int64_t largest;
	struct zc_map pages; /* number -> page; not used by reference: page id * 2 + is it first */
	struct zc_slab slab;
	struct lists lists;
	struct page *lru_oldest, *lru_newest;
	uint64_t pages_len, used_chunks, pages_allocated, pages_freed, lists_searched;
	uint64_t pages_reclaimed, evictions;
	uint32_t reclaims; /* under way; they hold on to pages that go meanwhile */
};

static uint64_t handle_of(const struct zbud *z, const struct page *page, bool first)
{
	uint64_t start = (page->number + 1) << z->page_shift;
	if (first)
		return start + HEADER_CHUNKS * z->chunk_bytes;
	return start + z->base.page_bytes - page->last * z->chunk_bytes;
}

static uint64_t number_of(const struct zbud *z, uint64_t handle)
{
	return (handle >> z->page_shift) - 1;
}

static bool is_first(const struct zbud *z, uint64_t handle)
{
	return (handle & (z->base.page_bytes - 1)) == HEADER_CHUNKS * z->chunk_bytes;
}

static struct page *page_at(const struct zbud *z, uint64_t ref)
{
	return zc_slab_at(&z->slab, ref >> 1);
}

static uint64_t zbud_handle_of(struct zc_pool *pool, uint64_t ref)
{
	struct zbud *z = (struct zbud *)pool;
	return handle_of(z, page_at(z, ref), ref & 1);
}

static struct page *page_of(const struct zbud *z, uint64_t handle)
{
	return (struct page *)(uintptr_t)zc_map_get(&z->pages, number_of(z, handle));
}

/* The name of what is wrong with a handle that should be a live object's; NULL if fine. */
static const char *owner_fault(const struct zbud *z, uint64_t handle, const struct page *page)
{
	if (!page)
		return number_of(z, handle) < z->pages_allocated ? "double-free" : "unknown-handle";
	if (is_first(z, handle))
		return page->first ? NULL : "double-free";
	if (!page->last)
		return "double-free";
	return handle == handle_of(z, page, false) ? NULL : "unknown-handle";
}

/* -- lists ---------------------------------------------------------------------------------- */

static void lru_push(struct zbud *z, struct page *page)
{
	page->lru_newer = NULL;
	page->lru_older = z->lru_newest;
	if (z->lru_newest)
		z->lru_newest->lru_newer = page;
	else
		z->lru_oldest = page;
	z->lru_newest = page;
}

static void lru_unlink(struct zbud *z, struct page *page)
{
	if (page->lru_newer)
		page->lru_newer->lru_older = page->lru_older;
	else
		z->lru_newest = page->lru_older;
	if (page->lru_older)
		page->lru_older->lru_newer = page->lru_newer;
	else
		z->lru_oldest = page->lru_newer;
}

static struct page *take_fitting(struct zbud *z, uint32_t chunks)
{
	struct page *page = choose(&z->lists, chunks);
	if (!page) {
		z->lists_searched += CHUNKS - chunks;
		return NULL;
	}
	z->lists_searched += list_number(page) - chunks + 1;
	unlink_page(&z->lists, page);
	return page;
}

static void retotal(struct zbud *z)
{
	z->base.total_bytes = z->base.held_bytes = z->pages_len << z->page_shift;
}

static struct page *new_page(struct zbud *z)
{
	uint32_t id = 0;
	struct page *page = zc_slab_get(&z->slab, &id);
	if (!page)
		return NULL;
	if (!z->base.by_ref) {
		struct zc_slot *slot = zc_map_put(&z->pages, z->pages_allocated);
		if (!slot) {
			zc_slab_put(&z->slab, page, id);
			return NULL;
		}
		slot->value = (uintptr_t)page;
	}
	*page = (struct page){.number = z->pages_allocated++, .id = id};
	z->pages_len++;
	retotal(z);
	lru_push(z, page);
	return page;
}

static void give_back(struct zbud *z, struct page *page)
{
	if (!z->base.by_ref)
		zc_map_take(&z->pages, page->number);
	z->pages_len--;
	z->pages_freed++;
	retotal(z);
	if (!z->reclaims)
		zc_slab_put(&z->slab, page, page->id);
}

/* -- the driver's calls --------------------------------------------------------------------- */

static int zbud_malloc(struct zc_pool *pool, int64_t size, uint64_t *handle)
{
	struct zbud *z = (struct zbud *)pool;
	if (size <= 0)
		return -EINVAL;
	if (size > z->largest)
		return -ENOSPC;
	uint32_t chunks = ((uint32_t)size + z->chunk_bytes - 1) / z->chunk_bytes;
	struct page *page = take_fitting(z, chunks);
	if (!page) {
		page = new_page(z);
		if (!page)
			return zc_out_of_memory(pool);
	} else if (page != z->lru_newest) {
		lru_unlink(z, page);
		lru_push(z, page);
	}
	bool first = !page->first;
	if (first)
		page->first = (uint8_t)chunks;
	else
		page->last = (uint8_t)chunks;
	push(&z->lists, page);
	pool->objects++;
	z->used_chunks += chunks;
	*handle = handle_of(z, page, first);
	pool->last_ref = (uint64_t)page->id << 1 | first;
	return 0;
}

static void free_end(struct zbud *z, struct page *page, bool first)
{
	uint32_t chunks = first ? page->first : page->last;
	uint32_t others = first ? page->last : page->first;
	if (chunks) {
		z->base.objects--;
		z->used_chunks -= chunks;
	}
	bool linked = !page->under_reclaim;
	if (linked)
		unlink_page(&z->lists, page);
	if (first)
		page->first = 0;
	else
		page->last = 0;
	if (!linked)
		return; /* the reclaim that is under way will see to the page */
	if (others) {
		push(&z->lists, page);
	} else {
		lru_unlink(z, page);
		give_back(z, page);
	}
}

static int zbud_free(struct zc_pool *pool, uint64_t object)
{
	struct zbud *z = (struct zbud *)pool;
	if (pool->by_ref) {
		free_end(z, page_at(z, object), object & 1);
		return 0;
	}
	struct page *page = page_of(z, object);
	const char *fault = owner_fault(z, object, page);
	if (ZC_UNLIKELY(fault != NULL)) {
		if (!page)
			return zc_fatal(pool, fault, "free of 0x%" PRIx64 ", which is no object's",
					object);
		zc_meet(pool, fault, "free of 0x%" PRIx64 ", which is no object's", object);
	}
	free_end(z, page, is_first(z, object));
	return 0;
}

static void note_use(struct zbud *z, uint64_t handle, const char *call)
{
	if (z->base.by_ref)
		return;
	const char *fault = owner_fault(z, handle, page_of(z, handle));
	if (ZC_LIKELY(!fault))
		return;
	zc_meet(&z->base, *fault == 'd' ? "use-after-free" : fault,
		"%s of 0x%" PRIx64 ", which is no object's", call, handle);
}

static int zbud_map(struct zc_pool *pool, uint64_t handle)
{
	note_use((struct zbud *)pool, handle, "map");
	return 0;
}

static int zbud_unmap(struct zc_pool *pool, uint64_t handle)
{
	note_use((struct zbud *)pool, handle, "unmap");
	return 0;
}

/* -- reclaim, 6.1 --------------------------------------------------------------------------- */

static int reclaim_page(struct zc_pool *pool, zc_evict evict, void *context, int64_t *ret)
{
	struct zbud *z = (struct zbud *)pool;
	*ret = -EINVAL;
	if (!z->lru_oldest)
		return 0;
	for (int tries = 0; tries < RECLAIM_TRIES; tries++) {
		struct page *page = z->lru_oldest;
		lru_unlink(z, page);
		unlink_page(&z->lists, page);
		page->under_reclaim = true;
		uint64_t handles[2]; /* noted before the first eviction */
		uint32_t count = 0;
		if (page->first)
			handles[count++] = handle_of(z, page, true);
		if (page->last)
			handles[count++] = handle_of(z, page, false);
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
		page->under_reclaim = false;
		if (!page->first && !page->last) {
			give_back(z, page);
			z->pages_reclaimed++;
			*ret = 0;
			return 0;
		}
		push(&z->lists, page);
		lru_push(z, page);
	}
	*ret = -EAGAIN;
	return 0;
}

static int zbud_shrink(struct zc_pool *pool, int64_t pages, zc_evict evict, void *context,
		       int64_t *ret, int64_t *reclaimed)
{
	struct zbud *z = (struct zbud *)pool;
	z->reclaims++;
	int code = zc_shrink_by_page(pool, pages, reclaim_page, evict, context, ret, reclaimed);
	z->reclaims--;
	return code;
}

/* -- the rest ------------------------------------------------------------------------------- */

static int zbud_place(struct zc_pool *pool, uint64_t handle, struct zc_place *place)
{
	struct zbud *z = (struct zbud *)pool;
	if (pool->by_ref)
		handle = zbud_handle_of(pool, handle);
	else if (owner_fault(z, handle, page_of(z, handle)))
		return -ENOENT;
	*place = (struct zc_place){number_of(z, handle), handle & (pool->page_bytes - 1)};
	return 0;
}

static void zbud_prefetch(struct zc_pool *pool, uint64_t ref)
{
	ZC_PREFETCH(page_at((struct zbud *)pool, ref));
}

static void zbud_prefetch_more(struct zc_pool *pool, uint64_t ref)
{
	const struct page *page = page_at((struct zbud *)pool, ref);
	ZC_PREFETCH(page->older);
	ZC_PREFETCH(page->newer);
}

enum { POOL_FIGURES = 6 };

static size_t zbud_stats_len(struct zc_pool *pool)
{
	(void)pool;
	return POOL_FIGURES + CHUNKS;
}

static void zbud_stats(struct zc_pool *pool, int64_t *out)
{
	struct zbud *z = (struct zbud *)pool;
	*out++ = (int64_t)z->pages_allocated;
	*out++ = (int64_t)z->pages_freed;
	*out++ = (int64_t)z->pages_reclaimed;
	*out++ = (int64_t)z->evictions;
	*out++ = (int64_t)z->lists_searched;
	*out++ = (int64_t)z->used_chunks;
	for (uint32_t i = 0; i < CHUNKS; i++)
		*out++ = (int64_t)z->lists.list[i].len;
}

static void zbud_destroy(struct zc_pool *pool)
{
	struct zbud *z = (struct zbud *)pool;
	zc_map_clear(&z->pages);
	zc_slab_clear(&z->slab);
	free(z);
}

static int zbud_create(const struct zc_config *config, struct zc_pool **made)
{
	struct zbud *z = calloc(1, sizeof(*z));
	if (!z)
		return ZC_NO_MEMORY;
	z->base.backend = &zc_zbud;
	z->base.page_bytes = config->page_bytes;
	z->base.by_ref = config->by_ref;
	z->page_shift = (uint32_t)__builtin_ctz(config->page_bytes);
	z->chunk_bytes = config->page_bytes / PAGE_CHUNKS;
	z->largest = (CHUNKS - 1) * (int64_t)z->chunk_bytes;
	zc_slab_init(&z->slab, sizeof(struct page));
	if (zc_map_init(&z->pages)) {
		zbud_destroy(&z->base);
		return ZC_NO_MEMORY;
	}
	*made = &z->base;
	return 0;
}

const struct zc_backend zc_zbud = {
	.name = "zbud",
	.create = zbud_create,
	.destroy = zbud_destroy,
	.malloc = zbud_malloc,
	.free = zbud_free,
	.map = zbud_map,
	.unmap = zbud_unmap,
	.shrink = zbud_shrink,
	.handle_of = zbud_handle_of,
	.place = zbud_place,
	.prefetch = zbud_prefetch,
	.prefetch_more = zbud_prefetch_more,
	.stats_len = zbud_stats_len,
	.stats = zbud_stats,
};
