/* dot_avx512.c - the inner loops for x86 with AVX-512: F, BW, VL, DQ, VNNI, VBMI and GFNI (Ice Lake, Zen 4).
 *
 * How   A block of 256 weights is four vectors of 64 unsigned codes, each holding two groups of 32; vpdpbusd
 *       (or vpmaddubsw and vpdpwssd where there are sub-block scales) multiplies them with the activations, and
 *       a transposing tree of additions gives the eight exact group sums of dot.h in one vector.
 *       Q8_0     w ^ 0x80 = w + 128 is unsigned; 128 times the sums of the activations is taken off at the end.
 *       IQ2_XXS  The codebook has only the values 8, 25 and 43, so an entry is eight 2-bit numbers and the whole
 *                book is 256 words in eight registers: no loads from a table.  vpmultishiftqb cuts the 7-bit
 *                sign fields, one vgf2p8affineqb copies them and adds the parity bit, and the bits are the mask
 *                of a negation.
 *       Floats   32 lanes are two vectors; four weight rows or four activation rows at once hide the latency of
 *                a sum.
 * Careful
 *       - Scales are applied with separate multiplications and additions: the bits of dot_scalar.c.
 *       - A pair sum of vpmaddubsw must stay below 2^15: codes here are at most 15.
 * Source: docs/formats/gguf.md; bit equality with dot_scalar.c is tested. */
#include "backend/cpu/dot.h"

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/value.h"
#include "quant/blocks.h"

#define INLINE static inline __attribute__((always_inline))

/* ------------------------------------------------------------------ shared steps */

INLINE __m512i load512(const void *p)
{
	return _mm512_loadu_si512(p);
}

/* 32 bytes at a, then 32 at b. */
INLINE __m512i two_groups(const void *a, const void *b)
{
	return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(a)), _mm256_loadu_si256(b), 1);
}

/* Sums of the low and high halves of four vectors: [low of z0, z1, z2, z3, high of z0, ..] reordered by
 * `order`. */
INLINE __m256i sum_halves(__m512i z0, __m512i z1, __m512i z2, __m512i z3, __m512i order)
{
	__m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(z0, z1), _mm512_unpackhi_epi32(z0, z1));
	__m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(z2, z3), _mm512_unpackhi_epi32(z2, z3));
	__m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));

	c = _mm512_add_epi32(c, _mm512_shuffle_i64x2(c, c, 0xB1));	/* each half's two quarters */
	return _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, c));
}

/* Where group g's sum is after sum_halves' additions: quarter 0 holds the low halves, quarter 2 the high ones. */
INLINE __m512i order_of(int g0, int g1, int g2, int g3, int g4, int g5, int g6, int g7)
{
	return _mm512_setr_epi32(g0, g1, g2, g3, g4, g5, g6, g7, 0, 0, 0, 0, 0, 0, 0, 0);
}

/* z_i = (group i | group i + 4), or (2 i | 2 i + 1). */
#define ORDER_APART order_of(0, 1, 2, 3, 8, 9, 10, 11)
#define ORDER_PAIRS order_of(0, 8, 1, 9, 2, 10, 3, 11)

/* ((0+4)+(2+6))+((1+5)+(3+7)) */
INLINE float add_lanes8(__m256 a)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

INLINE __m256 half_everywhere(uint16_t h)
{
	return _mm256_cvtph_ps(_mm_set1_epi16((short)h));
}

/* ------------------------------------------------------------------ Q8_0 */

/* Eight blocks, or the last n of a row with zeros behind. */
struct expanded_q8_0 {
	__m512i code[4];	/* w ^ 0x80: groups 2i, 2i + 1 */
	__m256 scale;
};

