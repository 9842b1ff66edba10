/* attn.c - operations on history: packing, pooling, the indexer, attention, the ring.
 *
 * What  Rows are packed when they are made and read in that form ever after: from this step (`fresh`), the ring
 *       or a block, the same bytes give the same floats, so where a row comes from cannot be seen in a result.
 * How   attend() visits a query's rows in one order, window rows by ascending position and then compressed rows
 *       ascending, in batches of 16: decode the batch once, score it for each head, fold it into a running
 *       softmax.  pool() emits a group from wherever its projections are (frontier or this step) and then
 *       leaves the frontier as if tokens had come one by one.
 * Careful
 *       - The batches of a query are cut by the order of its rows alone, which its position fixes; cutting them
 *         at the end of the ring or of a span would change the last bits with the chunking of a prompt.
 *       - Compressed rows emitted in this step are already in their blocks; a query sees those up to its
 *         position.
 *       - Group 0 of a ratio-4 layer has no previous group, whatever the frontier's memory holds.
 *       - For ratio 4 the copy of slots 4..7 to 0..3 happens at the last group that ends in the step, before
 *         tokens of the open group overwrite them.
 * Source: docs/model.md 7.4-7.8, 12. */
#include "backend/cpu/cpu_int.h"

#include <assert.h>

#include "quant/quant.h"

enum {
	BATCH = 16,	/* rows decoded at once: 32 KiB of floats */
	KEYS = 32	/* keys decoded at once */
};

static struct packed_rows ring_of(const struct be_timeline *tl, const struct kv_layer *layer)
{
	return (struct packed_rows){tl->tail + layer->tail_ring, layer->window};
}

/* Compressed row n: its group of rows and the index there. */
static struct packed_rows block_rows(const struct be_timeline *tl, const struct kv_layer *layer, int32_t n,
                                     int32_t *at)
{
	int32_t block = geom_row_block(n, layer->ratio);

	assert(block < tl->n_block);
	*at = geom_row_in_block(n, layer->ratio);
	return (struct packed_rows){tl->block[block] + layer->block_rows, geom_rows_per_block(layer->ratio)};
}

static struct packed_rows block_keys(const struct be_timeline *tl, const struct kv_layer *layer, int32_t n,
                                     int32_t *at)
{
	struct packed_rows rows = block_rows(tl, layer, n, at);

	rows.base += layer->block_keys - layer->block_rows;
	return rows;
}

/* ------------------------------------------------------------------ packing */

struct pack_run {
	struct packed_rows to;
	const struct tensor *kv;
};

static void pack_range(void *ctx, long begin, long end, int thread)
{
	const struct pack_run *run = ctx;

	(void)thread;
	for (long t = begin; t < end; t++)
		cpu_store_row(run->to, (int32_t)t, row_of(run->kv, (int32_t)t));
}

void cpu_pack_rows(struct backend *be, const struct step *s, struct tensor *fresh, const struct tensor *kv)
{
	struct pack_run run = {fresh_rows(fresh), kv};

	assert(kv->width >= GEOM_HEAD && run.to.count >= s->n_rows);
	cpu_for(cpu_of(be), s->n_rows, 4000, pack_range, &run);
}

void cpu_ring_write(struct backend *be, const struct step *s, const struct tensor *fresh,
		    const struct kv_layer *layer)
{
	(void)be;
	for (int32_t k = 0; k < s->n_spans; k++) {
		const struct span *sp = &s->span[k];
		struct packed_rows ring = ring_of(&s->timeline[sp->timeline], layer), from = fresh_rows(fresh);
		int32_t first = sp->n > layer->window ? sp->n - layer->window : 0;

		for (int32_t i = first; i < sp->n; i++)
			cpu_copy_row(ring, geom_ring_slot(sp->pos0 + i, layer->window), from, sp->row0 + i);
	}
}

/* ------------------------------------------------------------------ pooling */

struct frontier {
	float *kv, *score;	/* [slots, pw] */
};

static struct frontier frontier_of(const struct be_timeline *tl, const struct pool_args *a)
{
	struct frontier f;

