/* kvstore_int.h - what the files of the store share.
 *   store.c   opening, scanning, closing, warnings, statistics; the directory
 *   index.c   entries by key, files, hits: the picture of the directory in memory
 *   uses.c    the file that remembers hits and times
 *   tier.c    the tree's calls: what is copied when, what is found
 *   load.c    parallel reading
 *   writer.c  the queue and the thread; one file out of many copies
 *   tidy.c    what is worth least, rewriting files with holes
 *   look.c    listing, removing, gc, verify: the maintenance part of kvstore.h
 *
 * Locks: `lock` guards everything that says so; it is never held across a system call that waits for a disk.  Functions
 * whose comment says "locked" are called with it. */
#ifndef DS4_KVSTORE_KVSTORE_INT_H
#define DS4_KVSTORE_KVSTORE_INT_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

#include "kvstore/io.h"
#include "kvstore/kvfile.h"
#include "kvstore/kvstore.h"

enum {
	STORE_NAME = 32,			/* bytes of a file's name */
	STORE_PATH = PATH_MAX,
	STORE_DIR = PATH_MAX - 64,		/* of the directory's path */
	FILE_DATA_MAX = 32 << 20,		/* sections of one file, unless a single one is larger */
	REST_SECONDS = 30,			/* without writing, after it failed */
	FRESH_SECONDS = 120,			/* a block without a checkpoint is not yet worthless */
	SENTENCE = 480
};

enum place {
	PLACE_NONE,
	PLACE_QUEUED,		/* in `copy`, waits for the writer */
	PLACE_WRITING,		/* in `copy`, the writer is at it */
	PLACE_FILE		/* in `file` */
};

struct section {
	enum place place;
	uint64_t bytes;
	uint8_t *copy;		/* QUEUED, WRITING */
	struct store_file *file;	/* FILE */
	uint64_t offset;
	struct hash128 sum;
};

struct entry {
	struct entry *next;	/* in its bucket */
	struct tree_key key, before, fingerprint;
	int32_t end;
	int32_t at;		/* in index.entry */
	int32_t children;	/* this and the next: set by index_chains() */
	enum reach { REACH_UNKNOWN, REACH_YES, REACH_NO } reach;	/* is all before it there, too? */
	uint32_t hits;
	bool banned;		/* removed while a tree may still have it: stays, empty, and is not stored again */
	bool spent;		/* what went on from it was let go: not an end that still grows */
	bool mark;		/* for whoever walks over all */
	uint64_t created;
	double used;		/* seconds since 1970; the fraction decides among those of one burst */
	struct section part[2];	/* by kvfile_kind */
	int32_t token[GEOM_BLOCK];
};

struct store_file {
	char name[STORE_NAME];
	struct tree_key fingerprint;
	int32_t at;		/* in index.file */
	uint64_t bytes;
	uint32_t records, live;	/* sections; those that entries refer to */
	uint64_t live_bytes;
	int pins;		/* loads that read it */
	bool gone;		/* to be removed with its last pin */
	bool damaged;		/* its header is wrong: only counts and waits for gc */
	bool stuck;		/* could not be removed or rewritten: left alone until gc */
};

/* Guarded by the store's lock. */
struct index {
	struct entry **bucket;	/* [n_bucket], a power of two */
	size_t n_bucket;
	struct entry **entry;	/* [n_entry], no order */
	int32_t n_entry, room;
	struct store_file **file;	/* [n_file], no order */
	int32_t n_file, file_room;
	int32_t n_check;	/* entries with a checkpoint somewhere */
	int32_t n_banned;
	bool chained;		/* children and reach are up to date */
	uint64_t bytes;		/* of all files */
	uint64_t live_bytes;	/* of sections in files */
};

struct job {		/* one copy on its way to the disk */
	struct job *next;
	struct tree_key key;
	enum kvfile_kind kind;
	uint64_t bytes[2];	/* of blocks and checkpoints of its model */
	double since;
};

struct pending {	/* a checkpoint of a leaf: is it still one when it is due? */
	struct tree_key key;
	double due;
};

enum { PENDING_MAX = 256, WARNINGS_MAX = 32, WARNINGS_KINDS = 64 };

struct kvstore {
	struct kvstore_options opt;
	char dir[STORE_DIR];
	int lock_fd;
	bool writes;
	/* the tree's side, engine's thread only */
	struct tree *tree;
	struct kv_pool *pool;
	struct tree_key fingerprint;
	struct pending pending[PENDING_MAX];	/* ring */
	int32_t pending_head, n_pending;
	/* shared */
	pthread_mutex_t lock;
	pthread_cond_t work;			/* to the writer */
	pthread_cond_t quiet;			/* from the writer: something is finished */
	pthread_t thread;
	bool has_thread, stop, busy;
	int hurry;				/* somebody waits for the queue to be empty */
	int paused;				/* the engine's thread works on the files itself */
	double uses_written;
	double rest_until;
	struct batch *batch;			/* the writer's */
	struct job *first, **last;
	uint64_t queued_bytes, staging;
	struct index index;
	bool uses_changed;
	uint64_t name_count;
	struct kvstore_stats stats;		/* bytes, entries, checks, files: computed when asked for */
	bool over_budget;			/* and nothing can be done about it */
	uint64_t failures;			/* files that could not be written */
	struct err write_err;			/* of the last of them */
	char *warning[WARNINGS_MAX];		/* not yet told */
	atomic_int n_warning;
	uint64_t warned[WARNINGS_KINDS];	/* kinds that were told already */
	int n_warned;
};

static inline bool key_is(struct tree_key a, struct tree_key b)
{
	return a.low == b.low && a.high == b.high;
}

