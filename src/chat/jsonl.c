/* jsonl.c - see jsonl.h. */
#include "chat/jsonl.h"

#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "chat/answer.h"
#include "chat/render.h"

/* Looks text up in names [n]; a missing or null field leaves *choice alone. */
static enum status read_choice(const json_t *o, const char *field, const char *const *names, int n, int *choice,
			       struct err *err)
{
	const json_t *v = json_object_get(o, field);
	const char *text = json_is_text(v) ? json_string_value(v) : "no text";

	if (!v || json_is_null(v))
		return OK;
	for (int i = 0; i < n; i++) {
		if (strcmp(text, names[i]) == 0) {
			*choice = i;
			return OK;
		}
	}
	return err_set(err, ERR_ARGUMENT, "%s: expected %s%s%s or %s, found %.*s", field, names[0], n > 2 ? ", " : "",
		       n > 2 ? names[1] : "", names[n - 1], (int)utf8_whole(text, strnlen(text, 60)), text);
}

static enum status read_mode(const json_t *o, const char *field, enum thinking *thinking, struct err *err)
{
	static const char *const names[] = {"chat", "thinking"};
	int i = THINKING_ON;

	TRY(read_choice(o, field, names, 2, &i, err));
	*thinking = (enum thinking)i;
	return OK;
}

static enum status read_options(struct render_options *o, const json_t *line, struct err *err)
{
	static const char *const efforts[] = {"low", "high", "max"}, *const profiles[] = {"preview", "0731"};
	const json_t *args = json_object_get(line, "args");
	int effort = -1, profile = PROFILE_PREVIEW;

	TRY(read_mode(args, "thinking_mode", &o->thinking, err));
	TRY(read_choice(args, "reasoning_effort", efforts, 3, &effort, err));
	TRY(read_choice(line, "profile", profiles, 2, &profile, err));
	o->effort = (enum effort)(effort + 1);
	o->profile = (enum profile)profile;
	o->keep_reasoning = json_is_false(json_object_get(args, "drop_thinking"));
	o->no_bos = json_is_false(json_object_get(args, "add_default_bos_token"));
	return OK;
}

static void write_ids(struct buf *out, const struct token_list *ids)
{
	buf_byte(out, '[');
	for (size_t i = 0; i < ids->n; i++)
		buf_printf(out, "%s%d", i ? ", " : "", (int)ids->id[i]);
	buf_byte(out, ']');
}

static enum status render_line(const struct tokenizer *t, const json_t *line, struct conversation *c,
			       struct buf *out, struct err *err)
{
	const json_t *context = json_object_get(json_object_get(line, "args"), "context");
	struct render_options o = {.profile = PROFILE_PREVIEW};
	struct token_list ids = {0};
	struct buf prompt = BUF_CAP(BUF_MAX);
	enum status st;

	TRY(read_options(&o, line, err));
	if (json_is_array(context) && conversation_add_json(c, context, err) != OK)
		return err_prefix(err, "context");
	c->n_context = c->n;
	TRY(conversation_add_json(c, json_object_get(line, "messages"), err));
	TRY_TO(out, chat_render_text(c, &o, t, &prompt, err));
	TRY_TO(out, chat_render_ids(c, &o, t, &ids, err));
	buf_str(out, "{\"prompt\": ");
	json_write_string(out, buf_cstr(&prompt), prompt.len);
	buf_str(out, ", \"ids\": ");
	write_ids(out, &ids);
	buf_byte(out, '}');
out:
	token_list_clear(&ids);
	buf_clear(&prompt);
	return st;
}

enum status chat_render_json(const struct tokenizer *t, const char *line, size_t n, struct buf *out,
			     struct err *err)
{
	json_t *o = json_parse(line, n, err);
	struct conversation *c;
	enum status st;

	if (!o)
		return err ? err->code : ERR_ARGUMENT;
	c = conversation_new();
	st = c ? render_line(t, o, c, out, err) : err_set(err, ERR_MEMORY, "no memory for a conversation");
	conversation_free(c);
	json_decref(o);
	if (st == OK && !buf_ok(out))
		return err_set(err, ERR_MEMORY, "no memory for the rendered line");
	return st;
}

static enum status parse_line(const struct tokenizer *t, const json_t *line, struct answer *a, struct err *err)
{
	const json_t *tools = json_object_get(line, "tools");
	struct decode_options o = {.tools_active = true, .ctx = a, .take = answer_take};
	struct token_list ids = {0};
	struct decode *d;
	size_t n, i = 0;
	const char *text = json_get_text(line, "text", &n);
	enum status st = OK;

	if (!text)
		return err_set(err, ERR_ARGUMENT, "text: expected a string, found none");
	TRY(read_mode(line, "mode", &o.thinking, err));
	o.tools = json_is_array(tools) ? tools : NULL;
	token_encode_control(t, text, n, &ids);
	d = decode_new(t, &o);
	while (d && i < ids.n && decode_push(d, ids.id[i]))
		i++;
	if (d)
		decode_finish(d, FINISH_LENGTH);
	if (!d || !decode_ok(d) || ids.failed || !answer_ok(a))
		st = err_set(err, ERR_MEMORY, "no memory to parse %zu bytes", n);
	decode_free(d);
	token_list_clear(&ids);
	return st;
}

enum status chat_parse_json(const struct tokenizer *t, const char *line, size_t n, struct buf *out,
			    struct err *err)
{
	json_t *o = json_parse(line, n, err), *result;
	struct answer a;
	enum status st;

	if (!o)
		return err ? err->code : ERR_ARGUMENT;
	answer_init(&a);
	st = parse_line(t, o, &a, err);
	if (st == OK) {
		result = answer_json(&a);
		buf_str(out, "{\"result\": ");
		if (result)
			json_write_python(out, result);
		else
			st = err_set(err, ERR_MEMORY, "no memory for the result");
		buf_byte(out, '}');
		json_decref(result);
	}
	answer_clear(&a);
	json_decref(o);
	if (st == OK && !buf_ok(out))
		return err_set(err, ERR_MEMORY, "no memory for the parsed line");
	return st;
}
