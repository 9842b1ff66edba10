/* pilot.c - the engine's side of a turn: chooses every token and decodes it at once.
 *
 * What  The scheduler asks for a token after every step (pilot_pick).  In this order: what is forced, </think> where
 *       the reasoning must end, the script, then the sampler - greedy inside the tags of a tool call, where there is
 *       one right way to spell them.
 * Why   All of that depends on what the text so far means, so the decoder runs here; and when an answer is over, no
 *       further step is spent on it.
 * How   What the decoder says goes into a box as notes that the reader fetches; the TOKEN mail tells it when.  Mails
 *       are bounded, so the box is, too.  Log-probabilities are taken here, since logits do not travel.
 * Careful
 *       - The engine's thread may still be in here when the turn is closed: two holders, the last one frees.
 *       - After the last token the mailbox is cancelled instead of waiting for an end of sentence: the scheduler then
 *         says CANCELLED, and the reader knows better from `pieces`.
 *       - The tools are a copy: Jansson's reference counts are not made for two threads.
 *       - max_tokens counts everything: the last token that is left closes an open reasoning.
 * Source: docs/api.md section 4; docs/chat.md sections 6 and 10. */
#include <string.h>

#include "base/mem.h"
#include "turn/turn_int.h"

/* ------------------------------------------------------------------ notes */

static void put_note(struct pilot *p, struct note note, const char *text)
{
	size_t before;

	pthread_mutex_lock(&p->lock);
	before = p->box.len;
	buf_add(&p->box, &note, sizeof note);
	if (note.n_logprob)
		buf_add(&p->box, p->pending, note.n_logprob * sizeof *p->pending);
	if (note.n)
		buf_add(&p->box, text, note.n);
	do
		buf_byte(&p->box, 0);
	while (buf_ok(&p->box) && p->box.len % 8);
	if (!buf_ok(&p->box)) {
		buf_cut(&p->box, before);
		p->failed = true;
	}
	pthread_mutex_unlock(&p->lock);
}

void pilot_fetch(struct pilot *p, struct buf *out)
{
	pthread_mutex_lock(&p->lock);
	buf_add(out, p->box.data, p->box.len);
	buf_cut(&p->box, 0);
	pthread_mutex_unlock(&p->lock);
}

/* The block is to end here: what closes it properly. */
static void force_end_of_block(struct pilot *p)
{
	const struct token_list *ids = &p->ids;
	const struct tokenizer *t = p->plan.tables->tokenizer;
	size_t n = 0;
	const char *last = ids->n ? token_bytes(t, ids->id[ids->n - 1], &n) : "";
	bool new_line = n && last[n - 1] == '\n';

	p->closing = true;
	token_encode_text(t, new_line ? "</" : "\n</", new_line ? 2 : 3, &p->forced);
	token_push(&p->forced, p->plan.tables->dsml);
	token_encode_text(t, "tool_calls>", strlen("tool_calls>"), &p->forced);
}

static void on_piece(void *ctx, const struct piece *piece)
{
	struct pilot *p = ctx;
	struct note note = {.kind = (int)piece->kind, .index = (uint32_t)piece->index,
			    .n = piece->kind == PIECE_TOOL_END ? 0 : piece->n};

	switch (piece->kind) {
	case PIECE_REASONING:
	case PIECE_CONTENT:
		note.n_logprob = (uint32_t)p->n_pending;
		put_note(p, note, piece->text);
		break;
	case PIECE_FINISH:
		break;
	default:
		p->reasoning = false;
		if (p->plan.one_call && piece->index) {
			p->call_dropped = true;
			return;
		}
		p->call_ended |= piece->kind == PIECE_TOOL_END;
		put_note(p, note, piece->text);
	}
	p->n_pending = 0;
}

/* ------------------------------------------------------------------ choosing */

static bool must_close(const struct pilot *p)
{
	return p->reasoning && ((p->plan.budget >= 0 && p->n_reasoning >= p->plan.budget) ||
				(int32_t)p->ids.n + 1 >= p->plan.limit);
}

