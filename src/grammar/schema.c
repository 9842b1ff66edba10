/* schema.c - schemas that hold together -> one spec: merging, references, choices.
 *
 * What  A value often has to satisfy several schemas at once: those of allOf, what a $ref names, what stands beside an
 *       anyOf.  They are merged keyword by keyword into a spec; every combination of choices gives a spec of its own.
 * Why   Refusing what a sampler could not guarantee is only possible when all that is said about a value is known.
 * How   One table of keywords.  A keyword that is not in it is refused by name and JSON pointer, never ignored.
 * Careful
 *       - oneOf means exactly one: it is accepted when the choices can be told apart, else it would need "not".
 *       - Two schemas with "additionalProperties": false exclude each other's properties; build.c looks at that.
 *       - References may go in circles; only those that never come to a keyword are refused here. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "grammar/grammar_int.h"

enum { MAX_REFERENCES = 64, MAX_CHOICES = 2000, MAX_PARTS = 200 };

struct merge {
	struct schema_context *x;
	struct spec *s;
	const json_t *schema, *value;
	const char *path;		/* of the schema */
	const char *key;
	int depth;
};

/* ------------------------------------------------------------------ paths and lists */

const char *path_join(struct schema_context *x, const char *path, const char *key)
{
	size_t n = path ? strlen(path) : 0;
	char *out = path ? grammar_alloc(x->g, n + 2 * strlen(key) + 2, 1) : NULL, *p;

	if (!out)
		return NULL;
	memcpy(out, path, n);
	p = out + n;
	*p++ = '/';
	for (; *key; key++) {
		if (*key == '~' || *key == '/') {
			*p++ = '~';
			*p++ = *key == '~' ? '0' : '1';
		} else {
			*p++ = *key;
		}
	}
	return out;
}

const char *path_index(struct schema_context *x, const char *path, size_t i)
{
	char number[24];

	snprintf(number, sizeof number, "%zu", i);
	return path_join(x, path, number);
}

bool schema_list_add(struct schema_context *x, struct schema_list *l, const json_t *schema, const char *path)
{
	if (!path)
		return false;
	if (l->n == l->room) {
		size_t room = l->room ? 2 * l->room : 4;
		struct schema_ref *p = grammar_alloc(x->g, room, sizeof *p);

		if (!p)
			return false;
		if (l->n)
			memcpy(p, l->ref, l->n * sizeof *p);
		l->ref = p;
		l->room = room;
	}
	l->ref[l->n++] = (struct schema_ref){schema, path};
	return true;
}

static enum status no_memory(struct schema_context *x)
{
	return err_set(x->err, ERR_MEMORY, "no memory for a schema");
}

/* ------------------------------------------------------------------ complaints */

static enum status expected(const struct merge *m, const char *what)
{
	return err_set(m->x->err, ERR_ARGUMENT, "%s/%s: expected %s", m->path, m->key, what);
}

static enum status unsupported(const struct merge *m, const char *why)
{
	return err_set(m->x->err, ERR_ARGUMENT, "unsupported keyword \"%.60s\" at %s/%.60s%s%s", m->key, m->path, m->key,
		       *why ? ": " : "", why);
}

/* ------------------------------------------------------------------ types and values */

static const struct {
	const char *name;
	unsigned bits;
} types[] = {
	{"null", TYPE_NULL},	 {"boolean", TYPE_BOOLEAN}, {"number", TYPE_NUMBER}, {"integer", TYPE_NUMBER},
	{"string", TYPE_STRING}, {"array", TYPE_ARRAY},	    {"object", TYPE_OBJECT},
};

static unsigned type_bits(const json_t *name, bool *integer, bool *number)
{
	for (size_t i = 0; json_is_text(name) && i < sizeof types / sizeof *types; i++) {
		if (strcmp(json_string_value(name), types[i].name) != 0)
			continue;
		*integer |= i == 3;
		*number |= i == 2;
		return types[i].bits;
	}
	return 0;
}

