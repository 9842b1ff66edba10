/* tree_test.c - the prefix tree: whatever was shared, taken, let go and fetched again, logits have the bits of reading
 * the list at once; equal beginnings exist once; nothing in use is let go.
 *
 * Tests of logits run small random models on cpu; the judge is one forward_step() over all tokens on a timeline of its
 * own, in an engine that never sees the tree.  Tests of bookkeeping move timelines without a model: what a block holds
 * is then a pattern that depends on the tokens before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "support/golden.h"

enum { MAX = 400, LINES = 4 };

/* ------------------------------------------------------------------ random programs over a model */

struct line {
	struct kv *kv;		/* NULL = free */
	int32_t token[MAX], n;
};

struct world {
	struct engine *e, *judge;
	struct line line[LINES];
	float *got, *want;
	struct rng rng;
	int checked;
};

static struct engine *open_engine(const char *path, int32_t chunk, int32_t timelines)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct err err = {0};
	struct engine *e;

	o.model = path;
	o.backend = "cpu";
	o.threads = 1;
	o.chunk = chunk;
	o.context = MAX;
	o.timelines = timelines;
	if (engine_open(&e, &o, &err) != OK)
		fail_msg("%s", err.msg);
	return e;
}

static int32_t below(struct world *w, int32_t n)
{
	return (int32_t)rng_below(&w->rng, (uint64_t)n);
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
		int32_t at = l->kv->len, end = at + 1 + below(w, 100), boundary;

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
	}
}

static void more_tokens(struct world *w, struct line *l, int32_t most)
{
	int32_t n = 1 + below(w, most);

	for (; n > 0 && l->n < MAX; n--)
		l->token[l->n++] = below(w, w->e->shape.vocab);
}

/* A new timeline: the beginning of another list, and something of its own. */
static void op_new(struct world *w, struct line *l)
{
	const struct line *other = &w->line[below(w, LINES)];
	struct err err = {0};

	l->n = other->n ? other->n - below(w, other->n / 3 + 1) : 0;
	memmove(l->token, other->token, (size_t)l->n * sizeof *l->token);
	more_tokens(w, l, 60);
	assert_int_equal(kv_open(&l->kv, &w->e->pool, 2, &err), OK);
	assert_int_equal(tree_take(w->e->tree, l->kv, l->token, l->n - 1, &err), OK);
	read_rest(w, l);
	check(w, l, "new");
}

static void op_rewind(struct world *w, struct line *l)
{
	struct err err = {0};

	if (l->n < 2)
		return;
	l->n = 1 + below(w, l->n - 1);
	kv_rewind(l->kv, l->n - 1);
	if (below(w, 2))
		more_tokens(w, l, 20);
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
	more_tokens(w, l, 5);
	read_rest(w, l);
	check(w, l, "original");
}

struct interrupt {
	int32_t layer;
	int flag;
};

static void interrupt_at(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t,
			 const struct step *s)
{
	struct interrupt *i = ctx;

	(void)be;
	(void)t;
	(void)s;
	if (at == TAP_LAYER_OUT && layer == i->layer)
		i->flag = 1;
}

/* A step that is cancelled between two layers; then the same tokens for good. */
static void op_cancel(struct world *w, struct line *l)
{
	struct interrupt in = {.layer = below(w, w->e->shape.n_layer - 1)};
	struct tap tap = {interrupt_at, &in};
	int32_t at = l->n;
	struct err err = {0};

	if (l->n == MAX)
		return;
	more_tokens(w, l, 60);
	forward_tap(w->e->forward, &tap);
	assert_int_equal(forward_step(w->e->forward, &(struct forward_part){l->kv, l->token + at, l->n - at, false, true}, 1,
				      w->got, &in.flag, &err), ERR_CANCELLED);
	forward_tap(w->e->forward, NULL);
	kv_rewind(l->kv, at);
	read_rest(w, l);
	check(w, l, "cancelled");
}

static void op_evict(struct world *w)
{
	for (int32_t n = 1 + below(w, 4); n > 0; n--)
		w->e->pool.reclaim(w->e->pool.reclaim_ctx, below(w, 2));
}

