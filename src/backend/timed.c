/* timed.c - the measuring wrapper of timed.h.
 *
 * What  One function per operation of backend.h: note the clock, run the inner backend's operation, wait for it, add
 *       time and cost to the row of (operation, weight types).
 * Why   A speed problem is found by the operation that is far from what the machine can do.  The forward pass and the
 *       backends stay free of clocks.
 * How   The wrapper is a struct backend of its own; memory calls go straight through, so tensors made with either are
 *       the same.
 * Careful
 *       - Costs come from arguments and, for routed experts, from the chosen numbers in idx: read after the operation
 *         has been timed.
 *       - A fused operation is one row: what the inner backend runs inside it does not pass here.
 *       - Errors stay with the inner backend until wait, then move to the wrapper, where be_submit() looks. */
#include "backend/timed.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

struct timed {
	struct backend be;
	struct backend *inner;
	bool on;
	int n_rows;
	struct timed_row row[TIMED_MAX_ROWS];
};

struct cost {
	enum dtype type[2];
	double weight_bytes, history_bytes, ops;
};

static const struct cost no_cost = {.type = {DTYPE_COUNT, DTYPE_COUNT}};

/* ------------------------------------------------------------------ recording */

static double start(const struct timed *t)
{
	return t->on ? clock_seconds() : 0;
}

/* Finishes the operation; its seconds. */
static double stop(struct timed *t, double since)
{
	if (t->inner->wait)
		t->inner->wait(t->inner);
	return clock_seconds() - since;
}

static void add(struct timed *t, const char *op, double seconds, struct cost c)
{
	struct timed_row *r = t->row, *end = t->row + t->n_rows;

	while (r < end && !(r->op == op && r->type[0] == c.type[0] && r->type[1] == c.type[1]))
		r++;
	if (r == end) {
		if (t->n_rows == TIMED_MAX_ROWS)	/* the last row collects what is too many */
			r--;
		else
			t->n_rows++;
		r->op = op;
		memcpy(r->type, c.type, sizeof r->type);
	}
	r->calls++;
	r->seconds += seconds;
	r->weight_bytes += c.weight_bytes;
	r->history_bytes += c.history_bytes;
	r->ops += c.ops;
}

/* Names of operations, compared by address: one object each. */
#define OP(name, ...) static const char name_##name[] = #name;
REQUIRED_OPS(OP)
FUSED_OPS(OP)
#undef OP

