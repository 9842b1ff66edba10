/* serve_test.c - the server as clients see it, over ds4-nano: pages, refusals, queue, comments, disconnects, the end.
 *
 * Shapes, statuses and wordings are those of docs/api.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "support/api_server.h"

#define CHAT "/v1/chat/completions"
#define MESSAGES "/v1/messages"
#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]"
/* Goes on until it is cut: what is sampled is forced by the script of a stub. */
#define LONG "{" HELLO ",\"stream\":true,\"thinking\":false}"

static struct api_server api;
static struct response r = {.head = BUF_CAP(BUF_MAX), .body = BUF_CAP(BUF_MAX)};
static struct stream st = {.content = BUF_CAP(BUF_MAX)};
static char stub_path[] = "/tmp/ds4-serve-stub-XXXXXX";

static int popen_wait(const char *command)
{
	FILE *f = popen(command, "r");

	return f ? pclose(f) : -1;
}

/* One scripted answer of n words. */
static void long_answer(int n)
{
	FILE *f = fopen(stub_path, "w");

	assert_non_null(f);
	fputs("{\"content\":\"", f);
	for (int i = 0; i < n; i++)
		fprintf(f, "%d ", i % 10);
	fputs("\"}\n", f);
	fclose(f);
	api.o.stub = stub_path;
}

static void expect_status(int status)
{
	if (r.status != status)
		fail_msg("expected status %d, found %d: %s", status, r.status, buf_cstr(&r.body));
}

static void expect_text(const char *path, const char *text)
{
	json_t *v = response_json(&r);

	if (strcmp(json_at(v, path), text) != 0)
		fail_msg("expected %s to be '%s', found '%s' in %s", path, text, json_at(v, path), buf_cstr(&r.body));
	json_decref(v);
}

static void expect_field(const char *name, const char *value)
{
	if (strcmp(response_field(&r, name), value) != 0)
		fail_msg("expected the field %s: %s, found '%s' in:\n%s", name, value, response_field(&r, name),
			 buf_cstr(&r.head));
}

/* ------------------------------------------------------------------ pages */

static void health_tells_of_loading_and_everything_else_asks_to_come_back(void **state)
{
	(void)state;
	api_init(&api);
	api.hold = 1;
	api_start(&api);
	do {
		client_ask(api.port, &r, "GET", "/health", NULL, NULL);
	} while (strstr(buf_cstr(&r.body), "starting"));	/* its thread has not begun */
	expect_status(503);
	expect_text("status", "loading");
	expect_text("phase", "waiting for the test");
	assert_non_null(strstr(buf_cstr(&r.body), "\"progress\":0.250"));
	api_post(&api, &r, CHAT, NULL, "{" HELLO "}");
	expect_status(503);
	expect_field("Retry-After", "2");
	api_post(&api, &r, MESSAGES, NULL, "{" HELLO "}");
	expect_status(529);
	expect_text("error.type", "overloaded_error");
	api.hold = 0;
	api_wait_ready(&api);
	client_ask(api.port, &r, "GET", "/health", NULL, NULL);
	expect_text("status", "ok");
	expect_text("model", "deepseek-v4-flash");
	api_stop(&api);
}

static void models_satisfy_both_kinds_of_clients(void **state)
{
	json_t *v;

	(void)state;
	api_init(&api);
	api_start(&api);
	client_ask(api.port, &r, "GET", "/v1/models", NULL, NULL);
	v = response_json(&r);
	assert_string_equal(json_at(v, "object"), "list");
	assert_string_equal(json_at(v, "data.0.object"), "model");
	assert_string_equal(json_at(v, "data.0.type"), "model");
	assert_string_equal(json_at(v, "data.0.id"), json_at(v, "first_id"));
	assert_string_equal(json_at(v, "last_id"), "deepseek-v4-flash");
	assert_true(json_is_false(json_object_get(v, "has_more")));
	assert_int_equal(json_int_at(v, "data.0.context_length"), 4096);
	json_decref(v);
	client_ask(api.port, &r, "GET", "/v1/models/deepseek-chat", NULL, NULL);
	expect_text("id", "deepseek-chat");
	client_ask(api.port, &r, "GET", "/v1/models/gpt-9", NULL, NULL);
	expect_status(404);
	expect_text("error.code", "model_not_found");
	client_ask(api.port, &r, "HEAD", "/v1/models", NULL, NULL);
	expect_status(200);
	client_ask(api.port, &r, "HEAD", "/", NULL, NULL);
	expect_status(200);
	client_ask(api.port, &r, "GET", "/", NULL, NULL);
	assert_non_null(strstr(buf_cstr(&r.body), "/v1/messages"));
	api_stop(&api);
}

