/* tokenizer.c - the vocabulary put together, and the two ways from text to ids.
 *
 * What  tokenizer_open() reads strings and merges, tells pieces from added tokens and finds the special ones.
 *       token_encode_text() cuts text into pieces and merges each; token_encode_control() first looks for
 *       added tokens in it.
 * Why   Two functions, because "is this text allowed to contain control tokens" is a question every
 *       caller has to answer: what a user or a tool wrote must not be able to end its own turn.
 * How   Added tokens are those that are neither a single byte nor made by a merge: no vocabulary of the family
 *       needs its ids known here.  They are kept sorted, so finding the longest one at a place is a
 *       range of the sorted list that narrows byte by byte.
 *       Most pieces are one whole token.  Whether a token's bytes merge to that token is found out
 *       when it is first met and remembered in one byte per token; threads may find out twice, with the same
 *       answer.
 * Careful
 *       - Text beside a recognised token is split as a text of its own: its end is an end of text.
 *       - token_type is not relied on, except that 5 (unused, "[PAD7]") never matches text.
 *       - A piece with ill-formed UTF-8 is rewritten before merging, not the whole text before splitting:
 *         replacement never moves the end of a piece.
 * Source: docs/tokenizer.md. */
#include "tokenizer/tokenizer.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "tokenizer/bpe_int.h"
#include "tokenizer/pretok.h"
#include "tokenizer/vocab_int.h"

#define TYPE_UNUSED 5		/* in tokenizer.ggml.token_type */

enum whole { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };	/* do the token's bytes merge to the token? */

struct added {
	const char *p;		/* into the vocabulary's arena */
	size_t n;
	int32_t id;
};

struct tokenizer {
	struct vocab vocab;
	struct bpe bpe;
	_Atomic uint8_t *whole;		/* [V] enum whole */
	struct added *added;		/* sorted by bytes */
	size_t n_added;
	bool starts_added[256];		/* does an added token begin with this byte? */
	int32_t special[SPECIAL_COUNT];
};

static const char *const special_texts[SPECIAL_COUNT] = {
#define X(code, text, required) [code] = text,
	SPECIAL_MAP(X)
#undef X
};

static const bool special_required[SPECIAL_COUNT] = {
#define X(code, text, required) [code] = required,
	SPECIAL_MAP(X)
#undef X
};

void token_append(struct token_list *l, const int32_t *id, size_t n)
{
	if (l->failed)
		return;
	if (n > l->room - l->n) {
		size_t room = l->room > SIZE_MAX / 2 ? SIZE_MAX : l->room * 2;
		int32_t *p;

		if (n > SIZE_MAX - l->n)
			room = SIZE_MAX;	/* fails below */
		else if (room < l->n + n)
			room = l->n + n;
		p = mem_grow(l->id, room < 32 ? 32 : room, sizeof *l->id);
		if (!p) {
			l->failed = true;
			return;
		}
		l->id = p;
		l->room = room < 32 ? 32 : room;
	}
	if (n)
		memcpy(l->id + l->n, id, n * sizeof *id);
	l->n += n;
}

void token_push(struct token_list *l, int32_t id)
{
	token_append(l, &id, 1);
}

void token_list_clear(struct token_list *l)
{
	mem_free(l->id);
	*l = (struct token_list){0};
}

/* The model and splitter keys: byte-level BPE with the rules of pretok.c and nothing else. */
static enum status check_kind(const struct gguf *g, struct err *err)
{
	static const char *const splitters[] = {"joyai-llm", "deepseek-v3"};	/* two names of the same rules */
	char shown[VOCAB_SHOWN];
	struct gguf_string s;

	if (gguf_find(g, "tokenizer.ggml.model")) {
		TRY(gguf_str(g, "tokenizer.ggml.model", &s, err));
		if (s.n != 4 || memcmp(s.p, "gpt2", 4))
			return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.model: expected \"gpt2\", file has \"%s\"",
				       g->path, vocab_show(s.p, s.n, shown));
	}
	TRY(gguf_str(g, "tokenizer.ggml.pre", &s, err));
	for (size_t i = 0; i < sizeof splitters / sizeof *splitters; i++)
		if (s.n == strlen(splitters[i]) && !memcmp(s.p, splitters[i], s.n))
			return OK;
	return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.pre: expected \"joyai-llm\" or \"deepseek-v3\", file has "
		       "\"%s\"", g->path, vocab_show(s.p, s.n, shown));
}

