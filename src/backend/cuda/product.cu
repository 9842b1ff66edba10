/* product.cu - matrix products: the vector kernels for few rows, and which kernel runs when.
 *
 * What  Up to eng.matvec_rows rows (decode, drafts, small batches) a warp takes one output and all rows at hand: weights
 *       are read once, rounded activations meet them in dp4a.  More rows go to the matrix kernel in gemm.cu.
 * Why   Few rows are bound by the bytes of the weights, many by arithmetic.
 * How   Lane l of a warp takes groups l, l + 32, ... of 32 weights; then a fixed tree over lanes.  The order does not
 *       depend on how many rows are done, so a row has the same bits alone and among others.
 *       Experts: one launch for gate, up and SwiGLU of all (row, expert) pairs, one for down and the weighted sum.
 * Careful
 *       - A row's experts are added in the order of its own list.
 *       - The gate weight is multiplied before the down projection. */
#include "cuda_int.cuh"
#include "decode.cuh"

static const int WARPS = 8;
static const int OUTS = 4;	/* outputs of a warp in matvec_block_kernel */
static const int FILL = 264;	/* blocks of the matrix kernel that fill a large device: 2 on each of 132 */

/* ------------------------------------------------------------------ rounding of activations */

/* One warp for each group of 32: d = max|x| / 127, q = round_half_even(x / d), sums of 16. */
static __global__ void round_kernel(int8_t *q, float *d, int16_t *sum, const float *x, size_t groups)
{
	size_t g = (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
	int lane = threadIdx.x % WARP, v, total;
	float f, top, scale;
	bool bad;

	if (g >= groups)
		return;
	f = x[g * 32 + lane];
	bad = __any_sync(~0u, !(fabsf(f) < INFINITY));
	top = fabsf(f);
	for (int o = 16; o; o >>= 1)
		top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
	scale = top / 127;
	v = top > 0 && !bad ? (int)rintf(f / scale) : 0;
	v = max(-127, min(127, v));
	total = v;
	for (int o = 8; o; o >>= 1)
		total += __shfl_xor_sync(~0u, total, o);
	q[g * 32 + lane] = (int8_t)v;
	if (!(lane & 15))
		sum[g * 2 + lane / 16] = (int16_t)total;
	if (!lane)
		d[g] = bad ? NAN : scale;
}

static __global__ void half_kernel(__half *h, const float *x, size_t n)
{
	size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;

	if (i >= n)
		return;
	float4 v = *(const float4 *)(x + i);
	__half2 a, b;

	/* A NaN passes min and max below as a number: keep it. */
	a = __floats2half2_rn(isnan(v.x) ? v.x : fminf(fmaxf(v.x, -65504.f), 65504.f),
			      isnan(v.y) ? v.y : fminf(fmaxf(v.y, -65504.f), 65504.f));
	b = __floats2half2_rn(isnan(v.z) ? v.z : fminf(fmaxf(v.z, -65504.f), 65504.f),
			      isnan(v.w) ? v.w : fminf(fmaxf(v.w, -65504.f), 65504.f));
	((__half2 *)(h + i))[0] = a;
	((__half2 *)(h + i))[1] = b;
}

/* Another form of n rows of x, made unless it is there. */
static struct slot *form(struct eng *e, const float *x, int32_t width, int32_t n, int32_t half)
{
	size_t count = (size_t)width * n;
	size_t bytes = half ? count * 2 : count + count / 32 * 4 + count / 16 * 2;
	struct slot *s = &e->slot[0];

	for (int i = 0; i < SLOTS; i++) {
		struct slot *c = &e->slot[i];

		if (c->src == x && c->width == width && c->n == n && c->half == half) {
			c->used = ++e->clock;
			return c;
		}
		if (c->used < s->used)
			s = c;
	}
	s->src = NULL;
	if (s->room < bytes) {
		if (s->mem)
			cudaFree(s->mem);
		s->mem = NULL;
		s->room = 0;
		if (cudaMalloc(&s->mem, bytes) != cudaSuccess) {
			cudaGetLastError();
			eng_fail(e, ERR_MEMORY, "cuda: no device memory for %zu bytes of rounded activations", bytes);
			return NULL;
		}
		s->room = bytes;
		e->grown = 1;
	}
	s->src = x;
	s->width = width;
	s->n = n;
	s->half = half;
	s->used = ++e->clock;
	if (half) {
		s->h = (__half *)s->mem;
		LAUNCH(e, half_kernel, (unsigned)((count / 4 + 255) / 256), 256, 0, s->h, x, count);
	} else {
		s->q = (int8_t *)s->mem;
		s->d = (float *)(s->mem + count);
		s->sum = (int16_t *)(s->mem + count + count / 32 * 4);
		LAUNCH(e, round_kernel, (unsigned)((count / 32 + 7) / 8), 256, 0, s->q, s->d, s->sum, x, count / 32);
	}
	return s;
}

/* ------------------------------------------------------------------ vectors */

struct vec_x {		/* rows of activations, rounded or plain */
	const int8_t *q;
	const float *d;
	const int16_t *sum;
	const float *f;
	int32_t width;
};

/* Adds weight row `row` times NR activation rows, from element x0 of each, to acc (one lane's part).  Several warps can
 * share a row: warp `part` of `parts`. */
template <int T, int NR>
static __device__ inline void lane_dots(float acc[NR], const struct dw &w, size_t row, const struct vec_x &x, size_t x_row,
					int x0, int n, const uint2 *grid, int part = 0, int parts = 1)
{
	int lane = threadIdx.x % WARP + part * WARP, stride = parts * WARP;

	if constexpr (T == DTYPE_Q8_0 || T == DTYPE_Q2_K || T == DTYPE_Q4_K || T == DTYPE_IQ2_XXS) {
#pragma unroll 4
		for (int g = lane; g < w.in / 32; g += stride) {
			struct ready r = ready_group<T>(load_group<T>(w, row, g), g, grid);

#pragma unroll
			for (int i = 0; i < NR; i++) {
				if (NR > 1 && i >= n)
					break;
				size_t at = (x_row + i) * x.width + x0 + g * 32;
				const int4 *q = (const int4 *)(x.q + at);

				acc[i] = add_group<T>(acc[i], r, q[0], q[1], x.d[at / 32], *(const uint32_t *)(x.sum + at / 16));
			}
		}
	} else {
#pragma unroll 4
		for (int k = lane * 8; k < w.in; k += stride * 8) {
			float v[8];

			{	/* the type is known here: plain8 becomes one branch */
				struct dw p = w;

				p.type = T;
				plain8(p, row * w.in + k, v);
			}
#pragma unroll
			for (int i = 0; i < NR; i++) {
				if (NR > 1 && i >= n)
					break;
				const float4 *f = (const float4 *)(x.f + (x_row + i) * x.width + x0 + k);
				float4 a = f[0], b = f[1];
				float c = __fmaf_rn(v[3], a.w, __fmaf_rn(v[2], a.z, __fmaf_rn(v[1], a.y, __fmul_rn(v[0], a.x))));

				c = __fmaf_rn(v[7], b.w, __fmaf_rn(v[6], b.z, __fmaf_rn(v[5], b.y, __fmaf_rn(v[4], b.x, c))));
				acc[i] = __fadd_rn(acc[i], c);
			}
		}
	}
}

/* Adds group g of a weight row times one row of activations. */
template <int T>
static __device__ inline void one_group(float *acc, const struct dw &w, size_t row, const struct vec_x &x, size_t x_row, int g,
					const uint2 *grid)
{
	size_t at = x_row * x.width + g * 32;
	const int4 *q = (const int4 *)(x.q + at);

	*acc = add_group<T>(*acc, ready_group<T>(load_group<T>(w, row, g), g, grid), q[0], q[1], x.d[at / 32],
			    *(const uint32_t *)(x.sum + at / 16));
}

/* Two matrices of one shape at once: twice the loads under way. */
template <int T>
static __device__ inline void lane_dots2(float *a, float *b, const struct dw &wa, const struct dw &wb, size_t row,
					 const struct vec_x &x, size_t x_row, const uint2 *grid)
{
	if constexpr (T == DTYPE_Q8_0 || T == DTYPE_Q2_K || T == DTYPE_Q4_K || T == DTYPE_IQ2_XXS) {
#pragma unroll 4
		for (int g = threadIdx.x % WARP; g < wa.in / 32; g += WARP) {
			one_group<T>(a, wa, row, x, x_row, g, grid);
			one_group<T>(b, wb, row, x, x_row, g, grid);
		}
	} else {
		lane_dots<T, 1>(a, wa, row, x, x_row, 0, 1, grid);
		lane_dots<T, 1>(b, wb, row, x, x_row, 0, 1, grid);
	}
}

/* y[t, o] = W[o] . x[t]; groups > 1: x shifts by w.in for each out / groups outputs.  Grid: outputs / WARPS, rows / NR. */
template <int T, int NR>
static __global__ void __launch_bounds__(WARPS * WARP)
matvec_kernel(float *y, struct dw w, struct vec_x x, int n_rows, int groups, int parts)
{
	__shared__ uint2 grid[T == DTYPE_IQ2_XXS ? 256 : 1];
	__shared__ float sums[WARPS][NR];
	const int warp = threadIdx.x / WARP, part = warp % parts, t = blockIdx.y * NR, n = min(NR, n_rows - t);
	const int o = (blockIdx.x * WARPS + warp) / parts;
	float acc[NR];

	if (T == DTYPE_IQ2_XXS)
		load_grid(grid);
	if (parts == 1 && o >= w.out)
		return;
	for (int i = 0; i < NR; i++)
		acc[i] = 0;
	if (o < w.out)
		lane_dots<T, NR>(acc, w, o, x, t, groups > 1 ? o / (w.out / groups) * w.in : 0, n, grid, part, parts);
#pragma unroll
	for (int i = 0; i < NR; i++) {
		float v = warp_sum(acc[i]);

		if (threadIdx.x % WARP == 0) {
			if (parts > 1)
				sums[warp][i] = v;
			else if (i < n)
				y[(size_t)(t + i) * w.out + o] = v;
		}
	}
	if (parts == 1)
		return;
	__syncthreads();
	if (part || o >= w.out || threadIdx.x % WARP >= n)
		return;
	float v = 0;

	for (int p = 0; p < parts; p++)
		v += sums[warp + p][threadIdx.x % WARP];
	y[(size_t)(t + threadIdx.x % WARP) * w.out + o] = v;
}

/* Warps that share an output of a small matrix: a function of its shape alone, because it decides the order of sums. */
static int parts_of(const struct dw *w)
{
	int parts = 1, units = w->in / (rounds(w->type) ? 32 : 8);

	while (w->out < 2048 && parts < WARPS && w->out * parts * 2 <= 8192 && units >= parts * 2 * WARP)
		parts *= 2;
	return parts;
}

/* The same with OUTS outputs to a warp: activations that were loaded once meet OUTS weight rows.  Every (row, output) is
 * summed as above, so the bits are the same. */
template <int T, int NR>
static __global__ void __launch_bounds__(WARPS * WARP, 2)
matvec_block_kernel(float *y, struct dw w, struct vec_x x, int n_rows, int groups)
{
	__shared__ uint2 grid[T == DTYPE_IQ2_XXS ? 256 : 1];
	const int lane = threadIdx.x % WARP, o0 = (blockIdx.x * WARPS + threadIdx.x / WARP) * OUTS, t = blockIdx.y * NR;
	const int n = min(NR, n_rows - t), x0 = groups > 1 ? o0 / (w.out / groups) * w.in : 0;
	float acc[OUTS][NR];

	if (T == DTYPE_IQ2_XXS)
		load_grid(grid);
	if (o0 >= w.out)
		return;
#pragma unroll
	for (int j = 0; j < OUTS; j++)
#pragma unroll
		for (int i = 0; i < NR; i++)
			acc[j][i] = 0;
	for (int g = lane; g < w.in / 32; g += WARP) {
		struct ready r[OUTS];

#pragma unroll
		for (int j = 0; j < OUTS; j++)
			r[j] = ready_group<T>(load_group<T>(w, o0 + j, g), g, grid);
#pragma unroll
		for (int i = 0; i < NR; i++) {
			size_t at = (size_t)(t + min(i, n - 1)) * x.width + x0 + g * 32;
			const int4 *q = (const int4 *)(x.q + at);
			int4 q0 = q[0], q1 = q[1];
			float d = x.d[at / 32];
			uint32_t sum = *(const uint32_t *)(x.sum + at / 16);

#pragma unroll
			for (int j = 0; j < OUTS; j++)
				acc[j][i] = add_group<T>(acc[j][i], r[j], q0, q1, d, sum);
		}
	}
#pragma unroll
	for (int j = 0; j < OUTS; j++)
#pragma unroll
		for (int i = 0; i < NR; i++) {
			float v = warp_sum(acc[j][i]);

			if (i < n && !lane)
				y[(size_t)(t + i) * w.out + o0 + j] = v;
		}
}

/* Activations in the form that a type reads. */
static bool vec_form(struct eng *e, struct vec_x *x, const float *f, int32_t width, int32_t n, int type)
{
	*x = (struct vec_x){.f = f, .width = width};
	if (!rounds(type))
		return true;
	struct slot *s = form(e, f, width, n, 0);

	if (!s)
		return false;
	x->q = s->q;
	x->d = s->d;
	x->sum = s->sum;
	return true;
}

#define EACH_TYPE(X) X(DTYPE_F32) X(DTYPE_F16) X(DTYPE_BF16) X(DTYPE_Q8_0) X(DTYPE_Q2_K) X(DTYPE_Q4_K) X(DTYPE_IQ2_XXS)

static void matvec_block(struct eng *e, float *y, const struct dw *w, const struct vec_x *x, int32_t n, int32_t groups)
{
	const int nr = n <= 4 ? 4 : 8;
	dim3 grid(div_up(w->out, WARPS * OUTS), div_up(n, nr));

	switch (w->type) {
#define X(T)                                                                                                      \
	case T:                                                                                                   \
		if (nr == 4)                                                                                      \
			LAUNCH(e, (matvec_block_kernel<T, 4>), grid, WARPS * WARP, 0, y, *w, *x, n, groups);      \
		else                                                                                              \
			LAUNCH(e, (matvec_block_kernel<T, 8>), grid, WARPS * WARP, 0, y, *w, *x, n, groups);      \
		break;
		X(DTYPE_Q8_0) X(DTYPE_Q2_K) X(DTYPE_Q4_K) X(DTYPE_IQ2_XXS)
#undef X
	}
}

static void matvec(struct eng *e, float *y, const struct dw *w, const float *f, int32_t n, int32_t groups)
{
	struct vec_x x;
	int nr = n == 1 ? 1 : n == 2 ? 2 : n <= 4 ? 4 : 8;
	int parts = parts_of(w);
	dim3 grid(div_up(w->out * parts, WARPS), div_up(n, nr));

	if (!vec_form(e, &x, f, w->in * groups, n, w->type))
		return;
	if (nr >= 4 && rounds(w->type) && w->out >= 2048 && w->out / groups % OUTS == 0) {
		matvec_block(e, y, w, &x, n, groups);
		return;
	}
	switch (w->type) {
#define X(T)                                                                                                   \
	case T:                                                                                                \
		if (nr == 1)                                                                                   \
			LAUNCH(e, (matvec_kernel<T, 1>), grid, WARPS * WARP, 0, y, *w, x, n, groups, parts);   \
		else if (nr == 2)                                                                              \
			LAUNCH(e, (matvec_kernel<T, 2>), grid, WARPS * WARP, 0, y, *w, x, n, groups, parts);   \
		else if (nr == 4)                                                                              \
			LAUNCH(e, (matvec_kernel<T, 4>), grid, WARPS * WARP, 0, y, *w, x, n, groups, parts);   \
		else                                                                                           \
			LAUNCH(e, (matvec_kernel<T, 8>), grid, WARPS * WARP, 0, y, *w, x, n, groups, parts);   \
		break;
		EACH_TYPE(X)
#undef X
	default:
		eng_fail(e, ERR_FORMAT, "cuda: no product kernel for element type %d", w->type);
	}
}

static void matmul(struct eng *e, float *y, const struct dw *w, const float *x, int32_t n, int32_t groups)
{
	if (n <= e->matvec_rows) {
		matvec(e, y, w, x, n, groups);
		return;
	}
	struct slot *s = form(e, x, w->in * groups, n, 1);
	struct gemm_args g = {};

	if (!s)
		return;
	g.a = s->h;
	g.lda = (int64_t)w->in * groups;
	g.w = *w;
	g.c = y;
	g.ldc = w->out;
	g.m = n;
	g.groups = groups;
	k_gemm(e, &g, 0, div_up(w->out / groups, 128) * div_up(n, 128) * groups < FILL ? 64 : 128);
}

/* p: y, x; i: groups */
void k_matmul(struct eng *e, const struct rec *r)
{
	if (r->n_rows)
		matmul(e, (float *)r->p[0], &r->w[0], (const float *)r->p[1], r->n_rows, r->i[0]);
}

/* ------------------------------------------------------------------ experts, few rows */

/* h[pair, f] = weight * swiglu(gate f . x, up f . x).  Grid: F / WARPS, pairs. */
template <int T>
static __global__ void __launch_bounds__(WARPS * WARP)
hidden_kernel(float *h, struct dw gate, struct dw up, struct vec_x x, const int32_t *idx, const float *weight, int used,
	      float limit)
{
	__shared__ uint2 grid[T == DTYPE_IQ2_XXS ? 256 : 1];
	int f = blockIdx.x * WARPS + threadIdx.x / WARP, pair = blockIdx.y;
	size_t row;
	float g[1] = {0}, u[1] = {0};

	if (T == DTYPE_IQ2_XXS)
		load_grid(grid);
	if (f >= gate.out)
		return;
	row = (size_t)(idx ? idx[pair] : 0) * gate.out + f;
	lane_dots2<T>(g, u, gate, up, row, x, pair / used, grid);
	g[0] = warp_sum(g[0]);
	u[0] = warp_sum(u[0]);
	if (threadIdx.x % WARP == 0)
		h[(size_t)pair * gate.out + f] = swiglu1(g[0], u[0], limit) * (weight ? weight[pair] : 1);
}

/* y[t, o] (+)= sum over the row's experts of down o . h[pair].  Grid: d / WARPS, rows. */
template <int T>
static __global__ void __launch_bounds__(WARPS * WARP)
down_kernel(float *y, struct dw down, struct vec_x h, const int32_t *idx, int used, int add)
{
	__shared__ uint2 grid[T == DTYPE_IQ2_XXS ? 256 : 1];
	int o = blockIdx.x * WARPS + threadIdx.x / WARP, t = blockIdx.y;
	float acc[1] = {0};

	if (T == DTYPE_IQ2_XXS)
		load_grid(grid);
	if (o >= down.out)
		return;
	if constexpr (T == DTYPE_Q8_0 || T == DTYPE_Q2_K || T == DTYPE_Q4_K || T == DTYPE_IQ2_XXS) {
		/* One loop over (expert, group) in fours: loads of several experts are under way together. */
		const int lane = threadIdx.x % WARP, groups = down.in / 32, rounds = div_up(groups, WARP);

		for (int i0 = 0, k = 0, c = 0; i0 < used * rounds; i0 += 4) {
			struct group raw[4];
			size_t at[4];
			int group[4];

#pragma unroll
			for (int i = 0; i < 4; i++) {
				int expert = idx ? idx[t * used + k] : 0, g = min(c * WARP + lane, groups - 1);

				raw[i] = load_group<T>(down, (size_t)expert * down.out + o, g);
				at[i] = ((size_t)t * used + k) * h.width + g * 32;
				group[i] = i0 + i < used * rounds && c * WARP + lane < groups ? g : -1;
				if (++c == rounds && k + 1 < used)
					c = 0, k++;
			}
#pragma unroll
			for (int i = 0; i < 4; i++) {
				const int4 *q = (const int4 *)(h.q + at[i]);
				float next = add_group<T>(acc[0], ready_group<T>(raw[i], max(group[i], 0), grid), q[0], q[1],
							  h.d[at[i] / 32], *(const uint32_t *)(h.sum + at[i] / 16));

				acc[0] = group[i] < 0 ? acc[0] : next;
			}
		}
	} else {
		for (int k = 0; k < used; k++)
			lane_dots<T, 1>(acc, down, (size_t)(idx ? idx[t * used + k] : 0) * down.out + o, h,
					(size_t)t * used + k, 0, 1, grid);
	}
	acc[0] = warp_sum(acc[0]);
	if (threadIdx.x % WARP == 0) {
		float *at = y + (size_t)t * down.out + o;

		*at = add ? *at + acc[0] : acc[0];
	}
}

static __global__ void swiglu_add_kernel(float *to, const float *g, const float *u, float limit, size_t n)
{
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)	/* without g: to += u */
		to[i] = g ? swiglu1(g[i], u[i], limit) : to[i] + u[i];
}

