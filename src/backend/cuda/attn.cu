/* attn.cu - history: packed rows, pooling, indexer, attention.
 *
 * What  The operations that read or write timelines.  Everything about a position comes from the step block.
 * How   pool: one block for each row of the step, which emits a compressed row if its token ends a group; then the frontier
 *       moves.  Indexer: queries and keys are E2M1 times powers of two, so their products are done in dp4a exactly; a radix
 *       select finds the K best.  Attention: eight heads share a block's decoded rows; few rows of a step are cut into pieces
 *       of SPLIT history rows that are put together afterwards; many rows go to attn_many.cu where the device allows it.
 * Careful
 *       - A pooled row is rotated with the position of its group's first token.
 *       - With r = 4 a row mixes the left halves of the previous group with the right halves of its own.
 *       - A row emitted by token t is visible to t.
 *       - The sink takes part in the maximum and in the denominator, and adds no value.
 * Source: docs/model.md 7; definition: ref/ref_attn.c. */
#include "attn.cuh"
#include "cuda_int.cuh"

/* ------------------------------------------------------------------ pack, ring */

static __global__ void pack_kernel(uint8_t *fresh, int count, const float *kv)
{
	follow();
	__shared__ float x[GEOM_HEAD];

	for (int i = threadIdx.x; i < GEOM_HEAD; i += blockDim.x)
		x[i] = kv[(size_t)blockIdx.x * GEOM_HEAD + i];
	__syncthreads();
	store_row(fresh, count, blockIdx.x, x);
}

/* p: fresh, kv; i: rows of fresh */
void k_pack_rows(struct eng *e, const struct rec *r)
{
	LAUNCH(e, pack_kernel, r->n_rows, 256, 0, (uint8_t *)r->p[0], r->i[0], (const float *)r->p[1]);
}

static __global__ void ring_kernel(struct dstep s, const uint8_t *fresh, int count, struct kv_layer l)
{
	follow();
	ring_row(s, fresh, count, l, blockIdx.x);
}

void k_ring_write(struct eng *e, const struct rec *r)
{
	LAUNCH(e, ring_kernel, r->n_rows, 128, 0, e->st, (const uint8_t *)r->p[0], r->i[0], r->layer);
}

/* ------------------------------------------------------------------ pooling */

/* One block of 256 threads for each row of the step. */
static __global__ void pool_kernel(struct dstep s, struct pooling o)
{
	__shared__ struct pool_room room;

	follow();
	if (geom_pools_at(s.row[blockIdx.x].pos, o.l.ratio))
		pool_row(s, o, blockIdx.x, &room);
}

static __global__ void frontier_kernel(struct dstep s, struct pooling o)
{
	follow();
	move_frontier(s, o, s.span[blockIdx.x], blockIdx.y * blockDim.x + threadIdx.x);
}

/* p: kv, score, freq; w: ape, norm; i: key, pw */
struct pooling pooling_of(const struct rec *r)
{
	struct pooling o = {};

	o.kv = (const float *)r->p[0];
	o.score = (const float *)r->p[1];
	o.freq = (const float *)r->p[2];
	o.ape = r->w[0];
	o.norm = r->w[1];
	o.l = r->layer;
	o.key = r->i[0];
	o.width = o.key ? GEOM_KEY : GEOM_HEAD;
	o.pw = r->i[1];
	return o;
}

void k_pool(struct eng *e, const struct rec *r)
{
	struct pooling o = pooling_of(r);

	LAUNCH(e, pool_kernel, r->n_rows, 256, 0, e->st, o);
	LAUNCH(e, frontier_kernel, dim3(r->n_spans, div_up(o.pw, 128)), 128, 0, e->st, o);
}

/* ------------------------------------------------------------------ indexer */

/* One warp for each head of each row. */
static __global__ void index_query_kernel(float *q, int n)
{
	follow();
	int i = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP, k;
	float4 *at = (float4 *)(q + (size_t)i * GEOM_KEY) + lane, f;
	float v[4], s;

	if (i >= n)
		return;
	f = *at;
	v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
	hadamard(v);
	k = key_exponent(v);
	s = pow2f(min(k, 127));
	for (int j = 0; j < 4; j++)
		v[j] = isnan(v[j]) ? v[j] : from_e2m1(to_e2m1(unscale(v[j], k))) * s;
	*at = make_float4(v[0], v[1], v[2], v[3]);
}

