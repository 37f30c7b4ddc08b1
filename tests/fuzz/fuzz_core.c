/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A libFuzzer target: bytes become calls of one pool, batches of rows for the player, or calls for
 * the checker, with nothing between them and the core that would refuse nonsense. Built by
 * tools/sanitize.
 */
#include "check.h"
#include "play.h"

#include <stdlib.h>
#include <string.h>

struct player;

struct zc_pool *zc_create(const char *name, const struct zc_config *config, int *error);
void zc_destroy(struct zc_pool *pool);
int zc_malloc(struct zc_pool *pool, int64_t size, uint64_t *handle);
int zc_free(struct zc_pool *pool, uint64_t handle);
int zc_use(struct zc_pool *pool, uint64_t handle, int begin);
int zc_shrink(struct zc_pool *pool, int64_t pages, zc_evict evict, void *context, int64_t *ret,
	      int64_t *reclaimed);
int zc_begin(struct zc_pool *pool, int64_t size, uint64_t *ticket);
int zc_end(struct zc_pool *pool, uint64_t ticket, uint64_t *handle);
int zc_place(struct zc_pool *pool, uint64_t handle, struct zc_place *place);
int zc_set_cpu(struct zc_pool *pool, uint32_t cpu);
int64_t zc_run_deferred(struct zc_pool *pool, int64_t limit);
int zc_compact_page(struct zc_pool *pool, uint64_t page);
int64_t zc_compact(struct zc_pool *pool);
uint64_t zc_stats(struct zc_pool *pool, int64_t *figures);

struct player *zp_create(const char *backend, const struct zc_config *config,
			 const struct zp_options *options);
void zp_destroy(struct player *p);
int zp_feed(struct player *p, const struct zp_columns *columns);
int zp_finish(struct player *p, int64_t last_ns);

struct input {
	const uint8_t *data;
	size_t left;
};

static uint8_t byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

static uint64_t number(struct input *in, int bytes)
{
	uint64_t value = 0;
	while (bytes--)
		value = value << 8 | byte(in);
	return value;
}

/* Tables of block types that the models take, and any other. */
static void choose_table(struct input *in, struct zc_config *config)
{
	static const uint32_t tables[][16][2] = {
		{{0, 16},
		 {0, 11},
		 {0, 8},
		 {1, 11},
		 {1, 8},
		 {2, 14},
		 {2, 12},
		 {2, 10},
		 {2, 9},
		 {2, 8},
		 {3, 14},
		 {3, 13},
		 {3, 12},
		 {3, 11},
		 {3, 10},
		 {3, 8}},
		{{0, 16}, {0, 8}, {1, 3}, {1, 2}},
		{{0, 16}, {0, 2}, {0, 1}, {1, 1}},
		{{0, 100}, {0, 70}, {0, 3}, {1, 1}},
		{{0, 200}, {0, 64}, {0, 2}},
	};
	uint8_t which = byte(in) % 6;
	if (which == 5) {
		config->table_len = byte(in) + 1u;
		for (uint32_t i = 0; i < config->table_len && in->left && i < ZC_TABLE; i++) {
			config->table[i].order = byte(in) & 15;
			config->table[i].slots = byte(in) + 1u;
		}
		return;
	}
	for (uint32_t i = 0; i < 16 && tables[which][i][1]; i++) {
		config->table[i].order = tables[which][i][0];
		config->table[i].slots = tables[which][i][1];
		config->table_len = i + 1;
	}
}

static const char *choose(struct input *in, struct zc_config *config)
{
	static const char *const names[] = {"ztree", "zbud", "z3fold", "zsmalloc", "zblock"};
	static const uint32_t zsmallocs[] = {61, 612, 72}, zblocks[] = {1, 2022, 2025};
	uint8_t kind = byte(in) % 5, more = byte(in), rules = byte(in);
	*config = (struct zc_config){
		.page_bytes = 4096u << (more & 3),
		.long_bytes = more & 4 ? 4 : 8,
		.max_index = more & 8 ? 3 : 0,
		.cpus = 1 + (more >> 4 & 3),
		.deferred = more >> 6 & 1,
		.variant = kind == 4 ? zblocks[rules % 3] : zsmallocs[rules % 3],
		.chain_size = 4 + (rules >> 4),
		.chain_rule = rules % 2,
		.chain_saving = more >> 4,
		.class_step = more & 2 ? 0 : 8u * (1 + (rules & 15)) << (more & 3),
	};
	choose_table(in, config);
	return names[kind];
}

static void look_at(struct zc_pool *pool)
{
	int64_t *figures = malloc(zc_stats(pool, NULL) * sizeof(*figures));
	if (figures)
		zc_stats(pool, figures);
	free(figures);
}

/* -- calls of one pool ---------------------------------------------------------------------- */

enum { KNOWN = 256, DEPTH = 3 };

struct calls {
	struct input *in;
	struct zc_pool *pool;
	uint64_t handles[KNOWN], tickets[8];
	uint32_t tickets_len;
	int depth;
};

