/* rows.cu - the operations that work row by row: embedding, norms, rotation, residual streams, router.
 *
 * How  One block (or one warp) a row; sums go over a fixed tree, so a row has the same bits in any step.
 * Careful
 *      - C is used transposed: stream j flows into stream k with weight C[j][k].
 *      - eps is added after the softmax and to the sums of the Sinkhorn passes.
 *      - Selection of experts uses p + bias, their weights use p alone.
 * Source: docs/model.md 4-8; definition: ref/ref.c. */
#include "cuda_int.cuh"
#include "decode.cuh"
#include "streams.cuh"

#define EPS 1e-6f

/* ------------------------------------------------------------------ embedding */

static __global__ void embed_kernel(struct dstep s, float *streams, struct dw w)
{
	follow();
	int t = blockIdx.x, d = w.in;
	size_t row = (size_t)s.row[t].token;
	float *y = streams + (size_t)t * d * GEOM_STREAMS;

	for (int k = threadIdx.x; k < d; k += blockDim.x) {
		float v = decode1(w, row, k);

		for (int j = 0; j < GEOM_STREAMS; j++)
			y[(size_t)j * d + k] = v;
	}
}

void k_embed(struct eng *e, const struct rec *r)
{
	LAUNCH(e, embed_kernel, r->n_rows, 256, 0, e->st, (float *)r->p[0], r->w[0]);
}

/* ------------------------------------------------------------------ norms, rotation */

static __global__ void rms_kernel(float *y, const float *x, struct dw w, int width, int group)
{
	follow();
	__shared__ float room[33];
	size_t at = (size_t)blockIdx.x * width + (size_t)blockIdx.y * group;
	float sum = 0, r;

	for (int i = threadIdx.x; i < group; i += blockDim.x)
		sum += x[at + i] * x[at + i];
	sum = block_sum(sum, room);
	r = 1 / sqrtf(sum / group + EPS);
	for (int i = threadIdx.x; i < group; i += blockDim.x)
		y[at + i] = x[at + i] * r * (w.a ? weight_at(w, i) : 1);
}

void k_rms_norm(struct eng *e, const struct rec *r)
{
	int width = r->i[0], group = r->i[1];
	dim3 grid(r->n_rows, width / group);

	LAUNCH(e, rms_kernel, grid, group >= 1024 ? 256 : 128, 0, (float *)r->p[0], (const float *)r->p[1], r->w[0], width,
	       group);
}

static __global__ void rope_kernel(struct dstep s, float *x, const float *freq, int heads, int width, int inverse)
{
	follow();
	int t = blockIdx.x, pos = s.row[t].pos;

	for (int i = threadIdx.x + blockIdx.y * blockDim.x; i < heads * 32; i += blockDim.x * gridDim.y) {
		int h = i / 32, j = i % 32;

		rope_pair(x + ((size_t)t * heads + h) * width + width - GEOM_ROT + 2 * j, freq[j], pos, inverse);
	}
}

void k_rope(struct eng *e, const struct rec *r)
{
	dim3 grid(r->n_rows, div_up(r->i[0] * 32, 256));

	LAUNCH(e, rope_kernel, grid, 256, 0, e->st, (float *)r->p[0], (const float *)r->p[1], r->i[0], r->i[1], r->i[2]);
}

/* ------------------------------------------------------------------ residual streams */

/* mix[t, o] = fn[o] . RMS(streams of a row): one block for each (o, t). */
static __global__ void mix_kernel(struct dstep s, float *mix, const float *streams, struct dw fn, int by_logit)
{
	follow();
	__shared__ float room[33];
	int o = blockIdx.x, i = blockIdx.y, n = fn.in, t = by_logit ? s.logit_row[i] : i;
	const float *x = streams + (size_t)t * n;
	float dot = 0, square = 0;

	for (int k = threadIdx.x * 8; k < n; k += blockDim.x * 8) {
		float w[8];
		float4 a = *(const float4 *)(x + k), b = *(const float4 *)(x + k + 4);

		plain8(fn, (size_t)o * n + k, w);
		dot += w[0] * a.x + w[1] * a.y + w[2] * a.z + w[3] * a.w;
		dot += w[4] * b.x + w[5] * b.y + w[6] * b.z + w[7] * b.w;
		square += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
		square += b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
	}
	dot = block_sum(dot, room);
	square = block_sum(square, room);
	if (!threadIdx.x)
		mix[(size_t)i * fn.out + o] = dot / sqrtf(square / n + EPS);
}

