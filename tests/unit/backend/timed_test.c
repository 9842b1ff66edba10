/* timed_test.c - the measuring backend: same bits, right counts.
 *
 * Expected bytes and operations are worked out by hand from shapes and block sizes; the numbers are in the comments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/timed.h"
#include "base/mem.h"
#include "support/kit.h"
#include "support/model_kit.h"

#define NANO "models/ds4-nano-q2.gguf"

static struct err err;

static void must(enum status st)
{
	if (st != OK)
		fail_msg("%s", err.msg);
}

static const struct timed_row *row_of(const struct backend *timed, const char *op)
{
	const struct timed_row *r, *found = NULL;
	int n;

	r = timed_rows(timed, &n);
	for (int i = 0; i < n; i++)
		if (!strcmp(r[i].op, op)) {
			if (found)
				fail_msg("expected one row of %s, found two", op);
			found = &r[i];
		}
	if (!found)
		fail_msg("expected a row of %s among %d, found none", op, n);
	return found;
}

static void costs(const struct timed_row *r, int calls, double weight_bytes, double history_bytes, double ops)
{
	if (r->calls != calls || r->weight_bytes != weight_bytes || r->history_bytes != history_bytes || r->ops != ops)
		fail_msg("%s: expected %d calls, %.0f + %.0f bytes, %.0f operations; found %lld, %.0f + %.0f, %.0f", r->op, calls,
			 weight_bytes, history_bytes, ops, (long long)r->calls, r->weight_bytes, r->history_bytes, r->ops);
	if (!(r->seconds > 0))
		fail_msg("%s: expected a time, found %g s", r->op, r->seconds);
}

/* Reads 100 tokens and decodes one; logits of both ends. */
static void read_tokens(struct model_kit *m, struct forward *f, float *logits)
{
	struct kv *kv = model_kit_timeline(m);
	int32_t token[101];

	for (int32_t i = 0; i < 101; i++)
		token[i] = (i * 977 + 13) % m->shape.vocab;
	must(forward_step(f, &(struct forward_part){.kv = kv, .token = token, .n = 40}, 1, NULL, NULL, &err));
	must(forward_step(f, &(struct forward_part){.kv = kv, .token = token + 40, .n = 59, .last_logits = true}, 1, logits,
			  NULL, &err));
	must(forward_step(f, &(struct forward_part){.kv = kv, .token = token + 99, .n = 1, .last_logits = true}, 1,
			  logits + m->shape.vocab, NULL, &err));
	kv_close(kv);
}

static void logits_have_the_same_bits_while_recording_and_while_not(void **state)
{
	struct model_kit m;
	struct backend *timed;
	struct forward *f;
	float *plain, *measured;
	size_t bytes;
	int n;

	(void)state;
	model_kit_open(&m, NANO, "cpu", 2, (struct be_numerics)BE_NUMERICS_MODEL, 64, 1);
	bytes = 2 * (size_t)m.shape.vocab * sizeof *plain;
	plain = mem_zero(bytes);
	measured = mem_zero(bytes);
	assert_true(plain && measured);
	must(timed_open(&timed, m.be, &err));
	must(forward_open(&f, timed, &m.shape, &m.weights, &m.layout, 64, 1, &err));
	read_tokens(&m, m.forward, plain);
	for (int on = 0; on <= 1; on++) {
		memset(measured, 0, bytes);
		timed_record(timed, on);
		read_tokens(&m, f, measured);
		for (size_t i = 0; i < bytes / sizeof *plain; i++)
			if (memcmp(&plain[i], &measured[i], sizeof *plain))
				fail_msg("recording %s, logit %zu: expected %.9g, found %.9g", on ? "on" : "off", i, (double)plain[i],
					 (double)measured[i]);
		timed_rows(timed, &n);
		if ((n > 0) != on)
			fail_msg("recording %s: found %d rows", on ? "on" : "off", n);
	}
	timed_reset(timed);
	timed_rows(timed, &n);
	assert_int_equal(n, 0);
	forward_close(f);
	be_close(timed);
	mem_free(plain);
	mem_free(measured);
	model_kit_close(&m);
}

static void a_decoded_token_attends_to_its_window_and_its_pooled_rows(void **state)
{
	struct model_kit m;
	struct backend *timed;
	struct forward *f;
	struct kv *kv;
	int32_t token[100];
	float *logits;

	(void)state;
	model_kit_open(&m, NANO, "cpu", 1, (struct be_numerics)BE_NUMERICS_MODEL, 64, 1);
	logits = mem_array((size_t)m.shape.vocab, sizeof *logits);
	assert_non_null(logits);
	must(timed_open(&timed, m.be, &err));
	must(forward_open(&f, timed, &m.shape, &m.weights, &m.layout, 64, 1, &err));
	kv = model_kit_timeline(&m);
	for (int32_t i = 0; i < 100; i++)
		token[i] = i;
	must(forward_step(f, &(struct forward_part){.kv = kv, .token = token, .n = 50}, 1, NULL, NULL, &err));
	must(forward_step(f, &(struct forward_part){.kv = kv, .token = token + 50, .n = 49}, 1, NULL, NULL, &err));
	timed_record(timed, true);
	must(forward_step(f, &(struct forward_part){.kv = kv, .token = token + 99, .n = 1, .last_logits = true}, 1, logits,
			  NULL, &err));
	/* Position 99 in 8 layers: 100 rows of the window each; 25 pooled rows in each of the 3 layers of ratio 4, none
	 * in those of ratio 128.  875 rows of 583 bytes; 8 heads of 512 channels, two multiply-adds a channel; 8 sinks
	 * of 4 bytes a layer. */
	costs(row_of(timed, "attend"), 8, 8 * 8 * 4, 875 * 583, 875.0 * 8 * 512 * 4);
	kv_close(kv);
	forward_close(f);
	be_close(timed);
	mem_free(logits);
	model_kit_close(&m);
}

