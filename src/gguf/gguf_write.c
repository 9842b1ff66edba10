/* gguf_write.c - collects keys and tensors and lays them out as GGUF version 3.
 *
 * What  A list of finished key-value records and a list of directory entries; gguf_head() puts them together.
 * Why   The size of the head and the place of every tensor are known before the first weight is converted:
 *       the file can be filled from many threads, and continued after an interruption.
 * How   A record is the bytes as they will stand in the file; setting a key again replaces the record.
 * Careful
 *       - Offsets in the directory count from the start of the tensor data, not of the file.
 *       - The last tensor is padded like the others: llama.cpp expects the file to end on the alignment.
 * Source: docs/formats/gguf.md section 1. */
#include "gguf/gguf_write.h"

#include <string.h>

#include "base/mem.h"
#include "gguf/gguf_int.h"

struct record {
	char *key;
	struct buf bytes;		/* key, type and value as in the file */
};

struct entry {
	char *name;
	enum dtype type;
	uint32_t n_dims;
	uint64_t dims[4], offset;
};

struct gguf_builder {
	struct record *record;
	struct entry *entry;
	size_t n_records, record_room, n_entries, entry_room;
	uint64_t data_bytes;
	bool failed;
};

struct gguf_builder *gguf_builder_new(void)
{
	return mem_zero(sizeof(struct gguf_builder));
}

static void clear_record(struct record *r)
{
	mem_free(r->key);
	buf_clear(&r->bytes);
}

void gguf_builder_free(struct gguf_builder *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->n_records; i++)
		clear_record(&b->record[i]);
	for (size_t i = 0; i < b->n_entries; i++)
		mem_free(b->entry[i].name);
	mem_free(b->record);
	mem_free(b->entry);
	mem_free(b);
}

/* The list with room for one more than its n items of `size` bytes; NULL after a failure. */
static void *with_room(struct gguf_builder *b, void *list, size_t n, size_t *room, size_t size)
{
	void *grown;

	if (n < *room)
		return list;
	grown = mem_grow(list, *room ? 2 * *room : 64, size);
	if (grown)
		*room = *room ? 2 * *room : 64;
	else
		b->failed = true;
	return grown;
}

static void put_u32(struct buf *b, uint32_t v)
{
	buf_add(b, &v, sizeof v);
}

static void put_u64(struct buf *b, uint64_t v)
{
	buf_add(b, &v, sizeof v);
}

void gguf_add_string(struct buf *strings, const char *s, size_t n)
{
	put_u64(strings, n);
	buf_add(strings, s, n);
}

static struct record *find(const struct gguf_builder *b, const char *key)
{
	for (size_t i = 0; i < b->n_records; i++)
		if (!strcmp(b->record[i].key, key))
			return &b->record[i];
	return NULL;
}

/* The bytes of a key, begun: name and type are in, the value follows.  NULL after a failure. */
static struct buf *begin(struct gguf_builder *b, const char *key, uint32_t type)
{
	struct record *r = find(b, key);

	if (!r) {
		r = with_room(b, b->record, b->n_records, &b->record_room, sizeof *b->record);
		if (!r)
			return NULL;
		b->record = r;
		r = &b->record[b->n_records];
		memset(r, 0, sizeof *r);
		r->bytes.cap = BUF_MAX;
		r->key = mem_str(key);
		if (!r->key) {
			b->failed = true;
			return NULL;
		}
		b->n_records++;
	}
	buf_clear(&r->bytes);
	gguf_add_string(&r->bytes, key, strlen(key));
	put_u32(&r->bytes, type);
	return &r->bytes;
}

static void put_value(struct gguf_builder *b, const char *key, enum gguf_type t, const void *v, size_t n)
{
	struct buf *out = begin(b, key, t);

	if (out)
		buf_add(out, v, n);
}

static void put_array(struct gguf_builder *b, const char *key, enum gguf_type t, size_t count,
                      const void *v, size_t n)
{
	struct buf *out = begin(b, key, GGUF_ARRAY);

	if (!out)
		return;
	put_u32(out, t);
	put_u64(out, count);
	buf_add(out, v, n);
}

void gguf_put_u32(struct gguf_builder *b, const char *key, uint32_t v)
{
	put_value(b, key, GGUF_U32, &v, sizeof v);
}

void gguf_put_f32(struct gguf_builder *b, const char *key, float v)
{
	put_value(b, key, GGUF_F32, &v, sizeof v);
}

void gguf_put_bool(struct gguf_builder *b, const char *key, bool v)
{
	uint8_t byte = v;

	put_value(b, key, GGUF_BOOL, &byte, 1);
}

