// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probes on zswap or zram and their allocator. Compiled by bcc when recording starts.
 *
 * Every traced call is a frame on a small stack of its task: the entry probe pushes it, the
 * return probe pops it and emits one record. A frame that lies under another one is the caller,
 * which is how a malloc learns the swap slot it is for.
 *
 * The handlers below do not care how they are reached. The loader adds a line for each probe:
 * FENTRY or FEXIT where the kernel has type information of the function, else KPROBE (end of this
 * file).
 *
 * The only kernel header is the one with struct pt_regs: others cost a minute of compile time on
 * a slow machine and break with new kernels. Layouts of kernel structures are given as byte
 * offsets in defines that the loader passes (tracer/abi.py); what a kernel lacks is not defined.
 * So are filters (tracer/filters.py): without one, nothing of them is compiled.
 */
#include <uapi/linux/ptrace.h>

/* Ops 0 to 12 are those of the trace, in its order (traces/schema.py); TOTAL never gets there. */
enum op {
	STORE, LOAD, INVALIDATE, WRITEBACK, MALLOC, FREE, MAP, UNMAP, SHRINK, COMPACT, SAMPLE,
	LINK, UNLINK,
	TOTAL = 16,
};

/* Bits of record.has: which of the nullable columns were filled in. */
#define HAS_KEY    1
#define HAS_SIZE   2
#define HAS_HANDLE 4
#define HAS_AUX    8
#define HAS_POOL   16
#define HAS_PLACE  32
#define HAS_LOCK   64
/* Of frame.has alone: what a filter decided. */
#define TAKEN     256
#define REFUSED   512

/* Causes of loss, indexes of `lost` (tracer/spool.py names them). */
enum cause {
	RING_FULL, TOO_DEEP, MISSED_RETURN, NO_TASK_ROOM, NO_POOL_ROOM, NO_OBJECT_ROOM, CAUSES
};

/* How a handler was reached: by a kprobe's registers or by fentry's or fexit's trampoline. */
struct call {
	void *context;
	int traced;		/* by a trampoline; a constant, so only one way is compiled */
};

#define FAILED 32		/* of `kind` in lose() */
#define KINDS  64

#define MAX_DEPTH 8		/* a power of two: indexes are masked for the verifier */
#define MAX_POOLS 64
#define TYPE_CHARS 16

#ifdef LISTS
/* A page was put on a list, or taken off; at 0: none was. */
struct list_step {
	u64 at, page;
	u32 number, cpu;
};
#endif

struct frame {
	u64 sp, ts, key, handle, aux, place, locked;
	u32 size, pool;
	u32 op, has;
	u64 exact;		/* sp is the same at entry and return */
#ifdef LISTS
	struct list_step put, taken;
#endif
};

struct stack {
	u32 depth;
	u32 over;		/* calls entered beyond MAX_DEPTH and not yet returned */
#ifdef SLOT_FOLLOWS
	u64 last;		/* what a filter decided on this task's last malloc, 0 once used */
#endif
	struct frame at[MAX_DEPTH];
};

/* One finished call; mirrored by RECORD in tracer/ring.py. */
struct record {
	u64 ts, key, handle, aux, place, cgroup;
	u32 dur, lock, size;	/* lock: ns after ts at which the allocator's lock was held */
	s32 ret;
	u32 tid;
	u16 cpu;
	u8 pool, op, has;
	u8 unused[7];
};

struct pool {
	char type[TYPE_CHARS];	/* zpool_driver.type */
	u32 created;		/* the pool was made while recording */
	u32 evictable;		/* zswap puts its header in front of each object */
	u64 count_at;		/* where the driver counts its pages, 0 if unknown */
};

#ifndef HISTOGRAM
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#endif
BPF_TABLE("lru_hash", u32, struct stack, stacks, 16384);
BPF_ARRAY(blank, struct stack, 1);
BPF_HASH(pool_ids, u64, u32, MAX_POOLS * 4);
BPF_HASH(numbers, u32, u64, MAX_POOLS);

/*
 * What the recorder looks at while probes run is mapped into it. While a process is in a system
 * call on a map, the kernel runs no kprobes' programs on its CPU; if another task preempts it
 * there, that task's calls go unseen.
 */
#define MAPPED BPF_F_MMAPABLE
BPF_F_TABLE("array", u32, u64, gate, 1, MAPPED);
BPF_F_TABLE("array", u32, u64, lost, CAUSES * KINDS * CPUS, MAPPED);
BPF_F_TABLE("array", u32, struct pool, pools, MAX_POOLS, MAPPED);
BPF_F_TABLE("array", u32, u64, pool_count, 1, MAPPED);

