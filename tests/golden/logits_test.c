/* logits_test.c - whole runs of the tiny models against the numpy reference: full logits, not only the best token.
 *
 * Both sides are float64; the bound is 1e-6 of the logits' spread, since logits are handed over as float32.
 *
 * Wide rows are float64, packed rows are the engine's normal storage.  The two differ by a few percent of the logits'
 * spread, because a float16 rounding of a rotary channel moves E4M3 roundings later: each is compared with its own
 * reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "support/golden.h"
#include "support/model_kit.h"

#define EXACT 1e-6		/* of the logits' standard deviation */

static const struct be_numerics wide = {true, true, false}, packed = {true, true, true},
				no_fp8 = {false, true, false}, no_fp4 = {true, false, false};

static struct golden load(const char *folder, const char *name)
{
	char path[96];

	snprintf(path, sizeof path, "%s/%s", folder, name);
	return golden_load(path);
}

/* Logits of a stored array as float, whatever its type. */
static float *as_float(const struct golden *g)
{
	float *v = mem_array(g->count, sizeof *v);

	assert_non_null(v);
	for (size_t i = 0; i < g->count; i++)
		v[i] = g->f64 ? (float)g->f64[i] : g->f32[i];
	return v;
}

static void tiny(int number, const char *stored, struct be_numerics numerics, int32_t chunk)
{
	char folder[16];
	struct model_kit m;
	struct golden tokens, pos, want;
	float *got, *expected;
	struct kv *kv;
	int32_t vocab;

	snprintf(folder, sizeof folder, "tiny-%d", number);
	tokens = load(folder, "tokens.i32");
	pos = load(folder, "logit_pos.i32");
	want = load(folder, stored);
	model_kit_open(&m, golden_tiny_path(number), "ref", 0, numerics, chunk, 1);
	vocab = m.shape.vocab;
	assert_int_equal(want.dims[1], vocab);
	got = mem_array(want.count, sizeof *got);
	expected = as_float(&want);
	kv = model_kit_timeline(&m);
	model_kit_read(&m, kv, tokens.i32, (int32_t)tokens.count, chunk, pos.i32, (int32_t)pos.count, got);
	for (size_t i = 0; i < pos.count; i++) {
		double e = logits_distance(got + i * (size_t)vocab, expected + i * (size_t)vocab, vocab);

		if (!(e <= EXACT))
			fail_msg("%s %s at position %d: %.3g of the spread, allowed %.3g", folder, stored, pos.i32[i], e,
				 EXACT);
	}
	kv_close(kv);
	model_kit_close(&m);
	mem_free(got);
	mem_free(expected);
	golden_free(&tokens);
	golden_free(&pos);
	golden_free(&want);
}

static void tiny_models_agree_with_wide_rows(void **state)
{
	(void)state;
	tiny(1, "logits_wide.f64", wide, 128);
	tiny(2, "logits_wide.f64", wide, 77);
}

static void tiny_models_agree_with_packed_rows(void **state)
{
	(void)state;
	tiny(1, "logits_packed.f64", packed, 300);
	tiny(2, "logits_packed.f64", packed, 64);
}

static void two_thousand_tokens_agree_where_the_top_k_bites(void **state)
{
	(void)state;
	tiny(3, "logits_wide.f64", wide, 256);
	tiny(3, "logits_packed.f64", packed, 256);
}

static void each_round_trip_can_be_switched_off(void **state)
{
	(void)state;
	tiny(1, "logits_wide_no_fp8.f64", no_fp8, 300);
	tiny(1, "logits_wide_no_fp4.f64", no_fp4, 300);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(tiny_models_agree_with_wide_rows),
		cmocka_unit_test(tiny_models_agree_with_packed_rows),
		cmocka_unit_test(two_thousand_tokens_agree_where_the_top_k_bites),
		cmocka_unit_test(each_round_trip_can_be_switched_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
