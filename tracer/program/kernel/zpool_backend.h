/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What turns a zpool driver, whose source has just been included, into a backend.
 *
 * ZTRACE_NAME is its name. ZTRACE_IS_COMPACTION(work) may say which of the works that it queues
 * compacts the page in which the work lies.
 */

#ifndef ZTRACE_IS_COMPACTION
#define ZTRACE_IS_COMPACTION(work) false
#define ZTRACE_NOTES false
#else
#define ZTRACE_NOTES true
#endif

#ifndef ZTRACE_EVICTS_BY_OTHER_HANDLES
#define ZTRACE_EVICTS_BY_OTHER_HANDLES false
#endif

/* As zswap asks: it does not wait; for movable pages where the driver has them. */
#define Z_GFP (__GFP_NORETRY | __GFP_NOWARN | __GFP_KSWAPD_RECLAIM)

static gfp_t z_gfp = Z_GFP;

#ifdef ZTRACE_OF_RUNNING_KERNEL
static struct zpool_driver *z_driver;
#endif

#if ZTRACE_CREATE_ARGUMENTS == 4

/* Of the only pool that shrinks; the driver gives back no more than what it was given. */
static void *z_shrinking;
static struct ztrace_run *z_shrink_run;

static int z_evicted(void *pool, struct ztrace_run *run, unsigned long handle);

static int z_evict(struct zpool *zpool, unsigned long handle)
{
	return z_shrink_run ? z_evicted(z_shrinking, z_shrink_run, handle) : -EEXIST;
}

static const struct zpool_ops z_ops = { .evict = z_evict };

#endif

static void *z_create(void)
{
	if (z_driver->malloc_support_movable)
		z_gfp |= __GFP_HIGHMEM | __GFP_MOVABLE;
#if ZTRACE_CREATE_ARGUMENTS == 2
	return z_driver->create("ztrace", GFP_KERNEL);
#else
	/* A driver hands the second pointer back to evict() and looks no further. */
	return z_driver->create("ztrace", GFP_KERNEL, &z_ops, (struct zpool *)&z_ops);
#endif
}

static void z_destroy(void *pool)
{
	z_driver->destroy(pool);
}

static __always_inline int z_malloc(void *pool, size_t bytes, unsigned long *handle)
{
#if ZTRACE_MALLOC_ARGUMENTS == 5
	return z_driver->malloc(pool, bytes, z_gfp, handle, NUMA_NO_NODE);
#else
	return z_driver->malloc(pool, bytes, z_gfp, handle);
#endif
}

static __always_inline void z_free(void *pool, unsigned long handle)
{
	z_driver->free(pool, handle);
}

#ifdef ZTRACE_OF_RUNNING_KERNEL /* its own header has but what this kernel's drivers have */

#ifdef ZTRACE_HAS_map
#define Z_MAPS true
#else
#define Z_MAPS false
#endif

static __always_inline void *z_map(void *pool, unsigned long handle, bool write, size_t bytes,
				   void *scratch)
{
#ifdef ZTRACE_HAS_map
	return z_driver->map(pool, handle, write ? ZPOOL_MM_WO : ZPOOL_MM_RO);
#else
	if (!write)
		return z_driver->obj_read_begin(pool, handle, scratch);
	z_driver->obj_write(pool, handle, scratch, bytes);
	return NULL;
#endif
}

static __always_inline void z_unmap(void *pool, unsigned long handle, size_t bytes, void *memory)
{
#ifdef ZTRACE_HAS_map
	z_driver->unmap(pool, handle);
#else
	if (memory)
		z_driver->obj_read_end(pool, handle, memory);
#endif
}

static u64 z_total(void *pool)
{
#ifdef ZTRACE_HAS_total_size
	return z_driver->total_size(pool);
#else
	return z_driver->total_pages(pool) << PAGE_SHIFT;
#endif
}

#else

#define Z_MAPS (z_driver->map)

static __always_inline void *z_map(void *pool, unsigned long handle, bool write, size_t bytes,
				   void *scratch)
{
	if (z_driver->map)
		return z_driver->map(pool, handle, write ? ZPOOL_MM_WO : ZPOOL_MM_RO);
	if (!write)
		return z_driver->obj_read_begin(pool, handle, scratch);
	z_driver->obj_write(pool, handle, scratch, bytes);
	return NULL;
}

static __always_inline void z_unmap(void *pool, unsigned long handle, size_t bytes, void *memory)
{
	if (z_driver->map)
		z_driver->unmap(pool, handle);
	else if (memory) /* a write has nothing to end */
		z_driver->obj_read_end(pool, handle, memory);
}

static u64 z_total(void *pool)
{
	if (z_driver->total_size)
		return z_driver->total_size(pool);
	return z_driver->total_pages ? z_driver->total_pages(pool) << PAGE_SHIFT : 0;
}

#endif

