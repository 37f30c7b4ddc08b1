/* SPDX-License-Identifier: GPL-2.0-only */
/* The layouts of play.h, check.h, page_check.h, lock_check.h and zswap.h. */
#include "layout.h"

#include "check.h"
#include "lock_check.h"
#include "page_check.h"
#include "play.h"
#include "zswap.h"

static const struct zc_layout of_play[] = {
	ZC_LAYOUT(zp_options, kind_of, compared, more_bytes, handles_tell, whole, surveyed, timing,
		  page_bytes, patience_rows, first_ns, moments, moments_len, compacts, recorded, tells),
	ZC_LAYOUT(zp_columns, rows, first_row, op, pool, size, handle, ret, ts_ns, dur_ns, total,
		  tid, cpu, place, size_valid, handle_valid, total_valid, place_valid, size_at,
		  handle_at, total_at, place_at, spans, spans_len),
	ZC_LAYOUT(zp_error, row, handle, size, kind),
	ZC_LAYOUT(zp_point, end_ns, objects, stored, held, model, kernel),
	ZC_LAYOUT(zp_agreement, equal, compared, first),
	ZC_LAYOUT(zp_pool_result, pool, has_difference, handles, totals, errors, shrinks,
		  places,
		  total_difference, unknown, unknown_rank, mallocs, reissued, refused,
		  shrinks_not_replayed, shrinks_diverged, snapshots, compactions,
		  compactions_unmatched, stopped),
	ZC_LAYOUT(zp_result, latest, peaks, area_low, area_high, counts, calls, rows, first_ns,
		  last_ns, held_near_peak, pools, cpus),
	ZC_LAYOUT(zp_timing, ns_per_tick, overhead_ticks, counts, most_ticks),
	ZC_CODE(ZP_TELLS_NOTHING),
	ZC_CODE(ZP_TELLS_HANDLE),
	ZC_CODE(ZP_TELLS_MALLOC),
	ZC_CODE(ZP_TELLS_MAP),
	ZC_CODE(ZP_MALLOC),
	ZC_CODE(ZP_FREE),
	ZC_CODE(ZP_MAP),
	ZC_CODE(ZP_UNMAP),
	ZC_CODE(ZP_SHRINK),
	ZC_CODE(ZP_INSERT),
	ZC_CODE(ZP_WRITEBACK),
	ZC_CODE(ZP_COMPACT),
	ZC_CODE(ZP_NO_HANDLE),
	ZC_CODE(ZP_BAD_SIZE),
	ZC_CODE(ZP_UNKNOWN),
	ZC_CODE(ZP_REISSUED),
	ZC_CODE(ZP_SURVEY),
	ZC_CODE(ZP_COUNT_BITS),
	{NULL, 0, 0},
};

static const struct zc_layout of_check[] = {
	ZC_LAYOUT(zv_call, ts, end, kind, block, slot, row, cpu, tid, size,
		  began),
	ZC_LAYOUT(zv_tried, number, step),
	ZC_LAYOUT(zv_failure, call, block, slot, said, cause, around, around_len, tried, tried_len),
	ZC_LAYOUT(zv_tally, calls, explained, in_part, groups, overlapping, largest_group,
		  dead_ends, most_hypotheses, out_of_order, cut_short, split),
	ZC_LAYOUT(zv_found, at_ns, row, step, order_len, race_calls, race_steps, race_ends,
		  races_len, failures, around, tried, failures_len, failed, undecided_since, tally),
	ZC_CODE(ZV_MALLOC),
	ZC_CODE(ZV_FREE),
	ZC_CODE(ZV_FAILED_MALLOC),
	ZC_CODE(ZV_PASS),
	ZC_CODE(ZV_CHOOSE),
	ZC_CODE(ZV_RECOVER),
	ZC_CODE(ZV_SETTLE),
	ZC_CODE(ZV_MISFIT),
	ZC_CODE(ZV_WHOLE),
	ZC_CODE(ZV_LOOK),
	ZC_CODE(ZV_INSERT),
	ZC_CODE(ZV_TAKE),
	ZC_CODE(ZV_OTHER_TYPE),
	ZC_CODE(ZV_NO_FREE_SLOT),
	ZC_CODE(ZV_NEW_BLOCK_ADRIFT),
	ZC_CODE(ZV_NEW_BLOCK),
	ZC_CODE(ZV_GIVES),
	ZC_CODE(ZV_NO_BLOCK),
	ZC_CODE(ZV_FREE_ALREADY),
	ZC_CODE(ZV_NOT_TO_RECOVER),
	ZC_CODE(ZV_NOT_RECLAIMED),
	ZC_CODE(ZV_TAKES),
	ZC_CODE(ZV_DOES_NOT_TAKE),
	ZC_CODE(ZV_CUT_SHORT),
	ZC_CODE(ZV_MALLOC_LOST),
	ZC_CODE(ZV_FREE_LOST),
	ZC_CODE(ZV_BLOCKS_LOST),
	ZC_CODE(ZV_OTHER_RULE),
	{NULL, 0, 0},
};

