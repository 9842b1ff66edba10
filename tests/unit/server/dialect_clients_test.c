/* dialect_clients_test.c - the recorded requests of real clients: all are taken, mean what they should, and each
 * follow-up extends the prompt before it. */
#include "common.h"

#define CLIENTS "tests/data/clients/"

static const struct recorded {
	const char *file;
	const struct dialect *d;
	const char *roles;	/* of the conversation: s u t a, ! = a call, + = reasoning, ~ = a carrier */
	int32_t max_tokens;
	size_t n_tool;		/* that the prompt shows */
	bool stream;
} recorded[] = {
	{"anthropic-sdk/02-POST-v1_messages_count_tokens", &dialect_messages, "su", -1, 1, false},
	{"anthropic-sdk/03-POST-v1_messages", &dialect_messages, "su", 64, 0, false},
	{"anthropic-sdk/04-POST-v1_messages", &dialect_messages, "su", 2048, 1, true},
	{"anthropic-sdk/05-POST-v1_messages", &dialect_messages, "sua+~!t", 2048, 1, true},
	{"claude-code/02-POST-v1_messages", &dialect_messages, "suu", 32000, 24, true},
	{"claude-code/03-POST-v1_messages", &dialect_messages, "suua+~!t", 32000, 24, true},
	{"codex/01-POST-v1_responses", &dialect_responses, "suu", -1, 12, true},
	{"codex/02-POST-v1_responses", &dialect_responses, "suua+~!t", -1, 12, true},
	{"openai-sdk/02-POST-v1_chat_completions", &dialect_chat, "su", 50, 0, false},
	{"openai-sdk/03-POST-v1_chat_completions", &dialect_chat, "su", -1, 1, true},
	{"openai-sdk/04-POST-v1_chat_completions", &dialect_chat, "sua+!t", -1, 1, false},
	{"openai-sdk/05-POST-v1_chat_completions", &dialect_chat, "u", -1, 0, true},
	{"openai-sdk/06-POST-v1_completions", &dialect_completions, "", 5, 0, false},
	{"openai-sdk/07-POST-v1_responses", &dialect_responses, "su", 30, 0, false},
	{"openai-sdk/08-POST-v1_responses", &dialect_responses, "su", -1, 1, true},
	{"opencode/01-POST-v1_chat_completions", &dialect_chat, "suu", 32000, 0, true},
	{"opencode/02-POST-v1_chat_completions", &dialect_chat, "su", 32000, 10, true},
	{"opencode/03-POST-v1_chat_completions", &dialect_chat, "sua+!t", 32000, 10, true},
	{"pi-ds4/01-POST-v1_chat_completions", &dialect_chat, "su", 32000, 4, true},
	{"pi-ds4/02-POST-v1_chat_completions", &dialect_chat, "sua+!t", 32000, 4, true},
};

#define N_RECORDED (sizeof recorded / sizeof *recorded)

static json_t *recorded_body(const char *file)
{
	struct buf text = BUF_CAP(1 << 24);
	struct err err = {0};
	char path[200];
	json_t *whole, *body;

	snprintf(path, sizeof path, CLIENTS "%s.json", file);
	if (file_read(&text, path, &err) != OK)
		fail_msg("%s", err.msg);
	whole = parse_json(buf_cstr(&text), text.len);
	body = json_incref(json_object_get(whole, "body"));
	json_decref(whole);
	buf_clear(&text);
	return body;
}

static const struct recorded *find(const char *file)
{
	for (size_t i = 0; i < N_RECORDED; i++)
		if (strncmp(recorded[i].file, file, strlen(file)) == 0)
			return &recorded[i];
	fail_msg("%s is not listed", file);
	return NULL;
}

static void open_request(const struct recorded *r, struct api_request *q)
{
	json_t *body = recorded_body(r->file);
	struct api_error e = {0};

	*q = (struct api_request){.model = NULL};
	if (!r->d->parse(body, &env, q, &e))
		fail_msg("%s: %d %s (%s)", r->file, e.status, e.message, e.param);
	json_decref(body);
}

