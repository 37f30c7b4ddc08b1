/* SPDX-License-Identifier: GPL-2.0-only */
#include "compact.h"

#include "columns.h"
#include "lives.h"
#include "places.h"

void zp_on_cpu(struct player *p, struct run *run, uint64_t row, enum zp_kind kind)
{
	uint32_t cpu = p->in->cpu[row];
	if (cpu < run->cpus && is_wanted(p, row, kind))
		p->backend->set_cpu(run->model, cpu);
}

int zp_note_page(struct player *p, struct run *run, uint64_t row)
{
	struct zc_place place;
	uint64_t address = place_at(p, row);
	uint64_t value = zc_map_get(&run->live, handle_at(p, row));
	if (!address || !value)
		return 0;
	if (run->tells == ZP_TELLS_MAP)
		return zp_place_map(p, run, row, ref_of(value));
	if (p->backend->place(run->model, ref_of(value), &place))
		return 0;
	struct zc_slot *slot = zc_map_put(&run->pages, address / p->config.page_bytes);
	if (!slot)
		return zp_fail(p, ZC_NO_MEMORY, number_at(p, row), ZP_MAP, 0);
	slot->value = place.page + 1;
	return 0;
}

void zp_play_compact(struct player *p, struct run *run, uint64_t row)
{
	if (!run->cpus) {
		p->backend->compact(run->model);
		run->result.compactions++;
		if (run->tells)
			zp_count_objects(p, run, number_at(p, row));
	} else if (!size_at(p, row) && p->options.recorded.deferred) {
		uint64_t page = zc_map_get(&run->pages, place_at(p, row) / p->config.page_bytes);
		if (page && p->backend->compact_page(run->model, page - 1))
			run->result.compactions++;
		else
			run->result.compactions_unmatched++;
	}
}
