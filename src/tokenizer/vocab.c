/* vocab.c - the token strings of a model file as raw bytes, with one hash over them.
 *
 * What  tokenizer.ggml.tokens holds pieces in a printable form in which every byte is one character;
 *       added tokens stand there literally.  Both become plain bytes in one arena.
 * Why   Merges name their parts by text and words are looked up by text, 129,280 strings at start-up: one
 *       allocation for the bytes and one table of 8-byte slots keep that in the tens of milliseconds.
 * How   The printable form is GPT-2's: 0x21..7E, A1..AC and AE..FF stand for themselves as code points, the
 *       other 68 bytes, in order, are U+0100 and on.  Decoding never makes a string longer, so a token's
 *       place in the arena is as long as its string in the file and a literal one fits there too.
 * Careful
 *       - Which tokens are added is known only after the merges were read, so a token like "<think>" is
 *         first entered as if it were a piece.  Decoding is one to one: it cannot hide a piece.
 *       - A literal token with characters outside the mapping is not in the hash at all.
 * Source: docs/tokenizer.md. */
#include "tokenizer/vocab_int.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

#define MAP_END 0x144	/* one past the last code point of the printable form */

static bool stands_for_itself(unsigned byte)
{
	return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* The byte a code point of the printable form stands for, or -1. */
static int byte_of(uint32_t cp)
{
	if (cp < 0x100)
		return stands_for_itself(cp) ? (int)cp : -1;
	if (cp < 0x121)
		return (int)(cp - 0x100);		/* 00..20 */
	if (cp < MAP_END - 1)
		return (int)(cp - 0x121 + 0x7F);	/* 7F..A0 */
	return cp == MAP_END - 1 ? 0xAD : -1;
}

bool vocab_decode(const char *p, size_t n, char *out, size_t room, size_t *n_out)
{
	size_t made = 0, i = 0;

	while (i < n) {
		unsigned char c = (unsigned char)p[i++];
		int byte;

		if (made == room)
			return false;
		if (c >= 0x80) {	/* two bytes, C2..C5 lead: all the form uses */
			if (c < 0xC2 || c > 0xC5 || i == n || (p[i] & 0xC0) != 0x80)
				return false;
			byte = byte_of((c & 0x1Fu) << 6 | ((unsigned char)p[i++] & 0x3Fu));
		} else {
			byte = byte_of(c);
		}
		if (byte < 0)
			return false;
		out[made++] = (char)byte;
	}
	*n_out = made;
	return true;
}

const char *vocab_show(const char *p, size_t n, char out[VOCAB_SHOWN])
{
	size_t shown = n > 40 ? utf8_whole(p, 40) : n;

	for (size_t i = 0; i < shown; i++)
		out[i] = (unsigned char)p[i] < 0x20 || p[i] == 0x7F ? '?' : p[i];
	memcpy(out + shown, n > 40 ? "..." : "", n > 40 ? 4 : 1);
	return out;
}

static uint64_t hash(const char *p, size_t n)
{
	uint64_t h = n * 0x9E3779B97F4A7C15u, w;

	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&w, p, 8);
		h = (h ^ w) * 0xBF58476D1CE4E5B9u;
		h ^= h >> 29;
	}
	w = 0;
	memcpy(&w, p, n);
	h = (h ^ w) * 0x94D049BB133111EBu;
	h ^= h >> 32;
	return h * 0xBF58476D1CE4E5B9u;
}

/* Slot of the bytes, or the empty one where they would go; *tag is what such a slot holds. */
static uint64_t probe(const struct vocab *v, const char *p, size_t n, uint32_t *tag)
{
	uint64_t h = hash(p, n), at = h >> 32 & v->slot_mask;

	*tag = (uint32_t)h;
	for (; v->slot[at].id >= 0; at = (at + 1) & v->slot_mask) {
		const struct vocab_string *s = &v->token[v->slot[at].id];

		if (v->slot[at].tag == *tag && s->n == n && !memcmp(v->arena + s->at, p, n))
			break;
	}
	return at;
}

int32_t vocab_find(const struct vocab *v, const char *p, size_t n)
{
	uint32_t tag;

	return v->slot[probe(v, p, n, &tag)].id;
}

enum status vocab_strings(const struct gguf *g, const char *key, const struct gguf_kv **out, struct err *err)
{
	const struct gguf_kv *kv = gguf_find(g, key);

	*out = kv;
	if (!kv)
		return err_set(err, ERR_FORMAT, "%s: the key %s is missing", g->path, key);
	if (kv->type != GGUF_ARRAY || kv->element != GGUF_STRING)
		return err_set(err, ERR_FORMAT, "%s: %s: expected an array of strings, file has %s%s", g->path, key,
			       kv->type == GGUF_ARRAY ? "an array of " : "",
			       gguf_type_name(kv->type == GGUF_ARRAY ? kv->element : kv->type));
	return OK;
}

