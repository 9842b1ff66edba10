/* tree.c - the prefix tree in memory; tree.h says what it promises.
 *
 * What  A hash table from keys to nodes, and in each node one block, maybe a checkpoint, and its parent.
 * How   Publishing starts at the last block that has a node already (kv_block.node), so it costs nothing for what is
 *       old.  Finding walks the keys from the start: one XXH3 of 528 bytes for 128 tokens.
 *       Letting go looks at all nodes: some ten thousand at most, once per block that a full pool hands out.
 * Careful
 *       - Keys find, tokens decide: a node matches only if its 128 tokens and its parent are the right ones.
 *       - A block that a timeline uses has references from it and from here; refs == 1 means that nobody uses it.
 *         Whoever uses a block uses all before it, so only leaves need to be asked.
 *       - A block behind the last checkpoint of its branch saves nothing by itself: it goes first. */
#include "engine/tree.h"

#include <assert.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

enum {
	YOUNG = 8,	/* age at birth, in blocks: how much the newest are preferred (checkpoints end up spaced evenly over
			 * the last blocks, then ever wider) */
	TIER_TRIES = 4	/* to load from a second place that is damaged */
};

struct node {
	struct tree_key key;
	struct node *parent;		/* NULL: first block */
	struct node *next;		/* in its bucket */
	struct kv_block *block;
	struct kv_tail *check;		/* NULL = none */
	int32_t at;			/* in tree.node */
	int32_t depth;			/* blocks up to and including this */
	int32_t children;
	uint32_t hits;			/* timelines that started from the checkpoint */
	uint64_t used;			/* clock at the last use */
	int32_t token[GEOM_BLOCK];
};

struct tree {
	struct kv_pool *pool;
	struct tree_key fingerprint;
	struct node **bucket;		/* [n_bucket], a power of two */
	size_t n_bucket;
	struct node **node;		/* [n_node], no order */
	int32_t n_node, room;
	uint64_t clock;
	struct tree_tier tier;
	struct tree_stats stats;
};

struct tree_key tree_key_of(const void *p, size_t n)
{
	struct hash128 h = hash128(p, n);

	return (struct tree_key){h.low, h.high};
}

struct tree_key tree_key_next(struct tree_key before, const int32_t *token)
{
	uint8_t bytes[16 + 4 * GEOM_BLOCK];

	for (int i = 0; i < 8; i++) {
		bytes[i] = (uint8_t)(before.low >> 8 * i);
		bytes[8 + i] = (uint8_t)(before.high >> 8 * i);
	}
	for (int i = 0; i < GEOM_BLOCK; i++)
		for (int j = 0; j < 4; j++)
			bytes[16 + 4 * i + j] = (uint8_t)((uint32_t)token[i] >> 8 * j);
	return tree_key_of(bytes, sizeof bytes);
}

/* ------------------------------------------------------------------ nodes */

static struct node *child_of(const struct tree *t, const struct node *parent, struct tree_key key, const int32_t *token)
{
	struct node *n = t->bucket[key.low & (t->n_bucket - 1)];

	for (; n; n = n->next)
		if (n->key.low == key.low && n->key.high == key.high && n->parent == parent &&
		    memcmp(n->token, token, sizeof n->token) == 0)
			return n;
	return NULL;
}

/* Twice the buckets; without memory the chains just grow. */
static void more_buckets(struct tree *t)
{
	size_t n = 2 * t->n_bucket;
	struct node **bucket = mem_array(n, sizeof(struct node *));

	if (!bucket)
		return;
	for (int32_t i = 0; i < t->n_node; i++) {
		struct node **b = &bucket[t->node[i]->key.low & (n - 1)];

		t->node[i]->next = *b;
		*b = t->node[i];
	}
	mem_free(t->bucket);
	t->bucket = bucket;
	t->n_bucket = n;
}

/* Takes over no reference: the node adds its own.  NULL without memory. */
static struct node *add_node(struct tree *t, struct node *parent, struct tree_key key, const int32_t *token,
			     struct kv_block *block)
{
	struct node *n = mem_zero(sizeof *n), **b;

	if (n && t->n_node == t->room) {
		struct node **list = mem_grow(t->node, 2 * (size_t)t->room, sizeof(struct node *));

		if (!list) {
			mem_free(n);
			return NULL;
		}
		t->node = list;
		t->room *= 2;
	}
	if (!n)
		return NULL;
	if ((size_t)t->n_node >= t->n_bucket)
		more_buckets(t);
	b = &t->bucket[key.low & (t->n_bucket - 1)];
	*n = (struct node){.key = key, .parent = parent, .next = *b, .block = block, .at = t->n_node,
			   .depth = parent ? parent->depth + 1 : 1, .used = ++t->clock};
	memcpy(n->token, token, sizeof n->token);
	*b = n;
	t->node[t->n_node++] = n;
	if (parent)
		parent->children++;
	block->refs++;
	block->node = n;
	return n;
}

