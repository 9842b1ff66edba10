/* dialect_stream_test.c - streamed or not, however cut: every dialect says the same, in the order of its API. */
#include "streams.h"

#include "base/rng.h"

#define TOOLS_CHAT "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"custom\",\"custom\":{\"name\":\"c\"}}]"
#define TOOLS_RESPONSES "\"tools\":[{\"type\":\"function\",\"name\":\"f\"},{\"type\":\"custom\",\"name\":\"c\"}]"
#define TOOLS_MESSAGES "\"tools\":[{\"name\":\"f\",\"input_schema\":{}},{\"name\":\"c\",\"input_schema\":{}}]"

static const struct {
	const struct dialect *d;
	const char *body;	/* %s: stream */
	bool usage;
} forms[] = {
	{&dialect_chat, "{\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]," TOOLS_CHAT "}", false},
	{&dialect_chat, "{\"stream\":%s,\"stream_options\":{\"include_usage\":true},"
			"\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]," TOOLS_CHAT "}", true},
	{&dialect_completions, "{\"stream\":%s,\"stream_options\":{\"include_usage\":true},\"prompt\":\"x\"}", true},
	{&dialect_completions, "{\"stream\":%s,\"echo\":true,\"prompt\":\"x\"}", false},
	{&dialect_responses, "{\"stream\":%s,\"include\":[\"reasoning.encrypted_content\"],\"input\":\"x\","
			     TOOLS_RESPONSES "}", false},
	{&dialect_responses, "{\"stream\":%s,\"reasoning\":{\"summary\":\"auto\"},\"input\":\"x\"," TOOLS_RESPONSES "}",
	 false},
	{&dialect_messages, "{\"stream\":%s,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]," TOOLS_MESSAGES "}",
	 false},
};

/* Compares the whole answer with streams cut in different ways. */
static void compare(size_t form, const struct script *s, size_t n)
{
	const struct dialect *d = forms[form].d;
	struct buf out = BUF_CAP(BUF_MAX);
	struct heard whole, streamed;
	char body[600];

	snprintf(body, sizeof body, forms[form].body, "false");
	heard_init(&whole);
	answer(d, body, s, n, 0, &out);
	heard_whole(&whole, d, &out);
	buf_clear(&out);
	snprintf(body, sizeof body, forms[form].body, "true");
	for (size_t cut = 0; cut < 4; cut++) {
		heard_init(&streamed);
		streamed.want_usage = forms[form].usage;
		answer(d, body, s, n, cut, &out);
		heard_stream(&streamed, d, buf_cstr(&out));
		same_heard(body, &whole, &streamed);
		if (streamed.prompt >= 0) {
			assert_int_equal(whole.prompt, streamed.prompt);
			assert_int_equal(whole.generated, streamed.generated);
		}
		heard_clear(&streamed);
		buf_clear(&out);
	}
	heard_clear(&whole);
}

static void compare_all(const struct script *s, size_t n)
{
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
		compare(i, s, n);
}

#define COMPARE(s) compare_all(s, sizeof s / sizeof *s)

static void every_kind_of_answer_streams_as_it_is_whole(void **state)
{
	static const struct script nothing[] = {FINISH(TURN_STOP)}, text[] = {CONTENT("Hi \"€\"\n"), FINISH(TURN_STOP)};
	static const struct script thought[] = {REASONING("Hm\\"), CONTENT("Hi"), FINISH(TURN_LENGTH)};
	static const struct script only_thought[] = {REASONING("Hm"), FINISH(TURN_LENGTH)};
	static const struct script call[] = {CALL(CALL_1, "f"), ARGUMENTS("{\"a\": \"x\\ny\"}"), END,
					     FINISH(TURN_TOOL_CALLS)};
	static const struct script calls[] = {REASONING("Hm"), CONTENT("Hi"), CALL(CALL_1, "f"), ARGUMENTS("{}"), END,
					      CALL(CALL_2, "f"), ARGUMENTS("{\"b\": [1, 2]}"), END,
					      FINISH(TURN_TOOL_CALLS)};
	static const struct script cancelled[] = {REASONING("Hm"), CONTENT("Hi"), FINISH(TURN_CANCELLED)};

	(void)state;
	COMPARE(nothing);
	COMPARE(text);
	COMPARE(thought);
	COMPARE(only_thought);
	COMPARE(call);
	COMPARE(calls);
	COMPARE(cancelled);
}

