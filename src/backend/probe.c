/* probe.c - the two limits of probe.h.
 *
 * How   Bandwidth: all threads read a buffer much larger than any cache, in pieces of 2 MiB.  Integer units: every
 *       thread repeats one small product whose operands stay in its first-level cache, with the widest int8 unit the
 *       processor and the system offer.  Rounds repeat until the time is over; the best one counts.
 * Careful
 *       - The buffer is filled by the threads that read it: each node of a large machine then holds its share, and no
 *         page is the shared zero page.
 *       - What is read must be used, or the compiler drops the loop: sums end in a field that is checked.
 *       - The plain C product is what the compiler makes of it without special flags. */
#include "backend/probe.h"

#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "backend/probe_int.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

enum {
	PIECE = 2 << 20,
	MOST_THREADS = 1024
};

/* ------------------------------------------------------------------ products */

static int32_t scalar_b_at(int32_t k, int32_t col)
{
	return col * PROBE_K + k;
}

static void scalar_run(int32_t *c, const int8_t *a, const int8_t *b, int64_t times)
{
	for (int64_t n = 0; n < times; n++) {
		for (int i = 0; i < 4; i++)
			for (int j = 0; j < 4; j++) {
				int32_t sum = 0;

				for (int k = 0; k < PROBE_K; k++)
					sum += a[i * PROBE_K + k] * b[j * PROBE_K + k];
				c[i * 4 + j] = sum;
			}
		__asm__ volatile("" : : "r"(a), "r"(b), "r"(c) : "memory");
	}
}

static const struct probe_product probe_scalar = {
	.name = "scalar", .rows = 4, .cols = 4, .b_at = scalar_b_at, .run = scalar_run};

#if defined(__x86_64__)
/* __builtin_cpu_supports() of older compilers does not know AMX. */
static bool has_amx(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 24 & 1 && d >> 25 & 1;
}
#endif

/* The i-th product this machine can run, best first; NULL past the end. */
static const struct probe_product *available(int i)
{
#if defined(__x86_64__)
	if (has_amx() && probe_amx.enter() && i-- == 0)
		return &probe_amx;
	if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && i-- == 0)
		return &probe_avx512;
	if (__builtin_cpu_supports("avx2") && i-- == 0)
		return &probe_avx2;
#endif
	return i == 0 ? &probe_scalar : NULL;
}

/* One thread's operands. */
struct operands {
	_Alignas(64) int8_t a[PROBE_ROWS * PROBE_K];
	_Alignas(64) int8_t b[PROBE_COLS * PROBE_K];
	_Alignas(64) int32_t c[PROBE_ROWS * PROBE_COLS];
};

static int8_t value_a(int32_t row, int32_t k)
{
	return (int8_t)((row * 31 + k * 7) % 128 - 64);
}

static int8_t value_b(int32_t k, int32_t col)
{
	return (int8_t)((k * 13 + col * 5) % 64);
}

static void fill(struct operands *o, const struct probe_product *p)
{
	for (int32_t k = 0; k < PROBE_K; k++) {
		for (int32_t i = 0; i < p->rows; i++)
			o->a[i * PROBE_K + k] = value_a(i, k);
		for (int32_t j = 0; j < p->cols; j++)
			o->b[p->b_at(k, j)] = value_b(k, j);
	}
}

static enum status check(const struct probe_product *p, struct operands *o, struct err *err)
{
	if (p->enter)
		p->enter();
	fill(o, p);
	p->run(o->c, o->a, o->b, 2);
	for (int32_t i = 0; i < p->rows; i++)
		for (int32_t j = 0; j < p->cols; j++) {
			int32_t want = 0, have = o->c[i * p->cols + j];

			for (int32_t k = 0; k < PROBE_K; k++)
				want += value_a(i, k) * value_b(k, j);
			if (want != have)
				return err_set(err, ERR_DEVICE, "int8 product %s: expected %d at [%d, %d], found %d", p->name,
					       want, i, j, have);
		}
	return OK;
}

enum status probe_check(int *n_checked, struct err *err)
{
	struct operands *o = mem_aligned(sizeof *o, 64);
	enum status st = OK;

	*n_checked = 0;
	if (!o)
		return err_set(err, ERR_MEMORY, "no memory for the operands of the int8 probe");
	for (int i = 0; st == OK && available(i); i++, ++*n_checked)
		st = check(available(i), o, err);
	mem_free(o);
	return st;
}

/* ------------------------------------------------------------------ integer units */

struct int8_run {
	const struct probe_product *p;
	struct operands *o;	/* [threads] */
	int64_t times;
};

static void int8_part(void *ctx, long begin, long end, int thread)
{
	const struct int8_run *r = ctx;
	struct operands *o = &r->o[thread];

	if (r->p->enter)
		r->p->enter();
	r->p->run(o->c, o->a, o->b, r->times * (end - begin));
}

