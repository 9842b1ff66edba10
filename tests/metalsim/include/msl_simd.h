/* msl_simd.h - barriers, SIMD-group functions, 8x8 matrices, atomics.
 *
 * A SIMD-group function is one exchange: every lane publishes its value, waits for the others, and reads what it needs.
 * What MSL leaves undefined (lanes without a source) is poison here: bytes of ones, a NaN. */
#pragma once

namespace metal {

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }

#define MSL_SIMD inline __attribute__((always_inline, convergent))
MSL_SIMD void threadgroup_barrier(mem_flags f) { msl_rt_barrier((uint)f); }
MSL_SIMD void simdgroup_barrier(mem_flags f) { msl_rt_simd_barrier((uint)f); }

/* ------------------------------------------------------------------ exchanges */

enum { MSL_SUM = 1, MSL_MAX, MSL_MIN, MSL_AND, MSL_OR, MSL_SHUFFLE, MSL_BALLOT, MSL_PREFIX, MSL_MMA };

template <class T> struct msl_simd_type {
	static constexpr constant bool ok = !__is_same(T, bfloat) && !__is_same(T, long) && !__is_same(T, ulong);
};
template <class T, int N> struct msl_simd_type<vec<T, N>> : msl_simd_type<T> {
};

template <class T> MSL_SIMD __private msl_slot *msl_exchange(__private const T &v, uint op)
{
	static_assert(msl_simd_type<T>::ok, "SIMD-group functions do not take this type");
	return msl_rt_simd_xchg((__private const void *)&v, sizeof(T), op);
}

template <class T> inline T msl_lane(__private msl_slot *s, uint lane)
{
	T r;

	__builtin_memcpy(&r, &s->v[lane][0], sizeof(T));
	return r;
}

/* The first lane to resume reduces for all, as a tree over the live lanes. */
template <class T, class F> MSL_SIMD T msl_reduce(T v, uint op, F f)
{
	__private msl_slot *s = msl_exchange(v, op);
	T r;

	if (!s->done) {
		T a[32];
		uint n = 0;

		for (uint i = 0; i < 32; i++)
			if (s->mask >> i & 1)
				a[n++] = msl_lane<T>(s, i);
		for (uint w = n; w > 1; w = (w + 1) / 2)
			for (uint i = 0, h = (w + 1) / 2; i + h < w; i++)
				a[i] = f(a[i], a[i + h]);
		__builtin_memcpy(&s->res[0], &a[0], sizeof(T));
		s->done = 1;
	}
	__builtin_memcpy(&r, &s->res[0], sizeof(T));
	return r;
}