/* A cut-off call has arguments that are no JSON: Anthropic's whole answer cannot hold them. */
static void a_call_cut_off_ends_properly(void **state)
{
	static const struct script cut[] = {CALL(CALL_1, "f"), ARGUMENTS("{\"a\": \"x"), FINISH(TURN_LENGTH)};

	(void)state;
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		struct buf out = BUF_CAP(BUF_MAX);
		struct heard h;
		char body[600];

		if (forms[i].d != &dialect_messages) {
			compare(i, cut, 3);
			continue;
		}
		snprintf(body, sizeof body, forms[i].body, "true");
		heard_init(&h);
		answer(forms[i].d, body, cut, 3, 1, &out);
		heard_stream(&h, forms[i].d, buf_cstr(&out));
		same_text("arguments", "{\"a\": \"x", buf_cstr(&h.call[0].arguments));
		same_text("finish", "max_tokens", h.finish);
		heard_clear(&h);
		buf_clear(&out);
		snprintf(body, sizeof body, forms[i].body, "false");
		heard_init(&h);
		answer(forms[i].d, body, cut, 3, 1, &out);
		heard_whole(&h, forms[i].d, &out);
		same_text("input", "{}", buf_cstr(&h.call[0].arguments));
		heard_clear(&h);
		buf_clear(&out);
	}
}

