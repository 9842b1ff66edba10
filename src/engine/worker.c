/* worker.c - the engine's thread, its job queue, and mailboxes.
 *
 * What  One thread that runs the scheduler while there is work and sleeps when there is none; jobs come in through a
 *       list, events go out through a ring per request.
 * How   Two kinds of locks, never held together with a step: the worker's (jobs) and each mailbox's (its ring).
 *       A mailbox is shared by its client and the engine's thread: who lets go of it last frees it.
 * Careful
 *       - Nobody waits for a mailbox: ready() lets a request rest while there is not room for all that a step can say.
 *       - The mailbox must outlive the request: the engine's thread holds it until SCHED_DONE.
 *       - notify is called with the mailbox's lock, so that mailbox_close() ends it for good. */
#include "engine/worker.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"

#define IDLE_POLL 0.25		/* seconds */

enum {
	PER_STEP = 3,		/* READ, TOKEN, DONE */
	LEAST_ROOM = 8		/* and WAITING, STARTED, DONE before the first step */
};

struct mailbox {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct mail *ring;		/* [room] */
	int32_t room, head, n;
	int holders;			/* client, engine's thread */
	bool busy;			/* has a request */
	int cancel;			/* what the scheduler looks at */
	double full_since;		/* 0 = there is room */
	double patience;
	int32_t (*pick)(void *ctx, struct sampler *s, const float *logits);
	void *pick_ctx;
	struct mailbox_hooks hooks;
};

struct job {
	struct job *next;
	struct sched_request r;
	struct mailbox *m;
	int32_t *token, *message_end, *stop;
};

struct worker {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct job *first, **last;
	bool stop;
	struct sched *sched;
	struct tree *tree;		/* the engine's: its second place has things to do while nobody asks */
	double patience;
	struct engine *engine;
	struct worker_stats stats;	/* under the lock */
};

/* ------------------------------------------------------------------ mailboxes */

enum status mailbox_open(struct mailbox **out, int32_t room, struct err *err)
{
	struct mailbox *m = mem_zero(sizeof *m);

	*out = NULL;
	if (m)
		m->ring = mem_array((size_t)(room < LEAST_ROOM ? LEAST_ROOM : room), sizeof *m->ring);
	if (!m || !m->ring) {
		mem_free(m);
		return err_set(err, ERR_MEMORY, "no memory for a mailbox of %d events", (int)room);
	}
	m->room = room < LEAST_ROOM ? LEAST_ROOM : room;
	m->holders = 1;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	*out = m;
	return OK;
}

static void let_go(struct mailbox *m)
{
	bool last;

	pthread_mutex_lock(&m->lock);
	last = --m->holders == 0;
	pthread_mutex_unlock(&m->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->changed);
	mem_free(m->ring);
	mem_free(m);
}

void mailbox_cancel(struct mailbox *m)
{
	__atomic_store_n(&m->cancel, 1, __ATOMIC_RELAXED);
}

void mailbox_close(struct mailbox *m)
{
	if (!m)
		return;
	mailbox_cancel(m);
	pthread_mutex_lock(&m->lock);
	m->hooks.notify = NULL;
	pthread_mutex_unlock(&m->lock);
	let_go(m);
}

void mailbox_set_hooks(struct mailbox *m, const struct mailbox_hooks *h)
{
	pthread_mutex_lock(&m->lock);
	m->hooks = *h;
	pthread_mutex_unlock(&m->lock);
}

static struct timespec in_seconds(double seconds)
{
	struct timespec t;
	double whole;

	clock_gettime(CLOCK_REALTIME, &t);
	seconds = seconds < 0 ? 0 : seconds > 1e6 ? 1e6 : seconds;
	seconds += 1e-9 * (double)t.tv_nsec;
	whole = (double)(long)seconds;
	t.tv_sec += (time_t)whole;
	t.tv_nsec = (long)((seconds - whole) * 1e9);
	return t;
}

bool mailbox_read(struct mailbox *m, struct mail *out, double seconds)
{
	struct timespec until = in_seconds(seconds);
	bool any;

	pthread_mutex_lock(&m->lock);
	while (!m->n)
		if (pthread_cond_timedwait(&m->changed, &m->lock, &until) == ETIMEDOUT)
			break;
	any = m->n > 0;
	if (any) {
		*out = m->ring[m->head];
		m->head = (m->head + 1) % m->room;
		m->n--;
	}
	pthread_mutex_unlock(&m->lock);
	if (any && out->ev.err)
		out->ev.err = &out->error;
	return any;
}

