/* metal_ops.m - the operations of the contract as dispatches.
 *
 * What  Each function fills an argument struct, binds tensors and weights, and dispatches one to seven kernels.
 * How   What a dispatch reads and writes is said where it is bound; barriers follow from that (metal.m).
 * Careful
 *       - A product of few rows runs in the vector class, of many in the matrix class (product.metal); which depends on the
 *         number of rows alone.
 *       - Experts of many rows go in pieces, so that work space does not grow with the step. */
#import "backend/metal/metal_int.h"

#include <assert.h>

enum { PIECE = 512, SCORE_ROOM = 16 << 20 };

static const enum dtype PLAIN = DTYPE_F32;	/* where the kernels that have no element type are kept */

#define ARGS(m, a) metal_args((m), &(a), sizeof(a))

static uint32_t u32(size_t n)
{
	assert(n <= UINT32_MAX);
	return (uint32_t)n;
}

static struct mtl_layer layer_args(const struct kv_layer *l, const struct tensor *fresh)
{
	return (struct mtl_layer){l->ratio, l->window, u32(l->block_rows), u32(l->block_keys), u32(l->tail_ring),
				  u32(l->tail_front), u32(l->tail_front_key), fresh ? u32((size_t)fresh->rows) : 0};
}

/* ------------------------------------------------------------------ rows */

static void op_embed(struct backend *be, const struct step *s, struct tensor *streams, const struct weight *w)
{
	struct metal *m = metal_of(be);
	struct mtl_embed a = {u32((size_t)w->in), u32(w->row_bytes), GEOM_STREAMS, u32((size_t)s->n_rows)};

	if (m->step == s)	/* the same struct, filled anew */
		metal_flush(m);
	if (!metal_begin(m, s))
		return;
	ARGS(m, a);
	metal_weight(m, 1, w);
	metal_out(m, 2, streams->data, 0);
	metal_dispatch(m, KERNEL_embed, w->type, metal_groups(a.width / 8, 64), a.rows, 1, 64);
}

static void norm(struct metal *m, int32_t n_rows, struct tensor *y, const struct tensor *x, const struct weight *w,
		 int32_t group)
{
	struct mtl_norm a = {(uint32_t)x->width, (uint32_t)group, w ? (int32_t)w->type : -1, 0};

	ARGS(m, a);
	metal_out(m, 1, y->data, 0);
	metal_in(m, 2, x->data, 0);
	metal_weight(m, 3, w);
	metal_dispatch(m, KERNEL_rms_norm, PLAIN, a.width / a.group, (uint32_t)n_rows, 1, group < 1024 ? 128 : 256);
}

static void op_rms_norm(struct backend *be, int32_t n_rows, struct tensor *y, const struct tensor *x, const struct weight *w,
			int32_t group)
{
	if (n_rows && metal_begin(metal_of(be), NULL))
		norm(metal_of(be), n_rows, y, x, w, group);
}

static void op_rope(struct backend *be, const struct step *s, struct tensor *x, const struct rope_args *r)
{
	struct metal *m = metal_of(be);
	struct mtl_rope a = {(uint32_t)r->heads, (uint32_t)r->width, (uint32_t)s->n_rows, r->inverse, {0}};

	if (!metal_begin(m, s))
		return;
	for (int i = 0; i < 32; i++)
		a.freq[i] = r->freq[i];
	ARGS(m, a);
	metal_out(m, 1, x->data, 0);
	metal_dispatch(m, KERNEL_rope, PLAIN, 1, a.heads, a.rows, 32);
}

