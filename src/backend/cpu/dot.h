/* dot.h - the inner loops, behind one table per instruction set.
 *
 * Everything whose speed matters goes through struct dot_table: weight rows times activation rows for each
 * weight type, rounding of activations, and the two float loops of attention.  dot_scalar.c is plain C and
 * defines the results; a file for an instruction set fills the same table and is chosen once, at start.
 *
 * Rounded activations.  Q8_0, Q2_K, Q4_K and IQ2_XXS weights meet activations rounded to int8 in groups:
 *     d = max|x| / 127      q = round_half_even(x / d)      sum = sums of q over 16 elements (for the minimums)
 * Q8_0 and IQ2_XXS use groups of 32, Q2_K and Q4_K groups of 256 (their blocks, so that a block is one exact integer).
 * For normally distributed values a product is then off by 0.56 % of its rms, or 0.73 %.
 *
 * Order of sums: a result depends on the weight row and the activation row alone, not on how many rows are done at
 * once.  Between instruction sets results differ in the last bits.
 *   quantised   Inside a group (of 32; of 256 with AVX-512 and AMX for Q2_K and Q4_K) everything is an integer and
 *               exact.  Plain C and AVX2: term g is added to lane g mod 8; the lanes are added as
 *               ((0+4)+(2+6))+((1+5)+(3+7)); no fused multiply-add.  AVX-512 and AMX: terms are added one by one with
 *               fused multiply-adds, as panel.h says.
 *   float       Element i is added to lane i mod 32; then halves: lanes l and l+16, l+8, l+4, l+2, l+1.  A file may
 *               fuse multiply and add here. */
#ifndef DS4_BACKEND_CPU_DOT_H
#define DS4_BACKEND_CPU_DOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/dtype.h"

enum {
	DOT_SUM = 16,	/* activations in one sum */
	DOT_TILE = 32,	/* most activation rows in one call, except for tables with `many` */
	DOT_LANES = 32,	/* partial sums of a float product */
	DOT_WORK = 640 << 10	/* bytes of work space in a job */
};

/* One row of activations: as floats, and rounded (only what the weight type reads is set). */
struct dot_x {
	const float *f;		/* [in] */
	const int8_t *q;	/* [in] */
	const float *d;		/* [in / 32] */
	const int16_t *sum;	/* [in / 16] */
	const int32_t *bias;	/* [in / 32] -128 times the sum of a group: for weights stored as 128 + w */
};

/* y[i * y_stride + r] = weight row r . activation row i */
struct dot_job {
	const uint8_t *w;	/* [rows], row_bytes apart */
	size_t row_bytes;
	int32_t rows, in;
	const struct dot_x *x;	/* [n] */
	int32_t n;		/* 1..DOT_TILE, or any number */
	float *y;
	size_t y_stride;
	void *work;		/* DOT_WORK bytes of the calling thread, aligned to 64 */
};

struct dot_table {
	const char *name;
	bool many;		/* takes any number of activation rows */
	void (*matrix[DTYPE_COUNT])(const struct dot_job *j);	/* NULL: no kernel */
	/* n is a multiple of group, 32 or 256; d is set for each 32.  A NaN or infinity in a group makes its d NaN, so
	 * that it is not lost. */
	void (*quantise)(int8_t *q, float *d, int16_t *sum, const float *x, int32_t n, int32_t group);
	/* z[i] = q . rows[i], i < n; rows are width apart; width is a multiple of 32. */
	void (*scores)(float *z, const float *q, const float *rows, int32_t n, int32_t width);
	/* acc += sum_i weight[i] * rows[i], for each channel in order of i. */
	void (*accumulate)(float *acc, const float *weight, const float *rows, int32_t n, int32_t width);
	/* Folds rows [n <= 16, 512] into the softmax of each head: acc / sum is the mean so far, weighted by exp(z - top),
	 * z = q . row / sqrt(512).  q, acc: [heads, 512].  NULL: attn.c does it with the two above.  rows: aligned to 64,
	 * with room for 16. */
	void (*attend)(float *acc, float *top, float *sum, const float *q, const float *rows, int32_t n, int32_t heads);
	/* The values of a packed row [512] and of a packed key [128]; exact. */
	void (*load_row)(float *x, const uint8_t *code, const uint8_t *rot, const uint8_t *scale);
	void (*load_key)(float *x, const uint8_t *pair, const uint8_t *scale);
	/* h = silu(min(g, limit)) * clamp(u, -limit, limit) * weight; h may be g.  The same bits everywhere. */
	void (*silu)(float *h, const float *g, const float *u, float limit, float weight, int32_t n);
};

/* The tables that this machine can run, best first; NULL past the end.  The last one is always plain C. */
const struct dot_table *dot_available(int i);
/* The best table for NULL and "auto"; else the one called `name`, or the best called `name`-something; NULL if this machine
 * has none. */
const struct dot_table *dot_find(const char *name);

const struct dot_table *dot_scalar(void);
#if defined(__x86_64__)
const struct dot_table *dot_avx2(void);		/* needs AVX2, FMA, F16C */
const struct dot_table *dot_avx512(void);	/* needs F, BW, VL, DQ, VNNI, VBMI, GFNI and what AVX2 needs */
const struct dot_table *dot_amx(void);		/* needs AMX int8 that the system lets us use, and what AVX-512 needs */
#endif

#if defined(__aarch64__)
const struct dot_table *dot_dotprod(void);
const struct dot_table *dot_i8mm(void);
#endif

/* Does the kernel of this type read rounded activations? */
static inline bool dot_rounds(enum dtype t)
{
	return t == DTYPE_Q8_0 || t == DTYPE_Q2_K || t == DTYPE_Q4_K || t == DTYPE_IQ2_XXS;
}

/* Activations that share a scale when they meet weights of this type. */
static inline int32_t dot_group(enum dtype t)
{
	return t == DTYPE_Q2_K || t == DTYPE_Q4_K ? 256 : 32;
}

/* bias of n activations from their sums of 16. */
static inline void dot_bias(int32_t *bias, const int16_t *sum, int32_t n)
{
	for (int32_t g = 0; g < n / 32; g++)
		bias[g] = -128 * (sum[2 * g] + sum[2 * g + 1]);
}

#endif
