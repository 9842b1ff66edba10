/* few.cuh - products of few rows: 16 weight rows against up to 32 activation rows on the int8 tensor cores.
 *
 * What  load_unit() loads the bytes of 16 weight rows over a few elements, multiply() adds their products with the activations
 *       to sums in registers.
 * Why   A step of few rows is bound by the bytes of the weights.  The tensor cores make the product of a byte with 8 rows as
 *       cheap as with one, and leave the instruction slots to loads and to the expansion of block formats.
 * How   mma.m16n8k32: weights are the 16 x 32 operand, lane (g, t) has rows g and g + 8 and chunk t of each group of 32; the
 *       planes of struct dw are ordered so that its chunks stand together.  A group's sum is an exact integer; then float
 *       factors, in the order of the groups.  F16 weights meet activations as a pair of halves, which loses nothing.
 *       MODE 4: up to 4 rows, in the even columns of the product, so that a lane has one row; 8, 16, 32: two rows for each
 *       piece of 8.
 * Careful
 *       - A row's sums never depend on the other rows or on MODE: roundings are explicit, the order is fixed.
 *       - Q2_K: scale times quant stays below 46 and goes into the product; minimums have a product of their own. */
#ifndef DS4_CUDA_FEW_CUH
#define DS4_CUDA_FEW_CUH

#include "cuda_int.cuh"
#include "decode.cuh"
#include "mma.cuh"

static const int GRID_COPIES = 16;	/* of the codebook in shared memory: a lane's copy has banks of its own */

struct vec_x {		/* activations in the forms that weights read */
	const int8_t *q;
	const float *d;
	const __half *h, *low;
	const float *f;
	int32_t width, stride;
};

template <int MODE> struct shape_of {
	static const int PIECES = MODE <= 8 ? 1 : MODE / 8, COLS = MODE == 4 ? 1 : 2, ROWS = MODE;
};

/* Sums of a lane: weight rows g and g + 8, activation rows of its columns. */
template <int MODE> struct sums {
	float v[shape_of<MODE>::PIECES][2][shape_of<MODE>::COLS];
};

/* Where the rows of a lane begin, in rows of x: those it feeds to the product and those whose sums it has; -1: none. */
template <int MODE> struct lane_rows {
	int feed[shape_of<MODE>::PIECES], own[shape_of<MODE>::PIECES][shape_of<MODE>::COLS];
};

template <int MODE> static __device__ inline struct lane_rows<MODE> rows_of_lane(const int *x_row, int n)
{
	struct lane_rows<MODE> r;
	int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;

#pragma unroll
	for (int p = 0; p < shape_of<MODE>::PIECES; p++) {
		int feed = MODE == 4 ? g / 2 : 8 * p + g;

		r.feed[p] = feed < n && !(MODE == 4 && g % 2) ? x_row[feed] : -1;
#pragma unroll
		for (int c = 0; c < shape_of<MODE>::COLS; c++) {
			int own = MODE == 4 ? t : 8 * p + 2 * t + c;

			r.own[p][c] = own < n ? x_row[own] : -1;
		}
	}
	return r;
}

/* Row of the activations, 0 .. MODE - 1, that sums.v[p][.][c] belong to. */
template <int MODE> static __device__ inline int row_of_sum(int p, int c)
{
	int t = threadIdx.x % 4;

	return MODE == 4 ? t : 8 * p + 2 * t + c;
}

/* ------------------------------------------------------------------ activations */

/* Two groups of int8 (step p of 64 elements of superblock sb) and the scales of all columns. */
template <int MODE> struct feed8 {
	uint4 b[shape_of<MODE>::PIECES];
	float2 d[shape_of<MODE>::PIECES][shape_of<MODE>::COLS];
};

template <int MODE>
static __device__ inline void load_feed(struct feed8<MODE> *f, const struct vec_x &x, const struct lane_rows<MODE> &r, int sb, int p)
{
	const int t = threadIdx.x % 4;

#pragma unroll
	for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
		f->b[i] = make_uint4(0, 0, 0, 0);
		if (r.feed[i] >= 0)
			f->b[i] = *(const uint4 *)(x.q + (size_t)r.feed[i] * x.stride + sb * 256 + p * 64 + t * 16);
#pragma unroll
		for (int c = 0; c < shape_of<MODE>::COLS; c++) {
			f->d[i][c] = make_float2(0, 0);
			if (r.own[i][c] >= 0)
				f->d[i][c] = *(const float2 *)(x.d + (size_t)r.own[i][c] * (x.stride / 32) + sb * 8 + p * 2);
		}
	}
}