/* The mix of n_rows rows, then x, coefficients (NULL: head) and the norm (NULL: none). */
static void hyper(struct metal *m, uint32_t n_rows, struct tensor *x, struct tensor *coef, const struct tensor *streams,
		  const struct hc_weights *w, const struct weight *after)
{
	struct mtl_hc a = {.width = (uint32_t)x->width, .n_out = (uint32_t)w->fn->out, .rows = n_rows,
			   .row_bytes = u32(w->fn->row_bytes), .scale_type = (int32_t)w->scale->type,
			   .base_type = (int32_t)w->base->type, .iterations = w->iterations, .head = !coef,
			   .norm_type = after ? (int32_t)after->type : -1};

	if (!n_rows || !metal_scratch(m, SCRATCH_MIX, (size_t)n_rows * MTL_HC_SPLITS * MTL_HC_PART * sizeof(float)))
		return;
	ARGS(m, a);
	metal_weight(m, 1, w->fn);
	metal_in(m, 2, streams->data, 0);
	metal_scratch_out(m, 3, SCRATCH_MIX);
	metal_dispatch(m, KERNEL_hc_mix, w->fn->type, MTL_HC_SPLITS, n_rows, 1, 128);
	ARGS(m, a);
	metal_scratch_in(m, 1, SCRATCH_MIX);
	metal_in(m, 2, streams->data, 0);
	metal_weight(m, 3, w->scale);
	metal_weight(m, 4, w->base);
	metal_out(m, 5, x->data, 0);
	if (coef)
		metal_out(m, 6, coef->data, 0);
	else
		metal_weight(m, 6, NULL);
	metal_weight(m, 7, after);
	metal_dispatch(m, KERNEL_hc_finish, PLAIN, n_rows, 1, 1, MTL_WIDE);
}

static void op_hc_in_norm(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
			  const struct tensor *streams, const struct hc_weights *hc, const struct weight *w)
{
	if (metal_begin(metal_of(be), s))
		hyper(metal_of(be), (uint32_t)s->n_rows, x, coef, streams, hc, w);
}

static void op_hc_in(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
		     const struct tensor *streams, const struct hc_weights *w)
{
	op_hc_in_norm(be, s, x, coef, streams, w, NULL);
}

static void op_hc_head(struct backend *be, const struct step *s, struct tensor *x, const struct tensor *streams,
		       const struct hc_weights *w)
{
	if (metal_begin(metal_of(be), s))
		hyper(metal_of(be), (uint32_t)s->n_logits, x, NULL, streams, w, NULL);
}

static void op_hc_out(struct backend *be, const struct step *s, struct tensor *streams, const struct tensor *coef,
		      const struct tensor *y)
{
	struct metal *m = metal_of(be);
	struct mtl_hc a = {.width = (uint32_t)y->width, .rows = (uint32_t)s->n_rows};

	if (!metal_begin(m, s))
		return;
	ARGS(m, a);
	metal_out(m, 1, streams->data, 0);
	metal_in(m, 2, coef->data, 0);
	metal_in(m, 3, y->data, 0);
	metal_dispatch(m, KERNEL_hc_out, PLAIN, metal_groups(a.width, 128), a.rows, 1, 128);
}

static void op_route(struct backend *be, const struct step *s, struct tensor *idx, struct tensor *gate,
		     const struct route_args *r)
{
	struct metal *m = metal_of(be);
	struct mtl_route a = {(uint32_t)r->experts, (uint32_t)r->used, r->bias ? (int32_t)r->bias->type : -1, r->table != NULL,
			      r->table ? u32(r->table->row_bytes) : 0, r->scale};

	assert(r->experts <= MTL_MAX_EXPERTS && r->used <= MTL_MAX_USED);
	if (!metal_begin(m, s))
		return;
	ARGS(m, a);
	metal_in(m, 1, r->logits->data, 0);
	metal_weight(m, 2, r->bias);
	metal_weight(m, 3, r->table);
	metal_out(m, 4, idx->data, 0);
	metal_out(m, 5, gate->data, 0);
	metal_dispatch(m, KERNEL_route, PLAIN, (uint32_t)s->n_rows, 1, 1, MTL_SIMD);
}

static void op_swiglu(struct backend *be, const struct step *s, struct tensor *h, const struct tensor *g,
		      const struct tensor *u, float limit)
{
	struct metal *m = metal_of(be);
	struct mtl_point a = {u32((size_t)s->n_rows * (size_t)h->width), (uint32_t)h->width, limit, 0};

	if (!metal_begin(m, s))
		return;
	ARGS(m, a);
	metal_out(m, 1, h->data, 0);
	metal_in(m, 2, g->data, 0);
	metal_in(m, 3, u->data, 0);
	metal_dispatch(m, KERNEL_swiglu, PLAIN, metal_groups(a.n, 256), 1, 1, 256);
}

