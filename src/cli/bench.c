/* bench.c - `ds4 bench`: how fast prompts are read and tokens are written, at several contexts and batch sizes.
 *
 * What  For each context: prefill speed up to it, then decode speed at it for each batch size; as a table that grows
 *       while it runs, as CSV, as JSON, as a picture.  --ops adds where the time goes and what the machine could do.
 * How   One timeline reads random tokens from one context to the next (or, with --fake-context, gets a made-up
 *       history).  A batch is so many copies of it that each decode random tokens.  A figure is the median of its steps.
 *       Steps run on the engine's backend; with --ops on the measuring wrapper around it, which records only in extra
 *       steps, never in those that the table counts.
 * Careful
 *       - The engine is opened for its file, weights and backend; its pool and forward pass are replaced by ones of the
 *         sizes wanted here.
 *       - Sampling is no part of a step.
 *       - A step that Ctrl-C interrupts leaves its timelines undefined: nothing is measured after it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/thread.h"
#include "cli/bench.h"

enum {
	WARM_STEPS = 2,
	LEAST_STEPS = 3,
	OPS_STEPS = 8,
	WARM_ROWS = 16,		/* of the step that first touches the weights */
	MAX_SAMPLES = 8192
};

struct bench_args {
	struct engine_args engine;
	const char *at, *batch, *csv, *plot;
	int64_t steps, prefill, seed;
	double seconds;
	bool fake, share, ops, probe, json, compare;
	struct arg_list files;
};

struct bench {
	const struct bench_args *a;
	struct bench_about about;
	struct engine *e;
	struct backend *timed;		/* with --ops */
	struct forward *forward;
	struct kv_pool pool;
	struct kv *base;		/* stands at the context being measured */
	struct kv *line[BENCH_MAX_TIMELINES];
	struct rng rng;
	int32_t *at, *batch, n_at, n_batch, max_batch;
	struct bench_cost cost;
	struct bench_count count;
	int32_t *token;			/* [rows] */
	float *logits;			/* [max_batch, V] */
	double *sample;			/* [MAX_SAMPLES] seconds */
	int n_sample;
	struct bench_row *row;
	struct bench_ops *ops;
	int n_row, n_ops;
	FILE *csv;
	bool quiet;			/* standard output belongs to JSON or CSV */
	struct progress progress;
};

/* ------------------------------------------------------------------ steps */

static int32_t random_token(struct bench *b)
{
	return (int32_t)rng_below(&b->rng, (uint64_t)b->e->shape.vocab);
}

/* Reads n more random tokens of one timeline. */
static enum status read_chunk(struct bench *b, struct kv *kv, int32_t n, double *seconds, struct err *err)
{
	struct forward_part part = {.kv = kv, .token = b->token, .n = n};
	double t0;
	enum status st;

	for (int32_t i = 0; i < n; i++)
		b->token[i] = random_token(b);
	t0 = clock_seconds();
	st = forward_step(b->forward, &part, 1, NULL, cli_interrupt_flag(), err);
	*seconds = clock_seconds() - t0;
	return st;
}

/* One more token of each of n timelines. */
static enum status decode_step(struct bench *b, int32_t n, double *seconds, struct err *err)
{
	struct forward_part part[BENCH_MAX_TIMELINES];
	double t0;
	enum status st;

	for (int32_t i = 0; i < n; i++) {
		b->token[i] = random_token(b);
		part[i] = (struct forward_part){.kv = b->line[i], .token = &b->token[i], .n = 1, .last_logits = true};
	}
	t0 = clock_seconds();
	st = forward_step(b->forward, part, n, b->logits, cli_interrupt_flag(), err);
	*seconds = clock_seconds() - t0;
	return st;
}

