/* recipe_test.c - patterns, the order of lines, and what a recipe is refused for. */
#include "common.h"

#include "gguf/gguf.h"
#include "workshop/recipe.h"

static void patterns_match_whole_names(void **state)
{
	static const struct {
		const char *pattern, *name;
		bool match;
	} cases[] = {
		{"output.weight", "output.weight", true},
		{"output.weight", "output.weights", false},
		{"output.weight", "xoutput.weight", false},
		{"*", "anything", true},
		{"*norm.weight", "blk.3.attn_norm.weight", true},
		{"*norm.weight", "blk.3.attn_norm.bias", false},
		{"*.attn_q_?.weight", "blk.3.attn_q_a.weight", true},
		{"*.attn_q_?.weight", "blk.3.attn_q_a_norm.weight", false},
		{"blk.*.ffn_*_exps.weight", "blk.12.ffn_gate_exps.weight", true},
		{"blk.{0..9}.x", "blk.9.x", true},
		{"blk.{0..9}.x", "blk.10.x", false},
		{"blk.{0..9}.x", "blk.1", false},
		{"blk.{-6..-1}.x", "blk.37.x", true},
		{"blk.{-6..-1}.x", "blk.42.x", true},
		{"blk.{-6..-1}.x", "blk.36.x", false},
		{"blk.{-6..-1}.x", "blk.3.x", false},
		{"**a**", "bab", true},
		{"", "", true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		if (recipe_match(cases[i].pattern, cases[i].name, 43) != cases[i].match)
			fail_msg("%s against %s: expected %d", cases[i].pattern, cases[i].name, cases[i].match);
}

static void text_is_refused(const char *text, const char *expected)
{
	struct recipe r;
	struct err err = {0};
	enum status st = recipe_parse(&r, "folder/mine", text, &err);

	if (st == OK || !strstr(err.msg, expected) || !strstr(err.msg, "recipe mine"))
		fail_msg("\"%s\": expected \"%s\", got %s: %s", text, expected, status_name(st), err.msg);
	recipe_clear(&r);
}

static void a_line_that_cannot_be_read_is_named(void **state)
{
	(void)state;
	text_is_refused("# nothing\n\n", "no line");
	text_is_refused("* F16\n* \n", "line 2: expected a pattern and a type");
	text_is_refused("* F16 optional more\n", "line 1");
	text_is_refused("* Q3_K\n", "type is Q3_K");
	text_is_refused("* q8_0\n", "type is q8_0");
	text_is_refused("* F16 perhaps\n", "perhaps");
	text_is_refused("blk.{1..}.x F16\n", "{A..B}");
	text_is_refused("blk.{a}.x F16\n", "{A..B}");
	text_is_refused("*a*b*c*d*e*f*g F16\n", "six stars");
	text_is_refused("* F16\nfile_type x\n", "line 2: file_type");
}

static void comments_blank_lines_and_windows_line_ends_are_fine(void **state)
{
	struct recipe r;
	struct err err = {0};

	(void)state;
	if (recipe_parse(&r, "mine",
	                 "# head\r\n\r\nfile_type 7\r\n*norm.weight F32 # small\r\n*\tF16 optional\r\n",
	                 &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(r.n, 2);
	assert_int_equal(r.file_type, 7);
	assert_string_equal(r.line[0].pattern, "*norm.weight");
	assert_int_equal(r.line[1].type, DTYPE_F16);
	assert_true(r.line[1].optional);
	recipe_clear(&r);
}

static void apply(struct t_checkpoint *c, const char *text, enum status code, const char *a, const char *b)
{
	struct quantize_options o = {.source = c->dir};

	t_put(c, "recipe.txt", text, strlen(text));
	o.recipe = t_path(c, "recipe.txt");
	if (code == OK)
		t_good(&o);
	else
		t_bad(&o, code, a, b);
}

static void recipes_are_checked_against_the_model(void **state)
{
	struct t_checkpoint *c = t_new();

	(void)state;
	t_write(c);
	apply(c, "*.ffn_gate_tid2eid.weight I32\n* F32\n", OK, "", "");
	apply(c,
	      "*.ffn_gate_tid2eid.weight I32\n*_scale.weight F32\n*.atn_q_a.weight F16\n* "
	      "F32\nblk.{7..8}.* F16\n",
	      ERR_FORMAT, "*.atn_q_a.weight (line 3), blk.{7..8}.* (line 5)", "these patterns decide");
	apply(c, "*.ffn_gate_tid2eid.weight I32\n*.atn_q_a.weight F16 optional\n* F32\n", OK, "", "");
	apply(c, "*.ffn_gate_tid2eid.weight I32\n*.attn_* F32\n", ERR_FORMAT, "no line matches",
	      "token_embd.weight");
	apply(c, "* F32\n", ERR_FORMAT, "ffn_gate_tid2eid.weight cannot be F32", "whole numbers");
	apply(c, "*.ffn_gate_tid2eid.weight I32\n*.attn_q_a.weight I32\n* F32\n", ERR_FORMAT,
	      "attn_q_a.weight cannot be I32", "weights");
	apply(c, "*.ffn_gate_tid2eid.weight I32\n* Q4_K\n", ERR_FORMAT, "needs a multiple of 256", "rows of");
	apply(c, "*.ffn_gate_tid2eid.weight I32\nmtp.* Q8_0\n* F32\n", OK, "", "");	/* not for this file */
	t_free(c);
}

/* The bundled model was made by another program: the recipe must give the same types. */
static void the_nano_recipe_gives_the_types_of_the_bundled_model(void **state)
{
	static const char *const files[] = {"models/ds4-nano-q2.gguf", "models/ds4-nano-mtp.gguf"};
	struct err err = {0};

	(void)state;
	for (int mtp = 0; mtp < 2; mtp++) {
		struct gguf *g;
		struct plan plan;
		struct recipe r;

		if (gguf_open(&g, files[mtp], &err) != OK || plan_gguf(&plan, g, &err) != OK ||
		    recipe_load(&r, "nano", &err) != OK || recipe_apply(&r, &plan, mtp, 8, &err) != OK)
			fail_msg("%s", err.msg);
		for (size_t i = 0; i < plan.n; i++) {
			const char *name = plan.t[i].name;
			enum dtype want = g->tensor[i].type;

			if (plan.t[i].type != want)
				fail_msg("%s: expected %s, got %s", name, dtype_info(want)->name,
				         dtype_info(plan.t[i].type)->name);
		}
		recipe_clear(&r);
		plan_clear(&plan);
		gguf_close(g);
	}
}

static uint64_t bytes_of(const char *recipe, int layers, enum dtype wanted, uint64_t *count)
{
	/* Routed experts of Flash: sizes from the published table of the format's description. */
	struct plan plan = {0};
	struct gguf_tensor t = {.n_dims = 3, .type = DTYPE_F16, .dims = {4096, 2048, 256, 1}};
	struct recipe r;
	struct err err = {0};
	char name[64];
	uint64_t sum = 0;

	*count = 0;
	for (int l = 0; l < layers; l++)
		for (int k = 0; k < 3; k++) {
			snprintf(name, sizeof name, "blk.%d.ffn_%s_exps.weight", l,
			         k == 0   ? "gate"
			         : k == 1 ? "up"
			                  : "down");
			t.name = (struct gguf_string){name, strlen(name)};
			assert_int_equal(plan_add_gguf(&plan, &t, &err), OK);
		}
	assert_int_equal(recipe_load(&r, recipe, &err), OK);
	recipe_apply(&r, &plan, false, layers, &err);		/* lines for other tensors decide nothing here */
	for (size_t i = 0; i < plan.n; i++) {
		sum += dtype_bytes(plan.t[i].type, 4096ull * 2048 * 256);
		*count += plan.t[i].type == wanted;
	}
	recipe_clear(&r);
	plan_clear(&plan);
	return sum;
}

static void experts_of_flash_have_the_published_sizes(void **state)
{
	uint64_t n;

	(void)state;
	assert_int_equal(bytes_of("q2", 43, DTYPE_Q2_K, &n), 47613739008ull + 30299652096ull);
	assert_int_equal(n, 43);
	assert_int_equal(bytes_of("q4", 43, DTYPE_Q4_K, &n), 155826782208ull);
	assert_int_equal(n, 129);
	bytes_of("q2-q4", 43, DTYPE_Q4_K, &n);
	assert_int_equal(n, 18);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(patterns_match_whole_names),
		cmocka_unit_test(a_line_that_cannot_be_read_is_named),
		cmocka_unit_test(comments_blank_lines_and_windows_line_ends_are_fine),
		cmocka_unit_test(recipes_are_checked_against_the_model),
		cmocka_unit_test(the_nano_recipe_gives_the_types_of_the_bundled_model),
		cmocka_unit_test(experts_of_flash_have_the_published_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
