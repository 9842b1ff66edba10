/* dot_avx2.c - the inner loops for x86 with AVX2, FMA and F16C (Haswell, Zen and later).
 *
 * How   Quantised types: a block of 256 weights is expanded once into eight vectors of 32 int8 codes (and
 *       scales), then multiplied with each activation row: vpmaddubsw makes exact 16-bit pair sums, vpmaddwd
 *       (with the sub-block scales, or ones) 32-bit sums, and a tree of horizontal adds turns eight vectors of
 *       eight into one vector that holds one exact sum per group: the eight lanes of dot.h.
 *       Float types: four vectors of eight lanes, fused multiply-add.
 * Careful
 *       - vpmaddubsw takes unsigned times signed: signed codes go in as |w| and x with w's sign.  Pair sums
 *         stay below 2^15: 2 * 128 * 127.
 *       - Scales are applied with separate multiplications and additions, as in dot_scalar.c: the bits must
 *         agree.
 * Source: docs/formats/gguf.md; bit equality with dot_scalar.c is tested. */
#include "backend/cpu/dot.h"

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/value.h"
#include "quant/blocks.h"
#include "quant/half.h"
#include "quant/quant.h"

/* Steps take their vectors in registers and, for float types, a conversion as an argument: all must be inlined. */
#define INLINE static inline __attribute__((always_inline))

/* ------------------------------------------------------------------ shared steps */

/* [sum of v0, sum of v1, ... sum of v7] */
INLINE __m256i sum_each(const __m256i v[8])
{
	__m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
	__m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));

	return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

/* ((0+4)+(2+6))+((1+5)+(3+7)) */
INLINE float add_lanes8(__m256 a)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

INLINE __m256i load256(const void *p)
{
	return _mm256_loadu_si256(p);
}

/* Eight 32-bit parts of the product of 32 signed codes and activations. */
INLINE __m256i signed_product(__m256i w, __m256i x)
{
	__m256i pairs = _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w));

	return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* ------------------------------------------------------------------ Q8_0 */

/* Scales of n <= 8 blocks that follow each other; zero for the rest. */
INLINE __m256 block_scales(const struct block_q8_0 *w, int n)
{
	uint16_t h[8] = {0};

	if (n == 8)
		return _mm256_cvtph_ps(_mm_setr_epi16((short)w[0].d, (short)w[1].d, (short)w[2].d, (short)w[3].d,
						      (short)w[4].d, (short)w[5].d, (short)w[6].d, (short)w[7].d));
	if (n == 4)
		return _mm256_cvtph_ps(
			_mm_setr_epi16((short)w[0].d, (short)w[1].d, (short)w[2].d, (short)w[3].d, 0, 0, 0, 0));
	for (int g = 0; g < n; g++)
		h[g] = w[g].d;
	return _mm256_cvtph_ps(_mm_loadu_si128((const void *)h));
}

/* d[0..n-1], zero for the rest. */
INLINE __m256 some_floats(const float *d, int n)
{
	__m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

	if (n == 8)
		return _mm256_loadu_ps(d);
	return _mm256_maskload_ps(d, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), index));
}

/* lane g += scale[g] * x.d[g] * (w[g] . x[g]) for n <= 8 groups; the other lanes add zero. */
INLINE __m256 add_q8_0(__m256 lane, const struct block_q8_0 *w, __m256 scale, const int8_t *q, const float *d,
                       int n)
{
	__m256i v[8];

	for (int g = 0; g < 8; g++)
		v[g] = g < n ? signed_product(load256(w[g].q), load256(q + 32 * g)) : _mm256_setzero_si256();
	return _mm256_add_ps(
		lane, _mm256_mul_ps(_mm256_mul_ps(scale, some_floats(d, n)), _mm256_cvtepi32_ps(sum_each(v))));
}

/* n groups from g0 on, for all activation rows. */
INLINE void add_groups(__m256 *lane, const struct dot_job *j, const struct block_q8_0 *w, int32_t g0, int n)
{
	__m256 scale = block_scales(w + g0, n);

	for (int32_t i = 0; i < j->n; i++)
		lane[i] = add_q8_0(lane[i], w + g0, scale, j->x[i].q + 32 * g0, j->x[i].d + g0, n);
}

