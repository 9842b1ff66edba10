/* dot_dotprod.c - the table for 64-bit ARM with the dot-product extension: sdot, four products in each of four lanes. */
#define NEON_ROWS 1
#define NEON_X 1
#include "backend/cpu/neon.h"

static inline void sums16(int32_t out[][16], const int8_t *const code[NEON_ROWS], const int8_t *const q[NEON_X], int pieces)
{
	for (int k = 0; k < pieces; k++)
		out[0][k] = vaddvq_s32(vdotq_s32(vdupq_n_s32(0), vld1q_s8(code[0] + 16 * k), vld1q_s8(q[0] + 16 * k)));
}

const struct dot_table *dot_dotprod(void)
{
	static struct dot_table table;

	if (!table.name)
		table = neon_table("neon-dotprod");
	return &table;
}
