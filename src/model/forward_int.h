/* forward_int.h - shared by the files of the forward pass. */
#ifndef DS4_MODEL_FORWARD_INT_H
#define DS4_MODEL_FORWARD_INT_H

#include "model/forward.h"

struct work {	/* filled from the list in forward.c, which has shapes and meanings */
	struct tensor streams, coef, x, y, q_low, q, heads, kv, fresh, pool_kv, pool_score, key_kv, key_score;
	struct tensor index_q, index_w, pick, low, router, idx, gate, ff_gate, ff_up, ff_out, head_x, logits;
};

struct forward {
	struct backend *be;
	const struct shape *shape;
	const struct weights *weights;
	const struct kv_layout *layout;
	int32_t max_rows, max_logits;
	struct work work;
	struct row *row;		/* [max_rows]; the step block */
	struct span *span;
	int32_t *row_span, *logit_row;
	struct be_timeline *timeline;
	struct tap tap;
};

/* The halves of layer l: streams in and out. */
void attn_block(struct forward *f, const struct step *s, int32_t l);
void moe_block(struct forward *f, const struct step *s, int32_t l);

void forward_observe(struct forward *f, enum tap_point at, int32_t layer, struct tensor *t, const struct step *s);

/* The same buffer seen with fewer columns. */
static inline struct tensor narrow(const struct tensor *t, int32_t width)
{
	struct tensor v = *t;

	v.width = width;
	return v;
}

#endif
