/* forward.c - tokens to logits; attn_block.c and moe_block.c hold the two halves of a layer.
 *
 * What  Builds the step (rows, spans, timelines) from the parts, runs embedding, layers and head as operations of
 *       the backend, and reads the logits back.
 * How   Nothing here depends on how many rows there are or whose they are: decode, prefill and batches are one path.
 * Source: docs/model.md sections 4 and 9. */
#include "model/forward.h"

#include <string.h>

#include "base/mem.h"
#include "model/forward_int.h"

/* All activation buffers: name, type, rows, width.  The only list of them. */
#define WORK_BUFFERS(X)                                                                                     \
	X(streams,    TENSOR_REAL, T, GEOM_STREAMS * s->d)	/* residual streams                       */ \
	X(coef,       TENSOR_REAL, T, GEOM_MIX)			/* pre, post, C of a half layer           */ \
	X(x,          TENSOR_REAL, T, s->d)			/* normed input of a half layer           */ \
	X(y,          TENSOR_REAL, T, s->d)			/* its output                             */ \
	X(q_low,      TENSOR_REAL, T, s->q_rank)		/* low-rank query, the indexer's too      */ \
	X(q,          TENSOR_REAL, T, s->heads * GEOM_HEAD)	/* rotated queries                        */ \
	X(heads,      TENSOR_REAL, T, s->heads * GEOM_HEAD)	/* attention output                       */ \
	X(kv,         TENSOR_REAL, T, GEOM_HEAD)		/* window row before packing              */ \
	X(fresh,      TENSOR_ROWS, T, 1)			/* and after                              */ \
	X(pool_kv,    TENSOR_REAL, T, 2 * GEOM_HEAD)		/* compressor projections                 */ \
	X(pool_score, TENSOR_REAL, T, 2 * GEOM_HEAD)                                                         \
	X(key_kv,     TENSOR_REAL, T, 2 * GEOM_KEY)		/* the indexer's compressor               */ \
	X(key_score,  TENSOR_REAL, T, 2 * GEOM_KEY)                                                          \
	X(index_q,    TENSOR_REAL, T, s->index_heads * GEOM_KEY)                                             \
	X(index_w,    TENSOR_REAL, T, s->index_heads)		/* head weights of the indexer            */ \
	X(pick,       TENSOR_I32,  T, s->index_top_k)		/* compressed rows chosen                 */ \
	X(low,        TENSOR_REAL, T, s->groups * s->o_rank)	/* low-rank output                        */ \
	X(router,     TENSOR_REAL, T, s->experts)		/* router outputs                         */ \
	X(idx,        TENSOR_I32,  T, s->used)			/* experts chosen                         */ \
	X(gate,       TENSOR_REAL, T, s->used)			/* their weights                          */ \
	X(ff_gate,    TENSOR_REAL, T, s->ff)			/* shared expert                          */ \
	X(ff_up,      TENSOR_REAL, T, s->ff)                                                                 \
	X(ff_out,     TENSOR_REAL, T, s->d)                                                                  \
	X(head_x,     TENSOR_REAL, n_logits, s->d)		/* rows that want logits                  */ \
	X(logits,     TENSOR_REAL, n_logits, s->vocab)

size_t forward_work_bytes(const struct backend *be, const struct shape *s, int32_t T, int32_t n_logits)
{
	size_t sum = 0;

#define X(name, type, rows, width) sum += be_tensor_bytes(be, type, rows, width);
	WORK_BUFFERS(X)
#undef X
	return sum;
}

static enum status open_work(struct forward *f, int32_t T, int32_t n_logits, struct err *err)
{
	const struct shape *s = f->shape;

#define X(name, type, rows, width)                                                        \
	TRY(be_tensor(f->be, &f->work.name, type, rows, width, err));
	WORK_BUFFERS(X)
#undef X
	f->row = mem_array((size_t)T, sizeof *f->row);
	f->span = mem_array((size_t)T, sizeof *f->span);
	f->row_span = mem_array((size_t)T, sizeof *f->row_span);
	f->logit_row = mem_array((size_t)n_logits, sizeof *f->logit_row);
	f->timeline = mem_array((size_t)T, sizeof *f->timeline);
	if (!f->row || !f->span || !f->row_span || !f->logit_row || !f->timeline)
		return err_set(err, ERR_MEMORY, "no memory for a step of %d rows", T);
	return OK;
}

enum status forward_open(struct forward **out, struct backend *be, const struct shape *s, const struct weights *w,
			 const struct kv_layout *layout, int32_t max_rows, int32_t max_logits, struct err *err)
{
	struct forward *f = mem_zero(sizeof *f);
	enum status st;

	*out = NULL;
	if (!f)
		return err_set(err, ERR_MEMORY, "no memory for the forward pass");
	f->be = be;
	f->shape = s;
	f->weights = w;
	f->layout = layout;
	f->max_rows = max_rows;
	f->max_logits = max_logits;
	st = open_work(f, max_rows, max_logits, err);
	if (st != OK) {
		forward_close(f);
		return st;
	}
	*out = f;
	return OK;
}

void forward_close(struct forward *f)
{
	if (!f)
		return;
#define X(name, type, rows, width) be_tensor_free(f->be, &f->work.name);
	WORK_BUFFERS(X)
#undef X
	mem_free(f->row);
	mem_free(f->span);
	mem_free(f->row_span);
	mem_free(f->logit_row);
	mem_free(f->timeline);
	mem_free(f);
}

