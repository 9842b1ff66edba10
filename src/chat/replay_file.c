/* replay_file.c - the file behind a replay map: append, read what others appended, write anew when it is full.
 *
 * How   Every access takes the file's lock, so that nobody sees half a record of a living process.  A dead one may leave
 *       half a record: what is appended next begins at the following multiple of 8, and readers find it by its mark.
 *       Writing anew: the turns in memory go to PATH.tmp, which is synced and renamed over PATH.  Others notice
 *       that their open file is no longer the one of that name and open it again.
 * Careful
 *       - A lock that somebody keeps (a stopped process) must not stop us: after two seconds the turns are given up.
 *       - Appending does not sync: a killed process loses nothing by that, a power cut may take the last turns.
 *       - Sizes are asked again under the lock each time: others append too.
 *       - After a write that failed, the file is cut back; if even that fails, readers skip the half record. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "chat/replay_int.h"

#define WINDOW ((size_t)8 << 20)	/* > RECORD_MAX: what is read at a time */
#define PIECE ((size_t)1 << 20)		/* what is written at a time when writing anew */

enum trouble { TROUBLE_OPEN, TROUBLE_DAMAGE, TROUBLE_WRITE, TROUBLE_LOCK };

static void warn(struct replay_file *f, enum trouble kind, const char *what, const char *why)
{
	char text[512];

	if (f->warned[kind])
		return;
	f->warned[kind] = true;
	snprintf(text, sizeof text, "%s: %s%s%s", f->path, what, *why ? ": " : "", why);
	if (f->warn)
		f->warn(f->warn_ctx, text);
}

#define MEMORY_ONLY "answers are remembered in memory only"

