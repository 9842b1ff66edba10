/* half_test.c - the small float formats against their definitions and against numpy.
 *
 * Rounding to nearest, ties to even, is tested as its definition reads: between each two neighbouring values of a
 * format, the midpoint goes to the even code and the floats next to the midpoint go to the nearer side. */
#include "quant/half.h"

#include "vectors.h"

static float f16_definition(unsigned h)
{
	int exp = h >> 10 & 31, man = h & 1023;
	float m = exp ? ldexpf((float)(1024 + man), exp - 25) : ldexpf((float)man, -24);

	return h & 0x8000 ? -m : m;
}

static void f16_to_f32_is_the_definition_for_all_65536_values(void **state)
{
	(void)state;
	for (unsigned h = 0; h < 65536; h++) {
		float got = f16_to_f32((uint16_t)h);

		if ((h >> 10 & 31) < 31)
			expect_float("f16", h, f16_definition(h), got);
		else if (h & 1023)
			assert_true(isnan(got));
		else
			expect_float("f16", h, h & 0x8000 ? -INFINITY : INFINITY, got);
	}
}

static void f16_and_bf16_survive_the_round_trip_for_all_65536_values(void **state)
{
	(void)state;
	for (unsigned h = 0; h < 65536; h++) {
		float x = f16_to_f32((uint16_t)h), y = bf16_to_f32((uint16_t)h);

		if (isnan(x))
			assert_true(isnan(f16_to_f32(f16_from_f32(x))));
		else
			assert_int_equal(f16_from_f32(x), h);
		if (isnan(y))
			assert_true(isnan(bf16_to_f32(bf16_from_f32(y))));
		else
			assert_int_equal(bf16_from_f32(y), h);
	}
}

static void expect_code(const char *what, double x, unsigned want, unsigned got)
{
	if (want != got)
		fail_msg("%s of %.17g (%a): expected code 0x%02X, got 0x%02X", what, x, x, want, got);
}

/* lo and lo + 1 are the codes of neighbours; mid lies exactly between and its neighbours are one ulp away. */
static void f16_ties_go_to_even_and_the_rest_to_the_nearest(void **state)
{
	(void)state;
	for (unsigned lo = 0; lo < 0x7BFF; lo++) {
		float mid = (f16_definition(lo) + f16_definition(lo + 1)) / 2;
		unsigned even = lo & 1 ? lo + 1 : lo;

		expect_code("f16", mid, even, f16_from_f32(mid));
		expect_code("f16", mid, lo + 1, f16_from_f32(nextafterf(mid, 1e9f)));
		expect_code("f16", mid, lo, f16_from_f32(nextafterf(mid, 0)));
		expect_code("f16", -mid, even | 0x8000, f16_from_f32(-mid));
	}
	expect_code("f16", 65519, 0x7BFF, f16_from_f32(nextafterf(65520, 0)));
	expect_code("f16", 65520, 0x7C00, f16_from_f32(65520));
	expect_code("f16", INFINITY, 0xFC00, f16_from_f32(-INFINITY));
	expect_code("f16", -0x1p-126, 0x8000, f16_from_f32(-0x1p-126f));
}

static void bf16_ties_go_to_even_and_the_rest_to_the_nearest(void **state)
{
	(void)state;
	for (unsigned lo = 0; lo < 0x7F7F; lo++) {
		float mid = f32_from_bits(lo << 16 | 0x8000);
		unsigned even = lo & 1 ? lo + 1 : lo;

		expect_code("bf16", mid, even, bf16_from_f32(mid));
		expect_code("bf16", mid, lo + 1, bf16_from_f32(f32_from_bits(lo << 16 | 0x8001)));
		expect_code("bf16", mid, lo, bf16_from_f32(f32_from_bits(lo << 16 | 0x7FFF)));
		expect_code("bf16", -mid, even | 0x8000, bf16_from_f32(-mid));
	}
	expect_code("bf16", INFINITY, 0x7F80, bf16_from_f32(f32_from_bits(0x7F7FFFFF)));
	assert_true(isnan(bf16_to_f32(bf16_from_f32(f32_from_bits(0x7F800001)))));
	assert_true(isnan(bf16_to_f32(bf16_from_f32(f32_from_bits(0xFFFFFFFF)))));
}

static float e4m3_definition(unsigned b)
{
	int exp = b >> 3 & 15, man = b & 7;
	float m = exp ? ldexpf(1 + (float)man / 8, exp - 7) : ldexpf((float)man / 8, -6);

	return b & 0x80 ? -m : m;
}

