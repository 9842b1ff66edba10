/* common.metal - shared by all kernels: element types, the block formats, small float formats, sums over threads.
 *
 * Every format is read eight elements at a time (decode8): eight consecutive elements share their scales in all of
 * them, so this one function per format is all that the products know of it.  quant/quant.c is the definition. */
#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

#include "backend/geom.h"
#include "backend/metal/metal_args.h"

/* enum dtype of quant/dtype.h */
enum { F32 = 0, F16 = 1, Q8_0 = 2, Q2_K = 3, Q4_K = 4, IQ2_XXS = 5, I32 = 6, BF16 = 7 };

struct eight {
	float4 lo, hi;
};

inline float bf16(ushort h)
{
	return as_type<float>(uint(h) << 16);
}

/* Element i of a small vector. */
inline float vector_at(device const uchar *p, int type, uint i)
{
	if (type == F32)
		return ((device const float *)p)[i];
	if (type == F16)
		return float(((device const half *)p)[i]);
	return bf16(((device const ushort *)p)[i]);
}

/* ------------------------------------------------------------------ block formats */

constant uchar iq2_grid[256][8] = {
#include "quant/iq2_tables.h"
};

inline eight decode8_f32(device const uchar *row, uint c)
{
	device const float4 *p = (device const float4 *)row + 2 * c;
	eight e;

	e.lo = p[0];
	e.hi = p[1];
	return e;
}

inline eight decode8_f16(device const uchar *row, uint c)
{
	device const half4 *p = (device const half4 *)row + 2 * c;
	eight e;

	e.lo = float4(p[0]);
	e.hi = float4(p[1]);
	return e;
}

inline eight decode8_bf16(device const uchar *row, uint c)
{
	device const ushort4 *p = (device const ushort4 *)row + 2 * c;
	eight e;

	e.lo = as_type<float4>(uint4(p[0]) << uint4(16));
	e.hi = as_type<float4>(uint4(p[1]) << uint4(16));
	return e;
}

inline eight decode8_q8_0(device const uchar *row, uint c)
{
	device const ushort *p = (device const ushort *)(row + (c / 4) * 34);
	const float d = float(as_type<half>(p[0]));
	eight e;

	p += 1 + (c % 4) * 4;
	const char2 a = as_type<char2>(p[0]), b = as_type<char2>(p[1]), f = as_type<char2>(p[2]), g = as_type<char2>(p[3]);
	e.lo = d * float4(float2(a), float2(b));
	e.hi = d * float4(float2(f), float2(g));
	return e;
}

/* Byte k of a word as a float, after a shift and a mask. */
inline float4 codes(uint word, uint shift, uint mask)
{
	const uint w = word >> shift;

	return float4(float(w & mask), float(w >> 8 & mask), float(w >> 16 & mask), float(w >> 24 & mask));
}

/* x = d * scale * code - dmin * min, 16 elements share a scale. */
inline eight decode8_q2_k(device const uchar *row, uint c)
{
	device const uchar *b = row + (c / 32) * 84;
	const uint i = c % 32, j = i % 16, shift = 2 * (j / 4), sm = b[i / 2];
	device const uint *q = (device const uint *)(b + 16 + 32 * (i / 16) + 8 * (j % 4));
	device const half *h = (device const half *)(b + 80);
	const float scale = float(h[0]) * float(sm & 15), low = float(h[1]) * float(sm >> 4);
	eight e;

	e.lo = scale * codes(q[0], shift, 3) - low;
	e.hi = scale * codes(q[1], shift, 3) - low;
	return e;
}

inline eight decode8_q4_k(device const uchar *row, uint c)
{
	device const uchar *b = row + (c / 32) * 144;
	device const uchar *s = b + 4;
	const uint i = c % 32, j = i / 4, shift = i % 8 < 4 ? 0 : 4;
	device const uint *q = (device const uint *)(b + 16 + 32 * (i / 8) + 8 * (i % 4));
	device const half *h = (device const half *)b;
	const uint scale = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | (uint(s[j - 4]) >> 6) << 4;
	const uint least = j < 4 ? s[j + 4] & 63u : (uint(s[j + 4]) >> 4) | (uint(s[j]) >> 6) << 4;
	const float f = float(h[0]) * float(scale), low = float(h[1]) * float(least);
	eight e;

	e.lo = f * codes(q[0], shift, 15) - low;
	e.hi = f * codes(q[1], shift, 15) - low;
	return e;
}

inline float4 signed4(float4 v, uint signs)
{
	return float4(signs & 1 ? -v.x : v.x, signs & 2 ? -v.y : v.y, signs & 4 ? -v.z : v.z, signs & 8 ? -v.w : v.w);
}

inline eight decode8_iq2_xxs(device const uchar *row, uint c)
{
	device const ushort *b = (device const ushort *)(row + (c / 32) * 66);
	device const ushort *g = b + 1 + (c % 32) / 4 * 4;
	const uint k = c % 4, word = uint(g[2]) | uint(g[3]) << 16;
	const uint index = (k < 2 ? uint(g[0]) : uint(g[1])) >> 8 * (k & 1) & 255, pattern = word >> 7 * k & 127;
	const uint signs = pattern | (popcount(pattern) & 1) << 7;
	const float d = float(as_type<half>(b[0])) * (0.5f + float(word >> 28)) * 0.25f;
	constant uchar *m = iq2_grid[index];
	eight e;

	e.lo = signed4(d * float4(float(m[0]), float(m[1]), float(m[2]), float(m[3])), signs);
	e.hi = signed4(d * float4(float(m[4]), float(m[5]), float(m[6]), float(m[7])), signs >> 4);
	return e;
}

