/* stub.h - scripted answers, for tests of clients: what the model would have said, from a file.
 *
 * One JSON object a line.  The answer is either a message as clients send it back,
 *
 *	{"reasoning_content": "...", "content": "...", "tool_calls": [{"function": {"name": "...", "arguments": "{}"}}]}
 *
 * (reasoning is left out when the request does not think), or "raw": text in which control tokens are recognised, for
 * answers that no well-behaved model would give.  "if" (a text that the request's body must contain) and "tools"
 * (true or false: it must declare some, or none) choose; of the lines that fit the first unused one is taken, and when
 * all are used they start again.  Some lines play a server in trouble: {"busy": true} and
 * {"overflow": true} refuse the request, "cut": N in an answer ends the connection after N pieces of a stream.
 * "#" begins a comment line.
 * Thread: any. */
#ifndef DS4_SERVER_STUB_H
#define DS4_SERVER_STUB_H

#include "server/dialect.h"

struct stub;

enum status stub_open(struct stub **out, const char *path, struct err *err);
void stub_close(struct stub *s);

struct stub_answer {
	struct token_list ids;
	bool busy, overflow;
	int cut;			/* 0 = not */
};

/* The next answer to this request, whose body is text [n], into *out (zeroed).  ERR_NOT_FOUND: no line fits. */
enum status stub_next(struct stub *s, const struct tokenizer *t, const struct api_request *q, const char *text, size_t n,
		      struct stub_answer *out, struct err *err);

#endif
