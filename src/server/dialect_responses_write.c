/* dialect_responses_write.c - POST /v1/responses: the answer, as events or as one object.
 *
 *	created, in_progress, { an item: output_item.added, parts and deltas, output_item.done },
 *	completed | incomplete | failed
 *
 * How   One item is open at a time; closing it appends its final JSON to the list that the response object shows, so
 *       that streamed or not the same code makes the items.  emit() is what a stream adds.
 * Careful
 *       - The openai SDK throws at a reasoning_text.delta whose part was not announced by content_part.added.
 *       - With a summary asked for the reasoning streams as summary, and once more as one reasoning_text at the end;
 *         otherwise it streams as reasoning_text.
 *       - A reasoning item closes when the reasoning does: Codex keeps what output_item.done says and sends it back.
 *       - incomplete_details.reason is max_output_tokens, not max_tokens.
 * Source: docs/api.md, section 6. */
#include "server/dialect_responses_int.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "server/api_write_int.h"

enum open_item { OPEN_NONE, OPEN_REASONING, OPEN_MESSAGE, OPEN_CALL };

struct writer {
	struct writer_base b;
	int64_t sequence;
	int64_t n_items;	/* closed */
	struct buf items;	/* their JSON */
	enum open_item open;
	char id[64];		/* of the open item */
	struct buf text;	/* of the open reasoning or message */
	struct buf logprobs;	/* of the open message */
};

enum status_of { IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED };

static const char *const status_names[] = {"in_progress", "completed", "incomplete", "failed"};

struct writer *responses_open(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens)
{
	struct writer *w = mem_zero(sizeof *w);

	if (!w)
		return NULL;
	writer_init(&w->b, "resp_", q, env, prompt_tokens);
	w->items.cap = w->text.cap = w->logprobs.cap = BUF_MAX;
	return w;
}

void responses_close(struct writer *w)
{
	if (!w)
		return;
	said_clear(&w->b.said);
	buf_clear(&w->items);
	buf_clear(&w->text);
	buf_clear(&w->logprobs);
	mem_free(w);
}

/* --- the response object --- */

/* A field of the request as it was, or a default in JSON. */
static void echo(const struct writer *w, const char *key, const char *otherwise, struct buf *out)
{
	const json_t *v = json_object_get(w->b.q->body, key);

	if (v && !json_is_null(v))
		js_json(out, key, v);
	else
		js_raw(out, key, otherwise, strlen(otherwise));
}

static void echo_inside(const struct writer *w, const char *object, const char *key, struct buf *out)
{
	const json_t *v = json_object_get(json_object_get(w->b.q->body, object), key);

	js_json(out, key, v);
}

static void js_usage(const struct writer *w, struct buf *out)
{
	const struct turn_usage *u = &w->b.usage;

	js_open(out, "usage", '{');
	js_int(out, "input_tokens", u->prompt);
	js_open(out, "input_tokens_details", '{');
	js_int(out, "cached_tokens", u->cached);
	js_int(out, "cache_write_tokens", (int64_t)u->prompt - u->cached);
	js_close(out, '}');
	js_int(out, "output_tokens", u->generated);
	js_open(out, "output_tokens_details", '{');
	js_int(out, "reasoning_tokens", u->reasoning);
	js_close(out, '}');
	js_int(out, "total_tokens", (int64_t)u->prompt + u->generated);
	js_close(out, '}');
}

static void js_error(const struct api_error *e, struct buf *out)
{
	if (!e) {
		js_null(out, "error");
		return;
	}
	js_open(out, "error", '{');
	js_str(out, "code", e->code ? e->code : "server_error");
	js_str(out, "message", e->message);
	js_close(out, '}');
}

static void js_text_config(const struct writer *w, struct buf *out)
{
	const json_t *text = json_object_get(w->b.q->body, "text");

	if (json_is_object(json_object_get(text, "format"))) {
		js_json(out, "text", text);
		return;
	}
	js_open(out, "text", '{');
	js_raw(out, "format", "{\"type\":\"text\"}", 15);
	js_close(out, '}');
}

