/* backend.h - the machine contract: about 25 operations, one per box in the model's diagram.
 *
 * A step is a list of rows; each row is one token of one timeline at one position.  Every operation works on
 * all T rows of the step.  Most are per row; those that read history (pool, choose_rows, attend, ring_write)
 * look each row's timeline up in the step's table.  Nothing here knows how rows were grouped above.
 *
 * Spans.  Rows of one timeline stand together, at consecutive positions: that run is a span.  Within a step a
 * row sees the rows of its own span through `fresh` (packed rows of this step) and older ones in the ring.
 *
 * Row independence.  On ref and cpu a row's result has the same bits whatever other rows are in the step and
 * however a prompt was cut into steps.
 *
 * Errors.  Operations return nothing.  The backend keeps its first error and be_submit() returns it; after an
 * error the timelines of the step are undefined until reset.  Shape mistakes are our bugs: asserts.
 * Thread: one thread drives a backend; it may use more inside an operation. */
#ifndef DS4_BACKEND_BACKEND_H
#define DS4_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/geom.h"
#include "base/status.h"
#include "quant/dtype.h"

/* ------------------------------------------------------------------ data */

enum tensor_type {
	TENSOR_REAL,	/* the backend's activation type: float64 on ref, float32 elsewhere */
	TENSOR_I32,
	TENSOR_ROWS	/* packed key/value rows, be->row_bytes each; width counts rows */
};

/* Activations in backend memory: [rows, width], row-major.  rows is the capacity T_max. */
struct tensor {
	void *data;
	int32_t rows, width;
	enum tensor_type type;
};

/* A model matrix or vector: [n, out, in], `in` contiguous.  One place for type, shape and bytes. */
struct weight {
	const char *name;
	enum dtype type;
	int32_t in, out, n;	/* vectors: out = n = 1; stacked experts: n matrices */
	size_t row_bytes;	/* bytes of one row of `in` elements */
	const void *data;	/* host mapping */
	void *device;		/* set by weight_load: where the kernels read */
};

/* Numbers of one layer's history, and byte offsets of its parts in a block and in a tail (kv_layout). */
struct kv_layer {
	int32_t ratio;		/* 0, 4, 128 */
	int32_t window;		/* W */
	size_t block_rows;	/* in a block: this layer's compressed rows */
	size_t block_keys;	/* in a block: its indexer keys (ratio 4) */
	size_t tail_ring;	/* in a tail: ring of W packed rows */
	size_t tail_front;	/* in a tail: compressor frontier: kv [slots, pw] reals, then score [slots, pw] */
	size_t tail_front_key;	/* in a tail: the same at indexer width (ratio 4) */
};

/* A group of `count` packed rows (a ring, or a layer's rows in a block) is stored as three arrays:
 *     E4M3 [count, 448]   f16 [count, 64]   E8M0 [count, 7]          583 bytes a row
 * and a group of keys as two:  E2M1 pairs [count, 64]   E8M0 [count, 4]    68 bytes a key
 * (element 2i of a key is the low nibble of byte i).  On ref with wide rows (see be_numerics) a row is
 * 512 and a key 128 float64 instead. */

/* Device addresses of one timeline's state. */
struct be_timeline {
	uint8_t *tail;
	uint8_t **block;	/* [n_block], covering every position of the step */
	int32_t n_block;
};

struct row {
	int32_t token;
	int32_t timeline;	/* index into step.timeline */
	int32_t pos;
	uint8_t wants_logits;
};

struct span {
	int32_t timeline, row0, n, pos0;
};

struct step {
	const struct row *row;			/* [n_rows] */
	int32_t n_rows, n_spans, n_logits;
	const struct span *span;		/* [n_spans], in row order, covering all rows */
	const int32_t *row_span;		/* [n_rows] span of each row */
	const int32_t *logit_row;		/* [n_logits] rows that want logits, in order */
	const struct be_timeline *timeline;
};

/* ------------------------------------------------------------------ operation arguments */

struct hc_weights {		/* one hyper-connection mix; source: spec section 5 */
	const struct weight *fn;	/* [24, S*d], head: [4, S*d] */
	const struct weight *scale;	/* [3], head: [1] */
	const struct weight *base;	/* [24], head: [4] */
	int32_t iterations;		/* Sinkhorn */
};

struct rope_args {
	const float *freq;	/* [32] host table, radians per position */
	int32_t heads, width;	/* x is [T, heads * width]; the last 64 channels of each head turn */
	bool inverse;
};

struct pool_args {
	const struct tensor *kv, *score;	/* [T, pw] projections of this step's tokens; ape not yet added */
	const struct weight *ape;		/* [ratio, pw] */
	const struct weight *norm;		/* [width] */
	const float *freq;			/* [32] */
	const struct kv_layer *layer;
	bool key;				/* false: rows of 512 (E4M3), true: indexer keys of 128 (Hadamard, E2M1) */
};