	f.kv = (float *)(void *)(tl->tail + (a->key ? a->layer->tail_front_key : a->layer->tail_front));
	f.score = f.kv + (size_t)geom_frontier_slots(a->layer->ratio) * (size_t)a->kv->width;
	assert((uintptr_t)f.kv % sizeof(float) == 0);
	return f;
}

/* One token's part of a group: score + ape is what the softmax sees. */
struct pool_item {
	const float *kv, *score, *ape;
};

/* p[d] = sum_i softmax_i(score_i[d]) kv_i[d] for each channel. */
static void pool_channels(float *p, const struct pool_item *item, int32_t n, int32_t width)
{
	enum { N = 32 };

	for (int32_t at = 0; at < width; at += N) {
		float top[N], sum[N] = {0}, acc[N] = {0};

		for (int k = 0; k < N; k++)
			top[k] = -INFINITY;
		for (int32_t i = 0; i < n; i++)
			for (int k = 0; k < N; k++) {
				float z = item[i].score[at + k] + item[i].ape[at + k];

				top[k] = z > top[k] ? z : top[k];
			}
		for (int32_t i = 0; i < n; i++)
			for (int k = 0; k < N; k++) {
				float e = exp_f32(item[i].score[at + k] + item[i].ape[at + k] - top[k]);

				sum[k] += e;
				acc[k] += e * item[i].kv[at + k];
			}
		for (int k = 0; k < N; k++)
			p[at + k] = acc[k] / sum[k];
	}
}

struct pool_run {
	const struct step *s;
	const struct pool_args *a;
	const float *ape, *norm, *zero;	/* zero: in place of ape where it is already added */
	int32_t width;			/* of a row: 512 or 128 */
};

static struct pool_item item_at(const struct pool_run *run, const struct span *sp, const struct frontier *f,
                                int32_t slot, int32_t pos, int32_t half)
{
	const int32_t pw = run->a->kv->width, skip = half * run->width;

	if (pos < sp->pos0) {
		size_t at = (size_t)slot * (size_t)pw + (size_t)skip;

		return (struct pool_item){f->kv + at, f->score + at, run->zero};
	}
	return (struct pool_item){
		row_of(run->a->kv, sp->row0 + pos - sp->pos0) + skip,
		row_of(run->a->score, sp->row0 + pos - sp->pos0) + skip,
		run->ape + (size_t)(pos % run->a->layer->ratio) * (size_t)pw + skip,
	};
}

/* Row n of a span's timeline, from the projections to its place in the block. */
static void emit_row(const struct pool_run *run, const struct span *sp, int32_t n)
{
	const struct kv_layer *layer = run->a->layer;
	const int32_t r = layer->ratio;
	const struct be_timeline *tl = &run->s->timeline[sp->timeline];
	struct frontier f = frontier_of(tl, run->a);
	struct pool_item item[GEOM_BLOCK];
	float row[GEOM_HEAD], cos_sin[64];
	int32_t items = 0, at;

	if (r == 4 && n > 0)	/* left halves of the previous group; in the open slots if it ends in this step */
		for (int32_t j = 0; j < 4; j++)
			item[items++] = item_at(run, sp, &f, 4 * n <= sp->pos0 ? j : 4 + j, 4 * n - 4 + j, 0);
	for (int32_t j = 0; j < r; j++)
		item[items++] = item_at(run, sp, &f, geom_frontier_slot(n * r + j, r), n * r + j, r == 4);
	pool_channels(row, item, items, run->width);
	cpu_rms(row, row, run->norm, run->width);
	cpu_rope_table(cos_sin, run->a->freq, n * r, false);
	cpu_rotate(row + run->width - GEOM_ROT, cos_sin);
	if (run->a->key) {
		struct packed_rows keys = block_keys(tl, layer, n, &at);

		cpu_hadamard(row);
		cpu_store_key(keys, at, row);
	} else {
		struct packed_rows rows = block_rows(tl, layer, n, &at);

		cpu_store_row(rows, at, row);
	}
}

