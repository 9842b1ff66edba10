/* program_test.c - random programs over several conversations and processes of one model: append, fork, rewind, switch, evict,
 * save, kill, restore; after each, logits have the bits of reading the whole list in one step.
 *
 * The judge is an engine that never sees a tree or a store.  "Kill" drops the engine, its tree and what waits to be
 * written; "restore" opens another over the same directory.  DS4_PROGRAMS sets how many programs run (2;
 * `tests/kv_long.sh` runs more). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "support/golden.h"
#include "support/store_kit.h"

enum { MAX = 560, LINES = 4 };

struct line {			/* a conversation: outlives processes */
	struct kv *kv;		/* NULL = not in memory */
	int32_t token[MAX], n;
};

struct world {
	int model;
	char dir[256];
	struct engine *e, *judge;
	struct kvstore *ks;
	struct line line[LINES];
	float *got, *want;
	struct rng rng;
	int checked, restored, kills;
	uint64_t loaded, from_disk;
};

static void warn(void *ctx, const char *sentence)
{
	(void)ctx;
	fail_msg("a warning: %s", sentence);
}

static int32_t below(struct world *w, int32_t n)
{
	return (int32_t)rng_below(&w->rng, (uint64_t)n);
}

static struct engine *open_engine(const char *path, int32_t timelines)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct err err = {0};
	struct engine *e;

	o.model = path;
	o.backend = "cpu";
	o.threads = 1;
	o.chunk = MAX;
	o.context = MAX;
	o.timelines = timelines;
	if (engine_open(&e, &o, &err) != OK)
		fail_msg("%s", err.msg);
	return e;
}

/* A process begins: nothing is in memory. */
static void restore(struct world *w)
{
	struct kvstore_options o = {.dir = w->dir, .gather = 0.002, .settle = 0.05, .warn = warn,
				    .check_every = 128 << below(w, 3)};
	struct err err = {0};

	w->e = open_engine(golden_tiny_path(w->model), LINES);
	w->e->pool.limit = LINES * 6 + 1;	/* the tree has to let go all the time */
	w->e->pool.check_limit = LINES * 2 + 2;
	o.budget = below(w, 2) ? 0 : 60 * (w->e->layout.block_bytes + w->e->layout.check_bytes);
	if (kvstore_open(&w->ks, &o, &err) != OK ||
	    kvstore_attach(w->ks, w->e->tree, &w->e->pool, engine_fingerprint(w->e), &err) != OK)
		fail_msg("%s", err.msg);
	w->restored++;
}

static void kill_process(struct world *w, bool flush)
{
	struct kvstore_stats st;
	struct err err = {0};

	for (int i = 0; i < LINES; i++) {
		kv_close(w->line[i].kv);
		w->line[i].kv = NULL;
	}
	if (flush && kvstore_flush(w->ks, &err) != OK)
		fail_msg("%s", err.msg);
	kvstore_stats(w->ks, &st);
	assert_int_equal(st.damaged + st.errors, 0);
	w->loaded += st.loaded;
	kvstore_close(w->ks);
	engine_close(w->e);
	w->kills++;
}

static void check(struct world *w, const struct line *l, const char *when)
{
	struct forward_part part = {.token = l->token, .n = l->n, .last_logits = true};
	struct err err = {0};
	size_t bytes = (size_t)w->e->shape.vocab * sizeof(float);

	assert_int_equal(l->kv->len, l->n);
	assert_int_equal(kv_open(&part.kv, &w->judge->pool, 2, &err), OK);
	if (forward_step(w->judge->forward, &part, 1, w->want, NULL, &err) != OK)
		fail_msg("%s", err.msg);
	kv_close(part.kv);
	w->checked++;
	for (int32_t i = 0; memcmp(w->got, w->want, bytes) != 0; i++)
		if (memcmp(&w->got[i], &w->want[i], sizeof(float)) != 0)
			fail_msg("%s: %d tokens: logit %d: expected %.9g, got %.9g", when, (int)l->n, (int)i,
				 (double)w->want[i], (double)w->got[i]);
}

/* Reads the rest of the list in steps of random length; checkpoints where chance wants them. */
static void read_rest(struct world *w, struct line *l)
{
	struct err err = {0};

	while (l->kv->len < l->n) {
		int32_t at = l->kv->len, end = at + 1 + below(w, 200), boundary;

		end = end < l->n ? end : l->n;
		boundary = end / GEOM_BLOCK * GEOM_BLOCK;
		end = boundary > at ? boundary : end;
		if (forward_step(w->e->forward, &(struct forward_part){l->kv, l->token + at, end - at, false, end == l->n},
				 1, w->got, NULL, &err) != OK)
			fail_msg("%s", err.msg);
		if (below(w, 4))
			kv_checkpoint(l->kv);
		if (below(w, 4))
			tree_publish(w->e->tree, l->kv, l->token);
		tree_poll(w->e->tree);
	}
}

