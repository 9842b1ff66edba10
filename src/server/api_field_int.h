/* api_field_int.h - typed access to a request body: null is absent, and a wrong type is an error that names the field.
 *
 * A field knows its way up, so that only an error costs the text of its path ("messages[2].content[0].text").
 * All getters: absent or null leaves *out as it was and is true; a wrong type or value fills the error and is false. */
#ifndef DS4_SERVER_API_FIELD_INT_H
#define DS4_SERVER_API_FIELD_INT_H

#include "server/dialect.h"

struct slice {	/* counted text, borrowed from the body */
	const char *p;	/* NULL = absent */
	size_t n;
};

struct field {
	const json_t *v;	/* NULL: absent or null */
	const struct field *up;	/* NULL: the body itself */
	const char *key;	/* its name in up; NULL: item number index of up */
	size_t index;
	struct api_error *e;
};

struct field field_body(const json_t *body, struct api_error *e);
struct field field_get(const struct field *o, const char *key);	/* v NULL too when o is no object */
struct field field_at(const struct field *a, size_t i);
size_t field_count(const struct field *a);	/* items of an array, else 0 */

/* 400 with "path: " before the message and the path as param.  Always false. */
bool field_fail(const struct field *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "expected WHAT, found ..." */
bool field_wrong(const struct field *f, const char *what);
/* 400 "missing KEY". */
bool field_missing(const struct field *f);

bool field_text(const struct field *f, struct slice *out);
bool field_bool(const struct field *f, bool *out);
bool field_int(const struct field *f, int64_t low, int64_t high, int64_t *out);
bool field_number(const struct field *f, double low, double high, double *out);
bool field_array(const struct field *f);	/* is it one (or absent)? */
bool field_object(const struct field *f);

bool get_text(const struct field *o, const char *key, struct slice *out);
bool get_bool(const struct field *o, const char *key, bool *out);
bool get_int(const struct field *o, const char *key, int64_t low, int64_t high, int64_t *out);
bool get_number(const struct field *o, const char *key, double low, double high, double *out);

bool slice_is(struct slice s, const char *text);
/* Bytes of s that an error message shows: whole characters, at most 60. */
int slice_shown(struct slice s);
char *slice_copy(struct slice s);	/* NULL without memory, "" for an absent one */

#endif
