/* replay_test.c - answers come back with their ids when a client has changed nothing, and only then. */
#include <pthread.h>

#include "chat/render.h"
#include "chat/replay_int.h"
#include "common.h"

static struct tokenizer *nano;

static int setup(void **state)
{
	(void)state;
	nano = open_tokenizer(NANO);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tokenizer_close(nano);
	return 0;
}

static struct replay *open_map(uint64_t max_bytes)
{
	struct replay_options o = {.tokenizer = nano, .max_bytes = max_bytes};
	struct replay *r = NULL;
	struct err err = {0};

	if (replay_open(&r, &o, &err) != OK)
		fail_msg("%s", err.msg);
	return r;
}

static struct conversation *conversation_of(const char *messages)
{
	struct conversation *c = conversation_new();
	json_t *m = parse(messages);
	struct err err = {0};

	if (conversation_add_json(c, m, &err) != OK)
		fail_msg("%s", err.msg);
	json_decref(m);
	return c;
}

/* What a model would have sampled: reasoning, content, and for calls "[name arguments]". */
static struct token_list ids_of(const char *text)
{
	struct token_list ids = {0};

	token_encode_control(nano, text, strlen(text), &ids);
	return ids;
}

static void add_call(struct answer *a, const char *name, const char *arguments)
{
	struct piece p[3] = {{.kind = PIECE_TOOL_BEGIN, .text = name, .n = strlen(name)},
			     {.kind = PIECE_TOOL_ARGUMENTS, .text = arguments, .n = strlen(arguments)},
			     {.kind = PIECE_TOOL_END, .n = 1}};

	for (int i = 0; i < 3; i++)
		answer_take(a, &p[i]);
}

/* An answer to `before` with these calls (pairs of name and arguments, NULL at the end) and ids "call_A", "call_B". */
static void remember(struct replay *r, const char *before, const char *sampled, const char *content,
		     const char *const *calls, char *carrier)
{
	static const char *const call_id[] = {"call_A", "call_B", "call_C"};
	struct conversation *c = conversation_of(before);
	struct token_list ids = ids_of(sampled);
	char name[REPLAY_CARRIER_SIZE];
	struct answer a;
	struct err err = {0};

	answer_init(&a);
	buf_str(&a.content, content);
	for (; calls && *calls; calls += 2)
		add_call(&a, calls[0], calls[1]);
	carrier = carrier ? carrier : name;
	replay_carrier(carrier);
	if (replay_remember(r, c, &a, call_id, THINKING_ON, ids.id, ids.n, carrier, &err) != OK)
		fail_msg("%s", err.msg);
	answer_clear(&a);
	token_list_clear(&ids);
	conversation_free(c);
}

/* Is message i of the conversation given exactly these ids (NULL: none)? */
static void expect_back(struct replay *r, const char *messages, size_t i, const char *sampled)
{
	struct conversation *c = conversation_of(messages);
	struct token_list want = ids_of(sampled ? sampled : "");
	const struct exact *e;

	replay_apply(r, c);
	assert_true(conversation_ok(c));
	e = &c->messages[i].exact;
	if (e->n != want.n)
		fail_msg("%s\nmessage %zu: expected %zu ids, found %zu", messages, i, want.n, e->n);
	for (size_t k = 0; k < want.n; k++)
		if (e->id[k] != want.id[k])
			fail_msg("%s\nmessage %zu: id %zu: expected %d, found %d", messages, i, k, (int)want.id[k],
				 (int)e->id[k]);
	token_list_clear(&want);
	conversation_free(c);
}

#define USER "{\"role\":\"user\",\"content\":\"q\"}"
#define SAMPLED "let me see</think>the answer"
#define ANSWER(content) "[" USER ",{\"role\":\"assistant\",\"content\":\"" content "\"}," USER "]"

