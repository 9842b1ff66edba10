/* run.c - `ds4 run` (and `ds4 -p`): one prompt, one answer.
 *
 * What  The answer on standard output, nothing else.  --json gives everything about it as one object instead.
 * How   The prompt is the text of -p, of -f, or of standard input when that is no terminal; with both -p and -f,
 *       first the one, then the other.  It becomes the only user turn of a conversation, or with --raw the whole
 *       input of the model as it stands.
 * Careful
 *       - Reasoning is shown (dim) only to a person at a terminal; --show-thinking sends it to standard error, so
 *         that a pipe holds the answer and nothing else.
 *       - Ctrl-C keeps what has been written and ends in exit code 130; a second one ends at once. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "chat/answer.h"
#include "cli/cli.h"
#include "cli/generate.h"
#include "cli/prompt.h"
#include "cli/show.h"
#include "cli/term.h"
#include "engine/mask.h"

#define PROMPT_CAP ((size_t)256 << 20)
#define MAX_LOGPROBS 100

struct run_args {
	struct engine_args engine;
	struct kv_args kv;
	struct sampling_args sampling;
	struct prompt_args prompt;
	const char *text, *file;
	bool raw, control, json, show_thinking;
	int64_t logprobs;
};

struct job {
	const struct run_args *a;
	struct engine *e;
	struct kvstore *kv;
	struct session *session;
	struct sampler sampler;
	uint8_t *allowed;
	struct prompt prompt;
	struct conversation *conversation;
	struct token_list ids;
	struct generate_result result;
	struct show show;
	struct answer answer;		/* --json */
	json_t *tokens;			/* --json */
};

/* ------------------------------------------------------------------ the prompt */

static enum status read_text(struct buf *out, const struct run_args *a, struct err *err)
{
	bool piped = !a->text && !a->file;

	if (piped && term_in_tty())
		return err_set(err, ERR_ARGUMENT,
			       "'run' needs a prompt: -p TEXT, -f FILE, or text on standard input");
	if (a->text)
		buf_str(out, a->text);
	if (a->text && a->file)
		buf_str(out, "\n\n");
	if (a->file || piped)
		TRY(file_read(out, piped ? "-" : a->file, err));
	while (!a->raw && out->len && strchr("\r\n", out->data[out->len - 1]))
		buf_cut(out, out->len - 1);
	if (!buf_ok(out))
		return err_set(err, ERR_LIMIT, "the prompt is longer than %zu bytes", PROMPT_CAP);
	if (!out->len)
		return err_set(err, ERR_ARGUMENT, "the prompt is empty");
	return OK;
}

static enum status make_prompt(struct job *j, const struct buf *text, struct err *err)
{
	const struct tokenizer *t = j->e->tokenizer;

	if (j->a->raw) {
		if (j->a->control)
			token_encode_control(t, text->data, text->len, &j->ids);
		else
			token_encode_text(t, text->data, text->len, &j->ids);
	} else {
		TRY(prompt_begin(&j->prompt, &j->conversation, err));
		conversation_add(j->conversation, ROLE_USER, text->data, text->len);
		if (!conversation_ok(j->conversation))
			return err_set(err, ERR_MEMORY, "no memory for the prompt");
		TRY(chat_render_ids(j->conversation, &j->prompt.render, t, &j->ids, err));
	}
	return j->ids.failed ? err_set(err, ERR_MEMORY, "no memory for the prompt's tokens") : OK;
}

/* ------------------------------------------------------------------ --json */

/* Text and bytes of one token: the text of part of a character is U+FFFD, the bytes are always exact. */
static json_t *token_json(const struct tokenizer *t, int32_t id, double logprob)
{
	struct buf text = BUF_CAP(BUF_MAX);
	struct detok d = {0};
	json_t *bytes = json_array(), *out;
	size_t n;
	const char *p = token_bytes(t, id, &n);

	detok_push(&d, p, n, &text);
	detok_finish(&d, &text);
	for (size_t i = 0; i < n; i++)
		json_array_append_new(bytes, json_integer((unsigned char)p[i]));
	out = json_pack("{s:i, s:s%, s:o}", "id", (int)id, "text", buf_cstr(&text), text.len, "bytes", bytes);
	if (!isnan(logprob))
		json_object_set_new(out, "logprob", isfinite(logprob) ? json_real(logprob) : json_null());
	buf_clear(&text);
	return out;
}

