/* quality.c - `ds4 quality`: how far a model is from a reference, token by token over texts.
 *
 * What  KL divergence, agreement of the likeliest token and perplexity of TEST against REF, for ranges of context, with
 *       intervals.  REF is a model or what --save-logits stored of one that does not fit beside TEST.  With --than a
 *       third model is compared with REF, too, and TEST with it: is TEST better, on the same texts?
 * How   The texts are cut into windows that begin with BOS.  All models read the same few tokens, then the rows of
 *       logits are compared and forgotten: a step of logits of each is all that is held.
 * Careful
 *       - The last token of a window predicts nothing that can be checked; it is not read.
 *       - All files must have the same vocabulary: the texts are tokenized with each, and the ids compared. */
#include "cli/quality.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/score.h"
#include "cli/term.h"
#include "cli/texts.h"
#include "workshop/logits_file.h"
#include "workshop/quality.h"

#define WINDOW 2048	/* tokens, without --ctx */
#define BLOCK 64	/* tokens that are resampled together; divides every bound below */

static const int32_t bucket_bound[] = {0, 128, 512, 2048, 8192, 32768, INT32_MAX};

#define N_BUCKETS (sizeof bucket_bound / sizeof *bucket_bound - 1)

/* A model that reads along, or the stored logits of one. */
struct side {
	struct engine *e;		/* NULL: stored */
	struct logits_file file;
	const char *name;
	struct kv *kv;
	float *logits, *logprob;	/* [SCORE_MAX_LOGITS, V], [V] */
};

enum { TEST, REF, THAN, N_SIDES };

struct comparison {
	struct side side[N_SIDES];
	struct text_set texts;
	struct quality_point *point[N_SIDES];	/* [predictions] of TEST, and of THAN if there is one */
	size_t n;
	int32_t vocab, block;
	struct logits_writer *writer;	/* --save-logits: instead of points; ref is not used */
	struct progress progress;
};

/* ------------------------------------------------------------------ opening */

static enum status open_model(struct side *s, const struct engine_args *a, const char *path, struct err *err)
{
	struct engine_args mine = *a;

	if (path)
		mine.model = path;
	TRY(cli_open_engine(&s->e, &mine, NULL, SCORE_MAX_LOGITS, err));
	s->name = s->e->name;
	s->logits = mem_array((size_t)forward_max_logits(s->e->forward) * (size_t)s->e->shape.vocab,
			      sizeof *s->logits);
	s->logprob = mem_array((size_t)s->e->shape.vocab, sizeof *s->logprob);
	return s->logits && s->logprob ? OK : err_set(err, ERR_MEMORY, "no memory for logits");
}

static void close_side(struct side *s)
{
	mem_free(s->logits);
	mem_free(s->logprob);
	engine_close(s->e);
	logits_file_close(&s->file);
}

static enum status read_texts(struct text_set *out, const struct quality_args *a, const struct engine *e, int first,
			      struct err *err)
{
	struct text_options o = {.file = a->file.item + first, .n_files = a->file.n - first, .chat = a->chat,
				 .control = a->control};

	o.window = a->engine.context || e->opt.context < WINDOW ? e->opt.context : WINDOW;
	return texts_read(out, e->tokenizer, &o, err);
}

static uint64_t predictions(const struct text_set *t)
{
	return t->ids.n - t->n;
}

