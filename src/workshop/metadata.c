/* metadata.c - the keys of a model file.
 *
 * What  deepseek4.* from the model's numbers, tokenizer.ggml.* from tokenizer.json, or both copied from
 *       another file.
 * Why   ds4 refuses a file without them, and llama.cpp reads the same keys.
 * Careful
 *       - deepseek4.expert_gating_func = 4 (square root of softplus) is what mainline llama.cpp asks for.
 *       - compress_ratios has one entry more than there are layers, for the MTP block.
 *       - Token texts stay in their byte-to-unicode form; added tokens are plain text.
 *       - Newer tokenizer.json files hold merges as pairs, older ones as "left right".
 * Source: docs/formats/gguf.md section 2. */
#include "workshop/metadata.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "workshop/json_file.h"

#define P "deepseek4."
#define T "tokenizer.ggml."
#define MAX_TOKENIZER (512u << 20)

enum token_type { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5 };

void metadata_numbers(struct gguf_builder *b, const struct numbers *n, const char *name)
{
	int32_t ratios[MAX_LAYERS + 1] = {0};
	float clamp[MAX_LAYERS];
	const struct {
		const char *key;
		int64_t v;
	} whole[] = {
		{P "block_count", n->layers},
		{P "context_length", n->context},
		{P "embedding_length", n->d},
		{P "vocab_size", n->vocab},
		{P "attention.head_count", n->heads},
		{P "attention.head_count_kv", 1},
		{P "attention.key_length", n->head},
		{P "attention.value_length", n->head},
		{P "attention.q_lora_rank", n->q_rank},
		{P "attention.output_lora_rank", n->o_rank},
		{P "attention.output_group_count", n->groups},
		{P "attention.sliding_window", n->window},
		{P "attention.indexer.head_count", n->index_heads},
		{P "attention.indexer.key_length", n->key},
		{P "attention.indexer.top_k", n->top_k},
		{P "rope.dimension_count", 64},
		{P "rope.scaling.original_context_length", n->original_context},
		{P "expert_count", n->experts},
		{P "expert_used_count", n->used},
		{P "expert_shared_count", 1},
		{P "expert_feed_forward_length", n->ff},
		{P "expert_gating_func", 4},
		{P "leading_dense_block_count", 0},
		{P "hash_layer_count", n->hash_layers},
		{P "nextn_predict_layers", n->mtp_layers},
		{P "hyper_connection.count", n->streams},
		{P "hyper_connection.sinkhorn_iterations", n->sinkhorn},
	};
	const struct {
		const char *key;
		double v;
	} real[] = {
		{P "attention.layer_norm_rms_epsilon", n->eps},
		{P "attention.compress_rope_freq_base", n->theta_pooled},
		{P "rope.freq_base", n->theta},
		{P "rope.scaling.factor", n->yarn_factor},
		{P "rope.scaling.yarn_beta_fast", n->yarn_fast},
		{P "rope.scaling.yarn_beta_slow", n->yarn_slow},
		{P "expert_weights_scale", n->route_scale},
		{P "hyper_connection.epsilon", n->hc_eps},
	};

	for (int64_t l = 0; l < n->layers; l++) {
		ratios[l] = (int32_t)n->ratio[l];
		clamp[l] = (float)n->clamp;
	}
	gguf_put_text(b, "general.architecture", "deepseek4");
	gguf_put_text(b, "general.type", "model");
	gguf_put_text(b, "general.name", name);
	for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
		gguf_put_u32(b, whole[i].key, (uint32_t)whole[i].v);
	for (size_t i = 0; i < sizeof real / sizeof *real; i++)
		gguf_put_f32(b, real[i].key, (float)real[i].v);
	gguf_put_text(b, P "rope.scaling.type", "yarn");
	gguf_put_bool(b, P "expert_weights_norm", true);
	gguf_put_i32s(b, P "attention.compress_ratios", ratios, (size_t)n->layers + 1);
	gguf_put_f32s(b, P "swiglu_clamp_exp", clamp, (size_t)n->layers);
}

/* ------------------------------------------------------------------ tokenizer.json */

struct token {
	const char *text;
	size_t n;
	enum token_type type;
};