static void unknown_paths_and_methods_are_refused_in_the_shape_of_the_api(void **state)
{
	(void)state;
	api_init(&api);
	api_start(&api);
	client_ask(api.port, &r, "GET", "/nowhere", NULL, NULL);
	expect_status(404);
	expect_text("error.message", "unknown endpoint");
	expect_text("error.type", "invalid_request_error");
	expect_text("error.code", "unknown_url");
	assert_true(*response_field(&r, "x-request-id"));
	client_ask(api.port, &r, "GET", "/v1/nowhere", "anthropic-version: 2026-10-21\r\n", NULL);
	expect_status(404);
	expect_text("type", "error");
	expect_text("error.type", "not_found_error");
	assert_true(*response_field(&r, "request-id"));
	client_ask(api.port, &r, "GET", MESSAGES, NULL, NULL);
	expect_status(405);
	expect_field("Allow", "POST, OPTIONS");
	expect_text("type", "error");
	client_ask(api.port, &r, "POST", "/v1/models", NULL, "{}");
	expect_status(405);
	expect_field("Allow", "GET, HEAD, OPTIONS");
	client_ask(api.port, &r, "BREW", CHAT, NULL, NULL);
	expect_status(405);
	client_ask(api.port, &r, "OPTIONS", CHAT, NULL, NULL);
	expect_status(204);
	api_post(&api, &r, CHAT, NULL, "{\"messages\":");
	expect_status(400);
	expect_text("error.type", "invalid_request_error");
	api_post(&api, &r, MESSAGES "?beta=true", NULL, "[]");
	expect_status(400);
	expect_text("error.type", "invalid_request_error");
	client_ask(api.port, &r, "POST", MESSAGES, "Content-Length: 99999999999\r\n", NULL);
	expect_status(413);
	expect_text("error.type", "request_too_large");
	api_stop(&api);
}

static void tokens_come_and_go(void **state)
{
	json_t *v;
	json_int_t n;

	(void)state;
	api_init(&api);
	api_start(&api);
	api_post(&api, &r, "/tokenize", NULL, "{\"content\":\"Hello, \\u4e16\\u754c\",\"parse_special\":false}");
	expect_status(200);
	client_ask(api.port, &r, "POST", "/detokenize", NULL, buf_cstr(&r.body));
	expect_text("content", "Hello, 世界");
	api_post(&api, &r, "/detokenize", NULL, "{\"tokens\":[-1]}");
	expect_status(400);
	expect_text("error.param", "tokens");
	api_post(&api, &r, "/tokenize", NULL, "{}");
	expect_status(400);
	api_post(&api, &r, "/v1/messages/count_tokens", NULL, "{" HELLO ",\"system\":\"Be brief.\"}");
	v = response_json(&r);
	n = json_int_at(v, "input_tokens");
	json_decref(v);
	api_post(&api, &r, MESSAGES, NULL, "{" HELLO ",\"system\":\"Be brief.\",\"max_tokens\":1}");
	v = response_json(&r);
	if (n < 1 || json_int_at(v, "usage.input_tokens") != n)
		fail_msg("expected the %lld counted tokens, found %s", (long long)n, buf_cstr(&r.body));
	json_decref(v);
	api_stop(&api);
}

/* docs/openapi.json lists exactly the paths and methods that are served. */
static void the_document_lists_what_is_served(void **state)
{
	static const char *const methods[] = {"get", "post", "put", "delete", "patch"};
	struct buf text = BUF_CAP(16 << 20);
	struct err err = {0};
	json_t *v, *path;
	const char *name;
	char line[200];
	int n = 0;

	(void)state;
	api_init(&api);
	api_start(&api);
	if (file_read(&text, "docs/openapi.json", &err) != OK || !(v = json_parse(text.data, text.len, &err)))
		fail_msg("docs/openapi.json: %s", err.msg);
	json_object_foreach(json_object_get(v, "paths"), name, path) {
		snprintf(line, sizeof line, "%.*s%s", (int)strcspn(name, "{"), name, strchr(name, '{') ? "deepseek-v4-flash" : "");
		for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
			bool listed = json_object_get(path, methods[i]) != NULL;
			char method[8];

			snprintf(method, sizeof method, "%s", methods[i]);
			for (char *p = method; *p; p++)
				*p = (char)(*p - 'a' + 'A');
			client_ask(api.port, &r, method, line, NULL, listed && !strcmp(method, "POST") ? "[]" : NULL);
			if (listed ? r.status == 404 || r.status == 405 : r.status != 405)
				fail_msg("%s %s: %s in the document, the server says %d", method, line,
					 listed ? "it is" : "it is not", r.status);
			n += listed;
		}
	}
	json_decref(v);
	if (n != 12)
		fail_msg("the server has 12 operations, the document %d", n);
	api_stop(&api);
	buf_clear(&text);
}