static void on_token(void *ctx, int32_t id, const float *logits)
{
	struct job *j = ctx;
	int32_t v = j->e->shape.vocab, k = (int32_t)j->a->logprobs, best[MAX_LOGPROBS];
	float logprob[MAX_LOGPROBS];
	json_t *one, *top;

	one = token_json(j->e->tokenizer, id, k ? sampler_logprob(logits, v, id) : NAN);
	if (k) {
		if (k > v)
			k = v;
		sampler_top(logits, v, k, best, logprob);
		top = json_array();
		for (int32_t i = 0; i < k; i++)
			json_array_append_new(top, token_json(j->e->tokenizer, best[i], (double)logprob[i]));
		json_object_set_new(one, "top", top);
	}
	json_array_append_new(j->tokens, one);
}

static void add_usage(const struct job *j, json_t *o)
{
	const struct generate_result *r = &j->result;
	double read = r->prompt_tokens - r->reused, wrote = (double)r->ids.n;

	json_object_set_new(o, "usage", json_pack("{s:i, s:i, s:i}", "prompt_tokens", (int)r->prompt_tokens,
						  "completion_tokens", (int)r->ids.n, "total_tokens",
						  (int)r->prompt_tokens + (int)r->ids.n));
	json_object_set_new(o, "timings",
			    json_pack("{s:f, s:f, s:f, s:f}", "prompt_seconds", r->prompt_seconds,
				      "prompt_tokens_per_second", read / fmax(r->prompt_seconds, 1e-9),
				      "completion_seconds", r->answer_seconds, "completion_tokens_per_second",
				      wrote / fmax(r->answer_seconds, 1e-9)));
}

static enum status print_json(struct job *j, struct err *err)
{
	struct buf text = BUF_CAP(BUF_MAX);
	json_t *o = json_object(), *message = answer_json(&j->answer),
	       *calls = json_object_get(message, "tool_calls");

	json_object_set_new(o, "text", json_stringn(buf_cstr(&j->answer.content), j->answer.content.len));
	if (j->answer.reasoning.len)
		json_object_set(o, "reasoning", json_object_get(message, "reasoning_content"));
	if (json_array_size(calls))
		json_object_set(o, "tool_calls", calls);
	json_object_set_new(o, "finish_reason", json_string(finish_name(&j->result)));
	json_object_set(o, "tokens", j->tokens);
	add_usage(j, o);
	json_object_set_new(o, "model", json_string(j->e->name));
	json_object_set_new(o, "backend", json_string(j->e->be->name));
	json_object_set_new(o, "seed", json_integer((json_int_t)j->sampler.p.seed));
	if (message && o)
		json_write_python(&text, o);
	json_decref(message);
	json_decref(o);
	if (!buf_ok(&text) || !text.len || j->answer.failed)
		return err_set(err, ERR_MEMORY, "no memory for the JSON text");
	fwrite(text.data, 1, text.len, stdout);
	putchar('\n');
	buf_clear(&text);
	return OK;
}

/* ------------------------------------------------------------------ the answer */

static void on_piece(void *ctx, const struct piece *p)
{
	struct job *j = ctx;

	if (j->a->json)
		answer_take(&j->answer, p);
	else
		show_piece(&j->show, p);
}

static enum status answer(struct job *j, struct err *err)
{
	struct generate_request q = {.engine = j->e, .session = j->session, .sampler = &j->sampler,
				     .stops = j->prompt.stops.n_stop ? &j->prompt.stops : NULL, .prompt = &j->ids,
				     .max_tokens = (int32_t)j->a->sampling.max_tokens, .raw = j->a->raw,
				     .thinking = j->prompt.render.thinking, .tools = j->prompt.tools, .ctx = j,
				     .piece = on_piece, .token = j->a->json ? on_token : NULL};
	enum status st;

	j->show.reasoning_to = term_out_tty() ? stdout : j->a->show_thinking ? stderr : NULL;
	j->show.calls_as_json = !term_out_tty();
	answer_init(&j->answer);
	j->tokens = json_array();
	st = generate(&q, &j->result, err);
	if (!j->a->json)
		show_end(&j->show);
	if (st != OK)
		return st;
	if (j->a->json)
		TRY(print_json(j, err));
	if (j->result.full)
		term_note("(the context of %d tokens is full; a larger --ctx makes room)", (int)j->e->opt.context);
	if (j->result.cancelled)
		return err_set(err, ERR_CANCELLED, "stopped");
	return OK;
}

static enum status prepare(struct job *j, const struct buf *text, struct err *err)
{
	struct sampler_params p;

