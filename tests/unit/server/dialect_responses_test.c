/* dialect_responses_test.c - /v1/responses: what requests mean, and the exact bytes of answers. */
#include "common.h"

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define THINK "<｜Assistant｜><think>"
#define BODY(fields) "{\"input\":\"x\"" fields "}"
#define CALLS(invokes) "\n\n<｜DSML｜tool_calls>\n" invokes "</｜DSML｜tool_calls>"
#define INVOKE(name, parameters) "<｜DSML｜invoke name=\"" name "\">\n" parameters "\n</｜DSML｜invoke>\n"
#define STRING(key, value) "<｜DSML｜parameter name=\"" key "\" string=\"true\">" value "</｜DSML｜parameter>"
#define JSON(key, value) "<｜DSML｜parameter name=\"" key "\" string=\"false\">" value "</｜DSML｜parameter>"
#define USER_ITEM(text) "{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"" text "\"}]}"

static void items_become_the_prompt_of_the_format(void **state)
{
	static const struct {
		const char *fields, *input, *prompt;
	} cases[] = {
		{"", "\"Hi\"", BOS USER "Hi" THINK},
		{"\"instructions\":\"I\",", "[{\"role\":\"developer\",\"content\":\"D\"}," USER_ITEM("Hi") "]",
		 BOS "I\n\nD" USER "Hi" THINK},
		{"", "[" USER_ITEM("a") "," USER_ITEM("b") ",{\"role\":\"system\",\"content\":\"Late\"}]",
		 BOS USER "a\n\nb\n\nLate" THINK},
		{"", "[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\"},{\"type\":\"input_image\","
		 "\"image_url\":\"x\"}]}]", BOS USER "a\n\n[Unsupported input_image]" THINK},
		/* the items of one turn are one message; parallel calls; results in the order of the calls */
		{"", "[" USER_ITEM("go") ",{\"type\":\"reasoning\",\"id\":\"rs\",\"summary\":[{\"type\":\"summary_text\",\"text\":"
		 "\"S\"}],\"content\":[{\"type\":\"reasoning_text\",\"text\":\"R\"}]},{\"type\":\"message\",\"role\":\"assistant\","
		 "\"status\":\"completed\",\"content\":[{\"type\":\"output_text\",\"text\":\"t\"}]},"
		 "{\"type\":\"function_call\",\"call_id\":\"c1\",\"name\":\"f\",\"namespace\":\"ns_\",\"arguments\":\"{\\\"a\\\": 1}\"},"
		 "{\"type\":\"custom_tool_call\",\"call_id\":\"c2\",\"name\":\"patch\",\"input\":\"x\\ny\"},"
		 "{\"type\":\"custom_tool_call_output\",\"call_id\":\"c2\",\"output\":\"two\"},"
		 "{\"type\":\"function_call_output\",\"call_id\":\"c1\",\"output\":[{\"type\":\"input_text\",\"text\":\"one\"}]}]",
		 BOS USER "go<｜Assistant｜></think>t" CALLS(INVOKE("ns_f", JSON("a", "1")) INVOKE("patch", STRING("input", "x\ny")))
		 EOS USER "<tool_result>one</tool_result>\n\n<tool_result>two</tool_result>" THINK},
		{"", "[" USER_ITEM("go") ",{\"type\":\"local_shell_call\",\"id\":\"l\",\"call_id\":\"c\",\"status\":\"completed\","
		 "\"action\":{\"type\":\"exec\",\"command\":[\"ls\"]}},{\"type\":\"local_shell_call_output\",\"id\":\"c\","
		 "\"output\":\"o\"}]",
		 BOS USER "go<｜Assistant｜></think>" CALLS(INVOKE("local_shell", STRING("type", "exec") "\n"
		 JSON("command", "[\"ls\"]"))) EOS USER "<tool_result>o</tool_result>" THINK},
		{"", "[" USER_ITEM("go") ",{\"type\":\"tool_search_call\",\"call_id\":\"c\",\"execution\":\"client\",\"arguments\":"
		 "{\"query\":\"q\"}},{\"type\":\"tool_search_output\",\"call_id\":\"c\",\"tools\":[{\"name\":\"t\"}]}]",
		 BOS USER "go<｜Assistant｜></think>" CALLS(INVOKE("tool_search", STRING("query", "q"))) EOS
		 USER "<tool_result>[{\"name\": \"t\"}]</tool_result>" THINK},
		/* hosted tools and compaction say nothing, not even between the items of a turn */
		{"", "[{\"type\":\"compaction\",\"encrypted_content\":\"zz\"}," USER_ITEM("go") ",{\"type\":\"web_search_call\","
		 "\"id\":\"w\",\"status\":\"completed\"},{\"role\":\"assistant\",\"content\":\"a\"},{\"type\":"
		 "\"image_generation_call\"},{\"role\":\"assistant\",\"content\":\"b\"}," USER_ITEM("on") "]",
		 BOS USER "go<｜Assistant｜></think>ab" EOS USER "on" THINK},
		/* cut off: a trailing message goes on, a cut call without result is dropped */
		{"", "[" USER_ITEM("go") ",{\"type\":\"message\",\"role\":\"assistant\",\"status\":\"incomplete\",\"content\":"
		 "[{\"type\":\"output_text\",\"text\":\"Onc\"}]}]", BOS USER "go" THINK "</think>Onc"},
		{"", "[" USER_ITEM("go") ",{\"role\":\"assistant\",\"content\":\"t\"},{\"type\":\"function_call\",\"call_id\":\"c\","
		 "\"status\":\"incomplete\",\"name\":\"f\",\"arguments\":\"{\\\"a\"}," USER_ITEM("on") "]",
		 BOS USER "go<｜Assistant｜></think>t" EOS USER "on" THINK},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char body[2500];

		snprintf(body, sizeof body, "{%s\"input\":%s}", cases[i].fields, cases[i].input);
		expect_prompt(&dialect_responses, body, cases[i].prompt);
	}
}