static void op_add(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x)
{
	struct metal *m = metal_of(be);
	struct mtl_point a = {u32((size_t)s->n_rows * (size_t)y->width), (uint32_t)y->width, 0, 0};

	if (!metal_begin(m, s))
		return;
	ARGS(m, a);
	metal_out(m, 1, y->data, 0);
	metal_in(m, 2, x->data, 0);
	metal_dispatch(m, KERNEL_add, PLAIN, metal_groups(a.n, 256), 1, 1, 256);
}

/* ------------------------------------------------------------------ products */

static void product(struct metal *m, uint32_t n_rows, struct tensor *y, const struct weight *w, const struct tensor *x,
		    uint32_t groups)
{
	struct mtl_product a = {(uint32_t)w->in, (uint32_t)w->out, n_rows, u32(w->row_bytes), (uint32_t)x->width,
				(uint32_t)y->width, groups > 1 ? (uint32_t)w->out / groups : 0, groups};

	assert(x->width == w->in * (int32_t)groups && y->width == w->out);
	ARGS(m, a);
	metal_weight(m, 1, w);
	metal_in(m, 2, x->data, 0);
	metal_out(m, 3, y->data, 0);
	if ((int32_t)n_rows > m->vector_rows && w->in % MTL_MM_DEPTH == 0)
		metal_dispatch(m, KERNEL_matmat, w->type, metal_groups(a.out / groups, MTL_MM_OUT), metal_groups(n_rows, MTL_MM_ROWS),
			       groups, MTL_MM_THREADS);
	else if (groups > 1)
		metal_dispatch(m, KERNEL_matvec_group, w->type, metal_groups(a.out, MTL_MV_SIMDS), n_rows, 1,
			       MTL_MV_SIMDS * MTL_SIMD);
	else
		metal_dispatch(m, n_rows > 1 ? KERNEL_matvec_rows : KERNEL_matvec, w->type,
			       metal_groups(a.out, MTL_MV_SIMDS * MTL_MV_OUT), n_rows > 1 ? metal_groups(n_rows, MTL_MV_ROWS) : 1, 1,
			       MTL_MV_SIMDS * MTL_SIMD);
}

static void op_matmul(struct backend *be, int32_t n_rows, struct tensor *y, const struct weight *w, const struct tensor *x)
{
	if (n_rows && metal_begin(metal_of(be), NULL))
		product(metal_of(be), (uint32_t)n_rows, y, w, x, 1);
}

static void op_grouped_matmul(struct backend *be, const struct step *s, struct tensor *y, const struct weight *w,
			      const struct tensor *x, int32_t groups)
{
	if (metal_begin(metal_of(be), NULL))
		product(metal_of(be), (uint32_t)s->n_rows, y, w, x, (uint32_t)groups);
}

/* ------------------------------------------------------------------ experts */

static struct mtl_experts expert_args(const struct expert_args *e, const struct weight *w, uint32_t rows, bool down)
{
	uint64_t matrix = (uint64_t)w->out * w->row_bytes;

	return (struct mtl_experts){.in = (uint32_t)w->in, .out = (uint32_t)w->out, .rows = rows, .row_bytes = u32(w->row_bytes),
				    .matrix_bytes_lo = (uint32_t)matrix, .matrix_bytes_hi = (uint32_t)(matrix >> 32),
				    .used = (uint32_t)e->used, .experts = (uint32_t)w->n, .x_per = down ? 1 : (uint32_t)e->used,
				    .pairs = rows * (uint32_t)e->used, .limit = e->limit};
}

/* Few rows: each (row, expert) reads the expert's matrices. */
static void experts_vector(struct metal *m, uint32_t rows, struct tensor *y, const struct expert_args *e)
{
	struct mtl_experts in = expert_args(e, e->gate, rows, false), out = expert_args(e, e->down, rows, true);

	if (!metal_scratch(m, SCRATCH_HIDDEN, (size_t)in.pairs * in.out * sizeof(float)))
		return;
	ARGS(m, in);
	metal_weight(m, 1, e->gate);
	metal_weight(m, 2, e->up);
	metal_in(m, 3, e->x->data, 0);
	metal_in(m, 4, e->idx->data, 0);
	metal_in(m, 5, e->gate_weight->data, 0);
	metal_scratch_out(m, 6, SCRATCH_HIDDEN);
	metal_dispatch(m, KERNEL_expert_in, e->gate->type, metal_groups(in.out, MTL_MV_SIMDS), in.pairs, 1, MTL_MV_SIMDS * MTL_SIMD);
	ARGS(m, out);
	metal_weight(m, 1, e->down);
	metal_scratch_in(m, 2, SCRATCH_HIDDEN);
	metal_in(m, 3, e->idx->data, 0);
	metal_out(m, 4, y->data, 0);
	metal_dispatch(m, KERNEL_expert_out, e->down->type, metal_groups(out.out, MTL_MV_SIMDS), rows, 1, MTL_MV_SIMDS * MTL_SIMD);
}

