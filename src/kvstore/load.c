/* load.c - reads many sections at once: several threads read and check, the engine's thread takes over.
 *
 * What  load_run() brings blocks and a checkpoint from files into the pool's memory.
 * Why   One thread that reads, checks and copies in turn leaves the disk idle two thirds of the time.
 * How   Jobs in the order in which they lie on the disk; each thread takes the next one, reads it and compares the
 *       checksum: in place where the backend's memory is the host's, else in a free buffer, and the caller hands full
 *       buffers to the backend, because only its thread may.
 * Careful
 *       - Memory whose checksum was wrong holds anything: whoever asked must not use it.
 *       - Without a second thread, or memory for more buffers, it works all the same, more slowly. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kvstore/kvstore_int.h"

enum { THREADS_MAX = 16, BUFFERS_MAX = 2 * THREADS_MAX };

enum buffer_state { BUFFER_FREE, BUFFER_TAKEN, BUFFER_FULL };

struct loader {
	struct kvstore *ks;
	struct backend *be;
	struct load_job *job;
	int32_t n, next, finished;	/* jobs: all, taken, in their place or failed */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct {
		uint8_t *p;
		enum buffer_state state;
		int32_t job;
	} buffer[BUFFERS_MAX];
	int n_buffer;			/* 0: in place */
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

/* With the loader's lock, which is free while the disk works. */
static void next_job(struct loader *l, struct reader *r, int at)
{
	struct load_job *j = &l->job[l->next];
	void *p = at < 0 ? j->to : l->buffer[at].p;

	if (at >= 0) {
		l->buffer[at].state = BUFFER_TAKEN;
		l->buffer[at].job = l->next;
	}
	l->next++;
	pthread_mutex_unlock(&l->lock);
	j->st = read_job(l, r, j, p);
	pthread_mutex_lock(&l->lock);
	if (at >= 0)
		l->buffer[at].state = j->st == OK ? BUFFER_FULL : BUFFER_FREE;
	l->finished += at < 0 || j->st != OK;
	pthread_cond_broadcast(&l->changed);
}

static void *read_jobs(void *ctx)
{
	struct loader *l = ctx;
	struct reader r = {.fd = -1};

	pthread_mutex_lock(&l->lock);
	while (l->next < l->n) {
		int at = free_buffer(l);

		if (at < 0 && l->n_buffer)
			pthread_cond_wait(&l->changed, &l->lock);
		else
			next_job(l, &r, at);
	}
	pthread_mutex_unlock(&l->lock);
	io_close(r.fd);
	return NULL;
}

/* The caller's part, while others read. */
static void upload_all(struct loader *l)
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
		l->be->upload(l->be, j->to, l->buffer[at].p, (size_t)j->bytes);
		pthread_mutex_lock(&l->lock);
		l->buffer[at].state = BUFFER_FREE;
		l->finished++;
		pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
}

/* No thread to be had: one after the other. */
static void alone(struct loader *l)
{
	struct reader r = {.fd = -1};

	for (int32_t i = 0; i < l->n; i++) {
		struct load_job *j = &l->job[i];
		void *p = l->n_buffer ? l->buffer[0].p : j->to;

		j->st = read_job(l, &r, j, p);
		if (j->st == OK && l->n_buffer)
			l->be->upload(l->be, j->to, p, (size_t)j->bytes);
	}
	io_close(r.fd);
}

static int by_place(const void *a, const void *b)
{
	const struct load_job *x = a, *y = b;
	int files = strcmp(x->file->name, y->file->name);

	return files ? files : (x->offset > y->offset) - (x->offset < y->offset);
}

void load_ahead(struct kvstore *ks, struct load_job *job, int32_t n)
{
	char path[STORE_PATH];

	qsort(job, (size_t)n, sizeof *job, by_place);
	for (int32_t i = 0, end; i < n; i = end) {
		const struct load_job *last = &job[i];
		int fd;

		for (end = i + 1; end < n && job[end].file == job[i].file; end++)
			last = &job[end];
		store_path(ks, job[i].file->name, path);
		if (io_open(&fd, path, NULL) == OK) {
			io_ahead(fd, job[i].offset, last->offset + last->bytes - job[i].offset);
			io_close(fd);
		}
	}
}

/* False: no memory for a single one, and every job says so. */
static bool make_buffers(struct loader *l, int want)
{
	uint64_t most = 0;

	for (int32_t i = 0; i < l->n; i++)
		most = l->job[i].bytes > most ? l->job[i].bytes : most;
	while (l->n_buffer < want && (l->buffer[l->n_buffer].p = mem_alloc((size_t)most)) != NULL)
		l->n_buffer++;
	for (int32_t i = 0; l->n_buffer == 0 && i < l->n; i++)
		l->job[i].st = err_set(&l->job[i].err, ERR_MEMORY, "no memory to read a stored block of %llu bytes",
				       (unsigned long long)most);
	return l->n_buffer > 0;
}

void load_run(struct kvstore *ks, struct load_job *job, int32_t n, struct backend *be)
{
	int want = ks->opt.readers < THREADS_MAX ? ks->opt.readers : THREADS_MAX, threads = 0;
	struct loader l = {.ks = ks, .be = be, .job = job, .n = n};
	pthread_t thread[THREADS_MAX];

	qsort(job, (size_t)n, sizeof *job, by_place);
	want = want < n ? want : n;
	if (n == 0 || (!be->host_memory && !make_buffers(&l, 2 * want)))
		return;
	pthread_mutex_init(&l.lock, NULL);
	pthread_cond_init(&l.changed, NULL);
	while (threads < want && pthread_create(&thread[threads], NULL, read_jobs, &l) == 0)
		threads++;
	if (threads)
		upload_all(&l);
	else
		alone(&l);
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	pthread_mutex_destroy(&l.lock);
	pthread_cond_destroy(&l.changed);
	for (int i = 0; i < l.n_buffer; i++)
		mem_free(l.buffer[i].p);
}
