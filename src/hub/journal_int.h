/* journal_int.h - which bytes of a file are there, in memory and as PATH.part.json. */
#ifndef DS4_HUB_JOURNAL_INT_H
#define DS4_HUB_JOURNAL_INT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "hub/hub.h"

struct range {
	uint64_t begin, end;	/* [begin, end), never empty */
};

/* Sorted, disjoint, not touching.  A zeroed struct is the empty set. */
struct ranges {
	struct range *r;
	size_t n, room;
	uint64_t bytes;		/* in all of them */
};

/* Adds [begin, end); ERR_MEMORY. */
enum status ranges_add(struct ranges *s, uint64_t begin, uint64_t end, struct err *err);
void ranges_cut(struct ranges *s, uint64_t size);	/* forgets everything from size on */
uint64_t ranges_prefix(const struct ranges *s);		/* all bytes below this are there */
/* The first missing bytes at or behind `from` and below `size`; empty (begin == end == size) when there are none. */
struct range ranges_gap(const struct ranges *s, uint64_t from, uint64_t size);
void ranges_clear(struct ranges *s);

/* Writes the journal (whole or not at all). */
enum status journal_write(const char *path, const struct hub_file *file, const struct ranges *done, struct err *err);

/* Reads it and checks that it is about the same version of the same file.  ERR_NOT_FOUND: there is none.
 * ERR_FORMAT: damaged.  ERR_ARGUMENT: about another version. */
enum status journal_read(struct ranges *done, const char *path, const struct hub_file *file, struct err *err);

#endif
