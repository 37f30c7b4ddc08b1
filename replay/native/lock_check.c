/* SPDX-License-Identifier: GPL-2.0-only */
/* LockReplay of replay/validate/lock_order.py in C, whose names and comments hold here too. */
#include "lock_check.h"

#include "counter.h"
#include "zsmalloc/zsmalloc.h"

#include <stdlib.h>

struct zv_locks {
	struct zv_escape escape;
	struct zsmalloc *model;
	struct zv_counter counter;
	struct zc_map lives; /* recorded handle -> the model's */
	struct zc_map zspages; /* by the kernel's address */
	struct zc_map gone; /* given back; by the address it had */
	VECTOR(uint64_t) addresses; /* by the zspage's id */
	int64_t *full_until; /* by class: when it last had no room */
	int64_t now, row, compacting;
	struct zv_lock_tally tally;
};

static struct zspage *zspage_at(const struct zc_map *map, uint64_t address)
{
	return (struct zspage *)(uintptr_t)zc_map_get(map, address);
}

static void bind(struct zv_locks *locks, struct zspage *zspage, uint64_t address)
{
	zv_put_key(&locks->escape, &locks->zspages, address, (uintptr_t)zspage);
	while (locks->addresses.len <= zspage->id)
		*PUSH(&locks->escape, locks->addresses) = 0;
	locks->addresses.at[zspage->id] = address;
}

static struct zv_moment changed(const struct zv_lock_call *call, int64_t pages)
{
	return (struct zv_moment){call->now, call->end, call->row, pages};
}

/* Note what the class was like until now. */
static void meet(struct zv_locks *locks, const struct class *class, int64_t now)
{
	if (!zs_choose(locks->model, class))
		locks->full_until[class - locks->model->classes] = now;
}

/* Whether a malloc failed; compares errors that the size decides. */
static bool refused(struct zv_locks *locks, const struct zv_lock_call *call)
{
	int expected = zs_refuses(locks->model, call->size);
	if (call->ret == -ENOMEM && !expected)
		return true; /* no page was to be had */
	if (!call->ret && !expected)
		return false;
	locks->tally.errors++;
	locks->tally.differs |= call->ret != expected;
	return true;
}

static void play_malloc(struct zv_locks *locks, const struct zv_lock_call *call)
{
	struct zsmalloc *model = locks->model;
	struct zv_escape *escape = &locks->escape;
	struct class *class = zs_class_of(model, call->size);
	int64_t *full_until = &locks->full_until[class - model->classes];
	meet(locks, class, call->now);
	struct zspage *chosen = zs_choose(model, class);
	struct zspage *known = zspage_at(&locks->zspages, call->address);
	struct zspage *gone = zspage_at(&locks->gone, call->address);
	/* Whether it may have used a zspage again that could not be given back. */
	bool again = gone && !chosen && gone->free == class->slots &&
		     gone->class == model->class_of[call->size] && gone->next_free == call->slot;
	bool sure = again && locks->counter.kept >= class->pages;
	bool fresh = !known && !call->slot && !sure;
	struct zspage *from = NULL;
	if (known && chosen == known && chosen->next_free == call->slot) {
		from = known;
	} else if (fresh && (!chosen || *full_until >= call->ts)) {
		locks->tally.added_beside_room += chosen != NULL;
		zv_counter_change(escape, &locks->counter, changed(call, class->pages));
	} else if (again) {
		from = gone;
		zs_keep(model, gone);
		zv_counter_revive(escape, &locks->counter, changed(call, class->pages));
		locks->tally.put_off++;
	} else {
		locks->tally.differs = 1;
		return;
	}
	uint64_t given;
	int code = zs_malloc_from(model, from, call->size, &given);
	if (code)
		zv_give_up(escape, code);
	zv_put_key(escape, &locks->lives, call->handle, given);
	if (from != known || !known) {
		if (gone && gone != from)
			zs_discard(model, gone);
		zc_map_take(&locks->gone, call->address);
		bind(locks, zs_holder(model, given), call->address);
	}
	locks->tally.places++;
}

static void play_free(struct zv_locks *locks, const struct zv_lock_call *call)
{
	struct zsmalloc *model = locks->model;
	uint64_t given = zc_map_take(&locks->lives, call->handle);
	if (!given) {
		locks->tally.unknown++;
		return;
	}
	struct class *class = &model->classes[zs_holder(model, given)->class];
	meet(locks, class, call->now);
	model->emptied = NULL;
	model->base.backend->free(&model->base, given);
	struct zspage *emptied = model->emptied;
	if (!emptied)
		return;
	uint64_t address = locks->addresses.at[emptied->id];
	zv_put_key(&locks->escape, &locks->gone, address, (uintptr_t)emptied);
	zc_map_take(&locks->zspages, address);
	zv_counter_change(&locks->escape, &locks->counter, changed(call, -(int64_t)class->pages));
}

