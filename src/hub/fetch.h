/* fetch.h - brings a published file to disk: in parallel, in pieces, resumable, checked.
 *
 * While it runs the bytes are in PATH.part and what is known about them in PATH.part.json; PATH itself appears when the
 * whole file has the digest that the hub named.  Whatever ends a run (Ctrl-C, kill, a full disk, a dead line), the
 * same call continues; only bytes of the last second or so are fetched again.
 * Thread: the callbacks are called from the calling thread.  One run per PATH; a second one is refused. */
#ifndef DS4_HUB_FETCH_H
#define DS4_HUB_FETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "hub/hub.h"

#define FETCH_CONNECTIONS_MAX 32

struct fetch_progress {
	uint64_t total, done, hashed;	/* bytes: of the file, on disk, checked */
	int connections;		/* that are bringing bytes now */
	bool checking;			/* everything is there, the digest is not finished */
};

struct fetch_options {
	const char *path;		/* of the finished file */
	int connections;
	uint64_t chunk_bytes;		/* asked for in one request, at most */
	double journal_s;		/* seconds between two notes of what is there */
	bool unverified;		/* accept a file whose digest nobody names */
	bool restart;			/* throw away what an earlier run left */
	bool force;			/* replace a PATH that is another file */
	void (*progress)(void *ctx, const struct fetch_progress *p);	/* about ten times a second; may be NULL */
	void *ctx;
};

#define FETCH_OPTIONS_DEFAULT {.connections = 8, .chunk_bytes = 32 << 20, .journal_s = 1}

struct fetch_report {
	bool was_there;			/* PATH had the right digest already */
	bool verified;
	uint64_t resumed_bytes;		/* were there at the start */
	uint64_t fetched_bytes;		/* came over the network, repeated ones included */
	int failures;			/* requests that had to be repeated */
	double seconds;
};

/* Fetches file, as hub_resolve() filled it, to o->path.
 * ERR_ARGUMENT (PATH or PATH.part belongs to something else), ERR_LIMIT (too little space), ERR_FORMAT (wrong digest,
 * answers that contradict each other, no digest to check), ERR_IO (disk, network, another run is at it),
 * ERR_CANCELLED; besides those of hub_resolve(), which is asked again when an address expires. */
enum status fetch_run(struct hub_file *file, const struct hub_access *a, const struct fetch_options *o,
		      struct fetch_report *report, struct err *err);

/* Bytes that would have to be free in the folder of path, and that are. */
enum status fetch_space(uint64_t *needed, uint64_t *available, const struct hub_file *file, const char *path,
			struct err *err);

#endif
