/* steer_test.c - sampling under a constraint: valid answers from a model that knows nothing, and exactly the
 * distribution of the whole mask. */
#include "unit/turn/common.h"

#include <math.h>

#include "turn/turn_int.h"

static const char schema_text[] =
	"{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\",\"minimum\":-5,\"maximum\":5000},\"kind\":{\"enum\":"
	"[\"red\",\"green\",null]},\"flags\":{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"maxItems\":3},\"s\":{\"type\":"
	"\"string\",\"maxLength\":6}},\"required\":[\"n\",\"kind\",\"flags\"],\"additionalProperties\":false}";

static const char strict_tools[] =
	"[{\"name\":\"get\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\","
	"\"maxLength\":4},\"days\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":30},\"unit\":{\"enum\":[\"C\",\"F\"]}},"
	"\"required\":[\"city\",\"days\",\"unit\"],\"additionalProperties\":false}},"
	"{\"name\":\"nop\",\"strict\":true,\"parameters\":{\"type\":\"object\",\"properties\":{}}}]";

static json_t *parse(const char *text)
{
	json_t *j = json_parse(text, strlen(text), NULL);

	if (!j)
		fail_msg("no JSON: %s", text);
	return j;
}

static bool in(const json_t *v, const char *a, const char *b)
{
	return json_is_string(v) && (strcmp(json_string_value(v), a) == 0 || strcmp(json_string_value(v), b) == 0);
}

static void check_document(const char *text)
{
	json_t *j = parse(text), *v, *flags = json_object_get(j, "flags");
	const char *key;

	if (!json_is_object(j) || !json_is_integer(json_object_get(j, "n")) || !json_is_array(flags) ||
	    !(in(json_object_get(j, "kind"), "red", "green") || json_is_null(json_object_get(j, "kind"))))
		fail_msg("not what the schema says: %s", text);
	assert_in_range(json_integer_value(json_object_get(j, "n")) + 5, 0, 5005);
	assert_in_range(json_array_size(flags), 0, 3);
	for (size_t i = 0; i < json_array_size(flags); i++)
		assert_true(json_is_boolean(json_array_get(flags, i)));
	json_object_foreach(j, key, v)
		assert_true(strcmp(key, "n") == 0 || strcmp(key, "kind") == 0 || strcmp(key, "flags") == 0 ||
			    (strcmp(key, "s") == 0 && json_is_string(v)));
	json_decref(j);
}

static struct turn_request request(const char *tools, enum thinking thinking, int round)
{
	static const struct sampler_params how[] = {
		{.temperature = 1, .top_p = 1}, {.temperature = 1, .top_p = 1, .min_p = 0.05f}, {.temperature = 0, .top_p = 1},
		{.temperature = 1, .top_p = 1, .top_k = 5}, {.temperature = 1.5f, .top_p = 0.9f, .min_p = 0.2f},
	};
	struct turn_request q = TURN_REQUEST_DEFAULT;

	q.conversation = ask("Go", tools);
	q.thinking = thinking;
	q.thinking_budget = 5;
	q.sampling = how[round % 5];
	q.sampling.seed = (uint64_t)round;
	q.max_tokens = 600;
	return q;
}

static void a_format_makes_every_answer_a_document_of_its_schema(void **state)
{
	json_t *schema = parse(schema_text);

	(void)state;
	for (int round = 0; round < 20; round++) {
		struct turn_request q = request(NULL, (enum thinking)(round & 1), round);
		struct record r = {0};

		q.format = TURN_FORMAT_JSON_SCHEMA;
		q.schema = schema;
		run(&q, &r);
		assert_int_equal(r.end.finish, TURN_STOP);
		check_document(buf_cstr(&r.content));
		record_clear(&r);
	}
	json_decref(schema);
}

static void with_tools_it_is_a_document_or_calls(void **state)
{
	json_t *schema = parse(schema_text);

	(void)state;
	for (int round = 0; round < 10; round++) {
		struct turn_request q = request(strict_tools, THINKING_OFF, round);
		struct record r = {0};

		q.format = TURN_FORMAT_JSON_SCHEMA;
		q.schema = schema;
		run(&q, &r);
		if (r.content.len)
			check_document(r.content.data);
		else
			assert_int_equal(r.end.finish, TURN_TOOL_CALLS);
		record_clear(&r);
	}
	json_decref(schema);
}

