/* speed_test.c - on request (DS4_LONG=1, tests/kv_long.sh): the figures of docs/perf.md, "KV on disk".
 *
 * Cold means: the system was told to forget these files (posix_fadvise), or with DS4_DROP=1 and the right to do so its whole
 * cache (/proc/sys/vm/drop_caches), which is unkind to others.  Rates are compared with one thread that reads the same files from end to end, in turn, several
 * times, because a machine that others use is not the same a minute later. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/session.h"
#include "kvstore/kvfile.h"
#include "support/store_kit.h"

#define NANO "models/ds4-nano-q2.gguf"

static void need_long(void)
{
	if (!getenv("DS4_LONG"))
		skip();
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* Calls fn for every file of the store. */
static void each_file(const char *dir, void (*fn)(void *ctx, int fd), void *ctx)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char path[600];

	while (d && (e = readdir(d)) != NULL) {
		int fd;

		snprintf(path, sizeof path, "%s/%.255s", dir, e->d_name);
		fd = strstr(e->d_name, ".kv") ? open(path, O_RDONLY) : -1;
		if (fd >= 0) {
			fn(ctx, fd);
			close(fd);
		}
	}
	if (d)
		closedir(d);
}

static void forget(void *ctx, int fd)
{
	(void)ctx;
	fdatasync(fd);
#ifdef POSIX_FADV_DONTNEED
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
#endif
}

static const char *make_cold(const char *dir)
{
	int fd = getenv("DS4_DROP") ? open("/proc/sys/vm/drop_caches", O_WRONLY) : -1;
	bool all = fd >= 0 && write(fd, "3", 1) == 1;

	if (fd >= 0)
		close(fd);
	each_file(dir, forget, NULL);
	return all ? "drop_caches" : "posix_fadvise";
}

struct whole {
	uint8_t *p;
	uint64_t bytes;
};

static void read_whole(void *ctx, int fd)
{
	struct whole *w = ctx;
	ssize_t n;

	while ((n = read(fd, w->p, 1 << 20)) > 0)
		w->bytes += (uint64_t)n;
}

/* MB/s of one thread that reads all files from end to end. */
static double plain_rate(const char *dir)
{
	struct whole w = {.p = malloc(1 << 20)};
	double t0;

	make_cold(dir);
	t0 = clock_seconds();
	each_file(dir, read_whole, &w);
	t0 = clock_seconds() - t0;
	free(w.p);
	return 1e-6 * (double)w.bytes / t0;
}

/* ------------------------------------------------------------------ opening */

static void an_index_of_100_000_blocks_is_made_in_less_than_a_second(void **state)
{
	enum { FILES = 1563, BLOCK = 450 << 10 };
	struct kvfile_record *r = calloc(KVFILE_RECORDS, sizeof *r);
	uint8_t *head = calloc(1, KVFILE_HEADER);
	struct tree_key at = {1, 7};
	char dir[256], path[300];
	double best[2] = {1e9, 1e9};

	(void)state;
	need_long();
	kit_new_dir(dir);
	for (int f = 0; f < FILES; f++) {		/* sections are holes: only headers are read */
		struct kvfile_header h = {.fingerprint = {1, 7}, .block_bytes = BLOCK, .n = KVFILE_RECORDS};
		uint64_t pos = kvfile_header_bytes(h.n);
		int fd;

		if (f % 100 == 0)
			at = h.fingerprint;
		for (uint32_t i = 0; i < h.n; i++) {
			r[i] = (struct kvfile_record){.before = at, .end = (f % 100 * KVFILE_RECORDS + (int32_t)i + 1) * 128,
						      .offset = kvfile_align(pos), .bytes = BLOCK, .created = 1700000000};
			for (int t = 0; t < GEOM_BLOCK; t++)
				r[i].token[t] = f * 1000 + t;
			r[i].key = at = tree_key_next(at, r[i].token);
			pos = r[i].offset + BLOCK;
		}
		h.file_bytes = pos;
		kvfile_encode(head, &h, r);
		snprintf(path, sizeof path, "%s/%016x.kv", dir, f);
		fd = open(path, O_CREAT | O_WRONLY, 0600);
		assert_int_equal(write(fd, head, kvfile_header_bytes(h.n)), kvfile_header_bytes(h.n));
		assert_int_equal(ftruncate(fd, (off_t)pos), 0);
		close(fd);
	}
	for (int i = 0; i < 6; i++) {
		struct kvstore_options o = {.dir = dir, .read_only = true};
		struct kvstore_stats st;
		struct kvstore *ks;
		double t;

		if (i % 2)
			make_cold(dir);
		t = clock_seconds();
		assert_int_equal(kvstore_open(&ks, &o, NULL), OK);
		t = clock_seconds() - t;
		kvstore_stats(ks, &st);
		assert_int_equal(st.entries, FILES * KVFILE_RECORDS);
		kvstore_close(ks);
		best[i % 2] = t < best[i % 2] ? t : best[i % 2];
	}
	printf("index of %d blocks in %d files: %.3f s warm, %.3f s cold\n", FILES * KVFILE_RECORDS, FILES, best[0], best[1]);
	assert_true(best[0] < 1);
	kit_remove_dir(dir);
	free(r);
	free(head);
}

