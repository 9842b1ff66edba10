/* lanes_avx512.h - moving values between "one vector per weight row" and "one lane per weight row".
 *
 * The AVX-512 and AMX files work on strips of 16 weight rows: lane r of a vector belongs to row r, so the float
 * part of a product is the same few instructions for one activation row and for many.  Here is what brings
 * blocks, sums and scales of 16 rows into that form.
 * Careful: row[16] may name a row twice, when a matrix ends inside a strip. */
#ifndef DS4_BACKEND_CPU_LANES_AVX512_H
#define DS4_BACKEND_CPU_LANES_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/panel.h"
#include "quant/blocks.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m512i load512(const void *p)
{
	return _mm512_loadu_si512(p);
}

/* out[j], lane r = dword j of the 16 bytes at row r + at. */
INLINE void columns16(__m512i out[4], const uint8_t *const row[16], size_t at)
{
	__m512i z[4], lo01, hi01, lo23, hi23;

	for (int r = 0; r < 4; r++) {
		z[r] = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)(row[r] + at)));
		z[r] = _mm512_mask_broadcast_i32x4(z[r], 0x00F0, _mm_loadu_si128((const void *)(row[r + 4] + at)));
		z[r] = _mm512_mask_broadcast_i32x4(z[r], 0x0F00, _mm_loadu_si128((const void *)(row[r + 8] + at)));
		z[r] = _mm512_mask_broadcast_i32x4(z[r], 0xF000, _mm_loadu_si128((const void *)(row[r + 12] + at)));
	}
	lo01 = _mm512_unpacklo_epi32(z[0], z[1]);
	hi01 = _mm512_unpackhi_epi32(z[0], z[1]);
	lo23 = _mm512_unpacklo_epi32(z[2], z[3]);
	hi23 = _mm512_unpackhi_epi32(z[2], z[3]);
	out[0] = _mm512_unpacklo_epi64(lo01, lo23);
	out[1] = _mm512_unpackhi_epi64(lo01, lo23);
	out[2] = _mm512_unpacklo_epi64(hi01, hi23);
	out[3] = _mm512_unpackhi_epi64(hi01, hi23);
}

/* v[i] = rows 4i..4i+3 in each quarter, every quarter the sum of its four lanes. */
INLINE void sum_quarters(__m512i v[4], const __m512i z[16])
{
	for (int i = 0; i < 4; i++) {
		const __m512i *a = z + 4 * i;
		__m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
		__m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));

		v[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
	}
}

/* Quarters 0 and 2 of both plus quarters 1 and 3 of both: [a01, a23, b01, b23]. */
INLINE __m512i add_quarter_pairs(__m512i a, __m512i b)
{
	return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
}

/* Lane r = the sum of all lanes of z[r]. */
INLINE __m512i sum_each(const __m512i z[16])
{
	__m512i v[4];

	sum_quarters(v, z);
	return add_quarter_pairs(add_quarter_pairs(v[0], v[1]), add_quarter_pairs(v[2], v[3]));
}

/* low, lane r = the sum of the low half of z[r]; high likewise. */
INLINE void sum_halves(__m512i *low, __m512i *high, const __m512i z[16])
{
	__m512i v[4], a, b;

	sum_quarters(v, z);
	a = add_quarter_pairs(v[0], v[1]);
	b = add_quarter_pairs(v[2], v[3]);
	*low = _mm512_shuffle_i32x4(a, b, 0x88);
	*high = _mm512_shuffle_i32x4(a, b, 0xDD);
}

/* v[p], quarter i = dwords (2i, 2i + 1) of row a, then of row b, with (a, b) = (p, p + 4) for p < 4 and
 * (p + 4, p + 8) above: becomes out[g], lane r = dword g of row r. */