static void an_answer_comes_back_by_its_place(void **state)
{
	struct replay *r = open_map(0);
	struct replay_stats s;

	(void)state;
	remember(r, "[" USER "]", SAMPLED, "the answer", NULL, NULL);
	expect_back(r, ANSWER("the answer"), 1, SAMPLED);
	/* white space at the ends is no change, anything else is */
	expect_back(r, ANSWER("\\n the answer  "), 1, SAMPLED);
	expect_back(r, ANSWER("the  answer"), 1, NULL);
	expect_back(r, ANSWER("the answer."), 1, NULL);
	expect_back(r, ANSWER(""), 1, NULL);
	/* another place */
	expect_back(r, "[{\"role\":\"user\",\"content\":\"Q\"},{\"role\":\"assistant\",\"content\":\"the answer\"}]", 1,
		    NULL);
	expect_back(r, "[" USER "," USER ",{\"role\":\"assistant\",\"content\":\"the answer\"}]", 2, NULL);
	expect_back(r, "[{\"role\":\"system\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"the answer\"}]", 1,
		    NULL);
	replay_stats(r, &s);
	assert_int_equal(s.hits, 2);
	assert_int_equal(s.misses, 6);
	assert_int_equal(s.turns, 1);
	replay_close(r);
}

static void reasoning_is_not_compared_and_comes_back(void **state)
{
	struct replay *r = open_map(0);

	(void)state;
	remember(r, "[" USER "]", SAMPLED, "the answer", NULL, NULL);
	expect_back(r, "[" USER ",{\"role\":\"assistant\",\"content\":\"the answer\",\"reasoning_content\":\"other\"}]", 1,
		    SAMPLED);
	/* and an earlier answer's reasoning does not move the place of a later one */
	remember(r, "[" USER ",{\"role\":\"assistant\",\"content\":\"the answer\",\"reasoning_content\":\"let me see\"},"
		 USER "]", "hm</think>more", "more", NULL, NULL);
	expect_back(r, "[" USER ",{\"role\":\"assistant\",\"content\":\"the answer\"}," USER
		    ",{\"role\":\"assistant\",\"content\":\"more\"}]", 3, "hm</think>more");
	/* nor does white space at its ends; its text does */
	expect_back(r, "[" USER ",{\"role\":\"assistant\",\"content\":\"the answer\\n\"}," USER
		    ",{\"role\":\"assistant\",\"content\":\"more\"}]", 3, "hm</think>more");
	expect_back(r, "[" USER ",{\"role\":\"assistant\",\"content\":\"an answer\"}," USER
		    ",{\"role\":\"assistant\",\"content\":\"more\"}]", 3, NULL);
	replay_close(r);
}

static void an_answer_comes_back_by_its_carrier_wherever_it_stands(void **state)
{
	struct replay *r = open_map(0);
	char carrier[REPLAY_CARRIER_SIZE];
	struct conversation *c;

	(void)state;
	remember(r, "[" USER "]", SAMPLED, "the answer", NULL, carrier);
	for (int changed = 0; changed < 2; changed++) {
		c = conversation_of("[{\"role\":\"user\",\"content\":\"compacted\"},{\"role\":\"assistant\",\"content\":\"the answer\"}]");
		if (changed)
			c->messages[1].content.p[0] = 'T';
		conversation_set_carrier(c, &c->messages[1], carrier, strlen(carrier));
		assert_int_equal(replay_apply(r, c), !changed);
		assert_int_equal(c->messages[1].exact.n > 0, !changed);
		if (!changed) {
			assert_int_equal(c->messages[1].exact.thinking, THINKING_ON);
			assert_true(c->messages[1].exact.closed);
		}
		conversation_free(c);
	}
	replay_close(r);
}

/* ------------------------------------------------------------------ calls */

#define CALL(id, name, arguments) \
	"{\"id\":\"" id "\",\"function\":{\"name\":\"" name "\",\"arguments\":\"" arguments "\"}}"
#define TURN(calls) \
	"[{\"role\":\"user\",\"content\":\"elsewhere\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" calls "]}]"