static void js_response(const struct writer *w, const char *key, enum status_of status, const struct api_error *e,
			struct buf *out)
{
	js_open(out, key, '{');
	js_str(out, "id", w->b.id);
	js_str(out, "object", "response");
	js_int(out, "created_at", w->b.created);
	js_str(out, "status", status_names[status]);
	js_bool(out, "background", false);
	js_error(e, out);
	if (status == INCOMPLETE)
		js_raw(out, "incomplete_details", "{\"reason\":\"max_output_tokens\"}", 30);
	else
		js_null(out, "incomplete_details");
	echo(w, "instructions", "null", out);
	echo(w, "max_output_tokens", "null", out);
	echo(w, "max_tool_calls", "null", out);
	js_str(out, "model", w->b.q->model);
	js_open(out, "output", '[');
	buf_add(out, buf_cstr(&w->items), w->items.len);
	js_close(out, ']');
	js_bool(out, "parallel_tool_calls", !w->b.q->turn.one_call);
	js_null(out, "previous_response_id");
	echo(w, "prompt_cache_key", "null", out);
	js_open(out, "reasoning", '{');
	echo_inside(w, "reasoning", "effort", out);
	echo_inside(w, "reasoning", "summary", out);
	js_close(out, '}');
	echo(w, "safety_identifier", "null", out);
	js_str(out, "service_tier", "default");
	js_bool(out, "store", false);
	echo(w, "temperature", "1", out);
	js_text_config(w, out);
	echo(w, "tool_choice", "\"auto\"", out);
	echo(w, "tools", "[]", out);
	js_int(out, "top_logprobs", w->b.q->turn.top_logprobs < 0 ? 0 : w->b.q->turn.top_logprobs);
	echo(w, "top_p", "1", out);
	js_str(out, "truncation", "disabled");
	if (status == IN_PROGRESS || status == FAILED)
		js_null(out, "usage");
	else
		js_usage(w, out);
	echo(w, "user", "null", out);
	echo(w, "metadata", "{}", out);
	js_close(out, '}');
}

/* --- events --- */

static bool emit(struct writer *w, const char *type, struct buf *out)
{
	if (!w->b.q->stream)
		return false;
	sse_begin(out, type);
	js_open(out, NULL, '{');
	js_str(out, "type", type);
	js_int(out, "sequence_number", w->sequence++);
	return true;
}

static void emit_end(struct buf *out)
{
	js_close(out, '}');
	sse_end(out);
}

static void emit_response(struct writer *w, const char *type, enum status_of status, const struct api_error *e,
			  struct buf *out)
{
	if (!emit(w, type, out))
		return;
	js_response(w, "response", status, e, out);
	emit_end(out);
}

/* The members of an event about a part of the open item: part_key is content_index or summary_index, or NULL. */
static bool emit_part(struct writer *w, const char *type, const char *part_key, struct buf *out)
{
	if (!emit(w, type, out))
		return false;
	js_str(out, "item_id", w->id);
	js_int(out, "output_index", w->n_items);
	if (part_key)
		js_int(out, part_key, 0);
	return true;
}

static void emit_text(struct writer *w, const char *type, const char *part_key, const char *key, const char *p,
		      size_t n, struct buf *out)
{
	if (!emit_part(w, type, part_key, out))
		return;
	js_text(out, key, p, n);
	emit_end(out);
}

/* --- items --- */

static void js_text_part(struct buf *out, const char *key, const char *type, const char *p, size_t n)
{
	js_open(out, key, '{');
	js_str(out, "type", type);
	js_text(out, "text", p, n);
	js_close(out, '}');
}