void forward_tap(struct forward *f, const struct tap *tap)
{
	f->tap = tap ? *tap : (struct tap){0};
}

int32_t forward_max_rows(const struct forward *f)
{
	return f->max_rows;
}

int32_t forward_max_logits(const struct forward *f)
{
	return f->max_logits;
}

/* ------------------------------------------------------------------ a step */

/* Checks what callers can get wrong with user input: tokens and sizes. */
static enum status check_parts(const struct forward *f, const struct forward_part *part, int32_t n_parts,
			       struct err *err)
{
	int64_t rows = 0, logits = 0;

	for (int32_t i = 0; i < n_parts; i++) {
		for (int32_t j = 0; j < part[i].n; j++)
			if (part[i].token[j] < 0 || part[i].token[j] >= f->shape->vocab)
				return err_set(err, ERR_ARGUMENT, "token %d is outside the vocabulary 0..%d",
					       part[i].token[j], f->shape->vocab - 1);
		rows += part[i].n;
		logits += part[i].all_logits ? part[i].n : part[i].last_logits;
		if (part[i].n < 1)
			return err_set(err, ERR_ARGUMENT, "a step's part needs at least one token, has %d", part[i].n);
	}
	if (rows > f->max_rows || logits > f->max_logits)
		return err_set(err, ERR_LIMIT, "a step of %lld rows and %lld logits; at most %d and %d fit",
			       (long long)rows, (long long)logits, f->max_rows, f->max_logits);
	return OK;
}

static enum status build_step(struct forward *f, struct step *s, const struct forward_part *part, int32_t n_parts,
			      struct err *err)
{
	int32_t t = 0, logits = 0;

	for (int32_t i = 0; i < n_parts; i++) {
		struct kv *kv = part[i].kv;

		TRY(kv_reserve(kv, kv->len + part[i].n, err));
		f->timeline[i] = kv->dev;
		f->span[i] = (struct span){.timeline = i, .row0 = t, .n = part[i].n, .pos0 = kv->len};
		for (int32_t j = 0; j < part[i].n; j++, t++) {
			bool wants = part[i].all_logits || (part[i].last_logits && j == part[i].n - 1);

			f->row[t] = (struct row){part[i].token[j], i, kv->len + j, wants};
			f->row_span[t] = i;
			if (wants)
				f->logit_row[logits++] = t;
		}
	}
	*s = (struct step){.row = f->row, .n_rows = t, .n_spans = n_parts, .n_logits = logits, .span = f->span,
			   .row_span = f->row_span, .logit_row = f->logit_row, .timeline = f->timeline};
	return OK;
}

void forward_observe(struct forward *f, enum tap_point at, int32_t layer, struct tensor *t, const struct step *s)
{
	if (f->tap.fn)
		f->tap.fn(f->tap.ctx, at, layer, f->be, t, s);
}

static struct hc_weights head_mix(const struct forward *f)
{
	const struct hc_triple *h = &f->weights->hc_head;

	return (struct hc_weights){.fn = &h->fn, .scale = &h->scale, .base = &h->base};
}

static void head(struct forward *f, const struct step *s)
{
	struct work *k = &f->work;
	struct hc_weights hc = head_mix(f);

	if (!s->n_logits)
		return;
	RUN(f->be, hc_head, s, &k->head_x, &k->streams, &hc);
	RUN(f->be, rms_norm, s->n_logits, &k->head_x, &k->head_x, &f->weights->output_norm, f->shape->d);
	RUN(f->be, matmul, s->n_logits, &k->logits, &f->weights->output, &k->head_x);
}

/* A damaged weight shows as NaN or infinity in every logit: an exponent of ones.  Integers, because a float sum of 130,000
 * terms is one long chain of additions. */
static enum status check_logits(const float *logits, size_t n, const struct step *s, struct err *err)
{
	uint32_t bad = 0;

	for (size_t i = 0; i < n; i++) {
		uint32_t u;

		memcpy(&u, &logits[i], sizeof u);
		bad |= (u & 0x7F800000u) + 0x00800000u;
	}
	if (bad >> 31)
		return err_set(err, ERR_FORMAT,
			       "the logits at position %d are not finite numbers: a tensor of the model file is damaged",
			       s->row[s->logit_row[0]].pos);
	return OK;
}

enum status forward_step(struct forward *f, const struct forward_part *part, int32_t n_parts, float *logits,
			 const volatile int *cancel, struct err *err)
{
	struct step s;
	enum status st;

	TRY(check_parts(f, part, n_parts, err));
	TRY(build_step(f, &s, part, n_parts, err));
	RUN(f->be, embed, &s, &f->work.streams, &f->weights->embed);
	for (int32_t l = 0; l < f->shape->n_layer; l++) {
		if (cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED)) {
			st = be_submit(f->be, err);
			return st != OK ? st : err_set(err, ERR_CANCELLED, "cancelled in layer %d", l);
		}
		attn_block(f, &s, l);
		moe_block(f, &s, l);
	}
	head(f, &s);
	TRY(be_submit(f->be, err));
	if (s.n_logits) {
		be_read(f->be, &f->work.logits, 0, s.n_logits, logits);
		TRY(check_logits(logits, (size_t)s.n_logits * (size_t)f->shape->vocab, &s, err));
	}
	for (int32_t i = 0; i < n_parts; i++)
		kv_advance(part[i].kv, part[i].n);
	return OK;
}
