/* dialect_messages_write.c - POST /v1/messages: the answer, as events or as one object.
 *
 *	message_start, ping, { content_block_start, { content_block_delta }, content_block_stop }, message_delta,
 *	message_stop
 *
 * Careful
 *       - Never two open blocks: the signature of the thinking goes out just before its block closes, when text or a
 *         call begins.
 *       - A turn of thinking alone makes Claude Code answer "(no content)": an empty text block follows it.
 *       - usage: what a cache_control breakpoint covers and was read now counts as written to the cache.
 * Source: docs/api.md, section 7. */
#include "server/dialect_messages_int.h"

#include <string.h>

#include "base/mem.h"
#include "server/api_write_int.h"

enum block { BLOCK_NONE, BLOCK_THINKING, BLOCK_TEXT, BLOCK_TOOL };

struct writer {
	struct writer_base b;
	enum block open;
	int n_blocks;		/* begun */
	bool visible;		/* a block other than thinking was begun */
};

struct writer *messages_open(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens)
{
	struct writer *w = mem_zero(sizeof *w);

	if (w)
		writer_init(&w->b, "msg_", q, env, prompt_tokens);
	return w;
}

void messages_close(struct writer *w)
{
	if (!w)
		return;
	said_clear(&w->b.said);
	mem_free(w);
}

/* The turn's name for exact replay; without one, something that is not empty. */
static const char *signature(const struct writer *w)
{
	return w->b.carrier[0] ? w->b.carrier : w->b.id;
}

static const char *stop_reason(enum turn_finish f)
{
	if (f == TURN_STOP_STRING)
		return "stop_sequence";
	if (f == TURN_TOOL_CALLS)
		return "tool_use";
	return finish_is_cut(f) ? "max_tokens" : "end_turn";
}

static void js_stop(const struct writer *w, const struct turn_event *ev, struct buf *out)
{
	const struct turn_request *t = &w->b.q->turn;

	js_str(out, "stop_reason", stop_reason(ev->finish));
	if (ev->finish == TURN_STOP_STRING && ev->stop >= 0 && ev->stop < t->n_stop)
		js_text(out, "stop_sequence", t->stop[ev->stop].p, t->stop[ev->stop].n);
	else
		js_null(out, "stop_sequence");
}

static void js_usage(const struct writer *w, struct buf *out)
{
	const struct turn_usage *u = &w->b.usage;
	int32_t covered = w->b.q->cache_written < u->prompt ? w->b.q->cache_written : u->prompt;
	int32_t written = covered > u->cached ? covered - u->cached : 0;

	js_open(out, "usage", '{');
	js_int(out, "input_tokens", (int64_t)u->prompt - u->cached - written);
	js_int(out, "cache_creation_input_tokens", written);
	js_int(out, "cache_read_input_tokens", u->cached);
	js_int(out, "output_tokens", u->generated);
	js_close(out, '}');
}

/* The members of a message before its content. */
static void head(const struct writer *w, struct buf *out)
{
	js_str(out, "id", w->b.id);
	js_str(out, "type", "message");
	js_str(out, "role", "assistant");
	js_str(out, "model", w->b.q->model);
}

/* --- stream --- */

static void event_begin(const char *type, struct buf *out)
{
	sse_begin(out, type);
	js_open(out, NULL, '{');
	js_str(out, "type", type);
}

static void event_end(struct buf *out)
{
	js_close(out, '}');
	sse_end(out);
}

static void begin(struct writer *w, struct buf *out)
{
	if (w->b.begun)
		return;
	w->b.begun = true;
	event_begin("message_start", out);
	js_open(out, "message", '{');
	head(w, out);
	js_open(out, "content", '[');
	js_close(out, ']');
	js_null(out, "stop_reason");
	js_null(out, "stop_sequence");
	js_usage(w, out);
	js_close(out, '}');
	event_end(out);
	event_begin("ping", out);
	event_end(out);
}

static void delta(const struct writer *w, const char *type, const char *key, const char *p, size_t n, struct buf *out)
{
	event_begin("content_block_delta", out);
	js_int(out, "index", w->n_blocks - 1);
	js_open(out, "delta", '{');
	js_str(out, "type", type);
	js_text(out, key, p, n);
	js_close(out, '}');
	event_end(out);
}

