/* decode_test.c - generated text to pieces: the official parser's cases, every malformed shape of
 * docs/chat.md section 10, and all of it again with the tokens cut elsewhere.
 *
 * The recoveries of the malformed shapes are written here by hand from that table. */
#include "base/rng.h"
#include "base/utf8.h"
#include "chat/answer.h"
#include "chat/decode.h"
#include "chat/jsonl.h"
#include "chat/render.h"
#include "common.h"

static struct tokenizer *real, *nano;

static int setup(void **state)
{
	(void)state;
	real = open_tokenizer(REAL);
	nano = open_tokenizer(NANO);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tokenizer_close(real);
	tokenizer_close(nano);
	return 0;
}

#define D          "｜DSML｜"
#define EOS        "<｜end▁of▁sentence｜>"
#define OPEN       "<" D "tool_calls>\n"
#define CLOSE      "</" D "tool_calls>"
#define CALL(name) "<" D "invoke name=\"" name "\">\n"
#define END_CALL   "</" D "invoke>\n"
#define PARAM(name, string, value) \
	"<" D "parameter name=\"" name "\" string=\"" string "\">" value "</" D "parameter>\n"
#define LS           CALL("bash") PARAM("command", "true", "ls") END_CALL
#define LS_ARGUMENTS "{\"command\": \"ls\"}"
#define NEST         "<" D "parameter name=\"n\">"
#define SHOWN        "｜｜DSML｜｜"

static const char tools_text[] =
	"[{\"type\":\"function\",\"function\":{\"name\":\"bash\",\"parameters\":{\"type\":"
        "\"object\",\"properties\":{"
	"\"command\":{\"type\":\"string\"},\"timeout\":{\"type\":[\"integer\",\"null\"]},\"on\":{"
        "\"type\":\"boolean\"},"
	"\"env\":{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\"},\"s\":{\"type\":"
        "\"string\"}}},"
	"\"list\":{\"anyOf\":[{\"type\":\"array\"},{\"type\":\"null\"}]},\"any\":{},"
	"\"either\":{\"type\":[\"string\",\"integer\"]}}}}},"
	"{\"name\":\"noargs\"}]";

enum setting { ANY_TOOL, DECLARED, INACTIVE };

/* --- feeding --- */

struct check { /* an answer, with the order of its pieces checked on the way */
	struct answer answer;
	int last; /* piece kind of the previous piece, -1 at first */
	size_t calls;
	bool in_call;
	struct buf arguments;
};

static void check_take(void *ctx, const struct piece *p)
{
	struct check *c = ctx;
	uint32_t cp;

	assert_true(c->last != PIECE_FINISH);
	if (p->kind == PIECE_REASONING)
		assert_true(c->last <= PIECE_REASONING);
	if (p->kind == PIECE_CONTENT)
		assert_true(c->last <= PIECE_CONTENT);
	if (p->kind == PIECE_TOOL_BEGIN) {
		assert_false(c->in_call);
		assert_int_equal(p->index, c->calls++);
		c->in_call = true;
	}
	if (p->kind == PIECE_TOOL_ARGUMENTS || p->kind == PIECE_TOOL_END) {
		assert_true(c->in_call);
		assert_int_equal(p->index, c->calls - 1);
	}
	if (p->kind == PIECE_TOOL_END)
		c->in_call = false;
	if (p->kind <= PIECE_CONTENT || p->kind == PIECE_TOOL_ARGUMENTS) {
		assert_true(p->n > 0);
		for (size_t i = 0; i < p->n;) {
			int valid;

			i += utf8_decode(p->text + i, p->n - i, &cp, &valid);
			assert_true(valid);
		}
	}
	c->last = (int)p->kind;
	answer_take(&c->answer, p);
}

static const struct {
	const char *text;
	enum mark mark;
} marks[] = {
	{D, MARK_DSML},  {"<think>", MARK_THINK},    {"</think>", MARK_END_THINK},
	{EOS, MARK_EOS}, {"<｜User｜>", MARK_OTHER},
};

/* Feeds text as marks and pieces of at most max bytes, cut by rng (NULL: always max). */
static void feed_text(struct decode *d, const char *text, size_t n, size_t max, struct rng *rng)
{
	for (size_t i = 0; i < n;) {
		size_t cut = rng ? 1 + rng_u64(rng) % max : max, len = 0;

		for (size_t m = 0; m < sizeof marks / sizeof marks[0] && !len; m++) {
			size_t k = strlen(marks[m].text);

			if (n - i >= k && memcmp(text + i, marks[m].text, k) == 0) {
				if (!decode_feed(d, marks[m].mark, text + i, k))
					return;
				len = k;
			}
		}
		if (len) {
			i += len;
			continue;
		}
		for (len = 1; len < cut && i + len < n; len++) { /* up to the next mark */
			bool mark = false;

			for (size_t m = 0; m < sizeof marks / sizeof marks[0]; m++)
				mark |= strncmp(text + i + len, marks[m].text,
				                strlen(marks[m].text)) == 0;
			if (mark)
				break;
		}
		if (!decode_feed(d, MARK_TEXT, text + i, len))
			return;
		i += len;
	}
}

static void feed_ids(struct decode *d, const struct tokenizer *t, const char *text, size_t n)
{
	struct token_list ids = {0};

	token_encode_control(t, text, n, &ids);
	for (size_t i = 0; i < ids.n && decode_push(d, ids.id[i]); i++)
		;
	token_list_clear(&ids);
}

/* One way of running a text through the decoder: way 0 and 1 by the two vocabularies, 2 by bytes, 3 in large
 * pieces, others by chance.  finish tells how the caller ends it when the text does not. */
