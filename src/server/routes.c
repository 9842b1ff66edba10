/* routes.c - which path is answered by whom, and what is refused before: keys, origins, methods, unknown paths.
 *
 * Careful
 *   - The order of refusals: a page of another origin learns nothing, not even whether a key is needed.
 *   - A path is compared without its query: Claude Code posts to /v1/messages?beta=true. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "server/server_int.h"

enum { GET = 1, POST = 2 };

struct route {
	const char *path;
	unsigned methods;
	void (*page)(struct server *s, struct exchange *x);	/* or: */
	const struct dialect *dialect;
	const struct dialect *shape;	/* of its errors */
	bool below;			/* paths below it, too */
	bool open;			/* needs no key */
};

static const struct route routes[] = {
	{.path = "/", .methods = GET, .page = page_root, .shape = &dialect_chat, .open = true},
	{.path = "/health", .methods = GET, .page = page_health, .shape = &dialect_chat, .open = true},
	{.path = "/metrics", .methods = GET, .page = page_metrics, .shape = &dialect_chat},
	{.path = "/v1/models", .methods = GET, .page = page_models, .shape = &dialect_chat, .below = true},
	{.path = "/v1/chat/completions", .methods = POST, .dialect = &dialect_chat, .shape = &dialect_chat},
	{.path = "/v1/completions", .methods = POST, .dialect = &dialect_completions, .shape = &dialect_completions},
	{.path = "/v1/responses", .methods = POST, .dialect = &dialect_responses, .shape = &dialect_responses},
	{.path = "/v1/messages", .methods = POST, .dialect = &dialect_messages, .shape = &dialect_messages},
	{.path = "/v1/messages/count_tokens", .methods = POST, .page = page_count, .shape = &dialect_messages},
	{.path = "/tokenize", .methods = POST, .page = page_tokenize, .shape = &dialect_chat},
	{.path = "/detokenize", .methods = POST, .page = page_detokenize, .shape = &dialect_chat},
};

static const struct route *find(const char *path)
{
	size_t n_path = strlen(path);

	if (n_path > 1 && path[n_path - 1] == '/')
		n_path--;
	for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
		size_t n = strlen(routes[i].path);

		if (n_path == n && !strncmp(path, routes[i].path, n))
			return &routes[i];
		if (routes[i].below && n_path > n + 1 && !strncmp(path, routes[i].path, n) && path[n] == '/')
			return &routes[i];
	}
	return NULL;
}

const struct dialect *routes_shape(const struct exchange *x)
{
	const struct route *r = x->head.path ? find(x->head.path) : NULL;

	if (r && r->shape != &dialect_chat)
		return r->shape;
	return http_field(&x->head, "anthropic-version") ? &dialect_messages : &dialect_chat;
}

/* ------------------------------------------------------------------ answers */

void reply_json(struct exchange *x, int status, struct buf *body)
{
	if (!body->len || body->data[body->len - 1] != '\n')
		buf_byte(body, '\n');
	exchange_reply(x, status, "application/json", buf_cstr(body), body->len);
}

void reply_error(struct exchange *x, const struct dialect *shape, const struct api_error *e)
{
	struct buf body = BUF_CAP(1 << 20);
	char number[16];

	if (e->retry_after) {
		snprintf(number, sizeof number, "%d", e->retry_after);
		exchange_field(x, "Retry-After", number);
	}
	shape->error(e, x->id, &body);
	reply_json(x, e->status, &body);
	buf_clear(&body);
}

static void refuse(struct exchange *x, int status, const char *code, const char *text)
{
	struct api_error e = {0};

	api_error_set(&e, status, NULL, code, "%s", text);
	if (status == 503)
		e.retry_after = 1;
	reply_error(x, routes_shape(x), &e);
}

/* Fields that every answer has. */
static void common_fields(const struct server *s, struct exchange *x)
{
	exchange_field(x, routes_shape(x)->request_id, x->id);
	exchange_field(x, "X-Content-Type-Options", "nosniff");
	if (s->o.cors) {
		exchange_field(x, "Access-Control-Allow-Origin", "*");
		exchange_field(x, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
		exchange_field(x, "Access-Control-Allow-Headers", "*");
		exchange_field(x, "Access-Control-Expose-Headers", "*");
		exchange_field(x, "Access-Control-Max-Age", "86400");
	}
}

void routes_refused(void *ctx, struct exchange *x, const struct http_refusal *why)
{
	common_fields(ctx, x);
	refuse(x, why->status, why->status == 413 ? "request_too_large" : NULL, why->text);
}

static bool method_fits(const struct route *r, const char *method)
{
	return (r->methods & GET && (!strcmp(method, "GET") || !strcmp(method, "HEAD"))) ||
	       (r->methods & POST && !strcmp(method, "POST"));
}

static void wrong_method(struct exchange *x, const struct route *r)
{
	exchange_field(x, "Allow", r->methods & GET ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
	refuse(x, 405, "method_not_allowed", r->methods & GET ? "this path is for GET and HEAD" : "this path is for POST");
}

static void options(struct exchange *x)
{
	const struct route *r = find(x->head.path);

	if (r)
		exchange_field(x, "Allow", r->methods & GET ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
	exchange_reply(x, 204, NULL, NULL, 0);
}

void routes_request(void *ctx, struct exchange *x)
{
	struct server *s = ctx;
	const char *origin = http_field(&x->head, "Origin");
	const struct route *r = find(x->head.path);

	common_fields(s, x);
	if (!strcmp(x->head.method, "OPTIONS")) {
		options(x);
	} else if (!s->o.cors && !origin_is_local(origin)) {
		refuse(x, 403, "cross_origin",
		       "requests from pages of other origins are refused; the server's --cors allows them");
	} else if (!(r && r->open) && !auth_allows(s->auth, &x->head)) {
		struct api_error e = {0};

		api_error_auth(&e, "the API key is missing or wrong");
		exchange_field(x, "WWW-Authenticate", "Bearer");
		reply_error(x, routes_shape(x), &e);
	} else if (!r) {
		refuse(x, 404, "unknown_url", "unknown endpoint");
	} else if (!method_fits(r, x->head.method)) {
		wrong_method(x, r);
	} else if (r->page) {
		r->page(s, x);
	} else {
		generation_begin(s, x, r->dialect);
	}
}

void routes_done(void *ctx, struct exchange *x)
{
	struct server *s = ctx;
	const struct route *r = x->head.path ? find(x->head.path) : NULL;

	metrics_request(&s->metrics, r ? r->path : "other", x->status);
	s->metrics.sent_bytes += x->sent;
	if (!s->o.quiet && !(r && r->dialect && (x->status == 200 || x->status == 499)) && !(r && r->open && x->status == 200))
		log_line(s->log, "%s %s %s from=%s status=%d seconds=%.3f", x->id, x->head.method ? x->head.method : "-",
			 x->head.path ? x->head.path : "-", exchange_peer(x), x->status, clock_seconds() - x->since);
}