static void matrix_q8_0(const struct dot_job *j)
{
	const int32_t groups = j->in / 32, whole = groups & ~7, rest = groups & 7;

	for (int32_t r = 0; r < j->rows; r++) {
		const struct block_q8_0 *w = (const void *)(j->w + (size_t)r * j->row_bytes);
		__m256 lane[DOT_TILE];

		for (int32_t i = 0; i < j->n; i++)
			lane[i] = _mm256_setzero_ps();
		for (int32_t g = 0; g < whole; g += 8)
			add_groups(lane, j, w, g, 8);
		if (rest == 4)
			add_groups(lane, j, w, whole, 4);
		else if (rest)
			add_groups(lane, j, w, whole, rest);
		for (int32_t i = 0; i < j->n; i++)
			j->y[(size_t)i * j->y_stride + (size_t)r] = add_lanes8(lane[i]);
	}
}

/* ------------------------------------------------------------------ types with blocks of 256 */

struct expanded {
	__m256i code[8];	/* 32 codes of each group */
	__m256i scale[8];	/* int16, as vpmaddwd wants them (Q2_K, Q4_K) */
	__m256i min;		/* int16: factors of the 16 sums */
	__m256i factor;		/* int32: scale of each group (IQ2_XXS) */
	__m256 d, dmin;
};

INLINE __m256 half_everywhere(uint16_t h)
{
	return _mm256_cvtph_ps(_mm_set1_epi16((short)h));
}

/* Byte 2g of each 128-bit half's bytes a, b as int16 in all places: low half `a`, high half `b`. */
INLINE __m256i two_bytes(__m256i bytes, int a, int b)
{
	return _mm256_shuffle_epi8(bytes, _mm256_set_m128i(_mm_set1_epi16((short)(0x8000 | b)),
							   _mm_set1_epi16((short)(0x8000 | a))));
}

INLINE void expand_q2_k(struct expanded *e, const struct block_q2_k *b)
{
	const __m256i three = _mm256_set1_epi8(3);
	__m128i both = _mm_loadu_si128((const void *)b->scale_min), low = _mm_set1_epi8(15);
	__m256i scales = _mm256_broadcastsi128_si256(_mm_and_si128(both, low));
	__m256i q0 = load256(b->q), q1 = load256(b->q + 32);

	e->d = half_everywhere(b->d);
	e->dmin = half_everywhere(b->dmin);
	e->min = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(both, 4), low));
#define GROUP(k)                                                                                  \
	e->code[k] = _mm256_and_si256(_mm256_srli_epi16(q0, 2 * (k)), three);                     \
	e->code[4 + (k)] = _mm256_and_si256(_mm256_srli_epi16(q1, 2 * (k)), three);               \
	e->scale[k] = two_bytes(scales, 2 * (k), 2 * (k) + 1);                                    \
	e->scale[4 + (k)] = two_bytes(scales, 8 + 2 * (k), 9 + 2 * (k));
	GROUP(0)
	GROUP(1)
	GROUP(2)
	GROUP(3)
#undef GROUP
}

INLINE void expand_q4_k(struct expanded *e, const struct block_q4_k *b)
{
	const __m256i low = _mm256_set1_epi8(15);
	uint32_t s[3];
	__m128i scale8, min8;
	__m256i scales;

	memcpy(s, b->s, sizeof s);
	scale8 = _mm_setr_epi32((int)(s[0] & 0x3F3F3F3F),
	                        (int)((s[2] & 0x0F0F0F0F) | (s[0] >> 6 & 0x03030303) << 4), 0, 0);
	min8 = _mm_setr_epi32((int)(s[1] & 0x3F3F3F3F),
	                      (int)((s[2] >> 4 & 0x0F0F0F0F) | (s[1] >> 6 & 0x03030303) << 4), 0, 0);
	scales = _mm256_broadcastsi128_si256(scale8);
	e->d = half_everywhere(b->d);
	e->dmin = half_everywhere(b->dmin);
	e->min = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(min8, min8));	/* each twice: it meets two sums of 16 */
