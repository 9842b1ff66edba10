/* attend_avx512.c - one batch of history rows folded into the running softmax of several heads, with AVX-512; keys.
 *
 * Why   All heads of a query look at the same rows.  Done head by head, every multiply-add loads one operand; four heads
 *       by four rows in registers load half of one.
 * How   Scores: 16 sums of 16 lanes, turned into 16 numbers by one tree.  Values: four heads by 64 channels.
 * Careful
 *       - A score's lanes and tree and a channel's order of rows are the same for any number of rows and heads: heads that
 *         are missing to four are computed twice, rows that are missing to 16 weigh nothing.
 *       - The rows' buffer has room for 16 rows of any content. */
#include <immintrin.h>

#include "backend/cpu/dot.h"
#include "backend/cpu/panel.h"
#include "backend/cpu/value.h"

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 16, HEADS = 4, CHANNELS = 64 };

void load_key_avx512(float *x, const uint8_t *pair, const uint8_t *scale)
{
	/* Twice the value of each code. */
	const __m128i twice = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), low = _mm_set1_epi8(15);

	for (int g = 0; g < GEOM_KEY_SCALES; g++) {
		const __m512 s = _mm512_set1_ps(0.5f * e8m0_to_f32(scale[g]));
		__m128i p = _mm_loadu_si128((const void *)(pair + 16 * g));
		__m128i even = _mm_and_si128(p, low), odd = _mm_and_si128(_mm_srli_epi16(p, 4), low);
		__m128i a = _mm_shuffle_epi8(twice, _mm_unpacklo_epi8(even, odd));
		__m128i b = _mm_shuffle_epi8(twice, _mm_unpackhi_epi8(even, odd));

		_mm512_storeu_ps(x + 32 * g, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(a)), s));
		_mm512_storeu_ps(x + 32 * g + 16, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b)), s));
	}
}

/* Lane r = the sum of z[r], over four rows of one head; every quarter a part. */
INLINE __m512 sum_rows(const __m512 z[4])
{
	__m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(z[0], z[1]), _mm512_unpackhi_ps(z[0], z[1]));
	__m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(z[2], z[3]), _mm512_unpackhi_ps(z[2], z[3]));
	__m512d lo = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
	__m512d hi = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));

	return _mm512_add_ps(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi));
}

INLINE __m512 add_quarter_pairs(__m512 a, __m512 b)
{
	return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}

/* score[h][r..r+3] = q[h] . rows r..r+3 */
INLINE void four_scores(float score[HEADS][ROWS], const float *const q[HEADS], const float *rows, int r)
{
	__m512 z[HEADS][4], v[HEADS], all;

#pragma GCC unroll 4
	for (int h = 0; h < HEADS; h++)
#pragma GCC unroll 4
		for (int k = 0; k < 4; k++)
			z[h][k] = _mm512_setzero_ps();
	for (int at = 0; at < GEOM_HEAD; at += 16) {
		__m512 x[4];

#pragma GCC unroll 4
		for (int k = 0; k < 4; k++)
			x[k] = _mm512_load_ps(rows + (r + k) * GEOM_HEAD + at);
#pragma GCC unroll 4
		for (int h = 0; h < HEADS; h++) {
			__m512 y = _mm512_loadu_ps(q[h] + at);

#pragma GCC unroll 4
			for (int k = 0; k < 4; k++)
				z[h][k] = _mm512_fmadd_ps(y, x[k], z[h][k]);
		}
	}
#pragma GCC unroll 4
	for (int h = 0; h < HEADS; h++)
		v[h] = sum_rows(z[h]);
	all = add_quarter_pairs(add_quarter_pairs(v[0], v[1]), add_quarter_pairs(v[2], v[3]));
	_mm_storeu_ps(score[0] + r, _mm512_extractf32x4_ps(all, 0));
	_mm_storeu_ps(score[1] + r, _mm512_extractf32x4_ps(all, 1));
	_mm_storeu_ps(score[2] + r, _mm512_extractf32x4_ps(all, 2));
	_mm_storeu_ps(score[3] + r, _mm512_extractf32x4_ps(all, 3));
}

