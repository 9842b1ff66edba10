/* half.h - scalar conversions of the small float formats; all roundings are to nearest, ties to even.
 *
 *   f16      IEEE half                       bf16    upper half of a float32
 *   e4m3     FP8: bias 7, no infinities, largest 448, subnormal step 2^-9, 0x7F/0xFF are NaN
 *   e2m1     FP4: 0 .5 1 1.5 2 3 4 6, sign in bit 3
 *   e8m0     a byte e that means 2^(e - 127); 0xFF is NaN
 *
 * A NaN stays a NaN where the format has one; its sign and payload are not kept.
 * Source: docs/model.md, docs/formats/gguf.md; the OCP microscaling formats for what is NaN. */
#ifndef DS4_QUANT_HALF_H
#define DS4_QUANT_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float x)
{
	uint32_t u;

	memcpy(&u, &x, sizeof u);
	return u;
}

static inline float f32_from_bits(uint32_t u)
{
	float x;

	memcpy(&x, &u, sizeof x);
	return x;
}

static inline float f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = h >> 10 & 0x1Fu, man = h & 0x3FFu;

	if (exp == 31)
		return f32_from_bits(sign | 0x7F800000u | man << 13);
	if (exp == 0) {	/* zero and subnormals: man * 2^-24 is exact in a float */
		float m = (float)man * 0x1p-24f;

		return sign ? -m : m;
	}
	return f32_from_bits(sign | (exp + 112) << 23 | man << 13);
}

static inline uint16_t f16_from_f32(float x)
{
	uint32_t u = f32_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7FFFFFFFu;

	if (a >= 0x7F800000u)	/* infinity, NaN */
		return (uint16_t)(sign | 0x7C00u | (a > 0x7F800000u ? 0x200u : 0));
	if (a >= 0x477FF000u)	/* 65520 and above round to infinity */
		return (uint16_t)(sign | 0x7C00u);
	if (a < 0x38800000u) {	/* below 2^-14: the result is a multiple of 2^-24 */
		float m = f32_from_bits(a) * 0x1p24f;
		float r = rintf(m);

		return (uint16_t)(sign | (uint32_t)r);
	}
	a += 0xFFFu + (a >> 13 & 1u);
	return (uint16_t)(sign | ((a >> 13) - (112u << 10)));
}

static inline float bf16_to_f32(uint16_t h)
{
	return f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_f32(float x)
{
	uint32_t u = f32_bits(x);

	if ((u & 0x7FFFFFFFu) > 0x7F800000u)
		return (uint16_t)(u >> 16 | 0x40u);
	return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

static inline float e8m0_to_f32(uint8_t e)
{
	if (e == 255)
		return NAN;
	return e ? f32_from_bits((uint32_t)e << 23) : 0x1p-127f;
}

static inline float e4m3_to_f32(uint8_t b)
{
	int exp = b >> 3 & 15, man = b & 7;
	float m;

	if ((b & 0x7F) == 0x7F)
		return NAN;
	m = exp ? ldexpf((float)(8 + man), exp - 10) : (float)man * 0x1p-9f;
	return b & 0x80 ? -m : m;
}

/* x is clamped to -448..448; NaN gives 0x7F. */
static inline uint8_t e4m3_from_f64(double x)
{
	double a = fabs(x), step;
	uint8_t sign = signbit(x) ? 0x80 : 0;
	int e, q;

	if (isnan(x))
		return 0x7F;
	if (a > 448)
		a = 448;
	if (a < 0x1p-6)		/* subnormal: multiples of 2^-9; 8 of them is the first normal */
		return (uint8_t)(sign | (int)rint(a * 512));
	frexp(a, &e);
	e -= 1;			/* a = 1.xxx * 2^e */
	step = ldexp(1, e - 3);
	q = (int)rint(a / step);	/* 8..16 */
	if (q == 16) {
		q = 8;
		e++;
	}
	return (uint8_t)(sign | (e + 7) << 3 | (q - 8));
}

static inline float e2m1_to_f32(uint8_t nibble)
{
	static const float value[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
	float m = value[nibble & 7];

	return nibble & 8 ? -m : m;
}

/* x is clamped to -6..6.  Ties go to the even code: .25->0 .75->1 1.25->1 1.75->2 2.5->2 3.5->4 5->4.
 * The format has no NaN: it gives 6. */
static inline uint8_t e2m1_from_f64(double x)
{
	double a = fabs(x);
	uint8_t sign = signbit(x) ? 8 : 0, code;

	if (a <= 0.25)
		code = 0;
	else if (a < 0.75)
		code = 1;
	else if (a <= 1.25)
		code = 2;
	else if (a < 1.75)
		code = 3;
	else if (a <= 2.5)
		code = 4;
	else if (a < 3.5)
		code = 5;
	else if (a <= 5)
		code = 6;
	else
		code = 7;
	return (uint8_t)(sign | code);
}

/* Exponent k of the least power of two with amax / 2^k <= top, computed on the float32 quotient as the
 * reference does: k = ceil(log2(float(amax / top))).  amax is finite and above 0. */
static inline int pow2_scale_exponent(double amax, double top)
{
	int e;
	float m = frexpf((float)(amax / top), &e);

	return m == 0.5f ? e - 1 : e;
}

#endif
