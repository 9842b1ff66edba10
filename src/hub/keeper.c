/* keeper.c - one thread that hashes the complete front of the file and notes on disk what is there.
 *
 * What  SHA-256 of the bytes [0, prefix) while later ranges still arrive; every second: flush, then journal.
 * Why   A digest over 80 GiB takes a minute.  Done alongside, it is ready just after the last byte; and a flush that
 *       takes a second must not stop the network.
 * How   The network thread adds ranges under the lock.  This thread reads the front back, from the page cache as a
 *       rule, in pieces of 4 MiB.  After a resume it begins at byte 0 again: the journal's word is not a digest.
 * Careful
 *       - The journal may name only bytes that survive a power cut: take the set, flush the data, write the set.
 *       - Hashed bytes are never written again: a range once added stays as it is (keep_prefix drops later ones only).
 * Thread: every function but keeper_open and keeper_close may be called while the thread runs. */
#include "hub/keeper_int.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

#define PIECE (4u << 20)

struct keeper {
	pthread_t thread;
	bool running;
	int fd;
	const char *part, *journal;	/* borrowed */
	struct hub_file file;		/* strings borrowed; size and digest by value */
	double journal_s;
	EVP_MD_CTX *hash;
	uint8_t *piece;

	pthread_mutex_t lock;		/* guards what follows */
	pthread_cond_t changed;
	struct ranges done;
	uint64_t hashed;
	bool stop, dirty;		/* dirty: the journal is behind */
	struct err err;
};

/* ------------------------------------------------------------------ reading and hashing */

static enum status read_at(int fd, const char *path, uint8_t *to, size_t n, uint64_t at, struct err *err)
{
	while (n) {
		ssize_t got = pread(fd, to, n, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_set(err, ERR_IO, "%s: byte %llu: %s", path, (unsigned long long)at, strerror(errno));
		if (got == 0)
			return err_set(err, ERR_IO, "%s: ends at byte %llu: somebody else shortened it", path,
				       (unsigned long long)at);
		to += got;
		n -= (size_t)got;
		at += (uint64_t)got;
	}
	return OK;
}

static void hex(char out[HUB_SHA256_CHARS + 1], EVP_MD_CTX *hash)
{
	unsigned char raw[EVP_MAX_MD_SIZE];
	unsigned int n = 0;

	if (!EVP_DigestFinal_ex(hash, raw, &n) || n * 2 != HUB_SHA256_CHARS)
		n = 0;
	for (unsigned int i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", raw[i]);
	out[2 * n] = 0;
}

static EVP_MD_CTX *hash_new(void)
{
	EVP_MD_CTX *h = EVP_MD_CTX_new();

	if (h && EVP_DigestInit_ex(h, EVP_sha256(), NULL))
		return h;
	EVP_MD_CTX_free(h);
	return NULL;
}

enum status digest_file(char sha256[HUB_SHA256_CHARS + 1], int fd, const char *path, uint64_t size,
			bool (*step)(void *ctx, uint64_t done), void *ctx, struct err *err)
{
	EVP_MD_CTX *hash = hash_new();
	uint8_t *piece = mem_alloc(PIECE);
	enum status st = OK;
	size_t n;

	if (!hash || !piece)
		st = err_set(err, ERR_MEMORY, "%s: no memory to check it", path);
	for (uint64_t at = 0; st == OK && at < size; at += n) {
		n = size - at < PIECE ? (size_t)(size - at) : PIECE;
		st = read_at(fd, path, piece, n, at, err);
		if (st == OK && !EVP_DigestUpdate(hash, piece, n))
			st = err_set(err, ERR_IO, "%s: libcrypto cannot hash", path);
		if (st == OK && step && !step(ctx, at + n))
			st = err_set(err, ERR_CANCELLED, "stopped");
	}
	if (st == OK)
		hex(sha256, hash);
	mem_free(piece);
	EVP_MD_CTX_free(hash);
	return st;
}

/* ------------------------------------------------------------------ the thread */

static int flush(int fd)
{
#ifdef __APPLE__
	return fsync(fd);
#else
	return fdatasync(fd);
#endif
}

/* Called with the lock held; releases it while the disk works. */
static enum status note(struct keeper *k, struct err *err)
{
	struct ranges copy = {0};
	enum status st = OK;

	for (size_t i = 0; st == OK && i < k->done.n; i++)
		st = ranges_add(&copy, k->done.r[i].begin, k->done.r[i].end, err);
	k->dirty = false;
	pthread_mutex_unlock(&k->lock);
	if (st == OK && flush(k->fd) < 0)
		st = err_set(err, ERR_IO, "%s: %s", k->part, strerror(errno));
	if (st == OK)
		st = journal_write(k->journal, &k->file, &copy, err);
	ranges_clear(&copy);
	pthread_mutex_lock(&k->lock);
	return st;
}

/* Hashes the next piece of the front; the lock as in note(). */
static enum status hash_piece(struct keeper *k, struct err *err)
{
	uint64_t at = k->hashed, end = ranges_prefix(&k->done);
	size_t n = end - at < PIECE ? (size_t)(end - at) : PIECE;
	enum status st;

	pthread_mutex_unlock(&k->lock);
	st = read_at(k->fd, k->part, k->piece, n, at, err);
	if (st == OK && !EVP_DigestUpdate(k->hash, k->piece, n))
		st = err_set(err, ERR_IO, "%s: libcrypto cannot hash", k->part);
	pthread_mutex_lock(&k->lock);
	k->hashed = at + n;
	return st;
}

static void wait_a_little(struct keeper *k)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += 100 * 1000 * 1000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&k->changed, &k->lock, &t);
}