/* ------------------------------------------------------------------ full width, no model */

static void a_restore_at_full_width_is_as_fast_as_the_disk(void **state)
{
	enum { N = 20096 };
	struct kvstore_options o = {.settle = 1000};
	struct kvstore_stats st;
	static int32_t t[N];
	struct store_kit k;
	char dir[256];
	double plain = 0, load = 0, took, cpu;
	uint64_t bytes = 0;

	(void)state;
	need_long();
	kit_new_dir(dir);
	kit_tokens(t, N, N, 1, 1);
	store_kit_open(&k, dir, KIT_FLASH, 200, 1, &o);
	took = clock_seconds();
	store_kit_visit(&k, t, N, N - N % 128);		/* one checkpoint, at the end: what a restore reads */
	store_kit_close(&k, true);
	printf("written in %.2f s\n", clock_seconds() - took);
	for (int i = 0; i < 12; i++) {
		double rate = plain_rate(dir);
		const char *how;
		struct kv *kv;

		plain = rate > plain ? rate : plain;
		how = make_cold(dir);
		store_kit_open(&k, dir, KIT_FLASH, 200, 1, &o);
		kv = store_kit_timeline(&k);
		took = clock_seconds();
		cpu = cpu_seconds();
		assert_int_equal(tree_take(k.tree, kv, t, N, NULL), OK);
		took = clock_seconds() - took;
		cpu = cpu_seconds() - cpu;
		assert_int_equal(kv->len, N);
		kvstore_stats(k.ks, &st);
		rate = 1e-6 * (double)st.loaded_bytes / took;
		load = rate > load ? rate : load;
		bytes = st.loaded_bytes;
		printf("cold (%s): plain reading %.0f MB/s; restored %d tokens, %.1f MB, in %.3f s (%.3f s of it in the store; "
		       "%.3f s cpu): %.0f MB/s\n", how, plain, (int)kv->len, 1e-6 * (double)bytes, took,
		       1e-6 * (double)st.load_us, cpu, rate);
		kv_close(kv);
		store_kit_close(&k, false);
	}
	printf("best: restore %.0f MB/s, plain %.0f MB/s: %.0f %%\n", load, plain, 100 * load / plain);
	assert_true(load >= 0.8 * plain);
	kit_remove_dir(dir);
}

/* ------------------------------------------------------------------ nano */

static struct engine *open_nano(int32_t context)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct err err = {0};
	struct engine *e;

	o.model = NANO;
	o.context = context;
	if (engine_open(&e, &o, &err) != OK)
		fail_msg("%s", err.msg);
	return e;
}