/* ``kind``: the op, plus FAILED if it is known to have failed. */
static void lose(u32 cause, u32 kind)
{
	u32 at = (cause * KINDS + kind) * CPUS + bpf_get_smp_processor_id();
	u64 *count = lost.lookup(&at);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* ---- the call that is traced -------------------------------------------------------------- */

#define REGISTERS(call) ((struct pt_regs *)(call).context)

static u64 argument(struct call call, int number)
{
	u64 value = 0;

	if (call.traced) {
		bpf_get_func_arg(call.context, number - 1, &value);
		return value;
	}
	switch (number) {
	case 1: return PT_REGS_PARM1(REGISTERS(call));
	case 2: return PT_REGS_PARM2(REGISTERS(call));
	case 3: return PT_REGS_PARM3(REGISTERS(call));
	default: return PT_REGS_PARM4(REGISTERS(call));
	}
}

static u64 returned(struct call call)
{
	u64 value = 0;

	if (!call.traced)
		return PT_REGS_RC(REGISTERS(call));
	bpf_get_func_ret(call.context, &value);
	return value;
}

/* Where the call lies on its task's kernel stack; a trampoline keeps its arguments there. */
static u64 stack_pointer(struct call call)
{
	return call.traced ? (u64)call.context : PT_REGS_SP(REGISTERS(call));
}

/* ---- pools: a number for every zpool, in the order they are first met ------------------ */

/* Several CPUs may meet new pools at once: inserting the number is what claims it. */
static u32 claim_number(u64 pool)
{
	u32 zero = 0, id = MAX_POOLS;
	u64 *count = pool_count.lookup(&zero);
	int i;

	if (!count)
		return MAX_POOLS;
	id = *count;
#pragma unroll
	for (i = 0; i < 4; i++, id++) {
		if (id < MAX_POOLS && !numbers.insert(&id, &pool)) {
			*count = id + 1;
			return id;
		}
	}
	lose(NO_POOL_ROOM, TOTAL);
	return MAX_POOLS;
}

static u64 read_word(u64 address)
{
	u64 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), (void *)address);
	return word;
}

/* Where a driver counts its pages; the names of drivers differ within four letters. */
static u64 page_count_of(struct pool *info, u64 private)
{
	char *type = info->type;

#ifdef ZBUD_PAGES
	if (type[0] == 'z' && type[1] == 'b' && type[2] == 'u' && type[3] == 'd')
		return private + ZBUD_PAGES;
#endif
#ifdef Z3FOLD_PAGES
	if (type[0] == 'z' && type[1] == '3' && type[2] == 'f' && type[3] == 'o')
		return private + Z3FOLD_PAGES;
#endif
#ifdef ZSMALLOC_PAGES
	if (type[0] == 'z' && type[1] == 's' && type[2] == 'm' && type[3] == 'a')
		return private + ZSMALLOC_PAGES;
#endif
	return 0;
}

#if defined(Z3FOLD_HEADER_START) && !defined(HISTOGRAM)
/*
 * Where an object of z3fold lies now. The handle is the address of a word: the page, which of its
 * three places, counted from the page's first number, and of the last one how many chunks. Where
 * the middle begins stands in the page's header, with the first number behind it.
 */
static u64 z3fold_place(u64 handle)
{
	u64 chunk = PAGE_BYTES / 64, word, page, header;

	if (handle & 1)
		return handle & ~(u64)(PAGE_BYTES - 1);
	word = read_word(handle);
	page = word & ~(u64)(PAGE_BYTES - 1);
	if (!page)
		return 0;
	header = read_word(page + Z3FOLD_HEADER_START);
	switch ((word - (header >> 16)) & 3) {
	case 1: return page + (Z3FOLD_HEADER_START + 4 + chunk - 1) / chunk * chunk;
	case 2: return page + (header & 0xffff) * chunk;
	case 3: return page + PAGE_BYTES - (word % PAGE_BYTES >> 2) * chunk;
	default: return 0;
	}
}

static int is_z3fold(u32 id)
{
	struct pool *info = pools.lookup(&id);

	return info && info->type[0] == 'z' && info->type[1] == '3';
}
#endif

static u32 number_pool(u64 pool, u32 created)
{
	u32 id = claim_number(pool);
	struct pool *info = pools.lookup(&id);
	u64 private = pool;

	if (!info)
		return MAX_POOLS;
#ifdef HAVE_ZPOOL
	bpf_probe_read_kernel_str(info->type, TYPE_CHARS,
		(void *)read_word(read_word(pool + ZPOOL_DRIVER) + ZPOOL_DRIVER_TYPE));
	private = read_word(pool + ZPOOL_PRIVATE);
#ifdef ZPOOL_EVICTABLE
	info->evictable = read_word(pool + ZPOOL_EVICTABLE) & 0xff;
#endif
#else
	__builtin_memcpy(info->type, "zsmalloc", 9);
#endif
	info->created = created;
	info->count_at = page_count_of(info, private);
	pool_ids.update(&pool, &id);
	/* Functions inside a driver know the pool by the driver's own structure. */
	pool_ids.update(&private, &id);
	return id;
}

static u32 pool_of(u64 pool)
{
	u32 *id = pool_ids.lookup(&pool);

	return id ? *id : number_pool(pool, 0);
}

