/* attn_few.cu - attention of few rows: fewer and shorter kernels than the single operations, for steps of decode.
 *
 * What  small: norm of the low-rank query, the window row (norm, rotation, packing) and pooling, side by side in one launch.
 *       query: rotation, Hadamard and E2M1 of the indexer's queries, as int8.  score, select: as in attn.cu, spread wider.
 *       attend: 32 heads times a piece of 32 history rows on the tensor cores; norm and rotation of the queries on the way.
 *       combine: puts the pieces together, turns the result back, rounds it for the product that follows, and writes the ring.
 * How   The norm of a head is a factor of its scores.  cos and sin of a row's position are made once (small).  Queries and
 *       weights meet the rows as pairs of halves, so that the class keeps the accuracy of f32.
 * Careful
 *       - Pieces depend on the token alone: a row of the step has the same bits in any step.
 *       - combine writes the ring: nobody reads it any more in this step. */
#include "attn.cuh"
#include "fuse.cuh"
#include "mma.cuh"
#include "product.cuh"

static const int THREADS = 256, WARPS = 8;

static __device__ inline float2 turned(float2 v, float2 cs, bool back)
{
	float s = back ? -cs.y : cs.y;

	return make_float2(v.x * cs.x - v.y * s, v.x * s + v.y * cs.x);
}

/* ------------------------------------------------------------------ small */

static __device__ void low_query(const struct attn_small &a, int t, float *room)
{
	const float *x = a.low + (size_t)t * a.low_width;
	const int stride = up256(a.low_width), lane = threadIdx.x % WARP;
	float sum = 0, r, held[4];

#pragma unroll
	for (int j = 0; j < 4; j++) {	/* all of a row of up to 1,024 */
		const int i = min((int)threadIdx.x + j * THREADS, a.low_width - 1);

		touch1(a.low_norm.f + i);
		held[j] = x[i];
	}
#pragma unroll
	for (int j = 0; j < 4; j++)
		sum += (int)threadIdx.x + j * THREADS < a.low_width ? held[j] * held[j] : 0;
#pragma unroll 1
	for (int i = threadIdx.x + 4 * THREADS; i < a.low_width; i += THREADS)
		sum += x[i] * x[i];
	sum = block_sum(sum, room);
	r = 1 / sqrtf(sum / a.low_width + 1e-6f);
#pragma unroll 1
	for (int j = 0; j < div_up(stride, THREADS); j++) {	/* warps hold whole groups */
		const int i = threadIdx.x + j * THREADS;
		float v = 0, scale;

		if (i < a.low_width)
			v = x[i] * r * weight_at(a.low_norm, i);	/* in the first-level cache by now */
		int8_t q = round_group(v, &scale);

		a.low_q[(size_t)t * stride + place_of(i)] = q;
		if (!lane)
			a.low_d[(size_t)t * (stride / 32) + i / 32] = scale;
		if (i < a.low_width && a.low_h) {
			__half h = __float2half_rn(v);

			a.low_h[(size_t)t * a.low_width + i] = h;
			a.low_l[(size_t)t * a.low_width + i] = __float2half_rn(v - __half2float(h));
		}
	}
}

static __device__ void window_row(const struct dstep &s, const struct attn_small &a, int t, float *x, float *room)
{
	const float *kv = a.kv + (size_t)t * GEOM_HEAD;
	const int i = threadIdx.x, pos = s.row[t].pos;
	const float nu = weight_at(a.kv_norm, i), nv = weight_at(a.kv_norm, i + 256);
	float u = kv[i], v = kv[i + 256], r;
	float2 cs;

	if (i < GEOM_ROT / 2)
		cs = turn_of((float)pos * a.freq[i]);
	r = 1 / sqrtf(block_sum(u * u + v * v, room) / GEOM_HEAD + 1e-6f);
	x[i] = u * r * nu;
	x[i + 256] = v * r * nv;
	__syncthreads();
	if (i < GEOM_ROT / 2) {
		float2 *at = (float2 *)(x + GEOM_PLAIN) + i;

		a.turn[(size_t)t * (GEOM_ROT / 2) + i] = cs;
		*at = turned(*at, cs, false);
	}
	__syncthreads();
	store_row(a.fresh, a.fresh_rows, t, x);
}