/* at the place where it was answered */
#define TURN_THERE(calls) "[" USER ",{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[" calls "]}]"
#define CALLS_SAMPLED "look</think><｜DSML｜tool_calls> two calls"

static const char *const two_calls[] = {"find", "{\"path\": \"/a b\", \"depth\": 1.0, \"deep\": {\"x\": [1, 2.5e3], \"y\": null}}",
					"stop", "{}", NULL};

static void calls_come_back_by_their_ids_however_the_json_is_spelt(void **state)
{
	static const char *const same[] = {
		"{\\\"path\\\": \\\"/a b\\\", \\\"depth\\\": 1.0, \\\"deep\\\": {\\\"x\\\": [1, 2.5e3], \\\"y\\\": null}}",
		"{\\\"path\\\":\\\"/a b\\\",\\\"depth\\\":1,\\\"deep\\\":{\\\"x\\\":[1,2500],\\\"y\\\":null}}",
		" {\\\"deep\\\":{\\\"y\\\":null,\\\"x\\\":[1.0,2500.0]},\\n\\\"depth\\\":10e-1,\\\"path\\\":\\\"\\\\u002Fa\\\\u0020b\\\"}\\n",
		"{\\\"path\\\":\\\"x\\\",\\\"path\\\":\\\"\\\\/a b\\\",\\\"depth\\\":1,\\\"deep\\\":{\\\"x\\\":[1,2500],\\\"y\\\":null}}",
	};
	static const char *const other[] = {
		"{\\\"path\\\":\\\"/a  b\\\",\\\"depth\\\":1,\\\"deep\\\":{\\\"x\\\":[1,2500],\\\"y\\\":null}}",
		"{\\\"path\\\":\\\"/a b\\\",\\\"depth\\\":2,\\\"deep\\\":{\\\"x\\\":[1,2500],\\\"y\\\":null}}",
		"{\\\"path\\\":\\\"/a b\\\",\\\"depth\\\":\\\"1\\\",\\\"deep\\\":{\\\"x\\\":[1,2500],\\\"y\\\":null}}",
		"{\\\"path\\\":\\\"/a b\\\",\\\"depth\\\":1,\\\"deep\\\":{\\\"x\\\":[2500,1],\\\"y\\\":null}}",
		"{\\\"path\\\":\\\"/a b\\\",\\\"depth\\\":1,\\\"deep\\\":{\\\"x\\\":[1,2500],\\\"y\\\":false}}",
		"{\\\"path\\\":\\\"/a b\\\",\\\"depth\\\":1,\\\"deep\\\":{\\\"x\\\":[1,2500]}}",
		"{\\\"path\\\":\\\"/a b\\\",\\\"depth\\\":1,\\\"deep\\\":{\\\"x\\\":[1,2500],\\\"y\\\":null},\\\"z\\\":0}",
		"{}", "", "not json",
	};
	struct replay *r = open_map(0);
	struct replay_stats s;
	char text[600];

	(void)state;
	remember(r, "[" USER "]", CALLS_SAMPLED, "", two_calls, NULL);
	for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
		snprintf(text, sizeof text, TURN(CALL("call_A", "find", "%s") "," CALL("call_B", "stop", "")), same[i]);
		expect_back(r, text, 1, CALLS_SAMPLED);
	}
	for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
		snprintf(text, sizeof text, TURN_THERE(CALL("call_A", "find", "%s") "," CALL("call_B", "stop", "{}")), other[i]);
		expect_back(r, text, 1, NULL);
	}
	replay_stats(r, &s);
	assert_int_equal(s.changed, sizeof other / sizeof *other);
	replay_close(r);
}

#define ARGUMENTS "{\\\"path\\\":\\\"/a b\\\",\\\"depth\\\":1,\\\"deep\\\":{\\\"x\\\":[1,2500],\\\"y\\\":null}}"

