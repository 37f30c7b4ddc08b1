// SPDX-License-Identifier: GPL-2.0-only
/*
 * The core as a module of the running kernel. It plays as it is loaded and then refuses to be
 * loaded, so that there is never anything to remove: -ECANCELED means that it has finished.
 */

#include <linux/err.h>
#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "play.h"

static char *allocator, *plan, *answers;
module_param(allocator, charp, 0);
module_param(plan, charp, 0);
module_param(answers, charp, 0);

struct ztrace_file {
	struct file *file;
	loff_t at;
};

static struct ztrace_file *open_file(const char *path, int flags)
{
	struct ztrace_file *made = kzalloc(sizeof(*made), GFP_KERNEL);

	if (!made)
		return ERR_PTR(-ENOMEM);
	made->file = filp_open(path, flags, 0600);
	if (IS_ERR(made->file)) {
		const long failed = PTR_ERR(made->file);

		kfree(made);
		return ERR_PTR(failed);
	}
	return made;
}

struct ztrace_file *ztrace_create(const char *path)
{
	return open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
}

int ztrace_put(struct ztrace_file *file, const void *data, size_t bytes)
{
	while (bytes) {
		const ssize_t n = kernel_write(file->file, data, min_t(size_t, bytes, 1 << 20),
					       &file->at);

		if (n <= 0)
			return n ?: -EIO;
		data += n;
		bytes -= n;
		cond_resched();
	}
	return 0;
}

int ztrace_close(struct ztrace_file *file)
{
	const int failed = filp_close(file->file, NULL);

	kfree(file);
	return failed;
}

int ztrace_load(const char *path, void **data, size_t *bytes)
{
	struct ztrace_file *file = open_file(path, O_RDONLY);
	ssize_t n = 0;
	size_t size;

	if (IS_ERR(file))
		return PTR_ERR(file);
	size = i_size_read(file_inode(file->file));
	*data = vmalloc(size);
	*bytes = size;
	if (!*data)
		n = -ENOMEM;
	while (n >= 0 && file->at < size) {
		n = kernel_read(file->file, *data + file->at,
				min_t(size_t, size - file->at, 1 << 20), &file->at);
		if (!n)
			n = -EIO;
	}
	ztrace_close(file);
	if (n < 0) {
		vfree(*data);
		*data = NULL;
		return n;
	}
	return 0;
}

u64 ztrace_now_ns(void)
{
	return ktime_get_ns();
}

/* Others take and give pages here all the time: what this pool took cannot be told from it. */
u64 ztrace_free_pages(void)
{
	return 0;
}

bool ztrace_interrupted(void)
{
	return signal_pending(current);
}

void ztrace_yield(void)
{
	cond_resched();
}

/* The machine's ticks are the machine's. */
void ztrace_ticks(bool on)
{
}

static int __init ztrace_run(void)
{
	int failed;

	if (!allocator || !plan || !answers)
		return -EINVAL;
	failed = ztrace_source_begin();
	if (failed)
		return failed;
	failed = ztrace_main(allocator, plan, answers);
	ztrace_source_end();
	return failed ?: -ECANCELED;
}
module_init(ztrace_run);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("plays calls into an allocator of compressed pages and times them");
