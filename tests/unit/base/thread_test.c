/* thread_test.c - the pool runs every index once, whatever the number of threads and however long it slept. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

enum { MAX_N = 1000 };

struct count {
	int seen[MAX_N];	/* written by the owner of an index only: the sanitizer would see a second owner */
	int threads;
	int bad_thread;
};

static void mark(void *ctx, long begin, long end, int thread)
{
	struct count *c = ctx;

	if (thread < 0 || thread >= c->threads || begin >= end)
		c->bad_thread = 1;
	for (long i = begin; i < end; i++)
		c->seen[i]++;
}

static struct pool *open_pool(int n)
{
	struct pool *p;
	struct err err = {0};

	if (pool_open(&p, n, &err) != OK)
		fail_msg("pool_open(%d): %s", n, err.msg);
	return p;
}

static void every_index_runs_exactly_once(void **state)
{
	static const int threads[] = {1, 2, 3, 7, 16};
	static const long items[] = {0, 1, 2, 3, 6, 7, 8, 100, 999, MAX_N};

	(void)state;
	for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
		struct pool *p = open_pool(threads[t]);

		assert_int_equal(pool_threads(p), threads[t]);
		for (size_t k = 0; k < sizeof items / sizeof *items; k++) {
			struct count c = {.threads = threads[t]};

			parallel_for(p, items[k], mark, &c);
			assert_int_equal(c.bad_thread, 0);
			for (long i = 0; i < MAX_N; i++)
				if (c.seen[i] != (i < items[k]))
					fail_msg("%d threads, n = %ld: index %ld ran %d times", threads[t],
					         items[k], i, c.seen[i]);
		}
		pool_close(p);
	}
}

struct chain {
	long value[64];
};

static void add_one(void *ctx, long begin, long end, int thread)
{
	struct chain *c = ctx;

	(void)thread;
	for (long i = begin; i < end; i++)
		c->value[i] = c->value[i] + 1;
}

static void many_rounds_in_a_row_lose_no_work(void **state)
{
	static const int threads[] = {2, 3, 7};

	(void)state;
	for (int t = 0; t < 3; t++) {
		struct pool *p = open_pool(threads[t]);
		struct chain c = {{0}};
		int rounds = threads[t] == 2 ? 5000 : 1000;

		for (int i = 0; i < rounds; i++)
			parallel_for(p, 64, add_one, &c);
		for (int i = 0; i < 64; i++)
			if (c.value[i] != rounds)
				fail_msg("%d threads: value %d is %ld after %d rounds", threads[t], i,
				         c.value[i], rounds);
		pool_close(p);
	}
}

struct sum {
	const long *in;
	long out[8];
};

static void sum_range(void *ctx, long begin, long end, int thread)
{
	struct sum *s = ctx;

	for (long i = begin; i < end; i++)
		s->out[thread] += s->in[i];
}

/* What the caller wrote before the call is seen by the workers, and what they wrote by the caller. */
static void data_passes_both_ways(void **state)
{
	struct pool *p = open_pool(4);
	long in[100];

	(void)state;
	for (int round = 0; round < 500; round++) {
		struct sum s = {.in = in};
		long want = 0, have = 0;

		for (int i = 0; i < 100; i++)
			want += in[i] = (i * 7919L + round) % 1000;
		parallel_for(p, 100, sum_range, &s);
		for (int t = 0; t < 4; t++)
			have += s.out[t];
		assert_int_equal(have, want);
	}
	pool_close(p);
}

static void sleeping_workers_wake_up(void **state)
{
	struct pool *p = open_pool(3);

	(void)state;
	for (int round = 0; round < 10; round++) {
		struct count c = {.threads = 3};

		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
		parallel_for(p, 30, mark, &c);
		for (int i = 0; i < 30; i++)
			assert_int_equal(c.seen[i], 1);
	}
	pool_close(p);
}

static void nap(void *ctx, long begin, long end, int thread)
{
	/* The caller's own ranges take a while, so that workers get to take others, and those take longer. */
	nanosleep(&(struct timespec){.tv_nsec = thread ? 20000000 : 2000000}, NULL);
	for (long i = begin; i < end; i++)
		((int *)ctx)[i] = 1;
}

static void the_caller_waits_for_slow_workers(void **state)
{
	struct pool *p = open_pool(2);
	int done[8] = {0}, sum = 0;

	(void)state;
	parallel_for(p, 8, nap, done);
	for (int i = 0; i < 8; i++)
		sum += done[i];
	assert_int_equal(sum, 8);
	pool_close(p);
}

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void an_idle_pool_uses_no_time(void **state)
{
	struct pool *p = open_pool(4);
	struct count c = {.threads = 4};
	double before, used;

	(void)state;
	parallel_for(p, 100, mark, &c);
	nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	before = cpu_seconds();
	nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	used = cpu_seconds() - before;
	if (used > 0.02)
		fail_msg("an idle pool used %.0f ms of 100 ms", used * 1e3);
	pool_close(p);
}

static void bad_thread_counts_are_refused(void **state)
{
	static const int bad[] = {0, -1, 1000000};

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct pool *p;
		struct err err = {0};

		assert_int_equal(pool_open(&p, bad[i], &err), ERR_ARGUMENT);
		assert_null(p);
		assert_true(strlen(err.msg) > 0);
	}
}

static void running_out_of_memory_is_an_error(void **state)
{
	(void)state;
	for (long n = 1; n <= 2; n++) {
		struct pool *p;
		struct err err = {0};

		mem_fail_at(n);
		assert_int_equal(pool_open(&p, 3, &err), ERR_MEMORY);
		mem_fail_at(0);
		assert_null(p);
	}
	pool_close(NULL);
}

static void cpu_count_respects_the_affinity_mask(void **state)
{
	int all = cpu_count();

	(void)state;
	assert_true(all >= 1);
#ifdef __linux__
	cpu_set_t old, one;

	assert_int_equal(sched_getaffinity(0, sizeof old, &old), 0);
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &old)) {
			CPU_SET(i, &one);
			break;
		}
	assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
	assert_int_equal(cpu_count(), 1);
	assert_int_equal(sched_setaffinity(0, sizeof old, &old), 0);
	assert_int_equal(cpu_count(), all);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_index_runs_exactly_once),
		cmocka_unit_test(many_rounds_in_a_row_lose_no_work),
		cmocka_unit_test(data_passes_both_ways),
		cmocka_unit_test(sleeping_workers_wake_up),
		cmocka_unit_test(the_caller_waits_for_slow_workers),
		cmocka_unit_test(an_idle_pool_uses_no_time),
		cmocka_unit_test(bad_thread_counts_are_refused),
		cmocka_unit_test(running_out_of_memory_is_an_error),
		cmocka_unit_test(cpu_count_respects_the_affinity_mask),
	};

	return cmocka_run_group_tests_name("thread", tests, NULL, NULL);
}
