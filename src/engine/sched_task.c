/* sched_task.c - one request: its tokens and checkpoints, sampling, events, and its end.
 *
 * What  A task holds the whole token list; the timeline has read a prefix of it.  Reading a prompt, generating, and
 *       repeating after a failure are the same thing: read what is left, then sample if nothing is.
 * Careful
 *       - A callback may say stop in any event: after task_tell() look whether the task is done.
 *       - A checkpoint can only be taken when a step ends on the boundary, so parts are cut there.
 *       - Of an answer only the newest checkpoint is kept, unless somebody has started from an older one. */
#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "engine/sched_int.h"

/* ------------------------------------------------------------------ making */

static enum status check_request(const struct sched *s, const struct sched_request *r, struct err *err)
{
	int32_t context = s->e->opt.context, vocab = s->e->shape.vocab;

	if (r->n < 1 || r->max_tokens < 0 || r->n_stop < 0 || r->n_message_end < 0)
		return err_set(err, ERR_ARGUMENT, "request: expected at least 1 token and no negative counts, got %d "
			       "tokens, max_tokens %d, %d stop tokens, %d message ends", (int)r->n, (int)r->max_tokens,
			       (int)r->n_stop, (int)r->n_message_end);
	if (r->n > context)
		return err_set(err, ERR_LIMIT, "the prompt has %d tokens, the context holds %d", (int)r->n, (int)context);
	if (r->priority < -4 || r->priority > 4)
		return err_set(err, ERR_ARGUMENT, "priority: expected -4 to 4, got %d", (int)r->priority);
	for (int32_t i = 0; i < r->n; i++)
		if (r->token[i] < 0 || r->token[i] >= vocab)
			return err_set(err, ERR_ARGUMENT, "token %d: expected an id from 0 to %d, got %d", (int)i,
				       (int)vocab - 1, (int)r->token[i]);
	return OK;
}

void task_want(struct task *t, int32_t pos)
{
	int32_t at = t->n_want;

	pos -= pos % GEOM_BLOCK;
	if (pos <= 0)
		return;
	while (at > 0 && t->want[at - 1] >= pos)
		at--;
	if (at < t->n_want && t->want[at] == pos)
		return;
	if (t->n_want == t->want_room) {
		int32_t room = t->want_room ? 2 * t->want_room : 16, *p;

		p = mem_grow(t->want, (size_t)room, sizeof *t->want);
		if (!p)
			return;
		t->want = p;
		t->want_room = room;
	}
	memmove(t->want + at + 1, t->want + at, (size_t)(t->n_want - at) * sizeof *t->want);
	t->want[at] = pos;
	t->n_want++;
}

/* Message ends, a regular distance, and the last boundary from which the last token can be read again. */
static void plan_checks(struct task *t, int32_t every)
{
	for (int32_t i = 0; i < t->r.n_message_end; i++)
		if (t->r.message_end[i] < t->n)
			task_want(t, t->r.message_end[i]);
	for (int32_t pos = every; pos < t->n; pos += every)
		task_want(t, pos);
	task_want(t, t->n - 1);
}

static int32_t longest(const struct sched *s, const struct sched_request *r)
{
	int32_t context = s->e->opt.context;

	return r->max_tokens < context - r->n ? r->n + r->max_tokens : context;
}

enum status task_new(struct task **out, const struct sched *s, const struct sched_request *r, struct err *err)
{
	struct task *t;
	enum status st = OK;

	*out = NULL;
	TRY(check_request(s, r, err));
	t = mem_zero(sizeof *t);
	if (!t)
		return err_set(err, ERR_MEMORY, "no memory for a request");
	t->r = *r;
	t->n = r->n;
	t->room = longest(s, r);
	t->worst = (t->room + GEOM_BLOCK - 1) / GEOM_BLOCK;
	t->token = mem_array((size_t)t->room, sizeof *t->token);
	t->stop = mem_array((size_t)r->n_stop + 1, sizeof *t->stop);
	if (!t->token || !t->stop) {
		st = err_set(err, ERR_MEMORY, "no memory for a request of up to %d tokens", (int)t->room);
		goto out;
	}
	memcpy(t->token, r->token, (size_t)r->n * sizeof *t->token);
	if (r->n_stop)
		memcpy(t->stop, r->stop, (size_t)r->n_stop * sizeof *t->stop);
	if (t->worst > s->e->pool.limit) {
		st = err_set(err, ERR_LIMIT, "a request of up to %d tokens needs %d KV blocks, there are %d",
			     (int)t->room, (int)t->worst, (int)s->e->pool.limit);
		goto out;
	}
	if (r->max_tokens > 0)
		TRY_TO(out, sampler_init(&t->sampler, &r->sampling, s->e->shape.vocab, r->allowed, err));
	plan_checks(t, s->opt.check_every);
	t->since = s->step;
	t->usage.prompt = r->n;
	*out = t;
	t = NULL;
out:
	task_free(t);
	return st;
}