/* Elements 8c..8c+7 of a row. */
template <int TYPE> inline eight decode8(device const uchar *row, uint c)
{
	if (TYPE == F32)
		return decode8_f32(row, c);
	if (TYPE == F16)
		return decode8_f16(row, c);
	if (TYPE == BF16)
		return decode8_bf16(row, c);
	if (TYPE == Q8_0)
		return decode8_q8_0(row, c);
	if (TYPE == Q2_K)
		return decode8_q2_k(row, c);
	if (TYPE == Q4_K)
		return decode8_q4_k(row, c);
	return decode8_iq2_xxs(row, c);
}

/* One instantiation per element type: NAME_f32 ... of the kernel template NAME<type>. */
#define EVERY_TYPE(name)                                                                \
	template [[host_name(#name "_f32")]] kernel decltype(name<F32>) name<F32>;       \
	template [[host_name(#name "_f16")]] kernel decltype(name<F16>) name<F16>;       \
	template [[host_name(#name "_bf16")]] kernel decltype(name<BF16>) name<BF16>;    \
	template [[host_name(#name "_q8_0")]] kernel decltype(name<Q8_0>) name<Q8_0>;    \
	template [[host_name(#name "_q2_k")]] kernel decltype(name<Q2_K>) name<Q2_K>;    \
	template [[host_name(#name "_q4_k")]] kernel decltype(name<Q4_K>) name<Q4_K>;    \
	template [[host_name(#name "_iq2_xxs")]] kernel decltype(name<IQ2_XXS>) name<IQ2_XXS>;

/* sum + a . b with one rounding per term, in a fixed order. */
inline float dot8(float sum, eight a, float4 lo, float4 hi)
{
	sum = fma(a.lo.x, lo.x, sum);
	sum = fma(a.lo.y, lo.y, sum);
	sum = fma(a.lo.z, lo.z, sum);
	sum = fma(a.lo.w, lo.w, sum);
	sum = fma(a.hi.x, hi.x, sum);
	sum = fma(a.hi.y, hi.y, sum);
	sum = fma(a.hi.z, hi.z, sum);
	return fma(a.hi.w, hi.w, sum);
}

/* ------------------------------------------------------------------ sums over a threadgroup */

/* The sum over up to 1,024 threads, the same on each.  part has room for 32 and serves once in a kernel: nothing keeps a second
 * call from overwriting what a slow SIMD group still reads. */
inline float group_sum(float v, threadgroup float *part, uint lane, uint sg, uint nsg)
{
	v = simd_sum(v);
	if (lane == 0)
		part[sg] = v;
	threadgroup_barrier(mem_flags::mem_threadgroup);
	return simd_sum(lane < nsg ? part[lane] : 0.0f);
}

inline float sigmoid(float z)
{
	return 1.0f / (1.0f + precise::exp(-z));
}

inline float swiglu_of(float g, float u, float limit)
{
	const float c = min(g, limit);

	return c * sigmoid(c) * clamp(u, -limit, limit);
}

/* ------------------------------------------------------------------ E4M3, E2M1, E8M0 */

inline float e8m0(uint e)
{
	return as_type<float>(e << 23);		/* 0 would be 2^-127: no scale of ours is that small */
}

/* 2^k, -126 <= k <= 127 */
inline float pow2(int k)
{
	return as_type<float>(uint(k + 127) << 23);
}

inline float e4m3(uint b)
{
	const uint a = b & 0x7fu;
	const float v = a < 8 ? float(a) * 0.001953125f : as_type<float>((a << 20) + (120u << 23));

	return b & 0x80u ? -v : v;
}

/* Rounded to nearest, ties to even; clamped to 448. */
inline uint e4m3_of(float x)
{
	const uint sign = as_type<uint>(x) >> 24 & 0x80u;
	const float a = min(fabs(x), 448.0f);

	if (a < 0.015625f)
		return sign | uint(rint(a * 512.0f));
	int e = int(as_type<uint>(a) >> 23) - 127;
	uint q = uint(rint(a * pow2(3 - e)));

	if (q == 16) {
		q = 8;
		e++;
	}
	return sign | uint(e + 7) << 3 | (q - 8);
}

inline float e2m1(uint n)
{
	const uint m = n & 7u;
	const float v = m < 4 ? 0.5f * float(m) : m == 4 ? 2.0f : m == 5 ? 3.0f : m == 6 ? 4.0f : 6.0f;

	return n & 8u ? -v : v;
}

inline uint e2m1_of(float x)
{
	const uint sign = as_type<uint>(x) >> 28 & 8u;
	const float a = fabs(x);

	return sign | (a <= 0.25f ? 0u : a < 0.75f ? 1u : a <= 1.25f ? 2u : a < 1.75f ? 3u : a <= 2.5f ? 4u
		       : a < 3.5f ? 5u : a <= 5.0f ? 6u : 7u);
}

/* Least k with amax / 2^k <= top; amax is a normal number above 0. */
inline int scale_exponent(float amax, float top)
{
	const uint q = as_type<uint>(amax / top);
	const int e = int(q >> 23) - 126;	/* q = m 2^e, 0.5 <= m < 1 */

	return (q & 0x7fffffu) == 0 ? e - 1 : e;
}

inline int fp8_exponent(float amax)
{
	return scale_exponent(max(amax, 1e-4f), 448.0f);
}

inline int fp4_exponent(float amax)
{
	return scale_exponent(max(amax, 7.052966104933725e-38f), 6.0f);
}

/* ------------------------------------------------------------------ rotation */

inline float2 rotate_pair(float2 u, float freq, int pos, bool inverse)
{
	const float angle = float(pos) * freq, c = precise::cos(angle), s = inverse ? -precise::sin(angle) : precise::sin(angle);

	return float2(u.x * c - u.y * s, u.x * s + u.y * c);
}
