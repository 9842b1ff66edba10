/* generation.c - one generating request, from its body to the last byte of its answer.
 *
 *	loop   generation_begin        queue limits; the body goes to a thread
 *	thread work                JSON, dialect, rendering, tokens, constraints: everything that can be refused
 *	loop   parsed              an error, or headers and a comment, then the engine's thread has it
 *	loop   on_wake             turn events -> dialect -> bytes, as often as the engine says so
 *	loop   generation_end          counts, log, trace
 *
 * Careful
 *   - The client may leave at any point: x is NULL from then on.  While a thread works on the request everything else
 *     waits for it to come back.
 *   - Above HIGH_WATER unsent bytes nothing is read from the turn: its mailbox fills and the engine lets it rest.
 *   - exchange_reply and exchange_end may free the connection and begin the next request: nothing of the exchange is
 *     touched afterwards.
 *   - The notifications of a turn end with turn_close(); one may still be on its way through the loop, so the memory goes
 *     by a last task. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/server_int.h"
#include "server/trace.h"

enum { HIGH_WATER = 256 << 10 };

enum generation_state {
	GENERATION_PARSING,
	GENERATION_QUEUED,		/* the engine's thread has it, nothing has begun */
	GENERATION_READING,
	GENERATION_GENERATING,
	GENERATION_DONE
};

struct generation {
	struct generation *prev, *next;
	struct server *s;
	struct exchange *x;		/* NULL: the client has left */
	const struct dialect *d;
	enum generation_state state;
	struct job job;
	struct wake wake;
	struct buf body;
	size_t body_bytes;		/* as counted by the HTTP server; 0 when given back */
	struct dialect_env env;
	struct api_request q;
	struct api_error e;
	struct stub_answer script;
	int pieces;			/* of the answer so far */
	struct turn *turn;
	struct writer *w;
	struct event *timer;
	struct buf out;
	bool streaming, padded;
	bool ended_by_us;		/* shutdown or time limit: e says which */
	bool visible;			/* the client has seen a piece of the answer */
	int32_t done, total;		/* of the prompt */
	double since, first_at, last_at;
	struct turn_usage usage;
	struct trace *trace;
	char peer[64], id[32];
};

/* ------------------------------------------------------------------ the list */

static void list_add(struct generation *a)
{
	struct server *s = a->s;

	a->prev = s->last;
	if (s->last)
		s->last->next = a;
	else
		s->first = a;
	s->last = a;
}

static void list_remove(struct generation *a)
{
	struct server *s = a->s;

	if (a->prev)
		a->prev->next = a->next;
	else
		s->first = a->next;
	if (a->next)
		a->next->prev = a->prev;
	else
		s->last = a->prev;
}

int generations_count(const struct server *s, int *parsing, int *queued)
{
	int n = 0;

	*parsing = *queued = 0;
	for (const struct generation *a = s->first; a; a = a->next) {
		n++;
		*parsing += a->state == GENERATION_PARSING;
		*queued += a->state == GENERATION_QUEUED;
	}
	return n;
}

static int position(const struct generation *a)
{
	int n = 0;

	for (const struct generation *b = a->prev; b; b = b->prev)
		n += b->state <= GENERATION_QUEUED;
	return n;
}

/* ------------------------------------------------------------------ the end */

static void last_task(struct wake *t)
{
	mem_free((char *)t - offsetof(struct generation, wake));
}

/* Everything but the exchange, which is answered or gone. */
static void generation_end(struct generation *a, int status)
{
	struct server *s = a->s;
	double seconds = clock_seconds() - a->since;

	a->state = GENERATION_DONE;
	list_remove(a);
	if (!s->o.quiet)
		log_line(s->log, "%s api=%s from=%s status=%d seconds=%.3f first=%.3f prompt=%d cached=%d generated=%d",
			 a->id, a->d->name, a->peer, status, seconds, a->first_at ? a->first_at - a->since : 0.0,
			 (int)a->usage.prompt, (int)a->usage.cached, (int)a->usage.generated);
	trace_end(a->trace, s->trace, status, seconds);
	a->trace = NULL;
	histogram_add(&s->metrics.whole, seconds);
	if (a->timer)
		event_free(a->timer);
	turn_close(a->turn);
	a->d->close(a->w);
	api_request_clear(&a->q);
	token_list_clear(&a->script.ids);
	buf_clear(&a->body);
	buf_clear(&a->out);
	http_body_freed(s->http, a->body_bytes);
	a->wake.run = last_task;
	wake_post(s->loop, &a->wake);
}

