/* weights.c - binds tensors by name and checks type and shape once, so that the forward pass checks nothing.
 *
 * What  One call of bind() per tensor says its name, its shape, what it may be stored as, which class it counts
 *       for and how much of it one token reads.
 * Careful
 *       - `indexer.attn_q_b` and `indexer.proj` are spelt with a dot, `indexer_compressor_*` with an underscore, and
 *         `exp_probs_b.bias` neither starts with ffn_ nor ends in .weight.
 *       - A hash table's entries are expert numbers: they are checked here, because kernels index with them. */
#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct weight_name {
	struct weight_name *next;
	char text[];
};

enum kind {
	MATRIX,		/* any type with a product kernel */
	VECTOR,		/* F32, F16, BF16: read element by element */
	TABLE		/* I32 */
};

enum use {
	USE_ALL,	/* a token reads the whole tensor */
	USE_ROW,	/* one row of it */
	USE_EXPERTS	/* K of E matrices */
};

struct binder {
	struct weights *w;
	const struct gguf *g;
	const struct shape *s;
	struct backend *be;
	struct err *err;
	int32_t layer;		/* -1: names without a "blk.N." prefix */
	enum status st;		/* first failure; later calls do nothing */
};

const char *weight_class_name(enum weight_class c)
{
	static const char *const name[CLASS_COUNT] = {
		"embedding", "attention projections", "compressors", "indexer", "router", "routed experts",
		"shared experts", "hyper-connections", "norms and sinks", "output head",
	};

	return name[c];
}

/* Full tensor name, kept until weights_clear. */
static const char *full_name(struct binder *b, const char *name)
{
	struct weight_name *n = mem_alloc(sizeof *n + strlen(name) + 32);

	if (!n) {
		b->st = err_set(b->err, ERR_MEMORY, "%s: no memory for tensor names", b->g->path);
		return NULL;
	}
	if (b->layer >= 0)
		snprintf(n->text, strlen(name) + 32, "blk.%d.%s", b->layer, name);
	else
		memcpy(n->text, name, strlen(name) + 1);
	n->next = b->w->names;
	b->w->names = n;
	return n->text;
}

static bool type_fits(enum dtype t, enum kind kind)
{
	if (kind == TABLE)
		return t == DTYPE_I32;
	if (kind == VECTOR)
		return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16;
	return t != DTYPE_I32;
}

static void check(struct binder *b, const struct gguf_tensor *t, const char *name, int64_t in, int64_t out, int64_t n,
		  enum kind kind)
{
	static const char *const wanted[] = {"a matrix type", "F32, F16 or BF16", "I32"};

	if (!type_fits(t->type, kind))
		b->st = err_set(b->err, ERR_FORMAT, "%s: %s: expected %s, file has %s", b->g->path, name, wanted[kind],
				dtype_info(t->type)->name);
	else if (t->dims[0] != (uint64_t)in || t->dims[1] != (uint64_t)out || t->dims[2] != (uint64_t)n ||
		 t->dims[3] != 1)
		b->st = err_set(b->err, ERR_FORMAT, "%s: %s: expected [%lld, %lld, %lld], file has [%llu, %llu, %llu]",
				b->g->path, name, (long long)in, (long long)out, (long long)n,
				(unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
				(unsigned long long)t->dims[2]);
}

/* Binds one tensor of [n, out, in]. */
static void bind(struct binder *b, struct weight *w, const char *short_name, int64_t in, int64_t out, int64_t n,
		 enum kind kind, enum weight_class class, enum use use)
{
	const struct gguf_tensor *t;
	const char *name;
	uint64_t read;

