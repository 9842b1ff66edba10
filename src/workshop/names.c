/* names.c - the official checkpoint's tensors and where each goes in a GGUF file.
 *
 * What  One table: official name, GGUF name, shape in the model's numbers, and in which layers it exists.
 *       plan_checkpoint() walks it and collects the targets in the order in which they will lie in the file.
 * Why   Names, shapes and presence are checked for every tensor before the first weight is read, by the
 *       same table.
 * Careful
 *       - Shapes are reversed: the table has GGUF order, (in, out).
 *       - w1 is gate, w3 is up, w2 is down.
 *       - In FP4 the stored shape is (out, in / 2): two elements to a byte.
 *       - `indexer.attn_q_b` and `indexer.proj` with a dot, `indexer_compressor_*` with an underscore,
 *         `exp_probs_b.bias`.
 * Source: docs/formats/gguf.md sections 3, 5 and 7. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "workshop/convert.h"

enum number {
	NONE,
	ONE,
	THREE,
	D,
	STREAMS,
	STREAMS_D,
	MIX,
	VOCAB,
	Q_RANK,
	HEADS,
	HEAD,
	HEADS_HEAD,
	GROUP_IN,
	GROUPS_O,
	POOL,
	RATIO,
	KEY,
	INDEX_HEADS,
	INDEX_Q,
	INDEX_POOL,
	EXPERTS,
	USED,
	FF
};

enum when { ALWAYS, POOLED, INDEXED, HASHED, BIASED };

struct row {
	const char *hf, *gguf;
	uint8_t in, out;	/* enum number; out NONE: a vector */
	uint8_t when;
};

static const struct row top_rows[] = {
	{"embed.weight", "token_embd.weight", D, VOCAB, ALWAYS},
};

static const struct row layer_rows[] = {
	{"hc_attn_fn", "hc_attn_fn.weight", STREAMS_D, MIX, ALWAYS},
	{"hc_attn_scale", "hc_attn_scale.weight", THREE, NONE, ALWAYS},
	{"hc_attn_base", "hc_attn_base.weight", MIX, NONE, ALWAYS},
	{"hc_ffn_fn", "hc_ffn_fn.weight", STREAMS_D, MIX, ALWAYS},
	{"hc_ffn_scale", "hc_ffn_scale.weight", THREE, NONE, ALWAYS},
	{"hc_ffn_base", "hc_ffn_base.weight", MIX, NONE, ALWAYS},
	{"attn_norm.weight", "attn_norm.weight", D, NONE, ALWAYS},
	{"attn.wq_a.weight", "attn_q_a.weight", D, Q_RANK, ALWAYS},
	{"attn.q_norm.weight", "attn_q_a_norm.weight", Q_RANK, NONE, ALWAYS},
	{"attn.wq_b.weight", "attn_q_b.weight", Q_RANK, HEADS_HEAD, ALWAYS},
	{"attn.wkv.weight", "attn_kv.weight", D, HEAD, ALWAYS},
	{"attn.kv_norm.weight", "attn_kv_a_norm.weight", HEAD, NONE, ALWAYS},
	{"attn.attn_sink", "attn_sinks.weight", HEADS, NONE, ALWAYS},
	{"attn.wo_a.weight", "attn_output_a.weight", GROUP_IN, GROUPS_O, ALWAYS},
	{"attn.wo_b.weight", "attn_output_b.weight", GROUPS_O, D, ALWAYS},
	{"attn.compressor.ape", "attn_compressor_ape.weight", POOL, RATIO, POOLED},
	{"attn.compressor.wkv.weight", "attn_compressor_kv.weight", D, POOL, POOLED},
	{"attn.compressor.wgate.weight", "attn_compressor_gate.weight", D, POOL, POOLED},
	{"attn.compressor.norm.weight", "attn_compressor_norm.weight", HEAD, NONE, POOLED},
	{"attn.indexer.compressor.ape", "indexer_compressor_ape.weight", INDEX_POOL, RATIO, INDEXED},
	{"attn.indexer.compressor.wkv.weight", "indexer_compressor_kv.weight", D, INDEX_POOL, INDEXED},
	{"attn.indexer.compressor.wgate.weight", "indexer_compressor_gate.weight", D, INDEX_POOL, INDEXED},
	{"attn.indexer.compressor.norm.weight", "indexer_compressor_norm.weight", KEY, NONE, INDEXED},
	{"attn.indexer.wq_b.weight", "indexer.attn_q_b.weight", Q_RANK, INDEX_Q, INDEXED},
	{"attn.indexer.weights_proj.weight", "indexer.proj.weight", D, INDEX_HEADS, INDEXED},
	{"ffn_norm.weight", "ffn_norm.weight", D, NONE, ALWAYS},
	{"ffn.gate.weight", "ffn_gate_inp.weight", D, EXPERTS, ALWAYS},
	{"ffn.gate.bias", "exp_probs_b.bias", EXPERTS, NONE, BIASED},
	{"ffn.gate.tid2eid", "ffn_gate_tid2eid.weight", USED, VOCAB, HASHED},
};