static void on_gone(void *ctx)
{
	struct generation *a = ctx;

	a->x = NULL;
	a->s->metrics.client_gone++;
	if (a->state == GENERATION_PARSING)
		return;		/* parsed() ends it */
	turn_cancel(a->turn);
	a->usage.generated = 0;
	generation_end(a, 499);
}

/* An error as the whole answer, or as the end of a stream. */
static void fail(struct generation *a, const struct api_error *e)
{
	struct exchange *x = a->x;
	int status = a->streaming || a->padded ? 200 : e->status;

	trace_error(a->trace, e->status, e->message);
	a->x = NULL;
	if (a->streaming) {
		a->d->fail(a->w, e, &a->out);
		exchange_write(x, buf_cstr(&a->out), a->out.len);
		exchange_end(x);
	} else if (a->padded) {
		a->d->error(e, a->id, &a->out);
		exchange_write(x, buf_cstr(&a->out), a->out.len);
		exchange_end(x);
	} else {
		reply_error(x, a->d, e);
	}
	generation_end(a, status);
}

/* ------------------------------------------------------------------ events */

static void note_piece(struct generation *a)
{
	struct metrics *m = &a->s->metrics;
	double now = clock_seconds();

	a->state = GENERATION_GENERATING;
	a->pieces++;
	if (!a->first_at) {
		a->first_at = now;
		histogram_add(&m->first_token, now - a->since);
	} else {
		histogram_add(&m->between_tokens, now - a->last_at);
	}
	a->last_at = now;
}

/* The last event.  Not an answer that was not begun: fail() says why it ended. */
static void finish(struct generation *a, const struct turn_event *ev)
{
	struct turn_event last = *ev;

	a->usage = ev->usage;
	metrics_usage(&a->s->metrics, ev->finish, &ev->usage);
	a->state = GENERATION_DONE;
	if (ev->finish == TURN_ERROR) {
		api_error_from(&a->e, a->d, ev->err);
	} else if (ev->finish != TURN_CANCELLED) {
		a->e.status = 0;
	} else if (a->visible) {
		last.finish = TURN_LENGTH;	/* what there is stands; the client sees that it was cut */
		a->e.status = 0;
	} else if (!a->ended_by_us) {
		api_error_set(&a->e, 500, NULL, NULL, "the request was cancelled");
	}
	if (!a->e.status)
		a->d->event(a->w, &last, &a->out);
}

static bool take(void *ctx, const struct turn_event *ev)
{
	struct generation *a = ctx;

	trace_event(a->trace, ev, clock_seconds() - a->since);
	switch (ev->kind) {
	case TURN_WAITING:
		break;
	case TURN_STARTED:
		a->state = GENERATION_READING;
		a->usage = ev->usage;
		a->done = ev->done;
		histogram_add(&a->s->metrics.queue, clock_seconds() - a->since);
		break;
	case TURN_READ:
		a->done = ev->done;
		a->total = ev->total;
		break;
	case TURN_FINISH:
		finish(a, ev);
		return true;
	default:
		note_piece(a);
		a->visible = true;
	}
	a->d->event(a->w, ev, &a->out);
	return true;
}

/* The answer is complete: its rest, and the end. */
static void complete(struct generation *a)
{
	struct exchange *x = a->x;

	a->x = NULL;
	if (!buf_ok(&a->out)) {
		api_error_set(&a->e, 500, NULL, NULL, "no memory for the answer");
		buf_clear(&a->out);
		a->x = x;
		fail(a, &a->e);
		return;
	}
	if (a->streaming || a->padded) {
		exchange_write(x, buf_cstr(&a->out), a->out.len);
		if (a->padded)
			exchange_write(x, "\n", 1);
		exchange_end(x);
	} else {
		reply_json(x, 200, &a->out);
	}
	generation_end(a, 200);
}

static void read_turn(struct generation *a)
{
	if (!a->x || a->state == GENERATION_PARSING || a->state == GENERATION_DONE || exchange_unsent(a->x) > HIGH_WATER)
		return;
	turn_read(a->turn, 0, take, a);
	if (a->state == GENERATION_DONE) {
		if (a->e.status)
			fail(a, &a->e);
		else
			complete(a);
	} else if (a->streaming && a->out.len && buf_ok(&a->out)) {
		exchange_write(a->x, a->out.data, a->out.len);
		buf_cut(&a->out, 0);
		if (a->script.cut && a->pieces >= a->script.cut)
			exchange_cut(a->x);
	}
}

