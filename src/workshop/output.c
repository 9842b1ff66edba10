/* output.c - the part file and its journal.
 *
 * What  DST.part has its final size from the start (sparse); tensors are written where they belong.  The
 *       journal is a text: a line with the fingerprints of source and settings, then a line for each whole
 *       tensor with its checksum.
 * Why   A run of hours must survive a kill, a full disk and a power cut with at most one tensor lost.
 * How   A tensor's line is appended after its bytes were written.  The next run reads the lines and
 *       compares the checksums with the bytes, so it does not matter in which order either reached the disk.
 * Careful
 *       - A last line without its line break was cut off by a kill: it is ignored and overwritten.
 *       - The journal is locked while a run lasts; the lock goes with the process.
 *       - The name DST appears by rename, after fsync. */
#include "workshop/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

#define HEADING "ds4-quantize 1"

static char *joined(const char *path, const char *suffix)
{
	struct buf b = BUF_CAP(1 << 16);

	buf_printf(&b, "%s%s", path, suffix);
	return buf_take(&b);
}

/* The folder of a path; NULL: no memory. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? mem_strn(path, slash == path ? 1 : (size_t)(slash - path)) : mem_str(".");
}

uint64_t output_free_bytes(const char *path)
{
	char *folder = folder_of(path);
	struct statvfs s;
	uint64_t n = 0;

	if (folder && statvfs(folder, &s) == 0)
		n = (uint64_t)s.f_bavail * s.f_frsize;
	mem_free(folder);
	return n;
}

static enum status failed(const char *path, struct err *err)
{
	if (errno == ENOSPC || errno == EDQUOT)
		return err_set(
			err, ERR_IO,
			"%s: the disk is full; make room and run the same command again, it continues",
			path);
	return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
}

void output_close(struct output *o)
{
	if (!o)
		return;
	if (o->fd >= 0)
		close(o->fd);
	if (o->journal_fd >= 0)
		close(o->journal_fd);
	mem_free(o->path);
	mem_free(o->part);
	mem_free(o->journal);
	mem_free(o->sum);
	mem_free(o);
}

enum status output_write(struct output *o, uint64_t at, const void *p, size_t n, struct err *err)
{
	const char *from = p;

	while (n) {
		ssize_t k = pwrite(o->fd, from, n, (off_t)at);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return failed(o->part, err);
		from += k;
		at += (uint64_t)k;
		n -= (size_t)k;
	}
	return OK;
}

enum status output_read(struct output *o, uint64_t at, void *p, size_t n, struct err *err)
{
	char *to = p;

	while (n) {
		ssize_t k = pread(o->fd, to, n, (off_t)at);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return err_set(err, ERR_IO, "%s: %s", o->part, k ? strerror(errno) : "ended early");
		to += k;
		at += (uint64_t)k;
		n -= (size_t)k;
	}
	return OK;
}

static enum status append(struct output *o, const char *line, size_t n, struct err *err)
{
	while (n) {
		ssize_t k = write(o->journal_fd, line, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return failed(o->journal, err);
		line += k;
		n -= (size_t)k;
	}
	return OK;
}

enum status output_note(struct output *o, size_t i, struct hash128 sum, struct err *err)
{
	char line[96];
	int n = snprintf(line, sizeof line, "%zu %016" PRIx64 " %016" PRIx64 "\n", i, sum.high, sum.low);

	o->sum[i] = sum;
	return append(o, line, (size_t)n, err);
}

/* Fills sum from the journal's lines; *whole is how many bytes of it are whole lines. */
static void read_lines(struct output *o, const char *text, size_t n, size_t *whole)
{
	const char *end = text + n, *p = text, *eol;

	for (; (eol = memchr(p, '\n', (size_t)(end - p))); p = eol + 1) {
		char line[128];
		struct hash128 sum;
		uint64_t i;

		if ((size_t)(eol - p) >= sizeof line)
			break;
		memcpy(line, p, (size_t)(eol - p));
		line[eol - p] = 0;
		if (p == text)		/* the heading, checked by the caller */
			continue;
		if (sscanf(line, "%" SCNu64 " %" SCNx64 " %" SCNx64, &i, &sum.high, &sum.low) != 3 || i >= o->n)
			break;
		o->sum[i] = sum;
	}
	*whole = (size_t)(p - text);
}

