/* ref_attn.c - the reference backend's history: packed rows, pooling, indexer, attention.
 *
 * What  Every layer sees the last W tokens as raw rows; ratio-4 and ratio-128 layers see older ones as pooled rows,
 *       one for every r tokens; in ratio-4 layers an indexer picks at most K of those.
 * How   Rows and keys are kept in the model's own precision (quant/half.h), or as float64 when the backend was opened
 *       with wide rows.  A query first gathers its rows as float64, then attends in two passes.
 * Careful
 *       - A pooled row is rotated with the position of its group's first token, not its last.
 *       - With r = 4 a row mixes the left halves of the previous group with the right halves of its own; group 0
 *         has no previous group (weight zero, not a zero vector).
 *       - A row emitted by token t is visible to t.
 *       - The sink takes part in the maximum and in the denominator, and adds no value.
 * Source: docs/model.md section 7; numpy: dsv4_ref.py compress, indexer, attention; dsv4_stream.py Window. */
#include "backend/ref/ref_int.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "quant/half.h"

/* ------------------------------------------------------------------ rounding */

static double group_amax(const double *x, int32_t n)
{
	double a = 0;

	for (int32_t i = 0; i < n; i++)
		a = fmax(a, fabs(x[i]));
	return a;
}

static int fp8_exponent(const double *x)
{
	return pow2_scale_exponent(fmax(group_amax(x, GEOM_FP8_GROUP), 1e-4), 448);
}

static int fp4_exponent(const double *x)
{
	return pow2_scale_exponent(fmax(group_amax(x, GEOM_FP4_GROUP), 6 * 0x1p-126), 6);
}

void ref_round_row(double *x)
{
	for (int32_t g = 0; g < GEOM_PLAIN; g += GEOM_FP8_GROUP) {
		int k = fp8_exponent(x + g);

		for (int32_t i = g; i < g + GEOM_FP8_GROUP; i++)
			x[i] = ldexp((double)e4m3_to_f32(e4m3_from_f64(ldexp(x[i], -k))), k);
	}
}

void ref_round_key(double *x)
{
	for (int32_t g = 0; g < GEOM_KEY; g += GEOM_FP4_GROUP) {
		int k = fp4_exponent(x + g);

		for (int32_t i = g; i < g + GEOM_FP4_GROUP; i++)
			x[i] = ldexp((double)e2m1_to_f32(e2m1_from_f64(ldexp(x[i], -k))), k);
	}
}

void ref_hadamard(double *x)
{
	for (int32_t h = 1; h < GEOM_KEY; h *= 2)
		for (int32_t i = 0; i < GEOM_KEY; i++)
			if (!(i & h)) {
				double a = x[i], b = x[i + h];

				x[i] = a + b;
				x[i + h] = a - b;
			}
	for (int32_t i = 0; i < GEOM_KEY; i++)
		x[i] *= sqrt(1.0 / GEOM_KEY);
}

/* ------------------------------------------------------------------ storage */

void ref_store_row(const struct backend *be, uint8_t *base, int32_t count, int32_t i, const double *x)
{
	uint8_t *plain = base + (size_t)i * GEOM_PLAIN;
	uint8_t *rot = base + (size_t)count * GEOM_PLAIN + (size_t)i * GEOM_ROT * 2;
	uint8_t *scale = base + (size_t)count * (GEOM_PLAIN + GEOM_ROT * 2) + (size_t)i * GEOM_ROW_SCALES;

	if (!be->numerics.packed) {
		double *wide = (double *)base + (size_t)i * GEOM_HEAD;

		memcpy(wide, x, GEOM_HEAD * sizeof *wide);
		if (be->numerics.fp8)
			ref_round_row(wide);
		return;
	}
	for (int32_t g = 0; g < GEOM_ROW_SCALES; g++) {
		int k = fp8_exponent(x + g * GEOM_FP8_GROUP);

		scale[g] = (uint8_t)(k + 127);
		for (int32_t j = g * GEOM_FP8_GROUP; j < (g + 1) * GEOM_FP8_GROUP; j++)
			plain[j] = e4m3_from_f64(ldexp(x[j], -k));
	}
	for (int32_t j = 0; j < GEOM_ROT; j++) {
		uint16_t h = f16_from_f32((float)x[GEOM_PLAIN + j]);

		memcpy(rot + 2 * j, &h, sizeof h);
	}
}

