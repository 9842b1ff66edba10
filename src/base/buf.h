/* buf.h - growable bytes with a stated cap and a sticky failure.
 *
 * After a failure (no memory, or the cap reached) every call is a no-op, so a sequence of calls needs one
 * check at the end: buf_ok().  data is always NUL-terminated behind len when data is not NULL. */
#ifndef DS4_BASE_BUF_H
#define DS4_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct buf {
	char *data;
	size_t len, room;
	size_t cap;		/* most bytes it may ever hold */
	bool failed;
};

#define BUF_CAP(bytes) {.cap = (bytes)}
#define BUF_MAX ((size_t)1 << 40)	/* for output that our own code bounds */

void buf_add(struct buf *b, const void *p, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_byte(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool buf_ok(const struct buf *b);
const char *buf_cstr(const struct buf *b);	/* "" when empty; borrowed until the next call */
char *buf_take(struct buf *b);			/* moves the bytes out (NULL after a failure) and empties b */
void buf_cut(struct buf *b, size_t len);	/* shortens to len; keeps a failure */
void buf_drop_front(struct buf *b, size_t n);	/* removes the first n bytes */
void buf_clear(struct buf *b);			/* frees and forgets a failure; the cap stays */

#endif
