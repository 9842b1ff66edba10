/* hub_server.c - see hub_server.h.  One thread for each connection, at most HUB_SERVER_PEERS of them, all joined by
 * hub_server_stop().  Understands GET, Range: bytes=a-b and keep-alive; nothing else. */
#include "support/hub_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

#define HEAD_MAX 8192
#define PIECE 16384

struct peer {
	struct hub_server *s;
	int fd, slot;
	bool origin;
};

struct request {
	char path[2048], token[256];
	bool has_range, has_token;
	uint64_t first, last;
};

uint8_t hub_file_byte(uint64_t i)
{
	return (uint8_t)((uint32_t)(i * 2654435761u) >> 24 ^ (i >> 12 & 255));
}

/* ------------------------------------------------------------------ sockets */

static bool send_all(struct peer *p, const void *data, size_t n)
{
	const char *from = data;

	while (n) {
		ssize_t put = send(p->fd, from, n, MSG_NOSIGNAL);

		if (put <= 0)
			return false;
		from += put;
		n -= (size_t)put;
	}
	return true;
}

static bool stopping(struct hub_server *s)
{
	bool yes;

	pthread_mutex_lock(&s->lock);
	yes = s->stopping;
	pthread_mutex_unlock(&s->lock);
	return yes;
}

/* Until the client closes or the server stops. */
static void wait_for_end(struct peer *p)
{
	struct pollfd f = {.fd = p->fd, .events = POLLIN};

	while (!stopping(p->s) && poll(&f, 1, 20) == 0)
		;
}

static void pause_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

static bool read_head(struct peer *p, char head[HEAD_MAX])
{
	size_t n = 0;

	while (n < HEAD_MAX - 1) {
		ssize_t got = recv(p->fd, head + n, 1, 0);

		if (got <= 0)
			return false;
		n++;
		head[n] = 0;
		if (n >= 4 && !memcmp(head + n - 4, "\r\n\r\n", 4))
			return true;
	}
	return false;
}

static void parse(struct request *r, char *head)
{
	const char *field;

	memset(r, 0, sizeof *r);
	sscanf(head, "%*s %2047s", r->path);
	field = strstr(head, "\r\nRange: bytes=");
	if (field && sscanf(field + 15, "%llu-%llu", (unsigned long long *)&r->first, (unsigned long long *)&r->last) == 2)
		r->has_range = true;
	field = strstr(head, "\r\nAuthorization: ");
	if (field) {
		r->has_token = true;
		sscanf(field, "\r\nAuthorization: Bearer %255s", r->token);
	}
}

/* ------------------------------------------------------------------ answers */

static const char *phrase(int status)
{
	return status == 200 ? "OK" : status == 206 ? "Partial Content" : status == 302 ? "Found" : "Whatever";
}

/* Any answer with a short body.  False: the connection is dead. */
static bool short_answer(struct peer *p, int status, const char *headers)
{
	char text[4096];
	int n = snprintf(text, sizeof text, "HTTP/1.1 %d %s\r\nContent-Length: 6\r\n%s\r\nsorry\n", status, phrase(status), headers);

	return send_all(p, text, (size_t)n);
}

/* Takes one of the failures that are due.  0: none. */
static int take_failure(struct hub_server *s, struct hub_failure *f, char *headers, size_t room)
{
	long long total = f->total ? (long long)f->total : HUB_FILE_BYTES;
	int status = 0;

	headers[0] = 0;
	pthread_mutex_lock(&s->lock);
	if (f->times && s->counts.body_bytes >= f->after) {
		if (f->times > 0)
			f->times--;
		status = f->status;
	}
	pthread_mutex_unlock(&s->lock);
	if (status && f->retry_after)
		snprintf(headers, room, "Retry-After: %d\r\n", f->retry_after);
	if (status == 416)
		snprintf(headers, room, "Content-Range: bytes */%lld\r\n", total);
	return status;
}

static bool take(struct hub_server *s, int *n)
{
	bool yes;

	pthread_mutex_lock(&s->lock);
	yes = *n != 0;
	if (*n > 0)
		--*n;
	pthread_mutex_unlock(&s->lock);
	return yes;
}

