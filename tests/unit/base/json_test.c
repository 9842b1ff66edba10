/* json_test.c - reading what clients send, writing what Python would.
 *
 * The expected texts are what CPython 3.11 printed for json.dumps(json.loads(text), ensure_ascii=False), with
 * lone surrogates replaced by U+FFFD. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"

static void expect_python(const char *text, size_t n, const char *want, size_t n_want)
{
	struct err err = {0};
	struct buf b = BUF_CAP(1 << 20);
	json_t *v = json_parse(text, n, &err);

	if (!v)
		fail_msg("%s: %s", text, err.msg);
	json_write_python(&b, v);
	if (b.len != n_want || memcmp(buf_cstr(&b), want, n_want))
		fail_msg("%s: expected %s, found %s", text, want, buf_cstr(&b));
	buf_clear(&b);
	json_decref(v);
}

static void expect(const char *text, const char *want)
{
	expect_python(text, strlen(text), want, strlen(want));
}

static void separators_and_order_are_pythons(void **state)
{
	(void)state;
	expect(" {\"b\":[1,2,{}],\"a\":{\"x\":null},\"c\":[]}\t\n",
	       "{\"b\": [1, 2, {}], \"a\": {\"x\": null}, \"c\": []}");
	expect("[true,false,null]", "[true, false, null]");
	expect("\"\"", "\"\"");
}

static void a_repeated_name_keeps_its_first_place_and_its_last_value(void **state)
{
	(void)state;
	expect("{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}");
}

static void reals_are_written_as_python_repr(void **state)
{
	static const char *const cases[][2] = {
		{"1e5", "100000.0"},
		{"1E-7", "1e-07"},
		{"1.50", "1.5"},
		{"1e22", "1e+22"},
		{"1e15", "1000000000000000.0"},
		{"1e16", "1e+16"},
		{"123456789012345680.0", "1.2345678901234568e+17"},
		{"0.0001", "0.0001"},
		{"0.00001", "1e-05"},
		{"0.1", "0.1"},
		{"0.30000000000000004", "0.30000000000000004"},
		{"-0.0", "-0.0"},
		{"0e0", "0.0"},
		{"1.0", "1.0"},
		{"100.0", "100.0"},
		{"3.141592653589793", "3.141592653589793"},
		{"5e-324", "5e-324"},
		{"2.2250738585072014e-308", "2.2250738585072014e-308"},
		{"1.7976931348623157e308", "1.7976931348623157e+308"},
		{"1e400", "Infinity"},
		{"-1e400", "-Infinity"},
		{"1e-400", "0.0"},
		{"9007199254740993.0", "9007199254740992.0"},
		{"0.001", "0.001"},
		{"12345.678", "12345.678"},
		/* powers of two, where the nearest decimal of 16 digits does not read back */
		{"5.684341886080801486968994140625e-14", "5.684341886080802e-14"},
		{"7.120236347223044381319604e-307", "7.120236347223045e-307"},
		{"7.17464813734306340031295e-43", "7.174648137343064e-43"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		expect(cases[i][0], cases[i][1]);
}

static void integers_of_any_length_keep_their_digits(void **state)
{
	json_t *v = json_parse("[9223372036854775807,9223372036854775808,\"9\"]", 45, NULL);

	(void)state;
	expect("9223372036854775807", "9223372036854775807");
	expect("-9223372036854775808", "-9223372036854775808");
	expect("9223372036854775808", "9223372036854775808");
	expect("[-123456789012345678901234567890]", "[-123456789012345678901234567890]");
	expect("-0", "0");
	assert_false(json_is_big_integer(json_array_get(v, 0)));
	assert_true(json_is_big_integer(json_array_get(v, 1)));
	assert_false(json_is_text(json_array_get(v, 1)));
	assert_false(json_is_big_integer(json_array_get(v, 2)));
	assert_true(json_is_text(json_array_get(v, 2)));
	json_decref(v);
}

