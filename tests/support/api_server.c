/* api_server.c - a server inside a test; see api_server.h. */
#include "support/api_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"

static enum status load(void *ctx, struct engine **out, struct server_progress *p, struct err *err)
{
	struct api_server *a = ctx;
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;

	server_phase(p, "waiting for the test");
	server_bytes(p, 25, 100);
	while (a->hold)
		usleep(1000);
	o.model = "models/ds4-nano-q2.gguf";
	o.context = a->context;
	o.timelines = a->parallel;
	o.threads = 2;
	return engine_open(out, &o, err);
}

void api_init(struct api_server *a)
{
	memset(a, 0, sizeof *a);
	a->o = (struct server_options)SERVER_OPTIONS_DEFAULT;
	a->o.port = 0;
	a->o.load = load;
	a->o.load_ctx = a;
	a->o.drain_seconds = 1;
	a->context = 4096;
	a->parallel = 4;
	snprintf(a->log, sizeof a->log, "/tmp/ds4-api-log-XXXXXX");
	close(mkstemp(a->log));
	a->o.log = a->log;
}

static void *run(void *ctx)
{
	struct api_server *a = ctx;

	a->status = server_run(a->s, &a->err);
	return NULL;
}

void api_wait_ready(struct api_server *a)
{
	struct response r = {.head = BUF_CAP(BUF_MAX), .body = BUF_CAP(BUF_MAX)};
	double until = clock_seconds() + 60;

	do {
		client_ask(a->port, &r, "GET", "/health", NULL, NULL);
		usleep(2000);
	} while (r.status == 503 && clock_seconds() < until);
	if (r.status != 200)
		fail_msg("the server does not become ready: %d %s", r.status, buf_cstr(&r.body));
	response_clear(&r);
}

void api_start(struct api_server *a)
{
	if (server_open(&a->s, &a->o, &a->err) != OK)
		fail_msg("%s", a->err.msg);
	a->port = server_port(a->s);
	assert_int_equal(pthread_create(&a->thread, NULL, run, a), 0);
	if (!a->hold)
		api_wait_ready(a);
}

void api_stop(struct api_server *a)
{
	server_signal(a->s, SERVER_STOP);
	pthread_join(a->thread, NULL);
	server_close(a->s);
	unlink(a->log);
	if (a->status != OK)
		fail_msg("the server ended with: %s", a->err.msg);
}

void api_post(struct api_server *a, struct response *r, const char *path, const char *fields, const char *body)
{
	client_ask(a->port, r, "POST", path, fields, body);
}

json_t *response_json(const struct response *r)
{
	struct err err;
	json_t *v = json_parse(buf_cstr(&r->body), r->body.len, &err);

	if (!v)
		fail_msg("expected JSON, found %d with '%s': %s", r->status, buf_cstr(&r->body), err.msg);
	return v;
}

static json_t *walk(json_t *o, const char *path)
{
	char part[64];

	while (o && *path) {
		size_t n = strcspn(path, ".");

		snprintf(part, sizeof part, "%.*s", (int)n, path);
		o = json_is_array(o) ? json_array_get(o, (size_t)atoi(part)) : json_object_get(o, part);
		path += n + (path[n] == '.');
	}
	return o;
}

const char *json_at(json_t *o, const char *path)
{
	json_t *v = walk(o, path);

	return json_is_string(v) ? json_string_value(v) : "";
}

json_int_t json_int_at(json_t *o, const char *path)
{
	json_t *v = walk(o, path);

	return json_is_integer(v) ? json_integer_value(v) : -1;
}

/* ------------------------------------------------------------------ streams */

static void take_chat(struct stream *s, json_t *v)
{
	buf_str(&s->content, json_at(v, "choices.0.delta.content"));
	buf_str(&s->content, json_at(v, "choices.0.text"));
	buf_str(&s->reasoning, json_at(v, "choices.0.delta.reasoning_content"));
	buf_str(&s->arguments, json_at(v, "choices.0.delta.tool_calls.0.function.arguments"));
	s->calls += *json_at(v, "choices.0.delta.tool_calls.0.id") != 0;
	if (*json_at(v, "choices.0.finish_reason"))
		snprintf(s->finish, sizeof s->finish, "%s", json_at(v, "choices.0.finish_reason"));
	if (json_is_object(json_object_get(v, "usage"))) {
		s->prompt = json_int_at(v, "usage.prompt_tokens");
		s->cached = json_int_at(v, "usage.prompt_tokens_details.cached_tokens");
		s->generated = json_int_at(v, "usage.completion_tokens");
	}
	s->error = s->error || json_object_get(v, "error");
}