static void required_calls_are_calls_with_strict_arguments(void **state)
{
	(void)state;
	for (int round = 0; round < 10; round++) {
		struct turn_request q = request(strict_tools, (enum thinking)(round & 1), round);
		struct record r = {0};
		const char *p;

		q.tool_choice = round & 2 ? TOOL_CHOICE_NAMED : TOOL_CHOICE_REQUIRED;
		q.tool_name = "get";
		q.strict_tools = true;
		q.one_call = true;
		run(&q, &r);
		assert_int_equal(r.end.finish, TURN_TOOL_CALLS);
		p = buf_cstr(&r.calls);
		if (strcmp(p, "0:nop{};") != 0 || (round & 2)) {
			json_t *j, *days;

			assert_int_equal(strncmp(p, "0:get{", 6), 0);
			r.calls.data[r.calls.len - 1] = 0;
			j = parse(p + 5);
			days = json_object_get(j, "days");
			if (!json_is_string(json_object_get(j, "city")) || !json_is_integer(days) ||
			    !in(json_object_get(j, "unit"), "C", "F") || json_object_size(j) != 3)
				fail_msg("%s", p);
			assert_in_range(json_integer_value(days), 1, 30);
			json_decref(j);
		}
		record_clear(&r);
	}
}

static void an_unsupported_schema_is_refused_before_anything_starts(void **state)
{
	json_t *schema = parse("{\"type\":\"object\",\"properties\":{\"a\":{\"patternProperties\":{}}}}");
	struct turn_request q = request(NULL, THINKING_OFF, 0);
	struct err err = {0};
	struct turn *t;

	(void)state;
	q.format = TURN_FORMAT_JSON_SCHEMA;
	q.schema = schema;
	assert_int_equal(turn_open(&t, &context, &q, NULL, &err), ERR_ARGUMENT);
	assert_non_null(strstr(err.msg, "\"patternProperties\" at #/properties/a/patternProperties"));
	json_decref(schema);
}

static void an_answer_that_is_continued_goes_on_with_its_format(void **state)
{
	json_t *schema = parse(schema_text);

	(void)state;
	for (int wrong = 0; wrong < 2; wrong++) {
		struct turn_request q = request(NULL, THINKING_OFF, 0);
		struct buf whole = BUF_CAP(BUF_MAX);
		struct record r = {0};
		const char *begun = wrong ? "{\"x" : "{\"n\": 12, \"ki";
		struct message *m = conversation_add(q.conversation, ROLE_ASSISTANT, begun, strlen(begun));
		struct err err = {0};
		struct turn *t;

		m->unfinished = true;
		q.format = TURN_FORMAT_JSON_SCHEMA;
		q.schema = schema;
		if (wrong) {
			assert_int_equal(turn_open(&t, &context, &q, NULL, &err), ERR_ARGUMENT);
			continue;
		}
		run(&q, &r);
		buf_str(&whole, begun);
		buf_add(&whole, r.content.data, r.content.len);
		check_document(buf_cstr(&whole));
		buf_clear(&whole);
		record_clear(&r);
	}
	json_decref(schema);
}

/* ------------------------------------------------------------------ without a model */

static int32_t token(const char *text)
{
	struct token_list ids = {0};
	int32_t id;

	encode(text, &ids);
	assert_int_equal(ids.n, 1);
	id = ids.id[0];
	token_list_clear(&ids);
	return id;
}

/* A free answer whose model begins a call on its own: from the marker on it is constrained. */
static void strict_arguments_hold_where_the_model_calls_by_itself(void **state)
{
	json_t *tools = parse(strict_tools);
	int32_t vocab = context.engine->shape.vocab;
	float *logits = mem_array((size_t)vocab, sizeof *logits);

	(void)state;
	for (int round = 0; round < 16; round++) {
		struct grammar_options o = {.tools = tools, .strict = true};
		struct token_list start = {0}, opener = {0};
		struct pilot_plan plan = {.tables = context.tables, .tools_active = true, .tools = tools, .budget = -1,
					  .limit = 100000, .top_logprobs = -1, .start = &start,
					  .constraint = CONSTRAINT_CALLS};
		struct sampler_params params = {.temperature = 1, .top_p = 1, .seed = (uint64_t)round};
		struct buf box = BUF_CAP(BUF_MAX), calls = BUF_CAP(BUF_MAX);
		struct rng rng = rng_seed((uint64_t)round);
		struct sampler s;
		struct pilot *p;
		struct err err = {0};

		assert_int_equal(grammar_new(&plan.grammar, &o, &err), OK);
		assert_int_equal(mailbox_open(&plan.mailbox, 8, &err), OK);
		assert_int_equal(pilot_new(&p, &plan, &err), OK);
		assert_int_equal(sampler_init(&s, &params, vocab, context.tables->mask, &err), OK);
		encode("Hm\n\n<" D, &opener);
		for (size_t i = 0; !p->pieces.over && i < 20000; i++) {
			for (int32_t k = 0; k < vocab; k++)
				logits[k] = (float)(4 * rng_uniform(&rng));
			if (i < opener.n)
				logits[opener.id[i]] = 100;
			assert_true(pilot_pick(p, &s, logits) >= 0);
		}
		assert_true(p->pieces.over);
		assert_int_equal(p->pieces.finish, FINISH_TOOL_CALLS);
		pilot_fetch(p, &box);
		for (size_t at = 0; at < box.len;) {
			struct note note;

			memcpy(&note, box.data + at, sizeof note);
			at += sizeof note;
			if (note.kind == PIECE_TOOL_ARGUMENTS)
				buf_add(&calls, box.data + at, note.n);
			if (note.kind == PIECE_TOOL_END) {
				json_t *j = parse(buf_cstr(&calls));

				assert_true(json_object_size(j) == 3 || json_object_size(j) == 0);
				assert_true(!json_object_size(j) || in(json_object_get(j, "unit"), "C", "F"));
				json_decref(j);
				buf_cut(&calls, 0);
			}
			at = (at + note.n + 8) / 8 * 8;
		}
		assert_true(p->steer.picks > 20);
		sampler_clear(&s);
		pilot_release(p);
		mailbox_close(plan.mailbox);
		token_list_clear(&opener);
		buf_clear(&box);
		buf_clear(&calls);
	}
	mem_free(logits);
	json_decref(tools);
}

