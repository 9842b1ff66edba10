/* kvfile_test.c - the header is byte for byte what docs/formats/kv.md says, and whatever differs is refused with a reason.
 *
 * The judge of the bytes is this file's own reading of the page: offsets are written out here, nothing is shared but
 * XXH3.  With DS4_CORPUS=folder it writes the seeds of tests/fuzz/kvfile_fuzz.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kvstore/kvfile.h"
#include "support/store_kit.h"

enum { BLOCK = 640, CHECK = 1300, N = 3, SIZE = 12288 + CHECK };

static void put(uint8_t *p, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static void put_sum(uint8_t *p)
{
	struct hash128 h;

	memset(p + 112, 0, 16);
	h = hash128(p, 128 + 640 * N);
	put(p + 112, h.low, 8);
	put(p + 120, h.high, 8);
}

/* A header by the book: two blocks of a conversation, and a checkpoint behind the second. */
static void by_the_book(uint8_t *p)
{
	uint64_t before[2] = {0x1122334455667788u, 0x99aabbccddeeff00u};

	memset(p, 0, 128 + 640 * N);
	memcpy(p, "\x44\x53\x34\x4B\x56\x0D\x0A\x1A", 8);
	put(p + 8, 1, 4);
	put(p + 12, N, 4);
	put(p + 16, before[0], 8);
	put(p + 24, before[1], 8);
	put(p + 32, BLOCK, 8);
	put(p + 40, CHECK, 8);
	put(p + 48, SIZE, 8);
	put(p + 56, 128, 4);
	for (int i = 0; i < N; i++) {
		uint8_t *r = p + 128 + 640 * i, chain[16 + 512];
		struct hash128 h;

		if (i == 2) {		/* the checkpoint: of the same entry as the block before */
			memcpy(r, r - 640, 640);
			put(r + 36, 1, 4);
			put(r + 40, 12288, 8);
			put(r + 48, CHECK, 8);
			continue;
		}
		for (int t = 0; t < 128; t++)
			put(r + 128 + 4 * t, (uint64_t)(100 * i + t), 4);
		put(chain, before[0], 8);
		put(chain + 8, before[1], 8);
		memcpy(chain + 16, r + 128, 512);
		h = hash128(chain, sizeof chain);
		put(r, h.low, 8);
		put(r + 8, h.high, 8);
		put(r + 16, before[0], 8);
		put(r + 24, before[1], 8);
		put(r + 32, 128 * ((uint64_t)i + 1), 4);
		put(r + 40, 4096 * ((uint64_t)i + 1), 8);
		put(r + 48, BLOCK, 8);
		put(r + 56, 1700000000, 8);
		put(r + 64, 0x0102030405060708u, 8);
		put(r + 72, 0x090a0b0c0d0e0f10u, 8);
		before[0] = h.low;
		before[1] = h.high;
	}
	put_sum(p);
}

