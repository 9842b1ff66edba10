/* line.c - reads what the user enters: through libedit at a terminal, byte by byte elsewhere.
 *
 * What  line_read() returns one entry, possibly of several lines.  Ways to enter a line break: Alt-Enter, pasting
 *       text that has some, or ending a line with a backslash.
 * Why   A prompt for a language model is often pasted and often long; an editor that submits at the first line break
 *       of a paste would send it in pieces.
 * How   libedit's wide interface.  It has no bracketed paste of its own, so the start sequence is bound to a function
 *       that takes everything up to the end sequence literally.  Keys come through our own read function, which
 *       waits in poll(): so Ctrl-C, a resized window and a return from Ctrl-Z are noticed at once, although the
 *       signal handlers only set flags.
 * Careful
 *       - libedit takes multi-byte input apart with the C library: the locale must be a UTF-8 one (main sets it).
 *       - poll() has a time limit because a signal may arrive just before it, or in another thread.
 *       - libedit counts a pasted tab or escape as a key; paste_function keeps them from being interpreted.
 *       - Ctrl-C at the prompt is a character here (\003), made from the flag; the line is dropped, not submitted. */
#include "cli/line.h"

#include <errno.h>
#include <histedit.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "cli/term.h"

struct line_reader {
	EditLine *edit;		/* NULL: plain lines */
	HistoryW *history;
	char *history_path;
	wchar_t *prompt;	/* what is shown now */
	bool interrupted;	/* the last line ended by Ctrl-C */
	bool typed;		/* ... and there was something in it */
	bool again;		/* Ctrl-C comes once more, after the cursor has moved */
	bool more;		/* reading a continued line */
	unsigned char key[4];	/* bytes of a character not complete yet */
	size_t n_key;
	void (*idle)(void *ctx);
	void *idle_ctx;
};

/* ------------------------------------------------------------------ keys */

/* Waits for a byte on standard input.  1 got one, 0 end of input, -1 error, 2 a signal wants attention. */
static int wait_byte(struct line_reader *r, unsigned char *out)
{
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};

	for (;;) {
		ssize_t n;
		int ready;

		if (cli_ending())
			return 0;
		if (cli_interrupted() || cli_resized() || cli_continued())
			return 2;
		ready = poll(&p, 1, 300);
		if (ready == 0 && r->idle)
			r->idle(r->idle_ctx);
		if (ready == 0 || (ready < 0 && errno == EINTR))
			continue;
		n = read(STDIN_FILENO, out, 1);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		return n < 0 ? -1 : (int)n;
	}
}

#define INTERRUPT 3	/* what the keys of signals look like: Ctrl-C, Ctrl-_ */
#define REDRAW 31

/* The signals that wait_byte saw.  True when one of them acts as a key, *c. */
static bool take_signals(EditLine *e, wchar_t *c)
{
	if (cli_resized()) {
		cli_clear_resized();
		el_resize(e);
	}
	if (cli_continued()) {			/* back from Ctrl-Z: the shell has changed the terminal */
		cli_clear_continued();
		el_wset(e, EL_PREP_TERM, 0);	/* libedit still believes in its own mode */
		el_wset(e, EL_PREP_TERM, 1);
		fputs("\033[?2004h", stdout);
		fflush(stdout);
		*c = REDRAW;
		return true;
	}
	if (!cli_interrupted())
		return false;
	cli_clear_interrupted();
	*c = INTERRUPT;
	return true;
}

/* libedit's read function: one character. */
static int read_key(EditLine *e, wchar_t *out)
{
	struct line_reader *r;
	unsigned char b;
	uint32_t cp;
	int got;

	el_wget(e, EL_CLIENTDATA, &r);
	if (r->again) {
		r->again = false;
		*out = INTERRUPT;
		return 1;
	}
	for (;;) {
		got = wait_byte(r, &b);
		if (got == 2) {
			if (take_signals(e, out))
				return 1;
			continue;
		}
		if (got <= 0)
			return got;
		r->key[r->n_key++] = b;
		if (utf8_whole((char *)r->key, r->n_key) == 0)
			continue;
		utf8_decode((char *)r->key, r->n_key, &cp, NULL);
		r->n_key = 0;
		*out = (wchar_t)cp;
		return 1;
	}
}

static unsigned char insert_break(EditLine *e, int key)
{
	(void)key;
	return el_winsertstr(e, L"\n") < 0 ? CC_ERROR : CC_REFRESH;
}

