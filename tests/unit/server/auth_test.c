/* auth_test.c - keys from files and the environment, which fields carry them, whose pages are local. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "server/auth.h"

static struct auth *keys_of_file(const char *text, struct err *err)
{
	char path[] = "/tmp/ds4-auth-test-XXXXXX";
	struct auth *a = NULL;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	auth_open(&a, path, err);
	unlink(path);
	return a;
}

static bool allows(const struct auth *a, const char *fields)
{
	char text[400];
	struct http_refusal why;
	struct http_head h;
	bool ok;

	snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", fields);
	assert_true(http_head_parse(&h, mem_str(text), strlen(text), &why));
	ok = auth_allows(a, &h);
	http_head_clear(&h);
	return ok;
}

static void a_file_has_a_key_a_line_and_comments(void **state)
{
	struct err err = {0};
	struct auth *a = keys_of_file("# keys\nalpha-key-1\n  beta-key-22  \r\n\n#gamma-key-3\n", &err);

	(void)state;
	assert_non_null(a);
	assert_true(auth_needed(a));
	assert_true(auth_key_fits(a, "alpha-key-1"));
	assert_true(auth_key_fits(a, "beta-key-22"));
	assert_false(auth_key_fits(a, "gamma-key-3"));
	assert_false(auth_key_fits(a, "alpha-key-"));
	assert_false(auth_key_fits(a, "alpha-key-11"));
	assert_false(auth_key_fits(a, ""));
	assert_false(auth_key_fits(a, "keys"));
	auth_close(a);
}

static void both_fields_carry_a_key_and_nothing_else_does(void **state)
{
	struct err err = {0};
	struct auth *a = keys_of_file("alpha-key-1\n", &err);

	(void)state;
	assert_true(allows(a, "Authorization: Bearer alpha-key-1\r\n"));
	assert_true(allows(a, "authorization: bearer  alpha-key-1\r\n"));
	assert_true(allows(a, "x-api-key: alpha-key-1\r\n"));
	assert_true(allows(a, "Authorization: Bearer any\r\nx-api-key: alpha-key-1\r\n"));
	assert_false(allows(a, ""));
	assert_false(allows(a, "Authorization: alpha-key-1\r\n"));
	assert_false(allows(a, "Authorization: Basic alpha-key-1\r\n"));
	assert_false(allows(a, "Authorization: Bearer\r\n"));
	assert_false(allows(a, "x-api-key: alpha-key-2\r\n"));
	auth_close(a);
}

static void without_keys_everybody_may(void **state)
{
	struct err err = {0};
	struct auth *a = NULL;

	(void)state;
	assert_int_equal(auth_open(&a, NULL, &err), OK);
	assert_false(auth_needed(a));
	assert_true(allows(a, ""));
	auth_close(a);
}

static void what_cannot_be_a_key_is_refused(void **state)
{
	struct err err = {0};
	struct auth *a;

	(void)state;
	assert_null(keys_of_file("# nothing\n", &err));
	assert_int_equal(err.code, ERR_FORMAT);
	assert_null(keys_of_file("short\n", &err));
	assert_non_null(strstr(err.msg, "5 bytes, expected at least 8"));
	assert_int_equal(auth_open(&a, "sk-a-key-itself", &err), ERR_NOT_FOUND);
}

static void only_pages_of_this_machine_are_local(void **state)
{
	(void)state;
	assert_true(origin_is_local(NULL));
	assert_true(origin_is_local("http://localhost"));
	assert_true(origin_is_local("http://localhost:3000"));
	assert_true(origin_is_local("https://127.0.0.1:8443"));
	assert_true(origin_is_local("http://[::1]:8000"));
	assert_false(origin_is_local("null"));
	assert_false(origin_is_local("file://"));
	assert_false(origin_is_local("http://localhost.example.org"));
	assert_false(origin_is_local("http://127.0.0.1.example.org"));
	assert_false(origin_is_local("http://localhost@example.org"));
	assert_false(origin_is_local("http://localhost:80@example.org"));
	assert_false(origin_is_local("http://example.org"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_has_a_key_a_line_and_comments),
		cmocka_unit_test(both_fields_carry_a_key_and_nothing_else_does),
		cmocka_unit_test(without_keys_everybody_may),
		cmocka_unit_test(what_cannot_be_a_key_is_refused),
		cmocka_unit_test(only_pages_of_this_machine_are_local),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
