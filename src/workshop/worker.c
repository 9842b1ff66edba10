/* worker.c - converts one tensor at a time on all threads.
 *
 * What  A tensor is cut into chunks of whole rows.  A thread takes the next chunk, reads and decodes it,
 *       encodes it, writes it to its place and notes the checksum of its bytes; the tensor's checksum is
 *       that of the list of those.
 * Why   One tensor at a time keeps the journal simple and the disk's head still; within it there is work
 *       for any number of threads.  What a chunk becomes depends on nothing but the chunk, so neither does
 *       the file on the threads.
 * How   parallel_for starts each thread once; they draw numbers from a counter.
 * Careful
 *       - IQ2_XXS without importance weights a column by the sum of its squares over all rows of the piece:
 *         then a thread takes a whole piece and reads it twice, still in chunks.
 *       - The first error by chunk number is reported, not the first in time. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <pthread.h>

#include "base/mem.h"
#include "base/thread.h"
#include "quant/encode.h"
#include "workshop/quantize_int.h"

struct scratch {
	float *x;		/* [rows, cols] of a chunk */
	uint8_t *raw, *out;
	float *column;		/* [cols] */
	double *square;		/* [cols] */
};

struct worker_pool {
	struct quantize *q;
	struct output *o;
	struct pool *pool;
	struct scratch *scratch;	/* [threads] */
	int threads;

	/* the tensor in work */
	const struct target *t;
	struct chunks cut;
	uint64_t at;			/* of the tensor in the file */
	uint64_t step;			/* chunks of a unit of work: 1, or a piece's */
	bool verify;
	struct hash128 *sum;		/* [chunks] */
	size_t sum_room;
	uint64_t done, total;		/* bytes of source, for progress */
	atomic_uint_least64_t next, finished;
	atomic_int stop;
	pthread_mutex_t mutex;		/* the error below */
	struct err err;
	uint64_t err_unit;
};

struct chunks chunks_of(const struct target *t)
{
	struct chunks c;

	c.rows = CHUNK_ELEMENTS / t->cols;
	if (c.rows < 1)
		c.rows = 1;
	if (c.rows > t->rows)
		c.rows = t->rows;
	c.per_piece = (t->rows + c.rows - 1) / c.rows;
	c.n = c.per_piece * t->n_pieces;
	return c;
}

static uint64_t rows_of(const struct target *t, const struct chunks *c, uint64_t chunk)
{
	uint64_t row0 = chunk % c->per_piece * c->rows;

	return t->rows - row0 < c->rows ? t->rows - row0 : c->rows;
}

const float *importance_of(const struct quantize *q, const struct target *t, size_t piece)
{
	const struct imatrix_entry *e = q->imatrix.n ? imatrix_find(&q->imatrix, t->name) : NULL;
	const float *v;

	if (!e || t->copy || t->integer || dtype_info(t->type)->block_elements == 1)
		return NULL;
	v = e->value + ((uint64_t)e->n == t->cols ? 0 : piece * t->cols);
	for (uint64_t i = 0; i < t->cols; i++)
		if (v[i] > 0)
			return v;
	return NULL;		/* an expert that was never used */
}

static bool needs_columns(const struct quantize *q, const struct target *t)
{
	if (t->copy || t->type != DTYPE_IQ2_XXS)
		return false;
	for (size_t i = 0; i < t->n_pieces; i++)
		if (!importance_of(q, t, i))
			return true;
	return false;
}

/* ------------------------------------------------------------------ memory */

struct need {
	size_t x, raw, out, cols;
};

static struct need need_of(const struct quantize *q)
{
	struct need n = {0};

	for (size_t i = 0; i < q->plan.n; i++) {
		const struct target *t = &q->plan.t[i];
		struct chunks c = chunks_of(t);
		size_t elements = (size_t)(c.rows * t->cols), raw = piece_scratch(t, c.rows);
		size_t out = dtype_bytes(t->type, elements);

		n.out = out > n.out ? out : n.out;
		if (t->copy)
			continue;
		n.x = elements > n.x ? elements : n.x;
		n.raw = raw > n.raw ? raw : n.raw;
		n.cols = t->cols > n.cols ? (size_t)t->cols : n.cols;
	}
	return n;
}

size_t thread_bytes(const struct quantize *q)
{
	struct need n = need_of(q);

	return n.x * sizeof(float) + n.raw + n.out + n.cols * (sizeof(float) + sizeof(double));
}

void worker_pool_close(struct worker_pool *w)
{
	if (!w)
		return;
	pool_close(w->pool);
	for (int i = 0; w->scratch && i < w->threads; i++) {
		mem_free(w->scratch[i].x);
		mem_free(w->scratch[i].raw);
		mem_free(w->scratch[i].out);
		mem_free(w->scratch[i].column);
		mem_free(w->scratch[i].square);
	}
	mem_free(w->scratch);
	mem_free(w->sum);
	pthread_mutex_destroy(&w->mutex);
	mem_free(w);
}

