/* replay.h - remembers which token ids each answer really was, so that history extends what the engine has read.
 *
 * A client sends history back as JSON; rendered again it gives other tokens than the model sampled, and the state in
 * the prefix tree is lost.  So every assistant turn is remembered under
 *   - its carrier: a short text that dialects hand out as Anthropic's `signature` and Responses' `encrypted_content`,
 *   - each of its tool-call ids,
 *   - its place: the hash of what stands before it in the conversation and of what it shows,
 * and replay_apply() puts the ids back (struct exact, message.h) wherever the message is still what was answered.
 * Promises
 *   R1  A message gets its ids back only when it is unchanged: the same content (white space at both ends aside: some
 *       clients cut it off), the same calls in the same order, their names equal and their arguments equal as JSON
 *       (member order, spacing, escapes and the spelling of numbers aside).  Any other is rendered from its texts.
 *   R2  Reasoning is not compared: clients drop, shorten or move it.  What was sampled comes back with the ids.
 *   R3  Neither call ids nor carriers need to come back: a gateway may rewrite them, the place is enough.  The place
 *       covers roles, texts and calls of all messages before, but neither ids nor reasoning nor declared tools.
 *   R4  Bounded by bytes, in memory and on disk; least recently used goes first.
 *   R5  With a file, turns survive a restart.  Whatever happens to the file, answers are right: what does not verify
 *       is skipped, what cannot be written is remembered in memory only, and a warning says so.  Several processes
 *       may share a file.  Format: docs/formats/replay.md.
 * Thread: any.  The file is written by a thread of its own; replay_apply() and replay_remember() never wait for it.
 * Source: docs/chat.md, section 8. */
#ifndef DS4_CHAT_REPLAY_H
#define DS4_CHAT_REPLAY_H

#include "chat/answer.h"
#include "chat/message.h"

struct replay;

struct replay_options {
	const char *path;	/* file, its folder exists; NULL = memory only.  Belongs to one vocabulary, see below */
	uint64_t max_bytes;	/* 0 = 256 MiB; the file may grow to twice as much */
	const struct tokenizer *tokenizer;	/* borrowed */
	/* Called once for a kind of trouble with the file, from replay_open() or the writing thread; NULL = silent. */
	void (*warn)(void *ctx, const char *text);
	void *ctx;
};

/* A file that cannot be used is a warning, not an error.  Errors: ERR_MEMORY. */
enum status replay_open(struct replay **out, const struct replay_options *o, struct err *err);
void replay_close(struct replay *r);	/* writes what is still to be written; NULL allowed */

/* Waits until everything remembered so far is in the file, or was given up with a warning. */
void replay_flush(struct replay *r);

/* Names the vocabulary, for the name of the file: ids mean nothing in another one, and a file of another is left
 * alone with a warning.  Takes milliseconds: hashes all tokens. */
uint64_t replay_vocabulary(const struct tokenizer *t);

#define REPLAY_CARRIER_SIZE 64		/* bytes with the final NUL */
#define REPLAY_CALL_ID_SIZE 38		/* "call_", 32 hexadecimal digits of a good random source, NUL */

void replay_call_id(char out[REPLAY_CALL_ID_SIZE]);

/* A new name for a turn.  It is made when the turn begins: dialects hand it out when the reasoning closes, long before
 * the answer is remembered. */
void replay_carrier(char out[REPLAY_CARRIER_SIZE]);

/* Remembers an answer to c (as it was rendered, without the answer): ids [n] are the sampled tokens, a final EOS is
 * not kept; call_id [a->n_calls] the ids that were handed out.  If c ends with an unfinished assistant message that
 * has its exact ids, the two together are remembered.  The ids are spliced as they are: a caller that ends a turn in
 * the middle of a block of calls hands over the closing tokens too.
 * carrier is the name that replay_carrier() made.  Nothing is remembered when there are no ids, when it continues a
 * text whose ids are unknown, or when it is longer than 2^20 ids.  Errors: ERR_MEMORY; nothing is remembered then,
 * which does no harm. */
enum status replay_remember(struct replay *r, const struct conversation *c, const struct answer *a,
			    const char *const *call_id, enum thinking thinking, const int32_t *id, size_t n,
			    const char *carrier, struct err *err);

/* Sets message.exact of every assistant message of c that is remembered and unchanged.  A message's carrier
 * (message.carrier) is looked up first, then its call ids (all must belong to one turn), then its place.  Messages
 * that have ids already keep them.  Returns how many were set; without memory for one it is rendered instead. */
size_t replay_apply(struct replay *r, struct conversation *c);

struct replay_stats {
	uint64_t turns, bytes;		/* in memory now */
	uint64_t file_bytes;		/* 0 = no file is written */
	uint64_t hits;			/* messages that got their ids */
	uint64_t misses;		/* messages never heard of */
	uint64_t changed;		/* messages known by carrier or id that the client has changed */
	uint64_t evicted;		/* turns */
};

void replay_stats(struct replay *r, struct replay_stats *out);

#endif
