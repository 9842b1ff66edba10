/* chat.c - `ds4` alone: a conversation at the terminal, or lines from a pipe.
 *
 * What  Reads a turn, answers it, and again.  Lines that begin with / are commands (/help lists them).
 * Why   Each turn only reads what is new: the sampled token ids of every answer are kept with its message and put
 *       into the next prompt as they were, so the prompt always extends what the session has read.
 * How   conversation -> chat_render_ids -> generate; the answer goes back into the conversation.
 * Careful
 *       - Ctrl-C while answering keeps what was said as a finished turn.  While the prompt is still being read
 *         nothing was said: the turn is taken back.
 *       - With --think and no tools, the format drops the reasoning of earlier turns: the prompt then differs from what
 *         was read, and the session replays from its last checkpoint.
 *       - What was said is in the conversation's file before it is answered, and each token before it is shown.
 *       - In a pipe there is nobody to ask: Ctrl-C ends, and the first failure becomes the exit code. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "chat/answer.h"
#include "cli/chat.h"
#include "cli/cli.h"
#include "cli/places.h"
#include "cli/show.h"
#include "cli/term.h"
#include "engine/mask.h"

#define LINE_CAP ((size_t)16 << 20)

/* ------------------------------------------------------------------ one answer */

static void on_piece(void *ctx, const struct piece *p)
{
	struct chat *c = ctx;

	answer_take(&c->answer, p);
	show_piece(&c->show, p);
}

/* A token is on its way into the answer: first of all it is kept. */
static void on_token(void *ctx, int32_t id, const float *logits)
{
	struct chat *c = ctx;

	(void)logits;
	if (c->talks.now->log)
		chatlog_token(c->talks.now->log, id);
}

/* The tools that the conversation declares. */
static const json_t *tools_of(const struct conversation *c)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->messages[i].tools)
			return c->messages[i].tools;
	return NULL;
}

/* Samples behind the prompt; the answer's first ids may be given. */
static enum status generate_answer(struct chat *c, const struct token_list *prompt, enum thinking thinking,
				   const int32_t *given, size_t n_given, struct err *err)
{
	struct generate_request q = {.engine = c->e, .sampler = &c->sampler,
				     .stops = c->prompt.stops.n_stop ? &c->prompt.stops : NULL, .prompt = prompt,
				     .given = given, .n_given = n_given,
				     .max_tokens = (int32_t)c->args->sampling.max_tokens, .thinking = thinking,
				     .tools = tools_of(chat_now(c)), .ctx = c, .piece = on_piece, .token = on_token};
	enum status st;

	token_list_clear(&c->result.ids);
	answer_clear(&c->answer);
	answer_init(&c->answer);
	TRY(talks_session(&c->talks, &q.session, err));
	talks_save(&c->talks, false);
	if (c->talks.now->log)
		chatlog_begin(c->talks.now->log, chat_now(c), thinking, given, n_given);
	c->show = (struct show){.reasoning_to = term_out_tty() ? stdout : NULL};
	cli_clear_interrupted();
	term_echo(false);
	st = generate(&q, &c->result, err);
	show_end(&c->show);
	term_echo(true);
	return st;
}

/* Calls so far: their ids are numbers. */
static size_t count_calls(const struct conversation *c)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n; i++)
		n += c->messages[i].n_calls;
	return n;
}

/* Puts the answer into the conversation, with the ids it was sampled as. */
static enum status remember(struct chat *c, enum thinking thinking, struct err *err)
{
	struct conversation *now = chat_now(c);
	size_t calls = count_calls(now);
	struct message *m = answer_add(&c->answer, now);
	char id[32];

	for (size_t i = 0; m && i < m->n_calls; i++) {
		snprintf(id, sizeof id, "call_%zu", ++calls);
		m->calls[i].id.p = mem_str(id);
		m->calls[i].id.n = m->calls[i].id.p ? strlen(id) : 0;
	}
	if (m)
		conversation_set_exact(now, m, c->e->tokenizer, thinking, c->result.ids.id, c->result.ids.n);
	if (!m || !answer_ok(&c->answer) || !conversation_ok(now))
		return err_set(err, ERR_MEMORY, "no memory for the conversation");
	talks_save(&c->talks, false);
	return OK;
}

static void note_numbers(const struct chat *c)
{
	const struct generate_result *r = &c->result;
	double seconds = r->answer_seconds > 1e-9 ? r->answer_seconds : 1e-9;
	size_t n = r->ids.n - r->n_given;

	if (!term_out_tty() || !term_err_tty())
		return;
	term_note("%s%zu token%s, %.1f tokens/s", r->cancelled ? "stopped: " : "", n, n == 1 ? "" : "s",
		  (double)n / seconds);
	if (r->full)
		term_note("the context of %d tokens is full: /new begins a new conversation, "
			  "/undo takes back the last exchange",
			  (int)c->e->opt.context);
}

