/* talks_test.c - switching between conversations reads nothing and costs nothing; memory that runs out costs reading only. */
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
#include "cli/talks.h"

#define NANO "models/ds4-nano-q2.gguf"

static char folder[64];

static int setup(void **state)
{
	(void)state;
	snprintf(folder, sizeof folder, "/tmp/ds4-talks-XXXXXX");
	return mkdtemp(folder) == NULL;
}

static int teardown(void **state)
{
	char command[100];

	(void)state;
	snprintf(command, sizeof command, "rm -rf '%s'", folder);
	return system(command) != 0;
}

struct rig {
	struct engine *e;
	struct talks t;
};

static void rig_open(struct rig *r, int32_t context)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct err err = {0};

	o.model = NANO;
	o.context = context;
	if (engine_open(&r->e, &o, &err) != OK || talks_init(&r->t, r->e, folder, true, &err) != OK)
		fail_msg("%s", err.msg);
}

static void rig_close(struct rig *r)
{
	talks_clear(&r->t);
	engine_close(r->e);
}

/* A new conversation in which n tokens were read that depend on the seed. */
static void begin(struct rig *r, uint64_t seed)
{
	struct conversation *c = conversation_new();
	struct err err = {0};
	char text[40];

	conversation_add(c, ROLE_USER, text, (size_t)snprintf(text, sizeof text, "conversation %d", (int)seed));
	if (talks_begin(&r->t, c, &err) != OK)
		fail_msg("%s", err.msg);
	talks_save(&r->t, false);
	assert_non_null(r->t.now->log);
}

/* Reads the n tokens of a seed; returns how many were known. */
static int32_t read_tokens(struct rig *r, uint64_t seed, int32_t n)
{
	int32_t *token = calloc((size_t)n, sizeof *token);
	struct rng rng = rng_seed(seed);
	struct session *s;
	struct err err = {0};

	for (int32_t i = 0; i < n; i++)
		token[i] = 300 + (int32_t)rng_below(&rng, 1000);
	if (talks_session(&r->t, &s, &err) != OK || session_sync(s, token, n, NULL, NULL, &err) != OK)
		fail_msg("%s", err.msg);
	free(token);
	return session_reused(s);
}

