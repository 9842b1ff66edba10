/* memory.c - the memory plan: bytes by class for a context and a number of timelines, before any is allocated.
 *
 * What  memory_plan_make() is pure arithmetic over the model's shape and the backend's sizes;
 *       memory_plan_check() refuses a plan that does not fit and names the context that would.
 * Why   A context that does not fit must fail at start-up with a number to use instead, not in the middle of a
 *       conversation.
 * How   Everything the engine allocates later is one of: blocks (history, grows with the context), tails and
 *       checkpoints (fixed per timeline), work (one step's activations) and logits.  Weights are mapped from the
 *       file: the system can drop their pages again, so they are listed but not part of the total.
 * Careful
 *       - The pool gets its limits of blocks and checkpoints from here, so that plan and pool cannot disagree.  What
 *         timelines leave free in them, the prefix tree fills.
 *       - A smaller context may also mean a smaller chunk: both shrink while looking for what fits.
 *       - Lists on the host (token ids, block addresses: about five bytes a token) are not counted.
 * Source: docs/model.md section 12. */
#include "engine/engine_int.h"

#include <stdio.h>

int32_t memory_block_limit(int32_t context, int32_t timelines)
{
	int64_t each = (int64_t)(context - 1) / GEOM_BLOCK + 2, all = each * timelines;

	return all < INT32_MAX ? (int32_t)all : INT32_MAX;
}

/* The plan for a layout that is already made. */
static void plan_with_layout(struct memory_plan *out, const struct kv_layout *layout, const struct shape *s,
			     const struct backend *be, uint64_t weight_bytes, int32_t context, int32_t timelines,
			     int32_t chunk, int32_t max_logits)
{
	uint64_t n = (uint64_t)timelines;
	int32_t rows = engine_step_rows(chunk, timelines);
	int32_t wanted = max_logits < rows ? max_logits : rows;
	int32_t logits = wanted > timelines ? wanted : timelines;

	*out = (struct memory_plan){.weights = weight_bytes, .context = context, .timelines = timelines,
				    .chunk = chunk};
	out->blocks = (uint64_t)memory_block_limit(context, timelines) * layout->block_bytes;
	out->tails = n * layout->tail_bytes;
	out->checkpoints = n * ENGINE_MAX_CHECKPOINTS * layout->check_bytes;
	out->work = forward_work_bytes(be, s, rows, wanted);
	out->logits = (uint64_t)logits * (uint64_t)s->vocab * sizeof(float);
	out->total = out->blocks + out->tails + out->checkpoints + out->work + out->logits;
}

/* The plan of engine_open(): `context` tokens for each of `timelines`, steps of at most `chunk` rows of which
 * max_logits may want logits.  All arguments are positive. */
void memory_plan_make(struct memory_plan *out, const struct shape *s, const struct backend *be,
		      uint64_t weight_bytes, int32_t context, int32_t timelines, int32_t chunk, int32_t max_logits)
{
	struct kv_layout layout;

	kv_layout_make(&layout, s, be);
	plan_with_layout(out, &layout, s, be, weight_bytes, context, timelines, chunk, max_logits);
}

int32_t memory_largest_context(const struct shape *s, const struct backend *be, const struct memory_plan *asked,
			       int32_t max_logits, uint64_t limit)
{
	int32_t lo = 0, hi = (asked->context - 1) / GEOM_BLOCK;	/* in blocks; lo fits, hi + 1 does not */
	struct kv_layout layout;

	kv_layout_make(&layout, s, be);
	while (lo < hi) {
		int32_t mid = lo + (hi - lo + 1) / 2, context = mid * GEOM_BLOCK;
		int32_t chunk = asked->chunk < context ? asked->chunk : context;
		struct memory_plan p;

		plan_with_layout(&p, &layout, s, be, asked->weights, context, asked->timelines, chunk, max_logits);
		if (p.total <= limit)
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo * GEOM_BLOCK;
}

enum status memory_plan_check(const struct memory_plan *plan, const struct shape *s, const struct backend *be,
			      int32_t max_logits, uint64_t limit, struct err *err)
{
	char hint[96] = "no context fits";
	int32_t fits;

	if (!limit || plan->total <= limit)
		return OK;
	fits = memory_largest_context(s, be, plan, max_logits, limit);
	if (fits)
		snprintf(hint, sizeof hint, "the largest context that fits is %d", (int)fits);
	return err_set(err, ERR_MEMORY,
		       "a context of %d tokens for %d timeline%s needs %llu bytes of memory, %llu are available; %s",
		       (int)plan->context, (int)plan->timelines, plan->timelines == 1 ? "" : "s",
		       (unsigned long long)plan->total, (unsigned long long)limit, hint);
}