static enum status heading_agrees(const struct output *o, const char *text, size_t n, uint64_t source,
                                  uint64_t settings, bool *fresh, struct err *err)
{
	char line[128] = {0};
	uint64_t a, b;

	*fresh = true;
	memcpy(line, text, n < sizeof line - 1 ? n : sizeof line - 1);
	if (!strchr(line, '\n') || sscanf(line, HEADING " %" SCNx64 " %" SCNx64, &a, &b) != 2)
		return OK;	/* cut off before anything was done */
	*fresh = false;
	if (a != source)
		return err_set(err, ERR_ARGUMENT,
		               "%s: the source changed since the interrupted run; --force begins again",
		               o->part);
	if (b != settings)
		return err_set(err, ERR_ARGUMENT,
		               "%s: the interrupted run had other options (recipe, metadata, importance or "
		               "release); --force begins again",
		               o->part);
	return OK;
}

/* Takes the journal over, or begins a new one. */
static enum status open_journal(struct output *o, uint64_t source, uint64_t settings, bool force, struct err *err)
{
	struct buf text = BUF_CAP(64 << 20);
	char heading[96];
	size_t whole = 0;
	bool fresh = true;
	enum status st = OK;
	int n;

	o->journal_fd = open(o->journal, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (o->journal_fd < 0)
		return failed(o->journal, err);
	if (flock(o->journal_fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(err, ERR_ARGUMENT, "%s: another process is writing this file", o->part);
	TRY_TO(out, file_read(&text, o->journal, err));
	if (access(o->part, F_OK) == 0)
		st = heading_agrees(o, buf_cstr(&text), text.len, source, settings, &fresh, err);
	if (st != OK && !force)
		goto out;
	if (st != OK || fresh) {
		st = OK;
		unlink(o->part);
		if (ftruncate(o->journal_fd, 0) < 0)
			st = failed(o->journal, err);
		n = snprintf(heading, sizeof heading, HEADING " %016" PRIx64 " %016" PRIx64 "\n", source,
		             settings);
		if (st == OK)
			st = append(o, heading, (size_t)n, err);
		goto out;
	}
	read_lines(o, text.data, text.len, &whole);
	if (ftruncate(o->journal_fd, (off_t)whole) < 0 || lseek(o->journal_fd, 0, SEEK_END) < 0)
		st = failed(o->journal, err);
out:
	buf_clear(&text);
	return st;
}

static enum status open_part(struct output *o, struct err *err)
{
	uint64_t there, free_bytes = output_free_bytes(o->path);
	struct stat sb;

	o->fd = open(o->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (o->fd < 0 || fstat(o->fd, &sb) < 0)
		return failed(o->part, err);
	there = (uint64_t)sb.st_blocks * 512;
	if (free_bytes && there < o->bytes && o->bytes - there > free_bytes) {
		if (there == 0) {	/* nothing is lost */
			unlink(o->part);
			unlink(o->journal);
		}
		return err_set(err, ERR_IO, "%s: needs %" PRIu64 " bytes more, the disk has %" PRIu64 " free", o->part,
			       o->bytes - there, free_bytes);
	}
	if (ftruncate(o->fd, (off_t)o->bytes) < 0)
		return failed(o->part, err);
	return OK;
}

enum status output_open(struct output **out, const char *path, uint64_t bytes, size_t n, uint64_t source,
                        uint64_t settings, bool force, struct err *err)
{
	struct output *o = mem_zero(sizeof *o);
	enum status st = OK;

	*out = NULL;
	if (!o)
		return err_set(err, ERR_MEMORY, "%s: no memory to open it", path);
	o->fd = o->journal_fd = -1;
	o->bytes = bytes;
	o->n = n;
	o->path = mem_str(path);
	o->part = joined(path, ".part");
	o->journal = joined(path, ".part.journal");
	o->sum = mem_array(n ? n : 1, sizeof *o->sum);
	if (!o->path || !o->part || !o->journal || !o->sum)
		st = err_set(err, ERR_MEMORY, "%s: no memory to open it", path);
	if (st == OK)
		st = open_journal(o, source, settings, force, err);
	if (st == OK)
		st = open_part(o, err);
	if (st == OK)
		*out = o;
	else
		output_close(o);
	return st;
}

static enum status sync_folder(const char *path, struct err *err)
{
	char *folder = folder_of(path);
	int fd = folder ? open(folder, O_RDONLY | O_CLOEXEC) : -1;
	enum status st = OK;

	if (fd >= 0 && fsync(fd) < 0 && errno != EINVAL)
		st = failed(path, err);
	if (fd >= 0)
		close(fd);
	mem_free(folder);
	return st;
}

enum status output_finish(struct output *o, bool force, struct err *err)
{
	if (fsync(o->fd) < 0)
		return failed(o->part, err);
	if (!force && access(o->path, F_OK) == 0)
		return err_set(err, ERR_ARGUMENT,
		               "%s: exists; it appeared while its successor was made, which is %s", o->path,
		               o->part);
	if (rename(o->part, o->path) < 0)
		return failed(o->path, err);
	if (unlink(o->journal) < 0)
		return failed(o->journal, err);
	return sync_folder(o->path, err);
}