static void run_program(int model, uint64_t seed, int ops)
{
	struct world *w = calloc(1, sizeof *w);
	struct tree_stats st;

	assert_non_null(w);
	w->e = open_engine(golden_tiny_path(model), MAX, LINES);
	w->judge = open_engine(golden_tiny_path(model), MAX, 1);
	w->e->pool.limit = LINES * 4 + 1;	/* the tree has to let go all the time */
	w->e->pool.check_limit = LINES * 2 + 2;
	w->got = mem_array((size_t)w->e->shape.vocab, sizeof(float));
	w->want = mem_array((size_t)w->e->shape.vocab, sizeof(float));
	w->rng = rng_seed(seed);
	for (int i = 0; i < ops; i++) {
		struct line *l = &w->line[below(w, LINES)];
		int op = below(w, 7);

		if (!l->kv) {
			op_new(w, l);
		} else if (op <= 1) {
			if (l->n < MAX) {
				more_tokens(w, l, 140);
				read_rest(w, l);
				check(w, l, "append");
			}
		} else if (op == 2) {
			op_rewind(w, l);
		} else if (op == 3) {
			op_fork(w, l);
		} else if (op == 4) {
			op_cancel(w, l);
		} else if (op == 5) {
			op_evict(w);
		} else {
			tree_publish(w->e->tree, l->kv, l->token);
			kv_close(l->kv);
			l->kv = NULL;
		}
	}
	for (int i = 0; i < LINES; i++)
		kv_close(w->line[i].kv);
	tree_stats(w->e->tree, &st);
	assert_true(w->checked > ops / 2);
	printf("tiny-%d, program %d: %d lists compared, %d prefixes taken, %d blocks and %d checkpoints let go\n", model, (int)seed,
	       w->checked, (int)st.hits, (int)st.blocks_evicted, (int)st.checks_evicted);
	assert_true(st.hits > 0);
	assert_true(st.blocks_evicted > 0);
	assert_int_equal(w->e->pool.live, st.blocks);
	assert_int_equal(w->e->pool.live_check, st.checks);
	tree_clear(w->e->tree);
	assert_int_equal(w->e->pool.live, 0);
	assert_int_equal(w->e->pool.live_check, 0);
	mem_free(w->got);
	mem_free(w->want);
	engine_close(w->e);
	engine_close(w->judge);
	free(w);
}

static void random_programs_equal_reading_the_list_at_once(void **state)
{
	(void)state;
	run_program(1, 1, 36);
	run_program(2, 3, 30);
}

/* ------------------------------------------------------------------ bookkeeping, without a model */

struct rig {
	struct backend *be;
	struct kv_layout layout;
	struct kv_pool pool;
	struct tree *tree;
};

static void flash_shape(struct shape *s)
{
	*s = (struct shape){.n_layer = 43, .window = 128};
	for (int i = 2; i < 43; i++)
		s->ratio[i] = i % 2 ? 128 : 4;
}

static void rig_open(struct rig *r, bool flash, int32_t limit)
{
	struct be_options o = {.threads = 1, .numerics = BE_NUMERICS_MODEL};
	struct shape s = {.n_layer = 2, .window = 8, .ratio = {4, 128}};
	struct err err = {0};

	if (flash)
		flash_shape(&s);
	assert_int_equal(be_open(&r->be, "cpu", &o, &err), OK);
	kv_layout_make(&r->layout, &s, r->be);
	kv_pool_init(&r->pool, r->be, &r->layout, limit);
	assert_int_equal(tree_open(&r->tree, &r->pool, (struct tree_key){1, 2}, &err), OK);
}

static void rig_close(struct rig *r)
{
	tree_close(r->tree);
	assert_int_equal(r->pool.live, 0);
	assert_int_equal(r->pool.live_check, 0);
	kv_pool_clear(&r->pool);
	be_close(r->be);
}

/* n tokens: beginning number `a` up to token `part`, then number `b`. */
static void tokens(int32_t *out, int32_t n, int32_t part, int32_t a, int32_t b)
{
	for (int32_t i = 0; i < n; i++)
		out[i] = i * 7 + 1000 * (i < part ? a : b);
}

