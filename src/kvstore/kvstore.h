/* kvstore.h - the second place of the prefix tree: blocks and checkpoints in files, found again by token ids.
 *
 * A directory of self-describing files (docs/formats/kv.md), an index of them in memory, and a thread that writes.
 * An entry is what the tree calls a node: a block of 128 tokens, known by the hash chain of its token ids, and maybe a
 * checkpoint behind it.  Entries of several models live in one directory: their keys begin with other fingerprints.
 *   D1  what is loaded has the bits that were stored (a checksum for each block and checkpoint, checked before use), or
 *       is not there
 *   D2  nothing here is needed for a correct answer: whatever fails is a warning, a count, and something to read again
 *   D3  a file is whole or absent, at any moment a process can be killed; it is never changed after that
 *   D4  the engine's thread copies, counts and looks up; it waits for a disk only in load, flush and the maintenance
 *       functions, never while it decodes
 *   D5  the store holds no reference to anything of the pool
 * One process writes in a directory.  A second one gets a warning and reads what is there; so does one that may not
 * write.
 * Thread: every function on the engine's thread (the one that drives the tree); the writer is inside.  kvstore_stats()
 * from any thread.  Layers: this folder includes engine/tree.h; engine does not know it, callers attach it. */
#ifndef DS4_KVSTORE_KVSTORE_H
#define DS4_KVSTORE_KVSTORE_H

#include "engine/tree.h"

struct kvstore;

struct kvstore_options {
	const char *dir;	/* made when absent, with its parents, for its owner only */
	uint64_t budget;	/* bytes of files; 0 = no limit.  Applied at opening and while writing */
	bool read_only;		/* never writes, deletes or locks */
	double gather;		/* seconds that something waits for company in its file; 0 = 0.5 */
	double settle;		/* seconds that a leaf's checkpoint waits whether it stays the last; 0 = 10 */
	int32_t check_every;	/* tokens between checkpoints that are kept for good; 0 = 512 */
	uint64_t staging;	/* bytes of copies that may wait for the writer; 0 = 64 MiB */
	int readers;		/* threads of a load; 0 = 4 */
	/* Told one sentence for every kind of trouble (not for every time).  On the caller's thread, from within the
	 * functions below and the tree's calls.  NULL = nobody. */
	void (*warn)(void *ctx, const char *sentence);
	void *warn_ctx;
};

#define KVSTORE_BUDGET_DEFAULT ((uint64_t)8 << 30)

/* Reads the headers of all files.  A directory that cannot be made, read or written is no failure (a warning, and a
 * store that has nothing or takes nothing); ERR_MEMORY and ERR_ARGUMENT are. */
enum status kvstore_open(struct kvstore **out, const struct kvstore_options *opt, struct err *err);

/* Lets go of the tree; what waits to be written is lost (flush before).  NULL allowed.  Before the tree is closed. */
void kvstore_close(struct kvstore *ks);

const char *kvstore_dir(const struct kvstore *ks);
bool kvstore_writes(const struct kvstore *ks);	/* false: read-only, or another process has the directory */

/* Becomes the tree's tier.  One tree at a time; fingerprint is the tree's.  ERR_MEMORY. */
enum status kvstore_attach(struct kvstore *ks, struct tree *tree, struct kv_pool *pool, struct tree_key fingerprint,
			   struct err *err);
void kvstore_detach(struct kvstore *ks);	/* what is copied already is still written */

/* Everything the tree has that belongs on disk, and all that waits, is on disk when this returns OK: for the end of a
 * program, before a conversation's name is shown as saved, and for tests.  ERR_IO: something could not be written.
 * On a store that does not write: OK, nothing. */
enum status kvstore_flush(struct kvstore *ks, struct err *err);

/* The tree calls this between steps (tree_poll); callers without a scheduler may, too: it copies checkpoints that have
 * settled and delivers warnings.  True: again in a while. */
bool kvstore_poll(struct kvstore *ks);

/* ------------------------------------------------------------------ looking */

struct kvstore_entry {
	struct tree_key key, before;	/* before: of the block before; of the first one: the fingerprint */
	struct tree_key fingerprint;	/* model, numbers and layout it belongs to */
	int32_t end;			/* tokens of the conversation up to and including this block: 128, 256, ... */
	int32_t token[GEOM_BLOCK];
	uint64_t bytes, check_bytes;	/* of the block, of the checkpoint (0 = has none) */
	uint64_t created, used;		/* seconds since 1970 */
	uint32_t hits;			/* times a timeline continued from here or from behind */
	int32_t children;		/* entries that go on from here: 0 = the end of a conversation */
	bool usable;			/* all before it is there, too */
};

/* Calls fn for every entry, in no order, until it says false.  fn may call kvstore_get().  A chain is walked from an
 * entry without children through `before`. */
void kvstore_each(struct kvstore *ks, bool (*fn)(void *ctx, const struct kvstore_entry *e), void *ctx);
bool kvstore_get(struct kvstore *ks, struct tree_key key, struct kvstore_entry *out);

/* What it could give to a list of n tokens that begins with this fingerprint: tokens up to the last checkpoint. */
int32_t kvstore_find(struct kvstore *ks, struct tree_key fingerprint, const int32_t *token, int32_t n);

struct kvstore_stats {
	uint64_t bytes, budget;		/* of all files; allowed */
	uint64_t entries, checks, files;
	uint64_t queued, queued_bytes;	/* blocks and checkpoints that wait for the writer */
	uint64_t written, written_bytes;	/* since it was opened; likewise below */
	uint64_t loaded, loaded_bytes;	/* blocks and checkpoints */
	uint64_t load_us;		/* microseconds of all loads */
	uint64_t evicted;		/* entries */
	uint64_t skipped;		/* offered while the writer could not keep up, or the disk is full */
	uint64_t errors;		/* input and output that failed */
	uint64_t damaged;		/* files and sections whose checksum was wrong */
};

void kvstore_stats(const struct kvstore *ks, struct kvstore_stats *out);

/* ------------------------------------------------------------------ maintenance: these wait for the disk */

/* Removes `key` and all that goes on from it; chain: also what is before it, as far as nobody else goes on from
 * there.  *freed: bytes, may be NULL.  ERR_NOT_FOUND; ERR_IO when the store does not write. */
enum status kvstore_remove(struct kvstore *ks, struct tree_key key, bool chain, uint64_t *freed, struct err *err);

struct kvstore_gc {
	uint64_t entries, checks, files;	/* removed */
	uint64_t before, after;			/* bytes of files */
};

/* Removes damaged files, leftovers of killed processes, entries that cannot be reached; then what is worth least until
 * `budget` holds (0 = the store's own); then rewrites files that are mostly holes. */
enum status kvstore_gc(struct kvstore *ks, uint64_t budget, struct kvstore_gc *out, struct err *err);

struct kvstore_verify {
	uint64_t files, sections, bytes;	/* that were right */
	uint64_t bad;				/* files and sections that were not: no longer used from now on */
};

/* Reads everything and compares every checksum.  progress: bytes done of all, false cancels (ERR_CANCELLED); bad: one
 * sentence for each.  Both may be NULL.  OK even when something is bad. */
enum status kvstore_verify(struct kvstore *ks, bool (*progress)(void *ctx, uint64_t done, uint64_t all),
			   void (*bad)(void *ctx, const char *sentence), void *ctx, struct kvstore_verify *out,
			   struct err *err);

#endif