	if (b->st != OK || !(name = full_name(b, short_name)))
		return;
	t = gguf_tensor(b->g, name);
	if (!t) {
		b->st = err_set(b->err, ERR_FORMAT, "%s: %s: tensor is missing", b->g->path, name);
		return;
	}
	check(b, t, name, in, out, n, kind);
	if (b->st != OK)
		return;
	*w = (struct weight){.name = name, .type = t->type, .in = (int32_t)in, .out = (int32_t)out, .n = (int32_t)n,
			     .row_bytes = dtype_bytes(t->type, (size_t)in), .data = t->data};
	read = use == USE_ALL ? t->bytes : use == USE_ROW ? w->row_bytes
							  : t->bytes / (uint64_t)n * (uint64_t)b->s->used;
	b->w->class_bytes[class] += t->bytes;
	b->w->class_read[class] += read;
	if (b->be)
		b->st = b->be->weight_load(b->be, w, b->err);
}

static void matrix(struct binder *b, struct weight *w, const char *name, int64_t in, int64_t out,
		   enum weight_class class)
{
	bind(b, w, name, in, out, 1, MATRIX, class, USE_ALL);
}

static void vector(struct binder *b, struct weight *w, const char *name, int64_t n, enum weight_class class)
{
	bind(b, w, name, n, 1, 1, VECTOR, class, USE_ALL);
}

static void hyper(struct binder *b, struct hc_triple *h, const char *prefix, int64_t outputs, int64_t scales)
{
	char name[64];

	snprintf(name, sizeof name, "%s_fn.weight", prefix);
	matrix(b, &h->fn, name, (int64_t)GEOM_STREAMS * b->s->d, outputs, CLASS_HYPER);
	snprintf(name, sizeof name, "%s_scale.weight", prefix);
	vector(b, &h->scale, name, scales, CLASS_HYPER);
	snprintf(name, sizeof name, "%s_base.weight", prefix);
	vector(b, &h->base, name, outputs, CLASS_HYPER);
}

/* Compressor of width `width` in a layer of ratio r. */
static void compressor(struct binder *b, const char *prefix, int32_t width, int32_t r, struct weight *ape,
		       struct weight *kv, struct weight *gate, struct weight *norm, enum weight_class class)
{
	int64_t pw = geom_pool_width(width, r);
	char name[64];

