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
 *       - In a pipe there is nobody to ask: Ctrl-C ends, and the first failure becomes the exit code. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "chat/answer.h"
#include "cli/chat.h"
#include "cli/cli.h"
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

static enum status generate_answer(struct chat *c, struct token_list *prompt, struct err *err)
{
	struct generate_request q = {.engine = c->e, .session = c->session, .sampler = &c->sampler,
				     .stops = c->prompt.stops.n_stop ? &c->prompt.stops : NULL, .prompt = prompt,
				     .max_tokens = (int32_t)c->args->sampling.max_tokens,
				     .thinking = c->prompt.render.thinking, .tools = c->prompt.tools, .ctx = c,
				     .piece = on_piece};
	enum status st;

	TRY(chat_render_ids(c->conversation, &c->prompt.render, c->e->tokenizer, prompt, err));
	c->show = (struct show){.reasoning_to = term_out_tty() ? stdout : NULL};
	cli_clear_interrupted();
	st = generate(&q, &c->result, err);
	show_end(&c->show);
	return st;
}

/* Puts the answer into the conversation, with the ids it was sampled as. */
static enum status remember(struct chat *c, struct err *err)
{
	struct message *m = answer_add(&c->answer, c->conversation);
	char id[32];

	for (size_t i = 0; m && i < m->n_calls; i++) {
		snprintf(id, sizeof id, "call_%d", ++c->calls_made);
		m->calls[i].id.p = mem_str(id);
		m->calls[i].id.n = m->calls[i].id.p ? strlen(id) : 0;
	}
	if (m)
		conversation_set_exact(c->conversation, m, c->e->tokenizer, c->prompt.render.thinking,
				       c->result.ids.id, c->result.ids.n);
	if (!m || c->answer.failed || !conversation_ok(c->conversation))
		return err_set(err, ERR_MEMORY, "no memory for the conversation");
	return OK;
}

static void note_numbers(const struct chat *c)
{
	const struct generate_result *r = &c->result;
	double seconds = r->answer_seconds > 1e-9 ? r->answer_seconds : 1e-9;

	if (!term_out_tty() || !term_err_tty())
		return;
	term_note("%s%zu tokens, %.1f tokens/s", r->cancelled ? "stopped: " : "", r->ids.n,
		  (double)r->ids.n / seconds);
	if (r->full)
		term_note("the context of %d tokens is full: /reset begins a new conversation, "
			  "/undo takes back the last exchange",
			  (int)c->e->opt.context);
}

enum status chat_answer(struct chat *c, struct err *err)
{
	struct token_list prompt = {0};
	enum status st;

	token_list_clear(&c->result.ids);
	answer_clear(&c->answer);
	answer_init(&c->answer);
	st = generate_answer(c, &prompt, err);
	token_list_clear(&prompt);
	if (st == OK && c->result.cancelled && !c->result.ids.n)
		st = err_set(err, ERR_CANCELLED, "stopped before the answer began; the turn is taken back");
	if (st == ERR_LIMIT)
		err_set(err, ERR_LIMIT,
			"the conversation does not fit any more (context of %d tokens): /reset begins a new one, "
			"/undo takes back the last exchange, --ctx makes room",
			(int)c->e->opt.context);
	if (st != OK)
		return st;
	TRY(remember(c, err));
	note_numbers(c);
	return OK;
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
	size_t last = c->conversation->n - 1, n = c->conversation->messages[last].n_calls;
	struct buf text = BUF_CAP(LINE_CAP);
	char prompt[96];
	bool all = true;

	for (size_t i = 0; i < n && all; i++) {
		const struct tool_call *call = &c->conversation->messages[last].calls[i];

		snprintf(prompt, sizeof prompt, "%.60s returns> ", call->name.p ? call->name.p : "tool");
		all = line_read(c->lines, prompt, &text) == LINE_TEXT;
		if (all)
			conversation_add_tool_result(c->conversation, call->id.p, buf_cstr(&text), text.len);
	}
	buf_clear(&text);
	if (!all)
		conversation_cut(c->conversation, last + 1);
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
	conversation_cut(c->conversation, n);
	if (st == ERR_CANCELLED && term_in_tty())
		term_note("%s", err.msg);
	else
		chat_fail(c, &err);
}

