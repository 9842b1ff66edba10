/* quality_continue.c - `ds4 quality --continuations`: would the model have written the stored answers?
 *
 * What  Each stored answer is read behind its prompt as it stands; at every position: is the stored token the likeliest,
 *       how likely is it, and how far ahead of the runner-up is the likeliest.
 * Why   Free generation parts from a stored answer at the first coin toss and says nothing after it.
 * How   The file is a JSON array or JSON lines of objects:
 *           {"name"?, "prompt_ids": [...] or "prompt": text, "ids": [...] or "text": text, "margins"?: [...]}
 *       Texts are rendered ones: control tokens in them are recognised.  margins are the leads, in logits, of the
 *       stored tokens where they were made: a small one is a coin toss that another rounding may decide otherwise. */
#include "cli/quality.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/score.h"
#include "cli/term.h"
#include "cli/texts.h"
#include "workshop/quality.h"

struct answer {
	struct token_list ids;		/* prompt, then the stored answer */
	int32_t prompt;
	const json_t *margins;		/* borrowed; NULL: none */
};

struct totals {
	int64_t n, same, decided, decided_same;	/* decided: the stored margin is large enough, or unknown */
	double logprob;
};

struct check {
	struct engine *e;
	const struct quality_args *a;
	struct answer answer;
	struct totals one, all;
	int32_t first_other;		/* position in the answer, -1 */
	json_t *positions, *out;	/* with --json */
	char name[64];
};

/* ------------------------------------------------------------------ reading */

static bool take_ids(struct token_list *list, const struct tokenizer *t, const json_t *o, const char *ids,
		     const char *text)
{
	size_t n;
	const char *s;

	if (json_object_get(o, ids))
		return texts_json_ids(list, json_object_get(o, ids), tokenizer_size(t));
	s = json_get_text(o, text, &n);
	if (!s)
		return false;
	token_encode_control(t, s, n, list);
	return !list->failed;
}

static enum status take_answer(struct check *c, const json_t *o, size_t index, struct err *err)
{
	const struct tokenizer *t = c->e->tokenizer;
	struct answer *a = &c->answer;
	size_t n;
	const char *name = json_get_text(o, "name", &n);

	if (name)
		snprintf(c->name, sizeof c->name, "%s", name);
	else
		snprintf(c->name, sizeof c->name, "%zu", index + 1);
	for (char *p = c->name; *p; p++)	/* it may reach a terminal */
		if ((unsigned char)*p < ' ' || (unsigned char)*p >= 127)
			*p = '?';
	token_list_clear(&a->ids);
	if (!take_ids(&a->ids, t, o, "prompt_ids", "prompt") || !a->ids.n)
		return err_set(err, ERR_FORMAT, "answer %zu: expected prompt_ids (0 to %d) or prompt, found none", index + 1,
			       (int)tokenizer_size(t) - 1);
	a->prompt = (int32_t)a->ids.n;
	if (!take_ids(&a->ids, t, o, "ids", "text") || (int32_t)a->ids.n == a->prompt)
		return err_set(err, ERR_FORMAT, "answer %zu: expected ids (0 to %d) or text, found none", index + 1,
			       (int)tokenizer_size(t) - 1);
	a->margins = json_object_get(o, "margins");
	if (a->margins && json_array_size(a->margins) != a->ids.n - (size_t)a->prompt)
		return err_set(err, ERR_FORMAT, "answer %zu: expected %zu margins, found %zu", index + 1,
			       a->ids.n - (size_t)a->prompt, json_array_size(a->margins));
	return OK;
}

/* A JSON array, or one object a line. */
static json_t *read_answers(const char *path, struct err *err)
{
	struct buf text = BUF_CAP((size_t)1 << 30);
	json_t *all = NULL, *one;
	const char *p, *end;

	if (file_read(&text, path, err) != OK)
		return NULL;
	p = buf_cstr(&text);
	end = p + text.len;
	if (p[strspn(p, " \t\r\n")] == '[') {
		all = json_parse(p, text.len, err);
		if (!all)
			err_prefix(err, "%s", path);
		buf_clear(&text);
		return all;
	}
	all = json_array();
	for (int line = 1; all && p < end; line++) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((stop ? stop : end) - p);

		if (n > strspn(p, " \t\r\n")) {
			one = json_parse(p, n, err);
			if (!one || json_array_append_new(all, one) != 0) {
				err_prefix(err, "%s: line %d", path, line);
				json_decref(all);
				all = NULL;
				break;
			}
		}
		p += n + 1;
	}
	buf_clear(&text);
	return all;
}

/* ------------------------------------------------------------------ scoring */

/* How far the largest logit is ahead of the next. */
static double lead(const float *logits, int32_t v, int32_t best)
{
	float second = -INFINITY;

	for (int32_t i = 0; i < v; i++)
		if (i != best && logits[i] > second)
			second = logits[i];
	return (double)logits[best] - second;
}

static void note_position(struct check *c, int32_t at, int32_t best, double logprob, double ahead, double stored)
{
	int32_t id = c->answer.ids.id[c->answer.prompt + at];

	if (c->a->json) {
		json_array_append_new(c->positions, json_pack("{s:i, s:i, s:b, s:f, s:f}", "id", (int)id, "best",
							      (int)best, "same", id == best, "logprob", logprob,
							      "margin", ahead));
		return;
	}
	if (id == best)
		return;
	printf("  %s, token %d: stored %d (%.3f nats), here %d, ahead by %.3f", c->name, (int)at, (int)id, -logprob,
	       (int)best, ahead);
	if (!isnan(stored))
		printf("; stored with a margin of %.3f", stored);
	putchar('\n');
}

