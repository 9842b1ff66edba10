/* grammar_test.c - what a schema lets through: single cases, and random schemas with random texts against a validator. */
#include "unit/grammar/checker.h"

#include <locale.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "grammar/grammar.h"

static struct grammar *compile(const char *schema)
{
	json_t *j = json_parse(schema, strlen(schema), NULL);
	struct grammar_options o = {.schema = j};
	struct err err = {0};
	struct grammar *g;

	if (!j)
		fail_msg("no JSON: %s", schema);
	if (grammar_new(&g, &o, &err) != OK)
		fail_msg("%s: %s", schema, err.msg);
	json_decref(j);
	return g;
}

static bool takes(const char *schema, const char *text)
{
	struct grammar *g = compile(schema);
	struct matcher *m = matcher_new(g);
	bool ok = matcher_push(m, text, strlen(text)) && matcher_complete(m);

	assert_true(matcher_ok(m));
	matcher_free(m);
	grammar_free(g);
	return ok;
}

static void assert_takes(const char *schema, const char *text)
{
	if (!takes(schema, text))
		fail_msg("%s should take %s", schema, text);
}

static void assert_refuses(const char *schema, const char *text)
{
	if (takes(schema, text))
		fail_msg("%s should not take %s", schema, text);
}

static void assert_unsupported(const char *schema, const char *words)
{
	json_t *j = json_parse(schema, strlen(schema), NULL);
	struct grammar_options o = {.schema = j};
	struct grammar *g;
	struct err err = {0};

	if (grammar_new(&g, &o, &err) != ERR_ARGUMENT)
		fail_msg("%s should be refused", schema);
	if (!strstr(err.msg, words))
		fail_msg("expected \"%s\" in: %s", words, err.msg);
	assert_null(g);
	json_decref(j);
}

static void any_object_is_any_json_object(void **state)
{
	const char *s = "{\"type\":\"object\"}";

	(void)state;
	assert_takes(s, "{}");
	assert_takes(s, "{\"a\": [1, -2.5e+3, \"x\\u00e9\\ud83d\\ude00\", {\"b\": null}], \"\": true}");
	assert_takes(s, "{\n  \"a\": 1,\n  \"b\": [\n    2\n  ]\n}");
	assert_takes(s, "{ \"\xc3\xa9\": \"\xf0\x9f\x98\x80\" }");
	assert_refuses(s, "[]");
	assert_refuses(s, "{\"a\":01}");
	assert_refuses(s, "{\"a\":1,}");
	assert_refuses(s, "{\"a\":\"\\ud83d\"}");
	assert_refuses(s, "{\"a\":\"\\udc00\"}");
	assert_refuses(s, "{\"a\":\"\xff\"}");
	assert_refuses(s, "{\"a\":\"\xc0\x80\"}");
	assert_refuses(s, "{\"a\":\"\n\"}");
	assert_refuses(s, "{  }");
	assert_refuses(s, " {}");
	assert_takes(s, "{\n        \"a\":1}");
	assert_refuses(s, "{\n         \"a\":1}");
	assert_refuses(s, "{}}");
	assert_refuses(s, "{\"a\"");
}

static void members_come_in_their_order_and_required_ones_must(void **state)
{
	const char *s = "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":\"string\"},"
			"\"c\":{\"type\":\"null\"}},\"required\":[\"ab\"],\"additionalProperties\":false}";

	(void)state;
	assert_takes(s, "{\"a\": 12, \"ab\": \"x\", \"c\": null}");
	assert_takes(s, "{\"ab\":\"\"}");
	assert_takes(s, "{\"ab\":\"\",\"c\":null}");
	assert_refuses(s, "{}");
	assert_refuses(s, "{\"a\":1}");
	assert_refuses(s, "{\"ab\":\"\",\"a\":1}");
	assert_refuses(s, "{\"ab\":\"\",\"ab\":\"\"}");
	assert_refuses(s, "{\"ab\":\"\",\"d\":1}");
	assert_refuses(s, "{\"c\":null}");
	assert_refuses(s, "{\"ab\":1}");
}

