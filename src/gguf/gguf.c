/* gguf.c - opens a model file and checks everything in it, once.
 *
 * What  Maps the file, walks the metadata and the tensor directory, and fills struct gguf with pointers into
 *       the mapping.  Nothing is copied except the two directories.
 * Why   The rest of the engine reads strings, arrays and weights without checks; so every count, length, type,
 *       shape and offset of the file is compared with the file's length here, or the file is refused.
 * How   A cursor (struct reader) that cannot step past the end: need() is asked before each read.  Directories
 *       are sorted by name, which finds duplicates and makes look-up a binary search.
 * Careful
 *       - Counts come before the data they count: they are bounded by the bytes left before anything is allocated.
 *       - Bytes left are computed by subtraction from the end, never by adding an offset from the file.
 *       - Tensor offsets may be in any order and may overlap; only range and alignment are checked.
 *       - Names go into messages, so they hold no control bytes; string values are not looked at.
 * Source: docs/formats/gguf.md. */
#include "gguf/gguf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "gguf/gguf_int.h"

#define VERSION 3
#define HEADER_BYTES 24
#define MIN_KV_BYTES 14			/* length, one byte of key, type, one byte of value */
#define MIN_TENSOR_BYTES 33		/* length, one byte of name, n_dims, one dim, type, offset */
#define MAX_NAME_BYTES 65535
#define SHOWN_NAME_BYTES 96		/* of a name in a message */
#define MIN_ALIGNMENT 8
#define MAX_ALIGNMENT 65536
#define DEFAULT_ALIGNMENT 32

#define X(code, name, id, elements, bytes) " " name "=" #id
static const char known_types[] = DTYPE_MAP(X);	/* " F32=0 F16=1 ..." */
#undef X

struct reader {
	struct gguf *g;
	uint64_t at;			/* next byte to read */
	const char *section;		/* what is being read: "metadata entry", "tensor" */
	uint64_t i, n;			/* entry i of n */
	struct gguf_string name;	/* of the entry, once known */
	struct err *err;
};

static int shown(struct gguf_string s)
{
	return (int)utf8_whole(s.p, s.n < SHOWN_NAME_BYTES ? s.n : SHOWN_NAME_BYTES);
}

/* "path: tensor 3 of 40 (blk.0.attn_kv.weight): message" */
__attribute__((format(printf, 2, 3)))
static enum status bad(const struct reader *r, const char *fmt, ...)
{
	char msg[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	if (!r->section)
		return err_set(r->err, ERR_FORMAT, "%s: %s", r->g->path, msg);
	if (!r->name.p)
		return err_set(r->err, ERR_FORMAT, "%s: %s %" PRIu64 " of %" PRIu64 ": %s", r->g->path,
			       r->section, r->i + 1, r->n, msg);
	return err_set(r->err, ERR_FORMAT, "%s: %s %" PRIu64 " of %" PRIu64 " (%.*s): %s", r->g->path,
		       r->section, r->i + 1, r->n, shown(r->name), r->name.p, msg);
}

static uint64_t left(const struct reader *r)
{
	return r->g->map_bytes - r->at;
}

static enum status need(const struct reader *r, uint64_t bytes, const char *what)
{
	if (bytes <= left(r))
		return OK;
	return bad(r, "%s needs %" PRIu64 " bytes at byte %" PRIu64 ", but the file ends after %" PRIu64, what,
		   bytes, r->at, r->g->map_bytes);
}

/* The same for count items of size bytes each, where the product may overflow. */
static enum status need_array(const struct reader *r, uint64_t count, uint64_t size, const char *what)
{
	if (count <= left(r) / size)
		return OK;
	return bad(r, "%s: count is %" PRIu64 ", but the %" PRIu64 " bytes left in the file hold at most %" PRIu64,
		   what, count, left(r), left(r) / size);
}

static enum status take_u32(struct reader *r, uint32_t *out, const char *what)
{
	TRY(need(r, sizeof *out, what));
	memcpy(out, r->g->map + r->at, sizeof *out);
	r->at += sizeof *out;
	return OK;
}

static enum status take_u64(struct reader *r, uint64_t *out, const char *what)
{
	TRY(need(r, sizeof *out, what));
	memcpy(out, r->g->map + r->at, sizeof *out);
	r->at += sizeof *out;
	return OK;
}

static enum status take_string(struct reader *r, struct gguf_string *out, const char *what)
{
	uint64_t n;

	TRY(take_u64(r, &n, what));
	TRY(need(r, n, what));
	out->p = (const char *)r->g->map + r->at;
	out->n = n;
	r->at += n;
	return OK;
}

/* A key or a tensor name: 1..65535 bytes of UTF-8 without control bytes. */
static enum status take_name(struct reader *r, struct gguf_string *out, const char *what)
{
	struct gguf_string s;

