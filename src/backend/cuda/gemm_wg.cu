/* gemm_wg.cu - the matrix product for many rows on Hopper: as gemm.cu, with the asynchronous tensor core instruction (wgmma).
 *
 * What  C[m, o] = A[m] . W[o], or for experts h[m, f] = weight swiglu(gate f . A[m], up f . A[m]) in f16.
 * How   A block of two groups of four warps makes 64 or 128 x 128 of C, 64 of the inner length a step.  While the tensor cores
 *       work on one step, the same threads expand the weights of the next into shared memory, and rows of A come by background
 *       copies two steps ahead.  Both operands are read from shared memory, in rows of 128 bytes whose 16-byte pieces are
 *       exchanged by the row's number (the 128-byte swizzle).
 *       With gate and up the 128 columns are 32 of gate, 32 of up, twice: a thread then holds both values of an output.
 * Careful
 *       - Shared memory that was written in the ordinary way is read by the asynchronous unit: a proxy fence before the barrier.
 *       - A buffer is filled again only behind the wait for the product that read it.
 *       - This file needs code for sm_90a (DS4_CUDA_WGMMA); elsewhere gemm.cu does the work.
 *       - Every row's sum has one order: the rows beside it do not matter. */
#include "cuda_int.cuh"
#include "decode.cuh"
#include "mma.cuh"

#if defined(DS4_CUDA_WGMMA) && !defined(DS4_CUDA_EMU)

static const int BN = 128, BK = 64, THREADS = 256, STAGES = 3, COPIES = 8;	/* of the codebook: a lane's copy has banks of its own */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1
#else
#define HOPPER 0
#endif

#if HOPPER
static __device__ inline void wgmma128(float d[64], uint64_t a, uint64_t b, int add)
{
	asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; "
		     "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
		     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
		     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
		     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
		     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
		     "%64, %65, p, 1, 1, 0, 0;}"
		     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
		       "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
		       "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
		       "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
		       "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
		       "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
		       "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
		       "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
		     : "l"(a), "l"(b), "r"(add));
}

static __device__ inline void wgmma64(float d[32], uint64_t a, uint64_t b, int add)
{
	asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; "
		     "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
		     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
		     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
		     "%32, %33, p, 1, 1, 0, 0;}"
		     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
		       "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
		       "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
		       "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
		     : "l"(a), "l"(b), "r"(add));
}

static __device__ inline void wgmma_begin(void)
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ inline void wgmma_commit(void)
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