/* The types that a "type" allows; 0 = it is malformed. */
static unsigned read_types(const json_t *type, bool *integer)
{
	bool number = false;
	unsigned bits = 0, one;

	*integer = false;
	if (!json_is_array(type))
		return type_bits(type, integer, &number);
	for (size_t i = 0; i < json_array_size(type); i++) {
		one = type_bits(json_array_get(type, i), integer, &number);
		if (!one)
			return 0;
		bits |= one;
	}
	*integer &= !number;
	return bits;
}

static enum status merge_type(struct merge *m)
{
	bool integer;
	unsigned bits = read_types(m->value, &integer);

	if (!bits)
		return expected(m, "one or more of null, boolean, number, integer, string, array, object");
	m->s->types &= bits;
	m->s->integer |= integer;
	return OK;
}

static enum status keep_values(struct merge *m, json_t *values)
{
	json_t *both = json_array();

	for (size_t i = 0; both && m->s->values && i < json_array_size(m->s->values); i++)
		for (size_t k = 0; k < json_array_size(values); k++)
			if (json_equal(json_array_get(m->s->values, i), json_array_get(values, k))) {
				json_array_append(both, json_array_get(values, k));
				break;
			}
	if (!both)
		return no_memory(m->x);
	if (!m->s->values) {
		json_decref(both);
		both = json_incref(values);
	}
	json_decref(m->s->values);
	m->s->values = both;
	return OK;
}

static enum status merge_enum(struct merge *m)
{
	if (!json_is_array(m->value) || !json_array_size(m->value))
		return expected(m, "an array with at least one value");
	return keep_values(m, (json_t *)m->value);
}

static enum status merge_const(struct merge *m)
{
	json_t *one = json_array();
	enum status st;

	if (!one || json_array_append(one, (json_t *)m->value))
		st = no_memory(m->x);
	else
		st = keep_values(m, one);
	json_decref(one);
	return st;
}

/* ------------------------------------------------------------------ bounds */

static enum status read_count(const struct merge *m, uint32_t *out)
{
	double v = json_number_value(m->value);

	if (!json_is_number(m->value) || !(v >= 0) || v != floor(v))
		return expected(m, "an integer from 0 on");
	*out = v < 1e9 ? (uint32_t)v : 1000000000;
	return OK;
}

static enum status merge_min_count(struct merge *m)
{
	uint32_t *at = strcmp(m->key, "minLength") == 0 ? &m->s->min_length : &m->s->min_items, n = 0;

	TRY(read_count(m, &n));
	if (n > *at)
		*at = n;
	return OK;
}

static enum status merge_max_count(struct merge *m)
{
	uint32_t *at = strcmp(m->key, "maxLength") == 0 ? &m->s->max_length : &m->s->max_items, n = 0;

	TRY(read_count(m, &n));
	if (n < *at)
		*at = n;
	return OK;
}

static enum status merge_bound(struct merge *m)
{
	bool upper = strstr(m->key, "ax") != NULL, strict = m->key[0] == 'e';
	double v = json_number_value(m->value);
	struct spec *s = m->s;

	if (!json_is_number(m->value))
		return expected(m, "a number");
	if (json_is_integer(m->value) && fabs(v) > 0x1p53)
		v = nextafter(v, upper ? -INFINITY : INFINITY);		/* it was rounded */
	s->bound_path = m->path;
	if (upper && (!s->has_maximum || v < s->maximum || (v == s->maximum && strict))) {
		s->below = strict;
		s->maximum = v;
	}
	if (!upper && (!s->has_minimum || v > s->minimum || (v == s->minimum && strict))) {
		s->above = strict;
		s->minimum = v;
	}
	s->has_maximum |= upper;
	s->has_minimum |= !upper;
	return OK;
}

static enum status merge_multiple(struct merge *m)
{
	if (json_number_value(m->value) != 1)
		return unsupported(m, "only 1 can be guaranteed");
	m->s->integer = true;
	return OK;
}

/* ------------------------------------------------------------------ strings */

static enum status add_pattern(struct merge *m, const char *pattern)
{
	if (m->s->n_pattern == (int)(sizeof m->s->pattern / sizeof *m->s->pattern))
		return unsupported(m, "too many patterns for one string");
	m->s->pattern[m->s->n_pattern++] = pattern;
	return OK;
}

