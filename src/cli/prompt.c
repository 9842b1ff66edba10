/* prompt.c - system text, tools, thinking and stop strings from the command line. */
#include "cli/prompt.h"

#include <string.h>

#include "base/file.h"

#define TEXT_CAP ((size_t)64 << 20)

static const char *const effort_names[] = {"auto", "low", "high", "max", NULL};	/* in the order of enum effort */
static const char *const profile_names[] = {"auto", "preview", "0731", NULL};

const struct arg_spec prompt_arg_table[] = {
	ARG_GROUP("Prompt"),
	ARG_FLAG("think", 0, struct prompt_args, think, "let the model reason first (the default, but for ds4-nano)"),
	ARG_FLAG("no-think", 0, struct prompt_args, no_think, "answer at once (the default for ds4-nano)"),
	ARG_CHOICE("effort", 0, struct prompt_args, effort, effort_names,
		   "how long to reason; high and max need --think, low needs profile 0731"),
	ARG_TEXT("system", 's', struct prompt_args, system, "TEXT", "instructions in front of the conversation"),
	ARG_TEXT("system-file", 0, struct prompt_args, system_file, "FILE", "the same from a file"),
	ARG_TEXT("tools", 0, struct prompt_args, tools, "FILE",
		 "JSON array of tools that the model may call, as OpenAI clients send it"),
	ARG_LIST("stop", 0, struct prompt_args, stop, "TEXT", "end the answer before this text; may be repeated"),
	ARG_CHOICE("profile", 0, struct prompt_args, profile, profile_names,
		   "prompt format: of the April (preview) or July (0731) weights; auto asks the model's name"),
	ARG_END
};

static enum status read_system(struct prompt *p, const struct prompt_args *a, struct err *err)
{
	if (a->system && a->system_file)
		return err_set(err, ERR_ARGUMENT, "--system and --system-file exclude each other");
	if (a->system)
		buf_str(&p->system, a->system);
	if (a->system_file) {
		TRY(file_read(&p->system, a->system_file, err));
		while (p->system.len && strchr("\r\n", p->system.data[p->system.len - 1]))
			buf_cut(&p->system, p->system.len - 1);
	}
	return buf_ok(&p->system)
		       ? OK
		       : err_set(err, ERR_LIMIT, "the system text is longer than %zu bytes", TEXT_CAP);
}

static enum status read_tools(struct prompt *p, const char *path, struct err *err)
{
	struct buf text = BUF_CAP(TEXT_CAP);
	enum status st = file_read(&text, path, err);

	if (st == OK) {
		p->tools = json_parse(buf_cstr(&text), text.len, err);
		if (!p->tools) {
			err_prefix(err, "%s", path);
			st = ERR_ARGUMENT;
		} else if (!json_is_array(p->tools)) {
			st = err_set(err, ERR_ARGUMENT, "%s: expected a JSON array of tools", path);
		}
	}
	buf_clear(&text);
	return st;
}

static enum status init_stops(struct prompt *p, const struct arg_list *list, struct err *err)
{
	struct stop_string s[ARG_LIST_MAX];

	for (int i = 0; i < list->n; i++) {
		s[i] = (struct stop_string){list->item[i], strlen(list->item[i])};
		if (!s[i].n || s[i].n > STOPS_MAX_BYTES)
			return err_set(err, ERR_ARGUMENT, "--stop: expected 1 to %d bytes, found %zu",
				       STOPS_MAX_BYTES, s[i].n);
	}
	return stops_init(&p->stops, s, list->n, err);
}

static enum status fill(struct prompt *p, const struct prompt_args *a, const struct engine *e, struct err *err)
{
	TRY(init_stops(p, &a->stop, err));
	TRY(read_system(p, a, err));
	if (a->tools)
		TRY(read_tools(p, a->tools, err));
	if (a->think && a->no_think)
		return err_set(err, ERR_ARGUMENT, "--think and --no-think exclude each other");
	p->render.thinking = a->think || !(a->no_think || cli_is_nano(e)) ? THINKING_ON : THINKING_OFF;
	p->render.effort = (enum effort)a->effort;
	p->render.profile = a->profile ? (enum profile)(a->profile - 1) : profile_guess(e->name, strlen(e->name));
	return OK;
}

enum status prompt_init(struct prompt *p, const struct prompt_args *a, const struct engine *e, struct err *err)
{
	enum status st;

	*p = (struct prompt){.system = BUF_CAP(TEXT_CAP)};
	st = fill(p, a, e, err);
	if (st != OK)
		prompt_clear(p);
	return st;
}

void prompt_clear(struct prompt *p)
{
	buf_clear(&p->system);
	json_decref(p->tools);
	p->tools = NULL;
	stops_clear(&p->stops);
}

enum status prompt_begin(const struct prompt *p, struct conversation **out, struct err *err)
{
	struct conversation *c = conversation_new();
	enum status st = OK;

	*out = NULL;
	if (c && p->system.len)
		conversation_add(c, ROLE_SYSTEM, p->system.data, p->system.len);
	if (!c || !conversation_ok(c))
		st = err_set(err, ERR_MEMORY, "no memory for a conversation");
	if (st == OK && p->tools)
		st = conversation_set_tools(c, p->tools, err);
	if (st != OK) {
		conversation_free(c);
		return st;
	}
	*out = c;
	return OK;
}