void ref_load_row(const struct backend *be, const uint8_t *base, int32_t count, int32_t i, double *x)
{
	const uint8_t *plain = base + (size_t)i * GEOM_PLAIN;
	const uint8_t *rot = base + (size_t)count * GEOM_PLAIN + (size_t)i * GEOM_ROT * 2;
	const uint8_t *scale = base + (size_t)count * (GEOM_PLAIN + GEOM_ROT * 2) + (size_t)i * GEOM_ROW_SCALES;

	if (!be->numerics.packed) {
		memcpy(x, (const double *)base + (size_t)i * GEOM_HEAD, GEOM_HEAD * sizeof *x);
		return;
	}
	for (int32_t j = 0; j < GEOM_PLAIN; j++)
		x[j] = (double)e4m3_to_f32(plain[j]) * (double)e8m0_to_f32(scale[j / GEOM_FP8_GROUP]);
	for (int32_t j = 0; j < GEOM_ROT; j++) {
		uint16_t h;

		memcpy(&h, rot + 2 * j, sizeof h);
		x[GEOM_PLAIN + j] = (double)f16_to_f32(h);
	}
}

void ref_store_key(const struct backend *be, uint8_t *base, int32_t count, int32_t i, const double *x)
{
	uint8_t *codes = base + (size_t)i * (GEOM_KEY / 2);
	uint8_t *scale = base + (size_t)count * (GEOM_KEY / 2) + (size_t)i * GEOM_KEY_SCALES;

	if (!be->numerics.packed) {
		double *wide = (double *)base + (size_t)i * GEOM_KEY;

		memcpy(wide, x, GEOM_KEY * sizeof *wide);
		if (be->numerics.fp4)
			ref_round_key(wide);
		return;
	}
	for (int32_t g = 0; g < GEOM_KEY_SCALES; g++) {
		int k = fp4_exponent(x + g * GEOM_FP4_GROUP);

		scale[g] = (uint8_t)(k + 127);
		for (int32_t j = g * GEOM_FP4_GROUP; j < (g + 1) * GEOM_FP4_GROUP; j += 2)
			codes[j / 2] = (uint8_t)(e2m1_from_f64(ldexp(x[j], -k)) |
						 e2m1_from_f64(ldexp(x[j + 1], -k)) << 4);
	}
}

void ref_load_key(const struct backend *be, const uint8_t *base, int32_t count, int32_t i, double *x)
{
	const uint8_t *codes = base + (size_t)i * (GEOM_KEY / 2);
	const uint8_t *scale = base + (size_t)count * (GEOM_KEY / 2) + (size_t)i * GEOM_KEY_SCALES;

	if (!be->numerics.packed) {
		memcpy(x, (const double *)base + (size_t)i * GEOM_KEY, GEOM_KEY * sizeof *x);
		return;
	}
	for (int32_t j = 0; j < GEOM_KEY; j++) {
		uint8_t nibble = j % 2 ? codes[j / 2] >> 4 : codes[j / 2] & 15;

		x[j] = (double)e2m1_to_f32(nibble) * (double)e8m0_to_f32(scale[j / GEOM_FP4_GROUP]);
	}
}

void ref_pack_rows(struct backend *be, const struct step *s, struct tensor *fresh, const struct tensor *kv)
{
	assert(kv->width == GEOM_HEAD && fresh->type == TENSOR_ROWS);
	for (int32_t t = 0; t < s->n_rows; t++)
		ref_store_row(be, fresh->data, fresh->rows, t, real_row(kv, t));
}

void ref_ring_write(struct backend *be, const struct step *s, const struct tensor *fresh,
		    const struct kv_layer *layer)
{
	double x[GEOM_HEAD];

	for (int32_t i = 0; i < s->n_spans; i++) {
		const struct span *sp = &s->span[i];
		uint8_t *ring = s->timeline[sp->timeline].tail + layer->tail_ring;
		int32_t first = sp->n > layer->window ? sp->n - layer->window : 0;

		for (int32_t j = first; j < sp->n; j++) {	/* values are already rounded: storing again is exact */
			ref_load_row(be, fresh->data, fresh->rows, sp->row0 + j, x);
			ref_store_row(be, ring, layer->window, geom_ring_slot(sp->pos0 + j, layer->window), x);
		}
	}
}

