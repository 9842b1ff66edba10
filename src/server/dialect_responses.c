/* dialect_responses.c - POST /v1/responses: the request.  The answer is in dialect_responses_write.c.
 *
 * What  The input is a list of items.  Adjacent ones of an assistant's turn (reasoning, message, calls) are one message
 *       of the conversation; results and other messages stand for themselves.
 * How   A run of assistant items is only remembered by its bounds; when another item ends it, it is read twice: texts
 *       first, then calls.
 * Careful
 *       - An item that was cut off (status not completed) can only end its turn; a cut call without a result is dropped.
 *       - Reasoning comes as content, as summary and sealed (encrypted_content, our carrier): the carrier names the exact
 *         tokens, the text is for when nobody remembers them.
 * Source: docs/api.md, section 6. */
#include "server/dialect_responses_int.h"

#include <string.h>

#include "base/mem.h"
#include "server/api_request_int.h"

enum item_kind {
	ITEM_MESSAGE,	/* of system, developer or user */
	ITEM_SAID,	/* message of the assistant */
	ITEM_REASONING,
	ITEM_FUNCTION_CALL,
	ITEM_CUSTOM_CALL,
	ITEM_SHELL_CALL,
	ITEM_SEARCH_CALL,
	ITEM_RESULT,
	ITEM_SKIPPED	/* hosted tools and compaction: they say nothing to the model */
};

static const struct {
	const char *type;
	enum item_kind kind;
} item_table[] = {
	{"message", ITEM_MESSAGE},
	{"reasoning", ITEM_REASONING},
	{"function_call", ITEM_FUNCTION_CALL},
	{"custom_tool_call", ITEM_CUSTOM_CALL},
	{"local_shell_call", ITEM_SHELL_CALL},
	{"tool_search_call", ITEM_SEARCH_CALL},
	{"function_call_output", ITEM_RESULT},
	{"custom_tool_call_output", ITEM_RESULT},
	{"local_shell_call_output", ITEM_RESULT},
	{"tool_search_output", ITEM_RESULT},
	{"web_search_call", ITEM_SKIPPED},
	{"image_generation_call", ITEM_SKIPPED},
	{"image_generation_call_output", ITEM_SKIPPED},
	{"compaction", ITEM_SKIPPED},
	{"context_compaction", ITEM_SKIPPED},
};

struct reader {
	struct parsing p;
	json_t *calls;		/* object: the ids of call items so far */
	size_t first, n;	/* the run of assistant items that is open: [first, first + n) */
};

static bool is_call(enum item_kind k)
{
	return k >= ITEM_FUNCTION_CALL && k <= ITEM_SEARCH_CALL;
}

static bool is_assistant(enum item_kind k)
{
	return k == ITEM_SAID || k == ITEM_REASONING || is_call(k);
}

static bool item_kind(const struct field *item, enum item_kind *kind)
{
	struct field type_field = field_get(item, "type"), role_field = field_get(item, "role");
	struct slice type = {.p = NULL}, role = {.p = NULL};

	if (!json_is_object(item->v))
		return field_wrong(item, "an object");
	if (!field_text(&type_field, &type) || !field_text(&role_field, &role))
		return false;
	if (!type.p && !role.p)
		return field_missing(&type_field);
	if (!type.p)
		type = (struct slice){"message", 7};
	for (size_t i = 0; i < sizeof item_table / sizeof *item_table; i++) {
		if (!slice_is(type, item_table[i].type))
			continue;
		*kind = item_table[i].kind;
		if (*kind == ITEM_MESSAGE && slice_is(role, "assistant"))
			*kind = ITEM_SAID;
		return true;
	}
	return field_fail(&type_field, "unknown item type \"%.*s\"", slice_shown(type), type.p);
}

/* --- an assistant's turn --- */

struct said_before {
	struct buf text, reasoning;
	struct slice carrier;
};