#define MSL_REDUCTION(name, op, expression)                                             \
	struct msl_f_##name {                                                           \
		template <class T> T operator()(T a, T b) const { return expression; }  \
	};                                                                              \
	template <class T> MSL_SIMD T name(T v) { return msl_reduce(v, op, msl_f_##name()); }
MSL_REDUCTION(simd_sum, MSL_SUM, a + b)
MSL_REDUCTION(simd_max, MSL_MAX, max(a, b))
MSL_REDUCTION(simd_min, MSL_MIN, min(a, b))
MSL_REDUCTION(simd_and, MSL_AND, a & b)
MSL_REDUCTION(simd_or, MSL_OR, a | b)

template <class T> MSL_SIMD T msl_shuffle(T v, uint from, bool defined)
{
	__private msl_slot *s = msl_exchange(v, MSL_SHUFFLE);
	T poison;

	if (defined && (s->mask >> (from & 31) & 1))
		return msl_lane<T>(s, from & 31);
	if (defined)
		msl_rt_bad_lane(from & 31, s->mask);
	__builtin_memset(&poison, 0xff, sizeof poison);
	return poison;
}
template <class T> MSL_SIMD T simd_shuffle(T v, ushort lane) { return msl_shuffle(v, lane, true); }
template <class T> MSL_SIMD T simd_broadcast(T v, ushort lane) { return msl_shuffle(v, lane, true); }
template <class T> MSL_SIMD T simd_shuffle_xor(T v, ushort mask) { return msl_shuffle(v, msl_rt_lane() ^ mask, true); }
template <class T> MSL_SIMD T simd_shuffle_up(T v, ushort d)
{
	uint lane = msl_rt_lane();

	return msl_shuffle(v, lane - d, lane >= d);
}
template <class T> MSL_SIMD T simd_shuffle_down(T v, ushort d)
{
	uint lane = msl_rt_lane();

	return msl_shuffle(v, lane + d, lane + d < 32);
}

template <class T> MSL_SIMD T simd_prefix_exclusive_sum(T v)
{
	__private msl_slot *s = msl_exchange(v, MSL_PREFIX);
	T a = (T)0;

	for (uint i = 0; i < msl_rt_lane(); i++)
		if (s->mask >> i & 1)
			a += msl_lane<T>(s, i);
	return a;
}
template <class T> MSL_SIMD T simd_prefix_inclusive_sum(T v) { return simd_prefix_exclusive_sum(v) + v; }

MSL_SIMD bool simd_any(bool p) { return simd_or((uint)p) != 0; }
MSL_SIMD bool simd_all(bool p) { return simd_and((uint)p) != 0; }

/* ------------------------------------------------------------------ 8x8 matrices, two elements per lane */

template <class T, int C, int R> struct simdgroup_matrix {
	static_assert(C == 8 && R == 8, "matrices of a SIMD group are 8x8");
	vec<T, 2> msl_e;

	/* The two elements of a lane are (row, column) and (row, column + 1). */
	static void msl_place(__private uint &row, __private uint &column)
	{
		uint lane = msl_rt_lane(), quad = lane / 4;

		row = (quad & 4) + lane / 2 % 4;
		column = (quad & 2) * 2 + lane % 2 * 2;
	}
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;

template <class T, int C, int R = C> MSL_SIMD simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T v)
{
	simdgroup_matrix<T, C, R> m;

	m.msl_e = vec<T, 2>(v);
	return m;
}

#define MSL_MATRIX_MEMORY(space)                                                                        \
	template <class T>                                                                              \
	MSL_SIMD void simdgroup_load(thread simdgroup_matrix<T, 8, 8> &d, const space T *p, ulong stride = 8, \
				     ulong2 origin = ulong2(0), bool transposed = false)                \
	{                                                                                               \
		uint r, c;                                                                              \
		simdgroup_matrix<T, 8, 8>::msl_place(r, c);                                             \
		p += origin.e[1] * stride + origin.e[0];                                                \
		for (uint i = 0; i < 2; i++)                                                            \
			d.msl_e.e[i] = transposed ? p[(c + i) * stride + r] : p[r * stride + c + i];    \
	}                                                                                               \
	template <class T>                                                                              \
	MSL_SIMD void simdgroup_store(thread simdgroup_matrix<T, 8, 8> d, space T *p, ulong stride = 8, \
				      ulong2 origin = ulong2(0), bool transposed = false)               \
	{                                                                                               \
		uint r, c;                                                                              \
		simdgroup_matrix<T, 8, 8>::msl_place(r, c);                                             \
		p += origin.e[1] * stride + origin.e[0];                                                \
		for (uint i = 0; i < 2; i++)                                                            \
			*(transposed ? &p[(c + i) * stride + r] : &p[r * stride + c + i]) = d.msl_e.e[i]; \
	}
MSL_MATRIX_MEMORY(device)
MSL_MATRIX_MEMORY(threadgroup)

/* One exchange of both operands; the first lane to resume multiplies for all. */
template <class TA, class TB>
MSL_SIMD void msl_product(__private vec<float, 2> &out, simdgroup_matrix<TA, 8, 8> a, simdgroup_matrix<TB, 8, 8> b)
{
	__private msl_slot *s = msl_rt_simd_xchg2((__private const void *)&a.msl_e, sizeof(a.msl_e),
						  (__private const void *)&b.msl_e, sizeof(b.msl_e), MSL_MMA);
	__private float *result = (__private float *)&s->res[0];
	uint r, c;

	if (!s->done) {
		float A[8][8], B[8][8], D[8][8];

		for (uint lane = 0; lane < 32; lane++) {
			uint quad = lane / 4;
			vec<TA, 2> va;
			vec<TB, 2> vb;

			r = (quad & 4) + lane / 2 % 4;
			c = (quad & 2) * 2 + lane % 2 * 2;
			__builtin_memcpy(&va, &s->v[lane][0], sizeof va);
			__builtin_memcpy(&vb, &s->v2[lane][0], sizeof vb);
			for (uint i = 0; i < 2; i++) {
				A[r][c + i] = (float)va.e[i];
				B[r][c + i] = (float)vb.e[i];
			}
		}
		for (uint i = 0; i < 8; i++)
			for (uint j = 0; j < 8; j++)
				D[i][j] = 0;
		for (uint i = 0; i < 8; i++)
			for (uint k = 0; k < 8; k++)
				for (uint j = 0; j < 8; j++)
					D[i][j] += A[i][k] * B[k][j];
		for (uint i = 0; i < 64; i++)
			result[i] = D[i / 8][i % 8];
		s->done = 1;
	}
	simdgroup_matrix<float, 8, 8>::msl_place(r, c);
	out.e[0] = result[r * 8 + c];
	out.e[1] = result[r * 8 + c + 1];
}

template <class TD, class TA, class TB, class TC>
MSL_SIMD void simdgroup_multiply_accumulate(thread simdgroup_matrix<TD, 8, 8> &d, simdgroup_matrix<TA, 8, 8> a,
					    simdgroup_matrix<TB, 8, 8> b, simdgroup_matrix<TC, 8, 8> c)
{
	vec<float, 2> o;

	msl_product(o, a, b);
	for (int i = 0; i < 2; i++)
		d.msl_e.e[i] = (TD)(o.e[i] + (float)c.msl_e.e[i]);
}

/* ------------------------------------------------------------------ atomics: relaxed, on 32 bits */

enum msl_relaxed { memory_order_relaxed = 0 };
enum msl_other_order { memory_order_acquire = 1, memory_order_release, memory_order_acq_rel, memory_order_seq_cst };
template <class T> struct atomic {
	T msl_v;
};
typedef atomic<int> msl_atomic_int;
typedef atomic<uint> msl_atomic_uint;

#define MSL_ATOMIC_RMW(space, name, expression)                                                           \
	template <class T> T atomic_##name##_explicit(volatile space atomic<T> *p, typename msl_id<T>::type v, msl_relaxed) \
	{                                                                                                 \
		volatile space T *q = (volatile space T *)p;                                              \
		T o = __atomic_load_n(q, __ATOMIC_RELAXED);                                               \
		for (;;) {                                                                                \
			T was = __sync_val_compare_and_swap(q, o, (T)(expression));                       \
			if (was == o)                                                                     \
				return o;                                                                 \
			o = was;                                                                          \
		}                                                                                         \
	}
#define MSL_ATOMICS(space)                                                                                \
	template <class T> T atomic_load_explicit(const volatile space atomic<T> *p, msl_relaxed)         \
	{                                                                                                 \
		return __atomic_load_n((const volatile space T *)p, __ATOMIC_RELAXED);                    \
	}                                                                                                 \
	template <class T> void atomic_store_explicit(volatile space atomic<T> *p, typename msl_id<T>::type v, msl_relaxed) \
	{                                                                                                 \
		__atomic_store_n((volatile space T *)p, v, __ATOMIC_RELAXED);                             \
	}                                                                                                 \
	MSL_ATOMIC_RMW(space, exchange, v)                                                                \
	MSL_ATOMIC_RMW(space, fetch_add, o + v)                                                           \
	MSL_ATOMIC_RMW(space, fetch_or, o | v)                                                            \
	MSL_ATOMIC_RMW(space, fetch_max, max(o, v))                                                       \
	MSL_ATOMIC_RMW(space, fetch_min, min(o, v))
MSL_ATOMICS(device)
MSL_ATOMICS(threadgroup)

} /* namespace metal */
