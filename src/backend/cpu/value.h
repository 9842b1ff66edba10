/* value.h - numbers as branch-free expressions, so that loops over them become vector code in every dot_*.c.
 *
 * The same text is compiled for each instruction set, without fused multiply-add, so the bits are the same. */
#ifndef DS4_BACKEND_CPU_VALUE_H
#define DS4_BACKEND_CPU_VALUE_H

#include "backend/geom.h"
#include "quant/half.h"

/* f16_to_f32.  (No unsigned comparisons: old vector units lack them.)
 * Subnormals: 2^-14 * (1 + man/1024) - 2^-14 is exact. */
static inline float f16_value(uint16_t h)
{
	int32_t sign = (int32_t)((uint32_t)(h & 0x8000) << 16), rest = (h & 0x7FFF) << 13;
	int32_t tiny = (int32_t)f32_bits(f32_from_bits((uint32_t)rest + (113u << 23)) - 0x1p-14f);
	int32_t bits = rest + (rest >= 0x0F800000 ? 224 << 23 : 112 << 23);

	return f32_from_bits((uint32_t)(sign | (rest < 0x00800000 ? tiny : bits)));
}

/* e4m3_to_f32, with subnormals in the same way. */
static inline float e4m3_value(uint8_t b)
{
	int32_t sign = (int32_t)((uint32_t)(b & 0x80) << 24), rest = (b & 0x7F) << 20;
	int32_t tiny = (int32_t)f32_bits(f32_from_bits((uint32_t)rest + (121u << 23)) - 0x1p-6f);
	int32_t bits = rest + (rest == 0x07F00000 ? 0x7FC00000 - 0x07F00000 : 120 << 23);

	return f32_from_bits((uint32_t)(sign | (rest < 0x00800000 ? tiny : bits)));
}

/* Twice the value of an E2M1 nibble: 0 1 2 3 4 6 8 12, sign in bit 3. */
static inline int32_t e2m1_twice(int32_t nibble)
{
	int32_t code = nibble & 7, v = code < 5 ? code : 2 * code - 4;

	v = code == 7 ? 12 : v;
	return nibble & 8 ? -v : v;
}

/* A packed row's 512 values. */
static inline void row_values(float *x, const uint8_t *code, const uint8_t *rot, const uint8_t *scale)
{
	for (int g = 0; g < GEOM_ROW_SCALES; g++) {
		float s = e8m0_to_f32(scale[g]);

		for (int i = GEOM_FP8_GROUP * g; i < GEOM_FP8_GROUP * (g + 1); i++)
			x[i] = e4m3_value(code[i]) * s;
	}
	for (int i = 0; i < GEOM_ROT; i++)
		x[GEOM_PLAIN + i] = f16_value((uint16_t)(rot[2 * i] | rot[2 * i + 1] << 8));
}

/* A packed key's 128 values. */
static inline void key_values(float *x, const uint8_t *pair, const uint8_t *scale)
{
	for (int g = 0; g < GEOM_KEY_SCALES; g++) {
		float s = 0.5f * e8m0_to_f32(scale[g]);

		for (int i = 16 * g; i < 16 * (g + 1); i++) {
			x[2 * i] = (float)e2m1_twice(pair[i] & 15) * s;
			x[2 * i + 1] = (float)e2m1_twice(pair[i] >> 4) * s;
		}
	}
}

/* e^x within 2 units of the last place for |x| <= 60, and e^-60 or e^60 beyond; NaN stays.
 * Where it is used (softmax, sigmoid) 1e-26 is as good as zero, and nothing comes near the subnormal numbers,
 * which cost a hundred cycles each. x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its series; 2^n through the
 * exponent bits. */
static inline float exp_f32(float x)
{
	float n, r, p;
	uint32_t bits;

	x = x < -60.0f ? -60.0f : x;
	x = x > 60.0f ? 60.0f : x;
	n = x * 1.44269504f + 12582912.0f;	/* adding 1.5 * 2^23 rounds to an integer, now in the low bits */
	bits = f32_bits(n);
	n -= 12582912.0f;
	r = x - n * 0.693359375f - n * -2.12194440e-4f;
	p = 1.98412698e-4f;
	p = p * r + 1.38888889e-3f;
	p = p * r + 8.33333333e-3f;
	p = p * r + 4.16666667e-2f;
	p = p * r + 1.66666667e-1f;
	p = p * r + 0.5f;
	p = p * (r * r) + r + 1.0f;
	return p * f32_from_bits((bits << 23) + 0x3F800000u);
}

static inline float sigmoid_f32(float z)
{
	return 1.0f / (1.0f + exp_f32(-z));
}

/* h = silu(min(g, limit)) * clamp(u, -limit, limit) * weight; h may be g. */
static inline void silu_values(float *h, const float *g, const float *u, float limit, float weight, int32_t n)
{
	for (int32_t i = 0; i < n; i++) {
		float a = g[i] > limit ? limit : g[i], b = u[i] > limit ? limit : u[i];

		b = b < -limit ? -limit : b;
		h[i] = a * sigmoid_f32(a) * b * weight;
	}
}

/* A dot_*.c file's versions for its table. */
#define VALUE_FUNCTIONS                                                                                     \
	static void load_row(float *x, const uint8_t *code, const uint8_t *rot, const uint8_t *scale)      \
	{                                                                                                  \
		row_values(x, code, rot, scale);                                                           \
	}                                                                                                  \
                                                                                                           \
	static void load_key(float *x, const uint8_t *pair, const uint8_t *scale)                          \
	{                                                                                                  \
		key_values(x, pair, scale);                                                                \
	}                                                                                                  \
                                                                                                           \
	static void silu(float *h, const float *g, const float *u, float limit, float weight, int32_t n)   \
	{                                                                                                  \
		silu_values(h, g, u, limit, weight, n);                                                    \
	}

#endif
