/* json.c - reads JSON into Jansson values.
 *
 * What  A recursive reader and one trick: a number that no Jansson value can hold (an integer beyond 64
 *       bits, a real beyond a double) is a string whose first byte is JSON_TAG.
 * Why   Jansson's own reader refuses big integers and lone surrogates, and clients send both.
 * How   Text read here is always well-formed UTF-8, and the tag (0xFF) never occurs in UTF-8: no string of
 *       a client can pass for a tagged number.
 * Careful
 *       - json_is_string() is true for tagged numbers: ask json_is_text().
 *       - strtod follows the locale's decimal point: to_double() does not. */
#include "base/json.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

struct reader {
	const char *text;
	size_t n, at;
	unsigned depth;
	struct err *err;
};

static bool is_digit(int c)
{
	return c >= '0' && c <= '9';
}

/* The byte at the cursor, -1 at the end. */
static int peek(const struct reader *r)
{
	return r->at < r->n ? (unsigned char)r->text[r->at] : -1;
}

static bool take(struct reader *r, char c)
{
	if (peek(r) != (unsigned char)c)
		return false;
	r->at++;
	return true;
}

static void skip_space(struct reader *r)
{
	while (peek(r) == ' ' || peek(r) == '\t' || peek(r) == '\n' || peek(r) == '\r')
		r->at++;
}

/* Says what was expected at the cursor and what stands there; always false, so that a caller can return it. */
static bool expected(struct reader *r, const char *what)
{
	size_t line = 1, column = 1;
	int c = peek(r);
	char found[16];

	for (size_t i = 0; i < r->at && i < r->n; i++) {
		column++;
		if (r->text[i] == '\n') {
			line++;
			column = 1;
		}
	}
	if (c < 0)
		snprintf(found, sizeof found, "the end");
	else if (c > 0x20 && c < 0x7F)
		snprintf(found, sizeof found, "'%c'", c);
	else
		snprintf(found, sizeof found, "byte 0x%02x", (unsigned)c);
	err_set(r->err, ERR_ARGUMENT, "JSON line %zu column %zu: expected %s, found %s", line, column, what,
		found);
	return false;
}

static bool no_memory(struct reader *r)
{
	err_set(r->err, ERR_MEMORY, "JSON: no memory for a text of %zu bytes", r->n);
	return false;
}

/* Four hexadecimal digits after \u. */
static bool read_hex4(struct reader *r, uint32_t *v)
{
	*v = 0;
	for (int i = 0; i < 4; i++, r->at++) {
		int c = peek(r);

		if (is_digit(c))
			*v = *v * 16 + (uint32_t)(c - '0');
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			*v = *v * 16 + (uint32_t)((c | 32) - 'a' + 10);
		else
			return expected(r, "four hexadecimal digits after \\u");
	}
	return true;
}

/* One \u escape, or a pair of them; a surrogate without its partner reads as U+FFFD. */
static bool read_unicode_escape(struct reader *r, struct buf *out)
{
	uint32_t cp, low;
	size_t second;
	char bytes[4];

	if (!read_hex4(r, &cp))
		return false;
	if (cp >= 0xD800 && cp <= 0xDFFF) {
		second = r->at;
		if (cp <= 0xDBFF && take(r, '\\') && take(r, 'u')) {
			if (!read_hex4(r, &low))
				return false;
			if (low >= 0xDC00 && low <= 0xDFFF) {
				cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
				second = r->at;
			}
		}
		r->at = second;	/* what is no low surrogate is read again on its own */
		if (cp < 0x10000)
			cp = UTF8_BAD;
	}
	buf_add(out, bytes, utf8_encode(cp, bytes));
	return true;
}

static bool read_escape(struct reader *r, struct buf *out)
{
	static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
	int c = peek(r);
	const char *p = c > 0 ? strchr(letters, c) : NULL;

	if (c == 'u') {
		r->at++;
		return read_unicode_escape(r, out);
	}
	if (!p)
		return expected(r, "one of \"\\/bfnrtu after a backslash");
	buf_byte(out, bytes[p - letters]);
	r->at++;
	return true;
}

/* The rest of a string whose opening quote has been read. */
static bool read_string(struct reader *r, struct buf *out)
{
	for (;;) {
		size_t start = r->at;
		int c;

		while ((c = peek(r)) >= 0x20 && c != '"' && c != '\\')
			r->at++;
		utf8_add_lossy(out, r->text + start, r->at - start);
		if (c < 0x20)
			return expected(r, c < 0 ? "the closing quote of a string"
						 : "no control character in a string");
		r->at++;
		if (c == '"')
			break;
		if (!read_escape(r, out))
			return false;
	}
	if (!buf_ok(out))
		no_memory(r);
	return buf_ok(out);
}

/* strtod for text with '.', whatever the locale's decimal point is. */
static double to_double(const char *text)
{
	const char *point = localeconv()->decimal_point, *dot = strchr(text, '.');
	struct buf b = BUF_CAP(BUF_MAX);
	double v;

	if (!dot || strcmp(point, ".") == 0)
		return strtod(text, NULL);
	buf_add(&b, text, (size_t)(dot - text));
	buf_str(&b, point);
	buf_str(&b, dot + 1);
	v = strtod(buf_cstr(&b), NULL);
	buf_clear(&b);
	return v;
}

static json_t *tagged(const char *text)
{
	struct buf b = BUF_CAP(BUF_MAX);
	json_t *v;

	buf_byte(&b, JSON_TAG);
	buf_str(&b, text);
	v = buf_ok(&b) ? json_stringn_nocheck(b.data, b.len) : NULL;
	buf_clear(&b);
	return v;
}

