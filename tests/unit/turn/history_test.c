/* history_test.c - exact replay: the next request's prompt is the tokens that were read and sampled, and then some. */
#include "unit/turn/common.h"

#include "chat/replay.h"

/* One answer as a client keeps it. */
struct kept {
	struct buf content, arguments, reasoning;
	char name[40], id[REPLAY_CALL_ID_SIZE], carrier[REPLAY_CARRIER_SIZE];
	int n_calls;
	enum turn_finish finish;
};

static bool keep(void *ctx, const struct turn_event *ev)
{
	struct kept *k = ctx;

	snprintf(k->carrier, sizeof k->carrier, "%s", ev->carrier);
	if (ev->kind == TURN_CONTENT)
		buf_add(&k->content, ev->text, ev->n);
	if (ev->kind == TURN_REASONING)
		buf_add(&k->reasoning, ev->text, ev->n);
	if (ev->kind == TURN_CALL_ARGUMENTS)
		buf_add(&k->arguments, ev->text, ev->n);
	if (ev->kind == TURN_CALL_BEGIN) {
		k->n_calls++;
		snprintf(k->name, sizeof k->name, "%.*s", (int)ev->n, ev->text);
		snprintf(k->id, sizeof k->id, "%s", ev->call_id);
	}
	if (ev->kind == TURN_FINISH)
		k->finish = ev->finish;
	return true;
}

static void kept_clear(struct kept *k)
{
	buf_clear(&k->content);
	buf_clear(&k->arguments);
	buf_clear(&k->reasoning);
}

/* What a client sends next: the same question, the answer as it saw it (arguments spelt in its own way), and more. */
static struct conversation *next(const struct kept *k, const char *tools, bool with_carrier)
{
	struct conversation *c = ask("Question?", tools);
	struct message *m = conversation_add(c, ROLE_ASSISTANT, k->content.data, k->content.len);

	if (with_carrier)
		conversation_set_carrier(c, m, k->carrier, strlen(k->carrier));
	if (k->n_calls) {
		json_t *arguments = json_parse(k->arguments.data, k->arguments.len, NULL);
		char *text = json_dumps(arguments, JSON_COMPACT | JSON_SORT_KEYS);
		struct tool_call call = {.id = {(char *)k->id, strlen(k->id)}, .name = {(char *)k->name, strlen(k->name)},
					 .arguments = {text, strlen(text)}};

		conversation_add_call(c, m, &call);
		conversation_add_tool_result(c, k->id, "42", 2);
		free(text);
		json_decref(arguments);
	} else {
		conversation_add(c, ROLE_USER, "More?", 5);
	}
	return c;
}

struct example {
	const char *script;
	enum thinking thinking;
	bool tools, one_call, with_carrier;
	const char *stop;
	const char *shown;	/* what history holds of it; NULL = the script */
};

static void assert_extends(const struct example *x)
{
	struct turn_request q = TURN_REQUEST_DEFAULT;
	struct stop_string stop = {x->stop, x->stop ? strlen(x->stop) : 0};
	struct token_list ids = {0}, first = {0};
	struct kept k = {.content = BUF_CAP(BUF_MAX), .arguments = BUF_CAP(BUF_MAX), .reasoning = BUF_CAP(BUF_MAX)};
	const char *tools = x->tools ? TOOLS : NULL;
	struct record r = {0};
	struct turn *t;

	encode(x->script, &ids);
	q.conversation = ask("Question?", tools);
	q.thinking = x->thinking;
	q.script = ids.id;
	q.n_script = (int32_t)ids.n;
	q.one_call = x->one_call;
	q.stop = &stop;
	q.n_stop = x->stop != NULL;
	t = open_turn(&q);
	assert_int_equal(turn_start(t, NULL, NULL, NULL), OK);
	while (turn_read(t, 30, keep, &k))
		;
	token_append(&first, turn_prompt(t), (size_t)turn_prompt_tokens(t));
	encode(x->shown ? x->shown : x->script, &first);
	token_push(&first, tokenizer_special(context.engine->tokenizer, SPECIAL_EOS));
	turn_close(t);
	q = (struct turn_request)TURN_REQUEST_DEFAULT;
	q.conversation = next(&k, tools, x->with_carrier);
	q.thinking = x->thinking;
	q.max_tokens = 1;
	t = open_turn(&q);
	assert_true(turn_prompt_tokens(t) > (int32_t)first.n);
	for (size_t i = 0; i < first.n; i++)
		if (turn_prompt(t)[i] != first.id[i])
			fail_msg("%s: token %zu of %zu differs: %d, expected %d", x->script, i, first.n, turn_prompt(t)[i],
				 first.id[i]);
	read_turn(t, &r);
	assert_true(r.end.usage.cached >= (int32_t)(first.n / 128 * 128) - 256);
	turn_close(t);
	record_clear(&r);
	token_list_clear(&first);
	token_list_clear(&ids);
	kept_clear(&k);
}

