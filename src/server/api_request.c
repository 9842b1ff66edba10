/* api_request.c - the limits of a request: sampling, lengths, stop strings, thinking, formats.
 *
 * Why   Four dialects spell the same wishes differently; here each wish is read once.
 * Careful
 *       - Thinking has three sources.  What names it directly (thinking, think, chat_template_kwargs) wins over effort
 *         "none", which wins over the model's name (deepseek-chat: off).
 *       - While thinking the hosted API ignores sampling parameters; so does parse_end(), unless the server was told
 *         otherwise.  They are checked all the same. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "server/api_request_int.h"

bool parsing_no_memory(struct parsing *p)
{
	api_error_set(p->body.e, 503, NULL, "server_busy", "no memory for this request");
	p->body.e->retry_after = 1;
	return false;
}

bool parsing_begin(struct parsing *p, json_t *body, const struct dialect_env *env, struct api_request *q,
		   struct api_error *e)
{
	struct slice model = {env->model, strlen(env->model)};

	*p = (struct parsing){.body = field_body(body, e), .env = env, .q = q, .system = BUF_CAP(BUF_MAX)};
	q->turn = (struct turn_request)TURN_REQUEST_DEFAULT;
	q->turn.sampling = (struct sampler_params){
		.temperature = 1, .top_p = 1, .min_p = 0.05f, .seed = env->seed};
	q->turn.thinking = THINKING_ON;
	q->turn.effort = EFFORT_HIGH;
	q->body = json_incref(body);
	if (!get_text(&p->body, "model", &model) || !get_bool(&p->body, "stream", &q->stream))
		return false;
	q->model = slice_copy(model);
	if (slice_is(model, "deepseek-chat"))
		q->turn.thinking = THINKING_OFF;
	p->c = conversation_new();
	return (q->model && p->c) || parsing_no_memory(p);
}

void parsing_clear(struct parsing *p)
{
	conversation_free(p->c);
	buf_clear(&p->system);
	json_decref(p->any_object);
}

void api_request_clear(struct api_request *q)
{
	conversation_free(q->turn.conversation);
	token_list_clear(&q->raw);
	mem_free(q->stop);
	mem_free(q->model);
	mem_free(q->tool_name);
	mem_free(q->echo_text);
	for (size_t i = 0; i < q->n_tool; i++) {
		mem_free(q->tool[i].name);
		mem_free(q->tool[i].wire_name);
		mem_free(q->tool[i].space);
	}
	mem_free(q->tool);
	json_decref(q->tools);
	json_decref(q->body);
	*q = (struct api_request){.model = NULL};
}

/* --- sampling, lengths --- */

static uint64_t big_seed(const json_t *v)
{
	return json_is_big_integer(v) ? strtoull(json_string_value(v) + 1, NULL, 10) : 0;
}

bool parse_sampling(struct parsing *p)
{
	struct sampler_params *s = &p->q->turn.sampling;
	struct field seed = field_get(&p->body, "seed"), top_p = field_get(&p->body, "top_p");
	double t = 1, P = 1, m = 0.05, n = 0;
	int64_t k = 0;

	if (!get_number(&p->body, "temperature", 0, 2, &t) || !field_number(&top_p, 0, 1, &P) ||
	    !get_int(&p->body, "top_k", -1, INT64_MAX, &k) || !get_number(&p->body, "min_p", 0, 1, &m) ||
	    !field_number(&seed, -HUGE_VAL, HUGE_VAL, &n))
		return false;
	if (P == 0)
		return field_fail(&top_p, "expected a number above 0 and up to 1, found 0");
	s->temperature = (float)t;
	s->top_p = (float)P;
	s->min_p = (float)m;
	s->top_k = k <= 0 ? 0 : k > INT32_MAX ? INT32_MAX : (int32_t)k;
	if (n > 0)
		s->seed = json_is_integer(seed.v) ? (uint64_t)json_integer_value(seed.v)
			: json_is_real(seed.v)    ? (uint64_t)(n < 1e18 ? n : 1e18)
						  : big_seed(seed.v);
	return true;
}

