/* crash_test.c - a process that saves is killed at random moments: what it leaves verifies and is right, and nothing else
 * is used.  DS4_CRASHES sets how many times (60; `tests/kv_long.sh` runs 500). */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kvstore/io.h"
#include "support/store_kit.h"

enum { LISTS = 12, N = 1536, BUDGET = 250 << 10 };

/* List a: its first `part` tokens are those of list a - 1 or a. */
static void list_of(int32_t *t, int a)
{
	kit_tokens(t, N, a % 3 ? 512 : 0, a / 3, 100 + a);
}

/* Reads, saves, takes, removes and collects, so many times. */
static void save(const char *dir, uint64_t seed, long times)
{
	struct rng rng = rng_seed(seed);
	int32_t t[N];

	for (; times > 0; times--) {
		struct store_kit k;

		store_kit_open(&k, dir, KIT_TINY, 60, 1, &(struct kvstore_options){.budget = BUDGET, .gather = 0.001});
		for (int i = 0; i < 30; i++) {
			int32_t n = 128 + (int32_t)rng_below(&rng, N - 128);

			list_of(t, (int)rng_below(&rng, LISTS));
			store_kit_visit(&k, t, n, 256);
			switch (rng_below(&rng, 8)) {
			case 0:
				kvstore_flush(k.ks, NULL);
				break;
			case 1:
				tree_clear(k.tree);
				break;
			case 2:
				kvstore_gc(k.ks, BUDGET / 2, NULL, NULL);
				break;
			case 3:
				kvstore_remove(k.ks, tree_key_next(k.fingerprint, t), false, NULL, NULL);
				break;
			}
		}
		store_kit_close(&k, rng_below(&rng, 2));
	}
}

static void complain(void *ctx, const char *sentence)
{
	(void)ctx;
	printf("%s\n", sentence);
}

struct sum {
	uint64_t entries, sections, tokens, leftovers;
	int empty;
};

static void look_at(const char *dir, int round, struct sum *sum)
{
	struct kvstore_verify v;
	struct kvstore_stats st;
	struct store_kit k;
	int32_t t[N];

	store_kit_open(&k, dir, KIT_TINY, 200, 1, &(struct kvstore_options){.read_only = round % 2});
	if (k.warnings)
		fail_msg("round %d: %s", round, k.warning);
	assert_int_equal(kvstore_verify(k.ks, NULL, complain, NULL, &v, NULL), OK);
	if (v.bad)
		fail_msg("round %d: %llu of %llu sections are damaged", round, (unsigned long long)v.bad,
			 (unsigned long long)(v.bad + v.sections));
	for (int a = 0; a < LISTS; a++) {
		list_of(t, a);
		sum->tokens += (uint64_t)store_kit_take(&k, t, N);	/* every byte */
	}
	kvstore_stats(k.ks, &st);
	sum->entries += st.entries;
	sum->sections += v.sections;
	sum->empty += st.entries == 0;
	store_kit_close(&k, false);
}

static void a_process_killed_at_any_moment_leaves_only_what_is_right(void **state)
{
	const char *many = getenv("DS4_CRASHES");
	int rounds = many ? (int)strtol(many, NULL, 10) : 60;
	struct rng rng = rng_seed(11);
	struct sum sum = {0};
	char dir[256];

	(void)state;
	kit_new_dir(dir);
	for (int i = 0; i < rounds; i++) {
		uint64_t seed = rng_u64(&rng);
		int status;
		pid_t child;

		fflush(stdout);
		child = fork();
		assert_true(child >= 0);
		if (child == 0) {
			save(dir, seed, 1000000);
			_exit(1);
		}
		usleep((useconds_t)rng_below(&rng, i % 4 ? 60000 : 300000));
		kill(child, SIGKILL);
		while (waitpid(child, &status, 0) < 0 && errno == EINTR)
			;
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			fail_msg("round %d: the process ended by itself, status %d", i, status);
		look_at(dir, i, &sum);
	}
	printf("killed %d times: %llu sections verified, %llu tokens taken and compared; nothing was there %d times\n", rounds,
	       (unsigned long long)sum.sections, (unsigned long long)sum.tokens, sum.empty);
	assert_true(sum.tokens > (uint64_t)rounds * 128);
	kit_remove_dir(dir);
}

/* The same, but the moments are the system calls themselves: killed before the n-th of each kind, or in the middle of the
 * n-th write. */
static void nor_does_one_killed_in_a_system_call(void **state)
{
	static const enum io_op ops[] = {IO_CREATE, IO_WRITE, IO_SYNC, IO_RENAME, IO_REMOVE, IO_READ};
	struct sum sum = {0};
	char dir[256];
	int kills = 0;

	(void)state;
	for (size_t o = 0; o < sizeof ops / sizeof *ops; o++) {
		bool killed = true;

		kit_new_dir(dir);
		for (long n = 1; killed && n < 50; n += n < 10 ? 1 : 5) {
			int status = 0;
			pid_t child;

			fflush(stdout);
			child = fork();
			assert_true(child >= 0);
			if (child == 0) {
				io_fail_at(ops[o], n, 0, IO_KILL);
				save(dir, (uint64_t)n, 1);
				_exit(0);
			}
			while (waitpid(child, &status, 0) < 0 && errno == EINTR)
				;
			killed = WIFSIGNALED(status);
			kills += killed;
			if (!killed && WEXITSTATUS(status))
				fail_msg("the process ended by itself, status %d", status);
			look_at(dir, (int)n, &sum);
		}
		kit_remove_dir(dir);
	}
	printf("killed in %d system calls: %llu sections verified, %llu tokens taken and compared\n", kills,
	       (unsigned long long)sum.sections, (unsigned long long)sum.tokens);
	assert_true(kills > 30);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_process_killed_at_any_moment_leaves_only_what_is_right),
		cmocka_unit_test(nor_does_one_killed_in_a_system_call),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
