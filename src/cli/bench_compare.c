/* bench_compare.c - `ds4 bench --compare A.csv B.csv`: what a change did, row by row.
 *
 * How   Columns are found by their names, so files of other releases compare as long as they have phase, context,
 *       batch and tokens_per_second.  Rows meet by phase, context and batch; a repeated row counts with its last
 *       value.  The geometric mean of the ratios stands below each phase.
 * Careful
 *       - A ratio between different models, machines or thread counts is shown with a note that says so.
 *       - Fields may be quoted, with "" for a quote. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/bench.h"

enum {
	MAX_FIELDS = 64,
	FIELD = 256,
	CSV_CAP = 16 << 20
};

static const char *const about_name[] = {"machine", "model", "backend", "threads", "chunk", "history", "blocks"};

enum { N_ABOUT = sizeof about_name / sizeof *about_name };

struct result {
	char phase[16];
	int64_t context, batch;
	double rate;
};

struct table {
	char about[N_ABOUT][FIELD];	/* of its first row */
	struct result *row;
	int n;
};

/* Reads one line's fields from *p, which moves behind it; their number, or -1 when there are too many. */
static int read_fields(const char **p, char field[MAX_FIELDS][FIELD])
{
	const char *s = *p;
	int n = 0;
	size_t len = 0;
	bool quoted = false;

	field[0][0] = 0;
	for (; *s && (quoted || *s != '\n'); s++) {
		if (*s == '"' && quoted && s[1] == '"')
			s++;	/* a doubled quote is one of the text */
		else if (*s == '"') {
			quoted = !quoted;
			continue;
		} else if (*s == ',' && !quoted) {
			if (++n == MAX_FIELDS)
				return -1;
			len = 0;
			field[n][0] = 0;
			continue;
		} else if (*s == '\r') {
			continue;
		}
		if (len + 1 < FIELD) {
			field[n][len++] = *s;
			field[n][len] = 0;
		}
	}
	*p = *s ? s + 1 : s;
	return n + 1;
}

static int find(char field[MAX_FIELDS][FIELD], int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(field[i], name))
			return i;
	return -1;
}

static struct result *same_row(const struct table *t, const struct result *r)
{
	for (int i = 0; i < t->n; i++)
		if (!strcmp(t->row[i].phase, r->phase) && t->row[i].context == r->context && t->row[i].batch == r->batch)
			return &t->row[i];
	return NULL;
}

static enum status add_row(struct table *t, const struct result *r, struct err *err)
{
	struct result *old = same_row(t, r), *grown;

	if (old) {
		*old = *r;
		return OK;
	}
	grown = mem_grow(t->row, (size_t)t->n + 1, sizeof *grown);
	if (!grown)
		return err_set(err, ERR_MEMORY, "no memory for %d rows", t->n + 1);
	t->row = grown;
	t->row[t->n++] = *r;
	return OK;
}

static enum status read_number(double *out, const char *path, int line, const char *name, const char *text, struct err *err)
{
	char *end;

	*out = strtod(text, &end);
	if (end == text || *end || !isfinite(*out))
		return err_set(err, ERR_FORMAT, "%s: line %d: %s: expected a number, found \"%.40s\"", path, line, name, text);
	return OK;
}

static enum status parse(struct table *t, const char *path, const char *text, struct err *err)
{
	static const char *const needed[] = {"phase", "context", "batch", "tokens_per_second"};
	static char head[MAX_FIELDS][FIELD], field[MAX_FIELDS][FIELD];
	int n_head = read_fields(&text, head), at[4], n;
	double v[4] = {0};
	struct result r;

	for (int i = 0; i < 4; i++) {
		at[i] = find(head, n_head, needed[i]);
		if (at[i] < 0)
			return err_set(err, ERR_FORMAT, "%s: expected a first line with the column %s, as ds4 bench --csv writes",
				       path, needed[i]);
	}
	for (int line = 2; *text; line++) {
		n = read_fields(&text, field);
		if (n == 1 && !field[0][0])
			continue;
		if (n != n_head)
			return err_set(err, ERR_FORMAT, "%s: line %d: expected %d fields, found %d", path, line, n_head, n);
		for (int i = 1; i < 4; i++)
			TRY(read_number(&v[i], path, line, needed[i], field[at[i]], err));
		if (v[3] <= 0 || fabs(v[1]) > 1e15 || fabs(v[2]) > 1e15)
			return err_set(err, ERR_FORMAT,
				       "%s: line %d: expected positive numbers, found %g tokens/s at %g, batch %g", path, line,
				       v[3], v[1], v[2]);
		for (int i = 0; !t->n && i < N_ABOUT; i++)
			if (find(head, n_head, about_name[i]) >= 0)
				memcpy(t->about[i], field[find(head, n_head, about_name[i])], FIELD);
		r = (struct result){.context = (int64_t)v[1], .batch = (int64_t)v[2], .rate = v[3]};
		snprintf(r.phase, sizeof r.phase, "%.15s", field[at[0]]);
		TRY(add_row(t, &r, err));
	}
	return t->n ? OK : err_set(err, ERR_FORMAT, "%s: expected at least one result below the first line, found none", path);
}

