/* regex.c - patterns to automata; see regex.h.
 *
 *   text --parse--> tree --emit--> NFA --subsets--> DFA --product with others and with lengths--> DFA, pruned
 *
 * How   The alphabet is cut into intervals at every end of a range, so that tables stay small.  "May match anywhere"
 *       is a loop before the pattern; a match that was found stays found.  ^ is only passed before the first character,
 *       $ is kept in the sets and passed when the string ends.
 * Careful
 *       - States that cannot lead to a match are removed: a sampler must never walk into one.
 *       - {n,m} copies its operand: the number of NFA states bounds what that can cost. */
#include "grammar/regex.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

enum {
	MAX_TREE = 2048, MAX_NFA = 4096, MAX_RANGES = 4096, MAX_STATES = 8192, MAX_DEPTH = 100,
	MAX_TABLE = 1 << 20,
	LAST_CHAR = 0x10FFFF
};

struct range {
	uint32_t first, last;
};

enum tree_kind { TREE_EMPTY, TREE_CHARS, TREE_CAT, TREE_OR, TREE_REPEAT, TREE_BEGIN, TREE_END };

struct tree {
	enum tree_kind kind;
	int32_t a, b;		/* operands; CHARS: ranges [a, b) */
	int32_t min, max;	/* REPEAT; max < 0 = no limit */
};

enum nfa_kind { NFA_CHARS, NFA_SPLIT, NFA_BEGIN, NFA_END, NFA_MATCH };

struct nfa {
	enum nfa_kind kind;
	int32_t a, b;		/* CHARS: ranges [a, b); SPLIT: successors */
	int32_t out;
};

struct compiler {
	const char *text;
	size_t n, at;
	int depth;
	struct tree tree[MAX_TREE];
	int32_t n_tree;
	struct range range[MAX_RANGES];
	int32_t n_range;
	struct nfa nfa[MAX_NFA];
	int32_t n_nfa;
	struct err *err;
	bool failed;
};

static int32_t fail(struct compiler *c, const char *what)
{
	if (!c->failed)
		err_set(c->err, ERR_ARGUMENT, "%s at byte %zu of \"%.*s\"", what, c->at, (int)(c->n < 80 ? c->n : 80),
			c->text);
	c->failed = true;
	return 0;
}

/* ------------------------------------------------------------------ parsing */

static int32_t add_tree(struct compiler *c, enum tree_kind kind, int32_t a, int32_t b)
{
	if (c->n_tree == MAX_TREE)
		return fail(c, "the pattern is too large");
	c->tree[c->n_tree] = (struct tree){.kind = kind, .a = a, .b = b};
	return c->n_tree++;
}

static void add_range(struct compiler *c, uint32_t first, uint32_t last)
{
	if (c->n_range == MAX_RANGES) {
		fail(c, "the pattern is too large");
		return;
	}
	c->range[c->n_range++] = (struct range){first, last};
}

static int by_first(const void *pa, const void *pb)
{
	const struct range *a = pa, *b = pb;

	return a->first < b->first ? -1 : a->first > b->first;
}

/* Replaces the ranges from number `from` on by what they leave out. */
static void negate(struct compiler *c, int32_t from)
{
	int32_t n = c->n_range - from, end = c->n_range;
	uint32_t next = 0;

	qsort(c->range + from, (size_t)n, sizeof *c->range, by_first);
	for (int32_t i = from; i < end; i++) {
		if (c->range[i].first > next)
			add_range(c, next, c->range[i].first - 1);
		if (c->range[i].last + 1 > next)
			next = c->range[i].last + 1;
	}
	if (next <= LAST_CHAR)
		add_range(c, next, LAST_CHAR);
	memmove(c->range + from, c->range + end, (size_t)(c->n_range - end) * sizeof *c->range);
	c->n_range -= n;
}

