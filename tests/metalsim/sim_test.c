/* sim_test.c - the simulator against plain C, and against kernels with planted bugs.
 *
 * Correct kernels (shaders/good.metal) must give C's results in fast and in check mode under three schedules, without a
 * report; each kernel of shaders/bad.metal must give the report that names its bug. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "metalsim/rt/sim.h"

#define FOLDER "build/metalsim/"

static struct sim_lib *lib;
static struct sim_dispatch dispatch;
static uint32_t seed = 12345;

static float random_float(void)
{
	seed = seed * 1664525u + 1013904223u;
	return (float)(seed >> 8 & 0xffff) / 65536.0f - 0.5f;
}

static void bind(int i, void *p, size_t bytes)
{
	if (dispatch.buf[i].shadow)
		sim_shadow_free(dispatch.buf[i].shadow, dispatch.buf[i].bytes);
	dispatch.buf[i] = (struct sim_bind){.base = p, .bytes = bytes, .shadow = sim_shadow_new(bytes)};
}

static int run(const char *kernel, uint32_t gx, uint32_t gy, uint32_t threads, uint32_t tg_bytes)
{
	int k = sim_find(lib, kernel);

	if (k < 0)
		fail_msg("no kernel %s", kernel);
	dispatch.lib = lib;
	dispatch.kernel = k;
	memcpy(dispatch.groups, (uint32_t[]){gx, gy, 1}, sizeof dispatch.groups);
	memcpy(dispatch.group_size, (uint32_t[]){threads, 1, 1}, sizeof dispatch.group_size);
	dispatch.tg_bytes[0] = tg_bytes;
	return sim_run(&dispatch);
}

static void expect_near(const char *what, double got, double want, double tolerance)
{
	if (!(fabs(got - want) <= tolerance))
		fail_msg("%s: got %.9g, expected %.9g within %.3g (schedule %d)", what, got, want, tolerance, sim.schedule);
}

/* ------------------------------------------------------------------ correct kernels */

static void check_norm(void)
{
	enum { N = 1024, ROWS = 3 };
	static float x[N * ROWS], w[N], y[N * ROWS];
	struct { uint32_t n; float eps; uint64_t stride; } a = {N, 1e-5f, N / 4};
	float scale = 2;
	char yes = 1;

	for (int i = 0; i < N * ROWS; i++)
		x[i] = random_float();
	for (int i = 0; i < N; i++)
		w[i] = random_float();
	assert_int_equal(sim_set_constant(lib, 0, &yes, 1), 0);
	assert_int_equal(sim_set_constant(lib, 1, &scale, 4), 0);
	assert_int_equal(sim_set_constant(lib, 1, &scale, 2), -2);
	assert_int_equal(sim_set_constant(lib, 9, &scale, 4), -1);
	bind(0, &a, sizeof a);
	bind(1, x, sizeof x);
	bind(2, w, sizeof w);
	bind(3, y, sizeof y);
	assert_int_equal(run("rms_norm_f32", ROWS, 1, 256, 512), 0);
	for (int r = 0; r < ROWS; r++) {
		double sum = 0;

		for (int i = 0; i < N; i++)
			sum += (double)x[r * N + i] * x[r * N + i];
		for (int i = 0; i < N; i++)
			expect_near("rms_norm", y[r * N + i], 2 * x[r * N + i] / sqrt(sum / N + 1e-5) * w[i], 1e-6);
	}
}

static void check_product(uint32_t m, uint32_t n, uint32_t k)
{
	static _Float16 a[64 * 64];
	static float b[64 * 64], c[64 * 64];
	struct { uint32_t m, n, k; } args = {m, n, k};

	for (uint32_t i = 0; i < m * k; i++)
		a[i] = (_Float16)random_float();
	for (uint32_t i = 0; i < n * k; i++)
		b[i] = random_float();
	bind(0, &args, sizeof args);
	bind(1, a, m * k * 2);
	bind(2, b, n * k * 4);
	bind(3, c, m * n * 4);
	assert_int_equal(run("product", (n + 15) / 16, (m + 15) / 16, 128, 0), 0);
	for (uint32_t i = 0; i < m; i++)
		for (uint32_t j = 0; j < n; j++) {
			double want = 0;

			for (uint32_t q = 0; q < k; q++)
				want += (double)a[i * k + q] * b[j * k + q];
			expect_near("product", c[i * n + j], want, 1e-5);
		}
}

