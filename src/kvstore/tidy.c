/* tidy.c - keeps the directory within its budget and its files few and full.
 *
 * What  Decides what is worth least and forgets it; takes files away that nobody refers to, rewrites those with holes,
 *       and makes one file of many small ones.
 * Why   An entry is forgotten by itself, a file is removed as a whole, and the writer makes small files when little
 *       happens: without this the disk would fill with holes and the next start would open a hundred thousand files.
 * How   Worth as in engine/tree.c: uses * tokens to read again / bytes / age.  Entries leave from the ends of
 *       conversations inwards, and checkpoints by themselves, because they are most of the bytes.  A heap keeps the
 *       cheapest on top; who becomes an end by that enters it.
 * Careful
 *       - Only the writer's thread, or who has paused it, may be here: the lock is free while files are rewritten.
 *       - A rewritten file is flushed and renamed before the old ones go; killed in between, both are there, and the next
 *         start takes either. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kvstore/kvstore_int.h"

enum {
	SMALL_RECORDS = 16, SMALL_BYTES = 8 << 20,	/* a small file has fewer */
	SMALL_FILES = 8,		/* so many are made one */
	YOUNG_SECONDS = 600		/* how much what was just used is preferred */
};

/* ------------------------------------------------------------------ files */

bool tidy_remove_file(struct kvstore *ks, struct store_file *f)
{
	struct store_file was = *f, *again;
	char path[STORE_PATH];
	struct err err = {0};
	enum status st;

	if (f->pins) {
		f->gone = true;
		return false;
	}
	index_drop_file(&ks->index, f);
	store_path(ks, was.name, path);
	store_unlock(ks);		/* a large file takes the disk a while */
	st = io_remove(path, &err);
	store_lock(ks);
	if (st == OK || st == ERR_NOT_FOUND)
		return true;
	ks->stats.errors++;
	store_warn(ks, "remove", "%s", err.msg);
	again = index_add_file(&ks->index, was.name, was.fingerprint, was.bytes, was.records);
	if (again) {
		again->stuck = true;
		again->damaged = was.damaged;
	}
	return false;
}

void tidy_unpin(struct kvstore *ks, struct store_file *f)
{
	if (--f->pins == 0 && f->gone)
		tidy_remove_file(ks, f);
}

/* ------------------------------------------------------------------ rewriting */

struct moved {
	struct kvfile_header h;
	struct kvfile_record r[KVFILE_RECORDS];
	struct load_job from[KVFILE_RECORDS];
	uint8_t *p[KVFILE_RECORDS];
	const uint8_t *whole[KVFILE_RECORDS];	/* those that could be read, without gaps */
	uint32_t n;
};

/* Locked.  Lists what entries have in the files that are marked by a pin of ours. */
static void list_sections(struct kvstore *ks, struct moved *m, struct store_file *const *f, int n)
{
	for (int32_t i = 0; i < ks->index.n_entry; i++) {
		struct entry *e = ks->index.entry[i];

		for (int k = 0; k < 2; k++) {
			const struct section *s = &e->part[k];
			bool ours = false;

			for (int j = 0; j < n && s->place == PLACE_FILE; j++)
				ours = ours || s->file == f[j];
			if (!ours || m->n == KVFILE_RECORDS)
				continue;
			record_of(&m->r[m->n], e, (enum kvfile_kind)k);
			m->from[m->n++] = (struct load_job){.key = e->key, .kind = (enum kvfile_kind)k, .file = s->file,
							    .offset = s->offset, .bytes = s->bytes, .sum = s->sum};
		}
	}
}

/* Not locked.  Reads and checks them; what is wrong stays behind. */
static void read_sections(struct kvstore *ks, struct moved *m)
{
	char path[STORE_PATH];

	for (uint32_t i = 0; i < m->n; i++) {
		struct load_job *j = &m->from[i];
		int fd = -1;

		m->p[i] = mem_alloc((size_t)j->bytes);
		store_path(ks, j->file->name, path);
		j->st = m->p[i] ? io_open(&fd, path, &j->err) : err_set(&j->err, ERR_MEMORY, "no memory to rewrite %s", path);
		if (j->st == OK)
			j->st = load_section(ks, fd, path, j, m->p[i], &j->err);
		io_close(fd);
	}
}

