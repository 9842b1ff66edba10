/* wrap.c - see wrap.h.
 *
 * How   Every character is shown at once.  When a word does not fit, what is there of it is erased and written again on the
 *       next line.  The last column stays empty: terminals disagree about where the cursor is behind it.
 * Careful
 *       - The line breaks are real: a window made wider later does not join the lines again.
 *       - Code is not broken: it would be wrong when copied.  The terminal breaks it where it must.
 *       - Wide characters (Chinese, Japanese, emoji) may be broken between any two. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE	/* wcwidth */
#endif
#include "cli/wrap.h"

#include <string.h>
#include <wchar.h>

#include "base/utf8.h"

static void end_word(struct wrap *w)
{
	w->n = 0;
	w->word_columns = 0;
}

static void new_line(struct wrap *w, FILE *f)
{
	fputc('\n', f);
	w->column = 0;
}

static void take_break(struct wrap *w, FILE *f)
{
	if (w->ticks >= 3)
		w->code = !w->code;
	w->ticks = 0;
	end_word(w);
	new_line(w, f);
}

/* The word that has begun goes to the next line; alone on its line it is broken. */
static void move_word(struct wrap *w, FILE *f)
{
	bool alone = w->column == w->word_columns;

	if (!alone && w->n) {
		fprintf(f, "\033[%dD\033[K", w->word_columns);
		new_line(w, f);
		fwrite(w->word, 1, w->n, f);
		w->column = w->word_columns;
		return;
	}
	end_word(w);
	new_line(w, f);
}

static void take_letter(struct wrap *w, FILE *f, int width, const char *p, size_t n, int columns)
{
	if (!w->code && w->column + columns > width - 1)
		move_word(w, f);
	fwrite(p, 1, n, f);
	w->column += columns;
	if (w->code)
		return;
	if (columns > 1 || w->n + n > sizeof w->word) {
		end_word(w);
		return;
	}
	memcpy(w->word + w->n, p, n);
	w->n += n;
	w->word_columns += columns;
}

static void take_space(struct wrap *w, FILE *f, int width, char c)
{
	int next = c == '\t' ? (w->column | 7) + 1 : w->column + 1;

	end_word(w);
	if (!w->code && next > width - 1) {
		new_line(w, f);
		return;
	}
	fputc(c, f);
	w->column = next;
}

void wrap_write(struct wrap *w, FILE *f, int width, const char *p, size_t n)
{
	for (size_t i = 0, k; i < n; i += k) {
		uint32_t cp;
		int columns;

		k = utf8_decode(p + i, n - i, &cp, NULL);
		if (cp == '\n') {
			take_break(w, f);
			continue;
		}
		if (w->ticks >= 0 && w->ticks < 3)
			w->ticks = cp == '`' ? w->ticks + 1 : -1;
		if (cp == ' ' || cp == '\t') {
			take_space(w, f, width, (char)cp);
			continue;
		}
		columns = wcwidth((wchar_t)cp);
		take_letter(w, f, width, p + i, k, columns < 0 ? 1 : columns);
	}
}