bool parse_max_tokens(struct parsing *p, const char *key, int lowest)
{
	int64_t n = -1, had = p->q->turn.max_tokens;

	if (!get_int(&p->body, key, lowest, INT64_MAX, &n))
		return false;
	if (n > API_MAX_TOKENS)
		n = API_MAX_TOKENS;
	if (n >= 0 && (had < 0 || n < had))
		p->q->turn.max_tokens = (int32_t)n;
	return true;
}

/* Copies n strings, the empty ones excepted, into one block. */
static bool copy_stops(struct parsing *p, const struct slice *s, size_t n)
{
	size_t bytes = n * sizeof *p->q->stop;
	char *at;

	for (size_t i = 0; i < n; i++)
		bytes += s[i].n;
	p->q->stop = mem_alloc(bytes ? bytes : 1);
	if (!p->q->stop)
		return parsing_no_memory(p);
	at = (char *)(p->q->stop + n);
	for (size_t i = 0; i < n; i++) {
		if (!s[i].n)
			continue;
		memcpy(at, s[i].p, s[i].n);
		p->q->stop[p->q->turn.n_stop++] = (struct stop_string){.p = at, .n = s[i].n};
		at += s[i].n;
	}
	p->q->turn.stop = p->q->stop;
	return true;
}

bool parse_stop(struct parsing *p, const char *key)
{
	struct field f = field_get(&p->body, key);
	struct slice s[API_MAX_STOP];
	size_t n = json_is_array(f.v) ? field_count(&f) : 1;

	if (!f.v)
		return true;
	if (n > API_MAX_STOP)
		return field_fail(&f, "expected at most %d strings, found %zu", API_MAX_STOP, n);
	if (!json_is_array(f.v) && !json_is_text(f.v))
		return field_wrong(&f, "a string or an array of strings");
	for (size_t i = 0; i < n; i++) {
		struct field item = json_is_array(f.v) ? field_at(&f, i) : f;

		if (!json_is_text(item.v))
			return field_wrong(&item, "a string");
		field_text(&item, &s[i]);
		if (s[i].n > STOPS_MAX_BYTES)
			return field_fail(&item, "expected at most %d bytes, found %zu", STOPS_MAX_BYTES, s[i].n);
	}
	return copy_stops(p, s, n);
}

bool parse_refused(struct parsing *p)
{
	static const char *const one[] = {"n", "best_of"}, *const zero[] = {"frequency_penalty", "presence_penalty"};
	struct field bias = field_get(&p->body, "logit_bias");

	for (size_t i = 0; i < 2; i++) {
		struct field f = field_get(&p->body, one[i]);
		int64_t n = 1;

		if (!field_int(&f, 1, INT64_MAX, &n))
			return false;
		if (n > 1)
			return field_fail(&f, "only 1 is supported, found %lld", (long long)n);
	}
	for (size_t i = 0; i < 2; i++) {
		struct field f = field_get(&p->body, zero[i]);
		double x = 0;

		if (!field_number(&f, -2, 2, &x))
			return false;
		if (x != 0 && p->q->turn.thinking == THINKING_OFF)
			return field_fail(&f, "only 0 is supported, found %g", x);
	}
	if (!field_object(&bias))
		return false;
	return !json_object_size(bias.v) || field_fail(&bias, "is not supported");
}

/* --- thinking --- */

static void set_thinking(struct parsing *p, bool on)
{
	p->q->turn.thinking = on ? THINKING_ON : THINKING_OFF;
	p->thinking_asked = true;
}

bool parse_effort(struct parsing *p, const struct field *f)
{
	static const struct {
		const char *name;
		enum effort preview, v0731;
	} table[] = {
		{"minimal", EFFORT_HIGH, EFFORT_LOW},  {"low", EFFORT_HIGH, EFFORT_LOW},
		{"medium", EFFORT_HIGH, EFFORT_HIGH},  {"high", EFFORT_HIGH, EFFORT_HIGH},
		{"xhigh", EFFORT_MAX, EFFORT_HIGH},    {"max", EFFORT_MAX, EFFORT_MAX},
		{"ultra", EFFORT_MAX, EFFORT_MAX},
	};
	struct slice s = {.p = NULL};

	if (!field_text(f, &s))
		return false;
	if (!s.p)
		return true;
	if (slice_is(s, "none")) {
		if (!p->thinking_asked)
			p->q->turn.thinking = THINKING_OFF;
		return true;
	}
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		if (!slice_is(s, table[i].name))
			continue;
		p->q->turn.effort = p->env->profile == PROFILE_0731 ? table[i].v0731 : table[i].preview;
		return true;
	}
	return field_wrong(f, "none, minimal, low, medium, high, xhigh, max or ultra");
}

