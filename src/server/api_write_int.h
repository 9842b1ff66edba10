/* api_write_int.h - what the writers of all dialects share: JSON without spaces, frames, and what was said so far.
 *
 * js_* functions append one member (key given) or one item (key NULL) with the comma that it needs: they look at the
 * last byte, so an object or array must have been opened by js_open, and frames end in a line break. */
#ifndef DS4_SERVER_API_WRITE_INT_H
#define DS4_SERVER_API_WRITE_INT_H

#include "server/dialect.h"

void js_open(struct buf *out, const char *key, char bracket);
void js_close(struct buf *out, char bracket);
void js_text(struct buf *out, const char *key, const char *p, size_t n);	/* p may be NULL when n is 0 */
void js_str(struct buf *out, const char *key, const char *s);			/* NULL = null */
void js_int(struct buf *out, const char *key, int64_t v);
void js_bool(struct buf *out, const char *key, bool v);
void js_null(struct buf *out, const char *key);
void js_real(struct buf *out, const char *key, double v);
void js_json(struct buf *out, const char *key, const json_t *v);		/* NULL = null */
void js_raw(struct buf *out, const char *key, const char *p, size_t n);		/* JSON text */

void sse_begin(struct buf *out, const char *event);	/* NULL: no event line */
void sse_end(struct buf *out);

void error_object_openai(const struct api_error *e, struct buf *out);
void error_object_anthropic(const struct api_error *e, const char *request_id, struct buf *out);

/* --- log-probabilities --- */

/* A token as text to show: ill-formed bytes as U+FFFD, the bars of control tokens doubled. */
void token_shown(const struct tokenizer *t, int32_t id, struct buf *out);
/* -inf becomes -9999, and digits that mean nothing go. */
double shown_logprob(float v);
/* Items {"token","logprob","bytes","top_logprobs"} of [n] tokens, appended to an open array. */
void js_logprobs(struct buf *out, const struct tokenizer *t, const struct turn_logprob *p, int n);

/* --- what was said --- */

struct said_call {
	char id[64];
	struct buf name;	/* in the prompt */
	struct buf arguments;
	struct buf input;	/* of a custom tool: its text, as far as it has come */
	int input_state;
	size_t input_at;	/* bytes of arguments looked at */
	const struct api_tool *tool;	/* NULL: a name that was not declared */
	bool complete;
};

struct said {	/* zero-initialise */
	struct buf reasoning, content;
	struct buf logprobs, reasoning_logprobs;	/* items, without the brackets */
	struct said_call *call;	/* [n] */
	size_t n;
	bool failed;
};

/* Adds what ev says; with texts = false only calls are kept. */
void said_take(struct said *s, const struct turn_event *ev, const struct api_request *q, const struct tokenizer *t,
	       bool texts);
void said_clear(struct said *s);

/* The name that the client knows. */
const char *call_name(const struct said_call *c);
bool call_is(const struct said_call *c, enum api_tool_kind kind);

/* Looks at new bytes of the arguments of a custom tool's call; c->input has what is known of its text.  end: no more
 * will come; arguments that are not {"input": "..."} are the text then.  Without memory c->input fails. */
void call_read_input(struct said_call *c, bool end);
/* The arguments if they are an object, else "{}": for places that must hold JSON. */
void js_arguments(struct buf *out, const char *key, const struct said_call *c);

/* --- part of every writer --- */

struct writer_base {
	const struct api_request *q;
	const struct dialect_env *env;
	int32_t n_prompt;
	char id[64];
	int64_t created;
	bool begun, ended;
	struct said said;
	struct turn_usage usage;
	char carrier[256];
};

void writer_init(struct writer_base *w, const char *prefix, const struct api_request *q, const struct dialect_env *env,
		 int32_t n_prompt);
/* What every event does: remembers usage and carrier.  False: it says nothing to the client. */
bool writer_note(struct writer_base *w, const struct turn_event *ev);
bool finish_is_cut(enum turn_finish f);	/* by a limit or a cancel */

/* An OpenAI usage object of chat and completions. */
void js_usage_openai(struct buf *out, const char *key, const struct turn_usage *u);

#endif
