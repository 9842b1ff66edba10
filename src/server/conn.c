/* conn.c - one connection: reads requests, sends answers, notices that the client has gone.
 *
 * How   pump() takes what has arrived through the states HEAD and BODY to request(), and goes on with the next request
 *       when the answer was given at once; otherwise the owner of the exchange answers later.  One timer per connection
 *       stands for whichever limit the state has.
 * Careful
 *   - Callbacks may end the connection while pump() is on the stack: conn_drop() only marks it then.
 *   - While an answer is outstanding reading goes on, or a client that leaves would not be noticed; the read watermark
 *     bounds what a client can push ahead.
 *   - Closing with unread bytes makes the system send a reset, which can destroy the answer on its way: after a refusal
 *     the connection lingers. */
#include "server/http_int.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/mem.h"

enum {
	READ_AHEAD = 256 << 10,		/* bytes a client may push before they are wanted */
	BODY_STEP = 64 << 10,		/* body bytes that earn body_seconds */
	LINGER_SECONDS = 2
};

static void pump(struct conn *c);

/* ------------------------------------------------------------------ time */

static void set_timer(struct conn *c, double seconds)
{
	struct timeval t = {.tv_sec = (time_t)seconds};

	t.tv_usec = (suseconds_t)((seconds - (double)t.tv_sec) * 1e6);
	evtimer_add(c->timer, &t);
}

static size_t unsent(const struct conn *c)
{
	return evbuffer_get_length(bufferevent_get_output(c->bev));
}

/* Has the client taken anything since the last tick, or is there nothing to take? */
static bool takes(struct conn *c)
{
	uint64_t taken = c->queued - unsent(c);
	bool any = taken != c->taken || !unsent(c);

	c->taken = taken;
	return any;
}

static void enter(struct conn *c, enum conn_state state)
{
	const struct http_limits *l = &c->h->o.limits;

	c->state = state;
	c->taken = c->queued - unsent(c);
	set_timer(c, state == CONN_HEAD ? l->idle_seconds : state == CONN_BODY ? l->body_seconds :
		     state == CONN_LINGER ? LINGER_SECONDS : l->send_seconds);
}

bool conn_idle(const struct conn *c)
{
	return (c->state == CONN_HEAD && !unsent(c)) || c->state == CONN_LINGER;
}

/* ------------------------------------------------------------------ the end */

static void exchange_free(struct conn *c)
{
	struct exchange *x = c->x;

	if (!x)
		return;
	c->x = NULL;
	c->h->bodies -= x->body.len;
	http_head_clear(&x->head);
	buf_clear(&x->body);
	buf_clear(&x->header);
	mem_free(x);
}

/* The client has left an exchange that was not answered to the end. */
static void tell_gone(struct conn *c)
{
	struct exchange *x = c->x;

	if (c->state != CONN_BUSY || !x)
		return;
	c->state = CONN_FLUSH;
	if (x->gone)
		x->gone(x->ctx);
	x->status = 499;
	c->h->o.done(c->h->o.ctx, x);
}

static void conn_free(struct conn *c)
{
	SSL *ssl = bufferevent_openssl_get_ssl(c->bev);

	if (c->prev)
		c->prev->next = c->next;
	else
		c->h->first = c->next;
	if (c->next)
		c->next->prev = c->prev;
	c->h->n--;
	c->h->lingering -= c->state == CONN_LINGER;
	exchange_free(c);
	if (ssl) {
		SSL_set_shutdown(ssl, SSL_RECEIVED_SHUTDOWN);
		SSL_shutdown(ssl);
	}
	event_free(c->timer);
	bufferevent_free(c->bev);
	mem_free(c);
}

void conn_drop(struct conn *c)
{
	if (c->dead)
		return;
	c->dead = true;
	tell_gone(c);
	if (!c->pumping)
		conn_free(c);
}

/* Nothing is left to be sent on a connection that is to close. */
static void finish(struct conn *c)
{
	if (!c->unread || bufferevent_openssl_get_ssl(c->bev)) {
		conn_drop(c);
		return;
	}
	shutdown(bufferevent_getfd(c->bev), SHUT_WR);
	bufferevent_setwatermark(c->bev, EV_READ, 0, READ_AHEAD);
	c->h->lingering++;
	enter(c, CONN_LINGER);
}

/* ------------------------------------------------------------------ requests */

static void make_id(char out[32])
{
	unsigned char bytes[12] = {0};

	RAND_bytes(bytes, sizeof bytes);
	memcpy(out, "req_", 5);
	for (size_t i = 0; i < sizeof bytes; i++)
		snprintf(out + 4 + 2 * i, 3, "%02x", bytes[i]);
}

