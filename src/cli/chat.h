/* chat.h - the state of a chat, shared by the loop (chat.c) and its commands (chat_commands.c, chat_saved.c). */
#ifndef DS4_CLI_CHAT_H
#define DS4_CLI_CHAT_H

#include "chat/answer.h"
#include "cli/cli.h"
#include "cli/generate.h"
#include "cli/line.h"
#include "cli/prompt.h"
#include "cli/show.h"
#include "cli/talks.h"

struct chat_args {
	struct engine_args engine;
	struct sampling_args sampling;
	struct prompt_args prompt;
	struct kv_args kv;
	const char *chats, *conversation;
	bool go_on;		/* --continue */
};

struct chat {
	const struct chat_args *args;
	struct engine *e;
	struct kvstore *kv;			/* NULL = none */
	struct talks talks;
	struct sampler sampler;
	uint8_t *allowed;
	struct prompt prompt;
	struct line_reader *lines;
	struct show show;
	struct answer answer;			/* the last one */
	struct generate_result result;		/* its numbers */
	bool leave;
	struct err failed;			/* the first failure */
};

/* The conversation that is going on. */
static inline struct conversation *chat_now(const struct chat *c)
{
	return c->talks.now->conversation;
}

/* Answers what the conversation ends with, and after tool calls again with their results.  On failure it says so
 * and cuts the conversation back to n messages. */
void chat_go_on(struct chat *c, size_t n);

enum status chat_answer(struct chat *c, struct err *err);
/* Goes on with the last message, an answer that was stopped. */
enum status chat_more(struct chat *c, struct err *err);
enum status chat_reset(struct chat *c, struct err *err);	/* a new conversation with the same system text */
void chat_fail(struct chat *c, const struct err *err);		/* says it, remembers the first */

/* What belongs to the conversation that was just entered: its mode, and at a terminal how it ended. */
void chat_entered(struct chat *c, const struct chatlog_info *info, bool read);
enum status chat_enter(struct chat *c, const char *id, struct err *err);

/* Runs a line that begins with a slash. */
void chat_command_line(struct chat *c, const char *line);

/* chat_saved.c: the commands about conversations. */
void chat_list(struct chat *c, const char *argument);
void chat_name(struct chat *c, const char *argument);
void chat_switch(struct chat *c, const char *argument);
void chat_fork(struct chat *c, const char *argument);
void chat_delete(struct chat *c, const char *argument);

#endif
