/* probe_test.c - the machine's limits: the products are right, the figures are plausible. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/probe.h"

static void every_int8_product_of_this_machine_equals_a_plain_sum(void **state)
{
	struct err err = {.code = OK};
	int n = 0;

	(void)state;
	if (probe_check(&n, &err) != OK)
		fail_msg("%s", err.msg);
	if (n < 1)
		fail_msg("expected at least one product, found %d", n);
}

static void both_limits_are_measured_with_one_and_two_threads(void **state)
{
	(void)state;
	for (int threads = 1; threads <= 2; threads++) {
		struct probe_result r;
		struct err err = {.code = OK};

		if (probe_run(&r, threads, 0.02, 64 << 20, &err) != OK)
			fail_msg("%s", err.msg);
		assert_int_equal(r.read_bytes, 64 << 20);
		assert_int_equal(r.threads, threads);
		/* Slower than a floppy drive or faster than any machine is a mistake of the clock or of the count. */
		if (r.bytes_per_s < 1e6 || r.bytes_per_s > 1e14)
			fail_msg("expected 1e6 to 1e14 bytes/s, found %g", r.bytes_per_s);
		if (r.int8_ops_per_s < 1e6 || r.int8_ops_per_s > 1e16)
			fail_msg("expected 1e6 to 1e16 operations/s, found %g", r.int8_ops_per_s);
	}
}

static void no_threads_are_refused(void **state)
{
	struct probe_result r;
	struct err err = {.code = OK};

	(void)state;
	assert_int_equal(probe_run(&r, 0, 0.01, 64 << 20, &err), ERR_ARGUMENT);
	assert_string_equal(err.msg, "probe: expected 1 to 1024 threads, got 0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_int8_product_of_this_machine_equals_a_plain_sum),
		cmocka_unit_test(both_limits_are_measured_with_one_and_two_threads),
		cmocka_unit_test(no_threads_are_refused),
	};

	return cmocka_run_group_tests_name("probe", tests, NULL, NULL);
}
