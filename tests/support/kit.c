/* kit.c - see kit.h.  Weights are drawn as random blocks, so every code of every format occurs. */
#include "support/kit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "quant/blocks.h"
#include "quant/half.h"

static void *owned[1024];
static int n_owned;

static void *own(void *p)
{
	assert_non_null(p);
	assert_true(n_owned < 1024);
	owned[n_owned++] = p;
	return p;
}

void kit_free_weights(void)
{
	while (n_owned)
		mem_free(owned[--n_owned]);
}

float kit_uniform(struct rng *r, double a)
{
	return (float)((2 * rng_uniform(r) - 1) * a);
}

/* A positive half with a random mantissa near `mean`. */
static uint16_t scale_half(struct rng *r, double mean)
{
	return f16_from_f32((float)(mean * (0.7 + 0.6 * rng_uniform(r))));
}

static void random_bytes(struct rng *r, void *p, size_t n)
{
	uint8_t *b = p;

	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)rng_u64(r);
}

/* One block (or element) with standard deviation about sd. */
static void fill_block(struct rng *r, uint8_t *p, enum dtype t, double sd)
{
	float f = kit_uniform(r, sd * 1.7);
	uint16_t h;

	switch (t) {
	case DTYPE_F32:
		memcpy(p, &f, 4);
		break;
	case DTYPE_F16:
		h = f16_from_f32(f);
		memcpy(p, &h, 2);
		break;
	case DTYPE_BF16:
		h = bf16_from_f32(f);
		memcpy(p, &h, 2);
		break;
	case DTYPE_Q8_0: {
		struct block_q8_0 b;

		random_bytes(r, &b, sizeof b);
		b.d = scale_half(r, sd / 74);
		memcpy(p, &b, sizeof b);
		break;
	}
	case DTYPE_Q2_K: {
		struct block_q2_k b;

		random_bytes(r, &b, sizeof b);
		b.d = scale_half(r, sd / 11);
		b.dmin = scale_half(r, sd / 11 * 1.5);
		memcpy(p, &b, sizeof b);
		break;
	}
	case DTYPE_Q4_K: {
		struct block_q4_k b;

		random_bytes(r, &b, sizeof b);
		b.d = scale_half(r, sd / 190);
		b.dmin = scale_half(r, sd / 190 * 7.5);
		memcpy(p, &b, sizeof b);
		break;
	}
	case DTYPE_IQ2_XXS: {
		struct block_iq2_xxs b;

		random_bytes(r, &b, sizeof b);
		b.d = scale_half(r, sd / 35);
		memcpy(p, &b, sizeof b);
		break;
	}
	default:
		fail_msg("no random blocks for %s", dtype_info(t)->name);
	}
}

struct weight *kit_weight(struct rng *r, const char *name, enum dtype t, int32_t in, int32_t out, int32_t n)
{
	struct weight *w = own(mem_zero(sizeof *w));
	const struct dtype_info *d = dtype_info(t);
	size_t rows = (size_t)out * (size_t)n, blocks = rows * (size_t)in / d->block_elements;
	uint8_t *data = own(mem_aligned(blocks * d->block_bytes, 64));

	for (size_t i = 0; i < blocks; i++)
		fill_block(r, data + i * d->block_bytes, t, out > 1 ? 1 / sqrt(in) : 1);
	*w = (struct weight){.name = name, .type = t, .in = in, .out = out, .n = n,
			     .row_bytes = dtype_bytes(t, (size_t)in), .data = data};
	return w;
}

struct weight *kit_ints(struct rng *r, const char *name, int32_t in, int32_t out, int32_t below)
{
	struct weight *w = own(mem_zero(sizeof *w));
	int32_t *data = own(mem_array((size_t)in * (size_t)out, sizeof *data));

	for (int32_t i = 0; i < out; i++)	/* distinct within a row */
		for (int32_t j = 0; j < in; j++)
			data[i * in + j] = (int32_t)((rng_below(r, 2) + (uint64_t)j * 2 + (uint64_t)i) % (uint64_t)below);
	*w = (struct weight){.name = name, .type = DTYPE_I32, .in = in, .out = out, .n = 1,
			     .row_bytes = (size_t)in * sizeof *data, .data = data};
	return w;
}

void kit_open(struct kit *k, const char *name, int threads, int32_t ratio, int32_t window)
{
	/* DS4_TEST_CPU: the instruction set of the cpu backend, see tests/cli/isa_test.sh. */
	struct be_options opt = {.threads = threads, .isa = getenv("DS4_TEST_CPU"), .numerics = BE_NUMERICS_MODEL};
	struct err err = {0};

	memset(k, 0, sizeof *k);
	if (be_open(&k->be, name, &opt, &err) != OK)
		fail_msg("backend %s: %s", name, err.msg);
	k->shape.n_layer = 1;
	k->shape.ratio[0] = ratio;
	k->shape.window = window ? window : 1;
	kv_layout_make(&k->layout, &k->shape, k->be);
	kv_pool_init(&k->pool, k->be, &k->layout, 1 << 20);
}

void kit_close(struct kit *k)
{
	kv_pool_clear(&k->pool);
	be_close(k->be);
}

struct tensor kit_tensor(struct kit *k, enum tensor_type type, int32_t rows, int32_t width)
{
	struct err err = {0};
	struct tensor t;

	if (be_tensor(k->be, &t, type, rows, width, &err) != OK)
		fail_msg("%s", err.msg);
	return t;
}

void kit_load(struct kit *k, struct weight *w)
{
	struct err err = {0};

	if (k->be->weight_load(k->be, w, &err) != OK)
		fail_msg("%s", err.msg);
}

void kit_step_begin(struct kit_step *st)
{
	memset(st, 0, sizeof *st);
}

void kit_step_add(struct kit_step *st, struct rng *r, struct kv *kv, int32_t pos0, int32_t n, int32_t vocab)
{
	int32_t t = st->s.n_rows, i = st->s.n_spans++;
	struct err err = {0};

	assert_true(t + n <= KIT_MAX_ROWS);
	if (kv) {
		if (kv_reserve(kv, pos0 + n, &err) != OK)
			fail_msg("%s", err.msg);
		st->timeline[i] = kv->dev;
	}
	st->span[i] = (struct span){i, t, n, pos0};
	for (int32_t j = 0; j < n; j++, t++) {
		st->row[t] = (struct row){(int32_t)rng_below(r, (uint64_t)vocab), i, pos0 + j, 0};
		st->row_span[t] = i;
	}
	st->s.n_rows = t;
}

void kit_step_end(struct kit_step *st, int32_t n_logits)
{
	st->s.row = st->row;
	st->s.span = st->span;
	st->s.row_span = st->row_span;
	st->s.logit_row = st->logit_row;
	st->s.timeline = st->timeline;
	st->s.n_logits = n_logits;
	for (int32_t i = 0; i < n_logits; i++) {
		st->logit_row[i] = st->s.n_rows - n_logits + i;
		st->row[st->logit_row[i]].wants_logits = 1;
	}
}

double kit_error(const float *a, const float *b, size_t n)
{
	double d = 0, norm = 0;

	for (size_t i = 0; i < n; i++) {
		d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		norm += (double)b[i] * b[i];
	}
	return sqrt(d / (norm > 0 ? norm : 1));
}
