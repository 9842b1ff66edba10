/* cost_test.c - what a constraint costs beside a step of the bundled model, in processor time. */
#include "unit/turn/common.h"

#include <time.h>

#include "turn/turn_int.h"

enum { TOKENS = 150 };

static const char person[] =
	"{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":"
	"150},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":20}},\"address\":{\"type\":\"object\","
	"\"properties\":{\"street\":{\"type\":\"string\"},\"zip\":{\"type\":\"string\",\"pattern\":\"^[0-9]{5}$\"}},\"required\":"
	"[\"street\",\"zip\"],\"additionalProperties\":false}},\"required\":[\"name\",\"age\",\"tags\",\"address\"],"
	"\"additionalProperties\":false}";

static double cpu(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Microseconds of picking and of everything for a token; schema NULL: not constrained. */
static void measure(const char *schema, double *pick, double *all)
{
	struct sampler_params params = {.temperature = 1, .top_p = 1, .min_p = 0.05f, .seed = 3};
	struct conversation *c = ask("Describe a person as JSON with name, age, tags and address.", NULL);
	struct steer steer = {.constraint = CONSTRAINT_NONE};
	struct token_list prompt = {0};
	struct render_options o = {0};
	struct err err = {0};
	struct grammar *g;
	struct session *s;
	struct sampler sampler;
	double start;

	if (schema) {
		json_t *j = json_parse(schema, strlen(schema), NULL);
		struct grammar_options go = {.schema = j};

		assert_int_equal(grammar_new(&g, &go, &err), OK);
		assert_int_equal(steer_init(&steer, context.tables, CONSTRAINT_ANSWER, g, &err), OK);
		assert_true(steer_begin(&steer, "", 0));
		json_decref(j);
	}
	assert_int_equal(chat_render_ids(c, &o, context.engine->tokenizer, &prompt, &err), OK);
	assert_int_equal(session_open(&s, context.engine, &err), OK);
	assert_int_equal(session_sync(s, prompt.id, (int32_t)prompt.n, NULL, NULL, &err), OK);
	assert_int_equal(sampler_init(&sampler, &params, context.engine->shape.vocab, context.tables->mask, &err), OK);
	start = cpu(CLOCK_PROCESS_CPUTIME_ID);
	*pick = 0;
	for (int i = 0; i < TOKENS; i++) {
		double t = cpu(CLOCK_THREAD_CPUTIME_ID);
		int32_t id = steer_pick(&steer, &sampler, session_logits(s), false);

		steer_take(&steer, id);
		*pick += 1e6 / TOKENS * (cpu(CLOCK_THREAD_CPUTIME_ID) - t);
		if (schema && id == context.tables->eos)
			steer_begin(&steer, "", 0);
		assert_int_equal(session_push(s, id, &err), OK);
	}
	*all = 1e6 / TOKENS * (cpu(CLOCK_PROCESS_CPUTIME_ID) - start);
	printf("%s: %.0f us to pick, %.0f us in all; %.2f refusals and %.2f scans a token\n", schema ? schema : "free", *pick,
	       *all, (double)steer.refusals / TOKENS, (double)steer.scans / TOKENS);
	sampler_clear(&sampler);
	session_close(s);
	steer_clear(&steer);
	token_list_clear(&prompt);
	conversation_free(c);
}

static void a_constraint_costs_less_than_a_twentieth_of_a_step(void **state)
{
	const char *const schemas[] = {"{\"type\":\"object\"}", person};
	double free_pick, pick, all;

	(void)state;
	measure(NULL, &free_pick, &all);
	for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
		measure(schemas[i], &pick, &all);
		printf("%.1f %% of the time\n", 100 * (pick - free_pick) / all);
		assert_true(pick - free_pick < 0.05 * all);
	}
}

static int setup(void **state)
{
	(void)state;
	open_all("models/ds4-nano-q2.gguf", 2048);
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
	static const struct CMUnitTest tests[] = {cmocka_unit_test(a_constraint_costs_less_than_a_twentieth_of_a_step)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
