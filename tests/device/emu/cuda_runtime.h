/* cuda_runtime.h - enough of CUDA to run the kernels of src/backend/cuda on a CPU, slowly: their logic can be tested on
 * machines without a GPU (tests/device/emulate.sh).
 *
 * How  A block's threads are fibers on one system thread; __syncthreads and warp operations switch between them.  Device
 *      memory is host memory.  Shared memory is static: blocks run one after the other.
 * Not emulated: memory spaces, races that need real concurrency, graphs (capture fails, so kernels are issued). */
#ifndef DS4_EMU_CUDA_RUNTIME_H
#define DS4_EMU_CUDA_RUNTIME_H
#define DS4_CUDA_EMU 1
#define __CUDACC__ 1

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>

using std::max;
using std::min;

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

struct __attribute__((aligned(8))) float2 { float x, y; };
struct uint2 { uint32_t x, y; };
struct int2 { int32_t x, y; };
struct __attribute__((aligned(16))) uint4 { uint32_t x, y, z, w; };
struct __attribute__((aligned(16))) int4 { int32_t x, y, z, w; };
struct __attribute__((aligned(16))) float4 { float x, y, z, w; };
struct dim3 {
	unsigned x, y, z;
	dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
static inline uint4 make_uint4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) { return {a, b, c, d}; }
static inline int4 make_int4(int a, int b, int c, int d) { return {a, b, c, d}; }
static inline float2 make_float2(float a, float b) { return {a, b}; }
static inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }

/* ------------------------------------------------------------------ fibers */

struct emu_warp {
	uint64_t slot[32][8];
	int arrived, live, gen;
};

struct emu_fiber {
	void *sp;
	dim3 tid;
	int index, done;
};

struct emu_block {
	emu_fiber fiber[1024];
	emu_warp warp[32];
	int n, arrived, live, gen, current;
	void *main_sp;
	dim3 grid, block, at;
	const std::function<void()> *body;
	void *dynamic;
};

extern emu_block emu;
void emu_launch(dim3 grid, dim3 block, size_t smem, const std::function<void()> &body);
void emu_yield();

#define threadIdx (emu.fiber[emu.current].tid)
#define blockIdx (emu.at)
#define blockDim (emu.block)
#define gridDim (emu.grid)

static inline void __syncthreads()
{
	int gen = emu.gen;

	if (++emu.arrived == emu.live) {
		emu.arrived = 0;
		emu.gen++;
		return;
	}
	while (emu.gen == gen)
		emu_yield();
}

static inline void __syncwarp(unsigned = ~0u)
{
	emu_warp &w = emu.warp[emu.fiber[emu.current].index / 32];
	int gen = w.gen;

	if (++w.arrived == w.live) {
		w.arrived = 0;
		w.gen++;
		return;
	}
	while (w.gen == gen)
		emu_yield();
}

/* Shows n words of every lane to all; get(lane, i) afterwards; ends with emu_shared(). */
static inline emu_warp &emu_share(const uint64_t *v, int n)
{
	emu_warp &w = emu.warp[emu.fiber[emu.current].index / 32];

	memcpy(w.slot[emu.fiber[emu.current].index % 32], v, n * 8);
	__syncwarp();
	return w;
}

template <class T> static inline T __shfl_xor_sync(unsigned, T v, int o)
{
	uint64_t u = 0;
	T r;

	memcpy(&u, &v, sizeof v);
	emu_warp &w = emu_share(&u, 1);
	memcpy(&r, w.slot[emu.fiber[emu.current].index % 32 ^ o], sizeof r);
	__syncwarp();
	return r;
}

template <class T> static inline T __shfl_down_sync(unsigned, T v, int o)
{
	uint64_t u = 0;
	T r;

	memcpy(&u, &v, sizeof v);
	emu_warp &w = emu_share(&u, 1);
	int from = emu.fiber[emu.current].index % 32 + o;
	memcpy(&r, w.slot[from < 32 ? from : from - o], sizeof r);
	__syncwarp();
	return r;
}

static inline unsigned __ballot_sync(unsigned, bool p)
{
	uint64_t u = p;
	unsigned r = 0;
	emu_warp &w = emu_share(&u, 1);

	for (int i = 0; i < 32; i++)
		r |= (unsigned)(w.slot[i][0] & 1) << i;
	__syncwarp();
	return r;
}

