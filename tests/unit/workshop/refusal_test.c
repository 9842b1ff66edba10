/* refusal_test.c - what may be wrong with a checkpoint is said in one sentence that names the thing;
 * nothing is written. */
#include "common.h"

#include <math.h>

#include "workshop/safetensors.h"

static void refused(struct t_checkpoint *c, enum status code, const char *a, const char *b)
{
	struct quantize_options o = {
		.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q8", .threads = 2};

	t_bad(&o, code, a, b);
	assert_false(t_exists(t_path(c, "out.gguf")));
}

static void a_missing_shard_is_named(void **state)
{
	struct t_checkpoint *c = t_new();

	(void)state;
	t_write(c);
	unlink(t_path(c, "model-00002-of-00003.safetensors"));
	refused(c, ERR_NOT_FOUND, "model-00002-of-00003.safetensors", "No such file");
	t_free(c);
}

static void a_shard_without_a_tensor_of_the_index_is_named(void **state)
{
	struct t_checkpoint *c = t_new();

	(void)state;
	t_find(c, "layers.1.attn_norm.weight")->left_out = true;
	t_write(c);
	refused(c, ERR_FORMAT, "layers.1.attn_norm.weight", "model-0000");
	t_free(c);
}

static void a_tensor_in_another_shard_than_the_index_says_is_named(void **state)
{
	struct t_checkpoint *c = t_new();
	struct buf index = BUF_CAP(1 << 20);
	struct err err = {0};
	char *p;

	(void)state;
	t_write(c);
	assert_int_equal(file_read(&index, t_path(c, "model.safetensors.index.json"), &err), OK);
	p = strstr(index.data, "\"embed.weight\":\"model-00001");
	assert_non_null(p);
	p[strlen("\"embed.weight\":\"model-0000")] = '2';
	t_put(c, "model.safetensors.index.json", index.data, index.len);
	buf_clear(&index);
	refused(c, ERR_FORMAT, "embed.weight should be in model-00002", "but is in");
	t_free(c);
}

static void a_tensor_that_the_index_does_not_list_is_named(void **state)
{
	struct t_checkpoint *c = t_new();

	(void)state;
	t_write(c);
	t_add(c, "F32", 4, 0, 8, "layers.9.surprise");
	t_write_shard(c, (c->n - 1) % T_SHARDS);
	refused(c, ERR_FORMAT, "does not list", "layers.9.surprise");
	t_free(c);
}

static void an_unknown_tensor_is_named(void **state)
{
	struct t_checkpoint *c = t_new();

	(void)state;
	t_add(c, "F32", 4, 0, 8, "layers.1.surprise");
	t_write(c);
	refused(c, ERR_FORMAT, "layers.1.surprise", "does not know");
	t_free(c);
}

/* Writes the checkpoint without one tensor. */
static void without(const char *name, const char *b)
{
	struct t_checkpoint *c = t_new();
	struct t_tensor *t = t_find(c, name);

	mem_free(t->data);
	memmove(t, t + 1, (size_t)(c->t + --c->n - t) * sizeof *t);
	t_write(c);
	refused(c, ERR_FORMAT, name, b);
	t_free(c);
}

static void a_missing_tensor_expert_or_scale_is_named(void **state)
{
	(void)state;
	without("layers.1.attn.wkv.weight", "missing");
	without("layers.2.ffn.experts.3.w2.weight", "missing");
	without("layers.2.ffn.experts.3.w2.scale", "scales of layers.2.ffn.experts.3.w2.weight");
	without("layers.0.attn.wq_a.scale", "missing");
}

static void a_wrong_dtype_is_named(void **state)
{
	struct t_checkpoint *c = t_new();

	(void)state;
	t_find(c, "layers.1.attn_norm.weight")->dtype = "F16";		/* allowed: plain */
	t_find(c, "layers.0.ffn.gate.tid2eid")->dtype = "F64";
	t_write(c);
	refused(c, ERR_FORMAT, "layers.0.ffn.gate.tid2eid", "F64");
	t_find(c, "layers.0.ffn.gate.tid2eid")->dtype = "C128";
	t_write(c);
	refused(c, ERR_FORMAT, "layers.0.ffn.gate.tid2eid", "C128");
	t_find(c, "layers.0.ffn.gate.tid2eid")->dtype = "I64";
	t_find(c, "layers.0.attn.wq_a.scale")->dtype = "U8";
	t_write(c);
	refused(c, ERR_FORMAT, "layers.0.attn.wq_a.scale", "F8_E8M0");
	t_free(c);
}

static void a_wrong_shape_is_named_with_both_shapes(void **state)
{
	struct t_checkpoint *c = t_new();
	struct t_tensor *t = t_find(c, "layers.2.attn.wkv.weight");

	(void)state;
	t->dims[0] = T_D;
	t->dims[1] = T_HEAD;
	t_write(c);
	refused(c, ERR_FORMAT, "layers.2.attn.wkv.weight: expected shape [512, 256]", "[256, 512]");
	t_free(c);
}

static void nan_and_infinity_are_named_with_their_place(void **state)
{
	static const uint16_t inf = 0x7F80;
	struct t_checkpoint *c = t_new();
	const float nan = NAN;

	(void)state;
	t_find(c, "layers.1.attn.wkv.weight")->data[300] = 0x7F;	/* E4M3 NaN in row 1, column 44 */
	t_write(c);
	refused(c, ERR_FORMAT, "layers.1.attn.wkv.weight: row 1, column 44", "NaN");
	t_find(c, "layers.1.attn.wkv.weight")->data[300] = 0;
	memcpy(t_find(c, "embed.weight")->data + 2 * (5 * T_D + 7), &inf, 2);
	t_write(c);
	refused(c, ERR_ARGUMENT, "source changed", "--force"); /* what lies there is of the other source */
	unlink(t_path(c, "out.gguf.part"));
	unlink(t_path(c, "out.gguf.part.journal"));
	refused(c, ERR_FORMAT, "embed.weight: row 5, column 7", "infinity");
	memset(t_find(c, "embed.weight")->data + 2 * (5 * T_D + 7), 0, 2);
	unlink(t_path(c, "out.gguf.part"));
	unlink(t_path(c, "out.gguf.part.journal"));
	memcpy(t_find(c, "layers.0.hc_attn_base")->data, &nan, 4);
	t_find(c, "layers.2.ffn.experts.1.w3.scale")->data[3] = 255;	/* E8M0 NaN */
	t_write(c);
	refused(c, ERR_FORMAT, "layers.0.hc_attn_base", "NaN");
	t_free(c);
}

static void what_f16_cannot_hold_is_refused(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "f16"};
	const uint16_t big = bf16_from_f32(1e6f);

	(void)state;
	memcpy(t_find(c, "embed.weight")->data, &big, 2);
	t_write(c);
	t_bad(&o, ERR_FORMAT, "token_embd.weight: row 0, column 0", "more than F16 can hold");
	t_free(c);
}

