/* SPDX-License-Identifier: GPL-2.0-only */
#include "survey.h"

#include "columns.h"
#include "pools.h"

/*
 * The parts of zp_survey(), each a pass over few columns of some rows. Passes are branchless where
 * mallocs and frees, which nobody can foretell, would take different ways.
 */

static bool count_ops(const struct zp_columns *in, uint64_t row, uint64_t stop_at,
		      uint64_t counts[ZP_CODES])
{
	const int8_t *op = in->op;
	int8_t negative = 0;
	for (; row < stop_at; row++) {
		counts[op[row] & (ZP_CODES - 1)]++;
		negative |= op[row];
	}
	return negative >= 0;
}

static void note_cpus(const struct zp_columns *in, uint64_t row, uint64_t stop_at, uint8_t *cpus)
{
	const uint16_t *cpu = in->cpu;
	uint16_t first = cpu[row], others = 0;
	for (uint64_t at = row; at < stop_at; at++)
		others |= cpu[at] ^ first;
	for (stop_at = others ? stop_at : row + 1; row < stop_at; row++)
		cpus[cpu[row] >> 3] |= (uint8_t)(1u << (cpu[row] & 7));
}

/* Entry of the first and return of the last driven row; ``all`` of them may be. */
static inline ZC_ALWAYS_INLINE void note_span(struct player *p, uint64_t row, uint64_t stop_at,
					      bool all)
{
	int64_t first = p->result.first_ns, last = p->result.last_ns;
	for (; row < stop_at; row++) {
		bool driven = all || is_driven(kind_at(p, row));
		int64_t ts = begin_at(p, row), end = ts + p->in->dur_ns[row];
		int64_t begun = driven ? ts : INT64_MAX, ended = driven ? end : INT64_MIN;
		first = begun < first ? begun : first;
		last = ended > last ? ended : last;
	}
	p->result.first_ns = first;
	p->result.last_ns = last;
}

static int note_pools(struct player *p, uint64_t row, uint64_t stop_at)
{
	const uint8_t *pool = p->in->pool;
	uint8_t first = pool[row], others = 0;
	for (uint64_t at = row; at < stop_at; at++)
		others |= pool[at] ^ first;
	if (!others && p->runs[first])
		return 0;
	for (; row < stop_at; row++)
		if (ZC_UNLIKELY(!p->runs[pool[row]]) && is_driven(kind_at(p, row)) &&
		    zp_meet(p, pool[row]))
			return p->code;
	return 0;
}

uint64_t zp_find_impossible(const struct player *p, uint64_t row, uint64_t stop_at)
{
	while (row < stop_at && !is_impossible(p, row, kind_at(p, row)))
		row++;
	return row;
}

/* Note in the time series how many calls had returned by the moments before each row's return. */
static void count_until(struct player *p, uint64_t row, uint64_t stop_at, uint64_t calls)
{
	const struct zp_options *o = &p->options;
	for (; row < stop_at; row++) {
		enum zp_kind kind = kind_at(p, row);
		if (!is_wanted(p, row, kind))
			continue;
		int64_t end = end_at(p, row);
		p->row_clock = end > p->row_clock ? end : p->row_clock;
		while (p->calls_reached < o->moments_len &&
		       o->moments[p->calls_reached] < p->row_clock)
			p->series_calls[p->calls_reached++] = calls;
		calls += is_driven(kind);
	}
}

int zp_survey(struct player *p, uint64_t row, uint64_t stop_at, int64_t *last_wanted)
{
	const struct zp_columns *in = p->in;
	struct zp_result *result = &p->result;
	uint64_t counts[ZP_CODES] = {0}, calls = 0;
	if (!count_ops(in, row, stop_at, counts))
		return zp_fail(p, ZP_BAD_OP, number_at(p, row), ZP_OTHER, 0);
	for (uint32_t code = 0; code < ZP_CODES; code++) {
		enum zp_kind kind = p->options.kind_of[code];
		if ((kind == ZP_SHRINK || kind == ZP_COMPACT) && counts[code] &&
		    !p->options.surveyed)
			return zp_fail(p, ZP_SURVEY, 0, kind, 0);
		result->counts[code] += counts[code];
		calls += is_driven(kind) ? counts[code] : 0;
	}
	if (p->options.moments_len)
		count_until(p, row, stop_at, result->calls);
	result->calls += calls;
	result->rows += stop_at - row;
	note_cpus(in, row, stop_at, result->cpus);
	if (calls == stop_at - row)
		note_span(p, row, stop_at, true);
	else
		note_span(p, row, stop_at, false);
	for (uint64_t at = stop_at; at-- > row;)
		if (is_wanted(p, at, kind_at(p, at))) {
			*last_wanted = (int64_t)at;
			break;
		}
	return note_pools(p, row, stop_at);
}
