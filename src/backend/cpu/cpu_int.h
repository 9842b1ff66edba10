/* cpu_int.h - shared by the files of the CPU backend.
 *
 * Rows of activations are float32.  Work is cut by cpu_for(); what a thread computes never depends on the cut.
 * Scratch memory grows to what a step needs and is kept; one slot is in use by at most one operation at a time. */
#ifndef DS4_BACKEND_CPU_CPU_INT_H
#define DS4_BACKEND_CPU_CPU_INT_H

#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/dot.h"
#include "backend/cpu/value.h"
#include "base/thread.h"

#define CPU_EPS 1e-6f

enum cpu_scratch {
	SCRATCH_X,	/* prepared activations */
	SCRATCH_MIX,	/* results between two parts of an operation */
	SCRATCH_PAIRS,	/* experts: what each (row, expert) pair needs */
	SCRATCH_VECTOR,	/* a small weight decoded to float; two at once */
	SCRATCH_VECTOR2,
	SCRATCH_THREAD,	/* per thread */
	SCRATCH_COUNT
};

struct cpu {
	struct backend be;
	struct pool *pool;
	int threads;
	const struct dot_table *dot;
	uint8_t *work;		/* [threads, DOT_WORK] */
	struct {
		void *p;
		size_t bytes;
	} scratch[SCRATCH_COUNT];
};

static inline struct cpu *cpu_of(struct backend *be)
{
	return be->self;
}

/* Cuts `bytes` off the front of a piece of scratch memory, in multiples of 64. */
static inline void *cpu_carve(uint8_t **p, size_t bytes)
{
	void *out = *p;

	*p += (bytes + 63) / 64 * 64;
	return out;
}

/* At least `bytes` bytes, aligned to 64, contents undefined; NULL after be_fail(). */
void *cpu_scratch(struct cpu *c, enum cpu_scratch slot, size_t bytes);

/* Runs fn over 0..n-1; `cost` is the work of one index in multiply-adds.  Little work stays on the caller. */
void cpu_for(struct cpu *c, int64_t n, int64_t cost, void (*fn)(void *ctx, long begin, long end, int thread),
	     void *ctx);

/* All elements of a small weight (F32, F16, BF16) as floats: in place, or decoded into the slot. */
const float *cpu_vector(struct cpu *c, const struct weight *w, enum cpu_scratch slot);

/* ------------------------------------------------------------------ linear.c */

/* n rows of activations as the kernel of `type` reads them.  A row of `width` is seen as `parts` equal parts;
 * the result is [parts, n].  Row i is at x + i * stride.  NULL after be_fail(). */
struct dot_x *cpu_activations(struct cpu *c, const float *x, size_t stride, int32_t n, int32_t width,
                              int32_t parts, enum dtype type);

/* y[i * y_stride + r] = row r of w . x row i; part p of x meets rows p * out/parts.. of w. */
struct linear {
	const struct weight *w;
	const struct dot_x *x;	/* [parts, n] */
	int32_t n, parts;
	float *y;
	size_t y_stride;
};

void cpu_linear(struct cpu *c, const struct linear *l);

/* Rows row0..row1-1 of one matrix of w. */
struct cpu_rows {
	const struct weight *w;
	int32_t matrix, row0, row1;
};

/* These rows times n activation rows, on the calling thread; y[i * y_stride + row - row0]. */
void cpu_matrix(struct cpu *c, const struct cpu_rows *m, const struct dot_x *x, int32_t n, float *y, size_t y_stride,
		int thread);

/* Rounded activations of several rows, one after the other: see dot.h. */
struct cpu_rounded {
	int8_t *q;
	float *d;
	int16_t *sum;
	int32_t *bias;
};

size_t cpu_rounded_bytes(size_t values);
struct cpu_rounded cpu_rounded_carve(uint8_t **memory, size_t values);
/* Rounds n values and puts them at place `at` (a multiple of 32). */
void cpu_round(const struct cpu *c, const struct cpu_rounded *to, size_t at, const float *x, int32_t n, int32_t group);
/* Lets x read what stands at place `at`. */
void cpu_set_rounded(struct dot_x *x, const struct cpu_rounded *r, size_t at);

void cpu_matmul(struct backend *be, int32_t n_rows, struct tensor *y, const struct weight *w,
                const struct tensor *x);
void cpu_grouped_matmul(struct backend *be, const struct step *s, struct tensor *y, const struct weight *w,
			const struct tensor *x, int32_t groups);

