/* streams.cu - the residual streams of few rows: hc_out and the next hc_in as two kernels, with the forms that follow.
 *
 * What  streams_kernel: S' = post y + C S for 64 channels of a row, and what they add to the 24 coefficients of the next half.
 *       mix_in_kernel: coefficients, x = pre . S, its norm, and x rounded to int8 and to pairs of halves.
 * How   y may still be apart: one part for each expert and one for the shared expert, added here.  One block of mix_in makes
 *       x, a second one beside it the coefficients: the Sinkhorn passes take longer than x, and nobody waits for C here.
 * Careful
 *       - A block holds all four streams of its channels: it reads them all before it writes one.
 * Source: docs/model.md 4-6. */
#include "fuse.cuh"
#include "streams.cuh"

static const int CHANNELS = 64, SUMS = GEOM_MIX + 1;

bool few_streams_fit(const struct dw *fn, int d)
{
	return d % 256 == 0 && !rounds(fn->type) && fn->out == GEOM_MIX;
}

/* Grid: d / CHANNELS, rows; 256 threads. */
static __global__ void __launch_bounds__(256) streams_kernel(struct streams a)
{
	__shared__ __align__(16) float s[GEOM_STREAMS * CHANNELS];
	const int t = blockIdx.y, c0 = blockIdx.x * CHANNELS, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
	const int k = threadIdx.x / CHANNELS, i = c0 + threadIdx.x % CHANNELS, at = lane / 8 * CHANNELS + lane % 8 * 8;
	float *row = a.s + (size_t)t * a.d * GEOM_STREAMS, w[3][8], v;

	follow_lead();
	if (a.fn.a)	/* the warp's three coefficients, the lane's eight channels of one stream */
#pragma unroll
		for (int o = 0; o < 3; o++)
			plain8(a.fn, ((size_t)(3 * warp + o) * GEOM_STREAMS + lane / 8) * a.d + c0 + lane % 8 * 8, w[o]);
	follow_wait();
	v = row[(size_t)k * a.d + i];
	if (a.coef) {
		const float *post = a.coef + (size_t)t * GEOM_MIX + GEOM_STREAMS, *c = post + GEOM_STREAMS;
		float y = a.y ? a.y[(size_t)t * a.d + i] : gather_part(a.part, t, i, a.used, a.pairs, a.shared, a.d);

		s[threadIdx.x] = v;
		__syncthreads();
		v = post[k] * y;
		for (int j = 0; j < GEOM_STREAMS; j++)
			v += c[4 * j + k] * s[j * CHANNELS + threadIdx.x % CHANNELS];
		row[(size_t)k * a.d + i] = v;
		__syncthreads();
	}
	if (!a.fn.a)
		return;
	s[threadIdx.x] = v;
	__syncthreads();
	float4 x = *(const float4 *)(s + at), y = *(const float4 *)(s + at + 4);
	const float f[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
	float *to = a.mix + ((size_t)t * gridDim.x + blockIdx.x) * SUMS, square = 0;

#pragma unroll
	for (int o = 0; o < 3; o++) {
		float dot = 0;

#pragma unroll
		for (int j = 0; j < 8; j++)
			dot += w[o][j] * f[j];
		dot = warp_sum(dot);
		if (!lane)
			to[3 * warp + o] = dot;
	}
	if (warp)
		return;
#pragma unroll
	for (int j = 0; j < 8; j++)
		square += f[j] * f[j];
	square = warp_sum(square);
	if (!lane)
		to[GEOM_MIX] = square;
}

/* Sum o of a row over the blocks of streams_kernel; a warp. */
static __device__ inline float mix_sum(const float *mix, int slices, int o)
{
	float v = 0;

#pragma unroll 2
	for (int i = threadIdx.x % WARP; i < slices; i += WARP)
		v += mix[(size_t)i * SUMS + o];
	return warp_sum(v);
}

/* Grid: 2, rows; d / 4 threads, at most 1024. */
static __global__ void __launch_bounds__(1024) mix_in_kernel(struct mix_in a)
{
	__shared__ float m[SUMS], room[33], out[GEOM_MIX];
	const int t = blockIdx.y, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP, slices = a.d / CHANNELS;
	const float *mix = a.mix + (size_t)t * slices * SUMS, *s = a.s + (size_t)t * a.d * GEOM_STREAMS;
	const bool coefs = blockIdx.x == 1;
	const int first = min(4 * (int)threadIdx.x, a.d - 4);
	float sum = 0, r, norm[4], base[GEOM_STREAMS], scale;
	float4 held[GEOM_STREAMS];	/* the thread's first channels */

	follow_lead();
	scale = weight_at(a.scale, 0);
#pragma unroll
	for (int j = 0; j < 4; j++) {
		base[j] = weight_at(a.base, j);
		norm[j] = weight_at(a.norm, first + j);
	}
	follow_wait();
#pragma unroll
	for (int j = 0; j < GEOM_STREAMS; j++)
		held[j] = *(const float4 *)(s + (size_t)j * a.d + first);
#pragma unroll 1
	for (int o = warp; o < (coefs ? SUMS : GEOM_STREAMS + 1); o += warps) {
		const int which = coefs || o < GEOM_STREAMS ? o : GEOM_MIX;
		float v = mix_sum(mix, slices, which);

		if (!lane)
			m[which] = v;
	}
	__syncthreads();
	r = 1 / sqrtf(m[GEOM_MIX] / (a.d * GEOM_STREAMS) + 1e-6f);
	if (coefs) {
		if (warp)
			return;
		if (lane < GEOM_MIX)
			m[lane] *= r;
		__syncwarp();
		hc_coefficients(out, m, a.scale, a.base, a.iterations);
		__syncwarp();
		if (lane < GEOM_MIX)
			a.coef[(size_t)t * GEOM_MIX + lane] = out[lane];
		return;
	}
	float pre[GEOM_STREAMS];
	float4 mine = make_float4(0, 0, 0, 0);

#pragma unroll
	for (int j = 0; j < GEOM_STREAMS; j++)
		pre[j] = hc_sigmoid(m[j] * r * scale + base[j]) + 1e-6f;
#pragma unroll 1
	for (int i = 4 * threadIdx.x; i < a.d; i += 4 * blockDim.x) {
		float4 v = make_float4(0, 0, 0, 0);

#pragma unroll
		for (int j = 0; j < GEOM_STREAMS; j++) {
			float4 x = i == first ? held[j] : *(const float4 *)(s + (size_t)j * a.d + i);

			v.x += pre[j] * x.x, v.y += pre[j] * x.y, v.z += pre[j] * x.z, v.w += pre[j] * x.w;
		}
		sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
		if (i == first)
			mine = v;
		else
			*(float4 *)(a.x + (size_t)t * a.d + i) = v;
	}
	sum = block_sum(sum, room);
	r = 1 / sqrtf(sum / a.d + 1e-6f);
#pragma unroll 1
	for (int i = 4 * threadIdx.x; i < a.d; i += 4 * blockDim.x) {
		float4 *at = (float4 *)(a.x + (size_t)t * a.d + i), v = i == first ? mine : *at;
		__half2 h[2], l[2];

		v.x *= r * (i == first ? norm[0] : weight_at(a.norm, i));
		v.y *= r * (i == first ? norm[1] : weight_at(a.norm, i + 1));
		v.z *= r * (i == first ? norm[2] : weight_at(a.norm, i + 2));
		v.w *= r * (i == first ? norm[3] : weight_at(a.norm, i + 3));
		*at = v;
		h[0] = __floats2half2_rn(v.x, v.y);
		h[1] = __floats2half2_rn(v.z, v.w);
		l[0] = __floats2half2_rn(v.x - __half2float(h[0].x), v.y - __half2float(h[0].y));
		l[1] = __floats2half2_rn(v.z - __half2float(h[1].x), v.w - __half2float(h[1].y));
		*(uint2 *)(a.h + (size_t)t * a.d + i) = *(uint2 *)h;
		*(uint2 *)(a.low + (size_t)t * a.d + i) = *(uint2 *)l;
		store_rounded4(a.q + (size_t)t * a.d, a.qd + (size_t)t * (a.d / 32), v, i);
	}
}

void few_streams(struct eng *e, struct streams *a, int rows)
{
	if (a->fn.a) {
		a->mix = (float *)eng_scratch(e, S_MIX, (size_t)rows * (a->d / CHANNELS) * SUMS * sizeof(float));
		if (!a->mix)
			return;
	}
	LAUNCH(e, streams_kernel, dim3(a->d / CHANNELS, rows), 256, 0, *a);
}

void few_mix_in(struct eng *e, struct mix_in *a, int rows)
{
	a->mix = (const float *)eng_scratch(e, S_MIX, 0);
	LAUNCH(e, mix_in_kernel, dim3(2, rows), min(1024, a->d / 4), 0, *a);
}
