/* linear.c - weight matrices times rows of activations.
 *
 * What  y = W x for a step's rows, plain and grouped; preparing activations (rounding them to int8 where the
 *       weight type wants that).
 * Why   Nine tenths of a token's time is here: at one row every weight byte is read once, at many rows each
 *       expanded block serves up to 32 of them.
 * How   The output rows of a matrix are dealt to the threads in units of 16.  Instruction sets that expand weights
 *       take a thread's share in one call, or for many rows pieces of 128 by 512; for the others it walks its weight
 *       rows in chunks and, for each chunk, the activations in tiles of 32, so the chunk's blocks stay in its cache.
 * Careful
 *       - Each (weight row, activation row) is one call of one kernel: units, chunks and tiles never change a
 *         sum.
 *       - y may not overlap x. */
#include "backend/cpu/cpu_int.h"

#include <assert.h>

enum {
	UNIT = 16,	/* weight rows: the smallest piece of work where rows are done in strips */
	FLOAT_UNIT = 4,	/* and for float types */
	CHUNK = 32,	/* weight rows that are used for all tiles before going on */
	TILED = 128,	/* many activation rows: pieces of so many weight rows */
	BLOCK = 512	/* by so many activation rows: what is expanded pays, and a thread's share is not thin */
};

struct prepare {
	struct cpu *c;
	const float *x;
	size_t stride;
	int32_t width, group;
	struct cpu_rounded to;
};

size_t cpu_rounded_bytes(size_t values)
{
	return 4 * 64 + values + values / 32 * (sizeof(float) + sizeof(int32_t)) + values / 16 * sizeof(int16_t);
}

struct cpu_rounded cpu_rounded_carve(uint8_t **memory, size_t values)
{
	struct cpu_rounded r;

	r.q = cpu_carve(memory, values);
	r.d = cpu_carve(memory, values / 32 * sizeof *r.d);
	r.sum = cpu_carve(memory, values / 16 * sizeof *r.sum);
	r.bias = cpu_carve(memory, values / 32 * sizeof *r.bias);
	return r;
}

void cpu_round(const struct cpu *c, const struct cpu_rounded *to, size_t at, const float *x, int32_t n, int32_t group)
{
	c->dot->quantise(to->q + at, to->d + at / 32, to->sum + at / 16, x, n, group);
	dot_bias(to->bias + at / 32, to->sum + at / 16, n);
}

void cpu_set_rounded(struct dot_x *x, const struct cpu_rounded *r, size_t at)
{
	x->q = r->q + at;
	x->d = r->d + at / 32;
	x->sum = r->sum + at / 16;
	x->bias = r->bias + at / 32;
}

static void prepare_rows(void *ctx, long begin, long end, int thread)
{
	const struct prepare *p = ctx;

	(void)thread;
	for (long i = begin; i < end; i++)
		cpu_round(p->c, &p->to, (size_t)i * (size_t)p->width, p->x + (size_t)i * p->stride, p->width, p->group);
}

struct dot_x *cpu_activations(struct cpu *c, const float *x, size_t stride, int32_t n, int32_t width,
                              int32_t parts, enum dtype type)
{
	const size_t w = (size_t)width, rows = (size_t)n, step = w / (size_t)parts;
	const bool rounds = dot_rounds(type);
	struct prepare p = {.c = c, .x = x, .stride = stride, .width = width, .group = dot_group(type)};
	struct dot_x *out;
	uint8_t *memory;

	assert(width % parts == 0 && (!rounds || step % (size_t)p.group == 0));
	memory = cpu_scratch(c, SCRATCH_X, 64 + rows * (size_t)parts * sizeof *out + (rounds ? cpu_rounded_bytes(rows * w) : 0));
	if (!memory)
		return NULL;
	out = cpu_carve(&memory, rows * (size_t)parts * sizeof *out);
	if (rounds) {
		p.to = cpu_rounded_carve(&memory, rows * w);
		cpu_for(c, n, 2 * (int64_t)width, prepare_rows, &p);
	}
	for (size_t part = 0; part < (size_t)parts; part++)
		for (size_t i = 0; i < rows; i++) {
			struct dot_x *v = &out[part * rows + i];

			*v = (struct dot_x){.f = x + i * stride + part * step};
			if (rounds)
				cpu_set_rounded(v, &p.to, i * w + part * step);
		}
	return out;
}