static enum status too_long(const struct chat *c, struct err *err)
{
	return err_set(err, ERR_LIMIT,
		       "the conversation does not fit any more (context of %d tokens): /new begins another one, "
		       "/undo takes back the last exchange, --ctx makes room",
		       (int)c->e->opt.context);
}

enum status chat_answer(struct chat *c, struct err *err)
{
	enum thinking thinking = c->prompt.render.thinking;
	struct token_list prompt = {0};
	enum status st;

	st = chat_render_ids(chat_now(c), &c->prompt.render, c->e->tokenizer, &prompt, err);
	if (st == OK)
		st = generate_answer(c, &prompt, thinking, NULL, 0, err);
	token_list_clear(&prompt);
	if (st == OK && c->result.cancelled && !c->result.ids.n)
		st = err_set(err, ERR_CANCELLED, "stopped before the answer began; the turn is taken back");
	if (st == ERR_LIMIT)
		return too_long(c, err);
	if (st != OK)
		return st;
	TRY(remember(c, thinking, err));
	note_numbers(c);
	return OK;
}

enum status chat_more(struct chat *c, struct err *err)
{
	struct conversation *now = chat_now(c);
	struct message *m = &now->messages[now->n - 1];
	struct render_options o = c->prompt.render;
	struct token_list prompt = {0}, given = {0};
	enum status st;

	o.thinking = m->exact.thinking;
	token_append(&given, m->exact.id, m->exact.n);
	m->unfinished = true;
	st = chat_render_ids(now, &o, c->e->tokenizer, &prompt, err);
	m->unfinished = false;
	if (st == OK && given.failed)
		st = err_set(err, ERR_MEMORY, "no memory for the answer");
	if (st == OK) {
		now->n--;	/* not there while it is made anew */
		st = generate_answer(c, &prompt, o.thinking, given.id, given.n, err);
		now->n++;
		if (st == OK && c->answer.finished) {
			conversation_cut(now, now->n - 1);
			st = remember(c, o.thinking, err);
		}
		talks_save(&c->talks, false);
	}
	token_list_clear(&given);
	token_list_clear(&prompt);
	if (st == ERR_LIMIT)
		return too_long(c, err);
	if (st == OK)
		note_numbers(c);
	return st;
}

/* ------------------------------------------------------------------ turns */

void chat_fail(struct chat *c, const struct err *err)
{
	fflush(stdout);
	fputs(term_out_tty() ? "" : "ds4: ", stderr);
	term_style(stderr, TERM_RED);
	fputs(err->msg, stderr);
	term_style(stderr, TERM_PLAIN);
	fputc('\n', stderr);
	if (c->failed.code == OK)
		c->failed = *err;
}

/* Asks for the result of each call of the last answer.  False when the user would rather not. */
static bool ask_results(struct chat *c)
{
	size_t last = chat_now(c)->n - 1, n = chat_now(c)->messages[last].n_calls;
	struct buf text = BUF_CAP(LINE_CAP);
	char prompt[96];
	bool all = true;

	for (size_t i = 0; i < n && all; i++) {
		const struct tool_call *call = &chat_now(c)->messages[last].calls[i];

		snprintf(prompt, sizeof prompt, "%.60s returns> ", call->name.p ? call->name.p : "tool");
		all = line_read(c->lines, prompt, &text) == LINE_TEXT;
		if (all)
			conversation_add_tool_result(chat_now(c), call->id.p, buf_cstr(&text), text.len);
	}
	buf_clear(&text);
	if (!all)
		conversation_cut(chat_now(c), last + 1);
	return all;
}

/* Answers what the conversation ends with; on failure it is cut back to n messages. */
void chat_go_on(struct chat *c, size_t n)
{
	struct err err = {.code = OK};
	enum status st;

	do {
		st = chat_answer(c, &err);
	} while (st == OK && c->result.finish == FINISH_TOOL_CALLS && !c->result.cancelled && ask_results(c));
	if (st == OK)
		return;
	conversation_cut(chat_now(c), n);
	talks_save(&c->talks, false);
	if (st == ERR_CANCELLED && term_in_tty())
		term_note("%s", err.msg);
	else
		chat_fail(c, &err);
}

static void user_turn(struct chat *c, const char *text, size_t bytes)
{
	size_t n = chat_now(c)->n;

	conversation_add(chat_now(c), ROLE_USER, text, bytes);
	chat_go_on(c, n);
}

