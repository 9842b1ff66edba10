/* server.h - `ds4 serve` without its command line: listens, loads the model behind, answers, ends in order.
 *
 *   server_open    binds the addresses: whoever is called back knows the port
 *   server_run     serves until told to stop; the model is loaded on a thread, and /health answers meanwhile
 *   server_signal  from a signal handler or any thread
 *   server_close
 *
 * The end: no new connections, queued requests are told to come back, running ones get drain_seconds to end by
 * themselves and are then ended properly; exact replay and the disk cache are saved. */
#ifndef DS4_SERVER_SERVER_H
#define DS4_SERVER_SERVER_H

#include "engine/engine.h"
#include "server/http.h"

struct server;

/* How far loading has come; the loader writes, the loop reads. */
struct server_progress {
	const char *phase;		/* a constant: "reading the file" */
	uint64_t done, total;		/* bytes; total 0 = unknown */
};

static inline void server_phase(struct server_progress *p, const char *phase)
{
	__atomic_store_n(&p->phase, phase, __ATOMIC_RELAXED);
}

static inline void server_bytes(struct server_progress *p, uint64_t done, uint64_t total)
{
	__atomic_store_n(&p->done, done, __ATOMIC_RELAXED);
	__atomic_store_n(&p->total, total, __ATOMIC_RELAXED);
}

struct server_options {
	const char *host;		/* NULL = 127.0.0.1 and ::1 */
	int port;			/* 0 = a free one */
	const char *api_key;		/* see auth.h */
	const char *tls_cert, *tls_key;	/* PEM files; both or none */
	bool cors;			/* pages of any origin may ask */
	struct http_limits limits;
	int max_queue;			/* generating requests that have not begun */
	int max_per_client;		/* generating requests of one address at once; 0 = no limit */
	double request_seconds;		/* an answer's longest time; 0 = no limit */
	double drain_seconds;
	double comment_seconds;		/* between keep-alive comments */
	bool pad;			/* white space before the JSON of answers that are not streamed */
	int threads;			/* for parsing and rendering */
	const char *log, *trace;	/* files; log NULL = standard error, trace NULL = none */
	bool quiet;			/* no line per request */
	const char *model_id;		/* as clients call it */
	const char *version;
	bool thinking_samples, completions_chat;	/* dialect_env */
	int32_t max_tokens;		/* when a request names none; 0 = until the context is full */
	int profile;			/* enum profile, or -1: by the model's name */
	const char *stub;		/* scripted answers (stub.h); NULL = none */
	bool replay;			/* exact replay of earlier answers */
	uint64_t replay_bytes;		/* 0 = its default */
	const char *kv_dir;		/* history and answers on disk; NULL = in memory only */
	uint64_t kv_bytes;
	/* Called on a thread of its own. */
	enum status (*load)(void *ctx, struct engine **out, struct server_progress *p, struct err *err);
	void *load_ctx;
};

/* What is not the caller's to choose: */
#define SERVER_OPTIONS_DEFAULT                                                                                     \
	{.port = 8000, .limits = HTTP_LIMITS_DEFAULT, .max_queue = 256, .drain_seconds = 10, .comment_seconds = 5,  \
	 .threads = 2, .model_id = "deepseek-v4-flash", .version = "ds4", .thinking_samples = true, .profile = -1, \
	 .replay = true}

enum status server_open(struct server **out, const struct server_options *o, struct err *err);
int server_port(const struct server *s);

/* Returns when it was stopped and everything is saved; or the loader's error. */
enum status server_run(struct server *s, struct err *err);
void server_close(struct server *s);

enum server_signal {
	SERVER_STOP = 's',
	SERVER_REOPEN = 'r'		/* the log and the trace */
};

void server_signal(struct server *s, enum server_signal sig);	/* async-signal-safe */

#endif