INLINE void expand_q8_0(struct expanded_q8_0 *e, const struct block_q8_0 *w)
{
	const __m512i flip = _mm512_set1_epi8((char)0x80);

	for (int i = 0; i < 4; i++)
		e->code[i] = _mm512_xor_si512(two_groups(w[2 * i].q, w[2 * i + 1].q), flip);
	e->scale = _mm256_cvtph_ps(_mm_setr_epi16((short)w[0].d, (short)w[1].d, (short)w[2].d, (short)w[3].d,
	                                          (short)w[4].d, (short)w[5].d, (short)w[6].d, (short)w[7].d));
}

/* The first n of eight groups: what is read beyond them is masked away. */
INLINE __m256 add_q8_0(__m256 lane, const struct expanded_q8_0 *e, const struct dot_x *x, int32_t g, int n)
{
	const int8_t *q = x->q + 32 * g;
	const __mmask8 some = (__mmask8)((1u << n) - 1);
	__m256i bias = _mm256_madd_epi16(_mm256_maskz_loadu_epi16((__mmask16)((1u << 2 * n) - 1), x->sum + 2 * g),
					 _mm256_set1_epi16(128));
	__m512i z[4];
	__m256i sum;

	for (int i = 0; i < 4; i++) {
		__mmask16 words = 2 * i + 1 < n ? 0xFFFF : 2 * i < n ? 0xFF : 0;

		z[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), e->code[i],
		                           n == 8 ? load512(q + 64 * i)
		                                  : _mm512_maskz_loadu_epi32(words, q + 64 * i));
	}
	sum = _mm256_sub_epi32(sum_halves(z[0], z[1], z[2], z[3], ORDER_PAIRS), bias);
	return _mm256_add_ps(lane, _mm256_mul_ps(_mm256_mul_ps(e->scale, _mm256_maskz_loadu_ps(some, x->d + g)),
						 _mm256_cvtepi32_ps(sum)));
}

/* n <= 8 groups from g on for all activation rows; for a single one its lanes stay in a register. */
INLINE __m256 add_groups(__m256 one, __m256 *lane, const struct dot_job *j, const struct block_q8_0 *w,
                         int32_t g, int n)
{
	struct expanded_q8_0 e;

	if (n == 8) {
		expand_q8_0(&e, w + g);
	} else {
		struct block_q8_0 some[8] = {{0}};

		memcpy(some, w + g, (size_t)n * sizeof *some);
		expand_q8_0(&e, some);
	}
	if (!lane)
		return add_q8_0(one, &e, j->x, g, n);
	for (int32_t i = 0; i < j->n; i++)
		lane[i] = add_q8_0(lane[i], &e, &j->x[i], g, n);
	return one;
}

/* Rows of four groups are common in small models: two of them fill the vectors. */
static void matrix_q8_0_short(const struct dot_job *j)
{
	for (int32_t r = 0; r + 2 <= j->rows; r += 2) {
		const struct block_q8_0 *a = (const void *)(j->w + (size_t)r * j->row_bytes);
		const struct block_q8_0 *b = (const void *)(j->w + (size_t)(r + 1) * j->row_bytes);
		const __m512i flip = _mm512_set1_epi8((char)0x80);
		__m512i code[4];
		__m256 scale;

		for (int i = 0; i < 2; i++) {
			code[i] = _mm512_xor_si512(two_groups(a[2 * i].q, a[2 * i + 1].q), flip);
			code[2 + i] = _mm512_xor_si512(two_groups(b[2 * i].q, b[2 * i + 1].q), flip);
		}
		scale = _mm256_cvtph_ps(_mm_setr_epi16((short)a[0].d, (short)a[1].d, (short)a[2].d,
		                                       (short)a[3].d, (short)b[0].d, (short)b[1].d,
		                                       (short)b[2].d, (short)b[3].d));
		for (int32_t i = 0; i < j->n; i++) {
			const struct dot_x *x = &j->x[i];
			const __m512i zero = _mm512_setzero_si512(), x0 = load512(x->q), x1 = load512(x->q + 64);
			__m128i sums = _mm_madd_epi16(_mm_loadu_si128((const void *)x->sum), _mm_set1_epi16(128));
			__m256i sum = sum_halves(_mm512_dpbusd_epi32(zero, code[0], x0),
			                         _mm512_dpbusd_epi32(zero, code[1], x1),
			                         _mm512_dpbusd_epi32(zero, code[2], x0),
			                         _mm512_dpbusd_epi32(zero, code[3], x1), ORDER_PAIRS);
			__m256 d = _mm256_broadcast_ps((const __m128 *)(const void *)x->d), t;

			sum = _mm256_sub_epi32(sum, _mm256_broadcastsi128_si256(sums));
			/* Adding to lanes of zero, and the lanes 4..7 that stay zero, as the long form does. */
			t = _mm256_add_ps(_mm256_setzero_ps(),
			                  _mm256_mul_ps(_mm256_mul_ps(scale, d), _mm256_cvtepi32_ps(sum)));
			j->y[(size_t)i * j->y_stride + (size_t)r] =
				add_lanes8(_mm256_insertf128_ps(t, _mm_setzero_ps(), 1));
			j->y[(size_t)i * j->y_stride + (size_t)r + 1] = add_lanes8(
				_mm256_insertf128_ps(_mm256_setzero_ps(), _mm256_extractf128_ps(t, 1), 0));
		}
	}
}

