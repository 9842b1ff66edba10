/* common.h - what the tests of this folder share: vocabularies, lines of JSON, comparing texts. */
#ifndef TEST_CHAT_COMMON_H
#define TEST_CHAT_COMMON_H

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
#include "gguf/gguf.h"
#include "tokenizer/tokenizer.h"

#define DATA "tests/data/text/"
#define REAL DATA "tokenizer_only.gguf"
#define NANO "models/ds4-nano-q2.gguf"

static inline struct tokenizer *open_tokenizer(const char *path)
{
	struct gguf *g = NULL;
	struct tokenizer *t = NULL;
	struct err err = {0};

	if (gguf_open(&g, path, &err) != OK || tokenizer_open(&t, g, &err) != OK)
		fail_msg("%s", err.msg);
	gguf_close(g);
	return t;
}

/* Calls fn with each line of a file of JSON objects; returns how many there were. */
static inline int each_line(const char *path, void (*fn)(const char *line, size_t n, const json_t *o))
{
	struct buf text = BUF_CAP(1 << 24);
	struct err err = {0};
	int lines = 0;

	if (file_read(&text, path, &err) != OK)
		fail_msg("%s", err.msg);
	for (const char *p = text.data, *end; p < text.data + text.len; p = end + 1) {
		json_t *o;

		end = strchr(p, '\n');
		end = end ? end : text.data + text.len;
		o = json_parse(p, (size_t)(end - p), &err);
		if (!o)
			fail_msg("%s line %d: %s", path, lines + 1, err.msg);
		fn(p, (size_t)(end - p), o);
		json_decref(o);
		lines++;
	}
	buf_clear(&text);
	return lines;
}

static inline json_t *parse(const char *text)
{
	struct err err = {0};
	json_t *v = json_parse(text, strlen(text), &err);

	if (!v)
		fail_msg("%s: %s", text, err.msg);
	return v;
}

static inline const char *member(const json_t *o, const char *name)
{
	const char *p = json_string_value(json_object_get(o, name));

	if (!p)
		fail_msg("expected a member %s", name);
	return p;
}

static inline void expect_text(const char *name, const char *what, const char *want, const char *have)
{
	if (strcmp(want, have))
		fail_msg("%s, %s:\nexpected %s\nfound    %s", name, what, want, have);
}

static inline void expect_ids(const char *name, const json_t *want, const struct token_list *have)
{
	size_t n = json_array_size(want);

	for (size_t i = 0; i < n && i < have->n; i++)
		if (json_integer_value(json_array_get(want, i)) != have->id[i])
			fail_msg("%s, id %zu: expected %d, found %d", name, i,
				 (int)json_integer_value(json_array_get(want, i)), (int)have->id[i]);
	if (n != have->n)
		fail_msg("%s: expected %zu ids, found %zu", name, n, have->n);
}

#endif
