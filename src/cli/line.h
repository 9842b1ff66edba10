/* line.h - one turn of the conversation, typed or piped.
 *
 * At a terminal: libedit with history, UTF-8, bracketed paste, Alt-Enter for a line break.  Elsewhere: plain lines. */
#ifndef DS4_CLI_LINE_H
#define DS4_CLI_LINE_H

#include "base/buf.h"
#include "base/status.h"

struct line_reader;

enum line_event {
	LINE_TEXT,	/* *text holds what was entered, without the final line break */
	LINE_DROPPED,	/* Ctrl-C: what was typed is gone */
	LINE_INTERRUPT,	/* Ctrl-C with nothing typed */
	LINE_END,	/* end of input, Ctrl-D on an empty line, cli_ending() */
	LINE_FAILED	/* no memory, or a line longer than text->cap */
};

/* history: file of earlier lines, read now and written after every line; NULL keeps none. */
enum status line_open(struct line_reader **out, const char *history, struct err *err);
void line_close(struct line_reader *r);		/* accepts NULL; puts the terminal back as it was */

/* Called a few times a second while nothing is typed.  NULL removes it. */
void line_set_idle(struct line_reader *r, void (*idle)(void *ctx), void *ctx);

/* Reads one entry into *text (emptied first).  A trailing backslash continues on the next line. */
enum line_event line_read(struct line_reader *r, const char *prompt, struct buf *text);

#endif
