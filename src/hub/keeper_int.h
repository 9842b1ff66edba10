/* keeper_int.h - the second thread of a download: hashes what is complete, keeps the journal. */
#ifndef DS4_HUB_KEEPER_INT_H
#define DS4_HUB_KEEPER_INT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "hub/hub.h"
#include "hub/journal_int.h"

struct keeper;

/* fd is the partial file.  Takes the contents of done over and leaves it empty. */
enum status keeper_open(struct keeper **out, int fd, const char *part, const char *journal, const struct hub_file *file,
			double journal_s, struct ranges *done, struct err *err);

/* Bytes [begin, end) have been written. */
enum status keeper_add(struct keeper *k, uint64_t begin, uint64_t end, struct err *err);

/* Only what is contiguous from the start counts from now on. */
void keeper_keep_prefix(struct keeper *k);

struct range keeper_gap(struct keeper *k, uint64_t from);
uint64_t keeper_prefix(struct keeper *k);

/* Bytes on disk and hashed.  The keeper's own failure, if it met one. */
enum status keeper_state(struct keeper *k, uint64_t *done, uint64_t *hashed, struct err *err);

/* Ends the thread, which writes the journal a last time.  sha256 (may be NULL) receives the digest of the whole file, ""
 * when it is not complete. */
enum status keeper_finish(struct keeper *k, char sha256[HUB_SHA256_CHARS + 1], struct err *err);

void keeper_close(struct keeper *k);	/* accepts NULL; without keeper_finish() nothing more is written */

/* The digest of a file of size bytes at fd.  step (may be NULL) is told the bytes so far and ends it by returning
 * false (ERR_CANCELLED). */
enum status digest_file(char sha256[HUB_SHA256_CHARS + 1], int fd, const char *path, uint64_t size,
			bool (*step)(void *ctx, uint64_t done), void *ctx, struct err *err);

#endif