template <int MODE> static __device__ inline float feed_scale(const struct feed8<MODE> &f, int i, int c, int j)
{
	return j ? f.d[i][c].y : f.d[i][c].x;
}

/* The block's activation rows, before warps read them piece by piece. */
static __device__ inline void touch_rows(const struct vec_x &x, const int *x_row, int n, int type)
{
#pragma unroll 1
	for (int r = 0; r < n; r++) {
		const size_t row = x_row[r];

		if (type == DTYPE_F16) {
			touch(x.h + row * x.width, (size_t)x.width * 2);
			touch(x.low + row * x.width, (size_t)x.width * 2);
		} else {
			touch(x.q + row * x.stride, x.stride);
			touch(x.d + row * (x.stride / 32), x.stride / 8);
		}
	}
}

/* ------------------------------------------------------------------ formats */

/* A unit is 16 weight rows over some elements: PIECES times 16 bytes a lane, held in registers, DEPTH units ahead. */
template <int T> struct unit;

template <> struct unit<DTYPE_Q8_0> {	/* 64 elements: row g, row g + 8, scales */
	static const int PER = 4, PIECES = 3, DEPTH = 5;
};

template <> struct unit<DTYPE_F16> {	/* 64 elements: row g, 0..31 and 32..63, then row g + 8 */
	static const int PER = 4, PIECES = 4, DEPTH = 3;
};

template <> struct unit<DTYPE_IQ2_XXS> {	/* 256: rows, factors */
	static const int PER = 1, PIECES = 3, DEPTH = 2;
};

template <> struct unit<DTYPE_Q2_K> {	/* 256: rows, scales, factors */
	static const int PER = 1, PIECES = 4, DEPTH = 2;
};

template <> struct unit<DTYPE_Q4_K> {	/* 256: heads, row g, row g + 8 */
	static const int PER = 1, PIECES = 6, DEPTH = 1;
};

/* Loads part `sub` of superblock sb of rows row[0], row[1]. */
template <int T> static __device__ inline void load_unit(uint4 *u, const struct dw &w, const size_t row[2], int sb, int sub)
{
	const int t = threadIdx.x % 4;

	if constexpr (T == DTYPE_Q8_0) {
		const size_t n0 = block_at(row[0], w.stride / 64, sb * 4 + sub), n1 = block_at(row[1], w.stride / 64, sb * 4 + sub);

		u[0] = __ldcs((const uint4 *)(w.a + n0 * 64) + t);
		u[1] = __ldcs((const uint4 *)(w.a + n1 * 64) + t);
		u[2].x = ((const uint32_t *)w.b)[n0];
		u[2].y = ((const uint32_t *)w.b)[n1];
	} else if constexpr (T == DTYPE_F16) {
		const int k = sb * 256 + sub * 64 + t * 8;

#pragma unroll
		for (int i = 0; i < 2; i++)
#pragma unroll
			for (int j = 0; j < 2; j++)
				u[2 * i + j] = k + 32 * j < w.in ? __ldcs((const uint4 *)(w.a + (row[i] * w.in + k + 32 * j) * 2))
								 : make_uint4(0, 0, 0, 0);
	} else if constexpr (T == DTYPE_IQ2_XXS || T == DTYPE_Q2_K) {
		const size_t n0 = block_at(row[0], w.stride / 256, sb), n1 = block_at(row[1], w.stride / 256, sb);

		u[0] = __ldcs((const uint4 *)(w.a + n0 * 64) + t);
		u[1] = __ldcs((const uint4 *)(w.a + n1 * 64) + t);
		uint2 s0 = T == DTYPE_Q2_K ? *((const uint2 *)(w.b + n0 * 16) + t / 2) : ((const uint2 *)w.b)[n0];
		uint2 s1 = T == DTYPE_Q2_K ? *((const uint2 *)(w.b + n1 * 16) + t / 2) : ((const uint2 *)w.b)[n1];

		u[2] = make_uint4(s0.x, s0.y, s1.x, s1.y);
		if constexpr (T == DTYPE_Q2_K) {
			u[3].x = ((const uint32_t *)w.c)[n0];
			u[3].y = ((const uint32_t *)w.c)[n1];
		}
	} else {
#pragma unroll
		for (int i = 0; i < 2; i++) {
			const uint8_t *from = w.a + (row[i] * (w.stride / 256) + sb) * 144;

			u[i] = *(const uint4 *)from;
#pragma unroll
			for (int j = 0; j < 2; j++) {
				uint2 a = *(const uint2 *)(from + 16 + 64 * j + t * 8), b = *(const uint2 *)(from + 48 + 64 * j + t * 8);

				u[2 + 2 * i + j] = make_uint4(a.x, a.y, b.x, b.y);
			}
		}
	}
}

