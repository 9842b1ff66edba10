/* imatrix.c - collects importance of expert columns, turns it into entries of a file and adds files.
 *
 * What  The sums of imatrix.h, in double, one set for each layer.
 * How   The observer keeps x and idx of a layer until the weights of its experts come, then works on the step's rows
 *       at once: pairs (row, expert) are sorted by expert; the sums of x^2 are cut over experts, those of the hidden
 *       columns over (expert, column), so each row of weights is decoded once and no two threads share a sum.
 * Careful
 *       - Sums over rows are taken in row order whatever the cut: the result does not depend on threads, only in
 *         rounding on how the text was cut into steps.
 *       - Hidden columns are computed here in float from the file's weights, not taken from the backend, which never
 *         has them all in one place.  Slow (as much again as the experts), but the same on every backend.
 *       - The weight of an expert multiplies before the square: a column that matters only in experts with small
 *         weights matters less.
 * Source: docs/formats/gguf.md section 7, docs/model.md section 8. */
#include "workshop/imatrix.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/thread.h"
#include "quant/quant.h"

#define COUNTS ".counts"
#define NAME_MAX_BYTES 256

struct sums {
	double *in, *hidden;		/* [E, d], [E, F] */
	int64_t *seen, *seen_down;	/* [E] */
};

struct imatrix_collector {
	const struct shape *shape;
	const struct weights *weights;
	struct pool *pool;
	struct sums *layer;		/* [n_layer] */
	int64_t tokens;			/* rows counted in the first layer */
	int32_t down_every, skip_below;
	int32_t room;			/* rows that the buffers below hold */
	float *x, *gate;		/* [T, d], [T, K] */
	int32_t *idx;			/* [T, K] */
	uint8_t *use;			/* [T] bit 0: counts, bit 1: for the down columns too */
	int32_t *pair, *first;		/* [T * K] row * K + k by expert; [E + 1] where an expert's begin */
	float *decoded;			/* [threads, 2, d] */
	int32_t l, n;			/* the layer and step at hand */
	struct err err;
};

/* ------------------------------------------------------------------ life */

static enum status open_sums(struct sums *s, const struct shape *sh, struct err *err)
{
	size_t e = (size_t)sh->experts;

	s->in = mem_array(e * (size_t)sh->d, sizeof *s->in);
	s->hidden = mem_array(e * (size_t)sh->ff, sizeof *s->hidden);
	s->seen = mem_array(e, sizeof *s->seen);
	s->seen_down = mem_array(e, sizeof *s->seen_down);
	if (!s->in || !s->hidden || !s->seen || !s->seen_down)
		return err_set(err, ERR_MEMORY, "no memory for the sums of %d layers of %d experts",
			       (int)sh->n_layer, (int)sh->experts);
	return OK;
}

enum status imatrix_open(struct imatrix_collector **out, const struct shape *s, const struct weights *w, int threads,
			 int32_t down_every, struct err *err)
{
	struct imatrix_collector *c = mem_zero(sizeof *c);
	enum status st = OK;

	*out = NULL;
	if (!c)
		return err_set(err, ERR_MEMORY, "no memory for importance statistics");
	c->shape = s;
	c->weights = w;
	c->down_every = down_every;
	TRY_TO(out, pool_open(&c->pool, threads > 0 ? threads : cpu_count(), err));
	c->layer = mem_array((size_t)s->n_layer, sizeof *c->layer);
	c->first = mem_array((size_t)s->experts + 1, sizeof *c->first);
	c->decoded = mem_array((size_t)pool_threads(c->pool) * 2 * (size_t)s->d, sizeof *c->decoded);
	if (!c->layer || !c->first || !c->decoded) {
		st = err_set(err, ERR_MEMORY, "no memory for importance statistics");
		goto out;
	}
	for (int32_t l = 0; l < s->n_layer; l++)
		TRY_TO(out, open_sums(&c->layer[l], s, err));
	*out = c;
	c = NULL;
out:
	imatrix_close(c);
	return st;
}

static void free_rows(struct imatrix_collector *c)
{
	mem_free(c->x);
	mem_free(c->gate);
	mem_free(c->idx);
	mem_free(c->use);
	mem_free(c->pair);
}

void imatrix_close(struct imatrix_collector *c)
{
	if (!c)
		return;
	for (int32_t l = 0; c->layer && l < c->shape->n_layer; l++) {
		mem_free(c->layer[l].in);
		mem_free(c->layer[l].hidden);
		mem_free(c->layer[l].seen);
		mem_free(c->layer[l].seen_down);
	}
	free_rows(c);
	mem_free(c->layer);
	mem_free(c->first);
	mem_free(c->decoded);
	pool_close(c->pool);
	mem_free(c);
}

void imatrix_skip_below(struct imatrix_collector *c, int32_t pos)
{
	c->skip_below = pos;
}

