/* render.c - the official encoder, step by step; see render.h.
 *
 * What  Messages become turns (neighbouring user and tool messages are one), turns become segments.
 * How   plan_build(): 1. merge, 2. put tool results in the order of their calls, 3. find the last user turn,
 *       4. drop developer turns before it when old reasoning is dropped.  Then each turn is written, followed
 *       by a transition ("<｜Assistant｜><think>") when an answer comes next.
 * Careful
 *       - A tool result counts as user: reasoning of the running tool loop before it is dropped too, unless
 *         tools are declared.
 *       - The opening <think> belongs to the transition, the closing one to the assistant's turn.  In old
 *         turns without reasoning the transition is closed, so both sides must decide alike.
 *       - Where reasoning is kept, sampled ids decide both: a turn sampled in another mode stays as it was read.  Where
 *         it is dropped (no tools, an earlier turn), the prompt leaves what was read at that turn's <think>: the
 *         format says so, and the model was trained so.
 *       - A system message after a user turn leaves no transition at all.  That is the official behaviour.
 * Source: docs/chat.md, sections 2, 3 and 5. */
#include "chat/render.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "chat/dsml.h"

#define EFFORT_PREFIX_A \
	"Reasoning Effort: Absolute maximum with no shortcuts permitted.\n" \
	"You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the " \
	"root cause, rigorously stress-testing your logic against all potential paths, edge cases, and " \
	"adversarial scenarios.\n" \
	"Explicitly write out your entire deliberation process, documenting every intermediate step, considered " \
	"alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n"

#define EFFORT_PREFIX_B \
	"Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n" \
	"You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively " \
	"decompose the problem into its most fundamental components, trace every causal chain to its root, and " \
	"resolve the underlying cause rather than any surface symptom.\n" \
	"Do not stop reasoning until you have independently verified the solution from multiple angles and are " \
	"certain that no assumption remains unchecked and no error remains undiscovered.\n\n"

#define FORMAT_INTRO \
	"\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"

/* One turn of the prompt: a message, or several user and tool messages in a row. */
struct turn {
	enum role role;
	enum task task;
	size_t first, n;	/* order[first..first + n) are its messages */
};

struct plan {
	const struct conversation *c;
	const struct render_options *o;
	struct turn *turns;	/* [n_turns] */
	size_t n_turns, n_context;
	size_t *order;		/* [messages] message numbers as they are written */
	size_t last_user;	/* turn; n_turns when there is none */
	bool drop;		/* reasoning of turns before the last user turn is left out */
};

static bool is_user_side(enum role role)
{
	return role == ROLE_USER || role == ROLE_TOOL;
}

/* 1. Neighbouring user and tool messages share a turn; a user message does not join one that has a task. */
static void merge(struct plan *p)
{
	const struct conversation *c = p->c;
	struct turn *t = NULL;

	for (size_t i = 0; i < c->n; i++) {
		const struct message *m = &c->messages[i];
		bool user_side = is_user_side(m->role);

		p->order[i] = i;
		if (i == c->n_context) {
			p->n_context = p->n_turns;
			t = NULL;
		}
		if (t && user_side && t->role == ROLE_USER && (m->role == ROLE_TOOL || t->task == TASK_NONE)) {
			t->n++;
			continue;
		}
		t = &p->turns[p->n_turns++];
		*t = (struct turn){.role = user_side ? ROLE_USER : m->role, .task = m->task, .first = i, .n = 1};
	}
	if (c->n_context >= c->n)
		p->n_context = p->n_turns;
}

/* The numbers of the calls of one message by id. */
static json_t *call_numbers(const struct message *m)
{
	json_t *numbers = json_object();

	for (size_t i = 0; i < m->n_calls; i++)
		if (m->calls[i].id.n)
			json_object_set_new_nocheck(numbers, m->calls[i].id.p, json_integer((json_int_t)i));
	return numbers;
}

struct result {
	size_t message;
	json_int_t call;	/* number of its call; an unknown id counts as the first */
};

