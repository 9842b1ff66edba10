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
 * Thread: one thread at a time; blocks' reference counts are not atomic.  Source: docs/model.md 12. */
#ifndef DS4_MODEL_KV_H
#define DS4_MODEL_KV_H

#include "backend/backend.h"
#include "model/shape.h"

/* Where each layer's parts live; computed once per model and backend. */
struct kv_layout {
	struct kv_layer layer[SHAPE_MAX_LAYERS];
	int32_t n_layer;
	size_t block_bytes, tail_bytes;
};

void kv_layout_make(struct kv_layout *out, const struct shape *s, const struct backend *be);

struct kv_block {
	uint8_t *device;
	int32_t refs;
	struct kv_block *next_free;
};

/* Allocates blocks on demand up to a limit and keeps freed ones. */
struct kv_pool {
	struct backend *be;
	const struct kv_layout *layout;
	int32_t limit, live;		/* blocks: allowed, in use */
	struct kv_block *free;
};

struct kv_checkpoint {
	int32_t pos;			/* tokens read; a multiple of 128 */
	struct kv_tail *tail;		/* device copy, shared between forks */
};

struct kv {
	struct kv_pool *pool;
	int32_t len;			/* tokens read */
	struct be_timeline dev;		/* tail and block addresses for the ops */
	struct kv_block **block;	/* [n_block] */
	int32_t room;			/* capacity of block and dev.block */
	struct kv_checkpoint *check;	/* ascending pos */
	int32_t n_check, max_check;
};

void kv_pool_init(struct kv_pool *p, struct backend *be, const struct kv_layout *layout, int32_t limit);
void kv_pool_clear(struct kv_pool *p);

/* max_check: checkpoints kept (>= 2); when full, the one whose loss costs the least replay goes. */
enum status kv_open(struct kv **out, struct kv_pool *pool, int32_t max_check, struct err *err);
void kv_close(struct kv *kv);

/* Makes blocks for positions up to end-1.  ERR_LIMIT when the pool is exhausted (nothing changes). */
enum status kv_reserve(struct kv *kv, int32_t end, struct err *err);

/* Called after a step that read n tokens was submitted: advances len. */
void kv_advance(struct kv *kv, int32_t n);

/* Remembers the tail if len is a block boundary without a checkpoint; otherwise does nothing.
 * Failing to get memory is not an error: the checkpoint is not kept. */
void kv_checkpoint(struct kv *kv);

/* Largest position <= pos that kv_rewind can reach: a checkpoint, or 0. */
int32_t kv_nearest(const struct kv *kv, int32_t pos);

/* Moves back to kv_nearest(pos) and returns it. */
int32_t kv_rewind(struct kv *kv, int32_t pos);

/* A second timeline with the same state: full blocks and checkpoints are shared, the private block and the tail
 * are copied. */
enum status kv_fork(struct kv **out, const struct kv *from, struct err *err);

#endif