INLINE void rows_of_eight(__m512i out[8], const __m512i v[8])
{
	__m512i even[4], odd[4];	/* [i] quarter q = dword 2q (2q + 1) of rows 4i..4i+3 */

	for (int h = 0; h < 2; h++) {
		const __m512i *w = v + 4 * h;
		__m512i a01 = _mm512_unpacklo_epi32(w[0], w[1]), b01 = _mm512_unpackhi_epi32(w[0], w[1]);
		__m512i a23 = _mm512_unpacklo_epi32(w[2], w[3]), b23 = _mm512_unpackhi_epi32(w[2], w[3]);

		even[2 * h] = _mm512_unpacklo_epi64(a01, a23);
		odd[2 * h] = _mm512_unpackhi_epi64(a01, a23);
		even[2 * h + 1] = _mm512_unpacklo_epi64(b01, b23);
		odd[2 * h + 1] = _mm512_unpackhi_epi64(b01, b23);
	}
	for (int k = 0; k < 2; k++) {
		const __m512i *w = k ? odd : even;
		__m512i low01 = _mm512_shuffle_i32x4(w[0], w[1], 0x44), high01 = _mm512_shuffle_i32x4(w[0], w[1], 0xEE);
		__m512i low23 = _mm512_shuffle_i32x4(w[2], w[3], 0x44), high23 = _mm512_shuffle_i32x4(w[2], w[3], 0xEE);

		out[k] = _mm512_shuffle_i32x4(low01, low23, 0x88);
		out[2 + k] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
		out[4 + k] = _mm512_shuffle_i32x4(high01, high23, 0x88);
		out[6 + k] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
	}
}

/* out[g], lane r = dwords 2g and 2g + 1 of z[r] added (sum), or dword 2g + 1 alone. */
INLINE void eight_of_rows(__m512i out[8], const __m512i z[16], bool sum)
{
	__m512i v[8];

	for (int p = 0; p < 8; p++) {
		__m512 a = _mm512_castsi512_ps(z[p < 4 ? p : p + 4]), b = _mm512_castsi512_ps(z[p < 4 ? p + 4 : p + 8]);
		__m512i odd = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xDD));

		v[p] = sum ? _mm512_add_epi32(odd, _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88))) : odd;
	}
	rows_of_eight(out, v);
}

/* The dwords at row r + at, in lane r.  step: distances of the rows from row[0]. */
INLINE __m512i gather_rows(const uint8_t *row0, __m512i step, size_t at)
{
	return _mm512_i32gather_epi32(step, row0 + at, 1);
}

INLINE __m512i row_steps(const uint8_t *const row[16])
{
	_Alignas(64) int32_t step[16];

	for (int r = 0; r < 16; r++)
		step[r] = (int32_t)(row[r] - row[0]);
	return _mm512_load_si512(step);
}

