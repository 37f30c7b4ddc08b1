/* SPDX-License-Identifier: GPL-2.0-only */
/* What a row of the batch says. */
#ifndef ZTRACE_COLUMNS_H
#define ZTRACE_COLUMNS_H

#include "player.h"

static inline uint32_t bit(const uint8_t *bitmap, uint64_t at)
{
	return bitmap[at >> 3] >> (at & 7) & 1;
}

static inline bool valid(const uint8_t *bitmap, uint64_t at, uint64_t row)
{
	return !bitmap || bit(bitmap, at + row);
}

static inline enum zp_kind kind_at(const struct player *p, uint64_t row)
{
	return p->options.kind_of[(uint8_t)p->in->op[row]];
}

static inline uint32_t size_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->size && valid(in->size_valid, in->size_at, row) ? in->size[row] : 0;
}

static inline uint64_t handle_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->handle && valid(in->handle_valid, in->handle_at, row) ? in->handle[row]
									 : NO_HANDLE;
}

static inline bool has_handle(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->handle && valid(in->handle_valid, in->handle_at, row);
}

static inline int64_t total_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	if (!in->total || !valid(in->total_valid, in->total_at, row))
		return NO_TOTAL;
	uint64_t total = in->total[row];
	return (int64_t)(total < LARGEST_TOTAL ? total : LARGEST_TOTAL);
}

static inline uint64_t place_at(const struct player *p, uint64_t row)
{
	const struct zp_columns *in = p->in;
	return in->place && valid(in->place_valid, in->place_at, row) ? in->place[row] : 0;
}

static inline int64_t begin_at(const struct player *p, uint64_t row)
{
	int64_t ts = p->in->ts_ns[row];
	if (ZC_LIKELY(!p->far))
		return ts;
	return ts > LARGEST_NS ? LARGEST_NS : ts < -LARGEST_NS ? -LARGEST_NS : ts;
}

static inline int64_t end_at(const struct player *p, uint64_t row)
{
	return begin_at(p, row) + p->in->dur_ns[row];
}

static inline uint64_t number_at(const struct player *p, uint64_t row)
{
	return p->in->first_row + row;
}

/* Bits of kinds, to be asked for without branches. */
enum {
	DRIVEN = 1u << ZP_MALLOC | 1u << ZP_FREE | 1u << ZP_MAP | 1u << ZP_UNMAP | 1u << ZP_SHRINK |
		 1u << ZP_INSERT,
	USING = 1u << ZP_MAP | 1u << ZP_UNMAP,
	NAMING = 1u << ZP_FREE | USING,
};

static inline bool is_one_of(uint32_t kinds, enum zp_kind kind)
{
	return kinds >> kind & 1;
}

static inline bool is_driven(enum zp_kind kind)
{
	return is_one_of(DRIVEN, kind);
}

/* Whether the player takes notice of a row at all. */
static inline bool is_wanted(const struct player *p, uint64_t row, enum zp_kind kind)
{
	return is_driven(kind) || kind == ZP_COMPACT || total_at(p, row) >= 0 ||
	       (kind == ZP_WRITEBACK && p->in->spans_len);
}

static inline bool fits(const struct player *p, uint32_t size)
{
	return size - 1 < p->options.page_bytes;
}

/* A row that cannot have happened: a malloc of an impossible size, a call that names nothing. */
static inline bool is_impossible(const struct player *p, uint64_t row, enum zp_kind kind)
{
	bool given = kind == ZP_MALLOC && p->in->ret[row] >= 0;
	if (given && !fits(p, size_at(p, row)))
		return true;
	return (given || is_one_of(NAMING, kind)) && !has_handle(p, row);
}

#endif
