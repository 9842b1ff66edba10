/* store_kit.h - a store with a prefix tree and a pool, without a model: what a block or checkpoint holds is a pattern that
 * depends on all tokens before, so that every byte of it can be judged. */
#ifndef DS4_TESTS_SUPPORT_STORE_KIT_H
#define DS4_TESTS_SUPPORT_STORE_KIT_H

#include "kvstore/kvstore.h"

enum store_kit_size {
	KIT_TINY,	/* blocks of 640 bytes, checkpoints of 1 kB */
	KIT_SMALL,	/* 21 kB, 90 kB */
	KIT_FLASH	/* 440 kB, 5 MB */
};

struct store_kit {
	struct backend *be;
	struct kv_layout layout;
	struct kv_pool pool;
	struct tree *tree;
	struct kvstore *ks;
	struct tree_key fingerprint;
	int warnings;
	char warning[2000];		/* all of them, one a line */
};

/* A new empty folder under $TMPDIR; kit_remove_dir takes it away with all in it.  `out` has 256 bytes. */
void kit_new_dir(char *out);
void kit_remove_dir(const char *dir);

/* Pool of `blocks` blocks; opt may be NULL (its dir is set here).  Fails the test when it cannot be opened.
 * dir NULL: without a store. */
void store_kit_open(struct store_kit *k, const char *dir, enum store_kit_size size, int32_t blocks, uint64_t fingerprint,
		    const struct kvstore_options *opt);
void store_kit_close(struct store_kit *k, bool flush);

struct kv *store_kit_timeline(struct store_kit *k);
/* As if a model read token[kv->len..to): writes the patterns, takes checkpoints at multiples of check_every (0 = none),
 * publishes each block. */
enum status store_kit_read(struct store_kit *k, struct kv *kv, const int32_t *token, int32_t to, int32_t check_every,
			   struct err *err);
/* Is every byte of blocks and tail what token[0..kv->len) says?  False: what is wrong, in why [200]. */
bool store_kit_right(struct store_kit *k, struct kv *kv, const int32_t *token, char *why);

/* A new timeline that reads n tokens and leaves; returns how many it found. */
int32_t store_kit_visit(struct store_kit *k, const int32_t *token, int32_t n, int32_t check_every);
/* A new timeline that takes what there is of n tokens, looks at every byte, and leaves; returns how many it found. */
int32_t store_kit_take(struct store_kit *k, const int32_t *token, int32_t n);

/* n tokens: list number `a` up to token `part`, then number `b`. */
void kit_tokens(int32_t *out, int32_t n, int32_t part, int32_t a, int32_t b);

#endif