/* The value of a number's text, already checked against the grammar. */
static json_t *number_value(const char *text, bool real)
{
	long long i;
	double d;

	if (real) {
		d = to_double(text);
		if (isinf(d))
			return tagged(d > 0 ? "Infinity" : "-Infinity");
		return json_real(d);
	}
	errno = 0;
	i = strtoll(text, NULL, 10);
	return errno == ERANGE ? tagged(text) : json_integer(i);
}

static bool read_digits(struct reader *r)
{
	if (!is_digit(peek(r)))
		return expected(r, "a digit");
	while (is_digit(peek(r)))
		r->at++;
	return true;
}

static json_t *read_number(struct reader *r)
{
	size_t start = r->at;
	bool real = false;
	char *text;
	json_t *v;

	take(r, '-');
	if (!take(r, '0') && !read_digits(r))
		return NULL;
	if (take(r, '.')) {
		real = true;
		if (!read_digits(r))
			return NULL;
	}
	if (take(r, 'e') || take(r, 'E')) {
		real = true;
		if (!take(r, '+'))
			take(r, '-');
		if (!read_digits(r))
			return NULL;
	}
	text = mem_strn(r->text + start, r->at - start);
	v = text ? number_value(text, real) : NULL;
	mem_free(text);
	if (!v)
		no_memory(r);
	return v;
}

static json_t *read_value(struct reader *r);

static json_t *read_array(struct reader *r)
{
	json_t *a = json_array(), *v;

	if (!a)
		goto no_memory;
	skip_space(r);
	if (take(r, ']'))
		return a;
	do {
		v = read_value(r);
		if (!v)
			goto fail;
		if (json_array_append_new(a, v))
			goto no_memory;
		skip_space(r);
	} while (take(r, ','));
	if (take(r, ']'))
		return a;
	expected(r, "',' or ']' in an array");
	goto fail;
no_memory:
	no_memory(r);
fail:
	json_decref(a);
	return NULL;
}

/* "name": value, added to o. */
static bool read_member(struct reader *r, json_t *o)
{
	struct buf name = BUF_CAP(BUF_MAX);
	json_t *v = NULL;
	bool done = false;

	skip_space(r);
	if (!take(r, '"')) {
		expected(r, "a member name in quotes");
		goto out;
	}
	if (!read_string(r, &name))
		goto out;
	if (strlen(buf_cstr(&name)) != name.len) {
		expected(r, "a member name without U+0000 before this");
		goto out;
	}
	skip_space(r);
	if (!take(r, ':')) {
		expected(r, "':' after a member name");
		goto out;
	}
	v = read_value(r);
	if (!v)
		goto out;
	done = json_object_set_new_nocheck(o, buf_cstr(&name), v) == 0;
	if (!done)
		no_memory(r);
out:
	buf_clear(&name);
	return done;
}

static json_t *read_object(struct reader *r)
{
	json_t *o = json_object();

	if (!o) {
		no_memory(r);
		return NULL;
	}
	skip_space(r);
	if (take(r, '}'))
		return o;
	do {
		if (!read_member(r, o))
			goto fail;
		skip_space(r);
	} while (take(r, ','));
	if (take(r, '}'))
		return o;
	expected(r, "',' or '}' in an object");
fail:
	json_decref(o);
	return NULL;
}

static json_t *read_text(struct reader *r)
{
	struct buf b = BUF_CAP(BUF_MAX);
	json_t *v = NULL;

	if (read_string(r, &b)) {
		v = json_stringn_nocheck(buf_cstr(&b), b.len);
		if (!v)
			no_memory(r);
	}
	buf_clear(&b);
	return v;
}

static json_t *read_word(struct reader *r, const char *word, json_t *v)
{
	size_t n = strlen(word);

	if (r->n - r->at < n || memcmp(r->text + r->at, word, n)) {
		expected(r, "a JSON value");
		return NULL;
	}
	r->at += n;
	return v;
}

static json_t *read_value(struct reader *r)
{
	json_t *v;
	int c;

	skip_space(r);
	c = peek(r);
	if (c == '{' || c == '[') {
		if (r->depth == JSON_MAX_DEPTH) {
			err_set(r->err, ERR_ARGUMENT, "JSON: expected at most %d levels, found more",
				JSON_MAX_DEPTH);
			return NULL;
		}
		r->at++;
		r->depth++;
		v = c == '{' ? read_object(r) : read_array(r);
		r->depth--;
		return v;
	}
	if (take(r, '"'))
		return read_text(r);
	if (c == '-' || is_digit(c))
		return read_number(r);
	if (c == 't')
		return read_word(r, "true", json_true());
	if (c == 'f')
		return read_word(r, "false", json_false());
	return read_word(r, "null", json_null());
}

json_t *json_parse(const char *text, size_t n, struct err *err)
{
	struct reader r = {.text = text, .n = n, .err = err};
	json_t *v = read_value(&r);

	if (!v)
		return NULL;
	skip_space(&r);
	if (r.at == n)
		return v;
	json_decref(v);
	expected(&r, "nothing after the value");
	return NULL;
}

bool json_is_big_integer(const json_t *v)
{
	const char *s = json_is_string(v) ? json_string_value(v) : "";

	return s[0] == JSON_TAG && s[strlen(s) - 1] != 'y';	/* not [-]Infinity */
}

bool json_is_text(const json_t *v)
{
	return json_is_string(v) && json_string_value(v)[0] != JSON_TAG;
}

const char *json_get_text(const json_t *o, const char *key, size_t *n)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_text(v))
		return NULL;
	*n = json_string_length(v);
	return json_string_value(v);
}
