/* worker_test.c - the engine's thread: many clients at once get what they would get alone; one that does not read, leaves
 * or cancels holds nobody up.  Meant to be run under the thread sanitizer, too. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "engine/worker.h"
#include "support/golden.h"

enum { CLIENTS = 4, PROMPT = 60, OUT = 12 };

static struct engine *open_engine(int32_t timelines)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct err err = {0};
	struct engine *e;

	o.model = golden_tiny_path(3);
	o.backend = "cpu";
	o.threads = 1;
	o.chunk = 32;
	o.context = 256;
	o.timelines = timelines;
	if (engine_open(&e, &o, &err) != OK)
		fail_msg("%s", err.msg);
	return e;
}

static void open_worker(struct worker **w, struct engine *e, double patience)
{
	struct err err = {0};

	if (worker_open(w, e, NULL, patience, &err) != OK)
		fail_msg("%s", err.msg);
}

struct client {
	struct worker *w;
	int number;
	int32_t out[OUT + 1];
	int n_out, ended;
	enum sched_finish finish;
	int32_t room;
};

static void prompt_of(int32_t *token, int number)
{
	struct rng rng = rng_seed((uint64_t)number);

	for (int i = 0; i < PROMPT; i++)
		token[i] = (int32_t)rng_below(&rng, 320);
}

/* Asks and reads to the end.  Runs on a thread: no assertions. */
static void *ask(void *ctx)
{
	struct client *c = ctx;
	int32_t token[PROMPT];
	struct sched_request r = {.token = token, .n = PROMPT, .max_tokens = OUT,
				  .sampling = {.temperature = 1, .top_p = 1, .seed = (uint64_t)c->number}};
	struct mailbox *m;
	struct mail mail;

	prompt_of(token, c->number);
	if (mailbox_open(&m, c->room, NULL) != OK || worker_submit(c->w, &r, m, NULL) != OK)
		return NULL;
	memset(token, 0xFF, sizeof token);	/* it was copied */
	while (!c->ended && mailbox_read(m, &mail, 60)) {
		if (mail.ev.kind == SCHED_TOKEN && c->n_out < OUT)
			c->out[c->n_out++] = mail.ev.token;
		if (mail.ev.kind == SCHED_DONE) {
			c->ended++;
			c->finish = mail.ev.finish;
		}
	}
	mailbox_close(m);
	return NULL;
}

static void clients_on_threads_get_what_they_get_alone(void **state)
{
	struct client c[CLIENTS] = {{0}}, alone[CLIENTS] = {{0}};
	pthread_t thread[CLIENTS];
	struct engine *e = open_engine(3);
	struct worker *w;

	(void)state;
	open_worker(&w, e, 10);
	for (int i = 0; i < CLIENTS; i++) {
		c[i] = (struct client){.w = w, .number = i, .room = i % 2 ? 8 : 64};
		assert_int_equal(pthread_create(&thread[i], NULL, ask, &c[i]), 0);
	}
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < CLIENTS; i++) {
		alone[i] = (struct client){.w = w, .number = i, .room = 64};
		ask(&alone[i]);
		assert_int_equal(c[i].ended, 1);
		assert_int_equal(c[i].finish, SCHED_FINISH_LENGTH);
		assert_int_equal(c[i].n_out, OUT);
		assert_memory_equal(c[i].out, alone[i].out, sizeof c[i].out);
	}
	worker_close(w);
	engine_close(e);
}

static void who_does_not_read_rests_and_is_cancelled(void **state)
{
	int32_t token[PROMPT];
	struct sched_request r = {.token = token, .n = PROMPT, .max_tokens = 150, .sampling = SAMPLER_DEFAULT};
	struct client other = {.number = 5, .room = 64};
	struct engine *e = open_engine(2);
	struct mailbox *m, *leaves;
	struct err err = {0};
	struct mail mail;
	int tokens = 0, ends = 0;
	double until = clock_seconds() + 20;

	(void)state;
	open_worker(&other.w, e, 0.2);
	prompt_of(token, 1);
	assert_int_equal(mailbox_open(&m, 8, &err), OK);
	assert_int_equal(mailbox_open(&leaves, 8, &err), OK);
	assert_int_equal(worker_submit(other.w, &r, m, &err), OK);
	assert_int_equal(worker_submit(other.w, &r, m, &err), ERR_ARGUMENT);	/* one at a time */
	assert_int_equal(worker_submit(other.w, &r, leaves, &err), OK);
	mailbox_close(leaves);
	ask(&other);			/* needs a timeline of one of the two */
	assert_int_equal(other.finish, SCHED_FINISH_LENGTH);
	while (clock_seconds() < until && !ends) {
		struct timespec nap = {0, 300 * 1000000};

		if (tokens == 0)
			nanosleep(&nap, NULL);	/* longer than its patience */
		if (mailbox_read(m, &mail, 5)) {
			tokens += mail.ev.kind == SCHED_TOKEN;
			ends += mail.ev.kind == SCHED_DONE;
		}
	}
	assert_int_equal(ends, 1);
	assert_int_equal(mail.ev.finish, SCHED_FINISH_CANCELLED);
	assert_in_range(tokens, 1, 8);
	mailbox_close(m);
	worker_close(other.w);
	engine_close(e);
}

