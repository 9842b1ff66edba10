/* pretok.c - the split rules of the DeepSeek V3/V4 tokenizer, rule by rule.
 *
 * What  Numbers fall into groups of three from the left; CJK/kana stretches are cut off from their
 *       surroundings; everything else, and the inside of those stretches, is cut by the five rules below.
 * Why   A regular-expression library would bring its own idea of Unicode; the generated tables are
 *       exactly the classes the published tokenizer was measured to use, and the cut is linear.
 * How   Maximal runs of one of three kinds (number, CJK/kana, rest) are independent texts: a look past the
 *       end of the run sees "end of text".  A change of kind always ends a piece, so the kind of a piece's
 *       first character tells which run it is in and no run has to be measured beforehand.  A class is a
 *       nibble: enum text_class, plus 8 for CJK/kana; a set of classes is a bit mask, and shifting the mask by
 *       8 makes it the same set inside a CJK/kana run.
 * Careful
 *       - A blank before a number or a CJK character is at the end of its run: "a   1" keeps three spaces in
 *         one piece, "a   b" gives the last one to the word.
 *       - CJK/kana runs hold punctuation too (U+30FB), so they go through the same rules.
 *       - Rule 1 wants ASCII punctuation and takes ASCII letters only; rule 3 wants U+0020, not any blank.
 * Source: docs/tokenizer.md. */
#include "tokenizer/pretok.h"

#include <stdint.h>

#include "base/utf8.h"
#include "tokenizer/unicode_tables.h"

enum text_class {	/* numbers known to tools/gen_unicode.py */
	OTHER,		/* controls, format characters, unassigned */
	LETTER,		/* letters and marks outside ASCII */
	ASCII_LETTER,
	PUNCT,		/* punctuation and symbols */
	SPACE,		/* white space but CR and LF */
	NEWLINE,	/* CR and LF */
	NUMBER,
	END,		/* end of the run; never in a table */
	CJK = 8		/* added to the class in U+4E00..9FA5, U+3040..30FF */
};

#define SET(class) (1u << (class))
#define LETTERS (SET(LETTER) | SET(ASCII_LETTER))
#define BLANKS (SET(SPACE) | SET(NEWLINE))

struct run {
	const char *end;	/* of the whole text */
	unsigned kind;		/* CJK or 0: what sets are shifted by */
	bool ill_formed;	/* something that was looked at is */
};

struct unit {	/* one character */
	unsigned class;
	size_t n;	/* its bytes; 0 at the end */
};

static inline unsigned class_of(uint32_t cp)
{
	uint32_t block = cp >> 7 < UNICODE_BLOCKS ? cp >> 7 : UNICODE_BLOCKS - 1;

	return unicode_nibbles[unicode_block[block]][cp >> 1 & 63] >> (cp & 1) * 4 & 15;
}

/* The character at p; class END where the text ends. */
static inline struct unit look(struct run *r, const char *p)
{
	uint32_t cp;
	size_t n;
	int valid;

	if (p == r->end)
		return (struct unit){END, 0};
	if (!(*p & 0x80))
		return (struct unit){class_of((unsigned char)*p), 1};
	n = utf8_decode(p, (size_t)(r->end - p), &cp, &valid);
	r->ill_formed |= !valid;
	return (struct unit){class_of(cp), n};
}

/* Is the class in the set, and the character in this run? */
static inline bool in(const struct run *r, struct unit u, unsigned set)
{
	return set << r->kind >> u.class & 1;
}

/* First place at or after p whose character is not in the set. */
static const char *skip(struct run *r, const char *p, unsigned set)
{
	for (;;) {
		struct unit u = look(r, p);

		if (!in(r, u, set))
			return p;
		p += u.n;
	}
}

static bool ends_run(const struct run *r, struct unit u)
{
	return u.class == END || u.class == NUMBER || (u.class & CJK) != r->kind;
}

/* Rule 4, white space from p on: to the last line break if there is one, else to the end of the run, else all
 * but the last character, which stays for the word behind it. */
static const char *blank_piece(struct run *r, const char *p, struct unit u)
{
	const char *last = p, *line_end = NULL, *at = p;

	while (in(r, u, BLANKS)) {
		last = at;
		at += u.n;
		if (in(r, u, SET(NEWLINE)))
			line_end = at;
		u = look(r, at);
	}
	if (line_end)
		return line_end;
	return ends_run(r, u) || last == p ? at : last;
}

/* End of the piece that begins with u at p; NULL when u belongs to a gap (rule 5). */
static const char *rule(struct run *r, const char *p, struct unit u)
{
	const char *next = p + u.n;
	struct unit v;

	if (in(r, u, LETTERS))					/* rule 2: a word */
		return skip(r, next, LETTERS);
	v = look(r, next);
	if (in(r, u, SET(PUNCT)) && !(*p & 0x80) && in(r, v, SET(ASCII_LETTER)))
		return skip(r, next, SET(ASCII_LETTER));	/* rule 1: 'll, _name, .com */
	if (in(r, u, SET(SPACE) | SET(OTHER)) && in(r, v, LETTERS))
		return skip(r, next, LETTERS);			/* rule 2: a blank and a word */
	if (in(r, u, SET(PUNCT)) || (*p == ' ' && in(r, v, SET(PUNCT))))
		return skip(r, skip(r, next, SET(PUNCT)), SET(NEWLINE));	/* rule 3 */
	if (in(r, u, BLANKS))
		return blank_piece(r, p, u);			/* rule 4 */
	return NULL;
}

/* Up to three number characters. */
static const char *number_piece(struct run *r, const char *p, struct unit u)
{
	for (int i = 0; i < 3 && u.class == NUMBER; i++) {
		p += u.n;
		u = look(r, p);
	}
	return p;
}

size_t pretok_piece(const char *text, size_t n, bool *ill_formed)
{
	struct run r = {.end = text + n};
	struct unit u = look(&r, text);
	const char *p = text, *end;

	r.kind = u.class & CJK;
	if (u.class == NUMBER) {
		end = number_piece(&r, p, u);
	} else {
		while (!(end = rule(&r, p, u))) {		/* rule 5: a gap grows until a rule applies */
			p += u.n;
			u = look(&r, p);
			if (ends_run(&r, u))
				break;
		}
		if (p > text)
			end = p;
	}
	*ill_formed |= r.ill_formed;
	return (size_t)(end - text);
}