/* A shared expert for several rows as three products, which read a weight once for all of them.  Sums run as in the fused
 * kernels, so the bits are the same; false where they would not be. */
static bool shared_few(struct eng *e, float *y, const float *x, const struct dw *gate, const struct dw *up,
		       const struct dw *down, int32_t n, float limit)
{
	const size_t ff = (size_t)n * gate->out, d = (size_t)n * down->out;

	if (n < 4 || !rounds(gate->type) || !rounds(down->type) || parts_of(gate) > 1 || parts_of(down) > 1)
		return false;
	float *g = (float *)eng_scratch(e, S_HIDDEN, ff * 4), *u = (float *)eng_scratch(e, S_HIDDEN2, ff * 4);
	float *part = (float *)eng_scratch(e, S_DOWN, d * 4);

	if (!g || !u || !part)
		return true;
	matvec(e, g, gate, x, n, 1);
	matvec(e, u, up, x, n, 1);
	LAUNCH(e, swiglu_add_kernel, (unsigned)((ff + 255) / 256), 256, 0, g, g, u, limit, ff);
	eng_wrote(e, g);
	matvec(e, part, down, g, n, 1);
	LAUNCH(e, swiglu_add_kernel, (unsigned)((d + 255) / 256), 256, 0, y, NULL, part, limit, d);
	return true;
}

