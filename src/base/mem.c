/* mem.c - allocation with overflow checks and a failure switch for tests. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

static atomic_long fail_countdown;

static int must_fail(void)
{
	if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) == 0)
		return 0;
	return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

void mem_fail_at(long n)
{
	atomic_store(&fail_countdown, n);
}

void *mem_alloc(size_t bytes)
{
	return must_fail() ? NULL : malloc(bytes ? bytes : 1);
}

void *mem_zero(size_t bytes)
{
	return must_fail() ? NULL : calloc(1, bytes ? bytes : 1);
}

void *mem_array(size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes))
		return NULL;
	return mem_zero(bytes);
}

void *mem_grow(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes) || must_fail())
		return NULL;
	return realloc(p, bytes ? bytes : 1);
}

/* Large buffers get huge pages where the system has them: fewer misses of the address cache. */
enum { HUGE_PAGE = 2 << 20, LARGE = 4 * HUGE_PAGE };

void *mem_aligned(size_t bytes, size_t align)
{
	void *p = NULL;

	if (must_fail() || posix_memalign(&p, bytes >= LARGE && align < HUGE_PAGE ? HUGE_PAGE : align, bytes ? bytes : 1))
		return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
	if (bytes >= LARGE)	/* a wish, before the first touch: nothing is lost if it is not granted */
		madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
	return memset(p, 0, bytes);
}

void *mem_copy(const void *p, size_t n)
{
	void *copy = mem_alloc(n);

	return copy && n ? memcpy(copy, p, n) : copy;
}

char *mem_strn(const char *s, size_t n)
{
	char *copy = n < SIZE_MAX ? mem_alloc(n + 1) : NULL;

	if (!copy)
		return NULL;
	memcpy(copy, s, n);
	copy[n] = '\0';
	return copy;
}

char *mem_str(const char *s)
{
	return mem_strn(s, strlen(s));
}

void mem_free(void *p)
{
	free(p);
}

#ifdef __linux__
/* First number in a file, or 0. */
static uint64_t read_number(const char *path)
{
	unsigned long long v = 0;
	FILE *f = fopen(path, "r");

	if (!f)
		return 0;
	if (fscanf(f, "%llu", &v) != 1)
		v = 0;
	fclose(f);
	return v;
}

uint64_t mem_available_bytes(void)
{
	unsigned long long kib = 0;
	uint64_t avail, limit, used;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "r");

	if (!f)
		return 0;
	while (fgets(line, sizeof line, f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	fclose(f);
	avail = (uint64_t)kib << 10;
	limit = read_number("/sys/fs/cgroup/memory.max");
	used = read_number("/sys/fs/cgroup/memory.current");
	if (limit && limit > used && limit - used < avail)
		avail = limit - used;
	return avail;
}
#else
uint64_t mem_available_bytes(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

	/* macOS does not say how much is reclaimable; three quarters of RAM is what GPU planning allows too. */
	return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 4 * 3 : 0;
}
#endif
