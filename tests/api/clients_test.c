/* clients_test.c - the recorded requests of six clients: each is answered with 200 and a valid stream, and where a
 * request continues the one before nothing but its new tokens is read.
 *
 * What  tests/data/clients.  The model's answers are scripted: what the recording says the client was answered, so that
 *       the recorded follow-up is the right one.  Ids and carriers in it are those of the recorded server, not ours.
 * How   Tokens that need not be read again = the prompt before, and what was generated then (but its very last token, which
 *       is read with what follows).  ds4-nano's small vocabulary makes 15,000 to 39,000 tokens of what Codex, opencode and
 *       Claude Code send: these are compared as prompts here, and replayed whole by `make test-load`, which sets DS4_LONG. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "server/dialect.h"
#include "server/stub.h"
#include "support/api_server.h"

#define DATA "tests/data/clients/"

struct recorded {
	const char *file;
	bool goes_on;		/* the next file continues this one */
};

static struct api_server api;
static struct response r = {.head = BUF_CAP(BUF_MAX), .body = BUF_CAP(BUF_MAX)};
static struct stream st = {.content = BUF_CAP(BUF_MAX)};
static char stub_path[] = "/tmp/ds4-clients-stub-XXXXXX";

static json_t *read_file(const char *name)
{
	struct buf text = BUF_CAP(BUF_MAX);
	char path[200];
	struct err err = {0};
	json_t *v = NULL;

	snprintf(path, sizeof path, DATA "%s", name);
	if (file_read(&text, path, &err) == OK)
		v = json_parse(text.data, text.len, &err);
	if (!v)
		fail_msg("%s: %s", path, err.msg);
	buf_clear(&text);
	return v;
}

/* ------------------------------------------------------------------ what the model said then */

static void add_call(json_t *answer, const char *name, json_t *arguments)
{
	json_t *calls = json_object_get(answer, "tool_calls");

	if (!calls)
		json_object_set_new(answer, "tool_calls", calls = json_array());
	json_array_append_new(calls, json_pack("{s:{s:s, s:O}}", "function", "name", name, "arguments", arguments));
}

/* Anthropic's blocks, or Responses' items, as one message. */
static void add_part(json_t *answer, json_t *part)
{
	const char *type = json_at(part, "type");

	if (!strcmp(type, "thinking"))
		json_object_set(answer, "reasoning_content", json_object_get(part, "thinking"));
	else if (!strcmp(type, "text"))
		json_object_set(answer, "content", json_object_get(part, "text"));
	else if (!strcmp(type, "tool_use"))
		add_call(answer, json_at(part, "name"), json_object_get(part, "input"));
	else if (!strcmp(type, "reasoning"))
		json_object_set_new(answer, "reasoning_content", json_string(json_at(part, "content.0.text")));
	else if (!strcmp(type, "function_call"))
		add_call(answer, json_at(part, "name"), json_object_get(part, "arguments"));
}

/* The answer to a request that its follow-up shows. */
static json_t *answer_between(json_t *before, json_t *after)
{
	bool items = json_object_get(after, "input") != NULL;
	const char *list = items ? "input" : "messages";
	json_t *all = json_object_get(after, list), *answer = json_object(), *part;
	size_t from = json_array_size(json_object_get(before, list)), i;

	if (!items) {
		json_t *message = json_array_get(all, from);

		assert_string_equal(json_at(message, "role"), "assistant");
		if (!json_is_array(json_object_get(message, "content"))) {
			json_decref(answer);
			return json_deep_copy(message);
		}
		json_array_foreach(json_object_get(message, "content"), i, part)
			add_part(answer, part);
		return answer;
	}
	for (i = from; i < json_array_size(all); i++)
		add_part(answer, json_array_get(all, i));
	return answer;
}

static void write_stub(const struct recorded *all)
{
	FILE *f = fopen(stub_path, "w");

	assert_non_null(f);
	for (; all->file; all++) {
		json_t *v = read_file(all->file), *next = all->goes_on ? read_file(all[1].file) : NULL;
		json_t *answer = next ? answer_between(json_object_get(v, "body"), json_object_get(next, "body")) :
					json_pack("{s:s, s:s}", "reasoning_content", "Well.", "content", "{\"t\": 21}");
		char *text = json_dumps(answer, JSON_COMPACT);

		if (!strcmp(json_at(v, "method"), "POST") && !strstr(json_at(v, "url"), "count_tokens"))
			fprintf(f, "%s\n", text);
		free(text);
		json_decref(answer);
		json_decref(next);
		json_decref(v);
	}
	fclose(f);
}