static bool read_reasoning(const struct field *item, struct said_before *said)
{
	struct field content = field_get(item, "content"), summary = field_get(item, "summary");
	bool use_summary = !field_count(&content);

	if (!field_array(&content) || !field_array(&summary))
		return false;
	if (!get_text(item, "encrypted_content", &said->carrier))
		return false;
	if (said->reasoning.len && (field_count(&content) || field_count(&summary)))
		buf_str(&said->reasoning, "\n\n");
	return use_summary ? read_parts(&summary, "\n\n", &said->reasoning)
			   : read_parts(&content, "", &said->reasoning);
}

/* The arguments of a call item, in the form of the prompt. */
static bool read_arguments(const struct field *item, enum item_kind kind, struct buf *out)
{
	struct field f = field_get(item, kind == ITEM_CUSTOM_CALL  ? "input"
					 : kind == ITEM_SHELL_CALL ? "action"
								   : "arguments");
	struct slice text = {.p = NULL};

	if (kind == ITEM_CUSTOM_CALL) {
		if (!field_text(&f, &text))
			return false;
		custom_arguments(out, text);
		return true;
	}
	if (f.v && !json_is_text(f.v) && !json_is_object(f.v))
		return field_wrong(&f, "a string or an object");
	if (json_is_text(f.v))
		buf_add(out, json_string_value(f.v), json_string_length(f.v));
	else if (f.v)
		json_write_python(out, f.v);
	if (!out->len)
		buf_str(out, "{}");
	return true;
}

static bool call_id_of(const struct field *item, struct slice *id)
{
	struct field f = field_get(item, "call_id"), own = field_get(item, "id");

	if (!field_text(&f, id))
		return false;
	if (!id->p && !field_text(&own, id))
		return false;
	return id->p || field_missing(&f);
}

static bool read_call(struct reader *r, struct message *m, const struct field *item, enum item_kind kind)
{
	struct field name_field = field_get(item, "name");
	struct slice name = {.p = NULL}, space = {.p = NULL}, id = {.p = NULL};
	struct buf arguments = BUF_CAP(BUF_MAX);
	char *prompt_name;
	bool ok;

	if (!field_text(&name_field, &name) || !get_text(item, "namespace", &space) || !call_id_of(item, &id))
		return false;
	if (kind == ITEM_SHELL_CALL)
		name = (struct slice){"local_shell", 11};
	if (kind == ITEM_SEARCH_CALL)
		name = (struct slice){"tool_search", 11};
	if (!name.n)
		return field_missing(&name_field);
	if (!read_arguments(item, kind, &arguments)) {
		buf_clear(&arguments);
		return false;
	}
	prompt_name = tool_prompt_name(space, name);
	ok = prompt_name && buf_ok(&arguments) &&
	     json_object_setn_new_nocheck(r->calls, id.p, id.n, json_true()) == 0;
	if (ok)
		say_call(&r->p, m, id, prompt_name, arguments.data, arguments.len);
	mem_free(prompt_name);
	buf_clear(&arguments);
	return ok || parsing_no_memory(&r->p);
}

/* Is the item cut off?  False with an error where it must not be. */
static bool read_status(const struct field *items, size_t i, bool *cut)
{
	struct field item = field_at(items, i), f = field_get(&item, "status"), next;
	struct slice status = {"completed", 9};
	enum item_kind kind;

	if (!field_text(&f, &status))
		return false;
	*cut = !slice_is(status, "completed");
	if (!*cut || i + 1 == field_count(items))
		return true;
	next = field_at(items, i + 1);
	if (!item_kind(&next, &kind))
		return false;
	return !is_assistant(kind) || field_wrong(&f, "completed before another item of the same turn");
}

/* A call that was cut off counts only when it has a result. */
static bool is_dropped(const struct field *items, size_t i, bool cut)
{
	struct field next = field_at(items, i + 1);
	enum item_kind kind;

	if (!cut)
		return false;
	return i + 1 == field_count(items) || !item_kind(&next, &kind) || kind != ITEM_RESULT;
}

static bool read_said(struct reader *r, const struct field *items, struct said_before *said)
{
	for (size_t i = r->first; i < r->first + r->n; i++) {
		struct field item = field_at(items, i), content = field_get(&item, "content");
		enum item_kind kind;
		bool cut;

		if (!item_kind(&item, &kind))
			return false;
		if (kind == ITEM_SKIPPED)
			continue;
		if (!read_status(items, i, &cut))
			return false;
		if (kind == ITEM_REASONING && !read_reasoning(&item, said))
			return false;
		if (kind == ITEM_SAID && !read_parts(&content, "", &said->text))
			return false;
	}
	return (buf_ok(&said->text) && buf_ok(&said->reasoning)) || parsing_no_memory(&r->p);
}

