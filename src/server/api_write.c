/* api_write.c - JSON without spaces, server-sent events, log-probabilities, usage.
 *
 * How   Whether a comma is due is read off the last byte written: after an opening bracket, a frame's "data: " or a
 *       line break none is.  No value ends in one of those.
 * Careful
 *       - JSON that came from a client may hold numbers that Jansson cannot write (base/json.h). */
#include "server/api_write_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* --- JSON --- */

static void start(struct buf *out, const char *key)
{
	char last = out->len ? out->data[out->len - 1] : '\n';

	if (!strchr("{[ \n", last))
		buf_byte(out, ',');
	if (!key)
		return;
	json_write_string(out, key, strlen(key));
	buf_byte(out, ':');
}

void js_open(struct buf *out, const char *key, char bracket)
{
	start(out, key);
	buf_byte(out, bracket);
}

void js_close(struct buf *out, char bracket)
{
	buf_byte(out, bracket);
}

void js_text(struct buf *out, const char *key, const char *p, size_t n)
{
	start(out, key);
	json_write_string(out, p ? p : "", p ? n : 0);
}

void js_raw(struct buf *out, const char *key, const char *p, size_t n)
{
	start(out, key);
	buf_add(out, p, n);
}

void js_null(struct buf *out, const char *key)
{
	js_raw(out, key, "null", 4);
}

void js_str(struct buf *out, const char *key, const char *s)
{
	if (s)
		js_text(out, key, s, strlen(s));
	else
		js_null(out, key);
}

void js_int(struct buf *out, const char *key, int64_t v)
{
	start(out, key);
	buf_printf(out, "%lld", (long long)v);
}

void js_bool(struct buf *out, const char *key, bool v)
{
	js_raw(out, key, v ? "true" : "false", v ? 4 : 5);
}

void js_real(struct buf *out, const char *key, double v)
{
	json_t *number;

	if (v == floor(v) && fabs(v) < 1e15) {
		js_int(out, key, (int64_t)v);
		return;
	}
	number = json_real(v);
	start(out, key);
	if (number)
		json_write_python(out, number);
	else
		out->failed = true;
	json_decref(number);
}

static void write_compact(struct buf *out, const json_t *v)
{
	json_t *members = (json_t *)v;	/* Jansson's iterators are not const */

	if (json_is_object(v)) {
		buf_byte(out, '{');
		for (void *i = json_object_iter(members); i; i = json_object_iter_next(members, i)) {
			start(out, json_object_iter_key(i));
			write_compact(out, json_object_iter_value(i));
		}
		buf_byte(out, '}');
	} else if (json_is_array(v)) {
		buf_byte(out, '[');
		for (size_t i = 0; i < json_array_size(v); i++) {
			start(out, NULL);
			write_compact(out, json_array_get(v, i));
		}
		buf_byte(out, ']');
	} else {
		json_write_python(out, v);
	}
}

void js_json(struct buf *out, const char *key, const json_t *v)
{
	if (!v) {
		js_null(out, key);
		return;
	}
	start(out, key);
	write_compact(out, v);
}

void sse_begin(struct buf *out, const char *event)
{
	if (event)
		buf_printf(out, "event: %s\n", event);
	buf_str(out, "data: ");
}

void sse_end(struct buf *out)
{
	buf_str(out, "\n\n");
}

/* --- log-probabilities --- */

void token_shown(const struct tokenizer *t, int32_t id, struct buf *out)
{
	static const char bar[] = "｜";
	size_t n, step;
	const char *p = token_bytes(t, id, &n);

	if (!tokenizer_is_added(t, id)) {
		utf8_add_lossy(out, p, n);
		return;
	}
	for (size_t i = 0; i < n; i += step) {
		bool is_bar = n - i >= sizeof bar - 1 && memcmp(p + i, bar, sizeof bar - 1) == 0;

		step = is_bar ? sizeof bar - 1 : 1;
		buf_add(out, p + i, step);
		if (is_bar)
			buf_str(out, bar);
	}
}

double shown_logprob(float v)
{
	double shown = isfinite(v) ? round((double)v * 1e6) / 1e6 : -9999;

	return shown < -9999 ? -9999 : shown == 0 ? 0 : shown;	/* no -0 */
}

/* The members that a token and its alternatives share. */
static void js_token(struct buf *out, const struct tokenizer *t, int32_t id, float logprob)
{
	struct buf text = BUF_CAP(BUF_MAX);
	size_t n;
	const char *p = token_bytes(t, id, &n);

	token_shown(t, id, &text);
	js_text(out, "token", text.data, text.len);
	js_real(out, "logprob", shown_logprob(logprob));
	js_open(out, "bytes", '[');
	for (size_t i = 0; i < n; i++)
		js_int(out, NULL, (unsigned char)p[i]);
	js_close(out, ']');
	out->failed |= !buf_ok(&text);
	buf_clear(&text);
}

void js_logprobs(struct buf *out, const struct tokenizer *t, const struct turn_logprob *p, int n)
{
	for (int i = 0; i < n; i++) {
		js_open(out, NULL, '{');
		js_token(out, t, p[i].token, p[i].logprob);
		js_open(out, "top_logprobs", '[');
		for (int k = 0; k < p[i].n_top; k++) {
			js_open(out, NULL, '{');
			js_token(out, t, p[i].top[k].token, p[i].top[k].logprob);
			js_close(out, '}');
		}
		js_close(out, ']');
		js_close(out, '}');
	}
}

/* --- part of every writer --- */

void writer_init(struct writer_base *w, const char *prefix, const struct api_request *q, const struct dialect_env *env,
		 int32_t n_prompt)
{
	size_t n = strlen(prefix);

	*w = (struct writer_base){.q = q, .env = env, .n_prompt = n_prompt, .created = env->now};
	w->usage.prompt = n_prompt;
	memcpy(w->id, prefix, n);
	api_random_hex(w->id + n, 24);
}

bool writer_note(struct writer_base *w, const struct turn_event *ev)
{
	if (ev->carrier && ev->carrier[0])
		snprintf(w->carrier, sizeof w->carrier, "%s", ev->carrier);
	if (ev->kind == TURN_STARTED)
		w->usage.cached = ev->done;
	if (ev->kind == TURN_FINISH)
		w->usage = ev->usage;
	return !w->ended && ev->kind != TURN_WAITING && ev->kind != TURN_READ;
}

bool finish_is_cut(enum turn_finish f)
{
	return f == TURN_LENGTH || f == TURN_CONTEXT || f == TURN_CANCELLED;
}

void js_usage_openai(struct buf *out, const char *key, const struct turn_usage *u)
{
	js_open(out, key, '{');
	js_int(out, "prompt_tokens", u->prompt);
	js_int(out, "completion_tokens", u->generated);
	js_int(out, "total_tokens", (int64_t)u->prompt + u->generated);
	js_open(out, "prompt_tokens_details", '{');
	js_int(out, "cached_tokens", u->cached);
	js_int(out, "cache_write_tokens", (int64_t)u->prompt - u->cached);
	js_close(out, '}');
	js_open(out, "completion_tokens_details", '{');
	js_int(out, "reasoning_tokens", u->reasoning);
	js_close(out, '}');
	js_int(out, "prompt_cache_hit_tokens", u->cached);
	js_int(out, "prompt_cache_miss_tokens", (int64_t)u->prompt - u->cached);
	js_close(out, '}');
}
