// SPDX-License-Identifier: GPL-2.0-only
/* The core: reads a plan, has a backend play it round after round, writes what it answered. */

#include <linux/delay.h>
#include <linux/err.h>
#include <linux/hash.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "play.h"

#define SAY "ztrace: "

static LIST_HEAD(backends);

void ztrace_register(struct ztrace_backend *backend)
{
	list_add_tail(&backend->list, &backends);
}

void ztrace_unregister(struct ztrace_backend *backend)
{
	list_del(&backend->list);
}

static struct ztrace_backend *find_backend(const char *name)
{
	struct ztrace_backend *backend;

	list_for_each_entry(backend, &backends, list)
		if (!strcmp(backend->name, name))
			return backend;
	return NULL;
}

/* ---- how far it is -------------------------------------------------------------------------- */

static atomic64_t calls_done;
static u64 said_ns;

bool ztrace_breathe(u32 calls)
{
	const u64 now_ns = ztrace_now_ns();
	const u64 done = atomic64_add_return(calls, &calls_done);

	if (now_ns - READ_ONCE(said_ns) > 200 * 1000 * 1000) {
		WRITE_ONCE(said_ns, now_ns);
		pr_info(SAY "done %llu\n", done);
	}
	cond_resched();
	return ztrace_interrupted();
}

/* ---- memory --------------------------------------------------------------------------------- */

static u64 base_pages;

u64 ztrace_held_pages(void)
{
	const u64 now = ztrace_free_pages();

	return base_pages > now ? base_pages - now : 0;
}

/* ---- events --------------------------------------------------------------------------------- */

static struct ztrace_event *events;
static u32 event_count, event_room;

void ztrace_note(enum ztrace_event_kind kind, u64 place, u64 begin, u64 end, u64 total, u32 after)
{
	struct ztrace_event *event;

	if (event_count == event_room) {
		pr_err(SAY "error more compactions or evictions than calls\n");
		return;
	}
	event = &events[event_count++];
	event->kind = kind;
	event->place = place;
	event->begin = begin;
	event->cycles = min_t(u64, end - begin, U32_MAX);
	event->total = total;
	event->after = after;
}

/* ---- an allocator that breaks --------------------------------------------------------------- */

bool ztrace_broken;

static struct session *playing; /* while calls are played */
static int write_answers(struct session *session);
static void keep_breaking(struct session *session, const char *said);

static void note_breaking(const char *format, va_list arguments)
{
	static atomic_t claimed = ATOMIC_INIT(0);
	char said[sizeof_field(struct ztrace_answers, broken_said)];

	if (!playing || atomic_cmpxchg(&claimed, 0, 1))
		return;
	vsnprintf(said, sizeof(said), format, arguments);
	keep_breaking(playing, strim(said));
	WRITE_ONCE(ztrace_broken, true);
}

void ztrace_break(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	note_breaking(format, arguments);
	va_end(arguments);
}

void ztrace_dies(const char *said)
{
	struct session *session = playing;

	if (!session)
		return;
	ztrace_break("%s", said);
	playing = NULL; /* writing may fail in the same way */
	write_answers(session);
}

/* ---- handles in use ------------------------------------------------------------------------- */

/* Objects by their handle's hash, in lists; a lock for so many of these each. */
#define LISTS_LOG 20
#define LOCKS 1024

static u32 *first_object, *next_object; /* by hash, by object; 0: none, else the number and one */
static spinlock_t list_locks[LOCKS];
static const unsigned long *object_handles;

static bool handles_begin(u32 objects)
{
	int i;

	first_object = vzalloc(sizeof(u32) << LISTS_LOG);
	next_object = vzalloc(max_t(size_t, objects, 1) * sizeof(u32));
	for (i = 0; i < LOCKS; i++)
		spin_lock_init(&list_locks[i]);
	return first_object && next_object;
}

static void handles_end(void)
{
	vfree(first_object);
	vfree(next_object);
	first_object = next_object = NULL;
}

static void lock_list(u32 list)
{
	while (!spin_trylock(&list_locks[list % LOCKS]))
		ztrace_yield();
}

static void unlock_list(u32 list)
{
	spin_unlock(&list_locks[list % LOCKS]);
}

