/* http.h - connections and exchanges: whole requests in, answers out, on one event loop.
 *
 *   accept --> head --> body --> request() --> answer: at once, or later and in pieces --> head ...
 *
 * Promises
 *   H1  Every request that is read gets one answer or, when the client left first, gone(); done() follows either.
 *   H2  Nothing that a client does or leaves undone costs more than its limits: heads and bodies have sizes and times,
 *       what is unsent is reported (exchange_unsent) so that writers can rest, and a client that takes nothing for
 *       send_seconds is dropped.
 *   H3  A client that leaves is noticed when the system tells us, whatever the exchange is doing.  Half a close counts
 *       as leaving while an answer is outstanding.
 * Thread: the loop's, all of it. */
#ifndef DS4_SERVER_HTTP_H
#define DS4_SERVER_HTTP_H

#include "base/status.h"
#include "server/http_parse.h"

struct event_base;
struct http;
struct conn;
struct ssl_ctx_st;

struct http_limits {
	int connections;
	size_t head_bytes, body_bytes;
	size_t bodies_bytes;		/* of all connections together */
	double head_seconds;		/* from its first byte to its last */
	double idle_seconds;		/* between requests */
	double body_seconds;		/* for each 64 KiB of a body */
	double send_seconds;		/* without a byte taken by the client */
	size_t low_water;		/* drained() is called when no more than this is unsent */
};

#define HTTP_LIMITS_DEFAULT                                                                                \
	{.connections = 4096, .head_bytes = 64 << 10, .body_bytes = 64 << 20, .bodies_bytes = 512 << 20,   \
	 .head_seconds = 10, .idle_seconds = 120, .body_seconds = 10, .send_seconds = 30, .low_water = 64 << 10}

struct exchange {
	struct http_head head;		/* of a refused request maybe incomplete: path may be NULL */
	struct buf body;
	char id[32];			/* "req_" and 24 hexadecimal digits */
	double since;			/* clock when its head was there */
	int status;			/* of the answer; 0 = none yet, 499 = the client left */
	uint64_t sent;			/* bytes of the answer's body */
	/* For answers that come later: called when the client has left, after which x is no more; and when less than
	 * low_water is unsent.  Both may be NULL. */
	void (*gone)(void *ctx);
	void (*drained)(void *ctx);
	void *ctx;
	struct conn *conn;		/* http.c's, like the rest */
	struct buf header;		/* fields of the answer so far */
	bool streaming, chunked, bare;	/* bare: HEAD, no body is sent */
};

struct http_options {
	struct event_base *base;
	struct http_limits limits;
	struct ssl_ctx_st *tls;		/* NULL = plain; borrowed */
	void (*request)(void *ctx, struct exchange *x);
	/* A request that cannot be read: answer it, the connection closes afterwards. */
	void (*refused)(void *ctx, struct exchange *x, const struct http_refusal *why);
	void (*done)(void *ctx, struct exchange *x);	/* the answer is whole, or the client gone */
	void *ctx;
};

enum status http_open(struct http **out, const struct http_options *o, struct err *err);
void http_close(struct http *h);	/* drops every connection */

/* Listens; host NULL is 127.0.0.1 and, where there is one, ::1.  Port 0 takes a free one.  ERR_IO names the address. */
enum status http_listen(struct http *h, const char *host, int port, struct err *err);
int http_port(const struct http *h);
bool http_loopback(const char *host);	/* NULL, localhost, 127.x.y.z, ::1 */

/* No new connections; idle ones close now, the others after their answer. */
void http_drain(struct http *h);
void http_drop(struct http *h);		/* every connection, now; exchanges get gone() */
int http_connections(const struct http *h);
int http_active(const struct http *h);	/* of them: with an answer outstanding or unsent */
bool http_more_connections(const struct http *h);	/* below the limit */

/* ------------------------------------------------------------------ answers */

void exchange_field(struct exchange *x, const char *name, const char *value);	/* before reply and begin */

/* The whole answer.  type NULL: no Content-Type.  x is no more afterwards. */
void exchange_reply(struct exchange *x, int status, const char *type, const void *body, size_t n);

/* An answer in pieces.  After exchange_end x is no more. */
void exchange_begin(struct exchange *x, int status, const char *type);
void exchange_write(struct exchange *x, const void *p, size_t n);
void exchange_end(struct exchange *x);

/* Ends the connection in the middle: gone() is called, x is no more. */
void exchange_cut(struct exchange *x);

size_t exchange_unsent(const struct exchange *x);

/* The connection closes behind this answer. */
void exchange_last(struct exchange *x);
/* Moves the body out.  It counts for bodies_bytes until http_body_freed(its length). */
void exchange_take_body(struct exchange *x, struct buf *out);
void http_body_freed(struct http *h, size_t n);
const char *exchange_peer(const struct exchange *x);	/* address in numbers */

#endif
