/* dialect_roundtrip_test.c - an answer that a client sends back is the answer that was given: same texts, same calls
 * under the names of the prompt, and the turn's name where the API can carry it. */
#include "streams.h"

#define CHAT_TOOLS \
	"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"custom\",\"custom\":{\"name\":\"c\"}}]"
#define RESPONSES_TOOLS \
	"\"tools\":[{\"type\":\"namespace\",\"name\":\"ns__\",\"tools\":[{\"type\":\"function\",\"name\":\"f\"}]}," \
	"{\"type\":\"custom\",\"name\":\"c\"},{\"type\":\"tool_search\",\"parameters\":{\"type\":\"object\"}}]"
#define MESSAGES_TOOLS "\"tools\":[{\"name\":\"f\",\"input_schema\":{\"type\":\"object\"}}]"

static const struct {
	const struct dialect *d;
	const char *body;
	const char *history;	/* field that the answer goes back into */
	bool carries, custom;
	const char *name;	/* of the function in the prompt */
} apis[] = {
	{&dialect_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"go\"}]," CHAT_TOOLS "}", "messages", false, true,
	 "f"},
	{&dialect_responses,
	 "{\"input\":[{\"role\":\"user\",\"content\":\"go\"}],\"include\":[\"reasoning.encrypted_content\"]," RESPONSES_TOOLS "}",
	 "input", true, true, "ns__f"},
	{&dialect_responses,
	 "{\"input\":[{\"role\":\"user\",\"content\":\"go\"}],\"include\":[\"reasoning.encrypted_content\"],"
	 "\"reasoning\":{\"summary\":\"auto\"}," RESPONSES_TOOLS "}", "input", true, true, "ns__f"},
	{&dialect_messages, "{\"messages\":[{\"role\":\"user\",\"content\":\"go\"}]," MESSAGES_TOOLS "}", "messages", true, false,
	 "f"},
};

#define N_APIS (sizeof apis / sizeof *apis)

/* What a client appends to its history: the answer's own objects, then a result for each call, or a next question. */
static void append_answer(size_t api, json_t *history, const json_t *o, const struct heard *h)
{
	json_t *message;

	if (apis[api].d == &dialect_chat) {
		message = json_object_get(json_array_get(json_object_get(o, "choices"), 0), "message");
		json_array_append(history, message);
	} else if (apis[api].d == &dialect_responses) {
		json_array_extend(history, json_object_get(o, "output"));
	} else {
		message = json_pack("{s:s, s:O}", "role", "assistant", "content", json_object_get(o, "content"));
		json_array_append_new(history, message);
	}
	for (size_t i = 0; i < h->n_calls; i++) {
		const char *id = h->call[i].id;
		bool custom = strcmp(h->call[i].type, "custom") == 0;

		if (apis[api].d == &dialect_chat)
			message = json_pack("{s:s, s:s, s:s}", "role", "tool", "tool_call_id", id, "content", "r");
		else if (apis[api].d == &dialect_responses)
			message = json_pack("{s:s, s:s, s:s}", "type",
					    custom ? "custom_tool_call_output" : "function_call_output",
					    "call_id", id, "output", "r");
		else
			message = json_pack("{s:s, s:[{s:s, s:s, s:s}]}", "role", "user", "content", "type", "tool_result",
					    "tool_use_id", id, "content", "r");
		json_array_append_new(history, message);
	}
	if (!h->n_calls)
		json_array_append_new(history, json_pack("{s:s, s:s}", "role", "user", "content", "on"));
}

static void same_json(const char *what, const char *want, const struct text *have)
{
	json_t *a = parse_json(want, strlen(want)), *b = parse_json(have->p, have->n);

	if (!json_equal(a, b))
		fail_msg("%s: expected %s, found %s", what, want, have->p);
	json_decref(a);
	json_decref(b);
}