static enum status on_row(void *ctx, int32_t pos, const float *logits, struct err *err)
{
	struct check *c = ctx;
	int32_t v = c->e->shape.vocab, at = pos + 1 - c->answer.prompt, id = c->answer.ids.id[pos + 1];
	int32_t best = quality_best(logits, v);
	const json_t *margin = c->answer.margins ? json_array_get(c->answer.margins, (size_t)at) : NULL;
	double stored = json_is_number(margin) ? json_number_value(margin) : NAN;
	double logprob = sampler_logprob(logits, v, id);
	bool decided = isnan(stored) || stored >= c->a->margin;

	(void)err;
	c->one.n++;
	c->one.same += id == best;
	c->one.decided += decided;
	c->one.decided_same += decided && id == best;
	c->one.logprob += logprob;
	if (id != best && c->first_other < 0)
		c->first_other = at;
	note_position(c, at, best, logprob, lead(logits, v, best), stored);
	return OK;
}

static enum status score_answer(struct check *c, struct err *err)
{
	const struct answer *a = &c->answer;
	struct score_request q = {.token = a->ids.id, .n = (int32_t)a->ids.n - 1, .row = on_row, .ctx = c};
	uint8_t *wanted = mem_zero(a->ids.n);
	enum status st;

	if (!wanted)
		return err_set(err, ERR_MEMORY, "no memory for %zu tokens", a->ids.n);
	memset(wanted + a->prompt - 1, 1, (size_t)q.n - (size_t)(a->prompt - 1));
	q.wanted = wanted;
	c->one = (struct totals){0};
	c->first_other = -1;
	st = score_run(c->e, &q, err);
	mem_free(wanted);
	if (st != OK)
		return err_prefix(err, "%s", c->name);
	c->all.n += c->one.n;
	c->all.same += c->one.same;
	c->all.decided += c->one.decided;
	c->all.decided_same += c->one.decided_same;
	c->all.logprob += c->one.logprob;
	return OK;
}

/* ------------------------------------------------------------------ report */

static json_t *totals_json(const struct totals *t)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f}", "tokens", (json_int_t)t->n, "same", (json_int_t)t->same,
			 "decided", (json_int_t)t->decided, "decided_same", (json_int_t)t->decided_same,
			 "logprob", t->logprob, "perplexity", exp(-t->logprob / (double)t->n));
}

static void report_answer(struct check *c)
{
	json_t *one;

	if (!c->a->json) {
		printf("%-20s %5lld of %5lld the same, perplexity %.4f%s\n", c->name, (long long)c->one.same,
		       (long long)c->one.n, exp(-c->one.logprob / (double)c->one.n),
		       c->first_other < 0 ? ", all reproduced" : "");
		return;
	}
	one = totals_json(&c->one);
	json_object_set_new(one, "name", json_string(c->name));
	json_object_set_new(one, "first_other", json_integer(c->first_other));
	json_object_set(one, "positions", c->positions);
	json_array_append_new(c->out, one);
}

static enum status report_all(struct check *c, struct err *err)
{
	const struct totals *t = &c->all;
	json_t *all;
	char *text;

	if (!c->a->json) {
		printf("%lld of %lld tokens the same (%.2f %%), %lld of %lld where the stored margin is at least %g; "
		       "perplexity %.4f\n",
		       (long long)t->same, (long long)t->n, 100.0 * (double)t->same / (double)t->n,
		       (long long)t->decided_same, (long long)t->decided, c->a->margin,
		       exp(-t->logprob / (double)t->n));
		return OK;
	}
	all = totals_json(t);
	json_object_set_new(all, "margin", json_real(c->a->margin));
	json_object_set_new(all, "model", json_string(c->e->name));
	json_object_set(all, "answers", c->out);
	text = json_dumps(all, JSON_COMPACT);
	json_decref(all);
	if (!text)
		return err_set(err, ERR_MEMORY, "no memory for the JSON text");
	puts(text);
	free(text);
	return OK;
}

static enum status each_answer(struct check *c, const json_t *all, struct err *err)
{
	for (size_t i = 0; i < json_array_size(all); i++) {
		TRY(take_answer(c, json_array_get(all, i), i, err));
		json_decref(c->positions);
		c->positions = json_array();
		TRY(score_answer(c, err));
		report_answer(c);
	}
	if (!c->all.n)
		return err_set(err, ERR_FORMAT, "%s: expected stored answers, found none", c->a->continuations);
	return report_all(c, err);
}

enum status quality_continuations(const struct quality_args *a, struct err *err)
{
	struct check c = {.a = a, .out = json_array()};
	json_t *all;
	enum status st;

	all = read_answers(a->continuations, err);
	if (!all) {
		json_decref(c.out);
		return err->code != OK ? err->code : err_set(err, ERR_MEMORY, "%s: no memory", a->continuations);
	}
	st = cli_open_engine(&c.e, &a->engine, NULL, SCORE_MAX_LOGITS, err);
	if (st == OK)
		st = each_answer(&c, all, err);
	json_decref(all);
	json_decref(c.out);
	json_decref(c.positions);
	token_list_clear(&c.answer.ids);
	engine_close(c.e);
	return st;
}
