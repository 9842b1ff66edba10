/* utf8_test.c - UTF-8 against the Unicode Standard's own examples (version 16, section 3.9, tables 3-8 to 3-11)
 * and against a decoder written from the ranges of its table 3-7 for all sequences that matter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/utf8.h"

#define R "\xEF\xBF\xBD"	/* U+FFFD */

static void lossy(const char *bytes, size_t n, const char *want)
{
	struct buf b = BUF_CAP(1000);

	utf8_add_lossy(&b, bytes, n);
	assert_string_equal(buf_cstr(&b), want);
	buf_clear(&b);
}

static void ill_formed_parts_are_replaced_as_unicode_recommends(void **state)
{
	(void)state;
	lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", 9, R R R R R R R R "A");		/* non-shortest forms */
	lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", 9, R R R R R R R R "A");		/* surrogates */
	lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", 9, R R R R R "A" R R "B");	/* other */
	lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 9, R R R R "A");			/* truncated */
	lossy("a\xEF\xBF\xBD\xC3\xA9", 6, "a" R "\xC3\xA9");				/* a real U+FFFD stays */
	lossy("a\0b", 3, "a");								/* NUL is a character like others */
	lossy("", 0, "");
}

/* Table 3-7, row by row: the length of the maximal subpart at p, and whether it is a whole character. */
static size_t by_table(const unsigned char *p, size_t n, int *whole)
{
	static const struct {
		unsigned char lo, hi, lo2, hi2;
		size_t len;
	} row[] = {{0x00, 0x7F, 0, 0, 1}, {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
		   {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
		   {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};

	*whole = 0;
	for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
		size_t i = 1;

		if (p[0] < row[r].lo || p[0] > row[r].hi)
			continue;
		if (i < row[r].len && i < n && p[1] >= row[r].lo2 && p[1] <= row[r].hi2)
			for (i = 2; i < row[r].len && i < n && (p[i] & 0xC0) == 0x80; i++)
				;
		*whole = i == row[r].len;
		return i;
	}
	return 1;
}

/* Every first and second byte, with interesting third and fourth ones, cut after each byte. */
static void every_sequence_agrees_with_the_table_of_the_standard(void **state)
{
	static const unsigned char tail[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE1, 0xFF};
	unsigned char s[4];
	uint32_t cp;
	int valid, whole;

	(void)state;
	for (int x = 0; x < 0x10000; x++) {
		s[0] = (unsigned char)(x >> 8);
		s[1] = (unsigned char)x;
		for (size_t t = 0; t < sizeof tail * sizeof tail; t++) {
			s[2] = tail[t / sizeof tail];
			s[3] = tail[t % sizeof tail];
			for (size_t n = 1; n <= 4; n++) {
				size_t want = by_table(s, n, &whole), got = utf8_decode((char *)s, n, &cp, &valid);

				if (got != want || valid != whole || (!whole && cp != UTF8_BAD))
					fail_msg("%02X %02X %02X %02X cut at %zu: expected %zu bytes, whole %d; found %zu, %d",
						 s[0], s[1], s[2], s[3], n, want, whole, got, valid);
			}
		}
	}
}

static void every_scalar_value_survives_encoding(void **state)
{
	(void)state;
	for (uint32_t cp = 0; cp < 0x110000; cp++) {
		char s[4];
		uint32_t back = 0;
		size_t n;
		int valid;

		if (cp >= 0xD800 && cp < 0xE000)
			continue;
		n = utf8_encode(cp, s);
		if (n != (cp < 0x80 ? 1u : cp < 0x800 ? 2u : cp < 0x10000 ? 3u : 4u) ||
		    utf8_decode(s, n, &back, &valid) != n || back != cp || !valid)
			fail_msg("U+%04X: %zu bytes, read back as U+%04X", cp, n, back);
	}
}

static void a_stream_holds_back_only_what_may_become_a_character(void **state)
{
	static const struct {
		const char *bytes;
		size_t whole;
	} t[] = {
		{"", 0}, {"a", 1}, {"ab\xC3", 2}, {"ab\xC3\xA9", 4}, {"\xE2", 0}, {"\xE2\x82", 0}, {"\xE2\x82\xAC", 3},
		{"x\xF0\x9F\x98", 1}, {"x\xF0\x9F\x98\x80", 5},
		{"\xFF", 1}, {"a\x80", 2}, {"a\xC0", 2},	/* can never become one */
		{"\xE0\x80", 2}, {"\xED\xA0", 2}, {"\xF4\x90", 2}, {"\xF0\x80\x80", 3},
		{"\xE2\x82\x82\x82", 4}, {"\x82\x82\x82\x82", 4},
	};

	(void)state;
	for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
		size_t got = utf8_whole(t[i].bytes, strlen(t[i].bytes));

		if (got != t[i].whole)
			fail_msg("case %zu: expected %zu, found %zu", i, t[i].whole, got);
	}
}

/* Cutting a text anywhere and releasing only whole prefixes gives the replacements of the uncut text. */
static void cutting_a_text_anywhere_does_not_change_it(void **state)
{
	static const char text[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xE2\x82z\xF0\x9F\xC3(\xED\xA0\x80\xEF\xBF\xBD\xFF.";
	struct buf whole = BUF_CAP(1000);

	(void)state;
	utf8_add_lossy(&whole, text, sizeof text - 1);
	for (size_t cut = 0; cut < sizeof text; cut++) {
		struct buf b = BUF_CAP(1000);
		size_t n = utf8_whole(text, cut);

		utf8_add_lossy(&b, text, n);
		utf8_add_lossy(&b, text + n, sizeof text - 1 - n);
		assert_string_equal(buf_cstr(&b), buf_cstr(&whole));
		buf_clear(&b);
	}
	buf_clear(&whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ill_formed_parts_are_replaced_as_unicode_recommends),
		cmocka_unit_test(every_sequence_agrees_with_the_table_of_the_standard),
		cmocka_unit_test(every_scalar_value_survives_encoding),
		cmocka_unit_test(a_stream_holds_back_only_what_may_become_a_character),
		cmocka_unit_test(cutting_a_text_anywhere_does_not_change_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