/* REF or THAN, given as `path`, must speak of the same tokens as TEST. */
static enum status check_side(struct comparison *c, const struct side *s, const char *path,
			      const struct quality_args *a, struct err *err)
{
	uint64_t hash = logits_text_hash(c->texts.ids.id, c->texts.end, c->texts.n);
	int32_t vocab = s->e ? s->e->shape.vocab : s->file.vocab;
	struct text_set same;
	bool equal;

	if (vocab != c->vocab)
		return err_set(err, ERR_FORMAT, "%s: has %d tokens in its vocabulary, %s has %d", path, (int)vocab,
			       a->file.item[1], (int)c->vocab);
	if (!s->e) {
		if (s->file.hash == hash && s->file.rows == predictions(&c->texts))
			return OK;
		return err_set(err, ERR_FORMAT,
			       "%s: was stored for other texts or another --ctx: expected %" PRIu64
			       " rows, found %" PRIu64, path, predictions(&c->texts), s->file.rows);
	}
	TRY(read_texts(&same, a, s->e, 2, err));
	equal = logits_text_hash(same.ids.id, same.end, same.n) == hash;
	texts_clear(&same);
	if (!equal)
		return err_set(err, ERR_FORMAT, "%s: makes other tokens of the texts than %s", path, a->file.item[1]);
	return OK;
}

/* ------------------------------------------------------------------ running */

static enum status add_points(struct comparison *c, int32_t context, int32_t target, struct err *err)
{
	struct quality_row row = {.logprob = c->side[REF].logprob, .n = c->vocab};

	if (c->side[REF].e)
		row.target = c->side[REF].logprob[target];
	else
		TRY(logits_file_row(&c->side[REF].file, c->n, &row, err));
	for (int s = TEST; s < N_SIDES; s++) {
		struct quality_point *p = &c->point[s][c->n];

		if (!c->point[s])
			continue;
		quality_compare(p, &row, c->side[s].logprob, c->vocab, target);
		p->context = context;
		p->block = c->block;
	}
	c->n++;
	return OK;
}

/* Rows at..at+k-1 of a window. */
static enum status one_step(struct comparison *c, const int32_t *id, int32_t at, int32_t k, struct err *err)
{
	size_t v = (size_t)c->vocab;

	for (int s = 0; s < N_SIDES; s++) {
		struct side *side = &c->side[s];
		struct forward_part part = {.kv = side->kv, .token = id + at, .n = k, .all_logits = true};

		if (side->e)
			TRY(forward_step(side->e->forward, &part, 1, side->logits, cli_interrupt_flag(), err));
	}
	for (int32_t i = 0; i < k; i++) {
		int32_t context = at + i + 1, target = id[at + i + 1];

		for (int s = 0; s < N_SIDES; s++)
			if (c->side[s].e)
				quality_logprobs(c->side[s].logprob, c->side[s].logits + (size_t)i * v, c->vocab);
		if (context == 1 || context % BLOCK == 0)
			c->block++;
		if (c->writer)
			TRY(logits_writer_row(c->writer, c->side[TEST].logprob, target, err));
		else
			TRY(add_points(c, context, target, err));
	}
	return OK;
}

static int32_t step_rows(const struct comparison *c)
{
	int32_t k = SCORE_MAX_LOGITS;

	for (int s = 0; s < N_SIDES; s++) {
		const struct engine *e = c->side[s].e;

		if (e && e->opt.chunk < k)
			k = e->opt.chunk;
		if (e && forward_max_logits(e->forward) < k)
			k = forward_max_logits(e->forward);
	}
	return k;
}

static enum status one_window(struct comparison *c, size_t w, struct err *err)
{
	int32_t n, most = step_rows(c);
	const int32_t *id = texts_window(&c->texts, w, &n);
	enum status st = OK;

	for (int s = 0; s < N_SIDES; s++)
		if (c->side[s].e)
			TRY_TO(out, kv_open(&c->side[s].kv, &c->side[s].e->pool, 2, err));
	for (int32_t at = 0, k; at < n - 1; at += k) {
		k = n - 1 - at < most ? n - 1 - at : most;
		TRY_TO(out, one_step(c, id, at, k, err));
		progress_show(&c->progress, (id - c->texts.ids.id) + at + k, (int64_t)c->texts.ids.n);
	}
out:
	for (int s = 0; s < N_SIDES; s++) {
		kv_close(c->side[s].kv);
		c->side[s].kv = NULL;
	}
	return st;
}

static enum status all_windows(struct comparison *c, struct err *err)
{
	enum status st = OK;

