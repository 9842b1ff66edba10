/* dialect_completions_test.c - /v1/completions: what requests mean, and the exact bytes of answers. */
#include "common.h"

#define BODY(fields) "{\"prompt\":\"x\"" fields "}"

/* The prompt as text of its tokens. */
static void expect_raw(const char *body, const char *want)
{
	struct buf b = BUF_CAP(BUF_MAX);
	struct api_request q;

	must_parse(&dialect_completions, body, &q);
	assert_null(q.turn.conversation);
	assert_ptr_equal(q.turn.raw, q.raw.id);
	for (int32_t i = 0; i < q.turn.n_raw; i++) {
		size_t n;
		const char *p = token_bytes(env.tokenizer, q.turn.raw[i], &n);

		buf_add(&b, p, n);
	}
	expect_same(body, want, buf_cstr(&b));
	buf_clear(&b);
	api_request_clear(&q);
}

#define BOS "<｜begin▁of▁sentence｜>"

static void prompts_are_raw(void **state)
{
	(void)state;
	expect_raw("{\"prompt\":\"Once\"}", BOS "Once");
	expect_raw("{\"prompt\":\"\"}", BOS);
	expect_raw("{\"prompt\":[\"Once\"]}", BOS "Once");
	expect_raw("{\"prompt\":\"" BOS "Once\"}", BOS "Once");	/* not twice */
	expect_raw("{\"prompt\":[0,128822]}", BOS "</think>");
	expect_raw("{\"prompt\":[[128822]]}", BOS "</think>");
	expect_raw("{\"prompt\":[]}", BOS);
	expect_raw("{\"prompt\":\"a\",\"suffix\":\"b\"}", BOS "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>");
}

static void control_tokens_in_a_prompt_are_recognised_unless_refused(void **state)
{
	struct api_request q;

	(void)state;
	must_parse(&dialect_completions, "{\"prompt\":\"</think>\"}", &q);
	assert_int_equal(q.turn.n_raw, 2);
	assert_int_equal(q.turn.raw[1], tokenizer_special(env.tokenizer, SPECIAL_END_THINK));
	api_request_clear(&q);
	must_parse(&dialect_completions, "{\"prompt\":\"</think>\",\"parse_special\":false}", &q);
	assert_true(q.turn.n_raw > 2);
	for (int32_t i = 1; i < q.turn.n_raw; i++)
		assert_false(tokenizer_is_added(env.tokenizer, q.turn.raw[i]));
	api_request_clear(&q);
}

static void limits_are_read(void **state)
{
	struct api_request q;

	(void)state;
	must_parse(&dialect_completions, BODY(""), &q);
	assert_int_equal(q.turn.max_tokens, 16);	/* OpenAI's default here */
	assert_int_equal(q.turn.thinking, THINKING_OFF);
	assert_true(q.turn.sampling.temperature == 1 && q.turn.sampling.min_p == 0.05f);
	api_request_clear(&q);
	must_parse(&dialect_completions, BODY(",\"max_tokens\":0,\"temperature\":0,\"logprobs\":0,\"echo\":true,\"stop\":\"s\","
					      "\"n\":1,\"best_of\":1,\"seed\":3"), &q);
	assert_int_equal(q.turn.max_tokens, 0);
	assert_true(q.turn.sampling.temperature == 0 && q.logprobs && q.echo);
	assert_int_equal(q.turn.top_logprobs, 0);
	assert_int_equal(q.turn.n_stop, 1);
	api_request_clear(&q);
}

static void the_server_may_wrap_prompts_in_a_chat(void **state)
{
	static const struct script s[] = {REASONING("Hm"), CONTENT("Hi"), FINISH(TURN_STOP)};
	struct buf out = BUF_CAP(BUF_MAX);

	(void)state;
	env.completions_chat = true;
	expect_prompt(&dialect_completions, BODY(""),
		      BOS "You are a helpful assistant<｜User｜>x<｜Assistant｜><think>");
	expect_prompt(&dialect_completions, BODY(",\"think\":false"),
		      BOS "You are a helpful assistant<｜User｜>x<｜Assistant｜></think>");
	ANSWER(&dialect_completions, BODY(""), s, 0, &out);
	if (!strstr(buf_cstr(&out), "\"text\":\"Hm</think>Hi\""))
		fail_msg("%s", buf_cstr(&out));
	env.completions_chat = false;
	buf_clear(&out);
}