/* The same request with a seed, as a stream and whole. */
static void same_text(const char *path, const char *fields, const char *text_at)
{
	char body[400];
	json_t *v;

	snprintf(body, sizeof body, "{%s,\"stream\":false}", fields);
	api_post(&api, &r, path, NULL, body);
	expect_status(200);
	v = response_json(&r);
	snprintf(body, sizeof body, "{%s,\"stream\":true}", fields);
	api_post(&api, &r, path, NULL, body);
	stream_take(&st, &r);
	if (!st.ended || !st.content.len || strcmp(json_at(v, text_at), buf_cstr(&st.content)) != 0)
		fail_msg("%s: expected the same text as a stream: '%s', found '%s'", path, json_at(v, text_at),
			 buf_cstr(&st.content));
	json_decref(v);
}

static void a_stream_and_a_whole_answer_of_one_seed_are_the_same(void **state)
{
	(void)state;
	api_init(&api);
	api_start(&api);
	same_text(CHAT, HELLO ",\"seed\":7,\"temperature\":1,\"max_tokens\":30,\"thinking\":false",
		  "choices.0.message.content");
	same_text("/v1/completions", "\"prompt\":\"Once upon a time\",\"seed\":7,\"max_tokens\":30", "choices.0.text");
	same_text(MESSAGES, HELLO ",\"temperature\":0,\"max_tokens\":30,\"thinking\":{\"type\":\"disabled\"}", "content.0.text");
	same_text("/v1/responses", "\"input\":\"Hello\",\"temperature\":0,\"max_output_tokens\":30,\"reasoning\":{\"effort\":\"none\"}",
		  "output.0.content.0.text");
	api_stop(&api);
}

/* ------------------------------------------------------------------ who may ask */

static void pages_of_other_origins_are_refused_unless_allowed(void **state)
{
	(void)state;
	api_init(&api);
	api_start(&api);
	api_post(&api, &r, CHAT, "Origin: https://example.org\r\n", "{" HELLO "}");
	expect_status(403);
	expect_field("Access-Control-Allow-Origin", "");
	api_post(&api, &r, CHAT, "Origin: null\r\n", "{" HELLO "}");
	expect_status(403);
	api_post(&api, &r, CHAT, "Origin: http://localhost.example.org\r\n", "{" HELLO "}");
	expect_status(403);
	api_post(&api, &r, CHAT, "Origin: http://localhost:3000\r\n", "{" HELLO ",\"max_tokens\":1}");
	expect_status(200);
	api_stop(&api);
	api_init(&api);
	api.o.cors = true;
	api_start(&api);
	api_post(&api, &r, CHAT, "Origin: https://example.org\r\n", "{" HELLO ",\"max_tokens\":1}");
	expect_status(200);
	expect_field("Access-Control-Allow-Origin", "*");
	client_ask(api.port, &r, "OPTIONS", CHAT, "Origin: https://example.org\r\n", NULL);
	expect_status(204);
	expect_field("Access-Control-Allow-Headers", "*");
	expect_field("Access-Control-Max-Age", "86400");
	api_stop(&api);
}

static void a_key_is_asked_for_in_the_shape_of_the_api(void **state)
{
	(void)state;
	setenv("DS4_TEST_KEYS", "first-key-0001,second-key-02", 1);
	api_init(&api);
	api.o.api_key = "DS4_TEST_KEYS";
	api_start(&api);
	api_post(&api, &r, CHAT, NULL, "{" HELLO "}");
	expect_status(401);
	expect_field("WWW-Authenticate", "Bearer");
	assert_true(strstr(buf_cstr(&r.body), "\"error\"") != NULL);
	api_post(&api, &r, MESSAGES, "x-api-key: wrong-key-0001\r\n", "{" HELLO "}");
	expect_status(401);
	expect_text("error.type", "authentication_error");
	api_post(&api, &r, MESSAGES, "x-api-key: second-key-02\r\n", "{" HELLO ",\"max_tokens\":1}");
	expect_status(200);
	api_post(&api, &r, CHAT, "Authorization: Bearer first-key-0001\r\n", "{" HELLO ",\"max_tokens\":1}");
	expect_status(200);
	client_ask(api.port, &r, "GET", "/v1/models", NULL, NULL);
	expect_status(401);
	client_ask(api.port, &r, "GET", "/health", NULL, NULL);
	expect_status(200);
	api_stop(&api);
}

