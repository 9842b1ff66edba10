/* memory_test.c - the memory plan against the sizes of the model specification, and the refusal's promise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine_int.h"

/* What the arithmetic reads of a backend: float32 activations, rows and keys as stored. */
static const struct backend fake = {.name = "fake", .real_bytes = 4, .row_bytes = GEOM_ROW_BYTES,
				    .key_bytes = GEOM_KEY_BYTES};

/* DeepSeek V4 Flash: 43 layers, of which 21 have ratio 4 and 20 ratio 128. */
static struct shape flash(void)
{
	struct shape s = {.n_layer = 43, .d = 4096, .vocab = 129280, .heads = 64, .q_rank = 1024, .groups = 8,
			  .o_rank = 1024, .window = 128, .index_heads = 64, .index_top_k = 512, .experts = 256,
			  .used = 6, .ff = 2048, .n_hash = 3, .context = 1048576};

	for (int i = 2; i < 43; i++)
		s.ratio[i] = i % 2 ? 128 : 4;
	return s;
}

static void check_close(const char *what, uint64_t got, uint64_t expected, double slack)
{
	if ((double)got < (double)expected || (double)got > (double)expected * (1 + slack))
		fail_msg("%s: expected %llu to %.0f bytes, got %llu", what, (unsigned long long)expected,
			 (double)expected * (1 + slack), (unsigned long long)got);
}

/* Section 12: packed storage takes 3,679,289,344 bytes at 1,048,576 tokens; rings 3,208,832 and compressor windows
 * 12,206,080 bytes. */
static void a_million_tokens_of_flash_take_what_the_specification_says(void **state)
{
	struct shape s = flash();
	struct memory_plan p;

	(void)state;
	memory_plan_make(&p, &s, &fake, 86720111488u, 1048576, 1, 256, 1);
	check_close("blocks", p.blocks, 3679289344u, 0.01);
	check_close("tails", p.tails, 3208832 + 12206080, 0.001);
	/* A checkpoint leaves out the 20 windows of ratio 128: empty at block boundaries. */
	check_close("checkpoints", p.checkpoints, 16ull * (3208832 + 12206080 - 20 * 2 * 128 * 512 * 4), 0.001);
	assert_int_equal(p.logits, 129280 * 4);
	assert_int_equal(p.weights, 86720111488u);
	assert_int_equal(p.total, p.blocks + p.tails + p.checkpoints + p.work + p.logits);
	assert_int_equal(p.context, 1048576);
	assert_int_equal(p.timelines, 1);
	assert_int_equal(p.chunk, 256);
}

static void history_grows_with_timelines_and_work_with_the_chunk(void **state)
{
	struct shape s = flash();
	struct memory_plan one, four, wide;

	(void)state;
	memory_plan_make(&one, &s, &fake, 0, 8192, 1, 128, 1);
	memory_plan_make(&four, &s, &fake, 0, 8192, 4, 128, 4);
	memory_plan_make(&wide, &s, &fake, 0, 8192, 1, 256, 1);
	assert_int_equal(four.blocks, 4 * one.blocks);
	assert_int_equal(four.tails, 4 * one.tails);
	assert_int_equal(four.checkpoints, 4 * one.checkpoints);
	assert_int_equal(four.logits, 4 * one.logits);
	assert_int_equal(wide.blocks, one.blocks);
	if (wide.work <= one.work * 19 / 10)
		fail_msg("twice the rows: expected nearly twice %llu bytes of work, got %llu",
			 (unsigned long long)one.work, (unsigned long long)wide.work);
}

static void a_step_has_room_for_a_row_of_every_timeline(void **state)
{
	struct shape s = flash();
	struct memory_plan few, many;

	(void)state;
	memory_plan_make(&few, &s, &fake, 0, 1024, 64, 1, 1);
	memory_plan_make(&many, &s, &fake, 0, 1024, 64, 64, 1);
	assert_int_equal(few.work, many.work);
}

