/* quant_test.c - every block format against the blocks that the numpy reference decoded. */
#include "quant/quant.h"

#include "vectors.h"

#include "base/mem.h"
#include "quant/blocks.h"

static void decode_matches(const char *name, enum dtype t)
{
	struct vectors v = vectors_open(name);
	const struct dtype_info *type = dtype_info(t);
	size_t n = (size_t)v.count * type->block_elements, raw_bytes = (size_t)v.count * type->block_bytes;
	void *raw;
	float *got, want;

	assert_int_equal(v.bytes, raw_bytes + n * sizeof want);
	raw = mem_copy(v.data, raw_bytes);	/* exact size and alignment, as in a model file */
	got = mem_alloc(n * sizeof *got);
	assert_non_null(raw);
	assert_non_null(got);
	quant_decode(got, raw, t, n);
	for (size_t i = 0; i < n; i++) {
		memcpy(&want, v.data + raw_bytes + i * sizeof want, sizeof want);
		expect_float(name, i, want, got[i]);
	}
	mem_free(got);
	mem_free(raw);
	buf_clear(&v.file);
}

static void f32_is_copied(void **state)
{
	(void)state;
	decode_matches("f32", DTYPE_F32);
}

static void f16_matches_the_reference(void **state)
{
	(void)state;
	decode_matches("f16", DTYPE_F16);
}

static void bf16_matches_the_reference(void **state)
{
	(void)state;
	decode_matches("bf16", DTYPE_BF16);
}

static void i32_becomes_the_nearest_float(void **state)
{
	(void)state;
	decode_matches("i32", DTYPE_I32);
}

static void q8_0_matches_the_reference(void **state)
{
	(void)state;
	decode_matches("q8_0", DTYPE_Q8_0);
}

static void q2_k_matches_the_reference(void **state)
{
	(void)state;
	decode_matches("q2_k", DTYPE_Q2_K);
}

static void q4_k_matches_the_reference(void **state)
{
	(void)state;
	decode_matches("q4_k", DTYPE_Q4_K);
}

static void iq2_xxs_matches_the_reference_over_the_whole_codebook_and_all_signs(void **state)
{
	(void)state;
	decode_matches("iq2_xxs", DTYPE_IQ2_XXS);
}

static void a_row_of_blocks_decodes_like_its_blocks_one_by_one(void **state)
{
	struct vectors v = vectors_open("q4_k");
	struct block_q4_k *b = mem_copy(v.data, v.count * sizeof *b);
	float whole[2 * 256], part[256];

	(void)state;
	assert_non_null(b);
	quant_decode(whole, b, DTYPE_Q4_K, 512);
	for (size_t k = 0; k < 2; k++) {
		quant_decode(part, b + k, DTYPE_Q4_K, 256);
		for (size_t i = 0; i < 256; i++)
			expect_float("block alone", 256 * k + i, whole[256 * k + i], part[i]);
	}
	mem_free(b);
	buf_clear(&v.file);
}

static void decoding_nothing_writes_nothing(void **state)
{
	float untouched = 7;

	(void)state;
	for (int t = 0; t < DTYPE_COUNT; t++)
		quant_decode(&untouched, "", (enum dtype)t, 0);
	assert_true(untouched == 7);
}

static void the_eighth_sign_makes_the_number_of_minuses_even(void **state)
{
	(void)state;
	for (uint32_t p = 0; p < 128; p++) {
		uint8_t s = iq2_xxs_sign(p);

		assert_int_equal(s & 127, p);
		assert_int_equal(__builtin_popcount(s) % 2, 0);
	}
}

static void the_codebook_has_256_different_entries_of_8_25_43(void **state)
{
	(void)state;
	for (int i = 0; i < 256; i++) {
		for (int m = 0; m < 8; m++) {
			int v = iq2_xxs_grid[i][m];

			if (v != 8 && v != 25 && v != 43)
				fail_msg("entry %d, magnitude %d: expected 8, 25 or 43, got %d", i, m, v);
		}
		for (int j = 0; j < i; j++)
			assert_memory_not_equal(iq2_xxs_grid[i], iq2_xxs_grid[j], 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f32_is_copied),
		cmocka_unit_test(f16_matches_the_reference),
		cmocka_unit_test(bf16_matches_the_reference),
		cmocka_unit_test(i32_becomes_the_nearest_float),
		cmocka_unit_test(q8_0_matches_the_reference),
		cmocka_unit_test(q2_k_matches_the_reference),
		cmocka_unit_test(q4_k_matches_the_reference),
		cmocka_unit_test(iq2_xxs_matches_the_reference_over_the_whole_codebook_and_all_signs),
		cmocka_unit_test(a_row_of_blocks_decodes_like_its_blocks_one_by_one),
		cmocka_unit_test(decoding_nothing_writes_nothing),
		cmocka_unit_test(the_eighth_sign_makes_the_number_of_minuses_even),
		cmocka_unit_test(the_codebook_has_256_different_entries_of_8_25_43),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