void k_index_query(struct eng *e, const struct rec *r)
{
	int n = r->n_rows * r->i[0];

	LAUNCH(e, index_query_kernel, div_up(n, 8), 256, 0, (float *)r->p[0], n);
}

static const int KEYS = 128;

/* scores[t, n], n < visible.  A thread takes one key, all heads.  Grid: keys / KEYS, rows. */
static __global__ void score_kernel(struct dstep s, float *scores, size_t stride, const float *q, const float *weight, int heads,
				    int top_k, struct kv_layer l)
{
	follow();
	DYNAMIC(int4, room);	/* int8 [heads, 128], then float scale [heads, 4], then float [heads] */
	int8_t *sq = (int8_t *)room;
	float *scale = (float *)(sq + heads * GEOM_KEY), *u = scale + heads * 4;
	int t = blockIdx.y, r = l.ratio, seen = geom_visible(s.row[t].pos, r), n = blockIdx.x * KEYS + threadIdx.x;
	const float *from = q + (size_t)t * heads * GEOM_KEY;
	int key[32];
	float ks[4], sum = 0;

	if (seen <= top_k || blockIdx.x * KEYS >= seen)
		return;
	for (int g = threadIdx.x; g < heads * 4; g += blockDim.x) {
		float top = 0;
		int k;

		for (int i = 0; i < 32; i++)
			top = fmaxf(top, fabsf(from[g * 32 + i]));
		k = scale_exponent(fmax((double)top, 6 * 0x1p-126), 6);
		for (int i = 0; i < 32; i++)
			sq[g * 32 + i] = (int8_t)(int)rintf(unscale(from[g * 32 + i], k) * 2);
		scale[g] = pow2f(min(k, 127)) * 0.5f;
	}
	for (int h = threadIdx.x; h < heads; h += blockDim.x)
		u[h] = weight[(size_t)t * heads + h] * (float)sqrt(1.0 / ((double)heads * GEOM_KEY));
	__syncthreads();
	if (n >= seen)
		return;
	{
		const struct dtimeline tl = s.timeline[s.row[t].timeline];
		const uint8_t *base = s.block[tl.first + geom_row_block(n, r)] + l.block_keys;
		int i = geom_row_in_block(n, r);
		const uint4 *codes = (const uint4 *)(base + (size_t)i * (GEOM_KEY / 2));
		const uint8_t *es = base + (size_t)geom_rows_per_block(r) * (GEOM_KEY / 2) + (size_t)i * GEOM_KEY_SCALES;

#pragma unroll
		for (int j = 0; j < 4; j++) {
			uint4 c = codes[j];
			const uint32_t w[4] = {c.x, c.y, c.z, c.w};

#pragma unroll
			for (int b = 0; b < 4; b++) {
				key[8 * j + 2 * b] = codes4(w[b] & 0xFFFF);
				key[8 * j + 2 * b + 1] = codes4(w[b] >> 16);
			}
			ks[j] = from_e8m0(es[j]) * 0.5f;
		}
	}
	for (int h = 0; h < heads; h++) {
		const int4 *x = (const int4 *)(sq + h * GEOM_KEY);
		float dot = 0;

#pragma unroll
		for (int j = 0; j < 4; j++) {
			int4 a = x[2 * j], b = x[2 * j + 1];
			int d = 0;

			d = __dp4a(key[8 * j], a.x, d);
			d = __dp4a(key[8 * j + 1], a.y, d);
			d = __dp4a(key[8 * j + 2], a.z, d);
			d = __dp4a(key[8 * j + 3], a.w, d);
			d = __dp4a(key[8 * j + 4], b.x, d);
			d = __dp4a(key[8 * j + 5], b.y, d);
			d = __dp4a(key[8 * j + 6], b.z, d);
			d = __dp4a(key[8 * j + 7], b.w, d);
			dot += scale[4 * h + j] * ks[j] * (float)d;
		}
		sum += u[h] * fmaxf(dot, 0);
	}
	scores[(size_t)t * stride + n] = sum;
}