#define GROUP(k)                                                                                  \
	{                                                                                         \
		__m256i q = load256(b->q + 32 * (k));                                             \
                                                                                                  \
		e->code[2 * (k)] = _mm256_and_si256(q, low);                                      \
		e->code[2 * (k) + 1] = _mm256_and_si256(_mm256_srli_epi16(q, 4), low);            \
		e->scale[2 * (k)] = two_bytes(scales, 2 * (k), 2 * (k));                          \
		e->scale[2 * (k) + 1] = two_bytes(scales, 2 * (k) + 1, 2 * (k) + 1);              \
	}
	GROUP(0)
	GROUP(1)
	GROUP(2)
	GROUP(3)
#undef GROUP
}

/* For Q2_K and Q4_K: scales and minimums. */
INLINE __m256 add_k(__m256 lane, const struct expanded *e, const struct dot_x *x, int32_t b)
{
	const int8_t *q = x->q + 256 * b;
	__m256i v[8], m = _mm256_madd_epi16(e->min, load256(x->sum + 16 * b));
	__m256 term;

	for (int g = 0; g < 8; g++)
		v[g] = _mm256_madd_epi16(_mm256_maddubs_epi16(e->code[g], load256(q + 32 * g)), e->scale[g]);
	term = _mm256_sub_ps(_mm256_mul_ps(e->d, _mm256_cvtepi32_ps(sum_each(v))),
			     _mm256_mul_ps(e->dmin, _mm256_cvtepi32_ps(m)));
	return _mm256_add_ps(lane, _mm256_mul_ps(term, _mm256_loadu_ps(x->d + 8 * b)));
}

/* The 32 sign bytes of a block: word g has group g's four 7-bit patterns, each with its parity on top. */
INLINE __m256i sign_bytes(__m256i words)
{
	const __m256i odd =
		_mm256_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0, 0,
	                         -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
	const __m256i low = _mm256_set1_epi8(15);
	__m256i s = _mm256_and_si256(words, _mm256_set1_epi32(0x7F)), parity;

	s = _mm256_or_si256(s, _mm256_and_si256(_mm256_slli_epi32(words, 1), _mm256_set1_epi32(0x7F00)));
	s = _mm256_or_si256(s, _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x7F0000)));
	s = _mm256_or_si256(s, _mm256_and_si256(_mm256_slli_epi32(words, 3), _mm256_set1_epi32(0x7F000000)));
	parity = _mm256_xor_si256(_mm256_shuffle_epi8(odd, _mm256_and_si256(s, low)),
				  _mm256_shuffle_epi8(odd, _mm256_and_si256(_mm256_srli_epi16(s, 4), low)));
	return _mm256_or_si256(s, parity);
}

INLINE int64_t grid_entry(uint8_t index)
{
	int64_t v;

	memcpy(&v, iq2_xxs_grid[index], sizeof v);
	return v;
}

INLINE void expand_iq2_xxs(struct expanded *e, const struct block_iq2_xxs *b)
{
	const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2,
	                                        2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
	const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
	__m256 lo = _mm256_loadu_ps((const void *)b->group[0]), hi = _mm256_loadu_ps((const void *)b->group[4]);
	/* The second word of each group, in order. */
	__m256i words = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(lo, hi, 0xDD)), 0xD8);
	_Alignas(32) uint32_t signs[8];

	_mm256_store_si256((void *)signs, sign_bytes(words));
	e->d = _mm256_mul_ps(half_everywhere(b->d),
	                     _mm256_set1_ps(0.125f)); /* (0.5 + s) * 0.25 = (2 s + 1) / 8 */
	e->factor = _mm256_or_si256(_mm256_slli_epi32(_mm256_srli_epi32(words, 28), 1), _mm256_set1_epi32(1));
	for (int g = 0; g < 8; g++) {
		const uint8_t *index = b->group[g];
		__m256i s = _mm256_shuffle_epi8(_mm256_set1_epi32((int)signs[g]), spread);
		__m256i negative = _mm256_cmpeq_epi8(_mm256_and_si256(s, bit), bit);
		__m256i v = _mm256_set_epi64x(grid_entry(index[3]), grid_entry(index[2]), grid_entry(index[1]),
					      grid_entry(index[0]));

		e->code[g] = _mm256_sub_epi8(_mm256_xor_si256(v, negative), negative);
	}
}

