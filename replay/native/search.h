/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All orders of a group of overlapping calls that give the recorded answers, depth first: the
 * search of replay/validate/search.py, whose comments hold here too. What calls do is a model's
 * business: struct zv_model.
 */
#ifndef ZTRACE_SEARCH_H
#define ZTRACE_SEARCH_H

#include "check.h"
#include "vector.h"

struct zv_search;

/* Of the number of steps that a call has made: all. */
enum { ZV_DONE = UINT8_MAX };

enum { ZV_NO_LOG = UINT32_MAX, ZV_MOST_STEPS = 3, ZV_ANY = 1 << 30 };

/* Steps that a call makes at once: ZV_RUN(step, step, ...). */
struct zv_run {
	uint8_t len, steps[ZV_MOST_STEPS];
};

/*
 * An allocator's state, and the steps that recorded calls may make in it: Model of search.py. The
 * hidden state is what depends on the order of calls unseen, as bytes.
 */
struct zv_model {
	int64_t nodes; /* after so many, and some for each call, a search is content */
	/* How many calls may be split in the first search, in the next, and so on. */
	const uint32_t *splits;
	size_t splits_len;
	uint32_t ends; /* bit n: step n is its call's last one */
	size_t undo_bytes; /* of one step; a multiple of 8 */
	/* The calls of a group, all of which are still to be done. */
	void (*begin)(void *state, const struct zv_call *calls, size_t count);
	/* Offer what a call that has made so many steps may do now: zv_offer(). */
	void (*steps)(void *state, struct zv_search *search, uint32_t number,
		      const struct zv_call *call, uint8_t made);
	/* Make a step; whether the answer is the record's. One whose answer is not is undone too. */
	bool (*act)(void *state, uint32_t number, const struct zv_call *call, uint8_t step,
		    void *undo);
	void (*undo)(void *state, const void *undo);
	void (*hidden)(void *state, zv_bytes *into);
	void (*install)(void *state, const uint8_t *hidden);
	/* The same bytes for equal hidden states, whichever objects stand for blocks. */
	void (*key)(void *state, zv_bytes *into);
};

/* ``origin``: number of the hypothesis that the order starts from; ``log``: its last step. */
struct zv_exit {
	size_t hidden; /* where its hidden state begins */
	uint32_t origin, log;
};

/* Hypotheses, or exits, and the hidden states of both. */
struct zv_exits {
	VECTOR(struct zv_exit) list;
	zv_bytes hidden;
};

/* A step that led to a state, the number of the one before, and of its call in the group. */
struct zv_log {
	uint32_t before, number;
	uint8_t step;
	struct zv_call call;
};

struct zv_ranked {
	int64_t row;
	uint32_t number;
};

struct zv_offered {
	uint32_t number;
	struct zv_run run;
};

/* A node of the search. */
struct zv_frame {
	uint32_t first, done, log, offered, options, tried;
	int8_t applied; /* steps; -1: nothing to take back */
	uint8_t made; /* by the call whose steps they are, before */
};

struct zv_search {
	const struct zv_model *model;
	void *state;
	struct zv_escape *escape;
	VECTOR(struct zv_call) calls; /* the group, sorted by (ts, row) */
	struct zv_exits hypotheses, exits;
	VECTOR(struct zv_log) logs;
	/* The longest partial order: its calls done, and the call that had to come next. */
	int64_t deepest;
	uint32_t deepest_origin, deepest_log, stuck;
	uint64_t dead_ends;
	bool cut_short;
	VECTOR(uint32_t) redone; /* steps that were made true, as numbers of logs */

	/* inside a search */
	zv_bytes made; /* steps, of each call */
	struct zv_hash made_hash; /* the same: groups can be so large that the bytes are too many */
	VECTOR(uint32_t) candidates, ranks; /* a call's place by row */
	VECTOR(struct zv_ranked) ranked;
	VECTOR(struct zv_offered) offered;
	VECTOR(struct zv_frame) frames;
	zv_bytes undo, key, before;
	struct zv_met visited, left;
	uint32_t origin, splits_left;
	int64_t nodes_left;
	size_t logs_limit;
	bool withheld;
};

int zv_search_init(struct zv_search *search, const struct zv_model *model, void *state,
		   struct zv_escape *escape); /* 0 or ZC_NO_MEMORY */
void zv_search_clear(struct zv_search *search);

/*
 * Explore every order from each hypothesis; the model is restored. Orders that split fewer calls
 * come first.
 */
void zv_search_run(struct zv_search *search);
void zv_offer(struct zv_search *search, uint32_t number, struct zv_run run);

/*
 * Where the group that begins with call ``first`` ends, of calls sorted by time: where everything so
 * far has returned before the next one begins. ``latest``: when the last of them returned.
 */
static inline uint64_t zv_group_end(const struct zv_call *calls, uint64_t first, uint64_t count,
				    int64_t *latest)
{
	uint64_t end = first + 1;
	*latest = calls[first].end;
	for (; end < count && calls[end].ts <= *latest; end++)
		*latest = calls[end].end > *latest ? calls[end].end : *latest;
	return end;
}

/* The only hypothesis is what is. */
void zv_decide(struct zv_search *search);
/* The exits are the hypotheses from now on. */
void zv_take_exits(struct zv_search *search);
/*
 * Bring the model to where an order leads, whose steps up to log ``base`` are true already; the
 * others are left in ``redone``.
 */
void zv_redo(struct zv_search *search, uint32_t origin, uint32_t log, uint32_t base);
typedef VECTOR(struct zv_tried) zv_tried_steps;
/* Add the steps that were made true last. */
void zv_add_redone(const struct zv_search *search, zv_tried_steps *to);
/* Leave out logs that no hypothesis leads to, when there are many. */
void zv_forget_logs(struct zv_search *search);
/* Begin of the earliest call whose place in the order is not certain yet, or INT64_MAX. */
int64_t zv_undecided_since(const struct zv_search *search);

static inline const uint8_t *zv_hidden_of(const struct zv_exits *exits, size_t number)
{
	return exits->hidden.at + exits->list.at[number].hidden;
}

#endif
