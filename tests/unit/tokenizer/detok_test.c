/* detok_test.c - streaming: what may be released after each token, from recorded streams and at every cut. */
#include "base/rng.h"
#include "base/utf8.h"
#include "common.h"

static struct tokenizer *real;

static int setup(void **state)
{
	(void)state;
	real = open_tokenizer(REAL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tokenizer_close(real);
	return 0;
}

static void expect_text(int line, const char *what, size_t at, const json_t *want, const struct buf *have)
{
	size_t n = json_string_length(want);

	if (n != have->len || memcmp(json_string_value(want), buf_cstr(have), n))
		fail_msg("line %d, %s %zu: expected \"%s\", found \"%s\"", line, what, at, json_string_value(want),
			 buf_cstr(have));
}

static void one_stream(void *ctx, int line, const json_t *o)
{
	struct token_list ids = ids_of(json_object_get(o, "ids"));
	const json_t *pieces = json_object_get(o, "pieces_hex"), *deltas = json_object_get(o, "deltas");
	struct buf delta = BUF_CAP(1 << 16), all = BUF_CAP(1 << 16), piece = BUF_CAP(1 << 16);
	struct detok d = {0};

	(void)ctx;
	assert_true(ids.n && ids.n == json_array_size(pieces));
	for (size_t i = 0; i < ids.n; i++) {
		size_t n;
		const char *p = token_bytes(real, ids.id[i], &n);

		buf_cut(&piece, 0);
		add_hex(&piece, json_string_value(json_array_get(pieces, i)));
		if (n != piece.len || memcmp(p, piece.data, n))
			fail_msg("line %d: token %d: expected \"%s\", found \"%.*s\"", line, ids.id[i], piece.data, (int)n, p);
		buf_cut(&delta, 0);
		detok_push(&d, p, n, &delta);
		if (deltas)
			expect_text(line, "delta", i, json_array_get(deltas, i), &delta);
		buf_add(&all, delta.data, delta.len);
	}
	buf_cut(&delta, 0);
	detok_finish(&d, &delta);
	if (json_object_get(o, "final_tail"))
		expect_text(line, "tail", 0, json_object_get(o, "final_tail"), &delta);
	buf_add(&all, delta.data, delta.len);
	expect_text(line, "text", 0, json_object_get(o, "text"), &all);
	buf_clear(&delta);
	buf_clear(&all);
	buf_clear(&piece);
	token_list_clear(&ids);
}

static void recorded_streams_release_the_recorded_deltas(void **state)
{
	(void)state;
	assert_int_equal(each_line(DATA "detok_cases.jsonl", one_stream, NULL), 15);
}

/* Bytes that make interesting sequences likely. */
static size_t random_bytes(struct rng *r, char *p, size_t room)
{
	static const unsigned char some[] = {
		'a', ' ', 0, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xDF, 0xE0, 0xE4, 0xED, 0xEF,
		0xF0, 0xF1, 0xF4, 0xF5, 0xFF,
	};
	size_t n = rng_below(r, room);

	for (size_t i = 0; i < n; i++)
		p[i] = (char)some[rng_below(r, sizeof some)];
	return n;
}

static void deltas_join_to_the_lossy_text_however_the_bytes_are_cut(void **state)
{
	struct rng r = rng_seed(7);
	struct buf want = BUF_CAP(1 << 16), have = BUF_CAP(1 << 16);
	char p[24];

	(void)state;
	for (int round = 0; round < 50000; round++) {
		size_t n = random_bytes(&r, p, sizeof p), at = 0;
		struct detok d = {0};

		buf_cut(&want, 0);
		buf_cut(&have, 0);
		utf8_add_lossy(&want, p, n);
		while (at < n) {
			size_t k = 1 + rng_below(&r, n - at < 5 ? n - at : 5);

			detok_push(&d, p + at, k, &have);
			at += k;
			/* Held: at most three bytes, and only such as more bytes could complete. */
			assert_true(d.n_held <= 3 && d.n_held <= at);
			assert_int_equal(d.n_held, at - utf8_whole(p, at));
		}
		detok_finish(&d, &have);
		assert_int_equal(d.n_held, 0);
		if (want.len != have.len || memcmp(buf_cstr(&want), buf_cstr(&have), want.len))
			fail_msg("round %d: expected \"%s\", found \"%s\"", round, buf_cstr(&want), buf_cstr(&have));
	}
	buf_clear(&want);
	buf_clear(&have);
}

static void an_impossible_second_byte_is_not_held(void **state)
{
	struct buf out = BUF_CAP(64);
	struct detok d = {0};

	(void)state;
	detok_push(&d, "\xE0", 1, &out);
	assert_int_equal(out.len, 0);
	detok_push(&d, "\x80", 1, &out);	/* E0 needs A0..BF */
	assert_string_equal(buf_cstr(&out), "\xEF\xBF\xBD\xEF\xBF\xBD");
	buf_cut(&out, 0);
	detok_push(&d, "\xF5", 1, &out);	/* never begins a character */
	assert_string_equal(buf_cstr(&out), "\xEF\xBF\xBD");
	buf_clear(&out);
}

static void an_unfinished_character_becomes_one_replacement_at_the_end(void **state)
{
	struct buf out = BUF_CAP(64);
	struct detok d = {0};

	(void)state;
	detok_push(&d, "ok\xF0\x9F\x98", 5, &out);
	assert_string_equal(buf_cstr(&out), "ok");
	detok_finish(&d, &out);
	assert_string_equal(buf_cstr(&out), "ok\xEF\xBF\xBD");
	detok_finish(&d, &out);
	assert_string_equal(buf_cstr(&out), "ok\xEF\xBF\xBD");
	buf_clear(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(recorded_streams_release_the_recorded_deltas),
		cmocka_unit_test(deltas_join_to_the_lossy_text_however_the_bytes_are_cut),
		cmocka_unit_test(an_impossible_second_byte_is_not_held),
		cmocka_unit_test(an_unfinished_character_becomes_one_replacement_at_the_end),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
