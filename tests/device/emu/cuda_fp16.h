/* cuda_fp16.h - half precision for the emulator. */
#ifndef DS4_EMU_CUDA_FP16_H
#define DS4_EMU_CUDA_FP16_H

#include "cuda_runtime.h"
#include "quant/half.h"

struct __half { uint16_t x; };
struct __attribute__((aligned(4))) __half2 { __half x, y; };
static inline float __half2float(__half h) { return f16_to_f32(h.x); }
static inline __half __float2half_rn(float f) { return {f16_from_f32(f)}; }
static inline __half __ushort_as_half(uint16_t u) { return {u}; }
static inline __half2 __floats2half2_rn(float a, float b) { return {__float2half_rn(a), __float2half_rn(b)}; }
static inline __half2 __hmul2(__half2 a, __half2 b)
{
	return __floats2half2_rn(__half2float(a.x) * __half2float(b.x), __half2float(a.y) * __half2float(b.y));
}
static inline __half2 __hsub2(__half2 a, __half2 b)
{
	return __floats2half2_rn(__half2float(a.x) - __half2float(b.x), __half2float(a.y) - __half2float(b.y));
}
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
	return __floats2half2_rn(fmaf(__half2float(a.x), __half2float(b.x), __half2float(c.x)),
				 fmaf(__half2float(a.y), __half2float(b.y), __half2float(c.y)));
}

#endif
