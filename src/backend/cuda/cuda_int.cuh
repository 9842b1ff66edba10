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

static const int WARP = 32, REC_P = 8, REC_I = 10, SLOTS = 12;

/* A weight on the device, split into planes, in the order in which the tensor cores' fragments are read: 16 rows stand
 * together (block_at), and lane t of four holds the 8 elements (a chunk) 8 t .. 8 t + 7 of each group of 32.
 *   F32, F16, BF16, I32, Q4_K   a: the bytes of the file
 *   Q8_0      blocks of 64   a: [block, t, 2 groups, 8]            b: half [block, 2]; stride: zeros behind `in`
 *   IQ2_XXS   blocks of 256  a: [block, t, 16]: 8 codes, 8 sign bytes   b: [block, 8]: half, 0, 8 nibbles
 *   Q2_K      blocks of 256  a: [block, t, 2 halves, 8]            b: scale_min [block, 2 sixteens, 8 groups]
 *             c: half2 (d, dmin) [block]
 * f: small weights of any plain type again, as F32 (weight_at). */
struct dw {
	const uint8_t *a, *b, *c;
	const float *f;
	int32_t type, in, out, n;
	int32_t stride, pad;	/* stride: `in` rounded up to 256 */
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

enum op {
	OP_EMBED, OP_HC_IN, OP_HC_OUT, OP_HC_HEAD, OP_RMS, OP_MATMUL, OP_ROPE, OP_PACK, OP_POOL, OP_QUERY, OP_CHOOSE, OP_ATTEND,
	OP_RING, OP_ROUTE, OP_EXPERTS, OP_SWIGLU, OP_ADD, OP_SHARED, OP_COUNT
};

struct rec {
	int32_t op, n_rows, n_spans, n_logits;
	struct dw w[3];
	void *p[REC_P];
	int32_t i[REC_I];
	float f[2];
	struct kv_layer layer;
};

/* A float tensor in another form. */
enum form {
	FORM_INT8,	/* q: int8 in the order of Q8_0 weights [n, stride], d: scales [n, stride / 32] */
	FORM_PAIR,	/* h: nearest f16 [n, width], low: f16 of what it misses */
	FORM_HALF	/* h: nearest f16 [n, width] */
};

struct slot {
	const void *src;	/* NULL: empty */
	int32_t width, n, form, used;
	uint8_t *mem;
	size_t room;
	int8_t *q;
	float *d;
	__half *h, *low;
};

/* Where element k of a row stands among 256: the order of struct dw. */
static __host__ __device__ inline int place_of(int k)
{
	return (k & ~63) + k % 32 / 8 * 16 + k / 32 % 2 * 8 + k % 8;
}

/* Block i of a row of n: 16 rows' blocks follow each other. */
static __host__ __device__ inline size_t block_at(size_t row, int n, int i)
{
	return ((row >> 4) * n + i) * 16 + (row & 15);
}

static const int SMALL_WEIGHT = 1 << 17;

static __host__ __device__ inline int up256(int n)
{
	return (n + 255) & ~255;
}

enum scratch {
	S_MIX, S_ATTN, S_SCORES, S_HIDDEN, S_HIDDEN2, S_PAIRS, S_DOWN, S_SHARED, S_TILES, S_HALF, S_KEYQ, S_TURN, S_COUNT
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
	int32_t overlap;	/* a kernel may start before the one in front of it has ended; see follow() */
	int32_t sms, wgmma;
	int32_t fill;		/* blocks on a multiprocessor that products of few rows aim at */
};

struct few_product;
void *eng_scratch(struct eng *e, enum scratch s, size_t bytes);
void eng_fail(struct eng *e, enum status code, const char *fmt, ...);
void eng_check(struct eng *e, const char *what);
/* What follows is timed under this name, with the weights of n products (struct few_product); when the steps are timed. */
void eng_mark(struct eng *e, const char *name, const struct few_product *p, int n);
void eng_wrote(struct eng *e, const void *p);	/* forgets other forms of a buffer that changes */

/* The emulator of tests/device/emu runs blocks as plain functions. */
#ifdef DS4_CUDA_EMU
#define START(kernel, grid, block, smem, stream, ...) emu_launch((grid), (block), (smem), [&] { kernel(__VA_ARGS__); })
#define DYNAMIC(type, name) type *name = (type *)emu.dynamic
#else
#define START(kernel, grid, block, smem, stream, ...) kernel<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
#define DYNAMIC(type, name) extern __shared__ type name[]

/* Launches a kernel that begins with follow(). */
template <class... P, class... A>
static inline void start_early(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, int overlap, A... a)
{
	cudaLaunchAttribute attr = {};
	cudaLaunchConfig_t c = {};

	attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attr.val.programmaticStreamSerializationAllowed = 1;
	c.gridDim = grid;
	c.blockDim = block;
	c.dynamicSmemBytes = smem;
	c.stream = stream;
	c.attrs = &attr;
	c.numAttrs = overlap ? 1 : 0;
	cudaLaunchKernelEx(&c, kernel, static_cast<P>(a)...);
}
#endif

#ifdef DS4_CUDA_EMU
#define LAUNCH(e, kernel, grid, block, smem, ...) START(kernel, grid, block, smem, (e)->stream, __VA_ARGS__)
#else
#define LAUNCH(e, kernel, grid, block, smem, ...)                                                          \
	do {                                                                                               \
		start_early(kernel, (grid), (block), (smem), (e)->stream, (e)->overlap, __VA_ARGS__);      \
		eng_check(e, #kernel);                                                                     \
	} while (0)
#endif

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
	struct dw w2;		/* with h instead of c: h = weight swiglu(A W, A W2), weight [m] or NULL */
	__half *h;
	const float *weight;
	float limit;
};
/* gemm_wg.cu; false: not on this device, or not this type.  gemm_wg_pairs: does it make h? */
bool k_gemm_wg(struct eng *e, const struct gemm_args *g, int32_t max_tiles, int32_t tile);
bool gemm_wg_pairs(const struct eng *e, int type);
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

/* Every kernel of a step begins with follow(): it lets the next kernel of the stream take its place on the device, and waits
 * until the one before has ended.  Weights may be read before follow_wait(), nothing else. */
static __device__ inline void follow_lead(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;");
#endif
}

static __device__ inline void follow_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ inline void follow(void)
{
	follow_lead();
	follow_wait();
}

#ifdef DS4_CUDA_EMU
static inline uint32_t warp_max(uint32_t v)
{
	for (int o = 16; o; o >>= 1)
		v = max(v, __shfl_xor_sync(~0u, v, o));
	return v;
}

static inline uint32_t warp_min(uint32_t v)
{
	return ~warp_max(~v);
}
#else
static __device__ inline uint32_t warp_max(uint32_t v)
{
	return __reduce_max_sync(~0u, v);
}

static __device__ inline uint32_t warp_min(uint32_t v)
{
	return __reduce_min_sync(~0u, v);
}
#endif

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

/* Element i of a plain weight, and of a small one (elements <= SMALL_WEIGHT), which costs one load and no branch. */
static __device__ inline float plain_at(const struct dw &w, size_t i)
{
	if (w.type == DTYPE_F32)
		return ((const float *)w.a)[i];
	if (w.type == DTYPE_F16)
		return half_bits(((const uint16_t *)w.a)[i]);
	return bf16_bits(((const uint16_t *)w.a)[i]);
}

static __device__ inline float weight_at(const struct dw &w, int i)
{
	return w.f[i];
}

static __device__ inline float within_half(float x)	/* the range of f16; a NaN stays one */
{
	return isnan(x) ? x : fminf(fmaxf(x, -65504.f), 65504.f);
}

static __device__ inline float pow2f(int e)	/* 2^e, -127 <= e <= 127 */
{
	return e == -127 ? 0x1p-127f : __uint_as_float((uint32_t)(e + 127) << 23);
}

/* cos, sin: out of line, because code that is fetched for one use costs more than the call. */
static __device__ __noinline__ float2 turn_of(float angle)
{
	float s, c;

	sincosf(angle, &s, &c);
	return make_float2(c, s);
}

static __device__ inline void rope_pair(float *u, float freq, int pos, bool inverse)
{
	const float2 cs = turn_of((float)pos * freq);
	float s = cs.y, c = cs.x, a = u[0], b = u[1];

	if (inverse)
		s = -s;
	u[0] = a * c - b * s;
	u[1] = a * s + b * c;
}

#endif
#endif
