/* fault_test.c - the n-th system call, or allocation, fails, for every n: no crash, no leak, no wrong byte, and the next
 * process finds a directory that is right. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kvstore/io.h"
#include "support/store_kit.h"

enum { N = 1024 };

static const struct {
	enum io_op op;
	const char *name;
	int reason;
} kinds[] = {
	{IO_OPEN, "open", EMFILE}, {IO_CREATE, "create", EACCES}, {IO_READ, "read", EIO}, {IO_READ, "short read", 0},
	{IO_WRITE, "write", ENOSPC}, {IO_SYNC, "fsync", EIO}, {IO_RENAME, "rename", EIO}, {IO_REMOVE, "unlink", EROFS},
	{IO_LIST, "opendir", EACCES}, {IO_FOLDER, "mkdir", EROFS}, {IO_LOCK, "lock", ENOLCK},
	{IO_CREATE, "create in a folder that is gone", ENOENT}, {IO_OPEN, "open of a file that is gone", ENOENT},
};

/* Takes what there is of a list; it must be right.  Without memory for a timeline there is nothing to look at. */
static void take(struct store_kit *k, const int32_t *t)
{
	struct err err = {0};
	struct kv *kv = NULL;
	char why[200];

	if (kv_open(&kv, &k->pool, 2, &err) != OK)
		return;
	if (tree_take(k->tree, kv, t, N, &err) == OK && !store_kit_right(k, kv, t, why) && err.code != ERR_MEMORY &&
	    !strstr(why, "memory"))
		fail_msg("%s", why);
	kv_close(kv);
}

static void read_list(struct store_kit *k, const int32_t *t)
{
	struct err err = {0};
	struct kv *kv = NULL;

	if (kv_open(&kv, &k->pool, 2, &err) == OK && tree_take(k->tree, kv, t, N - 1, &err) == OK)
		store_kit_read(k, kv, t, N, 256, &err);
	kv_close(kv);
}

/* Everything a process does with a store; the directory has list 0 already. */
static void live(struct store_kit *k, const char *dir)
{
	struct kvstore_options o = {.dir = dir, .budget = 180 << 10, .readers = 2};
	int32_t t[N], u[N];
	struct err err = {0};

	kit_tokens(t, N, N, 0, 0);
	kit_tokens(u, N, 512, 0, 1);
	if (kvstore_open(&k->ks, &o, &err) != OK) {
		assert_true(err.code == ERR_MEMORY);
		k->ks = NULL;
	} else if (kvstore_attach(k->ks, k->tree, &k->pool, k->fingerprint, &err) != OK) {
		fail_msg("%s", err.msg);
	}
	take(k, t);
	read_list(k, u);
	if (k->ks) {
		kvstore_flush(k->ks, &err);
		tree_clear(k->tree);
		take(k, u);
		kvstore_remove(k->ks, tree_key_next(k->fingerprint, t), false, NULL, &err);
		kvstore_gc(k->ks, 0, NULL, &err);
		kvstore_verify(k->ks, NULL, NULL, NULL, NULL, &err);
		kvstore_flush(k->ks, &err);
	}
}

static void die(struct store_kit *k)
{
	kvstore_close(k->ks);
	tree_close(k->tree);
	assert_int_equal(k->pool.live, 0);
	assert_int_equal(k->pool.live_check, 0);
	kv_pool_clear(&k->pool);
	be_close(k->be);
}

static void begin(const char *dir)
{
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, dir, KIT_TINY, 100, 1, NULL);
	kit_tokens(t, N, N, 0, 0);
	store_kit_visit(&k, t, N, 256);
	store_kit_close(&k, true);
}

/* The next process: no damage, no wrong byte, and it can store. */
static void afterwards(const char *dir, const char *what, long n)
{
	struct kvstore_verify v;
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, dir, KIT_TINY, 100, 1, NULL);
	if (k.warnings)
		fail_msg("after %s %ld: %s", what, n, k.warning);
	assert_int_equal(kvstore_verify(k.ks, NULL, NULL, NULL, &v, NULL), OK);
	if (v.bad)
		fail_msg("after %s %ld: %llu damaged sections", what, n, (unsigned long long)v.bad);
	for (int a = 0; a < 2; a++) {
		kit_tokens(t, N, 512, 0, a);
		store_kit_take(&k, t, N);
	}
	store_kit_visit(&k, t, N, 256);
	store_kit_close(&k, true);
	store_kit_open(&k, dir, KIT_TINY, 100, 1, NULL);
	assert_int_equal(store_kit_take(&k, t, N), N);
	store_kit_close(&k, false);
}

static void every_system_call_may_fail(void **state)
{
	int runs = 0;

	(void)state;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		bool reached = true;

		for (long n = 1; reached; n++) {
			char dir[256];

			for (int more = 0; more < 2; more++) {
				struct store_kit k;

				kit_new_dir(dir);
				begin(dir);
				store_kit_open(&k, NULL, KIT_TINY, 100, 1, NULL);
				io_fail_at(kinds[i].op, n, more ? 1000000 : 0, kinds[i].reason);
				live(&k, dir);
				reached = io_calls(kinds[i].op) >= n;
				io_fail_at(kinds[i].op, 0, 0, 0);
				die(&k);
				afterwards(dir, kinds[i].name, n);
				kit_remove_dir(dir);
				runs++;
			}
		}
	}
	printf("%d runs with a system call that fails, once or from then on\n", runs);
	assert_true(runs > 60);
}

/* Has the failure not happened yet? */
static bool still_to_come(void)
{
	bool any = true;

	for (int i = 0; any && i < 100000; i++) {
		void *p = mem_alloc(1);

		any = p != NULL;
		mem_free(p);
	}
	return !any;
}

static void every_allocation_may_fail(void **state)
{
	long n = 0, quiet = 0;

	(void)state;
	while (quiet < 5) {
		struct store_kit k;
		char dir[256];

		n++;
		kit_new_dir(dir);
		begin(dir);
		store_kit_open(&k, NULL, KIT_TINY, 100, 1, NULL);
		mem_fail_at(n);
		live(&k, dir);
		quiet = still_to_come() ? quiet + 1 : 0;
		mem_fail_at(0);
		die(&k);
		afterwards(dir, "allocation", n);
		kit_remove_dir(dir);
	}
	printf("%ld runs with an allocation that fails\n", n);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_system_call_may_fail),
		cmocka_unit_test(every_allocation_may_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