/* \d \w \s and their opposites.  False: another letter. */
static bool add_named_class(struct compiler *c, char letter)
{
	int32_t from = c->n_range;

	switch (letter | 0x20) {
	case 'd':
		add_range(c, '0', '9');
		break;
	case 'w':
		add_range(c, '0', '9');
		add_range(c, 'A', 'Z');
		add_range(c, '_', '_');
		add_range(c, 'a', 'z');
		break;
	case 's':
		add_range(c, 9, 13);
		add_range(c, ' ', ' ');
		add_range(c, 0xA0, 0xA0);
		add_range(c, 0x1680, 0x1680);
		add_range(c, 0x2000, 0x200A);
		add_range(c, 0x2028, 0x2029);
		add_range(c, 0x202F, 0x202F);
		add_range(c, 0x205F, 0x205F);
		add_range(c, 0x3000, 0x3000);
		add_range(c, 0xFEFF, 0xFEFF);
		break;
	default:
		return false;
	}
	if (letter < 'a')
		negate(c, from);
	return true;
}

static bool more(const struct compiler *c)
{
	return c->at < c->n && !c->failed;
}

static bool take(struct compiler *c, char byte)
{
	if (!more(c) || c->text[c->at] != byte)
		return false;
	c->at++;
	return true;
}

static uint32_t take_char(struct compiler *c)
{
	uint32_t cp = 0;

	if (c->at < c->n)
		c->at += utf8_decode(c->text + c->at, c->n - c->at, &cp, NULL);
	return cp;
}

static uint32_t take_hex(struct compiler *c, int digits)
{
	uint32_t v = 0;

	for (int i = 0; i < digits; i++) {
		char d = c->at < c->n ? c->text[c->at] : 0;

		if (d >= '0' && d <= '9')
			v = v << 4 | (uint32_t)(d - '0');
		else if ((d | 0x20) >= 'a' && (d | 0x20) <= 'f')
			v = v << 4 | (uint32_t)((d | 0x20) - 'a' + 10);
		else
			return (uint32_t)fail(c, "expected hexadecimal digits");
		c->at++;
	}
	return v;
}

