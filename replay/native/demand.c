/* SPDX-License-Identifier: GPL-2.0-only */
#include "demand.h"

#include "columns.h"
#include "vector.h"

#include <stdlib.h>

/* A malloc that no store of its task has taken yet. */
struct given {
	uint64_t key;
	int64_t size, ts_ns;
};

struct task {
	VECTOR(struct given) given;
	uint64_t freed; /* the key of its last free */
	bool has_freed;
};

struct reading {
	struct zv_escape escape;
	struct zl_reading_options options;
	struct zl_told told;
	struct zc_map numbers; /* task -> its number + 1 */
	VECTOR(struct task) tasks;
	VECTOR(struct zl_demand) found;
	int64_t last_size;
	bool frees;
};

static struct task *task_of(struct reading *r, uint32_t tid)
{
	uint64_t number = zc_map_get(&r->numbers, tid);
	if (!number) {
		*PUSH(&r->escape, r->tasks) = (struct task){0};
		number = r->tasks.len;
		zv_put_key(&r->escape, &r->numbers, tid, number);
	}
	return &r->tasks.at[number - 1];
}

static void want(struct reading *r, enum zl_want what, int64_t at_ns, uint64_t key, int64_t size,
		 uint64_t row)
{
	*PUSH(&r->escape, r->found) = (struct zl_demand){
		.at_ns = at_ns, .size = size, .key = key, .row = row, .want = what};
}

static void take_malloc(struct reading *r, const struct zl_columns *in, uint64_t row, uint64_t key,
			int64_t size)
{
	if (in->ret[row] < 0 && in->ret[row] != -ENOSPC)
		return;
	struct task *task = task_of(r, in->tid[row]);
	*PUSH(&r->escape, task->given) = (struct given){
		key, size - r->options.header_bytes[in->pool[row]], in->ts_ns[row]};
}

static void take_store(struct reading *r, const struct zl_columns *in, uint64_t row, uint64_t key,
		       int64_t size)
{
	struct task *task = task_of(r, in->tid[row]);
	uint64_t number = in->first_row + row;
	int64_t ts = in->ts_ns[row];
	bool stored = false;
	for (size_t at = 0; at < task->given.len; at++) {
		struct given one = task->given.at[at];
		if (one.ts_ns < ts)
			continue;
		stored = true;
		r->last_size = one.size;
		want(r, ZL_STORE, ts, one.key == NO_HANDLE ? key : one.key, one.size, number);
	}
	task->given.len = 0;
	if (stored)
		return;
	int32_t ret = in->ret[row];
	if (ret >= 0) {
		want(r, ZL_STORE, ts, key, size < 0 ? 0 : size, number);
	} else if (r->options.limited && (ret == -ENOMEM || ret == -EPERM)) {
		r->told.sizes++;
		r->told.frees = r->options.frontswap;
		want(r, ZL_STORE, ts, key, r->last_size, number);
	} else {
		want(r, ZL_WRITE, ts, key, 0, number);
	}
}

static void take_load(struct reading *r, const struct zl_columns *in, uint64_t row, uint64_t key)
{
	bool kept = false;
	if (r->frees && in->ret[row] >= 0 && !r->options.frontswap) {
		struct task *task = task_of(r, in->tid[row]);
		kept = !task->has_freed || task->freed != key;
		task->has_freed = false;
	}
	want(r, kept ? ZL_LOAD_KEPT : ZL_LOAD, in->ts_ns[row], key, 0, in->first_row + row);
}

static void take_row(struct reading *r, const struct zl_columns *in, uint64_t row)
{
	enum zl_kind kind = r->options.kind_of[(uint8_t)in->op[row]];
	if (kind == ZL_OTHER)
		return;
	uint64_t key =
		in->key && valid(in->key_valid, in->key_at, row) ? in->key[row] : NO_HANDLE;
	int64_t size = -1;
	if (in->size && valid(in->size_valid, in->size_at, row))
		size = in->size[row];
	if (kind == ZL_MALLOC_ROW) {
		take_malloc(r, in, row, key, size);
	} else if (kind == ZL_FREE_ROW) {
		struct task *task = task_of(r, in->tid[row]);
		task->freed = key;
		task->has_freed = r->frees = true;
	} else if (kind == ZL_STORE_ROW) {
		take_store(r, in, row, key, size);
	} else if (kind == ZL_LOAD_ROW) {
		take_load(r, in, row, key);
	} else {
		want(r, key == NO_HANDLE ? ZL_DROP_ALL : ZL_DROP, in->ts_ns[row], key, 0,
		     in->first_row + row);
	}
}

ZC_API void zl_read_destroy(struct reading *r)
{
	for (size_t at = 0; at < r->tasks.len; at++)
		free(r->tasks.at[at].given.at);
	free(r->tasks.at);
	free(r->found.at);
	zc_map_clear(&r->numbers);
	free(r);
}

/* NULL if there is no memory. */
ZC_API struct reading *zl_read_create(const struct zl_reading_options *options)
{
	struct reading *r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->options = *options;
	r->last_size = options->first_size;
	if (zc_map_init(&r->numbers)) {
		free(r);
		return NULL;
	}
	return r;
}

/* The demands of a batch, valid until the next call. 0, or ZC_NO_MEMORY, which ends the reading. */
ZC_API int zl_read(struct reading *r, const struct zl_columns *in, const struct zl_demand **found,
		   uint64_t *len)
{
	if (r->escape.code || setjmp(r->escape.jump))
		return r->escape.code;
	r->found.len = 0;
	for (uint64_t row = 0; row < in->rows; row++)
		take_row(r, in, row);
	*found = r->found.at;
	*len = r->found.len;
	return 0;
}

ZC_API void zl_told_of(const struct reading *r, struct zl_told *told)
{
	*told = r->told;
}
