/* common.h - what the tests of this folder share: the real vocabulary, lines of JSON, lists of ids, SHA-256. */
#ifndef TEST_TOKENIZER_COMMON_H
#define TEST_TOKENIZER_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "gguf/gguf.h"
#include "tokenizer/tokenizer.h"

#define DATA "tests/data/text/"
#define REAL DATA "tokenizer_only.gguf"
#define NANO "models/ds4-nano-q2.gguf"

/* How many times longer things may take: sanitizers are slow. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOWER 5
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SLOWER 5
#endif
#endif
#ifndef SLOWER
#define SLOWER 1
#endif

static inline struct gguf *open_file(const char *path)
{
	struct gguf *g = NULL;
	struct err err = {0};

	if (gguf_open(&g, path, &err) != OK)
		fail_msg("%s", err.msg);
	return g;
}

static inline struct tokenizer *open_tokenizer(const char *path)
{
	struct gguf *g = open_file(path);
	struct tokenizer *t = NULL;
	struct err err = {0};

	if (tokenizer_open(&t, g, &err) != OK)
		fail_msg("%s", err.msg);
	gguf_close(g);
	return t;
}

/* Calls fn with each line of a file of JSON objects; returns how many there were. */
static inline int each_line(const char *path, void (*fn)(void *ctx, int line, const json_t *o), void *ctx)
{
	struct buf text = BUF_CAP(1 << 24);
	struct err err = {0};
	int line = 0;

	if (file_read(&text, path, &err) != OK)
		fail_msg("%s", err.msg);
	for (const char *p = text.data, *end; p < text.data + text.len; p = end + 1) {
		json_error_t why;
		json_t *o;

		end = strchr(p, '\n');
		end = end ? end : text.data + text.len;
		line++;
		o = json_loadb(p, (size_t)(end - p), JSON_ALLOW_NUL, &why);
		if (!o)
			fail_msg("%s:%d: %s", path, line, why.text);
		fn(ctx, line, o);
		json_decref(o);
	}
	buf_clear(&text);
	return line;
}

static inline struct token_list ids_of(const json_t *array)
{
	struct token_list l = {0};

	for (size_t i = 0; i < json_array_size(array); i++)
		token_push(&l, (int32_t)json_integer_value(json_array_get(array, i)));
	return l;
}

static inline void print_ids(const char *title, const struct token_list *l)
{
	fprintf(stderr, "%s:", title);
	for (size_t i = 0; i < l->n; i++)
		fprintf(stderr, " %d", l->id[i]);
	fprintf(stderr, "\n");
}

/* Compares and prints both lists when they differ; clears nothing. */
static inline bool same_ids(const char *what, const struct token_list *want, const struct token_list *have)
{
	if (!have->failed && want->n == have->n && (!want->n || !memcmp(want->id, have->id, want->n * sizeof *want->id)))
		return true;
	fprintf(stderr, "%s%s\n", what, have->failed ? " (failed)" : "");
	print_ids("  expected", want);
	print_ids("  found   ", have);
	return false;
}

/* Appends the bytes that pairs of hexadecimal digits stand for. */
static inline void add_hex(struct buf *out, const char *hex)
{
	for (; hex[0] && hex[1]; hex += 2) {
		char two[3] = {hex[0], hex[1], 0};

		buf_byte(out, (char)strtoul(two, NULL, 16));
	}
}

/* The bytes of all tokens, joined. */
static inline void add_tokens(struct buf *out, const struct tokenizer *t, const struct token_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		size_t n;
		const char *p = token_bytes(t, l->id[i], &n);

		buf_add(out, p, n);
	}
}

/* SHA-256 (FIPS 180-4) over chunks. */
struct sha256 {
	uint32_t h[8];
	uint64_t bytes;
	uint8_t block[64];
};

static inline uint32_t sha256_root_bits(int prime, int third)
{
	/* First 32 bits of the fraction of the square or cube root: what the standard's constants are. */
	long double r = 1, p = prime;

	for (int i = 0; i < 80; i++)
		r = third ? r - (r * r * r - p) / (3 * r * r) : r - (r * r - p) / (2 * r);
	return (uint32_t)((r - (long double)(int)r) * 4294967296.0L);
}

static inline const uint32_t *sha256_k(void)
{
	static uint32_t k[64 + 8];
	int n = 0;

	for (int p = 2; n < 64 && !k[63]; p++) {
		int prime = 1;

		for (int d = 2; d * d <= p; d++)
			prime &= p % d != 0;
		if (!prime)
			continue;
		k[n] = sha256_root_bits(p, 1);
		if (n < 8)
			k[64 + n] = sha256_root_bits(p, 0);
		n++;
	}
	return k;
}

static inline uint32_t rotr(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static inline void sha256_block(struct sha256 *s)
{
	const uint32_t *k = sha256_k();
	uint32_t w[64], v[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 |
		       (uint32_t)s->block[4 * i + 2] << 8 | s->block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];

		w[i] = w[i - 16] + w[i - 7] + (rotr(a, 7) ^ rotr(a, 18) ^ a >> 3) + (rotr(b, 17) ^ rotr(b, 19) ^ b >> 10);
	}
	memcpy(v, s->h, sizeof v);
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = v[7] + (rotr(v[4], 6) ^ rotr(v[4], 11) ^ rotr(v[4], 25)) +
			      ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
		uint32_t t2 = (rotr(v[0], 2) ^ rotr(v[0], 13) ^ rotr(v[0], 22)) +
			      ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

		memmove(v + 1, v, 7 * sizeof *v);
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		s->h[i] += v[i];
}

static inline struct sha256 sha256_start(void)
{
	struct sha256 s = {.bytes = 0};

	memcpy(s.h, sha256_k() + 64, sizeof s.h);
	return s;
}

static inline void sha256_add(struct sha256 *s, const void *data, size_t n)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < n; i++) {
		s->block[s->bytes++ % 64] = p[i];
		if (s->bytes % 64 == 0)
			sha256_block(s);
	}
}

static inline void sha256_hex(struct sha256 *s, char out[65])
{
	uint64_t bits = s->bytes * 8;

	sha256_add(s, "\x80", 1);
	while (s->bytes % 64 != 56)
		sha256_add(s, "", 1);
	for (int i = 7; i >= 0; i--) {
		uint8_t b = (uint8_t)(bits >> 8 * i);

		sha256_add(s, &b, 1);
	}
	for (int i = 0; i < 8; i++)
		snprintf(out + 8 * i, 9, "%08x", s->h[i]);
}

#endif
