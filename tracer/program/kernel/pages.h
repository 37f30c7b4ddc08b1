/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lets the player refuse pages to the allocator whose source follows, where that is compiled for it
 * (not for times: each request looks whether it is refused).
 */
#ifndef ZTRACE_PAGES_H
#define ZTRACE_PAGES_H

#ifdef ZTRACE_REFUSES_PAGES

#include <linux/gfp.h>

static bool z_refusing;

static inline struct page *z_alloc_page(gfp_t gfp)
{
	return z_refusing ? NULL : alloc_page(gfp);
}

static inline struct page *z_alloc_pages_node(int node, gfp_t gfp, unsigned int order)
{
	return z_refusing ? NULL : alloc_pages_node(node, gfp, order);
}

static inline unsigned long z_get_free_pages(gfp_t gfp, unsigned int order)
{
	return z_refusing ? 0 : __get_free_pages(gfp, order);
}

#undef alloc_page
#define alloc_page(gfp) z_alloc_page(gfp)
#undef alloc_pages_node
#define alloc_pages_node(node, gfp, order) z_alloc_pages_node(node, gfp, order)
#undef __get_free_pages
#define __get_free_pages(gfp, order) z_get_free_pages(gfp, order)

static inline bool z_refuse_pages(bool refusing)
{
	z_refusing = refusing;
	return true;
}

#else

static inline bool z_refuse_pages(bool refusing)
{
	return !refusing;
}

#endif
#endif
