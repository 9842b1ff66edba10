/* turn_test.c - one answer from a conversation to events: scripted answers through the real engine's thread. */
#include "unit/turn/common.h"

#include <pthread.h>

static struct turn_request request(struct conversation *c, enum thinking thinking)
{
	struct turn_request q = TURN_REQUEST_DEFAULT;

	q.conversation = c;
	q.thinking = thinking;
	q.sampling.seed = 1;
	return q;
}

/* Runs an answer that a script says; its text may hold control tokens. */
static void say(struct turn_request *q, const char *script, struct record *r)
{
	struct token_list ids = {0};

	encode(script, &ids);
	q->script = ids.id;
	q->n_script = (int32_t)ids.n;
	run(q, r);
	token_list_clear(&ids);
}

static void assert_text(const struct buf *b, const char *expected)
{
	assert_string_equal(buf_cstr(b), expected);
}

static int32_t tokens_of(const char *text)
{
	struct token_list ids = {0};
	int32_t n;

	encode(text, &ids);
	n = (int32_t)ids.n;
	token_list_clear(&ids);
	return n;
}

static void an_answer_comes_as_reasoning_content_and_calls_in_order(void **state)
{
	const char *script = "hm</think>So: " BLOCK(CALL("get", TEXT("city", "Rome") JSON("days", "3")) CALL("put", ""));
	struct turn_request q = request(ask("Hi", TOOLS), THINKING_ON);
	struct record r = {0};

	(void)state;
	say(&q, script, &r);
	assert_null(q.conversation);
	assert_text(&r.reasoning, "hm");
	assert_text(&r.content, "So:");
	assert_text(&r.calls, "0:get{\"city\": \"Rome\", \"days\": 3};1:put{};");
	assert_non_null(strstr(buf_cstr(&r.order), "srtcBAEBAEF"));
	assert_int_equal(r.end.finish, TURN_TOOL_CALLS);
	assert_int_equal(r.end.usage.generated, tokens_of(script));
	assert_int_equal(r.end.usage.reasoning, tokens_of("hm</think>"));
	assert_true(r.end.usage.prompt > 1000);
	record_clear(&r);
	r = (struct record){0};
	q = request(ask("Hi", NULL), THINKING_OFF);
	say(&q, "Plain.", &r);
	assert_text(&r.content, "Plain.");
	assert_int_equal(r.end.finish, TURN_STOP);
	assert_int_equal(r.end.usage.generated, tokens_of("Plain."));
	assert_int_equal(r.end.usage.reasoning, 0);
	record_clear(&r);
}

static void the_second_prompt_finds_what_the_first_has_read(void **state)
{
	struct turn_request q = request(ask("Hello there", TOOLS), THINKING_OFF);
	struct record r = {0};

	(void)state;
	say(&q, "a", &r);
	record_clear(&r);
	r = (struct record){0};
	q = request(ask("Hello there, again", TOOLS), THINKING_OFF);
	say(&q, "b", &r);
	assert_int_equal(r.end.usage.cached, 1024);	/* of 1057: the last boundary that a checkpoint can have */
	record_clear(&r);
}

static void a_stop_string_ends_the_answer_wherever_it_stands(void **state)
{
	static const char text[] = "some words of an answer";
	const struct stop_string stop[] = {{"zz", 2}, {"END", 3}};
	char script[64];

	(void)state;
	for (size_t at = 0; at < sizeof text; at++) {
		struct turn_request q = request(ask("Hi", NULL), THINKING_ON);
		struct record r = {0};
		struct buf before = BUF_CAP(64);

		buf_add(&before, text, at);
		snprintf(script, sizeof script, "ENDz</think>%.*sEND%s", (int)at, text, text + at);
		q.stop = stop;
		q.n_stop = 2;
		say(&q, script, &r);
		assert_text(&r.reasoning, "ENDz");
		assert_text(&r.content, buf_cstr(&before));
		assert_int_equal(r.end.finish, TURN_STOP_STRING);
		assert_int_equal(r.end.stop, 1);
		/* not a token more than that */
		assert_in_range(r.end.usage.generated, tokens_of("ENDz</think>"), 8 + at + 3);
		record_clear(&r);
		buf_clear(&before);
	}
}

