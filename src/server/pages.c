/* pages.c - everything that does not generate: the root, health, metrics, models, tokens.
 *
 * Careful
 *   - While the model loads only progress may be looked at: the rest of the server's model fields belong to the loading
 *     thread until the state is READY. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "kvstore/kvstore.h"
#include "server/server_int.h"

#define CREATED 1767225600	/* 2026-01-01 */

void page_root(struct server *s, struct exchange *x)
{
	struct buf b = BUF_CAP(4096);

	buf_printf(&b, "%s is serving %s.\n\n"
		   "POST /v1/chat/completions  /v1/completions  /v1/responses  /v1/messages\n"
		   "POST /v1/messages/count_tokens  /tokenize  /detokenize\n"
		   "GET  /v1/models  /health  /metrics\n",
		   s->o.version, s->o.model_id);
	exchange_reply(x, 200, "text/plain; charset=utf-8", buf_cstr(&b), b.len);
	buf_clear(&b);
}

static bool ready(struct server *s, struct exchange *x)
{
	struct api_error e = {0};

	if (s->state == SERVER_READY || (s->state == SERVER_STOPPING && s->worker))
		return true;
	api_error_busy(&e, routes_shape(x), 2);
	snprintf(e.message, sizeof e.message, "the model is being loaded; try again");
	reply_error(x, routes_shape(x), &e);
	return false;
}

static void health_ready(struct server *s, struct buf *b)
{
	int parsing, queued, all = generations_count(s, &parsing, &queued);
	struct kvstore_stats k = {0};
	struct worker_stats w;

	worker_stats(s->worker, &w);
	if (s->kvstore)
		kvstore_stats(s->kvstore, &k);
	buf_str(b, "{\"status\":\"ok\",\"model\":");
	json_write_string(b, s->o.model_id, strlen(s->o.model_id));
	buf_printf(b, ",\"queue\":%d,\"running\":%d,\"ctx\":%d,\"connections\":%d,\"up\":%.0f,\"kv_memory_bytes\":%llu,"
		   "\"kv_disk_bytes\":%llu}", parsing + queued, all - parsing - queued, (int)s->env.context,
		   http_connections(s->http), clock_seconds() - s->metrics.started,
		   (unsigned long long)((uint64_t)w.blocks * w.block_bytes + (uint64_t)w.checks * w.check_bytes),
		   (unsigned long long)k.bytes);
}

static void health_not_ready(struct server *s, struct buf *b)
{
	uint64_t done = __atomic_load_n(&s->progress.done, __ATOMIC_RELAXED);
	uint64_t total = __atomic_load_n(&s->progress.total, __ATOMIC_RELAXED);
	const char *phase = __atomic_load_n(&s->progress.phase, __ATOMIC_RELAXED), *status = "loading";

	if (s->state == SERVER_STOPPING)
		status = phase = "stopping";
	buf_printf(b, "{\"status\":\"%s\",\"phase\":\"%s\",\"progress\":%.3f,\"bytes\":%llu,\"total_bytes\":%llu,"
		   "\"seconds\":%.1f}", status, phase ? phase : "starting", total ? (double)done / (double)total : 0.0,
		   (unsigned long long)done, (unsigned long long)total, clock_seconds() - s->metrics.started);
}

void page_health(struct server *s, struct exchange *x)
{
	struct buf b = BUF_CAP(4096);
	bool ok = s->state == SERVER_READY;

	if (ok) {
		health_ready(s, &b);
	} else {
		health_not_ready(s, &b);
		exchange_field(x, "Retry-After", "2");
	}
	reply_json(x, ok ? 200 : 503, &b);
	buf_clear(&b);
}

