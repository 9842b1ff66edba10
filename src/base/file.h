/* file.h - whole files and memory maps, with errors that name the path and the reason. */
#ifndef DS4_BASE_FILE_H
#define DS4_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"

struct file_map {
	const uint8_t *data;
	size_t bytes;
};

/* Maps a regular file read-only.  ERR_NOT_FOUND, ERR_IO (directory, no permission), ERR_FORMAT (empty). */
enum status file_map(struct file_map *out, const char *path, struct err *err);
void file_unmap(struct file_map *m);		/* accepts a zeroed map */

/* Reads a whole file (path "-" is standard input) into out, at most out->cap bytes. */
enum status file_read(struct buf *out, const char *path, struct err *err);

/* Writes bytes to path + ".tmp", fsyncs, renames: the file is whole or absent. */
enum status file_write(const char *path, const void *data, size_t bytes, struct err *err);

#endif