static void more_tokens(struct world *w, struct line *l, int32_t most)
{
	int32_t n = 1 + below(w, most);

	for (; n > 0 && l->n < MAX; n--)
		l->token[l->n++] = below(w, w->e->shape.vocab);
}

/* A conversation that is not in memory: from the tree, the disk, or from the start. */
static void op_switch(struct world *w, struct line *l, const char *when)
{
	struct err err = {0};

	assert_int_equal(kv_open(&l->kv, &w->e->pool, 2, &err), OK);
	assert_int_equal(tree_take(w->e->tree, l->kv, l->token, l->n - 1, &err), OK);
	w->from_disk += (uint64_t)l->kv->len;
	read_rest(w, l);
	check(w, l, when);
}

static void op_new(struct world *w, struct line *l)
{
	const struct line *other = &w->line[below(w, LINES)];

	l->n = other->n ? other->n - below(w, other->n / 3 + 1) : 0;
	memmove(l->token, other->token, (size_t)l->n * sizeof *l->token);
	more_tokens(w, l, 200);
	op_switch(w, l, "new");
}

static void op_rewind(struct world *w, struct line *l)
{
	struct err err = {0};

	if (l->n < 2)
		return;
	l->n = 1 + below(w, l->n - 1);
	kv_rewind(l->kv, l->n - 1);
	if (below(w, 2))
		more_tokens(w, l, 40);
	assert_int_equal(tree_take(w->e->tree, l->kv, l->token, l->n - 1, &err), OK);
	read_rest(w, l);
	check(w, l, "rewind");
}

static void op_fork(struct world *w, struct line *l)
{
	struct line *to = NULL;
	struct err err = {0};

	for (int i = 0; i < LINES; i++)
		if (!w->line[i].kv)
			to = &w->line[i];
	if (!to || l->n == MAX)
		return;
	assert_int_equal(kv_fork(&to->kv, l->kv, &err), OK);
	memcpy(to->token, l->token, sizeof l->token);
	to->n = l->n;
	more_tokens(w, to, 20);
	read_rest(w, to);
	check(w, to, "fork");
}

static void one_op(struct world *w)
{
	struct line *l = &w->line[below(w, LINES)];
	int op = below(w, 12);

	if (op == 0) {
		bool flush = below(w, 2);

		kill_process(w, flush);
		restore(w);
	} else if (op == 1) {
		assert_int_equal(kvstore_flush(w->ks, NULL), OK);
	} else if (op == 2) {
		for (int32_t n = 1 + below(w, 8); n > 0; n--)
			w->e->pool.reclaim(w->e->pool.reclaim_ctx, below(w, 2));
	} else if (!l->n) {
		op_new(w, l);
	} else if (!l->kv) {
		op_switch(w, l, "switch");
	} else if (op <= 5) {
		if (l->n < MAX) {
			more_tokens(w, l, 250);
			read_rest(w, l);
			check(w, l, "append");
		}
	} else if (op == 6) {
		op_rewind(w, l);
	} else if (op == 7) {
		op_fork(w, l);
	} else if (op == 8) {		/* forgotten for good */
		kv_close(l->kv);
		l->kv = NULL;
		l->n = 0;
	} else {			/* leaves memory; what is published may stay there for a while */
		tree_publish(w->e->tree, l->kv, l->token);
		kv_close(l->kv);
		l->kv = NULL;
		if (below(w, 2))
			tree_clear(w->e->tree);
	}
}

static void run_program(int model, uint64_t seed, int ops)
{
	struct world *w = calloc(1, sizeof *w);

	assert_non_null(w);
	w->model = model;
	kit_new_dir(w->dir);
	w->rng = rng_seed(seed);
	w->judge = open_engine(golden_tiny_path(model), 1);
	w->got = mem_array((size_t)w->judge->shape.vocab, sizeof(float));
	w->want = mem_array((size_t)w->judge->shape.vocab, sizeof(float));
	restore(w);
	for (int i = 0; i < ops; i++)
		one_op(w);
	kill_process(w, true);
	restore(w);
	for (int i = 0; i < LINES; i++)
		if (w->line[i].n)
			op_switch(w, &w->line[i], "restored");
	kill_process(w, false);
	printf("tiny-%d, program %d: %d lists compared, %d processes, %d blocks and checkpoints from disk, %d tokens not read again\n",
	       model, (int)seed, w->checked, w->restored, (int)w->loaded, (int)w->from_disk);
	assert_true(w->checked > ops / 3);
	assert_true(w->loaded > 0);
	kit_remove_dir(w->dir);
	mem_free(w->got);
	mem_free(w->want);
	engine_close(w->judge);
	free(w);
}

static void random_programs_equal_reading_the_list_at_once(void **state)
{
	const char *many = getenv("DS4_PROGRAMS");
	int programs = many ? (int)strtol(many, NULL, 10) : 2;

	(void)state;
	for (int i = 0; i < programs; i++)
		run_program(1 + 2 * i % 3, (uint64_t)i + 1, many ? 80 : 30);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_programs_equal_reading_the_list_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