static void a_truncated_shard_is_refused(void **state)
{
	struct t_checkpoint *c = t_new();
	const char *shard = "model-00003-of-00003.safetensors";
	struct stat sb;

	(void)state;
	t_write(c);
	assert_int_equal(stat(t_path(c, shard), &sb), 0);
	assert_int_equal(truncate(t_path(c, shard), sb.st_size - 1), 0);
	refused(c, ERR_FORMAT, shard, "cut short");
	assert_int_equal(truncate(t_path(c, shard), 1000), 0);		/* inside the header */
	refused(c, ERR_FORMAT, shard, "header length");
	assert_int_equal(truncate(t_path(c, shard), 5), 0);
	refused(c, ERR_FORMAT, shard, "expected at least the 8");
	t_free(c);
}

static void a_header_length_that_lies_is_refused(void **state)
{
	struct t_checkpoint *c = t_new();
	const char *shard = "model-00001-of-00003.safetensors";
	const uint64_t lies[] = {UINT64_MAX, 1ull << 40, 5, 0};
	FILE *f;

	(void)state;
	t_write(c);
	for (int i = 0; i < 4; i++) {
		f = fopen(t_path(c, shard), "r+b");
		assert_non_null(f);
		fwrite(&lies[i], 8, 1, f);
		fclose(f);
		refused(c, ERR_FORMAT, shard, "header");
	}
	t_free(c);
}

