/* dsml_read.c - reads one tool-call block as it is generated, a byte or a control token at a time.
 *
 * What  Five states: between calls, inside a call, inside a value, inside a tag, inside a closing tag.
 *       Calls and their arguments are reported as soon as they are certain.
 * Why   Models misspell tags, forget closers and attributes, nest parameters.  What the intent of a slip is
 *       clear for is accepted; the caller (decode.c) decides about the rest with its own hold-back.
 * How   Tags are recognised by the control token after "<" or "</", never by text alone, so values may hold
 *       anything.  White space between tags means nothing.
 * Careful
 *       - A value ends at "</" + token + "parameter>".  Until the ">" all of that may still be value.
 *       - Names are raw: a quote inside one ends it only when a blank, "/" or ">" follows.
 *       - The "\n</" tail is held back because a forgotten </parameter> makes the line break a separator.
 *       - A repeated parameter is reported twice; the last one wins in whoever parses the arguments.
 * Source: docs/chat.md, section 10. */
#include "chat/dsml.h"

#include <string.h>

#define MAX_TAG 4096
#define MAX_WORD 32	/* longest tag name that is waited for */

struct span {
	const char *p;
	size_t n;
};

static bool is(struct span s, const char *word)
{
	return s.n == strlen(word) && memcmp(s.p, word, s.n) == 0;
}

static bool is_space(int c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_word_byte(int c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static struct span trim(struct span s)
{
	while (s.n && is_space(s.p[0])) {
		s.p++;
		s.n--;
	}
	while (s.n && is_space(s.p[s.n - 1]))
		s.n--;
	return s;
}

static struct span span_of(const struct buf *b)
{
	return (struct span){buf_cstr(b), b->len};
}

/* --- tags --- */

static struct span take_word(struct span *rest)
{
	struct span word = {rest->p, 0};

	while (word.n < rest->n && is_word_byte(word.p[word.n]))
		word.n++;
	rest->p += word.n;
	rest->n -= word.n;
	return word;
}

/* Where the quoted text ends that starts at p: at a quote with a blank, "/" or nothing behind it. */
static size_t quoted_length(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] == '"' && (i + 1 == n || is_space(p[i + 1]) || p[i + 1] == '/'))
			return i;
	return n;
}

/* Takes one name="value" (or name=value) off the front of rest. */
static bool take_attribute(struct span *rest, struct span *name, struct span *value)
{
	size_t n;

	*rest = trim(*rest);
	*name = take_word(rest);
	*rest = trim(*rest);
	if (!name->n || !rest->n || rest->p[0] != '=')
		return false;
	*rest = trim((struct span){rest->p + 1, rest->n - 1});
	if (rest->n && rest->p[0] == '"') {
		n = quoted_length(rest->p + 1, rest->n - 1);
		*value = (struct span){rest->p + 1, n};
		n += n + 1 < rest->n ? 2 : 1;
	} else {
		for (n = 0; n < rest->n && !is_space(rest->p[n]) && rest->p[n] != '/'; n++)
			;
		*value = (struct span){rest->p, n};
	}
	rest->p += n;
	rest->n -= n;
	return true;
}

struct tag {
	struct span word, name, string;	/* p is NULL where there was none */
	bool self_closing;
};

static struct tag parse_tag(const struct buf *text)
{
	struct span rest = trim(span_of(text)), name, value;
	struct tag t = {.word = take_word(&rest)};

	while (take_attribute(&rest, &name, &value)) {
		if (is(name, "name"))
			t.name = value;
		else if (is(name, "string"))
			t.string = value;
	}
	t.self_closing = rest.n && rest.p[rest.n - 1] == '/';
	return t;
}

/* Can what came so far become an opener or a call?  Keeps prose about the token from being held back. */
static bool plausible(const struct buf *tag)
{
	struct span rest = span_of(tag), word;

	while (rest.n && is_space(rest.p[0])) {
		rest.p++;
		rest.n--;
	}
	word = take_word(&rest);
	if (word.n > MAX_WORD || tag->len > MAX_TAG)
		return false;
	return is(word, "invoke") || !trim(rest).n;
}

