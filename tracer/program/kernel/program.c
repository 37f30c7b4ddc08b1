// SPDX-License-Identifier: GPL-2.0-only
/*
 * The core inside a kernel that is a program (ARCH=um): files are the host's, opened by the kernel
 * itself, so that there is neither a root file system nor a user's process.
 */

#include <linux/err.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/panic_notifier.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/vmstat.h>

#include <os.h>

#include "play.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "ztrace."

static char *allocator, *plan, *answers;
module_param(allocator, charp, 0);
module_param(plan, charp, 0);
module_param(answers, charp, 0);

/*
 * The host's system calls do not see a vmalloc area before this kernel has touched it, so
 * everything goes through one piece of ordinary memory.
 */
#define PIECE_BYTES (64 << 10)

struct ztrace_file {
	int fd;
	void *piece;
};

static struct ztrace_file *open_file(const char *path, struct openflags flags)
{
	struct ztrace_file *file = kmalloc(sizeof(*file), GFP_KERNEL);

	if (!file)
		return ERR_PTR(-ENOMEM);
	file->piece = kmalloc(PIECE_BYTES, GFP_KERNEL);
	file->fd = file->piece ? os_open_file(path, flags, 0600) : -ENOMEM;
	if (file->fd < 0) {
		const int failed = file->fd;

		kfree(file->piece);
		kfree(file);
		return ERR_PTR(failed);
	}
	return file;
}

struct ztrace_file *ztrace_create(const char *path)
{
	return open_file(path, of_trunc(of_create(of_write(OPENFLAGS()))));
}

int ztrace_put(struct ztrace_file *file, const void *data, size_t bytes)
{
	while (bytes) {
		const size_t part = min_t(size_t, bytes, PIECE_BYTES);
		size_t done = 0;

		memcpy(file->piece, data, part);
		while (done < part) {
			const int n = os_write_file(file->fd, file->piece + done, part - done);

			if (n <= 0)
				return n ?: -EIO;
			done += n;
		}
		data += part;
		bytes -= part;
	}
	return 0;
}

int ztrace_close(struct ztrace_file *file)
{
	os_close_file(file->fd);
	kfree(file->piece);
	kfree(file);
	return 0;
}

int ztrace_load(const char *path, void **data, size_t *bytes)
{
	struct ztrace_file *file;
	unsigned long long size;
	size_t at = 0;
	int n = os_file_size(path, &size);

	if (n < 0)
		return n;
	*data = vmalloc(size);
	if (!*data)
		return -ENOMEM;
	file = open_file(path, of_read(OPENFLAGS()));
	n = PTR_ERR_OR_ZERO(file);
	while (!n && at < size) {
		n = os_read_file(file->fd, file->piece, min_t(size_t, size - at, PIECE_BYTES));
		if (n <= 0) {
			n = n ?: -EIO;
			break;
		}
		memcpy(*data + at, file->piece, n);
		at += n;
		n = 0;
	}
	if (!IS_ERR(file))
		ztrace_close(file);
	if (n) {
		vfree(*data);
		*data = NULL;
	}
	*bytes = size;
	return n;
}

u64 ztrace_now_ns(void)
{
	return os_nsecs();
}

/* Free pages: those of the zones and those that CPUs keep at hand. */
u64 ztrace_free_pages(void)
{
	struct zone *zone;
	u64 pages = 0;
	int cpu;

	for_each_populated_zone(zone) {
		pages += zone_page_state_snapshot(zone, NR_FREE_PAGES);
		for_each_online_cpu(cpu)
			pages += per_cpu_ptr(zone->per_cpu_pageset, cpu)->count;
	}
	return pages;
}

/* It is a process: who wants it to stop kills it. */
bool ztrace_interrupted(void)
{
	return false;
}

/* Of the C library, with which a kernel that is a program is linked. */
extern int sched_yield(void);

void ztrace_yield(void)
{
	sched_yield();
}

typedef void (*disable_one)(int);
typedef void (*disable_all)(void);

/*
 * A tick is a signal of the host. One thread alone needs none while it plays, nor afterwards:
 * what follows waits for nothing but the host.
 */
void ztrace_ticks(bool on)
{
#ifndef CONFIG_SMP
	if (on)
		return;
	/* From 6.19 on it is told a CPU. */
	if (ZTRACE_TAKES(os_timer_disable, disable_one))
		ZTRACE_AS(os_timer_disable, disable_one)(0);
	else
		ZTRACE_AS(os_timer_disable, disable_all)();
#endif
}

static int on_panic(struct notifier_block *block, unsigned long event, void *said)
{
	ztrace_dies(said);
	return NOTIFY_DONE;
}

/* Before that of the architecture, which ends the program. */
static struct notifier_block panic_block = { .notifier_call = on_panic, .priority = INT_MAX };

/* reached.c, where the allocators were compiled for it. */
void __weak ztrace_write_reached(void)
{
}

static int __init run(void)
{
	atomic_notifier_chain_register(&panic_notifier_list, &panic_block);
	if (!allocator || !plan || !answers)
		pr_err("ztrace: error no allocator, plan or answers named\n");
	else
		ztrace_main(allocator, plan, answers);
	ztrace_write_reached();
	kernel_power_off();
	return 0;
}
late_initcall_sync(run);
