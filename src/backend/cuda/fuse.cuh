/* fuse.cuh - what plan.cu puts together from records, and the kernels' arguments. */
#ifndef DS4_CUDA_FUSE_CUH
#define DS4_CUDA_FUSE_CUH

#include "attn.cuh"
#include "product.cuh"

struct attn_small {
	const float *low;		/* [rows, low_width] before its norm */
	int32_t low_width;
	struct dw low_norm;
	int8_t *low_q;			/* forms of the normed rows; low_h may be NULL */
	float *low_d;
	__half *low_h, *low_l;
	const float *kv, *freq;		/* [rows, 512] before norm and rotation */
	struct dw kv_norm;
	uint8_t *fresh;
	int32_t fresh_rows, pools, spans;
	float2 *turn;			/* out: cos, sin [rows, 32] */
	struct pooling pool[2];
};

struct attn_choose {
	const float *q, *weight;	/* before rotation [rows, heads * 128]; [rows, heads] */
	const float2 *turn;
	int32_t *pick;
	struct kv_layer l;
	int32_t heads, top_k, most;
};

/* attn_few.cu */
void few_small(struct eng *e, const struct attn_small *a, int rows);
void few_choose(struct eng *e, const struct attn_choose *a, int rows);
void few_attend(struct eng *e, struct attending *a, const float2 *turn, int8_t *q, float *d, int q_stride, int most, int rows);

/* Runs the records from r on that go together, and returns how many those are; 0: none do. */
int plan_run(struct eng *e, const struct rec *r, int n);

#ifdef __CUDACC__

/* Four of a lane's values of a row, element k on; 8 lanes hold a group. */
static __device__ inline void store_rounded4(int8_t *q, float *d, float4 v, int k)
{
	float top = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))), scale;
	int bad = !(fabsf(v.x) < INFINITY) | !(fabsf(v.y) < INFINITY) | !(fabsf(v.z) < INFINITY) | !(fabsf(v.w) < INFINITY);
	int code = 0;

	for (int o = 4; o; o >>= 1) {
		top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
		bad |= __shfl_xor_sync(~0u, bad, o);
	}
	scale = top / 127;
	if (top > 0 && !bad) {
		const float f[4] = {v.x, v.y, v.z, v.w};

#pragma unroll
		for (int j = 0; j < 4; j++)
			code |= (max(-127, min(127, (int)rintf(f[j] / scale))) & 255) << 8 * j;
	}
	*(int *)(q + place_of(k)) = code;
	if (k % 32 == 0)
		d[k / 32] = bad ? NAN : scale;
}

#endif
#endif
