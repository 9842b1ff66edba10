/* invariants_test.c - what must hold bit for bit on ref and cpu, whatever the values are.
 *
 *   - any chunking of a prompt gives the same logits, with 1, 2, 3 and 7 threads;
 *   - rows of several timelines in one step give each timeline what it gets alone, prefill and decode mixed;
 *   - rewind and replay equals never having gone there;
 *   - a fork goes on as the original would, and neither disturbs the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "support/golden.h"
#include "support/model_kit.h"

static const struct be_numerics packed = BE_NUMERICS_MODEL;

enum { MAX = 320, MAX_ROWS = 160 };

/* n tokens of a vocabulary, from a seed. */
static void tokens(int32_t *out, int32_t n, int32_t vocab, uint64_t seed)
{
	struct rng r = rng_seed(seed);

	for (int32_t i = 0; i < n; i++)
		out[i] = (int32_t)rng_below(&r, (uint64_t)vocab);
}

struct bench {
	struct model_kit m;
	const char *backend;
	int model;
};

/* Fresh model on a backend. */
static struct bench *bench_open(const char *backend, int model, int threads)
{
	struct bench *b = calloc(1, sizeof *b);

	assert_non_null(b);
	b->backend = backend;
	b->model = model;
	model_kit_open(&b->m, golden_tiny_path(model), backend, threads, packed, MAX_ROWS, MAX_ROWS);
	return b;
}

static void bench_close(struct bench *b)
{
	model_kit_close(&b->m);
	free(b);
}

/* Logits after reading n tokens on a new timeline in steps of `chunk`; the caller frees. */
static float *last_logits(struct bench *b, const int32_t *token, int32_t n, int32_t chunk)
{
	int32_t pos = n - 1;
	float *out = mem_array((size_t)b->m.shape.vocab, sizeof *out);
	struct kv *kv = model_kit_timeline(&b->m);

	assert_non_null(out);
	model_kit_read(&b->m, kv, token, n, chunk, &pos, 1, out);
	kv_close(kv);
	return out;
}

static void expect_same(const struct bench *b, const float *got, const float *want, const char *what, int32_t n)
{
	if (memcmp(got, want, (size_t)b->m.shape.vocab * sizeof *got))
		fail_msg("%s, tiny-%d: %s (%d): logits differ by %.3g of their spread", b->backend, b->model, what, n,
			 logits_distance(got, want, b->m.shape.vocab));
}

static void any_chunking_and_thread_count_gives_the_same_bits(void **state)
{
	static const int32_t chunks[] = {1, 7, 64, 128, 160};
	static const int threads[] = {1, 2, 3, 7};
	int32_t t[MAX];

	(void)state;
	for (int i = 0; be_name(i); i++) {
		struct bench *b = bench_open(be_name(i), 1, 1);
		bool slow = !strcmp(be_name(i), "ref");
		int32_t n = slow ? 135 : 300;
		float *want;

		tokens(t, n, b->m.shape.vocab, 7);
		want = last_logits(b, t, n, 37);
		for (size_t c = slow ? 1 : 0; c < sizeof chunks / sizeof *chunks; c++) {
			float *got = last_logits(b, t, n, chunks[c]);

			expect_same(b, got, want, "chunk", chunks[c]);
			mem_free(got);
		}
		for (size_t c = 0; c < sizeof threads / sizeof *threads; c++) {
			struct bench *other = bench_open(be_name(i), 1, threads[c]);
			float *got = last_logits(other, t, n, 150);

			expect_same(other, got, want, "threads", threads[c]);
			mem_free(got);
			bench_close(other);
		}
		mem_free(want);
		bench_close(b);
	}
}

