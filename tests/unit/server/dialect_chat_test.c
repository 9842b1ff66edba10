/* dialect_chat_test.c - /v1/chat/completions: what requests mean, and the exact bytes of answers. */
#include "common.h"

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define THINK "<｜Assistant｜><think>"
#define BODY(fields) "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]" fields "}"

static void conversations_become_the_prompt_of_the_format(void **state)
{
	static const struct {
		const char *messages, *prompt;
	} cases[] = {
		{"[{\"role\":\"user\",\"content\":\"Hi\"}]", BOS USER "Hi" THINK},
		/* system and developer before anything else: one system message */
		{"[{\"role\":\"system\",\"content\":\"A\"},{\"content\":\"B\",\"role\":\"developer\"},"
		 "{\"role\":\"user\",\"content\":\"Hi\"}]", BOS "A\n\nB" USER "Hi" THINK},
		/* later: text of the user's turn where it stands */
		{"[{\"role\":\"system\",\"content\":\"A\"},{\"role\":\"user\",\"content\":\"Hi\"},"
		 "{\"role\":\"system\",\"content\":\"Late\"}]", BOS "A" USER "Hi\n\nLate" THINK},
		{"[{\"role\":\"user\",\"content\":\"1\"},{\"role\":\"assistant\",\"content\":\"2\"},"
		 "{\"role\":\"developer\",\"content\":\"Late\"},{\"role\":\"user\",\"content\":\"3\"}]",
		 BOS USER "1<｜Assistant｜></think>2" EOS USER "Late\n\n3" THINK},
		/* parts; the role is user when it is absent */
		{"[{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"x\"}},"
		 "{\"type\":\"text\",\"text\":\"b\"}]}]", BOS USER "a\n\n[Unsupported image_url]\n\nb" THINK},
		{"[{\"role\":\"user\",\"content\":\"1\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\","
		 "\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"},{\"type\":\"refusal\",\"refusal\":\"c\"}]},"
		 "{\"role\":\"user\",\"content\":null}]", BOS USER "1<｜Assistant｜></think>abc" EOS USER THINK},
		/* a tool loop: its reasoning stays, it comes after the last user text */
		{"[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":null,\"reasoning\":\"R\","
		 "\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
		 "{\"k\": \"v\", \"n\": 1}}}]},{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":"
		 "[{\"type\":\"text\",\"text\":\"p\"},{\"type\":\"text\",\"text\":\"q\"}]}]",
		 BOS USER "go<｜Assistant｜></think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
		 "<｜DSML｜parameter name=\"k\" string=\"true\">v</｜DSML｜parameter>\n"
		 "<｜DSML｜parameter name=\"n\" string=\"false\">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
		 "</｜DSML｜tool_calls>" EOS USER "<tool_result>p\n\nq</tool_result>" THINK},
		/* the last message is the assistant's: it goes on */
		{"[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":\"Once\"}]",
		 BOS USER "go" THINK "</think>Once"},
		{"[{\"role\":\"system\",\"content\":\"A\"}]", BOS "A" USER THINK},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char body[2000];

		snprintf(body, sizeof body, "{\"messages\":%s}", cases[i].messages);
		expect_prompt(&dialect_chat, body, cases[i].prompt);
	}
}

static void tools_and_formats_stand_behind_the_system_text(void **state)
{
	static const char tools[] =
		"\"tools\":[{\"type\":\"function\",\"function\":{\"description\":\"d\",\"name\":\"f\",\"strict\":true}},"
		"{\"type\":\"custom\",\"custom\":{\"name\":\"patch\",\"description\":\"e\",\"format\":{\"type\":\"text\"}}},"
		"{\"type\":\"web_search\"}]";
	struct buf b = BUF_CAP(BUF_MAX);
	struct api_request q;
	char body[2000];

	(void)state;
	snprintf(body, sizeof body, BODY(",%s,\"response_format\":{\"type\":\"json_object\"}"), tools);
	must_parse(&dialect_chat, body, &q);
	render(&q, &b);
	if (strncmp(buf_cstr(&b), BOS "\n\n## Tools\n\n", strlen(BOS "\n\n## Tools\n\n")) ||
	    !strstr(b.data, "\n\n{\"description\": \"d\", \"name\": \"f\", \"strict\": true}\n"
			    "{\"name\": \"patch\", \"description\": \"e\", \"parameters\": {\"type\": \"object\", "
			    "\"properties\": {\"input\": {\"type\": \"string\"}}, \"required\": [\"input\"]}}\n\n") ||
	    !strstr(b.data, "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
			    "{\"type\": \"object\"}" USER "x" THINK))
		fail_msg("%s", b.data);
	assert_true(q.turn.strict_tools);
	assert_int_equal(q.turn.format, TURN_FORMAT_JSON_OBJECT);
	assert_int_equal(q.n_tool, 2);
	buf_clear(&b);
	api_request_clear(&q);

	snprintf(body, sizeof body, BODY(",%s,\"tool_choice\":\"none\""), tools);
	must_parse(&dialect_chat, body, &q);	/* turn.h hides them, and keeps reasoning because they are declared */
	assert_int_equal(q.turn.tool_choice, TOOL_CHOICE_NONE);
	assert_int_equal(json_array_size(q.turn.conversation->messages[0].tools), 2);
	api_request_clear(&q);
}

