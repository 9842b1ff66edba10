/* moe.c - the router, the routed experts and the shared expert.
 *
 * What  route() picks the K experts of each row and their weights; experts() runs them; shared_expert() is the
 *       same network for all rows with weight 1, added to y.
 * How   (row, expert) pairs are sorted by expert, so that each expert's weights are read once for all its rows.
 *       Two passes over the threads: gate, up, SwiGLU and rounding of a range of hidden columns for every
 *       expert; then down for a range of output columns, summed over each row's experts.
 * Careful
 *       - A row's experts are added in the order of its own list, whatever the grouping was.
 *       - Hidden columns are dealt out in groups of 32 because that many share a scale when rounded.
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
	COLUMNS = 128,	/* hidden columns done at once: their gate and up results stay in the cache */
	OUT = 32	/* output columns done at once */
};

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
	int32_t *place;		/* [T, K]: where pair (t, k) stands in the sorted order; NULL: (t, 0) at t */
	struct dot_x *x, *h;	/* [pairs]: inputs, hidden activations */
	float *weight;		/* [pairs], NULL = 1 */
	float *hf;		/* [pairs, F], and rounded: */
	int8_t *hq;
	float *hd;
	int16_t *hsum;
	struct tensor *y;
	bool add;		/* to y instead of setting it */
	float *part;		/* [threads, pairs, OUT] */
};

/* Columns f0..f1-1 of the hidden activations of up to 32 pairs of one expert. */
static void hidden_tile(const struct ffn *f, int32_t expert, int32_t first, int32_t n, int32_t f0, int32_t f1)
{
	const size_t ff = (size_t)f->gate->out, at = (size_t)f0;
	_Alignas(64) float g[DOT_TILE * COLUMNS], u[DOT_TILE * COLUMNS];

	cpu_matrix(f->c, f->gate, expert, f0, f1, f->x + first, n, g, COLUMNS);
	cpu_matrix(f->c, f->up, expert, f0, f1, f->x + first, n, u, COLUMNS);
	for (int32_t i = 0; i < n; i++) {
		size_t pair = (size_t)(first + i);
		float *h = f->hf + pair * ff + at;

		f->c->dot->silu(h, g + i * COLUMNS, u + i * COLUMNS, f->limit,
		                f->weight ? f->weight[pair] : 1.0f, f1 - f0);
		if (f->hq)
			f->c->dot->quantise(f->hq + pair * ff + at, f->hd + (pair * ff + at) / 32,
					    f->hsum + (pair * ff + at) / 16, h, f1 - f0);
	}
}

/* Units of 32 hidden columns. */
static void hidden_units(void *ctx, long begin, long end, int thread)
{
	const struct ffn *f = ctx;
	const int32_t ff = f->gate->out, stop = end * 32 < ff ? (int32_t)end * 32 : ff;

	(void)thread;
	for (int32_t b = 0; b < f->n_batch; b++)
		for (int32_t f0 = (int32_t)begin * 32; f0 < stop; f0 += COLUMNS)
			for (int32_t i = 0; i < f->batch[b].n; i += DOT_TILE) {
				int32_t n = f->batch[b].n - i < DOT_TILE ? f->batch[b].n - i : DOT_TILE;

				hidden_tile(f, f->batch[b].expert, f->batch[b].first + i, n, f0,
					    stop - f0 < COLUMNS ? stop : f0 + COLUMNS);
			}
}

/* Units of 8 output columns. */
static void down_units(void *ctx, long begin, long end, int thread)
{
	const struct ffn *f = ctx;
	const int32_t d = f->down->out, stop = end * 8 < d ? (int32_t)end * 8 : d;
	float *part = f->part + (size_t)thread * (size_t)f->n_pairs * OUT;

	for (int32_t c0 = (int32_t)begin * 8; c0 < stop; c0 += OUT) {
		int32_t n = stop - c0 < OUT ? stop - c0 : OUT;

		for (int32_t b = 0; b < f->n_batch; b++)
			cpu_matrix(f->c, f->down, f->batch[b].expert, c0, c0 + n, f->h + f->batch[b].first,
			           f->batch[b].n, part + (size_t)f->batch[b].first * OUT, OUT);
		for (int32_t t = 0; t < f->n_rows; t++) {
			float *y = row_of(f->y, t) + c0, sum[OUT] = {0};

			for (int32_t k = 0; k < f->used; k++) {
				const float *p = part + (size_t)(f->place ? f->place[t * f->used + k] : t) * OUT;

				for (int32_t i = 0; i < n; i++)
					sum[i] += p[i];
			}
			for (int32_t i = 0; i < n; i++)
				y[i] = f->add ? y[i] + sum[i] : sum[i];
		}
	}
}