/* ------------------------------------------------------------------ replaying */

static void send_again(json_t *v)
{
	struct buf fields = BUF_CAP(1 << 20);
	json_t *body = json_object_get(v, "body"), *value;
	char *text = json_is_object(body) ? json_dumps(body, JSON_COMPACT) : NULL;
	const char *name;

	json_object_foreach(json_object_get(v, "headers"), name, value)
		if (json_is_string(value) && strcasecmp(name, "host") && strcasecmp(name, "content-length") &&
		    strcasecmp(name, "connection") && strcasecmp(name, "transfer-encoding"))
			buf_printf(&fields, "%s: %s\r\n", name, json_string_value(value));
	client_ask(api.port, &r, json_at(v, "method"), json_at(v, "url"), buf_cstr(&fields), text);
	buf_clear(&fields);
	free(text);
}

/* Usage of the answer, whatever its form. */
static void take_usage(const char *file, json_t *v)
{
	if (json_is_true(json_object_get(json_object_get(v, "body"), "stream"))) {
		stream_take(&st, &r);
		if (!st.ended || st.error || !*st.finish)
			fail_msg("%s: expected a stream that ends well and tells its usage, found finish '%s', %lld tokens: %s",
				 file, st.finish, (long long)st.generated, buf_cstr(&r.body));
		return;
	}
	json_decref(response_json(&r));
	stream_clear(&st);
}

static void replay(const struct recorded *all)
{
	json_int_t known = -1;

	write_stub(all);
	api_init(&api);
	api.o.stub = stub_path;
	api.context = 49152;
	api.parallel = 1;
	api_start(&api);
	for (; all->file; all++) {
		json_t *v = read_file(all->file);

		send_again(v);
		if (r.status != 200 || (!r.whole && strcmp(json_at(v, "method"), "HEAD") != 0))
			fail_msg("%s: expected a whole answer with 200, found %d: %s", all->file, r.status, buf_cstr(&r.body));
		if (!strcmp(json_at(v, "method"), "POST"))
			take_usage(all->file, v);
		if (known >= 0 && st.cached < known - 1)
			fail_msg("%s: of %lld tokens %lld had been read or said before, found %lld cached", all->file,
				 (long long)st.prompt, (long long)known, (long long)st.cached);
		known = all->goes_on ? st.prompt + st.generated : -1;
		json_decref(v);
	}
	api_stop(&api);
}

/* ------------------------------------------------------------------ prompts */

struct bench {
	struct engine *e;
	struct turn_context c;
	struct worker *w;
	struct turn_tables *t;
	struct dialect_env env;
	struct stub *stub;
};

static const struct dialect *dialect_of(const char *url)
{
	const struct dialect *all[] = {&dialect_chat, &dialect_responses, &dialect_messages};

	for (size_t i = 0; i < 3; i++)
		if (!strncmp(url, all[i]->path, strlen(all[i]->path)))
			return all[i];
	return NULL;
}

/* The prompt of a recorded request, and the answer that is scripted for it. */
static void prompt_of(struct bench *b, json_t *v, struct token_list *prompt, struct stub_answer *answer)
{
	const struct dialect *d = dialect_of(json_at(v, "url"));
	struct api_request q = {0};
	struct api_error e = {0};
	struct turn *turn = NULL;
	struct err err;

	if (!d->parse(json_object_get(v, "body"), &b->env, &q, &e))
		fail_msg("%s: %s", json_at(v, "url"), e.message);
	if (stub_next(b->stub, b->env.tokenizer, &q, "", 0, answer, &err) != OK ||
	    turn_open(&turn, &b->c, &q.turn, NULL, &err) != OK)
		fail_msg("%s: %s", json_at(v, "url"), err.msg);
	token_append(prompt, turn_prompt(turn), (size_t)turn_prompt_tokens(turn));
	turn_close(turn);
	api_request_clear(&q);
}