/* ------------------------------------------------------------------ rows.c */

void cpu_rms(float *y, const float *x, const float *w, int32_t n); /* y may be x, w may be NULL */
void cpu_rope_table(float cos_sin[64], const float *freq, int32_t pos, bool inverse);	/* 32 cos, 32 sin */
void cpu_rotate(float *tail, const float cos_sin[64]);					/* 64 channels */

/* A row [512] into row i of a group of `count` packed rows, and n rows back (by the caller's map). */
struct packed_rows {
	uint8_t *base;
	int32_t count;
};

void cpu_store_row(struct packed_rows to, int32_t i, const float *x);
void cpu_load_row(const struct cpu *c, struct packed_rows from, int32_t i, float *x);
void cpu_copy_row(struct packed_rows to, int32_t i, struct packed_rows from, int32_t k);
/* Keys [128]: Hadamard transform in place; store; load; round trip of n = 128 m values. */
void cpu_hadamard(float *x);
void cpu_store_key(struct packed_rows to, int32_t i, const float *x);
void cpu_load_key(const struct cpu *c, struct packed_rows from, int32_t i, float *x);
void cpu_round_key(float *x);

void cpu_embed(struct backend *be, const struct step *s, struct tensor *streams, const struct weight *w);
void cpu_hc_in(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
	       const struct tensor *streams, const struct hc_weights *w);
void cpu_hc_in_norm(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
		    const struct tensor *streams, const struct hc_weights *hc, const struct weight *w);
void cpu_hc_out(struct backend *be, const struct step *s, struct tensor *streams, const struct tensor *coef,
		const struct tensor *y);
void cpu_hc_head(struct backend *be, const struct step *s, struct tensor *x, const struct tensor *streams,
		 const struct hc_weights *w);
void cpu_rms_norm(struct backend *be, int32_t n_rows, struct tensor *y, const struct tensor *x,
                  const struct weight *w, int32_t group);
void cpu_rope(struct backend *be, const struct step *s, struct tensor *x, const struct rope_args *a);
void cpu_swiglu(struct backend *be, const struct step *s, struct tensor *h, const struct tensor *g,
		const struct tensor *u, float limit);
void cpu_add(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x);

/* ------------------------------------------------------------------ attn.c */

void cpu_pack_rows(struct backend *be, const struct step *s, struct tensor *fresh, const struct tensor *kv);
void cpu_pool(struct backend *be, const struct step *s, const struct pool_args *a);
void cpu_index_query(struct backend *be, const struct step *s, struct tensor *q, int32_t heads);
void cpu_choose_rows(struct backend *be, const struct step *s, struct tensor *pick, const struct choose_args *a);
void cpu_attend(struct backend *be, const struct step *s, struct tensor *out, const struct attend_args *a);
void cpu_ring_write(struct backend *be, const struct step *s, const struct tensor *fresh,
		    const struct kv_layer *layer);

/* ------------------------------------------------------------------ moe.c */

void cpu_route(struct backend *be, const struct step *s, struct tensor *idx, struct tensor *gate,
	       const struct route_args *a);
void cpu_experts(struct backend *be, const struct step *s, struct tensor *y, const struct expert_args *a);
void cpu_shared_expert(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x,
		       const struct shared_args *a);

/* ------------------------------------------------------------------ small things */

/* Row i of a real tensor; of an integer tensor. */
static inline float *row_of(const struct tensor *t, int32_t i)
{
	return (float *)t->data + (size_t)i * (size_t)t->width;
}

static inline int32_t *int_row(const struct tensor *t, int32_t i)
{
	return (int32_t *)t->data + (size_t)i * (size_t)t->width;
}

/* The packed rows of this step: one group over the whole capacity. */
static inline struct packed_rows fresh_rows(const struct tensor *fresh)
{
	return (struct packed_rows){fresh->data, fresh->rows * fresh->width};
}

static inline float sum_squares(const float *x, int32_t n)
{
	float t[16] = {0}, s = 0;
	int32_t i = 0;

	for (; i + 16 <= n; i += 16)
		for (int k = 0; k < 16; k++)
			t[k] += x[i + k] * x[i + k];
	for (; i < n; i++)
		s += x[i] * x[i];
	for (int half = 8; half; half /= 2)
		for (int k = 0; k < half; k++)
			t[k] += t[k + half];
	return t[0] + s;
}

#endif
