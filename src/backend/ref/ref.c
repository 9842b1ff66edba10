/* ref.c - the reference backend: embeddings, norms, products, residual streams, router, experts.
 *
 * What  Every operation as its formula, in float64, on weights decoded by quant.c.
 * Why   It is the definition: other backends are compared with it operation by operation, and it is compared with
 *       the independent numpy reference of the whole model.
 * How   A product decodes each weight row once and takes its dot with all rows of the step; threads share the
 *       weight rows.  Each result is one sum in a fixed order, so neither threads nor chunking change a bit.
 * Careful
 *       - C is used transposed in hc_out: stream j flows into stream k with weight C[j][k].
 *       - eps is added after the softmax and to the sums of the Sinkhorn passes, not clamped.
 *       - Selection of experts uses p + bias, their weights use p alone.
 * History (rows, pooling, attention) is in ref_attn.c.  Source: docs/model.md; numpy: tools/reference/dsv4_ref.py. */
#include "backend/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ref/ref_int.h"
#include "base/mem.h"
#include "quant/half.h"
#include "quant/quant.h"

static struct ref *ref_of(struct backend *be)
{
	return be->self;
}

double ref_weight_at(const struct weight *w, size_t i)
{
	const uint8_t *p = w->device;
	float f;
	uint16_t h;

	switch (w->type) {
	case DTYPE_F32:
		memcpy(&f, p + 4 * i, sizeof f);
		return f;
	case DTYPE_F16:
		memcpy(&h, p + 2 * i, sizeof h);
		return f16_to_f32(h);
	case DTYPE_BF16:
		memcpy(&h, p + 2 * i, sizeof h);
		return bf16_to_f32(h);
	default:
		assert(!"vector weights are F32, F16 or BF16");
		return 0;
	}
}

/* ------------------------------------------------------------------ products */

REF_WIDE static double dot(const double *w, const double *x, int32_t n)
{
	double sum = 0;

#pragma omp simd reduction(+ : sum)
	for (int32_t i = 0; i < n; i++)
		sum += w[i] * x[i];
	return sum;
}

struct product {
	struct ref *ref;
	const struct weight *w;
	int32_t matrix;			/* which of w->n */
	int32_t in_group;		/* 0, or output rows per group: x shifts by w->in for each group */
	const double *x;
	double *y;
	size_t x_stride, y_stride;	/* elements between rows */
	const int32_t *pick;		/* rows of x and y to use, or NULL for 0..n_rows-1 */
	int32_t n_rows;
};

static void product_range(void *ctx, long begin, long end, int thread)
{
	const struct product *p = ctx;
	const struct weight *w = p->w;
	float *row = p->ref->row + (size_t)thread * p->ref->row_room;
	double *wide = p->ref->wide + (size_t)thread * p->ref->row_room;
	const uint8_t *base = (const uint8_t *)w->device + (size_t)p->matrix * (size_t)w->out * w->row_bytes;

	for (long o = begin; o < end; o++) {
		size_t shift = p->in_group ? (size_t)(o / p->in_group) * (size_t)w->in : 0;

		quant_decode(row, base + (size_t)o * w->row_bytes, w->type, (size_t)w->in);
		for (int32_t i = 0; i < w->in; i++)
			wide[i] = row[i];
		for (int32_t i = 0; i < p->n_rows; i++) {
			size_t t = p->pick ? (size_t)p->pick[i] : (size_t)i;

			p->y[t * p->y_stride + (size_t)o] = dot(wide, p->x + t * p->x_stride + shift, w->in);
		}
	}
}

static void product(const struct product *p)
{
	parallel_for(p->ref->pool, p->w->out, product_range, (void *)(uintptr_t)p);
}

static void ref_matmul(struct backend *be, int32_t n_rows, struct tensor *y, const struct weight *w,
		       const struct tensor *x)
{
	assert(x->width == w->in && y->width == w->out);
	product(&(struct product){.ref = ref_of(be), .w = w, .x = x->data, .y = y->data,
				  .x_stride = (size_t)x->width, .y_stride = (size_t)y->width, .n_rows = n_rows});
}

