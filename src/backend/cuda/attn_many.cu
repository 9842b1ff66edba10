/* attn_many.cu - attention for steps of many rows: tensor cores, f16 products, f32 sums.
 *
 * What  One block takes one row of the step and 64 of its heads: their product with the rows of its history, and the weighted
 *       sum of those rows, are two matrix products over the same tile of 64 history rows.
 * Why   Every head of a token reads the same rows: expanded once to f16 in shared memory, a tile serves all of them twice.
 * How   16 warps.  Scores: warp (m, n) makes 16 heads x 16 rows over 512 channels.  Softmax: 8 threads a head, streaming,
 *       the sink first.  Values: a warp owns 32 channels of all 64 heads, 64 sums a thread, kept in registers to the end.
 *       Rows of shared memory are 8 halves longer than needed: ldmatrix then has no bank conflicts.
 * Careful
 *       - A tile's rows beyond the history hold zeros: their weight is 0, and 0 times garbage could be NaN.
 *       - The scale of a group, 2^k, is applied in f16: stored rows are of RMS-normed vectors, far inside its range; scales
 *         outside of it are clamped.
 *       - The weights that are summed for the denominator are the rounded ones that multiply the values.
 *       - The order of history rows depends on the token alone: a row of the step has the same bits in any step. */
#include "attn.cuh"
#include "mma.cuh"

static const int HEADS = 64, ROWS = 64, THREADS = 512, WARPS = THREADS / WARP;
static const int LD = GEOM_HEAD + 8, LDS = ROWS + 4, LDP = ROWS + 8;

struct room {		/* the block's shared memory */
	__half q[HEADS * LD], tile[ROWS * LD], p[HEADS * LDP];
	float score[HEADS * LDS], factor[HEADS], sum[HEADS];
};

/* Expands history rows i0..i0+n-1 of row t into the tile; 8 threads a row. */
static __device__ inline void load_rows(__half *tile, const struct attending &a, const struct dstep &s, const struct span &sp,
					int t, const struct seen &o, int i0, int n)
{
	int row = threadIdx.x / 8, j = threadIdx.x % 8;
	uint4 *to = (uint4 *)(tile + row * LD);		/* 8 halves each */

	if (row >= n) {
#pragma unroll
		for (int w = 0; w < GEOM_HEAD / 64; w++)
			to[8 * w + j] = make_uint4(0, 0, 0, 0);
		return;
	}
	const struct packed r = packed_row(a, s, sp, t, o, i0 + row);
	uint2 raw[GEOM_ROW_SCALES];
	uint32_t e[GEOM_ROW_SCALES];

#pragma unroll
	for (int w = 0; w < GEOM_ROW_SCALES; w++) {	/* 8 values of each group of 64 */
		raw[w] = ((const uint2 *)r.plain)[8 * w + j];
		e[w] = r.scale[w];
	}
	to[GEOM_PLAIN / 8 + j] = ((const uint4 *)r.rot)[j];
#pragma unroll
	for (int w = 0; w < GEOM_ROW_SCALES; w++) {
		__half2 f = group_scale(e[w]);
		uint32_t h[4];

		expand4(raw[w].x, f, h);
		expand4(raw[w].y, f, h + 2);
		to[8 * w + j] = make_uint4(h[0], h[1], h[2], h[3]);
	}
}

static __device__ inline void load_queries(__half *q, const float *from, int live)
{
	for (int i = threadIdx.x; i < HEADS * GEOM_HEAD / 4; i += THREADS) {
		int h = i / (GEOM_HEAD / 4), c = i % (GEOM_HEAD / 4) * 4;
		float4 v = h < live ? *(const float4 *)(from + (size_t)h * GEOM_HEAD + c) : make_float4(0, 0, 0, 0);

		((__half2 *)(q + h * LD + c))[0] = __floats2half2_rn(within_half(v.x), within_half(v.y));
		((__half2 *)(q + h * LD + c))[1] = __floats2half2_rn(within_half(v.z), within_half(v.w));
	}
}

