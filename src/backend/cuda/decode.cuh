/* decode.cuh - block formats on the device: single weights as floats, and 32 of a row in f16 for the matrix kernels.
 *
 * How  struct strip is what a thread of gemm.cu keeps of a row: two of the four chunks of every group, loaded early and
 *      expanded late.  few.cuh has the same for the int8 kernels.
 * Careful
 *      - Tables of IQ2_XXS live in shared memory: index loads of a warp diverge.
 *      - Planes as in struct dw; formulas as in quant/quant.c, which is the definition. */
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

static __host__ __device__ inline bool rounds(int type)
{
	return type == DTYPE_Q8_0 || type == DTYPE_Q2_K || type == DTYPE_Q4_K || type == DTYPE_IQ2_XXS;
}

/* ------------------------------------------------------------------ single weights: speed does not matter */

static __device__ inline float decode1(const struct dw &w, size_t row, int k)
{
	size_t sb = w.type == DTYPE_Q4_K ? row * (w.stride / 256) + k / 256 : block_at(row, w.stride / 256, k / 256);
	int at = k % 32 / 8 * 16, group = k % 256 / 32, j = k % 8;

	if (w.type == DTYPE_Q8_0) {
		sb = block_at(row, w.stride / 64, k / 64);
		return half_bits(((const uint16_t *)w.b)[sb * 2 + group % 2]) * (float)(int8_t)w.a[sb * 64 + place_of(k % 64)];
	}
	if (w.type == DTYPE_IQ2_XXS) {
		float g = iq2_grid[w.a[sb * 64 + at + group]][j];

		uint2 ds = ((const uint2 *)w.b)[sb];

		g *= half_bits((uint16_t)ds.x) * 0.25f * (0.5f + (float)(ds.y >> 4 * group & 15));
		return w.a[sb * 64 + at + 8 + group] >> j & 1 ? -g : g;
	}
	if (w.type == DTYPE_Q2_K) {
		uint32_t s = w.b[sb * 16 + k % 32 / 16 * 8 + group], dm = ((const uint32_t *)w.c)[sb];
		int q = w.a[sb * 64 + at + group / 4 * 8 + j] >> group % 4 * 2 & 3;

		return half_bits((uint16_t)dm) * (float)(s & 15) * (float)q - half_bits((uint16_t)(dm >> 16)) * (float)(s >> 4);
	}
	if (w.type == DTYPE_Q4_K) {
		const uint32_t *b = (const uint32_t *)(w.a + sb * 144);
		int scale, min, q = w.a[sb * 144 + 16 + group / 2 * 32 + k % 32] >> group % 2 * 4 & 15;

		q4_scale_min(b + 1, group, &scale, &min);
		return half_bits((uint16_t)b[0]) * (float)scale * (float)q - half_bits((uint16_t)(b[0] >> 16)) * (float)min;
	}
	return plain_at(w, row * w.in + k);
}

/* ------------------------------------------------------------------ 32 of 64 weights in f16 */

/* The codebook as halves of magnitude / 64, eight to an entry, `copies` of each side by side; all threads of the block. */
static __device__ inline void load_half_grid(uint4 *grid, int copies)
{
	for (int i = threadIdx.x; i < 256 * copies; i += blockDim.x) {
		const uint8_t *g = iq2_grid[i / copies];
		uint32_t w[4];

		for (int j = 0; j < 4; j++)
			w[j] = word_of(__floats2half2_rn(g[2 * j] / 64.f, g[2 * j + 1] / 64.f));
		grid[i] = make_uint4(w[0], w[1], w[2], w[3]);
	}
	__syncthreads();
}

/* Step p of a row is its elements 64 p .. 64 p + 63; a thread expands four pieces of 8 of them, those of its `part`, 0 or 1.
 * Superblock formats keep their bytes for four steps. */
struct strip {
	uint4 v[4];
	uint32_t d, s[2];
};

/* Where piece i of a step stands. */
template <int T> static __device__ inline int piece_at(int part, int i)
{
	return T == DTYPE_Q8_0 || T == DTYPE_IQ2_XXS || T == DTYPE_Q2_K || T == DTYPE_Q4_K ? 32 * (i / 2) + 16 * part + i % 2 * 8
											: 32 * part + 8 * i;
}

/* Loads step p; steps come in order.  Elements from w.in on are zeros or unused. */
template <int T> static __device__ inline void strip_load(struct strip *r, const struct dw &w, size_t row, int p, int part)
{
	size_t sb = T == DTYPE_Q4_K ? row * (w.stride / 256) + p / 4 : block_at(row, w.stride / 256, p / 4);

	if (T == DTYPE_Q8_0) {
		const size_t n = block_at(row, w.stride / 64, p);
		const uint8_t *at = w.a + n * 64 + part * 32;

		r->v[0] = *(const uint4 *)at;
		r->v[1] = *(const uint4 *)(at + 16);
		r->d = ((const uint32_t *)w.b)[n];
	} else if (T == DTYPE_IQ2_XXS) {
		if (p % 4)
			return;
		r->v[0] = *(const uint4 *)(w.a + sb * 64 + part * 32);
		r->v[1] = *(const uint4 *)(w.a + sb * 64 + part * 32 + 16);
		uint2 ds = ((const uint2 *)w.b)[sb];

		r->d = ds.x;
		r->s[0] = ds.y;
	} else if (T == DTYPE_Q2_K) {
		if (p % 4)
			return;
		r->v[0] = *(const uint4 *)(w.a + sb * 64 + part * 32);
		r->v[1] = *(const uint4 *)(w.a + sb * 64 + part * 32 + 16);
		uint2 s = *(const uint2 *)(w.b + sb * 16 + part * 8);

		r->s[0] = s.x;
		r->s[1] = s.y;
		r->d = ((const uint32_t *)w.c)[sb];
	} else if (T == DTYPE_Q4_K) {
		r->v[0] = *(const uint4 *)(w.a + sb * 144);
		r->v[1] = *(const uint4 *)(w.a + sb * 144 + 16 + p % 4 * 32 + part * 16);
	} else if (64 * p + 32 * part < w.in) {
		const uint4 *at = (const uint4 *)(w.a + (row * w.in + 64 * p + 32 * part) * (T == DTYPE_F32 ? 4 : 2));

#pragma unroll
		for (int i = 0; i < 4; i++)
			r->v[i] = at[T == DTYPE_F32 ? 2 * i : i];
	}
}

