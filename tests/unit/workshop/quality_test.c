/* quality_test.c - divergence, agreement, perplexity and intervals against numbers worked out by hand; stored logits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "workshop/logits_file.h"
#include "workshop/quality.h"

#define LN2 0.69314718055994531

static void near(const char *what, double want, double got, double within)
{
	if (!(fabs(want - got) <= within))
		fail_msg("%s: expected %.9g, found %.9g", what, want, got);
}

/* p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2) */
static const float p3[3] = {-0.693147181f, -1.386294361f, -1.386294361f};
static const float q3[3] = {-1.386294361f, -1.386294361f, -0.693147181f};

static void divergence_is_that_of_the_definition(void **state)
{
	struct quality_row ref = {.logprob = p3, .n = 3, .target = p3[1]};
	struct quality_point at = {0};

	(void)state;
	quality_compare(&at, &ref, q3, 3, 1);
	near("KL", LN2 / 4, at.kl, 1e-7);	/* 1/2 ln 2 + 0 - 1/4 ln 2 */
	near("nll of the reference", 2 * LN2, at.nll_ref, 1e-7);
	near("nll of the other", 2 * LN2, at.nll_test, 1e-7);
	assert_false(at.same_top);
}

static void a_model_against_itself_is_at_distance_zero(void **state)
{
	struct quality_row ref = {.logprob = p3, .n = 3, .target = p3[0]};
	struct quality_point at = {0};

	(void)state;
	quality_compare(&at, &ref, p3, 3, 0);
	assert_true(at.kl == 0);
	assert_true(at.same_top);
}

static void tokens_that_are_not_stored_count_as_one(void **state)
{
	static const int32_t id[1] = {0};
	struct quality_row ref = {.id = id, .logprob = p3, .n = 1, .target = p3[2]};
	struct quality_point at = {0};

	(void)state;
	quality_compare(&at, &ref, q3, 3, 2);
	near("KL", 0.5 * LN2 + 0.5 * log(2.0 / 3), at.kl, 1e-6);	/* 1/2 against 1/4, 1/2 against 3/4 */
	near("nll of the reference", 2 * LN2, at.nll_ref, 1e-6);
	near("nll of the other", LN2, at.nll_test, 1e-6);
}

static void equal_logits_go_to_the_lower_id(void **state)
{
	static const float x[4] = {1, 3, 3, 2};

	(void)state;
	assert_int_equal(quality_best(x, 4), 1);
}

static void log_probabilities_do_not_depend_on_a_shift_and_sum_to_one(void **state)
{
	static const float x[3] = {0, 1, 2}, far[3] = {30000, 30001, 30002};
	float a[3], b[3];
	double sum = 0;

	(void)state;
	quality_logprobs(a, x, 3);
	quality_logprobs(b, far, 3);
	for (int i = 0; i < 3; i++) {
		sum += exp(a[i]);
		near("shifted", a[i], b[i], 1e-5);
	}
	near("sum", 1, sum, 1e-6);
	near("the largest", -0.40760596, a[2], 1e-6);	/* -ln(1 + e^-1 + e^-2) */
}

static struct quality_point point(double kl, double ref, double test, bool same, int32_t context, int32_t block)
{
	return (struct quality_point){.kl = kl, .nll_ref = ref, .nll_test = test, .same_top = same, .context = context,
				      .block = block};
}

/* Texts make both models worse or better together: the difference is known better than either. */
static void a_pair_is_resampled_together(void **state)
{
	struct quality_point a[400], b[400];
	struct quality_pair pair;
	struct quality_summary alone;
	struct err err = {0};

	(void)state;
	for (int i = 0; i < 400; i++) {
		double text = i / 4 % 2 ? 0.1 : 2.1;	/* how hard this block is */

		a[i] = point(text + 0.01, 1, 1 + text + 0.02, i % 2, 10, i / 4);
		b[i] = point(text + 0.03, 1, 1 + text + 0.05, i % 4 == 1, 10, i / 4);
	}
	assert_int_equal(quality_compare_pair(&pair, a, b, 400, 0, 100, 500, 1, &err), OK);
	assert_int_equal(pair.n, 400);
	assert_int_equal(pair.blocks, 100);
	near("KL of a less that of b", -0.02, pair.kl.value, 1e-9);
	near("its lower bound", -0.02, pair.kl.low, 1e-9);
	near("its upper bound", -0.02, pair.kl.high, 1e-9);
	near("same top-1", 0.25, pair.top1.value, 1e-12);
	near("perplexity of a / b", exp(-0.03), pair.ratio.value, 1e-9);
	near("its upper bound", exp(-0.03), pair.ratio.high, 1e-9);
	assert_int_equal(quality_summarise(&alone, a, 400, 0, 100, 500, 1, &err), OK);
	assert_true(alone.kl.high - alone.kl.low > 0.1);
	assert_int_equal(quality_compare_pair(&pair, a, b, 400, 50, 60, 500, 1, &err), OK);
	assert_int_equal(pair.n, 0);
}

