/* tier.c - the store as the prefix tree's second place: what is copied when, what is found.
 *
 * What  The callbacks of struct tree_tier, and flush and poll, which are made of the same parts.
 * Why   Blocks are small and never change: each is copied as soon as it is full.  Checkpoints are ten times as large, and
 *       a conversation that grows leaves one at every block: on disk it gets one every check_every tokens, and one at
 *       its end.
 * How   A copy is made on the engine's thread, because that is who may ask the backend for one; the writer's thread gets
 *       only copies.  So nothing here holds a reference and nothing keeps memory from being let go.  Whether a
 *       checkpoint is the end of a conversation is known only later: it waits in `pending` and is looked up in the tree
 *       again when it is due; what memory lets go of meanwhile is copied then.
 * Careful
 *       - Copies that wait are bounded: when the disk cannot keep up, blocks are skipped, and offered again when memory
 *         lets go of them or at the next flush.
 *       - A device may fail while it copies: then the copy is not used. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kvstore/kvstore_int.h"

static uint64_t section_bytes(const struct kvstore *ks, enum kvfile_kind kind)
{
	const struct kv_layout *l = ks->pool->layout;

	return kind == KVFILE_BLOCK ? l->block_bytes : l->check_bytes;
}

/* ------------------------------------------------------------------ offering */

/* Locked.  Host copy of a block or checkpoint; NULL without memory or when the device failed. */
static uint8_t *copy_of(struct kvstore *ks, const struct tree_item *item, enum kvfile_kind kind)
{
	struct backend *be = ks->pool->be;
	uint64_t bytes = section_bytes(ks, kind);
	uint8_t *copy = mem_alloc((size_t)bytes);

	if (!copy)
		return NULL;
	be->download(be, copy, kind == KVFILE_BLOCK ? item->block->device : item->check->device, (size_t)bytes);
	if (__atomic_load_n(&be->failing, __ATOMIC_ACQUIRE)) {
		mem_free(copy);
		return NULL;
	}
	return copy;
}

static bool stored(const struct kvstore *ks, struct tree_key key, enum kvfile_kind kind)
{
	const struct entry *e = index_get(&ks->index, key);

	return e && (e->banned || e->part[kind].place != PLACE_NONE);
}

/* Locked.  Queues a copy unless it is there already.  False: not now. */
static bool offer(struct kvstore *ks, const struct tree_item *item, enum kvfile_kind kind)
{
	uint64_t bytes = section_bytes(ks, kind);
	struct entry *e = index_get(&ks->index, item->key);
	struct job *j;
	uint8_t *copy;

	if (e && (e->banned || e->part[kind].place != PLACE_NONE))
		return true;
	if (!ks->writes || ks->rest_until > clock_seconds() || (ks->queued_bytes && ks->queued_bytes + bytes > ks->staging)) {
		ks->stats.skipped += ks->writes;
		return false;
	}
	j = mem_zero(sizeof *j);
	copy = j ? copy_of(ks, item, kind) : NULL;
	if (copy && !e)
		e = index_add(&ks->index, item->key, item->before, ks->fingerprint, item->end, item->token);
	if (!copy || !e) {
		mem_free(copy);
		mem_free(j);
		ks->stats.skipped++;
		return false;
	}
	if (!e->created) {
		e->used = store_now();
		e->created = (uint64_t)e->used;
	}
	index_hold(&ks->index, e, kind, copy, bytes);
	*j = (struct job){.key = item->key, .kind = kind, .since = clock_seconds(),
			  .bytes = {section_bytes(ks, KVFILE_BLOCK), section_bytes(ks, KVFILE_CHECK)}};
	*ks->last = j;
	ks->last = &j->next;
	ks->queued_bytes += bytes;
	ks->stats.queued++;
	pthread_cond_signal(&ks->work);
	return true;
}

/* Locked.  The item's blocks as far as they are missing, and its checkpoint. */
static bool offer_all(struct kvstore *ks, const struct tree_item *item)
{
	struct tree_item up = *item;
	bool all = true;

	while (!stored(ks, up.key, KVFILE_BLOCK)) {
		all = offer(ks, &up, KVFILE_BLOCK) && all;
		if (!all || up.end == GEOM_BLOCK || !tree_get(ks->tree, up.before, &up))
			break;
	}
	return (!item->check || offer(ks, item, KVFILE_CHECK)) && all;
}

