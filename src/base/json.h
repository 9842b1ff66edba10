/* json.h - JSON in Jansson's values, with the exactness the prompt format needs.
 *
 * Differences from plain Jansson, all handled here:
 *   - integers of any length keep their digits (kept as tagged strings, written back as numbers); a real
 *     beyond the range of a double is kept likewise and written Infinity, as Python does;
 *   - lone surrogates (\ud83d) and ill-formed UTF-8 become U+FFFD instead of an error; \u0000 is allowed
 *     in values (in a member name it is an error);
 *   - a repeated member name: the last value, at the place of the first;
 *   - json_write_python() writes what Python's json.dumps(x, ensure_ascii=False) writes, byte for byte
 *     (separators ", " and ": ", shortest round-trip reals in repr form): tool schemas enter prompts so. */
#ifndef DS4_BASE_JSON_H
#define DS4_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/status.h"

#define JSON_MAX_DEPTH 512	/* arrays and objects inside each other */
#define JSON_TAG '\xFF'		/* first byte of a tagged number; no UTF-8 text has it */

/* Parses exactly one value (any type at the top).  NULL on failure with err: line, column, what was wrong. */
json_t *json_parse(const char *text, size_t n, struct err *err);

/* Appends v as Python's json.dumps(v, ensure_ascii=False) would print it. */
void json_write_python(struct buf *out, const json_t *v);

/* Appends s[0..n) as a JSON string with quotes, escaping only ", \ and U+0000..1F.  json_write_escaped is
 * the same without the quotes: the pieces of a string that arrives in parts. */
void json_write_string(struct buf *out, const char *s, size_t n);
void json_write_escaped(struct buf *out, const char *s, size_t n);

/* Is v an integer (of any length)?  Tagged big integers are strings to Jansson: ask here, not json_is_string. */
bool json_is_big_integer(const json_t *v);
bool json_is_text(const json_t *v);	/* a string, and not a big integer */

/* Member access that never fails: NULL when o is not an object or has no such member. */
const char *json_get_text(const json_t *o, const char *key, size_t *n);	/* NULL unless a string */

#endif