/* As if the model read: marks the tail with the position and blocks with the last of their tokens. */
static enum status pretend(struct rig *r, struct kv *kv, const int32_t *token, int32_t to, int32_t check_every, struct err *err)
{
	while (kv->len < to) {
		int32_t end = (kv->len / GEOM_BLOCK + 1) * GEOM_BLOCK;

		end = end < to ? end : to;
		TRY(kv_reserve(kv, end, err));
		memcpy(kv->dev.block[(end - 1) / GEOM_BLOCK], &token[end - 1], sizeof *token);
		memcpy(kv->dev.tail, &end, sizeof end);
		kv_advance(kv, end - kv->len);
		if (check_every && end % check_every == 0)
			kv_checkpoint(kv);
		tree_publish(r->tree, kv, token);
	}
	return OK;
}

static void expect_state(struct kv *kv, const int32_t *token, const char *when)
{
	struct err err = {0};
	int32_t tail;

	assert_int_equal(kv_reserve(kv, kv->len + 1, &err), OK);
	memcpy(&tail, kv->dev.tail, sizeof tail);
	if (tail != kv->len)
		fail_msg("%s: the tail is that of %d tokens, expected %d", when, (int)tail, (int)kv->len);
	for (int32_t i = 0; i < kv->len / GEOM_BLOCK; i++)
		if (memcmp(kv->dev.block[i], &token[(i + 1) * GEOM_BLOCK - 1], sizeof *token) != 0)
			fail_msg("%s: block %d is not the one of its tokens", when, (int)i);
}

static struct kv *timeline(struct rig *r)
{
	struct err err = {0};
	struct kv *kv;

	if (kv_open(&kv, &r->pool, 2, &err) != OK)
		fail_msg("%s", err.msg);
	return kv;
}

static void eight_conversations_hold_a_shared_beginning_once(void **state)
{
	enum { SYSTEM = 10240, OWN = 640 };
	static int32_t t[SYSTEM + OWN];
	struct err err = {0};
	struct kv *kv[8];
	struct rig r;

	(void)state;
	rig_open(&r, false, 1 << 20);
	for (int i = 0; i < 8; i++) {
		tokens(t, SYSTEM + OWN, SYSTEM, 0, 1 + i);
		kv[i] = timeline(&r);
		/* The fifth has read everything by itself before it meets the others. */
		if (i != 4)
			assert_int_equal(tree_take(r.tree, kv[i], t, SYSTEM + OWN - 1, &err), OK);
		assert_int_equal(kv[i]->len, i && i != 4 ? SYSTEM : 0);
		assert_int_equal(pretend(&r, kv[i], t, SYSTEM + OWN, 1024, &err), OK);
	}
	if (r.pool.live != SYSTEM / 128 + 8 * OWN / 128)
		fail_msg("expected %d + 8 * %d blocks, there are %d", SYSTEM / 128, OWN / 128, (int)r.pool.live);
	assert_int_equal(r.pool.live_check, SYSTEM / 1024);
	for (int i = 0; i < 8; i++) {
		tokens(t, SYSTEM + OWN, SYSTEM, 0, 1 + i);
		expect_state(kv[i], t, "shared");
		kv_close(kv[i]);
	}
	rig_close(&r);
}

static void flash_takes_less_than_3_6_kb_per_token_and_forks_in_a_millisecond(void **state)
{
	enum { N = 16384, TIMES = 20 };
	static int32_t t[N + 1];
	double fork = 1, restore = 1, per_token;
	struct err err = {0};
	struct kv *kv, *two;
	struct rig r;

	(void)state;
	rig_open(&r, true, 1 << 20);
	tokens(t, N + 1, N + 1, 0, 0);
	kv = timeline(&r);
	assert_int_equal(pretend(&r, kv, t, N, 4096, &err), OK);
	per_token = (double)r.pool.live * (double)r.layout.block_bytes / N;
	printf("Flash, 16384 tokens: %d blocks of %zu bytes, %.1f bytes a token; a tail has %zu bytes, a checkpoint %zu\n",
	       (int)r.pool.live, r.layout.block_bytes, per_token, r.layout.tail_bytes, r.layout.check_bytes);
	assert_true(per_token <= 3600);
	for (int i = 0; i < TIMES; i++) {	/* the best of a few: other programs run here too */
		double t0 = clock_seconds(), t1, t2;

		assert_int_equal(kv_fork(&two, kv, &err), OK);
		t1 = clock_seconds();
		fork = t1 - t0 < fork ? t1 - t0 : fork;
		assert_int_equal(two->len, N);
		kv_rewind(two, 0);
		t1 = clock_seconds();
		assert_int_equal(tree_take(r.tree, two, t, N, &err), OK);
		t2 = clock_seconds();
		restore = t2 - t1 < restore ? t2 - t1 : restore;
		assert_int_equal(two->len, N);
		kv_close(two);
	}
	printf("fork %.3f ms, taking 16384 tokens from the tree %.3f ms\n", 1e3 * fork, 1e3 * restore);
	assert_true(fork < 1e-3);
	assert_true(restore < 1e-3);
	kv_close(kv);
	rig_close(&r);
}

