/* few.cuh - products of few rows: 16 weight rows against up to 32 activation rows on the int8 tensor cores.
 *
 * What  unit<T> holds the bytes of 16 weight rows over UNIT<T>::K elements (one lane's share); multiply() adds their products
 *       with the activations to sums in registers.
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

template <int T> struct unit;

template <> struct unit<DTYPE_Q8_0> {	/* 128 elements */
	static const int PER = 2, DEPTH = 3;
	uint4 q[2][2];
	uint2 d[2];
};

template <> struct unit<DTYPE_F16> {	/* 64 elements */
	static const int PER = 4, DEPTH = 4;
	uint4 q[2][2];
};

template <> struct unit<DTYPE_IQ2_XXS> {
	static const int PER = 1, DEPTH = 3;
	uint4 q[2];
	uint32_t d[2], s[2];
};

template <> struct unit<DTYPE_Q2_K> {
	static const int PER = 1, DEPTH = 2;
	uint4 q[2];
	uint2 s[2];
	uint32_t d[2];
};

template <> struct unit<DTYPE_Q4_K> {
	static const int PER = 1, DEPTH = 1;
	uint4 head[2];
	uint2 q[2][4];
};

/* Part `sub` of superblock sb of rows row[0], row[1]. */
static __device__ inline void load_unit(struct unit<DTYPE_Q8_0> *u, const struct dw &w, const size_t row[2], int sb, int sub)
{
#pragma unroll
	for (int i = 0; i < 2; i++) {
		const uint8_t *p = w.a + row[i] * w.stride + sb * 256 + sub * 128 + threadIdx.x % 4 * 16;

		u->q[i][0] = __ldcs((const uint4 *)p);
		u->q[i][1] = __ldcs((const uint4 *)(p + 64));
		u->d[i] = *(const uint2 *)(w.b + (row[i] * (w.stride / 32) + sb * 8 + sub * 4) * 2);
	}
}

static __device__ inline void load_unit(struct unit<DTYPE_F16> *u, const struct dw &w, const size_t row[2], int sb, int sub)
{
	const int k = sb * 256 + sub * 64 + threadIdx.x % 4 * 8;

#pragma unroll
	for (int i = 0; i < 2; i++)
#pragma unroll
		for (int j = 0; j < 2; j++)
			u->q[i][j] = k + 32 * j < w.in ? __ldcs((const uint4 *)(w.a + (row[i] * w.in + k + 32 * j) * 2))
						       : make_uint4(0, 0, 0, 0);
}

static __device__ inline void load_unit(struct unit<DTYPE_IQ2_XXS> *u, const struct dw &w, const size_t row[2], int sb, int)
{
#pragma unroll
	for (int i = 0; i < 2; i++) {
		size_t n = row[i] * (w.stride / 256) + sb;

		u->q[i] = __ldcs((const uint4 *)(w.a + n * 64 + threadIdx.x % 4 * 16));
		u->d[i] = ((const uint16_t *)w.b)[n];
		u->s[i] = ((const uint32_t *)w.c)[n];
	}
}

static __device__ inline void load_unit(struct unit<DTYPE_Q2_K> *u, const struct dw &w, const size_t row[2], int sb, int)
{
#pragma unroll
	for (int i = 0; i < 2; i++) {
		size_t n = row[i] * (w.stride / 256) + sb;

		u->q[i] = __ldcs((const uint4 *)(w.a + n * 64 + threadIdx.x % 4 * 16));
		u->s[i] = *(const uint2 *)(w.b + n * 16 + threadIdx.x % 4 / 2 * 8);
		u->d[i] = ((const uint32_t *)w.c)[n];
	}
}

static __device__ inline void load_unit(struct unit<DTYPE_Q4_K> *u, const struct dw &w, const size_t row[2], int sb, int)
{
#pragma unroll
	for (int i = 0; i < 2; i++) {
		const uint8_t *p = w.a + (row[i] * (w.stride / 256) + sb) * 144;

		u->head[i] = *(const uint4 *)p;
#pragma unroll
		for (int j = 0; j < 4; j++)
			u->q[i][j] = *(const uint2 *)(p + 16 + 32 * j + threadIdx.x % 4 * 8);
	}
}

