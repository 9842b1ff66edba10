/* msl_sim.h - Metal Shading Language on clang's C++ for OpenCL: keywords, runtime interface, and the parts.
 *
 * The address spaces are real types here (device = __global, constant = __constant, threadgroup = __local,
 * thread = __private): mixing them is a compile error, as with Apple's compiler, while code for x86-64 maps all of
 * them to flat memory.  Only names that occur in code known to compile on a Mac are offered: what is missing here is
 * a compile error, which is the safe side. */
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Weverything"

#define device __global
#ifdef MSL_LINT /* strict pass: constant is a space of its own */
#define constant __constant
#define MSL_LINT_ONLY(...) __VA_ARGS__
#else /* run pass: clang cannot copy a struct out of __constant, so constant is const global */
#define constant const __global
#define MSL_LINT_ONLY(...)
#endif
#define threadgroup __local
#define thread __private
#define kernel

/* keywords of OpenCL that are ordinary names in MSL */
#define global msl_id_global
#define local msl_id_local
#define generic msl_id_generic
#define pipe msl_id_pipe
#define atomic_int msl_atomic_int
#define atomic_uint msl_atomic_uint
#define atomic_float msl_atomic_float

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;

#define FLT_MAX 3.402823466e+38f
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

/* ------------------------------------------------------------------ runtime interface (rt/) */

struct msl_ctx {	/* the same layout as struct sim_ctx */
	ulong buf[32];
	ulong tg[8];
	uint tgpig[3], tpitg[3], tpig[3], ntg[3], tgpg[3], tpg[3];
	uint tiitg, tiisg, sgitg, simdw, nsg, pad;
};

struct msl_slot {	/* the same layout as struct sim_slot: one SIMD-group operation */
	uint mask, done, op, pad;
	ulong v[32][2];		/* each lane's value */
	ulong res[64];		/* a result computed once */
	ulong v2[32][2];	/* a second value */
};

#ifdef __NVPTX__
#include "msl_vec.h"
#include "msl_nvptx_math.h"
#include "msl_math.h"
#include "msl_nvptx.h"
#else
extern "C" {
void msl_rt_barrier(uint flags);
void msl_rt_simd_barrier(uint flags);
/* Publishes `size` bytes; returns when every live lane of the SIMD group has. */
__private msl_slot *msl_rt_simd_xchg(__private const void *value, uint size, uint op);
__private msl_slot *msl_rt_simd_xchg2(__private const void *a, uint size_a, __private const void *b, uint size_b, uint op);
uint msl_rt_lane(void);
void msl_rt_bad_lane(uint from, uint mask);
__local void *msl_rt_tg_static(uint id, ulong size, ulong align);
}

#include "msl_vec.h"
#include "msl_math.h"
#include "msl_simd.h"
#endif
#include "msl_glue.h"
#pragma clang diagnostic pop
