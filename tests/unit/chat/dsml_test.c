/* dsml_test.c - what dsml.c writes, dsml_read.c reads back; and the fault walk through both. */
#include "base/rng.h"
#include "chat/answer.h"
#include "chat/decode.h"
#include "chat/jsonl.h"
#include "chat/render.h"
#include "common.h"

static struct tokenizer *real;

static int setup(void **state)
{
	(void)state;
	real = open_tokenizer(REAL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tokenizer_close(real);
	return 0;
}

static struct token_list written(const struct tool_call *calls, size_t n)
{
	struct token_list ids = {0};
	struct id_sink s;
	struct err err = {0};

	id_sink_init(&s, real, &ids);
	dsml_write_calls(&s.sink, calls, n);
	if (id_sink_finish(&s, &err) != OK)
		fail_msg("%s", err.msg);
	return ids;
}

static void read_back(const struct token_list *ids, struct answer *a)
{
	struct decode_options o = {.tools_active = true, .ctx = a, .take = answer_take};
	struct decode *d = decode_new(real, &o);

	answer_init(a);
	for (size_t i = 0; i < ids->n && decode_push(d, ids->id[i]); i++)
		;
	decode_finish(d, FINISH_LENGTH);
	decode_free(d);
}

/* Any text at all: brackets, quotes, line breaks, whole tags, control tokens spelt out, NUL. */
static void add_any_text(struct buf *b, struct rng *rng)
{
	static const char *const parts[] = {
		"<",
		"</",
		">",
		"\"",
		"\n",
		" ",
		"\\",
		"&amp;",
		"é",
		"😀",
		"｜DSML｜",
		"</｜DSML｜parameter>",
		"<｜DSML｜invoke name=\"x\">",
		"</think>",
		"x",
		"string=\"true\"",
		"<｜end▁of▁sentence｜>",
		"{}",
		"[1]",
		"null",
	};

	for (size_t n = rng_u64(rng) % 8; n; n--) {
		if (rng_u64(rng) % 20 == 0)
			buf_byte(b, '\0');
		buf_str(b, parts[rng_u64(rng) % (sizeof parts / sizeof parts[0])]);
	}
}

/* Arguments with random members; names keep to what names are made of. */
static void add_arguments(struct buf *b, struct rng *rng)
{
	struct buf value = BUF_CAP(1 << 16);
	size_t n = rng_u64(rng) % 5;

	buf_byte(b, '{');
	for (size_t i = 0; i < n; i++) {
		buf_printf(b, "%s\"k%zu\": ", i ? ", " : "", i);
		buf_cut(&value, 0);
		add_any_text(&value, rng);
		switch (rng_u64(rng) % 4) {
		case 0:
			buf_printf(b, "%d", (int)(rng_u64(rng) % 1000));
			break;
		case 1:
			buf_byte(b, '[');
			json_write_string(b, buf_cstr(&value), value.len);
			buf_str(b, ", 1.5, null]");
			break;
		default:
			json_write_string(b, buf_cstr(&value), value.len);
		}
	}
	buf_byte(b, '}');
	buf_clear(&value);
}

/* With control tokens only where the writer put them, no value can be mistaken for a tag. */
static void any_arguments_come_back_as_they_were(void **state)
{
	struct rng rng = rng_seed(7);

	(void)state;
	for (int round = 0; round < 2000; round++) {
		struct buf one = BUF_CAP(1 << 16), two = BUF_CAP(1 << 16);
		struct tool_call calls[2];
		struct token_list ids;
		struct answer a;

		add_arguments(&one, &rng);
		add_arguments(&two, &rng);
		calls[0] =
			(struct tool_call){.name = {"first", 5}, .arguments = {one.data, one.len}};
		calls[1] = (struct tool_call){.name = {"second.x-y", 10},
		                              .arguments = {two.data, two.len}};
		ids = written(calls, 2);
		read_back(&ids, &a);
		assert_int_equal(a.n_calls, 2);
		assert_int_equal(a.finish, FINISH_TOOL_CALLS);
		expect_text("first", "arguments", buf_cstr(&one), buf_cstr(&a.calls[0].arguments));
		expect_text("second", "arguments", buf_cstr(&two), buf_cstr(&a.calls[1].arguments));
		assert_string_equal(buf_cstr(&a.calls[1].name), "second.x-y");
		answer_clear(&a);
		token_list_clear(&ids);
		buf_clear(&one);
		buf_clear(&two);
	}
}

static void a_value_that_spells_its_closer_comes_back(void **state)
{
	static const char arguments[] = "{\"x\": \"a</｜DSML｜parameter>\\n</｜DSML｜invoke>b\"}";
	struct tool_call call = {.name = {"f", 1},
	                         .arguments = {(char *)arguments, strlen(arguments)}};
	struct token_list ids = written(&call, 1);
	struct answer a;

	(void)state;
	read_back(&ids, &a);
	assert_int_equal(a.n_calls, 1);
	expect_text("closer", "arguments", arguments, buf_cstr(&a.calls[0].arguments));
	answer_clear(&a);
	token_list_clear(&ids);
}

static void a_tool_is_found_in_either_form(void **state)
{
	json_t *tools = parse("[{\"type\":\"function\",\"function\":{\"name\":\"a\"}},{\"name\":"
	                      "\"bb\"},{\"name\":5},7]");

	(void)state;
	assert_ptr_equal(dsml_find_tool(tools, "a", 1),
	                 json_object_get(json_array_get(tools, 0), "function"));
	assert_ptr_equal(dsml_find_tool(tools, "bb", 2), json_array_get(tools, 1));
	assert_null(dsml_find_tool(tools, "b", 1));
	assert_null(dsml_find_tool(tools, "function", 8));
	assert_null(dsml_find_tool(NULL, "a", 1));
	json_decref(tools);
}

/* With allocation n failing, for every n: an error or the right answer, never a crash or a leak. */
static void memory_may_run_out_anywhere(void **state)
{
	static const char render[] =
		"{\"args\":{\"thinking_mode\":\"thinking\"},\"messages\":[{\"role\":\"system\","
	        "\"content\":\"S\",\"tools\":[{\"name\":\"f\"}]},"
		"{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"tool_calls\":[{"
	        "\"id\":\"1\",\"function\":{\"name\":\"f\","
		"\"arguments\":\"{\\\"a\\\": "
	        "1}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"}]}";
	static const char text[] =
		"{\"mode\":\"thinking\",\"text\":\"r\\n\\n<｜DSML｜tool_calls>\\n<｜DSML｜invoke "
	        "name=\\\"f\\\">\\n"
		"<｜DSML｜parameter name=\\\"a\\\" string=\\\"true\\\">x</｜DSML｜parameter>\\n"
		"<｜DSML｜parameter name=\\\"b\\\" string=\\\"false\\\">[1]</｜DSML｜parameter>\\n"
		"</｜DSML｜invoke>\\n</｜DSML｜tool_calls>\"}";
	const char *const lines[] = {render, text};
	enum status (*const run[])(const struct tokenizer *, const char *, size_t, struct buf *,
	                           struct err *) = {chat_render_json, chat_parse_json};

	(void)state;
	for (int k = 0; k < 2; k++) {
		struct buf want = BUF_CAP(1 << 20);
		enum status st = OK;
		long n;

		assert_int_equal(run[k](real, lines[k], strlen(lines[k]), &want, NULL), OK);
		for (n = 1; n < 5000; n++) {
			struct buf out = BUF_CAP(1 << 20);
			struct err err = {0};
			mem_fail_at(n);
			st = run[k](real, lines[k], strlen(lines[k]), &out, &err);
			mem_fail_at(0);
			if (st == OK)
				expect_text("memory", "line", buf_cstr(&want), buf_cstr(&out));
			else if (st != ERR_MEMORY || !err.msg[0])
				fail_msg("allocation %ld: expected ERR_MEMORY, found %s: %s", n,
				         status_name(st), err.msg);
			buf_clear(&out);
		}
		assert_int_equal(st, OK); /* the walk went past the last allocation */
		buf_clear(&want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_arguments_come_back_as_they_were),
		cmocka_unit_test(a_value_that_spells_its_closer_comes_back),
		cmocka_unit_test(a_tool_is_found_in_either_form),
		cmocka_unit_test(memory_may_run_out_anywhere),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
