/* make_checkpoint.c - a checkpoint in DeepSeek V4 Flash's official layout with a few full-width layers of
 * random numbers.
 *
 *     make_checkpoint FOLDER [--layers N] [--first L] [--experts E] [--vocab V] [--shards S] [--mtp 1]
 *                     [--hashed H] [--sparse 1]
 *
 * What  Real names, real shapes, real number formats (FP4 experts, FP8 matrices, E8M0 scales, bf16, F32,
 *       I64), real shard names with an index, and an MTP block; with 43 layers, 256 experts and 129280
 *       tokens it would be Flash's 160 GB. The default is one layer with 64 experts and 8192 tokens: 1.1 GB.
 * Why   To rehearse a conversion and to measure its speed without the real weights.
 * How   Layer l takes ratio 0, 0, 4, 128, 4, 128 ... as in Flash; --first L begins with layer L's kind.
 *       --sparse leaves the weights out: files of full length that take no room, all zero, to plan with.
 * Careful: random FP8 bytes leave out NaN; scales stay near 1/64 so that nothing overflows F16. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	D = 4096,
	HEADS = 64,
	HEAD = 512,
	Q_RANK = 1024,
	GROUPS = 8,
	O_RANK = 1024,
	FF = 2048,
	IH = 64,
	KEY = 128,
	USED = 6,
	MAX = 1 << 20,
	CHUNK = 1 << 20
};

enum kind { BF16, F32, FP8, FP4, SCALE, TABLE };

struct tensor {
	char name[96];
	enum kind kind;
	uint64_t rows, cols, bytes;	/* rows 0: a vector */
};

static struct tensor *list;
static int n, shards = 4, sparse, hash_layers = 1;
static uint64_t experts = 64, vocab = 8192;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

__attribute__((format(printf, 4, 5)))
static void add(enum kind kind, uint64_t rows, uint64_t cols, const char *fmt, ...)
{
	static const int size[] = {2, 4, 1, 1, 1, 8};
	struct tensor *t = &list[n++];
	va_list ap;

	if (n > MAX)
		exit(2);
	va_start(ap, fmt);
	vsnprintf(t->name, sizeof t->name, fmt, ap);
	va_end(ap);
	t->kind = kind;
	t->rows = rows;
	t->cols = cols;
	t->bytes = (rows ? rows : 1) * cols * (uint64_t)size[kind];
}

static void fp8(uint64_t rows, uint64_t cols, const char *p, const char *stem)
{
	add(FP8, rows, cols, "%s%s.weight", p, stem);
	add(SCALE, (rows + 127) / 128, (cols + 127) / 128, "%s%s.scale", p, stem);
}

static void fp4(uint64_t rows, uint64_t cols, const char *p, int e, int w)
{
	add(FP4, rows, cols / 2, "%sffn.experts.%d.w%d.weight", p, e, w);
	add(SCALE, rows, cols / 32, "%sffn.experts.%d.w%d.scale", p, e, w);
}

static void head(const char *p)
{
	add(F32, 4, 4 * D, "%shc_head_fn", p);
	add(F32, 0, 4, "%shc_head_base", p);
	add(F32, 0, 1, "%shc_head_scale", p);
	add(BF16, 0, D, "%snorm.weight", p);
}

static void compressor(const char *p, const char *at, int ratio, uint64_t width)
{
	uint64_t w = width * (ratio == 4 ? 2 : 1);

	add(F32, (uint64_t)ratio, w, "%s%s.ape", p, at);
	add(BF16, w, D, "%s%s.wkv.weight", p, at);
	add(BF16, w, D, "%s%s.wgate.weight", p, at);
	add(BF16, 0, width, "%s%s.norm.weight", p, at);
}

