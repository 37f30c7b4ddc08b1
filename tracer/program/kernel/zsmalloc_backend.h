/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * zsmalloc by its own functions, as zram calls them in every kernel and zswap since 6.18. Which of
 * them there are is looked up in the kernel's <linux/zsmalloc.h> before this is compiled, as
 * ZTRACE_HAS_name; whether one takes the arguments that it got later, the compiler is asked.
 */

#include <linux/scatterlist.h>
#include <linux/zsmalloc.h>

/* Movable pages, as zswap and zram ask for. */
#define Z_GFP (__GFP_NORETRY | __GFP_NOWARN | __GFP_KSWAPD_RECLAIM | __GFP_HIGHMEM | __GFP_MOVABLE)

static void *z_create(void)
{
	return zs_create_pool("ztrace");
}

static void z_destroy(void *pool)
{
	zs_destroy_pool(pool);
}

typedef unsigned long (*z_malloc_on_node)(struct zs_pool *, size_t, gfp_t, const int);
typedef unsigned long (*z_malloc_anywhere)(struct zs_pool *, size_t, gfp_t);

static int z_driver_malloc(void *pool, size_t bytes, gfp_t gfp, unsigned long *handle)
{
	/* From 6.16 on it is told a node. */
	if (ZTRACE_TAKES(zs_malloc, z_malloc_on_node))
		*handle = ZTRACE_AS(zs_malloc, z_malloc_on_node)(pool, bytes, gfp, NUMA_NO_NODE);
	else
		*handle = ZTRACE_AS(zs_malloc, z_malloc_anywhere)(pool, bytes, gfp);
	return IS_ERR_VALUE(*handle) ? *handle : 0;
}

static void z_driver_free(void *pool, unsigned long handle)
{
	zs_free(pool, handle);
}

/* Called through a table as zpool calls every other driver, so that all are timed alike. */
struct z_table {
	int (*malloc)(void *pool, size_t bytes, gfp_t gfp, unsigned long *handle);
	void (*free)(void *pool, unsigned long handle);
};

static const struct z_table z_table = { .malloc = z_driver_malloc, .free = z_driver_free };
static const struct z_table *z_driver = &z_table;

static __always_inline int z_malloc(void *pool, size_t bytes, unsigned long *handle)
{
	return READ_ONCE(z_driver)->malloc(pool, bytes, Z_GFP, handle);
}

static __always_inline void z_free(void *pool, unsigned long handle)
{
	READ_ONCE(z_driver)->free(pool, handle);
}

#ifdef ZTRACE_HAS_zs_map_object /* until 6.14 */

#define Z_MAPS true

static __always_inline void *z_map(void *pool, unsigned long handle, bool write, size_t bytes,
				   void *scratch)
{
	return zs_map_object(pool, handle, write ? ZS_MM_WO : ZS_MM_RO);
}

static __always_inline void z_unmap(void *pool, unsigned long handle, size_t bytes, void *memory)
{
	zs_unmap_object(pool, handle);
}

#else

#define Z_MAPS false

/* A read through a scatter list (from 7.0 on, as zswap does) ends without the list. */
static __always_inline void *z_map(void *pool, unsigned long handle, bool write, size_t bytes,
				   void *scratch)
{
	if (write) {
		zs_obj_write(pool, handle, scratch, bytes);
		return NULL;
	}
#ifdef ZTRACE_HAS_zs_obj_read_sg_begin
	sg_init_table(scratch, 2);
	zs_obj_read_sg_begin(pool, handle, scratch, bytes);
	return scratch;
#else
	return zs_obj_read_begin(pool, handle, scratch);
#endif
}

static __always_inline void z_unmap(void *pool, unsigned long handle, size_t bytes, void *memory)
{
	if (!memory)
		return; /* a write has nothing to end */
#ifdef ZTRACE_HAS_zs_obj_read_sg_begin
	zs_obj_read_sg_end(pool, handle);
#else
	zs_obj_read_end(pool, handle, memory);
#endif
}

#endif

static u64 z_total(void *pool)
{
	return (u64)zs_get_total_pages(pool) << PAGE_SHIFT;
}

static int z_compact(void *pool, const struct ztrace_run *run, u32 after, bool placing)
{
	zs_compact(pool);
	return 0;
}

/* From 6.2 to 6.4 zpool could shrink it, by a function of its own. */
static int z_shrink(void *pool, struct ztrace_run *run, unsigned int pages)
{
	return ZTRACE_CANNOT;
}

static bool z_is(void *pool, unsigned long one, unsigned long other)
{
	return one == other;
}

/* zsmalloc defers only what a locked page keeps it from, and nothing locks pages here. */
static __always_inline void z_run_queue(void *pool, const struct ztrace_run *run, u32 after,
					bool placing, bool compactions)
{
}

static u64 z_object_place(unsigned long handle);

static u64 z_place(void *pool, enum ztrace_op op, unsigned long handle, void *memory)
{
	return op == ZTRACE_MALLOC ? z_object_place(handle) : 0;
}

#include "loop.h"

static struct ztrace_backend z_backend = {
	.name = "zsmalloc",
	.create = z_create,
	.destroy = z_destroy,
	.place = z_place_run,
	.time = z_time_run,
	.release = z_release,
};
