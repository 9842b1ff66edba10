/* answer.h - collects the pieces of one answer: for replies that are not streamed, and for the history. */
#ifndef DS4_CHAT_ANSWER_H
#define DS4_CHAT_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/json.h"
#include "chat/decode.h"
#include "chat/message.h"

struct answer_call {
	struct buf name, arguments;
	size_t n_members;
	bool complete;
};

struct answer {
	struct buf reasoning, content;
	struct answer_call *calls;	/* [n_calls] */
	size_t n_calls;
	enum finish finish;
	bool finished;
	bool failed;	/* out of memory: ask answer_ok() */
};

void answer_init(struct answer *a);
void answer_clear(struct answer *a);
bool answer_ok(const struct answer *a);	/* false after memory ran out: something is missing */

/* For struct decode_options.take, with the answer as ctx. */
void answer_take(void *answer, const struct piece *piece);

/* The answer as {"role", "content", "reasoning_content", "tool_calls"}; a new reference, NULL without memory.
 * Where a parameter was repeated, only its last value is left. */
json_t *answer_json(const struct answer *a);

/* Appends the answer as an assistant message.  Call ids are left empty: they are the caller's business. */
struct message *answer_add(const struct answer *a, struct conversation *c);

#endif