static void ffn_few(struct eng *e, float *y, const float *x, const int32_t *idx, const float *weight, const struct dw *gate,
		    const struct dw *up, const struct dw *down, int32_t n, int32_t used, float limit, int add)
{
	int32_t pairs = n * used;
	float *h = (float *)eng_scratch(e, S_HIDDEN, (size_t)pairs * gate->out * sizeof(float));
	struct vec_x vx, vh;
	dim3 a(div_up(gate->out, WARPS), pairs), b(div_up(down->out, WARPS), n);

	if (!h || !vec_form(e, &vx, x, gate->in, n, gate->type))
		return;
	switch (gate->type) {
#define X(T)                                                                                                        \
	case T:                                                                                                     \
		LAUNCH(e, hidden_kernel<T>, a, WARPS * WARP, 0, h, *gate, *up, vx, idx, weight, used, limit);        \
		break;
		EACH_TYPE(X)
#undef X
	}
	eng_wrote(e, h);
	if (!vec_form(e, &vh, h, down->in, pairs, down->type))
		return;
	switch (down->type) {
#define X(T)                                                                                 \
	case T:                                                                              \
		LAUNCH(e, down_kernel<T>, b, WARPS * WARP, 0, y, *down, vh, idx, used, add); \
		break;
		EACH_TYPE(X)
#undef X
	}
}