	snprintf(name, sizeof name, "%s_ape.weight", prefix);
	bind(b, ape, name, pw, r, 1, VECTOR, class, USE_ROW);
	snprintf(name, sizeof name, "%s_kv.weight", prefix);
	matrix(b, kv, name, b->s->d, pw, class);
	snprintf(name, sizeof name, "%s_gate.weight", prefix);
	matrix(b, gate, name, b->s->d, pw, class);
	snprintf(name, sizeof name, "%s_norm.weight", prefix);
	vector(b, norm, name, width, CLASS_NORMS);
}

static void attention(struct binder *b, struct layer_weights *w, int32_t r)
{
	const struct shape *s = b->s;
	int64_t hk = (int64_t)s->heads * GEOM_HEAD;

	hyper(b, &w->hc_attn, "hc_attn", GEOM_MIX, 3);
	vector(b, &w->attn_norm, "attn_norm.weight", s->d, CLASS_NORMS);
	matrix(b, &w->q_a, "attn_q_a.weight", s->d, s->q_rank, CLASS_ATTENTION);
	vector(b, &w->q_a_norm, "attn_q_a_norm.weight", s->q_rank, CLASS_NORMS);
	matrix(b, &w->q_b, "attn_q_b.weight", s->q_rank, hk, CLASS_ATTENTION);
	matrix(b, &w->kv, "attn_kv.weight", s->d, GEOM_HEAD, CLASS_ATTENTION);
	vector(b, &w->kv_norm, "attn_kv_a_norm.weight", GEOM_HEAD, CLASS_NORMS);
	vector(b, &w->sinks, "attn_sinks.weight", s->heads, CLASS_NORMS);
	matrix(b, &w->out_a, "attn_output_a.weight", hk / s->groups, (int64_t)s->groups * s->o_rank, CLASS_ATTENTION);
	matrix(b, &w->out_b, "attn_output_b.weight", (int64_t)s->groups * s->o_rank, s->d, CLASS_ATTENTION);
	if (r)
		compressor(b, "attn_compressor", GEOM_HEAD, r, &w->comp_ape, &w->comp_kv, &w->comp_gate, &w->comp_norm,
			   CLASS_COMPRESSOR);
	if (r == 4) {
		matrix(b, &w->index_q_b, "indexer.attn_q_b.weight", s->q_rank, (int64_t)s->index_heads * GEOM_KEY,
		       CLASS_INDEXER);
		matrix(b, &w->index_proj, "indexer.proj.weight", s->d, s->index_heads, CLASS_INDEXER);
		compressor(b, "indexer_compressor", GEOM_KEY, r, &w->index_ape, &w->index_kv, &w->index_gate,
			   &w->index_norm, CLASS_INDEXER);
	}
}

/* Every entry of a hash table must be an expert. */
static void check_table(struct binder *b, const struct weight *w)
{
	const uint8_t *p = w->data;
	size_t n = (size_t)w->in * (size_t)w->out;

	for (size_t i = 0; b->st == OK && i < n; i++) {
		int32_t e;

		memcpy(&e, p + i * sizeof e, sizeof e);
		if (e < 0 || e >= b->s->experts)
			b->st = err_set(b->err, ERR_FORMAT, "%s: %s: token %zu: expected experts 0..%d, file has %d",
					b->g->path, w->name, i / (size_t)w->in, b->s->experts - 1, e);
	}
}

static void experts(struct binder *b, struct layer_weights *w)
{
	const struct shape *s = b->s;
	char name[64];

	hyper(b, &w->hc_ffn, "hc_ffn", GEOM_MIX, 3);
	vector(b, &w->ffn_norm, "ffn_norm.weight", s->d, CLASS_NORMS);
	matrix(b, &w->router, "ffn_gate_inp.weight", s->d, s->experts, CLASS_ROUTER);
	if (b->layer < s->n_hash) {
		bind(b, &w->hash_table, "ffn_gate_tid2eid.weight", s->used, s->vocab, 1, TABLE, CLASS_ROUTER, USE_ROW);
		check_table(b, &w->hash_table);
	} else {
		snprintf(name, sizeof name, "blk.%d.exp_probs_b.bias", b->layer);
		if (gguf_tensor(b->g, name))
			vector(b, &w->router_bias, "exp_probs_b.bias", s->experts, CLASS_ROUTER);
	}
	bind(b, &w->gate_exps, "ffn_gate_exps.weight", s->d, s->ff, s->experts, MATRIX, CLASS_EXPERTS, USE_EXPERTS);
	bind(b, &w->up_exps, "ffn_up_exps.weight", s->d, s->ff, s->experts, MATRIX, CLASS_EXPERTS, USE_EXPERTS);
	bind(b, &w->down_exps, "ffn_down_exps.weight", s->ff, s->d, s->experts, MATRIX, CLASS_EXPERTS, USE_EXPERTS);
	matrix(b, &w->gate_sh, "ffn_gate_shexp.weight", s->d, s->ff, CLASS_SHARED);
	matrix(b, &w->up_sh, "ffn_up_shexp.weight", s->d, s->ff, CLASS_SHARED);
	matrix(b, &w->down_sh, "ffn_down_shexp.weight", s->ff, s->d, CLASS_SHARED);
}

enum status weights_bind(struct weights *w, const struct gguf *g, const struct shape *s, struct backend *be,
			 struct err *err)
{
	struct binder b = {.w = w, .g = g, .s = s, .be = be, .err = err, .layer = -1, .st = OK};

	memset(w, 0, sizeof *w);
	w->n_layer = s->n_layer;
	w->layer = mem_array((size_t)s->n_layer, sizeof *w->layer);
	if (!w->layer)
		return err_set(err, ERR_MEMORY, "%s: no memory for %d layers", g->path, s->n_layer);
	bind(&b, &w->embed, "token_embd.weight", s->d, s->vocab, 1, MATRIX, CLASS_EMBEDDING, USE_ROW);
	for (b.layer = 0; b.layer < s->n_layer; b.layer++) {
		attention(&b, &w->layer[b.layer], s->ratio[b.layer]);
		experts(&b, &w->layer[b.layer]);
	}
	b.layer = -1;
	hyper(&b, &w->hc_head, "output_hc", GEOM_STREAMS, 1);
	vector(&b, &w->output_norm, "output_norm.weight", s->d, CLASS_NORMS);
	matrix(&b, &w->output, "output.weight", s->d, s->vocab, CLASS_OUTPUT);
	if (b.st != OK)
		weights_clear(w);
	return b.st;
}

void weights_clear(struct weights *w)
{
	while (w->names) {
		struct weight_name *next = w->names->next;

		mem_free(w->names);
		w->names = next;
	}
	mem_free(w->layer);
	memset(w, 0, sizeof *w);
}