/* Work space for the pairs; n_batch is the most batches there can be. */
static bool ffn_space(struct ffn *f, int32_t n_batch)
{
	const size_t pairs = (size_t)f->n_pairs, ff = (size_t)f->gate->out;
	const bool rounds = dot_rounds(f->down->type);
	const size_t part = (size_t)f->c->threads * pairs * OUT * sizeof(float);
	size_t bytes = (size_t)n_batch * sizeof *f->batch +
	               pairs * (sizeof *f->place + 2 * sizeof *f->x + sizeof *f->weight + ff * sizeof(float)) +
	               (rounds ? pairs * (ff + ff / 32 * sizeof(float) + ff / 16 * sizeof(int16_t)) : 0);
	uint8_t *p = cpu_scratch(f->c, SCRATCH_PAIRS, bytes + part + 16 * 64);

	if (!p)
		return false;
	f->batch = cpu_carve(&p, (size_t)n_batch * sizeof *f->batch);
	f->place = cpu_carve(&p, pairs * sizeof *f->place);
	f->x = cpu_carve(&p, pairs * sizeof *f->x);
	f->h = cpu_carve(&p, pairs * sizeof *f->h);
	f->weight = cpu_carve(&p, pairs * sizeof *f->weight);
	f->hf = cpu_carve(&p, pairs * ff * sizeof *f->hf);
	if (rounds) {
		f->hd = cpu_carve(&p, pairs * (ff / 32) * sizeof *f->hd);
		f->hsum = cpu_carve(&p, pairs * (ff / 16) * sizeof *f->hsum);
		f->hq = cpu_carve(&p, pairs * ff);
	}
	f->part = cpu_carve(&p, part);
	for (size_t i = 0; i < pairs; i++) {
		f->h[i] = (struct dot_x){.f = f->hf + i * ff};
		if (rounds) {
			f->h[i].q = f->hq + i * ff;
			f->h[i].d = f->hd + i * (ff / 32);
			f->h[i].sum = f->hsum + i * (ff / 16);
		}
	}
	return true;
}

static void ffn_run(struct ffn *f)
{
	const int64_t ff = f->gate->out, d = f->down->out, pairs = f->n_pairs;

	assert(f->down->in == f->gate->out && f->up->out == f->gate->out && f->up->in == f->gate->in);
	cpu_for(f->c, (ff + 31) / 32, 2 * 32 * pairs * f->gate->in, hidden_units, f);
	cpu_for(f->c, (d + 7) / 8, 8 * pairs * ff, down_units, f);
}

/* Sorts the pairs by expert, keeping the order of rows. */
static void sort_pairs(struct ffn *f, const struct expert_args *a, const struct dot_x *row)
{
	const int32_t *idx = a->idx->data;
	int32_t first = 0;

	for (int32_t e = 0; e < a->gate->n; e++)
		f->batch[e] = (struct batch){.expert = e};
	for (int32_t i = 0; i < f->n_pairs; i++) {
		assert(idx[i] >= 0 && idx[i] < a->gate->n);
		f->batch[idx[i]].n++;
	}
	for (int32_t e = 0; e < a->gate->n; e++) {
		f->batch[e].first = first;
		first += f->batch[e].n;
		f->batch[e].n = 0;
	}
	for (int32_t i = 0; i < f->n_pairs; i++) {
		struct batch *b = &f->batch[idx[i]];
		int32_t at = b->first + b->n++;

		f->place[i] = at;
		f->x[at] = row[i / f->used];
		f->weight[at] = ((const float *)a->gate_weight->data)[i];
	}
	for (int32_t e = 0; e < a->gate->n; e++)	/* the ones that have work, in front */
		if (f->batch[e].n)
			f->batch[f->n_batch++] = f->batch[e];
}

/* Activations that both matrices can read. */
static struct dot_x *ffn_inputs(struct cpu *c, const struct tensor *x, int32_t n, const struct weight *gate,
				const struct weight *up)
{
	return cpu_activations(c, x->data, (size_t)x->width, n, gate->in, 1,
	                       dot_rounds(gate->type) ? gate->type : up->type);
}

void cpu_experts(struct backend *be, const struct step *s, struct tensor *y, const struct expert_args *a)
{
	struct cpu *c = cpu_of(be);
	struct ffn f = {.c = c, .gate = a->gate, .up = a->up, .down = a->down, .limit = a->limit, .used = a->used,
			.n_rows = s->n_rows, .n_pairs = s->n_rows * a->used, .y = y};
	struct dot_x *x;

	assert(a->idx->width == a->used && a->gate_weight->width == a->used);
	x = ffn_inputs(c, a->x, s->n_rows, a->gate, a->up);
	if (!x || !ffn_space(&f, a->gate->n))
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

	if (!in || !ffn_space(&f, 1))
		return;
	f.x = in;
	f.place = NULL;
	f.weight = NULL;
	f.batch[f.n_batch++] = (struct batch){0, 0, s->n_rows};
	ffn_run(&f);
}
