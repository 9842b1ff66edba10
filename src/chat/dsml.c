/* dsml.c - writes tools and tool calls into a prompt; dsml_read.c reads them.
 *
 * Careful
 *       - In the tools block ｜DSML｜, <think> and </think> are control tokens, because it is our template.  In
 *         names, values and schemas, which come from outside, the same characters are text.
 *       - A call without arguments has an empty line between its tags. */
#include "chat/dsml.h"

#define TOOLS_BEFORE \
	"## Tools\n\n" \
	"You have access to a set of tools to help answer the user's question. You can invoke tools by " \
	"writing a \"<｜DSML｜tool_calls>\" block like the following:\n\n" \
	"<｜DSML｜tool_calls>\n" \
	"<｜DSML｜invoke name=\"$TOOL_NAME\">\n" \
	"<｜DSML｜parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</｜DSML｜parameter>\n" \
	"...\n" \
	"</｜DSML｜invoke>\n" \
	"<｜DSML｜invoke name=\"$TOOL_NAME2\">\n" \
	"...\n" \
	"</｜DSML｜invoke>\n" \
	"</｜DSML｜tool_calls>\n\n" \
	"String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, " \
	"booleans, arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n" \
	"If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside " \
	"<think>...</think> BEFORE any tool calls or final response.\n\n" \
	"Otherwise, output directly after </think> with tool calls or final response.\n\n" \
	"### Available Tool Schemas\n\n"

#define TOOLS_AFTER \
	"\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n"

void dsml_write_tools(struct sink *s, const json_t *tools)
{
	sink_template(s, TOOLS_BEFORE);
	for (size_t i = 0; i < json_array_size(tools); i++) {
		sink_json(s, json_array_get(tools, i));
		sink_str(s, "\n");
	}
	sink_template(s, TOOLS_AFTER);
}

/* Strings raw, everything else as JSON. */
static void write_parameter(struct sink *s, const char *name, const json_t *value)
{
	bool string = json_is_text(value);

	sink_template(s, "<｜DSML｜parameter name=\"");
	sink_str(s, name);
	sink_str(s, string ? "\" string=\"true\">" : "\" string=\"false\">");
	if (string)
		sink_text(s, json_string_value(value), json_string_length(value));
	else
		sink_json(s, value);
	sink_template(s, "</｜DSML｜parameter>\n");
}

/* The arguments as an object; what is none becomes the member "arguments" of one.  NULL without memory. */
static json_t *argument_object(const struct text *text)
{
	struct err err;
	json_t *v = json_parse(text->p ? text->p : "", text->n, &err), *o;

	if (json_is_object(v))
		return v;
	json_decref(v);
	if (!v && err.code == ERR_MEMORY)
		return NULL;
	o = json_object();
	json_object_set_new(o, "arguments", json_stringn_nocheck(text->p ? text->p : "", text->n));
	return o;
}

static void write_call(struct sink *s, const struct tool_call *call)
{
	json_t *arguments = argument_object(&call->arguments);

	s->failed |= !arguments;
	sink_template(s, "<｜DSML｜invoke name=\"");
	sink_text(s, call->name.p, call->name.n);
	sink_str(s, "\">\n");
	for (void *i = json_object_iter(arguments); i; i = json_object_iter_next(arguments, i))
		write_parameter(s, json_object_iter_key(i), json_object_iter_value(i));
	if (!json_object_size(arguments))
		sink_str(s, "\n");
	sink_template(s, "</｜DSML｜invoke>\n");
	json_decref(arguments);
}

void dsml_write_calls(struct sink *s, const struct tool_call *calls, size_t n)
{
	sink_template(s, "\n\n<｜DSML｜tool_calls>\n");
	for (size_t i = 0; i < n; i++)
		write_call(s, &calls[i]);
	sink_template(s, "</｜DSML｜tool_calls>");
}
