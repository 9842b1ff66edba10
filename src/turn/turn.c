/* turn.c - the reader's side of an answer: open, start, mails -> events, the end; see turn.h.
 *
 *   TURN_OPEN --turn_start--> STARTED --SCHED_DONE and all notes handed out--> ENDED
 *
 * How   The mailbox brings what the scheduler says; texts and calls lie as notes in the pilot's box and are fetched when
 *       a TOKEN or DONE mail says so.  So everything is told in the order in which it came about.
 * Careful
 *       - take() may say stop in the middle of what was fetched: the rest waits for the next turn_read().
 *       - After SCHED_DONE the pilot belongs to the reader.  Its `pieces` know how the answer ended; what the
 *         scheduler says counts only when they do not (pilot.c cancels when an answer is over).
 *       - A cancel before worker_submit() would be forgotten by it: turn_start() looks again. */
#include <string.h>

#include "base/mem.h"
#include "turn/turn_int.h"

enum { MAIL_ROOM = 64 };

struct turn {
	struct turn_context c;
	struct conversation *conversation;	/* NULL: raw */
	struct token_list prompt;
	enum thinking thinking;		/* the prompt ends inside the reasoning */
	int32_t end[PROMPT_ENDS], n_end;
	struct sched_request request;
	struct pilot *pilot;
	struct mailbox *mailbox;
	int cancelled;			/* by turn_cancel(); atomic */
	bool one_by_one;		/* the prompt is read so, for its log-probabilities */
	bool started, answering, done, ended;
	struct mail last;		/* SCHED_DONE, when done */

	struct buf notes;		/* fetched; from `at` on not handed out */
	size_t at;
	struct answer answer;
	char (*call_id)[REPLAY_CALL_ID_SIZE];	/* [answer.n_calls] */
	char carrier[REPLAY_CARRIER_SIZE];
	struct turn_usage usage;
};

/* ------------------------------------------------------------------ opening */

static enum status check_request(const struct turn_context *c, const struct turn_request *q, struct err *err)
{
	const struct sampler_params *s = &q->sampling;
	json_t *tools = prompt_tools(q->conversation);

	TRY(sampler_check(s, err));
	if (q->top_logprobs < -1 || q->top_logprobs > 20)
		return err_set(err, ERR_ARGUMENT, "top_logprobs: expected 0 to 20, got %d", (int)q->top_logprobs);
	if (q->prompt_logprobs && q->top_logprobs < 0)
		return err_set(err, ERR_ARGUMENT, "prompt_logprobs: expected top_logprobs from 0 on");
	if (q->priority < -4 || q->priority > 4)
		return err_set(err, ERR_ARGUMENT, "priority: expected -4 to 4, got %d", (int)q->priority);
	if (q->format == TURN_FORMAT_JSON_SCHEMA && !q->schema)
		return err_set(err, ERR_ARGUMENT, "response_format: the schema is missing");
	if (q->tool_choice == TOOL_CHOICE_REQUIRED && !tools)
		return err_set(err, ERR_ARGUMENT, "tool_choice: a call is required, but no tools are declared");
	if (q->tool_choice == TOOL_CHOICE_NAMED &&
	    (!q->tool_name || !dsml_find_tool(tools, q->tool_name, strlen(q->tool_name))))
		return err_set(err, ERR_ARGUMENT, "tool_choice: the tool \"%.100s\" is not declared",
			       q->tool_name ? q->tool_name : "");
	for (int32_t i = 0; i < q->n_raw && !q->conversation; i++)
		if (q->raw[i] < 0 || q->raw[i] >= c->engine->shape.vocab)
			return err_set(err, ERR_ARGUMENT, "prompt: expected token ids from 0 to %d, got %d",
				       (int)c->engine->shape.vocab - 1, (int)q->raw[i]);
	return OK;
}

static enum status check_length(const struct turn *t, const struct turn_request *q, struct err *err)
{
	int32_t context = t->c.engine->opt.context;
	size_t n = t->prompt.n, most = (size_t)context - (q->max_tokens != 0);

	if (!n)
		return err_set(err, ERR_ARGUMENT, "the prompt is empty");
	if (n > most)
		return err_set(err, ERR_LIMIT, "prompt is too long: %zu tokens > %d maximum", n, (int)context);
	return OK;
}