static void what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *body, *param, *message;
	} cases[] = {
		{"{}", "prompt", "missing prompt"},
		{"{\"prompt\":5}", "prompt", "a string"},
		{"{\"prompt\":{}}", "prompt", "a string"},
		{"{\"prompt\":[\"a\",\"b\"]}", "prompt", "only one prompt"},
		{"{\"prompt\":[1,\"b\"]}", "prompt[1]", "an integer"},
		{"{\"prompt\":[1,null]}", "prompt[1]", "a token id"},
		{"{\"prompt\":[-1]}", "prompt[0]", "from 0 to"},
		{"{\"prompt\":[1000000]}", "prompt[0]", "from 0 to"},
		{BODY(",\"suffix\":5"), "suffix", "a string"},
		{BODY(",\"parse_special\":5"), "parse_special", "true or false"},
		{BODY(",\"echo\":5"), "echo", "true or false"},
		{BODY(",\"logprobs\":true"), "logprobs", "an integer"},
		{BODY(",\"logprobs\":21"), "logprobs", "from 0 to 20"},
		{BODY(",\"max_tokens\":-1"), "max_tokens", "at least 0"},
		{BODY(",\"best_of\":2"), "best_of", "only 1"},
		{BODY(",\"n\":2"), "n", "only 1"},
		{BODY(",\"presence_penalty\":1"), "presence_penalty", "only 0"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		expect_refused(&dialect_completions, cases[i].body, cases[i].param, cases[i].message);
}

#define HEAD "{\"id\":\"cmpl-#\",\"object\":\"text_completion\",\"created\":1767225600,\"model\":\"m\"," \
	     "\"system_fingerprint\":\"fp_test\",\"choices\":["
#define CHOICE(text, logprobs, finish) "{\"text\":\"" text "\",\"index\":0,\"logprobs\":" logprobs ",\"finish_reason\":" finish "}"
#define USAGE "{\"prompt_tokens\":100,\"completion_tokens\":20,\"total_tokens\":120,\"prompt_tokens_details\":" \
	      "{\"cached_tokens\":40,\"cache_write_tokens\":60},\"completion_tokens_details\":{\"reasoning_tokens\":9}," \
	      "\"prompt_cache_hit_tokens\":40,\"prompt_cache_miss_tokens\":60}"

static void expect_answer(const char *body, const struct script *s, size_t n, const char *want)
{
	struct buf out = BUF_CAP(BUF_MAX);

	answer(&dialect_completions, body, s, n, 0, &out);
	mask_id(&out, "cmpl-", 24);
	expect_same(body, want, buf_cstr(&out));
	buf_clear(&out);
}

static void answers_have_these_bytes(void **state)
{
	static const struct script s[] = {CONTENT("Hi"), CONTENT("\n"), FINISH(TURN_LENGTH)};

	(void)state;
	expect_answer(BODY(",\"model\":\"m\""), s, 3, HEAD CHOICE("Hi\\n", "null", "\"length\"") "],\"usage\":" USAGE "}\n");
	expect_answer(BODY(",\"model\":\"m\",\"echo\":true"), s, 3,
		      HEAD CHOICE("xHi\\n", "null", "\"length\"") "],\"usage\":" USAGE "}\n");
	expect_answer(BODY(",\"model\":\"m\",\"stream\":true"), s, 3,
		      "data: " HEAD CHOICE("Hi", "null", "null") "]}\n\n"
		      "data: " HEAD CHOICE("\\n", "null", "null") "]}\n\n"
		      "data: " HEAD CHOICE("", "null", "\"length\"") "]}\n\n"
		      "data: [DONE]\n\n");
	expect_answer(BODY(",\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true}"), s, 3,
		      "data: " HEAD CHOICE("Hi", "null", "null") "],\"usage\":null}\n\n"
		      "data: " HEAD CHOICE("\\n", "null", "null") "],\"usage\":null}\n\n"
		      "data: " HEAD CHOICE("", "null", "\"length\"") "],\"usage\":null}\n\n"
		      "data: " HEAD "],\"usage\":" USAGE "}\n\n"
		      "data: [DONE]\n\n");
}

/* The tokens of a suffix, and those around, are not part of the text. */
static void an_echo_shows_the_prompt_alone(void **state)
{
	static const struct script s[] = {CONTENT("Hi"), FINISH(TURN_STOP)};
	struct buf out = BUF_CAP(BUF_MAX);

	(void)state;
	ANSWER(&dialect_completions, "{\"prompt\":\"A\",\"suffix\":\"B\",\"echo\":true,\"logprobs\":0}", s, 0, &out);
	if (!strstr(buf_cstr(&out), "\"text\":\"AHi\",\"index\":0,\"logprobs\":{\"tokens\":[\"A\"],\"token_logprobs\":[null],"
				    "\"top_logprobs\":[null],\"text_offset\":[0]}"))
		fail_msg("%s", buf_cstr(&out));
	buf_clear(&out);
}

/* BOS is put in front of the prompt: what READ says is of its tokens, which come after.  Offsets count characters. */
static void log_probabilities_are_four_lists(void **state)
{
	struct token_list ids = {0};
	struct turn_logprob read[2] = {{.logprob = -3}, {.logprob = -2, .n_top = 1, .top = {{.logprob = -1}}}};
	struct turn_logprob made = {.logprob = -0.5f, .n_top = 1, .top = {{.logprob = -0.5f}}};
	const struct turn_event events[] = {
		{.kind = TURN_STARTED},
		{.kind = TURN_READ, .logprob = read, .n_logprob = 2},
		{.kind = TURN_CONTENT, .text = "A", .n = 1, .logprob = &made, .n_logprob = 1},
		{.kind = TURN_FINISH, .finish = TURN_STOP, .usage = test_usage},
	};
	static const char *const wants[] = {
		"\"logprobs\":{\"tokens\":[\"é\",\"B\",\"A\"],\"token_logprobs\":[-3,-2,-0.5],"
		"\"top_logprobs\":[{\"é\":-3},{\"A\":-1,\"B\":-2},{\"A\":-0.5}],\"text_offset\":[0,1,2]}",
		"\"logprobs\":{\"tokens\":[\"é\",\"B\",\"A\"],\"token_logprobs\":[null,null,-0.5],"
		"\"top_logprobs\":[null,null,{\"A\":-0.5}],\"text_offset\":[0,1,2]}",
	};

	(void)state;
	token_encode_text(env.tokenizer, "é", 2, &ids);
	token_encode_text(env.tokenizer, "B", 1, &ids);
	token_encode_text(env.tokenizer, "A", 1, &ids);
	assert_int_equal(ids.n, 3);
	read[0].token = ids.id[0];
	read[1].token = ids.id[1];
	made.token = made.top[0].token = read[1].top[0].token = ids.id[2];
	for (size_t without = 0; without < 2; without++) {
		struct buf out = BUF_CAP(BUF_MAX);
		struct api_request q;
		struct writer *w;
		char body[100];

		snprintf(body, sizeof body, "{\"prompt\":[%d,%d],\"echo\":true,\"logprobs\":1}", ids.id[0], ids.id[1]);
		must_parse(&dialect_completions, body, &q);
		w = dialect_completions.open(&q, &env, 3);
		for (size_t i = 0; i < sizeof events / sizeof *events; i++)
			if (!without || events[i].kind != TURN_READ)
				dialect_completions.event(w, &events[i], &out);
		if (!strstr(buf_cstr(&out), wants[without]) || !strstr(buf_cstr(&out), "\"text\":\"éBA\""))
			fail_msg("expected %s\nin %s", wants[without], buf_cstr(&out));
		dialect_completions.close(w);
		api_request_clear(&q);
		buf_clear(&out);
	}
	token_list_clear(&ids);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(prompts_are_raw),
		cmocka_unit_test(control_tokens_in_a_prompt_are_recognised_unless_refused),
		cmocka_unit_test(limits_are_read),
		cmocka_unit_test(the_server_may_wrap_prompts_in_a_chat),
		cmocka_unit_test(what_is_wrong_is_named),
		cmocka_unit_test(answers_have_these_bytes),
		cmocka_unit_test(an_echo_shows_the_prompt_alone),
		cmocka_unit_test(log_probabilities_are_four_lists),
	};

	return cmocka_run_group_tests(tests, open_env, close_env);
}
