/* api_error_test.c - errors in each API's shape, and the wording that clients match. */
#include "common.h"

static void expect_error(const struct dialect *d, const struct api_error *e, const char *want)
{
	struct buf out = BUF_CAP(BUF_MAX);

	d->error(e, "req_1", &out);
	expect_same(d->name, want, buf_cstr(&out));
	buf_clear(&out);
}

#define OVERFLOW "prompt is too long: 120000 tokens > 100000 maximum. This model's maximum context length is 100000 tokens; " \
		 "please reduce the length of the messages."

static void an_overflow_has_the_wording_that_all_clients_recognise(void **state)
{
	struct api_error e;

	(void)state;
	api_error_overflow(&e, &dialect_chat, 120000, 100000);
	assert_int_equal(e.status, 400);
	expect_error(&dialect_chat, &e,
		     "{\"error\":{\"message\":\"" OVERFLOW "\",\"type\":\"invalid_request_error\",\"param\":\"messages\","
		     "\"code\":\"context_length_exceeded\",\"n_prompt_tokens\":120000,\"n_ctx\":100000}}\n");
	api_error_overflow(&e, &dialect_responses, 120000, 100000);
	assert_string_equal(e.param, "input");
	api_error_overflow(&e, &dialect_completions, 120000, 100000);
	assert_string_equal(e.param, "prompt");
	api_error_overflow(&e, &dialect_messages, 120000, 100000);
	assert_int_equal(e.status, 400);
	expect_error(&dialect_messages, &e,
		     "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"" OVERFLOW "\","
		     "\"n_prompt_tokens\":120000,\"n_ctx\":100000},\"request_id\":\"req_1\"}\n");
}

static void busy_and_auth_are_said_in_the_shape_of_the_endpoint(void **state)
{
	struct api_error e;

	(void)state;
	api_error_busy(&e, &dialect_chat, 1);
	assert_int_equal(e.status, 503);
	assert_int_equal(e.retry_after, 1);
	expect_error(&dialect_chat, &e, "{\"error\":{\"message\":\"the server is busy, try again in 1 s\",\"type\":"
					"\"server_error\",\"param\":null,\"code\":\"server_busy\"}}\n");
	api_error_busy(&e, &dialect_messages, 1);
	assert_int_equal(e.status, 529);
	expect_error(&dialect_messages, &e, "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":"
					    "\"the server is busy, try again in 1 s\"},\"request_id\":\"req_1\"}\n");
	api_error_auth(&e, "wrong key");
	assert_int_equal(e.status, 401);
	expect_error(&dialect_responses, &e, "{\"error\":{\"message\":\"wrong key\",\"type\":\"invalid_request_error\","
					     "\"param\":null,\"code\":\"invalid_api_key\"}}\n");
	expect_error(&dialect_messages, &e, "{\"type\":\"error\",\"error\":{\"type\":\"authentication_error\",\"message\":"
					    "\"wrong key\"},\"request_id\":\"req_1\"}\n");
}

