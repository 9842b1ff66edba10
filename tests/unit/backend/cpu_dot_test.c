/* cpu_dot_test.c - the inner loops of the cpu backend, every instruction set this machine has.
 *
 * Expected values are sums in double over quant_decode(), written out here; for quantised types AVX2 must also have
 * the bits of plain C. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/dot.h"
#include "base/rng.h"
#include "quant/half.h"
#include "quant/quant.h"

enum { MAX_IN = 2560, MAX_ROWS = 35, MAX_N = DOT_TILE };

static const enum dtype types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16,   DTYPE_Q8_0,
                                   DTYPE_Q2_K, DTYPE_Q4_K, DTYPE_IQ2_XXS};
static const int32_t widths[] = {32, 64, 96, 128, 160, 224, 256, 288, 384, 512, 1024, 2080, 2560};

#define COUNT(a) (sizeof(a) / sizeof *(a))

static struct {
	_Alignas(64) uint8_t w[MAX_ROWS * MAX_IN * 4];
	float x[MAX_N][MAX_IN];
	int8_t q[MAX_N][MAX_IN];
	float d[MAX_N][MAX_IN / 32];
	int16_t sum[MAX_N][MAX_IN / 16];
	int32_t bias[MAX_N][MAX_IN / 32];
	struct dot_x row[MAX_N];
	_Alignas(64) uint8_t work[DOT_WORK];
} data;

/* Row i of the activations, `in` wide, rounded as `type` wants it. */
static void round_row(const struct dot_table *t, enum dtype type, int32_t i, int32_t in)
{
	t->quantise(data.q[i], data.d[i], data.sum[i], data.x[i], in, dot_group(type));
	dot_bias(data.bias[i], data.sum[i], in);
	data.row[i] = (struct dot_x){data.x[i], data.q[i], data.d[i], data.sum[i], data.bias[i]};
}

static float uniform(struct rng *r)
{
	return (float)(2 * rng_uniform(r) - 1);
}

/* Random blocks; the scales are overwritten with ordinary ones. */
static void fill_weights(struct rng *r, enum dtype t, size_t elements)
{
	const struct dtype_info *info = dtype_info(t);
	size_t blocks = elements / info->block_elements;

	for (size_t b = 0; b < blocks; b++) {
		uint8_t *p = data.w + b * info->block_bytes;
		uint16_t d = f16_from_f32(0.01f * uniform(r)), m = f16_from_f32(0.01f * uniform(r));
		float f = uniform(r);

		for (size_t i = 0; i < info->block_bytes; i++)
			p[i] = (uint8_t)rng_u64(r);
		switch (t) {
		case DTYPE_F32:
			memcpy(p, &f, 4);
			break;
		case DTYPE_F16:	/* one in four is subnormal */
			d = f16_from_f32(rng_below(r, 4) ? f : f * 1e-5f);
			memcpy(p, &d, 2);
			break;
		case DTYPE_BF16:
			d = bf16_from_f32(f);
			memcpy(p, &d, 2);
			break;
		case DTYPE_Q2_K:
			memcpy(p + 80, &d, 2);
			memcpy(p + 82, &m, 2);
			break;
		case DTYPE_Q4_K:
			memcpy(p, &d, 2);
			memcpy(p + 2, &m, 2);
			break;
		default:
			memcpy(p, &d, 2);
		}
	}
}

static void fill_rows(struct rng *r, const struct dot_table *t, enum dtype type, int32_t in, int32_t n)
{
	for (int32_t i = 0; i < n; i++) {
		for (int32_t k = 0; k < in; k++)
			data.x[i][k] = uniform(r) * (float)(1 + k / 32 % 5);
		if (dot_rounds(type))
			round_row(t, type, i, in);
		else
			data.row[i] = (struct dot_x){.f = data.x[i]};
	}
}