static inline bool __any_sync(unsigned m, bool p) { return __ballot_sync(m, p) != 0; }

/* ------------------------------------------------------------------ arithmetic */

static inline uint32_t __float_as_uint(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline float __uint_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline uint32_t __funnelshift_r(uint32_t lo, uint32_t hi, uint32_t n) { return n & 31 ? lo >> (n & 31) | hi << (32 - (n & 31)) : lo; }
static inline int __popc(uint32_t v) { return __builtin_popcount(v); }
static inline int __dp4a(int a, int b, int c)
{
	for (int i = 0; i < 4; i++)
		c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
	return c;
}
static inline uint32_t __vsub4(uint32_t a, uint32_t b)
{
	uint32_t r = 0;
	for (int i = 0; i < 4; i++)
		r |= (uint32_t)(uint8_t)((a >> 8 * i) - (b >> 8 * i)) << 8 * i;
	return r;
}
static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s)
{
	uint64_t v = a | (uint64_t)b << 32;
	uint32_t r = 0;
	for (int i = 0; i < 4; i++)
		r |= (uint32_t)(v >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
	return r;
}
template <class T> static inline T __ldcs(const T *p) { return *p; }
static inline int atomicAdd(int *p, int v) { int o = *p; *p += v; return o; }

/* ------------------------------------------------------------------ runtime */

typedef int cudaError_t;
typedef void *cudaStream_t;
typedef void *cudaEvent_t;
typedef void *cudaGraph_t;
typedef void *cudaGraphExec_t;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInsufficientDriver = 35, cudaErrorEmulated = 900 };
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaStreamNonBlocking,
       cudaStreamCaptureModeRelaxed, cudaEventDisableTiming };
struct cudaDeviceProp { char name[64]; int major, minor, multiProcessorCount; };

template <class T> static inline cudaError_t cudaMalloc(T **p, size_t n)
{
	*p = (T *)aligned_alloc(256, (n + 255) / 256 * 256 + 256);
	memset((void *)*p, 0xC5, n);	/* memory nobody wrote shows */
	return cudaSuccess;
}
template <class T> static inline cudaError_t cudaMallocHost(T **p, size_t n) { return cudaMalloc(p, n); }
static inline cudaError_t cudaFree(void *p) { free(p); return 0; }
static inline cudaError_t cudaFreeHost(void *p) { free(p); return 0; }
static inline cudaError_t cudaMemcpy(void *d, const void *s, size_t n, int) { memcpy(d, s, n); return 0; }
static inline cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, int, cudaStream_t) { memcpy(d, s, n); return 0; }
static inline cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t) { memset(d, v, n); return 0; }
static inline cudaError_t cudaGetLastError() { return 0; }
static inline const char *cudaGetErrorString(int) { return "emulated"; }
static inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return 0; }
static inline cudaError_t cudaDeviceSynchronize() { return 0; }
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, int) { *s = NULL; return 0; }
static inline cudaError_t cudaStreamDestroy(cudaStream_t) { return 0; }
static inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) { return cudaErrorEmulated; }
static inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *) { return cudaErrorEmulated; }
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *, cudaGraph_t, int) { return cudaErrorEmulated; }
static inline cudaError_t cudaGraphDestroy(cudaGraph_t) { return 0; }
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return 0; }
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaErrorEmulated; }
static inline cudaError_t cudaEventCreate(cudaEvent_t *e) { *e = NULL; return 0; }
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, int) { *e = NULL; return 0; }
static inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return 0; }
static inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return 0; }
static inline cudaError_t cudaEventElapsedTime(float *t, cudaEvent_t, cudaEvent_t) { *t = 0; return 0; }
static inline cudaError_t cudaEventDestroy(cudaEvent_t) { return 0; }
static inline cudaError_t cudaGetDeviceCount(int *n) { *n = 1; return 0; }
static inline cudaError_t cudaDriverGetVersion(int *n) { *n = 13000; return 0; }
static inline cudaError_t cudaRuntimeGetVersion(int *n) { *n = 13000; return 0; }
static inline cudaError_t cudaSetDevice(int) { return 0; }
static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) { memset(p, 0, sizeof *p); return 0; }
static inline cudaError_t cudaMemGetInfo(size_t *a, size_t *b) { *a = *b = 0; return 0; }

#endif