/* ------------------------------------------------------------------ experts, many rows */

static const int SORT = 1024;

/* Sorts pairs by expert, keeping the order of rows, and cuts each expert's run into tiles of `tile` pairs.
 * place[pair]: where it stands; order[place]: its row; weight likewise.  One block; cursor [E] in shared memory. */
static __global__ void sort_kernel(int32_t *place, int32_t *order, float *sorted_weight, int4 *tiles, int32_t *n_tiles,
				   const int32_t *idx, const float *weight, int pairs, int used, int experts, int tile)
{
	DYNAMIC(int32_t, cursor);
	int32_t *first = cursor + experts;

	for (int x = threadIdx.x; x < experts; x += blockDim.x)
		cursor[x] = 0;
	__syncthreads();
	for (int p = threadIdx.x; p < pairs; p += blockDim.x)
		atomicAdd(&cursor[idx[p]], 1);
	__syncthreads();
	if (!threadIdx.x) {
		int at = 0, n = 0;

		for (int x = 0; x < experts; x++) {
			int count = cursor[x];

			first[x] = at;
			for (int i = 0; i < count; i += tile)
				tiles[n++] = make_int4(x, at + i, min(tile, count - i), 0);
			at += count;
		}
		*n_tiles = n;
	}
	__syncthreads();
	/* A warp for each expert finds its pairs in order. */
	for (int x = threadIdx.x / WARP; x < experts; x += blockDim.x / WARP) {
		int lane = threadIdx.x % WARP, at = first[x];

		if (!cursor[x])
			continue;
		for (int p0 = 0; p0 < pairs; p0 += 8 * WARP) {
			int v[8];

#pragma unroll
			for (int i = 0; i < 8; i++) {	/* all loads first: each takes long */
				int p = p0 + i * WARP + lane;

				v[i] = p < pairs ? idx[p] : -1;
			}
#pragma unroll
			for (int i = 0; i < 8; i++) {
				int p = p0 + i * WARP + lane;
				unsigned mask = __ballot_sync(~0u, v[i] == x);

				if (v[i] == x) {
					int to = at + __popc(mask & ((1u << lane) - 1));

					place[p] = to;
					order[to] = p / used;
					sorted_weight[to] = weight[p];
				}
				at += __popc(mask);
			}
		}
	}
}