static struct dot_job job(enum dtype t, int32_t in, int32_t rows, int32_t n, float *y)
{
	return (struct dot_job){.w = data.w,
	                        .row_bytes = dtype_bytes(t, (size_t)in),
	                        .rows = rows,
	                        .in = in,
	                        .x = data.row,
	                        .n = n,
	                        .y = y,
	                        .y_stride = MAX_ROWS,
	                        .work = data.work};
}

static bool fits(enum dtype t, int32_t in)
{
	return (uint32_t)in % dtype_info(t)->block_elements == 0;
}

/* Sum in double over the decoded weights and the activations as the kernel sees them; *size is the sum of
 * |terms|. */
static double expected(enum dtype t, int32_t in, int32_t r, int32_t i, double *size)
{
	float w[MAX_IN];
	double sum = 0;

	quant_decode(w, data.w + (size_t)r * dtype_bytes(t, (size_t)in), t, (size_t)in);
	*size = 0;
	for (int32_t k = 0; k < in; k++) {
		double x = dot_rounds(t) ? (double)data.d[i][k / 32] * data.q[i][k] : (double)data.x[i][k];

		sum += (double)w[k] * x;
		*size += fabs((double)w[k] * x);
	}
	return sum;
}

static void products_are_the_sums_over_decoded_weights(void **state)
{
	struct rng r = rng_seed(1);
	float y[MAX_N * MAX_ROWS];

	(void)state;
	for (int k = 0; dot_available(k); k++)
		for (size_t t = 0; t < COUNT(types); t++)
			for (size_t w = 0; w < COUNT(widths); w++) {
				struct dot_job j = job(types[t], widths[w], 5, 7, y);
				double size;

				if (!fits(types[t], widths[w]))
					continue;
				fill_weights(&r, types[t], 5 * (size_t)widths[w]);
				fill_rows(&r, dot_available(k), types[t], widths[w], 7);
				dot_available(k)->matrix[types[t]](&j);
				for (int32_t i = 0; i < 7; i++)
					for (int32_t o = 0; o < 5; o++) {
						double want = expected(types[t], widths[w], o, i, &size);
						double have = (double)y[i * MAX_ROWS + o];

						if (!(fabs(have - want) <= 1e-6 * size))
							fail_msg("%s %s, %d wide: %.9g, expected %.9g",
							         dot_available(k)->name,
							         dtype_info(types[t])->name, widths[w], have,
							         want);
					}
			}
}