/* Each follow-up's prompt begins with the prompt before and its answer. */
static void compare(const struct recorded *all)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct token_list known = {0}, prompt = {0};
	struct stub_answer answer = {0};
	struct bench b = {0};
	struct err err;
	bool goes_on = false;

	write_stub(all);
	o.model = "models/ds4-nano-q2.gguf";
	o.context = 49152;
	if (engine_open(&b.e, &o, &err) != OK || worker_open(&b.w, b.e, NULL, 1, &err) != OK ||
	    turn_tables_new(&b.t, b.e->tokenizer, &err) != OK || stub_open(&b.stub, stub_path, &err) != OK)
		fail_msg("%s", err.msg);
	b.c = (struct turn_context){.engine = b.e, .worker = b.w, .tables = b.t};
	b.env = (struct dialect_env){.tokenizer = b.e->tokenizer, .model = "m", .context = o.context};
	for (; all->file; all++) {
		json_t *v = read_file(all->file);

		if (dialect_of(json_at(v, "url"))) {
			prompt.n = answer.ids.n = 0;
			prompt_of(&b, v, &prompt, &answer);
			if (goes_on && (prompt.n <= known.n || memcmp(prompt.id, known.id, known.n * sizeof *known.id)))
				fail_msg("%s: its prompt of %zu tokens does not begin with the %zu known ones", all->file,
					 prompt.n, known.n);
			known.n = 0;
			token_append(&known, prompt.id, prompt.n);
			token_append(&known, answer.ids.id, answer.ids.n);
			goes_on = all->goes_on;
		}
		json_decref(v);
	}
	stub_close(b.stub);
	worker_close(b.w);
	turn_tables_free(b.t);
	engine_close(b.e);
	token_list_clear(&known);
	token_list_clear(&prompt);
	token_list_clear(&answer.ids);
}

/* ------------------------------------------------------------------ the clients */

static void the_openai_sdk(void **state)
{
	/* The fourth asks for a format, which stands before everything else: no extension of the third. */
	static const struct recorded all[] = {
		{"openai-sdk/01-GET-v1_models.json", false}, {"openai-sdk/02-POST-v1_chat_completions.json", false},
		{"openai-sdk/03-POST-v1_chat_completions.json", false}, {"openai-sdk/04-POST-v1_chat_completions.json", false},
		{"openai-sdk/05-POST-v1_chat_completions.json", false}, {"openai-sdk/06-POST-v1_completions.json", false},
		{"openai-sdk/07-POST-v1_responses.json", false}, {"openai-sdk/08-POST-v1_responses.json", false}, {NULL, false},
	};

	(void)state;
	replay(all);
}

static void the_anthropic_sdk(void **state)
{
	static const struct recorded all[] = {
		{"anthropic-sdk/01-GET-v1_models.json", false}, {"anthropic-sdk/02-POST-v1_messages_count_tokens.json", false},
		{"anthropic-sdk/03-POST-v1_messages.json", false}, {"anthropic-sdk/04-POST-v1_messages.json", true},
		{"anthropic-sdk/05-POST-v1_messages.json", false}, {NULL, false},
	};

	(void)state;
	replay(all);
}

static void codex(void **state)
{
	static const struct recorded all[] = {
		{"codex/01-POST-v1_responses.json", true}, {"codex/02-POST-v1_responses.json", false}, {NULL, false},
	};

	(void)state;
	compare(all);
	if (getenv("DS4_LONG"))
		replay(all);
}

static void claude_code(void **state)
{
	static const struct recorded all[] = {
		{"claude-code/01-HEAD-root.json", false}, {"claude-code/02-POST-v1_messages.json", true},
		{"claude-code/03-POST-v1_messages.json", false}, {NULL, false},
	};

	(void)state;
	compare(all);
	if (getenv("DS4_LONG"))
		replay(all);
}

static void opencode(void **state)
{
	static const struct recorded all[] = {
		{"opencode/01-POST-v1_chat_completions.json", false}, {"opencode/02-POST-v1_chat_completions.json", true},
		{"opencode/03-POST-v1_chat_completions.json", false}, {NULL, false},
	};

	(void)state;
	compare(all);
	if (getenv("DS4_LONG"))
		replay(all);
}

static void pi(void **state)
{
	static const struct recorded all[] = {
		{"pi-ds4/01-POST-v1_chat_completions.json", true}, {"pi-ds4/02-POST-v1_chat_completions.json", false},
		{NULL, false},
	};

	(void)state;
	replay(all);
}

static int set_up(void **state)
{
	(void)state;
	return mkstemp(stub_path) < 0;
}

static int tear_down(void **state)
{
	(void)state;
	response_clear(&r);
	stream_clear(&st);
	return unlink(stub_path);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_openai_sdk), cmocka_unit_test(the_anthropic_sdk), cmocka_unit_test(codex),
		cmocka_unit_test(claude_code),    cmocka_unit_test(opencode),	       cmocka_unit_test(pi),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
