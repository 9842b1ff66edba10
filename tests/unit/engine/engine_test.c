/* engine_test.c - opening a model: choices, refusals, and running out of memory at every allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/thread.h"
#include "engine/session.h"
#include "support/golden.h"

#define NANO "models/ds4-nano-q2.gguf"

static struct engine_options options(const char *model)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;

	o.model = model;
	return o;
}

static struct engine *open_ok(const struct engine_options *o)
{
	struct err err = {0};
	struct engine *e;

	if (engine_open(&e, o, &err) != OK)
		fail_msg("%s", err.msg);
	return e;
}

static void refused(const struct engine_options *o, enum status want, const char *a, const char *b)
{
	struct err err = {0};
	struct engine *e;
	enum status st = engine_open(&e, o, &err);

	assert_null(e);
	if (st != want || err.code != want || !strstr(err.msg, a) || !strstr(err.msg, b))
		fail_msg("expected %s with \"%s\" and \"%s\", got %s: %s", status_name(want), a, b, status_name(st),
			 err.msg);
}

static void open_choices_are_filled_in(void **state)
{
	struct engine_options o = options(NANO);
	struct engine *e = open_ok(&o);

	(void)state;
	assert_string_equal(e->name, "ds4-nano");
	assert_string_equal(e->opt.model, NANO);
	assert_string_equal(e->opt.backend, "cpu");
	assert_int_equal(e->opt.threads, cpu_count());
	assert_int_equal(e->opt.context, 32768);	/* nano is made for 65,536 */
	assert_int_equal(e->opt.timelines, 1);
	assert_int_equal(e->opt.chunk, 256);
	assert_int_equal(e->opt.max_logits, 1);
	assert_int_equal(e->plan.context, 32768);
	assert_int_equal(forward_max_rows(e->forward), 256);
	assert_int_equal(e->plan.work, forward_work_bytes(e->be, &e->shape, 256, 1));
	assert_int_equal(tokenizer_size(e->tokenizer), 8192);
	engine_close(e);
}

static void given_choices_are_kept_within_reason(void **state)
{
	struct engine_options o = options(NANO);
	struct engine *e;

	(void)state;
	o.backend = "ref";
	o.threads = 1;
	o.context = 100;
	o.timelines = 7;
	o.chunk = 4000;
	o.max_logits = 9999;
	e = open_ok(&o);
	assert_string_equal(e->opt.backend, "ref");
	assert_int_equal(e->opt.context, 100);
	assert_int_equal(e->opt.chunk, 100);		/* never more than the context */
	assert_int_equal(e->opt.max_logits, 100);	/* never more than the rows of a step */
	engine_close(e);
	o.chunk = 3;
	o.max_logits = 0;
	e = open_ok(&o);
	assert_int_equal(forward_max_rows(e->forward), 7);	/* a row of every timeline */
	assert_int_equal(e->opt.max_logits, 7);
	engine_close(e);
}

static void the_callers_strings_are_not_needed_later(void **state)
{
	char path[] = NANO, backend[] = "cpu";
	struct engine_options o = options(path);
	struct engine *e;

	(void)state;
	o.backend = backend;
	e = open_ok(&o);
	memset(path, 'x', sizeof path - 1);
	memset(backend, 'x', sizeof backend - 1);
	assert_string_equal(e->opt.model, NANO);
	assert_string_equal(e->opt.backend, "cpu");
	engine_close(e);
}

static void bad_options_name_value_and_range(void **state)
{
	struct engine_options o;

	(void)state;
	refused(&(struct engine_options)ENGINE_OPTIONS_DEFAULT, ERR_ARGUMENT, "model", "path");
	o = options(NANO), o.threads = -2;
	refused(&o, ERR_ARGUMENT, "threads: ", "-2");
	o = options(NANO), o.threads = 100000;
	refused(&o, ERR_ARGUMENT, "1024", "100000");
	o = options(NANO), o.context = -1;
	refused(&o, ERR_ARGUMENT, "context: ", "-1");
	o = options(NANO), o.timelines = -3;
	refused(&o, ERR_ARGUMENT, "timelines: ", "-3");
	o = options(NANO), o.chunk = -4;
	refused(&o, ERR_ARGUMENT, "chunk: ", "-4");
	o = options(NANO), o.max_logits = -5;
	refused(&o, ERR_ARGUMENT, "max_logits: ", "-5");
	o = options(NANO), o.context = 65537;
	refused(&o, ERR_ARGUMENT, "65536", "65537");
	o = options(NANO), o.backend = "abacus";
	refused(&o, ERR_NOT_FOUND, "abacus", "cpu");
}

