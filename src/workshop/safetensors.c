/* safetensors.c - opens a checkpoint: index, shards, headers, all checked before a weight is read.
 *
 * What  A shard is  u64 header length, JSON header, data;  the header gives dtype, shape and the range of
 *       bytes of each tensor.  An index is JSON too: weight_map, tensor name -> shard's file name.
 * Why   150 GB of weights take an hour to convert: what can be wrong is said in the first second.
 * How   Headers of all shards go into one list, sorted by name.  Ranges are sorted and checked for overlap;
 *       the index is compared in both directions.
 * Careful
 *       - The header length is the first thing read and may be anything: it is bounded by the file and by
 *         ST_MAX_HEADER.
 *       - Shard names in an index are file names, not paths: one with a slash would reach outside the folder.
 *       - Names may carry a leading "model.", which is dropped, in the index as in the shards. */
#include "workshop/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/hash.h"
#include "workshop/json_file.h"

#define INDEX_NAME "model.safetensors.index.json"
#define SUFFIX ".safetensors"
#define MAX_INDEX (256u << 20)
#define MAX_NAME 512

static const struct {
	const char *name;
	unsigned bytes;
} dtypes[ST_DTYPE_COUNT] = {
#define X(code, name, bytes) [code] = {name, bytes},
	ST_DTYPE_MAP(X)
#undef X
};

const char *st_dtype_name(enum st_dtype t)
{
	return dtypes[t].name;
}

unsigned st_dtype_bytes(enum st_dtype t)
{
	return dtypes[t].bytes;
}

void st_list_free(struct st_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		mem_free(list->t[i].name);
	mem_free(list->t);
	memset(list, 0, sizeof *list);
}

static const char *bare_name(const char *name)
{
	return strncmp(name, "model.", 6) ? name : name + 6;
}

/* ------------------------------------------------------------------ one header */

static enum status read_shape(struct st_tensor *t, const json_t *shape, const char *path, struct err *err)
{
	uint64_t n = 1;

	if (!json_is_array(shape) || json_array_size(shape) > ST_MAX_DIMS)
		return err_set(err, ERR_FORMAT, "%s: %s: shape: expected an array of at most %d numbers",
		               path, t->name, ST_MAX_DIMS);
	t->n_dims = (uint32_t)json_array_size(shape);
	for (uint32_t i = 0; i < ST_MAX_DIMS; i++) {
		const json_t *v = i < t->n_dims ? json_array_get(shape, i) : NULL;

		t->dims[i] = 1;
		if (!v)
			continue;
		if (!json_is_integer(v) || json_integer_value(v) < 1)
			return err_set(err, ERR_FORMAT, "%s: %s: shape: expected whole numbers from 1 on",
			               path, t->name);
		t->dims[i] = (uint64_t)json_integer_value(v);
		if (__builtin_mul_overflow(n, t->dims[i], &n))
			return err_set(err, ERR_FORMAT,
			               "%s: %s: the product of its dimensions exceeds 64 bits", path,
			               t->name);
	}
	if (__builtin_mul_overflow(n, (uint64_t)st_dtype_bytes(t->dtype), &t->bytes))
		return err_set(err, ERR_FORMAT, "%s: %s: its bytes exceed 64 bits", path, t->name);
	return OK;
}

static enum status read_offsets(struct st_tensor *t, const json_t *range, uint64_t room, const char *path,
				struct err *err)
{
	const json_t *b = json_array_get(range, 0), *e = json_array_get(range, 1);
	uint64_t begin, end;

	if (!json_is_array(range) || json_array_size(range) != 2 || !json_is_integer(b) || !json_is_integer(e) ||
	    json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b))
		return err_set(err, ERR_FORMAT, "%s: %s: data_offsets: expected two ascending numbers",
		               path, t->name);
	begin = (uint64_t)json_integer_value(b);
	end = (uint64_t)json_integer_value(e);
	if (end > room)
		return err_set(err, ERR_FORMAT,
		               "%s: %s: data ends at byte %" PRIu64 ", but the file has %" PRIu64
		               " bytes of data: it is cut short",
		               path, t->name, end, room);
	if (end - begin != t->bytes)
		return err_set(err, ERR_FORMAT,
		               "%s: %s: expected %" PRIu64
		               " bytes for its dtype and shape, data_offsets hold %" PRIu64,
		               path, t->name, t->bytes, end - begin);
	t->offset = begin;
	return OK;
}

