/* decode.cuh - block formats on the device: 16 weights as floats (or halves), and 32 weights times 32 int8 activations.
 *
 * How  raw16 loads the bytes of 16 consecutive weights, whichever the format, so that a kernel can load early and
 *      decode late; group<T> does the same for the 32 weights that meet one group of rounded activations.
 * Careful
 *      - Tables of IQ2_XXS live in shared memory: index loads of a warp diverge.
 *      - Planes as in struct dw; formulas as in quant/quant.c, which is the definition.
 *      - -g = (g ^ 255) + 1 in every byte never carries, because magnitudes are at least 8. */
#ifndef DS4_CUDA_DECODE_CUH
#define DS4_CUDA_DECODE_CUH

#include "cuda_int.cuh"

/* One copy for each file; 2 KB. */
static __device__ const __align__(16) uint8_t iq2_grid[256][8] = {
#include "quant/iq2_tables.h"
};

static __device__ inline float swiglu1(float g, float u, float limit)
{
	float c = fminf(g, limit);

	return c / (1 + expf(-c)) * fminf(fmaxf(u, -limit), limit);
}

/* Eight elements from element `at` of a plain weight (at a multiple of 8). */
static __device__ inline void plain8(const struct dw &w, size_t at, float v[8])
{
	if (w.type == DTYPE_F32) {
		float4 a = ((const float4 *)w.a)[at / 4], b = ((const float4 *)w.a)[at / 4 + 1];

		v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
		return;
	}
	uint4 q = ((const uint4 *)w.a)[at / 8];
	const uint32_t u[4] = {q.x, q.y, q.z, q.w};

#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (w.type == DTYPE_F16) {
			v[2 * i] = half_bits((uint16_t)u[i]);
			v[2 * i + 1] = half_bits((uint16_t)(u[i] >> 16));
		} else {
			v[2 * i] = __uint_as_float(u[i] << 16);
			v[2 * i + 1] = __uint_as_float(u[i] & 0xFFFF0000u);
		}
	}
}

/* 6-bit scale and minimum of Q4_K's sub-block j; s: the 12 bytes as words. */
static __device__ inline void q4_scale_min(const uint32_t s[3], int j, int *scale, int *min)
{
	int k = 8 * (j & 3);
	uint32_t a = s[0] >> k & 255, b = s[1] >> k & 255, c = s[2] >> k & 255;

	if (j < 4) {
		*scale = a & 63;
		*min = b & 63;
	} else {
		*scale = (c & 15) | a >> 6 << 4;
		*min = c >> 4 | b >> 6 << 4;
	}
}

/* Sign byte of a 7-bit pattern, and its four low bits as bytes of 0 or 1. */
static __device__ inline uint32_t sign8(uint32_t pattern)
{
	return pattern | (__popc(pattern) & 1) << 7;
}

static __device__ inline uint32_t ones4(uint32_t bits)
{
	return bits * 0x00204081u & 0x01010101u;
}

/* Four signed magnitudes of the codebook. */
static __device__ inline uint32_t signed4(uint32_t g, uint32_t bits)
{
	uint32_t one = ones4(bits & 15);

	return (g ^ one * 255u) + one;
}

/* ------------------------------------------------------------------ 16 weights */

struct raw16 {
	uint4 a, b, c, d;
	uint32_t u, v;
};