static void every_status_has_anthropics_type(void **state)
{
	static const struct {
		int status;
		const char *type;
	} cases[] = {
		{400, "invalid_request_error"}, {401, "authentication_error"}, {403, "permission_error"},
		{404, "not_found_error"},	{405, "invalid_request_error"}, {413, "request_too_large"},
		{429, "rate_limit_error"},	{500, "api_error"},		{503, "overloaded_error"},
		{504, "timeout_error"},		{529, "overloaded_error"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct buf out = BUF_CAP(BUF_MAX);
		struct api_error e;
		char want[80];

		api_error_set(&e, cases[i].status, NULL, NULL, "m");
		dialect_messages.error(&e, NULL, &out);
		snprintf(want, sizeof want, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":\"m\"}", cases[i].type);
		if (strncmp(buf_cstr(&out), want, strlen(want)))
			fail_msg("%d: expected %s, found %s", cases[i].status, want, buf_cstr(&out));
		buf_clear(&out);
	}
}

static void failures_of_a_turn_become_errors_of_the_api(void **state)
{
	static const struct {
		enum status code;
		int openai, anthropic;
	} cases[] = {
		{ERR_ARGUMENT, 400, 400}, {ERR_LIMIT, 503, 529}, {ERR_MEMORY, 503, 529}, {ERR_DEVICE, 500, 500},
		{ERR_IO, 500, 500},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct err err = {cases[i].code, "why"};
		struct api_error e;

		api_error_from(&e, &dialect_chat, &err);
		assert_int_equal(e.status, cases[i].openai);
		assert_string_equal(e.message, "why");
		api_error_from(&e, &dialect_messages, &err);
		assert_int_equal(e.status, cases[i].anthropic);
	}
}

/* Sentences of turn_open() and of schemas. */
static void refusals_of_a_turn_name_the_field(void **state)
{
	static const struct {
		const char *message, *chat, *responses, *messages;
	} cases[] = {
		{"unsupported keyword \"not\" at #/properties/a/not", "response_format", "text.format", "output_config.format"},
		{"#/pattern: unsupported group at byte 2 of \"(?=a)\"", "response_format", "text.format", "output_config.format"},
		{"unsupported keyword \"if\" at tools/0/parameters#/properties/a/if", "tools", "tools", "tools"},
		{"tool \"f\": the parameter name \"p\" cannot be written in a call", "tools", "tools", "tools"},
		{"tool_choice: the tool \"f\" is not declared", "tool_choice", "tool_choice", "tool_choice"},
		{"prompt: expected token ids from 0 to 9, got 10", "messages", "input", "messages"},
		{"something else", "", "", ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct err err = {.code = ERR_ARGUMENT};
		struct api_error e;

		snprintf(err.msg, sizeof err.msg, "%s", cases[i].message);
		api_error_from(&e, &dialect_chat, &err);
		expect_same(cases[i].message, cases[i].chat, e.param);
		api_error_from(&e, &dialect_responses, &err);
		expect_same(cases[i].message, cases[i].responses, e.param);
		api_error_from(&e, &dialect_messages, &err);
		expect_same(cases[i].message, cases[i].messages, e.param);
	}
}

/* The sentence is cut to the room there is, but never inside a character. */
static void long_messages_stay_well_formed(void **state)
{
	struct api_error e;
	char text[1200] = "";

	(void)state;
	for (int shift = 0; shift < 3; shift++) {
		memset(text, 'x', (size_t)shift);
		text[shift] = 0;
		for (int i = 0; i < 300; i++)
			strncat(text, "€", sizeof text - strlen(text) - 1);
		api_error_set(&e, 400, text, NULL, "%s", text);
		assert_true(strlen(e.message) > 500 && strlen(e.param) > 120);
		assert_int_equal(utf8_whole(e.message, strlen(e.message)), strlen(e.message));
		assert_int_equal(utf8_whole(e.param, strlen(e.param)), strlen(e.param));
	}
}

static void ids_are_random_hexadecimal(void **state)
{
	char a[65], b[65];

	(void)state;
	api_random_hex(a, 64);
	api_random_hex(b, 64);
	assert_int_equal(strspn(a, "0123456789abcdef"), 64);
	assert_int_equal(strlen(a), 64);
	assert_string_not_equal(a, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_overflow_has_the_wording_that_all_clients_recognise),
		cmocka_unit_test(busy_and_auth_are_said_in_the_shape_of_the_endpoint),
		cmocka_unit_test(every_status_has_anthropics_type),
		cmocka_unit_test(failures_of_a_turn_become_errors_of_the_api),
		cmocka_unit_test(refusals_of_a_turn_name_the_field),
		cmocka_unit_test(long_messages_stay_well_formed),
		cmocka_unit_test(ids_are_random_hexadecimal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