/* The tokens that begin a call: required, or of a named tool. */
static void write_start(const struct turn_tables *x, const struct turn_request *q, struct token_list *out)
{
	struct buf name = BUF_CAP(BUF_MAX);

	if (q->tool_choice != TOOL_CHOICE_REQUIRED && q->tool_choice != TOOL_CHOICE_NAMED)
		return;
	token_encode_text(x->tokenizer, "\n\n<", 3, out);
	token_push(out, x->dsml);
	token_encode_text(x->tokenizer, "tool_calls>\n<", strlen("tool_calls>\n<"), out);
	token_push(out, x->dsml);
	buf_str(&name, "invoke name=\"");
	if (q->tool_choice == TOOL_CHOICE_NAMED) {
		buf_str(&name, q->tool_name);
		buf_str(&name, "\">\n");
	}
	token_encode_text(x->tokenizer, buf_cstr(&name), name.len, out);
	out->failed |= !buf_ok(&name);
	buf_clear(&name);
}

/* What the answer must be: calls where one is forced, a format, strict arguments. */
static enum status choose_grammar(struct pilot_plan *plan, const struct turn_request *q, struct err *err)
{
	bool forced = q->tool_choice == TOOL_CHOICE_REQUIRED || q->tool_choice == TOOL_CHOICE_NAMED;
	json_t *any = q->format == TURN_FORMAT_JSON_OBJECT ? json_pack("{s:s}", "type", "object") : NULL;
	struct grammar_options o = {.tools = plan->tools, .one_call = q->one_call, .strict = q->strict_tools};
	enum status st = OK;

	plan->constraint = CONSTRAINT_NONE;
	if (plan->script)
		goto out;
	if (q->tool_choice == TOOL_CHOICE_NAMED)
		o.only_tool = q->tool_name;
	if (!forced && q->format != TURN_FORMAT_TEXT)
		o.schema = any ? any : q->schema;
	if (forced || o.schema)
		plan->constraint = CONSTRAINT_ANSWER;
	else if (q->strict_tools && grammar_any_strict(plan->tools))
		plan->constraint = CONSTRAINT_CALLS;
	if (plan->constraint != CONSTRAINT_NONE)
		st = grammar_new(&plan->grammar, &o, err);
out:
	json_decref(any);
	return st;
}

static enum status open_pilot(struct turn *t, const struct turn_request *q, struct err *err)
{
	int32_t room = t->c.engine->opt.context - (int32_t)t->prompt.n;
	struct token_list start = {0};
	struct pilot_plan plan = {
		.tables = t->c.tables, .mailbox = t->mailbox, .raw = !t->conversation, .one_call = q->one_call,
		.thinking = t->thinking, .tools = prompt_tools(t->conversation), .stop = q->stop, .n_stop = q->n_stop,
		.budget = q->thinking_budget, .top_logprobs = q->top_logprobs, .start = &start, .script = q->script,
		.n_script = q->n_script};
	const struct conversation *c = t->conversation;
	const struct message *last = c && c->n ? &c->messages[c->n - 1] : NULL;
	enum status st;

	plan.tools_active = plan.tools != NULL;
	plan.prompt = q->prompt_logprobs ? &t->prompt : NULL;
	plan.limit = q->max_tokens >= 0 && q->max_tokens < room ? q->max_tokens : room;
	if (last && last->role == ROLE_ASSISTANT && last->unfinished) {
		plan.begun = last->content.p;
		plan.n_begun = last->content.n;
	}
	TRY(choose_grammar(&plan, q, err));
	write_start(t->c.tables, q, &start);
	if (start.failed)
		grammar_free(plan.grammar);
	st = start.failed ? err_set(err, ERR_MEMORY, "no memory for an answer") : pilot_new(&t->pilot, &plan, err);
	token_list_clear(&start);
	return st;
}

/* Renders; n_prompt is set when that went well. */
static enum status open_prompt(struct turn *t, struct turn_request *q, int32_t *n_prompt, struct err *err)
{
	const struct tokenizer *k = t->c.engine->tokenizer;

