/* score.h - reads a token list once and hands out the logits of chosen positions: what `logits` and `perplexity` share. */
#ifndef DS4_CLI_SCORE_H
#define DS4_CLI_SCORE_H

#include "engine/engine.h"

struct score_request {
	const int32_t *token;
	int32_t n;
	const uint8_t *wanted;		/* [n] 1 = hand out the logits after this token */
	bool step;			/* token by token instead of in chunks */
	const struct tap *tap;		/* observer of the forward pass, or NULL */
	enum status (*row)(void *ctx, int32_t pos, const float *logits, struct err *err); /* ascending pos */
	void (*progress)(void *ctx, int32_t done);	/* after every step; may be NULL */
	void *ctx;
};

/* Rows of logits that one step may hold: give this to engine_options.max_logits (66 MB for a vocabulary of 129,280). */
#define SCORE_MAX_LOGITS 128

/* Runs over the tokens from an empty state.  Errors of the forward pass, of row(), ERR_LIMIT when n exceeds the
 * context, ERR_CANCELLED on Ctrl-C. */
enum status score_run(struct engine *e, const struct score_request *q, struct err *err);

#endif
