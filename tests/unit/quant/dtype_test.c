/* dtype_test.c - the table of element types against docs/formats/gguf.md. */
#include "quant/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct {
	const char *name;
	uint32_t id, elements, bytes;
} want[] = {
	{"F32", 0, 1, 4}, {"F16", 1, 1, 2}, {"Q8_0", 8, 32, 34}, {"Q2_K", 10, 256, 84},
	{"Q4_K", 12, 256, 144}, {"IQ2_XXS", 16, 256, 66}, {"I32", 26, 1, 4}, {"BF16", 30, 1, 2},
};
enum { N = sizeof want / sizeof *want };

static void ids_names_and_block_sizes_are_those_of_the_format(void **state)
{
	(void)state;
	assert_int_equal(DTYPE_COUNT, N);
	for (int i = 0; i < N; i++) {
		enum dtype t;

		assert_true(dtype_from_gguf(&t, want[i].id));
		assert_string_equal(dtype_info(t)->name, want[i].name);
		assert_int_equal(dtype_info(t)->gguf_id, want[i].id);
		assert_int_equal(dtype_info(t)->block_elements, want[i].elements);
		assert_int_equal(dtype_info(t)->block_bytes, want[i].bytes);
	}
}

static void other_ids_are_unknown_and_leave_the_output_alone(void **state)
{
	(void)state;
	for (uint32_t id = 0; id < 70; id++) {
		enum dtype t = DTYPE_COUNT;
		bool known = false;

		for (int i = 0; i < N; i++)
			known |= want[i].id == id;
		assert_int_equal(dtype_from_gguf(&t, id), known);
		if (!known)
			assert_int_equal(t, DTYPE_COUNT);
	}
	assert_false(dtype_from_gguf(&(enum dtype){0}, UINT32_MAX));
}

/* Sizes of whole tensors as published: one expert's matrices and a shared expert's. */
static void bytes_of_whole_tensors_are_the_published_ones(void **state)
{
	(void)state;
	assert_int_equal(dtype_bytes(DTYPE_IQ2_XXS, 4096 * 2048), 2162688);
	assert_int_equal(dtype_bytes(DTYPE_Q2_K, 2048 * 4096), 2752512);
	assert_int_equal(dtype_bytes(DTYPE_Q4_K, 4096 * 2048), 4718592);
	assert_int_equal(dtype_bytes(DTYPE_Q8_0, (size_t)4096 * 129280), 562626560);
	assert_int_equal(dtype_bytes(DTYPE_F16, (size_t)4096 * 129280), 1059061760);
	assert_int_equal(dtype_bytes(DTYPE_F32, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_names_and_block_sizes_are_those_of_the_format),
		cmocka_unit_test(other_ids_are_unknown_and_leave_the_output_alone),
		cmocka_unit_test(bytes_of_whole_tensors_are_the_published_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