template <int T> static __device__ inline struct raw16 load16(const struct dw &w, size_t row, int k)
{
	struct raw16 r;
	size_t nb = (size_t)w.in / 256, sb = row * nb + k / 256;

	if (T == DTYPE_Q8_0) {
		r.a = *(const uint4 *)(w.a + row * w.in + k);
		r.u = ((const uint16_t *)w.b)[row * (w.in / 32) + k / 32];
	} else if (T == DTYPE_IQ2_XXS) {
		uint2 q = *(const uint2 *)(w.a + sb * 64 + k % 256 / 32 * 8);

		r.a.x = q.x;
		r.a.y = q.y;
		r.u = ((const uint16_t *)w.b)[sb];
	} else if (T == DTYPE_Q2_K) {
		int s = k % 256 / 16;

		r.a = *(const uint4 *)(w.a + sb * 64 + 32 * (s / 8) + 16 * (s & 1));
		r.u = w.b[sb * 16 + s];
		r.v = ((const uint32_t *)w.c)[sb];
	} else if (T == DTYPE_Q4_K) {
		int j = k % 256 / 32;

		r.b = *(const uint4 *)(w.a + sb * 144);
		r.a = *(const uint4 *)(w.a + sb * 144 + 16 + 32 * (j / 2) + k % 32);
	} else if (T == DTYPE_F32) {
		const uint4 *p = (const uint4 *)(w.a + (row * w.in + k) * 4);

		r.a = p[0], r.b = p[1], r.c = p[2], r.d = p[3];
	} else {
		const uint4 *p = (const uint4 *)(w.a + (row * w.in + k) * 2);

		r.a = p[0], r.b = p[1];
	}
	return r;
}

/* grid: the codebook (any memory). */
template <int T> static __device__ inline void expand16(const struct raw16 &r, int k, const uint2 *grid, float v[16])
{
	const uint32_t a[4] = {r.a.x, r.a.y, r.a.z, r.a.w}, b[4] = {r.b.x, r.b.y, r.b.z, r.b.w};

	if (T == DTYPE_Q8_0) {
		float d = half_bits((uint16_t)r.u);

#pragma unroll
		for (int i = 0; i < 16; i++)
			v[i] = d * (float)(int8_t)(a[i / 4] >> 8 * (i % 4));
	} else if (T == DTYPE_IQ2_XXS) {
		int h = k / 16 & 1;
		float d = half_bits((uint16_t)r.u) * (0.5f + (float)(r.a.y >> 28)) * 0.25f;

#pragma unroll
		for (int j = 0; j < 2; j++) {
			uint2 g = grid[r.a.x >> 8 * (2 * h + j) & 255];
			uint32_t s = sign8(r.a.y >> 7 * (2 * h + j) & 127), lo = signed4(g.x, s), hi = signed4(g.y, s >> 4);

#pragma unroll
			for (int i = 0; i < 4; i++) {
				v[8 * j + i] = d * (float)(int8_t)(lo >> 8 * i);
				v[8 * j + 4 + i] = d * (float)(int8_t)(hi >> 8 * i);
			}
		}
	} else if (T == DTYPE_Q2_K) {
		int shift = k % 128 / 32 * 2;
		float d = half_bits((uint16_t)r.v) * (float)(r.u & 15), m = half_bits((uint16_t)(r.v >> 16)) * (float)(r.u >> 4);

#pragma unroll
		for (int i = 0; i < 16; i++)
			v[i] = d * (float)(a[i / 4] >> (8 * (i % 4) + shift) & 3) - m;
	} else if (T == DTYPE_Q4_K) {
		int j = k % 256 / 32, scale, min;
		float d, m;

		q4_scale_min(b + 1, j, &scale, &min);
		d = half_bits((uint16_t)b[0]) * (float)scale;
		m = half_bits((uint16_t)(b[0] >> 16)) * (float)min;
#pragma unroll
		for (int i = 0; i < 16; i++)
			v[i] = d * (float)(a[i / 4] >> (8 * (i % 4) + 4 * (j & 1)) & 15) - m;
	} else if (T == DTYPE_F32) {
		const uint32_t c[4] = {r.c.x, r.c.y, r.c.z, r.c.w}, e[4] = {r.d.x, r.d.y, r.d.z, r.d.w};

#pragma unroll
		for (int i = 0; i < 4; i++) {
			v[i] = __uint_as_float(a[i]);
			v[4 + i] = __uint_as_float(b[i]);
			v[8 + i] = __uint_as_float(c[i]);
			v[12 + i] = __uint_as_float(e[i]);
		}
	} else {
#pragma unroll
		for (int i = 0; i < 8; i++) {
			uint32_t u = i < 4 ? a[i & 3] : b[i & 3];

			v[2 * i] = T == DTYPE_F16 ? half_bits((uint16_t)u) : __uint_as_float(u << 16);
			v[2 * i + 1] = T == DTYPE_F16 ? half_bits((uint16_t)(u >> 16)) : __uint_as_float(u & 0xFFFF0000u);
		}
	}
}