static void ref_grouped_matmul(struct backend *be, const struct step *s, struct tensor *y, const struct weight *w,
			       const struct tensor *x, int32_t groups)
{
	assert(x->width == w->in * groups && y->width == w->out);
	product(&(struct product){.ref = ref_of(be), .w = w, .in_group = w->out / groups, .x = x->data,
				  .y = y->data, .x_stride = (size_t)x->width, .y_stride = (size_t)y->width,
				  .n_rows = s->n_rows});
}

static void ref_embed(struct backend *be, const struct step *s, struct tensor *streams, const struct weight *w)
{
	float *row = ref_of(be)->row;

	for (int32_t t = 0; t < s->n_rows; t++) {
		double *y = real_row(streams, t);

		quant_decode(row, (const uint8_t *)w->device + (size_t)s->row[t].token * w->row_bytes, w->type,
			     (size_t)w->in);
		for (int32_t j = 0; j < GEOM_STREAMS; j++)
			for (int32_t i = 0; i < w->in; i++)
				y[j * w->in + i] = row[i];
	}
}

/* ------------------------------------------------------------------ norms, rotation */

void ref_rms(double *y, const double *x, const struct weight *w, int32_t n)
{
	double sum = 0, r;

	for (int32_t i = 0; i < n; i++)
		sum += x[i] * x[i];
	r = 1 / sqrt(sum / n + REF_EPS);
	for (int32_t i = 0; i < n; i++)
		y[i] = x[i] * r * (w ? ref_weight_at(w, (size_t)i) : 1);
}

static void ref_rms_norm(struct backend *be, int32_t n_rows, struct tensor *y, const struct tensor *x,
			 const struct weight *w, int32_t group)
{
	(void)be;
	assert(x->width % group == 0 && y->width == x->width && (!w || w->in == group));
	for (int32_t t = 0; t < n_rows; t++)
		for (int32_t i = 0; i < x->width; i += group)
			ref_rms(real_row(y, t) + i, real_row(x, t) + i, w, group);
}

void ref_rope(double *x, int32_t width, const float *freq, int32_t pos, bool inverse)
{
	double *u = x + width - GEOM_ROT;

	for (int32_t i = 0; i < GEOM_ROT / 2; i++) {
		float angle = (float)pos * freq[i];	/* float32, as in the official code */
		double c = cos((double)angle), s = sin((double)angle), a = u[2 * i], b = u[2 * i + 1];

		if (inverse)
			s = -s;
		u[2 * i] = a * c - b * s;
		u[2 * i + 1] = a * s + b * c;
	}
}

static void ref_rope_op(struct backend *be, const struct step *s, struct tensor *x, const struct rope_args *a)
{
	(void)be;
	assert(x->width == a->heads * a->width);
	for (int32_t t = 0; t < s->n_rows; t++)
		for (int32_t h = 0; h < a->heads; h++)
			ref_rope(real_row(x, t) + h * a->width, a->width, a->freq, s->row[t].pos, a->inverse);
}

/* ------------------------------------------------------------------ residual streams */

static double sigmoid(double z)
{
	return 1 / (1 + exp(-z));
}

/* Sinkhorn: C[j][k] = C[4 * j + k]. */
static void sinkhorn(double *c, int32_t iterations)
{
	enum { N = GEOM_STREAMS };

	for (int j = 0; j < N; j++) {	/* softmax along k, eps after */
		double top = c[N * j], sum = 0;

		for (int k = 1; k < N; k++)
			top = fmax(top, c[N * j + k]);
		for (int k = 0; k < N; k++)
			sum += c[N * j + k] = exp(c[N * j + k] - top);
		for (int k = 0; k < N; k++)
			c[N * j + k] = c[N * j + k] / sum + REF_EPS;
	}
	for (int it = 0; it < iterations; it++) {
		for (int j = 0; it > 0 && j < N; j++) {	/* rows, not in the first round */
			double sum = 0;

			for (int k = 0; k < N; k++)
				sum += c[N * j + k];
			for (int k = 0; k < N; k++)
				c[N * j + k] /= sum + REF_EPS;
		}
		for (int k = 0; k < N; k++) {		/* columns */
			double sum = 0;

			for (int j = 0; j < N; j++)
				sum += c[N * j + k];
			for (int j = 0; j < N; j++)
				c[N * j + k] /= sum + REF_EPS;
		}
	}
}

