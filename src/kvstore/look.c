/* look.c - looking at what is stored, removing, collecting, verifying: what `ds4 kv` does.
 *
 * How   The writer is paused while files are changed or read from end to end: then nobody else changes the index, and
 *       the lock is only held where others look.
 * Careful
 *       - What is removed while a tree is attached would be stored again as soon as the tree lets go of it: such keys stay
 *         in the index as banned until the store is closed. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kvstore/kvstore_int.h"

/* ------------------------------------------------------------------ looking */

/* Locked. */
static void show(struct kvstore_entry *out, const struct entry *e)
{
	*out = (struct kvstore_entry){.key = e->key, .before = e->before, .fingerprint = e->fingerprint, .end = e->end,
				      .created = e->created, .used = (uint64_t)e->used, .hits = e->hits, .children = e->children,
				      .usable = e->reach == REACH_YES};
	if (e->part[KVFILE_BLOCK].place != PLACE_NONE)
		out->bytes = e->part[KVFILE_BLOCK].bytes;
	if (e->part[KVFILE_CHECK].place != PLACE_NONE)
		out->check_bytes = e->part[KVFILE_CHECK].bytes;
	memcpy(out->token, e->token, sizeof out->token);
}

bool kvstore_get(struct kvstore *ks, struct tree_key key, struct kvstore_entry *out)
{
	const struct entry *e;

	store_lock(ks);
	index_chains(&ks->index);
	e = index_get(&ks->index, key);
	if (e && e->banned)
		e = NULL;
	if (e)
		show(out, e);
	store_unlock(ks);
	return e != NULL;
}

void kvstore_each(struct kvstore *ks, bool (*fn)(void *ctx, const struct kvstore_entry *e), void *ctx)
{
	struct tree_key *key;
	int32_t n;

	store_lock(ks);
	n = ks->index.n_entry;
	key = mem_array((size_t)n + 1, sizeof *key);
	for (int32_t i = 0; key && i < n; i++)
		key[i] = ks->index.entry[i]->key;
	store_unlock(ks);
	for (int32_t i = 0; key && i < n; i++) {
		struct kvstore_entry e;

		if (kvstore_get(ks, key[i], &e) && !fn(ctx, &e))
			break;
	}
	mem_free(key);
}

/* ------------------------------------------------------------------ removing */

static enum status must_write(const struct kvstore *ks, struct err *err)
{
	if (ks->writes)
		return OK;
	return err_set(err, ERR_IO, "%s: %s", ks->dir, ks->opt.read_only ? "was opened for reading only" :
		       "another process writes here, or this one may not");
}

static int by_length(const void *a, const void *b)
{
	int32_t x = (*(struct entry *const *)a)->end, y = (*(struct entry *const *)b)->end;

	return (x > y) - (x < y);
}

/* Locked.  Marks e and all that goes on from it.  False without memory. */
static bool mark_all_behind(struct index *x, struct entry *e)
{
	struct entry **todo = mem_array((size_t)x->n_entry + 1, sizeof(struct entry *));

	if (!todo)
		return false;
	memcpy(todo, x->entry, (size_t)x->n_entry * sizeof *todo);
	qsort(todo, (size_t)x->n_entry, sizeof *todo, by_length);	/* who comes before is decided first */
	for (int32_t i = 0; i < x->n_entry; i++) {
		const struct entry *up = todo[i]->end > e->end ? index_get(x, todo[i]->before) : NULL;

		todo[i]->mark = todo[i] == e || (up && up->mark);
	}
	mem_free(todo);
	return true;
}

/* Locked. */
static void remove_entry(struct kvstore *ks, struct entry *e)
{
	if (ks->tree && !e->banned) {
		e->banned = true;
		ks->index.n_banned++;
	}
	index_drop_entry(&ks->index, e);
}

