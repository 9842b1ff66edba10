/* replay_look.c - what a client can see of an answer, as hashes: two looks are equal when nothing was changed.
 *
 * Why   A client's JSON differs from ours in spelling only, so what is compared is the value: a canonical form of the
 *       arguments is hashed, never their text.  Hashes instead of texts keep a turn as small as its ids.
 * How   content:   XXH3-128 of the text without white space at its ends
 *       call:      of its name and the canonical form of its arguments
 *       place:     of what is before and of the look;  before: the same chain over all messages
 * Careful
 *       - A number has one canonical form: JavaScript writes 1.0 as 1, 1e2 as 100 and -0.0 as 0.
 *       - Arguments that are no JSON (a call that was cut off) are compared as bytes; none at all are {}.
 *       - XXH3 is no defence against somebody who makes collisions: he would get his own conversation's ids for
 *         another text of his own. */
#include <string.h>

#include "base/mem.h"
#include "chat/replay_int.h"

static void put(struct buf *b, char kind, const void *p, size_t n)
{
	uint64_t size = n;

	buf_byte(b, kind);
	buf_add(b, &size, sizeof size);
	buf_add(b, p, n);
}

/* ------------------------------------------------------------------ canonical JSON */

static void canon(struct buf *b, const json_t *v);

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void canon_object(struct buf *b, const json_t *o)
{
	size_t n = json_object_size(o), i = 0;
	const char **name = mem_array(n, sizeof *name);
	const char *key;
	json_t *value;

	if (!name) {
		b->failed = true;
		return;
	}
	json_object_foreach((json_t *)(uintptr_t)o, key, value) {
		(void)value;
		name[i++] = key;
	}
	qsort(name, n, sizeof *name, by_name);
	put(b, 'o', &n, sizeof n);
	for (i = 0; i < n; i++) {
		put(b, 'k', name[i], strlen(name[i]));
		canon(b, json_object_get(o, name[i]));
	}
	mem_free(name);
}

static void canon_integer(struct buf *b, int64_t v)
{
	put(b, 'i', &v, sizeof v);
}

static void canon_real(struct buf *b, double v)
{
	if (v >= -0x1p63 && v < 0x1p63 && (double)(int64_t)v == v)
		canon_integer(b, (int64_t)v);
	else
		put(b, 'r', &v, sizeof v);
}

static void canon(struct buf *b, const json_t *v)
{
	size_t n = json_array_size(v);

	switch (json_typeof(v)) {
	case JSON_OBJECT:
		canon_object(b, v);
		break;
	case JSON_ARRAY:
		put(b, 'a', &n, sizeof n);
		for (size_t i = 0; i < n; i++)
			canon(b, json_array_get(v, i));
		break;
	case JSON_INTEGER:
		canon_integer(b, json_integer_value(v));
		break;
	case JSON_REAL:
		canon_real(b, json_real_value(v));
		break;
	case JSON_STRING:	/* a tagged number cannot be mistaken for a text: no UTF-8 begins with its tag */
		put(b, 's', json_string_value(v), json_string_length(v));
		break;
	default:
		buf_byte(b, json_is_true(v) ? 't' : json_is_false(v) ? 'f' : 'n');
	}
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Narrows text [*n] to what is between white space. */
static const char *trim(const char *text, size_t *n)
{
	while (*n && is_space(text[*n - 1]))
		--*n;
	while (*n && is_space(*text)) {
		text++;
		--*n;
	}
	return text;
}

static bool hash_call(struct hash128 *out, const char *name, size_t n_name, const char *arguments, size_t n)
{
	struct buf b = BUF_CAP(BUF_MAX);
	struct err err = {.code = OK};
	const char *text = trim(arguments ? arguments : "", &n);
	json_t *v = json_parse(n ? text : "{}", n ? n : 2, &err);
	bool ok;

	put(&b, 'c', name ? name : "", n_name);
	if (v)
		canon(&b, v);
	else
		put(&b, 'x', text, n);
	ok = buf_ok(&b) && (v || err.code != ERR_MEMORY);
	*out = hash128(buf_cstr(&b), b.len);
	json_decref(v);
	buf_clear(&b);
	return ok;
}

/* ------------------------------------------------------------------ looks */

static struct hash128 hash_content(const char *text, size_t n)
{
	text = trim(text ? text : "", &n);
	return hash128(text, n);
}

static bool begin(struct look *l, size_t n_calls)
{
	*l = (struct look){.n_calls = n_calls, .call = n_calls ? mem_array(n_calls, sizeof *l->call) : NULL};
	return !n_calls || l->call;
}

bool look_message(struct look *l, const struct message *m)
{
	bool ok = begin(l, m->n_calls);

	l->content = hash_content(m->content.p, m->content.n);
	for (size_t i = 0; ok && i < m->n_calls; i++)
		ok = hash_call(&l->call[i], m->calls[i].name.p, m->calls[i].name.n, m->calls[i].arguments.p,
			       m->calls[i].arguments.n);
	if (!ok)
		look_clear(l);
	return ok;
}

bool look_answer(struct look *l, const struct message *first, const struct answer *a)
{
	struct buf joined = BUF_CAP(BUF_MAX);
	bool ok = begin(l, a->n_calls);

	if (first && first->content.n)
		buf_add(&joined, first->content.p, first->content.n);
	buf_add(&joined, buf_cstr(&a->content), a->content.len);
	l->content = hash_content(buf_cstr(&joined), joined.len);
	ok = ok && buf_ok(&joined);
	buf_clear(&joined);
	for (size_t i = 0; ok && i < a->n_calls; i++)
		ok = hash_call(&l->call[i], a->calls[i].name.data, a->calls[i].name.len, a->calls[i].arguments.data,
			       a->calls[i].arguments.len);
	if (!ok)
		look_clear(l);
	return ok;
}

void look_clear(struct look *l)
{
	mem_free(l->call);
	l->call = NULL;
	l->n_calls = 0;
}

/* ------------------------------------------------------------------ the chain */

static struct hash128 chain(char kind, struct hash128 before, struct hash128 what)
{
	struct {
		struct hash128 before, what;
		uint64_t kind;
	} link = {before, what, (uint64_t)(unsigned char)kind};

	return hash128(&link, sizeof link);
}

static struct hash128 hash_look(const struct look *l)
{
	struct hash128 h = l->content;

	for (size_t i = 0; i < l->n_calls; i++)
		h = chain('c', h, l->call[i]);
	return h;
}

struct hash128 look_place(struct hash128 before, const struct look *l)
{
	return chain('p', before, hash_look(l));
}

struct hash128 look_step(struct hash128 before, const struct message *m, const struct look *l)
{
	if (m->role == ROLE_ASSISTANT)
		return chain('a', before, hash_look(l));
	return chain((char)('0' + m->role), before, hash128(m->content.n ? m->content.p : "", m->content.n));
}

struct hash128 key_of_text(char kind, const char *text, size_t n)
{
	return chain(kind, (struct hash128){0, 0}, hash128(text, n));
}