/* Four timelines read their own tokens in steps that mix prefill pieces and single tokens. */
static void a_batch_gives_every_timeline_what_it_gets_alone(void **state)
{
	enum { LINES = 4 };
	static const int32_t lengths[LINES] = {150, 131, 90, 40};

	(void)state;
	for (int i = 0; be_name(i); i++) {
		struct bench *b = bench_open(be_name(i), 2, 2);
		size_t vocab = (size_t)b->m.shape.vocab;
		float *logits = mem_array(LINES * vocab, sizeof *logits), *last = mem_array(LINES * vocab, sizeof *last);
		int32_t t[LINES][MAX];
		struct kv *kv[LINES];
		struct rng r = rng_seed(5);
		struct err err = {0};

		for (int l = 0; l < LINES; l++) {
			tokens(t[l], lengths[l], b->m.shape.vocab, 100 + (uint64_t)l);
			kv[l] = model_kit_timeline(&b->m);
		}
		for (;;) {
			struct forward_part part[LINES];
			int who[LINES], n = 0;

			for (int l = 0; l < LINES; l++) {
				int32_t left = lengths[l] - kv[l]->len, k = rng_below(&r, 2) ? 1 : 1 + (int32_t)rng_below(&r, 39);

				if (!left || rng_below(&r, 4) == 0)
					continue;
				k = k < left ? k : left;
				part[n] = (struct forward_part){kv[l], t[l] + kv[l]->len, k, false, true};
				who[n++] = l;
			}
			if (!n) {
				bool done = true;

				for (int l = 0; l < LINES; l++)
					done &= kv[l]->len == lengths[l];
				if (done)
					break;
				continue;
			}
			if (forward_step(b->m.forward, part, n, logits, NULL, &err) != OK)
				fail_msg("%s", err.msg);
			for (int j = 0; j < n; j++)
				memcpy(last + (size_t)who[j] * vocab, logits + (size_t)j * vocab, vocab * sizeof *last);
		}
		for (int l = 0; l < LINES; l++) {
			float *alone = last_logits(b, t[l], lengths[l], 64);

			expect_same(b, last + (size_t)l * vocab, alone, "timeline of a batch", l);
			mem_free(alone);
			kv_close(kv[l]);
		}
		mem_free(logits);
		mem_free(last);
		bench_close(b);
	}
}

static void rewind_and_replay_equals_never_having_gone_there(void **state)
{
	(void)state;
	for (int i = 0; be_name(i); i++) {
		struct bench *b = bench_open(be_name(i), 1, 2);
		int32_t n = !strcmp(be_name(i), "ref") ? 150 : 280, t[MAX], other[MAX], at;
		float *want, *got = mem_array((size_t)b->m.shape.vocab, sizeof *got);
		struct kv *kv = model_kit_timeline(&b->m);

		tokens(t, n, b->m.shape.vocab, 1);
		tokens(other, n, b->m.shape.vocab, 2);
		model_kit_read(&b->m, kv, t, 128, 128, NULL, 0, NULL);
		kv_checkpoint(kv);
		model_kit_read(&b->m, kv, other + 128, n - 128, 60, NULL, 0, NULL);	/* the wrong way */
		at = kv_rewind(kv, n - 1);
		assert_int_equal(at, 128);
		model_kit_read(&b->m, kv, t + 128, n - 128, 50, &(int32_t){n - 1}, 1, got);
		want = last_logits(b, t, n, 77);
		expect_same(b, got, want, "rewind to", at);
		assert_int_equal(kv_rewind(kv, 100), 0);	/* no checkpoint so early: back to the start */
		model_kit_read(&b->m, kv, t, n, 90, &(int32_t){n - 1}, 1, got);
		expect_same(b, got, want, "rewind to", 0);
		kv_close(kv);
		mem_free(want);
		mem_free(got);
		bench_close(b);
	}
}

static void a_fork_and_its_original_go_on_independently(void **state)
{
	static const int32_t forks[] = {128, 133, 1, 127, 256};

	(void)state;
	for (int i = 0; be_name(i); i++) {
		struct bench *b = bench_open(be_name(i), 2, 2);
		float *got = mem_array((size_t)b->m.shape.vocab, sizeof *got);
		bool slow = !strcmp(be_name(i), "ref");
		int32_t t[MAX], u[MAX], n = slow ? 140 : 270;
		size_t n_forks = slow ? 2 : sizeof forks / sizeof *forks;
		struct err err = {0};

		for (size_t f = 0; f < n_forks; f++) {
			struct kv *kv = model_kit_timeline(&b->m), *two;
			float *want;

			tokens(t, n, b->m.shape.vocab, 1);
			memcpy(u, t, sizeof t);
			tokens(u + forks[f], n - forks[f], b->m.shape.vocab, 99);
			model_kit_read(&b->m, kv, t, forks[f], 128, NULL, 0, NULL);
			if (kv_fork(&two, kv, &err) != OK)
				fail_msg("%s", err.msg);
			model_kit_read(&b->m, two, u + forks[f], n - forks[f], 20, &(int32_t){n - 1}, 1, got);
			want = last_logits(b, u, n, 128);
			expect_same(b, got, want, "fork at", forks[f]);
			mem_free(want);
			kv_close(two);
			model_kit_read(&b->m, kv, t + forks[f], n - forks[f], 30, &(int32_t){n - 1}, 1, got);
			want = last_logits(b, t, n, 128);
			expect_same(b, got, want, "original after a fork at", forks[f]);
			mem_free(want);
			kv_close(kv);
		}
		mem_free(got);
		bench_close(b);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_chunking_and_thread_count_gives_the_same_bits),
		cmocka_unit_test(a_batch_gives_every_timeline_what_it_gets_alone),
		cmocka_unit_test(rewind_and_replay_equals_never_having_gone_there),
		cmocka_unit_test(a_fork_and_its_original_go_on_independently),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
