/* check_test.c - every operation of the Metal backend against ref in check mode: right results, and not one report.
 *
 * The cases are those of tests/parity, taken in as they are and run here on edge shapes, in both classes of kernels, under
 * three schedules, with every allocation a buffer of its own so that bounds are exact. */
int ops_main(void);
#define main ops_main
#include "parity/ops_test.c"
#undef main
#undef COUNT

#include <stdio.h>
#include <stdlib.h>

#include "metalsim/host/sim_host.h"
#include "metalsim/rt/sim.h"

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))
#define F32_TOLERANCE 3e-6

static int set_up(void **state)
{
	(void)state;
	setenv("METALSIM_MODE", "check", 1);
	setenv("DS4_METAL_CHUNK", "0", 1);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	if (sim.reports || sim_host.misuse)
		fail_msg("%llu reports and %d misuses of the API; expected none", (unsigned long long)sim.reports, sim_host.misuse);
	return 0;
}

/* The case on ref and on metal: one number of rows and class for each schedule. */
static void check(const char *what, const char *type, op_case *fn, const void *arg, double tolerance)
{
	static const struct { int32_t rows; const char *vector_rows; } runs[] = {{33, "0"}, {5, "1000"}, {1, "1000"}, {3, "0"}};

	for (int i = 0; i < COUNT(runs); i++) {
		int32_t T = runs[i].rows;
		struct result want = run_case("ref", 1, fn, arg, T, 1000 + (uint64_t)T), got;
		size_t width = want.n / (size_t)T;

		setenv("DS4_METAL_VECTOR_ROWS", runs[i].vector_rows, 1);
		sim.schedule = i % SIM_SCHEDULES;
		got = run_case("metal", 1, fn, arg, T, 1000 + (uint64_t)T);
		assert_int_equal(want.n, got.n);
		for (int32_t t = 0; t < T; t++) {
			double e = kit_error(got.v + (size_t)t * width, want.v + (size_t)t * width, width);

			if (!(e <= tolerance))
				fail_msg("%s %s, schedule %d, row %d of %d: error %.3g, allowed %.3g", what, type, sim.schedule, t, T, e,
					 tolerance);
		}
		assert_int_equal(sim.reports, 0);
		mem_free(want.v);
		mem_free(got.v);
	}
	sim.schedule = SIM_ORDERED;
}

static void products_of_every_type_are_clean(void **state)
{
	(void)state;
	for (int i = 0; i < COUNT(all_types); i++) {
		struct product_arg edge = {.type = all_types[i], .in = 256, .out = 7};
		struct product_arg groups = {.type = all_types[i], .in = 256, .out = 12, .groups = 4};

		check("matmul [256, 7]", dtype_info(edge.type)->name, product_case, &edge, F32_TOLERANCE);
		check("grouped_matmul", dtype_info(edge.type)->name, product_case, &groups, F32_TOLERANCE);
	}
	check("matmul [96, 70]", "Q8_0", product_case, &(struct product_arg){.type = DTYPE_Q8_0, .in = 96, .out = 70}, F32_TOLERANCE);
}

static void embedding_is_clean(void **state)
{
	(void)state;
	for (int i = 0; i < COUNT(all_types); i++)
		check("embed", dtype_info(all_types[i])->name, embed_case, &(struct product_arg){.type = all_types[i]}, 1e-7);
}

static void norms_and_rotation_are_clean(void **state)
{
	static const struct norm_arg norms[] = {{256, 256, 1, 1, DTYPE_F16}, {1024, 512, 0, 1, DTYPE_F32}, {256, 128, 1, 0, DTYPE_BF16}};
	float freq[32];
	struct rope_args a = {.freq = freq, .heads = 3, .width = 512};

	(void)state;
	for (int i = 0; i < 32; i++)
		freq[i] = 1.0f / (float)(1 << i % 20);
	for (int i = 0; i < COUNT(norms); i++)
		check("rms_norm", "", norm_case, &norms[i], EXACT);
	check("rope", "", rope_case, &a, EXACT);
	a = (struct rope_args){.freq = freq, .heads = 2, .width = 128, .inverse = true};
	check("rope inverse", "", rope_case, &a, EXACT);
}

static void residual_streams_are_clean(void **state)
{
	(void)state;
	for (enum hc_part p = HC_X; p <= HC_NORM; p++)
		check("hyper-connections", "", hc_case, &p, 5e-6);
}

static void routes_and_experts_are_clean(void **state)
{
	static const struct moe_arg routes[] = {{.bias = 0}, {.bias = 1}, {.hash = 1}};
	static const struct moe_arg mixes[] = {{.gate_up = DTYPE_IQ2_XXS, .down = DTYPE_Q2_K},
					       {.gate_up = DTYPE_Q4_K, .down = DTYPE_Q8_0, .same = 1}};

	(void)state;
	for (int i = 0; i < COUNT(routes); i++)
		check("route", "", route_case, &routes[i], EXACT);
	for (int i = 0; i < COUNT(mixes); i++)
		check("experts", dtype_info(mixes[i].gate_up)->name, experts_case, &mixes[i], 5e-6);
	check("shared_expert", "Q8_0", shared_case, &(struct moe_arg){.gate_up = DTYPE_Q8_0, .down = DTYPE_Q8_0}, 5e-6);
}

/* Weights as views of the pages that hold them, and memory cut from chunks, as for real models. */
static void weights_in_place_and_shared_chunks_are_clean(void **state)
{
	static const enum dtype types[] = {DTYPE_F16, DTYPE_IQ2_XXS};

	(void)state;
	setenv("DS4_METAL_COPY_BELOW", "0", 1);
	setenv("DS4_METAL_CHUNK", "1000000", 1);
	for (int i = 0; i < COUNT(types); i++)
		check("matmul in place", "", product_case, &(struct product_arg){.type = types[i], .in = 256, .out = 9}, F32_TOLERANCE);
	check("experts", "Q8_0", experts_case, &(struct moe_arg){.gate_up = DTYPE_Q8_0, .down = DTYPE_Q2_K}, 5e-6);
	unsetenv("DS4_METAL_COPY_BELOW");
	setenv("DS4_METAL_CHUNK", "0", 1);
}

/* For mutation.sh: whether the barrier that it asked to skip exists at all. */
static void say_skipped(void)
{
	fprintf(stderr, "skipped barriers: %llu\n", (unsigned long long)sim_host.skipped);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(products_of_every_type_are_clean),
		cmocka_unit_test(embedding_is_clean),
		cmocka_unit_test(norms_and_rotation_are_clean),
		cmocka_unit_test(residual_streams_are_clean),
		cmocka_unit_test(routes_and_experts_are_clean),
		cmocka_unit_test(weights_in_place_and_shared_chunks_are_clean),
	};

	if (getenv("METALSIM_SKIP_BARRIER"))
		atexit(say_skipped);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
