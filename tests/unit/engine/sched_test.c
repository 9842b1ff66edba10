/* sched_test.c - many requests at once: nobody's tokens or logits depend on the others, nobody waits too long, and
 * whatever fails or is cancelled, the others do not notice.
 *
 * The judge of an answer is the same request by itself in a fresh engine whose steps take the whole prompt: a path
 * without neighbours, prefix tree, chunks or checkpoints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/sched.h"
#include "support/golden.h"

#define NANO "models/ds4-nano-q2.gguf"

enum { MAX_PROMPT = 3400, MAX_OUT = 40, MANY = 8 };

/* One client: what it asks, and everything it was told. */
struct client {
	struct sched_request r;
	int32_t *prompt;
	int32_t out[MAX_OUT + 1], n_out;
	uint64_t hash;			/* of all logits it saw */
	size_t logit_bytes;
	int events, started, done, reads;
	uint64_t waits;			/* bit per reason */
	enum sched_finish finish;
	enum status status;
	char why[200];
	struct sched_usage usage;
	int say_stop_at;		/* event that answers "cancel"; 0 = none */
	int cancel;
	int32_t last_done;
	uint64_t *clock;		/* steps of the test; when things happened */
	uint64_t first_token, last_token, longest_gap;
};

static bool on_event(void *ctx, const struct sched_event *ev)
{
	struct client *c = ctx;

	assert_int_equal(c->done, 0);	/* nothing after the end */
	c->events++;
	c->usage = ev->usage;
	if (ev->logits)
		for (size_t i = 0; i < c->logit_bytes; i++)
			c->hash = (c->hash ^ ((const uint8_t *)ev->logits)[i]) * 0x100000001B3u;
	switch (ev->kind) {
	case SCHED_WAITING:
		c->waits |= 1u << ev->wait;
		break;
	case SCHED_STARTED:
		c->started++;
		c->last_done = ev->done;
		break;
	case SCHED_READ:
		c->reads++;
		c->last_done = ev->done;
		break;
	case SCHED_TOKEN:
		assert_in_range(c->n_out, 0, MAX_OUT - 1);
		c->out[c->n_out++] = ev->token;
		if (c->clock) {
			if (!c->first_token)
				c->first_token = *c->clock;
			else if (*c->clock - c->last_token > c->longest_gap)
				c->longest_gap = *c->clock - c->last_token;
			c->last_token = *c->clock;
		}
		break;
	case SCHED_DONE:
		c->done = 1;
		c->finish = ev->finish;
		if (ev->err) {
			c->status = ev->err->code;
			snprintf(c->why, sizeof c->why, "%.199s", ev->err->msg);
		}
		break;
	}
	return c->events != c->say_stop_at;
}

static const char *backend = "cpu";

static struct engine *open_engine(const char *path, int32_t chunk, int32_t context, int32_t timelines)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct err err = {0};
	struct engine *e;

	o.model = path;
	o.backend = backend;
	o.threads = 1;
	o.chunk = chunk;
	o.context = context;
	o.timelines = timelines;
	if (engine_open(&e, &o, &err) != OK)
		fail_msg("%s", err.msg);
	return e;
}

struct rig {
	struct engine *e;
	struct sched *s;
	uint64_t clock;
};

static void rig_open(struct rig *r, int model, int32_t chunk, int32_t context, int32_t timelines)
{
	struct sched_options o = {.stretch = -1};	/* times would make the steps differ from run to run */
	struct err err = {0};

	r->clock = 0;
	r->e = open_engine(golden_tiny_path(model), chunk, context, timelines);
	if (sched_open(&r->s, r->e, &o, &err) != OK)
		fail_msg("%s", err.msg);
}

static void rig_close(struct rig *r)
{
	struct tree_stats st;

	sched_close(r->s);
	tree_stats(r->e->tree, &st);
	assert_int_equal(r->e->pool.live, st.blocks);	/* all that is left is the tree's */
	assert_int_equal(r->e->pool.live_check, st.checks);
	tree_clear(r->e->tree);
	assert_int_equal(r->e->pool.live, 0);
	engine_close(r->e);
}

