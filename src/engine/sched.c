/* sched.c - the loop: take requests, build one step out of all of them, run it, take the consequences.
 *
 * What  sched_run_once() drops what was cancelled, admits what may begin (sched_admit.c), then one step: a row of
 *       every request that generates, and parts of prompts in the rows that are left.
 * Why   A row more costs less than a step more, because a step reads all weights it touches once; and a long prompt
 *       must not make those wait who already talk.
 * How   The time of a step without prompts and the cost of a prompt's row are measured as they come; the rows are
 *       chosen so that a step lasts at most `stretch` times one without.  Shares of them go by priority.
 * Careful
 *       - A step that fails or is cancelled leaves all its timelines undefined.  So only a request that is alone in
 *         a step may be cancelled inside it.
 *       - A timeline's blocks are made before the step: who gets none fails alone, without a failed step.
 *       - Tasks leave the list only in sweep(), so callbacks may submit and finish while it is walked. */
#include "engine/sched.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/sched_int.h"

enum {
	FIRST_ROWS = 16,	/* prompt rows beside generating requests while their cost is not known */
	MEASURE_EVERY = 64	/* steps between steps that are kept free of prompts */
};

static double machine_clock(void)
{
	return clock_seconds();
}

enum status sched_open(struct sched **out, struct engine *e, const struct sched_options *opt, struct err *err)
{
	struct sched *s = mem_zero(sizeof *s);
	size_t n = (size_t)e->opt.timelines, wants = (size_t)forward_max_logits(e->forward);

	*out = NULL;
	if (!s)
		return err_set(err, ERR_MEMORY, "no memory for the scheduler");
	s->e = e;
	s->end = &s->task;
	if (opt)
		s->opt = *opt;
	if (!s->opt.check_every)
		s->opt.check_every = 4096;
	if (!s->opt.max_waiting)
		s->opt.max_waiting = 256;
	if (!s->opt.max_parked || s->opt.max_parked > e->opt.timelines)
		s->opt.max_parked = e->opt.timelines;
	if (s->opt.stretch == 0)
		s->opt.stretch = 2;
	if (!s->opt.clock)
		s->opt.clock = machine_clock;
	if (s->opt.check_every < GEOM_BLOCK || s->opt.check_every % GEOM_BLOCK) {
		enum status st = err_set(err, ERR_ARGUMENT, "check_every: expected a multiple of %d, got %d", GEOM_BLOCK,
					 (int)s->opt.check_every);

		mem_free(s);
		return st;
	}
	s->part_of = mem_array(n, sizeof(struct task *));
	s->reader = mem_array(n, sizeof(struct task *));
	s->part = mem_array(n, sizeof *s->part);
	s->parked = mem_array(n, sizeof *s->parked);
	s->logits = mem_array(wants * (size_t)e->shape.vocab, sizeof *s->logits);
	if (!s->part_of || !s->reader || !s->part || !s->parked || !s->logits) {
		sched_close(s);
		return err_set(err, ERR_MEMORY, "no memory for a scheduler of %zu timelines", n);
	}
	*out = s;
	return OK;
}

/* Frees tasks that are done. */
static void sweep(struct sched *s)
{
	struct task **p = &s->task;

	while (*p) {
		struct task *t = *p;

		if (!t->done) {
			p = &t->next;
			continue;
		}
		*p = t->next;
		task_free(t);
	}
	s->end = p;
}

void sched_close(struct sched *s)
{
	if (!s)
		return;
	for (struct task *t = s->task; t; t = t->next)
		task_finish(s, t, SCHED_FINISH_CANCELLED, NULL, NULL);
	sweep(s);
	while (unpark_oldest(s))
		;
	mem_free(s->part_of);
	mem_free(s->reader);
	mem_free(s->part);
	mem_free(s->parked);
	mem_free(s->logits);
	mem_free(s);
}

enum status sched_submit(struct sched *s, const struct sched_request *r, struct err *err)
{
	struct task *t;

	if (s->n_waiting >= s->opt.max_waiting)
		return err_set(err, ERR_LIMIT, "%d requests are waiting already, the limit is %d", (int)s->n_waiting,
			       (int)s->opt.max_waiting);
	TRY(task_new(&t, s, r, err));
	*s->end = t;
	s->end = &t->next;
	s->n_waiting++;
	return OK;
}

