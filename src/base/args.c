/* args.c - reads command lines by table, and writes --help from the same table.
 *
 * What  "--name value", "--name=value", "-n value", "-nvalue", flags clustered as "-ab", "--no-name" for a
 *       flag, "--" before words that are not options, "-" as a word of its own.
 * Why   A table cannot forget to document an option, and every error sentence has the same three parts:
 *       the option, what it takes, what was found.
 * How   The nested tables are flattened once; then argv is walked from left to right.
 * Careful
 *       - A value may begin with a dash (a prompt, a negative number): the word after an option that takes a
 *         value is always its value.
 *       - Unlike getopt_long, abbreviations are refused: a script must not change meaning when an option is
 *         added.  They get a suggestion. */
#include "base/args.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct row {
	const struct arg_spec *spec;
	char *field;
};

struct table {
	struct row row[ARGS_MAX];
	int n;
};

/* Options as offsets from base: reading defaults and writing results use the same walk. */
static void flatten(struct table *t, const struct arg_spec *spec, char *base)
{
	for (; spec->kind != ARG_KIND_END; spec++) {
		if (spec->kind == ARG_KIND_INCLUDE) {
			flatten(t, spec->include, base + spec->dest);
			continue;
		}
		assert(t->n < ARGS_MAX);
		t->row[t->n++] = (struct row){spec, base + spec->dest};
	}
}

static bool is_option(const struct arg_spec *s)
{
	return s->kind >= ARG_KIND_FLAG && s->kind <= ARG_KIND_LIST;
}

static const struct row *find_long(const struct table *t, const char *name, size_t n)
{
	for (int i = 0; i < t->n; i++)
		if (is_option(t->row[i].spec) && strlen(t->row[i].spec->name) == n &&
		    !memcmp(t->row[i].spec->name, name, n))
			return &t->row[i];
	return NULL;
}

static const struct row *find_letter(const struct table *t, char c)
{
	for (int i = 0; i < t->n; i++)
		if (is_option(t->row[i].spec) && t->row[i].spec->letter == c)
			return &t->row[i];
	return NULL;
}

static const struct row *find_rest(const struct table *t)
{
	for (int i = 0; i < t->n; i++)
		if (t->row[i].spec->kind == ARG_KIND_REST)
			return &t->row[i];
	return NULL;
}

/* --- suggestions ------------------------------------------------------------------------------------- */

static int least(int a, int b)
{
	return a < b ? a : b;
}