/* Every full timeline fits in the pool, and a plan is never an overflowed number. */
static void the_pool_holds_every_timeline_at_full_context(void **state)
{
	(void)state;
	for (int32_t context = 1; context <= 1000; context++)
		for (int32_t timelines = 1; timelines <= 3; timelines++)
			if (memory_block_limit(context, timelines) < timelines * ((context + 127) / 128))
				fail_msg("context %d, %d timelines: only %d blocks", (int)context, (int)timelines,
					 (int)memory_block_limit(context, timelines));
	assert_int_equal(memory_block_limit(INT32_MAX, 4096), INT32_MAX);
}

static void a_plan_that_does_not_fit_names_the_largest_that_does(void **state)
{
	static const int32_t contexts[] = {1, 127, 128, 129, 1000, 32768, 1048576};
	struct shape s = flash();

	(void)state;
	for (size_t i = 0; i < sizeof contexts / sizeof contexts[0]; i++) {
		for (int share = 1; share <= 10; share++) {
			struct memory_plan asked, fits, above;
			uint64_t limit;
			int32_t best;

			memory_plan_make(&asked, &s, &fake, 0, contexts[i], 2, contexts[i] < 256 ? contexts[i] : 256, 2);
			limit = asked.total / 11 * (uint64_t)share;
			best = memory_largest_context(&s, &fake, &asked, 2, limit);
			assert_int_equal(best % 128, 0);
			assert_true(best < contexts[i]);
			if (best) {
				memory_plan_make(&fits, &s, &fake, 0, best, 2, best < asked.chunk ? best : asked.chunk, 2);
				assert_true(fits.total <= limit);
			}
			if (best + 128 >= contexts[i])
				continue;
			memory_plan_make(&above, &s, &fake, 0, best + 128, 2,
					 best + 128 < asked.chunk ? best + 128 : asked.chunk, 2);
			if (above.total <= limit)
				fail_msg("context %d, limit %llu: said %d, but %d fits too", (int)contexts[i],
					 (unsigned long long)limit, (int)best, (int)best + 128);
		}
	}
}

static void the_refusal_names_all_four_numbers(void **state)
{
	struct shape s = flash();
	struct memory_plan asked, half;
	struct err err = {0};
	char text[32];

	(void)state;
	memory_plan_make(&asked, &s, &fake, 0, 65536, 1, 256, 1);
	memory_plan_make(&half, &s, &fake, 0, 32768, 1, 256, 1);
	assert_int_equal(memory_plan_check(&asked, &s, &fake, 1, asked.total, &err), OK);
	assert_int_equal(memory_plan_check(&asked, &s, &fake, 1, 0, &err), OK);
	assert_int_equal(memory_plan_check(&asked, &s, &fake, 1, half.total, &err), ERR_MEMORY);
	assert_non_null(strstr(err.msg, "65536"));
	assert_non_null(strstr(err.msg, " 32768"));
	snprintf(text, sizeof text, "%llu", (unsigned long long)asked.total);
	assert_non_null(strstr(err.msg, text));
	snprintf(text, sizeof text, "%llu", (unsigned long long)half.total);
	assert_non_null(strstr(err.msg, text));
	assert_int_equal(memory_plan_check(&asked, &s, &fake, 1, 1000, &err), ERR_MEMORY);
	assert_non_null(strstr(err.msg, "no context fits"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_million_tokens_of_flash_take_what_the_specification_says),
		cmocka_unit_test(history_grows_with_timelines_and_work_with_the_chunk),
		cmocka_unit_test(a_step_has_room_for_a_row_of_every_timeline),
		cmocka_unit_test(the_pool_holds_every_timeline_at_full_context),
		cmocka_unit_test(a_plan_that_does_not_fit_names_the_largest_that_does),
		cmocka_unit_test(the_refusal_names_all_four_numbers),
	};

	return cmocka_run_group_tests_name("engine/memory", tests, NULL, NULL);
}