/* ------------------------------------------------------------------ building a step */

/* Adds a part of up to n tokens of t.  False: it got no memory and is done. */
static bool add_part(struct sched *s, struct task *t, int32_t n, int32_t *n_parts)
{
	int32_t end = task_cut(t, t->kv->len + n);
	struct err err = {0};

	while (kv_reserve(t->kv, end, &err) != OK) {
		if (!unpark_oldest(s)) {
			task_finish(s, t, SCHED_FINISH_ERROR, &err, NULL);
			return false;
		}
	}
	s->part_of[*n_parts] = t;
	s->part[(*n_parts)++] = (struct forward_part){.kv = t->kv, .token = t->token + t->kv->len,
						      .n = end - t->kv->len, .last_logits = end == t->n};
	return true;
}

/* Whoever repeats a failed step does it by itself, every second step at most.  Returns the parts: 0 or 1. */
static int32_t build_alone(struct sched *s)
{
	int32_t n = 0;

	if (s->was_alone)
		return 0;
	for (struct task *t = s->task; t && n == 0; t = t->next) {
		int32_t rows = forward_max_rows(s->e->forward);

		if (t->kv && !t->done && !t->rests && t->alone)
			add_part(s, t, task_left(t) < rows ? task_left(t) : rows, &n);
	}
	return n;
}

/* One row for everybody who generates.  With fewer logits than those: who waited longest first. */
static int32_t build_decode(struct sched *s)
{
	int32_t most = forward_max_logits(s->e->forward), rows = forward_max_rows(s->e->forward), n = 0;

	most = most < rows ? most : rows;
	while (n < most) {
		struct task *oldest = NULL;

		for (struct task *t = s->task; t; t = t->next)
			if (t->kv && !t->done && !t->rests && !t->alone && task_left(t) == 1 && t->served != s->step &&
			    (!oldest || t->served < oldest->served))
				oldest = t;
		if (!oldest)
			break;
		oldest->served = s->step;
		add_part(s, oldest, 1, &n);
	}
	return n;
}

/* Prompt rows that fit beside `decode` rows without making the step too long. */
static int32_t prompt_rows(const struct sched *s, int32_t decode)
{
	int32_t left = forward_max_rows(s->e->forward) - decode, fit = FIRST_ROWS;

	if (decode == 0 || s->opt.stretch < 0)
		return left;
	if (s->plain_s <= 0 || s->step - s->plain_step >= MEASURE_EVERY)
		return 0;
	if (s->row_s > 0) {
		double rows = (s->opt.stretch - 1) * s->plain_s / s->row_s;

		fit = rows < 1 ? 1 : rows < left ? (int32_t)rows : left;
	}
	return fit < left ? fit : left;
}

static double weight_of(const struct task *t)
{
	double w = 1;

	for (int32_t p = t->r.priority; p > 0; p--)
		w *= 4;
	for (int32_t p = t->r.priority; p < 0; p++)
		w /= 4;
	return w;
}

/* Those who read, the longest unserved first; arrival decides among equals. */
static int32_t list_readers(struct sched *s)
{
	int32_t n = 0;

	for (struct task *t = s->task; t; t = t->next) {
		int32_t at = n;

		if (!t->kv || t->done || t->rests || t->alone || task_left(t) < 2)
			continue;
		for (; at > 0 && s->reader[at - 1]->served > t->served; at--)
			s->reader[at] = s->reader[at - 1];
		s->reader[at] = t;
		n++;
	}
	return n;
}

/* Deals `rows` to the readers by weight, one at least to each in turn; what is left goes to the weightiest. */
static int32_t build_prompts(struct sched *s, int32_t rows, int32_t n_parts)
{
	int32_t n = list_readers(s), logits = forward_max_logits(s->e->forward) - n_parts;
	double total = 0;

	for (int32_t i = 0; i < n; i++)
		total += weight_of(s->reader[i]);
	for (int32_t i = 0; i < n && rows > 0; i++) {
		struct task *t = s->reader[i];
		double weight = weight_of(t);
		int32_t after = n - i - 1 < rows - 1 ? n - i - 1 : rows - 1;	/* a row for each of those behind */
		int32_t share = (int32_t)(rows * weight / total + 0.5), left = task_left(t);

		share = share < 1 ? 1 : share > rows - after ? rows - after : share;
		if (share >= left && logits == 0)	/* no logits left for its end: not the last token */
			share = left = left - 1;
		share = share < left ? share : left;
		total -= weight;
		if (share < 1 || !add_part(s, t, share, &n_parts))
			continue;
		rows -= s->part[n_parts - 1].n;
		logits -= s->part[n_parts - 1].last_logits;
	}
	return n_parts;
}

