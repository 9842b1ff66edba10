/* imatrix.c - `ds4 imatrix`: reads texts with the model and writes which columns of its experts matter.
 *
 * What  Cuts the texts into windows, runs each from an empty state with the observer of workshop/imatrix.h, and writes
 *       an importance file for `ds4 quantize`; tells which experts were never chosen.  --merge adds files, --show
 *       reports on one.
 * How   What was collected goes to OUT.part now and then, and when Ctrl-C ends the run.  The dataset field of that file
 *       says what it belongs to: the model, the options that matter and the tokens (one hash), and how far it came.
 *       The same command goes on from there; OUT itself is whole or absent.
 * Careful
 *       - A step is never broken off: half a step has been counted in some layers and not in others.
 *       - An interrupted window is read again from its start, since its state is not kept; rows that were counted
 *         pass the observer uncounted. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/term.h"
#include "cli/texts.h"
#include "base/hash.h"
#include "workshop/imatrix.h"

#define WINDOW 2048	/* tokens, without --ctx */

struct imatrix_args {
	struct engine_args engine;
	struct arg_list file;
	const char *out, *show;
	bool chat, control, merge, force;
	int64_t save_every, down_every;
};

struct run {
	struct engine *e;
	struct text_set texts;
	struct imatrix_collector *c;
	const char *out;
	char part[4096], dataset[1024];
	uint64_t hash;
	size_t window;			/* next to be read */
	int32_t pos;			/* tokens of it that are counted */
	int64_t done, now;		/* tokens counted, and of those in this run */
	double save_every, saved, start;
	struct progress progress;
};

/* ------------------------------------------------------------------ keeping and going on */

static enum status write_file(struct run *r, const char *path, const char *dataset, struct err *err)
{
	struct imatrix m;
	enum status st;

	TRY(imatrix_export(r->c, &m, err));
	m.chunks = (int32_t)r->window;
	m.dataset = mem_str(dataset);
	st = m.dataset ? imatrix_write(&m, path, err) : err_set(err, ERR_MEMORY, "%s: no memory", path);
	imatrix_clear(&m);
	return st;
}

static enum status save(struct run *r, struct err *err)
{
	char state[160];

	snprintf(state, sizeof state, "unfinished %016" PRIx64 " %zu %d %lld", r->hash, r->window, (int)r->pos,
		 (long long)r->done);
	r->saved = clock_seconds();
	return write_file(r, r->part, state, err);
}

/* Everything that decides what the sums are. */
static uint64_t run_hash(const struct run *r, const struct imatrix_args *a)
{
	struct tree_key model = engine_fingerprint(r->e);
	uint64_t part[5] = {model.low, model.high, (uint64_t)a->down_every,
			    hash64(r->texts.ids.id, r->texts.ids.n * sizeof *r->texts.ids.id),
			    hash64(r->texts.end, r->texts.n * sizeof *r->texts.end)};

	return hash64(part, sizeof part);
}

static enum status go_on(struct run *r, const struct imatrix *m, struct err *err)
{
	unsigned long long hash = 0;
	size_t window = 0;
	long long done = 0;
	int pos = 0;

	if (sscanf(m->dataset, "unfinished %llx %zu %d %lld", &hash, &window, &pos, &done) != 4 || hash != r->hash ||
	    window > r->texts.n || pos < 0 || done < 0)
		return err_set(err, ERR_FORMAT,
			       "%s: was left by a run with another model, other texts or options; --force starts anew",
			       r->part);
	TRY(imatrix_import(r->c, m, err));
	r->window = window;
	r->pos = pos;
	r->done = done;
	term_note("going on behind %lld of %zu tokens", done, r->texts.ids.n);
	return OK;
}

/* Hours of reading should not end in a folder that does not exist. */
static enum status check_writable(const struct run *r, struct err *err)
{
	bool there = access(r->part, F_OK) == 0;
	FILE *f = fopen(r->part, "ab");

	if (!f)
		return err_set(err, ERR_IO, "%s: %s", r->part, strerror(errno));
	fclose(f);
	if (!there)
		unlink(r->part);
	return OK;
}

static enum status look_for_part(struct run *r, bool force, struct err *err)
{
	struct imatrix m;
	enum status st;

	if (force || access(r->part, F_OK) != 0)
		return OK;
	TRY(imatrix_read(&m, r->part, err));
	st = go_on(r, &m, err);
	imatrix_clear(&m);
	return st;
}

/* ------------------------------------------------------------------ reading */

static void show_progress(struct run *r)
{
	progress_show(&r->progress, r->done, (int64_t)r->texts.ids.n);
}

static enum status one_window(struct run *r, struct err *err)
{
	int32_t n, skip = r->pos;
	const int32_t *id = texts_window(&r->texts, r->window, &n);
	struct kv *kv = NULL;
	enum status st;

