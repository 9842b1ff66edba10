/* kvfile.c - headers to bytes and back; docs/formats/kv.md is the same in words.
 *
 * Careful
 *       - Numbers are little endian, whatever the machine.
 *       - The checksum covers the whole header with its own 16 bytes as zero.
 *       - The checksum is no protection against somebody who makes files: sizes are checked as if it were not there. */
#include "kvstore/kvfile.h"

#include <string.h>

static const uint8_t magic[8] = {'D', 'S', '4', 'K', 'V', '\r', '\n', 0x1a};

enum { SUM_AT = 112, SECTION_MAX = 1 << 30 };

size_t kvfile_header_bytes(uint32_t n)
{
	return KVFILE_PREFIX + (size_t)n * KVFILE_RECORD;
}

/* ------------------------------------------------------------------ numbers */

static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static void put64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
	return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void put_key(uint8_t *p, struct tree_key k)
{
	put64(p, k.low);
	put64(p + 8, k.high);
}

static struct tree_key get_key(const uint8_t *p)
{
	return (struct tree_key){get64(p), get64(p + 8)};
}

static bool same(struct tree_key a, struct tree_key b)
{
	return a.low == b.low && a.high == b.high;
}

/* Of a header whose checksum field is zero. */
static struct hash128 header_sum(const uint8_t *p, size_t n)
{
	uint8_t copy[KVFILE_HEADER];

	memcpy(copy, p, n);
	memset(copy + SUM_AT, 0, 16);
	return hash128(copy, n);
}

/* ------------------------------------------------------------------ writing */

static void put_record(uint8_t *p, const struct kvfile_record *r)
{
	memset(p, 0, KVFILE_RECORD);
	put_key(p, r->key);
	put_key(p + 16, r->before);
	put32(p + 32, (uint32_t)r->end);
	put32(p + 36, (uint32_t)r->kind);
	put64(p + 40, r->offset);
	put64(p + 48, r->bytes);
	put64(p + 56, r->created);
	put64(p + 64, r->sum.low);
	put64(p + 72, r->sum.high);
	for (int i = 0; i < GEOM_BLOCK; i++)
		put32(p + 128 + 4 * i, (uint32_t)r->token[i]);
}

void kvfile_encode(uint8_t *out, const struct kvfile_header *h, const struct kvfile_record *r)
{
	size_t n = kvfile_header_bytes(h->n);
	struct hash128 sum;

	memset(out, 0, KVFILE_PREFIX);
	memcpy(out, magic, sizeof magic);
	put32(out + 8, KVFILE_VERSION);
	put32(out + 12, h->n);
	put_key(out + 16, h->fingerprint);
	put64(out + 32, h->block_bytes);
	put64(out + 40, h->check_bytes);
	put64(out + 48, h->file_bytes);
	put32(out + 56, GEOM_BLOCK);
	for (uint32_t i = 0; i < h->n; i++)
		put_record(out + kvfile_header_bytes(i), &r[i]);
	sum = header_sum(out, n);
	put64(out + SUM_AT, sum.low);
	put64(out + SUM_AT + 8, sum.high);
}

/* ------------------------------------------------------------------ reading */

static enum status check_prefix(struct kvfile_header *h, const uint8_t *p, size_t got, uint64_t bytes, const char *name,
				struct err *err)
{
	struct hash128 sum;
	size_t n;