enum status imatrix_check(const struct imatrix_collector *c, struct err *err)
{
	return c->err.code == OK ? OK : err_set(err, c->err.code, "%s", c->err.msg);
}

/* ------------------------------------------------------------------ the observer */

static bool make_room(struct imatrix_collector *c, int32_t rows)
{
	size_t t = (size_t)rows, k = (size_t)c->shape->used;

	if (rows <= c->room)
		return true;
	free_rows(c);
	c->x = mem_array(t * (size_t)c->shape->d, sizeof *c->x);
	c->gate = mem_array(t * k, sizeof *c->gate);
	c->idx = mem_array(t * k, sizeof *c->idx);
	c->use = mem_array(t, sizeof *c->use);
	c->pair = mem_array(t * k, sizeof *c->pair);
	c->room = c->x && c->gate && c->idx && c->use && c->pair ? rows : 0;
	if (!c->room)
		err_set(&c->err, ERR_MEMORY, "no memory for the statistics of a step of %d rows", (int)rows);
	return c->room > 0;
}

/* Which rows count, and the pairs of those sorted by expert, rows ascending within one. */
static void sort_pairs(struct imatrix_collector *c, const struct step *s)
{
	int32_t used = c->shape->used, n = 0;

	c->n = s->n_rows;
	for (int32_t t = 0; t < c->n; t++)
		c->use[t] = s->row[t].pos < c->skip_below ? 0 : s->row[t].pos % c->down_every ? 1 : 3;
	for (int32_t e = 0; e < c->shape->experts; e++) {
		c->first[e] = n;
		for (int32_t i = 0; i < c->n * used; i++)
			if (c->idx[i] == e && c->use[i / used])
				c->pair[n++] = i;
	}
	c->first[c->shape->experts] = n;
}

static void add_inputs(void *ctx, long begin, long end, int thread)
{
	struct imatrix_collector *c = ctx;
	struct sums *s = &c->layer[c->l];
	size_t d = (size_t)c->shape->d;

	(void)thread;
	for (long e = begin; e < end; e++) {
		double *sum = s->in + (size_t)e * d;

		for (int32_t i = c->first[e]; i < c->first[e + 1]; i++) {
			int32_t t = c->pair[i] / c->shape->used;
			const float *x = c->x + (size_t)t * d;

			for (size_t j = 0; j < d; j++)
				sum[j] += (double)x[j] * x[j];
			s->seen[e]++;
			s->seen_down[e] += c->use[t] >> 1;
		}
	}
}

/* In eight partial sums, so that compilers may use vectors without changing a bit. */
static float dot(const float *a, const float *b, size_t n)
{
	float part[8] = {0}, sum = 0;
	size_t i = 0;

	for (; i + 8 <= n; i += 8)
		for (int j = 0; j < 8; j++)
			part[j] += a[i + j] * b[i + j];
	for (; i < n; i++)
		sum += a[i] * b[i];
	for (int j = 0; j < 8; j++)
		sum += part[j];
	return sum;
}

static float swiglu(float g, float u, float limit)
{
	g = fminf(g, limit);
	u = fmaxf(fminf(u, limit), -limit);
	return g / (1 + expf(-g)) * u;
}

static void decode_row(float *out, const struct weight *w, long row)
{
	quant_decode(out, (const uint8_t *)w->data + (size_t)row * w->row_bytes, w->type, (size_t)w->in);
}

/* Index i is hidden column i % F of expert i / F: row i of the stacked gate and up matrices. */
static void add_hidden(void *ctx, long begin, long end, int thread)
{
	struct imatrix_collector *c = ctx;
	const struct layer_weights *w = &c->weights->layer[c->l];
	size_t d = (size_t)c->shape->d;
	float *gate = c->decoded + (size_t)thread * 2 * d, *up = gate + d;

	for (long i = begin; i < end; i++) {
		long e = i / c->shape->ff;
		bool ready = false;

		for (int32_t p = c->first[e]; p < c->first[e + 1]; p++) {
			int32_t t = c->pair[p] / c->shape->used;
			const float *x = c->x + (size_t)t * d;
			float h;

			if (!(c->use[t] & 2))
				continue;
			if (!ready) {
				decode_row(gate, &w->gate_exps, i);
				decode_row(up, &w->up_exps, i);
				ready = true;
			}
			h = c->gate[c->pair[p]] * swiglu(dot(gate, x, d), dot(up, x, d), c->shape->limit[c->l]);
			c->layer[c->l].hidden[i] += (double)h * h;
		}
	}
}

