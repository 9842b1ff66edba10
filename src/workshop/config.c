/* config.c - the numbers that no tensor's shape tells, from a config.json.
 *
 * What  Reads the keys of one table.  Some numbers are known from the shapes already: for these the config
 *       must agree.
 * Why   A wrong window or rotary base gives a model that runs and answers nonsense; a config of another
 *       model must not pass.
 * How   Each row lists the spellings under which a number is known: DeepSeek's inference config,
 *       transformers' config, and ds4-nano's training config.  Keys that no row lists are ignored; absent
 *       ones keep the value of Flash.
 * Careful
 *       - rope_scaling is an object with numbers of its own; a key is looked for at the top and inside it. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "workshop/convert.h"
#include "workshop/json_file.h"

#define MAX_CONFIG (16u << 20)

enum kind {
	CHECK,	/* int64_t, known from the shapes */
	WHOLE,	/* int64_t */
	REAL	/* double */
};

static const struct {
	enum kind kind;
	size_t field;
	double low, high;
	const char *names[5];
} rows[] = {
	{CHECK, offsetof(struct numbers, d), 1, 1e9, {"hidden_size", "dim"}},
	{CHECK, offsetof(struct numbers, vocab), 1, 1e9, {"vocab_size", "vocab"}},
	{CHECK, offsetof(struct numbers, layers), 1, 1e9, {"num_hidden_layers", "n_layers"}},
	{CHECK, offsetof(struct numbers, heads), 1, 1e9, {"num_attention_heads", "n_heads", "heads"}},
	{CHECK, offsetof(struct numbers, head), 1, 1e9, {"head_dim", "hd"}},
	{CHECK, offsetof(struct numbers, q_rank), 1, 1e9, {"q_lora_rank", "q_lora"}},
	{CHECK, offsetof(struct numbers, o_rank), 1, 1e9, {"o_lora_rank", "o_lora"}},
	{CHECK, offsetof(struct numbers, groups), 1, 1e9, {"o_groups", "groups"}},
	{CHECK, offsetof(struct numbers, experts), 1, 1e9, {"n_routed_experts", "experts"}},
	{CHECK, offsetof(struct numbers, ff), 1, 1e9, {"moe_intermediate_size", "moe_inter_dim", "ff"}},
	{CHECK, offsetof(struct numbers, hash_layers), 0, 1e9, {"num_hash_layers", "n_hash_layers", "n_hash"}},
	{CHECK, offsetof(struct numbers, streams), 1, 1e9, {"hc_mult", "hc"}},
	{CHECK, offsetof(struct numbers, index_heads), 1, 1e9, {"index_n_heads", "ih"}},
	{CHECK, offsetof(struct numbers, key), 1, 1e9, {"index_head_dim", "ihd"}},
	{WHOLE, offsetof(struct numbers, used), 1, 64, {"num_experts_per_tok", "n_activated_experts", "active"}},
	{WHOLE, offsetof(struct numbers, window), 1, 4096, {"sliding_window", "window_size", "window"}},
	{WHOLE, offsetof(struct numbers, top_k), 1, 65536, {"index_topk", "topk"}},
	{WHOLE, offsetof(struct numbers, context), 1, 1 << 28, {"max_position_embeddings", "max_seq_len"}},
	{WHOLE, offsetof(struct numbers, sinkhorn), 1, 1000, {"hc_sinkhorn_iters", "iters"}},
	{WHOLE, offsetof(struct numbers, original_context), 1, 1 << 28,
	 {"original_max_position_embeddings", "original_seq_len", "orig"}},
	{REAL, offsetof(struct numbers, eps), 1e-12, 1, {"rms_norm_eps", "norm_eps", "eps"}},
	{REAL, offsetof(struct numbers, hc_eps), 1e-12, 1, {"hc_eps"}},
	{REAL, offsetof(struct numbers, theta), 1, 1e12, {"rope_theta", "theta"}},
	{REAL, offsetof(struct numbers, theta_pooled), 1, 1e12, {"compress_rope_theta", "theta_c"}},
	{REAL, offsetof(struct numbers, yarn_factor), 1, 1e6, {"factor", "rope_factor"}},
	{REAL, offsetof(struct numbers, yarn_fast), 1e-6, 1e6, {"beta_fast"}},
	{REAL, offsetof(struct numbers, yarn_slow), 1e-6, 1e6, {"beta_slow"}},
	{REAL, offsetof(struct numbers, route_scale), 1e-6, 1e6, {"routed_scaling_factor", "route_scale"}},
	{REAL, offsetof(struct numbers, clamp), 1e-6, 1e6, {"swiglu_limit", "limit"}},
};