static void take_messages(struct stream *s, json_t *v, const char *type)
{
	buf_str(&s->content, json_at(v, "delta.text"));
	buf_str(&s->reasoning, json_at(v, "delta.thinking"));
	buf_str(&s->arguments, json_at(v, "delta.partial_json"));
	s->calls += !strcmp(json_at(v, "content_block.type"), "tool_use");
	if (!strcmp(type, "message_start")) {
		s->cached = json_int_at(v, "message.usage.cache_read_input_tokens");
		s->prompt = s->cached + json_int_at(v, "message.usage.input_tokens") +
			    json_int_at(v, "message.usage.cache_creation_input_tokens");
	} else if (!strcmp(type, "message_delta")) {
		snprintf(s->finish, sizeof s->finish, "%s", json_at(v, "delta.stop_reason"));
		s->generated = json_int_at(v, "usage.output_tokens");
	} else if (!strcmp(type, "message_stop")) {
		s->ended = true;
	} else if (!strcmp(type, "error")) {
		s->error = s->ended = true;
	}
}

static void take_responses(struct stream *s, json_t *v, const char *type)
{
	if (!strcmp(type, "response.output_text.delta"))
		buf_str(&s->content, json_at(v, "delta"));
	else if (!strcmp(type, "response.reasoning_text.delta"))
		buf_str(&s->reasoning, json_at(v, "delta"));
	else if (!strcmp(type, "response.function_call_arguments.delta"))
		buf_str(&s->arguments, json_at(v, "delta"));
	s->calls += !strcmp(type, "response.output_item.added") && !strcmp(json_at(v, "item.type"), "function_call");
	if (!strcmp(type, "response.completed") || !strcmp(type, "response.incomplete") || !strcmp(type, "response.failed")) {
		snprintf(s->finish, sizeof s->finish, "%s", type);
		s->ended = true;
		s->error = !strcmp(type, "response.failed");
		s->prompt = json_int_at(v, "response.usage.input_tokens");
		s->cached = json_int_at(v, "response.usage.input_tokens_details.cached_tokens");
		s->generated = json_int_at(v, "response.usage.output_tokens");
	}
}

static void take_event(struct stream *s, const char *p, size_t n)
{
	struct err err;
	const char *type;
	json_t *v;

	if (n == 6 && !memcmp(p, "[DONE]", 6)) {
		s->ended = true;
		return;
	}
	v = json_parse(p, n, &err);
	if (!v)
		fail_msg("an event that is not JSON: %.*s", (int)n, p);
	s->events++;
	type = json_at(v, "type");
	if (!strncmp(type, "response.", 9))
		take_responses(s, v, type);
	else if (*type)
		take_messages(s, v, type);
	else
		take_chat(s, v);
	json_decref(v);
}

void stream_take(struct stream *s, const struct response *r)
{
	const char *p = buf_cstr(&r->body), *end = p + r->body.len;

	stream_clear(s);
	while (p < end) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));

		stop = stop ? stop : end;
		if (*p == ':')
			s->comments++;
		else if (!strncmp(p, "data: ", 6))
			take_event(s, p + 6, (size_t)(stop - p - 6));
		else if (stop > p && strncmp(p, "event: ", 7) != 0)
			fail_msg("a line that no server-sent event has: %.*s", (int)(stop - p), p);
		p = stop + 1;
	}
}

void stream_clear(struct stream *s)
{
	buf_clear(&s->content);
	buf_clear(&s->reasoning);
	buf_clear(&s->arguments);
	*s = (struct stream){.content = BUF_CAP(BUF_MAX), .reasoning = BUF_CAP(BUF_MAX), .arguments = BUF_CAP(BUF_MAX),
			     .prompt = -1, .cached = -1, .generated = -1};
}

double api_metric(struct api_server *a, const char *name)
{
	struct response r = {.head = BUF_CAP(BUF_MAX), .body = BUF_CAP(BUF_MAX)};
	double value = -1;
	const char *p;

	client_ask(a->port, &r, "GET", "/metrics", NULL, NULL);
	for (p = buf_cstr(&r.body); p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (!strncmp(p, name, strlen(name)) && p[strlen(name)] == ' ')
			value = strtod(p + strlen(name), NULL);
	response_clear(&r);
	return value;
}