/* Adds factor times integer sums to the sums of a lane. */
template <int MODE>
static __device__ inline void add_sums(struct sums<MODE> *acc, int i, const int c[4], float f0, float f1, const struct feed8<MODE> &f, int j)
{
#pragma unroll
	for (int k = 0; k < shape_of<MODE>::COLS; k++) {
		float dx = feed_scale<MODE>(f, i, k, j);

		acc->v[i][0][k] = __fmaf_rn(__fmul_rn(f0, dx), (float)c[k], acc->v[i][0][k]);
		acc->v[i][1][k] = __fmaf_rn(__fmul_rn(f1, dx), (float)c[2 + k], acc->v[i][1][k]);
	}
}

/* The same without a factor, as the sums of a superblock. */
template <int MODE>
static __device__ inline void add_plain(struct sums<MODE> *acc, int i, const int c[4], int f0, int f1, const struct feed8<MODE> &f, int j)
{
#pragma unroll
	for (int k = 0; k < shape_of<MODE>::COLS; k++) {
		float dx = feed_scale<MODE>(f, i, k, j);

		acc->v[i][0][k] = __fmaf_rn(dx, (float)(c[k] * f0), acc->v[i][0][k]);
		acc->v[i][1][k] = __fmaf_rn(dx, (float)(c[2 + k] * f1), acc->v[i][1][k]);
	}
}

/* acc += d part, for the two weight rows. */
template <int MODE> static __device__ inline void add_scaled(struct sums<MODE> *acc, const struct sums<MODE> &part, float d0, float d1)
{
#pragma unroll
	for (int i = 0; i < shape_of<MODE>::PIECES; i++)
#pragma unroll
		for (int k = 0; k < shape_of<MODE>::COLS; k++) {
			acc->v[i][0][k] = __fmaf_rn(d0, part.v[i][0][k], acc->v[i][0][k]);
			acc->v[i][1][k] = __fmaf_rn(d1, part.v[i][1][k], acc->v[i][1][k]);
		}
}

/* Four magnitudes under four sign bits; -g = (g ^ 255) + 1 in every byte never carries, because magnitudes are at least 8. */
static __device__ inline uint32_t signed4(uint32_t g, uint32_t bits)
{
	uint32_t m = sign_bytes((bits & 15) * 0x10204080u);

	return (g ^ m) + (m & 0x01010101u);
}

template <int MODE>
static __device__ inline void multiply_q8(struct sums<MODE> *acc, const uint4 *u, const struct vec_x &x, const struct lane_rows<MODE> &r,
					  int sb, int sub)
{
	const uint4 a = u[0], b = u[1];
	const uint4 d = u[2];
	struct feed8<MODE> f;

	load_feed<MODE>(&f, x, r, sb, sub);
#pragma unroll
	for (int j = 0; j < 2; j++)
#pragma unroll
		for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
			int c[4] = {0, 0, 0, 0};

			mma16832(c, j ? a.z : a.x, j ? b.z : b.x, j ? a.w : a.y, j ? b.w : b.y, j ? f.b[i].z : f.b[i].x,
				 j ? f.b[i].w : f.b[i].y);
			add_sums<MODE>(acc, i, c, half_bits((uint16_t)(d.x >> 16 * j)), half_bits((uint16_t)(d.y >> 16 * j)), f, j);
		}
}

