/* cpu_rows_test.c - the small formats and functions of the cpu backend against their scalar definitions
 * (quant/half.h, libm in double) and the known answers of docs/model.md section 14. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/cpu_int.h"
#include "base/rng.h"
#include "support/kit.h"

static struct kit kit;

static int open_backend(void **state)
{
	(void)state;
	kit_open(&kit, "cpu", 1, 0, 0);
	return 0;
}

static int close_backend(void **state)
{
	(void)state;
	kit_free_weights();
	kit_close(&kit);
	return 0;
}

/* Packs one row and compares all its bytes with the definition. */
static void check_row(const float *x)
{
	uint8_t packed[GEOM_ROW_BYTES];
	struct packed_rows one = {packed, 1};
	float back[GEOM_HEAD];

	cpu_store_row(one, 0, x);
	cpu_load_row(cpu_of(kit.be), one, 0, back);
	for (int g = 0; g < GEOM_ROW_SCALES; g++) {
		double top = 1e-4;
		int k;

		for (int i = 0; i < 64; i++)
			top = fmax(top, fabs((double)x[64 * g + i]));
		k = pow2_scale_exponent(top, 448);
		if (packed[448 + 128 + g] != k + 127)
			fail_msg("group %d with largest %.9g: scale byte %d, expected %d", g, top,
			         packed[448 + 128 + g], k + 127);
		for (int i = 64 * g; i < 64 * g + 64; i++) {
			uint8_t code = e4m3_from_f64(ldexp((double)x[i], -k));

			if (packed[i] != code)
				fail_msg("%.9g / 2^%d: code %02x, expected %02x", (double)x[i], k, packed[i],
				         code);
			if (back[i] != ldexpf(e4m3_to_f32(code), k))
				fail_msg("code %02x * 2^%d: %.9g, expected %.9g", code, k, (double)back[i],
					 (double)ldexpf(e4m3_to_f32(code), k));
		}
	}
	for (int i = 448; i < 512; i++)
		assert_true(back[i] == f16_to_f32(f16_from_f32(x[i])));
}

static void rows_pack_as_the_definition_says(void **state)
{
	struct rng r = rng_seed(1);
	float x[GEOM_HEAD];

	(void)state;
	for (int round = 0; round < 2000; round++) {
		for (int i = 0; i < GEOM_HEAD; i++)
			x[i] = ldexpf(kit_uniform(&r, 1), (int)rng_below(&r, 24) - 14 - round % 20);
		check_row(x);
	}
	memset(x, 0, sizeof x);
	check_row(x);
}

static void ties_between_e4m3_codes_go_to_the_even_one(void **state)
{
	float x[GEOM_HEAD] = {0};

	(void)state;
	for (int code = 0; code < 126; code++) {	/* largest 448: the scale is 1 */
		float middle = 0.5f * (e4m3_to_f32((uint8_t)code) + e4m3_to_f32((uint8_t)(code + 1)));

		for (int g = 0; g < 7; g++) {
			x[64 * g] = 448;
			x[64 * g + 1] = middle;
			x[64 * g + 2] = nextafterf(middle, 0);
			x[64 * g + 3] = nextafterf(middle, 1000);
			x[64 * g + 4] = -middle;
			x[64 * g + 5] = e4m3_to_f32((uint8_t)code);
		}
		check_row(x);
	}
}

static void known_e4m3_values_come_back(void **state)
{
	static const float in[6] = {448, 1.0625f, 1.1875f, 17, 19, 0.001f};
	static const float want[6] = {448, 1, 1.25f, 16, 20, 0.001953125f};
	float x[GEOM_HEAD] = {0}, back[GEOM_HEAD];
	uint8_t packed[GEOM_ROW_BYTES];
	struct packed_rows one = {packed, 1};

	(void)state;
	memcpy(x, in, sizeof in);
	cpu_store_row(one, 0, x);
	cpu_load_row(cpu_of(kit.be), one, 0, back);
	for (int i = 0; i < 6; i++)
		if (back[i] != want[i])
			fail_msg("%g became %g, expected %g", (double)in[i], (double)back[i], (double)want[i]);
}

static void nan_stays_nan_in_a_packed_row(void **state)
{
	float x[GEOM_HEAD] = {0}, back[GEOM_HEAD];
	uint8_t packed[GEOM_ROW_BYTES];
	struct packed_rows one = {packed, 1};

	(void)state;
	x[7] = NAN;
	x[8] = 1;
	x[500] = NAN;
	cpu_store_row(one, 0, x);
	cpu_load_row(cpu_of(kit.be), one, 0, back);
	assert_true(isnan(back[7]) && isnan(back[500]) && back[8] == 1);
}