/* Locked.  Is there no checkpoint within check_every tokens before it? */
static bool far_from_others(const struct kvstore *ks, const struct tree_item *item)
{
	struct tree_key at = item->before;
	int32_t end = item->end - GEOM_BLOCK;

	for (; end > 0 && item->end - end < ks->opt.check_every; end -= GEOM_BLOCK) {
		const struct entry *e = index_get(&ks->index, at);

		if (!e)
			return true;
		if (e->part[KVFILE_CHECK].place != PLACE_NONE)
			return false;
		at = e->before;
	}
	return item->end - end >= ks->opt.check_every;
}

/* ------------------------------------------------------------------ checkpoints that wait */

static void add_pending(struct kvstore *ks, struct tree_key key)
{
	if (ks->n_pending == PENDING_MAX) {		/* the oldest is hardly an end any more */
		ks->pending_head = (ks->pending_head + 1) % PENDING_MAX;
		ks->n_pending--;
	}
	ks->pending[(ks->pending_head + ks->n_pending++) % PENDING_MAX] =
		(struct pending){.key = key, .due = clock_seconds() + ks->opt.settle};
}

/* Takes it out of the list; false: it was not there. */
static bool take_pending(struct kvstore *ks, struct tree_key key)
{
	for (int32_t i = 0; i < ks->n_pending; i++) {
		struct pending *p = &ks->pending[(ks->pending_head + i) % PENDING_MAX];

		if (key_is(p->key, key)) {
			*p = ks->pending[ks->pending_head];	/* the due times stay nearly in order */
			ks->pending_head = (ks->pending_head + 1) % PENDING_MAX;
			ks->n_pending--;
			return true;
		}
	}
	return false;
}

bool kvstore_poll(struct kvstore *ks)
{
	double now = clock_seconds();

	if (ks->n_warning)	/* a glance without the lock may miss one: the next poll sees it */
		store_tell(ks);
	while (ks->tree && ks->n_pending && ks->pending[ks->pending_head].due <= now) {
		struct tree_key key = ks->pending[ks->pending_head].key;
		struct tree_item item;

		ks->pending_head = (ks->pending_head + 1) % PENDING_MAX;
		ks->n_pending--;
		if (!tree_get(ks->tree, key, &item) || !item.check || item.children)
			continue;
		store_lock(ks);
		offer_all(ks, &item);
		store_unlock(ks);
	}
	return ks->n_pending > 0;
}

/* ------------------------------------------------------------------ the tree's calls */

static void on_added(void *ctx, const struct tree_item *item, bool check)
{
	struct kvstore *ks = ctx;

	if (!ks->writes)
		return;
	store_lock(ks);
	if (!check)
		offer(ks, item, KVFILE_BLOCK);
	else if (far_from_others(ks, item))
		offer_all(ks, item);
	else if (!stored(ks, item->key, KVFILE_CHECK))
		add_pending(ks, item->key);
	store_unlock(ks);
}

static bool on_leaving(void *ctx, const struct tree_item *item, bool block)
{
	struct kvstore *ks = ctx;

	if (!ks->writes)
		return true;
	store_lock(ks);
	if (item->check && (take_pending(ks, item->key) || far_from_others(ks, item)))
		offer_all(ks, item);
	else if (block)
		offer(ks, item, KVFILE_BLOCK);
	store_unlock(ks);
	return true;
}

static void on_taken(void *ctx, const struct tree_item *item)
{
	struct kvstore *ks = ctx;
	struct tree_key at = item->key;
	double now = store_now();

	store_lock(ks);
	for (int32_t end = item->end; end > 0; end -= GEOM_BLOCK) {
		struct entry *e = index_get(&ks->index, at);

		if (!e)
			break;
		e->hits += e->hits < UINT32_MAX;
		e->used = now;
		at = e->before;
	}
	ks->uses_changed = true;
	store_unlock(ks);
}

/* Locked.  Is it there, and of the size that the attached tree's has? */
static bool fits(const struct kvstore *ks, const struct entry *e, enum kvfile_kind kind)
{
	return e->part[kind].place != PLACE_NONE && (!ks->pool || e->part[kind].bytes == section_bytes(ks, kind));
}

/* Locked. */
static int32_t find(struct kvstore *ks, struct tree_key before, const struct tree_key *key, const int32_t *token, int32_t n,
		    int32_t have)
{
	int32_t best = 0;

	for (int32_t i = have; i < n; i++) {
		const struct entry *e = index_get(&ks->index, key[i]);

		if (!e || !fits(ks, e, KVFILE_BLOCK) || e->end != (i + 1) * GEOM_BLOCK ||
		    !key_is(e->before, i ? key[i - 1] : before) ||
		    memcmp(e->token, token + (size_t)i * GEOM_BLOCK, sizeof e->token) != 0)
			break;
		if (fits(ks, e, KVFILE_CHECK))
			best = i + 1;
	}
	return best;
}

