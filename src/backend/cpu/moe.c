/* moe.c - the router, the routed experts and the shared expert.
 *
 * What  route() picks the K experts of each row and their weights; experts() runs them; shared_expert() is the
 *       same network for all rows with weight 1, added to y.
 * How   (row, expert) pairs are sorted by expert, so that each expert's weights are read once for all its rows (for 128
 *       of them, if there are more).  Two passes over the threads: gate, up, SwiGLU and rounding of some hidden
 *       columns of some experts; then down for a range of output columns, summed over each row's experts.
 * Careful
 *       - A row's experts are added in the order of its own list, whatever the grouping was.
 *       - Hidden columns are dealt out in whole rounding groups of the down projection (32 or 256).
 *       - The gate weight is multiplied before the down projection.
 * Source: docs/model.md 8. */
#include "backend/cpu/cpu_int.h"

#include <assert.h>

/* ------------------------------------------------------------------ router */

/* sqrt(softplus(z)).  Below -15, softplus(z) = e^z to float precision; taking the root first keeps it from
 * underflowing. */
static float root_softplus(float z)
{
	if (z < -15)
		return expf(0.5f * z);
	return sqrtf(z > 20 ? z : log1pf(expf(z)));
}

struct route_run {
	struct cpu *c;
	struct tensor *idx, *gate;
	const struct route_args *a;
	const float *bias;
	float *p;	/* [T, 2, E]: probabilities, ranks */
};

static void pick_best(int32_t *idx, float *rank, int32_t experts, int32_t used)
{
	for (int32_t k = 0; k < used; k++) {
		int32_t best = -1;

		for (int32_t e = 0; e < experts; e++)	/* taken ones are NaN and lose to everything */
			if (!isnan(rank[e]) && (best < 0 || rank[e] > rank[best]))
				best = e;
		if (best < 0)	/* only NaN is left: any expert will do, the row is lost anyway */
			best = k;
		idx[k] = best;
		rank[best] = NAN;
	}
}

static void route_rows(void *ctx, long begin, long end, int thread)
{
	const struct route_run *run = ctx;
	const struct route_args *a = run->a;

	(void)thread;
	for (int32_t t = (int32_t)begin; t < end; t++) {
		const float *z = row_of(a->logits, t);
		float *p = run->p + 2 * (size_t)t * (size_t)a->experts, *rank = p + a->experts, sum = 0;
		int32_t *idx = int_row(run->idx, t);
		float *gate = row_of(run->gate, t);

		for (int32_t e = 0; e < a->experts; e++) {
			p[e] = root_softplus(z[e]);
			rank[e] = run->bias ? p[e] + run->bias[e] : p[e];
		}
		if (!a->table)
			pick_best(idx, rank, a->experts, a->used);
		for (int32_t k = 0; k < a->used; k++)
			sum += p[idx[k]];
		for (int32_t k = 0; k < a->used; k++)
			gate[k] = a->scale * (p[idx[k]] / sum);
	}
}

/* idx from the table of a hash-routed layer.  The table is the file's: its numbers are checked here, where they
 * are used. */
static void table_rows(struct backend *be, const struct step *s, struct tensor *idx, const struct route_args *a)
{
	for (int32_t t = 0; t < s->n_rows; t++) {
		const int32_t *from =
			(const int32_t *)a->table->device + (size_t)s->row[t].token * (size_t)a->used;
		int32_t *to = int_row(idx, t);

		for (int32_t k = 0; k < a->used; k++) {
			to[k] = from[k];
			if (from[k] >= 0 && from[k] < a->experts)
				continue;
			be_fail(be, ERR_FORMAT, "%s: token %d is sent to expert %d, expected 0..%d",
			        a->table->name, s->row[t].token, from[k], a->experts - 1);
			to[k] = 0;
		}
	}
}

