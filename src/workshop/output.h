/* output.h - a file in the making: DST.part, filled in any order, with a journal of what is whole. */
#ifndef DS4_WORKSHOP_OUTPUT_H
#define DS4_WORKSHOP_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/hash.h"

struct output {
	char *path, *part, *journal;
	int fd, journal_fd;
	uint64_t bytes;			/* of the whole file */
	struct hash128 *sum;		/* [n] of what the journal says is whole; both 0 = not there */
	size_t n;
};

/* Opens or continues.  source and settings are fingerprints: a journal with others is refused
 * (ERR_ARGUMENT), or with force thrown away.  Refuses when another process is writing the same file, and
 * when the disk has not enough room. */
enum status output_open(struct output **out, const char *path, uint64_t bytes, size_t n, uint64_t source,
                        uint64_t settings, bool force, struct err *err);
void output_close(struct output *o);	/* accepts NULL; the part stays */

enum status output_write(struct output *o, uint64_t at, const void *p, size_t n, struct err *err);
enum status output_read(struct output *o, uint64_t at, void *p, size_t n, struct err *err);

/* Notes in the journal that tensor i is whole. */
enum status output_note(struct output *o, size_t i, struct hash128 sum, struct err *err);

/* Makes it permanent and gives it its name; the journal goes. */
enum status output_finish(struct output *o, bool force, struct err *err);

/* Room left for `path`'s folder, 0 when unknown. */
uint64_t output_free_bytes(const char *path);

#endif