static void block(const char *p, int ratio, int hashed)
{
	for (int i = 0; i < 2; i++) {
		const char *half = i ? "ffn" : "attn";

		add(F32, 24, 4 * D, "%shc_%s_fn", p, half);
		add(F32, 0, 24, "%shc_%s_base", p, half);
		add(F32, 0, 3, "%shc_%s_scale", p, half);
		add(BF16, 0, D, "%s%s_norm.weight", p, half);
	}
	fp8(Q_RANK, D, p, "attn.wq_a");
	fp8(HEADS * HEAD, Q_RANK, p, "attn.wq_b");
	fp8(HEAD, D, p, "attn.wkv");
	fp8(GROUPS * O_RANK, HEADS * HEAD / GROUPS, p, "attn.wo_a");
	fp8(D, GROUPS * O_RANK, p, "attn.wo_b");
	add(BF16, 0, Q_RANK, "%sattn.q_norm.weight", p);
	add(BF16, 0, HEAD, "%sattn.kv_norm.weight", p);
	add(F32, 0, HEADS, "%sattn.attn_sink", p);
	if (ratio)
		compressor(p, "attn.compressor", ratio, HEAD);
	if (ratio == 4) {
		fp8(IH * KEY, Q_RANK, p, "attn.indexer.wq_b");
		add(BF16, IH, D, "%sattn.indexer.weights_proj.weight", p);
		compressor(p, "attn.indexer.compressor", 4, KEY);
	}
	add(BF16, experts, D, "%sffn.gate.weight", p);
	if (hashed)
		add(TABLE, vocab, USED, "%sffn.gate.tid2eid", p);
	else
		add(F32, 0, experts, "%sffn.gate.bias", p);
	for (int e = 0; e < (int)experts; e++) {
		fp4(FF, D, p, e, 1);
		fp4(D, FF, p, e, 2);
		fp4(FF, D, p, e, 3);
	}
	fp8(FF, D, p, "ffn.shared_experts.w1");
	fp8(D, FF, p, "ffn.shared_experts.w2");
	fp8(FF, D, p, "ffn.shared_experts.w3");
}

/* ------------------------------------------------------------------ writing */

static uint64_t state = 1;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Sum of four bytes: roughly normal, in -1..1. */
static float bell(uint64_t r)
{
	return ((float)((r & 255) + (r >> 8 & 255) + (r >> 16 & 255) + (r >> 24 & 255)) - 510) / 510;
}

static void fill(uint8_t *p, size_t bytes, enum kind kind)
{
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t r = next();
		float f[2] = {bell(r) * 0.05f, bell(r >> 32) * 0.05f};
		uint32_t u[2];

		memcpy(u, f, 8);
		if (kind == F32)
			memcpy(&r, f, 8);
		else if (kind == BF16)
			r = u[0] >> 16 | (uint64_t)(u[1] >> 16) << 16 | (uint64_t)(u[0] >> 17) << 33 |
			    (uint64_t)(u[1] >> 17) << 49;
		else if (kind == TABLE)
			r = r % experts;
		else if (kind == SCALE)
			r = (r & 0x0101010101010101u) + 0x7777777777777777u;
		else if (kind == FP8)		/* exponents 0..11 of 15, any sign and mantissa */
			r &= 0xDFDFDFDFDFDFDFDFu;
		memcpy(p + i, &r, bytes - i < 8 ? bytes - i : 8);
	}
}

static void write_header(FILE *f, int shard)
{
	static const char *const dtype[] = {"BF16", "F32", "F8_E4M3", "I8", "F8_E8M0", "I64"};
	uint64_t at = 0, length = 0;
	char *text = NULL;
	size_t size = 0;
	FILE *m = open_memstream(&text, &size);

	if (!m)
		die("memory");
	fputs("{\"__metadata__\":{\"format\":\"pt\"}", m);
	for (int i = 0; i < n; i++) {
		const struct tensor *t = &list[i];

		if ((int)((int64_t)i * shards / n) != shard)
			continue;
		fprintf(m, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, dtype[t->kind]);
		if (t->rows)
			fprintf(m, "%llu,", (unsigned long long)t->rows);
		fprintf(m, "%llu],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->cols,
		        (unsigned long long)at, (unsigned long long)(at + t->bytes));
		at += t->bytes;
	}
	fputs("}", m);
	fclose(m);
	length = size;
	if (fwrite(&length, 8, 1, f) != 1 || fwrite(text, 1, size, f) != size)
		die("header");
	free(text);
}

