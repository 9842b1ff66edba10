/* build.h - small model files in memory, byte by byte as docs/formats/gguf.md says, and a walk over an
 * opened one that touches every byte it promises.  Shared by the tests of this folder and tests/fuzz. */
#ifndef TEST_GGUF_BUILD_H
#define TEST_GGUF_BUILD_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "gguf/gguf.h"
#include "quant/quant.h"

static inline void put_u32(struct buf *b, uint32_t v)
{
	buf_add(b, &v, sizeof v);
}

static inline void put_u64(struct buf *b, uint64_t v)
{
	buf_add(b, &v, sizeof v);
}

static inline void put_string(struct buf *b, const char *s)
{
	put_u64(b, strlen(s));
	buf_str(b, s);
}

static inline void put_header(struct buf *b, uint64_t n_tensors, uint64_t n_kv)
{
	buf_clear(b);
	b->cap = 1 << 20;
	buf_str(b, "GGUF");
	put_u32(b, 3);
	put_u64(b, n_tensors);
	put_u64(b, n_kv);
}

/* The part of an entry in front of its value. */
static inline void put_key(struct buf *b, const char *key, uint32_t type)
{
	put_string(b, key);
	put_u32(b, type);
}

static inline void put_array(struct buf *b, const char *key, uint32_t element, uint64_t count)
{
	put_key(b, key, GGUF_ARRAY);
	put_u32(b, element);
	put_u64(b, count);
}

static inline void put_kv_u32(struct buf *b, const char *key, uint32_t v)
{
	put_key(b, key, GGUF_U32);
	put_u32(b, v);
}

/* dims ends with a 0 that is not written. */
static inline void put_tensor(struct buf *b, const char *name, const uint64_t *dims, uint32_t type, uint64_t offset)
{
	uint32_t n = 0;

	while (dims[n])
		n++;
	put_string(b, name);
	put_u32(b, n);
	for (uint32_t d = 0; d < n; d++)
		put_u64(b, dims[d]);
	put_u32(b, type);
	put_u64(b, offset);
}

#define DIMS(...) ((const uint64_t[]){__VA_ARGS__, 0})

static inline void put_padding(struct buf *b, size_t alignment)
{
	while (b->len % alignment)
		buf_byte(b, 0);
}

static inline void put_data(struct buf *b, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		buf_byte(b, (char)(i * 37 + 11));
}

/* A valid file with every kind of metadata value and every tensor type; two tensors alias, two overlap, one is
 * out of order.  Returns the bytes in front of the tensor data. */
static inline size_t build_everything(struct buf *b)
{
	static const struct {
		const char *key;
		uint32_t type, bytes;
	} scalars[] = {
		{"s.u8", GGUF_U8, 1}, {"s.i8", GGUF_I8, 1}, {"s.u16", GGUF_U16, 2}, {"s.i16", GGUF_I16, 2},
		{"s.u32", GGUF_U32, 4}, {"s.i32", GGUF_I32, 4}, {"s.f32", GGUF_F32, 4}, {"s.u64", GGUF_U64, 8},
		{"s.i64", GGUF_I64, 8}, {"s.f64", GGUF_F64, 8},
	};
	static const char bits[8] = {(char)0xFE, (char)0xFF, (char)0xFF, (char)0xBF, 0x11, 0x22, 0x33, (char)0xC0};
	enum { N = sizeof scalars / sizeof *scalars };
	size_t header;

	put_header(b, 9, 2 * N + 7);
	put_kv_u32(b, "general.alignment", 64);
	for (int i = 0; i < N; i++) {
		put_key(b, scalars[i].key, scalars[i].type);
		buf_add(b, bits, scalars[i].bytes);
	}
	for (int i = 0; i < N; i++) {
		char key[16] = "array";

		strcat(key, scalars[i].key);
		put_array(b, key, scalars[i].type, 3);
		for (int k = 0; k < 3; k++)
			buf_add(b, bits, scalars[i].bytes);
	}
	put_key(b, "a.bool", GGUF_BOOL);
	buf_byte(b, 1);
	put_array(b, "a.bools", GGUF_BOOL, 4);
	buf_add(b, "\0\1\1\0", 4);
	put_key(b, "a.string", GGUF_STRING);
	put_string(b, "ein W\xC3\xB6rtchen");
	put_key(b, "a.string.empty", GGUF_STRING);
	put_string(b, "");
	put_array(b, "strings", GGUF_STRING, 4);
	put_string(b, "one");
	put_string(b, "");
	put_string(b, "\xFF not UTF-8 \x01");
	put_string(b, "four");
	put_array(b, "nothing", GGUF_F64, 0);

	put_tensor(b, "t.q4_k", DIMS(256, 2), 12, 1024);
	put_tensor(b, "t.f32", DIMS(5, 2, 3, 2), 0, 0);
	put_tensor(b, "t.f16", DIMS(7, 3), 1, 256);
	put_tensor(b, "t.bf16", DIMS(7, 3), 30, 256);		/* the bytes of t.f16 */
	put_tensor(b, "t.i32", DIMS(6, 4), 26, 320);
	put_tensor(b, "t.q8_0", DIMS(64, 2), 8, 448);
	put_tensor(b, "t.q2_k", DIMS(256), 10, 640);
	put_tensor(b, "t.iq2_xxs", DIMS(512, 1, 2), 16, 768);	/* reaches into t.q4_k */
	put_tensor(b, "t.last", DIMS(8), 0, 1344);
	put_padding(b, 64);
	header = b->len;
	put_data(b, 1344 + 32);
	return header;
}