	TRY(check_request(&t->c, q, err));
	TRY(prompt_make(&t->c, q, &t->prompt, err));
	if (t->prompt.n > INT32_MAX)
		return err_set(err, ERR_LIMIT, "prompt is too long: %zu tokens", t->prompt.n);
	if (n_prompt)
		*n_prompt = (int32_t)t->prompt.n;
	if (t->conversation && t->prompt.n && t->prompt.id[t->prompt.n - 1] == tokenizer_special(k, SPECIAL_THINK))
		t->thinking = THINKING_ON;
	return OK;
}

/* The scheduler gets the first token of the prompt; the pilot picks the others.  One of them may be an end of sentence. */
static void read_one_by_one(struct turn *t)
{
	struct sched_request *r = &t->request;

	t->one_by_one = true;
	r->max_tokens = r->max_tokens < INT32_MAX - r->n ? r->max_tokens + r->n - 1 : INT32_MAX;
	r->n = 1;
	r->n_message_end = 0;
	r->n_stop = 0;
}

static enum status open_rest(struct turn *t, const struct turn_request *q, struct err *err)
{
	const struct tokenizer *k = t->c.engine->tokenizer;

	TRY(check_length(t, q, err));
	TRY(mailbox_open(&t->mailbox, MAIL_ROOM, err));
	TRY(open_pilot(t, q, err));
	t->n_end = prompt_message_ends(k, t->prompt.id, (int32_t)t->prompt.n, t->end);
	t->request = (struct sched_request){
		.token = t->prompt.id, .n = (int32_t)t->prompt.n, .message_end = t->end, .n_message_end = t->n_end,
		.max_tokens = q->max_tokens < 0 ? INT32_MAX : q->max_tokens, .stop = &t->c.tables->eos, .n_stop = 1,
		.sampling = q->sampling, .allowed = t->c.tables->mask, .priority = q->priority, .pick = pilot_pick,
		.ctx = t->pilot};
	if (q->prompt_logprobs)
		read_one_by_one(t);
	if (t->c.replay)
		replay_carrier(t->carrier);
	return OK;
}

static struct turn *turn_new(const struct turn_context *c, struct turn_request *q)
{
	struct turn *t = mem_zero(sizeof *t);

	if (!t) {
		conversation_free(q->conversation);
		return NULL;
	}
	t->c = *c;
	t->conversation = q->conversation;
	t->notes = (struct buf)BUF_CAP(BUF_MAX);
	answer_init(&t->answer);
	return t;
}

enum status turn_open(struct turn **out, const struct turn_context *c, struct turn_request *q, int32_t *n_prompt,
		      struct err *err)
{
	struct turn *t = turn_new(c, q);
	enum status st = OK;

	*out = NULL;
	if (n_prompt)
		*n_prompt = 0;
	if (!t)
		return err_set(err, ERR_MEMORY, "no memory for a turn");
	TRY_TO(out, open_prompt(t, q, n_prompt, err));
	TRY_TO(out, open_rest(t, q, err));
out:
	q->conversation = NULL;
	if (st != OK)
		turn_close(t);
	else
		*out = t;
	return st;
}

enum status turn_count(const struct turn_context *c, struct turn_request *q, int32_t *n_prompt, struct err *err)
{
	struct turn *t = turn_new(c, q);
	enum status st;

	*n_prompt = 0;
	if (!t)
		return err_set(err, ERR_MEMORY, "no memory for a turn");
	st = open_prompt(t, q, n_prompt, err);
	q->conversation = NULL;
	turn_close(t);
	return st;
}

void turn_close(struct turn *t)
{
	if (!t)
		return;
	mailbox_close(t->mailbox);
	pilot_release(t->pilot);
	conversation_free(t->conversation);
	token_list_clear(&t->prompt);
	buf_clear(&t->notes);
	answer_clear(&t->answer);
	mem_free(t->call_id);
	mem_free(t);
}

int32_t turn_prompt_tokens(const struct turn *t)
{
	return (int32_t)t->prompt.n;
}

const int32_t *turn_prompt(const struct turn *t)
{
	return t->prompt.id;
}

const int32_t *turn_answer(const struct turn *t, int32_t *n)
{
	*n = t->done ? (int32_t)t->pilot->ids.n : 0;
	return t->pilot->ids.id;
}