static enum status merge_pattern(struct merge *m)
{
	if (!json_is_text(m->value) || strlen(json_string_value(m->value)) != json_string_length(m->value))
		return expected(m, "a string");
	return add_pattern(m, json_string_value(m->value));
}

#define DATE "(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8])))"
#define TIME "(([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d))"
#define BYTE "(\\d|[1-9]\\d|1\\d\\d|2[0-4]\\d|25[0-5])"
#define LABEL "([A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?)"

/* Parts of what a format allows; a 29 February is left out since it would need to know the year. */
static const struct {
	const char *name, *pattern;
} formats[] = {
	{"date", "^" DATE "$"},
	{"time", "^" TIME "$"},
	{"date-time", "^" DATE "T" TIME "$"},
	{"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
	{"email", "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,16}){0,3}@" LABEL "(\\." LABEL "){1,3}$"},
	{"hostname", "^" LABEL "(\\." LABEL "){0,5}$"},
	{"ipv4", "^" BYTE "\\." BYTE "\\." BYTE "\\." BYTE "$"},
	{"uri", "^https?://" LABEL "(\\." LABEL "){0,4}(:[1-9]\\d{0,3})?"
		"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})*)*"
		"(\\?([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-F]{2})*)?(#([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-F]{2})*)?$"},
	{"int32", NULL}, {"int64", NULL}, {"float", NULL}, {"double", NULL},	/* notes of generators, about numbers */
};

static enum status merge_format(struct merge *m)
{
	char why[200] = "supported are";

	if (!json_is_text(m->value))
		return expected(m, "a string");
	for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
		if (strcmp(json_string_value(m->value), formats[i].name) == 0)
			return formats[i].pattern ? add_pattern(m, formats[i].pattern) : OK;
		if (formats[i].pattern)
			snprintf(why + strlen(why), sizeof why - strlen(why), " %s", formats[i].name);
	}
	return unsupported(m, why);
}

/* ------------------------------------------------------------------ objects and arrays */

static enum status add_part(struct merge *m, struct schema_list *l)
{
	if (l->n && l->ref[l->n - 1].schema == m->schema)
		return OK;
	if (l->n == MAX_PARTS)
		return unsupported(m, "too many schemas for one value");
	return schema_list_add(m->x, l, m->schema, m->path) ? OK : no_memory(m->x);
}

static bool is_schema(const json_t *v)
{
	return json_is_object(v) || json_is_boolean(v);
}

static enum status merge_properties(struct merge *m)
{
	const char *name;
	json_t *v;

	if (!json_is_object(m->value))
		return expected(m, "an object");
	json_object_foreach((json_t *)m->value, name, v)
		if (!is_schema(v))
			return err_set(m->x->err, ERR_ARGUMENT, "%s/properties/%.60s: expected a schema", m->path, name);
	return add_part(m, &m->s->objects);
}

static enum status merge_additional(struct merge *m)
{
	return is_schema(m->value) ? add_part(m, &m->s->objects) : expected(m, "a schema");
}

/* Names of members are strings: only what says more than that could be broken. */
static enum status merge_names(struct merge *m)
{
	const json_t *type = json_object_get(m->value, "type");
	bool any = json_is_true(m->value) || (json_is_object(m->value) && json_object_size(m->value) == (type != NULL));

	if (!any || (type && (!json_is_text(type) || strcmp(json_string_value(type), "string") != 0)))
		return unsupported(m, "only {\"type\": \"string\"} can be guaranteed");
	return OK;
}

static enum status merge_required(struct merge *m)
{
	if (!json_is_array(m->value))
		return expected(m, "an array of names");
	for (size_t i = 0; i < json_array_size(m->value); i++) {
		const json_t *name = json_array_get(m->value, i);

		if (!json_is_text(name) || strlen(json_string_value(name)) != json_string_length(name))
			return expected(m, "an array of names");
		if (json_object_set_new(m->s->required, json_string_value(name), json_true()))
			return no_memory(m->x);
	}
	return OK;
}

