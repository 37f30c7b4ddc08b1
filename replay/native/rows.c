/* SPDX-License-Identifier: GPL-2.0-only */
/* One row of a trace on its model: replay/play/engine.py in C, whose rules hold here too. */
#include "rows.h"

#include "columns.h"
#include "compact.h"
#include "figures.h"
#include "lives.h"
#include "places.h"
#include "pools.h"
#include "timing.h"

#include <string.h>

static const uint64_t MOST_RANKS = 0xFFFF;

static int model_malloc(struct player *p, struct run *run, int64_t size, uint64_t *given)
{
	if (ZC_LIKELY(!p->timing))
		return p->backend->malloc(run->model, size, given);
	uint64_t begun = zp_ticks();
	int code = p->backend->malloc(run->model, size, given);
	zp_note_time(p, 0, size, zp_ticks() - begun);
	return code;
}

static int model_free(struct player *p, struct run *run, uint64_t ref, int64_t size)
{
	if (ZC_LIKELY(!p->timing))
		return p->backend->free(run->model, ref);
	uint64_t begun = zp_ticks();
	int code = p->backend->free(run->model, ref);
	zp_note_time(p, 1, size, zp_ticks() - begun);
	return code;
}

static const char *const KIND_NAMES[ZP_KINDS] = {"",       "malloc", "free",      "map",    "unmap",
						 "shrink", "insert", "writeback", "compact"};

static const char *errno_name(int code)
{
	switch (code) {
	case EINVAL:
		return "EINVAL";
	case ENOSPC:
		return "ENOSPC";
	default:
		return "ENOMEM";
	}
}

static int refuse(struct player *p, struct run *run, uint64_t handle, uint64_t number, int64_t size,
		  int code)
{
	run->result.refused++;
	struct zc_slot *slot = zc_map_put(&run->refused, handle);
	if (!slot)
		return zp_fail(p, ZC_NO_MEMORY, number, ZP_MALLOC, 0);
	slot->value = 1;
	if (run->compared) {
		struct zp_agreement *handles = &run->result.handles;
		handles->compared++;
		if (!*handles->first)
			snprintf(handles->first, ZP_FIRST,
				 "row %" PRIu64 ": malloc(%" PRId64 ") gave 0x%" PRIx64
				 ", model: %s",
				 number, size, handle, errno_name(-code));
	}
	return 0;
}

int zp_note_malloc(struct player *p, struct run *run, int code, int64_t size, uint64_t handle,
		   uint64_t given, uint64_t number, int64_t end_ns)
{
	if (ZC_UNLIKELY(code)) {
		if (code > 0)
			return code;
		return refuse(p, run, handle, number, size, code);
	}
	if (tells(p, run))
		compare_handle(run, size, handle, given, number);
	uint64_t ref = run->model->last_ref;
	struct zc_slot *slot = zc_map_put(&run->live, handle);
	if (ZC_UNLIKELY(!slot))
		return zp_fail(p, ZC_NO_MEMORY, number, ZP_MALLOC, 0);
	if (ZC_UNLIKELY(slot->value)) {
		code = zp_give_again(p, run, handle, slot->value, end_ns, number);
		if (code)
			return code;
	}
	slot->value = ref << SIZE_BITS | (uint64_t)size;
	run->result.mallocs++;
	p->objects++;
	p->stored += size;
	return run->tells ? zp_place_malloc(p, run, number - p->in->first_row) : 0;
}

static int play_malloc(struct player *p, struct run *run, int64_t size, uint64_t handle,
		       uint64_t number, int64_t end_ns)
{
	uint64_t given = 0, ticket;
	int code;
	size += run->more_bytes;
	if (ZC_UNLIKELY(run->begun.len) && (ticket = zc_map_take(&run->begun, handle)))
		code = p->backend->end(run->model, ticket, &given);
	else
		code = model_malloc(p, run, size, &given);
	return zp_note_malloc(p, run, code, size, handle, given, number, end_ns);
}

/* A malloc that failed; the page allocator's failures are not the model's. */
static int play_failed(struct player *p, struct run *run, int64_t size, int ret, uint64_t number)
{
	struct zc_slot *slot = zc_map_put(&run->failed, (uint32_t)ret);
	if (!slot)
		return zp_fail(p, ZC_NO_MEMORY, number, ZP_MALLOC, 0);
	if (!slot->value) /* in which order they were met, above the count */
		slot->value = run->failed.len < MOST_RANKS ? run->failed.len << ZP_COUNT_BITS
							   : MOST_RANKS << ZP_COUNT_BITS;
	slot->value++;
	if (!run->compared || (ret != -EINVAL && ret != -ENOSPC))
		return 0;
	char answer[24];
	uint64_t given;
	int code = p->backend->malloc(run->model, size, &given);
	if (code > 0)
		return code;
	if (code < 0) {
		snprintf(answer, sizeof(answer), "%s", errno_name(-code));
	} else {
		snprintf(answer, sizeof(answer), "0x%" PRIx64, given);
		code = p->backend->free(run->model, run->model->last_ref);
		if (code > 0)
			return code;
	}
	struct zp_agreement *errors = &run->result.errors;
	errors->compared++;
	if (!strcmp(answer, errno_name(-ret)))
		errors->equal++;
	else if (!*errors->first)
		snprintf(errors->first, ZP_FIRST,
			 "row %" PRIu64 ": malloc(%" PRId64 ") failed with %s, model: %s", number,
			 size, errno_name(-ret), answer);
	return 0;
}

