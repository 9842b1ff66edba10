/* thread.c - the pool of threads behind parallel_for().
 *
 * What  A round is (fn, ctx, n items), cut into a few contiguous ranges.  The caller and n - 1 workers take
 *       ranges until none is left; the caller returns when all are done.
 * Why   One token of a small model is some hundred operations of 5-50 us each: a fork-join has to cost well
 *       under a microsecond, which no sleeping primitive does.  And on a busy machine a worker may not get a
 *       core for milliseconds: the caller must not wait for one that has not begun.
 * How   `ticket` holds the number of the round (high half) and how many ranges are left to take (low half);
 *       taking one is a compare-and-swap.  A worker that comes late finds nothing and goes on waiting.  Both
 *       sides spin first; whoever gives up announces it (`sleepers`, `caller_sleeps`) and waits on a condition
 *       variable; the other side looks at the announcement after its own write.
 * Careful
 *       - Announcement and ticket (or `done`) are each written by one side and read by the other in the
 *         opposite order, so these accesses are sequentially consistent: with less, both sides could miss each
 *         other and sleep for ever.
 *       - The job may be read only between taking a range and counting it as done; at any other time the caller
 *         may be writing the next one.
 *       - The round number keeps a swap prepared in one round from succeeding in the next.
 *       - A machine with fewer cores than threads must not spin a time slice away: spinning is short, and
 *         absent when the pool has more threads than cpu_count(). */
#define _GNU_SOURCE	/* CPU_ALLOC, sched_getaffinity */
#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

enum {
	MAX_THREADS = 1024,
	SPIN = 2000,			/* looks at the ticket before sleeping: 20 to 100 us */
	RANGES_PER_THREAD = 2,		/* a late worker then costs half of its share */
	MOST_PER_THREAD = 64
};

struct worker {
	struct pool *pool;
	pthread_t id;
	int thread;
};

struct pool {
	int threads, spin;
	struct worker *worker;		/* [threads - 1] */
	int started;

	void (*fn)(void *ctx, long begin, long end, int thread);
	void *ctx;
	long n;
	uint32_t ranges;

	/* Apart from each other: all threads swap the first, the workers count in the second. */
	_Alignas(64) atomic_uint_least64_t ticket;
	_Alignas(64) atomic_uint done;		/* ranges that workers have finished in this round */
	_Alignas(64) atomic_int sleepers;
	atomic_int caller_sleeps, stop;

	pthread_mutex_t mutex;
	pthread_cond_t work, finished;
};

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Takes one range of the round that is on and runs it; false when there is none. */
static int run_range(struct pool *p, int thread)
{
	uint_least64_t t = atomic_load_explicit(&p->ticket, memory_order_relaxed);
	long i, begin, end;

	do {
		if (!(uint32_t)t)
			return 0;
	} while (!atomic_compare_exchange_weak_explicit(&p->ticket, &t, t - 1, memory_order_acquire,
							memory_order_relaxed));
	i = (long)(p->ranges - (uint32_t)t);
	begin = (long)((__int128)p->n * i / p->ranges);
	end = (long)((__int128)p->n * (i + 1) / p->ranges);
	p->fn(p->ctx, begin, end, thread);
	return 1;
}

/* Returns when there may be a range to take, or the pool is closing. */
static void wait_work(struct pool *p)
{
	for (int i = 0; i < p->spin; i++) {
		if ((uint32_t)atomic_load_explicit(&p->ticket, memory_order_relaxed))
			return;
		relax();
	}
	pthread_mutex_lock(&p->mutex);
	atomic_fetch_add(&p->sleepers, 1);
	while (!(uint32_t)atomic_load(&p->ticket) && !atomic_load(&p->stop))
		pthread_cond_wait(&p->work, &p->mutex);
	atomic_fetch_sub(&p->sleepers, 1);
	pthread_mutex_unlock(&p->mutex);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct pool *p = w->pool;

	while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
		wait_work(p);
		while (run_range(p, w->thread)) {
			atomic_fetch_add(&p->done, 1);
			if (atomic_load(&p->caller_sleeps)) {
				pthread_mutex_lock(&p->mutex);
				pthread_cond_signal(&p->finished);
				pthread_mutex_unlock(&p->mutex);
			}
		}
	}
	return NULL;
}

static void wake_workers(struct pool *p)
{
	if (!atomic_load(&p->sleepers))
		return;
	pthread_mutex_lock(&p->mutex);
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->mutex);
}

/* Waits until the workers have finished `count` ranges. */
static void wait_done(struct pool *p, uint32_t count)
{
	for (int i = 0; i < p->spin; i++) {
		if (atomic_load_explicit(&p->done, memory_order_acquire) == count)
			return;
		relax();
	}
	pthread_mutex_lock(&p->mutex);
	atomic_store(&p->caller_sleeps, 1);
	while (atomic_load(&p->done) != count)
		pthread_cond_wait(&p->finished, &p->mutex);
	atomic_store(&p->caller_sleeps, 0);
	pthread_mutex_unlock(&p->mutex);
}

void parallel_for(struct pool *p, long n, void (*fn)(void *ctx, long begin, long end, int thread), void *ctx)
{
	parallel_for_ranges(p, n, RANGES_PER_THREAD, fn, ctx);
}

