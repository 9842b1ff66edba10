/* quant.c - what the bytes of a block mean: one small decoder for each element type.
 *
 * What  quant_decode() turns stored blocks into floats.  These loops are the definition of the formats; every
 *       kernel of every backend is judged against them.
 * Why   The formats are terse and their sub-blocks interleave in ways that are easy to get almost right.
 * How   One function per type, one formula per element, the indices written as in blocks.h.
 * Careful
 *       - Q2_K keeps its scales in front and d, dmin at the end; Q4_K the other way round.
 *       - Q4_K's sub-blocks 4..7 have their 6-bit numbers split: four low bits in one byte, two high bits on
 *         top of a byte of sub-blocks 0..3.
 *       - IQ2_XXS stores 7 sign bits for 8 elements: the eighth makes the number of minus signs even.
 *       - Each product here is exact in a float (11 bits of d times at most 11 bits of integers), so a result is
 *         rounded at most once, in the subtraction.  Any grouping of the factors, and fused multiply-add, give the same
 *         bits.
 *       - Bytes are read as they lie: the host must be little endian.  src needs the alignment of its block struct.
 * Source: docs/formats/gguf.md. */
#include "quant/quant.h"

#include <assert.h>
#include <string.h>

#include "quant/blocks.h"
#include "quant/half.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "block data is read in place, little endian");

const uint8_t iq2_xxs_grid[256][8] = {
#include "quant/iq2_tables.h"
};

/* x[i] = d * q[i] */
static void decode_q8_0(float *x, const struct block_q8_0 *b)
{
	float d = f16_to_f32(b->d);

	for (int i = 0; i < 32; i++)
		x[i] = d * (float)b->q[i];
}

/* x[i] = d * scale[s] * code[i] - dmin * min[s], sub-block s = i / 16; codes have 2 bits.
 * A half of 128 elements lies in 32 bytes: the four elements of a byte are 32 apart. */
static void decode_q2_k(float *x, const struct block_q2_k *b)
{
	float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);

	for (int i = 0; i < 256; i++) {
		int scale = b->scale_min[i / 16] & 15, min = b->scale_min[i / 16] >> 4;
		int code = b->q[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32) & 3;

		x[i] = d * (float)(scale * code) - dmin * (float)min;
	}
}

/* The 6-bit scale and minimum of sub-block j (0..7). */
static void q4_k_scale_min(const uint8_t s[12], int j, int *scale, int *min)
{
	if (j < 4) {
		*scale = s[j] & 63;
		*min = s[j + 4] & 63;
	} else {
		*scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
		*min = s[j + 4] >> 4 | s[j] >> 6 << 4;
	}
}

/* x[i] = d * scale[j] * code[i] - dmin * min[j], sub-block j = i / 32; codes have 4 bits.
 * A run of 64 elements lies in 32 bytes: first half in the low nibbles, second in the high ones. */
static void decode_q4_k(float *x, const struct block_q4_k *b)
{
	float d = f16_to_f32(b->d), dmin = f16_to_f32(b->dmin);

	for (int i = 0; i < 256; i++) {
		int byte = b->q[32 * (i / 64) + i % 32], code = i % 64 < 32 ? byte & 15 : byte >> 4;
		int scale, min;

		q4_k_scale_min(b->s, i / 32, &scale, &min);
		x[i] = d * (float)(scale * code) - dmin * (float)min;
	}
}

/* x = d * (0.5 + scale) * 0.25 * magnitude * sign.  A group of 32 elements has four codebook entries of 8
 * magnitudes, and a word with four 7-bit sign patterns (low first) below a 4-bit scale. */
static void decode_iq2_xxs(float *x, const struct block_iq2_xxs *b)
{
	float d = f16_to_f32(b->d);

	for (int i = 0; i < 256; i++) {
		const uint8_t *group = b->group[i / 32];
		int k = i % 32 / 8, m = i % 8;
		uint32_t word;
		float magnitude;

		memcpy(&word, group + 4, sizeof word);
		magnitude = d * (0.5f + (float)(word >> 28)) * 0.25f * (float)iq2_xxs_grid[group[k]][m];
		x[i] = iq2_xxs_sign(word >> 7 * k & 127) >> m & 1 ? -magnitude : magnitude;
	}
}

void quant_decode(float *dst, const void *src, enum dtype t, size_t n)
{
	const struct dtype_info *type = dtype_info(t);
	const uint8_t *p = src;

	assert(n % type->block_elements == 0);
	for (size_t i = 0; i < n; i += type->block_elements, p += type->block_bytes) {
		uint16_t half;
		int32_t integer;

		switch (t) {
		case DTYPE_F32:
			memcpy(dst + i, p, sizeof *dst);
			break;
		case DTYPE_F16:
			memcpy(&half, p, sizeof half);
			dst[i] = f16_to_f32(half);
			break;
		case DTYPE_BF16:
			memcpy(&half, p, sizeof half);
			dst[i] = bf16_to_f32(half);
			break;
		case DTYPE_I32:
			memcpy(&integer, p, sizeof integer);
			dst[i] = (float)integer;
			break;
		case DTYPE_Q8_0:
			decode_q8_0(dst + i, (const void *)p);
			break;
		case DTYPE_Q2_K:
			decode_q2_k(dst + i, (const void *)p);
			break;
		case DTYPE_Q4_K:
			decode_q4_k(dst + i, (const void *)p);
			break;
		case DTYPE_IQ2_XXS:
			decode_iq2_xxs(dst + i, (const void *)p);
			break;
		case DTYPE_COUNT:
			break;
		}
	}
}
