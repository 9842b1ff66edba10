/* journal.c - remembers across runs which bytes of a partial file are there.
 *
 * What  A set of byte ranges, and its file: {"format", "url", "size", "sha256", "etag", "done": [[begin, end], ...]}.
 * Why   Ranges that arrive side by side leave holes; the length of the partial file says nothing.
 * How   A sorted array: with n connections there are about n + 1 ranges, however large the file.
 * Careful
 *       - Everything in the file is checked: a range outside the file or out of order is damage, not a hint.
 *       - The address is for people and is written without its query: a signed address is a secret.
 *       - What counts as the same version: size and digest; where there is no digest, size and ETag. */
#include "hub/journal_int.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "hub/request_int.h"

#define FORMAT "ds4-pull-1"
#define JOURNAL_MAX (4 << 20)

/* ------------------------------------------------------------------ ranges */

enum status ranges_add(struct ranges *s, uint64_t begin, uint64_t end, struct err *err)
{
	struct range *grown;
	size_t i = 0, j;

	if (begin >= end)
		return OK;
	while (i < s->n && s->r[i].end < begin)
		i++;
	for (j = i; j < s->n && s->r[j].begin <= end; j++) {	/* i..j-1 melt into the new one */
		begin = s->r[j].begin < begin ? s->r[j].begin : begin;
		end = s->r[j].end > end ? s->r[j].end : end;
		s->bytes -= s->r[j].end - s->r[j].begin;
	}
	if (i == j && s->n == s->room) {
		grown = mem_grow(s->r, s->room ? s->room * 2 : 64, sizeof *s->r);
		if (!grown)
			return err_set(err, ERR_MEMORY, "no memory for %zu byte ranges", s->room * 2);
		s->r = grown;
		s->room = s->room ? s->room * 2 : 64;
	}
	if (s->n > j)
		memmove(s->r + i + 1, s->r + j, (s->n - j) * sizeof *s->r);
	s->n = s->n - (j - i) + 1;
	s->r[i] = (struct range){begin, end};
	s->bytes += end - begin;
	return OK;
}

void ranges_cut(struct ranges *s, uint64_t size)
{
	while (s->n && s->r[s->n - 1].end > size) {
		struct range *last = &s->r[s->n - 1];

		s->bytes -= last->end - (last->begin < size ? size : last->begin);
		last->end = size;
		if (last->begin >= size)
			s->n--;
	}
}

uint64_t ranges_prefix(const struct ranges *s)
{
	return s->n && s->r[0].begin == 0 ? s->r[0].end : 0;
}

struct range ranges_gap(const struct ranges *s, uint64_t from, uint64_t size)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->r[i].end <= from)
			continue;
		if (s->r[i].begin > from)
			return (struct range){from, s->r[i].begin};
		from = s->r[i].end;
	}
	return from < size ? (struct range){from, size} : (struct range){size, size};
}

void ranges_clear(struct ranges *s)
{
	mem_free(s->r);
	memset(s, 0, sizeof *s);
}

/* ------------------------------------------------------------------ the file */

enum status journal_write(const char *path, const struct hub_file *file, const struct ranges *done, struct err *err)
{
	struct buf b = BUF_CAP(JOURNAL_MAX);
	char shown[1024];
	enum status st;

	url_shown(shown, sizeof shown, file->url);
	buf_str(&b, "{\"format\": \"" FORMAT "\", \"url\": ");
	json_write_string(&b, shown, strlen(shown));
	buf_printf(&b, ", \"size\": %" PRIu64 ", \"sha256\": \"%s\", \"etag\": ", file->size, file->sha256);
	json_write_string(&b, file->etag, strlen(file->etag));
	buf_str(&b, ",\n \"done\": [");
	for (size_t i = 0; i < done->n; i++)
		buf_printf(&b, "%s[%" PRIu64 ", %" PRIu64 "]", i ? ", " : "", done->r[i].begin, done->r[i].end);
	buf_str(&b, "]}\n");
	if (buf_ok(&b))
		st = file_write(path, b.data, b.len, err);
	else
		st = err_set(err, ERR_LIMIT, "%s: %zu byte ranges do not fit into a journal", path, done->n);
	buf_clear(&b);
	return st;
}

/* A member that is an integer in 0..max. */
static bool get_number(uint64_t *out, const json_t *v, uint64_t max)
{
	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
		return false;
	*out = (uint64_t)json_integer_value(v);
	return true;
}

static enum status damaged(const char *path, const char *what, struct err *err)
{
	return err_set(err, ERR_FORMAT, "%s: damaged: %s; --restart throws the partial download away", path, what);
}

static enum status read_ranges(struct ranges *done, const json_t *list, uint64_t size, const char *path, struct err *err)
{
	uint64_t begin, end, last = 0;
	const json_t *pair;
	size_t i;

	if (!json_is_array(list))
		return damaged(path, "no list 'done'", err);
	json_array_foreach(list, i, pair) {
		if (!json_is_array(pair) || json_array_size(pair) != 2 ||
		    !get_number(&begin, json_array_get(pair, 0), size) || !get_number(&end, json_array_get(pair, 1), size) ||
		    begin >= end || (i && begin < last))
			return damaged(path, "expected ascending ranges inside the file", err);
		TRY(ranges_add(done, begin, end, err));
		last = end;
	}
	return OK;
}

static enum status check_version(const json_t *v, const char *path, const struct hub_file *file, struct err *err)
{
	const char *format = json_string_value(json_object_get(v, "format"));
	const char *digest = json_string_value(json_object_get(v, "sha256"));
	const char *etag = json_string_value(json_object_get(v, "etag"));
	uint64_t size;

	if (!format || strcmp(format, FORMAT) || !digest || !etag || !get_number(&size, json_object_get(v, "size"), INT64_MAX))
		return damaged(path, "expected an object with format, size, sha256 and etag", err);
	if (size != file->size)
		return err_set(err, ERR_ARGUMENT,
			       "%s is about a file of %" PRIu64 " bytes, the server's has %" PRIu64
			       "; --restart throws the partial download away", path, size, file->size);
	if (strcmp(digest, file->sha256) || (!file->sha256[0] && strcmp(etag, file->etag)))
		return err_set(err, ERR_ARGUMENT,
			       "%s is about another version of the file (%.12s, the server's is %.12s); --restart throws the "
			       "partial download away", path, digest[0] ? digest : etag,
			       file->sha256[0] ? file->sha256 : file->etag);
	return OK;
}

enum status journal_read(struct ranges *done, const char *path, const struct hub_file *file, struct err *err)
{
	struct buf b = BUF_CAP(JOURNAL_MAX);
	struct err why = {.code = OK};
	json_t *v = NULL;
	enum status st;

	TRY_TO(out, file_read(&b, path, err));
	v = json_parse(buf_cstr(&b), b.len, &why);
	if (!v)
		TRY_TO(out, damaged(path, why.msg, err));
	TRY_TO(out, check_version(v, path, file, err));
	TRY_TO(out, read_ranges(done, json_object_get(v, "done"), file->size, path, err));
out:
	if (st != OK)
		ranges_clear(done);
	json_decref(v);
	buf_clear(&b);
	return st;
}