/* ------------------------------------------------------------------ pooling */

/* One layer's compressor during one span: where the projections of any token are. */
struct pooling {
	const struct pool_args *a;
	const struct span *span;
	int32_t r, width, pw;
	double *front_kv, *front_score;		/* [slots, pw] */
};

/* Projections of the token at p: kv and score (position bias included), channel c. */
static void token_at(const struct pooling *o, int32_t p, int32_t c, double *kv, double *score)
{
	int32_t slot;

	if (p >= o->span->pos0) {
		int32_t t = o->span->row0 + p - o->span->pos0;

		*kv = real_row(o->a->kv, t)[c];
		*score = real_row(o->a->score, t)[c] +
			 ref_weight_at(o->a->ape, (size_t)(p % o->r) * (size_t)o->pw + (size_t)c);
		return;
	}
	/* Before the span: in the open group's slots, or (r = 4) in those of the group before it. */
	slot = o->r == 4 && p / 4 < o->span->pos0 / 4 ? p % 4 : geom_frontier_slot(p, o->r);
	*kv = o->front_kv[slot * o->pw + c];
	*score = o->front_score[slot * o->pw + c];
}

/* Softmax-weighted mean of one channel of row n. */
static double pool_channel(const struct pooling *o, int32_t n, int32_t c)
{
	double kv[GEOM_BLOCK], score[GEOM_BLOCK], top = -INFINITY, sum = 0, mean = 0;
	int32_t items = 0;

	if (o->r == 4 && n > 0)		/* left halves of the previous group */
		for (int32_t p = 4 * (n - 1); p < 4 * n; p++, items++)
			token_at(o, p, c, &kv[items], &score[items]);
	for (int32_t p = o->r * n; p < o->r * (n + 1); p++, items++)
		token_at(o, p, o->r == 4 ? o->width + c : c, &kv[items], &score[items]);
	for (int32_t i = 0; i < items; i++)
		top = fmax(top, score[i]);
	for (int32_t i = 0; i < items; i++) {
		double w = exp(score[i] - top);

		sum += w;
		mean += w * kv[i];
	}
	return mean / sum;
}

static void emit_row(struct backend *be, const struct step *s, const struct pooling *o, int32_t n)
{
	const struct kv_layer *l = o->a->layer;
	uint8_t *block = s->timeline[o->span->timeline].block[geom_row_block(n, o->r)];
	double x[GEOM_HEAD];

	for (int32_t c = 0; c < o->width; c++)
		x[c] = pool_channel(o, n, c);
	ref_rms(x, x, o->a->norm, o->width);
	ref_rope(x, o->width, o->a->freq, n * o->r, false);
	if (o->a->key) {
		ref_hadamard(x);
		ref_store_key(be, block + l->block_keys, geom_rows_per_block(o->r), geom_row_in_block(n, o->r), x);
	} else {
		ref_store_row(be, block + l->block_rows, geom_rows_per_block(o->r), geom_row_in_block(n, o->r), x);
	}
}

/* Stores the projections of the tokens that later rows will need. */
static void update_frontier(const struct pooling *o)
{
	int32_t pos0 = o->span->pos0, end = pos0 + o->span->n, open = end / o->r;
	int32_t first = o->r == 4 && open > 0 ? 4 * (open - 1) : o->r * open;

	/* Ascending: with r = 4 a token moving from slot 4 + i to i is read before slot 4 + i is overwritten. */
	for (int32_t p = first; p < end; p++) {
		int32_t to = o->r == 4 && p / 4 < open ? p % 4 : geom_frontier_slot(p, o->r);

		if (p < pos0 && p / o->r >= open)
			continue;	/* already in its slot */
		if (p < pos0 && o->r == 4 && p / 4 < pos0 / 4)
			continue;	/* previous group, still the previous group */
		for (int32_t c = 0; c < o->pw; c++)
			token_at(o, p, c, &o->front_kv[to * o->pw + c], &o->front_score[to * o->pw + c]);
	}
}

