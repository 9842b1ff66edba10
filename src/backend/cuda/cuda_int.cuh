/* cuda_int.cuh - shared by the files of the CUDA backend: weights on the device, the step block, the queue's records.
 *
 * How an operation runs.  The contract's function (cuda.cu) only appends a record: what, on which buffers, with
 * copies of the small arguments.  be_submit (or any read of memory) flushes the queue: the step block is uploaded once,
 * then the records are either issued as kernels or, when the same list was seen before, replayed as one CUDA graph.
 * So kernels read positions, tokens and block addresses from the step block, never from their launch arguments. */
#ifndef DS4_CUDA_INT_CUH
#define DS4_CUDA_INT_CUH

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>

#define inline __host__ __device__ __inline__
#include "backend/geom.h"
#undef inline
#include "backend/backend.h"

static const int WARP = 32, REC_P = 8, REC_I = 10, SLOTS = 6;

/* A weight on the device, split into planes of 16-byte rows:
 *   F32, F16, BF16, I32, Q4_K   a: the bytes of the file
 *   Q8_0      a: int8 [rows, in]       b: half [rows, in/32]
 *   IQ2_XXS   a: [rows, in/256, 64]    b: half [rows, in/256]
 *   Q2_K      a: [rows, in/256, 64]    b: scale_min [rows, in/256, 16]    c: half2 (d, dmin) [rows, in/256] */
struct dw {
	const uint8_t *a, *b, *c;
	int32_t type, in, out, n;
};

struct dtimeline {
	uint8_t *tail;
	int32_t first, n;	/* in dstep.block */
};

/* The step block.  Addresses stay while the capacity does, contents change with every step. */
struct dstep {
	const struct row *row;
	const struct span *span;
	const int32_t *row_span, *logit_row;
	const struct dtimeline *timeline;
	uint8_t *const *block;
};

struct rec {
	int32_t op, n_rows, n_spans, n_logits;
	struct dw w[3];
	void *p[REC_P];
	int32_t i[REC_I];
	float f[2];
	struct kv_layer layer;
};

/* A float tensor in another form: int8 groups for the dot kernels or f16 for the matrix kernels. */
struct slot {
	const void *src;	/* NULL: empty */
	int32_t width, n, half, used;
	uint8_t *mem;
	size_t room;
	int8_t *q;
	float *d;
	int16_t *sum;
	__half *h;
};

enum scratch {
	S_MIX, S_ATTN, S_SCORES, S_HIDDEN, S_HIDDEN2, S_PAIRS, S_DOWN, S_TILES, S_HALF, S_COUNT
};

struct eng {
	struct backend be;
	cudaStream_t stream;
	struct dstep st;
	struct slot slot[SLOTS];
	int32_t clock;
	struct { uint8_t *p; size_t n; } scratch[S_COUNT];
	int32_t matvec_rows;	/* steps up to this many rows use the vector kernels */
	int32_t grown;		/* scratch memory moved: recorded graphs are stale */
};

void *eng_scratch(struct eng *e, enum scratch s, size_t bytes);
void eng_fail(struct eng *e, enum status code, const char *fmt, ...);
void eng_check(struct eng *e, const char *what);
void eng_wrote(struct eng *e, const void *p);	/* forgets other forms of a buffer that changes */

/* The emulator of tests/device/emu runs blocks as plain functions. */
#ifdef DS4_CUDA_EMU
#define START(kernel, grid, block, smem, stream, ...) emu_launch((grid), (block), (smem), [&] { kernel(__VA_ARGS__); })
#define DYNAMIC(type, name) type *name = (type *)emu.dynamic
#else
#define START(kernel, grid, block, smem, stream, ...) kernel<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
#define DYNAMIC(type, name) extern __shared__ type name[]
#endif

#define LAUNCH(e, kernel, grid, block, smem, ...)                             \
	do {                                                                  \
		START(kernel, grid, block, smem, (e)->stream, __VA_ARGS__);   \
		eng_check(e, #kernel);                                        \
	} while (0)

/* rows.cu */
void k_embed(struct eng *e, const struct rec *r);
void k_hc_in(struct eng *e, const struct rec *r);
void k_hc_out(struct eng *e, const struct rec *r);
void k_hc_head(struct eng *e, const struct rec *r);
void k_rms_norm(struct eng *e, const struct rec *r);
void k_rope(struct eng *e, const struct rec *r);
void k_swiglu(struct eng *e, const struct rec *r);
void k_add(struct eng *e, const struct rec *r);
void k_route(struct eng *e, const struct rec *r);
/* product.cu */
void k_matmul(struct eng *e, const struct rec *r);
void k_experts(struct eng *e, const struct rec *r);
void k_shared(struct eng *e, const struct rec *r);
/* gemm.cu: C[m, out] = A[m, in] W, tiles: [n] of (expert, first, count) or NULL */
struct gemm_args {
	const __half *a;
	int64_t lda;
	const int32_t *a_row;	/* row of A for each row of the tile list, or NULL */
	struct dw w;
	float *c;
	int64_t ldc;
	int32_t m, groups;
	const int4 *tile;
	const int32_t *n_tile;
};
void k_gemm(struct eng *e, const struct gemm_args *g, int32_t max_tiles, int32_t tile);
/* attn.cu */
void k_pack_rows(struct eng *e, const struct rec *r);
void k_pool(struct eng *e, const struct rec *r);
void k_index_query(struct eng *e, const struct rec *r);
void k_choose(struct eng *e, const struct rec *r);
void k_attend(struct eng *e, const struct rec *r);
void k_ring_write(struct eng *e, const struct rec *r);

static __host__ __device__ inline int div_up(int a, int b)
{
	return (a + b - 1) / b;
}

#ifdef __CUDACC__

static __device__ inline float warp_sum(float v)
{
	for (int o = 16; o; o >>= 1)
		v += __shfl_xor_sync(~0u, v, o);
	return v;
}

/* Sum over a block of up to 1024 threads, the same on every thread; `room` has 33 floats. */
static __device__ inline float block_sum(float v, float *room)
{
	int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, n = (blockDim.x + WARP - 1) / WARP;

	v = warp_sum(v);
	__syncthreads();
	if (!lane)
		room[warp] = v;
	__syncthreads();
	if (!warp) {
		v = lane < n ? room[lane] : 0;
		v = warp_sum(v);
		if (!lane)
			room[32] = v;
	}
	__syncthreads();
	return room[32];
}

static __device__ inline float half_bits(uint16_t h)
{
	return __half2float(__ushort_as_half(h));
}

static __device__ inline float bf16_bits(uint16_t h)
{
	return __uint_as_float((uint32_t)h << 16);
}

/* Element i of a small F32, F16 or BF16 weight. */
static __device__ inline float weight_at(const struct dw &w, size_t i)
{
	if (w.type == DTYPE_F32)
		return ((const float *)w.a)[i];
	if (w.type == DTYPE_F16)
		return half_bits(((const uint16_t *)w.a)[i]);
	return bf16_bits(((const uint16_t *)w.a)[i]);
}

static __device__ inline float pow2f(int e)	/* 2^e, -127 <= e <= 127 */
{
	return e == -127 ? 0x1p-127f : __uint_as_float((uint32_t)(e + 127) << 23);
}

static __device__ inline void rope_pair(float *u, float freq, int pos, bool inverse)
{
	float angle = (float)pos * freq, s, c, a = u[0], b = u[1];

	sincosf(angle, &s, &c);
	if (inverse)
		s = -s;
	u[0] = a * c - b * s;
	u[1] = a * s + b * c;
}

#endif
#endif
