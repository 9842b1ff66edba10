/* plan.cu - which records of a step of few rows run together.
 *
 * What  plan_run() looks at the records from one on: the two halves of a layer, in the order the forward pass writes them, and
 *       the way from one half to the next become a dozen launches instead of thirty.
 * Why   A decode step is bound by its longest chain of kernels once each of them reads weights at the speed of memory.
 * How   A half is recognised by its operations and by the buffers that they hand on; anything else (a tap that flushes in
 *       between, a type without a kernel) runs record by record.  Buffers that only carry values inside a half are not
 *       written: their values are in registers or in another form.
 * Careful
 *       - The result of the experts may stay in parts until hc_out, which must be the next record then. */
#include "fuse.cuh"
#include "streams.cuh"

struct scan {
	const struct rec *r;
	int n, i, rows;
	bool ok;
};

/* The next record, which must be `op`; NULL and !ok when it is not. */
static const struct rec *take(struct scan *s, int op)
{
	if (s->ok && s->i < s->n && s->r[s->i].op == op && s->r[s->i].n_rows == s->rows)
		return &s->r[s->i++];
	s->ok = false;
	return NULL;
}

static bool next_is(const struct scan *s, int op)
{
	return s->i < s->n && s->r[s->i].op == op;
}

static struct few_product product(const struct rec *m)
{
	return (struct few_product){.y = (float *)m->p[0], .w = &m->w[0], .x = (const float *)m->p[1], .groups = m->i[0]};
}

/* ------------------------------------------------------------------ attention */

struct attn_half {
	const struct rec *q_a, *q_norm, *q_b, *head_norm, *rope_q, *kv, *kv_norm, *rope_kv, *pack;
	const struct rec *pool_kv[2], *pool_score[2], *pool[2], *index_q, *index_w, *choose, *attend, *rope_back, *out_a, *out_b;
	int pools;
};

/* The records of a half from hc_in's result to the result of attention. */
static int match_attention(struct attn_half *a, const struct rec *r, int n)
{
	struct scan s = {r, n, 0, r->n_rows, true};
	const struct rec *rope = NULL, *query = NULL, *ring;

	*a = {};
	a->q_a = take(&s, OP_MATMUL);
	a->q_norm = take(&s, OP_RMS);
	a->q_b = take(&s, OP_MATMUL);
	a->head_norm = take(&s, OP_RMS);
	a->rope_q = take(&s, OP_ROPE);
	a->kv = take(&s, OP_MATMUL);
	a->kv_norm = take(&s, OP_RMS);
	a->rope_kv = take(&s, OP_ROPE);
	a->pack = take(&s, OP_PACK);
	while (s.ok && a->pools < 2 && s.i + 2 < n && r[s.i + 2].op == OP_POOL) {
		a->pool_kv[a->pools] = take(&s, OP_MATMUL);
		a->pool_score[a->pools] = take(&s, OP_MATMUL);
		a->pool[a->pools++] = take(&s, OP_POOL);
	}
	if (next_is(&s, OP_MATMUL)) {
		a->index_q = take(&s, OP_MATMUL);
		rope = take(&s, OP_ROPE);
		query = take(&s, OP_QUERY);
		a->index_w = take(&s, OP_MATMUL);
		a->choose = take(&s, OP_CHOOSE);
	}
	a->attend = take(&s, OP_ATTEND);
	ring = take(&s, OP_RING);
	a->rope_back = take(&s, OP_ROPE);
	a->out_a = take(&s, OP_MATMUL);
	a->out_b = take(&s, OP_MATMUL);
	if (!s.ok)
		return 0;
	const void *x = a->q_a->p[1], *low = a->q_a->p[0], *q = a->q_b->p[0], *kv = a->kv->p[0], *freq = a->rope_kv->p[1];
	bool ok = a->q_norm->p[0] == low && a->q_norm->p[1] == low && a->q_norm->i[1] == a->q_a->w[0].out && a->q_b->p[1] == low;

	ok = ok && a->head_norm->p[0] == q && a->head_norm->p[1] == q && !a->head_norm->w[0].a && a->head_norm->i[1] == GEOM_HEAD;
	ok = ok && a->rope_q->p[0] == q && a->rope_q->p[1] == freq && a->rope_q->i[1] == GEOM_HEAD && !a->rope_q->i[2];
	ok = ok && a->kv->p[1] == x && a->kv->w[0].out == GEOM_HEAD && a->kv_norm->p[0] == kv && a->kv_norm->p[1] == kv;
	ok = ok && a->kv_norm->w[0].a && a->q_norm->w[0].a && a->rope_kv->p[0] == kv && a->pack->p[1] == kv;
	ok = ok && a->attend->p[1] == q && a->attend->p[2] == a->pack->p[0] && ring->p[0] == a->pack->p[0];
	ok = ok && a->rope_back->p[0] == a->attend->p[0] && a->rope_back->p[1] == freq && a->rope_back->i[2];
	ok = ok && a->out_a->p[1] == a->attend->p[0] && a->out_b->p[1] == a->out_a->p[0] && a->out_b->i[0] == 1;
	ok = ok && few_type(a->q_a->w[0].type) && few_type(a->kv->w[0].type) && few_type(a->q_b->w[0].type);
	ok = ok && few_type(a->out_a->w[0].type) && few_type(a->out_b->w[0].type) && a->q_a->w[0].out % 32 == 0;
	for (int i = 0; i < a->pools; i++)
		ok = ok && a->pool_kv[i]->p[1] == x && a->pool_score[i]->p[1] == x && few_type(a->pool_kv[i]->w[0].type) &&
		     few_type(a->pool_score[i]->w[0].type);
	if (a->index_q)
		ok = ok && a->index_q->p[1] == low && rope->p[0] == a->index_q->p[0] && rope->p[1] == freq && !rope->i[2] &&
		     query->p[0] == a->index_q->p[0] && a->index_w->p[1] == x && a->choose->p[1] == a->index_q->p[0] &&
		     few_type(a->index_q->w[0].type) && few_type(a->index_w->w[0].type);
	return ok ? s.i : 0;
}