/* The low (high) half of each lane as a half-precision number. */
INLINE __m512 low_halves(__m512i v)
{
	return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

INLINE __m512 high_halves(__m512i v)
{
	return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
}

/* The 16 rows of a strip that begins at `w` and has `rows` of them; the last one again where there are fewer. */
INLINE void strip_rows(const uint8_t *row[16], const uint8_t *w, size_t row_bytes, int32_t rows)
{
	for (int32_t r = 0; r < 16; r++)
		row[r] = w + (size_t)(r < rows ? r : rows - 1) * row_bytes;
}

INLINE __mmask16 strip_mask(int32_t rows)
{
	return (__mmask16)(rows >= 16 ? 0xFFFF : rows <= 0 ? 0 : (1u << rows) - 1);
}

/* ------------------------------------------------------------------ IQ2_XXS */

/* The codebook as bits: entry e has eight numbers 0, 1, 2 (for 8, 25, 43); bit m of high[e] and low[e] are the two
 * bits of number m. */
struct iq2_tables {
	_Alignas(64) uint8_t high[256], low[256];
	uint8_t value[4][64];		/* 128 + weight by index, for each eighth of a group */
};

extern const struct iq2_tables *iq2_tables_avx512(void);

struct iq2_context {
	__m512i high[4], low[4], value[4], unit, parity, fields, low2, mid2, top2;
};

INLINE struct iq2_context iq2_context(const struct iq2_tables *t)
{
	struct iq2_context c;

	for (int i = 0; i < 4; i++) {
		c.high[i] = load512(t->high + 64 * i);
		c.low[i] = load512(t->low + 64 * i);
		c.value[i] = load512(t->value[i]);
	}
	c.unit = _mm512_set1_epi64((long long)0x8040201008040201);	/* byte m = bit m */
	/* Output bit i of a byte is the parity of (row i & byte): bits 0..6 copied, bit 7 the parity of those. */
	c.parity = _mm512_set1_epi64(0x010204081020407F);
	/* The 7-bit sign fields of eighths 0, 3, 1, 2 in bytes 4..7. */
	c.fields = _mm512_set1_epi64(0x2E27352020202020);
	c.low2 = _mm512_set1_epi8(0x03);
	c.mid2 = _mm512_set1_epi8(0x0C);
	c.top2 = _mm512_set1_epi8(0x30);
	return c;
}

/* One plane of 64 entries: the index's low six bits choose in a table of 64, the upper two the table. */
INLINE __m512i iq2_plane(const __m512i table[4], __m512i index, __mmask64 bit6, __mmask64 bit7)
{
	__m512i v = _mm512_permutexvar_epi8(index, table[0]);

	v = _mm512_mask_permutexvar_epi8(v, bit6 & ~bit7, index, table[1]);
	v = _mm512_mask_permutexvar_epi8(v, bit7 & ~bit6, index, table[2]);
	return _mm512_mask_permutexvar_epi8(v, bit6 & bit7, index, table[3]);
}

/* 128 + weight: code[c] = eighth c of each of the eight groups.  entries: four codebook entries of each group, as the
 * bytes (high, low) of each. */
INLINE void iq2_codes(__m512i code[4], const struct iq2_context *c, __m512i groups, __m512i entries)
{
	/* A product with the unit matrix's rows as data transposes 8 x 8 bits: byte m then has the numbers m of entries
	 * 0..3 in bits 7:6, 5:4, 3:2, 1:0, and of the signs: eighth 3 in bit 2, 2 in bit 0, 1 in bit 1, 0 in bit 3. */
	__m512i number = _mm512_gf2p8affine_epi64_epi8(c->unit, entries, 0);
	__m512i sign = _mm512_gf2p8affine_epi64_epi8(_mm512_multishift_epi64_epi8(c->fields, groups), c->parity, 0);

	sign = _mm512_gf2p8affine_epi64_epi8(c->unit, sign, 0);
	/* 0xCA: bits of the second where the first has ones, else of the third. */
	code[3] = _mm512_permutexvar_epi8(_mm512_ternarylogic_epi64(c->low2, number, sign, 0xCA), c->value[3]);
	code[2] = _mm512_permutexvar_epi8(_mm512_ternarylogic_epi64(c->mid2, number, sign, 0xCA), c->value[2]);
	code[1] = _mm512_permutexvar_epi8(_mm512_ternarylogic_epi64(c->top2, number, sign, 0xCA), c->value[1]);
	number = _mm512_srli_epi16(number, 2);
	code[0] = _mm512_permutexvar_epi8(_mm512_ternarylogic_epi64(c->top2, number, sign, 0xCA), c->value[0]);
}

/* The codes of two blocks: their 64 indices are looked up together. */
INLINE void iq2_codes_of_two(__m512i a[4], __m512i b[4], const struct iq2_context *c, __m512i group_a, __m512i group_b)
{
	__m512i index = _mm512_castps_si512(
		_mm512_shuffle_ps(_mm512_castsi512_ps(group_a), _mm512_castsi512_ps(group_b), 0x88));
	__mmask64 bit7 = _mm512_movepi8_mask(index), bit6 = _mm512_movepi8_mask(_mm512_add_epi8(index, index));
	__m512i high = iq2_plane(c->high, index, bit6, bit7), low = iq2_plane(c->low, index, bit6, bit7);

	iq2_codes(a, c, group_a, _mm512_unpacklo_epi8(high, low));
	iq2_codes(b, c, group_b, _mm512_unpackhi_epi8(high, low));
}

/* scale[g], lane r = d (2 s + 1) / 8 of group g of row r.  groups[r]: the 64 bytes of a row's block. */
INLINE void iq2_scales(__m512 scale[8], const __m512i groups[16], __m512 d)
{
	const __m512 step = _mm512_mul_ps(d, _mm512_set1_ps(0.25f)), half = _mm512_mul_ps(d, _mm512_set1_ps(0.125f));
	__m512i top[8];

	eight_of_rows(top, groups, false);
	for (int g = 0; g < 8; g++)	/* exact: five bits times eleven */
		scale[g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(top[g], 28)), step, half);
}

/* ------------------------------------------------------------------ Q2_K and Q4_K */

