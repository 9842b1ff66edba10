/* session_test.c - whatever a session went through, its logits have the bits of reading its tokens in one step.
 *
 * The model does not matter here, only that it has every kind of layer: the tests run the small random models of
 * tests/support, and the bundled one for a short time.  The judge is forward_step() with all tokens at once on a
 * timeline of its own: a path that knows no chunks, checkpoints or reuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "engine/session.h"
#include "support/golden.h"

#define NANO "models/ds4-nano-q2.gguf"
#define MAX 330		/* longest list here */

struct rig {
	struct engine *e;	/* under test: small chunks */
	struct engine *judge;	/* steps of MAX rows */
	struct session *s;
};

static struct engine *open_engine(const char *path, const char *backend, int32_t chunk, int32_t context)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct err err = {0};
	struct engine *e;

	o.model = path;
	o.backend = backend;
	o.chunk = chunk;
	o.context = context;
	o.timelines = 2;
	if (engine_open(&e, &o, &err) != OK)
		fail_msg("%s", err.msg);
	return e;
}

static struct rig rig_open(const char *path, const char *backend, int32_t chunk)
{
	struct rig r = {.e = open_engine(path, backend, chunk, MAX), .judge = open_engine(path, backend, MAX, MAX)};
	struct err err = {0};

	if (session_open(&r.s, r.e, &err) != OK)
		fail_msg("%s", err.msg);
	return r;
}

static void rig_close(struct rig *r)
{
	session_close(r->s);
	engine_close(r->e);
	engine_close(r->judge);
}

/* n tokens that depend on the seed and, position by position, on nothing else. */
static void fill(int32_t *token, int32_t from, int32_t n, uint64_t seed, int32_t vocab)
{
	struct rng rng = rng_seed(seed);

	for (int32_t i = from; i < n; i++)
		token[i] = (int32_t)rng_below(&rng, (uint64_t)vocab);
}

/* The session holds exactly token[0..n), and its logits are the judge's, bit for bit. */
static void check(struct rig *r, const int32_t *token, int32_t n, const char *when)
{
	size_t bytes = (size_t)r->e->shape.vocab * sizeof(float);
	float *expected = malloc(bytes);
	const float *got = session_logits(r->s);
	struct forward_part part = {.token = token, .n = n, .last_logits = true};
	struct err err = {0};

	assert_non_null(expected);
	if (session_len(r->s) != n || memcmp(session_tokens(r->s), token, (size_t)n * sizeof *token) != 0)
		fail_msg("%s: expected %d given tokens, the session has %d", when, (int)n, (int)session_len(r->s));
	if (!got)
		fail_msg("%s: no logits after %d tokens", when, (int)n);
	assert_int_equal(kv_open(&part.kv, &r->judge->pool, 2, &err), OK);
	if (forward_step(r->judge->forward, &part, 1, expected, NULL, &err) != OK)
		fail_msg("%s: %s", when, err.msg);
	kv_close(part.kv);
	for (int32_t i = 0; memcmp(got, expected, bytes) != 0; i++)
		if (memcmp(&got[i], &expected[i], sizeof(float)) != 0)
			fail_msg("%s: %d tokens: logit %d: expected %.9g, got %.9g", when, (int)n, (int)i,
				 (double)expected[i], (double)got[i]);
	free(expected);
}

static void sync_ok(struct rig *r, const int32_t *token, int32_t n)
{
	struct err err = {0};

	if (session_sync(r->s, token, n, NULL, NULL, &err) != OK)
		fail_msg("sync to %d tokens: %s", (int)n, err.msg);
}

/* Random programs of sync, push and rewind; the list they should amount to is kept beside. */
static void random_program(struct rig *r, uint64_t seed, int ops, int32_t longest)
{
	int32_t token[MAX], n = 0, vocab = r->e->shape.vocab;
	struct rng rng = rng_seed(seed);
	struct err err = {0};
	char when[64];

	session_reset(r->s);
	for (int i = 0; i < ops; i++) {
		int op = n ? (int)rng_below(&rng, 4) : 0;
		int32_t keep = (int32_t)rng_below(&rng, (uint64_t)n + 1), end = keep;

		if (op <= 1) {			/* sync: a prefix, with or without something new behind it */
			if (op == 0 || keep == 0)
				end += 1 + (int32_t)rng_below(&rng, (uint64_t)(longest - keep));
			fill(token, keep, end, rng_u64(&rng), vocab);
			n = end;
			sync_ok(r, token, n);
		} else if (op == 2) {		/* a few pushes */
			for (int32_t k = 1 + (int32_t)rng_below(&rng, 5); k > 0 && n < longest; k--) {
				fill(token, n, n + 1, rng_u64(&rng), vocab);
				assert_int_equal(session_push(r->s, token[n++], &err), OK);
			}
		} else {
			assert_int_equal(session_rewind(r->s, keep, &err), OK);
			n = keep;
			if (n == 0)
				assert_null(session_logits(r->s));
		}
		snprintf(when, sizeof when, "seed %d, operation %d (%d)", (int)seed, i, op);
		if (n)
			check(r, token, n, when);
	}
}

