/* args_test.c - command lines by table: what is filled, what is refused and in which words, what --help shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/args.h"

struct sampling {
	double temp;
	int64_t top_k;
};

struct options {
	struct sampling sampling;
	const char *model, *prompt;
	int64_t context, seed;
	bool json, verbose, think;
	int effort;
	struct arg_list stops, files;
};

static const char *const efforts[] = {"low", "high", "max", NULL};

static const struct arg_spec sampling_args[] = {
	ARG_GROUP("Sampling"),
	ARG_REAL("temp", 't', struct sampling, temp, 0, 5, "T", "how adventurous; 0 always takes the likeliest token"),
	ARG_INT("top-k", 0, struct sampling, top_k, 0, 1 << 20, "K", "only the K likeliest"),
	ARG_END
};

static const struct arg_spec run_args[] = {
	ARG_TEXT("model", 'm', struct options, model, "FILE", "the weights"),
	ARG_TEXT("prompt", 'p', struct options, prompt, "TEXT", "what to answer"),
	ARG_INT("context", 'c', struct options, context, 1, 1 << 20, "TOKENS", "how much is remembered"),
	ARG_FLAG("json", 'j', struct options, json, "one JSON object"),
	ARG_FLAG("verbose", 'v', struct options, verbose, "say more"),
	ARG_FLAG("think", 0, struct options, think, "reason first"),
	ARG_CHOICE("effort", 'e', struct options, effort, efforts, "how long it may reason"),
	ARG_LIST("stop", 0, struct options, stops, "TEXT", "end the answer before this"),
	ARG_INCLUDE(struct options, sampling, sampling_args),
	ARG_INT("seed", 0, struct options, seed, 0, INT64_MAX, "N", NULL),
	ARG_REST("FILE", struct options, files, 0, 2, "read first"),
	ARG_END
};

static const char *const examples[] = {"ds4 run -p 'Hello'", NULL};
static const struct arg_command run = {"run", "answer once", "Answers one prompt and exits.", run_args, examples};

static const struct options defaults = {
	.sampling = {0.6, 40}, .model = "nano", .context = 32768, .think = true, .effort = 1};

/* Parses the words up to NULL over the defaults. */
static enum status parse(struct options *o, bool *help, struct err *err, ...)
{
	char *argv[16];
	int argc = 0;
	va_list ap;

