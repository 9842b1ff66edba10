/* msl_nvptx.h - the runtime interface of msl_sim.h for an NVIDIA GPU: one SIMD group is one warp, one threadgroup one block.
 *
 * Takes the place of msl_simd.h when the unit is compiled for nvptx64.  Threadgroup memory is the block's dynamic shared
 * memory. */
#pragma once

__asm__(".extern .shared .align 16 .b8 msl_shared[];");

inline __local char *msl_rt_shared(void)
{
	ulong p;

	__asm__("mov.u64 %0, msl_shared;" : "=l"(p));
	return (__local char *)p;
}

inline uint msl_rt_lane(void) { return (uint)__nvvm_read_ptx_sreg_laneid(); }

#define MSL_SIMD inline __attribute__((always_inline, convergent))

/* ------------------------------------------------------------------ barriers, SIMD-group functions */

namespace metal {

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }
MSL_SIMD void threadgroup_barrier(mem_flags) { __asm__ volatile("bar.sync 0;" ::: "memory"); }
MSL_SIMD void simdgroup_barrier(mem_flags) { __asm__ volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

MSL_SIMD uint msl_word(uint v, uint from)
{
	uint r;

	__asm__ volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(r) : "r"(v), "r"(from));
	return r;
}

template <class T> MSL_SIMD T msl_from(T v, uint from)
{
	uint w[(sizeof(T) + 3) / 4];
	T r;

	for (uint i = 0; i < sizeof w / 4; i++)
		w[i] = 0;
	__builtin_memcpy(w, &v, sizeof v);
	for (uint i = 0; i < sizeof w / 4; i++)
		w[i] = msl_word(w[i], from);
	__builtin_memcpy(&r, w, sizeof r);
	return r;
}

#define MSL_REDUCTION(name, expression)                           \
	template <class T> MSL_SIMD T name(T a)                   \
	{                                                         \
		for (uint h = 16; h; h /= 2) {                    \
			T b = msl_from(a, msl_rt_lane() ^ h);     \
			a = expression;                           \
		}                                                 \
		return a;                                         \
	}
MSL_REDUCTION(simd_sum, a + b)
MSL_REDUCTION(simd_max, max(a, b))
MSL_REDUCTION(simd_min, min(a, b))
MSL_REDUCTION(simd_and, a & b)
MSL_REDUCTION(simd_or, a | b)

template <class T> MSL_SIMD T simd_shuffle(T v, ushort lane) { return msl_from(v, lane); }
template <class T> MSL_SIMD T simd_broadcast(T v, ushort lane) { return msl_from(v, lane); }
template <class T> MSL_SIMD T simd_shuffle_xor(T v, ushort mask) { return msl_from(v, msl_rt_lane() ^ mask); }
template <class T> MSL_SIMD T simd_prefix_exclusive_sum(T v)
{
	T sum = (T)0;

	for (uint i = 0; i < 32; i++) {
		T other = msl_from(v, i);

		sum += i < msl_rt_lane() ? other : (T)0;
	}
	return sum;
}

/* ------------------------------------------------------------------ 8x8 matrices: lane places as in msl_simd.h */

template <class T, int C, int R> struct simdgroup_matrix {
	vec<T, 2> msl_e;

	static void msl_place(__private uint &row, __private uint &column)
	{
		uint lane = msl_rt_lane(), quad = lane / 4;

		row = (quad & 4) + lane / 2 % 4;
		column = (quad & 2) * 2 + lane % 2 * 2;
	}
	static uint msl_lane_of(uint row, uint column)	/* the lane that holds (row, column) and (row, column + 1) */
	{
		return (row & 4) * 4 + (column & 4) * 2 + (row & 3) * 2 + column / 2 % 2;
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

template <class TD, class TA, class TB, class TC>
MSL_SIMD void simdgroup_multiply_accumulate(thread simdgroup_matrix<TD, 8, 8> &d, simdgroup_matrix<TA, 8, 8> a,
					    simdgroup_matrix<TB, 8, 8> b, simdgroup_matrix<TC, 8, 8> c)
{
	float sum[2] = {0.0f, 0.0f};
	uint row, column;

	simdgroup_matrix<float, 8, 8>::msl_place(row, column);
	for (uint k = 0; k < 8; k++) {
		const vec<TA, 2> va = msl_from(a.msl_e, simdgroup_matrix<TA, 8, 8>::msl_lane_of(row, k));
		const vec<TB, 2> vb = msl_from(b.msl_e, simdgroup_matrix<TB, 8, 8>::msl_lane_of(k, column));
		const float x = (float)(k % 2 ? va.e[1] : va.e[0]);

		sum[0] += x * (float)vb.e[0];
		sum[1] += x * (float)vb.e[1];
	}
	for (int i = 0; i < 2; i++)
		d.msl_e.e[i] = (TD)(sum[i] + (float)c.msl_e.e[i]);
}

/* ------------------------------------------------------------------ atomics: relaxed, on 32 bits */

enum msl_relaxed { memory_order_relaxed = 0 };
template <class T> struct atomic {
	T msl_v;
};
typedef atomic<int> msl_atomic_int;
typedef atomic<uint> msl_atomic_uint;

#define MSL_ATOMICS(space, name)                                                                          \
	inline uint atomic_load_explicit(const volatile space atomic<uint> *p, msl_relaxed) { return p->msl_v; } \
	inline void atomic_store_explicit(volatile space atomic<uint> *p, uint v, msl_relaxed) { p->msl_v = v; } \
	inline uint atomic_fetch_add_explicit(volatile space atomic<uint> *p, uint v, msl_relaxed)        \
	{                                                                                                 \
		uint r;                                                                                   \
                                                                                                          \
		__asm__ volatile("atom." name ".add.u32 %0, [%1], %2;" : "=r"(r) : "l"((ulong)p), "r"(v) : "memory"); \
		return r;                                                                                 \
	}
MSL_ATOMICS(device, "global")
MSL_ATOMICS(threadgroup, "shared")

} /* namespace metal */
