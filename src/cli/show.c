/* show.c - writes an answer as it is generated.
 *
 * What  Reasoning dim, then an empty line, then the content, then each tool call as a block or as a line of JSON.
 * Careful
 *       - A model can write any bytes.  At a terminal, control characters other than line breaks and tabs are shown
 *         as a replacement character: text must not be able to command the terminal.  A pipe gets them as they are.
 *       - Everything is flushed at once: a person reads along, a pipe may too. */
#include "cli/show.h"

#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "cli/term.h"

/* C0 without \n and \t, DEL, and C1 (two bytes, C2 80..9F). */
static bool commands_terminal(const char *p, size_t left, size_t *n)
{
	unsigned char c = (unsigned char)p[0];

	*n = 1;
	if ((c < 32 && c != '\n' && c != '\t') || c == 127)
		return true;
	*n = 2;
	return c == 0xC2 && left > 1 && (unsigned char)p[1] >= 0x80 && (unsigned char)p[1] < 0xA0;
}

static void write_wrapped(struct show *s, FILE *f, const char *p, size_t n)
{
	if (f == stdout && term_out_moves())
		wrap_write(&s->wrap, f, term_width(), p, n);
	else
		fwrite(p, 1, n, f);
}

static void write_text(struct show *s, FILE *f, const char *p, size_t n)
{
	bool tty = f == stderr ? term_err_tty() : term_out_tty();
	size_t from = 0, bad;

	for (size_t i = 0; tty && i < n; i++) {
		if (!commands_terminal(p + i, n - i, &bad))
			continue;
		write_wrapped(s, f, p + from, i - from);
		write_wrapped(s, f, "\xEF\xBF\xBD", 3);
		i += bad - 1;
		from = i + 1;
	}
	write_wrapped(s, f, p + from, n - from);
	if (n) {
		s->line_open = p[n - 1] != '\n';
		s->any = true;
	}
	fflush(f);
}

void show_safe(FILE *f, const char *text, size_t n)
{
	bool tty = f == stderr ? term_err_tty() : term_out_tty();
	size_t from = 0, bad;

	for (size_t i = 0; tty && i < n; i++) {
		if (!commands_terminal(text + i, n - i, &bad))
			continue;
		fwrite(text + from, 1, i - from, f);
		fputs("\xEF\xBF\xBD", f);
		i += bad - 1;
		from = i + 1;
	}
	fwrite(text + from, 1, n - from, f);
}

static void break_line(struct show *s, FILE *f)
{
	if (s->line_open)
		fputc('\n', f);
	s->line_open = false;
	s->wrap = (struct wrap){0};
}

/* Between the parts of an answer: ends the line, and at a terminal leaves one empty. */
static void leave(struct show *s)
{
	if (s->state == SHOW_REASONING && s->reasoning_to) {
		term_style(s->reasoning_to, TERM_PLAIN);
		break_line(s, s->reasoning_to);
		if (s->reasoning_to == stdout)
			fputc('\n', stdout);
		fflush(s->reasoning_to);
	} else if (s->state == SHOW_CONTENT) {
		break_line(s, stdout);
	}
	s->state = SHOW_NOTHING;
}

static void enter_reasoning(struct show *s)
{
	leave(s);
	s->state = SHOW_REASONING;
	if (s->reasoning_to)
		term_style(s->reasoning_to, TERM_DIM);
}

static void begin_call(struct show *s, const struct piece *p)
{
	struct buf b = BUF_CAP(BUF_MAX);

	leave(s);
	s->state = SHOW_CALL;
	if (s->calls_as_json) {
		buf_str(&b, "{\"name\": ");
		json_write_string(&b, p->text, p->n);
		buf_str(&b, ", \"arguments\": ");
	} else {
		term_style(stdout, TERM_BOLD);
		buf_str(&b, "tool call ");
		buf_add(&b, p->text, p->n);
		buf_byte(&b, '\n');
	}
	write_text(s, stdout, buf_cstr(&b), b.len);
	term_style(stdout, TERM_PLAIN);
	if (!s->calls_as_json)
		write_text(s, stdout, "  ", 2);
	buf_clear(&b);
}

void show_piece(struct show *s, const struct piece *p)
{
	switch (p->kind) {
	case PIECE_REASONING:
		if (s->state != SHOW_REASONING)
			enter_reasoning(s);
		if (s->reasoning_to)
			write_text(s, s->reasoning_to, p->text, p->n);
		break;
	case PIECE_CONTENT:
		if (s->state != SHOW_CONTENT) {
			leave(s);
			s->state = SHOW_CONTENT;
		}
		write_text(s, stdout, p->text, p->n);
		break;
	case PIECE_TOOL_BEGIN:
		begin_call(s, p);
		break;
	case PIECE_TOOL_ARGUMENTS:
		write_text(s, stdout, p->text, p->n);
		break;
	case PIECE_TOOL_END:
		if (s->calls_as_json)
			write_text(s, stdout, "}", 1);
		break_line(s, stdout);
		s->state = SHOW_NOTHING;
		break;
	case PIECE_FINISH:
		break;
	}
}

void show_end(struct show *s)
{
	FILE *f = s->state == SHOW_REASONING ? s->reasoning_to : stdout;

	if (f) {
		term_style(f, TERM_PLAIN);
		break_line(s, f);
		fflush(f);
	}
	s->state = SHOW_NOTHING;
}
