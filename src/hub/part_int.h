/* part_int.h - the partial file: PATH.part, locked, and its journal PATH.part.json. */
#ifndef DS4_HUB_PART_INT_H
#define DS4_HUB_PART_INT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "hub/hub.h"
#include "hub/journal_int.h"

struct part {
	const char *path;	/* of the finished file; borrowed */
	char *part, *journal;
	int fd;			/* locked; -1 = not open */
};

/* Opens or makes PATH.part and locks it.  ERR_IO: another run has it. */
enum status part_open(struct part *p, const char *path, struct err *err);

/* What an earlier run left is in done afterwards (empty: nothing).  restart throws it away. */
enum status part_load(struct part *p, struct ranges *done, const struct hub_file *file, bool restart, struct err *err);

/* ERR_LIMIT unless the rest of the file fits on the disk. */
enum status part_check_space(const struct part *p, const struct hub_file *file, struct err *err);

enum status part_write(struct part *p, const void *data, size_t n, uint64_t at, struct err *err);

/* Gives the finished file its name.  replace allows another file to go. */
enum status part_publish(struct part *p, bool replace, struct err *err);

void part_remove(struct part *p);	/* file and journal */
void part_remove_empty(struct part *p);	/* the same, if this run found and left nothing */
void part_close(struct part *p);	/* accepts a zeroed one whose fd is -1 */

#endif
