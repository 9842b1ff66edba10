/* row_avx512.c - weight matrices times a single row of activations, with AVX-512: decoding.
 *
 * Why   Every weight byte is read once, so the arithmetic has to be faster than memory: 34 bytes of Q8_0 in some
 *       6 cycles, 66 of IQ2_XXS in 13, 84 of Q2_K in 16 on a core that reads 15 GB/s.
 * How   A strip of 16 rows goes through the columns together.  Each block gives a vector of integer sums; trees of
 *       additions turn those of 16 rows into one vector with a lane per row, so that scales, minimums and the
 *       float part cost one instruction for 16 rows.  While a strip is read, the same place of the next one is
 *       prefetched: the processor's own prefetcher stops at every page.
 *       IQ2_XXS: the codebook is two planes of bits in eight registers, 64 entries looked up at once; a product of
 *       bit matrices spreads entries and signs, and a last permutation turns three bits into a byte.
 * Careful
 *       - The order of the float operations is that of panel.h: the bits must be those of panel_avx512.c.
 *       - The activations are put in the order of the codes once per call, in the thread's work space. */
#include "backend/cpu/lanes_avx512.h"

/* ------------------------------------------------------------------ Q8_0 */

/* One or two groups of 32 from g on: the integer sums of 16 rows. */
INLINE void sums_q8_0(__m512i *first, __m512i *second, const uint8_t *const row[16], const struct dot_x *x, int32_t g,
		      bool two, size_t ahead)
{
	const __m512i flip = _mm512_set1_epi8((char)0x80);
	const size_t at = (size_t)g * sizeof(struct block_q8_0);
	__m512i q = two ? load512(x->q + 32 * g) : _mm512_zextsi256_si512(_mm256_loadu_si256((const void *)(x->q + 32 * g)));
	__m512i z[16];

	for (int r = 0; r < 16; r++) {
		const struct block_q8_0 *b = (const void *)(row[r] + at);
		__m512i w = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)b[0].q));

		if (two)
			w = _mm512_inserti64x4(w, _mm256_loadu_si256((const void *)b[1].q), 1);
		else
			w = _mm512_zextsi256_si512(_mm512_castsi512_si256(w));
		_mm_prefetch((const char *)(row[r] + at + ahead), _MM_HINT_T0);
		z[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_xor_si512(w, flip), q);
	}
	sum_halves(first, second, z);
}

INLINE __m512 add_group(__m512 y, __m512i sum, __m512 scale, const struct dot_x *x, int32_t g)
{
	__m512 f = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(x->bias[g])));

	return _mm512_fmadd_ps(_mm512_mul_ps(f, _mm512_set1_ps(x->d[g])), scale, y);
}

static __m512 strip_q8_0(const uint8_t *const row[16], const struct dot_job *j)
{
	const int32_t groups = j->in / 32;
	const size_t ahead = 16 * j->row_bytes;
	const __m512i step = row_steps(row);
	__m512 y = _mm512_setzero_ps();
	__m512i a, b;

	for (int32_t g = 0; g + 2 <= groups; g += 2) {
		const size_t at = (size_t)g * sizeof(struct block_q8_0);

		sums_q8_0(&a, &b, row, j->x, g, true, ahead);
		y = add_group(y, a, low_halves(gather_rows(row[0], step, at)), j->x, g);
		y = add_group(y, b, low_halves(gather_rows(row[0], step, at + sizeof(struct block_q8_0))), j->x, g + 1);
	}
	if (groups & 1) {
		const int32_t g = groups - 1;

		sums_q8_0(&a, &b, row, j->x, g, false, ahead);
		y = add_group(y, a, low_halves(gather_rows(row[0], step, (size_t)g * sizeof(struct block_q8_0))), j->x, g);
	}
	return y;
}

/* ------------------------------------------------------------------ IQ2_XXS */

/* Eighth c of the eight groups of a block side by side, as iq2_codes() gives the weights. */
static void eighths_first(int8_t *to, const int8_t *q, int32_t n)
{
	for (int32_t b = 0; b < n; b += 256)
		for (int g = 0; g < 8; g++)
			for (int c = 0; c < 4; c++)
				memcpy(to + b + 64 * c + 8 * g, q + b + 32 * g + 8 * c, 8);
}

static __m512 strip_iq2_xxs(const uint8_t *const row[16], const struct dot_job *j)
{
	const int8_t *q = j->work;
	const struct iq2_context c = iq2_context(iq2_tables_avx512());
	const size_t ahead = 16 * j->row_bytes;
	const __m512i step = row_steps(row);
	__m512 y = _mm512_setzero_ps();

	for (int32_t k = 0; k < j->in / 256; k++, q += 256) {
		const size_t at = (size_t)k * sizeof(struct block_iq2_xxs);
		__m512i sum[16], groups[16], out[8];
		__m512 scale[8];

		for (int r = 0; r < 16; r += 2) {
			__m512i a[4], b[4], za = _mm512_setzero_si512(), zb = za;

			groups[r] = load512(row[r] + at + 2);
			groups[r + 1] = load512(row[r + 1] + at + 2);
			_mm_prefetch((const char *)(row[r] + at + ahead), _MM_HINT_T0);
			_mm_prefetch((const char *)(row[r + 1] + at + ahead), _MM_HINT_T0);
			iq2_codes_of_two(a, b, &c, groups[r], groups[r + 1]);
			for (int e = 0; e < 4; e++) {
				za = _mm512_dpbusd_epi32(za, a[e], load512(q + 64 * e));
				zb = _mm512_dpbusd_epi32(zb, b[e], load512(q + 64 * e));
			}
			sum[r] = za;
			sum[r + 1] = zb;
		}
		iq2_scales(scale, groups, low_halves(gather_rows(row[0], step, at)));
		eight_of_rows(out, sum, true);
		for (int g = 0; g < 8; g++)
			y = add_group(y, out[g], scale[g], j->x, 8 * k + g);
	}
	return y;
}

