/* rng_test.c - the generator against published outputs of splitmix64 and xoroshiro128+ (Blackman and Vigna's
 * reference code, 2018 constants), and its floats against what "uniform" means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"

static void expect(uint64_t got, uint64_t want, int i)
{
	if (got != want)
		fail_msg("output %d: expected %llu, found %llu", i, (unsigned long long)want, (unsigned long long)got);
}

static void seeds_are_spread_by_splitmix64(void **state)
{
	static const uint64_t want[] = {0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F};
	struct rng r = rng_seed(0);
	uint64_t x = 0;

	(void)state;
	for (int i = 0; i < 3; i++)
		expect(rng_mix(&x), want[i], i);
	expect(r.a, want[0], 0);
	expect(r.b, want[1], 1);
}

static void outputs_are_those_of_xoroshiro128_plus(void **state)
{
	static const uint64_t want[] = {3u, 412333834243u, 2360170716294286339u, 9295852285959843169u,
					2797080929874688578u, 6019711933173041966u, 3076529664176959358u,
					3521761819100106140u, 7493067640054542992u, 920801338098114767u};
	struct rng r = {1, 2};

	(void)state;
	for (int i = 0; i < 10; i++)
		expect(rng_u64(&r), want[i], i);
}

static void the_same_seed_gives_the_same_numbers(void **state)
{
	struct rng a = rng_seed(42), b = rng_seed(42), c = rng_seed(43);
	int same = 0;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		uint64_t x = rng_u64(&a);

		expect(rng_u64(&b), x, i);
		same += rng_u64(&c) == x;
	}
	assert_int_equal(same, 0);
}

/* 100,000 draws in 100 cells: the chi-square statistic has mean 99 and deviation 14. */
static void floats_fill_the_unit_interval_evenly(void **state)
{
	struct rng r = rng_seed(7);
	int cell[100] = {0};
	double chi = 0;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		double u = rng_uniform(&r);

		if (!(u >= 0 && u < 1))
			fail_msg("expected [0, 1), found %g", u);
		cell[(int)(u * 100)]++;
	}
	for (int i = 0; i < 100; i++)
		chi += (cell[i] - 1000.0) * (cell[i] - 1000.0) / 1000.0;
	if (chi < 40 || chi > 170)
		fail_msg("chi-square of 100 cells: expected about 99, found %g", chi);
}

static void numbers_below_n_reach_all_and_no_more(void **state)
{
	struct rng r = rng_seed(9);
	int seen[10] = {0};

	(void)state;
	for (int i = 0; i < 1000; i++) {
		uint64_t x = rng_below(&r, 10);

		assert_true(x < 10);
		seen[x]++;
	}
	for (int i = 0; i < 10; i++)
		assert_in_range(seen[i], 60, 140);
	assert_int_equal(rng_below(&r, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(seeds_are_spread_by_splitmix64),
		cmocka_unit_test(outputs_are_those_of_xoroshiro128_plus),
		cmocka_unit_test(the_same_seed_gives_the_same_numbers),
		cmocka_unit_test(floats_fill_the_unit_interval_evenly),
		cmocka_unit_test(numbers_below_n_reach_all_and_no_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
