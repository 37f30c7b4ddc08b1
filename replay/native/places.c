/* SPDX-License-Identifier: GPL-2.0-only */
#include "places.h"

#include "columns.h"
#include "lives.h"

enum { SLOT_BITS = 16 }; /* of a malloc's place: SLOT_BITS of allocator/traits.py */

static int no_memory(struct player *p, uint64_t number)
{
	return zp_fail(p, ZC_NO_MEMORY, number, ZP_OTHER, 0);
}

static bool is_used(const struct player *p, struct run *run, uint64_t page)
{
	return p->backend->has_page ? p->backend->has_page(run->model, page)
				    : zc_map_get(&run->objects, page) != 0;
}

/* Note whether an object lies where the model has it. */
static int compare(struct player *p, struct run *run, uint64_t number, struct zc_place ours,
		   uint64_t kernel_page, uint64_t position)
{
	struct zc_slot *bound = zc_map_put(&run->kernel_pages, ours.page);
	struct zc_slot *rival = zc_map_put(&run->pages, kernel_page);
	if (!bound || !rival)
		return no_memory(p, number);
	/* A page number of the model is used once, an address of the kernel's again and again. */
	bool free = !bound->value && (!rival->value || !is_used(p, run, rival->value - 1));
	bool equal = ours.position == position && (bound->value == kernel_page + 1 || free);
	run->result.places.compared++;
	run->result.places.equal += equal;
	bound->value = kernel_page + 1;
	rival->value = ours.page + 1;
	return 0;
}

static int count_object(struct player *p, struct run *run, uint64_t page, uint64_t number)
{
	if (p->backend->has_page)
		return 0;
	struct zc_slot *objects = zc_map_put(&run->objects, page);
	if (!objects)
		return no_memory(p, number);
	objects->value++;
	return 0;
}

int zp_place_malloc(struct player *p, struct run *run, uint64_t row)
{
	struct zc_place ours;
	uint64_t number = number_at(p, row), place = place_at(p, row);
	if (p->backend->place(run->model, run->model->last_ref, &ours) ||
	    count_object(p, run, ours.page, number))
		return p->code;
	if (run->tells == ZP_TELLS_HANDLE) {
		uint64_t handle = p->in->handle[row], bytes = p->config.page_bytes;
		return compare(p, run, number, ours, handle / bytes, handle % bytes);
	}
	if (run->tells == ZP_TELLS_MALLOC && place)
		return compare(p, run, number, ours, place >> SLOT_BITS,
			       place & ((1u << SLOT_BITS) - 1));
	return 0;
}

int zp_place_map(struct player *p, struct run *run, uint64_t row, uint64_t ref)
{
	struct zc_place ours;
	uint64_t place = place_at(p, row), bytes = p->config.page_bytes;
	if (!place || p->backend->place(run->model, ref, &ours))
		return 0;
	return compare(p, run, number_at(p, row), ours, place / bytes, place % bytes);
}

/* A page that holds no object any more is not asked for again, so what is known of it can go. */
static void forget(struct run *run, uint64_t page)
{
	zc_map_take(&run->objects, page);
	uint64_t bound = zc_map_take(&run->kernel_pages, page);
	if (bound && zc_map_get(&run->pages, bound - 1) == page + 1)
		zc_map_take(&run->pages, bound - 1);
}

void zp_leave_place(struct player *p, struct run *run, uint64_t ref)
{
	struct zc_place ours;
	if (p->backend->has_page || p->backend->place(run->model, ref, &ours))
		return;
	struct zc_slot *objects = zc_map_find(&run->objects, ours.page);
	if (objects && objects->value > 1)
		objects->value--;
	else
		forget(run, ours.page);
}

int zp_count_objects(struct player *p, struct run *run, uint64_t number)
{
	if (p->backend->has_page)
		return 0;
	zc_map_wipe(&run->objects);
	struct zc_place ours;
	const struct zc_map *live = &run->live;
	for (uint64_t at = 0; at < (live->mask + 1) * ZC_BUCKET; at++)
		if (live->slots[at].value &&
		    !p->backend->place(run->model, ref_of(live->slots[at].value), &ours) &&
		    count_object(p, run, ours.page, number))
			return p->code;
	for (const struct leaving *old = run->leaving_oldest; old; old = old->newer)
		if (!p->backend->place(run->model, old->ref, &ours) &&
		    count_object(p, run, ours.page, number))
			return p->code;
	return 0;
}
