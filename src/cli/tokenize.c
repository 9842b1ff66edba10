/* tokenize.c - `ds4 tokenize`: text to token ids and back.
 *
 * What  Plain: all of standard input at once.  --jsonl: one JSON object a line in, one out, in order.
 * Why   The vocabulary and the splitter can be checked against any other implementation with any text.
 * How   Needs the vocabulary only, so any GGUF that holds one will do.
 * Careful
 *       - {"text": …} cannot hold ill-formed UTF-8, {"hex": …} can.
 *       - An object with both a text and ids is encoded, or decoded with -d: so test data can be fed in as it is.
 *       - A bad line gets {"error": …} in its place and the rest goes on; the exit code tells at the end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/jsonl.h"
#include "tokenizer/tokenizer.h"

struct tokenize_args {
	const char *model;
	bool control, decode, jsonl;
};

static void encode(const struct tokenizer *t, bool control, const char *p, size_t n, struct token_list *ids)
{
	if (control)
		token_encode_control(t, p, n, ids);
	else
		token_encode_text(t, p, n, ids);
}

static void decode_one(const struct tokenizer *t, struct detok *d, int32_t id, struct buf *out)
{
	size_t n;
	const char *p = token_bytes(t, id, &n);

	detok_push(d, p, n, out);
}

static enum status check_id(const struct tokenizer *t, int64_t id, struct err *err)
{
	if (id >= 0 && id < tokenizer_size(t))
		return OK;
	return err_set(err, ERR_ARGUMENT, "expected a token id from 0 to %d, found %lld",
		       (int)tokenizer_size(t) - 1, (long long)id);
}

/* ------------------------------------------------------------------ one line of --jsonl */

static enum status from_hex(struct buf *out, const char *hex, size_t n, struct err *err)
{
	static const char digits[] = "0123456789abcdef";

	if (n % 2)
		return err_set(err, ERR_ARGUMENT, "\"hex\": expected an even number of digits, found %zu", n);
	for (size_t i = 0; i < n; i += 2) {
		const char *hi = memchr(digits, hex[i] | 0x20, 16), *lo = memchr(digits, hex[i + 1] | 0x20, 16);

		if (!hi || !lo)
			return err_set(err, ERR_ARGUMENT, "\"hex\": expected hexadecimal digits, found '%.2s'",
				       hex + i);
		buf_byte(out, (char)((hi - digits) << 4 | (lo - digits)));
	}
	return OK;
}

static void write_ids(struct buf *out, const struct token_list *ids)
{
	buf_str(out, "{\"ids\": [");
	for (size_t i = 0; i < ids->n; i++)
		buf_printf(out, "%s%d", i ? ", " : "", (int)ids->id[i]);
	buf_str(out, "]}");
}

static enum status decode_array(const struct tokenizer *t, const json_t *ids, struct buf *out, struct err *err)
{
	struct buf text = BUF_CAP(BUF_MAX);
	struct detok d = {0};
	enum status st = OK;

	for (size_t i = 0; i < json_array_size(ids) && st == OK; i++) {
		const json_t *v = json_array_get(ids, i);

		if (!json_is_integer(v))
			st = err_set(err, ERR_ARGUMENT,
				     "\"ids\": expected whole numbers, found something else at %zu", i);
		else
			st = check_id(t, json_integer_value(v), err);
		if (st == OK)
			decode_one(t, &d, (int32_t)json_integer_value(v), &text);
	}
	if (st == OK) {
		detok_finish(&d, &text);
		buf_str(out, "{\"text\": ");
		json_write_string(out, buf_cstr(&text), text.len);
		buf_str(out, "}");
	}
	buf_clear(&text);
	return st;
}

struct line_context {
	const struct tokenizer *t;
	bool control, decode;
};

static enum status answer(const struct line_context *c, const json_t *in, struct buf *out, struct err *err)
{
	struct token_list ids = {0};
	struct buf bytes = BUF_CAP(BUF_MAX);
	enum status st = OK;
	const char *p;
	size_t n;

