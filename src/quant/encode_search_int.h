/* encode_search_int.h - vector helpers of the searches; included by the files that instantiate them. */
#ifndef DS4_QUANT_ENCODE_SEARCH_INT_H
#define DS4_QUANT_ENCODE_SEARCH_INT_H

#include <math.h>
#include <string.h>

#include "quant/encode_int.h"
#include "quant/half.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Macros, and pointers to vectors elsewhere: a function that takes or returns a vector has no stable ABI
 * without AVX, and compilers say so even where it is inlined. */
#define v_splat(x)                                                                     \
	({                                                                             \
		float splat_ = (x);                                                    \
		(v8f){splat_, splat_, splat_, splat_, splat_, splat_, splat_, splat_}; \
	})

/* v_pick: mask ? a : b, lane by lane.  v_min: a < b ? a : b, v_max: a > b ? a : b, both b for a NaN.  The instructions
 * of AVX mean exactly that; gcc does not find them by itself. */
#ifdef __AVX2__
#include <immintrin.h>
#define v_pick(mask, a, b) ((v8f)_mm256_blendv_ps((__m256)(b), (__m256)(a), (__m256)(mask)))
#define v_min(a, b) ((v8f)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define v_max(a, b) ((v8f)_mm256_max_ps((__m256)(a), (__m256)(b)))
#else
#define v_pick(mask, a, b) ((v8f)(((v8i)(a) & (mask)) | ((v8i)(b) & ~(mask))))

#define v_min(a, b)                               \
	({                                        \
		v8f mina_ = (a), minb_ = (b);     \
		v8i less_ = mina_ < minb_;        \
		v_pick(less_, mina_, minb_);      \
	})

#define v_max(a, b)                               \
	({                                        \
		v8f maxa_ = (a), maxb_ = (b);     \
		v8i more_ = maxa_ > maxb_;        \
		v_pick(more_, maxa_, maxb_);      \
	})
#endif

/* Nearest whole number, ties to even, for |x| below 2^22. */
#define v_round(x) (((x) + 12582912.0f) - 12582912.0f)

/* Nearest whole number of 0..top. */
#define v_round_to(x, top) v_round(v_max(v_min(x, v_splat(top)), v_splat(0)))

#define v_load(p)                                 \
	({                                        \
		v8f load_;                        \
		memcpy(&load_, p, sizeof load_);  \
		load_;                            \
	})

/* A positive number as a half: never rounded to 0 or to infinity, so that it can be divided by. */
static inline uint16_t half_scale(float x)
{
	uint16_t h = f16_from_f32(x);

	return h == 0 ? 1 : h > 0x7BFF ? 0x7BFF : h;
}

static inline float half_round(float x)
{
	return f16_to_f32(half_scale(x));
}

static inline float largest(const float *x, int n)
{
	float a = 0;

	for (int i = 0; i < n; i++)
		a = fabsf(x[i]) > a ? fabsf(x[i]) : a;
	return a;
}

/* Weights of a block with mean 1 and a floor that keeps every sum of them above 0. */
static inline void even_weights(float *out, const float *w, int n)
{
	double sum = 0;
	float scale;

	for (int i = 0; w && i < n; i++)
		sum += w[i];
	scale = sum > 0 ? (float)(n / sum) : 0;
	for (int i = 0; i < n; i++) {
		out[i] = scale > 0 && isfinite(scale) ? w[i] * scale : 1;
		if (out[i] < 1e-6f)
			out[i] = 1e-6f;
	}
}

#endif