static void no_string_can_pass_for_a_big_integer(void **state)
{
	static const char text[] = "[\"\xFF"
				   "123\", \"\\u00ff123\"]";
	json_t *v = json_parse(text, strlen(text), NULL);

	(void)state;
	assert_true(json_is_text(json_array_get(v, 0)));
	assert_true(json_is_text(json_array_get(v, 1)));
	json_decref(v);
	expect(text, "[\"\xEF\xBF\xBD"
	             "123\", \"\xC3\xBF"
	             "123\"]");
}

static void strings_are_escaped_as_little_as_python_does(void **state)
{
	(void)state;
	expect("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u001f\\u007f\\u2028\"",
	       "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u001f\x7F\xE2\x80\xA8\"");
	expect("\"\xE6\x97\xA5\xF0\x9F\x98\x80\"", "\"\xE6\x97\xA5\xF0\x9F\x98\x80\"");
	expect("{\"k\\n\":\"v\"}", "{\"k\\n\": \"v\"}");
}

static void nul_is_allowed_in_a_value(void **state)
{
	json_t *v = json_parse("{\"a\":\"x\\u0000y\"}", 16, NULL);
	size_t n = 0;
	const char *p = json_get_text(v, "a", &n);

	(void)state;
	assert_int_equal(n, 3);
	assert_memory_equal(p, "x\0y", 3);
	json_decref(v);
	expect("{\"a\":\"x\\u0000y\"}", "{\"a\": \"x\\u0000y\"}");
}

static void surrogates_join_or_become_u_fffd(void **state)
{
	(void)state;
	expect("\"\\ud83d\\ude00\"", "\"\xF0\x9F\x98\x80\"");
	expect("\"\\uD83D\\uDE00\"", "\"\xF0\x9F\x98\x80\"");
	expect("\"\\ud83d\"", "\"\xEF\xBF\xBD\"");
	expect("\"\\udc00\\ude00\"", "\"\xEF\xBF\xBD\xEF\xBF\xBD\"");
	expect("\"\\ude00x\"", "\"\xEF\xBF\xBDx\"");
	expect("\"\\ud83d\\ud83d\\ude00\"", "\"\xEF\xBF\xBD\xF0\x9F\x98\x80\"");
	expect("\"\\ud83d\\u0041\"", "\"\xEF\xBF\xBD"
	                             "A\"");
	expect("\"\\ud83d\\n\"", "\"\xEF\xBF\xBD\\n\"");
}

static void ill_formed_utf8_becomes_u_fffd(void **state)
{
	(void)state;
	expect("\"a\xC3\"", "\"a\xEF\xBF\xBD\"");
	expect("\"\xF0\x9F\x98z\"", "\"\xEF\xBF\xBDz\"");
	expect("\"\xC3\\n\"", "\"\xEF\xBF\xBD\\n\"");
}

