/* mask.c - all tokens of a vocabulary at once.
 *
 * What  Which tokens may come next, for when picking and asking has failed a few times.
 * How   Tokens are walked in the order of their bytes.  A token shares its beginning with the one before it: the
 *       positions after each byte of that are kept, and a beginning that is refused is refused for all that share it.
 *       Where a text is between values that leaves a few hundred steps of 129,280 tokens; inside a string it is most
 *       of them, but there picking hardly ever fails. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "grammar/grammar_int.h"

enum { LONGEST = 256 };		/* tokens with more bytes are never allowed by a mask */

struct entry {
	int32_t id;
	uint16_t n, shared;	/* bytes; those that it shares with the entry before */
	const char *p;
};

struct vocabulary {
	struct entry *entry;	/* [n] ascending by bytes */
	int32_t n, size;
};

static int by_bytes(const void *pa, const void *pb)
{
	const struct entry *a = pa, *b = pb;
	int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);

	return c ? c : (int)a->n - (int)b->n;
}

enum status vocabulary_new(struct vocabulary **out, const struct tokenizer *t, struct err *err)
{
	struct vocabulary *v = mem_zero(sizeof *v);
	int32_t size = tokenizer_size(t);

	*out = NULL;
	if (v)
		v->entry = mem_array((size_t)size + 1, sizeof *v->entry);
	if (!v || !v->entry) {
		mem_free(v);
		return err_set(err, ERR_MEMORY, "no memory for a table of %d tokens", (int)size);
	}
	v->size = size;
	for (int32_t id = 0; id < size; id++) {
		size_t n;
		const char *p = token_bytes(t, id, &n);

		if (!tokenizer_is_added(t, id) && n && n <= LONGEST && !memchr(p, GRAMMAR_MARKER, n))
			v->entry[v->n++] = (struct entry){id, (uint16_t)n, 0, p};
	}
	qsort(v->entry, (size_t)v->n, sizeof *v->entry, by_bytes);
	for (int32_t i = 1; i < v->n; i++) {
		struct entry *a = &v->entry[i - 1], *b = &v->entry[i];

		while (b->shared < a->n && b->shared < b->n && a->p[b->shared] == b->p[b->shared])
			b->shared++;
	}
	*out = v;
	return OK;
}

void vocabulary_free(struct vocabulary *v)
{
	if (!v)
		return;
	mem_free(v->entry);
	mem_free(v);
}

void matcher_mask(struct matcher *m, const struct vocabulary *v, uint8_t *mask)
{
	uint32_t good = 0;	/* bytes of the entry before that were accepted */

	memset(mask, 0, (size_t)v->size);
	if (!m->level) {
		m->level = mem_array(LONGEST + 1, sizeof *m->level);
		m->n_level = m->level ? LONGEST + 1 : 0;
	}
	if (!m->level) {
		m->now.failed = true;
		return;
	}
	m->level[0].n = 0;
	for (uint32_t i = 0, at = 0; i < m->now.n; at = m->now.end[i++])
		stacks_add(&m->level[0], m->now.f + at, m->now.end[i] - at);
	for (int32_t i = 0; i < v->n; i++) {
		const struct entry *e = &v->entry[i];

		if (e->shared > good)
			continue;	/* it begins with what was refused */
		for (good = e->shared; good < e->n; good++) {
			stacks_step(m->g, &m->level[good], (uint8_t)e->p[good], &m->level[good + 1]);
			if (!m->level[good + 1].n)
				break;
		}
		mask[e->id] = good == e->n;
	}
}
