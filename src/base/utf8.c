/* utf8.c - see utf8.h.  The table of allowed second bytes is table 3-7 of the Unicode standard. */
#include "base/utf8.h"

/* Bytes a sequence with this lead byte has, and the range its second byte must be in; 0 = never a lead. */
static size_t lead(unsigned char c, unsigned char *lo, unsigned char *hi)
{
	*lo = 0x80;
	*hi = 0xBF;
	if (c < 0x80)
		return 1;
	if (c < 0xC2 || c > 0xF4)
		return 0;
	if (c < 0xE0)
		return 2;
	if (c < 0xF0) {
		if (c == 0xE0)
			*lo = 0xA0;
		else if (c == 0xED)
			*hi = 0x9F;
		return 3;
	}
	if (c == 0xF0)
		*lo = 0x90;
	else if (c == 0xF4)
		*hi = 0x8F;
	return 4;
}

size_t utf8_decode(const char *s, size_t n, uint32_t *cp, int *valid)
{
	const unsigned char *p = (const unsigned char *)s;
	unsigned char lo, hi;
	size_t want = lead(p[0], &lo, &hi), i;
	uint32_t v;

	if (want == 1) {
		*cp = p[0];
		if (valid)
			*valid = 1;
		return 1;
	}
	v = want == 2 ? p[0] & 0x1Fu : want == 3 ? p[0] & 0x0Fu : p[0] & 0x07u;
	for (i = 1; i < want && i < n; i++) {
		if (p[i] < lo || p[i] > hi)
			break;
		v = v << 6 | (p[i] & 0x3Fu);
		lo = 0x80;
		hi = 0xBF;
	}
	if (want && i == want) {
		*cp = v;
		if (valid)
			*valid = 1;
		return want;
	}
	*cp = UTF8_BAD;
	if (valid)
		*valid = 0;
	return want ? i : 1;
}

size_t utf8_whole(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s;
	unsigned char lo, hi;

	for (size_t back = 1; back <= 3 && back <= n; back++) {
		size_t at = n - back, want, i;

		if ((p[at] & 0xC0) == 0x80)
			continue;	/* a continuation byte: look further left for its lead */
		want = lead(p[at], &lo, &hi);
		if (want <= back)
			return n;	/* complete, or never a lead */
		for (i = 1; i < back; i++, lo = 0x80, hi = 0xBF)
			if (p[at + i] < lo || p[at + i] > hi)
				return n;
		return at;
	}
	return n;
}

size_t utf8_encode(uint32_t cp, char out[4])
{
	if (cp < 0x80) {
		out[0] = (char)cp;
		return 1;
	}
	if (cp < 0x800) {
		out[0] = (char)(0xC0 | cp >> 6);
		out[1] = (char)(0x80 | (cp & 0x3F));
		return 2;
	}
	if (cp < 0x10000) {
		out[0] = (char)(0xE0 | cp >> 12);
		out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
		out[2] = (char)(0x80 | (cp & 0x3F));
		return 3;
	}
	out[0] = (char)(0xF0 | cp >> 18);
	out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
	out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
	out[3] = (char)(0x80 | (cp & 0x3F));
	return 4;
}

void utf8_add_lossy(struct buf *out, const char *p, size_t n)
{
	while (n) {
		uint32_t cp;
		int valid;
		size_t k = utf8_decode(p, n, &cp, &valid);

		if (valid)
			buf_add(out, p, k);
		else
			buf_str(out, "\xEF\xBF\xBD");
		p += k;
		n -= k;
	}
}