static void float_rows_of_any_length_are_summed_whole(void **state)
{
	static const enum dtype floats[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
	struct rng r = rng_seed(2);
	float y[MAX_N * MAX_ROWS];

	(void)state;
	for (int k = 0; dot_available(k); k++)
		for (size_t t = 0; t < 3; t++)
			for (int32_t in = 1; in < 300; in += 7)
				for (int32_t n = 1; n <= 2; n++) {
					struct dot_job j = job(floats[t], in, 3, n, y);
					double size;

					fill_weights(&r, floats[t], 3 * (size_t)in);
					for (int32_t i = 0; i < n; i++) {
						for (int32_t c = 0; c < in; c++)
							data.x[i][c] = uniform(&r);
						data.row[i] = (struct dot_x){.f = data.x[i]};
					}
					dot_available(k)->matrix[floats[t]](&j);
					for (int32_t i = 0; i < n; i++) {
						double want = expected(floats[t], in, 2, i, &size);

						if (!(fabs((double)y[i * MAX_ROWS + 2] - want) <= 1e-6 * size))
							fail_msg("%s %s, %d wide, %d rows: %.9g, expected %.9g",
							         dot_available(k)->name,
							         dtype_info(floats[t])->name, in, n,
							         (double)y[i * MAX_ROWS + 2], want);
					}
				}
}

static void a_row_has_the_same_bits_alone_and_among_others(void **state)
{
	struct rng r = rng_seed(3);
	float all[MAX_N * MAX_ROWS], one[MAX_N * MAX_ROWS];

	(void)state;
	for (int k = 0; dot_available(k); k++)
		for (size_t t = 0; t < COUNT(types); t++)
			for (size_t w = 0; w < COUNT(widths); w++) {
				struct dot_job j = job(types[t], widths[w], MAX_ROWS, MAX_N, all);

				if (!fits(types[t], widths[w]))
					continue;
				fill_weights(&r, types[t], MAX_ROWS * (size_t)widths[w]);
				fill_rows(&r, dot_available(k), types[t], widths[w], MAX_N);
				dot_available(k)->matrix[types[t]](&j);
				for (int32_t n = 1; n <= 5; n++)
					for (int32_t first = 0; first + n <= MAX_N; first += 13) {
						struct dot_job part = job(types[t], widths[w], MAX_ROWS, n, one);

						part.x = data.row + first;
						dot_available(k)->matrix[types[t]](&part);
						if (memcmp(one, all + first * MAX_ROWS,
						           (size_t)n * MAX_ROWS * sizeof *one))
							fail_msg("%s %s, %d wide: rows %d..%d differ from "
							         "those among %d",
							         dot_available(k)->name,
							         dtype_info(types[t])->name, widths[w], first,
							         first + n - 1, MAX_N);
					}
			}
}

static void tables_without_fused_sums_have_the_bits_of_plain_c(void **state)
{
	struct rng r = rng_seed(4);
	float want[MAX_N * MAX_ROWS], have[MAX_N * MAX_ROWS];

	(void)state;
	for (int k = 0; dot_available(k) != dot_scalar(); k++)
		for (size_t t = 0; !dot_available(k)->many && t < COUNT(types); t++)
			for (size_t w = 0; dot_rounds(types[t]) && w < COUNT(widths); w++)
				for (int32_t n = 1; n <= MAX_N; n += n < 6 ? 1 : 26) {
					struct dot_job a = job(types[t], widths[w], MAX_ROWS, n, want), b = a;

					if (!fits(types[t], widths[w]))
						continue;
					b.y = have;
					fill_weights(&r, types[t], MAX_ROWS * (size_t)widths[w]);
					fill_rows(&r, dot_scalar(), types[t], widths[w], n);
					dot_scalar()->matrix[types[t]](&a);
					dot_available(k)->matrix[types[t]](&b);
					for (int32_t i = 0; i < n * MAX_ROWS; i++)
						if (memcmp(&want[i], &have[i], sizeof *want))
							fail_msg("%s %s, %d wide, %d rows: %.9g, plain C has "
							         "%.9g",
							         dot_available(k)->name,
							         dtype_info(types[t])->name, widths[w], n,
							         (double)have[i], (double)want[i]);
				}
}

/* The largest codes and activations of either sign: nothing may saturate or overflow. */
static void extreme_codes_are_exact(void **state)
{
	static const int8_t top[2] = {127, -127};
	float y[MAX_N * MAX_ROWS];

	(void)state;
	for (int k = 0; dot_available(k); k++)
		for (size_t t = 3; t < COUNT(types); t++)
			for (int pattern = 0; pattern < 4; pattern++) {
				struct dot_job j = job(types[t], 256, 1, 2, y);
				uint16_t d = f16_from_f32(1);
				size_t bytes = dtype_bytes(types[t], 256);
				double size, want;

				memset(data.w, pattern & 1 ? 0xFF : types[t] == DTYPE_Q8_0 ? 0x80 : 0x7F, bytes);
				for (size_t b = 0; b < bytes; b += dtype_info(types[t])->block_bytes) {
					uint8_t *p = data.w + b + (types[t] == DTYPE_Q2_K ? 80 : 0);

					memcpy(p, &d, 2);
					if (types[t] == DTYPE_Q2_K || types[t] == DTYPE_Q4_K)
						memcpy(p + 2, &d, 2);
				}
				for (int32_t i = 0; i < 2; i++) {
					for (int c = 0; c < 256; c++)
						data.x[i][c] = pattern & 2 ? top[c % 2] : top[i];
					round_row(dot_available(k), types[t], i, 256);
				}
				dot_available(k)->matrix[types[t]](&j);
				for (int32_t i = 0; i < 2; i++) {
					want = expected(types[t], 256, 0, i, &size);
					if (!(fabs((double)y[i * MAX_ROWS] - want) <= 1e-6 * size))
						fail_msg("%s %s, pattern %d: %.9g, expected %.9g",
						         dot_available(k)->name, dtype_info(types[t])->name,
						         pattern, (double)y[i * MAX_ROWS], want);
				}
			}
}

static void activations_are_rounded_half_to_even_per_group_of_32(void **state)
{
	/* The largest is 127, so d is 1 and the values are the codes. */
	static const float in[8] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -126.5f, 3.49f};
	static const int8_t want[8] = {127, 0, 2, 2, 0, -2, -126, 3};
	float x[64] = {0}, d[2];
	int8_t q[64];
	int16_t sum[4];

	(void)state;
	for (int k = 0; dot_available(k); k++) {
		memcpy(x, in, sizeof in);
		x[31] = 100;
		for (int i = 32; i < 64; i++)
			x[i] = -0.001f * (float)(i - 31);
		dot_available(k)->quantise(q, d, sum, x, 64, 32);
		for (int i = 0; i < 8; i++)
			if (q[i] != want[i])
				fail_msg("%s: %g becomes %d, expected %d", dot_available(k)->name,
				         (double)in[i], q[i], want[i]);
		assert_int_equal(sum[0], 127 + 0 + 2 + 2 + 0 - 2 - 126 + 3);
		assert_int_equal(sum[1], 100);
		assert_int_equal(q[63], -127);
		assert_true(d[0] == 1 && fabsf(d[1] * 127 - 0.032f) < 1e-7f);
	}
}

