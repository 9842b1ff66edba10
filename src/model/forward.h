/* forward.h - the forward pass, written once: a step of rows in, logits of the rows that want them out.
 *
 * Decode is a step of one row, prefill a step of many rows of one timeline, a batch a step of rows of many
 * timelines; verification of drafts is a few rows.  Work buffers for up to max_rows rows and max_logits logits are
 * allocated once.  Deterministic for a given backend.  Source: docs/model.md sections 4-9. */
#ifndef DS4_MODEL_FORWARD_H
#define DS4_MODEL_FORWARD_H

#include "backend/backend.h"
#include "model/kv.h"
#include "model/shape.h"
#include "model/weights.h"

/* Points in the pass where an observer may look at (or overwrite) a tensor: dumps, importance statistics, tests. */
enum tap_point {
	TAP_ATTN_IN,	/* streams [T, S*d] before the attention half */
	TAP_FFN_IN,	/* streams between the halves */
	TAP_LAYER_OUT,	/* streams after the FFN half */
	TAP_ATTN_NORM,	/* x [T, d] that attention reads */
	TAP_FFN_NORM,	/* x [T, d] that the experts read */
	TAP_ATTN_OUT,	/* y [T, d] of attention */
	TAP_FFN_OUT,	/* y [T, d] of the experts */
	TAP_EXPERTS,	/* idx [T, K] i32 */
	TAP_GATES	/* g [T, K] weights of those experts */
};

struct tap {
	void (*fn)(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t,
		   const struct step *s);
	void *ctx;
};

struct forward;

enum status forward_open(struct forward **out, struct backend *be, const struct shape *s, const struct weights *w,
			 const struct kv_layout *layout, int32_t max_rows, int32_t max_logits, struct err *err);
void forward_close(struct forward *f);
void forward_tap(struct forward *f, const struct tap *tap);	/* NULL removes it */
size_t forward_work_bytes(const struct backend *be, const struct shape *s, int32_t max_rows, int32_t max_logits);

/* One part of a step: n consecutive new tokens of one timeline. */
struct forward_part {
	struct kv *kv;
	const int32_t *token;
	int32_t n;
	bool all_logits;	/* every row's logits instead of none */
	bool last_logits;	/* the last row's logits */
};

/* Runs one step over the parts (each timeline at most once; sum of n <= max_rows) and writes the logits
 * [rows that want them, V] in row order.  On success every timeline has advanced by its n; on failure none has, and
 * the timelines of this step must be rewound or closed.
 * cancel (may be NULL; any thread may set it) is read between layers: when it becomes nonzero the step ends with
 * ERR_CANCELLED. */
enum status forward_step(struct forward *f, const struct forward_part *part, int32_t n_parts, float *logits,
			 const volatile int *cancel, struct err *err);

int32_t forward_max_rows(const struct forward *f);
int32_t forward_max_logits(const struct forward *f);

#endif
