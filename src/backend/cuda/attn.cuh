/* attn.cuh - what the files of history and attention share: which rows a token sees, where they are stored, their bytes, and
 * how they are rounded and pooled. */
#ifndef DS4_CUDA_ATTN_CUH
#define DS4_CUDA_ATTN_CUH

#include "cuda_int.cuh"

struct attending {
	const float *q;
	float *out, *part;		/* part: [T, H, splits, GEOM_HEAD + 4] or NULL */
	const uint8_t *fresh;
	const int32_t *pick;
	struct dw sinks;
	struct kv_layer l;
	int32_t fresh_rows, heads, top_k, splits;
};

/* attn.cu: arguments from records. */
struct attending attending_of(const struct rec *r);
struct pooling pooling_of(const struct rec *r);

/* attn_many.cu: many rows of a step, tensor cores.  False: this device has too little shared memory for it. */
bool k_attend_many(struct eng *e, const struct attending *a, int32_t n_rows);

#ifdef __CUDACC__

/* Divisions by a ratio (4 or 128) as shifts: their code would be half of a short kernel. */
static __device__ inline int ratio_log(int r)
{
	return r == 4 ? 2 : 7;
}

struct seen {		/* the rows a token sees: window first, then compressed, ascending */
	int first, window, n;
	bool all;
};

static __device__ inline struct seen rows_seen(const struct attending &a, int pos)
{
	struct seen o;
	int visible = a.l.ratio ? (pos + 1) >> ratio_log(a.l.ratio) : 0;

	o.all = !a.pick || visible <= a.top_k;
	o.first = geom_window_first(pos, a.l.window);
	o.window = pos + 1 - o.first;
	o.n = o.window + (o.all ? visible : a.top_k);
	return o;
}

struct packed {		/* one stored row; plain and rot are multiples of 16 bytes */
	const uint8_t *plain, *rot, *scale;
};

/* Row i of what row t of the step sees. */
static __device__ inline struct packed packed_row(const struct attending &a, const struct dstep &s, const struct span &sp,
						  int t, const struct seen &o, int i)
{
	const struct dtimeline tl = s.timeline[sp.timeline];
	const uint8_t *base;
	struct packed r;
	int count, at;

	if (i < o.window) {
		int p = o.first + i;

		if (p < sp.pos0) {
			base = tl.tail + a.l.tail_ring;
			count = a.l.window;
			at = (a.l.window & (a.l.window - 1)) == 0 ? p & (a.l.window - 1) : p % a.l.window;
		} else {
			base = a.fresh;
			count = a.fresh_rows;
			at = sp.row0 + p - sp.pos0;
		}
	} else {
		int c = o.all ? i - o.window : a.pick[(size_t)t * a.top_k + i - o.window];

		const int shift = 7 - ratio_log(a.l.ratio);

		base = s.block[tl.first + (c >> shift)] + a.l.block_rows;
		count = 1 << shift;
		at = c & (count - 1);
	}
	r.plain = base + (size_t)at * GEOM_PLAIN;
	r.rot = base + (size_t)count * GEOM_PLAIN + (size_t)at * GEOM_ROT * 2;
	r.scale = base + (size_t)count * (GEOM_PLAIN + GEOM_ROT * 2) + (size_t)at * GEOM_ROW_SCALES;
	return r;
}

/* ------------------------------------------------------------------ rounding */

/* Exponent of the least power of two with amax / 2^k <= top; see quant/half.h. */
static __device__ inline int scale_exponent(double amax, double top)
{
	uint32_t u = __float_as_uint((float)(amax / top));

	return (int)(u >> 23) - 127 + ((u & 0x7FFFFF) != 0);
}

static __device__ inline uint8_t to_e4m3(float x)
{
	float a = fminf(fabsf(x), 448);
	uint32_t sign = __float_as_uint(x) >> 24 & 0x80, u;

	if (isnan(x))
		return 0x7F;
	if (a < 0x1p-6f)
		return (uint8_t)(sign | (uint32_t)rintf(a * 512));
	u = __float_as_uint(a);
	u += 0x7FFFF + (u >> 20 & 1);
	return (uint8_t)(sign | ((u >> 20) - (120 << 3)));
}