	TRY(take_string(r, &s, what));
	if (s.n == 0 || s.n > MAX_NAME_BYTES)
		return bad(r, "%s has %zu bytes, expected 1 to %d", what, s.n, MAX_NAME_BYTES);
	for (size_t i = 0; i < s.n;) {
		uint32_t cp;
		int valid;
		size_t used = utf8_decode(s.p + i, s.n - i, &cp, &valid);

		if (!valid)
			return bad(r, "%s is not UTF-8 at its byte %zu", what, i);
		if (cp < 0x20 || cp == 0x7F)
			return bad(r, "%s has the control byte 0x%02X at its byte %zu", what, (unsigned)cp, i);
		i += used;
	}
	*out = r->name = s;
	return OK;
}

static enum status take_type(struct reader *r, enum gguf_type *out, const char *what)
{
	uint32_t id;

	TRY(take_u32(r, &id, what));
	if (id >= GGUF_TYPES)
		return bad(r, "%s is %" PRIu32 ", expected 0 to %u", what, id, GGUF_TYPES - 1);
	*out = (enum gguf_type)id;
	return OK;
}

/* Steps over count values of one scalar type or string, checking them. */
static enum status take_values(struct reader *r, enum gguf_type t, uint64_t count)
{
	unsigned size = gguf_type_bytes(t);
	const uint8_t *p = r->g->map + r->at;
	struct gguf_string s;

	if (t == GGUF_STRING) {
		TRY(need_array(r, count, sizeof(uint64_t), "string array"));
		for (uint64_t i = 0; i < count; i++)
			TRY(take_string(r, &s, "string"));
		return OK;
	}
	TRY(count == 1 ? need(r, size, "value") : need_array(r, count, size, "array"));
	if (t == GGUF_BOOL)
		for (uint64_t i = 0; i < count; i++)
			if (p[i] > 1)
				return bad(r, "bool is %u, expected 0 or 1", p[i]);
	r->at += count * size;
	return OK;
}

static enum status read_kv(struct reader *r, struct gguf_kv *kv)
{
	TRY(take_name(r, &kv->key, "key"));
	TRY(take_type(r, &kv->type, "value type"));
	kv->element = kv->type;
	kv->count = 1;
	if (kv->type == GGUF_ARRAY) {
		TRY(take_type(r, &kv->element, "array element type"));
		if (kv->element == GGUF_ARRAY)
			return bad(r, "array of arrays, expected an array of scalars or strings");
		TRY(take_u64(r, &kv->count, "array count"));
	}
	kv->value = r->g->map + r->at;
	return take_values(r, kv->element, kv->count);
}

/* dims[0..n_dims), elements and bytes of one tensor; its type is known. */
static enum status check_shape(const struct reader *r, struct gguf_tensor *t)
{
	const struct dtype_info *type = dtype_info(t->type);
	uint64_t n = 1;

	for (uint32_t d = 0; d < t->n_dims; d++) {
		if (t->dims[d] == 0)
			return bad(r, "dimension %" PRIu32 " is 0, expected 1 or more", d);
		if (__builtin_mul_overflow(n, t->dims[d], &n))
			return bad(r, "the product of its %" PRIu32 " dimensions exceeds 64 bits", t->n_dims);
	}
	if (t->dims[0] % type->block_elements)
		return bad(r, "dimension 0 is %" PRIu64 ", expected a multiple of %" PRIu32 " for type %s",
			   t->dims[0], type->block_elements, type->name);
	if (__builtin_mul_overflow(n / type->block_elements, (uint64_t)type->block_bytes, &t->bytes))
		return bad(r, "%" PRIu64 " elements of type %s exceed 64 bits of bytes", n, type->name);
	return OK;
}

/* One directory entry; t->data is set by place_tensors(), the offset waits in *offset. */
static enum status read_tensor(struct reader *r, struct gguf_tensor *t, uint64_t *offset)
{
	uint32_t id;