static void random_programs_on_cpu_equal_reading_the_list_at_once(void **state)
{
	(void)state;
	for (int32_t model = 1; model <= 2; model++) {
		struct rig r = rig_open(golden_tiny_path(model), "cpu", model == 1 ? 48 : 150);

		random_program(&r, (uint64_t)model, model == 1 ? 9 : 5, 150);
		rig_close(&r);
	}
}

static void random_programs_on_ref_equal_reading_the_list_at_once(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "ref", 20);

	(void)state;
	random_program(&r, 4, 8, 30);
	rig_close(&r);
}

static void the_bundled_model_goes_back_exactly_too(void **state)
{
	struct rig r = rig_open(NANO, "cpu", 64);
	struct err err = {0};
	int32_t token[MAX];

	(void)state;
	fill(token, 0, 140, 1, 7000);
	sync_ok(&r, token, 140);
	fill(token, 132, 140, 2, 7000);
	sync_ok(&r, token, 140);
	assert_int_equal(session_reused(r.s), 128);
	assert_int_equal(session_push(r.s, 10, &err), OK);
	assert_int_equal(session_rewind(r.s, 139, &err), OK);
	check(&r, token, 139, "another end, rewound");
	rig_close(&r);
}

/* ------------------------------------------------------------------ what is reused */

static void only_what_differs_is_read_again(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 128);
	int32_t token[MAX];
	static const struct {
		int32_t differ, n, reused;	/* tokens from `differ` on are new; the list has n */
	} step[] = {
		{0, 300, 0},		/* nothing to reuse */
		{300, 300, 300},	/* the same list */
		{300, 310, 300},	/* longer */
		{305, 310, 256},	/* another end: back to the checkpoint */
		{310, 280, 256},	/* shorter: the last token must be read for its logits */
		{256, 300, 256},	/* parts exactly at the checkpoint */
		{256, 256, 128},	/* ends exactly there: its last token is before it */
		{100, 200, 0},		/* parts before the first checkpoint */
		{130, 200, 128},
	};

	(void)state;
	for (size_t i = 0; i < sizeof step / sizeof step[0]; i++) {
		fill(token, step[i].differ, step[i].n, 100 + i, r.e->shape.vocab);
		sync_ok(&r, token, step[i].n);
		if (session_reused(r.s) != step[i].reused)
			fail_msg("step %zu: expected %d tokens reused, got %d", i, (int)step[i].reused,
				 (int)session_reused(r.s));
		if (i % 3 == 0)
			check(&r, token, step[i].n, "reuse");
	}
	rig_close(&r);
}

static void pushes_leave_checkpoints_too(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 128);
	struct err err = {0};
	int32_t token[MAX];

	(void)state;
	fill(token, 0, 140, 5, r.e->shape.vocab);
	sync_ok(&r, token, 120);
	for (int32_t i = 120; i < 140; i++)
		assert_int_equal(session_push(r.s, token[i], &err), OK);
	sync_ok(&r, token, 135);
	assert_int_equal(session_reused(r.s), 128);
	check(&r, token, 135, "after pushes");
	rig_close(&r);
}

static void a_session_may_sync_to_its_own_tokens(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 128);
	int32_t token[MAX];

	(void)state;
	fill(token, 0, 200, 6, r.e->shape.vocab);
	sync_ok(&r, token, 200);
	sync_ok(&r, session_tokens(r.s), 150);
	check(&r, token, 150, "own tokens");
	rig_close(&r);
}

static void two_sessions_do_not_disturb_each_other(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 48);
	int32_t a[MAX], b[MAX];
	struct session *first = r.s, *second;
	struct err err = {0};

	(void)state;
	assert_int_equal(session_open(&second, r.e, &err), OK);
	fill(a, 0, 200, 7, r.e->shape.vocab);
	fill(b, 0, 200, 8, r.e->shape.vocab);
	for (int32_t n = 70; n <= 140; n += 70) {
		assert_int_equal(session_sync(first, a, n, NULL, NULL, &err), OK);
		assert_int_equal(session_sync(second, b, n, NULL, NULL, &err), OK);
		check(&r, a, n, "first session");
		r.s = second;
		check(&r, b, n, "second session");
		r.s = first;
	}
	session_close(second);
	rig_close(&r);
}

/* ------------------------------------------------------------------ progress, cancel, failure */

struct calls {
	int32_t done[32], total;
	int n, stop_at;		/* the call that says stop; -1 none */
	volatile int flag;
};