#define MEASURE(be, op, cost_of_it, ...)                               \
	do {                                                           \
		struct timed *t_ = (be)->self;                         \
		double since_ = start(t_), took_;                      \
									\
		RUN(t_->inner, op, __VA_ARGS__);                       \
		if (t_->on) {                                          \
			took_ = stop(t_, since_);                      \
			add(t_, name_##op, took_, cost_of_it);         \
		}                                                      \
	} while (0)

/* ------------------------------------------------------------------ costs */

static double elements(const struct weight *w)
{
	return (double)w->in * w->out * w->n;
}

static double bytes(const struct weight *w)
{
	return w ? (double)w->row_bytes * w->out * w->n : 0;
}

/* A whole matrix (all of n) against n_rows rows. */
static struct cost product(const struct weight *w, int32_t n_rows)
{
	return (struct cost){{w->type, DTYPE_COUNT}, bytes(w), 0, 2.0 * n_rows * elements(w)};
}

/* Weights that are read but make no product: vectors, looked-up rows. */
static struct cost lookup(const struct weight *w, double read)
{
	return w ? (struct cost){{w->type, DTYPE_COUNT}, read, 0, 0} : no_cost;
}

static struct cost mix(const struct hc_weights *w, int32_t n_rows, const struct weight *norm)
{
	struct cost c = product(w->fn, n_rows);

	c.weight_bytes += bytes(w->scale) + bytes(w->base) + bytes(norm);
	return c;
}

static struct cost feed_forward(const struct weight *gate, const struct weight *up, const struct weight *down,
				double matrices, double pairs)
{
	double one = (bytes(gate) + bytes(up) + bytes(down)) / gate->n;
	double multiply_adds = (elements(gate) + elements(up) + elements(down)) / gate->n;
	struct cost c = {{gate->type, DTYPE_COUNT}, matrices * one, 0, 2 * pairs * multiply_adds};

	if (down->type != gate->type)
		c.type[1] = down->type;
	return c;
}

/* Experts that at least one row of the step chose. */
static int32_t distinct(struct timed *t, const struct step *s, const struct expert_args *a)
{
	size_t n = (size_t)s->n_rows * (size_t)a->used;
	int32_t *idx = mem_array(n, sizeof *idx), count = 0;
	uint8_t *seen = mem_zero((size_t)a->gate->n);

	if (!idx || !seen) {	/* no memory to look: the most there can be */
		count = (int64_t)n < a->gate->n ? (int32_t)n : a->gate->n;
		n = 0;
	} else {
		t->inner->download(t->inner, idx, a->idx->data, n * sizeof *idx);
	}
	for (size_t i = 0; i < n; i++) {
		if (idx[i] < 0 || idx[i] >= a->gate->n || seen[idx[i]])
			continue;
		seen[idx[i]] = 1;
		count++;
	}
	mem_free(idx);
	mem_free(seen);
	return count;
}

static int32_t least(int32_t a, int32_t b)
{
	return a < b ? a : b;
}

/* Rows of the window and compressed rows that the token at pos attends to. */
static int32_t rows_seen(const struct attend_args *a, int32_t pos)
{
	int32_t pooled = geom_visible(pos, a->layer->ratio);

	return least(pos + 1, a->layer->window) + (a->pick ? least(pooled, a->top_k) : pooled);
}

static struct cost attention(const struct backend *be, const struct step *s, const struct attend_args *a)
{
	struct cost c = lookup(a->sinks, bytes(a->sinks));

	for (int32_t i = 0; i < s->n_spans; i++) {
		const struct span *p = &s->span[i];
		int32_t last = p->pos0 + p->n - 1, pooled = geom_visible(last, a->layer->ratio);
		double scored = 0, picked = 0;

		for (int32_t pos = p->pos0; pos <= last; pos++) {
			scored += rows_seen(a, pos);
			picked += least(geom_visible(pos, a->layer->ratio), a->top_k);
		}
		if (a->pick && picked < pooled)
			pooled = (int32_t)picked;
		c.ops += 4.0 * a->heads * GEOM_HEAD * scored;	/* scores, then the weighted sum */
		c.history_bytes += (double)be->row_bytes * (least(p->pos0, a->layer->window - 1) + p->n + pooled);
	}
	return c;
}

static struct cost indexing(const struct backend *be, const struct step *s, const struct choose_args *a)
{
	struct cost c = no_cost;

	for (int32_t i = 0; i < s->n_spans; i++) {
		const struct span *p = &s->span[i];

		c.history_bytes += (double)be->key_bytes * geom_visible(p->pos0 + p->n - 1, a->layer->ratio);
		for (int32_t j = 0; j < p->n; j++)
			if (geom_visible(p->pos0 + j, a->layer->ratio) > a->top_k)
				c.ops += 2.0 * a->heads * GEOM_KEY * geom_visible(p->pos0 + j, a->layer->ratio);
	}
	return c;
}

static struct cost routing(const struct step *s, const struct route_args *a)
{
	if (a->table)
		return lookup(a->table, (double)s->n_rows * (double)a->table->row_bytes);
	return lookup(a->bias, bytes(a->bias));
}

/* ------------------------------------------------------------------ operations */

static void timed_embed(struct backend *be, const struct step *s, struct tensor *streams, const struct weight *w)
{
	MEASURE(be, embed, lookup(w, (double)s->n_rows * (double)w->row_bytes), s, streams, w);
}

static void timed_hc_in(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
			const struct tensor *streams, const struct hc_weights *w)
{
	MEASURE(be, hc_in, mix(w, s->n_rows, NULL), s, x, coef, streams, w);
}

static void timed_hc_out(struct backend *be, const struct step *s, struct tensor *streams, const struct tensor *coef,
			 const struct tensor *y)
{
	MEASURE(be, hc_out, no_cost, s, streams, coef, y);
}

static void timed_hc_head(struct backend *be, const struct step *s, struct tensor *x, const struct tensor *streams,
			  const struct hc_weights *w)
{
	MEASURE(be, hc_head, mix(w, s->n_logits, NULL), s, x, streams, w);
}

static void timed_rms_norm(struct backend *be, int32_t n_rows, struct tensor *y, const struct tensor *x,
			   const struct weight *w, int32_t group)
{
	MEASURE(be, rms_norm, lookup(w, bytes(w)), n_rows, y, x, w, group);
}

static void timed_matmul(struct backend *be, int32_t n_rows, struct tensor *y, const struct weight *w,
			 const struct tensor *x)
{
	MEASURE(be, matmul, product(w, n_rows), n_rows, y, w, x);
}

static void timed_grouped_matmul(struct backend *be, const struct step *s, struct tensor *y, const struct weight *w,
				 const struct tensor *x, int32_t groups)
{
	MEASURE(be, grouped_matmul, product(w, s->n_rows), s, y, w, x, groups);
}

static void timed_rope(struct backend *be, const struct step *s, struct tensor *x, const struct rope_args *a)
{
	MEASURE(be, rope, no_cost, s, x, a);
}

static void timed_pack_rows(struct backend *be, const struct step *s, struct tensor *fresh, const struct tensor *kv)
{
	MEASURE(be, pack_rows, no_cost, s, fresh, kv);
}

static void timed_pool(struct backend *be, const struct step *s, const struct pool_args *a)
{
	MEASURE(be, pool, lookup(a->ape, bytes(a->ape) + bytes(a->norm)), s, a);
}

static void timed_index_query(struct backend *be, const struct step *s, struct tensor *q, int32_t heads)
{
	MEASURE(be, index_query, no_cost, s, q, heads);
}

static void timed_choose_rows(struct backend *be, const struct step *s, struct tensor *pick, const struct choose_args *a)
{
	MEASURE(be, choose_rows, indexing(be, s, a), s, pick, a);
}

static void timed_attend(struct backend *be, const struct step *s, struct tensor *out, const struct attend_args *a)
{
	MEASURE(be, attend, attention(be, s, a), s, out, a);
}

static void timed_ring_write(struct backend *be, const struct step *s, const struct tensor *fresh,
			     const struct kv_layer *layer)
{
	MEASURE(be, ring_write, no_cost, s, fresh, layer);
}

static void timed_route(struct backend *be, const struct step *s, struct tensor *idx, struct tensor *gate,
			const struct route_args *a)
{
	MEASURE(be, route, routing(s, a), s, idx, gate, a);
}

static void timed_experts(struct backend *be, const struct step *s, struct tensor *y, const struct expert_args *a)
{
	MEASURE(be, experts, feed_forward(a->gate, a->up, a->down, distinct(be->self, s, a), (double)s->n_rows * a->used),
		s, y, a);
}

static void timed_swiglu(struct backend *be, const struct step *s, struct tensor *h, const struct tensor *g,
			 const struct tensor *u, float limit)
{
	MEASURE(be, swiglu, no_cost, s, h, g, u, limit);
}

static void timed_add(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x)
{
	MEASURE(be, add, no_cost, s, y, x);
}

static void timed_hc_in_norm(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
			     const struct tensor *streams, const struct hc_weights *hc, const struct weight *w)
{
	MEASURE(be, hc_in_norm, mix(hc, s->n_rows, w), s, x, coef, streams, hc, w);
}

static void timed_shared_expert(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x,
				const struct shared_args *a)
{
	MEASURE(be, shared_expert, feed_forward(a->gate, a->up, a->down, 1, s->n_rows), s, y, x, a);
}

static const struct ops timed_ops = {
#define OP(name, ...) .name = timed_##name,
	REQUIRED_OPS(OP)
	FUSED_OPS(OP)
#undef OP
};

/* ------------------------------------------------------------------ memory and the rest */

static struct backend *inner_of(struct backend *be)
{
	return ((struct timed *)be->self)->inner;
}

static void *timed_alloc(struct backend *be, size_t n)
{
	return inner_of(be)->alloc(inner_of(be), n);
}

static void timed_release(struct backend *be, void *p)
{
	inner_of(be)->release(inner_of(be), p);
}

static void timed_upload(struct backend *be, void *device, const void *host, size_t n)
{
	inner_of(be)->upload(inner_of(be), device, host, n);
}

static void timed_download(struct backend *be, void *host, const void *device, size_t n)
{
	inner_of(be)->download(inner_of(be), host, device, n);
}

static void timed_copy(struct backend *be, void *dst, const void *src, size_t n)
{
	inner_of(be)->copy(inner_of(be), dst, src, n);
}

static enum status timed_weight_load(struct backend *be, struct weight *w, struct err *err)
{
	return inner_of(be)->weight_load(inner_of(be), w, err);
}

static void timed_wait(struct backend *be)
{
	struct err e = {.code = OK};

	if (be_submit(inner_of(be), &e) != OK)
		be_fail(be, e.code, "%s", e.msg);
}

static void timed_close(struct backend *be)
{
	mem_free(be->self);
}

enum status timed_open(struct backend **out, struct backend *inner, struct err *err)
{
	struct timed *t = mem_zero(sizeof *t);

	*out = NULL;
	if (!t)
		return err_set(err, ERR_MEMORY, "no memory for the measuring backend");
	t->inner = inner;
	t->be = (struct backend){
		.name = inner->name, .ops = timed_ops, .numerics = inner->numerics, .real_bytes = inner->real_bytes,
		.row_bytes = inner->row_bytes, .key_bytes = inner->key_bytes, .self = t, .alloc = timed_alloc,
		.release = timed_release, .upload = timed_upload, .download = timed_download, .copy = timed_copy,
		.weight_load = timed_weight_load, .wait = timed_wait, .close = timed_close,
	};
	*out = &t->be;
	return OK;
}

void timed_record(struct backend *timed, bool on)
{
	((struct timed *)timed->self)->on = on;
}

void timed_reset(struct backend *timed)
{
	struct timed *t = timed->self;

	memset(t->row, 0, sizeof t->row);
	t->n_rows = 0;
}

const struct timed_row *timed_rows(const struct backend *timed, int *n)
{
	const struct timed *t = timed->self;

	*n = t->n_rows;
	return t->row;
}

const char *timed_types(char *out, size_t room, const struct timed_row *row)
{
	if (row->type[0] == DTYPE_COUNT)
		snprintf(out, room, "-");
	else if (row->type[1] == DTYPE_COUNT)
		snprintf(out, room, "%s", dtype_info(row->type[0])->name);
	else
		snprintf(out, room, "%s+%s", dtype_info(row->type[0])->name, dtype_info(row->type[1])->name);
	return out;
}
