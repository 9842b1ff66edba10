/* encode_test.c - the encoders against searches that try everything, and the header's other promises.
 *
 * The searches below share nothing with the encoders but the definition of the formats (quant_decode() for the
 * final error): for IQ2_XXS and Q8_0 every half, or every second one, in a wide range as d with everything else at
 * its optimum; for Q2_K and Q4_K a grid of (d, dmin) with every combination of scale and minimum of a sub-block.
 * They take up to seconds for a block where the encoder takes a tenth of a millisecond, so few blocks are tried
 * here.  The table of docs/quality.md comes from
 *
 *     DS4_ENCODE_BLOCKS=8 build/tests/unit/quant/encode_test
 */
#include "quant/encode.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "quant/encode_int.h"
#include "quant/half.h"
#include "quant/quant.h"

/* ------------------------------------------------------------------ data */

enum shape { GAUSS, TAIL, FP4, FP8, SHIFTED };
static const char *const shape_name[] = {"gaussian", "heavy tails", "FP4 x 2^k", "FP8 x 2^k", "shifted"};

static double gauss(struct rng *r)
{
	return sqrt(-2 * log(1 - rng_uniform(r))) * cos(2 * M_PI * rng_uniform(r));
}

static void fill(struct rng *r, float *x, float *w, int n, enum shape shape, bool weighted)
{
	for (int i = 0; i < n; i++) {
		double g = gauss(r);
		static int k;

		if (i % 32 == 0)
			k = (int)rng_below(r, 3);
		switch (shape) {
		case GAUSS:
			x[i] = (float)(0.02 * g);
			break;
		case TAIL:
			x[i] = (float)(0.01 * g * exp(0.8 * gauss(r)));
			break;
		case FP4:
			x[i] = e2m1_to_f32(e2m1_from_f64(2.2 * g)) * ldexpf(1, k - 8);
			break;
		case FP8:
			x[i] = e4m3_to_f32(e4m3_from_f64(100 * g)) * 0x1p-14f;
			break;
		case SHIFTED:
			x[i] = (float)(0.02 * g + 0.03);
			break;
		}
		w[i] = weighted ? (float)exp(1.2 * gauss(r)) : 1;
	}
}

static double error_of(const float *x, const float *w, const void *block, enum dtype t, int n)
{
	float y[256];
	double e = 0;

	quant_decode(y, block, t, (size_t)n);
	for (int i = 0; i < n; i++)
		e += (double)w[i] * ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
	return e;
}

/* ------------------------------------------------------------------ trying everything */

static double best_q8_0(const float *x, const float *w)
{
	float amax = 0;
	double best = INFINITY;

	for (int i = 0; i < 32; i++)
		amax = fmaxf(amax, fabsf(x[i]));
	for (int h = f16_from_f32(amax / 127 * 0.8f); h <= f16_from_f32(amax / 127 * 2.5f); h++) {
		double d = f16_to_f32((uint16_t)h), e = 0;

		for (int i = 0; d > 0 && i < 32; i++) {
			double q = fmin(fmax(rint(x[i] / d), -127), 127);

			e += w[i] * (x[i] - q * d) * (x[i] - q * d);
		}
		if (d > 0 && e < best)
			best = e;
	}
	return best;
}

/* Least error of 8 elements at scale s: every entry, and every sign that may be wrong. */
static double best_run(const double a[256], const double b[256], double s)
{
	double best = INFINITY;

	for (int e = 0; e < 256; e++)
		best = fmin(best, s * (s * a[e] - 2 * b[e]));
	return best;
}

static double best_iq2_xxs(const float *x, const float *w)
{
	static double a[32][256], b[32][256];
	double constant = 0, best = INFINITY, amax = 0;

	for (int i = 0; i < 256; i++) {
		constant += (double)w[i] * x[i] * x[i];
		amax = fmax(amax, fabs((double)x[i]));
	}
	for (int r = 0; r < 32; r++)
		for (int e = 0; e < 256; e++) {
			double flip = INFINITY;
			int minus = 0;

			a[r][e] = b[r][e] = 0;
			for (int m = 0; m < 8; m++) {
				double g = iq2_xxs_grid[e][m], v = x[8 * r + m], wi = w[8 * r + m];

				a[r][e] += wi * g * g;
				b[r][e] += wi * g * fabs(v);
				flip = fmin(flip, wi * g * fabs(v));
				minus += v < 0;
			}
			if (minus & 1)
				b[r][e] -= 2 * flip;
		}
	/* amax is at least 0.9 of the largest magnitude times the largest scale in any sensible choice, and
	 * at most thrice. */
	for (int h = f16_from_f32((float)(amax / 43 / 3.875 * 0.4));
	     h < f16_from_f32((float)(amax / 43 / 3.875 * 2.5)); h += 2) {
		double d = f16_to_f32((uint16_t)h), total = constant;

		for (int g = 0; g < 8; g++) {
			double least = INFINITY;

			for (int k = 0; k < 16; k++) {
				double s = d * (0.5 + k) / 4, e = 0;

				for (int r = 4 * g; r < 4 * g + 4; r++)
					e += best_run(a[r], b[r], s);
				least = fmin(least, e);
			}
			total += least;
		}
		best = fmin(best, total);
	}
	return best;
}

