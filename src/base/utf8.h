/* utf8.h - decoding UTF-8 as Unicode recommends: one U+FFFD for each maximal ill-formed subsequence. */
#ifndef DS4_BASE_UTF8_H
#define DS4_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define UTF8_BAD 0xFFFDu

/* Decodes the code point at p (n >= 1 bytes left).  Returns the bytes consumed (1..4); an ill-formed
 * sequence gives *cp = UTF8_BAD and the length of its maximal ill-formed subsequence.
 * *valid (may be NULL) tells a real U+FFFD in the text from a replacement. */
size_t utf8_decode(const char *p, size_t n, uint32_t *cp, int *valid);

/* Length of the longest prefix of p[0..n) that does not end inside a sequence which more bytes could
 * still complete: what a stream may release now. */
size_t utf8_whole(const char *p, size_t n);

/* Writes cp (a scalar value) as 1..4 bytes; returns how many. */
size_t utf8_encode(uint32_t cp, char out[4]);

/* Appends p[0..n) to out with ill-formed parts replaced by U+FFFD. */
void utf8_add_lossy(struct buf *out, const char *p, size_t n);

#endif