/* ------------------------------------------------------------------ running */

enum status turn_start(struct turn *t, void (*notify)(void *ctx), void *ctx, struct err *err)
{
	enum status st;

	if (t->started)
		return err_set(err, ERR_ARGUMENT, "this turn was started already");
	mailbox_set_hooks(t->mailbox, &(struct mailbox_hooks){.notify = notify, .ctx = ctx, .release = pilot_release});
	pilot_hold(t->pilot);
	st = worker_submit(t->c.worker, &t->request, t->mailbox, err);
	if (st != OK) {
		pilot_release(t->pilot);
		return st;
	}
	t->started = true;
	if (__atomic_load_n(&t->cancelled, __ATOMIC_SEQ_CST))
		mailbox_cancel(t->mailbox);
	return OK;
}

void turn_cancel(struct turn *t)
{
	__atomic_store_n(&t->cancelled, 1, __ATOMIC_SEQ_CST);
	mailbox_cancel(t->mailbox);
}

/* ------------------------------------------------------------------ events */

static struct turn_event event_of(const struct turn *t, enum turn_kind kind)
{
	return (struct turn_event){.kind = kind, .usage = t->usage, .carrier = t->carrier, .stop = -1};
}

static enum turn_kind kind_of(enum piece_kind kind)
{
	static const enum turn_kind map[] = {
		[PIECE_REASONING] = TURN_REASONING, [PIECE_CONTENT] = TURN_CONTENT,
		[PIECE_TOOL_BEGIN] = TURN_CALL_BEGIN, [PIECE_TOOL_ARGUMENTS] = TURN_CALL_ARGUMENTS,
		[PIECE_TOOL_END] = TURN_CALL_END,
	};

	return map[kind];
}

/* A new call gets its id.  NULL without memory. */
static const char *new_call_id(struct turn *t, size_t index)
{
	char (*more)[REPLAY_CALL_ID_SIZE] = mem_grow(t->call_id, index + 1, sizeof *more);

	if (!more)
		return NULL;
	t->call_id = more;
	replay_call_id(more[index]);
	return more[index];
}

/* Hands out the note at t->at. */
static bool hand_note(struct turn *t, bool (*take)(void *ctx, const struct turn_event *ev), void *ctx)
{
	const char *p = t->notes.data + t->at;
	struct note note;
	struct turn_event ev;
	size_t size;

	memcpy(&note, p, sizeof note);
	size = sizeof note + note.n_logprob * sizeof(struct turn_logprob);
	ev = event_of(t, note.kind == NOTE_PROMPT ? TURN_READ : kind_of((enum piece_kind)note.kind));
	ev.logprob = (const void *)(p + sizeof note);
	ev.n_logprob = (int)note.n_logprob;
	ev.text = p + size;
	ev.n = note.n;
	ev.index = note.index;
	t->at += (size + note.n + 8) / 8 * 8;
	if (note.kind == NOTE_PROMPT) {
		ev.done = (int32_t)note.index;
		ev.total = (int32_t)t->prompt.n;
		return take(ctx, &ev);
	}
	t->answering = true;
	if (t->c.replay)
		answer_take(&t->answer, &(struct piece){.kind = (enum piece_kind)note.kind, .index = note.index,
							.text = ev.text, .n = note.n});
	if (ev.kind == TURN_CALL_BEGIN && !new_call_id(t, ev.index))
		t->answer.failed = true;
	else if (ev.kind >= TURN_CALL_BEGIN)
		ev.call_id = t->call_id[ev.index];
	return take(ctx, &ev);
}

/* False: take said stop. */
static bool hand_notes(struct turn *t, bool (*take)(void *ctx, const struct turn_event *ev), void *ctx)
{
	while (t->at < t->notes.len)
		if (!hand_note(t, take, ctx))
			return false;
	buf_cut(&t->notes, 0);
	t->at = 0;
	return true;
}

