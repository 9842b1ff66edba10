/* streams.h - listens to answers: strict checkers of each API's event order, which also join what was said.
 *
 * heard_stream() and heard_whole() give the same struct for a streamed and a whole answer, so that tests can compare
 * them.  The order that is checked is that of docs/api.md. */
#ifndef TEST_SERVER_STREAMS_H
#define TEST_SERVER_STREAMS_H

#include "common.h"

#define MAX_CALLS 8

struct heard_call {
	char id[64], name[64], type[32];
	struct buf arguments;
};

struct heard {
	struct buf reasoning, content;
	struct heard_call call[MAX_CALLS];
	size_t n_calls;
	char finish[32], carrier[64];
	int64_t prompt, generated;	/* of usage; -1 = none */
	/* of the listener */
	bool want_usage;
	int stage;
	int64_t sequence, n_items;
	char id[64], item[64], item_type[32], block[32];
	bool open, signed_, part, ended;
	struct buf items;		/* responses: what output_item.done said, joined */
};

static inline void heard_init(struct heard *h)
{
	*h = (struct heard){.reasoning = BUF_CAP(BUF_MAX), .content = BUF_CAP(BUF_MAX), .items = BUF_CAP(BUF_MAX),
			    .prompt = -1, .generated = -1};
	for (size_t i = 0; i < MAX_CALLS; i++)
		h->call[i].arguments = (struct buf)BUF_CAP(BUF_MAX);
}

static inline void heard_clear(struct heard *h)
{
	buf_clear(&h->reasoning);
	buf_clear(&h->content);
	buf_clear(&h->items);
	for (size_t i = 0; i < MAX_CALLS; i++)
		buf_clear(&h->call[i].arguments);
}

static inline const char *str(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	return json_is_string(v) ? json_string_value(v) : "";
}

static inline void add_str(struct buf *b, const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_string(v))
		fail_msg("expected a string in \"%s\"", key);
	buf_add(b, json_string_value(v), json_string_length(v));
}

static inline int64_t num(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_integer(v))
		fail_msg("expected an integer in \"%s\"", key);
	return json_integer_value(v);
}

static inline void same_text(const char *what, const char *want, const char *have)
{
	if (strcmp(want, have))
		fail_msg("%s: expected \"%s\", found \"%s\"", what, want, have);
}

static inline struct heard_call *new_call(struct heard *h, const char *id, const char *name, const char *type)
{
	struct heard_call *c = &h->call[h->n_calls++];

	assert_true(h->n_calls <= MAX_CALLS);
	snprintf(c->id, sizeof c->id, "%s", id);
	snprintf(c->name, sizeof c->name, "%s", name);
	snprintf(c->type, sizeof c->type, "%s", type);
	return c;
}

static inline struct heard_call *last_call(struct heard *h)
{
	if (!h->n_calls)
		fail_msg("a piece of a call before any call");
	return &h->call[h->n_calls - 1];
}

static inline void reach(struct heard *h, int stage, const char *what)
{
	if (stage < h->stage)
		fail_msg("%s after something that must come later (stage %d after %d)", what, stage, h->stage);
	h->stage = stage;
}

/* --- chat: role, reasoning, content, calls, finish, usage, [DONE] --- */

static inline void chat_calls(struct heard *h, const json_t *calls, bool streamed)
{
	for (size_t i = 0; i < json_array_size(calls); i++) {
		const json_t *c = json_array_get(calls, i), *f = json_object_get(c, "function");
		const json_t *custom = json_object_get(c, "custom");
		struct heard_call *call;

		if (json_object_get(c, "id"))
			new_call(h, str(c, "id"), str(f ? f : custom, "name"), str(c, "type"));
		call = last_call(h);
		if (streamed && num(c, "index") != (int64_t)h->n_calls - 1)
			fail_msg("call index: expected %zu, found %lld", h->n_calls - 1, (long long)num(c, "index"));
		if (f)
			add_str(&call->arguments, f, "arguments");
		else
			add_str(&call->arguments, custom, "input");
	}
}