static void rows_move_between_groups_of_any_size(void **state)
{
	static uint8_t a[5 * GEOM_ROW_BYTES], b[3 * GEOM_ROW_BYTES];
	struct packed_rows from = {a, 5}, to = {b, 3};
	struct rng r = rng_seed(2);
	float x[5][GEOM_HEAD], want[GEOM_HEAD], have[GEOM_HEAD];

	(void)state;
	for (int i = 0; i < 5; i++) {
		for (int k = 0; k < GEOM_HEAD; k++)
			x[i][k] = kit_uniform(&r, 3);
		cpu_store_row(from, i, x[i]);
	}
	for (int i = 0; i < 3; i++)
		cpu_copy_row(to, i, from, 4 - i);
	for (int i = 0; i < 3; i++) {
		cpu_load_row(cpu_of(kit.be), from, 4 - i, want);
		cpu_load_row(cpu_of(kit.be), to, i, have);
		assert_memory_equal(want, have, sizeof want);
	}
}

static void keys_pack_as_the_definition_says(void **state)
{
	static const float edge[] = {0.25f, 0.75f,   1.25f,   1.75f,  2.5f,   3.5f, 5,
	                             6,     0.2499f, 0.7501f, 5.001f, -0.25f, -5,   0};
	struct rng r = rng_seed(3);
	uint8_t packed[3 * GEOM_KEY_BYTES];
	struct packed_rows three = {packed, 3};
	float x[GEOM_KEY], back[GEOM_KEY], round_trip[GEOM_KEY];

	(void)state;
	for (int round = 0; round < 3000; round++) {
		for (int i = 0; i < GEOM_KEY; i++)
			x[i] = ldexpf(kit_uniform(&r, 1), (int)rng_below(&r, 6) - round % 150);
		if (round == 0)
			for (int i = 0; i < GEOM_KEY; i++)
				x[i] = i % 32 == 0 ? 6 : edge[(size_t)i % (sizeof edge / sizeof *edge)];
		cpu_store_key(three, 1, x);
		cpu_load_key(cpu_of(kit.be), three, 1, back);
		memcpy(round_trip, x, sizeof x);
		cpu_round_key(round_trip);
		assert_memory_equal(round_trip, back, sizeof back);
		for (int g = 0; g < 4; g++) {
			double top = 6 * 0x1p-126;
			int k;

			for (int i = 0; i < 32; i++)
				top = fmax(top, fabs((double)x[32 * g + i]));
			k = pow2_scale_exponent(top, 6);
			for (int i = 32 * g; i < 32 * g + 32; i++) {
				double want =
					ldexp((double)e2m1_to_f32(e2m1_from_f64(ldexp((double)x[i], -k))), k);

				if ((double)back[i] != want)
					fail_msg("%.9g with scale 2^%d: %.9g, expected %.9g", (double)x[i], k,
						 (double)back[i], want);
			}
		}
	}
}

static void hadamard_gives_the_known_answer(void **state)
{
	static const struct {
		int i;
		float want;
	} known[] = {{0, 2.2185475f}, {1, -0.0441942f}, {2, -0.0883883f}, {64, -2.8284271f}, {3, 0}};
	float x[GEOM_KEY];

	(void)state;
	for (int i = 0; i < GEOM_KEY; i++)
		x[i] = (float)i / 128 - 0.3f;
	cpu_hadamard(x);
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (!(fabsf(x[known[i].i] - known[i].want) < 2e-6f))
			fail_msg("y[%d] = %.7f, expected %.7f", known[i].i, (double)x[known[i].i],
			         (double)known[i].want);
}