/* Scores to weights; returns what the accumulated values must be multiplied by. */
INLINE float weigh(float *score, float *top, float *sum, int32_t n)
{
	const __mmask16 some = (__mmask16)((1u << n) - 1);
	__m512 z = _mm512_mul_ps(_mm512_loadu_ps(score), _mm512_set1_ps(0.0441941738f));	/* 512^-0.5 */
	float most = _mm512_mask_reduce_max_ps(some, z), shrink = 1;

	if (most > *top) {
		shrink = exp_f32(*top - most);
		*sum *= shrink;
		*top = most;
	}
	_mm512_storeu_ps(score, _mm512_sub_ps(z, _mm512_set1_ps(*top)));
	for (int i = 0; i < ROWS; i++)
		score[i] = exp_f32(score[i]);
	z = _mm512_maskz_loadu_ps(some, score);
	_mm512_storeu_ps(score, z);
	*sum += _mm512_reduce_add_ps(z);
	return shrink;
}

/* acc[h] = acc[h] * shrink[h] + sum_i weight[h][i] rows[i] for H heads. */
INLINE void add_values(float *acc, const float *shrink, float weight[HEADS][ROWS], const float *rows, int32_t n, int H)
{
	for (int at = 0; at < GEOM_HEAD; at += CHANNELS) {
		__m512 t[HEADS][4];

#pragma GCC unroll 4
		for (int h = 0; h < H; h++)
#pragma GCC unroll 4
			for (int k = 0; k < 4; k++)
				t[h][k] = _mm512_mul_ps(_mm512_loadu_ps(acc + h * GEOM_HEAD + at + 16 * k),
							_mm512_set1_ps(shrink[h]));
		for (int32_t i = 0; i < n; i++) {
			__m512 x[4];

#pragma GCC unroll 4
			for (int k = 0; k < 4; k++)
				x[k] = _mm512_load_ps(rows + i * GEOM_HEAD + at + 16 * k);
#pragma GCC unroll 4
			for (int h = 0; h < H; h++) {
				__m512 w = _mm512_set1_ps(weight[h][i]);

#pragma GCC unroll 4
				for (int k = 0; k < 4; k++)
					t[h][k] = _mm512_fmadd_ps(w, x[k], t[h][k]);
			}
		}
#pragma GCC unroll 4
		for (int h = 0; h < H; h++)
#pragma GCC unroll 4
			for (int k = 0; k < 4; k++)
				_mm512_storeu_ps(acc + h * GEOM_HEAD + at + 16 * k, t[h][k]);
	}
}

void attend_avx512(float *acc, float *top, float *sum, const float *q, const float *rows, int32_t n, int32_t heads)
{
	for (int32_t h0 = 0; h0 < heads; h0 += HEADS) {
		const int32_t some = heads - h0 < HEADS ? heads - h0 : HEADS;
		_Alignas(64) float score[HEADS][ROWS];
		const float *qs[HEADS];
		float shrink[HEADS];

		for (int32_t h = 0; h < HEADS; h++)
			qs[h] = q + (size_t)(h0 + (h < some ? h : 0)) * GEOM_HEAD;
		for (int r = 0; r < n; r += 4)
			four_scores(score, qs, rows, r);
		for (int32_t h = 0; h < some; h++)
			shrink[h] = weigh(score[h], &top[h0 + h], &sum[h0 + h], n);
		if (some == HEADS)
			add_values(acc + (size_t)h0 * GEOM_HEAD, shrink, score, rows, n, HEADS);
		else
			for (int32_t h = 0; h < some; h++)
				add_values(acc + (size_t)(h0 + h) * GEOM_HEAD, shrink + h, score + h, rows, n, 1);
	}
}
