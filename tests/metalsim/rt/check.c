/* check.c - judges every memory access of a kernel compiled in check mode.
 *
 * What  The compiler's thread-sanitizer instrumentation calls these functions before each access; they know which
 *       memory the dispatch may touch and who touched each byte since which barrier.
 * How   Threadgroup memory: a shadow per byte holds the last writer and reader with the epoch of the threadgroup
 *       (counts barriers with mem_threadgroup) and of the SIMD group (counts simdgroup_barriers with it).  An access
 *       races when the other one was by another thread in the same epoch.  Device memory: the same with the serial
 *       number of the threadgroup; two threadgroups of one dispatch must not share a byte unless both only read.
 *       Between concurrent dispatches serials since the last memoryBarrier conflict too.
 * Careful
 *       - A byte remembers one reader: a write that conflicts with an earlier reader than the last may be missed, which
 *         is one reason to run several schedules.
 *       - Kernels' own stacks and constants are always legal. */
#define _GNU_SOURCE
#include "sim_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct sim sim = {.seed = 1, .seconds = 60};

/* ------------------------------------------------------------------ reports */

static struct {
	void *site;
	const char *kind;
} seen[4096];
static int n_seen;

/* "file.metal:12" of a return address. */
static void where(void *site, char *out, size_t room)
{
	struct machine *m = sim_machine;
	char command[700];
	FILE *p;

	snprintf(out, room, "%p", site);
	if (!site || !m || !m->d)
		return;
	snprintf(command, sizeof command, "addr2line -e '%s' 0x%lx 2>/dev/null", m->d->lib->path,
		 (unsigned long)((uintptr_t)site - 1 - m->d->lib->base));
	p = popen(command, "r");
	if (!p)
		return;
	if (fgets(out, (int)room, p))
		out[strcspn(out, "\n")] = 0;
	pclose(p);
}

void sim_report(void *site, const char *kind, const char *fmt, ...)
{
	struct machine *m = sim_machine;
	char place[400], detail[300];
	va_list ap;

	for (int i = 0; i < n_seen; i++)
		if (seen[i].site == site && seen[i].kind == kind)
			return;
	if (n_seen < 4096) {
		seen[n_seen].site = site;
		seen[n_seen++].kind = kind;
	}
	sim.reports++;
	snprintf(sim.last, sizeof sim.last, "%s", kind);
	if (sim.quiet)
		return;
	where(site, place, sizeof place);
	va_start(ap, fmt);
	vsnprintf(detail, sizeof detail, fmt, ap);
	va_end(ap);
	fprintf(stderr, "metalsim: %s: %s: %s", place, kind, detail);
	if (m && m->cur)
		fprintf(stderr, " [%s, threadgroup %u,%u,%u, thread %u]", m->d->lib->name[m->d->kernel], m->ctx.tgpig[0],
			m->ctx.tgpig[1], m->ctx.tgpig[2], m->cur->id);
	fputc('\n', stderr);
}

/* ------------------------------------------------------------------ threadgroup memory */

enum access { PLAIN = 0, WRITE = 1, ATOMIC = 2, ALIGNED = 4 };

/* Was the other access, by thread number `other` - 1 at SIMD epoch `epoch`, ordered by a simdgroup barrier? */
static int simd_ordered(const struct machine *m, uint16_t other, uint16_t epoch)
{
	return (other - 1) / LANES == m->cur->group && epoch != m->sg[m->cur->group].epoch;
}

static int tg_race(struct machine *m, const struct tg_shadow *s, int write, void *site)
{
	uint16_t me = m->cur->id + 1;

	if (s->writer && s->writer != me && s->write_epoch == m->tg_epoch &&
	    !simd_ordered(m, s->writer, s->write_simd_epoch)) {
		sim_report(site, write ? "threadgroup race: write after write" : "threadgroup race: read after write",
			   "thread %d wrote the byte since the last barrier", s->writer - 1);
		return 1;
	}
	if (write && s->reader && s->read_epoch == m->tg_epoch &&
	    (s->many_readers || (s->reader != me && !simd_ordered(m, s->reader, s->read_simd_epoch)))) {
		sim_report(site, "threadgroup race: write after read", "thread %d read the byte since the last barrier",
			   s->reader - 1);
		return 1;
	}
	return 0;
}