static __device__ inline float from_e4m3(uint32_t b)
{
	float m = __half2float(__ushort_as_half((uint16_t)((b & 0x80) << 8 | (b & 0x7F) << 7))) * 256;

	return (b & 0x7F) == 0x7F ? NAN : m;
}

static __device__ inline float from_e8m0(uint32_t e)
{
	return e == 255 ? NAN : e ? __uint_as_float(e << 23) : 0x1p-127f;
}

static __device__ inline uint32_t to_e2m1(float x)
{
	float a = fabsf(x);
	uint32_t sign = __float_as_uint(x) >> 28 & 8;

	return sign | (a <= 0.25f ? 0 : a < 0.75f ? 1 : a <= 1.25f ? 2 : a < 1.75f ? 3 : a <= 2.5f ? 4 : a < 3.5f ? 5 :
		       a <= 5 ? 6 : 7);
}

static __device__ inline float from_e2m1(uint32_t c)
{
	float m = (c & 7) < 4 ? 0.5f * (c & 7) : (c & 7) < 6 ? (c & 7) - 2.0f : (c & 7) == 6 ? 4.0f : 6.0f;

	return c & 8 ? -m : m;
}

/* x * 2^-k for k in -127..128 */
static __device__ inline float unscale(float x, int k)
{
	return k >= 127 ? x * 0x1p-64f * pow2f(64 - k) : x * pow2f(-k);
}

/* ------------------------------------------------------------------ storage */

/* Stores row i of a group of `count` rows; all 256 threads; x[512] in shared memory. */
static __device__ inline void store_row(uint8_t *base, int count, int i, const float *x)
{
	int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
	uint8_t *plain = base + (size_t)i * GEOM_PLAIN;
	uint8_t *scale = base + (size_t)count * (GEOM_PLAIN + GEOM_ROT * 2) + (size_t)i * GEOM_ROW_SCALES;

	if (warp < GEOM_ROW_SCALES) {
		float a = x[warp * 64 + lane], b = x[warp * 64 + 32 + lane], top = fmaxf(fabsf(a), fabsf(b));
		int k;

		for (int o = 16; o; o >>= 1)
			top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
		k = scale_exponent(fmax((double)top, 1e-4), 448);
		plain[warp * 64 + lane] = to_e4m3(unscale(a, k));
		plain[warp * 64 + 32 + lane] = to_e4m3(unscale(b, k));
		if (!lane)
			scale[warp] = (uint8_t)(k + 127);
	} else if (warp == GEOM_ROW_SCALES) {
		__half *rot = (__half *)(base + (size_t)count * GEOM_PLAIN + (size_t)i * GEOM_ROT * 2);

		rot[lane] = __float2half_rn(x[GEOM_PLAIN + lane]);
		rot[lane + 32] = __float2half_rn(x[GEOM_PLAIN + 32 + lane]);
	}
}

/* Hadamard transform of 128 values, four on each lane. */
static __device__ inline void hadamard(float v[4])
{
	int lane = threadIdx.x % WARP;
	float a = v[0] + v[1], b = v[0] - v[1], c = v[2] + v[3], d = v[2] - v[3];

	v[0] = a + c;
	v[1] = b + d;
	v[2] = a - c;
	v[3] = b - d;
	for (int h = 1; h < WARP; h *= 2)
		for (int i = 0; i < 4; i++) {
			float other = __shfl_xor_sync(~0u, v[i], h);

			v[i] = lane & h ? other - v[i] : v[i] + other;
		}
	for (int i = 0; i < 4; i++)
		v[i] *= 0.08838834764831845f;	/* sqrt(1 / 128) */
}

