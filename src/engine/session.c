/* session.c - one timeline of tokens: prefill in steps, decode one by one, go back through checkpoints.
 *
 * What  Keeps three things equal at all times: the token list, the history the backend holds (kv), and the logits
 *       after the last token (or none).
 * Why   Callers think in token lists ("this is the conversation now"); the model can only append.  session_sync()
 *       turns the one into the other and reads as little as possible.
 * How   Tokens that both lists share stay.  If the state holds more than that, it goes back to the nearest
 *       checkpoint, its own or one of the engine's prefix tree, and replays from there.  Prefill steps end at
 *       multiples of 128 where they can, because only there a checkpoint can be taken; the last one before the end
 *       is the one the next turn most likely needs.
 * Careful
 *       - Logits belong to the last token read.  A state that is right but whose logits are gone (after a cancel, or
 *         a list that is a prefix of the state) must read its last token again.
 *       - After a failed step the history is undefined beyond the last checkpoint: going back is not optional.
 *       - The caller's list may be session_tokens() itself.
 * Thread: the engine's thread. */
#include "engine/session.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

#define OWN_CHECKPOINTS 4	/* what going back needs without memory; the tree keeps more */

struct session {
	struct engine *e;
	struct kv *kv;
	int32_t *token;		/* [n] what has been read; room for the whole context */
	int32_t n;		/* == kv->len */
	float *logits;		/* [V] after token n-1 */
	bool has_logits;
	int32_t reused;
	const volatile int *cancel;	/* looked at while a prompt is read */
};

/* Without a timeline. */
static enum status session_new(struct session **out, struct engine *e, struct err *err)
{
	struct session *s = mem_zero(sizeof *s);

	*out = NULL;
	if (!s)
		return err_set(err, ERR_MEMORY, "no memory for a session");
	s->e = e;
	s->token = mem_array((size_t)e->opt.context, sizeof *s->token);
	s->logits = mem_array((size_t)e->shape.vocab, sizeof *s->logits);
	if (!s->token || !s->logits) {
		session_close(s);
		return err_set(err, ERR_MEMORY, "no memory for a session of %d tokens over a vocabulary of %d",
			       (int)e->opt.context, (int)e->shape.vocab);
	}
	*out = s;
	return OK;
}

/* Closes what has no timeline. */
static enum status need_timeline(struct session **s, enum status st)
{
	if (st != OK) {
		session_close(*s);
		*s = NULL;
	}
	return st;
}

enum status session_open(struct session **out, struct engine *e, struct err *err)
{
	TRY(session_new(out, e, err));
	return need_timeline(out, kv_open(&(*out)->kv, &e->pool, OWN_CHECKPOINTS, err));
}

enum status session_fork(struct session **out, const struct session *from, struct err *err)
{
	struct session *s;

	TRY(session_new(out, from->e, err));
	s = *out;
	TRY(need_timeline(out, kv_fork(&s->kv, from->kv, err)));
	s->n = from->n;
	s->has_logits = from->has_logits;
	s->cancel = from->cancel;
	memcpy(s->token, from->token, (size_t)from->n * sizeof *s->token);
	if (from->has_logits)
		memcpy(s->logits, from->logits, (size_t)from->e->shape.vocab * sizeof *s->logits);
	return OK;
}

void session_set_cancel(struct session *s, const volatile int *flag)
{
	s->cancel = flag;
}

/* Accepts NULL and half-built. */
void session_close(struct session *s)
{
	if (!s)
		return;
	kv_close(s->kv);
	mem_free(s->logits);
	mem_free(s->token);
	mem_free(s);
}

/* Falls back to the nearest checkpoint at or before token n. */
static void fall_back(struct session *s, int32_t n)
{
	s->n = kv_rewind(s->kv, n);
	s->has_logits = false;
	assert(s->n == s->kv->len);
}

void session_reset(struct session *s)
{
	fall_back(s, 0);
	s->reused = 0;
}

/* Reads n more tokens in one step and takes a checkpoint if they end a block.  want: the last one's logits. */
static enum status read_step(struct session *s, const int32_t *token, int32_t n, bool want,
			     const volatile int *cancel, struct err *err)
{
	struct forward_part part = {.kv = s->kv, .token = token, .n = n, .last_logits = want};
	enum status st = forward_step(s->e->forward, &part, 1, s->logits, cancel, err);

	if (st != OK) {
		fall_back(s, s->n);
		return st;
	}
	memmove(s->token + s->n, token, (size_t)n * sizeof *token);
	s->n += n;
	s->has_logits = want;
	assert(s->n == s->kv->len);
	if (s->n % GEOM_BLOCK == 0)
		kv_checkpoint(s->kv);
	if (s->n / GEOM_BLOCK != (s->n - n) / GEOM_BLOCK)
		tree_publish(s->e->tree, s->kv, s->token);
	tree_poll(s->e->tree);
	return OK;
}

