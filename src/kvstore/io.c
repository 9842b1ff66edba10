/* io.c - system calls of the store: repeated when interrupted, named when they fail, and made to fail by tests.
 *
 * Careful
 *       - A rename is safe only when the file's bytes are on the disk before it and the folder's after it: io_sync,
 *         io_rename, io_sync_folder, in this order.
 *       - fsync on macOS leaves the bytes in the drive; F_FULLFSYNC is what Linux calls fsync.
 *       - flock belongs to the open file: a second open in the same process is refused, too. */
#include "kvstore/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
	atomic_long calls, first, last;		/* calls first..last fail; 0 = none */
	atomic_int reason;
} fault[IO_OPS];

void io_fail_at(enum io_op op, long n, long more, int reason)
{
	atomic_store(&fault[op].first, 0);
	atomic_store(&fault[op].calls, 0);
	atomic_store(&fault[op].last, n + more);
	atomic_store(&fault[op].reason, reason);
	atomic_store(&fault[op].first, n);
}

long io_calls(enum io_op op)
{
	return atomic_load(&fault[op].calls);
}

static void die_if_asked(enum io_op op)
{
	if (atomic_load(&fault[op].reason) == IO_KILL)
		kill(getpid(), SIGKILL);
}

/* Counts a call; true: it has to fail, errno says why. */
static bool must_fail(enum io_op op)
{
	long call = atomic_fetch_add_explicit(&fault[op].calls, 1, memory_order_relaxed) + 1;
	long first = atomic_load_explicit(&fault[op].first, memory_order_relaxed);

	if (first == 0 || call < first || call > atomic_load(&fault[op].last))
		return false;
	if (op != IO_WRITE)
		die_if_asked(op);
	errno = atomic_load(&fault[op].reason);
	return true;
}

static enum status failed(const char *path, const char *what, struct err *err)
{
	int reason = errno;

	return err_set(err, reason == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: cannot %s: %s", path, what,
		       reason ? strerror(reason) : "the file ends early");
}

/* ------------------------------------------------------------------ files */

static enum status open_as(enum io_op op, int *fd, const char *path, int flags, const char *what, struct err *err)
{
	*fd = must_fail(op) ? -1 : open(path, flags | O_CLOEXEC, 0600);
	return *fd < 0 ? failed(path, what, err) : OK;
}

enum status io_open(int *fd, const char *path, struct err *err)
{
	return open_as(IO_OPEN, fd, path, O_RDONLY | O_NONBLOCK, "open", err);	/* a pipe must not hold us up */
}

enum status io_create(int *fd, const char *path, struct err *err)
{
	return open_as(IO_CREATE, fd, path, O_WRONLY | O_CREAT | O_EXCL, "create", err);
}

enum status io_size(int fd, const char *path, uint64_t *bytes, struct err *err)
{
	struct stat sb;

	if (fstat(fd, &sb) < 0)
		return failed(path, "look at", err);
	if (!S_ISREG(sb.st_mode))
		return err_set(err, ERR_IO, "%s: is not a regular file", path);
	*bytes = (uint64_t)sb.st_size;
	return OK;
}

enum status io_read_some(int fd, const char *path, void *p, size_t n, uint64_t at, size_t *got, struct err *err)
{
	uint8_t *out = p;

	*got = 0;
	if (must_fail(IO_READ))
		return failed(path, "read", err);
	while (*got < n) {
		ssize_t k = pread(fd, out + *got, n - *got, (off_t)(at + *got));

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return failed(path, "read", err);
		if (k == 0)
			break;
		*got += (size_t)k;
	}
	return OK;
}

enum status io_read(int fd, const char *path, void *p, size_t n, uint64_t at, struct err *err)
{
	size_t got;

	TRY(io_read_some(fd, path, p, n, at, &got, err));
	if (got == n)
		return OK;
	errno = 0;
	return failed(path, "read", err);
}