/* One character behind a backslash that stands for itself or is written by a code. */
static uint32_t take_escape(struct compiler *c)
{
	static const char from[] = "tnrfv0", to[] = "\t\n\r\f\v";
	uint32_t cp = take_char(c);
	const char *known = cp && cp < 128 ? strchr(from, (int)cp) : NULL;

	if (known)
		return (unsigned char)to[known - from];
	if (cp == 'x')
		return take_hex(c, 2);
	if (cp == 'u')
		return take_hex(c, 4);
	if ((cp >= '0' && cp <= '9') || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z'))
		return (uint32_t)fail(c, "unsupported escape");
	return cp;
}

static void parse_set(struct compiler *c)
{
	int32_t from = c->n_range;
	bool not = take(c, '^');

	while (more(c) && c->text[c->at] != ']') {
		uint32_t first, last;

		if (take(c, '\\')) {
			if (c->at < c->n && add_named_class(c, c->text[c->at])) {
				c->at++;
				continue;
			}
			first = take(c, 'b') ? '\b' : take_escape(c);
		} else {
			first = take_char(c);
		}
		last = first;
		if (c->at + 1 < c->n && c->text[c->at] == '-' && c->text[c->at + 1] != ']') {
			c->at++;
			last = take(c, '\\') ? take_escape(c) : take_char(c);
		}
		if (last < first)
			fail(c, "a range that ends before it begins");
		add_range(c, first, last);
	}
	if (!take(c, ']'))
		fail(c, "a set without its ]");
	if (not)
		negate(c, from);
}

static int32_t parse_or(struct compiler *c);

static int32_t parse_group(struct compiler *c)
{
	int32_t t;

	if (take(c, '?') && !take(c, ':'))
		return fail(c, "unsupported group");
	if (++c->depth > MAX_DEPTH)
		return fail(c, "groups too deep");
	t = parse_or(c);
	c->depth--;
	if (!take(c, ')'))
		return fail(c, "a group without its )");
	return t;
}

static int32_t parse_atom(struct compiler *c)
{
	int32_t from = c->n_range;

	if (take(c, '('))
		return parse_group(c);
	if (take(c, '^'))
		return add_tree(c, TREE_BEGIN, 0, 0);
	if (take(c, '$'))
		return add_tree(c, TREE_END, 0, 0);
	if (take(c, '[')) {
		parse_set(c);
	} else if (take(c, '.')) {
		add_range(c, '\n', '\n');
		add_range(c, '\r', '\r');
		add_range(c, 0x2028, 0x2029);
		negate(c, from);
	} else if (take(c, '\\')) {
		uint32_t cp;

		if (c->at < c->n && add_named_class(c, c->text[c->at])) {
			c->at++;
		} else {
			cp = take_escape(c);
			add_range(c, cp, cp);
		}
	} else if (strchr("*+?{", c->text[c->at])) {
		return fail(c, "nothing to repeat");
	} else {
		uint32_t cp = take_char(c);

		add_range(c, cp, cp);
	}
	return add_tree(c, TREE_CHARS, from, c->n_range);
}

static int32_t take_number(struct compiler *c)
{
	int32_t v = 0;

	if (!more(c) || c->text[c->at] < '0' || c->text[c->at] > '9')
		return fail(c, "expected a number");
	while (more(c) && c->text[c->at] >= '0' && c->text[c->at] <= '9' && v < 100000)
		v = 10 * v + (c->text[c->at++] - '0');
	return v;
}

static int32_t parse_repeat(struct compiler *c)
{
	int32_t t = parse_atom(c);

	while (more(c) && strchr("*+?{", c->text[c->at])) {
		int32_t min = 0, max = -1;
		char op = c->text[c->at++];

		if (op == '+')
			min = 1;
		if (op == '?')
			max = 1;
		if (op == '{') {
			min = max = take_number(c);
			if (take(c, ','))
				max = more(c) && c->text[c->at] == '}' ? -1 : take_number(c);
			if (!take(c, '}') || (max >= 0 && max < min))
				return fail(c, "a malformed {n,m}");
		}
		take(c, '?');	/* lazy: the same language */
		t = add_tree(c, TREE_REPEAT, t, 0);
		c->tree[t].min = min;
		c->tree[t].max = max;
	}
	return t;
}

static int32_t parse_or(struct compiler *c)
{
	int32_t all = -1;

	do {
		int32_t one = add_tree(c, TREE_EMPTY, 0, 0);

		while (more(c) && c->text[c->at] != '|' && c->text[c->at] != ')')
			one = add_tree(c, TREE_CAT, one, parse_repeat(c));
		all = all < 0 ? one : add_tree(c, TREE_OR, all, one);
	} while (take(c, '|'));
	return all;
}

/* ------------------------------------------------------------------ NFA */

static int32_t add_nfa(struct compiler *c, enum nfa_kind kind, int32_t a, int32_t b, int32_t out)
{
	if (c->n_nfa == MAX_NFA)
		return fail(c, "the pattern is too large");
	c->nfa[c->n_nfa] = (struct nfa){kind, a, b, out};
	return c->n_nfa++;
}

/* States for t that go on to out; returns the first. */
static int32_t emit(struct compiler *c, int32_t t, int32_t out)
{
	struct tree x = c->tree[t];
	int32_t at;

	if (c->failed)
		return 0;
	switch (x.kind) {
	case TREE_CHARS:
		return add_nfa(c, NFA_CHARS, x.a, x.b, out);
	case TREE_CAT:
		return emit(c, x.a, emit(c, x.b, out));
	case TREE_OR:
		at = emit(c, x.a, out);
		return add_nfa(c, NFA_SPLIT, at, emit(c, x.b, out), 0);
	case TREE_BEGIN:
		return add_nfa(c, NFA_BEGIN, 0, 0, out);
	case TREE_END:
		return add_nfa(c, NFA_END, 0, 0, out);
	case TREE_REPEAT:
		if (x.max < 0) {
			at = add_nfa(c, NFA_SPLIT, 0, out, 0);
			c->nfa[at].a = emit(c, x.a, at);
			out = at;
		}
		for (int32_t i = x.min; i < x.max && !c->failed; i++) {
			at = emit(c, x.a, out);
			out = add_nfa(c, NFA_SPLIT, at, out, 0);
		}
		for (int32_t i = 0; i < x.min && !c->failed; i++)
			out = emit(c, x.a, out);
		return out;
	default:
		return out;
	}
}

/* ------------------------------------------------------------------ subsets */

struct builder {
	const struct compiler *c;
	uint32_t *first;		/* [n_class] */
	uint8_t *usable;		/* [n_class] */
	int32_t n_class;
	int32_t *set;			/* sorted members of all states, one list behind the other */
	size_t n_set, set_room;
	size_t *start;			/* [n_state + 1] where a state's members are */
	int32_t n_state;
	int32_t *next;			/* [n_state, n_class] */
	uint8_t *seen;			/* [MAX_NFA] */
	int32_t *work;			/* [MAX_NFA] */
};

/* Adds state s and what is reachable from it without a character to work[n..]; returns the new n. */
static int32_t close_over(struct builder *b, int32_t s, bool begin, bool end, int32_t n)
{
	int32_t stack[MAX_NFA + 2], depth = 0;

	stack[depth++] = s;
	while (depth) {
		const struct nfa *x = &b->c->nfa[s = stack[--depth]];

		if (b->seen[s])
			continue;
		b->seen[s] = 1;
		if (x->kind == NFA_SPLIT) {
			if (!b->seen[x->a])
				stack[depth++] = x->a;
			if (depth < MAX_NFA && !b->seen[x->b])
				stack[depth++] = x->b;
		} else if (x->kind == NFA_BEGIN || (x->kind == NFA_END && end)) {
			if (begin || x->kind == NFA_END)
				stack[depth++] = x->out;
		}
		if (x->kind != NFA_SPLIT && x->kind != NFA_BEGIN)
			b->work[n++] = s;
	}
	return n;
}

static int ascending(const void *pa, const void *pb)
{
	int32_t a = *(const int32_t *)pa, b = *(const int32_t *)pb;

	return a < b ? -1 : a > b;
}

enum { NO_MEMORY = -1, NOWHERE = -2, TOO_MANY = -3 };	/* instead of a state */

/* The number of the state with the members work[0..n), a new one if there is none. */
static int32_t state_of(struct builder *b, int32_t n)
{
	qsort(b->work, (size_t)n, sizeof *b->work, ascending);
	for (int32_t s = 0; s < b->n_state; s++)
		if (b->start[s + 1] - b->start[s] == (size_t)n &&
		    memcmp(b->set + b->start[s], b->work, (size_t)n * sizeof *b->work) == 0)
			return s;
	if (b->n_state == MAX_STATES || (int64_t)(b->n_state + 1) * b->n_class > MAX_TABLE)
		return TOO_MANY;
	if (b->n_set + (size_t)n > b->set_room) {
		size_t room = 2 * (b->n_set + (size_t)n);
		int32_t *p = mem_grow(b->set, room, sizeof *p);

		if (!p)
			return NO_MEMORY;
		b->set = p;
		b->set_room = room;
	}
	memcpy(b->set + b->n_set, b->work, (size_t)n * sizeof *b->work);
	b->n_set += (size_t)n;
	b->start[b->n_state + 1] = b->n_set;
	return b->n_state++;
}

static bool in_ranges(const struct compiler *c, const struct nfa *x, uint32_t cp)
{
	for (int32_t i = x->a; i < x->b; i++)
		if (cp >= c->range[i].first && cp <= c->range[i].last)
			return true;
	return false;
}

static int32_t successor(struct builder *b, int32_t s, int32_t class)
{
	int32_t n = 0;

	memset(b->seen, 0, (size_t)b->c->n_nfa);
	for (size_t i = b->start[s]; i < b->start[s + 1]; i++) {
		const struct nfa *x = &b->c->nfa[b->set[i]];

		if (x->kind == NFA_MATCH)
			n = close_over(b, b->set[i], false, false, n);
		else if (x->kind == NFA_CHARS && in_ranges(b->c, x, b->first[class]))
			n = close_over(b, x->out, false, false, n);
	}
	return n ? state_of(b, n) : NOWHERE;
}

static bool accepts(struct builder *b, int32_t s)
{
	int32_t n = 0;

	memset(b->seen, 0, (size_t)b->c->n_nfa);
	for (size_t i = b->start[s]; i < b->start[s + 1]; i++)
		n = close_over(b, b->set[i], s == 0, true, n);
	for (int32_t i = 0; i < n; i++)
		if (b->c->nfa[b->work[i]].kind == NFA_MATCH)
			return true;
	return false;
}

static int by_value(const void *pa, const void *pb)
{
	uint32_t a = *(const uint32_t *)pa, b = *(const uint32_t *)pb;

	return a < b ? -1 : a > b;
}

/* Cuts the code points at every end of a range, and at what strings cannot hold.  Returns how many. */
static int32_t cut_classes(const struct compiler *c, uint32_t *first)
{
	static const uint32_t fixed[] = {0, 8, 9, 11, 12, 13, 14, 0x20, 0xD800, 0xE000};
	int32_t n = 0, kept = 0;

	for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
		first[n++] = fixed[i];
	for (int32_t i = 0; i < c->n_range; i++) {
		first[n++] = c->range[i].first;
		if (c->range[i].last < LAST_CHAR)
			first[n++] = c->range[i].last + 1;
	}
	qsort(first, (size_t)n, sizeof *first, by_value);
	for (int32_t i = 0; i < n; i++)
		if (!kept || first[i] != first[kept - 1])
			first[kept++] = first[i];
	return kept;
}

static bool usable(uint32_t cp)
{
	return (cp >= 0x20 || (cp >= 8 && cp <= 13 && cp != 11)) && (cp < 0xD800 || cp > 0xDFFF) && cp <= LAST_CHAR;
}

static enum status no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory for a pattern");
}