/* ------------------------------------------------------------------ queue, comments, limits */

static void send_post(int fd, const char *path, const char *body)
{
	char head[200];

	snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n", path, strlen(body));
	client_text(fd, head);
	client_text(fd, body);
}

static void wait_metric(const char *name, double value)
{
	double until = clock_seconds() + 10, found = -1;

	while (clock_seconds() < until && (found = api_metric(&api, name)) != value)
		usleep(2000);
	if (found != value)
		fail_msg("expected %s to become %g, found %g", name, value, found);
}

/* Reads until text is there; false when the connection ends first. */
static bool read_until(int fd, struct buf *in, const char *text)
{
	char part[4096];
	ssize_t n;

	while (!strstr(buf_cstr(in), text)) {
		n = read(fd, part, sizeof part);
		if (n <= 0)
			return false;
		buf_add(in, part, (size_t)n);
	}
	return true;
}

static void a_queued_stream_has_headers_and_comments_and_a_full_queue_says_busy(void **state)
{
	struct buf in = BUF_CAP(1 << 20);
	int one, two;

	(void)state;
	api_init(&api);
	api.parallel = 1;
	api.o.max_queue = 1;
	api.o.comment_seconds = 0.05;
	long_answer(3000);
	api_start(&api);
	one = client_connect(api.port);
	send_post(one, CHAT, LONG);
	wait_metric("ds4_requests{state=\"running\"}", 1);
	two = client_connect(api.port);
	send_post(two, MESSAGES, LONG);
	if (!read_until(two, &in, ": queued 0\n\n"))
		fail_msg("expected a comment of the queue, found: %s", buf_cstr(&in));
	assert_non_null(strstr(buf_cstr(&in), "text/event-stream"));
	buf_cut(&in, 0);
	if (!read_until(two, &in, ": queued 0\n\n"))	/* again, from the timer */
		fail_msg("expected a second comment, found: %s", buf_cstr(&in));
	api_post(&api, &r, CHAT, NULL, LONG);
	expect_status(503);
	expect_field("Retry-After", "1");
	api_post(&api, &r, MESSAGES, NULL, LONG);
	expect_status(529);
	expect_text("error.type", "overloaded_error");
	close(one);
	if (!read_until(two, &in, "message_start"))	/* its turn has come */
		fail_msg("expected the queued request to begin, found: %s", buf_cstr(&in));
	close(two);
	wait_metric("ds4_requests{state=\"running\"}", 0);
	api_stop(&api);
	buf_clear(&in);
}

static void one_client_may_not_take_everything(void **state)
{
	int fd;

	(void)state;
	api_init(&api);
	api.o.max_per_client = 1;
	long_answer(2000);
	api_start(&api);
	fd = client_connect(api.port);
	send_post(fd, CHAT, LONG);
	wait_metric("ds4_requests{state=\"running\"}", 1);
	api_post(&api, &r, MESSAGES, NULL, LONG);
	expect_status(429);
	expect_text("error.type", "rate_limit_error");
	expect_field("Retry-After", "1");
	close(fd);
	api_stop(&api);
}

