/* store_test.c - what is stored comes back with every byte or not at all; the directory may hold anything; the budget
 * holds; what is removed is gone.
 *
 * No model: support/store_kit.h gives blocks and checkpoints patterns that depend on all tokens before. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "kvstore/io.h"
#include "kvstore/kvfile.h"
#include "support/store_kit.h"

enum { N = 2048 };

static int new_dir(void **state)
{
	char *dir = calloc(1, 256);

	kit_new_dir(dir);
	*state = dir;
	return 0;
}

static int remove_dir(void **state)
{
	for (int op = 0; op < IO_OPS; op++)
		io_fail_at((enum io_op)op, 0, 0, 0);
	kit_remove_dir(*state);
	free(*state);
	return 0;
}

static struct kvstore_stats stats(const struct store_kit *k)
{
	struct kvstore_stats s;

	kvstore_stats(k->ks, &s);
	return s;
}

/* Stores list `a` of n tokens with a checkpoint every 512. */
static void fill(const char *dir, enum store_kit_size size, int32_t a, int32_t n)
{
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, dir, size, 100, 1, NULL);
	kit_tokens(t, n, n, a, a);
	store_kit_visit(&k, t, n, 512);
	store_kit_close(&k, true);
}

static int32_t found(const char *dir, enum store_kit_size size, int32_t a, int32_t n, char *warning)
{
	struct store_kit k;
	int32_t t[N], got;

	store_kit_open(&k, dir, size, 100, 1, NULL);
	kit_tokens(t, n, n, a, a);
	got = store_kit_take(&k, t, n);
	kvstore_poll(k.ks);
	if (warning)
		snprintf(warning, 2000, "%s", k.warning);
	store_kit_close(&k, false);
	return got;
}

/* Names of the store's files; returns how many. */
static int list(const char *dir, char name[][300], int most)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d)) != NULL) {
		size_t len = strlen(e->d_name);

		if (len > 3 && strcmp(e->d_name + len - 3, ".kv") == 0 && n < most)
			snprintf(name[n++], 300, "%s/%s", dir, e->d_name);
	}
	if (d)
		closedir(d);
	return n;
}

/* ------------------------------------------------------------------ there and back */

static void what_was_read_comes_back_in_the_next_process(void **state)
{
	fill(*state, KIT_SMALL, 1, N);
	assert_int_equal(found(*state, KIT_SMALL, 1, N, NULL), N);
	assert_int_equal(found(*state, KIT_SMALL, 1, 1500, NULL), 1024);
	assert_int_equal(found(*state, KIT_SMALL, 2, N, NULL), 0);
}

static void what_memory_lets_go_of_comes_back_from_disk(void **state)
{
	struct store_kit k;
	struct kvstore_stats st;
	int32_t t[N];

	store_kit_open(&k, *state, KIT_SMALL, 20, 1, &(struct kvstore_options){.gather = 0.001});
	for (int a = 0; a < 6; a++) {
		kit_tokens(t, N, N, a, a);
		store_kit_visit(&k, t, N, 512);
	}
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	for (int a = 0; a < 6; a++) {
		kit_tokens(t, N, N, a, a);
		assert_int_equal(store_kit_take(&k, t, N), N);
	}
	st = stats(&k);
	assert_int_equal(k.warnings, 0);
	assert_int_equal(st.damaged + st.errors, 0);
	assert_true(st.loaded >= 4 * 16);
	store_kit_close(&k, true);
}

/* As for a device: through buffers, and uploaded. */
static void memory_of_a_device_is_filled_through_buffers(void **state)
{
	struct store_kit k;
	int32_t t[N];

	fill(*state, KIT_SMALL, 1, N);
	for (int readers = 1; readers <= 20; readers += 19) {
		store_kit_open(&k, *state, KIT_SMALL, 40, 1, &(struct kvstore_options){.readers = readers});
		k.be->host_memory = false;
		kit_tokens(t, N, N, 1, 1);
		assert_int_equal(store_kit_take(&k, t, N), N);
		assert_int_equal(stats(&k).loaded, N / 128 + 1);
		store_kit_close(&k, true);
	}
}

