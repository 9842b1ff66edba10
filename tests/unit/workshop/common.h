/* common.h - a small checkpoint in the official layout, made from nothing: three layers (ratios 0, 4, 128),
 * FP4 experts, FP8 matrices with E8M0 scales, bf16, F32 and I64, an MTP block, three shards with an index.
 * Tests change one thing and write. */
#ifndef TEST_WORKSHOP_COMMON_H
#define TEST_WORKSHOP_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "quant/half.h"
#include "quant/quant.h"
#include "workshop/quantize.h"

enum {
	T_D = 256,
	T_VOCAB = 300,
	T_LAYERS = 3,
	T_HEADS = 2,
	T_HEAD = 512,
	T_RANK = 128,
	T_GROUPS = 2,
	T_O = 64,
	T_IH = 2,
	T_KEY = 128,
	T_EXPERTS = 4,
	T_USED = 2,
	T_FF = 256,
	T_MAX = 512,
	T_SHARDS = 3
};

struct t_tensor {
	char name[96];
	const char *dtype;
	uint64_t dims[2];
	int n_dims;
	uint8_t *data;
	size_t bytes;
	bool left_out;		/* of the shard, not of the index */
};

struct t_checkpoint {
	char dir[64];
	struct t_tensor t[T_MAX];
	int n;
	struct rng rng;
};

static inline struct t_tensor *t_find(struct t_checkpoint *c, const char *name)
{
	for (int i = 0; i < c->n; i++)
		if (!strcmp(c->t[i].name, name))
			return &c->t[i];
	fail_msg("the test has no tensor %s", name);
	return NULL;
}

static inline struct t_tensor *t_add(struct t_checkpoint *c, const char *dtype, size_t item, uint64_t rows,
                                     uint64_t cols, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));

/* rows 0: a vector of cols. */
static inline struct t_tensor *t_add(struct t_checkpoint *c, const char *dtype, size_t item, uint64_t rows,
                                     uint64_t cols, const char *fmt, ...)
{
	struct t_tensor *t = &c->t[c->n++];
	va_list ap;

	assert_true(c->n <= T_MAX);
	va_start(ap, fmt);
	vsnprintf(t->name, sizeof t->name, fmt, ap);
	va_end(ap);
	t->dtype = dtype;
	t->n_dims = rows ? 2 : 1;
	t->dims[0] = rows ? rows : cols;
	t->dims[1] = cols;
	t->bytes = (size_t)((rows ? rows : 1) * cols) * item;
	t->data = mem_alloc(t->bytes);
	assert_non_null(t->data);
	for (size_t i = 0; i < t->bytes; i++)
		t->data[i] = (uint8_t)rng_u64(&c->rng);
	return t;
}

static inline void t_bf16(struct t_checkpoint *c, uint64_t rows, uint64_t cols, const char *prefix,
                          const char *name)
{
	struct t_tensor *t = t_add(c, "BF16", 2, rows, cols, "%s%s", prefix, name);

	for (size_t i = 0; i < t->bytes; i += 2) {	/* within 2^-3..2^4: exact in F16 as well */
		uint16_t h = bf16_from_f32((float)((double)(rng_below(&c->rng, 201)) / 64 - 1.5));

		memcpy(t->data + i, &h, 2);
	}
}

static inline void t_f32(struct t_checkpoint *c, uint64_t rows, uint64_t cols, const char *prefix,
                         const char *name)
{
	struct t_tensor *t = t_add(c, "F32", 4, rows, cols, "%s%s", prefix, name);

	for (size_t i = 0; i < t->bytes; i += 4) {
		float f = (float)rng_below(&c->rng, 513) / 256 - 1;

		memcpy(t->data + i, &f, 4);
	}
}

static inline void t_scales(struct t_checkpoint *c, uint64_t rows, uint64_t cols, const char *prefix,
                            const char *stem)
{
	struct t_tensor *t = t_add(c, "F8_E8M0", 1, rows, cols, "%s%s.scale", prefix, stem);

	for (size_t i = 0; i < t->bytes; i++)
		t->data[i] = (uint8_t)(120 + rng_below(&c->rng, 4));
}

static inline void t_fp8(struct t_checkpoint *c, uint64_t rows, uint64_t cols, const char *prefix,
                         const char *stem)
{
	struct t_tensor *t = t_add(c, "F8_E4M3", 1, rows, cols, "%s%s.weight", prefix, stem);

	for (size_t i = 0; i < t->bytes; i++)
		if ((t->data[i] & 0x7F) == 0x7F)
			t->data[i] = 0x38;
	t_scales(c, (rows + 127) / 128, (cols + 127) / 128, prefix, stem);
}

