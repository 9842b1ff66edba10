/* server.c - the process: opens everything, runs the loop, ends in order.
 *
 * How   Signals come in as bytes of a pipe.  After the first stop: listeners close, queued requests are told to come
 *       back, running ones have drain_seconds, then are ended properly; when the last byte is out (or its reader does
 *       not take it) the loop ends, and what is to be kept is written.
 * Careful
 *   - The loading thread is joined before anything it made is closed; it cannot be interrupted.
 *   - s->state is the loop's: the loading thread hands over through a wake. */
#include "server/server.h"

#include <errno.h>
#include <event2/thread.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/server_int.h"
#include "server/tls.h"

enum { FLUSH_SECONDS = 5 };	/* for the last bytes of clients that take their time */

struct running {		/* the loading thread */
	struct server s;
	pthread_t loader;
	bool loading;
};

/* ------------------------------------------------------------------ opening */

static enum status open_parts(struct server *s, struct err *err)
{
	struct http_options h = {.limits = s->o.limits, .request = routes_request, .refused = routes_refused,
				 .done = routes_done, .ctx = s};

	TRY(auth_open(&s->auth, s->o.api_key, err));
	TRY(log_open(&s->log, s->o.log, err));
	if (s->o.trace)
		TRY(log_open(&s->trace, s->o.trace, err));
	if (s->o.tls_cert)
		TRY(tls_open(&s->tls, s->o.tls_cert, s->o.tls_key, err));
	TRY(loop_open(&s->loop, s->base, s->o.threads, err));
	h.base = s->base;
	h.tls = s->tls;
	TRY(http_open(&s->http, &h, err));
	return http_listen(s->http, s->o.host, s->o.port, err);
}

/* ------------------------------------------------------------------ the end */

/* The loop ends when nobody waits for anything any more. */
static void end_if_idle(struct server *s)
{
	if (s->state == SERVER_FAILED)
		event_base_loopbreak(s->base);
	else if (!s->first && !http_active(s->http))
		event_base_loopbreak(s->base);
}

static void drain_tick(evutil_socket_t fd, short what, void *ctx)
{
	struct server *s = ctx;
	double now = clock_seconds();

	(void)fd;
	(void)what;
	if (now >= s->stop_at)
		generations_stop(s, true);
	if (now >= s->stop_at + FLUSH_SECONDS)
		event_base_loopbreak(s->base);
	else
		end_if_idle(s);
}

static void stop(struct server *s)
{
	if (s->state == SERVER_STOPPING || s->state == SERVER_FAILED)
		return;
	s->state = SERVER_STOPPING;
	s->stop_at = clock_seconds() + s->o.drain_seconds;
	log_line(s->log, "stopping");
	http_drain(s->http);
	generations_stop(s, false);
	event_add(s->drain_timer, &(struct timeval){.tv_usec = 20000});
}

static void on_signal_byte(evutil_socket_t fd, short what, void *ctx)
{
	struct server *s = ctx;
	char c;

	(void)what;
	while (read((int)fd, &c, 1) == 1) {
		if (c == SERVER_STOP) {
			stop(s);
		} else {
			log_reopen(s->log);
			log_reopen(s->trace);
		}
	}
}

void server_signal(struct server *s, enum server_signal sig)
{
	int saved = errno;
	char c = (char)sig;

	if (write(s->signal_pipe[1], &c, 1) < 0)
		c = 0;		/* the pipe is full of signals: it will wake */
	errno = saved;
}

/* ------------------------------------------------------------------ the model, behind */

static void *load(void *ctx)
{
	struct server *s = ctx;

	if (backing_open(s, &s->load_err) != OK && s->load_err.code == OK)
		err_set(&s->load_err, ERR_IO, "the model could not be loaded");
	wake_post(s->loop, &s->loaded);
	return NULL;
}

static void on_loaded(struct wake *t)
{
	struct server *s = (struct server *)((char *)t - offsetof(struct server, loaded));

	if (s->load_err.code != OK && s->state == SERVER_LOADING) {
		s->state = SERVER_FAILED;
		event_base_loopbreak(s->base);
	} else if (s->state == SERVER_LOADING) {
		s->state = SERVER_READY;
		log_line(s->log, "ready model=%s backend=%s ctx=%d seconds=%.2f", s->engine->name, s->engine->opt.backend,
			 (int)s->env.context, clock_seconds() - s->metrics.started);
	}
}

/* Who still hangs on is dropped; when the threads have ended and the last wakes have run no generation is left. */
static void end_all(struct server *s)
{
	if (s->http)
		http_drop(s->http);
	loop_close(s->loop);
	s->loop = NULL;
}

/* ------------------------------------------------------------------ life */

enum status server_open(struct server **out, const struct server_options *o, struct err *err)
{
	struct running *r = mem_zero(sizeof *r);
	struct server *s = &r->s;
	enum status st;

	*out = NULL;
	if (!r)
		return err_set(err, ERR_MEMORY, "no memory for a server");
	signal(SIGPIPE, SIG_IGN);	/* a client that leaves is an event, not the end */
	s->o = *o;
	s->metrics.started = clock_seconds();
	s->loaded.run = on_loaded;
	s->signal_pipe[0] = s->signal_pipe[1] = -1;
	evthread_use_pthreads();
	s->base = event_base_new();
	if (!s->base || pipe(s->signal_pipe) != 0) {
		server_close(s);
		return err_set(err, ERR_MEMORY, "no memory for an event loop");
	}
	for (int i = 0; i < 2; i++) {
		fcntl(s->signal_pipe[i], F_SETFL, O_NONBLOCK);
		fcntl(s->signal_pipe[i], F_SETFD, FD_CLOEXEC);
	}
	s->signal_event = event_new(s->base, s->signal_pipe[0], EV_READ | EV_PERSIST, on_signal_byte, s);
	s->drain_timer = event_new(s->base, -1, EV_PERSIST, drain_tick, s);
	st = s->signal_event && s->drain_timer ? open_parts(s, err) : err_set(err, ERR_MEMORY, "no memory for an event loop");
	if (st != OK) {
		server_close(s);
		return st;
	}
	event_add(s->signal_event, NULL);
	*out = s;
	return OK;
}

int server_port(const struct server *s)
{
	return http_port(s->http);
}

enum status server_run(struct server *s, struct err *err)
{
	struct running *r = (struct running *)s;

	if (pthread_create(&r->loader, NULL, load, s) != 0)
		return err_set(err, ERR_MEMORY, "the loading thread cannot be started");
	r->loading = true;
	event_base_dispatch(s->base);
	pthread_join(r->loader, NULL);
	r->loading = false;
	if (s->state == SERVER_FAILED) {
		*err = s->load_err;
		return err->code;
	}
	end_all(s);
	log_line(s->log, "saving");
	backing_save(s);
	log_line(s->log, "stopped");
	return OK;
}

void server_close(struct server *s)
{
	struct running *r = (struct running *)s;

	if (!s)
		return;
	end_all(s);
	backing_close(s);
	http_close(s->http);
	tls_close(s->tls);
	log_close(s->trace);
	log_close(s->log);
	auth_close(s->auth);
	if (s->signal_event)
		event_free(s->signal_event);
	if (s->drain_timer)
		event_free(s->drain_timer);
	if (s->base) {
		event_base_loop(s->base, EVLOOP_NONBLOCK);	/* libevent lets go of connections in the loop */
		event_base_free(s->base);
	}
	for (int i = 0; i < 2; i++)
		if (s->signal_pipe[i] >= 0)
			close(s->signal_pipe[i]);
	mem_free(r);
}
