/* dot_scalar.c - the inner loops in plain C: the definition for the other instruction sets, and the fallback.
 *
 * What  Weight rows times up to 32 activation rows, for every type; rounding of activations; attention's loops.
 * How   A weight block is first expanded into int8 codes with integer scales (or into floats), then used for
 *       every activation row of the call, so one row (decode) and many (prefill) are the same code and the same
 *       sums.  Loops have fixed lengths and independent lanes: compilers turn them into vector code.
 * Careful
 *       - The order of float sums is a promise of dot.h: eight lanes for quantised types, 32 for float types.
 *       - Sums of products fit a float exactly: at most 32 * 127 * 43 * 31 for IQ2_XXS, below 2^24.
 * Source: docs/formats/gguf.md, quant/quant.c. */
#include "backend/cpu/dot.h"

#include <string.h>

#include "backend/cpu/expand.h"
#include "backend/cpu/value.h"
#include "quant/blocks.h"
#include "quant/half.h"
#include "quant/quant.h"

static inline float add_lanes32(const float *a)
{
	float t[16];

	for (int i = 0; i < 16; i++)
		t[i] = a[i] + a[i + 16];
	for (int half = 8; half; half /= 2)
		for (int i = 0; i < half; i++)
			t[i] += t[i + half];
	return t[0];
}

static inline int32_t dot16(const int8_t *a, const int8_t *b)
{
	int32_t s = 0;

	for (int i = 0; i < 16; i++)
		s += (int16_t)a[i] * (int16_t)b[i];
	return s;
}

static inline int32_t dot32(const int8_t *a, const int8_t *b)
{
	int32_t s = 0;

	for (int i = 0; i < 32; i++)
		s += (int16_t)a[i] * (int16_t)b[i];
	return s;
}

/* ------------------------------------------------------------------ Q8_0 */

static void matrix_q8_0(const struct dot_job *j)
{
	const int32_t groups = j->in / 32;

	for (int32_t r = 0; r < j->rows; r++) {
		const struct block_q8_0 *w = (const void *)(j->w + (size_t)r * j->row_bytes);

		for (int32_t i = 0; i < j->n; i++) {
			const struct dot_x *x = &j->x[i];
			float lane[8] = {0};

			for (int32_t g = 0; g < groups; g++) {
				float scale = f16_to_f32(w[g].d) * x->d[g];

				lane[g % 8] += scale * (float)dot32(w[g].q, x->q + 32 * g);
			}
			j->y[(size_t)i * j->y_stride + (size_t)r] = add_lanes8(lane);
		}
	}
}

/* ------------------------------------------------------------------ types with blocks of 256 */

static inline void add_q2_k(float *lane, const struct expanded *e, const struct dot_x *x, int32_t b)
{
	const int8_t *q = x->q + 256 * b;
	const int16_t *sum = x->sum + 16 * b;

	for (int g = 0; g < 8; g++) {
		int32_t s = e->scale[2 * g] * dot16(e->code + 32 * g, q + 32 * g) +
			    e->scale[2 * g + 1] * dot16(e->code + 32 * g + 16, q + 32 * g + 16);
		int32_t m = e->min[2 * g] * sum[2 * g] + e->min[2 * g + 1] * sum[2 * g + 1];

		lane[g] += (e->d * (float)s - e->dmin * (float)m) * x->d[8 * b + g];
	}
}

static inline void add_q4_k(float *lane, const struct expanded *e, const struct dot_x *x, int32_t b)
{
	const int8_t *q = x->q + 256 * b;
	const int16_t *sum = x->sum + 16 * b;

	for (int g = 0; g < 8; g++) {
		int32_t s = e->scale[g] * dot32(e->code + 32 * g, q + 32 * g);
		int32_t m = e->min[g] * (sum[2 * g] + sum[2 * g + 1]);

		lane[g] += (e->d * (float)s - e->dmin * (float)m) * x->d[8 * b + g];
	}
}

static inline void add_iq2_xxs(float *lane, const struct expanded *e, const struct dot_x *x, int32_t b)
{
	const int8_t *q = x->q + 256 * b;

	for (int g = 0; g < 8; g++) {
		int32_t s = e->scale[g] * dot32(e->code + 32 * g, q + 32 * g);

		lane[g] += e->d * x->d[8 * b + g] * (float)s;
	}
}

/* matrix_T for a type with expand_T and add_T. */
#define MATRIX_256(T)                                                                              \
	static void matrix_##T(const struct dot_job *j)                                            \
	{                                                                                          \
		const int32_t blocks = j->in / 256;                                                \
		struct expanded e;                                                                 \
                                                                                                   \
		for (int32_t r = 0; r < j->rows; r++) {                                            \
			const struct block_##T *w = (const void *)(j->w + (size_t)r * j->row_bytes); \
			float lane[DOT_TILE][8] = {{0}};                                           \
                                                                                                   \
			for (int32_t b = 0; b < blocks; b++) {                                     \
				expand_##T(&e, &w[b]);                                             \
				for (int32_t i = 0; i < j->n; i++)                                 \
					add_##T(lane[i], &e, &j->x[i], b);                         \
			}                                                                          \
			for (int32_t i = 0; i < j->n; i++)                                         \
				j->y[(size_t)i * j->y_stride + (size_t)r] = add_lanes8(lane[i]);   \
		}                                                                                  \
	}

MATRIX_256(q2_k)
MATRIX_256(q4_k)
MATRIX_256(iq2_xxs)