static void a_call_that_was_dropped_added_renamed_or_moved_is_a_change(void **state)
{
	struct replay *r = open_map(0);

	(void)state;
	remember(r, "[" USER "]", CALLS_SAMPLED, "", two_calls, NULL);
	expect_back(r, TURN_THERE(CALL("call_A", "find", ARGUMENTS)), 1, NULL);
	expect_back(r, TURN_THERE(CALL("call_B", "stop", "{}")), 1, NULL);
	expect_back(r, TURN_THERE(CALL("call_B", "stop", "{}") "," CALL("call_A", "find", ARGUMENTS)), 1, NULL);
	expect_back(r, TURN_THERE(CALL("call_A", "find", ARGUMENTS) "," CALL("call_B", "halt", "{}")), 1, NULL);
	expect_back(r, TURN_THERE(CALL("call_A", "find", ARGUMENTS) "," CALL("call_B", "stop", "{}") "," CALL("call_B", "stop", "{}")),
		    1, NULL);
	replay_close(r);
}

static void ids_that_a_client_rewrote_leave_the_place(void **state)
{
	struct replay *r = open_map(0);

	(void)state;
	remember(r, "[" USER "]", CALLS_SAMPLED, "", two_calls, NULL);
	expect_back(r, TURN_THERE(CALL("toolu_1", "find", ARGUMENTS) "," CALL("toolu_2", "stop", "{}")), 1, CALLS_SAMPLED);
	expect_back(r, TURN_THERE(CALL("call_A", "find", ARGUMENTS) "," CALL("", "stop", "{}")), 1, CALLS_SAMPLED);
	expect_back(r, TURN(CALL("toolu_1", "find", ARGUMENTS) "," CALL("toolu_2", "stop", "{}")), 1, NULL);
	replay_close(r);
}

static void the_same_id_in_two_messages_gives_each_its_own_turn(void **state)
{
	static const char *const first[] = {"f", "{\"n\":1}", NULL}, *const second[] = {"f", "{\"n\":2}", NULL};
	static const char history[] = "[" USER ",{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[" CALL("call_A", "f",
		"{\\\"n\\\":1}") "]}," USER ",{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[" CALL("call_A", "f",
		"{\\\"n\\\":2}") "]},{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[" CALL("call_A", "f",
		"{\\\"n\\\":3}") "]}]";
	struct replay *r = open_map(0);

	(void)state;
	remember(r, "[" USER "]", "one</think>", "", first, NULL);
	remember(r, "[" USER ",{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[" CALL("call_A", "f", "{\\\"n\\\":1}") "]},"
		 USER "]", "two</think>", "", second, NULL);
	expect_back(r, history, 1, "one</think>");
	expect_back(r, history, 3, "two</think>");
	expect_back(r, history, 4, NULL);
	replay_close(r);
}

static void ids_of_several_turns_name_none(void **state)
{
	static const char *const one[] = {"f", "{}", NULL}, *const two[] = {"f", "{}", "g", "{}", NULL};
	struct replay *r = open_map(0);

	(void)state;
	remember(r, "[" USER "]", "two</think>", "", two, NULL);
	remember(r, "[" USER "]", "one</think>", "", one, NULL);	/* now call_A is here, call_B there */
	expect_back(r, TURN(CALL("call_A", "f", "{}") "," CALL("call_B", "g", "{}")), 1, NULL);
	expect_back(r, TURN(CALL("call_A", "f", "{}")), 1, "one</think>");
	replay_close(r);
}

static void arguments_that_are_no_json_are_compared_as_they_are(void **state)
{
	static const char *const cut_off[] = {"f", "{\"n\": \"ab", NULL};
	struct replay *r = open_map(0);

	(void)state;
	remember(r, "[" USER "]", CALLS_SAMPLED, "", cut_off, NULL);
	expect_back(r, TURN(CALL("call_A", "f", "{\\\"n\\\": \\\"ab")), 1, CALLS_SAMPLED);
	expect_back(r, TURN(CALL("call_A", "f", "{\\\"n\\\":\\\"ab")), 1, NULL);
	replay_close(r);
}