/* Half of a word of two, as arithmetic sees it. */
static __device__ inline __half2 pair_of(uint32_t u)
{
	return *(__half2 *)&u;
}

static __device__ inline uint32_t word_of(__half2 h)
{
	return *(uint32_t *)&h;
}

static __device__ inline __half2 both(float f)
{
	return __floats2half2_rn(f, f);
}

/* The codebook as halves of magnitude / 64, eight to an entry; all threads of the block. */
static __device__ inline void load_half_grid(uint4 *grid)
{
	for (int i = threadIdx.x; i < 256; i += blockDim.x) {
		uint32_t w[4];

		for (int j = 0; j < 4; j++)
			w[j] = word_of(__floats2half2_rn(iq2_grid[i][2 * j] / 64.f, iq2_grid[i][2 * j + 1] / 64.f));
		grid[i] = make_uint4(w[0], w[1], w[2], w[3]);
	}
	__syncthreads();
}

/* The same 16 weights in f16, two to a word.  The formats of large matrices are expanded in f16 arithmetic: small integers
 * are exact there (1024 + n is a bit pattern), the factor of a group is rounded once and the product once more.
 * grid: load_half_grid's; factors of IQ2_XXS are 64 times larger for it, which also keeps them out of the subnormals. */
template <int T> static __device__ inline void halves16(const struct raw16 &r, int k, const uint4 *grid, uint32_t h[8])
{
	const uint32_t a[4] = {r.a.x, r.a.y, r.a.z, r.a.w};

	if (T == DTYPE_F16) {
		h[0] = r.a.x, h[1] = r.a.y, h[2] = r.a.z, h[3] = r.a.w;
		h[4] = r.b.x, h[5] = r.b.y, h[6] = r.b.z, h[7] = r.b.w;
	} else if (T == DTYPE_Q8_0) {
		const __half2 zero = pair_of(0x64806480), d = pair_of((r.u & 0xFFFF) * 0x10001);

#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint32_t u = a[i] ^ 0x80808080;

			h[2 * i] = word_of(__hmul2(__hsub2(pair_of(__byte_perm(u, 0x64646464, 0x4140)), zero), d));
			h[2 * i + 1] = word_of(__hmul2(__hsub2(pair_of(__byte_perm(u, 0x64646464, 0x4342)), zero), d));
		}
	} else if (T == DTYPE_Q2_K) {
		const int shift = k % 128 / 32 * 2;
		const __half2 zero = pair_of(0x64006400), d = both(half_bits((uint16_t)r.v) * (float)(r.u & 15));
		const __half2 m = both(-half_bits((uint16_t)(r.v >> 16)) * (float)(r.u >> 4));

#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint32_t u = a[i] >> shift & 0x03030303;

			h[2 * i] = word_of(__hfma2(__hsub2(pair_of(__byte_perm(u, 0x64646464, 0x4140)), zero), d, m));
			h[2 * i + 1] = word_of(__hfma2(__hsub2(pair_of(__byte_perm(u, 0x64646464, 0x4342)), zero), d, m));
		}
	} else if (T == DTYPE_IQ2_XXS) {
		const int half = k / 16 & 1;
		const __half2 d = both(half_bits((uint16_t)r.u) * (0.5f + (float)(r.a.y >> 28)) * 16);

#pragma unroll
		for (int j = 0; j < 2; j++) {
			uint4 g = grid[r.a.x >> 8 * (2 * half + j) & 255];
			uint32_t s = sign8(r.a.y >> 7 * (2 * half + j) & 127);

			/* s * c has sign 2 i in bit 15 and sign 2 i + 1 in bit 31: the copies of s do not meet */
			h[4 * j] = word_of(__hmul2(pair_of(g.x ^ (s * 0x40008000u & 0x80008000u)), d));
			h[4 * j + 1] = word_of(__hmul2(pair_of(g.y ^ (s * 0x10002000u & 0x80008000u)), d));
			h[4 * j + 2] = word_of(__hmul2(pair_of(g.z ^ (s * 0x04000800u & 0x80008000u)), d));
			h[4 * j + 3] = word_of(__hmul2(pair_of(g.w ^ (s * 0x01000200u & 0x80008000u)), d));
		}
	} else {
		float v[16];

		expand16<T>(r, k, NULL, v);
#pragma unroll
		for (int i = 0; i < 8; i++)
			h[i] = word_of(__floats2half2_rn(v[2 * i], v[2 * i + 1]));
	}
}

