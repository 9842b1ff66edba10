/* texts.c - see texts.h.
 *
 * Careful
 *       - Every window begins with BOS, the later ones of a long document too: a model that never saw a start
 *         without it would be measured on a situation that does not occur.
 *       - Windows of one token predict nothing and are left out. */
#include "cli/texts.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "chat/jsonl.h"

void texts_clear(struct text_set *s)
{
	token_list_clear(&s->ids);
	mem_free(s->end);
	memset(s, 0, sizeof *s);
}

static bool add_window(struct text_set *s, int32_t bos, const int32_t *id, size_t n)
{
	size_t room = s->room ? 2 * s->room : 64, *grown;

	if (s->n == s->room) {
		grown = mem_grow(s->end, room, sizeof *grown);
		if (!grown)
			return false;
		s->end = grown;
		s->room = room;
	}
	if (id[0] != bos)
		token_push(&s->ids, bos);
	token_append(&s->ids, id, n);
	s->end[s->n++] = s->ids.n;
	return !s->ids.failed;
}

static enum status add_document(struct text_set *s, const struct tokenizer *t, const struct text_options *o,
				const struct token_list *doc, const char *path, struct err *err)
{
	int32_t bos = tokenizer_special(t, SPECIAL_BOS);
	bool ok = !doc->failed;

	for (size_t i = 0, n; ok && i < doc->n; i += n) {
		size_t most = (size_t)o->window - (doc->id[i] != bos);

		n = doc->n - i < most ? doc->n - i : most;
		if (n + (doc->id[i] != bos) > 1)
			ok = add_window(s, bos, doc->id + i, n);
	}
	return ok ? OK : err_set(err, ERR_MEMORY, "%s: no memory for its tokens", path);
}

bool texts_json_ids(struct token_list *list, const void *json_array, int32_t vocab)
{
	const json_t *a = json_array;

	if (!json_is_array(a))
		return false;
	for (size_t i = 0; i < json_array_size(a); i++) {
		const json_t *v = json_array_get(a, i);

		if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab)
			return false;
		token_push(list, (int32_t)json_integer_value(v));
	}
	return !list->failed;
}

/* The ids of one line of a chat file. */
static enum status line_ids(struct token_list *out, const struct tokenizer *t, const char *line, size_t n,
			    struct err *err)
{
	struct buf rendered = BUF_CAP(BUF_MAX);
	json_t *v = json_parse(line, n, err);
	enum status st = OK;

	if (!v)
		return ERR_FORMAT;
	if (json_is_text(v)) {
		token_encode_control(t, json_string_value(v), json_string_length(v), out);
		goto out;
	}
	if (!json_object_get(v, "ids")) {
		TRY_TO(out, chat_render_json(t, line, n, &rendered, err));
		json_decref(v);
		v = json_parse(buf_cstr(&rendered), rendered.len, err);
	}
	if (!v || !texts_json_ids(out, json_object_get(v, "ids"), tokenizer_size(t)))
		st = err_set(err, ERR_FORMAT, "ids: expected whole numbers from 0 to %d",
			     (int)tokenizer_size(t) - 1);
out:
	json_decref(v);
	buf_clear(&rendered);
	return st;
}

static enum status add_lines(struct text_set *s, const struct tokenizer *t, const struct text_options *o,
			     const char *path, const struct buf *text, struct err *err)
{
	const char *p = buf_cstr(text), *end = p + text->len;

	for (int line = 1; p < end; line++) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((stop ? stop : end) - p);
		struct token_list doc = {0};
		enum status st = OK;

		if (n > strspn(p, " \t\r\n")) {
			if (line_ids(&doc, t, p, n, err) != OK) {
				token_list_clear(&doc);
				return err_prefix(err, "%s: line %d", path, line);
			}
			st = add_document(s, t, o, &doc, path, err);
		}
		token_list_clear(&doc);
		TRY(st);
		p += n + 1;
	}
	return OK;
}

static enum status add_file(struct text_set *s, const struct tokenizer *t, const struct text_options *o,
			    const char *path, struct err *err)
{
	struct buf text = BUF_CAP((size_t)1 << 30);
	struct token_list doc = {0};
	enum status st;

	TRY_TO(out, file_read(&text, path, err));
	if (o->chat) {
		st = add_lines(s, t, o, path, &text, err);
		goto out;
	}
	if (o->control)
		token_encode_control(t, buf_cstr(&text), text.len, &doc);
	else
		token_encode_text(t, buf_cstr(&text), text.len, &doc);
	st = add_document(s, t, o, &doc, path, err);
out:
	token_list_clear(&doc);
	buf_clear(&text);
	return st;
}

enum status texts_read(struct text_set *out, const struct tokenizer *t, const struct text_options *o, struct err *err)
{
	enum status st = OK;

	memset(out, 0, sizeof *out);
	for (int i = 0; st == OK && i < o->n_files; i++)
		st = add_file(out, t, o, o->file[i], err);
	if (st == OK && !out->n)
		st = err_set(err, ERR_ARGUMENT, "%s: expected at least 2 tokens, found none", o->file[0]);
	if (st != OK)
		texts_clear(out);
	return st;
}

void texts_names(char *out, size_t room, const struct text_options *o)
{
	size_t n = 0;

	out[0] = 0;
	for (int i = 0; i < o->n_files && n < room; i++) {
		const char *slash = strrchr(o->file[i], '/');

		n += (size_t)snprintf(out + n, room - n, "%s%s", i ? "," : "", slash ? slash + 1 : o->file[i]);
	}
}