void ref_pool(struct backend *be, const struct step *s, const struct pool_args *a)
{
	struct pooling o = {.a = a, .r = a->layer->ratio, .width = a->key ? GEOM_KEY : GEOM_HEAD};

	o.pw = geom_pool_width(o.width, o.r);
	assert(a->kv->width == o.pw && a->score->width == o.pw && a->ape->in == o.pw);
	for (int32_t i = 0; i < s->n_spans; i++) {
		o.span = &s->span[i];
		o.front_kv = (double *)(s->timeline[o.span->timeline].tail +
					(a->key ? a->layer->tail_front_key : a->layer->tail_front));
		o.front_score = o.front_kv + (size_t)geom_frontier_slots(o.r) * (size_t)o.pw;
		for (int32_t p = o.span->pos0; p < o.span->pos0 + o.span->n; p++)
			if (geom_pools_at(p, o.r))
				emit_row(be, s, &o, p / o.r);
		update_frontier(&o);
	}
}

/* ------------------------------------------------------------------ indexer */

void ref_index_query(struct backend *be, const struct step *s, struct tensor *q, int32_t heads)
{
	for (int32_t t = 0; t < s->n_rows; t++)
		for (int32_t h = 0; h < heads; h++) {
			double *x = real_row(q, t) + h * GEOM_KEY;

			ref_hadamard(x);
			if (be->numerics.fp4)
				ref_round_key(x);
		}
}

struct scored {
	double score;
	int32_t row;
};

static int by_score(const void *a, const void *b)
{
	const struct scored *x = a, *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return x->row < y->row ? -1 : x->row > y->row;
}

static int by_number(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

	return x < y ? -1 : x > y;
}

/* Score of compressed row n for the query of step row t. */
static double index_score(struct backend *be, const struct step *s, const struct choose_args *a, int32_t t,
			  int32_t n)
{
	int32_t r = a->layer->ratio;
	const uint8_t *block = s->timeline[s->row[t].timeline].block[geom_row_block(n, r)];
	const double *q = real_row(a->q, t), *u = real_row(a->head_weight, t);
	double key[GEOM_KEY], sum = 0, scale = sqrt(1.0 / ((double)a->heads * GEOM_KEY));

	ref_load_key(be, block + a->layer->block_keys, geom_rows_per_block(r), geom_row_in_block(n, r), key);
	for (int32_t h = 0; h < a->heads; h++) {
		double dot = 0;

		for (int32_t i = 0; i < GEOM_KEY; i++)
			dot += q[h * GEOM_KEY + i] * key[i];
		sum += u[h] * scale * fmax(dot, 0);
	}
	return sum;
}

struct choose_job {
	struct backend *be;
	const struct step *s;
	struct tensor *pick;
	const struct choose_args *a;
};

static void choose_range(void *ctx, long begin, long end, int thread)
{
	const struct choose_job *j = ctx;

	(void)thread;
	for (long t = begin; t < end; t++) {
		int32_t n = geom_visible(j->s->row[t].pos, j->a->layer->ratio), k = j->a->top_k;
		int32_t *pick = int_row(j->pick, (int32_t)t);
		struct scored *all;

		if (n <= k)
			continue;
		all = mem_array((size_t)n, sizeof *all);
		if (!all) {
			be_fail(j->be, ERR_MEMORY, "choose_rows: no memory for %d scores", n);
			return;
		}
		for (int32_t i = 0; i < n; i++)
			all[i] = (struct scored){index_score(j->be, j->s, j->a, (int32_t)t, i), i};
		qsort(all, (size_t)n, sizeof *all, by_score);
		for (int32_t i = 0; i < k; i++)
			pick[i] = all[i].row;
		qsort(pick, (size_t)k, sizeof *pick, by_number);
		mem_free(all);
	}
}

void ref_choose_rows(struct backend *be, const struct step *s, struct tensor *pick, const struct choose_args *a)
{
	struct choose_job j = {be, s, pick, a};

	assert(pick->width == a->top_k && a->q->width == a->heads * GEOM_KEY);
	parallel_for(((struct ref *)be->self)->pool, s->n_rows, choose_range, &j);
}

/* ------------------------------------------------------------------ attention */

