/* SPDX-License-Identifier: GPL-2.0-only */
/* What happens during a shrink. */
#ifndef ZTRACE_SHRINK_H
#define ZTRACE_SHRINK_H

#include "player.h"

/* Play the rows of a shrink, from the first inside it to its own, which is the last. */
int zp_play_shrink(struct player *p, uint64_t first, uint64_t last);

#endif