static bool on_mail(struct turn *t, const struct mail *m, bool (*take)(void *ctx, const struct turn_event *ev), void *ctx)
{
	struct turn_event ev;

	t->usage.prompt = (int32_t)t->prompt.n;
	switch (m->ev.kind) {
	case SCHED_WAITING:
		ev = event_of(t, TURN_WAITING);
		ev.wait = m->ev.wait;
		return take(ctx, &ev);
	case SCHED_STARTED:
		t->usage.cached = m->ev.done;
		ev = event_of(t, TURN_STARTED);
		ev.done = m->ev.done;
		ev.total = (int32_t)t->prompt.n;
		return take(ctx, &ev);
	case SCHED_READ:
		if (t->answering || t->one_by_one)	/* repeated after a failed step; told by the pilot */
			return true;
		ev = event_of(t, TURN_READ);
		ev.done = m->ev.done;
		ev.total = m->ev.total;
		return take(ctx, &ev);
	case SCHED_TOKEN:
		pilot_fetch(t->pilot, &t->notes);
		return true;
	case SCHED_DONE:
		t->done = true;
		t->last = *m;
		pilot_finish(t->pilot);
		pilot_fetch(t->pilot, &t->notes);
		return true;
	}
	return true;
}

/* ------------------------------------------------------------------ the end */

static enum turn_finish finish_of(struct turn *t, struct err *err)
{
	const struct pilot *p = t->pilot;
	const struct sched_event *ev = &t->last.ev;

	if (p->failed || !buf_ok(&t->notes) || !answer_ok(&t->answer)) {
		err_set(err, ERR_MEMORY, "no memory for the answer's text");
		return TURN_ERROR;
	}
	if (ev->finish == SCHED_FINISH_ERROR) {
		*err = t->last.error;
		return TURN_ERROR;
	}
	if (p->pieces.stopped)
		return TURN_STOP_STRING;
	if (p->cut_short)
		return ev->finish == SCHED_FINISH_CANCELLED ? TURN_CANCELLED :
		       p->closing ? TURN_TOOL_CALLS : ev->finish == SCHED_FINISH_CONTEXT ? TURN_CONTEXT : TURN_LENGTH;
	return p->pieces.finish == FINISH_TOOL_CALLS ? TURN_TOOL_CALLS :
	       p->pieces.finish == FINISH_LENGTH ? TURN_LENGTH : TURN_STOP;
}

/* Remembers the answer for exact replay, unless it ended inside a call or the reader was told something else. */
static void remember(struct turn *t)
{
	const struct answer *a = &t->answer;
	const char **id = NULL;
	struct token_list ids = {0};

	if (!t->c.replay || !t->conversation || t->pilot->call_dropped)
		return;
	for (size_t i = 0; i < a->n_calls; i++)
		if (!a->calls[i].complete)
			return;
	id = mem_array(a->n_calls + 1, sizeof *id);
	for (size_t i = 0; id && i < a->n_calls; i++)
		id[i] = t->call_id[i];
	if (id && history_ids(t->c.tables, &t->pilot->ids, &a->content, t->pilot->pieces.stopped, &ids))
		replay_remember(t->c.replay, t->conversation, a, id, t->thinking, ids.id, ids.n, t->carrier, NULL);
	token_list_clear(&ids);
	mem_free(id);
}

static void finish(struct turn *t, bool (*take)(void *ctx, const struct turn_event *ev), void *ctx)
{
	struct turn_event ev;
	struct err err = {0};
	enum turn_finish how = finish_of(t, &err);

	t->usage.generated = (int32_t)t->pilot->ids.n;
	t->usage.reasoning = t->pilot->n_reasoning;
	if (how != TURN_ERROR)
		remember(t);
	ev = event_of(t, TURN_FINISH);
	ev.finish = how;
	ev.stop = t->pilot->stops.hit;
	ev.err = how == TURN_ERROR ? &err : NULL;
	t->ended = true;
	take(ctx, &ev);
}

bool turn_read(struct turn *t, double seconds, bool (*take)(void *ctx, const struct turn_event *ev), void *ctx)
{
	struct mail m;

	while (!t->ended) {
		if (!hand_notes(t, take, ctx)) {
			turn_cancel(t);
			return true;
		}
		if (t->done) {
			finish(t, take, ctx);
			break;
		}
		if (!mailbox_read(t->mailbox, &m, seconds))
			return true;
		seconds = 0;
		if (!on_mail(t, &m, take, ctx)) {
			turn_cancel(t);
			return true;
		}
	}
	return false;
}