static void matrix_q8_0(const struct dot_job *job)
{
	struct dot_job rest = *job;
	const struct dot_job *j = &rest;
	const int32_t groups = j->in / 32, whole = groups & ~7, some = groups & 7;

	if (groups == 4) {
		int32_t done = j->rows & ~1;

		matrix_q8_0_short(j);
		rest.w += (size_t)done * j->row_bytes;
		rest.y += done;
		rest.rows -= done;
	}
	for (int32_t r = 0; r < j->rows; r++) {
		const struct block_q8_0 *w = (const void *)(j->w + (size_t)r * j->row_bytes);
		__m256 lane[DOT_TILE], one = _mm256_setzero_ps();

		if (j->n == 1) {
			for (int32_t g = 0; g < whole; g += 8)
				one = add_groups(one, NULL, j, w, g, 8);
			if (some)
				one = add_groups(one, NULL, j, w, whole, some);
			j->y[r] = add_lanes8(one);
			continue;
		}
		for (int32_t i = 0; i < j->n; i++)
			lane[i] = _mm256_setzero_ps();
		for (int32_t g = 0; g < whole; g += 8)
			add_groups(one, lane, j, w, g, 8);
		if (some)
			add_groups(one, lane, j, w, whole, some);
		for (int32_t i = 0; i < j->n; i++)
			j->y[(size_t)i * j->y_stride + (size_t)r] = add_lanes8(lane[i]);
	}
}

/* ------------------------------------------------------------------ Q2_K and Q4_K */

struct expanded_k {
	__m512i code[4];
	__m512i scale[4];	/* int16, as vpdpwssd wants them */
	__m256i min;		/* int16: factors of the 16 sums */
	__m256 d, dmin;
};

/* Byte numbers a, b, c, e of each quarter's bytes as int16 in all places of quarter 0, 1, 2, 3. */
INLINE __m512i four_bytes(__m512i bytes, int a, int b, int c, int e)
{
	__m512i at = _mm512_castsi128_si512(_mm_set1_epi16((short)(0x8000 | a)));

	at = _mm512_inserti32x4(at, _mm_set1_epi16((short)(0x8000 | b)), 1);
	at = _mm512_inserti32x4(at, _mm_set1_epi16((short)(0x8000 | c)), 2);
	at = _mm512_inserti32x4(at, _mm_set1_epi16((short)(0x8000 | e)), 3);
	return _mm512_shuffle_epi8(bytes, at);
}