/* Least error of a sub-block over all scales and minimums for (d, dmin); codes rounded. */
static float best_sub(const float *x, const float *w, int len, int codes, int tops, float d, float dmin)
{
	float best = INFINITY;

	for (int m = 0; m <= tops; m++)
		for (int sc = 0; sc <= tops; sc++) {
			float s = d * (float)sc, min = dmin * (float)m, inverse = s > 0 ? 1 / s : 0, e = 0;

			for (int i = 0; i < len; i++) {
				float q = (x[i] + min) * inverse + 0.5f, r;

				q = (float)(int)(q < 0 ? 0 : q > (float)codes ? (float)codes : q);
				r = x[i] + min - s * q;
				e += w[i] * r * r;
			}
			best = e < best ? e : best;
			if (dmin == 0 && sc == tops)
				m = tops;
		}
	return best;
}

/* (d, dmin) on a grid of `steps` by `steps` halves around what the widest sub-block needs. */
static double best_k(const float *x, const float *w, int subs, int len, int codes, int tops, int steps)
{
	float width = 0, low = 0;
	double best = INFINITY;

	for (int b = 0; b < subs; b++) {
		float lo = 0, hi = 0;

		for (int i = 0; i < len; i++) {
			lo = fminf(lo, x[b * len + i]);
			hi = fmaxf(hi, x[b * len + i]);
		}
		width = fmaxf(width, hi - lo);
		low = fmaxf(low, -lo);
	}
	for (int i = 0; i < steps; i++)
		for (int j = 0; j < (low > 0 ? steps : 1); j++) {
			float fd = 0.55f + 0.9f * (float)i / (float)steps,
			      fm = 0.55f + 0.9f * (float)j / (float)steps;
			float d = f16_to_f32(f16_from_f32(width / (float)(codes * tops) * fd));
			float dmin = f16_to_f32(f16_from_f32(low / (float)tops * fm));
			double e = 0;

			for (int b = 0; b < subs && e < best; b++)
				e += (double)best_sub(x + b * len, w + b * len, len, codes, tops, d, dmin);
			best = fmin(best, e);
		}
	return best;
}

static double best_error(const float *x, const float *w, enum dtype t)
{
	double sum = 0;

	switch (t) {
	case DTYPE_IQ2_XXS:
		return best_iq2_xxs(x, w);
	case DTYPE_Q2_K:
		return best_k(x, w, 16, 16, 3, 15, 32);
	case DTYPE_Q4_K:
		return best_k(x, w, 8, 32, 15, 63, 10);
	default:
		for (int i = 0; i < 256; i += 32)
			sum += best_q8_0(x + i, w + i);
		return sum;
	}
}

/* ------------------------------------------------------------------ the comparison */

/* most: of the geometric mean over all kinds of data, as a multiple of the best error; one kind may be 4 %
 * worse: the sample is small. */
static void compare(enum dtype t, double most, int fewest)
{
	const char *asked = getenv("DS4_ENCODE_BLOCKS");
	int blocks = asked ? atoi(asked) : fewest;
	struct rng r = rng_seed(8);
	uint16_t out[512];
	float x[256], w[256];
	double worst = 0, mean = 0;

	for (int shape = GAUSS; shape <= SHIFTED; shape++)
		for (int weighted = 0; weighted < 2; weighted++) {
			double ours = 0, best = 0, size = 0;

			for (int b = 0; b < blocks; b++) {
				fill(&r, x, w, 256, (enum shape)shape, weighted);
				quant_encode(out, x, weighted ? w : NULL, t, 256);
				ours += error_of(x, w, out, t, 256);
				best += best_error(x, w, t);
				for (int i = 0; i < 256; i++)
					size += (double)w[i] * x[i] * x[i];
			}
			print_message("| %s | %s%s | %.3g | %.3g | %.4f |\n", dtype_info(t)->name,
			              shape_name[shape], weighted ? ", weighted" : "", ours / size,
			              best / size, best > 0 ? ours / best : 1);
			if (best > 0) {
				worst = fmax(worst, ours / best);
				mean += log(ours / best) / 10;
			} else {
				assert_true(ours == 0);
			}
		}
	mean = exp(mean);
	print_message("| %s | all | | | %.4f |\n", dtype_info(t)->name, mean);
	if (mean > most || worst > most + 0.04)
		print_error("%s: expected at most %.4f times the best error, got %.4f, at worst %.4f\n",
		            dtype_info(t)->name, most, mean, worst);
	assert_true(mean <= most && worst <= most + 0.04);
}

