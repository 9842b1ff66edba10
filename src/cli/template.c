/* template.c - `ds4 render` and `ds4 parse`: the chat format in both directions, one JSON object a line.
 *
 * What  render: a conversation to the exact prompt, as text and as token ids.  parse: what a model wrote to reasoning,
 *       content and tool calls.
 * Why   The format decides whether a model understands at all; anyone can check it with conversations of their own.
 * How   chat/jsonl.h does a line, jsonl.c the rest.  Needs the vocabulary only. */
#include "chat/jsonl.h"
#include "cli/cli.h"
#include "cli/jsonl.h"

struct template_args {
	const char *model;
	bool jsonl;		/* the only form there is; asked for by name so that another may come */
};

static enum status render_line(void *ctx, const char *line, size_t n, struct buf *out, struct err *err)
{
	return chat_render_json(ctx, line, n, out, err);
}

static enum status parse_line(void *ctx, const char *line, size_t n, struct buf *out, struct err *err)
{
	return chat_parse_json(ctx, line, n, out, err);
}

static enum status answer_lines(const struct template_args *a, jsonl_line *line, struct err *err)
{
	struct vocabulary v = {0};
	enum status st = vocabulary_open(&v, a->model, err);

	if (st == OK)
		st = jsonl_run(line, v.tokenizer, err);
	vocabulary_close(&v);
	return st;
}

static enum status render(void *options, struct err *err)
{
	return answer_lines(options, render_line, err);
}

static enum status parse(void *options, struct err *err)
{
	return answer_lines(options, parse_line, err);
}

static const struct arg_spec template_args[] = {
	CLI_MODEL_ROW(struct template_args),
	ARG_FLAG("jsonl", 0, struct template_args, jsonl, "one JSON object a line (always so)"),
	ARG_END
};

static const char *const render_examples[] = {
	"echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}' | ds4 render --jsonl",
	"ds4 render --jsonl < conversations.jsonl > prompts.jsonl",
	NULL
};

static const char *const parse_examples[] = {
	"echo '{\"mode\": \"thinking\", \"text\": \"Hm.</think>Yes.<｜end▁of▁sentence｜>\"}' | ds4 parse --jsonl",
	NULL};

static const struct template_args defaults;

const struct cli_command render_command = {
	.args = {"render", "conversations to the exact prompts",
		 "Reads objects with \"messages\" and optionally \"args\" (thinking_mode, reasoning_effort, "
		 "drop_thinking, add_default_bos_token, context) and \"profile\" (preview, 0731); answers "
		 "{\"prompt\": …, \"ids\": […]}, or {\"error\": …}.",
		 template_args, render_examples},
	.defaults = &defaults,
	.size = sizeof defaults,
	.run = render,
};

const struct cli_command parse_command = {
	.args = {"parse", "what a model wrote to reasoning, content and tool calls",
		 "Reads objects with \"mode\" (chat, thinking) and \"text\", in which control tokens are spelt "
		 "out; answers {\"result\": …}, or {\"error\": …}.",
		 template_args, parse_examples},
	.defaults = &defaults,
	.size = sizeof defaults,
	.run = parse,
};
