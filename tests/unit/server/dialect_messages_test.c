/* dialect_messages_test.c - /v1/messages: what requests mean, and the exact bytes of answers. */
#include "common.h"

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define THINK "<｜Assistant｜><think>"
#define BODY(fields) "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" fields "}"
#define TOOLS ",\"tools\":[{\"name\":\"f\",\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}}]"

static void conversations_become_the_prompt_of_the_format(void **state)
{
	static const struct {
		const char *fields, *messages, *prompt;
	} cases[] = {
		{"", "[{\"role\":\"user\",\"content\":\"Hi\"}]", BOS USER "Hi" THINK},
		{"\"system\":\"S\",", "[{\"content\":\"Hi\",\"role\":\"user\"}]", BOS "S" USER "Hi" THINK},
		/* parts of system; the billing header of Claude Code is dropped */
		{"\"system\":[{\"type\":\"text\",\"text\":\"x-anthropic-billing-header: v=1\"},{\"type\":\"text\",\"text\":\"A\"},"
		 "{\"type\":\"text\",\"text\":\"B\",\"cache_control\":{\"type\":\"ephemeral\"}}],",
		 "[{\"role\":\"user\",\"content\":\"Hi\"}]", BOS "A\n\nB" USER "Hi" THINK},
		/* role system inside messages stays where it is */
		{"\"system\":\"S\",", "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
		 "\"text\":\"b\",\"cache_control\":{\"type\":\"ephemeral\"}}]},{\"role\":\"system\",\"content\":\"Late\"}]",
		 BOS "S" USER "a\n\nb\n\nLate" THINK},
		{"", "[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"source\":{}},{\"type\":\"text\",\"text\":\"?\"}]}]",
		 BOS USER "[Unsupported image]\n\n?" THINK},
		/* results and texts in their order */
		{"", "[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"redacted_thinking\","
		 "\"data\":\"zz\"},{\"type\":\"thinking\",\"thinking\":\"R\",\"signature\":\"s\"},{\"type\":\"text\",\"text\":\"t\","
		 "\"citations\":null},{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"f\",\"input\":{\"a\":\"b\"}}]},"
		 "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"i\",\"is_error\":true,\"content\":"
		 "[{\"type\":\"text\",\"text\":\"p\"},{\"type\":\"image\"},{\"type\":\"text\",\"text\":\"q\"}]},"
		 "{\"type\":\"text\",\"text\":\"and?\"}]}]",
		 BOS USER "go<｜Assistant｜></think>t\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
		 "<｜DSML｜parameter name=\"a\" string=\"true\">b</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>" EOS
		 USER "<tool_result>p\n\n[Unsupported image]\n\nq</tool_result>\n\nand?" THINK},
		{"", "[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\","
		 "\"id\":\"i\",\"name\":\"f\",\"input\":{}}]},{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\","
		 "\"tool_use_id\":\"i\"}]}]",
		 BOS USER "go<｜Assistant｜></think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n"
		 "</｜DSML｜tool_calls>" EOS USER "<tool_result></tool_result>" THINK},
		/* prefill */
		{"\"thinking\":{\"type\":\"disabled\"},", "[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\","
		 "\"content\":\"{\"}]", BOS USER "go<｜Assistant｜></think>{"},
		/* a turn of thinking alone, and what Claude Code says to it */
		{"", "[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\","
		 "\"thinking\":\"R\",\"signature\":\"s\"}]},{\"role\":\"user\",\"content\":\"(no content)\"}]",
		 BOS USER "go<｜Assistant｜></think>" EOS USER "(no content)" THINK},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char body[2500];

		snprintf(body, sizeof body, "{%s\"messages\":%s}", cases[i].fields, cases[i].messages);
		expect_prompt(&dialect_messages, body, cases[i].prompt);
	}
}

