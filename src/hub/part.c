/* part.c - the file that grows while a download runs, who may write to it, and how it gets its final name.
 *
 * What  PATH.part is locked (flock) for as long as a run lasts; PATH.part.json says which bytes of it count.
 * Why   Two runs writing one file, or a half file under a name that a model loader opens, would both look like success.
 * How   The lock is on the partial file itself and goes when the process goes, however that happens.
 * Careful
 *       - Between open and lock the file may have been renamed to PATH by the run that had it: what was locked must
 *         still be what the name stands for, or the finished file would be written over.
 *       - A partial file without journal is not ours (another program's, perhaps): it is left alone.
 *       - The file has holes: the space it needs is its size less the blocks it has. */
#include "hub/part_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "hub/fetch.h"

static char *with_suffix(const char *path, const char *suffix)
{
	struct buf b = BUF_CAP(1 << 16);

	buf_printf(&b, "%s%s", path, suffix);
	return buf_take(&b);
}

/* Still the file that the name stands for? */
static bool is_named(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

enum status part_open(struct part *p, const char *path, struct err *err)
{
	struct stat sb;

	*p = (struct part){.path = path, .fd = -1};
	p->part = with_suffix(path, ".part");
	p->journal = with_suffix(path, ".part.json");
	if (!p->part || !p->journal)
		return err_set(err, ERR_MEMORY, "%s: no memory for its name", path);
	for (int tries = 0; tries < 10; tries++) {
		p->fd = open(p->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
		if (p->fd < 0)
			return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", p->part, strerror(errno));
		if (fstat(p->fd, &sb) == 0 && !S_ISREG(sb.st_mode))
			return err_set(err, ERR_IO, "%s: is not a regular file", p->part);
		if (flock(p->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
			return err_set(err, ERR_IO, "%s: another ds4 pull is downloading this file", p->part);
		if (is_named(p->fd, p->part))
			return OK;
		close(p->fd);
		p->fd = -1;
	}
	return err_set(err, ERR_IO, "%s: somebody else keeps replacing this file", p->part);
}

enum status part_load(struct part *p, struct ranges *done, const struct hub_file *file, bool restart, struct err *err)
{
	struct stat sb;
	enum status st;

	if (fstat(p->fd, &sb) < 0)
		return err_set(err, ERR_IO, "%s: %s", p->part, strerror(errno));
	if (restart) {
		if (ftruncate(p->fd, 0) < 0)
			return err_set(err, ERR_IO, "%s: %s", p->part, strerror(errno));
		unlink(p->journal);
		return OK;
	}
	st = journal_read(done, p->journal, file, err);
	if (st == ERR_NOT_FOUND && sb.st_size > 0)
		return err_set(err, ERR_ARGUMENT,
			       "%s: has %lld bytes but no journal beside it, so it is of unknown origin; "
			       "--restart throws it away", p->part, (long long)sb.st_size);
	if (st != OK && st != ERR_NOT_FOUND)
		return st;
	ranges_cut(done, (uint64_t)sb.st_size);
	return OK;
}

static enum status space(uint64_t *needed, uint64_t *available, const struct hub_file *file, const char *part,
			 const char *path, struct err *err)
{
	struct statvfs fs;
	struct stat sb;
	uint64_t have = 0;
	char dir[4096];
	char *slash;

	snprintf(dir, sizeof dir, "%s", path);
	slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = 0;
	else
		snprintf(dir, sizeof dir, ".");
	if (statvfs(dir, &fs) < 0)
		return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", dir, strerror(errno));
	if (stat(part, &sb) == 0)
		have = (uint64_t)sb.st_blocks * 512;
	*needed = file->size > have ? file->size - have : 0;
	*available = (uint64_t)fs.f_bavail * fs.f_frsize;
	return OK;
}

enum status fetch_space(uint64_t *needed, uint64_t *available, const struct hub_file *file, const char *path,
			struct err *err)
{
	char *part = with_suffix(path, ".part");
	enum status st;

	if (!part)
		return err_set(err, ERR_MEMORY, "%s: no memory for its name", path);
	st = space(needed, available, file, part, path, err);
	mem_free(part);
	return st;
}

enum status part_check_space(const struct part *p, const struct hub_file *file, struct err *err)
{
	uint64_t needed, available;

	TRY(space(&needed, &available, file, p->part, p->path, err));
	if (needed > available)
		return err_set(err, ERR_LIMIT, "%s: %.1f MiB more are needed on its disk, %.1f MiB are free", p->part,
			       (double)needed / 0x1p20, (double)available / 0x1p20);
	return OK;
}

enum status part_write(struct part *p, const void *data, size_t n, uint64_t at, struct err *err)
{
	const char *from = data;

	while (n) {
		ssize_t put = pwrite(p->fd, from, n, (off_t)at);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return err_set(err, ERR_IO, "%s: %s; the same command continues when that is mended", p->part,
				       strerror(errno));
		from += put;
		n -= (size_t)put;
		at += (uint64_t)put;
	}
	return OK;
}

static void sync_folder(const char *path)
{
	char *dir = mem_str(path), *slash = dir ? strrchr(dir, '/') : NULL;
	int fd;

	if (slash)
		slash[slash == dir] = 0;
	fd = open(slash ? dir : ".", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	mem_free(dir);
}

enum status part_publish(struct part *p, bool replace, struct err *err)
{
	if (fsync(p->fd) < 0)
		return err_set(err, ERR_IO, "%s: %s", p->part, strerror(errno));
	if (replace ? rename(p->part, p->path) < 0 : link(p->part, p->path) < 0 && errno == EEXIST)
		return err_set(err, ERR_IO, "%s: %s", p->path, strerror(errno));
	/* Not every file system can link; then a rename has to do, and the name was free a moment ago. */
	if (!replace && !is_named(p->fd, p->path) && rename(p->part, p->path) < 0)
		return err_set(err, ERR_IO, "%s: %s", p->path, strerror(errno));
	unlink(p->part);
	unlink(p->journal);
	sync_folder(p->path);
	return OK;
}

void part_remove(struct part *p)
{
	unlink(p->part);
	unlink(p->journal);
}

void part_remove_empty(struct part *p)
{
	struct stat sb;

	if (p->fd >= 0 && fstat(p->fd, &sb) == 0 && sb.st_size == 0 && is_named(p->fd, p->part))
		part_remove(p);
}

void part_close(struct part *p)
{
	if (p->fd >= 0)
		close(p->fd);	/* and the lock is gone */
	mem_free(p->part);
	mem_free(p->journal);
	*p = (struct part){.fd = -1};
}