static bool exchange_new(struct conn *c)
{
	struct exchange *x = mem_zero(sizeof *x);

	if (!x)
		return false;
	x->conn = c;
	x->since = clock_seconds();
	x->body.cap = c->h->o.limits.body_bytes;
	x->header.cap = 16 << 10;
	make_id(x->id);
	c->x = x;
	return true;
}

static void refuse(struct conn *c, int status, const char *text)
{
	struct http_refusal why = {.status = status};

	snprintf(why.text, sizeof why.text, "%s", text);
	if (!c->x && !exchange_new(c)) {
		conn_drop(c);
		return;
	}
	c->last = c->unread = true;
	enter(c, CONN_BUSY);
	c->h->o.refused(c->h->o.ctx, c->x, &why);
}

static void whole(struct conn *c)
{
	if (!http_more_connections(c->h)) {
		refuse(c, 503, "too many connections; try again in a moment");
		return;
	}
	enter(c, CONN_BUSY);
	c->h->o.request(c->h->o.ctx, c->x);
}

static bool read_head(struct conn *c)
{
	struct evbuffer *in = bufferevent_get_input(c->bev);
	size_t n = evbuffer_get_length(in), most = c->h->o.limits.head_bytes, end;
	struct http_refusal why;
	const char *p;
	char *block;

	while (!c->scanned && n >= 2 && !memcmp(evbuffer_pullup(in, 2), "\r\n", 2)) {
		evbuffer_drain(in, 2);	/* an empty line between requests is allowed */
		n -= 2;
	}
	if (!n)
		return false;
	if (!c->scanned)
		set_timer(c, c->h->o.limits.head_seconds);
	n = n < most ? n : most;
	p = (const char *)evbuffer_pullup(in, (ev_ssize_t)n);
	end = p ? http_head_end(p, n, &c->scanned) : 0;
	if (!end) {
		if (n == most)
			refuse(c, memchr(p, '\n', n) ? 431 : 414,
			       memchr(p, '\n', n) ? "the request's header fields are too large" :
						    "the request line is too long");
		return n == most;
	}
	c->scanned = 0;
	block = mem_copy(p, end);
	evbuffer_drain(in, end);
	if (!block || !exchange_new(c)) {
		mem_free(block);
		conn_drop(c);
		return false;
	}
	snprintf(why.text, sizeof why.text, " ");
	if (!http_head_parse(&c->x->head, block, end, &why)) {
		refuse(c, why.status, why.text);
		return true;
	}
	c->last = !c->x->head.keep || c->h->draining;
	c->chunks = (struct http_chunks){0};
	c->body_mark = 0;
	c->continued = false;
	if (c->x->head.length > (int64_t)c->h->o.limits.body_bytes)
		refuse(c, 413, "the request's body is too large");
	else if (c->x->head.chunked || c->x->head.length > 0)
		enter(c, CONN_BODY);
	else
		whole(c);
	return true;
}

/* Moves what there is of the body over; true when it is whole. */
static bool take_body(struct conn *c)
{
	struct evbuffer *in = bufferevent_get_input(c->bev);
	struct exchange *x = c->x;
	struct evbuffer_iovec v;

	while (evbuffer_peek(in, -1, NULL, &v, 1) > 0) {
		size_t before = x->body.len, n = v.iov_len, left;

		if (x->head.chunked) {
			n = http_chunks_take(&c->chunks, v.iov_base, n, &x->body);
		} else {
			left = (size_t)x->head.length - x->body.len;
			n = n < left ? n : left;
			buf_add(&x->body, v.iov_base, n);
		}
		evbuffer_drain(in, n);
		c->h->bodies += x->body.len - before;
		if (!n || !buf_ok(&x->body) || c->chunks.state >= CHUNK_DONE)
			break;
	}
	return x->head.chunked ? c->chunks.state == CHUNK_DONE : x->body.len == (size_t)x->head.length;
}

static bool read_body(struct conn *c)
{
	const struct http_limits *l = &c->h->o.limits;
	struct exchange *x = c->x;
	bool all;

	if (x->head.expect && !c->continued && !evbuffer_get_length(bufferevent_get_input(c->bev)))
		bufferevent_write(c->bev, "HTTP/1.1 100 Continue\r\n\r\n", 25), c->queued += 25;
	c->continued = true;
	all = take_body(c);
	if (c->chunks.state == CHUNK_BAD)
		refuse(c, 400, "the body's chunks are malformed");
	else if (!buf_ok(&x->body))
		refuse(c, 413, "the request's body is too large");
	else if (c->h->bodies > l->bodies_bytes)
		refuse(c, 503, "too many large requests at once; try again in a moment");
	else if (all)
		whole(c);
	else if (x->body.len - c->body_mark >= BODY_STEP) {
		c->body_mark = x->body.len;
		set_timer(c, l->body_seconds);
		return false;
	} else {
		return false;
	}
	return true;
}

