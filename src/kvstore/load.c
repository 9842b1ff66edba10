/* load.c - reads many sections at once: several threads read and check, the engine's thread takes over.
 *
 * What  load_run() brings blocks and a checkpoint from files into the pool's memory.
 * Why   One thread that reads, checks and copies in turn leaves the disk idle two thirds of the time.
 * How   Jobs in the order in which they lie on the disk; each thread takes the next one, reads it into a free buffer and
 *       compares the checksum; the caller hands full buffers to the backend, because only its thread may.
 * Careful
 *       - A section whose checksum is wrong never reaches put().
 *       - Without a second thread, or memory for more buffers, it works all the same, more slowly. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kvstore/kvstore_int.h"

enum { THREADS_MAX = 16, BUFFERS_MAX = 2 * THREADS_MAX };

enum buffer_state { BUFFER_FREE, BUFFER_TAKEN, BUFFER_FULL };

struct loader {
	struct kvstore *ks;
	struct load_job *job;
	int32_t n, next, finished;	/* jobs: all, taken, put or failed */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct {
		uint8_t *p;
		enum buffer_state state;
		int32_t job;
	} buffer[BUFFERS_MAX];
	int n_buffer;
};

/* The file that a thread read last stays open. */
struct reader {
	const struct store_file *file;
	int fd;
	char path[STORE_PATH];
};

enum status load_section(const struct kvstore *ks, int fd, const char *path, const struct load_job *j, void *p, struct err *err)
{
	struct hash128 sum;

	(void)ks;
	TRY(io_read(fd, path, p, (size_t)j->bytes, j->offset, err));
	sum = hash128(p, (size_t)j->bytes);
	if (sum.low != j->sum.low || sum.high != j->sum.high)
		return err_set(err, ERR_FORMAT, "%s: the checksum of the %llu bytes at %llu is wrong", path,
			       (unsigned long long)j->bytes, (unsigned long long)j->offset);
	return OK;
}

static enum status read_job(struct loader *l, struct reader *r, struct load_job *j, void *p)
{
	if (r->file != j->file) {
		enum status st;

		io_close(r->fd);
		r->file = NULL;
		store_path(l->ks, j->file->name, r->path);
		st = io_open(&r->fd, r->path, &j->err);
		if (st != OK)
			return st;
		r->file = j->file;
	}
	return load_section(l->ks, r->fd, r->path, j, p, &j->err);
}

/* With the loader's lock: a free buffer, -1 = none. */
static int free_buffer(const struct loader *l)
{
	for (int i = 0; i < l->n_buffer; i++)
		if (l->buffer[i].state == BUFFER_FREE)
			return i;
	return -1;
}

static void *read_jobs(void *ctx)
{
	struct loader *l = ctx;
	struct reader r = {.fd = -1};

	pthread_mutex_lock(&l->lock);
	while (l->next < l->n) {
		int at = free_buffer(l);
		struct load_job *j;

		if (at < 0) {
			pthread_cond_wait(&l->changed, &l->lock);
			continue;
		}
		l->buffer[at].state = BUFFER_TAKEN;
		l->buffer[at].job = l->next;
		j = &l->job[l->next++];
		pthread_mutex_unlock(&l->lock);
		j->st = read_job(l, &r, j, l->buffer[at].p);
		pthread_mutex_lock(&l->lock);
		l->buffer[at].state = j->st == OK ? BUFFER_FULL : BUFFER_FREE;
		l->finished += j->st != OK;
		pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
	io_close(r.fd);
	return NULL;
}

/* The caller's part, while others read. */
static void put_all(struct loader *l, void (*put)(void *ctx, void *to, const void *p, size_t n), void *ctx)
{
	pthread_mutex_lock(&l->lock);
	while (l->finished < l->n) {
		int at = 0;
		const struct load_job *j;

		while (at < l->n_buffer && l->buffer[at].state != BUFFER_FULL)
			at++;
		if (at == l->n_buffer) {
			pthread_cond_wait(&l->changed, &l->lock);
			continue;
		}
		l->buffer[at].state = BUFFER_TAKEN;
		j = &l->job[l->buffer[at].job];
		pthread_mutex_unlock(&l->lock);
		put(ctx, j->to, l->buffer[at].p, (size_t)j->bytes);
		pthread_mutex_lock(&l->lock);
		l->buffer[at].state = BUFFER_FREE;
		l->finished++;
		pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
}

/* No thread to be had: one after the other. */
static void alone(struct loader *l, void (*put)(void *ctx, void *to, const void *p, size_t n), void *ctx)
{
	struct reader r = {.fd = -1};

	for (int32_t i = 0; i < l->n; i++) {
		struct load_job *j = &l->job[i];

		j->st = read_job(l, &r, j, l->buffer[0].p);
		if (j->st == OK)
			put(ctx, j->to, l->buffer[0].p, (size_t)j->bytes);
	}
	io_close(r.fd);
}

static int by_place(const void *a, const void *b)
{
	const struct load_job *x = a, *y = b;
	int files = strcmp(x->file->name, y->file->name);

	return files ? files : (x->offset > y->offset) - (x->offset < y->offset);
}

void load_run(struct kvstore *ks, struct load_job *job, int32_t n, void (*put)(void *ctx, void *to, const void *p, size_t n),
	      void *ctx)
{
	int want = ks->opt.readers < THREADS_MAX ? ks->opt.readers : THREADS_MAX, threads = 0;
	struct loader l = {.ks = ks, .job = job, .n = n};
	pthread_t thread[THREADS_MAX];
	uint64_t most = 0;

	qsort(job, (size_t)n, sizeof *job, by_place);
	for (int32_t i = 0; i < n; i++)
		most = job[i].bytes > most ? job[i].bytes : most;
	want = want < n ? want : n;
	while (l.n_buffer < 2 * want && (l.buffer[l.n_buffer].p = mem_alloc((size_t)most)) != NULL)
		l.n_buffer++;
	for (int32_t i = 0; l.n_buffer == 0 && i < n; i++)
		job[i].st = err_set(&job[i].err, ERR_MEMORY, "no memory to read a stored block of %llu bytes",
				    (unsigned long long)most);
	if (l.n_buffer == 0)
		return;
	pthread_mutex_init(&l.lock, NULL);
	pthread_cond_init(&l.changed, NULL);
	while (threads < want && pthread_create(&thread[threads], NULL, read_jobs, &l) == 0)
		threads++;
	if (threads)
		put_all(&l, put, ctx);
	else
		alone(&l, put, ctx);
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	pthread_mutex_destroy(&l.lock);
	pthread_cond_destroy(&l.changed);
	for (int i = 0; i < l.n_buffer; i++)
		mem_free(l.buffer[i].p);
}
