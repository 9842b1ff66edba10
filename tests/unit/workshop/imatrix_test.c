/* imatrix_test.c - importance against squares taken here from the taps, and from the backend's own experts.
 *
 * The model is ds4-nano on the backend ref, in double.  The down columns are checked through the experts operation: with
 * one expert a row and an identity for its down matrix it returns the weighted SwiGLU vector itself. */
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
#include "support/model_kit.h"
#include "workshop/imatrix.h"

#define NANO "models/ds4-nano-q2.gguf"

enum { D = 256, F = 256, E = 16, K = 6, LAYERS = 8, MAX = 16 };

/* "Hello!" and "Who are you?" as stored in tests/data/nano. */
static const int32_t text_a[] = {0, 7717, 1425, 3, 7718, 7736}, text_b[] = {0, 7717, 1168, 485, 328, 33, 7718, 7736};
enum { N_A = 6, N_B = 8 };

static struct model_kit kit;

static int open_kit(void **state)
{
	(void)state;
	model_kit_open(&kit, NANO, "ref", 2, (struct be_numerics)BE_NUMERICS_MODEL, MAX, 1);
	return 0;
}

static int close_kit(void **state)
{
	(void)state;
	model_kit_close(&kit);
	return 0;
}

/* What the observer saw, kept beside the collector's own. */
struct witness {
	struct tap inner;
	float x[LAYERS][MAX][D], gate[LAYERS][MAX][K];
	int32_t idx[LAYERS][MAX][K];
};

static void witness(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t,
		    const struct step *s)
{
	struct witness *w = ctx;
	int32_t pos = s->row[0].pos;

	w->inner.fn(w->inner.ctx, at, layer, be, t, s);
	if (at == TAP_FFN_NORM)
		be_read(be, t, 0, s->n_rows, w->x[layer][pos]);
	if (at == TAP_GATES)
		be_read(be, t, 0, s->n_rows, w->gate[layer][pos]);
	if (at == TAP_EXPERTS)
		memcpy(w->idx[layer][pos], t->data, (size_t)s->n_rows * K * sizeof(int32_t));
}

static struct imatrix_collector *collector(int threads, int32_t down_every)
{
	struct imatrix_collector *c;
	struct err err = {0};

	if (imatrix_open(&c, &kit.shape, &kit.weights, threads, down_every, &err) != OK)
		fail_msg("%s", err.msg);
	return c;
}

static void read_text(const struct tap *tap, const int32_t *token, int32_t n, int32_t chunk)
{
	struct kv *kv = model_kit_timeline(&kit);

	forward_tap(kit.forward, tap);
	model_kit_read(&kit, kv, token, n, chunk, NULL, 0, NULL);
	forward_tap(kit.forward, NULL);
	kv_close(kv);
}

static struct imatrix exported(struct imatrix_collector *c)
{
	struct imatrix m = IMATRIX_EMPTY;
	struct err err = {0};

	if (imatrix_check(c, &err) != OK || imatrix_export(c, &m, &err) != OK)
		fail_msg("%s", err.msg);
	return m;
}

static struct imatrix collect(const int32_t *token, int32_t n, int32_t chunk, int threads, int32_t down_every,
			      int32_t skip)
{
	struct imatrix_collector *c = collector(threads, down_every);
	struct tap tap = imatrix_tap(c);
	struct imatrix m;

	imatrix_skip_below(c, skip);
	read_text(&tap, token, n, chunk);
	m = exported(c);
	imatrix_close(c);
	return m;
}

static const struct imatrix_entry *entry(const struct imatrix *m, int layer, const char *what)
{
	char name[64];
	const struct imatrix_entry *e;

	snprintf(name, sizeof name, "blk.%d.ffn_%s", layer, what);
	e = imatrix_find(m, name);
	if (!e)
		fail_msg("%s: expected an entry, found none", name);
	return e;
}

static void near(const char *what, int32_t i, double want, double got, double relative)
{
	if (!(fabs(want - got) <= relative * fabs(want) + 1e-12))
		fail_msg("%s, value %d: expected %.9g, found %.9g", what, (int)i, want, got);
}