static void reasoning_comes_from_content_or_summary_and_names_its_turn(void **state)
{
	static const struct {
		const char *item, *reasoning, *carrier;
	} cases[] = {
		{"\"content\":[{\"type\":\"reasoning_text\",\"text\":\"R\"}],\"summary\":[{\"type\":\"summary_text\",\"text\":\"S\"}],"
		 "\"encrypted_content\":\"E\"", "R", "E"},
		{"\"summary\":[{\"type\":\"summary_text\",\"text\":\"S\"},{\"type\":\"summary_text\",\"text\":\"T\"}],"
		 "\"encrypted_content\":null", "S\n\nT", ""},
		{"\"summary\":[],\"content\":null,\"encrypted_content\":\"E\"", "", "E"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct api_request q;
		const struct message *m;
		char body[600];

		snprintf(body, sizeof body, "{\"input\":[" USER_ITEM("go") ",{\"type\":\"reasoning\",%s},"
					    "{\"role\":\"assistant\",\"content\":\"t\"}," USER_ITEM("on") "]}", cases[i].item);
		must_parse(&dialect_responses, body, &q);
		m = &q.turn.conversation->messages[1];
		assert_int_equal(m->role, ROLE_ASSISTANT);
		assert_string_equal(m->reasoning.p ? m->reasoning.p : "", cases[i].reasoning);
		assert_string_equal(m->carrier.p ? m->carrier.p : "", cases[i].carrier);
		api_request_clear(&q);
	}
}

#define TOOLS \
	",\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"strict\":false,\"parameters\":{\"type\":\"object\"},\"description\":\"d\"}," \
	"{\"type\":\"namespace\",\"name\":\"ns_\",\"description\":\"x\",\"tools\":[{\"type\":\"function\",\"name\":\"g\"}]}," \
	"{\"type\":\"custom\",\"name\":\"patch\"},{\"type\":\"tool_search\",\"execution\":\"client\",\"description\":\"find\"," \
	"\"parameters\":{\"type\":\"object\"}},{\"type\":\"web_search\"},{\"type\":\"image_generation\"}]"

static void tools_of_every_form_are_function_objects_in_the_prompt(void **state)
{
	static const char lines[] =
		"\n{\"name\": \"f\", \"description\": \"d\", \"parameters\": {\"type\": \"object\"}, \"strict\": false}\n"
		"{\"name\": \"ns_g\"}\n"
		"{\"name\": \"patch\", \"parameters\": {\"type\": \"object\", \"properties\": {\"input\": {\"type\": \"string\"}}, "
		"\"required\": [\"input\"]}}\n"
		"{\"name\": \"tool_search\", \"description\": \"find\", \"parameters\": {\"type\": \"object\"}}\n\n";
	struct buf b = BUF_CAP(BUF_MAX);
	struct api_request q;

	(void)state;
	must_parse(&dialect_responses, BODY(TOOLS ",\"tool_choice\":{\"type\":\"function\",\"name\":\"g\",\"namespace\":\"ns_\"},"
					    "\"parallel_tool_calls\":false"), &q);
	render(&q, &b);
	if (!strstr(b.data, lines))
		fail_msg("expected %s\nin %s", lines, b.data);
	assert_int_equal(q.turn.tool_choice, TOOL_CHOICE_NAMED);
	assert_string_equal(q.turn.tool_name, "ns_g");
	assert_true(q.turn.one_call && !q.turn.strict_tools);
	buf_clear(&b);
	api_request_clear(&q);
}

static void limits_are_read(void **state)
{
	struct api_request q;

	(void)state;
	must_parse(&dialect_responses,
		   BODY(",\"max_output_tokens\":30,\"reasoning\":{\"effort\":\"none\",\"summary\":\"concise\"},\"temperature\":0.5,"
			"\"include\":[\"reasoning.encrypted_content\",\"message.output_text.logprobs\",\"else\"],"
			"\"top_logprobs\":4,\"text\":{\"verbosity\":\"low\",\"format\":{\"type\":\"json_schema\",\"name\":\"n\","
			"\"strict\":true,\"schema\":{\"type\":\"object\"}}},\"store\":true,\"previous_response_id\":null,"
			"\"background\":false,\"truncation\":\"auto\",\"metadata\":null,\"client_metadata\":{}"), &q);
	assert_int_equal(q.turn.max_tokens, 30);
	assert_int_equal(q.turn.thinking, THINKING_OFF);
	assert_true(q.summary && q.encrypted && q.logprobs);
	assert_int_equal(q.turn.top_logprobs, 4);
	assert_true(q.turn.sampling.temperature == 0.5f);
	assert_int_equal(q.turn.format, TURN_FORMAT_JSON_SCHEMA);
	assert_non_null(q.turn.schema);
	api_request_clear(&q);
	must_parse(&dialect_responses, BODY(""), &q);
	assert_int_equal(q.turn.max_tokens, -1);
	assert_true(!q.summary && !q.encrypted && !q.logprobs);
	assert_int_equal(q.turn.top_logprobs, -1);
	api_request_clear(&q);
}

static void what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *body, *param, *message;
	} cases[] = {
		{"{}", "input", "missing input"},
		{"{\"instructions\":\"I\"}", "input", "missing input"},
		{"{\"input\":5}", "input", "a string or an array of items"},
		{"{\"input\":[5]}", "input[0]", "an object"},
		{"{\"input\":[{}]}", "input[0].type", "missing"},
		{"{\"input\":[{\"type\":\"mcp_call\"}]}", "input[0].type", "unknown item type \"mcp_call\""},
		{"{\"input\":[{\"type\":\"message\",\"role\":\"critic\",\"content\":\"x\"}]}", "input[0].role", "found \"critic\""},
		{"{\"input\":[{\"type\":\"message\",\"content\":\"x\"}]}", "input[0].role", "missing"},
		{"{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":5}]}]}", "input[0].content[0].text",
		 "a string"},
		{"{\"input\":[{\"type\":\"function_call_output\",\"call_id\":\"call_7\",\"output\":\"x\"}]}", "input",
		 "Responses continuation state is not available for call_id call_7; retry by replaying the full input history"},
		{"{\"input\":[{\"type\":\"function_call\",\"name\":\"f\"}]}", "input[0].call_id", "missing"},
		{"{\"input\":[{\"type\":\"function_call\",\"call_id\":\"c\"}]}", "input[0].name", "missing"},
		{"{\"input\":[{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":5}]}", "input[0].arguments",
		 "a string or an object"},
		{"{\"input\":[{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"{}\"}]}", "input",
		 "tool calls"},
		{"{\"input\":[{\"role\":\"assistant\",\"status\":\"incomplete\",\"content\":\"x\"},{\"type\":\"function_call\","
		 "\"call_id\":\"c\",\"name\":\"f\"}," USER_ITEM("x") "]}", "input[0].status", "found \"incomplete\""},
		{BODY(",\"instructions\":[]"), "instructions", "a string"},
		{BODY(",\"previous_response_id\":\"resp_1\""), "previous_response_id",
		 "previous_response_id is not supported; replay full input instead"},
		{BODY(",\"conversation\":\"conv_1\""), "conversation", "conversation is not supported; replay full input instead"},
		{BODY(",\"background\":true"), "background", "not supported"},
		{BODY(",\"max_output_tokens\":0"), "max_output_tokens", "at least 1"},
		{BODY(",\"reasoning\":\"high\""), "reasoning", "an object"},
		{BODY(",\"reasoning\":{\"effort\":\"huge\"}"), "reasoning.effort", "found \"huge\""},
		{BODY(",\"include\":[5]"), "include[0]", "a string"},
		{BODY(",\"top_logprobs\":21"), "top_logprobs", "from 0 to 20"},
		{BODY(",\"text\":{\"format\":{\"type\":\"json_schema\"}}"), "text.format.schema", "missing"},
		{BODY(",\"text\":{\"format\":{\"type\":\"grammar\"}}"), "text.format.type", "found \"grammar\""},
		{BODY(",\"tools\":[{\"type\":\"function\"}]"), "tools[0].name", "missing"},
		{BODY(",\"tools\":[{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{\"type\":\"function\"}]}]"),
		 "tools[0].tools[0].name", "missing"},
		{BODY(",\"tool_choice\":{\"type\":\"web_search\"}"), "tool_choice.type", "function or custom"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect_refused(&dialect_responses, cases[i].body, cases[i].param, cases[i].message);
}