/* code[k] = groups k, k + 4: the low and the high 32 bytes, two bits at 2 k. */
INLINE void expand_q2_k(struct expanded_k *e, const struct block_q2_k *b)
{
	const __m512i three = _mm512_set1_epi8(3);
	__m128i both = _mm_loadu_si128((const void *)b->scale_min), low = _mm_set1_epi8(15);
	__m512i scales = _mm512_broadcast_i32x4(_mm_and_si128(both, low)), q = load512(b->q);

	e->d = half_everywhere(b->d);
	e->dmin = half_everywhere(b->dmin);
	e->min = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(both, 4), low));
	e->code[0] = _mm512_and_si512(q, three);
	e->code[1] = _mm512_and_si512(_mm512_srli_epi16(q, 2), three);
	e->code[2] = _mm512_and_si512(_mm512_srli_epi16(q, 4), three);
	e->code[3] = _mm512_and_si512(_mm512_srli_epi16(q, 6), three);
	e->scale[0] = four_bytes(scales, 0, 1, 8, 9);
	e->scale[1] = four_bytes(scales, 2, 3, 10, 11);
	e->scale[2] = four_bytes(scales, 4, 5, 12, 13);
	e->scale[3] = four_bytes(scales, 6, 7, 14, 15);
}

/* Bytes 32 k.. hold group 2k in their low nibbles and 2k + 1 in the high ones; paired so that code[k] = groups
 * k, k + 4 again. */
INLINE void expand_q4_k(struct expanded_k *e, const struct block_q4_k *b)
{
	const __m512i low = _mm512_set1_epi8(15);
	__m512i even = two_groups(b->q, b->q + 64), odd = two_groups(b->q + 32, b->q + 96), scales;
	__m128i min8;
	uint32_t s[3];

	memcpy(s, b->s, sizeof s);
	scales = _mm512_broadcast_i32x4(_mm_setr_epi32(
		(int)(s[0] & 0x3F3F3F3F), (int)((s[2] & 0x0F0F0F0F) | (s[0] >> 6 & 0x03030303) << 4), 0, 0));
	min8 = _mm_setr_epi32((int)(s[1] & 0x3F3F3F3F),
	                      (int)((s[2] >> 4 & 0x0F0F0F0F) | (s[1] >> 6 & 0x03030303) << 4), 0, 0);
	e->d = half_everywhere(b->d);
	e->dmin = half_everywhere(b->dmin);
	e->min = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(min8, min8));	/* each twice: it meets two sums of 16 */
	e->code[0] = _mm512_and_si512(even, low);
	e->code[1] = _mm512_and_si512(_mm512_srli_epi16(even, 4), low);
	e->code[2] = _mm512_and_si512(odd, low);
	e->code[3] = _mm512_and_si512(_mm512_srli_epi16(odd, 4), low);
	e->scale[0] = four_bytes(scales, 0, 0, 4, 4);
	e->scale[1] = four_bytes(scales, 1, 1, 5, 5);
	e->scale[2] = four_bytes(scales, 2, 2, 6, 6);
	e->scale[3] = four_bytes(scales, 3, 3, 7, 7);
}

INLINE __m256 add_k(__m256 lane, const struct expanded_k *e, const struct dot_x *x, int32_t b)
{
	const int8_t *q = x->q + 256 * b;
	__m256i m = _mm256_madd_epi16(e->min, _mm256_loadu_si256((const void *)(x->sum + 16 * b)));
	__m512i z[4];
	__m256 term;

	for (int k = 0; k < 4; k++)
		z[k] = _mm512_dpwssd_epi32(
			_mm512_setzero_si512(),
			_mm512_maddubs_epi16(e->code[k], two_groups(q + 32 * k, q + 128 + 32 * k)),
			e->scale[k]);
	term = _mm256_sub_ps(
		_mm256_mul_ps(e->d, _mm256_cvtepi32_ps(sum_halves(z[0], z[1], z[2], z[3], ORDER_APART))),
		_mm256_mul_ps(e->dmin, _mm256_cvtepi32_ps(m)));
	return _mm256_add_ps(lane, _mm256_mul_ps(term, _mm256_loadu_ps(x->d + 8 * b)));
}