/* Four bytes 0..255 as halves, minus zero (in the same form, 1024 + n). */
static __device__ inline void bytes4(uint32_t u, __half2 zero, __half2 out[2])
{
	out[0] = __hsub2(pair_of(__byte_perm(u, 0x64646464, 0x4140)), zero);
	out[1] = __hsub2(pair_of(__byte_perm(u, 0x64646464, 0x4342)), zero);
}

/* Piece i of step p: 8 halves.  The formats of large matrices are expanded in f16 arithmetic: small integers are exact there
 * (1024 + n is a bit pattern), the factor of a group is rounded once and the product once more.  grid: load_half_grid's;
 * factors of IQ2_XXS are 64 times larger for it, which also keeps them out of the subnormals. */
template <int T, int COPIES = 1>
static __device__ inline uint4 strip_piece(const struct strip &r, const struct dw &w, size_t row, int p, int part, int i,
					   const uint4 *grid)
{
	const uint4 &v = r.v[i % 2];
	__half2 h[4];

	if (T == DTYPE_Q8_0) {
		const __half2 d = pair_of((r.d >> 16 * (i / 2) & 0xFFFF) * 0x10001), zero = pair_of(0x64806480);

		bytes4((i < 2 ? v.x : v.z) ^ 0x80808080, zero, h);
		bytes4((i < 2 ? v.y : v.w) ^ 0x80808080, zero, h + 2);
#pragma unroll
		for (int j = 0; j < 4; j++)
			h[j] = __hmul2(h[j], d);
	} else if (T == DTYPE_IQ2_XXS) {
		const int shift = 16 * (p & 1) + 8 * (i / 2), group = 2 * (p & 3) + i / 2;
		const uint32_t code = (p & 2 ? v.y : v.x) >> shift & 255, s = (p & 2 ? v.w : v.z) >> shift & 255;
		const __half2 d = both(half_bits((uint16_t)r.d) * (0.5f + (float)(r.s[0] >> 4 * group & 15)) * 16);
		const uint4 g = grid[code * COPIES];

		/* s * c has sign 2 j in bit 15 and sign 2 j + 1 in bit 31: the copies of s do not meet */
		h[0] = __hmul2(pair_of(g.x ^ (s * 0x40008000u & 0x80008000u)), d);
		h[1] = __hmul2(pair_of(g.y ^ (s * 0x10002000u & 0x80008000u)), d);
		h[2] = __hmul2(pair_of(g.z ^ (s * 0x04000800u & 0x80008000u)), d);
		h[3] = __hmul2(pair_of(g.w ^ (s * 0x01000200u & 0x80008000u)), d);
	} else if (T == DTYPE_Q2_K) {
		const int group = 2 * (p & 3) + i / 2, shift = group % 4 * 2;
		const uint32_t s = (group < 4 ? r.s[0] : r.s[1]) >> group % 4 * 8 & 255;
		const __half2 d = both(half_bits((uint16_t)r.d) * (float)(s & 15)), zero = pair_of(0x64006400);
		const __half2 m = both(-half_bits((uint16_t)(r.d >> 16)) * (float)(s >> 4));

		bytes4((group < 4 ? v.x : v.z) >> shift & 0x03030303, zero, h);
		bytes4((group < 4 ? v.y : v.w) >> shift & 0x03030303, zero, h + 2);
#pragma unroll
		for (int j = 0; j < 4; j++)
			h[j] = __hfma2(h[j], d, m);
	} else if (T == DTYPE_Q4_K) {
		const uint32_t b[4] = {r.v[0].x, r.v[0].y, r.v[0].z, r.v[0].w};
		const uint4 &q = r.v[1];
		const __half2 zero = pair_of(0x64006400);
		__half2 d, m;
		int scale, min;

		q4_scale_min(b + 1, 2 * (p & 3) + i / 2, &scale, &min);
		d = both(half_bits((uint16_t)b[0]) * (float)scale);
		m = both(-half_bits((uint16_t)(b[0] >> 16)) * (float)min);
		bytes4((i % 2 ? q.z : q.x) >> 4 * (i / 2) & 0x0F0F0F0F, zero, h);
		bytes4((i % 2 ? q.w : q.y) >> 4 * (i / 2) & 0x0F0F0F0F, zero, h + 2);
#pragma unroll
		for (int j = 0; j < 4; j++)
			h[j] = __hfma2(h[j], d, m);
	} else if (T == DTYPE_F16) {
		return 64 * p + 32 * part < w.in ? r.v[i] : make_uint4(0, 0, 0, 0);
	} else {
		const int k = 64 * p + 32 * part + 8 * i;
		float f[8] = {0};

		if (k < w.in)
			plain8(w, row * w.in + k, f);
#pragma unroll
		for (int j = 0; j < 4; j++)
			h[j] = __floats2half2_rn(f[2 * j], f[2 * j + 1]);
	}
	return make_uint4(word_of(h[0]), word_of(h[1]), word_of(h[2]), word_of(h[3]));
}

#endif