static bool send_body(struct peer *p, uint64_t first, uint64_t last)
{
	struct hub_server *s = p->s;
	bool cut = s->cut_after && last - first >= s->cut_after && take(s, &s->cuts);
	bool stall = s->stall_after && last - first >= s->stall_after && take(s, &s->stalls);
	uint8_t piece[PIECE];
	uint64_t sent = 0;

	for (uint64_t at = first; at <= last; ) {
		size_t n = last - at + 1 < PIECE ? (size_t)(last - at + 1) : PIECE;

		if (cut && s->cut_after - sent < n)
			n = (size_t)(s->cut_after - sent);
		if (stall && s->stall_after - sent < n)
			n = (size_t)(s->stall_after - sent);
		for (size_t i = 0; i < n; i++)
			piece[i] = (uint8_t)(hub_file_byte(at + i) ^ ((int64_t)(at + i) == s->wrong_byte));
		if (!send_all(p, piece, n))
			return false;
		at += n;
		sent += n;
		pthread_mutex_lock(&s->lock);
		s->counts.body_bytes += n;
		pthread_mutex_unlock(&s->lock);
		if (cut && sent >= s->cut_after)
			return false;
		if (stall && sent >= s->stall_after) {
			wait_for_end(p);
			return false;
		}
		if (s->bytes_per_s) {
			pause_ms((long)(n * 1000 / s->bytes_per_s));
			if (stopping(s))
				return false;
		}
	}
	return true;
}

static bool send_file(struct peer *p, const struct request *r, const char *extra)
{
	struct hub_server *s = p->s;
	bool part = r->has_range && !s->ignores_range, close_after = s->longer || (!part && s->no_length);
	uint64_t first = part ? r->first : 0, last = part ? r->last : HUB_FILE_BYTES - 1;
	long long total = s->total >= 0 ? s->total : HUB_FILE_BYTES;
	char head[4096];
	int n;

	if (last >= HUB_FILE_BYTES)
		last = HUB_FILE_BYTES - 1;
	if (first > last) {
		snprintf(head, sizeof head, "Content-Range: bytes */%lld\r\n", total);
		return short_answer(p, 416, head);
	}
	n = snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\n%s", part ? 206 : 200, part ? "Partial Content" : "OK", extra);
	if (!close_after)
		n += snprintf(head + n, sizeof head - (size_t)n, "Content-Length: %llu\r\n",
			      part ? (unsigned long long)(last - first + 1) : (unsigned long long)total);
	else
		n += snprintf(head + n, sizeof head - (size_t)n, "Connection: close\r\n");
	if (part && !s->no_content_range)
		n += snprintf(head + n, sizeof head - (size_t)n, "Content-Range: bytes %llu-%llu/%lld\r\n",
			      (unsigned long long)first + (s->shifted && first), (unsigned long long)last, total);
	n += snprintf(head + n, sizeof head - (size_t)n, "\r\n");
	if (s->longer && last + 1000 < HUB_FILE_BYTES)
		last += 1000;
	return send_all(p, head, (size_t)n) && send_body(p, first, last) && !close_after &&
	       (part || total == HUB_FILE_BYTES);
}

static void about_file(const struct hub_server *s, char *out, size_t room)
{
	int n = 0;

	out[0] = 0;
	if (!s->no_digest)
		n = snprintf(out, room, "%s: \"%s\"\r\n", s->plain_etag ? "ETag" : "X-Linked-ETag",
			     s->digest ? s->digest : HUB_FILE_SHA256);
	if (s->linked_size != -1)
		snprintf(out + n, room - (size_t)n, "X-Linked-Size: %lld\r\n",
			 (long long)(s->linked_size >= 0 ? s->linked_size : HUB_FILE_BYTES));
}

static bool answer_origin(struct peer *p, const struct request *r)
{
	struct hub_server *s = p->s;
	char headers[2048], location[512];
	int status;

	pthread_mutex_lock(&s->lock);
	s->counts.origin_requests++;
	s->counts.origin_tokens += r->has_token;
	pthread_mutex_unlock(&s->lock);
	status = take_failure(s, &s->origin_failure, headers, sizeof headers);
	if (status)
		return short_answer(p, status, headers);
	if (s->token && strcmp(s->token, r->token))
		return short_answer(p, 401, "");
	about_file(s, headers, sizeof headers);
	if (s->direct)
		return send_file(p, r, headers);
	pthread_mutex_lock(&s->lock);
	s->signature++;
	s->signature_uses = 0;
	snprintf(location, sizeof location, "http://%s:%d/store/x?sig=%d&secret=hush", s->storage_name, s->storage_port,
		 s->signature);
	pthread_mutex_unlock(&s->lock);
	if (s->endless)
		snprintf(location, sizeof location, "%.200s", r->path);
	else if (s->relative && !strstr(r->path, "/moved/"))
		snprintf(location, sizeof location, "/moved%.200s", r->path);
	else if (s->location)
		snprintf(location, sizeof location, "%s", s->location);
	if (s->endless || (s->relative && !strstr(r->path, "/moved/")))
		headers[0] = 0;
	snprintf(headers + strlen(headers), sizeof headers - strlen(headers), "Location: %s\r\n", location);
	return short_answer(p, 302, headers);
}

