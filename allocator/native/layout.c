/* SPDX-License-Identifier: GPL-2.0-only */
/* The layout of core.h. */
#include "layout.h"

#include "core.h"

static const struct zc_layout layout[] = {
	ZC_LAYOUT(zc_block_type, order, slots),
	ZC_LAYOUT(zc_config, page_bytes, long_bytes, max_index, table_len, cpus, deferred, variant,
		  chain_size, chain_rule, chain_saving, class_step, by_ref, has_pages, table),
	ZC_LAYOUT(zc_hazard, name, first, count),
	ZC_LAYOUT(zc_place, page, position),
	ZC_LAYOUT(zc_figures, total_bytes, held_bytes, objects, hazards, broken),
	ZC_CODE(ZC_CHAIN_USED),
	ZC_CODE(ZC_CHAIN_WASTE),
	ZC_CODE(ZC_FATAL),
	ZC_CODE(ZC_NO_MEMORY),
	ZC_CODE(ZC_ABORTED),
	{NULL, 0, 0},
};

ZC_API const struct zc_layout *zc_layout(void)
{
	return layout;
}