void page_metrics(struct server *s, struct exchange *x)
{
	struct metrics_now now = {.version = s->o.version, .model = s->o.model_id};
	struct worker_stats w;
	struct replay_stats r;
	struct kvstore_stats k;
	struct buf b = BUF_CAP(1 << 20);
	int all = generations_count(s, &now.parsing, &now.queued);

	now.running = all - now.parsing - now.queued;
	now.connections = http_connections(s->http);
	if (s->worker && s->state != SERVER_LOADING) {
		worker_stats(s->worker, &w);
		now.worker = &w;
		now.backend = s->engine->opt.backend;
	}
	if (s->replay && s->state != SERVER_LOADING) {
		replay_stats(s->replay, &r);
		now.replay_turns = r.turns;
		now.replay_bytes = r.bytes;
		now.replay_hits = r.hits;
		now.replay_misses = r.misses + r.changed;
	}
	if (s->kvstore && s->state != SERVER_LOADING) {
		kvstore_stats(s->kvstore, &k);
		now.has_disk = true;
		now.disk_bytes = k.bytes;
		now.disk_budget = k.budget;
		now.disk_errors = k.errors + k.damaged;
	}
	metrics_write(&s->metrics, &now, &b);
	exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", buf_cstr(&b), b.len);
	buf_clear(&b);
}

/* ------------------------------------------------------------------ models */

static bool is_ours(const struct server *s, const char *id, size_t n)
{
	static const char *const alias[] = {"deepseek-v4-flash", "deepseek-chat", "deepseek-reasoner"};

	for (size_t i = 0; i < sizeof alias / sizeof *alias; i++)
		if (strlen(alias[i]) == n && !strncmp(alias[i], id, n))
			return true;
	return strlen(s->o.model_id) == n && !strncmp(s->o.model_id, id, n);
}

/* One entry that satisfies OpenAI's clients, Anthropic's and OpenRouter's. */
static void write_model(const struct server *s, struct buf *b, const char *id, size_t n)
{
	bool known = s->state == SERVER_READY || s->state == SERVER_STOPPING;
	int context = known && s->engine ? (int)s->env.context : 0;
	const char *name = known && s->engine ? s->engine->name : s->o.model_id;

	buf_str(b, "{\"id\":");
	json_write_string(b, id, n);
	buf_printf(b, ",\"object\":\"model\",\"type\":\"model\",\"created\":%d,\"created_at\":\"2026-01-01T00:00:00Z\","
		   "\"owned_by\":\"ds4.c\",\"name\":", CREATED);
	json_write_string(b, name, strlen(name));
	buf_str(b, ",\"display_name\":");
	json_write_string(b, name, strlen(name));
	buf_printf(b, ",\"context_length\":%d,\"max_model_len\":%d,\"top_provider\":{\"context_length\":%d,"
		   "\"max_completion_tokens\":%d,\"is_moderated\":false},\"supported_parameters\":[\"max_tokens\","
		   "\"max_completion_tokens\",\"temperature\",\"top_p\",\"top_k\",\"min_p\",\"seed\",\"stop\",\"stream\","
		   "\"tools\",\"tool_choice\",\"parallel_tool_calls\",\"reasoning_effort\",\"thinking\",\"logprobs\","
		   "\"top_logprobs\",\"response_format\"]}", context, context, context, context);
}

void page_models(struct server *s, struct exchange *x)
{
	const char *id = x->head.path + strlen("/v1/models");
	struct buf b = BUF_CAP(64 << 10);
	struct api_error e = {0};
	size_t n;

	id += *id == '/';
	n = strlen(id);
	if (n && !is_ours(s, id, n)) {
		api_error_set(&e, 404, "model", "model_not_found", "the model '%.200s' does not exist; there is '%s'", id,
			      s->o.model_id);
		reply_error(x, routes_shape(x), &e);
		return;
	}
	if (n) {
		write_model(s, &b, id, n);
	} else {
		buf_str(&b, "{\"object\":\"list\",\"data\":[");
		write_model(s, &b, s->o.model_id, strlen(s->o.model_id));
		buf_str(&b, "],\"has_more\":false,\"first_id\":");
		json_write_string(&b, s->o.model_id, strlen(s->o.model_id));
		buf_str(&b, ",\"last_id\":");
		json_write_string(&b, s->o.model_id, strlen(s->o.model_id));
		buf_byte(&b, '}');
	}
	reply_json(x, 200, &b);
	buf_clear(&b);
}