static const int MIX_ROWS = 4;

/* The same for many rows: a block makes all coefficients of four rows, so that streams and weights are read less often. */
static __global__ void __launch_bounds__(256) mix_many_kernel(float *mix, const float *streams, struct dw fn, int n_rows)
{
	follow();
	__shared__ float part[256 / WARP][MIX_ROWS][GEOM_MIX + 1];
	const int t0 = blockIdx.x * MIX_ROWS, n = fn.in, live = min(MIX_ROWS, n_rows - t0), warp = threadIdx.x / WARP;
	float acc[MIX_ROWS][GEOM_MIX + 1];	/* the dots, then the sum of squares */

#pragma unroll
	for (int i = 0; i < MIX_ROWS; i++)
#pragma unroll
		for (int o = 0; o <= GEOM_MIX; o++)
			acc[i][o] = 0;
	for (int k = threadIdx.x * 8; k < n; k += blockDim.x * 8) {
		float x[MIX_ROWS][8];

#pragma unroll
		for (int i = 0; i < MIX_ROWS; i++) {
			const float4 *from = (const float4 *)(streams + (size_t)(t0 + min(i, live - 1)) * n + k);
			float4 a = from[0], b = from[1];

			x[i][0] = a.x, x[i][1] = a.y, x[i][2] = a.z, x[i][3] = a.w;
			x[i][4] = b.x, x[i][5] = b.y, x[i][6] = b.z, x[i][7] = b.w;
#pragma unroll
			for (int j = 0; j < 8; j++)
				acc[i][GEOM_MIX] += x[i][j] * x[i][j];
		}
#pragma unroll
		for (int o = 0; o < GEOM_MIX; o++) {
			float w[8];

			plain8(fn, (size_t)o * n + k, w);
#pragma unroll
			for (int i = 0; i < MIX_ROWS; i++)
#pragma unroll
				for (int j = 0; j < 8; j++)
					acc[i][o] += w[j] * x[i][j];
		}
	}
#pragma unroll
	for (int i = 0; i < MIX_ROWS; i++)
#pragma unroll
		for (int o = 0; o <= GEOM_MIX; o++) {
			float v = warp_sum(acc[i][o]);

			if (threadIdx.x % WARP == 0)
				part[warp][i][o] = v;
		}
	__syncthreads();
	for (int c = threadIdx.x; c < live * GEOM_MIX; c += blockDim.x) {
		int i = c / GEOM_MIX, o = c % GEOM_MIX;
		float dot = 0, square = 0;

		for (int w = 0; w < 256 / WARP; w++) {
			dot += part[w][i][o];
			square += part[w][i][GEOM_MIX];
		}
		mix[(size_t)(t0 + i) * GEOM_MIX + o] = dot / sqrtf(square / n + EPS);
	}
}

static bool plain(struct eng *e, const struct rec *r)
{
	if (!rounds(r->w[0].type))
		return true;
	eng_fail(e, ERR_FORMAT, "cuda: hyper-connection weights have element type %d, expected F32, F16 or BF16", r->w[0].type);
	return false;
}

/* Coefficients, x = sum_j pre[j] S[j], and when w is given its norm. */
static __global__ void hc_in_kernel(float *x, float *coef, const float *streams, const float *mix, struct dw scale,
				    struct dw base, struct dw w, int d, int iterations)
{
	follow();
	__shared__ float c[GEOM_MIX], room[33];
	int t = blockIdx.x;
	const float *s = streams + (size_t)t * d * GEOM_STREAMS;
	float sum = 0, r;