static void zeros_and_tiny_values_give_zero(void **state)
{
	float x[32] = {0}, d;
	int8_t q[32];
	int16_t sum[2];

	(void)state;
	for (int k = 0; dot_available(k); k++)
		for (int tiny = 0; tiny < 2; tiny++) {
			x[3] = tiny ? 1e-42f : 0;
			dot_available(k)->quantise(q, &d, sum, x, 32, 32);
			for (int i = 0; i < 32; i++)
				assert_int_equal(q[i], 0);
			assert_int_equal(sum[0], 0);
			assert_true(d >= 0 && d < 1e-40f);
		}
}

static void a_value_that_is_not_finite_makes_the_product_nan(void **state)
{
	static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
	struct rng r = rng_seed(5);
	float y[MAX_N * MAX_ROWS];

	(void)state;
	for (int k = 0; dot_available(k); k++)
		for (size_t t = 3; t < COUNT(types); t++)
			for (int b = 0; b < 4; b++) {
				struct dot_job j = job(types[t], 256, 1, 1, y);

				fill_weights(&r, types[t], 256);
				for (int c = 0; c < 256; c++)
					data.x[0][c] = uniform(&r);
				data.x[0][77] = bad[b];
				round_row(dot_available(k), types[t], 0, 256);
				dot_available(k)->matrix[types[t]](&j);
				if (!isnan(y[0]))
					fail_msg("%s %s: an activation of %g gives %g", dot_available(k)->name,
						 dtype_info(types[t])->name, (double)bad[b], (double)y[0]);
			}
}

