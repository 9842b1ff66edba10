/* pretok.h - cuts text into the pieces that merges never cross.
 *
 * The same cut as the published three-pass regular expressions (docs/tokenizer.md), by hand and in one pass.
 * Where a piece ends depends only on the text from its beginning on, so there is no state to carry. */
#ifndef DS4_TOKENIZER_PRETOK_H
#define DS4_TOKENIZER_PRETOK_H

#include <stdbool.h>
#include <stddef.h>

/* Length in bytes of the first piece of text[0..n), 1 <= result <= n, n >= 1.  text must begin where a piece
 * begins and n must reach to the end of the whole text, which is what the rules look at.
 * Ill-formed UTF-8 counts as U+FFFD; *ill_formed is set (never cleared) when the piece may hold some. */
size_t pretok_piece(const char *text, size_t n, bool *ill_formed);

#endif