template <int MODE>
static __device__ inline void multiply_f16(struct sums<MODE> *acc, const uint4 *u, const struct vec_x &x, const struct lane_rows<MODE> &r,
					   int sb, int sub)
{
	const int k = sb * 256 + sub * 64 + threadIdx.x % 4 * 8;

#pragma unroll
	for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
		float c[4] = {acc->v[i][0][0], 0, acc->v[i][1][0], 0}, e[4] = {0, 0, 0, 0};

		if (shape_of<MODE>::COLS == 2) {
			c[1] = acc->v[i][0][shape_of<MODE>::COLS - 1];
			c[3] = acc->v[i][1][shape_of<MODE>::COLS - 1];
		}
#pragma unroll
		for (int j = 0; j < 2; j++) {
			const uint4 a = u[j], b = u[2 + j];
			const uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
			uint4 h = make_uint4(0, 0, 0, 0), low = make_uint4(0, 0, 0, 0);

			if (r.feed[i] >= 0 && k + 32 * j < x.width) {
				h = *(const uint4 *)(x.h + (size_t)r.feed[i] * x.width + k + 32 * j);
				low = *(const uint4 *)(x.low + (size_t)r.feed[i] * x.width + k + 32 * j);
			}
			mma16816(c, first, h.x, h.y);
			mma16816(e, first, low.x, low.y);
			mma16816(c, second, h.z, h.w);
			mma16816(e, second, low.z, low.w);
		}
#pragma unroll
		for (int k2 = 0; k2 < shape_of<MODE>::COLS; k2++) {
			acc->v[i][0][k2] = __fadd_rn(c[k2], e[k2]);
			acc->v[i][1][k2] = __fadd_rn(c[2 + k2], e[2 + k2]);
		}
	}
}

template <int MODE>
static __device__ inline void multiply_iq2(struct sums<MODE> *acc, const uint4 *u, const struct vec_x &x, const struct lane_rows<MODE> &r,
					   int sb, const uint2 *grid)
{
	uint4 q[2] = {u[0], u[1]};	/* codes in x, y, signs in z, w: two groups of each leave at the low end a turn */
	const uint4 ds = u[2];
	uint32_t scale[2] = {ds.y, ds.w};
	struct sums<MODE> part = {};

	grid += threadIdx.x % GRID_COPIES;
#pragma unroll 2
	for (int p = 0; p < 4; p++) {
		struct feed8<MODE> f;

		load_feed<MODE>(&f, x, r, sb, p);
#pragma unroll
		for (int j = 0; j < 2; j++) {
			uint32_t a[2][2];

#pragma unroll
			for (int i = 0; i < 2; i++) {
				const uint32_t s = q[i].z >> 8 * j;
				const uint2 g = grid[(q[i].x >> 8 * j & 255) * GRID_COPIES];

				a[i][0] = signed4(g.x, s);
				a[i][1] = signed4(g.y, s >> 4);
			}
#pragma unroll
			for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
				int c[4] = {0, 0, 0, 0};

				mma16832(c, a[0][0], a[1][0], a[0][1], a[1][1], j ? f.b[i].z : f.b[i].x, j ? f.b[i].w : f.b[i].y);
				add_plain<MODE>(&part, i, c, (int)(scale[0] >> 4 * j & 15) * 2 + 1, (int)(scale[1] >> 4 * j & 15) * 2 + 1, f,
						j);
			}
		}
#pragma unroll
		for (int i = 0; i < 2; i++) {
			q[i].x = __funnelshift_r(q[i].x, q[i].y, 16);
			q[i].y >>= 16;
			q[i].z = __funnelshift_r(q[i].z, q[i].w, 16);
			q[i].w >>= 16;
			scale[i] >>= 8;
		}
	}
	add_scaled<MODE>(acc, part, half_bits((uint16_t)ds.x) * 0.125f, half_bits((uint16_t)ds.z) * 0.125f);
}

template <int MODE>
static __device__ inline void multiply_q2(struct sums<MODE> *acc, const uint4 *u, const struct vec_x &x, const struct lane_rows<MODE> &r,
					  int sb)
{
	uint4 q[2] = {u[0], u[1]}, s = u[2];
	const uint4 d = u[3];
	struct sums<MODE> part = {}, less = {};

#pragma unroll 1
	for (int p = 0; p < 4; p++) {
		struct feed8<MODE> f;

		load_feed<MODE>(&f, x, r, sb, p);
#pragma unroll
		for (int j = 0; j < 2; j++) {
			const uint32_t s0 = s.x >> 8 * j, s1 = s.z >> 8 * j;
			const uint32_t m0 = (s0 >> 4 & 15) * 0x01010101u, m1 = (s1 >> 4 & 15) * 0x01010101u;
			const uint32_t a0 = (q[0].x >> 2 * j & 0x03030303u) * (s0 & 15), a2 = (q[0].y >> 2 * j & 0x03030303u) * (s0 & 15);
			const uint32_t a1 = (q[1].x >> 2 * j & 0x03030303u) * (s1 & 15), a3 = (q[1].y >> 2 * j & 0x03030303u) * (s1 & 15);

#pragma unroll
			for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
				const uint32_t b0 = j ? f.b[i].z : f.b[i].x, b1 = j ? f.b[i].w : f.b[i].y;
				int c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0};

				mma16832(c, a0, a1, a2, a3, b0, b1);
				mma16832(e, m0, m1, m0, m1, b0, b1);
				add_plain<MODE>(&part, i, c, 1, 1, f, j);
				add_plain<MODE>(&less, i, e, 1, 1, f, j);
			}
		}
