/* api_error.c - errors as OpenAI's and Anthropic's clients expect them.
 *
 * Why   Clients match statuses, codes and even wording: the text of an overflow is what Claude Code, Codex, opencode and
 *       pi all recognise (docs/api.md, section 1), so that they compact their history instead of dying.
 * Careful
 *       - Busy is 503 for OpenAI's clients and 529 for Anthropic's; both honour Retry-After. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/random.h>
#endif

#include "base/utf8.h"
#include "server/api_write_int.h"
#include "server/dialect.h"

void api_error_set(struct api_error *e, int status, const char *param, const char *code, const char *fmt, ...)
{
	va_list ap;

	*e = (struct api_error){.status = status, .code = code};
	va_start(ap, fmt);
	vsnprintf(e->message, sizeof e->message, fmt, ap);
	va_end(ap);
	e->message[utf8_whole(e->message, strlen(e->message))] = 0;	/* a long text may be cut in a character */
	snprintf(e->param, sizeof e->param, "%s", param ? param : "");
	e->param[utf8_whole(e->param, strlen(e->param))] = 0;
}

void api_error_overflow(struct api_error *e, const struct dialect *d, int32_t n_prompt, int32_t n_context)
{
	api_error_set(e, 400, d->input, "context_length_exceeded",
		      "prompt is too long: %d tokens > %d maximum. This model's maximum context length is %d tokens; "
		      "please reduce the length of the messages.", (int)n_prompt, (int)n_context, (int)n_context);
	e->n_prompt = n_prompt;
	e->n_context = n_context;
}

void api_error_busy(struct api_error *e, const struct dialect *d, int retry_after)
{
	api_error_set(e, d->busy, NULL, "server_busy", "the server is busy, try again in %d s", retry_after);
	e->retry_after = retry_after;
}

void api_error_auth(struct api_error *e, const char *why)
{
	api_error_set(e, 401, NULL, "invalid_api_key", "%s", why);
}

/* The field that a sentence of turn.h or of a schema is about; NULL when it does not say. */
static const char *field_of(const struct dialect *d, const char *msg)
{
	static const char *const names[] = {"tool_choice", "top_logprobs", "tools"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strncmp(msg, names[i], strlen(names[i])) == 0)
			return names[i];
	if (strncmp(msg, "prompt:", 7) == 0)
		return d->input;
	if (strncmp(msg, "tool \"", 6) == 0 || strstr(msg, " at tools/"))	/* a strict tool's schema */
		return "tools";
	if (msg[0] == '#' || strstr(msg, " at #") || strstr(msg, "schema") || strstr(msg, "response format"))
		return d->format;
	return NULL;
}

void api_error_from(struct api_error *e, const struct dialect *d, const struct err *err)
{
	switch (err->code) {
	case ERR_ARGUMENT:
		api_error_set(e, 400, field_of(d, err->msg), NULL, "%s", err->msg);
		break;
	case ERR_LIMIT:
	case ERR_MEMORY:
		api_error_busy(e, d, 1);
		snprintf(e->message, sizeof e->message, "%s", err->msg);
		break;
	default:
		api_error_set(e, 500, NULL, "server_error", "%s", err->msg[0] ? err->msg : "internal error");
	}
}

static const char *openai_type(int status)
{
	if (status == 429)
		return "rate_limit_error";
	return status >= 500 ? "server_error" : "invalid_request_error";
}

static const char *anthropic_type(int status)
{
	static const struct {
		int status;
		const char *type;
	} table[] = {
		{401, "authentication_error"}, {403, "permission_error"},     {404, "not_found_error"},
		{413, "request_too_large"},    {429, "rate_limit_error"},     {503, "overloaded_error"},
		{504, "timeout_error"},        {529, "overloaded_error"},
	};

	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (table[i].status == status)
			return table[i].type;
	return status >= 500 ? "api_error" : "invalid_request_error";
}

static void write_sizes(const struct api_error *e, struct buf *out)
{
	if (!e->n_context)
		return;
	js_int(out, "n_prompt_tokens", e->n_prompt);
	js_int(out, "n_ctx", e->n_context);
}

void error_object_openai(const struct api_error *e, struct buf *out)
{
	js_open(out, NULL, '{');
	js_open(out, "error", '{');
	js_str(out, "message", e->message);
	js_str(out, "type", e->type ? e->type : openai_type(e->status));
	js_str(out, "param", e->param[0] ? e->param : NULL);
	js_str(out, "code", e->code);
	write_sizes(e, out);
	js_close(out, '}');
	js_close(out, '}');
}

void error_object_anthropic(const struct api_error *e, const char *request_id, struct buf *out)
{
	js_open(out, NULL, '{');
	js_str(out, "type", "error");
	js_open(out, "error", '{');
	js_str(out, "type", e->type ? e->type : anthropic_type(e->status));
	js_str(out, "message", e->message);
	write_sizes(e, out);
	js_close(out, '}');
	if (request_id)
		js_str(out, "request_id", request_id);
	js_close(out, '}');
}

void api_error_write_openai(const struct api_error *e, const char *request_id, struct buf *out)
{
	(void)request_id;	/* a header is all that OpenAI gives */
	error_object_openai(e, out);
	buf_byte(out, '\n');
}

void api_error_write_anthropic(const struct api_error *e, const char *request_id, struct buf *out)
{
	error_object_anthropic(e, request_id ? request_id : "", out);
	buf_byte(out, '\n');
}

json_t *api_body(const char *text, size_t n, struct api_error *e)
{
	struct err err = {0};
	json_t *body = json_parse(text, n, &err);

	if (!body && err.code == ERR_MEMORY) {
		api_error_set(e, 503, NULL, "server_busy", "%s", err.msg);
		e->retry_after = 1;
		return NULL;
	}
	if (!body) {
		api_error_set(e, 400, NULL, NULL, "the request body is not JSON: %s", err.msg);
		return NULL;
	}
	if (json_is_object(body))
		return body;
	json_decref(body);
	api_error_set(e, 400, NULL, NULL, "the request body: expected a JSON object, found another value");
	return NULL;
}

void api_random_hex(char *out, size_t n)
{
	unsigned char bytes[32] = {0};

	for (size_t i = 0; i < n; i++) {
		if (i % (2 * sizeof bytes) == 0 && getentropy(bytes, sizeof bytes))
			memset(bytes, 0, sizeof bytes);	/* cannot happen for 32 bytes on a running system */
		out[i] = "0123456789abcdef"[bytes[i / 2 % sizeof bytes] >> (i % 2 * 4) & 15];
	}
	out[n] = 0;
}
