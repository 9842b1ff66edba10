/* loop.c - tasks for the loop, jobs for a few threads.
 *
 * How   One list of tasks under a lock; the first one that is put in activates an event of the loop, which takes the
 *       whole list.  A task says whether it waits, so that posting it a thousand times costs one run.
 * Careful
 *   - `waiting` is cleared before the task runs: what is posted from then on makes it run again.
 *   - The owner may free a task in its run, or later when it knows that nobody posts it any more. */
#include "server/loop.h"

#include <event2/event.h>
#include <pthread.h>

#include "base/mem.h"

enum { MAX_THREADS = 16 };

struct loop {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct event *event;
	struct wake *first, **last;
	struct job *job, **last_job;
	int jobs, threads;
	pthread_t thread[MAX_THREADS];
	bool stop;
};

void wake_post(struct loop *l, struct wake *t)
{
	bool wake = false;

	pthread_mutex_lock(&l->lock);
	if (!t->waiting) {
		t->waiting = true;
		t->next = NULL;
		wake = !l->first;
		*l->last = t;
		l->last = &t->next;
	}
	pthread_mutex_unlock(&l->lock);
	if (wake)
		event_active(l->event, EV_READ, 0);
}

static void run_tasks(struct loop *l)
{
	struct wake *t, *next;

	pthread_mutex_lock(&l->lock);
	t = l->first;
	l->first = NULL;
	l->last = &l->first;
	pthread_mutex_unlock(&l->lock);
	for (; t; t = next) {
		pthread_mutex_lock(&l->lock);
		next = t->next;
		t->waiting = false;
		pthread_mutex_unlock(&l->lock);
		t->run(t);
	}
}

static void on_tasks(evutil_socket_t fd, short what, void *ctx)
{
	(void)fd;
	(void)what;
	run_tasks(ctx);
}

/* ------------------------------------------------------------------ jobs */

void job_post(struct loop *l, struct job *j)
{
	pthread_mutex_lock(&l->lock);
	j->next = NULL;
	*l->last_job = j;
	l->last_job = &j->next;
	l->jobs++;
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

int loop_jobs(struct loop *l)
{
	int n;

	pthread_mutex_lock(&l->lock);
	n = l->jobs;
	pthread_mutex_unlock(&l->lock);
	return n;
}

static void *work(void *ctx)
{
	struct loop *l = ctx;

	pthread_mutex_lock(&l->lock);
	for (;;) {
		struct job *j = l->job;
		bool skip = l->stop;

		if (!j && l->stop)
			break;
		if (!j) {
			pthread_cond_wait(&l->changed, &l->lock);
			continue;
		}
		l->job = j->next;
		if (!l->job)
			l->last_job = &l->job;
		pthread_mutex_unlock(&l->lock);
		if (!skip)
			j->work(j);
		pthread_mutex_lock(&l->lock);
		l->jobs--;
		pthread_mutex_unlock(&l->lock);
		wake_post(l, &j->back);
		pthread_mutex_lock(&l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

static void stop_threads(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	for (int i = 0; i < l->threads; i++)
		pthread_join(l->thread[i], NULL);
	l->threads = 0;
}

enum status loop_open(struct loop **out, struct event_base *base, int threads, struct err *err)
{
	struct loop *l = mem_zero(sizeof *l);

	*out = NULL;
	if (!l)
		return err_set(err, ERR_MEMORY, "no memory for the loop's tasks");
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	l->last = &l->first;
	l->last_job = &l->job;
	l->event = event_new(base, -1, EV_PERSIST, on_tasks, l);
	for (int i = 0; l->event && i < threads && i < MAX_THREADS; i++)
		if (pthread_create(&l->thread[l->threads], NULL, work, l) == 0)
			l->threads++;
	if (!l->threads) {
		loop_close(l);
		return err_set(err, ERR_MEMORY, "no memory for the loop's threads");
	}
	*out = l;
	return OK;
}

void loop_close(struct loop *l)
{
	if (!l)
		return;
	stop_threads(l);
	while (l->first)
		run_tasks(l);
	if (l->event)
		event_free(l->event);
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->changed);
	mem_free(l);
}