/* ------------------------------------------------------------------ IQ2_XXS */

/* iq2_xxs_grid with 8, 25, 43 as 0, 1, 2: element m of an entry in bits 2 m, 2 m + 1. */
_Alignas(64) static const uint16_t codebook[256] = {
	0x0000, 0x0002, 0x0005, 0x0008, 0x000a, 0x0011, 0x0014, 0x0020, 0x0022, 0x0028, 0x002a, 0x0041,
	0x0044, 0x0050, 0x0058, 0x0061, 0x0064, 0x0080, 0x0082, 0x008a, 0x00a2, 0x0101, 0x0104, 0x0110,
	0x0115, 0x0140, 0x0184, 0x0198, 0x0200, 0x0202, 0x0222, 0x0282, 0x0401, 0x0404, 0x0410, 0x0421,
	0x0424, 0x0440, 0x0442, 0x0448, 0x0460, 0x0481, 0x0484, 0x0490, 0x04a4, 0x0500, 0x0502, 0x0508,
	0x0520, 0x0546, 0x0569, 0x0580, 0x0591, 0x0609, 0x0610, 0x0640, 0x0684, 0x06a4, 0x0800, 0x0805,
	0x0808, 0x0814, 0x0828, 0x0841, 0x0844, 0x0850, 0x0852, 0x0888, 0x0904, 0x0940, 0x0a02, 0x0a14,
	0x1001, 0x1004, 0x1010, 0x1021, 0x1040, 0x1060, 0x1084, 0x1090, 0x1095, 0x1100, 0x1108, 0x1120,
	0x1150, 0x115a, 0x1180, 0x1224, 0x1245, 0x1400, 0x1408, 0x1420, 0x1425, 0x1449, 0x1480, 0x1518,
	0x1562, 0x1600, 0x1616, 0x1801, 0x1804, 0x1810, 0x1840, 0x1881, 0x1900, 0x1905, 0x19a0, 0x1a51,
	0x2000, 0x2002, 0x200a, 0x2044, 0x2061, 0x2080, 0x2082, 0x2129, 0x2148, 0x2200, 0x2202, 0x2401,
	0x2404, 0x2410, 0x2440, 0x2456, 0x2500, 0x2541, 0x2564, 0x2690, 0x2808, 0x2820, 0x2894, 0x2a44,
	0x4001, 0x4004, 0x4010, 0x4018, 0x4021, 0x4024, 0x4040, 0x4048, 0x4056, 0x4060, 0x4081, 0x4084,
	0x4090, 0x4100, 0x4120, 0x4161, 0x4180, 0x4185, 0x4201, 0x4210, 0x4248, 0x4256, 0x4268, 0x4400,
	0x4408, 0x4420, 0x4480, 0x4499, 0x4512, 0x4524, 0x4600, 0x4801, 0x4804, 0x4810, 0x4840, 0x4845,
	0x4900, 0x4958, 0x4961, 0x4982, 0x4a45, 0x4a90, 0x5000, 0x5008, 0x5011, 0x5019, 0x5020, 0x5080,
	0x5088, 0x5104, 0x5142, 0x51a4, 0x5291, 0x5490, 0x5492, 0x550a, 0x5601, 0x5654, 0x5800, 0x5811,
	0x5819, 0x5864, 0x5940, 0x5a08, 0x6004, 0x6010, 0x6040, 0x6068, 0x6100, 0x6155, 0x6218, 0x6260,
	0x6400, 0x6405, 0x6510, 0x6512, 0x6584, 0x6842, 0x8000, 0x8002, 0x800a, 0x8041, 0x8082, 0x8104,
	0x8118, 0x8140, 0x8211, 0x8401, 0x8404, 0x8410, 0x8415, 0x8440, 0x8460, 0x8500, 0x8546, 0x8594,
	0x8609, 0x8640, 0x8660, 0x8802, 0x8904, 0x8a11, 0x9004, 0x9010, 0x9024, 0x9040, 0x90a1, 0x9116,
	0x9180, 0x9245, 0x9400, 0x9422, 0x9444, 0x9551, 0x9881, 0x9920, 0xa002, 0xa050, 0xa085, 0xa109,
	0xa200, 0xa418, 0xa850, 0xa904,
};

