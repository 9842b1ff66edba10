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
#include "support/store_kit.h"

enum { LISTS = 12, N = 1536, BUDGET = 250 << 10 };

/* List a: its first `part` tokens are those of list a - 1 or a. */
static void list_of(int32_t *t, int a)
{
	kit_tokens(t, N, a % 3 ? 512 : 0, a / 3, 100 + a);
}

/* Reads, saves, takes, removes and collects for ever. */
static void save_for_ever(const char *dir, uint64_t seed)
{
	struct rng rng = rng_seed(seed);
	int32_t t[N];

	for (;;) {
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
			save_for_ever(dir, seed);
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

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_process_killed_at_any_moment_leaves_only_what_is_right),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
