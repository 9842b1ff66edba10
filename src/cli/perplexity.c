/* perplexity.c - `ds4 perplexity FILE`: how surprised the model is by a text.
 *
 * What  exp(-mean log p(token | the tokens before it in the window)), over windows of --ctx tokens that advance by
 *       --stride.
 * How   Each window starts from an empty state.  Every token of the text but the first of each window's fresh part
 *       is predicted once: a window that overlaps the one before scores only what that one did not.
 * Careful
 *       - The first token of the text has nothing before it and is not scored.
 *       - Sums are in double: a million log-probabilities of size ten lose nothing that matters. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/score.h"
#include "cli/term.h"

#define WINDOW 2048	/* tokens, without --ctx */

struct perplexity_args {
	struct engine_args engine;
	struct numerics_args numerics;
	struct arg_list file;
	int64_t stride;
	bool bos, control, json;
};

struct evaluation {
	struct engine *e;
	struct token_list ids;
	int32_t window, stride;
	int32_t begin;			/* of the window that runs now */
	double nll, window_nll;
	int64_t scored;
	int32_t window_scored;
	int64_t read;			/* tokens read, overlaps counted */
	struct progress progress;
	json_t *windows;
};

static enum status read_text(struct evaluation *v, const struct perplexity_args *a, struct err *err)
{
	struct buf text = BUF_CAP((size_t)1 << 30);
	enum status st = file_read(&text, a->file.item[0], err);

	if (st == OK && a->bos)
		token_push(&v->ids, tokenizer_special(v->e->tokenizer, SPECIAL_BOS));
	if (st == OK && a->control)
		token_encode_control(v->e->tokenizer, buf_cstr(&text), text.len, &v->ids);
	else if (st == OK)
		token_encode_text(v->e->tokenizer, buf_cstr(&text), text.len, &v->ids);
	buf_clear(&text);
	if (st != OK)
		return st;
	if (v->ids.failed || v->ids.n > INT32_MAX)
		return err_set(err, ERR_MEMORY, "%s: no memory for its tokens", a->file.item[0]);
	if (v->ids.n < 2)
		return err_set(err, ERR_ARGUMENT, "%s: expected at least 2 tokens, found %zu", a->file.item[0],
			       v->ids.n);
	return OK;
}

static enum status on_row(void *ctx, int32_t pos, const float *logits, struct err *err)
{
	struct evaluation *v = ctx;
	int32_t next = v->ids.id[v->begin + pos + 1];
	double p = sampler_logprob(logits, v->e->shape.vocab, next);

	if (!isfinite(p))
		return err_set(err, ERR_DEVICE, "the logits after token %d are not numbers",
			       (int)(v->begin + pos));
	v->window_nll -= p;
	v->window_scored++;
	return OK;
}

static void on_progress(void *ctx, int32_t done)
{
	struct evaluation *v = ctx;

	progress_show(&v->progress, v->begin + done, (int64_t)v->ids.n);
}

static void report_window(struct evaluation *v, int index, bool json)
{
	double ppl = exp(v->window_nll / v->window_scored), all = exp(v->nll / (double)v->scored);

	if (json) {
		json_array_append_new(v->windows, json_pack("{s:i, s:i, s:f}", "begin", (int)v->begin, "scored",
							    (int)v->window_scored, "perplexity", ppl));
		return;
	}
	progress_clear(&v->progress);
	printf("window %d  tokens %d..%d  perplexity %.4f  so far %.4f\n", index + 1, (int)v->begin,
	       (int)(v->begin + v->window < (int32_t)v->ids.n ? v->begin + v->window : (int32_t)v->ids.n) - 1,
	       ppl, all);
	fflush(stdout);
}

/* Windows begin at 0, stride, 2 stride ...; each scores from where the one before ended. */
static enum status evaluate(struct evaluation *v, bool json, struct err *err)
{
	uint8_t *wanted = mem_zero((size_t)v->window);
	int32_t n = (int32_t)v->ids.n, scored_to = 1;	/* next token to be predicted */
	enum status st = OK;

	if (!wanted)
		return err_set(err, ERR_MEMORY, "no memory for a window of %d tokens", (int)v->window);
	for (int i = 0; scored_to < n; i++) {
		int32_t end;
		struct score_request q = {.wanted = wanted, .row = on_row, .progress = on_progress, .ctx = v};

		v->begin = i * v->stride;
		end = n - v->begin < v->window ? n : v->begin + v->window;
		memset(wanted, 0, (size_t)v->window);
		for (int32_t t = scored_to > v->begin ? scored_to : v->begin + 1; t < end; t++)
			wanted[t - 1 - v->begin] = 1;	/* logits after t-1 predict t */
		q.token = v->ids.id + v->begin;
		q.n = end - v->begin;
		v->window_nll = 0;
		v->window_scored = 0;
		if (q.n > 1)
			TRY_TO(out, score_run(v->e, &q, err));
		scored_to = end;
		if (!v->window_scored)
			continue;
		v->read += q.n;
		v->nll += v->window_nll;
		v->scored += v->window_scored;
		report_window(v, i, json);
	}
out:
	mem_free(wanted);
	return st;
}

