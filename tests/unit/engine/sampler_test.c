/* sampler_test.c - the sampler against distributions known in closed form and against a sort-everything model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/sampler.h"

#define DRAWS 40000

static struct sampler open_sampler(struct sampler_params p, int32_t vocab, const uint8_t *allowed)
{
	struct err err = {0};
	struct sampler s;

	if (sampler_init(&s, &p, vocab, allowed, &err) != OK)
		fail_msg("sampler_init: %s", err.msg);
	return s;
}

/* Draws many tokens and compares the frequency of each with p, to five standard deviations. */
static void check_frequencies(struct sampler_params params, const float *logits, const double *p, int n)
{
	struct sampler s = open_sampler(params, n, NULL);
	int count[16] = {0};

	for (int i = 0; i < DRAWS; i++) {
		int32_t id = sampler_pick(&s, logits);

		assert_in_range(id, 0, n - 1);
		count[id]++;
	}
	for (int i = 0; i < n; i++) {
		double sigma = sqrt(p[i] * (1 - p[i]) / DRAWS), got = (double)count[i] / DRAWS;

		if (fabs(got - p[i]) > 5 * sigma + 1e-12)
			fail_msg("token %d: expected frequency %g, got %g", i, p[i], got);
	}
	sampler_clear(&s);
}

