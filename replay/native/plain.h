/* SPDX-License-Identifier: GPL-2.0-only */
/* Rows one after the other, fast. */
#ifndef ZTRACE_PLAIN_H
#define ZTRACE_PLAIN_H

#include "player.h"

/* Play rows up to ``stop_at``. */
int zp_play(struct player *p, uint64_t row, uint64_t stop_at);

#endif
