/* server_int.h - the server's parts, for the files that make it up. */
#ifndef DS4_SERVER_SERVER_INT_H
#define DS4_SERVER_SERVER_INT_H

#include <event2/event.h>

#include "server/auth.h"
#include "server/dialect.h"
#include "server/http.h"
#include "server/log.h"
#include "server/loop.h"
#include "server/metrics.h"
#include "server/server.h"
#include "server/stub.h"

struct generation;
struct kvstore;

enum server_state {
	SERVER_LOADING,
	SERVER_READY,
	SERVER_FAILED,		/* the model could not be loaded: about to end */
	SERVER_STOPPING
};

struct server {
	struct server_options o;
	struct event_base *base;
	struct event *signal_event, *drain_timer;
	int signal_pipe[2];
	struct loop *loop;
	struct http *http;
	struct ssl_ctx_st *tls;
	struct auth *auth;
	struct log *log, *trace;
	struct metrics metrics;
	enum server_state state;
	double stop_at;			/* running answers are ended then */
	/* the model: written by the loading thread, read by others once the state is READY */
	struct engine *engine;
	struct turn_tables *tables;
	struct worker *worker;
	struct replay *replay;
	struct kvstore *kvstore;
	struct turn_context turn;
	struct dialect_env env;		/* as it is for every request */
	char fingerprint[32];
	struct stub *stub;
	struct server_progress progress;
	struct err load_err;
	struct wake loaded;
	/* generating requests, oldest first */
	struct generation *first, *last;
};

/* --- backing.c: what stands behind the answers --- */
enum status backing_open(struct server *s, struct err *err);	/* on the loading thread */
void backing_save(struct server *s);	/* ends the engine's thread, writes what is to be kept */
void backing_close(struct server *s);

/* --- routes.c --- */
void routes_request(void *ctx, struct exchange *x);
void routes_refused(void *ctx, struct exchange *x, const struct http_refusal *why);
void routes_done(void *ctx, struct exchange *x);
/* The shape of errors on this path, and the field that names the request. */
const struct dialect *routes_shape(const struct exchange *x);
void reply_error(struct exchange *x, const struct dialect *shape, const struct api_error *e);
void reply_json(struct exchange *x, int status, struct buf *body);	/* adds the final newline */

/* --- pages.c: everything that does not generate --- */
void page_root(struct server *s, struct exchange *x);
void page_health(struct server *s, struct exchange *x);
void page_metrics(struct server *s, struct exchange *x);
void page_models(struct server *s, struct exchange *x);
void page_tokenize(struct server *s, struct exchange *x);
void page_detokenize(struct server *s, struct exchange *x);
void page_count(struct server *s, struct exchange *x);

/* --- generation.c --- */
void generation_begin(struct server *s, struct exchange *x, const struct dialect *d);
void generations_stop(struct server *s, bool all);	/* the queued ones, or all of them */
int generations_count(const struct server *s, int *parsing, int *queued);

#endif