/* logprobs: items, or NULL. */
static void js_output_text(struct buf *out, const char *key, const char *p, size_t n, const struct buf *logprobs)
{
	js_open(out, key, '{');
	js_str(out, "type", "output_text");
	js_text(out, "text", p, n);
	js_raw(out, "annotations", "[]", 2);
	js_open(out, "logprobs", '[');
	if (logprobs)
		buf_add(out, buf_cstr(logprobs), logprobs->len);
	js_close(out, ']');
	js_close(out, '}');
}

static const struct said_call *last_call(const struct writer *w)
{
	return &w->b.said.call[w->b.said.n - 1];
}

static void js_reasoning(const struct writer *w, enum status_of status, struct buf *out)
{
	bool done = status != IN_PROGRESS;

	js_str(out, "type", "reasoning");
	js_open(out, "summary", '[');
	if (done && w->b.q->summary)
		js_text_part(out, NULL, "summary_text", w->text.data, w->text.len);
	js_close(out, ']');
	js_open(out, "content", '[');
	if (done)
		js_text_part(out, NULL, "reasoning_text", w->text.data, w->text.len);
	js_close(out, ']');
	if (w->b.q->encrypted)
		js_str(out, "encrypted_content", done && w->b.carrier[0] ? w->b.carrier : NULL);
	js_str(out, "status", status_names[status]);
}

static void js_message(const struct writer *w, enum status_of status, struct buf *out)
{
	js_str(out, "type", "message");
	js_str(out, "status", status_names[status]);
	js_str(out, "role", "assistant");
	js_open(out, "content", '[');
	if (status != IN_PROGRESS)
		js_output_text(out, NULL, w->text.data, w->text.len, &w->logprobs);
	js_close(out, ']');
}

static void js_call(const struct writer *w, enum status_of status, struct buf *out)
{
	const struct said_call *c = last_call(w);
	bool custom = call_is(c, API_TOOL_CUSTOM), search = call_is(c, API_TOOL_SEARCH), done = status != IN_PROGRESS;

	js_str(out, "type", custom ? "custom_tool_call" : search ? "tool_search_call" : "function_call");
	js_str(out, "status", status_names[status]);
	js_str(out, "call_id", c->id);
	if (search) {
		js_str(out, "execution", "client");
		js_arguments(out, "arguments", c);
		return;
	}
	js_str(out, "name", call_name(c));
	if (c->tool && c->tool->space)
		js_str(out, "namespace", c->tool->space);
	if (custom)
		js_text(out, "input", c->input.data, done ? c->input.len : 0);
	else
		js_text(out, "arguments", c->arguments.data, done ? c->arguments.len : 0);
}

static void js_item(const struct writer *w, const char *key, enum status_of status, struct buf *out)
{
	js_open(out, key, '{');
	js_str(out, "id", w->id);
	if (w->open == OPEN_REASONING)
		js_reasoning(w, status, out);
	else if (w->open == OPEN_MESSAGE)
		js_message(w, status, out);
	else
		js_call(w, status, out);
	js_close(out, '}');
}

static void emit_item(struct writer *w, const char *type, enum status_of status, struct buf *out)
{
	if (!emit(w, type, out))
		return;
	js_int(out, "output_index", w->n_items);
	js_item(w, "item", status, out);
	emit_end(out);
}

/* The frame around reasoning_text, which SDKs need. */
static void emit_reasoning_part(struct writer *w, const char *type, const char *p, size_t n, struct buf *out)
{
	if (!emit_part(w, type, "content_index", out))
		return;
	js_text_part(out, "part", "reasoning_text", p, n);
	emit_end(out);
}

static void emit_summary_part(struct writer *w, const char *type, const char *p, size_t n, struct buf *out)
{
	if (!emit_part(w, type, "summary_index", out))
		return;
	js_text_part(out, "part", "summary_text", p, n);
	emit_end(out);
}