/* Not locked.  Writes what could be read; false: nothing has changed. */
static bool write_moved(struct kvstore *ks, struct moved *m, char *name, struct err *err)
{
	struct kvfile_record r[KVFILE_RECORDS];

	m->h.n = 0;
	for (uint32_t i = 0; i < m->n; i++) {
		if (m->from[i].st == ERR_MEMORY) {
			*err = m->from[i].err;
			return false;
		}
		if (m->from[i].st != OK)
			continue;
		m->whole[m->h.n] = m->p[i];
		r[m->h.n] = m->r[i];
		m->h.n++;
	}
	if (m->h.n && store_write_file(ks, &m->h, r, m->whole, name, err) != OK)
		return false;
	for (uint32_t i = 0, at = 0; i < m->n; i++)
		if (m->from[i].st == OK)
			m->r[i] = r[at++];
	return true;
}

/* Locked.  Entries look into the new file from now on, if they still looked into the old one. */
static bool relink(struct kvstore *ks, struct moved *m, const char *name)
{
	struct store_file *f = NULL;

	if (m->h.n) {
		f = index_add_file(&ks->index, name, m->h.fingerprint, m->h.file_bytes, m->h.n);
		if (!f)
			return false;
	}
	for (uint32_t i = 0; i < m->n; i++) {
		const struct load_job *j = &m->from[i];
		struct entry *e = index_get(&ks->index, j->key);
		struct section *s = e ? &e->part[j->kind] : NULL;

		if (!s || s->place != PLACE_FILE || s->file != j->file || s->offset != j->offset)
			continue;
		if (j->st == OK) {
			index_set_part(&ks->index, e, j->kind, f, m->r[i].offset, m->r[i].bytes, m->r[i].sum);
		} else {
			ks->stats.damaged += j->st == ERR_FORMAT;
			ks->stats.errors += j->st != ERR_FORMAT;
			store_warn(ks, "damaged", "%s; it is not used any more", j->err.msg);
			index_drop_part(&ks->index, e, j->kind);
		}
	}
	return true;
}

/* Makes one file out of the live sections of n files of one model; together they fit into one.  Locked; gives up the
 * lock. */
static bool rewrite(struct kvstore *ks, struct store_file *const *f, int n)
{
	struct moved *m = mem_zero(sizeof *m);
	char name[STORE_NAME] = "", path[STORE_PATH];
	struct err err = {0};
	bool ok = m != NULL;

	if (ok) {
		list_sections(ks, m, f, n);
		m->h.fingerprint = f[0]->fingerprint;
		for (uint32_t i = 0; i < m->n; i++)
			*(m->r[i].kind == KVFILE_BLOCK ? &m->h.block_bytes : &m->h.check_bytes) = m->r[i].bytes;
		for (int i = 0; i < n; i++)
			f[i]->pins++;
		store_unlock(ks);
		read_sections(ks, m);
		ok = write_moved(ks, m, name, &err);
		store_lock(ks);
		if (ok && !relink(ks, m, name)) {
			ok = false;
			store_path(ks, name, path);
			io_remove(path, NULL);
		}
		for (uint32_t i = 0; i < m->n; i++)
			mem_free(m->p[i]);
	}
	if (!ok) {
		ks->stats.errors++;
		store_warn(ks, "rewrite", "%s", err.msg[0] ? err.msg : "no memory to rewrite stored blocks");
	}
	for (int i = 0; i < n; i++) {
		f[i]->stuck = !ok;
		if (ok && f[i]->live == 0)
			f[i]->gone = true;
		if (m)
			tidy_unpin(ks, f[i]);
	}
	mem_free(m);
	return ok;
}

static bool at_rest(const struct store_file *f)
{
	return !f->pins && !f->gone && !f->stuck && !f->damaged;
}

static bool half_empty(const struct store_file *f)
{
	return f->live_bytes < f->bytes / 2 && f->live < f->records;
}

/* Locked.  The file with the largest part of holes, among those that have `any`, or are half empty. */
static struct store_file *emptiest(const struct index *x, bool any)
{
	struct store_file *best = NULL;
	double part = 2;