/* The loop.  Ctrl-C twice in a row on an empty line leaves, as Ctrl-D does. */
static void talk(struct chat *c)
{
	struct buf text = BUF_CAP(LINE_CAP);
	int interrupts = 0;

	while (!c->leave) {
		enum line_event got = line_read(c->lines, "> ", &text);

		if (got == LINE_END || (got == LINE_INTERRUPT && (interrupts++ || !term_in_tty())))
			break;
		if (got == LINE_FAILED) {
			chat_fail(c, &(struct err){.code = ERR_LIMIT, .msg = "the line is too long"});
			break;
		}
		if (got == LINE_INTERRUPT)
			term_note("(Ctrl-C again, Ctrl-D or /quit leaves)");
		if (got != LINE_INTERRUPT)
			interrupts = 0;
		if (got != LINE_TEXT || text.len == strspn(buf_cstr(&text), " \t\n"))
			continue;
		if (text.data[0] != '/')
			user_turn(c, text.data, text.len);
		else if (text.data[1] == '/')		/* "//etc" says "/etc" */
			user_turn(c, text.data + 1, text.len - 1);
		else
			chat_command_line(c, buf_cstr(&text));
		if (cli_ending() || (cli_interrupted() && !term_in_tty()))
			break;
		cli_clear_interrupted();	/* it has done its work: the next one is for the prompt */
	}
	buf_clear(&text);
}

/* ------------------------------------------------------------------ begin and end */

enum status chat_reset(struct chat *c, struct err *err)
{
	struct conversation *fresh;

	c->talks.now->thinking = c->prompt.render.thinking;
	TRY(prompt_begin(&c->prompt, &fresh, err));
	return talks_begin(&c->talks, fresh, err);
}

/* The last question and answer, so that one knows where one was. */
static void show_last(struct chat *c)
{
	const struct conversation *now = chat_now(c);
	size_t i = now->n;

	while (i > 0 && now->messages[i - 1].role != ROLE_USER)
		i--;
	if (!i || !term_out_tty())
		return;
	term_note("> %.300s", now->messages[i - 1].content.n ? now->messages[i - 1].content.p : "");
	c->show = (struct show){0};
	for (; i < now->n; i++) {
		const struct message *m = &now->messages[i];
		struct piece p = {.kind = PIECE_CONTENT, .text = m->content.p, .n = m->content.n};

		if (m->role == ROLE_ASSISTANT && m->content.n)
			show_piece(&c->show, &p);
	}
	show_end(&c->show);
}

void chat_entered(struct chat *c, const struct chatlog_info *info, bool read)
{
	const struct talk *now = c->talks.now;

	if ((read && info->tokens) || !read)
		c->prompt.render.thinking = now->thinking;
	if (term_in_tty() && now->name[0])
		term_note("%s:", now->name);
	show_last(c);
	if (read && info->damaged)
		term_note("its file is damaged: what is behind the damage is left out, the file is kept as %s.chat.damaged",
			  now->id);
	if (read && info->other_vocabulary)
		term_note("it was held with another model (%s): it goes on as a copy", info->model);
	if (read && info->cut_off)
		term_note("the last answer was cut off: /more goes on with it");
}

enum status chat_enter(struct chat *c, const char *id, struct err *err)
{
	struct chatlog_info info;
	bool read;

	c->talks.now->thinking = c->prompt.render.thinking;
	TRY(talks_enter(&c->talks, id, &info, &read, err));
	chat_entered(c, &info, read);
	return OK;
}

/* --continue and --conversation NAME, which makes what it does not find. */
static enum status begin_talk(struct chat *c, struct err *err)
{
	const struct chat_args *a = c->args;
	struct conversation *fresh;
	char id[TALK_ID];
	enum status st;

	if (a->go_on && a->conversation)
		return err_set(err, ERR_ARGUMENT, "--continue and --conversation exclude each other");
	TRY(prompt_begin(&c->prompt, &fresh, err));
	TRY(talks_begin(&c->talks, fresh, err));
	if (!a->go_on && !a->conversation)
		return OK;
	st = a->go_on ? talks_latest(&c->talks, id, err) : talks_find(&c->talks, a->conversation, id, err);
	if (st == ERR_NOT_FOUND && a->conversation) {
		err->code = OK;
		err->msg[0] = 0;
		snprintf(c->talks.now->name, sizeof c->talks.now->name, "%s", a->conversation);
		return OK;
	}
	if (st != OK)
		return st;
	st = chat_enter(c, id, err);
	if (a->prompt.think || a->prompt.no_think)
		c->prompt.render.thinking = a->prompt.think ? THINKING_ON : THINKING_OFF;
	return st;
}

/* Where conversations are kept; false: nowhere. */
static bool chats_folder(const struct chat *c, char out[PLACE_SIZE])
{
	if (c->args->chats)
		return snprintf(out, PLACE_SIZE, "%s", c->args->chats) < PLACE_SIZE;
	return place_chats(out);
}

/* Conversations with a person are saved, and those that were asked for by name or folder; a script's are not. */
static bool is_saving(const struct chat *c)
{
	return term_in_tty() || c->args->chats || c->args->conversation || c->args->go_on;
}