static void the_budget_closes_the_reasoning(void **state)
{
	(void)state;
	for (int budget = 0; budget < 4; budget++) {
		struct turn_request q = request(ask("Hi", NULL), THINKING_ON);
		struct record r = {0};

		q.thinking_budget = budget;
		say(&q, "xyzw</think>ok", &r);
		assert_int_equal(r.reasoning.len, budget);
		assert_int_equal(r.end.usage.reasoning, budget + 1);
		assert_text(&r.content, "ok");
		assert_int_equal(r.end.finish, TURN_STOP);
		record_clear(&r);
	}
}

static void the_last_token_of_max_tokens_closes_the_reasoning(void **state)
{
	(void)state;
	for (int most = 1; most < 6; most++) {
		struct turn_request q = request(ask("Hi", NULL), THINKING_ON);
		struct token_list ids = {0};
		struct record r = {0};
		struct turn *t;
		const int32_t *id;
		int32_t n;

		encode("xyzwvuts</think>ok", &ids);
		q.script = ids.id;
		q.n_script = (int32_t)ids.n;
		q.max_tokens = most;
		t = open_turn(&q);
		read_turn(t, &r);
		id = turn_answer(t, &n);
		assert_int_equal(n, most);
		assert_int_equal(id[n - 1], tokenizer_special(context.engine->tokenizer, SPECIAL_END_THINK));
		assert_int_equal(r.reasoning.len, most - 1);
		assert_int_equal(r.end.finish, TURN_LENGTH);
		turn_close(t);
		token_list_clear(&ids);
		record_clear(&r);
	}
}

static void tool_choice_forces_the_beginning_of_a_call(void **state)
{
	static const char named[] = BLOCK(CALL("get", ""));

	(void)state;
	for (int thinking = 0; thinking < 2; thinking++) {
		struct turn_request q = request(ask("Hi", TOOLS), (enum thinking)thinking);
		struct record r = {0};

		q.tool_choice = TOOL_CHOICE_NAMED;
		q.tool_name = "get";
		/* the script stands for what the model says behind that */
		say(&q, thinking ? "mm</think>" TEXT("city", "Bari") "</" D "invoke>\n</" D "tool_calls>" :
				   TEXT("city", "Bari") "</" D "invoke>\n</" D "tool_calls>", &r);
		assert_text(&r.reasoning, thinking ? "mm" : "");
		assert_text(&r.content, "");
		assert_text(&r.calls, "0:get{\"city\": \"Bari\"};");
		assert_int_equal(r.end.finish, TURN_TOOL_CALLS);
		record_clear(&r);
		r = (struct record){0};
		q = request(ask("Hi", TOOLS), (enum thinking)thinking);
		q.tool_choice = TOOL_CHOICE_REQUIRED;
		say(&q, thinking ? "</think>put\">\n</" D "invoke>\n</" D "tool_calls>" :
				   "put\">\n</" D "invoke>\n</" D "tool_calls>", &r);
		assert_text(&r.calls, "0:put{};");
		record_clear(&r);
	}
	assert_true(tokens_of(named) > 0);
}

static void with_one_call_the_block_is_closed_behind_it(void **state)
{
	static const char *const after[] = {"", CALL("put", ""), "</" D "tool_calls>"};
	static const char *const line[] = {"\n", ""};

	(void)state;
	for (int i = 0; i < 6; i++) {
		struct turn_request q = request(ask("Hi", TOOLS), THINKING_OFF);
		struct token_list ids = {0}, expected = {0};
		struct record r = {0};
		struct turn *t;
		const int32_t *id;
		char script[400];
		int32_t n;

		snprintf(script, sizeof script, "\n\n<" D "tool_calls>\n<" D "invoke name=\"put\">\n</" D "invoke>%s%s",
			 line[i % 2], after[i / 2]);
		encode(script, &ids);
		encode(BLOCK(CALL("put", "")), &expected);
		q.script = ids.id;
		q.n_script = (int32_t)ids.n;
		q.one_call = true;
		t = open_turn(&q);
		read_turn(t, &r);
		id = turn_answer(t, &n);
		assert_text(&r.calls, "0:put{};");
		assert_int_equal(r.end.finish, TURN_TOOL_CALLS);
		assert_int_equal(n, expected.n);
		assert_memory_equal(id, expected.id, expected.n * sizeof *id);
		turn_close(t);
		token_list_clear(&ids);
		token_list_clear(&expected);
		record_clear(&r);
	}
}

