/* generate.h - one answer: prompt ids in, pieces out as they come, numbers at the end.  Used by chat and run. */
#ifndef DS4_CLI_GENERATE_H
#define DS4_CLI_GENERATE_H

#include "chat/decode.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "engine/stops.h"

struct generate_request {
	struct engine *engine;
	struct session *session;
	struct sampler *sampler;
	struct stops *stops;			/* end the visible text; NULL for none */
	const struct token_list *prompt;
	const int32_t *given;			/* [n_given] the prompt's last ids are the answer's first */
	size_t n_given;
	int32_t max_tokens;			/* 0: until the context is full */
	bool raw;				/* everything is content, nothing is decoded */
	enum thinking thinking;
	const json_t *tools;			/* NULL: no calls expected */
	void *ctx;
	void (*piece)(void *ctx, const struct piece *piece);
	void (*token)(void *ctx, int32_t id, const float *logits); /* before each token is taken; may be NULL */
};

struct generate_result {
	struct token_list ids;		/* what was given and sampled, EOS included; the caller clears */
	enum finish finish;
	bool cancelled;			/* by Ctrl-C; nothing was sampled when it came while reading the prompt */
	bool full;			/* the context had no room for more */
	size_t n_given;			/* of ids */
	int32_t prompt_tokens, reused;	/* reused: tokens of the prompt that the session had read before */
	double prompt_seconds, answer_seconds;
};

/* After a failure result is valid too, as far as it got.  ERR_LIMIT: the prompt does not fit in the context. */
enum status generate(const struct generate_request *q, struct generate_result *result, struct err *err);

const char *finish_name(const struct generate_result *r);	/* "stop", "tool_calls", "length", "cancelled" */

#endif