struct expanded_iq2 {
	__m512i magnitude[4];	/* groups 2i, 2i + 1 */
	__mmask64 negative[4];
	__m256i factor;		/* 2 scale + 1 */
	__m256 d;
};

/* The codebook entries of a block's 32 indices, as 32 words. */
INLINE __m512i look_up(__m512i groups)
{
	/* Index k of group g is byte 8 g + k; it becomes the low byte of word 4 g + k. */
	const __m512i from = _mm512_setr_epi64(0x0003000200010000, 0x000B000A00090008, 0x0013001200110010,
					       0x001B001A00190018, 0x0023002200210020, 0x002B002A00290028,
					       0x0033003200310030, 0x003B003A00390038);
	__m512i i = _mm512_maskz_permutexvar_epi8(0x5555555555555555, from, groups);
	__mmask32 bit6 = _mm512_test_epi16_mask(i, _mm512_set1_epi16(0x40));
	__mmask32 bit7 = _mm512_test_epi16_mask(i, _mm512_set1_epi16(0x80));
	__m512i a = _mm512_permutex2var_epi16(load512(codebook), i, load512(codebook + 32));
	__m512i b = _mm512_permutex2var_epi16(load512(codebook + 64), i, load512(codebook + 96));
	__m512i c = _mm512_permutex2var_epi16(load512(codebook + 128), i, load512(codebook + 160));
	__m512i d = _mm512_permutex2var_epi16(load512(codebook + 192), i, load512(codebook + 224));

	return _mm512_mask_blend_epi16(bit7, _mm512_mask_blend_epi16(bit6, a, b),
	                               _mm512_mask_blend_epi16(bit6, c, d));
}

INLINE void expand_iq2_xxs(struct expanded_iq2 *e, const struct block_iq2_xxs *b)
{
	const __m512i values = _mm512_set1_epi32(0x002B1908);		/* 8, 25, 43 by number */
	const __m512i two_bits = _mm512_set1_epi64(0x0E0C0A0806040200);	/* where an entry's numbers begin */
	/* Sign fields are at bits 32, 39, 46, 53 of a group: cut out twice, so both words of a group have them. */
	const __m512i fields = _mm512_set1_epi64(0x352E2720352E2720);
	/* Output bit i of a byte is the parity of (row i & byte): bits 0..6 copied, bit 7 the parity of those. */
	const __m512i copy_and_parity = _mm512_set1_epi64(0x010204081020407F);
	const __m512i even_words = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
	__m512i groups = load512(b->group), entries = look_up(groups), signs;
	_Alignas(32) uint64_t mask[4];
	/* An entry's word four times, so that its 64 bits can be cut anywhere below 16. */
	const __m512i spread = _mm512_setr_epi64(0, 0x0001000100010001, 0x0002000200020002, 0x0003000300030003,
						 0x0004000400040004, 0x0005000500050005, 0x0006000600060006,
						 0x0007000700070007);

	signs = _mm512_gf2p8affine_epi64_epi8(_mm512_multishift_epi64_epi8(fields, groups), copy_and_parity, 0);
	_mm256_store_si256((void *)mask, _mm512_castsi512_si256(_mm512_permutexvar_epi32(even_words, signs)));
	for (int i = 0; i < 4; i++) {
		__m512i entry = _mm512_permutexvar_epi16(
			_mm512_add_epi16(spread, _mm512_set1_epi16((short)(8 * i))), entries);
		__m512i number =
			_mm512_and_si512(_mm512_multishift_epi64_epi8(two_bits, entry), _mm512_set1_epi8(3));

		e->magnitude[i] = _mm512_shuffle_epi8(values, number);
		e->negative[i] = mask[i];
	}
	e->factor = _mm512_cvtepi64_epi32(_mm512_or_si512(_mm512_slli_epi64(_mm512_srli_epi64(groups, 60), 1),
							  _mm512_set1_epi64(1)));
	e->d = _mm256_mul_ps(half_everywhere(b->d),
	                     _mm256_set1_ps(0.125f)); /* (0.5 + s) * 0.25 = (2 s + 1) / 8 */
}