/* Counts and lists the pairs of rows row0.. by expert. */
static void sort_pairs(struct metal *m, const struct mtl_experts *a, const struct expert_args *e, size_t skip)
{
	ARGS(m, *a);
	metal_in(m, 1, e->idx->data, skip);
	metal_scratch_out(m, 2, SCRATCH_COUNT);
	metal_dispatch(m, KERNEL_expert_count, PLAIN, a->experts, 1, 1, MTL_SIMD);
	ARGS(m, *a);
	metal_in(m, 1, e->idx->data, skip);
	metal_scratch_in(m, 2, SCRATCH_COUNT);
	metal_scratch_out(m, 3, SCRATCH_LIST);
	metal_dispatch(m, KERNEL_expert_list, PLAIN, a->experts, 1, 1, MTL_SIMD);
}

/* scratch `to` = W x for all pairs; x NULL: from scratch `from`. */
static void expert_product(struct metal *m, const struct mtl_experts *a, const struct weight *w, const struct tensor *x, size_t skip,
			   enum metal_scratch from, enum metal_scratch to)
{
	uint32_t most = (a->pairs < a->experts ? a->pairs : a->experts) + a->pairs / MTL_MM_ROWS;

	ARGS(m, *a);
	metal_weight(m, 1, w);
	if (x)
		metal_in(m, 2, x->data, skip);
	else
		metal_scratch_in(m, 2, from);
	metal_scratch_out(m, 3, to);
	metal_scratch_in(m, 4, SCRATCH_COUNT);
	metal_scratch_in(m, 5, SCRATCH_LIST);
	metal_dispatch(m, KERNEL_expert_matmat, w->type, metal_groups(a->out, MTL_MM_OUT), most, 1, MTL_MM_THREADS);
}

/* Many rows: the pairs of each expert together, in tiles. */
static void experts_matrix(struct metal *m, uint32_t row0, uint32_t rows, struct tensor *y, const struct expert_args *e)
{
	struct mtl_experts in = expert_args(e, e->gate, rows, false), out = expert_args(e, e->down, rows, true);
	size_t pair0 = (size_t)row0 * in.used, hidden = (size_t)in.pairs * in.out * sizeof(float);
	size_t x_skip = (size_t)row0 * in.in * sizeof(float);

	if (!metal_scratch(m, SCRATCH_HIDDEN, hidden) || !metal_scratch(m, SCRATCH_UP, hidden) ||
	    !metal_scratch(m, SCRATCH_DOWN, (size_t)in.pairs * out.out * sizeof(float)) ||
	    !metal_scratch(m, SCRATCH_COUNT, in.experts * sizeof(int32_t)) ||
	    !metal_scratch(m, SCRATCH_LIST, in.pairs * sizeof(int32_t)))
		return;
	sort_pairs(m, &in, e, pair0 * sizeof(int32_t));
	expert_product(m, &in, e->gate, e->x, x_skip, SCRATCH_HIDDEN, SCRATCH_HIDDEN);
	expert_product(m, &in, e->up, e->x, x_skip, SCRATCH_UP, SCRATCH_UP);
	ARGS(m, in);
	metal_scratch_out(m, 1, SCRATCH_HIDDEN);
	metal_scratch_in(m, 2, SCRATCH_UP);
	metal_in(m, 3, e->gate_weight->data, pair0 * sizeof(float));
	metal_dispatch(m, KERNEL_expert_swiglu, PLAIN, metal_groups(in.out, 128), in.pairs, 1, 128);
	expert_product(m, &out, e->down, NULL, 0, SCRATCH_HIDDEN, SCRATCH_DOWN);
	ARGS(m, out);
	metal_scratch_in(m, 1, SCRATCH_DOWN);
	metal_out(m, 2, y->data, (size_t)row0 * out.out * sizeof(float));
	metal_dispatch(m, KERNEL_expert_sum, PLAIN, metal_groups(out.out, 128), rows, 1, 128);
}

