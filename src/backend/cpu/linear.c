/* linear.c - weight matrices times rows of activations.
 *
 * What  y = W x for a step's rows, plain and grouped; preparing activations (rounding them to int8 where the
 *       weight type wants that).
 * Why   Nine tenths of a token's time is here: at one row every weight byte is read once, at many rows each
 *       expanded block serves up to 32 of them.
 * How   The output rows of a matrix are dealt to the threads in units of 8.  A thread walks its weight rows in
 *       chunks and, for each chunk, the activations in tiles of 32, so the chunk's blocks stay in its cache.
 * Careful
 *       - Each (weight row, activation row) is one call of one kernel: units, chunks and tiles never change a
 *         sum.
 *       - y may not overlap x. */
#include "backend/cpu/cpu_int.h"

#include <assert.h>

enum {
	UNIT = 8,	/* weight rows: the smallest piece of work */
	CHUNK = 32	/* weight rows that are used for all tiles before going on */
};

struct prepare {
	struct cpu *c;
	const float *x;
	size_t stride;
	int32_t width;
	int8_t *q;
	float *d;
	int16_t *sum;
};

static void prepare_rows(void *ctx, long begin, long end, int thread)
{
	const struct prepare *p = ctx;
	size_t w = (size_t)p->width;

	(void)thread;
	for (long i = begin; i < end; i++)
		p->c->dot->quantise(p->q + (size_t)i * w, p->d + (size_t)i * (w / 32),
		                    p->sum + (size_t)i * (w / 16), p->x + (size_t)i * p->stride, p->width);
}

struct dot_x *cpu_activations(struct cpu *c, const float *x, size_t stride, int32_t n, int32_t width,
                              int32_t parts, enum dtype type)
{
	const size_t w = (size_t)width, rows = (size_t)n, step = w / (size_t)parts;
	const bool rounds = dot_rounds(type);
	struct prepare p = {.c = c, .x = x, .stride = stride, .width = width};
	struct dot_x *out;
	uint8_t *memory;

	assert(width % parts == 0 && (!rounds || step % 32 == 0));
	memory = cpu_scratch(c, SCRATCH_X, 4 * 64 + rows * (size_t)parts * sizeof *out +
			     (rounds ? rows * (w + w / 32 * sizeof *p.d + w / 16 * sizeof *p.sum) : 0));
	if (!memory)
		return NULL;
	out = cpu_carve(&memory, rows * (size_t)parts * sizeof *out);
	if (rounds) {
		p.q = cpu_carve(&memory, rows * w);
		p.d = cpu_carve(&memory, rows * (w / 32) * sizeof *p.d);
		p.sum = cpu_carve(&memory, rows * (w / 16) * sizeof *p.sum);
		cpu_for(c, n, 2 * (int64_t)width, prepare_rows, &p);
	}
	for (size_t part = 0; part < (size_t)parts; part++)
		for (size_t i = 0; i < rows; i++) {
			struct dot_x *v = &out[part * rows + i];

			*v = (struct dot_x){.f = x + i * stride + part * step};
			if (rounds) {
				v->q = p.q + i * w + part * step;
				v->d = p.d + (i * w + part * step) / 32;
				v->sum = p.sum + (i * w + part * step) / 16;
			}
		}
	return out;
}

void cpu_matrix(struct cpu *c, const struct weight *w, int32_t m, int32_t row0, int32_t row1,
                const struct dot_x *x, int32_t n, float *y, size_t y_stride)
{
	struct dot_job j = {.row_bytes = w->row_bytes, .in = w->in, .y_stride = y_stride};
	const uint8_t *matrix = (const uint8_t *)w->device + (size_t)m * (size_t)w->out * w->row_bytes;
	const int32_t chunk = n <= DOT_TILE ? row1 - row0 : CHUNK;

	for (int32_t r = row0; r < row1; r += chunk) {
		j.w = matrix + (size_t)r * w->row_bytes;
		j.rows = row1 - r < chunk ? row1 - r : chunk;
		for (int32_t i = 0; i < n; i += DOT_TILE) {
			j.x = x + i;
			j.n = n - i < DOT_TILE ? n - i : DOT_TILE;
			j.y = y + (size_t)i * y_stride + (size_t)(r - row0);
			c->dot->matrix[w->type](&j);
		}
	}
}

struct linear_run {
	struct cpu *c;
	const struct linear *l;
};

static void linear_units(void *ctx, long begin, long end, int thread)
{
	const struct linear_run *run = ctx;
	const struct linear *l = run->l;
	const int32_t out = l->w->out * l->w->n, per_part = out / l->parts;
	int32_t r = (int32_t)begin * UNIT, stop = end * UNIT < out ? (int32_t)end * UNIT : out;

	(void)thread;
	while (r < stop) {
		int32_t part = r / per_part, last = (part + 1) * per_part;

		if (last > stop)
			last = stop;
		cpu_matrix(run->c, l->w, 0, r, last, l->x + (size_t)part * (size_t)l->n, l->n, l->y + r,
		           l->y_stride);
		r = last;
	}
}

void cpu_linear(struct cpu *c, const struct linear *l)
{
	struct linear_run run = {c, l};
	const int32_t out = l->w->out * l->w->n;

	if (l->n > 0)
		cpu_for(c, (out + UNIT - 1) / UNIT, (int64_t)UNIT * l->w->in * l->n, linear_units, &run);
}

void cpu_matmul(struct backend *be, int32_t n_rows, struct tensor *y, const struct weight *w,
                const struct tensor *x)
{
	struct cpu *c = cpu_of(be);
	struct linear l = {.w = w, .n = n_rows, .parts = 1, .y = y->data, .y_stride = (size_t)y->width};

	assert(x->width >= w->in && y->width >= w->out * w->n && n_rows <= x->rows && n_rows <= y->rows);
	l.x = cpu_activations(c, x->data, (size_t)x->width, n_rows, w->in, 1, w->type);
	if (l.x)
		cpu_linear(c, &l);
}

void cpu_grouped_matmul(struct backend *be, const struct step *s, struct tensor *y, const struct weight *w,
			const struct tensor *x, int32_t groups)
{
	struct cpu *c = cpu_of(be);
	struct linear l = {.w = w, .n = s->n_rows, .parts = groups, .y = y->data, .y_stride = (size_t)y->width};

	assert(x->width >= w->in * groups && y->width >= w->out * w->n && w->out * w->n % groups == 0);
	l.x = cpu_activations(c, x->data, (size_t)x->width, s->n_rows, w->in * groups, groups, w->type);
	if (l.x)
		cpu_linear(c, &l);
}