static void open_item(struct writer *w, enum open_item kind, struct buf *out)
{
	const char *prefix = kind == OPEN_REASONING			   ? "rs_"
			     : kind == OPEN_MESSAGE			   ? "msg_"
			     : call_is(last_call(w), API_TOOL_CUSTOM) ? "ctc_"
			     : call_is(last_call(w), API_TOOL_SEARCH) ? "tsc_"
									   : "fc_";
	size_t n = strlen(prefix);

	w->open = kind;
	memcpy(w->id, prefix, n);
	api_random_hex(w->id + n, 24);
	buf_cut(&w->text, 0);
	buf_cut(&w->logprobs, 0);
	emit_item(w, "response.output_item.added", IN_PROGRESS, out);
	if (kind == OPEN_REASONING && w->b.q->summary)
		emit_summary_part(w, "response.reasoning_summary_part.added", "", 0, out);
	else if (kind == OPEN_REASONING)
		emit_reasoning_part(w, "response.content_part.added", "", 0, out);
	if (kind == OPEN_MESSAGE && emit_part(w, "response.content_part.added", "content_index", out)) {
		js_output_text(out, "part", "", 0, NULL);
		emit_end(out);
	}
}

static void close_reasoning(struct writer *w, struct buf *out)
{
	const char *p = buf_cstr(&w->text);
	size_t n = w->text.len;

	if (w->b.q->summary) {
		emit_text(w, "response.reasoning_summary_text.done", "summary_index", "text", p, n, out);
		emit_summary_part(w, "response.reasoning_summary_part.done", p, n, out);
		emit_reasoning_part(w, "response.content_part.added", "", 0, out);
		emit_text(w, "response.reasoning_text.delta", "content_index", "delta", p, n, out);
	}
	emit_text(w, "response.reasoning_text.done", "content_index", "text", p, n, out);
	emit_reasoning_part(w, "response.content_part.done", p, n, out);
}

static void close_message(struct writer *w, struct buf *out)
{
	if (emit_part(w, "response.output_text.done", "content_index", out)) {
		js_text(out, "text", w->text.data, w->text.len);
		js_open(out, "logprobs", '[');
		buf_add(out, buf_cstr(&w->logprobs), w->logprobs.len);
		js_close(out, ']');
		emit_end(out);
	}
	if (emit_part(w, "response.content_part.done", "content_index", out)) {
		js_output_text(out, "part", w->text.data, w->text.len, &w->logprobs);
		emit_end(out);
	}
}

/* New text of a custom tool's call. */
static void emit_input(struct writer *w, bool end, struct buf *out)
{
	struct said_call *c = &w->b.said.call[w->b.said.n - 1];
	size_t had = c->input.len;

	call_read_input(c, end);
	out->failed |= !buf_ok(&c->input);
	if (c->input.len > had)
		emit_text(w, "response.custom_tool_call_input.delta", NULL, "delta", c->input.data + had,
			  c->input.len - had, out);
}

static void close_call(struct writer *w, struct buf *out)
{
	const struct said_call *c = last_call(w);

	if (call_is(c, API_TOOL_CUSTOM)) {
		emit_input(w, true, out);
		c = last_call(w);
		emit_text(w, "response.custom_tool_call_input.done", NULL, "input", c->input.data, c->input.len, out);
	} else if (call_is(c, API_TOOL_FUNCTION) &&
		   emit_part(w, "response.function_call_arguments.done", NULL, out)) {
		js_str(out, "name", call_name(c));
		js_text(out, "arguments", c->arguments.data, c->arguments.len);
		emit_end(out);
	}
}

static void close_item(struct writer *w, enum status_of status, struct buf *out)
{
	if (w->open == OPEN_NONE)
		return;
	if (w->open == OPEN_REASONING)
		close_reasoning(w, out);
	else if (w->open == OPEN_MESSAGE)
		close_message(w, out);
	else
		close_call(w, out);
	emit_item(w, "response.output_item.done", status, out);
	js_item(w, NULL, status, &w->items);
	w->n_items++;
	w->open = OPEN_NONE;
	out->failed |= !buf_ok(&w->items) || !buf_ok(&w->text) || !buf_ok(&w->logprobs);
}