	for (size_t w = 0; st == OK && w < c->texts.n; w++)
		st = one_window(c, w, err);
	progress_clear(&c->progress);
	return st;
}

/* ------------------------------------------------------------------ report */

static void range_name(char *out, size_t room, int32_t low, int32_t high)
{
	if (low == 0 && high == INT32_MAX)
		snprintf(out, room, "all");
	else if (high == INT32_MAX)
		snprintf(out, room, "%d on", (int)low);
	else
		snprintf(out, room, "%d..%d", (int)(low ? low : 1), (int)high - 1);
}

static void print_row(const char *range, const struct quality_summary *s)
{
	printf("%-12s %7zu  %.5f [%.5f %.5f] %.5f %.4f %.3f  %6.2f [%6.2f %6.2f]  %9.4f %9.4f  %.4f [%.4f %.4f]\n",
	       range, s->n, s->kl.value, s->kl.low, s->kl.high, s->kl_median, s->kl_p99, s->kl_max,
	       100 * s->top1.value, 100 * s->top1.low, 100 * s->top1.high, s->ppl_ref, s->ppl_test, s->ratio.value,
	       s->ratio.low, s->ratio.high);
}

static json_t *interval_json(const struct quality_interval *v)
{
	return json_pack("[f, f, f]", v->value, v->low, v->high);
}

static json_t *row_json(const char *range, const struct quality_summary *s)
{
	return json_pack("{s:s, s:I, s:I, s:o, s:f, s:f, s:f, s:o, s:f, s:f, s:o}", "context", range, "tokens",
			 (json_int_t)s->n, "blocks", (json_int_t)s->blocks, "kl", interval_json(&s->kl),
			 "kl_median", s->kl_median, "kl_p99", s->kl_p99, "kl_max", s->kl_max, "top1",
			 interval_json(&s->top1), "perplexity_ref", s->ppl_ref, "perplexity_test", s->ppl_test,
			 "perplexity_ratio", interval_json(&s->ratio));
}

static json_t *pair_json(const struct quality_pair *p, const char *name)
{
	return json_pack("{s:s?, s:o, s:o, s:o}", "model", name, "kl_difference", interval_json(&p->kl),
			 "top1_difference", interval_json(&p->top1), "perplexity_ratio", interval_json(&p->ratio));
}

/* TEST against THAN; lines that end in a verdict for who does not read intervals. */
static void print_pair(const struct quality_pair *p, const char *test, const char *than)
{
	const char *word = p->kl.high < 0 ? "nearer to the reference" : p->kl.low > 0 ? "further from it" : "not told apart";

	printf("%s against %s, the same tokens resampled together: KL %+.5f [%+.5f %+.5f], same top-1 %+.2f %% "
	       "[%+.2f %+.2f], perplexity ratio %.4f [%.4f %.4f]: %s\n", test, than, p->kl.value, p->kl.low, p->kl.high,
	       100 * p->top1.value, 100 * p->top1.low, 100 * p->top1.high, p->ratio.value, p->ratio.low, p->ratio.high,
	       word);
}

static enum status print_json(const struct comparison *c, const struct quality_args *a, json_t *rows,
			      const struct quality_pair *pair, struct err *err)
{
	const struct side *ref = &c->side[REF];
	json_t *all = json_pack("{s:s?, s:s?, s:b, s:i, s:I, s:I, s:I, s:O}", "reference", ref->name, "test",
				c->side[TEST].name, "stored", !ref->e, "stored_top", (int)ref->file.n, "windows",
				(json_int_t)c->texts.n, "resamples", (json_int_t)a->resamples, "seed",
				(json_int_t)a->seed, "ranges", rows);
	char *text;

	if (all && c->point[THAN])
		json_object_set_new(all, "than", pair_json(pair, c->side[THAN].name));
	text = all ? json_dumps(all, JSON_COMPACT) : NULL;
	json_decref(all);
	if (!text)
		return err_set(err, ERR_MEMORY, "no memory for the JSON text");
	puts(text);
	free(text);
	return OK;
}