static void one_call(struct calls *c);

static int evict(void *context, uint64_t handle)
{
	struct calls *c = context;
	uint8_t how = byte(c->in);
	c->depth++;
	for (uint8_t i = how >> 6; i && c->in->left && c->depth < DEPTH; i--)
		one_call(c);
	c->depth--;
	if (how & 1)
		zc_use(c->pool, handle, how & 4);
	if (how & 2)
		zc_free(c->pool, handle);
	return how & 8 ? -EEXIST : how & 16 ? ZC_ABORTED : 0;
}

static void one_call(struct calls *c)
{
	struct input *in = c->in;
	uint8_t op = byte(in);
	uint64_t *slot = &c->handles[byte(in)];
	uint64_t handle = op & 128 ? number(in, 8) : *slot;
	struct zc_place place;
	int64_t ret, reclaimed;
	switch (op & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
		zc_malloc(c->pool, (int64_t)number(in, 2) - 2, slot);
		break;
	case 4:
		for (int i = 0; i < 30; i++)
			zc_malloc(c->pool, 1000 + op, &c->handles[(slot - c->handles + i) % KNOWN]);
		break;
	case 5:
	case 6:
		zc_free(c->pool, handle);
		break;
	case 7:
		for (int i = 0; i < 30; i += 2)
			zc_free(c->pool, c->handles[(slot - c->handles + i) % KNOWN]);
		break;
	case 8:
		zc_use(c->pool, handle, 1);
		break;
	case 9:
		zc_use(c->pool, handle, 0);
		break;
	case 10:
		zc_shrink(c->pool, op >> 4, evict, c, &ret, &reclaimed);
		break;
	case 11:
		if (c->tickets_len < 8 &&
		    !zc_begin(c->pool, (int64_t)number(in, 2), &c->tickets[c->tickets_len]))
			c->tickets_len++;
		break;
	case 12:
		if (c->tickets_len)
			zc_end(c->pool, c->tickets[--c->tickets_len], slot);
		break;
	case 13:
		zc_place(c->pool, handle, &place);
		look_at(c->pool);
		break;
	case 14:
		zc_set_cpu(c->pool, op >> 4);
		zc_run_deferred(c->pool, op >> 5);
		zc_compact_page(c->pool, op >> 4);
		break;
	default:
		zc_compact(c->pool);
	}
}

static void fuzz_pool(struct input *in)
{
	struct zc_config config;
	const char *name = choose(in, &config);
	int error;
	struct calls calls = {.in = in, .pool = zc_create(name, &config, &error)};
	if (!calls.pool)
		return;
	while (in->left)
		one_call(&calls);
	look_at(calls.pool);
	zc_destroy(calls.pool);
}

/* -- batches -------------------------------------------------------------------------------- */

enum { ROWS = 64 };

static void fuzz_player(struct input *in)
{
	static const int64_t moments[] = {-5, 0, 10, 100, 100, 1000, 100000, INT64_MAX};
	struct zc_config config;
	const char *name = choose(in, &config);
	struct zp_options options = {.page_bytes = config.page_bytes, .patience_rows = 20};
	uint8_t flags = byte(in);
	for (int code = 0; code < 12; code++)
		options.kind_of[code] = code % ZP_KINDS;
	for (int pool = 0; pool < ZP_POOLS; pool++) {
		options.compared[pool] = pool != 1;
		options.compacts[pool] = pool != 2;
		options.more_bytes[pool] = pool == 1 ? 8 : pool == 2 ? -100 : 0;
	}
	options.handles_tell = flags & 1;
	options.whole = flags & 2;
	options.surveyed = flags & 4;
	options.recorded = config;
	options.recorded.by_ref = flags & 1;
	if (flags & 8) {
		options.moments = moments;
		options.moments_len = sizeof(moments) / sizeof(*moments);
	}
	struct player *p = zp_create(name, &config, &options);
	if (!p)
		return;
	uint64_t first_row = 0;
	while (in->left) {
		uint64_t rows = byte(in) % (ROWS + 1), spans[4];
		/* Exactly as large as they must be, so that a step beyond is seen. */
		int8_t *op = malloc(rows);
		uint8_t *pool = malloc(rows), *bitmap = NULL;
		uint32_t *size = malloc(rows * 4), *tid = malloc(rows * 4), *dur = malloc(rows * 4);
		uint64_t *handle = malloc(rows * 8), *total = malloc(rows * 8);
		uint64_t *place = malloc(rows * 8);
		int64_t *ts = malloc(rows * 8);
		int32_t *ret = malloc(rows * 4);
		uint16_t *cpu = malloc(rows * 2);
		if (flags & 16) { /* some null, in columns that begin at bit 3 */
			bitmap = malloc((rows + 10) / 8);
			memset(bitmap, 0xEF, (rows + 10) / 8);
		}
		for (uint64_t row = 0; row < rows; row++) {
			uint8_t how = byte(in);
			op[row] = (int8_t)(how & 15);
			if (how == 0xFF)
				op[row] = -1;
			handle[row] = how & 16 ? number(in, 8) : byte(in) & 15;
			size[row] = how & 32 ? number(in, 4) : 1 + byte(in) * 16u;
			pool[row] = how & 64 ? byte(in) : 0;
			ts[row] = how & 128 ? (int64_t)number(in, 8) : (int64_t)(first_row + row);
			dur[row] = byte(in);
			ret[row] = how & 64 ? (int32_t)number(in, 4) : 0;
			total[row] = byte(in) * 4096u;
			tid[row] = how & 1;
			cpu[row] = how & 128 ? (uint16_t)number(in, 2) : how & 3;
			place[row] = how & 16 ? number(in, 8) : (dur[row] & 7) * 4096u;
		}
		for (int i = 0; i < 4; i++)
			spans[i] = byte(in) % (ROWS + 1);
		struct zp_columns columns = {.rows = rows,
					     .first_row = first_row,
					     .op = op,
					     .pool = pool,
					     .size = flags & 32 ? NULL : size,
					     .handle = flags & 64 ? NULL : handle,
					     .ret = ret,
					     .ts_ns = ts,
					     .dur_ns = dur,
					     .total = flags & 128 ? NULL : total,
					     .tid = tid,
					     .cpu = cpu,
					     .place = flags & 2 ? NULL : place,
					     .size_valid = bitmap,
					     .handle_valid = bitmap,
					     .total_valid = bitmap,
					     .place_valid = bitmap,
					     .size_at = 3,
					     .handle_at = 3,
					     .total_at = 3,
					     .place_at = 3,
					     .spans = spans,
					     .spans_len = options.surveyed ? byte(in) % 3 : 0};
		int code = zp_feed(p, &columns);
		first_row += rows;
		free(op), free(pool), free(size), free(tid), free(dur), free(handle), free(total);
		free(place), free(ts), free(ret), free(cpu), free(bitmap);
		if (code || !rows)
			break;
	}
	zp_finish(p, INT64_C(1) << 40);
	zp_destroy(p);
}

