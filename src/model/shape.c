/* shape.c - reads the numbers of a model from its metadata and refuses what the engine does not compute.
 *
 * What  Widths, counts and limits come from the file, so that small members of the family load; what is the same in
 *       all of them (head width, rotary channels, streams, ...) is a constant of geom.h and only checked.
 * Careful
 *       - Ratios come from the file, never from a pattern: other models of the family start differently.
 *       - RoPE frequencies are rounded to float32 at every step the official code does; positions multiply them in
 *         float32 later.  YaRN is always on for layers with a compressor, whatever the length. */
#include "model/shape.h"

#include <math.h>
#include <string.h>

#include "backend/geom.h"

#define P "deepseek4."

/* Reads an integer and checks its range. */
static enum status number(const struct gguf *g, const char *key, int64_t lo, int64_t hi, int32_t *out,
			  struct err *err)
{
	uint64_t v;

	TRY(gguf_u64(g, key, &v, err));
	if (v >= (uint64_t)lo && v <= (uint64_t)hi) {
		*out = (int32_t)v;
		return OK;
	}
	if (lo == hi)
		return err_set(err, ERR_FORMAT, "%s: %s: expected %lld, file has %llu", g->path, key, (long long)lo,
			       (unsigned long long)v);
	return err_set(err, ERR_FORMAT, "%s: %s: expected %lld..%lld, file has %llu", g->path, key, (long long)lo,
		       (long long)hi, (unsigned long long)v);
}

/* Reads a positive finite number. */
static enum status real(const struct gguf *g, const char *key, float *out, struct err *err)
{
	double v;

	TRY(gguf_f64(g, key, &v, err));
	if (!isfinite(v) || v <= 0 || v > 1e30)
		return err_set(err, ERR_FORMAT, "%s: %s: expected a positive number, file has %g", g->path, key, v);
	*out = (float)v;
	return OK;
}

static enum status exact(const struct gguf *g, const char *key, double want, struct err *err)
{
	double v;

	TRY(gguf_f64(g, key, &v, err));
	if (!(fabs(v - want) <= 1e-6 * fabs(want)))
		return err_set(err, ERR_FORMAT, "%s: %s: expected %g, file has %g", g->path, key, want, v);
	return OK;
}

static enum status architecture(const struct gguf *g, struct err *err)
{
	struct gguf_string name;

	if (!gguf_find(g, "general.architecture"))
		return OK;	/* the deepseek4.* keys decide */
	TRY(gguf_str(g, "general.architecture", &name, err));
	if (name.n != strlen("deepseek4") || memcmp(name.p, "deepseek4", name.n))
		return err_set(err, ERR_FORMAT, "%s: general.architecture: expected deepseek4, file has %.*s", g->path,
			       (int)(name.n > 60 ? 60 : name.n), name.p);
	return OK;
}

/* Array of numbers with at least n elements. */
static enum status array(const struct gguf *g, const char *key, int32_t n, const struct gguf_kv **out,
			 struct err *err)
{
	const struct gguf_kv *kv = gguf_find(g, key);

	if (!kv)
		return err_set(err, ERR_FORMAT, "%s: %s: missing", g->path, key);
	if (kv->type != GGUF_ARRAY || kv->element == GGUF_STRING || kv->element == GGUF_BOOL)
		return err_set(err, ERR_FORMAT, "%s: %s: expected an array of numbers, file has %s", g->path, key,
			       gguf_type_name(kv->type == GGUF_ARRAY ? kv->element : kv->type));
	if (kv->count < (uint64_t)n)
		return err_set(err, ERR_FORMAT, "%s: %s: expected at least %d elements, file has %llu", g->path, key,
			       n, (unsigned long long)kv->count);
	*out = kv;
	return OK;
}

static enum status per_layer(struct shape *s, const struct gguf *g, struct err *err)
{
	const struct gguf_kv *ratios, *limits;

	TRY(array(g, P "attention.compress_ratios", s->n_layer, &ratios, err));
	TRY(array(g, P "swiglu_clamp_exp", s->n_layer, &limits, err));
	for (int32_t l = 0; l < s->n_layer; l++) {
		double r = gguf_number(ratios, (uint64_t)l), c = gguf_number(limits, (uint64_t)l);

		if (r != 0 && r != 4 && r != 128)
			return err_set(err, ERR_FORMAT,
				       "%s: %sattention.compress_ratios[%d]: expected 0, 4 or 128, file has %g",
				       g->path, P, l, r);
		if (!isfinite(c) || c <= 0)
			return err_set(err, ERR_FORMAT,
				       "%s: %sswiglu_clamp_exp[%d]: expected a positive number, file has %g", g->path,
				       P, l, c);
		s->ratio[l] = (int32_t)r;
		s->limit[l] = (float)c;
	}
	return OK;
}

/* Number of the rotary pair that turns `rotations` times in the original context. */
static double yarn_pair(double rotations, double original, double theta)
{
	return GEOM_ROT * log(original / (rotations * 2 * M_PI)) / (2 * log(theta));
}