	va_start(ap, err);
	while ((argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	*o = defaults;
	err->msg[0] = '\0';
	return args_parse(&run, argc, argv, o, help, err);
}

static void options_without_words_keep_their_defaults(void **state)
{
	struct options o;
	struct err err;
	bool help;

	(void)state;
	assert_int_equal(parse(&o, &help, &err, NULL), OK);
	assert_false(help);
	assert_memory_equal(&o, &defaults, sizeof o);
}

static void every_spelling_of_a_value_is_read(void **state)
{
	struct options o;
	struct err err;
	bool help;

	(void)state;
	assert_int_equal(parse(&o, &help, &err, "--model", "a", "--context=64k", "-t0.25", "--top-k", "7", NULL), OK);
	assert_string_equal(o.model, "a");
	assert_int_equal(o.context, 65536);
	assert_true(o.sampling.temp == 0.25);
	assert_int_equal(o.sampling.top_k, 7);
	assert_int_equal(parse(&o, &help, &err, "-m", "b", "-c1M", "--model=c=d", "-e", "max", NULL), OK);
	assert_string_equal(o.model, "c=d");
	assert_int_equal(o.context, 1 << 20);
	assert_int_equal(o.effort, 2);
	assert_int_equal(parse(&o, &help, &err, "--model=", NULL), OK);
	assert_string_equal(o.model, "");
}

static void flags_cluster_and_can_be_taken_back(void **state)
{
	struct options o;
	struct err err;
	bool help;

	(void)state;
	assert_int_equal(parse(&o, &help, &err, "-jvphello", "--no-think", NULL), OK);
	assert_true(o.json && o.verbose && !o.think);
	assert_string_equal(o.prompt, "hello");
	assert_int_equal(parse(&o, &help, &err, "--json", "--no-json", NULL), OK);
	assert_false(o.json);
}

static void a_value_may_look_like_an_option(void **state)
{
	struct options o;
	struct err err;
	bool help;

	(void)state;
	assert_int_equal(parse(&o, &help, &err, "-p", "--json", "--model", "-", NULL), OK);
	assert_string_equal(o.prompt, "--json");
	assert_string_equal(o.model, "-");
	assert_false(o.json);
}

static void words_are_collected_in_order(void **state)
{
	struct options o;
	struct err err;
	bool help;

	(void)state;
	assert_int_equal(parse(&o, &help, &err, "a", "--stop", "x", "--stop=y", "--", "--json", NULL), OK);
	assert_int_equal(o.files.n, 2);
	assert_string_equal(o.files.item[0], "a");
	assert_string_equal(o.files.item[1], "--json");
	assert_int_equal(o.stops.n, 2);
	assert_string_equal(o.stops.item[0], "x");
	assert_string_equal(o.stops.item[1], "y");
	assert_int_equal(parse(&o, &help, &err, "-", NULL), OK);
	assert_string_equal(o.files.item[0], "-");
}

/* The words are refused with exactly this sentence. */
static void refused(const char *sentence, const char *a, const char *b)
{
	struct options o;
	struct err err;
	bool help;

	assert_int_equal(parse(&o, &help, &err, a, b, NULL), ERR_ARGUMENT);
	assert_int_equal(err.code, ERR_ARGUMENT);
	assert_string_equal(err.msg, sentence);
}

static void a_value_out_of_range_names_the_option_the_range_and_the_value(void **state)
{
	(void)state;
	refused("--context: expected a whole number from 1 to 1048576, found '0'", "--context", "0");
	refused("-c: expected a whole number from 1 to 1048576, found '2m'", "-c2m", NULL);
	refused("-c: expected a whole number from 1 to 1048576, found '12x'", "-c", "12x");
	refused("-c: expected a whole number from 1 to 1048576, found ''", "-c", "");
	refused("-c: expected a whole number from 1 to 1048576, found '99999999999999999999'", "-c",
		"99999999999999999999");
	refused("-c: expected a whole number from 1 to 1048576, found '9999999999999g'", "-c", "9999999999999g");
	refused("--seed: expected a whole number of at least 0, found '-1'", "--seed", "-1");
	refused("-t: expected a number from 0 to 5, found '5.1'", "-t", "5.1");
	refused("-t: expected a number from 0 to 5, found 'nan'", "-t", "nan");
	refused("-t: expected a number from 0 to 5, found 'inf'", "-tinf", NULL);
	refused("--temp: expected a number from 0 to 5, found '1,5'", "--temp=1,5", NULL);
	refused("--effort: expected one of low, high, max, found 'hi'", "--effort", "hi");
	refused("--json: expected no value, found 'yes'", "--json=yes", NULL);
}

static void a_missing_value_says_what_was_expected(void **state)
{
	(void)state;
	refused("--context: expected a whole number, found the end of the command line", "--context", NULL);
	refused("-p: expected TEXT, found the end of the command line", "-jp", NULL);
}

static void an_unknown_option_gets_a_suggestion_when_one_is_near(void **state)
{
	(void)state;
	refused("unknown option '--tmep'; did you mean --temp?", "--tmep", "1");
	refused("unknown option '--contxt=5'; did you mean --context?", "--contxt=5", NULL);
	refused("unknown option '--verb'; did you mean --verbose?", "--verb", NULL);
	refused("unknown option '-temp'; did you mean --temp?", "-temp", "1");
	refused("unknown option '--no-effort'; --help lists the options of 'run'", "--no-effort", NULL);
	refused("unknown option '--frobnicate'; --help lists the options of 'run'", "--frobnicate", NULL);
	refused("unknown option '-z'; --help lists the options of 'run'", "-z", NULL);
}

static void too_many_words_are_refused(void **state)
{
	struct options o;
	struct err err;
	bool help;

	(void)state;
	assert_int_equal(parse(&o, &help, &err, "a", "b", "c", NULL), ERR_ARGUMENT);
	assert_string_equal(err.msg, "FILE: expected at most 2, found one more: 'c'");
}

static void a_command_says_which_word_it_misses(void **state)
{
	static const struct arg_spec spec[] = {ARG_REST("FILE", struct options, files, 1, 1, "the GGUF file"), ARG_END};
	static const struct arg_command inspect = {"inspect", "look into a file", NULL, spec, NULL};
	static const struct arg_spec none[] = {ARG_END};
	static const struct arg_command version = {"version", "which one", NULL, none, NULL};
	struct options o = {0};
	struct err err = {0};
	char *word[] = {"x"};
	bool help;

	(void)state;
	assert_int_equal(args_parse(&inspect, 0, word, &o, &help, &err), ERR_ARGUMENT);
	assert_string_equal(err.msg, "'inspect' needs FILE: the GGUF file");
	assert_int_equal(args_parse(&version, 1, word, &o, &help, &err), ERR_ARGUMENT);
	assert_string_equal(err.msg, "unexpected argument 'x': 'version' takes options only");
}

static void help_wins_over_what_follows(void **state)
{
	struct options o;
	struct err err;
	bool help;

	(void)state;
	assert_int_equal(parse(&o, &help, &err, "--json", "--help", "--frobnicate", NULL), OK);
	assert_true(help);
	assert_int_equal(parse(&o, &help, &err, "-jh", NULL), OK);
	assert_true(help);
}

static void too_many_values_of_a_list_are_refused(void **state)
{
	char *argv[2 * ARG_LIST_MAX + 2];
	struct options o = defaults;
	struct err err = {0};
	bool help;

	(void)state;
	for (int i = 0; i < 2 * ARG_LIST_MAX + 2; i += 2) {
		argv[i] = "--stop";
		argv[i + 1] = "x";
	}
	assert_int_equal(args_parse(&run, 2 * ARG_LIST_MAX, argv, &o, &help, &err), OK);
	assert_int_equal(o.stops.n, ARG_LIST_MAX);
	o = defaults;
	assert_int_equal(args_parse(&run, 2 * ARG_LIST_MAX + 2, argv, &o, &help, &err), ERR_ARGUMENT);
}

static void help_shows_usage_groups_defaults_and_examples(void **state)
{
	struct buf b = BUF_CAP(1 << 16);

	(void)state;
	args_help(&b, "ds4", &run, &defaults, 80);
	assert_string_equal(buf_cstr(&b),
		"Usage: ds4 run [options] [FILE]...\n"
		"\n"
		"Answers one prompt and exits.\n"
		"\n"
		"  FILE                      read first\n"
		"\n"
		"Options:\n"
		"  -m, --model FILE          the weights (default nano)\n"
		"  -p, --prompt TEXT         what to answer\n"
		"  -c, --context TOKENS      how much is remembered (default 32768)\n"
		"  -j, --json                one JSON object\n"
		"  -v, --verbose             say more\n"
		"      --think               reason first (default; --no-think switches it off)\n"
		"  -e, --effort low|high|max\n"
		"                            how long it may reason (default high)\n"
		"      --stop TEXT           end the answer before this\n"
		"  -h, --help                this text\n"
		"\n"
		"Sampling:\n"
		"  -t, --temp T              how adventurous; 0 always takes the likeliest token\n"
		"                            (default 0.6)\n"
		"      --top-k K             only the K likeliest (default 40)\n"
		"\n"
		"Examples:\n"
		"  ds4 run -p 'Hello'\n");
	buf_clear(&b);
}

static void no_line_of_help_is_wider_than_the_terminal(void **state)
{
	(void)state;
	for (int width = 50; width <= 100; width++) {
		struct buf b = BUF_CAP(1 << 16);

		args_help(&b, "ds4", &run, &defaults, width);
		for (const char *p = buf_cstr(&b); *p; p += strcspn(p, "\n") + 1)
			if ((int)strcspn(p, "\n") > width)
				fail_msg("width %d: line of %zu columns: %.*s", width, strcspn(p, "\n"),
					 (int)strcspn(p, "\n"), p);
		buf_clear(&b);
	}
}

static void commands_are_found_listed_and_suggested(void **state)
{
	static const struct arg_command inspect = {"inspect", "look into a model file", NULL, run_args, NULL};
	static const struct arg_command *const all[] = {&run, &inspect, NULL};
	struct buf b = BUF_CAP(1 << 16);
	struct err err = {0};

	(void)state;
	assert_ptr_equal(args_command(all, "inspect", &err), &inspect);
	assert_null(args_command(all, "inspct", &err));
	assert_string_equal(err.msg, "unknown command 'inspct'; did you mean 'inspect'?");
	assert_null(args_command(all, "rnu", &err));
	assert_string_equal(err.msg, "unknown command 'rnu'; did you mean 'run'?");
	assert_null(args_command(all, "rxx", &err));
	assert_string_equal(err.msg, "unknown command 'rxx'; --help lists the commands");
	assert_null(args_command(all, "frobnicate", &err));
	assert_string_equal(err.msg, "unknown command 'frobnicate'; --help lists the commands");
	args_overview(&b, "ds4", all, 80);
	assert_string_equal(buf_cstr(&b), "Usage: ds4 [COMMAND] [options]\n\nCommands:\n"
					  "  run         answer once\n"
					  "  inspect     look into a model file\n"
					  "\n`ds4 COMMAND --help` shows the options of a command.\n");
	buf_clear(&b);
}

static void whole_numbers_are_read_exactly_or_not_at_all(void **state)
{
	static const struct {
		const char *text;
		int64_t value;
	} good[] = {{"0", 0}, {"-5", -5}, {"+7", 7}, {"32k", 32768}, {"3G", 3221225472}, {"-1m", -1048576},
		    {"9223372036854775807", INT64_MAX}, {"-9223372036854775808", INT64_MIN}};
	static const char *const bad[] = {"", " 1", "1 ", "k", "1kk", "0x10", "1.5", "1e3", "--1", "9223372036854775808"};
	struct err err;
	int64_t v;

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		assert_int_equal(args_int(&v, "x", good[i].text, INT64_MIN, INT64_MAX, &err), OK);
		assert_int_equal(v, good[i].value);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (args_int(&v, "x", bad[i], INT64_MIN, INT64_MAX, &err) == OK)
			fail_msg("'%s' was read as %lld", bad[i], (long long)v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_without_words_keep_their_defaults),
		cmocka_unit_test(every_spelling_of_a_value_is_read),
		cmocka_unit_test(flags_cluster_and_can_be_taken_back),
		cmocka_unit_test(a_value_may_look_like_an_option),
		cmocka_unit_test(words_are_collected_in_order),
		cmocka_unit_test(a_value_out_of_range_names_the_option_the_range_and_the_value),
		cmocka_unit_test(a_missing_value_says_what_was_expected),
		cmocka_unit_test(an_unknown_option_gets_a_suggestion_when_one_is_near),
		cmocka_unit_test(too_many_words_are_refused),
		cmocka_unit_test(a_command_says_which_word_it_misses),
		cmocka_unit_test(help_wins_over_what_follows),
		cmocka_unit_test(too_many_values_of_a_list_are_refused),
		cmocka_unit_test(help_shows_usage_groups_defaults_and_examples),
		cmocka_unit_test(no_line_of_help_is_wider_than_the_terminal),
		cmocka_unit_test(commands_are_found_listed_and_suggested),
		cmocka_unit_test(whole_numbers_are_read_exactly_or_not_at_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
