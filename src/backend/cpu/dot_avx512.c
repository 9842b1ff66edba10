/* dot_avx512.c - the table for x86 with AVX-512: F, BW, VL, DQ, VNNI, VBMI and GFNI (Ice Lake, Zen 4); its float loops.
 *
 * How   Quantised types are in row_avx512.c (one row of activations) and panel_avx512.c or panel_amx.c (several).
 *       Floats: 32 lanes are two vectors; several weight rows or activation rows at once hide the latency of a sum.
 * Careful
 *       - The order of float sums is a promise of dot.h. */
#include "backend/cpu/dot.h"

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/panel.h"
#include "backend/cpu/value.h"

#define INLINE static inline __attribute__((always_inline))

/* ------------------------------------------------------------------ quantised types */

#define MATRIX(T, type)                                               \
	static void matrix_##T(const struct dot_job *j)               \
	{                                                             \
		if (j->n == 1)                                        \
			row_matrix_avx512(j, type);                   \
		else                                                  \
			panel_walk(j, type, false, panel_times_avx512);\
	}                                                             \
	static void amx_##T(const struct dot_job *j)                  \
	{                                                             \
		if (j->n == 1)                                        \
			row_matrix_avx512(j, type);                   \
		else                                                  \
			panel_matrix_amx(j, type);                    \
	}
MATRIX(q8_0, DTYPE_Q8_0)
MATRIX(q2_k, DTYPE_Q2_K)
MATRIX(q4_k, DTYPE_Q4_K)
MATRIX(iq2_xxs, DTYPE_IQ2_XXS)

/* ------------------------------------------------------------------ float types */

/* Lane l + lane l + 16, then + 8, + 4, + 2, + 1. */
INLINE float add_lanes32(__m512 a, __m512 b)
{
	__m512 s = _mm512_add_ps(a, b);
	__m256 t = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
	__m128 u = _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1));

	u = _mm_add_ps(u, _mm_movehl_ps(u, u));
	return _mm_cvtss_f32(_mm_add_ss(u, _mm_shuffle_ps(u, u, 1)));
}

/* The first n of sixteen elements as floats; the others are zero and are not read. */
INLINE __m512 some_f16(const uint8_t *w, __mmask16 n)
{
	return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(n, w));
}

INLINE __m512 some_bf16(const uint8_t *w, __mmask16 n)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(n, w)), 16));
}

INLINE __m512 some_f32(const uint8_t *w, __mmask16 n)
{
	return _mm512_maskz_loadu_ps(n, w);
}

/* Adds 32 products to the lanes (a, b) of each k. */
INLINE void float_step(__m512 *a, __m512 *b, int count, const uint8_t *rows, size_t row_step,
                       const float *const *xs, bool many_x, int32_t at, size_t bytes,
                       __m512 (*some)(const uint8_t *w, __mmask16 n), __mmask16 low, __mmask16 high)
{
	__m512 wa = _mm512_setzero_ps(), wb = wa, xa = wa, xb = wa;

	for (int k = 0; k < count; k++) {
		if (k == 0 || !many_x) {
			if (count == 4 && !many_x)	/* the four rows that follow: short rows end before a prefetcher starts */
				_mm_prefetch((const char *)(rows + (size_t)(k + 4) * row_step), _MM_HINT_T0);
			wa = some(rows + (size_t)k * row_step, low);
			wb = some(rows + (size_t)k * row_step + 16 * bytes, high);
		}
		if (k == 0 || many_x) {
			xa = _mm512_maskz_loadu_ps(low, xs[k] + at);
			xb = _mm512_maskz_loadu_ps(high, xs[k] + at + 16);
		}
		a[k] = _mm512_fmadd_ps(wa, xa, a[k]);
		b[k] = _mm512_fmadd_ps(wb, xb, b[k]);
	}
}

/* y[k] = rows[k * row_step] . xs[k] for k < count <= 4; one of the sides is the same row for all: the rows
 * (many_x) or the activations (then xs has one entry). */