static unsigned char interrupt(EditLine *e, int key)
{
	struct line_reader *r;
	const LineInfoW *l = el_wline(e);

	(void)key;
	el_wget(e, EL_CLIENTDATA, &r);
	if (l->cursor < l->lastchar) {
		/* First go behind all its lines, so that nothing is overwritten. */
		el_cursor(e, (int)(l->lastchar - l->cursor));
		r->again = true;
		return CC_REFRESH;
	}
	r->interrupted = true;
	r->typed = l->lastchar > l->buffer || r->more;
	fputs(r->typed ? "^C" : "", stdout);
	return CC_EOF;
}

/* Ctrl-D: end of input on an empty line, else nothing. */
static unsigned char end_of_input(EditLine *e, int key)
{
	const LineInfoW *l = el_wline(e);

	(void)key;
	return l->lastchar > l->buffer ? CC_NORM : CC_EOF;
}

/* Everything between ESC [200~ and ESC [201~ goes into the line as it is; \r is a line break. */
static unsigned char paste(EditLine *e, int key)
{
	static const wchar_t end[] = L"\033[201~";
	const size_t n_end = 6;
	wchar_t *text = NULL, c, *grown;
	size_t n = 0, room = 0;
	unsigned char result = CC_ERROR;

	(void)key;
	for (;;) {
		if (n + 1 >= room) {
			grown = mem_grow(text, room ? room * 2 : 256, sizeof *text);
			if (!grown)
				goto out;
			text = grown;
			room = room ? room * 2 : 256;
		}
		if (read_key(e, &c) != 1 || c == INTERRUPT)
			goto out;
		text[n++] = c == '\r' ? L'\n' : c;
		if (n >= n_end && !wmemcmp(text + n - n_end, end, n_end))
			break;
	}
	n -= n_end;
	/* A copied line usually ends with a line break: let the user decide when to send it. */
	while (n && text[n - 1] == '\n')
		n--;
	text[n] = 0;
	result = n == 0 || el_winsertstr(e, text) == 0 ? CC_REFRESH : CC_ERROR;
out:
	mem_free(text);
	return result;
}

static wchar_t *show_prompt(EditLine *e)
{
	struct line_reader *r;

	el_wget(e, EL_CLIENTDATA, &r);
	return r->prompt;
}

/* ------------------------------------------------------------------ text */

/* UTF-8 from wide characters; libedit's are code points on every system we run on. */
static void add_wide(struct buf *out, const wchar_t *s, size_t n)
{
	char bytes[4];

	for (size_t i = 0; i < n; i++)
		buf_add(out, bytes, utf8_encode((uint32_t)s[i], bytes));
}

static wchar_t *wide(const char *s)
{
	size_t n = strlen(s), used = 0, i = 0;
	wchar_t *out = mem_array(n + 1, sizeof *out);
	uint32_t cp;

	while (out && used < n) {
		used += utf8_decode(s + used, n - used, &cp, NULL);
		out[i++] = (wchar_t)cp;
	}
	return out;
}

/* ------------------------------------------------------------------ open, close */

static void bind_keys(EditLine *e)
{
	el_wset(e, EL_EDITOR, L"emacs");
	el_wset(e, EL_ADDFN, L"ds4-break", L"Insert a line break", insert_break);
	el_wset(e, EL_ADDFN, L"ds4-paste", L"Insert pasted text", paste);
	el_wset(e, EL_ADDFN, L"ds4-interrupt", L"Drop the line", interrupt);
	el_wset(e, EL_ADDFN, L"ds4-end", L"End of input on an empty line", end_of_input);
	el_wset(e, EL_BIND, L"^R", L"em-inc-search-prev", NULL);
	el_wset(e, EL_BIND, L"\\e[3~", L"ed-delete-next-char", NULL);
	el_wset(e, EL_BIND, L"\\e[1;5C", L"em-next-word", NULL);
	el_wset(e, EL_BIND, L"\\e[1;5D", L"ed-prev-word", NULL);
	el_source(e, NULL);			/* ~/.editrc: the user's own keys; ours below stay */
	el_wset(e, EL_BIND, L"\\e\\r", L"ds4-break", NULL);
	el_wset(e, EL_BIND, L"\\e\\n", L"ds4-break", NULL);
	el_wset(e, EL_BIND, L"\\e[200~", L"ds4-paste", NULL);
	el_wset(e, EL_BIND, L"^C", L"ds4-interrupt", NULL);
	el_wset(e, EL_BIND, L"^_", L"ed-redisplay", NULL);
	el_wset(e, EL_BIND, L"^D", L"ds4-end", NULL);
}

static enum status open_editor(struct line_reader *r, const char *history, struct err *err)
{
	HistEventW ev;