static struct tree_item item_of(const struct tree *t, const struct node *n)
{
	return (struct tree_item){.key = n->key, .before = n->parent ? n->parent->key : t->fingerprint,
				  .end = n->depth * GEOM_BLOCK, .token = n->token, .block = n->block,
				  .check = n->check, .hits = n->hits, .age = t->clock - n->used,
				  .children = n->children};
}

static void tell_added(struct tree *t, const struct node *n, bool check)
{
	struct tree_item item = item_of(t, n);

	if (t->tier.added)
		t->tier.added(t->tier.ctx, &item, check);
}

static void drop_check(struct tree *t, struct node *n)
{
	if (!n->check)
		return;
	kv_tail_drop(t->pool, n->check);
	n->check = NULL;
	t->stats.checks--;
}

static void drop_node(struct tree *t, struct node *n)
{
	struct node **p = &t->bucket[n->key.low & (t->n_bucket - 1)];

	while (*p != n)
		p = &(*p)->next;
	*p = n->next;
	t->node[n->at] = t->node[--t->n_node];
	t->node[n->at]->at = n->at;
	if (n->parent)
		n->parent->children--;
	drop_check(t, n);
	n->block->node = NULL;
	kv_block_drop(t->pool, n->block);
	mem_free(n);
}

static void set_check(struct tree *t, struct node *n, struct kv_tail *check)
{
	check->refs++;
	n->check = check;
	t->stats.checks++;
	tell_added(t, n, true);
}

/* ------------------------------------------------------------------ letting go */

/* Tokens that would be read again without n's checkpoint. */
static int32_t gap_of(const struct node *n)
{
	const struct node *up = n->parent;

	while (up && !up->check)
		up = up->parent;
	return (n->depth - (up ? up->depth : 0)) * GEOM_BLOCK;
}

/* What keeping it is worth: uses * tokens to read again / bytes / age.  With the block: all blocks of the gap follow. */
static double score(const struct tree *t, const struct node *n, bool block)
{
	double age = (double)(t->clock - n->used) + YOUNG, gap, bytes;

	if (!n->check)
		return 1e-30 / age;
	gap = gap_of(n);
	bytes = (double)t->pool->layout->check_bytes;
	if (block)
		bytes += gap / GEOM_BLOCK * (double)t->pool->layout->block_bytes;
	return (1.0 + n->hits) * gap / bytes / age;
}

/* Nobody but the tree refers to what would go. */
static bool may_go(const struct node *n, bool check)
{
	if (check)
		return n->check && n->check->refs == 1;
	return !n->children && n->block->refs == 1 && (!n->check || n->check->refs == 1);
}

static bool agrees(struct tree *t, const struct node *n, bool check)
{
	struct tree_item item = item_of(t, n);

	return !t->tier.leaving || t->tier.leaving(t->tier.ctx, &item, !check);
}

/* The candidate with the lowest score above (or equal to, behind) the one that was refused before. */
static struct node *cheapest(const struct tree *t, bool check, double floor)
{
	struct node *best = NULL;
	double best_score = 0;

	for (int32_t i = 0; i < t->n_node; i++) {
		struct node *n = t->node[i];
		double s;

		if (!may_go(n, check))
			continue;
		s = score(t, n, !check);
		if (s > floor && (!best || s < best_score)) {
			best = n;
			best_score = s;
		}
	}
	return best;
}

static bool let_go(void *ctx, bool check)
{
	struct tree *t = ctx;
	double floor = -1;
	struct node *n;

	while ((n = cheapest(t, check, floor)) != NULL) {
		floor = score(t, n, !check);
		if (!agrees(t, n, check) || !may_go(n, check))
			continue;
		if (check || n->check)
			t->stats.checks_evicted++;
		if (check) {
			drop_check(t, n);
		} else {
			t->stats.blocks_evicted++;
			drop_node(t, n);
		}
		return true;
	}
	return false;
}

int32_t tree_spare(const struct tree *t)
{
	int32_t n = 0;

	for (int32_t i = 0; i < t->n_node; i++)
		n += t->node[i]->block->refs == 1;
	return n;
}

/* ------------------------------------------------------------------ opening */

enum status tree_open(struct tree **out, struct kv_pool *pool, struct tree_key fingerprint, struct err *err)
{
	struct tree *t = mem_zero(sizeof *t);