/* While somebody thinks what to ask, the disk tier writes what has waited. */
static void on_idle(void *ctx)
{
	struct chat *c = ctx;

	tree_poll(c->e->tree);
}

static enum status open_lines(struct chat *c, struct err *err)
{
	char history[PLACE_SIZE];
	bool keep = place_history(history) && place_make(history, NULL) == OK;

	TRY(line_open(&c->lines, keep ? history : NULL, err));
	line_set_idle(c->lines, on_idle, c);
	return OK;
}

static enum status begin(struct chat *c, struct err *err)
{
	struct sampler_params p;
	char folder[PLACE_SIZE];

	TRY(cli_open_engine(&c->e, &c->args->engine, NULL, 0, err));
	TRY(prompt_init(&c->prompt, &c->args->prompt, c->e, err));
	TRY(talks_init(&c->talks, c->e, chats_folder(c, folder) ? folder : NULL, is_saving(c), err));
	if (is_saving(c) || c->args->kv.dir)
		TRY(cli_open_kv(&c->kv, &c->args->kv, c->e, err));
	if (term_in_tty() && term_err_tty())
		term_note("%s, %s, %d thread%s, context of %d tokens.  /help lists the commands.", c->e->name,
			  c->e->be->name, c->e->opt.threads, c->e->opt.threads == 1 ? "" : "s", (int)c->e->opt.context);
	TRY(begin_talk(c, err));
	c->allowed = token_mask_new(c->e->tokenizer);
	if (!c->allowed)
		return err_set(err, ERR_MEMORY, "no memory for the token mask");
	p = cli_sampling(&c->args->sampling, c->e);
	TRY(sampler_init(&c->sampler, &p, c->e->shape.vocab, c->allowed, err));
	return open_lines(c, err);
}

static void clear(struct chat *c)
{
	line_close(c->lines);
	answer_clear(&c->answer);
	token_list_clear(&c->result.ids);
	sampler_clear(&c->sampler);
	mem_free(c->allowed);
	talks_clear(&c->talks);
	cli_close_kv(c->kv);
	prompt_clear(&c->prompt);
	engine_close(c->e);
}

static enum status chat(void *options, struct err *err)
{
	struct chat c = {.args = options};
	enum status st;

	cli_end_in_order();	/* a closed window is no reason to lose what was read */
	st = begin(&c, err);

	if (st == OK)
		talk(&c);
	clear(&c);
	if (st != OK || term_in_tty())
		return st;
	if (cli_interrupted())
		return err_set(err, ERR_CANCELLED, "stopped");
	/* Each failure was told when it happened; the exit code tells of the first. */
	if (c.failed.code != OK)
		return err_set(err, c.failed.code, "not every line was answered: %s", c.failed.msg);
	return OK;
}

static const struct arg_spec chat_args[] = {
	ARG_GROUP("Conversations"),
	ARG_FLAG("continue", 'C', struct chat_args, go_on, "go on with the latest saved conversation"),
	ARG_TEXT("conversation", 0, struct chat_args, conversation, "NAME",
		 "go on with this one (a name, its beginning, a title), or begin it"),
	ARG_TEXT("chats", 0, struct chat_args, chats, "DIR",
		 "where they are saved ($XDG_DATA_HOME/ds4/chats, ~/.local/share/ds4/chats)"),
	ARG_INCLUDE(struct chat_args, prompt, prompt_arg_table),
	ARG_INCLUDE(struct chat_args, sampling, sampling_arg_table),
	ARG_INCLUDE(struct chat_args, kv, kv_arg_table),
	ARG_INCLUDE(struct chat_args, engine, engine_arg_table),
	ARG_END
};

static const char *const chat_examples[] = {
	"ds4",
	"ds4 --continue",
	"ds4 --think --system 'Answer in one sentence.'",
	"ds4 chat -m big.gguf --ctx 128k",
	"printf 'Hi, I am Anna.\\nWhat is my name?\\n' | ds4 chat",
	NULL
};

static const struct chat_args chat_defaults = {.sampling = SAMPLING_ARGS_DEFAULT, .kv = KV_ARGS_DEFAULT};

const struct cli_command chat_command = {
	.args = {"chat", "a conversation (what ds4 alone does)",
		 "Talks over several turns; only what is new is read each time.  Ctrl-C stops an answer and "
		 "keeps the conversation.  Conversations held at a terminal are saved as they go: /list and /switch come "
		 "back to them, --continue does after a restart.  Alt-Enter or a backslash at the end continues a line.  "
		 "When standard input is not a terminal, each line of it is a turn.  /help lists the commands of the chat.",
		 chat_args, chat_examples},
	.defaults = &chat_defaults,
	.size = sizeof chat_defaults,
	.run = chat,
};
