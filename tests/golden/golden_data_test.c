/* golden_data_test.c - the stored reference results are whole and belong to the models at hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "gguf/gguf.h"
#include "support/golden.h"

static void every_listed_array_has_the_length_it_says(void **state)
{
	FILE *f = fopen("tests/data/golden/INDEX", "r");
	char name[128];
	int n = 0;

	(void)state;
	assert_non_null(f);
	while (fscanf(f, "%127s%*[^\n]", name) == 1) {
		struct golden g = golden_load(name);	/* ends the program if it does not fit */

		assert_true(g.count > 0);
		golden_free(&g);
		n++;
	}
	fclose(f);
	assert_true(n >= 40);
}

static void tiny_models_come_out_as_the_results_were_made_and_open(void **state)
{
	(void)state;
	for (int i = 1; i <= 3; i++) {
		const char *path = golden_tiny_path(i);	/* ends the program if the checksum differs */
		struct err err = {0};
		struct gguf *g;

		if (gguf_open(&g, path, &err) != OK)
			fail_msg("%s", err.msg);
		assert_non_null(gguf_tensor(g, "blk.2.ffn_down_exps.weight"));
		gguf_close(g);
	}
}

static void the_shipped_model_is_the_one_the_results_were_made_from(void **state)
{
	FILE *f = fopen("tests/data/golden/MODELS", "r"), *model = fopen("models/ds4-nano-q2.gguf", "rb");
	unsigned long long bytes, want = 0, checksum = 0xcbf29ce484222325u, n = 0;
	int c;

	(void)state;
	assert_non_null(f);
	assert_non_null(model);
	assert_int_equal(fscanf(f, "ds4-nano-q2 %llu %llx", &bytes, &want), 2);	/* the first line */
	while ((c = getc(model)) != EOF) {
		checksum = (checksum ^ (unsigned)c) * 0x100000001b3u;
		n++;
	}
	fclose(f);
	fclose(model);
	if (n != bytes || checksum != want)
		fail_msg("expected %llu bytes with checksum %016llx, found %llu and %016llx", bytes, want, n, checksum);
}

/* The first three values and the last of each half layer's input, as Python drew them. */
static void half_layer_inputs_are_the_reference_s(void **state)
{
	static const struct { int number; size_t d; } model[] = {{1, 256}, {2, 512}, {3, 256}};

	(void)state;
	for (size_t m = 0; m < sizeof model / sizeof *model; m++) {
		char name[64];
		struct golden what, ends, tokens;

		snprintf(name, sizeof name, "tiny-%d/half_what.i32", model[m].number);
		what = golden_load(name);
		snprintf(name, sizeof name, "tiny-%d/half_ends.f32", model[m].number);
		ends = golden_load(name);
		snprintf(name, sizeof name, "tiny-%d/tokens.i32", model[m].number);
		tokens = golden_load(name);
		for (size_t i = 0; i < what.dims[0]; i++) {
			const int32_t *w = what.i32 + 3 * i;
			size_t n = tokens.count * 4 * model[m].d;
			float *v = golden_half_input(model[m].number, w[0], w[1], tokens.count, model[m].d);
			const float got[4] = {v[0], v[1], v[2], v[n - 1]};

			for (int k = 0; k < 4; k++)
				if (got[k] != ends.f32[4 * i + k])
					fail_msg("tiny-%d layer %d half %d: expected %.9g, drew %.9g", model[m].number,
						 w[0], w[1], ends.f32[4 * i + k], got[k]);
			free(v);
		}
		golden_free(&what);
		golden_free(&ends);
		golden_free(&tokens);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_listed_array_has_the_length_it_says),
		cmocka_unit_test(tiny_models_come_out_as_the_results_were_made_and_open),
		cmocka_unit_test(the_shipped_model_is_the_one_the_results_were_made_from),
		cmocka_unit_test(half_layer_inputs_are_the_reference_s),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