/* n tokens of which the first `shared` are common to all with the same `family`. */
static void client_init(struct client *c, const struct engine *e, int32_t n, int32_t shared, uint64_t family, uint64_t seed,
			int32_t max_tokens)
{
	struct rng a = rng_seed(family), b = rng_seed(seed + 1000);

	*c = (struct client){.hash = 0xCBF29CE484222325u, .logit_bytes = (size_t)e->shape.vocab * sizeof(float)};
	c->prompt = mem_array((size_t)n, sizeof *c->prompt);
	assert_non_null(c->prompt);
	for (int32_t i = 0; i < n; i++)
		c->prompt[i] = (int32_t)rng_below(i < shared ? &a : &b, (uint64_t)e->shape.vocab);
	c->r = (struct sched_request){.token = c->prompt, .n = n, .max_tokens = max_tokens, .event = on_event,
				      .sampling = {.temperature = seed % 3 ? 0.8f : 0, .top_p = 0.95f, .seed = seed}};
}

static void client_free(struct client *c)
{
	mem_free(c->prompt);
}

static void submit(struct rig *r, struct client *c)
{
	struct err err = {0};

	c->r.ctx = c;
	c->r.cancel = &c->cancel;
	c->clock = &r->clock;
	if (sched_submit(r->s, &c->r, &err) != OK)
		fail_msg("%s", err.msg);
}

static bool step(struct rig *r)
{
	r->clock++;
	return sched_run_once(r->s);
}

static void run_all(struct rig *r)
{
	int steps = 0;

	while (step(r))
		if (++steps > 20000)
			fail_msg("20000 steps and no end");
}

/* The same request by itself: an engine of its own, the prompt in one step. */
static void expect_as_alone(const struct client *c, int model, const char *when)
{
	struct client alone = {.hash = 0xCBF29CE484222325u, .logit_bytes = c->logit_bytes};
	struct rig r;

	rig_open(&r, model, c->r.n + MAX_OUT, c->r.n + MAX_OUT, 1);
	alone.r = c->r;
	submit(&r, &alone);
	run_all(&r);
	rig_close(&r);
	if (alone.n_out != c->n_out || memcmp(alone.out, c->out, sizeof c->out) != 0)
		fail_msg("%s: %d tokens, alone %d; or other ones", when, (int)c->n_out, (int)alone.n_out);
	if (alone.hash != c->hash)
		fail_msg("%s: the tokens are the same, but not the bits of the logits", when);
}

/* ------------------------------------------------------------------ the same as alone */

static void crowd(int model, int32_t chunk, int32_t most, uint64_t seed)
{
	struct client c[MANY];
	struct rng rng = rng_seed(seed);
	struct rig r;

	rig_open(&r, model, chunk, 512, 3);
	for (int i = 0; i < MANY; i++) {
		int32_t n = 20 + (int32_t)rng_below(&rng, (uint64_t)most), shared = i % 2 ? n * 3 / 4 : 0;

		client_init(&c[i], r.e, n, shared, seed, seed * 100 + (uint64_t)i, 1 + (int32_t)rng_below(&rng, 12));
		c[i].r.priority = (int32_t)rng_below(&rng, 3) - 1;
		submit(&r, &c[i]);
		for (uint64_t k = rng_below(&rng, 5); k > 0; k--)
			step(&r);
	}
	run_all(&r);
	for (int i = 0; i < MANY; i++) {
		char when[32];

		snprintf(when, sizeof when, "tiny-%d, client %d", model, i);
		assert_int_equal(c[i].done, 1);
		assert_int_equal(c[i].started, 1);
		assert_int_equal(c[i].finish, SCHED_FINISH_LENGTH);
		if (i % 2 == 0 || i == 5)
			expect_as_alone(&c[i], model, when);
		client_free(&c[i]);
	}
	rig_close(&r);
}