	*out = NULL;
	if (t) {
		t->pool = pool;
		t->fingerprint = fingerprint;
		t->n_bucket = 64;
		t->room = 64;
		t->bucket = mem_array(t->n_bucket, sizeof(struct node *));
		t->node = mem_array((size_t)t->room, sizeof(struct node *));
	}
	if (!t || !t->bucket || !t->node) {
		if (t) {
			mem_free(t->bucket);
			mem_free(t->node);
		}
		mem_free(t);
		return err_set(err, ERR_MEMORY, "no memory for the prefix tree");
	}
	pool->reclaim = let_go;
	pool->reclaim_ctx = t;
	*out = t;
	return OK;
}

void tree_clear(struct tree *t)
{
	while (let_go(t, false))
		;
	while (let_go(t, true))
		;
}

void tree_close(struct tree *t)
{
	if (!t)
		return;
	for (int32_t i = 0; i < t->n_node; i++)
		t->node[i]->parent = NULL;	/* they go in any order */
	while (t->n_node)
		drop_node(t, t->node[t->n_node - 1]);
	t->pool->reclaim = NULL;
	mem_free(t->bucket);
	mem_free(t->node);
	mem_free(t);
}

void tree_set_tier(struct tree *t, const struct tree_tier *tier)
{
	t->tier = tier ? *tier : (struct tree_tier){0};
}

bool tree_poll(struct tree *t)
{
	return t->tier.poll && t->tier.poll(t->tier.ctx);
}

/* ------------------------------------------------------------------ publishing */

static void publish_checks(struct tree *t, struct kv *kv)
{
	for (int32_t i = 0; i < kv->n_check; i++) {
		struct node *n = kv->block[kv->check[i].pos / GEOM_BLOCK - 1]->node;

		if (!n)
			continue;
		if (!n->check) {
			set_check(t, n, kv->check[i].tail);
		} else if (n->check != kv->check[i].tail) {	/* the same bytes twice */
			n->check->refs++;
			kv_tail_drop(t->pool, kv->check[i].tail);
			kv->check[i].tail = n->check;
		}
	}
}

void tree_publish(struct tree *t, struct kv *kv, const int32_t *token)
{
	int32_t full = kv->len / GEOM_BLOCK, i = full;
	struct node *parent = NULL;

	while (i > 0 && !kv->block[i - 1]->node)
		i--;
	if (i > 0)
		parent = kv->block[i - 1]->node;
	for (; i < full; i++) {
		const int32_t *own = token + (size_t)i * GEOM_BLOCK;
		struct tree_key key = tree_key_next(parent ? parent->key : t->fingerprint, own);
		struct node *n = child_of(t, parent, key, own);

		if (n) {
			n->used = ++t->clock;
			kv_swap_block(kv, i, n->block);
		} else {
			n = add_node(t, parent, key, own, kv->block[i]);
			if (!n)
				break;
			tell_added(t, n, false);
		}
		parent = n;
	}
	publish_checks(t, kv);
}

void tree_forget(struct tree *t, struct kv *kv, int32_t pos)
{
	int32_t i = pos / GEOM_BLOCK - 1;
	struct node *n = i >= 0 && i < kv->dev.n_block ? kv->block[i]->node : NULL;

	if (n && n->hits == 0)
		drop_check(t, n);
}

/* ------------------------------------------------------------------ finding and taking */

/* The deepest node with a checkpoint on the way of token[0..n), and in *last the deepest node at all. */
static struct node *descend(const struct tree *t, const int32_t *token, int32_t n, struct node **last)
{
	struct node *usable = NULL, *at = NULL;

	for (int32_t i = 0; i < n / GEOM_BLOCK; i++) {
		const int32_t *own = token + (size_t)i * GEOM_BLOCK;
		struct node *next = child_of(t, at, tree_key_next(at ? at->key : t->fingerprint, own), own);

		if (!next)
			break;
		at = next;
		if (at->check)
			usable = at;
	}
	*last = at;
	return usable;
}

struct tree_match tree_find(const struct tree *t, const int32_t *token, int32_t n)
{
	struct node *last, *usable = descend(t, token, n, &last);
	struct tree_match m = {.usable = usable ? usable->depth * GEOM_BLOCK : 0,
			       .known = last ? last->depth * GEOM_BLOCK : 0};

	for (; usable; usable = usable->parent)
		m.in_use += usable->block->refs > 1;
	return m;
}

/* Enters loaded blocks from..to-1 below `at`; the last one gets the checkpoint.  NULL when memory ran out. */
static struct node *enter_loaded(struct tree *t, struct node *at, const int32_t *token, const struct tree_key *key,
				 int32_t from, int32_t to, struct kv_block *const *block, struct kv_tail *check)
{
	for (int32_t i = from; i < to; i++) {
		const int32_t *own = token + (size_t)i * GEOM_BLOCK;

		at = add_node(t, at, key[i], own, block[i - from]);
		if (!at)
			return NULL;
		t->stats.loaded++;
	}
	if (!at->check) {
		check->refs++;
		at->check = check;
		t->stats.checks++;
	}
	return at;
}