/* Sizes and allocates everything from the array's count and the total length of its strings. */
static enum status allocate(struct vocab *v, const struct gguf *g, const struct gguf_kv *kv, struct err *err)
{
	const uint8_t *cursor = kv->value;
	uint64_t bytes = 0, slots = 4;

	if (kv->count < 1 || kv->count > VOCAB_MAX)
		return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.tokens: expected 1 to %u tokens, file has %llu",
			       g->path, VOCAB_MAX, (unsigned long long)kv->count);
	for (uint64_t i = 0; i < kv->count; i++)
		bytes += gguf_next_string(&cursor).n;
	if (bytes > UINT32_MAX)
		return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.tokens: expected less than 4 GiB of text, file has "
			       "%llu bytes", g->path, (unsigned long long)bytes);
	while (slots < 2 * kv->count)
		slots *= 2;
	v->size = (int32_t)kv->count;
	v->slot_mask = slots - 1;
	v->arena = mem_alloc(bytes);
	v->token = mem_array(kv->count, sizeof *v->token);
	v->added = mem_array(kv->count, sizeof *v->added);
	v->slot = mem_array(slots, sizeof *v->slot);
	if (!v->arena || !v->token || !v->added || !v->slot)
		return err_set(err, ERR_MEMORY, "%s: no memory for a vocabulary of %d tokens", g->path, v->size);
	memset(v->slot, 0xFF, slots * sizeof *v->slot);		/* id -1 everywhere */
	return OK;
}

/* Decodes token id = s to arena[at..] and enters it into the hash. */
static enum status enter(struct vocab *v, int32_t id, struct gguf_string s, uint32_t at, const struct gguf *g,
			 struct err *err)
{
	char shown[VOCAB_SHOWN];
	uint64_t place;
	uint32_t tag;
	size_t n;

	if (!s.n)
		return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.tokens[%d]: expected text, it is empty", g->path, id);
	v->added[id] = true;
	v->token[id] = (struct vocab_string){at, (uint32_t)s.n};
	if (!vocab_decode(s.p, s.n, v->arena + at, s.n, &n)) {
		memcpy(v->arena + at, s.p, s.n);
		return OK;
	}
	v->token[id].n = (uint32_t)n;
	place = probe(v, v->arena + at, n, &tag);
	if (v->slot[place].id >= 0)
		return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.tokens[%d]: expected a new string, \"%s\" is "
			       "token %d already", g->path, id, vocab_show(s.p, s.n, shown), v->slot[place].id);
	v->slot[place] = (struct vocab_slot){tag, id};
	return OK;
}

enum status vocab_init(struct vocab *v, const struct gguf *g, struct err *err)
{
	const struct gguf_kv *kv;
	const uint8_t *cursor;
	uint32_t at = 0;

	*v = (struct vocab){0};
	TRY(vocab_strings(g, "tokenizer.ggml.tokens", &kv, err));
	TRY(allocate(v, g, kv, err));
	cursor = kv->value;
	for (int32_t id = 0; id < v->size; id++) {
		struct gguf_string s = gguf_next_string(&cursor);

		TRY(enter(v, id, s, at, g, err));
		at += (uint32_t)s.n;
		if (s.n > v->longest)
			v->longest = (uint32_t)s.n;
	}
	for (int b = 0; b < 256; b++) {
		char byte = (char)b;

		v->byte_id[b] = vocab_find(v, &byte, 1);
		if (v->byte_id[b] < 0)
			return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.tokens: expected a token for each of the 256 "
				       "bytes, 0x%02X has none", g->path, b);
		v->added[v->byte_id[b]] = false;
	}
	return OK;
}

void vocab_restore_added(struct vocab *v, const struct gguf *g)
{
	const uint8_t *cursor = gguf_find(g, "tokenizer.ggml.tokens")->value;

	v->longest = 0;
	for (int32_t id = 0; id < v->size; id++) {
		struct gguf_string s = gguf_next_string(&cursor);
		struct vocab_string *t = &v->token[id];

		if (v->added[id]) {
			memcpy(v->arena + t->at, s.p, s.n);
			t->n = (uint32_t)s.n;
		} else if (t->n > v->longest) {
			v->longest = t->n;
		}
	}
}

void vocab_clear(struct vocab *v)
{
	mem_free(v->arena);
	mem_free(v->token);
	mem_free(v->slot);
	mem_free(v->added);
	*v = (struct vocab){0};
}
