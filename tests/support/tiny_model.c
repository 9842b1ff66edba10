/* tiny_model.c - makes the small random models that the golden tests run.
 *
 * What  tiny_model_write() writes model tiny-N (N = 1, 2, 3): a complete file of the family, 7 to 43 MB, with
 *       every mechanism in it (window-only, ratio 4 and ratio 128 layers, indexer, hash-routed and scored
 *       experts, every element type, a vocabulary), and says the file's length and checksum.
 * Why   The numpy reference's results for these files are stored in tests/data/golden; the files themselves would
 *       more than double the repository, and are made again when the tests run.
 * How   A byte of the file is a function of N alone, through integer arithmetic: no libm, no float rounding.
 *       Word i of tensor t is the i-th splitmix64 value of a key made of N and t.  A plain element is s * 2^-k
 *       with |s| <= 254, exact in F32, F16 and BF16; a block is random bytes under random half scales.  k and the
 *       scales' exponents follow from the wanted standard deviation, gain / sqrt(in).
 * Careful
 *       - Changing anything here makes the stored results stale.  tests/data/golden/MODELS holds the checksums,
 *         and golden_tiny_path() compares them.
 *       - tiny-2 has its tensor data in the reverse order of its directory, and layers of tiny-3 share the bytes
 *         of their expert tensors: a loader has to believe the offsets. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "support/tiny_model.h"

enum { F32 = 0, F16 = 1, Q8_0 = 8, Q2_K = 10, Q4_K = 12, IQ2_XXS = 16, I32 = 26, BF16 = 30 };	/* element types */
enum { U32 = 4, INT32 = 5, FLOAT32 = 6, BOOL = 7, STRING = 8, ARRAY = 9 };			/* value types */
enum { KEY = 512, ROT = 64, IK = 128, STREAMS = 4, MIX = 24, SINKHORN = 20, MAX_LAYERS = 8, MAX_TENSORS = 512 };

struct tiny {
	int layers, ratio[MAX_LAYERS];
	int hidden, vocab, heads, q_lora, groups, o_lora, experts, used, ff, n_hash, window, ih, topk;
	int gate_up[MAX_LAYERS], down[MAX_LAYERS];	/* types of the routed experts */
	int embed, output, hc, router, ape, plain;	/* plain: compressor and indexer matrices */
	int q_a, q_b, kv, out_a, out_b, shared;
	bool reversed, aliased;
};

static const struct tiny MODEL[TINY_MODELS] = {
	{	/* tiny-1: the published types */
		.layers = 6, .ratio = {0, 0, 4, 128, 4, 128},
		.hidden = 256, .vocab = 512, .heads = 4, .q_lora = 128, .groups = 2, .o_lora = 64,
		.experts = 8, .used = 3, .ff = 256, .n_hash = 3, .window = 128, .ih = 16, .topk = 16,
		.gate_up = {IQ2_XXS, IQ2_XXS, IQ2_XXS, IQ2_XXS, IQ2_XXS, IQ2_XXS},
		.down = {Q2_K, Q2_K, Q2_K, Q2_K, Q2_K, Q2_K},
		.embed = F16, .output = Q8_0, .hc = F16, .router = F16, .ape = F16, .plain = F16,
		.q_a = Q8_0, .q_b = Q8_0, .kv = Q8_0, .out_a = Q8_0, .out_b = Q8_0, .shared = Q8_0,
	}, {	/* tiny-2: other shapes, a short window, every type somewhere */
		.layers = 6, .ratio = {0, 4, 128, 4, 0, 128},
		.hidden = 512, .vocab = 397, .heads = 6, .q_lora = 160, .groups = 3, .o_lora = 96,
		.experts = 10, .used = 4, .ff = 256, .n_hash = 2, .window = 32, .ih = 24, .topk = 48,
		.gate_up = {IQ2_XXS, Q4_K, Q2_K, Q4_K, IQ2_XXS, Q2_K},
		.down = {Q2_K, Q4_K, IQ2_XXS, Q4_K, Q4_K, Q2_K},
		.embed = BF16, .output = F16, .hc = F32, .router = F32, .ape = F32, .plain = BF16,
		.q_a = BF16, .q_b = F16, .kv = Q8_0, .out_a = BF16, .out_b = F32, .shared = F16,
		.reversed = true,
	}, {	/* tiny-3: cheap over thousands of tokens; the indexer keeps 512 rows as Flash does */
		.layers = 4, .ratio = {0, 4, 128, 4},
		.hidden = 256, .vocab = 320, .heads = 2, .q_lora = 64, .groups = 2, .o_lora = 32,
		.experts = 4, .used = 2, .ff = 256, .n_hash = 1, .window = 128, .ih = 16, .topk = 512,
		.gate_up = {IQ2_XXS, IQ2_XXS, IQ2_XXS, IQ2_XXS}, .down = {Q2_K, Q2_K, Q2_K, Q2_K},
		.embed = F16, .output = Q8_0, .hc = F16, .router = F16, .ape = F16, .plain = F16,
		.q_a = Q8_0, .q_b = Q8_0, .kv = Q8_0, .out_a = Q8_0, .out_b = Q8_0, .shared = Q8_0,
		.aliased = true,
	},
};