static inline void t_fp4(struct t_checkpoint *c, uint64_t rows, uint64_t cols, const char *prefix,
                         const char *stem)
{
	t_add(c, "I8", 1, rows, cols / 2, "%s%s.weight", prefix, stem);
	t_scales(c, rows, cols / 32, prefix, stem);
}

static inline void t_block(struct t_checkpoint *c, const char *p, int ratio, bool hashed)
{
	int wide = ratio == 4 ? 2 : 1;
	char stem[64];

	for (int i = 0; i < 2; i++) {
		const char *half = i ? "hc_ffn" : "hc_attn";

		snprintf(stem, sizeof stem, "%s_fn", half);
		t_f32(c, 24, 4 * T_D, p, stem);
		snprintf(stem, sizeof stem, "%s_base", half);
		t_f32(c, 0, 24, p, stem);
		snprintf(stem, sizeof stem, "%s_scale", half);
		t_f32(c, 0, 3, p, stem);
	}
	t_bf16(c, 0, T_D, p, "attn_norm.weight");
	t_bf16(c, 0, T_D, p, "ffn_norm.weight");
	t_fp8(c, T_RANK, T_D, p, "attn.wq_a");
	t_fp8(c, T_HEADS * T_HEAD, T_RANK, p, "attn.wq_b");
	t_fp8(c, T_HEAD, T_D, p, "attn.wkv");
	t_fp8(c, T_GROUPS * T_O, T_HEADS * T_HEAD / T_GROUPS, p, "attn.wo_a");
	t_fp8(c, T_D, T_GROUPS * T_O, p, "attn.wo_b");
	t_bf16(c, 0, T_RANK, p, "attn.q_norm.weight");
	t_bf16(c, 0, T_HEAD, p, "attn.kv_norm.weight");
	t_f32(c, 0, T_HEADS, p, "attn.attn_sink");
	if (ratio) {
		t_f32(c, (uint64_t)ratio, (uint64_t)(wide * T_HEAD), p, "attn.compressor.ape");
		t_bf16(c, (uint64_t)(wide * T_HEAD), T_D, p, "attn.compressor.wkv.weight");
		t_bf16(c, (uint64_t)(wide * T_HEAD), T_D, p, "attn.compressor.wgate.weight");
		t_bf16(c, 0, T_HEAD, p, "attn.compressor.norm.weight");
	}
	if (ratio == 4) {
		t_fp8(c, T_IH * T_KEY, T_RANK, p, "attn.indexer.wq_b");
		t_bf16(c, T_IH, T_D, p, "attn.indexer.weights_proj.weight");
		t_f32(c, 4, 2 * T_KEY, p, "attn.indexer.compressor.ape");
		t_bf16(c, 2 * T_KEY, T_D, p, "attn.indexer.compressor.wkv.weight");
		t_bf16(c, 2 * T_KEY, T_D, p, "attn.indexer.compressor.wgate.weight");
		t_bf16(c, 0, T_KEY, p, "attn.indexer.compressor.norm.weight");
	}
	t_bf16(c, T_EXPERTS, T_D, p, "ffn.gate.weight");
	if (hashed) {
		struct t_tensor *t = t_add(c, "I64", 8, T_VOCAB, T_USED, "%sffn.gate.tid2eid", p);

		for (size_t i = 0; i < t->bytes / 8; i++) {
			int64_t e = (int64_t)rng_below(&c->rng, T_EXPERTS);

			memcpy(t->data + 8 * i, &e, 8);
		}
	} else {
		t_f32(c, 0, T_EXPERTS, p, "ffn.gate.bias");
	}
	for (int e = 0; e < T_EXPERTS; e++)
		for (int w = 1; w <= 3; w++) {
			snprintf(stem, sizeof stem, "ffn.experts.%d.w%d", e, w);
			t_fp4(c, w == 2 ? T_D : T_FF, w == 2 ? T_FF : T_D, p, stem);
		}
	for (int w = 1; w <= 3; w++) {
		snprintf(stem, sizeof stem, "ffn.shared_experts.w%d", w);
		t_fp8(c, w == 2 ? T_D : T_FF, w == 2 ? T_FF : T_D, p, stem);
	}
}

static inline void t_head(struct t_checkpoint *c, const char *p)
{
	t_f32(c, 4, 4 * T_D, p, "hc_head_fn");
	t_f32(c, 0, 4, p, "hc_head_base");
	t_f32(c, 0, 1, p, "hc_head_scale");
	t_bf16(c, 0, T_D, p, "norm.weight");
}