static enum status read_tensor(struct st_tensor *t, const json_t *o, uint64_t room, const char *path,
                               struct err *err)
{
	size_t length;
	const char *dtype = json_get_text(o, "dtype", &length);
	int code = 0;

	if (!dtype)
		return err_set(err, ERR_FORMAT, "%s: %s: expected an object with a dtype", path, t->name);
	while (code < ST_DTYPE_COUNT && strcmp(dtypes[code].name, dtype))
		code++;
	if (code == ST_DTYPE_COUNT)
		return err_set(err, ERR_FORMAT,
		               "%s: %s: dtype is %.32s, expected F32, F16, BF16, F8_E4M3, F8_E8M0, I64, "
		               "I32, I8, U8 or F64",
		               path, t->name, dtype);
	t->dtype = (enum st_dtype)code;
	TRY(read_shape(t, json_object_get(o, "shape"), path, err));
	return read_offsets(t, json_object_get(o, "data_offsets"), room, path, err);
}

static bool good_name(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] <= ' ' || name[i] == 0x7F)
			return false;
	return n > 0 && n <= MAX_NAME;
}

static enum status add_tensor(struct st_list *list, const char *name, const json_t *o, uint64_t room, int shard,
			      const char *path, struct err *err)
{
	struct st_tensor *t;

	if (!good_name(name))
		return err_set(err, ERR_FORMAT,
		               "%s: a tensor's name is empty, has blanks or more than %d bytes", path,
		               MAX_NAME);
	if (list->n == list->room) {
		size_t more = list->room ? 2 * list->room : 256;

		t = mem_grow(list->t, more, sizeof *t);
		if (!t)
			return err_set(err, ERR_MEMORY, "%s: no memory for %zu tensors", path, more);
		list->t = t;
		list->room = more;
	}
	t = &list->t[list->n];
	memset(t, 0, sizeof *t);
	t->name = mem_str(bare_name(name));
	if (!t->name)
		return err_set(err, ERR_MEMORY, "%s: no memory for a name", path);
	list->n++;
	t->shard = shard;
	return read_tensor(t, o, room, path, err);
}

static int by_offset(const void *pa, const void *pb)
{
	const struct st_tensor *a = pa, *b = pb;

	return a->offset != b->offset ? (a->offset < b->offset ? -1 : 1) : strcmp(a->name, b->name);
}

/* Tensors first..n-1 are those of one shard, with offsets into its data. */
static enum status check_overlap(struct st_list *list, size_t first, const char *path, struct err *err)
{
	if (list->n - first < 2)
		return OK;
	qsort(list->t + first, list->n - first, sizeof *list->t, by_offset);
	for (size_t i = first + 1; i < list->n; i++) {
		const struct st_tensor *a = &list->t[i - 1], *b = &list->t[i];

		if (a->offset + a->bytes > b->offset)
			return err_set(err, ERR_FORMAT, "%s: %s and %s share bytes of the file", path,
			               a->name, b->name);
	}
	return OK;
}

enum status st_parse_header(struct st_list *list, const char *json, size_t n, uint64_t file_bytes, int shard,
			    const char *path, struct err *err)
{
	size_t first = list->n;
	json_t *o = json_file_text(json, n, path, "header: ", err), *v;
	enum status st = OK;
	const char *name;

	if (!o)
		return err->code;
	if (!json_is_object(o)) {
		st = err_set(err, ERR_FORMAT, "%s: header: expected a JSON object", path);
		goto out;
	}
	json_object_foreach(o, name, v) {
		if (!strcmp(name, "__metadata__"))
			continue;
		TRY_TO(out, add_tensor(list, name, v, file_bytes - 8 - n, shard, path, err));
	}
	TRY_TO(out, check_overlap(list, first, path, err));
	for (size_t i = first; i < list->n; i++)
		list->t[i].offset += 8 + n;
out:
	json_decref(o);
	return st;
}

