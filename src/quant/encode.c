/* encode.c - float to block: the plain types here, the searches through a table chosen for the machine.
 *
 * What  quant_encode() and the check that comes before it.
 * Why   The searches are some hundred times the work of a cast; they are written once (encode_iq2_int.h,
 *       encode_k_int.h) and compiled for more than one instruction set (encode_base.c, encode_avx2.c).
 * Careful
 *       - The tables of the codebook are built for each call: 2,048 values against millions of operations a
 *         row.
 *       - A cast to F16 rounds to nearest even; 65520 and above would become infinite. */
#include "quant/encode.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "quant/encode_int.h"
#include "quant/half.h"
#include "quant/quant.h"

static const struct encoders *encoders(void)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		return &encoders_avx2;
#endif
	return &encoders_base;
}

static void fill_tables(struct iq2_tables *t)
{
	for (int e = 0; e < 256; e++)
		for (int m = 0; m < 8; m++) {
			float g = iq2_xxs_grid[e][m];

			t->g[m][e / LANES][e % LANES] = g;
			t->g2[m][e / LANES][e % LANES] = g * g;
		}
}

static void encode_iq2_xxs(struct block_iq2_xxs *dst, const float *x, const float *w, size_t blocks)
{
	const struct encoders *e = encoders();
	struct iq2_tables tables;

	fill_tables(&tables);
	for (size_t i = 0; i < blocks; i++)
		e->iq2_xxs(&dst[i], x + 256 * i, w ? w + 256 * i : NULL, &tables);
}

static void encode_plain(uint8_t *dst, const float *x, enum dtype t, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t half = t == DTYPE_F16 ? f16_from_f32(x[i]) : bf16_from_f32(x[i]);
		int32_t integer;

		if (t == DTYPE_F32)
			memcpy(dst + 4 * i, &x[i], sizeof x[i]);
		else if (t == DTYPE_I32) {
			integer = (int32_t)rintf(x[i]);
			memcpy(dst + 4 * i, &integer, sizeof integer);
		} else
			memcpy(dst + 2 * i, &half, sizeof half);
	}
}

void quant_encode(void *dst, const float *x, const float *w, enum dtype t, size_t n)
{
	const struct encoders *e = encoders();
	const struct dtype_info *type = dtype_info(t);
	size_t step = type->block_elements;
	uint8_t *p = dst;

	assert(n % step == 0);
	if (step == 1) {
		encode_plain(dst, x, t, n);
		return;
	}
	if (t == DTYPE_IQ2_XXS) {
		encode_iq2_xxs(dst, x, w, n / step);
		return;
	}
	for (size_t i = 0; i < n; i += step, p += type->block_bytes) {
		const float *wi = w ? w + i : NULL;

		if (t == DTYPE_Q8_0)
			e->q8_0((void *)p, x + i, wi);
		else if (t == DTYPE_Q2_K)
			e->q2_k((void *)p, x + i, wi);
		else
			e->q4_k((void *)p, x + i, wi);
	}
}

size_t encode_fits(const float *x, enum dtype t, size_t n)
{
	float top = t == DTYPE_F16 ? 65519.996f : t == DTYPE_I32 ? 2147483520.0f : 3.4028235e38f;

	for (size_t i = 0; i < n; i++)
		if (!(fabsf(x[i]) <= top))
			return i;
	return n;
}