	for (int32_t i = 0; i < x->n_file; i++) {
		struct store_file *f = x->file[i];
		double full = (double)f->live_bytes / ((double)f->bytes + 1);

		if (at_rest(f) && f->live < f->records && (any || f->live == 0 || half_empty(f)) && full < part) {
			best = f;
			part = full;
		}
	}
	return best;
}

/* Locked; gives up the lock.  False: nothing has holes. */
static bool fill_one(struct kvstore *ks, bool any)
{
	struct store_file *f = emptiest(&ks->index, any);

	if (!f)
		return false;
	if (f->live == 0)
		tidy_remove_file(ks, f);
	else
		rewrite(ks, &f, 1);
	return true;
}

void tidy_holes(struct kvstore *ks, bool any)
{
	while (fill_one(ks, any))
		;
}

static bool is_small(const struct store_file *f)
{
	return at_rest(f) && f->live && f->live < SMALL_RECORDS && f->live_bytes < SMALL_BYTES;
}

/* Locked; gives up the lock.  Makes one file of many small ones of a model. */
static bool merge_small(struct kvstore *ks)
{
	const struct index *x = &ks->index;
	struct store_file *f[KVFILE_RECORDS];

	for (int32_t first = 0; first < x->n_file; first++) {
		uint64_t bytes = 0;
		uint32_t records = 0;
		int n = 0;

		if (!is_small(x->file[first]))
			continue;
		for (int32_t i = first; i < x->n_file && n < KVFILE_RECORDS; i++) {
			struct store_file *g = x->file[i];

			if (!is_small(g) || !key_is(g->fingerprint, x->file[first]->fingerprint) ||
			    records + g->live > KVFILE_RECORDS || bytes + g->live_bytes > FILE_DATA_MAX)
				continue;
			f[n++] = g;
			records += g->live;
			bytes += g->live_bytes;
		}
		if (n >= SMALL_FILES)
			return rewrite(ks, f, n);
	}
	return false;
}

/* ------------------------------------------------------------------ what goes first */

struct candidate {
	double worth;
	struct entry *e;
};

struct heap {
	struct candidate *c;	/* [n] the cheapest first */
	int32_t n;
	double now;
};

static void sift(struct heap *h, int32_t i)
{
	for (;;) {
		int32_t least = i;

		for (int32_t k = 2 * i + 1; k <= 2 * i + 2 && k < h->n; k++)
			if (h->c[k].worth < h->c[least].worth)
				least = k;
		if (least == i)
			return;
		struct candidate t = h->c[i];

		h->c[i] = h->c[least];
		h->c[least] = t;
		i = least;
	}
}

static void push(struct heap *h, struct candidate c)
{
	int32_t i = h->n++;

	for (; i > 0 && h->c[(i - 1) / 2].worth > c.worth; i = (i - 1) / 2)
		h->c[i] = h->c[(i - 1) / 2];
	h->c[i] = c;
}

static struct entry *pop(struct heap *h)
{
	struct entry *e = h->c[0].e;

	h->c[0] = h->c[--h->n];
	sift(h, 0);
	return e;
}

static bool on_its_way(const struct entry *e)
{
	return e->part[0].place == PLACE_QUEUED || e->part[0].place == PLACE_WRITING ||
	       e->part[1].place == PLACE_QUEUED || e->part[1].place == PLACE_WRITING;
}

/* Tokens that would be read again without e's checkpoint. */
static int32_t gap_of(const struct index *x, const struct entry *e)
{
	int32_t gap = GEOM_BLOCK;
	const struct entry *up = e->end > GEOM_BLOCK ? index_get(x, e->before) : NULL;

	for (; up && up->part[KVFILE_CHECK].place == PLACE_NONE; gap += GEOM_BLOCK)
		up = up->end > GEOM_BLOCK ? index_get(x, up->before) : NULL;
	return gap;
}