/* Called with the lock: the last event, if a newer one of its kind makes it pointless. */
static struct mail *replaceable(struct mailbox *m, const struct sched_event *ev)
{
	struct mail *last = m->n ? &m->ring[(m->head + m->n - 1) % m->room] : NULL;

	if (last && last->ev.kind == ev->kind && (ev->kind == SCHED_READ || ev->kind == SCHED_WAITING))
		return last;
	return NULL;
}

/* The engine's thread puts an event in.  ready() has seen to it that there is room. */
static bool deliver(void *ctx, const struct sched_event *ev)
{
	struct mailbox *m = ctx;
	bool end = ev->kind == SCHED_DONE;
	void *request_ctx = m->pick_ctx, (*release)(void *);
	struct mail *at;

	pthread_mutex_lock(&m->lock);
	at = replaceable(m, ev);
	if (!at) {
		assert(m->n < m->room);
		at = &m->ring[(m->head + m->n++) % m->room];
	}
	*at = (struct mail){.ev = *ev};
	at->ev.logits = NULL;
	if (ev->err)
		at->error = *ev->err;
	if (end)
		m->busy = false;
	pthread_cond_signal(&m->changed);
	if (m->hooks.notify)
		m->hooks.notify(m->hooks.ctx);
	release = m->hooks.release;
	pthread_mutex_unlock(&m->lock);
	if (end && release)
		release(request_ctx);
	if (end)
		let_go(m);
	return true;
}

static bool ready(void *ctx)
{
	struct mailbox *m = ctx;
	bool room;

	pthread_mutex_lock(&m->lock);
	room = m->room - m->n >= PER_STEP;
	if (room)
		m->full_since = 0;
	else if (m->full_since == 0)
		m->full_since = clock_seconds();
	else if (clock_seconds() - m->full_since > m->patience)
		mailbox_cancel(m);
	pthread_mutex_unlock(&m->lock);
	return room;
}

static int32_t pick(void *ctx, struct sampler *s, const float *logits)
{
	const struct mailbox *m = ctx;

	return m->pick(m->pick_ctx, s, logits);
}

/* ------------------------------------------------------------------ jobs */

static void job_free(struct job *j)
{
	mem_free(j->token);
	mem_free(j->message_end);
	mem_free(j->stop);
	mem_free(j);
}

static int32_t *copy_ints(const int32_t *p, int32_t n)
{
	int32_t *out = mem_array((size_t)(n > 0 ? n : 0) + 1, sizeof *out);

	if (out && n > 0)
		memcpy(out, p, (size_t)n * sizeof *out);
	return out;
}

static struct job *job_new(const struct sched_request *r, struct mailbox *m)
{
	struct job *j = mem_zero(sizeof *j);

	if (!j)
		return NULL;
	j->m = m;
	j->r = *r;
	j->r.token = j->token = copy_ints(r->token, r->n);
	j->r.message_end = j->message_end = copy_ints(r->message_end, r->n_message_end);
	j->r.stop = j->stop = copy_ints(r->stop, r->n_stop);
	j->r.event = deliver;
	j->r.ready = ready;
	j->r.pick = r->pick ? pick : NULL;
	j->r.ctx = m;
	j->r.cancel = &m->cancel;
	if (!j->token || !j->message_end || !j->stop) {
		job_free(j);
		return NULL;
	}
	return j;
}

enum status worker_submit(struct worker *w, const struct sched_request *r, struct mailbox *m, struct err *err)
{
	struct job *j = job_new(r, m);
	bool busy;

