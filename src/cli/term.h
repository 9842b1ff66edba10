/* term.h - what the screen can do, and a progress line that cleans up after itself.
 *
 * Everything here is safe without a terminal: when a stream is not one (a pipe, a file, TERM=dumb, NO_COLOR) nothing
 * but the plain text reaches it.  Thread: the main thread only. */
#ifndef DS4_CLI_TERM_H
#define DS4_CLI_TERM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Looks at standard input, output and error once; call first. */
void term_init(void);

bool term_in_tty(void);		/* someone types */
bool term_out_tty(void);	/* someone watches standard output */
bool term_err_tty(void);
bool term_out_moves(void);	/* standard output is a terminal on which the cursor can be moved */
bool term_smart(void);		/* input and output are a terminal that understands cursor movement */
int term_width(void);		/* columns now; 80 when unknown.  Re-read every time: terminals are resized */

/* Style of the text that follows on f; does nothing where colours are off. */
enum term_style { TERM_PLAIN, TERM_DIM, TERM_BOLD, TERM_RED };
void term_style(FILE *f, enum term_style style);

/* One dim line of notice on standard error. */
void term_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A line on standard error that is redrawn at most ten times a second, appears only when the work takes longer than a
 * second, and is erased at the end.  Without a terminal on standard error it does nothing. */
struct progress {
	const char *label;	/* "reading the prompt" */
	const char *unit;	/* "tokens" */
	double start, last;	/* seconds */
	int64_t done0;		/* where counting began: what was there already costs no time */
	bool started, drawn;
};

void progress_show(struct progress *p, int64_t done, int64_t total);
/* Draws a line of the caller's own words under the same rules (but at once).  False: it cannot be drawn here. */
bool progress_line(struct progress *p, const char *text);
void progress_clear(struct progress *p);

/* Off: what is typed is not shown while the program writes; it waits for the next prompt.  On: as it was before. */
void term_echo(bool on);

/* Turns off the style, puts the echo back and clears a progress line left on the screen; for the way out. */
void term_restore(void);

#endif