/* mix[n_out] of the rows picked, from their streams: fn RMS(s). */
static bool hc_mix(struct backend *be, double *mix, const struct tensor *streams, const int32_t *pick,
		   int32_t n_rows, const struct hc_weights *w)
{
	size_t width = (size_t)streams->width;
	double *x = mem_alloc((size_t)n_rows * width * sizeof *x);

	if (!x) {
		be_fail(be, ERR_MEMORY, "hc_in: no memory for %d rows of streams", n_rows);
		return false;
	}
	for (int32_t i = 0; i < n_rows; i++)
		ref_rms(x + (size_t)i * width, real_row(streams, pick ? pick[i] : i), NULL, streams->width);
	product(&(struct product){.ref = ref_of(be), .w = w->fn, .x = x, .y = mix, .x_stride = width,
				  .y_stride = (size_t)w->fn->out, .n_rows = n_rows});
	mem_free(x);
	return true;
}

static void reduce_streams(double *x, const double *streams, const double *pre, int32_t d)
{
	for (int32_t i = 0; i < d; i++) {
		double sum = 0;

		for (int32_t j = 0; j < GEOM_STREAMS; j++)
			sum += pre[j] * streams[j * d + i];
		x[i] = sum;
	}
}

static void ref_hc_in(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
		      const struct tensor *streams, const struct hc_weights *w)
{
	enum { N = GEOM_STREAMS };

	assert(coef->width == GEOM_MIX && x->width * N == streams->width && w->fn->out == GEOM_MIX);
	if (!hc_mix(be, coef->data, streams, NULL, s->n_rows, w))
		return;
	for (int32_t t = 0; t < s->n_rows; t++) {
		double *c = real_row(coef, t);

		for (int j = 0; j < GEOM_MIX; j++)
			c[j] = c[j] * ref_weight_at(w->scale, j < N ? 0 : j < 2 * N ? 1 : 2) +
			       ref_weight_at(w->base, (size_t)j);
		for (int j = 0; j < N; j++) {
			c[j] = sigmoid(c[j]) + REF_EPS;
			c[N + j] = 2 * sigmoid(c[N + j]);
		}
		sinkhorn(c + 2 * N, w->iterations);
		reduce_streams(real_row(x, t), real_row(streams, t), c, x->width);
	}
}

static void ref_hc_out(struct backend *be, const struct step *s, struct tensor *streams, const struct tensor *coef,
		       const struct tensor *y)
{
	enum { N = GEOM_STREAMS };
	int32_t d = y->width;

	(void)be;
	for (int32_t t = 0; t < s->n_rows; t++) {
		double *st = real_row(streams, t), old[N];
		const double *post = real_row(coef, t) + N, *c = post + N, *yt = real_row(y, t);

		for (int32_t i = 0; i < d; i++) {
			for (int j = 0; j < N; j++)
				old[j] = st[j * d + i];
			for (int k = 0; k < N; k++) {
				double sum = post[k] * yt[i];

				for (int j = 0; j < N; j++)
					sum += c[N * j + k] * old[j];
				st[k * d + i] = sum;
			}
		}
	}
}

static void ref_hc_head(struct backend *be, const struct step *s, struct tensor *x, const struct tensor *streams,
			const struct hc_weights *w)
{
	double *mix = mem_array((size_t)s->n_logits + 1, GEOM_STREAMS * sizeof *mix);

	assert(w->fn->out == GEOM_STREAMS);
	if (!mix) {
		be_fail(be, ERR_MEMORY, "hc_head: no memory for %d rows", s->n_logits);
		return;
	}
	if (hc_mix(be, mix, streams, s->logit_row, s->n_logits, w))
		for (int32_t i = 0; i < s->n_logits; i++) {
			double *pre = mix + (size_t)i * GEOM_STREAMS;

			for (int j = 0; j < GEOM_STREAMS; j++)
				pre[j] = sigmoid(pre[j] * ref_weight_at(w->scale, 0) +
						 ref_weight_at(w->base, (size_t)j)) + REF_EPS;
			reduce_streams(real_row(x, i), real_row(streams, s->logit_row[i]), pre, x->width);
		}
	mem_free(mix);
}

/* ------------------------------------------------------------------ experts */

static double softplus(double z)
{
	return log1p(exp(-fabs(z))) + fmax(z, 0);
}

