/* detok.c - token bytes in, whole characters out.
 *
 * What  Holds back the bytes at the end of the stream that may be the beginning of a character.
 * Why   A character can span four tokens.  A client that gets half of one replaces it by U+FFFD and sends
 *       that back in its next request, which then no longer begins like the conversation we remember.
 * How   At most three bytes are ever held.  While some are, new bytes join them one by one until they are a
 *       character or can no longer become one; then the rest of the token needs no copying.
 * Careful
 *       - What can still become a character depends on the lead byte (E0 needs A0..BF next, ...): an
 *         impossible sequence leaves at once as U+FFFD, it is not held until the end.
 *       - The released text, joined, equals the lossy decoding of all bytes.
 * Source: docs/tokenizer.md. */
#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

#include <string.h>

void detok_push(struct detok *d, const char *bytes, size_t n, struct buf *out)
{
	size_t whole;

	while (d->n_held && n) {
		d->held[d->n_held++] = *bytes++;
		n--;
		whole = utf8_whole(d->held, d->n_held);
		utf8_add_lossy(out, d->held, whole);
		d->n_held = (uint8_t)(d->n_held - whole);
		memmove(d->held, d->held + whole, d->n_held);
	}
	if (!n)
		return;
	whole = utf8_whole(bytes, n);
	utf8_add_lossy(out, bytes, whole);
	d->n_held = (uint8_t)(n - whole);
	memcpy(d->held, bytes + whole, d->n_held);
}

void detok_finish(struct detok *d, struct buf *out)
{
	utf8_add_lossy(out, d->held, d->n_held);
	d->n_held = 0;
}
