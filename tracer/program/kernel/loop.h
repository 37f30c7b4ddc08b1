/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Plays calls into one allocator. Compiled with each backend, so that between the two readings of
 * the clock lies what zpool does and nothing else: one call through the driver's table.
 *
 * A backend has defined: z_malloc z_free z_map z_unmap z_compact z_shrink z_is z_total z_place
 * z_run_queue, and Z_MAPS: whether a map to write gives memory.
 */

/* What is noted of a call beside its time. */
static __always_inline void z_note(void *pool, struct ztrace_run *run, u32 i, u64 begin, int ret,
				   unsigned long handle, u64 place)
{
	run->begin[i] = begin;
	run->ret[i] = ret;
	run->handle[i] = handle;
	run->place[i] = place;
	if (run->alone) {
		run->total[i] = z_total(pool);
		run->held[i] = ztrace_held_pages();
	}
}

/*
 * A shrink evicts by calling back (z_evicted), and what the plan has of that eviction is played
 * there. Its own time is without that. As "handle" it has how many of the plan's calls were made
 * while it ran, as "place" its cycles with these; the rest of them is played after it.
 */
static noinline void z_play_shrink(void *pool, struct ztrace_run *run, u32 i)
{
	const struct ztrace_call call = run->calls[i];
	u64 begin, end;
	int ret;

	run->away = 0;
	run->next = i + 1;
	run->nested_end = i + 1 + call.object;
	begin = ztrace_begin();
	ret = z_shrink(pool, run, call.what & 0xffffff);
	end = ztrace_end();
	run->cycles[i] = min_t(u64, end - begin - run->away, U32_MAX);
	if (run->placing)
		z_note(pool, run, i, begin, ret, run->next - i - 1, end - begin);
	z_run_queue(pool, run, i, run->placing, !run->deferred);
}

/* A malloc that gets no page from the page allocator; it may not need one. */
static noinline void z_play_no_page(void *pool, struct ztrace_run *run, u32 i)
{
	const struct ztrace_call call = run->calls[i];
	unsigned long handle = 0;
	int ret = ZTRACE_CANNOT;
	u64 begin, end;

	begin = ztrace_begin();
	if (z_refuse_pages(true))
		ret = z_malloc(pool, call.what & 0xffffff, &handle);
	z_refuse_pages(false);
	end = ztrace_end();
	if (ret)
		handle = ZTRACE_NO_HANDLE;
	run->handles[call.object] = handle;
	run->cycles[i] = min_t(u64, end - begin, U32_MAX);
	if (run->placing)
		z_note(pool, run, i, begin, ret, handle,
		       ret ? 0 : z_place(pool, ZTRACE_MALLOC, handle, NULL));
	z_run_queue(pool, run, i, run->placing, !run->deferred);
}

static __always_inline void z_step(void *pool, struct ztrace_run *run, u32 i, const bool placing)
{
	const struct ztrace_call call = run->calls[i];
	const enum ztrace_op op = call.what >> 24;
	const size_t bytes = call.what & 0xffffff;
	void *memory = run->memory;
	unsigned long handle;
	u64 begin = 0, end = 0;
	int ret = 0;

	run->at = i;
	if (unlikely(op == ZTRACE_SHRINK)) {
		z_play_shrink(pool, run, i);
		return;
	}
	if (unlikely(op == ZTRACE_NO_PAGE)) {
		z_play_no_page(pool, run, i);
		return;
	}
	if (unlikely(op >= ZTRACE_COMPACT)) { /* of no object */
		handle = ZTRACE_NO_HANDLE;
		begin = ztrace_begin();
		ret = op == ZTRACE_COMPACT ? z_compact(pool, run, i, placing) : ZTRACE_NOT_ASKED;
		end = ztrace_end();
		goto out;
	}
	handle = run->handles[call.object];
	if (op == ZTRACE_MALLOC) {
		handle = 0;
		begin = ztrace_begin();
		ret = z_malloc(pool, bytes, &handle);
		end = ztrace_end();
		if (ret)
			handle = ZTRACE_NO_HANDLE;
		run->handles[call.object] = handle;
		if (placing && run->checking && !ret)
			ztrace_has(call.object, handle);
	} else if (handle == ZTRACE_NO_HANDLE) {
		ret = ZTRACE_NOT_LIVE;
	} else if (op == ZTRACE_FREE) {
		if (placing && run->checking)
			ztrace_gives_back(call.object, handle);
		run->handles[call.object] = ZTRACE_NO_HANDLE;
		begin = ztrace_begin();
		z_free(pool, handle);
		end = ztrace_end();
	} else if (op == ZTRACE_UNMAP) {
		begin = ztrace_begin();
		z_unmap(pool, handle, bytes, memory);
		end = ztrace_end();
	} else {
		begin = ztrace_begin();
		memory = z_map(pool, handle, op == ZTRACE_WRITE, bytes, run->scratch);
		end = ztrace_end();
		run->memory = memory;
		if (unlikely(!memory) && (op == ZTRACE_READ || Z_MAPS))
			ztrace_break("map returned NULL");
	}
	z_note_locks(run, i, begin, end);
out:
	run->cycles[i] = min_t(u64, end - begin, U32_MAX);
#ifdef ZTRACE_QUEUES
	/*
	 * The kernel's own worker does what the call has queued. It has done it before answers are
	 * noted: it takes this CPU as soon as it is left.
	 */
	if (placing && run->alone && op == ZTRACE_FREE)
		usleep_range(1000, 2000);
#endif
	if (placing)
		z_note(pool, run, i, begin, ret, handle,
		       ret ? 0 : z_place(pool, op, handle, memory));
	z_run_queue(pool, run, i, placing, !run->deferred);
}

