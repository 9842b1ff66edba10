/* ops_test.c - every operation that works row by row, on every backend, against ref.
 *
 * Each case runs an operation with the same random inputs on ref (float64) and on the backend, over row counts
 * 1..33 and every element type, and compares each row.  Tolerances are relative L2 errors per row:
 *   EXACT    float arithmetic only: rounding of sums
 *   LOSSLESS quantised weights, inputs chosen so that rounding activations to int8 loses nothing
 *   INT8     the same with ordinary inputs: what int8 activations cost
 * Then it checks row independence: a row alone, and with any thread count, has the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "support/kit.h"

#define EXACT 2e-6
#define LOSSLESS 2e-6
#define INT8 2.5e-2

static const int32_t row_counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33};
static const enum dtype all_types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q2_K, DTYPE_Q4_K,
				       DTYPE_IQ2_XXS};
#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))
#define MAX_T 33

/* Backends under test: all but ref. */
static const char *other_backend(int i)
{
	int n = 0;

	for (int j = 0; be_name(j); j++)
		if (strcmp(be_name(j), "ref") && n++ == i)
			return be_name(j);
	return NULL;
}

/* Runs fn once on ref and on each other backend, single- and multi-threaded. */
struct result {
	float *v;
	size_t n;
};

typedef void op_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out);

static struct result result_new(size_t n)
{
	struct result r = {mem_array(n, sizeof(float)), n};

	assert_non_null(r.v);
	return r;
}

static struct result run_case(const char *backend, int threads, op_case *fn, const void *arg, int32_t T, uint64_t seed)
{
	static struct kit_step st;
	struct rng r = rng_seed(seed);
	struct result out = {0};
	struct err err = {0};
	struct kit k;

	kit_open(&k, backend, threads, 0, 0);
	kit_step_begin(&st);
	kit_step_add(&st, &r, NULL, 5, T, 50);
	kit_step_end(&st, T);
	fn(&k, &st, arg, seed, &out);
	if (be_submit(k.be, &err) != OK)
		fail_msg("%s: %s", backend, err.msg);
	kit_free_weights();
	kit_close(&k);
	return out;
}

/* Compares per row; the op writes results row by row. */
static void compare(const char *what, const char *type, op_case *fn, const void *arg, double tolerance)
{
	for (int b = 0; other_backend(b); b++)
		for (int i = 0; i < COUNT(row_counts); i++) {
			int32_t T = row_counts[i];
			uint64_t seed = 1000 + (uint64_t)T;
			struct result want = run_case("ref", 1, fn, arg, T, seed);
			struct result got = run_case(other_backend(b), 1, fn, arg, T, seed);
			struct result again = run_case(other_backend(b), 3, fn, arg, T, seed);
			size_t width = want.n / (size_t)T;

			assert_int_equal(want.n, got.n);
			for (int32_t t = 0; t < T; t++) {
				double e = kit_error(got.v + (size_t)t * width, want.v + (size_t)t * width, width);

				if (!(e <= tolerance))
					fail_msg("%s %s on %s, row %d of %d: error %.3g, allowed %.3g", what, type,
						 other_backend(b), t, T, e, tolerance);
			}
			if (memcmp(got.v, again.v, got.n * sizeof(float)))
				fail_msg("%s %s on %s, %d rows: 3 threads give other bits than 1", what, type,
					 other_backend(b), T);
			mem_free(want.v);
			mem_free(got.v);
			mem_free(again.v);
		}
}

/* A real tensor of T rows; the values of row t depend only on (seed, t), so fewer rows give the same first rows. */
static struct tensor input(struct kit *k, int32_t T, int32_t width, double scale, uint64_t seed)
{
	struct tensor t = kit_tensor(k, TENSOR_REAL, T, width);
	float *v = mem_array((size_t)width, sizeof *v);

	assert_non_null(v);
	for (int32_t i = 0; i < T; i++) {
		struct rng r = rng_seed(seed * 1000003 + (uint64_t)i);

		for (int32_t j = 0; j < width; j++)
			v[j] = kit_uniform(&r, scale);
		be_write(k->be, &t, i, 1, v);
	}
	mem_free(v);
	return t;
}

/* Integers -127..127 with one +127 in every group of 32: int8 rounding keeps them exactly. */
static struct tensor lossless_input(struct kit *k, int32_t T, int32_t width, uint64_t seed)
{
	struct tensor t = kit_tensor(k, TENSOR_REAL, T, width);
	float *v = mem_array((size_t)width, sizeof *v);