static const struct row expert_rows[] = {
	{"w1", "ffn_gate_exps.weight", D, FF, ALWAYS},
	{"w3", "ffn_up_exps.weight", D, FF, ALWAYS},
	{"w2", "ffn_down_exps.weight", FF, D, ALWAYS},
};

static const struct row shared_rows[] = {
	{"ffn.shared_experts.w1.weight", "ffn_gate_shexp.weight", D, FF, ALWAYS},
	{"ffn.shared_experts.w3.weight", "ffn_up_shexp.weight", D, FF, ALWAYS},
	{"ffn.shared_experts.w2.weight", "ffn_down_shexp.weight", FF, D, ALWAYS},
};

static const struct row end_rows[] = {
	{"hc_head_fn", "output_hc_fn.weight", STREAMS_D, STREAMS, ALWAYS},
	{"hc_head_scale", "output_hc_scale.weight", ONE, NONE, ALWAYS},
	{"hc_head_base", "output_hc_base.weight", STREAMS, NONE, ALWAYS},
	{"norm.weight", "output_norm.weight", D, NONE, ALWAYS},
	{"head.weight", "output.weight", D, VOCAB, ALWAYS},
};

static const struct row mtp_rows[] = {
	{"e_proj.weight", "e_proj.weight", D, D, ALWAYS},
	{"h_proj.weight", "h_proj.weight", D, D, ALWAYS},
	{"enorm.weight", "enorm.weight", D, NONE, ALWAYS},
	{"hnorm.weight", "hnorm.weight", D, NONE, ALWAYS},
	{"norm.weight", "norm.weight", D, NONE, ALWAYS},
};

static const struct row mtp_end_rows[] = {
	{"hc_head_fn", "hc_head_fn.weight", STREAMS_D, STREAMS, ALWAYS},
	{"hc_head_scale", "hc_head_scale.weight", ONE, NONE, ALWAYS},
	{"hc_head_base", "hc_head_base.weight", STREAMS, NONE, ALWAYS},
};

#define COUNT(rows) (sizeof(rows) / sizeof *(rows))

struct planner {
	struct plan *plan;
	const struct checkpoint *c;
	const struct numbers *n;
	uint8_t *used;			/* [n_tensors] of the checkpoint */
	const char *from, *to;		/* prefixes of names: "layers.3.", "blk.3." */
	int64_t ratio;			/* of the layer */
	bool hashed;
	struct err *err;
};

static uint64_t value(const struct planner *p, uint8_t which)
{
	const struct numbers *n = p->n;
	int64_t overlap = p->ratio == 4 ? 2 : 1;

	switch ((enum number)which) {
	case NONE:		return 1;
	case ONE:		return 1;
	case THREE:		return 3;
	case D:			return (uint64_t)n->d;
	case STREAMS:		return (uint64_t)n->streams;
	case STREAMS_D:		return (uint64_t)(n->streams * n->d);
	case MIX:		return (uint64_t)(n->streams * (n->streams + 2));
	case VOCAB:		return (uint64_t)n->vocab;
	case Q_RANK:		return (uint64_t)n->q_rank;
	case HEADS:		return (uint64_t)n->heads;
	case HEAD:		return (uint64_t)n->head;
	case HEADS_HEAD:	return (uint64_t)(n->heads * n->head);
	case GROUP_IN:		return (uint64_t)(n->heads * n->head / n->groups);
	case GROUPS_O:		return (uint64_t)(n->groups * n->o_rank);
	case POOL:		return (uint64_t)(overlap * n->head);
	case RATIO:		return (uint64_t)p->ratio;
	case KEY:		return (uint64_t)n->key;
	case INDEX_HEADS:	return (uint64_t)n->index_heads;
	case INDEX_Q:		return (uint64_t)(n->index_heads * n->key);
	case INDEX_POOL:	return (uint64_t)(overlap * n->key);
	case EXPERTS:		return (uint64_t)n->experts;
	case USED:		return (uint64_t)n->used;
	case FF:		return (uint64_t)n->ff;
	}
	return 0;
}

