/* talks.h - the conversations of the chat: the one that is going on, others that are open, and the folder of saved ones.
 *
 * An open conversation has its messages, its file and, as long as there is room, a session: what the engine has read of
 * it.  Switching to one moves a pointer; going on then reads nothing but the new question.  Sessions share what they
 * have in common.  When the engine runs out of blocks, the sessions not used for longest are let go: their
 * conversations are read again from the prefix tree (or the disk) when they go on.  A session's tail, some megabytes, is
 * beside the engine's memory plan.
 * Files are src/chat/chatlog.h's: NAME.chat, NAME being date, time and four digits. */
#ifndef DS4_CLI_TALKS_H
#define DS4_CLI_TALKS_H

#include <stdbool.h>
#include <stdint.h>

#include "chat/chatlog.h"
#include "engine/session.h"

#define TALK_ID 32	/* bytes of a file's name without ".chat", NUL included */
#define TALKS_OPEN 32
#define TALKS_SESSIONS 4

struct talk {
	char id[TALK_ID];		/* "" = has no file */
	char name[CHATLOG_NAME];
	struct conversation *conversation;
	struct session *session;	/* NULL = let go */
	struct chatlog *log;		/* NULL = not saved (yet) */
	enum thinking thinking;		/* when it was left */
	bool cut_off;			/* its last answer was interrupted by a kill */
	bool told;			/* that it is not saved any more */
	uint64_t used;
};

struct talks {
	struct engine *e;
	char *folder;
	bool saving;			/* conversations are saved without being asked */
	struct talk *open[TALKS_OPEN];
	int n;
	struct talk *now;
	uint64_t clock;
	bool (*reclaim)(void *ctx, bool check);	/* the prefix tree's */
	void *reclaim_ctx;
	char (*listed)[TALK_ID];	/* [n_listed] what the last list showed: numbers refer to it */
	int n_listed;
};

/* folder NULL: nothing can be saved. */
enum status talks_init(struct talks *t, struct engine *e, const char *folder, bool saving, struct err *err);
void talks_clear(struct talks *t);

/* Goes to a new conversation, which it takes over (also on failure). */
enum status talks_begin(struct talks *t, struct conversation *fresh, struct err *err);

/* Goes to a saved one by its id.  *info, if it had to be read, says what came; read tells. */
enum status talks_enter(struct talks *t, const char *id, struct chatlog_info *info, bool *read, struct err *err);

/* Goes to a copy of the current one. */
enum status talks_fork(struct talks *t, struct err *err);

/* The current one's session; made if it was let go. */
enum status talks_session(struct talks *t, struct session **out, struct err *err);

/* Writes what the current one has become; makes its file when it has a user message and talks are saved, or always
 * with `force`.  A trouble is told once. */
void talks_save(struct talks *t, bool force);

void talks_name(struct talks *t, const char *name);

/* Deletes a saved conversation; the current one must not be it. */
enum status talks_delete(struct talks *t, const char *id, struct err *err);

struct talk_entry {
	char id[TALK_ID];
	struct chatlog_info info;
	double age;		/* seconds since it was written to */
};

/* The saved conversations, the latest first; the caller frees.  An unreadable file has info.damaged. */
enum status talks_list(struct talks *t, struct talk_entry **out, int *n, struct err *err);

/* What was shown: numbers refer to it from now on. */
void talks_remember_list(struct talks *t, const struct talk_entry *list, int n);

/* "3" (of the last list), a name, or an id, or a unique beginning of a name or title -> id.  ERR_NOT_FOUND says what is
 * there; ERR_ARGUMENT when it could be several. */
enum status talks_find(struct talks *t, const char *what, char id[TALK_ID], struct err *err);

/* The latest one's id.  ERR_NOT_FOUND. */
enum status talks_latest(struct talks *t, char id[TALK_ID], struct err *err);

#endif
