/* args.h - command lines from tables: parsing, checking, --help.
 *
 * Each sub-command has one table of rows.  A row says the option's name, the field of the command's options
 * struct that it fills, the legal range and the help text; parsing, error sentences and --help all come from
 * it.  The default is what the field holds before parsing.  Tables nest (ARG_INCLUDE), so that the sampling
 * options of `chat`, `run` and `serve` are written once:
 *
 *	struct sampling { double temp; int64_t top_k; };
 *	struct run { struct sampling sampling; const char *prompt; bool json; struct arg_list files; };
 *
 *	static const struct arg_spec sampling_args[] = {
 *		ARG_GROUP("Sampling"),
 *		ARG_REAL("temp", 't', struct sampling, temp, 0, 5, "T", "0 always takes the likeliest token"),
 *		ARG_INT("top-k", 0, struct sampling, top_k, 0, 1 << 20, "K", "only the K likeliest; 0 = all"),
 *		ARG_END
 *	};
 *	static const struct arg_spec run_args[] = {
 *		ARG_TEXT("prompt", 'p', struct run, prompt, "TEXT", "what to answer"),
 *		ARG_FLAG("json", 0, struct run, json, "one JSON object instead of text"),
 *		ARG_INCLUDE(struct run, sampling, sampling_args),
 *		ARG_REST("FILE", struct run, files, 0, 8, "texts put before the prompt"),
 *		ARG_END
 *	};
 *
 * A row whose field has the wrong type does not compile: FLAG bool, INT int64_t, REAL double, TEXT
 * const char *, CHOICE int (index into a NULL-terminated list), LIST and REST struct arg_list.
 * Strings are borrowed from argv.  Nothing is printed here; nothing is allocated. */
#ifndef DS4_BASE_ARGS_H
#define DS4_BASE_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

#define ARGS_MAX 128		/* rows of a command, included tables counted */
#define ARG_LIST_MAX 64		/* values of one LIST or REST */

struct arg_list {
	const char *item[ARG_LIST_MAX];
	int n;
};

enum arg_kind {
	ARG_KIND_END,
	ARG_KIND_GROUP,		/* a heading in --help */
	ARG_KIND_INCLUDE,
	ARG_KIND_FLAG,		/* --name sets, --no-name clears */
	ARG_KIND_INT,		/* suffixes k, m, g multiply by 1024 each */
	ARG_KIND_REAL,
	ARG_KIND_TEXT,
	ARG_KIND_CHOICE,
	ARG_KIND_LIST,		/* may be given several times */
	ARG_KIND_REST,		/* what is not an option: at least min, at most max of them */
};

struct arg_spec {
	enum arg_kind kind;
	char letter;			/* 0 = none */
	const char *name;		/* without dashes; the heading of a GROUP */
	size_t dest;			/* offset of the field */
	double min, max;		/* INT and REAL: both allowed; REST: how many */
	const char *metavar;
	const char *help;		/* NULL hides the row from --help */
	const char *const *choices;
	const struct arg_spec *include;
};

#define ARG_FIELD(S, field, type) \
	(offsetof(S, field) + 0 * sizeof(char[_Generic(((S *)0)->field, type: 1)]))

#define ARG_GROUP(title) {.kind = ARG_KIND_GROUP, .name = (title)}
#define ARG_INCLUDE(S, field, table) {.kind = ARG_KIND_INCLUDE, .dest = offsetof(S, field), .include = (table)}
#define ARG_FLAG(n, c, S, field, text) \
	{.kind = ARG_KIND_FLAG, .name = (n), .letter = (c), .dest = ARG_FIELD(S, field, bool), .help = (text)}
#define ARG_INT(n, c, S, field, lo, hi, var, text)                                                           \
	{.kind = ARG_KIND_INT, .name = (n), .letter = (c), .dest = ARG_FIELD(S, field, int64_t), .min = (double)(lo), \
	 .max = (double)(hi), .metavar = (var), .help = (text)}
#define ARG_REAL(n, c, S, field, lo, hi, var, text)                                                          \
	{.kind = ARG_KIND_REAL, .name = (n), .letter = (c), .dest = ARG_FIELD(S, field, double), .min = (double)(lo), \
	 .max = (double)(hi), .metavar = (var), .help = (text)}
#define ARG_TEXT(n, c, S, field, var, text)                                                          \
	{.kind = ARG_KIND_TEXT, .name = (n), .letter = (c), .dest = ARG_FIELD(S, field, const char *), \
	 .metavar = (var), .help = (text)}
#define ARG_CHOICE(n, c, S, field, names, text)                                                       \
	{.kind = ARG_KIND_CHOICE, .name = (n), .letter = (c), .dest = ARG_FIELD(S, field, int),        \
	 .choices = (names), .help = (text)}
#define ARG_LIST(n, c, S, field, var, text)                                                              \
	{.kind = ARG_KIND_LIST, .name = (n), .letter = (c), .dest = ARG_FIELD(S, field, struct arg_list), \
	 .metavar = (var), .help = (text)}
#define ARG_REST(var, S, field, lo, hi, text)                                                          \
	{.kind = ARG_KIND_REST, .name = (var), .metavar = (var), .dest = ARG_FIELD(S, field, struct arg_list), \
	 .min = (lo), .max = (hi), .help = (text)}
#define ARG_END {.kind = ARG_KIND_END}

struct arg_command {
	const char *name;		/* "run" */
	const char *summary;		/* one line, for the list of commands */
	const char *about;		/* a paragraph for its --help; NULL = the summary */
	const struct arg_spec *args;
	const char *const *examples;	/* NULL-terminated lines, shown as they are; may be NULL */
};

/* Fills options from argv[0..argc), which starts behind the command's name.  *help becomes true when -h or
 * --help is met: parsing stops there and nothing was checked.  ERR_ARGUMENT with one sentence otherwise. */
enum status args_parse(const struct arg_command *cmd, int argc, char *const *argv, void *options, bool *help,
		       struct err *err);

/* Appends the --help text.  defaults is an options struct as it was before parsing; width is in columns. */
void args_help(struct buf *out, const char *program, const struct arg_command *cmd, const void *defaults,
	       int width);

/* Appends the list of commands.  all ends with NULL. */
void args_overview(struct buf *out, const char *program, const struct arg_command *const *all, int width);

/* Finds a command by name.  NULL with an error that names the nearest one. */
const struct arg_command *args_command(const struct arg_command *const *all, const char *name, struct err *err);

/* Reads a whole number with an optional k, m or g (32k = 32768).  ERR_ARGUMENT names `what` and the range. */
enum status args_int(int64_t *out, const char *what, const char *text, int64_t min, int64_t max, struct err *err);

#endif
