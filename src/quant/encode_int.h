/* encode_int.h - the searches behind quant_encode(), once for each instruction set, and the vector they are
 * written in.
 *
 * A vector is 8 floats.  In a search a lane is a candidate (a scale, a codebook entry), not an element:
 * sums run over the elements in their order, so no result depends on the width of the machine's registers. */
#ifndef DS4_QUANT_ENCODE_INT_H
#define DS4_QUANT_ENCODE_INT_H

#include <stdint.h>

#include "quant/blocks.h"

enum { LANES = 8 };

typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));

/* The IQ2_XXS codebook by element: magnitude and its square of entry 8 * v + lane. */
struct iq2_tables {
	v8f g[8][32], g2[8][32];
};

struct encoders {
	/* One block each: x and w have as many elements, w is NULL for equal weights. */
	void (*q8_0)(struct block_q8_0 *out, const float *x, const float *w);
	void (*q2_k)(struct block_q2_k *out, const float *x, const float *w);
	void (*q4_k)(struct block_q4_k *out, const float *x, const float *w);
	void (*iq2_xxs)(struct block_iq2_xxs *out, const float *x, const float *w,
	                const struct iq2_tables *tables);
};

extern const struct encoders encoders_base, encoders_avx2;

#endif
