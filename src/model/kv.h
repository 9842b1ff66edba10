/* kv.h - everything a timeline remembers: blocks, a tail, checkpoints.
 *
 * After reading tokens 0..len-1, for a layer with window W and ratio r:
 *   K1  ring slot p mod W of the tail holds the packed row of position p, for len-W <= p < len
 *   K2  compressed rows 0..len/r-1 are in the blocks (row n in block n / (128/r)); likewise the indexer keys
 *   K3  the tail's frontier holds the projections of the len mod r tokens after the last row (and, for r = 4,
 *       of the group before)
 *   K4  blocks 0..len/128-1 are full and immutable: shared between timelines by reference count
 *   K5  block len/128, if present, is private to the timeline
 * A checkpoint is a copy of the tail at a block boundary.  kv_rewind() restores the nearest one at or before a
 * position; the caller replays the tokens between.  Nothing else can move a timeline backwards.
 *
 * Copies are made when somebody writes, not before: a fork shares block, tail and all, and kv_reserve(), which every
 * step calls first, gives the timeline its own.  So forking, rewinding and restoring move references.
 * Thread: one thread at a time; reference counts are not atomic.  Source: docs/model.md 12. */
#ifndef DS4_MODEL_KV_H
#define DS4_MODEL_KV_H

#include "backend/backend.h"
#include "model/shape.h"

/* Where each layer's parts live; computed once per model and backend. */
struct kv_layout {
	struct kv_layer layer[SHAPE_MAX_LAYERS];
	int32_t n_layer;
	size_t block_bytes, tail_bytes;
	size_t check_bytes;		/* the first bytes of a tail: what a checkpoint keeps */
};

void kv_layout_make(struct kv_layout *out, const struct shape *s, const struct backend *be);

struct kv_block {
	uint8_t *device;		/* [block_bytes] */
	int32_t refs;
	void *node;			/* the prefix tree's entry for it; NULL = it has none */
	struct kv_block *next_free;
};

/* Device memory of a tail: a timeline's own, or the copy that a checkpoint keeps. */
struct kv_tail {
	uint8_t *device;		/* [tail_bytes]; of a checkpoint: [check_bytes] */
	int32_t refs;
	bool check;			/* a checkpoint: never written again */
	struct kv_tail *next_free;
};

/* Allocates blocks and checkpoints on demand up to limits and keeps freed ones.  Of each, `live` are in use by
 * timelines or held by whoever set reclaim. */
struct kv_pool {
	struct backend *be;
	const struct kv_layout *layout;
	int32_t limit, live;		/* blocks: allowed, in use */
	int32_t check_limit, live_check; /* checkpoints likewise; the limit starts at INT32_MAX */
	struct kv_block *free;
	struct kv_tail *free_check;
	/* Asked when a limit is reached or memory is refused: gives up one block (or checkpoint) that nobody uses, or
	 * says false.  NULL = nothing is held. */
	bool (*reclaim)(void *ctx, bool check);
	void *reclaim_ctx;
};

struct kv_checkpoint {
	int32_t pos;			/* tokens read; a multiple of 128 */
	struct kv_tail *tail;		/* shared between forks, and with the prefix tree */
};

struct kv {
	struct kv_pool *pool;
	int32_t len;			/* tokens read */
	struct be_timeline dev;		/* tail and block addresses for the ops */
	struct kv_block **block;	/* [n_block] */
	int32_t room;			/* capacity of block and dev.block */
	struct kv_tail *tail;		/* dev.tail; shared with forks until written */
	struct kv_tail *restore;	/* a checkpoint that the next kv_reserve() copies to the tail */
	struct kv_checkpoint *check;	/* ascending pos */
	int32_t n_check, max_check;
};

void kv_pool_init(struct kv_pool *p, struct backend *be, const struct kv_layout *layout, int32_t limit);
void kv_pool_clear(struct kv_pool *p);

/* max_check: checkpoints kept (>= 2); when full, the one whose loss costs the least replay goes. */
enum status kv_open(struct kv **out, struct kv_pool *pool, int32_t max_check, struct err *err);
void kv_close(struct kv *kv);

/* Makes blocks for positions up to end-1, and block and tail that the next step writes the timeline's own.
 * ERR_LIMIT when the pool is exhausted (the timeline's content does not change). */
enum status kv_reserve(struct kv *kv, int32_t end, struct err *err);

/* Called after a step that read n tokens was submitted: advances len. */
void kv_advance(struct kv *kv, int32_t n);

/* Remembers the tail if len is a block boundary without a checkpoint; otherwise does nothing.
 * Failing to get memory is not an error: the checkpoint is not kept. */
void kv_checkpoint(struct kv *kv);

/* Largest position <= pos that kv_rewind can reach: a checkpoint, or 0. */
int32_t kv_nearest(const struct kv *kv, int32_t pos);

/* Moves back to kv_nearest(pos) and returns it.  Cannot fail. */
int32_t kv_rewind(struct kv *kv, int32_t pos);

/* A second timeline with the same state; everything is shared until one of the two writes. */
enum status kv_fork(struct kv **out, const struct kv *from, struct err *err);

/* Becomes what `n` full blocks and the checkpoint behind the last of them describe; what was there before is dropped.
 * n >= 1.  References are added, the caller keeps its own.  On failure nothing has changed. */
enum status kv_restore(struct kv *kv, struct kv_block *const *block, int32_t n, struct kv_tail *check, struct err *err);

/* Full block i from now on is `b`, which has the same content. */
void kv_swap_block(struct kv *kv, int32_t i, struct kv_block *b);

/* Blocks and checkpoints for those who hold them outside of a timeline.  New ones have one reference and undefined
 * content; NULL: err says why. */
struct kv_block *kv_block_new(struct kv_pool *p, struct err *err);
struct kv_tail *kv_check_new(struct kv_pool *p, struct err *err);
void kv_block_drop(struct kv_pool *p, struct kv_block *b);
void kv_tail_drop(struct kv_pool *p, struct kv_tail *t);

#endif