/* The optional array of token types: one integer for each token.  *out is NULL without it. */
static enum status find_types(const struct gguf *g, int32_t size, const struct gguf_kv **out, struct err *err)
{
	const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.token_type");

	*out = kv;
	if (!kv)
		return OK;
	if (kv->type != GGUF_ARRAY || kv->element == GGUF_STRING || kv->element == GGUF_F32 ||
	    kv->element == GGUF_F64 || kv->element == GGUF_BOOL || kv->element == GGUF_ARRAY)
		return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.token_type: expected an array of integers, file has "
			       "%s%s", g->path, kv->type == GGUF_ARRAY ? "an array of " : "",
			       gguf_type_name(kv->type == GGUF_ARRAY ? kv->element : kv->type));
	if (kv->count != (uint64_t)size)
		return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.token_type: expected %d entries, one for each token, "
			       "file has %llu", g->path, size, (unsigned long long)kv->count);
	return OK;
}

static int compare_bytes(const char *a, size_t na, const char *b, size_t nb)
{
	int c = memcmp(a, b, na < nb ? na : nb);

	return c ? c : (na > nb) - (na < nb);
}

static int compare_added(const void *a, const void *b)
{
	const struct added *x = a, *y = b;

	return compare_bytes(x->p, x->n, y->p, y->n);
}

static bool is_utf8(const char *p, size_t n)
{
	uint32_t cp;
	int valid = 1;

	for (size_t i = 0; i < n && valid;)
		i += utf8_decode(p + i, n - i, &cp, &valid);
	return valid;
}

/* Builds the sorted list of added tokens.  They are whole characters: a match in text can then neither begin
 * nor end inside one. */
static enum status list_added(struct tokenizer *t, const struct gguf *g, struct err *err)
{
	const struct vocab *v = &t->vocab;
	const struct gguf_kv *types;
	char shown[VOCAB_SHOWN];

	TRY(find_types(g, v->size, &types, err));
	for (int32_t id = 0; id < v->size; id++)
		t->n_added += v->added[id];
	t->added = mem_array(t->n_added, sizeof *t->added);
	if (!t->added)
		return err_set(err, ERR_MEMORY, "%s: no memory for %zu added tokens", g->path, t->n_added);
	t->n_added = 0;
	for (int32_t id = 0; id < v->size; id++) {
		const char *p = v->arena + v->token[id].at;

		if (!v->added[id] || (types && gguf_integer(types, (uint64_t)id) == TYPE_UNUSED))
			continue;
		if (!is_utf8(p, v->token[id].n))
			return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.tokens[%d]: expected UTF-8, \"%s\" is not",
				       g->path, id, vocab_show(p, v->token[id].n, shown));
		t->added[t->n_added++] = (struct added){p, v->token[id].n, id};
		t->starts_added[(unsigned char)*p] = true;
	}
	qsort(t->added, t->n_added, sizeof *t->added, compare_added);
	for (size_t i = 1; i < t->n_added; i++)
		if (!compare_added(&t->added[i - 1], &t->added[i]))
			return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.tokens[%d]: expected a new string, \"%s\" is "
				       "token %d already", g->path, t->added[i].id,
				       vocab_show(t->added[i].p, t->added[i].n, shown), t->added[i - 1].id);
	return OK;
}

/* First entry of added[lo..hi) whose byte at depth is at least c; all of them share the bytes before depth. */
static size_t lower_bound(const struct added *a, size_t lo, size_t hi, size_t depth, unsigned c)
{
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (a[mid].n > depth && (unsigned char)a[mid].p[depth] >= c)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* The longest added token that p[0..n) begins with, or NULL. */
static const struct added *match_added(const struct tokenizer *t, const char *p, size_t n)
{
	const struct added *best = NULL;
	size_t lo = 0, hi = t->n_added;

	for (size_t depth = 0; depth < n && lo < hi; depth++) {
		unsigned c = (unsigned char)p[depth];

		lo = lower_bound(t->added, lo, hi, depth, c);
		hi = lower_bound(t->added, lo, hi, depth, c + 1);
		if (lo < hi && t->added[lo].n == depth + 1)
			best = &t->added[lo];
	}
	return best;
}

static enum status find_specials(struct tokenizer *t, const struct gguf *g, struct err *err)
{
	for (int s = 0; s < SPECIAL_COUNT; s++) {
		size_t n = strlen(special_texts[s]);
		const struct added *a = match_added(t, special_texts[s], n);

		t->special[s] = a && a->n == n ? a->id : -1;
		if (t->special[s] < 0 && special_required[s])
			return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.tokens: expected the control token \"%s\", "
				       "file has none", g->path, special_texts[s]);
	}
	return OK;
}