struct vocabulary {
	struct token *token;	/* [n] */
	int64_t n;
	const char *path;
	struct err *err;
};

static enum status set_token(struct vocabulary *v, const json_t *id, const char *text, size_t n,
                             enum token_type type)
{
	int64_t i = json_is_integer(id) ? json_integer_value(id) : -1;

	if (i < 0 || i >= v->n)
		return err_set(v->err, ERR_FORMAT,
		               "%s: token %.40s: id is %" PRId64 ", expected less than %" PRId64
		               " (rows of the embedding)",
		               v->path, text, i, v->n);
	v->token[i] = (struct token){text, n, type};
	return OK;
}

static enum status read_tokens(struct vocabulary *v, const json_t *o)
{
	json_t *vocab = json_object_get(json_object_get(o, "model"), "vocab"), *id, *a;
	const char *text;
	size_t i, n;

	if (!json_is_object(vocab))
		return err_set(v->err, ERR_FORMAT, "%s: model.vocab: expected an object, text to id", v->path);
	json_object_foreach(vocab, text, id)
		TRY(set_token(v, id, text, strlen(text), TOKEN_NORMAL));
	json_array_foreach(json_object_get(o, "added_tokens"), i, a) {
		text = json_get_text(a, "content", &n);
		if (!text)
			return err_set(v->err, ERR_FORMAT,
			               "%s: added_tokens[%zu]: expected an object with content", v->path,
			               i);
		TRY(set_token(v, json_object_get(a, "id"), text, n,
			      json_is_true(json_object_get(a, "special")) ? TOKEN_CONTROL : TOKEN_USER));
	}
	return OK;
}

static void put_tokens(struct gguf_builder *b, const struct vocabulary *v, int32_t *types)
{
	struct buf strings = BUF_CAP(BUF_MAX);
	char pad[32];

	for (int64_t i = 0; i < v->n; i++) {
		const struct token *t = &v->token[i];

		types[i] = t->text ? (int32_t)t->type : TOKEN_UNUSED;
		snprintf(pad, sizeof pad, "[PAD%" PRId64 "]", i);
		gguf_add_string(&strings, t->text ? t->text : pad, t->text ? t->n : strlen(pad));
	}
	gguf_put_text(b, T "model", "gpt2");
	gguf_put_text(b, T "pre", "joyai-llm");
	gguf_put_strings(b, T "tokens", &strings, (size_t)v->n);
	gguf_put_i32s(b, T "token_type", types, (size_t)v->n);
	buf_clear(&strings);
}

static enum status put_merges(struct gguf_builder *b, const struct vocabulary *v, const json_t *o)
{
	json_t *merges = json_object_get(json_object_get(o, "model"), "merges"), *m;
	struct buf strings = BUF_CAP(BUF_MAX), pair = BUF_CAP(1 << 16);
	enum status st = OK;
	size_t i;

	if (!json_is_array(merges))
		return err_set(v->err, ERR_FORMAT, "%s: model.merges: expected an array", v->path);
	json_array_foreach(merges, i, m) {
		const json_t *l = json_array_get(m, 0), *r = json_array_get(m, 1);

		buf_clear(&pair);
		if (json_is_text(m))
			buf_add(&pair, json_string_value(m), json_string_length(m));
		else if (json_is_text(l) && json_is_text(r)) {
			buf_add(&pair, json_string_value(l), json_string_length(l));
			buf_byte(&pair, ' ');
			buf_add(&pair, json_string_value(r), json_string_length(r));
		} else {
			st = err_set(v->err, ERR_FORMAT,
			             "%s: model.merges[%zu]: expected a text or a pair of texts", v->path,
			             i);
			break;
		}
		gguf_add_string(&strings, buf_cstr(&pair), pair.len);
	}
	if (st == OK)
		gguf_put_strings(b, T "merges", &strings, json_array_size(merges));
	buf_clear(&pair);
	buf_clear(&strings);
	return st;
}

static int64_t token_id(const struct vocabulary *v, const char *text)
{
	for (int64_t i = 0; i < v->n; i++)
		if (v->token[i].text && v->token[i].n == strlen(text) &&
		    !memcmp(v->token[i].text, text, v->token[i].n))
			return i;
	return -1;
}

