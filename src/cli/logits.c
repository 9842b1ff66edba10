/* logits.c - `ds4 logits`: the raw logits after chosen tokens of a list, for comparison with other implementations.
 *
 * What  Reads token ids, runs the forward pass, writes float32 logits [positions, vocabulary] in ascending order of
 *       position.  --dump-layers also writes the residual streams around each half layer at those positions.
 * Why   Anyone can check this engine against an implementation of their own, with data of their own.
 * How   score.c runs the steps.  The dump hangs on the taps of the forward pass and appends rows to one file for
 *       each layer and point, plus a text index that says what is in them.
 * Careful
 *       - Files are raw little-endian float32 without a header, so numpy.fromfile reads them; this program runs on
 *         little-endian machines only.
 *       - The output goes through a temporary file: it is whole or absent. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/score.h"
#include "cli/term.h"

struct logits_args {
	struct engine_args engine;
	struct numerics_args numerics;
	const char *tokens, *positions, *out, *dump;
	bool step, from_prefill;
};

struct dump {
	const char *folder;
	FILE *file[SHAPE_MAX_LAYERS][3];	/* opened when the first row comes */
	const uint8_t *wanted;
	float *row;				/* [S*d] */
	int32_t width;
	struct err err;
};

struct job {
	struct engine *e;
	int32_t *token;
	int32_t n_token;
	uint8_t *wanted;
	int32_t n_wanted;
	FILE *out;
	const char *out_name;
	int32_t rows;
	struct progress progress;
};

static const char *const point_name[3] = {"attn_in", "ffn_in", "out"};

/* ------------------------------------------------------------------ input */

static enum status read_tokens(struct job *j, const char *path, struct err *err)
{
	struct buf text = BUF_CAP((size_t)256 << 20);
	enum status st = file_read(&text, path, err);

	if (st == OK)
		st = cli_numbers(&j->token, &j->n_token, path, buf_cstr(&text), text.len, err);
	buf_clear(&text);
	if (st == OK && !j->n_token)
		return err_set(err, ERR_ARGUMENT, "%s: expected at least one token id, found none", path);
	return st;
}

static enum status check_tokens(const struct job *j, const char *path, struct err *err)
{
	int32_t vocab = j->e->shape.vocab;

	for (int32_t i = 0; i < j->n_token; i++)
		if (j->token[i] >= vocab)
			return err_set(err, ERR_ARGUMENT, "%s: token %d is %d, expected an id from 0 to %d",
				       path, (int)i, (int)j->token[i], (int)vocab - 1);
	return OK;
}

static enum status mark_positions(struct job *j, const char *spec, struct err *err)
{
	enum status st = OK;
	int32_t *list, n;

	j->wanted = mem_zero((size_t)j->n_token);
	if (!j->wanted)
		return err_set(err, ERR_MEMORY, "no memory for %d positions", (int)j->n_token);
	if (!strcmp(spec, "all")) {
		memset(j->wanted, 1, (size_t)j->n_token);
	} else if (!strcmp(spec, "last")) {
		j->wanted[j->n_token - 1] = 1;
	} else {
		TRY(cli_numbers(&list, &n, "--positions", spec, strlen(spec), err));
		for (int32_t i = 0; i < n && st == OK; i++) {
			if (list[i] >= j->n_token)
				st = err_set(err, ERR_ARGUMENT, "--positions: expected 0 to %d, found %d",
					     (int)j->n_token - 1, (int)list[i]);
			else
				j->wanted[list[i]] = 1;
		}
		mem_free(list);
	}
	for (int32_t i = 0; i < j->n_token; i++)
		j->n_wanted += j->wanted[i];
	return st;
}

/* ------------------------------------------------------------------ layer dump */

static FILE *dump_file(struct dump *d, int32_t layer, int point)
{
	char path[4096];
	FILE **f = &d->file[layer][point];

	if (*f)
		return *f;
	snprintf(path, sizeof path, "%s/layer%02d_%s.f32", d->folder, (int)layer, point_name[point]);
	*f = fopen(path, "wb");
	if (!*f)
		err_set(&d->err, ERR_IO, "%s: %s", path, strerror(errno));
	return *f;
}

static void on_tap(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t,
		   const struct step *s)
{
	struct dump *d = ctx;
	FILE *f;

	if (at > TAP_LAYER_OUT || d->err.code != OK)
		return;
	for (int32_t i = 0; i < s->n_rows; i++) {
		if (!d->wanted[s->row[i].pos])
			continue;
		f = dump_file(d, layer, (int)at);
		if (!f)
			return;
		be_read(be, t, i, 1, d->row);
		if (fwrite(d->row, sizeof(float), (size_t)d->width, f) != (size_t)d->width)
			err_set(&d->err, ERR_IO, "%s/layer%02d_%s.f32: %s", d->folder, (int)layer, point_name[at],
				strerror(errno));
	}
}