/* Goes on while requests come out of what has arrived. */
static void pump(struct conn *c)
{
	bool any = true;

	if (c->pumping)
		return;
	c->pumping = true;
	while (any && !c->dead)
		any = c->state == CONN_HEAD ? read_head(c) : c->state == CONN_BODY ? read_body(c) : false;
	c->pumping = false;
	if (c->dead)
		conn_free(c);
	else if (c->state == CONN_FLUSH && !unsent(c))
		finish(c);
}

void conn_answered(struct conn *c)
{
	c->h->o.done(c->h->o.ctx, c->x);
	exchange_free(c);
	if (c->last || c->h->draining)
		enter(c, CONN_FLUSH);
	else
		enter(c, CONN_HEAD);
	pump(c);
}

/* ------------------------------------------------------------------ events */

static void on_read(struct bufferevent *bev, void *ctx)
{
	struct conn *c = ctx;
	struct evbuffer *in = bufferevent_get_input(bev);

	if (c->state == CONN_LINGER || c->state == CONN_FLUSH)
		evbuffer_drain(in, evbuffer_get_length(in));
	else
		pump(c);
}

static void on_write(struct bufferevent *bev, void *ctx)
{
	struct conn *c = ctx;

	(void)bev;
	if (c->state == CONN_FLUSH) {
		if (!unsent(c))
			finish(c);
	} else if (c->state == CONN_BUSY && c->x && c->x->drained && unsent(c) <= c->h->o.limits.low_water) {
		c->x->drained(c->x->ctx);
	}
}

static void on_event(struct bufferevent *bev, short what, void *ctx)
{
	struct conn *c = ctx;

	(void)bev;
	if (what & BEV_EVENT_CONNECTED)
		return;
	if ((what & BEV_EVENT_EOF) && c->state == CONN_FLUSH && unsent(c))
		return;		/* it still listens, perhaps */
	if ((what & BEV_EVENT_EOF) && c->state == CONN_HEAD && unsent(c)) {
		c->unread = false;
		enter(c, CONN_FLUSH);
		return;
	}
	conn_drop(c);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct conn *c = ctx;

	(void)fd;
	(void)what;
	if (c->state == CONN_BUSY || c->state == CONN_FLUSH) {
		if (takes(c))
			set_timer(c, c->h->o.limits.send_seconds);
		else
			conn_drop(c);
	} else if (c->state == CONN_BODY || (c->state == CONN_HEAD && c->scanned)) {
		c->pumping = true;
		refuse(c, 408, "the request did not arrive in time");
		c->pumping = false;
		pump(c);
	} else {
		conn_drop(c);
	}
}

void conn_open(struct http *h, evutil_socket_t fd, const char *peer)
{
	struct conn *c = mem_zero(sizeof *c);
	SSL *ssl = c && h->o.tls ? SSL_new(h->o.tls) : NULL;

	evutil_make_socket_nonblocking(fd);
	if (c && ssl)
		c->bev = bufferevent_openssl_socket_new(h->o.base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING,
							BEV_OPT_CLOSE_ON_FREE);
	else if (c && !h->o.tls)
		c->bev = bufferevent_socket_new(h->o.base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (c)
		c->timer = evtimer_new(h->o.base, on_timer, c);
	if (!c || !c->bev || !c->timer) {
		if (c && c->bev)
			bufferevent_free(c->bev);
		else
			evutil_closesocket(fd);
		if (c && c->timer)
			event_free(c->timer);
		mem_free(c);
		return;
	}
	if (ssl)
		bufferevent_openssl_set_allow_dirty_shutdown(c->bev, 1);
	c->h = h;
	c->next = h->first;
	if (h->first)
		h->first->prev = c;
	h->first = c;
	h->n++;
	snprintf(c->peer, sizeof c->peer, "%s", peer);
	bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
	bufferevent_setwatermark(c->bev, EV_READ, 0, READ_AHEAD);
	bufferevent_setwatermark(c->bev, EV_WRITE, h->o.limits.low_water, 0);
	bufferevent_set_max_single_read(c->bev, 64 << 10);
	bufferevent_enable(c->bev, EV_READ | EV_WRITE);
	enter(c, CONN_HEAD);
}