static void an_equal_beginning_is_on_disk_once(void **state)
{
	enum { SYSTEM = 1280, OWN = 256, MANY = 8 };
	struct store_kit k;
	int32_t t[SYSTEM + OWN];

	store_kit_open(&k, *state, KIT_SMALL, 200, 1, NULL);
	for (int a = 0; a < MANY; a++) {
		kit_tokens(t, SYSTEM + OWN, SYSTEM, 0, 1 + a);
		store_kit_visit(&k, t, SYSTEM + OWN, 256);
	}
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	assert_int_equal(stats(&k).entries, SYSTEM / 128 + MANY * OWN / 128);
	assert_int_equal(k.pool.live, SYSTEM / 128 + MANY * OWN / 128);
	store_kit_close(&k, true);
	store_kit_open(&k, *state, KIT_SMALL, 200, 1, NULL);
	assert_int_equal(stats(&k).entries, SYSTEM / 128 + MANY * OWN / 128);
	for (int a = 0; a < MANY; a++) {
		kit_tokens(t, SYSTEM + OWN, SYSTEM, 0, 1 + a);
		assert_int_equal(store_kit_take(&k, t, SYSTEM + OWN), SYSTEM + OWN);
	}
	assert_int_equal(k.pool.live, SYSTEM / 128 + MANY * OWN / 128);
	store_kit_close(&k, false);
}

static void a_killed_process_leaves_what_it_had_written(void **state)
{
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, *state, KIT_SMALL, 100, 1, &(struct kvstore_options){.gather = 60});
	kit_tokens(t, N, N, 1, 1);
	store_kit_visit(&k, t, 1024, 512);
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	store_kit_visit(&k, t, N, 512);
	store_kit_close(&k, false);		/* what waits is lost */
	assert_int_equal(found(*state, KIT_SMALL, 1, N, NULL), 1024);
}

static void checkpoints_are_kept_at_a_distance_and_at_the_end(void **state)
{
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, *state, KIT_SMALL, 100, 1, &(struct kvstore_options){.settle = 0.01});
	kit_tokens(t, N, N, 1, 1);
	store_kit_visit(&k, t, 1920, 128);	/* a checkpoint at every block */
	assert_in_range(stats(&k).checks, 3, 3);	/* 512, 1024, 1536 */
	usleep(20000);
	kvstore_poll(k.ks);
	assert_int_equal(stats(&k).checks, 4);	/* and the last, which nothing has followed */
	store_kit_close(&k, true);
	assert_int_equal(found(*state, KIT_SMALL, 1, N, NULL), 1920);
	assert_int_equal(found(*state, KIT_SMALL, 1, 1900, NULL), 1536);
}

static void a_copy_that_waits_can_be_loaded(void **state)
{
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, *state, KIT_SMALL, 18, 1, &(struct kvstore_options){.gather = 60});
	kit_tokens(t, N, N, 1, 1);
	store_kit_visit(&k, t, N, 512);
	assert_int_equal(stats(&k).written, 0);
	tree_clear(k.tree);
	assert_int_equal(k.pool.live, 0);
	assert_int_equal(store_kit_take(&k, t, N), N);
	assert_int_equal(stats(&k).written, 0);
	store_kit_close(&k, false);
}

static void two_models_share_a_directory(void **state)
{
	struct store_kit k;
	int32_t t[N];

	fill(*state, KIT_SMALL, 1, N);
	store_kit_open(&k, *state, KIT_TINY, 100, 2, NULL);
	kit_tokens(t, N, N, 1, 1);
	assert_int_equal(store_kit_take(&k, t, N), 0);
	store_kit_visit(&k, t, 1024, 512);
	assert_int_equal(k.warnings, 0);
	store_kit_close(&k, true);
	assert_int_equal(found(*state, KIT_SMALL, 1, N, NULL), N);
	store_kit_open(&k, *state, KIT_TINY, 100, 2, NULL);
	assert_int_equal(store_kit_take(&k, t, N), 1024);
	assert_int_equal(stats(&k).entries, N / 128 + 8);
	store_kit_close(&k, false);
}

/* The same fingerprint with another layout cannot be; but files can be made. */
static void a_section_of_another_size_is_not_used(void **state)
{
	struct store_kit k;
	int32_t t[N];

	fill(*state, KIT_SMALL, 1, N);
	store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
	kit_tokens(t, N, N, 1, 1);
	assert_int_equal(store_kit_take(&k, t, N), 0);
	store_kit_close(&k, false);
}