static void tokens_and_logits_do_not_depend_on_who_else_is_there(void **state)
{
	(void)state;
	crowd(1, 96, 300, 1);
	crowd(2, 64, 300, 2);
}

/* The definition itself: slow, so shorter lists; long enough for a block that is shared. */
static void nor_do_they_on_ref(void **state)
{
	(void)state;
	backend = "ref";
	crowd(3, 48, 150, 3);
	backend = "cpu";
}

static void the_next_turn_continues_at_the_very_token(void **state)
{
	struct client a, b;
	struct rig r;

	(void)state;
	rig_open(&r, 3, 64, 512, 2);
	client_init(&a, r.e, 150, 0, 0, 1, 10);
	submit(&r, &a);
	run_all(&r);
	client_init(&b, r.e, 180, 0, 0, 2, 5);
	memcpy(b.prompt, a.prompt, 150 * sizeof(int32_t));
	memcpy(b.prompt + 150, a.out, 10 * sizeof(int32_t));
	submit(&r, &b);
	run_all(&r);
	assert_int_equal(b.usage.reused, 159);	/* all but the last sampled token, which was never read */
	expect_as_alone(&b, 3, "second turn");
	client_free(&a);
	client_free(&b);
	rig_close(&r);
}

/* ------------------------------------------------------------------ nothing is read twice */

static void a_changed_reply_replays_little(void **state)
{
	enum { N = 2000, FROM_END = 200 };
	struct client a, b;
	int32_t end = N - FROM_END;
	struct rig r;

	(void)state;
	rig_open(&r, 3, 256, MAX_PROMPT, 2);
	client_init(&a, r.e, N, 0, 0, 1, 2);
	a.r.message_end = &end;
	a.r.n_message_end = 1;
	submit(&r, &a);
	run_all(&r);
	client_init(&b, r.e, N, 0, 0, 1, 2);
	for (int32_t i = N - FROM_END; i < N; i++)
		b.prompt[i] = (b.prompt[i] + 1) % r.e->shape.vocab;
	submit(&r, &b);
	run_all(&r);
	printf("2000 tokens, changed from 1800 on: %d reused, %d read\n", (int)b.usage.reused,
	       (int)(b.usage.prompt - b.usage.reused));
	assert_in_range(b.usage.prompt - b.usage.reused, FROM_END, 512);
	client_free(&a);
	client_free(&b);
	rig_close(&r);
}

static void eight_at_once_read_their_shared_beginning_once(void **state)
{
	enum { SHARED = 1000 };
	struct client c[MANY];
	struct sched_counts n;
	struct rig r;

	(void)state;
	rig_open(&r, 3, 128, 1200, MANY);
	for (int i = 0; i < MANY; i++) {
		client_init(&c[i], r.e, SHARED + 50, SHARED, 7, (uint64_t)i, 2);
		submit(&r, &c[i]);
	}
	run_all(&r);
	sched_counts(r.s, &n);
	/* The beginning's 7 whole blocks once; the rest of the 1000, the own 50 and an answer's token each. */
	assert_int_equal(n.rows, 896 + MANY * (1050 - 896) + MANY * 1);
	for (int i = 1; i < MANY; i++) {
		assert_int_equal(c[i].usage.reused, 896);
		assert_true(c[i].waits & 1u << SCHED_WAIT_PREFIX);
	}
	assert_int_equal(r.e->pool.live, 7 + MANY * 2);
	expect_as_alone(&c[3], 3, "shared beginning");
	for (int i = 0; i < MANY; i++)
		client_free(&c[i]);
	rig_close(&r);
}

/* ------------------------------------------------------------------ fairness, order, memory */

