/* imatrix_file.c - reads, writes and merges importance files.
 *
 * Careful
 *       - Counts come from outside: each is bounded by the bytes that are left before anything is allocated.
 *       - Values must be finite and not negative: they weight squared errors.
 *       - Older files end behind the last entry, without chunks and dataset. */
#include "workshop/imatrix_file.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

struct reader {
	const uint8_t *p;
	size_t left;
	const char *path;
	struct err *err;
};

void imatrix_clear(struct imatrix *m)
{
	for (size_t i = 0; i < m->n; i++) {
		mem_free(m->entry[i].name);
		mem_free(m->entry[i].value);
	}
	mem_free(m->entry);
	mem_free(m->dataset);
	memset(m, 0, sizeof *m);
}

struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *name)
{
	for (size_t i = 0; i < m->n; i++)
		if (!strcmp(m->entry[i].name, name))
			return &m->entry[i];
	return NULL;
}

struct imatrix_entry *imatrix_add(struct imatrix *m, const char *name, int32_t n)
{
	struct imatrix_entry *e = imatrix_find(m, name);

	if (e)
		return e->n == n ? e : NULL;
	if (n < 1)
		return NULL;
	if (m->n == m->room) {
		size_t room = m->room ? 2 * m->room : 64;

		e = mem_grow(m->entry, room, sizeof *e);
		if (!e)
			return NULL;
		m->entry = e;
		m->room = room;
	}
	e = &m->entry[m->n];
	*e = (struct imatrix_entry){.name = mem_str(name), .n = n, .value = mem_array((size_t)n, sizeof(float))};
	if (!e->name || !e->value) {
		mem_free(e->name);
		mem_free(e->value);
		return NULL;
	}
	m->n++;
	return e;
}

static enum status take_i32(struct reader *r, int32_t *out, int32_t low, const char *what)
{
	if (r->left < sizeof *out)
		return err_set(r->err, ERR_FORMAT, "%s: is cut short: no bytes left for %s", r->path, what);
	memcpy(out, r->p, sizeof *out);
	r->p += sizeof *out;
	r->left -= sizeof *out;
	if (*out < low)
		return err_set(r->err, ERR_FORMAT, "%s: %s is %" PRId32 ", expected at least %" PRId32,
		               r->path, what, *out, low);
	return OK;
}

static enum status take_name(struct reader *r, char **out, int32_t low, const char *what)
{
	int32_t n = 0;

	TRY(take_i32(r, &n, low, what));
	if ((size_t)n > r->left || n > 65535)
		return err_set(r->err, ERR_FORMAT, "%s: %s is %" PRId32 ", but %zu bytes are left", r->path,
		               what, n, r->left);
	if (memchr(r->p, 0, (size_t)n))
		return err_set(r->err, ERR_FORMAT, "%s: a name holds a zero byte", r->path);
	*out = mem_strn((const char *)r->p, (size_t)n);
	if (!*out)
		return err_set(r->err, ERR_MEMORY, "%s: no memory for a name", r->path);
	r->p += n;
	r->left -= (size_t)n;
	return OK;
}

static enum status take_entry(struct reader *r, struct imatrix *m)
{
	struct imatrix_entry *e;
	int32_t calls = 0, n = 0;
	char *name = NULL;
	enum status st = OK;

	TRY(take_name(r, &name, 1, "the length of a name"));
	TRY_TO(out, take_i32(r, &calls, 0, "a number of calls"));
	TRY_TO(out, take_i32(r, &n, 1, "a number of values"));
	if ((size_t)n > r->left / sizeof(float)) {
		st = err_set(r->err, ERR_FORMAT,
		             "%s: %.200s: has %" PRId32 " values, but %zu bytes are left", r->path, name, n,
		             r->left);
		goto out;
	}
	if (imatrix_find(m, name)) {
		st = err_set(r->err, ERR_FORMAT, "%s: %.200s occurs twice", r->path, name);
		goto out;
	}
	e = imatrix_add(m, name, n);
	if (!e) {
		st = err_set(r->err, ERR_MEMORY, "%s: no memory for %" PRId32 " values", r->path, n);
		goto out;
	}
	e->calls = calls;
	memcpy(e->value, r->p, (size_t)n * sizeof(float));
	r->p += (size_t)n * sizeof(float);
	r->left -= (size_t)n * sizeof(float);
	for (int32_t i = 0; i < n; i++)
		if (!(e->value[i] >= 0) || !isfinite(e->value[i])) {
			st = err_set(r->err, ERR_FORMAT,
			             "%s: %.200s: value %" PRId32 " is %g, expected a number from 0 on",
			             r->path, name, i, (double)e->value[i]);
			goto out;
		}
out:
	mem_free(name);
	return st;
}