/* ------------------------------------------------------------------ strange directories */

static void copy_file(const char *from, const char *to, long cut, long flip)
{
	FILE *a = fopen(from, "rb"), *b = fopen(to, "wb");
	int c;

	assert_non_null(a);
	assert_non_null(b);
	for (long i = 0; (c = fgetc(a)) != EOF && (cut < 0 || i < cut); i++)
		fputc(i == flip ? c ^ 1 << i % 8 : c, b);
	fclose(a);
	fclose(b);
}

static long size_of(const char *path)
{
	struct stat sb;

	return stat(path, &sb) == 0 ? (long)sb.st_size : -1;
}

static void cut_and_flipped_files_give_what_is_right_or_nothing(void **state)
{
	struct rng rng = rng_seed(3);
	char name[8][300], keep[300];
	int noticed = 0;
	long size;

	fill(*state, KIT_TINY, 1, N);
	assert_int_equal(list(*state, name, 8), 1);
	snprintf(keep, sizeof keep, "%s/kept", (char *)*state);
	copy_file(name[0], keep, -1, -1);
	size = size_of(keep);
	for (int i = 0; i < 300; i++) {
		bool cut = i % 3 == 0;
		/* Half of the flips in the header, which is a part of many bytes. */
		long at = (long)rng_below(&rng, (uint64_t)(i % 2 ? size : 14000));
		char warning[2000];
		int32_t got;

		copy_file(keep, name[0], cut ? at : -1, cut ? -1 : at);
		got = found(*state, KIT_TINY, 1, N, warning);		/* looks at every byte */
		assert_true(got % 512 == 0 && got <= N);
		if (got < N) {
			noticed++;
			if (!warning[0])
				fail_msg("byte %ld %s: only %d tokens, and no warning", at, cut ? "cut" : "flipped", (int)got);
		} else if (cut) {
			fail_msg("cut after %ld of %ld bytes, and nothing was noticed", at, size);
		}
	}
	printf("300 damages, %d noticed; the others were between sections\n", noticed);
	assert_true(noticed > 150);
}

static void foreign_files_and_other_versions_are_left_alone(void **state)
{
	char path[300], name[8][300], warning[2000];
	uint8_t head[KVFILE_HEADER];
	FILE *f;

	fill(*state, KIT_TINY, 1, N);
	list(*state, name, 8);
	f = fopen(name[0], "rb");
	assert_int_equal(fread(head, 1, sizeof head, f) > 128, 1);
	fclose(f);
	snprintf(path, sizeof path, "%s/photo.kv", (char *)*state);
	f = fopen(path, "wb");
	fputs("not ours", f);
	fclose(f);
	snprintf(path, sizeof path, "%s/empty.kv", (char *)*state);
	fclose(fopen(path, "wb"));
	snprintf(path, sizeof path, "%s/folder.kv", (char *)*state);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof path, "%s/a-name-that-is-much-longer-than-ours-are.kv", (char *)*state);
	fclose(fopen(path, "wb"));
	snprintf(path, sizeof path, "%s/notes.txt", (char *)*state);
	fclose(fopen(path, "wb"));
	head[8] = 2;
	snprintf(path, sizeof path, "%s/0000000000000002.kv", (char *)*state);
	f = fopen(path, "wb");
	fwrite(head, 1, sizeof head, f);
	fclose(f);
	assert_int_equal(found(*state, KIT_TINY, 1, N, warning), N);
	if (!strstr(warning, "3 files are not of the store") || !strstr(warning, "expected format version 1, file has 2") ||
	    !strstr(warning, "not a regular file"))
		fail_msg("expected three warnings, got: %s", warning);
	assert_true(size_of(path) > 0);
	snprintf(path, sizeof path, "%s/photo.kv", (char *)*state);
	assert_int_equal(size_of(path), 8);
}

static void leftovers_of_a_killed_writer_are_swept_up(void **state)
{
	char path[300];

	fill(*state, KIT_TINY, 1, 512);
	snprintf(path, sizeof path, "%s/00112233.kv.tmp", (char *)*state);
	fclose(fopen(path, "wb"));
	assert_int_equal(found(*state, KIT_TINY, 1, 512, NULL), 512);
	assert_int_equal(size_of(path), -1);
}

