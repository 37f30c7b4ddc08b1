/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Plays calls into one allocator. Compiled with each backend, so that between the two readings of
 * the clock lies what zpool does and nothing else: one call through the driver's table.
 *
 * A backend has defined: z_malloc z_free z_map z_unmap z_compact z_total z_place z_run_queue.
 */

static __always_inline void z_play(void *pool, struct ztrace_run *run, const bool placing)
{
	void *memory = NULL;
	u32 since = 0;
	u32 i;

	for (i = run->first; i < run->end; i++) {
		const struct ztrace_call call = run->calls[i];
		const enum ztrace_op op = call.what >> 24;
		const size_t bytes = call.what & 0xffffff;
		unsigned long handle = run->handles[call.object];
		u64 begin = 0, end = 0;
		int ret = 0;

		if (op == ZTRACE_MALLOC) {
			handle = 0;
			begin = ztrace_begin();
			ret = z_malloc(pool, bytes, &handle);
			end = ztrace_end();
			if (ret)
				handle = ZTRACE_NO_HANDLE;
			run->handles[call.object] = handle;
		} else if (op == ZTRACE_COMPACT) {
			begin = ztrace_begin();
			ret = z_compact(pool, run, i, placing);
			end = ztrace_end();
		} else if (handle == ZTRACE_NO_HANDLE) {
			ret = ZTRACE_NOT_LIVE;
		} else if (op == ZTRACE_FREE) {
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
		}
		run->cycles[i] = min_t(u64, end - begin, U32_MAX);
#ifdef ZTRACE_QUEUES
		/*
		 * The kernel's own worker does what the call has queued. It has done it before answers
		 * are noted: it takes this CPU as soon as it is left.
		 */
		if (placing && run->alone && op == ZTRACE_FREE)
			usleep_range(1000, 2000);
#endif
		if (placing) {
			run->begin[i] = begin;
			run->ret[i] = ret;
			run->handle[i] = handle;
			run->place[i] = ret ? 0 : z_place(pool, op, handle, memory);
			if (run->alone) {
				run->total[i] = z_total(pool);
				run->held[i] = ztrace_held_pages();
			}
		}
		z_run_queue(pool, run, i, placing, !run->deferred);
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

/* Never inlined: the two loops are alike but for what is noted between calls. */
static noinline void z_place_run(void *pool, struct ztrace_run *run)
{
	z_play(pool, run, true);
}

static noinline void z_time_run(void *pool, struct ztrace_run *run)
{
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
