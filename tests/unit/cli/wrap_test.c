/* wrap_test.c - words are broken where a line ends, whatever pieces they came in.
 *
 * A small screen plays the terminal: characters, line breaks, cursor left, erase to the end of the line. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/wrap.h"

/* Plays what was written back into lines.  Single-byte characters, so that a column is a byte. */
static void play(const char *p, char *out)
{
	char *line = out, *at = out, *end = out;

	for (; *p; p++) {
		int n = 0;

		if (*p == '\n') {
			*end++ = '\n';
			line = at = end;
		} else if (sscanf(p, "\033[%dD", &n) == 1) {
			at -= n;
			if (at < line)
				fail_msg("the cursor went left of its line");
			p = strchr(p, 'D');
		} else if (!strncmp(p, "\033[K", 3)) {
			end = at;
			p += 2;
		} else {
			*at++ = *p;
			end = at > end ? at : end;
		}
	}
	*end = 0;
}

static void expect(const char *text, int width, size_t piece, const char *want)
{
	char *written = NULL, lines[4000];
	size_t n = 0;
	FILE *f = open_memstream(&written, &n);
	struct wrap w = {0};

	for (size_t i = 0; i < strlen(text); i += piece)
		wrap_write(&w, f, width, text + i, strlen(text + i) < piece ? strlen(text + i) : piece);
	fclose(f);
	play(written, lines);
	free(written);
	if (strcmp(want, lines))
		fail_msg("in pieces of %zu, width %d:\nexpected:\n%s\nfound:\n%s", piece, width, want, lines);
}

static void words_that_do_not_fit_go_to_the_next_line(void **state)
{
	(void)state;
	for (size_t piece = 1; piece < 50; piece++) {
		/* a space that does not fit any more becomes the break */
		expect("the quick brown fox jumps", 11, piece, "the quick \nbrown fox \njumps");
		expect("the quick brown fox jumps", 10, piece, "the quick\nbrown fox\njumps");
		expect("short\nlines stay", 20, piece, "short\nlines stay");
		expect("a\n\nb", 10, piece, "a\n\nb");
		expect("", 10, piece, "");
	}
}

static void a_word_longer_than_the_line_is_broken(void **state)
{
	(void)state;
	for (size_t piece = 1; piece < 40; piece++) {
		expect("abcdefghijklmnop", 9, piece, "abcdefgh\nijklmnop");
		expect("ab cdefghijklmnop", 9, piece, "ab \ncdefghij\nklmnop");
	}
}

static void code_is_left_alone(void **state)
{
	(void)state;
	for (size_t piece = 1; piece < 40; piece++)
		expect("see it:\n```c\nint main(void) { return 0; }\n```\nthat was it", 9, piece,
		       "see it:\n```c\nint main(void) { return 0; }\n```\nthat was\nit");
}

static void wide_characters_count_twice_and_break_anywhere(void **state)
{
	char *written = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&written, &n);
	struct wrap w = {0};

	(void)state;
	wrap_write(&w, f, 9, "日本語日本語", strlen("日本語日本語"));
	fclose(f);
	assert_string_equal(written, "日本語日\n本語");
	free(written);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_that_do_not_fit_go_to_the_next_line),
		cmocka_unit_test(a_word_longer_than_the_line_is_broken),
		cmocka_unit_test(code_is_left_alone),
		cmocka_unit_test(wide_characters_count_twice_and_break_anywhere),
	};

	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
