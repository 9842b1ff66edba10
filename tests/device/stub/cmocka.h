/* cmocka.h - the few words of cmocka that the tests use, for machines that lack the library (tests/device/run.sh). */
#ifndef DS4_TESTS_DEVICE_CMOCKA_H
#define DS4_TESTS_DEVICE_CMOCKA_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct CMUnitTest {
	const char *name;
	void (*fn)(void **state);
};

/* The test that fails may be in another file than the runner: one place to jump to for the program. */
extern jmp_buf *stub_jump;

#define cmocka_unit_test(f) {#f, f}
#define print_message(...) printf(__VA_ARGS__)
#define fail_msg(...)                                      \
	do {                                               \
		printf("    %s:%d: ", __FILE__, __LINE__); \
		printf(__VA_ARGS__);                       \
		printf("\n");                              \
		fflush(stdout);                            \
		if (stub_jump)                             \
			longjmp(*stub_jump, 1);            \
		exit(1);                                   \
	} while (0)
#define assert_true(x)                                        \
	do {                                                  \
		if (!(x))                                     \
			fail_msg("expected true: %s", #x);    \
	} while (0)
#define assert_false(x) assert_true(!(x))
#define assert_null(x) assert_true(!(x))
#define assert_non_null(x) assert_true((x) != NULL)
#define assert_int_equal(a, b)                                                                           \
	do {                                                                                             \
		long long stub_a = (long long)(a), stub_b = (long long)(b);                              \
		if (stub_a != stub_b)                                                                    \
			fail_msg("%s = %lld, %s = %lld: expected equal", #a, stub_a, #b, stub_b);        \
	} while (0)

#define assert_memory_equal(a, b, n) assert_true(memcmp(a, b, n) == 0)
#define cmocka_run_group_tests_name(name, tests, setup, teardown) cmocka_run_group_tests(tests, setup, teardown)
#define cmocka_run_group_tests(tests, setup, teardown) stub_run(tests, sizeof(tests) / sizeof(tests)[0])

static inline int stub_run(const struct CMUnitTest *t, size_t n)
{
	int failed = 0;
	jmp_buf here;

	for (volatile size_t i = 0; i < n; i++) {
		struct timespec a, b;
		int bad;

		clock_gettime(CLOCK_MONOTONIC, &a);
		stub_jump = &here;
		bad = setjmp(here);
		if (!bad)
			t[i].fn(NULL);
		stub_jump = NULL;
		clock_gettime(CLOCK_MONOTONIC, &b);
		printf("%s %s (%.1f s)\n", bad ? "FAILED" : "ok    ", t[i].name,
		       (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec));
		fflush(stdout);
		failed += bad != 0;
	}
	return failed;
}

#endif