static __device__ inline void wgmma_wait(void)
{
	asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

/* Descriptor of rows of 128 bytes with the 128-byte swizzle: address, 1,024 bytes from 8 rows to the next 8. */
static __device__ inline uint64_t operand(const void *p)
{
	uint32_t at = (uint32_t)__cvta_generic_to_shared(p);

	return (uint64_t)((at & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
#endif

template <int BM> struct tiles {
	__half a[STAGES][BM * BK], b[2][BN * BK];
};

/* Where 16-byte piece c of a row of 64 halves stands. */
static __device__ inline int swizzled(int row, int c)
{
	return row * BK + ((c ^ (row & 7)) << 3);
}

template <int T, int BM, bool PAIR> static __global__ void __launch_bounds__(THREADS, 2) gemm_wg_kernel(struct gemm_args g)
{
#if HOPPER
	constexpr int MI = BM / 32, N = BM == 128 ? BN : BN / 2;	/* columns of a group of warps */
	DYNAMIC(int4, memory);
	struct tiles<BM> *s = (struct tiles<BM> *)(((uintptr_t)memory + 1023) & ~(uintptr_t)1023);
	uint4 *grid = (uint4 *)(s + 1);
	const int tid = threadIdx.x, lane = tid % WARP, team = tid / 128;
	const int mine = tid / WARP * 16 + lane % 16, part = lane / 16;	/* eight lanes that store together have eight rows */
	const int per_group = g.w.out / g.groups, n0 = blockIdx.x * (PAIR ? BN / 2 : BN), k_end = g.w.in, steps = (k_end + BK - 1) / BK;
	int first = blockIdx.y * BM, count = min(BM, g.m - first), expert = 0;
	int32_t at[MI];
	float acc[N / 2];
	struct strip raw, later;	/* of the step that is expanded next, and of the one behind (a superblock ahead) */
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
		load_half_grid(grid, COPIES);
	grid += lane % COPIES;
#pragma unroll
	for (int i = 0; i < MI; i++) {
		int m = tid / 8 + 32 * i;

		at[i] = -1;
		if (m < count)
			at[i] = (int32_t)(((g.a_row ? g.a_row[first + m] : first + m) * g.lda + (int64_t)blockIdx.z * g.w.in) / 8);
	}
	const struct dw &w = PAIR && mine / 32 % 2 ? g.w2 : g.w;
	const int column = PAIR ? n0 + mine / 64 * 32 + mine % 32 : n0 + mine;

	w_row = (size_t)expert * g.w.out + (size_t)blockIdx.z * per_group + (column < per_group ? column : 0);
#pragma unroll
	for (int i = 0; i < N / 2; i++)
		acc[i] = 0;

	auto copy_a = [&](int step) {
		__half *to = s->a[step % STAGES];
		const int k = step * BK + tid % 8 * 8;

		if (step < steps)
#pragma unroll
			for (int i = 0; i < MI; i++) {
				bool valid = at[i] >= 0 && k < k_end;

				copy16(to + swizzled(tid / 8 + 32 * i, tid % 8), valid ? g.a + (size_t)at[i] * 8 + k : g.a, valid);
			}
		asm volatile("cp.async.commit_group;");
	};
	auto expand = [&](int step) {
		__half *to = s->b[step % 2];

#pragma unroll
		for (int i = 0; i < 4; i++)
			*(uint4 *)(to + swizzled(mine, piece_at<T>(part, i) / 8)) =
				strip_piece<T, COPIES>(raw, w, w_row, step, part, i, grid);
	};
	/* Bytes travel while a whole step is computed: they were asked for one step before `raw` became theirs. */
	auto turn = [&](int step) {
		constexpr int EACH = T == DTYPE_IQ2_XXS || T == DTYPE_Q2_K ? 4 : 1;

		if (step % EACH)
			return;
		raw = later;
		if (step + EACH < steps)
			strip_load<T>(&later, w, w_row, step + EACH, part);
	};
	auto ready = [] {	/* A of the next step has come; everything written is seen by the asynchronous unit */
		asm volatile("cp.async.wait_group 1;" ::: "memory");
		asm volatile("fence.proxy.async.shared::cta;" ::: "memory");	/* a wider fence waits for loads under way */
		__syncthreads();
	};

	copy_a(0);
	copy_a(1);
	strip_load<T>(&later, w, w_row, 0, part);
	turn(0);
	expand(0);
	if (steps > 1)
		turn(1);
	ready();
	for (int step = 0; step < steps; step++) {
		const uint64_t a = operand(s->a[step % STAGES] + (BM == 128 ? team * 64 * BK : 0));
		const uint64_t b = operand(s->b[step % 2] + (BM == 128 ? 0 : team * (BN / 2) * BK));

		wgmma_begin();
#pragma unroll
		for (int k = 0; k < BK / 16; k++) {	/* 32 bytes on: 2 in a descriptor */
			if constexpr (N == 128)
				wgmma128(acc, a + 2 * k, b + 2 * k, 1);
			else
				wgmma64(acc, a + 2 * k, b + 2 * k, 1);
		}
		wgmma_commit();
		copy_a(step + 2);
		if (step + 1 < steps)
			expand(step + 1);
		wgmma_wait();
		if (step + 2 < steps)
			turn(step + 2);
		ready();
	}
	const int row0 = (BM == 128 ? team * 64 : 0) + tid % 128 / WARP * 16 + lane / 4, col0 = BM == 128 ? 0 : team * (BN / 2);

#pragma unroll
	for (int r = 0; r < 2; r++) {
		const int m = row0 + 8 * r;

		if (m >= count)
			continue;
		if (PAIR) {
			const float weight = g.weight ? g.weight[first + m] : 1;
			__half *to = g.h + (size_t)(first + m) * g.ldc;

#pragma unroll
			for (int j = 0; j < N / 8; j++) {
				const int n = n0 + (col0 + 8 * j) / 64 * 32 + 8 * j % 32 + lane % 4 * 2;

				if (j % 8 >= 4 || n >= per_group)
					continue;
				float x = swiglu1(acc[4 * j + 2 * r], acc[4 * (j + 4) + 2 * r], g.limit) * weight;
				float y = swiglu1(acc[4 * j + 2 * r + 1], acc[4 * (j + 4) + 2 * r + 1], g.limit) * weight;

				*(__half2 *)(to + n) = __floats2half2_rn(within_half(x), within_half(y));
			}
		} else {
			float *to = g.c + (size_t)(first + m) * g.ldc + (size_t)blockIdx.z * per_group;

#pragma unroll
			for (int j = 0; j < N / 8; j++) {
				const int n = n0 + col0 + 8 * j + lane % 4 * 2;

				if (n + 1 < per_group && !(g.ldc & 1) && !(per_group & 1))
					*(float2 *)(to + n) = make_float2(acc[4 * j + 2 * r], acc[4 * j + 2 * r + 1]);
				else {
					if (n < per_group)
						to[n] = acc[4 * j + 2 * r];
					if (n + 1 < per_group)
						to[n + 1] = acc[4 * j + 2 * r + 1];
				}
			}
		}
	}
#endif
}

template <int T, int BM, bool PAIR> static void launch(struct eng *e, const struct gemm_args *g, int rows)
{
	const size_t smem = sizeof(struct tiles<BM>) + 1024 + (T == DTYPE_IQ2_XXS ? 256 * COPIES * 16 : 0);
	dim3 grid(div_up(g->w.out / g->groups, PAIR ? BN / 2 : BN), rows, g->groups);

	cudaFuncSetAttribute(gemm_wg_kernel<T, BM, PAIR>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
	LAUNCH(e, (gemm_wg_kernel<T, BM, PAIR>), grid, THREADS, smem, *g);
}

template <int T> static void launch_shape(struct eng *e, const struct gemm_args *g, int rows, int tile)
{
	if (g->h && tile == 64)
		launch<T, 64, true>(e, g, rows);
	else if (g->h)
		launch<T, 128, true>(e, g, rows);
	else if (tile == 64)
		launch<T, 64, false>(e, g, rows);
	else
		launch<T, 128, false>(e, g, rows);
}

bool k_gemm_wg(struct eng *e, const struct gemm_args *g, int32_t max_tiles, int32_t tile)
{
	const int rows = g->tile ? max_tiles : div_up(g->m, tile);

	if (!e->wgmma)
		return false;
	switch (g->w.type) {
#define X(T)                                       \
	case T:                                    \
		launch_shape<T>(e, g, rows, tile); \
		return true;
		X(DTYPE_F16) X(DTYPE_Q8_0) X(DTYPE_Q2_K) X(DTYPE_Q4_K) X(DTYPE_IQ2_XXS)
#undef X
	}
	return false;
}

bool gemm_wg_pairs(const struct eng *e, int type)
{
	return e->wgmma && (type == DTYPE_F16 || rounds(type));
}

#else

bool k_gemm_wg(struct eng *, const struct gemm_args *, int32_t, int32_t)
{
	return false;
}

bool gemm_wg_pairs(const struct eng *, int)
{
	return false;
}

#endif
