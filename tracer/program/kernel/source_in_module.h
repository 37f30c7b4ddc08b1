/* SPDX-License-Identifier: GPL-2.0-only */
/* An allocator's source as part of a module that has a beginning of its own: box.c. */

#include <linux/init.h>
#include <linux/module.h>

#include "play.h"

/* What it does at its beginning and end is called as plain functions. */
#undef __init
#define __init
#undef __exit
#define __exit
#undef module_init
#define module_init(begin) int ztrace_source_begin(void) { return begin(); }
#undef module_exit
#define module_exit(end) void ztrace_source_end(void) { end(); }