template <int MODE>
static __device__ inline void multiply(struct sums<MODE> *acc, const struct unit<DTYPE_Q8_0> &u, const struct vec_x &x,
				       const struct lane_rows<MODE> &r, int sb, int sub, const uint2 *)
{
#pragma unroll
	for (int p = 0; p < 2; p++) {
		struct feed8<MODE> f;

		load_feed<MODE>(&f, x, r, sb, sub * 2 + p);
#pragma unroll
		for (int j = 0; j < 2; j++) {
			const uint4 &a = u.q[0][p], &b = u.q[1][p];
			const float d0 = half_bits((uint16_t)((p ? u.d[0].y : u.d[0].x) >> 16 * j));
			const float d1 = half_bits((uint16_t)((p ? u.d[1].y : u.d[1].x) >> 16 * j));

#pragma unroll
			for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
				int c[4] = {0, 0, 0, 0};

				mma16832(c, j ? a.z : a.x, j ? b.z : b.x, j ? a.w : a.y, j ? b.w : b.y,
					 j ? f.b[i].z : f.b[i].x, j ? f.b[i].w : f.b[i].y);
#pragma unroll
				for (int k = 0; k < shape_of<MODE>::COLS; k++) {
					float dx = feed_scale<MODE>(f, i, k, j);

					acc->v[i][0][k] = __fmaf_rn(__fmul_rn(d0, dx), (float)c[k], acc->v[i][0][k]);
					acc->v[i][1][k] = __fmaf_rn(__fmul_rn(d1, dx), (float)c[2 + k], acc->v[i][1][k]);
				}
			}
		}
	}
}

template <int MODE>
static __device__ inline void multiply(struct sums<MODE> *acc, const struct unit<DTYPE_F16> &u, const struct vec_x &x,
				       const struct lane_rows<MODE> &r, int sb, int sub, const uint2 *)
{
	const int k = sb * 256 + sub * 64 + threadIdx.x % 4 * 8;

#pragma unroll
	for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
		float c[4] = {acc->v[i][0][0], 0, acc->v[i][1][0], 0};

		if (shape_of<MODE>::COLS == 2) {
			c[1] = acc->v[i][0][shape_of<MODE>::COLS - 1];
			c[3] = acc->v[i][1][shape_of<MODE>::COLS - 1];
		}
#pragma unroll
		for (int j = 0; j < 2; j++) {
			const uint4 &a = u.q[0][j], &b = u.q[1][j];
			const uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
			uint4 h = make_uint4(0, 0, 0, 0), low = make_uint4(0, 0, 0, 0);

			if (r.feed[i] >= 0 && k + 32 * j < x.width) {
				h = *(const uint4 *)(x.h + (size_t)r.feed[i] * x.width + k + 32 * j);
				low = *(const uint4 *)(x.low + (size_t)r.feed[i] * x.width + k + 32 * j);
			}
			mma16816(c, first, h.x, h.y);
			mma16816(c, second, h.z, h.w);
			mma16816(c, first, low.x, low.y);
			mma16816(c, second, low.z, low.w);
		}
		acc->v[i][0][0] = c[0];
		acc->v[i][1][0] = c[2];
		if (shape_of<MODE>::COLS == 2) {
			acc->v[i][0][shape_of<MODE>::COLS - 1] = c[1];
			acc->v[i][1][shape_of<MODE>::COLS - 1] = c[3];
		}
	}
}

/* Four magnitudes under four sign bits; -g = (g ^ 255) + 1 in every byte never carries, because magnitudes are at least 8. */
static __device__ inline uint32_t signed4(uint32_t g, uint32_t bits)
{
	uint32_t m = sign_bytes((bits & 15) * 0x10204080u);

	return (g ^ m) + (m & 0x01010101u);
}