static void a_fork_copies_only_what_it_writes(void **state)
{
	int32_t t[1000], u[1000];
	struct err err = {0};
	struct kv *a, *b;
	struct rig r;

	(void)state;
	rig_open(&r, false, 100);
	tokens(t, 1000, 1000, 0, 0);
	tokens(u, 1000, 700, 0, 5);
	a = timeline(&r);
	assert_int_equal(pretend(&r, a, t, 700, 0, &err), OK);	/* 5 full blocks and a part */
	assert_int_equal(kv_fork(&b, a, &err), OK);
	assert_int_equal(r.pool.live, 6);
	assert_int_equal(pretend(&r, b, u, 760, 0, &err), OK);
	assert_int_equal(r.pool.live, 7);
	assert_int_equal(pretend(&r, a, t, 790, 0, &err), OK);
	expect_state(a, t, "original");
	expect_state(b, u, "fork");
	kv_close(a);
	assert_int_equal(pretend(&r, b, u, 900, 0, &err), OK);
	expect_state(b, u, "fork alone");
	kv_close(b);
	rig_close(&r);
}

static void a_list_continues_from_the_last_checkpoint_that_fits(void **state)
{
	static const struct {
		int32_t part, n, usable, known;
	} c[] = {
		{2000, 2000, 1920, 1920},	/* the checkpoint of its end */
		{2000, 1900, 1536, 1792},
		{1100, 2000, 1024, 1024},
		{1023, 2000, 512, 896},
		{511, 2000, 0, 384},
		{0, 2000, 0, 0},
		{2000, 127, 0, 0},
	};
	int32_t t[2000], u[2000];
	struct err err = {0};
	struct kv *kv;
	struct rig r;

	(void)state;
	rig_open(&r, false, 100);
	tokens(t, 2000, 2000, 0, 0);
	kv = timeline(&r);
	assert_int_equal(pretend(&r, kv, t, 1920, 512, &err), OK);
	kv_checkpoint(kv);
	tree_publish(r.tree, kv, t);
	kv_close(kv);
	for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
		struct tree_match m;

		tokens(u, 2000, c[i].part, 0, 9);
		m = tree_find(r.tree, u, c[i].n);
		if (m.usable != c[i].usable || m.known != c[i].known)
			fail_msg("case %zu: expected %d usable and %d known tokens, got %d and %d", i, (int)c[i].usable,
				 (int)c[i].known, (int)m.usable, (int)m.known);
		kv = timeline(&r);
		assert_int_equal(tree_take(r.tree, kv, u, c[i].n, &err), OK);
		assert_int_equal(kv->len, c[i].usable);
		if (kv->len)
			expect_state(kv, u, "taken");
		kv_close(kv);
	}
	rig_close(&r);
}

/* Reads n tokens of list `number`, publishes, and leaves. */
static void visit(struct rig *r, int32_t number, int32_t n, int32_t check_every)
{
	int32_t t[2048];
	struct err err = {0};
	struct kv *kv = timeline(r);

	tokens(t, n, 0, 0, number);
	assert_int_equal(tree_take(r->tree, kv, t, n - 1, &err), OK);
	if (pretend(r, kv, t, n, check_every, &err) != OK)
		fail_msg("%s", err.msg);
	kv_close(kv);
}

static int32_t usable(struct rig *r, int32_t number, int32_t n)
{
	int32_t t[2048];

	tokens(t, n, 0, 0, number);
	return tree_find(r->tree, t, n).usable;
}

