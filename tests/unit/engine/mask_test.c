/* mask_test.c - which tokens an answer may hold, on the two vocabularies we have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/mask.h"
#include "support/golden.h"

#define NANO "models/ds4-nano-q2.gguf"
#define FULL "tests/data/text/tokenizer_only.gguf"

static struct tokenizer *open_tokenizer(const char *path)
{
	struct tokenizer *t = NULL;
	struct err err = {0};
	struct gguf *g;

	if (gguf_open(&g, path, &err) != OK || tokenizer_open(&t, g, &err) != OK)
		fail_msg("%s", err.msg);
	gguf_close(g);
	return t;
}

/* expected: ordinary pieces of the file; four more are legal. */
static void check(const char *path, int pieces)
{
	struct tokenizer *t = open_tokenizer(path);
	uint8_t *mask = token_mask_new(t);
	int allowed = 0;

	assert_non_null(mask);
	for (int32_t id = 0; id < tokenizer_size(t); id++)
		allowed += mask[id];
	if (allowed != pieces + 4)
		fail_msg("%s: expected %d legal tokens, got %d", path, pieces + 4, allowed);
	for (int s = 0; s < SPECIAL_COUNT; s++) {
		bool legal = s == SPECIAL_EOS || s == SPECIAL_THINK || s == SPECIAL_END_THINK || s == SPECIAL_DSML;
		int32_t id = tokenizer_special(t, (enum special)s);

		if (id >= 0 && mask[id] != legal)
			fail_msg("%s: %s: expected %d, got %d", path, special_text((enum special)s), legal, mask[id]);
	}
	mem_free(mask);
	tokenizer_close(t);
}

/* 7,711 tokens of nano have type 1 (normal) in the file; the specification counts 128,000 - 3 base tokens of Flash. */
static void of_the_added_tokens_only_four_are_legal(void **state)
{
	(void)state;
	check(NANO, 7711);
	check(FULL, 127997);
}

/* The small test model has 256 bytes, 8 merges, and "[PAD...]" for the rest of its vocabulary. */
static void fillers_for_unused_ids_are_not_legal(void **state)
{
	(void)state;
	check(golden_tiny_path(3), 264);
}

static void ids_of_the_specification_are_as_it_says(void **state)
{
	struct tokenizer *t = open_tokenizer(FULL);
	uint8_t *mask = token_mask_new(t);

	(void)state;
	assert_int_equal(mask[0] + mask[2] + mask[128000] + mask[128803] + mask[128804] + mask[128840] + mask[129279], 0);
	assert_int_equal(mask[1] + mask[128821] + mask[128822] + mask[128825] + mask[3] + mask[127999], 6);
	mem_free(mask);
	tokenizer_close(t);
}

static void no_memory_gives_null(void **state)
{
	struct tokenizer *t = open_tokenizer(NANO);

	(void)state;
	mem_fail_at(1);
	assert_null(token_mask_new(t));
	mem_fail_at(0);
	tokenizer_close(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_the_added_tokens_only_four_are_legal),
		cmocka_unit_test(fillers_for_unused_ids_are_not_legal),
		cmocka_unit_test(ids_of_the_specification_are_as_it_says),
		cmocka_unit_test(no_memory_gives_null),
	};

	return cmocka_run_group_tests_name("engine/mask", tests, NULL, NULL);
}