	imatrix_skip_below(r->c, skip);
	TRY(kv_open(&kv, &r->e->pool, 2, err));
	for (int32_t at = 0, k; at < n; at += k) {
		struct forward_part part = {.kv = kv, .token = id + at};

		part.n = k = n - at < r->e->opt.chunk ? n - at : r->e->opt.chunk;
		TRY_TO(out, forward_step(r->e->forward, &part, 1, NULL, NULL, err));
		TRY_TO(out, imatrix_check(r->c, err));
		if (at + k > skip) {
			r->pos = at + k;
			r->done += at + k - (at > skip ? at : skip);
			r->now += at + k - (at > skip ? at : skip);
		}
		show_progress(r);
		if (at + k < n && cli_interrupted()) {
			st = err_set(err, ERR_CANCELLED, "cancelled");
			goto out;
		}
		if (at + k < n && clock_seconds() - r->saved >= r->save_every)
			TRY_TO(out, save(r, err));
	}
	r->window++;
	r->pos = 0;
out:
	kv_close(kv);
	return st;
}

static enum status read_all(struct run *r, struct err *err)
{
	struct tap tap = imatrix_tap(r->c);
	enum status st = OK;

	forward_tap(r->e->forward, &tap);
	r->saved = r->start = clock_seconds();
	while (st == OK && r->window < r->texts.n) {
		st = one_window(r, err);
		if (st == OK && r->window < r->texts.n && cli_interrupted())
			st = err_set(err, ERR_CANCELLED, "cancelled");
		if (st == OK && r->window < r->texts.n && clock_seconds() - r->saved >= r->save_every)
			st = save(r, err);
	}
	forward_tap(r->e->forward, NULL);
	progress_clear(&r->progress);
	if (st != ERR_CANCELLED)
		return st;
	TRY(save(r, err));
	term_note("stopped behind %lld of %zu tokens; the same command continues from here", (long long)r->done,
		  r->texts.ids.n);
	return err_set(err, ERR_CANCELLED, "cancelled");
}

/* ------------------------------------------------------------------ coverage */

/* Numbers of the experts that were never chosen, a few of them. */
static void print_unseen(const struct imatrix_entry *counts)
{
	int shown = 0;

	for (int32_t i = 0; i < counts->n && shown < 17; i++) {
		if (counts->value[i] != 0)
			continue;
		if (shown++ == 16)
			printf(" ...");
		else
			printf(" %d", (int)i);
	}
}

/* One line for each gate tensor; the others of its layer have the same experts. */
static void report(const struct imatrix *m)
{
	int64_t experts = 0, unseen = 0, least = INT64_MAX;
	struct imatrix_coverage c;

	printf("%-32s %8s %8s %8s %8s %8s  %s\n", "tensor", "experts", "unseen", "least", "median", "most",
	       "never chosen");
	for (size_t i = 0; i < m->n; i++) {
		const char *name = m->entry[i].name;

		if (!strstr(name, "ffn_gate_exps") || !imatrix_coverage(m, name, &c))
			continue;
		printf("%-32s %8d %8d %8" PRId64 " %8" PRId64 " %8" PRId64 " ", name, (int)c.experts, (int)c.unseen,
		       c.min, c.median, c.max);
		print_unseen(imatrix_counts(m, name));
		putchar('\n');
		experts += c.experts;
		unseen += c.unseen;
		least = c.min < least ? c.min : least;
	}
	if (experts)
		printf("%" PRId64 " experts, %" PRId64 " never chosen, least tokens of one %" PRId64 ", %d windows\n",
		       experts, unseen, least, (int)m->chunks);
	else
		printf("%zu entries without counts of tokens, %d windows\n", m->n, (int)m->chunks);
}

static enum status report_file(const char *path, struct err *err)
{
	struct imatrix m;

	TRY(imatrix_read(&m, path, err));
	report(&m);
	imatrix_clear(&m);
	return OK;
}

/* ------------------------------------------------------------------ the command */

static enum status merge(const struct imatrix_args *a, struct err *err)
{
	struct imatrix sum, next;
	enum status st = OK;

	TRY(imatrix_read(&sum, a->file.item[0], err));
	for (int i = 1; st == OK && i < a->file.n; i++) {
		TRY_TO(out, imatrix_read(&next, a->file.item[i], err));
		st = imatrix_combine(&sum, &next, err);
		imatrix_clear(&next);
		if (st != OK)
			err_prefix(err, "%s", a->file.item[i]);
	}
	if (st == OK)
		st = imatrix_write(&sum, a->out, err);
	if (st == OK)
		report(&sum);
out:
	imatrix_clear(&sum);
	return st;
}

static enum status collect(const struct imatrix_args *a, struct run *r, struct err *err)
{
	struct text_options o = {.file = a->file.item, .n_files = a->file.n, .chat = a->chat, .control = a->control};
	double seconds;

