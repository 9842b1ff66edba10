/* steer.c - sampling under a constraint.
 *
 * What  Picks a token that the matcher accepts.
 * Why   Asking about all 129,280 tokens costs milliseconds; the token that is picked anyway is mostly right.
 * How   Pick, ask, and if refused pick again without it.  What is left over by refusals is drawn exactly as if the mask
 *       had been known.  Where few tokens may come the mask is worked out for the whole vocabulary at once, since
 *       that is cheap there (grammar/mask.c); elsewhere after TRIES refusals.
 * Careful
 *       - min-p measures from the likeliest token, so that one has to be accepted first.  top-k and top-p count what
 *         was not refused yet: where they cut may lie a little differently than under the whole mask.
 *       - Inside the reasoning nothing is constrained, but an answer must follow: it cannot end there, nor may a call
 *         begin.
 *       - A byte 0xFF in a token would look like the marker of calls: such tokens are refused. */
#include <string.h>

#include "base/mem.h"
#include "turn/turn_int.h"

enum { TRIES = 8 };

enum status steer_init(struct steer *s, const struct turn_tables *x, enum constraint c, struct grammar *g, struct err *err)
{
	*s = (struct steer){.constraint = c, .tables = x, .grammar = g};
	if (c == CONSTRAINT_NONE)
		return OK;
	s->matcher = matcher_new(g);
	s->mask = mem_copy(x->mask, (size_t)tokenizer_size(x->tokenizer));
	return s->matcher && s->mask ? OK : err_set(err, ERR_MEMORY, "no memory for a constrained answer");
}

void steer_clear(struct steer *s)
{
	matcher_free(s->matcher);
	grammar_free(s->grammar);
	mem_free(s->mask);
	*s = (struct steer){.active = false};
}

bool steer_begin(struct steer *s, const char *p, size_t n)
{
	matcher_reset(s->matcher);
	s->active = true;
	return matcher_push(s->matcher, p, n);
}

/* The bytes of a token as the matcher knows them; NULL = no text has it. */
static const char *bytes_of(const struct steer *s, int32_t id, size_t *n)
{
	static const char marker = GRAMMAR_MARKER;
	const char *p = token_bytes(s->tables->tokenizer, id, n);

	if (id == s->tables->dsml) {
		*n = 1;
		return &marker;
	}
	return tokenizer_is_added(s->tables->tokenizer, id) || memchr(p, GRAMMAR_MARKER, *n) ? NULL : p;
}

void steer_take(struct steer *s, int32_t id)
{
	const char *p;
	size_t n;

	if (!s->active || id == s->tables->eos)
		return;
	p = bytes_of(s, id, &n);
	s->active = p && matcher_push(s->matcher, p, n);	/* what is forced may go its own way: free then */
}

static bool accepts(struct steer *s, int32_t id, bool reasoning)
{
	size_t n;
	const char *p;

	if (reasoning)
		return id != s->tables->dsml && (id != s->tables->eos || s->constraint == CONSTRAINT_CALLS);
	if (id == s->tables->eos)
		return matcher_complete(s->matcher);
	p = bytes_of(s, id, &n);
	return p && matcher_accepts(s->matcher, p, n);
}

/* Works the mask out for the whole vocabulary. */
static void scan(struct steer *s, bool reasoning)
{
	const struct turn_tables *x = s->tables;

	s->scans++;
	if (!reasoning)
		matcher_mask(s->matcher, x->vocabulary, s->mask);
	s->mask[x->eos] = accepts(s, x->eos, reasoning);
	s->mask[x->dsml] = accepts(s, x->dsml, reasoning);
}

/* Is it likely that few tokens may come, so that finding them all costs less than another pick? */
static bool is_narrow(struct steer *s, bool reasoning)
{
	static const char *const samples[] = {"a", "Z", "7", " "};

	for (size_t i = 0; i < sizeof samples / sizeof *samples && !reasoning; i++)
		if (!matcher_accepts(s->matcher, samples[i], 1))
			return true;
	return false;
}

/* Picks with and without the filters that depend on the likeliest token. */
static int32_t pick(struct sampler *sampler, const float *logits, bool likeliest)
{
	float temperature = sampler->p.temperature;
	int32_t id;

	if (likeliest)
		sampler->p.temperature = 0;
	id = sampler_pick(sampler, logits);
	sampler->p.temperature = temperature;
	return id;
}

int32_t steer_pick(struct steer *s, struct sampler *sampler, const float *logits, bool reasoning)
{
	const uint8_t *all = sampler->allowed;
	bool likeliest = sampler->p.min_p > 0 && sampler->p.temperature > 0;
	int32_t refused[TRIES], n = 0, id;
	bool scanned = false;

	if (s->constraint == CONSTRAINT_NONE || (!s->active && !reasoning))
		return sampler_pick(sampler, logits);
	s->picks++;
	sampler->allowed = s->mask;
	for (;;) {
		id = pick(sampler, logits, likeliest);
		if (id < 0 || scanned)
			break;
		if (accepts(s, id, reasoning)) {
			if (!likeliest)
				break;
			likeliest = false;
			continue;
		}
		s->refusals++;
		s->mask[id] = 0;
		refused[n++] = id;
		scanned = n == TRIES || is_narrow(s, reasoning);
		if (scanned)
			scan(s, reasoning);
	}
	if (scanned && id >= 0 && likeliest)
		id = pick(sampler, logits, false);
	if (scanned)
		memcpy(s->mask, s->tables->mask, (size_t)sampler->vocab);
	for (int32_t i = 0; i < n; i++)
		s->mask[refused[i]] = s->tables->mask[refused[i]];
	sampler->allowed = all;
	return matcher_ok(s->matcher) ? id : -1;
}
