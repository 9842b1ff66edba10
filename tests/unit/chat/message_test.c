/* message_test.c - conversations built by hand and from JSON, and what is refused with which words. */
#include "chat/jsonl.h"
#include "chat/message.h"
#include "common.h"

static void expect_refused(const char *messages, const char *want)
{
	struct conversation *c = conversation_new();
	json_t *m = parse(messages);
	struct err err = {0};

	if (conversation_add_json(c, m, &err) != ERR_ARGUMENT || !strstr(err.msg, want))
		fail_msg("%s: expected \"%s\", found \"%s\"", messages, want, err.msg);
	json_decref(m);
	conversation_free(c);
}

static void a_bad_message_is_refused_by_its_place(void **state)
{
	(void)state;
	expect_refused("{}", "messages: expected an array, found an object");
	expect_refused("[1]", "messages[0]: expected an object with a role, found an integer");
	expect_refused("[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"bot\"}]",
	               "messages[1]: role: expected system, ");
	expect_refused("[{\"role\":\"bot\"}]", "found bot");
	expect_refused("[{\"role\":\"aééééééééééééééééééééééééééééééééééé\"}]", "found aééééééééééééééééééééééééééééé");
	expect_refused("[{\"role\":\"user\",\"content\":5}]",
	               "messages[0]: content: expected a string, found an integer");
	expect_refused("[{\"role\":\"user\",\"content\":99999999999999999999}]",
	               "content: expected a string, found a number");
	expect_refused("[{\"role\":\"user\",\"content\":[\"x\"]}]",
	               "content[0]: expected an object with a type, found a string");
	expect_refused("[{\"role\":\"assistant\",\"tool_calls\":{\"a\":1}}]",
	               "tool_calls: expected an array, found an object");
	expect_refused(
		"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}]",
		"messages[0]: tool_calls[0]: expected a function with a name, found an object");
	expect_refused("[{\"role\":\"user\",\"task\":\"nope\"}]", "task: expected action, ");
	expect_refused("[{\"role\":\"system\",\"tools\":[{}]}]",
	               "tools[0]: expected a function with a name");
	expect_refused("[{\"role\":\"system\",\"tools\":\"x\"}]",
	               "tools: expected an array, found a string");
}

static void a_bad_line_is_refused_by_its_field(void **state)
{
	static const char *const cases[][2] = {
		{"", "JSON line 1 column 1"},
		{"{}", "messages: expected an array, found nothing"},
		{"{\"messages\":[],\"args\":{\"thinking_mode\":\"deep\"}}",
	         "thinking_mode: expected chat or thinking, found deep"},
		{"{\"messages\":[],\"profile\":\"v5\"}",
	         "profile: expected preview or 0731, found v5"},
		{"{\"messages\":[],\"args\":{\"reasoning_effort\":7}}",
	         "reasoning_effort: expected low, high or max, found no text"},
		{"{\"messages\":[],\"args\":{\"context\":[1]}}",
	         "context: messages[0]: expected an object"},
	};
	struct tokenizer *t = open_tokenizer(REAL);
	struct buf out = BUF_CAP(1 << 16);
	struct err err = {0};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		if (chat_render_json(t, cases[i][0], strlen(cases[i][0]), &out, &err) !=
		            ERR_ARGUMENT ||
		    !strstr(err.msg, cases[i][1]))
			fail_msg("%s: expected \"%s\", found \"%s\"", cases[i][0], cases[i][1],
			         err.msg);
	assert_int_equal(chat_parse_json(t, "{\"mode\":\"chat\"}", 15, &out, &err), ERR_ARGUMENT);
	assert_string_equal(err.msg, "text: expected a string, found none");
	buf_clear(&out);
	tokenizer_close(t);
}

static void absent_fields_mean_nothing(void **state)
{
	struct conversation *c = conversation_new();
	json_t *m = parse(
		"[{\"role\":\"system\",\"content\":null,\"tools\":[],\"response_format\":{}},"
		"{\"role\":\"assistant\",\"tool_calls\":null,\"task\":null,\"wo_eos\":false}]");

	(void)state;
	assert_int_equal(conversation_add_json(c, m, NULL), OK);
	assert_int_equal(c->messages[0].content.n, 0);
	assert_null(c->messages[0].tools);
	assert_null(c->messages[0].response_format);
	assert_int_equal(c->messages[1].n_calls, 0);
	assert_int_equal(c->messages[1].task, TASK_NONE);
	assert_false(c->messages[1].unfinished);
	json_decref(m);
	conversation_free(c);
}

static void content_parts_are_joined_as_their_role_wants(void **state)
{
	static const char parts[] = "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\"},{"
	                            "\"type\":\"text\",\"text\":\"b\"}]";
	char json[300];
	struct conversation *c = conversation_new();
	json_t *m;

	(void)state;
	snprintf(json, sizeof json,
	         "[{\"role\":\"user\",\"content\":%s},{\"role\":\"assistant\",\"content\":%s}]",
	         parts, parts);
	m = parse(json);
	assert_int_equal(conversation_add_json(c, m, NULL), OK);
	assert_string_equal(c->messages[0].content.p, "a\n\n[Unsupported image_url]\n\nb");
	assert_string_equal(c->messages[1].content.p, "a[Unsupported image_url]b");
	json_decref(m);
	conversation_free(c);
}

