/* dialect_completions_write.c - POST /v1/completions: the answer, as chunks or as one object.
 *
 * What  One text.  With echo the prompt stands before it; with logprobs four parallel lists tell of its tokens.
 * Careful
 *       - Prompt tokens have log-probabilities only where READ events brought some, and the first never has any: null.
 *       - text_offset counts characters, not bytes.
 *       - Wrapped in a chat, reasoning is part of the text, as old clients of ds4 expect: reasoning</think>content.
 * Source: docs/api.md, section 5. */
#include "server/dialect_completions_int.h"

#include <string.h>

#include "base/mem.h"
#include "server/api_write_int.h"
#include "server/dialect_chat_int.h"

struct lists {	/* items of the four lists of a logprobs object */
	struct buf tokens, values, top, offsets;
	int64_t at;	/* characters before the next token */
};

struct writer {
	struct writer_base b;
	struct lists lists;
	struct turn_logprob *prompt;	/* [n_prompt] of the second prompt token and those after it */
	size_t n_prompt, room;
	struct buf text;		/* of an answer that is not streamed */
	bool reasoned, closed;		/* reasoning was said; </think> was, too */
};

struct writer *completions_open(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens)
{
	struct writer *w = mem_zero(sizeof *w);

	if (!w)
		return NULL;
	writer_init(&w->b, "cmpl-", q, env, prompt_tokens);
	w->text.cap = w->lists.tokens.cap = w->lists.values.cap = w->lists.top.cap = w->lists.offsets.cap = BUF_MAX;
	return w;
}

static void lists_cut(struct lists *l)
{
	buf_cut(&l->tokens, 0);
	buf_cut(&l->values, 0);
	buf_cut(&l->top, 0);
	buf_cut(&l->offsets, 0);
}

void completions_close(struct writer *w)
{
	if (!w)
		return;
	buf_clear(&w->lists.tokens);
	buf_clear(&w->lists.values);
	buf_clear(&w->lists.top);
	buf_clear(&w->lists.offsets);
	buf_clear(&w->text);
	mem_free(w->prompt);
	mem_free(w);
}

/* --- log-probabilities --- */

/* {"token": value} of the alternatives, and of the token itself when it is not among them.  Of tokens that look the
 * same the best one stands. */
static void add_top(struct lists *l, const struct tokenizer *t, const struct turn_logprob *p)
{
	struct buf names[21];
	int n = 0;

	js_open(&l->top, NULL, '{');
	for (int i = 0; i <= p->n_top && i <= 20; i++) {
		bool own = i == p->n_top || i == 20, known = false;
		struct buf *name = &names[n];

		*name = (struct buf)BUF_CAP(BUF_MAX);
		token_shown(t, own ? p->token : p->top[i].token, name);
		l->top.failed |= !buf_ok(name);
		for (int k = 0; k < n; k++)
			known |= strcmp(buf_cstr(&names[k]), buf_cstr(name)) == 0;
		if (known) {
			buf_clear(name);
			continue;
		}
		js_real(&l->top, buf_cstr(name), shown_logprob(own ? p->logprob : p->top[i].logprob));
		n++;
	}
	js_close(&l->top, '}');
	while (n > 0)
		buf_clear(&names[--n]);
}

/* One token of the text; p NULL: nothing is known of its probability. */
static void add_token(struct lists *l, const struct tokenizer *t, int32_t id, const struct turn_logprob *p)
{
	struct buf shown = BUF_CAP(BUF_MAX);
	size_t n;
	const char *bytes = token_bytes(t, id, &n);

	token_shown(t, id, &shown);
	js_text(&l->tokens, NULL, shown.data, shown.len);
	js_int(&l->offsets, NULL, l->at);
	if (p) {
		js_real(&l->values, NULL, shown_logprob(p->logprob));
		add_top(l, t, p);
	} else {
		js_null(&l->values, NULL);
		js_null(&l->top, NULL);
	}
	for (size_t i = 0; i < n; i++)
		l->at += ((unsigned char)bytes[i] & 0xC0) != 0x80;
	l->tokens.failed |= !buf_ok(&shown);
	buf_clear(&shown);
}

static void keep_prompt(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	for (int i = 0; ev->logprob && i < ev->n_logprob; i++) {
		if (w->n_prompt == w->room) {
			size_t room = w->room ? w->room * 2 : 64;
			struct turn_logprob *p = mem_grow(w->prompt, room, sizeof *p);

			if (!p) {
				out->failed = true;
				return;
			}
			w->prompt = p;
			w->room = room;
		}
		w->prompt[w->n_prompt++] = ev->logprob[i];
	}
}

/* The tokens of an echoed prompt, without those that were put around it. */
static void add_prompt_tokens(struct writer *w)
{
	const struct api_request *q = w->b.q;

	for (size_t i = q->echo_at; i < q->echo_at + q->n_echo_ids; i++)
		add_token(&w->lists, w->b.env->tokenizer, q->raw.id[i],
			  i && i - 1 < w->n_prompt ? &w->prompt[i - 1] : NULL);
}