/* ------------------------------------------------------------------ running it */

/* Everybody goes back to firm ground; alone, whoever was alone already is done. */
static void step_failed(struct sched *s, int32_t n_parts, enum status st, const struct err *err)
{
	s->counts.failed_steps++;
	for (int32_t i = 0; i < n_parts; i++) {
		struct task *t = s->part_of[i];

		kv_rewind(t->kv, t->kv->len);
		if (st == ERR_CANCELLED && n_parts == 1)
			task_finish(s, t, SCHED_FINISH_CANCELLED, NULL, NULL);
		else if (n_parts == 1)
			task_finish(s, t, SCHED_FINISH_ERROR, err, NULL);
		else
			t->alone = true;
	}
}

static void ease(double *mean, double x)
{
	*mean = *mean > 0 ? 0.75 * *mean + 0.25 * x : x;
}

/* What steps cost, for prompt_rows(). */
static void measure(struct sched *s, double seconds, int32_t decode, int32_t prompt)
{
	if (decode && !prompt) {
		ease(&s->plain_s, seconds);
		s->plain_step = s->step;
	} else if (decode && s->plain_s > 0) {
		double extra = seconds - s->plain_s;

		ease(&s->row_s, (extra > 0 ? extra : 0.01 * seconds) / prompt);
	}
}

static void run_step(struct sched *s, int32_t n_parts, int32_t decode)
{
	const volatile int *cancel = n_parts == 1 ? s->part_of[0]->r.cancel : NULL;
	int32_t rows = 0, at = 0;
	struct err err = {0};
	double start = s->opt.clock();
	enum status st = forward_step(s->e->forward, s->part, n_parts, s->logits, cancel, &err);

	for (int32_t i = 0; i < n_parts; i++)
		rows += s->part[i].n;
	s->counts.last_rows = rows;
	s->counts.last_parts = n_parts;
	if (st != OK) {
		step_failed(s, n_parts, st, &err);
		return;
	}
	s->counts.rows += (uint64_t)rows;
	s->counts.decode_rows += (uint64_t)decode;
	measure(s, s->opt.clock() - start, decode, rows - decode);
	for (int32_t i = 0; i < n_parts; i++) {
		struct task *t = s->part_of[i];

		task_keep(s, t, t->kv->len - s->part[i].n);
	}
	for (int32_t i = 0; i < n_parts; i++) {
		const float *logits = s->part[i].last_logits ? s->logits + (size_t)at++ * (size_t)s->e->shape.vocab : NULL;

		task_after_step(s, s->part_of[i], logits);
	}
}

bool sched_run_once(struct sched *s)
{
	int32_t n, decode = 0;

	s->step++;
	for (struct task *t = s->task; t; t = t->next) {
		t->rests = t->r.ready && !t->done && !t->r.ready(t->r.ctx);
		if (!t->done && task_cancelled(t))
			task_finish(s, t, SCHED_FINISH_CANCELLED, NULL, NULL);
	}
	admit(s);
	n = build_alone(s);
	s->was_alone = n > 0;
	if (!n) {
		n = decode = build_decode(s);
		n = build_prompts(s, prompt_rows(s, decode), n);
	}
	if (n) {
		s->counts.steps++;
		run_step(s, n, decode);
	}
	sweep(s);
	tree_poll(s->e->tree);
	return s->task != NULL;
}

void sched_counts(const struct sched *s, struct sched_counts *out)
{
	*out = s->counts;
	out->waiting = s->n_waiting;
	out->parked = s->n_parked;
	for (const struct task *t = s->task; t; t = t->next) {
		if (!t->kv || t->done)
			continue;
		if (task_left(t) > 1)
			out->reading++;
		else
			out->generating++;
	}
}