void io_ahead(int fd, uint64_t at, uint64_t n)
{
#ifdef F_RDADVISE
	struct radvisory r = {.ra_offset = (off_t)at, .ra_count = n < INT_MAX ? (int)n : INT_MAX};

	fcntl(fd, F_RDADVISE, &r);
#elif defined(POSIX_FADV_WILLNEED)
	posix_fadvise(fd, (off_t)at, (off_t)n, POSIX_FADV_WILLNEED);
#else
	(void)fd;
	(void)at;
	(void)n;
#endif
}

enum status io_write(int fd, const char *path, const void *p, size_t n, uint64_t at, struct err *err)
{
	bool fail = must_fail(IO_WRITE);
	size_t most = fail ? n / 2 : n, done = 0;
	int reason = errno;

	while (done < most) {
		ssize_t k = pwrite(fd, (const uint8_t *)p + done, most - done, (off_t)(at + done));

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0) {
			errno = k < 0 ? errno : ENOSPC;
			return failed(path, "write", err);
		}
		done += (size_t)k;
	}
	if (fail)
		die_if_asked(IO_WRITE);
	errno = reason;
	return fail ? failed(path, "write", err) : OK;
}

static int flush_fd(int fd)
{
#ifdef F_FULLFSYNC
	if (fcntl(fd, F_FULLFSYNC) == 0)
		return 0;
#endif
	return fsync(fd);
}

enum status io_sync(int fd, const char *path, struct err *err)
{
	if (must_fail(IO_SYNC) || flush_fd(fd) < 0)
		return failed(path, "flush", err);
	return OK;
}

enum status io_rename(const char *from, const char *to, struct err *err)
{
	if (must_fail(IO_RENAME) || rename(from, to) < 0)
		return failed(to, "rename to", err);
	return OK;
}

enum status io_remove(const char *path, struct err *err)
{
	if (must_fail(IO_REMOVE) || unlink(path) < 0)
		return failed(path, "remove", err);
	return OK;
}

void io_close(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* ------------------------------------------------------------------ folders */

enum status io_sync_folder(const char *path, struct err *err)
{
	int fd = must_fail(IO_SYNC) ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return failed(path, "flush", err);
	/* Some file systems have no such call for folders: what they do instead is theirs. */
	if (fsync(fd) < 0 && errno != EINVAL && errno != ENOTSUP) {
		enum status st = failed(path, "flush", err);

		close(fd);
		return st;
	}
	close(fd);
	return OK;
}

enum status io_make_folder(const char *path, struct err *err)
{
	char part[PATH_MAX];
	size_t n = strlen(path);
	struct stat sb;

	if (n == 0 || n >= sizeof part)
		return err_set(err, ERR_ARGUMENT, "folder: expected a path of 1 to %d bytes, got %zu", PATH_MAX - 1, n);
	if (must_fail(IO_FOLDER))
		return failed(path, "make the folder", err);
	memcpy(part, path, n + 1);
	for (size_t i = 1; i <= n; i++) {
		if (part[i] != '/' && part[i] != 0)
			continue;
		part[i] = 0;
		if (mkdir(part, 0700) < 0 && errno != EEXIST && errno != EISDIR && stat(part, &sb) < 0)
			return failed(part, "make the folder", err);
		part[i] = path[i];
	}
	if (stat(path, &sb) < 0)
		return failed(path, "make the folder", err);
	errno = ENOTDIR;
	return S_ISDIR(sb.st_mode) ? OK : failed(path, "make the folder", err);
}

enum status io_list(const char *path, bool (*fn)(void *ctx, const char *name), void *ctx, struct err *err)
{
	DIR *d = must_fail(IO_LIST) ? NULL : opendir(path);
	struct dirent *e;

	if (!d)
		return failed(path, "list", err);
	while ((e = readdir(d)) != NULL)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && !fn(ctx, e->d_name))
			break;
	closedir(d);
	return OK;
}

enum status io_lock(int *fd, const char *path, struct err *err)
{
	int reason;

	*fd = must_fail(IO_LOCK) ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (*fd < 0)
		return failed(path, "lock", err);
	if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
		return OK;
	reason = errno;
	close(*fd);
	*fd = -1;
	if (reason == EWOULDBLOCK)
		return err_set(err, ERR_LIMIT, "%s: another process has the lock", path);
	errno = reason;
	return failed(path, "lock", err);
}
