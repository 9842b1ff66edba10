/* api_openapi_test.c - docs/openapi.json says what is served: its paths, each field of each request, each answer.
 *
 * A small JSON schema validator reads answers against the document, which allows no members but those it lists; fields
 * of requests are sent with a right and with a wrong type. */
#include "streams.h"

static json_t *doc;

static int setup(void **state)
{
	struct buf text = BUF_CAP(1 << 24);
	struct err err = {0};

	if (file_read(&text, "docs/openapi.json", &err) != OK)
		fail_msg("%s", err.msg);
	doc = parse_json(buf_cstr(&text), text.len);
	buf_clear(&text);
	return open_env(state);
}

static int teardown(void **state)
{
	json_decref(doc);
	return close_env(state);
}

static const json_t *schema_named(const char *name)
{
	const json_t *s = json_object_get(json_object_get(json_object_get(doc, "components"), "schemas"), name);

	if (!s)
		fail_msg("no schema %s", name);
	return s;
}

static const json_t *resolve(const json_t *schema)
{
	const char *ref = str(schema, "$ref");

	return ref[0] ? resolve(schema_named(ref + strlen("#/components/schemas/"))) : schema;
}

/* --- validator --- */

static bool is_type(const json_t *v, const char *type)
{
	return (strcmp(type, "object") == 0 && json_is_object(v)) || (strcmp(type, "array") == 0 && json_is_array(v)) ||
	       (strcmp(type, "string") == 0 && json_is_text(v)) || (strcmp(type, "integer") == 0 && json_is_integer(v)) ||
	       (strcmp(type, "number") == 0 && json_is_number(v)) || (strcmp(type, "boolean") == 0 && json_is_boolean(v)) ||
	       (strcmp(type, "null") == 0 && json_is_null(v));
}

static bool has_type(const json_t *v, const json_t *type)
{
	if (json_is_string(type))
		return is_type(v, json_string_value(type));
	for (size_t i = 0; i < json_array_size(type); i++)
		if (is_type(v, json_string_value(json_array_get(type, i))))
			return true;
	return !type;
}

static bool valid(const json_t *v, const json_t *schema, char why[200]);

static bool valid_object(const json_t *v, const json_t *schema, char why[200])
{
	const json_t *required = json_object_get(schema, "required"), *props = json_object_get(schema, "properties");
	json_t *members = (json_t *)v;

	for (size_t i = 0; i < json_array_size(required); i++) {
		const char *name = json_string_value(json_array_get(required, i));

		if (!json_object_get(v, name)) {
			snprintf(why, 200, "%s is missing", name);
			return false;
		}
	}
	for (void *i = json_object_iter(members); i; i = json_object_iter_next(members, i)) {
		const char *name = json_object_iter_key(i);
		const json_t *prop = json_object_get(props, name);
		char inner[200] = "";

		if (prop ? valid(json_object_iter_value(i), prop, inner)
			 : !json_is_false(json_object_get(schema, "additionalProperties")))
			continue;
		snprintf(why, 200, "%.60s: %.120s", name, prop ? inner : "is not in the document");
		return false;
	}
	return true;
}

static bool valid(const json_t *v, const json_t *schema, char why[200])
{
	const json_t *any, *values, *items;

	schema = resolve(schema);
	any = json_object_get(schema, "anyOf");
	values = json_object_get(schema, "enum");
	items = json_object_get(schema, "items");
	if (any) {
		for (size_t i = 0; i < json_array_size(any); i++)
			if (valid(v, json_array_get(any, i), why))
				return true;
		return false;
	}
	if (json_object_get(schema, "const") && !json_equal(v, json_object_get(schema, "const"))) {
		snprintf(why, 200, "expected the constant %s", str(schema, "const"));
		return false;
	}
	if (!has_type(v, json_object_get(schema, "type"))) {
		snprintf(why, 200, "wrong type");
		return false;
	}
	for (size_t i = 0; i < json_array_size(values); i++) {
		if (json_equal(v, json_array_get(values, i)))
			break;
		if (i + 1 == json_array_size(values)) {
			snprintf(why, 200, "not one of the listed values");
			return false;
		}
	}
	for (size_t i = 0; items && i < json_array_size(v); i++)
		if (!valid(json_array_get(v, i), items, why))
			return false;
	return !json_is_object(v) || valid_object(v, schema, why);
}

/* --- paths --- */

