/* cpu_ops_test.c - what the parity tests do not reach in the cpu backend: refusals, the frontier's exact bits,
 * ties and NaN in choices, files that lie, and running out of memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/cpu_int.h"
#include "base/mem.h"
#include "base/rng.h"
#include "support/kit.h"

static struct kit_step st;

static struct weight plain(const char *name, enum dtype t, const void *data, int32_t in, int32_t out)
{
	return (struct weight){.name = name,
	                       .type = t,
	                       .in = in,
	                       .out = out,
	                       .n = 1,
	                       .row_bytes = dtype_bytes(t, (size_t)in),
	                       .data = data,
	                       .device = (void *)(uintptr_t)data};
}

static void fill(struct tensor *t, struct rng *r, double scale)
{
	for (int32_t i = 0; i < t->rows * t->width; i++)
		((float *)t->data)[i] = kit_uniform(r, scale);
}

/* ------------------------------------------------------------------ opening */

static void other_numerics_and_bad_thread_counts_are_refused(void **state)
{
	struct be_options opt = {.threads = 1, .numerics = BE_NUMERICS_MODEL};
	struct backend *be;
	struct err err = {0};

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct be_options other = opt;

		*(i == 0 ? &other.numerics.fp8 : i == 1 ? &other.numerics.fp4 : &other.numerics.packed) = false;
		assert_int_equal(cpu_open(&be, &other, &err), ERR_ARGUMENT);
		assert_null(be);
	}
	opt.threads = -1;
	assert_int_equal(cpu_open(&be, &opt, &err), ERR_ARGUMENT);
	assert_non_null(strstr(err.msg, "threads"));
}

static void a_weight_that_kernels_cannot_read_is_refused_by_name(void **state)
{
	_Alignas(8) static uint8_t bytes[64];
	struct weight w = plain("blk.0.some.weight", DTYPE_F16, bytes + 1, 16, 1);
	struct err err = {0};
	struct kit k;

	(void)state;
	kit_open(&k, "cpu", 1, 0, 0);
	assert_int_equal(k.be->weight_load(k.be, &w, &err), ERR_FORMAT);
	assert_non_null(strstr(err.msg, "blk.0.some.weight"));
	w = plain("table", DTYPE_I32, bytes, 4, 1);
	assert_int_equal(k.be->weight_load(k.be, &w, &err), OK);
	assert_ptr_equal(w.device, bytes);
	kit_close(&k);
}

/* ------------------------------------------------------------------ pooling */

enum { TOKENS = 270 };

struct history {
	uint8_t *tail, *blocks;	/* copies of a timeline's memory */
	size_t tail_bytes, block_bytes;
};

/* Pools TOKENS tokens of random projections in steps of the given sizes (used in turn); with `poison` the tail
 * and blocks hold NaN before. */
static struct history pool_history(int32_t ratio, bool key, const int32_t *cuts, int threads, bool poison)
{
	const int32_t pw = geom_pool_width(key ? GEOM_KEY : GEOM_HEAD, ratio);
	struct kit k;
	struct kv *kv;
	struct err err = {0};
	struct rng r = rng_seed(9);
	struct history h = {0};
	float freq[32];
	struct weight *ape, *norm;
	struct tensor all_kv, all_score, t_kv, t_score;