/* bos_token and its like are a text or an object with content; NULL when config has neither. */
static const char *config_token(const json_t *config, const char *key)
{
	const json_t *v = json_object_get(config, key);
	size_t n;

	return json_is_text(v) ? json_string_value(v) : json_get_text(v, "content", &n);
}

static enum status put_specials(struct gguf_builder *b, const struct vocabulary *v, const json_t *config)
{
	static const struct {
		const char *key, *text, *id;
	} special[] = {
		{"bos_token", "<｜begin▁of▁sentence｜>", T "bos_token_id"},
		{"eos_token", "<｜end▁of▁sentence｜>", T "eos_token_id"},
		{"pad_token", "<｜▁pad▁｜>", T "padding_token_id"},
	};

	for (int i = 0; i < 3; i++) {
		const char *named = config_token(config, special[i].key);
		int64_t id = token_id(v, named ? named : special[i].text);

		if (id < 0 && i < 2)
			return err_set(v->err, ERR_FORMAT, "%s: has no token %.60s", v->path,
			               named ? named : special[i].text);
		if (id >= 0)
			gguf_put_u32(b, special[i].id, (uint32_t)id);
	}
	gguf_put_bool(b, T "add_bos_token", false);
	gguf_put_bool(b, T "add_eos_token", false);
	return OK;
}

enum status metadata_tokenizer(struct gguf_builder *b, const char *path, const char *config, int64_t vocab,
			       struct err *err)
{
	struct vocabulary v = {.n = vocab, .path = path, .err = err};
	json_t *o = NULL, *c = NULL;
	int32_t *types = mem_array((size_t)vocab, sizeof *types);
	enum status st = OK;

	v.token = mem_array((size_t)vocab, sizeof *v.token);
	if (!types || !v.token) {
		st = err_set(err, ERR_MEMORY, "%s: no memory for %" PRId64 " tokens", path, vocab);
		goto out;
	}
	o = json_file_read(path, MAX_TOKENIZER, err);
	c = o && config ? json_file_read(config, MAX_TOKENIZER, err) : NULL;
	if (!o || (config && !c)) {
		st = err->code;
		goto out;
	}
	TRY_TO(out, read_tokens(&v, o));
	put_tokens(b, &v, types);
	TRY_TO(out, put_merges(b, &v, o));
	st = put_specials(b, &v, c);
out:
	json_decref(o);
	json_decref(c);
	mem_free(v.token);
	mem_free(types);
	return st;
}

/* ------------------------------------------------------------------ another file's keys */

static bool starts(const struct gguf_kv *kv, const char *prefix)
{
	size_t n = strlen(prefix);

	return kv->key.n >= n && !memcmp(kv->key.p, prefix, n);
}

void metadata_copy(struct gguf_builder *b, const struct gguf *g, const char *prefix)
{
	static const char *const not[] = {"quantize.", "split.", "general.file_type", "general.alignment",
					  "general.quantization_version"};

	for (uint64_t i = 0; i < g->n_kv; i++) {
		bool skip = !starts(&g->kv[i], prefix);

		for (size_t j = 0; j < sizeof not / sizeof *not; j++)
			skip |= starts(&g->kv[i], not[j]);
		if (!skip)
			gguf_put_copy(b, &g->kv[i]);
	}
}

enum status metadata_check(const struct gguf *g, const struct numbers *n, struct err *err)
{
	const struct {
		const char *key;
		int64_t v;
	} same[] = {
		{P "block_count", n->layers}, {P "embedding_length", n->d}, {P "vocab_size", n->vocab},
		{P "attention.head_count", n->heads}, {P "attention.q_lora_rank", n->q_rank},
		{P "attention.output_lora_rank", n->o_rank}, {P "attention.output_group_count", n->groups},
		{P "expert_count", n->experts}, {P "expert_feed_forward_length", n->ff},
		{P "hash_layer_count", n->hash_layers},
	};

	for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
		uint64_t v;

		TRY(gguf_u64(g, same[i].key, &v, err));
		if (v != (uint64_t)same[i].v)
			return err_set(err, ERR_FORMAT,
			               "%s: %s is %" PRIu64
			               ", but the shapes of the checkpoint say %" PRId64,
			               g->path, same[i].key, v, same[i].v);
	}
	return OK;
}
