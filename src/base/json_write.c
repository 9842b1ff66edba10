/* json_write.c - writes JSON as Python's json.dumps(x, ensure_ascii=False) does, byte for byte.
 *
 * Why   Tool schemas and arguments enter prompts in this form, so every digit and separator becomes tokens
 *       that the model was trained on.
 * Careful
 *       - json_dumps() refuses tagged numbers (json.c): write with json_write_python() only.
 *       - printf follows the locale's decimal point: only the digits of its output are used. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void json_write_escaped(struct buf *out, const char *s, size_t n)
{
	size_t start = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];
		const char *p;

		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		buf_add(out, s + start, i - start);
		start = i + 1;
		p = c ? strchr("\"\"\\\\\bb\ff\nn\rr\tt", c) : NULL;	/* byte, then its letter */
		if (p)
			buf_printf(out, "\\%c", p[1]);
		else
			buf_printf(out, "\\u%04x", c);
	}
	buf_add(out, s + start, n - start);
}

void json_write_string(struct buf *out, const char *s, size_t n)
{
	buf_byte(out, '"');
	json_write_escaped(out, s, n);
	buf_byte(out, '"');
}

/* Writes the fewest digits that read back as v, as d.ddde-xx (the form of %e).
 * Doubles lie twice as dense below a power of two as above it, so there the nearest text of some length
 * may miss v while the next one up still reads back as v. */
static void shortest(char text[40], double v)
{
	for (int places = 0; places < 17; places++) {
		char *last;

		snprintf(text, 40, "%.*e", places, v);
		if (strtod(text, NULL) == v)
			return;
		last = strchr(text, 'e') - 1;
		if (*last != '9') {
			++*last;
			if (strtod(text, NULL) == v)
				return;
		}
	}
}

/* Python's repr of a double: an exponent when it is below -4 or above 15, and never without ".0" or one. */
static void write_real(struct buf *out, double v)
{
	char text[40], digits[24];
	size_t n = 0;
	int exponent;

	if (isinf(v) || isnan(v)) {
		buf_str(out, isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity");
		return;
	}
	shortest(text, v);
	exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
	for (const char *p = text; *p != 'e'; p++)	/* drops sign and decimal point */
		if (*p >= '0' && *p <= '9')
			digits[n++] = *p;
	if (signbit(v))
		buf_byte(out, '-');
	if (exponent < -4 || exponent >= 16) {
		buf_byte(out, digits[0]);
		if (n > 1)
			buf_byte(out, '.');
		buf_add(out, digits + 1, n - 1);
		buf_printf(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
	} else if (exponent < 0) {
		buf_str(out, "0.");
		for (int i = exponent + 1; i < 0; i++)
			buf_byte(out, '0');
		buf_add(out, digits, n);
	} else {
		for (int i = 0; i <= exponent; i++)
			buf_byte(out, (size_t)i < n ? digits[i] : '0');
		buf_byte(out, '.');
		if (n > (size_t)exponent + 1)
			buf_add(out, digits + exponent + 1, n - (size_t)exponent - 1);
		else
			buf_byte(out, '0');
	}
}

static void write_object(struct buf *out, const json_t *o)
{
	const char *between = "";
	json_t *members = (json_t *)o;	/* Jansson's iterators are not const */

	buf_byte(out, '{');
	for (void *i = json_object_iter(members); i; i = json_object_iter_next(members, i)) {
		const char *name = json_object_iter_key(i);

		buf_str(out, between);
		json_write_string(out, name, strlen(name));
		buf_str(out, ": ");
		json_write_python(out, json_object_iter_value(i));
		between = ", ";
	}
	buf_byte(out, '}');
}

static void write_array(struct buf *out, const json_t *a)
{
	buf_byte(out, '[');
	for (size_t i = 0; i < json_array_size(a); i++) {
		buf_str(out, i ? ", " : "");
		json_write_python(out, json_array_get(a, i));
	}
	buf_byte(out, ']');
}

void json_write_python(struct buf *out, const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		write_object(out, v);
		break;
	case JSON_ARRAY:
		write_array(out, v);
		break;
	case JSON_STRING:
		if (json_is_text(v))
			json_write_string(out, json_string_value(v), json_string_length(v));
		else
			buf_str(out, json_string_value(v) + 1);
		break;
	case JSON_INTEGER:
		buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
		break;
	case JSON_REAL:
		write_real(out, json_real_value(v));
		break;
	case JSON_TRUE:
		buf_str(out, "true");
		break;
	case JSON_FALSE:
		buf_str(out, "false");
		break;
	case JSON_NULL:
		buf_str(out, "null");
		break;
	}
}