/* What rounding activations to int8 costs against float activations: stated in dot.h and the README. */
static void rounding_activations_costs_half_a_percent(void **state)
{
	struct rng r = rng_seed(6);
	float x[1024], w[1024], d[1024 / 32];
	int8_t q[1024];
	int16_t sum[1024 / 16];

	(void)state;
	for (int32_t group = 32; group <= 256; group += 224) {
		double wrong = 0, size = 0, most = group == 32 ? 0.006 : 0.0078;

		for (int round = 0; round < 400; round++) {
			double have = 0, want = 0;

			for (int i = 0; i < 1024; i++) {	/* near to normal: what norms produce */
				x[i] = uniform(&r) + uniform(&r) + uniform(&r) + uniform(&r);
				w[i] = uniform(&r);
			}
			dot_available(0)->quantise(q, d, sum, x, 1024, group);
			for (int i = 0; i < 1024; i++) {
				have += (double)w[i] * (double)d[i / 32] * q[i];
				want += (double)w[i] * (double)x[i];
			}
			wrong += (have - want) * (have - want);
			size += want * want;
		}
		if (!(sqrt(wrong / size) < most))
			fail_msg("groups of %d: relative error %.4f, expected below %.4f", group, sqrt(wrong / size), most);
	}
}

static void attention_loops_are_dots_and_weighted_sums(void **state)
{
	static float rows[17][512], q[512], acc[512];
	struct rng r = rng_seed(7);

	(void)state;
	for (int k = 0; dot_available(k); k++)
		for (int32_t n = 1; n <= 17; n++) {
			float z[17], alone, weight[17];
			double want[512];

			for (int c = 0; c < 512; c++) {
				q[c] = uniform(&r);
				want[c] = acc[c] = uniform(&r);
				for (int i = 0; i < n; i++)
					rows[i][c] = uniform(&r);
			}
			dot_available(k)->scores(z, q, rows[0], n, 512);
			for (int i = 0; i < n; i++) {
				double sum = 0;

				for (int c = 0; c < 512; c++)
					sum += (double)q[c] * (double)rows[i][c];
				if (!(fabs((double)z[i] - sum) < 1e-4))
					fail_msg("%s: score %d of %d is %g, expected %g",
					         dot_available(k)->name, i, n, (double)z[i], sum);
				dot_available(k)->scores(&alone, q, rows[i], 1, 512);
				assert_memory_equal(&alone, &z[i], sizeof alone);
				weight[i] = (float)rng_uniform(&r);
				for (int c = 0; c < 512; c++)
					want[c] += (double)weight[i] * (double)rows[i][c];
			}
			dot_available(k)->accumulate(acc, weight, rows[0], n, 512);
			for (int c = 0; c < 512; c++)
				if (!(fabs((double)acc[c] - want[c]) < 1e-5))
					fail_msg("%s: channel %d of %d rows is %g, expected %g",
					         dot_available(k)->name, c, n, (double)acc[c], want[c]);
		}
}

static void packed_values_are_exact_for_every_code(void **state)
{
	uint8_t code[448], rot[128], scale[7], pair[64];
	float x[512];
	struct rng r = rng_seed(8);

	(void)state;
	for (int k = 0; dot_available(k); k++)
		for (int round = 0; round < 1024; round++) {	/* 64 halves a round: all 65536 */
			for (int i = 0; i < 448; i++)
				code[i] = (uint8_t)(i + 64 * round);
			for (int g = 0; g < 7; g++)
				scale[g] = (uint8_t)(64 + rng_below(&r, 128));
			for (int i = 0; i < 64; i++) {
				uint16_t h = (uint16_t)(64 * round + i);

				memcpy(rot + 2 * i, &h, 2);
				pair[i] = (uint8_t)rng_u64(&r);
			}
			dot_available(k)->load_row(x, code, rot, scale);
			for (int i = 0; i < 512; i++) {
				uint16_t h = (uint16_t)(64 * round + i - 448);
				float want = i < 448 ? e4m3_to_f32(code[i]) * e8m0_to_f32(scale[i / 64])
				                     : f16_to_f32(h);

				if (!(x[i] == want || (isnan(x[i]) && isnan(want))))
					fail_msg("%s: channel %d is %g, expected %g", dot_available(k)->name, i,
					         (double)x[i], (double)want);
			}
			dot_available(k)->load_key(x, pair, scale);
			for (int i = 0; i < 128; i++) {
				float want = e2m1_to_f32(i % 2 ? pair[i / 2] >> 4 : pair[i / 2] & 15) *
				             e8m0_to_f32(scale[i / 32]);

				if (x[i] != want)
					fail_msg("%s: key channel %d is %g, expected %g",
					         dot_available(k)->name, i, (double)x[i], (double)want);
			}
		}
}