static void tg_note(struct machine *m, struct tg_shadow *s, int write, int atomic)
{
	uint16_t me = m->cur->id + 1, epoch = m->sg[m->cur->group].epoch;

	if (write) {
		s->written = 1;
		if (!atomic) {
			s->writer = me;
			s->write_epoch = m->tg_epoch;
			s->write_simd_epoch = epoch;
		}
	} else if (s->reader && s->read_epoch == m->tg_epoch && s->reader != me && (s->reader - 1) / LANES != m->cur->group) {
		s->many_readers = 1;
	} else {
		if (s->read_epoch != m->tg_epoch)
			s->many_readers = 0;
		s->reader = me;
		s->read_epoch = m->tg_epoch;
		s->read_simd_epoch = epoch;
	}
}

static void check_threadgroup(struct machine *m, uint32_t offset, uint32_t n, int how, void *site)
{
	int write = how & WRITE, atomic = how & ATOMIC, inside = 0;

	for (int i = 0; i < m->n_blocks && !inside; i++)
		inside = offset >= m->block[i].offset && offset + n <= m->block[i].offset + m->block[i].bytes;
	if (!inside) {
		sim_report(site, write ? "threadgroup write out of bounds" : "threadgroup read out of bounds",
			   "%u bytes at offset %u of the threadgroup's memory", n, offset);
		return;
	}
	for (uint32_t k = 0; k < n; k++) {
		struct tg_shadow *s = &m->tg_shadow[offset + k];

		if (!write && !s->written && !atomic) {
			sim_report(site, "uninitialised threadgroup memory read", "byte %u", offset + k);
			return;
		}
		if (!atomic && tg_race(m, s, write, site))
			return;
		tg_note(m, s, write, atomic);
	}
}

/* ------------------------------------------------------------------ device memory */

static int device_race(struct machine *m, const struct device_shadow *s, const struct region *r, int write, void *site)
{
	uint16_t me = m->cur->id + 1;
	uint64_t hazard = m->d->hazard_base;

	if (s->write_serial >= m->first_serial &&
	    (s->write_serial != m->serial || (s->writer != me && s->write_epoch == m->device_epoch))) {
		sim_report(site, write ? "device race: write after write in one dispatch"
				       : "device race: read after write in one dispatch",
			   "buffer %d, the other threadgroup is number %u", r->index, s->write_serial - m->first_serial);
		return 1;
	}
	if (write && s->read_serial >= m->first_serial &&
	    (s->read_serial != m->serial || (s->reader != me && s->read_epoch == m->device_epoch))) {
		sim_report(site, "device race: write after read in one dispatch",
			   "buffer %d, the other threadgroup is number %u", r->index, s->read_serial - m->first_serial);
		return 1;
	}
	if (hazard && ((s->write_serial >= hazard && s->write_serial < m->first_serial) ||
		       (write && s->read_serial >= hazard && s->read_serial < m->first_serial))) {
		sim_report(site, "missing memoryBarrier between concurrent dispatches",
			   "buffer %d was %s by an earlier dispatch", r->index,
			   s->write_serial >= hazard && s->write_serial < m->first_serial ? "written" : "read");
		return 1;
	}
	return 0;
}

static void check_device(struct machine *m, struct region *r, uintptr_t a, uint32_t n, int how, void *site)
{
	int write = how & WRITE;

	if (write && !r->writable) {
		sim_report(site, "write to a read-only binding", "buffer %d", r->index);
		return;
	}
	if (!r->shadow)
		return;
	for (uint32_t k = 0; k < n; k++) {
		struct device_shadow *s = &r->shadow[a - r->begin + k];
		uint16_t me = m->cur->id + 1;

		if (!(how & ATOMIC) && device_race(m, s, r, write, site))
			return;
		if (write) {
			s->write_serial = m->serial;
			s->writer = me;
			s->write_epoch = m->device_epoch;
		} else {
			s->read_serial = m->serial;
			s->reader = me;
			s->read_epoch = m->device_epoch;
		}
	}
}

static struct region *region_of(struct machine *m, uintptr_t a)
{
	int lo = 0, hi = m->n_regions;

