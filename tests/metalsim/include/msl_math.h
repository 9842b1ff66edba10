/* msl_math.h - the common, relational, integer and math functions that kernels here may use.
 *
 * MSL has no log1p and no expm1, so neither has this. */
#pragma once

#ifndef __NVPTX__
extern "C" {
float msl_m_expf(float) __asm__("expf");
float msl_m_exp2f(float) __asm__("exp2f");
float msl_m_logf(float) __asm__("logf");
float msl_m_log2f(float) __asm__("log2f");
float msl_m_sinf(float) __asm__("sinf");
float msl_m_cosf(float) __asm__("cosf");
float msl_m_powf(float, float) __asm__("powf");
float msl_m_tanhf(float) __asm__("tanhf");
float msl_m_ldexpf(float, int) __asm__("ldexpf");
}
#endif

namespace metal {

#define MSL_ONE(f, expression)                                          \
	inline float f(float x) { return expression; }                  \
	inline half f(half h)                                           \
	{                                                               \
		float x = h;                                            \
		return (half)(expression);                              \
	}                                                               \
	template <class T, int N> vec<T, N> f(vec<T, N> a)              \
	{                                                               \
		vec<T, N> r;                                            \
		MSL_EACH r.e[i] = f(a.e[i]);                            \
		return r;                                               \
	}
#define MSL_TWO_VECTORS(f)                                              \
	template <class T, int N> vec<T, N> f(vec<T, N> a, vec<T, N> b) \
	{                                                               \
		vec<T, N> r;                                            \
		MSL_EACH r.e[i] = f(a.e[i], b.e[i]);                    \
		return r;                                               \
	}
#define MSL_TWO(f, expression)                                          \
	inline float f(float x, float y) { return expression; }         \
	inline half f(half a, half b)                                   \
	{                                                               \
		float x = a, y = b;                                     \
		return (half)(expression);                              \
	}                                                               \
	MSL_TWO_VECTORS(f)
#define MSL_MATH                                                        \
	MSL_ONE(exp, msl_m_expf(x))                                     \
	MSL_ONE(exp2, msl_m_exp2f(x))                                   \
	MSL_ONE(log, msl_m_logf(x))                                     \
	MSL_ONE(log2, msl_m_log2f(x))                                   \
	MSL_ONE(sqrt, __builtin_sqrtf(x))                               \
	MSL_ONE(rsqrt, 1.0f / __builtin_sqrtf(x))                       \
	MSL_ONE(sin, msl_m_sinf(x))                                     \
	MSL_ONE(cos, msl_m_cosf(x))                                     \
	MSL_ONE(tanh, msl_m_tanhf(x))                                   \
	MSL_ONE(floor, __builtin_floorf(x))                             \
	MSL_ONE(ceil, __builtin_ceilf(x))                               \
	MSL_ONE(round, __builtin_roundf(x))                             \
	MSL_ONE(rint, __builtin_rintf(x))                               \
	MSL_ONE(trunc, __builtin_truncf(x))                             \
	MSL_ONE(fabs, __builtin_fabsf(x))                               \
	MSL_TWO(pow, msl_m_powf(x, y))                                  \
	MSL_TWO(fmin, __builtin_fminf(x, y))                            \
	MSL_TWO(fmax, __builtin_fmaxf(x, y))                            \
	MSL_TWO(copysign, __builtin_copysignf(x, y))
MSL_MATH
namespace precise {
MSL_MATH
}
namespace fast {
MSL_MATH
}

inline float ldexp(float x, int e) { return msl_m_ldexpf(x, e); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
template <class T, int N> vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c)
{
	vec<T, N> r;

	MSL_EACH r.e[i] = fma(a.e[i], b.e[i], c.e[i]);
	return r;
}
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool signbit(float x) { return __builtin_signbit(x); }

#define MSL_MINMAX(T)                                                   \
	inline T min(T a, T b) { return b < a ? b : a; }                \
	inline T max(T a, T b) { return a < b ? b : a; }                \
	inline T clamp(T x, T a, T b) { return x < a ? a : x > b ? b : x; } \
	inline T select(T a, T b, bool c) { return c ? b : a; }
MSL_MINMAX(char) MSL_MINMAX(uchar) MSL_MINMAX(short) MSL_MINMAX(ushort) MSL_MINMAX(int) MSL_MINMAX(uint)
MSL_MINMAX(long) MSL_MINMAX(ulong) MSL_MINMAX(half) MSL_MINMAX(float)
MSL_TWO_VECTORS(min)
MSL_TWO_VECTORS(max)

inline int abs(int x) { return x < 0 ? -x : x; }
inline float abs(float x) { return __builtin_fabsf(x); }
template <int N> vec<float, N> abs(vec<float, N> a)
{
	vec<float, N> r;

	MSL_EACH r.e[i] = abs(a.e[i]);
	return r;
}
template <class T, int N> T dot(vec<T, N> a, vec<T, N> b)
{
	T s = a.e[0] * b.e[0];

	for (int i = 1; i < N; i++)
		s += a.e[i] * b.e[i];
	return s;
}

#define MSL_BITS(T, U, bits)                                                            \
	inline T popcount(T x) { return (T)__builtin_popcountl((ulong)(U)x); }          \
	inline T clz(T x) { return x ? (T)(__builtin_clzl((ulong)(U)x) - (64 - bits)) : (T)bits; } \
	inline T ctz(T x) { return x ? (T)__builtin_ctzl((ulong)(U)x) : (T)bits; }
MSL_BITS(ushort, ushort, 16) MSL_BITS(int, uint, 32) MSL_BITS(uint, uint, 32) MSL_BITS(ulong, ulong, 64)

} /* namespace metal */