static void a_second_process_is_told_and_reads(void **state)
{
	struct store_kit a, b;
	int32_t t[N];

	fill(*state, KIT_TINY, 1, N);
	store_kit_open(&a, *state, KIT_TINY, 100, 1, NULL);
	store_kit_open(&b, *state, KIT_TINY, 100, 1, NULL);
	assert_true(kvstore_writes(a.ks));
	assert_false(kvstore_writes(b.ks));
	assert_int_equal(b.warnings, 1);
	assert_non_null(strstr(b.warning, "another process writes here"));
	kit_tokens(t, N, N, 1, 1);
	assert_int_equal(store_kit_take(&b, t, N), N);
	kit_tokens(t, N, N, 2, 2);
	store_kit_visit(&b, t, N, 512);
	assert_int_equal(kvstore_flush(b.ks, NULL), OK);
	assert_int_equal(kvstore_remove(b.ks, (struct tree_key){0}, false, NULL, NULL), ERR_IO);
	/* The first removes what the second knows of. */
	assert_int_equal(kvstore_gc(a.ks, 1, NULL, NULL), OK);
	tree_clear(b.tree);
	kit_tokens(t, N, N, 1, 1);
	assert_int_equal(store_kit_take(&b, t, N), 0);
	store_kit_close(&b, false);
	store_kit_close(&a, false);
}

static void a_directory_that_cannot_be_is_a_warning(void **state)
{
	struct store_kit k;
	char path[300];
	int32_t t[N];

	snprintf(path, sizeof path, "%s/file", (char *)*state);
	fclose(fopen(path, "wb"));
	snprintf(path, sizeof path, "%s/file/below", (char *)*state);
	store_kit_open(&k, path, KIT_TINY, 20, 1, NULL);
	assert_int_equal(k.warnings, 1);
	assert_false(kvstore_writes(k.ks));
	kit_tokens(t, N, N, 1, 1);
	for (int i = 0; i < 3; i++) {
		kit_tokens(t, N, N, i, i);
		store_kit_visit(&k, t, N, 512);
	}
	store_kit_close(&k, true);
}

static void a_read_only_directory_is_read(void **state)
{
	struct store_kit k;
	int32_t t[N];

	fill(*state, KIT_TINY, 1, N);
	io_fail_at(IO_LOCK, 1, 1000, EROFS);
	io_fail_at(IO_CREATE, 1, 1000, EROFS);
	store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
	assert_int_equal(k.warnings, 1);
	kit_tokens(t, N, N, 1, 1);
	assert_int_equal(store_kit_take(&k, t, N), N);
	store_kit_close(&k, true);
	store_kit_open(&k, *state, KIT_TINY, 100, 1, &(struct kvstore_options){.read_only = true});
	assert_int_equal(k.warnings, 0);
	assert_int_equal(store_kit_take(&k, t, N), N);
	store_kit_close(&k, true);
}

static void a_full_disk_is_told_once_and_the_store_rests(void **state)
{
	struct store_kit k;
	struct err err = {0};
	long calls;
	int32_t t[N];

	store_kit_open(&k, *state, KIT_TINY, 200, 1, NULL);
	kit_tokens(t, N, N, 1, 1);
	store_kit_visit(&k, t, 512, 512);
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	io_fail_at(IO_WRITE, 1, 1000000, ENOSPC);
	store_kit_visit(&k, t, 1024, 512);
	assert_int_equal(kvstore_flush(k.ks, &err), ERR_IO);
	assert_non_null(strstr(err.msg, "No space left"));
	assert_int_equal(k.warnings, 1);
	calls = io_calls(IO_WRITE);
	for (int i = 2; i < 6; i++) {
		kit_tokens(t, N, N, i, i);
		store_kit_visit(&k, t, N, 512);
	}
	assert_int_equal(io_calls(IO_WRITE), calls);	/* it does not try for a while */
	assert_true(stats(&k).skipped > 0);
	assert_int_equal(k.warnings, 1);
	io_fail_at(IO_WRITE, 0, 0, 0);
	store_kit_close(&k, true);			/* a flush does */
	assert_int_equal(found(*state, KIT_TINY, 1, N, NULL), 1024);
	assert_int_equal(found(*state, KIT_TINY, 4, N, NULL), N);
}

