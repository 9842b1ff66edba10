/* moe_block.c - the expert half of a layer: norm, router, K routed experts and the shared one.
 *
 * Careful
 *       - The first n_hash layers take their experts from the token id; their gates are computed all the same.
 *       - A routed expert's weight multiplies before its down projection; the shared expert has weight 1 and the
 *         same clamps.
 * Source: docs/model.md section 8. */
#include "model/forward_int.h"

void moe_block(struct forward *f, const struct step *s, int32_t l)
{
	struct work *k = &f->work;
	const struct shape *sh = f->shape;
	const struct layer_weights *w = &f->weights->layer[l];
	struct hc_weights hc = {.fn = &w->hc_ffn.fn, .scale = &w->hc_ffn.scale, .base = &w->hc_ffn.base,
				.iterations = sh->sinkhorn};
	struct route_args route = {.logits = &k->router, .bias = w->router_bias.data ? &w->router_bias : NULL,
				   .table = w->hash_table.data ? &w->hash_table : NULL, .experts = sh->experts,
				   .used = sh->used, .scale = sh->route_scale};
	struct expert_args routed = {.x = &k->x, .idx = &k->idx, .gate_weight = &k->gate, .gate = &w->gate_exps,
				     .up = &w->up_exps, .down = &w->down_exps, .used = sh->used, .limit = sh->limit[l]};
	struct shared_args shared = {.gate = &w->gate_sh, .up = &w->up_sh, .down = &w->down_sh, .g = &k->ff_gate,
				     .u = &k->ff_up, .t = &k->ff_out, .limit = sh->limit[l]};

	forward_observe(f, TAP_FFN_IN, l, &k->streams, s);
	RUN(f->be, hc_in_norm, s, &k->x, &k->coef, &k->streams, &hc, &w->ffn_norm);
	forward_observe(f, TAP_FFN_NORM, l, &k->x, s);
	RUN(f->be, matmul, s->n_rows, &k->router, &w->router, &k->x);
	RUN(f->be, route, s, &k->idx, &k->gate, &route);
	forward_observe(f, TAP_EXPERTS, l, &k->idx, s);
	forward_observe(f, TAP_GATES, l, &k->gate, s);
	RUN(f->be, experts, s, &k->y, &routed);
	RUN(f->be, shared_expert, s, &k->y, &k->x, &shared);
	forward_observe(f, TAP_FFN_OUT, l, &k->y, s);
	RUN(f->be, hc_out, s, &k->streams, &k->coef, &k->y);
	forward_observe(f, TAP_LAYER_OUT, l, &k->streams, s);
}