/* --- schemas --- */

const json_t *dsml_find_tool(const json_t *tools, const char *name, size_t n)
{
	for (size_t i = 0; i < json_array_size(tools); i++) {
		const json_t *tool = json_array_get(tools, i), *f = json_object_get(tool, "function");
		size_t have;
		const char *p = json_get_text(f ? f : tool, "name", &have);

		if (p && have == n && memcmp(p, name, n) == 0)
			return f ? f : tool;
	}
	return NULL;
}

/* Types that a schema names, as a set of bits; 0 when it does not say. */
enum { TYPE_STRING = 1, TYPE_INTEGER = 2, TYPE_NUMBER = 4, TYPE_BOOLEAN = 8, TYPE_ARRAY = 16, TYPE_OBJECT = 32,
       TYPE_NULL = 64 };

static unsigned type_bit(const json_t *name)
{
	static const char *const names[] = {"string", "integer", "number", "boolean", "array", "object", "null"};

	for (unsigned i = 0; json_is_text(name) && i < sizeof names / sizeof names[0]; i++)
		if (strcmp(json_string_value(name), names[i]) == 0)
			return 1u << i;
	return 0;
}

static unsigned schema_types(const json_t *schema)
{
	static const char *const unions[] = {"anyOf", "oneOf"};
	const json_t *type = json_object_get(schema, "type");
	unsigned bits = type_bit(type);

	for (size_t i = 0; i < json_array_size(type); i++)
		bits |= type_bit(json_array_get(type, i));
	for (size_t u = 0; !type && u < 2; u++) {
		const json_t *choices = json_object_get(schema, unions[u]);

		for (size_t i = 0; i < json_array_size(choices); i++) {
			const json_t *choice = json_object_get(json_array_get(choices, i), "type");

			if (!type_bit(choice))
				return 0;	/* something this does not look into */
			bits |= type_bit(choice);
		}
	}
	return bits;
}

static unsigned value_types(const json_t *v)
{
	if (json_is_big_integer(v))
		return TYPE_INTEGER | TYPE_NUMBER;
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		return TYPE_OBJECT;
	case JSON_ARRAY:
		return TYPE_ARRAY;
	case JSON_STRING:
		return json_is_text(v) ? TYPE_STRING : TYPE_NUMBER;
	case JSON_INTEGER:
		return TYPE_INTEGER | TYPE_NUMBER;
	case JSON_REAL:
		return TYPE_NUMBER;
	case JSON_NULL:
		return TYPE_NULL;
	default:
		return TYPE_BOOLEAN;
	}
}

static const json_t *property(const json_t *schema, const struct buf *name)
{
	return json_object_get(json_object_get(schema, "properties"), buf_cstr(name));
}

static enum dsml_value value_kind(struct span string, const json_t *schema)
{
	unsigned types = schema_types(schema);

	if (is(string, "false"))
		return VALUE_JSON;
	if (is(string, "true"))
		return types && !(types & TYPE_STRING) ? VALUE_TYPED : VALUE_TEXT;
	return types & TYPE_STRING ? VALUE_TEXT : VALUE_GUESS;
}

/* --- events --- */

static void report(struct dsml_reader *r, const struct buf *json)
{
	r->failed |= !buf_ok(json);
	r->events->arguments(r->events->ctx, buf_cstr(json), json->len);
}

static void report_str(struct dsml_reader *r, const char *json)
{
	r->events->arguments(r->events->ctx, json, strlen(json));
}

static void begin_call(struct dsml_reader *r, struct span name)
{
	r->n_calls++;
	r->n_members = 0;
	r->in_call = true;
	r->state = DSML_IN_CALL;
	r->function = dsml_find_tool(r->tools, name.p, name.n);
	r->events->begin(r->events->ctx, name.p, name.n);
	report_str(r, "{");
}

static void end_call(struct dsml_reader *r)
{
	report_str(r, "}");
	r->in_call = false;
	r->state = DSML_BETWEEN;
	r->events->end(r->events->ctx, r->n_members);
}