static void a_long_prompt_holds_nobody_up(void **state)
{
	struct client talker, reader, guest;
	uint64_t arrived;
	struct rig r;

	(void)state;
	rig_open(&r, 3, 64, MAX_PROMPT, 3);
	client_init(&talker, r.e, 20, 0, 0, 1, 38);
	client_init(&reader, r.e, 1600, 0, 0, 2, 1);
	client_init(&guest, r.e, 90, 0, 0, 3, 3);
	submit(&r, &talker);
	step(&r);
	submit(&r, &reader);
	for (int i = 0; i < 5; i++)
		step(&r);
	arrived = r.clock;
	submit(&r, &guest);
	run_all(&r);
	assert_int_equal(talker.longest_gap, 1);	/* a token in every step */
	/* S3: 63 rows for two who read: 31 for each in every step, so 90 tokens take 3 steps. */
	if (guest.first_token - arrived > 3)
		fail_msg("the guest's 90 tokens took %d steps, expected at most 3", (int)(guest.first_token - arrived));
	assert_true(reader.first_token > guest.first_token);
	client_free(&talker);
	client_free(&reader);
	client_free(&guest);
	rig_close(&r);
}

static void more_readers_than_rows_take_turns(void **state)
{
	enum { ROWS = 8 };
	struct client c[ROWS + 4];
	struct rig r;

	(void)state;
	rig_open(&r, 3, ROWS, 256, ROWS + 4);
	assert_int_equal(forward_max_rows(r.e->forward), ROWS + 4);
	for (int i = 0; i < ROWS + 4; i++) {
		client_init(&c[i], r.e, 40, 0, 0, (uint64_t)i, 1);
		c[i].r.priority = i % 3 - 1;
		submit(&r, &c[i]);
	}
	for (int k = 0; k < 3; k++)
		step(&r);
	for (int i = 0; i < ROWS + 4; i++)
		assert_in_range(c[i].last_done, 2, 40);	/* whoever has to share: rows in every second step at least */
	run_all(&r);
	for (int i = 0; i < ROWS + 4; i++)
		client_free(&c[i]);
	rig_close(&r);
}

static double fake_now, fake_plain = 0.010, fake_row = 0.004;

static double fake_clock(void)
{
	return fake_now;
}

/* The clock moves by what a step of so many rows would take. */
static void advance(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t, const struct step *s)
{
	(void)ctx;
	(void)be;
	(void)t;
	if (at == TAP_ATTN_IN && layer == 0)
		fake_now += fake_plain + (s->n_rows - 1) * fake_row;
}

static void prompts_stretch_the_steps_of_others_at_most_twofold(void **state)
{
	struct tap tap = {advance, NULL};
	struct sched_options o = {.clock = fake_clock};
	struct client talker, reader;
	struct err err = {0};
	double longest = 0;
	struct rig r;
	int steps = 0;

	(void)state;
	rig_open(&r, 3, 64, 512, 3);
	sched_close(r.s);
	assert_int_equal(sched_open(&r.s, r.e, &o, &err), OK);
	forward_tap(r.e->forward, &tap);
	client_init(&talker, r.e, 10, 0, 0, 1, 38);
	client_init(&reader, r.e, 400, 0, 0, 2, 1);
	submit(&r, &talker);
	step(&r);
	submit(&r, &reader);
	while (!talker.done) {
		double before = fake_now;

		step(&r);
		if (++steps > 3 && fake_now - before > longest)	/* by then it knows what rows cost */
			longest = fake_now - before;
	}
	if (longest > 2.01 * fake_plain)
		fail_msg("a step took %.1f ms beside a prompt, %.1f without", 1e3 * longest, 1e3 * fake_plain);
	assert_in_range(reader.last_done, 60, 400);
	run_all(&r);
	forward_tap(r.e->forward, NULL);
	client_free(&talker);
	client_free(&reader);
	rig_close(&r);
}