static int by_call(const void *pa, const void *pb)
{
	const struct result *a = pa, *b = pb;

	if (a->call != b->call)
		return a->call < b->call ? -1 : 1;
	return a->message < b->message ? -1 : a->message > b->message;
}

/* 2. Sorts the tool results of one turn by the latest assistant message's calls; texts keep their places. */
static void sort_results(struct plan *p, const struct turn *t, const json_t *numbers, struct result *results)
{
	size_t *order = p->order + t->first, n = 0;

	for (size_t i = 0; i < t->n; i++) {
		const struct message *m = &p->c->messages[order[i]];

		if (m->role != ROLE_TOOL)
			continue;
		results[n].message = order[i];
		results[n++].call = json_integer_value(json_object_get(numbers, m->tool_call_id.p));
	}
	qsort(results, n, sizeof *results, by_call);
	for (size_t i = 0, k = 0; i < t->n; i++)
		if (p->c->messages[order[i]].role == ROLE_TOOL)
			order[i] = results[k++].message;
}

static enum status sort_all_results(struct plan *p, struct err *err)
{
	struct result *results = mem_array(p->c->n, sizeof *results);
	json_t *numbers = NULL;

	if (!results)
		return err_set(err, ERR_MEMORY, "prompt: no memory for %zu messages", p->c->n);
	for (size_t i = 0; i < p->n_turns; i++) {
		const struct turn *t = &p->turns[i];
		const struct message *m = &p->c->messages[t->first];

		if (t->role == ROLE_ASSISTANT && m->n_calls) {
			json_decref(numbers);
			numbers = call_numbers(m);
			if (!numbers) {
				mem_free(results);
				return err_set(err, ERR_MEMORY, "prompt: no memory for its calls");
			}
		} else if (t->role == ROLE_USER && t->n > 1 && numbers) {
			sort_results(p, t, numbers, results);
		}
	}
	json_decref(numbers);
	mem_free(results);
	return OK;
}

/* 3. and 4. */
static void find_last_user(struct plan *p)
{
	p->last_user = p->n_turns;
	for (size_t i = 0; i < p->n_turns; i++)
		if (p->turns[i].role == ROLE_USER || p->turns[i].role == ROLE_DEVELOPER)
			p->last_user = i;
}

static void drop_developers(struct plan *p)
{
	size_t n = 0, n_context = 0;

	for (size_t i = 0; i < p->n_turns; i++) {
		if (p->turns[i].role == ROLE_DEVELOPER && p->last_user < p->n_turns && i < p->last_user)
			continue;
		n_context += i < p->n_context;
		p->turns[n++] = p->turns[i];
	}
	p->n_turns = n;
	p->n_context = n_context;
	find_last_user(p);
}

static enum status plan_build(struct plan *p, struct err *err)
{
	const struct conversation *c = p->c;
	bool tools = false;

	p->turns = mem_array(c->n + 1, sizeof *p->turns);
	p->order = mem_array(c->n + 1, sizeof *p->order);
	if (!p->turns || !p->order)
		return err_set(err, ERR_MEMORY, "prompt: no memory for %zu messages", c->n);
	for (size_t i = 0; i < c->n; i++)
		tools |= json_array_size(c->messages[i].tools) && !is_user_side(c->messages[i].role);
	p->drop = !p->o->keep_reasoning && !tools;
	merge(p);
	TRY(sort_all_results(p, err));
	find_last_user(p);
	if (p->o->thinking == THINKING_ON && p->drop)
		drop_developers(p);
	return OK;
}

/* Is turn i after the last user turn?  Yes when there is none. */
static bool after_last_user(const struct plan *p, size_t i)
{
	return p->last_user == p->n_turns || i > p->last_user;
}

static void write_text(struct sink *s, const struct text *t)
{
	sink_text(s, t->p, t->n);
}