void gguf_put_string(struct gguf_builder *b, const char *key, const char *s, size_t n)
{
	struct buf *out = begin(b, key, GGUF_STRING);

	if (out)
		gguf_add_string(out, s, n);
}

void gguf_put_text(struct gguf_builder *b, const char *key, const char *s)
{
	gguf_put_string(b, key, s, strlen(s));
}

void gguf_put_i32s(struct gguf_builder *b, const char *key, const int32_t *v, size_t n)
{
	put_array(b, key, GGUF_I32, n, v, n * sizeof *v);
}

void gguf_put_f32s(struct gguf_builder *b, const char *key, const float *v, size_t n)
{
	put_array(b, key, GGUF_F32, n, v, n * sizeof *v);
}

void gguf_put_strings(struct gguf_builder *b, const char *key, const struct buf *strings, size_t n)
{
	if (!buf_ok(strings))
		b->failed = true;
	else
		put_array(b, key, GGUF_STRING, n, strings->data, strings->len);
}

/* Bytes of a value or of an array's elements. */
static size_t value_bytes(const struct gguf_kv *kv)
{
	const uint8_t *end = kv->value;

	if (kv->element != GGUF_STRING)
		return (size_t)kv->count * gguf_type_bytes(kv->element);
	for (uint64_t i = 0; i < kv->count; i++)
		gguf_next_string(&end);
	return (size_t)(end - kv->value);
}

void gguf_put_copy(struct gguf_builder *b, const struct gguf_kv *kv)
{
	char *key = mem_strn(kv->key.p, kv->key.n);

	if (!key)
		b->failed = true;
	else if (kv->type == GGUF_ARRAY)
		put_array(b, key, kv->element, kv->count, kv->value, value_bytes(kv));
	else
		put_value(b, key, kv->type, kv->value, value_bytes(kv));
	mem_free(key);
}

void gguf_remove(struct gguf_builder *b, const char *key)
{
	struct record *r = find(b, key);

	if (!r)
		return;
	clear_record(r);
	b->n_records--;
	memmove(r, r + 1, (size_t)(b->record + b->n_records - r) * sizeof *r);
}

bool gguf_has(const struct gguf_builder *b, const char *key)
{
	return find(b, key) != NULL;
}

static uint64_t padded(uint64_t n)
{
	return (n + GGUF_WRITE_ALIGNMENT - 1) / GGUF_WRITE_ALIGNMENT * GGUF_WRITE_ALIGNMENT;
}

void gguf_add_tensor(struct gguf_builder *b, const char *name, enum dtype t, uint32_t n_dims,
                     const uint64_t *dims)
{
	struct entry *e;
	uint64_t n = 1;

	e = with_room(b, b->entry, b->n_entries, &b->entry_room, sizeof *b->entry);
	if (!e)
		return;
	b->entry = e;
	e = &b->entry[b->n_entries];
	*e = (struct entry){.name = mem_str(name), .type = t, .n_dims = n_dims, .offset = b->data_bytes};
	if (!e->name) {
		b->failed = true;
		return;
	}
	b->n_entries++;
	for (uint32_t i = 0; i < n_dims; i++) {
		e->dims[i] = dims[i];
		n *= dims[i];
	}
	b->data_bytes += padded(dtype_bytes(t, n));
}

enum status gguf_head(struct buf *out, const struct gguf_builder *b, struct err *err)
{
	static const char zero[GGUF_WRITE_ALIGNMENT];

	buf_clear(out);
	buf_str(out, "GGUF");
	put_u32(out, 3);
	put_u64(out, b->n_entries);
	put_u64(out, b->n_records);
	for (size_t i = 0; i < b->n_records; i++) {
		if (!buf_ok(&b->record[i].bytes))
			return err_set(err, ERR_MEMORY, "%s: no memory for the value", b->record[i].key);
		buf_add(out, b->record[i].bytes.data, b->record[i].bytes.len);
	}
	for (size_t i = 0; i < b->n_entries; i++) {
		const struct entry *e = &b->entry[i];

		gguf_add_string(out, e->name, strlen(e->name));
		put_u32(out, e->n_dims);
		buf_add(out, e->dims, e->n_dims * sizeof *e->dims);
		put_u32(out, dtype_info(e->type)->gguf_id);
		put_u64(out, e->offset);
	}
	buf_add(out, zero, (size_t)(padded(out->len) - out->len));
	if (b->failed || !buf_ok(out))
		return err_set(err, ERR_MEMORY, "no memory for the head of a file with %zu tensors and %zu keys",
			       b->n_entries, b->n_records);
	return OK;
}

uint64_t gguf_offset(const struct gguf_builder *b, size_t tensor)
{
	return b->entry[tensor].offset;
}

uint64_t gguf_data_bytes(const struct gguf_builder *b)
{
	return b->data_bytes;
}
