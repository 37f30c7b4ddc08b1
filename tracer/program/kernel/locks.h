/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The locks of the allocator whose source follows, watched where CPUs are several: how long a call
 * waited for them, and when it let go of the last one, by which the calls that held it are put in
 * order. A lock that is free is taken as ever, by one atomic instruction. Locks of slab and of the
 * page allocator are not seen. In a crowd, where who holds a lock may not be running, the CPU is
 * given to others meanwhile, as guests do. And the errors that it prints, wherever it runs.
 */
#ifndef ZTRACE_LOCKS_H
#define ZTRACE_LOCKS_H

#include <linux/cache.h>
#include <linux/printk.h>
#include <linux/smp.h>
#include <linux/spinlock.h>

#include "play.h"

#if defined(CONFIG_SMP) && defined(CONFIG_UML)

/* Of the thread that plays on a CPU; it is alone there. */
struct z_locking {
	u64 waited; /* cycles, since it was asked for */
	u64 left; /* when it last let go of a spinlock; only while answers are noted */
} ____cacheline_aligned_in_smp;

static struct z_locking z_locking[NR_CPUS];
static bool z_watching;

#define Z_TAKES(lock_type, take, try_to_take)                                         \
	static __always_inline void z_##take(lock_type *lock)                         \
	{                                                                              \
		if (unlikely(!try_to_take(lock))) {                                    \
			const u64 begin = ztrace_begin();                              \
                                                                                       \
			if (READ_ONCE(ztrace_crowded))                                 \
				while (!try_to_take(lock))                             \
					ztrace_yield();                                \
			else                                                           \
				take(lock);                                            \
			z_locking[raw_smp_processor_id()].waited += ztrace_end() - begin; \
		}                                                                      \
	}

Z_TAKES(spinlock_t, spin_lock, spin_trylock)
Z_TAKES(rwlock_t, read_lock, read_trylock)
Z_TAKES(rwlock_t, write_lock, write_trylock)

static __always_inline void z_spin_unlock(spinlock_t *lock)
{
	if (unlikely(z_watching))
		z_locking[raw_smp_processor_id()].left = ztrace_end();
	spin_unlock(lock);
}

#undef spin_lock
#define spin_lock(lock) z_spin_lock(lock)
#undef spin_unlock
#define spin_unlock(lock) z_spin_unlock(lock)
#undef read_lock
#define read_lock(lock) z_read_lock(lock)
#undef write_lock
#define write_lock(lock) z_write_lock(lock)

static inline void z_watch(bool watching)
{
	WRITE_ONCE(z_watching, watching);
}

/* Of the call that has just been made, on this CPU. */
static __always_inline void z_note_locks(struct ztrace_run *run, u32 i, u64 begin, u64 end)
{
	struct z_locking *own = &z_locking[raw_smp_processor_id()];

	if (run->alone)
		return;
	run->waited[i] = min_t(u64, own->waited, U32_MAX);
	own->waited = 0;
	if (run->placing)
		run->lock[i] = own->left > begin && own->left < end ? own->left - begin : 0;
}

#else

static inline void z_watch(bool watching)
{
}

static __always_inline void z_note_locks(struct ztrace_run *run, u32 i, u64 begin, u64 end)
{
}

#endif

/* What the source says as an error is kept with the call in which it says so. */
#undef pr_err
#define pr_err(format, ...) ztrace_break(pr_fmt(format), ##__VA_ARGS__)

#endif