static void q8_0_is_as_good_as_trying_every_scale(void **state)
{
	(void)state;
	compare(DTYPE_Q8_0, 1.005, 4);
}

static void q4_k_is_as_good_as_trying_all_scales_and_minimums(void **state)
{
	(void)state;
	compare(DTYPE_Q4_K, 1.01, 1);
}

static void q2_k_is_as_good_as_trying_all_scales_and_minimums(void **state)
{
	(void)state;
	compare(DTYPE_Q2_K, 1.01, 1);
}

static void iq2_xxs_is_as_good_as_trying_every_scale_entry_and_sign(void **state)
{
	(void)state;
	compare(DTYPE_IQ2_XXS, 1.0005, 1);
}

/* ------------------------------------------------------------------ promises */

static const enum dtype block_types[] = {DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q2_K, DTYPE_IQ2_XXS};

static void zeros_stay_zeros(void **state)
{
	float x[256] = {0}, y[256];
	uint16_t out[512];

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		memset(out, 0xA5, sizeof out);
		quant_encode(out, x, NULL, block_types[i], 256);
		quant_decode(y, out, block_types[i], 256);
		for (int j = 0; j < 256; j++)
			assert_true(y[j] == 0);
	}
}

static void weights_that_came_from_fp8_are_almost_exact_in_q8_0(void **state)
{
	struct rng r = rng_seed(3);
	float x[256], w[256];
	uint16_t out[256];
	double e = 0, plain = 0;

	(void)state;
	fill(&r, x, w, 256, FP8, false);
	quant_encode(out, x, NULL, DTYPE_Q8_0, 256);
	e = error_of(x, w, out, DTYPE_Q8_0, 256);
	for (int b = 0; b < 256; b += 32) {	/* d = amax / 127 */
		float amax = 0;

		for (int i = b; i < b + 32; i++)
			amax = fmaxf(amax, fabsf(x[i]));
		for (int i = b; i < b + 32; i++)
			plain += pow(x[i] - rint(x[i] / (amax / 127)) * (amax / 127), 2);
	}
	print_message("squared error: %g, with d = amax / 127 it is %g\n", e, plain);
	assert_true(e < 0.5 * plain);
}

static void extreme_magnitudes_neither_overflow_nor_vanish(void **state)
{
	static const float scale[] = {1e-38f, 1e-9f, 1e-6f, 1e3f, 3e4f};
	struct rng r = rng_seed(5);
	float x[256], w[256], y[256];
	uint16_t out[512];

	(void)state;
	for (size_t s = 0; s < 5; s++)
		for (size_t i = 0; i < 4; i++) {
			double e = 0, n = 0;

			fill(&r, x, w, 256, GAUSS, false);
			for (int j = 0; j < 256; j++)
				x[j] *= scale[s] * 20;
			quant_encode(out, x, NULL, block_types[i], 256);
			quant_decode(y, out, block_types[i], 256);
			for (int j = 0; j < 256; j++) {
				assert_true(isfinite(y[j]));
				e += ((double)x[j] - y[j]) * ((double)x[j] - y[j]);
				n += (double)x[j] * x[j];
			}
			if (scale[s] > 1e-5f)
				assert_true(e < 0.2 * n);
		}
}

static void importance_of_zero_everywhere_counts_as_none(void **state)
{
	struct rng r = rng_seed(6);
	float x[256], w[256], zero[256] = {0};
	uint16_t a[512], b[512];

	(void)state;
	fill(&r, x, w, 256, GAUSS, false);
	for (size_t i = 0; i < 4; i++) {
		memset(a, 0, sizeof a);
		memset(b, 0, sizeof b);
		quant_encode(a, x, NULL, block_types[i], 256);
		quant_encode(b, x, zero, block_types[i], 256);
		assert_memory_equal(a, b, sizeof a);
	}
}

