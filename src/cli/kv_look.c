/* kv_look.c - what the folder of the disk tier says about conversations: chains of entries, and the texts in them.
 *
 * How   An entry without children ends a conversation; its chain is walked through `before`.  Blocks of several conversations
 *       are counted with each of them, and as nobody's own.
 * Careful
 *       - A text means something only in the vocabulary of the model that read it.  Which model that was is told by the
 *         fingerprint alone: the ones that the model at hand would have, on each backend, are computed and compared. */
#include "cli/kv.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "engine/engine.h"

/* ------------------------------------------------------------------ vocabulary */

static enum status add_fingerprint(struct kv_words *w, const struct shape *s, const char *backend, struct err *err)
{
	struct be_options o = {.threads = 1, .numerics = BE_NUMERICS_MODEL};
	struct engine e = {.gguf = w->gguf};

	TRY(be_open(&e.be, backend, &o, err));
	kv_layout_make(&e.layout, s, e.be);
	w->fingerprint[w->n++] = engine_fingerprint(&e);
	be_close(e.be);
	return OK;
}

enum status kv_words_open(struct kv_words *w, const char *path, struct err *err)
{
	static const char *const backends[] = {"cpu", "ref", "cuda"};
	struct shape s;
	enum status st;

	*w = (struct kv_words){.n = 0};
	if (!path)
		return OK;
	TRY(gguf_open(&w->gguf, path, err));
	TRY_TO(fail, tokenizer_open(&w->tokenizer, w->gguf, err));
	if (shape_read(&s, w->gguf, NULL) != OK)
		return OK;	/* a file with a vocabulary alone: nothing can be its model's */
	for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
		add_fingerprint(w, &s, backends[i], NULL);	/* one that is not here is left out */
	return OK;
fail:
	kv_words_clear(w);
	return st;
}

void kv_words_clear(struct kv_words *w)
{
	tokenizer_close(w->tokenizer);
	gguf_close(w->gguf);
	*w = (struct kv_words){.n = 0};
}

static bool same_key(struct tree_key a, struct tree_key b)
{
	return a.low == b.low && a.high == b.high;
}

bool kv_words_fit(const struct kv_words *w, struct tree_key fingerprint)
{
	for (int i = 0; i < w->n; i++)
		if (same_key(w->fingerprint[i], fingerprint))
			return true;
	return false;
}

/* ------------------------------------------------------------------ chains */

enum status kv_tokens(struct kvstore *ks, const struct kvstore_entry *last, int32_t **out, int32_t *n, struct err *err)
{
	struct kvstore_entry e = *last;
	int32_t from = last->end;

	*n = 0;
	*out = mem_array((size_t)last->end, sizeof **out);
	if (!*out)
		return err_set(err, ERR_MEMORY, "no memory for %d tokens", (int)last->end);
	for (;;) {
		from -= GEOM_BLOCK;
		memcpy(*out + from, e.token, sizeof e.token);
		if (from == 0 || !kvstore_get(ks, e.before, &e) || e.end != from)
			break;
	}
	*n = last->end - from;
	memmove(*out, *out + from, (size_t)*n * sizeof **out);
	return OK;
}

enum status kv_checks(struct kvstore *ks, const struct kvstore_entry *last, int32_t **out, int32_t *n, struct err *err)
{
	struct kvstore_entry e = *last;
	int32_t blocks = last->end / GEOM_BLOCK, at = blocks;

	*n = 0;
	*out = mem_array((size_t)blocks, sizeof **out);
	if (!*out)
		return err_set(err, ERR_MEMORY, "no memory for %d positions", (int)blocks);
	do {
		if (e.check_bytes)
			(*out)[--at] = e.end;
	} while (e.end > GEOM_BLOCK && kvstore_get(ks, e.before, &e));
	*n = blocks - at;
	memmove(*out, *out + at, (size_t)*n * sizeof **out);
	return OK;
}