static void a_call_that_is_cut_off_has_no_end(void **state)
{
	struct turn_request q = request(ask("Hi", TOOLS), THINKING_OFF);
	struct record r = {0};

	(void)state;
	q.max_tokens = tokens_of("\n\n<" D "tool_calls>\n<" D "invoke name=\"get\">\n<" D
				 "parameter name=\"city\" string=\"true\">Mil");
	say(&q, BLOCK(CALL("get", TEXT("city", "Milano"))), &r);
	assert_text(&r.calls, "0:get{\"city\": \"Mil");
	assert_int_equal(r.end.finish, TURN_LENGTH);
	assert_int_equal(r.end.usage.generated, q.max_tokens);
	record_clear(&r);
}

static void tools_are_hidden_when_none_may_be_called(void **state)
{
	struct turn_request q = request(ask("Hi", TOOLS), THINKING_OFF);
	struct record r = {0};

	(void)state;
	q.tool_choice = TOOL_CHOICE_NONE;
	say(&q, "<" D "invoke", &r);
	assert_true(r.end.usage.prompt < 100);
	assert_text(&r.content, "<｜｜DSML｜｜invoke");
	assert_int_equal(r.calls.len, 0);
	record_clear(&r);
}

static void length_and_context_end_an_answer(void **state)
{
	struct turn_request q = request(ask("Hi", NULL), THINKING_OFF);
	struct record r = {0};
	int32_t *raw = mem_array(CONTEXT, sizeof *raw);

	(void)state;
	q.max_tokens = 3;
	run(&q, &r);
	assert_int_equal(r.end.finish, TURN_LENGTH);
	assert_int_equal(r.end.usage.generated, 3);
	record_clear(&r);
	r = (struct record){0};
	for (int i = 0; i < CONTEXT; i++)
		raw[i] = 100;
	q = request(NULL, THINKING_OFF);
	q.raw = raw;
	q.n_raw = CONTEXT - 2;
	say(&q, "abcdef", &r);
	assert_int_equal(r.end.finish, TURN_CONTEXT);
	assert_text(&r.content, "ab");
	record_clear(&r);
	mem_free(raw);
}

static void reading_alone_is_an_answer_without_tokens(void **state)
{
	static const int32_t raw[] = {0, 100, 101};
	struct turn_request q = request(NULL, THINKING_OFF);
	struct record r = {0};

	(void)state;
	q.raw = raw;
	q.n_raw = 3;
	q.max_tokens = 0;
	run(&q, &r);
	assert_int_equal(r.end.finish, TURN_LENGTH);
	assert_int_equal(r.end.usage.generated, 0);
	record_clear(&r);
}

static void a_cancel_ends_soon_and_exactly_once(void **state)
{
	(void)state;
	for (int when = 0; when < 3; when++) {
		struct turn_request q = request(ask("Hi", NULL), THINKING_OFF);
		struct record r = {.stop_after = when == 2 ? 4 : 0};
		struct turn *t = open_turn(&q);

		if (when == 0)
			turn_cancel(t);
		assert_int_equal(turn_start(t, NULL, NULL, NULL), OK);
		if (when == 1) {
			while (!r.content.len)
				assert_true(turn_read(t, 30, record_take, &r));
			turn_cancel(t);
		}
		while (turn_read(t, 30, record_take, &r))
			;
		assert_int_equal(r.ends, 1);
		assert_int_equal(r.end.finish, TURN_CANCELLED);
		assert_true(r.end.usage.generated < 1000);
		turn_close(t);
		record_clear(&r);
	}
}

