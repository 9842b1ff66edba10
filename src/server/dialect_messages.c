/* dialect_messages.c - POST /v1/messages: the request.  The answer is in dialect_messages_write.c.
 *
 * What  A message is an array of blocks: a user's may mix results of tools and text, an assistant's thinking, text and
 *       calls.  Results and texts become messages of the conversation in their order.
 * Careful
 *       - Claude Code sends role "system" inside messages, after the user's: that stays where it is.
 *       - A part of `system` that begins with x-anthropic- (a billing header) differs between versions and sessions:
 *         it must not stand at the front of every prompt, so it is dropped.
 *       - cache_control moves from request to request and must leave no trace in the prompt; it only says which
 *         tokens usage counts as written to the cache.
 * Source: docs/api.md, section 7. */
#include "server/dialect_messages_int.h"

#include <string.h>

#include "base/mem.h"
#include "server/api_request_int.h"

#define NO_BREAKPOINT ((size_t)-1)

struct reader {
	struct parsing p;
	json_t *calls;		/* object: the ids of tool_use blocks so far */
	size_t breakpoint;	/* messages of the conversation up to the last cache_control, NO_BREAKPOINT = none */
};

/* Notes a cache_control on something that ends where the conversation ends now. */
static void note_breakpoint(struct reader *r, const struct field *o)
{
	struct field f = field_get(o, "cache_control");

	if (f.v)
		r->breakpoint = r->p.c->n;
}

static bool is_private(const struct buf *b)
{
	static const char prefix[] = "x-anthropic-";

	return b->len >= sizeof prefix - 1 && memcmp(b->data, prefix, sizeof prefix - 1) == 0;
}

static bool read_system_part(struct reader *r, const struct field *part)
{
	struct buf b = BUF_CAP(BUF_MAX);
	bool ok = read_part(part, &b);

	if (ok && !is_private(&b))
		ok = say_system(&r->p, buf_cstr(&b), b.len);
	if (ok && json_is_object(part->v))
		note_breakpoint(r, part);
	buf_clear(&b);
	return ok;
}

static bool read_system(struct reader *r)
{
	struct field system = field_get(&r->p.body, "system");

	if (!system.v)
		return true;
	if (json_is_text(system.v))
		return read_system_part(r, &system);
	if (!json_is_array(system.v))
		return field_wrong(&system, "a string or an array of text blocks");
	for (size_t i = 0; i < field_count(&system); i++) {
		struct field part = field_at(&system, i);

		if (!read_system_part(r, &part))
			return false;
	}
	return true;
}

/* --- user --- */

static bool flush_text(struct reader *r, struct buf *text, bool any)
{
	bool ok = !any || say(&r->p, ROLE_USER, text->data, text->len);

	ok = ok && (buf_ok(text) || parsing_no_memory(&r->p));
	buf_cut(text, 0);
	return ok;
}

static bool read_result(struct reader *r, const struct field *block)
{
	struct field id_field = field_get(block, "tool_use_id"), content = field_get(block, "content");
	struct slice id = {.p = NULL};
	struct buf b = BUF_CAP(BUF_MAX);
	bool ok;

	if (!field_text(&id_field, &id))
		return false;
	if (!id.p)
		return field_missing(&id_field);
	if (!json_object_getn(r->calls, id.p, id.n)) {
		api_error_set(r->p.body.e, 400, "messages", NULL,
			      "Anthropic continuation state is not available for tool_use_id %.*s; retry by replaying "
			      "the full messages history", slice_shown(id), id.p);
		return false;
	}
	ok = read_parts(&content, "\n\n", &b) && say_result(&r->p, id, b.data, b.len) &&
	     (buf_ok(&b) || parsing_no_memory(&r->p));
	buf_clear(&b);
	return ok;
}

static bool block_type(const struct field *block, struct slice *type)
{
	struct field f = field_get(block, "type");

	if (!json_is_object(block->v))
		return field_wrong(block, "a block with a type");
	return field_text(&f, type) && (type->p || field_missing(&f));
}