/* Grid: rows, jobs (2, and one for each pooling). */
static __global__ void __launch_bounds__(THREADS) small_kernel(struct dstep s, struct attn_small a)
{
	__shared__ __align__(16) float x[GEOM_HEAD];
	__shared__ float sum[33];
	__shared__ struct pool_room room;
	const int i = blockIdx.x;

	follow();
	if (blockIdx.y == 0) {
		low_query(a, i, sum);
	} else if (blockIdx.y == 1) {
		window_row(s, a, i, x, sum);
	} else if (i < a.spans) {
		const struct pooling &o = a.pool[blockIdx.y - 2];
		const struct span sp = s.span[i];

#pragma unroll 1
		for (int t = sp.row0; t < sp.row0 + sp.n; t++) {
			if (((s.row[t].pos + 1) & (o.l.ratio - 1)) == 0)
				pool_row(s, o, t, &room);
			__syncthreads();
		}
		if (sp.n == 1)
#pragma unroll 1
			for (int c = 4 * threadIdx.x; c < o.pw; c += 4 * THREADS)
				move_frontier1(s, o, sp, c);
		else
#pragma unroll 1
			for (int c = threadIdx.x; c < o.pw; c += THREADS)
				move_frontier(s, o, sp, c);
	}
}

void few_small(struct eng *e, const struct attn_small *a, int rows)
{
	LAUNCH(e, small_kernel, dim3(rows, 2 + a->pools), THREADS, 0, e->st, *a);
}

/* ------------------------------------------------------------------ indexer */

/* int8 codes (twice the value) and scales of a row's queries; a warp a head. */
static __global__ void __launch_bounds__(THREADS) query_kernel(int8_t *q8, float *scale, const float *q, const float2 *turn, int heads,
							       int n)
{
	const int i = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;

	follow();
	if (i >= n)
		return;
	float4 f = ((const float4 *)(q + (size_t)i * GEOM_KEY))[lane];
	float v[4] = {f.x, f.y, f.z, f.w};
	int k, code = 0;

	if (lane >= WARP / 2) {		/* channels 64 .. 127 turn */
		const float2 *cs = turn + (size_t)(i / heads) * (GEOM_ROT / 2) + (lane - WARP / 2) * 2;
		float2 a = turned(make_float2(v[0], v[1]), cs[0], false), b = turned(make_float2(v[2], v[3]), cs[1], false);

		v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
	}
	hadamard(v);
	k = key_exponent(v);
	for (int j = 0; j < 4; j++)
		code |= ((int)(from_e2m1(to_e2m1(unscale(v[j], k))) * 2) & 255) << 8 * j;
	((int *)(q8 + (size_t)i * GEOM_KEY))[lane] = code;
	if (lane % 8 == 0)
		scale[i * GEOM_KEY_SCALES + lane / 8] = isnan(v[0] + v[1] + v[2] + v[3]) ? NAN : pow2f(min(k, 127)) * 0.5f;
}

static const int KEYS = 32;

/* scores[t, n].  A block takes 32 keys; each of its warps a part of the heads, added in their order. */
static __global__ void __launch_bounds__(THREADS) score_few_kernel(struct dstep s, float *scores, size_t stride, const int8_t *q8,
								   const float *scale, const float *weight, int heads, int top_k,
								   struct kv_layer l)
{
	DYNAMIC(int4, memory);		/* int8 [heads, 128], float scale [heads, 4] */
	__shared__ float part[WARPS][KEYS];
	const int t = blockIdx.y, r = l.ratio, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, n = blockIdx.x * KEYS + lane;
	const int h0 = heads * warp / WARPS, h1 = heads * (warp + 1) / WARPS;
	float4 *sc = (float4 *)((int8_t *)memory + heads * GEOM_KEY);
	int key[32];
	float ks[4] = {0}, sum = 0;

	/* The step's block was there before its first kernel. */
	follow_lead();
	const int seen = (s.row[t].pos + 1) >> ratio_log(r), shift = 7 - ratio_log(r);

