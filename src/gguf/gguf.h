/* gguf.h - the model file: opened by mapping, validated once, then only looked up.
 *
 * Promise: a file that opened is in bounds everywhere.  Every string, array, tensor shape, type and offset
 * has been checked against the file's length, so nothing needs re-checking afterwards.  Strings are bytes with
 * a length, not NUL-terminated: keys and tensor names are unique, valid UTF-8 and hold no control bytes; the
 * bytes of string values are not looked at.  Tensors may be in any order and may alias the same bytes.
 * Thread: read-only after gguf_open; share freely.  Source: docs/formats/gguf.md. */
#ifndef DS4_GGUF_GGUF_H
#define DS4_GGUF_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "quant/dtype.h"

enum gguf_type {	/* ids as in the file */
	GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL,
	GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64
};

struct gguf_string {
	const char *p;
	size_t n;
};

struct gguf_kv {
	struct gguf_string key;
	enum gguf_type type;		/* of the value, or GGUF_ARRAY */
	enum gguf_type element;		/* of an array's elements */
	uint64_t count;			/* array elements; 1 otherwise */
	const uint8_t *value;		/* first byte of the value or of the array's elements, unaligned */
};

struct gguf_tensor {
	struct gguf_string name;
	enum dtype type;
	uint32_t n_dims;		/* 1..4 */
	uint64_t dims[4];		/* dims[0] contiguous; unused ones are 1 */
	uint64_t bytes;
	const uint8_t *data;		/* inside the mapping; aligned to general.alignment from the file start */
};

struct gguf {
	const char *path;		/* owned copy */
	const uint8_t *map;
	uint64_t map_bytes;
	uint32_t alignment;
	uint64_t n_kv, n_tensors;
	struct gguf_kv *kv;
	struct gguf_tensor *tensor;	/* file order */
	struct gguf_index *index;	/* private: name -> position */
	uint64_t data_offset;		/* first byte of tensor data in the file */
};

/* Opens, maps and fully validates a file.  On failure *out is NULL and err names the field, what was
 * expected and what the file has: ERR_NOT_FOUND, ERR_IO, ERR_FORMAT, ERR_MEMORY. */
enum status gguf_open(struct gguf **out, const char *path, struct err *err);

/* The same over bytes the caller keeps alive and unchanged until gguf_close; name is for messages. */
enum status gguf_open_memory(struct gguf **out, const void *data, size_t bytes, const char *name, struct err *err);

void gguf_close(struct gguf *g);	/* accepts NULL and half-built */

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key);		/* NULL when absent */
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);	/* NULL when absent */

/* Typed access.  ERR_FORMAT names the key, the wanted and the found type or that the key is missing.
 * Integers accept every integer type whose value fits; floats accept f32, f64 and integers. */
enum status gguf_u64(const struct gguf *g, const char *key, uint64_t *out, struct err *err);
enum status gguf_f64(const struct gguf *g, const char *key, double *out, struct err *err);
enum status gguf_bool(const struct gguf *g, const char *key, bool *out, struct err *err);
enum status gguf_str(const struct gguf *g, const char *key, struct gguf_string *out, struct err *err);

/* Element i (i < kv->count) of a scalar or an array as a number.  A bool gives 0 or 1, a string NaN
 * or 0; gguf_integer truncates a float, and what int64 cannot hold becomes the nearest limit (NaN 0). */
double gguf_number(const struct gguf_kv *kv, uint64_t i);
int64_t gguf_integer(const struct gguf_kv *kv, uint64_t i);

/* Walks an array of strings: start with *cursor = kv->value, call kv->count times. */
struct gguf_string gguf_next_string(const uint8_t **cursor);

const char *gguf_type_name(enum gguf_type t);	/* "u32", "array", ... */

#endif