static void the_second_turn_extends_the_first_exactly(void **state)
{
	/* spelt as the renderer would not */
	static const char odd[] = "hm</think>Well. \n\n<" D "tool_calls>\n<" D "invoke name=\"get\">\n<" D
				  "parameter name=\"days\" string=\"false\">[ 1,2 ]</" D "parameter>\n<" D
				  "parameter name=\"city\" string=\"true\">Pa\"ris</" D "parameter>\n</" D "invoke>\n</" D
				  "tool_calls>";
	static const char one[] = "\n\n<" D "tool_calls>\n<" D "invoke name=\"get\">\n<" D
				  "parameter name=\"days\"  string=\"false\">{ }</" D "parameter>\n</" D "invoke>\n<" D
				  "invoke name=\"put\">\n</" D "invoke>\n</" D "tool_calls>";
	static const char one_kept[] = "\n\n<" D "tool_calls>\n<" D "invoke name=\"get\">\n<" D
				       "parameter name=\"days\"  string=\"false\">{ }</" D "parameter>\n</" D "invoke>\n</" D
				       "tool_calls>";
	static const struct example examples[] = {
		{odd, THINKING_ON, true, false, false, NULL, NULL},
		{odd, THINKING_ON, true, false, true, NULL, NULL},
		{odd + 10, THINKING_OFF, true, false, false, NULL, NULL},
		{one, THINKING_OFF, true, true, false, NULL, one_kept},
		{"Just text.", THINKING_OFF, false, false, false, NULL, NULL},
		{"t\xc3\xa9xt", THINKING_OFF, false, false, true, NULL, NULL},
		{"so</think>An answer", THINKING_ON, true, false, false, NULL, NULL},
		{"so</think>An answer STOP and more", THINKING_ON, true, false, false, "STOP", "so</think>An answer "},
		{"the answer", THINKING_OFF, false, false, false, "er", "the answ"},
		{"xthe y", THINKING_OFF, false, false, false, "he", "xt"},	/* "the" is one token */
	};
	struct replay_options o = {.tokenizer = context.engine->tokenizer};

	(void)state;
	assert_int_equal(replay_open(&context.replay, &o, NULL), OK);
	for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
		assert_extends(&examples[i]);
	replay_close(context.replay);
	context.replay = NULL;
}

static void a_name_is_there_from_the_first_event_on(void **state)
{
	struct replay_options o = {.tokenizer = context.engine->tokenizer};
	struct turn_request q = TURN_REQUEST_DEFAULT;
	struct kept k = {.content = BUF_CAP(BUF_MAX), .arguments = BUF_CAP(BUF_MAX), .reasoning = BUF_CAP(BUF_MAX)};
	char first[REPLAY_CARRIER_SIZE] = "";
	struct turn *t;
	bool more = true;

	(void)state;
	assert_int_equal(replay_open(&context.replay, &o, NULL), OK);
	q.conversation = ask("Hi", NULL);
	q.max_tokens = 5;
	t = open_turn(&q);
	assert_int_equal(turn_start(t, NULL, NULL, NULL), OK);
	while (more) {
		more = turn_read(t, 30, keep, &k);
		if (!first[0])
			memcpy(first, k.carrier, sizeof first);
	}
	assert_true(first[0]);
	assert_string_equal(first, k.carrier);
	turn_close(t);
	kept_clear(&k);
	replay_close(context.replay);
	context.replay = NULL;
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
		cmocka_unit_test(the_second_turn_extends_the_first_exactly),
		cmocka_unit_test(a_name_is_there_from_the_first_event_on),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