static enum status merge_items(struct merge *m)
{
	return is_schema(m->value) ? add_part(m, &m->s->arrays) : expected(m, "a schema");
}

static enum status merge_prefix(struct merge *m)
{
	if (!json_is_array(m->value))
		return expected(m, "an array of schemas");
	for (size_t i = 0; i < json_array_size(m->value); i++)
		if (!is_schema(json_array_get(m->value, i)))
			return expected(m, "an array of schemas");
	return add_part(m, &m->s->arrays);
}

static enum status merge_false_only(struct merge *m)
{
	return json_is_false(m->value) ? OK : unsupported(m, "");
}

/* ------------------------------------------------------------------ combinations */

static enum status merge_schema(struct schema_context *x, struct spec *s, const json_t *schema, const char *path, int depth);

static enum status check_schemas(struct merge *m)
{
	if (!json_is_array(m->value) || !json_array_size(m->value))
		return expected(m, "an array with at least one schema");
	for (size_t i = 0; i < json_array_size(m->value); i++)
		if (!is_schema(json_array_get(m->value, i)))
			return expected(m, "an array with at least one schema");
	return OK;
}

static enum status merge_all(struct merge *m)
{
	const char *path = path_join(m->x, m->path, m->key);

	TRY(check_schemas(m));
	for (size_t i = 0; path && i < json_array_size(m->value); i++)
		TRY(merge_schema(m->x, m->s, json_array_get(m->value, i), path_index(m->x, path, i), m->depth + 1));
	return path ? OK : no_memory(m->x);
}

static enum status merge_any(struct merge *m)
{
	TRY(check_schemas(m));
	return schema_list_add(m->x, &m->s->choices, m->value, path_join(m->x, m->path, m->key)) ? OK : no_memory(m->x);
}

/* What a JSON pointer names, NULL if there is nothing. */
static const json_t *look_up(const json_t *root, const char *pointer)
{
	const json_t *at = root;
	char key[512];

	if (pointer[0] != '#')
		return NULL;
	for (pointer++; *pointer == '/' && at;) {
		size_t n = 0;

		for (pointer++; *pointer && *pointer != '/' && n < sizeof key - 1; pointer++) {
			if (*pointer == '~' && (pointer[1] == '0' || pointer[1] == '1'))
				key[n++] = *++pointer == '0' ? '~' : '/';
			else
				key[n++] = *pointer;
		}
		key[n] = 0;
		if (json_is_array(at))
			at = json_array_get(at, (size_t)strtoul(key, NULL, 10));
		else
			at = json_object_get(at, key);
	}
	return *pointer ? NULL : at;
}

static enum status merge_ref(struct merge *m)
{
	const json_t *target;

	if (!json_is_text(m->value))
		return expected(m, "a JSON pointer");
	target = look_up(m->x->root, json_string_value(m->value));
	if (!target)
		return err_set(m->x->err, ERR_ARGUMENT, "%s/$ref: \"%.100s\" is nowhere in this schema", m->path,
			       json_string_value(m->value));
	return merge_schema(m->x, m->s, target, m->path, m->depth + 1);
}

/* ------------------------------------------------------------------ can two schemas hold at once? */

static const json_t *resolved(struct schema_context *x, const json_t *schema)
{
	for (int i = 0; i < MAX_REFERENCES && json_is_text(json_object_get(schema, "$ref")); i++)
		schema = look_up(x->root, json_string_value(json_object_get(schema, "$ref")));
	return schema;
}

static unsigned types_of_value(const json_t *v)
{
	if (json_is_object(v))
		return TYPE_OBJECT;
	if (json_is_array(v))
		return TYPE_ARRAY;
	if (json_is_boolean(v))
		return TYPE_BOOLEAN;
	if (json_is_null(v))
		return TYPE_NULL;
	return json_is_text(v) ? TYPE_STRING : TYPE_NUMBER;
}