static void an_important_column_is_stored_better(void **state)
{
	struct rng r = rng_seed(7);
	float x[256], w[256], even[256], y[256];
	uint16_t out[512];

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		double with = 0, without = 0;

		for (int round = 0; round < 20; round++) {
			fill(&r, x, even, 256, GAUSS, false);
			for (int j = 0; j < 256; j++)
				w[j] = j % 8 == 0 ? 100 : 1;
			quant_encode(out, x, w, block_types[i], 256);
			quant_decode(y, out, block_types[i], 256);
			for (int j = 0; j < 256; j += 8)
				with += pow(x[j] - y[j], 2);
			quant_encode(out, x, NULL, block_types[i], 256);
			quant_decode(y, out, block_types[i], 256);
			for (int j = 0; j < 256; j += 8)
				without += pow(x[j] - y[j], 2);
		}
		assert_true(with < 0.8 * without);
	}
}

static void all_instruction_sets_give_the_same_bytes(void **state)
{
	struct rng r = rng_seed(11);
	struct iq2_tables *t = mem_aligned(sizeof *t, 64);
	float x[256], w[256];
	uint8_t a[512], b[512];

	(void)state;
#if defined(__x86_64__)
	if (!__builtin_cpu_supports("avx2"))
		skip();
	for (int e = 0; e < 256; e++)
		for (int m = 0; m < 8; m++) {
			t->g[m][e / LANES][e % LANES] = iq2_xxs_grid[e][m];
			t->g2[m][e / LANES][e % LANES] = (float)iq2_xxs_grid[e][m] * iq2_xxs_grid[e][m];
		}
	for (int round = 0; round < 40; round++) {
		fill(&r, x, w, 256, (enum shape)(round % 5), round % 2);
		memset(a, 0, sizeof a);
		memset(b, 0, sizeof b);
		encoders_base.q8_0((void *)a, x, w);
		encoders_avx2.q8_0((void *)b, x, w);
		encoders_base.q4_k((void *)(a + 36), x, w);
		encoders_avx2.q4_k((void *)(b + 36), x, w);
		encoders_base.q2_k((void *)(a + 180), x, w);
		encoders_avx2.q2_k((void *)(b + 180), x, w);
		encoders_base.iq2_xxs((void *)(a + 264), x, w, t);
		encoders_avx2.iq2_xxs((void *)(b + 264), x, w, t);
		assert_memory_equal(a, b, sizeof a);
	}
#endif
	mem_free(t);
}

static void plain_types_are_rounded_to_nearest_even(void **state)
{
	const float x[4] = {1, 1.00048828125f, -65504, 0x1p-24f * 1.5f};
	float y[4];
	uint16_t out[4];
	float copy[4];

	(void)state;
	quant_encode(out, x, NULL, DTYPE_F16, 4);
	quant_decode(y, out, DTYPE_F16, 4);
	assert_true(y[0] == 1 && y[1] == 1 && y[2] == -65504 && y[3] == 0x1p-23f);
	quant_encode(out, x, NULL, DTYPE_BF16, 4);
	quant_decode(y, out, DTYPE_BF16, 4);
	assert_true(y[0] == 1 && y[1] == 1 && y[2] == -65536);
	quant_encode(copy, x, NULL, DTYPE_F32, 4);
	assert_memory_equal(copy, x, sizeof x);
}

static void what_a_type_cannot_hold_is_found(void **state)
{
	const float x[5] = {1, 65504, 65519, 65520, 1}, odd[3] = {0, NAN, 1}, big[2] = {1, -INFINITY};

	(void)state;
	assert_int_equal(encode_fits(x, DTYPE_F16, 5), 3);
	assert_int_equal(encode_fits(x, DTYPE_Q8_0, 5), 5);
	assert_int_equal(encode_fits(odd, DTYPE_F32, 3), 1);
	assert_int_equal(encode_fits(big, DTYPE_BF16, 2), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(q8_0_is_as_good_as_trying_every_scale),
		cmocka_unit_test(q4_k_is_as_good_as_trying_all_scales_and_minimums),
		cmocka_unit_test(q2_k_is_as_good_as_trying_all_scales_and_minimums),
		cmocka_unit_test(iq2_xxs_is_as_good_as_trying_every_scale_entry_and_sign),
		cmocka_unit_test(zeros_stay_zeros),
		cmocka_unit_test(weights_that_came_from_fp8_are_almost_exact_in_q8_0),
		cmocka_unit_test(extreme_magnitudes_neither_overflow_nor_vanish),
		cmocka_unit_test(importance_of_zero_everywhere_counts_as_none),
		cmocka_unit_test(an_important_column_is_stored_better),
		cmocka_unit_test(all_instruction_sets_give_the_same_bytes),
		cmocka_unit_test(plain_types_are_rounded_to_nearest_even),
		cmocka_unit_test(what_a_type_cannot_hold_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
