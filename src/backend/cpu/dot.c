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

#if defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
/* Bit 20 of AT_HWCAP is ASIMDDP, bit 13 of AT_HWCAP2 is I8MM: older headers do not name the second. */
static bool has_dotprod(void)
{
	return getauxval(AT_HWCAP) >> 20 & 1;
}

static bool has_i8mm(void)
{
	return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1);
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static bool has_feature(const char *name)
{
	int on = 0;
	size_t n = sizeof on;

	return sysctlbyname(name, &on, &n, NULL, 0) == 0 && on;
}

static bool has_dotprod(void)
{
	return has_feature("hw.optional.arm.FEAT_DotProd");
}

static bool has_i8mm(void)
{
	return has_dotprod() && has_feature("hw.optional.arm.FEAT_I8MM");
}
#else
static bool has_dotprod(void)
{
	return false;
}

static bool has_i8mm(void)
{
	return false;
}
#endif
#endif

const struct dot_table *dot_available(int i)
{
#if defined(__aarch64__)
	if (has_i8mm() && i-- == 0)
		return dot_i8mm();
	if (has_dotprod() && i-- == 0)
		return dot_dotprod();
#endif
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
	const size_t n = name ? strlen(name) : 0;
	const struct dot_table *t = NULL;

	for (int i = 0; (t = dot_available(i)) != NULL; i++)
		if (!name || !strcmp(name, "auto") || (!strncmp(name, t->name, n) && (t->name[n] == '-' || !t->name[n])))
			break;
	return t;
}