static void tool_choice_is_understood(void **state)
{
	static const struct {
		const char *choice;
		enum tool_choice want;
		const char *name;
	} cases[] = {
		{"null", TOOL_CHOICE_AUTO, NULL},	  {"\"auto\"", TOOL_CHOICE_AUTO, NULL},
		{"\"none\"", TOOL_CHOICE_NONE, NULL},	  {"\"required\"", TOOL_CHOICE_REQUIRED, NULL},
		{"{\"type\":\"function\",\"function\":{\"name\":\"f\"}}", TOOL_CHOICE_NAMED, "f"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct api_request q;
		char body[500];

		snprintf(body, sizeof body, BODY(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
						 "\"parallel_tool_calls\":false,\"tool_choice\":%s"), cases[i].choice);
		must_parse(&dialect_chat, body, &q);
		if (q.turn.tool_choice != cases[i].want)
			fail_msg("%s: expected %d, found %d", cases[i].choice, cases[i].want, q.turn.tool_choice);
		assert_true(q.turn.one_call);
		if (cases[i].name)
			assert_string_equal(q.turn.tool_name, cases[i].name);
		else
			assert_null(q.turn.tool_name);
		api_request_clear(&q);
	}
}

static void nothing_said_means_the_defaults(void **state)
{
	static const char *const bodies[] = {
		BODY(""),
		BODY(",\"model\":null,\"stream\":null,\"stream_options\":null,\"max_tokens\":null,"
		     "\"max_completion_tokens\":null,\"temperature\":null,\"top_p\":null,\"top_k\":null,\"min_p\":null,"
		     "\"seed\":null,\"stop\":null,\"tools\":null,\"tool_choice\":null,\"parallel_tool_calls\":null,"
		     "\"thinking\":null,\"think\":null,\"reasoning_effort\":null,\"chat_template_kwargs\":null,"
		     "\"logprobs\":null,\"top_logprobs\":null,\"n\":null,\"frequency_penalty\":null,"
		     "\"presence_penalty\":null,\"logit_bias\":null,\"response_format\":null"),
		BODY(",\"n\":1,\"frequency_penalty\":0,\"presence_penalty\":0.0,\"logit_bias\":{},\"tools\":[],\"seed\":0,"
		     "\"user\":\"u\",\"store\":true,\"metadata\":{},\"service_tier\":\"auto\",\"stop\":[\"\"],"
		     "\"response_format\":{\"type\":\"text\"},\"verbosity\":\"low\",\"unheard_of\":[1]"),
	};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct api_request q;

		must_parse(&dialect_chat, bodies[i], &q);
		assert_string_equal(q.model, "deepseek-v4-flash");
		assert_true(!q.stream && !q.include_usage && !q.logprobs && !q.turn.one_call && !q.turn.strict_tools);
		assert_int_equal(q.turn.thinking, THINKING_ON);
		assert_int_equal(q.turn.effort, EFFORT_HIGH);
		assert_int_equal(q.turn.thinking_budget, -1);
		assert_int_equal(q.turn.max_tokens, -1);
		assert_true(q.turn.sampling.temperature == 1 && q.turn.sampling.top_p == 1);
		assert_true(q.turn.sampling.min_p == 0.05f && q.turn.sampling.top_k == 0);
		assert_int_equal(q.turn.sampling.seed, 99);	/* the server's */
		assert_int_equal(q.turn.n_stop, 0);
		assert_int_equal(q.turn.top_logprobs, -1);
		assert_int_equal(q.turn.tool_choice, TOOL_CHOICE_AUTO);
		assert_int_equal(q.turn.format, TURN_FORMAT_TEXT);
		api_request_clear(&q);
	}
}