static void ref_route(struct backend *be, const struct step *s, struct tensor *idx, struct tensor *gate,
		      const struct route_args *a)
{
	double *p = mem_array((size_t)a->experts, sizeof *p);

	if (!p) {
		be_fail(be, ERR_MEMORY, "route: no memory for %d experts", a->experts);
		return;
	}
	for (int32_t t = 0; t < s->n_rows; t++) {
		const double *z = real_row(a->logits, t);
		int32_t *e = int_row(idx, t);
		double *g = real_row(gate, t), sum = 0;

		for (int32_t i = 0; i < a->experts; i++)
			p[i] = sqrt(softplus(z[i]));
		if (a->table)
			memcpy(e, (const uint8_t *)a->table->device + (size_t)s->row[t].token * a->table->row_bytes,
			       (size_t)a->used * sizeof *e);
		for (int32_t k = 0; !a->table && k < a->used; k++) {
			double best = -INFINITY;

			e[k] = 0;
			for (int32_t i = 0; i < a->experts; i++) {
				double rank = p[i] + (a->bias ? ref_weight_at(a->bias, (size_t)i) : 0);
				int taken = 0;

				for (int32_t j = 0; j < k; j++)
					taken |= e[j] == i;
				if (!taken && rank > best) {
					best = rank;
					e[k] = i;
				}
			}
		}
		for (int32_t k = 0; k < a->used; k++)
			sum += g[k] = p[e[k]];
		for (int32_t k = 0; k < a->used; k++)
			g[k] = g[k] / sum * (double)a->scale;
	}
	mem_free(p);
}

static double swiglu(double g, double u, double limit)
{
	double c = fmin(g, limit);

	return c * sigmoid(c) * fmin(fmax(u, -limit), limit);
}

static void ref_swiglu(struct backend *be, const struct step *s, struct tensor *h, const struct tensor *g,
		       const struct tensor *u, float limit)
{
	(void)be;
	for (int32_t t = 0; t < s->n_rows; t++)
		for (int32_t i = 0; i < h->width; i++)
			real_row(h, t)[i] = swiglu(real_row(g, t)[i], real_row(u, t)[i], (double)limit);
}

/* Adds one expert's share to the rows that chose it: y[t] += down(weight * swiglu(gate x, up x)). */
static void one_expert(struct ref *ref, const struct expert_args *a, int32_t e, const int32_t *rows,
		       const double *weight, int32_t n, double *g, double *u, double *out, struct tensor *y)
{
	int32_t ff = a->gate->out, d = a->down->out;
	struct product p = {.ref = ref, .w = a->gate, .matrix = e, .x = a->x->data, .y = g, .pick = rows,
			    .x_stride = (size_t)a->x->width, .y_stride = (size_t)ff, .n_rows = n};

	product(&p);
	p.w = a->up;
	p.y = u;
	product(&p);
	for (int32_t i = 0; i < n; i++)
		for (int32_t f = 0; f < ff; f++) {
			size_t at = (size_t)rows[i] * (size_t)ff + (size_t)f;

			g[at] = swiglu(g[at], u[at], (double)a->limit) * weight[i];
		}
	p = (struct product){.ref = ref, .w = a->down, .matrix = e, .x = g, .y = out, .pick = rows,
			     .x_stride = (size_t)ff, .y_stride = (size_t)d, .n_rows = n};
	product(&p);
	for (int32_t i = 0; i < n; i++)
		for (int32_t j = 0; j < d; j++)
			real_row(y, rows[i])[j] += out[(size_t)rows[i] * (size_t)d + (size_t)j];
}

/* Experts are visited in ascending number, so a row's sum has one order whatever the other rows chose. */
static void ref_experts(struct backend *be, const struct step *s, struct tensor *y, const struct expert_args *a)
{
	size_t n = (size_t)s->n_rows;
	size_t ff = (size_t)a->gate->out, d = (size_t)a->down->out;
	double *g = mem_array(n * ff, sizeof *g), *u = mem_array(n * ff, sizeof *u);
	double *out = mem_array(n * d, sizeof *out), *weight = mem_array(n, sizeof *weight);
	int32_t *rows = mem_array(n, sizeof *rows);

	if (!g || !u || !out || !weight || !rows) {
		be_fail(be, ERR_MEMORY, "experts: no memory for %d rows", s->n_rows);
		goto done;
	}
	memset(y->data, 0, n * d * sizeof(double));
	for (int32_t e = 0; e < a->gate->n; e++) {
		int32_t chosen = 0;

		for (int32_t t = 0; t < s->n_rows; t++)
			for (int32_t k = 0; k < a->used; k++)
				if (int_row(a->idx, t)[k] == e) {
					rows[chosen] = t;
					weight[chosen++] = real_row(a->gate_weight, t)[k];
				}
		if (chosen)
			one_expert(ref_of(be), a, e, rows, weight, chosen, g, u, out, y);
	}
done:
	mem_free(g);
	mem_free(u);
	mem_free(out);
	mem_free(weight);
	mem_free(rows);
}