static bool answer_storage(struct peer *p, const struct request *r)
{
	struct hub_server *s = p->s;
	const char *sig = strstr(r->path, "sig=");
	char headers[2048];
	bool expired;
	int status;

	pthread_mutex_lock(&s->lock);
	s->counts.storage_requests++;
	s->counts.storage_tokens += r->has_token;
	s->signature_uses++;
	expired = s->address_lasts && (s->signature_uses > s->address_lasts || !sig || atoi(sig + 4) != s->signature);
	pthread_mutex_unlock(&s->lock);
	if (expired)
		return short_answer(p, 403, "");
	status = take_failure(s, &s->storage_failure, headers, sizeof headers);
	if (status)
		return short_answer(p, status, headers);
	/* 64 digits that are not the file's digest: nobody may believe this host about it. */
	return send_file(p, r, "ETag: \"00000000000000000000000000000000000000000000000000000000000000ff\"\r\n");
}

/* ------------------------------------------------------------------ threads */

static void *serve(void *ctx)
{
	struct peer *p = ctx;
	struct hub_server *s = p->s;
	struct request r;
	char head[HEAD_MAX];
	bool alive = true;

	while (alive && read_head(p, head)) {
		parse(&r, head);
		pthread_mutex_lock(&s->lock);
		s->busy++;
		if (s->busy > s->counts.parallel)
			s->counts.parallel = s->busy;
		pthread_mutex_unlock(&s->lock);
		alive = p->origin ? answer_origin(p, &r) : answer_storage(p, &r);
		pthread_mutex_lock(&s->lock);
		s->busy--;
		pthread_mutex_unlock(&s->lock);
	}
	shutdown(p->fd, SHUT_RDWR);	/* closed by hub_server_stop(), which may be about to use the number */
	free(p);
	return NULL;
}

struct door {
	struct hub_server *s;
	bool origin;
};

static void *accept_all(void *ctx)
{
	struct door d = *(struct door *)ctx;
	struct hub_server *s = d.s;
	struct pollfd f = {.fd = d.origin ? s->origin_fd : s->storage_fd, .events = POLLIN};

	free(ctx);
	while (!stopping(s)) {
		struct peer *p;
		int fd = poll(&f, 1, 20) > 0 ? accept(f.fd, NULL, NULL) : -1;

		if (fd < 0)
			continue;
		p = malloc(sizeof *p);

		pthread_mutex_lock(&s->lock);
		if (!p || s->stopping || s->peers == HUB_SERVER_PEERS) {
			free(p);
			close(fd);
		} else {
			*p = (struct peer){s, fd, s->peers, d.origin};
			s->peer_fd[s->peers] = fd;
			if (pthread_create(&s->peer[s->peers], NULL, serve, p) == 0) {
				s->peers++;
			} else {
				free(p);
				close(fd);
			}
		}
		pthread_mutex_unlock(&s->lock);
	}
	return NULL;
}

static int listen_on(int *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 64) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		return -1;
	*port = ntohs(a.sin_port);
	return fd;
}

void hub_server_init(struct hub_server *s)
{
	memset(s, 0, sizeof *s);
	s->linked_size = -2;
	s->total = -1;
	s->wrong_byte = -1;
	s->storage_name = "127.0.0.1";
}

bool hub_server_start(struct hub_server *s)
{
	signal(SIGPIPE, SIG_IGN);
	pthread_mutex_init(&s->lock, NULL);
	s->stopping = false;
	s->peers = s->busy = s->signature = s->signature_uses = 0;
	memset(&s->counts, 0, sizeof s->counts);
	s->origin_fd = listen_on(&s->origin_port);
	s->storage_fd = listen_on(&s->storage_port);
	if (s->origin_fd < 0 || s->storage_fd < 0)
		return false;
	snprintf(s->base, sizeof s->base, "http://127.0.0.1:%d", s->origin_port);
	for (int i = 0; i < 2; i++) {
		struct door *d = malloc(sizeof *d);

		if (!d)
			return false;
		*d = (struct door){s, i == 0};
		if (pthread_create(&s->acceptor[i], NULL, accept_all, d) != 0)
			return false;
	}
	return true;
}

void hub_server_stop(struct hub_server *s)
{
	if (!s->base[0])
		return;
	s->base[0] = 0;
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->acceptor[0], NULL);
	pthread_join(s->acceptor[1], NULL);
	for (int i = 0; i < s->peers; i++)
		shutdown(s->peer_fd[i], SHUT_RDWR);
	for (int i = 0; i < s->peers; i++) {
		pthread_join(s->peer[i], NULL);
		close(s->peer_fd[i]);
	}
	close(s->origin_fd);
	close(s->storage_fd);
	pthread_mutex_destroy(&s->lock);
}

struct hub_counts hub_server_count(struct hub_server *s)
{
	struct hub_counts c;

	pthread_mutex_lock(&s->lock);
	c = s->counts;
	pthread_mutex_unlock(&s->lock);
	return c;
}