	if (!j)
		return err_set(err, ERR_MEMORY, "no memory for a request of %d tokens", (int)r->n);
	pthread_mutex_lock(&m->lock);
	busy = m->busy || m->n > 0;
	if (!busy) {
		m->busy = true;
		m->holders++;
		m->patience = w->patience;
		m->pick = r->pick;
		m->pick_ctx = r->ctx;
		__atomic_store_n(&m->cancel, 0, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&m->lock);
	if (busy) {
		job_free(j);
		return err_set(err, ERR_ARGUMENT, "mailbox: expected an empty one without a request");
	}
	pthread_mutex_lock(&w->lock);
	*w->last = j;
	w->last = &j->next;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
	return OK;
}

/* ------------------------------------------------------------------ the thread */

/* Takes all jobs; waits up to `seconds` if there are none (< 0: until there is one).  False: the end. */
static bool take_jobs(struct worker *w, struct job **out, double seconds)
{
	struct timespec until = in_seconds(seconds);
	bool go_on;

	pthread_mutex_lock(&w->lock);
	while (!w->first && !w->stop) {
		if (seconds < 0)
			pthread_cond_wait(&w->changed, &w->lock);
		else if (seconds == 0 || pthread_cond_timedwait(&w->changed, &w->lock, &until) == ETIMEDOUT)
			break;
	}
	*out = w->first;
	w->first = NULL;
	w->last = &w->first;
	go_on = !w->stop;
	pthread_mutex_unlock(&w->lock);
	return go_on;
}

static void refuse(struct job *j, enum sched_finish finish, const struct err *err)
{
	deliver(j->m, &(struct sched_event){.kind = SCHED_DONE, .finish = finish, .err = err});
}

static void submit_all(struct worker *w, struct job *j, bool go_on)
{
	while (j) {
		struct job *next = j->next;
		struct err err = {0};

		if (!go_on)
			refuse(j, SCHED_FINISH_CANCELLED, NULL);
		else if (sched_submit(w->sched, &j->r, &err) != OK)
			refuse(j, SCHED_FINISH_ERROR, &err);
		job_free(j);
		j = next;
	}
}

const double worker_step_bound[WORKER_STEP_BOUNDS] = {
	0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10,
};

/* Keeps what worker_stats() tells; seconds < 0: no step was run. */
static void note(struct worker *w, double seconds)
{
	struct worker_stats *s = &w->stats;
	const struct kv_pool *pool = &w->engine->pool;
	int i = 0;

	pthread_mutex_lock(&w->lock);
	sched_counts(w->sched, &s->counts);
	tree_stats(w->engine->tree, &s->tree);
	s->blocks = pool->live;
	s->blocks_limit = pool->limit;
	s->checks = pool->live_check;
	s->checks_limit = pool->check_limit;
	if (seconds >= 0) {
		while (i < WORKER_STEP_BOUNDS && seconds > worker_step_bound[i])
			i++;
		s->step_count[i]++;
		s->step_seconds += seconds;
	}
	pthread_mutex_unlock(&w->lock);
}

void worker_stats(struct worker *w, struct worker_stats *out)
{
	pthread_mutex_lock(&w->lock);
	*out = w->stats;
	pthread_mutex_unlock(&w->lock);
}

static void *work(void *ctx)
{
	struct worker *w = ctx;
	double wait = -1;		/* until a job comes */
	bool go_on = true;

	while (go_on) {
		struct sched_counts before, after;
		struct job *jobs;
		double begun;

		go_on = take_jobs(w, &jobs, wait);
		submit_all(w, jobs, go_on);
		sched_counts(w->sched, &before);
		if (!go_on)
			break;
		begun = clock_seconds();
		wait = sched_run_once(w->sched) ? 0 : -1;
		sched_counts(w->sched, &after);
		note(w, after.steps > before.steps ? clock_seconds() - begun : -1);
		if (wait < 0 && tree_poll(w->tree))
			wait = IDLE_POLL;
		if (wait == 0 && before.steps == after.steps)
			wait = 0.002;	/* everybody rests */
	}
	sched_close(w->sched);
	return NULL;
}

enum status worker_open(struct worker **out, struct engine *e, const struct sched_options *opt, double patience,
			struct err *err)
{
	struct worker *w = mem_zero(sizeof *w);
	enum status st;

	*out = NULL;
	if (!w)
		return err_set(err, ERR_MEMORY, "no memory for the engine's thread");
	st = sched_open(&w->sched, e, opt, err);
	if (st != OK) {
		mem_free(w);
		return st;
	}
	w->tree = e->tree;
	w->last = &w->first;
	w->patience = patience;
	w->engine = e;
	w->stats.block_bytes = e->layout.block_bytes;
	w->stats.check_bytes = e->layout.check_bytes;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	note(w, -1);
	if (pthread_create(&w->thread, NULL, work, w) != 0) {
		sched_close(w->sched);
		pthread_mutex_destroy(&w->lock);
		pthread_cond_destroy(&w->changed);
		mem_free(w);
		return err_set(err, ERR_MEMORY, "the engine's thread cannot be started");
	}
	*out = w;
	return OK;
}

void worker_close(struct worker *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->changed);
	mem_free(w);
}
