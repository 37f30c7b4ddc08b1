/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The player's own state, of which nothing is seen from outside. Its parts, each of which knows only
 * those before it: columns.h reads a row, figures.c keeps time and sums, pools.c begins and ends a
 * pool, lives.c knows its live objects, places.c compares where they lie, compact.c plays compactions and timing.c measures calls;
 * rows.c plays any row, plain.c nearly all of them and faster; shrink.c plays the rows of a shrink,
 * survey.c looks a batch over before; play.c puts them together and results.c gives what came out.
 */
#ifndef ZTRACE_PLAYER_H
#define ZTRACE_PLAYER_H

#include "play.h"

__extension__ typedef __int128 wide;

enum { SIZE_BITS = 64 - ZC_REF_BITS };

static const int64_t LARGEST_NS = INT64_C(1) << 62;
static const uint64_t LARGEST_TOTAL = UINT64_C(1) << 55;
static const uint64_t NO_HANDLE = UINT64_MAX;
static const int64_t NO_TOTAL = -1;

/* An object whose handle was given out again before its free was seen to return. */
struct leaving {
	struct leaving *older, *newer;
	uint64_t handle, ref, row;
	uint32_t id;
	int64_t size, given_ns;
};

/* One pool of the trace and its model. ``live``: recorded handle -> reference and size, packed. */
struct run {
	struct zc_pool *model;
	struct zc_map live, begun, refused, leaving, failed;
	struct leaving *leaving_oldest, *leaving_newest;
	struct zc_slab leaving_slab;
	int64_t held, model_total, recorded_total;
	int64_t *near_peak;
	int32_t more_bytes;
	uint32_t unknown_met, cpus; /* whose lists are apart; 0: the same for all */
	bool compared, compacts, stopped;
	bool plain; /* see zp_play(): neither stopped nor with objects that need a second look */
	struct zc_map pages; /* address of the kernel's page / PAGE_SIZE -> the model's + 1 */
	uint8_t tells; /* see zp_options; what follows is only used if something does */
	struct zc_map kernel_pages; /* the model's page -> the kernel's + 1 */
	struct zc_map objects; /* how many are in a page of the model; not where has_page() tells */
	struct zp_pool_result result;
};

struct eviction {
	uint64_t at, handle;
	int ret;
};

struct player {
	const struct zc_backend *backend;
	struct zc_config config;
	struct zp_options options;
	struct run *runs[ZP_POOLS];
	struct run *met[ZP_POOLS];
	uint32_t met_len;
	const struct zp_columns *in;
	bool far; /* some ts_ns of the batch are beyond LARGEST_NS */
	int code; /* why it ended */
	struct zp_error error;
	int64_t objects, stored, held, total, kernel_total;
	int64_t snapshot_above;
	int64_t clock, row_clock; /* of points, and of rows */
	struct zp_point latest;
	wide moments_of[3]; /* sum of each change of a figure times its moment */
	uint64_t state_reached, calls_reached; /* of the time series */
	struct zp_point *series;
	uint64_t *series_calls;
	struct eviction *evictions;
	uint64_t evictions_cap;
	struct zp_timing *timing; /* NULL: not asked for */
	struct zp_result result;
};

/* Ends the player: returns ``code``, with what zp_error_of() will say. */
static inline ZC_COLD int zp_fail(struct player *p, int code, uint64_t row, int kind,
				  uint64_t handle)
{
	p->code = code;
	p->error = (struct zp_error){.row = row, .handle = handle, .kind = kind};
	return code;
}

static inline uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

#endif