static void a_turn_may_be_closed_at_any_time(void **state)
{
	(void)state;
	for (int i = 0; i < 8; i++) {
		struct turn_request q = request(ask("Hi", i % 2 ? TOOLS : NULL), THINKING_ON);
		struct record r = {0};
		struct turn *t = open_turn(&q);

		if (i > 1)
			assert_int_equal(turn_start(t, NULL, NULL, NULL), OK);
		if (i > 3)
			turn_read(t, 0.01 * i, record_take, &r);
		turn_close(t);
		record_clear(&r);
	}
}

struct bell {
	pthread_mutex_t lock;
	pthread_cond_t rung;
	int times;
};

static void ring(void *ctx)
{
	struct bell *b = ctx;

	pthread_mutex_lock(&b->lock);
	b->times++;
	pthread_cond_signal(&b->rung);
	pthread_mutex_unlock(&b->lock);
}

static void a_reader_can_be_woken_instead_of_waiting(void **state)
{
	struct bell bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
	struct turn_request q = request(ask("Hi", NULL), THINKING_OFF);
	struct record r = {0};
	struct turn *t;
	int seen = 0;

	(void)state;
	q.max_tokens = 30;
	t = open_turn(&q);
	assert_int_equal(turn_start(t, ring, &bell, NULL), OK);
	do {
		pthread_mutex_lock(&bell.lock);
		while (bell.times == seen)
			pthread_cond_wait(&bell.rung, &bell.lock);
		seen = bell.times;
		pthread_mutex_unlock(&bell.lock);
	} while (turn_read(t, 0, record_take, &r));
	assert_int_equal(r.end.finish, TURN_LENGTH);
	turn_close(t);
	record_clear(&r);
}

static void log_probabilities_are_those_of_the_logits(void **state)
{
	struct turn_request q = request(ask("Hi", NULL), THINKING_OFF);
	struct record r = {0};
	struct session *s;
	struct turn *t;
	const int32_t *id;
	int32_t n, vocab = context.engine->shape.vocab;
	struct token_list all = {0};
	struct err err = {0};

	(void)state;
	q.max_tokens = 20;
	q.top_logprobs = 7;
	t = open_turn(&q);
	read_turn(t, &r);
	id = turn_answer(t, &n);
	assert_int_equal(r.end.finish, TURN_LENGTH);
	token_append(&all, turn_prompt(t), (size_t)turn_prompt_tokens(t));
	/* the engine's thread rests now */
	assert_int_equal(session_open(&s, context.engine, &err), OK);
	for (int32_t i = 0, at = 0; i < n; i++) {
		const float *logits;
		int32_t top[7];
		float logprob[7];

		assert_int_equal(session_sync(s, all.id, (int32_t)all.n, NULL, NULL, &err), OK);
		logits = session_logits(s);
		token_push(&all, id[i]);
		if (tokenizer_is_added(context.engine->tokenizer, id[i]))
			continue;
		sampler_top(logits, vocab, 7, top, logprob);
		assert_true(at < r.n_logprob);
		assert_int_equal(r.logprob[at].token, id[i]);
		assert_true(r.logprob[at].logprob == (float)sampler_logprob(logits, vocab, id[i]));
		assert_int_equal(r.logprob[at].n_top, 7);
		for (int k = 0; k < 7; k++) {
			assert_int_equal(r.logprob[at].top[k].token, top[k]);
			assert_true(r.logprob[at].top[k].logprob == logprob[k]);
		}
		at++;
	}
	session_close(s);
	turn_close(t);
	token_list_clear(&all);
	record_clear(&r);
}

static bool take_prompt(void *ctx, const struct turn_event *ev)
{
	struct record *r = ctx;

	if (ev->kind == TURN_READ) {
		assert_int_equal(ev->n_logprob, 1);
		assert_int_equal(ev->done, r->n_logprob + 2);
		r->logprob[r->n_logprob++] = ev->logprob[0];
	}
	if (ev->kind == TURN_CONTENT)
		buf_add(&r->content, ev->text, ev->n);
	if (ev->kind == TURN_FINISH)
		r->end = *ev;
	return true;
}