static bool read_user(struct reader *r, const struct field *content)
{
	struct buf text = BUF_CAP(BUF_MAX);
	bool any = false, ok = say_begin(&r->p);	/* breakpoints count it */

	if (ok && !json_is_array(content->v)) {
		ok = read_parts(content, "", &text) && flush_text(r, &text, true);
		buf_clear(&text);
		return ok;
	}
	for (size_t i = 0; ok && i < field_count(content); i++) {
		struct field block = field_at(content, i);
		struct slice type = {.p = NULL};

		ok = block_type(&block, &type);
		if (ok && slice_is(type, "tool_result")) {
			ok = flush_text(r, &text, any) && read_result(r, &block);
			any = false;
		} else if (ok) {
			buf_str(&text, any ? "\n\n" : "");
			ok = read_part(&block, &text);
			any = true;
		}
		if (ok && field_get(&block, "cache_control").v)
			r->breakpoint = r->p.c->n + any;
	}
	ok = ok && flush_text(r, &text, any);
	buf_clear(&text);
	return ok;
}

/* --- assistant --- */

static bool read_call(struct reader *r, struct message *m, const struct field *block)
{
	struct field name_field = field_get(block, "name"), id_field = field_get(block, "id");
	struct field input = field_get(block, "input");
	struct slice name = {.p = NULL}, id = {.p = NULL};
	struct buf b = BUF_CAP(BUF_MAX);
	bool ok;

	if (!field_text(&name_field, &name) || !field_text(&id_field, &id) || !field_object(&input))
		return false;
	if (!name.n)
		return field_missing(&name_field);
	if (!id.p)
		return field_missing(&id_field);
	if (input.v)
		json_write_python(&b, input.v);
	else
		buf_str(&b, "{}");
	ok = buf_ok(&b) && json_object_setn_new_nocheck(r->calls, id.p, id.n, json_true()) == 0;
	if (ok)
		say_call(&r->p, m, id, name.p, b.data, b.len);
	buf_clear(&b);
	return ok || parsing_no_memory(&r->p);
}

struct said_before {	/* what an assistant message says besides calls */
	struct buf text, reasoning;
	struct slice signature;
};

/* Collects what one block says; blocks of other people's tools say nothing. */
static bool read_assistant_block(const struct field *block, struct said_before *said)
{
	struct slice type = {.p = NULL}, thinking = {.p = NULL}, text = {.p = NULL};

	if (!block_type(block, &type))
		return false;
	if (slice_is(type, "thinking")) {
		if (!get_text(block, "thinking", &thinking) || !get_text(block, "signature", &said->signature))
			return false;
		buf_add(&said->reasoning, thinking.p, thinking.n);
		return true;
	}
	if (!get_text(block, "text", &text))
		return false;
	buf_add(&said->text, text.p, text.n);
	return true;
}

static bool add_assistant(struct reader *r, const struct field *content, const struct said_before *said)
{
	struct message *m = say(&r->p, ROLE_ASSISTANT, said->text.data, said->text.len);

	if (!m)
		return false;
	if (said->reasoning.len)
		conversation_set_reasoning(r->p.c, m, said->reasoning.data, said->reasoning.len);
	if (said->signature.n)
		conversation_set_carrier(r->p.c, m, said->signature.p, said->signature.n);
	for (size_t i = 0; i < field_count(content); i++) {
		struct field block = field_at(content, i);
		struct slice type = {.p = NULL};

		if (block_type(&block, &type) && slice_is(type, "tool_use") && !read_call(r, m, &block))
			return false;
		note_breakpoint(r, &block);
	}
	return true;
}

static bool read_assistant(struct reader *r, const struct field *content)
{
	struct said_before said = {.text = BUF_CAP(BUF_MAX), .reasoning = BUF_CAP(BUF_MAX)};
	bool ok = true;

	if (!json_is_array(content->v))
		ok = read_parts(content, "", &said.text);
	for (size_t i = 0; ok && i < field_count(content); i++) {
		struct field block = field_at(content, i);

		ok = read_assistant_block(&block, &said);
	}
	ok = ok && add_assistant(r, content, &said) &&
	     ((buf_ok(&said.text) && buf_ok(&said.reasoning)) || parsing_no_memory(&r->p));
	buf_clear(&said.text);
	buf_clear(&said.reasoning);
	return ok;
}

