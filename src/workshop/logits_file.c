/* logits_file.c - see logits_file.h.
 *
 * Careful
 *       - The file is as large as its header says or it is refused at once; numbers inside a row are looked at when the
 *         row is used.
 *       - The likeliest n are found with a heap of n whose root is the worst: V log n steps, and ties go to the lower
 *         id, as everywhere. */
#include "workshop/logits_file.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/hash.h"

#define MAGIC "DS4LOGIT"
#define MAX_NAME 4096

struct header {
	char magic[8];
	uint32_t version, vocab, n, name_bytes;
	uint64_t rows, hash;
};

struct logits_writer {
	FILE *f;
	char *path, *tmp;
	int32_t vocab, n;
	uint64_t rows, written;
	int32_t *id;		/* [n] */
	float *logprob;		/* [n] */
	bool done;
};

static size_t bytes_of_row(int32_t vocab, int32_t n)
{
	return sizeof(float) + (size_t)n * (n < vocab ? 2 * sizeof(float) : sizeof(float));
}

static size_t padded(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

uint64_t logits_text_hash(const int32_t *id, const size_t *end, size_t n_windows)
{
	size_t n = n_windows ? end[n_windows - 1] : 0;
	uint64_t part[2] = {hash64(id, n * sizeof *id), hash64(end, n_windows * sizeof *end)};

	return hash64(part, sizeof part);
}

/* ------------------------------------------------------------------ writing */

static enum status write_bytes(struct logits_writer *w, const void *p, size_t n, struct err *err)
{
	if (fwrite(p, 1, n, w->f) != n)
		return err_set(err, ERR_IO, "%s: %s", w->path, strerror(errno));
	return OK;
}

static enum status write_header(struct logits_writer *w, const char *model, uint64_t hash, struct err *err)
{
	struct header h = {.magic = MAGIC, .version = 1, .vocab = (uint32_t)w->vocab, .n = (uint32_t)w->n,
			   .rows = w->rows, .hash = hash};
	size_t name = strnlen(model, MAX_NAME);

	h.name_bytes = (uint32_t)name;
	TRY(write_bytes(w, &h, sizeof h, err));
	TRY(write_bytes(w, model, name, err));
	return write_bytes(w, "\0\0\0\0\0\0\0", padded(name) - name, err);
}

enum status logits_writer_open(struct logits_writer **out, const char *path, const char *model, int32_t vocab,
			       int32_t n, uint64_t rows, uint64_t hash, struct err *err)
{
	struct logits_writer *w = mem_zero(sizeof *w);
	enum status st = OK;

	*out = NULL;
	if (w) {
		*w = (struct logits_writer){.vocab = vocab, .n = n, .rows = rows};
		w->path = mem_str(path);
		w->tmp = mem_alloc(strlen(path) + 5);
		w->id = mem_array((size_t)n, sizeof *w->id);
		w->logprob = mem_array((size_t)n, sizeof *w->logprob);
	}
	if (!w || !w->path || !w->tmp || !w->id || !w->logprob) {
		logits_writer_close(w);
		return err_set(err, ERR_MEMORY, "%s: no memory", path);
	}
	memcpy(w->tmp, path, strlen(path));
	memcpy(w->tmp + strlen(path), ".tmp", 5);
	w->f = fopen(w->tmp, "wb");
	if (!w->f)
		st = err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
	else
		st = write_header(w, model, hash, err);
	if (st != OK)
		logits_writer_close(w);
	else
		*out = w;
	return st;
}

/* Is entry a worse than b?  Lower, or equal with the higher id. */
static bool worse(const struct logits_writer *w, int32_t a, int32_t b)
{
	return w->logprob[a] < w->logprob[b] || (w->logprob[a] == w->logprob[b] && w->id[a] > w->id[b]);
}

static void swap(struct logits_writer *w, int32_t a, int32_t b)
{
	float p = w->logprob[a];
	int32_t i = w->id[a];

	w->logprob[a] = w->logprob[b];
	w->logprob[b] = p;
	w->id[a] = w->id[b];
	w->id[b] = i;
}

static void sift(struct logits_writer *w, int32_t at, int32_t n)
{
	for (;;) {
		int32_t least = at;

		for (int32_t c = 2 * at + 1; c <= 2 * at + 2 && c < n; c++)
			if (worse(w, c, least))
				least = c;
		if (least == at)
			return;
		swap(w, at, least);
		at = least;
	}
}

static void find_best(struct logits_writer *w, const float *logprob)
{
	for (int32_t i = 0; i < w->n; i++) {
		w->id[i] = i;
		w->logprob[i] = logprob[i];
	}
	for (int32_t i = w->n / 2 - 1; i >= 0; i--)
		sift(w, i, w->n);
	for (int32_t i = w->n; i < w->vocab; i++) {
		if (!(logprob[i] > w->logprob[0]))
			continue;
		w->id[0] = i;
		w->logprob[0] = logprob[i];
		sift(w, 0, w->n);
	}
	for (int32_t n = w->n - 1; n > 0; n--) {	/* heap sort: the best end up in front */
		swap(w, 0, n);
		sift(w, 0, n);
	}
}

enum status logits_writer_row(struct logits_writer *w, const float *logprob, int32_t target, struct err *err)
{
	w->written++;
	TRY(write_bytes(w, &logprob[target], sizeof(float), err));
	if (w->n == w->vocab)
		return write_bytes(w, logprob, (size_t)w->n * sizeof(float), err);
	find_best(w, logprob);
	TRY(write_bytes(w, w->id, (size_t)w->n * sizeof *w->id, err));
	return write_bytes(w, w->logprob, (size_t)w->n * sizeof *w->logprob, err);
}

enum status logits_writer_finish(struct logits_writer *w, struct err *err)
{
	int bad;

	assert(w->written == w->rows);
	bad = fflush(w->f) != 0 || fsync(fileno(w->f)) != 0;
	bad = fclose(w->f) != 0 || bad;
	w->f = NULL;
	if (bad || rename(w->tmp, w->path) < 0)
		return err_set(err, ERR_IO, "%s: %s", w->path, strerror(errno));
	w->done = true;
	return OK;
}

void logits_writer_close(struct logits_writer *w)
{
	if (!w)
		return;
	if (w->f)
		fclose(w->f);
	if (w->tmp && !w->done)
		unlink(w->tmp);
	mem_free(w->path);
	mem_free(w->tmp);
	mem_free(w->id);
	mem_free(w->logprob);
	mem_free(w);
}

/* ------------------------------------------------------------------ reading */

bool logits_file_is(const char *path)
{
	char magic[8] = {0};
	FILE *f = fopen(path, "rb");
	bool is = f && fread(magic, 1, sizeof magic, f) == sizeof magic && !memcmp(magic, MAGIC, sizeof magic);

	if (f)
		fclose(f);
	return is;
}

static enum status check_header(struct logits_file *f, const struct header *h, const char *path, struct err *err)
{
	size_t begin = sizeof *h + padded(h->name_bytes);

	if (memcmp(h->magic, MAGIC, sizeof h->magic) || h->version != 1)
		return err_set(err, ERR_FORMAT, "%s: expected a file of stored logits, version 1", path);
	if (h->vocab < 1 || h->vocab > 1u << 24 || h->n < 1 || h->n > h->vocab || h->name_bytes > MAX_NAME)
		return err_set(err, ERR_FORMAT, "%s: %u of %u tokens and a name of %u bytes cannot be", path, h->n,
			       h->vocab, h->name_bytes);
	f->vocab = (int32_t)h->vocab;
	f->n = (int32_t)h->n;
	f->rows = h->rows;
	f->hash = h->hash;
	f->row_bytes = bytes_of_row(f->vocab, f->n);
	if (f->map.bytes < begin || f->rows != (f->map.bytes - begin) / f->row_bytes ||
	    (f->map.bytes - begin) % f->row_bytes)
		return err_set(err, ERR_FORMAT, "%s: expected %" PRIu64 " rows of %zu bytes, found %zu bytes", path,
			       f->rows, f->row_bytes, f->map.bytes < begin ? 0 : f->map.bytes - begin);
	f->row = f->map.data + begin;
	f->model = mem_strn((const char *)f->map.data + sizeof *h, h->name_bytes);
	return f->model ? OK : err_set(err, ERR_MEMORY, "%s: no memory", path);
}

enum status logits_file_open(struct logits_file *out, const char *path, struct err *err)
{
	struct header h = {.version = 0};
	enum status st;

	memset(out, 0, sizeof *out);
	TRY(file_map(&out->map, path, err));
	if (out->map.bytes >= sizeof h)
		memcpy(&h, out->map.data, sizeof h);
	st = check_header(out, &h, path, err);
	if (st != OK)
		logits_file_close(out);
	return st;
}

void logits_file_close(struct logits_file *f)
{
	file_unmap(&f->map);
	mem_free(f->model);
	memset(f, 0, sizeof *f);
}

enum status logits_file_row(const struct logits_file *f, uint64_t i, struct quality_row *out, struct err *err)
{
	const uint8_t *p = f->row + i * f->row_bytes;
	bool ok;

	assert(i < f->rows);
	memcpy(&out->target, p, sizeof out->target);
	out->n = f->n;
	p += sizeof(float);
	out->id = f->n < f->vocab ? (const int32_t *)(const void *)p : NULL;
	if (out->id)
		p += (size_t)f->n * sizeof(int32_t);
	out->logprob = (const float *)(const void *)p;	/* all offsets are multiples of 4 */
	ok = out->target <= 1e-3f && isfinite(out->target);
	for (int32_t k = 0; ok && k < f->n; k++)
		ok = out->logprob[k] <= 1e-3f && isfinite(out->logprob[k]) &&
		     (!out->id || (out->id[k] >= 0 && out->id[k] < f->vocab));
	return ok ? OK : err_set(err, ERR_FORMAT, "row %" PRIu64 " of the stored logits is damaged", i);
}