static void op_experts(struct backend *be, const struct step *s, struct tensor *y, const struct expert_args *e)
{
	struct metal *m = metal_of(be);
	uint32_t n = (uint32_t)s->n_rows;

	if (!metal_begin(m, s))
		return;
	if (s->n_rows <= m->vector_rows || e->gate->in % MTL_MM_DEPTH || e->down->in % MTL_MM_DEPTH) {
		experts_vector(m, n, y, e);
		return;
	}
	for (uint32_t row0 = 0; row0 < n && !be->failing; row0 += PIECE)
		experts_matrix(m, row0, n - row0 < PIECE ? n - row0 : PIECE, y, e);
}

/* ------------------------------------------------------------------ history */

static void op_pack_rows(struct backend *be, const struct step *s, struct tensor *fresh, const struct tensor *kv)
{
	struct metal *m = metal_of(be);
	struct mtl_layer a = {.fresh_rows = (uint32_t)fresh->rows};

	if (!metal_begin(m, s))
		return;
	ARGS(m, a);
	metal_in(m, 1, kv->data, 0);
	metal_out(m, 2, fresh->data, 0);
	metal_dispatch(m, KERNEL_pack_rows, PLAIN, (uint32_t)s->n_rows, 1, 1, MTL_WIDE);
}

static void op_ring_write(struct backend *be, const struct step *s, const struct tensor *fresh, const struct kv_layer *layer)
{
	struct metal *m = metal_of(be);
	struct mtl_layer a = layer_args(layer, fresh);

	if (!metal_begin(m, s))
		return;
	ARGS(m, a);
	metal_in(m, 1, fresh->data, 0);
	metal_touch(m, PART_RING, true);
	metal_dispatch(m, KERNEL_ring_write, PLAIN, metal_groups(GEOM_ROW_BYTES, 64), (uint32_t)s->n_rows, 1, 64);
}

static void op_pool(struct backend *be, const struct step *s, const struct pool_args *p)
{
	struct metal *m = metal_of(be);
	struct mtl_pool a = {.layer = layer_args(p->layer, NULL), .key = p->key, .ape_type = (int32_t)p->ape->type,
			     .norm_type = (int32_t)p->norm->type};
	uint32_t pw = (uint32_t)geom_pool_width(p->key ? GEOM_KEY : GEOM_HEAD, p->layer->ratio);
	enum metal_part front = p->key ? PART_FRONT_KEYS : PART_FRONT;

	assert(p->kv->width == (int32_t)pw && p->score->width == (int32_t)pw && p->ape->in == (int32_t)pw);
	if (!metal_begin(m, s))
		return;
	for (int i = 0; i < 32; i++)
		a.freq[i] = p->freq[i];
	ARGS(m, a);
	metal_in(m, 1, p->kv->data, 0);
	metal_in(m, 2, p->score->data, 0);
	metal_weight(m, 3, p->ape);
	metal_weight(m, 4, p->norm);
	metal_touch(m, front, false);
	metal_touch(m, p->key ? PART_KEYS : PART_ROWS, true);
	metal_dispatch(m, KERNEL_pool_emit, PLAIN, (uint32_t)s->n_rows, 1, 1, MTL_WIDE);
	ARGS(m, a);
	metal_in(m, 1, p->kv->data, 0);
	metal_in(m, 2, p->score->data, 0);
	metal_weight(m, 3, p->ape);
	metal_touch(m, front, true);
	metal_dispatch(m, KERNEL_pool_keep, PLAIN, metal_groups(pw, 64), (uint32_t)s->n_spans, 1, 64);
}

static void op_index_query(struct backend *be, const struct step *s, struct tensor *q, int32_t heads)
{
	struct metal *m = metal_of(be);

	if (!metal_begin(m, s))
		return;
	metal_out(m, 1, q->data, 0);
	metal_dispatch(m, KERNEL_index_query, PLAIN, (uint32_t)heads, (uint32_t)s->n_rows, 1, MTL_SIMD);
}