#define N_WAYS 24

static void run(struct check *c, const char *text, size_t n, enum thinking thinking,
                enum setting setting, const json_t *tools, enum finish finish, int way)
{
	struct decode_options o = {.thinking = thinking,
	                           .tools_active = setting != INACTIVE,
	                           .tools = setting == DECLARED ? tools : NULL,
	                           .ctx = c,
	                           .take = check_take};
	struct decode *d = decode_new(way == 1 ? nano : real, &o);
	struct rng rng;

	*c = (struct check){.last = -1, .arguments = BUF_CAP(1 << 20)};
	answer_init(&c->answer);
	rng = rng_seed((uint64_t)way);
	assert_non_null(d);
	if (way < 2)
		feed_ids(d, way ? nano : real, text, n);
	else
		feed_text(d, text, n, way == 2 ? 1 : way == 3 ? n + 1 : 7, way > 3 ? &rng : NULL);
	decode_finish(d, finish);
	assert_true(decode_ok(d));
	assert_int_equal(c->last, PIECE_FINISH);
	decode_free(d);
}

static void check_clear(struct check *c)
{
	answer_clear(&c->answer);
	buf_clear(&c->arguments);
}

/* --- the table --- */

struct row {
	const char *name;
	enum thinking thinking;
	enum setting setting;
	const char *text;
	const char *reasoning, *content;
	const char *calls; /* name, space, arguments; one a line */
	enum finish finish;
};

static void expect_row(const struct row *r, const json_t *tools, int way)
{
	struct check c;
	struct buf calls = BUF_CAP(1 << 16);
	char what[40];

	run(&c, r->text, strlen(r->text), r->thinking, r->setting, tools, FINISH_LENGTH, way);
	for (size_t i = 0; i < c.answer.n_calls; i++)
		buf_printf(&calls, "%s%s %s", i ? "\n" : "", buf_cstr(&c.answer.calls[i].name),
		           buf_cstr(&c.answer.calls[i].arguments));
	snprintf(what, sizeof what, "way %d: ", way);
	expect_text(r->name, strcat(what, "reasoning"), r->reasoning,
	            buf_cstr(&c.answer.reasoning));
	expect_text(r->name, "content", r->content, buf_cstr(&c.answer.content));
	expect_text(r->name, "calls", r->calls, buf_cstr(&calls));
	if (c.answer.finish != r->finish)
		fail_msg("%s: expected finish %d, found %d", r->name, r->finish, c.answer.finish);
	buf_clear(&calls);
	check_clear(&c);
}

#define ON    THINKING_ON
#define OFF   THINKING_OFF
#define CALLS FINISH_TOOL_CALLS
#define STOP  FINISH_STOP

static const struct row well_formed[] = {
	{"plain", OFF, ANY_TOOL, "Hi." EOS, "", "Hi.", "", STOP},
	{"trailing white space is content", OFF, ANY_TOOL, "Hi. \n" EOS, "", "Hi. \n", "", STOP},
	{"thought", ON, ANY_TOOL, "r\n</think>\n\na" EOS, "r\n", "\n\na", "", STOP},
	{"call", OFF, ANY_TOOL, "Hi.\n\n" OPEN LS CLOSE EOS, "", "Hi.", "bash " LS_ARGUMENTS,
         CALLS},
	{"nothing after the closer is waited for", OFF, ANY_TOOL, "\n\n" OPEN LS CLOSE, "", "",
         "bash " LS_ARGUMENTS, CALLS},
	{"two calls", ON, DECLARED, "r</think>\n\n" OPEN LS CALL("noargs") "\n" END_CALL CLOSE EOS,
         "r", "", "bash " LS_ARGUMENTS "\nnoargs {}", CALLS},
	{"types", OFF, ANY_TOOL,
         OPEN CALL("f") PARAM("a", "true", "x\n\"y\"\\") PARAM("b", "false", "[1,  2]")
                 PARAM("c", "false", "null") END_CALL CLOSE EOS,
         "", "", "f {\"a\": \"x\\n\\\"y\\\"\\\\\", \"b\": [1,  2], \"c\": null}", CALLS},
	{"values are raw: no entity is decoded", OFF, ANY_TOOL,
         OPEN CALL("f") PARAM("a", "true", "&lt;b&gt; &amp;") END_CALL CLOSE EOS, "", "",
         "f {\"a\": \"&lt;b&gt; &amp;\"}", CALLS},
	{"raw names", OFF, ANY_TOOL,
         OPEN CALL("mcp__srv__do-it.x\"<>&") PARAM("k\"<", "true", "v") END_CALL CLOSE EOS, "", "",
         "mcp__srv__do-it.x\"<>& {\"k\\\"<\": \"v\"}", CALLS},
	{"text about tags in angle brackets", OFF, ANY_TOOL, "a < b </ c <<d> </e> \n< f" EOS, "",
         "a < b </ c <<d> </e> \n< f", "", STOP},
	{"characters cut anywhere", ON, ANY_TOOL,
         "perché 日本 😀</think>è 日本 😀\n\n" OPEN CALL("f") PARAM("k日", "true", "è 😀\n")
                 END_CALL CLOSE EOS,
         "perché 日本 😀", "è 日本 😀", "f {\"k日\": \"è 😀\\n\"}", CALLS},
	{"ill-formed bytes", ON, ANY_TOOL,
         "a\xE6\x97</think>\xF0\x9F\n\n" OPEN CALL("f\xC3") PARAM("k", "true", "\xE6")
                 END_CALL CLOSE EOS,
         "a\xEF\xBF\xBD", "\xEF\xBF\xBD", "f\xEF\xBF\xBD {\"k\": \"\xEF\xBF\xBD\"}", CALLS},
};