static struct kvstore *attach(struct engine *e, const char *dir)
{
	struct kvstore_options o = {.dir = dir};
	struct kvstore *ks;

	assert_int_equal(kvstore_open(&ks, &o, NULL), OK);
	assert_int_equal(kvstore_attach(ks, e->tree, &e->pool, engine_fingerprint(e), NULL), OK);
	return ks;
}

static void nano_continues_20_000_tokens_as_if_it_had_never_stopped(void **state)
{
	enum { N = 20000, MORE = 8 };
	int32_t *t = calloc(N + MORE, sizeof *t);
	struct rng rng = rng_seed(1);
	struct kvstore_stats st;
	struct session *s;
	struct engine *e = NULL;
	struct kvstore *ks;
	float *want;
	size_t bytes;
	char dir[256];
	double read, restore, plain, first;

	(void)state;
	need_long();
	kit_new_dir(dir);
	for (int i = 0; i < N + MORE; i++)
		t[i] = (int32_t)rng_below(&rng, 7000);
	e = open_nano(N + 512);
	ks = attach(e, dir);
	bytes = (size_t)e->shape.vocab * sizeof(float);
	want = malloc(bytes * MORE);
	assert_int_equal(session_open(&s, e, NULL), OK);
	read = clock_seconds();
	assert_int_equal(session_sync(s, t, N, NULL, NULL, NULL), OK);
	read = clock_seconds() - read;
	for (int i = 0; i < MORE; i++) {
		assert_int_equal(session_push(s, t[N + i], NULL), OK);
		memcpy(want + (size_t)i * (size_t)e->shape.vocab, session_logits(s), bytes);
	}
	session_close(s);
	assert_int_equal(kvstore_flush(ks, NULL), OK);
	kvstore_close(ks);
	engine_close(e);
	plain = plain_rate(dir);
	for (int round = 0; round < 3; round++) {
		make_cold(dir);
		e = open_nano(N + 512);
		ks = attach(e, dir);
		assert_int_equal(session_open(&s, e, NULL), OK);
		first = clock_seconds();
		assert_int_equal(session_sync(s, t, N, NULL, NULL, NULL), OK);
		assert_int_equal(session_push(s, t[N], NULL), OK);
		first = clock_seconds() - first;
		assert_int_equal(session_reused(s), N - N % 128);
		for (int i = 0; i < MORE; i++) {
			if (i)
				assert_int_equal(session_push(s, t[N + i], NULL), OK);
			assert_memory_equal(session_logits(s), want + (size_t)i * (size_t)e->shape.vocab, bytes);
		}
		kvstore_stats(ks, &st);
		restore = 1e-6 * (double)st.load_us;
		printf("nano, %d tokens: read in %.1f s; restored cold (%.1f MB) in %.3f s, %.0f MB/s, plain reading %.0f MB/s; "
		       "first token after %.2f s; logits of %d tokens have the same bits\n", N, read,
		       1e-6 * (double)st.loaded_bytes, restore, 1e-6 * (double)st.loaded_bytes / restore, plain, first, MORE);
		session_close(s);
		kvstore_close(ks);
		engine_close(e);
	}
	kit_remove_dir(dir);
	free(want);
	free(t);
}

struct cost {
	double wall, cpu;
};

/* `n` tokens, one by one, after a short prompt. */
static struct cost decode(const char *dir, int32_t n)
{
	struct engine *e = open_nano(4096);
	struct kvstore *ks = dir ? attach(e, dir) : NULL;
	struct cost c;
	struct session *s;

	assert_int_equal(session_open(&s, e, NULL), OK);
	assert_int_equal(session_sync(s, (int32_t[]){1, 2, 3}, 3, NULL, NULL, NULL), OK);
	c = (struct cost){clock_seconds(), cpu_seconds()};
	for (int32_t i = 0; i < n; i++)
		assert_int_equal(session_push(s, 5 + i * 7 % 5000, NULL), OK);
	c = (struct cost){clock_seconds() - c.wall, cpu_seconds() - c.cpu};
	session_close(s);
	kvstore_close(ks);
	engine_close(e);
	return c;
}