static void a_directory_that_vanishes_is_made_again(void **state)
{
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, *state, KIT_TINY, 40, 1, NULL);
	kit_tokens(t, N, N, 1, 1);
	store_kit_visit(&k, t, N, 512);
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	kit_remove_dir(*state);
	tree_clear(k.tree);
	assert_int_equal(store_kit_take(&k, t, N), 0);
	kvstore_poll(k.ks);
	assert_int_equal(k.warnings, 1);
	kit_tokens(t, N, N, 2, 2);
	store_kit_visit(&k, t, N, 512);
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	assert_int_equal(k.warnings, 2);
	store_kit_close(&k, true);
	assert_int_equal(found(*state, KIT_TINY, 2, N, NULL), N);
}

/* ------------------------------------------------------------------ budget and house-keeping */

static void the_budget_holds_and_what_is_used_stays(void **state)
{
	enum { MANY = 20, BUDGET = 3 << 20 };
	struct store_kit k;
	struct kvstore_stats st;
	int32_t t[N], left = 0;

	store_kit_open(&k, *state, KIT_SMALL, 40, 1, &(struct kvstore_options){.budget = BUDGET, .gather = 0.001});
	for (int a = 0; a < MANY; a++) {
		kit_tokens(t, N, N, a, a);
		store_kit_visit(&k, t, N, 512);			/* 16 blocks, 4 checkpoints: 0.7 MB */
		for (int i = 0; i < 3; i++) {
			kit_tokens(t, N, N, 0, 0);
			tree_clear(k.tree);
			store_kit_take(&k, t, N);		/* the first is used all the time */
		}
		assert_int_equal(kvstore_flush(k.ks, NULL), OK);
		st = stats(&k);
		if (st.bytes > BUDGET)
			fail_msg("after %d lists: %llu bytes, the budget is %d", a + 1, (unsigned long long)st.bytes, BUDGET);
	}
	assert_true(st.evicted > 100);
	store_kit_close(&k, true);
	assert_int_equal(found(*state, KIT_SMALL, 0, N, NULL), N);
	assert_true(found(*state, KIT_SMALL, MANY - 1, N, NULL) >= 512);
	for (int a = 1; a < MANY; a++)
		left += found(*state, KIT_SMALL, a, N, NULL) > 0;
	printf("a budget of 3 MB keeps something of %d of 19 unused lists\n", (int)left);
	assert_in_range(left, 1, 6);
}

static void a_smaller_budget_is_applied_when_the_store_is_opened(void **state)
{
	struct store_kit k;
	int32_t t[N];

	for (int a = 0; a < 4; a++)
		fill(*state, KIT_SMALL, a, N);
	store_kit_open(&k, *state, KIT_SMALL, 100, 1, &(struct kvstore_options){.budget = 1 << 20});
	for (int i = 0; i < 200 && stats(&k).bytes > 1 << 20; i++)
		usleep(10000);
	assert_in_range(stats(&k).bytes, 1, 1 << 20);
	kit_tokens(t, N, N, 0, 0);
	store_kit_take(&k, t, N);
	store_kit_close(&k, false);
}

static void a_budget_that_is_too_small_for_anything_is_a_warning(void **state)
{
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, *state, KIT_SMALL, 100, 1, &(struct kvstore_options){.budget = 1000});
	kit_tokens(t, N, N, 0, 0);
	store_kit_visit(&k, t, N, 512);
	assert_int_equal(kvstore_flush(k.ks, NULL), ERR_IO);
	assert_non_null(strstr(k.warning, "no room within the budget of 1000 bytes"));
	store_kit_close(&k, false);
}

static void many_small_files_become_few(void **state)
{
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
	kit_tokens(t, N, N, 1, 1);
	for (int32_t n = 128; n <= N; n += 128) {
		store_kit_visit(&k, t, n, 512);
		assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	}
	for (int i = 0; i < 300 && stats(&k).files > 8; i++)
		usleep(10000);
	assert_in_range(stats(&k).files, 1, 8);
	assert_int_equal(stats(&k).entries, N / 128);
	tree_clear(k.tree);
	assert_int_equal(store_kit_take(&k, t, N), N);
	assert_int_equal(k.warnings, 0);
	store_kit_close(&k, true);
	assert_int_equal(found(*state, KIT_TINY, 1, N, NULL), N);
}

