/* writer.c - the thread that writes: copies from the queue into files, several in each.
 *
 * What  Takes what has waited long enough, makes one file of it, and enters it in the index; keeps house when idle.
 * Why   The engine must not wait for a disk, and a file for every block would be hundreds of thousands of files.
 * How   Into a temporary file, flushed, renamed, the folder flushed: whoever is killed at any moment leaves a whole file
 *       or a temporary one, which the next owner of the directory removes.
 * Careful
 *       - The lock is free while the disk works.  Copies that are being written can still be loaded from.
 *       - After a failure what was in hand is dropped, not kept: memory is bounded, and the tree still has it or can make
 *         it again.  Then the writer rests, so that a full disk costs nothing.
 *       - A directory that has vanished takes all it held with it: the index must forget that, too. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kvstore/kvstore_int.h"

enum { USES_EVERY = 60 };	/* seconds */

/* ------------------------------------------------------------------ one file */

/* A name that no file in the directory has. */
static void new_name(struct kvstore *ks, char *name)
{
	struct timespec t;
	uint64_t seed[3];

	clock_gettime(CLOCK_REALTIME, &t);
	seed[0] = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	seed[1] = (uint64_t)getpid();
	store_lock(ks);
	seed[2] = ks->name_count++;
	store_unlock(ks);
	snprintf(name, STORE_NAME, "%016llx.kv", (unsigned long long)hash64(seed, sizeof seed));
}

void record_of(struct kvfile_record *r, const struct entry *e, enum kvfile_kind kind)
{
	*r = (struct kvfile_record){.key = e->key, .before = e->before, .end = e->end, .kind = kind,
				    .bytes = e->part[kind].bytes, .created = e->created};
	memcpy(r->token, e->token, sizeof r->token);
}

static enum status write_sections(int fd, const char *path, struct kvfile_header *h, struct kvfile_record *r,
				  const uint8_t *const *p, struct err *err)
{
	uint8_t head[KVFILE_HEADER];
	uint64_t at = kvfile_header_bytes(h->n);

	for (uint32_t i = 0; i < h->n; i++) {
		r[i].offset = at = kvfile_align(at);
		r[i].sum = hash128(p[i], (size_t)r[i].bytes);
		TRY(io_write(fd, path, p[i], (size_t)r[i].bytes, at, err));
		at += r[i].bytes;
	}
	h->file_bytes = at;
	kvfile_encode(head, h, r);
	TRY(io_write(fd, path, head, kvfile_header_bytes(h->n), 0, err));
	return io_sync(fd, path, err);
}

enum status store_write_file(struct kvstore *ks, struct kvfile_header *h, struct kvfile_record *r, const uint8_t *const *p,
			     char *name, struct err *err)
{
	char path[STORE_PATH], temp[STORE_PATH], temp_name[STORE_NAME + 4];
	int fd = -1;
	enum status st;

	new_name(ks, name);
	snprintf(temp_name, sizeof temp_name, "%s.tmp", name);
	store_path(ks, name, path);
	store_path(ks, temp_name, temp);
	TRY(io_create(&fd, temp, err));
	st = write_sections(fd, temp, h, r, p, err);
	io_close(fd);
	if (st == OK)
		st = io_rename(temp, path, err);
	if (st != OK) {
		io_remove(temp, NULL);
		return st;
	}
	st = io_sync_folder(ks->dir, err);
	if (st != OK)
		io_remove(path, NULL);
	return st;
}

/* ------------------------------------------------------------------ a batch */

struct batch {
	struct kvfile_header h;
	struct kvfile_record r[KVFILE_RECORDS];
	const uint8_t *p[KVFILE_RECORDS];
	uint64_t bytes;
};

/* Locked.  Takes from the queue what fits into one file. */
static void take_batch(struct kvstore *ks, struct batch *b)
{
	uint64_t most = ks->opt.budget && ks->opt.budget / 8 < FILE_DATA_MAX ? ks->opt.budget / 8 : FILE_DATA_MAX;

	memset(&b->h, 0, sizeof b->h);
	b->bytes = 0;
	while (ks->first && b->h.n < KVFILE_RECORDS) {
		struct job *j = ks->first;
		struct entry *e = index_get(&ks->index, j->key);
		struct section *s = &e->part[j->kind];

		if (b->h.n && (!key_is(e->fingerprint, b->h.fingerprint) ||
			       b->bytes + (b->h.n + 1) * (uint64_t)KVFILE_ALIGN + s->bytes > most))
			break;
		b->h.fingerprint = e->fingerprint;
		b->h.block_bytes = j->bytes[KVFILE_BLOCK];
		b->h.check_bytes = j->bytes[KVFILE_CHECK];
		record_of(&b->r[b->h.n], e, j->kind);
		b->p[b->h.n++] = s->copy;
		b->bytes += s->bytes;
		s->place = PLACE_WRITING;
		ks->first = j->next;
		if (!ks->first)
			ks->last = &ks->first;
		mem_free(j);
	}
}

/* Locked. */
static void enter_batch(struct kvstore *ks, struct batch *b, const char *name, enum status st)
{
	struct store_file *f = st == OK ? index_add_file(&ks->index, name, b->h.fingerprint, b->h.file_bytes, b->h.n) : NULL;
	char path[STORE_PATH];

	if (st == OK && !f) {
		store_path(ks, name, path);
		io_remove(path, NULL);
	}
	for (uint32_t i = 0; i < b->h.n; i++) {
		struct entry *e = index_get(&ks->index, b->r[i].key);

		if (f)
			index_set_part(&ks->index, e, b->r[i].kind, f, b->r[i].offset, b->r[i].bytes, b->r[i].sum);
		else
			index_let_go(&ks->index, e, b->r[i].kind);
		ks->queued_bytes -= b->r[i].bytes;
		ks->stats.queued--;
		ks->stats.written += f != NULL;
		ks->stats.written_bytes += f ? b->r[i].bytes : 0;
	}
}