	kit_open(&k, "cpu", threads, ratio, 16);
	assert_int_equal(kv_open(&kv, &k.pool, 2, &err), OK);
	assert_int_equal(kv_reserve(kv, TOKENS, &err), OK);
	if (poison) {
		memset(kv->dev.tail, 0xFF, k.layout.tail_bytes);
		for (int32_t b = 0; b < kv->dev.n_block; b++)
			memset(kv->dev.block[b], 0xFF, k.layout.block_bytes);
	}
	ape = kit_weight(&r, "ape", DTYPE_F16, pw, ratio, 1);
	norm = kit_weight(&r, "norm", DTYPE_F32, key ? GEOM_KEY : GEOM_HEAD, 1, 1);
	kit_load(&k, ape);
	kit_load(&k, norm);
	for (int i = 0; i < 32; i++)
		freq[i] = 1.0f / (float)(i + 1);
	all_kv = kit_tensor(&k, TENSOR_REAL, TOKENS, pw);
	all_score = kit_tensor(&k, TENSOR_REAL, TOKENS, pw);
	fill(&all_kv, &r, 1);
	fill(&all_score, &r, 3);
	t_kv = kit_tensor(&k, TENSOR_REAL, KIT_MAX_ROWS, pw);
	t_score = kit_tensor(&k, TENSOR_REAL, KIT_MAX_ROWS, pw);
	for (int32_t pos = 0, i = 0; pos < TOKENS; i++) {
		int32_t n = cuts[i % 8] < TOKENS - pos ? cuts[i % 8] : TOKENS - pos;
		struct pool_args a = {.kv = &t_kv, .score = &t_score, .ape = ape, .norm = norm, .freq = freq,
				      .layer = &k.layout.layer[0], .key = key};

		memcpy(t_kv.data, row_of(&all_kv, pos), (size_t)n * (size_t)pw * sizeof(float));
		memcpy(t_score.data, row_of(&all_score, pos), (size_t)n * (size_t)pw * sizeof(float));
		kit_step_begin(&st);
		kit_step_add(&st, &r, kv, pos, n, 10);
		kit_step_end(&st, 0);
		RUN(k.be, pool, &st.s, &a);
		pos += n;
	}
	assert_int_equal(be_submit(k.be, &err), OK);
	h.tail_bytes = k.layout.tail_bytes;
	h.block_bytes = k.layout.block_bytes * (size_t)kv->dev.n_block;
	h.tail = mem_copy(kv->dev.tail, h.tail_bytes);
	h.blocks = mem_alloc(h.block_bytes);
	for (int32_t b = 0; b < kv->dev.n_block; b++)
		memcpy(h.blocks + (size_t)b * k.layout.block_bytes, kv->dev.block[b], k.layout.block_bytes);
	be_tensor_free(k.be, &all_kv);
	be_tensor_free(k.be, &all_score);
	be_tensor_free(k.be, &t_kv);
	be_tensor_free(k.be, &t_score);
	kv_close(kv);
	kit_free_weights();
	kit_close(&k);
	return h;
}

static void history_free(struct history *h)
{
	mem_free(h->tail);
	mem_free(h->blocks);
}

static const int32_t one_by_one[8] = {1, 1, 1, 1, 1, 1, 1, 1};

static void any_cut_leaves_the_rows_and_the_frontier_of_one_by_one(void **state)
{
	static const int32_t cuts[][8] = {{2, 2, 2, 2, 2, 2, 2, 2},     {3, 1, 4, 1, 5, 9, 2, 6},
	                                  {127, 2, 1, 128, 1, 1, 1, 1}, {270, 1, 1, 1, 1, 1, 1, 1},
	                                  {4, 4, 4, 4, 4, 4, 4, 4},     {6, 7, 5, 130, 3, 3, 3, 3}};

	(void)state;
	for (int form = 0; form < 3; form++) {
		int32_t ratio = form == 0 ? 128 : 4;
		struct history want = pool_history(ratio, form == 2, one_by_one, 1, false);

		for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++)
			for (int threads = 1; threads <= 7; threads += 2) {
				struct history have = pool_history(ratio, form == 2, cuts[c], threads, false);

				if (memcmp(want.blocks, have.blocks, want.block_bytes))
					fail_msg("ratio %d%s, cut %zu, %d threads: other rows", ratio,
					         form == 2 ? " keys" : "", c, threads);
				if (memcmp(want.tail, have.tail, want.tail_bytes))
					fail_msg("ratio %d%s, cut %zu, %d threads: other frontier", ratio,
						 form == 2 ? " keys" : "", c, threads);
				history_free(&have);
			}
		history_free(&want);
	}
}