static const int SELECT = 512;

/* The K best of a row's scores, ascending by number; ties go to the lower row.  One block a row. */
static __global__ void __launch_bounds__(SELECT)
select_kernel(struct dstep s, int32_t *pick, const float *scores, size_t stride, int top_k, int ratio)
{
	follow();
	__shared__ __align__(16) int hist[256];
	__shared__ int sh_digit, sh_left, warp_gt[SELECT / 32], warp_eq[SELECT / 32];
	int t = blockIdx.x, n = geom_visible(s.row[t].pos, ratio), left = top_k, tid = threadIdx.x;
	int lane = tid % WARP, warp = tid / WARP, gt_base = 0, eq_base = 0;
	const float *v = scores + (size_t)t * stride;
	uint32_t prefix = 0;

	if (n <= top_k)
		return;
	for (int shift = 24; shift >= 0; shift -= 8) {	/* the K-th largest, a byte at a time */
		for (int i = tid; i < 256; i += blockDim.x)
			hist[i] = 0;
		__syncthreads();
		for (int i = tid; i < n; i += blockDim.x) {
			uint32_t u = ordered(v[i]);

			if (shift == 24 || u >> (shift + 8) == prefix >> (shift + 8))
				atomicAdd(&hist[u >> shift & 255], 1);
		}
		__syncthreads();
		if (tid < 256) {	/* the byte whose count crosses `left`; every thread adds up those above its own */
			int have = 0;

#pragma unroll 8
			for (int j = 0; j < 256; j += 4) {
				int4 c = *(const int4 *)(hist + j);

				have += (j > tid ? c.x : 0) + (j + 1 > tid ? c.y : 0);
				have += (j + 2 > tid ? c.z : 0) + (j + 3 > tid ? c.w : 0);
			}
			if (have < left && left <= have + hist[tid]) {
				sh_digit = tid;
				sh_left = left - have;
			}
		}
		__syncthreads();
		prefix |= (uint32_t)sh_digit << shift;
		left = sh_left;
		__syncthreads();
	}
	/* All above prefix, and the first `left` equal to it. */
	for (int i0 = 0; i0 < n; i0 += blockDim.x) {
		int i = i0 + tid, gt_before, eq_before, gt_all = 0, eq_all = 0;
		uint32_t u = i < n ? ordered(v[i]) : 0;
		bool gt = i < n && u > prefix, eq = i < n && u == prefix;
		unsigned mg = __ballot_sync(~0u, gt), me = __ballot_sync(~0u, eq), below = (1u << lane) - 1;

		if (!lane) {
			warp_gt[warp] = __popc(mg);
			warp_eq[warp] = __popc(me);
		}
		__syncthreads();
		gt_before = gt_base + __popc(mg & below);
		eq_before = eq_base + __popc(me & below);
		for (int w = 0; w < SELECT / 32; w++) {
			if (w < warp) {
				gt_before += warp_gt[w];
				eq_before += warp_eq[w];
			}
			gt_all += warp_gt[w];
			eq_all += warp_eq[w];
		}
		if (gt || (eq && eq_before < left)) {
			int to = gt_before + min(eq_before, left);

			if (to < top_k)
				pick[(size_t)t * top_k + to] = i;
		}
		gt_base += gt_all;
		eq_base += eq_all;
		__syncthreads();
	}
}

/* p: pick, q, head weights; i: heads, top_k, bound of visible rows */
void k_choose(struct eng *e, const struct rec *r)
{
	int heads = r->i[0], top_k = r->i[1], most = r->i[2];
	float *scores = (float *)eng_scratch(e, S_SCORES, (size_t)r->n_rows * most * sizeof(float));
	size_t smem = (size_t)heads * (GEOM_KEY + 20);

	if (!scores)
		return;
	LAUNCH(e, score_kernel, dim3(div_up(most, KEYS), r->n_rows), KEYS, smem, e->st, scores, most, (const float *)r->p[1],
	       (const float *)r->p[2], heads, top_k, r->layer);
	LAUNCH(e, select_kernel, r->n_rows, SELECT, 0, e->st, (int32_t *)r->p[0], scores, most, top_k, r->layer.ratio);
}