/* --- answers --- */

#define RESPONSE(status, error, details, extra, output, usage) \
	"{\"id\":\"resp_#\",\"object\":\"response\",\"created_at\":1767225600,\"status\":\"" status "\",\"background\":false," \
	"\"error\":" error ",\"incomplete_details\":" details ",\"instructions\":null,\"max_output_tokens\":null," \
	"\"max_tool_calls\":null,\"model\":\"m\",\"output\":[" output "],\"parallel_tool_calls\":true," \
	"\"previous_response_id\":null,\"prompt_cache_key\":null,\"reasoning\":{\"effort\":null,\"summary\":" extra "}," \
	"\"safety_identifier\":null,\"service_tier\":\"default\",\"store\":false,\"temperature\":1," \
	"\"text\":{\"format\":{\"type\":\"text\"}},\"tool_choice\":\"auto\",\"tools\":[],\"top_logprobs\":0,\"top_p\":1," \
	"\"truncation\":\"disabled\",\"usage\":" usage ",\"user\":null,\"metadata\":{}}"
#define USAGE "{\"input_tokens\":100,\"input_tokens_details\":{\"cached_tokens\":40,\"cache_write_tokens\":60}," \
	      "\"output_tokens\":20,\"output_tokens_details\":{\"reasoning_tokens\":9},\"total_tokens\":120}"