INLINE __m256 add_iq2_xxs(__m256 lane, const struct expanded *e, const struct dot_x *x, int32_t b)
{
	const int8_t *q = x->q + 256 * b;
	__m256i v[8];

	for (int g = 0; g < 8; g++)
		v[g] = signed_product(e->code[g], load256(q + 32 * g));
	return _mm256_add_ps(lane, _mm256_mul_ps(_mm256_mul_ps(e->d, _mm256_loadu_ps(x->d + 8 * b)),
						 _mm256_cvtepi32_ps(_mm256_mullo_epi32(sum_each(v), e->factor))));
}

#define MATRIX_256(T, add)                                                                           \
	static void matrix_##T(const struct dot_job *j)                                              \
	{                                                                                            \
		const int32_t blocks = j->in / 256;                                                  \
                                                                                                     \
		for (int32_t r = 0; r < j->rows; r++) {                                              \
			const struct block_##T *w = (const void *)(j->w + (size_t)r * j->row_bytes); \
			__m256 lane[DOT_TILE];                                                       \
			struct expanded e;                                                           \
                                                                                                     \
			for (int32_t i = 0; i < j->n; i++)                                           \
				lane[i] = _mm256_setzero_ps();                                       \
			for (int32_t b = 0; b < blocks; b++) {                                       \
				expand_##T(&e, &w[b]);                                               \
				for (int32_t i = 0; i < j->n; i++)                                   \
					lane[i] = add(lane[i], &e, &j->x[i], b);                     \
			}                                                                            \
			for (int32_t i = 0; i < j->n; i++)                                           \
				j->y[(size_t)i * j->y_stride + (size_t)r] = add_lanes8(lane[i]);     \
		}                                                                                    \
	}

MATRIX_256(q2_k, add_k)
MATRIX_256(q4_k, add_k)
MATRIX_256(iq2_xxs, add_iq2_xxs)

/* ------------------------------------------------------------------ float types */

struct lanes32 {
	__m256 a, b, c, d;
};

INLINE struct lanes32 zero32(void)
{
	__m256 z = _mm256_setzero_ps();

	return (struct lanes32){z, z, z, z};
}

INLINE float add_lanes32(struct lanes32 l)
{
	__m256 s = _mm256_add_ps(_mm256_add_ps(l.a, l.c), _mm256_add_ps(l.b, l.d));
	__m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));

	t = _mm_add_ps(t, _mm_movehl_ps(t, t));
	return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}

/* n is a multiple of 32. */
INLINE struct lanes32 add_floats(struct lanes32 l, const float *w, const float *x, int32_t n)
{
	for (int32_t i = 0; i < n; i += 32) {
		l.a = _mm256_fmadd_ps(_mm256_loadu_ps(w + i), _mm256_loadu_ps(x + i), l.a);
		l.b = _mm256_fmadd_ps(_mm256_loadu_ps(w + i + 8), _mm256_loadu_ps(x + i + 8), l.b);
		l.c = _mm256_fmadd_ps(_mm256_loadu_ps(w + i + 16), _mm256_loadu_ps(x + i + 16), l.c);
		l.d = _mm256_fmadd_ps(_mm256_loadu_ps(w + i + 24), _mm256_loadu_ps(x + i + 24), l.d);
	}
	return l;
}

INLINE __m256 eight_f16(const uint8_t *w)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const void *)w));
}

INLINE __m256 eight_bf16(const uint8_t *w)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)w)), 16));
}

INLINE __m256 eight_f32(const uint8_t *w)
{
	return _mm256_loadu_ps((const void *)w);
}

enum { CHUNK = 256 };

/* Weights at .. at+n-1 of a row as floats; a last piece shorter than 32 is filled up with zeros, and so is x. */
INLINE void expand_floats(float *out, const uint8_t *w, int32_t n, size_t bytes, __m256 (*eight)(const uint8_t *w))
{
	int32_t i = 0;

	for (; i + 8 <= n; i += 8)
		_mm256_store_ps(out + i, eight(w + (size_t)i * bytes));
	if (i < n) {
		uint8_t last[32] = {0};

		memcpy(last, w + (size_t)i * bytes, (size_t)(n - i) * bytes);
		_mm256_store_ps(out + i, eight(last));
		i += 8;
	}
	for (; i % 32; i += 8)
		_mm256_store_ps(out + i, _mm256_setzero_ps());
}