static void temperature_one_draws_the_softmax(void **state)
{
	const double p[] = {0.1, 0.5, 0.25, 0.15};
	float logits[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		logits[i] = (float)log(p[i]) + 90.0f;	/* a constant does not matter */
	check_frequencies((struct sampler_params)SAMPLER_DEFAULT, logits, p, 4);
}

static void temperature_half_squares_the_odds(void **state)
{
	const double p[] = {0.1 * 0.1 / 0.345, 0.5 * 0.5 / 0.345, 0.25 * 0.25 / 0.345, 0.15 * 0.15 / 0.345};
	const float logits[] = {-2.302585093f, -0.693147181f, -1.386294361f, -1.897119985f};

	(void)state;
	check_frequencies((struct sampler_params){.temperature = 0.5f, .top_p = 1.0f, .seed = 7}, logits, p, 4);
}

static void top_k_keeps_the_k_best(void **state)
{
	const float logits[] = {-2.302585093f, -0.693147181f, -1.386294361f, -1.897119985f};
	const double p[] = {0, 2.0 / 3, 1.0 / 3, 0};

	(void)state;
	check_frequencies((struct sampler_params){.temperature = 1.0f, .top_p = 1.0f, .top_k = 2}, logits, p, 4);
}

static void top_p_keeps_the_smallest_sufficient_set(void **state)
{
	const float logits[] = {0, 1, 2, 3, -1};	/* of 32: exactly 2^l with t = 1 / ln 2 */
	const float t = 1.44269504f;
	const double p[] = {0, 0, 1.0 / 3, 2.0 / 3, 0};	/* 8 + 4 = 12 of 15.5 = 0.774 */

	(void)state;
	check_frequencies((struct sampler_params){.temperature = t, .top_p = 0.75f}, logits, p, 5);
	check_frequencies((struct sampler_params){.temperature = t, .top_p = 0.77f}, logits, p, 5);
	check_frequencies((struct sampler_params){.temperature = t, .top_p = 0.5f}, logits,
			  (const double[]){0, 0, 0, 1, 0}, 5);
	check_frequencies((struct sampler_params){.temperature = t, .top_p = 0.0f}, logits,
			  (const double[]){0, 0, 0, 1, 0}, 5);
}

static void top_p_sees_what_top_k_left(void **state)
{
	/* .4 .3 .2 .1; of the two best .4/.7 = .571 is enough for top_p = .5, while .4 of the whole is not. */
	const float logits[] = {-0.916290732f, -1.203972804f, -1.609437912f, -2.302585093f};

	(void)state;
	check_frequencies((struct sampler_params){.temperature = 1, .top_k = 2, .top_p = 0.5f}, logits,
			  (const double[]){1, 0, 0, 0}, 4);
	check_frequencies((struct sampler_params){.temperature = 1, .top_p = 0.5f}, logits,
			  (const double[]){4.0 / 7, 3.0 / 7, 0, 0}, 4);
}

static void min_p_is_relative_to_the_best(void **state)
{
	const float logits[] = {0, 1, 2, 3, -1};
	const float t = 1.44269504f;	/* weights 1 2 4 8 0.5 */

	(void)state;
	check_frequencies((struct sampler_params){.temperature = t, .top_p = 1, .min_p = 0.24f}, logits,
			  (const double[]){0, 2.0 / 14, 4.0 / 14, 8.0 / 14, 0}, 5);
	check_frequencies((struct sampler_params){.temperature = t, .top_p = 1, .min_p = 1}, logits,
			  (const double[]){0, 0, 0, 1, 0}, 5);
}

static void masked_tokens_never_come(void **state)
{
	const float logits[] = {9, 1, 8, 1};
	const uint8_t allowed[] = {0, 1, 0, 1};
	struct sampler s = open_sampler((struct sampler_params)SAMPLER_DEFAULT, 4, allowed);
	struct sampler greedy = open_sampler((struct sampler_params){.top_p = 1}, 4, allowed);

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(sampler_pick(&s, logits) & 1, 1);
	assert_int_equal(sampler_pick(&greedy, logits), 1);
	sampler_clear(&s);
	sampler_clear(&greedy);
}

static void greedy_takes_the_lowest_id_of_equals(void **state)
{
	const float logits[] = {1, 3, 2, 3, 3};
	struct sampler s = open_sampler((struct sampler_params){.top_p = 1}, 5, NULL);

	(void)state;
	assert_int_equal(sampler_pick(&s, logits), 1);
	sampler_clear(&s);
}

static void equal_logits_at_the_edge_of_top_k_keep_the_lower_id(void **state)
{
	float logits[64];
	struct sampler s = open_sampler((struct sampler_params){.temperature = 1, .top_p = 1, .top_k = 5}, 64, NULL);

	(void)state;
	for (int i = 0; i < 64; i++)
		logits[i] = 1.0f;
	for (int i = 0; i < 1000; i++)
		assert_in_range(sampler_pick(&s, logits), 0, 4);
	sampler_clear(&s);
}

/* Exactly half of the mass: no fifth token. */
static void a_mass_that_is_reached_exactly_is_enough(void **state)
{
	const float logits[] = {2, 2, 2, 2, 2, 2, 2, 2};

	(void)state;
	check_frequencies((struct sampler_params){.temperature = 1, .top_p = 0.5f}, logits,
			  (const double[]){.25, .25, .25, .25, 0, 0, 0, 0}, 8);
	check_frequencies((struct sampler_params){.temperature = 1, .top_p = 0.5f, .top_k = 4}, logits,
			  (const double[]){.5, .5, 0, 0, 0, 0, 0, 0}, 8);
}

static void nan_and_infinities_are_handled(void **state)
{
	const float some[] = {NAN, 1, -INFINITY, NAN}, none[] = {NAN, -INFINITY, NAN, -INFINITY};
	const float inf[] = {1, NAN, INFINITY, INFINITY};

	(void)state;
	for (int greedy = 0; greedy < 2; greedy++) {
		struct sampler s = open_sampler((struct sampler_params){.temperature = greedy ? 0 : 1, .top_p = 0.9f},
						4, NULL);

		for (int i = 0; i < 100; i++) {
			assert_int_equal(sampler_pick(&s, some), 1);
			assert_int_equal(sampler_pick(&s, none), -1);
			assert_int_equal(sampler_pick(&s, inf), 2);
		}
		sampler_clear(&s);
	}
}

static void extreme_logits_and_temperatures_do_not_overflow(void **state)
{
	const float logits[] = {-3e38f, 3e38f, 0, 2.9e38f};
	const float t[] = {1e-45f, 1e-6f, 1, 1000};

	(void)state;
	for (int i = 0; i < 4; i++) {
		struct sampler s = open_sampler((struct sampler_params){.temperature = t[i], .top_p = 1}, 4, NULL);

		assert_int_equal(sampler_pick(&s, logits), 1);
		sampler_clear(&s);
	}
}

static void the_same_seed_gives_the_same_tokens(void **state)
{
	float logits[100];
	struct sampler a = open_sampler((struct sampler_params){.temperature = 1, .top_p = 1, .seed = 5}, 100, NULL);
	struct sampler b = open_sampler((struct sampler_params){.temperature = 1, .top_p = 1, .seed = 5}, 100, NULL);
	struct sampler c = open_sampler((struct sampler_params){.temperature = 1, .top_p = 1, .seed = 6}, 100, NULL);
	int differ = 0;

	(void)state;
	for (int i = 0; i < 100; i++)
		logits[i] = (float)(i % 7);
	for (int i = 0; i < 200; i++) {
		int32_t x = sampler_pick(&a, logits);

		assert_int_equal(x, sampler_pick(&b, logits));
		differ += x != sampler_pick(&c, logits);
	}
	assert_true(differ > 100);
	sampler_clear(&a);
	sampler_clear(&b);
	sampler_clear(&c);
}

/* ---------------------------------------------------------------- the model: sort everything */

struct ranked {
	double w;
	float logit;
	int32_t id;
};

static int by_rank(const void *pa, const void *pb)
{
	const struct ranked *a = pa, *b = pb;

	if (a->logit != b->logit)
		return a->logit > b->logit ? -1 : 1;
	return a->id < b->id ? -1 : 1;
}

/* Marks in `may` what the filters leave, by the definition. */
static void filter_model(const struct sampler_params *p, const float *logits, int n, uint8_t *may)
{
	struct ranked r[256];
	double sum = 0, mass = 0;
	int keep = n;

	for (int i = 0; i < n; i++)
		r[i] = (struct ranked){.logit = logits[i], .id = i};
	qsort(r, (size_t)n, sizeof r[0], by_rank);
	if (p->top_k && p->top_k < n)
		keep = p->top_k;
	for (int i = 0; i < keep; i++)
		sum += r[i].w = exp(((double)r[i].logit - (double)r[0].logit) / (double)p->temperature);
	memset(may, 0, (size_t)n);
	for (int i = 0; i < keep; i++) {
		if (i > 0 && mass >= (double)p->top_p * sum)
			break;
		mass += r[i].w;
		if (r[i].w >= (double)p->min_p)
			may[r[i].id] = 1;
	}
}

static void filters_agree_with_sorting_everything(void **state)
{
	struct rng rng = rng_seed(11);

	(void)state;
	for (int round = 0; round < 300; round++) {
		struct sampler_params p = {.temperature = 0.5f + (float)rng_uniform(&rng), .seed = (uint64_t)round};
		int n = 2 + (int)rng_below(&rng, 14);
		uint8_t may[256], seen[256] = {0};
		struct sampler s;
		float logits[256];

		p.top_k = (int32_t)rng_below(&rng, 2) * (1 + (int32_t)rng_below(&rng, 15));
		p.top_p = rng_below(&rng, 3) ? (float)rng_uniform(&rng) : 1;
		p.min_p = rng_below(&rng, 2) ? (float)rng_uniform(&rng) * 0.5f : 0;
		for (int i = 0; i < n; i++)	/* a coarse grid: many ties; a short range: every survivor shows up */
			logits[i] = 0.25f * (float)rng_below(&rng, 6);
		filter_model(&p, logits, n, may);
		s = open_sampler(p, n, NULL);
		for (int i = 0; i < 3000; i++)
			seen[sampler_pick(&s, logits)] = 1;
		sampler_clear(&s);
		for (int i = 0; i < n; i++)
			if (seen[i] != may[i])
				fail_msg("round %d (n %d, top_k %d, top_p %g, min_p %g): token %d: %s", round, n,
					 (int)p.top_k, (double)p.top_p, (double)p.min_p, i,
					 may[i] ? "never came" : "should be filtered");
	}
}

static void a_nucleus_of_many_tokens_never_leaks(void **state)
{
	struct rng rng = rng_seed(3);
	uint8_t may[256];
	float logits[256];

	(void)state;
	for (int round = 0; round < 200; round++) {
		struct sampler_params p = {.temperature = 1, .top_p = 0.05f + 0.9f * (float)rng_uniform(&rng),
					   .seed = (uint64_t)round};
		struct sampler s;

		for (int i = 0; i < 256; i++)	/* sometimes sorted: the selection must not care */
			logits[i] = round % 3 == 0 ? (float)i * 0.02f : (float)rng_uniform(&rng) * 6;
		filter_model(&p, logits, 256, may);
		s = open_sampler(p, 256, NULL);
		for (int i = 0; i < 500; i++) {
			int32_t id = sampler_pick(&s, logits);

			if (!may[id])
				fail_msg("round %d, top_p %g: token %d is outside the nucleus", round,
					 (double)p.top_p, (int)id);
		}
		sampler_clear(&s);
	}
}

static void log_probabilities_are_those_of_the_softmax(void **state)
{
	const double p[] = {0.125, 0.5, 0.125, 0.25};
	float logits[5], lp[6];
	int32_t id[6];

	(void)state;
	for (int i = 0; i < 4; i++)
		logits[i] = (float)log(p[i]) - 500.0f;
	logits[4] = NAN;
	sampler_top(logits, 5, 6, id, lp);
	assert_int_equal(id[0], 1);
	assert_int_equal(id[1], 3);
	assert_int_equal(id[2], 0);
	assert_int_equal(id[3], 2);
	assert_int_equal(id[4], -1);
	assert_int_equal(id[5], -1);
	for (int i = 0; i < 4; i++) {
		if (fabs((double)lp[i] - log(p[id[i]])) > 1e-4)	/* float logits near 500: steps of 3e-5 */
			fail_msg("place %d: expected %g, got %g", i, log(p[id[i]]), (double)lp[i]);
		if (fabs(sampler_logprob(logits, 5, id[i]) - log(p[id[i]])) > 1e-4)
			fail_msg("token %d: expected %g, got %g", (int)id[i], log(p[id[i]]),
				 sampler_logprob(logits, 5, id[i]));
	}
	assert_true(isinf(sampler_logprob(logits, 5, 4)) && isinf(lp[4]));
}

/* Two tokens with logits 0 and x: log p of the first is -log(1 + e^x), of the second x less than that. */
static void log_probabilities_are_good_to_fourteen_digits(void **state)
{
	(void)state;
	for (float x = -40; x <= 0; x += 0.0117f) {
		const float logits[] = {0, x};
		double expected = -log1p(exp((double)x)), got = sampler_logprob(logits, 2, 0);

		if (fabs(got - expected) > 1e-15 * (1 - expected) ||
		    fabs(sampler_logprob(logits, 2, 1) - (expected + (double)x)) > 1e-14)
			fail_msg("logits 0 and %g: expected %.17g, got %.17g", (double)x, expected, got);
	}
}

static void the_best_list_is_sorted_and_stable(void **state)
{
	struct rng rng = rng_seed(9);
	float logits[200], lp[20];
	struct ranked r[200];
	int32_t id[20];

	(void)state;
	for (int i = 0; i < 200; i++) {
		logits[i] = (float)rng_below(&rng, 30);
		r[i] = (struct ranked){.logit = logits[i], .id = i};
	}
	qsort(r, 200, sizeof r[0], by_rank);
	sampler_top(logits, 200, 20, id, lp);
	for (int i = 0; i < 20; i++)
		if (id[i] != r[i].id)
			fail_msg("place %d: expected token %d, got %d", i, (int)r[i].id, (int)id[i]);
}

static void bad_parameters_are_named(void **state)
{
	const struct {
		struct sampler_params p;
		const char *names;
	} bad[] = {
		{{.temperature = -1, .top_p = 1}, "temperature"}, {{.temperature = NAN, .top_p = 1}, "temperature"},
		{{.temperature = INFINITY, .top_p = 1}, "temperature"}, {{.top_p = 1.5f}, "top_p"},
		{{.top_p = -0.1f}, "top_p"}, {{.top_p = NAN}, "top_p"}, {{.top_p = 1, .top_k = -2}, "top_k"},
		{{.top_p = 1, .min_p = 2}, "min_p"}, {{.top_p = 1, .min_p = NAN}, "min_p"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct err err = {0};
		struct sampler s;

		assert_int_equal(sampler_init(&s, &bad[i].p, 4, NULL, &err), ERR_ARGUMENT);
		if (!strstr(err.msg, bad[i].names))
			fail_msg("case %zu: expected %s in the message, got: %s", i, bad[i].names, err.msg);
		sampler_clear(&s);
	}
}

static void no_memory_is_an_error(void **state)
{
	struct sampler_params p = SAMPLER_DEFAULT;
	struct err err = {0};
	struct sampler s;

	(void)state;
	mem_fail_at(1);
	assert_int_equal(sampler_init(&s, &p, 4, NULL, &err), ERR_MEMORY);
	mem_fail_at(0);
	sampler_clear(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(temperature_one_draws_the_softmax),
		cmocka_unit_test(temperature_half_squares_the_odds),
		cmocka_unit_test(top_k_keeps_the_k_best),
		cmocka_unit_test(top_p_keeps_the_smallest_sufficient_set),
		cmocka_unit_test(top_p_sees_what_top_k_left),
		cmocka_unit_test(min_p_is_relative_to_the_best),
		cmocka_unit_test(masked_tokens_never_come),
		cmocka_unit_test(greedy_takes_the_lowest_id_of_equals),
		cmocka_unit_test(equal_logits_at_the_edge_of_top_k_keep_the_lower_id),
		cmocka_unit_test(a_mass_that_is_reached_exactly_is_enough),
		cmocka_unit_test(nan_and_infinities_are_handled),
		cmocka_unit_test(extreme_logits_and_temperatures_do_not_overflow),
		cmocka_unit_test(the_same_seed_gives_the_same_tokens),
		cmocka_unit_test(filters_agree_with_sorting_everything),
		cmocka_unit_test(a_nucleus_of_many_tokens_never_leaks),
		cmocka_unit_test(log_probabilities_are_those_of_the_softmax),
		cmocka_unit_test(log_probabilities_are_good_to_fourteen_digits),
		cmocka_unit_test(the_best_list_is_sorted_and_stable),
		cmocka_unit_test(bad_parameters_are_named),
		cmocka_unit_test(no_memory_is_an_error),
	};

	return cmocka_run_group_tests_name("engine/sampler", tests, NULL, NULL);
}