/* Most compressed rows that a row of the step sees. */
static uint32_t most_visible(const struct step *s, int32_t ratio)
{
	int32_t most = 0;

	for (int32_t i = 0; i < s->n_spans; i++) {
		int32_t n = geom_visible(s->span[i].pos0 + s->span[i].n - 1, ratio);

		most = n > most ? n : most;
	}
	return (uint32_t)most;
}

static void op_choose_rows(struct backend *be, const struct step *s, struct tensor *pick, const struct choose_args *c)
{
	struct metal *m = metal_of(be);
	struct mtl_choose a = {.layer = layer_args(c->layer, NULL), .heads = (uint32_t)c->heads, .top_k = (uint32_t)c->top_k,
			       .score_stride = most_visible(s, c->layer->ratio)};
	uint32_t n = (uint32_t)s->n_rows, piece = a.score_stride ? SCORE_ROOM / a.score_stride : n;

	assert(pick->width == c->top_k && c->q->width == c->heads * GEOM_KEY);
	piece = piece < 1 ? 1 : piece > n ? n : piece;
	if (a.score_stride <= a.top_k || !metal_begin(m, s) ||
	    !metal_scratch(m, SCRATCH_SCORES, (size_t)piece * a.score_stride * sizeof(float)))
		return;
	for (a.row0 = 0; a.row0 < n; a.row0 += piece) {
		uint32_t rows = n - a.row0 < piece ? n - a.row0 : piece;

		ARGS(m, a);
		metal_in(m, 1, c->q->data, 0);
		metal_in(m, 2, c->head_weight->data, 0);
		metal_scratch_out(m, 3, SCRATCH_SCORES);
		metal_touch(m, PART_KEYS, false);
		metal_dispatch(m, KERNEL_key_scores, PLAIN, metal_groups(a.score_stride, MTL_KEYS), rows, 1, MTL_KEY_SIMDS * MTL_SIMD);
		ARGS(m, a);
		metal_scratch_in(m, 1, SCRATCH_SCORES);
		metal_out(m, 2, pick->data, 0);
		metal_dispatch(m, KERNEL_choose_rows, PLAIN, rows, 1, 1, MTL_WIDE);
	}
}

static void op_attend(struct backend *be, const struct step *s, struct tensor *out, const struct attend_args *t)
{
	struct metal *m = metal_of(be);
	struct mtl_attend a = {.layer = layer_args(t->layer, t->fresh), .heads = (uint32_t)t->heads, .top_k = (uint32_t)t->top_k,
			       .pick = t->pick != NULL, .sink_type = (int32_t)t->sinks->type};

	assert(out->width == t->heads * GEOM_HEAD && t->q->width == out->width);
	if (!metal_begin(m, s))
		return;
	ARGS(m, a);
	metal_in(m, 1, t->q->data, 0);
	metal_in(m, 2, t->fresh->data, 0);
	if (t->pick)
		metal_in(m, 3, t->pick->data, 0);
	else
		metal_weight(m, 3, NULL);
	metal_weight(m, 4, t->sinks);
	metal_out(m, 5, out->data, 0);
	metal_touch(m, PART_RING, false);
	metal_touch(m, PART_ROWS, false);
	metal_dispatch(m, KERNEL_attend, PLAIN, metal_groups(a.heads, MTL_ATT_HEADS), (uint32_t)s->n_rows, 1, MTL_WIDE);
}

void metal_ops(struct ops *ops)
{
	*ops = (struct ops){
		.embed = op_embed, .hc_in = op_hc_in, .hc_out = op_hc_out, .hc_head = op_hc_head, .rms_norm = op_rms_norm,
		.matmul = op_matmul, .grouped_matmul = op_grouped_matmul, .rope = op_rope, .pack_rows = op_pack_rows,
		.pool = op_pool, .index_query = op_index_query, .choose_rows = op_choose_rows, .attend = op_attend,
		.ring_write = op_ring_write, .route = op_route, .experts = op_experts, .swiglu = op_swiglu, .add = op_add,
		.hc_in_norm = op_hc_in_norm,
	};
}
