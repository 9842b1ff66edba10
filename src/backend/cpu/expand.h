/* expand.h - blocks of 256 weights as bytes and scales, in plain C: for dot_scalar.c and the NEON files.
 *
 * Source: docs/formats/gguf.md, quant/quant.c. */
#ifndef DS4_BACKEND_CPU_EXPAND_H
#define DS4_BACKEND_CPU_EXPAND_H

#include <string.h>

#include "quant/blocks.h"
#include "quant/half.h"
#include "quant/quant.h"

static inline float add_lanes8(const float *a)
{
	return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

/* A block in one form for all: element = d * scale * code - dmin * min. */
struct expanded {
	float d, dmin;
	int16_t scale[16];	/* per 16 elements, or the first 8 per 32 */
	int16_t min[16];	/* likewise */
	int8_t code[256];
};

static inline void expand_q2_k(struct expanded *e, const struct block_q2_k *b)
{
	e->d = f16_to_f32(b->d);
	e->dmin = f16_to_f32(b->dmin);
	for (int i = 0; i < 16; i++) {
		e->scale[i] = b->scale_min[i] & 15;
		e->min[i] = b->scale_min[i] >> 4;
	}
	for (int half = 0; half < 2; half++)
		for (int k = 0; k < 4; k++)
			for (int i = 0; i < 32; i++)
				e->code[128 * half + 32 * k + i] = b->q[32 * half + i] >> 2 * k & 3;
}

static inline void expand_q4_k(struct expanded *e, const struct block_q4_k *b)
{
	e->d = f16_to_f32(b->d);
	e->dmin = f16_to_f32(b->dmin);
	for (int i = 0; i < 4; i++) {
		e->scale[i] = b->s[i] & 63;
		e->min[i] = b->s[i + 4] & 63;
		e->scale[i + 4] = (int16_t)((b->s[i + 8] & 15) | b->s[i] >> 6 << 4);
		e->min[i + 4] = (int16_t)(b->s[i + 8] >> 4 | b->s[i + 4] >> 6 << 4);
	}
	for (int k = 0; k < 4; k++)
		for (int i = 0; i < 32; i++) {
			e->code[64 * k + i] = b->q[32 * k + i] & 15;
			e->code[64 * k + 32 + i] = (int8_t)(b->q[32 * k + i] >> 4);
		}
}

/* Eight magnitudes in one word; the sign bits select bytes to negate (no byte carries: magnitudes are 8..43). */
static inline uint64_t negate_bytes(uint64_t magnitude, uint8_t signs)
{
	uint64_t bit = signs * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
	uint64_t one = (bit + UINT64_C(0x7F7F7F7F7F7F7F7F)) >> 7 & UINT64_C(0x0101010101010101);

	return (magnitude ^ one * 255) + one;
}

static inline void expand_iq2_xxs(struct expanded *e, const struct block_iq2_xxs *b)
{
	e->d = f16_to_f32(b->d) * 0.125f;	/* (0.5 + s) * 0.25 = (2 s + 1) / 8 */
	for (int g = 0; g < 8; g++) {
		uint32_t word;

		memcpy(&word, b->group[g] + 4, sizeof word);
		e->scale[g] = (int16_t)(2 * (word >> 28) + 1);
		for (int k = 0; k < 4; k++) {
			uint64_t v;

			memcpy(&v, iq2_xxs_grid[b->group[g][k]], sizeof v);
			v = negate_bytes(v, iq2_xxs_sign(word >> 7 * k & 127));
			memcpy(e->code + 32 * g + 8 * k, &v, sizeof v);
		}
	}
}

#endif