static void a_prompt_beyond_the_context_is_refused_in_the_words_clients_know(void **state)
{
	struct buf body = BUF_CAP(1 << 20);
	char want[200];
	json_t *v;

	(void)state;
	api_init(&api);
	api.context = 256;
	api_start(&api);
	buf_str(&body, "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"");
	for (int i = 0; i < 400; i++)
		buf_str(&body, "one two ");
	buf_str(&body, "\"}]}");
	api_post(&api, &r, CHAT, NULL, buf_cstr(&body));
	expect_status(400);
	v = response_json(&r);
	snprintf(want, sizeof want, "prompt is too long: %lld tokens > 256 maximum. This model's maximum context length is 256 "
		 "tokens; please reduce the length of the messages.", (long long)json_int_at(v, "error.n_prompt_tokens"));
	assert_string_equal(json_at(v, "error.message"), want);
	assert_string_equal(json_at(v, "error.code"), "context_length_exceeded");
	assert_string_equal(json_at(v, "error.param"), "messages");
	assert_int_equal(json_int_at(v, "error.n_ctx"), 256);
	json_decref(v);
	api_post(&api, &r, MESSAGES, NULL, buf_cstr(&body));
	expect_status(400);
	expect_text("error.type", "invalid_request_error");
	assert_non_null(strstr(buf_cstr(&r.body), "prompt is too long: "));
	api_stop(&api);
	buf_clear(&body);
}

static void an_answer_that_takes_too_long_is_ended(void **state)
{
	(void)state;
	api_init(&api);
	api.o.request_seconds = 0.3;
	long_answer(3500);
	api_start(&api);
	api_post(&api, &r, CHAT, NULL, LONG);
	stream_take(&st, &r);
	assert_true(st.ended);
	assert_string_equal(st.finish, "length");
	api_stop(&api);
}

/* ------------------------------------------------------------------ leaving */

static void work_for_a_client_that_left_stops(void **state)
{
	struct buf body = BUF_CAP(1 << 20), in = BUF_CAP(1 << 20);
	double left;
	int fd, waiting;

	(void)state;
	api_init(&api);
	api.parallel = 1;
	api.context = 16384;
	long_answer(15000);
	api_start(&api);
	/* in decode, with another one in the queue */
	fd = client_connect(api.port);
	send_post(fd, CHAT, LONG);
	if (!read_until(fd, &in, "\"content\":"))
		fail_msg("expected content, found %s", buf_cstr(&in));
	waiting = client_connect(api.port);
	send_post(waiting, CHAT, "{" HELLO ",\"max_tokens\":1}");	/* not streaming: nothing was sent yet */
	wait_metric("ds4_requests{state=\"queued\"}", 1);
	left = clock_seconds();
	close(waiting);
	wait_metric("ds4_requests{state=\"queued\"}", 0);
	close(fd);
	wait_metric("ds4_requests{state=\"running\"}", 0);
	wait_metric("ds4_scheduler_requests{state=\"generating\"}", 0);
	if (clock_seconds() - left > 5)
		fail_msg("expected both to be gone at the next step, took %.3f s", clock_seconds() - left);
	/* in prefill */
	buf_str(&body, "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"");
	for (int i = 0; i < 2500; i++)
		buf_printf(&body, "%d ", i);
	buf_str(&body, "\"}]}");
	fd = client_connect(api.port);
	send_post(fd, CHAT, buf_cstr(&body));
	wait_metric("ds4_scheduler_requests{state=\"reading\"}", 1);
	left = clock_seconds();
	close(fd);
	wait_metric("ds4_requests{state=\"running\"}", 0);
	wait_metric("ds4_scheduler_requests{state=\"reading\"}", 0);
	if (clock_seconds() - left > 5)
		fail_msg("expected it to be gone at the next step, took %.3f s", clock_seconds() - left);
	assert_true(api_metric(&api, "ds4_client_gone_total") == 3);
	api_stop(&api);
	buf_clear(&body);
	buf_clear(&in);
}

/* Twenty alternatives make some kilobytes of each token: what the system buffers is soon full. */
static void a_reader_that_rests_lets_the_engine_rest(void **state)
{
	double rows, later;
	int fd;

	(void)state;
	api_init(&api);
	long_answer(400);	/* 800 tokens */
	api_start(&api);
	fd = client_connect(api.port);
	send_post(fd, CHAT, "{" HELLO ",\"stream\":true,\"thinking\":false,\"logprobs\":true,\"top_logprobs\":20}");
	wait_metric("ds4_requests{state=\"running\"}", 1);
	do {		/* until nothing moves any more */
		rows = api_metric(&api, "ds4_step_rows_total");
		usleep(300000);
		later = api_metric(&api, "ds4_step_rows_total");
	} while (later > rows);
	if (later >= 780)
		fail_msg("expected the engine to rest for a reader that does not read, found %g rows", later);
	client_read(fd, &r, false);	/* it reads on, and gets everything */
	stream_take(&st, &r);
	assert_true(st.ended);
	assert_int_equal(st.generated, -1);
	assert_string_equal(st.finish, "stop");
	close(fd);
	api_stop(&api);
}

/* ------------------------------------------------------------------ the end */

static void the_end_finishes_streams_and_tells_the_queue(void **state)
{
	int one, two;

	(void)state;
	api_init(&api);
	api.parallel = 1;
	api.o.drain_seconds = 0.2;
	long_answer(3900);
	api_start(&api);
	one = client_connect(api.port);
	send_post(one, CHAT, LONG);
	wait_metric("ds4_requests{state=\"running\"}", 1);
	two = client_connect(api.port);
	send_post(two, MESSAGES, LONG);
	wait_metric("ds4_requests{state=\"queued\"}", 1);
	usleep(100000);		/* let some text come */
	server_signal(api.s, SERVER_STOP);
	client_read(two, &r, false);
	stream_take(&st, &r);
	assert_true(r.whole);
	assert_true(st.error);
	client_read(one, &r, false);
	stream_take(&st, &r);
	assert_true(r.whole);
	assert_true(st.ended);
	assert_true(st.content.len > 0);
	assert_string_equal(st.finish, "length");
	close(one);
	close(two);
	api_stop(&api);
}

static void an_answer_under_way_may_end_by_itself(void **state)
{
	int fd;

	(void)state;
	api_init(&api);
	api.o.drain_seconds = 100;
	long_answer(60);
	api_start(&api);
	fd = client_connect(api.port);
	send_post(fd, MESSAGES, LONG);
	wait_metric("ds4_requests{state=\"running\"}", 1);
	server_signal(api.s, SERVER_STOP);
	client_read(fd, &r, false);
	stream_take(&st, &r);
	assert_true(st.ended);
	assert_string_equal(st.finish, "end_turn");
	close(fd);
	api_stop(&api);
}

static enum status load_fails(void *ctx, struct engine **out, struct server_progress *p, struct err *err)
{
	(void)ctx;
	(void)p;
	*out = NULL;
	return err_set(err, ERR_FORMAT, "x.gguf: not a model");
}

static void a_model_that_cannot_be_loaded_ends_the_server_with_its_sentence(void **state)
{
	struct err err = {0};

	(void)state;
	api_init(&api);
	api.o.load = load_fails;
	assert_int_equal(server_open(&api.s, &api.o, &err), OK);
	assert_int_equal(server_run(api.s, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "x.gguf: not a model");
	server_close(api.s);
	unlink(api.log);
}

/* A tool call in a spelling that no renderer would write: only the exact ids extend what was read. */
static const char odd_call[] = "{\"raw\": \"I will look.</think>One moment.\\n\\n<｜DSML｜tool_calls>\\n<｜DSML｜invoke name=\\\"f\\\">\\n"
			       "<｜DSML｜parameter name=\\\"a\\\" string=\\\"false\\\">  1.50e0 </｜DSML｜parameter>\\n</｜DSML｜invoke>\\n"
			       "</｜DSML｜tool_calls>\"}\n{\"content\": \"Done.\"}\n";

static void add_long_system(struct buf *b)
{
	buf_str(b, "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"tools\":[{\"type\":\"function\",\"function\":{\"name\":"
		   "\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"}}}}}],\"messages\":[{\"role\":"
		   "\"system\",\"content\":\"");
	for (int i = 0; i < 150; i++)
		buf_printf(b, "Rule %d. ", i);
	buf_str(b, "\"},{\"role\":\"user\",\"content\":\"Call f.\"}");
}

