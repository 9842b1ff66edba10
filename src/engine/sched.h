/* sched.h - many requests over one backend: every step decodes all that run and reads prompts with the rest.
 *
 *   submit --> waiting --> reading --> generating --> done
 *                 |           |            |           ^
 *                 '-----------'------------'-----------'   cancelled, failed
 *
 * Promises
 *   S1  On ref and cpu a request's tokens and logits have the same bits whoever else is there, and whatever was
 *       found in the prefix tree.  Sampler and random numbers are the request's own.
 *   S2  Every generating request gets its row in every step (as far as the forward pass has logits to give).
 *   S3  While K requests read and R rows are left for them, each of equal priority gets at least floor(R/K) rows, or
 *       if K > R one row at least every ceil(K/R) steps.  A priority more gets four times as much.  One step of 64
 *       is kept free of prompts, to learn what a step without costs.
 *   S4  A request is admitted only when the pool has room for its longest possible outcome: a live one never runs
 *       out of blocks.  Order: priority, then arrival; waiting AGE steps is worth one priority.
 *   S5  A failed step harms nobody but whom it fails for alone: everybody in it goes back to a checkpoint and
 *       repeats its part by itself; who then fails is done with the error.
 *   S6  One SCHED_DONE for every submit that returned OK, whatever happens; nothing after it.
 * Checkpoints of a prompt are taken at the block boundaries before message ends, before its last token, every
 * check_every tokens, and where lists were seen to part; of an answer at its newest boundary.
 * Thread: the engine's thread, all of it, callbacks included; only the flags behind `cancel` may be set by others. */
#ifndef DS4_ENGINE_SCHED_H
#define DS4_ENGINE_SCHED_H

#include "engine/engine.h"
#include "engine/sampler.h"

struct sched;

struct sched_options {
	int32_t check_every;	/* tokens between regular checkpoints, a multiple of 128; 0 = 4096 */
	int32_t max_waiting;	/* requests; 0 = 256 */
	int32_t max_parked;	/* finished timelines kept as they are; 0 = as many as there is room for, -1 = none */
	double stretch;		/* a step that also reads prompts may last this many times one that does not;
				 * 0 = 2; < 0 = no limit but the forward pass's rows */
	double (*clock)(void);	/* seconds; NULL = the machine's */
};

enum sched_wait {	/* why a request has not begun */
	SCHED_WAIT_NOTHING,
	SCHED_WAIT_TURN,	/* a request before it waits */
	SCHED_WAIT_TIMELINE,	/* as many requests run as there are timelines */
	SCHED_WAIT_MEMORY,	/* not enough blocks for its longest outcome */
	SCHED_WAIT_PREFIX	/* another request is just reading the beginning they share */
};

enum sched_finish {
	SCHED_FINISH_STOP,	/* a stop token */
	SCHED_FINISH_LENGTH,	/* max_tokens */
	SCHED_FINISH_CONTEXT,	/* the context is full */
	SCHED_FINISH_CANCELLED,
	SCHED_FINISH_ERROR
};

enum sched_kind {
	SCHED_WAITING,	/* wait has changed */
	SCHED_STARTED,	/* done: prompt tokens that need not be read */
	SCHED_READ,	/* done of total prompt tokens */
	SCHED_TOKEN,	/* token, sampled from logits; a stop token too */
	SCHED_DONE	/* finish, err (of ERROR), usage; logits after the prompt if max_tokens was 0 */
};

struct sched_usage {
	int32_t prompt;		/* tokens */
	int32_t reused;		/* of them not read */
	int32_t generated;
	int32_t read_again;	/* rows that a failed step made necessary */
	int32_t waited;		/* steps before it began */
};

struct sched_event {
	enum sched_kind kind;
	enum sched_wait wait;
	enum sched_finish finish;
	int32_t done, total;
	int32_t token;
	const float *logits;	/* [V], borrowed for the call; NULL if there are none */
	const struct err *err;
	struct sched_usage usage;	/* so far */
};

/* Everything is copied by sched_submit but `allowed`, `cancel` and `ctx`, which must live until SCHED_DONE. */
struct sched_request {
	const int32_t *token;		/* the conversation so far */
	int32_t n;
	const int32_t *message_end;	/* positions after the last token of a message, ascending */
	int32_t n_message_end;
	int32_t max_tokens;		/* to generate; 0 = only read */
	const int32_t *stop;		/* token ids that end the answer */
	int32_t n_stop;
	struct sampler_params sampling;
	const uint8_t *allowed;		/* [V], see sampler.h; NULL = all */
	int32_t priority;		/* -4..4, 0 = normal, higher first */
	const volatile int *cancel;	/* nonzero = stop; read between steps, and between layers where the request is
					 * alone in a step; NULL = never */
	/* Called for every event; false = cancel.  It may submit other requests. */
	bool (*event)(void *ctx, const struct sched_event *ev);
	/* Asked before every step: may events come?  False = the request rests (a slow reader) and keeps what it has.
	 * At most a READ, a TOKEN and the DONE follow a yes.  NULL = always. */
	bool (*ready)(void *ctx);
	/* Chooses the next token instead of sampler_pick(); NULL = that. */
	int32_t (*pick)(void *ctx, struct sampler *s, const float *logits);
	void *ctx;
};

/* The engine's timelines are the most that run at once.  opt may be NULL. */
enum status sched_open(struct sched **out, struct engine *e, const struct sched_options *opt, struct err *err);
void sched_close(struct sched *s);	/* what still runs is cancelled */

/* ERR_ARGUMENT, ERR_LIMIT (longer than context or pool, or too many waiting; numbers named), ERR_MEMORY. */
enum status sched_submit(struct sched *s, const struct sched_request *r, struct err *err);

/* Cancels, admits, and runs one step.  False: there was nothing to do. */
bool sched_run_once(struct sched *s);

struct sched_counts {
	int32_t waiting, reading, generating, parked;
	uint64_t steps, rows, decode_rows;
	uint64_t failed_steps;
	int32_t last_rows, last_parts;	/* of the last step */
};

void sched_counts(const struct sched *s, struct sched_counts *out);

#define SCHED_AGE 256	/* steps of waiting that are worth one priority */

#endif