/* ------------------------------------------------------------------ tokens: work on a thread */

/* A request whose answer is made by one function of its body. */
struct lookup {
	struct job job;
	struct server *s;
	struct exchange *x;		/* NULL: the client has left */
	const struct dialect *shape;
	struct buf body;
	size_t body_bytes;
	void (*make)(struct lookup *l, json_t *body);	/* fills out, or e */
	struct buf out;
	struct api_error e;
};

static void lookup_gone(void *ctx)
{
	((struct lookup *)ctx)->x = NULL;
}

static void lookup_work(struct job *j)
{
	struct lookup *l = (struct lookup *)j;
	json_t *body = api_body(buf_cstr(&l->body), l->body.len, &l->e);

	if (body)
		l->make(l, body);
	json_decref(body);
}

static void lookup_done(struct wake *t)
{
	struct lookup *l = (struct lookup *)((char *)t - offsetof(struct lookup, job.back));
	struct server *s = l->s;

	http_body_freed(s->http, l->body_bytes);
	if (!l->out.len && !l->e.status)	/* the threads had been told to end */
		api_error_busy(&l->e, l->shape, 1);
	if (l->x && l->e.status)
		reply_error(l->x, l->shape, &l->e);
	else if (l->x)
		reply_json(l->x, 200, &l->out);
	buf_clear(&l->body);
	buf_clear(&l->out);
	mem_free(l);
}

static void look_up(struct server *s, struct exchange *x, void (*make)(struct lookup *l, json_t *body))
{
	struct lookup *l;
	struct api_error e = {0};

	if (!ready(s, x))
		return;
	l = loop_jobs(s->loop) < s->o.max_queue ? mem_zero(sizeof *l) : NULL;
	if (!l) {
		api_error_busy(&e, routes_shape(x), 1);
		reply_error(x, routes_shape(x), &e);
		return;
	}
	l->s = s;
	l->x = x;
	l->shape = routes_shape(x);
	l->make = make;
	l->out.cap = BUF_MAX;
	l->body_bytes = x->body.len;
	exchange_take_body(x, &l->body);
	l->job.work = lookup_work;
	l->job.back.run = lookup_done;
	x->gone = lookup_gone;
	x->ctx = l;
	job_post(s->loop, &l->job);
}

static void count(struct lookup *l, json_t *body)
{
	struct dialect_env env = l->s->env;
	struct api_request q = {0};
	struct err err = {0};
	int32_t n = 0;

	env.now = (int64_t)time(NULL);
	if (dialect_messages.parse(body, &env, &q, &l->e)) {
		if (turn_count(&l->s->turn, &q.turn, &n, &err) == OK)
			buf_printf(&l->out, "{\"input_tokens\":%d}", (int)n);
		else
			api_error_from(&l->e, &dialect_messages, &err);
	}
	api_request_clear(&q);
}

void page_count(struct server *s, struct exchange *x)
{
	look_up(s, x, count);
}

/* The tokens of a chat, as /v1/chat/completions would read it. */
static bool chat_tokens(struct lookup *l, json_t *body, struct token_list *ids)
{
	struct dialect_env env = l->s->env;
	struct api_request q = {0};
	struct turn *turn = NULL;
	struct err err = {0};
	int32_t n = 0;

	env.now = (int64_t)time(NULL);
	if (dialect_chat.parse(body, &env, &q, &l->e)) {
		if (turn_open(&turn, &l->s->turn, &q.turn, &n, &err) == OK)
			token_append(ids, turn_prompt(turn), (size_t)turn_prompt_tokens(turn));
		else if (err.code == ERR_LIMIT && n >= env.context)
			api_error_overflow(&l->e, &dialect_chat, n, env.context);
		else
			api_error_from(&l->e, &dialect_chat, &err);
	}
	turn_close(turn);
	api_request_clear(&q);
	return l->e.status == 0;
}

