/* api_said.c - collects what was said in an answer: for answers that are not streamed, and for the events of streams
 * that repeat the whole (Responses).
 *
 * What  Texts and calls as they came, and the text of a custom tool: the model writes {"input": "..."}, the client wants
 *       what is inside the quotes, as it comes.
 * How   call_read_input() is a reader of one JSON string that remembers where it was; arguments of any other shape are
 *       handed out whole at the end. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "server/api_write_int.h"

enum { INPUT_BEFORE, INPUT_INSIDE, INPUT_DONE, INPUT_OTHER };

static const struct api_tool *find_tool(const struct api_request *q, const char *name, size_t n)
{
	for (size_t i = 0; i < q->n_tool; i++)
		if (strlen(q->tool[i].name) == n && memcmp(q->tool[i].name, name, n) == 0)
			return &q->tool[i];
	return NULL;
}

static void begin_call(struct said *s, const struct turn_event *ev, const struct api_request *q)
{
	struct said_call *calls = mem_grow(s->call, s->n + 1, sizeof *calls), *c;

	if (!calls) {
		s->failed = true;
		return;
	}
	s->call = calls;
	c = &calls[s->n++];
	*c = (struct said_call){.name = BUF_CAP(BUF_MAX),
				.arguments = BUF_CAP(BUF_MAX),
				.input = BUF_CAP(BUF_MAX),
				.tool = find_tool(q, ev->text, ev->n)};
	buf_add(&c->name, ev->text, ev->n);
	if (ev->call_id)
		snprintf(c->id, sizeof c->id, "%s", ev->call_id);
}

static void add(struct said *s, struct buf *b, const struct turn_event *ev, struct buf *logprobs,
		const struct tokenizer *t)
{
	b->cap = logprobs->cap = BUF_MAX;
	buf_add(b, ev->text, ev->n);
	if (ev->logprob && ev->n_logprob > 0)
		js_logprobs(logprobs, t, ev->logprob, ev->n_logprob);
	s->failed |= !buf_ok(b) || !buf_ok(logprobs);
}

void said_take(struct said *s, const struct turn_event *ev, const struct api_request *q, const struct tokenizer *t,
	       bool texts)
{
	switch (ev->kind) {
	case TURN_REASONING:
		if (texts)
			add(s, &s->reasoning, ev, &s->reasoning_logprobs, t);
		break;
	case TURN_CONTENT:
		if (texts)
			add(s, &s->content, ev, &s->logprobs, t);
		break;
	case TURN_CALL_BEGIN:
		begin_call(s, ev, q);
		break;
	case TURN_CALL_ARGUMENTS:
		if (!s->n)
			break;
		buf_add(&s->call[s->n - 1].arguments, ev->text, ev->n);
		s->failed |= !buf_ok(&s->call[s->n - 1].arguments);
		break;
	case TURN_CALL_END:
		if (s->n)
			s->call[s->n - 1].complete = true;
		break;
	default:
		break;
	}
}

void said_clear(struct said *s)
{
	for (size_t i = 0; i < s->n; i++) {
		buf_clear(&s->call[i].name);
		buf_clear(&s->call[i].arguments);
		buf_clear(&s->call[i].input);
	}
	mem_free(s->call);
	buf_clear(&s->reasoning);
	buf_clear(&s->content);
	buf_clear(&s->logprobs);
	buf_clear(&s->reasoning_logprobs);
	*s = (struct said){0};
}

const char *call_name(const struct said_call *c)
{
	return c->tool ? c->tool->wire_name : buf_cstr(&c->name);
}

bool call_is(const struct said_call *c, enum api_tool_kind kind)
{
	return c->tool ? c->tool->kind == kind : kind == API_TOOL_FUNCTION;
}

/* Passes {"input":" at the start of the arguments; spaces may stand between.  1 passed, 0 more is needed, -1 not so. */
static int pass_opening(const char *p, size_t n, size_t *at)
{
	static const char *const parts[] = {"{", "\"input\"", ":", "\""};
	size_t i = 0;

	for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
		size_t len = strlen(parts[k]), have;

		while (i < n && strchr(" \t\r\n", p[i]))
			i++;
		have = n - i < len ? n - i : len;
		if (memcmp(p + i, parts[k], have))
			return -1;
		if (have < len)
			return 0;
		i += len;
	}
	*at = i;
	return 1;
}

