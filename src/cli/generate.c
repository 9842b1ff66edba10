/* generate.c - the loop behind every answer: read the prompt, then sample, decode, show, read, and again.
 *
 * What  Brings the session to the prompt (only new tokens are read), then samples until the answer ends by itself, by
 *       a stop string, by the token limit, by a full context or by Ctrl-C.
 * How   session -> sampler -> pieces.h (decoder, stop strings) -> the caller.
 * Careful
 *       - The last sampled token is not read by the model: the next prompt holds it and reads it then.
 *       - Inside the tags of a tool call the likeliest token is taken whatever the temperature: there is one right
 *         way to spell them.
 *       - Logits that are not numbers end the answer; they come from a damaged file or a failed device. */
#include "cli/generate.h"

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/term.h"
#include "turn/pieces.h"

struct run {
	const struct generate_request *q;
	struct generate_result *r;
	struct pieces pieces;
	struct progress progress;
};

static bool on_progress(void *ctx, int32_t done, int32_t total)
{
	struct run *g = ctx;

	progress_show(&g->progress, done, total);
	return !cli_interrupted();
}

static int32_t pick(struct run *g)
{
	struct sampler *s = g->q->sampler;
	float temperature = s->p.temperature;
	int32_t id;

	if (pieces_in_structure(&g->pieces))
		s->p.temperature = 0;
	id = sampler_pick(s, session_logits(g->q->session));
	s->p.temperature = temperature;
	return id;
}

static enum status sample_all(struct run *g, struct err *err)
{
	const struct generate_request *q = g->q;
	struct token_list *ids = &g->r->ids;

	for (;;) {
		int32_t id;

		if (cli_interrupted()) {
			g->r->cancelled = true;
			break;
		}
		id = pick(g);
		if (id < 0)
			return err_set(err, ERR_FORMAT, "%s: the logits are not numbers; the file is damaged",
				       q->engine->opt.model);
		if (q->token)
			q->token(q->ctx, id, session_logits(q->session));
		token_push(ids, id);
		if (ids->failed)
			return err_set(err, ERR_MEMORY, "no memory for the answer's tokens");
		if (!pieces_push(&g->pieces, id))
			return OK;
		if (q->max_tokens && (int32_t)(ids->n - q->n_given) >= q->max_tokens)
			break;
		if (session_len(q->session) >= q->engine->opt.context) {
			g->r->full = true;
			break;
		}
		TRY(session_push(q->session, id, err));
	}
	pieces_finish(&g->pieces, FINISH_LENGTH);
	return OK;
}

/* Shows what the answer begins with.  False: it was complete already. */
static bool take_given(struct run *g)
{
	for (size_t i = 0; i < g->q->n_given; i++)
		if (!pieces_push(&g->pieces, g->q->given[i]))
			return false;
	return true;
}

enum status generate(const struct generate_request *q, struct generate_result *r, struct err *err)
{
	struct run g = {.q = q, .r = r, .progress = {.label = "reading the prompt", .unit = "tokens"}};
	struct pieces_options o = {.tokenizer = q->engine->tokenizer, .raw = q->raw, .thinking = q->thinking,
				   .tools_active = q->tools != NULL, .tools = q->tools, .stops = q->stops,
				   .ctx = q->ctx, .take = q->piece};
	double t0 = clock_seconds(), t1;
	enum status st = OK;

	*r = (struct generate_result){.prompt_tokens = (int32_t)q->prompt->n, .n_given = q->n_given};
	TRY(pieces_init(&g.pieces, &o, err));
	token_append(&r->ids, q->given, q->n_given);
	session_set_cancel(q->session, cli_interrupt_flag());
	st = session_sync(q->session, q->prompt->id, (int32_t)q->prompt->n, on_progress, &g, err);
	session_set_cancel(q->session, NULL);
	progress_clear(&g.progress);
	t1 = clock_seconds();
	r->prompt_seconds = t1 - t0;
	r->reused = st == OK ? session_reused(q->session) : 0;
	if (st == ERR_CANCELLED) {
		r->cancelled = true;
		st = OK;
	} else if (st == OK && take_given(&g)) {
		st = sample_all(&g, err);
		r->answer_seconds = clock_seconds() - t1;
	}
	r->finish = g.pieces.finish;
	if (st == OK && !pieces_ok(&g.pieces))
		st = err_set(err, ERR_MEMORY, "no memory for the answer's text");
	pieces_clear(&g.pieces);
	return st;
}

const char *finish_name(const struct generate_result *r)
{
	if (r->cancelled)
		return "cancelled";
	return r->finish == FINISH_STOP ? "stop" : r->finish == FINISH_TOOL_CALLS ? "tool_calls" : "length";
}
