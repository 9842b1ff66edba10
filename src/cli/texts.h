/* texts.h - a set of texts or conversations as windows of tokens: what `imatrix` and `quality` read. */
#ifndef DS4_CLI_TEXTS_H
#define DS4_CLI_TEXTS_H

#include "base/status.h"
#include "tokenizer/tokenizer.h"

struct text_options {
	const char *const *file;	/* [n_files]; "-" is standard input */
	int n_files;
	bool chat;			/* files are JSON lines, one document each */
	bool control;			/* recognise control tokens in plain texts */
	int32_t window;			/* most tokens of one window, at least 2 */
};

/* Windows stand one behind the other; each begins with BOS.  A longer document is cut into several. */
struct text_set {
	struct token_list ids;
	size_t *end;			/* [n] window i is ids [end[i - 1], end[i]) */
	size_t n, room;
};

/* A plain file is one document.  A line of a chat file is
 *	{"messages": [...], "args"?: {...}}	rendered as `ds4 render` does
 *	{"ids": [...]}				token ids as they are
 *	"text"					a rendered prompt: control tokens in it are recognised
 * Errors: of the files, ERR_FORMAT with file and line, ERR_ARGUMENT when there is no window of two tokens. */
enum status texts_read(struct text_set *out, const struct tokenizer *t, const struct text_options *o, struct err *err);
void texts_clear(struct text_set *s);

static inline const int32_t *texts_window(const struct text_set *s, size_t i, int32_t *n)
{
	size_t begin = i ? s->end[i - 1] : 0;

	*n = (int32_t)(s->end[i] - begin);
	return s->ids.id + begin;
}

/* Reads ids of a JSON array, each below vocab.  False: it is not such an array, or no memory (list->failed). */
bool texts_json_ids(struct token_list *list, const void *json_array, int32_t vocab);

/* Names of the files without folders, joined by commas, cut to room - 1 bytes. */
void texts_names(char *out, size_t room, const struct text_options *o);

#endif