static void check_inputs(const struct witness *w, const struct imatrix *m, int l)
{
	const struct imatrix_entry *gate = entry(m, l, "gate_exps.weight"), *up = entry(m, l, "up_exps.weight");
	const struct imatrix_entry *seen = entry(m, l, "gate_exps.weight.counts");

	assert_int_equal(gate->n, E * D);
	assert_int_equal(gate->calls, N_B);
	for (int e = 0; e < E; e++) {
		double sum[D] = {0};
		int n = 0;

		for (int t = 0; t < N_B; t++)
			for (int k = 0; k < K; k++)
				if (w->idx[l][t][k] == e) {
					n++;
					for (int j = 0; j < D; j++)
						sum[j] += (double)w->x[l][t][j] * w->x[l][t][j];
				}
		near("tokens of an expert", e, n, seen->value[e], 0);
		for (int j = 0; j < D; j++) {
			double mean = n ? sum[j] / n : 0;

			near(gate->name, e * D + j, mean, (double)gate->value[e * D + j] / gate->calls, 1e-6);
			near(up->name, e * D + j, mean, (double)up->value[e * D + j] / up->calls, 1e-6);
		}
	}
}

/* h[f] of one row and choice, by the backend's own experts with an identity behind them. */
static void hidden_by_backend(const struct witness *w, const struct weight *identity, int l, int t, int k, float *h)
{
	const struct layer_weights *lw = &kit.weights.layer[l];
	struct tensor x, y, idx, gate;
	struct expert_args a = {.x = &x, .idx = &idx, .gate_weight = &gate, .gate = &lw->gate_exps, .up = &lw->up_exps,
				.down = identity, .used = 1, .limit = kit.shape.limit[l]};
	struct step s = {.n_rows = 1};
	struct err err = {0};

	assert_int_equal(be_tensor(kit.be, &x, TENSOR_REAL, 1, D, &err), OK);
	assert_int_equal(be_tensor(kit.be, &y, TENSOR_REAL, 1, F, &err), OK);
	assert_int_equal(be_tensor(kit.be, &idx, TENSOR_I32, 1, 1, &err), OK);
	assert_int_equal(be_tensor(kit.be, &gate, TENSOR_REAL, 1, 1, &err), OK);
	be_write(kit.be, &x, 0, 1, w->x[l][t]);
	be_write(kit.be, &gate, 0, 1, &w->gate[l][t][k]);
	kit.be->upload(kit.be, idx.data, &w->idx[l][t][k], sizeof(int32_t));
	RUN(kit.be, experts, &s, &y, &a);
	assert_int_equal(be_submit(kit.be, &err), OK);
	be_read(kit.be, &y, 0, 1, h);
	be_tensor_free(kit.be, &x);
	be_tensor_free(kit.be, &y);
	be_tensor_free(kit.be, &idx);
	be_tensor_free(kit.be, &gate);
}

static void check_hidden(const struct witness *w, const struct imatrix *m, const struct weight *identity, int l)
{
	const struct imatrix_entry *down = entry(m, l, "down_exps.weight");
	static double sum[E][F];
	int seen[E] = {0};
	float h[F];

	assert_int_equal(down->n, E * F);
	memset(sum, 0, sizeof sum);
	for (int t = 0; t < N_B; t++)
		for (int k = 0; k < K; k++) {
			int e = w->idx[l][t][k];

			hidden_by_backend(w, identity, l, t, k, h);
			seen[e]++;
			for (int f = 0; f < F; f++)
				sum[e][f] += (double)h[f] * h[f];
		}
	for (int i = 0; i < E * F; i++)
		near(down->name, i, seen[i / F] ? sum[i / F][i % F] / seen[i / F] : 0,
		     (double)down->value[i] / down->calls, 2e-4);
}

