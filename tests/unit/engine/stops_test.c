/* stops_test.c - stop strings against a model that looks at the whole text at once, at every way of cutting it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "engine/stops.h"

static struct stops open_stops(const char *const *text, int n)
{
	struct stop_string list[STOPS_MAX];
	struct err err = {0};
	struct stops s;

	for (int i = 0; i < n; i++)
		list[i] = (struct stop_string){text[i], strlen(text[i])};
	if (stops_init(&s, list, n, &err) != OK)
		fail_msg("stops_init: %s", err.msg);
	return s;
}

/* Feeds text in pieces of `piece` bytes and compares what comes out. */
static void check(const char *const *stop, int n, const char *text, const char *expected, int hit)
{
	size_t len = strlen(text);

	for (size_t piece = 1; piece <= len; piece++) {
		struct stops s = open_stops(stop, n);
		struct buf out = BUF_CAP(BUF_MAX);
		bool stopped = false;

		for (size_t i = 0; i < len; i += piece)
			stopped = stops_push(&s, text + i, len - i < piece ? len - i : piece, &out);
		stopped = stops_finish(&s, &out);
		if (strcmp(buf_cstr(&out), expected) != 0 || s.hit != hit || stopped != (hit >= 0))
			fail_msg("\"%s\" in pieces of %zu: expected \"%s\" (hit %d), got \"%s\" (hit %d)", text, piece,
				 expected, hit, buf_cstr(&out), s.hit);
		buf_clear(&out);
		stops_clear(&s);
	}
}

static void text_before_a_stop_string_comes_out_and_nothing_else(void **state)
{
	(void)state;
	check((const char *const[]){"END"}, 1, "hello END world", "hello ", 0);
	check((const char *const[]){"END"}, 1, "END", "", 0);
	check((const char *const[]){"END"}, 1, "hello EN world END", "hello EN world ", 0);
	check((const char *const[]){"\n\n"}, 1, "a\nb\n\nc", "a\nb", 0);
	check((const char *const[]){"aab"}, 1, "aaaaab", "aaa", 0);
	check((const char *const[]){"。"}, 1, "一。二", "一", 0);
}

static void text_without_a_stop_string_comes_out_whole(void **state)
{
	(void)state;
	check((const char *const[]){"END"}, 1, "hello EN", "hello EN", -1);
	check((const char *const[]){"END", "STOP"}, 2, "EN STO EENNDD", "EN STO EENNDD", -1);
	check(NULL, 0, "anything", "anything", -1);
}

static void the_match_that_starts_earliest_wins(void **state)
{
	(void)state;
	check((const char *const[]){"world", "lo"}, 2, "hello world", "hel", 1);
	check((const char *const[]){"abcd", "bc"}, 2, "xabcd", "x", 0);
	check((const char *const[]){"abcd", "bc"}, 2, "xabce", "xa", 1);
	check((const char *const[]){"abcd", "bc"}, 2, "xabc", "xa", 1);
	check((const char *const[]){"abc", "ab"}, 2, "xabc", "x", 1);	/* the same start: the shorter */
}

static void no_more_than_necessary_is_held_back(void **state)
{
	struct stops s = open_stops((const char *const[]){"END", "</x>"}, 2);
	struct buf out = BUF_CAP(BUF_MAX);

	(void)state;
	assert_false(stops_push(&s, "abc", 3, &out));
	assert_string_equal(buf_cstr(&out), "abc");
	assert_false(stops_push(&s, "dE", 2, &out));
	assert_string_equal(buf_cstr(&out), "abcd");
	assert_false(stops_push(&s, "x</", 3, &out));
	assert_string_equal(buf_cstr(&out), "abcdEx");
	assert_false(stops_push(&s, "y", 1, &out));
	assert_string_equal(buf_cstr(&out), "abcdEx</y");
	assert_true(stops_push(&s, "zENDq", 5, &out));
	assert_string_equal(buf_cstr(&out), "abcdEx</yz");
	assert_true(stops_push(&s, "more", 4, &out));
	assert_true(stops_finish(&s, &out));
	assert_string_equal(buf_cstr(&out), "abcdEx</yz");
	stops_reset(&s);
	assert_false(stops_push(&s, "again", 5, &out));
	assert_string_equal(buf_cstr(&out), "abcdEx</yzagain");
	buf_clear(&out);
	stops_clear(&s);
}