/* The first request, then (after a restart, if so) the one with the result; what the second had to read. */
static json_int_t two_requests(char *dir, bool restart, json_int_t *prompt)
{
	struct buf body = BUF_CAP(1 << 20);
	FILE *f = fopen(stub_path, "w");

	fputs(odd_call, f);
	fclose(f);
	api_init(&api);
	api.o.stub = stub_path;
	api.o.kv_dir = dir;
	api_start(&api);
	add_long_system(&body);
	buf_str(&body, "]}");
	api_post(&api, &r, CHAT, NULL, buf_cstr(&body));
	stream_take(&st, &r);
	if (strcmp(st.finish, "tool_calls") != 0 || st.calls != 1)
		fail_msg("expected a call, found: %s", buf_cstr(&r.body));
	if (restart) {
		api_stop(&api);
		api_init(&api);
		api.o.kv_dir = dir;
		api_start(&api);
	}
	buf_cut(&body, 0);
	add_long_system(&body);
	/* Neither the call's id nor the reasoning come back, and the number is spelt as JSON likes it. */
	buf_str(&body, ",{\"role\":\"assistant\",\"content\":\"One moment.\",\"tool_calls\":[{\"id\":\"x\",\"type\":\"function\",\"function\":"
		       "{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1.5}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"7\"}],"
		       "\"max_tokens\":4}");
	api_post(&api, &r, CHAT, NULL, buf_cstr(&body));
	expect_status(200);
	stream_take(&st, &r);
	*prompt = st.prompt;
	api_stop(&api);
	buf_clear(&body);
	return st.prompt - st.cached;
}