static bool flag(const json_t *body, const char *name, bool otherwise)
{
	const json_t *v = json_object_get(body, name);

	return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

/* {"content" or "prompt": text, "parse_special", "add_special", "with_pieces"} or {"messages": ...} */
static void tokenize(struct lookup *l, json_t *body)
{
	const struct tokenizer *t = l->s->engine->tokenizer;
	struct token_list ids = {0};
	const char *text;
	size_t n = 0;

	text = json_get_text(body, "content", &n);
	if (!text)
		text = json_get_text(body, "prompt", &n);
	if (json_object_get(body, "messages")) {
		if (!chat_tokens(l, body, &ids))
			goto out;
	} else if (!text) {
		api_error_set(&l->e, 400, "content", NULL, "missing content: expected a text, or messages");
		goto out;
	} else {
		if (flag(body, "add_special", false) || flag(body, "add_special_tokens", false))
			token_push(&ids, tokenizer_special(t, SPECIAL_BOS));
		if (flag(body, "parse_special", true))
			token_encode_control(t, text, n, &ids);
		else
			token_encode_text(t, text, n, &ids);
	}
	buf_str(&l->out, "{\"tokens\":[");
	for (size_t i = 0; i < ids.n; i++) {
		struct buf piece = BUF_CAP(1 << 20);
		const char *p = token_bytes(t, ids.id[i], &n);

		buf_str(&l->out, i ? "," : "");
		if (flag(body, "with_pieces", false)) {
			utf8_add_lossy(&piece, p, n);
			buf_printf(&l->out, "{\"id\":%d,\"piece\":", (int)ids.id[i]);
			json_write_string(&l->out, buf_cstr(&piece), piece.len);
			buf_byte(&l->out, '}');
		} else {
			buf_printf(&l->out, "%d", (int)ids.id[i]);
		}
		buf_clear(&piece);
	}
	buf_printf(&l->out, "],\"count\":%zu,\"max_model_len\":%d}", ids.n, (int)l->s->env.context);
out:
	token_list_clear(&ids);
}

void page_tokenize(struct server *s, struct exchange *x)
{
	look_up(s, x, tokenize);
}

/* {"tokens": [ids]} */
static void detokenize(struct lookup *l, json_t *body)
{
	const struct tokenizer *t = l->s->engine->tokenizer;
	json_t *tokens = json_object_get(body, "tokens"), *v;
	struct buf text = BUF_CAP(BUF_MAX);
	struct detok d = {0};
	size_t i, n;

	if (!json_is_array(tokens))
		api_error_set(&l->e, 400, "tokens", NULL, "missing tokens: expected an array of token ids");
	json_array_foreach(tokens, i, v) {
		json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
		const char *p;

		if (id < 0 || id >= tokenizer_size(t)) {
			api_error_set(&l->e, 400, "tokens", NULL, "tokens[%zu]: expected a token id from 0 to %d", i,
				      (int)tokenizer_size(t) - 1);
			break;
		}
		p = token_bytes(t, (int32_t)id, &n);
		detok_push(&d, p, n, &text);
	}
	detok_finish(&d, &text);
	if (!l->e.status) {
		buf_str(&l->out, "{\"content\":");
		json_write_string(&l->out, buf_cstr(&text), text.len);
		buf_str(&l->out, ",\"prompt\":");
		json_write_string(&l->out, buf_cstr(&text), text.len);
		buf_byte(&l->out, '}');
	}
	buf_clear(&text);
}

void page_detokenize(struct server *s, struct exchange *x)
{
	look_up(s, x, detokenize);
}
