/* SPDX-License-Identifier: GPL-2.0-only */
/* Any row of a trace on its model. */
#ifndef ZTRACE_ROWS_H
#define ZTRACE_ROWS_H

#include "player.h"

#include <stdio.h>

/* Play a row; ``hint``: where the entry of the object that it names may be. */
int zp_play_row(struct player *p, uint64_t row, uint32_t hint);
/* What follows any call that a model was driven with, or failed in. */
int zp_end_row(struct player *p, struct run *run, uint64_t row, enum zp_kind kind, int code);
/* What follows the model's answer to a malloc: a code, or ``given``. */
int zp_note_malloc(struct player *p, struct run *run, int code, int64_t size, uint64_t handle,
		   uint64_t given, uint64_t number, int64_t end_ns);
/* The player ends at a row that cannot have happened. */
int zp_refuse_row(struct player *p, uint64_t row);

static inline bool tells(const struct player *p, const struct run *run)
{
	return run->compared && p->options.handles_tell;
}

static inline void compare_handle(struct run *run, int64_t size, uint64_t handle, uint64_t given,
				  uint64_t number)
{
	struct zp_agreement *handles = &run->result.handles;
	handles->compared++;
	if (given == handle)
		handles->equal++;
	else if (!*handles->first)
		snprintf(handles->first, ZP_FIRST,
			 "row %" PRIu64 ": malloc(%" PRId64 ") gave 0x%" PRIx64
			 ", model: 0x%" PRIx64,
			 number, size, handle, given);
}

#endif