/* {"type": "enabled" | "disabled" | "adaptive", "budget_tokens": n}, or a bool. */
static bool parse_thinking_field(struct parsing *p, const struct field *f)
{
	struct slice type = {.p = NULL};
	int64_t budget = -1;

	if (!f->v)
		return true;
	if (json_is_boolean(f->v)) {
		set_thinking(p, json_is_true(f->v));
		return true;
	}
	if (!json_is_object(f->v))
		return field_wrong(f, "an object or a bool");
	if (!get_text(f, "type", &type) || !get_int(f, "budget_tokens", 0, INT64_MAX, &budget))
		return false;
	if (slice_is(type, "enabled") || slice_is(type, "adaptive") || slice_is(type, "disabled"))
		set_thinking(p, !slice_is(type, "disabled"));
	if (budget >= 0)
		p->q->turn.thinking_budget = budget > INT32_MAX ? INT32_MAX : (int32_t)budget;
	return true;
}

bool parse_thinking(struct parsing *p)
{
	static const char *const names[] = {"thinking", "enable_thinking"};
	struct field kwargs = field_get(&p->body, "chat_template_kwargs"), f = field_get(&p->body, "think");
	struct field effort = field_get(&kwargs, "reasoning_effort");
	bool on = false;

	if (!field_object(&kwargs) || !field_bool(&f, &on))
		return false;
	for (size_t i = 0; i < 2; i++) {
		struct field k = field_get(&kwargs, names[i]);
		bool asked = false;

		if (!field_bool(&k, &asked))
			return false;
		if (k.v)
			set_thinking(p, asked);
	}
	if (f.v)
		set_thinking(p, on);
	f = field_get(&p->body, "thinking");
	return parse_thinking_field(p, &f) && parse_effort(p, &effort);
}

/* --- formats, ends --- */

bool parse_format(struct parsing *p, const struct field *f, const char *wrapper)
{
	struct field outer = wrapper ? field_get(f, wrapper) : *f, schema = field_get(&outer, "schema");
	struct field type_field = field_get(f, "type");
	struct slice type = {.p = NULL};

	if (!f->v)
		return true;
	if (!field_object(f) || !field_text(&type_field, &type))
		return false;
	if (!type.p)
		return field_missing(&type_field);
	if (slice_is(type, "text"))
		return true;
	if (slice_is(type, "json_object")) {
		p->any_object = json_pack("{s:s}", "type", "object");
		p->format = p->any_object;
		p->q->turn.format = TURN_FORMAT_JSON_OBJECT;
		return p->format || parsing_no_memory(p);
	}
	if (!slice_is(type, "json_schema"))
		return field_wrong(&type_field, "text, json_object or json_schema");
	if (!field_object(&outer) || !field_object(&schema))
		return false;
	if (!schema.v)
		return field_missing(outer.v ? &schema : &outer);
	p->q->turn.format = TURN_FORMAT_JSON_SCHEMA;
	p->q->turn.schema = schema.v;
	p->format = schema.v;
	return true;
}

bool parse_parallel(struct parsing *p)
{
	bool parallel = true;

	if (!get_bool(&p->body, "parallel_tool_calls", &parallel))
		return false;
	p->q->turn.one_call = !parallel;
	return true;
}

void parse_end(struct parsing *p)
{
	struct sampler_params *s = &p->q->turn.sampling;

	if (p->q->turn.thinking == THINKING_OFF || p->env->thinking_samples)
		return;
	*s = (struct sampler_params){.temperature = 1, .top_p = 1, .min_p = 0.05f, .seed = s->seed};
}
