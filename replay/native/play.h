/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Plays batches of recorded calls on one model a pool: columns in, figures out.
 *
 * The rules are those of replay/play/engine.py, which is the specification: what is compared, what a
 * shrink does, how handles given out again are taken. Structures here are mirrored in
 * replay/play/native.py, which layout.c lets it check. One player is used by one thread at a time.
 */
#ifndef ZTRACE_PLAY_H
#define ZTRACE_PLAY_H

#include "core.h"

/* What a row is to the player; a code of the trace is translated by a table. */
enum zp_kind {
	ZP_OTHER,
	ZP_MALLOC,
	ZP_FREE,
	ZP_MAP,
	ZP_UNMAP,
	ZP_SHRINK,
	ZP_INSERT,
	ZP_WRITEBACK,
	ZP_COMPACT,
	ZP_KINDS
};

/* Codes of zp_feed() and zp_finish() beside ZC_NO_MEMORY; the error says where. */
enum {
	ZP_NO_HANDLE = 16, /* a call on an object without a handle */
	ZP_BAD_SIZE,       /* a malloc of an impossible size succeeded */
	ZP_UNKNOWN,        /* a whole trace uses a handle that nobody gave out */
	ZP_REISSUED,       /* a whole trace gives out a handle that is in use */
	ZP_SURVEY,         /* there are shrinks or compactions, and nobody has looked for them */
	ZP_BAD_OP,         /* an op code out of range, or a span outside the rows */
};

/* Of a count of zp_failed_of(): the bits below its rank. */
enum { ZP_COUNT_BITS = 48 };

/* What of a recording tells where an object lies: Tells of allocator/traits.py. */
enum { ZP_TELLS_NOTHING, ZP_TELLS_HANDLE, ZP_TELLS_MALLOC, ZP_TELLS_MAP };

enum { ZP_POOLS = 256, ZP_CODES = 128, ZP_FIRST = 200, ZP_WIDTH = 6 };

struct zp_options {
	uint8_t kind_of[ZP_CODES];
	uint8_t compared[ZP_POOLS];   /* the pool was recorded on this allocator */
	int32_t more_bytes[ZP_POOLS]; /* what a header adds to each size */
	uint8_t handles_tell;         /* handles can be compared */
	uint8_t whole;                /* the trace lacks nothing */
	uint8_t surveyed;             /* shrinks come with their spans, ``recorded`` is right */
	uint8_t timing;               /* measure each malloc and free of a model */
	uint32_t page_bytes;
	uint64_t patience_rows;       /* for the free of a handle given out twice */
	int64_t first_ns; /* the clock's start, the entry of the first call if known */
	const int64_t *moments; /* of the time series, ascending, in ns */
	uint64_t moments_len;
	uint8_t compacts[ZP_POOLS]; /* CPUs and compactions of the pool are played */
	struct zc_config recorded; /* of the models of those pools */
	uint8_t tells[ZP_POOLS]; /* where its objects lie is compared, and told by this */
};

/* Columns of equal length; bitmaps as Arrow's, from bit ``*_at``, NULL where nothing is null. */
struct zp_columns {
	uint64_t rows, first_row;
	const int8_t *op;
	const uint8_t *pool;
	const uint32_t *size; /* NULL: all null */
	const uint64_t *handle; /* NULL: all null */
	const int32_t *ret;
	const int64_t *ts_ns;
	const uint32_t *dur_ns;
	const uint64_t *total; /* NULL: all null */
	const uint32_t *tid; /* only used for spans */
	const uint16_t *cpu;
	const uint64_t *place; /* only used for compactions and comparisons; NULL: all null */
	const uint8_t *size_valid, *handle_valid, *total_valid, *place_valid;
	uint64_t size_at, handle_at, total_at, place_at;
	const uint64_t *spans; /* pairs: first and last row of a shrink, ascending, apart */
	uint64_t spans_len;
};

struct zp_error {
	uint64_t row, handle;
	uint32_t size;
	int32_t kind;
};

/* The state after a call: ns, objects, bytes stored, held, the models', the kernel's or -1. */
struct zp_point {
	int64_t end_ns, objects, stored, held, model, kernel;
};

struct zp_agreement {
	uint64_t equal, compared;
	char first[ZP_FIRST];
};

struct zp_pool_result {
	uint32_t pool, has_difference;
	struct zp_agreement handles, totals, errors, shrinks, places;
	int64_t total_difference;
	uint64_t unknown[ZP_KINDS]; /* by kind */
	uint32_t unknown_rank[ZP_KINDS]; /* in which order they were met */
	uint64_t mallocs, reissued, refused, shrinks_not_replayed, shrinks_diverged, snapshots;
	uint64_t compactions, compactions_unmatched;
	char stopped[ZP_FIRST + ZC_TEXT];
};

struct zp_result {
	struct zp_point latest, peaks[3]; /* of objects, stored, held */
	uint64_t area_low[3]; /* of the same, in unit * ns, 128 bits */
	int64_t area_high[3];
	uint64_t counts[ZP_CODES]; /* rows of each op code */
	uint64_t calls; /* rows that a model is driven with */
	uint64_t rows;
	int64_t first_ns, last_ns; /* entry of the first and return of the last of them */
	int64_t held_near_peak;
	uint64_t pools;
	uint8_t cpus[8192]; /* bit n: CPU n occurs */
};

/*
 * How long mallocs and frees took, by sixteenths of a page. Bucket b holds durations in ticks whose
 * highest bit is bit b / 16 and whose next four bits are b % 16; the clock's own cost is off.
 */
enum { ZP_TIME_CLASSES = 16, ZP_TIME_BUCKETS = 512, ZP_TIME_FINE = 16 };

struct zp_timing {
	double ns_per_tick;
	uint64_t overhead_ticks;
	uint64_t counts[2][ZP_TIME_CLASSES][ZP_TIME_BUCKETS]; /* mallocs, frees */
	uint64_t most_ticks[2][ZP_TIME_CLASSES];
};

#endif
