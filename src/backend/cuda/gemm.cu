/* gemm.cu - the matrix product for many rows: block formats expanded to f16 in shared memory, tensor cores, f32 sums.
 *
 * What  C[m, o] = A[m] . W[o] with A in f16; dense, by output groups, or over tiles of pairs that share an expert.
 * How   A block makes 64 or 128 x 128 of C, 64 of the inner length at a time: the next tile's rows of A are copied in the
 *       background and its weights loaded to registers, this one's halves multiplied, then the next is expanded into the
 *       other half of shared memory.  8 warps, 32 or 64 x 32 each, mma.m16n8k16.  64 rows where few rows share a matrix
 *       (an expert's) or the grid would not fill the device.  Rows of shared memory are 72 halves apart: ldmatrix then has
 *       no bank conflicts.
 * Careful
 *       - Expanded weights are rounded to 11 bits, those of three formats twice: results are within about 7e-4 of the exact
 *         product.
 *       - Every row's sum has one order: the rows beside it do not matter. */
#include "cuda_int.cuh"
#include "decode.cuh"
#include "mma.cuh"

static const int BN = 128, BK = 64, LD = BK + 8, THREADS = 256;

/* A block's tiles of A and W, twice. */
template <int BM> struct tiles {
	__half a[2][BM * LD], b[2][BN * LD];
};

/* Starts copying a tile of A; 8 threads a row of 64; at[i]: the thread's rows, in units of 8 halves, or -1. */
template <int BM>
static __device__ inline void begin_a(__half *to, const __half *a, const int32_t at[BM / 32], int k0, int k_end)
{
	int row = threadIdx.x / 8, k = threadIdx.x % 8 * 8;

#pragma unroll
	for (int i = 0; i < BM / 32; i++) {
		bool valid = at[i] >= 0 && k0 + k < k_end;

		copy16(to + (row + 32 * i) * LD + k, valid ? a + (size_t)at[i] * 8 + k0 + k : a, valid);
	}
}

/* Grid: output tiles, row tiles, output groups. */
template <int T, int BM> static __global__ void __launch_bounds__(THREADS, 2) gemm_kernel(struct gemm_args g)
{
	constexpr int MI = BM / 32;	/* pieces of 16 rows that a warp makes */
	DYNAMIC(int4, memory);
	struct tiles<BM> *s = (struct tiles<BM> *)memory;
	__shared__ uint4 grid[T == DTYPE_IQ2_XXS ? 256 : 1];
	const int tid = threadIdx.x, lane = tid % WARP, warp = tid / WARP, wm = warp / 4 * (BM / 2), wn = warp % 4 * 32;
	const int per_group = g.w.out / g.groups, n0 = blockIdx.x * BN, k_end = g.w.in;
	const int mine = tid / 2, part = tid % 2;	/* row of W's tile and its pieces, expanded by this thread */
	int first = blockIdx.y * BM, count = min(BM, g.m - first), expert = 0;
	int32_t at[MI];
	float acc[MI][4][4];
	struct strip raw;
	size_t w_row;

	follow();
	if (g.tile) {
		if ((int)blockIdx.y >= *g.n_tile)
			return;
		int4 t = g.tile[blockIdx.y];

		expert = t.x;
		first = t.y;
		count = t.z;
	}
	if (T == DTYPE_IQ2_XXS)
		load_half_grid(grid, 1);
#pragma unroll
	for (int i = 0; i < MI; i++) {
		int m = tid / 8 + 32 * i;

		at[i] = -1;
		if (m < count)
			at[i] = (int32_t)(((g.a_row ? g.a_row[first + m] : first + m) * g.lda + (int64_t)blockIdx.z * g.w.in) / 8);
	}
	w_row = (size_t)expert * g.w.out + (size_t)blockIdx.z * per_group + (n0 + mine < per_group ? n0 + mine : 0);
#pragma unroll
	for (int i = 0; i < MI; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int c = 0; c < 4; c++)
				acc[i][j][c] = 0;

	for (int k0 = -BK, buf = 1; k0 < k_end; k0 += BK, buf ^= 1) {
		const int next = k0 + BK;
		const bool more = next < k_end;

		if (more) {	/* the next tile's bytes */
			begin_a<BM>(s->a[buf ^ 1], g.a, at, next, k_end);
			strip_load<T>(&raw, g.w, w_row, next / BK, part);
		}
		if (k0 >= 0) {
			const __half *ta = s->a[buf], *tb = s->b[buf];

#pragma unroll
			for (int kk = 0; kk < BK; kk += 16) {
				uint32_t a[MI][4], b[2][4];

#pragma unroll
				for (int i = 0; i < MI; i++)
					ldmatrix4(a[i], ta + (wm + 16 * i + lane % 16) * LD + kk + lane / 16 * 8);
#pragma unroll
				for (int j = 0; j < 2; j++)	/* 16 outputs: n 0-7 k 0-7, n 0-7 k 8-15, n 8-15 k 0-7, n 8-15 k 8-15 */
					ldmatrix4(b[j], tb + (wn + 16 * j + lane % 8 + lane / 16 * 8) * LD + kk + lane / 8 % 2 * 8);
#pragma unroll
				for (int i = 0; i < MI; i++)
#pragma unroll
					for (int j = 0; j < 4; j++)
						mma16816(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
			}
		}
		if (more) {
			__half *tb = s->b[buf ^ 1] + mine * LD;

#pragma unroll
			for (int i = 0; i < 4; i++)
				*(uint4 *)(tb + piece_at<T>(part, i)) = strip_piece<T>(raw, g.w, w_row, next / BK, part, i, grid);
		}
		copies_wait();
		__syncthreads();
	}
#pragma unroll
	for (int i = 0; i < MI; i++)
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int c = 0; c < 4; c++) {
				int m = wm + 16 * i + lane / 4 + c / 2 * 8, n = n0 + wn + 8 * j + lane % 4 * 2 + c % 2;

				if (m < count && n < per_group)
					g.c[(size_t)(first + m) * g.ldc + (size_t)blockIdx.z * per_group + n] = acc[i][j][c];
			}
}

template <int T, int BM> static void launch(struct eng *e, dim3 grid, const struct gemm_args *g)
{
#ifndef DS4_CUDA_EMU
	cudaFuncSetAttribute(gemm_kernel<T, BM>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(struct tiles<BM>));
#endif
	LAUNCH(e, (gemm_kernel<T, BM>), grid, THREADS, sizeof(struct tiles<BM>), *g);
}

/* max_tiles: bound of *n_tile; tile: most rows of a tile, 64 or 128.  A row's bits do not depend on it. */
void k_gemm(struct eng *e, const struct gemm_args *g, int32_t max_tiles, int32_t tile)
{
	if (k_gemm_wg(e, g, max_tiles, tile))
		return;
	dim3 grid(div_up(g->w.out / g->groups, BN), g->tile ? max_tiles : div_up(g->m, tile), g->groups);

	switch (g->w.type) {
#define X(T)                                    \
	case T:                                 \
		if (tile == 64)                 \
			launch<T, 64>(e, grid, g);  \
		else                            \
			launch<T, 128>(e, grid, g); \
		break;
		X(DTYPE_F32) X(DTYPE_F16) X(DTYPE_BF16) X(DTYPE_Q8_0) X(DTYPE_Q2_K) X(DTYPE_Q4_K) X(DTYPE_IQ2_XXS)
#undef X
	default:
		eng_fail(e, ERR_FORMAT, "cuda: no product kernel for element type %d", g->w.type);
	}
}