static void on_wake(struct wake *t)
{
	read_turn((struct generation *)((char *)t - offsetof(struct generation, wake)));
}

/* From the engine's thread. */
static void notify(void *ctx)
{
	struct generation *a = ctx;

	wake_post(a->s->loop, &a->wake);
}

static void on_drained(void *ctx)
{
	read_turn(ctx);
}

/* ------------------------------------------------------------------ keeping it alive */

static void comment(struct generation *a)
{
	char text[64];
	int n;

	if (a->state <= GENERATION_QUEUED)
		n = snprintf(text, sizeof text, ": queued %d\n\n", position(a));
	else if (a->state == GENERATION_READING)
		n = snprintf(text, sizeof text, ": prefill %d/%d\n\n", (int)a->done, (int)a->total);
	else
		n = snprintf(text, sizeof text, ": generating\n\n");
	exchange_write(a->x, text, (size_t)n);
}

static void end_early(struct generation *a)
{
	if (a->ended_by_us)
		return;
	a->ended_by_us = true;
	if (a->turn)
		turn_cancel(a->turn);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct generation *a = ctx;
	double limit = a->s->o.request_seconds;

	(void)fd;
	(void)what;
	if (!a->x)
		return;
	if (limit > 0 && clock_seconds() - a->since > limit && !a->ended_by_us) {
		api_error_set(&a->e, 504, NULL, NULL, "the request took longer than the server allows, %g seconds", limit);
		end_early(a);
	}
	if (exchange_unsent(a->x))
		return;		/* it has something to read */
	if (a->streaming)
		comment(a);
	else if (a->padded)
		exchange_write(a->x, " ", 1);
}

static void start_timer(struct generation *a)
{
	double seconds = a->s->o.comment_seconds;
	struct timeval t;

	if (a->s->o.request_seconds > 0 && a->s->o.request_seconds < seconds)
		seconds = a->s->o.request_seconds;
	t.tv_sec = (time_t)seconds;
	t.tv_usec = (suseconds_t)((seconds - (double)t.tv_sec) * 1e6);
	a->timer = event_new(a->s->base, -1, EV_PERSIST, on_timer, a);
	if (a->timer)
		event_add(a->timer, &t);
}

/* ------------------------------------------------------------------ parsing, on a thread */

static bool open_turn(struct generation *a)
{
	struct err err = {0};
	int32_t n = 0;

	if (a->s->stub) {
		if (stub_next(a->s->stub, a->env.tokenizer, &a->q, a->body.data, a->body.len, &a->script, &err) != OK) {
			api_error_set(&a->e, 400, NULL, NULL, "%s", err.msg);
			return false;
		}
		if (a->script.busy)
			api_error_busy(&a->e, a->d, 1);
		else if (a->script.overflow)
			api_error_overflow(&a->e, a->d, a->env.context + 1000, a->env.context);
		if (a->e.status)
			return false;
		a->q.turn.script = a->script.ids.id;
		a->q.turn.n_script = (int32_t)a->script.ids.n;
	}
	if (a->q.turn.max_tokens < 0 && a->s->o.max_tokens > 0)
		a->q.turn.max_tokens = a->s->o.max_tokens;
	if (turn_open(&a->turn, &a->s->turn, &a->q.turn, &n, &err) != OK) {
		if (err.code == ERR_LIMIT && n >= a->env.context)
			api_error_overflow(&a->e, a->d, n, a->env.context);
		else
			api_error_from(&a->e, a->d, &err);
		return false;
	}
	a->total = n;
	a->w = a->d->open(&a->q, &a->env, n);
	if (!a->w)
		api_error_busy(&a->e, a->d, 1);
	return a->w != NULL;
}

static void work(struct job *j)
{
	struct generation *a = (struct generation *)((char *)j - offsetof(struct generation, job));
	json_t *body = api_body(buf_cstr(&a->body), a->body.len, &a->e);

	if (a->trace)
		trace_request(a->trace, buf_cstr(&a->body), a->body.len);
	if (body && a->d->parse(body, &a->env, &a->q, &a->e) && open_turn(a))
		a->e.status = 0;
	json_decref(body);
	if (a->turn)
		trace_prompt(a->trace, a->env.tokenizer, turn_prompt(a->turn), turn_prompt_tokens(a->turn));
	buf_clear(&a->body);
}