/* Locked, the writer paused. */
static enum status remove_marked(struct kvstore *ks, struct tree_key key, bool chain, struct err *err)
{
	struct index *x = &ks->index;
	struct entry *e = index_get(x, key);
	struct tree_key before;
	int32_t end;

	if (!e || e->banned)
		return err_set(err, ERR_NOT_FOUND, "nothing is stored under this key");
	before = e->before;
	end = e->end;
	if (!mark_all_behind(x, e))
		return err_set(err, ERR_MEMORY, "no memory to remove what is stored");
	for (int32_t i = x->n_entry - 1; i >= 0; i--)
		if (x->entry[i]->mark)
			remove_entry(ks, x->entry[i]);
	for (; chain && end > GEOM_BLOCK; end -= GEOM_BLOCK) {
		index_chains(x);
		e = index_get(x, before);
		if (!e || e->children)
			break;
		before = e->before;
		remove_entry(ks, e);
	}
	return OK;
}

enum status kvstore_remove(struct kvstore *ks, struct tree_key key, bool chain, uint64_t *freed, struct err *err)
{
	uint64_t bytes;
	enum status st;

	TRY(must_write(ks, err));
	store_lock(ks);
	writer_drain(ks);
	writer_pause(ks);
	bytes = ks->index.bytes;
	st = remove_marked(ks, key, chain, err);
	if (st == OK)
		tidy_holes(ks, true);
	if (freed)
		*freed = bytes > ks->index.bytes ? bytes - ks->index.bytes : 0;
	writer_resume(ks);
	store_unlock(ks);
	store_tell(ks);
	return st;
}

enum status kvstore_gc(struct kvstore *ks, uint64_t budget, struct kvstore_gc *out, struct err *err)
{
	struct kvstore_gc mine, *gc = out ? out : &mine;
	struct index *x = &ks->index;
	int32_t files;

	TRY(must_write(ks, err));
	store_lock(ks);
	writer_drain(ks);
	writer_pause(ks);
	*gc = (struct kvstore_gc){.before = x->bytes};
	files = x->n_file;
	for (int32_t i = x->n_file - 1; i >= 0; i--) {
		x->file[i]->stuck = false;
		if (x->file[i]->damaged)
			tidy_remove_file(ks, x->file[i]);
	}
	tidy_unreachable(ks, gc);
	tidy_make_room(ks, 0, budget ? budget : ks->opt.budget, gc);
	tidy_holes(ks, true);
	ks->over_budget = false;
	gc->after = x->bytes;
	gc->files = files > x->n_file ? (uint64_t)(files - x->n_file) : 0;
	writer_resume(ks);
	store_unlock(ks);
	uses_write(ks);
	store_tell(ks);
	return OK;
}

/* ------------------------------------------------------------------ verifying */

struct check {
	struct kvstore *ks;
	bool (*progress)(void *ctx, uint64_t done, uint64_t all);
	void (*bad)(void *ctx, const char *sentence);
	void *ctx;
	struct kvstore_verify *out;
	uint64_t done, all;
	uint8_t *p;			/* [room] */
	uint64_t room;
	struct kvfile_record record[KVFILE_RECORDS];
	uint8_t head[KVFILE_HEADER];
};

static void say_bad(struct check *c, const struct err *why)
{
	c->out->bad++;
	if (c->bad)
		c->bad(c->ctx, why->msg);
}

/* Does the header still say what it said? */
static enum status check_header(struct check *c, int fd, const char *path, struct err *err)
{
	struct kvfile_header h;
	uint64_t bytes;
	size_t got;

	TRY(io_size(fd, path, &bytes, err));
	TRY(io_read_some(fd, path, c->head, sizeof c->head, 0, &got, err));
	return kvfile_decode(&h, c->record, c->head, got, bytes, path, err);
}