/* Groups of all spans are numbered through; each thread finds its first. */
static void emit_range(void *ctx, long begin, long end, int thread)
{
	const struct pool_run *run = ctx;
	const int32_t r = run->a->layer->ratio;
	long base = 0;

	(void)thread;
	for (int32_t k = 0; k < run->s->n_spans && base < end; k++) {
		const struct span *sp = &run->s->span[k];
		int32_t first = sp->pos0 / r, count = (sp->pos0 + sp->n) / r - first;

		for (long i = begin > base ? begin - base : 0; i < count && base + i < end; i++)
			emit_row(run, sp, first + (int32_t)i);
		base += count;
	}
}

/* Puts the token at pos into its slot of the frontier. */
static void frontier_put(const struct pool_run *run, const struct span *sp, const struct frontier *f, int32_t slot,
			 int32_t pos)
{
	struct pool_item from = item_at(run, sp, f, slot, pos, 0);
	const size_t pw = (size_t)run->a->kv->width;
	float *kv = f->kv + (size_t)slot * pw, *score = f->score + (size_t)slot * pw;

	memcpy(kv, from.kv, pw * sizeof *kv);
	for (size_t i = 0; i < pw; i++)
		score[i] = from.score[i] + from.ape[i];
}

static void update_frontier(const struct pool_run *run, const struct span *sp)
{
	const int32_t r = run->a->layer->ratio, end = sp->pos0 + sp->n, slots = r == 4 ? 4 : r;
	const size_t pw = (size_t)run->a->kv->width;
	struct frontier f = frontier_of(&run->s->timeline[sp->timeline], run->a);

	if (r == 4 && end / 4 > sp->pos0 / 4)	/* a group ended: it becomes the previous one */
		for (int32_t j = 0; j < 4; j++) {
			int32_t pos = end / 4 * 4 - 4 + j;

			if (pos >= sp->pos0) {
				frontier_put(run, sp, &f, j, pos);
				continue;
			}
			memcpy(f.kv + (size_t)j * pw, f.kv + (size_t)(4 + j) * pw, pw * sizeof(float));
			memcpy(f.score + (size_t)j * pw, f.score + (size_t)(4 + j) * pw, pw * sizeof(float));
		}
	for (int32_t pos = sp->n > slots ? end - slots : sp->pos0; pos < end; pos++)
		frontier_put(run, sp, &f, geom_frontier_slot(pos, r), pos);
}

/* ape [r, pw] as floats; only the rows that tokens of this step use are filled. */
static const float *ape_rows(struct cpu *c, const struct step *s, const struct pool_args *a)
{
	const int32_t r = a->layer->ratio, pw = a->kv->width;
	float *out;

	if (a->ape->type == DTYPE_F32 || s->n_rows >= r)
		return cpu_vector(c, a->ape, SCRATCH_VECTOR);
	out = cpu_scratch(c, SCRATCH_VECTOR, (size_t)r * (size_t)pw * sizeof *out);
	for (int32_t t = 0; out && t < s->n_rows; t++) {
		size_t k = (size_t)(s->row[t].pos % r);

		quant_decode(out + k * (size_t)pw, (const uint8_t *)a->ape->device + k * a->ape->row_bytes,
		             a->ape->type, (size_t)pw);
	}
	return out;
}

void cpu_pool(struct backend *be, const struct step *s, const struct pool_args *a)
{
	static const float zero[2 * GEOM_HEAD];
	struct cpu *c = cpu_of(be);
	const int32_t r = a->layer->ratio;
	struct pool_run run = {.s = s, .a = a, .zero = zero, .width = a->key ? GEOM_KEY : GEOM_HEAD};
	int64_t groups = 0;

	assert(a->kv->width == geom_pool_width(run.width, r) && a->score->width == a->kv->width &&
	       a->ape->in == a->kv->width);
	run.ape = ape_rows(c, s, a);
	run.norm = cpu_vector(c, a->norm, SCRATCH_VECTOR2);
	if (!run.ape || !run.norm)
		return;
	for (int32_t k = 0; k < s->n_spans; k++)
		groups += (s->span[k].pos0 + s->span[k].n) / r - s->span[k].pos0 / r;
	cpu_for(c, groups, 30 * (int64_t)run.width * (r == 4 ? 8 : r), emit_range, &run);
	for (int32_t k = 0; k < s->n_spans; k++)
		update_frontier(&run, &s->span[k]);
}

/* ------------------------------------------------------------------ indexer */

