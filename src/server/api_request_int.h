/* api_request_int.h - what the parsers of all dialects share: limits, tools, and the conversation in neutral form. */
#ifndef DS4_SERVER_API_REQUEST_INT_H
#define DS4_SERVER_API_REQUEST_INT_H

#include "server/api_field_int.h"

#define API_MAX_TOKENS 393216	/* upper limit of an answer: docs/api.md */
#define API_MAX_STOP 16

/* A request while it is read: what only the end can decide. */
struct parsing {
	struct field body;
	const struct dialect_env *env;
	struct api_request *q;
	/* thinking */
	bool thinking_asked;		/* by a field of its own: wins over effort and model name */
	/* conversation */
	struct conversation *c;
	struct buf system;		/* texts of the system messages so far */
	bool begun;			/* the system message has been written: later ones stand where they came */
	const json_t *format;		/* for the prompt: a schema, or NULL; borrowed */
	json_t *any_object;		/* {"type": "object"}, owned */
};

/* Fills p, and q's defaults: model, stream, body reference. */
bool parsing_begin(struct parsing *p, json_t *body, const struct dialect_env *env, struct api_request *q,
		   struct api_error *e);
void parsing_clear(struct parsing *p);
bool parsing_no_memory(struct parsing *p);	/* fills the error; false */

/* --- limits --- */

/* temperature, top_p, top_k, min_p, seed */
bool parse_sampling(struct parsing *p);
/* The smaller one of those given, -1 when none is; lowest: 1, or 0 where only reading makes sense. */
bool parse_max_tokens(struct parsing *p, const char *key, int lowest);
bool parse_stop(struct parsing *p, const char *key);
/* thinking (object or bool), think, chat_template_kwargs; f's values win over what came before. */
bool parse_thinking(struct parsing *p);
bool parse_effort(struct parsing *p, const struct field *f);
/* n, best_of: 1; penalties: 0 (ignored while thinking); logit_bias: empty. */
bool parse_refused(struct parsing *p);
/* {"type": "text" | "json_object" | "json_schema"}: schema_key is where the schema stands. */
bool parse_format(struct parsing *p, const struct field *f, const char *wrapper);
bool parse_parallel(struct parsing *p);
/* Sampling while thinking, and what else depends on everything. */
void parse_end(struct parsing *p);

/* --- tools --- */

enum tools_shape { TOOLS_CHAT, TOOLS_RESPONSES, TOOLS_MESSAGES };

bool parse_tools(struct parsing *p, enum tools_shape shape);
bool parse_tool_choice(struct parsing *p, enum tools_shape shape);
/* The name in the prompt of a call that a client sends back.  NULL without memory; to be freed. */
char *tool_prompt_name(struct slice space, struct slice name);
/* {"input": text}, as custom tools are called in the prompt. */
void custom_arguments(struct buf *out, struct slice text);

/* --- conversation --- */

bool say_system(struct parsing *p, const char *text, size_t n);
/* Writes the system message if it is time and needed. */
bool say_begin(struct parsing *p);
struct message *say(struct parsing *p, enum role role, const char *text, size_t n);	/* NULL without memory */
bool say_result(struct parsing *p, struct slice id, const char *text, size_t n);
void say_call(struct parsing *p, struct message *m, struct slice id, const char *name, const char *arguments,
	      size_t n);
/* Checks the last message, hands the conversation to q. */
bool say_end(struct parsing *p, const struct field *messages);

/* Content: a string, null, or an array of parts, joined by `between`.  Parts that are no text leave
 * "[Unsupported TYPE]". */
bool read_parts(const struct field *f, const char *between, struct buf *out);
/* One part; false with an error. */
bool read_part(const struct field *part, struct buf *out);

#endif