static void print_head(const struct comparison *c)
{
	printf("%s against %s%s, %zu windows; [95 %% intervals]\n", c->side[TEST].name, c->side[REF].name,
	       c->side[REF].e ? "" : " (stored)", c->texts.n);
	printf("%-12s %7s  %-25s %-7s %-6s %-5s  %-23s  %9s %9s  %s\n", "context", "tokens", "KL, nats", "median", "99 %",
	       "max", "same top-1, %", "ppl ref", "ppl test", "ratio");
}

static enum status report(const struct comparison *c, const struct quality_args *a, struct err *err)
{
	json_t *rows = json_array();
	struct quality_pair pair = {0};
	enum status st = OK;

	if (!a->json)
		print_head(c);
	for (size_t b = 0; st == OK && b <= N_BUCKETS; b++) {
		int32_t low = b < N_BUCKETS ? bucket_bound[b] : 0;
		int32_t high = b < N_BUCKETS ? bucket_bound[b + 1] : INT32_MAX;
		struct quality_summary s;
		char range[32];

		st = quality_summarise(&s, c->point[TEST], c->n, low, high, (int)a->resamples, (uint64_t)a->seed, err);
		if (st != OK || !s.n)
			continue;
		range_name(range, sizeof range, low, high);
		if (a->json)
			json_array_append_new(rows, row_json(range, &s));
		else
			print_row(range, &s);
	}
	if (st == OK && c->point[THAN])
		st = quality_compare_pair(&pair, c->point[TEST], c->point[THAN], c->n, 0, INT32_MAX, (int)a->resamples,
					  (uint64_t)a->seed, err);
	if (st == OK && c->point[THAN] && !a->json)
		print_pair(&pair, c->side[TEST].name, c->side[THAN].name);
	if (st == OK && a->json)
		st = print_json(c, a, rows, &pair, err);
	json_decref(rows);
	return st;
}

/* ------------------------------------------------------------------ the command */

static enum status save(struct comparison *c, const struct quality_args *a, struct err *err)
{
	struct side *model = &c->side[TEST];
	enum status st;

	TRY(open_model(model, &a->engine, NULL, err));
	c->vocab = model->e->shape.vocab;
	TRY(read_texts(&c->texts, a, model->e, 0, err));
	TRY(logits_writer_open(&c->writer, a->save, model->name, c->vocab,
			       a->top && a->top < c->vocab ? (int32_t)a->top : c->vocab, predictions(&c->texts),
			       logits_text_hash(c->texts.ids.id, c->texts.end, c->texts.n), err));
	st = all_windows(c, err);
	if (st == OK)
		st = logits_writer_finish(c->writer, err);
	if (st == OK)
		term_note("%s: %" PRIu64 " rows", a->save, predictions(&c->texts));
	return st;
}

static enum status compare(struct comparison *c, const struct quality_args *a, struct err *err)
{
	if (a->file.n < 3)
		return err_set(err, ERR_ARGUMENT,
			       "'quality' needs a reference, a model to test and at least one text, got %d of these",
			       a->file.n);
	if (logits_file_is(a->file.item[0])) {
		TRY(logits_file_open(&c->side[REF].file, a->file.item[0], err));
		c->side[REF].name = c->side[REF].file.model;
	} else {
		TRY(open_model(&c->side[REF], &a->engine, a->file.item[0], err));
	}
	TRY(open_model(&c->side[TEST], &a->engine, a->file.item[1], err));
	if (a->than)
		TRY(open_model(&c->side[THAN], &a->engine, a->than, err));
	c->vocab = c->side[TEST].e->shape.vocab;
	TRY(read_texts(&c->texts, a, c->side[TEST].e, 2, err));
	TRY(check_side(c, &c->side[REF], a->file.item[0], a, err));
	if (a->than)
		TRY(check_side(c, &c->side[THAN], a->than, a, err));
	for (int s = TEST; s < N_SIDES; s++) {
		if (s == REF || (s == THAN && !a->than))
			continue;
		c->point[s] = mem_array(predictions(&c->texts), sizeof *c->point[s]);
		if (!c->point[s])
			return err_set(err, ERR_MEMORY, "no memory for %" PRIu64 " tokens", predictions(&c->texts));
	}
	TRY(all_windows(c, err));
	return report(c, a, err);
}