static void js_lists(struct writer *w, struct buf *out)
{
	struct lists *l = &w->lists;
	struct {
		const char *key;
		struct buf *items;
	} part[] = {{"tokens", &l->tokens}, {"token_logprobs", &l->values}, {"top_logprobs", &l->top},
		    {"text_offset", &l->offsets}};

	if (!w->b.q->logprobs) {
		js_null(out, "logprobs");
		return;
	}
	js_open(out, "logprobs", '{');
	for (size_t i = 0; i < 4; i++) {
		js_open(out, part[i].key, '[');
		buf_add(out, buf_cstr(part[i].items), part[i].items->len);
		js_close(out, ']');
		out->failed |= !buf_ok(part[i].items);
	}
	js_close(out, '}');
}

/* --- the object, whole or in chunks --- */

static void head(const struct writer *w, struct buf *out)
{
	js_open(out, NULL, '{');
	js_str(out, "id", w->b.id);
	js_str(out, "object", "text_completion");
	js_int(out, "created", w->b.created);
	js_str(out, "model", w->b.q->model);
	js_str(out, "system_fingerprint", w->b.env->fingerprint);
	js_open(out, "choices", '[');
}

static void choice(struct writer *w, const char *p, size_t n, const char *finish, struct buf *out)
{
	js_open(out, NULL, '{');
	js_text(out, "text", p, n);
	js_int(out, "index", 0);
	js_lists(w, out);
	js_str(out, "finish_reason", finish);
	js_close(out, '}');
}

static void chunk(struct writer *w, const char *p, size_t n, const char *finish, struct buf *out)
{
	sse_begin(out, NULL);
	head(w, out);
	choice(w, p, n, finish, out);
	js_close(out, ']');
	if (w->b.q->include_usage)
		js_null(out, "usage");
	js_close(out, '}');
	sse_end(out);
	lists_cut(&w->lists);
}

/* Says a piece of text: now, or at the end. */
static void put(struct writer *w, const char *p, size_t n, struct buf *out)
{
	if (w->b.q->stream)
		chunk(w, p, n, NULL, out);
	else
		buf_add(&w->text, p, n);
	out->failed |= !buf_ok(&w->text);
}

static void begin(struct writer *w, struct buf *out)
{
	if (w->b.begun)
		return;
	w->b.begun = true;
	if (!w->b.q->echo)
		return;
	if (w->b.q->logprobs)
		add_prompt_tokens(w);
	put(w, w->b.q->echo_text, w->b.q->n_echo, out);
}

static void text(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	static const char closer[] = "</think>";

	if (!ev->n && !ev->n_logprob)
		return;
	if (ev->kind == TURN_CONTENT && w->reasoned && !w->closed) {
		w->closed = true;
		put(w, closer, sizeof closer - 1, out);
	}
	w->reasoned |= ev->kind == TURN_REASONING;
	for (int i = 0; w->b.q->logprobs && ev->logprob && i < ev->n_logprob; i++)
		add_token(&w->lists, w->b.env->tokenizer, ev->logprob[i].token, &ev->logprob[i]);
	put(w, ev->text, ev->n, out);
}

void completions_fail(struct writer *w, const struct api_error *e, struct buf *out)
{
	if (w->b.ended)
		return;
	w->b.ended = true;
	openai_stream_error(e, out);
}

static void finish(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	const char *why = finish_is_cut(ev->finish) ? "length" : "stop";
	bool stream = w->b.q->stream;

	if (stream) {
		chunk(w, "", 0, why, out);
	} else {
		head(w, out);
		choice(w, w->text.data, w->text.len, why, out);
	}
	if (stream && w->b.q->include_usage) {
		sse_begin(out, NULL);
		head(w, out);
	}
	if (!stream || w->b.q->include_usage) {
		js_close(out, ']');
		js_usage_openai(out, "usage", &w->b.usage);
		js_close(out, '}');
		buf_str(out, stream ? "\n\n" : "\n");
	}
	if (stream)
		buf_str(out, "data: [DONE]\n\n");
}

void completions_event(struct writer *w, const struct turn_event *ev, struct buf *out)
{
	struct api_error e;

	if (ev->kind == TURN_READ && w->b.q->echo && w->b.q->logprobs)
		keep_prompt(w, ev, out);
	if (!writer_note(&w->b, ev) || ev->kind == TURN_STARTED)
		return;
	if (ev->kind == TURN_FINISH && ev->finish == TURN_ERROR) {
		api_error_from(&e, &dialect_completions, ev->err);
		if (w->b.q->stream)
			completions_fail(w, &e, out);
		w->b.ended = true;
		return;
	}
	begin(w, out);
	if (ev->kind == TURN_REASONING || ev->kind == TURN_CONTENT)
		text(w, ev, out);
	if (ev->kind == TURN_FINISH) {
		finish(w, ev, out);
		w->b.ended = true;
	}
}