static const struct row malformed[] = {
	/* </think> missing before a block */
	{"call from inside the thought", ON, DECLARED, "r \n\n" OPEN LS CLOSE EOS, "r", "",
         "bash " LS_ARGUMENTS, CALLS},
	{"block in the thought naming an undeclared tool", ON, DECLARED,
         "r\n\n" OPEN CALL("rm") END_CALL CLOSE "s</think>a" EOS,
         "r\n\n<" SHOWN "tool_calls>\n<" SHOWN "invoke name=\"rm\">\n\ns", "a", "", STOP},
	{"second call undeclared", ON, DECLARED, OPEN LS CALL("rm") END_CALL CLOSE EOS,
         "<" SHOWN "tool_calls>\n<" SHOWN "invoke name=\"bash\">\n<" SHOWN
         "parameter name=\"command\" string=\"true\">ls</" SHOWN "parameter>\n</" SHOWN
         "invoke>\n<" SHOWN "invoke name=\"rm\">",
         "", "", STOP},
	{"prose about the token in a thought", ON, DECLARED,
         "say <" D "tool_calls> first</think>a" EOS, "say <" SHOWN "tool_calls> first", "a", "",
         STOP},
	{"prose about the token without a bracket", ON, DECLARED, "the " D " token</think>a " D EOS,
         "the " SHOWN " token", "a " SHOWN, "", STOP},
	{"the thought ends inside the block", ON, DECLARED,
         "r" OPEN CALL("bash") "<" D "parameter name=\"command\" string=\"true\">x"
                               "</think>a" EOS,
         "r<" SHOWN "tool_calls>\n<" SHOWN "invoke name=\"bash\">\n<" SHOWN
         "parameter name=\"command\" string=\"true\">x",
         "a", "", STOP},
	{"bare call from inside the thought", ON, DECLARED, "r\n" LS EOS, "r", "",
         "bash " LS_ARGUMENTS, CALLS},
	{"thought cut off in a held block", ON, DECLARED, "r" OPEN CALL("bash"),
         "r<" SHOWN "tool_calls>\n<" SHOWN "invoke name=\"bash\">\n", "", "", FINISH_LENGTH},
	{"only a thought", ON, ANY_TOOL, "r" EOS, "r", "", "", STOP},
	/* opener missing or misspelt */
	{"opener misspelt", OFF, DECLARED, "a\n\n<" D "toolcalls>\n" LS "</" D "toolcalls>" EOS, "",
         "a", "bash " LS_ARGUMENTS, CALLS},
	{"opener of V3.2", OFF, DECLARED,
         "a\n\n<" D "function_calls>\n" LS "</" D "function_calls>" EOS, "", "a",
         "bash " LS_ARGUMENTS, CALLS},
	{"no opener", OFF, DECLARED, "a\n\n" LS EOS, "", "a", "bash " LS_ARGUMENTS, CALLS},
	{"no opener, two calls", OFF, DECLARED, LS LS EOS, "", "",
         "bash " LS_ARGUMENTS "\nbash " LS_ARGUMENTS, CALLS},
	{"no opener, text after", OFF, DECLARED, LS "done" EOS, "", "", "bash " LS_ARGUMENTS,
         CALLS},
	{"no opener, undeclared tool", OFF, DECLARED, "a <" D "invoke name=\"rm\">b" EOS, "",
         "a <" SHOWN "invoke name=\"rm\">b", "", STOP},
	{"opener with a blank", OFF, ANY_TOOL, "a\n\n<" D " tool_calls>" LS CLOSE EOS, "", "a",
         "bash " LS_ARGUMENTS, CALLS},
	/* empty block */
	{"empty block at the end", OFF, ANY_TOOL, "x\n\n" OPEN CLOSE EOS, "", "x", "", STOP},
	{"empty block, text goes on", OFF, ANY_TOOL, "x\n\n" OPEN CLOSE "y" EOS, "", "x\n\ny", "",
         STOP},
	{"empty block, text goes on and ends in white space", OFF, ANY_TOOL,
         "x\n\n" OPEN CLOSE "y\n" EOS, "", "x\n\ny\n", "", STOP},
	{"empty block, then a call", OFF, ANY_TOOL, "x\n\n" OPEN CLOSE "\n\n" OPEN LS CLOSE EOS, "",
         "x", "bash " LS_ARGUMENTS, CALLS},
	{"empty block in the thought", ON, ANY_TOOL, "x\n" OPEN CLOSE "y</think>z" EOS, "x\ny", "z",
         "", STOP},
	/* stray closers */
	{"stray closer", OFF, ANY_TOOL, "x</" D "invoke>y" EOS, "", "xy", "", STOP},
	{"stray closers first", OFF, ANY_TOOL,
         "</" D "parameter>\n</" D "invoke>\n" CLOSE "\n\nx" EOS, "", "\n\n\n\nx", "", STOP},
	{"stray closer last", OFF, ANY_TOOL, "x\n\n" CLOSE EOS, "", "x", "", STOP},
	{"stray closer in the thought", ON, ANY_TOOL, "r</" D "parameter>s</think>x" EOS, "rs", "x",
         "", STOP},
	{"not a closer", OFF, ANY_TOOL, "x</" D "!y>" EOS, "", "x</" SHOWN "!y>", "", STOP},
	{"closers inside a block", OFF, ANY_TOOL,
         OPEN "</" D "parameter>" END_CALL LS "</" D "invoke>" CLOSE EOS, "", "",
         "bash " LS_ARGUMENTS, CALLS},
	/* white space and attributes */
	{"one newline before", OFF, ANY_TOOL, "x\n" OPEN LS CLOSE EOS, "", "x",
         "bash " LS_ARGUMENTS, CALLS},
	{"nothing before", OFF, ANY_TOOL, "x" OPEN LS CLOSE EOS, "", "x", "bash " LS_ARGUMENTS,
         CALLS},
	{"blanks between tags", OFF, ANY_TOOL,
         "<" D "tool_calls>  <" D "invoke  name=\"bash\" > \t\n\n<" D
         "parameter name=\"command\"\n string=\"true\" >ls</" D "parameter></" D " invoke >\n\n</" D
         "tool_calls >" EOS,
         "", "", "bash " LS_ARGUMENTS, CALLS},
	{"attributes the other way round", OFF, ANY_TOOL,
         OPEN CALL("f") "<" D "parameter string=\"false\" name=\"n\">1</" D
                        "parameter>" END_CALL CLOSE EOS,
         "", "", "f {\"n\": 1}", CALLS},
	{"self-closing", OFF, ANY_TOOL,
         OPEN "<" D "invoke name=\"noargs\"/>\n" CALL(
		 "f") "<" D "parameter name=\"e\" string=\"true\" />" END_CALL CLOSE EOS,
         "", "", "noargs {}\nf {\"e\": \"\"}", CALLS},
	/* string attribute missing */
	{"no string attribute, no schema", OFF, ANY_TOOL,
         OPEN CALL("f") "<" D "parameter name=\"a\">1</" D "parameter>\n<" D
                        "parameter name=\"b\">x y</" D "parameter>\n" END_CALL CLOSE EOS,
         "", "", "f {\"a\": 1, \"b\": \"x y\"}", CALLS},
	{"no string attribute, schema says string", OFF, DECLARED,
         OPEN CALL("bash") "<" D "parameter name=\"command\">1</" D
                           "parameter>\n" END_CALL CLOSE EOS,
         "", "", "bash {\"command\": \"1\"}", CALLS},
	{"no string attribute, schema says integer", OFF, DECLARED,
         OPEN CALL("bash") "<" D "parameter name=\"timeout\">5</" D
                           "parameter>\n" END_CALL CLOSE EOS,
         "", "", "bash {\"timeout\": 5}", CALLS},
	/* string="true" for another type */
	{"string true for an integer", OFF, DECLARED,
         OPEN CALL("bash") PARAM("timeout", "true", "5") END_CALL CLOSE EOS, "", "",
         "bash {\"timeout\": 5}", CALLS},
	{"string true for a boolean that is none", OFF, DECLARED,
         OPEN CALL("bash") PARAM("on", "true", "yes") END_CALL CLOSE EOS, "", "",
         "bash {\"on\": \"yes\"}", CALLS},
	{"string true for a boolean that is a number", OFF, DECLARED,
         OPEN CALL("bash") PARAM("on", "true", "1") END_CALL CLOSE EOS, "", "",
         "bash {\"on\": \"1\"}", CALLS},
	{"string true for an array in a union", OFF, DECLARED,
         OPEN CALL("bash") PARAM("list", "true", "[1]") END_CALL CLOSE EOS, "", "",
         "bash {\"list\": [1]}", CALLS},
	{"string true where a string is allowed too", OFF, DECLARED,
         OPEN CALL("bash") PARAM("either", "true", "5") PARAM("any", "true", "6")
                 END_CALL CLOSE EOS,
         "", "", "bash {\"either\": \"5\", \"any\": \"6\"}", CALLS},
	{"string false that is no JSON", OFF, ANY_TOOL,
         OPEN CALL("f") PARAM("a", "false", "{x}") PARAM("b", "false", "")
                 PARAM("c", "false", "NaN") END_CALL CLOSE EOS,
         "", "", "f {\"a\": \"{x}\", \"b\": \"\", \"c\": \"NaN\"}", CALLS},
	/* parameter inside parameter */
	{"nested parameters", OFF, DECLARED,
         OPEN CALL("bash") "<" D "parameter name=\"env\">\n" PARAM("s", "true", "x")
                 PARAM("n", "true", "3") "<" D "parameter name=\"deep\">" PARAM(
			 "k", "false", "[]") "</" D "parameter>\n</" D
                                             "parameter>\n" PARAM("command", "true", "ls")
                                                     END_CALL CLOSE EOS,
         "", "",
         "bash {\"env\": {\"s\": \"x\", \"n\": 3, \"deep\": {\"k\": []}}, \"command\": \"ls\"}",
         CALLS},
	{"a parameter tag inside a string is text", OFF, ANY_TOOL,
         OPEN CALL("f") PARAM("a", "true", "<" D "parameter name=\"b\">x") END_CALL CLOSE EOS, "",
         "", "f {\"a\": \"<" D "parameter name=\\\"b\\\">x\"}", CALLS},
	{"nested deeper than it is followed", OFF, ANY_TOOL,
         OPEN CALL("f") NEST NEST NEST NEST NEST NEST NEST NEST "<" D "parameter name=\"a\">1</" D
                                                                "parameter>" END_CALL CLOSE EOS,
         "", "",
         "f {\"n\": {\"n\": {\"n\": {\"n\": {\"n\": {\"n\": {\"n\": {\"n\": \"<" D
         "parameter name=\\\"a\\\">1\"}}}}}}}}",
         CALLS},
	/* unknown tool */
	{"unknown tool", OFF, DECLARED, OPEN CALL("rm") END_CALL CLOSE EOS, "", "", "rm {}", CALLS},
	/* values with brackets */
	{"value ending in >", OFF, ANY_TOOL,
         OPEN CALL("f") PARAM("a", "true", "2>&1 >") PARAM("b", "true", "a<b</")
                 PARAM("c", "true", "</parameter>\n</")
                         PARAM("d", "true", "</" D "x></" D "parameters>\n")
                                 PARAM("e", "true", "<" D) END_CALL CLOSE EOS,
         "", "",
         "f {\"a\": \"2>&1 >\", \"b\": \"a<b</\", \"c\": \"</parameter>\\n</\", \"d\": \"</" D
         "x></" D "parameters>\\n\", \"e\": \"<" D "\"}",
         CALLS},
	{"control tokens in a value", OFF, ANY_TOOL,
         OPEN CALL("f") PARAM("a", "true", "<think></think><｜User｜>") END_CALL CLOSE EOS, "", "",
         "f {\"a\": \"<think></think><｜User｜>\"}", CALLS},
	{"parameter without its closer", OFF, ANY_TOOL,
         OPEN CALL("f") "<" D "parameter name=\"a\" string=\"true\">1\n" END_CALL CLOSE EOS, "", "",
         "f {\"a\": \"1\"}", CALLS},
	{"call without its closer", OFF, ANY_TOOL,
         OPEN CALL("f") PARAM("a", "true", "1") CALL("g") PARAM("b", "true", "2") CLOSE EOS, "", "",
         "f {\"a\": \"1\"}\ng {\"b\": \"2\"}", CALLS},
	/* EOS inside a block */
	{"EOS behind a call", OFF, ANY_TOOL, OPEN LS EOS, "", "", "bash " LS_ARGUMENTS, CALLS},
	{"EOS behind a parameter", OFF, ANY_TOOL,
         OPEN CALL("bash") PARAM("command", "true", "ls") EOS, "", "", "bash " LS_ARGUMENTS, CALLS},
	{"EOS in a closing tag", OFF, ANY_TOOL,
         OPEN CALL("f") "<" D "parameter name=\"a\" string=\"true\">1</" D "parameter" EOS, "", "",
         "f {\"a\": \"1\"}", CALLS},
	{"EOS in a parameter of a reported call", OFF, ANY_TOOL,
         OPEN CALL("bash")
                 PARAM("command", "true", "ls") "<" D "parameter name=\"x\" string=\"true\">ab" EOS,
         "", "", "bash {\"command\": \"ls\", \"x\": \"ab", FINISH_LENGTH},
	{"EOS in a JSON parameter of a reported call", OFF, ANY_TOOL,
         OPEN CALL("bash") "<" D "parameter name=\"x\" string=\"false\">[1" EOS, "", "", "bash {",
         FINISH_LENGTH},
	{"EOS in a parameter of a call not reported", OFF, DECLARED,
         "a\n\n" CALL("bash")
                 PARAM("command", "true", "ls") "<" D "parameter name=\"x\" string=\"true\">ab" EOS,
         "", "a", "bash " LS_ARGUMENTS, CALLS},
	{"EOS behind the opener", OFF, ANY_TOOL, "a\n\n" OPEN EOS, "", "a", "", STOP},
	{"EOS in the tag of the first call", OFF, ANY_TOOL,
         "a\n\n" OPEN "<" D "invoke name=\"ba" EOS, "",
         "a\n\n<" SHOWN "tool_calls>\n<" SHOWN "invoke name=\"ba", "", STOP},
	{"EOS in a held block", ON, DECLARED,
         "r" OPEN CALL("bash") "<" D "parameter name=\"x\" string=\"true\">ab" EOS,
         "r<" SHOWN "tool_calls>\n<" SHOWN "invoke name=\"bash\">\n<" SHOWN
         "parameter name=\"x\" string=\"true\">ab",
         "", "", STOP},
	{"EOS behind a call in the thought", ON, DECLARED,
         "r\n\n" OPEN CALL("bash") PARAM("command", "true", "ls") EOS, "r", "",
         "bash " LS_ARGUMENTS, CALLS},
	/* the token limit inside a block */
	{"limit in a value", OFF, ANY_TOOL,
         OPEN CALL("bash") "<" D "parameter name=\"command\" string=\"true\">ls -", "", "",
         "bash {\"command\": \"ls -", FINISH_LENGTH},
	{"limit behind a call", OFF, ANY_TOOL, OPEN LS, "", "", "bash " LS_ARGUMENTS,
         FINISH_LENGTH},
	{"limit in a provisional call", OFF, DECLARED, "a\n" CALL("bash"), "",
         "a\n<" SHOWN "invoke name=\"bash\">\n", "", FINISH_LENGTH},
	{"limit in text", OFF, ANY_TOOL, "a\n\n<", "", "a\n\n<", "", FINISH_LENGTH},
	/* unparsable */
	{"prose in the block", OFF, ANY_TOOL, "a\n\n" OPEN "no calls\n" CLOSE EOS, "",
         "a\n\n<" SHOWN "tool_calls>\nno calls", "", STOP},
	{"block of something else", OFF, ANY_TOOL,
         "a\n\n<" D "parameter name=\"x\">1</" D "parameter>" EOS, "",
         "a\n\n<" SHOWN "parameter name=\"x\">1", "", STOP},
	{"prose, then a call", OFF, DECLARED, OPEN "well: " LS EOS, "",
         "<" SHOWN "tool_calls>\nwell:", "bash " LS_ARGUMENTS, CALLS},
	{"text after the block", OFF, ANY_TOOL, OPEN LS CLOSE " trailing" EOS, "", "",
         "bash " LS_ARGUMENTS, CALLS},
	/* look-alikes */
	{"ASCII bars", OFF, DECLARED,
         "\n\n<|DSML|tool_calls>\n<|DSML|invoke name=\"bash\">\n</|DSML|invoke>" EOS, "",
         "\n\n<|DSML|tool_calls>\n<|DSML|invoke name=\"bash\">\n</|DSML|invoke>", "", STOP},
	{"plain XML", OFF, DECLARED, "<tool_calls><invoke name=\"bash\"></invoke></tool_calls>" EOS,
         "", "<tool_calls><invoke name=\"bash\"></invoke></tool_calls>", "", STOP},
	/* no tools */
	{"block without tools", OFF, INACTIVE, "a\n\n" OPEN LS CLOSE "b" EOS, "",
         "a\n\n<" SHOWN "tool_calls>\n<" SHOWN "invoke name=\"bash\">\n<" SHOWN
         "parameter name=\"command\" string=\"true\">ls</" SHOWN "parameter>\n</" SHOWN
         "invoke>\n</" SHOWN "tool_calls>b",
         "", STOP},
	/* think markers */
	{"opening think first", ON, ANY_TOOL, "<think>r</think>a" EOS, "r", "a", "", STOP},
	{"second closing think", ON, ANY_TOOL, "r</think>a</think>b<think>c" EOS, "r", "abc", "",
         STOP},
	{"closing think in a chat", OFF, ANY_TOOL, "</think>a" EOS, "", "a", "", STOP},
	{"another control token", ON, ANY_TOOL, "r<｜User｜></think>a<｜User｜>b" EOS,
         "r<｜｜User｜｜>", "a<｜｜User｜｜>b", "", STOP},
};

