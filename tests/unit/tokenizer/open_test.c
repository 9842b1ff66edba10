/* open_test.c - vocabularies that are refused, each with the sentence that says why; and running out of memory.
 *
 * The files are built here: 256 bytes, a few merges and the required control tokens, then one thing is wrong. */
#include "base/rng.h"
#include "common.h"
#include "unit/gguf/build.h"

enum { MAX_STRINGS = 400 };

/* A vocabulary to be written; every field may be spoiled first. */
struct plan {
	const char *model, *pre;	/* NULL: no such key */
	const char *token[MAX_STRINGS], *merge[MAX_STRINGS];
	uint64_t n_tokens, n_merges;
	bool tokens_are_numbers, no_merges;
	uint64_t n_types;		/* 0: no such key */
	uint32_t type_element;
	int32_t type[MAX_STRINGS];
	char text[256][3];		/* printable form of the bytes */
};

static void add_token(struct plan *p, const char *s)
{
	p->token[p->n_tokens++] = s;
}

static struct plan good_plan(void)
{
	static struct plan p;		/* large; one at a time */
	static const char *const words[] = {"ab", "abc", "<tag>", "[PAD9]", "Ġa"};
	uint32_t other = 0x100;

	memset(&p, 0, sizeof p);
	p.model = "gpt2";
	p.pre = "joyai-llm";
	for (uint32_t b = 0; b < 256; b++) {
		bool plain = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
		uint32_t cp = plain ? b : other++;

		p.text[b][0] = (char)(cp < 0x80 ? cp : 0xC0 | cp >> 6);
		p.text[b][1] = (char)(cp < 0x80 ? 0 : 0x80 | (cp & 0x3F));
	}
	for (int s = 0; s < SPECIAL_THINK; s++)		/* some in front, some behind, out of order */
		add_token(&p, special_text((enum special)s));
	for (int b = 255; b >= 0; b--)
		add_token(&p, p.text[b]);
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		add_token(&p, words[i]);
	for (int s = SPECIAL_THINK; s <= SPECIAL_DSML; s++)
		add_token(&p, special_text((enum special)s));
	p.merge[p.n_merges++] = "ab c";		/* before the merge that makes its part */
	p.merge[p.n_merges++] = "Ġ a";
	p.merge[p.n_merges++] = "a b";
	p.type_element = GGUF_I32;
	p.n_types = p.n_tokens;
	for (uint64_t i = 0; i < p.n_tokens; i++)
		p.type[i] = strncmp(p.token[i], "[PAD", 4) ? 1 : 5;
	return p;
}

static void write_plan(struct buf *b, const struct plan *p)
{
	put_header(b, 0, (uint64_t)(p->model != NULL) + (p->pre != NULL) + 1 + !p->no_merges + (p->n_types > 0));
	if (p->model) {
		put_key(b, "tokenizer.ggml.model", GGUF_STRING);
		put_string(b, p->model);
	}
	if (p->pre) {
		put_key(b, "tokenizer.ggml.pre", GGUF_STRING);
		put_string(b, p->pre);
	}
	put_array(b, "tokenizer.ggml.tokens", p->tokens_are_numbers ? GGUF_U32 : GGUF_STRING, p->n_tokens);
	for (uint64_t i = 0; i < p->n_tokens; i++) {
		if (p->tokens_are_numbers)
			put_u32(b, 1);
		else
			put_string(b, p->token[i]);
	}
	if (!p->no_merges) {
		put_array(b, "tokenizer.ggml.merges", GGUF_STRING, p->n_merges);
		for (uint64_t i = 0; i < p->n_merges; i++)
			put_string(b, p->merge[i]);
	}
	if (p->n_types) {
		put_array(b, "tokenizer.ggml.token_type", p->type_element, p->n_types);
		for (uint64_t i = 0; i < p->n_types; i++)
			put_u32(b, (uint32_t)p->type[i]);
	}
}

static enum status open_plan(struct tokenizer **t, const struct plan *p, struct err *err)
{
	struct buf file = {0};
	struct gguf *g;
	enum status st;

	write_plan(&file, p);
	if (gguf_open_memory(&g, file.data, file.len, "test.gguf", err) != OK)
		fail_msg("%s", err->msg);
	st = tokenizer_open(t, g, err);
	gguf_close(g);
	buf_clear(&file);
	return st;
}

