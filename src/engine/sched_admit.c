/* sched_admit.c - who may begin, with what is already there, and what becomes of a timeline afterwards.
 *
 * What  admit() goes through the waiting requests in order of priority and arrival and starts those that fit.
 * Why   A request that began and then finds no memory would have to be thrown out after minutes of work; one that
 *       reads what another is just reading does it for nothing.
 * How   Room: every live request may still grow to its longest outcome; what the pool has left, with what the tree
 *       could give back, must hold that and the newcomer.
 *       Beginnings: if a live request is still reading tokens that the newcomer shares, it is told to leave a
 *       checkpoint where they part, and the newcomer waits for it.
 *       Finished timelines stay as they are (parked) while there is room, so that the next turn of a conversation
 *       continues at the very token; they go first when somebody needs room.
 * Careful
 *       - Blocks that the newcomer shares with somebody live are counted once; shared blocks that nobody uses are
 *         counted as new, because they leave what the tree could give back.
 *       - Who waits for memory or a timeline holds up everybody behind: otherwise small ones starve it for ever.  Who
 *         waits for a beginning does not. */
#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "engine/sched_int.h"

enum { WORTH_WAITING = 2 * GEOM_BLOCK };	/* shared tokens that are worth waiting for */

/* ------------------------------------------------------------------ parked timelines */

static void drop_parked(struct sched *s, int32_t i)
{
	kv_close(s->parked[i].kv);
	mem_free(s->parked[i].token);
	s->parked[i] = s->parked[--s->n_parked];
}

bool unpark_oldest(struct sched *s)
{
	int32_t oldest = 0;

	if (s->n_parked == 0)
		return false;
	for (int32_t i = 1; i < s->n_parked; i++)
		if (s->parked[i].since < s->parked[oldest].since)
			oldest = i;
	drop_parked(s, oldest);
	return true;
}

void park(struct sched *s, struct task *t)
{
	struct kv *kv = t->kv;
	int32_t *token;

	t->kv = NULL;
	if (s->opt.max_parked <= 0 || kv->len == 0) {
		kv_close(kv);
		return;
	}
	token = mem_copy(t->token, (size_t)kv->len * sizeof *token);
	if (!token) {
		kv_close(kv);
		return;
	}
	while (s->n_parked >= s->opt.max_parked)
		unpark_oldest(s);
	s->parked[s->n_parked++] = (struct parked){.kv = kv, .token = token, .since = s->step};
}

/* The parked timeline that has read most of t's tokens and nothing else; -1 = none better than `best`. */
static int32_t find_parked(const struct sched *s, const struct task *t, int32_t best)
{
	int32_t found = -1;

	for (int32_t i = 0; i < s->n_parked; i++) {
		int32_t len = s->parked[i].kv->len;

		if (len > best && len < t->n &&
		    memcmp(s->parked[i].token, t->token, (size_t)len * sizeof *t->token) == 0) {
			best = len;
			found = i;
		}
	}
	return found;
}

/* ------------------------------------------------------------------ shared beginnings */

static int32_t common_blocks(const struct task *a, const struct task *b)
{
	int32_t n = a->n < b->n ? a->n : b->n, i = 0;

	while (i < n && a->token[i] == b->token[i])
		i++;
	return i - i % GEOM_BLOCK;
}

/* Does t wait for a beginning that is still being read? */
static bool follows(const struct task *t)
{
	return t->leader && t->leader->kv->len < t->shared;
}

/* Is somebody just reading tokens that t could have for nothing?  Looked for anew only when others have begun. */
static bool find_leader(struct sched *s, struct task *t, int32_t usable)
{
	if (!t->leader && t->looked == s->admissions + 1)
		return false;
	t->looked = s->admissions + 1;
	t->leader = NULL;
	for (struct task *o = s->task; o; o = o->next) {
		int32_t common;

		if (!o->kv || o->done || o->kv->len >= t->n || task_left(o) < WORTH_WAITING)
			continue;
		common = common_blocks(o, t);
		if (common == t->n)		/* the last token must be read for its logits */
			common -= GEOM_BLOCK;
		if (common <= o->kv->len || common < usable + WORTH_WAITING)
			continue;
		task_want(o, common);
		if (o->r.priority < t->r.priority)
			o->r.priority = t->r.priority;	/* it works for both now */
		t->leader = o;
		t->shared = common;
		return true;
	}
	return false;
}

/* ------------------------------------------------------------------ room */

/* Blocks that live requests may still ask for. */
static int32_t promised(const struct sched *s)
{
	int32_t n = 0;

	for (const struct task *t = s->task; t; t = t->next)
		if (t->kv && !t->done && t->worst > t->kv->dev.n_block)
			n += t->worst - t->kv->dev.n_block;
	return n;
}

/* Are there `need` blocks beyond what is promised?  Parked timelines go one by one for it, except `keep`. */
static bool room_for(struct sched *s, int32_t need, const struct kv *keep)
{
	const struct kv_pool *p = &s->e->pool;

	for (;;) {
		int32_t oldest = -1;

		if (p->limit - p->live + tree_spare(s->e->tree) - promised(s) >= need)
			return true;
		for (int32_t i = 0; i < s->n_parked; i++)
			if (s->parked[i].kv != keep &&
			    (oldest < 0 || s->parked[i].since < s->parked[oldest].since))
				oldest = i;
		if (oldest < 0)
			return false;
		drop_parked(s, oldest);
	}
}

