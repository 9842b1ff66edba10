/* loop.h - how other threads reach the event loop, and how the loop has work done elsewhere.
 *
 * A task is a function that runs on the loop; posting it from any thread, while it waits already or not, makes it run
 * once more.  A job first runs on one of a few threads, then comes back to the loop.
 * Thread: wake_post and job_post from any thread; the rest on the loop's. */
#ifndef DS4_SERVER_LOOP_H
#define DS4_SERVER_LOOP_H

#include <stdbool.h>

#include "base/status.h"

struct event_base;
struct loop;

struct wake {
	void (*run)(struct wake *t);
	struct wake *next;		/* loop.c's */
	bool waiting;
};

struct job {
	struct wake back;		/* back.run: on the loop, when the work is done */
	void (*work)(struct job *j);	/* on another thread */
	struct job *next;
};

enum status loop_open(struct loop **out, struct event_base *base, int threads, struct err *err);
/* Waits for the jobs under way; tasks that were posted meanwhile run before it returns, jobs not begun do not: each of
 * their `back` runs without `work`. */
void loop_close(struct loop *l);

void wake_post(struct loop *l, struct wake *t);
void job_post(struct loop *l, struct job *j);
int loop_jobs(struct loop *l);	/* waiting and under way */

#endif