static void the_more_urgent_begin_and_end_first(void **state)
{
	struct client c[4];
	struct rig r;

	(void)state;
	rig_open(&r, 3, 32, 256, 1);
	for (int i = 0; i < 4; i++) {
		client_init(&c[i], r.e, 60, 0, 0, (uint64_t)i, 2);
		c[i].r.priority = i == 3 ? 2 : i == 1 ? -1 : 0;
		submit(&r, &c[i]);
	}
	run_all(&r);
	assert_true(c[3].first_token < c[0].first_token);
	assert_true(c[0].first_token < c[2].first_token);	/* arrival decides among equals */
	assert_true(c[2].first_token < c[1].first_token);
	assert_true(c[0].waits & 1u << SCHED_WAIT_TIMELINE);
	assert_true(c[1].waits & 1u << SCHED_WAIT_TURN);
	for (int i = 0; i < 4; i++)
		client_free(&c[i]);
	rig_close(&r);
	rig_open(&r, 3, 32, 512, 2);		/* side by side, rows go by priority */
	for (int i = 0; i < 2; i++) {
		client_init(&c[i], r.e, 300, 0, 0, (uint64_t)i, 1);
		c[i].r.priority = i;
		submit(&r, &c[i]);
	}
	step(&r);
	assert_in_range(c[0].last_done, 5, 8);
	assert_in_range(c[1].last_done, 24, 27);
	run_all(&r);
	for (int i = 0; i < 2; i++)
		client_free(&c[i]);
	rig_close(&r);
}

static void memory_is_promised_before_a_request_begins(void **state)
{
	struct client c[4], big;
	struct err err = {0};
	struct rig r;

	(void)state;
	rig_open(&r, 3, 64, 512, 4);
	r.e->pool.limit = 5;
	for (int i = 0; i < 4; i++) {
		client_init(&c[i], r.e, 250, 0, 0, (uint64_t)i, 10);	/* 260 tokens: 3 blocks */
		submit(&r, &c[i]);
	}
	client_init(&big, r.e, 500, 0, 0, 9, 500);
	big.r.ctx = &big;
	assert_int_equal(sched_submit(r.s, &big.r, &err), OK);	/* 512 tokens: 4 blocks */
	r.e->pool.limit = 3;
	assert_int_equal(sched_submit(r.s, &big.r, &err), ERR_LIMIT);
	assert_non_null(strstr(err.msg, "needs 4 KV blocks, there are 3"));
	sched_close(r.s);
	for (int i = 0; i < 4; i++)
		assert_int_equal(c[i].finish, SCHED_FINISH_CANCELLED);
	assert_int_equal(sched_open(&r.s, r.e, &(struct sched_options){.stretch = -1}, &err), OK);
	r.e->pool.limit = 5;
	for (int i = 0; i < 4; i++) {
		client_free(&c[i]);
		client_init(&c[i], r.e, 250, 0, 0, (uint64_t)i, 10);
		submit(&r, &c[i]);
	}
	run_all(&r);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(c[i].finish, SCHED_FINISH_LENGTH);
		if (i)
			assert_true(c[i].waits & (1u << SCHED_WAIT_MEMORY | 1u << SCHED_WAIT_TURN));
	}
	assert_true(c[1].waits & 1u << SCHED_WAIT_MEMORY);
	expect_as_alone(&c[2], 3, "after waiting for memory");
	for (int i = 0; i < 4; i++)
		client_free(&c[i]);
	client_free(&big);
	rig_close(&r);
}