static void write_member_name(struct buf *out, const struct buf *name, bool first)
{
	buf_str(out, first ? "" : ", ");
	json_write_string(out, buf_cstr(name), name->len);
	buf_str(out, ": ");
}

static void open_parameter(struct dsml_reader *r, const struct tag *t)
{
	struct dsml_parameter *p = &r->open[r->n_open], *outer = r->n_open ? p - 1 : NULL;
	struct buf b = BUF_CAP(BUF_MAX);

	*p = (struct dsml_parameter){.kind = VALUE_TEXT};
	p->name = p->text = p->members = (struct buf)BUF_CAP(BUF_MAX);
	buf_add(&p->name, t->name.p, t->name.n);
	p->schema = property(outer ? outer->schema : json_object_get(r->function, "parameters"), &p->name);
	p->kind = value_kind(t->string, p->schema);
	p->streamed = p->kind == VALUE_TEXT && !outer && !r->hold;
	r->n_open++;
	r->state = DSML_IN_VALUE;
	if (!p->streamed)
		return;
	write_member_name(&b, &p->name, r->n_members++ == 0);
	buf_byte(&b, '"');
	report(r, &b);
	buf_clear(&b);
}

static void clear_parameter(struct dsml_reader *r)
{
	struct dsml_parameter *p = &r->open[--r->n_open];

	r->failed |= !buf_ok(&p->name) || !buf_ok(&p->text) || !buf_ok(&p->members);
	buf_clear(&p->name);
	buf_clear(&p->text);
	buf_clear(&p->members);
}

/* The JSON of a closed value: its own text where that is valid (and of the type wanted), else a string of it. */
static void write_value(struct dsml_reader *r, struct buf *out, const struct dsml_parameter *p)
{
	json_t *v = NULL;
	struct err err = {0};
	unsigned types = schema_types(p->schema);

	if (p->members.len) {
		buf_byte(out, '{');
		buf_add(out, p->members.data, p->members.len);
		buf_byte(out, '}');
		return;
	}
	if (p->kind != VALUE_TEXT)
		v = json_parse(buf_cstr(&p->text), p->text.len, &err);
	r->failed |= err.code == ERR_MEMORY;
	if (v && (p->kind != VALUE_TYPED || (value_types(v) & types)))
		buf_add(out, p->text.data, p->text.len);
	else
		json_write_string(out, buf_cstr(&p->text), p->text.len);
	json_decref(v);
}

static void close_parameter(struct dsml_reader *r)
{
	struct dsml_parameter *p = &r->open[r->n_open - 1], *outer = r->n_open > 1 ? p - 1 : NULL;
	struct buf b = BUF_CAP(BUF_MAX);

	if (p->streamed) {
		report_str(r, "\"");
	} else if (outer) {
		write_member_name(&outer->members, &p->name, !outer->members.len);
		write_value(r, &outer->members, p);
	} else {
		write_member_name(&b, &p->name, r->n_members++ == 0);
		write_value(r, &b, p);
		report(r, &b);
	}
	buf_clear(&b);
	clear_parameter(r);
	if (!r->n_open)
		r->state = DSML_IN_CALL;
}

static void add_to_value(struct dsml_reader *r, const char *text, size_t n)
{
	struct dsml_parameter *p = &r->open[r->n_open - 1];
	struct buf b = BUF_CAP(BUF_MAX);

	if (!p->streamed) {
		buf_add(&p->text, text, n);
		return;
	}
	json_write_escaped(&b, text, n);
	if (b.len)
		report(r, &b);
	buf_clear(&b);
}

/* --- states --- */

static bool tail_is(const struct dsml_reader *r, const char *end)
{
	size_t n = strlen(end);

	return r->n_tail >= n && memcmp(r->tail + r->n_tail - n, end, n) == 0;
}

static void tail_push(struct dsml_reader *r, char c)
{
	r->tail[r->n_tail++] = c;
}

