/* http_parse.h - the bytes of HTTP/1.1 requests: heads and chunked bodies.  No sockets, no events.
 *
 * Strict where leniency is how requests are smuggled (RFC 9112): lines end in CRLF, no white space before a colon, no
 * folded lines, a length given twice must agree, a length and chunks exclude each other, chunked is the only coding.
 * Thread: no state but in the objects. */
#ifndef DS4_SERVER_HTTP_PARSE_H
#define DS4_SERVER_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define HTTP_MAX_FIELDS 200
#define HTTP_MAX_TARGET 8192	/* bytes of path and query; longer: 414 */

struct http_field {
	const char *name, *value;
};

struct http_head {
	char *block;			/* owned; everything below points into it */
	const char *method;		/* as sent: "GET" */
	const char *path;		/* without the query; of an absolute URI only the path.  Not decoded */
	const char *query;		/* behind the '?', or "" */
	int minor;			/* of HTTP/1.x */
	struct http_field field[HTTP_MAX_FIELDS];
	int n_fields;
	int64_t length;			/* of the body; -1 = none given */
	bool chunked;
	bool keep;			/* the connection may stay open */
	bool expect;			/* waits for 100 Continue */
};

/* Why a request cannot be read: an HTTP status (400, 414, 417, 431, 501, 505) and a sentence. */
struct http_refusal {
	int status;
	char text[160];
};

/* Parses a head, n bytes up to and including the empty line; block is taken over (mem_free), also on failure.
 * False: *why. */
bool http_head_parse(struct http_head *h, char *block, size_t n, struct http_refusal *why);
void http_head_clear(struct http_head *h);

/* The first field of this name (any case), or NULL. */
const char *http_field(const struct http_head *h, const char *name);

/* Position behind the empty line that ends a head in p[0..n), or 0.  *scanned remembers how far earlier calls on a
 * shorter p have looked. */
size_t http_head_end(const char *p, size_t n, size_t *scanned);

/* A decoder of chunked bodies. */
struct http_chunks {
	enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_END, CHUNK_TRAILER, CHUNK_DONE, CHUNK_BAD } state;
	uint64_t left;			/* of the chunk */
	char line[256];			/* size or trailer line under way */
	size_t n_line;
	size_t trailer_bytes;
};

/* Takes what it can of p[0..n), appends the decoded bytes, returns how many were taken (all, but behind the end). */
size_t http_chunks_take(struct http_chunks *c, const char *p, size_t n, struct buf *body);

const char *http_status_text(int status);	/* "Not Found" */

#endif