/* Tails are reused without being cleared: whatever they hold may not reach a row. */
static void what_the_frontier_held_before_does_not_matter(void **state)
{
	static const int32_t cuts[8] = {3, 1, 4, 1, 5, 9, 2, 6};

	(void)state;
	for (int form = 0; form < 3; form++) {
		int32_t ratio = form == 0 ? 128 : 4, rows = TOKENS / ratio;
		struct history want = pool_history(ratio, form == 2, cuts, 1, false);
		struct history have = pool_history(ratio, form == 2, cuts, 1, true);
		const size_t per_block = want.block_bytes / 3;
		const int32_t in_block = geom_rows_per_block(ratio);
		struct kit k;

		kit_open(&k, "cpu", 1, ratio, 16);
		for (int32_t n = 0; n < rows; n++) {
			size_t at = (size_t)(n / in_block) * per_block +
				    (form == 2 ? k.layout.layer[0].block_keys : k.layout.layer[0].block_rows);
			struct packed_rows a = {want.blocks + at, in_block}, b = {have.blocks + at, in_block};
			float x[GEOM_HEAD] = {0}, y[GEOM_HEAD] = {0};

			(form == 2 ? cpu_load_key : cpu_load_row)(cpu_of(k.be), a, n % in_block, x);
			(form == 2 ? cpu_load_key : cpu_load_row)(cpu_of(k.be), b, n % in_block, y);
			for (int i = 0; i < GEOM_HEAD; i++)
				if (x[i] != y[i])
					fail_msg("ratio %d%s, row %d, channel %d: %g on clean memory, %g on "
					         "used memory",
					         ratio, form == 2 ? " keys" : "", n, i, (double)x[i],
					         (double)y[i]);
		}
		kit_close(&k);
		history_free(&want);
		history_free(&have);
	}
}

/* ------------------------------------------------------------------ choosing */

enum { KEYS = 75, TOP = 20, HEADS = 3 };

/* The definition: the TOP best scores in double, ties to the lower row, ascending. */
static void expected_choice(const double *score, int32_t *pick)
{
	bool taken[KEYS] = {false};
	int32_t n = 0;

	for (int i = 0; i < TOP; i++) {
		int32_t best = -1;

		for (int32_t k = 0; k < KEYS; k++)
			if (!taken[k] && (best < 0 || score[k] > score[best]))
				best = k;
		taken[best] = true;
	}
	for (int32_t k = 0; k < KEYS; k++)
		if (taken[k])
			pick[n++] = k;
}

/* Chooses for one query per row, all at the last position, over KEYS random keys, the first `twins` of which
 * are equal. want: the expected choice, or NULL. */