static void close_block(struct writer *w, struct buf *out)
{
	const char *s = signature(w);

	if (w->open == BLOCK_NONE)
		return;
	if (w->open == BLOCK_THINKING)
		delta(w, "signature_delta", "signature", s, strlen(s), out);
	event_begin("content_block_stop", out);
	js_int(out, "index", w->n_blocks - 1);
	event_end(out);
	w->open = BLOCK_NONE;
}

static void block_begin(struct writer *w, enum block kind, const char *type, struct buf *out)
{
	close_block(w, out);
	w->open = kind;
	w->visible |= kind != BLOCK_THINKING;
	event_begin("content_block_start", out);
	js_int(out, "index", w->n_blocks++);
	js_open(out, "content_block", '{');
	js_str(out, "type", type);
}

static void block_end(struct buf *out)
{
	js_close(out, '}');
	event_end(out);
}

static void open_text(struct writer *w, enum block kind, struct buf *out)
{
	if (w->open == kind)
		return;
	block_begin(w, kind, kind == BLOCK_TEXT ? "text" : "thinking", out);
	js_str(out, kind == BLOCK_TEXT ? "text" : "thinking", "");
	if (kind == BLOCK_THINKING)
		js_str(out, "signature", "");
	block_end(out);
}

static void stream_text(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	bool text = ev->kind == TURN_CONTENT;

	if (!ev->n)
		return;
	open_text(w, text ? BLOCK_TEXT : BLOCK_THINKING, out);
	delta(w, text ? "text_delta" : "thinking_delta", text ? "text" : "thinking", ev->text, ev->n, out);
}

static void stream_call(struct writer *w, struct buf *out)
{
	const struct said_call *c = w->b.said.n ? &w->b.said.call[w->b.said.n - 1] : NULL;

	if (!c)
		return;
	block_begin(w, BLOCK_TOOL, "tool_use", out);
	js_str(out, "id", c->id);
	js_str(out, "name", call_name(c));
	js_raw(out, "input", "{}", 2);
	block_end(out);
}

static void stream_finish(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	if (!w->visible)
		open_text(w, BLOCK_TEXT, out);
	close_block(w, out);
	event_begin("message_delta", out);
	js_open(out, "delta", '{');
	js_stop(w, ev, out);
	js_close(out, '}');
	js_usage(w, out);
	event_end(out);
	event_begin("message_stop", out);
	event_end(out);
}

void messages_fail(struct writer *w, const struct api_error *e, struct buf *out)
{
	if (w->b.ended)
		return;
	w->b.ended = true;
	sse_begin(out, "error");
	error_object_anthropic(e, NULL, out);
	sse_end(out);
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
		stream_call(w, out);
		break;
	case TURN_CALL_ARGUMENTS:
		if (w->open == BLOCK_TOOL && ev->n)
			delta(w, "input_json_delta", "partial_json", ev->text, ev->n, out);
		break;
	case TURN_CALL_END:
		close_block(w, out);
		break;
	case TURN_FINISH:
		if (ev->finish == TURN_ERROR) {
			api_error_from(&e, &dialect_messages, ev->err);
			messages_fail(w, &e, out);
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

static void whole_content(const struct writer *w, struct buf *out)
{
	const struct said *s = &w->b.said;

	js_open(out, "content", '[');
	if (s->reasoning.len) {
		js_open(out, NULL, '{');
		js_str(out, "type", "thinking");
		js_text(out, "thinking", s->reasoning.data, s->reasoning.len);
		js_str(out, "signature", signature(w));
		js_close(out, '}');
	}
	if (s->content.len || !s->n) {
		js_open(out, NULL, '{');
		js_str(out, "type", "text");
		js_text(out, "text", s->content.data, s->content.len);
		js_close(out, '}');
	}
	for (size_t i = 0; i < s->n; i++) {
		js_open(out, NULL, '{');
		js_str(out, "type", "tool_use");
		js_str(out, "id", s->call[i].id);
		js_str(out, "name", call_name(&s->call[i]));
		js_arguments(out, "input", &s->call[i]);
		js_close(out, '}');
	}
	js_close(out, ']');
}

static void whole_finish(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	w->b.ended = true;
	if (ev->finish == TURN_ERROR)
		return;
	js_open(out, NULL, '{');
	head(w, out);
	whole_content(w, out);
	js_stop(w, ev, out);
	js_usage(w, out);
	js_close(out, '}');
	buf_byte(out, '\n');
}

void messages_event(struct writer *w, const struct turn_event *ev, struct buf *out)
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