/* -- validation ----------------------------------------------------------------------------- */

/* Few, since orders of calls that overlap are tried one by one. */
enum { CALLS = 12 };

static struct zv_call any_call(struct input *in, int64_t *now, int64_t row)
{
	uint8_t when = byte(in), what = byte(in), which = byte(in);
	*now += when & 7;
	struct zv_call call = {.ts = *now,
			       .end = *now + (when >> 3 & 7) * 3,
			       .kind = (int8_t)(what & 7),
			       .block = which >> 4,
			       .slot = (int8_t)(which & 15),
			       .row = row,
			       .cpu = what >> 3 & 3,
			       .tid = what >> 5 & 3,
			       .size = 100};
	if (what & 128 && byte(in) == 0) { /* one that no trace can hold */
		call.end = (int64_t)number(in, 8);
		call.block = (int64_t)number(in, 8);
		call.kind = (int8_t)byte(in);
		call.slot = (int8_t)byte(in);
	}
	return call;
}

/* Read all that was found, so that what is not there is seen. */
static int64_t read_found(const struct zv_found *found)
{
	int64_t sum = (int64_t)found->tally.calls;
	for (uint64_t i = 0; i < found->order_len; i++)
		sum ^= found->at_ns[i] ^ found->row[i] ^ found->step[i];
	uint64_t steps = 0;
	for (uint64_t i = 0; i < found->races_len; i++)
		steps = found->race_ends[i];
	for (uint64_t i = 0; i < steps; i++)
		sum ^= found->race_calls[i].row ^ found->race_steps[i];
	for (uint64_t i = 0; i < found->failures_len; i++) {
		const struct zv_failure *failure = &found->failures[i];
		for (uint64_t k = 0; k < failure->around_len; k++)
			sum ^= found->around[failure->around + k].row;
	}
	return sum;
}

static void fuzz_checker(struct input *in)
{
	static volatile int64_t seen;
	uint8_t flags = byte(in);
	struct zv_tree *tree = zv_create(1 + (flags & 15), flags & 16 ? 7 : UINT64_C(1) << 40,
					 flags & 32, flags & 64);
	if (!tree)
		return;
	int64_t now = 0, row = 0;
	int code = 0;
	while (in->left && !code) {
		uint64_t count = byte(in) % (CALLS + 1), done;
		struct zv_call *calls = malloc(count * sizeof(*calls));
		for (uint64_t i = 0; i < count; i++)
			calls[i] = any_call(in, &now, row++);
		int64_t limit = flags & 128 ? INT64_MAX : now - (byte(in) & 15);
		code = zv_check(tree, calls, count, limit, &done);
		free(calls);
		if (!code)
			seen = read_found(zv_found_of(tree));
	}
	if (!zv_finish(tree))
		seen = read_found(zv_found_of(tree));
	zv_destroy(tree);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	switch (byte(&in) % 3) {
	case 0:
		fuzz_pool(&in);
		break;
	case 1:
		fuzz_player(&in);
		break;
	default:
		fuzz_checker(&in);
	}
	return 0;
}