static void custom_tools_get_the_text_inside_the_json(void **state)
{
	static const struct {
		const char *arguments, *input;
		bool end;
	} cases[] = {
		{"{\"input\": \"a \\\"b\\\"\\n\\u00e9\\ud83d\\ude00€\"}", "a \"b\"\né😀€", true},
		{"{\"input\": \"cut \\u00", "cut ", false},
		{"{\"input\":\"\"}", "", true},
		{"{}", "", true},
		{"{\"input\": 5}", "{\"input\": 5}", true},
		{"{\"patch\": \"x\"}", "{\"patch\": \"x\"}", true},
		{"{\"first\": 1, \"input\": \"y\"}", "y", true},
		{"{\"input\": \"\\ud83dx\"}", "\xEF\xBF\xBDx", true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct script s[] = {CALL(CALL_1, "c"), ARGUMENTS(cases[i].arguments), END, FINISH(TURN_TOOL_CALLS)};
		static const size_t custom_forms[] = {0, 1, 4, 5};

		if (!cases[i].end)
			s[2] = (struct script)FINISH(TURN_LENGTH);
		for (size_t k = 0; k < 4; k++) {
			struct buf out = BUF_CAP(BUF_MAX);
			struct heard h;
			char body[600];

			compare(custom_forms[k], s, cases[i].end ? 4 : 3);
			snprintf(body, sizeof body, forms[custom_forms[k]].body, "false");
			heard_init(&h);
			answer(forms[custom_forms[k]].d, body, s, cases[i].end ? 4 : 3, 1, &out);
			heard_whole(&h, forms[custom_forms[k]].d, &out);
			same_text("type", "custom", h.call[0].type);
			same_text(cases[i].arguments, cases[i].input, buf_cstr(&h.call[0].arguments));
			heard_clear(&h);
			buf_clear(&out);
		}
	}
}

/* A text of a few characters, some of them hard. */
static char *random_text(struct rng *r)
{
	static const char *const pieces[] = {"a", " ", "\n", "\"", "\\", "é", "€", "😀", "\x01", "</think>", "data: ", "\r"};
	struct buf b = BUF_CAP(BUF_MAX);

	for (uint64_t n = 1 + rng_below(r, 8); n; n--)
		buf_str(&b, pieces[rng_below(r, sizeof pieces / sizeof *pieces)]);
	return buf_take(&b);
}

static void random_answers_stream_as_they_are_whole(void **state)
{
	struct rng r = rng_seed(6);

	(void)state;
	for (int round = 0; round < 60; round++) {
		struct script s[24];
		char *texts[24];
		size_t n = 0, n_texts = 0, n_calls = rng_below(&r, 3);

		for (uint64_t k = rng_below(&r, 3); k; k--)
			s[n++] = (struct script)REASONING(texts[n_texts++] = random_text(&r));
		for (uint64_t k = rng_below(&r, 3); k; k--)
			s[n++] = (struct script)CONTENT(texts[n_texts++] = random_text(&r));
		for (size_t k = 0; k < n_calls; k++) {
			struct buf b = BUF_CAP(BUF_MAX);
			char *value = random_text(&r);

			buf_str(&b, "{\"k\": ");
			json_write_string(&b, value, strlen(value));
			buf_byte(&b, '}');
			mem_free(value);
			s[n++] = (struct script)CALL(k ? CALL_2 : CALL_1, "f");
			s[n++] = (struct script)ARGUMENTS(texts[n_texts++] = buf_take(&b));
			s[n++] = (struct script)END;
		}
		s[n++] = (struct script)FINISH(n_calls ? TURN_TOOL_CALLS : rng_below(&r, 2) ? TURN_LENGTH : TURN_STOP);
		compare_all(s, n);
		while (n_texts)
			mem_free(texts[--n_texts]);
	}
}

/* An error after the headers, at any point of an answer. */
static void an_error_ends_the_stream_in_the_words_of_the_api(void **state)
{
	static const struct script s[] = {REASONING("Hm"), CONTENT("Hi"), FINISH(TURN_ERROR)};
	static const char *const ends[] = {
		"event: error\ndata: {\"error\":{\"message\":\"the device failed\",\"type\":\"server_error\","
		"\"param\":null,\"code\":\"server_error\"}}\n\n",
		"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\","
		"\"message\":\"the device failed\"}}\n\n",
		"event: response.failed\ndata: {\"type\":\"response.failed\",",
	};

	(void)state;
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		const struct dialect *d = forms[i].d;
		const char *want = ends[d == &dialect_messages ? 1 : d == &dialect_responses ? 2 : 0];

		for (size_t from = 0; from < 3; from++) {
			struct buf out = BUF_CAP(BUF_MAX);
			char body[600];
			const char *p;

			snprintf(body, sizeof body, forms[i].body, "true");
			answer(d, body, s + from, 3 - from, 0, &out);
			p = strstr(buf_cstr(&out), want);
			if (!p || strcmp(strstr(p, "\n\n"), "\n\n"))
				fail_msg("%s: expected at the end:\n%s\nfound:\n%s", d->name, want, buf_cstr(&out));
			if (d == &dialect_responses && !strstr(p, "\"status\":\"failed\""))
				fail_msg("%s", p);
			buf_clear(&out);
			snprintf(body, sizeof body, forms[i].body, "false");
			answer(d, body, s + from, 3 - from, 0, &out);
			assert_int_equal(out.len, 0);	/* the server sends error() with its status */
			buf_clear(&out);
		}
	}
}

static void events_after_the_end_say_nothing(void **state)
{
	static const struct script s[] = {CONTENT("Hi"), FINISH(TURN_STOP)};

	(void)state;
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		struct buf out = BUF_CAP(BUF_MAX);
		struct api_error e = {.status = 500, .message = "late"};
		struct api_request q;
		struct writer *w;
		char body[600];
		size_t len;

		snprintf(body, sizeof body, forms[i].body, "true");
		must_parse(forms[i].d, body, &q);
		w = forms[i].d->open(&q, &env, 100);
		play(w, forms[i].d, s, 2, 0, &out);
		len = out.len;
		forms[i].d->event(w, &(struct turn_event){.kind = TURN_CONTENT, .text = "x", .n = 1}, &out);
		(forms[i].d->fail)(w, &e, &out);	/* cmocka has a macro of this name */
		assert_int_equal(out.len, len);
		forms[i].d->close(w);
		api_request_clear(&q);
		buf_clear(&out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_of_answer_streams_as_it_is_whole),
		cmocka_unit_test(a_call_cut_off_ends_properly),
		cmocka_unit_test(custom_tools_get_the_text_inside_the_json),
		cmocka_unit_test(random_answers_stream_as_they_are_whole),
		cmocka_unit_test(an_error_ends_the_stream_in_the_words_of_the_api),
		cmocka_unit_test(events_after_the_end_say_nothing),
	};

	return cmocka_run_group_tests(tests, open_env, close_env);
}