/* Tools and response format behind the text of a system or developer message. */
static void write_attachments(struct sink *s, const struct message *m)
{
	if (json_array_size(m->tools)) {
		sink_str(s, "\n\n");
		dsml_write_tools(s, m->tools);
	}
	if (!m->response_format)
		return;
	sink_str(s, FORMAT_INTRO);
	sink_json(s, m->response_format);
}

static void write_user(const struct plan *p, const struct turn *t, struct sink *s)
{
	sink_control(s, SPECIAL_USER);
	for (size_t i = 0; i < t->n; i++) {
		const struct message *m = &p->c->messages[p->order[t->first + i]];

		sink_str(s, i ? "\n\n" : "");
		sink_str(s, m->role == ROLE_TOOL ? "<tool_result>" : "");
		write_text(s, &m->content);
		sink_str(s, m->role == ROLE_TOOL ? "</tool_result>" : "");
	}
}

/* The sampled ids in place of the texts, as far as they fit what this turn shows.  False: render the texts. */
static bool write_exact(const struct message *m, bool with_reasoning, struct sink *s)
{
	const struct exact *e = &m->exact;
	bool thought = e->thinking == THINKING_ON;

	if (!e->n || (thought && !with_reasoning && !e->closed))
		return false;
	if (thought && with_reasoning) {
		sink_ids(s, e->id, e->n);
		if (!e->closed && !m->n_calls && !m->unfinished)	/* cut off while thinking */
			sink_control(s, SPECIAL_END_THINK);
		return true;
	}
	if (with_reasoning)
		sink_control(s, SPECIAL_END_THINK);
	sink_ids(s, e->id + e->n_reasoning, e->n - e->n_reasoning);
	return true;
}

/* Is turn i an answer whose ids stand where reasoning is kept?  Then it begins as it was sampled, with <think> or
 * without, whatever the mode is now: the prompt extends what was read. */
static bool as_sampled(const struct plan *p, size_t i)
{
	const struct turn *before = i > 0 && i < p->n_turns ? &p->turns[i - 1] : NULL;

	return before && before->task == TASK_NONE && (before->role == ROLE_USER || before->role == ROLE_DEVELOPER) &&
	       p->turns[i].role == ROLE_ASSISTANT && p->c->messages[p->turns[i].first].exact.n &&
	       (!p->drop || after_last_user(p, i));
}

static bool sampled_thinking(const struct plan *p, size_t i)
{
	return p->c->messages[p->turns[i].first].exact.thinking == THINKING_ON;
}

static void write_assistant(const struct plan *p, size_t i, struct sink *s)
{
	const struct message *m = &p->c->messages[p->turns[i].first];
	bool answers_task = i > 0 && p->turns[i - 1].task != TASK_NONE;
	bool with_reasoning = p->o->thinking == THINKING_ON && !answers_task &&
			      (!p->drop || after_last_user(p, i));

	if (as_sampled(p, i))
		with_reasoning = sampled_thinking(p, i);
	if (!write_exact(m, with_reasoning, s)) {
		if (with_reasoning) {
			write_text(s, &m->reasoning);
			sink_control(s, SPECIAL_END_THINK);
		}
		write_text(s, &m->content);
		if (m->n_calls)
			dsml_write_calls(s, m->calls, m->n_calls);
	}
	if (!m->unfinished)
		sink_control(s, SPECIAL_EOS);
}

/* What stands between turn i and an answer. */
static void write_transition(const struct plan *p, size_t i, struct sink *s)
{
	const struct turn *t = &p->turns[i];
	bool thinking = p->o->thinking == THINKING_ON;

	if (t->task != TASK_NONE && t->task != TASK_ACTION) {
		sink_control(s, (enum special)task_special(t->task));
		return;
	}
	if (t->task == TASK_NONE) {
		if (t->role != ROLE_USER && t->role != ROLE_DEVELOPER)
			return;
		thinking = as_sampled(p, i + 1) ? sampled_thinking(p, i + 1) :
						  thinking && (!p->drop || i >= p->last_user);
	}
	sink_control(s, SPECIAL_ASSISTANT);
	sink_control(s, thinking ? SPECIAL_THINK : SPECIAL_END_THINK);
	if (t->task == TASK_ACTION)
		sink_control(s, SPECIAL_ACTION);
}