	if (seen <= top_k || (int)blockIdx.x * KEYS >= seen)
		return;
	const int m = min(n, seen - 1);
	const uint8_t *base = s.block[s.timeline[s.row[t].timeline].first + (m >> shift)] + l.block_keys;

	follow_wait();
#pragma unroll 1
	for (int i = threadIdx.x; i < heads * (GEOM_KEY / 16); i += THREADS)
		memory[i] = ((const int4 *)(q8 + (size_t)t * heads * GEOM_KEY))[i];
#pragma unroll 1
	for (int i = threadIdx.x; i < heads; i += THREADS)
		sc[i] = ((const float4 *)(scale + (size_t)t * heads * 4))[i];
	{
		const int i = m & ((1 << shift) - 1);
		const uint4 *codes = (const uint4 *)(base + (size_t)i * (GEOM_KEY / 2));
		const uint8_t *es = base + ((size_t)(GEOM_KEY / 2) << shift) + (size_t)i * GEOM_KEY_SCALES;

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
	const float unit = sqrtf(1.0f / (float)(heads * GEOM_KEY));

	__syncthreads();
#pragma unroll 1
	for (int h = h0; h < h1; h++) {
		const int4 *x = memory + h * (GEOM_KEY / 16);
		const float4 f = sc[h];
		const float fs[4] = {f.x, f.y, f.z, f.w};
		float dot = 0;

#pragma unroll
		for (int j = 0; j < 4; j++) {
			int4 a = x[2 * j], b = x[2 * j + 1];
			int d = 0, d2 = 0;

			d = __dp4a(key[8 * j], a.x, d);
			d2 = __dp4a(key[8 * j + 1], a.y, d2);
			d = __dp4a(key[8 * j + 2], a.z, d);
			d2 = __dp4a(key[8 * j + 3], a.w, d2);
			d = __dp4a(key[8 * j + 4], b.x, d);
			d2 = __dp4a(key[8 * j + 5], b.y, d2);
			d = __dp4a(key[8 * j + 6], b.z, d);
			d2 = __dp4a(key[8 * j + 7], b.w, d2);
			dot += fs[j] * ks[j] * (float)(d + d2);
		}
		sum += weight[(size_t)t * heads + h] * unit * fmaxf(dot, 0);
	}
	part[warp][lane] = sum;
	__syncthreads();
	if (warp || n >= seen)
		return;
	sum = 0;
	for (int w = 0; w < WARPS; w++)
		sum += part[w][lane];
	scores[(size_t)t * stride + n] = sum;
}

static const int SELECT = 1024, BINS = 2048;

/* Which of BINS bins holds the `left`-th largest; the number still wanted from it goes to *rest.  All threads. */
static __device__ int find_bin(const int *hist, int left, int *warp_total, int *found, int *rest)
{
	const int tid = threadIdx.x, lane = tid % WARP, warp = tid / WARP;
	const int2 two = ((const int2 *)hist)[tid];	/* bins 2 tid, 2 tid + 1 */
	int own = two.x + two.y, above = own;

	for (int o = 1; o < WARP; o *= 2) {
		int v = __shfl_down_sync(~0u, above, o);

		above += lane + o < WARP ? v : 0;
	}
	if (!lane)
		warp_total[warp] = above;
	above -= own;
	__syncthreads();
#pragma unroll 1
	for (int w = warp + 1; w < SELECT / WARP; w++)
		above += warp_total[w];
	if (above < left && left <= above + two.y) {
		*found = 2 * tid + 1;
		*rest = left - above;
	} else if (above + two.y < left && left <= above + own) {
		*found = 2 * tid;
		*rest = left - above - two.y;
	}
	__syncthreads();
	return *found;
}

/* The K best of a row's scores, ascending by number; ties go to the lower row.  One block a row; 11, 11 and 10 bits. */
static __global__ void __launch_bounds__(SELECT) select_few_kernel(struct dstep s, int32_t *pick, const float *scores, size_t stride,
								   int top_k, int ratio)
{
	__shared__ __align__(16) int hist[BINS];
	__shared__ int found, rest, total[SELECT / WARP], warp_gt[SELECT / WARP], warp_eq[SELECT / WARP];
	const int t = blockIdx.x, tid = threadIdx.x, lane = tid % WARP, warp = tid / WARP;
	int left = top_k, gt_base = 0, eq_base = 0;
	const float *v = scores + (size_t)t * stride;
	uint32_t prefix = 0, held[2];

	follow_lead();
	const int n = (s.row[t].pos + 1) >> ratio_log(ratio);

	follow_wait();
	if (n <= top_k)
		return;
	for (int i = 0; i < 2; i++)
		held[i] = ordered(v[min(tid + i * SELECT, n - 1)]);
#pragma unroll 1
	for (int pass = 0; pass < 3; pass++) {
		const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
		const uint32_t mask = pass == 2 ? 1023 : 2047;

		((int2 *)hist)[tid] = int2{0, 0};
		__syncthreads();
#pragma unroll 1
		for (int i = tid; i < n; i += SELECT) {
			uint32_t u = i < SELECT ? held[0] : i < 2 * SELECT ? held[1] : ordered(v[i]);

			if (!pass || (u ^ prefix) >> (pass == 1 ? 21 : 10) == 0)
				atomicAdd(&hist[u >> shift & mask], 1);
		}
		__syncthreads();
		prefix |= (uint32_t)find_bin(hist, left, total, &found, &rest) << shift;
		left = rest;
		__syncthreads();
	}
	/* All above prefix, and the first `left` equal to it. */
#pragma unroll 1
	for (int i0 = 0; i0 < n; i0 += SELECT) {
		const int i = i0 + tid;
		const uint32_t u = i < SELECT ? held[0] : i < 2 * SELECT ? held[1] : i < n ? ordered(v[i]) : 0;
		const bool gt = i < n && u > prefix, eq = i < n && u == prefix;
		const unsigned mg = __ballot_sync(~0u, gt), me = __ballot_sync(~0u, eq), below = (1u << lane) - 1;
		int gt_before = gt_base + __popc(mg & below), eq_before = eq_base + __popc(me & below);

		if (!lane) {
			warp_gt[warp] = __popc(mg);
			warp_eq[warp] = __popc(me);
		}
		__syncthreads();
#pragma unroll 4
		for (int w = 0; w < SELECT / WARP; w++) {
			gt_before += w < warp ? warp_gt[w] : 0;
			eq_before += w < warp ? warp_eq[w] : 0;
			gt_base += warp_gt[w];
			eq_base += warp_eq[w];
		}
		if (gt || (eq && eq_before < left)) {
			int to = gt_before + min(eq_before, left);

			if (to < top_k)
				pick[(size_t)t * top_k + to] = i;
		}
		__syncthreads();
	}
}

void few_choose(struct eng *e, const struct attn_choose *a, int rows)
{
	const int n = rows * a->heads;
	int8_t *q8 = (int8_t *)eng_scratch(e, S_KEYQ, (size_t)n * (GEOM_KEY + 4 * GEOM_KEY_SCALES));
	float *scale = (float *)(q8 + (size_t)n * GEOM_KEY);
	float *scores = (float *)eng_scratch(e, S_SCORES, (size_t)rows * a->most * sizeof(float));

	if (!q8 || !scores)
		return;
	LAUNCH(e, query_kernel, div_up(n, WARPS), THREADS, 0, q8, scale, a->q, a->turn, a->heads, n);
	LAUNCH(e, score_few_kernel, dim3(div_up(a->most, KEYS), rows), THREADS, (size_t)a->heads * (GEOM_KEY + 16), e->st, scores,
	       a->most, q8, scale, a->weight, a->heads, a->top_k, a->l);
	LAUNCH(e, select_few_kernel, rows, SELECT, 0, e->st, a->pick, scores, a->most, a->top_k, a->l.ratio);
}

/* ------------------------------------------------------------------ attention */

static const int HEADS = 32, PIECE = 32, LD = GEOM_HEAD + 8, PART = GEOM_HEAD + 4;

struct attend_room {
	__half tile[PIECE * LD];
	float score[HEADS * (PIECE + 4)], norm[HEADS];
};

/* History rows i0 .. i0 + n - 1 of row t, in f16; 8 threads a row.  Rows behind n are zeros. */
static __device__ inline void load_piece(__half *tile, const struct attending &a, const struct dstep &s, const struct span &sp, int t,
					 const struct seen &o, int i0, int n)
{
	const int row = threadIdx.x / 8, j = threadIdx.x % 8;
	uint4 *to = (uint4 *)(tile + row * LD);

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
	for (int w = 0; w < GEOM_ROW_SCALES; w++) {
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

/* Two floats as the nearest halves and as what those miss. */
static __device__ inline void halves_of(float x, float y, uint32_t *high, uint32_t *low)
{
	__half2 h = __floats2half2_rn(fminf(fmaxf(x, -65504.f), 65504.f), fminf(fmaxf(y, -65504.f), 65504.f));
	__half2 l = __floats2half2_rn(x - __half2float(h.x), y - __half2float(h.y));

	*high = *(uint32_t *)&h;
	*low = *(uint32_t *)&l;
}

/* Eight channels of a query from channel k on, turned when they are rotary. */
static __device__ inline void load_q(float v[8], const float *q, int k, const float2 *turn)
{
	float4 a = *(const float4 *)(q + k), b = *(const float4 *)(q + k + 4);

	v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
	if (k >= GEOM_PLAIN)
#pragma unroll
		for (int j = 0; j < 4; j++) {
			float2 w = turned(make_float2(v[2 * j], v[2 * j + 1]), turn[(k - GEOM_PLAIN) / 2 + j], false);

			v[2 * j] = w.x, v[2 * j + 1] = w.y;
		}
}

/* score[heads, rows] = norm * (q . tile).  Warp w: heads 16 (w % 2) .., rows 8 (w / 2) ..; lane (g, t) has channels
 * 32 k + 8 t .. of its rows, the same for both operands. */
static __device__ inline void piece_scores(struct attend_room *r, const float *q, const float2 *turn, int live)
{
	const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4, m0 = warp % 2 * 16, n0 = warp / 2 * 8;
	const float *q0 = q + (size_t)min(m0 + g, live - 1) * GEOM_HEAD, *q1 = q + (size_t)min(m0 + g + 8, live - 1) * GEOM_HEAD;
	const __half *b = r->tile + (n0 + g) * LD + t * 8;
	float c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0}, s0 = 0, s1 = 0;

#pragma unroll 2
	for (int k = 0; k < GEOM_HEAD; k += 32) {
		const uint4 v = *(const uint4 *)(b + k);
		float x[8], y[8];
		uint32_t xh[4], xl[4], yh[4], yl[4];

		load_q(x, q0, k + 8 * t, turn);
		load_q(y, q1, k + 8 * t, turn);
#pragma unroll
		for (int j = 0; j < 4; j++) {
			s0 += x[2 * j] * x[2 * j] + x[2 * j + 1] * x[2 * j + 1];
			s1 += y[2 * j] * y[2 * j] + y[2 * j + 1] * y[2 * j + 1];
			halves_of(x[2 * j], x[2 * j + 1], &xh[j], &xl[j]);
			halves_of(y[2 * j], y[2 * j + 1], &yh[j], &yl[j]);
		}
		const uint32_t ah[4] = {xh[0], yh[0], xh[1], yh[1]}, bh[4] = {xh[2], yh[2], xh[3], yh[3]};
		const uint32_t al[4] = {xl[0], yl[0], xl[1], yl[1]}, bl[4] = {xl[2], yl[2], xl[3], yl[3]};

		mma16816(c, ah, v.x, v.y);
		mma16816(c, bh, v.z, v.w);
		mma16816(e, al, v.x, v.y);
		mma16816(e, bl, v.z, v.w);
	}
	for (int o = 1; o < 4; o *= 2) {
		s0 += __shfl_xor_sync(~0u, s0, o);
		s1 += __shfl_xor_sync(~0u, s1, o);
	}
	s0 = 0.04419417382415922f / sqrtf(s0 / GEOM_HEAD + 1e-6f);	/* sqrt(1 / 512) times the norm */
	s1 = 0.04419417382415922f / sqrtf(s1 / GEOM_HEAD + 1e-6f);
	float *to = r->score + (m0 + g) * (PIECE + 4) + n0 + 2 * t;

	to[0] = (c[0] + e[0]) * s0;
	to[1] = (c[1] + e[1]) * s0;
	to[8 * (PIECE + 4)] = (c[2] + e[2]) * s1;
	to[8 * (PIECE + 4) + 1] = (c[3] + e[3]) * s1;
}

/* Grid: pieces, groups of 32 heads, rows. */
static __global__ void __launch_bounds__(THREADS, 2) attend_few_kernel(struct dstep s, struct attending a, const float2 *turn)
{
	__shared__ __align__(16) struct attend_room r;
	const int t = blockIdx.z, h0 = blockIdx.y * HEADS, live = min(HEADS, a.heads - h0), lane = threadIdx.x % WARP;
	const int h = threadIdx.x / 8, j = threadIdx.x % 8, c0 = threadIdx.x / WARP * 64;

	follow_lead();
	const struct span sp = s.span[s.row_span[t]];
	const struct seen o = rows_seen(a, s.row[t].pos);
	const int i0 = blockIdx.x * PIECE, n = min(PIECE, o.n - i0);
	const float *q = a.q + ((size_t)t * a.heads + h0) * GEOM_HEAD;

	follow_wait();
	if (n <= 0)
		return;
	touch(q, (size_t)live * GEOM_HEAD * 4);
	touch(turn + (size_t)t * (GEOM_ROT / 2), GEOM_ROT / 2 * sizeof *turn);
	load_piece(r.tile, a, s, sp, t, o, i0, n);
	__syncthreads();
	piece_scores(&r, q, turn + (size_t)t * (GEOM_ROT / 2), live);
	__syncthreads();
	{	/* 8 threads a head */
		float z[PIECE / 8], top = -INFINITY, sum = 0;

#pragma unroll
		for (int i = 0; i < PIECE / 8; i++) {
			z[i] = j + 8 * i < n ? r.score[h * (PIECE + 4) + j + 8 * i] : -INFINITY;
			top = fmaxf(top, z[i]);
		}
		for (int d = 4; d; d >>= 1)
			top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
#pragma unroll
		for (int i = 0; i < PIECE / 8; i++) {
			z[i] = expf(z[i] - top);
			sum += z[i];
			r.score[h * (PIECE + 4) + j + 8 * i] = z[i];
		}
		for (int d = 4; d; d >>= 1)
			sum += __shfl_xor_sync(~0u, sum, d);
		if (!j && h < live) {
			float *to = a.part + (((size_t)t * a.heads + h0 + h) * a.splits + blockIdx.x) * PART;

			to[GEOM_HEAD] = top;
			to[GEOM_HEAD + 1] = sum;
		}
	}
	__syncthreads();
	float acc[2][8][4];

#pragma unroll
	for (int m = 0; m < 2; m++)
#pragma unroll
		for (int i = 0; i < 8; i++)
#pragma unroll
			for (int c = 0; c < 4; c++)
				acc[m][i][c] = 0;
#pragma unroll 1
	for (int k = 0; k < PIECE; k += 16) {
		uint32_t ph[2][4], pl[2][4];

#pragma unroll
		for (int m = 0; m < 2; m++)
#pragma unroll
			for (int i = 0; i < 4; i++) {	/* rows g, g + 8; columns 2 t, 2 t + 8 */
				const float *p = r.score + (16 * m + lane / 4 + i % 2 * 8) * (PIECE + 4) + k + lane % 4 * 2 + i / 2 * 8;

				halves_of(p[0], p[1], &ph[m][i], &pl[m][i]);
			}
#pragma unroll
		for (int i = 0; i < 4; i++) {	/* 16 channels */
			uint32_t b[4];

			ldmatrix4_trans(b, r.tile + (k + lane % 16) * LD + c0 + 16 * i + lane / 16 * 8);
#pragma unroll
			for (int m = 0; m < 2; m++) {
				mma16816(acc[m][2 * i], ph[m], b[0], b[1]);
				mma16816(acc[m][2 * i + 1], ph[m], b[2], b[3]);
				mma16816(acc[m][2 * i], pl[m], b[0], b[1]);
				mma16816(acc[m][2 * i + 1], pl[m], b[2], b[3]);
			}
		}
	}
#pragma unroll
	for (int m = 0; m < 2; m++)
#pragma unroll
		for (int c = 0; c < 2; c++) {
			const int head = 16 * m + lane / 4 + 8 * c;
			float *to = a.part + (((size_t)t * a.heads + h0 + head) * a.splits + blockIdx.x) * PART + c0 + lane % 4 * 2;

			if (head < live)
#pragma unroll
				for (int i = 0; i < 8; i++)
					*(float2 *)(to + 8 * i) = make_float2(acc[m][i][2 * c], acc[m][i][2 * c + 1]);
		}
}

/* Grid: heads and one more for the ring, rows; 128 threads, 4 channels each. */
static __global__ void __launch_bounds__(128) combine_few_kernel(struct dstep s, struct attending a, const float2 *turn, int8_t *q,
								 float *d, int q_stride)
{
	const int t = blockIdx.y, h = blockIdx.x, i = threadIdx.x;

	follow_lead();
	const int n = div_up(rows_seen(a, s.row[t].pos).n, PIECE);

	follow_wait();
	if (h == a.heads) {
		ring_row(s, a.fresh, a.fresh_rows, a.l, t);
		return;
	}
	const float *part = a.part + ((size_t)t * a.heads + h) * a.splits * PART;
	float sink = weight_at(a.sinks, h), top = sink, sum = 1;
	float4 acc = make_float4(0, 0, 0, 0);

#pragma unroll 1
	for (int k0 = 0; k0 < n; k0 += 8) {	/* streaming, eight pieces at a time */
		float4 v[8];
		float2 ts[8];
		float best = top, f;

#pragma unroll
		for (int k = 0; k < 8; k++) {
			const float *p = part + (size_t)min(k0 + k, n - 1) * PART;

			v[k] = ((const float4 *)p)[i];
			ts[k] = *(const float2 *)(p + GEOM_HEAD);
		}
#pragma unroll
		for (int k = 0; k < 8; k++)
			best = fmaxf(best, k0 + k < n ? ts[k].x : -INFINITY);
		f = expf(top - best);
		sum *= f;
		acc.x *= f, acc.y *= f, acc.z *= f, acc.w *= f;
#pragma unroll
		for (int k = 0; k < 8; k++) {
			float w = k0 + k < n ? expf(ts[k].x - best) : 0;

			sum += w * ts[k].y;
			acc.x += w * v[k].x, acc.y += w * v[k].y, acc.z += w * v[k].z, acc.w += w * v[k].w;
		}
		top = best;
	}
	acc = make_float4(acc.x / sum, acc.y / sum, acc.z / sum, acc.w / sum);
	if (4 * i >= GEOM_PLAIN) {
		const float2 *cs = turn + (size_t)t * (GEOM_ROT / 2) + (4 * i - GEOM_PLAIN) / 2;
		float2 x = turned(make_float2(acc.x, acc.y), cs[0], true), y = turned(make_float2(acc.z, acc.w), cs[1], true);

		acc = make_float4(x.x, x.y, y.x, y.y);
	}
	if (!q)
		((float4 *)(a.out + ((size_t)t * a.heads + h) * GEOM_HEAD))[i] = acc;
	else
		store_rounded4(q + (size_t)t * q_stride, d + (size_t)t * (q_stride / 32), acc, h * GEOM_HEAD + 4 * i);
}

/* q: int8 form of the result, or NULL: a->out gets it. */
void few_attend(struct eng *e, struct attending *a, const float2 *turn, int8_t *q, float *d, int q_stride, int most, int rows)
{
	a->splits = div_up(most, PIECE);
	a->part = (float *)eng_scratch(e, S_ATTN, (size_t)rows * a->heads * a->splits * PART * sizeof(float));
	if (!a->part)
		return;
	LAUNCH(e, attend_few_kernel, dim3(a->splits, div_up(a->heads, HEADS), rows), THREADS, 0, e->st, *a, turn);
	LAUNCH(e, combine_few_kernel, dim3(a->heads + 1, rows), 128, 0, e->st, *a, turn, q, d, q_stride);
}
