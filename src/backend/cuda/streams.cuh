/* streams.cuh - arguments of the kernels in streams.cu, and the arithmetic of the coefficients. */
#ifndef DS4_CUDA_STREAMS_CUH
#define DS4_CUDA_STREAMS_CUH

#include "cuda_int.cuh"

struct streams {
	float *s;			/* [rows, 4, d] */
	const float *coef;		/* [rows, 24] of the half that ends, or NULL */
	const float *y, *part;		/* its result [rows, d], or NULL and parts (gather_part) */
	int32_t used, pairs, shared, d;
	struct dw fn;			/* coefficients of the half that begins, fn.a NULL: none */
	float *mix;
};

struct mix_in {
	const float *s, *mix;
	float *x, *coef, *qd;		/* x [rows, d] normed, its forms */
	int8_t *q;
	__half *h, *low;
	struct dw scale, base, norm;
	int32_t d, iterations;
};

bool few_streams_fit(const struct dw *fn, int d);
void few_streams(struct eng *e, struct streams *a, int rows);
void few_mix_in(struct eng *e, struct mix_in *a, int rows);

#ifdef __CUDACC__

static __device__ inline float hc_sigmoid(float z)
{
	return 1 / (1 + expf(-z));
}

/* The first 16 lanes hold C[j][k], lane 4 j + k.  Sums along k are over lanes xor 1, 2; along j over xor 4, 8. */
static __device__ inline float hc_sinkhorn(float z, int iterations)
{
	float top = fmaxf(z, __shfl_xor_sync(~0u, z, 1)), sum, c;

	top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
	c = expf(z - top);
	sum = c + __shfl_xor_sync(~0u, c, 1);
	sum += __shfl_xor_sync(~0u, sum, 2);
	c = c / sum + 1e-6f;
#pragma unroll 1
	for (int it = 0; it < iterations; it++) {
		if (it) {
			sum = c + __shfl_xor_sync(~0u, c, 1);
			sum += __shfl_xor_sync(~0u, sum, 2);
			c /= sum + 1e-6f;
		}
		sum = c + __shfl_xor_sync(~0u, c, 4);
		sum += __shfl_xor_sync(~0u, sum, 8);
		c /= sum + 1e-6f;
	}
	return c;
}

/* Coefficients of one row from its mix, by one warp; out[24] in shared memory. */
static __device__ inline void hc_coefficients(float *out, const float *mix, struct dw scale, struct dw base, int iterations)
{
	int lane = threadIdx.x % WARP;
	float z = 0;

	if (lane < 4)
		out[lane] = hc_sigmoid(mix[lane] * weight_at(scale, 0) + weight_at(base, lane)) + 1e-6f;
	else if (lane < 8)
		out[lane] = 2 * hc_sigmoid(mix[lane] * weight_at(scale, 1) + weight_at(base, lane));
	if (lane < 16)
		z = mix[8 + lane] * weight_at(scale, 2) + weight_at(base, 8 + lane);
	z = hc_sinkhorn(z, iterations);
	if (lane < 16)
		out[8 + lane] = z;
}

#endif
#endif
