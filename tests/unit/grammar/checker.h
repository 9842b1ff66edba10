/* checker.h - a plain JSON Schema validator, written for these tests alone: it shares nothing with src/grammar. */
#ifndef TEST_GRAMMAR_CHECKER_H
#define TEST_GRAMMAR_CHECKER_H

#include <math.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

static bool valid(const json_t *root, const json_t *schema, const json_t *v);

static inline bool is_type(const char *name, const json_t *v)
{
	if (strcmp(name, "integer") == 0)
		return json_is_integer(v) || (json_is_real(v) && floor(json_real_value(v)) == json_real_value(v));
	return (strcmp(name, "null") == 0 && json_is_null(v)) || (strcmp(name, "boolean") == 0 && json_is_boolean(v)) ||
	       (strcmp(name, "number") == 0 && json_is_number(v)) || (strcmp(name, "string") == 0 && json_is_string(v)) ||
	       (strcmp(name, "array") == 0 && json_is_array(v)) || (strcmp(name, "object") == 0 && json_is_object(v));
}

static inline bool valid_type(const json_t *type, const json_t *v)
{
	bool ok = json_is_string(type) && is_type(json_string_value(type), v);

	for (size_t i = 0; i < json_array_size(type); i++)
		ok |= is_type(json_string_value(json_array_get(type, i)), v);
	return ok;
}

static inline const json_t *find_ref(const json_t *root, const char *p)
{
	char name[100];

	if (strcmp(p, "#") == 0)
		return root;
	assert_int_equal(sscanf(p, "#/$defs/%99s", name), 1);
	return json_object_get(json_object_get(root, "$defs"), name);
}

static inline size_t length(const json_t *v)
{
	size_t n = 0;

	for (const char *p = json_string_value(v); *p; p++)
		n += ((unsigned char)*p & 0xC0) != 0x80;
	return n;
}

static inline bool valid_pattern(const char *pattern, const char *text)
{
	regex_t r;
	int no;

	assert_int_equal(regcomp(&r, pattern, REG_EXTENDED | REG_NOSUB), 0);
	no = regexec(&r, text, 0, NULL, 0);
	regfree(&r);
	return !no;
}

static inline int count_valid(const json_t *root, const json_t *schemas, const json_t *v)
{
	int n = 0;

	for (size_t i = 0; i < json_array_size(schemas); i++)
		n += valid(root, json_array_get(schemas, i), v);
	return n;
}

static inline bool valid_object(const json_t *root, const json_t *s, const json_t *v)
{
	const json_t *properties = json_object_get(s, "properties"), *additional = json_object_get(s, "additionalProperties");
	const json_t *required = json_object_get(s, "required");
	const char *key;
	json_t *member;

	for (size_t i = 0; i < json_array_size(required); i++)
		if (!json_object_get(v, json_string_value(json_array_get(required, i))))
			return false;
	json_object_foreach((json_t *)v, key, member) {
		const json_t *p = json_object_get(properties, key);

		if (p ? !valid(root, p, member) : additional && !valid(root, additional, member))
			return false;
	}
	return true;
}

static inline bool valid_array(const json_t *root, const json_t *s, const json_t *v)
{
	const json_t *prefix = json_object_get(s, "prefixItems"), *items = json_object_get(s, "items"), *x;
	size_t n = json_array_size(v);

	if (((x = json_object_get(s, "minItems")) && n < (size_t)json_integer_value(x)) ||
	    ((x = json_object_get(s, "maxItems")) && n > (size_t)json_integer_value(x)))
		return false;
	for (size_t i = 0; i < n; i++) {
		const json_t *one = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;

		if (one && !valid(root, one, json_array_get(v, i)))
			return false;
	}
	return true;
}

static inline bool valid_scalar(const json_t *s, const json_t *v)
{
	const json_t *x;
	double d = json_number_value(v);

	if (json_is_number(v))
		return !((x = json_object_get(s, "minimum")) && d < json_number_value(x)) &&
		       !((x = json_object_get(s, "maximum")) && d > json_number_value(x)) &&
		       !((x = json_object_get(s, "exclusiveMinimum")) && d <= json_number_value(x)) &&
		       !((x = json_object_get(s, "exclusiveMaximum")) && d >= json_number_value(x));
	if (json_is_string(v))
		return !((x = json_object_get(s, "minLength")) && length(v) < (size_t)json_integer_value(x)) &&
		       !((x = json_object_get(s, "maxLength")) && length(v) > (size_t)json_integer_value(x)) &&
		       !((x = json_object_get(s, "pattern")) && !valid_pattern(json_string_value(x), json_string_value(v)));
	return true;
}

static bool valid(const json_t *root, const json_t *s, const json_t *v)
{
	const json_t *x;
	bool found = false;

	if (json_is_boolean(s))
		return json_is_true(s);
	if ((x = json_object_get(s, "$ref")) && !valid(root, find_ref(root, json_string_value(x)), v))
		return false;
	if ((x = json_object_get(s, "type")) && !valid_type(x, v))
		return false;
	if ((x = json_object_get(s, "const")) && !json_equal(x, v))
		return false;
	x = json_object_get(s, "enum");
	for (size_t i = 0; i < json_array_size(x); i++)
		found |= json_equal(json_array_get(x, i), v);
	if (x && !found)
		return false;
	if ((x = json_object_get(s, "anyOf")) && !count_valid(root, x, v))
		return false;
	if ((x = json_object_get(s, "oneOf")) && count_valid(root, x, v) != 1)
		return false;
	if ((x = json_object_get(s, "allOf")) && count_valid(root, x, v) != (int)json_array_size(x))
		return false;
	if (json_is_object(v))
		return valid_object(root, s, v);
	return json_is_array(v) ? valid_array(root, s, v) : valid_scalar(s, v);
}

#endif