static void choose(int threads, int32_t rows, int32_t *pick, int32_t twins, float head_weight, int32_t *want)
{
	struct kit k;
	struct kv *kv;
	struct err err = {0};
	struct rng r = rng_seed(11);
	struct tensor q, u, p;
	struct choose_args a;
	float key[GEOM_KEY];

	kit_open(&k, "cpu", threads, 4, 16);
	assert_int_equal(kv_open(&kv, &k.pool, 2, &err), OK);
	assert_int_equal(kv_reserve(kv, 4 * KEYS, &err), OK);
	for (int32_t n = 0; n < KEYS; n++) {
		struct packed_rows group = {kv->dev.block[n / 32] + k.layout.layer[0].block_keys, 32};

		if (n >= twins || n == 0)
			for (int i = 0; i < GEOM_KEY; i++)
				key[i] = kit_uniform(&r, 2);
		cpu_store_key(group, n % 32, key);
	}
	q = kit_tensor(&k, TENSOR_REAL, rows, HEADS * GEOM_KEY);
	u = kit_tensor(&k, TENSOR_REAL, rows, HEADS);
	p = kit_tensor(&k, TENSOR_I32, rows, TOP);
	kit_step_begin(&st);
	for (int32_t t = 0; t < rows; t++) {
		struct rng same = rng_seed(12);

		for (int32_t i = 0; i < HEADS * GEOM_KEY; i++)
			row_of(&q, t)[i] = kit_uniform(&same, 1);
		for (int32_t i = 0; i < HEADS; i++)
			row_of(&u, t)[i] = head_weight;
		kit_step_add(&st, &r, kv, 4 * KEYS - 1, 1, 10);
	}
	kit_step_end(&st, 0);
	a = (struct choose_args){
		.q = &q, .head_weight = &u, .layer = &k.layout.layer[0], .heads = HEADS, .top_k = TOP};
	RUN(k.be, choose_rows, &st.s, &p, &a);
	assert_int_equal(be_submit(k.be, &err), OK);
	if (want) {
		double score[KEYS] = {0};

		for (int32_t n = 0; n < KEYS; n++) {
			struct packed_rows group = {kv->dev.block[n / 32] + k.layout.layer[0].block_keys, 32};

			cpu_load_key(cpu_of(k.be), group, n % 32, key);
			for (int32_t h = 0; h < HEADS; h++) {
				double dot = 0;

				for (int i = 0; i < GEOM_KEY; i++)
					dot += (double)row_of(&q, 0)[h * GEOM_KEY + i] * (double)key[i];
				score[n] += (double)head_weight * fmax(dot, 0);
			}
		}
		expected_choice(score, want);
	}
	memcpy(pick, p.data, (size_t)rows * TOP * sizeof *pick);
	be_tensor_free(k.be, &q);
	be_tensor_free(k.be, &u);
	be_tensor_free(k.be, &p);
	kv_close(kv);
	kit_close(&k);
}

static void a_query_chooses_the_same_alone_and_among_many(void **state)
{
	int32_t one[TOP], many[40 * TOP];

	(void)state;
	choose(1, 1, one, 0, 1, NULL);
	for (int i = 1; i < TOP; i++)
		assert_true(one[i] > one[i - 1] && one[i] < KEYS);
	for (int threads = 1; threads <= 7; threads += 3)
		for (int32_t rows = 1; rows <= 40; rows += 13) {
			choose(threads, rows, many, 0, 1, NULL);
			for (int32_t t = 0; t < rows; t++)
				assert_memory_equal(one, many + t * TOP, sizeof one);
		}
}

static void the_best_rows_are_chosen_and_ties_filled_from_below(void **state)
{
	int32_t pick[TOP], want[TOP];

	(void)state;
	for (int32_t twins = 0; twins <= KEYS; twins += 15)	/* the limit falls among the twins in some */
		for (int sign = -1; sign <= 1; sign += 2) {
			choose(1, 1, pick, twins, (float)sign, want);
			for (int i = 0; i < TOP; i++)
				if (pick[i] != want[i])
					fail_msg("%d twins, weight %d: choice %d is row %d, expected %d", twins,
					         sign, i, pick[i], want[i]);
		}
}

static void equal_scores_go_to_the_lower_rows(void **state)
{
	int32_t pick[TOP];

	(void)state;
	choose(1, 1, pick, KEYS, 1, NULL);	/* all keys equal */
	for (int i = 0; i < TOP; i++)
		assert_int_equal(pick[i], i);
	choose(1, 1, pick, 0, 0, NULL);	/* all scores zero, of either sign */
	for (int i = 0; i < TOP; i++)
		assert_int_equal(pick[i], i);
}

static void nan_scores_still_give_distinct_rows(void **state)
{
	int32_t pick[TOP];

	(void)state;
	choose(1, 1, pick, 0, NAN, NULL);
	for (int i = 0; i < TOP; i++)
		assert_int_equal(pick[i], i);
}

/* ------------------------------------------------------------------ routing */