#define EVENT(n, type, fields) "event: response." type "\ndata: {\"type\":\"response." type "\",\"sequence_number\":" n "," fields "}\n\n"
#define PLACE(id, i) "\"item_id\":\"" id "\",\"output_index\":" i
#define RS_DONE(summary) "{\"id\":\"rs_#\",\"type\":\"reasoning\",\"summary\":[" summary "],\"content\":[{\"type\":" \
		"\"reasoning_text\",\"text\":\"Hm m\"}],\"encrypted_content\":\"" CARRIER "\",\"status\":\"completed\"}"
#define RS_ADDED "{\"id\":\"rs_#\",\"type\":\"reasoning\",\"summary\":[],\"content\":[],\"encrypted_content\":null," \
		 "\"status\":\"in_progress\"}"
#define PART "{\"type\":\"output_text\",\"text\":\"Hi\",\"annotations\":[],\"logprobs\":[]}"
#define MSG_DONE(status) "{\"id\":\"msg_#\",\"type\":\"message\",\"status\":\"" status "\",\"role\":\"assistant\",\"content\":[" PART "]}"
#define FC(status, arguments) "{\"id\":\"fc_#\",\"type\":\"function_call\",\"status\":\"" status "\",\"call_id\":\"" CALL_1 "\"," \
		"\"name\":\"f\",\"arguments\":\"" arguments "\"}"