/* Locked. */
static void write_failed(struct kvstore *ks, const struct err *err)
{
	ks->failures++;
	ks->stats.errors++;
	ks->write_err = *err;
	ks->rest_until = clock_seconds() + REST_SECONDS;
	store_warn(ks, "write", "%s; conversations go on, but are not kept on disk", err->msg);
}

/* Locked; gives up the lock.  Again after the directory has vanished. */
static enum status write_batch(struct kvstore *ks, struct batch *b, char *name, struct err *err)
{
	enum status st = ERR_NOT_FOUND;

	for (int attempt = 0; attempt < 2 && st == ERR_NOT_FOUND; attempt++) {
		if (attempt) {
			store_warn(ks, "vanished", "%s: the directory has vanished, and what was stored with it", ks->dir);
			index_drop_all(&ks->index);
			if (!store_claim(ks))
				break;
		}
		if (!tidy_make_room(ks, b->bytes + KVFILE_HEADER + (uint64_t)b->h.n * KVFILE_ALIGN, ks->opt.budget, NULL))
			return err_set(err, ERR_LIMIT, "%s: no room within the budget of %llu bytes", ks->dir,
				       (unsigned long long)ks->opt.budget);
		store_unlock(ks);
		st = store_write_file(ks, &b->h, b->r, b->p, name, err);
		store_lock(ks);
	}
	return st;
}

static void one_batch(struct kvstore *ks, struct batch *b)
{
	char name[STORE_NAME] = "";
	struct err err = {0};
	enum status st;

	take_batch(ks, b);
	st = write_batch(ks, b, name, &err);
	if (st != OK)
		write_failed(ks, &err);
	enter_batch(ks, b, name, st);
}

/* ------------------------------------------------------------------ the thread */

/* Locked.  Is there something to write now?  Otherwise *wait: seconds until there is. */
static bool ready(const struct kvstore *ks, double *wait)
{
	double age;

	*wait = USES_EVERY;
	if (!ks->first)
		return false;
	age = clock_seconds() - ks->first->since;
	*wait = ks->opt.gather - age;
	return ks->hurry || *wait <= 0 || ks->queued_bytes >= FILE_DATA_MAX || ks->queued_bytes >= ks->staging / 2 ||
	       ks->stats.queued >= KVFILE_RECORDS;
}

void writer_wait(struct kvstore *ks, double seconds)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	seconds += 1e-9 * (double)t.tv_nsec;
	t.tv_sec += (time_t)seconds;
	t.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9);
	pthread_cond_timedwait(&ks->work, &ks->lock, &t);
}

/* Locked. */
static bool keep_house(struct kvstore *ks)
{
	if (ks->first || ks->rest_until > clock_seconds())
		return false;
	if (ks->uses_changed && clock_seconds() - ks->uses_written > USES_EVERY) {
		ks->uses_written = clock_seconds();
		store_unlock(ks);
		uses_write(ks);
		store_lock(ks);
	}
	return tidy_step(ks);
}

static void *work(void *ctx)
{
	struct kvstore *ks = ctx;

	store_lock(ks);
	while (!ks->stop) {
		double wait = USES_EVERY;

		if (ks->paused) {
			writer_wait(ks, 1);
			continue;
		}
		ks->busy = true;
		if (ready(ks, &wait)) {
			one_batch(ks, ks->batch);
			wait = 0;
		} else if (keep_house(ks)) {
			wait = 0;
		}
		ks->busy = false;
		pthread_cond_broadcast(&ks->quiet);
		if (wait > 0 && !ks->stop && !ks->paused && !(ks->hurry && ks->first))
			writer_wait(ks, wait);
	}
	store_unlock(ks);
	return NULL;
}

enum status writer_start(struct kvstore *ks, struct err *err)
{
	ks->uses_written = clock_seconds();
	ks->batch = mem_alloc(sizeof *ks->batch);
	if (!ks->batch || pthread_create(&ks->thread, NULL, work, ks) != 0)
		return err_set(err, ERR_MEMORY, "the thread that stores blocks cannot be started");
	ks->has_thread = true;
	return OK;
}

void writer_stop(struct kvstore *ks)
{
	if (ks->has_thread) {
		store_lock(ks);
		ks->stop = true;
		pthread_cond_signal(&ks->work);
		store_unlock(ks);
		pthread_join(ks->thread, NULL);
	}
	ks->has_thread = false;
	mem_free(ks->batch);
	ks->batch = NULL;
}

void writer_pause(struct kvstore *ks)
{
	ks->paused++;
	while (ks->busy)
		pthread_cond_wait(&ks->quiet, &ks->lock);
}

void writer_resume(struct kvstore *ks)
{
	ks->paused--;
	pthread_cond_signal(&ks->work);
}

void writer_drain(struct kvstore *ks)
{
	if (!ks->has_thread)
		return;
	ks->hurry++;
	pthread_cond_signal(&ks->work);
	while (ks->first || ks->busy)
		pthread_cond_wait(&ks->quiet, &ks->lock);
	ks->hurry--;
}