static void additional_members_differ_from_declared_ones(void **state)
{
	const char *s = "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\\n\":{}},"
			"\"additionalProperties\":{\"type\":\"boolean\"}}";

	(void)state;
	assert_takes(s, "{\"a\":1,\"ab\":true,\"c\":false}");
	assert_takes(s, "{\"x\":true}");
	assert_refuses(s, "{\"x\":true,\"a\":1}");
	assert_refuses(s, "{\"x\":true,\"a\":true}");
	assert_refuses(s, "{\"x\":true,\"\\u0061\":true}");
	assert_refuses(s, "{\"a\":1,\"b\\u000a\":true}");
	assert_refuses(s, "{\"x\":1}");
}

static void numbers_keep_their_bounds(void **state)
{
	const char *i = "{\"type\":\"integer\",\"minimum\":-12,\"maximum\":105}";
	const char *n = "{\"type\":\"number\",\"exclusiveMinimum\":0.1,\"maximum\":2.5}";

	(void)state;
	for (int v = -200; v < 1200; v++) {
		char text[20];

		snprintf(text, sizeof text, "%d", v);
		if (takes(i, text) != (v >= -12 && v <= 105))
			fail_msg("%d", v);
	}
	assert_refuses(i, "1.0");
	assert_refuses(i, "-0");
	assert_takes(n, "0.100001");
	assert_takes(n, "2.5");
	assert_takes(n, "2.500000");
	assert_takes(n, "1");
	assert_refuses(n, "0.1");
	assert_refuses(n, "0.100000");
	assert_refuses(n, "2.500001");
	assert_refuses(n, "3");
	assert_refuses(n, "0");
	assert_refuses(n, "1e0");
	assert_takes("{\"type\":\"number\"}", "-1.25E-7");
	assert_takes("{\"type\":\"integer\"}", "-123456789012345678");
	assert_refuses("{\"type\":\"integer\"}", "1234567890123456789");
	assert_takes("{\"type\":\"integer\",\"minimum\":999999999999000000}", "999999999999500000");
	assert_refuses("{\"type\":\"integer\",\"minimum\":10,\"maximum\":19}", "1");
	assert_refuses("{\"type\":\"integer\",\"minimum\":10,\"maximum\":19}", "20");
}

static void strings_keep_length_pattern_and_format(void **state)
{
	const char *s = "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}";
	const char *p = "{\"type\":\"string\",\"pattern\":\"^(a|\\u00e9)+[0-9]{2,3}$\",\"maxLength\":5}";
	const char *any = "{\"type\":\"string\",\"pattern\":\"b.d\"}";

	(void)state;
	assert_takes(s, "\"ab\"");
	assert_takes(s, "\"\xc3\xa9\\ud83d\\ude00\\n\"");
	assert_refuses(s, "\"a\"");
	assert_refuses(s, "\"abcd\"");
	assert_takes(p, "\"a\xc3\xa9" "12\"");
	assert_takes(p, "\"aa123\"");
	assert_refuses(p, "\"aaa123\"");
	assert_refuses(p, "\"a1\"");
	assert_refuses(p, "\"\xc3\xa8" "12\"");
	assert_takes(any, "\"xxbadyy\"");
	assert_takes(any, "\"b\\\"d\"");
	assert_refuses(any, "\"b\\nd\"");
	assert_refuses(any, "\"bd\"");
	assert_takes("{\"type\":\"string\",\"format\":\"date\"}", "\"2026-11-24\"");
	assert_refuses("{\"type\":\"string\",\"format\":\"date\"}", "\"2026-11-31\"");
	assert_takes("{\"type\":\"string\",\"format\":\"date-time\"}", "\"2026-11-24T18:00:00.5Z\"");
	assert_takes("{\"type\":\"string\",\"format\":\"uuid\"}", "\"01234567-89ab-cdef-0123-456789abcdef\"");
	assert_takes("{\"type\":\"string\",\"format\":\"email\"}", "\"a.b@example.org\"");
	assert_takes("{\"type\":\"string\",\"format\":\"ipv4\"}", "\"192.168.0.255\"");
	assert_refuses("{\"type\":\"string\",\"format\":\"ipv4\"}", "\"192.168.0.256\"");
	assert_takes("{\"type\":\"string\",\"format\":\"uri\"}", "\"https://example.org/a?b=c#d\"");
}