/* Says the script, sends it back, and compares. */
static void round_trip(size_t api, const struct script *s, size_t n)
{
	const struct dialect *d = apis[api].d;
	json_t *body = parse_json(apis[api].body, strlen(apis[api].body)), *o;
	struct buf out = BUF_CAP(BUF_MAX);
	struct api_error e = {0};
	struct api_request q = {.model = NULL};
	const struct message *m = NULL;
	struct heard h;
	size_t call = 0;

	answer(d, apis[api].body, s, n, 0, &out);
	heard_init(&h);
	heard_whole(&h, d, &out);
	o = parse_json(buf_cstr(&out), out.len);
	append_answer(api, json_object_get(body, apis[api].history), o, &h);
	if (!d->parse(body, &env, &q, &e))
		fail_msg("%s: %s (%s)\n%s", d->name, e.message, e.param, buf_cstr(&out));
	for (size_t i = 0; i < q.turn.conversation->n; i++) {
		if (q.turn.conversation->messages[i].role == ROLE_ASSISTANT) {
			assert_null(m);	/* one answer is one message */
			m = &q.turn.conversation->messages[i];
		}
	}
	assert_non_null(m);
	for (size_t i = 0; i < n; i++) {
		if (s[i].kind == TURN_REASONING)
			same_text("reasoning", s[i].text, m->reasoning.p ? m->reasoning.p : "");
		if (s[i].kind == TURN_CONTENT)
			same_text("content", s[i].text, m->content.p);
		if (s[i].kind == TURN_CALL_BEGIN) {
			same_text("call id", s[i].id, m->calls[call].id.p);
			same_text("name", s[i].text, m->calls[call].name.p);
		}
		if (s[i].kind == TURN_CALL_ARGUMENTS)
			same_json("arguments", s[i].text, &m->calls[call].arguments);
		call += s[i].kind == TURN_CALL_END;
	}
	assert_int_equal(m->n_calls, call);
	if (apis[api].carries && s[0].kind == TURN_REASONING)
		same_text("carrier", CARRIER, m->carrier.p ? m->carrier.p : "");
	json_decref(o);
	json_decref(body);
	api_request_clear(&q);
	heard_clear(&h);
	buf_clear(&out);
}

static void answers_come_back_as_they_were_given(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_APIS; i++) {
		const struct script text[] = {REASONING("Hm \"€\"\n"), CONTENT("Hi\\\n"), FINISH(TURN_STOP)};
		const struct script cut[] = {REASONING("Hm"), CONTENT("Hi"), FINISH(TURN_LENGTH)};
		const struct script plain[] = {CONTENT("Hi"), FINISH(TURN_STOP)};
		const struct script calls[] = {
			REASONING("Hm"), CONTENT("Hi"), CALL(CALL_1, apis[i].name), ARGUMENTS("{\"a\": [1, 2.50, \"x\"]}"), END,
			CALL(CALL_2, apis[i].name), ARGUMENTS("{}"), END, FINISH(TURN_TOOL_CALLS)};
		const struct script custom[] = {CALL(CALL_1, "c"), ARGUMENTS("{\"input\": \"*** \\\"Begin\\\"\\n\\u0001€\"}"), END,
						FINISH(TURN_TOOL_CALLS)};

		round_trip(i, text, 3);
		round_trip(i, cut, 3);
		round_trip(i, plain, 2);
		round_trip(i, calls, 9);
		if (apis[i].custom)
			round_trip(i, custom, 4);
	}
}

/* A tool search has an object for arguments, which the listener of other calls does not expect. */
static void a_tool_search_comes_back(void **state)
{
	static const struct script s[] = {CALL(CALL_1, "tool_search"), ARGUMENTS("{\"query\": \"q\"}"), END, FINISH(TURN_TOOL_CALLS)};
	struct buf out = BUF_CAP(BUF_MAX);
	struct api_request q = {.model = NULL};
	struct api_error e = {0};
	json_t *body, *o, *input;

	(void)state;
	answer(&dialect_responses, apis[1].body, s, 4, 0, &out);
	o = parse_json(buf_cstr(&out), out.len);
	body = parse_json(apis[1].body, strlen(apis[1].body));
	input = json_object_get(body, "input");
	json_array_extend(input, json_object_get(o, "output"));
	json_array_append_new(input, json_pack("{s:s, s:s, s:[]}", "type", "tool_search_output", "call_id", CALL_1, "tools"));
	if (!dialect_responses.parse(body, &env, &q, &e))
		fail_msg("%s", e.message);
	assert_string_equal(q.turn.conversation->messages[2].calls[0].name.p, "tool_search");
	same_json("arguments", "{\"query\": \"q\"}", &q.turn.conversation->messages[2].calls[0].arguments);
	json_decref(o);
	json_decref(body);
	api_request_clear(&q);
	buf_clear(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_come_back_as_they_were_given),
		cmocka_unit_test(a_tool_search_comes_back),
	};

	return cmocka_run_group_tests(tests, open_env, close_env);
}