/* Fetches blocks from..to-1 from the tier.  Temporary references keep what is being built from being let go. */
static struct node *fetch(struct tree *t, struct node *at, const int32_t *token, const struct tree_key *key,
			  int32_t from, int32_t to)
{
	struct kv_block **block = mem_array((size_t)(to - from) + 1, sizeof(struct kv_block *));
	struct kv_tail *check = block ? kv_check_new(t->pool, NULL) : NULL;
	struct node *got = NULL;
	int32_t n = 0;

	if (at)
		at->block->refs++;	/* and all before it: a parent is no leaf */
	while (check && n < to - from && (block[n] = kv_block_new(t->pool, NULL)) != NULL)
		n++;
	if (check && n == to - from && t->tier.load(t->tier.ctx, key, from, to, block, check, NULL) == OK)
		got = enter_loaded(t, at, token, key, from, to, block, check);
	for (int32_t i = 0; i < n; i++)
		kv_block_drop(t->pool, block[i]);
	if (at)
		kv_block_drop(t->pool, at->block);
	kv_tail_drop(t->pool, check);
	mem_free(block);
	return got;
}

/* What the tier can add to the first `n` tokens, entered into the tree; `have` when that is nothing. */
static struct node *from_tier(struct tree *t, const int32_t *token, int32_t n, struct node *have, struct node *last)
{
	int32_t blocks = n / GEOM_BLOCK, first = have ? have->depth : 0, known = last ? last->depth : 0, to;
	struct tree_key *key, at = t->fingerprint;
	struct node *got = NULL;

	if (!t->tier.find || !t->tier.load || blocks <= first)
		return have;
	key = mem_array((size_t)blocks, sizeof *key);
	if (!key)
		return have;
	for (int32_t i = 0; i < blocks; i++)
		key[i] = at = tree_key_next(at, token + (size_t)i * GEOM_BLOCK);
	/* What cannot be loaded is not found again: then the next best. */
	for (int tries = 0; !got && tries < TIER_TRIES; tries++) {
		to = t->tier.find(t->tier.ctx, key, token, blocks, first);
		if (to <= first || to > blocks)
			break;
		for (; last && last->depth > to; last = last->parent)
			known--;
		if (have)
			have->check->refs++;	/* must outlive the search for room */
		got = fetch(t, last, token, key, known, to);
		if (have)
			kv_tail_drop(t->pool, have->check);
	}
	mem_free(key);
	return got ? got : have;
}

enum status tree_take(struct tree *t, struct kv *kv, const int32_t *token, int32_t n, struct err *err)
{
	struct node *last, *from = descend(t, token, n, &last);
	struct kv_block **block;
	enum status st;

	from = from_tier(t, token, n, from, last);
	if (!from || from->depth * GEOM_BLOCK <= kv->len) {
		t->stats.misses += !from;
		return OK;
	}
	block = mem_array((size_t)from->depth, sizeof(struct kv_block *));
	if (!block)
		return err_set(err, ERR_MEMORY, "no memory for a list of %d KV blocks", from->depth);
	t->clock++;
	for (struct node *n_ = from; n_; n_ = n_->parent) {
		block[n_->depth - 1] = n_->block;
		n_->used = t->clock;
	}
	st = kv_restore(kv, block, from->depth, from->check, err);
	mem_free(block);
	if (st != OK)
		return st;
	from->hits++;
	t->stats.hits++;
	t->stats.tokens_saved += (uint64_t)kv->len;
	if (t->tier.taken) {
		struct tree_item item = item_of(t, from);

		t->tier.taken(t->tier.ctx, &item);
	}
	return OK;
}

/* ------------------------------------------------------------------ looking */

void tree_stats(const struct tree *t, struct tree_stats *out)
{
	*out = t->stats;
	out->blocks = t->n_node;
}

bool tree_get(const struct tree *t, struct tree_key key, struct tree_item *out)
{
	const struct node *n = t->bucket[key.low & (t->n_bucket - 1)];

	while (n && (n->key.low != key.low || n->key.high != key.high))
		n = n->next;
	if (n)
		*out = item_of(t, n);
	return n != NULL;
}

void tree_each(const struct tree *t, void (*fn)(void *ctx, const struct tree_item *item), void *ctx)
{
	for (int32_t i = 0; i < t->n_node; i++) {
		struct tree_item item = item_of(t, t->node[i]);

		fn(ctx, &item);
	}
}