INLINE struct lanes32 add_rest(struct lanes32 l, const float *w, const float *x, int32_t n)
{
	float last[32] = {0};
	int32_t whole = n & ~31;

	l = add_floats(l, w, x, whole);
	if (whole == n)
		return l;
	memcpy(last, x + whole, (size_t)(n - whole) * sizeof *x);
	return add_floats(l, w + whole, last, 32);
}

/* One weight row and one activation row, without a detour through memory; the same sums. */
INLINE float float_dot(const uint8_t *w, const float *x, int32_t n, size_t bytes,
                       __m256 (*eight)(const uint8_t *w))
{
	_Alignas(32) float rest[32];
	struct lanes32 l = zero32();
	int32_t i = 0;

	for (; i + 32 <= n; i += 32) {
		const uint8_t *p = w + (size_t)i * bytes;

		l.a = _mm256_fmadd_ps(eight(p), _mm256_loadu_ps(x + i), l.a);
		l.b = _mm256_fmadd_ps(eight(p + 8 * bytes), _mm256_loadu_ps(x + i + 8), l.b);
		l.c = _mm256_fmadd_ps(eight(p + 16 * bytes), _mm256_loadu_ps(x + i + 16), l.c);
		l.d = _mm256_fmadd_ps(eight(p + 24 * bytes), _mm256_loadu_ps(x + i + 24), l.d);
	}
	if (i < n) {
		expand_floats(rest, w + (size_t)i * bytes, n - i, bytes, eight);
		l = add_rest(l, rest, x + i, n - i);
	}
	return add_lanes32(l);
}

INLINE void matrix_float(const struct dot_job *j, size_t bytes, __m256 (*eight)(const uint8_t *w))
{
	_Alignas(32) float chunk[CHUNK];
	struct lanes32 lane[DOT_TILE];

	for (int32_t r = 0; r < j->rows; r++) {
		const uint8_t *w = j->w + (size_t)r * j->row_bytes;

		if (j->n == 1) {
			j->y[r] = float_dot(w, j->x->f, j->in, bytes, eight);
			continue;
		}
		for (int32_t i = 0; i < j->n; i++)
			lane[i] = zero32();
		for (int32_t at = 0; at < j->in; at += CHUNK) {
			int32_t n = j->in - at < CHUNK ? j->in - at : CHUNK;

			expand_floats(chunk, w + (size_t)at * bytes, n, bytes, eight);
			for (int32_t i = 0; i < j->n; i++)
				lane[i] = add_rest(lane[i], chunk, j->x[i].f + at, n);
		}
		for (int32_t i = 0; i < j->n; i++)
			j->y[(size_t)i * j->y_stride + (size_t)r] = add_lanes32(lane[i]);
	}
}

static void matrix_f16(const struct dot_job *j)
{
	matrix_float(j, 2, eight_f16);
}

static void matrix_bf16(const struct dot_job *j)
{
	matrix_float(j, 2, eight_bf16);
}

static void matrix_f32(const struct dot_job *j)
{
	matrix_float(j, 4, eight_f32);
}

/* ------------------------------------------------------------------ activations and attention */

/* Eight products rounded to integers, -127..127. */
INLINE __m256i rounded(const float *x, __m256 inv)
{
	__m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inv));

	return _mm256_max_epi32(_mm256_min_epi32(v, _mm256_set1_epi32(127)), _mm256_set1_epi32(-127));
}

INLINE int32_t max_each(__m256i v)
{
	__m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

	m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4E));
	return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xB1)));
}

/* 32 values with a known scale. */
static void round32(int8_t *q, int16_t *sum, const float *x, __m256 inv)
{
	const __m256i ones = _mm256_set1_epi16(1);
	__m256i a, b, s;
	__m128i pair;

	/* Packing works within 128-bit halves; the permutation puts the 32-bit pieces in order again. */
	a = _mm256_packs_epi32(rounded(x, inv), rounded(x + 8, inv));
	b = _mm256_packs_epi32(rounded(x + 16, inv), rounded(x + 24, inv));
	_mm256_storeu_si256((void *)q, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b),
	                                                           _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
	s = _mm256_hadd_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones));
	pair = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
	sum[0] = (int16_t)(_mm_extract_epi32(pair, 0) + _mm_extract_epi32(pair, 1));
	sum[1] = (int16_t)(_mm_extract_epi32(pair, 2) + _mm_extract_epi32(pair, 3));
}