/* The script's reasoning behind the forced </think> is skipped: a model would not have said it. */
static int32_t close_reasoning(struct pilot *p)
{
	for (size_t i = p->at_script; i < p->script.n; i++)
		if (p->script.id[i] == p->plan.tables->end_think) {
			p->at_script = i + 1;
			break;
		}
	return p->plan.tables->end_think;
}

static int32_t choose(struct pilot *p, struct sampler *s, const float *logits)
{
	float temperature = s->p.temperature;
	int32_t id;

	if (p->at_forced < p->forced.n)
		return p->forced.id[p->at_forced++];
	if (must_close(p))
		return close_reasoning(p);
	if (p->plan.script)
		return p->at_script < p->script.n ? p->script.id[p->at_script++] : p->plan.tables->eos;
	if (pieces_in_structure(&p->pieces))
		s->p.temperature = 0;
	id = steer_pick(&p->steer, s, logits, p->reasoning);
	s->p.temperature = temperature;
	return id;
}

static void note_logprob(struct pilot *p, int32_t vocab, const float *logits, int32_t id)
{
	struct turn_logprob *l;
	int32_t top[20], k = p->plan.top_logprobs;
	float logprob[20];

	if (p->n_pending == p->pending_room) {
		int32_t room = p->pending_room ? 2 * p->pending_room : 16;

		l = mem_grow(p->pending, (size_t)room, sizeof *l);
		if (!l) {
			p->failed = true;
			return;
		}
		p->pending = l;
		p->pending_room = room;
	}
	l = &p->pending[p->n_pending++];
	*l = (struct turn_logprob){.token = id, .logprob = (float)sampler_logprob(logits, vocab, id)};
	sampler_top(logits, vocab, k, top, logprob);
	while (l->n_top < k && top[l->n_top] >= 0) {
		l->top[l->n_top].token = top[l->n_top];
		l->top[l->n_top].logprob = logprob[l->n_top];
		l->n_top++;
	}
}

/* The visible answer begins. */
static void begin_answer(struct pilot *p)
{
	p->reasoning = false;
	token_append(&p->forced, p->start.id, p->start.n);
	if (p->steer.constraint == CONSTRAINT_ANSWER)
		steer_begin(&p->steer, "", 0);
}

/* What a token means for the constraint.  A block of calls begins at its marker, after "<" in visible text. */
static void steer(struct pilot *p, int32_t id)
{
	static const char opener[] = {'\n', '\n', '<', GRAMMAR_MARKER};

	if (p->steer.active)
		steer_take(&p->steer, id);
	else if (p->steer.constraint == CONSTRAINT_CALLS && id == p->plan.tables->dsml && !p->reasoning &&
		 pieces_in_structure(&p->pieces))
		steer_begin(&p->steer, opener, sizeof opener);
}

/* Enters a token into the answer. */
static void take(struct pilot *p, int32_t id)
{
	const struct turn_tables *x = p->plan.tables;
	bool closes = p->reasoning && id == x->end_think;

	if (id != x->eos)
		token_push(&p->ids, id);
	if (p->reasoning && id != x->eos)
		p->n_reasoning++;
	pieces_push(&p->pieces, id);
	steer(p, id);
	if (closes)
		begin_answer(p);
	if (p->plan.one_call && p->call_ended && !p->closing && !p->pieces.over)
		force_end_of_block(p);
	p->failed |= p->ids.failed || p->forced.failed || !pieces_ok(&p->pieces);
}

/* The next token of a prompt that is read one by one. */
static int32_t pick_prompt(struct pilot *p, int32_t vocab, const float *logits)
{
	int32_t id = p->prompt.id[p->at_prompt++];
	struct note note = {.kind = NOTE_PROMPT, .index = (uint32_t)p->at_prompt};

	note_logprob(p, vocab, logits, id);
	note.n_logprob = (uint32_t)p->n_pending;
	put_note(p, note, NULL);
	p->n_pending = 0;
	return p->failed ? -1 : id;
}

