/* dialect_completions.c - POST /v1/completions: the request.  The answer is in dialect_completions_write.c.
 *
 * What  A raw prompt: text in which control tokens are recognised (unless parse_special is false), or token ids, with
 *       the beginning-of-sentence token in front.  A suffix makes it a fill-in-the-middle prompt.
 *       When the server was started so, the prompt is one user message of a chat instead.
 * Careful
 *       - The default of max_tokens is OpenAI's 16 here, not the end of the context.
 * Source: docs/api.md, section 5. */
#include "server/dialect_completions_int.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "server/api_request_int.h"
#include "server/dialect_chat_int.h"

#define DEFAULT_TOKENS 16

struct prompt {
	struct slice text;	/* p NULL: ids */
	struct field ids;	/* array */
};

static bool is_integers(const struct field *a)
{
	const json_t *first = json_array_get(a->v, 0);

	return json_is_array(a->v) && (!first || json_is_number(first));
}

static bool read_prompt(struct parsing *p, struct field *f, struct prompt *out)
{
	static const char what[] = "a string, an array of one string, or an array of token ids";

	if (!f->v)
		return field_missing(f);
	if (json_is_array(f->v) && !is_integers(f)) {	/* one prompt in an array */
		struct field inner = field_at(f, 0);

		if (field_count(f) > 1)
			return field_fail(f, "only one prompt is supported, found %zu", field_count(f));
		*f = (struct field){.v = inner.v, .key = f->key, .up = &p->body, .e = f->e};
	}
	if (json_is_text(f->v))
		return field_text(f, &out->text);
	if (!is_integers(f))
		return field_wrong(f, what);
	out->ids = *f;
	return true;
}

/* The ids of the prompt alone. */
static bool add_prompt(struct parsing *p, const struct prompt *prompt, bool special, struct token_list *out)
{
	if (prompt->text.p && special)
		token_encode_control(p->env->tokenizer, prompt->text.p, prompt->text.n, out);
	else if (prompt->text.p)
		token_encode_text(p->env->tokenizer, prompt->text.p, prompt->text.n, out);
	for (size_t i = 0; !prompt->text.p && i < field_count(&prompt->ids); i++) {
		struct field f = field_at(&prompt->ids, i);
		int64_t id = 0;

		if (!f.v)
			return field_wrong(&f, "a token id");
		if (!field_int(&f, 0, tokenizer_size(p->env->tokenizer) - 1, &id))
			return false;
		token_push(out, (int32_t)id);
	}
	return true;
}

/* The prompt as text, for echo. */
static bool keep_echo(struct parsing *p, const struct prompt *prompt, const struct token_list *ids)
{
	struct buf b = BUF_CAP(BUF_MAX), bytes = BUF_CAP(BUF_MAX);

	if (prompt->text.p) {
		buf_add(&b, prompt->text.p, prompt->text.n);
	} else {
		for (size_t i = 0; i < ids->n; i++) {
			size_t n;
			const char *piece = token_bytes(p->env->tokenizer, ids->id[i], &n);

			buf_add(&bytes, piece, n);
		}
		utf8_add_lossy(&b, buf_cstr(&bytes), bytes.len);
	}
	p->q->n_echo = b.len;
	p->q->echo_text = mem_strn(buf_cstr(&b), b.len);
	if (!buf_ok(&b) || !buf_ok(&bytes) || !p->q->echo_text)
		parsing_no_memory(p);
	buf_clear(&bytes);
	buf_clear(&b);
	return p->q->echo_text != NULL;
}

/* prefix -> begin prefix hole suffix end */
static bool fill_in_the_middle(struct parsing *p, const struct field *f, struct slice suffix, struct token_list *ids)
{
	const struct tokenizer *t = p->env->tokenizer;
	int32_t begin = tokenizer_special(t, SPECIAL_FIM_BEGIN), hole = tokenizer_special(t, SPECIAL_FIM_HOLE);
	int32_t end = tokenizer_special(t, SPECIAL_FIM_END);
	struct token_list whole = {.id = NULL};

	if (begin < 0 || hole < 0 || end < 0)
		return field_fail(f, "this model has no tokens for filling in the middle");
	token_push(&whole, begin);
	token_append(&whole, ids->id, ids->n);
	token_push(&whole, hole);
	token_encode_text(t, suffix.p, suffix.n, &whole);
	token_push(&whole, end);
	token_list_clear(ids);
	*ids = whole;
	return true;
}

