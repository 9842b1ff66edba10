/* message.c - builds, reads from JSON and frees conversations; see message.h.
 *
 * Careful
 *       - What the official encoder calls falsy ("", null, {}, []) means absent here too.
 *       - Arguments that are not JSON text stay as they are: dsml.c decides how such a call is written. */
#include "chat/message.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

const char *role_name(enum role role)
{
	static const char *const name[] = {
#define X(code, text) [code] = text,
		ROLE_MAP(X)
#undef X
	};

	return name[role];
}

static const struct {
	const char *name;
	enum special special;
} task_table[] = {
	[TASK_NONE] = {"none", SPECIAL_BOS},
#define X(code, text, special) [code] = {text, special},
	TASK_MAP(X)
#undef X
};

const char *task_name(enum task task)
{
	return task_table[task].name;
}

int task_special(enum task task)
{
	return (int)task_table[task].special;
}

struct conversation *conversation_new(void)
{
	return mem_zero(sizeof(struct conversation));
}

static void message_clear(struct message *m)
{
	mem_free(m->content.p);
	mem_free(m->reasoning.p);
	mem_free(m->carrier.p);
	mem_free(m->tool_call_id.p);
	for (size_t i = 0; i < m->n_calls; i++) {
		mem_free(m->calls[i].id.p);
		mem_free(m->calls[i].name.p);
		mem_free(m->calls[i].arguments.p);
	}
	mem_free(m->calls);
	json_decref(m->tools);
	json_decref(m->response_format);
	mem_free(m->exact.id);
}

void conversation_cut(struct conversation *c, size_t n)
{
	while (c->n > n)
		message_clear(&c->messages[--c->n]);
}

void conversation_free(struct conversation *c)
{
	if (!c)
		return;
	conversation_cut(c, 0);
	mem_free(c->messages);
	mem_free(c);
}

bool conversation_ok(const struct conversation *c)
{
	return !c->failed;
}

/* Replaces *t by a copy of p[0..n); p may be NULL when n is 0. */
static void set_text(struct conversation *c, struct text *t, const char *p, size_t n)
{
	mem_free(t->p);
	*t = (struct text){.p = mem_strn(p ? p : "", n), .n = n};
	if (!t->p) {
		t->n = 0;
		c->failed = true;
	}
}

struct message *conversation_add(struct conversation *c, enum role role, const char *content, size_t n)
{
	struct message *m;

	if (c->n == c->room) {
		size_t room = c->room ? c->room * 2 : 8;

		m = mem_grow(c->messages, room, sizeof *m);
		if (!m) {
			c->failed = true;
			return NULL;
		}
		c->messages = m;
		c->room = room;
	}
	m = &c->messages[c->n++];
	*m = (struct message){.role = role};
	set_text(c, &m->content, content, n);
	return m;
}

struct message *conversation_add_tool_result(struct conversation *c, const char *id, const char *content,
					     size_t n)
{
	struct message *m = conversation_add(c, ROLE_TOOL, content, n);

	if (m)
		set_text(c, &m->tool_call_id, id, strlen(id));
	return m;
}

void conversation_set_reasoning(struct conversation *c, struct message *m, const char *text, size_t n)
{
	set_text(c, &m->reasoning, text, n);
}

void conversation_set_carrier(struct conversation *c, struct message *m, const char *text, size_t n)
{
	set_text(c, &m->carrier, text, n);
}

void conversation_add_call(struct conversation *c, struct message *m, const struct tool_call *call)
{
	struct tool_call *calls = mem_grow(m->calls, m->n_calls + 1, sizeof *calls);

	if (!calls) {
		c->failed = true;
		return;
	}
	m->calls = calls;
	calls += m->n_calls++;
	*calls = (struct tool_call){.id = {0}};
	set_text(c, &calls->id, call->id.p, call->id.n);
	set_text(c, &calls->name, call->name.p, call->name.n);
	set_text(c, &calls->arguments, call->arguments.p, call->arguments.n);
}

void conversation_set_exact(struct conversation *c, struct message *m, const struct tokenizer *t,
			    enum thinking thinking, const int32_t *id, size_t n)
{
	struct exact *e = &m->exact;

	mem_free(e->id);
	*e = (struct exact){.thinking = thinking};
	if (n && id[n - 1] == tokenizer_special(t, SPECIAL_EOS))
		n--;
	if (!n)
		return;
	e->id = mem_copy(id, n * sizeof *id);
	if (!e->id) {
		c->failed = true;
		return;
	}
	e->n = n;
	if (thinking == THINKING_OFF)
		return;
	while (e->n_reasoning < n && !e->closed)
		e->closed = id[e->n_reasoning++] == tokenizer_special(t, SPECIAL_END_THINK);
}