/* Zspages by address anew, after a compaction has moved objects and given zspages back. */
static void bind_again(struct zv_locks *locks)
{
	zv_empty(&locks->escape, &locks->zspages);
	for (uint64_t at = 0; at < (locks->lives.mask + 1) * ZC_BUCKET; at++) {
		uint64_t given = locks->lives.slots[at].value;
		if (!given)
			continue;
		struct zspage *zspage = zs_holder(locks->model, given);
		bind(locks, zspage, locks->addresses.at[zspage->id]);
	}
}

/* A compaction of the whole pool, which takes the classes' locks one by one. */
static void play_compact(struct zv_locks *locks, const struct zv_lock_call *call)
{
	struct zsmalloc *model = locks->model;
	int64_t before = (int64_t)model->pages;
	locks->tally.compactions++;
	locks->compacting = call->end;
	model->base.backend->compact(&model->base);
	zv_counter_change(&locks->escape, &locks->counter,
			  (struct zv_moment){call->ts, call->end, call->row,
					     (int64_t)model->pages - before});
	bind_again(locks);
}

static void play(struct zv_locks *locks, const struct zv_lock_call *call)
{
	struct zv_lock_tally *tally = &locks->tally;
	zv_counter_advance(&locks->counter, call->now);
	tally->differs |= locks->counter.differs;
	if (call->kind == ZV_LOCK_MALLOC && refused(locks, call))
		return;
	tally->moved += call->row < locks->row;
	tally->ties += call->now == locks->now;
	tally->beside |= call->now <= locks->compacting;
	locks->row = call->row > locks->row ? call->row : locks->row;
	locks->now = call->now;
	if (call->kind == ZV_LOCK_COMPACT)
		play_compact(locks, call);
	else if (call->kind == ZV_LOCK_FREE)
		play_free(locks, call);
	else if (zc_map_get(&locks->lives, call->handle))
		tally->differs = 1; /* given out again while it lives: a free is missing */
	else
		play_malloc(locks, call);
	if (call->pages >= 0)
		zv_counter_read(&locks->escape, &locks->counter, changed(call, call->pages));
}

static void note_sizes(struct zv_locks *locks)
{
	locks->tally.sizes = locks->counter.compared;
	locks->tally.sure_sizes = locks->counter.sure;
	locks->tally.differs |= locks->counter.differs;
}

int zv_locks_play(struct zv_locks *locks, const struct zv_lock_call *calls, uint64_t count)
{
	if (setjmp(locks->escape.jump))
		return locks->escape.code;
	for (uint64_t at = 0; at < count && !locks->tally.differs; at++)
		play(locks, &calls[at]);
	note_sizes(locks);
	return 0;
}

int zv_locks_finish(struct zv_locks *locks)
{
	zv_counter_advance(&locks->counter, INT64_MAX);
	note_sizes(locks);
	return 0;
}

const struct zv_lock_tally *zv_locks_tally(const struct zv_locks *locks)
{
	return &locks->tally;
}

void zv_locks_destroy(struct zv_locks *locks)
{
	if (locks->model)
		locks->model->base.backend->destroy(&locks->model->base);
	zv_counter_clear(&locks->counter);
	zc_map_clear(&locks->lives);
	zc_map_clear(&locks->zspages);
	zc_map_clear(&locks->gone);
	free(locks->addresses.at);
	free(locks->full_until);
	free(locks);
}

struct zv_locks *zv_locks_create(const struct zc_config *config)
{
	struct zv_locks *locks = calloc(1, sizeof(*locks));
	if (!locks)
		return NULL;
	const struct zc_backend *backend = zc_backend_named("zsmalloc");
	struct zc_config by_handle = *config;
	struct zc_pool *pool = NULL;
	by_handle.by_ref = 0; /* so that it can be compacted */
	locks->now = locks->row = locks->compacting = -1;
	if (zc_map_init(&locks->lives) || zc_map_init(&locks->zspages) ||
	    zc_map_init(&locks->gone) || backend->create(&by_handle, &pool)) {
		zv_locks_destroy(locks);
		return NULL;
	}
	locks->model = (struct zsmalloc *)pool;
	locks->model->keeps = true;
	locks->full_until = malloc(locks->model->classes_len * sizeof(*locks->full_until));
	if (!locks->full_until) {
		zv_locks_destroy(locks);
		return NULL;
	}
	for (uint32_t i = 0; i < locks->model->classes_len; i++)
		locks->full_until[i] = -1;
	return locks;
}