static void observe(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t,
		    const struct step *s)
{
	struct imatrix_collector *c = ctx;
	const struct shape *sh = c->shape;

	if ((at != TAP_FFN_NORM && at != TAP_EXPERTS && at != TAP_GATES) || c->err.code != OK)
		return;
	if (!make_room(c, s->n_rows))
		return;
	if (at == TAP_FFN_NORM) {
		be_read(be, t, 0, s->n_rows, c->x);
	} else if (at == TAP_EXPERTS) {
		be->download(be, c->idx, t->data, (size_t)s->n_rows * (size_t)sh->used * sizeof *c->idx);
	} else {
		be_read(be, t, 0, s->n_rows, c->gate);
		c->l = layer;
		sort_pairs(c, s);
		parallel_for(c->pool, sh->experts, add_inputs, c);
		parallel_for(c->pool, (long)sh->experts * sh->ff, add_hidden, c);
		for (int32_t i = 0; layer == 0 && i < c->n; i++)
			c->tokens += c->use[i] & 1;
	}
}

struct tap imatrix_tap(struct imatrix_collector *c)
{
	return (struct tap){.fn = observe, .ctx = c};
}

/* ------------------------------------------------------------------ entries */

static bool counts_name(char *out, const char *name)
{
	return snprintf(out, NAME_MAX_BYTES, "%s" COUNTS, name) < NAME_MAX_BYTES;
}

static bool is_counts(const char *name)
{
	size_t n = strlen(name), k = strlen(COUNTS);

	return n > k && !strcmp(name + n - k, COUNTS);
}

const struct imatrix_entry *imatrix_counts(const struct imatrix *m, const char *name)
{
	const struct imatrix_entry *e = imatrix_find(m, name), *k;
	char counts[NAME_MAX_BYTES];

	if (!e || !counts_name(counts, name))
		return NULL;
	k = imatrix_find(m, counts);
	return k && e->n % k->n == 0 ? k : NULL;
}

static int32_t calls_of(int64_t tokens)
{
	return tokens > INT32_MAX ? INT32_MAX : (int32_t)tokens;
}

static enum status export_one(struct imatrix *out, const char *name, const double *sum, const int64_t *seen,
			      int32_t experts, int32_t columns, int32_t calls, struct err *err)
{
	char counts[NAME_MAX_BYTES];
	struct imatrix_entry *e, *k = NULL;

	if ((int64_t)experts * columns > INT32_MAX || !counts_name(counts, name))
		return err_set(err, ERR_LIMIT, "%s: does not fit in an importance file", name);
	if (imatrix_add(out, name, experts * columns))
		k = imatrix_add(out, counts, experts);
	if (!k)
		return err_set(err, ERR_MEMORY, "%s: no memory for its entry", name);
	e = imatrix_find(out, name);	/* adding may have moved it */
	e->calls = calls;
	k->calls = 1;
	for (int32_t i = 0; i < experts; i++) {
		k->value[i] = (float)seen[i];
		for (int32_t j = 0; seen[i] && j < columns; j++) {
			size_t at = (size_t)i * (size_t)columns + (size_t)j;

			e->value[at] = (float)(sum[at] / (double)seen[i] * calls);
		}
	}
	return OK;
}

static enum status export_layer(const struct imatrix_collector *c, int32_t l, struct imatrix *out, struct err *err)
{
	const struct layer_weights *w = &c->weights->layer[l];
	const struct shape *sh = c->shape;
	const struct sums *s = &c->layer[l];
	int32_t calls = calls_of(c->tokens);

	TRY(export_one(out, w->gate_exps.name, s->in, s->seen, sh->experts, sh->d, calls, err));
	TRY(export_one(out, w->up_exps.name, s->in, s->seen, sh->experts, sh->d, calls, err));
	return export_one(out, w->down_exps.name, s->hidden, s->seen_down, sh->experts, sh->ff, calls, err);
}

enum status imatrix_export(const struct imatrix_collector *c, struct imatrix *out, struct err *err)
{
	enum status st = OK;

	memset(out, 0, sizeof *out);
	for (int32_t l = 0; st == OK && l < c->shape->n_layer; l++)
		st = export_layer(c, l, out, err);
	if (st != OK)
		imatrix_clear(out);
	return st;
}

static enum status import_one(const struct imatrix *m, const char *name, double *sum, int64_t *seen, int32_t experts,
			      int32_t columns, struct err *err)
{
	const struct imatrix_entry *e = imatrix_find(m, name), *k = imatrix_counts(m, name);

	if (!e || !k)
		return err_set(err, ERR_FORMAT, "%s: expected values and counts, found none", name);
	if (e->n != experts * columns || k->n != experts || e->calls < 1)
		return err_set(err, ERR_FORMAT, "%s: expected %d values of %d experts, found %d of %d", name,
			       (int)(experts * columns), (int)experts, (int)e->n, (int)k->n);
	for (int32_t i = 0; i < experts; i++) {
		seen[i] += (int64_t)k->value[i];
		for (int32_t j = 0; j < columns; j++) {
			size_t at = (size_t)i * (size_t)columns + (size_t)j;

			sum[at] += (double)e->value[at] / e->calls * k->value[i];
		}
	}
	return OK;
}