static bool add_assistant(struct reader *r, const struct field *items, const struct said_before *said)
{
	struct message *m = say(&r->p, ROLE_ASSISTANT, said->text.data, said->text.len);

	if (!m)
		return false;
	if (said->reasoning.len)
		conversation_set_reasoning(r->p.c, m, said->reasoning.data, said->reasoning.len);
	if (said->carrier.n)
		conversation_set_carrier(r->p.c, m, said->carrier.p, said->carrier.n);
	for (size_t i = r->first; i < r->first + r->n; i++) {
		struct field item = field_at(items, i);
		enum item_kind kind;
		bool cut;

		if (!item_kind(&item, &kind))
			return false;
		if (!is_call(kind))
			continue;
		if (!read_status(items, i, &cut))
			return false;
		if (!is_dropped(items, i, cut) && !read_call(r, m, &item, kind))
			return false;
	}
	return true;
}

/* Ends the open run of assistant items. */
static bool flush(struct reader *r, const struct field *items)
{
	struct said_before said = {.text = BUF_CAP(BUF_MAX), .reasoning = BUF_CAP(BUF_MAX)};
	bool ok = !r->n || (read_said(r, items, &said) && add_assistant(r, items, &said));

	r->n = 0;
	buf_clear(&said.text);
	buf_clear(&said.reasoning);
	return ok;
}

/* --- the other items --- */

static bool read_result(struct reader *r, const struct field *item)
{
	struct field output = field_get(item, "output");
	struct slice id = {.p = NULL};
	struct buf b = BUF_CAP(BUF_MAX);
	bool ok = true;

	if (!call_id_of(item, &id))
		return false;
	if (!json_object_getn(r->calls, id.p, id.n)) {
		api_error_set(r->p.body.e, 400, "input", NULL,
			      "Responses continuation state is not available for call_id %.*s; retry by replaying the "
			      "full input history", slice_shown(id), id.p);
		return false;
	}
	if (!output.v)
		output = field_get(item, "tools");	/* of a tool search */
	if (json_is_object(output.v) || json_object_get(item->v, "tools"))
		json_write_python(&b, output.v ? output.v : item->v);
	else
		ok = read_parts(&output, "\n\n", &b);
	ok = ok && say_result(&r->p, id, b.data, b.len) && (buf_ok(&b) || parsing_no_memory(&r->p));
	buf_clear(&b);
	return ok;
}

static bool read_message(struct reader *r, const struct field *item)
{
	struct field role_field = field_get(item, "role"), content = field_get(item, "content");
	struct slice role = {.p = NULL};
	struct buf b = BUF_CAP(BUF_MAX);
	bool ok;

	if (!field_text(&role_field, &role))
		return false;
	if (!role.p)
		return field_missing(&role_field);
	ok = read_parts(&content, "\n\n", &b);
	if (ok && (slice_is(role, "system") || slice_is(role, "developer")))
		ok = say_system(&r->p, buf_cstr(&b), b.len);
	else if (ok && slice_is(role, "user"))
		ok = say(&r->p, ROLE_USER, b.data, b.len) != NULL;
	else if (ok)
		ok = field_wrong(&role_field, "user, assistant, system or developer");
	ok = ok && (buf_ok(&b) || parsing_no_memory(&r->p));
	buf_clear(&b);
	return ok;
}

static bool read_items(struct reader *r, const struct field *items)
{
	for (size_t i = 0; i < field_count(items); i++) {
		struct field item = field_at(items, i);
		enum item_kind kind;

		if (!item_kind(&item, &kind))
			return false;
		if (is_assistant(kind) || (kind == ITEM_SKIPPED && r->n)) {
			r->first = r->n ? r->first : i;
			r->n = i + 1 - r->first;
			continue;
		}
		if (!flush(r, items))
			return false;
		if (kind == ITEM_RESULT && !read_result(r, &item))
			return false;
		if (kind == ITEM_MESSAGE && !read_message(r, &item))
			return false;
	}
	return flush(r, items);
}