static void the_bytes_are_those_of_the_page(void **state)
{
	uint8_t p[128 + 640 * N], out[128 + 640 * N];
	struct kvfile_record r[KVFILE_RECORDS];
	struct kvfile_header h;
	struct err err = {0};

	(void)state;
	by_the_book(p);
	if (kvfile_decode(&h, r, p, sizeof p, SIZE, "book", &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(h.n, N);
	assert_int_equal(h.fingerprint.low, 0x1122334455667788u);
	assert_int_equal(h.block_bytes, BLOCK);
	assert_int_equal(h.check_bytes, CHECK);
	assert_int_equal(r[0].end, 128);
	assert_int_equal(r[1].end, 256);
	assert_int_equal(r[2].kind, KVFILE_CHECK);
	assert_int_equal(r[2].offset, 12288);
	assert_int_equal(r[1].token[127], 227);
	assert_int_equal(r[1].created, 1700000000);
	assert_int_equal(r[1].sum.low, 0x0102030405060708u);
	assert_int_equal(r[1].sum.high, 0x090a0b0c0d0e0f10u);
	assert_memory_equal(&r[1].before, &r[0].key, sizeof r[0].key);
	kvfile_encode(out, &h, r);
	for (size_t i = 0; i < sizeof p; i++)
		if (p[i] != out[i])
			fail_msg("byte %zu: the page says %d, written is %d", i, p[i], out[i]);
}

static void what_differs_is_refused_with_a_reason(void **state)
{
	static const struct {
		int at, bytes;
		uint64_t value;
		bool mend;		/* the checksum is right again */
		enum status st;
		const char *part;
	} c[] = {
		{0, 1, 'X', true, ERR_NOT_FOUND, "not a file of the store"},
		{8, 4, 2, true, ERR_LIMIT, "expected format version 1, file has 2"},
		{12, 4, 0, true, ERR_FORMAT, "expected 1 to 64 records, file has 0"},
		{12, 4, 65, true, ERR_FORMAT, "expected 1 to 64 records, file has 65"},
		{12, 4, 4, true, ERR_FORMAT, "ends within its header"},
		{70, 1, 1, false, ERR_FORMAT, "checksum"},
		{700, 1, 99, false, ERR_FORMAT, "checksum"},
		{48, 8, SIZE + 1, true, ERR_FORMAT, "expected 13589 bytes, file has 13588"},
		{56, 4, 64, true, ERR_FORMAT, "blocks of 64 tokens"},
		{32, 8, (uint64_t)1 << 40, true, ERR_FORMAT, "blocks of 128 tokens"},
		{32, 8, 641, true, ERR_FORMAT, "record 0: kind 0 of 640 bytes, expected 641"},
		{128 + 36, 4, 2, true, ERR_FORMAT, "record 0: kind 2"},
		{128 + 40, 8, 100, true, ERR_FORMAT, "not inside the file"},
		{128 + 40, 8, SIZE - 1, true, ERR_FORMAT, "not inside the file"},
		{128 + 40, 8, UINT64_MAX - 10, true, ERR_FORMAT, "not inside the file"},
		{128 + 32, 4, 100, true, ERR_FORMAT, "its key is not the one of its tokens"},
		{128 + 32, 4, 0x80000000u, true, ERR_FORMAT, "its key is not the one of its tokens"},
		{128 + 0, 1, 0, true, ERR_FORMAT, "its key is not the one of its tokens"},
		{16, 1, 0, true, ERR_FORMAT, "its key is not the one of its tokens"},
		{128 + 640 + 128, 4, 7, true, ERR_FORMAT, "record 1: its key is not the one of its tokens"},
	};
	struct kvfile_record r[KVFILE_RECORDS];
	uint8_t p[128 + 640 * N];
	struct kvfile_header h;

	(void)state;
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		struct err err = {0};
		enum status st;

		by_the_book(p);
		put(p + c[i].at, c[i].value, c[i].bytes);
		if (c[i].mend)
			put_sum(p);
		st = kvfile_decode(&h, r, p, sizeof p, SIZE, "case", &err);
		if (st != c[i].st || !strstr(err.msg, c[i].part))
			fail_msg("case %zu: expected %s and '%s', got %s: %s", i, status_name(c[i].st), c[i].part,
				 status_name(st), err.msg);
	}
	for (size_t n = 0; n < sizeof p; n++) {
		by_the_book(p);
		assert_int_equal(kvfile_decode(&h, r, p, n, n, "cut", NULL), n < 8 ? ERR_NOT_FOUND : ERR_FORMAT);
	}
}

/* Seeds: files of the writer itself. */
static void seeds(void **state)
{
	const char *folder = getenv("DS4_CORPUS");
	struct store_kit k;
	int32_t t[512];

	(void)state;
	if (!folder)
		skip();
	for (int32_t n = 128; n <= 512; n *= 2) {
		kit_tokens(t, n, n, 1, n);
		store_kit_open(&k, folder, KIT_TINY, 20, (uint64_t)n, NULL);
		store_kit_visit(&k, t, n, 256);
		store_kit_close(&k, true);
	}
	store_kit_open(&k, folder, KIT_TINY, 20, 512, NULL);
	store_kit_take(&k, t, 512);
	store_kit_close(&k, true);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_bytes_are_those_of_the_page),
		cmocka_unit_test(what_differs_is_refused_with_a_reason),
		cmocka_unit_test(seeds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