static void expect_rows(const struct row *rows, size_t n)
{
	json_t *tools = parse(tools_text);

	for (size_t i = 0; i < n; i++)
		for (int way = 0; way < N_WAYS; way++)
			expect_row(&rows[i], tools, way);
	json_decref(tools);
}

static void well_formed_answers_are_taken_apart(void **state)
{
	(void)state;
	expect_rows(well_formed, sizeof well_formed / sizeof well_formed[0]);
}

static void malformed_answers_are_recovered_as_the_table_says(void **state)
{
	(void)state;
	expect_rows(malformed, sizeof malformed / sizeof malformed[0]);
}

/* --- the official parser's cases --- */

/* What this parser makes of the texts that the official one refuses. */
static const char *const recoveries[][4] = {
	/* name, content, reasoning, calls */
	{"chat/no_eos", "Hello.", "", ""},
	{"chat/missing_close_param", "", "", "a {\"x\": \"1\"}"},
	{"chat/single_newline_before_block", "hi", "",
         "bash {\"command\": \"ls -la 2>&1\", \"timeout\": 5}"},
	{"chat/text_after_block", "", "", "bash {\"command\": \"ls -la 2>&1\", \"timeout\": 5}"},
	{"chat/orphan_invoke", "x", "", "a {\"x\": \"1\"}"},
	{"chat/function_calls_name", "", "", "a {\"x\": \"1\"}"},
	{"chat/missing_string_attr", "", "", "a {\"x\": 1}"},
	{"thinking/dup_param", "", "Reasoning here.", "w {\"a\": \"2\"}"},
	{"thinking/missing_close_block", "", "Reasoning here.", "a {\"x\": \"1\"}"},
	{"thinking/no_newline_before_block", "hi", "Reasoning here.",
         "bash {\"command\": \"ls -la 2>&1\", \"timeout\": 5}"},
	{"thinking/stray_closer", "x", "Reasoning here.", ""},
	{"thinking/no_close_think", "", "Reasoning only", ""},
	{"thinking/tool_inside_then_close", "", "Rea",
         "bash {\"command\": \"ls -la 2>&1\", \"timeout\": 5}"},
	{"thinking/reopen", "a", "r", ""},
};

