/* worker.h - the engine's thread, and mailboxes between it and everybody else.
 *
 *   client threads  -- worker_submit, mailbox_cancel -->  engine thread  -- mailbox -->  client threads
 *
 * The thread owns the scheduler: nobody else calls it.  A client owns its mailbox: a bounded queue of what the request
 * was told, without logits.  While it is full its request rests, and after `patience` seconds it is cancelled; the
 * others never wait for it.  The end is always delivered: a place is kept for it.  READ and WAITING events that nobody
 * has fetched are replaced by newer ones; no other is lost.
 * Thread: every function from any thread; a mailbox has one reader. */
#ifndef DS4_ENGINE_WORKER_H
#define DS4_ENGINE_WORKER_H

#include "engine/sched.h"

struct worker;
struct mailbox;

struct mail {
	struct sched_event ev;		/* logits NULL; err NULL or &error */
	struct err error;
};

/* Starts the thread with a scheduler over e, which nobody else uses until worker_close(). */
enum status worker_open(struct worker **out, struct engine *e, const struct sched_options *opt, double patience,
			struct err *err);
void worker_close(struct worker *w);	/* cancels what runs and joins */

/* room: events it holds, at least 8 */
enum status mailbox_open(struct mailbox **out, int32_t room, struct err *err);
/* Cancels its request; the memory goes when the engine's thread has let go of it, too. */
void mailbox_close(struct mailbox *m);
void mailbox_cancel(struct mailbox *m);

/* Who wants to be woken instead of waiting in mailbox_read().  notify says that there is something to read, release that
 * the engine's thread has let go of the request and of its ctx: after SCHED_DONE was put in, once for every submit that
 * returned OK, even if the mailbox was closed long before.  Both are called on the engine's thread and must not block;
 * notify also must not call a function of this header.  It is never called again once mailbox_close() has returned. */
struct mailbox_hooks {
	void (*notify)(void *ctx);
	void *ctx;				/* of notify */
	void (*release)(void *request_ctx);	/* gets sched_request.ctx */
};

/* Before worker_submit(); either may be NULL. */
void mailbox_set_hooks(struct mailbox *m, const struct mailbox_hooks *h);

/* Hands a request over; r's event, ctx and cancel are the worker's to set, r->allowed must live until the end, and
 * pick, which gets r->ctx, is called on the engine's thread.  Everything else is copied.  One request at a time for a
 * mailbox.  What sched_submit() refuses arrives as SCHED_DONE with the error. */
enum status worker_submit(struct worker *w, const struct sched_request *r, struct mailbox *m, struct err *err);

/* What the engine's thread has done and holds, as of its last step; from any thread. */
enum { WORKER_STEP_BOUNDS = 16 };
extern const double worker_step_bound[WORKER_STEP_BOUNDS];	/* seconds, ascending */

struct worker_stats {
	struct sched_counts counts;
	struct tree_stats tree;
	int32_t blocks, blocks_limit, checks, checks_limit;	/* of the pool: in use, allowed */
	uint64_t block_bytes, check_bytes;			/* of each */
	double step_seconds;					/* all steps together */
	uint64_t step_count[WORKER_STEP_BOUNDS + 1];		/* steps by how long they took; the last: longer than all */
};

void worker_stats(struct worker *w, struct worker_stats *out);

/* Takes the oldest event; waits up to `seconds` for one.  False: there is none. */
bool mailbox_read(struct mailbox *m, struct mail *out, double seconds);

#endif