static const json_t *find(const json_t *o, const char *const *names, const char **found)
{
	const json_t *scaling = json_object_get(o, "rope_scaling"), *v;

	for (int i = 0; i < 5 && names[i]; i++) {
		*found = names[i];
		v = json_object_get(o, names[i]);
		if (!v || json_is_null(v))
			v = json_object_get(scaling, names[i]);
		if (v && !json_is_null(v))
			return v;
	}
	return NULL;
}

static enum status read_row(struct numbers *n, size_t i, const json_t *o, const char *path, struct err *err)
{
	const char *name = NULL;
	const json_t *v = find(o, rows[i].names, &name);
	void *field = (char *)n + rows[i].field;
	double x;

	if (!v)
		return OK;
	if (!json_is_number(v))
		return err_set(err, ERR_FORMAT, "%s: %s: expected a number", path, name);
	x = json_number_value(v);
	if (!(x >= rows[i].low && x <= rows[i].high) || (rows[i].kind != REAL && x != floor(x)))
		return err_set(err, ERR_FORMAT, "%s: %s: expected %s from %g to %g, found %g", path, name,
		               rows[i].kind == REAL ? "a number" : "a whole number", rows[i].low,
		               rows[i].high, x);
	if (rows[i].kind == CHECK && *(int64_t *)field != (int64_t)x)
		return err_set(err, ERR_FORMAT, "%s: %s is %g, but the shapes of the tensors say %" PRId64,
		               path, name, x, *(int64_t *)field);
	if (rows[i].kind == REAL)
		*(double *)field = x;
	else
		*(int64_t *)field = (int64_t)x;
	return OK;
}

static enum status check_ratios(const struct numbers *n, const json_t *o, const char *path, struct err *err)
{
	const json_t *list = json_object_get(o, "compress_ratios");

	if (!list)
		list = json_object_get(o, "ratios");
	if (!list)
		return OK;
	if (!json_is_array(list) || json_array_size(list) < (size_t)n->layers)
		return err_set(err, ERR_FORMAT,
		               "%s: compress_ratios: expected an array of at least %" PRId64 " numbers",
		               path, n->layers);
	for (int64_t l = 0; l < n->layers; l++) {
		const json_t *v = json_array_get(list, (size_t)l);

		if (!json_is_integer(v) || json_integer_value(v) != n->ratio[l])
			return err_set(err, ERR_FORMAT, "%s: compress_ratios[%" PRId64 "] differs from %" PRId64
				       ", which the shapes of the tensors say", path, l, n->ratio[l]);
	}
	return OK;
}

enum status numbers_from_config(struct numbers *n, const char *path, struct err *err)
{
	json_t *o = json_file_read(path, MAX_CONFIG, err);
	enum status st = o ? OK : err->code;

	if (st == OK && !json_is_object(o))
		st = err_set(err, ERR_FORMAT, "%s: expected a JSON object", path);
	for (size_t i = 0; st == OK && i < sizeof rows / sizeof *rows; i++)
		st = read_row(n, i, o, path, err);
	if (st == OK)
		st = check_ratios(n, o, path, err);
	json_decref(o);
	return st;
}