static void a_config_of_another_model_is_refused(void **state)
{
	static const char config[] = "{\"hidden_size\":4096}", bad[] = "{\"sliding_window\":\"x\"}";
	struct t_checkpoint *c = t_new();

	(void)state;
	t_write(c);
	t_put(c, "config.json", config, sizeof config - 1);
	refused(c, ERR_FORMAT, "hidden_size is 4096", "256");
	t_put(c, "config.json", bad, sizeof bad - 1);
	refused(c, ERR_FORMAT, "sliding_window", "expected a number");
	t_free(c);
}

static void options_that_contradict_are_refused(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir};
	const char *drop[] = {"no.such.tensor"};

	(void)state;
	t_write(c);
	t_bad(&o, ERR_ARGUMENT, "--recipe", "q2-q4");
	o.recipe = "q3";
	t_bad(&o, ERR_NOT_FOUND, "q3", "q2, q4");
	o.recipe = "keep";
	t_bad(&o, ERR_FORMAT, "KEEP is for GGUF sources", "token_embd.weight");
	o.recipe = "q8";
	o.drop = drop;
	o.n_drop = 1;
	t_bad(&o, ERR_ARGUMENT, "--drop no.such.tensor", "matches no tensor");
	unlink(t_path(c, "tokenizer.json"));
	o.n_drop = 0;
	t_bad(&o, ERR_NOT_FOUND, "tokenizer.json", "--tokenizer-from");
	t_free(c);
}

/* ------------------------------------------------------------------ headers as text */

static void header(const char *json, uint64_t data_bytes, const char *expected)
{
	struct st_list list = {0};
	struct err err = {0};
	size_t n = strlen(json);
	enum status st = st_parse_header(&list, json, n, 8 + n + data_bytes, 0, "x", &err);

	if (expected ? st == OK || !strstr(err.msg, expected) : st != OK)
		fail_msg("%s: expected %s, got %s", json, expected ? expected : "success", err.msg);
	st_list_free(&list);
}

static void headers_are_checked_field_by_field(void **state)
{
	(void)state;
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL);
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8]}}", 8, NULL);
	header("{}", 0, NULL);
	header("[]", 0, "expected a JSON object");
	header("{\"a\":3}", 8, "dtype");
	header("{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "F31");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2,2,2,2],\"data_offsets\":[0,8]}}", 8, "shape");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "shape");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2.5],\"data_offsets\":[0,8]}}", 8, "shape");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8,
	       "64 bits");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8, "shape");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9]}}", 9, "expected 8 bytes");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "ascending");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "two");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 8, "cut short");
	header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
	       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "share bytes");
	header("{\"a b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "blanks");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_missing_shard_is_named),
		cmocka_unit_test(a_shard_without_a_tensor_of_the_index_is_named),
		cmocka_unit_test(a_tensor_in_another_shard_than_the_index_says_is_named),
		cmocka_unit_test(a_tensor_that_the_index_does_not_list_is_named),
		cmocka_unit_test(an_unknown_tensor_is_named),
		cmocka_unit_test(a_missing_tensor_expert_or_scale_is_named),
		cmocka_unit_test(a_wrong_dtype_is_named),
		cmocka_unit_test(a_wrong_shape_is_named_with_both_shapes),
		cmocka_unit_test(nan_and_infinity_are_named_with_their_place),
		cmocka_unit_test(what_f16_cannot_hold_is_refused),
		cmocka_unit_test(a_truncated_shard_is_refused),
		cmocka_unit_test(a_header_length_that_lies_is_refused),
		cmocka_unit_test(a_config_of_another_model_is_refused),
		cmocka_unit_test(options_that_contradict_are_refused),
		cmocka_unit_test(headers_are_checked_field_by_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
