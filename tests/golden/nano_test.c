/* nano_test.c - the shipped model against the numpy reference, prompts of 1 to 2,500 tokens, full logits.
 *
 *   ref   float64 on both sides: 1e-6 of the logits' spread (logits are handed over as float32)
 *   cpu   int8 activations: distance, KL divergence and best token, with the bounds below */
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
#define CPU_DISTANCE 8e-2
#define CPU_KL 1e-2
#define NANO "models/ds4-nano-q2.gguf"

static const struct be_numerics wide = {true, true, false}, packed = {true, true, true};

/* Logits of a stored array as float, whatever its type. */
static float *as_float(const struct golden *g)
{
	float *v = mem_array(g->count, sizeof *v);

	assert_non_null(v);
	for (size_t i = 0; i < g->count; i++)
		v[i] = g->f64 ? (float)g->f64[i] : g->f32[i];
	return v;
}

/* Runs a stored nano prompt; returns what was got and what was expected, [n_pos, vocab]. */
static int32_t nano(const char *backend, int length, const char *kind, struct be_numerics numerics, float **got,
		    float **want, int32_t *vocab)
{
	char name[64];
	struct model_kit m;
	struct golden tokens, pos, stored;
	struct kv *kv;
	int32_t n;

	snprintf(name, sizeof name, "nano/tokens_%d.i32", length);
	tokens = golden_load(name);
	snprintf(name, sizeof name, "nano/pos_%d.i32", length);
	pos = golden_load(name);
	snprintf(name, sizeof name, "nano/%s_%d.f32", kind, length);
	stored = golden_load(name);
	model_kit_open(&m, NANO, backend, 0, numerics, 256, 1);
	*vocab = m.shape.vocab;
	*got = mem_array(stored.count, sizeof **got);
	*want = as_float(&stored);
	kv = model_kit_timeline(&m);
	model_kit_read(&m, kv, tokens.i32, (int32_t)tokens.count, 256, pos.i32, (int32_t)pos.count, *got);
	n = (int32_t)pos.count;
	kv_close(kv);
	model_kit_close(&m);
	golden_free(&tokens);
	golden_free(&pos);
	golden_free(&stored);
	return n;
}

static void nano_ref(int length, const char *kind, struct be_numerics numerics)
{
	float *got, *want;
	int32_t vocab, n = nano("ref", length, kind, numerics, &got, &want, &vocab);

	for (int32_t i = 0; i < n; i++) {
		double e = logits_distance(got + (size_t)i * (size_t)vocab, want + (size_t)i * (size_t)vocab, vocab);

		if (!(e <= EXACT))
			fail_msg("nano, %d tokens, %s rows, logits %d: %.3g of the spread, allowed %.3g", length, kind, i, e,
				 EXACT);
	}
	mem_free(got);
	mem_free(want);
}

static void nano_agrees_with_wide_rows_up_to_700_tokens(void **state)
{
	(void)state;
	nano_ref(1, "wide", wide);
	nano_ref(5, "wide", wide);
	nano_ref(130, "wide", wide);
	nano_ref(700, "wide", wide);
}

static void nano_agrees_with_packed_rows_up_to_2500_tokens(void **state)
{
	(void)state;
	nano_ref(1, "packed", packed);
	nano_ref(5, "packed", packed);
	nano_ref(130, "packed", packed);
	nano_ref(700, "packed", packed);
	nano_ref(2500, "packed", packed);
}

static void nano_on_the_cpu_backend_stays_within_its_bounds(void **state)
{
	static const int lengths[] = {1, 5, 130, 700, 2500};

	(void)state;
	for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
		float *got, *want;
		int32_t vocab, n = nano("cpu", lengths[l], "packed", packed, &got, &want, &vocab);

		for (int32_t i = 0; i < n; i++) {
			const float *a = got + (size_t)i * (size_t)vocab, *b = want + (size_t)i * (size_t)vocab;
			double e = logits_distance(a, b, vocab), kl = logits_kl(a, b, vocab);

			print_message("cpu, %d tokens, logits %d: distance %.2e, KL %.2e\n", lengths[l], i, e, kl);
			if (!(e <= CPU_DISTANCE) || !(kl <= CPU_KL))
				fail_msg("nano on cpu, %d tokens, logits %d: distance %.3g (allowed %.3g), KL %.3g (allowed %.3g)",
					 lengths[l], i, e, CPU_DISTANCE, kl, CPU_KL);
			assert_int_equal(logits_best(a, vocab), logits_best(b, vocab));
		}
		mem_free(got);
		mem_free(want);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(nano_on_the_cpu_backend_stays_within_its_bounds),
		cmocka_unit_test(nano_agrees_with_wide_rows_up_to_700_tokens),
		cmocka_unit_test(nano_agrees_with_packed_rows_up_to_2500_tokens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