enum status worker_pool_open(struct worker_pool **out, struct quantize *q, struct output *o, struct err *err)
{
	struct worker_pool *w = mem_zero(sizeof *w);
	struct need n = need_of(q);
	enum status st = OK;

	*out = NULL;
	if (!w)
		return err_set(err, ERR_MEMORY, "no memory for the threads");
	pthread_mutex_init(&w->mutex, NULL);
	w->q = q;
	w->o = o;
	w->threads = q->report.threads;
	w->scratch = mem_array((size_t)w->threads, sizeof *w->scratch);
	for (int i = 0; w->scratch && i < w->threads; i++) {
		struct scratch *s = &w->scratch[i];

		s->x = mem_alloc(n.x * sizeof *s->x + 1);
		s->raw = mem_alloc(n.raw + 1);
		s->out = mem_alloc(n.out + 1);
		s->column = mem_alloc(n.cols * sizeof *s->column + 1);
		s->square = mem_alloc(n.cols * sizeof *s->square + 1);
		if (!s->x || !s->raw || !s->out || !s->column || !s->square)
			st = err_set(err, ERR_MEMORY,
			             "no memory for %d threads of %zu bytes each; try fewer threads",
			             w->threads, thread_bytes(q));
	}
	if (st == OK && !w->scratch)
		st = err_set(err, ERR_MEMORY, "no memory for %d threads", w->threads);
	if (st == OK)
		st = pool_open(&w->pool, w->threads, err);
	if (st == OK)
		*out = w;
	else
		worker_pool_close(w);
	return st;
}

/* ------------------------------------------------------------------ one chunk */

static uint64_t place_of(const struct worker_pool *w, uint64_t chunk)
{
	const struct target *t = w->t;
	uint64_t piece = chunk / w->cut.per_piece, row0 = chunk % w->cut.per_piece * w->cut.rows;

	return w->at + dtype_bytes(t->type, (piece * t->rows + row0) * t->cols);
}

static enum status read_chunk(struct worker_pool *w, struct scratch *s, uint64_t chunk, struct err *err)
{
	return piece_read(s->x, w->q->checkpoint, w->t, (size_t)(chunk / w->cut.per_piece),
			  chunk % w->cut.per_piece * w->cut.rows, rows_of(w->t, &w->cut, chunk), s->raw, err);
}

static enum status convert_chunk(struct worker_pool *w, struct scratch *s, uint64_t chunk, const float *column,
				 struct err *err)
{
	const struct target *t = w->t;
	uint64_t rows = rows_of(t, &w->cut, chunk), row0 = chunk % w->cut.per_piece * w->cut.rows;
	size_t n = (size_t)(rows * t->cols), bytes = dtype_bytes(t->type, n),
	       row = dtype_bytes(t->type, t->cols), bad;
	const void *from = s->out;

	if (t->copy) {
		from = t->piece[chunk / w->cut.per_piece].data + row0 * row;
	} else {
		TRY(read_chunk(w, s, chunk, err));
		bad = encode_fits(s->x, t->type, n);
		if (bad < n)
			return err_set(err, ERR_FORMAT,
			               "%s: row %zu, column %zu: %g is more than %s can hold", t->name,
			               (size_t)row0 + bad / t->cols, bad % t->cols, (double)s->x[bad],
			               dtype_info(t->type)->name);
		for (uint64_t r = 0; r < rows; r++)
			quant_encode(s->out + r * row, s->x + r * t->cols, column, t->type, t->cols);
	}
	w->sum[chunk] = hash128(from, bytes);
	return output_write(w->o, place_of(w, chunk), from, bytes, err);
}

static enum status verify_chunk(struct worker_pool *w, struct scratch *s, uint64_t chunk, struct err *err)
{
	size_t bytes = dtype_bytes(w->t->type, (size_t)(rows_of(w->t, &w->cut, chunk) * w->t->cols));

	TRY(output_read(w->o, place_of(w, chunk), s->out, bytes, err));
	w->sum[chunk] = hash128(s->out, bytes);
	return OK;
}

/* Sum of squares of each column over the rows of a piece. */
static enum status sum_columns(struct worker_pool *w, struct scratch *s, uint64_t piece, struct err *err)
{
	const struct target *t = w->t;

