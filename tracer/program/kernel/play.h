/* SPDX-License-Identifier: GPL-2.0-only */
/* What plays calls into an allocator: shared by the core, its two surroundings and the backends. */
#ifndef ZTRACE_PLAY_H
#define ZTRACE_PLAY_H

#include <linux/list.h>
#include <linux/types.h>

/* Both files are little-endian and written and read on one machine. tracer/program/files.py. */
#define ZTRACE_PLAN 0x315f6e616c707a74ULL /* "tzplan_1" */
#define ZTRACE_ANSWERS 0x315f7277736e617aULL /* "zanswr_1" */

enum ztrace_op {
	ZTRACE_MALLOC,
	ZTRACE_FREE,
	ZTRACE_READ, /* map to read */
	ZTRACE_WRITE, /* map to write; with the newer API, the write itself */
	ZTRACE_UNMAP, /* follows the map of the same object at once */
	ZTRACE_COMPACT, /* zsmalloc: the pool; z3fold: the page that waits longest */
	ZTRACE_SHRINK, /* "object" counts the calls after it that are made while it runs */
	ZTRACE_EVICTED, /* among these: an eviction of the object ends with -size */
	ZTRACE_NO_PAGE, /* a malloc for which there is no page to be had */
};

/* Values of an answer's "ret" that no call returns: nothing was called. */
#define ZTRACE_NOT_LIVE (1 << 30) /* the object's malloc was refused, so there was nothing to call */
#define ZTRACE_CANNOT (ZTRACE_NOT_LIVE + 1) /* the allocator has no such call */
#define ZTRACE_NOT_ASKED (ZTRACE_NOT_LIVE + 2) /* the shrink did not ask for this eviction */
#define ZTRACE_NOT_MADE (ZTRACE_NOT_LIVE + 3) /* the allocator broke before it, or in it */

#define ZTRACE_NO_HANDLE (~0UL)

struct ztrace_call {
	u32 object;
	u32 what; /* op << 24 | size in bytes */
};

struct ztrace_plan {
	u64 magic;
	u32 calls;
	u32 objects;
	u32 threads;
	u32 rounds; /* timed ones; one that places objects comes before them */
	u32 deferred; /* compactions are run where the plan has them, else at once */
	u32 crowded; /* threads are more than the CPUs that they share */
	u32 noted; /* answers are noted in every round, and kept of the last one only */
	u32 unchecked; /* it is not looked whether two objects have one handle */
	/* then threads + 1 times u64: where each thread's calls begin; then the calls */
};

/* What the plan does not have, after call number "after". */
enum ztrace_event_kind {
	ZTRACE_COMPACTED, /* a page, by its address, whose compaction the allocator had queued */
	ZTRACE_REFUSED, /* an eviction, by the handle asked for, that the plan does not have there */
};

struct ztrace_event {
	u64 place;
	u64 begin; /* cycles */
	u64 total; /* the pool's bytes after a compaction */
	u32 after;
	u32 cycles;
	u32 kind;
	u32 reserved;
};

struct ztrace_answers {
	u64 magic;
	u32 calls;
	u32 rounds;
	u32 events;
	u32 clock_cycles; /* of two clock readings with nothing in between */
	u64 begin_cycles; /* two moments by both clocks tell how long a cycle is */
	u64 begin_ns;
	u64 end_cycles;
	u64 end_ns;
	u64 base_pages; /* free before the pool was made */
	/* If the allocator broke: in which round, call and thread, and what was said of it. */
	u32 broken;
	u32 broken_round;
	u32 broken_call;
	u32 broken_thread;
	char broken_said[128];
	/*
	 * then, one for each call: u64 begin in cycles, handle, place, total in bytes; u32 pages
	 * taken from the page allocator; s32 ret; then 1 + rounds arrays of u32: cycles
	 * if there are several threads, u32 cycles until the call let go of its last lock, then
	 * 1 + rounds arrays of u32: cycles in which it waited for locks
	 * then the events
	 */
};

