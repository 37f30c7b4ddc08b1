/* SPDX-License-Identifier: GPL-2.0-only */
/* A batch is looked over before it is played: counted, and its pools met. */
#ifndef ZTRACE_SURVEY_H
#define ZTRACE_SURVEY_H

#include "player.h"

/* Look over rows before they are played: count, meet new pools. Sets the last row wanted. */
int zp_survey(struct player *p, uint64_t row, uint64_t stop_at, int64_t *last_wanted);
/* The first row that cannot have happened, or ``stop_at``. */
uint64_t zp_find_impossible(const struct player *p, uint64_t row, uint64_t stop_at);

#endif
