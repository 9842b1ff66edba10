/* index.c - what is where: entries by key, and the files their sections are in.
 *
 * What  The picture of the directory in memory, made from headers when the store is opened and kept up as files come
 *       and go.
 * How   A hash table of entries as in engine/tree.c; a file counts the sections that entries refer to.  A section that
 *       nobody refers to is a hole: its bytes come back when the file is rewritten or removed.
 * Careful
 *       - An entry lives as long as one of its sections is somewhere: in a file or on its way there.
 *       - Removing an entry does not touch the disk.  Until its file is rewritten it would be found again by the next
 *         process: harmless, because a key stands for one content only. */
#include <string.h>

#include "base/mem.h"
#include "kvstore/kvstore_int.h"

enum status index_open(struct index *x, struct err *err)
{
	*x = (struct index){.n_bucket = 1024, .room = 256, .file_room = 64};
	x->bucket = mem_array(x->n_bucket, sizeof(struct entry *));
	x->entry = mem_array((size_t)x->room, sizeof(struct entry *));
	x->file = mem_array((size_t)x->file_room, sizeof(struct store_file *));
	if (x->bucket && x->entry && x->file)
		return OK;
	index_clear(x);
	return err_set(err, ERR_MEMORY, "no memory for the index of stored blocks");
}

void index_clear(struct index *x)
{
	for (int32_t i = 0; i < x->n_entry; i++) {
		mem_free(x->entry[i]->part[KVFILE_BLOCK].copy);
		mem_free(x->entry[i]->part[KVFILE_CHECK].copy);
		mem_free(x->entry[i]);
	}
	for (int32_t i = 0; i < x->n_file; i++)
		mem_free(x->file[i]);
	mem_free(x->bucket);
	mem_free(x->entry);
	mem_free(x->file);
	memset(x, 0, sizeof *x);
}

/* ------------------------------------------------------------------ entries */

struct entry *index_get(const struct index *x, struct tree_key key)
{
	struct entry *e = x->bucket[key.low & (x->n_bucket - 1)];

	while (e && !key_is(e->key, key))
		e = e->next;
	return e;
}

static void more_buckets(struct index *x)
{
	size_t n = 4 * x->n_bucket;
	struct entry **bucket = mem_array(n, sizeof(struct entry *));

	if (!bucket)		/* the chains just grow */
		return;
	for (int32_t i = 0; i < x->n_entry; i++) {
		struct entry **b = &bucket[x->entry[i]->key.low & (n - 1)];

		x->entry[i]->next = *b;
		*b = x->entry[i];
	}
	mem_free(x->bucket);
	x->bucket = bucket;
	x->n_bucket = n;
}

struct entry *index_add(struct index *x, struct tree_key key, struct tree_key before, struct tree_key fingerprint, int32_t end,
			const int32_t *token)
{
	struct entry *e, **b;

	if (x->n_entry == x->room) {
		struct entry **list = mem_grow(x->entry, 2 * (size_t)x->room, sizeof(struct entry *));

		if (!list)
			return NULL;
		x->entry = list;
		x->room *= 2;
	}
	e = mem_zero(sizeof *e);
	if (!e)
		return NULL;
	if ((size_t)x->n_entry >= x->n_bucket)
		more_buckets(x);
	b = &x->bucket[key.low & (x->n_bucket - 1)];
	*e = (struct entry){.next = *b, .key = key, .before = before, .fingerprint = fingerprint, .end = end, .at = x->n_entry};
	memcpy(e->token, token, sizeof e->token);
	*b = e;
	x->entry[x->n_entry++] = e;
	x->chained = false;
	return e;
}

static void free_entry(struct index *x, struct entry *e)
{
	struct entry **p = &x->bucket[e->key.low & (x->n_bucket - 1)];

	while (*p != e)
		p = &(*p)->next;
	*p = e->next;
	x->entry[e->at] = x->entry[--x->n_entry];
	x->entry[e->at]->at = e->at;
	x->chained = false;
	mem_free(e);
}

/* Frees it if it has no section any more. */
static void free_if_empty(struct index *x, struct entry *e)
{
	x->chained = false;
	if (!e->banned && e->part[KVFILE_BLOCK].place == PLACE_NONE && e->part[KVFILE_CHECK].place == PLACE_NONE)
		free_entry(x, e);
}

/* ------------------------------------------------------------------ sections */

void index_hold(struct index *x, struct entry *e, enum kvfile_kind kind, uint8_t *copy, uint64_t bytes)
{
	e->part[kind] = (struct section){.place = PLACE_QUEUED, .bytes = bytes, .copy = copy};
	x->chained = false;
	x->n_check += kind == KVFILE_CHECK;
}

void index_let_go(struct index *x, struct entry *e, enum kvfile_kind kind)
{
	mem_free(e->part[kind].copy);
	e->part[kind] = (struct section){0};
	x->n_check -= kind == KVFILE_CHECK;
	free_if_empty(x, e);
}

