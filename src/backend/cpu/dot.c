/* dot.c - which inner loops this machine can run. */
#include "backend/cpu/dot.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

/* Linux wants to be asked before the first tile instruction of a process.  Older compilers' __builtin_cpu_supports()
 * does not know AMX. */
static bool has_amx(void)
{
#if defined(__linux__)
	enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };	/* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
	unsigned a, b, c, d;

	return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 3) == 3 &&
	       syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
	return false;
#endif
}
#endif

const struct dot_table *dot_available(int i)
{
#if defined(__x86_64__)
	if (has_amx() && i-- == 0)
		return dot_amx();
	if (has_avx512() && i-- == 0)
		return dot_avx512();
	if (has_avx2() && i-- == 0)
		return dot_avx2();
#endif
	return i == 0 ? dot_scalar() : NULL;
}

const struct dot_table *dot_find(const char *name)
{
	const struct dot_table *t = NULL;

	for (int i = 0; (t = dot_available(i)) != NULL; i++)
		if (!name || !strcmp(name, "auto") || !strcmp(name, t->name))
			break;
	return t;
}