/* ------------------------------------------------------------------ one shard */

static enum status read_at(int fd, uint64_t at, void *dst, size_t n, const char *path, const char *what,
                           struct err *err)
{
	uint8_t *p = dst;

	while (n) {
		ssize_t k = pread(fd, p, n, (off_t)at);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_set(err, ERR_IO, "%s: %s: %s", path, what, strerror(errno));
		if (k == 0)
			return err_set(err, ERR_IO,
			               "%s: %s: the file ended at byte %" PRIu64
			               ", it became shorter while it "
			               "was read",
			               path, what, at);
		p += k;
		at += (uint64_t)k;
		n -= (size_t)k;
	}
	return OK;
}

static enum status open_file(struct st_shard *s, struct err *err)
{
	struct stat sb;

	s->fd = open(s->path, O_RDONLY | O_CLOEXEC);
	if (s->fd < 0)
		return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", s->path, strerror(errno));
	if (fstat(s->fd, &sb) < 0)
		return err_set(err, ERR_IO, "%s: %s", s->path, strerror(errno));
	if (!S_ISREG(sb.st_mode))
		return err_set(err, ERR_IO, "%s: is not a regular file", s->path);
	s->bytes = (uint64_t)sb.st_size;
#ifdef __APPLE__
	s->mtime_ns = (int64_t)sb.st_mtimespec.tv_sec * 1000000000 + sb.st_mtimespec.tv_nsec;
#else
	s->mtime_ns = (int64_t)sb.st_mtim.tv_sec * 1000000000 + sb.st_mtim.tv_nsec;
#endif
	return OK;
}

static enum status open_shard(struct st_shard *s, int number, struct st_list *list, struct err *err)
{
	enum status st;
	uint8_t raw[8];
	char *json;

	TRY(open_file(s, err));
	if (s->bytes < 8)
		return err_set(err, ERR_FORMAT,
		               "%s: has %" PRIu64 " bytes, expected at least the 8 of a header length",
		               s->path, s->bytes);
	TRY(read_at(s->fd, 0, raw, 8, s->path, "header length", err));
	memcpy(&s->header_bytes, raw, 8);
	if (s->header_bytes > s->bytes - 8)
		return err_set(err, ERR_FORMAT,
		               "%s: header length is %" PRIu64 ", but only %" PRIu64
		               " bytes follow: it is cut "
		               "short or no safetensors file",
		               s->path, s->header_bytes, s->bytes - 8);
	if (s->header_bytes > ST_MAX_HEADER)
		return err_set(err, ERR_FORMAT, "%s: header length is %" PRIu64 ", expected at most %u", s->path,
			       s->header_bytes, ST_MAX_HEADER);
	json = mem_alloc((size_t)s->header_bytes + 1);
	if (!json)
		return err_set(err, ERR_MEMORY, "%s: no memory for a header of %" PRIu64 " bytes", s->path,
		               s->header_bytes);
	st = read_at(s->fd, 8, json, (size_t)s->header_bytes, s->path, "header", err);
	if (st == OK) {
		s->header_hash = hash64(json, (size_t)s->header_bytes);
		st = st_parse_header(list, json, (size_t)s->header_bytes, s->bytes, number, s->path, err);
	}
	mem_free(json);
	return st;
}

/* ------------------------------------------------------------------ the whole */

static int by_name(const void *pa, const void *pb)
{
	const struct st_tensor *a = pa, *b = pb;

	return strcmp(a->name, b->name);
}

const struct st_tensor *checkpoint_tensor(const struct checkpoint *c, const char *name)
{
	struct st_tensor key = {.name = (char *)(uintptr_t)name};

	if (!c->n_tensors)
		return NULL;
	return bsearch(&key, c->tensor, c->n_tensors, sizeof key, by_name);
}