/* A call with a handle that is not live. */
static int unknown(struct player *p, struct run *run, enum zp_kind kind, uint64_t handle,
		   uint64_t number)
{
	if (run->refused.len && zc_map_find(&run->refused, handle)) {
		if (kind == ZP_FREE)
			zc_map_take(&run->refused, handle);
		return 0;
	}
	/* 6.1's zswap_writeback_entry() unmaps an object after it has freed it. */
	if (p->options.whole && kind != ZP_UNMAP)
		return zp_fail(p, ZP_UNKNOWN, number, kind, handle);
	if (!run->result.unknown[kind]++)
		run->result.unknown_rank[kind] = ++run->unknown_met;
	return 0;
}

static int play_use(struct player *p, struct run *run, enum zp_kind kind, uint64_t handle,
		    uint32_t hint, uint64_t number)
{
	const struct zc_slot *slot = find_live(run, handle, hint);
	if (!slot)
		return unknown(p, run, kind, handle, number);
	uint64_t given = ref_of(slot->value);
	return kind == ZP_MAP ? p->backend->map(run->model, given)
			      : p->backend->unmap(run->model, given);
}

static int play_free(struct player *p, struct run *run, uint64_t handle, uint32_t hint,
		     uint64_t number, int64_t begun_ns)
{
	uint64_t given = 0;
	int64_t size = 0;
	struct leaving *old = zp_find_leaving(run, handle);
	struct zc_slot *slot = find_live(run, handle, hint);
	bool known = slot != NULL;
	if (ZC_UNLIKELY(old != NULL) && known && begun_ns <= old->given_ns) {
		given = old->ref; /* the free of the one before, which was late */
		size = old->size;
		zp_leave(run, old);
	} else {
		if (known) {
			given = ref_of(slot->value);
			size = size_of(slot->value);
			zc_map_remove_at(&run->live, slot);
		}
		int code = old ? zp_drop(p, run, old) : 0;
		if (code)
			return code;
	}
	if (!known)
		return unknown(p, run, ZP_FREE, handle, number);
	if (run->tells)
		zp_leave_place(p, run, given);
	int code = model_free(p, run, given, size);
	if (code)
		return code;
	p->objects--;
	p->stored -= size;
	return 0;
}

static int play_insert(struct player *p, struct run *run, int64_t size, uint64_t handle,
		       uint64_t number)
{
	uint64_t ticket;
	if (!run->compared || !p->backend->begin)
		return 0;
	int code = p->backend->begin(run->model, size, &ticket);
	if (code)
		return code > 0 ? code : 0;
	struct zc_slot *slot = zc_map_put(&run->begun, handle);
	if (!slot)
		return zp_fail(p, ZC_NO_MEMORY, number, ZP_INSERT, 0);
	slot->value = ticket;
	return 0;
}

int zp_end_row(struct player *p, struct run *run, uint64_t row, enum zp_kind kind, int code)
{
	uint64_t number = number_at(p, row);
	if (ZC_UNLIKELY(code))
		return p->code ? p->code : zp_stop(p, run, KIND_NAMES[kind], number, code);
	point(p, run, end_at(p, row), total_at(p, row), number);
	return 0;
}

int zp_play_row(struct player *p, uint64_t row, uint32_t hint)
{
	const struct zp_columns *in = p->in;
	enum zp_kind kind = kind_at(p, row);
	struct run *run = p->runs[in->pool[row]];
	if (!run || run->stopped)
		return 0;
	uint64_t number = number_at(p, row);
	int64_t end_ns = end_at(p, row), total = total_at(p, row);
	int code = 0;
	if (ZC_UNLIKELY(run->cpus != 0))
		zp_on_cpu(p, run, row, kind);
	switch (kind) {
	case ZP_MALLOC:
		if (ZC_UNLIKELY(in->ret[row] < 0))
			code = play_failed(p, run, size_at(p, row), in->ret[row], number);
		else
			code = play_malloc(p, run, size_at(p, row), handle_at(p, row), number,
					   end_ns);
		break;
	case ZP_FREE:
		code = play_free(p, run, handle_at(p, row), hint, number, begin_at(p, row));
		break;
	case ZP_MAP:
	case ZP_UNMAP:
		code = play_use(p, run, kind, handle_at(p, row), hint, number);
		if (ZC_UNLIKELY(run->cpus != 0) && !code && kind == ZP_MAP)
			code = zp_note_page(p, run, row);
		if (!code && total < 0)
			return 0;
		break;
	case ZP_COMPACT:
		if (run->compacts)
			zp_play_compact(p, run, row);
		else if (total < 0)
			return 0;
		break;
	case ZP_SHRINK:
		run->result.shrinks_not_replayed++;
		break;
	case ZP_INSERT:
		code = play_insert(p, run, size_at(p, row), handle_at(p, row), number);
		if (!code)
			return 0;
		break;
	case ZP_WRITEBACK:
		if (!in->spans_len && total < 0)
			return 0;
		break;
	default:
		if (total < 0)
			return 0;
	}
	return zp_end_row(p, run, row, kind, code);
}

int zp_refuse_row(struct player *p, uint64_t row)
{
	enum zp_kind kind = kind_at(p, row);
	if (!has_handle(p, row))
		return zp_fail(p, ZP_NO_HANDLE, number_at(p, row), kind, 0);
	zp_fail(p, ZP_BAD_SIZE, number_at(p, row), kind, 0);
	p->error.size = size_at(p, row);
	return p->code;
}