static void columns_are_mean_squares_over_each_experts_own_tokens(void **state)
{
	struct imatrix_collector *c = collector(2, 1);
	struct witness *w = mem_zero(sizeof *w);
	struct tap tap = {.fn = witness, .ctx = w};
	float *one = mem_array((size_t)E * F * F, sizeof *one);
	struct weight identity = {.name = "identity", .type = DTYPE_F32, .in = F, .out = F, .n = E,
				  .row_bytes = F * sizeof *one, .data = one};
	struct err err = {0};
	struct imatrix m;

	(void)state;
	assert_true(w && one);
	for (int i = 0; i < E * F; i++)
		one[(size_t)i * F + (size_t)(i % F)] = 1;
	assert_int_equal(kit.be->weight_load(kit.be, &identity, &err), OK);
	w->inner = imatrix_tap(c);
	read_text(&tap, text_b, N_B, 5);
	m = exported(c);
	assert_int_equal(m.n, 6 * LAYERS);	/* three tensors of a layer, and the counts of each */
	for (int l = 0; l < LAYERS; l++)
		check_inputs(w, &m, l);
	check_hidden(w, &m, &identity, 0);	/* experts from the table */
	check_hidden(w, &m, &identity, LAYERS - 1);
	imatrix_clear(&m);
	imatrix_close(c);
	mem_free(w);
	mem_free(one);
}

static void same_values(const struct imatrix *want, const struct imatrix *got, double relative)
{
	assert_int_equal(want->n, got->n);
	for (size_t i = 0; i < want->n; i++) {
		const struct imatrix_entry *a = &want->entry[i], *b = imatrix_find(got, a->name);

		assert_non_null(b);
		assert_int_equal(a->n, b->n);
		assert_int_equal(a->calls, b->calls);
		for (int32_t j = 0; j < a->n; j++)
			near(a->name, j, a->value[j], b->value[j], relative);
	}
}

static void threads_do_not_change_a_bit_and_steps_only_rounding(void **state)
{
	struct imatrix one = collect(text_b, N_B, 8, 1, 1, 0), three = collect(text_b, N_B, 8, 3, 1, 0);
	struct imatrix steps = collect(text_b, N_B, 3, 1, 1, 0);

	(void)state;
	same_values(&one, &three, 0);
	same_values(&one, &steps, 1e-5);
	imatrix_clear(&one);
	imatrix_clear(&three);
	imatrix_clear(&steps);
}

static void two_files_merged_are_one_run_over_both_texts(void **state)
{
	struct imatrix a = collect(text_a, N_A, 8, 2, 1, 0), b = collect(text_b, N_B, 8, 2, 1, 0), both;
	struct imatrix_collector *c = collector(2, 1), *again = collector(2, 1);
	struct tap tap = imatrix_tap(c), more = imatrix_tap(again);
	struct err err = {0};

	(void)state;
	read_text(&tap, text_a, N_A, 8);
	assert_int_equal(imatrix_import(again, &a, &err), OK);	/* what a run that goes on does */
	read_text(&tap, text_b, N_B, 8);
	read_text(&more, text_b, N_B, 8);
	both = exported(c);
	if (imatrix_combine(&a, &b, &err) != OK)
		fail_msg("%s", err.msg);
	same_values(&both, &a, 1e-5);
	imatrix_clear(&a);
	a = exported(again);
	same_values(&both, &a, 1e-5);
	imatrix_clear(&a);
	imatrix_clear(&b);
	imatrix_clear(&both);
	imatrix_close(c);
	imatrix_close(again);
}

static void rows_below_the_mark_are_not_counted(void **state)
{
	struct imatrix m = collect(text_b, N_B, 4, 1, 4, 3);	/* rows 3..7; of them 4 for the down columns */
	struct imatrix_coverage in, down;

	(void)state;
	assert_true(imatrix_coverage(&m, "blk.5.ffn_up_exps.weight", &in));
	assert_true(imatrix_coverage(&m, "blk.5.ffn_down_exps.weight", &down));
	assert_int_equal(entry(&m, 5, "gate_exps.weight")->calls, 5);
	assert_int_equal(in.tokens, 5 * K);
	assert_int_equal(down.tokens, 1 * K);
	assert_int_equal(down.unseen, E - K);
	assert_false(imatrix_coverage(&m, "blk.9.ffn_up_exps.weight", &in));
	imatrix_clear(&m);
}

static void the_written_file_is_read_back(void **state)
{
	struct imatrix m = collect(text_a, N_A, 8, 1, 1, 0), back;
	struct err err = {0};
	char path[64];

	(void)state;
	snprintf(path, sizeof path, "/tmp/ds4-imatrix-test-%d.dat", (int)getpid());
	assert_int_equal(imatrix_write(&m, path, &err), OK);
	if (imatrix_read(&back, path, &err) != OK)
		fail_msg("%s", err.msg);
	same_values(&m, &back, 0);
	imatrix_clear(&m);
	imatrix_clear(&back);
	unlink(path);
}