/* Edits between two words, a swap of neighbours counting once; words longer than 32 are strangers. */
static int distance(const char *a, size_t na, const char *b, size_t nb)
{
	int d[34][34];

	if (na > 32 || nb > 32)
		return 99;
	for (size_t i = 0; i <= na; i++)
		d[i][0] = (int)i;
	for (size_t j = 0; j <= nb; j++)
		d[0][j] = (int)j;
	for (size_t i = 1; i <= na; i++) {
		for (size_t j = 1; j <= nb; j++) {
			d[i][j] = least(least(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
		}
	}
	return d[na][nb];
}

/* How far the word is from a name: 0 for its beginning, 99 when nobody would have meant it. */
static int strangeness(const char *word, size_t n, const char *name)
{
	size_t len = strlen(name);
	int d;

	if (n >= 2 && n < len && !memcmp(word, name, n))
		return 0;
	d = distance(word, n, name, len);
	return d <= (len <= 3 ? 1 : 2) && d < (int)len ? d : 99;
}

static const char *nearest(const struct table *t, const char *word, size_t n)
{
	const char *best = NULL;
	int at = 99;

	for (int i = 0; i < t->n; i++) {
		int d = is_option(t->row[i].spec) ? strangeness(word, n, t->row[i].spec->name) : 99;

		if (d < at) {
			at = d;
			best = t->row[i].spec->name;
		}
	}
	return best;
}

static enum status unknown(const struct arg_command *cmd, const struct table *t, const char *arg, struct err *err)
{
	const char *word = arg + strspn(arg, "-");
	size_t n = strcspn(word, "=");
	const char *best = find_long(t, word, n) ? find_long(t, word, n)->spec->name : nearest(t, word, n);

	if (best)
		return err_set(err, ERR_ARGUMENT, "unknown option '%.80s'; did you mean --%s?", arg, best);
	return err_set(err, ERR_ARGUMENT, "unknown option '%.80s'; --help lists the options of '%s'", arg,
		       cmd->name);
}

/* --- values ------------------------------------------------------------------------------------------ */

/* Digits with an optional sign and suffix; false when that is not what text is, or it leaves int64_t. */
static bool read_int(int64_t *out, const char *text)
{
	static const char suffix[] = "kmg";
	long long v;
	char *end;
	const char *at;

	if (!(text[strspn(text, "+-")] >= '0' && text[strspn(text, "+-")] <= '9'))
		return false;
	errno = 0;
	v = strtoll(text, &end, 10);
	if (errno)
		return false;
	if (*end) {
		at = strchr(suffix, *end | 0x20);
		if (!at || end[1] || __builtin_mul_overflow(v, 1ll << 10 * (at - suffix + 1), &v))
			return false;
	}
	*out = v;
	return true;
}

enum status args_int(int64_t *out, const char *what, const char *text, int64_t min, int64_t max, struct err *err)
{
	int64_t v;

	if (read_int(&v, text) && v >= min && v <= max) {
		*out = v;
		return OK;
	}
	if (max == INT64_MAX)
		return err_set(err, ERR_ARGUMENT, "%s: expected a whole number of at least %lld, found '%.80s'", what,
			       (long long)min, text);
	return err_set(err, ERR_ARGUMENT, "%s: expected a whole number from %lld to %lld, found '%.80s'", what,
		       (long long)min, (long long)max, text);
}

static enum status set_real(double *out, const struct arg_spec *s, const char *what, const char *text,
			    struct err *err)
{
	char *end;
	double v = strtod(text, &end);

	if (end != text && !*end && isfinite(v) && v >= s->min && v <= s->max) {
		*out = v;
		return OK;
	}
	return err_set(err, ERR_ARGUMENT, "%s: expected a number from %g to %g, found '%.80s'", what, s->min, s->max,
		       text);
}

static void join_choices(struct buf *out, const char *const *choices, const char *comma)
{
	for (int i = 0; choices[i]; i++) {
		buf_str(out, i ? comma : "");
		buf_str(out, choices[i]);
	}
}

static enum status set_choice(int *out, const struct arg_spec *s, const char *what, const char *text, struct err *err)
{
	struct buf all = BUF_CAP(300);
	enum status st;

	for (int i = 0; s->choices[i]; i++) {
		if (!strcmp(s->choices[i], text)) {
			*out = i;
			return OK;
		}
	}
	join_choices(&all, s->choices, ", ");
	st = err_set(err, ERR_ARGUMENT, "%s: expected one of %s, found '%.80s'", what, buf_cstr(&all), text);
	buf_clear(&all);
	return st;
}

static enum status add_item(struct arg_list *list, int max, const char *what, const char *text, struct err *err)
{
	if (list->n >= max)
		return err_set(err, ERR_ARGUMENT, "%s: expected at most %d, found one more: '%.80s'", what, max, text);
	list->item[list->n++] = text;
	return OK;
}

/* INT limits are kept as doubles, in which the largest int64_t rounds up to 2^63. */
static int64_t limit(double v)
{
	return v >= 0x1p63 ? INT64_MAX : v <= -0x1p63 ? INT64_MIN : (int64_t)v;
}

static enum status set_value(const struct row *r, const char *what, const char *text, struct err *err)
{
	const struct arg_spec *s = r->spec;
	void *field = r->field;

	switch (s->kind) {
	case ARG_KIND_INT:
		return args_int(field, what, text, limit(s->min), limit(s->max), err);
	case ARG_KIND_REAL:
		return set_real(field, s, what, text, err);
	case ARG_KIND_CHOICE:
		return set_choice(field, s, what, text, err);
	case ARG_KIND_LIST:
		return add_item(field, ARG_LIST_MAX, what, text, err);
	default:
		*(const char **)field = text;
		return OK;
	}
}

/* --- the walk ---------------------------------------------------------------------------------------- */

struct walk {
	const struct arg_command *cmd;
	struct table table;
	int argc, at;
	char *const *argv;
	bool *help;
};

static const char *needs(const struct arg_spec *s)
{
	switch (s->kind) {
	case ARG_KIND_INT:
		return "a whole number";
	case ARG_KIND_REAL:
		return "a number";
	default:
		return s->metavar ? s->metavar : "a value";
	}
}

static enum status next_value(struct walk *w, const struct row *r, const char *what, struct err *err)
{
	if (w->at >= w->argc)
		return err_set(err, ERR_ARGUMENT, "%s: expected %s, found the end of the command line", what,
			       needs(r->spec));
	return set_value(r, what, w->argv[w->at++], err);
}

static enum status long_option(struct walk *w, const char *arg, struct err *err)
{
	const char *name = arg + 2, *value = strchr(name, '=');
	size_t n = value ? (size_t)(value - name) : strlen(name);
	const struct row *r = find_long(&w->table, name, n);
	bool on = true;
	char what[64];

	if (!r && n > 3 && !strncmp(name, "no-", 3)) {
		r = find_long(&w->table, name + 3, n - 3);
		on = false;
		if (r && r->spec->kind != ARG_KIND_FLAG)
			r = NULL;
	}
	if (!r && n == 4 && !strncmp(name, "help", 4)) {
		*w->help = true;
		return OK;
	}
	if (!r)
		return unknown(w->cmd, &w->table, arg, err);
	snprintf(what, sizeof what, "--%.*s", (int)n, name);
	if (r->spec->kind == ARG_KIND_FLAG) {
		if (value)
			return err_set(err, ERR_ARGUMENT, "%s: expected no value, found '%.80s'", what, value + 1);
		*(bool *)(void *)r->field = on;
		return OK;
	}
	return value ? set_value(r, what, value + 1, err) : next_value(w, r, what, err);
}

/* -x, -xy (flags), -xVALUE. */
static enum status short_options(struct walk *w, const char *arg, struct err *err)
{
	if (arg[2] && find_long(&w->table, arg + 1, strcspn(arg + 1, "=")))
		return unknown(w->cmd, &w->table, arg, err);	/* -temp: --temp was meant, not -t emp */
	for (const char *p = arg + 1; *p; p++) {
		const struct row *r = find_letter(&w->table, *p);
		char what[3] = {'-', *p, '\0'};

		if (!r && *p == 'h') {
			*w->help = true;
			return OK;
		}
		if (!r)
			return unknown(w->cmd, &w->table, arg, err);
		if (r->spec->kind == ARG_KIND_FLAG)
			*(bool *)(void *)r->field = true;
		else
			return p[1] ? set_value(r, what, p + 1, err) : next_value(w, r, what, err);
	}
	return OK;
}

static enum status rest(struct walk *w, const char *arg, struct err *err)
{
	const struct row *r = find_rest(&w->table);

	if (!r || r->spec->max < 1)
		return err_set(err, ERR_ARGUMENT, "unexpected argument '%.80s': '%s' takes options only", arg,
			       w->cmd->name);
	return add_item((void *)r->field, least((int)r->spec->max, ARG_LIST_MAX), r->spec->metavar, arg, err);
}

enum status args_parse(const struct arg_command *cmd, int argc, char *const *argv, void *options, bool *help,
		       struct err *err)
{
	struct walk w = {.cmd = cmd, .argc = argc, .argv = argv, .help = help};
	const struct row *r;
	bool only_words = false;

	*help = false;
	flatten(&w.table, cmd->args, options);
	while (w.at < argc) {
		const char *arg = argv[w.at++];

		if (only_words || arg[0] != '-' || !arg[1])
			TRY(rest(&w, arg, err));
		else if (!strcmp(arg, "--"))
			only_words = true;
		else if (arg[1] == '-')
			TRY(long_option(&w, arg, err));
		else
			TRY(short_options(&w, arg, err));
		if (*help)
			return OK;
	}
	r = find_rest(&w.table);
	if (r && ((struct arg_list *)(void *)r->field)->n < r->spec->min)
		return err_set(err, ERR_ARGUMENT, "'%s' needs %s: %s", cmd->name, r->spec->metavar,
			       r->spec->help ? r->spec->help : "an argument");
	return OK;
}

const struct arg_command *args_command(const struct arg_command *const *all, const char *name, struct err *err)
{
	const char *best = NULL;
	int at = 99;

	for (int i = 0; all[i]; i++) {
		int d = strangeness(name, strlen(name), all[i]->name);

		if (!strcmp(all[i]->name, name))
			return all[i];
		if (d < at) {
			at = d;
			best = all[i]->name;
		}
	}
	if (best)
		err_set(err, ERR_ARGUMENT, "unknown command '%.80s'; did you mean '%s'?", name, best);
	else
		err_set(err, ERR_ARGUMENT, "unknown command '%.80s'; --help lists the commands", name);
	return NULL;
}

/* --- help -------------------------------------------------------------------------------------------- */

/* Appends text broken at spaces so that no line passes width; following lines start at column indent. */
static void wrap(struct buf *out, const char *text, int column, int indent, int width)
{
	while (*text) {
		size_t n = strcspn(text, " ");

		if (column > indent && column + 1 + (int)n > width) {
			buf_printf(out, "\n%*s", indent, "");
			column = indent;
		} else if (column > indent) {
			buf_byte(out, ' ');
			column++;
		}
		buf_add(out, text, n);
		column += (int)n;
		text += n;
		text += strspn(text, " ");
	}
	buf_byte(out, '\n');
}

static bool in_range(const struct arg_spec *s, double v)
{
	return v >= s->min && v <= s->max;
}

/* A number outside its own range stands for "not given": the help text says what happens then. */
static void add_default(struct buf *out, const struct row *r)
{
	const void *f = r->field;

	switch (r->spec->kind) {
	case ARG_KIND_INT:
		if (in_range(r->spec, (double)*(const int64_t *)f))
			buf_printf(out, " (default %lld)", (long long)*(const int64_t *)f);
		break;
	case ARG_KIND_REAL:
		if (in_range(r->spec, *(const double *)f))
			buf_printf(out, " (default %g)", *(const double *)f);
		break;
	case ARG_KIND_CHOICE:
		buf_printf(out, " (default %s)", r->spec->choices[*(const int *)f]);
		break;
	case ARG_KIND_TEXT:
		if (*(const char *const *)f)
			buf_printf(out, " (default %s)", *(const char *const *)f);
		break;
	case ARG_KIND_FLAG:
		if (*(const bool *)f)
			buf_printf(out, " (default; --no-%s switches it off)", r->spec->name);
		break;
	default:
		break;
	}
}

/* "  -c, --context TOKENS  text", the text wrapped in a column of its own; nothing for a hidden row. */
static void help_option(struct buf *out, const struct row *r, int width)
{
	const struct arg_spec *s = r->spec;
	struct buf text = BUF_CAP(4096);
	int indent = 28;
	size_t start = out->len;
	int column;

	if (s->kind == ARG_KIND_REST)
		buf_printf(out, "  %s", s->metavar);
	else if (s->letter)
		buf_printf(out, "  -%c, --%s", s->letter, s->name);
	else
		buf_printf(out, "      --%s", s->name);
	if (s->kind == ARG_KIND_CHOICE) {
		buf_byte(out, ' ');
		join_choices(out, s->choices, "|");
	} else if (s->kind != ARG_KIND_FLAG && s->kind != ARG_KIND_REST) {
		buf_printf(out, " %s", s->metavar ? s->metavar : "VALUE");
	}
	column = (int)(out->len - start);
	if (column > indent - 2)
		buf_printf(out, "\n%*s", indent, "");
	else
		buf_printf(out, "%*s", indent - column, "");
	buf_str(&text, s->help);
	add_default(&text, r);
	wrap(out, buf_cstr(&text), indent, indent, width);
	buf_clear(&text);
}

static int bounded(int width)
{
	return width < 50 ? 50 : width > 100 ? 100 : width;
}

static void help_row(struct buf *out, const struct row *r, int width)
{
	if (is_option(r->spec) && r->spec->help)
		help_option(out, r, width);
}

/* Usage, what it does, the words it takes, the options before the first group and --help, then group by group. */
void args_help(struct buf *out, const char *program, const struct arg_command *cmd, const void *defaults, int width)
{
	static const struct arg_spec help_flag = {
		.kind = ARG_KIND_FLAG, .name = "help", .letter = 'h', .help = "this text"};
	bool off = false;
	struct table t = {.n = 0};
	const struct row *r;
	int i = 0;

	width = bounded(width);
	flatten(&t, cmd->args, (char *)(uintptr_t)defaults);	/* only read through */
	r = find_rest(&t);
	buf_printf(out, "Usage: %s %s [options]", program, cmd->name);
	if (r)
		buf_printf(out, r->spec->min >= 1 ? " %s%s" : " [%s]%s", r->spec->metavar, r->spec->max > 1 ? "..." : "");
	buf_str(out, "\n\n");
	wrap(out, cmd->about ? cmd->about : cmd->summary, 0, 0, width);
	if (r && r->spec->help) {
		buf_byte(out, '\n');
		help_option(out, r, width);
	}
	buf_str(out, "\nOptions:\n");
	for (; i < t.n && t.row[i].spec->kind != ARG_KIND_GROUP; i++)
		help_row(out, &t.row[i], width);
	help_row(out, &(struct row){&help_flag, (char *)&off}, width);
	for (; i < t.n; i++) {
		if (t.row[i].spec->kind == ARG_KIND_GROUP)
			buf_printf(out, "\n%s:\n", t.row[i].spec->name);
		else
			help_row(out, &t.row[i], width);
	}
	if (cmd->examples)
		buf_str(out, "\nExamples:\n");
	for (i = 0; cmd->examples && cmd->examples[i]; i++)
		buf_printf(out, "  %s\n", cmd->examples[i]);
}

void args_overview(struct buf *out, const char *program, const struct arg_command *const *all, int width)
{
	width = bounded(width);
	buf_printf(out, "Usage: %s [COMMAND] [options]\n\nCommands:\n", program);
	for (int i = 0; all[i]; i++) {
		buf_printf(out, "  %-12s", all[i]->name);
		wrap(out, all[i]->summary, 14, 14, width);
	}
	buf_printf(out, "\n`%s COMMAND --help` shows the options of a command.\n", program);
}
