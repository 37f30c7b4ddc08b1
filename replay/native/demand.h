/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the rows of a trace wanted of zswap: the twin of replay/limit/demand.py, which is the
 * specification. Structures here are mirrored in replay/limit/native.py, which layout.c lets it
 * check. One reading is used by one thread at a time.
 */
#ifndef ZTRACE_DEMAND_H
#define ZTRACE_DEMAND_H

#include "core.h"

/* What a row is to a reading; a code of the trace is translated by a table. */
enum zl_kind { ZL_OTHER, ZL_STORE_ROW, ZL_LOAD_ROW, ZL_INVALIDATE_ROW, ZL_MALLOC_ROW, ZL_FREE_ROW };

enum zl_want { ZL_STORE, ZL_WRITE, ZL_LOAD, ZL_LOAD_KEPT, ZL_DROP, ZL_DROP_ALL };

enum { ZL_CODES = 128, ZL_POOLS = 256 };

/* ``limited``: the recorded kernel may have rejected pages for its limit. */
struct zl_reading_options {
	uint8_t kind_of[ZL_CODES];
	int32_t header_bytes[ZL_POOLS];
	uint8_t limited, frontswap;
	int64_t first_size; /* of a page that was rejected before any size is known */
};

/* Columns of equal length; bitmaps as Arrow's, from bit ``*_at``, NULL where nothing is null. */
struct zl_columns {
	uint64_t rows, first_row;
	const int8_t *op;
	const uint8_t *pool;
	const uint64_t *key;  /* NULL: all null */
	const uint32_t *size; /* NULL: all null */
	const int32_t *ret;
	const int64_t *ts_ns;
	const uint32_t *tid;
	const uint8_t *key_valid, *size_valid;
	uint64_t key_at, size_at;
};

struct zl_demand {
	int64_t at_ns, size;
	uint64_t key, row;
	uint32_t want;
};

/* What the trace did not tell; see NotTold of the Python. */
struct zl_told {
	uint64_t sizes;
	uint32_t frees;
};

#endif
