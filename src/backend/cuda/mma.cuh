/* mma.cuh - the tensor core instructions that the kernels use, by name; the emulator has its own.
 *
 * Careful
 *      - ldmatrix4: lanes 8 i .. 8 i + 7 give the addresses of the eight rows (16 bytes each) of matrix i.
 *      - mma16816: a is 16 x 16 (rows first), b is 16 x 8 (inner index first), c 16 x 8. */
#ifndef DS4_CUDA_MMA_CUH
#define DS4_CUDA_MMA_CUH

#include "cuda_int.cuh"

#ifdef DS4_CUDA_EMU
#include "emu_mma.h"
#else
static __device__ inline void ldmatrix4(uint32_t r[4], const __half *p)
{
	uint32_t at = (uint32_t)__cvta_generic_to_shared(p);

	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

/* The same, every 8 x 8 matrix transposed. */
static __device__ inline void ldmatrix4_trans(uint32_t r[4], const __half *p)
{
	uint32_t at = (uint32_t)__cvta_generic_to_shared(p);

	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

static __device__ inline void mma16816(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* c[16 x 8] += a[16 x 32] b[32 x 8], bytes with signs. */
static __device__ inline void mma16832(int c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
		     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Bytes of 0 or 255: the sign bits of four bytes. */
static __device__ inline uint32_t sign_bytes(uint32_t v)
{
	uint32_t r;

	asm("prmt.b32 %0, %1, %1, 0xBA98;" : "=r"(r) : "r"(v));
	return r;
}

/* Brings bytes to the first-level cache; all threads of the block.  Nothing waits: whoever reads them later meets them there
 * or on their way. */
static __device__ inline void touch1(const void *from)
{
	asm volatile("{.reg .b32 v; ld.global.ca.b32 v, [%0];}" :: "l"(from));
}

static __device__ inline void touch(const void *from, int bytes)
{
#pragma unroll 1
	for (int i = threadIdx.x * 128; i < bytes; i += blockDim.x * 128)
		touch1((const uint8_t *)from + i);
}

/* Copies 16 bytes to shared memory in the background, or zeros when !valid; copies_wait() ends all that this thread began. */
static __device__ inline void copy16(void *to, const void *from, bool valid)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
		     :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(valid ? 16 : 0));
}

/* Pieces of 4, 8 or 16 bytes; copies that were begun since the last copies_commit() are one group. */
template <int BYTES> static __device__ inline void copy_piece(void *to, const void *from)
{
	if constexpr (BYTES == 16)
		asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
			     :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from) : "memory");
	else
		asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
			     :: "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "n"(BYTES) : "memory");
}

static __device__ inline void copies_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most N groups of this thread are on their way. */
template <int N> static __device__ inline void copies_but(void)
{
	asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

static __device__ inline void copies_wait(void)
{
	asm volatile("cp.async.wait_all;" ::: "memory");
}
#endif

#endif