/* ------------------------------------------------------------------ Q2_K and Q4_K */

/* Groups in the order of k_codes(): pairs (k, k + 4), or (0, 2) (1, 3) (4, 6) (5, 7). */
static void pairs_first(int8_t *to, const int8_t *q, int32_t n, enum dtype type)
{
	static const int8_t q4[8] = {0, 2, 1, 3, 4, 6, 5, 7}, q2[8] = {0, 4, 1, 5, 2, 6, 3, 7};
	const int8_t *from = type == DTYPE_Q4_K ? q4 : q2;

	for (int32_t b = 0; b < n; b += 256)
		for (int g = 0; g < 8; g++)
			memcpy(to + b + 32 * g, q + b + 32 * from[g], 32);
}

static __m512 strip_k(const uint8_t *const row[16], const struct dot_job *j, enum dtype type)
{
	const size_t bytes = type == DTYPE_Q4_K ? sizeof(struct block_q4_k) : sizeof(struct block_q2_k);
	const size_t halves = type == DTYPE_Q4_K ? 0 : 80, ahead = 16 * j->row_bytes;
	const __m512i step = row_steps(row);
	const int8_t *q = j->work;
	__m512 y = _mm512_setzero_ps();

	for (int32_t k = 0; k < j->in / 256; k++, q += 256) {
		const size_t at = (size_t)k * bytes;
		__m512i sum[16], mins[8], d = gather_rows(row[0], step, at + halves), m = _mm512_setzero_si512();
		const __m512 xd = _mm512_set1_ps(j->x->d[8 * k]);

		for (int r = 0; r < 16; r++) {
			struct k_codes e;
			__m512i za = _mm512_setzero_si512(), zb = za;

			_mm_prefetch((const char *)(row[r] + at + ahead), _MM_HINT_T0);
			if (type == DTYPE_Q4_K)
				_mm_prefetch((const char *)(row[r] + at + ahead + 64), _MM_HINT_T0);
			k_codes(&e, row[r] + at, type);
			for (int i = 0; i < 4; i += 2) {
				za = _mm512_dpwssd_epi32(za, _mm512_maddubs_epi16(e.code[i], load512(q + 64 * i)),
				                         e.scale[i]);
				zb = _mm512_dpwssd_epi32(zb, _mm512_maddubs_epi16(e.code[i + 1], load512(q + 64 * i + 64)),
				                         e.scale[i + 1]);
			}
			sum[r] = _mm512_add_epi32(za, zb);
		}
		k_mins(mins, row, at, type);
		for (int i = 0; i < 8; i++) {
			int32_t pair;

			memcpy(&pair, j->x->sum + 16 * k + 2 * i, sizeof pair);
			m = _mm512_dpwssd_epi32(m, mins[i], _mm512_set1_epi32(pair));
		}
		y = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum_each(sum)), xd), low_halves(d), y);
		y = _mm512_fnmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(m), xd), high_halves(d), y);
	}
	return y;
}

static __m512 strip_q2_k(const uint8_t *const row[16], const struct dot_job *j)
{
	return strip_k(row, j, DTYPE_Q2_K);
}

static __m512 strip_q4_k(const uint8_t *const row[16], const struct dot_job *j)
{
	return strip_k(row, j, DTYPE_Q4_K);
}

/* ------------------------------------------------------------------ the matrix */

void row_matrix_avx512(const struct dot_job *j, enum dtype type)
{
	__m512 (*strip)(const uint8_t *const row[16], const struct dot_job *j);

	switch (type) {
	case DTYPE_IQ2_XXS:
		strip = strip_iq2_xxs;
		eighths_first(j->work, j->x->q, j->in);
		break;
	case DTYPE_Q2_K:
	case DTYPE_Q4_K:
		strip = type == DTYPE_Q2_K ? strip_q2_k : strip_q4_k;
		pairs_first(j->work, j->x->q, j->in, type);
		break;
	default:
		strip = strip_q8_0;
	}
	for (int32_t r = 0; r < j->rows; r += 16) {
		const uint8_t *row[16];

		strip_rows(row, j->w + (size_t)r * j->row_bytes, j->row_bytes, j->rows - r);
		_mm512_mask_storeu_ps(j->y + r, strip_mask(j->rows - r), strip(row, j));
	}
}