/* Exponent that the 8 lanes of a group of 32 share. */
static __device__ inline int key_exponent(const float v[4])
{
	float top = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));

	for (int o = 4; o; o >>= 1)
		top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
	return scale_exponent(fmax((double)top, 6 * 0x1p-126), 6);
}

static __device__ inline void copy_part(uint8_t *to, const uint8_t *from, int to_i, int from_i, int bytes, int unit)
{
	to += (size_t)to_i * bytes;
	from += (size_t)from_i * bytes;
	if (unit == 4)
#pragma unroll 1
		for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x)
			((uint32_t *)to)[i] = ((const uint32_t *)from)[i];
	else
#pragma unroll 1
		for (int i = threadIdx.x; i < bytes; i += blockDim.x)
			to[i] = from[i];
}

/* Row t of the step goes from fresh to its ring; all threads of a block. */
static __device__ inline void ring_row(const struct dstep &s, const uint8_t *fresh, int count, const struct kv_layer &l, int t)
{
	const int slot = geom_ring_slot(s.row[t].pos, l.window);
	const struct span sp = s.span[s.row_span[t]];
	uint8_t *ring = s.timeline[sp.timeline].tail + l.tail_ring;

	if (t - sp.row0 < sp.n - l.window)
		return;		/* a later row of the span has this slot */
	copy_part(ring, fresh, slot, t, GEOM_PLAIN, 4);
	ring += (size_t)l.window * GEOM_PLAIN;
	fresh += (size_t)count * GEOM_PLAIN;
	copy_part(ring, fresh, slot, t, GEOM_ROT * 2, 4);
	ring += (size_t)l.window * GEOM_ROT * 2;
	fresh += (size_t)count * GEOM_ROT * 2;
	copy_part(ring, fresh, slot, t, GEOM_ROW_SCALES, 1);
}

/* ------------------------------------------------------------------ pooling */

struct pooling {
	const float *kv, *score, *freq;		/* projections [T, pw] */
	struct dw ape, norm;
	struct kv_layer l;
	int32_t key, width, pw;
};

/* Where the projections of a token are: in this step, or in the frontier. */
static __device__ inline void token_at(const struct pooling &o, const struct span &sp, const float *front, int p, int c, float *kv,
				       float *score)
{
	const int r = o.l.ratio, in = p & (r - 1), slots = r == 4 ? 8 : r;

	if (p >= sp.pos0) {
		size_t at = (size_t)(sp.row0 + p - sp.pos0) * o.pw + c;

		*kv = o.kv[at];
		*score = o.score[at] + weight_at(o.ape, in * o.pw + c);
		return;
	}
	const int slot = r == 4 ? p >> 2 < sp.pos0 >> 2 ? in : 4 + in : in;

	*kv = front[(size_t)slot * o.pw + c];
	*score = front[(size_t)(slots + slot) * o.pw + c];
}

/* Items i0 .. i0 + 7 of group n, channel c; those below `skip` have no weight. */
static __device__ inline void pool_load(const struct pooling &o, const struct span &sp, const float *front, int n, int c, int i0,
					int skip, float kv[8], float score[8])
{
	const int r = o.l.ratio;

#pragma unroll
	for (int i = 0; i < 8; i++) {
		int p = r == 4 ? 4 * (n - 1) + i : r * n + i0 + i;

		kv[i] = 0;
		score[i] = -INFINITY;
		if (i >= skip)
			token_at(o, sp, front, p, r == 4 && i >= 4 ? o.width + c : c, &kv[i], &score[i]);
	}
}

