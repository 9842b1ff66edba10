/* vocab_int.h - the strings of the vocabulary: decoded once, found by their bytes.  Private to tokenizer/. */
#ifndef DS4_TOKENIZER_VOCAB_INT_H
#define DS4_TOKENIZER_VOCAB_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "gguf/gguf.h"

#define VOCAB_MAX (1u << 20)	/* most tokens: a pair of ids and a rank share 64 bits in bpe.c */

struct vocab {
	int32_t size;			/* V */
	int32_t byte_id[256];		/* token of each single byte */
	uint32_t longest;		/* bytes of the longest token */
	char *arena;			/* the bytes of all tokens */
	struct vocab_string {
		uint32_t at, n;		/* arena[at .. at + n) */
	} *token;			/* [V] */
	struct vocab_slot {
		uint32_t tag;		/* hash bits, saves most comparisons */
		int32_t id;		/* -1: empty */
	} *slot;			/* open addressing over the decoded bytes */
	uint64_t slot_mask;
	bool *added;			/* [V] neither a byte nor made by a merge */
};

/* Reads tokenizer.ggml.tokens.  Every string is decoded as if it were a merge piece, strings that cannot be
 * one are literal; added[] is true but for the single bytes until bpe_init() has seen the merges and
 * vocab_restore_added() puts the literal text of what is still marked back.
 * Errors: ERR_FORMAT, ERR_MEMORY.  On failure v holds what vocab_clear() frees. */
enum status vocab_init(struct vocab *v, const struct gguf *g, struct err *err);
void vocab_restore_added(struct vocab *v, const struct gguf *g);
void vocab_clear(struct vocab *v);

/* Id of the piece with these bytes, or -1.  Added tokens may be found, too: ask added[]. */
int32_t vocab_find(const struct vocab *v, const char *p, size_t n);

/* Turns the printable form in the file back into bytes: at most room bytes to out, *n of them.
 * False when p holds a character outside the mapping or out is too small. */
bool vocab_decode(const char *p, size_t n, char *out, size_t room, size_t *n_out);

/* The array of strings under key, or an error that says what is there instead. */
enum status vocab_strings(const struct gguf *g, const char *key, const struct gguf_kv **out, struct err *err);

/* Text from the file for a message: at most 40 bytes, nothing unprintable.  Returns out. */
#define VOCAB_SHOWN 48
const char *vocab_show(const char *p, size_t n, char out[VOCAB_SHOWN]);

#endif