INLINE void float_dots(float *y, int count, const uint8_t *rows, size_t row_step, const float *const *xs,
                       bool many_x, int32_t n, size_t bytes, __m512 (*some)(const uint8_t *w, __mmask16 n))
{
	__m512 a[4], b[4];

	for (int k = 0; k < count; k++)
		a[k] = b[k] = _mm512_setzero_ps();
	for (int32_t i = 0; i < n; i += 32) {
		/* Whole steps with constant masks are plain loads. */
		if (n - i >= 32)
			float_step(a, b, count, rows + (size_t)i * bytes, row_step, xs, many_x, i, bytes, some,
			           0xFFFF, 0xFFFF);
		else
			float_step(a, b, count, rows + (size_t)i * bytes, row_step, xs, many_x, i, bytes, some,
				   (__mmask16)((1u << (n - i)) - 1), (__mmask16)(((1u << (n - i)) - 1) >> 16));
	}
	for (int k = 0; k < count; k++)
		y[k] = add_lanes32(a[k], b[k]);
}

/* Many activation rows: pieces of 12 weight rows by 512 columns are turned to floats and stay in the first-level cache
 * while they meet up to 48 activation rows, in tiles of 4 by 3; the lanes of all these products wait in memory for the
 * next piece. */
enum { TILE_R = 4, TILE_X = 3, WIDE_R = 12, WIDE_X = 48, WIDE_K = 512, MANY = 4 };

struct wide {
	_Alignas(64) float row[WIDE_R][WIDE_K + 16];
	_Alignas(64) float lane[WIDE_X][WIDE_R][DOT_LANES];
};

_Static_assert(sizeof(struct wide) <= DOT_WORK, "fits a thread's work space");

struct wide_tile {
	struct wide *w;
	const struct dot_job *j;
	int32_t i0, k0, k;	/* first activation row and column of the piece, columns in it */
	float *y;
	bool first, last;	/* pieces of K */
};

INLINE void wide_step(__m512 *a, __m512 *b, const float *row, const float *const *f, int32_t at, __mmask16 low,
		      __mmask16 high, int R, int X)
{
	__m512 xa[TILE_X], xb[TILE_X];

#pragma GCC unroll 3
	for (int x = 0; x < X; x++) {
		xa[x] = _mm512_maskz_loadu_ps(low, f[x] + at);
		xb[x] = _mm512_maskz_loadu_ps(high, f[x] + at + 16);
	}
#pragma GCC unroll 4
	for (int k = 0; k < R; k++) {
		__m512 wa = _mm512_load_ps(row + k * (WIDE_K + 16) + at), wb = _mm512_load_ps(row + k * (WIDE_K + 16) + at + 16);

#pragma GCC unroll 3
		for (int x = 0; x < X; x++) {
			a[k * X + x] = _mm512_fmadd_ps(wa, xa[x], a[k * X + x]);
			b[k * X + x] = _mm512_fmadd_ps(wb, xb[x], b[k * X + x]);
		}
	}
}

