/* dialect.h - what an API implements: parse a body, then say the events of a turn in its own words.
 *
 * A dialect knows nothing of sockets and engines: JSON in, turn_request out; turn events in, bytes out.  The bytes
 * are server-sent events, or one JSON object at the end when the client did not ask for a stream.
 * Thread: no state but in the objects; parse may run on any thread.  Source: docs/api.md. */
#ifndef DS4_SERVER_DIALECT_H
#define DS4_SERVER_DIALECT_H

#include "base/buf.h"
#include "base/json.h"
#include "turn/turn.h"

/* What the server tells a dialect. */
struct dialect_env {
	const struct tokenizer *tokenizer;
	const char *model;		/* id under /v1/models */
	enum profile profile;
	int32_t context;
	int64_t now;			/* seconds since 1970, for `created` */
	uint64_t seed;			/* for requests that give none */
	bool thinking_samples;		/* sampling parameters count while thinking, too (else fixed 1 / 1 / 0 / 0.05) */
	bool completions_chat;		/* /v1/completions wraps its prompt in a chat */
};

/* One request as parsed: everything that outlives the body's JSON. */
struct api_request {
	struct turn_request turn;
	struct token_list raw;		/* memory of turn.raw */
	struct stop_string *stop;	/* memory of turn.stop, with the bytes */
	char *model;			/* as the client spelt it */
	char *tool_name;
	json_t *body;			/* reference; fields that the answer echoes */
	json_t *tools;			/* reference; names as the client declared them (namespaces, custom tools) */
	bool stream, include_usage;
	bool echo;			/* completions: the prompt is part of the text */
	bool summary, encrypted;	/* responses */
	int32_t cache_written;		/* messages: prompt tokens up to the last cache_control breakpoint, or 0 */
};

void api_request_clear(struct api_request *q);

/* An error as the API says it. */
struct api_error {
	int status;			/* HTTP */
	char message[512];
	char param[128];		/* "" = null */
	const char *type, *code;	/* code NULL = null */
	int32_t n_prompt, n_context;	/* of context_length_exceeded, else 0 */
	int retry_after;		/* seconds; 0 = no header */
};

struct writer;	/* one answer under way; each dialect has its own */

struct dialect {
	const char *name;		/* "chat", "completions", "responses", "messages" */
	const char *path;
	/* False: *e says why.  Fills q (zeroed by the caller). */
	bool (*parse)(json_t *body, const struct dialect_env *env, struct api_request *q, struct api_error *e);
	/* NULL without memory.  prompt_tokens: of the whole prompt. */
	struct writer *(*open)(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens);
	/* Appends what the client is to see because of ev: SSE frames when streaming, on FINISH the whole JSON object
	 * otherwise.  WAITING and READ say nothing here: keep-alive comments are the server's.  The first call of a
	 * streamed answer is preceded by begin (headers of the API: role chunk, message_start, response.created...). */
	void (*begin)(struct writer *w, struct buf *out);
	void (*event)(struct writer *w, const struct turn_event *ev, struct buf *out);
	/* An error after the headers: the API's error event, and the proper end of the stream. */
	void (*fail)(struct writer *w, const struct api_error *e, struct buf *out);
	void (*close)(struct writer *w);
	/* The error body for a response without a stream. */
	void (*error)(const struct api_error *e, const char *request_id, struct buf *out);
};

extern const struct dialect dialect_chat, dialect_completions, dialect_responses, dialect_messages;

/* /v1/messages/count_tokens: dialect_messages.parse with max_tokens optional; the server renders and counts. */

#endif
