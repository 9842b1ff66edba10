/* bench_cost.c - what a step must read and multiply, from the model alone.
 *
 * What  Weight bytes and operations of a step, without running it under the measuring backend: what the limits of a
 *       machine are compared with.
 * How   Every matrix is read once per step, whatever the number of rows.  Of routed experts, only the chosen ones are:
 *       a tap of the forward pass counts the distinct ones during warm-up, so measured steps carry no counting.
 * Careful
 *       - The output head is read only by steps that want logits: prefill chunks of the benchmark do not.
 *       - While no row sees more pooled rows than the indexer may keep, its query matrices are not read. */
#include <string.h>

#include "cli/bench.h"

static double elements(const struct weight *w)
{
	return w->data ? (double)w->in * w->out * w->n : 0;
}

static double bytes(const struct weight *w)
{
	return w->data ? (double)w->row_bytes * w->out * w->n : 0;
}

void bench_cost_make(struct bench_cost *out, const struct weights *w, const struct shape *s)
{
	double all = 0, routed = 0;

	memset(out, 0, sizeof *out);
	for (int c = 0; c < CLASS_COUNT; c++)
		all += (double)w->class_read[c];
	for (int32_t l = 0; l < w->n_layer; l++) {
		const struct layer_weights *k = &w->layer[l];
		const struct weight *const product[] = {
			&k->hc_attn.fn, &k->hc_ffn.fn, &k->q_a, &k->q_b, &k->kv, &k->out_a, &k->out_b, &k->comp_kv,
			&k->comp_gate, &k->index_kv, &k->index_gate, &k->router, &k->gate_sh, &k->up_sh, &k->down_sh};

		for (size_t i = 0; i < sizeof product / sizeof *product; i++)
			out->row_ops += 2 * elements(product[i]);
		out->row_ops += 2 * (elements(&k->gate_exps) + elements(&k->up_exps) + elements(&k->down_exps)) /
				s->experts * s->used;
		out->index_ops += 2 * (elements(&k->index_q_b) + elements(&k->index_proj));
		out->index_bytes += bytes(&k->index_q_b) + bytes(&k->index_proj);
		out->expert_bytes[l] = (bytes(&k->gate_exps) + bytes(&k->up_exps) + bytes(&k->down_exps)) / s->experts;
		routed += out->expert_bytes[l] * s->used;
	}
	out->head_ops = 2 * (elements(&w->output) + elements(&w->hc_head.fn));
	out->head_bytes = bytes(&w->output) + bytes(&w->hc_head.fn);
	out->fixed_bytes = all - routed;
}

void bench_count_tap(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t,
		     const struct step *s)
{
	struct bench_count *c = ctx;
	size_t n = (size_t)s->n_rows * (size_t)c->shape->used;

	if (at != TAP_EXPERTS)
		return;
	if (be->wait)
		be->wait(be);
	be->download(be, c->idx, t->data, n * sizeof *c->idx);
	memset(c->seen, 0, (size_t)c->shape->experts);
	for (size_t i = 0; i < n; i++)
		if (c->idx[i] >= 0 && c->idx[i] < c->shape->experts && !c->seen[c->idx[i]]) {
			c->seen[c->idx[i]] = 1;
			c->bytes += c->cost->expert_bytes[layer];
		}
}
