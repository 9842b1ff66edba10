/* common.h - what the tests of the dialects share: parsing bodies, playing scripted turns, comparing bytes. */
#ifndef TEST_SERVER_COMMON_H
#define TEST_SERVER_COMMON_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "gguf/gguf.h"
#include "server/dialect.h"
#include "tokenizer/tokenizer.h"

#define REAL "tests/data/text/tokenizer_only.gguf"
#define CARRIER "ds4-turn-0123456789abcdef"
#define CALL_1 "call_00000000000000000000000000000001"
#define CALL_2 "call_00000000000000000000000000000002"

static struct dialect_env env = {
	.model = "deepseek-v4-flash", .fingerprint = "fp_test", .context = 32768, .now = 1767225600, .seed = 99};

static inline int open_env(void **state)
{
	struct gguf *g = NULL;
	struct tokenizer *t = NULL;
	struct err err = {0};

	(void)state;
	if (gguf_open(&g, REAL, &err) != OK || tokenizer_open(&t, g, &err) != OK)
		fail_msg("%s", err.msg);
	gguf_close(g);
	env.tokenizer = t;
	return 0;
}

static inline int close_env(void **state)
{
	(void)state;
	tokenizer_close((struct tokenizer *)env.tokenizer);
	return 0;
}

/* --- requests --- */

static inline bool try_parse(const struct dialect *d, const char *text, struct api_request *q, struct api_error *e)
{
	json_t *body = api_body(text, strlen(text), e);
	bool ok;

	*q = (struct api_request){.model = NULL};
	ok = body && d->parse(body, &env, q, e);
	json_decref(body);
	return ok;
}

static inline void must_parse(const struct dialect *d, const char *text, struct api_request *q)
{
	struct api_error e = {0};

	if (!try_parse(d, text, q, &e))
		fail_msg("%s\n%d %s (param \"%s\")", text, e.status, e.message, e.param);
}

/* The body is refused with this param, and the message has this text in it. */
static inline void expect_refused(const struct dialect *d, const char *text, const char *param, const char *message)
{
	struct api_error e = {0};
	struct api_request q;

	if (try_parse(d, text, &q, &e))
		fail_msg("%s\nexpected an error for %s, found none", text, param);
	if (e.status != 400 || strcmp(e.param, param) || !strstr(e.message, message))
		fail_msg("%s\nexpected: 400, param \"%s\", \"...%s...\"\nfound:    %d, param \"%s\", \"%s\"", text, param,
			 message, e.status, e.param, e.message);
	api_request_clear(&q);
}

static inline void render(const struct api_request *q, struct buf *out)
{
	struct render_options o = {.profile = env.profile, .thinking = q->turn.thinking, .effort = q->turn.effort};
	struct err err = {0};

	if (chat_render_text(q->turn.conversation, &o, env.tokenizer, out, &err) != OK)
		fail_msg("%s", err.msg);
}

static inline void expect_same(const char *what, const char *want, const char *have)
{
	size_t i = 0;

	while (want[i] && want[i] == have[i])
		i++;
	if (want[i] || have[i])
		fail_msg("%s, from byte %zu:\nexpected: %.300s\nfound:    %.300s\n--- whole, expected\n%s\n--- found\n%s",
			 what, i, want + i, have + i, want, have);
}

/* The prompt of a body is this text. */
static inline void expect_prompt(const struct dialect *d, const char *text, const char *prompt)
{
	struct buf b = BUF_CAP(BUF_MAX);
	struct api_request q;

	must_parse(d, text, &q);
	render(&q, &b);
	expect_same(text, prompt, buf_cstr(&b));
	buf_clear(&b);
	api_request_clear(&q);
}

/* --- answers --- */

struct script {	/* a turn's events; texts are C strings */
	enum turn_kind kind;
	const char *text, *id;
	enum turn_finish finish;
};

#define REASONING(t) {TURN_REASONING, t, NULL, TURN_STOP}
#define CONTENT(t) {TURN_CONTENT, t, NULL, TURN_STOP}
#define CALL(call_id, name) {TURN_CALL_BEGIN, name, call_id, TURN_STOP}
#define ARGUMENTS(t) {TURN_CALL_ARGUMENTS, t, NULL, TURN_STOP}
#define END {TURN_CALL_END, NULL, NULL, TURN_STOP}
#define FINISH(f) {TURN_FINISH, NULL, NULL, f}

static const struct turn_usage test_usage = {.prompt = 100, .cached = 40, .generated = 20, .reasoning = 9};
static const struct err test_failure = {ERR_DEVICE, "the device failed"};