/* ------------------------------------------------------------------ attention */

static const int HEADS = 8, TILE = 16, SPLIT = 32, PART = GEOM_HEAD + 4;

/* Decodes rows i0..i0+n-1 of what row t sees into tile [TILE, 512]; 16 threads a row. */
static __device__ void load_tile(float *tile, const struct attending &a, const struct dstep &s, const struct span &sp, int t,
				 const struct seen &o, int i0, int n)
{
	int row = threadIdx.x / 16, j = threadIdx.x % 16;

	if (row >= n)
		return;
	const struct packed r = packed_row(a, s, sp, t, o, i0 + row);
	const uint32_t *plain = (const uint32_t *)r.plain, *rot = (const uint32_t *)r.rot;

	tile += row * GEOM_HEAD;
#pragma unroll
	for (int w = 0; w < 7; w++) {	/* 16 words of a group of 64 values */
		uint32_t v = plain[16 * w + j];
		float f = from_e8m0(r.scale[w]);

		*(float4 *)(tile + 64 * w + 4 * j) = make_float4(from_e4m3(v & 255) * f, from_e4m3(v >> 8 & 255) * f,
								 from_e4m3(v >> 16 & 255) * f, from_e4m3(v >> 24) * f);
	}
	uint32_t v0 = rot[2 * j], v1 = rot[2 * j + 1];

	*(float4 *)(tile + GEOM_PLAIN + 4 * j) = make_float4(half_bits((uint16_t)v0), half_bits((uint16_t)(v0 >> 16)),
							     half_bits((uint16_t)v1), half_bits((uint16_t)(v1 >> 16)));
}

/* A warp for each of eight heads.  Grid: rows, heads / 8, pieces (1 when not cut). */
static __global__ void __launch_bounds__(HEADS * WARP) attend_kernel(struct dstep s, struct attending a)
{
	follow();
	__shared__ __align__(16) float tile[TILE * GEOM_HEAD];
	int t = blockIdx.x, lane = threadIdx.x % WARP, h = blockIdx.y * HEADS + threadIdx.x / WARP;
	const struct span sp = s.span[s.row_span[t]];
	const struct seen o = rows_seen(a, s.row[t].pos);
	int begin = a.part ? blockIdx.z * SPLIT : 0, end = a.part ? min(o.n, begin + SPLIT) : o.n;
	const bool live = h < a.heads;
	float top, sum;
	float4 q[4], acc[4];

	if (begin >= end)
		return;
#pragma unroll
	for (int j = 0; j < 4; j++) {
		q[j] = live ? ((const float4 *)(a.q + ((size_t)t * a.heads + h) * GEOM_HEAD))[lane + 32 * j]
			    : make_float4(0, 0, 0, 0);
		acc[j] = make_float4(0, 0, 0, 0);
	}
	top = a.part || !live ? -INFINITY : weight_at(a.sinks, h);
	sum = a.part || !live ? 0 : 1;
	for (int i0 = begin; i0 < end; i0 += TILE) {
		int n = min(TILE, end - i0);
		float z[TILE], best = top, f;

		__syncthreads();
		load_tile(tile, a, s, sp, t, o, i0, n);
		__syncthreads();
#pragma unroll
		for (int i = 0; i < TILE; i++) {
			float dot = 0;

			if (i < n) {
#pragma unroll
				for (int j = 0; j < 4; j++) {
					float4 v = ((const float4 *)(tile + i * GEOM_HEAD))[lane + 32 * j];

					dot += q[j].x * v.x + q[j].y * v.y + q[j].z * v.z + q[j].w * v.w;
				}
			}
			z[i] = i < n ? warp_sum(dot) * 0.04419417382415922f : -INFINITY;	/* sqrt(1 / 512) */
			best = fmaxf(best, z[i]);
		}
		f = expf(top - best);
		sum *= f;
#pragma unroll
		for (int j = 0; j < 4; j++)
			acc[j].x *= f, acc[j].y *= f, acc[j].z *= f, acc[j].w *= f;
#pragma unroll
		for (int i = 0; i < TILE; i++) {
			if (i < n) {
				float w = expf(z[i] - best);

				sum += w;
#pragma unroll
				for (int j = 0; j < 4; j++) {
					float4 v = ((const float4 *)(tile + i * GEOM_HEAD))[lane + 32 * j];

					acc[j].x += w * v.x, acc[j].y += w * v.y, acc[j].z += w * v.z, acc[j].w += w * v.w;
				}
			}
		}
		top = best;
	}
	if (!live)
		return;
	if (a.part) {
		float *to = a.part + (((size_t)t * a.heads + h) * a.splits + blockIdx.z) * PART;

#pragma unroll
		for (int j = 0; j < 4; j++)
			((float4 *)to)[lane + 32 * j] = acc[j];
		if (!lane) {
			to[GEOM_HEAD] = top;
			to[GEOM_HEAD + 1] = sum;
		}
		return;
	}
#pragma unroll
	for (int j = 0; j < 4; j++)
		((float4 *)(a.out + ((size_t)t * a.heads + h) * GEOM_HEAD))[lane + 32 * j] =
			make_float4(acc[j].x / sum, acc[j].y / sum, acc[j].z / sum, acc[j].w / sum);
}