enum fill { BELL, ROUTES };

struct tensor {
	char name[64];
	uint64_t dims[3], offset, key;
	int n_dims, type;
	enum fill fill;
	int gain;	/* matrices: standard deviation gain / 10 / sqrt(dims[0]) */
	int mean, k;	/* vectors: (mean + bell) * 2^-k */
	int high;	/* ROUTES: expert numbers below this */
	bool shares;	/* has another tensor's bytes */
};

struct writer {
	FILE *out;
	uint64_t written, checksum;
	const struct tiny *m;
	int number, n_tensors;
	struct tensor t[MAX_TENSORS];
};

static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("tiny_model: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

/* ------------------------------------------------------------------ output */

static void put(struct writer *w, const void *p, size_t n)
{
	const uint8_t *b = p;

	for (size_t i = 0; i < n; i++)
		w->checksum = (w->checksum ^ b[i]) * 0x100000001b3u;
	if (fwrite(p, 1, n, w->out) != n)
		die("cannot write");
	w->written += n;
}

/* The n low bytes of v, least significant first. */
static void put_le(struct writer *w, uint64_t v, int n)
{
	uint8_t b[8];

	for (int i = 0; i < n; i++)
		b[i] = (uint8_t)(v >> 8 * i);
	put(w, b, (size_t)n);
}

static void put_str(struct writer *w, const char *s)
{
	put_le(w, strlen(s), 8);
	put(w, s, strlen(s));
}

static void pad32(struct writer *w)
{
	while (w->written % 32)
		put_le(w, 0, 1);
}

/* ------------------------------------------------------------------ numbers */

/* Bell-shaped integer in -254..254, variance 5461: the sum of four 7-bit fields. */
static int bell(uint64_t w)
{
	return (int)((w & 127) + (w >> 7 & 127) + (w >> 14 & 127) + (w >> 21 & 127)) - 254;
}

/* Bits of s * 2^-k as a float32.  s has at most 8 significant bits: also exact in bfloat16 and float16. */
static uint32_t f32_of(int s, int k)
{
	uint32_t m = (uint32_t)abs(s), e = 127 + 23 - (uint32_t)k;

	if (!s)
		return 0;
	for (; m < 1u << 23; e--)
		m <<= 1;
	return (s < 0 ? 1u << 31 : 0) | e << 23 | (m & 0x7FFFFF);
}

static uint16_t f16_of(int s, int k)
{
	uint32_t u = f32_of(s, k), e = (u >> 23 & 255) - 112;

	if (!s)
		return 0;
	if (e < 1 || e > 30)
		die("half out of range");
	return (uint16_t)(u >> 16 & 0x8000u) | (uint16_t)(e << 10) | (uint16_t)(u >> 13 & 0x3FF);
}

/* k for which integers of variance v, times 2^-k, have a standard deviation near gain / 10 / sqrt(in):
 * the least one with v * 4^-k <= 2 (gain / 10)^2 / in. */
static int exponent(uint64_t v, uint64_t in, uint64_t gain)
{
	int k = 0;

	while (v * in * 100 > 2 * gain * gain << 2 * k)
		k++;
	return k;
}

/* A half in [1, 2) * 2^-k; r is random, `range` (<= 1024) limits the fraction to [0, range / 1024).
 * Below 2^-14 halves are subnormal: multiples of 2^-24. */
static uint16_t scale_of(int k, uint64_t r, uint64_t range)
{
	uint64_t fraction = r % range;

	if (k > 24)
		die("scale out of range");
	return (uint16_t)(k > 14 ? (1024 + fraction) >> (k - 14) : (uint64_t)(15 - k) << 10 | fraction);
}

/* ------------------------------------------------------------------ tensors */

static struct tensor *add(struct writer *w, const char *prefix, const char *name, int type, uint64_t d0,
			  uint64_t d1, uint64_t d2)
{
	struct tensor *t = &w->t[w->n_tensors];

	if (w->n_tensors++ == MAX_TENSORS)
		die("too many tensors");
	snprintf(t->name, sizeof t->name, "%s%s", prefix, name);
	t->type = type;
	t->n_dims = d2 ? 3 : d1 ? 2 : 1;
	t->dims[0] = d0;
	t->dims[1] = d1 ? d1 : 1;
	t->dims[2] = d2 ? d2 : 1;
	return t;
}

static void vector(struct writer *w, const char *prefix, const char *name, int n, int mean, int k)
{
	struct tensor *t = add(w, prefix, name, F32, (uint64_t)n, 0, 0);

	t->mean = mean << k;
	t->k = k;
}

static void matrix(struct writer *w, const char *prefix, const char *name, int type, int in, int rows, int gain)
{
	add(w, prefix, name, type, (uint64_t)in, (uint64_t)rows, 0)->gain = gain;
}

static void experts(struct writer *w, const char *prefix, const char *name, int type, int in, int rows, int n,
		    int gain)
{
	add(w, prefix, name, type, (uint64_t)in, (uint64_t)rows, (uint64_t)n)->gain = gain;
}

static void add_attention(struct writer *w, int il, const char *p)
{
	const struct tiny *m = w->m;
	int r = m->ratio[il], wide = r == 4 ? 2 : 1;

	matrix(w, p, "attn_q_a.weight", m->q_a, m->hidden, m->q_lora, 10);
	vector(w, p, "attn_q_a_norm.weight", m->q_lora, 1, 10);
	matrix(w, p, "attn_q_b.weight", m->q_b, m->q_lora, m->heads * KEY, 10);
	matrix(w, p, "attn_kv.weight", m->kv, m->hidden, KEY, 10);
	vector(w, p, "attn_kv_a_norm.weight", KEY, 2, 9);
	vector(w, p, "attn_sinks.weight", m->heads, 0, 6);
	matrix(w, p, "attn_output_a.weight", m->out_a, m->heads * KEY / m->groups, m->groups * m->o_lora, 10);
	matrix(w, p, "attn_output_b.weight", m->out_b, m->groups * m->o_lora, m->hidden, 20);
	if (!r)
		return;
	matrix(w, p, "attn_compressor_ape.weight", m->ape, wide * KEY, r, 100);
	matrix(w, p, "attn_compressor_kv.weight", m->plain, m->hidden, wide * KEY, 10);
	matrix(w, p, "attn_compressor_gate.weight", m->plain, m->hidden, wide * KEY, 10);
	vector(w, p, "attn_compressor_norm.weight", KEY, 2, 9);
	if (r != 4)
		return;
	matrix(w, p, "indexer.attn_q_b.weight", m->plain, m->q_lora, m->ih * IK, 10);
	matrix(w, p, "indexer.proj.weight", m->plain, m->hidden, m->ih, 10);
	matrix(w, p, "indexer_compressor_ape.weight", m->ape, 2 * IK, 4, 100);
	matrix(w, p, "indexer_compressor_kv.weight", m->plain, m->hidden, 2 * IK, 10);
	matrix(w, p, "indexer_compressor_gate.weight", m->plain, m->hidden, 2 * IK, 10);
	vector(w, p, "indexer_compressor_norm.weight", IK, 1, 9);
}

static void add_experts(struct writer *w, int il, const char *p)
{
	const struct tiny *m = w->m;
	int D = m->hidden, F = m->ff, E = m->experts;

	matrix(w, p, "ffn_gate_inp.weight", m->router, D, E, 20);
	if (il < m->n_hash) {
		struct tensor *t = add(w, p, "ffn_gate_tid2eid.weight", I32, (uint64_t)m->used,
				       (uint64_t)m->vocab, 0);

		t->fill = ROUTES;
		t->high = E;
	} else {
		vector(w, p, "exp_probs_b.bias", E, 0, 8);
	}
	experts(w, p, "ffn_gate_exps.weight", m->gate_up[il], D, F, E, 30);
	experts(w, p, "ffn_up_exps.weight", m->gate_up[il], D, F, E, 30);
	experts(w, p, "ffn_down_exps.weight", m->down[il], F, D, E, 1);
	matrix(w, p, "ffn_gate_shexp.weight", m->shared, D, F, 60);	/* large: reaches the clamp */
	matrix(w, p, "ffn_up_shexp.weight", m->shared, D, F, 60);
	matrix(w, p, "ffn_down_shexp.weight", m->shared, F, D, 1);
}

static void add_mix(struct writer *w, const char *p, const char *which, int n_mix, int n_scale)
{
	const struct tiny *m = w->m;
	char name[40];

	snprintf(name, sizeof name, "%s_fn.weight", which);
	matrix(w, p, name, m->hc, STREAMS * m->hidden, n_mix, 10);
	snprintf(name, sizeof name, "%s_scale.weight", which);
	vector(w, p, name, n_scale, 1, 9);
	snprintf(name, sizeof name, "%s_base.weight", which);
	vector(w, p, name, n_mix, 0, 7);
}

static void add_tensors(struct writer *w)
{
	const struct tiny *m = w->m;

	matrix(w, "", "token_embd.weight", m->embed, m->hidden, m->vocab, 160);
	for (int il = 0; il < m->layers; il++) {
		char p[24];

		snprintf(p, sizeof p, "blk.%d.", il);
		add_mix(w, p, "hc_attn", MIX, 3);
		add_mix(w, p, "hc_ffn", MIX, 3);
		vector(w, p, "attn_norm.weight", m->hidden, 1, 10);
		vector(w, p, "ffn_norm.weight", m->hidden, 1, 10);
		add_attention(w, il, p);
		add_experts(w, il, p);
	}
	add_mix(w, "", "output_hc", STREAMS, 1);
	vector(w, "", "output_norm.weight", m->hidden, 1, 10);
	matrix(w, "", "output.weight", m->output, m->hidden, m->vocab, 30);
	for (int i = 0; i < w->n_tensors; i++) {
		uint64_t seed = (uint64_t)w->number << 32 | (uint64_t)i;

		w->t[i].key = rng_mix(&seed);
	}
}

static uint64_t block_bytes(int type, uint64_t *elements)
{
	*elements = type == Q8_0 ? 32 : type == Q2_K || type == Q4_K || type == IQ2_XXS ? 256 : 1;
	switch (type) {
	case F32: case I32: return 4;
	case F16: case BF16: return 2;
	case Q8_0: return 34;
	case Q2_K: return 84;
	case Q4_K: return 144;
	default: return 66;
	}
}

static uint64_t tensor_bytes(const struct tensor *t, uint64_t *blocks)
{
	uint64_t elements, bytes = block_bytes(t->type, &elements);

	if (t->dims[0] % elements)
		die("%s: rows of %" PRIu64 " are not whole blocks", t->name, t->dims[0]);
	*blocks = t->dims[0] * t->dims[1] * t->dims[2] / elements;
	return *blocks * bytes;
}

/* The first tensor in the directory with the same name but for the layer, if t holds routed experts. */
static const struct tensor *same_experts(const struct writer *w, const struct tensor *t)
{
	const char *name = strstr(t->name, ".ffn_");

	if (!name || !strstr(name, "_exps.weight"))
		return NULL;
	for (const struct tensor *u = w->t; u < t; u++)
		if (strstr(u->name, name))
			return u;
	return NULL;
}

/* Offsets in the order in which the data will be written. */
static uint64_t place(struct writer *w)
{
	const struct tiny *m = w->m;
	uint64_t at = 0, blocks;

	for (int n = 0; n < w->n_tensors; n++) {
		struct tensor *t = &w->t[m->reversed ? w->n_tensors - 1 - n : n];
		const struct tensor *same = m->aliased ? same_experts(w, t) : NULL;

		if (same) {
			t->offset = same->offset;
			t->shares = true;
			continue;
		}
		t->offset = at;
		at = (at + tensor_bytes(t, &blocks) + 31) / 32 * 32;
	}
	return at;
}

static void put_random(struct writer *w, uint64_t *x, int n)
{
	for (; n > 0; n -= 8)
		put_le(w, rng_mix(x), n < 8 ? n : 8);
}

static void put_block(struct writer *w, const struct tensor *t, uint64_t *x)
{
	uint64_t in = t->dims[0], gain = (uint64_t)t->gain, r = rng_mix(x);
	int k;

	switch (t->type) {
	case F32:
		k = t->gain ? exponent(5461, in, gain) : t->k;
		put_le(w, f32_of(t->mean + bell(r), k), 4);
		return;
	case F16:
		put_le(w, f16_of(bell(r), exponent(5461, in, gain)), 2);
		return;
	case BF16:
		put_le(w, f32_of(bell(r), exponent(5461, in, gain)) >> 16, 2);
		return;
	case Q8_0:		/* bytes of variance 5461, times d */
		put_le(w, scale_of(exponent(2 * 5461, in, gain), r, 1024), 2);
		put_random(w, x, 32);
		return;
	case IQ2_XXS:		/* the rest of a value has variance 2847 */
		put_le(w, scale_of(exponent(2 * 2847, in, gain), r, 1024), 2);
		put_random(w, x, 64);
		return;
	case Q2_K:		/* the rest: 121; dmin is 1.5 d on average, which centres the values */
		put_random(w, x, 80);
		k = exponent(2 * 121, in, gain);
		put_le(w, scale_of(k, r, 1024), 2);
		put_le(w, scale_of(k - 1, r >> 32, 256), 2);
		return;
	default:		/* Q4_K: 36100; dmin is 7.5 d on average */
		k = exponent(2 * 36100, in, gain);
		put_le(w, scale_of(k, r, 1024), 2);
		put_le(w, scale_of(k - 3, r >> 32, 832), 2);
		put_random(w, x, 140);
	}
}

/* `used` different expert numbers for every token. */
static void put_routes(struct writer *w, const struct tensor *t, uint64_t *x)
{
	for (uint64_t token = 0; token < t->dims[1]; token++) {
		uint64_t taken = 0;

		for (uint64_t i = 0; i < t->dims[0];) {
			uint64_t e = rng_mix(x) % (uint64_t)t->high;

			if (taken >> e & 1)
				continue;
			taken |= (uint64_t)1 << e;
			put_le(w, e, 4);
			i++;
		}
	}
}

static void put_tensor(struct writer *w, const struct tensor *t)
{
	uint64_t blocks, x = t->key;

	tensor_bytes(t, &blocks);
	if (t->fill == ROUTES)
		put_routes(w, t, &x);
	else
		for (uint64_t b = 0; b < blocks; b++)
			put_block(w, t, &x);
	pad32(w);
}

/* ------------------------------------------------------------------ header */

static void key(struct writer *w, const char *name, uint32_t type)
{
	put_str(w, name);
	put_le(w, type, 4);
}

static void key_u32(struct writer *w, const char *name, int v)
{
	key(w, name, U32);
	put_le(w, (uint64_t)v, 4);
}

static void key_f32(struct writer *w, const char *name, float v)
{
	uint32_t bits;

	memcpy(&bits, &v, 4);
	key(w, name, FLOAT32);
	put_le(w, bits, 4);
}

static void key_str(struct writer *w, const char *name, const char *v)
{
	key(w, name, STRING);
	put_str(w, v);
}

static void key_array(struct writer *w, const char *name, uint32_t type, int n)
{
	key(w, name, ARRAY);
	put_le(w, type, 4);
	put_le(w, (uint64_t)n, 8);
}

static const char *const SPECIALS[] = {
	"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>",
	"<think>", "</think>", "｜DSML｜", "<｜latest_reminder｜>", "<｜action｜>", "<｜query｜>", "<｜authority｜>",
	"<｜domain｜>", "<｜title｜>", "<｜read_url｜>",
};
static const char *const MERGED[] = {"t h", "i n", "e r", "a n", "th e", "Ġ t", "Ġ a", "Ġt an"};

enum { N_SPECIALS = sizeof SPECIALS / sizeof *SPECIALS, N_MERGED = sizeof MERGED / sizeof *MERGED };

/* A vocabulary that opens: the markers, the 256 bytes in their byte-level spelling, a few merges, unused ids. */
static void put_vocabulary(struct writer *w)
{
	const struct tiny *m = w->m;
	int extra = 256;

	key_str(w, "tokenizer.ggml.model", "gpt2");
	key_str(w, "tokenizer.ggml.pre", "joyai-llm");
	key_array(w, "tokenizer.ggml.tokens", STRING, m->vocab);
	for (int i = 0; i < m->vocab; i++) {
		int byte = i - N_SPECIALS, merged = byte - 256;
		char s[24];

		if (byte < 0) {
			put_str(w, SPECIALS[i]);
		} else if (byte < 256) {
			bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
			int c = plain ? byte : extra++;

			s[0] = (char)(c < 128 ? c : 0xC0 | c >> 6);
			s[1] = (char)(c < 128 ? 0 : 0x80 | (c & 63));
			s[2] = 0;
			put_str(w, s);
		} else if (merged < N_MERGED) {
			const char *blank = strchr(MERGED[merged], ' ');

			snprintf(s, sizeof s, "%.*s%s", (int)(blank - MERGED[merged]), MERGED[merged], blank + 1);
			put_str(w, s);
		} else {
			snprintf(s, sizeof s, "[PAD%d]", i);
			put_str(w, s);
		}
	}
	key_array(w, "tokenizer.ggml.token_type", INT32, m->vocab);
	for (int i = 0; i < m->vocab; i++)
		put_le(w, i < 3 ? 3 : i < N_SPECIALS ? 4 : i < N_SPECIALS + 256 + N_MERGED ? 1 : 5, 4);
	key_array(w, "tokenizer.ggml.merges", STRING, N_MERGED);
	for (int i = 0; i < N_MERGED; i++)
		put_str(w, MERGED[i]);
	key_u32(w, "tokenizer.ggml.bos_token_id", 0);
	key_u32(w, "tokenizer.ggml.eos_token_id", 1);
	key_u32(w, "tokenizer.ggml.padding_token_id", 2);
}

#define P "deepseek4."
enum { N_KEYS = 46 };	/* of put_metadata, vocabulary included */

static void put_metadata(struct writer *w)
{
	const struct tiny *m = w->m;
	char name[32];

	snprintf(name, sizeof name, "tiny-%d (random weights)", w->number);
	key_str(w, "general.architecture", "deepseek4");
	key_str(w, "general.name", name);
	key_u32(w, P "block_count", m->layers);
	key_u32(w, P "context_length", 1048576);
	key_u32(w, P "embedding_length", m->hidden);
	key_u32(w, P "vocab_size", m->vocab);
	key_u32(w, P "attention.head_count", m->heads);
	key_u32(w, P "attention.head_count_kv", 1);
	key_u32(w, P "attention.key_length", KEY);
	key_u32(w, P "attention.value_length", KEY);
	key_u32(w, P "attention.q_lora_rank", m->q_lora);
	key_u32(w, P "attention.output_lora_rank", m->o_lora);
	key_u32(w, P "attention.output_group_count", m->groups);
	key_u32(w, P "attention.sliding_window", m->window);
	key_f32(w, P "attention.layer_norm_rms_epsilon", 1e-6f);
	key_u32(w, P "attention.indexer.head_count", m->ih);
	key_u32(w, P "attention.indexer.key_length", IK);
	key_u32(w, P "attention.indexer.top_k", m->topk);
	key_array(w, P "attention.compress_ratios", INT32, m->layers + 1);	/* the last one: the MTP block */
	for (int i = 0; i <= m->layers; i++)
		put_le(w, i < m->layers ? (uint64_t)m->ratio[i] : 0, 4);
	key_f32(w, P "attention.compress_rope_freq_base", 160000);
	key_u32(w, P "rope.dimension_count", ROT);
	key_f32(w, P "rope.freq_base", 10000);
	key_str(w, P "rope.scaling.type", "yarn");
	key_f32(w, P "rope.scaling.factor", 16);
	key_u32(w, P "rope.scaling.original_context_length", 65536);
	key_f32(w, P "rope.scaling.yarn_beta_fast", 32);
	key_f32(w, P "rope.scaling.yarn_beta_slow", 1);
	key_u32(w, P "expert_count", m->experts);
	key_u32(w, P "expert_used_count", m->used);
	key_u32(w, P "expert_shared_count", 1);
	key_u32(w, P "expert_feed_forward_length", m->ff);
	key_f32(w, P "expert_weights_scale", 1.5f);
	key(w, P "expert_weights_norm", BOOL);
	put_le(w, 1, 1);
	key_u32(w, P "hash_layer_count", m->n_hash);
	key_array(w, P "swiglu_clamp_exp", FLOAT32, m->layers);
	for (int i = 0; i < m->layers; i++)
		put_le(w, 0x41200000, 4);	/* 10.0 */
	key_u32(w, P "hyper_connection.count", STREAMS);
	key_u32(w, P "hyper_connection.sinkhorn_iterations", SINKHORN);
	key_f32(w, P "hyper_connection.epsilon", 1e-6f);
	put_vocabulary(w);
}

static void put_directory(struct writer *w)
{
	for (int i = 0; i < w->n_tensors; i++) {
		put_str(w, w->t[i].name);
		put_le(w, (uint64_t)w->t[i].n_dims, 4);
		for (int d = 0; d < w->t[i].n_dims; d++)
			put_le(w, w->t[i].dims[d], 8);
		put_le(w, (uint64_t)w->t[i].type, 4);
		put_le(w, w->t[i].offset, 8);
	}
	pad32(w);
}

void tiny_model_write(const char *path, int number, uint64_t *bytes, uint64_t *checksum)
{
	struct writer *w = calloc(1, sizeof *w);
	uint64_t data, start;

	if (!w || number < 1 || number > TINY_MODELS)
		die("model %d: there are 1..%d", number, TINY_MODELS);
	w->m = &MODEL[number - 1];
	w->number = number;
	w->checksum = 0xcbf29ce484222325u;
	w->out = fopen(path, "wb");
	if (!w->out)
		die("cannot create %s", path);
	add_tensors(w);
	data = place(w);
	put(w, "GGUF", 4);
	put_le(w, 3, 4);
	put_le(w, (uint64_t)w->n_tensors, 8);
	put_le(w, N_KEYS, 8);
	put_metadata(w);
	put_directory(w);
	start = w->written;
	for (int n = 0; n < w->n_tensors; n++) {
		const struct tensor *t = &w->t[w->m->reversed ? w->n_tensors - 1 - n : n];

		if (!t->shares && w->written - start != t->offset)
			die("%s is at %" PRIu64 ", not at %" PRIu64, t->name, w->written - start, t->offset);
		if (!t->shares)
			put_tensor(w, t);
	}
	if (w->written - start != data || fclose(w->out))
		die("cannot write %s", path);
	*bytes = w->written;
	*checksum = w->checksum;
	free(w);
}