/* One thread's part in one round. */
struct ztrace_run {
	const struct ztrace_call *calls;
	u32 first, end;
	bool alone; /* the only thread */
	bool deferred;
	unsigned long *handles; /* by object */
	u64 *begin, *handle, *place, *total;
	u32 *held, *cycles;
	u32 *lock, *waited; /* if it is not alone */
	s32 *ret;
	void *scratch; /* a page and a bit */
	void *memory; /* of the last map */
	bool placing; /* answers are noted */
	bool checking; /* that no two objects have one handle */
	u32 at; /* the call that is being made */
	u32 next, nested_end; /* within a shrink: calls that are still to be made while it runs */
	u64 away; /* cycles of this shrink that were not its own: in evictions */
};

/* An allocator. "place" plays a run and notes the answers, "time" only times it. */
struct ztrace_backend {
	const char *name;
	struct list_head list;
	void *(*create)(void);
	void (*destroy)(void *pool);
	void (*place)(void *pool, struct ztrace_run *run);
	void (*time)(void *pool, struct ztrace_run *run);
	void (*release)(void *pool, unsigned long *handles, u32 objects); /* frees what is left */
	bool notes; /* calls ztrace_note() after any call */
};

void ztrace_register(struct ztrace_backend *backend);
void ztrace_unregister(struct ztrace_backend *backend);

/* Between calls, never within one that is timed. Breathing tells whether to stop. */
bool ztrace_breathe(u32 calls);
u64 ztrace_held_pages(void);
void ztrace_note(enum ztrace_event_kind kind, u64 place, u64 begin, u64 end, u64 total, u32 after);

extern bool ztrace_crowded; /* as the plan says */

/*
 * An allocator has broken: it gave what no caller can use, said an error, or the kernel dies in it.
 * The first time this is said while calls are played, it is kept with the call that this CPU is in,
 * and all threads stop.
 */
extern bool ztrace_broken;
void ztrace_break(const char *format, ...) __printf(1, 2);

/*
 * Between calls: an object has got a handle, or is about to give it back. No two may have one at a
 * time; an allocator that gives it twice has broken.
 */
void ztrace_has(u32 object, unsigned long handle);
void ztrace_gives_back(u32 object, unsigned long handle);

/* The kernel dies; what has been answered until then is written. */
void ztrace_dies(const char *said);

/* What the core needs of its surroundings: program.c, box.c. */
int ztrace_load(const char *path, void **data, size_t *bytes);
struct ztrace_file;
struct ztrace_file *ztrace_create(const char *path);
int ztrace_put(struct ztrace_file *file, const void *data, size_t bytes);
int ztrace_close(struct ztrace_file *file);
u64 ztrace_now_ns(void);
u64 ztrace_free_pages(void); /* 0: not known */
bool ztrace_interrupted(void);
void ztrace_ticks(bool on);
void ztrace_yield(void); /* of the host's CPU */

/* In a module: what the allocator's source would do as it is loaded and unloaded. */
int ztrace_source_begin(void);
void ztrace_source_end(void);

void ztrace_write_reached(void);

int ztrace_main(const char *allocator, const char *plan, const char *answers);

/*
 * A kernel's function that got other arguments over the years: whether it is of a type, and itself
 * as one of that type (NULL, never called, if it is of another).
 */
#define ZTRACE_TAKES(function, type) __builtin_types_compatible_p(typeof(&function), type)
#define ZTRACE_AS(function, type) \
	(__builtin_choose_expr(ZTRACE_TAKES(function, type), function, (type)NULL))

/*
 * The clock: no earlier instruction is still under way when it is read, and no later one has
 * begun. x86 only, as the kernel's program is.
 */
static __always_inline u64 ztrace_begin(void)
{
	u32 low, high;

	asm volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

static __always_inline u64 ztrace_end(void)
{
	u32 low, high;

	asm volatile("rdtscp\n\tlfence" : "=a"(low), "=d"(high) : : "rcx", "memory");
	return (u64)high << 32 | low;
}

#endif