static void enter(struct rig *r, const char *id, bool want_read)
{
	struct chatlog_info info;
	struct err err = {0};
	bool read;

	if (talks_enter(&r->t, id, &info, &read, &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(read, want_read);
	assert_string_equal(r->t.now->id, id);
}

/* Half of the times must be below a millisecond: the machine may be busy with something else at any moment. */
struct times {
	int n, slow;
	double last;
};

static void took(struct times *t, double seconds)
{
	t->n++;
	t->slow += seconds > 1e-3;
	t->last = seconds;
}

static void expect_fast(const struct times *t, const char *what)
{
	if (t->slow * 2 > t->n)
		fail_msg("%s: expected less than 1 ms, %d of %d took more, the last %.3f ms", what, t->slow, t->n,
			 t->last * 1e3);
}

static void switching_reads_nothing_and_takes_less_than_a_millisecond(void **state)
{
	struct rig r;
	char id[2][TALK_ID];
	struct times t = {0};
	double start;

	(void)state;
	rig_open(&r, 2048);
	for (int i = 0; i < 2; i++) {
		begin(&r, (uint64_t)i);
		read_tokens(&r, (uint64_t)i, 300);
		memcpy(id[i], r.t.now->id, TALK_ID);
	}
	for (int i = 0; i < 50; i++) {
		start = clock_seconds();
		enter(&r, id[i % 2], false);
		took(&t, clock_seconds() - start);
		assert_int_equal(session_len(r.t.now->session), 300);
		assert_non_null(session_logits(r.t.now->session));
		assert_int_equal(read_tokens(&r, (uint64_t)(i % 2), 300), 300);
	}
	expect_fast(&t, "a switch");
	rig_close(&r);
}

static void a_fork_has_read_what_its_original_had(void **state)
{
	struct rig r;
	struct err err = {0};
	char id[TALK_ID];
	struct times t = {0};
	double start;

	(void)state;
	rig_open(&r, 2048);
	begin(&r, 1);
	read_tokens(&r, 1, 300);
	memcpy(id, r.t.now->id, TALK_ID);
	for (int i = 0; i < 9; i++) {
		start = clock_seconds();
		assert_int_equal(talks_fork(&r.t, &err), OK);
		took(&t, clock_seconds() - start);
		talks_save(&r.t, false);
	}
	expect_fast(&t, "a fork");
	assert_int_equal(session_len(r.t.now->session), 300);
	assert_int_equal(read_tokens(&r, 1, 300), 300);
	assert_string_not_equal(r.t.now->id, id);
	enter(&r, id, false);
	rig_close(&r);
}

/* The pool has five blocks of 128 tokens: two conversations of 400 tokens do not fit. */
static void when_blocks_run_out_the_other_session_goes(void **state)
{
	size_t bytes;
	struct rig r;
	float *before;
	char id[TALK_ID];

	(void)state;
	rig_open(&r, 512);
	bytes = (size_t)r.e->shape.vocab * sizeof *before;
	before = malloc(bytes);
	begin(&r, 1);
	read_tokens(&r, 1, 400);
	memcpy(id, r.t.now->id, TALK_ID);
	memcpy(before, session_logits(r.t.now->session), bytes);
	begin(&r, 2);
	read_tokens(&r, 2, 400);
	for (int i = 0; i < r.t.n; i++)
		assert_true((r.t.open[i]->session != NULL) == (r.t.open[i] == r.t.now));
	enter(&r, id, false);
	assert_null(r.t.now->session);
	read_tokens(&r, 1, 400);
	assert_memory_equal(session_logits(r.t.now->session), before, bytes);
	free(before);
	rig_close(&r);
}

static void many_conversations_keep_few_sessions(void **state)
{
	struct rig r;
	int sessions = 0;

	(void)state;
	rig_open(&r, 2048);
	for (int i = 0; i < TALKS_OPEN + 5; i++) {
		begin(&r, (uint64_t)i);
		read_tokens(&r, (uint64_t)i, 20);
	}
	assert_int_equal(r.t.n, TALKS_OPEN);
	for (int i = 0; i < r.t.n; i++)
		sessions += r.t.open[i]->session != NULL;
	assert_int_equal(sessions, TALKS_SESSIONS);
	assert_non_null(r.t.now->session);
	rig_close(&r);
}

static void one_that_was_closed_is_read_from_its_file(void **state)
{
	struct rig r;
	struct talk_entry *list;
	struct err err = {0};
	char id[TALK_ID], found[TALK_ID];
	int n;

	(void)state;
	rig_open(&r, 512);
	begin(&r, 77);
	talks_name(&r.t, "seventy-seven");
	memcpy(id, r.t.now->id, TALK_ID);
	rig_close(&r);
	rig_open(&r, 512);
	begin(&r, 78);
	enter(&r, id, true);
	assert_string_equal(r.t.now->name, "seventy-seven");
	assert_string_equal(r.t.now->conversation->messages[0].content.p, "conversation 77");
	assert_int_equal(talks_find(&r.t, "Seventy-SEVEN", found, &err), OK);
	assert_string_equal(found, id);
	assert_int_equal(talks_find(&r.t, "conversation 7", found, &err), ERR_ARGUMENT);	/* several */
	assert_int_equal(talks_list(&r.t, &list, &n, &err), OK);
	assert_true(n >= 2);
	talks_remember_list(&r.t, list, n);
	assert_int_equal(talks_find(&r.t, "1", found, &err), OK);
	assert_string_equal(found, list[0].id);
	free(list);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(switching_reads_nothing_and_takes_less_than_a_millisecond),
		cmocka_unit_test(a_fork_has_read_what_its_original_had),
		cmocka_unit_test(when_blocks_run_out_the_other_session_goes),
		cmocka_unit_test(many_conversations_keep_few_sessions),
		cmocka_unit_test(one_that_was_closed_is_read_from_its_file),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
