/* matcher.c - a position in a text; see grammar.h.
 *
 * How   The stacks that are possible here (step.c).  Looking ahead steps through two spare sets in turn and leaves the
 *       current one alone; pushing swaps it in at the end. */
#include <string.h>

#include "base/mem.h"
#include "grammar/grammar_int.h"

struct matcher *matcher_new(const struct grammar *g)
{
	struct matcher *m = mem_zero(sizeof *m);

	if (!m)
		return NULL;
	m->g = g;
	matcher_reset(m);
	if (m->now.failed) {
		matcher_free(m);
		return NULL;
	}
	return m;
}

void matcher_free(struct matcher *m)
{
	if (!m)
		return;
	mem_free(m->now.f);
	mem_free(m->probe[0].f);
	mem_free(m->probe[1].f);
	for (uint32_t i = 0; i < m->n_level; i++)
		mem_free(m->level[i].f);
	mem_free(m->level);
	mem_free(m);
}

void matcher_reset(struct matcher *m)
{
	stacks_begin(m->g, &m->now);
}

/* Where p[0..n) leads; n > 0.  NULL: nowhere. */
static struct stacks *look(struct matcher *m, const char *p, size_t n)
{
	const struct stacks *from = &m->now;
	struct stacks *to = NULL;

	for (size_t i = 0; i < n && from->n; i++) {
		to = &m->probe[i % 2];
		stacks_step(m->g, from, (uint8_t)p[i], to);
		from = to;
	}
	return from->n && to && !to->failed ? to : NULL;
}

bool matcher_accepts(struct matcher *m, const char *p, size_t n)
{
	return n == 0 || look(m, p, n) != NULL;
}

bool matcher_push(struct matcher *m, const char *p, size_t n)
{
	struct stacks *to = look(m, p, n), kept;

	if (n == 0 || !to)
		return n == 0;
	kept = m->now;
	m->now = *to;
	*to = kept;
	return true;
}

bool matcher_complete(const struct matcher *m)
{
	return stacks_complete(m->g, &m->now);
}

bool matcher_ok(const struct matcher *m)
{
	bool ok = !m->now.failed && !m->probe[0].failed && !m->probe[1].failed;

	for (uint32_t i = 0; i < m->n_level; i++)
		ok = ok && !m->level[i].failed;
	return ok;
}
