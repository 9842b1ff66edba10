/* engine.h - a loaded model: file, tokenizer, backend, weights, plan.  Read-only afterwards.
 *
 * An engine owns the mapped file and everything bound to it; sessions (session.h) borrow it.
 * Thread: one thread drives an engine and its sessions. */
#ifndef DS4_ENGINE_ENGINE_H
#define DS4_ENGINE_ENGINE_H

#include "backend/backend.h"
#include "engine/tree.h"
#include "gguf/gguf.h"
#include "model/forward.h"
#include "model/kv.h"
#include "model/shape.h"
#include "model/weights.h"
#include "tokenizer/tokenizer.h"

struct engine_options {
	const char *model;		/* path of a GGUF file */
	const char *backend;		/* "ref", "cpu", "cuda"; NULL or "auto" = the fastest that has room for the model */
	int threads;			/* 0 = choose */
	const char *isa;		/* instruction set of cpu: see struct be_options */
	int32_t context;		/* tokens of one timeline; 0 = min(model's, 32768) */
	int32_t timelines;		/* how many at once; 0 = 1 */
	int32_t chunk;			/* rows of a prefill step; 0 = choose */
	int32_t max_logits;		/* rows of a step that may want logits; 0 = timelines */
	uint64_t memory_limit;		/* bytes the plan may use; 0 = what the machine has */
	struct be_numerics numerics;	/* see BE_NUMERICS_MODEL */
};

#define ENGINE_OPTIONS_DEFAULT {.numerics = BE_NUMERICS_MODEL}

/* The memory plan: bytes by class, before anything is allocated. */
struct memory_plan {
	uint64_t weights;		/* mapped from the file, not copied */
	uint64_t blocks;		/* compressed rows and keys of all timelines at full context */
	uint64_t tails;			/* rings and frontiers */
	uint64_t checkpoints;		/* copies of tails at block boundaries: the timelines' and the tree's */
	uint64_t work;			/* activations of one step */
	uint64_t logits;
	uint64_t total;			/* all but weights */
	int32_t context, timelines, chunk;
};

struct engine {
	struct engine_options opt;	/* with every choice filled in */
	struct gguf *gguf;
	struct tokenizer *tokenizer;
	struct shape shape;
	struct backend *be;
	struct weights weights;
	struct kv_layout layout;
	struct kv_pool pool;
	struct tree *tree;		/* prefixes that sessions and requests share */
	struct forward *forward;
	struct memory_plan plan;
	const char *name;		/* general.name or the file's name */
	char backend_why[200];		/* one sentence: which backend "auto" took and why; empty when it was named */
};

/* Plans first: a context that does not fit is refused (ERR_MEMORY) with the largest that would, before allocation. */
enum status engine_open(struct engine **out, const struct engine_options *opt, struct err *err);
void engine_close(struct engine *e);

/* The plan for a shape on a backend; pure arithmetic. */
void memory_plan_make(struct memory_plan *out, const struct shape *s, const struct backend *be,
		      uint64_t weight_bytes, int32_t context, int32_t timelines, int32_t chunk, int32_t max_logits);

#define ENGINE_MAX_CHECKPOINTS 16	/* per timeline, the prefix tree's included */

/* What gives stored state its meaning: the file (metadata, tensor table, samples of tensors), the backend and its numbers,
 * the layout. */
struct tree_key engine_fingerprint(const struct engine *e);

#endif
