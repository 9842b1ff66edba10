/* kv.h - the conversations in a folder of the disk tier; shared by the `kv` command (kv.c) and what it reads (kv_look.c). */
#ifndef DS4_CLI_KV_H
#define DS4_CLI_KV_H

#include "kvstore/kvstore.h"
#include "tokenizer/tokenizer.h"

#define KV_TITLE 160
#define KV_ID 12	/* digits of a key that are shown */

/* What a conversation's text is read with: the vocabulary of a model, and the fingerprints its states have. */
struct kv_words {
	struct gguf *gguf;
	struct tokenizer *tokenizer;	/* NULL = none: counts only */
	struct tree_key fingerprint[4];
	int n;
};

/* path NULL: no vocabulary. */
enum status kv_words_open(struct kv_words *w, const char *path, struct err *err);
void kv_words_clear(struct kv_words *w);
bool kv_words_fit(const struct kv_words *w, struct tree_key fingerprint);

/* A conversation is what ends in an entry without children. */
struct kv_talk {
	struct kvstore_entry last;
	uint64_t bytes;		/* of all its blocks and checkpoints */
	uint64_t own_bytes;	/* of those that no other has */
	uint64_t hits;
	int32_t checks;
	bool fits;		/* the vocabulary's model has read it */
	char title[KV_TITLE];	/* "" = unknown */
};

/* All of them, the last used first; the caller frees. */
enum status kv_talks(struct kvstore *ks, const struct kv_words *w, struct kv_talk **out, int *n, struct err *err);

/* The tokens of one, from its beginning.  *n less than last.end: entries before are gone. */
enum status kv_tokens(struct kvstore *ks, const struct kvstore_entry *last, int32_t **out, int32_t *n, struct err *err);

/* Positions of its checkpoints, ascending; the caller frees. */
enum status kv_checks(struct kvstore *ks, const struct kvstore_entry *last, int32_t **out, int32_t *n, struct err *err);

#endif
