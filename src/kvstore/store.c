/* store.c - opens a directory of blocks and checkpoints, reads its headers, and closes it.
 *
 * What  kvstore_open() makes the index out of what lies in the directory; everything else works on that.
 * Why   A directory that anybody may copy, cut short, fill with other things or delete cannot be trusted: it is read
 *       with care once, and what is strange in it is a warning and left alone.
 * How   One read per file: its header.  A lock file says which process writes; who does not get it only reads.
 * Careful
 *       - Warnings come up on any thread and are told on the caller's, each kind once: a full disk must not talk all day.
 *       - The path is made absolute: programs change folders.
 *       - Files of another version are left alone: they belong to another ds4. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "kvstore/kvstore_int.h"

#define LOCK_NAME "lock"

void store_lock(struct kvstore *ks)
{
	pthread_mutex_lock(&ks->lock);
}

void store_unlock(struct kvstore *ks)
{
	pthread_mutex_unlock(&ks->lock);
}

double store_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void store_path(const struct kvstore *ks, const char *name, char *out)
{
	snprintf(out, STORE_PATH, "%s/%.48s", ks->dir, name);
}

const char *kvstore_dir(const struct kvstore *ks)
{
	return ks->dir;
}

bool kvstore_writes(const struct kvstore *ks)
{
	return ks->writes;
}

/* ------------------------------------------------------------------ warnings */

void store_warn(struct kvstore *ks, const char *kind, const char *fmt, ...)
{
	uint64_t id = hash64(kind, strlen(kind));
	char sentence[SENTENCE];
	va_list args;

	for (int i = 0; i < ks->n_warned; i++)
		if (ks->warned[i] == id)
			return;
	if (ks->n_warned == WARNINGS_KINDS || ks->n_warning == WARNINGS_MAX)
		return;
	ks->warned[ks->n_warned++] = id;
	va_start(args, fmt);
	vsnprintf(sentence, sizeof sentence, fmt, args);
	va_end(args);
	ks->warning[ks->n_warning] = mem_str(sentence);
	ks->n_warning += ks->warning[ks->n_warning] != NULL;
}

void store_tell(struct kvstore *ks)
{
	char *told[WARNINGS_MAX];
	int n;

	store_lock(ks);
	n = ks->n_warning;
	memcpy(told, ks->warning, sizeof told);
	ks->n_warning = 0;
	store_unlock(ks);
	for (int i = 0; i < n; i++) {
		if (ks->opt.warn)
			ks->opt.warn(ks->opt.warn_ctx, told[i]);
		mem_free(told[i]);
	}
}

/* ------------------------------------------------------------------ the directory */

bool store_claim(struct kvstore *ks)
{
	char path[STORE_PATH];
	struct err err = {0};
	enum status st = io_make_folder(ks->dir, &err);

	io_close(ks->lock_fd);
	ks->lock_fd = -1;
	if (st == OK) {
		store_path(ks, LOCK_NAME, path);
		st = io_lock(&ks->lock_fd, path, &err);
	}
	if (st == ERR_LIMIT)
		store_warn(ks, "lock", "%s: another process writes here; this one reads what there is and stores nothing",
			   ks->dir);
	else if (st != OK)
		store_warn(ks, "claim", "%s; nothing will be stored", err.msg);
	return st == OK;
}

/* An absolute path that chdir does not change. */
static enum status set_dir(struct kvstore *ks, const char *dir, struct err *err)
{
	char *real;

	if (strlen(dir) >= STORE_DIR)
		return err_set(err, ERR_ARGUMENT, "kv directory: expected a path of at most %d bytes, got %zu", STORE_DIR - 1,
			       strlen(dir));
	memcpy(ks->dir, dir, strlen(dir) + 1);
	if (!ks->opt.read_only) {
		store_lock(ks);
		ks->writes = store_claim(ks);
		store_unlock(ks);
	}
	real = realpath(dir, NULL);
	if (real && strlen(real) < sizeof ks->dir)
		memcpy(ks->dir, real, strlen(real) + 1);
	free(real);
	return OK;
}

struct names {
	char (*name)[STORE_NAME];
	size_t n, room;
	uint64_t other;			/* *.kv with names too long to be ours */
	bool failed;
};

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n >= k && strcmp(s + n - k, end) == 0;
}

static bool add_name(void *ctx, const char *name)
{
	struct names *l = ctx;

	if (!ends_with(name, ".kv") && !ends_with(name, ".kv.tmp"))
		return true;
	if (strlen(name) >= STORE_NAME) {
		l->other++;
		return true;
	}
	if (l->n == l->room) {
		size_t room = l->room ? 2 * l->room : 256;
		void *p = mem_grow(l->name, room, STORE_NAME);

		if (!p) {
			l->failed = true;
			return false;
		}
		l->name = p;
		l->room = room;
	}
	snprintf(l->name[l->n++], STORE_NAME, "%s", name);
	return true;
}