static void a_conversation_goes_on_exactly_also_after_a_restart(void **state)
{
	char one[] = "/tmp/ds4-serve-kv-XXXXXX", two[] = "/tmp/ds4-serve-kv-XXXXXX", command[100];
	json_int_t prompt, again, read, read_again;

	(void)state;
	assert_non_null(mkdtemp(one));
	assert_non_null(mkdtemp(two));
	read = two_requests(one, false, &prompt);
	read_again = two_requests(two, true, &again);
	if (read > 40 || prompt < 600)
		fail_msg("expected only the result to be read, found %lld of %lld tokens", (long long)read, (long long)prompt);
	if (again != prompt)
		fail_msg("expected the same prompt after a restart, of %lld tokens, found %lld", (long long)prompt,
			 (long long)again);
	if (read_again > read + 128 + 128)	/* from the last whole block with a checkpoint */
		fail_msg("expected little to be read after a restart, found %lld of %lld tokens", (long long)read_again,
			 (long long)again);
	for (int i = 0; i < 2; i++) {
		snprintf(command, sizeof command, "rm -rf '%s'", i ? two : one);
		assert_int_equal(popen_wait(command), 0);
	}
}

/* ------------------------------------------------------------------ what is written */

static void contents_are_in_the_trace_and_never_in_the_log(void **state)
{
	char trace[] = "/tmp/ds4-serve-trace-XXXXXX";
	struct buf text = BUF_CAP(1 << 20);
	struct err err;
	json_t *v;

	(void)state;
	close(mkstemp(trace));
	api_init(&api);
	api.o.trace = trace;
	api_start(&api);
	api_post(&api, &r, CHAT, NULL, "{\"messages\":[{\"role\":\"user\",\"content\":\"zebra crossing\"}],\"max_tokens\":5}");
	expect_status(200);
	api_post(&api, &r, CHAT, NULL, "{\"messages\":[{\"role\":\"user\",\"content\":\"zebra crossing\"}],\"top_p\":\"no\"}");
	expect_status(400);
	assert_int_equal(file_read(&text, api.log, &err), OK);
	assert_null(strstr(buf_cstr(&text), "zebra"));
	assert_non_null(strstr(buf_cstr(&text), "api=chat"));
	api_stop(&api);
	buf_cut(&text, 0);
	assert_int_equal(file_read(&text, trace, &err), OK);
	*strchr(text.data, '\n') = 0;
	v = json_parse(text.data, strlen(text.data), &err);
	if (!v)
		fail_msg("the trace is not JSON: %s\n%s", err.msg, text.data);
	assert_non_null(strstr(json_at(v, "prompt"), "<｜User｜>zebra crossing<｜Assistant｜>"));
	assert_non_null(strstr(json_at(v, "body"), "zebra"));
	assert_true(json_array_size(json_object_get(v, "prompt_tokens")) > 4);
	assert_true(json_array_size(json_object_get(v, "events")) > 2);
	json_decref(v);
	unlink(trace);
	buf_clear(&text);
}

/* ------------------------------------------------------------------ malformed requests */