/* The types that a schema's own keywords leave. */
static unsigned types_of(const json_t *schema)
{
	const json_t *values = json_object_get(schema, "enum"), *type = json_object_get(schema, "type");
	unsigned bits = TYPE_ANY, all = 0;
	bool integer;

	if (json_is_false(schema))
		return 0;
	if (json_object_get(schema, "const"))
		bits = types_of_value(json_object_get(schema, "const"));
	for (size_t i = 0; i < json_array_size(values); i++)
		all |= types_of_value(json_array_get(values, i));
	return bits & (all ? all : TYPE_ANY) & (type ? read_types(type, &integer) : TYPE_ANY);
}

static bool may_be(const json_t *schema, const json_t *value)
{
	const json_t *one = json_object_get(schema, "const"), *values = json_object_get(schema, "enum");
	bool found = !values;

	for (size_t i = 0; i < json_array_size(values); i++)
		found |= json_equal(json_array_get(values, i), value);
	return found && (!one || json_equal(one, value));
}

/* Every value that one lists is not among the other's. */
static bool values_differ(const json_t *a, const json_t *b)
{
	const json_t *one = json_object_get(a, "const"), *values = json_object_get(a, "enum");
	bool numbers = types_of(a) & types_of(b) & TYPE_NUMBER;	/* 1 and 1.0 are equal, but not to json_equal() */

	if ((!one && !values) || (!json_object_get(b, "const") && !json_object_get(b, "enum")) || numbers)
		return false;
	if (one)
		return !may_be(b, one);
	for (size_t i = 0; i < json_array_size(values); i++)
		if (may_be(b, json_array_get(values, i)))
			return false;
	return true;
}

static bool requires(const json_t *schema, const char *name)
{
	const json_t *required = json_object_get(schema, "required");

	for (size_t i = 0; i < json_array_size(required); i++)
		if (json_is_text(json_array_get(required, i)) &&
		    strcmp(json_string_value(json_array_get(required, i)), name) == 0)
			return true;
	return false;
}

static bool apart(struct schema_context *x, const json_t *a, const json_t *b, int depth)
{
	const char *name;
	json_t *v;

	a = resolved(x, a);
	b = resolved(x, b);
	if (!(types_of(a) & types_of(b)) || values_differ(a, b))
		return true;
	if (depth > 4 || types_of(a) != TYPE_OBJECT || types_of(b) != TYPE_OBJECT)
		return false;
	json_object_foreach(json_object_get(a, "properties"), name, v) {
		json_t *w = json_object_get(json_object_get(b, "properties"), name);

		if (w && requires(a, name) && requires(b, name) && apart(x, v, w, depth + 1))
			return true;
	}
	return false;
}

static enum status merge_one(struct merge *m)
{
	TRY(check_schemas(m));
	for (size_t i = 0; i < json_array_size(m->value); i++)
		for (size_t k = 0; k < i; k++)
			if (!apart(m->x, json_array_get(m->value, i), json_array_get(m->value, k), 0))
				return unsupported(m, "the choices cannot be told apart by type, const, enum or a "
						      "required property with different values; use anyOf");
	return merge_any(m);
}

/* ------------------------------------------------------------------ the table */

static const struct {
	const char *key;
	enum status (*merge)(struct merge *m);	/* NULL: says nothing about values */
} keywords[] = {
	{"type", merge_type}, {"enum", merge_enum}, {"const", merge_const}, {"properties", merge_properties},
	{"required", merge_required}, {"additionalProperties", merge_additional}, {"items", merge_items},
	{"prefixItems", merge_prefix}, {"minItems", merge_min_count}, {"maxItems", merge_max_count},
	{"minLength", merge_min_count}, {"maxLength", merge_max_count}, {"pattern", merge_pattern},
	{"format", merge_format}, {"minimum", merge_bound}, {"maximum", merge_bound}, {"exclusiveMinimum", merge_bound},
	{"exclusiveMaximum", merge_bound}, {"multipleOf", merge_multiple}, {"anyOf", merge_any}, {"oneOf", merge_one},
	{"propertyNames", merge_names}, {"allOf", merge_all}, {"$ref", merge_ref}, {"uniqueItems", merge_false_only},
	{"title", NULL}, {"description", NULL}, {"default", NULL}, {"examples", NULL}, {"example", NULL},
	{"deprecated", NULL}, {"readOnly", NULL}, {"writeOnly", NULL}, {"$schema", NULL}, {"$id", NULL}, {"id", NULL},
	{"$comment", NULL}, {"$defs", NULL}, {"definitions", NULL}, {"contentEncoding", NULL},
	{"contentMediaType", NULL}, {"discriminator", NULL},
};