	assert_non_null(v);
	for (int32_t i = 0; i < T; i++) {
		struct rng r = rng_seed(seed * 7919 + (uint64_t)i);

		for (int32_t j = 0; j < width; j++)
			v[j] = j % 32 == 5 ? 127 : (float)rng_below(&r, 255) - 127;
		be_write(k->be, &t, i, 1, v);
	}
	mem_free(v);
	return t;
}

static void take(struct kit *k, struct tensor *t, int32_t n, struct result *out)
{
	*out = result_new((size_t)n * (size_t)t->width);
	be_read(k->be, t, 0, n, out->v);
	be_tensor_free(k->be, t);
}

/* ------------------------------------------------------------------ products */

struct product_arg {
	enum dtype type;
	int32_t in, out;
	int lossless, groups;
};

static void product_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out)
{
	const struct product_arg *a = arg;
	struct rng r = rng_seed(seed + (uint64_t)a->type);
	int32_t T = st->s.n_rows, in = a->in * (a->groups ? a->groups : 1);
	struct weight *w = kit_weight(&r, "w", a->type, a->in, a->out, 1);
	struct tensor x = a->lossless ? lossless_input(k, T, in, seed) : input(k, T, in, 1.7, seed);
	struct tensor y = kit_tensor(k, TENSOR_REAL, T, a->out);

	kit_load(k, w);
	if (a->groups)
		RUN(k->be, grouped_matmul, &st->s, &y, w, &x, a->groups);
	else
		RUN(k->be, matmul, T, &y, w, &x);
	be_tensor_free(k->be, &x);
	take(k, &y, T, out);
}

static bool is_float(enum dtype t)
{
	return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16;
}

static void every_type(const char *what, op_case *fn, struct product_arg a)
{
	for (int i = 0; i < COUNT(all_types); i++) {
		a.type = all_types[i];
		for (a.lossless = 0; a.lossless < 2; a.lossless++)
			compare(what, dtype_info(a.type)->name, fn, &a,
				is_float(a.type) ? EXACT : a.lossless ? LOSSLESS : INT8);
	}
}

static void matmul_agrees_for_every_type(void **state)
{
	(void)state;
	every_type("matmul [512, 40]", product_case, (struct product_arg){.in = 512, .out = 40});
	every_type("matmul [256, 7]", product_case, (struct product_arg){.in = 256, .out = 7});
}

static void matmul_agrees_for_widths_that_are_not_a_superblock(void **state)
{
	static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};

	(void)state;
	for (int i = 0; i < COUNT(types); i++) {
		struct product_arg a = {.type = types[i], .in = 96, .out = 33, .lossless = 1};

		compare("matmul [96, 33]", dtype_info(a.type)->name, product_case, &a, EXACT);
	}
}

static void grouped_matmul_agrees_for_every_type(void **state)
{
	(void)state;
	every_type("grouped_matmul", product_case, (struct product_arg){.in = 256, .out = 48, .groups = 4});
}

/* ------------------------------------------------------------------ embedding, norms, rope, streams */

static void embed_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out)
{
	const struct product_arg *a = arg;
	struct rng r = rng_seed(seed);
	struct weight *w = kit_weight(&r, "token_embd", a->type, 256, 50, 1);
	struct tensor s = kit_tensor(k, TENSOR_REAL, st->s.n_rows, 4 * 256);

	kit_load(k, w);
	RUN(k->be, embed, &st->s, &s, w);
	take(k, &s, st->s.n_rows, out);
}

static void embed_agrees_for_every_type(void **state)
{
	(void)state;
	for (int i = 0; i < COUNT(all_types); i++) {
		struct product_arg a = {.type = all_types[i]};

		compare("embed", dtype_info(a.type)->name, embed_case, &a, 1e-7);
	}
}

struct norm_arg {
	int32_t width, group;
	int weighted, in_place;
	enum dtype type;
};

static void norm_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out)
{
	const struct norm_arg *a = arg;
	struct rng r = rng_seed(seed);
	struct weight *w = kit_weight(&r, "norm", a->type, a->group, 1, 1);
	struct tensor x = input(k, st->s.n_rows, a->width, 3, seed);
	struct tensor y = kit_tensor(k, TENSOR_REAL, st->s.n_rows, a->width);

	kit_load(k, w);
	RUN(k->be, rms_norm, st->s.n_rows, a->in_place ? &x : &y, &x, a->weighted ? w : NULL, a->group);
	take(k, a->in_place ? &x : &y, st->s.n_rows, out);
	be_tensor_free(k->be, a->in_place ? &y : &x);
}

