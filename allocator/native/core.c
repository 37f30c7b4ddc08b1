/* SPDX-License-Identifier: GPL-2.0-only */
/* The table of backends, calls by name of a pool, and the containers that models share. */
#define _GNU_SOURCE /* mremap */
#include "core.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define ADDRESS(name) &zc_##name,
static const struct zc_backend *const backends[] = {ZC_MODELS(ADDRESS)};
#undef ADDRESS

const struct zc_backend *zc_backend_named(const char *name)
{
	for (size_t i = 0; i < sizeof(backends) / sizeof(*backends); i++)
		if (!strcmp(backends[i]->name, name))
			return backends[i];
	return NULL;
}

/* -- hazards -------------------------------------------------------------------------------- */

static struct zc_hazard *find_hazard(struct zc_pool *pool, const char *name)
{
	for (uint32_t i = 0; i < pool->hazards_len; i++)
		if (!strcmp(pool->hazards[i].name, name))
			return &pool->hazards[i];
	return NULL;
}

void zc_meet(struct zc_pool *pool, const char *name, const char *format, ...)
{
	struct zc_hazard *hazard = find_hazard(pool, name);
	if (hazard) {
		hazard->count++;
		return;
	}
	if (pool->hazards_len == ZC_MAX_HAZARDS)
		return;
	hazard = &pool->hazards[pool->hazards_len++];
	hazard->count = 1;
	snprintf(hazard->name, sizeof(hazard->name), "%s", name);
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(hazard->first, sizeof(hazard->first), format, arguments);
	va_end(arguments);
}

int zc_stop(struct zc_pool *pool, const char *name, const char *what)
{
	snprintf(pool->fatal.name, sizeof(pool->fatal.name), "%s", name);
	snprintf(pool->fatal.first, sizeof(pool->fatal.first), "%s", what);
	pool->broken = ZC_FATAL;
	return ZC_FATAL;
}

int zc_fatal(struct zc_pool *pool, const char *name, const char *format, ...)
{
	char what[ZC_TEXT];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	zc_meet(pool, name, "%s", what);
	return zc_stop(pool, name, what);
}

int zc_out_of_memory(struct zc_pool *pool)
{
	pool->broken = ZC_NO_MEMORY;
	return ZC_NO_MEMORY;
}

int zc_shrink_by_page(struct zc_pool *pool, int64_t pages, zc_reclaim reclaim, zc_evict evict,
		      void *context, int64_t *ret, int64_t *reclaimed)
{
	*ret = -EINVAL;
	for (*reclaimed = 0; *reclaimed < pages; ++*reclaimed) {
		int code = reclaim(pool, evict, context, ret);
		if (code || *ret < 0)
			return code;
	}
	return 0;
}

/* -- maps ----------------------------------------------------------------------------------- */

enum { FIRST_BITS = 6, LINE_BYTES = ZC_BUCKET * sizeof(struct zc_slot), HUGE_BYTES = 1 << 21 };

static bool is_large(size_t bytes)
{
	return bytes >= HUGE_BYTES;
}

/*
 * Large tables ask for huge pages, since every probe is another page, and double without a copy of
 * themselves: see spread(). Memory begins where a huge page does, its size is a multiple of one.
 */
#if defined(__linux__)
static void *map_large(size_t bytes)
{
	size_t more = bytes + HUGE_BYTES;
	char *all = mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED)
		return NULL;
	size_t before = -(uintptr_t)all & (HUGE_BYTES - 1);
	if (before)
		munmap(all, before);
	munmap(all + before + bytes, HUGE_BYTES - before);
	madvise(all + before, bytes, MADV_HUGEPAGE);
	return all + before;
}

static void unmap_large(void *memory, size_t bytes)
{
	munmap(memory, bytes);
}

/* The same memory and as much again, zeroed; the address changes. NULL: nothing was done. */
static void *double_large(void *memory, size_t bytes)
{
	void *larger = map_large(2 * bytes);
	if (!larger)
		return NULL;
	if (mremap(memory, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, larger) != MAP_FAILED)
		return larger;
	munmap(larger, 2 * bytes);
	return NULL;
}
#else /* neither promise can be made, but the rest of the code is the same */
static void *map_large(size_t bytes)
{
	void *memory = aligned_alloc(HUGE_BYTES, bytes);
	return memory ? memset(memory, 0, bytes) : NULL;
}