void ztrace_has(u32 object, unsigned long handle)
{
	const u32 list = hash_long(handle, LISTS_LOG);
	u32 other;

	lock_list(list);
	for (other = first_object[list]; other; other = next_object[other - 1])
		if (object_handles[other - 1] == handle)
			break;
	next_object[object] = first_object[list];
	first_object[list] = object + 1;
	unlock_list(list);
	if (other)
		ztrace_break("malloc returned %#lx, which object %u has", handle, other - 1);
}

void ztrace_gives_back(u32 object, unsigned long handle)
{
	const u32 list = hash_long(handle, LISTS_LOG);
	u32 *at;

	lock_list(list);
	for (at = &first_object[list]; *at; at = &next_object[*at - 1]) {
		if (*at == object + 1) {
			*at = next_object[object];
			break;
		}
	}
	unlock_list(list);
}

bool ztrace_crowded;

/* ---- rounds --------------------------------------------------------------------------------- */

struct session {
	const struct ztrace_plan *plan;
	const u64 *first;
	const struct ztrace_call *calls;
	struct ztrace_backend *backend;
	struct ztrace_answers head;
	unsigned long *handles;
	u64 *begin, *handle, *place, *total;
	u32 *held, *cycles, *lock, *waited;
	s32 *ret;
	struct thread *threads;
	struct ztrace_file *file; /* for the answers */
	u32 round;
	atomic_t ready, running;
};

struct thread {
	struct session *session;
	struct ztrace_run run;
	void *pool;
	bool placing;
	int number;
} ____cacheline_aligned_in_smp;

/* Each thread is alone on the CPU of its number. */
static void keep_breaking(struct session *session, const char *said)
{
	struct ztrace_answers *head = &session->head;
	const u32 thread = session->plan->threads > 1 ? raw_smp_processor_id() : 0;

	head->broken = 1;
	head->broken_round = session->round;
	head->broken_thread = thread;
	/* Another CPU's work, which is no call. */
	head->broken_call = U32_MAX;
	if (thread < session->plan->threads)
		head->broken_call = session->threads[thread].run.at;
	strscpy(head->broken_said, said, sizeof(head->broken_said));
}

static void prepare(struct thread *thread, struct session *session, int number, u32 round)
{
	const struct ztrace_plan *plan = session->plan;
	const size_t kept = plan->noted ? 0 : round;

	thread->session = session;
	thread->number = number;
	thread->placing = round == 0 || plan->noted;
	thread->run = (struct ztrace_run){
		.calls = session->calls,
		.first = session->first[number],
		.end = session->first[number + 1],
		.alone = plan->threads == 1,
		.deferred = plan->deferred,
		.handles = session->handles,
		.begin = session->begin,
		.handle = session->handle,
		.place = session->place,
		.total = session->total,
		.held = session->held,
		.cycles = session->cycles + kept * plan->calls,
		.lock = session->lock,
		.waited = session->waited + kept * plan->calls,
		.ret = session->ret,
		.scratch = thread->run.scratch,
		.placing = thread->placing,
		.checking = !plan->unchecked,
	};
}

static void play(struct thread *thread)
{
	struct ztrace_backend *backend = thread->session->backend;

	(thread->placing ? backend->place : backend->time)(thread->pool, &thread->run);
}