INLINE __m256 add_iq2_xxs(__m256 lane, const struct expanded_iq2 *e, const struct dot_x *x, int32_t b)
{
	const int8_t *q = x->q + 256 * b;
	const __m512i zero = _mm512_setzero_si512();
	__m512i z[4];
	__m256i sum;

	for (int i = 0; i < 4; i++) {
		__m512i y = load512(q + 64 * i);

		z[i] = _mm512_dpbusd_epi32(zero, e->magnitude[i],
		                           _mm512_mask_sub_epi8(y, e->negative[i], zero, y));
	}
	sum = _mm256_mullo_epi32(sum_halves(z[0], z[1], z[2], z[3], ORDER_PAIRS), e->factor);
	return _mm256_add_ps(lane, _mm256_mul_ps(_mm256_mul_ps(e->d, _mm256_loadu_ps(x->d + 8 * b)),
	                                         _mm256_cvtepi32_ps(sum)));
}

#define MATRIX_256(T, form, add)                                                                     \
	static void matrix_##T(const struct dot_job *j)                                              \
	{                                                                                            \
		const int32_t blocks = j->in / 256;                                                  \
                                                                                                     \
		for (int32_t r = 0; r < j->rows; r++) {                                              \
			const struct block_##T *w = (const void *)(j->w + (size_t)r * j->row_bytes); \
			__m256 lane[DOT_TILE], one = _mm256_setzero_ps();                            \
			struct form e;                                                               \
                                                                                                     \
			if (j->n == 1) {                                                             \
				for (int32_t b = 0; b < blocks; b++) {                               \
					expand_##T(&e, &w[b]);                                       \
					one = add(one, &e, j->x, b);                                 \
				}                                                                    \
				j->y[r] = add_lanes8(one);                                           \
				continue;                                                            \
			}                                                                            \
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

MATRIX_256(q2_k, expanded_k, add_k)
MATRIX_256(q4_k, expanded_k, add_k)
MATRIX_256(iq2_xxs, expanded_iq2, add_iq2_xxs)

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

INLINE void matrix_float(const struct dot_job *j, size_t bytes, __m512 (*some)(const uint8_t *w, __mmask16 n))
{
	int32_t r = 0;

	if (j->n == 1)	/* four weight rows at once */
		for (; r + 4 <= j->rows; r += 4)
			float_dots(j->y + r, 4, j->w + (size_t)r * j->row_bytes, j->row_bytes, &j->x->f, false,
			           j->in, bytes, some);
	for (; r < j->rows; r++) {
		const uint8_t *w = j->w + (size_t)r * j->row_bytes;
		int32_t i = 0;

		for (; i + 4 <= j->n; i += 4) {	/* four activation rows at once */
			const float *const xs[4] = {j->x[i].f, j->x[i + 1].f, j->x[i + 2].f, j->x[i + 3].f};
			float y[4];

			float_dots(y, 4, w, 0, xs, true, j->in, bytes, some);
			for (int k = 0; k < 4; k++)
				j->y[(size_t)(i + k) * j->y_stride + (size_t)r] = y[k];
		}
		for (; i < j->n; i++)
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

static void quantise(int8_t *q, float *d, int16_t *sum, const float *x, int32_t n)
{
	dot_avx2()->quantise(q, d, sum, x, n);
}

VALUE_FUNCTIONS

static const struct dot_table table = {
	.name = "AVX-512",
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

const struct dot_table *dot_avx512(void)
{
	return &table;
}
