/* replay_int.h - what the parts of replay share: turns, what a message shows, records, the file. */
#ifndef DS4_CHAT_REPLAY_INT_H
#define DS4_CHAT_REPLAY_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "chat/replay.h"

/* ------------------------------------------------------------------ what a message shows (replay_look.c) */

static inline bool same_hash(struct hash128 a, struct hash128 b)
{
	return a.low == b.low && a.high == b.high;
}

struct look {
	struct hash128 content;
	struct hash128 *call;		/* [n_calls] of name and arguments */
	size_t n_calls;
};

/* Of an assistant message, after `first` (its beginning, NULL = none).  False without memory. */
bool look_message(struct look *l, const struct message *m);
bool look_answer(struct look *l, const struct message *first, const struct answer *a);
void look_clear(struct look *l);

/* The chain over the messages of a conversation: each step from what is before to what is then. */
struct hash128 look_place(struct hash128 before, const struct look *l);
struct hash128 look_step(struct hash128 before, const struct message *m, const struct look *l);

/* Keys: what kinds of names there are never mix. */
struct hash128 key_of_text(char kind, const char *text, size_t n);
#define KEY_CARRIER 'c'
#define KEY_CALL 'i'

/* ------------------------------------------------------------------ a remembered turn */

#define REPLAY_MAX_CALLS 4096
#define REPLAY_MAX_IDS (1 << 20)

struct turn_entry {		/* one key of a turn, in a chain of the table */
	struct hash128 key;
	struct replay_turn *turn;
	struct turn_entry *next;
	bool linked;
};

/* One allocation; never changes once it is in the table.  entry: carrier, place, call ids. */
struct replay_turn {
	struct replay_turn *newer, *older;	/* in order of use */
	struct replay_turn *next;		/* waiting to be written */
	int refs;
	size_t bytes;
	struct hash128 content;
	struct hash128 *call;			/* [n_calls] */
	struct turn_entry *entry;		/* [2 + n_calls] */
	int32_t *id;				/* [n] */
	uint32_t n_calls, n;
	enum thinking thinking;
};

struct replay_turn *replay_turn_new(size_t n_calls, size_t n);	/* NULL without memory */

/* ------------------------------------------------------------------ records (replay_record.c) */

#define RECORD_HEAD 8u
#define RECORD_FIXED 64u
#define RECORD_CALL 32u
#define RECORD_SUM 8u
#define RECORD_ALIGN 8u
#define RECORD_MAX \
	(RECORD_HEAD + RECORD_FIXED + RECORD_CALL * REPLAY_MAX_CALLS + 4u * REPLAY_MAX_IDS + RECORD_SUM + RECORD_ALIGN)
#define FILE_HEAD 32u

void record_file_head(uint8_t out[FILE_HEAD], uint32_t vocab, uint64_t vocabulary);

/* Appends a turn's record to out, whose length is a multiple of 8. */
void record_write(struct buf *out, const struct replay_turn *t);

struct record_scan {
	uint32_t vocab;			/* ids must be below */
	/* t is the taker's: it frees it with mem_free().  NULL: out of memory. */
	void (*take)(void *ctx, struct replay_turn *t);
	void *ctx;
	uint64_t skipped;		/* bytes that belong to no good record */
};

/* Takes the records in p[0..n); p[0] stands at a multiple of 8 in the file.  Returns how many bytes are done with: all
 * of them when p ends the file, else up to a place where a whole record may not be there yet. */
size_t record_scan(struct record_scan *s, const uint8_t *p, size_t n, bool ends_file);

/* ------------------------------------------------------------------ the file (replay_file.c) */

struct replay_file {
	char *path;
	int fd;				/* -1: nothing is read or written any more */
	bool read_only, unsynced;
	uint32_t vocab;
	uint64_t vocabulary;
	uint64_t known;			/* bytes of the file whose records have been taken */
	uint64_t limit;			/* bytes it may have */
	uint64_t garbage;		/* bytes that did not verify: better written anew */
	bool warned[4];
	void (*warn)(void *ctx, const char *text);
	void *warn_ctx;
	void (*take)(void *ctx, struct replay_turn *t);		/* a turn that was read */
	void *take_ctx;
};

/* Opens or creates, and takes what is there.  Troubles are warnings. */
void replay_file_open(struct replay_file *f);
void replay_file_close(struct replay_file *f);

/* Takes what other processes have added and appends turns (linked by next).  False: the file would become too large
 * and has to be written anew; a write that fails is a warning. */
bool replay_file_append(struct replay_file *f, const struct replay_turn *first);

/* Gives the next turn, NULL behind the last.  False without memory. */
typedef bool replay_next(void *ctx, const struct replay_turn **t);

/* Writes the file anew with the turns that next gives, which is not asked before others' turns have been taken. */
void replay_file_compact(struct replay_file *f, replay_next *next, void *ctx);

#endif
