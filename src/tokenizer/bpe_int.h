/* bpe_int.h - the merges and their application to one piece.  Private to tokenizer/. */
#ifndef DS4_TOKENIZER_BPE_INT_H
#define DS4_TOKENIZER_BPE_INT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "gguf/gguf.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocab_int.h"

#define BPE_MERGES_MAX ((1u << 24) - 1)

struct bpe {
	uint64_t *slot;		/* open addressing: left id 20 bits, right id 20, rank 24; UINT64_MAX empty */
	uint64_t slot_mask;
	int32_t *made;		/* [merges] the token a merge makes, by rank */
	uint32_t n;		/* merges */
};

/* Reads tokenizer.ggml.merges; clears added[] of every token that a merge makes.
 * Errors: ERR_FORMAT (shape, unknown part or result, a part that is neither byte nor made by a merge, the
 * same pair twice), ERR_MEMORY.  On failure b holds what bpe_clear() frees. */
enum status bpe_init(struct bpe *b, struct vocab *v, const struct gguf *g, struct err *err);
void bpe_clear(struct bpe *b);

/* Appends the tokens of the piece p[0..n), n >= 1: from its bytes, the mergeable pair of lowest rank is joined,
 * the leftmost of equals, until none is left.  O(n log n).  Sets out->failed when memory runs out. */
void bpe_encode(const struct bpe *b, const struct vocab *v, const char *p, size_t n, struct token_list *out);

#endif
