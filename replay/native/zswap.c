/* SPDX-License-Identifier: GPL-2.0-only */
#include "zswap.h"

#include "player.h"

#include <stdlib.h>

enum { MAX_RECLAIM_RETRIES = 16 };

enum disk { NOT_ON_DISK, WRITTEN, WRITTEN_BACK };

/* Where a swap slot is in one of the two lists of those that have a page in zswap. */
struct link {
	struct slot *older, *newer;
};

/* What is known of a swap slot; there is none of one that nothing is known of. */
struct slot {
	struct link stored, lru;
	uint64_t key, handle, ref;
	int64_t size;
	uint32_t number; /* of the slab */
	bool is_stored, is_allocated, is_referenced, is_cached;
	enum disk disk;
};

struct list {
	struct slot *oldest, *newest;
};

struct zswap {
	const struct zc_backend *backend;
	struct zc_pool *model;
	struct zl_options options;
	struct zl_result result;
	struct zc_slab slab;
	struct zc_map slots;   /* key -> slot */
	struct zc_map holders; /* driver: handle -> slot */
	struct list stored, lru;
	uint64_t total_bytes; /* driver: as zswap last looked at it */
	bool reached_full, is_queued, is_walking, has_begun;
	wide queued_ns, free_ns;
	int64_t last_ns;
	int failures;
	int evict_code; /* why an eviction ended a shrink */
	wide areas[3];
};

/* -- slots -------------------------------------------------------------------------------------- */

#define LINK(list, slot, link)                                                                     \
	do {                                                                                       \
		(slot)->link.older = (list)->newest;                                               \
		(slot)->link.newer = NULL;                                                         \
		*((list)->newest ? &(list)->newest->link.newer : &(list)->oldest) = (slot);        \
		(list)->newest = (slot);                                                           \
	} while (0)

#define UNLINK(list, slot, link)                                                                   \
	do {                                                                                       \
		*((slot)->link.older ? &(slot)->link.older->link.newer : &(list)->oldest) =        \
			(slot)->link.newer;                                                        \
		*((slot)->link.newer ? &(slot)->link.newer->link.older : &(list)->newest) =        \
			(slot)->link.older;                                                        \
	} while (0)

static struct slot *slot_of(const struct zswap *z, uint64_t key)
{
	return (struct slot *)(uintptr_t)zc_map_get(&z->slots, key);
}

/* The slot of a key, made if there is none; NULL if there is no memory. */
static struct slot *slot_for(struct zswap *z, uint64_t key)
{
	struct zc_slot *entry = zc_map_put(&z->slots, key);
	if (!entry || entry->value)
		return entry ? (struct slot *)(uintptr_t)entry->value : NULL;
	uint32_t number;
	struct slot *slot = zc_slab_get(&z->slab, &number);
	if (!slot) {
		zc_map_remove_at(&z->slots, entry);
		return NULL;
	}
	*slot = (struct slot){.key = key, .number = number};
	entry->value = (uintptr_t)slot;
	return slot;
}

/* Forget a slot of which nothing is known any more. */
static void tidy(struct zswap *z, struct slot *slot)
{
	if (slot->is_stored || slot->is_cached || slot->disk)
		return;
	zc_map_take(&z->slots, slot->key);
	zc_slab_put(&z->slab, slot, slot->number);
}

static void to_disk(struct slot *slot, enum disk how)
{
	slot->disk = how;
	slot->is_cached = false;
}

/* -- the model ---------------------------------------------------------------------------------- */

static void look_at_total(struct zswap *z)
{
	z->total_bytes = z->model->total_bytes;
}

/* The pool's size as zswap sees it: the driver's own figure, rounded up. */
static uint64_t pages(const struct zswap *z)
{
	uint64_t total =
		z->options.rules == ZL_DRIVER ? z->total_bytes : z->model->total_bytes;
	uint64_t page = z->model->page_bytes;
	return total / page + (total % page != 0);
}

