/* history.c - an answer's ids as history should hold them.
 *
 * What  Mostly the ids as they were sampled.  Behind a stop string nothing: clients send back what they saw, and the
 *       model should not read its own stop string either.
 * How   The tokens of the content are followed byte by byte along the visible content; the token in which it ends is
 *       replaced by tokens of the part that was visible. */
#include <string.h>

#include "turn/turn_int.h"

static size_t content_start(const struct turn_tables *x, const struct token_list *ids)
{
	for (size_t i = ids->n; i-- > 0;)
		if (ids->id[i] == x->end_think)
			return i + 1;
	return 0;
}

bool history_ids(const struct turn_tables *x, const struct token_list *ids, const struct buf *content, bool stopped,
		 struct token_list *out)
{
	size_t i = stopped ? content_start(x, ids) : 0, at = 0;

	if (!stopped) {
		token_append(out, ids->id, ids->n);
		return !out->failed;
	}
	token_append(out, ids->id, i);
	for (; i < ids->n; i++) {
		size_t n;
		const char *p = token_bytes(x->tokenizer, ids->id[i], &n);

		if (tokenizer_is_added(x->tokenizer, ids->id[i]))
			return false;
		if (n > content->len - at)
			n = content->len - at;
		if (memcmp(buf_cstr(content) + at, p, n) != 0)
			return false;
		at += n;
		if (at == content->len) {
			size_t whole;

			token_bytes(x->tokenizer, ids->id[i], &whole);
			if (n == whole)
				token_push(out, ids->id[i]);
			else
				token_encode_text(x->tokenizer, p, n, out);
			return !out->failed;
		}
		token_push(out, ids->id[i]);
	}
	return false;
}
