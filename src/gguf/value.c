/* value.c - metadata values as numbers, bools and strings of the C program.
 *
 * What  Typed access to the entries that gguf.c has found and checked.
 * Why   Writers disagree about integer widths and about f32 and f64; the model code should not have to care.
 * How   Every scalar is widened to int64, uint64 or double in one place, scalar_number() and its two friends.
 * Careful
 *       - Values lie unaligned in the file: they are always copied out.
 *       - A u64 above INT64_MAX and a negative number do not fit each other's type: gguf_u64() refuses the
 *         latter, gguf_integer() saturates the former. */
#include "gguf/gguf.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "gguf/gguf_int.h"

static const struct {
	const char *name;
	unsigned bytes;
} types[GGUF_TYPES] = {
	[GGUF_U8] = {"u8", 1}, [GGUF_I8] = {"i8", 1}, [GGUF_U16] = {"u16", 2}, [GGUF_I16] = {"i16", 2},
	[GGUF_U32] = {"u32", 4}, [GGUF_I32] = {"i32", 4}, [GGUF_F32] = {"f32", 4}, [GGUF_BOOL] = {"bool", 1},
	[GGUF_STRING] = {"string", 0}, [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8},
	[GGUF_I64] = {"i64", 8}, [GGUF_F64] = {"f64", 8},
};

const char *gguf_type_name(enum gguf_type t)
{
	return (unsigned)t < GGUF_TYPES ? types[t].name : "unknown";
}

unsigned gguf_type_bytes(enum gguf_type t)
{
	return types[t].bytes;
}

static bool is_integer(enum gguf_type t)
{
	return t != GGUF_F32 && t != GGUF_F64 && t != GGUF_BOOL && t != GGUF_STRING && t != GGUF_ARRAY;
}

/* The low bytes of element i, and the same with its sign spread upwards. */
static uint64_t element_bits(const struct gguf_kv *kv, uint64_t i)
{
	unsigned size = types[kv->element].bytes;
	uint64_t bits = 0;

	memcpy(&bits, kv->value + i * size, size);
	return bits;
}

static int64_t element_signed(const struct gguf_kv *kv, uint64_t i)
{
	unsigned shift = 64 - 8 * types[kv->element].bytes;

	return (int64_t)(element_bits(kv, i) << shift) >> shift;
}

static double element_float(const struct gguf_kv *kv, uint64_t i)
{
	float f;
	double d;

	if (kv->element == GGUF_F32) {
		memcpy(&f, kv->value + i * sizeof f, sizeof f);
		return f;
	}
	memcpy(&d, kv->value + i * sizeof d, sizeof d);
	return d;
}

double gguf_number(const struct gguf_kv *kv, uint64_t i)
{
	assert(i < kv->count);
	switch (kv->element) {
	case GGUF_F32:
	case GGUF_F64:
		return element_float(kv, i);
	case GGUF_I8:
	case GGUF_I16:
	case GGUF_I32:
	case GGUF_I64:
		return (double)element_signed(kv, i);
	case GGUF_U8:
	case GGUF_U16:
	case GGUF_U32:
	case GGUF_U64:
	case GGUF_BOOL:
		return (double)element_bits(kv, i);
	case GGUF_STRING:
	case GGUF_ARRAY:
		break;
	}
	return NAN;
}

int64_t gguf_integer(const struct gguf_kv *kv, uint64_t i)
{
	double d;
	uint64_t u;

	assert(i < kv->count);
	switch (kv->element) {
	case GGUF_I8:
	case GGUF_I16:
	case GGUF_I32:
	case GGUF_I64:
		return element_signed(kv, i);
	case GGUF_U8:
	case GGUF_U16:
	case GGUF_U32:
	case GGUF_U64:
	case GGUF_BOOL:
		u = element_bits(kv, i);
		return u > INT64_MAX ? INT64_MAX : (int64_t)u;
	case GGUF_F32:
	case GGUF_F64:
		d = element_float(kv, i);
		if (isnan(d))
			return 0;
		return d >= 0x1p63 ? INT64_MAX : d < -0x1p63 ? INT64_MIN : (int64_t)d;
	case GGUF_STRING:
	case GGUF_ARRAY:
		break;
	}
	return 0;
}

static enum status require(const struct gguf *g, const char *key, const struct gguf_kv **kv, const char *wanted,
			   struct err *err)
{
	*kv = gguf_find(g, key);
	if (*kv)
		return OK;
	return err_set(err, ERR_FORMAT, "%s: metadata key %s is missing, expected %s", g->path, key, wanted);
}

static enum status wrong_type(const struct gguf *g, const struct gguf_kv *kv, const char *wanted, struct err *err)
{
	bool array = kv->type == GGUF_ARRAY;

	return err_set(err, ERR_FORMAT, "%s: metadata key %.*s is %s%s, expected %s", g->path, (int)kv->key.n,
		       kv->key.p, array ? "an array of " : "of type ", gguf_type_name(kv->element), wanted);
}

enum status gguf_u64(const struct gguf *g, const char *key, uint64_t *out, struct err *err)
{
	const struct gguf_kv *kv;

	TRY(require(g, key, &kv, "an integer", err));
	if (!is_integer(kv->type))
		return wrong_type(g, kv, "an integer", err);
	if (gguf_number(kv, 0) < 0)
		return err_set(err, ERR_FORMAT, "%s: metadata key %s is %" PRId64 ", expected 0 or more", g->path,
			       key, gguf_integer(kv, 0));
	*out = element_bits(kv, 0);
	return OK;
}

enum status gguf_f64(const struct gguf *g, const char *key, double *out, struct err *err)
{
	const struct gguf_kv *kv;

	TRY(require(g, key, &kv, "a number", err));
	if (!is_integer(kv->type) && kv->type != GGUF_F32 && kv->type != GGUF_F64)
		return wrong_type(g, kv, "a number", err);
	*out = gguf_number(kv, 0);
	return OK;
}

enum status gguf_bool(const struct gguf *g, const char *key, bool *out, struct err *err)
{
	const struct gguf_kv *kv;

	TRY(require(g, key, &kv, "a bool", err));
	if (kv->type != GGUF_BOOL)
		return wrong_type(g, kv, "a bool", err);
	*out = kv->value[0] != 0;
	return OK;
}

enum status gguf_str(const struct gguf *g, const char *key, struct gguf_string *out, struct err *err)
{
	const struct gguf_kv *kv;
	const uint8_t *cursor;

	TRY(require(g, key, &kv, "a string", err));
	if (kv->type != GGUF_STRING)
		return wrong_type(g, kv, "a string", err);
	cursor = kv->value;
	*out = gguf_next_string(&cursor);
	return OK;
}

struct gguf_string gguf_next_string(const uint8_t **cursor)
{
	struct gguf_string s;
	uint64_t n;

	memcpy(&n, *cursor, sizeof n);
	s.p = (const char *)*cursor + sizeof n;
	s.n = n;
	*cursor += sizeof n + n;
	return s;
}