	r->edit = el_init("ds4", stdin, stdout, stderr);
	r->history = history_winit();
	if (!r->edit || !r->history)
		return err_set(err, ERR_MEMORY, "no memory for the line editor");
	el_wset(r->edit, EL_CLIENTDATA, r);
	el_wset(r->edit, EL_PROMPT, show_prompt);
	el_wset(r->edit, EL_GETCFN, read_key);
	el_wset(r->edit, EL_SIGNAL, 0);
	history_w(r->history, &ev, H_SETSIZE, 1000);
	history_w(r->history, &ev, H_SETUNIQUE, 1);
	el_wset(r->edit, EL_HIST, history_w, r->history);
	bind_keys(r->edit);
	if (history) {
		r->history_path = mem_str(history);
		if (!r->history_path)
			return err_set(err, ERR_MEMORY, "no memory for the line editor");
		history_w(r->history, &ev, H_LOAD, history);	/* absent the first time */
	}
	return OK;
}

enum status line_open(struct line_reader **out, const char *history, struct err *err)
{
	struct line_reader *r = mem_zero(sizeof *r);
	enum status st = OK;

	*out = NULL;
	if (!r)
		return err_set(err, ERR_MEMORY, "no memory for the line editor");
	if (term_smart())
		st = open_editor(r, history, err);
	if (st != OK) {
		line_close(r);
		return st;
	}
	*out = r;
	return OK;
}

void line_set_idle(struct line_reader *r, void (*idle)(void *ctx), void *ctx)
{
	r->idle = idle;
	r->idle_ctx = ctx;
}

void line_close(struct line_reader *r)
{
	if (!r)
		return;
	if (r->history)
		history_wend(r->history);
	if (r->edit)
		el_end(r->edit);
	mem_free(r->history_path);
	mem_free(r->prompt);
	mem_free(r);
}

/* ------------------------------------------------------------------ reading */

static void remember(struct line_reader *r, const struct buf *text)
{
	HistEventW ev;
	wchar_t *w;

	if (!text->len || !(w = wide(text->data)))
		return;
	history_w(r->history, &ev, H_ENTER, w);
	mem_free(w);
	if (r->history_path)
		history_w(r->history, &ev, H_SAVE, r->history_path);
}

static enum line_event read_edited(struct line_reader *r, struct buf *text)
{
	const wchar_t *s;
	int n = 0;

	r->interrupted = false;
	fputs("\033[?2004h", stdout);
	fflush(stdout);
	s = el_wgets(r->edit, &n);
	fputs("\033[?2004l", stdout);
	if (!s || n <= 0) {
		fputc('\n', stdout);
		fflush(stdout);
		return !r->interrupted ? LINE_END : r->typed ? LINE_DROPPED : LINE_INTERRUPT;
	}
	fflush(stdout);
	if (s[n - 1] == '\n')
		n--;
	add_wide(text, s, (size_t)n);
	return LINE_TEXT;
}

static enum line_event read_plain(struct line_reader *r, struct buf *text)
{
	bool any = false;
	unsigned char b;

	for (;;) {
		int got = wait_byte(r, &b);

		if (got == 2 && cli_interrupted()) {
			cli_clear_interrupted();
			return LINE_INTERRUPT;
		}
		if (got == 2) {
			cli_clear_resized();
			cli_clear_continued();
			continue;
		}
		if (got <= 0)
			return any ? LINE_TEXT : LINE_END;
		any = true;
		if (b == '\n')
			return LINE_TEXT;
		buf_byte(text, (char)b);
	}
}

enum line_event line_read(struct line_reader *r, const char *prompt, struct buf *text)
{
	enum line_event got;

	buf_cut(text, 0);
	r->more = false;
	for (;;) {
		if (r->edit) {
			mem_free(r->prompt);
			r->prompt = wide(r->more ? ". " : prompt);
			if (!r->prompt)
				return LINE_FAILED;
			got = read_edited(r, text);
		} else {
			if (term_in_tty() && term_out_tty()) {
				fputs(r->more ? ". " : prompt, stdout);
				fflush(stdout);
			}
			got = read_plain(r, text);
			if (got == LINE_INTERRUPT && term_out_tty())
				fputc('\n', stdout);	/* behind the terminal's own ^C */
		}
		if (!buf_ok(text))
			return LINE_FAILED;
		if (got == LINE_END && r->more)
			got = LINE_TEXT;
		if (got != LINE_TEXT)
			return got;
		if (!text->len || text->data[text->len - 1] != '\\')
			break;
		text->data[text->len - 1] = '\n';
		r->more = true;
	}
	if (text->len && text->data[text->len - 1] == '\r')	/* a file with DOS line ends */
		buf_cut(text, text->len - 1);
	if (r->edit)
		remember(r, text);
	return LINE_TEXT;
}
