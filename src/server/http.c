/* http.c - listeners: addresses, accepting, the limit of connections, the end.
 *
 * Careful
 *   - Without descriptors accept() fails for the connection that still waits: the loop would spin.  Accepting rests for
 *     a moment instead.
 *   - Above the limit a connection is accepted and refused in words (conn.c does it), up to a margin; beyond that it is
 *     closed at once. */
#include "server/http_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

enum {
	REFUSED_IN_WORDS = 64,
	SEND_BUFFER = 256 << 10		/* else the system keeps megabytes for a client that does not read */
};

static void accept_again(evutil_socket_t fd, short what, void *ctx)
{
	struct http *h = ctx;

	(void)fd;
	(void)what;
	for (int i = 0; i < h->n_listeners; i++)
		evconnlistener_enable(h->listener[i]);
}

static void accept_failed(struct evconnlistener *l, void *ctx)
{
	struct http *h = ctx;

	(void)l;
	for (int i = 0; i < h->n_listeners; i++)
		evconnlistener_disable(h->listener[i]);
	evtimer_add(h->again, &(struct timeval){.tv_usec = 100000});
}

static void peer_name(char *out, size_t room, const struct sockaddr *a)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, host, sizeof host);
	else if (a->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)a)->sin6_addr, host, sizeof host);
	snprintf(out, room, "%s", host);
}

static void accepted(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n, void *ctx)
{
	struct http *h = ctx;
	char peer[64];

	(void)l;
	(void)n;
	if (h->n >= h->o.limits.connections + REFUSED_IN_WORDS) {
		evutil_closesocket(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BUFFER}, sizeof(int));
	peer_name(peer, sizeof peer, a);
	conn_open(h, fd, peer);
}

enum status http_open(struct http **out, const struct http_options *o, struct err *err)
{
	struct http *h = mem_zero(sizeof *h);

	*out = NULL;
	if (h)
		h->again = evtimer_new(o->base, accept_again, h);
	if (!h || !h->again) {
		mem_free(h);
		return err_set(err, ERR_MEMORY, "no memory for the HTTP server");
	}
	h->o = *o;
	*out = h;
	return OK;
}

static void stop_listening(struct http *h)
{
	for (int i = 0; i < h->n_listeners; i++)
		evconnlistener_free(h->listener[i]);
	h->n_listeners = 0;
	evtimer_del(h->again);
}

void http_drop(struct http *h)
{
	while (h->first)
		conn_drop(h->first);
}

void http_close(struct http *h)
{
	if (!h)
		return;
	stop_listening(h);
	http_drop(h);
	event_free(h->again);
	mem_free(h);
}

void http_drain(struct http *h)
{
	struct conn *next;

	h->draining = true;
	stop_listening(h);
	for (struct conn *c = h->first; c; c = next) {
		next = c->next;
		if (conn_idle(c))
			conn_drop(c);
	}
}

/* ------------------------------------------------------------------ addresses */

static int bound_port(struct evconnlistener *l)
{
	struct sockaddr_storage a;
	socklen_t n = sizeof a;

	if (getsockname(evconnlistener_get_fd(l), (struct sockaddr *)&a, &n) != 0)
		return 0;
	return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port :
					       ((struct sockaddr_in *)&a)->sin_port);
}

static bool listen_on(struct http *h, const struct sockaddr *a, socklen_t n)
{
	unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE;
	struct evconnlistener *l;

	if (h->n_listeners == HTTP_MAX_LISTENERS)
		return true;
	if (a->sa_family == AF_INET6)
		flags |= LEV_OPT_BIND_IPV6ONLY;
	l = evconnlistener_new_bind(h->o.base, accepted, h, flags, 1024, a, (int)n);
	if (!l)
		return false;
	evconnlistener_set_error_cb(l, accept_failed);
	h->listener[h->n_listeners++] = l;
	h->port = bound_port(l);
	return true;
}

/* 127.0.0.1 must be there; ::1 is nice to have. */
static enum status listen_loopback(struct http *h, int port, struct err *err)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};

	v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (!listen_on(h, (const struct sockaddr *)&v4, sizeof v4))
		return err_set(err, ERR_IO, "127.0.0.1:%d: %s", port, strerror(errno));
	v6.sin6_port = htons((uint16_t)h->port);
	listen_on(h, (const struct sockaddr *)&v6, sizeof v6);
	return OK;
}

enum status http_listen(struct http *h, const char *host, int port, struct err *err)
{
	struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *all = NULL;
	char service[16];
	int failed, before = h->n_listeners;

	if (!host)
		return listen_loopback(h, port, err);
	snprintf(service, sizeof service, "%d", port);
	failed = getaddrinfo(host, service, &want, &all);
	if (failed)
		return err_set(err, ERR_IO, "--host %s: %s", host, gai_strerror(failed));
	errno = 0;
	for (struct addrinfo *a = all; a; a = a->ai_next) {
		if (h->n_listeners > before && port == 0)
			break;		/* one free port */
		listen_on(h, a->ai_addr, a->ai_addrlen);
	}
	freeaddrinfo(all);
	if (h->n_listeners == before)
		return err_set(err, ERR_IO, "%s:%d: %s", host, port, errno ? strerror(errno) : "no address");
	return OK;
}

int http_port(const struct http *h)
{
	return h->port;
}

bool http_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (!host || !strcmp(host, "localhost"))
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

int http_connections(const struct http *h)
{
	return h->n;
}

bool http_more_connections(const struct http *h)
{
	return h->n - h->lingering <= h->o.limits.connections;
}

int http_active(const struct http *h)
{
	int n = 0;

	for (const struct conn *c = h->first; c; c = c->next)
		n += !conn_idle(c);
	return n;
}