static void the_prompt_has_log_probabilities_too_and_the_answer_is_the_same(void **state)
{
	static const int32_t raw[] = {0, 100, 101, 1, 55, 102};		/* 1 ends a sentence */
	struct turn_request q = request(NULL, THINKING_OFF);
	int32_t vocab = context.engine->shape.vocab;
	struct err err = {0};

	(void)state;
	for (int most = 0; most < 12; most += 11) {
		struct record r = {.content.cap = BUF_MAX}, plain = {0};
		struct session *s;
		struct turn *t;

		q.raw = raw;
		q.n_raw = 6;
		q.max_tokens = most;
		q.top_logprobs = 3;
		q.prompt_logprobs = true;
		t = open_turn(&q);
		assert_int_equal(turn_start(t, NULL, NULL, NULL), OK);
		while (turn_read(t, 30, take_prompt, &r))
			;
		turn_close(t);
		assert_int_equal(r.end.finish, TURN_LENGTH);
		assert_int_equal(r.end.usage.generated, most);
		assert_int_equal(r.end.usage.prompt, 6);
		assert_int_equal(r.n_logprob, 5);
		assert_int_equal(session_open(&s, context.engine, &err), OK);
		for (int i = 1; i < 6; i++) {
			assert_int_equal(session_sync(s, raw, i, NULL, NULL, &err), OK);
			assert_int_equal(r.logprob[i - 1].token, raw[i]);
			assert_true(r.logprob[i - 1].logprob == (float)sampler_logprob(session_logits(s), vocab, raw[i]));
		}
		session_close(s);
		q.prompt_logprobs = false;
		run(&q, &plain);
		assert_text(&r.content, buf_cstr(&plain.content));
		record_clear(&plain);
		record_clear(&r);
	}
}

/* The same text in other tokens: single bytes where the vocabulary has longer ones. */
static void how_tokens_cut_the_bytes_changes_nothing(void **state)
{
	static const char text[] = "then the thing</think>there \xe2\x82\xac and \xf0\x9f\x98\x80 than" BLOCK(
		CALL("get", TEXT("city", "in the inn \xc3\xa9") JSON("days", "{\"an\": [1]}")));
	const struct tokenizer *k = context.engine->tokenizer;
	struct token_list ids = {0}, bytes = {0};
	struct record r[2] = {{.events = 0}, {.events = 0}};

	(void)state;
	encode(text, &ids);
	for (size_t i = 0; i < ids.n; i++) {
		size_t n;
		const char *p = token_bytes(k, ids.id[i], &n);

		if (tokenizer_is_added(k, ids.id[i]))
			token_push(&bytes, ids.id[i]);
		for (size_t at = 0; at < n && !tokenizer_is_added(k, ids.id[i]); at++)
			token_encode_text(k, p + at, (unsigned char)p[at] < 0x80, &bytes);
		if (!tokenizer_is_added(k, ids.id[i]) && (unsigned char)p[0] >= 0x80)
			token_push(&bytes, ids.id[i]);
	}
	assert_true(bytes.n > ids.n + 10);
	for (int i = 0; i < 2; i++) {
		struct turn_request q = request(ask("Hi", TOOLS), THINKING_ON);

		q.script = i ? bytes.id : ids.id;
		q.n_script = (int32_t)(i ? bytes.n : ids.n);
		run(&q, &r[i]);
	}
	assert_text(&r[0].reasoning, "then the thing");
	assert_text(&r[1].reasoning, buf_cstr(&r[0].reasoning));
	assert_text(&r[1].content, buf_cstr(&r[0].content));
	assert_text(&r[1].calls, buf_cstr(&r[0].calls));
	assert_int_equal(r[1].end.finish, r[0].end.finish);
	for (int i = 0; i < 2; i++)
		record_clear(&r[i]);
	token_list_clear(&ids);
	token_list_clear(&bytes);
}