static void check_argsort(void)
{
	static float x[1000];
	static int32_t at[1000];
	uint32_t n = 1000;

	for (uint32_t i = 0; i < n; i++)
		x[i] = random_float() + (float)i * 1e-7f;
	bind(0, &n, 4);
	bind(1, x, sizeof x);
	bind(2, at, sizeof at);
	assert_int_equal(run("argsort", 1, 1, 1024, 4096), 0);
	for (uint32_t i = 1; i < n; i++)
		assert_true(x[at[i - 1]] >= x[at[i]]);
}

static void check_small_ones(void)
{
	static uint8_t bytes[5000];
	static uint32_t got[256], want[256];
	static float far[64];
	static int32_t x[32], y[32], z[32];
	uint32_t n = sizeof bytes;
	void *pointer = far;
	int32_t count = 0, k = 0;
	struct sim_bind reachable = {.base = far, .bytes = sizeof far, .writable = 1};

	memset(got, 0, sizeof got);
	memset(want, 0, sizeof want);
	for (uint32_t i = 0; i < n; i++)
		want[bytes[i] = (uint8_t)(random_float() * 500)]++;
	bind(0, bytes, n);
	bind(1, got, sizeof got);
	bind(2, &n, 4);
	assert_int_equal(run("histogram", (n + 255) / 256, 1, 256, 0), 0);
	assert_memory_equal(got, want, sizeof got);

	for (int i = 0; i < 32; i++) {
		x[i] = (int32_t)(random_float() * 100);
		if (x[i] > 0)
			z[k++] = x[i];
	}
	bind(0, x, sizeof x);
	bind(1, y, sizeof y);
	bind(2, &count, 4);
	assert_int_equal(run("compact", 1, 1, 32, 0), 0);
	assert_int_equal(count, k);
	assert_memory_equal(y, z, (size_t)k * 4);

	memset(far, 0, sizeof far);
	bind(0, &pointer, sizeof pointer);
	dispatch.resident = &reachable;
	dispatch.n_resident = 1;
	assert_int_equal(run("through_pointer", 2, 1, 32, 0), 0);
	dispatch.n_resident = 0;
	assert_true(far[0] == 1 && far[63] == 1);
}

static void open_library(const char *name)
{
	char why[400] = "", path[200];

	snprintf(path, sizeof path, FOLDER "%s", name);
	sim_close(lib);
	memset(&dispatch, 0, sizeof dispatch);
	lib = sim_open(path, why, sizeof why);
	if (!lib)
		fail_msg("%s", why);
}

static void correct_kernels_give_what_c_gives_without_a_report(void **state)
{
	static const char *const modes[] = {"good.fast.so", "good.check.so"};

	(void)state;
	for (int m = 0; m < 2; m++) {
		open_library(modes[m]);
		for (sim.schedule = 0; sim.schedule < SIM_SCHEDULES; sim.schedule++) {
			check_norm();
			check_product(32, 48, 24);
			check_product(17, 33, 40);	/* edge tiles */
			check_product(1, 1, 8);
			check_argsort();
			check_small_ones();
			assert_int_equal(sim.reports, 0);
		}
	}
	sim.schedule = SIM_ORDERED;
}

static void a_missing_library_and_a_foreign_one_are_refused(void **state)
{
	char why[400] = "";

	(void)state;
	assert_null(sim_open(FOLDER "absent.so", why, sizeof why));
	assert_non_null(strstr(why, "absent.so"));
}

/* ------------------------------------------------------------------ planted bugs */

static const struct {
	const char *kernel, *report;
	uint32_t groups, threads, tg_bytes;
} planted[] = {
	{"race_no_barrier", "threadgroup race", 1, 64, 256},
	{"race_wrong_flag", "threadgroup race", 1, 64, 256},
	{"race_reuse", "threadgroup race", 1, 64, 256},
	{"lock_step", "threadgroup race", 1, 32, 0},
	{"oob_device", "device read out of bounds", 1, 64, 0},
	{"oob_tg", "threadgroup read out of bounds", 1, 64, 256},
	{"uninit_tg", "uninitialised threadgroup memory", 1, 64, 256},
	{"divergent_barrier", "barrier divergence", 1, 64, 256},
	{"early_return", "barrier not reached", 1, 64, 256},
	{"divergent_simd", "divergent SIMD-group operation", 1, 64, 0},
	{"shuffle_inactive", "shuffle from an inactive lane", 1, 32, 0},
	{"group_race", "device race", 4, 1, 0},
	{"group_order", "device race", 4, 1, 0},
	{"device_no_fence", "device race", 1, 64, 0},
	{"misaligned", "misaligned access", 1, 8, 0},
};

