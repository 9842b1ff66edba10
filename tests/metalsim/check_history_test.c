/* check_history_test.c - the operations that read the past, on the Metal backend in check mode: right, and not one report.
 *
 * The history of tests/parity/history_test.c with fewer tokens and more heads: steps of many sizes, three schedules. */
#define HISTORY_TOKENS 136
#define HISTORY_HEADS 9
int history_main(void);
#define main history_main
#include "parity/history_test.c"
#undef main

#include <stdio.h>

#include "metalsim/host/sim_host.h"
#include "metalsim/rt/sim.h"

static int set_up(void **state)
{
	(void)state;
	setenv("METALSIM_MODE", "check", 1);
	setenv("DS4_METAL_CHUNK", "0", 1);
	return 0;
}

/* Runs a plan on ref and on metal and compares; returns after the reports were counted. */
static void check(const struct plan *p, const int32_t *cuts, int schedule)
{
	size_t width = H * GEOM_HEAD;
	float *want = run_history("ref", 1, p, 1, cuts), *got;
	double e[N], most = p->ratio ? 2e-2 : 2e-6, middle = p->ratio ? 2e-5 : 2e-6;

	sim.schedule = schedule;
	got = run_history("metal", 1, p, 1, cuts);
	for (int32_t t = 0; t < N; t++)
		e[t] = kit_error(got + (size_t)t * width, want + (size_t)t * width, width);
	qsort(e, N, sizeof *e, by_value);
	if (!(e[N / 2] <= middle && e[N - 1] <= most))
		fail_msg("ratio %d, window %d, top-k %d: median error %.3g (allowed %.3g), largest %.3g (allowed %.3g)", p->ratio,
			 p->window, p->top_k, e[N / 2], middle, e[N - 1], most);
	if (sim.reports || sim_host.misuse)
		fail_msg("ratio %d, window %d: %llu reports and %d misuses of the API; expected none", p->ratio, p->window,
			 (unsigned long long)sim.reports, sim_host.misuse);
	mem_free(want);
	mem_free(got);
}

static void rows_of_the_window_are_clean(void **state)
{
	static const int32_t cuts[] = {1, 30, 5, 100, 0};

	(void)state;
	check(&(struct plan){0, 8, 1}, cuts, SIM_RANDOM);
}

static void pooled_rows_and_the_indexer_are_clean(void **state)
{
	static const int32_t mixed[] = {7, 1, 33, 2, 93, 0}, whole[] = {N, 0};

	(void)state;
	check(&(struct plan){4, 8, 5}, mixed, SIM_ORDERED);
	check(&(struct plan){4, 8, 5}, whole, SIM_REVERSE);
}

static void rows_of_128_tokens_are_clean(void **state)
{
	static const int32_t cuts[] = {50, 77, 1, 1, 7, 0};

	(void)state;
	setenv("DS4_METAL_NO_RESIDENCY", "1", 1);	/* macOS 13 and 14: each encoder names what it reaches */
	check(&(struct plan){128, 8, 1}, cuts, SIM_RANDOM);
	unsetenv("DS4_METAL_NO_RESIDENCY");
}

/* For mutation.sh: whether the barrier that it asked to skip exists at all. */
static void say_skipped(void)
{
	fprintf(stderr, "skipped barriers: %llu\n", (unsigned long long)sim_host.skipped);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_of_the_window_are_clean),
		cmocka_unit_test(pooled_rows_and_the_indexer_are_clean),
		cmocka_unit_test(rows_of_128_tokens_are_clean),
	};

	if (getenv("METALSIM_SKIP_BARRIER"))
		atexit(say_skipped);
	return cmocka_run_group_tests(tests, set_up, NULL);
}
