/* term.c - asks the terminal once what it is, and draws only what it can undo.
 *
 * What  Styles (dim, bold, red), the width, and the progress line of long prompts and evaluations.
 * Why   The same program serves a person at a screen, a pipe and a log file; only the first wants escapes.
 * How   Three flags from isatty(), TERM and NO_COLOR (https://no-color.org: set and not empty means no colour).
 *       Styles are the four SGR codes every terminal since the VT100 knows, so no terminfo is needed.
 * Careful
 *       - NO_COLOR forbids colours and dimming, not the progress line: that one is erased again.
 *       - TERM=dumb cannot erase, so it gets no progress line. */
#include "cli/term.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "cli/wrap.h"

static struct {
	bool in_tty, out_tty, err_tty;
	bool colour, cursor;	/* may style; may move the cursor */
	bool styled_out, styled_err;
	struct progress *drawn;
	struct termios before;	/* the echo was turned off */
	bool silent;
} screen;

void term_init(void)
{
	const char *term = getenv("TERM"), *no = getenv("NO_COLOR");

	screen.in_tty = isatty(STDIN_FILENO);
	screen.out_tty = isatty(STDOUT_FILENO);
	screen.err_tty = isatty(STDERR_FILENO);
	screen.cursor = term && *term && strcmp(term, "dumb") != 0;
	screen.colour = screen.cursor && !(no && *no);
}

bool term_in_tty(void)
{
	return screen.in_tty;
}

bool term_out_tty(void)
{
	return screen.out_tty;
}

bool term_err_tty(void)
{
	return screen.err_tty;
}

bool term_out_moves(void)
{
	return screen.out_tty && screen.cursor;
}

bool term_smart(void)
{
	return screen.in_tty && screen.out_tty && screen.cursor;
}

int term_width(void)
{
	struct winsize w;
	const char *columns;
	int n = 0;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0)
		n = w.ws_col;
	if (n <= 0) {
		columns = getenv("COLUMNS");
		n = columns ? (int)strtol(columns, NULL, 10) : 0;
	}
	return n > 0 && n < 10000 ? n : 80;
}

void term_style(FILE *f, enum term_style style)
{
	static const char *const sgr[] = {"\033[0m", "\033[2m", "\033[1m", "\033[31m"};
	bool *styled = f == stderr ? &screen.styled_err : &screen.styled_out;

	if (!screen.colour || !(f == stderr ? screen.err_tty : screen.out_tty))
		return;
	if (style == TERM_PLAIN && !*styled)
		return;
	fputs(sgr[style], f);
	*styled = style != TERM_PLAIN;
}

void term_note(const char *fmt, ...)
{
	struct wrap wrap = {0};
	char text[2000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	term_style(stderr, TERM_DIM);
	if (screen.err_tty && screen.cursor)
		wrap_write(&wrap, stderr, term_width(), text, utf8_whole(text, strlen(text)));
	else
		fputs(text, stderr);
	term_style(stderr, TERM_PLAIN);
	fputc('\n', stderr);
	fflush(stderr);
}

/* "2m05s", "41s" */
static void format_eta(char *out, size_t room, double seconds)
{
	if (seconds < 0 || seconds > 359999)
		seconds = 359999;
	if (seconds >= 3600)
		snprintf(out, room, "%dh%02dm", (int)seconds / 3600, (int)seconds / 60 % 60);
	else if (seconds >= 60)
		snprintf(out, room, "%dm%02ds", (int)seconds / 60, (int)seconds % 60);
	else
		snprintf(out, room, "%ds", (int)(seconds + 0.5));
}

bool progress_line(struct progress *p, const char *text)
{
	if (!screen.err_tty || !screen.cursor)
		return false;
	fputs("\r", stderr);
	term_style(stderr, TERM_DIM);
	fprintf(stderr, "%.*s", term_width() - 1, text);	/* a wrapped line could not be erased */
	term_style(stderr, TERM_PLAIN);
	fputs("\033[K", stderr);
	fflush(stderr);
	p->drawn = true;
	screen.drawn = p;
	return true;
}

void progress_show(struct progress *p, int64_t done, int64_t total)
{
	double now = clock_seconds(), rate;
	char line[160], eta[24];

	if (!screen.err_tty || !screen.cursor)
		return;
	if (!p->started) {
		p->started = true;
		p->start = p->last = now;
		p->done0 = done;
	}
	if (now - p->start < 1 || now - p->last < 0.1 || done <= p->done0)
		return;
	p->last = now;
	rate = (double)(done - p->done0) / (now - p->start);
	format_eta(eta, sizeof eta, (double)(total - done) / rate);
	snprintf(line, sizeof line, "%s: %lld of %lld %s, %.*f/s, %s left", p->label, (long long)done,
		 (long long)total, p->unit, rate < 10 ? 1 : 0, rate, eta);
	progress_line(p, line);
}

void progress_clear(struct progress *p)
{
	if (p->drawn) {
		fputs("\r\033[K", stderr);
		fflush(stderr);
	}
	p->drawn = false;
	screen.drawn = NULL;
}

void term_echo(bool on)
{
	struct termios t;

	if (on && screen.silent)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &screen.before);
	if (on || screen.silent || !term_smart() || tcgetattr(STDIN_FILENO, &screen.before) < 0) {
		screen.silent = screen.silent && !on;
		return;
	}
	t = screen.before;
	t.c_lflag &= ~(tcflag_t)ECHO;
	screen.silent = tcsetattr(STDIN_FILENO, TCSADRAIN, &t) == 0;
}

void term_restore(void)
{
	term_echo(true);
	if (screen.drawn)
		progress_clear(screen.drawn);
	term_style(stdout, TERM_PLAIN);
	term_style(stderr, TERM_PLAIN);
}