int32_t pilot_pick(void *ctx, struct sampler *s, const float *logits)
{
	struct pilot *p = ctx;
	const struct turn_tables *x = p->plan.tables;
	int32_t id;

	if (p->failed)
		return -1;
	if (p->at_prompt < p->prompt.n)
		return pick_prompt(p, s->vocab, logits);
	id = choose(p, s, logits);
	if (id < 0)
		return id;
	if (p->plan.top_logprobs >= 0 && !tokenizer_is_added(x->tokenizer, id))
		note_logprob(p, s->vocab, logits, id);
	take(p, id);
	if (p->pieces.over && (id != x->eos || p->prompt.n))
		mailbox_cancel(p->plan.mailbox);
	return p->failed ? -1 : id;
}

void pilot_finish(struct pilot *p)
{
	p->cut_short = !p->pieces.over;
	pieces_finish(&p->pieces, FINISH_LENGTH);
	p->failed |= !pieces_ok(&p->pieces);
}

/* ------------------------------------------------------------------ making */

enum status pilot_new(struct pilot **out, const struct pilot_plan *plan, struct err *err)
{
	struct pilot *p = mem_zero(sizeof *p);
	struct pieces_options o = {.tokenizer = plan->tables->tokenizer, .raw = plan->raw, .thinking = plan->thinking,
				   .tools_active = plan->tools_active, .ctx = p, .take = on_piece};
	enum status st = OK;

	*out = NULL;
	if (!p) {
		grammar_free(plan->grammar);
		return err_set(err, ERR_MEMORY, "no memory for an answer");
	}
	p->holders = 1;
	p->plan = *plan;
	p->plan.grammar = NULL;
	p->plan.tools = plan->tools ? json_deep_copy(plan->tools) : NULL;
	p->box = (struct buf)BUF_CAP(BUF_MAX);
	pthread_mutex_init(&p->lock, NULL);
	o.tools = p->plan.tools;
	o.stops = &p->stops;
	TRY_TO(out, steer_init(&p->steer, plan->tables, plan->constraint, plan->grammar, err));
	TRY_TO(out, stops_init(&p->stops, plan->stop, plan->n_stop, err));
	TRY_TO(out, pieces_init(&p->pieces, &o, err));
	p->reasoning = !plan->raw && plan->thinking == THINKING_ON;
	if (plan->prompt)
		token_append(&p->prompt, plan->prompt->id, plan->prompt->n);
	p->at_prompt = 1;	/* the scheduler has the first */
	token_append(&p->start, plan->start->id, plan->start->n);
	token_append(&p->script, plan->script, (size_t)plan->n_script);
	if (!p->reasoning)
		begin_answer(p);
	if (plan->n_begun && p->steer.active && !steer_begin(&p->steer, plan->begun, plan->n_begun))
		st = err_set(err, ERR_ARGUMENT, "the beginning of the answer is none that the response format allows");
	if (p->prompt.failed || p->start.failed || p->script.failed || p->forced.failed || !p->plan.tools != !plan->tools)
		st = err_set(err, ERR_MEMORY, "no memory for an answer");
out:
	if (st != OK)
		pilot_release(p);
	else
		*out = p;
	return st;
}

void pilot_hold(struct pilot *p)
{
	__atomic_add_fetch(&p->holders, 1, __ATOMIC_RELAXED);
}

void pilot_release(void *ctx)
{
	struct pilot *p = ctx;

	if (!p || __atomic_sub_fetch(&p->holders, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	pieces_clear(&p->pieces);
	stops_clear(&p->stops);
	steer_clear(&p->steer);
	token_list_clear(&p->prompt);
	token_list_clear(&p->start);
	token_list_clear(&p->script);
	token_list_clear(&p->forced);
	token_list_clear(&p->ids);
	mem_free(p->pending);
	json_decref(p->plan.tools);
	buf_clear(&p->box);
	pthread_mutex_destroy(&p->lock);
	mem_free(p);
}