static bool read_message(struct reader *r, const struct field *o)
{
	struct field role_field = field_get(o, "role"), content = field_get(o, "content");
	struct slice role = {.p = NULL};
	struct buf b = BUF_CAP(BUF_MAX);
	bool ok;

	if (!json_is_object(o->v))
		return field_wrong(o, "an object");
	if (!field_text(&role_field, &role))
		return false;
	if (!role.p)
		return field_missing(&role_field);
	if (slice_is(role, "user"))
		return read_user(r, &content);
	if (slice_is(role, "assistant"))
		return read_assistant(r, &content);
	if (!slice_is(role, "system"))
		return field_wrong(&role_field, "user, assistant or system");
	ok = read_parts(&content, "\n\n", &b) && say_system(&r->p, buf_cstr(&b), b.len);
	buf_clear(&b);
	return ok;
}

static bool read_messages(struct reader *r)
{
	struct field messages = field_get(&r->p.body, "messages");

	if (!messages.v)
		return field_missing(&messages);
	if (!field_array(&messages))
		return false;
	if (!field_count(&messages))
		return field_fail(&messages, "expected at least one message, found none");
	for (size_t i = 0; i < field_count(&messages); i++) {
		struct field m = field_at(&messages, i);

		if (!read_message(r, &m))
			return false;
	}
	return say_end(&r->p, &messages);
}

/* --- the rest --- */

/* Tokens of the prompt up to the last breakpoint, for usage.  A guess where history will be spliced. */
static int32_t count_written(const struct reader *r)
{
	const struct parsing *p = &r->p;
	struct conversation *c = p->q->turn.conversation;
	struct render_options o = {.profile = p->env->profile, .thinking = p->q->turn.thinking,
				   .effort = p->q->turn.effort};
	struct token_list ids = {.id = NULL};
	struct conversation part = *c;
	int32_t n;

	if (r->breakpoint == NO_BREAKPOINT)
		return 0;
	if (r->breakpoint >= c->n)
		return INT32_MAX;
	part.n = r->breakpoint ? r->breakpoint : 1;	/* of system and tools: the system message, which is first */
	if (chat_render_ids(&part, &o, p->env->tokenizer, &ids, NULL) != OK || ids.n > INT32_MAX)
		ids.n = 0;
	n = (int32_t)ids.n;
	if (n > 2 && (part.messages[part.n - 1].role == ROLE_USER || part.messages[part.n - 1].role == ROLE_TOOL))
		n -= 2;	/* the transition to an answer does not stand there yet */
	token_list_clear(&ids);
	return n;
}

static bool read_output_config(struct parsing *p)
{
	struct field config = field_get(&p->body, "output_config"), format = field_get(&config, "format");
	struct field effort = field_get(&config, "effort"), other = field_get(&p->body, "reasoning_effort");
	struct field beta = field_get(&p->body, "output_format");

	return field_object(&config) && parse_effort(p, &other) && parse_effort(p, &effort) &&
	       parse_format(p, format.v ? &format : &beta, NULL);
}

static bool read_tool_breakpoints(struct reader *r)
{
	struct field tools = field_get(&r->p.body, "tools");

	for (size_t i = 0; i < field_count(&tools); i++) {
		struct field t = field_at(&tools, i);

		note_breakpoint(r, &t);
	}
	return true;
}

static bool read_all(struct reader *r)
{
	struct parsing *p = &r->p;

	return parse_thinking(p) && read_output_config(p) && parse_sampling(p) && parse_max_tokens(p, "max_tokens", 1) &&
	       parse_stop(p, "stop_sequences") && parse_tools(p, TOOLS_MESSAGES) &&
	       parse_tool_choice(p, TOOLS_MESSAGES) && read_tool_breakpoints(r) && read_system(r) && read_messages(r);
}

static bool messages_parse(json_t *body, const struct dialect_env *env, struct api_request *q, struct api_error *e)
{
	struct reader r = {.breakpoint = NO_BREAKPOINT, .calls = json_object()};
	bool ok = parsing_begin(&r.p, body, env, q, e) && (r.calls || parsing_no_memory(&r.p)) && read_all(&r);

	if (ok) {
		parse_end(&r.p);
		q->cache_written = count_written(&r);
	}
	parsing_clear(&r.p);
	json_decref(r.calls);
	return ok;
}

const struct dialect dialect_messages = {
	.name = "messages",
	.path = "/v1/messages",
	.input = "messages",
	.format = "output_config.format",
	.request_id = "request-id",
	.busy = 529,
	.parse = messages_parse,
	.open = messages_open,
	.event = messages_event,
	.fail = messages_fail,
	.close = messages_close,
	.error = api_error_write_anthropic,
};