static void refusals_name_what_is_wrong(void **state)
{
	struct sched_options few = {.max_waiting = 1};
	struct client c;
	struct err err = {0};
	struct rig r;

	(void)state;
	rig_open(&r, 3, 64, 128, 1);
	client_init(&c, r.e, 129, 0, 0, 1, 1);
	c.r.ctx = &c;
	assert_int_equal(sched_submit(r.s, &c.r, &err), ERR_LIMIT);
	assert_non_null(strstr(err.msg, "129 tokens, the context holds 128"));
	c.r.n = 0;
	assert_int_equal(sched_submit(r.s, &c.r, &err), ERR_ARGUMENT);
	c.r.n = 10;
	c.prompt[7] = r.e->shape.vocab;
	assert_int_equal(sched_submit(r.s, &c.r, &err), ERR_ARGUMENT);
	assert_non_null(strstr(err.msg, "token 7"));
	c.prompt[7] = 0;
	c.r.priority = 5;
	assert_int_equal(sched_submit(r.s, &c.r, &err), ERR_ARGUMENT);
	c.r.priority = 0;
	c.r.sampling.temperature = -1;
	assert_int_equal(sched_submit(r.s, &c.r, &err), ERR_ARGUMENT);
	c.r.sampling.temperature = 1;
	sched_close(r.s);
	assert_int_equal(sched_open(&r.s, r.e, &few, &err), OK);
	assert_int_equal(sched_submit(r.s, &c.r, &err), OK);
	assert_int_equal(sched_submit(r.s, &c.r, &err), ERR_LIMIT);
	sched_close(r.s);
	r.s = NULL;
	few.check_every = 100;
	assert_int_equal(sched_open(&r.s, r.e, &few, &err), ERR_ARGUMENT);
	client_free(&c);
	rig_close(&r);
}

static void an_answer_ends_with_a_stop_token_or_the_context(void **state)
{
	struct client c, d;
	int32_t stop[2];
	struct rig r;

	(void)state;
	rig_open(&r, 3, 64, 140, 1);
	client_init(&c, r.e, 130, 0, 0, 1, 30);
	submit(&r, &c);
	run_all(&r);
	assert_int_equal(c.finish, SCHED_FINISH_CONTEXT);
	assert_int_equal(c.n_out, 10);
	client_init(&d, r.e, 130, 0, 0, 1, 30);
	stop[0] = -1;
	stop[1] = c.out[4];
	d.r.stop = stop;
	d.r.n_stop = 2;
	submit(&r, &d);
	run_all(&r);
	assert_int_equal(d.finish, SCHED_FINISH_STOP);
	assert_in_range(d.n_out, 1, 5);
	assert_int_equal(d.out[d.n_out - 1], c.out[4]);
	assert_memory_equal(d.out, c.out, (size_t)d.n_out * sizeof *d.out);
	client_free(&c);
	client_free(&d);
	rig_close(&r);
}

/* ------------------------------------------------------------------ cancel and failure */

static void cancelling_at_any_moment_disturbs_nobody(void **state)
{
	struct rng rng = rng_seed(5);
	struct client c[4];
	struct rig r;

	(void)state;
	rig_open(&r, 3, 48, 512, 2);
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < 4; i++) {
			client_init(&c[i], r.e, 150 + 20 * i, 100, (uint64_t)round, (uint64_t)(10 * round + i), 8);
			if (i == 1)
				c[i].say_stop_at = 1 + (int)rng_below(&rng, 14);
			submit(&r, &c[i]);
		}
		for (uint64_t k = rng_below(&rng, 20); k > 0; k--)
			step(&r);
		c[0].cancel = 1;
		c[2].cancel = round % 2;
		run_all(&r);
		for (int i = 0; i < 4; i++)
			assert_int_equal(c[i].done, 1);
		if (c[0].finish != SCHED_FINISH_LENGTH)
			assert_int_equal(c[0].finish, SCHED_FINISH_CANCELLED);
		assert_int_equal(c[3].finish, SCHED_FINISH_LENGTH);
		if (round % 2)
			expect_as_alone(&c[3], 3, "neighbours were cancelled");
		for (int i = 0; i < 4; i++)
			client_free(&c[i]);
	}
	rig_close(&r);
}

struct fault {
	int32_t token;		/* a step that holds it fails; -1: none does */
	int step;		/* and this one */
	int steps;
	int *cancel;		/* or is set in the middle of that step */
};

