/* jsonl.c - one JSON object a line in, one out: the frame of tokenize, render and parse. */
#include "cli/jsonl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"

static enum status answer(jsonl_line *line, void *ctx, const char *text, size_t n, struct buf *out,
			  struct err *err)
{
	enum status st = line(ctx, text, n, out, err);

	if (st == OK && !buf_ok(out))
		st = err_set(err, ERR_MEMORY, "no memory for the answer");
	if (st != OK) {
		buf_clear(out);
		buf_str(out, "{\"error\": ");
		json_write_string(out, err->msg, strlen(err->msg));
		buf_str(out, "}");
	}
	return st;
}

enum status jsonl_run(jsonl_line *line, void *ctx, struct err *err)
{
	struct buf out = BUF_CAP(BUF_MAX);
	struct err first = {.code = OK}, one;
	char *text = NULL;
	size_t room = 0;
	long number = 0;
	ssize_t n;

	while ((n = getline(&text, &room, stdin)) >= 0 && !cli_interrupted()) {
		number++;
		if (strspn(text, " \t\r\n") == (size_t)n)
			continue;
		buf_cut(&out, 0);
		one = (struct err){.code = OK};
		if (answer(line, ctx, text, (size_t)n, &out, &one) != OK && first.code == OK)
			err_set(&first, one.code, "line %ld: %s", number, one.msg);
		fwrite(buf_cstr(&out), 1, out.len, stdout);
		putchar('\n');
		fflush(stdout);		/* someone may be asking line by line */
	}
	if (n < 0 && ferror(stdin) && !cli_interrupted() && first.code == OK)
		err_set(&first, ERR_IO, "standard input: %s", strerror(errno));
	free(text);
	buf_clear(&out);
	if (cli_interrupted())
		return err_set(err, ERR_CANCELLED, "cancelled after %ld lines", number);
	return first.code == OK ? OK : err_set(err, first.code, "%s", first.msg);
}

enum status vocabulary_open(struct vocabulary *v, const char *model, struct err *err)
{
	const char *path;

	TRY(cli_choose_model(&path, model, err));
	TRY(gguf_open(&v->gguf, path, err));
	return tokenizer_open(&v->tokenizer, v->gguf, err);
}

void vocabulary_close(struct vocabulary *v)
{
	tokenizer_close(v->tokenizer);
	gguf_close(v->gguf);
}