	TRY(cli_open_engine(&j->e, &j->a->engine, NULL, 0, err));
	TRY(prompt_init(&j->prompt, &j->a->prompt, j->e, err));
	TRY(make_prompt(j, text, err));
	TRY(cli_open_kv(&j->kv, &j->a->kv, j->e, err));
	TRY(session_open(&j->session, j->e, err));
	j->allowed = token_mask_new(j->e->tokenizer);
	if (!j->allowed)
		return err_set(err, ERR_MEMORY, "no memory for the token mask");
	p = cli_sampling(&j->a->sampling, j->e);
	return sampler_init(&j->sampler, &p, j->e->shape.vocab, j->allowed, err);
}

static void clear(struct job *j)
{
	answer_clear(&j->answer);
	json_decref(j->tokens);
	token_list_clear(&j->result.ids);
	sampler_clear(&j->sampler);
	mem_free(j->allowed);
	session_close(j->session);
	token_list_clear(&j->ids);
	conversation_free(j->conversation);
	prompt_clear(&j->prompt);
	cli_close_kv(j->kv);
	engine_close(j->e);
}

static enum status check(const struct run_args *a, struct err *err)
{
	if (a->logprobs && !a->json)
		return err_set(err, ERR_ARGUMENT, "--logprobs needs --json");
	if (a->control && !a->raw)
		return err_set(err, ERR_ARGUMENT,
			       "--control needs --raw: in a conversation, text never becomes a control token");
	if (a->raw && (a->prompt.system || a->prompt.system_file || a->prompt.tools || a->prompt.think))
		return err_set(err, ERR_ARGUMENT,
			       "--raw takes the prompt as it is: without --system, --tools and --think");
	return OK;
}

static enum status run(void *options, struct err *err)
{
	struct run_args *a = options;
	struct job j = {.a = a};
	struct buf text = BUF_CAP(PROMPT_CAP);
	enum status st;

	cli_interrupt_twice_kills();
	st = check(a, err);
	if (st == OK)
		st = read_text(&text, a, err);
	if (st == OK)
		st = prepare(&j, &text, err);
	if (st == OK)
		st = answer(&j, err);
	buf_clear(&text);
	clear(&j);
	return st;
}

static const struct arg_spec run_args[] = {
	ARG_TEXT("prompt", 'p', struct run_args, text, "TEXT", "what to answer"),
	ARG_TEXT("file", 'f', struct run_args, file, "FILE", "the same from a file, after TEXT; - is standard input"),
	ARG_FLAG("json", 0, struct run_args, json, "one JSON object: text, tokens, finish_reason, usage, timings"),
	ARG_INT("logprobs", 0, struct run_args, logprobs, 0, MAX_LOGPROBS, "K",
		"with --json: log-probability of each token and of the K likeliest"),
	ARG_FLAG("show-thinking", 0, struct run_args, show_thinking,
		 "reasoning goes to standard error when the answer is piped (at a terminal it is shown anyway)"),
	ARG_FLAG("raw", 0, struct run_args, raw, "no conversation: the model continues the text as it is"),
	ARG_FLAG("control", 0, struct run_args, control, "with --raw: recognise control tokens such as <think>"),
	ARG_INCLUDE(struct run_args, prompt, prompt_arg_table),
	ARG_INCLUDE(struct run_args, sampling, sampling_arg_table),
	ARG_INCLUDE(struct run_args, engine, engine_arg_table),
	ARG_INCLUDE(struct run_args, kv, kv_arg_table),
	ARG_END
};

static const char *const run_examples[] = {
	"ds4 run -p 'What is the capital of France?'        # or just: ds4 -p '…'",
	"ds4 run -p 'Summarise this.' -f notes.txt",
	"git diff | ds4 run --system 'Explain this change.'",
	"ds4 run --think --temp 0 -p 'What is 348 + 276?'",
	"ds4 run --json --logprobs 5 -n 8 -p 'Hello!'",
	"ds4 run --raw --control -p '<｜begin▁of▁sentence｜>Once upon a time'",
	NULL
};

static const struct run_args run_defaults = {.sampling = SAMPLING_ARGS_DEFAULT, .kv = KV_ARGS_DEFAULT};

const struct cli_command run_command = {
	.args = {"run", "answers one prompt and exits",
		 "Prints the answer and nothing else.  Tool calls are printed as JSON, one object a line, when the "
		 "output is not a terminal.  Ctrl-C stops, keeps what was written, and gives exit code 130; a "
		 "reader that closes the pipe ends the program quietly (SIGPIPE).",
		 run_args, run_examples},
	.defaults = &run_defaults,
	.size = sizeof run_defaults,
	.run = run,
};