static inline void chat_usage(struct heard *h, const json_t *usage)
{
	h->prompt = num(usage, "prompt_tokens");
	h->generated = num(usage, "completion_tokens");
	assert_int_equal(num(usage, "total_tokens"), h->prompt + h->generated);
}

static inline void same_id(struct heard *h, const json_t *o, const char *object)
{
	if (!h->id[0])
		snprintf(h->id, sizeof h->id, "%s", str(o, "id"));
	same_text("id", h->id, str(o, "id"));
	same_text("object", object, str(o, "object"));
	assert_int_equal(num(o, "created"), env.now);
}

static inline void chat_frame(void *ctx, const struct frame *f)
{
	struct heard *h = ctx;
	const json_t *choice, *delta, *finish, *usage = json_object_get(f->data, "usage");

	if (h->ended)
		fail_msg("a frame after the end");
	if (!f->data) {
		h->ended = true;
		if (h->stage != (h->want_usage ? 6 : 5))
			fail_msg("[DONE] at stage %d", h->stage);
		return;
	}
	same_text("event line", "", f->event);
	same_id(h, f->data, "chat.completion.chunk");
	choice = json_array_get(json_object_get(f->data, "choices"), 0);
	if (!choice) {
		reach(h, 6, "usage");
		chat_usage(h, usage);
		return;
	}
	if (h->want_usage != json_is_null(usage) || (usage && !json_is_null(usage)))
		fail_msg("usage must be null in every chunk but the last with include_usage, and absent without");
	assert_int_equal(num(choice, "index"), 0);
	delta = json_object_get(choice, "delta");
	finish = json_object_get(choice, "finish_reason");
	if (!h->stage) {
		same_text("first chunk", "assistant", str(delta, "role"));
		assert_int_equal(json_object_size(delta), 1);
		h->stage = 1;
		return;
	}
	if (json_is_string(finish)) {
		reach(h, 5, "finish_reason");
		assert_int_equal(json_object_size(delta), 0);
		snprintf(h->finish, sizeof h->finish, "%s", json_string_value(finish));
		return;
	}
	assert_true(json_is_null(finish));
	assert_int_equal(json_object_size(delta), 1);
	if (json_object_get(delta, "reasoning_content")) {
		reach(h, 2, "reasoning");
		add_str(&h->reasoning, delta, "reasoning_content");
	} else if (json_object_get(delta, "content")) {
		reach(h, 3, "content");
		add_str(&h->content, delta, "content");
	} else {
		reach(h, 4, "a call");
		chat_calls(h, json_object_get(delta, "tool_calls"), true);
	}
}

static inline void chat_whole(struct heard *h, const json_t *o)
{
	const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
	const json_t *m = json_object_get(choice, "message");

	same_id(h, o, "chat.completion");
	same_text("role", "assistant", str(m, "role"));
	if (!json_is_null(json_object_get(m, "content")))
		add_str(&h->content, m, "content");
	else
		assert_non_null(json_object_get(m, "tool_calls"));
	if (json_object_get(m, "reasoning_content"))
		add_str(&h->reasoning, m, "reasoning_content");
	assert_true(json_is_null(json_object_get(m, "refusal")));
	assert_non_null(json_object_get(choice, "logprobs"));
	chat_calls(h, json_object_get(m, "tool_calls"), false);
	snprintf(h->finish, sizeof h->finish, "%s", str(choice, "finish_reason"));
	chat_usage(h, json_object_get(o, "usage"));
}

/* --- completions --- */

static inline void completions_frame(void *ctx, const struct frame *f)
{
	struct heard *h = ctx;
	const json_t *choice;

	if (h->ended)
		fail_msg("a frame after the end");
	if (!f->data) {
		h->ended = true;
		return;
	}
	same_id(h, f->data, "text_completion");
	choice = json_array_get(json_object_get(f->data, "choices"), 0);
	if (!choice) {
		chat_usage(h, json_object_get(f->data, "usage"));
		return;
	}
	if (h->finish[0])
		fail_msg("text after finish_reason");
	add_str(&h->content, choice, "text");
	snprintf(h->finish, sizeof h->finish, "%s", str(choice, "finish_reason"));
}