/* Rows r.. of the piece times activation rows i0 + i... */
INLINE void wide_product(const struct wide_tile *t, int32_t r, int32_t i, int R, int X)
{
	const int32_t whole = t->k & ~31, rest = t->k - whole;
	const __mmask16 low = (__mmask16)(rest >= 16 ? 0xFFFF : (1u << rest) - 1);
	const __mmask16 high = (__mmask16)(((1u << rest) - 1) >> 16);
	const float *f[TILE_X], *row = t->w->row[r];
	__m512 a[TILE_R * TILE_X], b[TILE_R * TILE_X];

#pragma GCC unroll 3
	for (int x = 0; x < X; x++)
		f[x] = t->j->x[t->i0 + i + x].f + t->k0;
#pragma GCC unroll 4
	for (int k = 0; k < R; k++)
#pragma GCC unroll 3
		for (int x = 0; x < X; x++) {
			const float *lane = t->w->lane[i + x][r + k];

			a[k * X + x] = t->first ? _mm512_setzero_ps() : _mm512_load_ps(lane);
			b[k * X + x] = t->first ? _mm512_setzero_ps() : _mm512_load_ps(lane + 16);
		}
	for (int32_t at = 0; at < whole; at += 32)
		wide_step(a, b, row, f, at, 0xFFFF, 0xFFFF, R, X);
	if (rest)
		wide_step(a, b, row, f, whole, low, high, R, X);
#pragma GCC unroll 4
	for (int k = 0; k < R; k++)
#pragma GCC unroll 3
		for (int x = 0; x < X; x++) {
			float *lane = t->w->lane[i + x][r + k];

			if (t->last) {
				t->y[(size_t)(i + x) * t->j->y_stride + (size_t)(r + k)] =
					add_lanes32(a[k * X + x], b[k * X + x]);
			} else {
				_mm512_store_ps(lane, a[k * X + x]);
				_mm512_store_ps(lane + 16, b[k * X + x]);
			}
		}
}

static void wide_whole(const struct wide_tile *t, int32_t r, int32_t i)
{
	wide_product(t, r, i, TILE_R, TILE_X);
}

static void wide_one(const struct wide_tile *t, int32_t r, int32_t i)
{
	wide_product(t, r, i, 1, 1);
}

static void wide_piece(const struct wide_tile *t, int32_t rows, int32_t n)
{
	for (int32_t i = 0; i < n; i += TILE_X)
		for (int32_t r = 0; r < rows; r += TILE_R) {
			if (rows - r >= TILE_R && n - i >= TILE_X) {
				wide_whole(t, r, i);
				continue;
			}
			for (int32_t k = r; k < rows && k < r + TILE_R; k++)
				for (int32_t x = i; x < n && x < i + TILE_X; x++)
					wide_one(t, k, x);
		}
}

INLINE void matrix_float_many(const struct dot_job *j, size_t bytes, __m512 (*some)(const uint8_t *w, __mmask16 n))
{
	struct wide_tile t = {.w = j->work, .j = j};

	for (int32_t r0 = 0; r0 < j->rows; r0 += WIDE_R)
		for (t.i0 = 0; t.i0 < j->n; t.i0 += WIDE_X)
			for (t.k0 = 0; t.k0 < j->in; t.k0 += WIDE_K) {
				const int32_t rows = j->rows - r0 < WIDE_R ? j->rows - r0 : WIDE_R;

				t.k = j->in - t.k0 < WIDE_K ? j->in - t.k0 : WIDE_K;
				t.first = t.k0 == 0;
				t.last = t.k0 + t.k == j->in;
				t.y = j->y + (size_t)t.i0 * j->y_stride + r0;
				for (int32_t r = 0; r < rows; r++)
					for (int32_t k = 0; k < t.k; k += 16) {
						int32_t n = t.k - k;

						_mm512_store_ps(t.w->row[r] + k,
								some(j->w + (size_t)(r0 + r) * j->row_bytes +
								             (size_t)(t.k0 + k) * bytes,
								     (__mmask16)(n >= 16 ? 0xFFFF : (1u << n) - 1)));
					}
				wide_piece(&t, rows, j->n - t.i0 < WIDE_X ? j->n - t.i0 : WIDE_X);
			}
}

INLINE void matrix_float(const struct dot_job *j, size_t bytes, __m512 (*some)(const uint8_t *w, __mmask16 n))
{
	int32_t r = 0;

	if (j->n >= MANY) {
		matrix_float_many(j, bytes, some);
		return;
	}
	if (j->n == 1)	/* four weight rows at once */
		for (; r + 4 <= j->rows; r += 4)
			float_dots(j->y + r, 4, j->w + (size_t)r * j->row_bytes, j->row_bytes, &j->x->f, false,
			           j->in, bytes, some);
	for (; r < j->rows; r++) {
		const uint8_t *w = j->w + (size_t)r * j->row_bytes;

		for (int32_t i = 0; i < j->n; i++)
			float_dots(j->y + (size_t)i * j->y_stride + r, 1, w, 0, &j->x[i].f, false, j->in, bytes,
			           some);
	}
}

