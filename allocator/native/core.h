/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The native core: the models of allocator/ in C11, one table of functions for each.
 *
 * The Python models are the specification. Everything here gives their answers bit for bit:
 * handles, errors, totals, statistics, hazards with their texts. There are no CPython objects
 * and no global state; one pool is used by one thread at a time.
 *
 * Calls return 0, a kernel's negative errno, or one of the positive codes below. After
 * ZC_FATAL, ZC_NO_MEMORY and ZC_ABORTED a pool only gives its figures and can be destroyed.
 */
#ifndef ZTRACE_CORE_H
#define ZTRACE_CORE_H

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the layout cannot tell: one more whenever a function's arguments or meaning change. */
#define ZC_ABI 4

enum { ZC_FATAL = 1, ZC_NO_MEMORY = 2, ZC_ABORTED = 3 };

enum { ZC_LEAST_PAGE_BYTES = 4096, ZC_MOST_PAGE_BYTES = 262144 };

enum {
	ZC_REF_BITS = 45,
	ZC_MAX_TYPES = 16,
	ZC_TABLE = 256,
	ZC_MAX_HAZARDS = 24,
	ZC_NAME = 24,
	ZC_TEXT = 200
};

#if defined(__GNUC__)
#define ZC_API __attribute__((visibility("default")))
#define ZC_PRINTF(at) __attribute__((format(printf, at, at + 1)))
#define ZC_LIKELY(x) __builtin_expect(!!(x), 1)
#define ZC_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define ZC_PREFETCH(p) __builtin_prefetch(p)
#define ZC_COLD __attribute__((cold))
#define ZC_ALWAYS_INLINE __attribute__((always_inline))
#endif

struct zc_block_type {
	uint32_t order, slots;
};

/* CHAIN_RULES of zsmalloc's model. */
enum zc_chain { ZC_CHAIN_USED, ZC_CHAIN_WASTE };

/* What a pool is made from; a field that a backend does not have is ignored. */
struct zc_config {
	uint32_t page_bytes;
	uint32_t long_bytes; /* ztree: 4 or 8 */
	uint64_t max_index;  /* ztree: block indices wrap here */
	uint32_t table_len;  /* ztree and zblock: entries of table */
	uint32_t cpus;       /* z3fold */
	uint32_t deferred;   /* z3fold: queued work waits to be run */
	uint32_t variant;    /* zsmalloc: 61, 612 or 72; zblock: 1 (late ztree), 2022 or 2025 */
	uint32_t chain_size; /* zsmalloc, as the next three */
	uint32_t chain_rule; /* an enum zc_chain */
	uint32_t chain_saving;
	uint32_t class_step; /* 0: the kernel's */
	uint32_t by_ref;     /* calls name objects by reference, see struct zc_backend */
	uint32_t has_pages;  /* z3fold: has_page() will be asked */
	struct zc_block_type table[ZC_TABLE];
};

/* A fault that a history ran into: how often, and what happened the first time. */
struct zc_hazard {
	char name[ZC_NAME];
	char first[ZC_TEXT];
	uint64_t count;
};

struct zc_place {
	uint64_t page, position;
};

struct zc_figures {
	uint64_t total_bytes, held_bytes, objects;
	uint64_t hazards; /* how many different ones */
	uint64_t broken;  /* the positive code that ended its use */
};

/* Wants an object gone: 0, a negative errno, or ZC_ABORTED to unwind the shrink. */
typedef int (*zc_evict)(void *context, uint64_t handle);

struct zc_pool;

/*
 * One allocator model. Functions that a model has not are NULL.
 *
 * A pool made ``by_ref`` spares the caller the search for an object by its handle: after a malloc
 * or end, ``last_ref`` of the pool names the object in ZC_REF_BITS bits, and free, map, unmap and
 * prefetch take that instead of the handle, place too. Only references of objects that have not
 * been freed may be given. Evictions still name handles; ``handle_of`` gives an object's. A pool
 * made by handle has the handle for a reference; zsmalloc can only be compacted so.
 */
