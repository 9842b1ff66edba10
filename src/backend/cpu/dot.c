/* dot.c - which inner loops this machine can run. */
#include "backend/cpu/dot.h"

#if defined(__x86_64__)
/* Every processor with AVX2 and FMA has F16C too (clang cannot ask for it). */
static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
	       __builtin_cpu_supports("gfni");
}
#endif

const struct dot_table *dot_available(int i)
{
#if defined(__x86_64__)
	if (has_avx512() && i-- == 0)
		return dot_avx512();
	if (has_avx2() && i-- == 0)
		return dot_avx2();
#endif
	return i == 0 ? dot_scalar() : NULL;
}