static bool present(const struct planner *p, uint8_t when)
{
	switch ((enum when)when) {
	case ALWAYS:	return true;
	case POOLED:	return p->ratio > 0;
	case INDEXED:	return p->ratio == 4;
	case HASHED:	return p->hashed;
	case BIASED:	return !p->hashed;
	}
	return false;
}

/* ------------------------------------------------------------------ targets */

void plan_clear(struct plan *p)
{
	for (size_t i = 0; i < p->n; i++) {
		mem_free(p->t[i].name);
		mem_free(p->t[i].piece);
	}
	mem_free(p->t);
	memset(p, 0, sizeof *p);
}

struct target *plan_find(struct plan *p, const char *name)
{
	for (size_t i = 0; i < p->n; i++)
		if (!strcmp(p->t[i].name, name))
			return &p->t[i];
	return NULL;
}

/* A new target at the end, with room for its pieces. */
static enum status new_target(struct plan *p, const char *name, size_t n_pieces, struct target **out,
                              struct err *err)
{
	struct target *t;

	if (p->n == p->room) {
		t = mem_grow(p->t, p->room ? 2 * p->room : 256, sizeof *t);
		if (!t)
			return err_set(err, ERR_MEMORY, "%s: no memory for the list of tensors", name);
		p->t = t;
		p->room = p->room ? 2 * p->room : 256;
	}
	t = &p->t[p->n];
	memset(t, 0, sizeof *t);
	t->name = mem_str(name);
	t->piece = mem_array(n_pieces, sizeof *t->piece);
	t->n_pieces = n_pieces;
	if (!t->name || !t->piece) {
		mem_free(t->name);
		mem_free(t->piece);
		return err_set(err, ERR_MEMORY, "%s: no memory for the list of tensors", name);
	}
	p->n++;
	*out = t;
	return OK;
}

enum status plan_add_gguf(struct plan *p, const struct gguf_tensor *g, struct err *err)
{
	char name[256];
	struct target *t;
	size_t slices = (size_t)(g->dims[2] * g->dims[3]);

	if (g->name.n >= sizeof name)
		return err_set(err, ERR_FORMAT,
		               "%.100s...: a tensor's name has %zu bytes, expected less than %zu",
		               g->name.p, g->name.n, sizeof name);
	memcpy(name, g->name.p, g->name.n);
	name[g->name.n] = 0;
	TRY(new_target(p, name, slices, &t, err));
	t->n_dims = g->n_dims;
	memcpy(t->dims, g->dims, sizeof t->dims);
	t->cols = g->dims[0];
	t->rows = g->dims[1];
	t->type = t->source_type = g->type;
	t->integer = g->type == DTYPE_I32;
	t->copy = true;
	t->source_bytes = g->bytes;
	for (size_t i = 0; i < slices; i++)
		t->piece[i] = (struct piece){.coding = CODING_GGUF, .data = g->data + i * (g->bytes / slices)};
	return OK;
}

enum status plan_gguf(struct plan *out, const struct gguf *g, struct err *err)
{
	enum status st = OK;

	memset(out, 0, sizeof *out);
	for (uint64_t i = 0; st == OK && i < g->n_tensors; i++)
		st = plan_add_gguf(out, &g->tensor[i], err);
	if (st != OK)
		plan_clear(out);
	return st;
}

/* ------------------------------------------------------------------ one tensor of the checkpoint */

static const struct st_tensor *take(struct planner *p, const char *name)
{
	const struct st_tensor *t = checkpoint_tensor(p->c, name);

	if (t)
		p->used[t - p->c->tensor] = 1;
	return t;
}