#pragma unroll
		for (int i = 0; i < 2; i++) {	/* the next two groups; after four the second half */
			q[i].x = p == 1 ? q[i].z : q[i].x >> 4;
			q[i].y = p == 1 ? q[i].w : q[i].y >> 4;
		}
		s.x = __funnelshift_r(s.x, s.y, 16);
		s.y >>= 16;
		s.z = __funnelshift_r(s.z, s.w, 16);
		s.w >>= 16;
	}
	add_scaled<MODE>(acc, part, half_bits((uint16_t)d.x), half_bits((uint16_t)d.y));
	add_scaled<MODE>(acc, less, -half_bits((uint16_t)(d.x >> 16)), -half_bits((uint16_t)(d.y >> 16)));
}

template <int MODE>
static __device__ inline void multiply_q4(struct sums<MODE> *acc, const uint4 *u, const struct vec_x &x, const struct lane_rows<MODE> &r,
					  int sb)
{
	const uint4 head[2] = {u[0], u[1]};

#pragma unroll 1
	for (int p = 0; p < 4; p++) {
		const uint4 w0 = p < 2 ? u[2] : u[3], w1 = p < 2 ? u[4] : u[5];
		const uint2 q0 = p % 2 ? uint2{w0.z, w0.w} : uint2{w0.x, w0.y}, q1 = p % 2 ? uint2{w1.z, w1.w} : uint2{w1.x, w1.y};
		struct feed8<MODE> f;

		load_feed<MODE>(&f, x, r, sb, p);
#pragma unroll
		for (int j = 0; j < 2; j++) {
			float d[2], m[2];

#pragma unroll
			for (int i = 0; i < 2; i++) {
				const uint32_t s[3] = {head[i].y, head[i].z, head[i].w};
				int scale, min;

				q4_scale_min(s, 2 * p + j, &scale, &min);
				d[i] = __fmul_rn(half_bits((uint16_t)head[i].x), (float)scale);
				m[i] = -__fmul_rn(half_bits((uint16_t)(head[i].x >> 16)), (float)min);
			}
#pragma unroll
			for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
				const uint32_t b0 = j ? f.b[i].z : f.b[i].x, b1 = j ? f.b[i].w : f.b[i].y, one = 0x01010101u;
				int c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0};

				mma16832(c, q0.x >> 4 * j & 0x0F0F0F0F, q1.x >> 4 * j & 0x0F0F0F0F, q0.y >> 4 * j & 0x0F0F0F0F,
					 q1.y >> 4 * j & 0x0F0F0F0F, b0, b1);
				mma16832(e, one, one, one, one, b0, b1);
				add_sums<MODE>(acc, i, c, d[0], d[1], f, j);
				add_sums<MODE>(acc, i, e, m[0], m[1], f, j);
			}
		}
	}
}

/* Adds the unit at u, part `sub` of superblock sb. */
template <int T, int MODE>
static __device__ inline void multiply(struct sums<MODE> *acc, const uint4 *u, const struct vec_x &x, const struct lane_rows<MODE> &r,
				       int sb, int sub, const uint2 *grid)
{
	if constexpr (T == DTYPE_Q8_0)
		multiply_q8<MODE>(acc, u, x, r, sb, sub);
	else if constexpr (T == DTYPE_F16)
		multiply_f16<MODE>(acc, u, x, r, sb, sub);
	else if constexpr (T == DTYPE_IQ2_XXS)
		multiply_iq2<MODE>(acc, u, x, r, sb, grid);
	else if constexpr (T == DTYPE_Q2_K)
		multiply_q2<MODE>(acc, u, x, r, sb);
	else
		multiply_q4<MODE>(acc, u, x, r, sb);
}

/* The codebook, GRID_COPIES times; all threads of the block, a barrier follows. */
static __device__ inline void load_grid_copies(uint2 *grid)
{
	uint4 *to = (uint4 *)grid;

#pragma unroll 1
	for (int i = threadIdx.x; i < 256 * GRID_COPIES / 2; i += blockDim.x) {
		uint2 g = ((const uint2 *)iq2_grid)[i / (GRID_COPIES / 2)];

		to[i] = make_uint4(g.x, g.y, g.x, g.y);
	}
}

#endif