enum status imatrix_import(struct imatrix_collector *c, const struct imatrix *m, struct err *err)
{
	const struct shape *sh = c->shape;

	for (int32_t l = 0; l < sh->n_layer; l++) {
		const struct layer_weights *w = &c->weights->layer[l];
		struct sums *s = &c->layer[l];

		TRY(import_one(m, w->gate_exps.name, s->in, s->seen, sh->experts, sh->d, err));
		TRY(import_one(m, w->down_exps.name, s->hidden, s->seen_down, sh->experts, sh->ff, err));
	}
	c->tokens += imatrix_find(m, c->weights->layer[0].gate_exps.name)->calls;
	return OK;
}

/* ------------------------------------------------------------------ files together */

/* Adds entry f with counts fk to e with counts ek. */
static void combine_counted(struct imatrix_entry *e, struct imatrix_entry *ek, const struct imatrix_entry *f,
			    const struct imatrix_entry *fk)
{
	int32_t calls = calls_of((int64_t)e->calls + f->calls), columns = e->n / ek->n;

	for (int32_t i = 0; i < ek->n; i++) {
		double seen = (double)ek->value[i] + fk->value[i];

		for (int32_t j = 0; j < columns; j++) {
			int32_t at = i * columns + j;
			double sum = 0;

			if (e->calls)
				sum += (double)e->value[at] / e->calls * ek->value[i];
			if (f->calls)
				sum += (double)f->value[at] / f->calls * fk->value[i];
			e->value[at] = seen > 0 ? (float)(sum / seen * calls) : 0;
		}
		ek->value[i] = (float)seen;
	}
	e->calls = calls;
}

static enum status combine_one(struct imatrix *into, const struct imatrix *from, const struct imatrix_entry *f,
			       struct err *err)
{
	const struct imatrix_entry *fk = imatrix_counts(from, f->name), *ek = imatrix_counts(into, f->name);
	bool there = imatrix_find(into, f->name) != NULL;
	char counts[NAME_MAX_BYTES];
	struct imatrix_entry *e = imatrix_add(into, f->name, f->n), *made = NULL;

	if (!e)
		return err_set(err, ERR_FORMAT,
			       "%s: expected %d values, the other importance file has %d: it is of another model",
			       f->name, there ? (int)imatrix_find(into, f->name)->n : (int)f->n, (int)f->n);
	if (there && !ek != !fk)
		return err_set(err, ERR_FORMAT, "%s: one importance file has counts of tokens, the other has none",
			       f->name);
	if (!fk) {	/* plain sums */
		e->calls = calls_of((int64_t)e->calls + f->calls);
		for (int32_t i = 0; i < f->n; i++)
			e->value[i] += f->value[i];
		return OK;
	}
	if (counts_name(counts, f->name))
		made = imatrix_add(into, counts, fk->n);
	if (!made)
		return err_set(err, ERR_FORMAT, "%s: counts of %d experts do not match", f->name, (int)fk->n);
	made->calls = 1;
	combine_counted(imatrix_find(into, f->name), made, f, fk);
	return OK;
}

enum status imatrix_combine(struct imatrix *into, const struct imatrix *from, struct err *err)
{
	for (size_t i = 0; i < from->n; i++)
		if (!is_counts(from->entry[i].name))
			TRY(combine_one(into, from, &from->entry[i], err));
	into->chunks = calls_of((int64_t)into->chunks + from->chunks);
	if ((!into->dataset || !*into->dataset) && from->dataset) {
		mem_free(into->dataset);
		into->dataset = mem_str(from->dataset);
		if (!into->dataset)
			return err_set(err, ERR_MEMORY, "no memory for the dataset's name");
	}
	return OK;
}

/* ------------------------------------------------------------------ coverage */

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

bool imatrix_coverage(const struct imatrix *m, const char *name, struct imatrix_coverage *out)
{
	const struct imatrix_entry *k = imatrix_counts(m, name);
	float *sorted = k ? mem_copy(k->value, (size_t)k->n * sizeof(float)) : NULL;

	if (!sorted)
		return false;
	qsort(sorted, (size_t)k->n, sizeof *sorted, by_value);
	*out = (struct imatrix_coverage){.experts = k->n, .min = (int64_t)sorted[0],
					 .median = (int64_t)sorted[k->n / 2], .max = (int64_t)sorted[k->n - 1]};
	for (int32_t i = 0; i < k->n; i++) {
		out->unseen += sorted[i] == 0;
		out->tokens += (int64_t)sorted[i];
	}
	mem_free(sorted);
	return true;
}
