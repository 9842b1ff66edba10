/* file.c - maps, reads and replaces whole files. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum status file_map(struct file_map *out, const char *path, struct err *err)
{
	struct stat sb;
	void *p;
	int fd;

	memset(out, 0, sizeof *out);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
	if (fstat(fd, &sb) < 0) {
		err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
		goto fail;
	}
	if (S_ISDIR(sb.st_mode)) {
		err_set(err, ERR_IO, "%s: is a directory, expected a file", path);
		goto fail;
	}
	if (!S_ISREG(sb.st_mode)) {
		err_set(err, ERR_IO, "%s: is not a regular file and cannot be mapped", path);
		goto fail;
	}
	if (sb.st_size == 0) {
		err_set(err, ERR_FORMAT, "%s: file is empty", path);
		goto fail;
	}
	p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		err_set(err, ERR_IO, "%s: cannot map %lld bytes: %s", path, (long long)sb.st_size, strerror(errno));
		goto fail;
	}
	close(fd);
	out->data = p;
	out->bytes = (size_t)sb.st_size;
	return OK;
fail:
	close(fd);
	return err ? err->code : ERR_IO;
}

void file_unmap(struct file_map *m)
{
	if (m->data)
		munmap((void *)(uintptr_t)m->data, m->bytes);
	memset(m, 0, sizeof *m);
}

enum status file_read(struct buf *out, const char *path, struct err *err)
{
	char chunk[65536];
	int fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	ssize_t n;

	if (fd < 0)
		return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
	while ((n = read(fd, chunk, sizeof chunk)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		buf_add(out, chunk, (size_t)n);
		if (!buf_ok(out))
			break;
	}
	if (n < 0)
		err_set(err, ERR_IO, "%s: %s", path, errno == EISDIR ? "is a directory, expected a file" : strerror(errno));
	if (fd != STDIN_FILENO)
		close(fd);
	if (n < 0)
		return ERR_IO;
	if (!buf_ok(out))
		return err_set(err, ERR_LIMIT, "%s: larger than the %zu bytes allowed", path, out->cap);
	return OK;
}

static enum status write_all(int fd, const char *p, size_t n, const char *path, struct err *err)
{
	while (n) {
		ssize_t k = write(fd, p, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
		p += k;
		n -= (size_t)k;
	}
	return OK;
}

enum status file_write(const char *path, const void *data, size_t bytes, struct err *err)
{
	struct buf tmp = BUF_CAP(4096);
	enum status st;
	int fd;

	buf_printf(&tmp, "%s.tmp", path);
	if (!buf_ok(&tmp))
		return err_set(err, ERR_ARGUMENT, "%s: path is too long", path);
	fd = open(tmp.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0) {
		st = err_set(err, ERR_IO, "%s: %s", tmp.data, strerror(errno));
		goto out;
	}
	st = write_all(fd, data, bytes, tmp.data, err);
	if (st == OK && fsync(fd) < 0)
		st = err_set(err, ERR_IO, "%s: %s", tmp.data, strerror(errno));
	if (close(fd) < 0 && st == OK)
		st = err_set(err, ERR_IO, "%s: %s", tmp.data, strerror(errno));
	if (st == OK && rename(tmp.data, path) < 0)
		st = err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
	if (st != OK)
		unlink(tmp.data);
out:
	buf_clear(&tmp);
	return st;
}
