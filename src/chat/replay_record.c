/* replay_record.c - turns as records of bytes, and back from bytes that may be damaged anywhere.
 *
 * What  docs/formats/replay.md.  A record is checked as a whole (XXH3-64), then its sizes and ids.
 * How   Records begin at multiples of 8.  Where one does not verify, the scan looks for the mark of the next:
 *       the mark, read as an id, is negative, so no record's ids can contain it. */
#include <string.h>

#include "base/mem.h"
#include "chat/replay_int.h"

#define MARK 0xD4525452u
#define VERSION 1u
static const uint8_t magic[8] = {0x89, 'd', 's', '4', 'r', 'p', 'l', '\n'};

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void put_hash(uint8_t *p, struct hash128 h)
{
	put64(p, h.low);
	put64(p + 8, h.high);
}

static struct hash128 get_hash(const uint8_t *p)
{
	return (struct hash128){get64(p), get64(p + 8)};
}

void record_file_head(uint8_t out[FILE_HEAD], uint32_t vocab, uint64_t vocabulary)
{
	memcpy(out, magic, sizeof magic);
	put32(out + 8, VERSION);
	put32(out + 12, vocab);
	put64(out + 16, vocabulary);
	put64(out + 24, hash64(out, 24));
}

struct replay_turn *replay_turn_new(size_t n_calls, size_t n)
{
	size_t at_entry = sizeof(struct replay_turn), at_call = at_entry + (2 + n_calls) * sizeof(struct turn_entry),
	       at_id = at_call + n_calls * sizeof(struct hash128), bytes = at_id + n * sizeof(int32_t);
	struct replay_turn *t = mem_zero(bytes);
	uint8_t *p = (uint8_t *)t;

	if (!t)
		return NULL;
	t->refs = 1;
	t->bytes = bytes;
	t->entry = (struct turn_entry *)(void *)(p + at_entry);
	t->call = (struct hash128 *)(void *)(p + at_call);
	t->id = (int32_t *)(void *)(p + at_id);
	t->n_calls = (uint32_t)n_calls;
	t->n = (uint32_t)n;
	for (size_t i = 0; i < 2 + n_calls; i++)
		t->entry[i].turn = t;
	return t;
}

/* Bytes of a record with these counts, mark to checksum. */
static size_t record_bytes(uint32_t n_calls, uint32_t n)
{
	size_t body = RECORD_HEAD + RECORD_FIXED + (size_t)RECORD_CALL * n_calls + sizeof(int32_t) * (size_t)n;

	return (body + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN + RECORD_SUM;
}

void record_write(struct buf *out, const struct replay_turn *t)
{
	size_t bytes = record_bytes(t->n_calls, t->n);
	uint8_t *p = mem_zero(bytes), *q = p;

	if (!p) {
		out->failed = true;
		return;
	}
	put32(q, MARK);
	put32(q + 4, (uint32_t)bytes);
	put_hash(q + 8, t->entry[0].key);
	put_hash(q + 24, t->entry[1].key);
	put_hash(q + 40, t->content);
	put32(q + 56, t->n_calls);
	put32(q + 60, t->n);
	put32(q + 64, (uint32_t)t->thinking);
	q += RECORD_HEAD + RECORD_FIXED;
	for (uint32_t i = 0; i < t->n_calls; i++, q += RECORD_CALL) {
		put_hash(q, t->call[i]);
		put_hash(q + 16, t->entry[2 + i].key);
	}
	for (uint32_t i = 0; i < t->n; i++, q += 4)
		put32(q, (uint32_t)t->id[i]);
	put64(p + bytes - RECORD_SUM, hash64(p, bytes - RECORD_SUM));
	buf_add(out, p, bytes);
	mem_free(p);
}

/* Bytes of the record at p, 0 if what is there is none. */
static size_t verify(const uint8_t *p, size_t n)
{
	size_t bytes;
	uint32_t n_calls, n_ids;

	if (n < record_bytes(0, 0) || get32(p) != MARK)
		return 0;
	bytes = get32(p + 4);
	n_calls = get32(p + 56);
	n_ids = get32(p + 60);
	if (bytes > n || n_calls > REPLAY_MAX_CALLS || n_ids > REPLAY_MAX_IDS || bytes != record_bytes(n_calls, n_ids))
		return 0;
	return get64(p + bytes - RECORD_SUM) == hash64(p, bytes - RECORD_SUM) ? bytes : 0;
}

static bool ids_are_good(const uint8_t *p, uint32_t n, uint32_t vocab)
{
	for (uint32_t i = 0; i < n; i++)
		if (get32(p + (size_t)i * 4) >= vocab)
			return false;
	return n > 0;
}

/* Hands over a record that verifies.  False: a right checksum over wrong content. */
static bool take_record(struct record_scan *s, const uint8_t *p)
{
	uint32_t n_calls = get32(p + 56), n = get32(p + 60), thinking = get32(p + 64);
	const uint8_t *calls = p + RECORD_HEAD + RECORD_FIXED, *ids = calls + (size_t)RECORD_CALL * n_calls;
	struct replay_turn *t;

	if (thinking > THINKING_ON || !ids_are_good(ids, n, s->vocab))
		return false;
	t = replay_turn_new(n_calls, n);
	if (t) {
		t->entry[0].key = get_hash(p + 8);
		t->entry[1].key = get_hash(p + 24);
		t->content = get_hash(p + 40);
		t->thinking = (enum thinking)thinking;
		for (uint32_t i = 0; i < n_calls; i++, calls += RECORD_CALL) {
			t->call[i] = get_hash(calls);
			t->entry[2 + i].key = get_hash(calls + 16);
		}
		for (uint32_t i = 0; i < n; i++)
			t->id[i] = (int32_t)get32(ids + (size_t)i * 4);
	}
	s->take(s->ctx, t);
	return true;
}

size_t record_scan(struct record_scan *s, const uint8_t *p, size_t n, bool ends_file)
{
	size_t at = 0;

	while (at < n && (ends_file || n - at >= RECORD_MAX)) {
		size_t bytes = verify(p + at, n - at);

		if (bytes && take_record(s, p + at)) {
			at += bytes;
			continue;
		}
		bytes = bytes ? bytes : n - at < RECORD_ALIGN ? n - at : RECORD_ALIGN;
		s->skipped += bytes;
		at += bytes;
	}
	return at;
}
