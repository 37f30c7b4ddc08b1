/* SPDX-License-Identifier: GPL-2.0-only */
/* The player: its life, and batches in. */
#include "columns.h"
#include "figures.h"
#include "lives.h"
#include "plain.h"
#include "pools.h"
#include "rows.h"
#include "shrink.h"
#include "survey.h"
#include "timing.h"

#include <stdlib.h>

/* -- batches -------------------------------------------------------------------------------- */

static bool is_far(const struct zp_columns *in)
{
	uint64_t far = 0;
	for (uint64_t row = 0; row < in->rows; row++)
		far |= (uint64_t)in->ts_ns[row] + (uint64_t)LARGEST_NS;
	return far >> 63;
}

/* Whether the spans are rows of the batch, ascending and apart. */
static bool spans_fit(const struct zp_columns *in)
{
	uint64_t from = 0;
	for (uint64_t i = 0; i < in->spans_len; i++) {
		uint64_t first = in->spans[2 * i], last = in->spans[2 * i + 1];
		if (first < from || last < first || last >= in->rows)
			return false;
		from = last + 1;
	}
	return !in->spans_len || in->tid;
}

static int play_batch(struct player *p)
{
	const struct zp_columns *in = p->in;
	uint64_t played = 0;
	for (uint64_t i = 0; i < in->spans_len && !p->code; i++) {
		uint64_t first = in->spans[2 * i], last = in->spans[2 * i + 1];
		if (!zp_play(p, played, first))
			zp_play_shrink(p, first, last);
		played = last + 1;
	}
	if (!p->code)
		zp_play(p, played, in->rows);
	if (p->code != ZP_UNKNOWN && p->code != ZP_REISSUED)
		return p->code;
	/* What cannot have happened at all is the batch's first fault. */
	uint64_t impossible = zp_find_impossible(p, 0, in->rows);
	return impossible < in->rows ? zp_refuse_row(p, impossible) : p->code;
}

/* Play one batch. After any code but 0 the player can only be destroyed. */
ZC_API int zp_feed(struct player *p, const struct zp_columns *columns)
{
	if (p->code)
		return p->code;
	p->in = columns;
	int64_t last_wanted = -1;
	p->far = is_far(columns);
	if (!spans_fit(columns))
		return zp_fail(p, ZP_BAD_OP, columns->first_row, ZP_SHRINK, 0);
	if (columns->rows && zp_survey(p, 0, columns->rows, &last_wanted))
		return p->code;
	if (play_batch(p))
		return p->code;
	if (last_wanted < 0)
		return 0;
	uint64_t number = number_at(p, (uint64_t)last_wanted);
	uint64_t before = number > p->options.patience_rows ? number - p->options.patience_rows : 0;
	if (zp_settle(p, before, end_at(p, (uint64_t)last_wanted)))
		return p->code;
	reach_moments(p, p->row_clock);
	return 0;
}

/* End the replay; the last call returned at ``last_ns``. */
ZC_API int zp_finish(struct player *p, int64_t last_ns)
{
	if (p->code)
		return p->code;
	uint64_t reached = p->state_reached;
	p->state_reached = p->options.moments_len; /* the rest of the series is the end's */
	if (zp_settle(p, UINT64_MAX, last_ns))
		return p->code;
	for (; reached < p->options.moments_len; reached++)
		p->series[reached] = p->latest;
	for (; p->calls_reached < p->options.moments_len; p->calls_reached++)
		p->series_calls[p->calls_reached] = p->result.calls;
	int64_t end = last_ns > p->clock ? last_ns : p->clock;
	const int64_t levels[3] = {p->latest.objects, p->latest.stored, p->latest.held};
	for (int i = 0; i < 3; i++) {
		wide area = (wide)levels[i] * end - p->moments_of[i];
		p->result.area_low[i] = (uint64_t)area;
		p->result.area_high[i] = (int64_t)(area >> 64);
	}
	p->result.latest = p->latest;
	return 0;
}

/* -- life ----------------------------------------------------------------------------------- */

ZC_API void zp_destroy(struct player *p)
{
	for (uint32_t i = 0; i < p->met_len; i++)
		zp_part(p, p->met[i]);
	free(p->series);
	free(p->series_calls);
	free(p->evictions);
	free(p->timing);
	free(p);
}

/* ``options.moments`` must stay where it is. NULL for an impossible backend or no memory. */
ZC_API struct player *zp_create(const char *backend, const struct zc_config *config,
				const struct zp_options *options)
{
	struct player *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->backend = zc_backend_named(backend);
	p->config = *config;
	p->config.by_ref = 1;
	p->options = *options;
	p->kernel_total = NO_TOTAL;
	p->clock = p->row_clock = options->first_ns;
	p->latest = (struct zp_point){.end_ns = options->first_ns, .kernel = -1};
	for (int i = 0; i < 3; i++)
		p->result.peaks[i].end_ns = options->first_ns;
	p->result.first_ns = INT64_MAX;
	p->result.last_ns = INT64_MIN;
	uint64_t moments = options->moments_len;
	if (moments) {
		p->series = calloc(moments, sizeof(*p->series));
		p->series_calls = calloc(moments, sizeof(*p->series_calls));
	}
	if (options->timing && (p->timing = calloc(1, sizeof(*p->timing))))
		zp_calibrate(p->timing);
	if (!p->backend || (options->timing && !p->timing) ||
	    (moments && (!p->series || !p->series_calls))) {
		zp_destroy(p);
		return NULL;
	}
	return p;
}
