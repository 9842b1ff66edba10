/* prompt.h - options about what the model is told, shared by chat and run, and what is made of them. */
#ifndef DS4_CLI_PROMPT_H
#define DS4_CLI_PROMPT_H

#include "base/json.h"
#include "chat/render.h"
#include "cli/cli.h"
#include "engine/stops.h"

struct prompt_args {
	bool think, no_think;		/* neither: on, but off for ds4-nano */
	int effort, profile;		/* indices into lists in prompt.c; 0 = not given */
	const char *system, *system_file, *tools;
	struct arg_list stop;
};

extern const struct arg_spec prompt_arg_table[];

/* The conversation's beginning and how to render it. */
struct prompt {
	struct buf system;		/* text */
	json_t *tools;			/* array of function objects or OpenAI tools; NULL for none */
	struct stops stops;
	struct render_options render;
};

enum status prompt_init(struct prompt *p, const struct prompt_args *a, const struct engine *e, struct err *err);
void prompt_clear(struct prompt *p);

/* A conversation with the system text and the tools, and nothing else. */
enum status prompt_begin(const struct prompt *p, struct conversation **out, struct err *err);

#endif