struct choose_args {
	const struct tensor *q;			/* [T, IH * 128] after index_query */
	const struct tensor *head_weight;	/* [T, IH] indexer.proj x, not yet scaled */
	const struct kv_layer *layer;
	int32_t heads;				/* IH */
	int32_t top_k;				/* K */
};

struct attend_args {
	const struct tensor *q;			/* [T, H * 512] rotated queries */
	const struct tensor *fresh;		/* [T] packed rows of this step */
	const struct tensor *pick;		/* [T, K] i32 chosen rows, NULL = all visible rows */
	const struct weight *sinks;		/* [H] */
	const struct kv_layer *layer;
	int32_t heads, top_k;
};

struct route_args {
	const struct tensor *logits;		/* [T, E] router outputs */
	const struct weight *bias;		/* [E] or NULL */
	const struct weight *table;		/* [V, K] i32: hash-routed layers, else NULL */
	int32_t experts, used;			/* E, K */
	float scale;				/* 1.5 */
};

struct expert_args {
	const struct tensor *x;			/* [T, d] */
	const struct tensor *idx;		/* [T, K] i32 */
	const struct tensor *gate_weight;	/* [T, K] */
	const struct weight *gate, *up, *down;	/* [E, F, d], [E, F, d], [E, d, F] */
	int32_t used;
	float limit;				/* SwiGLU clamp */
};

/* ------------------------------------------------------------------ operations
 *
 * be is the backend, s the step.  Formulas and sections refer to the model specification (docs/model.md). */
struct backend;

#define REQUIRED_OPS(OP)                                                                                  \
	/* streams [T, S*d]: every stream = row `token` of w [V, d].  (4) */                              \
	OP(embed, const struct step *s, struct tensor *streams, const struct weight *w)                   \
	/* coef [T, 24] = pre[4], post[4], C[4][4] from streams; x [T, d] = sum_j pre[j] S[j].  (5) */    \
	OP(hc_in, const struct step *s, struct tensor *x, struct tensor *coef,                            \
	   const struct tensor *streams, const struct hc_weights *w)                                      \
	/* S'[k] = post[k] y + sum_j C[j][k] S[j], in place.  (4) */                                      \
	OP(hc_out, const struct step *s, struct tensor *streams, const struct tensor *coef,               \
	   const struct tensor *y)                                                                        \
	/* x [n_logits, d] = sum_j pre[j] S[j] of the rows that want logits; pre without post and C.  (9) */ \
	OP(hc_head, const struct step *s, struct tensor *x, const struct tensor *streams,                 \
	   const struct hc_weights *w)                                                                    \
	/* y = x / sqrt(mean(x^2) + 1e-6) * w over groups of `group` channels; w [group] or NULL.         \
	 * n_rows rows; y may be x.  (6) */                                                               \
	OP(rms_norm, int32_t n_rows, struct tensor *y, const struct tensor *x, const struct weight *w,    \
	   int32_t group)                                                                                 \
	/* y [n_rows, out] = W x. */                                                                      \
	OP(matmul, int32_t n_rows, struct tensor *y, const struct weight *w, const struct tensor *x)      \
	/* x seen as G groups; group g of y [G * R] = rows gR..gR+R-1 of w times group g of x.  (7.10) */ \
	OP(grouped_matmul, const struct step *s, struct tensor *y, const struct weight *w,                \
	   const struct tensor *x, int32_t groups)                                                        \
	/* Rotates in place at each row's position.  (7.3) */                                             \
	OP(rope, const struct step *s, struct tensor *x, const struct rope_args *a)                       \
	/* fresh [T] = kv [T, 512] packed: 448 channels through E4M3, 64 as f16.  (7.2, 7.4) */           \
	OP(pack_rows, const struct step *s, struct tensor *fresh, const struct tensor *kv)                \
	/* Emits the rows (keys) whose groups end in this step into their blocks, then updates the frontier. (7.5) */ \
	OP(pool, const struct step *s, const struct pool_args *a)                                         \
	/* In place on q [T, heads * 128] (already rotated): Hadamard, then E2M1 round trip.  (7.6) */    \
	OP(index_query, const struct step *s, struct tensor *q, int32_t heads)                            \
	/* pick [T, K]: for rows that see more than K compressed rows, the K best, ascending; other rows'  \
	 * entries are not written.  Ties go to the lower row.  (7.6) */                                  \
	OP(choose_rows, const struct step *s, struct tensor *pick, const struct choose_args *a)           \
	/* out [T, H * 512]: attention with sinks over window and compressed rows; not rotated back. (7.7, 7.8) */ \
	OP(attend, const struct step *s, struct tensor *out, const struct attend_args *a)                 \
	/* Moves the last rows of each span from fresh into the ring.  After attend.  (12) */             \
	OP(ring_write, const struct step *s, const struct tensor *fresh, const struct kv_layer *layer)    \
	/* idx [T, K] i32 and gate [T, K]: experts of each row, best first (or table order).  (8.1-8.3) */\
	OP(route, const struct step *s, struct tensor *idx, struct tensor *gate, const struct route_args *a) \
	/* y [T, d] = sum over the K chosen experts of down(gate weight * swiglu).  (8.4) */              \
	OP(experts, const struct step *s, struct tensor *y, const struct expert_args *a)                  \
	/* h = silu(min(g, limit)) * clamp(u, -limit, limit).  (8.4); h may be g. */                      \
	OP(swiglu, const struct step *s, struct tensor *h, const struct tensor *g, const struct tensor *u, \
	   float limit)                                                                                   \
	/* y += x. */                                                                                     \
	OP(add, const struct step *s, struct tensor *y, const struct tensor *x)