static enum status check_section(struct check *c, int fd, const char *path, const struct load_job *j, struct err *err)
{
	if (j->bytes > c->room) {
		mem_free(c->p);
		c->p = mem_alloc((size_t)j->bytes);
		c->room = c->p ? j->bytes : 0;
	}
	if (!c->p)
		return err_set(err, ERR_MEMORY, "no memory to check a block of %llu bytes", (unsigned long long)j->bytes);
	return load_section(c->ks, fd, path, j, c->p, err);
}

/* The sections of f that entries refer to.  Locked. */
static uint32_t sections_of(const struct index *x, struct store_file *f, struct load_job *job)
{
	uint32_t n = 0;

	for (int32_t i = 0; i < x->n_entry && n < KVFILE_RECORDS; i++)
		for (int k = 0; k < 2; k++) {
			const struct entry *e = x->entry[i];

			if (e->part[k].place == PLACE_FILE && e->part[k].file == f && n < KVFILE_RECORDS)
				job[n++] = (struct load_job){.key = e->key, .kind = (enum kvfile_kind)k, .file = f,
							     .offset = e->part[k].offset, .bytes = e->part[k].bytes,
							     .sum = e->part[k].sum};
		}
	return n;
}

static enum status check_file(struct check *c, struct store_file *f, struct load_job *job, struct err *err)
{
	struct kvstore *ks = c->ks;
	char path[STORE_PATH];
	struct err why = {0};
	enum status st;
	uint32_t n;
	int fd = -1;

	store_lock(ks);
	n = sections_of(&ks->index, f, job);
	store_unlock(ks);
	store_path(ks, f->name, path);
	st = io_open(&fd, path, &why);
	if (st == OK)
		st = check_header(c, fd, path, &why);
	if (st == OK)
		c->out->files++;
	else
		say_bad(c, &why);
	for (uint32_t i = 0; i < n; i++) {
		enum status one = st == OK ? check_section(c, fd, path, &job[i], &why) : st;
		struct entry *e;

		c->done += job[i].bytes;
		if (one == ERR_MEMORY) {
			*err = why;
			io_close(fd);
			return one;
		}
		if (one == OK) {
			c->out->sections++;
			c->out->bytes += job[i].bytes;
		} else {
			if (st == OK)
				say_bad(c, &why);
			store_lock(ks);
			ks->stats.damaged++;
			e = index_get(&ks->index, job[i].key);
			if (e)
				index_drop_part(&ks->index, e, job[i].kind);
			store_unlock(ks);
		}
		if (c->progress && !c->progress(c->ctx, c->done, c->all)) {
			io_close(fd);
			return err_set(err, ERR_CANCELLED, "cancelled after %llu of %llu bytes", (unsigned long long)c->done,
				       (unsigned long long)c->all);
		}
	}
	io_close(fd);
	return OK;
}

enum status kvstore_verify(struct kvstore *ks, bool (*progress)(void *ctx, uint64_t done, uint64_t all),
			   void (*bad)(void *ctx, const char *sentence), void *ctx, struct kvstore_verify *out,
			   struct err *err)
{
	struct load_job *job = mem_array(KVFILE_RECORDS, sizeof *job);
	struct check *c = mem_zero(sizeof *c);
	struct kvstore_verify mine;
	enum status st = OK;

	if (job && c) {
		*c = (struct check){.ks = ks, .progress = progress, .bad = bad, .ctx = ctx, .out = out ? out : &mine};
		memset(c->out, 0, sizeof *c->out);
		store_lock(ks);
		writer_drain(ks);
		writer_pause(ks);
		c->all = ks->index.live_bytes;
		store_unlock(ks);
		for (int32_t i = 0; st == OK && i < ks->index.n_file; i++)
			if (!ks->index.file[i]->gone)
				st = check_file(c, ks->index.file[i], job, err);
		store_lock(ks);
		writer_resume(ks);
		store_unlock(ks);
		mem_free(c->p);
	} else {
		st = err_set(err, ERR_MEMORY, "no memory to check what is stored");
	}
	mem_free(job);
	mem_free(c);
	store_tell(ks);
	return st;
}