/* ------------------------------------------------------------------ on the loop again */

static void begin_stream(struct generation *a)
{
	exchange_field(a->x, "Cache-Control", "no-cache");
	exchange_field(a->x, "X-Accel-Buffering", "no");
	exchange_begin(a->x, 200, "text/event-stream; charset=utf-8");
	a->streaming = true;
	comment(a);
}

static void parsed(struct wake *t)
{
	struct generation *a = (struct generation *)((char *)t - offsetof(struct generation, job.back));
	struct err err = {0};

	http_body_freed(a->s->http, a->body_bytes);
	a->body_bytes = 0;
	if (!a->x) {
		generation_end(a, 499);
		return;
	}
	a->state = GENERATION_QUEUED;
	if (a->ended_by_us || a->s->state != SERVER_READY)
		api_error_busy(&a->e, a->d, 1);
	if (a->e.status || !a->turn) {
		fail(a, &a->e);
		return;
	}
	a->x->drained = on_drained;
	if (a->q.stream) {
		begin_stream(a);
	} else if (a->s->o.pad) {
		a->padded = true;
		exchange_begin(a->x, 200, "application/json");
	}
	start_timer(a);
	if (turn_start(a->turn, notify, a, &err) != OK) {
		api_error_from(&a->e, a->d, &err);
		fail(a, &a->e);
	}
}

static bool admitted(struct server *s, struct exchange *x, const struct dialect *d)
{
	struct api_error e = {0};
	int parsing, queued, same = 0;

	generations_count(s, &parsing, &queued);
	for (const struct generation *a = s->first; a && s->o.max_per_client; a = a->next)
		same += !strcmp(a->peer, exchange_peer(x));
	if (s->state != SERVER_READY) {
		api_error_busy(&e, d, s->state == SERVER_LOADING ? 2 : 1);
		snprintf(e.message, sizeof e.message, s->state == SERVER_LOADING ? "the model is being loaded; try again" :
			 "the server is shutting down; try again");
	} else if (parsing + queued >= s->o.max_queue) {
		api_error_busy(&e, d, 1);
	} else if (s->o.max_per_client && same >= s->o.max_per_client) {
		api_error_set(&e, 429, NULL, "rate_limit_exceeded", "%d requests of this client are under way, more are not "
			      "allowed; try again", same);
		e.retry_after = 1;
	} else {
		return true;
	}
	s->metrics.refused_busy++;
	reply_error(x, d, &e);
	return false;
}

void generation_begin(struct server *s, struct exchange *x, const struct dialect *d)
{
	struct api_error e = {0};
	struct generation *a;

	if (!admitted(s, x, d))
		return;
	a = mem_zero(sizeof *a);
	if (!a) {
		api_error_busy(&e, d, 1);
		reply_error(x, d, &e);
		return;
	}
	a->s = s;
	a->x = x;
	a->d = d;
	a->since = x->since;
	a->env = s->env;
	a->env.now = (int64_t)time(NULL);
	a->env.seed = ((uint64_t)a->env.now << 32) ^ (uint64_t)(clock_seconds() * 1e9);
	a->out.cap = BUF_MAX;
	a->wake.run = on_wake;
	a->job.work = work;
	a->job.back.run = parsed;
	snprintf(a->peer, sizeof a->peer, "%s", exchange_peer(x));
	snprintf(a->id, sizeof a->id, "%s", x->id);
	if (s->trace)
		a->trace = trace_new(a->id, d->name, a->peer);
	s->metrics.body_bytes += x->body.len;
	a->body_bytes = x->body.len;
	exchange_take_body(x, &a->body);
	x->gone = on_gone;
	x->ctx = a;
	list_add(a);
	job_post(s->loop, &a->job);
}

/* Queued answers are told to come back; with all, running ones end where they are. */
void generations_stop(struct server *s, bool all)
{
	struct generation *next;

	for (struct generation *a = s->first; a; a = next) {
		next = a->next;
		if (a->state != GENERATION_PARSING && a->state != GENERATION_QUEUED && !all)
			continue;
		api_error_busy(&a->e, a->d, 1);
		snprintf(a->e.message, sizeof a->e.message, "the server is shutting down; try again");
		if (a->state == GENERATION_QUEUED && a->x) {
			turn_cancel(a->turn);
			fail(a, &a->e);
		} else {
			end_early(a);
		}
	}
}