	memset(s->square, 0, (size_t)t->cols * sizeof *s->square);
	for (uint64_t k = 0; k < w->cut.per_piece; k++) {
		uint64_t chunk = piece * w->cut.per_piece + k, rows = rows_of(t, &w->cut, chunk);

		TRY(read_chunk(w, s, chunk, err));
		for (uint64_t r = 0; r < rows; r++)
			for (uint64_t c = 0; c < t->cols; c++)
				s->square[c] += (double)s->x[r * t->cols + c] * s->x[r * t->cols + c];
	}
	for (uint64_t c = 0; c < t->cols; c++)
		s->column[c] = (float)fmin(s->square[c], 1e30);
	return OK;
}

/* Chunks [unit * step, (unit + 1) * step). */
static enum status do_unit(struct worker_pool *w, struct scratch *s, uint64_t unit, struct err *err)
{
	size_t piece = (size_t)(unit * w->step / w->cut.per_piece);
	const float *column = w->verify ? NULL : importance_of(w->q, w->t, piece);

	if (!w->verify && !column && needs_columns(w->q, w->t)) {
		TRY(sum_columns(w, s, piece, err));
		column = s->column;
	}
	for (uint64_t c = unit * w->step; c < (unit + 1) * w->step; c++)
		TRY(w->verify ? verify_chunk(w, s, c, err) : convert_chunk(w, s, c, column, err));
	return OK;
}

/* ------------------------------------------------------------------ one tensor */

static void fail(struct worker_pool *w, uint64_t unit, const struct err *err)
{
	pthread_mutex_lock(&w->mutex);
	if (unit < w->err_unit) {
		w->err = *err;
		w->err_unit = unit;
	}
	pthread_mutex_unlock(&w->mutex);
	atomic_store(&w->stop, 1);
}

static bool cancelled(const struct worker_pool *w)
{
	return w->q->opt.cancel && *w->q->opt.cancel;
}

static void report_progress(struct worker_pool *w, uint64_t units)
{
	struct quantize_progress p = {.total = w->total, .tensor = w->t->name, .checking = w->verify};

	if (!w->q->opt.progress)
		return;
	p.done = w->done +
	         (uint64_t)((double)w->t->source_bytes * (double)atomic_load(&w->finished) / (double)units);
	w->q->opt.progress(w->q->opt.ctx, &p);
}

static void thread_main(void *ctx, long begin, long end, int thread)
{
	struct worker_pool *w = ctx;
	struct scratch *s = &w->scratch[thread];
	uint64_t units = w->cut.n / w->step, unit;
	struct err err;

	(void)begin;
	(void)end;
	while (!atomic_load(&w->stop) && (unit = atomic_fetch_add(&w->next, 1)) < units) {
		if (do_unit(w, s, unit, &err) != OK) {
			fail(w, unit, &err);
			break;
		}
		atomic_fetch_add(&w->finished, 1);
		if (thread == 0) {	/* the caller's flag and callback are its thread's alone */
			report_progress(w, units);
			if (cancelled(w))
				atomic_store(&w->stop, 1);
		}
	}
}

/* The mapped pages of a source that was copied are not needed again. */
static void release_pages(const struct target *t)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)t->piece[0].data, to;

	if (t->piece[0].coding != CODING_GGUF)
		return;
	to = (from + t->source_bytes) / page * page;
	from = (from + page - 1) / page * page;
	if (to > from)
		madvise((void *)from, to - from, MADV_DONTNEED);
}

enum status worker_pool_run(struct worker_pool *w, size_t tensor, bool verify, uint64_t done, uint64_t total,
			    struct hash128 *sum, struct err *err)
{
	void *grown;

	w->t = &w->q->plan.t[tensor];
	w->cut = chunks_of(w->t);
	w->at = w->q->head.len + gguf_offset(w->q->builder, tensor);
	w->verify = verify;
	w->step = !verify && needs_columns(w->q, w->t) ? w->cut.per_piece : 1;
	w->done = done;
	w->total = total;
	w->err_unit = UINT64_MAX;
	if (w->sum_room < w->cut.n) {
		grown = mem_grow(w->sum, (size_t)w->cut.n, sizeof *w->sum);
		if (!grown)
			return err_set(err, ERR_MEMORY, "%s: no memory for its checksums", w->t->name);
		w->sum = grown;
		w->sum_room = (size_t)w->cut.n;
	}
	atomic_store(&w->next, 0);
	atomic_store(&w->finished, 0);
	atomic_store(&w->stop, 0);
	parallel_for(w->pool, w->threads, thread_main, w);
	if (w->err_unit != UINT64_MAX) {
		*err = w->err;
		return err->code;
	}
	if (cancelled(w))
		return err_set(err, ERR_CANCELLED, "stopped; the same command continues");
	release_pages(w->t);
	*sum = hash128(w->sum, (size_t)w->cut.n * sizeof *w->sum);
	return OK;
}