int32_t kvstore_find(struct kvstore *ks, struct tree_key fingerprint, const int32_t *token, int32_t n)
{
	int32_t blocks = n / GEOM_BLOCK, best;
	struct tree_key at = fingerprint, *key = mem_array((size_t)blocks + 1, sizeof *key);

	if (!key)
		return 0;
	for (int32_t i = 0; i < blocks; i++)
		key[i] = at = tree_key_next(at, token + (size_t)i * GEOM_BLOCK);
	store_lock(ks);
	best = find(ks, fingerprint, key, token, blocks, 0);
	store_unlock(ks);
	mem_free(key);
	return best * GEOM_BLOCK;
}

/* ------------------------------------------------------------------ loading */

/* Locked.  Prepares the read of one section (and pins its file), or takes it from the copy that waits to be written.  to
 * NULL: only asks. */
static enum status plan(struct kvstore *ks, struct tree_key key, enum kvfile_kind kind, void *to, struct load_job *job,
			int32_t *n, struct err *err)
{
	struct entry *e = index_get(&ks->index, key);
	struct section *s = e ? &e->part[kind] : NULL;

	if (!s || s->place == PLACE_NONE)
		return err_set(err, ERR_NOT_FOUND, "a stored block is not there any more");
	if (s->bytes != section_bytes(ks, kind))
		return err_set(err, ERR_FORMAT, "a stored block has %llu bytes, expected %llu", (unsigned long long)s->bytes,
			       (unsigned long long)section_bytes(ks, kind));
	if (s->place != PLACE_FILE) {
		if (to)
			ks->pool->be->upload(ks->pool->be, to, s->copy, (size_t)s->bytes);
		return OK;
	}
	s->file->pins++;
	job[(*n)++] = (struct load_job){.key = key, .kind = kind, .file = s->file, .offset = s->offset, .bytes = s->bytes,
					.sum = s->sum, .to = to};
	return OK;
}

/* The disk begins while the tree looks for memory. */
static void begin_load(struct kvstore *ks, const struct tree_key *key, int32_t from, int32_t to)
{
	struct load_job *job = mem_array((size_t)(to - from) + 1, sizeof *job);
	int32_t n = 0;

	if (!job)
		return;
	store_lock(ks);
	for (int32_t i = from; i < to; i++)
		plan(ks, key[i], KVFILE_BLOCK, NULL, job, &n, NULL);
	plan(ks, key[to - 1], KVFILE_CHECK, NULL, job, &n, NULL);
	store_unlock(ks);
	load_ahead(ks, job, n);
	store_lock(ks);
	for (int32_t i = 0; i < n; i++)
		tidy_unpin(ks, job[i].file);
	store_unlock(ks);
	mem_free(job);
}

static int32_t on_find(void *ctx, const struct tree_key *key, const int32_t *token, int32_t n, int32_t have)
{
	struct kvstore *ks = ctx;
	int32_t best;

	store_lock(ks);
	best = find(ks, ks->fingerprint, key, token, n, have);
	store_unlock(ks);
	if (best > have)
		begin_load(ks, key, have, best);
	return best;
}

/* Locked.  What could not be read is not there: the tree asks again and gets what is before it. */
static void finish(struct kvstore *ks, const struct load_job *job, int32_t n)
{
	for (int32_t i = 0; i < n; i++) {
		struct store_file *f = job[i].file;
		struct entry *e = index_get(&ks->index, job[i].key);

		if (job[i].st == OK) {
			ks->stats.loaded++;
			ks->stats.loaded_bytes += job[i].bytes;
		} else {
			ks->stats.damaged += job[i].st == ERR_FORMAT;
			ks->stats.errors += job[i].st != ERR_FORMAT;
			store_warn(ks, job[i].st == ERR_FORMAT ? "damaged" : "read", "%s; the model reads its tokens again",
				   job[i].err.msg);
			if (job[i].st != ERR_MEMORY && e && e->part[job[i].kind].place == PLACE_FILE &&
			    e->part[job[i].kind].file == f && e->part[job[i].kind].offset == job[i].offset)
				index_drop_part(&ks->index, e, job[i].kind);
		}
		tidy_unpin(ks, f);
	}
}

static enum status on_load(void *ctx, const struct tree_key *key, int32_t from, int32_t to, struct kv_block *const *block,
			   struct kv_tail *check, struct err *err)
{
	struct kvstore *ks = ctx;
	struct load_job *job = mem_array((size_t)(to - from) + 1, sizeof *job);
	double start = clock_seconds();
	enum status st = OK, read;
	int32_t n = 0;