static bool note(void *ctx, int32_t done, int32_t total)
{
	struct calls *c = ctx;

	assert_in_range(c->n, 0, 31);
	c->done[c->n] = done;
	c->total = total;
	return c->n++ != c->stop_at;
}

static void progress_comes_before_the_first_step_and_after_each(void **state)
{
	/* Steps of at most 100 rows that end at multiples of 128 where one is in reach. */
	static const int32_t expected[] = {0, 100, 128, 228, 256, 300};
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 100);
	struct calls c = {.stop_at = -1};
	struct err err = {0};
	int32_t token[MAX];

	(void)state;
	fill(token, 0, 300, 9, r.e->shape.vocab);
	assert_int_equal(session_sync(r.s, token, 300, note, &c, &err), OK);
	assert_int_equal(c.n, 6);
	assert_int_equal(c.total, 300);
	for (int i = 0; i < 6; i++)
		assert_int_equal(c.done[i], expected[i]);
	check(&r, token, 300, "steps of 100");
	c.n = 0;
	assert_int_equal(session_sync(r.s, token, 300, note, &c, &err), OK);
	assert_int_equal(c.n, 0);	/* nothing was read */
	rig_close(&r);
}

static void a_cancelled_sync_keeps_what_was_read(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 50);
	struct err err = {0};
	int32_t token[MAX];

	(void)state;
	fill(token, 0, 200, 10, r.e->shape.vocab);
	for (int stop = 0; stop < 3; stop++) {	/* steps end at 50, 100, 128, 178, 200 */
		struct calls c = {.stop_at = stop};
		int32_t read;

		session_reset(r.s);
		tree_clear(r.e->tree);
		assert_int_equal(session_sync(r.s, token, 200, note, &c, &err), ERR_CANCELLED);
		read = c.done[stop];
		assert_int_equal(session_len(r.s), read);
		assert_null(session_logits(r.s));
		assert_memory_equal(session_tokens(r.s), token, (size_t)read * sizeof *token);
		if (stop == 1) {	/* going on with a push is as good */
			assert_int_equal(session_push(r.s, token[read], &err), OK);
			check(&r, token, read + 1, "pushed after cancel");
		}
		sync_ok(&r, token, 200);
		assert_int_equal(session_reused(r.s), stop == 1 ? read + 1 : read);
		if (stop)
			check(&r, token, 200, "resumed");
	}
	rig_close(&r);
}

static bool set_flag(void *ctx, int32_t done, int32_t total)
{
	struct calls *c = ctx;

	if (c->n++ == c->stop_at)
		c->flag = 1;
	(void)done;
	(void)total;
	return true;	/* the flag alone must do */
}

static void a_cancel_flag_ends_a_step_between_its_layers(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 50);
	struct calls c = {.stop_at = 2};
	struct err err = {0};
	int32_t token[MAX];

	(void)state;
	fill(token, 0, 200, 10, r.e->shape.vocab);
	session_set_cancel(r.s, &c.flag);
	assert_int_equal(session_sync(r.s, token, 200, set_flag, &c, &err), ERR_CANCELLED);
	assert_non_null(strstr(err.msg, "layer"));
	assert_int_equal(session_len(r.s), 0);	/* 100 tokens were read: no checkpoint yet */
	c = (struct calls){.stop_at = 3};
	assert_int_equal(session_sync(r.s, token, 200, set_flag, &c, &err), ERR_CANCELLED);
	assert_int_equal(session_len(r.s), 128);
	assert_int_equal(session_push(r.s, token[128], &err), OK);	/* one token is not interrupted */
	c.flag = 0;
	sync_ok(&r, token, 200);
	assert_int_equal(session_reused(r.s), 129);
	check(&r, token, 200, "after the flag");
	rig_close(&r);
}

static void a_fork_goes_on_where_it_was_made_and_both_stay_right(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 64), f = r;
	struct err err = {0};
	int32_t a[MAX], b[MAX];

	(void)state;
	fill(a, 0, 300, 12, r.e->shape.vocab);
	memcpy(b, a, sizeof b);
	fill(b, 170, 300, 13, r.e->shape.vocab);
	sync_ok(&r, a, 170);
	assert_int_equal(session_fork(&f.s, r.s, &err), OK);
	check(&f, a, 170, "a fork");
	assert_int_equal(session_push(f.s, b[170], &err), OK);
	check(&f, b, 171, "a fork's first token");
	sync_ok(&r, a, 300);
	sync_ok(&f, b, 300);
	assert_int_equal(session_reused(f.s), 171);
	check(&r, a, 300, "the first timeline");
	check(&f, b, 300, "its fork");
	session_close(f.s);
	check(&r, a, 300, "without the fork");
	rig_close(&r);
}

