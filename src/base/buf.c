/* buf.c - growable bytes; see buf.h for the contract. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* Makes room for n more bytes and the terminating NUL. */
static bool reserve(struct buf *b, size_t n)
{
	size_t room;
	char *p;

	if (b->failed)
		return false;
	if (n > b->cap - b->len) {
		b->failed = true;
		return false;
	}
	if (b->len + n < b->room)
		return true;
	room = b->room * 2;
	if (room < b->len + n + 1)
		room = b->len + n + 1;
	if (room < 64)
		room = 64;
	p = mem_grow(b->data, room, 1);
	if (!p) {
		b->failed = true;
		return false;
	}
	b->data = p;
	b->room = room;
	return true;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
	if (!reserve(b, n))
		return;
	if (n)
		memcpy(b->data + b->len, p, n);
	b->len += n;
	b->data[b->len] = '\0';
}

void buf_str(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void buf_byte(struct buf *b, char c)
{
	buf_add(b, &c, 1);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !reserve(b, (size_t)n))
		return;
	va_start(ap, fmt);
	vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

bool buf_ok(const struct buf *b)
{
	return !b->failed;
}

const char *buf_cstr(const struct buf *b)
{
	return b->data ? b->data : "";
}

char *buf_take(struct buf *b)
{
	char *p;

	buf_add(b, "", 0);
	if (b->failed)
		return NULL;
	p = b->data;
	b->data = NULL;
	b->len = b->room = 0;
	return p;
}

void buf_cut(struct buf *b, size_t len)
{
	if (len >= b->len)
		return;
	b->len = len;
	b->data[len] = '\0';
}

void buf_drop_front(struct buf *b, size_t n)
{
	if (n > b->len)
		n = b->len;
	if (!n)
		return;
	memmove(b->data, b->data + n, b->len - n + 1);
	b->len -= n;
}

void buf_clear(struct buf *b)
{
	mem_free(b->data);
	b->data = NULL;
	b->len = b->room = 0;
	b->failed = false;
}
