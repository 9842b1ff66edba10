/* jsonl.h - commands that answer one JSON object a line, and the vocabulary they need. */
#ifndef DS4_CLI_JSONL_H
#define DS4_CLI_JSONL_H

#include "base/buf.h"
#include "base/status.h"
#include "gguf/gguf.h"
#include "tokenizer/tokenizer.h"

/* Appends the answer to one line of JSON, without a line break. */
typedef enum status jsonl_line(void *ctx, const char *line, size_t n, struct buf *out, struct err *err);

/* Standard input to standard output, line by line; blank lines are skipped.  A line that fails answers {"error": …};
 * then the whole ends in the first failure's code, with the line number in err. */
enum status jsonl_run(jsonl_line *line, void *ctx, struct err *err);

struct vocabulary {
	struct gguf *gguf;
	struct tokenizer *tokenizer;
};

/* model as for cli_choose_model().  On failure v is to be closed all the same. */
enum status vocabulary_open(struct vocabulary *v, const char *model, struct err *err);
void vocabulary_close(struct vocabulary *v);

#endif