static int use(struct zswap *z, const struct slot *slot)
{
	int code = z->backend->map(z->model, slot->ref);
	return code ? code : z->backend->unmap(z->model, slot->ref);
}

static int keep(struct zswap *z, struct slot *slot, int64_t size, bool allocated)
{
	slot->is_stored = true;
	slot->is_allocated = allocated;
	slot->size = size;
	LINK(&z->stored, slot, stored);
	z->result.entries++;
	z->result.stored_bytes += (uint64_t)size;
	z->result.counts.stored++;
	if (allocated && z->options.rules == ZL_LRU) {
		slot->is_referenced = true;
		LINK(&z->lru, slot, lru);
	} else if (allocated) {
		struct zc_slot *holder = zc_map_put(&z->holders, slot->handle);
		if (!holder)
			return ZC_NO_MEMORY;
		holder->value = (uintptr_t)slot;
	}
	look_at_total(z);
	return 0;
}

/* Free a slot's object, if there is one. */
static int drop(struct zswap *z, struct slot *slot)
{
	if (!slot->is_stored)
		return 0;
	slot->is_stored = false;
	UNLINK(&z->stored, slot, stored);
	z->result.entries--;
	z->result.stored_bytes -= (uint64_t)slot->size;
	if (slot->is_allocated) {
		if (z->options.rules == ZL_LRU)
			UNLINK(&z->lru, slot, lru);
		else
			zc_map_take(&z->holders, slot->handle);
		int code = z->backend->free(z->model, slot->ref);
		if (code)
			return code;
	}
	look_at_total(z);
	return 0;
}

/* -- the worker --------------------------------------------------------------------------------- */

static void queue(struct zswap *z, int64_t now_ns)
{
	if (z->is_queued)
		return;
	z->is_queued = true;
	z->queued_ns = (wide)now_ns + z->options.delay_ns;
}

static int write_back(struct zswap *z, struct slot *slot)
{
	int code = drop(z, slot);
	if (code)
		return code;
	to_disk(slot, WRITTEN_BACK);
	z->result.counts.written_back++;
	return 0;
}

/* _evict() of the Python; a fault of the model unwinds the shrink. */
static int evict(void *context, uint64_t handle)
{
	struct zswap *z = context;
	struct slot *slot = (struct slot *)(uintptr_t)zc_map_get(&z->holders, handle);
	if (!slot)
		return 0; /* no such entry: it was invalidated, which is success */
	int code = use(z, slot);
	if (!code && slot->is_cached) {
		z->result.counts.evictions_failed++;
		return -EEXIST;
	}
	if (!code)
		code = write_back(z, slot);
	z->evict_code = code;
	return code ? ZC_ABORTED : 0;
}

/* shrink_worker() of 6.1. */
static int shrink(struct zswap *z)
{
	int64_t ret = 0, reclaimed;
	int code = -EINVAL; /* of a driver that cannot */
	if (z->backend->shrink)
		code = z->backend->shrink(z->model, 1, evict, z, &ret, &reclaimed);
	if (code > 0)
		return code == ZC_ABORTED ? z->evict_code : code;
	z->result.counts.reclaim_fails += code < 0 || ret;
	return 0;
}

/* One round of shrink_worker() with shrink_memcg_cb() of 6.12, over one cgroup's list. */
static int walk_one(struct zswap *z)
{
	struct slot *slot = z->lru.oldest;
	if (!slot) {
		z->is_walking = false;
		return 0;
	}
	if (slot->is_referenced) {
		slot->is_referenced = false;
		UNLINK(&z->lru, slot, lru);
		LINK(&z->lru, slot, lru);
		z->failures++;
	} else {
		int code = use(z, slot);
		if (!code)
			code = write_back(z, slot);
		if (code)
			return code;
	}
	if (z->failures == MAX_RECLAIM_RETRIES || pages(z) <= z->options.accept_pages)
		z->is_walking = false;
	return 0;
}

