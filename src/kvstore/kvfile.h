/* kvfile.h - the header of a file of the store: what docs/formats/kv.md says, as bytes and as structs.
 *
 * A header is a prefix and a record for each section behind it (a block or a checkpoint).  It alone says what the file
 * holds: the index is made from headers.  Reading it is safe for any bytes. */
#ifndef DS4_KVSTORE_KVFILE_H
#define DS4_KVSTORE_KVFILE_H

#include "base/hash.h"
#include "engine/tree.h"

enum {
	KVFILE_VERSION = 1,
	KVFILE_PREFIX = 128,		/* bytes */
	KVFILE_RECORD = 640,		/* bytes */
	KVFILE_RECORDS = 64,		/* at most */
	KVFILE_HEADER = KVFILE_PREFIX + KVFILE_RECORDS * KVFILE_RECORD,	/* the longest */
	KVFILE_ALIGN = 4096		/* of sections */
};

enum kvfile_kind { KVFILE_BLOCK, KVFILE_CHECK };

struct kvfile_record {
	struct tree_key key, before;
	int32_t end;			/* tokens up to and including this block */
	enum kvfile_kind kind;
	uint64_t offset, bytes;		/* of the section */
	uint64_t created;		/* seconds since 1970 */
	struct hash128 sum;		/* of the section */
	int32_t token[GEOM_BLOCK];
};

struct kvfile_header {
	struct tree_key fingerprint;
	uint64_t block_bytes, check_bytes;
	uint64_t file_bytes;
	uint32_t n;			/* records */
};

size_t kvfile_header_bytes(uint32_t n);

/* Where the section after `at` begins. */
static inline uint64_t kvfile_align(uint64_t at)
{
	return (at + KVFILE_ALIGN - 1) / KVFILE_ALIGN * KVFILE_ALIGN;
}

/* out [kvfile_header_bytes(h->n)] */
void kvfile_encode(uint8_t *out, const struct kvfile_header *h, const struct kvfile_record *r);

/* Reads the first `got` bytes of a file of `bytes` bytes.  r has room for KVFILE_RECORDS.  After OK everything about a
 * record is right but the bytes of its section: inside the file, key = hash of before and tokens.
 * ERR_NOT_FOUND: not a file of ours; ERR_LIMIT: another version; ERR_FORMAT: damaged. */
enum status kvfile_decode(struct kvfile_header *h, struct kvfile_record *r, const uint8_t *p, size_t got, uint64_t bytes,
			  const char *name, struct err *err);

#endif