/* ------------------------------------------------------------------ by hand */

/* Two experts of two columns: mean squares and tokens. */
static struct imatrix small(int32_t calls, const float mean[4], float n0, float n1)
{
	struct imatrix m = IMATRIX_EMPTY;
	struct imatrix_entry *e;

	assert_non_null(imatrix_add(&m, "t.counts", 2));
	e = imatrix_add(&m, "t", 4);
	assert_non_null(e);
	e->calls = calls;
	for (int i = 0; i < 4; i++)
		e->value[i] = mean[i] * (float)calls;
	e = imatrix_find(&m, "t.counts");
	e->calls = 1;
	e->value[0] = n0;
	e->value[1] = n1;
	m.chunks = calls;
	return m;
}

static void means_are_weighted_by_the_tokens_of_each_expert(void **state)
{
	static const float first[4] = {2, 4, 0, 0}, second[4] = {8, 1, 6, 7}, want[4] = {3.5f, 3.25f, 6, 7};
	struct imatrix a = small(10, first, 3, 0), b = small(5, second, 1, 4);
	struct imatrix_coverage c;
	struct err err = {0};

	(void)state;
	assert_true(imatrix_coverage(&a, "t", &c));
	assert_int_equal(c.unseen, 1);
	assert_int_equal(imatrix_combine(&a, &b, &err), OK);
	assert_int_equal(imatrix_find(&a, "t")->calls, 15);
	assert_int_equal(a.chunks, 15);
	for (int i = 0; i < 4; i++)
		near("mean", i, want[i], (double)imatrix_find(&a, "t")->value[i] / 15, 1e-6);
	assert_true(imatrix_coverage(&a, "t", &c));
	assert_int_equal(c.experts, 2);
	assert_int_equal(c.unseen, 0);
	assert_int_equal(c.min, 4);
	assert_int_equal(c.tokens, 8);
	imatrix_clear(&a);
	imatrix_clear(&b);
}

static void files_that_do_not_fit_are_not_added(void **state)
{
	static const float v[4] = {1, 1, 1, 1};
	struct imatrix a = small(10, v, 3, 1), b = IMATRIX_EMPTY;
	struct err err = {0};

	(void)state;
	assert_non_null(imatrix_add(&b, "t", 4));
	assert_int_equal(imatrix_combine(&a, &b, &err), ERR_FORMAT);
	assert_non_null(strstr(err.msg, "counts"));
	imatrix_clear(&b);
	assert_non_null(imatrix_add(&b, "t", 6));
	assert_int_equal(imatrix_combine(&a, &b, &err), ERR_FORMAT);
	assert_non_null(strstr(err.msg, "another model"));
	imatrix_clear(&a);
	imatrix_clear(&b);
}

/* Files of other tools have no counts: sums and calls are added as they are. */
static void files_without_counts_add_their_sums(void **state)
{
	struct imatrix a = IMATRIX_EMPTY, b = IMATRIX_EMPTY;
	struct err err = {0};

	(void)state;
	*imatrix_add(&a, "t", 1)->value = 3;
	*imatrix_add(&b, "t", 1)->value = 4;
	a.entry[0].calls = 2;
	b.entry[0].calls = 5;
	assert_int_equal(imatrix_combine(&a, &b, &err), OK);
	near("sum", 0, 7, a.entry[0].value[0], 0);
	assert_int_equal(a.entry[0].calls, 7);
	imatrix_clear(&a);
	imatrix_clear(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(columns_are_mean_squares_over_each_experts_own_tokens),
		cmocka_unit_test(threads_do_not_change_a_bit_and_steps_only_rounding),
		cmocka_unit_test(two_files_merged_are_one_run_over_both_texts),
		cmocka_unit_test(rows_below_the_mark_are_not_counted),
		cmocka_unit_test(the_written_file_is_read_back),
		cmocka_unit_test(means_are_weighted_by_the_tokens_of_each_expert),
		cmocka_unit_test(files_that_do_not_fit_are_not_added),
		cmocka_unit_test(files_without_counts_add_their_sums),
	};

	return cmocka_run_group_tests(tests, open_kit, close_kit);
}