enum status tokenizer_open(struct tokenizer **out, const struct gguf *g, struct err *err)
{
	struct tokenizer *t = mem_zero(sizeof *t);
	enum status st = OK;

	*out = NULL;
	if (!t)
		return err_set(err, ERR_MEMORY, "%s: no memory for the tokenizer", g->path);
	TRY_TO(out, check_kind(g, err));
	TRY_TO(out, vocab_init(&t->vocab, g, err));
	TRY_TO(out, bpe_init(&t->bpe, &t->vocab, g, err));
	vocab_restore_added(&t->vocab, g);
	TRY_TO(out, list_added(t, g, err));
	TRY_TO(out, find_specials(t, g, err));
	t->whole = mem_array((size_t)t->vocab.size, sizeof *t->whole);
	if (!t->whole)
		TRY_TO(out, err_set(err, ERR_MEMORY, "%s: no memory for %d tokens", g->path, t->vocab.size));
	*out = t;
	t = NULL;
out:
	tokenizer_close(t);
	return st;
}

void tokenizer_close(struct tokenizer *t)
{
	if (!t)
		return;
	vocab_clear(&t->vocab);
	bpe_clear(&t->bpe);
	mem_free(t->whole);
	mem_free(t->added);
	mem_free(t);
}

int32_t tokenizer_size(const struct tokenizer *t)
{
	return t->vocab.size;
}

int32_t tokenizer_special(const struct tokenizer *t, enum special s)
{
	return t->special[s];
}

const char *special_text(enum special s)
{
	return special_texts[s];
}

bool tokenizer_is_added(const struct tokenizer *t, int32_t id)
{
	return t->vocab.added[id];
}

const char *token_bytes(const struct tokenizer *t, int32_t id, size_t *n)
{
	*n = t->vocab.token[id].n;
	return t->vocab.arena + t->vocab.token[id].at;
}

/* One piece of well-formed text.  An added token's text may be found, but its bytes never merge to it. */
static void encode_piece(const struct tokenizer *t, const char *p, size_t n, struct token_list *out)
{
	const struct vocab *v = &t->vocab;
	int32_t id = n <= v->longest ? vocab_find(v, p, n) : -1;
	size_t before = out->n;
	uint8_t known;

	if (id < 0) {
		bpe_encode(&t->bpe, v, p, n, out);
		return;
	}
	known = atomic_load_explicit(&t->whole[id], memory_order_relaxed);
	if (known == WHOLE_YES) {
		token_push(out, id);
		return;
	}
	bpe_encode(&t->bpe, v, p, n, out);
	if (known == WHOLE_UNKNOWN && !out->failed) {
		known = out->n == before + 1 && out->id[before] == id ? WHOLE_YES : WHOLE_NO;
		atomic_store_explicit(&t->whole[id], known, memory_order_relaxed);
	}
}

void token_encode_text(const struct tokenizer *t, const char *text, size_t n, struct token_list *out)
{
	struct buf fixed = BUF_CAP(BUF_MAX);

	while (n && !out->failed) {
		bool ill_formed = false;
		size_t k = pretok_piece(text, n, &ill_formed);

		if (ill_formed) {
			buf_cut(&fixed, 0);
			utf8_add_lossy(&fixed, text, k);
			if (buf_ok(&fixed))
				encode_piece(t, fixed.data, fixed.len, out);
			else
				out->failed = true;
		} else {
			encode_piece(t, text, k, out);
		}
		text += k;
		n -= k;
	}
	buf_clear(&fixed);
}

void token_encode_control(const struct tokenizer *t, const char *text, size_t n, struct token_list *out)
{
	size_t begin = 0, at = 0;

	while (at < n) {
		const struct added *a = NULL;

		if (t->starts_added[(unsigned char)text[at]])
			a = match_added(t, text + at, n - at);
		if (!a) {
			at++;
			continue;
		}
		token_encode_text(t, text + begin, at - begin, out);
		token_push(out, a->id);
		at += a->n;
		begin = at;
	}
	token_encode_text(t, text + begin, n - begin, out);
}