static enum status make_subsets(struct builder *b, int32_t begin, struct err *err)
{
	memset(b->seen, 0, MAX_NFA);
	if (state_of(b, close_over(b, begin, true, false, 0)) < 0)
		return no_memory(err);
	for (int32_t s = 0; s < b->n_state; s++)
		for (int32_t k = 0; k < b->n_class; k++) {
			int32_t to = usable(b->first[k]) ? successor(b, s, k) : NOWHERE;

			if (to == NO_MEMORY)
				return no_memory(err);
			if (to == TOO_MANY)
				return err_set(err, ERR_ARGUMENT, "the pattern is too large: \"%.*s\"",
					       (int)(b->c->n < 80 ? b->c->n : 80), b->c->text);
			b->next[(size_t)s * (size_t)b->n_class + (size_t)k] = to < 0 ? -1 : to;
		}
	return OK;
}

static struct dfa *dfa_alloc(int32_t n_state, int32_t n_class)
{
	struct dfa *d = mem_zero(sizeof *d);

	if (!d)
		return NULL;
	d->n_state = n_state;
	d->n_class = n_class;
	d->first = mem_array((size_t)n_class + 1, sizeof *d->first);
	d->next = mem_array((size_t)n_state * (size_t)n_class + 1, sizeof *d->next);
	d->accept = mem_array((size_t)n_state + 1, 1);
	if (!d->first || !d->next || !d->accept) {
		dfa_free(d);
		return NULL;
	}
	return d;
}

