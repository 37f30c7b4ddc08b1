/* SPDX-License-Identifier: GPL-2.0-only */
/* z3fold, whose source is named by ZTRACE_SOURCE: what this file needs around it. */

#include <linux/bug.h>

#ifndef CONFIG_SMP
/*
 * A kernel for one CPU has no locks to look at: spin_trylock() always succeeds. z3fold checks by it
 * that a page is locked as one is freed, and would warn, with a stack trace, in every second free.
 */
#undef WARN_ON
#define WARN_ON(condition) ({ const bool met = (condition); unlikely(met); })
#endif

#ifndef PAGE_MAPPING_MOVABLE
/*
 * From 6.17 on a page is marked as movable by its type, and z3fold's have none. Nothing moves pages
 * where it is played.
 */
#define __SetPageMovable(page, operations) ((void)(operations))
#define __ClearPageMovable(page) ((void)(page))
#define PageMovable(page) ((void)(page), true)
#define PageIsolated(page) ((void)(page), false)
#endif

#include ZTRACE_SOURCE

#define ZTRACE_IS_COMPACTION(work) ((work)->func == compact_page_work)

/* An eviction is asked for by handles that are made for it. */
#define ZTRACE_EVICTS_BY_OTHER_HANDLES true
