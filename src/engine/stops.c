/* stops.c - finds stop strings in a stream that arrives in pieces.
 *
 * What  Text goes in, text without any stop string comes out; says when the stream is to end.
 * Why   Clients ask for generation to end at certain strings, and must never see part of one, however the tokens
 *       cut it.
 * How   Held bytes are scanned from the left.  At each place: a stop string that matches there ends the stream; a
 *       stop string that the held bytes end inside of means wait; otherwise the byte is free to go.  Scanning from
 *       the left and stopping at the first place that matches or may match is what makes the earliest match win.
 * Careful
 *       - With stops "abcd" and "bc" the text "abc" must wait: "abcd" starts earlier.  Only stops_finish(), or the
 *         next byte, may settle it for "bc".
 *       - At most one stop string's length is held, so the quadratic scan of the held bytes stays small. */
#include "engine/stops.h"

#include <string.h>

#include "base/mem.h"

enum match { NO, PARTIAL, YES };

enum status stops_init(struct stops *s, const struct stop_string *stop, int n, struct err *err)
{
	enum status st = OK;

	*s = (struct stops){.held = BUF_CAP(BUF_MAX), .hit = -1};
	if (n < 0 || n > STOPS_MAX)
		return err_set(err, ERR_ARGUMENT, "stop: expected at most %d strings, got %d", STOPS_MAX, n);
	if (n && !(s->stop = mem_array((size_t)n, sizeof *s->stop)))
		return err_set(err, ERR_MEMORY, "no memory for %d stop strings", n);
	for (int i = 0; i < n; i++) {
		if (stop[i].n == 0 || stop[i].n > STOPS_MAX_BYTES) {
			st = err_set(err, ERR_ARGUMENT, "stop[%d]: expected 1 to %d bytes, got %zu", i,
				     STOPS_MAX_BYTES, stop[i].n);
			break;
		}
		s->stop[i].p = mem_copy(stop[i].p, stop[i].n);
		if (!s->stop[i].p) {
			st = err_set(err, ERR_MEMORY, "stop[%d]: no memory for %zu bytes", i, stop[i].n);
			break;
		}
		s->stop[i].n = stop[i].n;
		s->n_stop = i + 1;
		s->first[(unsigned char)stop[i].p[0]] = true;
	}
	if (st != OK)
		stops_clear(s);
	return st;
}

void stops_clear(struct stops *s)
{
	for (int i = 0; i < s->n_stop; i++)
		mem_free((void *)s->stop[i].p);
	mem_free(s->stop);
	buf_clear(&s->held);
	*s = (struct stops){.held = BUF_CAP(BUF_MAX), .hit = -1};
}

void stops_reset(struct stops *s)
{
	buf_clear(&s->held);
	s->hit = -1;
}

/* Does a stop string stand at p, or might one when more than n bytes are known?  The shortest is *which. */
static enum match match_at(const struct stops *s, const char *p, size_t n, int *which)
{
	enum match found = NO;
	size_t shortest = 0;

	if (!s->first[(unsigned char)*p])
		return NO;
	for (int i = 0; i < s->n_stop; i++) {
		size_t have = s->stop[i].n < n ? s->stop[i].n : n;

		if (memcmp(p, s->stop[i].p, have) != 0)
			continue;
		if (have < s->stop[i].n) {
			if (found == NO)
				found = PARTIAL;
		} else if (found != YES || have < shortest) {
			found = YES;
			shortest = have;
			*which = i;
		}
	}
	return found;
}

/* Releases the front of the held bytes; final: a partial match is no reason to wait. */
static bool scan(struct stops *s, bool final, struct buf *out)
{
	size_t i = 0;

	for (; i < s->held.len; i++) {
		enum match m = match_at(s, s->held.data + i, s->held.len - i, &s->hit);

		if (m == YES || (m == PARTIAL && !final))
			break;
	}
	buf_add(out, s->held.data, i);
	buf_drop_front(&s->held, i);
	if (s->hit >= 0)
		buf_cut(&s->held, 0);
	return s->hit >= 0;
}

bool stops_push(struct stops *s, const char *p, size_t n, struct buf *out)
{
	if (s->hit >= 0)
		return true;
	if (!s->n_stop) {
		buf_add(out, p, n);
		return false;
	}
	buf_add(&s->held, p, n);
	if (!buf_ok(&s->held))
		out->failed = true;
	return scan(s, false, out);
}

bool stops_finish(struct stops *s, struct buf *out)
{
	return s->hit >= 0 || scan(s, true, out);
}
