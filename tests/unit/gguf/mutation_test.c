/* mutation_test.c - damaged model files are refused with a sentence or are safe to read: 25,200 of them.
 *
 * A mutant lies in a heap block of exactly its size, so that the address sanitizer sees a read of one byte too many.
 * One that opens is read completely: walk() touches every value, string and tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "build.h"

#include "base/file.h"
#include "base/rng.h"

static const uint64_t extremes[] = {
	0, 1, 2, 3, 7, 8, 31, 33, 255, 256, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000,
	1ull << 61, 1ull << 62, (1ull << 63) - 1, 1ull << 63, UINT64_MAX - 31, UINT64_MAX - 7, UINT64_MAX,
};

/* Changes bytes of p[0..n) somewhere below `area`: a bit, a byte, an integer field, a count off by one. */
static void overwrite(struct rng *r, uint8_t *p, size_t n, size_t area)
{
	size_t at = rng_below(r, area < n ? area : n), size = rng_below(r, 2) ? 8 : 4;
	uint64_t v = extremes[rng_below(r, sizeof extremes / sizeof *extremes)];

	switch (rng_below(r, 4)) {
	case 0:
		p[at] ^= (uint8_t)(1u << rng_below(r, 8));
		break;
	case 1:
		p[at] = (uint8_t)rng_u64(r);
		break;
	case 2:
		memcpy(p + at, &v, size < n - at ? size : n - at);
		break;
	default:
		p[at] = (uint8_t)(p[at] + (rng_below(r, 2) ? 1 : -1));
	}
}

/* The same, or cuts the end, inserts or removes a run; returns the new length, at most n + 64. */
static size_t mutate(struct rng *r, uint8_t *p, size_t n, size_t area)
{
	size_t at = rng_below(r, area < n ? area : n), run;

	switch (rng_below(r, 8)) {
	case 0:
		return at + 1;
	case 1:
		run = 1 + rng_below(r, 64);
		memmove(p + at + run, p + at, n - at);
		memset(p + at, (int)rng_below(r, 256), run);
		return n + run;
	case 2:
		run = 1 + rng_below(r, 16);
		run = run < n - at ? run : n - at - 1;
		memmove(p + at, p + at + run, n - at - run);
		return n - run;
	default:
		overwrite(r, p, n, area);
		return n;
	}
}

/* Opens p[0..n), which must be refused in one sentence or keep every promise; returns 1 when it opened. */
static int open_and_walk(const uint8_t *p, size_t n, unsigned *sum)
{
	struct err err = {0};
	struct gguf *g = (struct gguf *)&err;
	enum status st = gguf_open_memory(&g, p, n, "mutant", &err);

	if (st == OK) {
		*sum += walk(g, 1 << 16);
		gguf_close(g);
		return 1;
	}
	assert_null(g);
	assert_int_equal(st, ERR_FORMAT);
	assert_int_equal(err.code, ERR_FORMAT);
	if (strncmp(err.msg, "mutant: ", 8) || strchr(err.msg, '\n'))
		fail_msg("expected one line that begins with the file's name, got: %s", err.msg);
	return 0;
}

static int copy_open_and_walk(const void *p, size_t n, unsigned *sum)
{
	uint8_t *exact = mem_copy(p, n);
	int opened;

	assert_non_null(exact);
	opened = open_and_walk(exact, n, sum);
	mem_free(exact);
	return opened;
}

static void mutants_of_a_file_with_every_type_never_break_a_promise(void **state)
{
	enum { MUTANTS = 24000 };
	struct buf b = {0};
	struct rng r = rng_seed(1);
	uint8_t *work;
	size_t header;
	unsigned sum = 0;
	int opened = 0;

	(void)state;
	header = build_everything(&b);
	assert_true(buf_ok(&b));
	assert_true(copy_open_and_walk(b.data, b.len, &sum));
	work = mem_alloc(b.len + 3 * 64);
	assert_non_null(work);
	for (int i = 0; i < MUTANTS; i++) {
		size_t n = b.len;

		memcpy(work, b.data, n);
		for (uint64_t k = 1 + rng_below(&r, 3); k; k--)
			n = mutate(&r, work, n, header);
		opened += copy_open_and_walk(work, n, &sum);
	}
	print_message("%d mutants: %d opened and were read, %d were refused\n", MUTANTS, opened, MUTANTS - opened);
	if (opened < 1000 || opened > MUTANTS - 1000)
		fail_msg("%d of %d opened, expected a thousand of each kind at least", opened, MUTANTS);
	mem_free(work);
	buf_clear(&b);
}

static void every_truncation_of_a_file_is_refused(void **state)
{
	struct buf b = {0};
	unsigned sum = 0;

	(void)state;
	build_everything(&b);
	for (size_t n = 0; n < b.len; n++)
		if (copy_open_and_walk(b.data, n, &sum))
			fail_msg("the first %zu of %zu bytes opened, expected a refusal", n, b.len);
	buf_clear(&b);
}

/* The bundled model, its metadata and directory damaged in place, in one copy that is mended after each. */
static void mutants_of_nano_never_break_a_promise(void **state)
{
	enum { MUTANTS = 1200 };
	struct file_map map;
	struct err err = {0};
	struct gguf *g;
	struct rng r = rng_seed(2);
	uint8_t *work;
	size_t header;
	unsigned sum = 0;
	int opened = 0;

	(void)state;
	if (file_map(&map, "models/ds4-nano-q2.gguf", &err) != OK)
		fail_msg("%s", err.msg);
	work = mem_copy(map.data, map.bytes);
	assert_non_null(work);
	if (gguf_open_memory(&g, work, map.bytes, "nano", &err) != OK)
		fail_msg("%s", err.msg);
	header = g->data_offset;
	gguf_close(g);
	for (int i = 0; i < MUTANTS; i++) {
		/* a third in the scalars, a third in the tensor directory, a third anywhere in front of the data */
		size_t from = i % 3 == 1 ? header - 16000 : 0, area = i % 3 == 0 ? 2500 : header - from;

		for (uint64_t k = 1 + rng_below(&r, 2); k; k--)
			overwrite(&r, work + from, area, area);
		opened += open_and_walk(work, map.bytes, &sum);
		memcpy(work, map.data, header);
	}
	print_message("%d mutants: %d opened and were read, %d were refused\n", MUTANTS, opened, MUTANTS - opened);
	if (opened < 50 || opened > MUTANTS - 50)
		fail_msg("%d of %d opened, expected fifty of each kind at least", opened, MUTANTS);
	mem_free(work);
	file_unmap(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mutants_of_a_file_with_every_type_never_break_a_promise),
		cmocka_unit_test(every_truncation_of_a_file_is_refused),
		cmocka_unit_test(mutants_of_nano_never_break_a_promise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