template <int MODE>
static __device__ inline void multiply(struct sums<MODE> *acc, const struct unit<DTYPE_IQ2_XXS> &u, const struct vec_x &x,
				       const struct lane_rows<MODE> &r, int sb, int, const uint2 *grid)
{
	struct sums<MODE> part = {};

	grid += threadIdx.x % GRID_COPIES;
#pragma unroll
	for (int p = 0; p < 4; p++) {
		struct feed8<MODE> f;

		load_feed<MODE>(&f, x, r, sb, p);
#pragma unroll
		for (int j = 0; j < 2; j++) {
			const int group = 2 * p + j, shift = 8 * (group % 4);
			uint32_t a[2][2];
			int scale[2];

#pragma unroll
			for (int i = 0; i < 2; i++) {
				const uint32_t code = (p < 2 ? u.q[i].x : u.q[i].y) >> shift & 255;
				const uint32_t s = (p < 2 ? u.q[i].z : u.q[i].w) >> shift;
				const uint2 g = grid[code * GRID_COPIES];

				a[i][0] = signed4(g.x, s);
				a[i][1] = signed4(g.y, s >> 4);
				scale[i] = (int)((group ? u.s[i] >> (4 * group - 1) : u.s[i] << 1) & 30) | 1;
			}
#pragma unroll
			for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
				int c[4] = {0, 0, 0, 0};

				mma16832(c, a[0][0], a[1][0], a[0][1], a[1][1], j ? f.b[i].z : f.b[i].x, j ? f.b[i].w : f.b[i].y);
#pragma unroll
				for (int k = 0; k < shape_of<MODE>::COLS; k++) {
					float dx = feed_scale<MODE>(f, i, k, j);

					part.v[i][0][k] = __fmaf_rn(dx, (float)(c[k] * scale[0]), part.v[i][0][k]);
					part.v[i][1][k] = __fmaf_rn(dx, (float)(c[2 + k] * scale[1]), part.v[i][1][k]);
				}
			}
		}
	}
	const float d0 = half_bits((uint16_t)u.d[0]) * 0.125f, d1 = half_bits((uint16_t)u.d[1]) * 0.125f;

#pragma unroll
	for (int i = 0; i < shape_of<MODE>::PIECES; i++)
#pragma unroll
		for (int k = 0; k < shape_of<MODE>::COLS; k++) {
			acc->v[i][0][k] = __fmaf_rn(d0, part.v[i][0][k], acc->v[i][0][k]);
			acc->v[i][1][k] = __fmaf_rn(d1, part.v[i][1][k], acc->v[i][1][k]);
		}
}

template <int MODE>
static __device__ inline void multiply(struct sums<MODE> *acc, const struct unit<DTYPE_Q2_K> &u, const struct vec_x &x,
				       const struct lane_rows<MODE> &r, int sb, int, const uint2 *)
{
	struct sums<MODE> part = {}, less = {};

#pragma unroll
	for (int p = 0; p < 4; p++) {
		struct feed8<MODE> f;

		load_feed<MODE>(&f, x, r, sb, p);
#pragma unroll
		for (int j = 0; j < 2; j++) {
			const int group = 2 * p + j, shift = 2 * (group % 4);
			uint32_t a[2][2], m[2];

#pragma unroll
			for (int i = 0; i < 2; i++) {
				const uint32_t s = (group < 4 ? u.s[i].x : u.s[i].y) >> 8 * (group % 4);

				a[i][0] = ((group < 4 ? u.q[i].x : u.q[i].z) >> shift & 0x03030303u) * (s & 15);
				a[i][1] = ((group < 4 ? u.q[i].y : u.q[i].w) >> shift & 0x03030303u) * (s & 15);
				m[i] = (s >> 4 & 15) * 0x01010101u;
			}
#pragma unroll
			for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
				const uint32_t b0 = j ? f.b[i].z : f.b[i].x, b1 = j ? f.b[i].w : f.b[i].y;
				int c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0};

				mma16832(c, a[0][0], a[1][0], a[0][1], a[1][1], b0, b1);
				mma16832(e, m[0], m[1], m[0], m[1], b0, b1);
#pragma unroll
				for (int k = 0; k < shape_of<MODE>::COLS; k++) {
					float dx = feed_scale<MODE>(f, i, k, j);

					part.v[i][0][k] = __fmaf_rn(dx, (float)c[k], part.v[i][0][k]);
					part.v[i][1][k] = __fmaf_rn(dx, (float)c[2 + k], part.v[i][1][k]);
					less.v[i][0][k] = __fmaf_rn(dx, (float)e[k], less.v[i][0][k]);
					less.v[i][1][k] = __fmaf_rn(dx, (float)e[2 + k], less.v[i][1][k]);
				}
			}
		}
	}