static void closing_ends_everything_and_refusals_arrive_as_events(void **state)
{
	int32_t token[PROMPT];
	struct sched_request r = {.token = token, .n = PROMPT, .max_tokens = 100, .sampling = SAMPLER_DEFAULT};
	struct engine *e = open_engine(1);
	struct mailbox *m[3];
	struct worker *w;
	struct err err = {0};
	struct mail mail;

	(void)state;
	open_worker(&w, e, 10);
	prompt_of(token, 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(mailbox_open(&m[i], 128, &err), OK);
		r.priority = i == 2 ? 99 : 0;
		assert_int_equal(worker_submit(w, &r, m[i], &err), OK);
	}
	do {
		assert_true(mailbox_read(m[2], &mail, 20));
	} while (mail.ev.kind != SCHED_DONE);
	assert_int_equal(mail.ev.finish, SCHED_FINISH_ERROR);
	assert_non_null(strstr(mail.ev.err->msg, "99"));
	worker_close(w);
	for (int i = 0; i < 3; i++) {
		int ends = 0;

		while (mailbox_read(m[i], &mail, 0))
			ends += mail.ev.kind == SCHED_DONE;
		assert_int_equal(ends, i < 2);
		mailbox_close(m[i]);
	}
	engine_close(e);
}

struct hook {
	int notified, released;
};

static void count_notify(void *ctx)
{
	__atomic_add_fetch(&((struct hook *)ctx)->notified, 1, __ATOMIC_SEQ_CST);
}

static void count_release(void *request_ctx)
{
	__atomic_add_fetch(&((struct hook *)request_ctx)->released, 1, __ATOMIC_SEQ_CST);
}

static int load(const int *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void hooks_wake_the_reader_and_say_when_the_request_is_let_go(void **state)
{
	int32_t token[PROMPT];
	struct hook hook[2] = {{0, 0}, {0, 0}};
	struct sched_request r = {.token = token, .n = PROMPT, .max_tokens = OUT, .sampling = SAMPLER_DEFAULT};
	struct engine *e = open_engine(2);
	struct mailbox *m[2];
	struct worker *w;
	struct err err = {0};
	struct mail mail;
	int events = 0, before;

	(void)state;
	open_worker(&w, e, 10);
	prompt_of(token, 1);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(mailbox_open(&m[i], 64, &err), OK);
		mailbox_set_hooks(m[i], &(struct mailbox_hooks){count_notify, &hook[i], count_release});
		r.ctx = &hook[i];
		r.max_tokens = i ? 150 : OUT;
		assert_int_equal(worker_submit(w, &r, m[i], &err), OK);
	}
	do {
		assert_true(mailbox_read(m[0], &mail, 20));
		events++;
	} while (mail.ev.kind != SCHED_DONE);
	assert_true(load(&hook[0].notified) >= events);		/* replaced ones ring, too */
	mailbox_close(m[1]);					/* in the middle of its answer */
	before = load(&hook[1].notified);
	worker_close(w);
	assert_int_equal(hook[1].notified, before);
	assert_int_equal(hook[0].released, 1);
	assert_int_equal(hook[1].released, 1);
	mailbox_close(m[0]);
	engine_close(e);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_on_threads_get_what_they_get_alone),
		cmocka_unit_test(who_does_not_read_rests_and_is_cancelled),
		cmocka_unit_test(closing_ends_everything_and_refusals_arrive_as_events),
		cmocka_unit_test(hooks_wake_the_reader_and_say_when_the_request_is_let_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
