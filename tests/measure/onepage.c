// SPDX-License-Identifier: GPL-2.0-only
/* A driver of the zpool API of 6.16 and 6.17, the last: each object has a page of its own. */

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/zpool.h>

struct onepage {
	u64 pages;
};

static void *onepage_create(const char *name, gfp_t gfp)
{
	return kzalloc(sizeof(struct onepage), gfp);
}

static void onepage_destroy(void *pool)
{
	kfree(pool);
}

static int onepage_malloc(void *pool, size_t size, gfp_t gfp, unsigned long *handle, const int nid)
{
	struct onepage *own = pool;

	if (!size || size > PAGE_SIZE)
		return size ? -ENOSPC : -EINVAL;
	*handle = __get_free_page(gfp & ~(__GFP_HIGHMEM | __GFP_MOVABLE));
	if (!*handle)
		return -ENOMEM;
	own->pages++;
	return 0;
}

static void onepage_free(void *pool, unsigned long handle)
{
	struct onepage *own = pool;

	free_page(handle);
	own->pages--;
}

static void *onepage_read_begin(void *pool, unsigned long handle, void *local_copy)
{
	return (void *)handle;
}

static void onepage_read_end(void *pool, unsigned long handle, void *handle_mem)
{
}

static void onepage_write(void *pool, unsigned long handle, void *handle_mem, size_t mem_len)
{
	memcpy((void *)handle, handle_mem, mem_len);
}

static u64 onepage_total_pages(void *pool)
{
	struct onepage *own = pool;

	return own->pages;
}

static struct zpool_driver onepage_driver = {
	.type = "onepage",
	.owner = THIS_MODULE,
	.create = onepage_create,
	.destroy = onepage_destroy,
	.malloc = onepage_malloc,
	.free = onepage_free,
	.obj_read_begin = onepage_read_begin,
	.obj_read_end = onepage_read_end,
	.obj_write = onepage_write,
	.total_pages = onepage_total_pages,
};

static int __init onepage_init(void)
{
	zpool_register_driver(&onepage_driver);
	return 0;
}
module_init(onepage_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("one page for each object");
