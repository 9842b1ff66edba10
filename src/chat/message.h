/* message.h - a conversation in neutral form: what every API dialect, the chat loop and the tests fill in.
 *
 * A conversation is a list of messages as the official encoder takes them; render.h turns it into the prompt.
 * Texts are counted, may hold NUL, and are UTF-8 (ill-formed parts are read as U+FFFD when tokenized).
 * Pointers to messages stay valid until the next message is added.
 * Failed allocations are remembered in the conversation: build it, then ask conversation_ok() once.
 * Thread: one thread at a time. */
#ifndef DS4_CHAT_MESSAGE_H
#define DS4_CHAT_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"
#include "tokenizer/tokenizer.h"

/* DEVELOPER is the role of DeepSeek's internal search agent, not OpenAI's: API dialects map theirs to SYSTEM. */
#define ROLE_MAP(X)                        \
	X(ROLE_SYSTEM,    "system")        \
	X(ROLE_DEVELOPER, "developer")     \
	X(ROLE_USER,      "user")          \
	X(ROLE_TOOL,      "tool")          \
	X(ROLE_ASSISTANT, "assistant")     \
	X(ROLE_REMINDER,  "latest_reminder")

enum role {
#define X(code, text) code,
	ROLE_MAP(X)
#undef X
	ROLE_COUNT
};

/* Quick-instruction tasks: a control token asks for one short answer instead of a turn. */
#define TASK_MAP(X)                                          \
	X(TASK_ACTION,    "action",    SPECIAL_ACTION)       \
	X(TASK_QUERY,     "query",     SPECIAL_QUERY)        \
	X(TASK_AUTHORITY, "authority", SPECIAL_AUTHORITY)    \
	X(TASK_DOMAIN,    "domain",    SPECIAL_DOMAIN)       \
	X(TASK_TITLE,     "title",     SPECIAL_TITLE)        \
	X(TASK_READ_URL,  "read_url",  SPECIAL_READ_URL)

enum task {
	TASK_NONE,
#define X(code, text, special) code,
	TASK_MAP(X)
#undef X
	TASK_COUNT
};

enum thinking {
	THINKING_OFF,
	THINKING_ON
};

struct text {
	char *p;	/* NUL-terminated behind n; NULL means empty */
	size_t n;
};

struct tool_call {
	struct text id, name;
	struct text arguments;	/* JSON text of an object, as the model or the client spelt it */
};

/* The ids that were sampled for an assistant turn, without the final EOS.  The renderer splices them in place
 * of the texts, so that the prompt extends the tokens in the KV cache exactly. */
struct exact {
	int32_t *id;
	size_t n;		/* 0: none, render from the texts */
	size_t n_reasoning;	/* of those, the reasoning and its </think>; 0 when sampled without thinking */
	enum thinking thinking;	/* what the turn was sampled with */
	bool closed;		/* the reasoning ended with </think> */
};

struct message {
	enum role role;
	struct text content;
	struct text reasoning;		/* assistant */
	struct tool_call *calls;	/* assistant [n_calls] */
	size_t n_calls;
	struct text tool_call_id;	/* tool */
	enum task task;
	bool unfinished;		/* assistant: no EOS, the answer is to be continued */
	json_t *tools;			/* system, developer: array of function objects, or NULL */
	json_t *response_format;	/* system, developer: a schema, or NULL */
	struct text carrier;		/* assistant: the turn's name that a client sent back (replay.h) */
	struct exact exact;		/* assistant */
};

struct conversation {
	struct message *messages;	/* [n] */
	size_t n, room;
	size_t n_context;	/* the first messages are known to the model already: not rendered, no BOS */
	bool failed;		/* out of memory: sticky, what was added since may be incomplete */
};

struct conversation *conversation_new(void);	/* NULL without memory */
void conversation_free(struct conversation *c);	/* accepts NULL */
bool conversation_ok(const struct conversation *c);

/* Appends a message; the texts are copied.  NULL after a failure. */
struct message *conversation_add(struct conversation *c, enum role role, const char *content, size_t n);
struct message *conversation_add_tool_result(struct conversation *c, const char *id, const char *content,
					     size_t n);

/* Takes over the texts of an assistant message; each may be NULL.  Calls are added one by one. */
void conversation_set_reasoning(struct conversation *c, struct message *m, const char *text, size_t n);
void conversation_add_call(struct conversation *c, struct message *m, const struct tool_call *call);

void conversation_set_carrier(struct conversation *c, struct message *m, const char *text, size_t n);

/* Remembers the ids sampled for m, from the first one after the transition to the closing marker; an EOS at
 * their end is not kept, the renderer writes it. */
void conversation_set_exact(struct conversation *c, struct message *m, const struct tokenizer *t,
			    enum thinking thinking, const int32_t *id, size_t n);

/* Declares tools (array of OpenAI tools or bare function objects; copied as function objects) on the first
 * system message, which is put in front when there is none.  Errors: ERR_ARGUMENT. */
enum status conversation_set_tools(struct conversation *c, const json_t *tools, struct err *err);

/* Forgets all messages from number n on. */
void conversation_cut(struct conversation *c, size_t n);

/* Appends the messages of a JSON array: objects with role, content (text, null or an array of parts),
 * reasoning_content, tool_calls, tool_call_id, tools, response_format, task, wo_eos.
 * Errors: ERR_ARGUMENT naming the message, the field, what was expected and found. */
enum status conversation_add_json(struct conversation *c, const json_t *messages, struct err *err);

const char *role_name(enum role role);
const char *task_name(enum task task);	/* "none" for TASK_NONE */
int task_special(enum task task);	/* its enum special; task is not TASK_NONE */

#endif