static __device__ inline float pool_channel(const struct pooling &o, const struct span &sp, const float *front, int n, int c)
{
	const int items = o.l.ratio == 4 ? 8 : o.l.ratio, skip = o.l.ratio == 4 && n == 0 ? 4 : 0;
	float top = -INFINITY, sum = 0, mean = 0, kv[8], score[8];

#pragma unroll 1
	for (int i0 = 0; i0 < items; i0 += 8) {
		float best = top, f;

		pool_load(o, sp, front, n, c, i0, skip, kv, score);
#pragma unroll
		for (int i = 0; i < 8; i++)
			best = fmaxf(best, score[i]);
		f = top == best ? 1 : expf(top - best);
		sum *= f;
		mean *= f;
		top = best;
#pragma unroll
		for (int i = 0; i < 8; i++) {
			float w = i >= skip ? expf(score[i] - top) : 0;

			sum += w;
			mean += w * kv[i];
		}
	}
	return mean / sum;
}

static __device__ inline const float *front_of(const struct pooling &o, const struct dstep &s, const struct span &sp)
{
	return (const float *)(s.timeline[sp.timeline].tail + (o.key ? o.l.tail_front_key : o.l.tail_front));
}

/* move_frontier() for a span of one token, four channels at once: all that moves is read before it is written. */
static __device__ inline void move_frontier1(const struct dstep &s, const struct pooling &o, const struct span &sp, int c)
{
	const int r = o.l.ratio, slots = geom_frontier_slots(r), p = sp.pos0;
	const bool ends = r == 4 && p % 4 == 3;
	float4 *front = (float4 *)((float *)front_of(o, s, sp) + c), old[6];
	const size_t at = (size_t)sp.row0 * o.pw + c, step = o.pw / 4;

	if (r == 128 && p % 128 == 127)
		return;
	float4 kv = *(const float4 *)(o.kv + at), score = *(const float4 *)(o.score + at);

#pragma unroll
	for (int i = 0; i < 3; i++)
		if (ends) {
			old[i] = front[(4 + i) * step];
			old[3 + i] = front[(slots + 4 + i) * step];
		}
	score.x += weight_at(o.ape, (p & (r - 1)) * o.pw + c);
	score.y += weight_at(o.ape, (p & (r - 1)) * o.pw + c + 1);
	score.z += weight_at(o.ape, (p & (r - 1)) * o.pw + c + 2);
	score.w += weight_at(o.ape, (p & (r - 1)) * o.pw + c + 3);
#pragma unroll
	for (int i = 0; i < 3; i++)
		if (ends) {
			front[i * step] = old[i];
			front[(slots + i) * step] = old[3 + i];
		}
	const int to = ends ? 3 : r == 4 ? 4 + (p & 3) : p & 127;

	front[to * step] = kv;
	front[(slots + to) * step] = score;
}

struct pool_room {
	float x[GEOM_HEAD], sum[33];
};

/* Pools the group that row t of the step ends; a block of 256 threads. */
static __device__ inline void pool_row(const struct dstep &s, const struct pooling &o, int t, struct pool_room *room)
{
	float *x = room->x, sum = 0, scale;
	const int r = o.l.ratio, n = s.row[t].pos >> ratio_log(r), shift = 7 - ratio_log(r);
	const struct span sp = s.span[s.row_span[t]];
	const struct dtimeline tl = s.timeline[sp.timeline];
	uint8_t *block;

#pragma unroll 1
	for (int c = threadIdx.x; c < o.width; c += blockDim.x) {
		x[c] = pool_channel(o, sp, front_of(o, s, sp), n, c);
		sum += x[c] * x[c];
	}
	sum = block_sum(sum, room->sum);
	scale = 1 / sqrtf(sum / o.width + 1e-6f);
#pragma unroll 1
	for (int c = threadIdx.x; c < o.width; c += blockDim.x)
		x[c] *= scale * weight_at(o.norm, c);
	__syncthreads();
	if (threadIdx.x < GEOM_ROT / 2)
		rope_pair(x + o.width - GEOM_ROT + 2 * threadIdx.x, o.freq[threadIdx.x], n * r, false);
	__syncthreads();
	block = s.block[tl.first + (n >> shift)];
	if (!o.key) {
		store_row(block + o.l.block_rows, 1 << shift, n & ((1 << shift) - 1), x);
	} else if (threadIdx.x < WARP) {
		int lane = threadIdx.x, i = n & ((1 << shift) - 1), k;
		uint8_t *codes = block + o.l.block_keys + (size_t)i * (GEOM_KEY / 2);
		uint8_t *scales = block + o.l.block_keys + ((size_t)(GEOM_KEY / 2) << shift) +
				  (size_t)i * GEOM_KEY_SCALES;
		float v[4] = {x[4 * lane], x[4 * lane + 1], x[4 * lane + 2], x[4 * lane + 3]};

		hadamard(v);
		k = key_exponent(v);
		for (int j = 0; j < 2; j++)
			codes[2 * lane + j] = (uint8_t)(to_e2m1(unscale(v[2 * j], k)) | to_e2m1(unscale(v[2 * j + 1], k)) << 4);
		if (lane % 8 == 0)
			scales[lane / 8] = (uint8_t)(k + 127);
	}
}

