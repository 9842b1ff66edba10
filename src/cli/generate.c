/* generate.c - the loop behind every answer: read the prompt, then sample, decode, show, read, and again.
 *
 * What  Brings the session to the prompt (only new tokens are read), then samples until the answer ends by itself, by
 *       a stop string, by the token limit, by a full context or by Ctrl-C.
 * How   token -> decoder -> stop strings -> the caller.  Stop strings see the visible content only.
 * Careful
 *       - The last sampled token is not read by the model: the next prompt holds it and reads it then.
 *       - Inside the tags of a tool call the likeliest token is taken whatever the temperature: there is one right
 *         way to spell them.
 *       - Logits that are not numbers end the answer; they come from a damaged file or a failed device. */
#include "cli/generate.h"

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/term.h"

struct run {
	const struct generate_request *q;
	struct generate_result *r;
	struct decode *decode;
	struct detok detok;	/* raw only */
	struct buf text;	/* released by the stop strings */
	bool stopped;		/* a stop string was found */
	struct progress progress;
};

static bool on_progress(void *ctx, int32_t done, int32_t total)
{
	struct run *g = ctx;

	progress_show(&g->progress, done, total);
	return !cli_interrupted();
}

/* ------------------------------------------------------------------ pieces on their way out */

static void hand_content(struct run *g)
{
	struct piece p = {.kind = PIECE_CONTENT, .text = buf_cstr(&g->text), .n = g->text.len};

	if (p.n)
		g->q->piece(g->q->ctx, &p);
	buf_cut(&g->text, 0);
}

static void content(struct run *g, const char *text, size_t n)
{
	if (g->stopped)
		return;
	if (g->q->stops)
		g->stopped = stops_push(g->q->stops, text, n, &g->text);
	else
		buf_add(&g->text, text, n);
	hand_content(g);
}

/* What the stop strings held back is content after all, unless it ends in a match. */
static void flush_content(struct run *g)
{
	if (g->stopped || !g->q->stops)
		return;
	g->stopped = stops_finish(g->q->stops, &g->text);
	hand_content(g);
}

static void on_piece(void *ctx, const struct piece *p)
{
	struct run *g = ctx;

	if (p->kind == PIECE_CONTENT) {
		content(g, p->text, p->n);
		return;
	}
	if (p->kind == PIECE_TOOL_BEGIN || p->kind == PIECE_FINISH)
		flush_content(g);
	if (p->kind == PIECE_FINISH)
		g->r->finish = g->stopped ? FINISH_STOP : p->finish;
	if (!g->stopped || p->kind == PIECE_FINISH)
		g->q->piece(g->q->ctx, p);
}

/* ------------------------------------------------------------------ one token */

static bool take_raw(struct run *g, int32_t id)
{
	const struct tokenizer *t = g->q->engine->tokenizer;
	struct buf whole = BUF_CAP(BUF_MAX);
	const char *bytes;
	size_t n;

	if (id == tokenizer_special(t, SPECIAL_EOS))
		return false;
	bytes = token_bytes(t, id, &n);
	detok_push(&g->detok, bytes, n, &whole);
	content(g, buf_cstr(&whole), whole.len);
	buf_clear(&whole);
	return true;
}

/* True when the answer goes on. */
static bool take_token(struct run *g, int32_t id)
{
	bool more = g->q->raw ? take_raw(g, id) : decode_push(g->decode, id);

	return more && !g->stopped;
}

static void finish(struct run *g, enum finish how)
{
	struct buf tail = BUF_CAP(BUF_MAX);
	struct piece end = {.kind = PIECE_FINISH, .finish = how};

	if (!g->q->raw) {
		decode_finish(g->decode, how);
		return;
	}
	detok_finish(&g->detok, &tail);
	content(g, buf_cstr(&tail), tail.len);
	buf_clear(&tail);
	on_piece(g, &end);
}

static int32_t pick(struct run *g)
{
	struct sampler *s = g->q->sampler;
	float temperature = s->p.temperature;
	int32_t id;

	if (!g->q->raw && decode_in_structure(g->decode))
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
		if (!take_token(g, id)) {
			finish(g, FINISH_STOP);
			return OK;
		}
		if (q->max_tokens && (int32_t)(ids->n - q->n_given) >= q->max_tokens)
			break;
		if (session_len(q->session) >= q->engine->opt.context) {
			g->r->full = true;
			break;
		}
		TRY(session_push(q->session, id, err));
	}
	finish(g, FINISH_LENGTH);
	return OK;
}

/* Shows what the answer begins with.  False: it was complete already. */
static bool take_given(struct run *g)
{
	for (size_t i = 0; i < g->q->n_given; i++) {
		if (take_token(g, g->q->given[i]))
			continue;
		finish(g, FINISH_STOP);
		return false;
	}
	return true;
}

enum status generate(const struct generate_request *q, struct generate_result *r, struct err *err)
{
	struct run g = {.q = q, .r = r, .text = BUF_CAP(BUF_MAX),
			.progress = {.label = "reading the prompt", .unit = "tokens"}};
	struct decode_options o = {.thinking = q->thinking, .tools_active = q->tools != NULL, .tools = q->tools,
				   .ctx = &g, .take = on_piece};
	double t0 = clock_seconds(), t1;
	enum status st = OK;

	*r = (struct generate_result){.prompt_tokens = (int32_t)q->prompt->n, .n_given = q->n_given};
	if (!q->raw) {
		g.decode = decode_new(q->engine->tokenizer, &o);
		if (!g.decode)
			return err_set(err, ERR_MEMORY, "no memory for an answer");
	}
	if (q->stops)
		stops_reset(q->stops);
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
	if (st == OK && ((g.decode && !decode_ok(g.decode)) || !buf_ok(&g.text)))
		st = err_set(err, ERR_MEMORY, "no memory for the answer's text");
	decode_free(g.decode);
	buf_clear(&g.text);
	return st;
}

const char *finish_name(const struct generate_result *r)
{
	if (r->cancelled)
		return "cancelled";
	return r->finish == FINISH_STOP ? "stop" : r->finish == FINISH_TOOL_CALLS ? "tool_calls" : "length";
}