static int n_recovered;

static void expect_recovery(const char *name, const json_t *result)
{
	struct buf calls = BUF_CAP(1 << 16);
	const json_t *list = json_object_get(result, "tool_calls");
	size_t i = 0, n = sizeof recoveries / sizeof recoveries[0];

	while (i < n && strcmp(recoveries[i][0], name))
		i++;
	if (i == n)
		fail_msg("%s: no recovery is listed here", name);
	for (size_t k = 0; k < json_array_size(list); k++) {
		const json_t *f = json_object_get(json_array_get(list, k), "function");

		buf_printf(&calls, "%s%s %s", k ? "\n" : "", member(f, "name"),
		           member(f, "arguments"));
	}
	expect_text(name, "content", recoveries[i][1], member(result, "content"));
	expect_text(name, "reasoning", recoveries[i][2], member(result, "reasoning_content"));
	expect_text(name, "calls", recoveries[i][3], buf_cstr(&calls));
	buf_clear(&calls);
	n_recovered++;
}

static void one_official_case(const char *line, size_t n, const json_t *o)
{
	struct tokenizer *const both[] = {real, nano};
	const char *name = member(o, "name");
	const json_t *want = json_object_get(o, "result");

	for (size_t v = 0; v < 2; v++) {
		struct buf out = BUF_CAP(1 << 20), a = BUF_CAP(1 << 20), b = BUF_CAP(1 << 20);
		struct err err = {0};
		json_t *have;

		if (chat_parse_json(both[v], line, n, &out, &err) != OK)
			fail_msg("%s: %s", name, err.msg);
		have = parse(buf_cstr(&out));
		if (want) { /* as text, so that the order of members counts */
			json_write_python(&a, want);
			json_write_python(&b, json_object_get(have, "result"));
			expect_text(name, "result", buf_cstr(&a), buf_cstr(&b));
		} else {
			expect_recovery(name, json_object_get(have, "result"));
		}
		json_decref(have);
		buf_clear(&out);
		buf_clear(&a);
		buf_clear(&b);
	}
}