static void hits_and_times_outlive_the_process(void **state)
{
	struct store_kit k;
	struct kvstore_entry e;
	int32_t t[N];
	struct tree_key key;

	fill(*state, KIT_TINY, 1, 512);
	for (int i = 0; i < 3; i++) {
		store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
		kit_tokens(t, N, N, 1, 1);
		key = tree_key_next(k.fingerprint, t);
		assert_true(kvstore_get(k.ks, key, &e));
		assert_int_equal(e.hits, i);
		assert_int_equal(e.end, 128);
		assert_memory_equal(e.token, t, sizeof e.token);
		assert_true(e.used >= e.created && e.created > 1700000000);
		assert_int_equal(store_kit_take(&k, t, N), 512);
		store_kit_close(&k, true);
	}
}

/* ------------------------------------------------------------------ looking and removing */

struct seen {
	int entries, ends, usable, checks;
	struct tree_key end[8];
};

static bool look(void *ctx, const struct kvstore_entry *e)
{
	struct seen *s = ctx;

	s->entries++;
	s->usable += e->usable;
	s->checks += e->check_bytes > 0;
	if (!e->children)
		s->end[s->ends++ % 8] = e->key;
	return true;
}

static void conversations_are_walked_from_their_ends(void **state)
{
	struct store_kit k;
	struct seen s = {0};
	struct kvstore_entry e;
	int32_t t[N], n = 0;

	store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
	for (int a = 1; a <= 3; a++) {
		kit_tokens(t, 1024, 512, 0, a);
		store_kit_visit(&k, t, 1024, 512);
	}
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	kvstore_each(k.ks, look, &s);
	assert_int_equal(s.entries, 4 + 3 * 4);
	assert_int_equal(s.ends, 3);
	assert_int_equal(s.usable, 16);
	assert_int_equal(s.checks, 4);
	assert_true(kvstore_get(k.ks, s.end[1], &e));
	for (n = 1; e.end > 128; n++)
		assert_true(kvstore_get(k.ks, e.before, &e));
	assert_int_equal(n, 8);
	assert_int_equal(e.before.low, k.fingerprint.low);
	assert_int_equal(kvstore_find(k.ks, k.fingerprint, t, 1000), 512);
	assert_int_equal(kvstore_find(k.ks, k.fingerprint, t, 1024), 1024);
	store_kit_close(&k, true);
}

static void what_is_removed_is_gone_and_does_not_come_back(void **state)
{
	struct store_kit k;
	struct kvstore_entry e;
	struct seen s = {0};
	uint64_t freed;
	int32_t t[N], u[N];

	store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
	kit_tokens(t, 1024, 512, 0, 1);
	kit_tokens(u, 1024, 512, 0, 2);
	store_kit_visit(&k, t, 1024, 512);
	store_kit_visit(&k, u, 1024, 512);
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);
	kvstore_each(k.ks, look, &s);
	assert_int_equal(s.ends, 2);
	for (int i = 0; i < 2; i++)
		if (kvstore_get(k.ks, s.end[i], &e) && e.token[0] == u[896])
			break;
	assert_int_equal(e.token[0], u[896]);
	assert_int_equal(kvstore_remove(k.ks, e.key, true, &freed, NULL), OK);
	assert_true(freed >= 4 * 640);
	assert_false(kvstore_get(k.ks, e.key, &e));
	assert_int_equal(stats(&k).entries, 8);
	assert_int_equal(kvstore_flush(k.ks, NULL), OK);	/* memory still has it */
	assert_int_equal(stats(&k).entries, 8);
	store_kit_close(&k, true);
	assert_int_equal(found(*state, KIT_TINY, 0, 512, NULL), 512);
	store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
	assert_int_equal(store_kit_take(&k, t, 1024), 1024);
	assert_int_equal(store_kit_take(&k, u, 1024), 512);
	assert_int_equal(kvstore_remove(k.ks, tree_key_next(k.fingerprint, t), false, &freed, NULL), OK);
	assert_int_equal(stats(&k).entries, 0);
	assert_int_equal(stats(&k).bytes, 0);
	assert_int_equal(kvstore_remove(k.ks, e.key, false, NULL, NULL), ERR_NOT_FOUND);
	store_kit_close(&k, false);
}