static void inject(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t, const struct step *s)
{
	struct fault *f = ctx;

	(void)t;
	if (at != TAP_FFN_IN || layer != 1)
		return;
	if (f->steps++ == f->step) {
		if (f->cancel)
			*f->cancel = 1;
		else
			be_fail(be, ERR_DEVICE, "a cosmic ray");
	}
	for (int32_t i = 0; i < s->n_rows; i++)
		if (s->row[i].token == f->token)
			be_fail(be, ERR_DEVICE, "token %d is cursed", (int)f->token);
}

static void a_long_prompt_that_is_alone_can_be_cancelled_within_a_step(void **state)
{
	struct client c;
	struct fault f = {.token = -1, .step = 2, .cancel = &c.cancel};
	struct tap tap = {inject, &f};
	struct sched_counts n;
	struct rig r;

	(void)state;
	rig_open(&r, 3, 128, 1024, 2);
	client_init(&c, r.e, 900, 0, 0, 1, 1);
	forward_tap(r.e->forward, &tap);
	submit(&r, &c);
	run_all(&r);
	forward_tap(r.e->forward, NULL);
	assert_int_equal(c.finish, SCHED_FINISH_CANCELLED);
	sched_counts(r.s, &n);
	assert_int_equal(n.failed_steps, 1);
	assert_int_equal(c.last_done, 256);		/* two steps; the third was cut short */
	client_free(&c);
	rig_close(&r);
}

static void a_failed_step_fails_only_whom_it_fails_for_alone(void **state)
{
	struct fault f = {.token = -1};
	struct tap tap = {inject, &f};
	struct sched_counts n;
	struct client c[3];
	struct rig r;

	(void)state;
	for (int cursed = 0; cursed < 2; cursed++) {
		rig_open(&r, 3, 64, 512, 3);
		for (int i = 0; i < 3; i++) {
			client_init(&c[i], r.e, 140 + 10 * i, 0, 0, (uint64_t)i + 20, 6);
			for (int32_t k = 0; k < c[i].r.n; k++)	/* one token is nobody's but the second's */
				c[i].prompt[k] %= 300;
		}
		f = (struct fault){.token = -1, .step = cursed ? -1 : 9};
		if (cursed)
			f.token = c[1].prompt[100] = 310;
		forward_tap(r.e->forward, &tap);
		for (int i = 0; i < 3; i++)
			submit(&r, &c[i]);
		run_all(&r);
		forward_tap(r.e->forward, NULL);
		sched_counts(r.s, &n);
		assert_int_equal(n.failed_steps, cursed ? 2 : 1);
		for (int i = 0; i < 3; i++) {
			if (cursed && i == 1) {
				assert_int_equal(c[i].finish, SCHED_FINISH_ERROR);
				assert_int_equal(c[i].status, ERR_DEVICE);
				assert_non_null(strstr(c[i].why, "cursed"));
			} else {
				assert_int_equal(c[i].finish, SCHED_FINISH_LENGTH);
				expect_as_alone(&c[i], 3, "a step failed");
			}
			client_free(&c[i]);
		}
		rig_close(&r);
	}
}

static void running_out_of_memory_anywhere_ends_requests_and_nothing_else(void **state)
{
	struct client c[2];
	struct err err = {0};
	int failed = 0;

	(void)state;
	for (long at = 1, quiet = 0; quiet < 3; at++) {
		enum status st[2];
		struct rig r;

		rig_open(&r, 3, 64, 256, 2);
		for (int i = 0; i < 2; i++)
			client_init(&c[i], r.e, 131, 0, 0, (uint64_t)i, 2);
		mem_fail_at(at);
		for (int i = 0; i < 2; i++) {
			c[i].r.ctx = &c[i];
			st[i] = sched_submit(r.s, &c[i].r, &err);
		}
		while (step(&r))
			;
		mem_fail_at(0);
		for (int i = 0; i < 2; i++) {
			if (st[i] != OK)
				assert_int_equal(st[i], ERR_MEMORY);
			else
				assert_int_equal(c[i].done, 1);
			if (st[i] == OK && c[i].finish == SCHED_FINISH_ERROR)
				assert_int_equal(c[i].status, ERR_MEMORY);
		}
		if (st[0] == OK && st[1] == OK && c[0].finish == SCHED_FINISH_LENGTH && c[1].finish == SCHED_FINISH_LENGTH) {
			quiet = at > 20 ? quiet + 1 : 0;
			assert_int_equal(c[0].n_out, 2);
		} else {
			failed++;
			quiet = 0;
			/* Never both: they only share the machine. */
			assert_true((st[0] == OK && c[0].finish == SCHED_FINISH_LENGTH) ||
				    (st[1] == OK && c[1].finish == SCHED_FINISH_LENGTH));
		}
		for (int i = 0; i < 2; i++)
			client_free(&c[i]);
		rig_close(&r);
	}
	printf("%d of the allocations ended a request\n", failed);
	assert_true(failed > 5);
}

