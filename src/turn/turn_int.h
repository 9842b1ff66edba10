/* turn_int.h - what the files of this folder share.
 *   turn.c     the reader's side: open, start, mails -> events, the end
 *   prompt.c   a request's conversation -> prompt ids
 *   pilot.c    the engine's side: chooses every token, decodes it, puts notes for the reader into a box
 *   steer.c    sampling under a constraint
 *   history.c  an answer's ids as history should hold them
 *   tables.c   what is worked out once from a vocabulary */
#ifndef DS4_TURN_TURN_INT_H
#define DS4_TURN_TURN_INT_H

#include <pthread.h>

#include "grammar/grammar.h"
#include "turn/pieces.h"
#include "turn/turn.h"

struct turn_tables {
	const struct tokenizer *tokenizer;
	uint8_t *mask;				/* [V] legal in any answer */
	struct vocabulary *vocabulary;
	int32_t eos, think, end_think, dsml;
};

/* ------------------------------------------------------------------ prompt.c */

/* Readies q's conversation (response format, tools that are not to be shown, exact ids) and renders it; or copies the
 * raw ids.  Nothing is checked against the context. */
enum status prompt_make(const struct turn_context *c, const struct turn_request *q, struct token_list *out,
			struct err *err);

/* The tools that the conversation declares; NULL = none.  Borrowed. */
json_t *prompt_tools(const struct conversation *c);

/* Where checkpoints pay: after the system text, and between the last messages.  Returns how many, at most
 * PROMPT_ENDS, ascending. */
enum { PROMPT_ENDS = 8 };
int32_t prompt_message_ends(const struct tokenizer *t, const int32_t *id, int32_t n, int32_t end[PROMPT_ENDS]);

/* ------------------------------------------------------------------ steer.c */

/* From where on the answer is constrained. */
enum constraint {
	CONSTRAINT_NONE,
	CONSTRAINT_ANSWER,	/* from the beginning of the visible answer */
	CONSTRAINT_CALLS	/* from the marker that opens a block of calls */
};

struct steer {
	enum constraint constraint;
	const struct turn_tables *tables;
	struct grammar *grammar;
	struct matcher *matcher;
	bool active;
	uint8_t *mask;			/* [V] tables->mask without what is refused now */
	uint64_t picks, refusals, scans;
};

/* Takes over g, also when it fails. */
enum status steer_init(struct steer *s, const struct turn_tables *x, enum constraint c, struct grammar *g, struct err *err);
void steer_clear(struct steer *s);
/* The constrained part begins, p[0..n) of it is there already.  False: that is refused. */
bool steer_begin(struct steer *s, const char *p, size_t n);
void steer_take(struct steer *s, int32_t id);		/* the answer has got this token */
/* Picks a token that may come; reasoning: it is open.  As sampler_pick(). */
int32_t steer_pick(struct steer *s, struct sampler *sampler, const float *logits, bool reasoning);

/* ------------------------------------------------------------------ pilot.c */

/* What the engine's side tells the reader's: a header, n_logprob log-probabilities, n bytes of text and a NUL, padded
 * to 8. */
enum { NOTE_PROMPT = PIECE_FINISH + 1 };	/* index: tokens of the prompt that are known now */

struct note {
	int kind;			/* enum piece_kind or NOTE_PROMPT */
	uint32_t index, n_logprob;
	size_t n;
};

/* What a pilot is to do; everything is copied. */
struct pilot_plan {
	const struct turn_tables *tables;
	struct mailbox *mailbox;	/* cancelled when the answer is over; outlives the last pick */
	bool raw, tools_active, one_call;
	enum thinking thinking;
	json_t *tools;
	const struct stop_string *stop;
	int n_stop;
	int32_t budget;			/* reasoning tokens; < 0 = no limit */
	int32_t limit;			/* tokens of the answer */
	int32_t top_logprobs;
	const struct token_list *prompt;	/* its tokens from the second on are to be "sampled"; NULL = none */
	const struct token_list *start;	/* forced where the visible answer begins */
	const int32_t *script;		/* NULL = sample */
	int32_t n_script;
	enum constraint constraint;
	struct grammar *grammar;	/* moves to the pilot, also when pilot_new() fails */
	const char *begun;		/* [n_begun] what the conversation ends with of an answer to be continued */
	size_t n_begun;
};

struct pilot {
	int holders;			/* the turn, the engine's thread */
	struct pilot_plan plan;
	struct stops stops;
	struct pieces pieces;
	struct steer steer;
	struct token_list prompt, start, script, forced;
	size_t at_prompt, at_script, at_forced;
	bool reasoning;			/* it is open */
	bool call_ended, call_dropped;	/* a call is complete; one_call: another one was kept from the reader */
	bool closing;			/* one_call: the block's end is forced */
	bool cut_short;			/* ended by the scheduler, not by what was said */
	bool failed;			/* no memory */
	struct token_list ids;		/* the answer without EOS */
	int32_t n_reasoning;		/* of them, up to and including </think> */
	struct turn_logprob *pending;	/* [n_pending] of tokens whose text is still held back */
	int32_t n_pending, pending_room;

	pthread_mutex_t lock;		/* of box; all else is the engine thread's until its SCHED_DONE was read */
	struct buf box;			/* notes */
};

enum status pilot_new(struct pilot **out, const struct pilot_plan *plan, struct err *err);
void pilot_hold(struct pilot *p);
void pilot_release(void *p);		/* for mailbox_hooks; accepts NULL */

/* For sched_request.pick. */
int32_t pilot_pick(void *p, struct sampler *s, const float *logits);

/* Appends the notes in the box to out and empties it. */
void pilot_fetch(struct pilot *p, struct buf *out);

/* After SCHED_DONE: ends the answer where it was not over. */
void pilot_finish(struct pilot *p);

/* ------------------------------------------------------------------ history.c */

/* The ids that history should hold for the answer [n ids] with the visible content: behind a stop string nothing.
 * False: the ids do not say what the content is, or no memory. */
bool history_ids(const struct turn_tables *x, const struct token_list *ids, const struct buf *content, bool stopped,
		 struct token_list *out);

#endif