static void a_full_pool_lets_go_of_what_serves_least(void **state)
{
	int32_t t[2048];
	struct err err = {0};
	struct kv *kv;
	struct rig r;

	(void)state;
	rig_open(&r, false, 16);
	visit(&r, 1, 512, 512);		/* 4 blocks with a checkpoint */
	visit(&r, 2, 512, 0);		/* 4 without: worth nothing by themselves */
	visit(&r, 3, 512, 512);
	visit(&r, 1, 513, 512);		/* the first is used again */
	kv = timeline(&r);
	tokens(t, 2048, 0, 0, 4);
	assert_int_equal(pretend(&r, kv, t, 1024, 512, &err), OK);	/* 8 blocks: the second's 4 go */
	assert_int_equal(usable(&r, 1, 512), 512);
	assert_int_equal(usable(&r, 3, 512), 512);
	assert_int_equal(pretend(&r, kv, t, 1536, 512, &err), OK);	/* 4 more: the third, not the first */
	assert_int_equal(usable(&r, 3, 512), 0);
	assert_int_equal(usable(&r, 1, 512), 512);
	assert_int_equal(pretend(&r, kv, t, 2048, 512, &err), OK);	/* all 16 */
	assert_int_equal(kv_reserve(kv, 2049, &err), ERR_LIMIT);	/* its own are never let go */
	assert_int_equal(usable(&r, 4, 2048), 2048);
	kv_close(kv);
	rig_close(&r);
}

static void checkpoints_thin_out_with_age(void **state)
{
	int32_t t[2048];
	struct err err = {0};
	struct kv *kv;
	struct rig r;

	(void)state;
	rig_open(&r, false, 1000);
	r.pool.check_limit = 6;
	tokens(t, 2048, 2048, 0, 0);
	kv = timeline(&r);
	for (int32_t n = 128; n <= 2048; n += 128)
		assert_int_equal(pretend(&r, kv, t, n, 128, &err), OK);
	kv_close(kv);
	assert_int_equal(r.pool.live_check, 6);
	assert_int_equal(tree_find(r.tree, t, 2048).usable, 2048);
	assert_in_range(tree_find(r.tree, t, 1500).usable, 1024, 1408);
	assert_in_range(tree_find(r.tree, t, 1000).usable, 128, 896);	/* something old is left, too */
	rig_close(&r);
}

static void running_out_of_memory_anywhere_leaves_everything_right(void **state)
{
	int32_t t[2000], u[2000];

	(void)state;
	tokens(t, 2000, 2000, 0, 0);
	tokens(u, 2000, 700, 0, 1);
	for (long at = 1;; at++) {
		struct kv *kv, *two = NULL, *three = NULL;
		struct err err = {0};
		enum status a, b, c, d = OK;
		struct rig r;

		rig_open(&r, false, 100);
		kv = timeline(&r);
		mem_fail_at(at);
		a = pretend(&r, kv, t, 1000, 256, &err);
		b = kv_fork(&two, kv, &err);
		c = kv_open(&three, &r.pool, 2, &err);
		if (three)
			c = tree_take(r.tree, three, u, 1000, &err);
		if (three && c == OK)
			d = pretend(&r, three, u, 800, 256, &err);
		mem_fail_at(0);
		assert_int_equal(pretend(&r, kv, t, 1010, 256, &err), OK);
		expect_state(kv, t, "after a failure");
		if (two)
			assert_int_equal(pretend(&r, two, t, 1100, 256, &err), OK);
		if (two)
			expect_state(two, t, "fork");
		if (three)
			assert_int_equal(pretend(&r, three, u, 1100, 256, &err), OK);
		if (three)
			expect_state(three, u, "taker");
		kv_close(kv);
		kv_close(two);
		kv_close(three);
		rig_close(&r);
		if (a == OK && b == OK && c == OK && d == OK && at > 60)
			break;
	}
}

/* ------------------------------------------------------------------ a second place */

struct stored {
	struct tree_key key;
	uint8_t *block, *check;
};

struct shelf {		/* a tier that keeps copies */
	struct rig *r;
	struct stored s[64];
	int n, broken, refuse, refused;
};

static struct stored *stored(struct shelf *sh, struct tree_key key)
{
	for (int i = 0; i < sh->n; i++)
		if (sh->s[i].key.low == key.low && sh->s[i].key.high == key.high)
			return &sh->s[i];
	return NULL;
}

