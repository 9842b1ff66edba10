/* compose.c - what each fused operation means, and what runs when a backend has nothing better. */
#include "backend/backend.h"

static void hc_in_norm(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
		       const struct tensor *streams, const struct hc_weights *hc, const struct weight *w)
{
	RUN(be, hc_in, s, x, coef, streams, hc);
	RUN(be, rms_norm, s->n_rows, x, x, w, x->width);
}

static void shared_expert(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x,
			  const struct shared_args *a)
{
	RUN(be, matmul, s->n_rows, a->g, a->gate, x);
	RUN(be, matmul, s->n_rows, a->u, a->up, x);
	RUN(be, swiglu, s, a->g, a->g, a->u, a->limit);
	RUN(be, matmul, s->n_rows, a->t, a->down, a->g);
	RUN(be, add, s, y, a->t);
}

void be_compose(struct ops *ops)
{
	if (!ops->hc_in_norm)
		ops->hc_in_norm = hc_in_norm;
	if (!ops->shared_expert)
		ops->shared_expert = shared_expert;
}