/* ------------------------------------------------------------------ store.c */

void store_lock(struct kvstore *ks);
void store_unlock(struct kvstore *ks);
double store_now(void);				/* seconds since 1970 */
/* dir + "/" + name.  out [STORE_PATH] */
void store_path(const struct kvstore *ks, const char *name, char *out);
/* Locked: keeps a sentence for store_tell(); `kind` once only. */
void store_warn(struct kvstore *ks, const char *kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void store_tell(struct kvstore *ks);			/* not locked: hands what is kept to opt.warn */
/* Makes the directory and takes the lock; false: not writable (a warning is kept).  Locked. */
bool store_claim(struct kvstore *ks);

/* ------------------------------------------------------------------ index.c: all locked */

enum status index_open(struct index *x, struct err *err);
void index_clear(struct index *x);
struct entry *index_get(const struct index *x, struct tree_key key);
struct entry *index_add(struct index *x, struct tree_key key, struct tree_key before, struct tree_key fingerprint, int32_t end,
			const int32_t *token);		/* NULL without memory */
struct store_file *index_add_file(struct index *x, const char *name, struct tree_key fingerprint, uint64_t bytes,
				  uint32_t records);
/* A copy (the index takes it) waits for the writer. */
void index_hold(struct index *x, struct entry *e, enum kvfile_kind kind, uint8_t *copy, uint64_t bytes);
/* It will not be written: the copy goes, and the entry if that was all of it. */
void index_let_go(struct index *x, struct entry *e, enum kvfile_kind kind);
/* The section is from now on in that file (a copy goes). */
void index_set_part(struct index *x, struct entry *e, enum kvfile_kind kind, struct store_file *f, uint64_t offset,
		    uint64_t bytes, struct hash128 sum);
/* Forgets a section that is in a file; an entry without any goes, too. */
void index_drop_part(struct index *x, struct entry *e, enum kvfile_kind kind);
/* Forgets an entry unless something of it waits for the writer: then false. */
bool index_drop_entry(struct index *x, struct entry *e);
void index_drop_file(struct index *x, struct store_file *f);	/* nothing may refer to it */
void index_drop_all(struct index *x);		/* all that is in files: the directory has vanished */
void index_chains(struct index *x);		/* children and reach of every entry */

/* ------------------------------------------------------------------ uses.c */

void uses_read(struct kvstore *ks);		/* while opening */
void uses_apply(struct index *x, const char *p, size_t n);	/* any bytes */
void uses_write(struct kvstore *ks);		/* not locked; failing is no error */

/* ------------------------------------------------------------------ load.c */

struct load_job {			/* a section of a file */
	struct tree_key key;
	enum kvfile_kind kind;
	struct store_file *file;	/* pinned by the caller */
	uint64_t offset, bytes;
	struct hash128 sum;
	void *to;			/* device memory; undefined after a failure */
	enum status st;			/* out: OK, or why not; ERR_FORMAT = the checksum is wrong */
	struct err err;
};

/* Reads all jobs with several threads and checks each.  On a backend without host memory good ones are uploaded on the
 * caller's thread.  Orders the jobs by place.  Not locked. */
void load_run(struct kvstore *ks, struct load_job *job, int32_t n, struct backend *be);
/* Lets the disk begin with what will be asked for in a moment. */
void load_ahead(struct kvstore *ks, struct load_job *job, int32_t n);
/* One section into p; the file need not be pinned if nobody else can remove it. */
enum status load_section(const struct kvstore *ks, int fd, const char *path, const struct load_job *j, void *p, struct err *err);

/* ------------------------------------------------------------------ writer.c */

enum status writer_start(struct kvstore *ks, struct err *err);
void writer_stop(struct kvstore *ks);
/* Locked.  Waits until the writer has nothing in hand, and keeps it so; nests. */
void writer_pause(struct kvstore *ks);
void writer_resume(struct kvstore *ks);
void writer_wait(struct kvstore *ks, double seconds);	/* locked; the thread itself: until it is woken, or so long */
void writer_drain(struct kvstore *ks);		/* locked: waits until the queue is empty */

/* Writes a file of h->n sections with the bytes p[i], n = r[i].bytes, and makes it last.  Not locked.  Out: h, the places
 * and checksums in r, and its name [STORE_NAME].  On failure nothing is left. */
enum status store_write_file(struct kvstore *ks, struct kvfile_header *h, struct kvfile_record *r, const uint8_t *const *p,
			     char *name, struct err *err);
void record_of(struct kvfile_record *r, const struct entry *e, enum kvfile_kind kind);	/* without place and checksum */

/* ------------------------------------------------------------------ tidy.c: whoever may change files: the writer, or who
 * has paused it.  All locked; those that say so give the lock up while they work. */

/* Room for `more` bytes within a budget (0 = none), as well as it can; false: there is none.  Gives up the lock. */
bool tidy_make_room(struct kvstore *ks, uint64_t more, uint64_t budget, struct kvstore_gc *out);
/* Forgets entries that cannot be reached. */
void tidy_unreachable(struct kvstore *ks, struct kvstore_gc *out);
/* One piece of housekeeping; false: there is none.  Gives up the lock. */
bool tidy_step(struct kvstore *ks);
/* Rewrites files with holes: with any, or those that are half empty.  Gives up the lock. */
void tidy_holes(struct kvstore *ks, bool any);
/* Takes a file that nothing refers to from the disk; when it is being read, afterwards.  False: it is still there.  Gives up
 * the lock. */
bool tidy_remove_file(struct kvstore *ks, struct store_file *f);
void tidy_unpin(struct kvstore *ks, struct store_file *f);	/* likewise, when it was the last pin of a file that goes */

#endif