static void all_256_e4m3_codes_decode_as_defined_and_survive_the_round_trip(void **state)
{
	(void)state;
	for (unsigned b = 0; b < 256; b++) {
		float x = e4m3_to_f32((uint8_t)b);

		if ((b & 0x7F) == 0x7F) {
			assert_true(isnan(x));
			continue;
		}
		expect_float("e4m3", b, e4m3_definition(b), x);
		expect_code("e4m3", x, b, e4m3_from_f64(x));
	}
	expect_float("e4m3 largest", 0x7E, 448, e4m3_to_f32(0x7E));
	expect_float("e4m3 smallest", 1, 0x1p-9f, e4m3_to_f32(1));
}

static void e4m3_ties_go_to_even_the_rest_to_the_nearest_and_large_values_to_448(void **state)
{
	(void)state;
	for (unsigned lo = 0; lo < 0x7E; lo++) {
		double mid = ((double)e4m3_definition(lo) + (double)e4m3_definition(lo + 1)) / 2;
		unsigned even = lo & 1 ? lo + 1 : lo;

		expect_code("e4m3", mid, even, e4m3_from_f64(mid));
		expect_code("e4m3", mid, lo + 1, e4m3_from_f64(nextafter(mid, 1e9)));
		expect_code("e4m3", mid, lo, e4m3_from_f64(nextafter(mid, 0)));
		expect_code("e4m3", -mid, even | 0x80, e4m3_from_f64(-mid));
	}
	expect_code("e4m3", 448.1, 0x7E, e4m3_from_f64(448.1));
	expect_code("e4m3", 470, 0x7E, e4m3_from_f64(470));	/* nearer to 480, whose code is the NaN */
	expect_code("e4m3", -1e300, 0xFE, e4m3_from_f64(-1e300));
	expect_code("e4m3", INFINITY, 0x7E, e4m3_from_f64((double)INFINITY));
	expect_code("e4m3", 0, 0x80, e4m3_from_f64(-0.0));
	expect_code("e4m3", 1e-300, 0, e4m3_from_f64(1e-300));
	expect_code("e4m3", NAN, 0x7F, e4m3_from_f64((double)NAN));
}

/* The known answers of the model's description: a block whose largest magnitude is 448, so the scale is 1. */
static void e4m3_known_answers(void **state)
{
	static const struct {
		double x;
		float want;
	} known[] = {{1.0625, 1}, {1.1875, 1.25f}, {17, 16}, {19, 20}, {0.001, 0.001953125f}};

	(void)state;
	assert_int_equal(pow2_scale_exponent(448, 448), 0);
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		expect_float("e4m3 known answer", i, known[i].want, e4m3_to_f32(e4m3_from_f64(known[i].x)));
}