static bool shelf_leaving(void *ctx, const struct tree_item *item, bool block)
{
	struct shelf *sh = ctx;
	struct stored *s = stored(sh, item->key);
	struct tree_key key = tree_key_next(item->before, item->token);

	assert_int_equal(key.low, item->key.low);
	if (sh->refuse && block) {
		sh->refused++;
		return false;
	}
	if (!s) {
		s = &sh->s[sh->n++];
		*s = (struct stored){.key = item->key, .block = mem_copy(item->block->device, sh->r->layout.block_bytes)};
	}
	if (item->check && !s->check)
		s->check = mem_copy(item->check->device, sh->r->layout.check_bytes);
	return true;
}

static int32_t shelf_find(void *ctx, const struct tree_key *key, const int32_t *token, int32_t n, int32_t have)
{
	struct shelf *sh = ctx;
	int32_t best = 0;

	for (int32_t i = have; i < n; i++) {
		struct stored *s = stored(sh, key[i]);

		if (i > 0)
			assert_memory_equal(&key[i], &(struct tree_key[]){tree_key_next(key[i - 1], token + 128 * i)}, sizeof *key);

		if (s && s->check)
			best = i + 1;
	}
	return best;
}

static enum status shelf_load(void *ctx, const struct tree_key *key, int32_t from, int32_t to,
			      struct kv_block *const *block, struct kv_tail *check, struct err *err)
{
	struct shelf *sh = ctx;

	for (int32_t i = from; i < to; i++) {
		struct stored *s = stored(sh, key[i]);

		if (!s || sh->broken)
			return err_set(err, ERR_IO, "block %d cannot be read", (int)i);
		memcpy(block[i - from]->device, s->block, sh->r->layout.block_bytes);
	}
	memcpy(check->device, stored(sh, key[to - 1])->check, sh->r->layout.check_bytes);
	return OK;
}

static void what_memory_lets_go_of_comes_back_from_a_tier(void **state)
{
	struct shelf sh = {0};
	struct tree_tier tier = {.ctx = &sh, .leaving = shelf_leaving, .find = shelf_find, .load = shelf_load};
	int32_t t[1024];
	struct err err = {0};
	struct tree_stats st;
	struct kv *kv;
	struct rig r;

	(void)state;
	rig_open(&r, false, 12);
	sh.r = &r;
	tree_set_tier(r.tree, &tier);
	visit(&r, 1, 1024, 512);
	visit(&r, 2, 1024, 512);	/* 8 blocks: half of the first has to go */
	assert_in_range(usable(&r, 1, 1024), 0, 512);
	assert_true(sh.n >= 4);
	sh.broken = 1;			/* a tier that fails is one that is not there */
	kv = timeline(&r);
	tokens(t, 1024, 0, 0, 1);
	assert_int_equal(tree_take(r.tree, kv, t, 1024, &err), OK);
	assert_in_range(kv->len, 0, 512);
	sh.broken = 0;
	kv_rewind(kv, 0);
	assert_int_equal(tree_take(r.tree, kv, t, 1024, &err), OK);
	assert_int_equal(kv->len, 1024);
	expect_state(kv, t, "from the tier");
	tree_stats(r.tree, &st);
	assert_true(st.loaded >= 4);
	kv_close(kv);
	sh.refuse = 1;			/* it is busy writing: the pool has to do without */
	kv = timeline(&r);
	tokens(t, 1024, 0, 0, 3);
	assert_int_equal(kv_reserve(kv, 1024, &err), ERR_LIMIT);
	assert_true(sh.refused > 0);
	kv_close(kv);
	rig_close(&r);
	for (int i = 0; i < sh.n; i++) {
		mem_free(sh.s[i].block);
		mem_free(sh.s[i].check);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(eight_conversations_hold_a_shared_beginning_once),
		cmocka_unit_test(flash_takes_less_than_3_6_kb_per_token_and_forks_in_a_millisecond),
		cmocka_unit_test(a_fork_copies_only_what_it_writes),
		cmocka_unit_test(a_list_continues_from_the_last_checkpoint_that_fits),
		cmocka_unit_test(a_full_pool_lets_go_of_what_serves_least),
		cmocka_unit_test(checkpoints_thin_out_with_age),
		cmocka_unit_test(running_out_of_memory_anywhere_leaves_everything_right),
		cmocka_unit_test(what_memory_lets_go_of_comes_back_from_a_tier),
		cmocka_unit_test(random_programs_equal_reading_the_list_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
