/* status_test.c - the status table is complete and unambiguous; messages are whole or cut, never overrun. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

static const enum status all[] = {
#define X(code, http, exit_code, text) code,
	STATUS_MAP(X)
#undef X
};

enum { N = sizeof all / sizeof *all };

static void every_code_has_a_name_a_text_and_an_exit_code_of_its_own(void **state)
{
	(void)state;
	for (int i = 0; i < N; i++) {
		assert_non_null(status_name(all[i]));
		assert_true(status_text(all[i])[0] != '\0');
		assert_in_range(status_http(all[i]), 200, 599);
		assert_in_range(status_exit_code(all[i]), 0, 125);	/* above are the shell's own */
		for (int j = 0; j < i; j++) {
			assert_int_not_equal(status_exit_code(all[i]), status_exit_code(all[j]));
			assert_string_not_equal(status_name(all[i]), status_name(all[j]));
		}
	}
	assert_int_equal(status_exit_code(OK), 0);
	assert_int_equal(status_http(OK), 200);
	assert_string_equal(status_name(ERR_FORMAT), "ERR_FORMAT");
	assert_string_equal(status_text(ERR_FORMAT), "malformed file");
}

static void setting_an_error_gives_back_its_code(void **state)
{
	struct err err = {0};

	(void)state;
	assert_int_equal(err_set(&err, ERR_LIMIT, "%s: expected %d, found %d", "x", 1, 2), ERR_LIMIT);
	assert_int_equal(err.code, ERR_LIMIT);
	assert_string_equal(err.msg, "x: expected 1, found 2");
	assert_int_equal(err_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
}

static void a_prefix_goes_in_front(void **state)
{
	struct err err = {0};

	(void)state;
	err_set(&err, ERR_FORMAT, "no such key");
	assert_int_equal(err_prefix(&err, "model %d", 7), ERR_FORMAT);
	assert_string_equal(err.msg, "model 7: no such key");
	assert_int_not_equal(err_prefix(NULL, "x"), OK);
}

static void long_messages_are_cut_at_the_end(void **state)
{
	struct err err = {0};
	char x[1000];

	(void)state;
	memset(x, 'x', sizeof x - 1);
	x[sizeof x - 1] = '\0';
	err_set(&err, ERR_IO, "%s", x);
	assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
	err_prefix(&err, "start");
	assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
	assert_memory_equal(err.msg, "start: xxx", 10);
	err_prefix(&err, "%s", x);
	assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
}

static enum status fails(enum status st)
{
	TRY(st);
	return OK;
}

static enum status cleans_up(enum status first, int *cleaned)
{
	enum status st = OK;

	TRY_TO(out, first);
	TRY_TO(out, OK);
out:
	(*cleaned)++;
	return st;
}

static void try_returns_the_first_failure(void **state)
{
	int cleaned = 0;

	(void)state;
	assert_int_equal(fails(OK), OK);
	assert_int_equal(fails(ERR_DEVICE), ERR_DEVICE);
	assert_int_equal(cleans_up(OK, &cleaned), OK);
	assert_int_equal(cleans_up(ERR_MEMORY, &cleaned), ERR_MEMORY);
	assert_int_equal(cleaned, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_code_has_a_name_a_text_and_an_exit_code_of_its_own),
		cmocka_unit_test(setting_an_error_gives_back_its_code),
		cmocka_unit_test(a_prefix_goes_in_front),
		cmocka_unit_test(long_messages_are_cut_at_the_end),
		cmocka_unit_test(try_returns_the_first_failure),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
