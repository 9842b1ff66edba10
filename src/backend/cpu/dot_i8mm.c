/* dot_i8mm.c - the table for 64-bit ARM with int8 matrix products: smmla, two rows by two rows over eight values.
 *
 * How   Two weight rows and two activation rows at a time: each instruction is 32 products, twice what sdot does. */
#define NEON_ROWS 2
#define NEON_X 2
#include "backend/cpu/neon.h"

static inline void sums16(int32_t out[][16], const int8_t *const code[NEON_ROWS], const int8_t *const q[NEON_X], int pieces)
{
	for (int k = 0; k < pieces; k++) {
		int8x16_t w0 = vld1q_s8(code[0] + 16 * k), w1 = vld1q_s8(code[1] + 16 * k);
		int8x16_t x0 = vld1q_s8(q[0] + 16 * k), x1 = vld1q_s8(q[1] + 16 * k);
		int8x16_t wl = vcombine_s8(vget_low_s8(w0), vget_low_s8(w1));
		int8x16_t wh = vcombine_s8(vget_high_s8(w0), vget_high_s8(w1));
		int8x16_t xl = vcombine_s8(vget_low_s8(x0), vget_low_s8(x1));
		int8x16_t xh = vcombine_s8(vget_high_s8(x0), vget_high_s8(x1));
		int32x4_t s = vmmlaq_s32(vmmlaq_s32(vdupq_n_s32(0), wl, xl), wh, xh);

		out[0][k] = vgetq_lane_s32(s, 0);	/* weight row 0: activation rows 0, 1; then weight row 1 */
		out[1][k] = vgetq_lane_s32(s, 1);
		out[2][k] = vgetq_lane_s32(s, 2);
		out[3][k] = vgetq_lane_s32(s, 3);
	}
}

const struct dot_table *dot_i8mm(void)
{
	static struct dot_table table;

	if (!table.name)
		table = neon_table("neon-i8mm");
	return &table;
}