/* ------------------------------------------------------------------ admission */

/* Priority with what waiting has earned. */
static int64_t urgency(const struct sched *s, const struct task *t)
{
	return t->r.priority + (int64_t)((s->step - t->since) / SCHED_AGE);
}

/* The most urgent waiting request that has not been looked at in this round. */
static struct task *next_waiting(const struct sched *s, const struct task *after)
{
	struct task *best = NULL;
	bool behind = after == NULL;	/* among equals: those behind `after` in order of arrival */

	for (struct task *t = s->task; t; t = t->next) {
		if (t == after) {
			behind = true;
			continue;
		}
		if (t->kv || t->done)
			continue;
		if (after && (urgency(s, t) > urgency(s, after) || (urgency(s, t) == urgency(s, after) && !behind)))
			continue;
		if (!best || urgency(s, t) > urgency(s, best))
			best = t;
	}
	return best;
}

/* Gives t a timeline that has read as much of its tokens as any. */
static enum status give_timeline(struct sched *s, struct task *t, int32_t parked, struct err *err)
{
	if (parked >= 0) {
		t->kv = s->parked[parked].kv;
		mem_free(s->parked[parked].token);
		s->parked[parked] = s->parked[--s->n_parked];
		return OK;
	}
	TRY(kv_open(&t->kv, &s->e->pool, 2, err));
	return tree_take(s->e->tree, t->kv, t->token, t->n - 1, err);
}

/* What keeps t from beginning, if anything.  *parked: the timeline it would take over. */
static enum sched_wait obstacle(struct sched *s, struct task *t, int32_t *parked, struct tree_match *m)
{
	const struct kv *keep;
	int32_t need;

	if (follows(t))
		return SCHED_WAIT_PREFIX;
	if (s->n_live >= s->e->opt.timelines)
		return SCHED_WAIT_TIMELINE;
	*m = tree_find(s->e->tree, t->token, t->n - 1);
	*parked = find_parked(s, t, m->usable);
	if (*parked < 0 && find_leader(s, t, m->usable))
		return SCHED_WAIT_PREFIX;
	keep = *parked < 0 ? NULL : s->parked[*parked].kv;
	need = t->worst - (keep ? keep->dev.n_block : m->in_use);
	if (!room_for(s, need, keep))
		return SCHED_WAIT_MEMORY;
	if (keep)		/* others may have gone, and moved it */
		for (int32_t i = 0; i < s->n_parked; i++)
			if (s->parked[i].kv == keep)
				*parked = i;
	return SCHED_WAIT_NOTHING;
}

static void begin(struct sched *s, struct task *t, int32_t parked, const struct tree_match *m)
{
	struct err err = {0};

	while (parked < 0 && s->n_live + s->n_parked >= s->e->opt.timelines && unpark_oldest(s))
		;
	if (give_timeline(s, t, parked, &err) != OK) {
		kv_close(t->kv);
		t->kv = NULL;
		task_finish(s, t, SCHED_FINISH_ERROR, &err, NULL);
		return;
	}
	s->n_waiting--;
	s->n_live++;
	s->admissions++;
	t->served = s->step - 1;
	t->wait = SCHED_WAIT_NOTHING;
	t->leader = NULL;
	t->usage.reused = t->reached = t->kv->len;
	t->usage.waited = (int32_t)(s->step - t->since);
	if (m->known > t->kv->len)		/* lists part here: the next one will be glad */
		task_want(t, m->known);
	task_tell(s, t, (struct sched_event){.kind = SCHED_STARTED, .done = t->kv->len, .total = t->r.n});
}

/* Somebody outside of the scheduler has the memory. */
static void nothing_to_wait_for(struct sched *s, struct task *t)
{
	const struct kv_pool *p = &s->e->pool;
	struct err err = {0};

	err_set(&err, ERR_LIMIT, "a request of up to %d tokens needs %d KV blocks, %d of %d are free", (int)t->room,
		(int)t->worst, (int)(p->limit - p->live + tree_spare(s->e->tree)), (int)p->limit);
	task_finish(s, t, SCHED_FINISH_ERROR, &err, NULL);
}

void admit(struct sched *s)
{
	bool closed = false;
	struct task *t = NULL;

	while (s->n_waiting && (t = next_waiting(s, t)) != NULL) {
		struct tree_match m;
		int32_t parked;
		enum sched_wait wait = closed ? SCHED_WAIT_TURN : obstacle(s, t, &parked, &m);

		if (wait == SCHED_WAIT_NOTHING) {
			begin(s, t, parked, &m);
			continue;
		}
		if (wait == SCHED_WAIT_MEMORY && s->n_live == 0) {
			nothing_to_wait_for(s, t);
			continue;
		}
		closed = closed || wait == SCHED_WAIT_TIMELINE || wait == SCHED_WAIT_MEMORY;
		if (wait == t->wait)
			continue;
		t->wait = wait;
		task_tell(s, t, (struct sched_event){.kind = SCHED_WAITING, .wait = wait, .total = t->r.n});
	}
}