static void a_summary_is_of_the_points_in_its_range(void **state)
{
	struct quality_point p[5] = {
		point(0.1, 1, 1.5, true, 1, 1), point(0.3, 2, 2.0, false, 2, 1), point(0.2, 3, 3.1, true, 127, 2),
		point(9.0, 9, 9.0, false, 128, 3), point(7.0, 9, 9.0, false, 0, 4)};
	struct quality_summary s;
	struct err err = {0};

	(void)state;
	assert_int_equal(quality_summarise(&s, p, 5, 1, 128, 0, 1, &err), OK);
	assert_int_equal(s.n, 3);
	assert_int_equal(s.blocks, 2);
	near("mean KL", 0.2, s.kl.value, 1e-12);
	near("median KL", 0.2, s.kl_median, 1e-12);
	near("largest KL", 0.3, s.kl_max, 1e-12);
	near("top-1", 2.0 / 3, s.top1.value, 1e-12);
	near("perplexity of the reference", exp(2), s.ppl_ref, 1e-9);
	near("perplexity of the other", exp(2.2), s.ppl_test, 1e-9);
	near("ratio", exp(0.2), s.ratio.value, 1e-12);
	near("without resampling", s.kl.value, s.kl.low, 0);
	assert_int_equal(quality_summarise(&s, p, 5, 1000, 2000, 100, 1, &err), OK);
	assert_int_equal(s.n, 0);
}

/* 400 blocks of one point, half of them 1: the mean has a standard deviation of 0.025, 95 % are within 1.96 of it. */
static void an_interval_covers_what_chance_explains(void **state)
{
	struct quality_point p[400];
	struct quality_summary s, again, other;
	struct err err = {0};

	(void)state;
	for (int i = 0; i < 400; i++)
		p[i] = point(i % 2, 1, 1, i % 2, 1, i);
	assert_int_equal(quality_summarise(&s, p, 400, 0, 10, 4000, 7, &err), OK);
	near("low", 0.5 - 1.96 * 0.025, s.kl.low, 0.006);
	near("high", 0.5 + 1.96 * 0.025, s.kl.high, 0.006);
	near("low of top-1", s.kl.low, s.top1.low, 1e-12);
	assert_int_equal(quality_summarise(&again, p, 400, 0, 10, 4000, 7, &err), OK);
	assert_int_equal(quality_summarise(&other, p, 400, 0, 10, 50, 8, &err), OK);
	assert_memory_equal(&s, &again, sizeof s);
	assert_true(other.kl.low != s.kl.low || other.kl.high != s.kl.high);
}

/* The same points in two blocks: much less is known. */
static void blocks_stand_or_fall_together(void **state)
{
	struct quality_point p[400];
	struct quality_summary s;
	struct err err = {0};

	(void)state;
	for (int i = 0; i < 400; i++)
		p[i] = point(i / 200, 1, 1, true, 1, i / 200);
	assert_int_equal(quality_summarise(&s, p, 400, 0, 10, 1000, 7, &err), OK);
	assert_int_equal(s.blocks, 2);
	near("low", 0, s.kl.low, 0);
	near("high", 1, s.kl.high, 0);
}

/* ------------------------------------------------------------------ stored logits */

enum { V = 50, ROWS = 7 };

static void make_row(float *logprob, uint64_t seed)
{
	struct rng r = rng_seed(seed);
	float x[V];

	for (int i = 0; i < V; i++)
		x[i] = (float)(int)(rng_uniform(&r) * 12);	/* whole numbers: many are equal */
	quality_logprobs(logprob, x, V);
}

static void write_file(const char *path, int32_t n)
{
	struct logits_writer *w;
	struct err err = {0};
	float row[V];

	if (logits_writer_open(&w, path, "tiny", V, n, ROWS, 0x1234, &err) != OK)
		fail_msg("%s", err.msg);
	for (int i = 0; i < ROWS; i++) {
		make_row(row, (uint64_t)i);
		assert_int_equal(logits_writer_row(w, row, i, &err), OK);
	}
	assert_true(access(path, F_OK) != 0);	/* whole or absent */
	assert_int_equal(logits_writer_finish(w, &err), OK);
	logits_writer_close(w);
}