/* Any type, for kernels whose speed does not matter. */
static __device__ inline void decode16(const struct dw &w, size_t row, int k, float v[16])
{
	const uint2 *grid = (const uint2 *)iq2_grid;

	switch (w.type) {
#define X(T)                                              \
	case T:                                           \
		expand16<T>(load16<T>(w, row, k), k, grid, v); \
		break;
		X(DTYPE_F32) X(DTYPE_F16) X(DTYPE_BF16) X(DTYPE_Q8_0) X(DTYPE_Q2_K) X(DTYPE_Q4_K) X(DTYPE_IQ2_XXS)
#undef X
	}
}

/* ------------------------------------------------------------------ 32 weights times rounded activations */

struct group {
	uint4 a, b;
	uint32_t u, v;
};

/* Group g (of 32) of a row. */
template <int T> static __device__ inline struct group load_group(const struct dw &w, size_t row, int g)
{
	struct group r;
	size_t sb = row * (w.in / 256) + g / 8;
	int j = g % 8;

	if (T == DTYPE_Q8_0) {
		const uint4 *p = (const uint4 *)(w.a + row * w.in + g * 32);

		r.a = __ldcs(p);
		r.b = __ldcs(p + 1);
		r.u = ((const uint16_t *)w.b)[row * (w.in / 32) + g];
	} else if (T == DTYPE_IQ2_XXS) {
		uint2 q = __ldcs((const uint2 *)(w.a + sb * 64 + 8 * j));

		r.a.x = q.x;
		r.a.y = q.y;
		r.u = ((const uint16_t *)w.b)[sb];
	} else if (T == DTYPE_Q2_K) {
		const uint4 *p = (const uint4 *)(w.a + sb * 64 + 32 * (j / 4));

		r.a = p[0];
		r.b = p[1];
		r.u = ((const uint16_t *)(w.b + sb * 16))[j];
		r.v = ((const uint32_t *)w.c)[sb];
	} else if (T == DTYPE_Q4_K) {
		const uint8_t *p = w.a + sb * 144;
		uint4 h = *(const uint4 *)p;
		const uint32_t s[3] = {h.y, h.z, h.w};
		int scale, min;

		q4_scale_min(s, j, &scale, &min);
		r.a = *(const uint4 *)(p + 16 + 32 * (j / 2));
		r.b = *(const uint4 *)(p + 32 + 32 * (j / 2));
		r.u = h.x;
		r.v = (uint32_t)scale | (uint32_t)min << 8;
	}
	return r;
}

/* The integers a group stands for, ready for dp4a, and its factors. */
struct ready {
	uint32_t q[8];
	float d, m;		/* Q8_0, IQ2_XXS: d.  Q4_K: d scale, dmin min.  Q2_K: d, dmin */
	int s0, s1, m0, m1;	/* Q2_K */
};

