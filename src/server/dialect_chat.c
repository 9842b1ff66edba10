/* dialect_chat.c - POST /v1/chat/completions: the request.  The answer is in dialect_chat_write.c.
 *
 * Careful
 *       - OpenAI's role developer is a system message here, not DeepSeek's developer.
 *       - Tool arguments arrive as a string of JSON, from some clients as an object.
 * Source: docs/api.md, section 4. */
#include "server/dialect_chat_int.h"

#include <string.h>

#include "server/api_request_int.h"

/* Reasoning: reasoning_content, or reasoning as some clients call it; text or parts. */
static bool read_reasoning(struct parsing *p, struct message *m, const struct field *o)
{
	struct field f = field_get(o, "reasoning_content");
	struct buf b = BUF_CAP(BUF_MAX);
	bool ok;

	if (!f.v)
		f = field_get(o, "reasoning");
	ok = read_parts(&f, "", &b);
	if (ok && b.len)
		conversation_set_reasoning(p->c, m, b.data, b.len);
	buf_clear(&b);
	return ok;
}

static bool read_arguments(const struct field *f, struct buf *out)
{
	if (json_is_text(f->v))
		buf_add(out, json_string_value(f->v), json_string_length(f->v));
	else if (json_is_object(f->v))
		json_write_python(out, f->v);
	else if (f->v)
		return field_wrong(f, "a string or an object");
	if (!out->len)
		buf_str(out, "{}");
	return true;
}

static bool read_call(struct parsing *p, struct message *m, const struct field *o)
{
	struct field type_field = field_get(o, "type"), custom = field_get(o, "custom");
	struct field f = custom.v ? custom : field_get(o, "function"), name_field = field_get(&f, "name");
	struct field arguments = field_get(&f, "arguments");
	struct slice type = {.p = NULL}, id = {.p = NULL}, name = {.p = NULL}, input = {.p = NULL};
	struct buf b = BUF_CAP(BUF_MAX);
	bool ok = true;

	if (!json_is_object(o->v))
		return field_wrong(o, "an object");
	if (!field_text(&type_field, &type) || !get_text(o, "id", &id))
		return false;
	if (!f.v)
		return field_missing(&f);
	if (!field_object(&f) || !field_text(&name_field, &name))
		return false;
	if (!name.n)
		return field_missing(&name_field);
	if (custom.v) {
		ok = get_text(&f, "input", &input);
		custom_arguments(&b, input);
	} else {
		ok = read_arguments(&arguments, &b);
	}
	if (ok)
		say_call(p, m, id, name.p, b.data, b.len);
	ok = ok && (buf_ok(&b) || parsing_no_memory(p));
	buf_clear(&b);
	return ok;
}

static bool read_assistant(struct parsing *p, const struct field *o, const struct buf *content)
{
	struct field calls = field_get(o, "tool_calls");
	struct message *m = say(p, ROLE_ASSISTANT, content->data, content->len);

	if (!m || !read_reasoning(p, m, o) || !field_array(&calls))
		return false;
	for (size_t i = 0; i < field_count(&calls); i++) {
		struct field call = field_at(&calls, i);

		if (!read_call(p, m, &call))
			return false;
	}
	return true;
}

static bool read_role(struct parsing *p, const struct field *o, const struct field *role_field, const struct buf *content)
{
	struct slice role = {"user", 4}, id = {.p = NULL};

	if (!field_text(role_field, &role))
		return false;
	if (slice_is(role, "system") || slice_is(role, "developer"))
		return say_system(p, buf_cstr(content), content->len);
	if (slice_is(role, "user"))
		return say(p, ROLE_USER, content->data, content->len) != NULL;
	if (slice_is(role, "assistant"))
		return read_assistant(p, o, content);
	if (slice_is(role, "tool") || slice_is(role, "function"))
		return get_text(o, "tool_call_id", &id) && say_result(p, id, content->data, content->len);
	return field_wrong(role_field, "system, developer, user, assistant, tool or function");
}

static bool read_message(struct parsing *p, const struct field *o)
{
	struct field role = field_get(o, "role"), content = field_get(o, "content");
	struct buf b = BUF_CAP(BUF_MAX);
	const char *name = json_string_value(role.v);
	bool is_assistant = name && strcmp(name, "assistant") == 0, ok;

	if (!json_is_object(o->v))
		return field_wrong(o, "an object");
	ok = read_parts(&content, is_assistant ? "" : "\n\n", &b) && read_role(p, o, &role, &b) &&
	     (buf_ok(&b) || parsing_no_memory(p));
	buf_clear(&b);
	return ok;
}

static bool read_messages(struct parsing *p)
{
	struct field messages = field_get(&p->body, "messages");

	if (!messages.v)
		return field_missing(&messages);
	if (!field_array(&messages))
		return false;
	if (!field_count(&messages))
		return field_fail(&messages, "expected at least one message, found none");
	for (size_t i = 0; i < field_count(&messages); i++) {
		struct field m = field_at(&messages, i);

		if (!read_message(p, &m))
			return false;
	}
	return say_end(p, &messages);
}

bool parse_stream_options(struct parsing *p)
{
	struct field options = field_get(&p->body, "stream_options");

	return field_object(&options) && get_bool(&options, "include_usage", &p->q->include_usage);
}

static bool read_logprobs(struct parsing *p)
{
	struct field top = field_get(&p->body, "top_logprobs");
	int64_t n = 0;

	if (!get_bool(&p->body, "logprobs", &p->q->logprobs) || !field_int(&top, 0, 20, &n))
		return false;
	if (n && !p->q->logprobs)
		return field_fail(&top, "expected logprobs to be true as well");
	p->q->turn.top_logprobs = p->q->logprobs ? (int32_t)n : -1;
	return true;
}

static bool read_all(struct parsing *p)
{
	struct field effort = field_get(&p->body, "reasoning_effort"), format = field_get(&p->body, "response_format");

	return parse_thinking(p) && parse_effort(p, &effort) && parse_sampling(p) &&
	       parse_max_tokens(p, "max_tokens", 1) && parse_max_tokens(p, "max_completion_tokens", 1) &&
	       parse_stop(p, "stop") && parse_stream_options(p) && read_logprobs(p) && parse_refused(p) &&
	       parse_format(p, &format, "json_schema") && parse_parallel(p) && parse_tools(p, TOOLS_CHAT) &&
	       parse_tool_choice(p, TOOLS_CHAT) && read_messages(p);
}

bool chat_parse(json_t *body, const struct dialect_env *env, struct api_request *q, struct api_error *e)
{
	struct parsing p;
	bool ok = parsing_begin(&p, body, env, q, e) && read_all(&p);

	if (ok)
		parse_end(&p);
	parsing_clear(&p);
	return ok;
}

const struct dialect dialect_chat = {
	.name = "chat",
	.path = "/v1/chat/completions",
	.input = "messages",
	.format = "response_format",
	.request_id = "x-request-id",
	.busy = 503,
	.parse = chat_parse,
	.open = chat_open,
	.event = chat_event,
	.fail = chat_failed,
	.close = chat_close,
	.error = api_error_write_openai,
};
