/* dialect_chat_write.c - POST /v1/chat/completions: the answer, as chunks or as one object.
 *
 *	role chunk, { reasoning_content }, { content }, { tool_calls }, finish_reason, [usage], [DONE]
 *
 * Careful
 *       - finish_reason is never "error": pi aborts with it, and OpenAI's types do not have it.  A failure is an error
 *         object, after which the stream ends.
 *       - With include_usage every chunk but the last has usage null. */
#include "server/dialect_chat_int.h"

#include "base/mem.h"

struct writer {
	struct writer_base b;
};

struct writer *chat_open(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens)
{
	struct writer *w = mem_zero(sizeof *w);

	if (w)
		writer_init(&w->b, "chatcmpl-", q, env, prompt_tokens);
	return w;
}

void chat_close(struct writer *w)
{
	if (!w)
		return;
	said_clear(&w->b.said);
	mem_free(w);
}

const char *openai_finish(enum turn_finish f)
{
	if (f == TURN_TOOL_CALLS)
		return "tool_calls";
	return finish_is_cut(f) ? "length" : "stop";
}

void openai_stream_error(const struct api_error *e, struct buf *out)
{
	sse_begin(out, "error");
	error_object_openai(e, out);
	sse_end(out);
}

/* Everything before choices. */
static void head(const struct writer *w, const char *object, struct buf *out)
{
	js_open(out, NULL, '{');
	js_str(out, "id", w->b.id);
	js_str(out, "object", object);
	js_int(out, "created", w->b.created);
	js_str(out, "model", w->b.q->model);
	js_str(out, "system_fingerprint", w->b.env->fingerprint);
}

/* --- stream --- */

/* A chunk up to the members of its delta. */
static void chunk_begin(const struct writer *w, struct buf *out)
{
	sse_begin(out, NULL);
	head(w, "chat.completion.chunk", out);
	js_open(out, "choices", '[');
	js_open(out, NULL, '{');
	js_int(out, "index", 0);
	js_open(out, "delta", '{');
}

static void chunk_end(const struct writer *w, const char *finish, struct buf *out)
{
	js_str(out, "finish_reason", finish);
	js_close(out, '}');
	js_close(out, ']');
	if (w->b.q->include_usage)
		js_null(out, "usage");
	js_close(out, '}');
	sse_end(out);
}

static void chunk_close(const struct writer *w, struct buf *out)
{
	js_close(out, '}');
	chunk_end(w, NULL, out);
}

static void begin(struct writer *w, struct buf *out)
{
	if (w->b.begun)
		return;
	w->b.begun = true;
	chunk_begin(w, out);
	js_str(out, "role", "assistant");
	chunk_close(w, out);
}

/* A text with the log-probabilities of its tokens, if asked for. */
static void stream_text(const struct writer *w, const struct turn_event *ev, struct buf *out)
{
	const char *key = ev->kind == TURN_CONTENT ? "content" : "reasoning_content";

	if (!ev->n && !ev->n_logprob)
		return;
	chunk_begin(w, out);
	js_text(out, key, ev->text, ev->n);
	js_close(out, '}');
	if (w->b.q->logprobs) {
		js_open(out, "logprobs", '{');
		if (ev->kind == TURN_REASONING)
			js_null(out, "content");
		js_open(out, key, '[');
		js_logprobs(out, w->b.env->tokenizer, ev->logprob, ev->n_logprob);
		js_close(out, ']');
		js_null(out, "refusal");
		js_close(out, '}');
	}
	chunk_end(w, NULL, out);
}

static void call_chunk_begin(const struct writer *w, struct buf *out)
{
	chunk_begin(w, out);
	js_open(out, "tool_calls", '[');
	js_open(out, NULL, '{');
	js_int(out, "index", (int64_t)w->b.said.n - 1);
}

static void call_chunk_end(const struct writer *w, struct buf *out)
{
	js_close(out, '}');
	js_close(out, ']');
	chunk_close(w, out);
}

static void stream_call_begin(const struct writer *w, const struct said_call *c, struct buf *out)
{
	bool custom = call_is(c, API_TOOL_CUSTOM);

	call_chunk_begin(w, out);
	js_str(out, "id", c->id);
	js_str(out, "type", custom ? "custom" : "function");
	js_open(out, custom ? "custom" : "function", '{');
	js_str(out, "name", call_name(c));
	js_str(out, custom ? "input" : "arguments", "");
	js_close(out, '}');
	call_chunk_end(w, out);
}

static void stream_fragment(const struct writer *w, const struct said_call *c, const char *p, size_t n, struct buf *out)
{
	bool custom = call_is(c, API_TOOL_CUSTOM);

	if (!n)
		return;
	call_chunk_begin(w, out);
	js_open(out, custom ? "custom" : "function", '{');
	js_text(out, custom ? "input" : "arguments", p, n);
	js_close(out, '}');
	call_chunk_end(w, out);
}