void cpu_route(struct backend *be, const struct step *s, struct tensor *idx, struct tensor *gate,
	       const struct route_args *a)
{
	struct cpu *c = cpu_of(be);
	struct route_run run = {.c = c, .idx = idx, .gate = gate, .a = a};

	assert(idx->width == a->used && gate->width == a->used && a->logits->width >= a->experts);
	if (a->bias) {
		run.bias = cpu_vector(c, a->bias, SCRATCH_VECTOR);
		if (!run.bias)
			return;
	}
	if (a->table)
		table_rows(be, s, idx, a);
	run.p = cpu_scratch(c, SCRATCH_MIX, 2 * (size_t)s->n_rows * (size_t)a->experts * sizeof(float));
	if (run.p)
		cpu_for(c, s->n_rows, (50 + a->used) * (int64_t)a->experts, route_rows, &run);
}

/* ------------------------------------------------------------------ experts */

enum {
	BATCH = 128,	/* most pairs of one expert done at once: their gate and up results stay in the cache */
	COLUMNS = 256,	/* most hidden columns done at once */
	DOWN = 16,	/* output columns in a unit of work */
	OUT = 128	/* most output columns done at once */
};

#define PART_BYTES ((size_t)128 << 20)	/* for the output of all pairs, in pieces that are as wide as fits */

/* A run of pairs with the same expert. */
struct batch {
	int32_t expert, first, n;
};

struct ffn {
	struct cpu *c;
	const struct weight *gate, *up, *down;
	float limit;
	struct batch *batch;
	int32_t n_batch, n_pairs, n_rows, used;
	int32_t *next;		/* [experts]: while pairs are sorted */
	int32_t *place;		/* [T, K]: where pair (t, k) stands in the sorted order; NULL: (t, 0) at t */
	struct dot_x *x, *h;	/* [pairs]: inputs, hidden activations */
	float *weight;		/* [pairs], NULL = 1 */
	float *hf;		/* [pairs, F] if down wants floats, else: */
	struct cpu_rounded hq;
	int32_t columns;	/* hidden columns in a unit of work */
	int32_t out;		/* output columns */
	struct tensor *y;
	bool add;		/* to y instead of setting it */
	float *part;		/* [threads, pairs, out] */
	int32_t most;		/* pairs in a batch */
	float *gu;		/* [threads, 2, most, COLUMNS] */
};

/* Columns f0..f1-1 of the hidden activations of a batch. */
static void hidden_tile(const struct ffn *f, const struct batch *b, int32_t f0, int32_t f1, int thread)
{
	const size_t ff = (size_t)f->gate->out, at = (size_t)f0;
	float *g = f->gu + (size_t)thread * 2 * (size_t)f->most * COLUMNS, *u = g + f->most * COLUMNS;

	cpu_matrix(f->c, &(struct cpu_rows){f->gate, b->expert, f0, f1}, f->x + b->first, b->n, g, COLUMNS, thread);
	cpu_matrix(f->c, &(struct cpu_rows){f->up, b->expert, f0, f1}, f->x + b->first, b->n, u, COLUMNS, thread);
	for (int32_t i = 0; i < b->n; i++) {
		size_t pair = (size_t)(b->first + i);
		float *h = f->hf ? f->hf + pair * ff + at : g + i * COLUMNS;

		f->c->dot->silu(h, g + i * COLUMNS, u + i * COLUMNS, f->limit,
		                f->weight ? f->weight[pair] : 1.0f, f1 - f0);
		if (!f->hf)
			cpu_round(f->c, &f->hq, pair * ff + at, h, f1 - f0, dot_group(f->down->type));
	}
}

/* Units of `columns` hidden columns of a batch. */
static void hidden_units(void *ctx, long begin, long end, int thread)
{
	const struct ffn *f = ctx;
	const int32_t ff = f->gate->out, per_batch = (ff + f->columns - 1) / f->columns;

	for (long i = begin; i < end; i++) {
		int32_t f0 = (int32_t)(i % per_batch) * f->columns;

		hidden_tile(f, &f->batch[i / per_batch], f0, ff - f0 < f->columns ? ff : f0 + f->columns, thread);
	}
}

