/* api_field.c - reads the fields of a request body; see api_field_int.h.
 *
 * Careful
 *       - Integers of any length are tagged strings to Jansson (base/json.h): they count as numbers here, beyond every
 *         range.
 *       - 50.0 is an integer: some languages have no other numbers. */
#include "server/api_field_int.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

static const json_t *present(const json_t *v)
{
	return v && !json_is_null(v) ? v : NULL;
}

struct field field_body(const json_t *body, struct api_error *e)
{
	return (struct field){.v = present(body), .e = e};
}

struct field field_get(const struct field *o, const char *key)
{
	return (struct field){.v = present(json_object_get(o->v, key)), .up = o, .key = key, .e = o->e};
}

struct field field_at(const struct field *a, size_t i)
{
	return (struct field){.v = present(json_array_get(a->v, i)), .up = a, .index = i, .e = a->e};
}

size_t field_count(const struct field *a)
{
	return json_array_size(a->v);
}

static void add_path(struct buf *out, const struct field *f)
{
	if (!f->up)
		return;
	add_path(out, f->up);
	if (f->key)
		buf_printf(out, "%s%s", out->len ? "." : "", f->key);
	else
		buf_printf(out, "[%zu]", f->index);
}

bool field_fail(const struct field *f, const char *fmt, ...)
{
	struct buf path = BUF_CAP(BUF_MAX);
	char what[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	add_path(&path, f);
	api_error_set(f->e, 400, buf_cstr(&path), NULL, "%s%s%s", buf_cstr(&path), path.len ? ": " : "", what);
	buf_clear(&path);
	return false;
}

static const char *found_name(const json_t *v)
{
	static const char *const name[] = {
		[JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
		[JSON_INTEGER] = "an integer", [JSON_REAL] = "a number", [JSON_TRUE] = "true",
		[JSON_FALSE] = "false", [JSON_NULL] = "null",
	};

	if (!v)
		return "nothing";
	return json_is_string(v) && !json_is_text(v) ? "a number" : name[json_typeof(v)];
}

bool field_wrong(const struct field *f, const char *what)
{
	struct slice s;

	if (json_is_text(f->v) && json_string_length(f->v)) {
		s = (struct slice){json_string_value(f->v), json_string_length(f->v)};
		return field_fail(f, "expected %s, found \"%.*s\"", what, slice_shown(s), s.p);
	}
	return field_fail(f, "expected %s, found %s", what, found_name(f->v));
}

bool field_missing(const struct field *f)
{
	struct buf path = BUF_CAP(BUF_MAX);

	add_path(&path, f);
	api_error_set(f->e, 400, buf_cstr(&path), NULL, "missing %s", buf_cstr(&path));
	buf_clear(&path);
	return false;
}

bool field_text(const struct field *f, struct slice *out)
{
	if (!f->v)
		return true;
	if (!json_is_text(f->v))
		return field_wrong(f, "a string");
	*out = (struct slice){json_string_value(f->v), json_string_length(f->v)};
	return true;
}

bool field_bool(const struct field *f, bool *out)
{
	if (!f->v)
		return true;
	if (!json_is_boolean(f->v))
		return field_wrong(f, "true or false");
	*out = json_is_true(f->v);
	return true;
}

/* A number of any kind as a double. */
static bool number_of(const json_t *v, double *out)
{
	if (json_is_number(v))
		*out = json_number_value(v);
	else if (json_is_big_integer(v))
		*out = json_string_value(v)[1] == '-' ? -HUGE_VAL : HUGE_VAL;
	else if (json_is_string(v) && !json_is_text(v))
		*out = json_string_value(v)[1] == '-' ? -HUGE_VAL : HUGE_VAL;
	else
		return false;
	return true;
}

bool field_int(const struct field *f, int64_t low, int64_t high, int64_t *out)
{
	double d;

	if (!f->v)
		return true;
	if (!number_of(f->v, &d) || (json_is_real(f->v) && d != floor(d)))
		return field_wrong(f, "an integer");
	if (json_is_integer(f->v))
		*out = json_integer_value(f->v);
	else
		*out = d >= 9e18 ? INT64_MAX : d <= -9e18 ? INT64_MIN : (int64_t)d;
	if (*out >= low && *out <= high)
		return true;
	if (high == INT64_MAX)
		return field_fail(f, "expected an integer of at least %lld, found %lld", (long long)low,
				  (long long)*out);
	return field_fail(f, "expected an integer from %lld to %lld, found %lld", (long long)low, (long long)high,
			  (long long)*out);
}

bool field_number(const struct field *f, double low, double high, double *out)
{
	if (!f->v)
		return true;
	if (!number_of(f->v, out))
		return field_wrong(f, "a number");
	if (*out >= low && *out <= high)
		return true;
	return field_fail(f, "expected a number from %g to %g, found %g", low, high, *out);
}

bool field_array(const struct field *f)
{
	return !f->v || json_is_array(f->v) || field_wrong(f, "an array");
}

bool field_object(const struct field *f)
{
	return !f->v || json_is_object(f->v) || field_wrong(f, "an object");
}

bool get_text(const struct field *o, const char *key, struct slice *out)
{
	struct field f = field_get(o, key);

	return field_text(&f, out);
}

bool get_bool(const struct field *o, const char *key, bool *out)
{
	struct field f = field_get(o, key);

	return field_bool(&f, out);
}

bool get_int(const struct field *o, const char *key, int64_t low, int64_t high, int64_t *out)
{
	struct field f = field_get(o, key);

	return field_int(&f, low, high, out);
}

bool get_number(const struct field *o, const char *key, double low, double high, double *out)
{
	struct field f = field_get(o, key);

	return field_number(&f, low, high, out);
}

bool slice_is(struct slice s, const char *text)
{
	return s.p && s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

int slice_shown(struct slice s)
{
	return (int)utf8_whole(s.p, s.n < 60 ? s.n : 60);
}

char *slice_copy(struct slice s)
{
	return mem_strn(s.p ? s.p : "", s.n);
}
