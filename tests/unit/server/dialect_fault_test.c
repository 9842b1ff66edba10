/* dialect_fault_test.c - with the n-th allocation failing, for every n: a request is refused as busy, an answer is
 * either whole or its buffer says that it is not.  Under the address sanitizer this also finds what leaks. */
#include "common.h"

static const struct {
	const struct dialect *d;
	const char *body;
} forms[] = {
	{&dialect_chat,
	 "{\"model\":\"m\",\"stop\":[\"END\"],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"custom\","
	 "\"custom\":{\"name\":\"c\"}}],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}},\"logprobs\":true,"
	 "\"response_format\":{\"type\":\"json_object\"},\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\","
	 "\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},{\"role\":\"assistant\",\"content\":\"b\",\"reasoning_content\":\"r\","
	 "\"tool_calls\":[{\"id\":\"i\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":"
	 "\"tool\",\"tool_call_id\":\"i\",\"content\":\"x\"}],\"stream\":%s}"},
	{&dialect_completions, "{\"model\":\"m\",\"prompt\":\"Once\",\"echo\":true,\"logprobs\":1,\"suffix\":\"s\",\"stream\":%s}"},
	{&dialect_responses,
	 "{\"model\":\"m\",\"instructions\":\"I\",\"tools\":[{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{\"type\":\"function\","
	 "\"name\":\"f\"}]},{\"type\":\"custom\",\"name\":\"c\"}],\"reasoning\":{\"summary\":\"auto\"},\"input\":[{\"role\":\"user\","
	 "\"content\":\"go\"},{\"type\":\"reasoning\",\"summary\":[{\"type\":\"summary_text\",\"text\":\"S\"}],"
	 "\"encrypted_content\":\"E\"},{\"type\":\"custom_tool_call\",\"call_id\":\"i\",\"name\":\"c\",\"input\":\"x\"},{\"type\":"
	 "\"custom_tool_call_output\",\"call_id\":\"i\",\"output\":\"y\"}],\"stream\":%s}"},
	{&dialect_messages,
	 "{\"model\":\"m\",\"system\":[{\"type\":\"text\",\"text\":\"S\",\"cache_control\":{}}],\"tools\":[{\"name\":\"f\","
	 "\"input_schema\":{}}],\"messages\":[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\",\"content\":[{\"type\":"
	 "\"thinking\",\"thinking\":\"R\",\"signature\":\"s\"},{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"f\",\"input\":{}}]},"
	 "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"i\",\"content\":\"y\"}]}],\"stream\":%s}"},
};

#define N_FORMS (sizeof forms / sizeof *forms)
#define ALLOCATIONS 160

static void a_request_without_memory_is_refused_as_busy(void **state)
{
	int refused = 0;

	(void)state;
	for (size_t i = 0; i < N_FORMS; i++) {
		char text[1500];
		json_t *body;

		snprintf(text, sizeof text, forms[i].body, "true");
		body = parse_json(text, strlen(text));
		for (long n = 1; n < ALLOCATIONS; n++) {
			struct api_request q = {.model = NULL};
			struct api_error e = {0};
			bool ok;

			mem_fail_at(n);
			ok = forms[i].d->parse(body, &env, &q, &e);
			mem_fail_at(0);
			if (!ok && (e.status != 503 || !e.message[0] || !e.retry_after))
				fail_msg("%s, allocation %ld: found %d \"%s\"", forms[i].d->name, n, e.status, e.message);
			refused += !ok;
			api_request_clear(&q);
		}
		json_decref(body);
	}
	assert_true(refused > 60);
}

static void make(const struct dialect *d, struct api_request *q, struct buf *out)
{
	static const struct turn_logprob lp = {.token = 5, .logprob = -1, .n_top = 1, .top = {{6, -0.5f}}};
	static const char arguments[] = "{\"input\": \"x\\ny\"}";
	const char *name = q->n_tool ? q->tool[q->n_tool - 1].name : "f";
	const struct turn_event events[] = {
		{.kind = TURN_STARTED, .done = 40, .carrier = CARRIER},
		{.kind = TURN_REASONING, .text = "Hm", .n = 2},
		{.kind = TURN_CONTENT, .text = "Hi", .n = 2, .logprob = &lp, .n_logprob = 1},
		{.kind = TURN_CALL_BEGIN, .text = name, .n = strlen(name), .call_id = CALL_1},
		{.kind = TURN_CALL_ARGUMENTS, .text = arguments, .n = sizeof arguments - 1},
		{.kind = TURN_CALL_END},
		{.kind = TURN_FINISH, .finish = TURN_TOOL_CALLS, .usage = test_usage},
	};
	struct writer *w = d->open(q, &env, 100);

	out->failed |= !w;
	for (size_t i = 0; w && i < sizeof events / sizeof *events; i++)
		d->event(w, &events[i], out);
	d->close(w);
}

static void mask_all(struct buf *b)
{
	static const char *const prefixes[] = {"chatcmpl-", "\"cmpl-", "resp_", "rs_", "\"msg_", "\"fc_", "\"ctc_"};

	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
		mask_id(b, prefixes[i], 24);
}

static void an_answer_without_memory_is_known_to_be_incomplete(void **state)
{
	int failed = 0;

	(void)state;
	for (size_t i = 0; i < 2 * N_FORMS; i++) {
		const struct dialect *d = forms[i / 2].d;
		struct buf want = BUF_CAP(BUF_MAX);
		struct api_request q;
		char text[1500];

		snprintf(text, sizeof text, forms[i / 2].body, i % 2 ? "true" : "false");
		must_parse(d, text, &q);
		make(d, &q, &want);
		mask_all(&want);
		for (long n = 1; n < ALLOCATIONS; n++) {
			struct buf out = BUF_CAP(BUF_MAX);

			mem_fail_at(n);
			make(d, &q, &out);
			mem_fail_at(0);
			failed += !buf_ok(&out);
			if (buf_ok(&out)) {
				mask_all(&out);
				expect_same(d->name, buf_cstr(&want), buf_cstr(&out));
			}
			buf_clear(&out);
		}
		buf_clear(&want);
		api_request_clear(&q);
	}
	assert_true(failed > 60);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_without_memory_is_refused_as_busy),
		cmocka_unit_test(an_answer_without_memory_is_known_to_be_incomplete),
	};

	return cmocka_run_group_tests(tests, open_env, close_env);
}
