/* loop_test.c - wakes come once for many posts and none is lost; jobs are worked elsewhere and come back. */
#include <event2/event.h>
#include <event2/thread.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/loop.h"

enum { THREADS = 4, POSTS = 2000, JOBS = 200 };

static struct event_base *base;
static struct loop *loop;
static int runs, seen, posted, worked, back;
static pthread_t loop_thread;

static void open_loop(void)
{
	struct err err;

	evthread_use_pthreads();
	base = event_base_new();
	assert_int_equal(loop_open(&loop, base, 3, &err), OK);
	runs = seen = posted = worked = back = 0;
	loop_thread = pthread_self();
}

static void close_loop(void)
{
	loop_close(loop);
	event_base_free(base);
}

static void on_wake(struct wake *w)
{
	(void)w;
	runs++;
	seen = __atomic_load_n(&posted, __ATOMIC_SEQ_CST);
}

static void *post(void *ctx)
{
	for (int i = 0; i < POSTS; i++) {
		__atomic_add_fetch(&posted, 1, __ATOMIC_SEQ_CST);
		wake_post(loop, ctx);
	}
	return NULL;
}

static void what_was_posted_last_is_always_seen(void **state)
{
	struct wake w = {.run = on_wake};
	pthread_t t[THREADS];

	(void)state;
	open_loop();
	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, post, &w);
	for (int i = 0; i < 1000 && seen < THREADS * POSTS; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(1000);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert_int_equal(seen, THREADS * POSTS);
	assert_true(runs >= 1 && runs <= THREADS * POSTS);
	runs = 0;
	for (int i = 0; i < 5; i++)
		wake_post(loop, &w);
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert_int_equal(runs, 1);
	close_loop();
}

static void work(struct job *j)
{
	(void)j;
	assert_false(pthread_equal(pthread_self(), loop_thread));
	__atomic_add_fetch(&worked, 1, __ATOMIC_SEQ_CST);
}

static void on_back(struct wake *w)
{
	(void)w;
	assert_true(pthread_equal(pthread_self(), loop_thread));
	back++;
}

static void jobs_are_worked_elsewhere_and_come_back(void **state)
{
	static struct job job[JOBS];

	(void)state;
	open_loop();
	for (int i = 0; i < JOBS; i++) {
		job[i] = (struct job){.work = work, .back.run = on_back};
		job_post(loop, &job[i]);
	}
	for (int i = 0; i < 5000 && back < JOBS; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(1000);
	}
	assert_int_equal(worked, JOBS);
	assert_int_equal(back, JOBS);
	assert_int_equal(loop_jobs(loop), 0);
	close_loop();
}

static void slow(struct job *j)
{
	usleep(20000);
	work(j);
}

static void closing_brings_every_job_back(void **state)
{
	static struct job job[JOBS];

	(void)state;
	open_loop();
	for (int i = 0; i < JOBS; i++) {
		job[i] = (struct job){.work = slow, .back.run = on_back};
		job_post(loop, &job[i]);
	}
	loop_close(loop);
	assert_int_equal(back, JOBS);
	assert_true(worked < JOBS);
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_posted_last_is_always_seen),
		cmocka_unit_test(jobs_are_worked_elsewhere_and_come_back),
		cmocka_unit_test(closing_brings_every_job_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
