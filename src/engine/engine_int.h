/* engine_int.h - what the files of this folder share with each other. */
#ifndef DS4_ENGINE_ENGINE_INT_H
#define DS4_ENGINE_ENGINE_INT_H

#include "engine/engine.h"

/* Rows that one step may hold: a prefill chunk, or one row of every timeline. */
static inline int32_t engine_step_rows(int32_t chunk, int32_t timelines)
{
	return chunk > timelines ? chunk : timelines;
}

/* Blocks the pool may hand out: every timeline full, and one private block each to spare for a fork. */
int32_t memory_block_limit(int32_t context, int32_t timelines);

/* Largest multiple of 128 below `context` whose plan stays within limit; 0 when not even 128 tokens do. */
int32_t memory_largest_context(const struct shape *s, const struct backend *be, const struct memory_plan *asked,
			       int32_t max_logits, uint64_t limit);

/* ERR_MEMORY when the plan needs more than limit bytes (0 = unknown, no check). */
enum status memory_plan_check(const struct memory_plan *plan, const struct shape *s, const struct backend *be,
			      int32_t max_logits, uint64_t limit, struct err *err);

#endif
