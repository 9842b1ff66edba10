/* tree.h - the prefix tree: what any timeline has read stays usable by any other, found by its token ids.
 *
 * A node is one full block of 128 tokens, known by the hash of everything before it and its own tokens.  Some nodes
 * have a checkpoint: the tail behind the block.  A timeline can continue from those; blocks alone only show that two
 * lists are the same so far.
 *   T1  a node's parent is in the tree: what can be found can be reached
 *   T2  the tree holds one reference to each of its blocks and checkpoints; equal blocks of several timelines become
 *       one when they are published
 *   T3  nothing that somebody else refers to is let go; blocks leave from the leaves inwards
 * The tree lets go when the pool asks (kv_pool.reclaim): of what nobody uses, the one with the lowest score first:
 * hits * tokens to read again / bytes / age.  A second, slower place (struct tree_tier) is told before.
 * Thread: the engine's thread. */
#ifndef DS4_ENGINE_TREE_H
#define DS4_ENGINE_TREE_H

#include "model/kv.h"

struct tree;

/* Names 128 tokens and everything before them: XXH3-128 of (key of what is before, token ids as 32-bit little
 * endian).  Before the first block stands the model's fingerprint. */
struct tree_key {
	uint64_t low, high;
};

struct tree_key tree_key_next(struct tree_key before, const int32_t *token);
struct tree_key tree_key_of(const void *p, size_t n);	/* XXH3-128 of bytes */

/* fingerprint: of everything that gives state its meaning (model file, numerics, layout).  Becomes the pool's
 * reclaim. */
enum status tree_open(struct tree **out, struct kv_pool *pool, struct tree_key fingerprint, struct err *err);
void tree_close(struct tree *t);	/* lets go of everything; NULL allowed */
void tree_clear(struct tree *t);	/* lets go of everything nobody uses */

/* Enters kv's full blocks and its checkpoints; token[0..kv->len) is what it has read.  Where the tree has the same
 * block or checkpoint already, kv changes over to that one.  Work is proportional to what is new.  Without memory
 * for a node nothing is entered, which is no error. */
void tree_publish(struct tree *t, struct kv *kv, const int32_t *token);

/* What the tree knows of a list. */
struct tree_match {
	int32_t usable;		/* tokens a timeline can start with: blocks up to a checkpoint; a multiple of 128 */
	int32_t known;		/* tokens whose blocks are there: >= usable; a checkpoint here would have helped */
	int32_t in_use;		/* blocks of the usable part that somebody else refers to */
};

struct tree_match tree_find(const struct tree *t, const int32_t *token, int32_t n);

/* If a longer prefix of token[0..n) than kv->len is usable, in memory or in the tier, kv becomes it.  On failure kv
 * is as before; a tier that fails is no failure (kv gets what memory has). */
enum status tree_take(struct tree *t, struct kv *kv, const int32_t *token, int32_t n, struct err *err);

/* Gives up the checkpoint at kv's token `pos` unless it has served somebody (a generation leaves one per block, and
 * only the newest is worth its memory). */
void tree_forget(struct tree *t, struct kv *kv, int32_t pos);

/* Blocks that the pool could get back now. */
int32_t tree_spare(const struct tree *t);

struct tree_stats {
	int32_t blocks, checks;
	uint64_t hits, misses;		/* tree_take calls that found something, or nothing */
	uint64_t tokens_saved;		/* by them */
	uint64_t blocks_evicted, checks_evicted;
	uint64_t loaded;		/* blocks that came from the tier */
};

void tree_stats(const struct tree *t, struct tree_stats *out);

/* ------------------------------------------------------------------ a second place */

/* One node, as others see it.  Pointers are borrowed for the call; take a reference (refs++) to keep a block or a
 * checkpoint longer, kv_block_drop and kv_tail_drop give it back: both on the engine's thread. */
struct tree_item {
	struct tree_key key, before;
	int32_t end;			/* tokens up to and including this block */
	const int32_t *token;		/* [128] */
	struct kv_block *block;
	struct kv_tail *check;		/* NULL = none */
	uint32_t hits;
	uint64_t age;			/* blocks entered and prefixes taken since it was last used */
	int32_t children;		/* nodes that go on from here */
};

/* All functions run on the engine's thread; any may be NULL. */
struct tree_tier {
	void *ctx;
	/* A block is new (check false), or a checkpoint has been added to one (check true).  Both never change. */
	void (*added)(void *ctx, const struct tree_item *item, bool check);
	/* Memory is about to let go of the checkpoint, or of the block (and its checkpoint).  Last chance to keep it
	 * elsewhere.  False: not now (it is being written): something else goes. */
	bool (*leaving)(void *ctx, const struct tree_item *item, bool block);
	/* How many of the blocks key[0..n) it could load, up to a checkpoint behind the last: 0, or > have.
	 * token [n * 128]: what the keys stand for. */
	int32_t (*find)(void *ctx, const struct tree_key *key, const int32_t *token, int32_t n, int32_t have);
	/* Fills blocks from..to-1 and the checkpoint behind to-1.  Whatever went wrong: a status, and the tree does
	 * without. */
	enum status (*load)(void *ctx, const struct tree_key *key, int32_t from, int32_t to,
			    struct kv_block *const *block, struct kv_tail *check, struct err *err);
	/* A timeline continues from here, wherever it came from. */
	void (*taken)(void *ctx, const struct tree_item *item);
	/* Between steps: time for what has waited.  True: again in a while, even if no step comes. */
	bool (*poll)(void *ctx);
};

/* Called by whoever drives the engine, between steps and now and then while idle, as long as it says true. */
bool tree_poll(struct tree *t);

void tree_set_tier(struct tree *t, const struct tree_tier *tier);	/* NULL removes it; copied */

/* The node of a key; false: there is none. */
bool tree_get(const struct tree *t, struct tree_key key, struct tree_item *out);

/* Calls fn for every node, parents before children is not promised; fn must not change the tree. */
void tree_each(const struct tree *t, void (*fn)(void *ctx, const struct tree_item *item), void *ctx);

#endif
