/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Stands in for <linux/zpool.h> when an allocator is built for ztrace measure.
 *
 * A driver written for the zpool API of any year is compiled against it: every callback that the
 * API ever had has a field here. Two of them changed their arguments under the same name; how many
 * this driver's take is told by ZTRACE_CREATE_ARGUMENTS and ZTRACE_MALLOC_ARGUMENTS, which are
 * counted in its source before it is compiled.
 */
#ifndef _ZPOOL_H_
#define _ZPOOL_H_

#include <linux/list.h>
#include <linux/module.h>
#include <linux/types.h>

struct zpool;

/* Until 6.4 a driver asked for evictions through this. */
struct zpool_ops {
	int (*evict)(struct zpool *zpool, unsigned long handle);
};

enum zpool_mapmode {
	ZPOOL_MM_RW,
	ZPOOL_MM_RO,
	ZPOOL_MM_WO,
	ZPOOL_MM_DEFAULT = ZPOOL_MM_RW
};

struct zpool_driver {
	char *type;
	struct module *owner;
	atomic_t refcount;
	struct list_head list;

#if ZTRACE_CREATE_ARGUMENTS == 2 /* from 6.5 on */
	void *(*create)(const char *name, gfp_t gfp);
#else
	void *(*create)(const char *name, gfp_t gfp, const struct zpool_ops *ops,
			struct zpool *zpool);
#endif
	void (*destroy)(void *pool);

	bool malloc_support_movable;
#if ZTRACE_MALLOC_ARGUMENTS == 5 /* from 6.16 on */
	int (*malloc)(void *pool, size_t size, gfp_t gfp, unsigned long *handle, const int nid);
#else
	int (*malloc)(void *pool, size_t size, gfp_t gfp, unsigned long *handle);
#endif
	void (*free)(void *pool, unsigned long handle);

	/* Until 6.4. */
	int (*shrink)(void *pool, unsigned int pages, unsigned int *reclaimed);

	/* Until 6.14. */
	bool sleep_mapped;
	void *(*map)(void *pool, unsigned long handle, enum zpool_mapmode mode);
	void (*unmap)(void *pool, unsigned long handle);

	/* From 6.15 on. */
	void *(*obj_read_begin)(void *pool, unsigned long handle, void *local_copy);
	void (*obj_read_end)(void *pool, unsigned long handle, void *handle_mem);
	void (*obj_write)(void *pool, unsigned long handle, void *handle_mem, size_t bytes);

	u64 (*total_size)(void *pool); /* bytes, until 6.9 */
	u64 (*total_pages)(void *pool);
};

/* The driver of this source file, seen by what is compiled with it (zpool_backend.h). */
static struct zpool_driver *z_driver;

static void z_registered(void);

static inline void zpool_register_driver(struct zpool_driver *driver)
{
	z_driver = driver;
	z_registered();
}

static void z_unregistered(void);

static inline int zpool_unregister_driver(struct zpool_driver *driver)
{
	z_unregistered();
	return 0;
}

#endif