	if (!job)
		return err_set(err, ERR_MEMORY, "no memory to load %d stored blocks", to - from);
	store_lock(ks);
	for (int32_t i = from; st == OK && i < to; i++)
		st = plan(ks, key[i], KVFILE_BLOCK, block[i - from]->device, job, &n, err);
	if (st == OK)
		st = plan(ks, key[to - 1], KVFILE_CHECK, check->device, job, &n, err);
	store_unlock(ks);
	if (st == OK)
		load_run(ks, job, n, ks->pool->be);
	read = st;
	for (int32_t i = 0; st == OK && read == OK && i < n; i++)
		if (job[i].st != OK)
			read = err_set(err, job[i].st, "%s", job[i].err.msg);
	store_lock(ks);
	if (st == OK)
		finish(ks, job, n);
	else
		for (int32_t i = 0; i < n; i++)
			tidy_unpin(ks, job[i].file);
	ks->stats.load_us += (uint64_t)(1e6 * (clock_seconds() - start));
	store_unlock(ks);
	mem_free(job);
	return read;
}

/* ------------------------------------------------------------------ attaching, flushing */

static bool on_poll(void *ctx)
{
	return kvstore_poll(ctx);
}

enum status kvstore_attach(struct kvstore *ks, struct tree *tree, struct kv_pool *pool, struct tree_key fingerprint,
			   struct err *err)
{
	struct tree_tier tier = {.ctx = ks, .added = on_added, .leaving = on_leaving, .find = on_find, .load = on_load,
				 .taken = on_taken, .poll = on_poll};

	if (ks->tree)
		return err_set(err, ERR_ARGUMENT, "kv store: expected none, it has a prefix tree already");
	ks->tree = tree;
	ks->pool = pool;
	ks->fingerprint = fingerprint;
	tree_set_tier(tree, &tier);
	return OK;
}

void kvstore_detach(struct kvstore *ks)
{
	if (ks->tree)
		tree_set_tier(ks->tree, NULL);
	ks->tree = NULL;
	ks->pool = NULL;
	ks->n_pending = 0;
}

struct node_list {
	struct place_in_tree {
		int32_t end;
		struct tree_key key;
	} *node;
	int32_t n, room;
};

static void list_node(void *ctx, const struct tree_item *item)
{
	struct node_list *l = ctx;

	if (l->n < l->room)
		l->node[l->n++] = (struct place_in_tree){item->end, item->key};
}

static void count_node(void *ctx, const struct tree_item *item)
{
	(void)item;
	++*(int32_t *)ctx;
}

static int by_end(const void *a, const void *b)
{
	int32_t x = ((const struct place_in_tree *)a)->end, y = ((const struct place_in_tree *)b)->end;

	return (x > y) - (x < y);
}

/* What the tree has and the disk does not, from the beginnings on: a checkpoint's worth depends on those before it. */
static enum status offer_tree(struct kvstore *ks, struct err *err)
{
	struct node_list l = {0};

	tree_each(ks->tree, count_node, &l.room);
	l.node = mem_array((size_t)l.room + 1, sizeof *l.node);
	if (!l.node)
		return err_set(err, ERR_MEMORY, "no memory to list %d blocks", (int)l.room);
	tree_each(ks->tree, list_node, &l);
	qsort(l.node, (size_t)l.n, sizeof *l.node, by_end);
	store_lock(ks);
	for (int32_t i = 0; i < l.n; i++) {
		struct tree_item item;

		if (!tree_get(ks->tree, l.node[i].key, &item))
			continue;
		if (item.check && item.children && !far_from_others(ks, &item))
			item.check = NULL;
		if (!offer_all(ks, &item)) {	/* too many wait: once more when they do not */
			writer_drain(ks);
			offer_all(ks, &item);
		}
	}
	store_unlock(ks);
	mem_free(l.node);
	return OK;
}

enum status kvstore_flush(struct kvstore *ks, struct err *err)
{
	enum status st = OK;
	uint64_t before;

	if (!ks->writes)
		return OK;
	store_lock(ks);
	before = ks->failures;
	ks->rest_until = 0;
	store_unlock(ks);
	if (ks->tree)
		st = offer_tree(ks, err);
	ks->n_pending = 0;
	store_lock(ks);
	writer_drain(ks);
	if (st == OK && ks->failures != before)
		st = err_set(err, ERR_IO, "%s", ks->write_err.msg);
	store_unlock(ks);
	uses_write(ks);
	store_tell(ks);
	return st;
}