static void a_failed_step_falls_back_to_a_checkpoint(void **state)
{
	struct err err = {0};
	int32_t token[MAX];
	int failed = 0;

	(void)state;
	for (long at = 1;; at++) {
		struct rig r = rig_open(golden_tiny_path(3), "cpu", 64);
		enum status st;

		fill(token, 0, 140, 11, r.e->shape.vocab);
		sync_ok(&r, token, 120);
		mem_fail_at(at);	/* 120..127, a checkpoint, then a second block */
		st = session_sync(r.s, token, 140, NULL, NULL, &err);
		mem_fail_at(0);
		if (st != OK) {
			failed++;
			assert_int_equal(st, ERR_MEMORY);
			assert_int_equal(session_len(r.s) % 128, 0);
			assert_int_equal(session_kv(r.s)->len, session_len(r.s));
			assert_null(session_logits(r.s));
		}
		sync_ok(&r, token, 140);
		check(&r, token, 140, "after a failure");
		rig_close(&r);
		if (st == OK && at > 6)		/* a checkpoint or a tree's node that finds no memory is no failure */
			break;
	}
	assert_true(failed >= 2);
}

/* ------------------------------------------------------------------ refusals */

static void expect(enum status got, enum status want, const struct err *err, const char *a, const char *b)
{
	if (got != want || !strstr(err->msg, a) || !strstr(err->msg, b))
		fail_msg("expected %s with \"%s\" and \"%s\", got %s: %s", status_name(want), a, b, status_name(got),
			 err->msg);
}

static void refusals_name_both_numbers_and_change_nothing(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 128);
	int32_t token[MAX + 1], vocab = r.e->shape.vocab;
	struct err err = {0};
	char text[16];

	(void)state;
	fill(token, 0, MAX + 1, 12, vocab);
	sync_ok(&r, token, 50);
	expect(session_sync(r.s, token, MAX + 1, NULL, NULL, &err), ERR_LIMIT, &err, "331", "330");
	expect(session_sync(r.s, token, 0, NULL, NULL, &err), ERR_ARGUMENT, &err, "1", "0");
	snprintf(text, sizeof text, "%d", (int)vocab - 1);
	token[60] = vocab;
	expect(session_sync(r.s, token, 70, NULL, NULL, &err), ERR_ARGUMENT, &err, text, "token 60");
	expect(session_push(r.s, -1, &err), ERR_ARGUMENT, &err, text, "-1");
	expect(session_rewind(r.s, 51, &err), ERR_ARGUMENT, &err, "50", "51");
	expect(session_rewind(r.s, -1, &err), ERR_ARGUMENT, &err, "50", "-1");
	check(&r, token, 50, "after refusals");
	rig_close(&r);
}

static void a_full_context_refuses_a_push(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 128);
	struct err err = {0};
	int32_t token[MAX];

	(void)state;
	fill(token, 0, MAX, 13, r.e->shape.vocab);
	sync_ok(&r, token, MAX - 1);
	assert_int_equal(session_push(r.s, token[MAX - 1], &err), OK);
	expect(session_push(r.s, 1, &err), ERR_LIMIT, &err, "330", "holds 330");
	check(&r, token, MAX, "full");
	rig_close(&r);
}

static void opening_without_memory_is_an_error(void **state)
{
	struct rig r = rig_open(golden_tiny_path(3), "cpu", 128);
	struct session *s;
	struct err err = {0};
	long at = 1;

	(void)state;
	for (;; at++) {
		enum status st;

		mem_fail_at(at);
		st = session_open(&s, r.e, &err);
		mem_fail_at(0);
		if (st == OK)
			break;
		assert_int_equal(st, ERR_MEMORY);
		assert_null(s);
	}
	assert_true(at > 3);
	session_close(s);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_programs_on_cpu_equal_reading_the_list_at_once),
		cmocka_unit_test(random_programs_on_ref_equal_reading_the_list_at_once),
		cmocka_unit_test(the_bundled_model_goes_back_exactly_too),
		cmocka_unit_test(only_what_differs_is_read_again),
		cmocka_unit_test(pushes_leave_checkpoints_too),
		cmocka_unit_test(a_session_may_sync_to_its_own_tokens),
		cmocka_unit_test(two_sessions_do_not_disturb_each_other),
		cmocka_unit_test(progress_comes_before_the_first_step_and_after_each),
		cmocka_unit_test(a_cancelled_sync_keeps_what_was_read),
		cmocka_unit_test(a_cancel_flag_ends_a_step_between_its_layers),
		cmocka_unit_test(a_fork_goes_on_where_it_was_made_and_both_stay_right),
		cmocka_unit_test(a_failed_step_falls_back_to_a_checkpoint),
		cmocka_unit_test(refusals_name_both_numbers_and_change_nothing),
		cmocka_unit_test(a_full_context_refuses_a_push),
		cmocka_unit_test(opening_without_memory_is_an_error),
	};

	return cmocka_run_group_tests_name("engine/session", tests, NULL, NULL);
}