static void refused(const struct plan *p, const char *want)
{
	struct tokenizer *t = NULL;
	struct err err = {0};

	if (open_plan(&t, p, &err) == OK)
		fail_msg("expected \"%s\", but it opened", want);
	assert_null(t);
	assert_int_equal(err.code, ERR_FORMAT);
	if (!strstr(err.msg, want) || strncmp(err.msg, "test.gguf: ", 11))
		fail_msg("expected \"test.gguf: ... %s\", found \"%s\"", want, err.msg);
}

static int32_t id_of(const struct plan *p, const char *s)
{
	for (uint64_t i = 0; i < p->n_tokens; i++)
		if (!strcmp(p->token[i], s))
			return (int32_t)i;
	fail_msg("no token \"%s\"", s);
	return -1;
}

static void a_small_vocabulary_with_ids_of_its_own_works(void **state)
{
	struct plan p = good_plan();
	struct tokenizer *t = NULL;
	struct err err = {0};
	struct token_list want = {0}, have = {0};

	(void)state;
	if (open_plan(&t, &p, &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(tokenizer_special(t, SPECIAL_DSML), id_of(&p, special_text(SPECIAL_DSML)));
	assert_int_equal(tokenizer_special(t, SPECIAL_TITLE), -1);
	assert_true(tokenizer_is_added(t, id_of(&p, "[PAD9]")));
	assert_false(tokenizer_is_added(t, id_of(&p, "abc")));
	token_push(&want, id_of(&p, "abc"));
	token_push(&want, id_of(&p, "Ġa"));
	token_push(&want, id_of(&p, "x"));
	token_push(&want, id_of(&p, "<tag>"));
	token_encode_control(t, "abc ax<tag>", 11, &have);
	assert_true(same_ids("abc ax<tag>", &want, &have));
	token_list_clear(&have);
	token_encode_control(t, "[PAD9]", 6, &have);	/* unused: never matched */
	assert_int_equal(have.n, 6);
	token_list_clear(&have);
	token_list_clear(&want);
	tokenizer_close(t);
}

static void expect_ids(const struct tokenizer *t, const char *text, const int32_t *id, size_t n)
{
	struct token_list want = {0}, have = {0};

	token_append(&want, id, n);
	token_encode_control(t, text, strlen(text), &have);
	assert_true(same_ids(text, &want, &have));
	token_list_clear(&want);
	token_list_clear(&have);
}

static void added_tokens_stay_literal_and_the_longest_wins(void **state)
{
	struct plan p = good_plan();
	struct tokenizer *t = NULL;
	struct err err = {0};
	int32_t first;
	size_t n;

	(void)state;
	first = (int32_t)p.n_tokens;
	add_token(&p, "<é>");		/* é is a character of the printable form: byte E9 */
	add_token(&p, "<tag>c");
	add_token(&p, "<tag>cab");
	p.n_types = 0;
	if (open_plan(&t, &p, &err) != OK)
		fail_msg("%s", err.msg);
	assert_memory_equal(token_bytes(t, first, &n), "<é>", 4);
	assert_int_equal(n, 4);
	expect_ids(t, "<é>", (const int32_t[]){first}, 1);
	expect_ids(t, "<tag>ca<tag>cab<tag>", (const int32_t[]){first + 1, id_of(&p, "a"), first + 2, id_of(&p, "<tag>")}, 4);
	tokenizer_close(t);
}

static void a_word_that_is_a_token_still_has_to_be_reached_by_merges(void **state)
{
	struct plan p = good_plan();
	struct tokenizer *t = NULL;
	struct err err = {0};

	(void)state;
	add_token(&p, "bc");
	p.n_types = 0;
	p.merge[p.n_merges++] = p.merge[2];	/* "a b" moves behind */
	p.merge[2] = "b c";
	if (open_plan(&t, &p, &err) != OK)
		fail_msg("%s", err.msg);
	for (int i = 0; i < 3; i++) {		/* the first time, and from memory */
		expect_ids(t, "abc", (const int32_t[]){id_of(&p, "a"), id_of(&p, "bc")}, 2);
		expect_ids(t, "ab", (const int32_t[]){id_of(&p, "ab")}, 1);
	}
	tokenizer_close(t);
}

static void another_kind_of_tokenizer_is_refused(void **state)
{
	struct plan p = good_plan();

	(void)state;
	p.pre = "llama-bpe";
	refused(&p, "tokenizer.ggml.pre: expected \"joyai-llm\" or \"deepseek-v3\", file has \"llama-bpe\"");
	p.pre = NULL;
	refused(&p, "tokenizer.ggml.pre");
	p = good_plan();
	p.model = "llama";
	refused(&p, "tokenizer.ggml.model: expected \"gpt2\", file has \"llama\"");
}

static void another_name_of_the_same_rules_is_accepted(void **state)
{
	struct plan p = good_plan();
	struct tokenizer *t = NULL;
	struct err err = {0};

	(void)state;
	p.pre = "deepseek-v3";
	p.model = NULL;
	p.n_types = 0;
	if (open_plan(&t, &p, &err) != OK)
		fail_msg("%s", err.msg);
	tokenizer_close(t);
}

static void arrays_of_the_wrong_shape_are_refused(void **state)
{
	struct plan p = good_plan();

	(void)state;
	p.tokens_are_numbers = true;
	refused(&p, "tokenizer.ggml.tokens: expected an array of strings, file has an array of u32");
	p = good_plan();
	p.no_merges = true;
	refused(&p, "the key tokenizer.ggml.merges is missing");
	p = good_plan();
	p.n_tokens = 0;
	refused(&p, "tokenizer.ggml.tokens: expected 1 to 1048576 tokens, file has 0");
	p = good_plan();
	p.n_types--;
	refused(&p, "tokenizer.ggml.token_type: expected 268 entries, one for each token, file has 267");
	p = good_plan();
	p.type_element = GGUF_F32;
	refused(&p, "tokenizer.ggml.token_type: expected an array of integers, file has an array of f32");
}

static void bad_tokens_are_refused(void **state)
{
	struct plan p = good_plan();

	(void)state;
	p.token[1] = "";
	refused(&p, "tokenizer.ggml.tokens[1]: expected text, it is empty");
	p = good_plan();
	p.token[261] = "<tag>";
	refused(&p, "tokenizer.ggml.tokens[262]: expected a new string, \"<tag>\" is token 261 already");
	p = good_plan();
	p.token[3] = p.token[2];		/* outside the byte mapping: not in the same table */
	refused(&p, "expected a new string, \"<\xEF\xBD\x9CUser\xEF\xBD\x9C>\" is token");
	p = good_plan();
	p.token[4] = "not the byte FF";
	refused(&p, "expected a token for each of the 256 bytes, 0xFF has none");
	p = good_plan();
	p.token[262] = "ill-formed \xE4\xB8";
	refused(&p, "tokenizer.ggml.tokens[262]: expected UTF-8");
	p = good_plan();
	p.token[id_of(&p, "<think>")] = "<thinking>";
	refused(&p, "expected the control token \"<think>\", file has none");
}

static void a_control_token_made_by_merges_is_refused(void **state)
{
	struct plan p = good_plan();

	(void)state;		/* text could then say it */
	add_token(&p, "</");
	add_token(&p, "</thin");
	add_token(&p, "thin");
	add_token(&p, "k>");
	add_token(&p, "th");
	add_token(&p, "in");
	p.n_types = 0;
	p.merge[p.n_merges++] = "< /";
	p.merge[p.n_merges++] = "k >";
	p.merge[p.n_merges++] = "t h";
	p.merge[p.n_merges++] = "i n";
	p.merge[p.n_merges++] = "th in";
	p.merge[p.n_merges++] = "</ thin";
	p.merge[p.n_merges++] = "</thin k>";
	refused(&p, "expected the control token \"</think>\", file has none");
}

static void bad_merges_are_refused(void **state)
{
	static const struct {
		const char *merge, *want;
	} cases[] = {
		{"ab", "tokenizer.ggml.merges[3] \"ab\": expected two parts with one space between, found no space"},
		{"", "tokenizer.ggml.merges[3] \"\": expected two parts"},
		{" b", "\" b\": the left part is no token"},
		{"b ", "\"b \": the right part is no token"},
		{"zz a", "\"zz a\": the left part is no token"},
		{"a zz", "\"a zz\": the right part is no token"},
		{"a b c", "\"a b c\": the right part is no token"},
		{"c b", "\"c b\": the parts together are no token"},
		{"a b", "\"a b\": the same pair is in the list before"},
		{"\xE4\xB8\x96 a", "the left part is no token"},
		{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa b",
		 "aaaaa...\": the left part is no token"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct plan p = good_plan();

		p.merge[p.n_merges++] = cases[i].merge;
		refused(&p, cases[i].want);
	}
}

static void a_part_that_no_merge_makes_is_refused(void **state)
{
	struct plan p = good_plan();

	(void)state;
	add_token(&p, "<tag>a");
	p.n_types = 0;
	p.merge[p.n_merges++] = "<tag> a";
	refused(&p, "tokenizer.ggml.merges[3]: expected parts that are bytes or made by merges, token 262 is neither");
}

static void every_failing_allocation_is_reported(void **state)
{
	struct plan p = good_plan();
	struct buf file = {0};
	struct err err = {0};
	struct gguf *g;
	long at = 0;

	(void)state;
	write_plan(&file, &p);
	assert_int_equal(gguf_open_memory(&g, file.data, file.len, "test.gguf", &err), OK);
	for (enum status st = ERR_MEMORY; st != OK;) {
		struct tokenizer *t = NULL;

		mem_fail_at(++at);
		st = tokenizer_open(&t, g, &err);
		mem_fail_at(0);
		if (st != OK && st != ERR_MEMORY)
			fail_msg("allocation %ld: expected ERR_MEMORY, found %s: %s", at, status_name(st), err.msg);
		assert_true((st == OK) == (t != NULL));
		tokenizer_close(t);
	}
	assert_true(at > 8);
	gguf_close(g);
	buf_clear(&file);
}

static void mutated_vocabularies_open_or_are_refused(void **state)
{
	struct plan p = good_plan();
	struct buf file = {0};
	struct rng r = rng_seed(1);
	int opened = 0, kept = 0;

	(void)state;
	write_plan(&file, &p);
	for (int round = 0; round < 5000; round++) {
		char *copy = mem_copy(file.data, file.len);
		struct tokenizer *t = NULL;
		struct token_list l = {0};
		struct err err = {0};
		struct gguf *g;

		for (uint64_t k = 1 + rng_below(&r, 3); k; k--)
			copy[rng_below(&r, file.len)] = (char)(rng_below(&r, 2) ? rng_below(&r, 256) : (uint64_t)'a');
		if (gguf_open_memory(&g, copy, file.len, "test.gguf", &err) == OK) {
			opened++;
			if (tokenizer_open(&t, g, &err) == OK) {
				kept++;
				token_encode_control(t, "abc <tag> \xFF" "ab<think>", 19, &l);
				for (size_t i = 0; i < l.n; i++)
					assert_true(l.id[i] >= 0 && l.id[i] < tokenizer_size(t));
			} else {
				assert_true(err.msg[0] && !strchr(err.msg, '\n'));
			}
			gguf_close(g);
		}
		token_list_clear(&l);
		tokenizer_close(t);
		mem_free(copy);
	}
	assert_true(opened > 100 && kept > 50 && kept < opened);
	buf_clear(&file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_small_vocabulary_with_ids_of_its_own_works),
		cmocka_unit_test(added_tokens_stay_literal_and_the_longest_wins),
		cmocka_unit_test(a_word_that_is_a_token_still_has_to_be_reached_by_merges),
		cmocka_unit_test(another_kind_of_tokenizer_is_refused),
		cmocka_unit_test(another_name_of_the_same_rules_is_accepted),
		cmocka_unit_test(arrays_of_the_wrong_shape_are_refused),
		cmocka_unit_test(bad_tokens_are_refused),
		cmocka_unit_test(a_control_token_made_by_merges_is_refused),
		cmocka_unit_test(bad_merges_are_refused),
		cmocka_unit_test(a_part_that_no_merge_makes_is_refused),
		cmocka_unit_test(every_failing_allocation_is_reported),
		cmocka_unit_test(mutated_vocabularies_open_or_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