	if (got < sizeof magic || memcmp(p, magic, sizeof magic) != 0)
		return err_set(err, ERR_NOT_FOUND, "%s: is not a file of the store", name);
	if (got < KVFILE_PREFIX)
		return err_set(err, ERR_FORMAT, "%s: ends within its header, after %zu bytes", name, got);
	if (get32(p + 8) != KVFILE_VERSION)
		return err_set(err, ERR_LIMIT, "%s: expected format version %d, file has %lu", name, KVFILE_VERSION,
			       (unsigned long)get32(p + 8));
	h->n = get32(p + 12);
	if (h->n < 1 || h->n > KVFILE_RECORDS)
		return err_set(err, ERR_FORMAT, "%s: expected 1 to %d records, file has %lu", name, KVFILE_RECORDS,
			       (unsigned long)h->n);
	n = kvfile_header_bytes(h->n);
	if (got < n)
		return err_set(err, ERR_FORMAT, "%s: ends within its header, after %zu of %zu bytes", name, got, n);
	sum = header_sum(p, n);
	if (sum.low != get64(p + SUM_AT) || sum.high != get64(p + SUM_AT + 8))
		return err_set(err, ERR_FORMAT, "%s: the header's checksum is wrong", name);
	h->fingerprint = get_key(p + 16);
	h->block_bytes = get64(p + 32);
	h->check_bytes = get64(p + 40);
	h->file_bytes = get64(p + 48);
	if (h->file_bytes != bytes)
		return err_set(err, ERR_FORMAT, "%s: expected %llu bytes, file has %llu", name,
			       (unsigned long long)h->file_bytes, (unsigned long long)bytes);
	if (get32(p + 56) != GEOM_BLOCK || h->block_bytes > SECTION_MAX || h->check_bytes > SECTION_MAX)
		return err_set(err, ERR_FORMAT, "%s: blocks of %lu tokens and %llu bytes, checkpoints of %llu bytes", name,
			       (unsigned long)get32(p + 56), (unsigned long long)h->block_bytes,
			       (unsigned long long)h->check_bytes);
	return OK;
}

static enum status get_record(struct kvfile_record *r, const struct kvfile_header *h, const uint8_t *p, uint32_t i,
			      const char *name, struct err *err)
{
	uint64_t bytes;

	r->key = get_key(p);
	r->before = get_key(p + 16);
	r->end = (int32_t)get32(p + 32);
	r->kind = get32(p + 36) == KVFILE_BLOCK ? KVFILE_BLOCK : KVFILE_CHECK;
	r->offset = get64(p + 40);
	r->bytes = get64(p + 48);
	r->created = get64(p + 56);
	r->sum = (struct hash128){get64(p + 64), get64(p + 72)};
	for (int t = 0; t < GEOM_BLOCK; t++)
		r->token[t] = (int32_t)get32(p + 128 + 4 * t);
	bytes = r->kind == KVFILE_BLOCK ? h->block_bytes : h->check_bytes;
	if (get32(p + 36) > KVFILE_CHECK || r->bytes != bytes)
		return err_set(err, ERR_FORMAT, "%s: record %lu: kind %lu of %llu bytes, expected %llu", name,
			       (unsigned long)i, (unsigned long)get32(p + 36), (unsigned long long)r->bytes,
			       (unsigned long long)bytes);
	if (r->offset < kvfile_header_bytes(h->n) || r->bytes > h->file_bytes || r->offset > h->file_bytes - r->bytes)
		return err_set(err, ERR_FORMAT, "%s: record %lu: %llu bytes at %llu are not inside the file's %llu", name,
			       (unsigned long)i, (unsigned long long)r->bytes, (unsigned long long)r->offset,
			       (unsigned long long)h->file_bytes);
	if (r->end < GEOM_BLOCK || r->end % GEOM_BLOCK || !same(r->key, tree_key_next(r->before, r->token)) ||
	    (r->end == GEOM_BLOCK && !same(r->before, h->fingerprint)))
		return err_set(err, ERR_FORMAT, "%s: record %lu: its key is not the one of its tokens", name,
			       (unsigned long)i);
	return OK;
}

enum status kvfile_decode(struct kvfile_header *h, struct kvfile_record *r, const uint8_t *p, size_t got, uint64_t bytes,
			  const char *name, struct err *err)
{
	TRY(check_prefix(h, p, got, bytes, name, err));
	for (uint32_t i = 0; i < h->n; i++)
		TRY(get_record(&r[i], h, p + kvfile_header_bytes(i), i, name, err));
	return OK;
}
