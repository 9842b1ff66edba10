/* score.c - takes a token list through the forward pass, with logits wherever they are wanted.
 *
 * What  score_run() reads the list from an empty state and calls back for each wanted position.
 * Why   A session keeps the logits of the last token only.
 * How   The list is cut into steps of the engine's chunk.  A step in which some row other than the last is wanted
 *       asks for the logits of all its rows; such steps are kept to what the engine was opened for. */
#include "cli/score.h"

#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"

/* Rows of the next step from pos on, and whether it needs the logits of all rows. */
static int32_t cut_step(const struct engine *e, const struct score_request *q, int32_t pos, bool *all)
{
	int32_t n = q->step ? 1 : e->opt.chunk, most = forward_max_logits(e->forward);

	*all = false;
	if (n > q->n - pos)
		n = q->n - pos;
	for (int32_t i = 0; i < n - 1 && !*all; i++)
		*all = q->wanted[pos + i];
	return *all && n > most ? most : n;
}

static enum status one_step(struct engine *e, struct kv *kv, const struct score_request *q, int32_t pos, int32_t n,
			    bool all, float *logits, struct err *err)
{
	int32_t v = e->shape.vocab;
	bool last = q->wanted[pos + n - 1];
	struct forward_part part = {.kv = kv, .token = q->token + pos, .n = n, .all_logits = all,
				    .last_logits = !all && last};

	TRY(forward_step(e->forward, &part, 1, logits, cli_interrupt_flag(), err));
	if (!all)
		return last ? q->row(q->ctx, pos + n - 1, logits, err) : OK;
	for (int32_t i = 0; i < n; i++)
		if (q->wanted[pos + i])
			TRY(q->row(q->ctx, pos + i, logits + (size_t)i * (size_t)v, err));
	return OK;
}

enum status score_run(struct engine *e, const struct score_request *q, struct err *err)
{
	struct kv *kv = NULL;
	float *logits;
	enum status st;

	if (q->n > e->opt.context)
		return err_set(err, ERR_LIMIT, "%d tokens do not fit in a context of %d", (int)q->n,
			       (int)e->opt.context);
	logits = mem_array((size_t)forward_max_logits(e->forward) * (size_t)e->shape.vocab, sizeof *logits);
	if (!logits)
		return err_set(err, ERR_MEMORY, "no memory for the logits of %d tokens",
			       (int)forward_max_logits(e->forward));
	forward_tap(e->forward, q->tap);
	TRY_TO(out, kv_open(&kv, &e->pool, 2, err));
	for (int32_t pos = 0, n; pos < q->n; pos += n) {
		bool all;

		n = cut_step(e, q, pos, &all);
		TRY_TO(out, one_step(e, kv, q, pos, n, all, logits, err));
		if (q->progress)
			q->progress(q->ctx, pos + n);
	}
out:
	forward_tap(e->forward, NULL);
	kv_close(kv);
	mem_free(logits);
	return st;
}
