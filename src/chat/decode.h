/* decode.h - generated tokens -> reasoning, content and tool calls, as they come.
 *
 * Promises
 *   D1. Pieces of text are whole UTF-8 characters; ill-formed bytes arrive as U+FFFD.
 *   D2. How the tokens cut the bytes has no influence: the pieces of each kind, joined, are the same.
 *   D3. Order: reasoning, content, then calls (begin, arguments..., end) one after the other, then exactly one
 *       FINISH.  A call that was cut off has no end.
 *   D4. The arguments of a call, joined, are one JSON object, unless the call was cut off.
 * Control tokens are told by their ids, never by their text.  What can only be understood later is held back:
 * white space and "<" before a block, and a whole block in the places where it may be none.
 * Thread: one thread at a time.  Source: docs/chat.md, section 10. */
#ifndef DS4_CHAT_DECODE_H
#define DS4_CHAT_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "chat/dsml.h"
#include "chat/message.h"
#include "tokenizer/tokenizer.h"

enum piece_kind {
	PIECE_REASONING,	/* text [n] */
	PIECE_CONTENT,		/* text [n] */
	PIECE_TOOL_BEGIN,	/* index; text [n] is the name */
	PIECE_TOOL_ARGUMENTS,	/* index; text [n] is JSON */
	PIECE_TOOL_END,		/* index; n is how many members were written, repeated names counted each time */
	PIECE_FINISH		/* finish */
};

enum finish {
	FINISH_STOP,
	FINISH_TOOL_CALLS,
	FINISH_LENGTH	/* cut off: by the caller, or by the model in the middle of a call already reported */
};

struct piece {
	enum piece_kind kind;
	size_t index;		/* of the call, from 0 */
	const char *text;	/* borrowed until the callback returns */
	size_t n;
	enum finish finish;
};

struct decode_options {
	enum thinking thinking;	/* THINKING_ON: generation starts inside the reasoning */
	bool tools_active;	/* false: every block is text */
	const json_t *tools;	/* borrowed: function objects or OpenAI tools; NULL: any name is declared */
	void *ctx;
	void (*take)(void *ctx, const struct piece *piece);
};

struct decode;

/* t is borrowed and may be NULL when only decode_feed() is used.  NULL without memory. */
struct decode *decode_new(const struct tokenizer *t, const struct decode_options *o);
void decode_free(struct decode *d);	/* accepts NULL */

/* Takes the next token.  False once the answer is over (EOS, or the block's closer: do not wait for EOS). */
bool decode_push(struct decode *d, int32_t id);

/* The same for what a token is and says, without a vocabulary. */
bool decode_feed(struct decode *d, enum mark mark, const char *text, size_t n);

/* Ends the answer from outside: FINISH_LENGTH at the token limit or a cancel, FINISH_STOP at a stop string.
 * Does nothing when it is over already. */
void decode_finish(struct decode *d, enum finish finish);

bool decode_ok(const struct decode *d);	/* false after memory ran out: text was lost */

/* Is the next token part of a tool call's tags rather than of a value?  Then sampling does best to be greedy. */
bool decode_in_structure(const struct decode *d);

#endif
