/* SPDX-License-Identifier: GPL-2.0-only */
/* What is counted at few moments. */
#include "figures.h"

#include <stdio.h>
#include <stdlib.h>

void zp_snapshot(struct player *p)
{
	p->snapshot_above = p->held + (p->held >> 7);
	p->result.held_near_peak = p->held;
	for (uint32_t i = 0; i < p->met_len; i++) {
		p->backend->stats(p->met[i]->model, p->met[i]->near_peak);
		p->met[i]->result.snapshots++;
	}
}

static int64_t sum_recorded(const struct player *p)
{
	int64_t sum = 0;
	for (uint32_t i = 0; i < p->met_len; i++) {
		if (p->met[i]->recorded_total == NO_TOTAL)
			return NO_TOTAL;
		sum += p->met[i]->recorded_total;
	}
	return sum;
}

void zp_compare_total(struct player *p, struct run *run, int64_t total, uint64_t number)
{
	struct zp_pool_result *result = &run->result;
	if (run->compared) {
		result->totals.compared++;
		if (total == run->model_total)
			result->totals.equal++;
		else if (!*result->totals.first)
			snprintf(result->totals.first, ZP_FIRST,
				 "row %" PRIu64 ": kernel %" PRId64 ", model %" PRId64, number,
				 total, run->model_total);
	}
	int64_t difference = run->model_total - total;
	if (!result->has_difference || llabs(difference) > llabs(result->total_difference)) {
		result->has_difference = 1;
		result->total_difference = difference;
	}
	if (total != run->recorded_total) {
		run->recorded_total = total;
		p->kernel_total = sum_recorded(p);
	}
}