static void describe(const struct conversation *c, struct buf *out)
{
	for (size_t i = 0; c && i < c->n; i++) {
		const struct message *m = &c->messages[i];

		buf_byte(out, m->role == ROLE_SYSTEM ? 's' : m->role == ROLE_USER ? 'u' : m->role == ROLE_TOOL ? 't' : 'a');
		buf_str(out, m->reasoning.n ? "+" : "");
		buf_str(out, m->carrier.n ? "~" : "");
		buf_str(out, m->n_calls ? "!" : "");
	}
}

static void every_recorded_request_is_understood(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_RECORDED; i++) {
		const struct recorded *r = &recorded[i];
		struct buf roles = BUF_CAP(1000);
		struct api_request q;

		open_request(r, &q);
		describe(q.turn.conversation, &roles);
		expect_same(r->file, r->roles, buf_cstr(&roles));
		if (q.turn.max_tokens != r->max_tokens || q.n_tool != r->n_tool || q.stream != r->stream)
			fail_msg("%s: max_tokens %d, tools %zu, stream %d", r->file, q.turn.max_tokens, q.n_tool, q.stream);
		assert_string_equal(q.model, "deepseek-v4-flash");
		assert_int_equal(q.turn.thinking, r->d == &dialect_completions ? THINKING_OFF : THINKING_ON);
		buf_clear(&roles);
		api_request_clear(&q);
	}
}

static void what_the_clients_ask_for_arrives(void **state)
{
	struct api_request q;

	(void)state;
	open_request(find("openai-sdk/02"), &q);
	assert_int_equal(q.turn.sampling.seed, 7);
	assert_int_equal(q.turn.n_stop, 1);
	assert_memory_equal(q.turn.stop[0].p, "END", 3);
	assert_int_equal(q.turn.top_logprobs, 3);
	assert_true(q.turn.sampling.temperature == 1);	/* thinking: 0.2 is ignored */
	api_request_clear(&q);

	open_request(find("openai-sdk/03"), &q);
	assert_true(q.include_usage && q.turn.strict_tools && !q.turn.one_call);
	api_request_clear(&q);

	open_request(find("openai-sdk/04"), &q);
	assert_int_equal(q.turn.format, TURN_FORMAT_JSON_SCHEMA);
	assert_non_null(json_object_get(q.turn.schema, "properties"));
	assert_ptr_equal(q.turn.conversation->messages[0].response_format, q.turn.schema);
	api_request_clear(&q);

	open_request(find("openai-sdk/07"), &q);
	assert_true(q.summary && !q.encrypted);
	api_request_clear(&q);

	open_request(find("codex/02"), &q);
	assert_true(q.summary && q.encrypted);
	assert_string_equal(q.turn.conversation->messages[3].carrier.p, "bW9jay1lbmNyeXB0ZWQ=");
	assert_string_equal(q.turn.conversation->messages[3].calls[0].name.p, "exec_command");
	assert_string_equal(q.turn.conversation->messages[4].tool_call_id.p, "call_mock1");
	assert_string_equal(q.tool[4].name, "multi_agent_v1close_agent");
	assert_string_equal(q.tool[4].wire_name, "close_agent");
	assert_string_equal(q.tool[4].space, "multi_agent_v1");
	api_request_clear(&q);

	open_request(find("anthropic-sdk/04"), &q);
	assert_int_equal(q.turn.thinking_budget, 1024);
	assert_true(q.turn.one_call);
	api_request_clear(&q);

	open_request(find("claude-code/03"), &q);
	assert_string_equal(q.turn.conversation->messages[3].carrier.p, "bW9jay1zaWduYXR1cmU=");
	assert_int_equal(q.cache_written, INT32_MAX);	/* the last block has the breakpoint */
	api_request_clear(&q);
}