/* ------------------------------------------------------------------ special turns */

static void a_continued_answer_is_remembered_with_its_beginning(void **state)
{
	struct replay *r = open_map(0);
	struct conversation *c = conversation_of("[" USER ",{\"role\":\"assistant\",\"content\":\"the \",\"wo_eos\":true}]");
	struct token_list ids = ids_of("answer");
	struct replay_stats stats;
	struct answer a;
	struct err err = {0};

	(void)state;
	answer_init(&a);
	buf_str(&a.content, "answer");
	/* the ids of the beginning are unknown: nothing to remember */
	assert_int_equal(replay_remember(r, c, &a, NULL, THINKING_OFF, ids.id, ids.n, "one", &err), OK);
	replay_stats(r, &stats);
	assert_int_equal(stats.turns, 0);
	remember(r, "[" USER "]", "hm</think>the ", "the ", NULL, NULL);
	assert_int_equal(replay_apply(r, c), 1);
	assert_int_equal(replay_remember(r, c, &a, NULL, THINKING_OFF, ids.id, ids.n, "two", &err), OK);
	token_list_clear(&ids);
	ids = ids_of("hm</think>the ");
	token_append(&ids, c->messages[1].exact.id, 0);
	conversation_free(c);
	c = conversation_of(ANSWER("the answer"));
	assert_int_equal(replay_apply(r, c), 1);
	assert_true(c->messages[1].exact.n > ids.n);
	assert_memory_equal(c->messages[1].exact.id, ids.id, ids.n * sizeof *ids.id);
	assert_int_equal(c->messages[1].exact.thinking, THINKING_ON);
	conversation_free(c);
	token_list_clear(&ids);
	answer_clear(&a);
	replay_close(r);
}

static void an_empty_answer_is_not_remembered(void **state)
{
	struct replay *r = open_map(0);
	struct replay_stats stats;

	(void)state;
	remember(r, "[" USER "]", "", "", NULL, NULL);
	remember(r, "[" USER "]", "<｜end▁of▁sentence｜>", "", NULL, NULL);
	replay_stats(r, &stats);
	assert_int_equal(stats.turns, 0);
	replay_close(r);
}

static void the_final_eos_is_not_kept(void **state)
{
	struct replay *r = open_map(0);

	(void)state;
	remember(r, "[" USER "]", SAMPLED "<｜end▁of▁sentence｜>", "the answer", NULL, NULL);
	expect_back(r, ANSWER("the answer"), 1, SAMPLED);
	replay_close(r);
}

/* The point of it all: the prompt of the next request begins with everything the engine has read. */
static void the_next_prompt_extends_what_was_read(void **state)
{
	struct render_options o = {.thinking = THINKING_ON, .keep_reasoning = true};
	struct replay *r = open_map(0);
	struct conversation *c = conversation_of("[" USER "]");
	struct token_list read = {0}, next = {0}, ids = ids_of(SAMPLED);
	struct err err = {0};

	(void)state;
	assert_int_equal(chat_render_ids(c, &o, nano, &read, &err), OK);
	token_append(&read, ids.id, ids.n);
	remember(r, "[" USER "]", SAMPLED, "the answer", NULL, NULL);
	for (int mode = 0; mode < 2; mode++) {
		struct conversation *back = conversation_of(ANSWER("the answer"));

		o.thinking = mode ? THINKING_OFF : THINKING_ON;	/* the client may switch thinking off meanwhile */
		assert_int_equal(replay_apply(r, back), 1);
		assert_int_equal(chat_render_ids(back, &o, nano, &next, &err), OK);
		assert_true(next.n > read.n);
		assert_memory_equal(next.id, read.id, read.n * sizeof *read.id);
		token_list_clear(&next);
		conversation_free(back);
	}
	token_list_clear(&read);
	token_list_clear(&ids);
	conversation_free(c);
	replay_close(r);
}

