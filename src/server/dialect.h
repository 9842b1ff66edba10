/* dialect.h - what an API implements: parse a body, then say the events of a turn in its own words.
 *
 * A dialect knows nothing of sockets and engines: JSON in, turn_request out; turn events in, bytes out.  The bytes
 * are server-sent events, or one JSON object at the end when the client did not ask for a stream.
 *
 *	json = api_body(text)          api_request q; d->parse(body, &env, &q)     turn_open(&q.turn)
 *	w = d->open(&q, &env, n)       d->event(w, every event, out)               d->close(w)   api_request_clear(&q)
 *
 * Promises
 *   L1  A streamed answer is complete: it begins with the API's opening frames before anything else, and after FINISH
 *       or fail() it has ended properly.
 *   L2  Streamed or not, the texts and arguments are the same bytes; ids and `created` do not change in an answer.
 *   L3  Where the turn events cut the text has no influence on the texts joined.
 * Thread: no state but in the objects; parse may run on any thread, a writer on one at a time.  Source: docs/api.md. */
#ifndef DS4_SERVER_DIALECT_H
#define DS4_SERVER_DIALECT_H

#include "base/buf.h"
#include "base/json.h"
#include "turn/turn.h"

/* What the server tells a dialect; outlives the requests and writers that it was given to. */
struct dialect_env {
	const struct tokenizer *tokenizer;
	const char *model;		/* id under /v1/models */
	const char *fingerprint;	/* `system_fingerprint`: changes with model or build; NULL = null */
	enum profile profile;
	int32_t context;
	int64_t now;			/* seconds since 1970, for `created` */
	uint64_t seed;			/* for requests that give none */
	bool thinking_samples;		/* sampling parameters count while thinking, too (else fixed 1 / 1 / 0 / 0.05) */
	bool completions_chat;		/* /v1/completions wraps its prompt in a chat */
};

/* How a declared tool stands in the prompt and how the client knows it. */
enum api_tool_kind {
	API_TOOL_FUNCTION,
	API_TOOL_CUSTOM,	/* free text instead of JSON: in the prompt a function of one string, "input" */
	API_TOOL_SEARCH		/* Responses: tool_search, run by the client */
};

struct api_tool {
	enum api_tool_kind kind;
	char *name;		/* in the prompt: namespace and name joined */
	char *wire_name;	/* in the client's words */
	char *space;		/* namespace; NULL = none */
};

/* One request as parsed: everything that outlives the body's JSON.  Zero-initialise. */
struct api_request {
	struct turn_request turn;	/* points into the members below; turn_open() takes turn.conversation over.
					 * max_tokens < 0: the request names no limit, the server's holds */
	struct token_list raw;		/* memory of turn.raw */
	struct stop_string *stop;	/* memory of turn.stop: one block, with the bytes */
	char *model;			/* as the client spelt it */
	char *tool_name;		/* memory of turn.tool_name: the name in the prompt */
	json_t *body;			/* reference; fields that the answer echoes */
	json_t *tools;			/* reference: function objects as they stand in the prompt, or NULL */
	struct api_tool *tool;		/* [n_tool] */
	size_t n_tool;
	bool stream, include_usage;
	bool logprobs;			/* the answer shows log-probabilities */
	bool echo;			/* completions: the prompt is part of the text */
	char *echo_text;		/* completions: that prompt [n_echo] */
	size_t n_echo;
	size_t echo_at, n_echo_ids;	/* completions: where its tokens are in raw */
	bool summary, encrypted;	/* responses */
	int32_t cache_written;		/* messages: prompt tokens up to the last cache_control breakpoint, or 0 */
};

/* Frees everything, turn.conversation too unless it is NULL (turn_open() leaves NULL behind). */
void api_request_clear(struct api_request *q);

/* An error as the API says it. */
struct api_error {
	int status;			/* HTTP */
	char message[512];
	char param[128];		/* "" = null */
	const char *type, *code;	/* type NULL = what the API calls errors of this status; code NULL = null */
	int32_t n_prompt, n_context;	/* of context_length_exceeded, else 0 */
	int retry_after;		/* seconds; 0 = no header */
};

struct writer;	/* one answer under way; each dialect has its own */

struct dialect {
	const char *name;		/* "chat", "completions", "responses", "messages" */
	const char *path;
	const char *input;		/* the field that holds the prompt */
	const char *format;		/* the field that holds a response format; NULL = it has none */
	const char *request_id;		/* response header that names the request */
	int busy;			/* HTTP status that says: come back later */
	/* False: *e says why.  Fills q (zeroed by the caller), also in part when it fails: clear it. */
	bool (*parse)(json_t *body, const struct dialect_env *env, struct api_request *q, struct api_error *e);
	/* NULL without memory.  prompt_tokens: of the whole prompt.  q and env are borrowed until close. */
	struct writer *(*open)(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens);
	/* Appends what the client is to see because of ev: SSE frames when streaming, on FINISH the whole JSON object
	 * otherwise.  WAITING and READ say nothing here: keep-alive comments are the server's.  The opening frames
	 * (role chunk, message_start, response.created...) are written by the first event after WAITING.
	 * FINISH with TURN_ERROR: streaming it is fail(); otherwise it appends nothing: send error() with its status. */
	void (*event)(struct writer *w, const struct turn_event *ev, struct buf *out);
	/* An error after the headers of a stream: the API's error event, and the proper end of the stream. */
	void (*fail)(struct writer *w, const struct api_error *e, struct buf *out);
	void (*close)(struct writer *w);	/* NULL allowed */
	/* The error body for a response without a stream. */
	void (*error)(const struct api_error *e, const char *request_id, struct buf *out);
};

extern const struct dialect dialect_chat, dialect_completions, dialect_responses, dialect_messages;

/* /v1/messages/count_tokens: dialect_messages.parse (max_tokens is optional there); the server renders and counts. */

/* --- errors --- */

/* param, code: NULL = null. */
void api_error_set(struct api_error *e, int status, const char *param, const char *code, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
/* The prompt does not fit.  The wording is what all recorded clients recognise. */
void api_error_overflow(struct api_error *e, const struct dialect *d, int32_t n_prompt, int32_t n_context);
void api_error_busy(struct api_error *e, const struct dialect *d, int retry_after);
void api_error_auth(struct api_error *e, const char *why);	/* 401 */
/* What turn_open() or a FINISH said (the overflow of turn_open excepted): ERR_ARGUMENT is the client's fault,
 * ERR_LIMIT and ERR_MEMORY mean busy, the rest is ours.  The sentence tells which field it is about. */
void api_error_from(struct api_error *e, const struct dialect *d, const struct err *err);

/* The OpenAI and the Anthropic shape, for paths that have no dialect. */
void api_error_write_openai(const struct api_error *e, const char *request_id, struct buf *out);
void api_error_write_anthropic(const struct api_error *e, const char *request_id, struct buf *out);

/* --- bodies --- */

/* Parses a request body, which must be one JSON object.  NULL: *e says why (400, or busy without memory). */
json_t *api_body(const char *text, size_t n, struct api_error *e);

/* Random lower-case hexadecimal digits [n] and a NUL: ids that nobody can guess. */
void api_random_hex(char *out, size_t n);

#endif