static void sampling_counts_only_without_thinking_unless_the_server_says_so(void **state)
{
	static const char fields[] = "\"temperature\":0,\"top_p\":0.5,\"top_k\":7,\"min_p\":0,\"seed\":5";
	struct api_request q;
	char body[300];

	(void)state;
	for (int i = 0; i < 3; i++) {
		bool counts = i > 0;

		env.thinking_samples = i == 1;
		snprintf(body, sizeof body, BODY(",%s,\"think\":%s"), fields, i == 2 ? "false" : "true");
		must_parse(&dialect_chat, body, &q);
		assert_true(q.turn.sampling.temperature == (counts ? 0 : 1));
		assert_true(q.turn.sampling.top_p == (counts ? 0.5f : 1));
		assert_true(q.turn.sampling.min_p == (counts ? 0 : 0.05f));
		assert_int_equal(q.turn.sampling.top_k, counts ? 7 : 0);
		assert_int_equal(q.turn.sampling.seed, 5);
		api_request_clear(&q);
	}
	env.thinking_samples = false;
}

static void thinking_and_effort_have_many_spellings(void **state)
{
	static const struct {
		const char *fields;
		enum thinking thinking;
		enum effort preview, v0731;
	} cases[] = {
		{",\"thinking\":{\"type\":\"enabled\"}", THINKING_ON, EFFORT_HIGH, EFFORT_HIGH},
		{",\"thinking\":{\"type\":\"adaptive\"}", THINKING_ON, EFFORT_HIGH, EFFORT_HIGH},
		{",\"thinking\":{\"type\":\"disabled\"}", THINKING_OFF, EFFORT_HIGH, EFFORT_HIGH},
		{",\"thinking\":{\"type\":\"new\"}", THINKING_ON, EFFORT_HIGH, EFFORT_HIGH},
		{",\"thinking\":false", THINKING_OFF, EFFORT_HIGH, EFFORT_HIGH},
		{",\"think\":false", THINKING_OFF, EFFORT_HIGH, EFFORT_HIGH},
		{",\"model\":\"deepseek-chat\"", THINKING_OFF, EFFORT_HIGH, EFFORT_HIGH},
		{",\"model\":\"deepseek-reasoner\"", THINKING_ON, EFFORT_HIGH, EFFORT_HIGH},
		{",\"model\":\"deepseek-chat\",\"think\":true", THINKING_ON, EFFORT_HIGH, EFFORT_HIGH},
		{",\"chat_template_kwargs\":{\"thinking\":false}", THINKING_OFF, EFFORT_HIGH, EFFORT_HIGH},
		{",\"chat_template_kwargs\":{\"enable_thinking\":false}", THINKING_OFF, EFFORT_HIGH, EFFORT_HIGH},
		{",\"chat_template_kwargs\":{\"reasoning_effort\":\"max\"}", THINKING_ON, EFFORT_MAX, EFFORT_MAX},
		{",\"reasoning_effort\":\"none\"", THINKING_OFF, EFFORT_HIGH, EFFORT_HIGH},
		{",\"reasoning_effort\":\"minimal\"", THINKING_ON, EFFORT_HIGH, EFFORT_LOW},
		{",\"reasoning_effort\":\"low\"", THINKING_ON, EFFORT_HIGH, EFFORT_LOW},
		{",\"reasoning_effort\":\"medium\"", THINKING_ON, EFFORT_HIGH, EFFORT_HIGH},
		{",\"reasoning_effort\":\"high\"", THINKING_ON, EFFORT_HIGH, EFFORT_HIGH},
		{",\"reasoning_effort\":\"xhigh\"", THINKING_ON, EFFORT_MAX, EFFORT_HIGH},
		{",\"reasoning_effort\":\"max\"", THINKING_ON, EFFORT_MAX, EFFORT_MAX},
		{",\"reasoning_effort\":\"ultra\"", THINKING_ON, EFFORT_MAX, EFFORT_MAX},
	};

	(void)state;
	for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
		size_t k = i / 2;
		struct api_request q;
		char body[300];

		env.profile = i % 2 ? PROFILE_0731 : PROFILE_PREVIEW;
		snprintf(body, sizeof body, BODY("%s"), cases[k].fields);
		must_parse(&dialect_chat, body, &q);
		if (q.turn.thinking != cases[k].thinking || q.turn.effort != (i % 2 ? cases[k].v0731 : cases[k].preview))
			fail_msg("%s, profile %zu: found thinking %d, effort %d", cases[k].fields, i % 2, q.turn.thinking,
				 q.turn.effort);
		api_request_clear(&q);
	}
	env.profile = PROFILE_PREVIEW;
}