/* Something between tags that is none.  Behind a complete call it ends the block. */
static enum dsml_step junk(struct dsml_reader *r)
{
	return r->state == DSML_BETWEEN && r->n_calls ? DSML_END : DSML_JUNK;
}

static void start_tag(struct dsml_reader *r)
{
	r->before_tag = r->state;
	r->state = tail_is(r, "</") ? DSML_IN_CLOSER : DSML_IN_TAG;
	buf_cut(&r->tag, 0);
	r->in_quotes = r->maybe_unquoted = false;
}

static enum dsml_step read_outside(struct dsml_reader *r, const struct symbol *s)
{
	bool had_tail = r->n_tail > 0;
	char c = s->text[0];

	if (s->mark == MARK_DSML && had_tail) {
		start_tag(r);
		r->n_tail = 0;
		return DSML_MORE;
	}
	if (s->mark == MARK_TEXT && c == '/' && tail_is(r, "<")) {
		tail_push(r, c);
		return DSML_MORE;
	}
	r->n_tail = 0;
	if (s->mark == MARK_TEXT && c == '<')
		tail_push(r, c);
	else if (s->mark != MARK_TEXT || !is_space(c))
		return junk(r);
	return had_tail ? junk(r) : DSML_MORE;
}

static void flush_tail(struct dsml_reader *r)
{
	add_to_value(r, r->tail, r->n_tail);
	r->n_tail = 0;
}

/* May a nested parameter start here?  Only in a value that does not say it is a string or JSON. */
static bool may_nest(const struct dsml_reader *r)
{
	const struct dsml_parameter *p = &r->open[r->n_open - 1];

	return p->kind == VALUE_GUESS && !trim(span_of(&p->text)).n && r->n_open < DSML_MAX_NESTING;
}

static void read_value(struct dsml_reader *r, const struct symbol *s)
{
	char c = s->text[0];

	if (s->mark == MARK_DSML && (tail_is(r, "</") || (tail_is(r, "<") && may_nest(r)))) {
		start_tag(r);	/* the tail stays: this may turn out to be text */
		return;
	}
	if (s->mark == MARK_TEXT && (c == '<' || c == '\n')) {
		if (c == '\n' || tail_is(r, "<") || tail_is(r, "/"))
			flush_tail(r);
		tail_push(r, c);
		return;
	}
	if (s->mark == MARK_TEXT && c == '/' && tail_is(r, "<")) {
		tail_push(r, c);
		return;
	}
	flush_tail(r);
	add_to_value(r, s->text, s->n);
}

/* The tag being read is none.  In a value it was text; s is then read again. */
static enum dsml_step forget_tag(struct dsml_reader *r, const struct symbol *s)
{
	struct span t = span_of(&r->tag);

	r->state = r->before_tag;
	if (r->state == DSML_IN_VALUE) {
		flush_tail(r);
		add_to_value(r, special_text(SPECIAL_DSML), strlen(special_text(SPECIAL_DSML)));
		for (size_t i = 0; i < t.n; i++)
			read_value(r, &(struct symbol){MARK_TEXT, t.p + i, 1});
		return dsml_read(r, s);
	}
	if (!r->n_calls)
		return DSML_JUNK;
	if (t.n && t.p[t.n - 1] == '<')	/* perhaps the start of the next one */
		tail_push(r, '<');
	else if (t.n > 1 && t.p[t.n - 1] == '/' && t.p[t.n - 2] == '<')
		memcpy(r->tail, "</", r->n_tail = 2);
	return dsml_read(r, s);
}

static enum dsml_step take_tag(struct dsml_reader *r, const struct symbol *s)
{
	struct tag t = parse_tag(&r->tag);
	bool call = is(t.word, "invoke") && t.name.p, parameter = is(t.word, "parameter") && t.name.p;

