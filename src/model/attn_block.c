/* attn_block.c - the attention half of a layer.
 *
 *   streams --hc_in, norm--> x --q_a, norm, q_b, head norm, rope--> q
 *                            x --kv, norm, rope, pack--> fresh row (key and value of all heads)
 *                            x --compressor--> pooled rows, indexer keys          (ratio 4, 128)
 *                            q_low, x --indexer--> which pooled rows each token sees   (ratio 4)
 *   q, rows --attend, rope back, grouped out--> y --hc_out--> streams
 *
 * Careful
 *       - The indexer's scores matter only for rows that see more than K pooled rows; keys are always pooled.
 *       - fresh rows go into the ring after attention: until then the ring holds the rows before this step.
 * Source: docs/model.md section 7. */
#include "model/forward_int.h"

static void query(struct forward *f, const struct step *s, int32_t l)
{
	struct work *k = &f->work;
	const struct layer_weights *w = &f->weights->layer[l];
	struct rope_args rope = {.freq = shape_freq(f->shape, l), .heads = f->shape->heads, .width = GEOM_HEAD};

	RUN(f->be, matmul, s->n_rows, &k->q_low, &w->q_a, &k->x);
	RUN(f->be, rms_norm, s->n_rows, &k->q_low, &k->q_low, &w->q_a_norm, f->shape->q_rank);
	RUN(f->be, matmul, s->n_rows, &k->q, &w->q_b, &k->q_low);
	RUN(f->be, rms_norm, s->n_rows, &k->q, &k->q, NULL, GEOM_HEAD);
	RUN(f->be, rope, s, &k->q, &rope);
}

static void key_value(struct forward *f, const struct step *s, int32_t l)
{
	struct work *k = &f->work;
	const struct layer_weights *w = &f->weights->layer[l];
	struct rope_args rope = {.freq = shape_freq(f->shape, l), .heads = 1, .width = GEOM_HEAD};

	RUN(f->be, matmul, s->n_rows, &k->kv, &w->kv, &k->x);
	RUN(f->be, rms_norm, s->n_rows, &k->kv, &k->kv, &w->kv_norm, GEOM_HEAD);
	RUN(f->be, rope, s, &k->kv, &rope);
	RUN(f->be, pack_rows, s, &k->fresh, &k->kv);
}

static void pool_rows(struct forward *f, const struct step *s, int32_t l)
{
	const struct layer_weights *w = &f->weights->layer[l];
	int32_t pw = geom_pool_width(GEOM_HEAD, f->shape->ratio[l]);
	struct tensor kv = narrow(&f->work.pool_kv, pw), score = narrow(&f->work.pool_score, pw);
	struct pool_args a = {.kv = &kv, .score = &score, .ape = &w->comp_ape, .norm = &w->comp_norm,
			      .freq = shape_freq(f->shape, l), .layer = &f->layout->layer[l]};

	RUN(f->be, matmul, s->n_rows, &kv, &w->comp_kv, &f->work.x);
	RUN(f->be, matmul, s->n_rows, &score, &w->comp_gate, &f->work.x);
	RUN(f->be, pool, s, &a);
}

static void pool_keys(struct forward *f, const struct step *s, int32_t l)
{
	const struct layer_weights *w = &f->weights->layer[l];
	struct pool_args a = {.kv = &f->work.key_kv, .score = &f->work.key_score, .ape = &w->index_ape,
			      .norm = &w->index_norm, .freq = shape_freq(f->shape, l),
			      .layer = &f->layout->layer[l], .key = true};

	RUN(f->be, matmul, s->n_rows, &f->work.key_kv, &w->index_kv, &f->work.x);
	RUN(f->be, matmul, s->n_rows, &f->work.key_score, &w->index_gate, &f->work.x);
	RUN(f->be, pool, s, &a);
}

/* Does any row see more pooled rows than the indexer may choose? */
static bool must_choose(const struct forward *f, const struct step *s)
{
	for (int32_t i = 0; i < s->n_spans; i++)
		if (geom_visible(s->span[i].pos0 + s->span[i].n - 1, 4) > f->shape->index_top_k)
			return true;
	return false;
}

static void choose(struct forward *f, const struct step *s, int32_t l)
{
	struct work *k = &f->work;
	const struct layer_weights *w = &f->weights->layer[l];
	struct rope_args rope = {.freq = shape_freq(f->shape, l), .heads = f->shape->index_heads, .width = GEOM_KEY};
	struct choose_args a = {.q = &k->index_q, .head_weight = &k->index_w, .layer = &f->layout->layer[l],
				.heads = f->shape->index_heads, .top_k = f->shape->index_top_k};

	if (!must_choose(f, s))
		return;
	RUN(f->be, matmul, s->n_rows, &k->index_q, &w->index_q_b, &k->q_low);
	RUN(f->be, rope, s, &k->index_q, &rope);
	RUN(f->be, index_query, s, &k->index_q, f->shape->index_heads);
	RUN(f->be, matmul, s->n_rows, &k->index_w, &w->index_proj, &k->x);
	RUN(f->be, choose_rows, s, &k->pick, &a);
}

static void attend(struct forward *f, const struct step *s, int32_t l)
{
	struct work *k = &f->work;
	const struct kv_layer *layer = &f->layout->layer[l];
	struct attend_args a = {.q = &k->q, .fresh = &k->fresh, .pick = layer->ratio == 4 ? &k->pick : NULL,
				.sinks = &f->weights->layer[l].sinks, .layer = layer, .heads = f->shape->heads,
				.top_k = f->shape->index_top_k};
	struct rope_args back = {.freq = shape_freq(f->shape, l), .heads = f->shape->heads, .width = GEOM_HEAD,
				 .inverse = true};

	RUN(f->be, attend, s, &k->heads, &a);
	RUN(f->be, ring_write, s, &k->fresh, layer);
	RUN(f->be, rope, s, &k->heads, &back);
}

void attn_block(struct forward *f, const struct step *s, int32_t l)
{
	struct work *k = &f->work;
	const struct layer_weights *w = &f->weights->layer[l];
	struct hc_weights hc = {.fn = &w->hc_attn.fn, .scale = &w->hc_attn.scale, .base = &w->hc_attn.base,
				.iterations = f->shape->sinkhorn};
	int32_t ratio = f->shape->ratio[l];

	forward_observe(f, TAP_ATTN_IN, l, &k->streams, s);
	RUN(f->be, hc_in_norm, s, &k->x, &k->coef, &k->streams, &hc, &w->attn_norm);
	forward_observe(f, TAP_ATTN_NORM, l, &k->x, s);
	query(f, s, l);
	key_value(f, s, l);
	if (ratio)
		pool_rows(f, s, l);
	if (ratio == 4) {
		pool_keys(f, s, l);
		choose(f, s, l);
	}
	attend(f, s, l);
	RUN(f->be, grouped_matmul, s, &k->low, &w->out_a, &k->heads, f->shape->groups);
	RUN(f->be, matmul, s->n_rows, &k->y, &w->out_b, &k->low);
	forward_observe(f, TAP_ATTN_OUT, l, &k->y, s);
	RUN(f->be, hc_out, s, &k->streams, &k->coef, &k->y);
}
