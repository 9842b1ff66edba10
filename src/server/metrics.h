/* metrics.h - what the server counts, and how Prometheus wants to read it.
 *
 * Thread: the loop's. */
#ifndef DS4_SERVER_METRICS_H
#define DS4_SERVER_METRICS_H

#include "base/buf.h"
#include "engine/worker.h"
#include "turn/turn.h"

enum { METRICS_BUCKETS = 18, METRICS_REQUESTS = 160 };

struct histogram {
	uint64_t count[METRICS_BUCKETS + 1];	/* the last one: above all bounds */
	double sum;
};

struct metrics {
	double started;			/* clock */
	struct {
		const char *path;	/* of the route, a constant */
		int status;
		uint64_t n;
	} requests[METRICS_REQUESTS];
	int n_requests;
	uint64_t finish[TURN_ERROR + 1];
	uint64_t prompt, cached, generated, reasoning;	/* tokens */
	uint64_t refused_busy, client_gone;
	uint64_t body_bytes, sent_bytes;
	struct histogram first_token, between_tokens, queue, whole;
};

void metrics_request(struct metrics *m, const char *path, int status);
void metrics_usage(struct metrics *m, enum turn_finish finish, const struct turn_usage *u);
void histogram_add(struct histogram *h, double seconds);

/* What is asked of others when somebody reads the metrics. */
struct metrics_now {
	const char *version, *model, *backend;	/* NULL before a model is there */
	int connections, parsing, queued, running;
	const struct worker_stats *worker;	/* NULL likewise */
	uint64_t disk_bytes, disk_budget, disk_errors;
	bool has_disk;
	uint64_t replay_turns, replay_bytes, replay_hits, replay_misses;
};

void metrics_write(const struct metrics *m, const struct metrics_now *now, struct buf *out);

#endif