static void lengths_and_stop_strings_are_read(void **state)
{
	struct api_request q;

	(void)state;
	must_parse(&dialect_chat, BODY(",\"max_tokens\":9,\"max_completion_tokens\":7,\"stop\":[\"a\",\"\",\"b\\u0000c\"],"
				       "\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":3},\"logprobs\":true"), &q);
	assert_int_equal(q.turn.max_tokens, 7);
	assert_int_equal(q.turn.thinking_budget, 3);
	assert_int_equal(q.turn.n_stop, 2);
	assert_int_equal(q.turn.stop[1].n, 3);
	assert_memory_equal(q.turn.stop[1].p, "b\0c", 3);
	assert_int_equal(q.turn.top_logprobs, 0);
	api_request_clear(&q);
	must_parse(&dialect_chat, BODY(",\"max_tokens\":100000000000000000000000000,\"stop\":\"x\",\"seed\":18446744073709551615"),
		   &q);
	assert_int_equal(q.turn.max_tokens, 393216);
	assert_int_equal(q.turn.n_stop, 1);
	assert_true(q.turn.sampling.seed == UINT64_MAX);
	api_request_clear(&q);
}

static void what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *body, *param, *message;
	} cases[] = {
		{"{}", "messages", "missing messages"},
		{"{\"messages\":null}", "messages", "missing messages"},
		{"{\"messages\":[]}", "messages", "at least one"},
		{"{\"messages\":\"x\"}", "messages", "expected an array, found \"x\""},
		{"{\"messages\":[5]}", "messages[0]", "expected an object, found an integer"},
		{"{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages[0].content", "found an integer"},
		{"{\"messages\":[{\"role\":\"user\",\"content\":[5]}]}", "messages[0].content[0]", "found an integer"},
		{"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}]}",
		 "messages[0].content[0].text", "expected a string"},
		{"{\"messages\":[{\"role\":\"critic\",\"content\":\"x\"}]}", "messages[0].role", "found \"critic\""},
		{"{\"messages\":[{\"role\":1,\"content\":\"x\"}]}", "messages[0].role", "expected a string"},
		{"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":{}}]}", "messages[0].tool_calls", "an array"},
		{"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}]}",
		 "messages[0].tool_calls[0].function.name", "missing"},
		{"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":1}}]}]}",
		 "messages[0].tool_calls[0].function.arguments", "a string or an object"},
		{"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\"}]}", "messages", "empty"},
		{"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]}", "messages",
		 "tool calls"},
		{BODY(",\"model\":5"), "model", "expected a string"},
		{BODY(",\"stream\":\"yes\""), "stream", "true or false, found \"yes\""},
		{BODY(",\"stream_options\":[]"), "stream_options", "an object"},
		{BODY(",\"stream_options\":{\"include_usage\":1}"), "stream_options.include_usage", "true or false"},
		{BODY(",\"max_tokens\":0"), "max_tokens", "at least 1, found 0"},
		{BODY(",\"max_tokens\":-4"), "max_tokens", "at least 1, found -4"},
		{BODY(",\"max_tokens\":1.5"), "max_tokens", "an integer"},
		{BODY(",\"max_completion_tokens\":\"9\""), "max_completion_tokens", "an integer, found \"9\""},
		{BODY(",\"temperature\":2.5"), "temperature", "from 0 to 2"},
		{BODY(",\"temperature\":-1"), "temperature", "from 0 to 2"},
		{BODY(",\"temperature\":true"), "temperature", "a number, found true"},
		{BODY(",\"top_p\":0"), "top_p", "above 0"},
		{BODY(",\"top_p\":1.1"), "top_p", "from 0 to 1"},
		{BODY(",\"top_k\":\"x\""), "top_k", "an integer"},
		{BODY(",\"min_p\":2"), "min_p", "from 0 to 1"},
		{BODY(",\"seed\":\"x\""), "seed", "a number"},
		{BODY(",\"stop\":5"), "stop", "a string or an array of strings"},
		{BODY(",\"stop\":[5]"), "stop[0]", "a string"},
		{BODY(",\"stop\":[null]"), "stop[0]", "a string, found nothing"},
		{BODY(",\"stop\":[\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]"), "stop",
		 "at most 16 strings, found 17"},
		{BODY(",\"tools\":{}"), "tools", "an array"},
		{BODY(",\"tools\":[1]"), "tools[0]", "an object"},
		{BODY(",\"tools\":[{\"type\":\"function\"}]"), "tools[0].function", "missing"},
		{BODY(",\"tools\":[{\"type\":\"function\",\"function\":{}}]"), "tools[0].function.name", "missing"},
		{BODY(",\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":\"x\"}}]"), "tools[0].function.parameters",
		 "an object"},
		{BODY(",\"tool_choice\":\"always\""), "tool_choice", "none, auto, required"},
		{BODY(",\"tool_choice\":\"required\""), "tool_choice", "none is declared"},
		{BODY(",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}"), "tool_choice.function.name",
		 "found \"g\""},
		{BODY(",\"tool_choice\":{\"type\":\"allowed_tools\"}"), "tool_choice.type", "function or custom"},
		{BODY(",\"thinking\":\"on\""), "thinking", "an object or a bool"},
		{BODY(",\"thinking\":{\"type\":1}"), "thinking.type", "a string"},
		{BODY(",\"thinking\":{\"budget_tokens\":-1}"), "thinking.budget_tokens", "at least 0"},
		{BODY(",\"think\":1"), "think", "true or false"},
		{BODY(",\"reasoning_effort\":\"huge\""), "reasoning_effort", "found \"huge\""},
		{BODY(",\"chat_template_kwargs\":{\"thinking\":1}"), "chat_template_kwargs.thinking", "true or false"},
		{BODY(",\"logprobs\":3"), "logprobs", "true or false"},
		{BODY(",\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs", "from 0 to 20"},
		{BODY(",\"top_logprobs\":2"), "top_logprobs", "logprobs"},
		{BODY(",\"n\":2"), "n", "only 1"},
		{BODY(",\"think\":false,\"frequency_penalty\":0.5"), "frequency_penalty", "only 0"},
		{BODY(",\"think\":false,\"presence_penalty\":-1"), "presence_penalty", "only 0"},
		{BODY(",\"logit_bias\":{\"5\":1}"), "logit_bias", "not supported"},
		{BODY(",\"response_format\":{\"type\":\"xml\"}"), "response_format.type", "found \"xml\""},
		{BODY(",\"response_format\":{}"), "response_format.type", "missing"},
		{BODY(",\"response_format\":{\"type\":\"json_schema\"}"), "response_format.json_schema", "missing"},
		{BODY(",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}"),
		 "response_format.json_schema.schema", "missing"},
		{BODY(",\"parallel_tool_calls\":0"), "parallel_tool_calls", "true or false"},
		{"[]", "", "expected a JSON object"},
		{"{\"messages\":[],}", "", "not JSON"},
		{"", "", "not JSON"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect_refused(&dialect_chat, cases[i].body, cases[i].param, cases[i].message);
}

/* --- answers --- */

#define HEAD(object) "{\"id\":\"chatcmpl-#\",\"object\":\"" object "\",\"created\":1767225600,\"model\":\"m\"," \
		     "\"system_fingerprint\":\"fp_test\",\"choices\":["
#define CHUNK(delta, finish, usage) "data: " HEAD("chat.completion.chunk") \
		"{\"index\":0,\"delta\":{" delta "},\"finish_reason\":" finish "}]" usage "}\n\n"
#define USAGE "{\"prompt_tokens\":100,\"completion_tokens\":20,\"total_tokens\":120,\"prompt_tokens_details\":" \
	      "{\"cached_tokens\":40,\"cache_write_tokens\":60},\"completion_tokens_details\":{\"reasoning_tokens\":9}," \
	      "\"prompt_cache_hit_tokens\":40,\"prompt_cache_miss_tokens\":60}"
#define WEATHER ",\"model\":\"m\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\"}}]"

static const struct script weather[] = {
	REASONING("Let me \"see\"."), CONTENT("Looking\n"),
	CALL(CALL_1, "get_weather"), ARGUMENTS("{"), ARGUMENTS("\"city\": \"Paris\"}"), END,
	CALL(CALL_2, "get_weather"), ARGUMENTS("{}"), END, FINISH(TURN_TOOL_CALLS)};

static void expect_answer(const char *body, const struct script *s, size_t n, const char *want)
{
	struct buf out = BUF_CAP(BUF_MAX);

	answer(&dialect_chat, body, s, n, 0, &out);
	mask_id(&out, "chatcmpl-", 24);
	expect_same(body, want, buf_cstr(&out));
	buf_clear(&out);
}

#define EXPECT(body, s, want) expect_answer(body, s, sizeof s / sizeof *s, want)

static void a_stream_has_these_bytes(void **state)
{
	(void)state;
	EXPECT(BODY(WEATHER ",\"stream\":true"), weather,
	       CHUNK("\"role\":\"assistant\"", "null", "")
	       CHUNK("\"reasoning_content\":\"Let me \\\"see\\\".\"", "null", "")
	       CHUNK("\"content\":\"Looking\\n\"", "null", "")
	       CHUNK("\"tool_calls\":[{\"index\":0,\"id\":\"" CALL_1 "\",\"type\":\"function\",\"function\":"
		     "{\"name\":\"get_weather\",\"arguments\":\"\"}}]", "null", "")
	       CHUNK("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\"}}]", "null", "")
	       CHUNK("\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"\\\"city\\\": \\\"Paris\\\"}\"}}]", "null", "")
	       CHUNK("\"tool_calls\":[{\"index\":1,\"id\":\"" CALL_2 "\",\"type\":\"function\",\"function\":"
		     "{\"name\":\"get_weather\",\"arguments\":\"\"}}]", "null", "")
	       CHUNK("\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"{}\"}}]", "null", "")
	       CHUNK("", "\"tool_calls\"", "")
	       "data: [DONE]\n\n");
}

static void usage_comes_last_when_asked_for(void **state)
{
	static const struct script s[] = {CONTENT("Hi"), FINISH(TURN_STOP)};

	(void)state;
	EXPECT(BODY(",\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true}"), s,
	       CHUNK("\"role\":\"assistant\"", "null", ",\"usage\":null")
	       CHUNK("\"content\":\"Hi\"", "null", ",\"usage\":null")
	       CHUNK("", "\"stop\"", ",\"usage\":null")
	       "data: " HEAD("chat.completion.chunk") "],\"usage\":" USAGE "}\n\n"
	       "data: [DONE]\n\n");
}

static void a_whole_answer_has_these_bytes(void **state)
{
	static const struct script call[] = {CALL(CALL_1, "get_weather"), ARGUMENTS("{}"), END, FINISH(TURN_TOOL_CALLS)};
	static const struct script nothing[] = {FINISH(TURN_STOP)};

	(void)state;
	EXPECT(BODY(WEATHER), weather,
	       HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Looking\\n\","
	       "\"refusal\":null,\"reasoning_content\":\"Let me \\\"see\\\".\",\"tool_calls\":["
	       "{\"id\":\"" CALL_1 "\",\"type\":\"function\",\"function\":{\"name\":\"get_weather\","
	       "\"arguments\":\"{\\\"city\\\": \\\"Paris\\\"}\"}},"
	       "{\"id\":\"" CALL_2 "\",\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"arguments\":\"{}\"}}]},"
	       "\"logprobs\":null,\"finish_reason\":\"tool_calls\"}],\"usage\":" USAGE "}\n");
	EXPECT(BODY(WEATHER), call,	/* content is null when there are only calls */
	       HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":null,"
	       "\"refusal\":null,\"tool_calls\":["
	       "{\"id\":\"" CALL_1 "\",\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"arguments\":\"{}\"}}]},"
	       "\"logprobs\":null,\"finish_reason\":\"tool_calls\"}],\"usage\":" USAGE "}\n");
	EXPECT(BODY(WEATHER), nothing,
	       HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
	       "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":" USAGE "}\n");
}

static void every_end_has_its_finish_reason(void **state)
{
	static const struct {
		enum turn_finish finish;
		const char *want;
	} cases[] = {
		{TURN_STOP, "stop"}, {TURN_STOP_STRING, "stop"}, {TURN_TOOL_CALLS, "tool_calls"}, {TURN_LENGTH, "length"},
		{TURN_CONTEXT, "length"}, {TURN_CANCELLED, "length"},
	};

	(void)state;
	for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
		struct script s[] = {CONTENT("Hi"), FINISH(cases[i / 2].finish)};
		struct buf out = BUF_CAP(BUF_MAX);
		char want[60];

		answer(&dialect_chat, i % 2 ? BODY(",\"stream\":true") : BODY(""), s, 2, 0, &out);
		snprintf(want, sizeof want, "\"finish_reason\":\"%s\"", cases[i / 2].want);
		if (!strstr(buf_cstr(&out), want))
			fail_msg("expected %s in %s", want, buf_cstr(&out));
		buf_clear(&out);
	}
}