struct zc_backend {
	const char *name;
	int (*create)(const struct zc_config *config, struct zc_pool **made);
	void (*destroy)(struct zc_pool *pool);
	int (*malloc)(struct zc_pool *pool, int64_t size, uint64_t *handle);
	int (*free)(struct zc_pool *pool, uint64_t handle);
	int (*map)(struct zc_pool *pool, uint64_t handle);
	int (*unmap)(struct zc_pool *pool, uint64_t handle);
	int (*shrink)(struct zc_pool *pool, int64_t pages, zc_evict evict, void *context,
		      int64_t *ret, int64_t *reclaimed);
	/* malloc in two parts, see Ztree.begin_malloc; the ticket stays valid until the end */
	int (*begin)(struct zc_pool *pool, int64_t size, uint64_t *ticket);
	int (*end)(struct zc_pool *pool, uint64_t ticket, uint64_t *handle);
	uint64_t (*handle_of)(struct zc_pool *pool, uint64_t ref);
	int (*place)(struct zc_pool *pool, uint64_t handle, struct zc_place *place);
	/*
	 * Bring what a call on this object will touch nearer, later what that leads to. By reference;
	 * the object may be gone meanwhile.
	 */
	void (*prefetch)(struct zc_pool *pool, uint64_t ref);
	void (*prefetch_more)(struct zc_pool *pool, uint64_t ref);
	/* Statistics: the number of figures, and the figures in the order of the folder's native.py. */
	size_t (*stats_len)(struct zc_pool *pool);
	void (*stats)(struct zc_pool *pool, int64_t *figures);
	int (*set_cpu)(struct zc_pool *pool, uint32_t cpu);
	int64_t (*run_deferred)(struct zc_pool *pool, int64_t limit);
	int (*compact_page)(struct zc_pool *pool, uint64_t page);
	/* Whether the page is still the pool's; NULL: it is as long as it holds an object. */
	bool (*has_page)(struct zc_pool *pool, uint64_t page);
	int64_t (*compact)(struct zc_pool *pool);
};

/* What all pools have in common; each backend's pool begins with it. */
struct zc_pool {
	const struct zc_backend *backend;
	uint64_t total_bytes; /* the driver's own figure */
	uint64_t held_bytes; /* memory really held in whole pages */
	uint64_t objects;
	uint64_t last_ref;
	/* ztree's work: slots looked at by malloc, levels of a balanced tree of blocks by free */
	uint64_t slots_scanned, tree_levels;
	uint32_t page_bytes;
	bool by_ref;
	int broken; /* the positive code that ended its use */
	uint32_t hazards_len;
	struct zc_hazard hazards[ZC_MAX_HAZARDS];
	struct zc_hazard fatal;
};

/*
 * A model is added by a C file in its allocator's folder, which defines ``const struct zc_backend
 * zc_NAME``, by its name here, and by the folder's native.py, which the bindings find by it.
 */
#define ZC_MODELS(MODEL) MODEL(ztree) MODEL(zbud) MODEL(z3fold) MODEL(zsmalloc) MODEL(zblock)

#define ZC_DECLARE(name) extern const struct zc_backend zc_##name;
ZC_MODELS(ZC_DECLARE)
#undef ZC_DECLARE

const struct zc_backend *zc_backend_named(const char *name); /* NULL: there is none */

/* -- shared by the models ------------------------------------------------------------------- */

void zc_meet(struct zc_pool *pool, const char *name, const char *format, ...) ZC_PRINTF(3) ZC_COLD;
/* End the pool's use by a fault: returns ZC_FATAL. zc_fatal() also counts the meeting. */
int zc_stop(struct zc_pool *pool, const char *name, const char *what);
int zc_fatal(struct zc_pool *pool, const char *name, const char *format, ...) ZC_PRINTF(3);
int zc_out_of_memory(struct zc_pool *pool); /* returns ZC_NO_MEMORY */

