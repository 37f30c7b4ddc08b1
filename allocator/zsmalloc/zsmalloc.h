/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Zspages, classes and the steps of zsmalloc: what the pool (zsmalloc.c) and the validation of
 * recordings (replay/native/lock_check.c) both do. Zspage, SizeClass and Zsmalloc of model.py.
 */
#ifndef ZTRACE_ZSMALLOC_H
#define ZTRACE_ZSMALLOC_H

#include "core.h"

enum { MAX_GROUPS = 12, EMPTY = 0 };

/*
 * ``cells``: one a slot. A used one has its object's handle (44 bits), the requested bytes (19)
 * and bit 0 set; a free one the number of the slot freed before it, shifted, as in the kernel:
 * the last freed is first out.
 */
struct zspage {
	struct zspage *newer, *older; /* in the list of its group; newer is towards the head */
	uint64_t page;
	uint32_t id, next_free, free, group, class;
	uint32_t mapped; /* objects with an open map */
	uint64_t cells[];
};

struct class
{
	uint32_t number, slot_bytes, pages, slots;
	uint8_t *groups; /* of a zspage with so many free slots */
	struct zspage *heads[MAX_GROUPS];
	uint32_t present; /* bit g: the list of group g is not empty */
	struct zspage *spare; /* given back, for the next one of this class */
	uint64_t zspages, used, made, freed, relinks, moved, emptied, revived;
	uint64_t spanning, spanned; /* objects in two pages: live ones, and as they were stored */
	uint64_t searched; /* lists whose head malloc and compaction looked at */
};

struct zsmalloc {
	struct zc_pool base;
	struct class *classes;
	uint32_t classes_len, full, too_large;
	bool rules_61, readers_stop, reads_objects;
	uint16_t *class_of; /* requested bytes, 0 to page_bytes -> class */
	uint32_t page_shift;
	struct zc_map words; /* handle -> packed word; not used by reference */
	struct zc_map mapped; /* handle -> open maps */
	struct zspage **zspages; /* by id */
	uint32_t *free_ids;
	uint32_t ids_len, ids_cap, free_ids_len;
	uint64_t next_handle, next_page, pages, stored_bytes, compactions, copies, copied_bytes;
	/* Whether the zspage that a free emptied is left to the caller, and the last one. */
	bool keeps;
	struct zspage *emptied;
};

/* The class that takes a size that is not refused. */
static inline struct class *zs_class_of(struct zsmalloc *z, int64_t size)
{
	return &z->classes[z->class_of[size]];
}

/* The negative errno of a malloc that is refused for its size, else 0. */
static inline int zs_refuses(const struct zsmalloc *z, int64_t size)
{
	return size <= 0 ? -EINVAL : size > z->base.page_bytes ? -(int)z->too_large : 0;
}

static inline uint32_t highest(uint32_t bits)
{
	return 31 - (uint32_t)__builtin_clz(bits);
}

/* Bit g: the list of group g is not empty, and its zspages have room. */
static inline uint32_t with_room(const struct zsmalloc *z, const struct class *class)
{
	return class->present & ((1u << z->full) - 1);
}

/* The zspage that a malloc takes a slot of, or NULL: it builds one. */
static inline struct zspage *zs_choose(const struct zsmalloc *z, const struct class *class)
{
	uint32_t room = with_room(z, class);
	return room ? class->heads[highest(room)] : NULL;
}

/* A malloc that has chosen a zspage of the size's class, or NULL for a fresh one. */
int zs_malloc_from(struct zsmalloc *z, struct zspage *zspage, int64_t size, uint64_t *handle);
/* The zspage of a live object, or NULL. */
struct zspage *zs_holder(const struct zsmalloc *z, uint64_t handle);
/* A zspage that was given back, see ``keeps``: its pages could not be locked after all. */
void zs_keep(struct zsmalloc *z, struct zspage *zspage);
/* A zspage that was given back is not asked for any more. */
void zs_discard(struct zsmalloc *z, struct zspage *zspage);

#endif
