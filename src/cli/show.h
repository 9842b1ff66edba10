/* show.h - the pieces of an answer as text for a person or a pipe. */
#ifndef DS4_CLI_SHOW_H
#define DS4_CLI_SHOW_H

#include <stdbool.h>
#include <stdio.h>

#include "chat/decode.h"
#include "cli/wrap.h"

struct show {
	FILE *reasoning_to;	/* NULL: not shown */
	bool calls_as_json;	/* one object a line instead of a block to read */
	/* private */
	enum { SHOW_NOTHING, SHOW_REASONING, SHOW_CONTENT, SHOW_CALL } state;
	bool line_open;		/* the last character was no line break */
	bool any;		/* something was written */
	struct wrap wrap;	/* at a terminal */
};

/* Writes a piece to standard output as it comes (reasoning: where reasoning_to says). */
void show_piece(struct show *s, const struct piece *p);

/* Writes text from outside as it is, but at a terminal without what could command it. */
void show_safe(FILE *f, const char *text, size_t n);

/* After the last piece: ends the styles and the line. */
void show_end(struct show *s);

#endif
