/* store_kit.c - see store_kit.h. */
#include "support/store_kit.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>


void kit_new_dir(char *out)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(out, 256, "%s/ds4-kv.XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(out))
		fail_msg("%s: cannot be made", out);
}

void kit_remove_dir(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[600];

	while (d && (e = readdir(d)) != NULL) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(path, sizeof path, "%s/%.255s", dir, e->d_name);
		if (unlink(path) != 0)
			kit_remove_dir(path);
	}
	if (d)
		closedir(d);
	rmdir(dir);
}

static void on_warning(void *ctx, const char *sentence)
{
	struct store_kit *k = ctx;
	size_t n = strlen(k->warning);

	k->warnings++;
	snprintf(k->warning + n, sizeof k->warning - n, "%s\n", sentence);
}

static void shape_of(struct shape *s, enum store_kit_size size)
{
	if (size == KIT_TINY) {
		*s = (struct shape){.n_layer = 1, .window = 2, .ratio = {128}};
	} else if (size == KIT_SMALL) {
		*s = (struct shape){.n_layer = 2, .window = 8, .ratio = {4, 128}};
	} else {
		*s = (struct shape){.n_layer = 43, .window = 128};
		for (int i = 2; i < 43; i++)
			s->ratio[i] = i % 2 ? 128 : 4;
	}
}

void store_kit_open(struct store_kit *k, const char *dir, enum store_kit_size size, int32_t blocks, uint64_t fingerprint,
		    const struct kvstore_options *opt)
{
	struct be_options o = {.threads = 1, .numerics = BE_NUMERICS_MODEL};
	struct kvstore_options mine = opt ? *opt : (struct kvstore_options){0};
	struct shape s;
	struct err err = {0};

	memset(k, 0, sizeof *k);
	shape_of(&s, size);
	k->fingerprint = (struct tree_key){fingerprint, 7};
	if (be_open(&k->be, "cpu", &o, &err) != OK)
		fail_msg("%s", err.msg);
	kv_layout_make(&k->layout, &s, k->be);
	kv_pool_init(&k->pool, k->be, &k->layout, blocks);
	if (tree_open(&k->tree, &k->pool, k->fingerprint, &err) != OK)
		fail_msg("%s", err.msg);
	if (!dir)
		return;
	mine.dir = dir;
	mine.warn = on_warning;
	mine.warn_ctx = k;
	if (kvstore_open(&k->ks, &mine, &err) != OK || kvstore_attach(k->ks, k->tree, &k->pool, k->fingerprint, &err) != OK)
		fail_msg("%s", err.msg);
}

void store_kit_close(struct store_kit *k, bool flush)
{
	struct err err = {0};

	if (flush && kvstore_flush(k->ks, &err) != OK)
		fail_msg("%s", err.msg);
	kvstore_close(k->ks);
	tree_close(k->tree);
	assert_int_equal(k->pool.live, 0);
	assert_int_equal(k->pool.live_check, 0);
	kv_pool_clear(&k->pool);
	be_close(k->be);
}

struct kv *store_kit_timeline(struct store_kit *k)
{
	struct err err = {0};
	struct kv *kv;

	if (kv_open(&kv, &k->pool, 2, &err) != OK)
		fail_msg("%s", err.msg);
	return kv;
}

/* ------------------------------------------------------------------ patterns */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
	x = (x ^ x >> 27) * 0x94D049BB133111EBu;
	return x ^ x >> 31;
}

/* Bytes that only this many tokens after these leave behind. */
static void pattern(uint8_t *out, size_t n, struct tree_key key, uint64_t what)
{
	for (size_t i = 0; i < n; i += 8) {
		uint64_t v = mix(key.low + key.high * 3 + what * 0x9E3779B97F4A7C15u + i);

		memcpy(out + i, &v, n - i < 8 ? n - i : 8);
	}
}

static bool is_pattern(const uint8_t *p, size_t n, struct tree_key key, uint64_t what)
{
	for (size_t i = 0; i < n; i += 8) {
		uint64_t v = mix(key.low + key.high * 3 + what * 0x9E3779B97F4A7C15u + i);

		if (memcmp(p + i, &v, n - i < 8 ? n - i : 8) != 0)
			return false;
	}
	return true;
}

static struct tree_key key_at(const struct store_kit *k, const int32_t *token, int32_t blocks)
{
	struct tree_key key = k->fingerprint;

	for (int32_t i = 0; i < blocks; i++)
		key = tree_key_next(key, token + (size_t)i * GEOM_BLOCK);
	return key;
}

enum status store_kit_read(struct store_kit *k, struct kv *kv, const int32_t *token, int32_t to, int32_t check_every,
			   struct err *err)
{
	struct tree_key key = key_at(k, token, kv->len / GEOM_BLOCK);

	while (kv->len < to) {
		int32_t block = kv->len / GEOM_BLOCK, end = (block + 1) * GEOM_BLOCK;
		bool full = end <= to;

		end = full ? end : to;
		TRY(kv_reserve(kv, end, err));
		if (full) {
			key = tree_key_next(key, token + (size_t)block * GEOM_BLOCK);
			pattern(kv->dev.block[block], k->layout.block_bytes, key, 1);
			pattern(kv->dev.tail, k->layout.check_bytes, key, 2);
		}
		kv_advance(kv, end - kv->len);
		if (full && check_every && end % check_every == 0)
			kv_checkpoint(kv);
		tree_publish(k->tree, kv, token);
		tree_poll(k->tree);
	}
	return OK;
}

bool store_kit_right(struct store_kit *k, struct kv *kv, const int32_t *token, char *why)
{
	struct tree_key key = k->fingerprint;
	struct err err = {0};

	if (kv_reserve(kv, kv->len + 1, &err) != OK) {
		snprintf(why, 200, "%.199s", err.msg);
		return false;
	}
	for (int32_t i = 0; i < kv->len / GEOM_BLOCK; i++) {
		key = tree_key_next(key, token + (size_t)i * GEOM_BLOCK);
		if (!is_pattern(kv->dev.block[i], k->layout.block_bytes, key, 1)) {
			snprintf(why, 200, "block %d of %d is not the one of its tokens", (int)i, (int)(kv->len / GEOM_BLOCK));
			return false;
		}
	}
	if (kv->len && kv->len % GEOM_BLOCK == 0 && !is_pattern(kv->dev.tail, k->layout.check_bytes, key, 2)) {
		snprintf(why, 200, "the tail is not that of %d tokens", (int)kv->len);
		return false;
	}
	return true;
}

int32_t store_kit_visit(struct store_kit *k, const int32_t *token, int32_t n, int32_t check_every)
{
	struct kv *kv = store_kit_timeline(k);
	struct err err = {0};
	int32_t found;

	assert_int_equal(tree_take(k->tree, kv, token, n - 1, &err), OK);
	found = kv->len;
	if (store_kit_read(k, kv, token, n, check_every, &err) != OK)
		fail_msg("%s", err.msg);
	kv_close(kv);
	return found;
}

int32_t store_kit_take(struct store_kit *k, const int32_t *token, int32_t n)
{
	struct kv *kv = store_kit_timeline(k);
	struct err err = {0};
	char why[200];
	int32_t found;

	assert_int_equal(tree_take(k->tree, kv, token, n, &err), OK);
	found = kv->len;
	if (!store_kit_right(k, kv, token, why))
		fail_msg("%s", why);
	kv_close(kv);
	return found;
}

void kit_tokens(int32_t *out, int32_t n, int32_t part, int32_t a, int32_t b)
{
	for (int32_t i = 0; i < n; i++)
		out[i] = i * 7 + 1000 * (i < part ? a : b);
}
