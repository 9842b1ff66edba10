/* blocks.h - the block layouts of GGUF tensors, included unchanged by C, CUDA and Metal hosts.
 *
 * The layouts and the names are those of the GGML project (MIT, see LICENSE); the meaning of each is
 * written as code in quant.c and as text in docs/formats/gguf.md.  All fields are little endian;
 * half values are kept as their 16 bits.  Elements are numbered along the contiguous axis. */
#ifndef DS4_QUANT_BLOCKS_H
#define DS4_QUANT_BLOCKS_H

#include <stdint.h>

struct block_q8_0 {		/* 32 elements: x[i] = d * q[i] */
	uint16_t d;
	int8_t q[32];
};

struct block_q2_k {		/* 256 elements in 16 sub-blocks: x = d * scale * code - dmin * min */
	uint8_t scale_min[16];	/* low nibble scale, high nibble minimum */
	uint8_t q[64];		/* element i: (q[32 * (i / 128) + i % 32] >> 2 * (i % 128 / 32)) & 3 */
	uint16_t d, dmin;
};

struct block_q4_k {		/* 256 elements in 8 sub-blocks: x = d * scale * code - dmin * min */
	uint16_t d, dmin;
	uint8_t s[12];		/* eight 6-bit scales and eight 6-bit minimums, see quant.c */
	uint8_t q[128];		/* element i: byte 32 * (i / 64) + i % 32, low nibble if i % 64 < 32 */
};

struct block_iq2_xxs {		/* 256 elements in 8 groups of 32 */
	uint16_t d;
	uint8_t group[8][8];	/* 4 codebook indices, then u32: four 7-bit sign patterns, 4-bit scale */
};

#ifdef __cplusplus
#define _Static_assert static_assert
#endif
_Static_assert(sizeof(struct block_q8_0) == 34, "Q8_0 block size");
_Static_assert(sizeof(struct block_q2_k) == 84, "Q2_K block size");
_Static_assert(sizeof(struct block_q4_k) == 144, "Q4_K block size");
_Static_assert(sizeof(struct block_iq2_xxs) == 66, "IQ2_XXS block size");

#endif