void parallel_for_ranges(struct pool *p, long n, int per_thread, void (*fn)(void *ctx, long begin, long end, int thread),
			 void *ctx)
{
	const long ranges = (per_thread < 1 ? 1 : per_thread < MOST_PER_THREAD ? per_thread : MOST_PER_THREAD) * (long)p->threads;
	uint_least64_t round;
	uint32_t mine = 0;

	if (n <= 0)
		return;
	if (p->threads == 1 || n == 1) {
		fn(ctx, 0, n, 0);
		return;
	}
	p->fn = fn;
	p->ctx = ctx;
	p->n = n;
	p->ranges = (uint32_t)(n < ranges ? n : ranges);
	atomic_store_explicit(&p->done, 0, memory_order_relaxed);
	round = (atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
	atomic_store(&p->ticket, round << 32 | p->ranges);
	wake_workers(p);
	while (run_range(p, 0))
		mine++;
	wait_done(p, p->ranges - mine);
}

enum status pool_open(struct pool **out, int n, struct err *err)
{
	struct pool *p;

	*out = NULL;
	if (n < 1 || n > MAX_THREADS)
		return err_set(err, ERR_ARGUMENT, "number of threads: expected 1..%d, got %d", MAX_THREADS, n);
	p = mem_aligned(sizeof *p, 64);
	if (!p)
		return err_set(err, ERR_MEMORY, "no memory for a pool of %d threads", n);
	p->threads = n;
	p->spin = n <= cpu_count() ? SPIN : 0;
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->finished, NULL);
	p->worker = mem_array((size_t)n, sizeof *p->worker);
	if (!p->worker) {
		pool_close(p);
		return err_set(err, ERR_MEMORY, "no memory for a pool of %d threads", n);
	}
	for (int i = 0; i < n - 1; i++) {
		int e;

		p->worker[i] = (struct worker){.pool = p, .thread = i + 1};
		e = pthread_create(&p->worker[i].id, NULL, worker_main, &p->worker[i]);
		if (e) {
			pool_close(p);
			return err_set(err, ERR_MEMORY, "thread %d of %d cannot be started: %s", i + 2, n,
			               strerror(e));
		}
		p->started++;
	}
	*out = p;
	return OK;
}

void pool_close(struct pool *p)
{
	if (!p)
		return;
	atomic_store(&p->stop, 1);
	pthread_mutex_lock(&p->mutex);
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->mutex);
	for (int i = 0; i < p->started; i++)
		pthread_join(p->worker[i].id, NULL);
	pthread_cond_destroy(&p->work);
	pthread_cond_destroy(&p->finished);
	pthread_mutex_destroy(&p->mutex);
	mem_free(p->worker);
	mem_free(p);
}

int pool_threads(const struct pool *p)
{
	return p->threads;
}

/* ------------------------------------------------------------------ how many cores there are */

#ifdef __linux__
static int affinity_count(void)
{
	int count = 0;

	/* The mask must be as long as the kernel's, which is not told: grow until it is accepted. */
	for (size_t cpus = 1024; cpus <= 65536 && !count; cpus *= 4) {
		cpu_set_t *set = CPU_ALLOC(cpus);

		if (!set)
			break;
		if (sched_getaffinity(0, CPU_ALLOC_SIZE(cpus), set) == 0)
			count = CPU_COUNT_S(CPU_ALLOC_SIZE(cpus), set);
		CPU_FREE(set);
	}
	return count;
}

/* The quota of one group in whole cores, rounded up; 0 = none.  File v2: "max 100000" or "150000 100000". */
static int quota_v2(const char *group)
{
	char path[4200];
	long quota = 0, period = 0;
	int n;
	FILE *f;

	snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
	f = fopen(path, "r");
	if (!f)
		return 0;
	n = fscanf(f, "%ld %ld", &quota, &period);
	fclose(f);
	return n == 2 && quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

static int quota_v1(const char *group)
{
	static const char *const name[2] = {"cpu.cfs_quota_us", "cpu.cfs_period_us"};
	long v[2] = {0, 0};

	for (int i = 0; i < 2; i++) {
		char path[4200];
		FILE *f;

		snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/%s", group, name[i]);
		f = fopen(path, "r");
		if (!f)
			return 0;
		if (fscanf(f, "%ld", &v[i]) != 1)
			v[i] = 0;
		fclose(f);
	}
	return v[0] > 0 && v[1] > 0 ? (int)((v[0] + v[1] - 1) / v[1]) : 0;
}

/* Least quota of a group and its parents; inside a container the group's own path may not exist, the root does. */
static int quota_upwards(char *group, int (*quota)(const char *group))
{
	int least = 0;

	for (;;) {
		int q = quota(group);
		char *slash = strrchr(group, '/');

		if (q && (!least || q < least))
			least = q;
		if (!slash)
			return least;
		*slash = '\0';
	}
}

/* Is `cpu` one of the names in "cpu,cpuacct"? */
static int names_cpu(const char *list)
{
	for (const char *p = list; p; p = strchr(p, ',')) {
		if (*p == ',')
			p++;
		if (!strncmp(p, "cpu", 3) && (p[3] == ',' || p[3] == '\0'))
			return 1;
	}
	return 0;
}

/* Lines of /proc/self/cgroup: "0::/path" (v2), "4:cpu,cpuacct:/path" (v1). */
static int group_count(void)
{
	char line[4096];
	int least = 0;
	FILE *f = fopen("/proc/self/cgroup", "r");

	if (!f)
		return 0;
	while (fgets(line, sizeof line, f)) {
		char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
		int q = 0;

		if (!path)
			continue;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (!strcmp(path, "/"))
			*path = '\0';
		if (list[1] == '\0')
			q = quota_upwards(path, quota_v2);
		else if (names_cpu(list + 1))
			q = quota_upwards(path, quota_v1);
		if (q && (!least || q < least))
			least = q;
	}
	fclose(f);
	return least;
}

int cpu_count(void)
{
	int n = affinity_count(), quota = group_count();

	if (n < 1)
		n = (int)sysconf(_SC_NPROCESSORS_ONLN);
	if (quota && quota < n)
		n = quota;
	return n < 1 ? 1 : n;
}
#else
int cpu_count(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : (int)n;
}
#endif
