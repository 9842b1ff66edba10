/* msl_vec.h - vectors, bfloat, as_type.
 *
 * vec<T, N> is a class: clang's own vectors would accept float4(1, 2, 3) and convert half4 to float4 silently.
 * Swizzles are properties, so they give real vectors and template deduction works. */
#pragma once

/* Storage with conversions, rounding to nearest even. */
struct bfloat {
	ushort msl_bits;
	bfloat() = default;
	bfloat(float f)
	{
		uint u;

		__builtin_memcpy(&u, &f, 4);
		msl_bits = (u & 0x7fffffffu) > 0x7f800000u ? (ushort)(u >> 16 | 64)
							    : (ushort)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
	}
	operator float() const
	{
		uint u = (uint)msl_bits << 16;
		float f;

		__builtin_memcpy(&f, &u, 4);
		return f;
	}
};

namespace metal {

template <class T> struct msl_id {
	typedef T type;
};
template <bool B, class T, class F> struct conditional {
	typedef T type;
};
template <class T, class F> struct conditional<false, T, F> {
	typedef F type;
};
template <bool B, class T, class F> using conditional_t = typename conditional<B, T, F>::type;
template <class A, class B> inline constexpr constant bool is_same_v = __is_same(A, B);

template <class T, class U> inline constexpr T msl_convert(U u)
{
	return (T)u;
}

template <class T, int N> struct vec;

#define MSL_SWIZZLE2(name, a, b)                                                            \
	vec<T, 2> get_##name() const { return vec<T, 2>(e[a], e[b]); }                      \
	void put_##name(vec<T, 2> v) { e[a] = v.e[0]; e[b] = v.e[1]; }                      \
	__declspec(property(get = get_##name, put = put_##name)) vec<T, 2> name;
#define MSL_SWIZZLE3(name, a, b, c)                                                         \
	vec<T, 3> get_##name() const { return vec<T, 3>(e[a], e[b], e[c]); }                \
	void put_##name(vec<T, 3> v) { e[a] = v.e[0]; e[b] = v.e[1]; e[c] = v.e[2]; }       \
	__declspec(property(get = get_##name, put = put_##name)) vec<T, 3> name;
#define MSL_SWIZZLES_2 MSL_SWIZZLE2(xy, 0, 1) MSL_SWIZZLE2(yx, 1, 0)
#define MSL_SWIZZLES_3 MSL_SWIZZLES_2 MSL_SWIZZLE2(yz, 1, 2) MSL_SWIZZLE3(xyz, 0, 1, 2)
#define MSL_SWIZZLES_4 MSL_SWIZZLES_3 MSL_SWIZZLE2(zw, 2, 3)

template <class T, int N> struct msl_storage;
template <class T> struct alignas(2 * sizeof(T)) msl_storage<T, 2> {
	union {
		struct { T x, y; };
		T e[2];
	};
};
template <class T> struct alignas(4 * sizeof(T)) msl_storage<T, 3> {
	union {
		struct { T x, y, z; };
		T e[4];
	};
};
template <class T> struct alignas(4 * sizeof(T)) msl_storage<T, 4> {
	union {
		struct { T x, y, z, w; };
		T e[4];
	};
};

#define MSL_EACH _Pragma("clang loop unroll(full)") for (int i = 0; i < N; i++)
#define MSL_BINARY(op)                          \
	friend vec operator op(vec a, vec b)    \
	{                                       \
		vec r;                          \
		MSL_EACH r.e[i] = a.e[i] op b.e[i]; \
		return r;                       \
	}                                       \
	vec &operator op##=(vec b)              \
	{                                       \
		MSL_EACH e[i] = e[i] op b.e[i]; \
		return *this;                   \
	}
#define MSL_COMPARE(op)                               \
	friend vec<bool, N> operator op(vec a, vec b) \
	{                                             \
		vec<bool, N> r;                       \
		MSL_EACH r.e[i] = a.e[i] op b.e[i];   \
		return r;                             \
	}
#define MSL_INDEX(space, cv) \
	cv space T &operator[](long i) cv space { return e[i]; }
#define MSL_VECTOR(NN, SWIZZLES)                                                        \
	typedef T msl_element;                                                          \
	static constexpr constant int N = NN;                                           \
	using msl_storage<T, NN>::e;                                                    \
	vec() = default;                                                                \
	vec(const vec &) = default;                                                     \
	vec &operator=(const vec &) = default;                                          \
	MSL_LINT_ONLY(vec(const constant vec &o) { MSL_EACH e[i] = o.e[i]; })           \
	vec(T s) { MSL_EACH e[i] = s; }                                                 \
	vec &operator=(T s)                                                             \
	{                                                                               \
		MSL_EACH e[i] = s;                                                      \
		return *this;                                                           \
	}                                                                               \
	template <class U> explicit vec(vec<U, NN> o) { MSL_EACH e[i] = msl_convert<T>(o.e[i]); } \
	template <class A, class B, class... R> vec(A a, B b, R... r) { fill<0>(a, b, r...); }    \
	template <int I> void fill() { static_assert(I == NN, "wrong number of vector elements"); } \
	template <int I, class A, class... R> void fill(A a, R... r)                    \
	{                                                                               \
		e[I] = msl_convert<T>(a);                                               \
		fill<I + 1>(r...);                                                      \
	}                                                                               \
	template <int I, class U, int M, class... R> void fill(vec<U, M> a, R... r)     \
	{                                                                               \
		for (int i = 0; i < M; i++)                                             \
			e[I + i] = msl_convert<T>(a.e[i]);                              \
		fill<I + M>(r...);                                                      \
	}                                                                               \
	MSL_INDEX(__private, ) MSL_INDEX(__private, const) MSL_INDEX(__global, ) MSL_INDEX(__global, const)  \
	MSL_INDEX(__local, ) MSL_INDEX(__local, const) MSL_LINT_ONLY(MSL_INDEX(__constant, const))           \
	MSL_BINARY(+) MSL_BINARY(-) MSL_BINARY(*) MSL_BINARY(/) MSL_BINARY(&) MSL_BINARY(|) MSL_BINARY(^)    \
	MSL_BINARY(<<) MSL_BINARY(>>)                                                   \
	MSL_COMPARE(<) MSL_COMPARE(>) MSL_COMPARE(<=) MSL_COMPARE(>=) MSL_COMPARE(==) MSL_COMPARE(!=)        \
	vec operator-() const                                                           \
	{                                                                               \
		vec r;                                                                  \
		MSL_EACH r.e[i] = -e[i];                                                \
		return r;                                                               \
	}                                                                               \
	SWIZZLES

template <class T> struct vec<T, 2> : msl_storage<T, 2> {
	MSL_VECTOR(2, MSL_SWIZZLES_2)
};
template <class T> struct vec<T, 3> : msl_storage<T, 3> {
	MSL_VECTOR(3, MSL_SWIZZLES_3)
};
template <class T> struct vec<T, 4> : msl_storage<T, 4> {
	MSL_VECTOR(4, MSL_SWIZZLES_4)
};

#define MSL_VECTORS(T)           \
	typedef vec<T, 2> T##2;  \
	typedef vec<T, 3> T##3;  \
	typedef vec<T, 4> T##4;
MSL_VECTORS(bool) MSL_VECTORS(char) MSL_VECTORS(uchar) MSL_VECTORS(short) MSL_VECTORS(ushort) MSL_VECTORS(int)
MSL_VECTORS(uint) MSL_VECTORS(long) MSL_VECTORS(ulong) MSL_VECTORS(half) MSL_VECTORS(float)

template <class T, class U> T as_type(U u)
{
	T r;

	static_assert(sizeof(T) == sizeof(U), "as_type: sizes differ");
	__builtin_memcpy(&r, &u, sizeof(T));
	return r;
}

} /* namespace metal */

#define MSL_GLOBAL_NAMES(T) using metal::T##2; using metal::T##3; using metal::T##4;
MSL_GLOBAL_NAMES(bool) MSL_GLOBAL_NAMES(char) MSL_GLOBAL_NAMES(uchar) MSL_GLOBAL_NAMES(short) MSL_GLOBAL_NAMES(ushort)
MSL_GLOBAL_NAMES(int) MSL_GLOBAL_NAMES(uint) MSL_GLOBAL_NAMES(long) MSL_GLOBAL_NAMES(ulong) MSL_GLOBAL_NAMES(half)
MSL_GLOBAL_NAMES(float)