static void tags_are_spelt_greedily(void **state)
{
	int32_t first[4];

	(void)state;
	for (int i = 0; i < 4; i++) {
		struct turn_request q = request(ask("Hi", TOOLS), THINKING_OFF);
		struct record r = {0};
		struct turn *t;
		const int32_t *id;
		int32_t n, start = tokens_of("\n\n<" D "tool_calls>\n<" D "invoke name=\"get\">\n");

		q.sampling.seed = (uint64_t)i;
		q.tool_choice = TOOL_CHOICE_NAMED;
		q.tool_name = "get";
		q.max_tokens = start + 1;
		t = open_turn(&q);
		read_turn(t, &r);
		id = turn_answer(t, &n);
		assert_int_equal(n, start + 1);
		first[i] = id[n - 1];
		assert_int_equal(first[i], first[0]);
		turn_close(t);
		record_clear(&r);
	}
}

static void expect_refusal(struct turn_request q, enum status st, const char *words)
{
	struct turn *t;
	struct err err = {0};
	int32_t n = -1;

	assert_int_equal(turn_open(&t, &context, &q, &n, &err), st);
	assert_null(t);
	if (!strstr(err.msg, words))
		fail_msg("expected \"%s\" in: %s", words, err.msg);
	assert_int_equal(n > 0, st == ERR_LIMIT);
}

static void what_a_caller_can_get_wrong_is_found_at_once(void **state)
{
	static int32_t raw[CONTEXT + 5];
	struct turn_request q = request(NULL, THINKING_OFF);

	(void)state;
	q.raw = raw;
	expect_refusal(q, ERR_ARGUMENT, "empty");
	q.n_raw = CONTEXT;
	expect_refusal(q, ERR_LIMIT, "prompt is too long: 4096 tokens > 4096 maximum");
	q.n_raw = 3;
	raw[1] = 5000;
	expect_refusal(q, ERR_ARGUMENT, "5000");
	raw[1] = 0;
	q.sampling.top_p = 2;
	expect_refusal(q, ERR_ARGUMENT, "top_p");
	q.sampling.top_p = 1;
	q.top_logprobs = 21;
	expect_refusal(q, ERR_ARGUMENT, "top_logprobs");
	q = request(ask("Hi", TOOLS), THINKING_OFF);
	q.tool_choice = TOOL_CHOICE_NAMED;
	q.tool_name = "got";
	expect_refusal(q, ERR_ARGUMENT, "\"got\"");
	q = request(ask("Hi", NULL), THINKING_OFF);
	q.tool_choice = TOOL_CHOICE_REQUIRED;
	expect_refusal(q, ERR_ARGUMENT, "no tools");
	q = request(ask("Hi", NULL), THINKING_ON);
	q.effort = EFFORT_LOW;
	expect_refusal(q, ERR_ARGUMENT, "effort");
}

static void counting_a_prompt_gives_the_length_that_a_turn_has(void **state)
{
	struct turn_request q = request(ask("How long?", TOOLS), THINKING_ON);
	struct err err = {0};
	struct turn *t;
	int32_t n, m;

	(void)state;
	assert_int_equal(turn_count(&context, &q, &n, &err), OK);
	assert_null(q.conversation);
	q.conversation = ask("How long?", TOOLS);
	assert_int_equal(turn_open(&t, &context, &q, &m, &err), OK);
	assert_int_equal(n, m);
	assert_int_equal(n, turn_prompt_tokens(t));
	turn_close(t);
}

static void two_turns_at_once_do_not_mix(void **state)
{
	struct turn_request q[2] = {request(ask("One", NULL), THINKING_OFF), request(ask("Two", NULL), THINKING_OFF)};
	struct record together[2] = {{.events = 0}, {.events = 0}};
	struct turn *t[2];

	(void)state;
	for (int i = 0; i < 2; i++) {
		q[i].max_tokens = 40;
		t[i] = open_turn(&q[i]);
		assert_int_equal(turn_start(t[i], NULL, NULL, NULL), OK);
	}
	for (int i = 0; i < 2; i++) {
		struct record alone = {0};

		while (turn_read(t[i], 30, record_take, &together[i]))
			;
		q[i].conversation = ask(i ? "Two" : "One", NULL);
		turn_close(t[i]);
		run(&q[i], &alone);
		assert_text(&together[i].content, buf_cstr(&alone.content));
		record_clear(&alone);
		record_clear(&together[i]);
	}
}