static void ids_that_a_message_has_stay(void **state)
{
	struct replay *r = open_map(0);
	struct conversation *c = conversation_of(ANSWER("the answer"));
	int32_t id = 300;

	(void)state;
	remember(r, "[" USER "]", SAMPLED, "the answer", NULL, NULL);
	conversation_set_exact(c, &c->messages[1], nano, THINKING_OFF, &id, 1);
	assert_int_equal(replay_apply(r, c), 0);
	assert_int_equal(c->messages[1].exact.n, 1);
	conversation_free(c);
	replay_close(r);
}

/* ------------------------------------------------------------------ bounds and failures */

static void number(char *out, size_t room, const char *form, int i)
{
	snprintf(out, room, form, i);
}

static void remember_number(struct replay *r, int i)
{
	char before[100], sampled[100], content[100];

	number(before, sizeof before, "[{\"role\":\"user\",\"content\":\"question %d\"}]", i);
	number(sampled, sizeof sampled, "thought %d</think>answer", i);
	number(content, sizeof content, "answer %d", i);
	remember(r, before, sampled, content, NULL, NULL);
}

static void expect_number(struct replay *r, int i, bool there)
{
	char messages[200], sampled[100];

	snprintf(messages, sizeof messages,
		 "[{\"role\":\"user\",\"content\":\"question %d\"},{\"role\":\"assistant\",\"content\":\"answer %d\"}]", i, i);
	number(sampled, sizeof sampled, "thought %d</think>answer", i);
	expect_back(r, messages, 1, there ? sampled : NULL);
}

static void what_was_not_used_for_longest_goes_first(void **state)
{
	struct replay *r = open_map(0);
	struct replay_stats s;
	uint64_t room;

	(void)state;
	for (int i = 0; i < 10; i++)
		remember_number(r, i);
	replay_stats(r, &s);
	room = s.bytes;
	replay_close(r);
	r = open_map(room);
	for (int i = 0; i < 10; i++)
		remember_number(r, i);
	expect_number(r, 0, true);
	expect_number(r, 3, true);
	for (int i = 10; i < 14; i++)
		remember_number(r, i);
	replay_stats(r, &s);
	if (s.bytes > room)
		fail_msg("expected at most %d bytes, found %d", (int)room, (int)s.bytes);
	expect_number(r, 1, false);
	expect_number(r, 0, true);
	expect_number(r, 3, true);
	expect_number(r, 13, true);
	assert_true(s.evicted >= 3);
	replay_close(r);
	r = open_map(1);	/* room for nothing */
	remember_number(r, 0);
	expect_number(r, 0, false);
	replay_close(r);
}

static void many_turns_are_all_found(void **state)
{
	struct replay *r = open_map(0);

	(void)state;
	for (int i = 0; i < 3000; i++)
		remember_number(r, i);
	for (int i = 0; i < 3000; i += 7)
		expect_number(r, i, true);
	replay_close(r);
}

static void without_memory_nothing_is_remembered_or_given_and_all_goes_on(void **state)
{
	struct conversation *before = conversation_of("[" USER "]");
	struct token_list ids = ids_of(CALLS_SAMPLED);
	static const char *const call_id[] = {"call_A", "call_B"};
	bool remembered = false, given = false;
	struct answer a;

	(void)state;
	answer_init(&a);
	add_call(&a, two_calls[0], two_calls[1]);
	add_call(&a, two_calls[2], two_calls[3]);
	for (long n = 1; n < 400 && !(remembered && given); n++) {
		struct replay_options o = {.tokenizer = nano};
		const char *carrier = "name";
		struct conversation *c = conversation_of(
			TURN_THERE(CALL("call_A", "find", ARGUMENTS) "," CALL("call_B", "stop", "{}")));
		struct replay *r = NULL;
		struct err err = {0};
		enum status st;

		mem_fail_at(n);
		st = replay_open(&r, &o, &err);
		if (st == OK)
			st = replay_remember(r, before, &a, call_id, THINKING_ON, ids.id, ids.n, carrier, &err);
		mem_fail_at(0);
		remembered = st == OK;
		if (st != OK)
			assert_int_equal(st, ERR_MEMORY);
		if (r) {
			if (st != OK)
				assert_int_equal(replay_remember(r, before, &a, call_id, THINKING_ON, ids.id, ids.n,
								 carrier, &err), OK);
			mem_fail_at(n);
			given = replay_apply(r, c) == 1;
			mem_fail_at(0);
			assert_true(conversation_ok(c));
			assert_int_equal(c->messages[1].exact.n, given ? ids.n : 0);
		}
		replay_close(r);
		conversation_free(c);
	}
	assert_true(remembered && given);
	answer_clear(&a);
	token_list_clear(&ids);
	conversation_free(before);
}