static void arrays_keep_their_items_and_sizes(void **state)
{
	const char *s = "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],"
			"\"items\":{\"type\":\"boolean\"},\"minItems\":1,\"maxItems\":4}";
	const char *none = "{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"}],\"items\":false}";

	(void)state;
	assert_takes(s, "[1]");
	assert_takes(s, "[1, \"a\",\n true, false]");
	assert_refuses(s, "[]");
	assert_refuses(s, "[\"a\"]");
	assert_refuses(s, "[1, \"a\", 3]");
	assert_refuses(s, "[1,\"a\",true,true,true]");
	assert_takes(none, "[]");
	assert_takes(none, "[1]");
	assert_refuses(none, "[1,2]");
}

static void choices_and_references_are_followed(void **state)
{
	const char *list = "{\"$ref\":\"#/$defs/n\",\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"enum\":"
			   "[1,12,\"1\",null]},\"next\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#/$defs/n\"}]}},"
			   "\"required\":[\"v\",\"next\"],\"additionalProperties\":false}}}";
	const char *one = "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"a\"},\"x\":{\"type\":\"integer\"}},"
			  "\"required\":[\"k\",\"x\"]},{\"type\":\"object\",\"properties\":{\"k\":{\"const\":\"b\"}},"
			  "\"required\":[\"k\"]},{\"type\":\"string\"}]}";
	const char *all = "{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":[\"integer\",\"string\"]}},"
			  "\"required\":[\"a\"]},{\"properties\":{\"a\":{\"type\":[\"number\",\"null\"]},\"b\":{\"type\":"
			  "\"null\"}}}]}";

	(void)state;
	assert_takes(list, "{\"v\":12,\"next\":{\"v\":\"1\",\"next\":{\"v\":1,\"next\":null}}}");
	assert_refuses(list, "{\"v\":2,\"next\":null}");
	assert_refuses(list, "{\"v\":1}");
	assert_takes(one, "{\"k\":\"a\",\"x\":5}");
	assert_takes(one, "{\"k\":\"b\"}");
	assert_takes(one, "\"s\"");
	assert_refuses(one, "{\"k\":\"a\"}");
	assert_refuses(one, "{\"k\":\"b\",\"x\":5}");
	assert_takes(all, "{\"a\":1,\"b\":null}");
	assert_refuses(all, "{\"a\":1.5}");
	assert_refuses(all, "{\"a\":null}");
	assert_refuses(all, "{\"a\":\"x\"}");
	assert_takes("{\"enum\":[1,12]}", "1");
	assert_takes("{\"enum\":[1,12]}", "12");
	assert_refuses("{\"enum\":[1,12]}", "123");
	assert_takes("{\"type\":[\"array\",\"null\"],\"items\":{\"$ref\":\"#\"}}", "[null, [], [[]]]");
}

static void what_cannot_be_guaranteed_is_refused_by_name_and_place(void **state)
{
	(void)state;
	assert_unsupported("{\"type\":\"object\",\"properties\":{\"a/b\":{\"type\":\"array\",\"uniqueItems\":true}}}",
			   "\"uniqueItems\" at #/properties/a~1b/uniqueItems");
	assert_unsupported("{\"patternProperties\":{}}", "\"patternProperties\" at #/patternProperties");
	assert_unsupported("{\"anyOf\":[{},{\"not\":{}}]}", "\"not\" at #/anyOf/1/not");
	assert_unsupported("{\"items\":{\"if\":{}}}", "\"if\" at #/items/if");
	assert_unsupported("{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"minProperties\":1}}}", "minProperties");
	assert_unsupported("{\"multipleOf\":5}", "multipleOf");
	assert_unsupported("{\"propertyNames\":{\"pattern\":\"a\"}}", "propertyNames");
	assert_takes("{\"type\":\"object\",\"propertyNames\":{\"type\":\"string\"},\"additionalProperties\":{\"type\":"
		     "\"null\"}}", "{\"x\":null}");
	assert_unsupported("{\"type\":\"string\",\"format\":\"color\"}", "format");
	assert_unsupported("{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "use anyOf");
	assert_unsupported("{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "unsupported group");
	assert_unsupported("{\"type\":\"string\",\"pattern\":\"a(\"}", "#/pattern");
	assert_unsupported("{\"type\":\"string\",\"pattern\":\"\\\\bword\"}", "unsupported escape");
	assert_unsupported("{\"type\":\"string\",\"pattern\":\"^abc$\",\"maxLength\":2}", "no string can match");
	assert_unsupported("{\"$ref\":\"#/$defs/nowhere\"}", "nowhere");
	assert_unsupported("{\"allOf\":[{\"$ref\":\"#\"}]}", "without end");
	assert_unsupported("{\"type\":\"strange\"}", "#/type");
	assert_unsupported("{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "between the bounds");
	assert_unsupported("false", "no value can satisfy");
	assert_unsupported("{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
			   "no value can satisfy");
	assert_unsupported("{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", "no value can satisfy");
}

static void a_hundred_choices_that_begin_alike_stay_open(void **state)
{
	struct buf schema = BUF_CAP(BUF_MAX);
	char text[60];

	(void)state;
	buf_str(&schema, "{\"anyOf\":[");
	for (int i = 0; i < 100; i++)
		buf_printf(&schema, "%s{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"k%d\"},\"v%d\":{\"type\":"
			   "\"integer\"}},\"required\":[\"kind\",\"v%d\"],\"additionalProperties\":false}", i ? "," : "", i, i, i);
	buf_str(&schema, "]}");
	for (int i = 0; i < 100; i += 33) {
		snprintf(text, sizeof text, "{\"kind\": \"k%d\", \"v%d\": 1}", i, i);
		assert_takes(schema.data, text);
		snprintf(text, sizeof text, "{\"kind\": \"k%d\", \"v%d\": 1}", i, i + 1);
		assert_refuses(schema.data, text);
	}
	buf_clear(&schema);
}

static void nesting_ends_before_there_is_no_way_out(void **state)
{
	struct grammar *g = compile("{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}");
	struct matcher *m = matcher_new(g);
	int depth = 0;

	(void)state;
	while (matcher_push(m, "[", 1))
		depth++;
	assert_in_range(depth, 60, 64);
	while (matcher_push(m, "]", 1))
		depth--;
	assert_int_equal(depth, 0);
	assert_true(matcher_complete(m));
	matcher_free(m);
	grammar_free(g);
}

static void looking_ahead_changes_nothing(void **state)
{
	struct grammar *g = compile("{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}");
	struct matcher *m = matcher_new(g);

	(void)state;
	assert_true(matcher_accepts(m, "[1, 2", 5));
	assert_false(matcher_accepts(m, "1", 1));
	assert_true(matcher_push(m, "[1", 2));
	assert_false(matcher_push(m, "2x", 2));
	assert_true(matcher_accepts(m, "2,", 2));
	assert_false(matcher_complete(m));
	assert_true(matcher_push(m, "]", 1));
	assert_true(matcher_complete(m));
	assert_false(matcher_accepts(m, " ", 1));
	matcher_reset(m);
	assert_true(matcher_push(m, "[]", 2));
	matcher_free(m);
	grammar_free(g);
}

/* ------------------------------------------------------------------ calls */

#define M "\xFF"
#define OPEN "\n\n<" M "tool_calls>\n"
#define INVOKE(name, x) "<" M "invoke name=\"" name "\">\n" x "</" M "invoke>\n"
#define P(name, string, x) "<" M "parameter name=\"" name "\" string=\"" string "\">" x "</" M "parameter>\n"
#define CLOSE "</" M "tool_calls>"

static const char tools_text[] =
	"[{\"name\":\"get\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},"
	"\"days\":{\"type\":[\"integer\",\"null\"],\"minimum\":1},\"unit\":{\"enum\":[\"C\",\"CF\",7]},"
	"\"note\":{\"anyOf\":[{\"type\":\"string\",\"maxLength\":3},{\"type\":\"array\",\"items\":{\"type\":\"string\"}}]}},"
	"\"required\":[\"city\",\"unit\"],\"additionalProperties\":false}},"
	"{\"type\":\"function\",\"function\":{\"name\":\"put\",\"parameters\":{\"type\":\"object\"}}},"
	"{\"name\":\"nop\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{}}}]";

static bool calls_take(const char *only, bool one, const char *text)
{
	json_t *tools = json_parse(tools_text, strlen(tools_text), NULL);
	struct grammar_options o = {.tools = tools, .only_tool = only, .one_call = one, .strict = true};
	struct grammar *g;
	struct matcher *m;
	struct err err = {0};
	bool ok;

	if (grammar_new(&g, &o, &err) != OK)
		fail_msg("%s", err.msg);
	m = matcher_new(g);
	ok = matcher_push(m, text, strlen(text)) && matcher_complete(m);
	for (size_t i = 0; getenv("DEBUG_CALLS") && !ok && i < strlen(text) && matcher_push(m, text + i, 1); i++)
		fputc(text[i], stderr);
	matcher_free(m);
	grammar_free(g);
	json_decref(tools);
	return ok;
}

static void calls_have_the_official_spelling_and_strict_arguments(void **state)
{
	(void)state;
	assert_true(calls_take(NULL, false, OPEN INVOKE("get", P("city", "true", "R </o\n me") P("unit", "true", "C")) CLOSE));
	assert_true(calls_take(NULL, false, OPEN INVOKE("get", P("city", "true", "") P("days", "false", "3")
			       P("unit", "false", "7") P("note", "false", "[\"a\", \"b\"]")) CLOSE));
	assert_true(calls_take(NULL, false, OPEN INVOKE("get", P("city", "true", "x") P("days", "false", "null")
			       P("unit", "true", "CF") P("note", "true", "abc")) INVOKE("nop", "") INVOKE("nop", "\n") CLOSE));
	assert_true(calls_take(NULL, false, OPEN INVOKE("put", P("x", "maybe", "y") "anything <" M) CLOSE));
	assert_false(calls_take(NULL, false, OPEN CLOSE));
	assert_false(calls_take(NULL, false, OPEN INVOKE("get", P("city", "true", "x")) CLOSE));
	assert_false(calls_take(NULL, false, OPEN INVOKE("get", P("unit", "true", "C") P("city", "true", "x")) CLOSE));
	assert_false(calls_take(NULL, false, OPEN INVOKE("get", P("city", "false", "\"x\"") P("unit", "true", "C")) CLOSE));
	assert_false(calls_take(NULL, false, OPEN INVOKE("get", P("city", "true", "x") P("days", "false", "0")
				P("unit", "true", "C")) CLOSE));
	assert_false(calls_take(NULL, false, OPEN INVOKE("get", P("city", "true", "x") P("unit", "true", "F")) CLOSE));
	assert_false(calls_take(NULL, false, OPEN INVOKE("get", P("city", "true", "x") P("unit", "true", "C")
				P("note", "true", "abcd")) CLOSE));
	assert_false(calls_take(NULL, false, OPEN INVOKE("got", "") CLOSE));
	assert_false(calls_take(NULL, false, OPEN INVOKE("nop", P("a", "true", "")) CLOSE));
	assert_false(calls_take("nop", false, OPEN INVOKE("put", "") CLOSE));
	assert_true(calls_take("nop", false, OPEN INVOKE("nop", "") CLOSE));
	assert_false(calls_take(NULL, true, OPEN INVOKE("nop", "") INVOKE("nop", "") CLOSE));
	assert_true(calls_take(NULL, true, OPEN INVOKE("nop", "") CLOSE));
}

/* ------------------------------------------------------------------ random schemas */

static struct rng rng;

static int below(int n)
{
	return (int)rng_below(&rng, (uint64_t)n);
}

static json_t *random_schema(int depth);

static json_t *random_value(void)
{
	static const char *const texts[] = {"1", "12", "-3", "0.5", "true", "false", "null", "\"\"", "\"a\"", "\"ab\"",
					    "\"a\\\"b\\n\"", "\"\xc3\xa9\"", "[]", "[1, \"x\"]", "{\"a\": 1}"};
	const char *t = texts[below(sizeof texts / sizeof *texts)];

	return json_loads(t, JSON_DECODE_ANY, NULL);
}

static json_t *random_number(void)
{
	json_t *s = json_pack("{s:s}", "type", below(2) ? "integer" : "number");
	int low = below(200) - 100, high = low + below(300);

	if (below(2))
		json_object_set_new(s, below(2) ? "minimum" : "exclusiveMinimum",
				    below(2) ? json_integer(low) : json_real(low + below(100) / 100.0));
	if (below(2))
		json_object_set_new(s, below(2) ? "maximum" : "exclusiveMaximum", json_integer(high + 2));
	return s;
}

static json_t *random_string(void)
{
	static const char *const patterns[] = {"^[a-c]{2,5}$", "a+b", "^(ab|ac)*d?$", "[^a-z]$", "^x.{0,3}y$", "^$"};
	json_t *s = json_pack("{s:s}", "type", "string");
	int min = below(4);

	if (below(3) == 0) {
		json_object_set_new(s, "pattern", json_string(patterns[below(6)]));
	} else {
		if (below(2))
			json_object_set_new(s, "minLength", json_integer(min));
		if (below(2))
			json_object_set_new(s, "maxLength", json_integer(min + below(4)));
	}
	return s;
}

static json_t *random_array(int depth)
{
	json_t *s = json_pack("{s:s}", "type", "array"), *prefix;
	int min = below(3);

	if (below(3)) {
		json_object_set_new(s, "items", random_schema(depth - 1));
	}
	if (below(3) == 0) {
		prefix = json_array();
		for (int i = 0; i < 1 + below(2); i++)
			json_array_append_new(prefix, random_schema(depth - 1));
		json_object_set_new(s, "prefixItems", prefix);
	}
	if (below(2))
		json_object_set_new(s, "minItems", json_integer(min));
	if (below(2))
		json_object_set_new(s, "maxItems", json_integer(min + below(3)));
	return s;
}

static json_t *random_object(int depth)
{
	static const char *const names[] = {"a", "ab", "b", "c d", "\xc3\xa9", "q\"t", ""};
	json_t *s = json_pack("{s:s}", "type", "object"), *properties = json_object(), *required = json_array();

	for (int i = 0; i < 7; i++) {
		if (below(3) == 0)
			json_object_set_new(properties, names[i], random_schema(depth - 1));
		if (below(5) == 0)
			json_array_append_new(required, json_string(names[i]));
	}
	if (below(4))
		json_object_set(s, "properties", properties);
	if (below(2))
		json_object_set(s, "required", required);
	if (below(2))
		json_object_set_new(s, "additionalProperties", below(2) ? json_false() : random_schema(depth - 1));
	json_decref(properties);
	json_decref(required);
	return s;
}

static json_t *random_choice(int depth)
{
	static const char *const keys[] = {"anyOf", "anyOf", "oneOf", "allOf"};
	json_t *list = json_array(), *s = below(4) ? json_object() : random_schema(depth - 1);
	int n = 1 + below(3);

	if (!json_is_object(s)) {
		json_decref(s);
		s = json_object();
	}
	for (int i = 0; i < n; i++)
		json_array_append_new(list, random_schema(depth - 1));
	json_object_set_new(s, keys[below(4)], list);
	return s;
}

static json_t *random_schema(int depth)
{
	json_t *list;

	switch (below(depth > 0 ? 14 : 8)) {
	case 0:
		return json_true();
	case 1:
		return json_pack("{s:[s,s]}", "type", below(2) ? "null" : "boolean", "string");
	case 2:
		return json_pack("{s:o}", "const", random_value());
	case 3:
		list = json_array();
		for (int i = 0; i < 1 + below(5); i++)
			json_array_append_new(list, random_value());
		return json_pack("{s:o}", "enum", list);
	case 4:
	case 5:
		return random_number();
	case 6:
		return random_string();
	case 7:
		return below(3) ? json_pack("{s:s}", "$ref", below(2) ? "#" : "#/$defs/x") : json_object();
	case 8:
	case 9:
		return random_array(depth);
	case 10:
	case 11:
	case 12:
		return random_object(depth);
	default:
		return random_choice(depth);
	}
}

/* Random bytes that may come, until the text is complete; after a while those that end things. */
static void random_text(struct matcher *m, struct buf *out, const char *schema)
{
	static const char closers[] = "}]\"", likely[] = "ab019-,:nf.ecdxyqt ";

	while (out->len < 20000) {
		bool short_of_breath = out->len > 300;
		bool between = !matcher_accepts(m, "a", 1) && !matcher_accepts(m, "b", 1);
		char ok[256] = {0};
		int n = 0;

		if (matcher_complete(m) && (short_of_breath || below(3) == 0))
			return;
		for (const char *p = closers; short_of_breath && *p && !n; p++)
			if (matcher_accepts(m, p, 1) && (*p == '"' || between))
				ok[n++] = *p;
		for (const char *p = likely; short_of_breath && *p && below(64) && !memchr(closers, ok[0], n ? 3 : 0); p++)
			if (matcher_accepts(m, p, 1))
				ok[n++] = *p;
		for (int b = 0; b < 256 && (!short_of_breath || !n); b++) {
			char c = (char)b;

			if (matcher_accepts(m, &c, 1))
				ok[n++] = c;
		}
		if (!n && matcher_complete(m))
			return;
		if (!n)
			fail_msg("%s: nothing may follow %s", schema, buf_cstr(out));
		buf_byte(out, ok[below(n)]);
		assert_true(matcher_push(m, out->data + out->len - 1, 1));
	}
	fail_msg("%s: no end of ... %s", schema, out->data + out->len - 200);
}

static void whatever_a_random_schema_lets_through_is_valid(void **state)
{
	const char *rounds = getenv("DS4_ROUNDS");
	int made = 0, refused = 0, deep = 0, longest = rounds ? atoi(rounds) : 2500;

	(void)state;
	rng = rng_seed(getenv("DS4_SEED") ? (uint64_t)atoi(getenv("DS4_SEED")) : 20261124);
	for (int round = 0; round < longest; round++) {
		json_t *schema = random_schema(3), *v;
		struct grammar_options o = {.schema = schema};
		struct grammar *g;
		struct err err = {0};
		char *text;

		if (json_is_object(schema))
			json_object_set_new(schema, "$defs", json_pack("{s:o}", "x", random_schema(2)));
		text = json_dumps(schema, JSON_ENCODE_ANY);
		if (grammar_new(&g, &o, &err) != OK) {
			if (err.code != ERR_ARGUMENT)
				fail_msg("%s", err.msg);
			refused++;
		}
		for (int i = 0; g && i < 4; i++) {
			struct matcher *m = matcher_new(g);
			struct buf b = BUF_CAP(BUF_MAX);

			random_text(m, &b, text);
			v = json_loadb(b.data, b.len, JSON_DECODE_ANY, NULL);
			if (!v || !valid(schema, schema, v))
				fail_msg("%s\nlets through\n%s", text, b.data);
			made++;
			deep += b.len > 40;
			json_decref(v);
			buf_clear(&b);
			matcher_free(m);
		}
		grammar_free(g);
		free(text);
		json_decref(schema);
	}
	printf("%d texts, %d of them longer than 40 bytes; %d of %d schemas refused\n", made, deep, refused, longest);
	assert_true(refused < longest / 2 && deep > made / 20);
}

static double processor_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void the_work_for_a_token_does_not_grow_with_the_text(void **state)
{
	struct grammar *g = compile("{\"type\":\"object\"}");
	struct matcher *m = matcher_new(g);
	double t0, first = 0, last = 0;

	(void)state;
	assert_true(matcher_push(m, "{\"a\": [", 7));
	for (int round = 0; round < 20; round++) {
		t0 = processor_seconds();
		for (int i = 0; i < 2000; i++) {
			assert_true(matcher_accepts(m, "[12, \"some\"", 11));
			assert_true(matcher_push(m, "[12, \"some text\", null], ", 25));
		}
		last = processor_seconds() - t0;
		if (round == 0 || last < first)
			first = round < 3 ? last : first;
	}
	printf("%.0f ns a byte behind %d bytes\n", 1e9 * last / (2000 * 36), 20 * 2000 * 25);
	assert_true(last < 10 * first);
	matcher_free(m);
	grammar_free(g);
}

/* Every allocation fails once; the sanitizers see what is lost. */
static void without_memory_there_is_an_error_and_nothing_is_lost(void **state)
{
	static const char schema[] =
		"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^a{2}$\",\"maxLength\":3},"
		"\"b\":{\"allOf\":[{\"enum\":[1,\"x\"]},{\"anyOf\":[{\"type\":\"integer\"},{\"$ref\":\"#\"}]}]},"
		"\"c\":{\"prefixItems\":[true],\"items\":{\"minimum\":1}}}}";
	json_t *j = json_parse(schema, strlen(schema), NULL), *tools = json_parse(tools_text, strlen(tools_text), NULL);
	struct grammar_options o = {.schema = j, .tools = tools, .strict = true};
	enum status st;
	long n = 0;

	(void)state;
	do {
		struct grammar *g;
		struct err err = {0};

		mem_fail_at(++n);
		st = grammar_new(&g, &o, &err);
		mem_fail_at(0);
		assert_true(st == OK ? g != NULL : st == ERR_MEMORY && !g && err.msg[0]);
		grammar_free(g);
	} while (st != OK);
	assert_true(n > 50);
	json_decref(j);
	json_decref(tools);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_object_is_any_json_object),
		cmocka_unit_test(members_come_in_their_order_and_required_ones_must),
		cmocka_unit_test(additional_members_differ_from_declared_ones),
		cmocka_unit_test(numbers_keep_their_bounds),
		cmocka_unit_test(strings_keep_length_pattern_and_format),
		cmocka_unit_test(arrays_keep_their_items_and_sizes),
		cmocka_unit_test(choices_and_references_are_followed),
		cmocka_unit_test(what_cannot_be_guaranteed_is_refused_by_name_and_place),
		cmocka_unit_test(a_hundred_choices_that_begin_alike_stay_open),
		cmocka_unit_test(nesting_ends_before_there_is_no_way_out),
		cmocka_unit_test(looking_ahead_changes_nothing),
		cmocka_unit_test(calls_have_the_official_spelling_and_strict_arguments),
		cmocka_unit_test(whatever_a_random_schema_lets_through_is_valid),
		cmocka_unit_test(without_memory_there_is_an_error_and_nothing_is_lost),
		cmocka_unit_test(the_work_for_a_token_does_not_grow_with_the_text),
	};

	assert_non_null(setlocale(LC_ALL, "C.UTF-8"));	/* for the checker's regular expressions */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
