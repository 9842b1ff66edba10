/* log.c - appends lines to a file or to standard error.
 *
 * Careful
 *   - What goes into a line may come from a client: control characters are replaced, so that nobody can fake a line or
 *     command a terminal. */
#include "server/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

struct log {
	pthread_mutex_t lock;	/* of fd */
	int fd;
	char *path;
};

enum status log_open(struct log **out, const char *path, struct err *err)
{
	struct log *l = mem_zero(sizeof *l);

	*out = NULL;
	if (!l)
		return err_set(err, ERR_MEMORY, "no memory for a log");
	l->fd = STDERR_FILENO;
	if (path) {
		l->path = mem_str(path);
		l->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (!l->path || l->fd < 0) {
			enum status st = err_set(err, ERR_IO, "%s: %s", path, strerror(errno));

			mem_free(l->path);
			mem_free(l);
			return st;
		}
	}
	pthread_mutex_init(&l->lock, NULL);
	*out = l;
	return OK;
}

void log_close(struct log *l)
{
	if (!l)
		return;
	if (l->path)
		close(l->fd);
	mem_free(l->path);
	pthread_mutex_destroy(&l->lock);
	mem_free(l);
}

void log_reopen(struct log *l)
{
	int fd;

	if (!l || !l->path)
		return;
	fd = open(l->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return;		/* the old one is better than none */
	pthread_mutex_lock(&l->lock);
	close(l->fd);
	l->fd = fd;
	pthread_mutex_unlock(&l->lock);
}

void log_bytes(struct log *l, const struct buf *b)
{
	size_t done = 0;

	if (!l || !buf_ok(b))
		return;
	pthread_mutex_lock(&l->lock);
	while (done < b->len) {
		ssize_t n = write(l->fd, b->data + done, b->len - done);

		if (n <= 0 && errno != EINTR)
			break;
		if (n > 0)
			done += (size_t)n;
	}
	pthread_mutex_unlock(&l->lock);
}

void log_line(struct log *l, const char *fmt, ...)
{
	struct buf b = BUF_CAP(4096);
	char line[3072];
	struct timespec now;
	struct tm tm;
	va_list ap;

	if (!l)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	for (char *p = line; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	buf_printf(&b, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s\n", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
		   tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(now.tv_nsec / 1000000), line);
	log_bytes(l, &b);
	buf_clear(&b);
}