static void thinking_and_its_signature_come_back(void **state)
{
	static const char body[] =
		"{\"messages\":[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\","
		"\"thinking\":\"R\",\"signature\":\"name-of-turn\"},{\"type\":\"text\",\"text\":\"t\"}]},{\"role\":\"user\","
		"\"content\":\"x\"}]" TOOLS "}";
	struct buf b = BUF_CAP(BUF_MAX);
	struct api_request q;

	(void)state;
	must_parse(&dialect_messages, body, &q);
	assert_string_equal(q.turn.conversation->messages[2].carrier.p, "name-of-turn");
	render(&q, &b);
	if (!strstr(b.data, "\n{\"name\": \"f\", \"description\": \"d\", \"parameters\": {\"type\": \"object\"}}\n\n") ||
	    !strstr(b.data, USER "go" THINK "R</think>t" EOS USER "x" THINK))
		fail_msg("%s", b.data);
	buf_clear(&b);
	api_request_clear(&q);
}

static void cache_control_leaves_no_trace_in_the_prompt(void **state)
{
#define MARK ",\"cache_control\":{\"type\":\"ephemeral\"}"
#define MARKED(a, b, c, d) \
	"{\"system\":[{\"type\":\"text\",\"text\":\"S\"" a "}],\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"," \
	"\"text\":\"one two three\"" b "}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"t\"" c "}]}," \
	"{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"" d "}]}]}"
	static const char *const bodies[] = {
		MARKED("", "", "", ""), MARKED(MARK, "", "", ""), MARKED("", MARK, "", ""), MARKED("", "", MARK, ""),
		MARKED("", "", "", MARK)};
	static const char *const covered[] = {NULL, BOS "S", BOS "S" USER "one two three",
					      BOS "S" USER "one two three<｜Assistant｜></think>t" EOS, NULL};

	(void)state;
	for (size_t i = 0; i < 5; i++) {
		struct token_list ids = {0};
		struct api_request q;

		expect_prompt(&dialect_messages, bodies[i], BOS "S" USER "one two three<｜Assistant｜></think>t" EOS USER "x"
							    THINK);
		must_parse(&dialect_messages, bodies[i], &q);
		if (covered[i])
			token_encode_control(env.tokenizer, covered[i], strlen(covered[i]), &ids);
		/* behind an answer whose reasoning was dropped the count is a guess: it still counts <think> */
		if (q.cache_written != (i == 4 ? INT32_MAX : (int32_t)ids.n + (i == 3)))
			fail_msg("breakpoint %zu: expected %zu tokens, found %d", i, ids.n, q.cache_written);
		token_list_clear(&ids);
		api_request_clear(&q);
	}
}

static void limits_are_read(void **state)
{
	struct api_request q;

	(void)state;
	must_parse(&dialect_messages, BODY(""), &q);
	assert_int_equal(q.turn.max_tokens, -1);
	assert_int_equal(q.turn.thinking, THINKING_ON);	/* DeepSeek's default, not Anthropic's */
	assert_int_equal(q.cache_written, 0);
	api_request_clear(&q);

	must_parse(&dialect_messages,
		   BODY(",\"max_tokens\":5,\"stop_sequences\":[\"END\"],\"temperature\":0.3,\"top_p\":0.9,\"top_k\":20,"
			"\"thinking\":{\"type\":\"disabled\"},\"metadata\":{\"user_id\":\"u\"},\"system\":null,"
			"\"context_management\":{\"edits\":[]},\"mcp_servers\":[],\"stream\":false"), &q);
	assert_int_equal(q.turn.max_tokens, 5);
	assert_int_equal(q.turn.n_stop, 1);
	assert_int_equal(q.turn.sampling.top_k, 20);
	assert_true(q.turn.sampling.temperature == 0.3f && q.turn.sampling.top_p == 0.9f);
	api_request_clear(&q);

	env.profile = PROFILE_0731;
	must_parse(&dialect_messages, BODY(",\"output_config\":{\"effort\":\"low\",\"format\":{\"type\":\"json_schema\","
					   "\"schema\":{\"type\":\"object\"}}},\"thinking\":{\"type\":\"adaptive\"}"), &q);
	env.profile = PROFILE_PREVIEW;
	assert_int_equal(q.turn.effort, EFFORT_LOW);
	assert_int_equal(q.turn.thinking, THINKING_ON);
	assert_int_equal(q.turn.format, TURN_FORMAT_JSON_SCHEMA);
	api_request_clear(&q);
}

