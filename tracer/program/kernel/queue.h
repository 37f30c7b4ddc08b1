/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Work that an allocator queues (z3fold: compaction of a page, release of pages) runs when the
 * player says, in the order in which it was queued, as a single-threaded workqueue would run it.
 * So a history is the same in each round, and what ran is known. Not where CPUs are several: there
 * the kernel's own workqueues run it.
 */
#ifndef ZTRACE_QUEUE_H
#define ZTRACE_QUEUE_H

#include <linux/workqueue.h>

#ifndef CONFIG_SMP

static LIST_HEAD(z_queue);

static inline bool z_queue_work(struct work_struct *work)
{
	if (test_and_set_bit(WORK_STRUCT_PENDING_BIT, work_data_bits(work)))
		return false;
	list_add_tail(&work->entry, &z_queue);
	return true;
}

#undef queue_work
#define queue_work(queue, work) z_queue_work(work)
#undef queue_work_on
#define queue_work_on(cpu, queue, work) z_queue_work(work)

#endif
#endif