/* score[heads, rows] = q . tile; warp (warp / 4, warp % 4) has 16 x 16 of it. */
static __device__ inline void scores(struct room *r)
{
	const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, m0 = warp / 4 * 16, n0 = warp % 4 * 16;
	const __half *pa = r->q + (m0 + lane % 16) * LD + lane / 16 * 8;
	const __half *pb = r->tile + (n0 + lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8;
	float c[2][4] = {};

#pragma unroll 8
	for (int k = 0; k < GEOM_HEAD; k += 16) {
		uint32_t a[4], b[4];

		ldmatrix4(a, pa + k);
		ldmatrix4(b, pb + k);
		mma16816(c[0], a, b[0], b[1]);
		mma16816(c[1], a, b[2], b[3]);
	}
#pragma unroll
	for (int j = 0; j < 2; j++)
#pragma unroll
		for (int i = 0; i < 4; i++)
			r->score[(m0 + lane / 4 + i / 2 * 8) * LDS + n0 + 8 * j + lane % 4 * 2 + i % 2] =
				c[j][i] * 0.04419417382415922f;	/* sqrt(1 / 512) */
}

/* Weights of a tile's n rows; top and sum of a head live in its 8 threads. */
static __device__ inline void softmax(struct room *r, int n, float *top, float *sum)
{
	int h = threadIdx.x / 8, j = threadIdx.x % 8;
	float z[ROWS / 8], best = *top, total = 0, f;

#pragma unroll
	for (int i = 0; i < ROWS / 8; i++) {
		z[i] = j + 8 * i < n ? r->score[h * LDS + j + 8 * i] : -INFINITY;
		best = fmaxf(best, z[i]);
	}
	for (int o = 4; o; o >>= 1)
		best = fmaxf(best, __shfl_xor_sync(~0u, best, o));
#pragma unroll
	for (int i = 0; i < ROWS / 8; i++) {
		__half w = __float2half_rn(expf(z[i] - best));

		r->p[h * LDP + j + 8 * i] = w;
		total += __half2float(w);
	}
	for (int o = 4; o; o >>= 1)
		total += __shfl_xor_sync(~0u, total, o);
	f = expf(*top - best);
	*sum = *sum * f + total;
	*top = best;
	if (!j)
		r->factor[h] = f;
}

/* acc = acc * factor + p . tile; the warp's 32 channels, all heads. */
static __device__ inline void values(float acc[4][4][4], const struct room *r)
{
	const int lane = threadIdx.x % WARP, c0 = threadIdx.x / WARP * 32;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		float lo = r->factor[16 * i + lane / 4], hi = r->factor[16 * i + lane / 4 + 8];

#pragma unroll
		for (int j = 0; j < 4; j++) {
			acc[i][j][0] *= lo;
			acc[i][j][1] *= lo;
			acc[i][j][2] *= hi;
			acc[i][j][3] *= hi;
		}
	}
#pragma unroll
	for (int k = 0; k < ROWS; k += 16) {
		uint32_t b[2][4];

#pragma unroll
		for (int j = 0; j < 2; j++)	/* 16 channels each */
			ldmatrix4_trans(b[j], r->tile + (k + lane % 16) * LD + c0 + 16 * j + lane / 16 * 8);
#pragma unroll
		for (int i = 0; i < 4; i++) {
			uint32_t a[4];

			ldmatrix4(a, r->p + (16 * i + lane % 16) * LDP + k + lane / 16 * 8);
#pragma unroll
			for (int j = 0; j < 4; j++)
				mma16816(acc[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
		}
	}
}

/* Grid: rows, heads / 64. */
static __global__ void __launch_bounds__(THREADS, 1) attend_many_kernel(struct dstep s, struct attending a)
{
	follow();
	DYNAMIC(int4, memory);
	struct room *r = (struct room *)memory;
	const int t = blockIdx.x, h0 = blockIdx.y * HEADS, live = min(HEADS, a.heads - h0), lane = threadIdx.x % WARP;
	const struct span sp = s.span[s.row_span[t]];
	const struct seen o = rows_seen(a, s.row[t].pos);
	float *out = a.out + ((size_t)t * a.heads + h0) * GEOM_HEAD;
	float acc[4][4][4], top, sum = 1;

	load_queries(r->q, a.q + ((size_t)t * a.heads + h0) * GEOM_HEAD, live);
	top = (int)threadIdx.x / 8 < live ? weight_at(a.sinks, h0 + threadIdx.x / 8) : 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int c = 0; c < 4; c++)
				acc[i][j][c] = 0;
	for (int i0 = 0; i0 < o.n; i0 += ROWS) {
		int n = min(ROWS, o.n - i0);

		load_rows(r->tile, a, s, sp, t, o, i0, n);
		__syncthreads();
		scores(r);
		__syncthreads();
		softmax(r, n, &top, &sum);
		__syncthreads();
		values(acc, r);
		__syncthreads();
	}
	if (threadIdx.x % 8 == 0)
		r->sum[threadIdx.x / 8] = sum;
	__syncthreads();
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int c = 0; c < 2; c++) {
			int h = 16 * i + lane / 4 + 8 * c;

			if (h >= live)
				continue;
#pragma unroll
			for (int j = 0; j < 4; j++) {
				float2 *to = (float2 *)(out + (size_t)h * GEOM_HEAD + threadIdx.x / WARP * 32 + 8 * j + lane % 4 * 2);

				*to = make_float2(acc[i][j][2 * c] / r->sum[h], acc[i][j][2 * c + 1] / r->sum[h]);
			}
		}
}

bool k_attend_many(struct eng *e, const struct attending *a, int32_t n_rows)
{
	static_assert(WARPS * 32 == GEOM_HEAD && WARPS == HEADS / 16 * (ROWS / 16) && THREADS == HEADS * 8, "shape");
#ifndef DS4_CUDA_EMU
	if (cudaFuncSetAttribute(attend_many_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(struct room))) {
		cudaGetLastError();
		return false;
	}
#endif
	LAUNCH(e, attend_many_kernel, dim3(n_rows, div_up(a->heads, HEADS)), THREADS, sizeof(struct room), e->st, *a);
	return true;
}
