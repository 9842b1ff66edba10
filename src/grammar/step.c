/* step.c - one byte further, for every stack that is possible.
 *
 * What  A stack says where a text stands: inside which values, with a frame of state for each.  A byte changes the top
 *       frame, ends it, or puts a new one on it; where several readings are possible the stack is copied.
 * Why   All state is in the stack, so a byte costs the same wherever in a text it stands, and going back is forgetting
 *       a copy.
 * How   step() works on a copy of one stack and calls emit() for every outcome.  Frames without an end of their own
 *       (numbers, words, raw text) are left when the byte belongs to what is below.
 * Careful
 *       - No outcome may be a dead end (promise G2).  So: a value is only begun when its frames fit, a digit only
 *         accepted when a bound can still be met, a part of a character only when its automaton takes one of them.
 *       - Names that are not declared must differ from all that are: both are followed at once, and names have one
 *         spelling. */
#include <string.h>

#include "base/mem.h"
#include "grammar/grammar_int.h"

enum { MAX_INDENT = 64, INDENT = 8, MAX_DIGITS = 17, NEW_LINE = 2 };

/* Phases of arrays, objects and their like. */
enum { PHASE_FIRST, PHASE_NEXT, PHASE_COLON, PHASE_AFTER };

static const char *const literals[] = {
	"\n\n<\xFF" "tool_calls>\n",
	"</\xFF" "parameter>\n",
	"\n",
};
enum { LITERAL_OPENER, LITERAL_END_PARAMETER, LITERAL_NEW_LINE };

static const char end_of_call[] = "</\xFF" "invoke>";

struct work {
	const struct grammar *g;
	struct stacks *to;
	struct frame f[MAX_FRAMES + 8];
	uint32_t n;
};

/* ------------------------------------------------------------------ sets of stacks */

bool stacks_add(struct stacks *s, const struct frame *f, uint32_t n)
{
	uint32_t start = s->n ? s->end[s->n - 1] : 0;

	for (uint32_t i = 0, at = 0; i < s->n; at = s->end[i++])
		if (s->end[i] - at == n && (!n || memcmp(s->f + at, f, n * sizeof *f) == 0))
			return true;
	if (s->n == MAX_STACKS)
		return true;
	if (start + n + 1 > s->room) {		/* one more: there is an address even where nothing stands */
		uint32_t room = 2 * (start + n + 1);
		struct frame *more = mem_grow(s->f, room, sizeof *more);

		if (!more) {
			s->failed = true;
			return false;
		}
		s->f = more;
		s->room = room;
	}
	if (n)
		memcpy(s->f + start, f, n * sizeof *f);
	s->end[s->n++] = start + n;
	return true;
}

static void emit(struct work *w)
{
	stacks_add(w->to, w->f, w->n);
}

static void push(struct work *w, struct frame f)
{
	w->f[w->n++] = f;
}

static struct frame *top(struct work *w)
{
	return &w->f[w->n - 1];
}

/* Do frames for one more value of a node fit on the stack? */
static bool fits(const struct work *w, int32_t needs)
{
	return (int32_t)w->n + needs <= MAX_FRAMES;
}

/* ------------------------------------------------------------------ white space */

/* Takes a byte of white space where it may stand: one blank, or a line break and blanks for each level. */
static bool take_gap(const struct work *w, uint16_t *gap, enum gap may, uint8_t byte)
{
	uint32_t indent = INDENT * w->n < MAX_INDENT ? INDENT * w->n : MAX_INDENT;

	if (byte == ' ' && may != GAP_NONE && *gap == 0)
		*gap = 1;
	else if (byte == '\n' && may == GAP_FULL && *gap == 0)
		*gap = NEW_LINE;
	else if ((byte == ' ' || byte == '\t') && *gap >= NEW_LINE && *gap < NEW_LINE + indent)
		++*gap;
	else
		return false;
	return true;
}

/* ------------------------------------------------------------------ words */