static void open_steer(struct steer *s, const char *schema, const char *begun)
{
	json_t *j = parse(schema);
	struct grammar_options o = {.schema = j};
	struct grammar *g;
	struct err err = {0};

	assert_int_equal(grammar_new(&g, &o, &err), OK);
	assert_int_equal(steer_init(s, context.tables, CONSTRAINT_ANSWER, g, &err), OK);
	assert_true(steer_begin(s, begun, strlen(begun)));
	json_decref(j);
}

/* Picks often with the steer, and with the sampler under the whole mask: the shares must be alike. */
static void what_is_picked_has_the_distribution_of_the_whole_mask(void **state)
{
	static const struct sampler_params how[] = {{.temperature = 1, .top_p = 1}, {.temperature = 0.7f, .top_p = 1, .min_p = 0.1f}};
	enum { ROUNDS = 20000 };
	int32_t vocab = context.engine->shape.vocab;
	float *logits = mem_array((size_t)vocab, sizeof *logits);
	uint8_t *mask = mem_array((size_t)vocab, 1);
	int *count[2] = {mem_array((size_t)vocab, sizeof(int)), mem_array((size_t)vocab, sizeof(int))};
	struct rng rng = rng_seed(7);

	(void)state;
	for (int round = 0; round < 4; round++) {
		struct sampler_params params = how[round / 2];
		struct sampler s;
		struct steer st;
		double chi = 0, n = 0;

		/* a digit, "," or "]": a dozen of 320 tokens; or inside a string: most of them */
		open_steer(&st, round % 2 ? "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}" :
					    "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", round % 2 ? "[\"a" : "[12");
		for (int32_t i = 0; i < vocab; i++)
			logits[i] = (float)(3 * rng_uniform(&rng));
		for (int32_t i = 0; i < 3; i++)
			logits[token(round % 2 ? (i == 0 ? "\n" : i == 1 ? "\t" : "x") : (i == 0 ? "q" : i == 1 ? "5" : "]"))] = i ? 4 : 5;
		matcher_mask(st.matcher, context.tables->vocabulary, mask);
		for (int which = 0; which < 2; which++) {
			params.seed = (uint64_t)(100 * round + which);
			memset(count[which], 0, (size_t)vocab * sizeof(int));
			assert_int_equal(sampler_init(&s, &params, vocab, which ? mask : context.tables->mask, NULL), OK);
			for (int i = 0; i < ROUNDS; i++) {
				int32_t id = which ? sampler_pick(&s, logits) : steer_pick(&st, &s, logits, false);

				assert_true(mask[id]);
				count[which][id]++;
			}
			sampler_clear(&s);
		}
		for (int32_t i = 0; i < vocab; i++) {
			double a = count[0][i], b = count[1][i];

			if (a + b > 20) {
				chi += (a - b) * (a - b) / (a + b);
				n++;
			}
		}
		printf("chi square %.1f of %.0f tokens; %.2f refusals and %.3f scans a pick\n", chi, n,
		       (double)st.refusals / ROUNDS, (double)st.scans / ROUNDS);
		assert_true(n > 2 && chi < n + 4.5 * sqrt(2 * n));
		assert_memory_equal(st.mask, context.tables->mask, (size_t)vocab);
		steer_clear(&st);
	}
	mem_free(logits);
	mem_free(mask);
	mem_free(count[0]);
	mem_free(count[1]);
}

static int setup(void **state)
{
	(void)state;
	open_all(golden_tiny_path(3), CONTEXT);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close_all();
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_format_makes_every_answer_a_document_of_its_schema),
		cmocka_unit_test(with_tools_it_is_a_document_or_calls),
		cmocka_unit_test(required_calls_are_calls_with_strict_arguments),
		cmocka_unit_test(an_unsupported_schema_is_refused_before_anything_starts),
		cmocka_unit_test(an_answer_that_is_continued_goes_on_with_its_format),
		cmocka_unit_test(strict_arguments_hold_where_the_model_calls_by_itself),
		cmocka_unit_test(what_is_picked_has_the_distribution_of_the_whole_mask),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