static void quantise(int8_t *q, float *d, int16_t *sum, const float *x, int32_t n, int32_t group)
{
	const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);

	for (int32_t at = 0; at < n; at += group) {
		__m256i top = _mm256_setzero_si256();
		int32_t most;
		float scale, inv;

		for (int32_t k = at; k < at + group; k += 8)
			top = _mm256_max_epi32(top, _mm256_and_si256(load256(x + k), magnitude));
		most = max_each(top);
		scale = most < 0x7F800000 ? f32_from_bits((uint32_t)most) / 127.0f : NAN;
		inv = scale > 0x1p-120f ? 1.0f / scale : 0;
		for (int32_t k = at; k < at + group; k += 32) {
			d[k / 32] = scale;
			round32(q + k, sum + k / 16, x + k, _mm256_set1_ps(inv));
		}
	}
}

/* Two rows at a time share the loads of q. */
static void scores(float *z, const float *q, const float *rows, int32_t n, int32_t width)
{
	int32_t i = 0;

	for (; i + 2 <= n; i += 2) {
		const float *x = rows + (size_t)i * (size_t)width, *y = x + width;
		struct lanes32 l = zero32(), m = zero32();

		for (int32_t k = 0; k < width; k += 32) {
			__m256 a = _mm256_loadu_ps(q + k), b = _mm256_loadu_ps(q + k + 8);
			__m256 c = _mm256_loadu_ps(q + k + 16), d = _mm256_loadu_ps(q + k + 24);

			l.a = _mm256_fmadd_ps(a, _mm256_loadu_ps(x + k), l.a);
			m.a = _mm256_fmadd_ps(a, _mm256_loadu_ps(y + k), m.a);
			l.b = _mm256_fmadd_ps(b, _mm256_loadu_ps(x + k + 8), l.b);
			m.b = _mm256_fmadd_ps(b, _mm256_loadu_ps(y + k + 8), m.b);
			l.c = _mm256_fmadd_ps(c, _mm256_loadu_ps(x + k + 16), l.c);
			m.c = _mm256_fmadd_ps(c, _mm256_loadu_ps(y + k + 16), m.c);
			l.d = _mm256_fmadd_ps(d, _mm256_loadu_ps(x + k + 24), l.d);
			m.d = _mm256_fmadd_ps(d, _mm256_loadu_ps(y + k + 24), m.d);
		}
		z[i] = add_lanes32(l);
		z[i + 1] = add_lanes32(m);
	}
	if (i < n)
		z[i] = add_lanes32(add_floats(zero32(), q, rows + (size_t)i * (size_t)width, width));
}

static void accumulate(float *acc, const float *weight, const float *rows, int32_t n, int32_t width)
{
	for (int32_t at = 0; at < width; at += 32) {
		float *t = acc + at;
		struct lanes32 l = {_mm256_loadu_ps(t), _mm256_loadu_ps(t + 8), _mm256_loadu_ps(t + 16),
				    _mm256_loadu_ps(t + 24)};

		for (int32_t i = 0; i < n; i++) {
			const float *row = rows + (size_t)i * (size_t)width + at;
			__m256 w = _mm256_set1_ps(weight[i]);

			l.a = _mm256_fmadd_ps(w, _mm256_loadu_ps(row), l.a);
			l.b = _mm256_fmadd_ps(w, _mm256_loadu_ps(row + 8), l.b);
			l.c = _mm256_fmadd_ps(w, _mm256_loadu_ps(row + 16), l.c);
			l.d = _mm256_fmadd_ps(w, _mm256_loadu_ps(row + 24), l.d);
		}
		_mm256_storeu_ps(t, l.a);
		_mm256_storeu_ps(t + 8, l.b);
		_mm256_storeu_ps(t + 16, l.c);
		_mm256_storeu_ps(t + 24, l.d);
	}
}

VALUE_FUNCTIONS

static const struct dot_table table = {
	.name = "avx2",
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

const struct dot_table *dot_avx2(void)
{
	return &table;
}