static void swiglu_is_clamped_and_has_the_same_bits_everywhere(void **state)
{
	static float g[301], u[301], want[301], have[301];
	struct rng r = rng_seed(9);

	(void)state;
	for (int i = 0; i < 301; i++) {
		g[i] = uniform(&r) * (i % 3 ? 12 : 300);
		u[i] = uniform(&r) * (i % 5 ? 12 : 300);
	}
	g[7] = u[8] = NAN;
	dot_scalar()->silu(want, g, u, 10, 0.3f, 301);
	for (int k = 0; dot_available(k); k++) {
		memcpy(have, g, sizeof g);
		dot_available(k)->silu(have, have, u, 10, 0.3f, 301);
		for (int i = 0; i < 301; i++) {
			double a = fmin((double)g[i], 10), b = fmax(fmin((double)u[i], 10), -10);
			double y = a / (1 + exp(-a)) * b * (double)0.3f;

			if (i == 7 || i == 8) {
				assert_true(isnan(have[i]));
				continue;
			}
			if (!(fabs((double)have[i] - y) <= 1e-6 * fabs(y) + 1e-20) ||
			    memcmp(&have[i], &want[i], sizeof *have))
				fail_msg("%s: silu(%g) * %g is %.9g, expected %.9g; plain C has %.9g",
				         dot_available(k)->name, (double)g[i], (double)u[i], (double)have[i], y,
				         (double)want[i]);
		}
	}
}

static void every_instruction_set_rounds_activations_alike(void **state)
{
	float x[256], d[2][8];
	int8_t q[2][256];
	int16_t sum[2][16];
	struct rng r = rng_seed(10);

	(void)state;
	for (int k = 0; dot_available(k) != dot_scalar(); k++)
		for (int round = 0; round < 2000; round++) {
			for (int i = 0; i < 256; i++)
				x[i] = ldexpf(uniform(&r), (int)rng_below(&r, 20) - 10 - round % 130);
			dot_scalar()->quantise(q[0], d[0], sum[0], x, 256, round % 2 ? 32 : 256);
			dot_available(k)->quantise(q[1], d[1], sum[1], x, 256, round % 2 ? 32 : 256);
			assert_memory_equal(d[0], d[1], sizeof d[0]);
			assert_memory_equal(q[0], q[1], sizeof q[0]);
			assert_memory_equal(sum[0], sum[1], sizeof sum[0]);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(products_are_the_sums_over_decoded_weights),
		cmocka_unit_test(float_rows_of_any_length_are_summed_whole),
		cmocka_unit_test(a_row_has_the_same_bits_alone_and_among_others),
		cmocka_unit_test(tables_without_fused_sums_have_the_bits_of_plain_c),
		cmocka_unit_test(extreme_codes_are_exact),
		cmocka_unit_test(activations_are_rounded_half_to_even_per_group_of_32),
		cmocka_unit_test(zeros_and_tiny_values_give_zero),
		cmocka_unit_test(a_value_that_is_not_finite_makes_the_product_nan),
		cmocka_unit_test(rounding_activations_costs_half_a_percent),
		cmocka_unit_test(attention_loops_are_dots_and_weighted_sums),
		cmocka_unit_test(packed_values_are_exact_for_every_code),
		cmocka_unit_test(swiglu_is_clamped_and_has_the_same_bits_everywhere),
		cmocka_unit_test(every_instruction_set_rounds_activations_alike),
	};

	return cmocka_run_group_tests_name("cpu_dot", tests, NULL, NULL);
}