static void unmap_large(void *memory, size_t bytes)
{
	(void)bytes;
	free(memory);
}

static void *double_large(void *memory, size_t bytes)
{
	void *larger = map_large(2 * bytes);
	if (!larger)
		return NULL;
	memcpy(larger, memory, bytes);
	free(memory);
	return larger;
}
#endif

static struct zc_slot *new_slots(uint64_t buckets)
{
	size_t bytes = buckets * LINE_BYTES;
	if (is_large(bytes))
		return map_large(bytes);
	struct zc_slot *slots = aligned_alloc(LINE_BYTES, bytes);
	return slots ? memset(slots, 0, bytes) : NULL;
}

static void free_slots(struct zc_slot *slots, uint64_t buckets)
{
	size_t bytes = buckets * LINE_BYTES;
	if (slots && is_large(bytes))
		unmap_large(slots, bytes);
	else
		free(slots);
}

static void set_size(struct zc_map *map, unsigned bits)
{
	map->mask = (UINT64_C(1) << bits) - 1;
	map->shift = 64 - bits;
	map->limit = (map->mask + 1) * ZC_BUCKET / 8 * 5;
}

int zc_map_init(struct zc_map *map)
{
	map->len = 0;
	set_size(map, FIRST_BITS);
	map->slots = new_slots(map->mask + 1);
	return map->slots ? 0 : ZC_NO_MEMORY;
}

void zc_map_clear(struct zc_map *map)
{
	free_slots(map->slots, map->mask + 1);
	map->slots = NULL;
}

void zc_map_wipe(struct zc_map *map)
{
	memset(map->slots, 0, (map->mask + 1) * ZC_BUCKET * sizeof(*map->slots));
	map->len = 0;
}

/* Put entries into a table that has room for them and none of their keys. */
static void put_all(struct zc_map *map, const struct zc_slot *slots, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		if (slots[i].value)
			zc_map_put(map, slots[i].key)->value = slots[i].value;
}

/*
 * Double a table in its own memory. What was at home in bucket b will be in 2b or 2b + 1, so from
 * the last bucket on each one's entries find these two free of others. Those that were not at home
 * wait until all have moved.
 */
static int spread(struct zc_map *map, uint64_t buckets)
{
	const struct zc_map before = *map;
	uint64_t strays_len = 0;
	for (uint64_t i = 0; i < buckets * ZC_BUCKET; i++)
		strays_len += map->slots[i].value &&
			      zc_map_home(&before, map->slots[i].key) != i / ZC_BUCKET;
	struct zc_slot *strays = malloc((strays_len + 1) * sizeof(*strays)), *stray = strays;
	if (!strays)
		return ZC_NO_MEMORY;
	struct zc_slot *slots = double_large(map->slots, buckets * LINE_BYTES);
	if (!slots) {
		free(strays);
		return ZC_NO_MEMORY;
	}
	map->slots = slots;
	map->len = 0;
	set_size(map, 64 - before.shift + 1);
	for (uint64_t at = buckets; at-- > 0;) {
		struct zc_slot moving[ZC_BUCKET], *bucket = zc_map_bucket(map, at);
		memcpy(moving, bucket, sizeof(moving));
		memset(bucket, 0, sizeof(moving));
		for (unsigned i = 0; i < ZC_BUCKET && moving[i].value; i++)
			if (zc_map_home(&before, moving[i].key) == at)
				put_all(map, moving + i, 1);
			else
				*stray++ = moving[i];
	}
	put_all(map, strays, strays_len);
	free(strays);
	return 0;
}

int zc_map_grow(struct zc_map *map)
{
	unsigned bits = 64 - map->shift;
	if (bits >= 38)
		return ZC_NO_MEMORY;
	struct zc_slot *old = map->slots;
	uint64_t buckets = map->mask + 1;
	if (is_large(buckets * LINE_BYTES))
		return spread(map, buckets);
	struct zc_slot *slots = new_slots(buckets * 2);
	if (!slots)
		return ZC_NO_MEMORY;
	map->slots = slots;
	map->len = 0;
	set_size(map, bits + 1);
	put_all(map, old, buckets * ZC_BUCKET);
	free_slots(old, buckets);
	return 0;
}