static bool read_input(struct reader *r)
{
	struct parsing *p = &r->p;
	struct field input = field_get(&p->body, "input");
	struct slice instructions = {.p = NULL}, text = {.p = NULL};

	if (!get_text(&p->body, "instructions", &instructions) || !say_system(p, instructions.p, instructions.n))
		return false;
	if (!input.v)
		return field_missing(&input);
	if (json_is_text(input.v)) {
		field_text(&input, &text);
		return say(p, ROLE_USER, text.p, text.n) && say_end(p, &input);
	}
	if (!json_is_array(input.v))
		return field_wrong(&input, "a string or an array of items");
	return read_items(r, &input) && say_end(p, &input);
}

/* --- the rest --- */

static bool read_refused(struct parsing *p)
{
	static const char *const stateful[] = {"previous_response_id", "conversation"};
	struct field f = field_get(&p->body, "background");
	bool background = false;

	for (size_t i = 0; i < 2; i++) {
		struct field s = field_get(&p->body, stateful[i]);

		if (!s.v)
			continue;
		api_error_set(p->body.e, 400, stateful[i], NULL, "%s is not supported; replay full input instead",
			      stateful[i]);
		return false;
	}
	return field_bool(&f, &background) && (!background || field_fail(&f, "is not supported"));
}

static bool read_reasoning_options(struct parsing *p)
{
	struct field reasoning = field_get(&p->body, "reasoning"), effort = field_get(&reasoning, "effort");
	struct slice summary = {.p = NULL};

	if (!field_object(&reasoning) || !get_text(&reasoning, "generate_summary", &summary) ||
	    !get_text(&reasoning, "summary", &summary))
		return false;
	p->q->summary = summary.n && !slice_is(summary, "none");
	return parse_effort(p, &effort);
}

static bool read_include(struct parsing *p)
{
	struct field include = field_get(&p->body, "include");
	int64_t top = 0;

	if (!field_array(&include))
		return false;
	for (size_t i = 0; i < field_count(&include); i++) {
		struct field f = field_at(&include, i);
		struct slice name = {.p = NULL};

		if (!field_text(&f, &name))
			return false;
		p->q->encrypted |= slice_is(name, "reasoning.encrypted_content");
		p->q->logprobs |= slice_is(name, "message.output_text.logprobs");
	}
	if (!get_int(&p->body, "top_logprobs", 0, 20, &top))
		return false;
	p->q->turn.top_logprobs = p->q->logprobs ? (int32_t)top : -1;
	return true;
}

static bool read_all(struct reader *r)
{
	struct parsing *p = &r->p;
	struct field text = field_get(&p->body, "text"), format = field_get(&text, "format");

	return read_refused(p) && parse_thinking(p) && read_reasoning_options(p) && parse_sampling(p) &&
	       parse_max_tokens(p, "max_output_tokens", 1) && parse_stop(p, "stop") && read_include(p) &&
	       field_object(&text) && parse_format(p, &format, NULL) && parse_parallel(p) &&
	       parse_tools(p, TOOLS_RESPONSES) && parse_tool_choice(p, TOOLS_RESPONSES) && read_input(r);
}

static bool responses_parse(json_t *body, const struct dialect_env *env, struct api_request *q, struct api_error *e)
{
	struct reader r = {.calls = json_object()};
	bool ok = parsing_begin(&r.p, body, env, q, e) && (r.calls || parsing_no_memory(&r.p)) && read_all(&r);

	if (ok)
		parse_end(&r.p);
	parsing_clear(&r.p);
	json_decref(r.calls);
	return ok;
}

const struct dialect dialect_responses = {
	.name = "responses",
	.path = "/v1/responses",
	.input = "input",
	.format = "text.format",
	.request_id = "x-request-id",
	.busy = 503,
	.parse = responses_parse,
	.open = responses_open,
	.event = responses_event,
	.fail = responses_fail,
	.close = responses_close,
	.error = api_error_write_openai,
};
