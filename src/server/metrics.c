/* metrics.c - counters and histograms, and Prometheus' text form of them.
 *
 * Careful
 *   - A counter never goes down: what memory saved is what was cached less what came from disk, and the two are known at
 *     different moments, so the difference is kept from shrinking.
 *   - Histogram buckets are cumulative in the text, not here. */
#include "server/metrics.h"

#include <string.h>

#include "base/clock.h"

static const double bound[METRICS_BUCKETS] = {
	0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300,
};

void histogram_add(struct histogram *h, double seconds)
{
	int i = 0;

	while (i < METRICS_BUCKETS && seconds > bound[i])
		i++;
	h->count[i]++;
	h->sum += seconds;
}

void metrics_request(struct metrics *m, const char *path, int status)
{
	int i = 0;

	while (i < m->n_requests && (m->requests[i].path != path || m->requests[i].status != status))
		i++;
	if (i == METRICS_REQUESTS)
		return;
	if (i == m->n_requests) {
		m->requests[i].path = path;
		m->requests[i].status = status;
		m->n_requests++;
	}
	m->requests[i].n++;
}

void metrics_usage(struct metrics *m, enum turn_finish finish, const struct turn_usage *u)
{
	m->finish[finish]++;
	m->prompt += (uint64_t)u->prompt;
	m->cached += (uint64_t)u->cached;
	m->generated += (uint64_t)u->generated;
	m->reasoning += (uint64_t)u->reasoning;
}

/* ------------------------------------------------------------------ text */

static void title(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP ds4_%s %s\n# TYPE ds4_%s %s\n", name, help, name, type);
}

static void one(struct buf *out, const char *name, const char *type, const char *help, double value)
{
	title(out, name, type, help);
	buf_printf(out, "ds4_%s %.17g\n", name, value);
}

static void buckets(struct buf *out, const char *name, const char *label, const double *bounds, int n,
		    const uint64_t *count, double sum)
{
	uint64_t all = 0;

	for (int i = 0; i < n; i++) {
		all += count[i];
		buf_printf(out, "ds4_%s_bucket{%sle=\"%g\"} %llu\n", name, label, bounds[i], (unsigned long long)all);
	}
	all += count[n];
	buf_printf(out, "ds4_%s_bucket{%sle=\"+Inf\"} %llu\n", name, label, (unsigned long long)all);
	if (*label)	/* "backend=\"cpu\"," -> {backend="cpu"} */
		buf_printf(out, "ds4_%s_sum{%.*s} %.17g\nds4_%s_count{%.*s} %llu\n", name, (int)strlen(label) - 1, label,
			   sum, name, (int)strlen(label) - 1, label, (unsigned long long)all);
	else
		buf_printf(out, "ds4_%s_sum %.17g\nds4_%s_count %llu\n", name, sum, name, (unsigned long long)all);
}

static void histogram(struct buf *out, const char *name, const char *help, const struct histogram *h)
{
	title(out, name, "histogram", help);
	buckets(out, name, "", bound, METRICS_BUCKETS, h->count, h->sum);
}

static void labelled(struct buf *out, const char *name, const char *label, const char *value, uint64_t n)
{
	buf_printf(out, "ds4_%s{%s=\"%s\"} %llu\n", name, label, value, (unsigned long long)n);
}

static void write_requests(const struct metrics *m, const struct metrics_now *now, struct buf *out)
{
	title(out, "http_requests_total", "counter", "Requests answered, by path and status.");
	for (int i = 0; i < m->n_requests; i++)
		buf_printf(out, "ds4_http_requests_total{path=\"%s\",code=\"%d\"} %llu\n", m->requests[i].path,
			   m->requests[i].status, (unsigned long long)m->requests[i].n);
	one(out, "http_request_bytes_total", "counter", "Bytes of request bodies.", (double)m->body_bytes);
	one(out, "http_response_bytes_total", "counter", "Bytes of answers' bodies.", (double)m->sent_bytes);
	one(out, "http_connections", "gauge", "Open connections.", now->connections);
	one(out, "refused_busy_total", "counter", "Requests refused because the queue was full.", (double)m->refused_busy);
	one(out, "client_gone_total", "counter", "Answers whose client left before the end.", (double)m->client_gone);
	title(out, "requests", "gauge", "Generating requests under way, by what they do.");
	labelled(out, "requests", "state", "parsing", (uint64_t)now->parsing);
	labelled(out, "requests", "state", "queued", (uint64_t)now->queued);
	labelled(out, "requests", "state", "running", (uint64_t)now->running);
}

