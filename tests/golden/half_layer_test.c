/* half_layer_test.c - every half layer of ref from a common input state, against the numpy reference.
 *
 * What  The tiny models cover every mechanism: ratios 0, 4 and 128, hash layers, clamps, every element type, windows
 *       of 32 and 128, and a top-k of 512 that bites after 2,048 tokens.
 * How   One run per storage mode.  A tap replaces the streams before each half layer by the input that numpy used,
 *       and compares what the half before left.  So nothing accumulates: both sides are float64, and the
 *       limit is float32, in which taps hand values over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "support/golden.h"
#include "support/model_kit.h"

#define TOLERANCE 2e-7

struct check {
	int number, storage;
	struct model_kit m;
	struct golden what, rows, out, ends;
	float *input[2 * 16];		/* [2 * layer + half] */
	int compared, wrong;
	double worst;
};

/* Index in half_what of a case, or -1. */
static int case_of(const struct check *c, int layer, int half)
{
	for (size_t i = 0; i < c->what.dims[0]; i++) {
		const int32_t *w = c->what.i32 + 3 * i;

		if (w[0] == layer && w[1] == half && w[2] == c->storage)
			return (int)i;
	}
	return -1;
}

/* Compares the stored rows of this step with what numpy got. */
static void compare(struct check *c, int layer, int half, struct tensor *t, const struct step *s)
{
	int at = case_of(c, layer, half);
	size_t d = (size_t)c->m.shape.d, per_row = 4 * d / 16;
	float *got = mem_array(4 * d, sizeof *got);
	double *picked = mem_array(per_row, sizeof *picked);

	assert_non_null(got);
	assert_non_null(picked);
	for (size_t r = 0; at >= 0 && r < c->rows.count; r++) {
		int32_t row = c->rows.i32[r] - s->row[0].pos;
		const double *want = c->out.f64 + ((size_t)at * c->rows.count + r) * per_row;
		double e;

		if (row < 0 || row >= s->n_rows)
			continue;
		be_read(c->m.be, t, row, 1, got);
		for (size_t i = 0; i < per_row; i++)	/* channels 16 j + r % 16 of each stream */
			picked[i] = got[i / (d / 16) * d + 16 * (i % (d / 16)) + r % 16];
		e = golden_distance(picked, want, per_row);
		c->compared++;
		c->worst = e > c->worst ? e : c->worst;
		if (!(e <= TOLERANCE)) {
			c->wrong++;
			print_error("tiny-%d layer %d (ratio %d) %s, storage %d, token %d: error %.3g, allowed %.3g\n",
				    c->number, layer, c->m.shape.ratio[layer], half ? "experts" : "attention", c->storage,
				    c->rows.i32[r], e, TOLERANCE);
		}
	}
	mem_free(got);
	mem_free(picked);
}

static void tap(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t, const struct step *s)
{
	struct check *c = ctx;
	int half = at == TAP_ATTN_IN ? 0 : 1;
	size_t width = 4 * (size_t)c->m.shape.d;

	if (at == TAP_FFN_IN)
		compare(c, layer, 0, t, s);
	if (at == TAP_LAYER_OUT)
		compare(c, layer, 1, t, s);
	if (at == TAP_ATTN_IN || at == TAP_FFN_IN)
		be_write(be, t, 0, s->n_rows, c->input[2 * layer + half] + (size_t)s->row[0].pos * width);
}

static void check_model(int number, int storage, int32_t chunk)
{
	static const struct be_numerics numerics[] = {{true, true, false}, {true, true, true}};
	struct check *c = calloc(1, sizeof *c);
	char name[64];
	struct golden tokens;
	struct kv *kv;

	assert_non_null(c);
	c->number = number;
	c->storage = storage;
	snprintf(name, sizeof name, "tiny-%d/half_what.i32", number);
	c->what = golden_load(name);
	snprintf(name, sizeof name, "tiny-%d/half_rows.i32", number);
	c->rows = golden_load(name);
	snprintf(name, sizeof name, "tiny-%d/half_out.f64", number);
	c->out = golden_load(name);
	snprintf(name, sizeof name, "tiny-%d/tokens.i32", number);
	tokens = golden_load(name);
	model_kit_open(&c->m, golden_tiny_path(number), "ref", 0, numerics[storage], chunk, 1);
	for (int i = 0; i < 2 * c->m.shape.n_layer; i++)
		c->input[i] = golden_half_input(number, i / 2, i % 2, tokens.count, (size_t)c->m.shape.d);
	forward_tap(c->m.forward, &(struct tap){tap, c});
	kv = model_kit_timeline(&c->m);
	model_kit_read(&c->m, kv, tokens.i32, (int32_t)tokens.count, chunk, NULL, 0, NULL);
	print_message("tiny-%d storage %d: %d rows compared, largest error %.2g\n", number, storage, c->compared, c->worst);
	assert_true(c->compared > 0);
	assert_int_equal(c->wrong, 0);
	kv_close(kv);
	for (int i = 0; i < 2 * c->m.shape.n_layer; i++)
		free(c->input[i]);
	model_kit_close(&c->m);
	golden_free(&c->what);
	golden_free(&c->rows);
	golden_free(&c->out);
	golden_free(&tokens);
	free(c);
}

static void half_layers_of_the_published_types_agree(void **state)
{
	(void)state;
	check_model(1, 0, 300);
	check_model(1, 1, 100);
}

static void half_layers_of_odd_shapes_and_every_type_agree(void **state)
{
	(void)state;
	check_model(2, 0, 61);
	check_model(2, 1, 280);
}

static void half_layers_agree_where_the_indexer_chooses_512_of_more_rows(void **state)
{
	(void)state;
	check_model(3, 0, 256);
	check_model(3, 1, 256);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(half_layers_of_the_published_types_agree),
		cmocka_unit_test(half_layers_of_odd_shapes_and_every_type_agree),
		cmocka_unit_test(half_layers_agree_where_the_indexer_chooses_512_of_more_rows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