static const char *const seeds[] = {
	("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n{\"model\":\"m\",\"messages\":[{\"role\":"
	"\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]}],\"max_tokens\":3,\"temperature\":0.5,\"tools\":[{\"type\":"
	"\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}}],\"stop\":[\"a\"]}"),
	("POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n{\"max_tokens\":3,\"system\":[{\"type\":\"text\","
	"\"text\":\"s\"}],\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":[{\"type\":"
	"\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{\"a\":1}}]},{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\","
	"\"tool_use_id\":\"t\",\"content\":\"x\"}]}]}"),
	("POST /v1/responses HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n{\"input\":[{\"type\":\"message\",\"role\":\"user\","
	"\"content\":[{\"type\":\"input_text\",\"text\":\"hi\"}]}],\"max_output_tokens\":3,\"reasoning\":{\"effort\":\"low\"}}"),
	("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n{\"prompt\":\"Once\",\"max_tokens\":2,\"logprobs\":1}"),
	("POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n{\"content\":\"text\",\"with_pieces\":true}"),
};

static bool documented(int status)
{
	static const int all[] = {200, 204, 400, 401, 403, 404, 405, 408, 413, 414, 417, 429, 431, 501, 503, 505, 529};

	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (all[i] == status)
			return true;
	return false;
}

/* Changes a few places: a byte, a piece cut out, a piece doubled, a number blown up. */
static void mutate(struct buf *b, size_t from, struct rng *rng)
{
	for (uint64_t k = 1 + rng_below(rng, 4); k && b->len > from + 8; k--) {
		size_t at = from + rng_below(rng, b->len - from - 4), n = 1 + rng_below(rng, 6);
		struct buf tail = BUF_CAP(1 << 20);

		n = n < b->len - at ? n : b->len - at;
		switch (rng_below(rng, 5)) {
		case 0:
			b->data[at] = (char)rng_below(rng, 256);
			break;
		case 1:
			b->data[at] = "{}[]\",:\\0e-"[rng_below(rng, 11)];
			break;
		default:
			buf_add(&tail, b->data + at + (rng_below(rng, 2) ? n : 0), b->len - at - n);
			if (rng_below(rng, 2))
				buf_add(&tail, b->data + at, n);
			buf_cut(b, at);
			if (rng_below(rng, 6) == 0)
				buf_str(b, "1e999");
			buf_add(b, tail.data ? tail.data : "", tail.len);
			buf_clear(&tail);
		}
	}
}

static void a_thousand_malformed_requests_get_documented_answers(void **state)
{
	struct rng rng = rng_seed(11);
	int count[600] = {0}, silent = 0;

	(void)state;
	api_init(&api);
	api.o.limits.head_seconds = api.o.limits.body_seconds = 0.05;
	long_answer(2);
	api_start(&api);
	for (int i = 0; i < 1000; i++) {
		const char *seed = seeds[rng_below(&rng, sizeof seeds / sizeof *seeds)];
		const char *body = strstr(seed, "\r\n\r\n") + 4;
		struct buf b = BUF_CAP(1 << 20), text = BUF_CAP(1 << 20);
		int fd = client_connect(api.port);

		if (i % 3) {		/* a right head for a wrong body */
			buf_str(&text, body);
			mutate(&text, 0, &rng);
			buf_printf(&b, "%.*s", (int)(strchr(seed, '%') - seed), seed);
			buf_printf(&b, "%zu\r\n\r\n", text.len);
			buf_add(&b, text.data, text.len);
		} else {
			buf_printf(&b, "%.*s", (int)(strchr(seed, '%') - seed), seed);
			buf_printf(&b, "%zu\r\n\r\n%s", strlen(body), body);
			mutate(&b, 0, &rng);
		}
		client_send(fd, b.data, b.len);
		client_read(fd, &r, !strncmp(b.data, "HEAD ", 5));
		if (r.status && !documented(r.status))
			fail_msg("request %d got status %d: %s", i, r.status, b.data);
		if (r.status >= 500 && r.status != 501 && r.status != 505)
			fail_msg("request %d got status %d: %s\n%s", i, r.status, b.data, buf_cstr(&r.body));
		silent += r.status == 0;
		count[r.status]++;
		close(fd);
		buf_clear(&b);
		buf_clear(&text);
	}
	client_ask(api.port, &r, "GET", "/health", NULL, NULL);
	expect_status(200);
	if (count[400] < 300 || count[200] < 20 || silent > 20)
		fail_msg("expected mostly 400 and some 200, found %d and %d, %d without an answer", count[400], count[200], silent);
	api_stop(&api);
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
		cmocka_unit_test(health_tells_of_loading_and_everything_else_asks_to_come_back),
		cmocka_unit_test(models_satisfy_both_kinds_of_clients),
		cmocka_unit_test(unknown_paths_and_methods_are_refused_in_the_shape_of_the_api),
		cmocka_unit_test(tokens_come_and_go),
		cmocka_unit_test(a_stream_and_a_whole_answer_of_one_seed_are_the_same),
		cmocka_unit_test(the_document_lists_what_is_served),
		cmocka_unit_test(pages_of_other_origins_are_refused_unless_allowed),
		cmocka_unit_test(a_key_is_asked_for_in_the_shape_of_the_api),
		cmocka_unit_test(a_queued_stream_has_headers_and_comments_and_a_full_queue_says_busy),
		cmocka_unit_test(one_client_may_not_take_everything),
		cmocka_unit_test(a_prompt_beyond_the_context_is_refused_in_the_words_clients_know),
		cmocka_unit_test(an_answer_that_takes_too_long_is_ended),
		cmocka_unit_test(work_for_a_client_that_left_stops),
		cmocka_unit_test(a_reader_that_rests_lets_the_engine_rest),
		cmocka_unit_test(the_end_finishes_streams_and_tells_the_queue),
		cmocka_unit_test(an_answer_under_way_may_end_by_itself),
		cmocka_unit_test(a_model_that_cannot_be_loaded_ends_the_server_with_its_sentence),
		cmocka_unit_test(a_conversation_goes_on_exactly_also_after_a_restart),
		cmocka_unit_test(contents_are_in_the_trace_and_never_in_the_log),
		cmocka_unit_test(a_thousand_malformed_requests_get_documented_answers),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
