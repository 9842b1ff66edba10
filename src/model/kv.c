/* kv.c - blocks, tails and checkpoints; kv.h has the invariants.
 *
 * Careful
 *       - A full block is immutable and may be shared.  A timeline that moves back to a checkpoint drops its
 *         references to later blocks and gets fresh ones when it goes on: it never writes a block it shares.
 *       - Checkpoints stand only at block boundaries, where the ratio-128 frontier is empty and nothing of the last
 *         block is missing.  These frontiers (two thirds of a tail) are laid out last and not copied; a slot is
 *         always written before it is read.
 *       - A timeline's tail may be missing or shared between kv_rewind, kv_restore or kv_fork and the next
 *         kv_reserve. */
#include "model/kv.h"

#include <string.h>

#include "base/mem.h"

static size_t align64(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

static size_t frontier_bytes(const struct backend *be, int32_t width, int32_t ratio)
{
	size_t slots = (size_t)geom_frontier_slots(ratio);

	return align64(2 * slots * (size_t)geom_pool_width(width, ratio) * be->real_bytes);
}

void kv_layout_make(struct kv_layout *out, const struct shape *s, const struct backend *be)
{
	memset(out, 0, sizeof *out);
	out->n_layer = s->n_layer;
	for (int32_t i = 0; i < s->n_layer; i++) {
		struct kv_layer *l = &out->layer[i];

		l->ratio = s->ratio[i];
		l->window = s->window;
		l->block_rows = out->block_bytes;
		out->block_bytes += align64((size_t)geom_rows_per_block(l->ratio) * be->row_bytes);
		l->block_keys = out->block_bytes;
		if (l->ratio == 4)
			out->block_bytes += align64((size_t)geom_rows_per_block(4) * be->key_bytes);
		l->tail_ring = out->tail_bytes;
		out->tail_bytes += align64((size_t)l->window * be->row_bytes);
		if (l->ratio != 4)
			continue;
		l->tail_front = out->tail_bytes;
		out->tail_bytes += frontier_bytes(be, GEOM_HEAD, 4);
		l->tail_front_key = out->tail_bytes;
		out->tail_bytes += frontier_bytes(be, GEOM_KEY, 4);
	}
	out->check_bytes = out->tail_bytes;
	for (int32_t i = 0; i < s->n_layer; i++) {
		if (s->ratio[i] == 4)
			continue;
		out->layer[i].tail_front = out->layer[i].tail_front_key = out->tail_bytes;
		out->tail_bytes += frontier_bytes(be, GEOM_HEAD, s->ratio[i]);
	}
}

/* ------------------------------------------------------------------ blocks */

void kv_pool_init(struct kv_pool *p, struct backend *be, const struct kv_layout *layout, int32_t limit)
{
	*p = (struct kv_pool){.be = be, .layout = layout, .limit = limit, .check_limit = INT32_MAX};
}

void kv_pool_clear(struct kv_pool *p)
{
	while (p->free) {
		struct kv_block *b = p->free;

		p->free = b->next_free;
		p->be->release(p->be, b->device);
		mem_free(b);
	}
	while (p->free_check) {
		struct kv_tail *t = p->free_check;

		p->free_check = t->next_free;
		p->be->release(p->be, t->device);
		mem_free(t);
	}
	memset(p, 0, sizeof *p);
}

static bool reclaim(struct kv_pool *p, bool check)
{
	return p->reclaim && p->reclaim(p->reclaim_ctx, check);
}

/* Device memory outside the free list. */
static struct kv_block *block_alloc(struct kv_pool *p)
{
	struct kv_block *b = mem_zero(sizeof *b);

	if (b)
		b->device = p->be->alloc(p->be, p->layout->block_bytes);
	if (b && !b->device) {
		mem_free(b);
		return NULL;
	}
	return b;
}

struct kv_block *kv_block_new(struct kv_pool *p, struct err *err)
{
	struct kv_block *b;

	if (p->live >= p->limit && !reclaim(p, false)) {
		err_set(err, ERR_LIMIT, "KV memory is full: %d of %d blocks of 128 tokens are in use", p->live, p->limit);
		return NULL;
	}
	if (!p->free) {
		b = block_alloc(p);
		if (!b && !reclaim(p, false)) {
			err_set(err, ERR_MEMORY, "no memory for a KV block of %zu bytes", p->layout->block_bytes);
			return NULL;
		}
		if (b)
			b->next_free = NULL;
		p->free = b ? b : p->free;
	}
	b = p->free;
	p->free = b->next_free;
	b->refs = 1;
	b->node = NULL;
	p->live++;
	return b;
}

void kv_block_drop(struct kv_pool *p, struct kv_block *b)
{
	if (--b->refs)
		return;
	b->next_free = p->free;
	p->free = b;
	p->live--;
}

/* ------------------------------------------------------------------ tails */

static struct kv_tail *tail_alloc(struct kv_pool *p, size_t bytes)
{
	struct kv_tail *t = mem_zero(sizeof *t);

	if (t)
		t->device = p->be->alloc(p->be, bytes);
	if (t && !t->device) {
		mem_free(t);
		return NULL;
	}
	if (t)
		t->refs = 1;
	return t;
}

static struct kv_tail *tail_new(struct kv_pool *p, struct err *err)
{
	struct kv_tail *t = tail_alloc(p, p->layout->tail_bytes);

	if (!t)
		err_set(err, ERR_MEMORY, "no memory for a timeline's tail of %zu bytes", p->layout->tail_bytes);
	return t;
}

struct kv_tail *kv_check_new(struct kv_pool *p, struct err *err)
{
	struct kv_tail *t;

	if (p->live_check >= p->check_limit && !reclaim(p, true)) {
		err_set(err, ERR_LIMIT, "memory for checkpoints is full: %d of %d are in use", p->live_check,
			p->check_limit);
		return NULL;
	}
	t = p->free_check;
	if (t) {
		p->free_check = t->next_free;
	} else {
		t = tail_alloc(p, p->layout->check_bytes);
		if (!t) {
			err_set(err, ERR_MEMORY, "no memory for a checkpoint of %zu bytes", p->layout->check_bytes);
			return NULL;
		}
	}
	t->refs = 1;
	t->check = true;
	p->live_check++;
	return t;
}

void kv_tail_drop(struct kv_pool *p, struct kv_tail *t)
{
	if (!t || --t->refs)
		return;
	if (t->check) {
		t->next_free = p->free_check;
		p->free_check = t;
		p->live_check--;
		return;
	}
	p->be->release(p->be, t->device);
	mem_free(t);
}

/* ------------------------------------------------------------------ a timeline's own memory */

/* Drops blocks n.. of a timeline. */
static void drop_blocks(struct kv *kv, int32_t n)
{
	while (kv->dev.n_block > n)
		kv_block_drop(kv->pool, kv->block[--kv->dev.n_block]);
}

static bool grow_lists(struct kv *kv, int32_t n)
{
	int32_t room = kv->room ? kv->room : 16;
	void *p;

	if (n <= kv->room)
		return true;
	while (room < n)
		room *= 2;
	p = mem_grow(kv->block, (size_t)room, sizeof *kv->block);
	if (!p)
		return false;
	kv->block = p;
	p = mem_grow(kv->dev.block, (size_t)room, sizeof *kv->dev.block);
	if (!p)
		return false;
	kv->dev.block = p;
	kv->room = room;
	return true;
}

static void append_block(struct kv *kv, struct kv_block *b)
{
	kv->block[kv->dev.n_block] = b;
	kv->dev.block[kv->dev.n_block++] = b->device;
}

/* The tail that the next step writes: nobody else's, and what the restored checkpoint says. */
static enum status own_tail(struct kv *kv, struct err *err)
{
	struct kv_pool *p = kv->pool;

	if (!kv->tail || kv->tail->refs > 1) {
		struct kv_tail *t = tail_new(p, err);

		if (!t)
			return ERR_MEMORY;
		if (kv->tail && !kv->restore && kv->len)
			p->be->copy(p->be, t->device, kv->tail->device, p->layout->tail_bytes);
		kv_tail_drop(p, kv->tail);
		kv->tail = t;
		kv->dev.tail = t->device;
	}
	if (kv->restore) {
		p->be->copy(p->be, kv->tail->device, kv->restore->device, p->layout->check_bytes);
		kv_tail_drop(p, kv->restore);
		kv->restore = NULL;
	}
	return OK;
}

/* The same for the block that is not full yet. */
static enum status own_block(struct kv *kv, struct err *err)
{
	struct kv_pool *p = kv->pool;
	int32_t i = kv->len / GEOM_BLOCK;
	struct kv_block *b;

	if (i >= kv->dev.n_block || kv->block[i]->refs == 1)
		return OK;
	b = kv_block_new(p, err);
	if (!b)
		return err ? err->code : ERR_MEMORY;
	p->be->copy(p->be, b->device, kv->block[i]->device, p->layout->block_bytes);
	kv_swap_block(kv, i, b);
	kv_block_drop(p, b);
	return OK;
}

enum status kv_reserve(struct kv *kv, int32_t end, struct err *err)
{
	int32_t before = kv->dev.n_block, n = (end + GEOM_BLOCK - 1) / GEOM_BLOCK;

	if (!grow_lists(kv, n))
		return err_set(err, ERR_MEMORY, "no memory for a list of %d KV blocks", n);
	TRY(own_tail(kv, err));
	TRY(own_block(kv, err));
	while (kv->dev.n_block < n) {
		struct kv_block *b = kv_block_new(kv->pool, err);

		if (!b) {
			drop_blocks(kv, before);
			return err ? err->code : ERR_MEMORY;
		}
		append_block(kv, b);
	}
	return OK;
}

void kv_swap_block(struct kv *kv, int32_t i, struct kv_block *b)
{
	struct kv_block *old = kv->block[i];

	b->refs++;
	kv->block[i] = b;
	kv->dev.block[i] = b->device;
	kv_block_drop(kv->pool, old);
}

/* ------------------------------------------------------------------ timelines */

/* Without a tail. */
static struct kv *kv_new(struct kv_pool *pool, int32_t max_check)
{
	struct kv *kv = mem_zero(sizeof *kv);

	if (!kv)
		return NULL;
	kv->pool = pool;
	kv->max_check = max_check < 2 ? 2 : max_check;
	kv->check = mem_array((size_t)kv->max_check, sizeof *kv->check);
	if (!kv->check) {
		kv_close(kv);
		return NULL;
	}
	return kv;
}

enum status kv_open(struct kv **out, struct kv_pool *pool, int32_t max_check, struct err *err)
{
	struct kv *kv = kv_new(pool, max_check);
	enum status st;

	*out = NULL;
	if (!kv)
		return err_set(err, ERR_MEMORY, "no memory for a timeline");
	st = own_tail(kv, err);
	if (st != OK) {
		kv_close(kv);
		return st;
	}
	*out = kv;
	return OK;
}

static void drop_checkpoint(struct kv *kv, int32_t i)
{
	kv_tail_drop(kv->pool, kv->check[i].tail);
	memmove(&kv->check[i], &kv->check[i + 1], (size_t)(kv->n_check - i - 1) * sizeof *kv->check);
	kv->n_check--;
}

void kv_close(struct kv *kv)
{
	if (!kv)
		return;
	while (kv->n_check)
		drop_checkpoint(kv, kv->n_check - 1);
	drop_blocks(kv, 0);
	kv_tail_drop(kv->pool, kv->restore);
	kv_tail_drop(kv->pool, kv->tail);
	mem_free(kv->check);
	mem_free(kv->block);
	mem_free(kv->dev.block);
	mem_free(kv);
}

void kv_advance(struct kv *kv, int32_t n)
{
	kv->len += n;
}

/* ------------------------------------------------------------------ checkpoints */

/* Makes room for one more: drops the checkpoint whose loss adds the least replay, counted against its distance from
 * the end, because most edits are near the end.  The newest stays. */
static void thin(struct kv *kv)
{
	double best = 0;
	int32_t at = -1;

	for (int32_t i = 0; i + 1 < kv->n_check; i++) {
		int32_t before = i ? kv->check[i - 1].pos : 0;
		double cost = (double)(kv->check[i + 1].pos - before) / (kv->len - kv->check[i].pos + GEOM_BLOCK);

		if (at < 0 || cost < best) {
			best = cost;
			at = i;
		}
	}
	drop_checkpoint(kv, at);
}

void kv_checkpoint(struct kv *kv)
{
	struct backend *be = kv->pool->be;
	struct kv_tail *t;

	if (!kv->len || kv->len % GEOM_BLOCK || kv_nearest(kv, kv->len) == kv->len)
		return;
	if (kv->n_check == kv->max_check)
		thin(kv);
	t = kv_check_new(kv->pool, NULL);
	if (!t)
		return;
	be->copy(be, t->device, kv->dev.tail, kv->pool->layout->check_bytes);
	kv->check[kv->n_check++] = (struct kv_checkpoint){.pos = kv->len, .tail = t};
}

int32_t kv_nearest(const struct kv *kv, int32_t pos)
{
	int32_t best = 0;

	for (int32_t i = 0; i < kv->n_check && kv->check[i].pos <= pos; i++)
		best = kv->check[i].pos;
	return best;
}

/* The timeline continues from a checkpoint, or from nothing. */
static void set_restore(struct kv *kv, struct kv_tail *check)
{
	if (check)
		check->refs++;
	kv_tail_drop(kv->pool, kv->restore);
	kv->restore = check;
}

int32_t kv_rewind(struct kv *kv, int32_t pos)
{
	int32_t to = kv_nearest(kv, pos);

	while (kv->n_check && kv->check[kv->n_check - 1].pos > to)
		drop_checkpoint(kv, kv->n_check - 1);
	set_restore(kv, to ? kv->check[kv->n_check - 1].tail : NULL);
	drop_blocks(kv, to / GEOM_BLOCK);
	kv->len = to;
	return to;
}

enum status kv_restore(struct kv *kv, struct kv_block *const *block, int32_t n, struct kv_tail *check, struct err *err)
{
	if (!grow_lists(kv, n))
		return err_set(err, ERR_MEMORY, "no memory for a list of %d KV blocks", n);
	for (int32_t i = 0; i < n; i++)		/* first, in case they are the same */
		block[i]->refs++;
	set_restore(kv, check);
	while (kv->n_check)
		drop_checkpoint(kv, kv->n_check - 1);
	drop_blocks(kv, 0);
	for (int32_t i = 0; i < n; i++)
		append_block(kv, block[i]);
	kv->len = n * GEOM_BLOCK;
	check->refs++;
	kv->check[kv->n_check++] = (struct kv_checkpoint){.pos = kv->len, .tail = check};
	return OK;
}

enum status kv_fork(struct kv **out, const struct kv *from, struct err *err)
{
	int32_t n = (from->len + GEOM_BLOCK - 1) / GEOM_BLOCK;
	struct kv *kv = kv_new(from->pool, from->max_check);

	*out = NULL;
	if (!kv || !grow_lists(kv, n + 1)) {
		kv_close(kv);
		return err_set(err, ERR_MEMORY, "no memory for a fork of a timeline of %d KV blocks", n);
	}
	for (int32_t i = 0; i < n; i++) {
		from->block[i]->refs++;
		append_block(kv, from->block[i]);
	}
	kv->len = from->len;
	kv->tail = from->tail;
	if (kv->tail) {
		kv->tail->refs++;
		kv->dev.tail = kv->tail->device;
	}
	set_restore(kv, from->restore);
	for (int32_t i = 0; i < from->n_check; i++) {
		kv->check[i] = from->check[i];
		kv->check[i].tail->refs++;
	}
	kv->n_check = from->n_check;
	*out = kv;
	return OK;
}