	TRY(take_name(r, &t->name, "name"));
	TRY(take_u32(r, &t->n_dims, "number of dimensions"));
	if (t->n_dims < 1 || t->n_dims > 4)
		return bad(r, "has %" PRIu32 " dimensions, expected 1 to 4", t->n_dims);
	for (uint32_t d = 0; d < 4; d++) {
		t->dims[d] = 1;
		if (d < t->n_dims)
			TRY(take_u64(r, &t->dims[d], "dimension"));
	}
	TRY(take_u32(r, &id, "type"));
	if (!dtype_from_gguf(&t->type, id))
		return bad(r, "type id is %" PRIu32 ", expected one of%s", id, known_types);
	TRY(check_shape(r, t));
	return take_u64(r, offset, "offset");
}

static int by_name(const void *pa, const void *pb)
{
	const struct gguf_entry *a = pa, *b = pb;
	size_t n = a->name.n < b->name.n ? a->name.n : b->name.n;
	int c = memcmp(a->name.p, b->name.p, n);

	if (c)
		return c;
	if (a->name.n != b->name.n)
		return a->name.n < b->name.n ? -1 : 1;
	return a->place < b->place ? -1 : a->place > b->place;
}

/* Sorts the n entries; two with one name are an error. */
static enum status sort_names(struct reader *r, struct gguf_entry *e, uint64_t n)
{
	qsort(e, n, sizeof *e, by_name);
	for (uint64_t i = 1; i < n; i++)
		if (e[i].name.n == e[i - 1].name.n && !memcmp(e[i].name.p, e[i - 1].name.p, e[i].name.n)) {
			r->i = e[i].place;
			r->name = e[i].name;
			return bad(r, "same name as %s %" PRIu64, r->section, e[i - 1].place + 1);
		}
	return OK;
}

static enum status no_memory(const struct reader *r, const char *what, uint64_t n)
{
	return err_set(r->err, ERR_MEMORY, "%s: no memory for the directory of %" PRIu64 " %s", r->g->path, n, what);
}

static enum status read_metadata(struct reader *r)
{
	struct gguf *g = r->g;

	TRY(need_array(r, g->n_kv, MIN_KV_BYTES, "metadata"));
	g->kv = mem_array(g->n_kv, sizeof *g->kv);
	g->index->kv = mem_array(g->n_kv, sizeof *g->index->kv);
	if (!g->kv || !g->index->kv)
		return no_memory(r, "metadata entries", g->n_kv);
	r->section = "metadata entry";
	r->n = g->n_kv;
	for (r->i = 0; r->i < g->n_kv; r->i++) {
		struct gguf_kv *kv = &g->kv[r->i];

		r->name.p = NULL;
		TRY(read_kv(r, kv));
		g->index->kv[r->i] = (struct gguf_entry){kv->key, r->i};
	}
	TRY(sort_names(r, g->index->kv, g->n_kv));
	r->section = NULL;
	return OK;
}

static enum status read_alignment(const struct reader *r)
{
	const struct gguf_kv *kv = gguf_find(r->g, "general.alignment");
	uint32_t a = DEFAULT_ALIGNMENT;

	if (kv && kv->type != GGUF_U32)
		return bad(r, "general.alignment is of type %s, expected u32", gguf_type_name(kv->type));
	if (kv)
		memcpy(&a, kv->value, sizeof a);
	if (a < MIN_ALIGNMENT || a > MAX_ALIGNMENT || (a & (a - 1)))
		return bad(r, "general.alignment is %" PRIu32 ", expected a power of two from %d to %d", a,
			   MIN_ALIGNMENT, MAX_ALIGNMENT);
	r->g->alignment = a;
	return OK;
}

/* Turns offsets into pointers: all of them relative to the first aligned byte behind the directory. */
static enum status place_tensors(struct reader *r, const uint64_t *offset)
{
	struct gguf *g = r->g;
	uint64_t end = g->map_bytes, base = (r->at + g->alignment - 1) / g->alignment * g->alignment;

	g->data_offset = base < end ? base : end;	/* a vocabulary-only file may lack the padding */
	for (r->i = 0; r->i < g->n_tensors; r->i++) {
		struct gguf_tensor *t = &g->tensor[r->i];
		uint64_t o = offset[r->i], room = end - g->data_offset;

		r->name = t->name;
		if (o % g->alignment)
			return bad(r, "offset is %" PRIu64 ", expected a multiple of %" PRIu32, o, g->alignment);
		if (o > room || t->bytes > room - o)
			return bad(r, "needs %" PRIu64 " bytes at offset %" PRIu64 ", but the file (%" PRIu64
				   " bytes) has %" PRIu64 " bytes of tensor data: it is cut short or damaged",
				   t->bytes, o, end, room);
		t->data = g->map + g->data_offset + o;
	}
	return OK;
}

static enum status read_tensors(struct reader *r)
{
	struct gguf *g = r->g;
	uint64_t *offset = NULL;
	enum status st = OK;