static int play_in_thread(void *data)
{
	struct thread *thread = data;
	struct session *session = thread->session;

	atomic_inc(&session->ready);
	while (atomic_read(&session->ready) < session->plan->threads)
		ztrace_yield();
	play(thread);
	atomic_dec(&session->running);
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

/* All threads begin together, each on a CPU of its own. */
static int play_together(struct session *session, struct thread *threads)
{
	const int count = session->plan->threads;
	struct task_struct **tasks = kcalloc(count, sizeof(*tasks), GFP_KERNEL);
	int i, failed = 0;

	if (!tasks)
		return -ENOMEM;
	atomic_set(&session->ready, 0);
	atomic_set(&session->running, count);
	for (i = 0; i < count; i++) {
		tasks[i] = kthread_create(play_in_thread, &threads[i], "ztrace/%d", i);
		if (IS_ERR(tasks[i])) {
			failed = PTR_ERR(tasks[i]);
			while (i--)
				kthread_stop(tasks[i]); /* it has not begun */
			goto out;
		}
		kthread_bind(tasks[i], i);
	}
	for (i = 0; i < count; i++)
		wake_up_process(tasks[i]);
	while (atomic_read(&session->running))
		schedule_timeout_interruptible(1);
	for (i = 0; i < count; i++)
		kthread_stop(tasks[i]);
out:
	kfree(tasks);
	return failed;
}

static int play_round(struct session *session, struct thread *threads, u32 round)
{
	const struct ztrace_plan *plan = session->plan;
	int i, failed = 0;
	void *pool;

	for (i = 0; i < plan->objects; i++)
		session->handles[i] = ZTRACE_NO_HANDLE;
	for (i = 0; i < plan->calls && (round == 0 || plan->noted); i++)
		session->ret[i] = ZTRACE_NOT_MADE;
	memset(first_object, 0, sizeof(u32) << LISTS_LOG);
	session->round = round;
	base_pages = ztrace_free_pages();
	if (round == 0)
		session->head.base_pages = base_pages;
	pool = session->backend->create();
	if (IS_ERR_OR_NULL(pool)) {
		pr_err(SAY "error %s made no pool\n", session->backend->name);
		return -ENOMEM;
	}
	for (i = 0; i < plan->threads; i++) {
		prepare(&threads[i], session, i, round);
		threads[i].pool = pool;
	}
	if (plan->threads == 1)
		play(&threads[0]);
	else
		failed = play_together(session, threads);
	if (ztrace_broken) /* then nothing more is asked of it, and its memory is lost */
		return failed;
	session->backend->release(pool, session->handles, plan->objects);
	session->backend->destroy(pool);
	return failed ?: ztrace_interrupted() ? -EINTR : 0;
}

/* What two readings of the clock cost when nothing lies between them. */
static u32 clock_cycles(void)
{
	u64 least = U64_MAX;
	int i;

	for (i = 0; i < 100000; i++) {
		const u64 begin = ztrace_begin();
		const u64 end = ztrace_end();

		least = min(least, end - begin);
	}
	return least;
}

static int write_answers(struct session *session)
{
	const struct ztrace_plan *plan = session->plan;
	const size_t calls = plan->calls, rounds = 1 + (size_t)session->head.rounds;
	const size_t watched = plan->threads > 1 ? calls : 0;
	const struct {
		const void *data;
		size_t bytes;
	} parts[] = {
		{ &session->head, sizeof(session->head) },
		{ session->begin, calls * sizeof(u64) },
		{ session->handle, calls * sizeof(u64) },
		{ session->place, calls * sizeof(u64) },
		{ session->total, calls * sizeof(u64) },
		{ session->held, calls * sizeof(u32) },
		{ session->ret, calls * sizeof(s32) },
		{ session->cycles, rounds * calls * sizeof(u32) },
		{ session->lock, watched * sizeof(u32) },
		{ session->waited, rounds * watched * sizeof(u32) },
		{ events, event_count * sizeof(*events) },
	};
	int i, failed = 0;

	session->head.end_ns = ztrace_now_ns();
	session->head.end_cycles = ztrace_begin();
	session->head.events = event_count;
	for (i = 0; i < ARRAY_SIZE(parts) && !failed; i++)
		failed = ztrace_put(session->file, parts[i].data, parts[i].bytes);
	return failed;
}

static int play_all(struct session *session, struct thread *threads)
{
	const struct ztrace_plan *plan = session->plan;
	int failed = 0;
	u32 round;

	session->head.clock_cycles = clock_cycles();
	session->head.begin_ns = ztrace_now_ns();
	session->head.begin_cycles = ztrace_begin();
	ztrace_ticks(false);
	session->threads = threads;
	ztrace_crowded = plan->crowded;
	playing = session;
	for (round = 0; round <= plan->rounds && !failed && !ztrace_broken; round++)
		failed = play_round(session, threads, round);
	playing = NULL;
	ztrace_ticks(true);
	return failed;
}

static bool is_plan(const struct ztrace_plan *plan, size_t bytes)
{
	if (bytes < sizeof(*plan) || plan->magic != ZTRACE_PLAN || !plan->threads)
		return false;
	return bytes == sizeof(*plan) + (plan->threads + 1) * sizeof(u64) +
				plan->calls * sizeof(struct ztrace_call);
}

static bool has_shrinks(const struct session *session)
{
	u32 i;

	for (i = 0; i < session->plan->calls; i++)
		if (session->calls[i].what >> 24 == ZTRACE_SHRINK)
			return true;
	return false;
}

/* Zeroed, so that its pages are there before anything is timed. */
static void *array(size_t count, size_t bytes, bool *there)
{
	void *made = vzalloc(max_t(size_t, count, 1) * bytes);

	*there = *there && made;
	return made;
}

int ztrace_main(const char *allocator, const char *path, const char *answers)
{
	struct session *session = kzalloc(sizeof(*session), GFP_KERNEL);
	struct thread *threads = NULL;
	void *data = NULL;
	bool there = true;
	size_t bytes, n, rounds;
	int failed, i;

	if (!session)
		return -ENOMEM;
	session->backend = find_backend(allocator);
	failed = -ENOENT;
	if (!session->backend) {
		pr_err(SAY "error no allocator %s in this kernel\n", allocator);
		goto out;
	}
	failed = ztrace_load(path, &data, &bytes);
	if (failed) {
		pr_err(SAY "error cannot read the plan: %d\n", failed);
		goto out;
	}
	session->plan = data;
	failed = -EINVAL;
	if (!is_plan(data, bytes)) {
		pr_err(SAY "error that is no plan\n");
		goto out;
	}
	if (session->plan->threads > num_online_cpus()) {
		pr_err(SAY "error only %u CPUs\n", num_online_cpus());
		goto out;
	}
	session->first = data + sizeof(*session->plan);
	session->calls = (const void *)(session->first + session->plan->threads + 1);
	n = session->plan->calls;
	session->handles = array(session->plan->objects, sizeof(*session->handles), &there);
	session->begin = array(n, sizeof(u64), &there);
	session->handle = array(n, sizeof(u64), &there);
	session->place = array(n, sizeof(u64), &there);
	session->total = array(n, sizeof(u64), &there);
	session->held = array(n, sizeof(u32), &there);
	session->ret = array(n, sizeof(s32), &there);
	session->head.rounds = session->plan->noted ? 0 : session->plan->rounds;
	rounds = 1 + (size_t)session->head.rounds;
	session->cycles = array(n, rounds * sizeof(u32), &there);
	if (session->plan->threads > 1) {
		session->lock = array(n, sizeof(u32), &there);
		session->waited = array(n, rounds * sizeof(u32), &there);
	}
	threads = array(session->plan->threads, sizeof(*threads), &there);
	object_handles = session->handles;
	there = handles_begin(session->plan->objects) && there;
	event_count = event_room = 0;
	if (session->backend->notes || has_shrinks(session)) {
		event_room = n + 16;
		events = array(event_room, sizeof(*events), &there);
	}
	for (i = 0; there && i < session->plan->threads; i++) {
		threads[i].run.scratch = kzalloc(2 * PAGE_SIZE, GFP_KERNEL);
		there = there && threads[i].run.scratch;
	}
	failed = -ENOMEM;
	if (!there) {
		pr_err(SAY "error too little memory for the answers\n");
		goto out;
	}
	session->head.magic = ZTRACE_ANSWERS;
	session->head.calls = n;
	/* Now, since a kernel that dies can open nothing. */
	session->file = ztrace_create(answers);
	failed = PTR_ERR_OR_ZERO(session->file);
	if (!failed) {
		failed = play_all(session, threads);
		if (!failed)
			failed = write_answers(session);
		failed = ztrace_close(session->file) ?: failed;
	}
	if (failed)
		pr_err(SAY "error %d\n", failed);
	else if (ztrace_broken)
		pr_err(SAY "broken %s\n", session->head.broken_said);
	else
		pr_info(SAY "finished\n");
out:
	for (i = 0; threads && i < session->plan->threads; i++)
		kfree(threads[i].run.scratch);
	vfree(threads);
	handles_end();
	vfree(events);
	events = NULL;
	vfree(session->waited);
	vfree(session->lock);
	vfree(session->cycles);
	vfree(session->ret);
	vfree(session->held);
	vfree(session->total);
	vfree(session->place);
	vfree(session->handle);
	vfree(session->begin);
	vfree(session->handles);
	vfree(data);
	kfree(session);
	return failed;
}