/* Where the step that starts at `from` ends: at most chunk rows, and at a block boundary if one is in reach. */
static int32_t step_end(int32_t from, int32_t n, int32_t chunk)
{
	int32_t end = n - from > chunk ? from + chunk : n;
	int32_t boundary = end / GEOM_BLOCK * GEOM_BLOCK;

	return boundary > from ? boundary : end;
}

/* Reads the rest of token[0..n) from s->n on. */
static enum status prefill(struct session *s, const int32_t *token, int32_t n, session_progress *progress, void *ctx,
			   struct err *err)
{
	for (;;) {
		int32_t end;

		if (progress && !progress(ctx, s->n, n))
			return err_set(err, ERR_CANCELLED, "cancelled after %d of %d tokens", (int)s->n, (int)n);
		if (s->n == n)
			return OK;
		end = step_end(s->n, n, s->e->opt.chunk);
		TRY(read_step(s, token + s->n, end - s->n, end == n, s->cancel, err));
	}
}

/* What any timeline of the engine has read may be longer than what is left here. */
static enum status take_from_tree(struct session *s, const int32_t *token, int32_t n, struct err *err)
{
	TRY(tree_take(s->e->tree, s->kv, token, n, err));
	if (s->kv->len > s->n) {
		memmove(s->token, token, (size_t)s->kv->len * sizeof *token);
		s->n = s->kv->len;
		s->has_logits = false;
	}
	return OK;
}

static int32_t common_prefix(const int32_t *a, int32_t n_a, const int32_t *b, int32_t n_b)
{
	int32_t n = n_a < n_b ? n_a : n_b, i = 0;

	while (i < n && a[i] == b[i])
		i++;
	return i;
}

static enum status check_tokens(const struct session *s, const int32_t *token, int32_t from, int32_t n,
				struct err *err)
{
	int32_t vocab = s->e->shape.vocab;

	for (int32_t i = from; i < n; i++)
		if (token[i] < 0 || token[i] >= vocab)
			return err_set(err, ERR_ARGUMENT, "token %d: expected an id from 0 to %d, got %d", (int)i,
				       (int)vocab - 1, (int)token[i]);
	return OK;
}

enum status session_sync(struct session *s, const int32_t *token, int32_t n, session_progress *progress, void *ctx,
			 struct err *err)
{
	int32_t common, keep;

	if (n < 1)
		return err_set(err, ERR_ARGUMENT, "prompt: expected at least 1 token, got %d", (int)n);
	if (n > s->e->opt.context)
		return err_set(err, ERR_LIMIT, "the prompt has %d tokens, the context holds %d", (int)n,
			       (int)s->e->opt.context);
	common = common_prefix(s->token, s->n, token, n);
	TRY(check_tokens(s, token, common, n, err));
	s->reused = n;
	if (common == n && s->n == n && s->has_logits)
		return OK;
	keep = common < n ? common : n - 1;	/* the last token must be read for its logits */
	if (s->n > keep)
		fall_back(s, keep);
	TRY(take_from_tree(s, token, n - 1, err));
	s->reused = s->n;
	return prefill(s, token, n, progress, ctx, err);
}

enum status session_push(struct session *s, int32_t token, struct err *err)
{
	if (s->n >= s->e->opt.context)
		return err_set(err, ERR_LIMIT, "the context is full: %d tokens read, it holds %d", (int)s->n,
			       (int)s->e->opt.context);
	TRY(check_tokens(s, &token, 0, 1, err));
	return read_step(s, &token, 1, true, NULL, err);
}

enum status session_rewind(struct session *s, int32_t n, struct err *err)
{
	if (n < 0 || n > s->n)
		return err_set(err, ERR_ARGUMENT, "rewind: expected a position from 0 to %d, got %d", (int)s->n,
			       (int)n);
	if (n == 0) {
		session_reset(s);
		return OK;
	}
	return session_sync(s, s->token, n, NULL, NULL, err);
}

int32_t session_len(const struct session *s)
{
	return s->n;
}

const int32_t *session_tokens(const struct session *s)
{
	return s->token;
}

const float *session_logits(const struct session *s)
{
	return s->has_logits ? s->logits : NULL;
}

int32_t session_reused(const struct session *s)
{
	return s->reused;
}

struct kv *session_kv(struct session *s)
{
	return s->kv;
}