/* The function objects of an array of tools in OpenAI's or in bare form. */
static enum status function_objects(json_t **out, const json_t *tools, struct err *err)
{
	json_t *functions = json_array();

	*out = NULL;
	if (!functions)
		return err_set(err, ERR_MEMORY, "tools: no memory");
	for (size_t i = 0; i < json_array_size(tools); i++) {
		json_t *tool = json_array_get(tools, i), *f = json_object_get(tool, "function");

		if (!f)
			f = tool;
		if (!json_is_text(json_object_get(f, "name"))) {
			json_decref(functions);
			return err_set(err, ERR_ARGUMENT,
				       "tools[%zu]: expected a function with a name, found none", i);
		}
		if (json_array_append(functions, f)) {
			json_decref(functions);
			return err_set(err, ERR_MEMORY, "tools: no memory");
		}
	}
	*out = functions;
	return OK;
}

/* Puts an empty system message in front. */
static struct message *insert_system(struct conversation *c)
{
	struct message *m = conversation_add(c, ROLE_SYSTEM, "", 0), added;

	if (!m)
		return NULL;
	added = *m;
	memmove(c->messages + 1, c->messages, (c->n - 1) * sizeof *m);
	c->messages[0] = added;
	return c->messages;
}

enum status conversation_set_tools(struct conversation *c, const json_t *tools, struct err *err)
{
	struct message *m = c->messages;
	json_t *functions;

	if (!json_is_array(tools))
		return err_set(err, ERR_ARGUMENT, "tools: expected an array");
	TRY(function_objects(&functions, tools, err));
	while (m && m < c->messages + c->n && m->role != ROLE_SYSTEM)
		m++;
	if (!m || m == c->messages + c->n)
		m = insert_system(c);
	if (!m) {
		json_decref(functions);
		return err_set(err, ERR_MEMORY, "tools: no memory for a system message");
	}
	json_decref(m->tools);
	m->tools = functions;
	return OK;
}

/* --- from JSON --- */

static const char *type_name(const json_t *v)
{
	static const char *const name[] = {
		[JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
		[JSON_INTEGER] = "an integer", [JSON_REAL] = "a number", [JSON_TRUE] = "true",
		[JSON_FALSE] = "false", [JSON_NULL] = "null",
	};

	if (!v)
		return "nothing";
	return json_is_string(v) && !json_is_text(v) ? "a number" : name[json_typeof(v)];
}

/* How much of a client's text an error message shows: whole characters only. */
static int shown(const char *text)
{
	return (int)utf8_whole(text, strnlen(text, 60));
}

/* Python's idea of an empty value, for the fields where that means absent. */
static bool is_absent(const json_t *v)
{
	return !v || json_is_null(v) || json_is_false(v) || (json_is_text(v) && !json_string_length(v)) ||
	       (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v));
}

static enum status read_text(struct conversation *c, struct text *t, const json_t *o, const char *field,
			     struct err *err)
{
	const json_t *v = json_object_get(o, field);

	if (!v || json_is_null(v))
		return OK;
	if (!json_is_text(v))
		return err_set(err, ERR_ARGUMENT, "%s: expected a string, found %s", field, type_name(v));
	set_text(c, t, json_string_value(v), json_string_length(v));
	return OK;
}

/* content: a string, null, or an array of parts; text parts are joined, others leave a note. */
static enum status read_content(struct conversation *c, struct message *m, const json_t *o, struct err *err)
{
	const json_t *parts = json_object_get(o, "content");
	const char *between = m->role == ROLE_ASSISTANT ? "" : "\n\n";
	struct buf b = BUF_CAP(BUF_MAX);

	if (!json_is_array(parts))
		return read_text(c, &m->content, o, "content", err);
	for (size_t i = 0; i < json_array_size(parts); i++) {
		const json_t *part = json_array_get(parts, i);
		size_t n;
		const char *type = json_get_text(part, "type", &n), *text = json_get_text(part, "text", &n);

		if (!type) {
			buf_clear(&b);
			return err_set(err, ERR_ARGUMENT, "content[%zu]: expected an object with a type, found %s",
				       i, type_name(part));
		}
		buf_str(&b, i ? between : "");
		if (strcmp(type, "text") == 0)
			buf_add(&b, text ? text : "", text ? n : 0);
		else
			buf_printf(&b, "[Unsupported %s]", type);
	}
	set_text(c, &m->content, buf_cstr(&b), b.len);
	c->failed |= !buf_ok(&b);
	buf_clear(&b);
	return OK;
}

