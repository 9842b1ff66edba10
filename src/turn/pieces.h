/* pieces.h - tokens of an answer -> pieces: decoded, with stop strings applied.
 *
 * Shared by everybody who samples: turns (turn.h) and the loop of `ds4 run` and `ds4 chat`.  What decode.h promises
 * holds here too (D1..D4).  Stop strings see the visible content only; when one is found the answer ends: its FINISH
 * says FINISH_STOP and pieces.stopped is set.
 * Thread: one at a time. */
#ifndef DS4_TURN_PIECES_H
#define DS4_TURN_PIECES_H

#include "chat/decode.h"
#include "engine/stops.h"

struct pieces_options {
	const struct tokenizer *tokenizer;
	bool raw;			/* everything is content, nothing is decoded */
	enum thinking thinking;		/* ON: the prompt ends inside the reasoning */
	bool tools_active;
	const json_t *tools;		/* borrowed; see decode.h */
	struct stops *stops;		/* borrowed, reset by pieces_init; NULL = none */
	void *ctx;
	void (*take)(void *ctx, const struct piece *piece);
};

struct pieces {
	struct pieces_options opt;
	struct decode *decode;		/* NULL: raw */
	struct detok detok;		/* raw only */
	struct buf text;		/* released by the stop strings */
	bool stopped;			/* by a stop string */
	bool over;			/* FINISH was handed out: finish */
	enum finish finish;
	bool failed;			/* no memory */
};

enum status pieces_init(struct pieces *o, const struct pieces_options *opt, struct err *err);
void pieces_clear(struct pieces *o);

/* Takes the next token.  False once the answer is over; FINISH was handed out then. */
bool pieces_push(struct pieces *o, int32_t id);

/* Ends the answer from outside, as decode_finish() does. */
void pieces_finish(struct pieces *o, enum finish how);

/* Is the next token part of a tool call's tags?  Then sampling does best to be greedy. */
bool pieces_in_structure(const struct pieces *o);

bool pieces_ok(const struct pieces *o);	/* false after memory ran out: text was lost */

#endif