/* A shard by file name, added when it is new; -1: no memory. */
static int shard_number(struct checkpoint *c, const char *folder, const char *name)
{
	struct buf path = BUF_CAP(4096);
	struct st_shard *grown;

	buf_printf(&path, "%s%s", folder, name);
	for (size_t i = 0; buf_ok(&path) && i < c->n_shards; i++)
		if (!strcmp(c->shard[i].path, path.data)) {
			buf_clear(&path);
			return (int)i;
		}
	grown = buf_ok(&path) ? mem_grow(c->shard, c->n_shards + 1, sizeof *c->shard) : NULL;
	if (!grown) {
		buf_clear(&path);
		return -1;
	}
	c->shard = grown;
	c->shard[c->n_shards] = (struct st_shard){.path = buf_take(&path), .fd = -1};
	return (int)c->n_shards++;
}

static enum status read_index(struct checkpoint *c, const char *path, json_t **index, struct err *err)
{
	json_t *v, *map;
	const char *name;

	*index = json_file_read(path, MAX_INDEX, err);
	if (!*index)
		return err->code;
	map = json_object_get(*index, "weight_map");
	if (!json_is_object(map) || json_object_size(map) == 0)
		return err_set(err, ERR_FORMAT, "%s: expected an object weight_map with tensor names", path);
	json_object_foreach(map, name, v) {
		const char *file = json_is_text(v) ? json_string_value(v) : NULL;

		if (!file || !*file || strchr(file, '/') || json_string_length(v) != strlen(file))
			return err_set(
				err, ERR_FORMAT,
				"%s: weight_map: %.200s: expected the name of a file in the same folder",
				path, name);
		if (shard_number(c, c->folder, file) < 0)
			return err_set(err, ERR_MEMORY, "%s: no memory for the list of shards", path);
		if (c->n_shards > ST_MAX_SHARDS)
			return err_set(err, ERR_FORMAT, "%s: names more than %d shards", path, ST_MAX_SHARDS);
	}
	return OK;
}

/* Every tensor of the index is in the shard that it names, and the shards hold no other. */
static enum status check_index(const struct checkpoint *c, const json_t *index, const char *path, struct err *err)
{
	json_t *map = json_object_get(index, "weight_map"), *v;
	size_t n = 0;
	const char *name;

	json_object_foreach(map, name, v) {
		const struct st_tensor *t = checkpoint_tensor(c, bare_name(name));
		const char *file = json_string_value(v);

		if (!t)
			return err_set(err, ERR_FORMAT,
			               "%s: %.200s should be in %.200s, which does not have it", path, name,
			               file);
		if (strcmp(c->shard[t->shard].path + strlen(c->folder), file))
			return err_set(err, ERR_FORMAT, "%s: %.120s should be in %.120s, but is in %.120s",
			               path, name, file, c->shard[t->shard].path);
		n++;
	}
	if (n == c->n_tensors)
		return OK;
	for (size_t i = 0; i < c->n_tensors; i++) {
		struct buf full = BUF_CAP(4096);
		bool found;

		buf_printf(&full, "model.%s", c->tensor[i].name);
		found = json_object_get(map, c->tensor[i].name) || json_object_get(map, buf_cstr(&full));
		buf_clear(&full);
		if (!found)
			return err_set(err, ERR_FORMAT, "%s: does not list %s, which is in %s", path,
			               c->tensor[i].name, c->shard[c->tensor[i].shard].path);
	}
	return err_set(err, ERR_FORMAT, "%s: lists %zu tensors, the shards hold %zu", path, n, c->n_tensors);
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n >= k && !strcmp(s + n - k, end);
}

/* The only .safetensors file of a folder, as a shard. */
static enum status single_file(struct checkpoint *c, struct err *err)
{
	DIR *dir = opendir(c->path);
	struct dirent *e;
	int n = 0;

	if (!dir)
		return err_set(err, ERR_IO, "%s: %s", c->path, strerror(errno));
	while ((e = readdir(dir)))
		if (ends_with(e->d_name, SUFFIX) && (n++ || shard_number(c, c->folder, e->d_name) < 0))
			break;
	closedir(dir);
	if (n == 1 && c->n_shards == 1)
		return OK;
	if (n == 1)
		return err_set(err, ERR_MEMORY, "%s: no memory for the list of shards", c->path);
	return err_set(err, n ? ERR_FORMAT : ERR_NOT_FOUND,
	               "%s: expected " INDEX_NAME " or one " SUFFIX " file, found %s", c->path,
	               n ? "several files and no index" : "neither");
}