/*
 * Take an entry out of a full bucket. One that it had no room for may be in a later one and takes
 * the place, and so on from there.
 */
void zc_map_refill(struct zc_map *map, struct zc_slot *slot)
{
	uint64_t hole_at = (uint64_t)(slot - map->slots) / ZC_BUCKET, at = hole_at;
	struct zc_slot *bucket = zc_map_bucket(map, at);
	while (ZC_UNLIKELY(bucket[ZC_BUCKET - 1].value)) {
		at = (at + 1) & map->mask;
		bucket = zc_map_bucket(map, at);
		for (unsigned i = 0; i < ZC_BUCKET && bucket[i].value; i++) {
			uint64_t home = zc_map_home(map, bucket[i].key);
			if (((at - home) & map->mask) >= ((at - hole_at) & map->mask)) {
				*slot = bucket[i];
				slot = bucket + i;
				hole_at = at;
				break;
			}
		}
	}
	bucket = zc_map_bucket(map, hole_at);
	struct zc_slot *last =
		bucket + (bucket[ZC_BUCKET - 1].value ? ZC_BUCKET : zc_bucket_len(bucket)) - 1;
	*slot = *last;
	last->value = 0;
}

/* -- slabs ---------------------------------------------------------------------------------- */

void zc_slab_init(struct zc_slab *slab, size_t bytes)
{
	*slab = (struct zc_slab){.bytes = bytes};
}

/* The first chunks come one by one, the others by as many as fit into a huge page. */
enum { SINGLE_CHUNKS = 8 };

static size_t chunk_bytes(const struct zc_slab *slab)
{
	return slab->bytes << ZC_SLAB_BITS;
}

static bool comes_in_huge_page(const struct zc_slab *slab, size_t chunk)
{
	return chunk >= SINGLE_CHUNKS && chunk_bytes(slab) <= HUGE_BYTES;
}

void zc_slab_clear(struct zc_slab *slab)
{
	for (size_t i = 0; i < slab->chunks_len;) {
		if (comes_in_huge_page(slab, i)) {
			unmap_large(slab->chunks[i], HUGE_BYTES);
			i += HUGE_BYTES / chunk_bytes(slab);
		} else {
			free(slab->chunks[i++]);
		}
	}
	free(slab->chunks);
	zc_slab_init(slab, slab->bytes);
}

/* Append chunks that are not in use; false: no memory. */
static bool add_chunks(struct zc_slab *slab)
{
	bool huge = comes_in_huge_page(slab, slab->chunks_len);
	size_t count = huge ? HUGE_BYTES / chunk_bytes(slab) : 1;
	while (slab->chunks_len + count > slab->chunks_cap) {
		size_t cap = slab->chunks_cap ? 2 * slab->chunks_cap : 16;
		char **chunks = realloc(slab->chunks, cap * sizeof(*chunks));
		if (!chunks)
			return false;
		slab->chunks = chunks;
		slab->chunks_cap = cap;
	}
	char *chunk =
		huge ? map_large(HUGE_BYTES) : aligned_alloc(2 * LINE_BYTES, chunk_bytes(slab));
	if (!chunk)
		return false;
	for (; count--; chunk += chunk_bytes(slab))
		slab->chunks[slab->chunks_len++] = chunk;
	return true;
}

void *zc_slab_more(struct zc_slab *slab, uint32_t *id)
{
	if (slab->used == slab->chunks_len << ZC_SLAB_BITS) {
		if (slab->used > UINT32_MAX - (1u << ZC_SLAB_BITS))
			return NULL;
		if (!add_chunks(slab))
			return NULL;
	}
	*id = slab->used++;
	return zc_slab_at(slab, *id);
}

/* -- calls from outside --------------------------------------------------------------------- */

ZC_API uint32_t zc_abi(void)
{
	return ZC_ABI;
}