void index_set_part(struct index *x, struct entry *e, enum kvfile_kind kind, struct store_file *f, uint64_t offset,
		    uint64_t bytes, struct hash128 sum)
{
	struct section *s = &e->part[kind];

	if (s->place == PLACE_FILE) {		/* it has moved */
		s->file->live--;
		s->file->live_bytes -= s->bytes;
		x->live_bytes -= s->bytes;
	} else if (kind == KVFILE_CHECK && s->place == PLACE_NONE) {
		x->n_check++;
	}
	mem_free(s->copy);
	x->chained = false;
	*s = (struct section){.place = PLACE_FILE, .bytes = bytes, .file = f, .offset = offset, .sum = sum};
	f->live++;
	f->live_bytes += bytes;
	x->live_bytes += bytes;
}

static void forget(struct index *x, struct entry *e, enum kvfile_kind kind)
{
	struct section *s = &e->part[kind];

	if (s->place != PLACE_FILE)
		return;
	s->file->live--;
	s->file->live_bytes -= s->bytes;
	x->live_bytes -= s->bytes;
	x->n_check -= kind == KVFILE_CHECK;
	*s = (struct section){0};
}

void index_drop_part(struct index *x, struct entry *e, enum kvfile_kind kind)
{
	forget(x, e, kind);
	free_if_empty(x, e);
}

bool index_drop_entry(struct index *x, struct entry *e)
{
	for (int k = 0; k < 2; k++)
		if (e->part[k].place == PLACE_QUEUED || e->part[k].place == PLACE_WRITING)
			return false;
	forget(x, e, KVFILE_BLOCK);
	forget(x, e, KVFILE_CHECK);
	free_if_empty(x, e);
	return true;
}

/* ------------------------------------------------------------------ files */

struct store_file *index_add_file(struct index *x, const char *name, struct tree_key fingerprint, uint64_t bytes,
				  uint32_t records)
{
	struct store_file *f;

	if (x->n_file == x->file_room) {
		struct store_file **list = mem_grow(x->file, 2 * (size_t)x->file_room, sizeof(struct store_file *));

		if (!list)
			return NULL;
		x->file = list;
		x->file_room *= 2;
	}
	f = mem_zero(sizeof *f);
	if (!f)
		return NULL;
	*f = (struct store_file){.fingerprint = fingerprint, .at = x->n_file, .bytes = bytes, .records = records};
	memcpy(f->name, name, strnlen(name, sizeof f->name - 1));
	x->file[x->n_file++] = f;
	x->bytes += bytes;
	return f;
}

void index_drop_file(struct index *x, struct store_file *f)
{
	x->file[f->at] = x->file[--x->n_file];
	x->file[f->at]->at = f->at;
	x->bytes -= f->bytes;
	mem_free(f);
}

void index_drop_all(struct index *x)
{
	for (int32_t i = x->n_entry - 1; i >= 0; i--) {
		struct entry *e = x->entry[i];

		forget(x, e, KVFILE_BLOCK);
		forget(x, e, KVFILE_CHECK);
		free_if_empty(x, e);
	}
	for (int32_t i = x->n_file - 1; i >= 0; i--) {
		x->file[i]->gone = true;
		if (!x->file[i]->pins)
			index_drop_file(x, x->file[i]);
	}
}

/* ------------------------------------------------------------------ chains */

/* The entry that e goes on from; NULL when it is the first or that one is missing. */
static struct entry *parent(const struct index *x, const struct entry *e)
{
	struct entry *up = e->end > GEOM_BLOCK ? index_get(x, e->before) : NULL;

	return up && up->end == e->end - GEOM_BLOCK ? up : NULL;
}

/* Walks up to an entry of which it is known, then gives the answer to all on the way: every entry is passed twice. */
static void reach(const struct index *x, struct entry *e)
{
	struct entry *at = e;
	enum reach r = REACH_UNKNOWN;

	while (r == REACH_UNKNOWN) {
		struct entry *up;

		if (at->reach != REACH_UNKNOWN) {
			r = at->reach;
			break;
		}
		up = parent(x, at);
		if (at->part[KVFILE_BLOCK].place == PLACE_NONE || (!up && at->end > GEOM_BLOCK))
			r = at->reach = REACH_NO;
		else if (!up)
			r = at->reach = REACH_YES;
		else
			at = up;
	}
	for (; e && e != at; e = parent(x, e))
		e->reach = e->part[KVFILE_BLOCK].place == PLACE_NONE ? REACH_NO : r;
}

void index_chains(struct index *x)
{
	if (x->chained)
		return;
	x->chained = true;
	for (int32_t i = 0; i < x->n_entry; i++) {
		x->entry[i]->children = 0;
		x->entry[i]->reach = REACH_UNKNOWN;
	}
	for (int32_t i = 0; i < x->n_entry; i++) {
		struct entry *up = parent(x, x->entry[i]);

		if (up && !x->entry[i]->banned)
			up->children++;
		reach(x, x->entry[i]);
	}
}