#define ARGS "{\\\"a\\\": 1}"

static const struct script said[] = {REASONING("Hm"), REASONING(" m"), CONTENT("Hi"), CALL(CALL_1, "f"), ARGUMENTS("{\"a\""),
				     ARGUMENTS(": 1}"), END, FINISH(TURN_TOOL_CALLS)};

static void expect_answer(const char *body, const struct script *s, size_t n, const char *want)
{
	struct buf out = BUF_CAP(BUF_MAX);

	answer(&dialect_responses, body, s, n, 0, &out);
	mask_id(&out, "resp_", 24);
	mask_id(&out, "rs_", 24);
	mask_id(&out, "\"msg_", 24);
	mask_id(&out, "\"fc_", 24);
	expect_same(body, want, buf_cstr(&out));
	buf_clear(&out);
}

#define EXPECT(body, s, want) expect_answer(body, s, sizeof s / sizeof *s, want)
#define SUMMARY "{\"type\":\"summary_text\",\"text\":\"Hm m\"}"

static void a_stream_has_these_bytes(void **state)
{
	(void)state;
	EXPECT(BODY(",\"model\":\"m\",\"stream\":true,\"include\":[\"reasoning.encrypted_content\"]"), said,
	       EVENT("0", "created", "\"response\":" RESPONSE("in_progress", "null", "null", "null", "", "null"))
	       EVENT("1", "in_progress", "\"response\":" RESPONSE("in_progress", "null", "null", "null", "", "null"))
	       EVENT("2", "output_item.added", "\"output_index\":0,\"item\":" RS_ADDED)
	       EVENT("3", "content_part.added", PLACE("rs_#", "0") ",\"content_index\":0,\"part\":{\"type\":\"reasoning_text\",\"text\":\"\"}")
	       EVENT("4", "reasoning_text.delta", PLACE("rs_#", "0") ",\"content_index\":0,\"delta\":\"Hm\"")
	       EVENT("5", "reasoning_text.delta", PLACE("rs_#", "0") ",\"content_index\":0,\"delta\":\" m\"")
	       EVENT("6", "reasoning_text.done", PLACE("rs_#", "0") ",\"content_index\":0,\"text\":\"Hm m\"")
	       EVENT("7", "content_part.done", PLACE("rs_#", "0") ",\"content_index\":0,\"part\":{\"type\":\"reasoning_text\",\"text\":\"Hm m\"}")
	       EVENT("8", "output_item.done", "\"output_index\":0,\"item\":" RS_DONE(""))
	       EVENT("9", "output_item.added", "\"output_index\":1,\"item\":{\"id\":\"msg_#\",\"type\":\"message\","
		     "\"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}")
	       EVENT("10", "content_part.added", PLACE("msg_#", "1") ",\"content_index\":0,\"part\":{\"type\":\"output_text\","
		     "\"text\":\"\",\"annotations\":[],\"logprobs\":[]}")
	       EVENT("11", "output_text.delta", PLACE("msg_#", "1") ",\"content_index\":0,\"delta\":\"Hi\",\"logprobs\":[]")
	       EVENT("12", "output_text.done", PLACE("msg_#", "1") ",\"content_index\":0,\"text\":\"Hi\",\"logprobs\":[]")
	       EVENT("13", "content_part.done", PLACE("msg_#", "1") ",\"content_index\":0,\"part\":" PART)
	       EVENT("14", "output_item.done", "\"output_index\":1,\"item\":" MSG_DONE("completed"))
	       EVENT("15", "output_item.added", "\"output_index\":2,\"item\":" FC("in_progress", ""))
	       EVENT("16", "function_call_arguments.delta", PLACE("fc_#", "2") ",\"delta\":\"{\\\"a\\\"\"")
	       EVENT("17", "function_call_arguments.delta", PLACE("fc_#", "2") ",\"delta\":\": 1}\"")
	       EVENT("18", "function_call_arguments.done", PLACE("fc_#", "2") ",\"name\":\"f\",\"arguments\":\"" ARGS "\"")
	       EVENT("19", "output_item.done", "\"output_index\":2,\"item\":" FC("completed", ARGS))
	       EVENT("20", "completed", "\"response\":" RESPONSE("completed", "null", "null", "null",
		     RS_DONE("") "," MSG_DONE("completed") "," FC("completed", ARGS), USAGE)));
}