#pragma unroll
	for (int i = 0; i < shape_of<MODE>::PIECES; i++)
#pragma unroll
		for (int h = 0; h < 2; h++)
#pragma unroll
			for (int k = 0; k < shape_of<MODE>::COLS; k++) {
				float d = half_bits((uint16_t)u.d[h]), min = half_bits((uint16_t)(u.d[h] >> 16));

				acc->v[i][h][k] = __fmaf_rn(d, part.v[i][h][k], acc->v[i][h][k]);
				acc->v[i][h][k] = __fmaf_rn(-min, less.v[i][h][k], acc->v[i][h][k]);
			}
}

template <int MODE>
static __device__ inline void multiply(struct sums<MODE> *acc, const struct unit<DTYPE_Q4_K> &u, const struct vec_x &x,
				       const struct lane_rows<MODE> &r, int sb, int, const uint2 *)
{
#pragma unroll
	for (int p = 0; p < 4; p++) {
		struct feed8<MODE> f;

		load_feed<MODE>(&f, x, r, sb, p);
#pragma unroll
		for (int j = 0; j < 2; j++) {
			float d[2], m[2];

#pragma unroll
			for (int i = 0; i < 2; i++) {
				const uint32_t s[3] = {u.head[i].y, u.head[i].z, u.head[i].w};
				int scale, min;

				q4_scale_min(s, 2 * p + j, &scale, &min);
				d[i] = __fmul_rn(half_bits((uint16_t)u.head[i].x), (float)scale);
				m[i] = -__fmul_rn(half_bits((uint16_t)(u.head[i].x >> 16)), (float)min);
			}
#pragma unroll
			for (int i = 0; i < shape_of<MODE>::PIECES; i++) {
				const uint32_t b0 = j ? f.b[i].z : f.b[i].x, b1 = j ? f.b[i].w : f.b[i].y, one = 0x01010101u;
				int c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0};

				mma16832(c, u.q[0][p].x >> 4 * j & 0x0F0F0F0F, u.q[1][p].x >> 4 * j & 0x0F0F0F0F,
					 u.q[0][p].y >> 4 * j & 0x0F0F0F0F, u.q[1][p].y >> 4 * j & 0x0F0F0F0F, b0, b1);
				mma16832(e, one, one, one, one, b0, b1);
#pragma unroll
				for (int h = 0; h < 2; h++)
#pragma unroll
					for (int k = 0; k < shape_of<MODE>::COLS; k++) {
						float v = __fmaf_rn(d[h], (float)c[2 * h + k], __fmul_rn(m[h], (float)e[2 * h + k]));

						acc->v[i][h][k] = __fmaf_rn(feed_scale<MODE>(f, i, k, j), v, acc->v[i][h][k]);
					}
			}
		}
	}
}

/* The codebook, GRID_COPIES times; all threads of the block, a barrier follows. */
static __device__ inline void load_grid_copies(uint2 *grid)
{
	uint4 *to = (uint4 *)grid;

	for (int i = threadIdx.x; i < 256 * GRID_COPIES / 2; i += blockDim.x) {
		uint2 g = ((const uint2 *)iq2_grid)[i / (GRID_COPIES / 2)];

		to[i] = make_uint4(g.x, g.y, g.x, g.y);
	}
}

#endif