static void every_official_case_is_parsed_or_recovered(void **state)
{
	(void)state;
	assert_int_equal(each_line(DATA "parse_cases.jsonl", one_official_case), 28);
	assert_int_equal(n_recovered, 2 * 14);
}

/* --- more --- */

static void expect_same(const struct check *a, const struct check *b, const char *text)
{
	expect_text(text, "reasoning", buf_cstr(&a->answer.reasoning),
	            buf_cstr(&b->answer.reasoning));
	expect_text(text, "content", buf_cstr(&a->answer.content), buf_cstr(&b->answer.content));
	assert_int_equal(a->answer.n_calls, b->answer.n_calls);
	for (size_t i = 0; i < a->answer.n_calls; i++) {
		expect_text(text, "name", buf_cstr(&a->answer.calls[i].name),
		            buf_cstr(&b->answer.calls[i].name));
		expect_text(text, "arguments", buf_cstr(&a->answer.calls[i].arguments),
		            buf_cstr(&b->answer.calls[i].arguments));
	}
	assert_int_equal(a->answer.finish, b->answer.finish);
}

/* Texts made of random pieces of the grammar: however they are cut, the answer is the same, and a finished
 * call's arguments are one JSON object. */
static void cutting_the_tokens_elsewhere_changes_nothing(void **state)
{
	static const char *const pieces[] = {
		"\n",
		" ",
		"<",
		"</",
		D,
		"tool_calls>",
		"invoke name=\"bash\">",
		"invoke",
		"parameter",
		">",
		"/>",
		"\"",
		"parameter name=\"command\" string=\"true\">",
		"parameter name=\"timeout\" string=\"false\">",
		"parameter name=\"env\">",
		"name=\"x\"",
		"text",
		"</think>",
		"<think>",
		"é",
		"\xE6\x97",
		"5",
		"{}",
		"<" D "tool_calls>\n",
		"<" D "invoke name=\"bash\">\n",
		"</" D "invoke>",
		"</" D "parameter>",
		"<" D "parameter name=\"env\">",
		CLOSE,
		EOS,
		"<｜User｜>",
	};
	json_t *tools = parse(tools_text);
	struct rng rng;

	(void)state;
	rng = rng_seed(1);
	for (int round = 0; round < 3000; round++) {
		struct buf text = BUF_CAP(1 << 16);
		enum thinking thinking = rng_u64(&rng) % 2 ? ON : OFF;
		enum setting setting = (enum setting)(rng_u64(&rng) % 3);
		enum finish finish = rng_u64(&rng) % 2 ? FINISH_LENGTH : FINISH_STOP;
		struct check first, other;

		for (size_t n = rng_u64(&rng) % 40; n; n--)
			buf_str(&text, pieces[rng_u64(&rng) % (sizeof pieces / sizeof pieces[0])]);
		run(&first, buf_cstr(&text), text.len, thinking, setting, tools, finish, 2);
		for (size_t i = 0; i < first.answer.n_calls; i++) {
			const struct answer_call *call = &first.answer.calls[i];
			json_t *v =
				json_parse(buf_cstr(&call->arguments), call->arguments.len, NULL);

			if (call->complete && !json_is_object(v))
				fail_msg("%s: call %zu: expected an object, found %s", text.data, i,
				         buf_cstr(&call->arguments));
			json_decref(v);
		}
		for (int way = 3; way < 7; way++) {
			run(&other, buf_cstr(&text), text.len, thinking, setting, tools, finish,
			    way);
			expect_same(&first, &other, buf_cstr(&text));
			check_clear(&other);
		}
		check_clear(&first);
		buf_clear(&text);
	}
	json_decref(tools);
}