/* The first line of the first user's text, or of what stands there instead. */
static void make_title(struct kv_talk *talk, const struct kv_words *w, const int32_t *token, int32_t n)
{
	const struct tokenizer *t = w->tokenizer;
	struct buf text = BUF_CAP(4096);
	int32_t i = 0;
	size_t k = 0, size;

	while (i < n && token[i] != tokenizer_special(t, SPECIAL_USER))
		i++;
	for (i = i < n ? i + 1 : 0; i < n && text.len < KV_TITLE * 2; i++) {
		const char *bytes = token[i] >= 0 && token[i] < tokenizer_size(t) ? token_bytes(t, token[i], &size) : NULL;

		if (bytes && tokenizer_is_added(t, token[i]) && text.len)
			break;
		if (bytes && !tokenizer_is_added(t, token[i]))
			buf_add(&text, bytes, size);
	}
	while (k < text.len && strchr(" \n\r\t", text.data[k]))
		k++;
	for (i = 0; k < text.len && i < KV_TITLE - 1 && text.data[k] != '\n'; k++)
		talk->title[i++] = (unsigned char)text.data[k] < 32 || text.data[k] == 127 ? ' ' : text.data[k];
	talk->title[utf8_whole(talk->title, (size_t)i)] = 0;
	buf_clear(&text);
}

/* Fills in what the chain tells. */
static enum status walk(struct kvstore *ks, struct kv_talk *talk, const struct kv_words *w, struct err *err)
{
	struct kvstore_entry e = talk->last;
	int32_t *token, n;
	bool own = true;

	for (;;) {
		own = own && e.children <= 1;
		talk->bytes += e.bytes + e.check_bytes;
		talk->own_bytes += own ? e.bytes + e.check_bytes : 0;
		talk->hits += e.hits;
		talk->checks += e.check_bytes > 0;
		if (e.end <= GEOM_BLOCK || !kvstore_get(ks, e.before, &e))
			break;
	}
	talk->fits = kv_words_fit(w, talk->last.fingerprint);
	if (!talk->fits || !w->tokenizer)
		return OK;
	TRY(kv_tokens(ks, &talk->last, &token, &n, err));
	if (n == talk->last.end)
		make_title(talk, w, token, n);
	mem_free(token);
	return OK;
}

struct collector {
	struct kv_talk *list;
	int n;
	size_t room;
	bool failed;
};

static bool collect(void *ctx, const struct kvstore_entry *e)
{
	struct collector *c = ctx;

	if (e->children)
		return true;
	if ((size_t)c->n == c->room) {
		size_t room = c->room ? c->room * 2 : 32;
		struct kv_talk *grown = mem_grow(c->list, room, sizeof *grown);

		if (!grown) {
			c->failed = true;
			return false;
		}
		c->list = grown;
		c->room = room;
	}
	c->list[c->n++] = (struct kv_talk){.last = *e};
	return true;
}

static int last_used_first(const void *pa, const void *pb)
{
	const struct kv_talk *a = pa, *b = pb;

	if (a->last.used != b->last.used)
		return a->last.used > b->last.used ? -1 : 1;
	if (a->last.end != b->last.end)
		return a->last.end > b->last.end ? -1 : 1;
	return a->last.key.high < b->last.key.high ? -1 : a->last.key.high > b->last.key.high;
}

enum status kv_talks(struct kvstore *ks, const struct kv_words *w, struct kv_talk **out, int *n, struct err *err)
{
	struct collector c = {.n = 0};
	enum status st = OK;

	*out = NULL;
	*n = 0;
	kvstore_each(ks, collect, &c);
	if (c.failed)
		st = err_set(err, ERR_MEMORY, "no memory for a list of conversations");
	for (int i = 0; i < c.n && st == OK; i++)
		st = walk(ks, &c.list[i], w, err);
	if (st != OK) {
		mem_free(c.list);
		return st;
	}
	if (c.n)
		qsort(c.list, (size_t)c.n, sizeof *c.list, last_used_first);
	*out = c.list;
	*n = c.n;
	return OK;
}
