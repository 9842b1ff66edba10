/* model_test.c - whole models through the Metal backend on the simulator (fast mode), against ref; and how it fails.
 *
 * The kernels compute in float32 from the same blocks as ref (float64), so what differs is rounding: where a pooled or
 * packed value falls on the other side of an E4M3 or E2M1 rounding, logits move by about a thousandth of their spread in a trained
 * model, by more in a random one, whose experts are near ties.
 * DISTANCE bounds rms(a - b) / std(b) of the logits, KL the divergence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "metalsim/host/sim_host.h"
#include "metalsim/rt/sim.h"
#include "support/golden.h"
#include "support/model_kit.h"

#define DISTANCE 2e-2
#define KL 1e-3

enum { LINES = 3, MAX = 40 };

static const struct be_numerics packed = BE_NUMERICS_MODEL;

static void tokens(int32_t *out, int32_t n, int32_t vocab, uint64_t seed)
{
	struct rng r = rng_seed(seed);

	for (int32_t i = 0; i < n; i++)
		out[i] = (int32_t)rng_below(&r, (uint64_t)vocab);
}

static void expect_close(const char *what, const float *got, const float *want, int32_t n, int32_t vocab)
{
	double worst = 0, worst_kl = 0;

	for (int32_t i = 0; i < n; i++) {
		const float *a = got + (size_t)i * (size_t)vocab, *b = want + (size_t)i * (size_t)vocab;
		double e = logits_distance(a, b, vocab), kl = logits_kl(a, b, vocab);

		worst = e > worst ? e : worst;
		worst_kl = kl > worst_kl ? kl : worst_kl;
		if (!(e <= DISTANCE && kl <= KL))
			fail_msg("%s, logits %d: distance %.3g (allowed %.3g), KL %.3g (allowed %.3g)", what, i, e, DISTANCE, kl, KL);
	}
	print_message("%s: distance at most %.2e, KL at most %.2e\n", what, worst, worst_kl);
	if (sim.reports || sim_host.misuse)
		fail_msg("%s: %llu reports of the simulator", what, (unsigned long long)sim.reports);
}

static struct golden load(const char *kind, int length, const char *type)
{
	char name[64];

	snprintf(name, sizeof name, "nano/%s_%d.%s", kind, length, type);
	return golden_load(name);
}

/* At a checkpoint behind 128 tokens: the way on gives the same bits again after a wrong way and after a step that the GPU gave
 * up.  want: the logits behind token[n - 1]. */
static void go_back_and_again(struct model_kit *m, struct kv *kv, const int32_t *token, int32_t n, const float *want)
{
	float *again = mem_array((size_t)m->shape.vocab, sizeof *again);
	struct err err = {0};

	assert_non_null(again);
	assert_int_equal(kv_rewind(kv, n - 1), 128);
	model_kit_read(m, kv, token + 3, 3, 3, NULL, 0, NULL);
	assert_int_equal(kv_rewind(kv, n - 1), 128);
	sim_host.fail_after = 1;
	assert_int_equal(forward_step(m->forward, &(struct forward_part){kv, token + 128, 1, false, true}, 1, again, NULL, &err),
			 ERR_DEVICE);
	if (!strstr(err.msg, "the GPU gave this step up"))
		fail_msg("the message is \"%s\"", err.msg);
	assert_int_equal(kv->len, 128);
	kv_rewind(kv, 128);
	model_kit_read(m, kv, token + 128, n - 128, 1, &(int32_t){n - 1}, 1, again);
	assert_memory_equal(again, want, (size_t)m->shape.vocab * sizeof *want);
	mem_free(again);
}

/* The shipped model against the numpy reference: all but the last two tokens in steps of 66 (matrix class), those one by one. */
static void nano(int length)
{
	struct golden t = load("tokens", length, "i32"), pos = load("pos", length, "i32"), want = load("packed", length, "f32");
	int32_t n = (int32_t)t.count, n_pos = (int32_t)pos.count, most = n > 2 ? n - 2 : n, vocab, early = 0;
	struct sim_host before;
	struct model_kit m;
	char what[40];
	struct kv *kv;
	float *got;

	model_kit_open(&m, "models/ds4-nano-q2.gguf", "metal", 0, packed, 66, 1);
	vocab = m.shape.vocab;
	got = mem_array(want.count, sizeof *got);
	assert_non_null(got);
	while (early < n_pos && pos.i32[early] < most)
		early++;
	kv = model_kit_timeline(&m);
	model_kit_read(&m, kv, t.i32, most, 66, pos.i32, early, got);
	kv_checkpoint(kv);
	before = sim_host;
	if (most < n)
		model_kit_read(&m, kv, t.i32 + most, n - most, 1, pos.i32 + early, n_pos - early, got + (size_t)early * (size_t)vocab);
	if (most < n) {
		assert_int_equal(sim_host.command_buffers - before.command_buffers, n - most);	/* one for each step */
		print_message("a decode step behind %d tokens: %llu dispatches, %llu barriers\n", most,
			      (unsigned long long)(sim_host.dispatches - before.dispatches) / 2,
			      (unsigned long long)(sim_host.barriers - before.barriers) / 2);
	}
	if (most == 128)
		go_back_and_again(&m, kv, t.i32, n, got + (size_t)(n_pos - 1) * (size_t)vocab);
	kv_close(kv);
	model_kit_close(&m);
	snprintf(what, sizeof what, "nano, %d tokens", length);
	expect_close(what, got, want.f32, n_pos, vocab);
	mem_free(got);
	golden_free(&t);
	golden_free(&pos);
	golden_free(&want);
}

