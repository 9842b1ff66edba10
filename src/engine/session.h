/* session.h - one timeline: a list of tokens whose state the backend holds, and the logits after the last.
 *
 *   EMPTY --sync--> READY --push--> READY
 *     ^               |  \--failure or cancel--> the state falls back to a checkpoint; tokens are cut to match
 *     '----reset------'
 *
 * session_sync() makes the state match a token list and reuses the common prefix: tokens already read are not read
 * again; where the lists part, the timeline rewinds to the nearest checkpoint and replays from there. */
#ifndef DS4_ENGINE_SESSION_H
#define DS4_ENGINE_SESSION_H

#include "engine/engine.h"

struct session;

/* Called after every prefill step and before the first: tokens done of total.  Return false to cancel. */
typedef bool session_progress(void *ctx, int32_t done, int32_t total);

enum status session_open(struct session **out, struct engine *e, struct err *err);
void session_close(struct session *s);

/* A second timeline that has read the same: it shares everything until one of the two goes on.  Costs the copy of its
 * tokens and logits, no reading. */
enum status session_fork(struct session **out, const struct session *from, struct err *err);
void session_reset(struct session *s);			/* forgets everything */

/* While *flag (any thread or a signal handler may set it) is nonzero, reading a prompt ends with ERR_CANCELLED between
 * two layers; what was read up to the last checkpoint stays.  A single pushed token is not interrupted.  NULL = never. */
void session_set_cancel(struct session *s, const volatile int *flag);

/* Makes the state equal to having read token[0..n).  n >= 1.  ERR_LIMIT when n exceeds the context (both numbers
 * named), ERR_CANCELLED when progress or the cancel flag said stop (what was read stays). */
enum status session_sync(struct session *s, const int32_t *token, int32_t n, session_progress *progress, void *ctx,
			 struct err *err);
/* Reads one more token. */
enum status session_push(struct session *s, int32_t token, struct err *err);

/* Forgets tokens from position n on, replaying from the nearest checkpoint; n = 0 resets. */
enum status session_rewind(struct session *s, int32_t n, struct err *err);

int32_t session_len(const struct session *s);
const int32_t *session_tokens(const struct session *s);	/* borrowed until the next call that changes it */
const float *session_logits(const struct session *s);	/* [V] after the last token; borrowed likewise */
int32_t session_reused(const struct session *s);	/* tokens the last sync did not have to read */
struct kv *session_kv(struct session *s);

#endif