void task_free(struct task *t)
{
	if (!t)
		return;
	kv_close(t->kv);
	sampler_clear(&t->sampler);
	mem_free(t->want);
	mem_free(t->stop);
	mem_free(t->token);
	mem_free(t);
}

bool task_cancelled(const struct task *t)
{
	return t->r.cancel && __atomic_load_n(t->r.cancel, __ATOMIC_RELAXED);
}

/* ------------------------------------------------------------------ events */

bool task_tell(struct sched *s, struct task *t, struct sched_event ev)
{
	if (t->done)
		return false;
	ev.usage = t->usage;
	if (t->r.event && !t->r.event(t->r.ctx, &ev) && !t->done)
		task_finish(s, t, SCHED_FINISH_CANCELLED, NULL, NULL);
	return !t->done;
}

void task_finish(struct sched *s, struct task *t, enum sched_finish finish, const struct err *err, const float *logits)
{
	struct sched_event ev = {.kind = SCHED_DONE, .finish = finish, .err = err, .logits = logits, .usage = t->usage};

	if (t->done)
		return;
	t->done = true;
	for (struct task *o = s->task; o; o = o->next)
		if (o->leader == t)
			o->leader = NULL;
	if (t->kv) {
		s->n_live--;
		if (finish == SCHED_FINISH_ERROR) {
			kv_close(t->kv);
			t->kv = NULL;
		} else {
			park(s, t);
		}
	} else {
		s->n_waiting--;
	}
	if (t->r.event)
		t->r.event(t->r.ctx, &ev);
}

/* ------------------------------------------------------------------ after a step */

int32_t task_cut(const struct task *t, int32_t end)
{
	for (int32_t i = 0; i < t->n_want; i++)
		if (t->want[i] > t->kv->len)
			return t->want[i] < end ? t->want[i] : end;
	return end;
}

static bool wanted(const struct task *t, int32_t pos, int32_t every)
{
	if (pos % every == 0)
		return true;
	for (int32_t i = 0; i < t->n_want; i++)
		if (t->want[i] == pos)
			return true;
	return false;
}

/* Takes the checkpoint that belongs here and enters what is new into the tree. */
void task_keep(struct sched *s, struct task *t, int32_t before)
{
	int32_t pos = t->kv->len;
	int32_t again = (pos < t->reached ? pos : t->reached) - before;
	bool in_prompt = pos < t->r.n, lasting = wanted(t, pos, s->opt.check_every);

	if (again > 0)
		t->usage.read_again += again;
	if (pos / GEOM_BLOCK == before / GEOM_BLOCK)
		return;
	if (pos % GEOM_BLOCK == 0 && (lasting || !in_prompt))
		kv_checkpoint(t->kv);
	tree_publish(s->e->tree, t->kv, t->token);
	if (pos % GEOM_BLOCK || in_prompt)
		return;
	if (t->rolling)
		tree_forget(s->e->tree, t->kv, t->rolling);
	t->rolling = lasting ? 0 : pos;
}

static bool is_stop(const struct task *t, int32_t id)
{
	for (int32_t i = 0; i < t->r.n_stop; i++)
		if (t->stop[i] == id)
			return true;
	return false;
}

/* Everything is read: chooses the next token. */
static void sample(struct sched *s, struct task *t, const float *logits)
{
	struct sched_event ev = {.kind = SCHED_TOKEN, .logits = logits};
	struct err err = {0};
	int32_t id;

	if (t->r.max_tokens == 0) {
		task_finish(s, t, SCHED_FINISH_LENGTH, NULL, logits);
		return;
	}
	if (t->n == t->room) {		/* only when the prompt fills the context */
		task_finish(s, t, SCHED_FINISH_CONTEXT, NULL, logits);
		return;
	}
	id = t->r.pick ? t->r.pick(t->r.ctx, &t->sampler, logits) : sampler_pick(&t->sampler, logits);
	if (id < 0 || id >= s->e->shape.vocab) {
		err_set(&err, ERR_ARGUMENT, "no token can be picked after %d tokens", (int)t->n);
		task_finish(s, t, SCHED_FINISH_ERROR, &err, NULL);
		return;
	}
	t->token[t->n++] = ev.token = id;
	t->usage.generated++;
	if (!task_tell(s, t, ev))
		return;
	if (is_stop(t, id))
		task_finish(s, t, SCHED_FINISH_STOP, NULL, NULL);
	else if (t->usage.generated == t->r.max_tokens)
		task_finish(s, t, SCHED_FINISH_LENGTH, NULL, NULL);
	else if (t->n == t->room)
		task_finish(s, t, SCHED_FINISH_CONTEXT, NULL, NULL);
}

void task_after_step(struct sched *s, struct task *t, const float *logits)
{
	int32_t pos = t->kv->len;

	t->served = s->step;
	t->alone = t->alone && pos <= t->reached;	/* what failed has been repeated */
	if (pos > t->reached)
		t->reached = pos;
	if (pos <= t->r.n && !task_tell(s, t, (struct sched_event){.kind = SCHED_READ, .done = pos, .total = t->r.n}))
		return;
	if (logits)
		sample(s, t, logits);
}