enum status imatrix_parse(struct imatrix *out, const void *data, size_t bytes, const char *path, struct err *err)
{
	struct reader r = {.p = data, .left = bytes, .path = path, .err = err};
	int32_t n = 0;
	enum status st;

	memset(out, 0, sizeof *out);
	st = take_i32(&r, &n, 1, "the number of entries");
	for (int32_t i = 0; st == OK && i < n; i++)
		st = take_entry(&r, out);
	if (st == OK && r.left) {
		st = take_i32(&r, &out->chunks, 0, "the number of chunks");
		if (st == OK && r.left)
			st = take_name(&r, &out->dataset, 0, "the length of the dataset's name");
	}
	if (st == OK && !out->dataset && !(out->dataset = mem_str("")))
		st = err_set(err, ERR_MEMORY, "%s: no memory", path);
	if (st != OK)
		imatrix_clear(out);
	return st;
}

enum status imatrix_read(struct imatrix *out, const char *path, struct err *err)
{
	struct file_map map;
	enum status st;

	memset(out, 0, sizeof *out);
	TRY(file_map(&map, path, err));
	st = imatrix_parse(out, map.data, map.bytes, path, err);
	file_unmap(&map);
	return st;
}

static void put_i32(struct buf *b, int32_t v)
{
	buf_add(b, &v, sizeof v);
}

enum status imatrix_write(const struct imatrix *m, const char *path, struct err *err)
{
	struct buf b = BUF_CAP(BUF_MAX);
	const char *dataset = m->dataset ? m->dataset : "";
	enum status st;

	put_i32(&b, (int32_t)m->n);
	for (size_t i = 0; i < m->n; i++) {
		const struct imatrix_entry *e = &m->entry[i];

		put_i32(&b, (int32_t)strlen(e->name));
		buf_str(&b, e->name);
		put_i32(&b, e->calls);
		put_i32(&b, e->n);
		buf_add(&b, e->value, (size_t)e->n * sizeof(float));
	}
	put_i32(&b, m->chunks);
	put_i32(&b, (int32_t)strlen(dataset));
	buf_str(&b, dataset);
	if (buf_ok(&b))
		st = file_write(path, b.data, b.len, err);
	else
		st = err_set(err, ERR_MEMORY, "%s: no memory for the file", path);
	buf_clear(&b);
	return st;
}

enum status imatrix_merge(struct imatrix *into, const struct imatrix *from, struct err *err)
{
	for (size_t i = 0; i < from->n; i++) {
		const struct imatrix_entry *f = &from->entry[i], *there = imatrix_find(into, f->name);

		if (there && there->n != f->n)
			return err_set(err, ERR_FORMAT,
			               "%s: expected %" PRId32
			               " values, the other importance file has %" PRId32,
			               f->name, there->n, f->n);
	}
	for (size_t i = 0; i < from->n; i++) {
		const struct imatrix_entry *f = &from->entry[i];
		struct imatrix_entry *e = imatrix_add(into, f->name, f->n);

		if (!e)
			return err_set(err, ERR_MEMORY, "%s: no memory for %" PRId32 " values", f->name, f->n);
		e->calls += f->calls;
		for (int32_t j = 0; j < f->n; j++)
			e->value[j] += f->value[j];
	}
	into->chunks += from->chunks;
	if (!into->dataset && from->dataset && !(into->dataset = mem_str(from->dataset)))
		return err_set(err, ERR_MEMORY, "no memory for the dataset's name");
	return OK;
}