static void rms_norm_agrees_whole_grouped_weighted_and_in_place(void **state)
{
	static const struct norm_arg cases[] = {
		{256, 256, 1, 0, DTYPE_F32}, {256, 256, 1, 1, DTYPE_F16}, {1536, 512, 0, 1, DTYPE_F32},
		{1024, 1024, 0, 0, DTYPE_F32}, {256, 128, 1, 0, DTYPE_BF16},
	};

	(void)state;
	for (int i = 0; i < COUNT(cases); i++)
		compare("rms_norm", "", norm_case, &cases[i], EXACT);
}

static void rope_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out)
{
	const struct rope_args *a = arg;
	struct tensor x = input(k, st->s.n_rows, a->heads * a->width, 1, seed);

	for (int32_t t = 0; t < st->s.n_rows; t++)	/* far positions too */
		st->row[t].pos = t % 2 ? 5 + t : 99991 * t;
	RUN(k->be, rope, &st->s, &x, a);
	take(k, &x, st->s.n_rows, out);
}

static void rope_agrees_forward_and_inverse(void **state)
{
	float freq[32];
	struct rope_args a = {.freq = freq, .heads = 3, .width = 512};

	(void)state;
	for (int i = 0; i < 32; i++)
		freq[i] = 1.0f / (float)(1 << i % 20);
	compare("rope", "", rope_case, &a, EXACT);
	a = (struct rope_args){.freq = freq, .heads = 2, .width = 128, .inverse = true};
	compare("rope inverse", "", rope_case, &a, EXACT);
}

static struct hc_weights mix_weights(struct kit *k, struct rng *r, int32_t d, int32_t outputs)
{
	struct weight *fn = kit_weight(r, "fn", DTYPE_F16, 4 * d, outputs, 1);
	struct weight *scale = kit_weight(r, "scale", DTYPE_F32, outputs == 24 ? 3 : 1, 1, 1);
	struct weight *base = kit_weight(r, "base", DTYPE_F32, outputs, 1, 1);

	kit_load(k, fn);
	kit_load(k, scale);
	kit_load(k, base);
	return (struct hc_weights){.fn = fn, .scale = scale, .base = base, .iterations = 20};
}

enum hc_part { HC_X, HC_COEF, HC_STREAMS, HC_HEAD, HC_NORM };

static void hc_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out)
{
	enum { D = 256 };
	enum hc_part part = *(const enum hc_part *)arg;
	struct rng r = rng_seed(seed);
	int32_t T = st->s.n_rows;
	struct hc_weights w = mix_weights(k, &r, D, part == HC_HEAD ? 4 : 24);
	struct weight *norm = kit_weight(&r, "norm", DTYPE_F32, D, 1, 1);
	struct tensor s = input(k, T, 4 * D, 2, seed), y = input(k, T, D, 1, seed + 1);
	struct tensor x = kit_tensor(k, TENSOR_REAL, T, D), coef = kit_tensor(k, TENSOR_REAL, T, 24);
	struct tensor *all[] = {&s, &y, &x, &coef}, *keep = &x;

	kit_load(k, norm);
	if (part == HC_HEAD)
		RUN(k->be, hc_head, &st->s, &x, &s, &w);
	else if (part == HC_NORM)
		RUN(k->be, hc_in_norm, &st->s, &x, &coef, &s, &w, norm);
	else
		RUN(k->be, hc_in, &st->s, &x, &coef, &s, &w);
	if (part == HC_STREAMS)
		RUN(k->be, hc_out, &st->s, &s, &coef, &y);
	keep = part == HC_COEF ? &coef : part == HC_STREAMS ? &s : &x;
	take(k, keep, T, out);
	for (int i = 0; i < COUNT(all); i++)
		be_tensor_free(k->be, all[i]);
}

static void hyper_connections_agree(void **state)
{
	static const char *const name[] = {"hc_in x", "hc_in coefficients", "hc_out", "hc_head", "hc_in_norm"};

	(void)state;
	for (enum hc_part p = HC_X; p <= HC_NORM; p++)
		compare(name[p], "", hc_case, &p, 5e-6);
}

/* ------------------------------------------------------------------ experts */

struct moe_arg {
	enum dtype gate_up, down;
	int hash, bias, same, lossless;
};

enum { MOE_D = 256, MOE_F = 256, MOE_E = 11, MOE_K = 4 };