static const struct zc_layout of_pages[] = {
	ZC_LAYOUT(zv_page_tally, calls, explained, groups, overlapping, largest_group, dead_ends,
		  cut_short, undecided),
	ZC_LAYOUT(zv_reading, row, pages, low, high),
	ZC_LAYOUT(zv_pages_found, tally, readings, readings_len, failed, first, around, tried,
		  around_len, tried_len, page, says, cause),
	ZC_CODE(ZV_PAGE_MALLOC),
	ZC_CODE(ZV_PAGE_FREE),
	ZC_CODE(ZV_PAGE_NO_PAGE),
	ZC_CODE(ZV_PAGE_RECLAIM),
	ZC_CODE(ZV_PAGE_PUT_BACK),
	ZC_CODE(ZV_STEP_WHOLE),
	ZC_CODE(ZV_STEP_LOOK),
	ZC_CODE(ZV_STEP_GROW),
	ZC_CODE(ZV_SAYS_NEW_PAGE),
	ZC_CODE(ZV_SAYS_PAGE),
	ZC_CODE(ZV_SAYS_NO_OBJECT),
	ZC_CODE(ZV_SAYS_NO_PAGE),
	ZC_CODE(ZV_SAYS_NOT_RECLAIMED),
	ZC_CODE(ZV_SAYS_NOT_OLDEST),
	{NULL, 0, 0},
};

static const struct zc_layout of_locks[] = {
	ZC_LAYOUT(zv_lock_call, now, ts, end, row, size, pages, handle, address, slot, ret, kind),
	ZC_LAYOUT(zv_lock_tally, places, errors, unknown, compactions, sizes, sure_sizes, moved,
		  added_beside_room, put_off, ties, beside, differs),
	ZC_CODE(ZV_LOCK_MALLOC),
	ZC_CODE(ZV_LOCK_FREE),
	ZC_CODE(ZV_LOCK_COMPACT),
	{NULL, 0, 0},
};

static const struct zc_layout of_zswap[] = {
	ZC_LAYOUT(zl_reading_options, kind_of, header_bytes, limited, frontswap, first_size),
	ZC_LAYOUT(zl_columns, rows, first_row, op, pool, key, size, ret, ts_ns, tid, key_valid,
		  size_valid, key_at, size_at),
	ZC_LAYOUT(zl_demand, at_ns, size, key, row, want),
	ZC_LAYOUT(zl_told, sizes, frees),
	ZC_LAYOUT(zl_options, max_pages, accept_pages, delay_ns, page_ns, header_bytes, rules),
	ZC_LAYOUT(zl_counts, stored, rejected, limit_hits, refused, incompressible, written_back,
		  evictions_failed, jobs, reclaim_fails, pages_freed, hits, refaults, disk_loads),
	ZC_LAYOUT(zl_result, counts, peak_held_bytes, stored_bytes, entries, area_low, area_high,
		  stopped_row, stopped, hazard_rows),
	ZC_CODE(ZL_STORE_ROW),
	ZC_CODE(ZL_LOAD_ROW),
	ZC_CODE(ZL_INVALIDATE_ROW),
	ZC_CODE(ZL_MALLOC_ROW),
	ZC_CODE(ZL_FREE_ROW),
	ZC_CODE(ZL_STORE),
	ZC_CODE(ZL_WRITE),
	ZC_CODE(ZL_LOAD),
	ZC_CODE(ZL_LOAD_KEPT),
	ZC_CODE(ZL_DROP),
	ZC_CODE(ZL_DROP_ALL),
	ZC_CODE(ZL_DRIVER),
	ZC_CODE(ZL_LRU),
	{NULL, 0, 0},
};

ZC_API const struct zc_layout *zp_layout(void)
{
	return of_play;
}

ZC_API const struct zc_layout *zv_layout(void)
{
	return of_check;
}

ZC_API const struct zc_layout *zl_layout(void)
{
	return of_zswap;
}

ZC_API const struct zc_layout *zv_page_layout(void)
{
	return of_pages;
}

ZC_API const struct zc_layout *zv_lock_layout(void)
{
	return of_locks;
}
