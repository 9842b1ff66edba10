/* api_tools.c - declared tools: from each dialect's form to function objects in the prompt, and back by name.
 *
 * What  q->tools holds what the prompt shows; q->tool, in the same order, how the client knows each.
 *       Functions keep their object (chat) or get {name, description, parameters, strict} in that order.
 *       A custom tool is a function of one string, "input".  A namespace is dissolved: its name stands before those of
 *       its functions.  Hosted tools, which no client of ours could run, are left out.
 * Source: docs/chat.md, section 6. */
#include <string.h>

#include "base/mem.h"
#include "server/api_request_int.h"

/* Declares one; takes over a reference to function, which may be NULL without memory. */
static bool declare(struct parsing *p, json_t *function, enum api_tool_kind kind, struct slice space, struct slice name)
{
	struct api_request *q = p->q;
	struct api_tool *t = mem_grow(q->tool, q->n_tool + 1, sizeof *t);
	bool ok;

	if (!t) {
		json_decref(function);
		return parsing_no_memory(p);
	}
	q->tool = t;
	t += q->n_tool++;
	*t = (struct api_tool){.kind = kind,
			       .name = tool_prompt_name(space, name),
			       .wire_name = slice_copy(name),
			       .space = space.n ? slice_copy(space) : NULL};
	ok = t->name && t->wire_name && (t->space || !space.n);
	if (ok && space.n && function)	/* the same object with the longer name, in its place */
		ok = json_object_set_new_nocheck(function, "name", json_string_nocheck(t->name)) == 0;
	if (!ok || !function || json_array_append(q->tools, function))
		ok = parsing_no_memory(p);
	json_decref(function);
	return ok;
}

char *tool_prompt_name(struct slice space, struct slice name)
{
	struct buf b = BUF_CAP(BUF_MAX);

	buf_add(&b, space.p, space.p ? space.n : 0);
	buf_add(&b, name.p, name.n);
	buf_str(&b, "");
	return b.len ? buf_take(&b) : mem_strn("", 0);
}

void custom_arguments(struct buf *out, struct slice text)
{
	buf_str(out, "{\"input\": ");
	json_write_string(out, text.p ? text.p : "", text.n);
	buf_byte(out, '}');
}

/* A function object of these members of t, each as it is; schema_key says where the parameters stand. */
static json_t *function_object(const struct field *t, const char *schema_key)
{
	static const char *const names[] = {"name", "description", "parameters", "strict"};
	json_t *f = json_object();

	for (size_t i = 0; f && i < 4; i++) {
		struct field m = field_get(t, i == 2 ? schema_key : names[i]);

		if (m.v && json_object_set_nocheck(f, names[i], (json_t *)m.v)) {
			json_decref(f);
			f = NULL;
		}
	}
	return f;
}

static json_t *custom_function(const struct field *t)
{
	json_t *f = function_object(t, "");	/* its format is no schema */
	json_t *parameters = json_pack("{s:s, s:{s:{s:s}}, s:[s]}", "type", "object", "properties", "input", "type",
				       "string", "required", "input");

	if (f && parameters && json_object_set_nocheck(f, "parameters", parameters)) {
		json_decref(f);
		f = NULL;
	}
	if (!parameters) {
		json_decref(f);
		f = NULL;
	}
	json_decref(parameters);
	return f;
}

/* The members that every tool has, checked. */
static bool check_tool(struct parsing *p, const struct field *t, const char *schema_key, struct slice *name)
{
	struct field name_field = field_get(t, "name"), schema = field_get(t, schema_key);
	struct slice description = {.p = NULL};
	bool strict = false;

	if (!field_text(&name_field, name) || !get_text(t, "description", &description) || !field_object(&schema) ||
	    !get_bool(t, "strict", &strict))
		return false;
	p->q->turn.strict_tools |= strict;
	return name->n || field_missing(&name_field);
}

static bool declare_function(struct parsing *p, const struct field *t, const char *schema_key, struct slice space)
{
	struct slice name = {.p = NULL};

	return check_tool(p, t, schema_key, &name) &&
	       declare(p, function_object(t, schema_key), API_TOOL_FUNCTION, space, name);
}

static bool declare_custom(struct parsing *p, const struct field *t, struct slice space)
{
	struct slice name = {.p = NULL};

	return check_tool(p, t, "", &name) && declare(p, custom_function(t), API_TOOL_CUSTOM, space, name);
}

static bool chat_tool(struct parsing *p, const struct field *t, struct slice type)
{
	struct field f = field_get(t, "function"), custom = field_get(t, "custom");
	struct slice name = {.p = NULL}, none = {.p = NULL};

	if (slice_is(type, "custom")) {
		if (!custom.v)
			return field_missing(&custom);
		return field_object(&custom) && declare_custom(p, &custom, none);
	}
	if (f.v)
		return field_object(&f) && check_tool(p, &f, "parameters", &name) &&
		       declare(p, json_incref((json_t *)f.v), API_TOOL_FUNCTION, none, name);
	if (type.p && !slice_is(type, "function"))
		return true;	/* hosted */
	return json_object_get(t->v, "name") ? declare_function(p, t, "parameters", none) : field_missing(&f);
}

static bool responses_tool(struct parsing *p, const struct field *t, struct slice type, struct slice space);

static bool declare_namespace(struct parsing *p, const struct field *t)
{
	struct field tools = field_get(t, "tools"), name_field = field_get(t, "name");
	struct slice space = {.p = NULL};

	if (!field_text(&name_field, &space) || !field_array(&tools))
		return false;
	if (!space.n)
		return field_missing(&name_field);
	for (size_t i = 0; i < field_count(&tools); i++) {
		struct field inner = field_at(&tools, i);
		struct slice type = {.p = NULL};

		if (!json_is_object(inner.v))
			return field_wrong(&inner, "an object");
		if (!get_text(&inner, "type", &type) || !responses_tool(p, &inner, type, space))
			return false;
	}
	return true;
}