/* Router outputs in, (expert numbers, weights) out as one row of floats. */
static void route_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out)
{
	const struct moe_arg *a = arg;
	struct rng r = rng_seed(seed);
	int32_t T = st->s.n_rows, *idx_host = mem_array((size_t)T * MOE_K, sizeof *idx_host);
	struct weight *bias = kit_weight(&r, "bias", DTYPE_F32, MOE_E, 1, 1);
	struct weight *table = kit_ints(&r, "table", MOE_K, 50, MOE_E);
	struct tensor z = input(k, T, MOE_E, 4, seed), idx = kit_tensor(k, TENSOR_I32, T, MOE_K);
	struct tensor gate = kit_tensor(k, TENSOR_REAL, T, MOE_K);
	struct route_args args = {.logits = &z, .bias = a->bias ? bias : NULL, .table = a->hash ? table : NULL,
				  .experts = MOE_E, .used = MOE_K, .scale = 1.5f};

	kit_load(k, bias);
	table->device = (void *)(uintptr_t)table->data;
	kit_load(k, table);
	RUN(k->be, route, &st->s, &idx, &gate, &args);
	*out = result_new((size_t)T * MOE_K * 2);
	k->be->download(k->be, idx_host, idx.data, (size_t)T * MOE_K * sizeof *idx_host);
	for (int32_t t = 0; t < T; t++) {
		be_read(k->be, &gate, t, 1, out->v + t * 2 * MOE_K);
		for (int32_t i = 0; i < MOE_K; i++)
			out->v[t * 2 * MOE_K + MOE_K + i] = (float)idx_host[t * MOE_K + i];
	}
	mem_free(idx_host);
	be_tensor_free(k->be, &z);
	be_tensor_free(k->be, &idx);
	be_tensor_free(k->be, &gate);
}

static void route_agrees_by_score_bias_and_hash_table(void **state)
{
	static const struct moe_arg cases[] = {{.bias = 0}, {.bias = 1}, {.hash = 1}};

	(void)state;
	for (int i = 0; i < COUNT(cases); i++)
		compare("route", "", route_case, &cases[i], EXACT);
}

static void experts_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out)
{
	const struct moe_arg *a = arg;
	struct rng r = rng_seed(seed);
	int32_t T = st->s.n_rows, idx_host[MAX_T * MOE_K];
	struct weight *g = kit_weight(&r, "gate", a->gate_up, MOE_D, MOE_F, MOE_E);
	struct weight *u = kit_weight(&r, "up", a->gate_up, MOE_D, MOE_F, MOE_E);
	struct weight *d = kit_weight(&r, "down", a->down, MOE_F, MOE_D, MOE_E);
	struct tensor x = input(k, T, MOE_D, 4, seed), y = kit_tensor(k, TENSOR_REAL, T, MOE_D);
	struct tensor idx = kit_tensor(k, TENSOR_I32, T, MOE_K), gate = input(k, T, MOE_K, 1, seed + 2);
	struct expert_args args = {.x = &x, .idx = &idx, .gate_weight = &gate, .gate = g, .up = u, .down = d,
				   .used = MOE_K, .limit = 3};

	for (int32_t t = 0; t < T; t++)
		for (int32_t i = 0; i < MOE_K; i++)
			idx_host[t * MOE_K + i] = a->same ? i * 2 : (t * 5 + i * (1 + t % 2)) % MOE_E;
	k->be->upload(k->be, idx.data, idx_host, (size_t)T * MOE_K * sizeof *idx_host);
	kit_load(k, g);
	kit_load(k, u);
	kit_load(k, d);
	RUN(k->be, experts, &st->s, &y, &args);
	take(k, &y, T, out);
	be_tensor_free(k->be, &x);
	be_tensor_free(k->be, &idx);
	be_tensor_free(k->be, &gate);
}

static void experts_agree_for_every_type_mix(void **state)
{
	static const struct moe_arg cases[] = {
		{.gate_up = DTYPE_F32, .down = DTYPE_F16}, {.gate_up = DTYPE_IQ2_XXS, .down = DTYPE_Q2_K},
		{.gate_up = DTYPE_Q4_K, .down = DTYPE_Q4_K, .same = 1}, {.gate_up = DTYPE_Q2_K, .down = DTYPE_IQ2_XXS},
		{.gate_up = DTYPE_Q8_0, .down = DTYPE_Q8_0}, {.gate_up = DTYPE_BF16, .down = DTYPE_F32, .same = 1},
	};

	(void)state;
	for (int i = 0; i < COUNT(cases); i++)
		compare("experts", dtype_info(cases[i].gate_up)->name, experts_case, &cases[i],
			is_float(cases[i].gate_up) ? 5e-6 : 2.5e-2);
}