/* All tensors, in memory, in a new folder. */
static inline struct t_checkpoint *t_new(void)
{
	static const int ratio[T_LAYERS] = {0, 4, 128};
	struct t_checkpoint *c = mem_zero(sizeof *c);
	char prefix[32];

	assert_non_null(c);
	snprintf(c->dir, sizeof c->dir, "/tmp/ds4-workshop-XXXXXX");
	assert_non_null(mkdtemp(c->dir));
	c->rng = rng_seed(42);
	t_bf16(c, T_VOCAB, T_D, "", "embed.weight");
	t_bf16(c, T_VOCAB, T_D, "", "head.weight");
	t_head(c, "");
	for (int l = 0; l < T_LAYERS; l++) {
		snprintf(prefix, sizeof prefix, "layers.%d.", l);
		t_block(c, prefix, ratio[l], l == 0);
	}
	t_block(c, "mtp.0.", 0, false);
	t_fp8(c, T_D, T_D, "mtp.0.", "e_proj");
	t_fp8(c, T_D, T_D, "mtp.0.", "h_proj");
	t_bf16(c, 0, T_D, "mtp.0.", "enorm.weight");
	t_bf16(c, 0, T_D, "mtp.0.", "hnorm.weight");
	t_head(c, "mtp.0.");
	t_bf16(c, T_VOCAB, T_D, "mtp.0.", "emb.tok_emb.weight");
	t_bf16(c, T_VOCAB, T_D, "mtp.0.", "head.weight");
	return c;
}

/* dir/name, in one of many buffers that take turns: good until the end of a test. */
static inline const char *t_path(const struct t_checkpoint *c, const char *name)
{
	static char path[128][160];
	static int turn;

	turn = (turn + 1) % 128;
	snprintf(path[turn], sizeof path[turn], "%s/%s", c->dir, name);
	return path[turn];
}

static inline void t_put(const struct t_checkpoint *c, const char *name, const void *data, size_t n)
{
	struct err err = {0};

	if (file_write(t_path(c, name), data, n, &err) != OK)
		fail_msg("%s", err.msg);
}

static inline void t_shard_name(char out[64], int s)
{
	snprintf(out, 64, "model-%05d-of-%05d.safetensors", s + 1, T_SHARDS);
}