static inline void completions_whole(struct heard *h, const json_t *o)
{
	const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);

	same_id(h, o, "text_completion");
	add_str(&h->content, choice, "text");
	snprintf(h->finish, sizeof h->finish, "%s", str(choice, "finish_reason"));
	chat_usage(h, json_object_get(o, "usage"));
}

/* --- messages: message_start, ping, blocks, message_delta, message_stop --- */

static inline void messages_usage(struct heard *h, const json_t *usage)
{
	h->prompt = num(usage, "input_tokens") + num(usage, "cache_creation_input_tokens") +
		    num(usage, "cache_read_input_tokens");
	h->generated = num(usage, "output_tokens");
}

static inline void messages_delta(struct heard *h, const json_t *delta)
{
	const char *type = str(delta, "type");

	if (h->signed_)
		fail_msg("%s after the signature of its block", type);
	if (strcmp(type, "thinking_delta") == 0) {
		same_text("block", "thinking", h->block);
		add_str(&h->reasoning, delta, "thinking");
	} else if (strcmp(type, "signature_delta") == 0) {
		same_text("block", "thinking", h->block);
		h->signed_ = true;
		snprintf(h->carrier, sizeof h->carrier, "%s", str(delta, "signature"));
	} else if (strcmp(type, "text_delta") == 0) {
		same_text("block", "text", h->block);
		add_str(&h->content, delta, "text");
	} else {
		same_text("delta", "input_json_delta", type);
		same_text("block", "tool_use", h->block);
		add_str(&last_call(h)->arguments, delta, "partial_json");
	}
}

static inline void messages_block(struct heard *h, const json_t *o)
{
	const json_t *block = json_object_get(o, "content_block");
	const char *type = str(block, "type");

	assert_false(h->open);
	assert_int_equal(num(o, "index"), h->n_items);
	reach(h, strcmp(type, "thinking") == 0 ? 3 : strcmp(type, "text") == 0 ? 4 : 5, type);
	h->open = true;
	h->signed_ = false;
	snprintf(h->block, sizeof h->block, "%s", type);
	if (strcmp(type, "tool_use") == 0) {
		new_call(h, str(block, "id"), str(block, "name"), "function");
		assert_true(json_is_object(json_object_get(block, "input")));
		assert_int_equal(json_object_size(json_object_get(block, "input")), 0);
	}
}

static inline void messages_frame(void *ctx, const struct frame *f)
{
	struct heard *h = ctx;
	const char *type = str(f->data, "type");

	if (h->ended)
		fail_msg("a frame after the end");
	same_text("event line", type, f->event);
	if (strcmp(type, "message_start") == 0) {
		assert_int_equal(h->stage, 0);
		h->stage = 1;
		messages_usage(h, json_object_get(json_object_get(f->data, "message"), "usage"));
	} else if (strcmp(type, "ping") == 0) {
		assert_int_equal(h->stage, 1);
		h->stage = 2;
	} else if (strcmp(type, "content_block_start") == 0) {
		assert_true(h->stage >= 2);
		messages_block(h, f->data);
	} else if (strcmp(type, "content_block_delta") == 0) {
		assert_true(h->open);
		assert_int_equal(num(f->data, "index"), h->n_items);
		messages_delta(h, json_object_get(f->data, "delta"));
	} else if (strcmp(type, "content_block_stop") == 0) {
		assert_true(h->open);
		assert_int_equal(num(f->data, "index"), h->n_items);
		if (strcmp(h->block, "thinking") == 0)
			assert_true(h->signed_);
		h->n_items++;
		h->open = false;
	} else if (strcmp(type, "message_delta") == 0) {
		const json_t *delta = json_object_get(f->data, "delta");

		assert_false(h->open);
		reach(h, 6, type);
		snprintf(h->finish, sizeof h->finish, "%s", str(delta, "stop_reason"));
		assert_non_null(json_object_get(delta, "stop_sequence"));
		messages_usage(h, json_object_get(f->data, "usage"));
	} else {
		same_text("event", "message_stop", type);
		assert_int_equal(h->stage, 6);
		h->ended = true;
	}
}

