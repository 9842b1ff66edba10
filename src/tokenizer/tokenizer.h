/* tokenizer.h - text <-> token ids, exactly as the published tokenizer does it.
 *
 * Two entry points, never one: token_encode_text() knows no control tokens at all, so text from a user, a file
 * or a tool can never become one; control tokens are pushed by id.  token_encode_control() recognises added
 * tokens in text (longest match, left to right) and is only for raw completions and diagnostics.
 * Ids come from the vocabulary of the file; special tokens are found by their text (other models of the
 * family have other ids).  Strings are counted, may hold NUL; ill-formed UTF-8 is read as U+FFFD.
 * Thread: read-only after tokenizer_open except the encode calls, which are safe from any thread.
 * Source: docs/tokenizer.md. */
#ifndef DS4_TOKENIZER_TOKENIZER_H
#define DS4_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"
#include "gguf/gguf.h"

/* Special tokens by role.  "required" ones must exist or the vocabulary is refused; an absent optional one has id -1. */
#define SPECIAL_MAP(X)                                                          \
	/* code                text                            required */      \
	X(SPECIAL_BOS,        "<｜begin▁of▁sentence｜>",       1)               \
	X(SPECIAL_EOS,        "<｜end▁of▁sentence｜>",         1)               \
	X(SPECIAL_USER,       "<｜User｜>",                    1)               \
	X(SPECIAL_ASSISTANT,  "<｜Assistant｜>",               1)               \
	X(SPECIAL_THINK,      "<think>",                       1)               \
	X(SPECIAL_END_THINK,  "</think>",                      1)               \
	X(SPECIAL_DSML,       "｜DSML｜",                      1)               \
	X(SPECIAL_REMINDER,   "<｜latest_reminder｜>",         0)               \
	X(SPECIAL_ACTION,     "<｜action｜>",                  0)               \
	X(SPECIAL_QUERY,      "<｜query｜>",                   0)               \
	X(SPECIAL_AUTHORITY,  "<｜authority｜>",               0)               \
	X(SPECIAL_DOMAIN,     "<｜domain｜>",                  0)               \
	X(SPECIAL_TITLE,      "<｜title｜>",                   0)               \
	X(SPECIAL_READ_URL,   "<｜read_url｜>",                0)               \
	X(SPECIAL_FIM_BEGIN,  "<｜fim▁begin｜>",               0)               \
	X(SPECIAL_FIM_HOLE,   "<｜fim▁hole｜>",                0)               \
	X(SPECIAL_FIM_END,    "<｜fim▁end｜>",                 0)

enum special {
#define X(code, text, required) code,
	SPECIAL_MAP(X)
#undef X
	SPECIAL_COUNT
};

struct token_list {	/* growable ids; zero-initialise */
	int32_t *id;
	size_t n, room;
	bool failed;	/* out of memory: sticky, later pushes are no-ops */
};

void token_push(struct token_list *l, int32_t id);
void token_append(struct token_list *l, const int32_t *id, size_t n);
void token_list_clear(struct token_list *l);

struct tokenizer;

/* Builds the tables from the vocabulary in g (strings and merges are copied or decoded; g may be closed after).
 * Errors: ERR_FORMAT (missing key, count mismatch, a merge naming no token, unknown pre-tokenizer, missing
 * required special token), ERR_MEMORY. */
enum status tokenizer_open(struct tokenizer **out, const struct gguf *g, struct err *err);
void tokenizer_close(struct tokenizer *t);	/* accepts NULL */

int32_t tokenizer_size(const struct tokenizer *t);			/* V */
int32_t tokenizer_special(const struct tokenizer *t, enum special s);	/* id or -1 */
const char *special_text(enum special s);
bool tokenizer_is_added(const struct tokenizer *t, int32_t id);	/* control or added token, not a BPE piece */

/* Appends the ids of text; no control token is ever produced. */
void token_encode_text(const struct tokenizer *t, const char *text, size_t n, struct token_list *out);

/* The same, recognising every added token in the text. */
void token_encode_control(const struct tokenizer *t, const char *text, size_t n, struct token_list *out);

/* Raw bytes of one token (control tokens: their literal text).  Borrowed.  id must be 0..V-1. */
const char *token_bytes(const struct tokenizer *t, int32_t id, size_t *n);

/* Streaming detokenizer: bytes in, whole characters out. */
struct detok {
	char held[4];	/* bytes of an unfinished character */
	uint8_t n_held;
};

/* Appends to out what the token releases: the longest prefix that does not end inside a character that more
 * bytes could still complete; impossible bytes come out as U+FFFD at once. */
void detok_push(struct detok *d, const char *bytes, size_t n, struct buf *out);
void detok_finish(struct detok *d, struct buf *out);	/* releases held bytes as U+FFFD */

#endif
