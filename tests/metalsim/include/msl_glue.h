/* msl_glue.h - what the code appended by msl2host.py uses: facts about kernel parameters, and their values. */
#pragma once

namespace msl_glue {

template <class T> struct size_of {
	static constexpr constant ulong size = sizeof(T), align = alignof(T);
};
template <> struct size_of<void> {
	static constexpr constant ulong size = 1, align = 1;
};
template <> struct size_of<const void> {
	static constexpr constant ulong size = 1, align = 1;
};

#define MSL_FACTS(space, is_ref, is_const) \
	static constexpr constant ulong as = space, ref = is_ref, cst = is_const, size = size_of<T>::size, al = size_of<T>::align;
template <class T> struct par {
	MSL_FACTS(0, 0, 0)
};
#define MSL_PARAMETER(space, id)                                                \
	template <class T> struct par<space T *> {                              \
		MSL_FACTS(id, 0, 0)                                             \
		static space T *get(ulong v) { return (space T *)v; }           \
	};                                                                      \
	template <class T> struct par<const space T *> {                        \
		MSL_FACTS(id, 0, 1)                                             \
		static const space T *get(ulong v) { return (const space T *)v; } \
	};                                                                      \
	template <class T> struct par<space T &> {                              \
		MSL_FACTS(id, 1, 0)                                             \
		static space T &get(ulong v) { return *(space T *)v; }          \
	};                                                                      \
	template <class T> struct par<const space T &> {                        \
		MSL_FACTS(id, 1, 1)                                             \
		static const space T &get(ulong v) { return *(const space T *)v; } \
	};
MSL_PARAMETER(device, 1)
MSL_LINT_ONLY(MSL_PARAMETER(constant, 2))
MSL_PARAMETER(threadgroup, 3)

/* Grid values: uint or ushort, alone or as vectors of up to three. */
#define MSL_GRID_TYPE static_assert(__is_same(T, uint) || __is_same(T, ushort), "grid attributes are ushort or uint");
template <class T> struct gv {
	MSL_GRID_TYPE
	static T get(thread uint *v) { return (T)v[0]; }
};
template <class T> struct gv<metal::vec<T, 2>> {
	MSL_GRID_TYPE
	static metal::vec<T, 2> get(thread uint *v) { return metal::vec<T, 2>((T)v[0], (T)v[1]); }
};
template <class T> struct gv<metal::vec<T, 3>> {
	MSL_GRID_TYPE
	static metal::vec<T, 3> get(thread uint *v) { return metal::vec<T, 3>((T)v[0], (T)v[1], (T)v[2]); }
};

template <class T> struct no_const {
	typedef T type;
};
template <class T> struct no_const<const T> {
	typedef T type;
};
template <int I, class... A> struct nth;
template <class H, class... A> struct nth<0, H, A...> {
	typedef H type;
};
template <int I, class H, class... A> struct nth<I, H, A...> {
	typedef typename nth<I - 1, A...>::type type;
};
template <class F> struct fn;
template <class R, class... A> struct fn<R(A...)> {
	template <int I> struct p {
		typedef typename no_const<typename nth<I, A...>::type>::type raw;
	};
};

#ifndef __NVPTX__
template <class T> __local T &tgv(uint id)
{
	return *(__local T *)msl_rt_tg_static(id, sizeof(T), alignof(T));
}
#endif

} /* namespace msl_glue */