/* A follow-up begins with the prompt before it, as text and as ids; what comes first behind it is this. */
static void expect_extension(const char *before, const char *after, const char *then)
{
	struct buf a = BUF_CAP(BUF_MAX), b = BUF_CAP(BUF_MAX);
	struct token_list ia = {0}, ib = {0};
	struct render_options o = {.thinking = THINKING_ON};
	struct api_request qa, qb;
	struct err err = {0};
	size_t same = 0;

	open_request(find(before), &qa);
	open_request(find(after), &qb);
	render(&qa, &a);
	render(&qb, &b);
	if (b.len < a.len || memcmp(a.data, b.data, a.len))
		fail_msg("%s does not extend %s", after, before);
	if (strncmp(b.data + a.len, then, strlen(then)))
		fail_msg("%s: expected %s\nfound %.200s", after, then, b.data + a.len);
	o.effort = qa.turn.effort;
	if (chat_render_ids(qa.turn.conversation, &o, env.tokenizer, &ia, &err) != OK ||
	    chat_render_ids(qb.turn.conversation, &o, env.tokenizer, &ib, &err) != OK)
		fail_msg("%s", err.msg);
	while (same < ia.n && same < ib.n && ia.id[same] == ib.id[same])
		same++;
	if (same != ia.n)
		fail_msg("%s: %zu of %zu ids of %s are kept", after, same, ia.n, before);
	token_list_clear(&ia);
	token_list_clear(&ib);
	buf_clear(&a);
	buf_clear(&b);
	api_request_clear(&qa);
	api_request_clear(&qb);
}

#define THOUGHT "Ore etdo lorem a gnaaliqu alor. E mips umdo lor sitam etco nsec.</think>\n\n<｜DSML｜tool_calls>\n"

static void every_follow_up_extends_the_prompt_before_it(void **state)
{
	(void)state;
	expect_extension("anthropic-sdk/04", "anthropic-sdk/05", THOUGHT "<｜DSML｜invoke name=\"get_weather\">");
	expect_extension("claude-code/02", "claude-code/03", THOUGHT "<｜DSML｜invoke name=\"Bash\">");
	expect_extension("codex/01", "codex/02", THOUGHT "<｜DSML｜invoke name=\"exec_command\">");
	expect_extension("opencode/02", "opencode/03", THOUGHT "<｜DSML｜invoke name=\"bash\">");
	expect_extension("pi-ds4/01", "pi-ds4/02", THOUGHT "<｜DSML｜invoke name=\"bash\">");
}

/* Tokens of the first requests, of the table in the clients' README; prose was replaced by filler since then, so only
 * their size is compared. */
static void prompts_are_as_long_as_they_were_measured(void **state)
{
	static const struct {
		const char *file;
		size_t measured;
	} cases[] = {
		{"codex/01", 8470}, {"claude-code/02", 18911}, {"opencode/02", 7334}, {"opencode/01", 536},
		{"pi-ds4/01", 1470},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct render_options o = {.thinking = THINKING_ON};
		struct token_list ids = {0};
		struct api_request q;
		struct err err = {0};

		open_request(find(cases[i].file), &q);
		if (chat_render_ids(q.turn.conversation, &o, env.tokenizer, &ids, &err) != OK)
			fail_msg("%s", err.msg);
		if (ids.n < cases[i].measured / 2 || ids.n > cases[i].measured * 3)
			fail_msg("%s: expected about %zu tokens, found %zu", cases[i].file, cases[i].measured, ids.n);
		token_list_clear(&ids);
		api_request_clear(&q);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_recorded_request_is_understood),
		cmocka_unit_test(what_the_clients_ask_for_arrives),
		cmocka_unit_test(every_follow_up_extends_the_prompt_before_it),
		cmocka_unit_test(prompts_are_as_long_as_they_were_measured),
	};

	return cmocka_run_group_tests(tests, open_env, close_env);
}