static void give_up(struct replay_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

/* ------------------------------------------------------------------ the lock */

static bool lock(struct replay_file *f)
{
	for (int tries = 0; tries < 200; tries++) {
		if (flock(f->fd, LOCK_EX | LOCK_NB) == 0)
			return true;
		if (errno != EWOULDBLOCK && errno != EINTR)
			break;
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	warn(f, TROUBLE_LOCK, "cannot be locked, some " MEMORY_ONLY,
	     errno == EWOULDBLOCK ? "another process keeps it" : strerror(errno));
	return false;
}

static void unlock(struct replay_file *f)
{
	if (f->fd >= 0)
		flock(f->fd, LOCK_UN);
}

/* ------------------------------------------------------------------ reading */

static ssize_t read_at(int fd, uint8_t *p, size_t n, uint64_t at)
{
	size_t done = 0;

	while (done < n) {
		ssize_t k = pread(fd, p + done, n - done, (off_t)(at + done));

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return k < 0 && !done ? -1 : (ssize_t)done;
		done += (size_t)k;
	}
	return (ssize_t)done;
}

/* Takes the records of [f->known, size).  The buffer is large enough for the largest record. */
static void read_records(struct replay_file *f, uint64_t size)
{
	struct record_scan s = {.vocab = f->vocab, .take = f->take, .ctx = f->take_ctx};
	uint64_t left = size > f->known ? size - f->known : 0;
	size_t room = left < WINDOW ? (size_t)left : WINDOW;
	uint8_t *p = left ? mem_alloc(room) : NULL;

	if (left && !p)
		warn(f, TROUBLE_DAMAGE, "no memory to read it", "");
	while (p && f->known < size) {
		size_t want = size - f->known < room ? (size_t)(size - f->known) : room;
		ssize_t n = read_at(f->fd, p, want, f->known);

		if (n <= 0) {
			warn(f, TROUBLE_DAMAGE, "cannot be read", n < 0 ? strerror(errno) : "it became shorter");
			break;
		}
		f->known += record_scan(&s, p, (size_t)n, f->known + (uint64_t)n >= size || (size_t)n < want);
	}
	f->known = size;
	f->garbage += s.skipped;
	mem_free(p);
	if (s.skipped)
		warn(f, TROUBLE_DAMAGE, "parts of it are damaged and were skipped", "");
}

/* ------------------------------------------------------------------ writing */

static bool write_at(int fd, const void *data, size_t n, uint64_t at)
{
	const char *p = data;

	while (n) {
		ssize_t k = pwrite(fd, p, n, (off_t)at);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return false;
		p += k;
		at += (uint64_t)k;
		n -= (size_t)k;
	}
	return true;
}

static bool write_head(struct replay_file *f)
{
	uint8_t head[FILE_HEAD];

	record_file_head(head, f->vocab, f->vocabulary);
	return ftruncate(f->fd, 0) == 0 && write_at(f->fd, head, sizeof head, 0);
}

/* ------------------------------------------------------------------ opening */

/* Is this file ours, or the beginning of one (a crash while it was made)?  Says why not. */
static bool check_head(struct replay_file *f, const struct stat *sb)
{
	uint8_t want[FILE_HEAD], have[FILE_HEAD];
	size_t n = sb->st_size < (off_t)FILE_HEAD ? (size_t)sb->st_size : FILE_HEAD;
	const char *why = NULL;

	record_file_head(want, f->vocab, f->vocabulary);
	if (!S_ISREG(sb->st_mode))
		why = "is not a regular file";
	else if (read_at(f->fd, have, n, 0) != (ssize_t)n)
		why = "cannot be read";
	else if (memcmp(have, want, n < 8 ? n : 8))
		why = "is no file of remembered answers";
	else if (n == FILE_HEAD && memcmp(have, want, 12))
		why = "has another version";
	else if (n == FILE_HEAD && memcmp(have, want, n))
		why = "belongs to another vocabulary, or is damaged";
	else if (n < FILE_HEAD && memcmp(have, want, n))
		why = "is damaged";
	if (why)
		warn(f, TROUBLE_OPEN, why, "it is left alone, " MEMORY_ONLY);
	return !why;
}

static void load(struct replay_file *f)
{
	struct stat sb;

	if (fstat(f->fd, &sb) < 0 || !check_head(f, &sb)) {
		give_up(f);
		return;
	}
	if (sb.st_size < (off_t)FILE_HEAD) {
		f->known = FILE_HEAD;
		if (!f->read_only && !write_head(f)) {
			warn(f, TROUBLE_WRITE, "cannot be written, " MEMORY_ONLY, strerror(errno));
			give_up(f);
		}
		return;
	}
	if (f->known < FILE_HEAD)
		f->known = FILE_HEAD;
	if ((uint64_t)sb.st_size > f->known)
		read_records(f, (uint64_t)sb.st_size);
}

static bool open_path(struct replay_file *f)
{
	f->read_only = false;
	f->known = f->garbage = 0;
	f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
	if (f->fd < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
		const char *why = strerror(errno);

		f->read_only = true;
		f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		warn(f, TROUBLE_OPEN, f->fd >= 0 ? "can only be read, new " MEMORY_ONLY : MEMORY_ONLY, why);
	} else if (f->fd < 0) {
		warn(f, TROUBLE_OPEN, "cannot be opened, " MEMORY_ONLY, strerror(errno));
	}
	return f->fd >= 0;
}

void replay_file_open(struct replay_file *f)
{
	if (!open_path(f))
		return;
	if (!lock(f)) {
		give_up(f);
		return;
	}
	load(f);
	unlock(f);
}

void replay_file_close(struct replay_file *f)
{
	if (f->fd >= 0 && f->unsynced)
		fsync(f->fd);
	give_up(f);
	mem_free(f->path);
	f->path = NULL;
}

/* Does the open file still have its name?  Else somebody wrote it anew, or removed it. */
static bool is_current(const struct replay_file *f)
{
	struct stat open_file, named;

	return fstat(f->fd, &open_file) == 0 && stat(f->path, &named) == 0 && open_file.st_ino == named.st_ino &&
	       open_file.st_dev == named.st_dev;
}

/* Locks the file that has the name now, and takes what others have added. */
static bool lock_current(struct replay_file *f)
{
	for (int tries = 0; tries < 10 && f->fd >= 0; tries++) {
		struct stat sb;

		if (!lock(f))
			return false;
		if (is_current(f)) {
			if (fstat(f->fd, &sb) == 0 && (uint64_t)sb.st_size < f->known)
				f->known = 0;	/* somebody emptied it */
			load(f);
			if (f->fd < 0)
				return false;
			return true;
		}
		give_up(f);	/* and with it the lock */
		open_path(f);
	}
	return false;
}

/* ------------------------------------------------------------------ appending */

static void append(struct replay_file *f, const struct buf *b, uint64_t at)
{
	if (!buf_ok(b)) {
		warn(f, TROUBLE_WRITE, "no memory to write, some " MEMORY_ONLY, "");
	} else if (write_at(f->fd, b->data, b->len, at)) {
		f->known = at + b->len;
		f->unsynced = true;
	} else {
		warn(f, TROUBLE_WRITE, "cannot be written, some " MEMORY_ONLY, strerror(errno));
		if (ftruncate(f->fd, (off_t)f->known) < 0)
			f->garbage += RECORD_ALIGN;
	}
}

bool replay_file_append(struct replay_file *f, const struct replay_turn *first)
{
	struct buf b = BUF_CAP(BUF_MAX);
	uint64_t at;
	bool fits = true;

	if (f->fd < 0 || f->read_only || !lock_current(f))
		return true;
	at = (f->known + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
	for (const struct replay_turn *t = first; t; t = t->next)
		record_write(&b, t);
	fits = at + b.len <= f->limit;
	if (fits && !f->read_only)
		append(f, &b, at);
	unlock(f);
	buf_clear(&b);
	return fits;
}

/* ------------------------------------------------------------------ writing anew */

/* The folder too must know the new name.  If it cannot be synced, the old file may come back: no harm. */
static void sync_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash ? mem_strn(path, slash == path ? 1 : (size_t)(slash - path)) : mem_str(".");
	int fd = folder ? open(folder, O_RDONLY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		fsync(fd);
		close(fd);
	}
	mem_free(folder);
}

/* Writes head and turns; returns the size, 0 on failure. */
static uint64_t write_turns(struct replay_file *f, int fd, replay_next *next, void *ctx)
{
	struct buf b = BUF_CAP(BUF_MAX);
	uint8_t head[FILE_HEAD];
	const struct replay_turn *t = NULL;
	uint64_t at = 0;
	bool ok;

	record_file_head(head, f->vocab, f->vocabulary);
	buf_add(&b, head, sizeof head);
	do {
		ok = next(ctx, &t);
		if (ok && t)
			record_write(&b, t);
		if (ok && (!t || b.len >= PIECE)) {
			ok = buf_ok(&b) && write_at(fd, b.data, b.len, at);
			at += b.len;
			buf_cut(&b, 0);
		}
	} while (t && ok);
	buf_clear(&b);
	return ok && fsync(fd) == 0 ? at : 0;
}

void replay_file_compact(struct replay_file *f, replay_next *next, void *ctx)
{
	struct buf temp = BUF_CAP(BUF_MAX);
	uint64_t size = 0;
	int fd = -1;

	f->garbage = 0;
	if (f->fd < 0 || f->read_only || !lock_current(f))
		return;
	buf_printf(&temp, "%s.tmp", f->path);
	if (buf_ok(&temp) && !f->read_only)
		fd = open(temp.data, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0)
		size = write_turns(f, fd, next, ctx);
	if (size && rename(temp.data, f->path) == 0) {
		give_up(f);	/* the old file and its lock: whoever waits for it looks at the name again */
		f->fd = fd;
		f->known = size;
		f->garbage = 0;
		f->unsynced = false;
		sync_folder(f->path);
	} else {
		warn(f, TROUBLE_WRITE, "cannot be written anew", strerror(errno));
		if (fd >= 0) {
			close(fd);
			unlink(temp.data);
		}
		unlock(f);
	}
	buf_clear(&temp);
}