	if (threadIdx.x < WARP)
		hc_coefficients(c, mix + (size_t)t * GEOM_MIX, scale, base, iterations);
	__syncthreads();
	if (threadIdx.x < GEOM_MIX)
		coef[(size_t)t * GEOM_MIX + threadIdx.x] = c[threadIdx.x];
	for (int i = threadIdx.x; i < d; i += blockDim.x) {
		float v = c[0] * s[i] + c[1] * s[d + i] + c[2] * s[2 * d + i] + c[3] * s[3 * d + i];

		x[(size_t)t * d + i] = v;
		sum += v * v;
	}
	if (!w.a)
		return;
	sum = block_sum(sum, room);
	r = 1 / sqrtf(sum / d + EPS);
	for (int i = threadIdx.x; i < d; i += blockDim.x)
		x[(size_t)t * d + i] *= r * weight_at(w, i);
}

void k_hc_in(struct eng *e, const struct rec *r)
{
	float *mix = (float *)eng_scratch(e, S_MIX, (size_t)r->n_rows * GEOM_MIX * sizeof(float));
	struct dw norm = {0};
	dim3 grid(GEOM_MIX, r->n_rows);
	const bool few = r->n_rows <= e->matvec_rows;	/* few blocks: more threads in each; a class, so bits stay equal */

	if (!mix || !plain(e, r))
		return;
	if (r->p[3])
		norm = *(const struct dw *)r->p[3];
	if (few)
		LAUNCH(e, mix_kernel, grid, r->w[0].in >= 8192 ? 1024 : 256, 0, e->st, mix, (const float *)r->p[2], r->w[0], 0);
	else
		LAUNCH(e, mix_many_kernel, div_up(r->n_rows, MIX_ROWS), 256, 0, mix, (const float *)r->p[2], r->w[0], r->n_rows);
	LAUNCH(e, hc_in_kernel, r->n_rows, few && r->i[0] >= 4096 ? 1024 : r->i[0] >= 1024 ? 512 : 128, 0, (float *)r->p[0],
	       (float *)r->p[1], (const float *)r->p[2], mix, r->w[1], r->w[2], norm, r->i[0], r->i[1]);
}

static __global__ void hc_head_kernel(struct dstep s, float *x, const float *streams, const float *mix, struct dw scale,
				      struct dw base, int d)
{
	follow();
	int i = blockIdx.x;
	const float *st = streams + (size_t)s.logit_row[i] * d * GEOM_STREAMS;
	float pre[GEOM_STREAMS];

	for (int j = 0; j < GEOM_STREAMS; j++)
		pre[j] = hc_sigmoid(mix[i * GEOM_STREAMS + j] * weight_at(scale, 0) + weight_at(base, j)) + EPS;
	for (int k = threadIdx.x; k < d; k += blockDim.x)
		x[(size_t)i * d + k] = pre[0] * st[k] + pre[1] * st[d + k] + pre[2] * st[2 * d + k] + pre[3] * st[3 * d + k];
}

void k_hc_head(struct eng *e, const struct rec *r)
{
	float *mix = (float *)eng_scratch(e, S_MIX, ((size_t)r->n_logits + 1) * GEOM_MIX * sizeof(float));
	dim3 grid(GEOM_STREAMS, r->n_logits);

	if (!mix || !r->n_logits || !plain(e, r))
		return;
	LAUNCH(e, mix_kernel, grid, 256, 0, e->st, mix, (const float *)r->p[1], r->w[0], 1);
	LAUNCH(e, hc_head_kernel, r->n_logits, 256, 0, e->st, (float *)r->p[0], (const float *)r->p[1], mix, r->w[1],
	       r->w[2], r->i[0]);
}

static __global__ void hc_out_kernel(float *streams, const float *coef, const float *y, int d)
{
	follow();
	int t = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;
	float *s = streams + (size_t)t * d * GEOM_STREAMS;
	const float *post = coef + (size_t)t * GEOM_MIX + GEOM_STREAMS, *c = post + GEOM_STREAMS;
	float old[GEOM_STREAMS], v;

	if (i >= d)
		return;
	v = y[(size_t)t * d + i];
	for (int j = 0; j < GEOM_STREAMS; j++)
		old[j] = s[(size_t)j * d + i];
	for (int k = 0; k < GEOM_STREAMS; k++) {
		float sum = post[k] * v;

		for (int j = 0; j < GEOM_STREAMS; j++)
			sum += c[4 * j + k] * old[j];
		s[(size_t)k * d + i] = sum;
	}
}