static void ref_add(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x)
{
	(void)be;
	for (int32_t t = 0; t < s->n_rows; t++)
		for (int32_t i = 0; i < y->width; i++)
			real_row(y, t)[i] += real_row(x, t)[i];
}

/* ------------------------------------------------------------------ memory, life */

static void *ref_alloc(struct backend *be, size_t bytes)
{
	(void)be;
	return mem_aligned(bytes, 64);
}

static void ref_release(struct backend *be, void *p)
{
	(void)be;
	mem_free(p);
}

static void ref_move(struct backend *be, void *dst, const void *src, size_t bytes)
{
	(void)be;
	memcpy(dst, src, bytes);
}

static enum status ref_weight_load(struct backend *be, struct weight *w, struct err *err)
{
	struct ref *ref = ref_of(be);

	w->device = (void *)(uintptr_t)w->data;
	if ((size_t)w->in > ref->row_room) {
		size_t n = (size_t)pool_threads(ref->pool) * (size_t)w->in;
		float *row = mem_array(n, sizeof *row);
		double *wide = mem_array(n, sizeof *wide);

		if (!row || !wide) {
			mem_free(row);
			mem_free(wide);
			return err_set(err, ERR_MEMORY, "%s: no memory for a decoded row of %d", w->name, w->in);
		}
		mem_free(ref->row);
		mem_free(ref->wide);
		ref->row = row;
		ref->wide = wide;
		ref->row_room = (size_t)w->in;
	}
	return OK;
}

static void ref_close(struct backend *be)
{
	struct ref *ref = ref_of(be);

	pool_close(ref->pool);
	mem_free(ref->row);
	mem_free(ref->wide);
	mem_free(ref);
}

static const struct ops ref_ops = {
	.embed = ref_embed, .hc_in = ref_hc_in, .hc_out = ref_hc_out, .hc_head = ref_hc_head,
	.rms_norm = ref_rms_norm, .matmul = ref_matmul, .grouped_matmul = ref_grouped_matmul, .rope = ref_rope_op,
	.pack_rows = ref_pack_rows, .pool = ref_pool, .index_query = ref_index_query,
	.choose_rows = ref_choose_rows, .attend = ref_attend, .ring_write = ref_ring_write, .route = ref_route,
	.experts = ref_experts, .swiglu = ref_swiglu, .add = ref_add,
};

enum status ref_open(struct backend **out, const struct be_options *opt, struct err *err)
{
	struct ref *ref;
	enum status st;

	*out = NULL;
	if (opt->numerics.packed && (!opt->numerics.fp8 || !opt->numerics.fp4))
		return err_set(err, ERR_ARGUMENT,
			       "backend ref: rows without FP8 or FP4 rounding cannot be packed; ask for wide rows");
	ref = mem_zero(sizeof *ref);
	if (!ref)
		return err_set(err, ERR_MEMORY, "backend ref: out of memory");
	st = pool_open(&ref->pool, opt->threads > 0 ? opt->threads : cpu_count(), err);
	if (st != OK) {
		mem_free(ref);
		return st;
	}
	ref->be = (struct backend){
		.name = "ref", .ops = ref_ops, .numerics = opt->numerics, .real_bytes = sizeof(double),
		.row_bytes = opt->numerics.packed ? GEOM_ROW_BYTES : GEOM_HEAD * sizeof(double),
		.key_bytes = opt->numerics.packed ? GEOM_KEY_BYTES : GEOM_KEY * sizeof(double),
		.host_memory = true, .self = ref, .alloc = ref_alloc, .release = ref_release, .upload = ref_move,
		.download = ref_move, .copy = ref_move, .weight_load = ref_weight_load, .close = ref_close,
	};
	*out = &ref->be;
	return OK;
}
