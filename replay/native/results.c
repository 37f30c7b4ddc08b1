/* SPDX-License-Identifier: GPL-2.0-only */
/* What came out of a player. */
#include "player.h"

ZC_API void zp_error_of(const struct player *p, struct zp_error *error)
{
	*error = p->error;
}

ZC_API const struct zp_result *zp_result_of(const struct player *p)
{
	return &p->result;
}

ZC_API const struct zp_pool_result *zp_pool_of(const struct player *p, uint32_t at)
{
	return &p->met[at]->result;
}

ZC_API struct zc_pool *zp_model_of(const struct player *p, uint32_t at)
{
	return p->met[at]->model;
}

ZC_API const int64_t *zp_near_peak_of(const struct player *p, uint32_t at)
{
	return p->met[at]->near_peak;
}

/*
 * The next failed malloc's return value from a position on; or 0. *count has how often, and in the
 * upper 16 bits the rank of the return value among those met.
 */
ZC_API int32_t zp_failed_of(const struct player *p, uint32_t at, uint64_t *position,
			    uint64_t *count)
{
	const struct zc_map *failed = &p->met[at]->failed;
	for (; *position < (failed->mask + 1) * ZC_BUCKET; ++*position) {
		const struct zc_slot *slot = &failed->slots[*position];
		if (slot->value) {
			++*position;
			*count = slot->value;
			return (int32_t)(uint32_t)slot->key;
		}
	}
	return 0;
}

ZC_API const struct zp_point *zp_series_of(const struct player *p, const uint64_t **calls)
{
	*calls = p->series_calls;
	return p->series;
}

ZC_API const struct zp_timing *zp_timing_of(const struct player *p)
{
	return p->timing;
}

/* Slots scanned and tree levels of pool number ``at``. */
ZC_API void zp_work_of(const struct player *p, uint32_t at, uint64_t work[2])
{
	work[0] = p->met[at]->model->slots_scanned;
	work[1] = p->met[at]->model->tree_levels;
}