/* The words of a..b whose byte number at is the given one; a == b when there are none. */
static void narrow(const struct words *w, uint32_t *a, uint32_t *b, uint64_t at, uint8_t byte)
{
	uint32_t lo = *a, hi = *b, first;

	while (lo < hi) {		/* the first with at least this byte */
		uint32_t mid = lo + (hi - lo) / 2;

		if (w->word[mid].n > at && (uint8_t)w->word[mid].p[at] >= byte)
			hi = mid;
		else
			lo = mid + 1;
	}
	first = lo;
	hi = *b;
	while (lo < hi) {		/* the first with a greater one */
		uint32_t mid = lo + (hi - lo) / 2;

		if ((uint8_t)w->word[mid].p[at] > byte)
			hi = mid;
		else
			lo = mid + 1;
	}
	*a = first;
	*b = lo;
}

/* ------------------------------------------------------------------ characters */

enum part {
	PART_NONE,	/* between characters */
	PART_1, PART_2, PART_3,			/* so many bytes are missing */
	PART_E0, PART_ED, PART_F0, PART_F4,	/* after such a byte, which limits the next */
	PART_ESCAPE,				/* behind a backslash */
	PART_HEX,				/* \u: four digits are missing, v = those that came; and 3, 2, 1 */
	PART_LOW = PART_HEX + 4,		/* a high surrogate came: \ is missing */
	PART_LOW_U,
	PART_LOW_HEX				/* and 3, 2, 1 */
};

struct span {
	uint32_t first, last;
};

/* The code points that can still come of the bytes so far: v holds their bits. */
static struct span may_become(enum part part, uint64_t v)
{
	static const uint8_t missing[] = {[PART_1] = 1, [PART_2] = 2, [PART_3] = 3, [PART_E0] = 2, [PART_ED] = 2,
					  [PART_F0] = 3, [PART_F4] = 3};
	uint32_t shift = 6u * missing[part];
	struct span s = {(uint32_t)(v << shift), (uint32_t)((v + 1) << shift) - 1};

	if (part == PART_E0)
		s.first = 0x800;
	if (part == PART_ED)
		s.last = 0xD7FF;
	if (part == PART_F0)
		s.first = 0x10000;
	if (part == PART_F4)
		s.last = 0x10FFFF;
	return s;
}

/* Takes a first byte from 0x80 on. */
static bool lead_byte(uint8_t byte, enum part *part, uint64_t *v)
{
	if (byte < 0xC2 || byte > 0xF4)
		return false;
	*part = byte < 0xE0 ? PART_1 : byte < 0xF0 ? PART_2 : PART_3;
	*v = byte & (byte < 0xE0 ? 0x1F : byte < 0xF0 ? 0x0F : 0x07);
	*part = byte == 0xE0 ? PART_E0 : byte == 0xED ? PART_ED : byte == 0xF0 ? PART_F0 : byte == 0xF4 ? PART_F4 : *part;
	return true;
}

/* Takes a later byte.  *part is PART_NONE when the character is complete: v. */
static bool next_byte(uint8_t byte, enum part *part, uint64_t *v)
{
	uint8_t low = *part == PART_E0 ? 0xA0 : *part == PART_F0 ? 0x90 : 0x80;
	uint8_t high = *part == PART_ED ? 0x9F : *part == PART_F4 ? 0x8F : 0xBF;

	if (byte < low || byte > high)
		return false;
	*v = *v << 6 | (byte & 0x3F);
	*part = *part == PART_E0 || *part == PART_ED ? PART_1 : *part == PART_F0 || *part == PART_F4 ? PART_2 :
		*part == PART_1 ? PART_NONE : *part - 1;
	return true;
}

/* ------------------------------------------------------------------ strings */

static bool room_for_a_char(const struct alt *a, const struct frame *f)
{
	return a->dfa || a->max == UINT32_MAX || f->a < a->max;
}

static bool may_end(const struct alt *a, const struct frame *f)
{
	return f->phase == PART_NONE && (a->dfa ? a->dfa->accept[f->b] : f->a >= a->min);
}

/* Counts a complete character. */
static bool take_char(const struct alt *a, struct frame *f, uint32_t cp)
{
	int32_t state;

	f->phase = PART_NONE;
	f->v = 0;
	if (a->dfa) {
		state = dfa_step(a->dfa, (int32_t)f->b, cp);
		f->b = (uint32_t)state;
		return state >= 0;
	}
	if (a->max != UINT32_MAX || f->a < a->min)
		f->a++;
	return true;
}

