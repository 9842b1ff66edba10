/* chatlog.h - a conversation as a file that a killed process leaves whole: messages, and the exact ids of answers.
 *
 * Lines of JSON, each with its checksum, only ever appended: one for a message, one at an answer's beginning, one for
 * a few sampled tokens as they come, one at its end, one for messages that were taken back.  The texts are there for
 * people and for other models, the ids so that the prompt is the same to the token.  Format: docs/formats/chat.md.
 *   C1  what chatlog_token() was given is in the file at most a tenth of a second later when tokens keep coming, at once
 *       when they are slow; a killed process loses no more.  It is synced every second and at every turn's end, by a
 *       thread of its own: a power cut loses no more than that
 *   C2  reading stops at the first line that does not verify: what comes back is a beginning of what was written
 *   C3  an answer without an end counts as cut off there, if it is the last thing in the file
 * A failed write is remembered (chatlog_trouble), and nothing is written after it: the conversation itself goes on.
 * Thread: one thread at a time; syncing is inside. */
#ifndef DS4_CHAT_CHATLOG_H
#define DS4_CHAT_CHATLOG_H

#include "chat/message.h"

struct chatlog;

#define CHATLOG_NAME 64		/* bytes of a name with its NUL */
#define CHATLOG_TITLE 120

struct chatlog_info {
	char name[CHATLOG_NAME];	/* "" = was not given one */
	char title[CHATLOG_TITLE];	/* the first line of the first user message, whole characters */
	char model[CHATLOG_TITLE];	/* that it was begun with */
	uint64_t created;		/* seconds since 1970 */
	uint64_t bytes;			/* of the file */
	size_t turns;			/* user messages */
	size_t tokens;			/* sampled */
	bool thinking;			/* the last answer was sampled with it */
	bool other_vocabulary;		/* its ids are of another model: only texts were read */
	bool cut_off;			/* ends with an answer that has no end */
	bool damaged;			/* something did not verify; what was behind it is left out */
};

/* Makes a new file (ERR_IO when it exists), for its owner only.  model: shown in lists; t is borrowed. */
enum status chatlog_create(struct chatlog **out, const char *path, const struct tokenizer *t, const char *model,
			   struct err *err);

/* Reads a file and goes on with it.  What does not verify is cut away; if it was more than a torn last line, the file as it
 * was is kept as PATH.damaged.  ERR_NOT_FOUND; ERR_FORMAT (no such file); ERR_LIMIT: another process has it open. */
enum status chatlog_open(struct chatlog **out, const char *path, const struct tokenizer *t, struct conversation **c,
			 struct chatlog_info *info, struct err *err);
void chatlog_close(struct chatlog *l);		/* synced; NULL allowed */

/* Only reads.  t NULL: only info; the ids are not looked at. */
enum status chatlog_read(const char *path, const struct tokenizer *t, struct conversation **c,
			 struct chatlog_info *info, struct err *err);
enum status chatlog_peek(const char *path, struct chatlog_info *info, struct err *err);

/* Writes what c has become since the last time: messages taken back, then new ones.  Call it when a turn begins (the
 * question is safe) and when it ended. */
void chatlog_save(struct chatlog *l, const struct conversation *c);

/* An answer is coming to what c holds now; id [n] are tokens it begins with (one that goes on).  Then token by token,
 * and chatlog_save() with the answer in c, or without it if it is not to be kept. */
void chatlog_begin(struct chatlog *l, const struct conversation *c, enum thinking thinking, const int32_t *id, size_t n);
void chatlog_token(struct chatlog *l, int32_t id);

void chatlog_set_name(struct chatlog *l, const char *name);

/* Waits until everything is on disk. */
void chatlog_sync(struct chatlog *l);

/* Why nothing is written any more; NULL = all is well. */
const char *chatlog_trouble(const struct chatlog *l);

#endif