static void user_turn(struct chat *c, const char *text, size_t bytes)
{
	size_t n = c->conversation->n;

	conversation_add(c->conversation, ROLE_USER, text, bytes);
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
		if (cli_interrupted() && !term_in_tty())
			break;
		cli_clear_interrupted();	/* it has done its work: the next one is for the prompt */
	}
	buf_clear(&text);
}

/* ------------------------------------------------------------------ begin and end */

enum status chat_reset(struct chat *c, struct err *err)
{
	struct conversation *fresh;

	TRY(prompt_begin(&c->prompt, &fresh, err));
	conversation_free(c->conversation);
	c->conversation = fresh;
	session_reset(c->session);
	return OK;
}

/* $XDG_STATE_HOME/ds4/history, else ~/.local/state/ds4/history; the folders are made.  False: keep none. */
static bool history_path(char *out, size_t room)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int n;

	if (state && state[0] == '/')
		n = snprintf(out, room, "%s/ds4/history", state);
	else if (home && *home)
		n = snprintf(out, room, "%s/.local/state/ds4/history", home);
	else
		return false;
	if (n < 0 || (size_t)n >= room)
		return false;
	for (char *p = strchr(out + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = 0;
		if (mkdir(out, 0700) < 0 && errno != EEXIST)
			return false;
		*p = '/';
	}
	return true;
}

static enum status begin(struct chat *c, struct err *err)
{
	struct sampler_params p;
	char history[4096];

	TRY(cli_open_engine(&c->e, &c->args->engine, NULL, 0, err));
	TRY(prompt_init(&c->prompt, &c->args->prompt, c->e, err));
	TRY(session_open(&c->session, c->e, err));
	TRY(prompt_begin(&c->prompt, &c->conversation, err));
	c->allowed = token_mask_new(c->e->tokenizer);
	if (!c->allowed)
		return err_set(err, ERR_MEMORY, "no memory for the token mask");
	p = cli_sampling(&c->args->sampling, c->e);
	TRY(sampler_init(&c->sampler, &p, c->e->shape.vocab, c->allowed, err));
	return line_open(&c->lines, history_path(history, sizeof history) ? history : NULL, err);
}

static void clear(struct chat *c)
{
	line_close(c->lines);
	answer_clear(&c->answer);
	token_list_clear(&c->result.ids);
	sampler_clear(&c->sampler);
	mem_free(c->allowed);
	conversation_free(c->conversation);
	session_close(c->session);
	prompt_clear(&c->prompt);
	engine_close(c->e);
}

static enum status chat(void *options, struct err *err)
{
	struct chat c = {.args = options};
	enum status st = begin(&c, err);

	if (st == OK) {
		if (term_in_tty() && term_err_tty())
			term_note("%s, %s, %d thread%s, context of %d tokens.  /help lists the commands.",
				  c.e->name, c.e->be->name, c.e->opt.threads, c.e->opt.threads == 1 ? "" : "s",
				  (int)c.e->opt.context);
		talk(&c);
	}
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
	ARG_INCLUDE(struct chat_args, prompt, prompt_arg_table),
	ARG_INCLUDE(struct chat_args, sampling, sampling_arg_table),
	ARG_INCLUDE(struct chat_args, engine, engine_arg_table),
	ARG_END
};

static const char *const chat_examples[] = {
	"ds4",
	"ds4 --think --system 'Answer in one sentence.'",
	"ds4 chat -m big.gguf --ctx 128k",
	"printf 'Hi, I am Anna.\\nWhat is my name?\\n' | ds4 chat",
	NULL
};

static const struct chat_args chat_defaults = {.sampling = SAMPLING_ARGS_DEFAULT};

const struct cli_command chat_command = {
	.args = {"chat", "a conversation (what ds4 alone does)",
		 "Talks over several turns; only what is new is read each time.  Ctrl-C stops an answer and "
		 "keeps the conversation.  Alt-Enter or a backslash at the end continues a line.  When standard "
		 "input is not a terminal, each line of it is a turn.  /help lists the commands of the chat.",
		 chat_args, chat_examples},
	.defaults = &chat_defaults,
	.size = sizeof chat_defaults,
	.run = chat,
};
