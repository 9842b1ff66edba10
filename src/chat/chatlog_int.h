/* chatlog_int.h - what reading and writing a conversation's file share. */
#ifndef DS4_CHAT_CHATLOG_INT_H
#define DS4_CHAT_CHATLOG_INT_H

#include "chat/chatlog.h"

#define CHATLOG_VERSION 1
#define CHATLOG_SUM 17		/* sixteen hexadecimal digits of the checksum and a space before each line's JSON */
#define CHATLOG_MAX ((size_t)1 << 30)

/* Appends "checksum json\n". */
void chatlog_line(struct buf *out, const char *json, size_t n);

/* Appends a message as JSON, without its ids. */
void chatlog_message(struct buf *out, const struct message *m);

/* What was read from a whole file. */
struct chatlog_state {
	struct conversation *c;
	struct chatlog_info info;
	size_t good;			/* bytes up to the end of the last good line */
	bool answering;			/* an answer without an end: its ids and how it was sampled; it is in c too */
	struct token_list ids;
	enum thinking thinking;
};

/* t NULL: without ids.  Errors: ERR_FORMAT (the first line is none of ours), ERR_MEMORY.  After a failure nothing is
 * left to clear. */
enum status chatlog_parse(struct chatlog_state *s, const char *text, size_t n, const struct tokenizer *t, struct err *err);
void chatlog_state_clear(struct chatlog_state *s);	/* c included */

uint64_t chatlog_vocabulary(const struct tokenizer *t);

#endif