static void fill_freq(struct shape *s)
{
	double lo = floor(yarn_pair(s->yarn_fast, s->yarn_original, s->theta_pooled));
	double hi = ceil(yarn_pair(s->yarn_slow, s->yarn_original, s->theta_pooled));

	lo = fmax(lo, 0);
	hi = fmin(hi, GEOM_ROT - 1);
	for (int32_t i = 0; i < GEOM_ROT / 2; i++) {
		float at = (float)(2 * i) / GEOM_ROT;
		float plain = 1 / (float)pow((double)s->theta, (double)at);
		float far = 1 / (float)pow((double)s->theta_pooled, (double)at);
		float ramp = (float)(((double)i - lo) / fmax(hi - lo, 0.001));

		ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
		s->freq[0][i] = plain;
		s->freq[1][i] = far / s->yarn_factor * ramp + far * (1 - ramp);
	}
}

static enum status constants(const struct gguf *g, struct err *err)
{
	static const struct {
		const char *key;
		int32_t value;
	} fixed[] = {
		{P "attention.head_count_kv", 1},
		{P "attention.key_length", GEOM_HEAD},
		{P "attention.value_length", GEOM_HEAD},
		{P "rope.dimension_count", GEOM_ROT},
		{P "attention.indexer.key_length", GEOM_KEY},
		{P "expert_shared_count", 1},
		{P "hyper_connection.count", GEOM_STREAMS},
	};
	static const struct {
		const char *key;
		int32_t value;
	} optional[] = {
		{P "expert_gating_func", 4},
		{P "expert_group_count", 0},
		{P "expert_group_used_count", 0},
	};
	int32_t ignored;
	bool norm;

	for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
		TRY(number(g, fixed[i].key, fixed[i].value, fixed[i].value, &ignored, err));
	for (size_t i = 0; i < sizeof optional / sizeof *optional; i++)
		if (gguf_find(g, optional[i].key))
			TRY(number(g, optional[i].key, optional[i].value, optional[i].value, &ignored, err));
	TRY(exact(g, P "attention.layer_norm_rms_epsilon", 1e-6, err));
	TRY(exact(g, P "hyper_connection.epsilon", 1e-6, err));
	TRY(gguf_bool(g, P "expert_weights_norm", &norm, err));
	if (!norm)
		return err_set(err, ERR_FORMAT, "%s: %sexpert_weights_norm: expected true, file has false", g->path, P);
	return OK;
}

/* Relations between numbers that the operations rely on. */
static enum status relations(const struct shape *s, const struct gguf *g, struct err *err)
{
	if (s->heads % s->groups)
		return err_set(err, ERR_FORMAT, "%s: %sattention.output_group_count: expected a divisor of %d heads, "
			       "file has %d", g->path, P, s->heads, s->groups);
	if (s->used > s->experts)
		return err_set(err, ERR_FORMAT, "%s: %sexpert_used_count: expected at most %d experts, file has %d",
			       g->path, P, s->experts, s->used);
	return OK;
}

enum status shape_read(struct shape *s, const struct gguf *g, struct err *err)
{
	memset(s, 0, sizeof *s);
	TRY(architecture(g, err));
	TRY(number(g, P "block_count", 1, SHAPE_MAX_LAYERS, &s->n_layer, err));
	TRY(number(g, P "embedding_length", 32, 1 << 17, &s->d, err));
	TRY(number(g, P "vocab_size", 8, 1 << 24, &s->vocab, err));
	TRY(number(g, P "attention.head_count", 1, 1024, &s->heads, err));
	TRY(number(g, P "attention.q_lora_rank", 32, 1 << 16, &s->q_rank, err));
	TRY(number(g, P "attention.output_group_count", 1, 1024, &s->groups, err));
	TRY(number(g, P "attention.output_lora_rank", 1, 1 << 16, &s->o_rank, err));
	TRY(number(g, P "attention.sliding_window", 1, 4096, &s->window, err));
	TRY(number(g, P "attention.indexer.head_count", 1, 1024, &s->index_heads, err));
	TRY(number(g, P "attention.indexer.top_k", 1, 1 << 16, &s->index_top_k, err));
	TRY(number(g, P "expert_count", 1, 1 << 12, &s->experts, err));
	TRY(number(g, P "expert_used_count", 1, 64, &s->used, err));
	TRY(number(g, P "expert_feed_forward_length", 32, 1 << 17, &s->ff, err));
	TRY(number(g, P "hash_layer_count", 0, s->n_layer, &s->n_hash, err));
	TRY(number(g, P "hyper_connection.sinkhorn_iterations", 1, 1000, &s->sinkhorn, err));
	TRY(number(g, P "rope.scaling.original_context_length", 1, 1 << 28, &s->yarn_original, err));
	s->context = 1 << 20;
	if (gguf_find(g, P "context_length"))
		TRY(number(g, P "context_length", 1, 1 << 28, &s->context, err));
	TRY(real(g, P "expert_weights_scale", &s->route_scale, err));
	TRY(real(g, P "rope.freq_base", &s->theta, err));
	TRY(real(g, P "attention.compress_rope_freq_base", &s->theta_pooled, err));
	TRY(real(g, P "rope.scaling.factor", &s->yarn_factor, err));
	TRY(real(g, P "rope.scaling.yarn_beta_fast", &s->yarn_fast, err));
	TRY(real(g, P "rope.scaling.yarn_beta_slow", &s->yarn_slow, err));
	TRY(constants(g, err));
	TRY(per_layer(s, g, err));
	TRY(relations(s, g, err));
	fill_freq(s);
	return OK;
}