/* Units of DOWN output columns. */
static void down_units(void *ctx, long begin, long end, int thread)
{
	const struct ffn *f = ctx;
	const int32_t d = f->down->out, stop = end * DOWN < d ? (int32_t)end * DOWN : d;
	float *part = f->part + (size_t)thread * (size_t)f->n_pairs * (size_t)f->out;

	for (int32_t c0 = (int32_t)begin * DOWN; c0 < stop; c0 += f->out) {
		int32_t n = stop - c0 < f->out ? stop - c0 : f->out;

		for (int32_t b = 0; b < f->n_batch; b++)
			cpu_matrix(f->c, &(struct cpu_rows){f->down, f->batch[b].expert, c0, c0 + n},
				   f->h + f->batch[b].first, f->batch[b].n,
				   part + (size_t)f->batch[b].first * (size_t)f->out, (size_t)f->out, thread);
		for (int32_t t = 0; t < f->n_rows; t++) {
			float *y = row_of(f->y, t) + c0, sum[OUT] = {0};

			for (int32_t k = 0; k < f->used; k++) {
				const float *p = part + (size_t)(f->place ? f->place[t * f->used + k] : t) * (size_t)f->out;

				for (int32_t i = 0; i < n; i++)
					sum[i] += p[i];
			}
			for (int32_t i = 0; i < n; i++)
				y[i] = f->add ? y[i] + sum[i] : sum[i];
		}
	}
}

/* Work space for the pairs. */
static bool ffn_space(struct ffn *f)
{
	const size_t experts = (size_t)f->gate->n, pairs = (size_t)f->n_pairs, n_batch = experts + pairs / BATCH;
	const size_t ff = (size_t)f->gate->out, threads = (size_t)f->c->threads;
	const bool rounds = dot_rounds(f->down->type);
	size_t part, gu, bytes;
	uint8_t *p;

	f->out = OUT;
	while (f->out > 32 && threads * pairs * (size_t)f->out * sizeof(float) > PART_BYTES)
		f->out /= 2;
	f->most = f->n_pairs < BATCH ? f->n_pairs : BATCH;
	part = threads * pairs * (size_t)f->out * sizeof(float);
	gu = threads * 2 * (size_t)f->most * COLUMNS * sizeof(float);
	bytes = n_batch * sizeof *f->batch + experts * sizeof *f->next +
	        pairs * (sizeof *f->place + 2 * sizeof *f->x + sizeof *f->weight) +
	        (rounds ? cpu_rounded_bytes(pairs * ff) : pairs * ff * sizeof(float));
	p = cpu_scratch(f->c, SCRATCH_PAIRS, bytes + part + gu + 16 * 64);
	if (!p)
		return false;
	f->batch = cpu_carve(&p, n_batch * sizeof *f->batch);
	f->next = cpu_carve(&p, experts * sizeof *f->next);
	f->place = cpu_carve(&p, pairs * sizeof *f->place);
	f->x = cpu_carve(&p, pairs * sizeof *f->x);
	f->h = cpu_carve(&p, pairs * sizeof *f->h);
	f->weight = cpu_carve(&p, pairs * sizeof *f->weight);
	if (rounds)
		f->hq = cpu_rounded_carve(&p, pairs * ff);
	else
		f->hf = cpu_carve(&p, pairs * ff * sizeof *f->hf);
	f->part = cpu_carve(&p, part);
	f->gu = cpu_carve(&p, gu);
	for (size_t i = 0; i < pairs; i++) {
		f->h[i] = (struct dot_x){.f = f->hf ? f->hf + i * ff : NULL};
		if (rounds)
			cpu_set_rounded(&f->h[i], &f->hq, i * ff);
	}
	return true;
}

