/* pretok_test.c - where pieces end: the traps that docs/tokenizer.md lists, each as text and its pieces. */
#include "base/rng.h"
#include "common.h"
#include "tokenizer/pretok.h"

/* Expects text[0..n) to fall into exactly the pieces given, which joined are the text. */
static void expect(const char *const *piece, size_t n_pieces)
{
	struct buf text = BUF_CAP(1 << 16);
	size_t at = 0;

	for (size_t i = 0; i < n_pieces; i++)
		buf_str(&text, piece[i]);
	for (size_t i = 0; i < n_pieces; i++) {
		bool ill_formed = false;
		size_t k = pretok_piece(text.data + at, text.len - at, &ill_formed);

		assert_false(ill_formed);
		if (k != strlen(piece[i]))
			fail_msg("\"%s\", piece %zu: expected \"%s\", found \"%.*s\"", text.data, i, piece[i], (int)k,
				 text.data + at);
		at += k;
	}
	assert_int_equal(at, text.len);
	buf_clear(&text);
}

#define EXPECT(...)                                                              \
	do {                                                                     \
		static const char *const pieces[] = {__VA_ARGS__};               \
		expect(pieces, sizeof pieces / sizeof *pieces);                  \
	} while (0)

static void words_take_the_blank_before_them(void **state)
{
	(void)state;
	EXPECT("Hello", ",", " world", "!");
	EXPECT("a", "  ", " b");
	EXPECT(" ", "\ta");
	EXPECT("a", "\xC2\xA0" "b");				/* no-break space */
	EXPECT("na\xC3\xAFve", " e\xCC\x81t\xC3\xA9");		/* marks are letters */
}

static void blanks_before_a_number_or_cjk_stay_in_one_piece(void **state)
{
	(void)state;
	EXPECT("a", "   ", "1");
	EXPECT("a", "   ", "\xE4\xB8\x96");			/* 世 */
	EXPECT("a", "   ");
	EXPECT("a", " ", "1");
}

static void numbers_come_in_threes_from_the_left(void **state)
{
	(void)state;
	EXPECT("123", "456", "7");
	EXPECT("x", "12", ".", "345", "6", "y");
	EXPECT("\xC2\xBD\xE2\x85\xA3\xE2\x91\xA0", "\xEF\xBC\x91");		/* ½Ⅳ① １ */
	EXPECT("\xD9\xA1\xD9\xA2\xD9\xA3", "\xD9\xA4");			/* Arabic-Indic digits */
}

static void punctuation_joins_ascii_letters_or_stands_with_line_breaks(void **state)
{
	(void)state;
	EXPECT("I", "'ll", " go");
	EXPECT("foo", "_bar", ".com");
	EXPECT("l", "'", "\xC3\xA9t\xC3\xA9");			/* rule 1 wants ASCII letters ... */
	EXPECT("x", ".na", "\xC3\xAFve");			/* ... and takes no others */
	EXPECT("x", ".\xC2\xBB\n\n", "y");			/* .» and line breaks */
	EXPECT("x", " ...", "y");
	EXPECT("x", " ", " ...");
	EXPECT("x", "\t", "...");				/* only U+0020 joins punctuation */
	EXPECT("x", "!?", "y");
	EXPECT("x", " !?", "y");
	EXPECT("x", " ?\r\n", " y");
	EXPECT("\xE2\x82\xAC", "5");	/* € is a symbol */
}

static void cjk_stretches_are_cut_off_and_cut_inside(void **state)
{
	(void)state;
	EXPECT("\xE3\x82\xAB", "\xE3\x83\xBB", "\xE3\x82\xBF");			/* カ・タ */
	EXPECT("abc", "\xE4\xB8\x96\xE7\x95\x8C", "def");			/* 世界 */
	EXPECT("\xE4\xB8\x96", "\xE3\x80\x82\n");				/* 。\n outside the range */
	EXPECT("\xE3\x80\x85", "\xE4\xB8\x96");					/* 々 is a plain letter */
	EXPECT("\xE3\x90\x80" "a", "\xE4\xB8\x96");				/* extension A likewise */
	EXPECT("\xEF\xBD\xB6" "a");						/* half-width katakana likewise */
}

static void white_space_ends_after_its_last_line_break(void **state)
{
	(void)state;
	EXPECT("a", " \n \r\n", "  ", " b");
	EXPECT("a", "\n\n", "b");
	EXPECT("a", "\n", "\tb");
	EXPECT("\xC2\x85", "\xE2\x80\xA8" "a");					/* NEL, U+2028: blanks, not line breaks */
}

static void other_characters_gather_until_a_rule_applies(void **state)
{
	(void)state;
	EXPECT("\x01\x02", "\x03" "a");
	EXPECT("a", "\xE2\x80\x8B\xE2\x80\x8B", "1");				/* zero-width spaces are no blanks */
	EXPECT("\xF0\x9F\x91\xA8", "\xE2\x80\x8D", "\xF0\x9F\x91\xA9");		/* man ZWJ woman */
	EXPECT("\xEF\xBB\xBF" "a");						/* U+FEFF goes with a word */
}

static void zero_bytes_are_characters(void **state)
{
	bool ill_formed = false;

	(void)state;
	assert_int_equal(pretok_piece("\0\0", 2, &ill_formed), 2);
	assert_int_equal(pretok_piece("\0a b", 4, &ill_formed), 2);
	assert_int_equal(pretok_piece("a\0", 2, &ill_formed), 1);
	assert_false(ill_formed);
}

static void ill_formed_bytes_count_as_a_symbol_and_are_reported(void **state)
{
	bool ill_formed = false;

	(void)state;
	assert_int_equal(pretok_piece("ab\xFF", 3, &ill_formed), 2);
	ill_formed = false;
	assert_int_equal(pretok_piece(" \xE4\xB8\xFF!\n1", 7, &ill_formed), 6);
	assert_true(ill_formed);
}

static void pieces_always_advance_over_random_bytes(void **state)
{
	struct rng r = rng_seed(3);
	char p[64];

	(void)state;
	for (int round = 0; round < 20000; round++) {
		size_t n = 1 + rng_below(&r, sizeof p), at = 0;

		for (size_t i = 0; i < n; i++)
			p[i] = (char)(rng_below(&r, 2) ? rng_below(&r, 256) : (uint64_t)" \r\na1.'\xE4"[rng_below(&r, 8)]);
		while (at < n) {
			char *copy = mem_copy(p + at, n - at);	/* its own block: reading past it is caught */
			bool ill_formed = false;
			size_t k = pretok_piece(copy, n - at, &ill_formed);

			mem_free(copy);
			assert_true(k >= 1 && k <= n - at);
			at += k;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_take_the_blank_before_them),
		cmocka_unit_test(blanks_before_a_number_or_cjk_stay_in_one_piece),
		cmocka_unit_test(numbers_come_in_threes_from_the_left),
		cmocka_unit_test(punctuation_joins_ascii_letters_or_stands_with_line_breaks),
		cmocka_unit_test(cjk_stretches_are_cut_off_and_cut_inside),
		cmocka_unit_test(white_space_ends_after_its_last_line_break),
		cmocka_unit_test(other_characters_gather_until_a_rule_applies),
		cmocka_unit_test(zero_bytes_are_characters),
		cmocka_unit_test(ill_formed_bytes_count_as_a_symbol_and_are_reported),
		cmocka_unit_test(pieces_always_advance_over_random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