/* ------------------------------------------------------------------ threads */

struct worker {
	struct replay *r;
	int from;
	size_t found;
};

static void *work(void *ctx)
{
	struct worker *w = ctx;

	for (int i = w->from; i < w->from + 200; i++) {
		char messages[200];
		struct conversation *c;

		remember_number(w->r, i);
		snprintf(messages, sizeof messages,
			 "[{\"role\":\"user\",\"content\":\"question %d\"},{\"role\":\"assistant\",\"content\":\"answer %d\"}]",
			 i, i);
		c = conversation_of(messages);
		w->found += replay_apply(w->r, c);
		conversation_free(c);
	}
	return NULL;
}

static void several_threads_share_a_map(void **state)
{
	struct replay *r = open_map(0);
	struct worker w[4];
	pthread_t thread[4];

	(void)state;
	for (int i = 0; i < 4; i++) {
		w[i] = (struct worker){.r = r, .from = i * 1000};
		assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < 4; i++)
		assert_int_equal(w[i].found, 200);
	replay_close(r);
}

static void names_do_not_repeat(void **state)
{
	char a[REPLAY_CALL_ID_SIZE], b[REPLAY_CALL_ID_SIZE], c[REPLAY_CARRIER_SIZE], d[REPLAY_CARRIER_SIZE];

	(void)state;
	replay_call_id(a);
	replay_call_id(b);
	assert_int_equal(strlen(a), REPLAY_CALL_ID_SIZE - 1);
	assert_memory_equal(a, "call_", 5);
	assert_int_equal(strspn(a + 5, "0123456789abcdef"), 32);
	assert_string_not_equal(a, b);
	replay_carrier(c);
	replay_carrier(d);
	assert_string_not_equal(c, d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_answer_comes_back_by_its_place),
		cmocka_unit_test(reasoning_is_not_compared_and_comes_back),
		cmocka_unit_test(an_answer_comes_back_by_its_carrier_wherever_it_stands),
		cmocka_unit_test(calls_come_back_by_their_ids_however_the_json_is_spelt),
		cmocka_unit_test(a_call_that_was_dropped_added_renamed_or_moved_is_a_change),
		cmocka_unit_test(ids_that_a_client_rewrote_leave_the_place),
		cmocka_unit_test(the_same_id_in_two_messages_gives_each_its_own_turn),
		cmocka_unit_test(ids_of_several_turns_name_none),
		cmocka_unit_test(arguments_that_are_no_json_are_compared_as_they_are),
		cmocka_unit_test(a_continued_answer_is_remembered_with_its_beginning),
		cmocka_unit_test(an_empty_answer_is_not_remembered),
		cmocka_unit_test(the_final_eos_is_not_kept),
		cmocka_unit_test(the_next_prompt_extends_what_was_read),
		cmocka_unit_test(ids_that_a_message_has_stay),
		cmocka_unit_test(what_was_not_used_for_longest_goes_first),
		cmocka_unit_test(many_turns_are_all_found),
		cmocka_unit_test(without_memory_nothing_is_remembered_or_given_and_all_goes_on),
		cmocka_unit_test(several_threads_share_a_map),
		cmocka_unit_test(names_do_not_repeat),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