template <int T> static __device__ inline struct ready ready_group(const struct group &r, int g, const uint2 *grid)
{
	const uint32_t raw[8] = {r.a.x, r.a.y, r.a.z, r.a.w, r.b.x, r.b.y, r.b.z, r.b.w};
	struct ready o;
	int j = g % 8;

	if (T == DTYPE_Q8_0) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			o.q[i] = raw[i];
		o.d = half_bits((uint16_t)r.u);
	} else if (T == DTYPE_IQ2_XXS) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint2 c = grid[r.a.x >> 8 * i & 255];
			uint32_t s = sign8(r.a.y >> 7 * i & 127);

			o.q[2 * i] = signed4(c.x, s);
			o.q[2 * i + 1] = signed4(c.y, s >> 4);
		}
		o.d = half_bits((uint16_t)r.u) * (0.5f + (float)(r.a.y >> 28)) * 0.25f;
	} else if (T == DTYPE_Q2_K) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			o.q[i] = raw[i] >> 2 * (j % 4) & 0x03030303u;
		o.s0 = r.u & 15;
		o.m0 = r.u >> 4 & 15;
		o.s1 = r.u >> 8 & 15;
		o.m1 = r.u >> 12 & 15;
		o.d = half_bits((uint16_t)r.v);
		o.m = half_bits((uint16_t)(r.v >> 16));
	} else if (T == DTYPE_Q4_K) {
#pragma unroll
		for (int i = 0; i < 8; i++)
			o.q[i] = raw[i] >> 4 * (j & 1) & 0x0F0F0F0Fu;
		o.d = half_bits((uint16_t)r.u) * (float)(r.v & 255);
		o.m = half_bits((uint16_t)(r.u >> 16)) * (float)(r.v >> 8);
	}
	return o;
}

/* Adds the term of one group: 32 rounded activations x (two int4), their scale and their two sums of 16.  Written with
 * explicit roundings, so that every instance of a kernel gives the same bits. */
template <int T> static __device__ inline float add_group(float acc, const struct ready &w, const int4 &x0, const int4 &x1,
							   float dx, uint32_t sums)
{
	int lo = 0, hi = 0;

	lo = __dp4a((int)w.q[0], x0.x, lo);
	lo = __dp4a((int)w.q[1], x0.y, lo);
	lo = __dp4a((int)w.q[2], x0.z, lo);
	lo = __dp4a((int)w.q[3], x0.w, lo);
	hi = __dp4a((int)w.q[4], x1.x, hi);
	hi = __dp4a((int)w.q[5], x1.y, hi);
	hi = __dp4a((int)w.q[6], x1.z, hi);
	hi = __dp4a((int)w.q[7], x1.w, hi);
	if (T == DTYPE_Q2_K) {
		int m = w.m0 * (int16_t)sums + w.m1 * ((int)sums >> 16);
		float term = __fmaf_rn(w.d, (float)(w.s0 * lo + w.s1 * hi), -__fmul_rn(w.m, (float)m));

		return __fmaf_rn(dx, term, acc);
	}
	if (T == DTYPE_Q4_K) {
		float m = (float)((int16_t)sums + ((int)sums >> 16));

		return __fmaf_rn(dx, __fmaf_rn(w.d, (float)(lo + hi), -__fmul_rn(w.m, m)), acc);
	}
	return __fmaf_rn(__fmul_rn(w.d, dx), (float)(lo + hi), acc);
}

static __host__ __device__ inline bool rounds(int type)
{
	return type == DTYPE_Q8_0 || type == DTYPE_Q2_K || type == DTYPE_Q4_K || type == DTYPE_IQ2_XXS;
}

/* Copies the codebook to shared memory; all threads of the block. */
static __device__ inline void load_grid(uint2 *grid)
{
	for (int i = threadIdx.x; i < 256; i += blockDim.x)
		grid[i] = ((const uint2 *)iq2_grid)[i];
	__syncthreads();
}

#endif