static enum status build(struct dfa **out, const struct compiler *c, int32_t begin, struct err *err)
{
	struct builder b = {.c = c};
	size_t n_class = 2 * (size_t)c->n_range + 16;
	enum status st = OK;

	b.first = mem_array(n_class, sizeof *b.first);
	b.seen = mem_array(MAX_NFA, 1);
	b.work = mem_array(MAX_NFA, sizeof *b.work);
	b.start = mem_array(MAX_STATES + 1, sizeof *b.start);
	b.next = mem_array(MAX_TABLE, sizeof *b.next);
	if (!b.first || !b.seen || !b.work || !b.start || !b.next) {
		st = no_memory(err);
		goto out;
	}
	b.n_class = cut_classes(c, b.first);
	TRY_TO(out, make_subsets(&b, begin, err));
	*out = dfa_alloc(b.n_state, b.n_class);
	if (!*out) {
		st = no_memory(err);
		goto out;
	}
	memcpy((*out)->first, b.first, (size_t)b.n_class * sizeof *b.first);
	memcpy((*out)->next, b.next, (size_t)b.n_state * (size_t)b.n_class * sizeof *b.next);
	for (int32_t s = 0; s < b.n_state; s++)
		(*out)->accept[s] = accepts(&b, s);
out:
	mem_free(b.first);
	mem_free(b.seen);
	mem_free(b.work);
	mem_free(b.start);
	mem_free(b.next);
	mem_free(b.set);
	return st;
}

