/* dsml.h - the tool-call language: written into prompts, and read as it is generated.
 *
 *	<｜DSML｜tool_calls>
 *	<｜DSML｜invoke name="NAME">
 *	<｜DSML｜parameter name="KEY" string="true">raw text</｜DSML｜parameter>
 *	<｜DSML｜parameter name="KEY2" string="false">{"json": [1, 2]}</｜DSML｜parameter>
 *	</｜DSML｜invoke>
 *	</｜DSML｜tool_calls>
 *
 * ｜DSML｜ is one control token; the rest is text.  Nothing is ever escaped, in either direction: a value may
 * contain anything but "</" + the control token + "parameter>".
 * Source: docs/chat.md, sections 6, 7 and 10. */
#ifndef DS4_CHAT_DSML_H
#define DS4_CHAT_DSML_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/json.h"
#include "chat/message.h"
#include "chat/segment.h"

/* --- writing --- */

/* The tools block of a system message, from "## Tools" to its final newline.  tools: array of function objects. */
void dsml_write_tools(struct sink *s, const json_t *tools);

/* The calls [n] of an assistant turn with the empty line before them.  Arguments that are not a JSON object are
 * written as one string parameter named "arguments". */
void dsml_write_calls(struct sink *s, const struct tool_call *calls, size_t n);

/* --- reading --- */

/* What one generated token is to the reader. */
enum mark {
	MARK_TEXT,
	MARK_DSML,
	MARK_THINK,
	MARK_END_THINK,
	MARK_EOS,
	MARK_OTHER	/* any other control token */
};

/* One step of input: a byte, or a mark with its literal text. */
struct symbol {
	enum mark mark;
	const char *text;	/* [n]; one byte for MARK_TEXT */
	size_t n;
};

enum dsml_step {
	DSML_MORE,	/* taken, go on */
	DSML_JUNK,	/* does not belong here; nothing changed but an unfinished tag, which is forgotten */
	DSML_EMPTY,	/* the block is over and held no call */
	DSML_END	/* the block is over */
};

struct dsml_events {	/* what the reader reports; arguments come in pieces of one JSON object per call */
	void *ctx;
	void (*begin)(void *ctx, const char *name, size_t n);
	void (*arguments)(void *ctx, const char *json, size_t n);
	void (*end)(void *ctx, size_t members);	/* parameters that it had, a repeated name counted twice */
};

#define DSML_MAX_NESTING 8	/* parameters inside parameters */

enum dsml_value {
	VALUE_TEXT,	/* a string */
	VALUE_JSON,	/* string="false" */
	VALUE_TYPED,	/* string="true", but the schema wants another type */
	VALUE_GUESS	/* no string attribute */
};

struct dsml_parameter {	/* an open parameter */
	struct buf name;
	enum dsml_value kind;
	const json_t *schema;	/* borrowed, may be NULL */
	bool streamed;		/* its text went out as it came */
	struct buf text;	/* what came so far, unless streamed */
	struct buf members;	/* parameters inside this one, as JSON members */
};

enum dsml_state {
	DSML_BETWEEN,	/* outside any call: before, between and behind them */
	DSML_IN_CALL,	/* between the parameters of a call */
	DSML_IN_VALUE,
	DSML_IN_TAG,	/* after "<" and the control token */
	DSML_IN_CLOSER	/* after "</" and the control token */
};

/* Reads one block, from behind its first "<" and control token. */
struct dsml_reader {
	const struct dsml_events *events;
	const json_t *tools;	/* borrowed array of function objects; NULL: not known */
	enum dsml_state state, before_tag;
	bool hold;		/* set by the caller: report a parameter only when it is closed */
	bool opened, proper;	/* an opener came; it was "tool_calls" */
	size_t n_calls;		/* begun */
	bool in_call;
	size_t n_members;	/* of the open call */
	const json_t *function;	/* of the open call, NULL when unknown */
	struct dsml_parameter open[DSML_MAX_NESTING];
	size_t n_open;
	struct buf tag;		/* of the tag or closer being read */
	bool in_quotes, maybe_unquoted;
	char tail[4];		/* "\n</" held back, as far as it has come */
	size_t n_tail;
	bool failed;		/* out of memory */
};

void dsml_reader_start(struct dsml_reader *r, const struct dsml_events *events, const json_t *tools);
void dsml_reader_clear(struct dsml_reader *r);
enum dsml_step dsml_read(struct dsml_reader *r, const struct symbol *s);

/* The model stopped inside the block.  Closes the open call when all its parameters are closed, and with drop
 * leaves out a parameter that is not.  True when calls were begun and all are complete now. */
bool dsml_reader_finish(struct dsml_reader *r, bool drop);

/* The function object of a declared tool (of OpenAI's form, or bare), NULL if there is none. */
const json_t *dsml_find_tool(const json_t *tools, const char *name, size_t n);

#endif