/* Gathers the rows that step row t sees, oldest window row first, then compressed rows ascending. */
static int32_t gather(struct backend *be, const struct step *s, const struct attend_args *a, int32_t t, double *rows)
{
	const struct kv_layer *l = a->layer;
	const struct span *sp = &s->span[s->row_span[t]];
	const struct be_timeline *tl = &s->timeline[sp->timeline];
	int32_t pos = s->row[t].pos, n = 0, visible = geom_visible(pos, l->ratio);
	bool all = !a->pick || visible <= a->top_k;

	for (int32_t p = geom_window_first(pos, l->window); p <= pos; p++, n++) {
		if (p < sp->pos0)
			ref_load_row(be, tl->tail + l->tail_ring, l->window, geom_ring_slot(p, l->window),
				     rows + (size_t)n * GEOM_HEAD);
		else
			ref_load_row(be, a->fresh->data, a->fresh->rows, sp->row0 + p - sp->pos0,
				     rows + (size_t)n * GEOM_HEAD);
	}
	for (int32_t i = 0; i < (all ? visible : a->top_k); i++, n++) {
		int32_t c = all ? i : int_row(a->pick, t)[i];

		ref_load_row(be, tl->block[geom_row_block(c, l->ratio)] + l->block_rows,
			     geom_rows_per_block(l->ratio), geom_row_in_block(c, l->ratio),
			     rows + (size_t)n * GEOM_HEAD);
	}
	return n;
}

/* One head: o = sum_i softmax_i(q . R_i / sqrt(512), sink) R_i. */
REF_WIDE static void attend_head(double *o, const double *q, const double *rows, int32_t n, double sink, double *z)
{
	double top = sink, sum;

	for (int32_t i = 0; i < n; i++) {
		const double *r = rows + (size_t)i * GEOM_HEAD;
		double dot = 0;

#pragma omp simd reduction(+ : dot)
		for (int32_t j = 0; j < GEOM_HEAD; j++)
			dot += q[j] * r[j];
		z[i] = dot * sqrt(1.0 / GEOM_HEAD);
		top = fmax(top, z[i]);
	}
	sum = exp(sink - top);
	memset(o, 0, GEOM_HEAD * sizeof *o);
	for (int32_t i = 0; i < n; i++) {
		const double *r = rows + (size_t)i * GEOM_HEAD;
		double w = exp(z[i] - top);

		sum += w;
		for (int32_t j = 0; j < GEOM_HEAD; j++)
			o[j] += w * r[j];
	}
	for (int32_t j = 0; j < GEOM_HEAD; j++)
		o[j] /= sum;
}

struct attend_job {
	struct backend *be;
	const struct step *s;
	struct tensor *out;
	const struct attend_args *a;
};

static void attend_range(void *ctx, long begin, long end, int thread)
{
	const struct attend_job *j = ctx;
	const struct kv_layer *l = j->a->layer;
	int32_t most = l->window;
	double *rows, *z;

	(void)thread;
	if (begin == end)
		return;
	for (long t = begin; t < end; t++) {
		int32_t c = geom_visible(j->s->row[t].pos, l->ratio);

		if (j->a->pick && c > j->a->top_k)
			c = j->a->top_k;
		if (l->window + c > most)
			most = l->window + c;
	}
	rows = mem_array((size_t)most, GEOM_HEAD * sizeof *rows);
	z = mem_array((size_t)most, sizeof *z);
	if (!rows || !z)
		be_fail(j->be, ERR_MEMORY, "attend: no memory for %d rows", most);
	for (long t = begin; rows && z && t < end; t++) {
		int32_t n = gather(j->be, j->s, j->a, (int32_t)t, rows);

		for (int32_t h = 0; h < j->a->heads; h++)
			attend_head(real_row(j->out, (int32_t)t) + h * GEOM_HEAD,
				    real_row(j->a->q, (int32_t)t) + h * GEOM_HEAD, rows, n,
				    ref_weight_at(j->a->sinks, (size_t)h), z);
	}
	mem_free(rows);
	mem_free(z);
}

void ref_attend(struct backend *be, const struct step *s, struct tensor *out, const struct attend_args *a)
{
	struct attend_job j = {be, s, out, a};

	assert(out->width == a->heads * GEOM_HEAD && a->q->width == out->width);
	parallel_for(((struct ref *)be->self)->pool, s->n_rows, attend_range, &j);
}