/* ------------------------------------------------------------------ on request: 20,000 tokens of the bundled model */

static void a_changed_reply_after_20k_tokens_of_nano_replays_little(void **state)
{
	enum { N = 20000 };
	struct sched_options o = {0};
	struct client a, b;
	int32_t end = N - 200;
	struct err err = {0};
	double t0, t1, t2;
	struct rig r = {0};

	(void)state;
	if (!getenv("DS4_LONG"))
		skip();
	r.e = open_engine(NANO, 256, N + 512, 2);
	assert_int_equal(sched_open(&r.s, r.e, &o, &err), OK);
	client_init(&a, r.e, N, 0, 0, 1, 2);
	client_init(&b, r.e, N, 0, 0, 1, 2);
	for (int32_t i = N - 200; i < N; i++)
		b.prompt[i] = (b.prompt[i] + 1) % 7000;
	a.r.message_end = b.r.message_end = &end;
	a.r.n_message_end = b.r.n_message_end = 1;
	t0 = clock_seconds();
	submit(&r, &a);
	run_all(&r);
	t1 = clock_seconds();
	submit(&r, &b);
	run_all(&r);
	t2 = clock_seconds();
	printf("nano, 20000 tokens: %.1f s; changed 200 from the end: %d read again, %.2f s\n", t1 - t0,
	       (int)(b.usage.prompt - b.usage.reused), t2 - t1);
	assert_in_range(b.usage.prompt - b.usage.reused, 200, 512);
	client_free(&a);
	client_free(&b);
	rig_close(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(tokens_and_logits_do_not_depend_on_who_else_is_there),
		cmocka_unit_test(nor_do_they_on_ref),
		cmocka_unit_test(the_next_turn_continues_at_the_very_token),
		cmocka_unit_test(a_changed_reply_replays_little),
		cmocka_unit_test(eight_at_once_read_their_shared_beginning_once),
		cmocka_unit_test(a_long_prompt_holds_nobody_up),
		cmocka_unit_test(more_readers_than_rows_take_turns),
		cmocka_unit_test(prompts_stretch_the_steps_of_others_at_most_twofold),
		cmocka_unit_test(the_more_urgent_begin_and_end_first),
		cmocka_unit_test(memory_is_promised_before_a_request_begins),
		cmocka_unit_test(refusals_name_what_is_wrong),
		cmocka_unit_test(an_answer_ends_with_a_stop_token_or_the_context),
		cmocka_unit_test(cancelling_at_any_moment_disturbs_nobody),
		cmocka_unit_test(a_long_prompt_that_is_alone_can_be_cancelled_within_a_step),
		cmocka_unit_test(a_failed_step_fails_only_whom_it_fails_for_alone),
		cmocka_unit_test(running_out_of_memory_anywhere_ends_requests_and_nothing_else),
		cmocka_unit_test(a_changed_reply_after_20k_tokens_of_nano_replays_little),
	};

	if (getenv("DS4_LONG"))		/* tests/engine_long.sh: that one alone */
		cmocka_set_test_filter("*20k*");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
