// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which blocks of an allocator's code were run. Where it is compiled with -fsanitize-coverage=trace-pc,
 * each block begins with a call of the function below, which notes whence it was called. The
 * addresses are written when all is played, and stand for lines of the source outside.
 */

#include <linux/err.h>
#include <linux/module.h>

#include "play.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "ztrace."

static char *reached;
module_param(reached, charp, 0);

/* A table of addresses, open; no allocator has a quarter of so many blocks. */
#define ROOM_BITS 15
static u64 seen[1 << ROOM_BITS];

void __sanitizer_cov_trace_pc(void);

void notrace __sanitizer_cov_trace_pc(void)
{
	const u64 at = (unsigned long)__builtin_return_address(0);
	u32 i = at * 0x9e3779b97f4a7c15ULL >> (64 - ROOM_BITS);

	while (seen[i] != at) {
		if (!seen[i]) {
			seen[i] = at;
			return;
		}
		i = (i + 1) % (1 << ROOM_BITS);
	}
}

void ztrace_write_reached(void)
{
	struct ztrace_file *file = reached ? ztrace_create(reached) : NULL;

	if (IS_ERR_OR_NULL(file))
		return;
	if (ztrace_put(file, seen, sizeof(seen)) || ztrace_close(file))
		pr_err("ztrace: error cannot write what was reached\n");
}
