/* exchange.c - answers: whole, or in chunks.
 *
 * Careful
 *   - HTTP/1.0 knows no chunks: there an answer in pieces ends with the connection.
 *   - An answer to HEAD has the fields of the answer to GET and no body. */
#include <event2/buffer.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "server/http_int.h"

static void put(struct conn *c, const void *p, size_t n)
{
	bufferevent_write(c->bev, p, n);
	c->queued += n;
}

void exchange_field(struct exchange *x, const char *name, const char *value)
{
	buf_printf(&x->header, "%s: %s\r\n", name, value);
}

/* "Tue, 24 Nov 2026 17:56:43 GMT", made once a second. */
static const char *date(void)
{
	static _Thread_local time_t made;
	static _Thread_local char text[40];
	time_t now = time(NULL);
	struct tm tm;

	if (now != made && gmtime_r(&now, &tm)) {
		strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm);
		made = now;
	}
	return text;
}

/* Status line, fields and the empty line. */
static void put_head(struct exchange *x, int status, const char *type)
{
	struct conn *c = x->conn;
	char line[200];
	bool old = x->head.minor == 0 && x->head.block;

	x->status = status;
	x->bare = x->head.method && !strcmp(x->head.method, "HEAD");
	snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, http_status_text(status), date());
	put(c, line, strlen(line));
	if (type) {
		snprintf(line, sizeof line, "Content-Type: %s\r\n", type);
		put(c, line, strlen(line));
	}
	if (c->last)
		exchange_field(x, "Connection", "close");
	else if (old)
		exchange_field(x, "Connection", "keep-alive");
	buf_str(&x->header, "\r\n");
	put(c, buf_cstr(&x->header), x->header.len);
}

void exchange_reply(struct exchange *x, int status, const char *type, const void *body, size_t n)
{
	char number[32];

	if (status != 204) {
		snprintf(number, sizeof number, "%zu", n);
		exchange_field(x, "Content-Length", number);
	}
	put_head(x, status, type);
	if (!x->bare && n) {
		put(x->conn, body, n);
		x->sent += n;
	}
	conn_answered(x->conn);
}

void exchange_begin(struct exchange *x, int status, const char *type)
{
	x->streaming = true;
	x->chunked = x->head.minor >= 1;
	if (x->chunked)
		exchange_field(x, "Transfer-Encoding", "chunked");
	else
		x->conn->last = true;
	put_head(x, status, type);
}

void exchange_write(struct exchange *x, const void *p, size_t n)
{
	char size[24];

	if (!n || x->bare)
		return;
	x->sent += n;
	if (x->chunked) {
		snprintf(size, sizeof size, "%zx\r\n", n);
		put(x->conn, size, strlen(size));
	}
	put(x->conn, p, n);
	if (x->chunked)
		put(x->conn, "\r\n", 2);
}

void exchange_end(struct exchange *x)
{
	if (x->chunked && !x->bare)
		put(x->conn, "0\r\n\r\n", 5);
	conn_answered(x->conn);
}

void exchange_cut(struct exchange *x)
{
	conn_drop(x->conn);
}

size_t exchange_unsent(const struct exchange *x)
{
	return evbuffer_get_length(bufferevent_get_output(x->conn->bev));
}

void exchange_last(struct exchange *x)
{
	x->conn->last = true;
}

void exchange_take_body(struct exchange *x, struct buf *out)
{
	*out = x->body;
	x->body = (struct buf){.cap = out->cap};
}

void http_body_freed(struct http *h, size_t n)
{
	h->bodies -= n;
}

const char *exchange_peer(const struct exchange *x)
{
	return x->conn->peer;
}