/* Do a piece of work, note what it freed and how long it keeps the worker. */
static int measured(struct zswap *z, int (*work)(struct zswap *z))
{
	uint64_t held = z->model->held_bytes;
	int64_t written = z->result.counts.written_back;
	int code = work(z);
	if (code)
		return code;
	int64_t freed = (int64_t)(held - z->model->held_bytes);
	z->result.counts.pages_freed += freed / (int64_t)z->model->page_bytes;
	z->free_ns += (wide)(z->result.counts.written_back - written) * z->options.page_ns;
	return 0;
}

/* Let the worker do what it has begun, or can begin, by now. */
static int until(struct zswap *z, int64_t now_ns)
{
	for (;;) {
		wide begins = z->queued_ns > z->free_ns ? z->queued_ns : z->free_ns;
		int code = 0;
		if (z->is_walking && z->free_ns <= now_ns) {
			code = measured(z, walk_one);
		} else if (z->is_queued && begins <= now_ns) {
			z->free_ns = begins;
			z->is_queued = false;
			z->result.counts.jobs++;
			if (z->options.rules == ZL_DRIVER)
				code = measured(z, shrink);
			z->is_walking = z->options.rules == ZL_LRU;
			z->failures = 0;
		} else {
			return 0;
		}
		if (code)
			return code;
	}
}

/* -- demands ------------------------------------------------------------------------------------ */

/* Whether the limit forbids a store now. */
static bool rejects(struct zswap *z, int64_t now_ns)
{
	bool driver = z->options.rules == ZL_DRIVER;
	uint64_t now = pages(z), most = z->options.max_pages, accept = z->options.accept_pages;
	if (driver ? now > most : now >= most) {
		z->result.counts.limit_hits++;
		z->reached_full = true;
		if (driver)
			queue(z, now_ns);
	} else if (z->reached_full && (driver ? now < accept : now <= accept)) {
		z->reached_full = false;
	}
	return z->reached_full;
}

/* A new object, written to. 0, a negative errno where the allocator refuses, or a positive code. */
static int allocate(struct zswap *z, struct slot *made, int64_t size)
{
	int code = z->backend->malloc(z->model, size + z->options.header_bytes, &made->handle);
	if (code)
		return code;
	made->ref = z->model->last_ref;
	return use(z, made);
}

static int store(struct zswap *z, const struct zl_demand *one)
{
	struct zl_counts *counts = &z->result.counts;
	struct slot *slot = slot_for(z, one->key), made = {0};
	int code = 0;
	if (!slot)
		return ZC_NO_MEMORY;
	slot->is_cached = false;
	if (z->options.rules == ZL_DRIVER && (code = drop(z, slot))) /* frontswap does */
		return code;
	if (rejects(z, one->at_ns)) {
		counts->rejected++;
	} else if (one->want == ZL_WRITE) { /* found out after the limit was looked at */
		counts->incompressible++;
	} else {
		code = one->size ? allocate(z, &made, one->size) : 0;
		if (code > 0)
			return code;
		if (!code) {
			if ((code = drop(z, slot)))
				return code;
			slot->disk = NOT_ON_DISK;
			slot->handle = made.handle;
			slot->ref = made.ref;
			return keep(z, slot, one->size, one->size != 0);
		}
		counts->refused++;
	}
	if ((code = drop(z, slot)))
		return code;
	to_disk(slot, WRITTEN);
	if (z->options.rules == ZL_LRU && z->reached_full)
		queue(z, one->at_ns);
	return 0;
}

static int load(struct zswap *z, uint64_t key, bool kept)
{
	struct zl_counts *counts = &z->result.counts;
	struct slot *slot = slot_of(z, key);
	if (!slot || !slot->is_stored) {
		*(slot && slot->disk == WRITTEN_BACK ? &counts->refaults : &counts->disk_loads) += 1;
		return 0;
	}
	counts->hits++;
	int code = slot->is_allocated ? use(z, slot) : 0;
	if (code)
		return code;
	if (z->options.rules == ZL_DRIVER) {
		slot->is_cached = true;
	} else if (!kept) {
		if ((code = drop(z, slot)))
			return code;
		tidy(z, slot);
	}
	return 0;
}

