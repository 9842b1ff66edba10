/* timed.h - a backend around a backend: measures every operation of the forward pass, changes none of them.
 *
 * A forward pass opened on the wrapper runs exactly the inner backend's operations on the inner backend's memory, so
 * its results have the same bits.  While recording is on, each operation is finished before the next begins (on a
 * device that queues work this adds the cost of waiting), and its time, bytes and arithmetic are added to the row of
 * its name and weight types.  While recording is off, an operation costs one more indirect call.
 *
 *   bytes   Weights once per launch; of routed experts only those that some row of the step chose.  History (packed
 *           rows, keys) once per span.  Activations are not counted: they are small or in cache.
 *   ops     Two per multiply-add of matrix products, of attention and of the indexer's scores.  Work per element
 *           (norms, rotations, rounding) is not counted.
 * Thread: as the inner backend. */
#ifndef DS4_BACKEND_TIMED_H
#define DS4_BACKEND_TIMED_H

#include "backend/backend.h"

enum { TIMED_MAX_ROWS = 64 };

/* What one kind of operation did since the last timed_reset(). */
struct timed_row {
	const char *op;			/* name in struct ops: "matmul" */
	enum dtype type[2];		/* of its weights; DTYPE_COUNT = none, the second for a second type */
	int64_t calls;
	double seconds;
	double weight_bytes, history_bytes, ops;
};

/* Wraps inner, which must outlive the wrapper; be_close() on the wrapper leaves inner open. */
enum status timed_open(struct backend **out, struct backend *inner, struct err *err);

void timed_record(struct backend *timed, bool on);
void timed_reset(struct backend *timed);

/* Rows in the order in which the operations first ran; borrowed until the next operation. */
const struct timed_row *timed_rows(const struct backend *timed, int *n);

/* "IQ2_XXS+Q2_K", "Q8_0", or "-" without weights. */
const char *timed_types(char *out, size_t room, const struct timed_row *row);

#endif
