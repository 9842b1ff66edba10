/* buf_test.c - growable bytes: the NUL behind them, the cap, the failure that sticks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"

static void pieces_are_joined_and_nul_terminated(void **state)
{
	struct buf b = BUF_CAP(100);

	(void)state;
	assert_string_equal(buf_cstr(&b), "");
	buf_str(&b, "ab");
	buf_byte(&b, '-');
	buf_add(&b, "c\0d", 3);
	buf_printf(&b, "%d/%s", 42, "x");
	assert_true(buf_ok(&b));
	assert_int_equal(b.len, 10);
	assert_memory_equal(b.data, "ab-c\0d42/x", 11);
	buf_clear(&b);
	assert_int_equal(b.len, 0);
	assert_int_equal(b.cap, 100);
}

static void growth_keeps_what_was_written(void **state)
{
	struct buf b = BUF_CAP(BUF_MAX);

	(void)state;
	for (int i = 0; i < 10000; i++)
		buf_printf(&b, "%04d", i);
	assert_true(buf_ok(&b));
	assert_int_equal(b.len, 40000);
	for (int i = 0; i < 10000; i++) {
		char want[5] = {(char)('0' + i / 1000), (char)('0' + i / 100 % 10), (char)('0' + i / 10 % 10),
				(char)('0' + i % 10), 0};

		assert_memory_equal(b.data + 4 * i, want, 4);
	}
	buf_clear(&b);
}

static void the_cap_is_reached_exactly_and_never_passed(void **state)
{
	struct buf b = BUF_CAP(4);

	(void)state;
	buf_str(&b, "abcd");
	assert_true(buf_ok(&b));
	buf_byte(&b, 'e');
	assert_false(buf_ok(&b));
	assert_int_equal(b.len, 4);
	assert_string_equal(buf_cstr(&b), "abcd");
	buf_clear(&b);
	buf_printf(&b, "%s", "abcde");
	assert_false(buf_ok(&b));
	assert_int_equal(b.len, 0);
	buf_clear(&b);
}

static void after_a_failure_every_call_does_nothing(void **state)
{
	struct buf b = BUF_CAP(3);

	(void)state;
	buf_str(&b, "ab");
	buf_str(&b, "cd");
	buf_byte(&b, 'e');
	buf_printf(&b, "f");
	assert_false(buf_ok(&b));
	assert_string_equal(buf_cstr(&b), "ab");
	assert_null(buf_take(&b));
	buf_cut(&b, 1);
	assert_false(buf_ok(&b));
	buf_clear(&b);
	assert_true(buf_ok(&b));
	buf_str(&b, "abc");
	assert_string_equal(buf_cstr(&b), "abc");
	buf_clear(&b);
}

static void every_failed_allocation_is_a_sticky_failure(void **state)
{
	int n = 1;

	(void)state;
	for (;; n++) {
		struct buf b = BUF_CAP(BUF_MAX);
		bool ok;

		mem_fail_at(n);
		for (int i = 0; i < 1000; i++)
			buf_printf(&b, "%d ", i);
		ok = buf_ok(&b);
		mem_fail_at(0);
		assert_int_equal(b.len ? strlen(b.data) : 0, b.len);
		buf_clear(&b);
		if (ok)
			break;
	}
	assert_in_range(n, 3, 20);	/* so growth is by a factor, and it did fail before */
}

static void taking_moves_the_bytes_out(void **state)
{
	struct buf b = BUF_CAP(10);
	char *p;

	(void)state;
	p = buf_take(&b);	/* of nothing is an empty string */
	assert_string_equal(p, "");
	mem_free(p);
	buf_str(&b, "hello");
	p = buf_take(&b);
	assert_string_equal(p, "hello");
	assert_int_equal(b.len, 0);
	assert_string_equal(buf_cstr(&b), "");
	mem_free(p);
	buf_clear(&b);
}

static void both_ends_can_be_shortened(void **state)
{
	struct buf b = BUF_CAP(10);

	(void)state;
	buf_drop_front(&b, 3);	/* of nothing */
	buf_cut(&b, 0);
	buf_str(&b, "abcdef");
	buf_cut(&b, 4);
	buf_cut(&b, 9);		/* longer than it is: nothing */
	assert_string_equal(buf_cstr(&b), "abcd");
	buf_drop_front(&b, 1);
	assert_string_equal(buf_cstr(&b), "bcd");
	assert_int_equal(b.len, 3);
	buf_drop_front(&b, 99);
	assert_string_equal(buf_cstr(&b), "");
	buf_clear(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pieces_are_joined_and_nul_terminated),
		cmocka_unit_test(growth_keeps_what_was_written),
		cmocka_unit_test(the_cap_is_reached_exactly_and_never_passed),
		cmocka_unit_test(after_a_failure_every_call_does_nothing),
		cmocka_unit_test(every_failed_allocation_is_a_sticky_failure),
		cmocka_unit_test(taking_moves_the_bytes_out),
		cmocka_unit_test(both_ends_can_be_shortened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