/* Finds out what path is; fills folder and shards, and *index with its parsed text and name when there is
 * one. */
static enum status find_shards(struct checkpoint *c, json_t **index, char **index_path, struct err *err)
{
	struct buf name = BUF_CAP(4096);
	const char *slash = strrchr(c->path, '/');
	struct stat sb;

	if (stat(c->path, &sb) < 0)
		return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", c->path, strerror(errno));
	if (S_ISDIR(sb.st_mode))
		buf_printf(&name, "%s%s", c->path, ends_with(c->path, "/") ? "" : "/");
	else
		buf_add(&name, c->path, slash ? (size_t)(slash + 1 - c->path) : 0);
	c->folder = mem_strn(buf_cstr(&name), name.len);
	if (S_ISDIR(sb.st_mode))
		buf_str(&name, INDEX_NAME);
	else
		buf_str(&name, slash ? slash + 1 : c->path);
	*index_path = buf_take(&name);
	if (!c->folder || !*index_path)
		return err_set(err, ERR_MEMORY, "%s: no memory for its path", c->path);
	if (S_ISDIR(sb.st_mode) && stat(*index_path, &sb) < 0)
		return single_file(c, err);
	if (ends_with(*index_path, ".json"))
		return read_index(c, *index_path, index, err);
	if (shard_number(c, "", c->path) < 0)
		return err_set(err, ERR_MEMORY, "%s: no memory for the list of shards", c->path);
	return OK;
}

static enum status open_all(struct checkpoint *c, const char *path, struct err *err)
{
	struct st_list list = {0};
	json_t *index = NULL;
	char *index_path = NULL;
	enum status st = OK;

	c->path = mem_str(path);
	if (!c->path)
		return err_set(err, ERR_MEMORY, "%s: no memory for its path", path);
	TRY_TO(out, find_shards(c, &index, &index_path, err));
	for (size_t i = 0; i < c->n_shards; i++)
		TRY_TO(out, open_shard(&c->shard[i], (int)i, &list, err));
	if (list.n)
		qsort(list.t, list.n, sizeof *list.t, by_name);
	for (size_t i = 1; i < list.n; i++)
		if (!strcmp(list.t[i].name, list.t[i - 1].name)) {
			st = err_set(err, ERR_FORMAT, "%s is both in %.200s and in %.200s", list.t[i].name,
				     c->shard[list.t[i - 1].shard].path, c->shard[list.t[i].shard].path);
			goto out;
		}
	c->tensor = list.t;
	c->n_tensors = list.n;
	memset(&list, 0, sizeof list);
	if (index)
		st = check_index(c, index, index_path, err);
out:
	st_list_free(&list);
	json_decref(index);
	mem_free(index_path);
	return st;
}

enum status checkpoint_open(struct checkpoint **out, const char *path, struct err *err)
{
	struct checkpoint *c = mem_zero(sizeof *c);
	enum status st;

	*out = NULL;
	if (!c)
		return err_set(err, ERR_MEMORY, "%s: no memory to open it", path);
	st = open_all(c, path, err);
	if (st == OK)
		*out = c;
	else
		checkpoint_close(c);
	return st;
}

void checkpoint_close(struct checkpoint *c)
{
	struct st_list list;

	if (!c)
		return;
	list = (struct st_list){.t = c->tensor, .n = c->n_tensors};
	st_list_free(&list);
	for (size_t i = 0; i < c->n_shards; i++) {
		if (c->shard[i].fd >= 0)
			close(c->shard[i].fd);
		mem_free(c->shard[i].path);
	}
	mem_free(c->shard);
	mem_free(c->path);
	mem_free(c->folder);
	mem_free(c);
}

enum status checkpoint_read(const struct checkpoint *c, const struct st_tensor *t, uint64_t at, void *dst,
                            size_t n, struct err *err)
{
	return read_at(c->shard[t->shard].fd, t->offset + at, dst, n, c->shard[t->shard].path, t->name, err);
}
