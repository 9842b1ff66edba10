/* dtype.h - the element types a model file may hold, as one table. */
#ifndef DS4_QUANT_DTYPE_H
#define DS4_QUANT_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DTYPE_MAP(X)                                                           \
	/* code            name      GGUF id  elements per block  bytes per block */ \
	X(DTYPE_F32,      "F32",      0,   1,   4)                             \
	X(DTYPE_F16,      "F16",      1,   1,   2)                             \
	X(DTYPE_Q8_0,     "Q8_0",     8,   32,  34)                            \
	X(DTYPE_Q2_K,     "Q2_K",     10,  256, 84)                            \
	X(DTYPE_Q4_K,     "Q4_K",     12,  256, 144)                           \
	X(DTYPE_IQ2_XXS,  "IQ2_XXS",  16,  256, 66)                            \
	X(DTYPE_I32,      "I32",      26,  1,   4)                             \
	X(DTYPE_BF16,     "BF16",     30,  1,   2)

enum dtype {
#define X(code, name, id, elements, bytes) code,
	DTYPE_MAP(X)
#undef X
	DTYPE_COUNT
};

struct dtype_info {
	const char *name;
	uint32_t gguf_id;
	uint32_t block_elements, block_bytes;
};

const struct dtype_info *dtype_info(enum dtype t);
bool dtype_from_gguf(enum dtype *out, uint32_t gguf_id);

/* Bytes of n consecutive elements; n must be a multiple of the block length. */
static inline size_t dtype_bytes(enum dtype t, size_t n)
{
	const struct dtype_info *d = dtype_info(t);

	return n / d->block_elements * d->block_bytes;
}

#endif