/* Make an empty pool; NULL with *error EINVAL for an impossible configuration, or ENOMEM. */
ZC_API struct zc_pool *zc_create(const char *name, const struct zc_config *config, int *error)
{
	struct zc_pool *pool = NULL;
	*error = EINVAL;
	uint32_t page_bytes = config->page_bytes;
	if (page_bytes < ZC_LEAST_PAGE_BYTES || page_bytes > ZC_MOST_PAGE_BYTES ||
	    (page_bytes & (page_bytes - 1)))
		return NULL;
	const struct zc_backend *backend = zc_backend_named(name);
	if (!backend)
		return NULL;
	struct zc_config by_handle = *config;
	by_handle.by_ref = 0;
	int code = backend->create(&by_handle, &pool);
	if (!code)
		return pool;
	*error = code == ZC_NO_MEMORY ? ENOMEM : EINVAL;
	return NULL;
}

ZC_API void zc_destroy(struct zc_pool *pool)
{
	if (pool)
		pool->backend->destroy(pool);
}

ZC_API int zc_malloc(struct zc_pool *pool, int64_t size, uint64_t *handle)
{
	return pool->broken ? pool->broken : pool->backend->malloc(pool, size, handle);
}

ZC_API int zc_free(struct zc_pool *pool, uint64_t handle)
{
	return pool->broken ? pool->broken : pool->backend->free(pool, handle);
}

ZC_API int zc_use(struct zc_pool *pool, uint64_t handle, int begin)
{
	if (pool->broken)
		return pool->broken;
	return begin ? pool->backend->map(pool, handle) : pool->backend->unmap(pool, handle);
}

ZC_API int zc_shrink(struct zc_pool *pool, int64_t pages, zc_evict evict, void *context,
		     int64_t *ret, int64_t *reclaimed)
{
	if (pool->broken)
		return pool->broken;
	int code = pool->backend->shrink(pool, pages, evict, context, ret, reclaimed);
	if (code == ZC_ABORTED)
		pool->broken = code;
	return code;
}

ZC_API int zc_begin(struct zc_pool *pool, int64_t size, uint64_t *ticket)
{
	if (pool->broken)
		return pool->broken;
	return pool->backend->begin ? pool->backend->begin(pool, size, ticket) : -ENOSYS;
}

ZC_API int zc_end(struct zc_pool *pool, uint64_t ticket, uint64_t *handle)
{
	return pool->broken ? pool->broken : pool->backend->end(pool, ticket, handle);
}

ZC_API int zc_place(struct zc_pool *pool, uint64_t handle, struct zc_place *place)
{
	return pool->backend->place ? pool->backend->place(pool, handle, place) : -ENOSYS;
}

ZC_API int zc_set_cpu(struct zc_pool *pool, uint32_t cpu)
{
	return pool->backend->set_cpu ? pool->backend->set_cpu(pool, cpu) : -ENOSYS;
}

ZC_API int64_t zc_run_deferred(struct zc_pool *pool, int64_t limit)
{
	if (pool->broken || !pool->backend->run_deferred)
		return -ENOSYS;
	return pool->backend->run_deferred(pool, limit);
}

ZC_API int zc_compact_page(struct zc_pool *pool, uint64_t page)
{
	if (pool->broken || !pool->backend->compact_page)
		return -ENOSYS;
	return pool->backend->compact_page(pool, page);
}

ZC_API int64_t zc_compact(struct zc_pool *pool)
{
	if (pool->broken || !pool->backend->compact)
		return -ENOSYS;
	return pool->backend->compact(pool);
}

ZC_API void zc_figures(const struct zc_pool *pool, struct zc_figures *figures)
{
	*figures = (struct zc_figures){pool->total_bytes, pool->held_bytes, pool->objects,
				       pool->hazards_len, (uint64_t)pool->broken};
}

/* Hazard number ``at``; the fatal one if ``at`` is the number of hazards. */
ZC_API const struct zc_hazard *zc_hazard_at(const struct zc_pool *pool, uint32_t at)
{
	return at < pool->hazards_len ? &pool->hazards[at] : &pool->fatal;
}

ZC_API uint64_t zc_stats(struct zc_pool *pool, int64_t *figures)
{
	if (figures)
		pool->backend->stats(pool, figures);
	return pool->backend->stats_len(pool);
}