	r->state = r->before_tag;
	if (r->state == DSML_IN_VALUE && !parameter)
		return forget_tag(r, s);
	r->n_tail = 0;
	if (parameter && r->in_call) {
		open_parameter(r, &t);
		if (t.self_closing)
			close_parameter(r);
	} else if (call) {
		if (r->in_call)
			end_call(r);
		begin_call(r, t.name);
		if (t.self_closing)
			end_call(r);
	} else if (!r->n_calls) {
		if (r->opened || is(t.word, "parameter") || is(t.word, "invoke"))
			return DSML_JUNK;
		r->opened = true;
		r->proper = is(t.word, "tool_calls");
	}
	return DSML_MORE;
}

static enum dsml_step read_tag(struct dsml_reader *r, const struct symbol *s)
{
	char c = s->text[0];

	if (s->mark != MARK_TEXT)
		return forget_tag(r, s);
	if (r->maybe_unquoted && (is_space(c) || c == '/' || c == '>'))
		r->in_quotes = false;
	if (c == '>' && !r->in_quotes)
		return take_tag(r, s);
	r->maybe_unquoted = c == '"' && r->in_quotes;
	if (c == '"')
		r->in_quotes = true;
	buf_byte(&r->tag, c);
	if (r->tag.len > MAX_TAG || (!r->n_calls && !plausible(&r->tag))) {
		buf_cut(&r->tag, r->tag.len - 1);
		return forget_tag(r, s);
	}
	return DSML_MORE;
}

static bool closes_block(struct span word)
{
	return is(word, "tool_calls") || is(word, "function_calls") || is(word, "toolcalls");
}

/* Applies the closing tag in r->tag; false when it closes nothing here, so that in a value it is text. */
static bool take_closer(struct dsml_reader *r, enum dsml_step *step)
{
	struct span word = trim(span_of(&r->tag));
	bool parameter = is(word, "parameter"), call = is(word, "invoke");

	*step = DSML_MORE;
	if (r->before_tag == DSML_IN_VALUE && !parameter && !call && !closes_block(word))
		return false;
	r->state = r->before_tag;
	if (r->state == DSML_IN_VALUE) {
		if (parameter && r->tail[0] == '\n')
			add_to_value(r, "\n", 1);
		do
			close_parameter(r);
		while (!parameter && r->n_open);
	}
	r->n_tail = 0;
	if (parameter)
		return true;
	if (r->in_call)
		end_call(r);
	if (!call)
		*step = r->n_calls ? DSML_END : DSML_EMPTY;
	return true;
}

static enum dsml_step read_closer(struct dsml_reader *r, const struct symbol *s)
{
	enum dsml_step step;
	char c = s->text[0];

	if (s->mark == MARK_TEXT && c == '>' && take_closer(r, &step))
		return step;
	if (s->mark != MARK_TEXT || !(is_word_byte(c) || is_space(c)) || r->tag.len == MAX_WORD)
		return forget_tag(r, s);
	buf_byte(&r->tag, c);
	return DSML_MORE;
}

enum dsml_step dsml_read(struct dsml_reader *r, const struct symbol *s)
{
	switch (r->state) {
	case DSML_IN_VALUE:
		read_value(r, s);
		return DSML_MORE;
	case DSML_IN_TAG:
		return read_tag(r, s);
	case DSML_IN_CLOSER:
		return read_closer(r, s);
	default:
		return read_outside(r, s);
	}
}

void dsml_reader_start(struct dsml_reader *r, const struct dsml_events *events, const json_t *tools)
{
	*r = (struct dsml_reader){.events = events, .tools = tools, .hold = true, .tag = BUF_CAP(BUF_MAX)};
	r->state = DSML_IN_TAG;
	r->before_tag = DSML_BETWEEN;
}

void dsml_reader_clear(struct dsml_reader *r)
{
	while (r->n_open)
		clear_parameter(r);
	r->failed |= !buf_ok(&r->tag);
	buf_clear(&r->tag);
}

bool dsml_reader_finish(struct dsml_reader *r, bool drop)
{
	enum dsml_step step;

	if (r->state == DSML_IN_CLOSER)
		take_closer(r, &step);
	if (r->n_open && !drop)
		return false;
	while (r->n_open)
		clear_parameter(r);
	if (r->in_call)
		end_call(r);
	return r->n_calls > 0;
}