/* h[i] = half(weight * swiglu(g, u)) */
static __global__ void hidden_half_kernel(__half *h, const float *g, const float *u, const float *weight, int ff, float limit,
					  size_t n)
{
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n) {
		float v = swiglu1(g[i], u[i], limit) * (weight ? weight[i / ff] : 1);

		h[i] = __float2half_rn(isnan(v) ? v : fminf(fmaxf(v, -65504.f), 65504.f));
	}
}

/* y[t] = sum over k of part[place[t, k]], or y += part[t] */
static __global__ void gather_kernel(float *y, const float *part, const int32_t *place, int used, int d, int add)
{
	int t = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;
	float sum = 0;

	if (i >= d)
		return;
	for (int k = 0; k < used; k++)
		sum += part[(size_t)(place ? place[t * used + k] : t) * d + i];
	y[(size_t)t * d + i] = add ? y[(size_t)t * d + i] + sum : sum;
}

static void ffn_many(struct eng *e, float *y, const float *x, const int32_t *idx, const float *weight, const struct dw *gate,
		     const struct dw *up, const struct dw *down, int32_t n, int32_t used, float limit, int add)
{
	const size_t pairs = (size_t)n * used, ff = gate->out, d = down->out;
	const int tile = idx && pairs <= (size_t)gate->n * 96 ? 64 : 128;
	const int max_tiles = (int)(pairs / tile + gate->n + 1);
	int32_t *sort = idx ? (int32_t *)eng_scratch(e, S_PAIRS, pairs * 12 + 64) : NULL;
	int4 *tiles = idx ? (int4 *)eng_scratch(e, S_TILES, (size_t)max_tiles * sizeof(int4) + 64) : NULL;
	float *g = (float *)eng_scratch(e, S_HIDDEN, pairs * ff * 4), *u = (float *)eng_scratch(e, S_HIDDEN2, pairs * ff * 4);
	__half *h = (__half *)eng_scratch(e, S_HALF, pairs * ff * 2);
	float *part = (float *)eng_scratch(e, S_DOWN, pairs * d * 4), *sorted = NULL;
	int32_t *place = NULL, *order = NULL, *n_tiles = NULL;
	struct slot *s = form(e, x, gate->in, n, 1);
	struct gemm_args a = {};

	if (!g || !u || !h || !part || !s || (idx && (!sort || !tiles)))
		return;
	if (idx) {
		place = sort;
		order = sort + pairs;
		sorted = (float *)(sort + 2 * pairs);
		n_tiles = (int32_t *)(tiles + max_tiles);
		LAUNCH(e, sort_kernel, 1, SORT, (size_t)gate->n * 8, place, order, sorted, tiles, n_tiles, idx, weight,
		       (int)pairs, used, gate->n, tile);
	}
	a.a = s->h;
	a.lda = gate->in;
	a.a_row = order;
	a.w = *gate;
	a.c = g;
	a.ldc = ff;
	a.m = (int32_t)pairs;
	a.groups = 1;
	a.tile = tiles;
	a.n_tile = n_tiles;
	k_gemm(e, &a, max_tiles, tile);
	a.w = *up;
	a.c = u;
	k_gemm(e, &a, max_tiles, tile);
	LAUNCH(e, hidden_half_kernel, (unsigned)((pairs * ff + 255) / 256), 256, 0, h, g, u, sorted, (int)ff, limit, pairs * ff);
	a.a = h;
	a.lda = ff;
	a.a_row = NULL;
	a.w = *down;
	a.c = part;
	a.ldc = d;
	k_gemm(e, &a, max_tiles, tile);
	LAUNCH(e, gather_kernel, dim3(div_up((int)d, 256), n), 256, 0, y, part, place, used, (int)d, add);
}