/* The pool's pages now, for drivers that keep count; called right after a malloc or free. */
static int count_pages(u32 id, u64 *pages)
{
	struct pool *info = pools.lookup(&id);

	if (!info || !info->count_at)
		return 0;
	*pages = read_word(info->count_at);
	return 1;
}

/* ---- filters ----------------------------------------------------------------------------- */

/*
 * A filter takes or leaves whole lives. The malloc decides for its object: who calls (GROUPS,
 * PIDS), how large it is (MIN_SIZE), one of PERIOD by a hash. What is taken is remembered by its
 * handle until it is freed, whoever frees it, and its swap slot until that is given up.
 *
 * NOTE_OBJECTS: the allocator's calls are probed. NOTE_SLOTS: a slot cannot be decided by its
 * hash alone. SLOT_FOLLOWS: a malloc's slot is only known from the next call of its task (zram).
 */
#ifdef BY_OBJECT
struct thing {
	u64 id, kind;		/* a handle and its pool, or a swap slot and SLOT */
};

#define SLOT (MAX_POOLS + 1)

#ifdef GROUPS
BPF_CGROUP_ARRAY(groups, GROUPS);
#endif

#if defined(NOTE_OBJECTS) || defined(NOTE_SLOTS)
BPF_F_TABLE("hash", struct thing, u64, taken, MAX_TAKEN, BPF_F_NO_PREALLOC);

static int is_taken(u64 id, u64 kind)
{
	struct thing thing = { .id = id, .kind = kind };

	return taken.lookup(&thing) != 0;
}

static void forget(u64 id, u64 kind)
{
	struct thing thing = { .id = id, .kind = kind };

	taken.delete(&thing);
}

/* Remember what was decided; returns it. Without room for it, the life is lost. */
static int note(u64 id, u64 kind, int wanted, u32 op)
{
	struct thing thing = { .id = id, .kind = kind };
	u64 one = 1;

	if (!wanted) {
		taken.delete(&thing);
		return 0;
	}
	if (!taken.update(&thing, &one))
		return 1;
	lose(NO_OBJECT_ROOM, op);
	return 0;
}
#endif

/* Whether the task is in one of the cgroups, or below. */
static int is_in_group(void)
{
#ifdef GROUPS
	int i;

#pragma unroll
	for (i = 0; i < GROUPS; i++)
		if (groups.check_current_task(i) == 1)
			return 1;
	return 0;
#else
	return 1;
#endif
}

static int is_in_process(void)
{
#ifdef PIDS
	u32 i, pids[] = { PIDS }, pid = bpf_get_current_pid_tgid() >> 32;

#pragma unroll
	for (i = 0; i < sizeof(pids) / sizeof(*pids); i++)
		if (pids[i] == pid)
			return 1;
	return 0;
#else
	return 1;
#endif
}

/* One of PERIOD numbers; neighbours fall independently (the finalizer of MurmurHash3). */
static int is_sampled(u64 id)
{
	id = (id ^ id >> 33) * 0xff51afd7ed558ccd;
	id = (id ^ id >> 33) * 0xc4ceb9fe1a85ec53;
	return (id ^ id >> 33) % PERIOD == 0;
}

/* What is known of a call decides: its slot, else its object, else (it failed) its moment. */
static int is_chosen(struct frame *frame)
{
	u64 id = frame->has & HAS_KEY ? frame->key :
		frame->has & HAS_HANDLE ? frame->handle : frame->ts;

	u32 size = frame->has & HAS_SIZE ? frame->size : 0;

	return size >= MIN_SIZE && is_in_group() && is_in_process() && is_sampled(id);
}

static int slot_is_taken(u64 key)
{
#ifdef NOTE_SLOTS
	return is_taken(key, SLOT);
#else
	return is_sampled(key);
#endif
}

static int decide_malloc(struct frame *frame, struct frame *caller, s32 ret)
{
	int wanted = is_chosen(frame);

#ifdef NOTE_OBJECTS
	if (frame->has & HAS_HANDLE)
		wanted = note(frame->handle, frame->pool, wanted, MALLOC);
#endif
	if (caller && caller->op == STORE)
		caller->has |= wanted ? TAKEN : REFUSED;
#ifdef SLOT_FOLLOWS
	u32 tid = bpf_get_current_pid_tgid();
	struct stack *stack = stacks.lookup(&tid);

	if (stack && !ret)
		stack->last = wanted ? TAKEN : REFUSED;
#endif
	return wanted;
}

/* A store without a malloc, refused or of a page of one value, decides for itself. */
static int decide_store(struct frame *frame, s32 ret)
{
	int wanted = frame->has & (TAKEN | REFUSED) ? !!(frame->has & TAKEN) : is_chosen(frame);

#ifdef NOTE_SLOTS
	if (ret || !wanted)
		forget(frame->key, SLOT);
	else
		wanted = note(frame->key, SLOT, 1, STORE);
#endif
	return wanted;
}