struct query_run {
	struct tensor *q;
	int32_t heads;
};

static void query_range(void *ctx, long begin, long end, int thread)
{
	const struct query_run *run = ctx;

	(void)thread;
	for (long i = begin; i < end; i++) {
		float *q = row_of(run->q, (int32_t)(i / run->heads)) + (size_t)(i % run->heads) * GEOM_KEY;

		cpu_hadamard(q);
		cpu_round_key(q);
	}
}

void cpu_index_query(struct backend *be, const struct step *s, struct tensor *q, int32_t heads)
{
	struct query_run run = {q, heads};

	assert(q->width >= heads * GEOM_KEY);
	cpu_for(cpu_of(be), (int64_t)s->n_rows * heads, 2000, query_range, &run);
}

struct choose_run {
	struct cpu *c;
	const struct step *s;
	const struct choose_args *a;
	struct tensor *pick;
	int32_t t;		/* the row, when keys are dealt out */
	float *score;		/* [threads, room], or one row's */
	size_t room;
	float *keys;		/* [threads, KEYS, 128] */
};

/* score[n] = sum_h u[h] max(0, q_h . k_n) for keys first..last-1. */
static void score_keys(const struct choose_run *run, int32_t t, int32_t first, int32_t last, float *score,
                       float *keys)
{
	const struct choose_args *a = run->a;
	const struct be_timeline *tl = &run->s->timeline[run->s->row[t].timeline];
	const float factor = 1.0f / sqrtf((float)(a->heads * GEOM_KEY)), *u = row_of(a->head_weight, t);

	for (int32_t n0 = first; n0 < last; n0 += KEYS) {
		int32_t n = last - n0 < KEYS ? last - n0 : KEYS;
		float z[KEYS], sum[KEYS] = {0};

		for (int32_t i = 0; i < n; i++) {
			int32_t at;
			struct packed_rows group = block_keys(tl, a->layer, n0 + i, &at);

			cpu_load_key(run->c, group, at, keys + (size_t)i * GEOM_KEY);
		}
		for (int32_t h = 0; h < a->heads; h++) {
			float weight = u[h] * factor;

			run->c->dot->scores(z, row_of(a->q, t) + (size_t)h * GEOM_KEY, keys, n, GEOM_KEY);
			for (int32_t i = 0; i < n; i++)
				sum[i] += weight * (z[i] > 0 ? z[i] : 0);
		}
		memcpy(score + n0, sum, (size_t)n * sizeof *score);
	}
}

/* A number that orders floats as unsigned integers; -0 like +0, NaN below everything. */
static inline uint32_t order_of(float x)
{
	uint32_t b = f32_bits(x + 0.0f);

	if ((b & 0x7FFFFFFF) > 0x7F800000)
		return 0;
	return b & 0x80000000u ? ~b : b | 0x80000000u;
}

/* The k largest of n > k, ascending; ties to the lower index.  The k-th largest is found digit by digit. */
static void choose_top(int32_t *pick, const float *score, int32_t n, int32_t k)
{
	uint32_t limit = 0, mask = 0;
	int32_t rest = k, taken = 0;	/* rest: how many are still to come from those equal in the known digits */

	for (int shift = 24; shift >= 0; shift -= 8) {
		int32_t count[256] = {0}, digit = 255;

		for (int32_t i = 0; i < n; i++) {
			uint32_t v = order_of(score[i]);

			if ((v & mask) == limit)
				count[v >> shift & 255]++;
		}
		while (count[digit] < rest)
			rest -= count[digit--];
		limit |= (uint32_t)digit << shift;
		mask |= 255u << shift;
	}
	for (int32_t i = 0; i < n && taken < k; i++) {
		uint32_t v = order_of(score[i]);

		if (v > limit || (v == limit && rest-- > 0))
			pick[taken++] = i;
	}
}

static void choose_keys(void *ctx, long begin, long end, int thread)
{
	const struct choose_run *run = ctx;
	int32_t visible = geom_visible(run->s->row[run->t].pos, run->a->layer->ratio);

	score_keys(run, run->t, (int32_t)begin * KEYS, end * KEYS < visible ? (int32_t)end * KEYS : visible,
	           run->score, run->keys + (size_t)thread * KEYS * GEOM_KEY);
}