static void all_16_e2m1_codes_decode_as_defined_and_survive_the_round_trip(void **state)
{
	static const float value[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

	(void)state;
	for (unsigned b = 0; b < 16; b++) {
		expect_float("e2m1", b, b & 8 ? -value[b & 7] : value[b & 7], e2m1_to_f32((uint8_t)b));
		expect_code("e2m1", value[b & 7], b, e2m1_from_f64(e2m1_to_f32((uint8_t)b)));
	}
}

static void e2m1_ties_go_to_even_the_rest_to_the_nearest_and_large_values_to_6(void **state)
{
	static const struct {
		double tie;
		float want, below, above;
	} ties[] = {
		{0.25, 0, 0, 0.5f}, {0.75, 1, 0.5f, 1}, {1.25, 1, 1, 1.5f}, {1.75, 2, 1.5f, 2},
		{2.5, 2, 2, 3}, {3.5, 4, 3, 4}, {5, 4, 4, 6},
	};

	(void)state;
	for (size_t i = 0; i < sizeof ties / sizeof *ties; i++) {
		double t = ties[i].tie;

		expect_float("e2m1 tie", i, ties[i].want, e2m1_to_f32(e2m1_from_f64(t)));
		expect_float("e2m1 tie, negative", i, -ties[i].want, e2m1_to_f32(e2m1_from_f64(-t)));
		expect_float("e2m1 below", i, ties[i].below, e2m1_to_f32(e2m1_from_f64(nextafter(t, 0))));
		expect_float("e2m1 above", i, ties[i].above, e2m1_to_f32(e2m1_from_f64(nextafter(t, 9))));
	}
	expect_float("e2m1 of 1e30", 0, 6, e2m1_to_f32(e2m1_from_f64(1e30)));
	expect_float("e2m1 of -inf", 0, -6, e2m1_to_f32(e2m1_from_f64(-(double)INFINITY)));
	expect_float("e2m1 of -0", 0, -0.0f, e2m1_to_f32(e2m1_from_f64(-0.0)));
}

static void e8m0_is_a_power_of_two_for_every_byte(void **state)
{
	(void)state;
	for (int e = 0; e < 255; e++)
		expect_float("e8m0", (size_t)e, ldexpf(1, e - 127), e8m0_to_f32((uint8_t)e));
	assert_true(isnan(e8m0_to_f32(255)));
}

static void roundings_match(const char *name, float (*round)(float))
{
	struct vectors v = vectors_open(name);
	float x, want;

	assert_int_equal(v.bytes, v.count * 2 * sizeof x);
	for (size_t i = 0; i < v.count; i++) {
		memcpy(&x, v.data + i * sizeof x, sizeof x);
		memcpy(&want, v.data + (v.count + i) * sizeof x, sizeof x);
		expect_float(name, i, want, round(x));
	}
	buf_clear(&v.file);
}

static float through_f16(float x)
{
	return f16_to_f32(f16_from_f32(x));
}

static float through_bf16(float x)
{
	return bf16_to_f32(bf16_from_f32(x));
}

static float through_e4m3(float x)
{
	return e4m3_to_f32(e4m3_from_f64(x));
}

static float through_e2m1(float x)
{
	return e2m1_to_f32(e2m1_from_f64(x));
}

static void roundings_match_the_numpy_reference(void **state)
{
	(void)state;
	roundings_match("f16_round", through_f16);
	roundings_match("bf16_round", through_bf16);
	roundings_match("e4m3_round", through_e4m3);
	roundings_match("e2m1_round", through_e2m1);
}

static void the_scale_exponent_is_the_least_that_fits_at_and_beside_powers_of_two(void **state)
{
	struct vectors v = vectors_open("scale");
	const uint8_t *amax_at = v.data + v.count * sizeof(double), *k_at = amax_at + v.count * sizeof(float);
	double top;
	float amax;
	int32_t want;

	(void)state;
	assert_int_equal(v.bytes, v.count * (sizeof top + sizeof amax + sizeof want));
	for (size_t i = 0; i < v.count; i++) {
		int got;

		memcpy(&top, v.data + i * sizeof top, sizeof top);
		memcpy(&amax, amax_at + i * sizeof amax, sizeof amax);
		memcpy(&want, k_at + i * sizeof want, sizeof want);
		got = pow2_scale_exponent(amax, top);
		if (got != want)
			fail_msg("scale of amax %a, top %g: expected 2^%d, got 2^%d", (double)amax, top, want, got);
	}
	assert_int_equal(pow2_scale_exponent(448 * 4, 448), 2);
	assert_int_equal(pow2_scale_exponent((double)nextafterf(448 * 4, 0), 448), 2);
	assert_int_equal(pow2_scale_exponent((double)nextafterf(448 * 4, 1e9f), 448), 3);
	assert_int_equal(pow2_scale_exponent(6 * 0x1p-126, 6), -126);
	buf_clear(&v.file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f16_to_f32_is_the_definition_for_all_65536_values),
		cmocka_unit_test(f16_and_bf16_survive_the_round_trip_for_all_65536_values),
		cmocka_unit_test(f16_ties_go_to_even_and_the_rest_to_the_nearest),
		cmocka_unit_test(bf16_ties_go_to_even_and_the_rest_to_the_nearest),
		cmocka_unit_test(all_256_e4m3_codes_decode_as_defined_and_survive_the_round_trip),
		cmocka_unit_test(e4m3_ties_go_to_even_the_rest_to_the_nearest_and_large_values_to_448),
		cmocka_unit_test(e4m3_known_answers),
		cmocka_unit_test(all_16_e2m1_codes_decode_as_defined_and_survive_the_round_trip),
		cmocka_unit_test(e2m1_ties_go_to_even_the_rest_to_the_nearest_and_large_values_to_6),
		cmocka_unit_test(e8m0_is_a_power_of_two_for_every_byte),
		cmocka_unit_test(roundings_match_the_numpy_reference),
		cmocka_unit_test(the_scale_exponent_is_the_least_that_fits_at_and_beside_powers_of_two),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
