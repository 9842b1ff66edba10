/* uses.c - the file "uses": how often and when entries were of use.  It may be lost: then everything counts as new.
 *
 * Layout, little endian: "DS4KVUSE", u32 version 1, u32 n, n times (key 16 bytes, u64 last use, u32 hits, u32 0), XXH3-128 of
 * all before it.  docs/formats/kv.md. */
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "kvstore/kvstore_int.h"

#define USES_NAME "uses"
#define USES_TEMP "uses.kv.tmp"		/* swept up at the next opening, if it is left */

enum { USES_HEAD = 16, USES_ONE = 32, USES_SUM = 16, USES_MAX = 1 << 28 };

static const char magic[8] = {'D', 'S', '4', 'K', 'V', 'U', 'S', 'E'};

static void add(struct buf *b, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		buf_byte(b, (char)(v >> 8 * i & 0xff));
}

static uint64_t get(const char *p, int bytes)
{
	uint64_t v = 0;

	for (int i = 0; i < bytes; i++)
		v |= (uint64_t)(uint8_t)p[i] << 8 * i;
	return v;
}

void uses_apply(struct index *x, const char *p, size_t n)
{
	struct hash128 sum;

	if (n < USES_HEAD + USES_SUM || memcmp(p, magic, sizeof magic) != 0 || get(p + 8, 4) != 1 ||
	    (n - USES_HEAD - USES_SUM) / USES_ONE != get(p + 12, 4) || (n - USES_HEAD - USES_SUM) % USES_ONE)
		return;
	sum = hash128(p, n - USES_SUM);
	if (sum.low != get(p + n - 16, 8) || sum.high != get(p + n - 8, 8))
		return;
	for (p += USES_HEAD, n -= USES_HEAD + USES_SUM; n; n -= USES_ONE, p += USES_ONE) {
		struct entry *e = index_get(x, (struct tree_key){get(p, 8), get(p + 8, 8)});

		if (!e)
			continue;
		e->hits = (uint32_t)get(p + 24, 4);
		if ((double)get(p + 16, 8) > e->used)
			e->used = (double)get(p + 16, 8);
	}
}

void uses_read(struct kvstore *ks)
{
	char path[STORE_PATH], *p = NULL;
	uint64_t bytes;
	int fd;

	store_path(ks, USES_NAME, path);
	if (io_open(&fd, path, NULL) != OK)
		return;
	if (io_size(fd, path, &bytes, NULL) == OK && bytes <= USES_MAX && (p = mem_alloc((size_t)bytes)) != NULL &&
	    io_read(fd, path, p, (size_t)bytes, 0, NULL) == OK)
		uses_apply(&ks->index, p, (size_t)bytes);
	mem_free(p);
	io_close(fd);
}

/* Locked. */
static void build(struct kvstore *ks, struct buf *b)
{
	const struct index *x = &ks->index;
	uint32_t n = 0;
	struct hash128 sum;

	for (int32_t i = 0; i < x->n_entry; i++)
		n += x->entry[i]->hits > 0;
	buf_add(b, magic, sizeof magic);
	add(b, 1, 4);
	add(b, n, 4);
	for (int32_t i = 0; i < x->n_entry; i++) {
		const struct entry *e = x->entry[i];

		if (!e->hits)
			continue;
		add(b, e->key.low, 8);
		add(b, e->key.high, 8);
		add(b, (uint64_t)e->used, 8);
		add(b, e->hits, 4);
		add(b, 0, 4);
	}
	if (!buf_ok(b))
		return;
	sum = hash128(b->data, b->len);
	add(b, sum.low, 8);
	add(b, sum.high, 8);
}

void uses_write(struct kvstore *ks)
{
	char path[STORE_PATH], temp[STORE_PATH];
	struct buf b = BUF_CAP(USES_MAX);
	bool changed;
	int fd = -1;

	store_lock(ks);
	changed = ks->uses_changed && ks->writes;
	ks->uses_changed = false;
	if (changed)
		build(ks, &b);
	store_unlock(ks);
	store_path(ks, USES_NAME, path);
	store_path(ks, USES_TEMP, temp);
	if (changed && buf_ok(&b)) {
		io_remove(temp, NULL);
		if (io_create(&fd, temp, NULL) == OK && io_write(fd, temp, b.data, b.len, 0, NULL) == OK)
			io_rename(temp, path, NULL);
		io_close(fd);
	}
	buf_clear(&b);
}