static void tool_choice_is_understood(void **state)
{
	static const struct {
		const char *choice;
		enum tool_choice want;
		bool one;
	} cases[] = {
		{"{\"type\":\"auto\",\"disable_parallel_tool_use\":true}", TOOL_CHOICE_AUTO, true},
		{"{\"type\":\"any\"}", TOOL_CHOICE_REQUIRED, false},
		{"{\"type\":\"none\"}", TOOL_CHOICE_NONE, false},
		{"{\"type\":\"tool\",\"name\":\"f\"}", TOOL_CHOICE_NAMED, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct api_request q;
		char body[400];

		snprintf(body, sizeof body, BODY(TOOLS ",\"tool_choice\":%s"), cases[i].choice);
		must_parse(&dialect_messages, body, &q);
		assert_int_equal(q.turn.tool_choice, cases[i].want);
		assert_int_equal(q.turn.one_call, cases[i].one);
		api_request_clear(&q);
	}
}

static void tools_of_anthropics_servers_are_left_out(void **state)
{
	struct api_request q;

	(void)state;
	must_parse(&dialect_messages, BODY(",\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"web_search\"},"
					   "{\"type\":\"custom\",\"name\":\"f\",\"input_schema\":{}},"
					   "{\"type\":\"bash_20250124\",\"name\":\"bash\"}]"), &q);
	assert_int_equal(q.n_tool, 1);
	assert_string_equal(q.tool[0].name, "f");
	api_request_clear(&q);
}

static void what_is_wrong_is_named(void **state)
{
#define ONE(message) "{\"messages\":[" message "]}"
	static const struct {
		const char *body, *param, *message;
	} cases[] = {
		{"{}", "messages", "missing messages"},
		{"{\"messages\":[]}", "messages", "at least one"},
		{ONE("{\"content\":\"x\"}"), "messages[0].role", "missing"},
		{ONE("{\"role\":\"tool\",\"content\":\"x\"}"), "messages[0].role", "found \"tool\""},
		{ONE("{\"role\":\"user\",\"content\":1}"), "messages[0].content", "a string or an array"},
		{ONE("{\"role\":\"user\",\"content\":[\"x\"]}"), "messages[0].content[0]", "a block with a type"},
		{ONE("{\"role\":\"user\",\"content\":[{}]}"), "messages[0].content[0].type", "missing"},
		{ONE("{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\"}]}"), "messages[0].content[0].tool_use_id",
		 "missing"},
		{ONE("{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"toolu_9\"}]}"), "messages",
		 "Anthropic continuation state is not available for tool_use_id toolu_9; retry by replaying the full "
		 "messages history"},
		{ONE("{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"f\",\"input\":\"x\"}]}"),
		 "messages[0].content[0].input", "an object"},
		{ONE("{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"i\"}]}"),
		 "messages[0].content[0].name", "missing"},
		{ONE("{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":1}]}"),
		 "messages[0].content[0].thinking", "a string"},
		{ONE("{\"role\":\"assistant\",\"content\":[]}"), "messages", "empty"},
		{BODY(",\"system\":5"), "system", "a string or an array"},
		{BODY(",\"system\":[{\"type\":\"text\",\"text\":5}]"), "system[0].text", "a string"},
		{BODY(",\"max_tokens\":0"), "max_tokens", "at least 1"},
		{BODY(",\"stop_sequences\":[1]"), "stop_sequences[0]", "a string"},
		{BODY(",\"tools\":[{\"name\":\"f\"}]"), "tools[0].input_schema", "missing"},
		{BODY(",\"tools\":[{\"input_schema\":{}}]"), "tools[0].name", "missing"},
		{BODY(",\"tool_choice\":\"auto\""), "tool_choice", "an object"},
		{BODY(",\"tool_choice\":{\"type\":\"any\"}"), "tool_choice", "none is declared"},
		{BODY(",\"tool_choice\":{\"type\":\"tool\",\"name\":\"g\"}"), "tool_choice.name", "found \"g\""},
		{BODY(",\"tool_choice\":{\"type\":\"some\"}"), "tool_choice.type", "auto, any, tool or none"},
		{BODY(",\"output_config\":{\"effort\":\"huge\"}"), "output_config.effort", "found \"huge\""},
		{BODY(",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":\"many\"}"), "thinking.budget_tokens", "an integer"},
		{BODY(",\"temperature\":\"hot\""), "temperature", "a number"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect_refused(&dialect_messages, cases[i].body, cases[i].param, cases[i].message);
}

/* --- answers --- */

#define EVENT(type, fields) "event: " type "\ndata: {\"type\":\"" type "\"" fields "}\n\n"
#define HEAD "\"id\":\"msg_#\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":["
#define USAGE(out) "\"usage\":{\"input_tokens\":60,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":40," \
		   "\"output_tokens\":" out "}"
#define START EVENT("message_start", ",\"message\":{" HEAD "],\"stop_reason\":null,\"stop_sequence\":null," USAGE("0") "}") \
	      EVENT("ping", "")
#define STOP(reason, sequence) \
	EVENT("message_delta", ",\"delta\":{\"stop_reason\":\"" reason "\",\"stop_sequence\":" sequence "}," USAGE("20")) \
	EVENT("message_stop", "")
#define BLOCK(i, block) EVENT("content_block_start", ",\"index\":" i ",\"content_block\":{" block "}")
#define DELTA(i, delta) EVENT("content_block_delta", ",\"index\":" i ",\"delta\":{" delta "}")
#define BLOCK_END(i) EVENT("content_block_stop", ",\"index\":" i)
#define THINKING "\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\""
#define TEXT "\"type\":\"text\",\"text\":\"\""

static void expect_answer(const char *body, const struct script *s, size_t n, const char *want)
{
	struct buf out = BUF_CAP(BUF_MAX);

	answer(&dialect_messages, body, s, n, 0, &out);
	mask_id(&out, "msg_", 24);
	expect_same(body, want, buf_cstr(&out));
	buf_clear(&out);
}

#define EXPECT(body, s, want) expect_answer(body, s, sizeof s / sizeof *s, want)

static const struct script said[] = {
	REASONING("Let me "), REASONING("\"see\"."), CONTENT("Looking\n"),
	CALL(CALL_1, "f"), ARGUMENTS("{"), ARGUMENTS("\"city\": \"Paris\"}"), END, FINISH(TURN_TOOL_CALLS)};

static void a_stream_has_these_bytes(void **state)
{
	(void)state;
	EXPECT(BODY(TOOLS ",\"model\":\"m\",\"stream\":true"), said,
	       START
	       BLOCK("0", THINKING)
	       DELTA("0", "\"type\":\"thinking_delta\",\"thinking\":\"Let me \"")
	       DELTA("0", "\"type\":\"thinking_delta\",\"thinking\":\"\\\"see\\\".\"")
	       DELTA("0", "\"type\":\"signature_delta\",\"signature\":\"" CARRIER "\"")
	       BLOCK_END("0")
	       BLOCK("1", TEXT)
	       DELTA("1", "\"type\":\"text_delta\",\"text\":\"Looking\\n\"")
	       BLOCK_END("1")
	       BLOCK("2", "\"type\":\"tool_use\",\"id\":\"" CALL_1 "\",\"name\":\"f\",\"input\":{}")
	       DELTA("2", "\"type\":\"input_json_delta\",\"partial_json\":\"{\"")
	       DELTA("2", "\"type\":\"input_json_delta\",\"partial_json\":\"\\\"city\\\": \\\"Paris\\\"}\"")
	       BLOCK_END("2")
	       STOP("tool_use", "null"));
}

static void a_turn_of_thinking_alone_gets_an_empty_text(void **state)
{
	static const struct script s[] = {REASONING("Hm"), FINISH(TURN_LENGTH)};

	(void)state;
	EXPECT(BODY(",\"model\":\"m\",\"stream\":true"), s,
	       START
	       BLOCK("0", THINKING)
	       DELTA("0", "\"type\":\"thinking_delta\",\"thinking\":\"Hm\"")
	       DELTA("0", "\"type\":\"signature_delta\",\"signature\":\"" CARRIER "\"")
	       BLOCK_END("0")
	       BLOCK("1", TEXT)
	       BLOCK_END("1")
	       STOP("max_tokens", "null"));
	EXPECT(BODY(",\"model\":\"m\""), s,
	       "{" HEAD "{\"type\":\"thinking\",\"thinking\":\"Hm\",\"signature\":\"" CARRIER "\"},{\"type\":\"text\",\"text\":\"\"}],"
	       "\"stop_reason\":\"max_tokens\",\"stop_sequence\":null," USAGE("20") "}\n");
}

static void a_whole_answer_has_these_bytes(void **state)
{
	(void)state;
	EXPECT(BODY(TOOLS ",\"model\":\"m\""), said,
	       "{" HEAD "{\"type\":\"thinking\",\"thinking\":\"Let me \\\"see\\\".\",\"signature\":\"" CARRIER "\"},"
	       "{\"type\":\"text\",\"text\":\"Looking\\n\"},"
	       "{\"type\":\"tool_use\",\"id\":\"" CALL_1 "\",\"name\":\"f\",\"input\":{\"city\": \"Paris\"}}],"
	       "\"stop_reason\":\"tool_use\",\"stop_sequence\":null," USAGE("20") "}\n");
}

static void the_stop_sequence_that_ended_it_is_named(void **state)
{
	static const struct script s[] = {CONTENT("Hi"), FINISH(TURN_STOP_STRING)};	/* .stop = 0 */
	static const struct script natural[] = {CONTENT("Hi"), FINISH(TURN_STOP)};

	(void)state;
	EXPECT(BODY(",\"model\":\"m\",\"stream\":true,\"stop_sequences\":[\"\",\"E\\\"ND\",\"other\"]"), s,
	       START BLOCK("0", TEXT) DELTA("0", "\"type\":\"text_delta\",\"text\":\"Hi\"") BLOCK_END("0")
	       STOP("stop_sequence", "\"E\\\"ND\""));
	EXPECT(BODY(",\"model\":\"m\",\"stream\":true,\"stop_sequences\":[\"END\"]"), natural,
	       START BLOCK("0", TEXT) DELTA("0", "\"type\":\"text_delta\",\"text\":\"Hi\"") BLOCK_END("0")
	       STOP("end_turn", "null"));
}

/* 100 tokens, 40 from the cache; a breakpoint at the end covers all, so that 60 were written. */
static void usage_counts_what_a_breakpoint_covers_as_written(void **state)
{
	static const struct script s[] = {CONTENT("Hi"), FINISH(TURN_STOP)};
	struct buf out = BUF_CAP(BUF_MAX);

	(void)state;
	ANSWER(&dialect_messages, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\","
				  "\"cache_control\":{\"type\":\"ephemeral\"}}]}]}", s, 0, &out);
	if (!strstr(buf_cstr(&out), "\"usage\":{\"input_tokens\":0,\"cache_creation_input_tokens\":60,"
				    "\"cache_read_input_tokens\":40,\"output_tokens\":20}"))
		fail_msg("%s", buf_cstr(&out));
	buf_clear(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(conversations_become_the_prompt_of_the_format),
		cmocka_unit_test(thinking_and_its_signature_come_back),
		cmocka_unit_test(cache_control_leaves_no_trace_in_the_prompt),
		cmocka_unit_test(limits_are_read),
		cmocka_unit_test(tool_choice_is_understood),
		cmocka_unit_test(tools_of_anthropics_servers_are_left_out),
		cmocka_unit_test(what_is_wrong_is_named),
		cmocka_unit_test(a_stream_has_these_bytes),
		cmocka_unit_test(a_turn_of_thinking_alone_gets_an_empty_text),
		cmocka_unit_test(a_whole_answer_has_these_bytes),
		cmocka_unit_test(the_stop_sequence_that_ended_it_is_named),
		cmocka_unit_test(usage_counts_what_a_breakpoint_covers_as_written),
	};

	return cmocka_run_group_tests(tests, open_env, close_env);
}
