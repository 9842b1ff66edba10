/* chat_commands.c - what a line with a slash does in the chat.
 *
 * One table: name, argument, help, function.  A unique beginning of a name is enough (/q, /st). */
#include <stdlib.h>
#include <string.h>

#include "cli/chat.h"
#include "cli/term.h"

struct command {
	const char *name, *argument, *help;
	void (*run)(struct chat *c, const char *argument);
};

static void help(struct chat *c, const char *argument);

static void quit(struct chat *c, const char *argument)
{
	(void)argument;
	c->leave = true;
}

static void reset(struct chat *c, const char *argument)
{
	struct err err = {.code = OK};

	(void)argument;
	if (chat_reset(c, &err) != OK)
		chat_fail(c, &err);
	else
		term_note("a new conversation");
}

static void think(struct chat *c, const char *argument)
{
	if (!strcmp(argument, "on") || !strcmp(argument, "off"))
		c->prompt.render.thinking = argument[1] == 'n' ? THINKING_ON : THINKING_OFF;
	else if (*argument)
		term_note("/think: expected on or off, found '%s'", argument);
	term_note("thinking is %s", c->prompt.render.thinking == THINKING_ON ? "on" : "off");
}

static void system_text(struct chat *c, const char *argument)
{
	if (!*argument) {
		term_note(c->prompt.system.len ? "the system text is: %s" : "there is no system text%s",
			  buf_cstr(&c->prompt.system));
		return;
	}
	buf_cut(&c->prompt.system, 0);
	if (strcmp(argument, "none"))
		buf_str(&c->prompt.system, argument);
	reset(c, "");
}

static void temperature(struct chat *c, const char *argument)
{
	char *end;
	double t = strtod(argument, &end);

	if (*argument && (*end || !(t >= 0 && t <= 10)))
		term_note("/temp: expected a number from 0 to 10, found '%s'", argument);
	else if (*argument)
		c->sampler.p.temperature = (float)t;
	term_note("the temperature is %g", (double)c->sampler.p.temperature);
}

static void stats(struct chat *c, const char *argument)
{
	const struct generate_result *r = &c->result;
	const struct session *session = c->talks.now->session;
	int32_t read = r->prompt_tokens - r->reused;
	int read_now = session ? (int)session_len(session) : 0;

	(void)argument;
	term_note("context: %d of %d tokens; memory beside the weights: %.1f MiB", read_now,
		  (int)c->e->opt.context, (double)c->e->plan.total / 1048576);
	if (!r->ids.n) {
		term_note("no answer yet");
		return;
	}
	term_note("last prompt: %d tokens, %d known, %d read at %.1f tokens/s", (int)r->prompt_tokens,
		  (int)r->reused, (int)read, read / (r->prompt_seconds > 1e-9 ? r->prompt_seconds : 1e-9));
	term_note("last answer: %zu tokens at %.1f tokens/s (%s); seed %llu", r->ids.n - r->n_given,
		  (double)(r->ids.n - r->n_given) / (r->answer_seconds > 1e-9 ? r->answer_seconds : 1e-9),
		  r->full ? "context full" : finish_name(r), (unsigned long long)c->sampler.p.seed);
}

/* Number of the user message that begins the n-th last exchange, or -1. */
static long exchange(const struct conversation *c, long n)
{
	long i = (long)c->n;

	for (; n > 0 && i >= 0; n--)
		for (i--; i >= 0 && c->messages[i].role != ROLE_USER; i--)
			;
	return i;
}

static void rewind_talk(struct chat *c, const char *argument)
{
	char *end;
	long n = *argument ? strtol(argument, &end, 10) : 1, at;
	const char *said;

	if (*argument && (*end || n < 1 || n > 1000000)) {
		term_note("/rewind: expected how many exchanges to take back, found '%s'", argument);
		return;
	}
	at = exchange(chat_now(c), n);
	if (at < 0) {
		term_note(n == 1 ? "there is nothing to take back" : "there are not so many exchanges to take back");
		return;
	}
	said = chat_now(c)->messages[at].content.p;
	term_note("taken back from: %.60s", said ? said : "");
	conversation_cut(chat_now(c), (size_t)at);
	talks_save(&c->talks, false);
}

static void undo(struct chat *c, const char *argument)
{
	(void)argument;
	rewind_talk(c, "1");
}

static void retry(struct chat *c, const char *argument)
{
	long at = exchange(chat_now(c), 1);

	(void)argument;
	if (at < 0) {
		term_note("there is nothing to answer again");
		return;
	}
	conversation_cut(chat_now(c), (size_t)at + 1);
	chat_go_on(c, (size_t)at);
}

static void more(struct chat *c, const char *argument)
{
	const struct conversation *now = chat_now(c);
	const struct message *last = now->n ? &now->messages[now->n - 1] : NULL;
	struct err err = {.code = OK};
	enum status st;

	(void)argument;
	if (!last || last->role != ROLE_ASSISTANT || !last->exact.n || last->n_calls) {
		term_note("there is no answer to go on with");
		return;
	}
	st = chat_more(c, &err);
	if (st != OK)
		chat_fail(c, &err);
}

static const struct command commands[] = {
	{"help", "", "this list", help},
	{"new", "", "a new conversation; this one stays saved", reset},
	{"list", "[all]", "the saved conversations, the latest first", chat_list},
	{"switch", "N|NAME", "goes to another conversation", chat_switch},
	{"save", "[NAME]", "gives this conversation a name", chat_name},
	{"fork", "[NAME]", "goes on in a copy; the original stays", chat_fork},
	{"del", "[N|NAME]", "deletes a conversation (this one)", chat_delete},
	{"rewind", "[N]", "takes back the last N exchanges (1)", rewind_talk},
	{"undo", "", "takes back the last exchange", undo},
	{"retry", "", "another answer to the last question", retry},
	{"more", "", "goes on with an answer that was stopped or cut off", more},
	{"reset", "", "the same as /new", reset},
	{"think", "on|off", "reason before answering", think},
	{"system", "TEXT", "instructions; begins a new conversation (none removes them)", system_text},
	{"temp", "T", "temperature; 0 always takes the likeliest token", temperature},
	{"stats", "", "tokens, speed, memory", stats},
	{"quit", "", "leave (also Ctrl-D)", quit},
};

#define N_COMMANDS (sizeof commands / sizeof *commands)

static void help(struct chat *c, const char *argument)
{
	(void)c;
	(void)argument;
	for (size_t i = 0; i < N_COMMANDS; i++)
		term_note("/%-7s %-9s %s", commands[i].name, commands[i].argument, commands[i].help);
	term_note("Ctrl-C stops an answer.  Alt-Enter, or a backslash at the end, continues a line.  "
		  "A line beginning with // says /.");
}

void chat_command_line(struct chat *c, const char *line)
{
	size_t n = strcspn(line + 1, " \t\n");
	const char *argument = line + 1 + n + strspn(line + 1 + n, " \t\n");
	const struct command *found = NULL;
	int matches = 0;

	for (size_t i = 0; i < N_COMMANDS && n; i++) {
		if (strncmp(commands[i].name, line + 1, n))
			continue;
		found = &commands[i];
		matches++;
		if (!commands[i].name[n]) {
			matches = 1;
			break;
		}
	}
	if (matches == 1)
		found->run(c, argument);
	else if (matches)
		term_note("'%.40s' could be several commands; /help lists them", line);
	else
		term_note("unknown command '%.40s'; /help lists them", line);
}