/* An end without a checkpoint saves nothing; but if it has grown just now, one may still come. */
static double worth(const struct index *x, const struct entry *e, double now)
{
	double age = (now > e->used ? now - e->used : 0) + YOUNG_SECONDS, gap, bytes;

	if (e->reach == REACH_NO)
		return 0;
	if (e->part[KVFILE_CHECK].place == PLACE_NONE)
		return (!e->spent && now < (double)e->created + FRESH_SECONDS ? 1e30 : 1e-30) / age;
	gap = gap_of(x, e);
	bytes = (double)e->part[KVFILE_CHECK].bytes;
	if (!e->children)
		bytes += gap / GEOM_BLOCK * (double)e->part[KVFILE_BLOCK].bytes;
	return (1.0 + e->hits) * gap / (bytes + 1) / age;
}

static void push_entry(struct heap *h, const struct index *x, struct entry *e)
{
	if (!e->banned && !on_its_way(e) && (!e->children || e->part[KVFILE_CHECK].place == PLACE_FILE))
		push(h, (struct candidate){worth(x, e, h->now), e});
}

/* Forgets one; whom it leaves as an end becomes a candidate. */
static void evict_one(struct kvstore *ks, struct heap *h, struct entry *e, struct kvstore_gc *out)
{
	struct index *x = &ks->index;
	struct entry *up = e->end > GEOM_BLOCK ? index_get(x, e->before) : NULL;
	bool check = e->part[KVFILE_CHECK].place == PLACE_FILE;

	out->checks += check;
	if (e->children && e->part[KVFILE_BLOCK].place != PLACE_NONE) {
		index_drop_part(x, e, KVFILE_CHECK);
		return;
	}
	if (up)
		up->spent = true;
	out->entries++;
	ks->stats.evicted++;
	index_drop_entry(x, e);
	if (up && --up->children == 0 && up->part[KVFILE_CHECK].place != PLACE_FILE)
		push_entry(h, x, up);
}

/* Locked.  Forgets entries until the sections of the rest are at most `most` bytes; with most = UINT64_MAX only those
 * that cannot be reached. */
static void evict(struct kvstore *ks, uint64_t most, struct kvstore_gc *out)
{
	struct index *x = &ks->index;
	struct heap h = {.c = mem_array((size_t)x->n_entry + 1, sizeof *h.c), .now = store_now()};

	if (!h.c)
		return;
	index_chains(x);
	for (int32_t i = 0; i < x->n_entry; i++)
		push_entry(&h, x, x->entry[i]);
	while (h.n && (x->live_bytes > most || h.c[0].worth == 0))
		evict_one(ks, &h, pop(&h), out);
	x->chained = false;
	mem_free(h.c);
}

void tidy_unreachable(struct kvstore *ks, struct kvstore_gc *out)
{
	evict(ks, UINT64_MAX, out);
}

/* Locked; gives up the lock.  A file with holes that is being read will be one to rewrite in a moment. */
static bool wait_for_readers(struct kvstore *ks, int *patience)
{
	for (int32_t i = 0; *patience > 0 && i < ks->index.n_file; i++) {
		const struct store_file *f = ks->index.file[i];

		if (f->pins && (f->gone || f->live < f->records)) {
			--*patience;
			writer_wait(ks, 0.01);
			return true;
		}
	}
	return false;
}

bool tidy_make_room(struct kvstore *ks, uint64_t more, uint64_t budget, struct kvstore_gc *out)
{
	int patience = 300;
	struct index *x = &ks->index;
	struct kvstore_gc nobody = {0};
	uint64_t most = budget - budget / 16;	/* a little more than needed: not again for every block */

	if (!budget || x->bytes + more <= budget)
		return true;
	if (more > budget)
		return false;
	/* Headers and holes are bytes, too: less and less is kept until it is enough. */
	for (most = most > more ? most - more : 0;; most -= most / 8 + 1) {
		evict(ks, most, out ? out : &nobody);
		while (x->bytes + more > budget && (fill_one(ks, true) || wait_for_readers(ks, &patience)))
			;
		if (x->bytes + more <= budget)
			return true;
		if (most == 0 || x->live_bytes == 0)
			return false;
	}
}

bool tidy_step(struct kvstore *ks)
{
	if (fill_one(ks, false) || merge_small(ks))
		return true;
	if (ks->opt.budget && ks->index.bytes > ks->opt.budget && !ks->over_budget) {
		ks->over_budget = !tidy_make_room(ks, 0, ks->opt.budget, NULL);
		return true;
	}
	return false;
}
