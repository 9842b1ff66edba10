/* replay_fuzz.c - any bytes as a file of remembered answers: what is taken is in bounds and writes the same record. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "chat/replay_int.h"

#define VOCAB 1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	const uint8_t *data;
	size_t size, turns;
};

static void require(int ok)
{
	if (!ok)
		abort();
}

static void take(void *ctx, struct replay_turn *t)
{
	struct seen *s = ctx;
	struct buf b = BUF_CAP(BUF_MAX);

	require(t != NULL && t->n > 0 && t->n <= REPLAY_MAX_IDS && t->n_calls <= REPLAY_MAX_CALLS);
	for (uint32_t i = 0; i < t->n; i++)
		require(t->id[i] >= 0 && t->id[i] < VOCAB);
	record_write(&b, t);
	require(buf_ok(&b) && b.len % 8 == 0 && b.len <= s->size);
	s->turns++;
	buf_clear(&b);
	mem_free(t);
}

/* A good record behind what the fuzzer made up: it must be found. */
static void append_good(struct buf *b)
{
	struct replay_turn *t = replay_turn_new(1, 3);

	require(t != NULL);
	for (int i = 0; i < 3; i++)
		t->id[i] = i;
	while (b->len % 8)
		buf_byte(b, 0);
	record_write(b, t);
	mem_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct seen s = {.data = data, .size = size}, t;
	struct record_scan scan = {.vocab = VOCAB, .take = take, .ctx = &s};
	struct buf b = BUF_CAP(BUF_MAX);

	require(record_scan(&scan, data, size, true) == size && scan.skipped <= size);
	if (size > 4096)
		return 0;
	buf_add(&b, data, size);
	append_good(&b);
	t = (struct seen){.data = (const uint8_t *)b.data, .size = b.len};
	scan = (struct record_scan){.vocab = VOCAB, .take = take, .ctx = &t};
	require(record_scan(&scan, t.data, t.size, true) == t.size);
	require(t.turns >= 1);
	buf_clear(&b);
	return 0;
}