static void sample(struct bench *b, double seconds)
{
	if (b->n_sample < MAX_SAMPLES)
		b->sample[b->n_sample++] = seconds;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Fills the times of a row from the samples, each multiplied by `scale`. */
static void use_samples(struct bench *b, struct bench_row *r, double scale)
{
	int n = b->n_sample;

	qsort(b->sample, (size_t)n, sizeof *b->sample, by_value);
	r->steps = n;
	r->ms = 500 * scale * (b->sample[n / 2] + b->sample[(n - 1) / 2]);
	r->ms_min = 1e3 * scale * b->sample[0];
	r->ms_max = 1e3 * scale * b->sample[n - 1];
	b->n_sample = 0;
}

static void start_counting(struct bench *b)
{
	b->count.bytes = 0;
	forward_tap(b->forward, &(struct tap){.fn = bench_count_tap, .ctx = &b->count});
}

/* Weight bytes of a step and operations of its rows; experts is what the tap counted per step. */
static void set_cost(struct bench *b, struct bench_row *r, double experts)
{
	bool decode = r->phase == BENCH_DECODE;
	int32_t last = decode ? r->context + WARM_STEPS + r->steps / 2 : r->context - 1;	/* a typical position */
	bool chooses = geom_visible(last, 4) > b->e->shape.index_top_k;
	const struct bench_cost *c = &b->cost;

	r->weight_bytes = experts + c->fixed_bytes - (decode ? 0 : c->head_bytes) - (chooses ? 0 : c->index_bytes);
	r->ops = r->tokens * (c->row_ops + (decode ? c->head_ops : 0) + (chooses ? c->index_ops : 0));
	if (b->about.probed)
		r->limit = decode ? r->weight_bytes / (r->ms / 1e3) / b->about.probe.bytes_per_s
				  : r->ops / (r->ms / 1e3) / b->about.probe.int8_ops_per_s;
}

static enum status keep_row(struct bench *b, const struct bench_row *r, struct err *err)
{
	struct bench_row *grown = mem_grow(b->row, (size_t)b->n_row + 1, sizeof *grown);

	if (!grown)
		return err_set(err, ERR_MEMORY, "no memory for %d results", b->n_row + 1);
	b->row = grown;
	b->row[b->n_row++] = *r;
	progress_clear(&b->progress);
	if (!b->quiet) {
		bench_print_row(r);
		fflush(stdout);
	}
	if (b->csv) {
		bench_csv_row(b->csv, &b->about, r);
		fflush(b->csv);
	}
	return OK;
}

static enum status keep_ops(struct bench *b, const struct bench_row *r, double seconds, int steps, struct err *err)
{
	struct bench_ops *grown = mem_grow(b->ops, (size_t)b->n_ops + 1, sizeof *grown);
	const struct timed_row *op;
	int n;

	if (!grown)
		return err_set(err, ERR_MEMORY, "no memory for %d tables of operations", b->n_ops + 1);
	b->ops = grown;
	op = timed_rows(b->timed, &n);
	b->ops[b->n_ops] = (struct bench_ops){.of = *r, .n = n, .steps = steps, .seconds = seconds};
	memcpy(b->ops[b->n_ops].op, op, (size_t)n * sizeof *op);
	b->n_ops++;
	return OK;
}

static void record(struct bench *b, bool on)
{
	if (on)
		timed_reset(b->timed);
	timed_record(b->timed, on);
}

/* ------------------------------------------------------------------ prefill */

static int32_t least(int32_t a, int32_t b)
{
	return a < b ? a : b;
}

/* Brings the base to position `to` without measuring. */
static enum status advance(struct bench *b, int32_t to, struct err *err)
{
	double seconds;

	if (b->a->fake)
		return bench_fill(b->base, to, &b->rng, err);
	b->progress.label = "reading";
	b->progress.unit = "tokens";
	while (b->base->len < to) {
		TRY(read_chunk(b, b->base, least(b->about.chunk, to - b->base->len), &seconds, err));
		progress_show(&b->progress, b->base->len, b->at[b->n_at - 1]);
	}
	return OK;
}

/* One step behind the context, on a copy. */
static enum status record_prefill(struct bench *b, const struct bench_row *r, struct err *err)
{
	int32_t n = least(r->tokens, b->e->shape.context - r->context);
	enum status st = bench_copy(&b->line[0], b->base, true, err);
	double seconds;

	if (st != OK || n < 1)
		return st;
	record(b, true);
	st = read_chunk(b, b->line[0], n, &seconds, err);
	record(b, false);
	kv_close(b->line[0]);
	b->line[0] = NULL;
	return st == OK ? keep_ops(b, r, seconds, 1, err) : st;
}

/* Reads the last tokens before the context in measured steps.  A step's sample is its time per token, because the
 * last one may be shorter. */
static enum status measure_prefill(struct bench *b, int32_t context, struct err *err)
{
	struct bench_row r = {.phase = BENCH_PREFILL, .context = context, .batch = 1};
	double seconds, experts = 0, until;
	int32_t n;

	if (b->base->len < context - b->a->prefill)
		TRY(advance(b, context - (int32_t)b->a->prefill, err));
	b->progress.label = "measuring prefill";
	b->progress.unit = "tokens";
	r.tokens = least(b->about.chunk, context - b->base->len);
	until = clock_seconds() + b->a->seconds;
	while (b->base->len < context) {
		n = least(b->about.chunk, context - b->base->len);
		if (!experts)
			start_counting(b);
		TRY(read_chunk(b, b->base, n, &seconds, err));
		forward_tap(b->forward, NULL);
		if (!experts)
			experts = b->count.bytes;
		sample(b, seconds / n);
		progress_show(&b->progress, b->base->len, b->at[b->n_at - 1]);
		if (b->a->fake && clock_seconds() > until && b->n_sample >= LEAST_STEPS)
			TRY(bench_fill(b->base, context, &b->rng, err));
	}
	if (!b->n_sample)
		return OK;
	use_samples(b, &r, r.tokens);
	set_cost(b, &r, experts);
	TRY(keep_row(b, &r, err));
	return b->timed ? record_prefill(b, &r, err) : OK;
}

/* ------------------------------------------------------------------ decode */

static enum status record_decode(struct bench *b, const struct bench_row *r, struct err *err)
{
	int steps = r->steps < OPS_STEPS ? r->steps : OPS_STEPS;
	double seconds, sum = 0;
	enum status st = OK;

	record(b, true);
	for (int i = 0; st == OK && i < steps; i++) {
		st = decode_step(b, r->batch, &seconds, err);
		sum += seconds;
	}
	record(b, false);
	return st == OK ? keep_ops(b, r, sum, steps, err) : st;
}

static enum status decode_steps(struct bench *b, struct bench_row *r, struct err *err)
{
	double seconds, until, experts;
	char label[64];

	start_counting(b);
	for (int i = 0; i < WARM_STEPS; i++)
		TRY(decode_step(b, r->batch, &seconds, err));
	forward_tap(b->forward, NULL);
	experts = b->count.bytes / WARM_STEPS;
	snprintf(label, sizeof label, "decoding at %d, batch %d", (int)r->context, (int)r->batch);
	b->progress = (struct progress){.label = label, .unit = "steps"};
	until = clock_seconds() + b->a->seconds;
	while (b->n_sample < b->a->steps && (b->n_sample < LEAST_STEPS || clock_seconds() < until)) {
		TRY(decode_step(b, r->batch, &seconds, err));
		sample(b, seconds);
		progress_show(&b->progress, b->n_sample, b->a->steps);
	}
	progress_clear(&b->progress);
	use_samples(b, r, 1);
	set_cost(b, r, experts);
	TRY(keep_row(b, r, err));
	return b->timed ? record_decode(b, r, err) : OK;
}

static enum status measure_decode(struct bench *b, int32_t context, int32_t batch, struct err *err)
{
	struct bench_row r = {.phase = BENCH_DECODE, .context = context, .batch = batch, .tokens = batch};
	enum status st = OK;

	for (int32_t i = 0; st == OK && i < batch; i++)
		st = bench_copy(&b->line[i], b->base, b->a->share, err);
	if (st == OK)
		st = decode_steps(b, &r, err);
	forward_tap(b->forward, NULL);
	b->progress.label = "";
	for (int32_t i = 0; i < batch; i++) {
		kv_close(b->line[i]);
		b->line[i] = NULL;
	}
	return st;
}

/* The first touch of the weights, on a timeline of its own. */
static enum status warm_up(struct bench *b, struct err *err)
{
	double seconds;
	enum status st;

	TRY(kv_open(&b->line[0], &b->pool, 2, err));
	st = read_chunk(b, b->line[0], least(WARM_ROWS, b->about.chunk), &seconds, err);
	kv_close(b->line[0]);
	b->line[0] = NULL;
	return st;
}

static enum status measure(struct bench *b, struct err *err)
{
	TRY(warm_up(b, err));
	TRY(kv_open(&b->base, &b->pool, 2, err));
	for (int32_t i = 0; i < b->n_at; i++) {
		b->progress = (struct progress){.label = "reading", .unit = "tokens"};
		if (b->a->prefill)
			TRY(measure_prefill(b, b->at[i], err));
		TRY(advance(b, b->at[i], err));
		progress_clear(&b->progress);
		for (int32_t j = 0; j < b->n_batch; j++)
			TRY(measure_decode(b, b->at[i], b->batch[j], err));
	}
	return OK;
}

/* ------------------------------------------------------------------ preparing */

static int by_number(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return (x > y) - (x < y);
}

/* "2k,4k" to ascending different numbers. */
static enum status read_list(int32_t **out, int32_t *n, const char *what, const char *text, int32_t most, int32_t max,
			     struct err *err)
{
	int32_t kept = 0;

	TRY(cli_numbers(out, n, what, text, strlen(text), err));
	if (*n < 1 || *n > most)
		return err_set(err, ERR_ARGUMENT, "%s: expected 1 to %d numbers, found %d in \"%s\"", what, (int)most, (int)*n,
			       text);
	qsort(*out, (size_t)*n, sizeof **out, by_number);
	for (int32_t i = 0; i < *n; i++) {
		if ((*out)[i] < 1 || (*out)[i] > max)
			return err_set(err, ERR_ARGUMENT, "%s: expected numbers from 1 to %d, found %d", what, (int)max,
				       (int)(*out)[i]);
		if (!kept || (*out)[i] != (*out)[kept - 1])
			(*out)[kept++] = (*out)[i];
	}
	*n = kept;
	return OK;
}

static enum status read_lists(struct bench *b, struct err *err)
{
	TRY(read_list(&b->at, &b->n_at, "--at", b->a->at, BENCH_MAX_AT, 1 << 20, err));
	if (strcmp(b->a->batch, "0"))	/* 0: no decoding */
		TRY(read_list(&b->batch, &b->n_batch, "--batch", b->a->batch, BENCH_MAX_BATCH, BENCH_MAX_TIMELINES, err));
	b->max_batch = b->n_batch ? b->batch[b->n_batch - 1] : 1;
	return OK;
}

/* The processor's name as the system tells it. */
static void find_machine(struct bench_about *a)
{
	struct buf text = BUF_CAP((size_t)4 << 20);
	char name[96] = "unknown processor", *p, *end;
	double load[1];

	if (file_read(&text, "/proc/cpuinfo", NULL) == OK) {
		p = strstr(text.data, "model name");
		p = p ? strchr(p, ':') : NULL;
		end = p ? strchr(p, '\n') : NULL;
		if (p && end && end > p + 2)
			snprintf(name, sizeof name, "%.*s", (int)(end - p - 2), p + 2);
	}
	buf_clear(&text);
	a->cores = cpu_count();
	snprintf(a->machine, sizeof a->machine, "%s, %d core%s", name, a->cores, a->cores == 1 ? "" : "s");
	a->load = getloadavg(load, 1) == 1 ? load[0] : 0;
}

/* Refuses what the model or the memory cannot hold, before anything is read. */
static enum status check_room(struct bench *b, struct err *err)
{
	const struct kv_layout *k = &b->e->layout;
	int32_t far = b->at[b->n_at - 1], after = b->n_batch ? WARM_STEPS + (int32_t)b->a->steps + OPS_STEPS : 0;
	uint64_t blocks = (uint64_t)far / GEOM_BLOCK + 2, own = (uint64_t)after / GEOM_BLOCK + 2, n = (uint64_t)b->max_batch;
	uint64_t bytes, there = mem_available_bytes();

	if (far > b->e->shape.context - after)
		return err_set(err, ERR_ARGUMENT, "--at: expected at most %d (the model's context of %d less %d steps), found %d",
			       (int)(b->e->shape.context - after), (int)b->e->shape.context, (int)after, (int)far);
	if (!b->a->share)
		own += blocks;
	if (b->timed)
		own += (uint64_t)b->about.chunk / GEOM_BLOCK + 1;
	bytes = (blocks + n * own) * k->block_bytes + (n + 3) * k->tail_bytes;
	if (there && bytes > there)
		return err_set(err, ERR_MEMORY,
			       "%d timelines at a context of %d need %llu bytes of memory, %llu are available: choose a smaller "
			       "--batch or --at%s", (int)n, (int)far, (unsigned long long)bytes, (unsigned long long)there,
			       b->a->share ? "" : ", or leave out --no-share");
	return OK;
}

/* Forward pass and pool of the sizes wanted, in place of the engine's. */
static enum status open_passes(struct bench *b, struct err *err)
{
	struct engine *e = b->e;
	int32_t rows = e->opt.chunk > b->max_batch ? e->opt.chunk : b->max_batch;

	forward_close(e->forward);
	e->forward = NULL;
	if (b->a->ops)
		TRY(timed_open(&b->timed, e->be, err));
	TRY(forward_open(&b->forward, b->timed ? b->timed : e->be, &e->shape, &e->weights, &e->layout, rows, b->max_batch,
			 err));
	kv_pool_init(&b->pool, e->be, &e->layout, INT32_MAX);
	b->token = mem_array((size_t)rows, sizeof *b->token);
	b->logits = mem_array((size_t)b->max_batch * (size_t)e->shape.vocab, sizeof *b->logits);
	b->sample = mem_array(MAX_SAMPLES, sizeof *b->sample);
	b->count = (struct bench_count){.cost = &b->cost, .shape = &e->shape};
	b->count.idx = mem_array((size_t)rows * (size_t)e->shape.used, sizeof *b->count.idx);
	b->count.seen = mem_zero((size_t)e->shape.experts);
	if (!b->token || !b->logits || !b->sample || !b->count.idx || !b->count.seen)
		return err_set(err, ERR_MEMORY, "no memory for the benchmark's own lists");
	return OK;
}

static enum status open_csv(struct bench *b, struct err *err)
{
	if (!b->a->csv)
		return OK;
	b->csv = strcmp(b->a->csv, "-") ? fopen(b->a->csv, "w") : stdout;
	if (!b->csv)
		return err_set(err, ERR_IO, "%s: %s", b->a->csv, strerror(errno));
	bench_csv_head(b->csv);
	return OK;
}

static enum status prepare(struct bench *b, struct err *err)
{
	struct engine *e;

	TRY(read_lists(b, err));
	if (b->a->plot)
		TRY(bench_plot_check(b->a->plot, err));
	find_machine(&b->about);
	TRY(cli_open_engine(&b->e, &b->a->engine, NULL, 1, err));
	e = b->e;
	b->about.model = e->name;
	b->about.backend = e->be->name;
	b->about.threads = e->opt.threads;
	b->about.chunk = e->opt.chunk;
	b->about.fake = b->a->fake;
	b->about.share = b->a->share;
	for (int c = 0; c < CLASS_COUNT; c++)
		b->about.read_per_token += e->weights.class_read[c];
	b->rng = rng_seed((uint64_t)b->a->seed);
	bench_cost_make(&b->cost, &e->weights, &e->shape);
	TRY(open_passes(b, err));
	TRY(check_room(b, err));
	TRY(open_csv(b, err));
	if (b->a->ops || b->a->probe) {
		TRY(probe_run(&b->about.probe, e->opt.threads, b->a->seconds < 2 ? b->a->seconds / 2 : 1,
			      PROBE_READ_BYTES, err));
		b->about.probed = true;
	}
	return OK;
}

/* ------------------------------------------------------------------ the end */

static enum status print_json(struct bench *b, struct err *err)
{
	json_t *all = bench_about_json(&b->about), *rows = json_array(), *ops = json_array();
	char *text = NULL;

	for (int i = 0; i < b->n_row; i++)
		json_array_append_new(rows, bench_row_json(&b->row[i]));
	for (int i = 0; i < b->n_ops; i++)
		json_array_append_new(ops, bench_ops_json(&b->ops[i]));
	json_object_set_new(all, "rows", rows);
	json_object_set_new(all, "ops", ops);
	if (all)
		text = json_dumps(all, JSON_INDENT(1));
	json_decref(all);
	if (!text)
		return err_set(err, ERR_MEMORY, "no memory for the JSON text");
	puts(text);
	free(text);
	return OK;
}

/* What was measured, also when it was interrupted. */
static enum status report(struct bench *b, struct err *err)
{
	for (int i = 0; !b->quiet && i < b->n_ops; i++)
		bench_print_ops(&b->ops[i], &b->about);
	if (b->a->json)
		TRY(print_json(b, err));
	if (b->csv && b->csv != stdout && (ferror(b->csv) || fflush(b->csv)))
		return err_set(err, ERR_IO, "%s: %s", b->a->csv, strerror(errno));
	if (b->a->plot && b->n_row)
		TRY(bench_plot(b->a->plot, &b->about, b->row, b->n_row, err));
	return OK;
}

static void clear(struct bench *b)
{
	if (b->csv && b->csv != stdout)
		fclose(b->csv);
	kv_close(b->base);
	kv_pool_clear(&b->pool);
	forward_close(b->forward);
	be_close(b->timed);
	engine_close(b->e);
	mem_free(b->at);
	mem_free(b->batch);
	mem_free(b->token);
	mem_free(b->logits);
	mem_free(b->sample);
	mem_free(b->count.idx);
	mem_free(b->count.seen);
	mem_free(b->row);
	mem_free(b->ops);
}

static enum status check(const struct bench_args *a, struct err *err)
{
	if (a->compare && a->files.n != 2)
		return err_set(err, ERR_ARGUMENT, "--compare: expected two CSV files, found %d", a->files.n);
	if (!a->compare && a->files.n)
		return err_set(err, ERR_ARGUMENT, "\"%s\": files are only for --compare A.csv B.csv", a->files.item[0]);
	if (a->engine.context)
		return err_set(err, ERR_ARGUMENT, "--ctx is not for bench: --at gives the contexts to measure");
	if (a->json && a->csv && !strcmp(a->csv, "-"))
		return err_set(err, ERR_ARGUMENT, "--json and --csv - both want standard output");
	return OK;
}

static enum status run(void *options, struct err *err)
{
	const struct bench_args *a = options;
	struct bench b = {.a = a, .quiet = a->json || (a->csv && !strcmp(a->csv, "-"))};
	enum status st, end;

	TRY(check(a, err));
	if (a->compare)
		return bench_compare(a->files.item[0], a->files.item[1], a->json, err);
	cli_interrupt_twice_kills();
	st = prepare(&b, err);
	if (st == OK) {
		if (!b.quiet) {
			bench_print_about(&b.about);
			bench_print_head();
		}
		st = measure(&b, err);
		progress_clear(&b.progress);
		if (st == OK || st == ERR_CANCELLED) {
			end = report(&b, st == OK ? err : NULL);
			if (st == OK)
				st = end;
		}
	}
	clear(&b);
	return st;
}

static const struct arg_spec bench_args[] = {
	ARG_TEXT("at", 0, struct bench_args, at, "LIST", "contexts to measure at, for example 2k,8k,64k"),
	ARG_TEXT("batch", 'b', struct bench_args, batch, "LIST", "timelines decoded together, for example 1,8; 0 = only prefill"),
	ARG_INT("prefill", 0, struct bench_args, prefill, 0, 1 << 20, "N",
		"measure prefill over the last N tokens before a context; 0 = only decode"),
	ARG_INT("steps", 0, struct bench_args, steps, LEAST_STEPS, 4096, "N", "most decode steps of a figure"),
	ARG_REAL("seconds", 0, struct bench_args, seconds, 0, 86400, "S",
		 "time for the steps of a figure; what must be read to reach a context takes its own"),
	ARG_FLAG("fake-context", 0, struct bench_args, fake,
		 "do not read up to a context: fill the history with random rows (the output says so)"),
	ARG_FLAG("share", 0, struct bench_args, share,
		 "timelines of a batch share the blocks they have in common; --no-share gives each its own copy"),
	ARG_FLAG("ops", 0, struct bench_args, ops, "time by operation, and --probe"),
	ARG_FLAG("probe", 0, struct bench_args, probe, "measure the machine's limits: read bandwidth, int8 products"),
	ARG_GROUP("Output"),
	ARG_TEXT("csv", 0, struct bench_args, csv, "FILE", "results as CSV as well; - prints CSV instead of the table"),
	ARG_FLAG("json", 0, struct bench_args, json, "one JSON object instead of the table"),
	ARG_TEXT("plot", 0, struct bench_args, plot, "FILE", "draw the results into FILE.svg or FILE.png (needs gnuplot)"),
	ARG_FLAG("compare", 0, struct bench_args, compare, "measure nothing: compare two files of --csv, row by row"),
	ARG_INT("seed", 0, struct bench_args, seed, 0, 9007199254740992.0, "N", "of the random tokens"),
	ARG_REST("FILE", struct bench_args, files, 0, 2, "the two files of --compare"),
	ARG_INCLUDE(struct bench_args, engine, engine_arg_table),
	ARG_END
};

static const char *const bench_examples[] = {
	"ds4 bench                                            # the bundled ds4-nano, a minute or two",
	"ds4 bench -m FILE --at 2k --batch 1 --ops            # where the time goes",
	"ds4 bench --at 2k,64k --batch 1,8 --fake-context     # decode at long contexts without reading them",
	"ds4 bench --csv after.csv && ds4 bench --compare before.csv after.csv",
	"ds4 bench --plot speed.svg",
	NULL
};

static const struct bench_args bench_defaults = {
	.at = "2k,4k,8k", .batch = "1,4,8,16", .prefill = 2048, .steps = 32, .seconds = 10, .share = true, .seed = 1};

const struct cli_command bench_command = {
	.args = {"bench", "measures prefill and decode speed",
		 "Reads random tokens up to each context, measuring prefill; then decodes batches there.  Figures are medians of "
		 "steps; sampling is no part of them.  The weights a step reads are counted by the model: of routed experts, the "
		 "ones chosen.  Ctrl-C keeps what was measured.",
		 bench_args, bench_examples},
	.defaults = &bench_defaults,
	.size = sizeof bench_defaults,
	.run = run,
};
