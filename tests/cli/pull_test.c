/* pull_test.c - the command itself: killed, interrupted, started twice, out of space; its exit codes and its link.
 *
 * Runs ./ds4 (or $DS4) against the server of support/hub_server.h; nothing leaves the loopback interface. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "hub/hub.h"
#include "support/hub_server.h"

extern char **environ;

#define Q2 "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
#define MTP "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"

static struct hub_server server;
static char dir[64], said[8192];
static const char *program;

static const char *in(const char *name)
{
	static char path[4][256];
	static int turn;

	turn = (turn + 1) % 4;
	snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
	return path[turn];
}

static bool exists(const char *name)
{
	struct stat sb;

	return lstat(in(name), &sb) == 0;
}

static void clean(void)
{
	static const char *const names[] = {Q2, Q2 ".part", Q2 ".part.json", MTP, MTP ".part", MTP ".part.json", "ds4flash.gguf",
					    "x.bin", "said", "said2"};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		unlink(in(names[i]));
	unsetenv("HF_TOKEN");
	unsetenv("HF_ENDPOINT");
}

static int set_up(void **state)
{
	(void)state;
	program = getenv("DS4") ? getenv("DS4") : "./ds4";
	snprintf(dir, sizeof dir, "/tmp/ds4-pull-test-XXXXXX");
	setenv("no_proxy", "*", 1);
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	clean();
	return rmdir(dir);
}

static int before(void **state)
{
	(void)state;
	if (access(program, X_OK) < 0)
		return -1;
	clean();
	setenv("HF_HOME", dir, 1);	/* nobody's token */
	hub_server_init(&server);
	return 0;
}

static int after(void **state)
{
	(void)state;
	hub_server_stop(&server);
	return 0;
}

static void serve(void)
{
	if (!server.base[0] && !hub_server_start(&server))
		fail_msg("no socket on the loopback interface");
	setenv("HF_ENDPOINT", server.base, 1);
}

/* Starts `ds4 pull ARGUMENTS` with its standard error in the file `log`. */
static pid_t start(const char *log, const char *before_exec, const char *arguments)
{
	char line[1024], *argv[] = {(char *)(uintptr_t)"sh", (char *)(uintptr_t)"-c", line, NULL};
	pid_t pid;

	snprintf(line, sizeof line, "%s exec %s pull --dir %s --backoff 0.01 --retries 3 %s >%s 2>&1 </dev/null", before_exec,
		 program, dir, arguments, in(log));
	if (posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) != 0)
		fail_msg("cannot start sh");
	return pid;
}