/* An engine of its own, whose scheduler lets one request wait. */
static void what_the_engine_refuses_ends_the_turn_with_its_error(void **state)
{
	enum { N = 8 };
	struct sched_options few = {.max_waiting = 1};
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct turn_context c = context;
	struct record r[N];
	struct turn *t[N];
	struct err err = {0};
	int refused = 0;

	(void)state;
	o.model = golden_tiny_path(3);
	o.backend = "cpu";
	o.threads = 1;
	o.context = 512;
	o.timelines = 1;
	assert_int_equal(engine_open(&c.engine, &o, &err), OK);
	assert_int_equal(worker_open(&c.worker, c.engine, &few, 10, &err), OK);
	for (int i = 0; i < N; i++) {
		struct turn_request q = request(ask("Hi", NULL), THINKING_OFF);

		q.max_tokens = 200;
		assert_int_equal(turn_open(&t[i], &c, &q, NULL, &err), OK);
		assert_int_equal(turn_start(t[i], NULL, NULL, &err), OK);
	}
	for (int i = 0; i < N; i++) {
		r[i] = (struct record){.events = 0};
		while (turn_read(t[i], 30, record_take, &r[i]))
			;
		assert_int_equal(r[i].ends, 1);
		assert_true(r[i].end.finish == TURN_LENGTH || r[i].end.finish == TURN_STOP || r[i].end.finish == TURN_ERROR);
		if (r[i].end.finish == TURN_ERROR) {
			assert_int_equal(r[i].err.code, ERR_LIMIT);
			assert_non_null(strstr(r[i].err.msg, "waiting"));
			refused++;
		}
		turn_close(t[i]);
		record_clear(&r[i]);
	}
	assert_in_range(refused, 1, N - 1);
	worker_close(c.worker);
	engine_close(c.engine);
}

static int setup(void **state)
{
	(void)state;
	open_all(golden_tiny_path(3), CONTEXT);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close_all();
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_answer_comes_as_reasoning_content_and_calls_in_order),
		cmocka_unit_test(the_second_prompt_finds_what_the_first_has_read),
		cmocka_unit_test(a_stop_string_ends_the_answer_wherever_it_stands),
		cmocka_unit_test(the_budget_closes_the_reasoning),
		cmocka_unit_test(the_last_token_of_max_tokens_closes_the_reasoning),
		cmocka_unit_test(tool_choice_forces_the_beginning_of_a_call),
		cmocka_unit_test(with_one_call_the_block_is_closed_behind_it),
		cmocka_unit_test(a_call_that_is_cut_off_has_no_end),
		cmocka_unit_test(tools_are_hidden_when_none_may_be_called),
		cmocka_unit_test(length_and_context_end_an_answer),
		cmocka_unit_test(reading_alone_is_an_answer_without_tokens),
		cmocka_unit_test(a_cancel_ends_soon_and_exactly_once),
		cmocka_unit_test(a_turn_may_be_closed_at_any_time),
		cmocka_unit_test(a_reader_can_be_woken_instead_of_waiting),
		cmocka_unit_test(log_probabilities_are_those_of_the_logits),
		cmocka_unit_test(the_prompt_has_log_probabilities_too_and_the_answer_is_the_same),
		cmocka_unit_test(how_tokens_cut_the_bytes_changes_nothing),
		cmocka_unit_test(tags_are_spelt_greedily),
		cmocka_unit_test(what_a_caller_can_get_wrong_is_found_at_once),
		cmocka_unit_test(counting_a_prompt_gives_the_length_that_a_turn_has),
		cmocka_unit_test(two_turns_at_once_do_not_mix),
		cmocka_unit_test(what_the_engine_refuses_ends_the_turn_with_its_error),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
