/* SPDX-License-Identifier: GPL-2.0-only */
/* Time, and what it is counted by: sums over time, peaks, the series, the models' sizes. */
#ifndef ZTRACE_FIGURES_H
#define ZTRACE_FIGURES_H

#include "player.h"

/* Note the models' statistics: every time the pools grew by 1/128 is enough. */
void zp_snapshot(struct player *p);
void zp_compare_total(struct player *p, struct run *run, int64_t total, uint64_t number);

/* A figure's area below its end so far: each change counts against the time before it. */
static inline void note_change(wide *moment, int64_t change, int64_t t)
{
	*moment += (wide)change * t;
}

/* Note in the time series the state at the moments before ``t``. */
static inline void reach_moments(struct player *p, int64_t t)
{
	const struct zp_options *o = &p->options;
	while (ZC_UNLIKELY(p->state_reached < o->moments_len && o->moments[p->state_reached] < t))
		p->series[p->state_reached++] = p->latest;
}

static inline void raise_peaks(struct player *p, struct zp_point now)
{
	struct zp_point *peaks = p->result.peaks;
	if (ZC_UNLIKELY(now.objects > peaks[0].objects))
		peaks[0] = now;
	if (ZC_UNLIKELY(now.stored > peaks[1].stored))
		peaks[1] = now;
	if (ZC_UNLIKELY(now.held > peaks[2].held))
		peaks[2] = now;
}

/* Take over the state after a call that returned at ``end_ns``; time never steps back. */
static inline void move_clock(struct player *p, int64_t end_ns)
{
	int64_t t = end_ns > p->clock ? end_ns : p->clock;
	p->clock = t;
	struct zp_point *latest = &p->latest;
	reach_moments(p, t);
	note_change(&p->moments_of[0], p->objects - latest->objects, t);
	note_change(&p->moments_of[1], p->stored - latest->stored, t);
	if (p->held != latest->held)
		note_change(&p->moments_of[2], p->held - latest->held, t);
	*latest = (struct zp_point){t, p->objects, p->stored, p->held, p->total, p->kernel_total};
	raise_peaks(p, *latest);
}

static inline void take_held(struct player *p, struct run *run)
{
	const struct zc_pool *model = run->model;
	int64_t held = (int64_t)model->held_bytes, model_total = (int64_t)model->total_bytes;
	p->held += held - run->held;
	run->held = held;
	p->total += model_total - run->model_total;
	run->model_total = model_total;
	if (ZC_UNLIKELY(p->held > p->snapshot_above))
		zp_snapshot(p);
}

/* Take over what the model holds after a call, and compare it with the kernel's total. */
static inline void point(struct player *p, struct run *run, int64_t end_ns, int64_t total,
			 uint64_t number)
{
	take_held(p, run);
	if (total >= 0)
		zp_compare_total(p, run, total, number);
	move_clock(p, end_ns);
}

#endif