	if ((size_t)snprintf(r->part, sizeof r->part, "%s.part", a->out) >= sizeof r->part)
		return err_set(err, ERR_ARGUMENT, "%s: path is too long", a->out);
	TRY(check_writable(r, err));
	TRY(cli_open_engine(&r->e, &a->engine, NULL, 1, err));
	o.window = a->engine.context || r->e->opt.context < WINDOW ? r->e->opt.context : WINDOW;
	TRY(texts_read(&r->texts, r->e->tokenizer, &o, err));
	texts_names(r->dataset, sizeof r->dataset, &o);
	TRY(imatrix_open(&r->c, &r->e->shape, &r->e->weights, (int)a->engine.threads, (int32_t)a->down_every, err));
	r->hash = run_hash(r, a);
	r->save_every = (double)a->save_every;
	TRY(look_for_part(r, a->force, err));
	TRY(read_all(r, err));
	seconds = clock_seconds() - r->start;
	TRY(write_file(r, a->out, r->dataset, err));
	unlink(r->part);
	term_note("%lld tokens in %zu windows in %.1f s (%.1f tokens/s, %s)", (long long)r->now, r->texts.n, seconds,
		  (double)r->now / (seconds > 0 ? seconds : 1e-9), r->e->be->name);
	return report_file(a->out, err);
}

static enum status check_args(const struct imatrix_args *a, struct err *err)
{
	if (a->show)
		return OK;
	if (!a->file.n)
		return err_set(err, ERR_ARGUMENT, "'imatrix' needs at least one file to read");
	if (!a->out)
		return err_set(err, ERR_ARGUMENT, "'imatrix' needs -o FILE for the result");
	if (!a->force && access(a->out, F_OK) == 0)
		return err_set(err, ERR_ARGUMENT, "%s: exists already; --force replaces it", a->out);
	return OK;
}

static enum status imatrix(void *options, struct err *err)
{
	struct imatrix_args *a = options;
	struct run r = {.progress = {.label = "collecting", .unit = "tokens"}};
	enum status st;

	cli_interrupt_twice_kills();
	TRY(check_args(a, err));
	if (a->show)
		return report_file(a->show, err);
	if (a->merge)
		return merge(a, err);
	st = collect(a, &r, err);
	progress_clear(&r.progress);
	imatrix_close(r.c);
	texts_clear(&r.texts);
	engine_close(r.e);
	return st;
}

static const struct arg_spec imatrix_args[] = {
	ARG_REST("FILE", struct imatrix_args, file, 0, ARG_LIST_MAX, "texts to read; with --merge importance files"),
	ARG_TEXT("output", 'o', struct imatrix_args, out, "FILE", "the importance file to write"),
	ARG_FLAG("chat", 0, struct imatrix_args, chat,
		 "files are JSON lines: {\"messages\": [...]}, {\"ids\": [...]} or \"a rendered prompt\""),
	ARG_FLAG("control", 0, struct imatrix_args, control, "recognise control tokens in plain texts"),
	ARG_FLAG("merge", 0, struct imatrix_args, merge, "add importance files of the same model"),
	ARG_TEXT("show", 0, struct imatrix_args, show, "FILE", "only report what an importance file covers"),
	ARG_FLAG("force", 0, struct imatrix_args, force, "replace the result, forget what an interrupted run left"),
	ARG_INT("save-every", 0, struct imatrix_args, save_every, 0, 1 << 20, "SECONDS",
		"keep what was collected in OUT.part; 0 = after each step"),
	ARG_INT("down-every", 0, struct imatrix_args, down_every, 1, 1 << 20, "N",
		"only every N-th token enters the columns of the down matrices, the slow part"),
	ARG_INCLUDE(struct imatrix_args, engine, engine_arg_table),
	ARG_END
};

static const char *const imatrix_examples[] = {
	"ds4 imatrix -o flash.dat book.txt notes.txt",
	"ds4 imatrix -o chat.dat --chat conversations.jsonl --ctx 4096",
	"ds4 imatrix -o all.dat --merge flash.dat chat.dat",
	"ds4 imatrix --show all.dat",
	NULL
};

static const struct imatrix_args imatrix_defaults = {.save_every = 300, .down_every = 1};

const struct cli_command imatrix_command = {
	.args = {"imatrix", "measure which columns of the experts matter, for quantize",
		 "Reads texts in windows of --ctx tokens (2048 without it) and writes the mean squares that reach the "
		 "columns of every routed expert, in the file layout that other tools read, with a report of the "
		 "experts that were never chosen.  A run that was interrupted goes on when the same command is given "
		 "again.",
		 imatrix_args, imatrix_examples},
	.defaults = &imatrix_defaults,
	.size = sizeof imatrix_defaults,
	.run = imatrix,
};