/* --- turn events --- */

static void begin(struct writer *w, struct buf *out)
{
	if (w->b.begun)
		return;
	w->b.begun = true;
	emit_response(w, "response.created", IN_PROGRESS, NULL, out);
	emit_response(w, "response.in_progress", IN_PROGRESS, NULL, out);
}

static void take_text(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	enum open_item kind = ev->kind == TURN_CONTENT ? OPEN_MESSAGE : OPEN_REASONING;
	bool summary = w->b.q->summary, shown = w->b.q->logprobs && ev->logprob && kind == OPEN_MESSAGE;

	if (!ev->n && !(shown && ev->n_logprob))
		return;
	if (w->open != kind) {
		close_item(w, COMPLETED, out);
		open_item(w, kind, out);
	}
	buf_add(&w->text, ev->text, ev->n);
	if (shown)
		js_logprobs(&w->logprobs, w->b.env->tokenizer, ev->logprob, ev->n_logprob);
	if (kind == OPEN_REASONING) {
		emit_text(w, summary ? "response.reasoning_summary_text.delta" : "response.reasoning_text.delta",
			  summary ? "summary_index" : "content_index", "delta", ev->text, ev->n, out);
	} else if (emit_part(w, "response.output_text.delta", "content_index", out)) {
		js_text(out, "delta", ev->text, ev->n);
		js_open(out, "logprobs", '[');
		if (shown)
			js_logprobs(out, w->b.env->tokenizer, ev->logprob, ev->n_logprob);
		js_close(out, ']');
		emit_end(out);
	}
}

static void take_arguments(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	if (w->open != OPEN_CALL || !ev->n)
		return;
	if (call_is(last_call(w), API_TOOL_CUSTOM))
		emit_input(w, false, out);
	else if (call_is(last_call(w), API_TOOL_FUNCTION))
		emit_text(w, "response.function_call_arguments.delta", NULL, "delta", ev->text, ev->n, out);
}

void responses_fail(struct writer *w, const struct api_error *e, struct buf *out)
{
	if (w->b.ended)
		return;
	begin(w, out);
	w->b.ended = true;
	emit_response(w, "response.failed", FAILED, e, out);
}

static void finish(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	enum status_of status = finish_is_cut(ev->finish) ? INCOMPLETE : COMPLETED;
	struct api_error e;

	if (ev->finish == TURN_ERROR) {
		api_error_from(&e, &dialect_responses, ev->err);
		if (w->b.q->stream)
			responses_fail(w, &e, out);
		w->b.ended = true;
		return;
	}
	close_item(w, status, out);
	w->b.ended = true;
	if (w->b.q->stream) {
		emit_response(w, status == COMPLETED ? "response.completed" : "response.incomplete", status, NULL, out);
		return;
	}
	js_response(w, NULL, status, NULL, out);
	buf_byte(out, '\n');
}

void responses_event(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	if (!writer_note(&w->b, ev))
		return;
	begin(w, out);
	if (ev->kind == TURN_CALL_BEGIN)
		close_item(w, COMPLETED, out);
	said_take(&w->b.said, ev, w->b.q, w->b.env->tokenizer, false);
	out->failed |= w->b.said.failed;
	if (w->b.said.failed)
		return;
	switch (ev->kind) {
	case TURN_REASONING:
	case TURN_CONTENT:
		take_text(w, ev, out);
		break;
	case TURN_CALL_BEGIN:
		open_item(w, OPEN_CALL, out);
		break;
	case TURN_CALL_ARGUMENTS:
		take_arguments(w, ev, out);
		break;
	case TURN_CALL_END:
		close_item(w, COMPLETED, out);
		break;
	case TURN_FINISH:
		finish(w, ev, out);
		break;
	default:
		break;
	}
}
