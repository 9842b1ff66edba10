/* quantize.c - `ds4 quantize SOURCE DESTINATION`: options in, plan and progress out; the work is in
 * src/workshop.
 *
 * Careful: Ctrl-C sets a flag; the workshop stops at the next chunk and leaves what the same command
 * continues from. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "cli/cli.h"
#include "cli/term.h"
#include "workshop/quantize.h"
#include "workshop/recipe.h"

#define MB 1048576

struct quantize_args {
	struct arg_list paths, drop, splice;
	const char *recipe, *imatrix, *config, *tokenizer, *tokenizer_from, *metadata_from, *name, *show;
	int64_t threads;
	bool mtp, force, dry_run;
};

struct watch {
	struct progress line;
	bool checking;
};

static void on_progress(void *ctx, const struct quantize_progress *p)
{
	struct watch *w = ctx;

	if (p->checking != w->checking) {
		progress_clear(&w->line);
		w->line = (struct progress){.unit = "MB"};
		w->checking = p->checking;
	}
	w->line.label = p->checking ? "checking what is there" : p->tensor;
	progress_show(&w->line, (int64_t)(p->done / MB), (int64_t)(p->total / MB));
}

static void put_time(struct buf *out, double seconds)
{
	long s = (long)(seconds + 0.5);

	if (s >= 3600)
		buf_printf(out, "%ld h %ld min", s / 3600, s / 60 % 60);
	else if (s >= 60)
		buf_printf(out, "%ld min %ld s", s / 60, s % 60);
	else
		buf_printf(out, "%ld s", s);
}

static void put_bytes(struct buf *out, uint64_t n)
{
	if (n >= (uint64_t)10 << 30)
		buf_printf(out, "%.2f GiB", (double)n / (1 << 30));
	else
		buf_printf(out, "%.1f MiB", (double)n / MB);
}

static enum status print_plan(const struct quantize_report *r, struct err *err)
{
	struct buf b = BUF_CAP(BUF_MAX);

	buf_printf(&b, "%llu tensors, ", (unsigned long long)r->tensors);
	put_bytes(&b, r->source_bytes);
	buf_str(&b, " to read, ");
	put_bytes(&b, r->file_bytes);
	buf_printf(&b, " to write (%llu bytes)\n", (unsigned long long)r->file_bytes);
	for (int t = 0; t < DTYPE_COUNT; t++)
		if (r->type[t].tensors) {
			buf_printf(&b, "  %-8s %5llu tensors  %10.1f M weights  ",
			           dtype_info((enum dtype)t)->name, (unsigned long long)r->type[t].tensors,
			           (double)r->type[t].elements / 1e6);
			put_bytes(&b, r->type[t].bytes);
			buf_byte(&b, '\n');
		}
	if (r->with_importance || r->without_importance)
		buf_printf(&b, "  %llu quantised tensors with an importance vector, %llu without\n",
			   (unsigned long long)r->with_importance, (unsigned long long)r->without_importance);
	buf_str(&b, "memory: at most ");
	put_bytes(&b, r->memory_bytes);
	buf_printf(&b, " for %d threads\ntime:   about ", r->threads);
	put_time(&b, r->seconds);
	buf_str(&b, " of computing on this machine as busy as it is now, if the disk keeps up\n");
	if (r->disk_free) {
		buf_str(&b, "disk:   ");
		put_bytes(&b, r->disk_free);
		buf_printf(&b, " free, %s\n", r->disk_free > r->file_bytes ? "enough" : "NOT enough");
	}
	fwrite(buf_cstr(&b), 1, b.len, stdout);
	buf_clear(&b);
	return cli_flush(err);
}

static void print_end(const struct quantize_report *r, const char *path)
{
	struct buf b = BUF_CAP(4096);

	buf_printf(&b, "%s: ", path);
	put_bytes(&b, r->file_bytes);
	buf_printf(&b, ", %llu tensors", (unsigned long long)r->tensors);
	if (r->kept)
		buf_printf(&b, " (%llu from the interrupted run)", (unsigned long long)r->kept);
	buf_str(&b, ", ");
	put_time(&b, r->elapsed);
	if (r->elapsed > 0 && r->converted_bytes)
		buf_printf(&b, ", %.1f MB/s of source on %d threads",
			   (double)r->converted_bytes / MB / r->elapsed, r->threads);
	term_note("%s", buf_cstr(&b));
	buf_clear(&b);
}

static enum status show_recipe(const char *name, struct err *err)
{
	const char *text = recipe_builtin(name);

	if (!text)
		return err_set(err, ERR_ARGUMENT, "--show-recipe %s: expected one of " RECIPE_NAMES, name);
	fputs(text, stdout);
	return cli_flush(err);
}

static enum status quantize(void *options, struct err *err)
{
	const struct quantize_args *a = options;
	struct watch watch = {.line = {.unit = "MB"}};
	struct quantize_options o = {
		.recipe = a->recipe, .imatrix = a->imatrix, .config = a->config, .tokenizer = a->tokenizer,
		.tokenizer_from = a->tokenizer_from, .metadata_from = a->metadata_from, .name = a->name,
		.drop = a->drop.item, .n_drop = a->drop.n, .splice = a->splice.item, .n_splice = a->splice.n,
		.mtp = a->mtp, .force = a->force, .threads = (int)a->threads, .cancel = cli_interrupt_flag(),
		.progress = on_progress, .ctx = &watch,
	};
	struct quantize_report report;
	struct quantize *q;
	enum status st;

	if (a->show)
		return show_recipe(a->show, err);
	if (a->paths.n < 1 || (a->paths.n < 2 && !a->dry_run))
		return err_set(err, ERR_ARGUMENT,
			       "expected a source and a destination; ds4 quantize --help shows examples");
	o.source = a->paths.item[0];
	o.destination = a->paths.n > 1 ? a->paths.item[1] : NULL;
	TRY(quantize_open(&q, &o, err));
	if (a->dry_run) {
		quantize_report(q, true, &report);
		st = print_plan(&report, err);
	} else {
		cli_interrupt_twice_kills();
		st = quantize_run(q, err);
		progress_clear(&watch.line);
		quantize_report(q, false, &report);
		if (st == OK)
			print_end(&report, o.destination);
		else if (st == ERR_CANCELLED)
			term_note("stopped; the same command continues from here");
	}
	quantize_close(q);
	return st;
}

static const struct arg_spec quantize_args[] = {
	ARG_REST("SOURCE DESTINATION", struct quantize_args, paths, 0, 2,
                 "a checkpoint (folder, .safetensors, or index .json) or a .gguf file; the .gguf file to "
                 "make"),
	ARG_TEXT("recipe", 'r', struct quantize_args, recipe, "NAME",
                 "what to store each tensor as: " RECIPE_NAMES
                 ", or a file; a .gguf source defaults to keep"),
	ARG_TEXT("show-recipe", 0, struct quantize_args, show, "NAME",
                 "print a built-in recipe, to start your own from"),
	ARG_TEXT("imatrix", 0, struct quantize_args, imatrix, "FILE",
                 "importance of columns, as ds4 imatrix writes it"),
	ARG_FLAG("mtp", 0, struct quantize_args, mtp,
                 "write the MTP block of the checkpoint, a file of its own"),
	ARG_FLAG("dry-run", 'n', struct quantize_args, dry_run,
                 "only say what would be done: sizes, memory, time"),
	ARG_FLAG("force", 0, struct quantize_args, force,
                 "replace the destination; throw away what an interrupted run with other options left"),
	ARG_INT("threads", 't', struct quantize_args, threads, 0, 1024, "N", "threads; 0 = all cores"),
	ARG_GROUP("Metadata"),
	ARG_TEXT("config", 0, struct quantize_args, config, "FILE",
                 "config.json of the model (the one beside the checkpoint)"),
	ARG_TEXT("tokenizer", 0, struct quantize_args, tokenizer, "FILE",
                 "tokenizer.json (the one beside the checkpoint)"),
	ARG_TEXT("tokenizer-from", 0, struct quantize_args, tokenizer_from, "FILE",
                 "take the vocabulary from a .gguf file"),
	ARG_TEXT("metadata-from", 0, struct quantize_args, metadata_from, "FILE",
                 "take all metadata, the vocabulary too, from a .gguf file of the same model"),
	ARG_TEXT("name", 0, struct quantize_args, name, "TEXT", "general.name of the result"),
	ARG_GROUP("Editing"),
	ARG_LIST("splice", 0, struct quantize_args, splice, "WHAT=FILE",
                 "take layers (37..42=other.gguf) or tensors (PATTERN=other.gguf) from another file as "
                 "they are"),
	ARG_LIST("drop", 0, struct quantize_args, drop, "PATTERN", "leave these tensors out"),
	ARG_END};

static const char *const quantize_examples[] = {
	"ds4 quantize DeepSeek-V4-Flash/ flash-q2.gguf --recipe q2 --imatrix flash.dat",
	"ds4 quantize DeepSeek-V4-Flash/ flash-mtp.gguf --recipe q2 --mtp",
	"ds4 quantize --dry-run DeepSeek-V4-Flash/ flash-q4.gguf --recipe q4    # sizes, memory, time",
	"ds4 quantize q2.gguf mix.gguf --splice 37..42=q4.gguf                  # the last layers in 4 bits",
	NULL
};

static const struct quantize_args quantize_defaults = {0};

const struct cli_command quantize_command = {
	.args = {"quantize", "make a model file from a checkpoint, or from another model file",
                 "Converts DeepSeek's official checkpoint (FP4 experts, FP8 and bf16 matrices) or a GGUF "
                 "file into a GGUF "
                 "file, each tensor stored as a recipe says.  Memory stays small whatever the model's "
                 "size.  A run that was "
                 "stopped continues where it was when the same command is given again.",
                 quantize_args, quantize_examples},
	.defaults = &quantize_defaults,
	.size = sizeof quantize_defaults,
	.run = quantize,
};