static void tools_go_to_the_system_message_or_bring_one(void **state)
{
	struct conversation *c = conversation_new();
	json_t *tools =
		parse("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"name\":\"g\"}]");
	struct err err = {0};

	(void)state;
	conversation_add(c, ROLE_USER, "u", 1);
	assert_int_equal(conversation_set_tools(c, tools, &err), OK);
	assert_int_equal(c->n, 2);
	assert_int_equal(c->messages[0].role, ROLE_SYSTEM);
	assert_string_equal(c->messages[1].content.p, "u");
	assert_int_equal(json_array_size(c->messages[0].tools), 2);
	assert_string_equal(member(json_array_get(c->messages[0].tools, 0), "name"), "f");
	assert_int_equal(conversation_set_tools(c, tools, &err), OK);
	assert_int_equal(c->n, 2);
	assert_int_equal(conversation_set_tools(c, json_array_get(tools, 0), &err), ERR_ARGUMENT);
	json_decref(tools);
	conversation_free(c);
}

static void messages_are_added_and_cut(void **state)
{
	struct conversation *c = conversation_new();
	struct message *m;
	struct tool_call call = {.id = {"1", 1}, .name = {"f", 1}, .arguments = {"{}", 2}};

	(void)state;
	for (int i = 0; i < 20; i++) {
		m = conversation_add(c, ROLE_ASSISTANT, "a\0b", 3);
		conversation_set_reasoning(c, m, "r", 1);
		conversation_add_call(c, m, &call);
		conversation_add_call(c, m, &call);
		conversation_add_tool_result(c, "1", "out", 3);
	}
	assert_int_equal(c->n, 40);
	assert_memory_equal(c->messages[38].content.p, "a\0b", 4);
	assert_int_equal(c->messages[38].n_calls, 2);
	assert_string_equal(c->messages[39].tool_call_id.p, "1");
	conversation_cut(c, 1);
	assert_int_equal(c->n, 1);
	conversation_cut(c, 5);
	assert_int_equal(c->n, 1);
	assert_true(conversation_ok(c));
	conversation_free(c);
}

static void sampled_ids_are_kept_without_eos_and_split_at_the_end_of_thought(void **state)
{
	struct tokenizer *t = open_tokenizer(REAL);
	struct conversation *c = conversation_new();
	struct message *m = conversation_add(c, ROLE_ASSISTANT, "", 0);
	int32_t close = tokenizer_special(t, SPECIAL_END_THINK),
		eos = tokenizer_special(t, SPECIAL_EOS);
	int32_t ids[] = {100, 101, close, 102, eos};

	(void)state;
	conversation_set_exact(c, m, t, THINKING_ON, ids, 5);
	assert_int_equal(m->exact.n, 4);
	assert_int_equal(m->exact.n_reasoning, 3);
	assert_true(m->exact.closed);
	conversation_set_exact(c, m, t, THINKING_ON, ids, 2);
	assert_int_equal(m->exact.n_reasoning, 2);
	assert_false(m->exact.closed);
	conversation_set_exact(c, m, t, THINKING_OFF, ids + 3, 2);
	assert_int_equal(m->exact.n, 1);
	assert_int_equal(m->exact.n_reasoning, 0);
	conversation_set_exact(c, m, t, THINKING_OFF, ids + 4, 1);
	assert_int_equal(m->exact.n, 0);
	conversation_free(c);
	tokenizer_close(t);
}

static void running_out_of_memory_is_remembered(void **state)
{
	(void)state;
	for (long n = 1; n < 60; n++) {
		struct conversation *c;
		struct message *m;
		struct tool_call call = {.id = {"1", 1}, .name = {"f", 1}, .arguments = {"{}", 2}};
		bool all;

		mem_fail_at(n);
		c = conversation_new();
		if (!c)
			continue;
		for (int i = 0; i < 9; i++) {
			m = conversation_add(c, ROLE_ASSISTANT, "a", 1);
			if (m)
				conversation_add_call(c, m, &call);
		}
		mem_fail_at(0);
		all = conversation_ok(c);
		for (size_t i = 0; i < c->n && all; i++)
			all = c->messages[i].content.n == 1 && c->messages[i].n_calls == 1 &&
			      c->messages[i].calls[0].arguments.n == 2;
		if (conversation_ok(c) && (!all || c->n != 9))
			fail_msg("allocation %ld failed: expected a failed conversation, found an "
			         "incomplete one",
			         n);
		conversation_free(c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bad_message_is_refused_by_its_place),
		cmocka_unit_test(a_bad_line_is_refused_by_its_field),
		cmocka_unit_test(absent_fields_mean_nothing),
		cmocka_unit_test(content_parts_are_joined_as_their_role_wants),
		cmocka_unit_test(tools_go_to_the_system_message_or_bring_one),
		cmocka_unit_test(messages_are_added_and_cut),
		cmocka_unit_test(sampled_ids_are_kept_without_eos_and_split_at_the_end_of_thought),
		cmocka_unit_test(running_out_of_memory_is_remembered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