static inline void t_write_shard(const struct t_checkpoint *c, int s)
{
	struct buf head = BUF_CAP(1 << 24), file = BUF_CAP(1 << 28);
	uint64_t n, at = 0;
	char name[64];

	buf_str(&head, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (int i = 0; i < c->n; i++) {
		const struct t_tensor *t = &c->t[i];

		if (i % T_SHARDS != s || t->left_out)
			continue;
		buf_printf(&head, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", t->name, t->dtype,
		           (unsigned long long)t->dims[0]);
		if (t->n_dims == 2)
			buf_printf(&head, ",%llu", (unsigned long long)t->dims[1]);
		buf_printf(&head, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
		           (unsigned long long)(at + t->bytes));
		at += t->bytes;
	}
	buf_str(&head, "}");
	n = head.len;
	buf_add(&file, &n, 8);
	buf_add(&file, head.data, head.len);
	for (int i = 0; i < c->n; i++)
		if (i % T_SHARDS == s && !c->t[i].left_out)
			buf_add(&file, c->t[i].data, c->t[i].bytes);
	assert_true(buf_ok(&file));
	t_shard_name(name, s);
	t_put(c, name, file.data, file.len);
	buf_clear(&head);
	buf_clear(&file);
}

static const char t_tokenizer[] =
	"{\"added_tokens\":[{\"id\":0,\"content\":\"<\xef\xbd\x9c"
	"begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>\",\"special\":true},"
	"{\"id\":1,\"content\":\"<\xef\xbd\x9c"
	"end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>\",\"special\":true},"
	"{\"id\":5,\"content\":\"<think>\",\"special\":false}],"
	"\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2,\"b\":3,\"ab\":4},\"merges\":[[\"a\",\"b\"],\"ab "
        "a\"]}}";

/* Shards, index, config and tokenizer. */
static inline void t_write(const struct t_checkpoint *c)
{
	static const char config[] = "{\"hidden_size\":256,\"sliding_window\":64,\"rope_scaling\":{"
	                             "\"factor\":8,\"beta_fast\":16}}";
	struct buf index = BUF_CAP(1 << 24);
	char shard[64];

	buf_str(&index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
	for (int i = 0; i < c->n; i++) {
		t_shard_name(shard, i % T_SHARDS);
		buf_printf(&index, "%s\"%s\":\"%s\"", i ? "," : "", c->t[i].name, shard);
	}
	buf_str(&index, "}}");
	t_put(c, "model.safetensors.index.json", index.data, index.len);
	buf_clear(&index);
	for (int s = 0; s < T_SHARDS; s++)
		t_write_shard(c, s);
	t_put(c, "config.json", config, sizeof config - 1);
	t_put(c, "tokenizer.json", t_tokenizer, sizeof t_tokenizer - 1);
}

static inline void t_free(struct t_checkpoint *c)
{
	static const char *const made[] = {
		"model.safetensors.index.json",
		"config.json",
		"tokenizer.json",
		"out.gguf",
		"two.gguf",
		"out.gguf.part",
		"out.gguf.part.journal",
		"two.gguf.part",
		"two.gguf.part.journal",
		"i.dat",
		"recipe.txt",
	};
	char shard[64];

	for (int s = 0; s < T_SHARDS; s++) {
		t_shard_name(shard, s);
		unlink(t_path(c, shard));
	}
	for (size_t i = 0; i < sizeof made / sizeof *made; i++)
		unlink(t_path(c, made[i]));
	if (rmdir(c->dir) != 0)
		fail_msg("%s: a test left a file", c->dir);
	for (int i = 0; i < c->n; i++)
		mem_free(c->t[i].data);
	mem_free(c);
}

/* What element (row, col) of a tensor means, from its bytes and the tables in the format's description. */
static inline double t_value(struct t_checkpoint *c, const char *name, uint64_t row, uint64_t col)
{
	static const double fp4[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
	const struct t_tensor *t = t_find(c, name);
	uint64_t cols = t->n_dims == 2 ? t->dims[1] : t->dims[0];
	char scale[96];
	uint32_t u = 0;
	float f;
	int64_t i;

	snprintf(scale, sizeof scale, "%.*s.scale", (int)(strlen(name) - 7), name);
	if (!strcmp(t->dtype, "BF16")) {
		memcpy((uint8_t *)&u + 2, t->data + 2 * (row * cols + col), 2);
		memcpy(&f, &u, 4);
		return f;
	}
	if (!strcmp(t->dtype, "F32")) {
		memcpy(&f, t->data + 4 * (row * cols + col), 4);
		return f;
	}
	if (!strcmp(t->dtype, "I64")) {
		memcpy(&i, t->data + 8 * (row * cols + col), 8);
		return (double)i;
	}
	if (!strcmp(t->dtype, "F8_E4M3")) {
		uint8_t b = t->data[row * cols + col],
			s = t_find(c, scale)->data[row / 128 * ((cols + 127) / 128) + col / 128];
		double m = b >> 3 & 15 ? ldexp(8 + (b & 7), (b >> 3 & 15) - 10) : ldexp(b & 7, -9);

		return (b & 0x80 ? -m : m) * ldexp(1, s - 127);
	} else {
		uint8_t b = t->data[row * cols + col / 2],
			s = t_find(c, scale)->data[row * (cols * 2 / 32) + col / 32];
		int n = col % 2 ? b >> 4 : b & 15;

		return (n & 8 ? -fp4[n & 7] : fp4[n & 7]) * ldexp(1, s - 127);
	}
}

/* ------------------------------------------------------------------ running */

static inline enum status t_quantize(const struct quantize_options *o, struct quantize_report *report,
                                     struct err *err)
{
	struct quantize *q;
	enum status st = quantize_open(&q, o, err);

	if (st != OK) {
		assert_null(q);
		return st;
	}
	if (o->destination)
		st = quantize_run(q, err);
	if (report)
		quantize_report(q, false, report);
	quantize_close(q);
	return st;
}

static inline void t_good(const struct quantize_options *o)
{
	struct err err = {0};

	if (t_quantize(o, NULL, &err) != OK)
		fail_msg("expected success, got: %s", err.msg);
}

/* Expects a failure with this code whose message holds both texts. */
static inline void t_bad(const struct quantize_options *o, enum status code, const char *a, const char *b)
{
	struct err err = {0};
	enum status st = t_quantize(o, NULL, &err);

	if (st != code || !strstr(err.msg, a) || !strstr(err.msg, b))
		fail_msg("expected %s with \"%s\" and \"%s\", got %s: %s", status_name(code), a, b,
		         status_name(st), err.msg);
}

static inline bool t_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

static inline void t_same_files(const char *a, const char *b)
{
	struct file_map x, y;
	struct err err = {0};

	if (file_map(&x, a, &err) != OK || file_map(&y, b, &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(x.bytes, y.bytes);
	assert_memory_equal(x.data, y.data, x.bytes);
	file_unmap(&x);
	file_unmap(&y);
}

#endif
