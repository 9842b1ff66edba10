/* request.h - what the fuzz targets of request bodies share: any bytes as a body of one API.
 *
 * A body is refused with an error that says something, or everything behind it works: its prompt can be rendered, and
 * an answer to it, streamed and whole, is made of JSON that can be read. */
#ifndef TEST_FUZZ_REQUEST_H
#define TEST_FUZZ_REQUEST_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf.h"
#include "server/dialect.h"

static inline void require(int ok)
{
	if (!ok)
		abort();
}

static inline const struct tokenizer *fuzz_tokenizer(void)
{
	static struct tokenizer *t;
	struct gguf *g = NULL;

	if (t)
		return t;
	require(gguf_open(&g, "models/ds4-nano-q2.gguf", NULL) == OK && tokenizer_open(&t, g, NULL) == OK);
	gguf_close(g);
	return t;
}

static inline void require_json(const char *text, size_t n)
{
	json_t *v = json_parse(text, n, NULL);

	require(v != NULL);
	json_decref(v);
}

static inline void require_frames(const struct buf *b)
{
	for (const char *p = buf_cstr(b), *end; *p; p = end + 2) {
		end = strstr(p, "\n\n");
		require(end != NULL);
		if (strncmp(p, "event: ", 7) == 0)
			p = strchr(p, '\n') + 1;
		require(strncmp(p, "data: ", 6) == 0);
		if (strncmp(p + 6, "[DONE]", 6))
			require_json(p + 6, (size_t)(end - p) - 6);
	}
}

/* An answer with a bit of everything; its call is of the first tool. */
static inline void fuzz_answer(const struct dialect *d, struct api_request *q, const struct dialect_env *env, bool stream)
{
	const char *name = q->n_tool ? q->tool[0].name : "f";
	const struct turn_event events[] = {
		{.kind = TURN_STARTED, .done = 3, .carrier = "c"},
		{.kind = TURN_REASONING, .text = "Hm", .n = 2},
		{.kind = TURN_CONTENT, .text = "Hi\n", .n = 3},
		{.kind = TURN_CALL_BEGIN, .text = name, .n = strlen(name), .call_id = "call_1"},
		{.kind = TURN_CALL_ARGUMENTS, .text = "{\"input\": \"x", .n = 12},
		{.kind = TURN_CALL_ARGUMENTS, .text = "\"}", .n = 2},
		{.kind = TURN_CALL_END},
		{.kind = TURN_FINISH, .finish = TURN_TOOL_CALLS, .usage = {5, 3, 4, 1}},
	};
	struct buf out = BUF_CAP(BUF_MAX);
	struct writer *w;

	q->stream = stream;
	w = d->open(q, env, 5);
	require(w != NULL);
	for (size_t i = 0; i < sizeof events / sizeof *events; i++)
		d->event(w, &events[i], &out);
	require(buf_ok(&out) && out.len);
	if (stream)
		require_frames(&out);
	else
		require_json(out.data, out.len);
	d->close(w);
	buf_clear(&out);
}

static inline int fuzz_request(const struct dialect *d, const uint8_t *data, size_t size)
{
	const struct dialect_env env = {.tokenizer = fuzz_tokenizer(), .model = "m", .context = 4096, .seed = 1,
					.profile = size & 1 ? PROFILE_0731 : PROFILE_PREVIEW};
	struct api_request q = {.model = NULL};
	struct api_error e = {0};
	json_t *body = api_body((const char *)data, size, &e);

	if (body && d->parse(body, &env, &q, &e)) {
		struct render_options o = {.profile = env.profile, .thinking = q.turn.thinking, .effort = q.turn.effort};
		struct token_list ids = {.id = NULL};

		require(!q.turn.conversation != !q.turn.raw);
		if (q.turn.conversation)
			require(chat_render_ids(q.turn.conversation, &o, env.tokenizer, &ids, NULL) == OK);
		token_list_clear(&ids);
		fuzz_answer(d, &q, &env, true);
		fuzz_answer(d, &q, &env, false);
	} else {
		struct buf out = BUF_CAP(BUF_MAX);

		require(e.status == 400 && e.message[0]);
		d->error(&e, "r", &out);
		require_json(buf_cstr(&out), out.len);
		buf_clear(&out);
	}
	api_request_clear(&q);
	json_decref(body);
	return 0;
}

#endif