/* ------------------------------------------------------------------ float types */

enum { CHUNK = 256 };	/* weights expanded at once; a multiple of the lanes */

static inline void add_floats(float *lane, const float *w, const float *x, int32_t n)
{
	float t[DOT_LANES];
	int32_t i = 0;

	memcpy(t, lane, sizeof t);
	for (; i + DOT_LANES <= n; i += DOT_LANES)
		for (int k = 0; k < DOT_LANES; k++)
			t[k] += w[i + k] * x[i + k];
	for (int k = 0; i < n; i++, k++)
		t[k] += w[i] * x[i];
	memcpy(lane, t, sizeof t);
}

static void expand_f16(float *out, const uint8_t *w, int32_t n)
{
	const uint16_t *h = (const void *)w;

	for (int32_t i = 0; i < n; i++)
		out[i] = f16_value(h[i]);
}

static void expand_bf16(float *out, const uint8_t *w, int32_t n)
{
	const uint16_t *h = (const void *)w;

	for (int32_t i = 0; i < n; i++)
		out[i] = f32_from_bits((uint32_t)h[i] << 16);
}

static void expand_f32(float *out, const uint8_t *w, int32_t n)
{
	memcpy(out, w, (size_t)n * sizeof *out);
}

static inline void matrix_float(const struct dot_job *j, size_t element_bytes,
				void (*expand)(float *out, const uint8_t *w, int32_t n))
{
	float chunk[CHUNK], lane[DOT_TILE][DOT_LANES];

	for (int32_t r = 0; r < j->rows; r++) {
		const uint8_t *w = j->w + (size_t)r * j->row_bytes;

		memset(lane, 0, (size_t)j->n * sizeof lane[0]);
		for (int32_t at = 0; at < j->in; at += CHUNK) {
			int32_t n = j->in - at < CHUNK ? j->in - at : CHUNK;

			expand(chunk, w + (size_t)at * element_bytes, n);
			for (int32_t i = 0; i < j->n; i++)
				add_floats(lane[i], chunk, j->x[i].f + at, n);
		}
		for (int32_t i = 0; i < j->n; i++)
			j->y[(size_t)i * j->y_stride + (size_t)r] = add_lanes32(lane[i]);
	}
}

static void matrix_f16(const struct dot_job *j)
{
	matrix_float(j, 2, expand_f16);
}

static void matrix_bf16(const struct dot_job *j)
{
	matrix_float(j, 2, expand_bf16);
}

static void matrix_f32(const struct dot_job *j)
{
	matrix_float(j, 4, expand_f32);
}

/* ------------------------------------------------------------------ activations and attention */

static void quantise(int8_t *q, float *d, int16_t *sum, const float *x, int32_t n, int32_t group)
{
	for (int32_t at = 0; at < n; at += group) {
		int32_t top = 0;
		float scale, inv;

		/* Magnitudes are ordered like their bits, NaN and infinity on top. */
		for (int32_t i = at; i < at + group; i++) {
			int32_t a = (int32_t)(f32_bits(x[i]) & 0x7FFFFFFF);

			top = a > top ? a : top;
		}
		scale = top < 0x7F800000 ? f32_from_bits((uint32_t)top) / 127.0f : NAN;
		inv = scale > 0x1p-120f ? 1.0f / scale : 0;	/* below: 1/d would overflow */
		for (int32_t i = at; i < at + group; i += 16) {
			int32_t part = 0;

			/* Adding 1.5 * 2^23 rounds to an integer, ties to even. */
			for (int32_t k = i; k < i + 16; k++) {
				int32_t v = (int32_t)f32_bits(x[k] * inv + 12582912.0f) - 0x4B400000;

				v = v > 127 ? 127 : v < -127 ? -127 : v;
				q[k] = (int8_t)v;
				part += v;
			}
			sum[i / 16] = (int16_t)part;
			d[i / 32] = scale;
		}
	}
}

static void scores(float *z, const float *q, const float *rows, int32_t n, int32_t width)
{
	for (int32_t i = 0; i < n; i++) {
		float lane[DOT_LANES] = {0};

		add_floats(lane, q, rows + (size_t)i * (size_t)width, width);
		z[i] = add_lanes32(lane);
	}
}

static void accumulate(float *acc, const float *weight, const float *rows, int32_t n, int32_t width)
{
	for (int32_t at = 0; at < width; at += 32) {
		float t[32];

		memcpy(t, acc + at, sizeof t);
		for (int32_t i = 0; i < n; i++) {
			const float *row = rows + (size_t)i * (size_t)width + at;

			for (int k = 0; k < 32; k++)
				t[k] += weight[i] * row[k];
		}
		memcpy(acc + at, t, sizeof t);
	}
}

VALUE_FUNCTIONS

static const struct dot_table table = {
	.name = "scalar",
	.matrix = {
		[DTYPE_F32] = matrix_f32,
		[DTYPE_F16] = matrix_f16,
		[DTYPE_BF16] = matrix_bf16,
		[DTYPE_Q8_0] = matrix_q8_0,
		[DTYPE_Q2_K] = matrix_q2_k,
		[DTYPE_Q4_K] = matrix_q4_k,
		[DTYPE_IQ2_XXS] = matrix_iq2_xxs,
	},
	.quantise = quantise,
	.scores = scores,
	.accumulate = accumulate,
	.load_row = load_row,
	.load_key = load_key,
	.silu = silu,
};

const struct dot_table *dot_scalar(void)
{
	return &table;
}