static enum status read_table(struct table *t, const char *path, struct err *err)
{
	struct buf text = BUF_CAP(CSV_CAP);
	enum status st = file_read(&text, path, err);

	if (st == OK)
		st = parse(t, path, buf_cstr(&text), err);
	buf_clear(&text);
	return st;
}

/* Geometric mean of the ratios of one phase; 0 when no row is in both. */
static double mean_ratio(const struct table *a, const struct table *b, const char *phase)
{
	double sum = 0;
	int n = 0;

	for (int i = 0; i < b->n; i++) {
		const struct result *old = same_row(a, &b->row[i]);

		if (!old || strcmp(b->row[i].phase, phase))
			continue;
		sum += log(b->row[i].rate / old->rate);
		n++;
	}
	return n ? exp(sum / n) : 0;
}

static void print_text(const struct table *a, const struct table *b, const char *name_a, const char *name_b)
{
	double mean;

	printf("A: %s\nB: %s\n", name_a, name_b);
	for (int i = 0; i < N_ABOUT; i++)
		if (strcmp(a->about[i], b->about[i]))
			printf("NOTE: %s differs: \"%s\" in A, \"%s\" in B\n", about_name[i], a->about[i], b->about[i]);
	printf("\n%-10s%10s%8s%14s%14s%10s\n", "phase", "context", "batch", "A tokens/s", "B tokens/s", "B / A");
	for (int i = 0; i < a->n; i++) {
		const struct result *r = &a->row[i], *other = same_row(b, r);

		printf("%-10s%10lld%8lld%14.2f", r->phase, (long long)r->context, (long long)r->batch, r->rate);
		if (other)
			printf("%14.2f%10.3f\n", other->rate, other->rate / r->rate);
		else
			printf("%14s%10s\n", "-", "-");
	}
	for (int i = 0; i < b->n; i++)
		if (!same_row(a, &b->row[i]))
			printf("%-10s%10lld%8lld%14s%14.2f%10s\n", b->row[i].phase, (long long)b->row[i].context,
			       (long long)b->row[i].batch, "-", b->row[i].rate, "-");
	for (int p = BENCH_PREFILL; p <= BENCH_DECODE; p++) {
		mean = mean_ratio(a, b, bench_phase_name((enum bench_phase)p));
		if (mean > 0)
			printf("%-46s%20.3f\n", p == BENCH_PREFILL ? "prefill, geometric mean" : "decode, geometric mean", mean);
	}
}

static enum status print_json(const struct table *a, const struct table *b, struct err *err)
{
	json_t *rows = json_array(), *differs = json_array(), *all;
	char *text;

	for (int i = 0; i < N_ABOUT; i++)
		if (strcmp(a->about[i], b->about[i]))
			json_array_append_new(differs, json_pack("{s:s, s:s, s:s}", "what", about_name[i], "a", a->about[i],
								 "b", b->about[i]));
	for (int i = 0; i < a->n; i++) {
		const struct result *r = &a->row[i], *other = same_row(b, r);

		if (other)
			json_array_append_new(rows, json_pack("{s:s, s:I, s:I, s:f, s:f, s:f}", "phase", r->phase, "context",
							      (json_int_t)r->context, "batch", (json_int_t)r->batch, "a", r->rate,
							      "b", other->rate, "ratio", other->rate / r->rate));
	}
	all = json_pack("{s:o, s:o}", "rows", rows, "differs", differs);
	text = all ? json_dumps(all, JSON_INDENT(1)) : NULL;
	json_decref(all);
	if (!text)
		return err_set(err, ERR_MEMORY, "no memory for the JSON text");
	puts(text);
	free(text);
	return OK;
}

enum status bench_compare(const char *a, const char *b, bool json, struct err *err)
{
	struct table *t = mem_array(2, sizeof *t);
	enum status st = OK;

	if (!t)
		return err_set(err, ERR_MEMORY, "no memory for two tables");
	TRY_TO(out, read_table(&t[0], a, err));
	TRY_TO(out, read_table(&t[1], b, err));
	if (json)
		st = print_json(&t[0], &t[1], err);
	else
		print_text(&t[0], &t[1], a, b);
out:
	mem_free(t[0].row);
	mem_free(t[1].row);
	mem_free(t);
	return st;
}