static void write_answers(const struct metrics *m, const struct metrics_now *now, struct buf *out)
{
	static const char *const finish[] = {"stop", "stop_string", "tool_calls", "length", "context", "cancelled", "error"};
	uint64_t disk = now->worker ? now->worker->tree.loaded * 128 : 0;

	title(out, "answers_total", "counter", "Answers, by how they ended.");
	for (size_t i = 0; i < sizeof finish / sizeof *finish; i++)
		labelled(out, "answers_total", "finish", finish[i], m->finish[i]);
	title(out, "tokens_total", "counter", "Tokens: prompt (all), generated (all), reasoning (of the generated).");
	labelled(out, "tokens_total", "kind", "prompt", m->prompt);
	labelled(out, "tokens_total", "kind", "generated", m->generated);
	labelled(out, "tokens_total", "kind", "reasoning", m->reasoning);
	title(out, "prompt_tokens_total", "counter", "Prompt tokens, by where their state came from.");
	labelled(out, "prompt_tokens_total", "source", "computed", m->prompt - m->cached);
	labelled(out, "prompt_tokens_total", "source", "cached", m->cached);
	title(out, "cache_tokens_loaded_total", "counter", "Tokens whose state was brought back into memory, by source.");
	labelled(out, "cache_tokens_loaded_total", "source", "disk", disk);
	histogram(out, "time_to_first_token_seconds", "From the request's head to the answer's first piece.",
		  &m->first_token);
	histogram(out, "inter_token_seconds", "Between two pieces of an answer.", &m->between_tokens);
	histogram(out, "queue_seconds", "From the request's head until its prompt is read.", &m->queue);
	histogram(out, "request_seconds", "From the request's head to the answer's end.", &m->whole);
}

static void write_engine(const struct metrics_now *now, struct buf *out)
{
	const struct worker_stats *w = now->worker;
	char label[80];

	snprintf(label, sizeof label, "backend=\"%s\",", now->backend);
	title(out, "step_seconds", "histogram", "Steps of the engine's thread.");
	buckets(out, "step_seconds", label, worker_step_bound, WORKER_STEP_BOUNDS, w->step_count, w->step_seconds);
	one(out, "step_rows_total", "counter", "Rows of all steps: prompt tokens read and tokens generated.",
	    (double)w->counts.rows);
	one(out, "failed_steps_total", "counter", "Steps that had to be repeated one request at a time.",
	    (double)w->counts.failed_steps);
	title(out, "scheduler_requests", "gauge", "Requests in the scheduler, by state.");
	labelled(out, "scheduler_requests", "state", "waiting", (uint64_t)w->counts.waiting);
	labelled(out, "scheduler_requests", "state", "reading", (uint64_t)w->counts.reading);
	labelled(out, "scheduler_requests", "state", "generating", (uint64_t)w->counts.generating);
	labelled(out, "scheduler_requests", "state", "parked", (uint64_t)w->counts.parked);
	title(out, "kv_memory_bytes", "gauge", "History in memory: in use, allowed.");
	labelled(out, "kv_memory_bytes", "what", "used",
		 (uint64_t)w->blocks * w->block_bytes + (uint64_t)w->checks * w->check_bytes);
	labelled(out, "kv_memory_bytes", "what", "limit",
		 (uint64_t)w->blocks_limit * w->block_bytes + (uint64_t)w->checks_limit * w->check_bytes);
	one(out, "tree_blocks", "gauge", "Blocks of 128 tokens in the prefix tree.", w->tree.blocks);
	one(out, "tree_hits_total", "counter", "Requests that began with a known prefix.", (double)w->tree.hits);
	one(out, "tree_misses_total", "counter", "Requests that did not.", (double)w->tree.misses);
	one(out, "tree_tokens_saved_total", "counter", "Tokens that known prefixes saved.", (double)w->tree.tokens_saved);
	one(out, "tree_blocks_evicted_total", "counter", "Blocks that left memory.", (double)w->tree.blocks_evicted);
}

void metrics_write(const struct metrics *m, const struct metrics_now *now, struct buf *out)
{
	title(out, "build_info", "gauge", "Version, model and backend; always 1.");
	buf_printf(out, "ds4_build_info{version=\"%s\",model=\"%s\",backend=\"%s\"} 1\n", now->version ? now->version : "",
		   now->model ? now->model : "", now->backend ? now->backend : "");
	one(out, "up_seconds", "gauge", "Since the server began.", clock_seconds() - m->started);
	write_requests(m, now, out);
	write_answers(m, now, out);
	if (now->worker)
		write_engine(now, out);
	if (now->has_disk) {
		title(out, "kv_disk_bytes", "gauge", "History on disk: in use, allowed (0 = no limit).");
		labelled(out, "kv_disk_bytes", "what", "used", now->disk_bytes);
		labelled(out, "kv_disk_bytes", "what", "limit", now->disk_budget);
		one(out, "kv_disk_errors_total", "counter", "Input and output that failed.", (double)now->disk_errors);
	}
	title(out, "replay_messages_total", "counter",
	      "Assistant messages of requests, by whether their exact tokens were known.");
	labelled(out, "replay_messages_total", "found", "yes", now->replay_hits);
	labelled(out, "replay_messages_total", "found", "no", now->replay_misses);
	one(out, "replay_turns", "gauge", "Turns remembered for exact replay.", (double)now->replay_turns);
	one(out, "replay_bytes", "gauge", "Bytes they take.", (double)now->replay_bytes);
}