static void stream_arguments(struct writer *w, const struct turn_event *ev, bool end, struct buf *out)
{
	struct said_call *c = w->b.said.n ? &w->b.said.call[w->b.said.n - 1] : NULL;
	size_t had;

	if (!c)
		return;
	if (!call_is(c, API_TOOL_CUSTOM)) {
		stream_fragment(w, c, ev->text, end ? 0 : ev->n, out);
		return;
	}
	had = c->input.len;
	call_read_input(c, end);
	out->failed |= !buf_ok(&c->input);
	stream_fragment(w, c, buf_cstr(&c->input) + had, c->input.len - had, out);
}

static void stream_finish(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	if (w->b.said.n && !w->b.said.call[w->b.said.n - 1].complete)
		stream_arguments(w, ev, true, out);
	chunk_begin(w, out);
	js_close(out, '}');
	chunk_end(w, openai_finish(ev->finish), out);
	if (w->b.q->include_usage) {
		sse_begin(out, NULL);
		head(w, "chat.completion.chunk", out);
		js_open(out, "choices", '[');
		js_close(out, ']');
		js_usage_openai(out, "usage", &w->b.usage);
		js_close(out, '}');
		sse_end(out);
	}
	buf_str(out, "data: [DONE]\n\n");
}

void chat_failed(struct writer *w, const struct api_error *e, struct buf *out)
{
	if (w->b.ended)
		return;
	w->b.ended = true;
	openai_stream_error(e, out);
}

static void stream_event(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	struct api_error e;

	begin(w, out);
	switch (ev->kind) {
	case TURN_REASONING:
	case TURN_CONTENT:
		stream_text(w, ev, out);
		break;
	case TURN_CALL_BEGIN:
		if (w->b.said.n)
			stream_call_begin(w, &w->b.said.call[w->b.said.n - 1], out);
		break;
	case TURN_CALL_ARGUMENTS:
	case TURN_CALL_END:
		stream_arguments(w, ev, ev->kind == TURN_CALL_END, out);
		break;
	case TURN_FINISH:
		if (ev->finish == TURN_ERROR) {
			api_error_from(&e, &dialect_chat, ev->err);
			chat_failed(w, &e, out);
			break;
		}
		stream_finish(w, ev, out);
		w->b.ended = true;
		break;
	default:
		break;
	}
}

/* --- one object --- */

static void whole_call(struct said_call *c, struct buf *out)
{
	bool custom = call_is(c, API_TOOL_CUSTOM);

	js_open(out, NULL, '{');
	js_str(out, "id", c->id);
	js_str(out, "type", custom ? "custom" : "function");
	js_open(out, custom ? "custom" : "function", '{');
	js_str(out, "name", call_name(c));
	if (custom) {
		call_read_input(c, true);
		out->failed |= !buf_ok(&c->input);
		js_text(out, "input", c->input.data, c->input.len);
	} else {
		js_text(out, "arguments", c->arguments.data, c->arguments.len);
	}
	js_close(out, '}');
	js_close(out, '}');
}

static void whole_message(struct writer *w, struct buf *out)
{
	struct said *s = &w->b.said;

	js_open(out, "message", '{');
	js_str(out, "role", "assistant");
	if (s->content.len || !s->n)
		js_text(out, "content", s->content.data, s->content.len);
	else
		js_null(out, "content");
	js_null(out, "refusal");
	if (s->reasoning.len)
		js_text(out, "reasoning_content", s->reasoning.data, s->reasoning.len);
	if (s->n) {
		js_open(out, "tool_calls", '[');
		for (size_t i = 0; i < s->n; i++)
			whole_call(&s->call[i], out);
		js_close(out, ']');
	}
	js_close(out, '}');
}

static void whole_logprobs(const struct writer *w, struct buf *out)
{
	const struct said *s = &w->b.said;

	if (!w->b.q->logprobs) {
		js_null(out, "logprobs");
		return;
	}
	js_open(out, "logprobs", '{');
	js_open(out, "content", '[');
	buf_add(out, buf_cstr(&s->logprobs), s->logprobs.len);
	js_close(out, ']');
	if (s->reasoning_logprobs.len) {
		js_open(out, "reasoning_content", '[');
		buf_add(out, s->reasoning_logprobs.data, s->reasoning_logprobs.len);
		js_close(out, ']');
	}
	js_null(out, "refusal");
	js_close(out, '}');
}

static void whole_finish(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	w->b.ended = true;
	if (ev->finish == TURN_ERROR)
		return;
	head(w, "chat.completion", out);
	js_open(out, "choices", '[');
	js_open(out, NULL, '{');
	js_int(out, "index", 0);
	whole_message(w, out);
	whole_logprobs(w, out);
	js_str(out, "finish_reason", openai_finish(ev->finish));
	js_close(out, '}');
	js_close(out, ']');
	js_usage_openai(out, "usage", &w->b.usage);
	js_close(out, '}');
	buf_byte(out, '\n');
}

void chat_event(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	if (!writer_note(&w->b, ev))
		return;
	said_take(&w->b.said, ev, w->b.q, w->b.env->tokenizer, !w->b.q->stream);
	out->failed |= w->b.said.failed;
	if (w->b.q->stream)
		stream_event(w, ev, out);
	else if (ev->kind == TURN_FINISH)
		whole_finish(w, ev, out);
}
