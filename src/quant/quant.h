/* quant.h - block -> float for every element type: the definition that all kernels are judged by. */
#ifndef DS4_QUANT_QUANT_H
#define DS4_QUANT_QUANT_H

#include <stddef.h>
#include <stdint.h>

#include "quant/dtype.h"

/* The IQ2_XXS codebook: 256 entries of 8 magnitudes from {8, 25, 43}. */
extern const uint8_t iq2_xxs_grid[256][8];

/* Byte whose bit m says that element m is negative, for a 7-bit pattern: bit 7 is the parity of the others. */
static inline uint8_t iq2_xxs_sign(uint32_t pattern)
{
	return (uint8_t)(pattern | (uint32_t)__builtin_parity(pattern) << 7);
}

/* Decodes n elements (a multiple of the block length) at src into dst[n]; I32 is converted to float.
 * src is aligned to 2 bytes for block types, to anything for the plain ones. */
void quant_decode(float *dst, const void *src, enum dtype t, size_t n);

#endif