/* Fused operations: each has a default in compose.c built from required ones. */
#define FUSED_OPS(OP)                                                                                     \
	/* hc_in, then rms_norm with w. */                                                                \
	OP(hc_in_norm, const struct step *s, struct tensor *x, struct tensor *coef,                       \
	   const struct tensor *streams, const struct hc_weights *hc, const struct weight *w)             \
	/* y += down(swiglu(gate x, up x)); g, u [T, F] and t [T, d] are work space. */                   \
	OP(shared_expert, const struct step *s, struct tensor *y, const struct tensor *x,                 \
	   const struct shared_args *a)

struct shared_args {
	const struct weight *gate, *up, *down;	/* [F, d], [F, d], [d, F] */
	struct tensor *g, *u, *t;
	float limit;
};

struct ops {
#define OP(name, ...) void (*name)(struct backend * be, __VA_ARGS__);
	REQUIRED_OPS(OP)
	FUSED_OPS(OP)
#undef OP
};

/* What is rounded; all true is the model.  Only ref accepts other settings (diagnostics, comparisons). */
struct be_numerics {
	bool fp8;		/* E4M3 round trip of rows */
	bool fp4;		/* E2M1 round trip of indexer queries and keys */
	bool packed;		/* rows and keys stored packed (rotary part f16); false: float64, nothing else lost */
};

#define BE_NUMERICS_MODEL {.fp8 = true, .fp4 = true, .packed = true}

struct be_options {
	int threads;			/* 0 = choose */
	const char *isa;		/* cpu: "scalar", "avx2", ...; NULL or "auto" = the best there is */
	struct be_numerics numerics;
};

struct backend {
	const char *name;
	const char *kernels;		/* which of its kernels run, where last bits depend on it; NULL: it has one set */
	struct ops ops;
	struct err err;			/* first failure since the last be_submit */
	int failing;			/* set atomically by the thread that writes err */
	struct be_numerics numerics;
	size_t real_bytes;		/* size of an activation */
	size_t row_bytes, key_bytes;	/* stored row and key */
	bool host_memory;		/* what alloc returns may be read and written through the pointer, by any thread */
	void *self;			/* the backend's own state */

	/* Memory.  alloc returns zeroed device memory, aligned to 64 bytes, or NULL. */
	void *(*alloc)(struct backend *be, size_t bytes);
	void (*release)(struct backend *be, void *p);
	void (*upload)(struct backend *be, void *device, const void *host, size_t bytes);
	void (*download)(struct backend *be, void *host, const void *device, size_t bytes);
	void (*copy)(struct backend *be, void *dst, const void *src, size_t bytes);	/* device to device */
	/* Makes a weight usable (sets w->device); ERR_FORMAT if no kernel reads its type. */
	enum status (*weight_load)(struct backend *be, struct weight *w, struct err *err);
	void (*wait)(struct backend *be);	/* finishes queued work */
	/* Optional: bytes that alloc and weight_load can still have, and the device's name; NULL: the machine's memory. */
	uint64_t (*room)(struct backend *be);
	const char *device;
	void (*close)(struct backend *be);
};

#define RUN(be, op, ...) ((be)->ops.op((be), __VA_ARGS__))

/* Opens a backend by name: "ref", "cpu", "cuda".  ERR_NOT_FOUND lists what exists; ERR_ARGUMENT if it cannot do
 * the numerics asked for. */
enum status be_open(struct backend **out, const char *name, const struct be_options *opt, struct err *err);
void be_close(struct backend *be);
const char *be_name(int i);	/* i-th backend that this machine can open, NULL past the end */

/* Waits for the step; returns and clears the first failure. */
enum status be_submit(struct backend *be, struct err *err);

/* Keeps the first failure of a step; for use inside operations, from any thread. */
void be_fail(struct backend *be, enum status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Activation buffers. */
enum status be_tensor(struct backend *be, struct tensor *t, enum tensor_type type, int32_t rows, int32_t width,
		      struct err *err);
void be_tensor_free(struct backend *be, struct tensor *t);
size_t be_tensor_bytes(const struct backend *be, enum tensor_type type, int32_t rows, int32_t width);
/* Rows row0..row0+n-1 of a REAL tensor as float, and back. */
void be_read(struct backend *be, const struct tensor *t, int32_t row0, int32_t n, float *out);
void be_write(struct backend *be, struct tensor *t, int32_t row0, int32_t n, const float *in);

/* Fills the fused operations a backend left NULL (compose.c). */
void be_compose(struct ops *ops);

#endif