/* ------------------------------------------------------------------ scanning */

/* Enters what a header says. */
static enum status enter_file(struct kvstore *ks, const char *name, const struct kvfile_header *h,
			      const struct kvfile_record *r, struct err *err)
{
	struct store_file *f = index_add_file(&ks->index, name, h->fingerprint, h->file_bytes, h->n);

	for (uint32_t i = 0; f && i < h->n; i++) {
		struct entry *e = index_get(&ks->index, r[i].key);

		if (!e)
			e = index_add(&ks->index, r[i].key, r[i].before, h->fingerprint, r[i].end, r[i].token);
		if (!e) {
			f = NULL;
			break;
		}
		if (e->part[r[i].kind].place == PLACE_FILE)
			continue;	/* a process was killed between writing a file anew and removing the old one */
		index_set_part(&ks->index, e, r[i].kind, f, r[i].offset, r[i].bytes, r[i].sum);
		if (!e->created || r[i].created < e->created)
			e->created = r[i].created;
		if ((double)r[i].created > e->used)
			e->used = (double)r[i].created;
	}
	return f ? OK : err_set(err, ERR_MEMORY, "no memory for the index of stored blocks");
}

/* Several threads read headers: on a cold disk that is waiting, mostly. */
enum { SCAN_THREADS = 4, SCAN_FILES = 16 };	/* files that are worth a thread */

struct scan {			/* guarded by the store's lock */
	struct kvstore *ks;
	const struct names *l;
	size_t next;
	uint64_t foreign;
	char example[STORE_NAME];
	enum status st;
	struct err err;
};

struct header {			/* one thread's */
	struct kvfile_header h;
	struct kvfile_record record[KVFILE_RECORDS];
	uint8_t head[KVFILE_HEADER];
	uint64_t bytes;
	struct err reason;
};

/* Locked.  A file that is not right: counted and left alone; a damaged one waits for gc. */
static enum status set_aside(struct scan *s, const char *name, enum status why, const struct header *f, struct err *err)
{
	struct kvstore *ks = s->ks;
	struct store_file *file;

	if (why == ERR_NOT_FOUND) {
		if (!s->foreign++)
			snprintf(s->example, sizeof s->example, "%s", name);
		return OK;
	}
	if (why == ERR_LIMIT) {
		store_warn(ks, "version", "%s; it and its like are left alone", f->reason.msg);
		return OK;
	}
	if (why != ERR_FORMAT) {
		ks->stats.errors++;
		store_warn(ks, "scan", "%s; what is in there is not used", f->reason.msg);
		return OK;
	}
	ks->stats.damaged++;
	store_warn(ks, "damaged", "%s; it is not used, `ds4 kv gc` removes it", f->reason.msg);
	file = index_add_file(&ks->index, name, (struct tree_key){0}, f->bytes, 0);
	if (!file)
		return err_set(err, ERR_MEMORY, "no memory for the index of stored blocks");
	file->damaged = true;
	return OK;
}

/* Not locked.  *gone: its owner has just removed it. */
static enum status read_header(const struct kvstore *ks, const char *name, struct header *f, bool *gone)
{
	char path[STORE_PATH];
	size_t got = 0;
	int fd = -1;
	enum status st;

	f->bytes = 0;
	store_path(ks, name, path);
	st = io_open(&fd, path, &f->reason);
	*gone = st == ERR_NOT_FOUND;
	if (st == OK)
		st = io_size(fd, path, &f->bytes, &f->reason);
	if (st == OK)
		st = io_read_some(fd, path, f->head, sizeof f->head, 0, &got, &f->reason);
	io_close(fd);
	return st == OK ? kvfile_decode(&f->h, f->record, f->head, got, f->bytes, path, &f->reason) : st;
}

static void *scan_files(void *ctx)
{
	struct scan *s = ctx;
	struct header *f = mem_alloc(sizeof *f);

	store_lock(s->ks);
	while (f && s->st == OK && s->next < s->l->n) {
		const char *name = s->l->name[s->next++];
		bool gone;
		enum status st;

		if (!ends_with(name, ".kv"))
			continue;
		store_unlock(s->ks);
		st = read_header(s->ks, name, f, &gone);
		store_lock(s->ks);
		if (gone)
			continue;
		if (st == OK)
			s->st = enter_file(s->ks, name, &f->h, f->record, &s->err);
		else
			s->st = set_aside(s, name, st, f, &s->err);
	}
	if (!f && s->st == OK)
		s->st = err_set(&s->err, ERR_MEMORY, "no memory to read the headers of stored blocks");
	store_unlock(s->ks);
	mem_free(f);
	return NULL;
}