/*
 * A shrink page by page until ``reclaim`` gives a negative ``ret`` or another code than 0, as zbud's
 * and z3fold's drivers do it.
 */
typedef int (*zc_reclaim)(struct zc_pool *pool, zc_evict evict, void *context, int64_t *ret);
int zc_shrink_by_page(struct zc_pool *pool, int64_t pages, zc_reclaim reclaim, zc_evict evict,
		      void *context, int64_t *ret, int64_t *reclaimed);

/*
 * Integers by integer. Values are not 0. Open addressing by buckets of one cache line, at most 5/8
 * full: that line is all that a call touches unless the bucket is full, as one in eight is. Slots
 * of a bucket are filled from the first on; what does not fit goes to the next bucket that is not
 * full. Grows in powers of two and never shrinks. A slot stays where it is until the map is
 * changed.
 */
enum { ZC_BUCKET = 4 };

struct zc_slot {
	uint64_t key, value;
};

struct zc_map {
	struct zc_slot *slots;
	uint64_t mask; /* of bucket numbers */
	uint64_t len, limit;
	unsigned shift;
};

int zc_map_init(struct zc_map *map); /* 0 or ZC_NO_MEMORY */
void zc_map_clear(struct zc_map *map);
void zc_map_wipe(struct zc_map *map); /* remove all entries, keep the room */
int zc_map_grow(struct zc_map *map);
void zc_map_refill(struct zc_map *map, struct zc_slot *slot);

/* The number of the bucket that a key belongs to. */
static inline uint64_t zc_map_home(const struct zc_map *map, uint64_t key)
{
	key ^= key >> 32;
	return key * UINT64_C(0x9E3779B97F4A7C15) >> map->shift;
}

static inline struct zc_slot *zc_map_bucket(const struct zc_map *map, uint64_t at)
{
	return &map->slots[at * ZC_BUCKET];
}

static inline ZC_ALWAYS_INLINE void zc_map_prefetch(const struct zc_map *map, uint64_t key)
{
	ZC_PREFETCH(zc_map_bucket(map, zc_map_home(map, key)));
}

/* Once a key's bucket is near: bring the next one too if a search would go on there. */
static inline ZC_ALWAYS_INLINE void zc_map_prefetch_next(const struct zc_map *map, uint64_t key)
{
	const struct zc_slot *bucket = zc_map_bucket(map, zc_map_home(map, key));
	ZC_PREFETCH(bucket + (bucket[ZC_BUCKET - 1].value ? ZC_BUCKET : 0));
}

/* How many slots of a bucket that is not full are taken. */
static inline unsigned zc_bucket_len(const struct zc_slot *bucket)
{
	return (bucket[0].value != 0) + (bucket[1].value != 0) + (bucket[2].value != 0);
}

/* Take out an entry: the last of its bucket gets its place, or one that the bucket had no room for. */
static inline void zc_map_remove_at(struct zc_map *map, struct zc_slot *slot)
{
	const uintptr_t line = ZC_BUCKET * sizeof(*slot);
	struct zc_slot *bucket = (struct zc_slot *)((uintptr_t)slot & -line);
	map->len--;
	if (ZC_UNLIKELY(bucket[ZC_BUCKET - 1].value)) {
		zc_map_refill(map, slot);
		return;
	}
	struct zc_slot *last = bucket + zc_bucket_len(bucket) - 1;
	slot->key = last->key;
	slot->value = last->value;
	last->value = 0;
}

/*
 * The slot of a key in a bucket, or NULL; all four are looked at, which needs no guess. What a
 * removal left behind has value 0, and is found only where the key is not before it.
 */
static inline struct zc_slot *zc_bucket_find(struct zc_slot *bucket, uint64_t key)
{
	unsigned found = 0;
	for (unsigned i = 0; i < ZC_BUCKET; i++)
		found |= (unsigned)(bucket[i].key == key) << i;
	if (!found)
		return NULL;
	struct zc_slot *slot = bucket + __builtin_ctz(found);
	return slot->value ? slot : NULL;
}

