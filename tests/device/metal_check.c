/* metal_check.c - ds4-nano on the Metal backend against the numpy reference, for a Mac: prompts of 1 to 2,500 tokens, steps of
 * one row to chunks, bits of the vector class.
 *
 *   metal_check [LONGEST]	lengths up to LONGEST (2500)
 * Built and run by tests/device/metal.sh; on Linux the simulator's model_test.c covers the short lengths. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "support/golden.h"
#include "support/model_kit.h"

/* Float32 against float64: a pooled value that falls on the other side of an E4M3 or E2M1 rounding moves logits by about a
 * thousandth of their spread. */
#define DISTANCE 2e-2
#define KL 1e-3

static int longest = 2500;

static float *nano(int length, int32_t chunk, int32_t *n_pos, int32_t *vocab)
{
	struct model_kit m;
	struct golden tokens, pos;
	struct kv *kv;
	char name[64];
	float *got;

	snprintf(name, sizeof name, "nano/tokens_%d.i32", length);
	tokens = golden_load(name);
	snprintf(name, sizeof name, "nano/pos_%d.i32", length);
	pos = golden_load(name);
	model_kit_open(&m, "models/ds4-nano-q2.gguf", "metal", 0, (struct be_numerics)BE_NUMERICS_MODEL, chunk, 1);
	*vocab = m.shape.vocab;
	*n_pos = (int32_t)pos.count;
	got = mem_array(pos.count * (size_t)*vocab, sizeof *got);
	assert_non_null(got);
	kv = model_kit_timeline(&m);
	model_kit_read(&m, kv, tokens.i32, (int32_t)tokens.count, chunk, pos.i32, *n_pos, got);
	kv_close(kv);
	model_kit_close(&m);
	golden_free(&tokens);
	golden_free(&pos);
	return got;
}

static void nano_agrees_with_the_numpy_reference(void **state)
{
	static const int lengths[] = {1, 5, 130, 700, 2500};
	static const int32_t chunks[] = {1, 8, 256};
	bool bad = false;

	(void)state;
	for (size_t l = 0; l < sizeof lengths / sizeof *lengths && lengths[l] <= longest; l++)
		for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
			int32_t n, vocab;
			char name[64];
			float *got = nano(lengths[l], chunks[c], &n, &vocab);
			struct golden want;

			snprintf(name, sizeof name, "nano/packed_%d.f32", lengths[l]);
			want = golden_load(name);
			for (int32_t i = 0; i < n; i++) {
				const float *a = got + (size_t)i * (size_t)vocab, *b = want.f32 + (size_t)i * (size_t)vocab;
				double e = logits_distance(a, b, vocab), kl = logits_kl(a, b, vocab);
				bool same = logits_best(a, vocab) == logits_best(b, vocab);

				printf("    %4d tokens, steps of %4d, logits %d: distance %.2e, KL %.2e%s\n", lengths[l], (int)chunks[c],
				       (int)i, e, kl, same ? "" : ", another best token");
				bad |= !(e <= DISTANCE) || !(kl <= KL) || !same;
			}
			mem_free(got);
			golden_free(&want);
		}
	if (bad)
		fail_msg("nano: beyond the bounds (distance %g, KL %g, same best token)", DISTANCE, KL);
}

static void steps_of_the_vector_class_give_the_same_bits(void **state)
{
	static const int32_t chunks[] = {2, 7, 8};
	int length = longest < 130 ? 5 : 130;
	int32_t n, vocab;
	float *want = nano(length, 1, &n, &vocab);

	(void)state;
	for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
		float *got = nano(length, chunks[c], &n, &vocab);

		if (memcmp(got, want, (size_t)n * (size_t)vocab * sizeof *got))
			fail_msg("nano, %d tokens: steps of %d give other bits than steps of 1 (distance %.3g)", length, (int)chunks[c],
				 logits_distance(got, want, vocab));
		mem_free(got);
	}
	mem_free(want);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(nano_agrees_with_the_numpy_reference),
		cmocka_unit_test(steps_of_the_vector_class_give_the_same_bits),
	};

	if (argc > 1)
		longest = (int)strtol(argv[1], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