/* What a killed process had begun to write; nobody else writes here. */
static void sweep(const struct kvstore *ks, const struct names *l)
{
	char path[STORE_PATH];

	for (size_t i = 0; ks->writes && i < l->n; i++) {
		if (ends_with(l->name[i], ".kv"))
			continue;
		store_path(ks, l->name[i], path);
		io_remove(path, NULL);
	}
}

static enum status scan_all(struct kvstore *ks, const struct names *l, struct err *err)
{
	struct scan s = {.ks = ks, .l = l, .foreign = l->other, .example = "one with a long name"};
	pthread_t thread[SCAN_THREADS];
	int n = 0;

	while (n < SCAN_THREADS - 1 && (size_t)n < l->n / SCAN_FILES && pthread_create(&thread[n], NULL, scan_files, &s) == 0)
		n++;
	scan_files(&s);
	while (n > 0)
		pthread_join(thread[--n], NULL);
	if (s.st != OK)
		return err_set(err, s.st, "%s", s.err.msg);
	sweep(ks, l);
	if (s.foreign)
		store_warn(ks, "foreign", "%s: %llu files are not of the store, for example %s; they are left alone", ks->dir,
			   (unsigned long long)s.foreign, s.example);
	return OK;
}

static enum status scan(struct kvstore *ks, struct err *err)
{
	struct names l = {0};
	struct err reason = {0};
	enum status st = io_list(ks->dir, add_name, &l, &reason);

	if (st != OK && (ks->writes || st != ERR_NOT_FOUND)) {
		ks->stats.errors++;
		store_warn(ks, "claim", "%s; nothing that was stored is used", reason.msg);
	}
	st = l.failed ? err_set(err, ERR_MEMORY, "no memory for the names of stored files") : scan_all(ks, &l, err);
	mem_free(l.name);
	return st;
}

/* ------------------------------------------------------------------ opening and closing */

static void set_options(struct kvstore *ks, const struct kvstore_options *opt)
{
	ks->opt = *opt;
	ks->opt.dir = NULL;
	if (ks->opt.gather <= 0)
		ks->opt.gather = 0.5;
	if (ks->opt.settle <= 0)
		ks->opt.settle = 10;
	if (!ks->opt.check_every)
		ks->opt.check_every = 512;
	if (!ks->opt.staging)
		ks->opt.staging = (uint64_t)64 << 20;
	if (ks->opt.readers < 1)
		ks->opt.readers = 4;
	ks->staging = ks->opt.staging;
}

enum status kvstore_open(struct kvstore **out, const struct kvstore_options *opt, struct err *err)
{
	enum status st = OK;
	struct kvstore *ks;

	*out = NULL;
	if (!opt->dir || !opt->dir[0])
		return err_set(err, ERR_ARGUMENT, "kv directory: expected a path, got nothing");
	ks = mem_zero(sizeof *ks);
	if (!ks)
		return err_set(err, ERR_MEMORY, "no memory for the store of blocks");
	set_options(ks, opt);
	ks->lock_fd = -1;
	ks->last = &ks->first;
	pthread_mutex_init(&ks->lock, NULL);
	pthread_cond_init(&ks->work, NULL);
	pthread_cond_init(&ks->quiet, NULL);
	TRY_TO(out, set_dir(ks, opt->dir, err));
	TRY_TO(out, index_open(&ks->index, err));
	TRY_TO(out, scan(ks, err));
	uses_read(ks);
	if (ks->writes)
		TRY_TO(out, writer_start(ks, err));
	store_tell(ks);
	*out = ks;
	ks = NULL;
out:
	kvstore_close(ks);
	return st;
}

void kvstore_close(struct kvstore *ks)
{
	if (!ks)
		return;
	kvstore_detach(ks);
	writer_stop(ks);
	if (ks->writes)
		uses_write(ks);
	store_tell(ks);
	io_close(ks->lock_fd);
	while (ks->first) {
		struct job *j = ks->first;

		ks->first = j->next;
		mem_free(j);
	}
	index_clear(&ks->index);
	pthread_mutex_destroy(&ks->lock);
	pthread_cond_destroy(&ks->work);
	pthread_cond_destroy(&ks->quiet);
	mem_free(ks);
}

void kvstore_stats(const struct kvstore *ks, struct kvstore_stats *out)
{
	struct kvstore *mine = (struct kvstore *)(uintptr_t)ks;	/* for its lock alone */

	store_lock(mine);
	*out = ks->stats;
	out->bytes = ks->index.bytes;
	out->budget = ks->opt.budget;
	out->entries = (uint64_t)(ks->index.n_entry - ks->index.n_banned);
	out->checks = (uint64_t)ks->index.n_check;
	out->files = (uint64_t)ks->index.n_file;
	out->queued_bytes = ks->queued_bytes;
	store_unlock(mine);
}
