/* bpe_test.c - the merge table against its published digest, and long pieces against the obvious loop. */
#include <time.h>

#include "base/rng.h"
#include "common.h"
#include "tokenizer/bpe_int.h"

static struct vocab vocab;
static struct bpe bpe;
static uint64_t *sorted;	/* the occupied slots: left 20, right 20, rank 24 bits */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int setup(void **state)
{
	struct gguf *g = open_file(REAL);
	struct err err = {0};
	uint32_t n = 0;

	(void)state;
	if (vocab_init(&vocab, g, &err) != OK || bpe_init(&bpe, &vocab, g, &err) != OK) {
		fprintf(stderr, "%s\n", err.msg);
		return -1;
	}
	vocab_restore_added(&vocab, g);
	gguf_close(g);
	sorted = mem_array(bpe.n, sizeof *sorted);
	for (uint64_t i = 0; i <= bpe.slot_mask; i++)
		if (bpe.slot[i] != UINT64_MAX && n < bpe.n)
			sorted[n++] = bpe.slot[i];
	qsort(sorted, n, sizeof *sorted, compare);
	return n == bpe.n ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	mem_free(sorted);
	bpe_clear(&bpe);
	vocab_clear(&vocab);
	return 0;
}

/* Digest over (u32 left id, u32 right id) by rank: docs/tokenizer.md. */
static void merges_have_the_published_digest_and_results(void **state)
{
	uint32_t *pair = mem_array(bpe.n, 2 * sizeof *pair);
	struct sha256 s = sha256_start();
	char hex[65];

	(void)state;
	assert_int_equal(bpe.n, 127741);
	for (uint32_t i = 0; i < bpe.n; i++) {
		uint32_t rank = (uint32_t)(sorted[i] & 0xFFFFFF);

		assert_true(rank < bpe.n);
		pair[2 * rank] = (uint32_t)(sorted[i] >> 44);
		pair[2 * rank + 1] = (uint32_t)(sorted[i] >> 24 & 0xFFFFF);
		assert_int_equal(bpe.made[rank], 259 + rank);
	}
	sha256_add(&s, pair, bpe.n * 2 * sizeof *pair);
	sha256_hex(&s, hex);
	assert_string_equal(hex, "ce45cec04cf0ea9ce5cdfa7a7600dc915a982b0618861625e235a8dfbc815a87");
	mem_free(pair);
}

static void single_bytes_have_the_published_ids(void **state)
{
	(void)state;
	assert_int_equal(vocab.byte_id['!'], 3);
	assert_int_equal(vocab.byte_id[' '], 223);
	assert_int_equal(vocab.byte_id['\n'], 201);
	assert_int_equal(vocab.byte_id['\r'], 204);
	assert_int_equal(vocab.byte_id['\t'], 200);
	assert_int_equal(vocab.byte_id[0], 191);
	assert_int_equal(vocab.byte_id[0x7F], 224);
	assert_int_equal(vocab.byte_id[0xAD], 258);
}

static uint32_t slow_rank(int32_t left, int32_t right)
{
	uint64_t key = ((uint64_t)left << 20 | (uint64_t)right) << 24;
	uint32_t lo = 0, hi = bpe.n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (sorted[mid] >= key)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo < bpe.n && sorted[lo] >> 24 == key >> 24 ? (uint32_t)(sorted[lo] & 0xFFFFFF) : UINT32_MAX;
}

/* The definition: find the best pair of all, join it, look again. */
static void merge_slowly(const char *p, size_t n, struct token_list *out)
{
	for (size_t i = 0; i < n; i++)
		token_push(out, vocab.byte_id[(unsigned char)p[i]]);
	for (;;) {
		uint32_t best = UINT32_MAX;
		size_t at = 0;

		for (size_t i = 0; i + 1 < out->n; i++) {
			uint32_t rank = slow_rank(out->id[i], out->id[i + 1]);

			if (rank < best) {
				best = rank;
				at = i;
			}
		}
		if (best == UINT32_MAX)
			return;
		out->id[at] = 259 + (int32_t)best;
		memmove(out->id + at + 1, out->id + at + 2, (out->n - at - 2) * sizeof *out->id);
		out->n--;
	}
}