static void first_products(struct eng *e, const struct attn_half *a)
{
	struct few_product p[8];
	int n = 0;

	p[n++] = product(a->q_a);
	p[n++] = product(a->kv);
	for (int i = 0; i < a->pools; i++) {
		p[n++] = product(a->pool_kv[i]);
		p[n++] = product(a->pool_score[i]);
	}
	if (a->index_q)
		p[n++] = product(a->index_w);
	eng_mark(e, "x -> q_a, kv, compressors", p, n);
	few_products(e, p, n, a->q_a->n_rows);
}

static void small(struct eng *e, const struct attn_half *a, float2 *turn)
{
	const int rows = a->q_a->n_rows, width = a->q_a->w[0].out;
	const bool halves = a->q_b->w[0].type == DTYPE_F16 || (a->index_q && a->index_q->w[0].type == DTYPE_F16);
	struct attn_small s = {};
	struct slot *form = form_new(e, (const float *)a->q_a->p[0], width, rows, FORM_INT8), *pair = NULL;

	if (form && halves)
		pair = form_new(e, (const float *)a->q_a->p[0], width, rows, FORM_PAIR);
	if (!form || (halves && !pair))
		return;
	s.low = (const float *)a->q_a->p[0];
	s.low_width = width;
	s.low_norm = a->q_norm->w[0];
	s.low_q = form->q;
	s.low_d = form->d;
	s.low_h = pair ? pair->h : NULL;
	s.low_l = pair ? pair->low : NULL;
	s.kv = (const float *)a->kv->p[0];
	s.freq = (const float *)a->rope_kv->p[1];
	s.kv_norm = a->kv_norm->w[0];
	s.fresh = (uint8_t *)a->pack->p[0];
	s.fresh_rows = a->pack->i[0];
	s.pools = a->pools;
	s.spans = a->attend->n_spans;
	s.turn = turn;
	for (int i = 0; i < a->pools; i++)
		s.pool[i] = pooling_of(a->pool[i]);
	few_small(e, &s, rows);
}

static void choose(struct eng *e, const struct attn_half *a, const float2 *turn)
{
	struct attn_choose c = {};

	c.q = (const float *)a->index_q->p[0];
	c.weight = (const float *)a->index_w->p[0];
	c.turn = turn;
	c.pick = (int32_t *)a->choose->p[0];
	c.l = a->choose->layer;
	c.heads = a->choose->i[0];
	c.top_k = a->choose->i[1];
	c.most = a->choose->i[2];
	few_choose(e, &c, a->q_a->n_rows);
}