static void ffn(struct eng *e, const struct rec *r, const int32_t *idx, const float *weight, int32_t used, int add)
{
	float *y = (float *)r->p[0];
	const float *x = (const float *)r->p[1];

	if (r->w[0].type != r->w[1].type)
		eng_fail(e, ERR_FORMAT, "cuda: gate and up matrices have element types %d and %d, expected the same",
			 r->w[0].type, r->w[1].type);
	else if (r->n_rows <= e->matvec_rows && !idx && add &&
		 shared_few(e, y, x, &r->w[0], &r->w[1], &r->w[2], r->n_rows, r->f[0]))
		return;
	else if (r->n_rows <= e->matvec_rows)
		ffn_few(e, y, x, idx, weight, &r->w[0], &r->w[1], &r->w[2], r->n_rows, used, r->f[0], add);
	else
		ffn_many(e, y, x, idx, weight, &r->w[0], &r->w[1], &r->w[2], r->n_rows, used, r->f[0], add);
}

/* p: y, x, idx, gate weights; w: gate, up, down; i: used */
void k_experts(struct eng *e, const struct rec *r)
{
	ffn(e, r, (const int32_t *)r->p[2], (const float *)r->p[3], r->i[0], 0);
}

/* p: y, x; w: gate, up, down */
void k_shared(struct eng *e, const struct rec *r)
{
	ffn(e, r, NULL, NULL, 1, 1);
}