static bool responses_tool(struct parsing *p, const struct field *t, struct slice type, struct slice space)
{
	if (slice_is(type, "function") || !type.p)
		return declare_function(p, t, "parameters", space);
	if (slice_is(type, "custom"))
		return declare_custom(p, t, space);
	if (slice_is(type, "namespace") && !space.p)
		return declare_namespace(p, t);
	if (slice_is(type, "tool_search") && json_is_object(json_object_get(t->v, "parameters"))) {
		struct slice name = {"tool_search", 11}, none = {.p = NULL};
		json_t *f = function_object(t, "parameters"), *named = json_pack("{s:s}", "name", "tool_search");

		if (f && named)
			json_object_update(named, f);
		json_decref(f);
		return declare(p, named, API_TOOL_SEARCH, none, name);
	}
	return true;	/* hosted */
}

static bool messages_tool(struct parsing *p, const struct field *t, struct slice type)
{
	struct field schema = field_get(t, "input_schema");
	struct slice none = {.p = NULL};

	if (!schema.v && type.p && !slice_is(type, "custom"))
		return true;	/* run by Anthropic's servers, or known by name alone */
	if (!check_tool(p, t, "input_schema", &(struct slice){.p = NULL}))
		return false;
	return schema.v ? declare_function(p, t, "input_schema", none) : field_missing(&schema);
}

bool parse_tools(struct parsing *p, enum tools_shape shape)
{
	struct field tools = field_get(&p->body, "tools");
	struct slice none = {.p = NULL};

	if (!field_array(&tools))
		return false;
	if (!field_count(&tools))
		return true;
	p->q->tools = json_array();
	if (!p->q->tools)
		return parsing_no_memory(p);
	for (size_t i = 0; i < field_count(&tools); i++) {
		struct field t = field_at(&tools, i);
		struct slice type = {.p = NULL};

		if (!json_is_object(t.v))
			return field_wrong(&t, "an object");
		if (!get_text(&t, "type", &type))
			return false;
		if (!(shape == TOOLS_CHAT        ? chat_tool(p, &t, type)
		      : shape == TOOLS_RESPONSES ? responses_tool(p, &t, type, none)
						 : messages_tool(p, &t, type)))
			return false;
	}
	return true;
}

/* --- tool_choice --- */

static bool choose_named(struct parsing *p, const struct field *o)
{
	struct field f = field_get(o, "name");
	struct slice name = {.p = NULL}, space = {.p = NULL};
	struct api_request *q = p->q;

	if (!field_text(&f, &name) || !get_text(o, "namespace", &space))
		return false;
	if (!name.p)
		return field_missing(&f);
	for (size_t i = 0; i < q->n_tool; i++) {
		const struct api_tool *t = &q->tool[i];

		if (!slice_is(name, t->wire_name) || (space.p && !(t->space && slice_is(space, t->space))))
			continue;
		q->turn.tool_choice = TOOL_CHOICE_NAMED;
		q->tool_name = mem_str(t->name);
		q->turn.tool_name = q->tool_name;
		return q->tool_name || parsing_no_memory(p);
	}
	return field_fail(&f, "expected the name of a declared tool, found \"%.*s\"", slice_shown(name), name.p);
}

static bool choose(struct parsing *p, const struct field *f, struct slice mode, const char *required)
{
	if (slice_is(mode, "none"))
		p->q->turn.tool_choice = TOOL_CHOICE_NONE;
	else if (slice_is(mode, required) && !p->q->n_tool)
		return field_fail(f, "\"%s\" needs tools, and none is declared", required);
	else if (slice_is(mode, required))
		p->q->turn.tool_choice = TOOL_CHOICE_REQUIRED;
	else if (!slice_is(mode, "auto"))
		return false;
	return true;
}

static bool choose_messages(struct parsing *p, const struct field *f)
{
	struct field type_field = field_get(f, "type");
	struct slice type = {.p = NULL};
	bool one = false;

	if (!field_object(f) || !field_text(&type_field, &type) || !get_bool(f, "disable_parallel_tool_use", &one))
		return false;
	if (!type.p)
		return field_missing(&type_field);
	p->q->turn.one_call = one;
	if (slice_is(type, "tool"))
		return choose_named(p, f);
	if (slice_is(type, "none") || slice_is(type, "auto") || slice_is(type, "any"))
		return choose(p, f, type, "any");
	return field_wrong(&type_field, "auto, any, tool or none");
}

bool parse_tool_choice(struct parsing *p, enum tools_shape shape)
{
	struct field f = field_get(&p->body, "tool_choice"), type_field = field_get(&f, "type"), inner;
	struct slice s = {.p = NULL};
	bool function, custom;

	if (!f.v)
		return true;
	if (shape == TOOLS_MESSAGES)
		return choose_messages(p, &f);
	if (json_is_text(f.v)) {
		field_text(&f, &s);
		if (slice_is(s, "none") || slice_is(s, "auto") || slice_is(s, "required"))
			return choose(p, &f, s, "required");
	}
	if (!json_is_object(f.v))
		return field_wrong(&f, "none, auto, required or an object that names a tool");
	if (!field_text(&type_field, &s))
		return false;
	function = slice_is(s, "function");
	custom = slice_is(s, "custom");
	if (!function && !custom)
		return field_wrong(&type_field, "function or custom");
	inner = shape == TOOLS_CHAT ? field_get(&f, function ? "function" : "custom") : f;
	if (!inner.v)
		return field_missing(&inner);
	return field_object(&inner) && choose_named(p, &inner);
}