static void bad_files_are_refused(void **state)
{
	struct engine_options o = options("models/no-such-file.gguf");

	(void)state;
	refused(&o, ERR_NOT_FOUND, "no-such-file", "");
	o.model = "src";
	refused(&o, ERR_IO, "src", "");
	o.model = "Makefile";
	refused(&o, ERR_FORMAT, "Makefile", "");
	o.model = "tests/data/text/tokenizer_only.gguf";	/* a vocabulary without a model */
	refused(&o, ERR_FORMAT, "tokenizer_only.gguf", "");
}

/* The number in the refusal is one that works. */
static void the_context_that_a_refusal_names_can_be_opened(void **state)
{
	struct engine_options o = options(NANO);
	struct err err = {0};
	struct engine *e;
	int fits = 0;
	char *at;

	(void)state;
	o.context = 65536;
	o.memory_limit = 50 << 20;
	assert_int_equal(engine_open(&e, &o, &err), ERR_MEMORY);
	at = strstr(err.msg, "fits is ");
	assert_non_null(at);
	assert_int_equal(sscanf(at, "fits is %d", &fits), 1);
	assert_in_range(fits, 128, 65535);
	assert_int_equal(fits % 128, 0);
	o.context = fits;
	e = open_ok(&o);
	assert_true(e->plan.total <= o.memory_limit);
	engine_close(e);
	o.context = fits + 128;
	refused(&o, ERR_MEMORY, "fits is", "");
	o.memory_limit = 1 << 20;
	refused(&o, ERR_MEMORY, "no context fits", "1048576");
}

static void running_out_of_memory_anywhere_is_an_error_and_leaks_nothing(void **state)
{
	struct engine_options o = options(golden_tiny_path(3));
	struct err err = {0};
	struct engine *e;
	long at = 1;

	(void)state;
	o.context = 128;
	o.threads = 1;
	o.memory_limit = UINT64_MAX;
	for (;; at++) {
		enum status st;

		memset(&err, 0, sizeof err);
		mem_fail_at(at);
		st = engine_open(&e, &o, &err);
		mem_fail_at(0);
		if (st == OK)
			break;
		assert_null(e);
		if (st != ERR_MEMORY || err.code != st || !err.msg[0])
			fail_msg("allocation %ld: expected ERR_MEMORY, got %s: %s", at, status_name(st), err.msg);
	}
	engine_close(e);
	if (at < 30)
		fail_msg("opening made only %ld allocations: the switch does not reach them", at);
	print_message("%ld allocations failed one by one\n", at - 1);
}

/* Kernels of several instruction sets differ in last bits: what one has stored is not the other's. */
static void stored_state_belongs_to_the_kernels_that_made_it(void **state)
{
	struct engine_options plain = options(golden_tiny_path(3)), best = plain;
	struct tree_key key[3];

	(void)state;
	plain.isa = "scalar";
	for (int i = 0; i < 3; i++) {
		struct err err = {0};
		struct engine *e;

		assert_int_equal(engine_open(&e, i == 1 ? &plain : &best, &err), OK);
		if (i == 0 && !strcmp(e->be->kernels, "scalar")) {
			engine_close(e);
			skip();
		}
		key[i] = engine_fingerprint(e);
		engine_close(e);
	}
	assert_memory_not_equal(&key[0], &key[1], sizeof key[0]);
	assert_memory_equal(&key[0], &key[2], sizeof key[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(open_choices_are_filled_in),
		cmocka_unit_test(given_choices_are_kept_within_reason),
		cmocka_unit_test(the_callers_strings_are_not_needed_later),
		cmocka_unit_test(bad_options_name_value_and_range),
		cmocka_unit_test(bad_files_are_refused),
		cmocka_unit_test(the_context_that_a_refusal_names_can_be_opened),
		cmocka_unit_test(stored_state_belongs_to_the_kernels_that_made_it),
		cmocka_unit_test(running_out_of_memory_anywhere_is_an_error_and_leaks_nothing),
	};

	return cmocka_run_group_tests_name("engine/engine", tests, NULL, NULL);
}