static enum status open_dump(struct dump *d, const struct job *j, const char *folder, struct err *err)
{
	d->folder = folder;
	d->wanted = j->wanted;
	d->width = GEOM_STREAMS * j->e->shape.d;
	d->row = mem_array((size_t)d->width, sizeof *d->row);
	if (!d->row)
		return err_set(err, ERR_MEMORY, "no memory for a row of %d values", (int)d->width);
	if (mkdir(folder, 0777) < 0 && errno != EEXIST)
		return err_set(err, ERR_IO, "%s: %s", folder, strerror(errno));
	return OK;
}

/* index.txt: the positions, then one line for each file. */
static enum status write_index(const struct dump *d, const struct job *j, struct err *err)
{
	struct buf b = BUF_CAP(BUF_MAX);
	char path[4096];
	enum status st;

	buf_printf(
		&b,
		"# residual streams, float32, [rows, %d streams x %d channels]; rows are these positions:\n#",
		GEOM_STREAMS, (int)j->e->shape.d);
	for (int32_t i = 0; i < j->n_token; i++)
		if (j->wanted[i])
			buf_printf(&b, " %d", (int)i);
	buf_str(&b, "\n# layer half rows width file\n");
	for (int32_t l = 0; l < j->e->shape.n_layer; l++)
		for (int p = 0; p < 3; p++)
			buf_printf(&b, "%d %s %d %d layer%02d_%s.f32\n", (int)l, point_name[p], (int)j->n_wanted,
				   (int)d->width, (int)l, point_name[p]);
	snprintf(path, sizeof path, "%s/index.txt", d->folder);
	st = buf_ok(&b) ? file_write(path, b.data, b.len, err) : err_set(err, ERR_MEMORY, "%s: no memory", path);
	buf_clear(&b);
	return st;
}

static enum status close_dump(struct dump *d, struct err *err)
{
	for (int l = 0; l < SHAPE_MAX_LAYERS; l++)
		for (int p = 0; p < 3; p++)
			if (d->file[l][p] && fclose(d->file[l][p]) != 0 && d->err.code == OK)
				err_set(&d->err, ERR_IO, "%s: %s", d->folder, strerror(errno));
	mem_free(d->row);
	return d->err.code == OK ? OK : err_set(err, d->err.code, "%s", d->err.msg);
}

/* ------------------------------------------------------------------ the run */

static enum status on_row(void *ctx, int32_t pos, const float *logits, struct err *err)
{
	struct job *j = ctx;
	size_t v = (size_t)j->e->shape.vocab;

	(void)pos;
	if (fwrite(logits, sizeof *logits, v, j->out) != v)
		return err_set(err, ERR_IO, "%s: %s", j->out_name, strerror(errno));
	j->rows++;
	return OK;
}

static void on_progress(void *ctx, int32_t done)
{
	struct job *j = ctx;

	progress_show(&j->progress, done, j->n_token);
}

static enum status run_job(struct job *j, const struct logits_args *a, struct err *err)
{
	struct score_request q = {.token = j->token, .n = j->n_token, .wanted = j->wanted, .step = a->step,
				  .row = on_row, .progress = on_progress, .ctx = j};
	struct dump *d = NULL;
	struct tap tap = {.fn = on_tap};
	enum status st = OK, closed;

	if (a->dump) {
		d = mem_zero(sizeof *d);
		if (!d)
			return err_set(err, ERR_MEMORY, "no memory for the layer dump");
		tap.ctx = d;
		q.tap = &tap;
		TRY_TO(out, open_dump(d, j, a->dump, err));
	}
	TRY_TO(out, score_run(j->e, &q, err));
	if (d)
		st = write_index(d, j, err);
out:
	progress_clear(&j->progress);
	if (d) {
		closed = close_dump(d, st == OK ? err : NULL);
		st = st == OK ? closed : st;
		mem_free(d);
	}
	return st;
}

/* Runs with j->out on PATH.tmp, which becomes PATH when everything went well. */
static enum status run_to_file(struct job *j, const struct logits_args *a, struct err *err)
{
	char tmp[4096];
	enum status st;