/* Bytes of the escape at p, 0 when it is not all there yet.  A high surrogate waits for its partner. */
static size_t escape_length(const char *p, size_t n)
{
	if (n < 2)
		return 0;
	if (p[1] != 'u')
		return 2;
	if (n < 6)
		return 0;
	if ((p[2] != 'd' && p[2] != 'D') || !strchr("89abAB", p[3]))
		return 6;
	if (n > 6 && p[6] != '\\')
		return 6;
	if (n > 7 && p[7] != 'u')
		return 6;
	return n < 12 ? 0 : 12;
}

static void add_escape(struct said_call *c, const char *p, size_t n)
{
	struct buf quoted = BUF_CAP(64);
	struct err err = {0};
	json_t *v;

	buf_byte(&quoted, '"');
	buf_add(&quoted, p, n);
	buf_byte(&quoted, '"');
	v = json_parse(buf_cstr(&quoted), quoted.len, &err);
	c->input.failed |= !buf_ok(&quoted) || err.code == ERR_MEMORY;
	if (v)
		buf_add(&c->input, json_string_value(v), json_string_length(v));
	json_decref(v);
	buf_clear(&quoted);
}

static void read_inside(struct said_call *c, bool end)
{
	const char *p = c->arguments.data;
	size_t n = c->arguments.len;

	while (c->input_at < n && c->input_state == INPUT_INSIDE) {
		size_t from = c->input_at, len;

		while (c->input_at < n && p[c->input_at] != '"' && p[c->input_at] != '\\')
			c->input_at++;
		buf_add(&c->input, p + from, c->input_at - from);
		if (c->input_at == n)
			break;
		if (p[c->input_at] == '"') {
			c->input_state = INPUT_DONE;
			break;
		}
		len = escape_length(p + c->input_at, n - c->input_at);
		if (!len && !end)
			break;
		if (!len)
			len = n - c->input_at;
		add_escape(c, p + c->input_at, len);
		c->input_at += len;
	}
}

/* The text of arguments that are not of the usual shape. */
static void read_whole(struct said_call *c)
{
	struct err err = {0};
	json_t *v = json_parse(buf_cstr(&c->arguments), c->arguments.len, &err);
	size_t n = 0;
	const char *p = json_get_text(v, "input", &n);

	c->input.failed |= err.code == ERR_MEMORY;
	if (p)
		buf_add(&c->input, p, n);
	else if (json_object_size(v) || !v)
		buf_add(&c->input, c->arguments.data, c->arguments.len);
	json_decref(v);
	c->input_state = INPUT_DONE;
}

void call_read_input(struct said_call *c, bool end)
{
	if (c->input_state == INPUT_BEFORE) {
		int passed = pass_opening(buf_cstr(&c->arguments), c->arguments.len, &c->input_at);

		c->input_state = passed > 0 ? INPUT_INSIDE : passed < 0 ? INPUT_OTHER : INPUT_BEFORE;
	}
	if (c->input_state == INPUT_INSIDE)
		read_inside(c, end);
	if (end && (c->input_state == INPUT_OTHER || c->input_state == INPUT_BEFORE))
		read_whole(c);
}

void js_arguments(struct buf *out, const char *key, const struct said_call *c)
{
	struct err err = {0};
	json_t *v = json_parse(buf_cstr(&c->arguments), c->arguments.len, &err);

	out->failed |= err.code == ERR_MEMORY;
	if (json_is_object(v))
		js_raw(out, key, c->arguments.data, c->arguments.len);
	else
		js_raw(out, key, "{}", 2);
	json_decref(v);
}