static enum status compile(struct dfa **out, const char *pattern, struct err *err)
{
	struct compiler *c = mem_zero(sizeof *c);
	int32_t t, match, begin, any;
	enum status st = OK;

	*out = NULL;
	if (!c)
		return no_memory(err);
	c->text = pattern;
	c->n = strlen(pattern);
	c->err = err;
	t = parse_or(c);
	if (!c->failed && c->at < c->n)
		fail(c, "a ) without its group");
	match = add_nfa(c, NFA_MATCH, 0, 0, 0);
	begin = c->failed ? 0 : emit(c, t, match);
	add_range(c, 0, LAST_CHAR);
	any = add_nfa(c, NFA_SPLIT, begin, 0, 0);
	if (!c->failed)
		c->nfa[any].b = add_nfa(c, NFA_CHARS, c->n_range - 1, c->n_range, any);
	st = c->failed ? ERR_ARGUMENT : build(out, c, any, err);
	mem_free(c);
	return st;
}

/* ------------------------------------------------------------------ products */

static int32_t class_of(const struct dfa *d, uint32_t cp)
{
	int32_t lo = 0, hi = d->n_class;	/* first[lo] <= cp < first[hi] */

	while (hi - lo > 1) {
		int32_t mid = lo + (hi - lo) / 2;

		if (d->first[mid] <= cp)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

/* A table for a product; *out NULL on failure. */
static enum status product_alloc(struct dfa **out, int64_t n_state, int64_t n_class, struct err *err)
{
	*out = NULL;
	if (n_state * n_class > MAX_TABLE)
		return err_set(err, ERR_ARGUMENT, "patterns and lengths together are too large");
	*out = dfa_alloc((int32_t)n_state, (int32_t)n_class);
	return *out ? OK : no_memory(err);
}

/* Both must match.  b is freed, *a replaced. */
static enum status intersect(struct dfa **a, struct dfa *b, struct err *err)
{
	const struct dfa *x = *a;
	int64_t n_state = (int64_t)x->n_state * b->n_state, n_class = x->n_class + b->n_class;
	struct dfa *d;
	int32_t k = 0;
	enum status st = product_alloc(&d, n_state, n_class, err);

	if (st != OK) {
		dfa_free(b);
		return st;
	}
	memcpy(d->first, x->first, (size_t)x->n_class * sizeof *d->first);
	memcpy(d->first + x->n_class, b->first, (size_t)b->n_class * sizeof *d->first);
	qsort(d->first, (size_t)d->n_class, sizeof *d->first, by_value);
	for (int32_t i = 0; i < d->n_class; i++)
		if (!k || d->first[i] != d->first[k - 1])
			d->first[k++] = d->first[i];
	d->n_class = k;
	for (int32_t s = 0; s < d->n_state; s++) {
		int32_t p = s / b->n_state, q = s % b->n_state;

		d->accept[s] = x->accept[p] && b->accept[q];
		for (k = 0; k < d->n_class; k++) {
			int32_t i = dfa_step(x, p, d->first[k]), j = dfa_step(b, q, d->first[k]);

			d->next[(size_t)s * (size_t)d->n_class + (size_t)k] = i < 0 || j < 0 ? -1 : i * b->n_state + j;
		}
	}
	dfa_free(*a);
	dfa_free(b);
	*a = d;
	return OK;
}

/* At least min and at most max characters. */
static enum status bound_length(struct dfa **a, uint32_t min, uint32_t max, struct err *err)
{
	const struct dfa *x = *a;
	uint32_t counts = (max == REGEX_NO_MAX ? min : max);	/* counted up to here */
	int64_t n_state = (int64_t)x->n_state * ((int64_t)counts + 1);
	struct dfa *d;

	TRY(product_alloc(&d, n_state, x->n_class, err));
	memcpy(d->first, x->first, (size_t)x->n_class * sizeof *d->first);
	for (int32_t s = 0; s < d->n_state; s++) {
		int32_t p = s % x->n_state;
		uint32_t count = (uint32_t)(s / x->n_state);

		d->accept[s] = x->accept[p] && count >= min;
		for (int32_t k = 0; k < x->n_class; k++) {
			int32_t to = x->next[(size_t)p * (size_t)x->n_class + (size_t)k];
			uint32_t after = count < counts ? count + 1 : count;

			if (to < 0 || (count == max && max != REGEX_NO_MAX))
				to = -1;
			else
				to += (int32_t)after * x->n_state;
			d->next[(size_t)s * (size_t)d->n_class + (size_t)k] = to;
		}
	}
	dfa_free(*a);
	*a = d;
	return OK;
}

/* Takes away what cannot lead to a match. */
static enum status prune(struct dfa *d, const char *pattern, struct err *err)
{
	uint8_t *live = mem_copy(d->accept, (size_t)d->n_state);
	bool changed = true, starts;

	if (!live)
		return no_memory(err);
	while (changed) {
		changed = false;
		for (int32_t s = d->n_state; s-- > 0;)
			for (int32_t k = 0; k < d->n_class && !live[s]; k++) {
				int32_t to = d->next[(size_t)s * (size_t)d->n_class + (size_t)k];

				if (to >= 0 && live[to])
					live[s] = changed = true;
			}
	}
	starts = live[0];
	for (size_t i = 0; i < (size_t)d->n_state * (size_t)d->n_class; i++)
		if (d->next[i] >= 0 && !live[d->next[i]])
			d->next[i] = -1;
	mem_free(live);
	if (!starts)
		return err_set(err, ERR_ARGUMENT, "no string can match the pattern \"%.100s\" in its bounds", pattern);
	return OK;
}

enum status dfa_new(struct dfa **out, const char *const *pattern, int n_pattern, uint32_t min, uint32_t max,
		    struct err *err)
{
	struct dfa *d = NULL, *more_d;
	enum status st = OK;

	*out = NULL;
	for (int i = 0; i < n_pattern; i++) {
		TRY_TO(out, compile(&more_d, pattern[i], err));
		if (!d)
			d = more_d;
		else
			TRY_TO(out, intersect(&d, more_d, err));
	}
	if (min > 0 || max != REGEX_NO_MAX)
		TRY_TO(out, bound_length(&d, min, max, err));
	TRY_TO(out, prune(d, pattern[0], err));
	*out = d;
	d = NULL;
out:
	dfa_free(d);
	return st;
}

void dfa_free(struct dfa *d)
{
	if (!d)
		return;
	mem_free(d->first);
	mem_free(d->next);
	mem_free(d->accept);
	mem_free(d);
}

int32_t dfa_step(const struct dfa *d, int32_t state, uint32_t cp)
{
	return d->next[(size_t)state * (size_t)d->n_class + (size_t)class_of(d, cp)];
}

bool dfa_can(const struct dfa *d, int32_t state, uint32_t first, uint32_t last)
{
	for (int32_t k = class_of(d, first); k < d->n_class && d->first[k] <= last; k++)
		if (d->next[(size_t)state * (size_t)d->n_class + (size_t)k] >= 0)
			return true;
	return false;
}