/* The summary first, as it comes; reasoning_text behind it. */
static void a_summary_streams_before_the_reasoning_text(void **state)
{
	static const struct script s[] = {REASONING("Hm"), REASONING(" m"), CONTENT("Hi"), FINISH(TURN_LENGTH)};

	(void)state;
	EXPECT(BODY(",\"model\":\"m\",\"stream\":true,\"include\":[\"reasoning.encrypted_content\"],"
		    "\"reasoning\":{\"summary\":\"auto\"}"), s,
	       EVENT("0", "created", "\"response\":" RESPONSE("in_progress", "null", "null", "\"auto\"", "", "null"))
	       EVENT("1", "in_progress", "\"response\":" RESPONSE("in_progress", "null", "null", "\"auto\"", "", "null"))
	       EVENT("2", "output_item.added", "\"output_index\":0,\"item\":" RS_ADDED)
	       EVENT("3", "reasoning_summary_part.added", PLACE("rs_#", "0") ",\"summary_index\":0,\"part\":{\"type\":\"summary_text\",\"text\":\"\"}")
	       EVENT("4", "reasoning_summary_text.delta", PLACE("rs_#", "0") ",\"summary_index\":0,\"delta\":\"Hm\"")
	       EVENT("5", "reasoning_summary_text.delta", PLACE("rs_#", "0") ",\"summary_index\":0,\"delta\":\" m\"")
	       EVENT("6", "reasoning_summary_text.done", PLACE("rs_#", "0") ",\"summary_index\":0,\"text\":\"Hm m\"")
	       EVENT("7", "reasoning_summary_part.done", PLACE("rs_#", "0") ",\"summary_index\":0,\"part\":" SUMMARY)
	       EVENT("8", "content_part.added", PLACE("rs_#", "0") ",\"content_index\":0,\"part\":{\"type\":\"reasoning_text\",\"text\":\"\"}")
	       EVENT("9", "reasoning_text.delta", PLACE("rs_#", "0") ",\"content_index\":0,\"delta\":\"Hm m\"")
	       EVENT("10", "reasoning_text.done", PLACE("rs_#", "0") ",\"content_index\":0,\"text\":\"Hm m\"")
	       EVENT("11", "content_part.done", PLACE("rs_#", "0") ",\"content_index\":0,\"part\":{\"type\":\"reasoning_text\",\"text\":\"Hm m\"}")
	       EVENT("12", "output_item.done", "\"output_index\":0,\"item\":" RS_DONE(SUMMARY))
	       EVENT("13", "output_item.added", "\"output_index\":1,\"item\":{\"id\":\"msg_#\",\"type\":\"message\","
		     "\"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}")
	       EVENT("14", "content_part.added", PLACE("msg_#", "1") ",\"content_index\":0,\"part\":{\"type\":\"output_text\","
		     "\"text\":\"\",\"annotations\":[],\"logprobs\":[]}")
	       EVENT("15", "output_text.delta", PLACE("msg_#", "1") ",\"content_index\":0,\"delta\":\"Hi\",\"logprobs\":[]")
	       EVENT("16", "output_text.done", PLACE("msg_#", "1") ",\"content_index\":0,\"text\":\"Hi\",\"logprobs\":[]")
	       EVENT("17", "content_part.done", PLACE("msg_#", "1") ",\"content_index\":0,\"part\":" PART)
	       EVENT("18", "output_item.done", "\"output_index\":1,\"item\":" MSG_DONE("incomplete"))
	       EVENT("19", "incomplete", "\"response\":" RESPONSE("incomplete", "null", "{\"reason\":\"max_output_tokens\"}",
		     "\"auto\"", RS_DONE(SUMMARY) "," MSG_DONE("incomplete"), USAGE)));
}