/* Without a key a whole device is given up: the end of every life on it. */
static int decide_invalidate(struct frame *frame)
{
	int wanted = frame->has & TAKEN;
	u64 last = 0;

	if (!(frame->has & HAS_KEY))
		return 1;
#ifdef SLOT_FOLLOWS
	u32 tid = bpf_get_current_pid_tgid();
	struct stack *stack = stacks.lookup(&tid);

	if (stack) {
		last = stack->last;
		stack->last = 0;
	}
#endif
	wanted = wanted || slot_is_taken(frame->key) || last == TAKEN;
#ifdef NOTE_SLOTS
	note(frame->key, SLOT, last == TAKEN, INVALIDATE);
#endif
	return wanted;
}

static int decide(struct frame *frame, struct frame *caller, u32 op, s32 ret)
{
	switch (op) {
	case MALLOC:
		return decide_malloc(frame, caller, ret);
	case STORE:
		return decide_store(frame, ret);
	case INVALIDATE:
		return decide_invalidate(frame);
	case LOAD:
	case WRITEBACK:
		return frame->has & TAKEN || (frame->has & HAS_KEY && slot_is_taken(frame->key));
	default:		/* of an object, looked up as the call began */
		if (frame->has & TAKEN && caller && caller->op != STORE)
			caller->has |= TAKEN;
		return frame->has & TAKEN;
	}
}

BPF_F_TABLE("array", u32, u64, left_out, KINDS * CPUS, MAPPED);

static void leave_out(u32 kind)
{
	u32 at = kind * CPUS + bpf_get_smp_processor_id();
	u64 *count = left_out.lookup(&at);

	if (count)
		__sync_fetch_and_add(count, 1);
}
#endif

/* A call on an object begins; a free ends its life here, before the handle can be given again. */
static void meet_object(struct frame *frame, u32 op)
{
#ifdef NOTE_OBJECTS
	if (!is_taken(frame->handle, frame->pool))
		return;
	frame->has |= TAKEN;
	if (op == FREE)
		forget(frame->handle, frame->pool);
#endif
}

/* ---- frames ------------------------------------------------------------------------------ */

/* The empty asm hides what the compiler knows of the index: it would drop the verifier's mask. */
static struct frame *frame_at(struct stack *stack, u32 index)
{
	asm volatile("" : "+r"(index));
	return &stack->at[index & (MAX_DEPTH - 1)];
}

static struct frame *top(struct stack *stack)
{
	struct frame *frame = stack->depth ? frame_at(stack, stack->depth - 1) : 0;

	/* The verifier wants the pointer itself compared with 0, not the depth once more. */
	asm volatile("" : "+r"(frame));
	return frame;
}

/*
 * Push a frame. One on top that is not above us on the task's kernel stack belongs to a call
 * whose return was not seen: drop and count it, unless the kernel counts such returns itself, as
 * it does for trampolines. At the same height is also what a function jumps to at its end, as
 * z3fold's free does to do_compact_page().
 */
static struct frame *enter(struct call call, u32 op)
{
	u32 zero = 0, tid = bpf_get_current_pid_tgid();
	u64 *open = gate.lookup(&zero);
	struct stack *stack, *clean;
	struct frame *frame, *caller = 0;
	u64 sp = stack_pointer(call);
	int i;

	if (!open || !*open)
		return 0;
	stack = stacks.lookup(&tid);
	if (!stack) {
		clean = blank.lookup(&zero);
		if (!clean)
			return 0;
		stacks.update(&tid, clean);
		stack = stacks.lookup(&tid);
		if (!stack) {
			lose(NO_TASK_ROOM, op);
			return 0;
		}
	}
#pragma unroll
	for (i = 0; i < 3; i++) {
		caller = top(stack);
		if (!caller || caller->sp > sp || (caller->sp == sp && op == COMPACT))
			break;
		if (!caller->exact)
			lose(MISSED_RETURN, caller->op & 31);
		stack->depth--;
		stack->over = 0;
		caller = 0;
	}
	if (stack->depth >= MAX_DEPTH) {
		stack->over++;
		lose(TOO_DEEP, op);
		return 0;
	}
	frame = frame_at(stack, stack->depth);
	stack->depth++;
	frame->sp = sp;
	frame->exact = call.traced;
	frame->op = op;
	frame->has = 0;
	frame->pool = 0;
#ifdef LISTS
	frame->put.at = frame->taken.at = 0;
#endif
	if (caller && (caller->has & HAS_KEY)) {
		frame->key = caller->key;
		frame->has = HAS_KEY;
	}
	frame->ts = bpf_ktime_get_ns();
	return frame;
}

/*
 * Pop the frame of the returning call, or nothing if it was entered before the gate opened or
 * its entry was missed. Frames that lie deeper, or for a kprobe are of another op, are ones
 * whose return was not seen.
 */
static struct frame *leave(struct call call, u32 op, struct frame **caller)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct stack *stack = stacks.lookup(&tid);
	struct frame *frame;
	int i;

	if (!stack)
		return 0;
	if (stack->over) {
		stack->over--;
		return 0;
	}