static const char *scratch(void)
{
	static char path[64];

	snprintf(path, sizeof path, "/tmp/ds4-quality-test-%d.logits", (int)getpid());
	return path;
}

static void check_row(const struct quality_row *r, const float *all, int32_t n, int32_t i)
{
	near("target", all[i], r->target, 0);
	assert_int_equal(r->n, n);
	for (int32_t k = 0; k < n; k++) {
		int32_t id = r->id ? r->id[k] : k, better = 0;

		near("log-probability", all[id], r->logprob[k], 0);
		for (int32_t j = 0; j < V; j++)
			better += all[j] > all[id] || (all[j] == all[id] && j < id);
		if (r->id && better != k)
			fail_msg("row %d: place %d is token %d, which %d are better than", (int)i, (int)k, (int)id,
				 (int)better);
	}
}

static void stored_rows_come_back_best_first(void **state)
{
	static const int32_t sizes[3] = {1, 9, V};
	struct logits_file f;
	struct quality_row r;
	struct err err = {0};
	float all[V];

	(void)state;
	for (int s = 0; s < 3; s++) {
		write_file(scratch(), sizes[s]);
		assert_true(logits_file_is(scratch()));
		if (logits_file_open(&f, scratch(), &err) != OK)
			fail_msg("%s", err.msg);
		assert_string_equal(f.model, "tiny");
		assert_int_equal(f.rows, ROWS);
		assert_int_equal(f.hash, 0x1234);
		for (int32_t i = 0; i < ROWS; i++) {
			make_row(all, (uint64_t)i);
			assert_int_equal(logits_file_row(&f, (uint64_t)i, &r, &err), OK);
			assert_true((r.id == NULL) == (sizes[s] == V));
			check_row(&r, all, sizes[s], i);
		}
		logits_file_close(&f);
		unlink(scratch());
	}
}

static void damaged_files_are_refused(void **state)
{
	struct logits_file f;
	struct quality_row r;
	struct err err = {0};
	struct file_map map;
	uint8_t *copy;
	size_t bytes;

	(void)state;
	write_file(scratch(), 9);
	assert_int_equal(file_map(&map, scratch(), &err), OK);
	bytes = map.bytes;
	copy = mem_copy(map.data, bytes);
	file_unmap(&map);
	for (size_t cut = 0; cut < 3; cut++) {
		static const size_t left[3] = {5, 41, 200};

		assert_int_equal(file_write(scratch(), copy, left[cut], &err), OK);
		assert_int_equal(logits_file_open(&f, scratch(), &err), ERR_FORMAT);
	}
	copy[48 + 4] = 200;	/* the first id of the first row, behind the header, the name and the target */
	assert_int_equal(file_write(scratch(), copy, bytes, &err), OK);
	assert_int_equal(logits_file_open(&f, scratch(), &err), OK);
	assert_int_equal(logits_file_row(&f, 0, &r, &err), ERR_FORMAT);
	assert_int_equal(logits_file_row(&f, 1, &r, &err), OK);
	logits_file_close(&f);
	mem_free(copy);
	unlink(scratch());
}

static void an_unfinished_file_leaves_nothing(void **state)
{
	struct logits_writer *w;
	struct err err = {0};
	char tmp[80];

	(void)state;
	assert_int_equal(logits_writer_open(&w, scratch(), "tiny", V, 9, ROWS, 0, &err), OK);
	logits_writer_close(w);
	snprintf(tmp, sizeof tmp, "%s.tmp", scratch());
	assert_true(access(scratch(), F_OK) != 0 && access(tmp, F_OK) != 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(divergence_is_that_of_the_definition),
		cmocka_unit_test(a_model_against_itself_is_at_distance_zero),
		cmocka_unit_test(tokens_that_are_not_stored_count_as_one),
		cmocka_unit_test(equal_logits_go_to_the_lower_id),
		cmocka_unit_test(log_probabilities_do_not_depend_on_a_shift_and_sum_to_one),
		cmocka_unit_test(a_summary_is_of_the_points_in_its_range),
		cmocka_unit_test(a_pair_is_resampled_together),
		cmocka_unit_test(an_interval_covers_what_chance_explains),
		cmocka_unit_test(blocks_stand_or_fall_together),
		cmocka_unit_test(stored_rows_come_back_best_first),
		cmocka_unit_test(damaged_files_are_refused),
		cmocka_unit_test(an_unfinished_file_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