static void gc_removes_what_cannot_be_reached(void **state)
{
	struct kvstore_gc gc;
	struct store_kit k;
	char name[8][300];
	int32_t t[N];

	kit_tokens(t, N, N, 1, 1);
	for (int32_t n = 512; n <= N; n += 512) {	/* four files */
		store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
		store_kit_visit(&k, t, n, 512);
		store_kit_close(&k, true);
		if (n == 512)
			assert_int_equal(list(*state, name, 8), 1);
	}
	unlink(name[0]);				/* the beginning */
	list(*state, name, 8);
	assert_int_equal(truncate(name[0], 1000), 0);	/* and one is damaged */
	store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
	assert_int_equal(store_kit_take(&k, t, N), 0);
	assert_int_equal(stats(&k).entries, 8);
	assert_int_equal(kvstore_gc(k.ks, 0, &gc, NULL), OK);
	assert_int_equal(gc.entries, 8);
	assert_int_equal(gc.files, 3);
	assert_int_equal(gc.after, 0);
	assert_int_equal(stats(&k).files, 0);
	store_kit_close(&k, false);
	assert_int_equal(list(*state, name, 8), 0);
}

static void count_bad(void *ctx, const char *sentence)
{
	(void)sentence;
	++*(int *)ctx;
}

static void verify_finds_every_damage(void **state)
{
	struct kvstore_verify v;
	struct store_kit k;
	char name[8][300];
	int32_t t[N];
	int bad = 0, fd;

	fill(*state, KIT_TINY, 1, N);
	store_kit_open(&k, *state, KIT_TINY, 100, 1, NULL);
	assert_int_equal(kvstore_verify(k.ks, NULL, count_bad, &bad, &v, NULL), OK);
	assert_int_equal(v.sections, N / 128 + 4);
	assert_int_equal(v.bad + (uint64_t)bad, 0);
	list(*state, name, 8);
	fd = open(name[0], O_RDWR);
	assert_int_equal(pwrite(fd, "x", 1, size_of(name[0]) - 5), 1);	/* the last section */
	close(fd);
	assert_int_equal(kvstore_verify(k.ks, NULL, count_bad, &bad, &v, NULL), OK);
	assert_int_equal(v.bad, 1);
	assert_int_equal(bad, 1);
	assert_int_equal(v.sections, N / 128 + 3);
	kit_tokens(t, N, N, 1, 1);
	assert_true(store_kit_take(&k, t, N) < N);	/* it is not used any more */
	assert_int_equal(kvstore_verify(k.ks, NULL, count_bad, &bad, &v, NULL), OK);
	assert_int_equal(v.bad, 0);
	store_kit_close(&k, false);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, new_dir, remove_dir)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(what_was_read_comes_back_in_the_next_process),
		TEST(what_memory_lets_go_of_comes_back_from_disk),
		TEST(memory_of_a_device_is_filled_through_buffers),
		TEST(an_equal_beginning_is_on_disk_once),
		TEST(a_killed_process_leaves_what_it_had_written),
		TEST(checkpoints_are_kept_at_a_distance_and_at_the_end),
		TEST(a_copy_that_waits_can_be_loaded),
		TEST(two_models_share_a_directory),
		TEST(a_section_of_another_size_is_not_used),
		TEST(cut_and_flipped_files_give_what_is_right_or_nothing),
		TEST(foreign_files_and_other_versions_are_left_alone),
		TEST(leftovers_of_a_killed_writer_are_swept_up),
		TEST(a_second_process_is_told_and_reads),
		TEST(a_directory_that_cannot_be_is_a_warning),
		TEST(a_read_only_directory_is_read),
		TEST(a_full_disk_is_told_once_and_the_store_rests),
		TEST(a_directory_that_vanishes_is_made_again),
		TEST(the_budget_holds_and_what_is_used_stays),
		TEST(a_smaller_budget_is_applied_when_the_store_is_opened),
		TEST(a_budget_that_is_too_small_for_anything_is_a_warning),
		TEST(many_small_files_become_few),
		TEST(hits_and_times_outlive_the_process),
		TEST(conversations_are_walked_from_their_ends),
		TEST(what_is_removed_is_gone_and_does_not_come_back),
		TEST(gc_removes_what_cannot_be_reached),
		TEST(verify_finds_every_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