static void a_whole_answer_has_these_bytes(void **state)
{
	(void)state;
	EXPECT(BODY(",\"model\":\"m\",\"include\":[\"reasoning.encrypted_content\"]"), said,
	       RESPONSE("completed", "null", "null", "null", RS_DONE("") "," MSG_DONE("completed") "," FC("completed", ARGS), USAGE) "\n");
}

static void a_failure_is_told_in_a_response_object(void **state)
{
	static const struct script s[] = {FINISH(TURN_ERROR)};

	(void)state;
	EXPECT(BODY(",\"model\":\"m\",\"stream\":true"), s,
	       EVENT("0", "created", "\"response\":" RESPONSE("in_progress", "null", "null", "null", "", "null"))
	       EVENT("1", "in_progress", "\"response\":" RESPONSE("in_progress", "null", "null", "null", "", "null"))
	       EVENT("2", "failed", "\"response\":" RESPONSE("failed", "{\"code\":\"server_error\",\"message\":\"the device failed\"}",
		     "null", "null", "", "null")));
}

/* Names and kinds of calls are those that the client declared. */
static void calls_go_out_as_the_client_declared_their_tools(void **state)
{
	static const struct script s[] = {CALL(CALL_1, "ns_g"), ARGUMENTS("{}"), END, CALL(CALL_1, "patch"),
					  ARGUMENTS("{\"input\": \"a\\nb\"}"), END, CALL(CALL_1, "tool_search"),
					  ARGUMENTS("{\"query\": \"q\"}"), END, CALL(CALL_1, "unknown"), END,
					  FINISH(TURN_TOOL_CALLS)};
	static const char *const wants[] = {
		"\"type\":\"function_call\",\"status\":\"completed\",\"call_id\":\"" CALL_1 "\",\"name\":\"g\",\"namespace\":\"ns_\","
		"\"arguments\":\"{}\"}",
		"\"type\":\"custom_tool_call\",\"status\":\"completed\",\"call_id\":\"" CALL_1 "\",\"name\":\"patch\","
		"\"input\":\"a\\nb\"}",
		"\"type\":\"tool_search_call\",\"status\":\"completed\",\"call_id\":\"" CALL_1 "\",\"execution\":\"client\","
		"\"arguments\":{\"query\": \"q\"}}",
		"\"type\":\"function_call\",\"status\":\"completed\",\"call_id\":\"" CALL_1 "\",\"name\":\"unknown\",\"arguments\":\"\"}",
	};

	(void)state;
	for (int stream = 0; stream < 2; stream++) {
		struct buf out = BUF_CAP(BUF_MAX);

		ANSWER(&dialect_responses, stream ? BODY(TOOLS ",\"stream\":true") : BODY(TOOLS), s, 0, &out);
		for (size_t i = 0; i < sizeof wants / sizeof *wants; i++)
			if (!strstr(buf_cstr(&out), wants[i]))
				fail_msg("expected %s\nin %s", wants[i], buf_cstr(&out));
		buf_clear(&out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(items_become_the_prompt_of_the_format),
		cmocka_unit_test(reasoning_comes_from_content_or_summary_and_names_its_turn),
		cmocka_unit_test(tools_of_every_form_are_function_objects_in_the_prompt),
		cmocka_unit_test(limits_are_read),
		cmocka_unit_test(what_is_wrong_is_named),
		cmocka_unit_test(a_stream_has_these_bytes),
		cmocka_unit_test(a_summary_streams_before_the_reasoning_text),
		cmocka_unit_test(a_whole_answer_has_these_bytes),
		cmocka_unit_test(a_failure_is_told_in_a_response_object),
		cmocka_unit_test(calls_go_out_as_the_client_declared_their_tools),
	};

	return cmocka_run_group_tests(tests, open_env, close_env);
}
