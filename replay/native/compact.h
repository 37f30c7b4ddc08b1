/* SPDX-License-Identifier: GPL-2.0-only */
/* Compactions and the CPUs of calls: replay/play/compaction.py in C. */
#ifndef ZTRACE_COMPACT_H
#define ZTRACE_COMPACT_H

#include "player.h"

/* The CPU of the calls that follow; one that the model has not is left out. */
void zp_on_cpu(struct player *p, struct run *run, uint64_t row, enum zp_kind kind);
/* Note where the kernel has the page of an object that it mapped. */
int zp_note_page(struct player *p, struct run *run, uint64_t row);
/* zsmalloc compacts its pool; z3fold a page, unless it was at once, which the model knows. */
void zp_play_compact(struct player *p, struct run *run, uint64_t row);

#endif