static void saving_slows_decoding_by_less_than_3_percent(void **state)
{
	enum { N = 2560, TIMES = 6 };
	struct cost best[2] = {{1e9, 1e9}, {1e9, 1e9}};
	char dir[256];

	(void)state;
	need_long();
	for (int i = 0; i < 2 * TIMES; i++) {
		struct cost c;

		kit_new_dir(dir);
		c = decode(i % 2 ? dir : NULL, N);
		kit_remove_dir(dir);
		best[i % 2].wall = c.wall < best[i % 2].wall ? c.wall : best[i % 2].wall;
		best[i % 2].cpu = c.cpu < best[i % 2].cpu ? c.cpu : best[i % 2].cpu;
	}
	printf("nano, %d tokens decoded, best of %d: %.2f s wall, %.2f s cpu; while saving %.2f s (%+.1f %%), %.2f s (%+.1f %%)\n", N,
	       TIMES, best[0].wall, best[0].cpu, best[1].wall, 100 * (best[1].wall / best[0].wall - 1), best[1].cpu,
	       100 * (best[1].cpu / best[0].cpu - 1));
	assert_true(best[1].cpu < 1.03 * best[0].cpu);
}

static void eight_conversations_hold_10_000_shared_tokens_once(void **state)
{
	enum { SHARED = 10240, OWN = 256, MANY = 8 };
	int32_t *t = calloc(SHARED + OWN, sizeof *t);
	struct rng rng = rng_seed(2);
	struct kvstore_stats st;
	struct engine *e = NULL;
	struct kvstore *ks;
	struct session *s[MANY];
	struct tree_stats ts;
	char dir[256];

	(void)state;
	need_long();
	kit_new_dir(dir);
	for (int i = 0; i < SHARED; i++)
		t[i] = (int32_t)rng_below(&rng, 7000);
	e = open_nano(SHARED + 1024);
	e->pool.limit = 1000;
	ks = attach(e, dir);
	for (int a = 0; a < MANY; a++) {
		double took = clock_seconds();

		for (int i = 0; i < OWN; i++)
			t[SHARED + i] = (int32_t)rng_below(&rng, 7000);
		assert_int_equal(session_open(&s[a], e, NULL), OK);
		assert_int_equal(session_sync(s[a], t, SHARED + OWN, NULL, NULL, NULL), OK);
		printf("conversation %d: %d tokens had been read, %.2f s\n", a + 1, (int)session_reused(s[a]),
		       clock_seconds() - took);
	}
	assert_int_equal(kvstore_flush(ks, NULL), OK);
	kvstore_stats(ks, &st);
	tree_stats(e->tree, &ts);
	printf("%d blocks in memory, %d on disk (%.1f MB); expected %d + 8 * %d\n", (int)e->pool.live, (int)st.entries,
	       1e-6 * (double)st.bytes, SHARED / 128, OWN / 128);
	assert_int_equal(e->pool.live, SHARED / 128 + MANY * OWN / 128);
	assert_int_equal(st.entries, SHARED / 128 + MANY * OWN / 128);
	for (int a = 0; a < MANY; a++)
		session_close(s[a]);
	kvstore_close(ks);
	engine_close(e);
	kit_remove_dir(dir);
	free(t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_index_of_100_000_blocks_is_made_in_less_than_a_second),
		cmocka_unit_test(a_restore_at_full_width_is_as_fast_as_the_disk),
		cmocka_unit_test(saving_slows_decoding_by_less_than_3_percent),
		cmocka_unit_test(nano_continues_20_000_tokens_as_if_it_had_never_stopped),
		cmocka_unit_test(eight_conversations_hold_10_000_shared_tokens_once),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (getenv("DS4_ONLY"))
		cmocka_set_test_filter(getenv("DS4_ONLY"));	/* for example "*restore*" */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
