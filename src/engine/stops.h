/* stops.h - stop strings: ends a stream of text at the first of a few given strings.
 *
 * The text may arrive cut anywhere; what comes out does not depend on the cuts.  The match that starts earliest
 * wins, of those that start together the shortest.  Nothing of the stop text, and nothing behind it, is ever
 * released; text that could still become a match is held back: between calls at most the longest stop string less
 * one byte.
 * Thread: one stream, one thread. */
#ifndef DS4_ENGINE_STOPS_H
#define DS4_ENGINE_STOPS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/status.h"

#define STOPS_MAX 64		/* strings */
#define STOPS_MAX_BYTES 4096	/* of one string */

struct stop_string {
	const char *p;		/* UTF-8, may hold NUL */
	size_t n;
};

struct stops {
	struct stop_string *stop;	/* [n_stop], bytes owned */
	int n_stop;
	bool first[256];		/* bytes that some stop string starts with */
	struct buf held;
	int hit;			/* index of the string that ended the stream, -1 while it runs */
};

/* Copies the strings.  ERR_ARGUMENT: an empty or too long string, or too many; ERR_MEMORY.
 * n = 0 is a stream that never stops.  On failure s is cleared. */
enum status stops_init(struct stops *s, const struct stop_string *stop, int n, struct err *err);
void stops_clear(struct stops *s);

/* Appends to out what p[0..n) releases.  True when a stop string has been found: everything before it has been
 * released, and later calls add nothing.  A failed held buffer (no memory) shows in out->failed. */
bool stops_push(struct stops *s, const char *p, size_t n, struct buf *out);

/* The stream is over: releases what was held back (up to a match that was waiting; then true). */
bool stops_finish(struct stops *s, struct buf *out);

/* For the next answer: forgets held text and the hit. */
void stops_reset(struct stops *s);

#endif