static void run_attention(struct eng *e, const struct attn_half *a)
{
	const int rows = a->q_a->n_rows, heads = a->attend->i[1], width = heads * GEOM_HEAD, groups = a->out_a->i[0];
	const bool rounded = rounds(a->out_a->w[0].type) && a->out_a->w[0].in % 256 == 0;
	const bool low_rounded = rounds(a->out_b->w[0].type) && a->out_a->w[0].out / groups % 32 == 0 && a->out_b->w[0].in % 256 == 0;
	float2 *turn = (float2 *)eng_scratch(e, S_TURN, (size_t)rows * (GEOM_ROT / 2) * sizeof(float2));
	struct few_product p[2] = {product(a->q_b)};
	struct attending at = attending_of(a->attend);
	struct slot *form = NULL;

	if (!turn)
		return;
	first_products(e, a);
	eng_mark(e, "norms, window row, pooling", NULL, 0);
	small(e, a, turn);
	if (a->index_q)
		p[1] = product(a->index_q);
	eng_mark(e, a->index_q ? "q_b, indexer's q" : "q_b", p, a->index_q ? 2 : 1);
	few_products(e, p, a->index_q ? 2 : 1, rows);
	if (a->index_q) {
		eng_mark(e, "choose_rows", NULL, 0);
		choose(e, a, turn);
	}
	eng_wrote(e, at.out);
	if (rounded && !(form = form_new(e, at.out, a->out_a->w[0].in, rows * groups, FORM_INT8)))
		return;
	eng_mark(e, at.l.ratio == 4 ? "attend r4" : at.l.ratio ? "attend r128" : "attend r0", NULL, 0);
	few_attend(e, &at, turn, form ? form->q : NULL, form ? form->d : NULL, width, a->attend->i[3], rows);
	p[0] = product(a->out_a);
	if (low_rounded) {
		eng_wrote(e, p[0].y);
		form = form_new(e, p[0].y, a->out_b->w[0].in, rows, FORM_INT8);
		if (!form)
			return;
		p[0].y = NULL;
		p[0].q = form->q;
		p[0].d = form->d;
		p[0].q_stride = a->out_b->w[0].stride;
	}
	eng_mark(e, "out_a", p, 1);
	few_products(e, p, 1, rows);
	p[0] = product(a->out_b);
	eng_mark(e, "out_b", p, 1);
	few_products(e, p, 1, rows);
}

/* ------------------------------------------------------------------ experts */

static void streams_out(struct eng *e, const struct rec *out, const struct ffn *f)
{
	struct streams s = {};

	s.s = (float *)out->p[0];
	s.coef = (const float *)out->p[1];
	s.y = f ? NULL : (const float *)out->p[2];
	s.d = out->i[0];
	if (f) {
		s.part = f->part;
		s.used = f->used;
		s.pairs = f->pairs;
		s.shared = f->shared_items > 0;
	}
	few_streams(e, &s, out->n_rows);
}

/* hc_in, after hc_out of the half before (NULL: none) whose result may be in parts (NULL: it is not). */
static void streams_in(struct eng *e, const struct rec *in, const struct rec *out, const struct ffn *f)
{
	const int d = in->i[0], rows = in->n_rows;
	struct streams s = {};
	struct mix_in m = {};
	struct slot *q, *h;

	s.s = (float *)in->p[2];
	s.d = d;
	s.fn = in->w[0];
	if (out) {
		s.coef = (const float *)out->p[1];
		s.y = f ? NULL : (const float *)out->p[2];
	}
	if (f) {
		s.part = f->part;
		s.used = f->used;
		s.pairs = f->pairs;
		s.shared = f->shared_items > 0;
	}
	eng_mark(e, "hc_out, mix", NULL, 0);
	few_streams(e, &s, rows);
	eng_wrote(e, in->p[0]);
	q = form_new(e, (const float *)in->p[0], d, rows, FORM_INT8);
	h = q ? form_new(e, (const float *)in->p[0], d, rows, FORM_PAIR) : NULL;
	if (!h)
		return;
	m.s = s.s;
	m.x = (float *)in->p[0];
	m.coef = (float *)in->p[1];
	m.q = q->q;
	m.qd = q->d;
	m.h = h->h;
	m.low = h->low;
	m.scale = in->w[1];
	m.base = in->w[2];
	m.norm = *(const struct dw *)in->p[3];
	m.d = d;
	m.iterations = in->i[1];
	eng_mark(e, "hc_in, norm", NULL, 0);
	few_mix_in(e, &m, rows);
}

