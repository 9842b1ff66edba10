/* main.c - the one program: picks the sub-command, prints the one sentence of a failure, chooses the exit code.
 *
 * `ds4` alone is the chat; `ds4 -p TEXT` (or -f FILE) is `ds4 run`.  Everything else is named.
 * Exit codes: 0, those of STATUS_MAP (base/status.h), 130 after Ctrl-C. */
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/term.h"

#ifndef DS4_VERSION
#define DS4_VERSION "unknown"
#endif

static const struct cli_command *const commands[] = {
	&chat_command, &run_command, &serve_command, &inspect_command, &tokenize_command, &render_command, &parse_command,
	&logits_command, &perplexity_command, &pull_command, &quantize_command, &imatrix_command,
	&quality_command, &bench_command, &kv_command,
};

#define N_COMMANDS (sizeof commands / sizeof *commands)

/* The line editor takes characters apart with the C library, which needs a UTF-8 locale to do it right.  Numbers
 * keep the C locale: a comma in a float would break every file we write. */
static void set_locale(void)
{
	setlocale(LC_CTYPE, "");
	if (strcmp(nl_langinfo(CODESET), "UTF-8") && !setlocale(LC_CTYPE, "C.UTF-8"))
		setlocale(LC_CTYPE, "en_US.UTF-8");
}

static int fail(enum status st, const struct err *err)
{
	fflush(stdout);
	term_restore();
	if (st == ERR_CANCELLED && cli_interrupted())
		return 130;
	fputs("ds4: ", stderr);
	term_style(stderr, TERM_RED);
	fputs(err->msg[0] ? err->msg : status_text(st), stderr);
	term_style(stderr, TERM_PLAIN);
	fputc('\n', stderr);
	return status_exit_code(st);
}

static int print(struct buf *text)
{
	struct err err = {.code = OK};
	enum status st = OK;

	fwrite(buf_cstr(text), 1, text->len, stdout);
	buf_clear(text);
	st = cli_flush(&err);
	return st == OK ? 0 : fail(st, &err);
}

static int help_width(void)
{
	return term_out_tty() && term_width() < 100 ? term_width() : 100;
}

static int print_overview(void)
{
	const struct arg_command *all[N_COMMANDS + 1] = {NULL};
	struct buf text = BUF_CAP(BUF_MAX);

	for (size_t i = 0; i < N_COMMANDS; i++)
		all[i] = &commands[i]->args;
	args_overview(&text, "ds4", all, help_width());
	buf_str(&text, "Without a command: `ds4` is `ds4 chat`, `ds4 -p TEXT` is `ds4 run`.  "
		       "`ds4 --version` tells the version.\n");
	return print(&text);
}

static int print_help(const struct cli_command *c)
{
	struct buf text = BUF_CAP(BUF_MAX);

	args_help(&text, "ds4", &c->args, c->defaults, help_width());
	return print(&text);
}

static const struct cli_command *find_command(const char *name, struct err *err)
{
	const struct arg_command *all[N_COMMANDS + 1] = {NULL}, *found;

	for (size_t i = 0; i < N_COMMANDS; i++)
		all[i] = &commands[i]->args;
	found = args_command(all, name, err);
	for (size_t i = 0; found && i < N_COMMANDS; i++)
		if (&commands[i]->args == found)
			return commands[i];
	return NULL;
}

static int run_command_line(const struct cli_command *c, int argc, char **argv)
{
	struct err err = {.code = OK};
	void *options = malloc(c->size);
	bool help = false;
	enum status st;

	if (!options)
		return fail(err_set(&err, ERR_MEMORY, "no memory for the options of '%s'", c->args.name), &err);
	memcpy(options, c->defaults, c->size);
	st = args_parse(&c->args, argc, argv, options, &help, &err);
	if (st == OK && help) {
		free(options);
		return print_help(c);
	}
	if (st == OK)
		st = c->run(options, &err);
	if (st == OK)
		st = cli_flush(&err);
	free(options);
	return st == OK ? 0 : fail(st, &err);
}

/* Options without a command: one that names a prompt makes it `run`. */
static const struct cli_command *command_of_options(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "-p", 2) || !strncmp(argv[i], "-f", 2) || !strncmp(argv[i], "--prompt", 8) ||
		    !strcmp(argv[i], "--file") || !strncmp(argv[i], "--file=", 7))
			return &run_command;
	return &chat_command;
}

int main(int argc, char **argv)
{
	struct err err = {.code = OK};
	const struct cli_command *c;
	const char *first = argc > 1 ? argv[1] : NULL;

	set_locale();
	term_init();
	cli_signals_install();
	if (!first)
		return run_command_line(&chat_command, 0, argv + argc);
	if (!strcmp(first, "--version") || !strcmp(first, "-V") || !strcmp(first, "version")) {
		puts("ds4 " DS4_VERSION);
		return 0;
	}
	if (!strcmp(first, "--help") || !strcmp(first, "-h") || (!strcmp(first, "help") && argc == 2))
		return print_overview();
	if (!strcmp(first, "help")) {
		c = find_command(argv[2], &err);
		return c ? print_help(c) : fail(ERR_ARGUMENT, &err);
	}
	if (first[0] == '-')
		return run_command_line(command_of_options(argc - 1, argv + 1), argc - 1, argv + 1);
	c = find_command(first, &err);
	return c ? run_command_line(c, argc - 2, argv + 2) : fail(ERR_ARGUMENT, &err);
}
