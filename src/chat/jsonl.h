/* jsonl.h - one JSON object in, one out: what `ds4 render --jsonl` and `ds4 parse --jsonl` do with a line.
 *
 * Both append one line without its newline.  On failure nothing useful is in out, and err has the sentence
 * to show. */
#ifndef DS4_CHAT_JSONL_H
#define DS4_CHAT_JSONL_H

#include "base/buf.h"
#include "base/status.h"
#include "tokenizer/tokenizer.h"

/* {"messages", "args": {"thinking_mode": "chat"|"thinking", "reasoning_effort", "drop_thinking",
 * "add_default_bos_token", "context"}, "profile": "preview"|"0731"} -> {"prompt": text, "ids": [...]}.
 * Only messages must be there.  Ids come from segments: control tokens spelt out in a message stay text. */
enum status chat_render_json(const struct tokenizer *t, const char *line, size_t n, struct buf *out,
			     struct err *err);

/* {"mode": "chat"|"thinking", "text", "tools"?: [...]} -> {"result": {...}}.  Control tokens spelt out in the
 * text are read as control tokens.  Without tools every tool name counts as declared. */
enum status chat_parse_json(const struct tokenizer *t, const char *line, size_t n, struct buf *out,
			    struct err *err);

#endif