/* The scales of weight `name`, whose shape must be [rows, cols]. */
static enum status take_scale(struct planner *p, const char *name, uint64_t rows, uint64_t cols,
			      const struct st_tensor **out)
{
	size_t stem = strlen(name);
	char scale[512];
	const struct st_tensor *t;

	if (stem > 7 && !strcmp(name + stem - 7, ".weight"))
		stem -= 7;
	snprintf(scale, sizeof scale, "%.*s.scale", (int)stem, name);
	t = *out = take(p, scale);
	if (!t)
		return err_set(p->err, ERR_FORMAT, "%s: %s is missing, the scales of %s", p->c->path, scale,
		               name);
	if (t->dtype != ST_F8_E8M0 || t->n_dims != 2 || t->dims[0] != rows || t->dims[1] != cols)
		return err_set(p->err, ERR_FORMAT,
		               "%s: expected F8_E8M0 [%" PRIu64 ", %" PRIu64
		               "], the checkpoint has %s [%" PRIu64 ", %" PRIu64 "]",
		               scale, rows, cols, st_dtype_name(t->dtype), t->dims[0], t->dims[1]);
	return OK;
}

/* Fills a piece from tensor `name` of [out, in] (out 1: a vector, when `vector`). */
static enum status take_piece(struct planner *p, struct piece *piece, const char *name, uint64_t in, uint64_t out,
			      bool vector, bool integer, uint64_t *bytes)
{
	const struct st_tensor *t = take(p, name);
	uint64_t stored = in;
	bool fits;

	if (!t)
		return err_set(p->err, ERR_FORMAT, "%s: %s is missing", p->c->path, name);
	piece->w = t;
	switch (t->dtype) {
	case ST_F8_E4M3:
		piece->coding = CODING_FP8;
		fits = !integer && !vector;
		break;
	case ST_I8:
	case ST_U8:
		piece->coding = CODING_FP4;
		stored = in / 2;
		fits = !integer && !vector && in % 32 == 0;
		break;
	case ST_I32:
	case ST_I64:
		fits = integer;
		break;
	case ST_F8_E8M0:
	case ST_DTYPE_COUNT:
		fits = false;
		break;
	default:
		fits = !integer;
	}
	if (!fits)
		return err_set(p->err, ERR_FORMAT, "%s: dtype is %s, expected %s", name,
		               st_dtype_name(t->dtype),
		               integer  ? "I64 or I32"
		               : vector ? "BF16, F16 or F32"
		                        : "BF16, F16, F32, F8_E4M3 or I8 (FP4)");
	if (t->n_dims != (vector ? 1 : 2) || t->dims[0] != (vector ? stored : out) ||
	    t->dims[1] != (vector ? 1 : stored))
		return err_set(p->err, ERR_FORMAT,
		               "%s: expected shape [%" PRIu64 "%s%.0" PRIu64
		               "], the checkpoint has [%" PRIu64 ", %" PRIu64 "]",
		               name, vector ? stored : out, vector ? "" : ", ", vector ? 0 : stored,
		               t->dims[0], t->dims[1]);
	*bytes += t->bytes;
	if (piece->coding == CODING_FP8)
		TRY(take_scale(p, name, (out + 127) / 128, (in + 127) / 128, &piece->scale));
	if (piece->coding == CODING_FP4)
		TRY(take_scale(p, name, out, in / 32, &piece->scale));
	if (piece->scale)
		*bytes += piece->scale->bytes;
	return OK;
}

static enum status add_rows(struct planner *p, const struct row *rows, size_t n)
{
	char name[256];

	for (size_t i = 0; i < n; i++) {
		const struct row *r = &rows[i];
		struct target *t;

		if (!present(p, r->when))
			continue;
		snprintf(name, sizeof name, "%s%s", p->to, r->gguf);
		TRY(new_target(p->plan, name, 1, &t, p->err));
		t->integer = r->when == HASHED;
		t->n_dims = r->out == NONE ? 1 : 2;
		t->dims[0] = t->cols = value(p, r->in);
		t->dims[1] = t->rows = value(p, r->out);
		t->dims[2] = t->dims[3] = 1;
		snprintf(name, sizeof name, "%s%s", p->from, r->hf);
		TRY(take_piece(p, t->piece, name, t->cols, t->rows, r->out == NONE, t->integer,
		               &t->source_bytes));
	}
	return OK;
}

static enum status add_experts(struct planner *p)
{
	char name[256];

