/* io.h - the system calls of the store, with a switch that makes the n-th of a kind fail.
 *
 * Every function returns OK or ERR_IO (ERR_NOT_FOUND when the file or folder is not there) and a sentence with the
 * path and the reason.  Interrupted calls are repeated, short reads and writes continued.
 * Thread: any; the switch is for tests. */
#ifndef DS4_KVSTORE_IO_H
#define DS4_KVSTORE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum io_op { IO_OPEN, IO_CREATE, IO_READ, IO_WRITE, IO_SYNC, IO_RENAME, IO_REMOVE, IO_LIST, IO_FOLDER, IO_LOCK, IO_OPS };

enum { IO_KILL = -1 };

/* The n-th call of `op` from now fails with error number `reason` (n = 0: none does any more), and `more` after it,
 * too.  A write that fails has written half; a read that fails with reason 0 has met the end of the file.  With reason
 * IO_KILL the process is killed there and then. */
void io_fail_at(enum io_op op, long n, long more, int reason);
long io_calls(enum io_op op);			/* since the last io_fail_at of that op */

enum status io_open(int *fd, const char *path, struct err *err);		/* for reading */
enum status io_create(int *fd, const char *path, struct err *err);		/* for writing; must not exist */
enum status io_size(int fd, const char *path, uint64_t *bytes, struct err *err);	/* of a regular file */
enum status io_read(int fd, const char *path, void *p, size_t n, uint64_t at, struct err *err);
/* Up to n bytes: *got says how many. */
enum status io_read_some(int fd, const char *path, void *p, size_t n, uint64_t at, size_t *got, struct err *err);
void io_ahead(int fd, uint64_t at, uint64_t n);	/* these bytes will be read soon; a hint */
enum status io_write(int fd, const char *path, const void *p, size_t n, uint64_t at, struct err *err);
enum status io_sync(int fd, const char *path, struct err *err);
enum status io_rename(const char *from, const char *to, struct err *err);
enum status io_remove(const char *path, struct err *err);
enum status io_sync_folder(const char *path, struct err *err);
enum status io_make_folder(const char *path, struct err *err);	/* and its parents, mode 0700; existing ones are fine */
/* Calls fn for every name in a folder but "." and ".."; false ends it early. */
enum status io_list(const char *path, bool (*fn)(void *ctx, const char *name), void *ctx, struct err *err);
/* Opens `path` (made if absent) and takes the lock on it; *fd keeps it.  ERR_LIMIT: another process has it. */
enum status io_lock(int *fd, const char *path, struct err *err);
void io_close(int fd);				/* of < 0: nothing */

#endif