static enum status quality(void *options, struct err *err)
{
	struct quality_args *a = options;
	struct comparison c = {.progress = {.label = "comparing", .unit = "tokens"}};
	enum status st;

	cli_interrupt_twice_kills();
	if (a->continuations)
		return a->file.n ? err_set(err, ERR_ARGUMENT, "--continuations takes no other files, got %s",
					   a->file.item[0])
				 : quality_continuations(a, err);
	if (a->save && !a->file.n)
		return err_set(err, ERR_ARGUMENT, "--save-logits needs at least one text");
	st = a->save ? save(&c, a, err) : compare(&c, a, err);
	progress_clear(&c.progress);
	logits_writer_close(c.writer);
	texts_clear(&c.texts);
	for (int s = 0; s < N_SIDES; s++) {
		mem_free(c.point[s]);
		close_side(&c.side[s]);
	}
	return st;
}

static const struct arg_spec quality_args[] = {
	ARG_REST("REF TEST TEXT", struct quality_args, file, 0, ARG_LIST_MAX,
		 "the reference (model or stored logits), the model to test, texts; only texts with --save-logits"),
	ARG_TEXT("than", 0, struct quality_args, than, "MODEL",
		 "is TEST nearer to REF than this one?  Intervals of the difference, on the same tokens"),
	ARG_FLAG("chat", 0, struct quality_args, chat,
		 "texts are JSON lines: {\"messages\": [...]}, {\"ids\": [...]} or \"a rendered prompt\""),
	ARG_FLAG("control", 0, struct quality_args, control, "recognise control tokens in plain texts"),
	ARG_INT("resamples", 0, struct quality_args, resamples, 0, 1 << 20, "N", "of the bootstrap; 0 = no intervals"),
	ARG_INT("seed", 0, struct quality_args, seed, 0, 9007199254740992.0, "N", "same seed, same intervals"),
	ARG_FLAG("json", 0, struct quality_args, json, "one JSON object instead of a table"),
	ARG_GROUP("Stored predictions"),
	ARG_TEXT("save-logits", 0, struct quality_args, save, "FILE", "store what the model -m predicts along the texts"),
	ARG_INT("top", 0, struct quality_args, top, 0, 1 << 24, "N", "how many tokens of each row; 0 = all"),
	ARG_TEXT("continuations", 0, struct quality_args, continuations, "FILE",
		 "check stored answers with the model -m, each token behind the stored ones before it"),
	ARG_REAL("margin", 0, struct quality_args, margin, 0, 100, "X",
		 "of the stored answers: a smaller lead over the runner-up counts as undecided"),
	ARG_INCLUDE(struct quality_args, engine, engine_arg_table),
	ARG_END
};

static const char *const quality_examples[] = {
	"ds4 quality q4.gguf q2.gguf story.txt",
	"ds4 quality q8.gguf q2-imatrix.gguf story.txt --than q2.gguf",
	"ds4 quality --save-logits q4.logits -m q4.gguf --chat talks.jsonl    # once, on a large machine",
	"ds4 quality q4.logits q2.gguf --chat talks.jsonl --json",
	"ds4 quality --continuations official.jsonl -m q2.gguf",
	NULL
};

static const struct quality_args quality_defaults = {.top = 256, .resamples = 1000, .seed = 1, .margin = 0.1};

const struct cli_command quality_command = {
	.args = {"quality", "how far a model's predictions are from a better one's",
		 "Reads texts with both models and prints KL divergence, agreement of the likeliest token and "
		 "perplexity, for ranges of context, with 95 % intervals.",
		 quality_args, quality_examples},
	.defaults = &quality_defaults,
	.size = sizeof quality_defaults,
	.run = quality,
};