/* A block's codes, two groups of 32 in each vector, and their sub-scales in all int16 of a quarter. */
struct k_codes {
	__m512i code[4], scale[4];
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

/* The 6-bit scales of a Q4_K block in bytes 0..7, its minimums in bytes 8..15. */
INLINE __m128i q4_k_scales(const struct block_q4_k *b)
{
	uint32_t s[3];

	memcpy(s, b->s, sizeof s);
	return _mm_setr_epi32((int)(s[0] & 0x3F3F3F3F), (int)((s[2] & 0x0F0F0F0F) | (s[0] >> 6 & 0x03030303) << 4),
	                      (int)(s[1] & 0x3F3F3F3F), (int)((s[2] >> 4 & 0x0F0F0F0F) | (s[1] >> 6 & 0x03030303) << 4));
}

INLINE void k_codes(struct k_codes *e, const uint8_t *block, enum dtype type)
{
	if (type == DTYPE_Q2_K) {	/* code[k] = groups k, k + 4: two bits at 2 k of 64 bytes */
		const struct block_q2_k *b = (const void *)block;
		const __m512i three = _mm512_set1_epi8(3);
		__m512i q = load512(b->q), s = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)b->scale_min));

		s = _mm512_and_si512(s, _mm512_set1_epi8(15));
		e->code[0] = _mm512_and_si512(q, three);
		e->code[1] = _mm512_and_si512(_mm512_srli_epi16(q, 2), three);
		e->code[2] = _mm512_and_si512(_mm512_srli_epi16(q, 4), three);
		e->code[3] = _mm512_and_si512(_mm512_srli_epi16(q, 6), three);
		e->scale[0] = four_bytes(s, 0, 1, 8, 9);
		e->scale[1] = four_bytes(s, 2, 3, 10, 11);
		e->scale[2] = four_bytes(s, 4, 5, 12, 13);
		e->scale[3] = four_bytes(s, 6, 7, 14, 15);
	} else {			/* bytes 32 k.. hold group 2k in their low nibbles and 2k + 1 in the high ones */
		const struct block_q4_k *b = (const void *)block;
		const __m512i low = _mm512_set1_epi8(15);
		__m512i s = _mm512_broadcast_i32x4(q4_k_scales(b)), q0 = load512(b->q), q1 = load512(b->q + 64);

		e->code[0] = _mm512_and_si512(q0, low);
		e->code[1] = _mm512_and_si512(_mm512_srli_epi16(q0, 4), low);
		e->code[2] = _mm512_and_si512(q1, low);
		e->code[3] = _mm512_and_si512(_mm512_srli_epi16(q1, 4), low);
		e->scale[0] = four_bytes(s, 0, 0, 2, 2);
		e->scale[1] = four_bytes(s, 1, 1, 3, 3);
		e->scale[2] = four_bytes(s, 4, 4, 6, 6);
		e->scale[3] = four_bytes(s, 5, 5, 7, 7);
	}
}

/* The 16 bytes of scales and minimums of the rows' blocks, four to a lane. */
INLINE void k_scale_bytes(__m512i v[4], const uint8_t *const row[16], size_t at, enum dtype type)
{
	if (type == DTYPE_Q2_K) {
		columns16(v, row, at);
	} else {
		_Alignas(64) __m128i bytes[16];
		const uint8_t *from[16];

		for (int r = 0; r < 16; r++) {
			bytes[r] = q4_k_scales((const void *)(row[r] + at));
			from[r] = (const uint8_t *)&bytes[r];
		}
		columns16(v, from, 0);
	}
}

/* Selects bytes a and b of each lane as two int16. */
#define QUAD_BYTES(a, b)                                                                                          \
	_mm512_broadcast_i32x4(_mm_setr_epi8(a, -1, b, -1, 4 + (a), -1, 4 + (b), -1, 8 + (a), -1, 8 + (b), -1,    \
	                                     12 + (a), -1, 12 + (b), -1))

/* mins[i] = the minimums that meet sums 2i and 2i + 1 of a block, as a pair of int16 in the row's lane. */
INLINE void k_mins(__m512i mins[8], const uint8_t *const row[16], size_t at, enum dtype type)
{
	__m512i v[4];

	k_scale_bytes(v, row, at, type);
	if (type == DTYPE_Q2_K)
		for (int i = 0; i < 4; i++) {
			__m512i m = _mm512_and_si512(_mm512_srli_epi16(v[i], 4), _mm512_set1_epi8(15));

			mins[2 * i] = _mm512_shuffle_epi8(m, QUAD_BYTES(0, 1));
			mins[2 * i + 1] = _mm512_shuffle_epi8(m, QUAD_BYTES(2, 3));
		}
	else
		for (int i = 0; i < 8; i++) {
			const __m512i each[4] = {QUAD_BYTES(0, 0), QUAD_BYTES(1, 1), QUAD_BYTES(2, 2), QUAD_BYTES(3, 3)};

			mins[i] = _mm512_shuffle_epi8(v[2 + i / 4], each[i % 4]);
		}
}

#endif