static void every_path_is_described(void **state)
{
	static const struct {
		const char *path, *method;
	} more[] = {
		{"/", "get"}, {"/health", "get"}, {"/metrics", "get"}, {"/v1/models", "get"}, {"/v1/models/{id}", "get"},
		{"/v1/messages/count_tokens", "post"}, {"/tokenize", "post"}, {"/detokenize", "post"},
	};
	static const struct dialect *const all[] = {&dialect_chat, &dialect_completions, &dialect_responses, &dialect_messages};
	const json_t *paths = json_object_get(doc, "paths");

	(void)state;
	assert_string_equal(str(doc, "openapi"), "3.1.0");
	for (size_t i = 0; i < 4; i++) {
		const json_t *post = json_object_get(json_object_get(paths, all[i]->path), "post");
		char busy[8];

		if (!post)
			fail_msg("%s is not described", all[i]->path);
		assert_string_equal(str(post, "operationId"), all[i]->name);
		snprintf(busy, sizeof busy, "%d", all[i]->busy);
		assert_non_null(json_object_get(json_object_get(post, "responses"), busy));
	}
	for (size_t i = 0; i < sizeof more / sizeof *more; i++)
		if (!json_object_get(json_object_get(paths, more[i].path), more[i].method))
			fail_msg("%s %s is not described", more[i].method, more[i].path);
	assert_int_equal(json_object_size(paths), 4 + sizeof more / sizeof *more);
}

/* --- requests --- */

static const struct {
	const struct dialect *d;
	const char *request, *answer, *event;
	const char *base;	/* the least that is accepted */
} apis[] = {
	{&dialect_chat, "ChatRequest", "ChatCompletion", "ChatCompletionChunk",
	 "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"logprobs\":true,\"thinking\":{\"type\":\"disabled\"}}"},
	{&dialect_completions, "CompletionRequest", "Completion", "Completion", "{\"prompt\":\"x\"}"},
	{&dialect_responses, "ResponsesRequest", "Response", "ResponseEvent", "{\"input\":\"x\"}"},
	{&dialect_messages, "MessagesRequest", "Message", "MessageEvent",
	 "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"},
};

#define N_APIS (sizeof apis / sizeof *apis)

/* Parses base with one member set; an error must name it. */
static bool accepts(size_t api, const char *name, json_t *value, struct api_error *e)
{
	json_t *body = parse_json(apis[api].base, strlen(apis[api].base));
	struct api_request q = {.model = NULL};
	bool ok;

	json_object_set(body, name, value);
	ok = apis[api].d->parse(body, &env, &q, e);
	api_request_clear(&q);
	json_decref(body);
	return ok;
}

static void every_field_of_a_request_is_read_as_described(void **state)
{
	static const char *const wrong[] = {"5.5", "\"wrong\"", "true", "[5.5]", "{}", "{\"type\":5.5,\"effort\":5.5,\"format\":5.5}"};
	size_t refused = 0;

	(void)state;
	for (size_t a = 0; a < N_APIS; a++) {
		json_t *props = json_object_get(schema_named(apis[a].request), "properties");

		for (void *i = json_object_iter(props); i; i = json_object_iter_next(props, i)) {
			const char *name = json_object_iter_key(i);
			const json_t *schema = json_object_iter_value(i);
			json_t *example = json_array_get(json_object_get(schema, "examples"), 0);
			struct api_error e = {0};
			bool any_wrong = false;
			char why[200] = "";

			if (!example || !valid(example, schema, why))
				fail_msg("%s.%s: bad example: %s", apis[a].request, name, why);
			if (!accepts(a, name, example, &e))
				fail_msg("%s.%s: its example is refused: %s", apis[a].request, name, e.message);
			if (!accepts(a, name, json_null(), &e) && strncmp(e.message, "missing ", 8))
				fail_msg("%s.%s: null is refused: %s", apis[a].request, name, e.message);
			for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
				json_t *v = parse_json(wrong[k], strlen(wrong[k]));

				if (!valid(v, schema, why)) {
					bool ok = accepts(a, name, v, &e);

					any_wrong |= !ok;
					if (!ok && strncmp(e.param, name, strlen(name)))
						fail_msg("%s.%s = %s: the error names \"%s\": %s", apis[a].request, name, wrong[k],
							 e.param, e.message);
					/* objects are read leniently inside; values of another type never */
					if (ok && k < 3)
						fail_msg("%s.%s = %s is accepted and not described", apis[a].request, name, wrong[k]);
				}
				json_decref(v);
			}
			if (!any_wrong)
				fail_msg("%s.%s: nothing wrong is refused: is it read at all?", apis[a].request, name);
			refused++;
		}
	}
	assert_true(refused > 70);
}

/* --- answers --- */

struct check {
	const json_t *schema;
	const char *name;
};

static void check_frame(void *ctx, const struct frame *f)
{
	const struct check *c = ctx;
	char why[200] = "";

	if (f->data && !valid(f->data, c->schema, why)) {
		struct buf b = BUF_CAP(BUF_MAX);

		json_write_python(&b, f->data);
		fail_msg("%s: %s: %s", c->name, why, buf_cstr(&b));
	}
}

