/* decode_fuzz.c - any token sequence through the streaming parser, twice: cut differently, the same answer.
 *
 * The first byte chooses thinking, tools and the way it ends.  Of the others, those from 0xF0 on stand for
 * tags and control tokens, so that the fuzzer finds blocks quickly; the rest is text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chat/answer.h"
#include "chat/decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
	enum mark mark;
	const char *text;
} parts[16] = {
	{MARK_DSML, "｜DSML｜"},
	{MARK_END_THINK, "</think>"},
	{MARK_THINK, "<think>"},
	{MARK_EOS, "<｜end▁of▁sentence｜>"},
	{MARK_OTHER, "<｜User｜>"},
	{MARK_TEXT, "tool_calls>\n<"},
	{MARK_TEXT, "invoke name=\"f\">\n<"},
	{MARK_TEXT, "parameter name=\"a\" string=\"true\">"},
	{MARK_TEXT, "parameter name=\"b\" string=\"false\">"},
	{MARK_TEXT, "parameter name=\"c\">"},
	{MARK_TEXT, "parameter>\n<"},
	{MARK_TEXT, "invoke>\n<"},
	{MARK_TEXT, "tool_calls>"},
	{MARK_TEXT, "</"},
	{MARK_TEXT, "<"},
	{MARK_TEXT, "\n"},
};

static void require(int ok)
{
	if (!ok)
		abort();
}

/* Feeds the parts, text cut into single bytes or kept whole. */
static void run(struct answer *a, const json_t *tools, const uint8_t *data, size_t size, size_t cut)
{
	struct decode_options o = {.thinking = data[0] & 1 ? THINKING_ON : THINKING_OFF,
	                           .tools_active = !(data[0] & 2),
	                           .tools = data[0] & 4 ? tools : NULL,
	                           .ctx = a,
	                           .take = answer_take};
	struct decode *d = decode_new(NULL, &o);

	answer_init(a);
	require(d != NULL);
	for (size_t i = 1, n; i < size; i += n) {
		n = 1;
		if (data[i] >= 0xF0) {
			const char *text = parts[data[i] - 0xF0].text;
			enum mark mark = parts[data[i] - 0xF0].mark;

			for (size_t k = 0, len = strlen(text); k < len;
			     k += mark == MARK_TEXT ? cut : len)
				decode_feed(d, mark, text + k,
				            mark == MARK_TEXT && len - k > cut ? cut : len - k);
			continue;
		}
		while (n < cut && i + n < size && data[i + n] < 0xF0)
			n++;
		decode_feed(d, MARK_TEXT, (const char *)data + i, n);
	}
	decode_finish(d, data[0] & 8 ? FINISH_STOP : FINISH_LENGTH);
	require(decode_ok(d) && answer_ok(a) && a->finished);
	decode_free(d);
}

static void require_same(const struct buf *a, const struct buf *b)
{
	require(a->len == b->len && (!a->len || memcmp(a->data, b->data, a->len) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char text[] =
		"[{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{\"type\":\"integer\"},"
		"\"c\":{\"type\":\"object\"}}}}]";
	static json_t *tools;
	struct answer a, b;

	if (!tools)
		tools = json_parse(text, strlen(text), NULL);
	if (!size)
		return 0;
	run(&a, tools, data, size, 1);
	run(&b, tools, data, size, 1000);
	require_same(&a.reasoning, &b.reasoning);
	require_same(&a.content, &b.content);
	require(a.n_calls == b.n_calls && a.finish == b.finish);
	for (size_t i = 0; i < a.n_calls; i++) {
		const struct answer_call *call = &a.calls[i];
		json_t *v = json_parse(buf_cstr(&call->arguments), call->arguments.len, NULL);

		require_same(&call->name, &b.calls[i].name);
		require_same(&call->arguments, &b.calls[i].arguments);
		require(!call->complete || json_is_object(v));
		json_decref(v);
	}
	answer_clear(&a);
	answer_clear(&b);
	return 0;
}