static enum status probe_int8(struct probe_result *out, struct pool *pool, double seconds, struct err *err)
{
	const int parts = 16 * out->threads;
	struct int8_run r = {.p = available(0), .times = 1};
	double end, t0, took = 0, best = 0, each = 2.0 * r.p->rows * r.p->cols * PROBE_K * parts;

	out->int8_name = r.p->name;
	r.o = mem_aligned((size_t)out->threads * sizeof *r.o, 64);
	if (!r.o)
		return err_set(err, ERR_MEMORY, "no memory for the operands of the int8 probe");
	for (int i = 0; i < out->threads; i++)
		fill(&r.o[i], r.p);
	for (end = clock_seconds() + seconds; took == 0 || clock_seconds() < end;) {
		t0 = clock_seconds();
		parallel_for(pool, parts, int8_part, &r);
		took = clock_seconds() - t0;
		if (each * (double)r.times / took > best)
			best = each * (double)r.times / took;
		if (took < seconds / 40)
			r.times *= 2;
	}
	out->int8_ops_per_s = best;
	mem_free(r.o);
	return OK;
}

/* ------------------------------------------------------------------ reading memory */

struct read_run {
	uint8_t *data;
	uint64_t *sum;		/* [pieces] */
	bool write;
};

static void read_part(void *ctx, long begin, long end, int thread)
{
	const struct read_run *r = ctx;

	(void)thread;
	for (long i = begin; i < end; i++) {
		uint64_t *p = (uint64_t *)(void *)(r->data + (size_t)i * PIECE), lane[16] = {0};

		if (r->write) {
			for (size_t k = 0; k < PIECE / 8; k++)
				p[k] = (uint64_t)i + k;
			continue;
		}
		for (size_t k = 0; k < PIECE / 8; k += 16)
			for (size_t j = 0; j < 16; j++)
				lane[j] ^= p[k + j];
		r->sum[i] = 0;
		for (size_t j = 0; j < 16; j++)
			r->sum[i] ^= lane[j];
	}
}

/* A piece's xor of i + k over k: what reading must find. */
static uint64_t expected(long i)
{
	uint64_t sum = 0;

	for (uint64_t k = 0; k < PIECE / 8; k++)
		sum ^= (uint64_t)i + k;
	return sum;
}

static enum status probe_read(struct probe_result *out, struct pool *pool, double seconds, uint64_t most,
			      struct err *err)
{
	uint64_t room = mem_available_bytes() / 4, bytes = room && room < most ? room : most;
	long pieces = (long)(bytes / PIECE) < 32 ? 32 : (long)(bytes / PIECE);
	struct read_run r = {.write = true};
	double end, t0, took;
	enum status st = OK;
	uint8_t *memory;

	out->read_bytes = (uint64_t)pieces * PIECE;
	memory = mem_alloc((size_t)out->read_bytes + PIECE);	/* untouched: see above */
	r.data = memory + (PIECE - (uintptr_t)memory % PIECE) % PIECE;
	r.sum = mem_array((size_t)pieces, sizeof *r.sum);
	if (!memory || !r.sum) {
		st = err_set(err, ERR_MEMORY, "no memory for the %llu bytes that the bandwidth probe reads",
			     (unsigned long long)out->read_bytes);
		goto out;
	}
#if defined(__linux__) && defined(MADV_HUGEPAGE)
	madvise(r.data, (size_t)out->read_bytes, MADV_HUGEPAGE);
#endif
	parallel_for(pool, pieces, read_part, &r);
	r.write = false;
	for (end = clock_seconds() + seconds; out->rounds < 2 || clock_seconds() < end; out->rounds++) {
		t0 = clock_seconds();
		parallel_for(pool, pieces, read_part, &r);
		took = clock_seconds() - t0;
		if ((double)out->read_bytes / took > out->bytes_per_s)
			out->bytes_per_s = (double)out->read_bytes / took;
	}
	if (r.sum[pieces - 1] != expected(pieces - 1))
		st = err_set(err, ERR_DEVICE, "the bandwidth probe did not read what it wrote: expected %llx, found %llx",
			     (unsigned long long)expected(pieces - 1), (unsigned long long)r.sum[pieces - 1]);
out:
	mem_free(memory);
	mem_free(r.sum);
	return st;
}

enum status probe_run(struct probe_result *out, int threads, double seconds, uint64_t most_bytes, struct err *err)
{
	struct pool *pool = NULL;
	enum status st;

	memset(out, 0, sizeof *out);
	if (threads < 1 || threads > MOST_THREADS)
		return err_set(err, ERR_ARGUMENT, "probe: expected 1 to %d threads, got %d", MOST_THREADS, threads);
	out->threads = threads;
	TRY(pool_open(&pool, threads, err));
	st = probe_read(out, pool, seconds, most_bytes, err);
	if (st == OK)
		st = probe_int8(out, pool, seconds, err);
	pool_close(pool);
	return st;
}