static enum status report(struct evaluation *v, bool json, double seconds, struct err *err)
{
	double ppl = exp(v->nll / (double)v->scored), rate = (double)v->read / (seconds > 0 ? seconds : 1e-9);
	json_t *all;
	char *text;

	progress_clear(&v->progress);
	if (!json) {
		printf("perplexity %.4f over %lld tokens (%.5f nats a token), %.1f tokens/s, %s\n", ppl,
		       (long long)v->scored, v->nll / (double)v->scored, rate, v->e->be->name);
		return OK;
	}
	all = json_pack("{s:f, s:f, s:I, s:i, s:i, s:f, s:s, s:s?, s:O}", "perplexity", ppl, "nll",
			v->nll / (double)v->scored, "scored", (json_int_t)v->scored, "window", (int)v->window,
			"stride", (int)v->stride, "tokens_per_second", rate, "backend", v->e->be->name, "model",
			v->e->name, "windows", v->windows);
	text = all ? json_dumps(all, JSON_COMPACT) : NULL;
	json_decref(all);
	if (!text)
		return err_set(err, ERR_MEMORY, "no memory for the JSON text");
	puts(text);
	free(text);
	return OK;
}

static enum status perplexity(void *options, struct err *err)
{
	struct perplexity_args *a = options;
	struct evaluation v = {.progress = {.label = "evaluating", .unit = "tokens"}, .windows = json_array()};
	enum status st = OK;
	double t0;

	cli_interrupt_twice_kills();
	TRY_TO(out, cli_open_engine(&v.e, &a->engine, &a->numerics, SCORE_MAX_LOGITS, err));
	v.window = a->engine.context || v.e->opt.context < WINDOW ? v.e->opt.context : WINDOW;
	v.stride = a->stride ? (int32_t)a->stride : v.window;
	if (v.stride > v.window) {
		st = err_set(err, ERR_ARGUMENT, "--stride: expected at most the window of %d tokens, found %d",
			     (int)v.window, (int)v.stride);
		goto out;
	}
	TRY_TO(out, read_text(&v, a, err));
	t0 = clock_seconds();
	TRY_TO(out, evaluate(&v, a->json, err));
	st = report(&v, a->json, clock_seconds() - t0, err);
out:
	progress_clear(&v.progress);
	json_decref(v.windows);
	token_list_clear(&v.ids);
	engine_close(v.e);
	return st;
}

static const struct arg_spec perplexity_args[] = {
	ARG_REST("FILE", struct perplexity_args, file, 1, 1, "text to evaluate; - is standard input"),
	ARG_INT("stride", 0, struct perplexity_args, stride, 1, 1 << 20, "N",
		"tokens between the beginnings of windows (a window)"),
	ARG_FLAG("bos", 0, struct perplexity_args, bos, "put the begin-of-sentence token in front of the text"),
	ARG_FLAG("control", 0, struct perplexity_args, control, "recognise control tokens in the text"),
	ARG_FLAG("json", 0, struct perplexity_args, json, "one JSON object instead of text"),
	ARG_INCLUDE(struct perplexity_args, engine, engine_arg_table),
	ARG_INCLUDE(struct perplexity_args, numerics, numerics_arg_table),
	ARG_END
};

static const char *const perplexity_examples[] = {
	"ds4 perplexity story.txt",
	"ds4 perplexity story.txt --ctx 512 --stride 256     # at least 256 tokens before every scored one",
	"ds4 perplexity - --json < story.txt",
	NULL
};

static const struct perplexity_args perplexity_defaults = {
	.numerics = NUMERICS_ARGS_DEFAULT, .bos = true};

const struct cli_command perplexity_command = {
	.args = {"perplexity", "how well the model predicts a text",
		 "Cuts the text into windows of --ctx tokens (2048 without it), each read from an empty state, "
		 "and prints the perplexity of each and of all.  (ds4-nano is far off on books; it was trained on "
		 "generated text.)",
		 perplexity_args, perplexity_examples},
	.defaults = &perplexity_defaults,
	.size = sizeof perplexity_defaults,
	.run = perplexity,
};
