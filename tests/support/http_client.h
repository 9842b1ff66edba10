/* http_client.h - the other end of the wire, for tests of the server: raw sockets, so that anything can be sent. */
#ifndef DS4_TESTS_SUPPORT_HTTP_CLIENT_H
#define DS4_TESTS_SUPPORT_HTTP_CLIENT_H

#include "base/buf.h"

/* A connection to 127.0.0.1; fails the test when there is none.  Reads time out after 20 s. */
int client_connect(int port);
void client_send(int fd, const char *p, size_t n);	/* a closed connection is no failure */
void client_text(int fd, const char *text);

struct response {
	int status;		/* 0: the connection ended before an answer */
	struct buf head;	/* status line and fields, as they came */
	struct buf body;	/* chunks joined */
	bool whole;		/* its body ended as announced */
	bool closed;		/* the connection is at its end */
};

/* Reads one answer, final or 100; leaves what is behind it unread as far as its head tells (byte-wise reading). */
void client_read(int fd, struct response *r, bool head_request);
void response_clear(struct response *r);
/* A field of the head, or "". */
const char *response_field(const struct response *r, const char *name);

/* One request with a body (NULL: GET) over a connection of its own. */
void client_ask(int port, struct response *r, const char *method, const char *path, const char *fields, const char *body);

/* Waits until fd is at its end (true) or `seconds` are over. */
bool client_closed(int fd, double seconds);

#endif