static enum status route(const float *logits, const float *bias, const int32_t *table, int32_t experts,
                         int32_t used, int32_t *idx, float *gate, struct err *err)
{
	struct kit k;
	struct rng r = rng_seed(13);
	struct weight b = plain("bias", DTYPE_F32, bias, experts, 1),
		      t = plain("blk.0.tid2eid", DTYPE_I32, table, used, 1);
	struct tensor l, i, g;
	struct route_args a = {.logits = &l,
	                       .bias = bias ? &b : NULL,
	                       .table = table ? &t : NULL,
	                       .experts = experts,
	                       .used = used,
	                       .scale = 1.5f};
	enum status code;

	kit_open(&k, "cpu", 1, 0, 0);
	l = kit_tensor(&k, TENSOR_REAL, 1, experts);
	i = kit_tensor(&k, TENSOR_I32, 1, used);
	g = kit_tensor(&k, TENSOR_REAL, 1, used);
	memcpy(l.data, logits, (size_t)experts * sizeof *logits);
	kit_step_begin(&st);
	kit_step_add(&st, &r, NULL, 0, 1, 1);
	kit_step_end(&st, 0);
	RUN(k.be, route, &st.s, &i, &g, &a);
	code = be_submit(k.be, err);
	memcpy(idx, i.data, (size_t)used * sizeof *idx);
	memcpy(gate, g.data, (size_t)used * sizeof *gate);
	be_tensor_free(k.be, &l);
	be_tensor_free(k.be, &i);
	be_tensor_free(k.be, &g);
	kit_close(&k);
	return code;
}

static void experts_tie_to_the_lower_number_and_weights_ignore_the_bias(void **state)
{
	static const float logits[6] = {1, 2, 2, 0, 2, -3}, bias[6] = {0, 0, 0, 0, 0, 10};
	struct err err = {0};
	int32_t idx[3];
	float gate[3];
	double p[3], sum = 0;

	(void)state;
	assert_int_equal(route(logits, NULL, NULL, 6, 3, idx, gate, &err), OK);
	assert_true(idx[0] == 1 && idx[1] == 2 && idx[2] == 4);
	assert_int_equal(route(logits, bias, NULL, 6, 3, idx, gate, &err), OK);
	assert_true(idx[0] == 5 && idx[1] == 1 && idx[2] == 2);
	for (int k = 0; k < 3; k++)
		sum += p[k] = sqrt(log1p(exp((double)logits[idx[k]])));
	for (int k = 0; k < 3; k++)
		if (!(fabs((double)gate[k] - 1.5 * p[k] / sum) < 1e-6))
			fail_msg("weight %d is %.8f, expected %.8f", k, (double)gate[k], 1.5 * p[k] / sum);
}

static void very_negative_router_outputs_keep_their_proportions(void **state)
{
	static const float logits[2] = {-150, -151};
	struct err err = {0};
	int32_t idx[2];
	float gate[2];

	(void)state;
	assert_int_equal(route(logits, NULL, NULL, 2, 2, idx, gate, &err), OK);
	assert_true(fabs((double)gate[0] - 1.5 / (1 + exp(-0.5))) < 1e-5);
}

static void nan_router_outputs_give_valid_experts(void **state)
{
	float logits[6];
	struct err err = {0};
	int32_t idx[3];
	float gate[3];

	(void)state;
	for (int i = 0; i < 6; i++)
		logits[i] = NAN;
	assert_int_equal(route(logits, NULL, NULL, 6, 3, idx, gate, &err), OK);
	for (int k = 0; k < 3; k++)
		assert_true(idx[k] >= 0 && idx[k] < 6 && isnan(gate[k]));
}

static void a_table_that_names_no_expert_is_an_error_not_a_crash(void **state)
{
	static const float logits[4] = {0};
	static const int32_t table[2] = {3, 2000000000};
	struct err err = {0};
	int32_t idx[2];
	float gate[2];

	(void)state;
	assert_int_equal(route(logits, NULL, table, 4, 2, idx, gate, &err), ERR_FORMAT);
	assert_non_null(strstr(err.msg, "tid2eid"));
	assert_int_equal(idx[0], 3);
}