static __always_inline void z_play(void *pool, struct ztrace_run *run, const bool placing)
{
	u32 since = 0;
	u32 i;

	for (i = run->first; i < run->end; i = max(i + 1, run->next)) {
		z_step(pool, run, i, placing);
		if (unlikely(READ_ONCE(ztrace_broken)))
			return;
		if (++since == 1 << 14) {
			if (ztrace_breathe(since))
				return;
			since = 0;
		}
	}
	/* What still waits runs before sizes are looked at for the last time. */
	if (run->end > run->first)
		z_run_queue(pool, run, run->end - 1, placing, true);
	ztrace_breathe(since);
}

/* A call that is made while a shrink runs. */
static noinline void z_nested(void *pool, struct ztrace_run *run, u32 i)
{
	if (run->placing)
		z_step(pool, run, i, true);
	else
		z_step(pool, run, i, false);
}

/*
 * The shrink under way asks for the eviction of an object: it goes as the plan says if the plan has
 * the same one next, and is refused if not, as are all that follow.
 */
static inline int z_evicted(void *pool, struct ztrace_run *run, unsigned long handle)
{
	const u64 begin = ztrace_begin();
	u32 at = run->next;
	int ret = -EEXIST;
	u64 end;

	while (at < run->nested_end && run->calls[at].what >> 24 != ZTRACE_EVICTED)
		at++;
	if (at < run->nested_end && z_is(pool, run->handles[run->calls[at].object], handle)) {
		handle = run->handles[run->calls[at].object];
		for (; run->next < at; run->next++)
			z_nested(pool, run, run->next);
		run->next = at + 1;
		ret = -(int)(run->calls[at].what & 0xffffff);
		end = ztrace_end();
		run->cycles[at] = min_t(u64, end - begin, U32_MAX);
		if (run->placing)
			z_note(pool, run, at, begin, ret, handle, 0);
	} else {
		run->nested_end = run->next;
		end = ztrace_end();
		if (run->placing)
			ztrace_note(ZTRACE_REFUSED, handle, begin, end, 0, run->next - 1);
	}
	run->away += ztrace_end() - begin;
	return ret;
}

/* Never inlined: the two loops are alike but for what is noted between calls. */
static noinline void z_place_run(void *pool, struct ztrace_run *run)
{
	z_watch(true);
	z_play(pool, run, true);
}

static noinline void z_time_run(void *pool, struct ztrace_run *run)
{
	z_watch(false);
	z_play(pool, run, false);
}

/* Some allocators give up a pool with what is in it, others lose the pages. */
static void z_release(void *pool, unsigned long *handles, u32 objects)
{
	const struct ztrace_run run = { .alone = true };
	u32 i;

	for (i = 0; i < objects; i++) {
		if (handles[i] == ZTRACE_NO_HANDLE)
			continue;
		z_free(pool, handles[i]);
		z_run_queue(pool, &run, 0, false, true);
	}
}