static enum status write_turn(const struct plan *p, size_t i, struct sink *s, struct err *err)
{
	const struct turn *t = &p->turns[i];
	const struct message *m = &p->c->messages[t->first];

	switch (t->role) {
	case ROLE_DEVELOPER:
		if (!m->content.n)
			return err_set(err, ERR_ARGUMENT, "messages[%zu]: developer: expected content, found none",
				       t->first);
		sink_control(s, SPECIAL_USER);
		/* fall through */
	case ROLE_SYSTEM:
		write_text(s, &m->content);
		write_attachments(s, m);
		break;
	case ROLE_REMINDER:
		sink_control(s, SPECIAL_REMINDER);
		write_text(s, &m->content);
		break;
	case ROLE_ASSISTANT:
		write_assistant(p, i, s);
		break;
	default:
		write_user(p, t, s);
	}
	if (i + 1 == p->n_turns || p->turns[i + 1].role == ROLE_ASSISTANT || p->turns[i + 1].role == ROLE_REMINDER)
		write_transition(p, i, s);
	return OK;
}

/* The text of an effort level, NULL when the profile does not have it. */
static const char *effort_prefix(const struct render_options *o)
{
	static const char *const prefix[2][4] = {
		[PROFILE_PREVIEW] = {[EFFORT_DEFAULT] = "", [EFFORT_HIGH] = "", [EFFORT_MAX] = EFFORT_PREFIX_A},
		[PROFILE_0731] = {[EFFORT_DEFAULT] = "", [EFFORT_LOW] = "", [EFFORT_HIGH] = EFFORT_PREFIX_A,
				  [EFFORT_MAX] = EFFORT_PREFIX_B},
	};

	return prefix[o->profile][o->effort];
}

enum status chat_render(const struct conversation *c, const struct render_options *o, struct sink *sink,
			struct err *err)
{
	struct plan p = {.c = c, .o = o};
	const char *prefix = effort_prefix(o);
	enum status st = OK;

	if (!prefix)
		return err_set(err, ERR_ARGUMENT,
			       "reasoning effort: expected high or max for the preview weights, found low");
	TRY_TO(out, plan_build(&p, err));
	if (!o->no_bos && !c->n_context)
		sink_control(sink, SPECIAL_BOS);
	if (o->thinking == THINKING_ON && !c->n_context && p.n_turns)
		sink_str(sink, prefix);
	for (size_t i = p.n_context; i < p.n_turns; i++)
		TRY_TO(out, write_turn(&p, i, sink, err));
	if (sink->failed)
		st = err_set(err, ERR_MEMORY, "prompt: no memory for its JSON");
out:
	mem_free(p.turns);
	mem_free(p.order);
	return st;
}

enum status chat_render_text(const struct conversation *c, const struct render_options *o,
			     const struct tokenizer *t, struct buf *out, struct err *err)
{
	struct text_sink s;

	text_sink_init(&s, t, out);
	TRY(chat_render(c, o, &s.sink, err));
	return buf_ok(out) ? OK : err_set(err, ERR_MEMORY, "prompt: no memory for its text");
}

enum status chat_render_ids(const struct conversation *c, const struct render_options *o,
			    const struct tokenizer *t, struct token_list *out, struct err *err)
{
	struct id_sink s;
	enum status st, finished;

	id_sink_init(&s, t, out);
	st = chat_render(c, o, &s.sink, err);
	finished = id_sink_finish(&s, st == OK ? err : NULL);
	return st != OK ? st : finished;
}

enum profile profile_guess(const char *name, size_t n)
{
	for (size_t i = 0; i + 4 <= n; i++)
		if (memcmp(name + i, "0731", 4) == 0)
			return PROFILE_0731;
	return PROFILE_PREVIEW;
}