/* ------------------------------------------------------------------ memory */

static void running_out_of_memory_is_reported_by_submit(void **state)
{
	enum { IN = 256, T = 3 };
	struct rng r = rng_seed(14);
	struct err err = {0};
	struct kit k;

	(void)state;
	for (long n = 1; n <= 3; n++) {
		struct weight *gate, *up, *down;
		struct tensor x, y, idx, weight;
		struct expert_args a;
		enum status first, second;
		float want[IN];

		kit_open(&k, "cpu", 1, 0, 0);
		gate = kit_weight(&r, "gate", DTYPE_IQ2_XXS, IN, IN, 2);
		up = kit_weight(&r, "up", DTYPE_IQ2_XXS, IN, IN, 2);
		down = kit_weight(&r, "down", DTYPE_Q2_K, IN, IN, 2);
		kit_load(&k, gate);
		kit_load(&k, up);
		kit_load(&k, down);
		x = kit_tensor(&k, TENSOR_REAL, T, IN);
		y = kit_tensor(&k, TENSOR_REAL, T, IN);
		idx = kit_tensor(&k, TENSOR_I32, T, 2);
		weight = kit_tensor(&k, TENSOR_REAL, T, 2);
		fill(&x, &r, 1);
		fill(&weight, &r, 1);
		kit_step_begin(&st);
		kit_step_add(&st, &r, NULL, 0, T, 1);
		kit_step_end(&st, 0);
		a = (struct expert_args){.x = &x,
		                         .idx = &idx,
		                         .gate_weight = &weight,
		                         .gate = gate,
		                         .up = up,
		                         .down = down,
		                         .used = 2,
		                         .limit = 10};
		st.s.n_rows = 1;
		RUN(k.be, experts, &st.s, &y, &a);
		assert_int_equal(be_submit(k.be, &err), OK);
		memcpy(want, y.data, sizeof want);
		memset(y.data, 0, sizeof want);
		st.s.n_rows = T;
		mem_fail_at(n);
		RUN(k.be, experts, &st.s, &y, &a);
		mem_fail_at(0);
		first = be_submit(k.be, &err);
		st.s.n_rows = 1;	/* what had been there is not taken for still being there */
		RUN(k.be, experts, &st.s, &y, &a);
		second = be_submit(k.be, &err);
		assert_memory_equal(want, y.data, sizeof want);
		if (first != (n <= 2 ? ERR_MEMORY : OK) || second != OK)
			fail_msg("allocation %ld fails: %s, and again: %s", n, status_name(first),
			         status_name(second));
		be_tensor_free(k.be, &x);
		be_tensor_free(k.be, &y);
		be_tensor_free(k.be, &idx);
		be_tensor_free(k.be, &weight);
		kit_free_weights();
		kit_close(&k);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_numerics_and_bad_thread_counts_are_refused),
		cmocka_unit_test(a_weight_that_kernels_cannot_read_is_refused_by_name),
		cmocka_unit_test(any_cut_leaves_the_rows_and_the_frontier_of_one_by_one),
		cmocka_unit_test(what_the_frontier_held_before_does_not_matter),
		cmocka_unit_test(a_query_chooses_the_same_alone_and_among_many),
		cmocka_unit_test(the_best_rows_are_chosen_and_ties_filled_from_below),
		cmocka_unit_test(equal_scores_go_to_the_lower_rows),
		cmocka_unit_test(nan_scores_still_give_distinct_rows),
		cmocka_unit_test(experts_tie_to_the_lower_number_and_weights_ignore_the_bias),
		cmocka_unit_test(very_negative_router_outputs_keep_their_proportions),
		cmocka_unit_test(nan_router_outputs_give_valid_experts),
		cmocka_unit_test(a_table_that_names_no_expert_is_an_error_not_a_crash),
		cmocka_unit_test(running_out_of_memory_is_reported_by_submit),
	};

	return cmocka_run_group_tests_name("cpu_ops", tests, NULL, NULL);
}