static void short_and_long_pieces_merge_as_the_obvious_loop(void **state)
{
	static const char *const letters[] = {"ab", "etaoin", " ", "\xE3\x81\xAE", "=-.", "abcdefghijklmnopqrstuvwxyz", "\n "};
	struct rng r = rng_seed(5);
	char p[220];

	(void)state;
	for (int round = 0; round < 400; round++) {
		const char *set = letters[rng_below(&r, sizeof letters / sizeof *letters)];
		size_t n = 1 + rng_below(&r, round % 2 ? 60 : sizeof p);
		struct token_list want = {0}, have = {0};

		for (size_t i = 0; i < n; i++)
			p[i] = set[rng_below(&r, strlen(set))];
		merge_slowly(p, n, &want);
		bpe_encode(&bpe, &vocab, p, n, &have);
		p[n - 1] = 0;
		if (!same_ids(p, &want, &have))
			fail();
		token_list_clear(&want);
		token_list_clear(&have);
	}
}

static void words_of_the_vocabulary_merge_as_the_obvious_loop(void **state)
{
	(void)state;
	for (int32_t id = 300; id < 128000; id += 37) {
		const char *p = vocab.arena + vocab.token[id].at;
		struct token_list want = {0}, have = {0};

		merge_slowly(p, vocab.token[id].n, &want);
		bpe_encode(&bpe, &vocab, p, vocab.token[id].n, &have);
		if (!same_ids("word", &want, &have))
			fail();
		token_list_clear(&want);
		token_list_clear(&have);
	}
}

static void a_megabyte_of_one_character_does_not_take_quadratic_time(void **state)
{
	struct tokenizer *t = open_tokenizer(REAL);
	static const char *const unit[] = {"a", " ", "\xE4\xB8\x96", "\xFF"};
	const size_t n = 1 << 20;
	char *p = mem_alloc(n + 8);

	(void)state;
	for (size_t k = 0; k < sizeof unit / sizeof *unit; k++) {
		size_t step = strlen(unit[k]), used = n / step * step;
		struct token_list l = {0};
		clock_t before;
		double took;

		for (size_t i = 0; i < used; i += step)
			memcpy(p + i, unit[k], step);
		before = clock();
		token_encode_text(t, p, used, &l);
		took = (double)(clock() - before) / CLOCKS_PER_SEC;
		assert_false(l.failed);
		assert_true(l.n >= used / 128 && l.n <= used);
		if (took >= 3 * SLOWER)		/* 0.1 to 0.3 s on an idle core; quadratic time would be hours */
			fail_msg("\"%s\": expected less than %d s, took %.3f s", unit[k], 3 * SLOWER, took);
		token_list_clear(&l);
	}
	mem_free(p);
	tokenizer_close(t);
}

static void a_long_piece_without_memory_fails_and_leaves_the_list(void **state)
{
	char p[200];

	(void)state;
	memset(p, 'x', sizeof p);
	for (long at = 1; at <= 2; at++) {
		struct token_list l = {0};

		token_push(&l, 1);
		mem_fail_at(at);
		bpe_encode(&bpe, &vocab, p, sizeof p, &l);
		mem_fail_at(0);
		assert_true(l.failed);
		assert_int_equal(l.n, 1);
		token_push(&l, 2);	/* sticky */
		assert_int_equal(l.n, 1);
		token_list_clear(&l);
		assert_false(l.failed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merges_have_the_published_digest_and_results),
		cmocka_unit_test(single_bytes_have_the_published_ids),
		cmocka_unit_test(short_and_long_pieces_merge_as_the_obvious_loop),
		cmocka_unit_test(words_of_the_vocabulary_merge_as_the_obvious_loop),
		cmocka_unit_test(a_megabyte_of_one_character_does_not_take_quadratic_time),
		cmocka_unit_test(a_long_piece_without_memory_fails_and_leaves_the_list),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
