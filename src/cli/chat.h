/* chat.h - the state of a chat, shared by the loop (chat.c) and its commands (chat_commands.c). */
#ifndef DS4_CLI_CHAT_H
#define DS4_CLI_CHAT_H

#include "chat/answer.h"
#include "cli/cli.h"
#include "cli/generate.h"
#include "cli/line.h"
#include "cli/prompt.h"
#include "cli/show.h"

struct chat_args {
	struct engine_args engine;
	struct sampling_args sampling;
	struct prompt_args prompt;
};

struct chat {
	const struct chat_args *args;
	struct engine *e;
	struct session *session;
	struct sampler sampler;
	uint8_t *allowed;
	struct prompt prompt;
	struct conversation *conversation;
	struct line_reader *lines;
	struct show show;
	struct answer answer;			/* the last one */
	struct generate_result result;		/* its numbers */
	int calls_made;				/* for ids of tool calls */
	bool leave;
	struct err failed;			/* the first failure */
};

/* Answers what the conversation ends with, and after tool calls again with their results.  On failure it says so
 * and cuts the conversation back to n messages. */
void chat_go_on(struct chat *c, size_t n);

enum status chat_answer(struct chat *c, struct err *err);
enum status chat_reset(struct chat *c, struct err *err);	/* a new conversation with the same system text */
void chat_fail(struct chat *c, const struct err *err);		/* says it, remembers the first */

/* Runs a line that begins with a slash. */
void chat_command_line(struct chat *c, const char *line);

#endif
