/* stub.c - scripted answers; see stub.h.
 *
 * How   A line's message becomes the last one of a conversation that the model knows up to there, unfinished: what the
 *       renderer writes for it is what a model would have generated. */
#define _GNU_SOURCE	/* memmem */
#include "server/stub.h"

#include <pthread.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

struct stub {
	pthread_mutex_t lock;
	char *path;
	json_t *records;		/* array of objects */
	bool *used;			/* [records] */
};

static enum status read_records(struct stub *s, const struct buf *text, struct err *err)
{
	const char *p = text->data, *end = p + text->len;
	int line = 0;

	for (; p < end; p++) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));
		json_t *record;

		stop = stop ? stop : end;
		line++;
		if (stop > p && *p != '#' && *p != '\r') {
			record = json_parse(p, (size_t)(stop - p), err);
			if (!record)
				return err_prefix(err, "%s, line %d", s->path, line);
			if (!json_is_object(record)) {
				json_decref(record);
				return err_set(err, ERR_FORMAT, "%s, line %d: expected an object", s->path, line);
			}
			json_array_append_new(s->records, record);
		}
		p = stop;
	}
	return json_array_size(s->records) ? OK : err_set(err, ERR_FORMAT, "%s: there is no answer in it", s->path);
}

enum status stub_open(struct stub **out, const char *path, struct err *err)
{
	struct stub *s = mem_zero(sizeof *s);
	struct buf text = BUF_CAP((size_t)64 << 20);
	enum status st;

	*out = NULL;
	if (!s)
		return err_set(err, ERR_MEMORY, "%s: no memory", path);
	pthread_mutex_init(&s->lock, NULL);
	s->path = mem_str(path);
	s->records = json_array();
	st = s->path && s->records ? file_read(&text, path, err) : err_set(err, ERR_MEMORY, "%s: no memory", path);
	if (st == OK)
		st = read_records(s, &text, err);
	if (st == OK) {
		s->used = mem_array(json_array_size(s->records), sizeof *s->used);
		if (!s->used)
			st = err_set(err, ERR_MEMORY, "%s: no memory", path);
	}
	buf_clear(&text);
	if (st != OK) {
		stub_close(s);
		return st;
	}
	*out = s;
	return OK;
}

void stub_close(struct stub *s)
{
	if (!s)
		return;
	json_decref(s->records);
	mem_free(s->used);
	mem_free(s->path);
	pthread_mutex_destroy(&s->lock);
	mem_free(s);
}

static bool fits(const json_t *record, const struct api_request *q, const char *text, size_t n)
{
	const json_t *tools = json_object_get(record, "tools");
	size_t n_part = 0;
	const char *part = json_get_text(record, "if", &n_part);

	if (json_is_boolean(tools) && json_is_true(tools) != (q->n_tool > 0))
		return false;
	return !part || memmem(text, n, part, n_part) != NULL;
}

/* The next record for this request; NULL when none fits. */
static const json_t *choose(struct stub *s, const struct api_request *q, const char *text, size_t n)
{
	const json_t *found = NULL, *again = NULL;
	size_t i, all = json_array_size(s->records);

	pthread_mutex_lock(&s->lock);
	for (i = 0; i < all && !found; i++) {
		const json_t *record = json_array_get(s->records, i);

		if (!fits(record, q, text, n))
			continue;
		again = again ? again : record;
		if (!s->used[i])
			found = record;
	}
	if (found)
		s->used[i - 1] = true;
	for (i = 0; i < all && !found && again; i++)
		if (fits(json_array_get(s->records, i), q, text, n))
			s->used[i] = json_array_get(s->records, i) == again;
	pthread_mutex_unlock(&s->lock);
	return found ? found : again;
}

static void drop_own_fields(json_t *message)
{
	static const char *const own[] = {"tools", "if", "busy", "overflow", "cut"};

	for (size_t i = 0; i < sizeof own / sizeof *own; i++)
		json_object_del(message, own[i]);
}

static enum status render(const json_t *record, const struct tokenizer *t, enum thinking thinking, struct token_list *out,
			  struct err *err)
{
	struct render_options o = {.thinking = thinking, .keep_reasoning = true};
	struct conversation *c = conversation_new();
	json_t *message = json_copy((json_t *)record), *list = json_array();
	enum status st;

	drop_own_fields(message);
	json_object_set_new(message, "role", json_string("assistant"));
	json_array_append_new(list, message);
	if (c)
		conversation_add(c, ROLE_USER, "", 0);
	st = c && list ? conversation_add_json(c, list, err) : err_set(err, ERR_MEMORY, "no memory for a scripted answer");
	if (st == OK) {
		c->n_context = 1;
		c->messages[1].unfinished = true;
		st = chat_render_ids(c, &o, t, out, err);
	}
	conversation_free(c);
	json_decref(list);
	return st;
}

enum status stub_next(struct stub *s, const struct tokenizer *t, const struct api_request *q, const char *text, size_t n,
		      struct stub_answer *out, struct err *err)
{
	const json_t *record = choose(s, q, text, n);
	size_t n_raw = 0;
	const char *raw = record ? json_get_text(record, "raw", &n_raw) : NULL;

	if (!record)
		return err_set(err, ERR_NOT_FOUND, "%s: no scripted answer fits this request", s->path);
	out->busy = json_is_true(json_object_get(record, "busy"));
	out->overflow = json_is_true(json_object_get(record, "overflow"));
	out->cut = (int)json_integer_value(json_object_get(record, "cut"));
	if (!raw)
		return render(record, t, q->turn.thinking, &out->ids, err);
	token_encode_control(t, raw, n_raw, &out->ids);
	return out->ids.failed ? err_set(err, ERR_MEMORY, "no memory for a scripted answer") : OK;
}