#if ZTRACE_CREATE_ARGUMENTS == 4 && \
	(!defined(ZTRACE_OF_RUNNING_KERNEL) || defined(ZTRACE_HAS_shrink))

static int z_shrink(void *pool, struct ztrace_run *run, unsigned int pages)
{
	unsigned int reclaimed = 0;
	int ret;

	if (!z_driver->shrink)
		return ZTRACE_CANNOT;
	z_shrinking = pool;
	z_shrink_run = run;
	ret = z_driver->shrink(pool, pages, &reclaimed);
	z_shrink_run = NULL;
	return ret;
}

#else

static int z_shrink(void *pool, struct ztrace_run *run, unsigned int pages)
{
	return ZTRACE_CANNOT;
}

#endif

/* Whether two handles are one object's. An eviction may be asked for by a handle of its own. */
static bool z_is(void *pool, unsigned long one, unsigned long other)
{
	bool same = one == other;

	if (!same && ZTRACE_EVICTS_BY_OTHER_HANDLES && one != ZTRACE_NO_HANDLE) {
		same = z_map(pool, one, false, 0, NULL) == z_map(pool, other, false, 0, NULL);
		z_unmap(pool, other, 0, NULL);
		z_unmap(pool, one, 0, NULL);
	}
	return same;
}

/* A malloc's handle says all that there is to say; where an object lies now, a map tells. */
static u64 z_place(void *pool, enum ztrace_op op, unsigned long handle, void *memory)
{
	if (op == ZTRACE_READ || (op == ZTRACE_WRITE && Z_MAPS))
		return (unsigned long)memory;
	return 0;
}

#ifndef CONFIG_SMP

/* Runs the oldest work that waits: a compaction, or one that is none. */
static bool z_run_oldest(void *pool, u32 after, bool placing, bool compaction)
{
	struct work_struct *work, *next;

	list_for_each_entry_safe(work, next, &z_queue, entry) {
		const unsigned long page = (unsigned long)work & PAGE_MASK;
		const bool is_compaction = ZTRACE_IS_COMPACTION(work);
		u64 begin, end;

		if (is_compaction != compaction)
			continue;
		list_del_init(&work->entry);
		clear_bit(WORK_STRUCT_PENDING_BIT, work_data_bits(work));
		begin = ztrace_begin();
		work->func(work); /* may free what the work lies in */
		end = ztrace_end();
		if (placing && compaction)
			ztrace_note(ZTRACE_COMPACTED, page, begin, end, z_total(pool), after);
		return true;
	}
	return false;
}

static __always_inline void z_run_queue(void *pool, const struct ztrace_run *run, u32 after,
					bool placing, bool compactions)
{
	if (likely(list_empty(&z_queue)))
		return;
	do {
		while (z_run_oldest(pool, after, placing, false))
			;
	} while (compactions && z_run_oldest(pool, after, placing, true));
}

static int z_compact(void *pool, const struct ztrace_run *run, u32 after, bool placing)
{
	return z_run_oldest(pool, after, placing, true) ? 0 : ZTRACE_CANNOT;
}

#else

/* Work runs when the kernel runs it. */
static __always_inline void z_run_queue(void *pool, const struct ztrace_run *run, u32 after,
					bool placing, bool compactions)
{
}

static int z_compact(void *pool, const struct ztrace_run *run, u32 after, bool placing)
{
	return ZTRACE_CANNOT;
}

#endif

#include "loop.h"

static struct ztrace_backend z_backend = {
	.name = ZTRACE_NAME,
	.create = z_create,
	.destroy = z_destroy,
	.place = z_place_run,
	.time = z_time_run,
	.release = z_release,
	.notes = ZTRACE_NOTES,
};

#ifndef ZTRACE_OF_RUNNING_KERNEL

static void z_registered(void)
{
	ztrace_register(&z_backend);
}

static void z_unregistered(void)
{
	ztrace_unregister(&z_backend);
}

#else

/*
 * A driver that registers itself stands in the kernel's list of drivers, and sees the others there;
 * what zpool does with them is not exported.
 */
static struct zpool_driver z_seeker = { .type = "ztrace", .owner = THIS_MODULE };

int ztrace_source_begin(void)
{
	struct zpool_driver *one;

	if (!zpool_has_pool(ZTRACE_NAME)) { /* loads its module */
		pr_err("ztrace: error this kernel has no %s\n", ZTRACE_NAME);
		return -ENOENT;
	}
	zpool_register_driver(&z_seeker);
	/* The newest stands first, so before it is the head, which is no driver. */
	list_for_each_entry(one, z_seeker.list.prev, list) {
		if (!strcmp(one->type, ZTRACE_NAME) && try_module_get(one->owner)) {
			z_driver = one;
			break;
		}
	}
	zpool_unregister_driver(&z_seeker);
	if (!z_driver)
		return -ENOENT;
	ztrace_register(&z_backend);
	return 0;
}

void ztrace_source_end(void)
{
	module_put(z_driver->owner);
}

#endif