/* The token of an EOS, and two halves of one character. */
static void log_probabilities_show_tokens_and_bytes(void **state)
{
	int32_t eos = tokenizer_special(env.tokenizer, SPECIAL_EOS);
	struct token_list ids = {0};
	struct turn_logprob lp[2] = {{.logprob = -0.25f, .n_top = 1}, {.logprob = -1e30f, .n_top = 0}};
	struct turn_event ev = {.kind = TURN_CONTENT, .text = "A", .n = 1, .logprob = lp, .n_logprob = 2};
	struct turn_event end = {.kind = TURN_FINISH, .usage = test_usage};
	static const char want[] =
		"{\"content\":[{\"token\":\"A\",\"logprob\":-0.25,\"bytes\":[65],\"top_logprobs\":[{\"token\":"
		"\"<｜｜end▁of▁sentence｜｜>\",\"logprob\":-9999,\"bytes\":[60,239,189,156,101,110,100,226,150,129,111,102,226,"
		"150,129,115,101,110,116,101,110,99,101,239,189,156,62]}]},"
		"{\"token\":\"A\",\"logprob\":-9999,\"bytes\":[65],\"top_logprobs\":[]}],\"refusal\":null}";

	(void)state;
	token_encode_text(env.tokenizer, "A", 1, &ids);
	lp[0].token = lp[1].token = ids.id[0];
	lp[0].top[0].token = eos;
	lp[0].top[0].logprob = -(float)INFINITY;
	for (int stream = 0; stream < 2; stream++) {
		struct buf out = BUF_CAP(BUF_MAX);
		struct api_request q;
		struct writer *w;

		must_parse(&dialect_chat, stream ? BODY(",\"logprobs\":true,\"stream\":true") : BODY(",\"logprobs\":true"), &q);
		w = dialect_chat.open(&q, &env, 100);
		dialect_chat.event(w, &ev, &out);
		dialect_chat.event(w, &end, &out);
		if (!strstr(buf_cstr(&out), want))
			fail_msg("expected %s\nin %s", want, buf_cstr(&out));
		dialect_chat.close(w);
		api_request_clear(&q);
		buf_clear(&out);
	}
	token_list_clear(&ids);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(conversations_become_the_prompt_of_the_format),
		cmocka_unit_test(tools_and_formats_stand_behind_the_system_text),
		cmocka_unit_test(tool_choice_is_understood),
		cmocka_unit_test(nothing_said_means_the_defaults),
		cmocka_unit_test(sampling_counts_only_without_thinking_unless_the_server_says_so),
		cmocka_unit_test(thinking_and_effort_have_many_spellings),
		cmocka_unit_test(lengths_and_stop_strings_are_read),
		cmocka_unit_test(what_is_wrong_is_named),
		cmocka_unit_test(a_stream_has_these_bytes),
		cmocka_unit_test(usage_comes_last_when_asked_for),
		cmocka_unit_test(a_whole_answer_has_these_bytes),
		cmocka_unit_test(every_end_has_its_finish_reason),
		cmocka_unit_test(log_probabilities_show_tokens_and_bytes),
	};

	return cmocka_run_group_tests(tests, open_env, close_env);
}