static bool make_raw(struct parsing *p, const struct prompt *prompt)
{
	struct field suffix_field = field_get(&p->body, "suffix");
	int32_t bos = tokenizer_special(p->env->tokenizer, SPECIAL_BOS);
	struct token_list ids = {.id = NULL}, *raw = &p->q->raw;
	struct slice suffix = {.p = NULL};
	bool special = true, ok;
	size_t n;

	ok = get_bool(&p->body, "parse_special", &special) && field_text(&suffix_field, &suffix) &&
	     add_prompt(p, prompt, special, &ids) && (!p->q->echo || keep_echo(p, prompt, &ids));
	n = ids.n;
	ok = ok && (!suffix.n || fill_in_the_middle(p, &suffix_field, suffix, &ids));
	if (ok && (!ids.n || ids.id[0] != bos))
		token_push(raw, bos);
	p->q->echo_at = raw->n + (suffix.n > 0);
	p->q->n_echo_ids = n;
	if (ok)
		token_append(raw, ids.id, ids.n);
	ok = ok && ((!ids.failed && !raw->failed) || parsing_no_memory(p));
	token_list_clear(&ids);
	p->q->turn.raw = raw->id;
	p->q->turn.n_raw = (int32_t)raw->n;
	return ok;
}

static bool make_chat(struct parsing *p, const struct field *f, const struct prompt *prompt)
{
	struct field effort = field_get(&p->body, "reasoning_effort");
	static const char system[] = "You are a helpful assistant";

	if (!prompt->text.p)
		return field_wrong(f, "a string");
	if (p->q->echo && !keep_echo(p, prompt, NULL))
		return false;
	p->q->turn.thinking = THINKING_ON;
	return parse_thinking(p) && parse_effort(p, &effort) && say_system(p, system, sizeof system - 1) &&
	       say(p, ROLE_USER, prompt->text.p, prompt->text.n) && say_end(p, f);
}

static bool read_logprobs(struct parsing *p)
{
	struct field f = field_get(&p->body, "logprobs");
	int64_t n = 0;

	if (!field_int(&f, 0, 20, &n))
		return false;
	p->q->logprobs = f.v != NULL;
	p->q->turn.top_logprobs = f.v ? (int32_t)n : -1;
	return true;
}

static bool read_all(struct parsing *p)
{
	struct field f = field_get(&p->body, "prompt"), max_tokens = field_get(&p->body, "max_tokens");
	struct prompt prompt = {.text = {.p = NULL}};

	p->q->turn.thinking = THINKING_OFF;
	if (!read_prompt(p, &f, &prompt) || !parse_sampling(p) || !parse_max_tokens(p, "max_tokens", 0) ||
	    !parse_stop(p, "stop") || !parse_stream_options(p) || !read_logprobs(p) ||
	    !get_bool(&p->body, "echo", &p->q->echo))
		return false;
	p->q->turn.prompt_logprobs = p->q->echo && p->q->logprobs;
	if (!max_tokens.v && !p->env->completions_chat)
		p->q->turn.max_tokens = DEFAULT_TOKENS;
	return (p->env->completions_chat ? make_chat(p, &f, &prompt) : make_raw(p, &prompt)) && parse_refused(p);
}

static bool completions_parse(json_t *body, const struct dialect_env *env, struct api_request *q, struct api_error *e)
{
	struct parsing p;
	bool ok = parsing_begin(&p, body, env, q, e) && read_all(&p);

	if (ok)
		parse_end(&p);
	parsing_clear(&p);
	return ok;
}

const struct dialect dialect_completions = {
	.name = "completions",
	.path = "/v1/completions",
	.input = "prompt",
	.request_id = "x-request-id",
	.busy = 503,
	.parse = completions_parse,
	.open = completions_open,
	.event = completions_event,
	.fail = completions_fail,
	.close = completions_close,
	.error = api_error_write_openai,
};