static void write_shard(const char *folder, int shard)
{
	static uint8_t chunk[CHUNK];
	uint64_t bytes = 0;
	char path[512];
	FILE *f;

	snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", folder, shard + 1, shards);
	f = fopen(path, "wb");
	if (!f)
		die(path);
	write_header(f, shard);
	for (int i = 0; i < n; i++) {
		if ((int)((int64_t)i * shards / n) != shard)
			continue;
		bytes += list[i].bytes;
		for (uint64_t left = sparse ? 0 : list[i].bytes; left;) {
			size_t k = left < CHUNK ? (size_t)left : CHUNK;

			fill(chunk, k, list[i].kind);
			if (fwrite(chunk, 1, k, f) != k)
				die(path);
			left -= k;
		}
	}
	if (fflush(f) || (sparse && ftruncate(fileno(f), (off_t)(ftello(f) + (off_t)bytes))) || fclose(f))
		die(path);
}

static void write_index(const char *folder)
{
	uint64_t total = 0;
	char path[512];
	FILE *f;

	snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
	f = fopen(path, "w");
	if (!f)
		die(path);
	for (int i = 0; i < n; i++)
		total += list[i].bytes;
	fprintf(f, "{\"metadata\": {\"total_size\": %llu}, \"weight_map\": {", (unsigned long long)total);
	for (int i = 0; i < n; i++)
		fprintf(f, "%s\n\"%s\": \"model-%05d-of-%05d.safetensors\"", i ? "," : "", list[i].name,
			(int)((int64_t)i * shards / n) + 1, shards);
	fputs("\n}}\n", f);
	if (fclose(f))
		die(path);
	printf("%d tensors, %.2f GB, %d shards\n", n, (double)total / 1e9, shards);
}

int main(int argc, char **argv)
{
	int layers = 1, first = 0, mtp = 0;
	char p[32];

	if (argc < 2)
		return fprintf(stderr, "usage: make_checkpoint FOLDER [--layers N] [--first L] [--experts E] [--vocab V]\n"
				       "       [--shards S] [--mtp 1] [--hashed H] [--sparse 1]\n"), 2;
	for (int i = 2; i + 1 < argc; i += 2) {
		int v = atoi(argv[i + 1]);

		if (!strcmp(argv[i], "--layers"))
			layers = v;
		else if (!strcmp(argv[i], "--first"))
			first = v;
		else if (!strcmp(argv[i], "--experts"))
			experts = (uint64_t)v;
		else if (!strcmp(argv[i], "--vocab"))
			vocab = (uint64_t)v;
		else if (!strcmp(argv[i], "--shards"))
			shards = v;
		else if (!strcmp(argv[i], "--mtp"))
			mtp = v;
		else if (!strcmp(argv[i], "--hashed"))
			hash_layers = v;
		else if (!strcmp(argv[i], "--sparse"))
			sparse = v;
		else
			return fprintf(stderr, "unknown option %s\n", argv[i]), 2;
	}
	list = calloc(MAX, sizeof *list);
	if (!list || shards < 1)
		return 2;
	mkdir(argv[1], 0755);
	add(BF16, vocab, D, "embed.weight");
	for (int l = 0; l < layers; l++) {
		int kind = first + l;

		snprintf(p, sizeof p, "layers.%d.", l);
		block(p, kind < 2 ? 0 : kind % 2 ? 128 : 4, l < hash_layers);
	}
	head("");
	add(BF16, vocab, D, "head.weight");
	if (mtp) {
		block("mtp.0.", 0, 0);
		fp8(D, D, "mtp.0.", "e_proj");
		fp8(D, D, "mtp.0.", "h_proj");
		add(BF16, 0, D, "mtp.0.enorm.weight");
		add(BF16, 0, D, "mtp.0.hnorm.weight");
		head("mtp.0.");
	}
	for (int s = 0; s < shards; s++)
		write_shard(argv[1], s);
	write_index(argv[1]);
	return 0;
}