static bool streams_fit(const struct rec *in)
{
	return in->p[3] && few_streams_fit(&in->w[0], in->i[0]);
}

/* hc_out and a following hc_in.  Returns the records. */
static int run_streams(struct eng *e, const struct rec *r, int n, const struct ffn *f)
{
	if (n > 1 && r[1].op == OP_HC_IN && r[1].n_rows == r->n_rows && r[1].p[2] == r->p[0] && streams_fit(&r[1])) {
		streams_in(e, &r[1], r, f);
		return 2;
	}
	if (r->i[0] % 64 || !f)
		return 0;
	eng_mark(e, "hc_out", NULL, 0);
	streams_out(e, r, f);
	return 1;
}

/* Router, routed and shared experts, and what follows them.  0: not these. */
static int run_experts(struct eng *e, const struct rec *r, int n)
{
	struct scan s = {r, n, 0, r->n_rows, true};
	const struct rec *m = take(&s, OP_MATMUL), *route = take(&s, OP_ROUTE), *x = take(&s, OP_EXPERTS), *sh = NULL;
	struct item *items;
	int32_t *n_items;
	struct router ro = {};
	struct ffn f = {};

	if (!s.ok || route->p[2] != m->p[0] || x->p[1] != m->p[1] || x->p[2] != route->p[0] || !few_type(m->w[0].type))
		return 0;
	if (next_is(&s, OP_SHARED) && s.r[s.i].p[1] == x->p[1] && s.r[s.i].p[0] == x->p[0] && s.r[s.i].f[0] == x->f[0])
		sh = take(&s, OP_SHARED);
	if (route->i[0] > 1024 || m->i[0] != 1 || !few_ffn_types(x->w, sh ? sh->w : NULL)) {
		return 0;
	}
	f.rows = s.rows;
	f.used = x->i[0];
	f.limit = x->f[0];
	f.pairs = f.idx_items = f.rows * f.used;
	f.weight = (const float *)x->p[3];
	f.shared_items = sh != NULL;
	for (int i = 0; i < 3; i++) {
		f.w[i] = x->w[i];
		if (sh)
			f.shared[i] = sh->w[i];
	}
	items = few_list(e, f.pairs, &n_items);
	if (!items)
		return s.i;
	f.items = items;
	f.n_items = n_items;
	ro.idx = (int32_t *)route->p[0];
	ro.gate = (float *)route->p[1];
	ro.logits = (const float *)m->p[0];
	ro.bias = route->w[0];
	ro.table = route->w[1];
	ro.experts = route->i[0];
	ro.used = route->i[1];
	ro.scale = route->f[0];

	const struct few_product p = product(m);

	eng_mark(e, "router", &p, 1);
	few_products(e, &p, 1, f.rows);
	eng_mark(e, "route", NULL, 0);
	few_route(e, &ro, f.rows, items, n_items);
	if (!few_ffn(e, &f, (const float *)x->p[1]))
		return s.i;
	if (next_is(&s, OP_HC_OUT) && s.r[s.i].n_rows == s.rows && s.r[s.i].p[2] == x->p[0] && s.r[s.i].i[0] % 64 == 0)
		return s.i + run_streams(e, r + s.i, n - s.i, &f);
	eng_mark(e, "gather", NULL, 0);
	few_gather(e, (float *)x->p[0], &f, 0);
	eng_wrote(e, x->p[0]);
	return s.i;
}

int plan_run(struct eng *e, const struct rec *r, int n)
{
	struct attn_half a;
	int taken = 0;

	if (r->n_rows > e->matvec_rows || !r->n_rows)
		return 0;
	switch (r->op) {
	case OP_HC_OUT:
		return run_streams(e, r, n, NULL);
	case OP_HC_IN:
		if (!streams_fit(r))
			return 0;
		streams_in(e, r, NULL, NULL);
		return 1;
	case OP_MATMUL:
		taken = match_attention(&a, r, n);
		if (taken)
			run_attention(e, &a);
		return taken ? taken : run_experts(e, r, n);
	}
	return 0;
}