static void shared_case(struct kit *k, struct kit_step *st, const void *arg, uint64_t seed, struct result *out)
{
	const struct moe_arg *a = arg;
	struct rng r = rng_seed(seed);
	int32_t T = st->s.n_rows;
	struct weight *g = kit_weight(&r, "gate", a->gate_up, MOE_D, MOE_F, 1);
	struct weight *u = kit_weight(&r, "up", a->gate_up, MOE_D, MOE_F, 1);
	struct weight *d = kit_weight(&r, "down", a->down, MOE_F, MOE_D, 1);
	struct tensor x = input(k, T, MOE_D, 4, seed), y = input(k, T, MOE_D, 1, seed + 3);
	struct tensor tg = kit_tensor(k, TENSOR_REAL, T, MOE_F), tu = kit_tensor(k, TENSOR_REAL, T, MOE_F);
	struct tensor tt = kit_tensor(k, TENSOR_REAL, T, MOE_D);
	struct shared_args args = {.gate = g, .up = u, .down = d, .g = &tg, .u = &tu, .t = &tt, .limit = 3};

	kit_load(k, g);
	kit_load(k, u);
	kit_load(k, d);
	RUN(k->be, shared_expert, &st->s, &y, &x, &args);
	take(k, &y, T, out);
	be_tensor_free(k->be, &x);
	be_tensor_free(k->be, &tg);
	be_tensor_free(k->be, &tu);
	be_tensor_free(k->be, &tt);
}

static void shared_expert_swiglu_and_add_agree(void **state)
{
	static const struct moe_arg cases[] = {{.gate_up = DTYPE_F32, .down = DTYPE_F32},
					       {.gate_up = DTYPE_Q8_0, .down = DTYPE_Q8_0}};

	(void)state;
	for (int i = 0; i < COUNT(cases); i++)
		compare("shared_expert", dtype_info(cases[i].gate_up)->name, shared_case, &cases[i],
			is_float(cases[i].gate_up) ? 5e-6 : 2.5e-2);
}

/* ------------------------------------------------------------------ row independence */

/* The first rows of a step of 33 are bit-equal to a step of fewer. */
static void independent(const char *what, op_case *fn, const void *arg)
{
	for (int b = -1; b < 0 || other_backend(b); b++) {
		const char *name = b < 0 ? "ref" : other_backend(b);

		for (int32_t T = 1; T < MAX_T; T += T < 9 ? 1 : 8) {
			struct result few = run_case(name, 1, fn, arg, T, 77), many = run_case(name, 2, fn, arg, MAX_T, 77);

			if (memcmp(few.v, many.v, few.n * sizeof(float)))
				fail_msg("%s on %s: the first %d rows change when there are %d", what, name, T, MAX_T);
			mem_free(few.v);
			mem_free(many.v);
		}
	}
}

static void a_row_has_the_same_bits_whatever_rows_are_beside_it(void **state)
{
	(void)state;
	for (int i = 0; i < COUNT(all_types); i++) {
		struct product_arg a = {.type = all_types[i], .in = 512, .out = 40};

		independent(dtype_info(a.type)->name, product_case, &a);
	}
	independent("experts", experts_case, &(struct moe_arg){.gate_up = DTYPE_IQ2_XXS, .down = DTYPE_Q2_K});
	independent("experts", experts_case, &(struct moe_arg){.gate_up = DTYPE_Q4_K, .down = DTYPE_Q4_K});
	independent("shared_expert", shared_case, &(struct moe_arg){.gate_up = DTYPE_Q8_0, .down = DTYPE_Q8_0});
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(matmul_agrees_for_every_type),
		cmocka_unit_test(matmul_agrees_for_widths_that_are_not_a_superblock),
		cmocka_unit_test(grouped_matmul_agrees_for_every_type),
		cmocka_unit_test(embed_agrees_for_every_type),
		cmocka_unit_test(rms_norm_agrees_whole_grouped_weighted_and_in_place),
		cmocka_unit_test(rope_agrees_forward_and_inverse),
		cmocka_unit_test(hyper_connections_agree),
		cmocka_unit_test(route_agrees_by_score_bias_and_hash_table),
		cmocka_unit_test(experts_agree_for_every_type_mix),
		cmocka_unit_test(shared_expert_swiglu_and_add_agree),
		cmocka_unit_test(a_row_has_the_same_bits_whatever_rows_are_beside_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