	p = json_get_text(in, "text", &n);
	if (json_is_array(json_object_get(in, "ids")) && (c->decode || (!p && !json_get_text(in, "hex", &n))))
		return decode_array(c->t, json_object_get(in, "ids"), out, err);
	if (p) {
		encode(c->t, c->control, p, n, &ids);
	} else if ((p = json_get_text(in, "hex", &n))) {
		st = from_hex(&bytes, p, n, err);
		if (st == OK)
			encode(c->t, c->control, buf_cstr(&bytes), bytes.len, &ids);
	} else {
		st = err_set(err, ERR_ARGUMENT, "expected an object with \"text\", \"hex\" or \"ids\"");
	}
	if (st == OK && (ids.failed || !buf_ok(&bytes)))
		st = err_set(err, ERR_MEMORY, "no memory for the tokens");
	if (st == OK)
		write_ids(out, &ids);
	token_list_clear(&ids);
	buf_clear(&bytes);
	return st;
}

static enum status on_line(void *ctx, const char *line, size_t n, struct buf *out, struct err *err)
{
	json_t *in = json_parse(line, n, err);
	enum status st = in ? answer(ctx, in, out, err) : err->code;

	json_decref(in);
	return st;
}

/* ------------------------------------------------------------------ plain */

static enum status encode_all(const struct tokenizer *t, bool control, const struct buf *in, struct err *err)
{
	struct token_list ids = {0};

	encode(t, control, buf_cstr(in), in->len, &ids);
	if (ids.failed)
		return err_set(err, ERR_MEMORY, "no memory for the tokens of %zu bytes", in->len);
	for (size_t i = 0; i < ids.n; i++)
		printf("%s%d", i ? " " : "", (int)ids.id[i]);
	putchar('\n');
	token_list_clear(&ids);
	return OK;
}

static enum status decode_all(const struct tokenizer *t, const struct buf *in, struct err *err)
{
	struct buf text = BUF_CAP(BUF_MAX);
	struct detok d = {0};
	enum status st;
	int32_t *ids, n;

	TRY(cli_numbers(&ids, &n, "standard input", buf_cstr(in), in->len, err));
	st = OK;
	for (int32_t i = 0; i < n && st == OK; i++) {
		st = check_id(t, ids[i], err);
		if (st == OK)
			decode_one(t, &d, ids[i], &text);
	}
	detok_finish(&d, &text);
	if (st == OK && !buf_ok(&text))
		st = err_set(err, ERR_MEMORY, "no memory for the text");
	if (st == OK)
		fwrite(buf_cstr(&text), 1, text.len, stdout);
	buf_clear(&text);
	mem_free(ids);
	return st;
}

static enum status tokenize(void *options, struct err *err)
{
	struct tokenize_args *a = options;
	struct buf in = BUF_CAP((size_t)1 << 30);
	struct vocabulary v = {0};
	struct line_context c;
	enum status st = OK;

	TRY_TO(out, vocabulary_open(&v, a->model, err));
	if (a->jsonl) {
		c = (struct line_context){v.tokenizer, a->control, a->decode};
		st = jsonl_run(on_line, &c, err);
		goto out;
	}
	TRY_TO(out, file_read(&in, "-", err));
	st = a->decode ? decode_all(v.tokenizer, &in, err) : encode_all(v.tokenizer, a->control, &in, err);
out:
	buf_clear(&in);
	vocabulary_close(&v);
	return st;
}

static const struct arg_spec tokenize_args[] = {
	CLI_MODEL_ROW(struct tokenize_args),
	ARG_FLAG("control", 0, struct tokenize_args, control,
		 "recognise control tokens such as <think> in the text"),
	ARG_FLAG("decode", 'd', struct tokenize_args, decode, "ids on standard input, text out"),
	ARG_FLAG(
		"jsonl", 0, struct tokenize_args, jsonl,
		"one object a line: {\"text\": …} or {\"hex\": …} gives {\"ids\": […]}, and {\"ids\": […]} gives "
		"{\"text\": …}"),
	ARG_END};

static const char *const tokenize_examples[] = {
	"echo 'Hello there' | ds4 tokenize",
	"echo '<think>hm</think>' | ds4 tokenize --control",
	"echo 'Hello there' | ds4 tokenize | ds4 tokenize -d",
	"echo '{\"text\": \"na\\u00efve\"}' | ds4 tokenize --jsonl -m tokenizer_only.gguf",
	NULL
};

static const struct tokenize_args tokenize_defaults;

const struct cli_command tokenize_command = {
	.args = {"tokenize", "text to token ids and back",
		 "Reads standard input to its end and prints the token ids on one line.  Needs only a vocabulary: "
		 "any GGUF file that holds one will do.",
		 tokenize_args, tokenize_examples},
	.defaults = &tokenize_defaults,
	.size = sizeof tokenize_defaults,
	.run = tokenize,
};
