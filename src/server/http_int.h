/* http_int.h - what listeners (http.c) and connections (conn.c) share. */
#ifndef DS4_SERVER_HTTP_INT_H
#define DS4_SERVER_HTTP_INT_H

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

#include "server/http.h"

enum { HTTP_MAX_LISTENERS = 8 };

struct http {
	struct http_options o;
	struct evconnlistener *listener[HTTP_MAX_LISTENERS];
	int n_listeners, port;
	struct event *again;		/* accepting pauses when there are no descriptors left */
	struct conn *first;
	int n;				/* connections */
	int lingering;			/* of them: CONN_LINGER */
	size_t bodies;			/* bytes of all exchanges' bodies */
	bool draining;
};

enum conn_state {
	CONN_HEAD,	/* waits for a request, or reads its head */
	CONN_BODY,
	CONN_BUSY,	/* request() has it: an answer is outstanding */
	CONN_FLUSH,	/* the last answer is going out, then it closes */
	CONN_LINGER	/* nothing more to say; what the client still sends is thrown away for a moment */
};

struct conn {
	struct http *h;
	struct conn *prev, *next;
	struct bufferevent *bev;
	struct event *timer;
	enum conn_state state;
	struct exchange *x;		/* NULL between requests */
	struct http_chunks chunks;
	size_t scanned;			/* of the head under way */
	uint64_t queued;		/* bytes given to the bufferevent, ever */
	uint64_t taken;			/* of them taken by the client, at the last tick */
	size_t body_mark;		/* body bytes at the last tick */
	bool continued;			/* 100 Continue was sent */
	bool last;			/* closes behind the answer */
	bool unread;			/* closes with bytes of the client unread: linger */
	bool pumping, dead;
	char peer[64];
};

/* Takes over the descriptor. */
void conn_open(struct http *h, evutil_socket_t fd, const char *peer);
void conn_drop(struct conn *c);
bool conn_idle(const struct conn *c);
void conn_answered(struct conn *c);	/* the answer's last byte has been given to it */

#endif