/* Earliest start, then shortest, over the whole text. */
static void model(const char *text, size_t len, const struct stop_string *stop, int n, size_t *end, int *hit)
{
	*end = len;
	*hit = -1;
	for (size_t i = 0; i < len && *hit < 0; i++)
		for (int j = 0; j < n; j++)
			if (stop[j].n <= len - i && memcmp(text + i, stop[j].p, stop[j].n) == 0 &&
			    (*hit < 0 || stop[j].n < stop[*hit].n)) {
				*hit = j;
				*end = i;
			}
}

static void random_texts_cut_anywhere_agree_with_the_whole_text(void **state)
{
	struct rng rng = rng_seed(1);

	(void)state;
	for (int round = 0; round < 20000; round++) {
		char text[40], word[4][6];
		struct stop_string stop[4];
		int n = 1 + (int)rng_below(&rng, 4), hit;
		size_t len = rng_below(&rng, sizeof text), end, longest = 0, fed = 0;
		struct buf out = BUF_CAP(BUF_MAX);
		struct stops s;

		for (size_t i = 0; i < len; i++)
			text[i] = "ab\0c"[rng_below(&rng, 4)];
		for (int j = 0; j < n; j++) {
			stop[j] = (struct stop_string){word[j], 1 + rng_below(&rng, 6)};
			longest = stop[j].n > longest ? stop[j].n : longest;
			for (size_t i = 0; i < stop[j].n; i++)
				word[j][i] = "ab\0c"[rng_below(&rng, 4)];
		}
		model(text, len, stop, n, &end, &hit);
		assert_int_equal(stops_init(&s, stop, n, NULL), OK);
		while (fed < len) {
			size_t k = 1 + rng_below(&rng, 6);

			k = k < len - fed ? k : len - fed;
			if (stops_push(&s, text + fed, k, &out))
				break;
			fed += k;
			if (s.held.len >= longest || out.len + s.held.len != fed)
				fail_msg("round %d: %zu bytes held, longest stop %zu", round, s.held.len, longest);
		}
		stops_finish(&s, &out);
		if (out.len != end || (end && memcmp(out.data, text, end) != 0) ||
		    (hit < 0) != (s.hit < 0) || (hit >= 0 && stop[hit].n != stop[s.hit].n))
			fail_msg("round %d: expected %zu bytes (hit %d), got %zu (hit %d)", round, end, hit, out.len,
				 s.hit);
		buf_clear(&out);
		stops_clear(&s);
	}
}

static void bad_lists_are_refused(void **state)
{
	struct stop_string many[STOPS_MAX + 1], empty = {"", 0};
	char *big = calloc(1, STOPS_MAX_BYTES + 1);
	struct stop_string long_one = {big, STOPS_MAX_BYTES + 1}, two[2] = {{"a", 1}, {"b", 1}};
	struct err err = {0};
	struct stops s;

	(void)state;
	for (int i = 0; i <= STOPS_MAX; i++)
		many[i] = (struct stop_string){"x", 1};
	assert_int_equal(stops_init(&s, many, STOPS_MAX + 1, &err), ERR_ARGUMENT);
	assert_non_null(strstr(err.msg, "65"));
	stops_clear(&s);
	assert_int_equal(stops_init(&s, &empty, 1, &err), ERR_ARGUMENT);
	stops_clear(&s);
	assert_int_equal(stops_init(&s, &long_one, 1, &err), ERR_ARGUMENT);
	stops_clear(&s);
	for (long at = 1; at <= 3; at++) {
		mem_fail_at(at);
		assert_int_equal(stops_init(&s, two, 2, &err), ERR_MEMORY);
		mem_fail_at(0);
		stops_clear(&s);
	}
	free(big);
}

static void no_memory_for_held_text_shows_in_the_output(void **state)
{
	struct stops s = open_stops((const char *const[]){"END"}, 1);
	struct buf out = BUF_CAP(BUF_MAX);

	(void)state;
	mem_fail_at(1);
	assert_false(stops_push(&s, "abc", 3, &out));
	mem_fail_at(0);
	assert_false(buf_ok(&out));
	buf_clear(&out);
	stops_clear(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_before_a_stop_string_comes_out_and_nothing_else),
		cmocka_unit_test(text_without_a_stop_string_comes_out_whole),
		cmocka_unit_test(the_match_that_starts_earliest_wins),
		cmocka_unit_test(no_more_than_necessary_is_held_back),
		cmocka_unit_test(random_texts_cut_anywhere_agree_with_the_whole_text),
		cmocka_unit_test(bad_lists_are_refused),
		cmocka_unit_test(no_memory_for_held_text_shows_in_the_output),
	};

	return cmocka_run_group_tests_name("engine/stops", tests, NULL, NULL);
}