static float room[4][64];	/* buffers 0 and 1 are rows 0 and 2, so that a small overrun hits nothing */

static int run_planted(const char *kernel, uint32_t groups, uint32_t threads, uint32_t tg_bytes)
{
	memset(room, 0, sizeof room);
	bind(0, room[0], sizeof room[0]);
	bind(1, room[2], sizeof room[2]);
	sim.last[0] = 0;
	return run(kernel, groups, 1, threads, tg_bytes);
}

static void every_planted_bug_is_reported_by_name(void **state)
{
	(void)state;
	open_library("bad.check.so");
	sim.quiet = 1;
	for (size_t i = 0; i < sizeof planted / sizeof *planted; i++) {
		int n = run_planted(planted[i].kernel, planted[i].groups, planted[i].threads, planted[i].tg_bytes);

		if (n < 1 || !strstr(sim.last, planted[i].report))
			fail_msg("%s: %d reports, the last is \"%s\", expected \"%s\"", planted[i].kernel, n, sim.last,
				 planted[i].report);
	}
}

static void lock_step_passes_only_when_asked(void **state)
{
	(void)state;
	open_library("bad.check.so");
	sim.lax = 1;
	assert_int_equal(run_planted("lock_step", 1, 32, 0), 0);
	sim.lax = 0;
}

static void uninitialised_values_and_undefined_lanes_are_nans(void **state)
{
	static uint32_t two = 2;

	(void)state;
	open_library("bad.check.so");
	bind(0, room[0], sizeof room[0]);
	bind(1, &two, 4);
	run("uninit_private", 1, 1, 64, 0);
	assert_true(isnan(room[0][3]));
	open_library("bad.fast.so");
	run_planted("undefined_lane", 1, 32, 0);
	assert_true(room[0][0] == 4 && isnan(room[0][28]));
}

static void dispatches_that_share_a_buffer_need_a_barrier(void **state)
{
	(void)state;
	open_library("bad.check.so");
	memset(room, 0, sizeof room);
	bind(0, room[0], sizeof room[0]);
	dispatch.hazard_base = sim_serial();
	assert_int_equal(run("inc", 1, 1, 64, 0), 0);
	dispatch.hazard_base = sim_serial();	/* a barrier */
	assert_int_equal(run("inc", 1, 1, 64, 0), 0);
	dispatch.hazard_base = sim_serial() - 1;	/* none */
	assert_true(run("inc", 1, 1, 64, 0) > 0);
	assert_non_null(strstr(sim.last, "missing memoryBarrier"));
	dispatch.hazard_base = 0;
}

static void a_kernel_that_never_ends_is_stopped_and_the_next_one_runs(void **state)
{
	(void)state;
	for (int check = 0; check < 2; check++) {
		open_library(check ? "bad.check.so" : "bad.fast.so");
		sim.seconds = 0.2;
		assert_int_equal(run_planted("endless", 2, 64, 0), SIM_TIMED_OUT);
		sim.seconds = 60;
		memset(room, 0, sizeof room);
		assert_int_equal(run("inc", 1, 1, 64, 0), 0);
		assert_true(room[0][63] == 1);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(correct_kernels_give_what_c_gives_without_a_report),
		cmocka_unit_test(a_missing_library_and_a_foreign_one_are_refused),
		cmocka_unit_test(every_planted_bug_is_reported_by_name),
		cmocka_unit_test(lock_step_passes_only_when_asked),
		cmocka_unit_test(uninitialised_values_and_undefined_lanes_are_nans),
		cmocka_unit_test(dispatches_that_share_a_buffer_need_a_barrier),
		cmocka_unit_test(a_kernel_that_never_ends_is_stopped_and_the_next_one_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