static enum status merge_keyword(struct merge *m)
{
	for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
		if (strcmp(m->key, keywords[i].key) == 0)
			return keywords[i].merge ? keywords[i].merge(m) : OK;
	if (strncmp(m->key, "x-", 2) == 0)
		return OK;
	return unsupported(m, "");
}

static enum status merge_schema(struct schema_context *x, struct spec *s, const json_t *schema, const char *path, int depth)
{
	struct merge m = {.x = x, .s = s, .schema = schema, .path = path, .depth = depth};
	json_t *value;

	if (!path)
		return no_memory(x);
	if (depth > MAX_REFERENCES)
		return err_set(x->err, ERR_ARGUMENT, "%.200s: the schema refers to itself without end", path);
	if (json_is_false(schema))
		s->types = 0;
	if (json_is_boolean(schema))
		return OK;
	if (!json_is_object(schema))
		return err_set(x->err, ERR_ARGUMENT, "%.200s: expected a schema", path);
	json_object_foreach((json_t *)schema, m.key, value) {
		m.value = value;
		TRY(merge_keyword(&m));
	}
	return OK;
}

/* ------------------------------------------------------------------ choices */

static bool copy_list(struct schema_context *x, struct schema_list *l)
{
	struct schema_list copy = {0};

	for (size_t i = 0; i < l->n; i++)
		if (!schema_list_add(x, &copy, l->ref[i].schema, l->ref[i].path))
			return false;
	*l = copy;
	return true;
}

static bool spec_copy(struct schema_context *x, struct spec *out, const struct spec *s)
{
	*out = *s;
	out->values = json_incref(s->values);
	out->required = json_copy(s->required);
	return out->required && copy_list(x, &out->objects) && copy_list(x, &out->arrays) && copy_list(x, &out->choices);
}

static void spec_clear(struct spec *s)
{
	json_decref(s->values);
	json_decref(s->required);
}

struct expansion {
	struct schema_context *x;
	enum status (*done)(void *ctx, struct spec *s);
	void *ctx;
	int n;
};

static enum status decide(struct expansion *e, struct spec *s, int depth)
{
	struct schema_ref choice;
	enum status st = OK;

	if (!s->choices.n)
		return e->done(e->ctx, s);
	if (depth > MAX_REFERENCES)
		return err_set(e->x->err, ERR_ARGUMENT, "%.200s: the schema refers to itself without end", s->path);
	choice = s->choices.ref[--s->choices.n];
	for (size_t i = 0; i < json_array_size(choice.schema) && st == OK; i++) {
		struct spec one;

		if (++e->n > MAX_CHOICES)
			return err_set(e->x->err, ERR_ARGUMENT, "%.200s: more than %d combinations of choices", s->path,
				       MAX_CHOICES);
		if (!spec_copy(e->x, &one, s))
			st = no_memory(e->x);
		else
			st = merge_schema(e->x, &one, json_array_get(choice.schema, i), path_index(e->x, choice.path, i), 0);
		if (st == OK && one.types)
			st = decide(e, &one, depth + 1);
		spec_clear(&one);
	}
	return st;
}

enum status schema_expand(struct schema_context *x, const struct schema_list *list,
			  enum status (*done)(void *ctx, struct spec *s), void *ctx)
{
	struct expansion e = {x, done, ctx, 0};
	struct spec s = {.types = TYPE_ANY, .required = json_object(), .max_length = UINT32_MAX, .max_items = UINT32_MAX,
			 .path = list->n ? list->ref[0].path : x->root_path};
	enum status st = s.required ? OK : no_memory(x);

	for (size_t i = 0; i < list->n && st == OK; i++)
		st = merge_schema(x, &s, list->ref[i].schema, list->ref[i].path, 0);
	if (st == OK && s.types)
		st = decide(&e, &s, 0);
	spec_clear(&s);
	return st;
}