static size_t n_seen;

static void count_bytes(void *ctx, const struct piece *p)
{
	(void)ctx;
	n_seen += p->kind == PIECE_FINISH || p->kind == PIECE_TOOL_END ? 0 : p->n;
}

static void text_is_not_held_back_longer_than_needed(void **state)
{
	struct decode_options o = {.tools_active = true, .take = count_bytes};
	struct decode *d = decode_new(NULL, &o);
	static const struct {
		enum mark mark;
		const char *text;
		size_t seen; /* bytes delivered after this token, since the first */
	} steps[] = {
		{MARK_TEXT, "Hello", 5},
		{MARK_TEXT, " ", 5},
		{MARK_TEXT, "you", 9},
		{MARK_TEXT, "\n\n<", 9},
		{MARK_TEXT, "b>", 14},
		{MARK_TEXT, "\xE6\x97", 14},
		{MARK_TEXT, "\xA5", 17},
		{MARK_TEXT, "\n\n<", 17},
		{MARK_DSML, D, 17},
		{MARK_TEXT, "tool_calls>\n<", 17},
		{MARK_DSML, D, 17},
		{MARK_TEXT, "invoke name=\"f\"", 17},
		{MARK_TEXT, ">\n<", 19}, /* f { */
		{MARK_DSML, D, 19},
		{MARK_TEXT, "parameter name=\"k\" string=\"true\">", 25}, /* "k": " */
		{MARK_TEXT, "value", 30},
		{MARK_TEXT, "</", 30},
		{MARK_TEXT, "a>", 34},
		{MARK_TEXT, "</", 34},
		{MARK_DSML, D, 34},
		{MARK_TEXT, "parameter", 34},
		{MARK_TEXT, ">\n", 35}, /* " */
	};

	(void)state;
	assert_non_null(d);
	n_seen = 0;
	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
		assert_true(decode_feed(d, steps[i].mark, steps[i].text, strlen(steps[i].text)));
		if (n_seen != steps[i].seen)
			fail_msg("after \"%s\" (step %zu): expected %zu bytes, found %zu",
			         steps[i].text, i, steps[i].seen, n_seen);
	}
	decode_free(d);
}

