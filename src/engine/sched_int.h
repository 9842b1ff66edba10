/* sched_int.h - what the three files of the scheduler share: the request's own state, and who does what.
 *   sched.c        the loop: submit, build a step, run it, take the consequences
 *   sched_admit.c  who may begin: order, memory, shared beginnings; parked timelines
 *   sched_task.c   one request: its tokens, checkpoints, sampling, events, end */
#ifndef DS4_ENGINE_SCHED_INT_H
#define DS4_ENGINE_SCHED_INT_H

#include "engine/sched.h"

struct task {
	struct task *next;		/* in order of arrival */
	struct sched_request r;		/* pointers to copies where the header says so */
	struct sampler sampler;
	int32_t *token;			/* [room] prompt, then what was generated */
	int32_t n, room;
	int32_t *want;			/* [n_want] ascending: block boundaries that get a checkpoint */
	int32_t n_want, want_room;
	int32_t *stop;
	struct kv *kv;			/* NULL while waiting */
	int32_t worst;			/* blocks of the longest outcome */
	int32_t rolling;		/* newest checkpoint of the answer, 0 = none */
	int32_t reached;		/* most tokens ever read: replay is below */
	bool alone;			/* its last step failed: by itself until that is repeated */
	bool rests;			/* its reader is not ready in this step */
	bool done;			/* SCHED_DONE was sent: to be removed */
	uint64_t since;			/* step of arrival */
	uint64_t served;		/* step that last had rows of it */
	enum sched_wait wait;
	const struct task *leader;	/* reads the beginning that this one waits for */
	int32_t shared;			/* its length */
	uint64_t looked;		/* admissions when leaders were last looked for, plus 1 */
	struct sched_usage usage;
};

struct parked {
	struct kv *kv;
	int32_t *token;			/* [kv->len] */
	uint64_t since;
};

struct sched {
	struct engine *e;
	struct sched_options opt;
	struct task *task, **end;	/* all that are not done */
	int32_t n_live, n_waiting;
	struct parked *parked;		/* [n_parked] */
	int32_t n_parked;
	uint64_t step, admissions;
	struct task **part_of;		/* [timelines] whose parts the step has */
	struct task **reader;		/* [timelines] */
	struct forward_part *part;
	float *logits;			/* [max_logits, V] */
	double plain_s, row_s;		/* a step without prompts; what a prompt row adds; 0 = not known */
	uint64_t plain_step;		/* when that was last measured */
	bool was_alone;			/* the last step was a single one's repetition */
	struct sched_counts counts;
};

/* ------------------------------------------------------------------ sched_task.c */

enum status task_new(struct task **out, const struct sched *s, const struct sched_request *r, struct err *err);
void task_free(struct task *t);
static inline int32_t task_left(const struct task *t)	/* tokens to read before the next can be sampled */
{
	return t->n - t->kv->len;
}
bool task_cancelled(const struct task *t);
/* Adds a position that gets a checkpoint (rounded down to a block boundary); without memory it does not. */
void task_want(struct task *t, int32_t pos);
/* Where a part that starts now must end for the next wanted checkpoint; at most `end`. */
int32_t task_cut(const struct task *t, int32_t end);
bool task_tell(struct sched *s, struct task *t, struct sched_event ev);	/* false: it is done now */
void task_finish(struct sched *s, struct task *t, enum sched_finish finish, const struct err *err, const float *logits);
/* A step has read t from `before` to kv->len: takes the checkpoint that belongs here, enters what is new in the tree. */
void task_keep(struct sched *s, struct task *t, int32_t before);
/* Then: what t makes of it; logits of its last row, if it has read all. */
void task_after_step(struct sched *s, struct task *t, const float *logits);

/* ------------------------------------------------------------------ sched_admit.c */

void admit(struct sched *s);				/* begins what may begin */
void park(struct sched *s, struct task *t);		/* takes t's timeline, or closes it */
bool unpark_oldest(struct sched *s);			/* false: none was parked */

#endif