static int give_up(struct zswap *z, struct slot *slot)
{
	int code = drop(z, slot);
	if (code)
		return code;
	to_disk(slot, NOT_ON_DISK);
	tidy(z, slot);
	return 0;
}

static int give_up_all(struct zswap *z)
{
	while (z->stored.oldest) {
		int code = drop(z, z->stored.oldest);
		if (code)
			return code;
	}
	zc_map_wipe(&z->slots);
	size_t bytes = z->slab.bytes;
	zc_slab_clear(&z->slab);
	zc_slab_init(&z->slab, bytes);
	return 0;
}

static int demand(struct zswap *z, const struct zl_demand *one)
{
	int code = until(z, one->at_ns);
	if (code)
		return code;
	struct slot *slot;
	switch (one->want) {
	case ZL_STORE:
	case ZL_WRITE:
		return store(z, one);
	case ZL_LOAD:
	case ZL_LOAD_KEPT:
		return load(z, one->key, one->want == ZL_LOAD_KEPT);
	case ZL_DROP:
		slot = slot_of(z, one->key);
		return slot ? give_up(z, slot) : 0;
	default:
		return give_up_all(z);
	}
}

/* Means are over the time that passed; a clock that goes back does not count. */
static void let_pass(struct zswap *z, int64_t at_ns)
{
	wide passed = z->has_begun ? (wide)at_ns - z->last_ns : 0;
	if (!z->has_begun || passed > 0)
		z->last_ns = at_ns;
	z->has_begun = true;
	if (passed <= 0)
		return;
	z->areas[0] += passed;
	z->areas[1] += passed * (wide)z->result.entries;
	z->areas[2] += passed * (wide)z->model->held_bytes;
}

/* Play demands; nothing after the model's fault. 0, or ZC_NO_MEMORY. */
ZC_API int zl_play(struct zswap *z, const struct zl_demand *demands, uint64_t len)
{
	for (uint64_t at = 0; at < len && !z->result.stopped; at++) {
		const struct zl_demand *one = demands + at;
		uint32_t hazards = z->model->hazards_len;
		let_pass(z, one->at_ns);
		int code = demand(z, one);
		if (code == ZC_NO_MEMORY)
			return code;
		for (; hazards < z->model->hazards_len; hazards++)
			z->result.hazard_rows[hazards] = one->row;
		if (z->model->held_bytes > z->result.peak_held_bytes)
			z->result.peak_held_bytes = z->model->held_bytes;
		if (code) {
			z->result.stopped = code;
			z->result.stopped_row = one->row;
		}
	}
	return 0;
}

ZC_API void zl_destroy(struct zswap *z)
{
	if (z->model)
		z->backend->destroy(z->model);
	zc_map_clear(&z->slots);
	zc_map_clear(&z->holders);
	zc_slab_clear(&z->slab);
	free(z);
}

/* NULL if there is no memory, or no such model. */
ZC_API struct zswap *zl_create(const char *backend, const struct zc_config *config,
			       const struct zl_options *options)
{
	struct zswap *z = calloc(1, sizeof(*z));
	if (!z)
		return NULL;
	struct zc_config by_ref = *config;
	by_ref.by_ref = 1;
	z->options = *options;
	zc_slab_init(&z->slab, sizeof(struct slot));
	z->backend = zc_backend_named(backend);
	if (!z->backend || z->backend->create(&by_ref, &z->model) || zc_map_init(&z->slots) ||
	    zc_map_init(&z->holders)) {
		zl_destroy(z);
		return NULL;
	}
	return z;
}

/* What has come out so far. */
ZC_API const struct zl_result *zl_result_of(struct zswap *z)
{
	for (int at = 0; at < 3; at++) {
		z->result.area_low[at] = (uint64_t)z->areas[at];
		z->result.area_high[at] = (int64_t)(z->areas[at] >> 64);
	}
	return &z->result;
}

ZC_API struct zc_pool *zl_model_of(struct zswap *z)
{
	return z->model;
}