static void hyper_connection_gives_the_known_answer(void **state)
{
	static const float mix[24] = {1, -1,  .5f,  0,   .1f, .2f, .3f,  .4f, .5f,  -.5f, .25f, 0,
	                              0, .1f, -.1f, .2f, .3f, 0,   -.4f, .1f, -.2f, .2f,  0,    .7f};
	static const float scale[3] = {.5f, 1, 2};
	static const float base[24] = {0, .5f, -.5f, 1,  .2f, -.2f, .4f, -.4f, 0,   2,    -1,  1,
	                               1, 0,   2,    -1, -2,  1,    0,   .5f,  .3f, -.3f, .6f, 0};
	static const float want[24] = {.6224603f,  .5000010f, .4378245f, .7310596f, 1.148885f, 1,
	                               1.3363755f, 1,         .4289696f, .2689576f, .0736349f, .2284369f,
	                               .3224411f,  .0908394f, .5520508f, .0346677f, .0731980f, .5058880f,
	                               .1026043f,  .3183088f, .1753904f, .1343140f, .2717090f, .4185856f};
	enum { D = 8 };
	static float fn[24][4 * D];
	struct weight wf = {.name = "fn",
	                    .type = DTYPE_F32,
	                    .in = 4 * D,
	                    .out = 24,
	                    .n = 1,
	                    .row_bytes = 16 * D,
	                    .data = fn};
	struct weight ws = {
		.name = "scale", .type = DTYPE_F32, .in = 3, .out = 1, .n = 1, .row_bytes = 12, .data = scale};
	struct weight wb = {
		.name = "base", .type = DTYPE_F32, .in = 24, .out = 1, .n = 1, .row_bytes = 96, .data = base};
	struct hc_weights hc = {&wf, &ws, &wb, 20};
	static struct kit_step st;
	struct rng r = rng_seed(4);
	struct tensor s = kit_tensor(&kit, TENSOR_REAL, 1, 4 * D), x = kit_tensor(&kit, TENSOR_REAL, 1, D);
	struct tensor coef = kit_tensor(&kit, TENSOR_REAL, 1, 24);

	(void)state;
	kit_load(&kit, &wf);
	kit_load(&kit, &ws);
	kit_load(&kit, &wb);
	for (int i = 0; i < 24; i++)	/* streams of ones are their own norm, up to the epsilon */
		for (int k = 0; k < 4 * D; k++)
			fn[i][k] = mix[i] / (4 * D) * (float)sqrt(1 + 1e-6);
	for (int k = 0; k < 4 * D; k++)
		row_of(&s, 0)[k] = 1;
	kit_step_begin(&st);
	kit_step_add(&st, &r, NULL, 0, 1, 10);
	kit_step_end(&st, 0);
	RUN(kit.be, hc_in, &st.s, &x, &coef, &s, &hc);
	for (int i = 0; i < 24; i++)
		if (!(fabsf(row_of(&coef, 0)[i] - want[i]) < 1e-6f))
			fail_msg("coefficient %d is %.7f, expected %.7f", i, (double)row_of(&coef, 0)[i],
			         (double)want[i]);
	for (int i = 0; i < D; i++)
		assert_true(fabsf(row_of(&x, 0)[i] - (want[0] + want[1] + want[2] + want[3])) < 2e-6f);
	be_tensor_free(kit.be, &s);
	be_tensor_free(kit.be, &x);
	be_tensor_free(kit.be, &coef);
}

static void exp_is_accurate_and_keeps_nan(void **state)
{
	double worst = 0;

	(void)state;
	for (int i = 0; i <= 2000000; i++) {
		float x = -60 + 120 * (float)i / 2000000;
		double e = fabs((double)exp_f32(x) / exp((double)x) - 1);

		worst = e > worst ? e : worst;
	}
	if (!(worst < 2.5e-7))
		fail_msg("relative error %.3g, expected below 2.5e-7", worst);
	assert_true(exp_f32(0) == 1 && exp_f32(-INFINITY) < 1e-26f && exp_f32(INFINITY) > 1e26f &&
	            isnan(exp_f32(NAN)));
}

static void rotation_is_exact_to_float_at_any_position(void **state)
{
	static const int32_t position[] = {0, 1, 127, 4095, 65536, 1000003};
	float freq[32], cs[64], tail[64], old[64];
	struct rng r = rng_seed(5);

	(void)state;
	for (int i = 0; i < 32; i++)
		freq[i] = (float)pow(10000, -2.0 * i / 64);
	for (size_t p = 0; p < sizeof position / sizeof *position; p++)
		for (int inverse = 0; inverse < 2; inverse++) {
			for (int i = 0; i < 64; i++)
				old[i] = tail[i] = kit_uniform(&r, 2);
			cpu_rope_table(cs, freq, position[p], inverse);
			cpu_rotate(tail, cs);
			for (int i = 0; i < 32; i++) {
				float angle = (float)position[p] * freq[i];
				double c = cos((double)angle),
				       s = inverse ? -sin((double)angle) : sin((double)angle);
				double a = (double)old[2 * i] * c - (double)old[2 * i + 1] * s;
				double b = (double)old[2 * i] * s + (double)old[2 * i + 1] * c;

				if (!(fabs((double)tail[2 * i] - a) < 1e-6 &&
				      fabs((double)tail[2 * i + 1] - b) < 1e-6))
					fail_msg("position %d, pair %d: (%.8f, %.8f), expected (%.8f, %.8f)",
					         position[p], i, (double)tail[2 * i], (double)tail[2 * i + 1],
					         a, b);
			}
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_pack_as_the_definition_says),
		cmocka_unit_test(ties_between_e4m3_codes_go_to_the_even_one),
		cmocka_unit_test(known_e4m3_values_come_back),
		cmocka_unit_test(nan_stays_nan_in_a_packed_row),
		cmocka_unit_test(rows_move_between_groups_of_any_size),
		cmocka_unit_test(keys_pack_as_the_definition_says),
		cmocka_unit_test(hadamard_gives_the_known_answer),
		cmocka_unit_test(hyper_connection_gives_the_known_answer),
		cmocka_unit_test(exp_is_accurate_and_keeps_nan),
		cmocka_unit_test(rotation_is_exact_to_float_at_any_position),
	};

	return cmocka_run_group_tests_name("cpu_rows", tests, open_backend, close_backend);
}