static void matrix_f16(const struct dot_job *j)
{
	matrix_float(j, 2, some_f16);
}

static void matrix_bf16(const struct dot_job *j)
{
	matrix_float(j, 2, some_bf16);
}

static void matrix_f32(const struct dot_job *j)
{
	matrix_float(j, 4, some_f32);
}

/* ------------------------------------------------------------------ attention */

static void scores(float *z, const float *q, const float *rows, int32_t n, int32_t width)
{
	const size_t step = (size_t)width * sizeof *rows;
	int32_t i = 0;

	for (; i + 4 <= n; i += 4)
		float_dots(z + i, 4, (const uint8_t *)rows + (size_t)i * step, step, &q, false, width, 4,
		           some_f32);
	for (; i < n; i++)
		float_dots(z + i, 1, (const uint8_t *)rows + (size_t)i * step, step, &q, false, width, 4,
		           some_f32);
}

/* count vectors of 16 channels from `at` on. */
INLINE void accumulate_some(float *acc, const float *weight, const float *rows, int32_t n, int32_t width,
                            int32_t at, int count)
{
	__m512 t[8];

	for (int k = 0; k < count; k++)
		t[k] = _mm512_loadu_ps(acc + at + 16 * k);
	for (int32_t i = 0; i < n; i++) {
		const float *row = rows + (size_t)i * (size_t)width + at;
		__m512 w = _mm512_set1_ps(weight[i]);

		for (int k = 0; k < count; k++)
			t[k] = _mm512_fmadd_ps(w, _mm512_loadu_ps(row + 16 * k), t[k]);
	}
	for (int k = 0; k < count; k++)
		_mm512_storeu_ps(acc + at + 16 * k, t[k]);
}

static void accumulate(float *acc, const float *weight, const float *rows, int32_t n, int32_t width)
{
	int32_t at = 0;

	for (; at + 128 <= width; at += 128)
		accumulate_some(acc, weight, rows, n, width, at, 8);
	for (; at < width; at += 32)
		accumulate_some(acc, weight, rows, n, width, at, 2);
}

static void quantise(int8_t *q, float *d, int16_t *sum, const float *x, int32_t n, int32_t group)
{
	dot_avx2()->quantise(q, d, sum, x, n, group);
}

static void load_row(float *x, const uint8_t *code, const uint8_t *rot, const uint8_t *scale)
{
	row_values(x, code, rot, scale);
}

static void silu(float *h, const float *g, const float *u, float limit, float weight, int32_t n)
{
	silu_values(h, g, u, limit, weight, n);
}

#define TABLE(label, form)                                                                                             \
	{                                                                                                              \
		.name = label, .many = true,                                                                           \
		.matrix = {[DTYPE_F32] = matrix_f32, [DTYPE_F16] = matrix_f16, [DTYPE_BF16] = matrix_bf16,             \
		           [DTYPE_Q8_0] = form##_q8_0, [DTYPE_Q2_K] = form##_q2_k, [DTYPE_Q4_K] = form##_q4_k,         \
		           [DTYPE_IQ2_XXS] = form##_iq2_xxs},                                                          \
		.quantise = quantise, .scores = scores, .accumulate = accumulate, .attend = attend_avx512,             \
		.load_row = load_row, .load_key = load_key_avx512, .silu = silu,                                       \
	}

static const struct dot_table table = TABLE("avx512", matrix), table_amx = TABLE("amx", amx);

const struct dot_table *dot_avx512(void)
{
	return &table;
}

const struct dot_table *dot_amx(void)
{
	return &table_amx;
}