void k_hc_out(struct eng *e, const struct rec *r)
{
	dim3 grid(div_up(r->i[0], 256), r->n_rows);

	LAUNCH(e, hc_out_kernel, grid, 256, 0, (float *)r->p[0], (const float *)r->p[1], (const float *)r->p[2], r->i[0]);
}

/* ------------------------------------------------------------------ small ones */

static __global__ void swiglu_kernel(float *h, const float *g, const float *u, float limit, size_t n)
{
	follow();
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)
		h[i] = swiglu1(g[i], u[i], limit);
}

void k_swiglu(struct eng *e, const struct rec *r)
{
	size_t n = (size_t)r->n_rows * r->i[0];

	LAUNCH(e, swiglu_kernel, (unsigned)((n + 255) / 256), 256, 0, (float *)r->p[0], (const float *)r->p[1],
	       (const float *)r->p[2], r->f[0], n);
}

static __global__ void add_kernel(float *y, const float *x, size_t n)
{
	follow();
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)
		y[i] += x[i];
}

void k_add(struct eng *e, const struct rec *r)
{
	size_t n = (size_t)r->n_rows * r->i[0];

	LAUNCH(e, add_kernel, (unsigned)((n + 255) / 256), 256, 0, (float *)r->p[0], (const float *)r->p[1], n);
}

/* ------------------------------------------------------------------ router */

static __device__ float root_softplus(float z)
{
	return z < -15 ? expf(0.5f * z) : sqrtf(log1pf(expf(-fabsf(z))) + fmaxf(z, 0));
}

/* One warp a row; p and rank [E] in shared memory. */
static __global__ void route_kernel(struct dstep s, int32_t *idx, float *gate, const float *logits, struct dw bias,
				    struct dw table, int experts, int used, float scale)
{
	follow();
	DYNAMIC(float, p);
	float *rank = p + experts, sum = 0;
	int t = blockIdx.x, lane = threadIdx.x;
	int32_t *out = idx + (size_t)t * used;

	for (int i = lane; i < experts; i += WARP) {
		p[i] = root_softplus(logits[(size_t)t * experts + i]);
		rank[i] = p[i] + (bias.a ? weight_at(bias, i) : 0);
	}
	__syncwarp();
	for (int k = 0; k < used && !table.a; k++) {
		float best = -INFINITY;
		int at = experts;

		for (int i = lane; i < experts; i += WARP)
			if (rank[i] > best) {
				best = rank[i];
				at = i;
			}
		for (int o = 16; o; o >>= 1) {
			float b = __shfl_xor_sync(~0u, best, o);
			int a = __shfl_xor_sync(~0u, at, o);

			if (b > best || (b == best && a < at)) {
				best = b;
				at = a;
			}
		}
		if (at >= experts)	/* only NaN is left: the row is lost anyway */
			at = k;
		if (!lane) {
			out[k] = at;
			rank[at] = -INFINITY;
		}
		__syncwarp();
	}
	if (table.a && lane < used) {
		int32_t v = ((const int32_t *)table.a)[(size_t)s.row[t].token * used + lane];

		out[lane] = v < 0 || v >= experts ? 0 : v;
	}
	__syncwarp();
	for (int k = 0; k < used; k++)
		sum += p[out[k]];
	if (lane < used)
		gate[(size_t)t * used + lane] = p[out[lane]] / sum * scale;
}

void k_route(struct eng *e, const struct rec *r)
{
	LAUNCH(e, route_kernel, r->n_rows, WARP, 2 * r->i[0] * sizeof(float), e->st, (int32_t *)r->p[0], (float *)r->p[1],
	       (const float *)r->p[2], r->w[0], r->w[1], r->i[0], r->i[1], r->f[0]);
}