static enum status read_call(struct conversation *c, struct message *m, const json_t *o, struct err *err)
{
	const json_t *f = json_object_get(o, "function"), *arguments = json_object_get(f, "arguments");
	struct buf b = BUF_CAP(BUF_MAX);
	struct tool_call call = {.id = {0}};

	call.name.p = (char *)json_get_text(f, "name", &call.name.n);
	if (!call.name.p)
		return err_set(err, ERR_ARGUMENT, "expected a function with a name, found %s", type_name(f));
	call.id.p = (char *)json_get_text(o, "id", &call.id.n);
	if (!call.id.p)
		call.id.p = (char *)json_get_text(f, "id", &call.id.n);
	if (json_is_text(arguments))
		buf_add(&b, json_string_value(arguments), json_string_length(arguments));
	else if (is_absent(arguments))
		buf_str(&b, "{}");
	else
		json_write_python(&b, arguments);
	call.arguments = (struct text){.p = b.data, .n = b.len};
	conversation_add_call(c, m, &call);
	c->failed |= !buf_ok(&b);
	buf_clear(&b);
	return OK;
}

static enum status read_calls(struct conversation *c, struct message *m, const json_t *o, struct err *err)
{
	const json_t *calls = json_object_get(o, "tool_calls");

	if (is_absent(calls))
		return OK;
	if (!json_is_array(calls))
		return err_set(err, ERR_ARGUMENT, "tool_calls: expected an array, found %s", type_name(calls));
	for (size_t i = 0; i < json_array_size(calls); i++)
		if (read_call(c, m, json_array_get(calls, i), err) != OK)
			return err_prefix(err, "tool_calls[%zu]", i);
	return OK;
}

static enum status read_task(struct message *m, const json_t *o, struct err *err)
{
	const json_t *v = json_object_get(o, "task");

	if (!v || json_is_null(v))
		return OK;
	if (!json_is_text(v))
		return err_set(err, ERR_ARGUMENT, "task: expected a string, found %s", type_name(v));
	for (int t = TASK_NONE + 1; t < TASK_COUNT; t++) {
		if (strcmp(json_string_value(v), task_name((enum task)t)) == 0) {
			m->task = (enum task)t;
			return OK;
		}
	}
	return err_set(err, ERR_ARGUMENT, "task: expected action, query, authority, domain, title or read_url, "
		       "found %.*s", shown(json_string_value(v)), json_string_value(v));
}

static enum status read_attachments(struct message *m, const json_t *o, struct err *err)
{
	json_t *tools = json_object_get(o, "tools"), *format = json_object_get(o, "response_format");

	if (!is_absent(format))
		m->response_format = json_incref(format);
	if (is_absent(tools))
		return OK;
	if (!json_is_array(tools))
		return err_set(err, ERR_ARGUMENT, "tools: expected an array, found %s", type_name(tools));
	return function_objects(&m->tools, tools, err);
}

static enum status read_message(struct conversation *c, const json_t *o, struct err *err)
{
	size_t n;
	const char *role = json_get_text(o, "role", &n);
	struct message *m;
	int r = 0;

	if (!role)
		return err_set(err, ERR_ARGUMENT, "expected an object with a role, found %s", type_name(o));
	while (r < ROLE_COUNT && strcmp(role, role_name((enum role)r)))
		r++;
	if (r == ROLE_COUNT)
		return err_set(err, ERR_ARGUMENT, "role: expected system, user, assistant, tool, developer or "
			       "latest_reminder, found %.*s", shown(role), role);
	m = conversation_add(c, (enum role)r, "", 0);
	if (!m)
		return err_set(err, ERR_MEMORY, "no memory for a message");
	TRY(read_content(c, m, o, err));
	TRY(read_text(c, &m->reasoning, o, "reasoning_content", err));
	TRY(read_text(c, &m->tool_call_id, o, "tool_call_id", err));
	TRY(read_calls(c, m, o, err));
	TRY(read_task(m, o, err));
	m->unfinished = !is_absent(json_object_get(o, "wo_eos"));
	return read_attachments(m, o, err);
}

enum status conversation_add_json(struct conversation *c, const json_t *messages, struct err *err)
{
	if (!json_is_array(messages))
		return err_set(err, ERR_ARGUMENT, "messages: expected an array, found %s", type_name(messages));
	for (size_t i = 0; i < json_array_size(messages); i++)
		if (read_message(c, json_array_get(messages, i), err) != OK)
			return err_prefix(err, "messages[%zu]", i);
	return c->failed ? err_set(err, ERR_MEMORY, "messages: no memory") : OK;
}
