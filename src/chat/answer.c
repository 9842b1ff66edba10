/* answer.c - see answer.h. */
#include "chat/answer.h"

#include "base/mem.h"

void answer_init(struct answer *a)
{
	*a = (struct answer){.reasoning = BUF_CAP(BUF_MAX), .content = BUF_CAP(BUF_MAX)};
}

void answer_clear(struct answer *a)
{
	buf_clear(&a->reasoning);
	buf_clear(&a->content);
	for (size_t i = 0; i < a->n_calls; i++) {
		buf_clear(&a->calls[i].name);
		buf_clear(&a->calls[i].arguments);
	}
	mem_free(a->calls);
	a->calls = NULL;
	a->n_calls = 0;
}

bool answer_ok(const struct answer *a)
{
	bool ok = !a->failed && buf_ok(&a->reasoning) && buf_ok(&a->content);

	for (size_t i = 0; i < a->n_calls; i++)
		ok = ok && buf_ok(&a->calls[i].name) && buf_ok(&a->calls[i].arguments);
	return ok;
}

static void begin_call(struct answer *a, const struct piece *p)
{
	struct answer_call *calls = mem_grow(a->calls, a->n_calls + 1, sizeof *calls);

	if (!calls) {
		a->failed = true;
		return;
	}
	a->calls = calls;
	calls += a->n_calls++;
	*calls = (struct answer_call){.name = BUF_CAP(BUF_MAX), .arguments = BUF_CAP(BUF_MAX)};
	buf_add(&calls->name, p->text, p->n);
}

void answer_take(void *ctx, const struct piece *p)
{
	struct answer *a = ctx;
	struct answer_call *call = a->n_calls ? &a->calls[a->n_calls - 1] : NULL;

	switch (p->kind) {
	case PIECE_REASONING:
		buf_add(&a->reasoning, p->text, p->n);
		break;
	case PIECE_CONTENT:
		buf_add(&a->content, p->text, p->n);
		break;
	case PIECE_TOOL_BEGIN:
		begin_call(a, p);
		break;
	case PIECE_TOOL_ARGUMENTS:
		if (call)
			buf_add(&call->arguments, p->text, p->n);
		break;
	case PIECE_TOOL_END:
		if (call) {
			call->complete = true;
			call->n_members = p->n;
		}
		break;
	case PIECE_FINISH:
		a->finish = p->finish;
		a->finished = true;
		break;
	}
}

static json_t *text_json(const struct buf *b)
{
	return json_stringn_nocheck(buf_cstr(b), b->len);
}

/* The arguments as they were written, or without the earlier ones of repeated members. */
static json_t *arguments_json(const struct answer_call *call)
{
	struct err err = {0};
	json_t *parsed = call->complete ? json_parse(buf_cstr(&call->arguments), call->arguments.len, &err) : NULL;
	struct buf b = BUF_CAP(BUF_MAX);
	json_t *v = NULL;

	if (parsed && json_object_size(parsed) != call->n_members) {
		json_write_python(&b, parsed);
		v = buf_ok(&b) ? text_json(&b) : NULL;
	} else if (err.code != ERR_MEMORY) {
		v = text_json(&call->arguments);
	}
	json_decref(parsed);
	buf_clear(&b);
	return v;
}

json_t *answer_json(const struct answer *a)
{
	json_t *o = json_object(), *calls = json_array();
	int failed = 0;

	for (size_t i = 0; i < a->n_calls; i++) {
		json_t *call = json_object(), *f = json_object();

		failed |= json_object_set_new(f, "name", text_json(&a->calls[i].name));
		failed |= json_object_set_new(f, "arguments", arguments_json(&a->calls[i]));
		failed |= json_object_set_new(call, "type", json_string("function"));
		failed |= json_object_set_new(call, "function", f);
		failed |= json_array_append_new(calls, call);
	}
	failed |= json_object_set_new(o, "role", json_string("assistant"));
	failed |= json_object_set_new(o, "content", text_json(&a->content));
	failed |= json_object_set_new(o, "reasoning_content", text_json(&a->reasoning));
	failed |= json_object_set_new(o, "tool_calls", calls);
	if (!failed)
		return o;
	json_decref(o);
	return NULL;
}

struct message *answer_add(const struct answer *a, struct conversation *c)
{
	struct message *m = conversation_add(c, ROLE_ASSISTANT, buf_cstr(&a->content), a->content.len);

	if (!m)
		return NULL;
	conversation_set_reasoning(c, m, buf_cstr(&a->reasoning), a->reasoning.len);
	for (size_t i = 0; i < a->n_calls; i++) {
		const struct answer_call *from = &a->calls[i];
		struct tool_call call = {
			.name = {from->name.data, from->name.len},
			.arguments = {from->arguments.data, from->arguments.len},
		};

		conversation_add_call(c, m, &call);
	}
	return m;
}
