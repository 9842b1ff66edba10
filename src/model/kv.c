/* kv.c - blocks, tails and checkpoints; kv.h has the invariants.
 *
 * Careful
 *       - A full block is immutable and may be shared.  A timeline that moves back to a checkpoint drops its
 *         references to later blocks and gets fresh ones when it goes on: it never writes a block it shares.
 *       - Checkpoints stand only at block boundaries, where the ratio-128 frontier is empty and nothing of the last
 *         block is missing. */
#include "model/kv.h"

#include <string.h>

#include "base/mem.h"

/* A copy of a tail; shared by the timelines that forked after it was made. */
struct kv_tail {
	uint8_t *device;
	int32_t refs;
};

static size_t align64(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

void kv_layout_make(struct kv_layout *out, const struct shape *s, const struct backend *be)
{
	memset(out, 0, sizeof *out);
	out->n_layer = s->n_layer;
	for (int32_t i = 0; i < s->n_layer; i++) {
		struct kv_layer *l = &out->layer[i];
		size_t slots = (size_t)geom_frontier_slots(s->ratio[i]);

		l->ratio = s->ratio[i];
		l->window = s->window;
		l->block_rows = out->block_bytes;
		out->block_bytes += align64((size_t)geom_rows_per_block(l->ratio) * be->row_bytes);
		l->block_keys = out->block_bytes;
		if (l->ratio == 4)
			out->block_bytes += align64((size_t)geom_rows_per_block(4) * be->key_bytes);
		l->tail_ring = out->tail_bytes;
		out->tail_bytes += align64((size_t)l->window * be->row_bytes);
		l->tail_front = out->tail_bytes;
		out->tail_bytes += align64(2 * slots * (size_t)geom_pool_width(GEOM_HEAD, l->ratio) * be->real_bytes);
		l->tail_front_key = out->tail_bytes;
		if (l->ratio == 4)
			out->tail_bytes += align64(2 * slots * (size_t)geom_pool_width(GEOM_KEY, 4) * be->real_bytes);
	}
}

/* ------------------------------------------------------------------ blocks */

void kv_pool_init(struct kv_pool *p, struct backend *be, const struct kv_layout *layout, int32_t limit)
{
	*p = (struct kv_pool){.be = be, .layout = layout, .limit = limit};
}

void kv_pool_clear(struct kv_pool *p)
{
	while (p->free) {
		struct kv_block *b = p->free;

		p->free = b->next_free;
		p->be->release(p->be, b->device);
		mem_free(b);
	}
	memset(p, 0, sizeof *p);
}

static enum status block_get(struct kv_block **out, struct kv_pool *p, struct err *err)
{
	struct kv_block *b = p->free;

	if (p->live >= p->limit)
		return err_set(err, ERR_LIMIT, "KV memory is full: %d of %d blocks of 128 tokens are in use", p->live,
			       p->limit);
	if (b) {
		p->free = b->next_free;
	} else {
		b = mem_zero(sizeof *b);
		if (b)
			b->device = p->be->alloc(p->be, p->layout->block_bytes);
		if (!b || !b->device) {
			mem_free(b);
			return err_set(err, ERR_MEMORY, "no memory for a KV block of %zu bytes", p->layout->block_bytes);
		}
	}
	b->refs = 1;
	p->live++;
	*out = b;
	return OK;
}

static void block_put(struct kv_pool *p, struct kv_block *b)
{
	if (--b->refs)
		return;
	b->next_free = p->free;
	p->free = b;
	p->live--;
}

/* Drops blocks n.. of a timeline. */
static void drop_blocks(struct kv *kv, int32_t n)
{
	while (kv->dev.n_block > n)
		block_put(kv->pool, kv->block[--kv->dev.n_block]);
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

enum status kv_reserve(struct kv *kv, int32_t end, struct err *err)
{
	int32_t before = kv->dev.n_block, n = (end + GEOM_BLOCK - 1) / GEOM_BLOCK;

	if (!grow_lists(kv, n))
		return err_set(err, ERR_MEMORY, "no memory for a list of %d KV blocks", n);
	while (kv->dev.n_block < n) {
		struct kv_block *b = NULL;
		enum status st = block_get(&b, kv->pool, err);

		if (st != OK) {
			drop_blocks(kv, before);
			return st;
		}
		append_block(kv, b);
	}
	return OK;
}

/* ------------------------------------------------------------------ timelines */

enum status kv_open(struct kv **out, struct kv_pool *pool, int32_t max_check, struct err *err)
{
	struct kv *kv = mem_zero(sizeof *kv);

	*out = NULL;
	if (kv) {
		kv->pool = pool;
		kv->max_check = max_check < 2 ? 2 : max_check;
		kv->check = mem_array((size_t)kv->max_check, sizeof *kv->check);
		kv->dev.tail = pool->be->alloc(pool->be, pool->layout->tail_bytes);
	}
	if (!kv || !kv->check || !kv->dev.tail) {
		kv_close(kv);
		return err_set(err, ERR_MEMORY, "no memory for a timeline's tail of %zu bytes", pool->layout->tail_bytes);
	}
	*out = kv;
	return OK;
}

static void tail_put(struct kv *kv, struct kv_tail *t)
{
	if (--t->refs)
		return;
	kv->pool->be->release(kv->pool->be, t->device);
	mem_free(t);
}

static void drop_checkpoint(struct kv *kv, int32_t i)
{
	tail_put(kv, kv->check[i].tail);
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
	if (kv->dev.tail)
		kv->pool->be->release(kv->pool->be, kv->dev.tail);
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
	t = mem_zero(sizeof *t);
	if (!t)
		return;
	t->device = be->alloc(be, kv->pool->layout->tail_bytes);
	if (!t->device) {
		mem_free(t);
		return;
	}
	t->refs = 1;
	be->copy(be, t->device, kv->dev.tail, kv->pool->layout->tail_bytes);
	kv->check[kv->n_check++] = (struct kv_checkpoint){.pos = kv->len, .tail = t};
}

int32_t kv_nearest(const struct kv *kv, int32_t pos)
{
	int32_t best = 0;

	for (int32_t i = 0; i < kv->n_check && kv->check[i].pos <= pos; i++)
		best = kv->check[i].pos;
	return best;
}

int32_t kv_rewind(struct kv *kv, int32_t pos)
{
	struct backend *be = kv->pool->be;
	int32_t to = kv_nearest(kv, pos);

	while (kv->n_check && kv->check[kv->n_check - 1].pos > to)
		drop_checkpoint(kv, kv->n_check - 1);
	if (to)
		be->copy(be, kv->dev.tail, kv->check[kv->n_check - 1].tail->device, kv->pool->layout->tail_bytes);
	drop_blocks(kv, to / GEOM_BLOCK);
	kv->len = to;
	return to;
}

enum status kv_fork(struct kv **out, const struct kv *from, struct err *err)
{
	struct backend *be = from->pool->be;
	int32_t full = from->len / GEOM_BLOCK;
	enum status st;
	struct kv *kv;

	TRY(kv_open(&kv, from->pool, from->max_check, err));
	*out = NULL;
	if (!grow_lists(kv, full + 1)) {
		kv_close(kv);
		return err_set(err, ERR_MEMORY, "no memory for a list of %d KV blocks", full + 1);
	}
	for (int32_t i = 0; i < full; i++) {
		from->block[i]->refs++;
		append_block(kv, from->block[i]);
	}
	kv->len = from->len;
	if (kv->len % GEOM_BLOCK) {
		st = kv_reserve(kv, kv->len, err);
		if (st != OK) {
			kv_close(kv);
			return st;
		}
		be->copy(be, kv->dev.block[full], from->dev.block[full], from->pool->layout->block_bytes);
	}
	be->copy(be, kv->dev.tail, from->dev.tail, from->pool->layout->tail_bytes);
	for (int32_t i = 0; i < from->n_check; i++) {
		kv->check[i] = from->check[i];
		kv->check[i].tail->refs++;
	}
	kv->n_check = from->n_check;
	*out = kv;
	return OK;
}