/* Worth a read: a whole piece, or the end of the file. */
static bool has_piece(const struct keeper *k)
{
	uint64_t prefix = ranges_prefix(&k->done);

	return prefix - k->hashed >= PIECE || (prefix == k->file.size && k->hashed < prefix);
}

static void *keep(void *ctx)
{
	struct keeper *k = ctx;
	struct err err = {.code = OK};
	enum status st = OK;
	double noted = clock_seconds();

	pthread_mutex_lock(&k->lock);
	while (st == OK && !k->stop) {
		if (k->dirty && clock_seconds() - noted >= k->journal_s) {
			st = note(k, &err);
			noted = clock_seconds();
		} else if (has_piece(k)) {
			st = hash_piece(k, &err);
		} else {
			wait_a_little(k);
		}
	}
	if (st == OK && k->dirty)
		st = note(k, &err);
	if (st != OK)
		k->err = err;
	pthread_mutex_unlock(&k->lock);
	return NULL;
}

/* ------------------------------------------------------------------ what others call */

enum status keeper_open(struct keeper **out, int fd, const char *part, const char *journal, const struct hub_file *file,
			double journal_s, struct ranges *done, struct err *err)
{
	struct keeper *k = mem_zero(sizeof *k);

	*out = NULL;
	if (!k)
		return err_set(err, ERR_MEMORY, "%s: no memory to check it", part);
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->changed, NULL);
	k->fd = fd;
	k->part = part;
	k->journal = journal;
	k->file = *file;
	k->journal_s = journal_s;
	k->hash = hash_new();
	k->piece = mem_alloc(PIECE);
	if (!k->hash || !k->piece || pthread_create(&k->thread, NULL, keep, k) != 0) {
		keeper_close(k);
		return err_set(err, ERR_MEMORY, "%s: no memory to check it", part);
	}
	k->running = true;
	pthread_mutex_lock(&k->lock);
	k->done = *done;
	pthread_mutex_unlock(&k->lock);
	memset(done, 0, sizeof *done);
	*out = k;
	return OK;
}

enum status keeper_add(struct keeper *k, uint64_t begin, uint64_t end, struct err *err)
{
	enum status st;

	pthread_mutex_lock(&k->lock);
	st = ranges_add(&k->done, begin, end, err);
	k->dirty = true;
	if (has_piece(k))
		pthread_cond_signal(&k->changed);
	pthread_mutex_unlock(&k->lock);
	return st;
}

void keeper_keep_prefix(struct keeper *k)
{
	pthread_mutex_lock(&k->lock);
	ranges_cut(&k->done, ranges_prefix(&k->done));
	k->dirty = true;
	pthread_mutex_unlock(&k->lock);
}

struct range keeper_gap(struct keeper *k, uint64_t from)
{
	struct range r;

	pthread_mutex_lock(&k->lock);
	r = ranges_gap(&k->done, from, k->file.size);
	pthread_mutex_unlock(&k->lock);
	return r;
}

uint64_t keeper_prefix(struct keeper *k)
{
	uint64_t n;

	pthread_mutex_lock(&k->lock);
	n = ranges_prefix(&k->done);
	pthread_mutex_unlock(&k->lock);
	return n;
}

enum status keeper_state(struct keeper *k, uint64_t *done, uint64_t *hashed, struct err *err)
{
	enum status st;

	pthread_mutex_lock(&k->lock);
	*done = k->done.bytes;
	*hashed = k->hashed;
	st = k->err.code;
	if (st != OK && err)
		*err = k->err;
	pthread_mutex_unlock(&k->lock);
	return st;
}

static void join(struct keeper *k)
{
	if (!k->running)
		return;
	pthread_mutex_lock(&k->lock);
	k->stop = true;
	pthread_cond_signal(&k->changed);
	pthread_mutex_unlock(&k->lock);
	pthread_join(k->thread, NULL);
	k->running = false;
}

enum status keeper_finish(struct keeper *k, char sha256[HUB_SHA256_CHARS + 1], struct err *err)
{
	join(k);
	if (sha256)
		sha256[0] = 0;
	if (k->err.code != OK) {
		if (err)
			*err = k->err;
		return k->err.code;
	}
	if (sha256 && k->hashed == k->file.size)
		hex(sha256, k->hash);
	return OK;
}

void keeper_close(struct keeper *k)
{
	if (!k)
		return;
	if (k->running) {
		pthread_mutex_lock(&k->lock);
		k->dirty = false;
		pthread_mutex_unlock(&k->lock);
	}
	join(k);
	ranges_clear(&k->done);
	EVP_MD_CTX_free(k->hash);
	mem_free(k->piece);
	pthread_cond_destroy(&k->changed);
	pthread_mutex_destroy(&k->lock);
	mem_free(k);
}
