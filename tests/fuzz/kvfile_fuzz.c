/* kvfile_fuzz.c - any bytes as a file of the KV store or its "uses": refused, or everything that is promised about a header
 * holds, and writing it again gives the same records.
 *
 * Checksums and keys that the fuzzer cannot guess are put right in a second try.  `make fuzz T=kvfile`; the seeds are
 * written by tests/unit/kvstore/kvfile_test.c (DS4_CORPUS=folder). */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kvstore/kvstore_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
	if (!ok)
		abort();
}

static void put64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v |= (uint64_t)p[i] << 8 * i;
	return v;
}

/* XXH3 over n bytes of which `at`..at+15 count as zero, written there. */
static void put_sum(uint8_t *p, size_t n, size_t at)
{
	struct hash128 h;

	memset(p + at, 0, 16);
	h = hash128(p, n);
	put64(p + at, h.low);
	put64(p + at + 8, h.high);
}

static void decode(const uint8_t *p, size_t size)
{
	static struct kvfile_record r[KVFILE_RECORDS], again[KVFILE_RECORDS];
	static uint8_t out[KVFILE_HEADER];
	struct kvfile_header h, h2;
	struct err err = {0};
	size_t got = size < KVFILE_HEADER ? size : KVFILE_HEADER;
	enum status st;

	memset(&h, 0, sizeof h);	/* padding is compared, too */
	memset(&h2, 0, sizeof h2);
	st = kvfile_decode(&h, r, p, got, size, "fuzz", &err);

	if (st != OK) {
		require(st == err.code && err.msg[0]);
		require(st == ERR_NOT_FOUND || st == ERR_LIMIT || st == ERR_FORMAT);
		return;
	}
	require(h.n >= 1 && h.n <= KVFILE_RECORDS && h.file_bytes == size);
	for (uint32_t i = 0; i < h.n; i++) {
		require(r[i].bytes <= size && r[i].offset <= size - r[i].bytes && r[i].offset >= kvfile_header_bytes(h.n));
		require(r[i].end >= 128 && r[i].end % 128 == 0);
		require(key_is(r[i].key, tree_key_next(r[i].before, r[i].token)));
	}
	kvfile_encode(out, &h, r);
	require(kvfile_decode(&h2, again, out, kvfile_header_bytes(h.n), size, "again", &err) == OK);
	require(memcmp(&h, &h2, sizeof h) == 0 && memcmp(r, again, h.n * sizeof *r) == 0);
}

/* As if whoever made it had known how to count. */
static void decode_mended(const uint8_t *data, size_t size)
{
	uint8_t *p = mem_copy(data, size);
	uint32_t n;

	require(p != NULL);
	if (size >= KVFILE_PREFIX + KVFILE_RECORD) {
		memcpy(p, "DS4KV\r\n\x1a\1\0\0\0", 12);
		n = 1 + p[12] % KVFILE_RECORDS;
		while (kvfile_header_bytes(n) > size)
			n--;
		memcpy(p + 12, (uint8_t[4]){(uint8_t)n}, 4);
		put64(p + 48, size);
		for (uint32_t i = 0; i < n; i++) {
			uint8_t *q = p + kvfile_header_bytes(i);
			struct tree_key before = {get64(q + 16), get64(q + 24)}, key;
			int32_t token[GEOM_BLOCK];

			for (int t = 0; t < GEOM_BLOCK; t++)
				token[t] = (int32_t)(uint32_t)(get64(q + 128 + 4 * t - (t == GEOM_BLOCK - 1) * 4) >>
							       (t == GEOM_BLOCK - 1) * 32);
			key = tree_key_next(before, token);
			put64(q, key.low);
			put64(q + 8, key.high);
		}
		put_sum(p, kvfile_header_bytes(n), 112);
		decode(p, size);
	}
	mem_free(p);
}

static void uses(const uint8_t *data, size_t size)
{
	struct index x;
	uint8_t *p = mem_copy(data, size);
	struct hash128 h;

	require(p != NULL && index_open(&x, NULL) == OK);
	require(index_add(&x, (struct tree_key){0}, (struct tree_key){1, 1}, (struct tree_key){1, 1}, 128,
			  (int32_t[GEOM_BLOCK]){0}) != NULL);
	uses_apply(&x, (const char *)p, size);
	if (size >= 32) {
		memcpy(p, "DS4KVUSE\1\0\0\0", 12);
		h = hash128(p, size - 16);
		put64(p + size - 16, h.low);
		put64(p + size - 8, h.high);
		uses_apply(&x, (const char *)p, size);
	}
	index_clear(&x);
	mem_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	decode(data, size);
	decode_mended(data, size);
	uses(data, size);
	return 0;
}