	for (size_t i = 0; i < COUNT(expert_rows); i++) {
		const struct row *r = &expert_rows[i];
		size_t experts = (size_t)p->n->experts;
		struct target *t;

		snprintf(name, sizeof name, "%s%s", p->to, r->gguf);
		TRY(new_target(p->plan, name, experts, &t, p->err));
		t->n_dims = 3;
		t->dims[0] = t->cols = value(p, r->in);
		t->dims[1] = t->rows = value(p, r->out);
		t->dims[2] = experts;
		t->dims[3] = 1;
		for (size_t e = 0; e < experts; e++) {
			snprintf(name, sizeof name, "%sffn.experts.%zu.%s.weight", p->from, e, r->hf);
			TRY(take_piece(p, &t->piece[e], name, t->cols, t->rows, false, false, &t->source_bytes));
			if (t->piece[e].coding != t->piece[0].coding ||
			    t->piece[e].w->dtype != t->piece[0].w->dtype)
				return err_set(p->err, ERR_FORMAT,
				               "%s: dtype is %s, but that of expert 0 is %s", name,
				               st_dtype_name(t->piece[e].w->dtype),
				               st_dtype_name(t->piece[0].w->dtype));
		}
	}
	return OK;
}

static enum status add_layer(struct planner *p)
{
	TRY(add_rows(p, layer_rows, COUNT(layer_rows)));
	TRY(add_experts(p));
	return add_rows(p, shared_rows, COUNT(shared_rows));
}

/* ------------------------------------------------------------------ the files */

static enum status add_main(struct planner *p)
{
	char from[32], to[32];

	p->from = p->to = "";
	TRY(add_rows(p, top_rows, COUNT(top_rows)));
	for (int64_t l = 0; l < p->n->layers; l++) {
		snprintf(from, sizeof from, "layers.%" PRId64 ".", l);
		snprintf(to, sizeof to, "blk.%" PRId64 ".", l);
		p->from = from;
		p->to = to;
		p->ratio = p->n->ratio[l];
		p->hashed = l < p->n->hash_layers;
		TRY(add_layer(p));
	}
	p->from = p->to = "";
	return add_rows(p, end_rows, COUNT(end_rows));
}

static enum status add_mtp(struct planner *p)
{
	p->from = p->to = "mtp.0.";
	p->ratio = 0;
	p->hashed = false;
	if (!p->n->mtp_layers)
		return err_set(p->err, ERR_FORMAT, "%s: has no MTP block (no tensor named mtp.0.*)", p->c->path);
	TRY(add_rows(p, mtp_rows, COUNT(mtp_rows)));
	TRY(add_layer(p));
	return add_rows(p, mtp_end_rows, COUNT(mtp_end_rows));
}

static bool is_mtp(const char *name)
{
	return !strncmp(name, "mtp.", 4);
}

/* Copies of the trunk's embedding and head, which the MTP block shares. */
static bool is_duplicate(const char *name)
{
	size_t n = strlen(name);

	return strstr(name, "emb") || (n >= 11 && !strcmp(name + n - 11, "head.weight"));
}

enum status plan_checkpoint(struct plan *out, const struct checkpoint *c, const struct numbers *n, bool mtp,
                            struct err *err)
{
	struct planner p = {.plan = out, .c = c, .n = n, .err = err};
	enum status st;

	memset(out, 0, sizeof *out);
	p.used = mem_zero(c->n_tensors ? c->n_tensors : 1);
	if (!p.used)
		return err_set(err, ERR_MEMORY, "%s: no memory for the plan", c->path);
	st = mtp ? add_mtp(&p) : add_main(&p);
	for (size_t i = 0; st == OK && i < c->n_tensors; i++) {
		const char *name = c->tensor[i].name;

		if (!p.used[i] && is_mtp(name) == mtp && !(mtp && is_duplicate(name)))
			st = err_set(err, ERR_FORMAT, "%s: %s is a tensor that this program does not know",
			             c->path, name);
	}
	mem_free(p.used);
	if (st != OK)
		plan_clear(out);
	return st;
}

/* ------------------------------------------------------------------ numbers */

struct reader {
	const struct checkpoint *c;
	struct err *err;
};