static void every_answer_is_as_described(void **state)
{
	static const char *const extra[] = {
		"{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"custom\",\"custom\":{\"name\":\"c\"}}],"
		"\"logprobs\":true,\"stream_options\":{\"include_usage\":true}}",
		"{\"logprobs\":1,\"stream_options\":{\"include_usage\":true}}",
		"{\"tools\":[{\"type\":\"function\",\"name\":\"f\"},{\"type\":\"custom\",\"name\":\"c\"},{\"type\":\"namespace\","
		"\"name\":\"n\",\"tools\":[{\"name\":\"g\"}]},{\"type\":\"tool_search\",\"parameters\":{}}],\"include\":"
		"[\"reasoning.encrypted_content\",\"message.output_text.logprobs\"],\"reasoning\":{\"summary\":\"auto\"}}",
		"{\"tools\":[{\"name\":\"f\",\"input_schema\":{}}]}",
	};
	static const struct turn_logprob lp = {.token = 5, .logprob = -1, .n_top = 1, .top = {{6, -0.5f}}};
	static const char arguments[] = "{\"input\": \"x\"}";
	static const enum turn_finish finishes[] = {TURN_STOP, TURN_TOOL_CALLS, TURN_LENGTH, TURN_STOP_STRING};

	(void)state;
	for (size_t i = 0; i < N_APIS * 2 * 4; i++) {
		size_t a = i / 8;
		bool stream = i / 4 % 2, calls = finishes[i % 4] == TURN_TOOL_CALLS;
		struct check c = {schema_named(stream ? apis[a].event : apis[a].answer), apis[a].d->name};
		json_t *body = parse_json(apis[a].base, strlen(apis[a].base)), *more = parse_json(extra[a], strlen(extra[a]));
		struct buf out = BUF_CAP(BUF_MAX);
		struct api_request q = {.model = NULL};
		struct api_error e = {0};
		struct writer *w;

		json_object_update(body, more);
		json_object_set_new(body, "stream", json_boolean(stream));
		if (!apis[a].d->parse(body, &env, &q, &e))
			fail_msg("%s", e.message);
		w = apis[a].d->open(&q, &env, 100);
		apis[a].d->event(w, &(struct turn_event){.kind = TURN_STARTED, .carrier = CARRIER}, &out);
		apis[a].d->event(w, &(struct turn_event){.kind = TURN_REASONING, .text = "Hm", .n = 2, .logprob = &lp, .n_logprob = 1}, &out);
		apis[a].d->event(w, &(struct turn_event){.kind = TURN_CONTENT, .text = "Hi", .n = 2, .logprob = &lp, .n_logprob = 1}, &out);
		for (size_t k = 0; calls && k < q.n_tool; k++) {
			const char *name = q.tool[k].name;

			apis[a].d->event(w, &(struct turn_event){.kind = TURN_CALL_BEGIN, .text = name, .n = strlen(name), .call_id = CALL_1}, &out);
			apis[a].d->event(w, &(struct turn_event){.kind = TURN_CALL_ARGUMENTS, .text = arguments, .n = sizeof arguments - 1}, &out);
			apis[a].d->event(w, &(struct turn_event){.kind = TURN_CALL_END}, &out);
		}
		apis[a].d->event(w, &(struct turn_event){.kind = TURN_FINISH, .finish = finishes[i % 4], .stop = -1, .usage = test_usage}, &out);
		if (stream) {
			each_frame(buf_cstr(&out), check_frame, &c);
		} else {
			struct frame f = {.data = parse_json(buf_cstr(&out), out.len)};

			check_frame(&c, &f);
			json_decref(f.data);
		}
		apis[a].d->close(w);
		api_request_clear(&q);
		buf_clear(&out);
		json_decref(body);
		json_decref(more);
	}
}

static void every_error_is_as_described(void **state)
{
	(void)state;
	for (size_t a = 0; a < N_APIS; a++) {
		struct check c = {schema_named(apis[a].d == &dialect_messages ? "AnthropicError" : "Error"), apis[a].d->name};
		struct api_error e[3];

		api_error_overflow(&e[0], apis[a].d, 9, 8);
		api_error_busy(&e[1], apis[a].d, 1);
		api_error_auth(&e[2], "no");
		for (size_t i = 0; i < 3; i++) {
			struct buf out = BUF_CAP(BUF_MAX);
			struct frame f;

			apis[a].d->error(&e[i], "req", &out);
			f.data = parse_json(buf_cstr(&out), out.len);
			check_frame(&c, &f);
			json_decref(f.data);
			buf_clear(&out);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_path_is_described),
		cmocka_unit_test(every_field_of_a_request_is_read_as_described),
		cmocka_unit_test(every_answer_is_as_described),
		cmocka_unit_test(every_error_is_as_described),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