static inline void check(int holds)
{
	if (!holds)
		abort();	/* seen by cmocka, by the sanitizers and by libFuzzer */
}

static inline void check_found(const struct gguf *g, struct gguf_string name, const void *entry, int is_tensor)
{
	char *s = mem_strn(name.p, name.n);

	check(s != NULL);
	check((is_tensor ? (const void *)gguf_tensor(g, s) : (const void *)gguf_find(g, s)) == entry);
	mem_free(s);
}

static inline unsigned touch(const void *p, size_t n)
{
	const unsigned char *c = p;
	unsigned sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += c[i];
	return sum;
}

/* Reads every value, string and tensor, the way the engine would, and aborts where a promise of gguf.h is broken.
 * Aliased tensors are decoded each, so at most `budget` bytes of data are decoded altogether. */
static inline unsigned walk(const struct gguf *g, uint64_t budget)
{
	const uint8_t *end = g->map + g->map_bytes;
	unsigned sum = 0;

	for (uint64_t i = 0; i < g->n_kv; i++) {
		const struct gguf_kv *kv = &g->kv[i];
		const uint8_t *cursor = kv->value;

		check_found(g, kv->key, kv, 0);
		check(gguf_type_name(kv->type) && gguf_type_name(kv->element));
		for (uint64_t k = 0; k < kv->count; k++) {
			if (kv->element == GGUF_STRING) {
				struct gguf_string s = gguf_next_string(&cursor);

				check(cursor <= end);
				sum += touch(s.p, s.n);
			} else {
				sum += (unsigned)gguf_integer(kv, k);
				sum += gguf_number(kv, k) > 0;
			}
		}
	}
	for (uint64_t i = 0; i < g->n_tensors; i++) {
		const struct gguf_tensor *t = &g->tensor[i];
		uint64_t n = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
		float *x;

		check_found(g, t->name, t, 1);
		check(t->n_dims >= 1 && t->n_dims <= 4 && n > 0);
		check(t->data >= g->map + g->data_offset && t->data <= end && t->bytes <= (uint64_t)(end - t->data));
		check((uint64_t)(t->data - g->map) % g->alignment == 0);
		check(t->bytes == dtype_bytes(t->type, n));
		if (t->bytes > budget)
			continue;
		budget -= t->bytes;
		x = mem_alloc(n * sizeof *x);
		check(x != NULL);
		quant_decode(x, t->data, t->type, n);
		sum += touch(t->data, t->bytes) + touch(x, n * sizeof *x);
		mem_free(x);
	}
	return sum;
}

#endif
