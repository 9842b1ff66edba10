/* replay.h - remembers which token ids each answer really was, so that history extends what the engine has read.
 *
 * A client sends history back as JSON; rendered again it gives other tokens than the model sampled, and the state in
 * the prefix tree is lost.  So every assistant turn is remembered under
 *   - each of its tool-call ids,
 *   - its carrier: a short text that dialects hand out as Anthropic's `signature` and Responses' `encrypted_content`,
 *   - the hash of what stands before it in the conversation and of its visible content,
 * and replay_apply() puts the ids back (struct exact, message.h) wherever the message is still what was answered:
 * arguments or content that the client changed are rendered from its texts.
 * Bounded by bytes, least recently used first; with a file, turns survive a restart (append-only, checksummed records,
 * what does not verify is skipped; written by a thread of its own or the caller's: never the engine's).
 * Thread: any.  Source: docs/chat.md, exact replay. */
#ifndef DS4_CHAT_REPLAY_H
#define DS4_CHAT_REPLAY_H

#include "chat/answer.h"
#include "chat/message.h"

struct replay;

struct replay_options {
	const char *path;	/* file; NULL = memory only */
	uint64_t max_bytes;	/* 0 = 256 MiB */
	const struct tokenizer *tokenizer;	/* borrowed */
	void (*warn)(void *ctx, const char *text);	/* once for a trouble with the file; NULL = silent */
	void *ctx;
};

enum status replay_open(struct replay **out, const struct replay_options *o, struct err *err);
void replay_close(struct replay *r);	/* flushes; NULL allowed */

#define REPLAY_CARRIER_SIZE 64		/* bytes with the final NUL */
#define REPLAY_CALL_ID_SIZE 38		/* "call_", 32 hexadecimal digits of a good random source, NUL */

void replay_call_id(char out[REPLAY_CALL_ID_SIZE]);

/* A new name for a turn: dialects must hand it out when the reasoning closes, long before the answer is remembered. */
void replay_carrier(char out[REPLAY_CARRIER_SIZE]);

/* Remembers an answer to c (as it was rendered, without the answer): ids [n] are the sampled tokens without the final
 * EOS, call_id [a->n_calls] the ids that were handed out, carrier the name that replay_carrier() made for the turn. */
enum status replay_remember(struct replay *r, const struct conversation *c, const struct answer *a,
			    const char *const *call_id, enum thinking thinking, const int32_t *id, size_t n,
			    const char *carrier, struct err *err);

/* Sets message.exact of every assistant message of c that is remembered and unchanged.  A message's carrier
 * (message.carrier) is looked up first, then its call ids, then the hash.  Returns how many. */
size_t replay_apply(struct replay *r, struct conversation *c);

struct replay_stats {
	uint64_t turns, bytes, hits, misses, changed, evicted;
};

void replay_stats(struct replay *r, struct replay_stats *out);

#endif