static void choose_range(void *ctx, long begin, long end, int thread)
{
	const struct choose_run *run = ctx;
	float *score = run->score + (size_t)thread * run->room;

	for (int32_t t = (int32_t)begin; t < end; t++) {
		int32_t visible = geom_visible(run->s->row[t].pos, run->a->layer->ratio);

		if (visible <= run->a->top_k)
			continue;
		score_keys(run, t, 0, visible, score, run->keys + (size_t)thread * KEYS * GEOM_KEY);
		choose_top(int_row(run->pick, t), score, visible, run->a->top_k);
	}
}

void cpu_choose_rows(struct backend *be, const struct step *s, struct tensor *pick, const struct choose_args *a)
{
	struct cpu *c = cpu_of(be);
	struct choose_run run = {.c = c, .s = s, .a = a, .pick = pick};
	const size_t threads = (size_t)c->threads, key_floats = threads * KEYS * GEOM_KEY;
	int64_t cost_per_key = (int64_t)a->heads * GEOM_KEY + 200, most = 0;
	bool by_row = s->n_rows >= 2 * c->threads;

	for (int32_t t = 0; t < s->n_rows; t++) {
		int32_t visible = geom_visible(s->row[t].pos, a->layer->ratio);

		most = visible > most ? visible : most;
	}
	if (most <= a->top_k)
		return;
	run.room = ((size_t)most + 15) / 16 * 16;
	run.keys = cpu_scratch(c, SCRATCH_THREAD,
	                       (key_floats + run.room * (by_row ? threads : 1)) * sizeof(float));
	if (!run.keys)
		return;
	run.score = run.keys + key_floats;
	if (by_row) {
		cpu_for(c, s->n_rows, most * cost_per_key, choose_range, &run);
		return;
	}
	for (run.t = 0; run.t < s->n_rows; run.t++) {
		int32_t visible = geom_visible(s->row[run.t].pos, a->layer->ratio);

		if (visible <= a->top_k)
			continue;
		cpu_for(c, (visible + KEYS - 1) / KEYS, KEYS * cost_per_key, choose_keys, &run);
		choose_top(int_row(pick, run.t), run.score, visible, a->top_k);
	}
}

/* ------------------------------------------------------------------ attention */

struct attend_run {
	struct cpu *c;
	const struct step *s;
	const struct attend_args *a;
	struct tensor *out;
	const float *sinks;
	int32_t parts;		/* a query's heads are dealt out in so many parts */
	float *work;		/* [threads, room]: decoded rows, then running maximum and sum of each head */
	size_t room;
};

/* What one query sees, as a list that is never written down. */
struct view {
	const struct be_timeline *tl;
	const struct span *span;
	const struct kv_layer *layer;
	const int32_t *pick;		/* NULL: compressed row i is row i */
	int32_t first, window, total;	/* first position; window rows; all rows */
};

static struct view view_of(const struct attend_run *run, int32_t t)
{
	const struct step *s = run->s;
	const struct attend_args *a = run->a;
	const int32_t pos = s->row[t].pos, visible = geom_visible(pos, a->layer->ratio);
	struct view v = {
		.tl = &s->timeline[s->row[t].timeline], .span = &s->span[s->row_span[t]], .layer = a->layer};

	v.first = geom_window_first(pos, a->layer->window);
	v.window = pos + 1 - v.first;
	if (a->pick && visible > a->top_k)
		v.pick = int_row(a->pick, t);
	v.total = v.window + (v.pick ? a->top_k : visible);
	return v;
}

static void load_row(const struct attend_run *run, const struct view *v, int32_t i, float *x)
{
	struct packed_rows from;
	int32_t at;

	if (i >= v->window) {
		i -= v->window;
		from = block_rows(v->tl, v->layer, v->pick ? v->pick[i] : i, &at);
	} else if (v->first + i < v->span->pos0) {
		from = ring_of(v->tl, v->layer);
		at = geom_ring_slot(v->first + i, v->layer->window);
	} else {
		from = fresh_rows(run->a->fresh);
		at = v->span->row0 + v->first + i - v->span->pos0;
	}
	cpu_load_row(run->c, from, at, x);
}