#pragma unroll
	for (i = 0; i < 3; i++) {
		if (!stack->depth || stack->depth > MAX_DEPTH)
			return 0;
		frame = frame_at(stack, stack->depth - 1);
		if (call.traced && frame->sp > stack_pointer(call))
			return 0;
		stack->depth--;
		if (call.traced ? frame->sp == stack_pointer(call) : frame->op == op) {
			*caller = top(stack);
			return frame;
		}
		if (!frame->exact)
			lose(MISSED_RETURN, frame->op & 31);
	}
	return 0;
}

#ifdef HISTOGRAM
/* Mirrored by tracer/histogram.py. */
#define BUCKETS      124	/* four for each power of two, the first four of one ns each */
#define SIZE_BUCKETS 128	/* of 64 bytes */

BPF_F_TABLE("array", u32, u64, durations, KINDS * BUCKETS * CPUS, MAPPED);
BPF_F_TABLE("array", u32, u64, sizes, SIZE_BUCKETS * CPUS, MAPPED);

static int emit(struct frame *frame, u32 op, s32 ret)
{
	u64 dur = bpf_ktime_get_ns() - frame->ts;
	u32 ns = dur > 0xffffffff ? 0xffffffff : dur;
	u32 power = bpf_log2(ns | 1), cpu = bpf_get_smp_processor_id(), at;
	u64 *count;

	at = ns < 4 ? ns : (power - 1) * 4 + (ns >> ((power - 2) & 31) & 3);
	at = ((op + (ret ? FAILED : 0)) * BUCKETS + at) * CPUS + cpu;
	count = durations.lookup(&at);
	if (count)
		__sync_fetch_and_add(count, 1);
	if (op == MALLOC && !ret) {
		at = frame->size / 64;
		at = (at < SIZE_BUCKETS ? at : SIZE_BUCKETS - 1) * CPUS + cpu;
		count = sizes.lookup(&at);
		if (count)
			__sync_fetch_and_add(count, 1);
	}
	return 0;
}
#else
static int emit_of(struct frame *frame, u32 op, s32 ret, u64 dur, u32 cpu)
{
	struct record *record = events.ringbuf_reserve(sizeof(struct record));

	if (!record) {
		lose(RING_FULL, op + (ret ? FAILED : 0));
		return 0;
	}
	record->ts = frame->ts;
	record->key = frame->key;
	record->handle = frame->handle;
	record->aux = frame->aux;
	record->place = frame->place;
	record->cgroup = bpf_get_current_cgroup_id();
	record->dur = dur > 0xffffffff ? 0xffffffff : dur;
	record->lock = frame->locked - frame->ts;
	record->size = frame->size;
	record->ret = ret;
	record->tid = bpf_get_current_pid_tgid();
	record->cpu = cpu;
	record->pool = frame->pool;
	record->op = op;
	record->has = frame->has;
	__builtin_memset(record->unused, 0, sizeof(record->unused));
	events.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

static int emit(struct frame *frame, u32 op, s32 ret)
{
	u64 dur = bpf_ktime_get_ns() - frame->ts;

	return emit_of(frame, op, ret, dur, bpf_get_smp_processor_id());
}
#endif

#ifdef LISTS
static void emit_list(struct list_step *step, u32 op, u32 pool)
{
	u64 now = bpf_ktime_get_ns();
	struct frame frame = {
		/* As the kernel sets its clock, a probe in an NMI can read it microseconds ahead. */
		.ts = step->at < now ? step->at : now,
		.place = step->page,
		.size = step->number,
		.pool = pool,
		.has = HAS_POOL | HAS_PLACE | (op == LINK ? HAS_SIZE : 0),
	};

	emit_of(&frame, op, 0, 0, step->cpu);
}

/* What a call that has returned did to lists. */
static void emit_lists(struct frame *frame)
{
	if (frame->taken.at)
		emit_list(&frame->taken, UNLINK, frame->pool);
	if (frame->put.at)
		emit_list(&frame->put, LINK, frame->pool);
}
#else
static void emit_lists(struct frame *frame) {}
#endif

/* A call has returned: it is recorded, unless a filter leaves it out or its op is not wanted. */
static int finish(struct frame *frame, struct frame *caller, u32 op, s32 ret)
{
#ifdef BY_OBJECT
	if (!decide(frame, caller, op, ret)) {
		leave_out(op + (ret ? FAILED : 0));
		return 0;
	}
#endif
#ifdef WITHOUT_MALLOC
	if (op == MALLOC)
		return 0;
#endif
	emit_lists(frame);
	return emit(frame, op, ret);
}

static int leave_plain(struct call call, u32 op, s32 ret)
{
	struct frame *caller, *frame = leave(call, op, &caller);

	return frame ? finish(frame, caller, op, ret) : 0;
}

static void set_pool(struct frame *frame, u64 pool)
{
	frame->pool = pool_of(pool);
	frame->has |= HAS_POOL;
}

/* ---- zswap level, frontswap interface (6.1) -------------------------------------------- */

static int enter_slot(struct call call, u32 op)
{
	struct frame *frame = enter(call, op);

	if (frame) {
		frame->key = (u64)(u32)argument(call, 1) << SWP_TYPE_SHIFT | argument(call, 2);
		frame->has |= HAS_KEY;
	}
	return 0;
}

static int enter_store(struct call call) { return enter_slot(call, STORE); }
static int exit_store(struct call call) { return leave_plain(call, STORE, returned(call)); }

static int enter_load(struct call call) { return enter_slot(call, LOAD); }
static int exit_load(struct call call) { return leave_plain(call, LOAD, returned(call)); }

static int enter_invalidate(struct call call) { return enter_slot(call, INVALIDATE); }
static int exit_invalidate(struct call call) { return leave_plain(call, INVALIDATE, 0); }

/* swapoff: every object of one swap device; the row has no key. */
static int enter_invalidate_area(struct call call)
{
	enter(call, INVALIDATE);
	return 0;
}

static int enter_writeback(struct call call)
{
	struct frame *frame = enter(call, WRITEBACK);

	if (frame) {
		set_pool(frame, argument(call, 1));
		frame->handle = argument(call, 2);
		frame->has |= HAS_HANDLE;
	}
	return 0;
}

static int exit_writeback(struct call call) { return leave_plain(call, WRITEBACK, returned(call)); }

/* ---- zswap level, called with folios (6.6 and later) ------------------------------------- */

#ifdef FOLIO_SWAP
static int enter_folio(struct call call, u32 op)
{
	struct frame *frame = enter(call, op);

	if (frame) {
		frame->key = read_word(argument(call, 1) + FOLIO_SWAP);
		frame->has |= HAS_KEY;
	}
	return 0;
}

static int enter_store_folio(struct call call) { return enter_folio(call, STORE); }
static int enter_load_folio(struct call call) { return enter_folio(call, LOAD); }
#endif

/* bool: refused without saying why (-EPERM), or not in zswap (-ENOENT). */
static int exit_store_bool(struct call call)
{
	return leave_plain(call, STORE, returned(call) & 0xff ? 0 : -1);
}

static int exit_load_bool(struct call call)
{
	return leave_plain(call, LOAD, returned(call) & 0xff ? 0 : -2);
}

static int enter_invalidate_entry(struct call call)
{
	struct frame *frame = enter(call, INVALIDATE);

	if (frame) {
		frame->key = argument(call, 1);
		frame->has |= HAS_KEY;
	}
	return 0;
}

static int enter_writeback_entry(struct call call)
{
	struct frame *frame = enter(call, WRITEBACK);

	if (frame) {
		frame->key = argument(call, 2);
		frame->has |= HAS_KEY;
#ifdef ENTRY_HANDLE
		frame->handle = read_word(argument(call, 1) + ENTRY_HANDLE);
		frame->has |= HAS_HANDLE;
#endif
	}
	return 0;
}

/* ---- zram ---------------------------------------------------------------------------------- */

/* What zram does with a slot: arguments are the device, then the slot's index or a page and it. */
static int enter_zram_read(struct call call)
{
	struct frame *frame = enter(call, LOAD);

	if (frame) {
		frame->key = (u32)argument(call, 3);
		frame->has |= HAS_KEY;
	}
	return 0;
}

/* Called also before each write, whether the slot holds anything or not. */
static int enter_zram_free(struct call call)
{
	struct frame *frame = enter(call, INVALIDATE);

	if (frame) {
		frame->key = (u32)argument(call, 2);
		frame->has |= HAS_KEY;
	}
	return 0;
}

/* ---- allocator level, zpool interface ---------------------------------------------------- */

static int enter_malloc(struct call call)
{
	struct frame *frame = enter(call, MALLOC);

	if (frame) {
		set_pool(frame, argument(call, 1));
		frame->size = argument(call, 2);
		frame->aux = argument(call, 4);	/* where the handle will be written */
		frame->has |= HAS_SIZE;
	}
	return 0;
}

/*
 * The frame's aux becomes the pool's pages where the driver keeps count. With a filter it does
 * not: that would be the size of a pool with all its objects beside calls on some.
 */
static void set_pages(struct frame *frame)
{
#if !defined(BY_OBJECT) && !defined(HISTOGRAM)
	if (count_pages(frame->pool, &frame->aux))
		frame->has |= HAS_AUX;
#endif
}

/* Objects that the allocator moves: a malloc and a free tell where theirs lies. */
static void set_place(struct frame *frame)
{
#if defined(Z3FOLD_HEADER_START) && !defined(HISTOGRAM)
	if (!is_z3fold(frame->pool))
		return;
	frame->place = z3fold_place(frame->handle);
	if (frame->place)
		frame->has |= HAS_PLACE;
#endif
}

static int finish_malloc(struct frame *frame, struct frame *caller, s32 ret)
{
	set_pages(frame);
	if (caller && caller->op == STORE) {
		caller->pool = frame->pool;
		caller->size = frame->size;
		caller->has |= HAS_POOL | HAS_SIZE;
	}
	return finish(frame, caller, MALLOC, ret);
}

static int exit_malloc(struct call call)
{
	struct frame *caller, *frame = leave(call, MALLOC, &caller);
	s32 ret = returned(call);

	if (!frame)
		return 0;
	if (!ret && !bpf_probe_read_kernel(&frame->handle, 8, (void *)frame->aux)) {
		frame->has |= HAS_HANDLE;
		set_place(frame);
	}
	return finish_malloc(frame, caller, ret);
}

/* zs_malloc() gives the handle, or the error as a number near the end of the address space. */
static int enter_malloc_direct(struct call call)
{
	struct frame *frame = enter(call, MALLOC);

	if (frame) {
		set_pool(frame, argument(call, 1));
		frame->size = argument(call, 2);
		frame->has |= HAS_SIZE;
	}
	return 0;
}

static int exit_malloc_direct(struct call call)
{
	struct frame *caller, *frame = leave(call, MALLOC, &caller);
	u64 result = returned(call);

	if (!frame)
		return 0;
	if (result >= (u64)-4095)
		return finish_malloc(frame, caller, result);
	frame->handle = result;
	frame->has |= HAS_HANDLE;
	return finish_malloc(frame, caller, 0);
}

static int enter_object(struct call call, u32 op)
{
	struct frame *frame = enter(call, op);

	if (frame) {
		set_pool(frame, argument(call, 1));
		frame->handle = argument(call, 2);
		frame->has |= HAS_HANDLE;
		if (op == FREE)
			set_place(frame);
		meet_object(frame, op);
	}
	return 0;
}

/* A zswap call whose allocator calls all go to one pool belongs to that pool. */
static int leave_object(struct call call, u32 op, u64 address)
{
	struct frame *caller, *frame = leave(call, op, &caller);

	if (!frame)
		return 0;
	if (caller && !(caller->has & HAS_POOL)) {
		caller->pool = frame->pool;
		caller->has |= HAS_POOL;
	}
	if (address) {
		frame->aux = address;
		frame->has |= HAS_AUX;
#ifdef ZPOOL_EVICTABLE
		/* Until 6.4 the object's first word, zswap_header.swpentry, names its slot. */
		if (caller && caller->op == WRITEBACK && !(caller->has & HAS_KEY) &&
		    !bpf_probe_read_kernel(&caller->key, 8, (void *)address)) {
			caller->has |= HAS_KEY;
			frame->key = caller->key;
			frame->has |= HAS_KEY;
		}
#endif
	}
	return finish(frame, caller, op, op == MAP && !address ? -14 : 0);
}

static int enter_free(struct call call) { return enter_object(call, FREE); }

static int exit_free(struct call call)
{
	struct frame *caller, *frame = leave(call, FREE, &caller);

	if (!frame)
		return 0;
	set_pages(frame);
	if (caller && !(caller->has & HAS_POOL)) {
		caller->pool = frame->pool;
		caller->has |= HAS_POOL;
	}
	return finish(frame, caller, FREE, 0);
}

static int enter_map(struct call call) { return enter_object(call, MAP); }
static int exit_map(struct call call) { return leave_object(call, MAP, returned(call)); }

/* zs_obj_read_sg_begin() returns nothing. */
static int exit_begin(struct call call) { return leave_plain(call, MAP, 0); }

static int enter_unmap(struct call call) { return enter_object(call, UNMAP); }
static int exit_unmap(struct call call) { return leave_object(call, UNMAP, 0); }

static int enter_shrink(struct call call)
{
	struct frame *frame = enter(call, SHRINK);

	if (frame)
		set_pool(frame, argument(call, 1));
	return 0;
}

static int exit_shrink(struct call call) { return leave_plain(call, SHRINK, returned(call)); }

/*
 * The pool's own size. zswap asks for it after every store and every freed entry (6.1); the
 * spool's reader attaches the answer to the malloc or free before it in the same task.
 */
static int enter_total(struct call call)
{
	struct frame *frame = enter(call, TOTAL);

	if (frame)
		set_pool(frame, argument(call, 1));
	return 0;
}

static int exit_total(struct call call)
{
	struct frame *caller, *frame = leave(call, TOTAL, &caller);

	if (!frame)
		return 0;
	frame->aux = returned(call);
	frame->has |= HAS_AUX;
	return finish(frame, caller, TOTAL, 0);
}

static int exit_create(struct call call)
{
	u32 zero = 0;
	u64 pool = returned(call);
	u64 *open = gate.lookup(&zero);

	if (pool && open && *open)
		number_pool(pool, 1);
	return 0;
}

/* ---- inside the allocators ------------------------------------------------------------- */

/* The innermost call of this task that we are in. */
static struct frame *innermost(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct stack *stack = stacks.lookup(&tid);

	return stack ? top(stack) : 0;
}

/* The same, if it is an ``op``. */
static struct frame *inside(u32 op)
{
	struct frame *caller = innermost();

	return caller && caller->op == op ? caller : 0;
}

/*
 * zsmalloc takes or gives back a slot, with the pool's or the class's lock held: the moment says
 * in which order calls on several CPUs took effect. The place of a malloc is the zspage and the
 * number of the slot.
 */
#ifdef ZSPAGE_FREEOBJ
static int enter_obj_malloc(struct call call)
{
	struct frame *caller = inside(MALLOC);
	u64 zspage = argument(call, 2);

	if (caller) {
		/* The lower 48 bits of the zspage's address, and the slot. */
		caller->place = zspage << 16 | (read_word(zspage + ZSPAGE_FREEOBJ) & 0xffff);
		caller->locked = bpf_ktime_get_ns();
		caller->has |= HAS_PLACE | HAS_LOCK;
	}
	return 0;
}
#endif

static int enter_obj_free(struct call call)
{
	struct frame *caller = inside(FREE);

	if (caller) {
		caller->locked = bpf_ktime_get_ns();
		caller->has |= HAS_LOCK;
	}
	return 0;
}

/* zsmalloc compacts a whole pool. */
static int enter_compact_pool(struct call call)
{
	struct frame *frame = enter(call, COMPACT);

	if (frame)
		set_pool(frame, argument(call, 1));
	return 0;
}

/* z3fold compacts one page; 1 as second argument: at once, in a free; 0: from its queue. */
#ifdef Z3FOLD_HEADER_POOL
static int enter_compact_page(struct call call)
{
	struct frame *frame = enter(call, COMPACT);

	if (frame) {
		frame->place = argument(call, 1);
		frame->size = argument(call, 2) & 0xff;
		frame->has |= HAS_PLACE | HAS_SIZE;
		frame->pool = pool_of(read_word(argument(call, 1) + Z3FOLD_HEADER_POOL));
		frame->has |= HAS_POOL;
	}
	return 0;
}
#endif

/*
 * A page of z3fold goes on one of the lists of this CPU, or is taken off one, with the pool's lock
 * held. A page's links are the first thing in it.
 *
 * A call puts at most one page on a list, and takes at most one off where it does not look for a
 * page with room. Both are kept until it returns: a probe within a function runs as if in an NMI,
 * where the ring has no room while another CPU reserves some.
 */
#ifdef LISTS
static struct frame *caller_with_page(u64 page)
{
	return page & (PAGE_BYTES - 1) ? 0 : innermost();
}

static void note_step(struct list_step *step, u64 page)
{
	step->at = bpf_ktime_get_ns();
	step->page = page;
	step->cpu = bpf_get_smp_processor_id();
}

/* A list's number is its distance from the first; those of CPUs are whole pages apart. */
static int enter_list_add(struct call call)
{
	u64 page = argument(call, 1), pool;
	struct frame *caller = caller_with_page(page);

	if (!caller)
		return 0;
	pool = read_word(page + Z3FOLD_HEADER_POOL);
	caller->put.number = ((argument(call, 2) - read_word(pool + Z3FOLD_LISTS)) &
			      (PAGE_BYTES - 1)) / 16;
	note_step(&caller->put, page);
	return 0;
}

static int enter_list_del(struct call call)
{
	u64 page = argument(call, 1);
	struct frame *caller = caller_with_page(page);

	if (caller)
		note_step(&caller->taken, page);
	return 0;
}

/*
 * z3fold only tries a page's lock, again and again. A free, a map or an unmap takes effect with it
 * held; whoever looks for a page with room takes it off its list.
 */
static int exit_trylock(struct call call)
{
	u64 page = argument(call, 1) - Z3FOLD_HEADER_LOCK, pool;
	struct frame *caller;
	struct list_step step = {};
	u32 *id;

	if (page & (PAGE_BYTES - 1) || !(u32)returned(call))
		return 0;
	pool = read_word(page + Z3FOLD_HEADER_POOL);
	id = pool_ids.lookup(&pool);
	caller = caller_with_page(page);
	if (!id || !caller)
		return 0;
	if (caller->op == FREE || caller->op == MAP || caller->op == UNMAP) {
		caller->locked = bpf_ktime_get_ns();
		caller->has |= HAS_LOCK;
		return 0;
	}
	note_step(&step, page);
	emit_list(&step, UNLINK, *id);
	return 0;
}
#endif

static int exit_compact(struct call call)
{
	struct frame *caller, *frame = leave(call, COMPACT, &caller);

	if (!frame)
		return 0;
	set_pages(frame);
	return finish(frame, caller, COMPACT, 0);
}

/* ---- how handlers are reached ---------------------------------------------------------------- */

#define KPROBE(handler) \
	int kprobe_##handler(struct pt_regs *ctx) \
	{ \
		struct call call = { .context = ctx }; \
		return handler(call); \
	}

#define FENTRY(symbol, handler) \
	KFUNC_PROBE(symbol) \
	{ \
		struct call call = { .context = ctx, .traced = 1 }; \
		return handler(call); \
	}
#define FEXIT(symbol, handler) \
	KRETFUNC_PROBE(symbol) \
	{ \
		struct call call = { .context = ctx, .traced = 1 }; \
		return handler(call); \
	}