/* A byte of a character that stands for itself. */
static bool take_plain(const struct alt *a, struct frame *f, uint8_t byte)
{
	enum part part = f->phase;
	struct span s;

	if (part == PART_NONE && !room_for_a_char(a, f))
		return false;
	if (part == PART_NONE && byte < 0x80)
		return take_char(a, f, byte);
	if (!(part == PART_NONE ? lead_byte(byte, &part, &f->v) : next_byte(byte, &part, &f->v)))
		return false;
	if (part == PART_NONE)
		return take_char(a, f, (uint32_t)f->v);
	f->phase = (uint8_t)part;
	s = may_become(part, f->v);
	return !a->dfa || dfa_can(a->dfa, (int32_t)f->b, s.first, s.last);
}

static const char escape_from[] = "\"\\/bfnrt", escape_to[] = "\"\\/\b\f\n\r\t";

static bool may_escape(const struct alt *a, const struct frame *f)
{
	for (const char *p = escape_to; a->dfa && *p; p++)
		if (dfa_step(a->dfa, (int32_t)f->b, (unsigned char)*p) >= 0)
			return true;
	return !a->dfa;
}

static int hex_value(uint8_t byte)
{
	if (byte >= '0' && byte <= '9')
		return byte - '0';
	byte |= 0x20;
	return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* A digit behind \u.  U+0000 is left out, and surrogates come in pairs. */
static bool take_hex(const struct alt *a, struct frame *f, uint8_t byte)
{
	int digit = hex_value(byte), at = f->phase >= PART_LOW_HEX ? f->phase - PART_LOW_HEX : f->phase - PART_HEX;
	bool low = f->phase >= PART_LOW_HEX;

	if (digit < 0 || (at == 3 && !low && f->v == 0 && digit == 0))
		return false;
	if (low && ((at == 0 && digit != 0xD) || (at == 1 && digit < 0xC)))
		return false;
	if (!low && at == 1 && f->v == 0xD && digit >= 0xC)
		return false;
	f->v = f->v << 4 | (uint64_t)digit;
	if (at < 3)
		f->phase++;
	else if (!low && f->v >= 0xD800 && f->v <= 0xDBFF)
		f->phase = PART_LOW;
	else
		return take_char(a, f, (uint32_t)f->v);		/* counted only: there is no automaton here */
	return true;
}

static bool take_escaped(const struct alt *a, struct frame *f, uint8_t byte)
{
	const char *p;

	if (f->phase == PART_LOW || f->phase == PART_LOW_U) {
		if (byte != (f->phase == PART_LOW ? '\\' : 'u'))
			return false;
		f->v = 0;
		f->phase++;
		return true;
	}
	if (f->phase != PART_ESCAPE)
		return take_hex(a, f, byte);
	if (byte == 'u' && !a->dfa) {
		f->phase = PART_HEX;
		f->v = 0;
		return true;
	}
	p = byte ? strchr(escape_from, byte) : NULL;
	return p && take_char(a, f, (unsigned char)escape_to[p - escape_from]);
}

/* ------------------------------------------------------------------ numbers */

enum { DIGITS_NONE, DIGITS_ZERO, DIGITS_INT, DIGITS_POINT, DIGITS_DECIMAL, DIGITS_E, DIGITS_SIGN, DIGITS_EXPONENT,
       DIGITS_MASK = 15, DIGITS_MINUS = 16 };

static int64_t power_of_ten(int n)
{
	int64_t p = 1;

	while (n-- > 0)
		p *= 10;
	return p;
}

/* Is a number from first to last (times 10^decimals, without sign) within the bounds? */
static bool meets(const struct alt *a, bool minus, int64_t first, int64_t last)
{
	int64_t low = minus ? -a->high : a->low, high = minus ? -a->low : a->high;

	if (minus && low < 1)
		low = 1;	/* there is no -0 */
	return first <= high && last >= low;
}

/* Can what a bounded number holds so far still meet its bounds?  whole: as it stands. */
static bool can_meet(const struct alt *a, const struct frame *f, bool whole)
{
	bool minus = f->phase & DIGITS_MINUS;
	int64_t v = (int64_t)f->v;
	int missing = a->decimals - (int)f->b;

	if ((f->phase & DIGITS_MASK) >= DIGITS_POINT || whole) {
		int64_t p = power_of_ten(missing);

		return meets(a, minus, v * p, whole ? v * p : (v + 1) * p - 1);
	}
	for (int more = 0; more + (int)f->a + a->decimals <= 18; more++) {
		int64_t p = power_of_ten(a->decimals + more);

		if (meets(a, minus, v * p, (v + 1) * p - 1))
			return true;
		if (v == 0)
			break;
	}
	return false;
}

static bool number_ends(const struct alt *a, const struct frame *f)
{
	int state = f->phase & DIGITS_MASK;

	if (state != DIGITS_ZERO && state != DIGITS_INT && state != DIGITS_DECIMAL && state != DIGITS_EXPONENT)
		return false;
	return !a->bounded || can_meet(a, f, true);
}

/* The state after a byte, -1 = it does not belong to the number. */
static int number_state(const struct alt *a, int state, uint8_t byte)
{
	bool digit = byte >= '0' && byte <= '9', sign = byte == '-' || byte == '+';

	switch (state) {
	case DIGITS_NONE:
		return byte == '0' ? DIGITS_ZERO : digit ? DIGITS_INT : -1;
	case DIGITS_INT:
		if (digit)
			return state;
		/* fall through */
	case DIGITS_ZERO:
		if (byte == '.' && !a->integer)
			return DIGITS_POINT;
		/* fall through */
	case DIGITS_DECIMAL:
		if (digit && state == DIGITS_DECIMAL)
			return state;
		return (byte | 0x20) == 'e' && !a->integer && !a->bounded ? DIGITS_E : -1;
	case DIGITS_POINT:
		return digit ? DIGITS_DECIMAL : -1;
	case DIGITS_E:
		if (sign)
			return DIGITS_SIGN;
		/* fall through */
	default:
		return digit ? DIGITS_EXPONENT : -1;
	}
}

/* At most 18 digits before the point (17 with decimals), 17 or those of the bounds behind it, 2 of an exponent. */
static bool too_long(const struct alt *a, const struct frame *f, int state)
{
	if (state == DIGITS_DECIMAL)
		return f->b >= (uint32_t)(a->bounded ? a->decimals : MAX_DIGITS);
	if (state == DIGITS_EXPONENT)
		return f->a >= 2;
	return f->a >= (uint32_t)(a->bounded ? 18 - a->decimals : a->integer ? 18 : MAX_DIGITS);
}

static bool take_digit(const struct alt *a, struct frame *f, uint8_t byte)
{
	int state = number_state(a, f->phase & DIGITS_MASK, byte);

	if (state < 0)
		return false;
	if (state == DIGITS_E || state == DIGITS_SIGN) {
		f->a = 0;
	} else if (state != DIGITS_POINT) {
		if (too_long(a, f, state))
			return false;
		if (state == DIGITS_DECIMAL)
			f->b++;
		else
			f->a++;
		if (a->bounded)
			f->v = 10 * f->v + (uint64_t)(byte - '0');
	}
	f->phase = (uint8_t)((f->phase & DIGITS_MINUS) | state);
	return !a->bounded || can_meet(a, f, false);
}

static bool begin_number(const struct alt *a, struct frame *f, uint8_t byte)
{
	*f = (struct frame){.kind = FRAME_NUMBER, .ref = f->ref};
	if (byte != '-')
		return take_digit(a, f, byte);
	f->phase = DIGITS_MINUS;
	return !a->bounded || meets(a, true, 1, INT64_MAX);
}

/* ------------------------------------------------------------------ values */

/* The first required property from a on. */
static uint32_t next_required(const struct property *p, uint32_t n, uint32_t from)
{
	while (from < n && !p[from].required)
		from++;
	return from;
}

/* Words are complete at the latest when no other goes on. */
static void emit_words(struct work *w, const struct words *words)
{
	const struct frame *f = top(w);

	if (f->a + 1 == f->b && words->word[f->a].n == f->v)
		w->n--;
	emit(w);
}

/* A value of alternative number `ref` begins with a byte: its frame takes the place of the top one. */
static void begin_value(struct work *w, int32_t ref, uint8_t byte)
{
	const struct alt *a = &w->g->alt[ref];
	struct frame kept = *top(w), *f = top(w);
	uint32_t n = w->n;

	if ((int32_t)w->n - 1 + a->needs > MAX_FRAMES)
		return;
	*f = (struct frame){.ref = ref};
	if (a->kind == ALT_WORDS) {
		f->kind = FRAME_WORDS;
		f->b = a->words.n;
		narrow(&a->words, &f->a, &f->b, f->v++, byte);
		if (f->a < f->b)
			emit_words(w, &a->words);
	} else if (a->kind == ALT_NUMBER) {
		if (begin_number(a, f, byte))
			emit(w);
	} else if (a->kind == ALT_STRING && byte == '"') {
		f->kind = FRAME_STRING;
		emit(w);
	} else if (a->kind == ALT_ARRAY && byte == '[') {
		f->kind = FRAME_ARRAY;
		emit(w);
	} else if (a->kind == ALT_OBJECT && byte == '{') {
		f->kind = FRAME_OBJECT;
		f->v = next_required(a->property, a->n_property, 0);
		emit(w);
	}
	w->n = n;
	*top(w) = kept;
}

static void step_value(struct work *w, uint8_t byte)
{
	struct frame *f = top(w);
	const struct node *node = &w->g->node[f->ref];

	if (take_gap(w, &f->gap, (enum gap)f->phase, byte)) {
		emit(w);
		return;
	}
	for (uint32_t i = 0; i < node->n_alt; i++)
		begin_value(w, node->alt[i], byte);
}

static void step_string(struct work *w, uint8_t byte)
{
	struct frame *f = top(w);
	const struct alt *a = &w->g->alt[f->ref];
	bool ok;

	if (f->phase == PART_NONE && byte == '"') {
		if (!may_end(a, f))
			return;
		w->n--;
		emit(w);
		return;
	}
	if (f->phase >= PART_ESCAPE) {
		ok = take_escaped(a, f, byte);
	} else if (f->phase == PART_NONE && byte == '\\') {
		ok = room_for_a_char(a, f) && may_escape(a, f);
		f->phase = PART_ESCAPE;
	} else {
		ok = (byte >= 0x20 || f->phase != PART_NONE) && take_plain(a, f, byte);
	}
	if (ok)
		emit(w);
}

/* ------------------------------------------------------------------ arrays */

static int32_t item_at(const struct alt *a, uint32_t i)
{
	return i >= a->max ? -1 : i < a->n_item ? a->item[i] : a->items;
}

/* Can item number i come?  Its node, or -1. */
static int32_t possible_item(const struct work *w, const struct alt *a, uint32_t i)
{
	int32_t node = item_at(a, i);

	return node >= 0 && fits(w, w->g->node[node].needs) ? node : -1;
}

static void begin_item(struct work *w, struct frame *f, int32_t node, enum gap gap)
{
	const struct alt *a = &w->g->alt[f->ref];

	if (f->a <= a->n_item || f->a < a->min || a->max != UINT32_MAX)
		f->a++;
	f->phase = PHASE_AFTER;
	f->gap = 0;
	push(w, (struct frame){.kind = FRAME_VALUE, .phase = (uint8_t)gap, .ref = node});
}

static void step_array(struct work *w, uint8_t byte)
{
	struct frame *f = top(w);
	const struct alt *a = &w->g->alt[f->ref];
	int32_t node = possible_item(w, a, f->a);
	bool may_close = f->a >= a->min;

	if (byte == ']' && may_close) {
		w->n--;
		emit(w);
	} else if (f->phase == PHASE_AFTER && byte == ',' && f->gap == 0 && node >= 0) {
		begin_item(w, f, node, GAP_FULL);
		emit(w);
	} else if ((f->phase == PHASE_FIRST || may_close) && take_gap(w, &f->gap, GAP_FULL, byte)) {
		emit(w);
	} else if (f->phase == PHASE_FIRST && node >= 0) {
		begin_item(w, f, node, GAP_NONE);
		step_value(w, byte);
	}
}

/* ------------------------------------------------------------------ objects */

static bool may_add(const struct work *w, const struct alt *a, const struct frame *f)
{
	return f->v == a->n_property && a->additional >= 0 && fits(w, w->g->node[a->additional].needs);
}

/* May property i come now?  n: frames below its value. */
static bool may_come(const struct property *p, uint32_t n_property, const struct frame *f, int32_t i, uint32_t n)
{
	return i >= (int32_t)f->a && (uint64_t)i <= f->v && (uint32_t)i < n_property &&
	       (int32_t)n + p[i].needs <= MAX_FRAMES;
}

static bool any_may_come(const struct work *w, const struct alt *a, const struct frame *f)
{
	if (may_add(w, a, f))
		return true;
	for (uint32_t i = f->a; i <= f->v && i < a->n_property; i++)
		if (may_come(a->property, a->n_property, f, (int32_t)i, w->n))
			return true;
	return false;
}

static void step_object(struct work *w, uint8_t byte)
{
	struct frame *f = top(w);
	const struct alt *a = &w->g->alt[f->ref];
	bool may_close = f->v == a->n_property;

	switch (f->phase) {
	case PHASE_FIRST:
	case PHASE_NEXT:
		if (byte == '"' && any_may_come(w, a, f)) {
			bool more = may_add(w, a, f);

			push(w, (struct frame){.kind = FRAME_KEY, .gap = more, .ref = f->ref, .b = a->words.n});
			emit(w);
		} else if (byte == '}' && f->phase == PHASE_FIRST && may_close) {
			w->n--;
			emit(w);
		} else if (take_gap(w, &f->gap, GAP_FULL, byte)) {
			emit(w);
		}
		return;
	case PHASE_COLON:
		if (byte == ':') {
			f->phase = PHASE_AFTER;
			push(w, (struct frame){.kind = FRAME_VALUE, .phase = GAP_BLANK, .ref = (int32_t)f->b});
			f->b = 0;
			emit(w);
		}
		return;
	default:
		if (byte == '}' && may_close) {
			w->n--;
			emit(w);
		} else if (byte == ',' && f->gap == 0 && any_may_come(w, a, f)) {
			f->phase = PHASE_NEXT;
			emit(w);
		} else if (may_close && take_gap(w, &f->gap, GAP_FULL, byte)) {
			emit(w);
		}
	}
}

/* The name is complete: property i, or -1 for one that is not declared. */
static void end_key(struct work *w, const struct alt *a, int32_t i)
{
	struct frame *object = top(w) - 1;

	w->n--;
	object->phase = PHASE_COLON;
	object->gap = 0;
	object->a = i >= 0 ? (uint32_t)i + 1 : a->n_property;
	object->v = next_required(a->property, a->n_property, object->a);
	object->b = (uint32_t)(i >= 0 ? a->property[i].node : a->additional);
	emit(w);
}

/* A byte of a name that is not declared: characters have one spelling, so that names can be compared. */
static bool take_key_byte(struct frame *f, uint8_t byte)
{
	enum part part = f->phase;
	uint64_t v = 0;
	bool ok;

	if (part == PART_ESCAPE) {
		f->phase = PART_NONE;
		return byte && byte != '/' && strchr(escape_from, byte);
	}
	if (part == PART_NONE && byte < 0x80) {
		f->phase = byte == '\\' ? PART_ESCAPE : PART_NONE;
		return byte >= 0x20;
	}
	ok = part == PART_NONE ? lead_byte(byte, &part, &v) : next_byte(byte, &part, &v);
	f->phase = (uint8_t)part;
	return ok;
}

static void step_key(struct work *w, uint8_t byte)
{
	struct frame *f = top(w);
	const struct frame *object = f - 1;
	const struct alt *a = &w->g->alt[f->ref];
	bool closes = byte == '"' && f->phase == PART_NONE, declared = false;

	narrow(&a->words, &f->a, &f->b, f->v, byte);
	f->v++;
	if (closes) {
		bool exact = f->a < f->b && a->words.word[f->a].n == f->v;

		if (exact && may_come(a->property, a->n_property, object, a->words.word[f->a].number, w->n - 1))
			end_key(w, a, a->words.word[f->a].number);
		else if (!exact && f->gap)
			end_key(w, a, -1);
		return;
	}
	for (uint32_t i = f->a; i < f->b && !declared; i++)
		declared = may_come(a->property, a->n_property, object, a->words.word[i].number, w->n - 1);
	f->gap = take_key_byte(f, byte) && f->gap;
	if (f->a == f->b)
		f->a = f->b = 0, f->v = UINT32_MAX;	/* all such names are alike */
	if (declared || f->gap)
		emit(w);
}

/* ------------------------------------------------------------------ calls */

static bool tag_may_come(const struct tool *t, const struct frame *f, int32_t number, uint32_t n)
{
	bool may_close = f->v == t->n_property;

	if (number == TAG_END)
		return may_close;
	if (number == TAG_EMPTY)
		return may_close && f->a == 0;
	return may_come(t->property, t->n_property, f, number / 2, n + 1);
}

static void end_tag(struct work *w, const struct tool *t, int32_t number)
{
	struct frame *f;
	const struct property *p;

	w->n--;
	f = top(w);
	if (number < 0) {
		w->n--;		/* the call is complete */
		emit(w);
		return;
	}
	p = &t->property[number / 2];
	f->a = (uint32_t)number / 2 + 1;
	f->v = next_required(t->property, t->n_property, f->a);
	push(w, (struct frame){.kind = FRAME_LITERAL, .ref = LITERAL_END_PARAMETER});
	if (number % 2 == 0) {
		push(w, (struct frame){.kind = FRAME_VALUE, .phase = GAP_NONE, .ref = p->node});
		emit(w);
		return;
	}
	for (uint32_t i = 0; i < w->g->node[p->raw_node].n_alt; i++) {
		int32_t ref = w->g->node[p->raw_node].alt[i];
		const struct alt *a = &w->g->alt[ref];
		uint8_t kind = a->kind == ALT_WORDS ? FRAME_WORDS : FRAME_RAW;

		push(w, (struct frame){.kind = kind, .ref = ref, .b = kind == FRAME_WORDS ? a->words.n : 0});
		emit(w);
		w->n--;
	}
}

static void step_tag(struct work *w, uint8_t byte)
{
	struct frame *f = top(w);
	const struct tool *t = &w->g->tool[f->ref];
	bool any = false;

	narrow(&t->words, &f->a, &f->b, f->v++, byte);
	for (uint32_t i = f->a; i < f->b && !any; i++)
		any = tag_may_come(t, f - 1, t->words.word[i].number, w->n - 1);
	if (!any)
		return;
	if (f->a + 1 == f->b && t->words.word[f->a].n == f->v)
		end_tag(w, t, t->words.word[f->a].number);
	else
		emit(w);
}

static void end_invoke(struct work *w, int32_t tool)
{
	struct frame *block;

	w->n--;
	block = top(w);
	if (tool < 0) {
		w->n--;		/* the block is complete */
	} else {
		block->a = 1;
		if (w->g->tool[tool].strict)
			push(w, (struct frame){.kind = FRAME_PARAMETERS, .ref = tool,
					       .v = next_required(w->g->tool[tool].property,
								  w->g->tool[tool].n_property, 0)});
		else
			push(w, (struct frame){.kind = FRAME_FREE});
	}
	emit(w);
}

static void step_invoke(struct work *w, uint8_t byte)
{
	struct frame *f = top(w);
	const struct words *words = &w->g->invoke;
	bool begun = (f - 1)->a, any = false;

	narrow(words, &f->a, &f->b, f->v++, byte);
	for (uint32_t i = f->a; i < f->b && !any; i++)
		any = words->word[i].number < 0 ? begun : !(begun && w->g->one_call);
	if (!any)
		return;
	if (f->a + 1 == f->b && words->word[f->a].n == f->v)
		end_invoke(w, words->word[f->a].number);
	else
		emit(w);
}

/* Arguments that nothing is known about, up to the end of their call. */
static void step_free(struct work *w, uint8_t byte)
{
	struct frame *f = top(w);

	if (byte == (uint8_t)end_of_call[f->v])
		f->v++;
	else
		f->v = byte == '<';
	if (f->v == sizeof end_of_call - 1)
		*f = (struct frame){.kind = FRAME_LITERAL, .ref = LITERAL_NEW_LINE};
	emit(w);
}

/* ------------------------------------------------------------------ frames without an end of their own */

/* Takes the byte as more of the top frame; true when it may instead belong to what is below. */
static bool step_open_ended(struct work *w, uint8_t byte)
{
	struct frame *f = top(w), kept = *f;
	const struct alt *a = &w->g->alt[f->ref];
	uint32_t n = w->n;
	bool ends;

	if (f->kind == FRAME_NUMBER) {
		ends = number_ends(a, f);
		if (take_digit(a, f, byte))
			emit(w);
	} else if (f->kind == FRAME_WORDS) {
		ends = f->a < f->b && a->words.word[f->a].n == f->v;
		narrow(&a->words, &f->a, &f->b, f->v, byte);
		f->v++;
		if (f->a < f->b)
			emit_words(w, &a->words);
	} else {
		ends = may_end(a, f);
		if (byte && byte != (uint8_t)GRAMMAR_MARKER && take_plain(a, f, byte))
			emit(w);
	}
	w->n = n;
	*top(w) = kept;
	return ends;
}

static void step(struct work *w, uint8_t byte)
{
	while (w->n) {
		struct frame *f = top(w);

		switch (f->kind) {
		case FRAME_NUMBER:
		case FRAME_WORDS:
		case FRAME_RAW:
			if (!step_open_ended(w, byte))
				return;
			w->n--;
			continue;
		case FRAME_VALUE:
			step_value(w, byte);
			return;
		case FRAME_STRING:
			step_string(w, byte);
			return;
		case FRAME_ARRAY:
			step_array(w, byte);
			return;
		case FRAME_OBJECT:
			step_object(w, byte);
			return;
		case FRAME_KEY:
			step_key(w, byte);
			return;
		case FRAME_LITERAL:
			if (byte != (uint8_t)literals[f->ref][f->v])
				return;
			f->v++;
			w->n -= !literals[f->ref][f->v];
			emit(w);
			return;
		case FRAME_BLOCK:
			push(w, (struct frame){.kind = FRAME_INVOKE, .b = w->g->invoke.n});
			continue;
		case FRAME_INVOKE:
			step_invoke(w, byte);
			return;
		case FRAME_PARAMETERS:
			push(w, (struct frame){.kind = FRAME_TAG, .ref = f->ref, .b = w->g->tool[f->ref].words.n});
			continue;
		case FRAME_TAG:
			step_tag(w, byte);
			return;
		default:
			step_free(w, byte);
			return;
		}
	}
}

/* ------------------------------------------------------------------ all stacks */

void stacks_step(const struct grammar *g, const struct stacks *from, uint8_t byte, struct stacks *to)
{
	struct work w;		/* not cleared: only frames below w.n are looked at */

	w.g = g;
	w.to = to;
	to->n = 0;
	for (uint32_t i = 0, at = 0; i < from->n; at = from->end[i++]) {
		w.n = from->end[i] - at;
		memcpy(w.f, from->f + at, w.n * sizeof *w.f);
		step(&w, byte);
	}
}

bool stacks_complete(const struct grammar *g, const struct stacks *s)
{
	for (uint32_t i = 0, at = 0; i < s->n; at = s->end[i++]) {
		const struct frame *f = s->f + at;
		uint32_t n = s->end[i] - at;

		if (n > 1)
			continue;
		if (!n || (f->kind == FRAME_NUMBER && number_ends(&g->alt[f->ref], f)))
			return true;
		if (f->kind == FRAME_WORDS && g->alt[f->ref].words.word[f->a].n == f->v)
			return true;
	}
	return false;
}

void stacks_begin(const struct grammar *g, struct stacks *s)
{
	static const struct frame block[] = {{.kind = FRAME_BLOCK}, {.kind = FRAME_LITERAL, .ref = LITERAL_OPENER}};

	s->n = 0;
	if (g->root >= 0)
		stacks_add(s, &(struct frame){.kind = FRAME_VALUE, .phase = GAP_NONE, .ref = g->root}, 1);
	if (g->calls)
		stacks_add(s, block, 2);
}