	if (!strcmp(a->out, "-")) {
		j->out = stdout;
		j->out_name = "standard output";
		TRY(run_job(j, a, err));
		return cli_flush(err);
	}
	if ((size_t)snprintf(tmp, sizeof tmp, "%s.tmp", a->out) >= sizeof tmp)
		return err_set(err, ERR_ARGUMENT, "%s: path is too long", a->out);
	j->out_name = a->out;
	j->out = fopen(tmp, "wb");
	if (!j->out)
		return err_set(err, ERR_IO, "%s: %s", a->out, strerror(errno));
	st = run_job(j, a, err);
	if (fclose(j->out) != 0 && st == OK)
		st = err_set(err, ERR_IO, "%s: %s", a->out, strerror(errno));
	if (st == OK && rename(tmp, a->out) < 0)
		st = err_set(err, ERR_IO, "%s: %s", a->out, strerror(errno));
	if (st != OK)
		unlink(tmp);
	return st;
}

static enum status check_args(const struct logits_args *a, struct err *err)
{
	if (!a->tokens)
		return err_set(err, ERR_ARGUMENT, "'logits' needs --tokens FILE with the token ids to read");
	if (!a->out)
		return err_set(err, ERR_ARGUMENT, "'logits' needs -o FILE for the result (- is standard output)");
	if (a->step && a->from_prefill)
		return err_set(err, ERR_ARGUMENT, "--step and --from-prefill exclude each other");
	return OK;
}

static enum status logits(void *options, struct err *err)
{
	struct logits_args *a = options;
	struct job j = {.progress = {.label = "reading", .unit = "tokens"}};
	enum status st = OK;
	double t0;

	cli_interrupt_twice_kills();
	TRY(check_args(a, err));
	TRY_TO(out, read_tokens(&j, a->tokens, err));
	TRY_TO(out, mark_positions(&j, a->positions, err));
	if (!a->engine.context && j.n_token > 32768)	/* as large as the list needs */
		a->engine.context = j.n_token;
	TRY_TO(out, cli_open_engine(&j.e, &a->engine, &a->numerics, a->step ? 1 : SCORE_MAX_LOGITS, err));
	TRY_TO(out, check_tokens(&j, a->tokens, err));
	t0 = clock_seconds();
	TRY_TO(out, run_to_file(&j, a, err));
	term_note("%d rows of %d logits after %d tokens in %.2f s (%s)", (int)j.rows, (int)j.e->shape.vocab,
		  (int)j.n_token, clock_seconds() - t0, j.e->be->name);
out:
	engine_close(j.e);
	mem_free(j.wanted);
	mem_free(j.token);
	return st;
}

static const struct arg_spec logits_args[] = {
	ARG_TEXT("tokens", 0, struct logits_args, tokens, "FILE", "token ids, separated by blanks, lines or commas"),
	ARG_TEXT("positions", 0, struct logits_args, positions, "LIST",
		 "after which tokens: all, last, or numbers from 0 as in 0,4,129"),
	ARG_TEXT("output", 'o', struct logits_args, out, "FILE",
		 "raw little-endian float32 [positions, vocabulary]; - is standard output"),
	ARG_FLAG("step", 0, struct logits_args, step, "read token by token, as decoding does"),
	ARG_FLAG("from-prefill", 0, struct logits_args, from_prefill, "read in chunks, as prompts are (the default)"),
	ARG_TEXT("dump-layers", 0, struct logits_args, dump, "DIR",
		 "also write the residual streams before, between and after the halves of each layer"),
	ARG_INCLUDE(struct logits_args, engine, engine_arg_table),
	ARG_INCLUDE(struct logits_args, numerics, numerics_arg_table),
	ARG_END
};

static const char *const logits_examples[] = {
	"echo 'Hello there' | ds4 tokenize > ids.txt",
	"ds4 logits --tokens ids.txt --positions all -o out.f32",
	"ds4 logits --tokens ids.txt --positions 0,4 --backend ref --dump-layers dump -o out.f32",
	"python3 -c 'import numpy; print(numpy.fromfile(\"out.f32\", \"<f4\").reshape(-1, 8192).argmax(1))'",
	NULL
};

static const struct logits_args logits_defaults = {.positions = "last", .numerics = NUMERICS_ARGS_DEFAULT};

const struct cli_command logits_command = {
	.args = {"logits", "raw logits for a list of token ids, for checking against other implementations",
		 "Reads the ids from an empty state and writes the logits after the chosen tokens, in ascending order.",
		 logits_args, logits_examples},
	.defaults = &logits_defaults,
	.size = sizeof logits_defaults,
	.run = logits,
};