static inline void messages_whole(struct heard *h, const json_t *o)
{
	const json_t *content = json_object_get(o, "content");

	same_text("type", "message", str(o, "type"));
	for (size_t i = 0; i < json_array_size(content); i++) {
		const json_t *b = json_array_get(content, i);
		const char *type = str(b, "type");

		if (strcmp(type, "thinking") == 0) {
			reach(h, 3, type);
			add_str(&h->reasoning, b, "thinking");
			snprintf(h->carrier, sizeof h->carrier, "%s", str(b, "signature"));
		} else if (strcmp(type, "text") == 0) {
			reach(h, 4, type);
			add_str(&h->content, b, "text");
		} else {
			reach(h, 5, type);
			json_write_python(&new_call(h, str(b, "id"), str(b, "name"), "function")->arguments,
					  json_object_get(b, "input"));
		}
	}
	snprintf(h->finish, sizeof h->finish, "%s", str(o, "stop_reason"));
	messages_usage(h, json_object_get(o, "usage"));
}

/* --- responses --- */

static inline void responses_item(struct heard *h, const json_t *item)
{
	const char *type = str(item, "type");
	const json_t *part = json_array_get(json_object_get(item, "content"), 0);

	if (strcmp(type, "reasoning") == 0) {
		add_str(&h->reasoning, part, "text");
		snprintf(h->carrier, sizeof h->carrier, "%s", str(item, "encrypted_content"));
	} else if (strcmp(type, "message") == 0) {
		add_str(&h->content, part, "text");
	} else {
		bool custom = strcmp(type, "custom_tool_call") == 0;

		add_str(&new_call(h, str(item, "call_id"), str(item, "name"), custom ? "custom" : "function")->arguments,
			item, custom ? "input" : "arguments");
	}
}

static inline void responses_whole(struct heard *h, const json_t *o)
{
	const json_t *output = json_object_get(o, "output"), *usage = json_object_get(o, "usage");

	same_text("object", "response", str(o, "object"));
	for (size_t i = 0; i < json_array_size(output); i++)
		responses_item(h, json_array_get(output, i));
	snprintf(h->finish, sizeof h->finish, "%s", str(o, "status"));
	h->prompt = num(usage, "input_tokens");
	h->generated = num(usage, "output_tokens");
}

/* The deltas of the open item, joined; .done must repeat them. */
static inline void responses_delta(struct heard *h, const json_t *o, const char *type)
{
	static const struct {
		const char *delta, *done, *field, *item, *part;
	} table[] = {
		{"response.reasoning_summary_text.delta", "response.reasoning_summary_text.done", "text", "reasoning",
		 "summary_index"},
		{"response.reasoning_text.delta", "response.reasoning_text.done", "text", "reasoning", "content_index"},
		{"response.output_text.delta", "response.output_text.done", "text", "message", "content_index"},
		{"response.function_call_arguments.delta", "response.function_call_arguments.done", "arguments",
		 "function_call", NULL},
		{"response.custom_tool_call_input.delta", "response.custom_tool_call_input.done", "input",
		 "custom_tool_call", NULL},
	};

	assert_true(h->open);
	same_text("item_id", h->item, str(o, "item_id"));
	assert_int_equal(num(o, "output_index"), h->n_items);
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		bool delta = strcmp(type, table[i].delta) == 0;

		if (!delta && strcmp(type, table[i].done))
			continue;
		same_text("item", table[i].item, h->item_type);
		if (table[i].part) {
			assert_int_equal(num(o, table[i].part), 0);
			assert_true(h->part);
		}
		if (delta) {
			add_str(&h->items, o, "delta");
			return;
		}
		same_text(type, buf_cstr(&h->items), str(o, table[i].field));
		if (strcmp(h->item_type, "function_call") == 0)
			assert_true(str(o, "name")[0]);
		buf_cut(&h->items, 0);
		return;
	}
	fail_msg("unknown event %s", type);
}