	while (lo < hi) {	/* the last that begins at or before a */
		int mid = (lo + hi) / 2;

		if (m->region[mid].begin <= a)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && a < m->region[lo - 1].end ? &m->region[lo - 1] : NULL;
}

static void check(void *p, uint32_t n, int how, void *site)
{
	struct machine *m = sim_machine;
	uintptr_t a = (uintptr_t)p;
	struct region *r;

	if (!m || !m->cur || !m->checking)
		return;
	if (how & ALIGNED && a & (n - 1))
		sim_report(site, "misaligned access", "%u bytes at address %lx", n, (unsigned long)a);
	if (a - (uintptr_t)m->stacks < (size_t)SIM_MAX_THREADS * STACK_BYTES || a - (uintptr_t)m < sizeof *m)
		return;
	if (a - (uintptr_t)m->arena < ARENA_BYTES) {
		check_threadgroup(m, (uint32_t)(a - (uintptr_t)m->arena), n, how, site);
		return;
	}
	r = region_of(m, a);
	if (r && a + n <= r->end) {
		check_device(m, r, a, n, how, site);
		return;
	}
	for (int i = 0; i < m->n_images; i++)
		if (a >= m->image[i].begin && a + n <= m->image[i].end)
			return;
	sim_report(site, how & WRITE ? "device write out of bounds" : "device read out of bounds",
		   "%u bytes at %lx, in none of the bound or resident buffers", n, (unsigned long)a);
}

/* ------------------------------------------------------------------ what the instrumentation calls */

#define RA __builtin_return_address(0)
#define SIZED(n)                                                                                        \
	void __tsan_read##n(void *a);                                                                   \
	void __tsan_write##n(void *a);                                                                  \
	void __tsan_unaligned_read##n(void *a);                                                         \
	void __tsan_unaligned_write##n(void *a);                                                        \
	void __tsan_read##n(void *a) { check(a, n, ALIGNED, RA); }                                      \
	void __tsan_write##n(void *a) { check(a, n, ALIGNED | WRITE, RA); }                             \
	void __tsan_unaligned_read##n(void *a) { check(a, n, PLAIN, RA); }                              \
	void __tsan_unaligned_write##n(void *a) { check(a, n, WRITE, RA); }
SIZED(1)
SIZED(2)
SIZED(4)
SIZED(8)
SIZED(16)

void __tsan_init(void);
void __tsan_func_entry(void *p);
void __tsan_func_exit(void);
void *__tsan_memcpy(void *d, const void *s, size_t n);
void *__tsan_memmove(void *d, const void *s, size_t n);
void *__tsan_memset(void *d, int v, size_t n);
void __tsan_atomic_thread_fence(int order);

void __tsan_init(void)
{
}

void __tsan_func_entry(void *p)
{
	(void)p;
}

void __tsan_func_exit(void)
{
}

void *__tsan_memcpy(void *d, const void *s, size_t n)
{
	check((void *)(uintptr_t)s, (uint32_t)n, PLAIN, RA);
	check(d, (uint32_t)n, WRITE, RA);
	return memcpy(d, s, n);
}

void *__tsan_memmove(void *d, const void *s, size_t n)
{
	check((void *)(uintptr_t)s, (uint32_t)n, PLAIN, RA);
	check(d, (uint32_t)n, WRITE, RA);
	return memmove(d, s, n);
}

void *__tsan_memset(void *d, int v, size_t n)
{
	check(d, (uint32_t)n, WRITE, RA);
	return memset(d, v, n);
}

void __tsan_atomic_thread_fence(int order)
{
	(void)order;
}

uint32_t __tsan_atomic32_load(const volatile uint32_t *a, int order);
void __tsan_atomic32_store(volatile uint32_t *a, uint32_t v, int order);
uint32_t __tsan_atomic32_compare_exchange_val(volatile uint32_t *a, uint32_t e, uint32_t v, int order, int fail);

uint32_t __tsan_atomic32_load(const volatile uint32_t *a, int order)
{
	(void)order;
	check((void *)(uintptr_t)a, 4, ATOMIC, RA);
	return *a;
}

void __tsan_atomic32_store(volatile uint32_t *a, uint32_t v, int order)
{
	(void)order;
	check((void *)(uintptr_t)a, 4, ATOMIC | WRITE, RA);
	*a = v;
}

uint32_t __tsan_atomic32_compare_exchange_val(volatile uint32_t *a, uint32_t e, uint32_t v, int order, int fail)
{
	uint32_t was = *a;

	(void)order, (void)fail;
	check((void *)(uintptr_t)a, 4, ATOMIC | WRITE, RA);
	if (was == e)
		*a = v;
	return was;
}

void *sim_shadow_new(uint64_t bytes)
{
	void *p = mmap(NULL, bytes * sizeof(struct device_shadow), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void sim_shadow_free(void *shadow, uint64_t bytes)
{
	if (shadow)
		munmap(shadow, bytes * sizeof(struct device_shadow));
}