/* Its exit code, or 1000 + the signal; what it said is in `said`. */
static int end(pid_t pid, const char *log)
{
	struct buf text = BUF_CAP(sizeof said - 1);
	struct err err;
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (file_read(&text, in(log), &err) != OK)
		fail_msg("%s", err.msg);
	snprintf(said, sizeof said, "%s", buf_cstr(&text));
	buf_clear(&text);
	if (strchr(said, '\033'))
		fail_msg("escapes in a file: %s", said);
	return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void expect(const char *arguments, int code, const char *part)
{
	int got;

	serve();
	got = end(start("said", "", arguments), "said");
	if (got != code || !strstr(said, part))
		fail_msg("pull %s: expected exit code %d and '%s', found %d and: %s", arguments, code, part, got, said);
}

static void is_whole(const char *name)
{
	struct file_map m;
	struct err err;

	if (file_map(&m, in(name), &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(m.bytes, HUB_FILE_BYTES);
	for (size_t i = 0; i < m.bytes; i++)
		if (m.data[i] != hub_file_byte(i))
			fail_msg("byte %zu: expected %d, found %d", i, hub_file_byte(i), m.data[i]);
	file_unmap(&m);
}

static void pause_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* Until the server has sent this much. */
static void wait_for_bytes(uint64_t n)
{
	double give_up = clock_seconds() + 60;

	while (hub_server_count(&server).body_bytes < n) {
		if (clock_seconds() > give_up)
			fail_msg("the server sent %llu bytes, expected %llu",
				 (unsigned long long)hub_server_count(&server).body_bytes, (unsigned long long)n);
		pause_ms(10);
	}
}

/* ------------------------------------------------------------------ */

static void the_model_arrives_and_is_linked(void **state)
{
	char target[256] = "";

	(void)state;
	expect("", 0, "SHA-256 checked");	/* q2 is what no word means */
	is_whole(Q2);
	assert_true(readlink(in("ds4flash.gguf"), target, sizeof target - 1) > 0);
	assert_string_equal(target, Q2);
	assert_false(exists(Q2 ".part") || exists(Q2 ".part.json"));
	expect("q2", 0, "nothing to do, it is there (SHA-256 checked)");
}

static void the_drafter_is_not_linked_as_the_model(void **state)
{
	(void)state;
	expect("mtp", 0, MTP);
	is_whole(MTP);
	assert_false(exists("ds4flash.gguf"));
	expect("q2 --no-link", 0, Q2);
	assert_false(exists("ds4flash.gguf"));
}

static void a_link_is_replaced_and_a_file_is_not(void **state)
{
	struct buf text = BUF_CAP(100);
	char target[256] = "";
	struct err err;

	(void)state;
	assert_int_equal(symlink("old.gguf", in("ds4flash.gguf")), 0);
	expect("q2", 0, "ds4flash.gguf -> " Q2);
	assert_true(readlink(in("ds4flash.gguf"), target, sizeof target - 1) > 0);
	assert_string_equal(target, Q2);
	unlink(in("ds4flash.gguf"));
	assert_int_equal(file_write(in("ds4flash.gguf"), "mine", 4, &err), OK);
	expect("q2", 0, "ds4flash.gguf is a file, not a link, and stays as it is");
	assert_int_equal(file_read(&text, in("ds4flash.gguf"), &err), OK);
	assert_string_equal(buf_cstr(&text), "mine");
	buf_clear(&text);
}

static void an_address_is_fetched_as_well(void **state)
{
	char arguments[200];

	(void)state;
	serve();
	snprintf(arguments, sizeof arguments, "%s/a/b/blob/main/x.bin", server.base);
	expect(arguments, 0, "x.bin");
	is_whole("x.bin");
	assert_false(exists("ds4flash.gguf"));
}

static void a_killed_run_goes_on_where_it_was(void **state)
{
	uint64_t first;
	pid_t pid;

	(void)state;
	server.bytes_per_s = 250 << 10;
	serve();
	pid = start("said", "", "q2 -j 4");	/* 1 MB/s: three seconds */
	wait_for_bytes(HUB_FILE_BYTES * 7 / 10);
	kill(pid, SIGKILL);
	assert_int_equal(end(pid, "said"), 1000 + SIGKILL);
	first = hub_server_count(&server).body_bytes;
	assert_false(exists(Q2));
	assert_true(exists(Q2 ".part") && exists(Q2 ".part.json"));
	if (!strstr(said, "downloading "))
		fail_msg("no line of progress in: %s", said);
	hub_server_stop(&server);
	server.bytes_per_s = 0;
	expect("q2 -j 4", 0, "SHA-256 checked");
	is_whole(Q2);
	/* Lost: what came after the last note, 1 s of 1 MB/s, and what the sockets held. */
	first += hub_server_count(&server).body_bytes;
	if (first > HUB_FILE_BYTES + 3 * (512 << 10))
		fail_msg("of %d bytes, %llu were sent in two runs", HUB_FILE_BYTES, (unsigned long long)first);
}

static void ctrl_c_ends_with_130_and_says_how_to_go_on(void **state)
{
	uint64_t first;
	double asked;
	pid_t pid;

	(void)state;
	server.bytes_per_s = 250 << 10;
	serve();
	pid = start("said", "", "q2");
	wait_for_bytes(HUB_FILE_BYTES / 2);
	asked = clock_seconds();
	kill(pid, SIGINT);
	assert_int_equal(end(pid, "said"), 130);
	if (clock_seconds() - asked > 5)
		fail_msg("it took %.1f s to stop", clock_seconds() - asked);
	assert_non_null(strstr(said, "stopped; the same command continues from here"));
	assert_false(exists(Q2));
	first = hub_server_count(&server).body_bytes;
	hub_server_stop(&server);
	server.bytes_per_s = 0;
	expect("q2", 0, "SHA-256 checked");
	is_whole(Q2);
	first += hub_server_count(&server).body_bytes;
	if (first > HUB_FILE_BYTES + (256 << 10))	/* what the sockets held */
		fail_msg("of %d bytes, %llu were sent in two runs", HUB_FILE_BYTES, (unsigned long long)first);
}

static void of_two_runs_the_second_says_so(void **state)
{
	pid_t first, second;

	(void)state;
	server.bytes_per_s = 150 << 10;
	serve();
	first = start("said", "", "q2");
	wait_for_bytes(HUB_FILE_BYTES / 10);
	second = start("said2", "", "q2");
	assert_int_equal(end(second, "said2"), 8);
	assert_non_null(strstr(said, ".part: another ds4 pull is downloading this file"));
	assert_int_equal(end(first, "said"), 0);
	is_whole(Q2);
}

static void a_full_disk_is_exit_code_8_and_can_go_on(void **state)
{
	int code;

	(void)state;
	serve();
	code = end(start("said", "ulimit -f 2048;", "q2 -j 1"), "said");	/* of 512 bytes */
	if (code != 8 || !strstr(said, ".part: File too large; the same command continues when that is mended"))
		fail_msg("expected exit code 8, found %d: %s", code, said);
	assert_false(exists(Q2));
	assert_true(exists(Q2 ".part"));
	expect("q2", 0, "SHA-256 checked");
	is_whole(Q2);
}

static void exit_codes_are_those_of_the_table(void **state)
{
	static const struct { int status, code; const char *part; } cases[] = {
		{401, 2, "401 Unauthorized"}, {404, 9, "404 Not Found"}, {429, 4, "429 Too Many Requests (tried 4 times)"},
		{500, 8, "500 Internal Server Error (tried 4 times)"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		server.origin_failure = (struct hub_failure){.status = cases[i].status, .times = -1};
		expect("q2", cases[i].code, cases[i].part);
		hub_server_stop(&server);
	}
	server.origin_failure.times = 0;
	server.wrong_byte = 70000;
	expect("q2", 3, "expected SHA-256 " HUB_FILE_SHA256);
	assert_false(exists(Q2));
	hub_server_stop(&server);
	server.wrong_byte = -1;
	server.linked_size = server.total = (int64_t)1 << 60;
	expect("q2", 4, "MiB more are needed on its disk");
	expect("q7", 2, "expected q2, q4, mtp or an https:// address, found 'q7'");
	expect("q2 --sha256 12", 2, "--sha256: expected 64 hexadecimal digits, found '12'");
	assert_false(exists(Q2 ".part"));
}

static void a_digest_of_ones_own_counts_as_much_as_the_hubs(void **state)
{
	(void)state;
	server.no_digest = true;
	expect("q2", 3, "the server names no SHA-256");
	expect("q2 --sha256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 3, "expected SHA-256 0123");
	expect("q2 --sha256 " HUB_FILE_SHA256, 0, Q2);
	hub_server_stop(&server);
	server.no_digest = false;
	expect("q2 --sha256 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 2, "the hub says " HUB_FILE_SHA256);
}

static void the_token_of_the_environment_goes_to_the_endpoint_alone(void **state)
{
	struct hub_counts n;

	(void)state;
	server.token = "hf_secret";
	server.storage_name = "localhost";
	expect("q2", 2, "a token is given with --token or $HF_TOKEN");
	setenv("HF_TOKEN", "hf_wrong", 1);
	expect("q2", 2, "the token in $HF_TOKEN gives no access");
	assert_null(strstr(said, "hf_wrong"));
	setenv("HF_TOKEN", "hf_secret", 1);
	expect("q2", 0, Q2);
	assert_null(strstr(said, "hf_secret"));
	n = hub_server_count(&server);
	assert_int_equal(n.origin_tokens, 2);
	assert_int_equal(n.storage_tokens, 0);
}

static void a_dry_run_only_asks(void **state)
{
	(void)state;
	expect("q2 --dry-run", 0, "sha256  " HUB_FILE_SHA256 "\nparts   yes\n");
	assert_non_null(strstr(said, "3146003 bytes"));
	assert_non_null(strstr(said, "enough"));
	assert_false(exists(Q2 ".part"));
	assert_int_equal(hub_server_count(&server).body_bytes, 1);
}

static void the_script_of_the_known_name_does_the_same(void **state)
{
	char line[512];

	(void)state;
	serve();
	snprintf(line, sizeof line, "./download_model.sh q2 --dir %s >%s 2>&1 </dev/null", dir, in("said"));
	assert_int_equal(system(line), 0);
	is_whole(Q2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, before, after)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_model_arrives_and_is_linked),
		TEST(the_drafter_is_not_linked_as_the_model),
		TEST(a_link_is_replaced_and_a_file_is_not),
		TEST(an_address_is_fetched_as_well),
		TEST(a_killed_run_goes_on_where_it_was),
		TEST(ctrl_c_ends_with_130_and_says_how_to_go_on),
		TEST(of_two_runs_the_second_says_so),
		TEST(a_full_disk_is_exit_code_8_and_can_go_on),
		TEST(exit_codes_are_those_of_the_table),
		TEST(a_digest_of_ones_own_counts_as_much_as_the_hubs),
		TEST(the_token_of_the_environment_goes_to_the_endpoint_alone),
		TEST(a_dry_run_only_asks),
		TEST(the_script_of_the_known_name_does_the_same),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