/* Plays the script: texts cut into pieces of n characters, 0 = whole. */
static inline void play(struct writer *w, const struct dialect *d, const struct script *s, size_t n, size_t cut,
			struct buf *out)
{
	struct turn_event ev = {.kind = TURN_WAITING};
	size_t call = 0;

	d->event(w, &ev, out);
	assert_int_equal(out->len, 0);
	ev = (struct turn_event){.kind = TURN_STARTED, .done = 40, .carrier = CARRIER};
	d->event(w, &ev, out);
	for (size_t i = 0; i < n; i++) {
		const char *p = s[i].text ? s[i].text : "";
		size_t len = strlen(p), piece = len;

		call += s[i].kind == TURN_CALL_END;
		ev = (struct turn_event){.kind = s[i].kind, .carrier = CARRIER, .index = call, .call_id = s[i].id,
					 .finish = s[i].finish, .usage = test_usage,
					 .err = s[i].finish == TURN_ERROR ? &test_failure : NULL};
		do {
			if (cut && s[i].kind != TURN_CALL_BEGIN) {
				piece = 0;
				for (size_t k = 0; k < cut && piece < len; k++) {
					uint32_t cp;

					piece += utf8_decode(p + piece, len - piece, &cp, NULL);
				}
			}
			ev.text = p;
			ev.n = piece;
			d->event(w, &ev, out);
			p += piece;
			len -= piece;
		} while (len);
	}
	if (!buf_ok(out))
		fail_msg("out of memory");
}

static inline void answer(const struct dialect *d, const char *body, const struct script *s, size_t n, size_t cut,
			  struct buf *out)
{
	struct api_request q;
	struct writer *w;

	must_parse(d, body, &q);
	w = d->open(&q, &env, 100);
	assert_non_null(w);
	play(w, d, s, n, cut, out);
	d->close(w);
	api_request_clear(&q);
}

#define ANSWER(d, body, script, cut, out) answer(d, body, script, sizeof script / sizeof *script, cut, out)

/* Replaces the hexadecimal digits behind prefix by "#", after checking that there are n and that they are the same
 * everywhere. */
static inline void mask_id(struct buf *b, const char *prefix, size_t n)
{
	char first[80] = "";
	size_t skip = strlen(prefix);

	for (char *p = b->data; p && (p = strstr(p, prefix)); p += skip + 1) {
		char *id = p + skip;
		size_t len = strspn(id, "0123456789abcdef");

		if (len != n)
			fail_msg("%.*s: expected %zu hexadecimal digits", (int)(skip + 40), p, n);
		if (!first[0])
			snprintf(first, sizeof first, "%.*s", (int)n, id);
		if (strncmp(first, id, n))
			fail_msg("an id changed from %s%s to %.*s", prefix, first, (int)(skip + n), p);
		id[0] = '#';
		memmove(id + 1, id + n, b->len - (size_t)(id + n - b->data) + 1);
		b->len -= n - 1;
	}
}

/* --- streams --- */

struct frame {
	char event[64];	/* "" = no event line */
	json_t *data;	/* NULL: [DONE] */
};

/* Calls fn for every frame, checking that each has the form [event: X\n]data: JSON\n\n and that nothing is between. */
static inline size_t each_frame(const char *text, void (*fn)(void *ctx, const struct frame *f), void *ctx)
{
	size_t n = 0;

	while (*text) {
		struct frame f = {.data = NULL};
		const char *end = strstr(text, "\n\n");
		struct err err = {0};

		if (!end)
			fail_msg("frame %zu has no end: %s", n, text);
		if (strncmp(text, "event: ", 7) == 0) {
			snprintf(f.event, sizeof f.event, "%.*s", (int)strcspn(text + 7, "\n"), text + 7);
			text = strchr(text, '\n') + 1;
		}
		if (strncmp(text, "data: ", 6))
			fail_msg("frame %zu: expected data, found %.80s", n, text);
		text += 6;
		if (memchr(text, '\n', (size_t)(end - text)))
			fail_msg("frame %zu has a line break in its data", n);
		if ((size_t)(end - text) != 6 || strncmp(text, "[DONE]", 6)) {
			f.data = json_parse(text, (size_t)(end - text), &err);
			if (!f.data)
				fail_msg("frame %zu: %s: %.*s", n, err.msg, (int)(end - text), text);
		}
		fn(ctx, &f);
		json_decref(f.data);
		text = end + 2;
		n++;
	}
	return n;
}

static inline json_t *parse_json(const char *text, size_t n)
{
	struct err err = {0};
	json_t *v = json_parse(text, n, &err);

	if (!v)
		fail_msg("%s: %.200s", err.msg, text);
	return v;
}

#endif
