/* SPDX-License-Identifier: GPL-2.0-only */
#include "pools.h"

#include <stdio.h>
#include <stdlib.h>

int zp_meet(struct player *p, uint32_t number)
{
	struct run *run = calloc(1, sizeof(*run));
	if (!run)
		return zp_fail(p, ZC_NO_MEMORY, 0, ZP_OTHER, 0);
	p->met[p->met_len++] = run;
	p->result.pools = p->met_len;
	run->result.pool = number;
	run->recorded_total = NO_TOTAL;
	run->compared = p->options.compared[number];
	run->more_bytes = p->options.more_bytes[number];
	run->tells = p->options.tells[number];
	run->compacts =
		p->options.compacts[number] && (p->backend->compact || p->backend->compact_page);
	const struct zc_config *config = run->compacts ? &p->options.recorded : &p->config;
	run->cpus = run->compacts && p->backend->set_cpu ? config->cpus : 0;
	zc_slab_init(&run->leaving_slab, sizeof(struct leaving));
	if (p->backend->create(config, &run->model) || zc_map_init(&run->live) ||
	    zc_map_init(&run->begun) || zc_map_init(&run->refused) || zc_map_init(&run->leaving) ||
	    zc_map_init(&run->failed) || zc_map_init(&run->pages) ||
	    zc_map_init(&run->kernel_pages) || zc_map_init(&run->objects))
		return zp_fail(p, ZC_NO_MEMORY, 0, ZP_OTHER, 0);
	run->near_peak = calloc(p->backend->stats_len(run->model), sizeof(int64_t));
	if (!run->near_peak)
		return zp_fail(p, ZC_NO_MEMORY, 0, ZP_OTHER, 0);
	p->runs[number] = run;
	return 0;
}

int zp_stop(struct player *p, struct run *run, const char *call, uint64_t number, int code)
{
	if (code != ZC_FATAL)
		return zp_fail(p, code, number, ZP_OTHER, 0);
	run->stopped = true;
	run->plain = false;
	snprintf(run->result.stopped, sizeof(run->result.stopped), "row %" PRIu64 ": %s: %s: %s",
		 number, call, run->model->fatal.name, run->model->fatal.first);
	return 0;
}

void zp_part(struct player *p, struct run *run)
{
	zc_map_clear(&run->live);
	zc_map_clear(&run->begun);
	zc_map_clear(&run->refused);
	zc_map_clear(&run->leaving);
	zc_map_clear(&run->failed);
	zc_map_clear(&run->pages);
	zc_map_clear(&run->kernel_pages);
	zc_map_clear(&run->objects);
	zc_slab_clear(&run->leaving_slab);
	if (run->model)
		p->backend->destroy(run->model);
	free(run->near_peak);
	free(run);
}