static void a_bad_text_is_refused_with_its_place(void **state)
{
	static const char *const cases[][2] = {
		{"", "line 1 column 1: expected a JSON value, found the end"},
		{"[1,]", "line 1 column 4: expected a JSON value, found ']'"},
		{"{\"a\":1\n ,}", "line 2 column 3: expected a member name in quotes, found '}'"},
		{"{\"a\" 1}", "line 1 column 6: expected ':' after a member name, found '1'"},
		{"[1 2]", "line 1 column 4: expected ',' or ']' in an array, found '2'"},
		{"{\"a\":1", "line 1 column 7: expected ',' or '}' in an object, found the end"},
		{"[1] x", "line 1 column 5: expected nothing after the value, found 'x'"},
		{"01", "line 1 column 2: expected nothing after the value, found '1'"},
		{"1.", "line 1 column 3: expected a digit, found the end"},
		{"1e+", "line 1 column 4: expected a digit, found the end"},
		{"-", "line 1 column 2: expected a digit, found the end"},
		{"+1", "line 1 column 1: expected a JSON value, found '+'"},
		{"tru", "line 1 column 1: expected a JSON value, found 't'"},
		{"NaN", "line 1 column 1: expected a JSON value, found 'N'"},
		{"\"ab", "line 1 column 4: expected the closing quote of a string, found the end"},
		{"\"\t\"",
	         "line 1 column 2: expected no control character in a string, found byte 0x09"},
		{"\"\\x\"",
	         "line 1 column 3: expected one of \"\\/bfnrtu after a backslash, found 'x'"},
		{"\"\\u12g4\"",
	         "line 1 column 6: expected four hexadecimal digits after \\u, found 'g'"},
		{"{\"a\\u0000\":1}",
	         "line 1 column 11: expected a member name without U+0000 before this, found ':'"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct err err = {0};
		json_t *v = json_parse(cases[i][0], strlen(cases[i][0]), &err);

		if (v)
			fail_msg("%s: expected an error, found a value", cases[i][0]);
		assert_int_equal(err.code, ERR_ARGUMENT);
		if (!strstr(err.msg, cases[i][1]))
			fail_msg("%s: expected \"%s\", found \"%s\"", cases[i][0], cases[i][1],
			         err.msg);
	}
}

static void nesting_is_limited(void **state)
{
	char text[2 * JSON_MAX_DEPTH + 2];
	struct err err = {0};
	json_t *v;

	(void)state;
	memset(text, '[', JSON_MAX_DEPTH);
	memset(text + JSON_MAX_DEPTH, ']', JSON_MAX_DEPTH);
	v = json_parse(text, 2 * JSON_MAX_DEPTH, &err);
	assert_non_null(v);
	json_decref(v);
	memset(text, '[', JSON_MAX_DEPTH + 1);
	memset(text + JSON_MAX_DEPTH + 1, ']', JSON_MAX_DEPTH + 1);
	assert_null(json_parse(text, 2 * JSON_MAX_DEPTH + 2, &err));
	assert_non_null(strstr(err.msg, "512 levels"));
}

static void member_access_never_fails(void **state)
{
	json_t *v = json_parse("{\"a\":1,\"b\":99999999999999999999}", 31, NULL);
	size_t n;

	(void)state;
	assert_null(json_get_text(NULL, "a", &n));
	assert_null(json_get_text(v, "a", &n));
	assert_null(json_get_text(v, "b", &n));
	assert_null(json_get_text(v, "c", &n));
	assert_false(json_is_text(NULL));
	assert_false(json_is_big_integer(NULL));
	json_decref(v);
}

static void a_locale_with_a_decimal_comma_changes_nothing(void **state)
{
	static const char *const names[] = {"de_DE.UTF-8", "it_IT.UTF-8", "fr_FR.UTF-8",
	                                    "de_DE.utf8"};

	size_t i = 0;

	(void)state;
	while (i < sizeof names / sizeof names[0] && !setlocale(LC_NUMERIC, names[i]))
		i++;
	if (i == sizeof names / sizeof names[0])
		skip(); /* none is installed here */
	expect("[1.5, -2.25e-10]", "[1.5, -2.25e-10]");
	setlocale(LC_NUMERIC, "C");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(separators_and_order_are_pythons),
		cmocka_unit_test(a_repeated_name_keeps_its_first_place_and_its_last_value),
		cmocka_unit_test(reals_are_written_as_python_repr),
		cmocka_unit_test(integers_of_any_length_keep_their_digits),
		cmocka_unit_test(no_string_can_pass_for_a_big_integer),
		cmocka_unit_test(strings_are_escaped_as_little_as_python_does),
		cmocka_unit_test(nul_is_allowed_in_a_value),
		cmocka_unit_test(surrogates_join_or_become_u_fffd),
		cmocka_unit_test(ill_formed_utf8_becomes_u_fffd),
		cmocka_unit_test(a_bad_text_is_refused_with_its_place),
		cmocka_unit_test(nesting_is_limited),
		cmocka_unit_test(member_access_never_fails),
		cmocka_unit_test(a_locale_with_a_decimal_comma_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