/* Puts the pieces of a head together, with its sink.  Grid: rows, heads; 128 threads. */
static __global__ void combine_kernel(struct dstep s, struct attending a)
{
	follow();
	int t = blockIdx.x, h = blockIdx.y, n = div_up(rows_seen(a, s.row[t].pos).n, SPLIT);
	const float *part = a.part + ((size_t)t * a.heads + h) * a.splits * PART;
	float sink = weight_at(a.sinks, h), top = sink, sum;
	float4 acc = make_float4(0, 0, 0, 0);

#pragma unroll 8
	for (int i = 0; i < n; i++)
		top = fmaxf(top, part[(size_t)i * PART + GEOM_HEAD]);
	sum = expf(sink - top);
#pragma unroll 8
	for (int i = 0; i < n; i++) {
		const float *p = part + (size_t)i * PART;
		float w = expf(p[GEOM_HEAD] - top);
		float4 v = ((const float4 *)p)[threadIdx.x];

		sum += w * p[GEOM_HEAD + 1];
		acc.x += w * v.x, acc.y += w * v.y, acc.z += w * v.z, acc.w += w * v.w;
	}
	((float4 *)(a.out + ((size_t)t * a.heads + h) * GEOM_HEAD))[threadIdx.x] =
		make_float4(acc.x / sum, acc.y / sum, acc.z / sum, acc.w / sum);
}

/* p: out, q, fresh, pick; w: sinks; i: rows of fresh, heads, top_k, bound of rows seen */
struct attending attending_of(const struct rec *r)
{
	struct attending a = {};

	a.out = (float *)r->p[0];
	a.q = (const float *)r->p[1];
	a.fresh = (const uint8_t *)r->p[2];
	a.pick = (const int32_t *)r->p[3];
	a.sinks = r->w[0];
	a.l = r->layer;
	a.fresh_rows = r->i[0];
	a.heads = r->i[1];
	a.top_k = r->i[2];
	a.splits = div_up(r->i[3], SPLIT);
	return a;
}

void k_attend(struct eng *e, const struct rec *r)
{
	struct attending a = attending_of(r);

	if (r->n_rows <= e->matvec_rows) {
		a.part = (float *)eng_scratch(e, S_ATTN, (size_t)r->n_rows * a.heads * a.splits * PART * sizeof(float));
		if (!a.part)
			return;
	}
	if (!a.part && k_attend_many(e, &a, r->n_rows))
		return;
	LAUNCH(e, attend_kernel, dim3(r->n_rows, div_up(a.heads, HEADS), a.part ? a.splits : 1), HEADS * WARP, 0, e->st, a);
	if (a.part)
		LAUNCH(e, combine_kernel, dim3(r->n_rows, a.heads), 128, 0, e->st, a);
}
