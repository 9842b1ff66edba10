/* grammar_fuzz.c - any schema, then a text that it lets through.
 *
 * Up to the first NUL the input is a schema; an input that begins with "[" is a list of tools.  The bytes behind it choose
 * among what may come next.  Whatever the schema: never stuck (promise G2), and a complete text is JSON. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "grammar/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
	if (!ok)
		abort();
}

static void walk(const struct grammar *g, const uint8_t *choice, size_t n, int is_json)
{
	struct matcher *m = matcher_new(g);
	struct buf text = BUF_CAP(1 << 20);

	require(m != NULL);
	for (size_t i = 0; i < n && i < 60; i++) {
		char ok[256];
		int n_ok = 0, complete = matcher_complete(m);

		for (int b = 0; b < 256; b++) {
			char c = (char)b;

			if (matcher_accepts(m, &c, 1))
				ok[n_ok++] = c;
		}
		require(n_ok || complete);
		if (complete && is_json && (text.len % 3 == 0 || !n_ok)) {
			json_t *v = json_parse(buf_cstr(&text), text.len, NULL);

			require(v != NULL);
			json_decref(v);
		}
		if (!n_ok)
			break;
		buf_byte(&text, ok[choice[i] % n_ok]);
		require(matcher_push(m, text.data + text.len - 1, 1));
	}
	require(matcher_ok(m));
	buf_clear(&text);
	matcher_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *end = memchr(data, 0, size);
	size_t n = end ? (size_t)(end - data) : size;
	json_t *j = json_parse((const char *)data, n, NULL);
	struct grammar_options o = {.schema = j, .strict = true};
	struct err err = {0};
	struct grammar *g;

	if (json_is_array(j)) {
		o.tools = j;
		o.schema = NULL;
	}
	if (j && grammar_new(&g, &o, &err) == OK) {
		walk(g, data + n + (end != NULL), size - n - (end != NULL), !o.tools);
		grammar_free(g);
	} else {
		require(!j || err.code == ERR_ARGUMENT);
		require(!j || err.msg[0]);
	}
	json_decref(j);
	return 0;
}
