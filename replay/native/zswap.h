/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * zswap above a model: its pool limit, its writeback and the disk below. The twin of
 * replay/limit/zswap.py, which is the specification and says whose rules these are. Structures here
 * are mirrored in replay/limit/native.py. One zswap is used by one thread at a time.
 */
#ifndef ZTRACE_ZSWAP_H
#define ZTRACE_ZSWAP_H

#include "demand.h"

enum zl_rules { ZL_DRIVER, ZL_LRU };

/* ``accept_pages``: driver: a full pool accepts again below them; lru: at them. */
struct zl_options {
	uint64_t max_pages, accept_pages;
	int64_t delay_ns, page_ns; /* of the worker */
	int32_t header_bytes;
	uint32_t rules;
};

/* See Counts of the Python. */
struct zl_counts {
	int64_t stored, rejected, limit_hits, refused, incompressible, written_back,
		evictions_failed, jobs, reclaim_fails, pages_freed, hits, refaults, disk_loads;
};

/* Areas are 128 bits: of time that passed, times the pages stored, times the bytes held. */
struct zl_result {
	struct zl_counts counts;
	uint64_t peak_held_bytes, stored_bytes, entries;
	uint64_t area_low[3];
	int64_t area_high[3];
	uint64_t stopped_row;
	int32_t stopped; /* ZC_FATAL, or 0 */
	uint64_t hazard_rows[ZC_MAX_HAZARDS];
};

#endif
