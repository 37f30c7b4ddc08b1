/* SPDX-License-Identifier: GPL-2.0-only */
/* Handles given out again. */
#include "lives.h"

#include "figures.h"
#include "places.h"
#include "pools.h"

void zp_leave(struct run *run, struct leaving *old)
{
	if (old->older)
		old->older->newer = old->newer;
	else
		run->leaving_oldest = old->newer;
	if (old->newer)
		old->newer->older = old->older;
	else
		run->leaving_newest = old->older;
	zc_map_take(&run->leaving, old->handle);
	zc_slab_put(&run->leaving_slab, old, old->id);
}

int zp_drop(struct player *p, struct run *run, struct leaving *old)
{
	const struct leaving lost = *old;
	zp_leave(run, old);
	if (p->options.whole)
		return zp_fail(p, ZP_REISSUED, lost.row, ZP_MALLOC, lost.handle);
	if (run->tells)
		zp_leave_place(p, run, lost.ref);
	int code = p->backend->free(run->model, lost.ref);
	if (code)
		return code;
	run->result.reissued++;
	p->objects--;
	p->stored -= lost.size;
	return 0;
}

int zp_give_again(struct player *p, struct run *run, uint64_t handle, uint64_t value,
		  int64_t given_ns, uint64_t number)
{
	struct leaving *old = zp_find_leaving(run, handle);
	int code = old ? zp_drop(p, run, old) : 0;
	if (code)
		return code;
	uint32_t id = 0;
	old = zc_slab_get(&run->leaving_slab, &id);
	struct zc_slot *slot = old ? zc_map_put(&run->leaving, handle) : NULL;
	if (!slot)
		return zp_fail(p, ZC_NO_MEMORY, number, ZP_MALLOC, 0);
	slot->value = (uintptr_t)old;
	*old = (struct leaving){.older = run->leaving_newest,
				.handle = handle,
				.id = id,
				.ref = ref_of(value),
				.row = number,
				.size = size_of(value),
				.given_ns = given_ns};
	if (run->leaving_newest)
		run->leaving_newest->newer = old;
	else
		run->leaving_oldest = old;
	run->leaving_newest = old;
	return 0;
}

int zp_settle(struct player *p, uint64_t before, int64_t now_ns)
{
	for (uint32_t i = 0; i < p->met_len; i++) {
		struct run *run = p->met[i];
		for (struct leaving *old = run->leaving_oldest, *next; old; old = next) {
			next = old->newer;
			if (old->row >= before)
				continue;
			uint64_t row = old->row;
			if (run->stopped) {
				zp_leave(run, old);
				continue;
			}
			int code = zp_drop(p, run, old);
			if (p->code)
				return p->code;
			if (code && zp_stop(p, run, "reissue", row, code))
				return p->code;
			point(p, run, now_ns, NO_TOTAL, row);
		}
	}
	return 0;
}
