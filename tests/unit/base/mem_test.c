/* mem_test.c - checked allocation: overflow, zeroing, alignment, and the switch that makes the n-th one fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

static void sizes_that_overflow_are_refused(void **state)
{
	char *p = mem_str("kept");

	(void)state;
	assert_null(mem_array(SIZE_MAX / 2 + 1, 2));
	assert_null(mem_array(SIZE_MAX, SIZE_MAX));
	assert_null(mem_grow(p, SIZE_MAX / 4 + 1, 4));
	assert_null(mem_strn(p, SIZE_MAX));
	assert_string_equal(p, "kept");
	mem_free(p);
}

static void zeroed_memory_is_zero(void **state)
{
	unsigned char *a = mem_zero(1000), *b = mem_array(10, 100), *c = mem_aligned(1000, 256);

	(void)state;
	assert_non_null(a);
	assert_non_null(b);
	assert_non_null(c);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(a[i] | b[i] | c[i], 0);
	mem_free(a);
	mem_free(b);
	mem_free(c);
}

static void nothing_is_still_something_to_free(void **state)
{
	void *p[] = {mem_alloc(0), mem_zero(0), mem_array(0, 8), mem_grow(NULL, 0, 1), mem_aligned(0, 64), mem_copy("", 0)};

	(void)state;
	for (size_t i = 0; i < sizeof p / sizeof *p; i++) {
		assert_non_null(p[i]);
		mem_free(p[i]);
	}
	mem_free(NULL);
}

static void alignment_is_kept(void **state)
{
	(void)state;
	for (size_t align = sizeof(void *); align <= 4096; align *= 2) {
		void *p = mem_aligned(33, align);

		assert_int_equal((uintptr_t)p % align, 0);
		mem_free(p);
	}
}

static void copies_are_whole_and_terminated(void **state)
{
	char *a = mem_str("hello"), *b = mem_strn("hello", 2), *c = mem_copy("a\0b", 3);

	(void)state;
	assert_string_equal(a, "hello");
	assert_string_equal(b, "he");
	assert_memory_equal(c, "a\0b", 3);
	mem_free(a);
	mem_free(b);
	mem_free(c);
}

static void growing_keeps_the_old_bytes(void **state)
{
	int *p = NULL;

	(void)state;
	for (int n = 1; n < 1000; n++) {
		p = mem_grow(p, (size_t)n, sizeof *p);
		p[n - 1] = n;
	}
	for (int n = 1; n < 1000; n++)
		assert_int_equal(p[n - 1], n);
	mem_free(p);
}

static void exactly_the_nth_allocation_fails(void **state)
{
	(void)state;
	for (long n = 1; n <= 6; n++) {
		void *p[6];

		mem_fail_at(n);
		p[0] = mem_alloc(8);
		p[1] = mem_zero(8);
		p[2] = mem_array(1, 8);
		p[3] = mem_grow(NULL, 1, 8);
		p[4] = mem_aligned(8, 16);
		p[5] = mem_str("x");
		mem_fail_at(0);
		for (int i = 0; i < 6; i++) {
			assert_int_equal(p[i] == NULL, i == n - 1);
			mem_free(p[i]);
		}
	}
}

static void available_memory_is_known_and_plausible(void **state)
{
	uint64_t bytes = mem_available_bytes();

	(void)state;
	if (bytes < 1 << 20 || bytes > (uint64_t)1 << 50)
		fail_msg("expected 1 MiB to 1 PiB, found %llu bytes", (unsigned long long)bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_that_overflow_are_refused),
		cmocka_unit_test(zeroed_memory_is_zero),
		cmocka_unit_test(nothing_is_still_something_to_free),
		cmocka_unit_test(alignment_is_kept),
		cmocka_unit_test(copies_are_whole_and_terminated),
		cmocka_unit_test(growing_keeps_the_old_bytes),
		cmocka_unit_test(exactly_the_nth_allocation_fails),
		cmocka_unit_test(available_memory_is_known_and_plausible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
