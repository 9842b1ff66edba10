/* api_say.c - builds the neutral conversation of a request: docs/chat.md, section 4.
 *
 * What  System texts before the first other message become one system message, which also carries tools and format;
 *       later ones become text of the user's turn where they stand.  Hoisting them would rewrite the beginning of the
 *       prompt, and everything that was read would have to be read again.
 * How   say_* calls in the order of the request, after tools and format are known; say_end() checks the last message. */
#include <string.h>

#include "base/mem.h"
#include "server/api_request_int.h"

bool say_begin(struct parsing *p)
{
	bool tools = json_array_size(p->q->tools) > 0;	/* with tool_choice none, turn.h hides them */
	struct message *m;

	if (p->begun)
		return true;
	p->begun = true;
	if (!p->system.len && !tools && !p->format)
		return true;
	m = conversation_add(p->c, ROLE_SYSTEM, buf_cstr(&p->system), p->system.len);
	if (!m || !buf_ok(&p->system))
		return parsing_no_memory(p);
	if (tools)
		m->tools = json_incref(p->q->tools);
	if (p->format)
		m->response_format = json_incref((json_t *)p->format);
	return true;
}

bool say_system(struct parsing *p, const char *text, size_t n)
{
	if (!n)
		return true;
	if (p->begun)
		return say(p, ROLE_USER, text, n) != NULL;
	buf_str(&p->system, p->system.len ? "\n\n" : "");
	buf_add(&p->system, text, n);
	return true;
}

struct message *say(struct parsing *p, enum role role, const char *text, size_t n)
{
	struct message *m;

	if (!say_begin(p))
		return NULL;
	m = conversation_add(p->c, role, text, n);
	if (!m)
		parsing_no_memory(p);
	return m;
}

bool say_result(struct parsing *p, struct slice id, const char *text, size_t n)
{
	char *copy = slice_copy(id);
	bool ok = copy && say_begin(p) && conversation_add_tool_result(p->c, copy, text, n);

	mem_free(copy);
	return ok || parsing_no_memory(p);
}

void say_call(struct parsing *p, struct message *m, struct slice id, const char *name, const char *arguments, size_t n)
{
	struct tool_call call = {.id = {(char *)id.p, id.n},
				 .name = {(char *)name, strlen(name)},
				 .arguments = {(char *)arguments, n}};

	conversation_add_call(p->c, m, &call);
}

/* An answer that is to be continued. */
static bool continue_last(struct message *m, const struct field *messages)
{
	if (m->n_calls)
		return field_fail(messages, "the last message is an assistant's with tool calls: "
					    "expected their results after it");
	if (!m->content.n && !m->reasoning.n)
		return field_fail(messages, "the last message is an empty one of the assistant: "
					    "expected text to continue");
	m->unfinished = true;
	return true;
}

bool say_end(struct parsing *p, const struct field *messages)
{
	struct message *last;

	if (!say_begin(p))
		return false;
	last = p->c->n ? &p->c->messages[p->c->n - 1] : NULL;
	if ((!last || last->role == ROLE_SYSTEM) && !say(p, ROLE_USER, "", 0))
		return false;
	if (last && last->role == ROLE_ASSISTANT && !continue_last(last, messages))
		return false;
	if (!conversation_ok(p->c))
		return parsing_no_memory(p);
	p->q->turn.conversation = p->c;
	p->c = NULL;
	return true;
}

bool read_part(const struct field *part, struct buf *out)
{
	static const char *const text_types[] = {"text", "input_text", "output_text", "reasoning_text", "summary_text"};
	struct field type_field = field_get(part, "type");
	struct slice type = {.p = NULL}, text = {.p = NULL};

	if (json_is_text(part->v)) {
		buf_add(out, json_string_value(part->v), json_string_length(part->v));
		return true;
	}
	if (!json_is_object(part->v))
		return field_wrong(part, "a part with a type");
	if (!field_text(&type_field, &type) || !get_text(part, "text", &text))
		return false;
	if (!type.p && !text.p)
		return field_missing(&type_field);
	if (slice_is(type, "refusal") && !get_text(part, "refusal", &text))
		return false;
	for (size_t i = 0; type.p && i < sizeof text_types / sizeof *text_types; i++) {
		if (slice_is(type, text_types[i]))
			type.p = NULL;
	}
	if (!type.p || slice_is(type, "refusal"))
		buf_add(out, text.p, text.p ? text.n : 0);
	else
		buf_printf(out, "[Unsupported %.*s]", slice_shown(type), type.p);
	return true;
}

bool read_parts(const struct field *f, const char *between, struct buf *out)
{
	if (json_is_text(f->v)) {
		buf_add(out, json_string_value(f->v), json_string_length(f->v));
		return true;
	}
	if (f->v && !json_is_array(f->v))
		return field_wrong(f, "a string or an array of parts");
	for (size_t i = 0; i < field_count(f); i++) {
		struct field part = field_at(f, i);

		buf_str(out, i ? between : "");
		if (!read_part(&part, out))
			return false;
	}
	return true;
}