static void ffn_run(struct ffn *f)
{
	const int64_t ff = f->gate->out, d = f->down->out, pairs = f->n_pairs;
	int64_t units;

	assert(f->down->in == f->gate->out && f->up->out == f->gate->out && f->up->in == f->gate->in);
	/* Wide units, unless threads would be idle; a unit is a whole number of rounding groups. */
	f->columns = COLUMNS;
	if (dot_group(f->down->type) < COLUMNS && f->n_batch * ((ff + COLUMNS - 1) / COLUMNS) < 8 * f->c->threads)
		f->columns = 32;
	units = f->n_batch * ((ff + f->columns - 1) / f->columns);
	cpu_for(f->c, units, 2 * pairs * ff * f->gate->in / units, hidden_units, f);
	cpu_for(f->c, (d + DOWN - 1) / DOWN, DOWN * pairs * ff, down_units, f);
}

/* Appends n pairs of one expert, in pieces of at most BATCH. */
static void add_batches(struct ffn *f, int32_t expert, int32_t first, int32_t n)
{
	for (int32_t i = 0; i < n; i += BATCH)
		f->batch[f->n_batch++] = (struct batch){expert, first + i, n - i < BATCH ? n - i : BATCH};
}

/* Sorts the pairs by expert, keeping the order of rows. */
static void sort_pairs(struct ffn *f, const struct expert_args *a, const struct dot_x *row)
{
	const int32_t *idx = a->idx->data;
	int32_t first = 0;

	memset(f->next, 0, (size_t)a->gate->n * sizeof *f->next);
	for (int32_t i = 0; i < f->n_pairs; i++) {
		assert(idx[i] >= 0 && idx[i] < a->gate->n);
		f->next[idx[i]]++;
	}
	for (int32_t e = 0; e < a->gate->n; e++) {
		int32_t n = f->next[e];

		add_batches(f, e, first, n);
		f->next[e] = first;
		first += n;
	}
	for (int32_t i = 0; i < f->n_pairs; i++) {
		int32_t at = f->next[idx[i]]++;

		f->place[i] = at;
		f->x[at] = row[i / f->used];
		f->weight[at] = ((const float *)a->gate_weight->data)[i];
	}
}

/* Activations that both matrices can read. */
static struct dot_x *ffn_inputs(struct cpu *c, const struct tensor *x, int32_t n, const struct weight *gate,
				const struct weight *up)
{
	bool gates = dot_rounds(gate->type) && (!dot_rounds(up->type) || dot_group(gate->type) >= dot_group(up->type));

	/* Rounded in groups of 256 they also are what a matrix that wants groups of 32 can read. */
	return cpu_activations(c, x->data, (size_t)x->width, n, gate->in, 1, gates ? gate->type : up->type);
}

void cpu_experts(struct backend *be, const struct step *s, struct tensor *y, const struct expert_args *a)
{
	struct cpu *c = cpu_of(be);
	struct ffn f = {.c = c, .gate = a->gate, .up = a->up, .down = a->down, .limit = a->limit, .used = a->used,
			.n_rows = s->n_rows, .n_pairs = s->n_rows * a->used, .y = y};
	struct dot_x *x;

	assert(a->idx->width == a->used && a->gate_weight->width == a->used);
	x = ffn_inputs(c, a->x, s->n_rows, a->gate, a->up);
	if (!x || !ffn_space(&f))
		return;
	sort_pairs(&f, a, x);
	ffn_run(&f);
}

void cpu_shared_expert(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x,
		       const struct shared_args *a)
{
	struct cpu *c = cpu_of(be);
	struct ffn f = {.c = c, .gate = a->gate, .up = a->up, .down = a->down, .limit = a->limit, .used = 1,
			.n_rows = s->n_rows, .n_pairs = s->n_rows, .y = y, .add = true};
	struct dot_x *in = ffn_inputs(c, x, s->n_rows, a->gate, a->up);

	if (!in || !ffn_space(&f))
		return;
	f.x = in;
	f.place = NULL;
	f.weight = NULL;
	add_batches(&f, 0, 0, s->n_rows);
	ffn_run(&f);
}
