/* gemm.cu - the matrix product for many rows: block formats expanded to f16 in shared memory, tensor cores, f32 sums.
 *
 * What  C[m, o] = A[m] . W[o] with A in f16; dense, by output groups, or over tiles of pairs that share an expert.
 * How   A block makes 128 x 128 of C, 32 of the inner length at a time: next tile's bytes are loaded to registers, this
 *       one's halves multiplied, then the next is expanded into the other half of shared memory.  8 warps, 64 x 32 each,
 *       mma.m16n8k16.  Rows of shared memory are 40 halves apart: ldmatrix then has no bank conflicts.
 * Careful
 *       - Expanded weights are rounded to 11 bits: a result is within about 3e-4 of the exact product.
 *       - Every row's sum has one order: the rows beside it do not matter. */
#include "cuda_int.cuh"
#include "decode.cuh"

static const int BM = 128, BN = 128, BK = 32, LD = BK + 8, THREADS = 256;

#ifdef DS4_CUDA_EMU
#include "emu_mma.h"
#else
static __device__ inline void ldmatrix4(uint32_t r[4], const __half *p)
{
	uint32_t at = (uint32_t)__cvta_generic_to_shared(p);

	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

static __device__ inline void mma16816(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

/* Stores 16 expanded weights as halves. */
static __device__ inline void store16(__half *to, const float v[16])
{
	uint32_t h[8];

#pragma unroll
	for (int i = 0; i < 8; i++) {
		__half2 x = __floats2half2_rn(v[2 * i], v[2 * i + 1]);

		h[i] = *(uint32_t *)&x;
	}
	((uint4 *)to)[0] = make_uint4(h[0], h[1], h[2], h[3]);
	((uint4 *)to)[1] = make_uint4(h[4], h[5], h[6], h[7]);
}

/* Grid: output tiles, row tiles, output groups. */
template <int T> static __global__ void __launch_bounds__(THREADS) gemm_kernel(struct gemm_args g)
{
	__shared__ __align__(16) __half sa[2][BM * LD], sb[2][BN * LD];
	__shared__ uint2 grid[T == DTYPE_IQ2_XXS ? 256 : 1];
	const int tid = threadIdx.x, lane = tid % WARP, warp = tid / WARP, wm = warp / 4 * 64, wn = warp % 4 * 32;
	const int per_group = g.w.out / g.groups, n0 = blockIdx.x * BN, k_end = g.w.in;
	int first = blockIdx.y * BM, count = min(BM, g.m - first), expert = 0;
	const int mine = tid / 2, part = tid % 2 * 16;	/* row of either tile and its half, loaded by this thread */
	const __half *a_from = NULL;
	float acc[4][4][4];
	uint4 a0 = make_uint4(0, 0, 0, 0), a1 = a0;
	struct raw16 raw;
	size_t w_row;
	bool w_in;

	if (g.tile) {
		if ((int)blockIdx.y >= *g.n_tile)
			return;
		int4 t = g.tile[blockIdx.y];

		expert = t.x;
		first = t.y;
		count = t.z;
	}
	if (T == DTYPE_IQ2_XXS)
		load_grid(grid);
	if (mine < count) {
		size_t row = g.a_row ? g.a_row[first + mine] : first + mine;

		a_from = g.a + row * g.lda + (size_t)blockIdx.z * g.w.in + part;
	}
	w_in = n0 + mine < per_group;
	w_row = (size_t)expert * g.w.out + (size_t)blockIdx.z * per_group + (w_in ? n0 + mine : 0);
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int c = 0; c < 4; c++)
				acc[i][j][c] = 0;

	for (int k0 = -BK, buf = 1; k0 < k_end; k0 += BK, buf ^= 1) {
		const bool more = k0 + BK < k_end;

		if (more) {	/* the next tile's bytes */
			if (a_from) {
				a0 = *(const uint4 *)(a_from + k0 + BK);
				a1 = *(const uint4 *)(a_from + k0 + BK + 8);
			}
			raw = load16<T>(g.w, w_row, k0 + BK + part);
		}
		if (k0 >= 0) {
			const __half *ta = sa[buf], *tb = sb[buf];

#pragma unroll
			for (int kk = 0; kk < BK; kk += 16) {
				uint32_t a[4][4], b[2][4];

#pragma unroll
				for (int i = 0; i < 4; i++)
					ldmatrix4(a[i], ta + (wm + 16 * i + lane % 16) * LD + kk + lane / 16 * 8);
#pragma unroll
				for (int j = 0; j < 2; j++)	/* 16 outputs: n 0-7 k 0-7, n 0-7 k 8-15, n 8-15 k 0-7, n 8-15 k 8-15 */
					ldmatrix4(b[j], tb + (wn + 16 * j + lane % 8 + lane / 16 * 8) * LD + kk + lane / 8 % 2 * 8);
#pragma unroll
				for (int i = 0; i < 4; i++)
#pragma unroll
					for (int j = 0; j < 4; j++)
						mma16816(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
			}
		}
		if (more) {
			float v[16];
			__half *ta = sa[buf ^ 1] + mine * LD + part;

			((uint4 *)ta)[0] = a0;
			((uint4 *)ta)[1] = a1;
			expand16<T>(raw, k0 + BK + part, grid, v);
			store16(sb[buf ^ 1] + mine * LD + part, v);
		}
		__syncthreads();
	}
#pragma unroll
	for (int i = 0; i < 4; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int c = 0; c < 4; c++) {
				int m = wm + 16 * i + lane / 4 + c / 2 * 8, n = n0 + wn + 8 * j + lane % 4 * 2 + c % 2;

				if (m < count && n < per_group)
					g.c[(size_t)(first + m) * g.ldc + (size_t)blockIdx.z * per_group + n] = acc[i][j][c];
			}
}

void k_gemm(struct eng *e, const struct gemm_args *g, int32_t max_tiles)
{
	dim3 grid(div_up(g->w.out / g->groups, BN), g->tile ? max_tiles : div_up(g->m, BM), g->groups);

	switch (g->w.type) {
#define X(T)                                                          \
	case T:                                                       \
		LAUNCH(e, gemm_kernel<T>, grid, THREADS, 0, *g);      \
		break;
		X(DTYPE_F32) X(DTYPE_F16) X(DTYPE_BF16) X(DTYPE_Q8_0) X(DTYPE_Q2_K) X(DTYPE_Q4_K) X(DTYPE_IQ2_XXS)
#undef X
	default:
		eng_fail(e, ERR_FORMAT, "cuda: no product kernel for element type %d", g->w.type);
	}
}