/* Stores the projections that later rows need, channel c of a span.  Ascending, so that with r = 4 a token moving from slot
 * 4 + i to i is read before slot 4 + i is overwritten. */
static __device__ inline void move_frontier(const struct dstep &s, const struct pooling &o, const struct span &sp, int c)
{
	const int r = o.l.ratio, slots = r == 4 ? 8 : r, log = ratio_log(r);
	const int end = sp.pos0 + sp.n, open = end >> log, first = r == 4 && open > 0 ? 4 * (open - 1) : r * open;
	float *front = (float *)front_of(o, s, sp);

	if (c >= o.pw)
		return;
#pragma unroll 1
	for (int p = first; p < end; p++) {
		int to = r == 4 ? p >> 2 < open ? p & 3 : 4 + (p & 3) : p & 127;
		float kv, score;

		if (p < sp.pos0 && (p >> log >= open || (r == 4 && p / 4 < sp.pos0 / 4)))
			continue;	/* already in its slot */
		token_at(o, sp, front, p, c, &kv, &score);
		front[(size_t)to * o.pw + c] = kv;
		front[(size_t)(slots + to) * o.pw + c] = score;
	}
}

/* Four codes (16 bits) as int8 of twice their value. */
static __device__ inline int codes4(uint32_t c)
{
	uint32_t g = __byte_perm(0x03020100u, 0x0C080604u, c & 0x7777), s = c >> 3 & 0x1111;
	uint32_t m = ((s & 1) | (s & 0x10) << 4 | (s & 0x100) << 8 | (s & 0x1000) << 12) * 255u;

	return (int)__vsub4(g ^ m, m);
}

static __device__ inline uint32_t ordered(float f)	/* larger floats have larger numbers */
{
	uint32_t u = __float_as_uint(f);

	return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Two E4M3 codes as f16 values / 256 (a NaN stays one). */
static __device__ inline uint32_t e4m3_pair(uint32_t two)
{
	uint32_t b = (two & 0xFF) | (two & 0xFF00) << 8, m = b & 0x007F007F, h = (b & 0x00800080) << 8 | m << 7;

	if ((m & 0xFFFF) == 0x7F)
		h |= 0x7E00;
	if (m >> 16 == 0x7F)
		h |= 0x7E000000;
	return h;
}

/* 2^(8 + e - 127), as two halves. */
static __device__ inline __half2 group_scale(uint32_t e)
{
	float f = e == 255 ? NAN : pow2f(max(-24, min(15, (int)e - 119)));

	return __floats2half2_rn(f, f);
}

/* 4 codes times a scale, as two words of two halves. */
static __device__ inline void expand4(uint32_t v, __half2 f, uint32_t out[2])
{
	uint32_t a = e4m3_pair(v & 0xFFFF), b = e4m3_pair(v >> 16);
	__half2 x = __hmul2(*(__half2 *)&a, f), y = __hmul2(*(__half2 *)&b, f);

	out[0] = *(uint32_t *)&x;
	out[1] = *(uint32_t *)&y;
}

#endif
#endif