/* Dimension `which` (as in the file) of a tensor. */
__attribute__((format(printf, 4, 5)))
static enum status dim(const struct reader *r, int64_t *out, int which, const char *fmt, ...)
{
	const struct st_tensor *t;
	char name[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(name, sizeof name, fmt, ap);
	va_end(ap);
	t = checkpoint_tensor(r->c, name);
	if (!t)
		return err_set(r->err, ERR_FORMAT, "%s: %s is missing", r->c->path, name);
	if (t->dims[which] > INT32_MAX)
		return err_set(r->err, ERR_FORMAT,
		               "%s: dimension %d is %" PRIu64 ", expected less than 2^31", name, which,
		               t->dims[which]);
	*out = (int64_t)t->dims[which];
	return OK;
}

__attribute__((format(printf, 2, 3)))
static bool has(const struct checkpoint *c, const char *fmt, ...)
{
	char name[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(name, sizeof name, fmt, ap);
	va_end(ap);
	return checkpoint_tensor(c, name) != NULL;
}

static enum status layer_numbers(const struct reader *r, struct numbers *n)
{
	int indexed = -1;

	while (n->layers < MAX_LAYERS && has(r->c, "layers.%" PRId64 ".attn_norm.weight", n->layers)) {
		int64_t l = n->layers++;

		if (has(r->c, "layers.%" PRId64 ".attn.compressor.ape", l))
			TRY(dim(r, &n->ratio[l], 0, "layers.%" PRId64 ".attn.compressor.ape", l));
		if (n->ratio[l] != 0 && n->ratio[l] != 4 && n->ratio[l] != 128)
			return err_set(r->err, ERR_FORMAT,
			               "layers.%" PRId64
			               ".attn.compressor.ape: expected 4 or 128 rows, the "
			               "checkpoint has %" PRId64,
			               l, n->ratio[l]);
		if (n->ratio[l] == 4 && indexed < 0)
			indexed = (int)l;
		if (has(r->c, "layers.%" PRId64 ".ffn.gate.tid2eid", l) && n->hash_layers == l)
			n->hash_layers = l + 1;
	}
	if (n->layers == 0)
		return err_set(r->err, ERR_FORMAT,
		               "%s: has no layers.0.attn_norm.weight: it is no DeepSeek V4 checkpoint",
		               r->c->path);
	if (indexed >= 0) {
		TRY(dim(r, &n->index_heads, 0, "layers.%d.attn.indexer.weights_proj.weight", indexed));
		TRY(dim(r, &n->key, 0, "layers.%d.attn.indexer.compressor.norm.weight", indexed));
	}
	return OK;
}

enum status numbers_from_checkpoint(struct numbers *n, const struct checkpoint *c, struct err *err)
{
	struct reader r = {c, err};
	int64_t group_in, groups_o, streams_d;

	*n = (struct numbers){
		.index_heads = 64,
		.key = 128,
		.used = 6,
		.window = 128,
		.top_k = 512,
		.context = 1048576,
		.sinkhorn = 20,
		.original_context = 65536,
		.eps = 1e-6,
		.hc_eps = 1e-6,
		.theta = 10000,
		.theta_pooled = 160000,
		.yarn_factor = 16,
		.yarn_fast = 32,
		.yarn_slow = 1,
		.route_scale = 1.5,
		.clamp = 10,
	};
	TRY(layer_numbers(&r, n));
	TRY(dim(&r, &n->vocab, 0, "embed.weight"));
	TRY(dim(&r, &n->d, 1, "embed.weight"));
	TRY(dim(&r, &n->heads, 0, "layers.0.attn.attn_sink"));
	TRY(dim(&r, &n->head, 0, "layers.0.attn.kv_norm.weight"));
	TRY(dim(&r, &n->q_rank, 0, "layers.0.attn.q_norm.weight"));
	TRY(dim(&r, &groups_o, 0, "layers.0.attn.wo_a.weight"));
	TRY(dim(&r, &group_in, 1, "layers.0.attn.wo_a.weight"));
	TRY(dim(&r, &streams_d, 1, "hc_head_fn"));
	TRY(dim(&r, &n->experts, 0, "layers.0.ffn.gate.weight"));
	TRY(dim(&r, &n->ff, 0, "layers.0.ffn.experts.0.w1.weight"));
	if (n->hash_layers)
		TRY(dim(&r, &n->used, 1, "layers.0.ffn.gate.tid2eid"));
	n->mtp_layers = has(c, "mtp.0.attn_norm.weight");
	if (streams_d % n->d)
		return err_set(err, ERR_FORMAT,
		               "hc_head_fn: expected a multiple of %" PRId64
		               " columns, the checkpoint has %" PRId64,
		               n->d, streams_d);
	n->streams = streams_d / n->d;
	n->groups = n->heads * n->head / group_in;
	if (n->groups < 1 || n->groups * group_in != n->heads * n->head || groups_o % n->groups)
		return err_set(err, ERR_FORMAT,
		               "layers.0.attn.wo_a.weight: [%" PRId64 ", %" PRId64
		               "] does not divide %" PRId64 " heads of %" PRId64 " into groups",
		               groups_o, group_in, n->heads, n->head);
	n->o_rank = groups_o / n->groups;
	return OK;
}
