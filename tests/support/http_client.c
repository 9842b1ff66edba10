/* http_client.c - a client for tests; see http_client.h. */
#include "support/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"

int client_connect(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct timeval limit = {.tv_sec = 20};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) != 0)
		fail_msg("no connection to port %d", port);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	return fd;
}

void client_send(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);

		if (sent <= 0)
			return;
		p += sent;
		n -= (size_t)sent;
	}
}

void client_text(int fd, const char *text)
{
	client_send(fd, text, strlen(text));
}

/* One byte; false at the end. */
static bool get(int fd, struct response *r, char *c)
{
	if (recv(fd, c, 1, 0) == 1)
		return true;
	r->closed = true;
	return false;
}

static bool get_n(int fd, struct response *r, size_t n)
{
	char part[4096];

	while (n) {
		ssize_t got = recv(fd, part, n < sizeof part ? n : sizeof part, 0);

		if (got <= 0) {
			r->closed = true;
			return false;
		}
		buf_add(&r->body, part, (size_t)got);
		n -= (size_t)got;
	}
	return true;
}

static bool get_line(int fd, struct response *r, char *line, size_t room)
{
	size_t n = 0;
	char c;

	while (get(fd, r, &c)) {
		if (c == '\n') {
			line[n && line[n - 1] == '\r' ? n - 1 : n] = 0;
			return true;
		}
		if (n + 1 < room)
			line[n++] = c;
	}
	return false;
}

const char *response_field(const struct response *r, const char *name)
{
	static char value[512];
	const char *p = buf_cstr(&r->head);
	size_t n = strlen(name);

	for (p = strstr(p, "\r\n"); p; p = strstr(p + 2, "\r\n")) {
		if (!strncasecmp(p + 2, name, n) && p[2 + n] == ':') {
			p += 3 + n + strspn(p + 3 + n, " ");
			snprintf(value, sizeof value, "%.*s", (int)strcspn(p, "\r"), p);
			return value;
		}
	}
	return "";
}

static void read_chunks(int fd, struct response *r)
{
	char line[256];

	while (get_line(fd, r, line, sizeof line)) {
		size_t n = strtoul(line, NULL, 16);

		if (!n) {
			r->whole = get_line(fd, r, line, sizeof line);
			return;
		}
		if (!get_n(fd, r, n) || !get_line(fd, r, line, sizeof line))
			return;
	}
}

void client_read(int fd, struct response *r, bool head_request)
{
	char c;

	response_clear(r);
	while (get(fd, r, &c)) {
		buf_byte(&r->head, c);
		if (r->head.len >= 4 && !memcmp(r->head.data + r->head.len - 4, "\r\n\r\n", 4))
			break;
	}
	if (r->closed || sscanf(buf_cstr(&r->head), "HTTP/1.1 %d ", &r->status) != 1)
		return;
	if (head_request || r->status == 204 || r->status == 100) {
		r->whole = true;
	} else if (!strcasecmp(response_field(r, "Transfer-Encoding"), "chunked")) {
		read_chunks(fd, r);
	} else if (*response_field(r, "Content-Length")) {
		r->whole = get_n(fd, r, strtoul(response_field(r, "Content-Length"), NULL, 10));
	} else {
		get_n(fd, r, SIZE_MAX);
		r->whole = r->closed;
	}
}

void response_clear(struct response *r)
{
	buf_clear(&r->head);
	buf_clear(&r->body);
	*r = (struct response){.head = BUF_CAP(BUF_MAX), .body = BUF_CAP(BUF_MAX)};
}

void client_ask(int port, struct response *r, const char *method, const char *path, const char *fields, const char *body)
{
	struct buf b = BUF_CAP(BUF_MAX);
	int fd = client_connect(port);

	buf_printf(&b, "%s %s HTTP/1.1\r\nHost: x\r\n%s", method, path, fields ? fields : "");
	if (body)
		buf_printf(&b, "Content-Length: %zu\r\n", strlen(body));
	buf_str(&b, "\r\n");
	buf_str(&b, body ? body : "");
	client_send(fd, b.data, b.len);
	client_read(fd, r, !strcmp(method, "HEAD"));
	close(fd);
	buf_clear(&b);
}

bool client_closed(int fd, double seconds)
{
	double until = clock_seconds() + seconds;
	char part[4096];

	while (clock_seconds() < until) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 10) > 0 && recv(fd, part, sizeof part, 0) <= 0)
			return true;
	}
	return false;
}