/* Folds n rows into one head's running softmax: acc / sum is the mean so far, weighted by exp(z - top). */
static void fold(const struct dot_table *dot, float *acc, float *top, float *sum, const float *q,
                 const float *rows, int32_t n)
{
	float z[BATCH], most = *top, add = 0;

	dot->scores(z, q, rows, n, GEOM_HEAD);
	for (int32_t i = 0; i < n; i++) {
		z[i] *= 0.0441941738f;	/* 512^-0.5 */
		most = z[i] > most ? z[i] : most;
	}
	if (most > *top) {
		float shrink = exp_f32(*top - most);

		for (int i = 0; i < GEOM_HEAD; i++)
			acc[i] *= shrink;
		*sum *= shrink;
		*top = most;
	}
	for (int32_t i = 0; i < n; i++)
		z[i] = exp_f32(z[i] - most);
	for (int32_t i = 0; i < n; i++)
		add += z[i];
	*sum += add;
	dot->accumulate(acc, z, rows, n, GEOM_HEAD);
}

/* Heads h0..h1-1 of the query of row t. */
static void attend_heads(const struct attend_run *run, int32_t t, int32_t h0, int32_t h1, float *work)
{
	const struct view v = view_of(run, t);
	const float *q = row_of(run->a->q, t);
	float *out = row_of(run->out, t), *rows = work, *top = work + BATCH * GEOM_HEAD,
	      *sum = top + run->a->heads;

	for (int32_t h = h0; h < h1; h++) {	/* the sink is the first item: weight 1, no value */
		memset(out + (size_t)h * GEOM_HEAD, 0, GEOM_HEAD * sizeof *out);
		top[h] = run->sinks[h];
		sum[h] = 1;
	}
	for (int32_t at = 0; at < v.total; at += BATCH) {
		int32_t n = v.total - at < BATCH ? v.total - at : BATCH;

		for (int32_t i = 0; i < n; i++)
			load_row(run, &v, at + i, rows + (size_t)i * GEOM_HEAD);
		if (run->c->dot->attend) {
			run->c->dot->attend(out + (size_t)h0 * GEOM_HEAD, top + h0, sum + h0, q + (size_t)h0 * GEOM_HEAD, rows, n,
					    h1 - h0);
			continue;
		}
		for (int32_t h = h0; h < h1; h++)
			fold(run->c->dot, out + (size_t)h * GEOM_HEAD, &top[h], &sum[h],
			     q + (size_t)h * GEOM_HEAD, rows, n);
	}
	for (int32_t h = h0; h < h1; h++)
		for (int i = 0; i < GEOM_HEAD; i++)
			out[(size_t)h * GEOM_HEAD + (size_t)i] /= sum[h];
}

static void attend_range(void *ctx, long begin, long end, int thread)
{
	const struct attend_run *run = ctx;
	const int32_t heads = run->a->heads, parts = run->parts;

	for (long i = begin; i < end; i++) {
		int32_t part = (int32_t)(i % parts);

		attend_heads(run, (int32_t)(i / parts), heads * part / parts, heads * (part + 1) / parts,
			     run->work + (size_t)thread * run->room);
	}
}

void cpu_attend(struct backend *be, const struct step *s, struct tensor *out, const struct attend_args *a)
{
	struct cpu *c = cpu_of(be);
	struct attend_run run = {.c = c, .s = s, .a = a, .out = out, .parts = 1};

	assert(a->q->width >= a->heads * GEOM_HEAD && out->width >= a->heads * GEOM_HEAD);
	assert(a->sinks->type == DTYPE_F32);
	if (s->n_rows < 4 * c->threads)
		run.parts = c->threads < a->heads ? c->threads : a->heads;
	run.sinks = a->sinks->device;
	run.room = ((size_t)BATCH * GEOM_HEAD + 2 * (size_t)a->heads + 15) / 16 * 16;
	run.work = cpu_scratch(c, SCRATCH_THREAD, (size_t)c->threads * run.room * sizeof(float));
	if (run.work)
		cpu_for(c, (int64_t)s->n_rows * run.parts, 64 * GEOM_HEAD, attend_range, &run);
}