/* The slot of a key, or NULL. */
static inline struct zc_slot *zc_map_find(const struct zc_map *map, uint64_t key)
{
	for (uint64_t at = zc_map_home(map, key);; at = (at + 1) & map->mask) {
		struct zc_slot *bucket = zc_map_bucket(map, at);
		struct zc_slot *slot = zc_bucket_find(bucket, key);
		if (slot || !bucket[ZC_BUCKET - 1].value)
			return slot;
	}
}

/*
 * Where a key is if it is in its own bucket: the number of a slot that has it, or of any other one
 * of the map. Numbers stay valid when the map grows, but what they name may change.
 */
static inline uint64_t zc_map_glance(const struct zc_map *map, uint64_t key)
{
	uint64_t home = zc_map_home(map, key);
	const struct zc_slot *bucket = zc_map_bucket(map, home);
	unsigned found = 1u << (ZC_BUCKET - 1);
	for (unsigned i = 0; i < ZC_BUCKET - 1; i++)
		found |= (unsigned)(bucket[i].key == key) << i;
	return home * ZC_BUCKET + (unsigned)__builtin_ctz(found);
}

static inline uint64_t zc_map_get(const struct zc_map *map, uint64_t key)
{
	const struct zc_slot *slot = zc_map_find(map, key);
	return slot ? slot->value : 0;
}

/* The slot of a key, new with value 0 if it is not there; the caller sets the value. */
static inline struct zc_slot *zc_map_put(struct zc_map *map, uint64_t key)
{
	if (ZC_UNLIKELY(map->len >= map->limit) && zc_map_grow(map))
		return NULL;
	for (uint64_t at = zc_map_home(map, key);; at = (at + 1) & map->mask) {
		struct zc_slot *bucket = zc_map_bucket(map, at);
		struct zc_slot *slot = zc_bucket_find(bucket, key);
		if (slot)
			return slot;
		if (ZC_UNLIKELY(bucket[ZC_BUCKET - 1].value))
			continue;
		slot = bucket + zc_bucket_len(bucket);
		slot->key = key;
		map->len++;
		return slot;
	}
}

static inline uint64_t zc_map_take(struct zc_map *map, uint64_t key)
{
	struct zc_slot *slot = map->len ? zc_map_find(map, key) : NULL;
	if (!slot)
		return 0;
	uint64_t value = slot->value;
	zc_map_remove_at(map, slot);
	return value;
}

/* Objects of one size, at least 16 bytes, that are made and given back often; each has a number. */
enum { ZC_SLAB_BITS = 10 };

struct zc_spare {
	struct zc_spare *next;
	uint32_t id;
};

struct zc_slab {
	size_t bytes;
	struct zc_spare *spare;
	char **chunks;
	size_t chunks_len, chunks_cap;
	uint32_t used; /* of all chunks together */
};

void zc_slab_init(struct zc_slab *slab, size_t bytes);
void zc_slab_clear(struct zc_slab *slab);
void *zc_slab_more(struct zc_slab *slab, uint32_t *id);

static inline void *zc_slab_get(struct zc_slab *slab, uint32_t *id)
{
	struct zc_spare *spare = slab->spare;
	if (ZC_LIKELY(spare != NULL)) {
		slab->spare = spare->next;
		*id = spare->id;
		return spare;
	}
	return zc_slab_more(slab, id);
}

static inline void zc_slab_put(struct zc_slab *slab, void *object, uint32_t id)
{
	struct zc_spare *spare = object;
	spare->next = slab->spare;
	spare->id = id;
	slab->spare = spare;
}

static inline void *zc_slab_at(const struct zc_slab *slab, uint64_t id)
{
	return slab->chunks[id >> ZC_SLAB_BITS] + slab->bytes * (id & ((1u << ZC_SLAB_BITS) - 1));
}

#endif