static inline void responses_part(struct heard *h, const json_t *o, bool added)
{
	assert_true(h->open);
	same_text("item_id", h->item, str(o, "item_id"));
	assert_int_equal(num(o, "output_index"), h->n_items);
	assert_int_equal(h->part, !added);
	h->part = added;
	if (added)
		same_text("part", "", str(json_object_get(o, "part"), "text"));
}

static inline void responses_frame(void *ctx, const struct frame *f)
{
	struct heard *h = ctx;
	const char *type = str(f->data, "type");
	const json_t *item = json_object_get(f->data, "item"), *response = json_object_get(f->data, "response");

	if (h->ended || !f->data)
		fail_msg("a frame after the end, or [DONE]");
	same_text("event line", type, f->event);
	assert_int_equal(num(f->data, "sequence_number"), h->sequence);
	h->sequence++;
	if (response) {
		if (h->sequence == 1)
			snprintf(h->id, sizeof h->id, "%s", str(response, "id"));
		same_text("id", h->id, str(response, "id"));
		assert_int_equal(num(response, "created_at"), env.now);
	}
	if (h->sequence <= 2) {
		same_text("event", h->sequence == 1 ? "response.created" : "response.in_progress", type);
		same_text("status", "in_progress", str(response, "status"));
	} else if (strcmp(type, "response.output_item.added") == 0) {
		assert_false(h->open);
		assert_int_equal(num(f->data, "output_index"), h->n_items);
		same_text("status", "in_progress", str(item, "status"));
		h->open = true;
		snprintf(h->item, sizeof h->item, "%s", str(item, "id"));
		snprintf(h->item_type, sizeof h->item_type, "%s", str(item, "type"));
	} else if (strcmp(type, "response.output_item.done") == 0) {
		assert_true(h->open);
		assert_false(h->part);
		same_text("item", h->item, str(item, "id"));
		h->open = false;
		h->n_items++;
	} else if (strstr(type, "part.added") || strstr(type, "part.done")) {
		responses_part(h, f->data, strstr(type, "part.added") != NULL);
	} else if (strcmp(type, "response.completed") == 0 || strcmp(type, "response.incomplete") == 0) {
		assert_false(h->open);
		same_text("status", type + strlen("response."), str(response, "status"));
		responses_whole(h, response);
		assert_int_equal(json_array_size(json_object_get(response, "output")), h->n_items);
		h->ended = true;
	} else {
		responses_delta(h, f->data, type);
	}
}

/* --- all --- */

static inline void heard_stream(struct heard *h, const struct dialect *d, const char *text)
{
	void (*fn)(void *, const struct frame *) = d == &dialect_chat	       ? chat_frame
						   : d == &dialect_completions ? completions_frame
						   : d == &dialect_messages    ? messages_frame
									       : responses_frame;

	each_frame(text, fn, h);
	if (!h->ended)
		fail_msg("%s: the stream has no end:\n%s", d->name, text);
}

static inline void heard_whole(struct heard *h, const struct dialect *d, const struct buf *b)
{
	json_t *o = parse_json(buf_cstr(b), b->len);

	assert_int_equal(b->data[b->len - 1], '\n');
	if (d == &dialect_chat)
		chat_whole(h, o);
	else if (d == &dialect_completions)
		completions_whole(h, o);
	else if (d == &dialect_messages)
		messages_whole(h, o);
	else
		responses_whole(h, o);
	json_decref(o);
}

static inline void same_heard(const char *what, const struct heard *a, const struct heard *b)
{
	same_text(what, buf_cstr(&a->reasoning), buf_cstr(&b->reasoning));
	same_text(what, buf_cstr(&a->content), buf_cstr(&b->content));
	same_text(what, a->finish, b->finish);
	same_text(what, a->carrier, b->carrier);
	assert_int_equal(a->n_calls, b->n_calls);
	for (size_t i = 0; i < a->n_calls; i++) {
		same_text(what, a->call[i].id, b->call[i].id);
		same_text(what, a->call[i].name, b->call[i].name);
		same_text(what, a->call[i].type, b->call[i].type);
		same_text(what, buf_cstr(&a->call[i].arguments), buf_cstr(&b->call[i].arguments));
	}
}

#endif