void cpu_matrix(struct cpu *c, const struct cpu_rows *m, const struct dot_x *x, int32_t n, float *y, size_t y_stride,
		int thread)
{
	const struct weight *w = m->w;
	struct dot_job j = {.row_bytes = w->row_bytes, .in = w->in, .y_stride = y_stride};
	const uint8_t *matrix = (const uint8_t *)w->device + (size_t)m->matrix * (size_t)w->out * w->row_bytes;
	const bool whole = n == 1 || c->dot->many;
	const int32_t chunk = whole || n <= DOT_TILE ? m->row1 - m->row0 : CHUNK, tile = whole ? n : DOT_TILE;

	j.work = c->work + (size_t)thread * DOT_WORK;
	for (int32_t r = m->row0; r < m->row1; r += chunk) {
		j.w = matrix + (size_t)r * w->row_bytes;
		j.rows = m->row1 - r < chunk ? m->row1 - r : chunk;
		for (int32_t i = 0; i < n; i += tile) {
			j.x = x + i;
			j.n = n - i < tile ? n - i : tile;
			j.y = y + (size_t)i * y_stride + (size_t)(r - m->row0);
			c->dot->matrix[w->type](&j);
		}
	}
}

struct linear_run {
	struct cpu *c;
	const struct linear *l;
	int32_t unit;		/* weight rows in a unit of work */
	int32_t rows, block;	/* weight rows and activation rows in a tile */
};

/* Weight rows r..stop-1 times activation rows i0..i0+n-1. */
static void linear_rows(const struct linear_run *run, int32_t r, int32_t stop, int32_t i0, int32_t n, int thread)
{
	const struct linear *l = run->l;
	const int32_t per_part = l->w->out * l->w->n / l->parts;

	while (r < stop) {
		int32_t part = r / per_part, last = (part + 1) * per_part;

		if (last > stop)
			last = stop;
		cpu_matrix(run->c, &(struct cpu_rows){l->w, 0, r, last}, l->x + (size_t)part * (size_t)l->n + i0, n,
			   l->y + (size_t)i0 * l->y_stride + r, l->y_stride, thread);
		r = last;
	}
}

static void linear_units(void *ctx, long begin, long end, int thread)
{
	const struct linear_run *run = ctx;
	const int32_t out = run->l->w->out * run->l->w->n;

	linear_rows(run, (int32_t)begin * run->unit, end * run->unit < out ? (int32_t)end * run->unit : out, 0, run->l->n,
		    thread);
}

/* Units of `rows` by `block`, the blocks of one piece of the matrix one after the other. */
static void linear_tiles(void *ctx, long begin, long end, int thread)
{
	const struct linear_run *run = ctx;
	const struct linear *l = run->l;
	const int32_t out = l->w->out * l->w->n, blocks = (l->n + run->block - 1) / run->block;

	for (long u = begin; u < end; u++) {
		int32_t r = (int32_t)(u / blocks) * run->rows, i0 = (int32_t)(u % blocks) * run->block;
		int32_t n = l->n - i0 < run->block ? l->n - i0 : run->block;

		linear_rows(run, r, out - r < run->rows ? out : r + run->rows, i0, n, thread);
	}
}

void cpu_linear(struct cpu *c, const struct linear *l)
{
	struct linear_run run = {.c = c, .l = l, .unit = dot_rounds(l->w->type) ? UNIT : FLOAT_UNIT};
	const int32_t out = l->w->out * l->w->n;
	int64_t units;

	if (l->n <= 0)
		return;
	if (l->n < 4 * TILED || !c->dot->many) {
		cpu_for(c, (out + run.unit - 1) / run.unit, (int64_t)run.unit * l->w->in * l->n, linear_units, &run);
		return;
	}
	run.rows = TILED;
	run.block = l->n < BLOCK ? l->n : BLOCK;
	for (;;) {	/* smaller pieces where threads would be idle */
		units = (int64_t)((out + run.rows - 1) / run.rows) * ((l->n + run.block - 1) / run.block);
		if (units >= 4 * c->threads || (run.rows <= 2 * UNIT && run.block <= TILED))
			break;
		if (run.block > TILED)
			run.block /= 2;
		else
			run.rows /= 2;
	}
	cpu_for(c, units, (int64_t)run.rows * run.block * l->w->in, linear_tiles, &run);
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