/* A kit's backend with a recording wrapper. */
static struct backend *open_timed(struct kit *k)
{
	struct backend *timed;

	kit_open(k, "cpu", 1, 0, 0);
	must(timed_open(&timed, k->be, &err));
	timed_record(timed, true);
	return timed;
}

static void a_product_reads_its_matrix_once_whatever_the_rows(void **state)
{
	struct rng rng = rng_seed(1);
	struct kit k;
	struct backend *timed = open_timed(&k);
	struct weight *w = kit_weight(&rng, "w", DTYPE_Q8_0, 64, 24, 1);
	struct tensor x = kit_tensor(&k, TENSOR_REAL, 5, 64), y = kit_tensor(&k, TENSOR_REAL, 5, 24);
	char types[32];

	(void)state;
	kit_load(&k, w);
	RUN(timed, matmul, 5, &y, w, &x);
	RUN(timed, matmul, 1, &y, w, &x);
	/* 24 rows of two blocks of 34 bytes, twice; 64 * 24 multiply-adds for 6 rows. */
	costs(row_of(timed, "matmul"), 2, 2 * 24 * 68, 0, 2 * 64 * 24 * 6);
	assert_string_equal(timed_types(types, sizeof types, row_of(timed, "matmul")), "Q8_0");
	be_tensor_free(k.be, &x);
	be_tensor_free(k.be, &y);
	be_close(timed);
	kit_close(&k);
	kit_free_weights();
}

static void of_experts_only_the_chosen_ones_are_read(void **state)
{
	static const int32_t chosen[3][2] = {{4, 1}, {1, 7}, {4, 1}};
	static const float ones[6] = {1, 1, 1, 1, 1, 1};
	struct rng rng = rng_seed(2);
	struct kit k;
	struct backend *timed = open_timed(&k);
	struct weight *gate = kit_weight(&rng, "gate", DTYPE_IQ2_XXS, 256, 512, 9);
	struct weight *up = kit_weight(&rng, "up", DTYPE_IQ2_XXS, 256, 512, 9);
	struct weight *down = kit_weight(&rng, "down", DTYPE_Q2_K, 512, 256, 9);
	struct tensor x = kit_tensor(&k, TENSOR_REAL, 3, 256), y = kit_tensor(&k, TENSOR_REAL, 3, 256);
	struct tensor idx = kit_tensor(&k, TENSOR_I32, 3, 2), weight = kit_tensor(&k, TENSOR_REAL, 3, 2);
	struct expert_args a = {.x = &x, .idx = &idx, .gate_weight = &weight, .gate = gate, .up = up, .down = down, .used = 2,
				.limit = 10};
	static struct kit_step st;
	char types[32];

	(void)state;
	kit_load(&k, gate);
	kit_load(&k, up);
	kit_load(&k, down);
	k.be->upload(k.be, idx.data, chosen, sizeof chosen);
	be_write(k.be, &weight, 0, 3, ones);
	kit_step_begin(&st);
	kit_step_add(&st, &rng, NULL, 0, 3, 100);
	kit_step_end(&st, 0);
	RUN(timed, experts, &st.s, &y, &a);
	/* Experts 1, 4 and 7: gate and up are 512 rows of 66 bytes, down 256 rows of two times 84.  Six pairs of three
	 * products of 256 * 512 multiply-adds. */
	costs(row_of(timed, "experts"), 1, 3 * (2 * 512 * 66 + 256 * 2 * 84), 0, 2.0 * 6 * 3 * 256 * 512);
	assert_string_equal(timed_types(types, sizeof types, row_of(timed, "experts")), "IQ2_XXS+Q2_K");
	be_tensor_free(k.be, &x);
	be_tensor_free(k.be, &y);
	be_tensor_free(k.be, &idx);
	be_tensor_free(k.be, &weight);
	be_close(timed);
	kit_close(&k);
	kit_free_weights();
}

static void a_failure_of_the_inner_backend_comes_out_of_the_wrapper_once(void **state)
{
	struct kit k;
	struct backend *timed = open_timed(&k);
	struct err e = {.code = OK};

	(void)state;
	be_fail(k.be, ERR_DEVICE, "lamp %d is out", 3);
	assert_int_equal(be_submit(timed, &e), ERR_DEVICE);
	assert_string_equal(e.msg, "lamp 3 is out");
	assert_int_equal(be_submit(timed, &e), OK);
	be_close(timed);
	kit_close(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logits_have_the_same_bits_while_recording_and_while_not),
		cmocka_unit_test(a_decoded_token_attends_to_its_window_and_its_pooled_rows),
		cmocka_unit_test(a_product_reads_its_matrix_once_whatever_the_rows),
		cmocka_unit_test(of_experts_only_the_chosen_ones_are_read),
		cmocka_unit_test(a_failure_of_the_inner_backend_comes_out_of_the_wrapper_once),
	};

	return cmocka_run_group_tests_name("timed", tests, NULL, NULL);
}
