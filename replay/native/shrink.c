/* SPDX-License-Identifier: GPL-2.0-only */
#include "shrink.h"

#include "columns.h"
#include "figures.h"
#include "lives.h"
#include "plain.h"
#include "pools.h"

#include <stdio.h>
#include <stdlib.h>

struct shrinking {
	struct player *p;
	struct run *run;
	uint64_t evictions_len, done, played, first;
	bool diverged;
};

static int add_eviction(struct player *p, uint64_t at, uint64_t handle, int ret, uint64_t *len)
{
	if (*len == p->evictions_cap) {
		uint64_t cap = p->evictions_cap ? 2 * p->evictions_cap : 64;
		struct eviction *grown = realloc(p->evictions, cap * sizeof(*grown));
		if (!grown)
			return zp_fail(p, ZC_NO_MEMORY, at, ZP_SHRINK, 0);
		p->evictions = grown;
		p->evictions_cap = cap;
	}
	p->evictions[(*len)++] = (struct eviction){at, handle, ret};
	return 0;
}

/* The evictions of a shrink, in order: see _evictions() of replay/play/engine.py. */
static int find_evictions(struct player *p, uint64_t first, uint64_t last, uint64_t *len)
{
	const struct zp_columns *in = p->in;
	int64_t begun = begin_at(p, last);
	*len = 0;
	for (int inferred = 0; inferred < 2 && !*len; inferred++) {
		for (uint64_t row = first; row < last; row++) {
			if (in->tid[row] != in->tid[last] || in->pool[row] != in->pool[last] ||
			    begin_at(p, row) < begun)
				continue;
			enum zp_kind kind = kind_at(p, row);
			uint64_t handle = handle_at(p, row);
			int code = 0;
			if (!inferred) {
				if (kind == ZP_WRITEBACK && handle != NO_HANDLE)
					code = add_eviction(p, row, handle, in->ret[row], len);
			} else if (kind == ZP_MAP || kind == ZP_UNMAP || kind == ZP_FREE) {
				struct eviction *before = *len ? p->evictions + *len - 1 : NULL;
				int ret = kind == ZP_FREE ? 0 : -EEXIST;
				if (before && before->handle == handle) {
					before->at = row;
					before->ret = before->ret && ret ? ret : 0;
				} else {
					code = add_eviction(p, row, handle, ret, len);
				}
			}
			if (code)
				return code;
		}
	}
	return 0;
}

static int evict(void *context, uint64_t handle)
{
	struct shrinking *s = context;
	struct player *p = s->p;
	if (s->diverged || s->done == s->evictions_len) {
		s->diverged = true;
		return -EEXIST;
	}
	struct eviction wanted = p->evictions[s->done];
	uint64_t value = zc_map_get(&s->run->live, wanted.handle);
	if (handle !=
	    (value ? p->backend->handle_of(s->run->model, ref_of(value)) : wanted.handle)) {
		s->diverged = true;
		return -EEXIST;
	}
	s->done++;
	uint64_t from = s->played;
	s->played = wanted.at + 1;
	if (zp_play(p, from, s->played) || s->run->stopped)
		return ZC_ABORTED;
	return wanted.ret;
}

int zp_play_shrink(struct player *p, uint64_t first, uint64_t last)
{
	const struct zp_columns *in = p->in;
	struct run *run = p->runs[in->pool[last]];
	if (!run || run->stopped || !run->compared)
		return zp_play(p, first, last + 1);
	struct shrinking s = {.p = p, .run = run, .played = first, .first = first};
	if (find_evictions(p, first, last, &s.evictions_len))
		return p->code;
	int64_t ret = 0, reclaimed = 0;
	uint32_t pages = size_at(p, last);
	uint64_t number = number_at(p, last);
	int code = p->backend->shrink(run->model, pages ? pages : 1, evict, &s, &ret, &reclaimed);
	if (p->code)
		return p->code;
	if (code) {
		if (!run->stopped && zp_stop(p, run, "shrink", number, code))
			return p->code;
		return zp_play(p, s.played, last + 1);
	}
	int64_t begun = s.played > first ? end_at(p, s.played - 1) : begin_at(p, last);
	point(p, run, begun, NO_TOTAL, number);
	if (zp_play(p, s.played, last))
		return p->code;
	run->result.shrinks_diverged += s.diverged || s.done < s.evictions_len;
	struct zp_agreement *shrinks = &run->result.shrinks;
	shrinks->compared++;
	if (ret == in->ret[last])
		shrinks->equal++;
	else if (!*shrinks->first)
		snprintf(shrinks->first, ZP_FIRST,
			 "row %" PRIu64 ": shrink returned %d, model: %" PRId64, number,
			 in->ret[last], ret);
	point(p, run, end_at(p, last), total_at(p, last), number);
	return 0;
}
