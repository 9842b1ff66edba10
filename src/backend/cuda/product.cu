/* product.cu - matrix products and experts: which kernel runs when, and activations in other forms.
 *
 * What  Up to eng.matvec_rows rows (decode, drafts, small batches) go to few.cu, more to the matrix kernel in gemm.cu.  Here
 *       are the vector kernel for plain float types, the forms of activations, and the experts of many rows.
 * How   Forms are kept by buffer until it changes: several products that read a buffer share them.
 * Careful
 *       - Which kernel runs is a function of types and of the class of the step, never of the exact number of rows. */
#include "cuda_int.cuh"
#include "decode.cuh"
#include "product.cuh"

static const int WARPS = 8;
static const int FILL = 264;	/* blocks of the matrix kernel that fill a large device: 2 on each of 132 */

/* ------------------------------------------------------------------ forms of activations */

/* One warp for each group of 32 of a row; groups behind `width` are zeros. */
static __global__ void round_kernel(int8_t *q, float *d, const float *x, int width, int stride, size_t groups)
{
	size_t g = (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, row = g / (stride / 32);
	int lane = threadIdx.x % WARP, i = (int)(g % (stride / 32)) * 32;
	float scale;

	follow();
	if (g >= groups)
		return;
	int8_t v = round_group(i < width ? x[row * width + i + lane] : 0, &scale);

	q[row * stride + place_of(i + lane)] = v;
	if (!lane)
		d[g] = scale;
}

/* Nearest halves, and what they miss when low is given. */
static __global__ void half_kernel(__half *h, __half *low, const float *x, size_t n)
{
	size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;

	follow();
	if (i >= n)
		return;
	float4 v = *(const float4 *)(x + i);
	__half2 a = __floats2half2_rn(within_half(v.x), within_half(v.y)), b = __floats2half2_rn(within_half(v.z), within_half(v.w));

	((__half2 *)(h + i))[0] = a;
	((__half2 *)(h + i))[1] = b;
	if (!low)
		return;
	((__half2 *)(low + i))[0] = __floats2half2_rn(within_half(v.x - __half2float(a.x)), within_half(v.y - __half2float(a.y)));
	((__half2 *)(low + i))[1] = __floats2half2_rn(within_half(v.z - __half2float(b.x)), within_half(v.w - __half2float(b.y)));
}

static size_t form_bytes(size_t width, size_t n, enum form kind)
{
	size_t stride = up256((int)width);

	return kind == FORM_INT8 ? n * stride + n * stride / 8 : kind == FORM_PAIR ? n * width * 4 + 16 : n * width * 2;
}

struct slot *form_new(struct eng *e, const float *x, int32_t width, int32_t n, enum form kind)
{
	size_t bytes = form_bytes(width, n, kind);
	struct slot *s = &e->slot[0];

	for (int i = 0; i < SLOTS; i++)
		if (e->slot[i].used < s->used)
			s = &e->slot[i];
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
	s->form = kind;
	s->used = ++e->clock;
	s->q = (int8_t *)s->mem;
	s->d = (float *)(s->mem + (size_t)n * up256(width));
	s->h = (__half *)s->mem;
	s->low = (__half *)(s->mem + ((size_t)n * width * 2 + 15) / 16 * 16);
	return s;
}

struct slot *form_of(struct eng *e, const float *x, int32_t width, int32_t n, enum form kind)
{
	const size_t count = (size_t)width * n, groups = (size_t)n * up256(width) / 32;
	struct slot *s;

	for (int i = 0; i < SLOTS; i++) {
		struct slot *c = &e->slot[i];

		if (c->src == x && c->width == width && c->n == n && c->form == kind) {
			c->used = ++e->clock;
			return c;
		}
	}
	s = form_new(e, x, width, n, kind);
	if (!s)
		return NULL;
	if (kind == FORM_INT8)
		LAUNCH(e, round_kernel, (unsigned)((groups + 7) / 8), 256, 0, s->q, s->d, x, width, up256(width), groups);
	else
		LAUNCH(e, half_kernel, (unsigned)((count / 4 + 255) / 256), 256, 0, s->h, kind == FORM_PAIR ? s->low : NULL, x, count);
	return s;
}

bool vec_form(struct eng *e, struct vec_x *x, const float *f, int32_t width, int32_t n, int type)
{
	*x = (struct vec_x){.f = f, .width = width, .stride = up256(width)};
	if (!few_type(type))
		return true;
	struct slot *s = form_of(e, f, width, n, type == DTYPE_F16 ? FORM_PAIR : FORM_INT8);

	if (!s)
		return false;
	x->q = s->q;
	x->d = s->d;
	x->h = s->h;
	x->low = s->low;
	return true;
}

/* ------------------------------------------------------------------ float vectors */

/* y[t, o] = W[o] . x[t] for F32 and BF16; a warp an output, NR rows; groups > 1: x shifts by w.in for each out / groups
 * outputs.  Grid: outputs / WARPS, rows / NR. */
template <int T, int NR>
static __global__ void __launch_bounds__(WARPS * WARP) matvec_kernel(float *y, struct dw w, const float *x, int n_rows, int groups)
{
	const int o = blockIdx.x * WARPS + threadIdx.x / WARP, t = blockIdx.y * NR, n = min(NR, n_rows - t);
	float acc[NR];
	size_t at;

	follow();
	if (o >= w.out)
		return;
	at = (size_t)t * w.in * groups + (groups > 1 ? (size_t)(o / (w.out / groups)) * w.in : 0);
	for (int i = 0; i < NR; i++)
		acc[i] = 0;
	w.type = T;	/* plain8 becomes one branch */
#pragma unroll 4
	for (int k = threadIdx.x % WARP * 8; k < w.in; k += WARP * 8) {
		float v[8];

		plain8(w, (size_t)o * w.in + k, v);
#pragma unroll
		for (int i = 0; i < NR; i++) {
			const float4 *f = (const float4 *)(x + at + (size_t)min(i, n - 1) * w.in * groups + k);
			float4 a = f[0], b = f[1];
			float c = __fmaf_rn(v[3], a.w, __fmaf_rn(v[2], a.z, __fmaf_rn(v[1], a.y, __fmul_rn(v[0], a.x))));

			c = __fmaf_rn(v[7], b.w, __fmaf_rn(v[6], b.z, __fmaf_rn(v[5], b.y, __fmaf_rn(v[4], b.x, c))));
			acc[i] = __fadd_rn(acc[i], c);
		}
	}
#pragma unroll
	for (int i = 0; i < NR; i++) {
		float v = warp_sum(acc[i]);

		if (threadIdx.x % WARP == 0 && i < n)
			y[(size_t)(t + i) * w.out + o] = v;
	}
}

static void matvec(struct eng *e, float *y, const struct dw *w, const float *x, int32_t n, int32_t groups)
{
	const int nr = n == 1 ? 1 : 4;
	dim3 grid(div_up(w->out, WARPS), div_up(n, nr));

	if (w->type == DTYPE_F32 && nr == 1)
		LAUNCH(e, (matvec_kernel<DTYPE_F32, 1>), grid, WARPS * WARP, 0, y, *w, x, n, groups);
	else if (w->type == DTYPE_F32)
		LAUNCH(e, (matvec_kernel<DTYPE_F32, 4>), grid, WARPS * WARP, 0, y, *w, x, n, groups);
	else if (w->type == DTYPE_BF16 && nr == 1)
		LAUNCH(e, (matvec_kernel<DTYPE_BF16, 1>), grid, WARPS * WARP, 0, y, *w, x, n, groups);
	else if (w->type == DTYPE_BF16)
		LAUNCH(e, (matvec_kernel<DTYPE_BF16, 4>), grid, WARPS * WARP, 0, y, *w, x, n, groups);
	else
		eng_fail(e, ERR_FORMAT, "cuda: no product kernel for element type %d", w->type);
}

static void matmul(struct eng *e, float *y, const struct dw *w, const float *x, int32_t n, int32_t groups)
{
	if (n <= e->matvec_rows) {
		const struct few_product p = {.y = y, .w = w, .x = x, .groups = groups};

		if (few_type(w->type))
			few_products(e, &p, 1, n);
		else
			matvec(e, y, w, x, n, groups);
		return;
	}
	struct slot *s = form_of(e, x, w->in * groups, n, FORM_HALF);
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

/* One lane's share of weight row `row` times x, any type: for formats that few.cu has no experts for. */
static __device__ inline float lane_dot(const struct dw &w, size_t row, const float *x)
{
	float sum = 0;

	for (int k = threadIdx.x % WARP * 8; k < w.in; k += WARP * 8) {
		float v[8];

		if (w.type == DTYPE_F32 || w.type == DTYPE_F16 || w.type == DTYPE_BF16)
			plain8(w, row * w.in + k, v);
		else
			for (int i = 0; i < 8; i++)
				v[i] = decode1(w, row, k + i);
		for (int i = 0; i < 8; i++)
			sum = __fmaf_rn(v[i], x[k + i], sum);
	}
	return sum;
}

/* h[pair, f] = weight * swiglu(gate f . x, up f . x).  Grid: F / WARPS, pairs. */
static __global__ void hidden_plain_kernel(float *h, struct dw gate, struct dw up, const float *x, const int32_t *idx,
					   const float *weight, int used, float limit)
{
	int f = blockIdx.x * WARPS + threadIdx.x / WARP, pair = blockIdx.y;

	follow();
	if (f >= gate.out)
		return;
	size_t row = (size_t)(idx ? idx[pair] : 0) * gate.out + f;
	float g = warp_sum(lane_dot(gate, row, x + (size_t)(pair / used) * gate.in));
	float u = warp_sum(lane_dot(up, row, x + (size_t)(pair / used) * gate.in));

	if (threadIdx.x % WARP == 0)
		h[(size_t)pair * gate.out + f] = swiglu1(g, u, limit) * (weight ? weight[pair] : 1);
}

/* y[t, o] (+)= sum over the row's experts of down o . h[pair].  Grid: d / WARPS, rows. */
static __global__ void down_plain_kernel(float *y, struct dw down, const float *h, const int32_t *idx, int used, int add)
{
	int o = blockIdx.x * WARPS + threadIdx.x / WARP, t = blockIdx.y;
	float acc = 0;

	follow();
	if (o >= down.out)
		return;
	for (int k = 0; k < used; k++) {
		size_t pair = (size_t)t * used + k;

		acc += warp_sum(lane_dot(down, (size_t)(idx ? idx[pair] : 0) * down.out + o, h + pair * down.in));
	}
	if (threadIdx.x % WARP == 0) {
		float *at = y + (size_t)t * down.out + o;

		*at = add ? *at + acc : acc;
	}
}

static void ffn_plain(struct eng *e, float *y, const float *x, const int32_t *idx, const float *weight, const struct dw *w,
		      int32_t n, int32_t used, float limit, int add)
{
	const int32_t pairs = n * used;
	float *h = (float *)eng_scratch(e, S_HIDDEN, (size_t)pairs * w[0].out * sizeof(float));

	if (!h)
		return;
	LAUNCH(e, hidden_plain_kernel, dim3(div_up(w[0].out, WARPS), pairs), WARPS * WARP, 0, h, w[0], w[1], x, idx, weight, used,
	       limit);
	LAUNCH(e, down_plain_kernel, dim3(div_up(w[2].out, WARPS), n), WARPS * WARP, 0, y, w[2], h, idx, used, add);
}

/* The list of items and its length, for `pairs` pairs. */
struct item *few_list(struct eng *e, int pairs, int32_t **n_items)
{
	struct item *items = (struct item *)eng_scratch(e, S_PAIRS, (size_t)pairs * sizeof(struct item) + 64);

	*n_items = items ? (int32_t *)(items + pairs) : NULL;
	return items;
}

static void ffn_few(struct eng *e, float *y, const float *x, const int32_t *idx, const float *weight, const struct dw *w, int32_t n,
		    int32_t used, float limit, int add)
{
	struct ffn f = {};
	int32_t *n_items;

	if (!few_ffn_types(w, idx ? NULL : w)) {
		ffn_plain(e, y, x, idx, weight, w, n, used, limit, add);
		return;
	}
	f.rows = n;
	f.limit = limit;
	for (int i = 0; i < 3; i++)
		f.w[i] = f.shared[i] = w[i];
	if (idx) {
		struct item *items = few_list(e, n * used, &n_items);

		if (!items)
			return;
		few_items(e, idx, n, used, w[0].n, items, n_items);
		f.items = items;
		f.n_items = n_items;
		f.used = used;
		f.pairs = f.idx_items = n * used;
		f.weight = weight;
	} else {
		f.shared_items = 1;
	}
	if (few_ffn(e, &f, x))
		few_gather(e, y, &f, add);
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

	follow();
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

	follow();
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

	follow();
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
	const bool fused = gemm_wg_pairs(e, gate->type) && ff % 2 == 0;
	float *g = fused ? NULL : (float *)eng_scratch(e, S_HIDDEN, pairs * ff * 4);
	float *u = fused ? NULL : (float *)eng_scratch(e, S_HIDDEN2, pairs * ff * 4);
	__half *h = (__half *)eng_scratch(e, S_HALF, pairs * ff * 2);
	float *part = (float *)eng_scratch(e, S_DOWN, pairs * d * 4), *sorted = NULL;
	int32_t *place = NULL, *order = NULL, *n_tiles = NULL;
	struct slot *s = form_of(e, x, gate->in, n, FORM_HALF);
	struct gemm_args a = {};

	if ((!fused && (!g || !u)) || !h || !part || !s || (idx && (!sort || !tiles)))
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
	a.ldc = ff;
	a.m = (int32_t)pairs;
	a.groups = 1;
	a.tile = tiles;
	a.n_tile = n_tiles;
	if (fused) {
		a.w2 = *up;
		a.h = h;
		a.weight = sorted;
		a.limit = limit;
		k_gemm(e, &a, max_tiles, tile);
		a.h = NULL;
	} else {
		a.c = g;
		k_gemm(e, &a, max_tiles, tile);
		a.w = *up;
		a.c = u;
		k_gemm(e, &a, max_tiles, tile);
		LAUNCH(e, hidden_half_kernel, (unsigned)((pairs * ff + 255) / 256), 256, 0, h, g, u, sorted, (int)ff, limit, pairs * ff);
	}
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
	else if (r->n_rows <= e->matvec_rows)
		ffn_few(e, y, x, idx, weight, r->w, r->n_rows, used, r->f[0], add);
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
