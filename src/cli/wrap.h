/* wrap.h - text that comes in pieces, broken between words at the terminal's width. */
#ifndef DS4_CLI_WRAP_H
#define DS4_CLI_WRAP_H

#include <stdbool.h>
#include <stdio.h>

struct wrap {			/* zero-initialise */
	int column;		/* of the cursor */
	char word[128];		/* [n] the word that may have to move to the next line */
	size_t n;
	int word_columns;
	bool code;		/* between ``` lines: left to the terminal */
	int ticks;		/* ` at the beginning of this line; < 0 behind other text */
};

/* Writes whole characters p[0..n) to f for a screen of `width` columns, without control characters but \n and \t. */
void wrap_write(struct wrap *w, FILE *f, int width, const char *p, size_t n);

#endif