static void nano_agrees_with_the_numpy_reference_and_survives_rewinds_and_failures(void **state)
{
	const char *longest = getenv("METALSIM_TOKENS");	/* 700 and 2500 are there too, and slow */

	(void)state;
	nano(1);
	nano(5);
	nano(130);
	for (int n = 700; longest && n <= atoi(longest); n += 1800)
		nano(n);
}

/* Timelines that read their own tokens in shared steps: some matrix class, some vector class. */
static float *batch(const char *backend, int32_t *vocab)
{
	static const int32_t sizes[][LINES] = {{12, 1, 9}, {1, 10, 1}, {1, 1, 1}, {3, 2, 0}};
	int32_t t[LINES][MAX];
	struct model_kit m;
	struct kv *kv[LINES];
	struct err err = {0};
	float *out;

	model_kit_open(&m, golden_tiny_path(2), backend, 0, packed, 64, LINES);
	*vocab = m.shape.vocab;
	out = mem_array(4 * LINES * (size_t)*vocab, sizeof *out);
	assert_non_null(out);
	for (int l = 0; l < LINES; l++) {
		tokens(t[l], MAX, *vocab, 50 + (uint64_t)l);
		kv[l] = model_kit_timeline(&m);
	}
	for (int s = 0; s < 4; s++) {
		struct forward_part part[LINES];
		int n = 0;

		for (int l = 0; l < LINES; l++)
			if (sizes[s][l])
				part[n++] = (struct forward_part){kv[l], t[l] + kv[l]->len, sizes[s][l], false, true};
		if (forward_step(m.forward, part, n, out + (size_t)s * LINES * (size_t)*vocab, NULL, &err) != OK)
			fail_msg("%s", err.msg);
	}
	for (int l = 0; l < LINES; l++)
		kv_close(kv[l]);
	model_kit_close(&m);
	return out;
}

static void a_batch_of_timelines_agrees_with_ref(void **state)
{
	int32_t vocab;
	float *want = batch("ref", &vocab), *got = batch("metal", &vocab);

	(void)state;
	expect_close("tiny-2, batch", got, want, 11, vocab);
	mem_free(want);
	mem_free(got);
}

/* ------------------------------------------------------------------ refusals */

static void expect_refusal(enum status code, const char *words)
{
	struct be_options opt = {.numerics = BE_NUMERICS_MODEL};
	struct backend *be = NULL;
	struct err err = {0};
	enum status st = be_open(&be, "metal", &opt, &err);

	if (st != code || be || !strstr(err.msg, words))
		fail_msg("be_open: %s \"%s\", expected %s with \"%s\"", status_name(st), err.msg, status_name(code), words);
}

static void machines_that_will_not_do_are_refused_with_a_sentence(void **state)
{
	struct be_options wide = {.numerics = {true, true, false}};
	struct backend *be = NULL;
	struct err err = {0};

	(void)state;
	sim_host.no_device = 1;
	expect_refusal(ERR_DEVICE, "no Metal device");
	sim_host.no_device = 0;
	sim_host.not_unified = 1;
	expect_refusal(ERR_DEVICE, "Apple silicon");
	sim_host.not_unified = 0;
	sim_host.max_threads = 128;
	expect_refusal(ERR_DEVICE, "at most 128 threads");
	sim_host.max_threads = 0;
	setenv("METALSIM_CC", "tests/metalsim/broken_compiler.sh", 1);
	setenv("METALSIM_MODE", "none", 1);
	expect_refusal(ERR_DEVICE, "the shaders do not compile");
	unsetenv("METALSIM_CC");
	setenv("METALSIM_MODE", "fast", 1);
	assert_int_equal(be_open(&be, "metal", &wide, &err), ERR_ARGUMENT);
}

static void a_model_larger_than_the_gpu_may_hold_is_refused_with_numbers(void **state)
{
	struct be_options opt = {.numerics = BE_NUMERICS_MODEL};
	struct weights weights;
	struct backend *be;
	struct err err = {0};
	struct shape shape;
	struct gguf *g;

	(void)state;
	sim_host.working_set = 4 << 20;
	assert_int_equal(be_open(&be, "metal", &opt, &err), OK);
	assert_int_equal(gguf_open(&g, golden_tiny_path(1), &err), OK);
	assert_int_equal(shape_read(&shape, g, &err), OK);
	assert_int_equal(weights_bind(&weights, g, &shape, be, &err), ERR_MEMORY);
	if (!strstr(err.msg, "the weights do not fit"))
		fail_msg("the message is \"%s\"", err.msg);
	assert_null(be->alloc(be, 8 << 20));
	weights_clear(&weights);
	gguf_close(g);
	be_close(be);
	sim_host.working_set = 0;
}

static int set_up(void **state)
{
	(void)state;
	setenv("METALSIM_MODE", "fast", 0);
	unsetenv("DS4_METAL_VECTOR_ROWS");	/* both classes of kernels, as users have them */
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(nano_agrees_with_the_numpy_reference_and_survives_rewinds_and_failures),
		cmocka_unit_test(a_batch_of_timelines_agrees_with_ref),
		cmocka_unit_test(machines_that_will_not_do_are_refused_with_a_sentence),
		cmocka_unit_test(a_model_larger_than_the_gpu_may_hold_is_refused_with_numbers),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