	TRY(need_array(r, g->n_tensors, MIN_TENSOR_BYTES, "tensor directory"));
	g->tensor = mem_array(g->n_tensors, sizeof *g->tensor);
	g->index->tensor = mem_array(g->n_tensors, sizeof *g->index->tensor);
	offset = mem_array(g->n_tensors, sizeof *offset);
	if (!g->tensor || !g->index->tensor || !offset) {
		st = no_memory(r, "tensors", g->n_tensors);
		goto out;
	}
	r->section = "tensor";
	r->n = g->n_tensors;
	for (r->i = 0; r->i < g->n_tensors; r->i++) {
		r->name.p = NULL;
		TRY_TO(out, read_tensor(r, &g->tensor[r->i], &offset[r->i]));
		g->index->tensor[r->i] = (struct gguf_entry){g->tensor[r->i].name, r->i};
	}
	TRY_TO(out, sort_names(r, g->index->tensor, g->n_tensors));
	st = place_tensors(r, offset);
out:
	mem_free(offset);
	return st;
}

static enum status read_header(struct reader *r)
{
	struct gguf *g = r->g;
	const uint8_t *p = g->map;
	uint32_t version;

	if (g->map_bytes < HEADER_BYTES)
		return bad(r, "has %" PRIu64 " bytes, expected at least the %d of a GGUF header", g->map_bytes,
			   HEADER_BYTES);
	if (memcmp(p, "GGUF", 4))
		return bad(r, "begins with bytes %02X %02X %02X %02X, expected 47 47 55 46 (\"GGUF\")", p[0], p[1],
			   p[2], p[3]);
	r->at = 4;
	TRY(take_u32(r, &version, "version"));
	if (version == __builtin_bswap32(VERSION))
		return bad(r, "is a big-endian GGUF file, expected little endian");
	if (version != VERSION)
		return bad(r, "GGUF version is %" PRIu32 ", expected %d", version, VERSION);
	TRY(take_u64(r, &g->n_tensors, "number of tensors"));
	return take_u64(r, &g->n_kv, "number of metadata entries");
}

static enum status read_all(struct gguf *g, struct err *err)
{
	struct reader r = {.g = g, .err = err};

	TRY(read_header(&r));
	TRY(read_metadata(&r));
	TRY(read_alignment(&r));
	return read_tensors(&r);
}

static struct gguf *new_gguf(const char *path)
{
	struct gguf *g = mem_zero(sizeof *g);

	if (!g)
		return NULL;
	g->path = mem_str(path);
	g->index = mem_zero(sizeof *g->index);
	if (g->path && g->index)
		return g;
	gguf_close(g);
	return NULL;
}

/* Both ways of opening; data is NULL for a file, which is then mapped. */
static enum status open_any(struct gguf **out, const char *path, const void *data, size_t bytes, struct err *err)
{
	struct gguf *g = new_gguf(path);
	enum status st = OK;

	*out = NULL;
	if (!g)
		return err_set(err, ERR_MEMORY, "%s: no memory to open the file", path);
	if (!data) {
		TRY_TO(out, file_map(&g->index->map, path, err));
		data = g->index->map.data;
		bytes = g->index->map.bytes;
	}
	g->map = data;
	g->map_bytes = bytes;
	TRY_TO(out, read_all(g, err));
	*out = g;
	g = NULL;
out:
	gguf_close(g);
	return st;
}

enum status gguf_open(struct gguf **out, const char *path, struct err *err)
{
	return open_any(out, path, NULL, 0, err);
}

enum status gguf_open_memory(struct gguf **out, const void *data, size_t bytes, const char *name, struct err *err)
{
	return open_any(out, name, data ? data : "", data ? bytes : 0, err);
}

void gguf_close(struct gguf *g)
{
	if (!g)
		return;
	if (g->index) {
		file_unmap(&g->index->map);
		mem_free(g->index->kv);
		mem_free(g->index->tensor);
	}
	mem_free(g->index);
	mem_free(g->kv);
	mem_free(g->tensor);
	mem_free((void *)(uintptr_t)g->path);
	mem_free(g);
}

/* Place of name among n sorted entries, or n. */
static uint64_t find(const struct gguf_entry *e, uint64_t n, const char *name)
{
	struct gguf_string want = {name, strlen(name)};
	uint64_t lo = 0, hi = n;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;
		struct gguf_entry key = {want, e[mid].place};
		int c = by_name(&key, &e[mid]);

		if (c == 0)
			return e[mid].place;
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return n;
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
	uint64_t i = find(g->index->kv, g->n_kv, key);

	return i < g->n_kv ? &g->kv[i] : NULL;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
	uint64_t i = find(g->index->tensor, g->n_tensors, name);

	return i < g->n_tensors ? &g->tensor[i] : NULL;
}