static void tags_are_told_from_values_for_the_sampler(void **state)
{
	struct decode_options o = {.tools_active = true, .take = count_bytes};
	struct decode *d = decode_new(NULL, &o);

	(void)state;
	decode_feed(d, MARK_TEXT, "text\n\n<", 7);
	assert_false(decode_in_structure(d));
	decode_feed(d, MARK_DSML, D, strlen(D));
	assert_true(decode_in_structure(d));
	feed_text(d, "tool_calls>\n" CALL("f"), strlen("tool_calls>\n" CALL("f")), 100, NULL);
	assert_true(decode_in_structure(d));
	feed_text(d, "<" D "parameter name=\"a\" string=\"true\">v",
	          strlen("<" D "parameter name=\"a\" string=\"true\">v"), 100, NULL);
	assert_false(decode_in_structure(d));
	feed_text(d, "</" D, strlen("</" D), 100, NULL);
	assert_true(decode_in_structure(d));
	feed_text(d, "parameter>\n" END_CALL CLOSE, strlen("parameter>\n" END_CALL CLOSE), 100,
	          NULL);
	assert_false(decode_in_structure(d));
	decode_free(d);
}

static void nothing_comes_after_the_end(void **state)
{
	struct check c = {.last = -1, .arguments = BUF_CAP(1)};
	struct decode_options o = {.take = check_take, .ctx = &c};
	struct decode *d = decode_new(NULL, &o);

	(void)state;
	answer_init(&c.answer);
	assert_true(decode_feed(d, MARK_TEXT, "a", 1));
	decode_finish(d, FINISH_STOP);
	assert_false(decode_feed(d, MARK_TEXT, "b", 1));
	assert_false(decode_feed(d, MARK_EOS, "", 0));
	decode_finish(d, FINISH_LENGTH);
	assert_int_equal(c.answer.finish, FINISH_STOP);
	assert_string_equal(buf_cstr(&c.answer.content), "a");
	decode_free(d);
	check_clear(&c);
}

static void text_behind_complete_calls_ends_the_answer(void **state)
{
	struct decode_options o = {.tools_active = true, .take = count_bytes};
	struct decode *d = decode_new(NULL, &o);

	(void)state;
	feed_text(d, OPEN LS, strlen(OPEN LS), 100, NULL);
	assert_true(decode_feed(d, MARK_TEXT, "\n ", 2));
	assert_false(decode_feed(d, MARK_TEXT, "so", 2));
	decode_free(d);
}

static void long_values_and_tags_are_no_problem(void **state)
{
	struct buf text = BUF_CAP(1 << 24);
	struct check c;

	(void)state;
	buf_str(&text, "\n\n" OPEN CALL("f") "<" D "parameter name=\"a\" string=\"true\">");
	for (int i = 0; i < 100000; i++)
		buf_str(&text, "0123456\n</");
	buf_str(&text, "</" D "parameter>\n<" D "parameter name=\"");
	for (int i = 0; i < 5000; i++)
		buf_byte(&text, 'n'); /* longer than any tag may be: dropped */
	buf_str(&text, "\" string=\"true\">x</" D "parameter>\n" END_CALL CLOSE);
	run(&c, text.data, text.len, OFF, ANY_TOOL, NULL, FINISH_LENGTH, 3);
	assert_int_equal(c.answer.finish, FINISH_TOOL_CALLS);
	assert_int_equal(c.answer.calls[0].arguments.len,
	                 strlen("{\"a\": \"") + 100000 * 11 + strlen("\"}"));
	check_clear(&c);
	buf_clear(&text);
}

static void an_answer_renders_back_to_the_text_it_came_from(void **state)
{
	static const char text[] = "r</think>Hi.\n\n" OPEN LS CALL("noargs") "\n" END_CALL CLOSE;
	struct conversation *c = conversation_new();
	struct check check;
	struct buf prompt = BUF_CAP(1 << 16);

	(void)state;
	run(&check, text, strlen(text), ON, ANY_TOOL, NULL, FINISH_LENGTH, 0);
	assert_non_null(answer_add(&check.answer, c));
	assert_true(conversation_ok(c));
	assert_int_equal(chat_render_text(c,
	                                  &(struct render_options){.thinking = ON, .no_bos = true},
	                                  real, &prompt, NULL),
	                 OK);
	expect_text("answer", "prompt",
	            "r</think>Hi.\n\n" OPEN LS CALL("noargs") "\n" END_CALL CLOSE EOS,
	            buf_cstr(&prompt));
	conversation_free(c);
	buf_clear(&prompt);
	check_clear(&check);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_official_case_is_parsed_or_recovered),
		cmocka_unit_test(well_formed_answers_are_taken_apart),
		cmocka_unit_test(malformed_answers_are_recovered_as_the_table_says),
		cmocka_unit_test(cutting_the_tokens_elsewhere_changes_nothing),
		cmocka_unit_test(text_is_not_held_back_longer_than_needed),
		cmocka_unit_test(tags_are_told_from_values_for_the_sampler),
		cmocka_unit_test(nothing_comes_after_the_end),
		cmocka_unit_test(text_behind_complete_calls_ends_the_answer),
		cmocka_unit_test(long_values_and_tags_are_no_problem),
		cmocka_unit_test(an_answer_renders_back_to_the_text_it_came_from),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
