/* replay_file_test.c - remembered answers survive a restart, and no file whatsoever makes an answer wrong. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chat/replay_int.h"
#include "common.h"

static struct tokenizer *nano;
static char folder[64], path[128];
static int warnings;
static char last_warning[512];

static int setup(void **state)
{
	(void)state;
	nano = open_tokenizer(NANO);
	/* thousands of small files, each synced: in memory where there is such a place */
	snprintf(folder, sizeof folder, "/dev/shm/ds4-replay-XXXXXX");
	if (!mkdtemp(folder)) {
		snprintf(folder, sizeof folder, "/tmp/ds4-replay-XXXXXX");
		assert_non_null(mkdtemp(folder));
	}
	snprintf(path, sizeof path, "%s/answers", folder);
	return 0;
}

static int teardown(void **state)
{
	char command[160];

	(void)state;
	tokenizer_close(nano);
	snprintf(command, sizeof command, "chmod -R u+rwx '%s'; rm -rf '%s'", folder, folder);
	return system(command) != 0;
}

static int fresh(void **state)
{
	(void)state;
	unlink(path);
	warnings = 0;
	last_warning[0] = 0;
	return 0;
}

static void warn(void *ctx, const char *text)
{
	(void)ctx;
	warnings++;
	snprintf(last_warning, sizeof last_warning, "%s", text);
}

static struct replay *open_map(uint64_t max_bytes)
{
	struct replay_options o = {.tokenizer = nano, .path = path, .max_bytes = max_bytes, .warn = warn};
	struct replay *r = NULL;
	struct err err = {0};

	if (replay_open(&r, &o, &err) != OK)
		fail_msg("%s", err.msg);
	return r;
}

/* Turn number i: one question, one answer with a call, ids that tell the number. */
static void remember(struct replay *r, int i)
{
	char text[32], id[32], carrier[REPLAY_CARRIER_SIZE];
	const char *call_id[] = {id};
	int32_t ids[8] = {100, 101, 200 + i % 500, 200 + i / 500, 102, 103, 104, 105};
	struct conversation *c = conversation_new();
	struct piece p[2] = {{.kind = PIECE_TOOL_BEGIN, .text = "f", .n = 1}, {.kind = PIECE_TOOL_ARGUMENTS, .text = "{}", .n = 2}};
	struct err err = {0};
	struct answer a;

	replay_carrier(carrier);
	answer_init(&a);
	conversation_add(c, ROLE_USER, text, (size_t)snprintf(text, sizeof text, "question %d", i));
	buf_printf(&a.content, "answer %d", i);
	snprintf(id, sizeof id, "call_%d", i);
	answer_take(&a, &p[0]);
	answer_take(&a, &p[1]);
	if (replay_remember(r, c, &a, call_id, THINKING_OFF, ids, 4 + (size_t)i % 5, carrier, &err) != OK)
		fail_msg("%s", err.msg);
	answer_clear(&a);
	conversation_free(c);
}

/* Is turn i there?  If it is, it must be right.  Odd numbers are asked for by call id, even ones by place. */
static bool has(struct replay *r, int i)
{
	char text[32];
	struct conversation *c = conversation_new();
	struct message *m;
	struct tool_call call = {.name = {(char *)"f", 1}, .arguments = {(char *)"{}", 2}};
	bool there;

	conversation_add(c, ROLE_USER, text, (size_t)snprintf(text, sizeof text, i % 2 ? "elsewhere" : "question %d", i));
	m = conversation_add(c, ROLE_ASSISTANT, text, (size_t)snprintf(text, sizeof text, "answer %d", i));
	snprintf(text, sizeof text, "call_%d", i);
	call.id = (struct text){text, i % 2 ? strlen(text) : 0};
	conversation_add_call(c, m, &call);
	there = replay_apply(r, c) == 1;
	m = &c->messages[1];
	if (there && (m->exact.n != 4 + (size_t)i % 5 || m->exact.id[2] != 200 + i % 500 ||
		      m->exact.id[3] != 200 + i / 500))
		fail_msg("turn %d: expected its own %d ids, found %zu others", i, 4 + i % 5, m->exact.n);
	conversation_free(c);
	return there;
}

static int count(struct replay *r, int from, int to)
{
	int n = 0;

	for (int i = from; i < to; i++)
		n += has(r, i);
	return n;
}

static void expect_count(struct replay *r, int from, int to, int want)
{
	int found = count(r, from, to);

	if (found != want)
		fail_msg("turns %d to %d: expected %d, found %d; %d warnings, the last: %s", from, to - 1, want, found, warnings,
			 last_warning);
}

static void expect_warnings(int want, const char *part)
{
	if (warnings != want || !strstr(last_warning, part))
		fail_msg("expected %d warnings, the last with \"%s\"; found %d: %s", want, part, warnings, last_warning);
	warnings = 0;
}

static void write_turns(int from, int to)
{
	struct replay *r = open_map(0);

	for (int i = from; i < to; i++)
		remember(r, i);
	replay_close(r);
}

static size_t read_file(uint8_t **out)
{
	struct buf b = BUF_CAP(1 << 26);
	struct err err = {0};
	size_t n;

	if (file_read(&b, path, &err) != OK)
		fail_msg("%s", err.msg);
	n = b.len;
	*out = (uint8_t *)buf_take(&b);
	return n;
}

static void put_file(const void *p, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

/* ------------------------------------------------------------------ restart */

static void turns_survive_a_restart(void **state)
{
	struct replay *r;
	struct replay_stats s;

	(void)state;
	write_turns(0, 50);
	write_turns(50, 60);
	r = open_map(0);
	expect_count(r, 0, 61, 60);
	replay_stats(r, &s);
	assert_int_equal(s.turns, 60);
	assert_int_equal(s.hits, 60);
	assert_int_equal(s.misses, 1);
	replay_close(r);
	assert_int_equal(warnings, 0);
}

static void a_flush_reaches_the_file(void **state)
{
	struct replay *a = open_map(0), *b;

	(void)state;
	remember(a, 1);
	replay_flush(a);
	b = open_map(0);
	expect_count(b, 0, 5, 1);
	replay_close(b);
	replay_close(a);
}

/* ------------------------------------------------------------------ damage */

static void a_file_torn_at_any_byte_keeps_what_is_whole_and_can_be_continued(void **state)
{
	uint8_t *p;
	size_t n, at[5] = {0};
	struct replay *r;

	(void)state;
	for (int i = 0; i < 4; i++) {
		write_turns(i, i + 1);
		n = read_file(&p);
		at[i + 1] = n;
		mem_free(p);
	}
	n = read_file(&p);
	for (size_t cut = 0; cut <= n; cut++) {
		int whole = 0;

		put_file(p, cut);
		warnings = 0;
		while (whole < 4 && cut >= at[whole + 1])
			whole++;
		r = open_map(0);
		expect_count(r, 0, 4, whole);
		if (warnings != (cut > 32 && cut != at[whole] ? 1 : 0))
			fail_msg("cut at %zu: found %d warnings: %s", cut, warnings, last_warning);
		remember(r, 7);
		replay_close(r);
		warnings = 0;
		r = open_map(0);
		expect_count(r, 0, 8, whole + 1);
		replay_close(r);
		assert_int_equal(warnings, 0);
	}
	mem_free(p);
}

static void a_bit_flipped_anywhere_costs_one_turn_at_most(void **state)
{
	uint8_t *p;
	size_t n;

	(void)state;
	write_turns(0, 4);
	n = read_file(&p);
	for (size_t i = 0; i < n; i++) {
		struct replay *r;
		int there;

		p[i] ^= (uint8_t)(1 << i % 8);
		put_file(p, n);
		warnings = 0;
		r = open_map(0);
		there = count(r, 0, 4);
		if (there != (i < 32 ? 0 : 3) || warnings != 1)
			fail_msg("byte %zu: expected %d turns and a warning, found %d and %d", i, i < 32 ? 0 : 3, there, warnings);
		remember(r, 9);
		expect_count(r, 9, 10, 1);
		replay_close(r);
		if (i >= 32) {		/* what was damaged is gone, the rest is there */
			r = open_map(0);
			expect_count(r, 0, 10, 4);
			replay_close(r);
		}
		p[i] ^= (uint8_t)(1 << i % 8);
	}
	mem_free(p);
}

static void a_right_checksum_over_wrong_ids_is_no_turn(void **state)
{
	struct replay_turn *t = replay_turn_new(0, 2);
	struct buf b = BUF_CAP(1 << 16);
	uint8_t head[FILE_HEAD];
	struct replay *r;
	struct replay_stats s;

	(void)state;
	record_file_head(head, (uint32_t)tokenizer_size(nano), replay_vocabulary(nano));
	buf_add(&b, head, sizeof head);
	t->id[1] = tokenizer_size(nano);
	record_write(&b, t);
	put_file(b.data, b.len);
	r = open_map(0);
	replay_stats(r, &s);
	assert_int_equal(s.turns, 0);
	replay_close(r);
	expect_warnings(1, "damaged");
	mem_free(t);
	buf_clear(&b);
}

static void expect_left_alone(const void *content, size_t n, const char *why)
{
	struct replay *r;
	uint8_t *p;

	put_file(content, n);
	r = open_map(0);
	remember(r, 1);
	expect_count(r, 1, 2, 1);
	replay_close(r);
	expect_warnings(1, why);
	assert_int_equal(read_file(&p), n);
	assert_memory_equal(p, content, n);
	mem_free(p);
}

static void a_foreign_file_is_left_alone(void **state)
{
	static const char text[] = "Dear diary, nothing happened today, and that is how I like it.";
	struct tokenizer *real = open_tokenizer(REAL);
	uint8_t head[FILE_HEAD];

	(void)state;
	expect_left_alone(text, sizeof text, "is no file of remembered answers");
	expect_left_alone("x", 1, "is no file of remembered answers");
	record_file_head(head, (uint32_t)tokenizer_size(real), replay_vocabulary(real));
	expect_left_alone(head, sizeof head, "another vocabulary");
	record_file_head(head, (uint32_t)tokenizer_size(nano), replay_vocabulary(nano));
	head[8]++;
	expect_left_alone(head, sizeof head, "another version");
	tokenizer_close(real);
}

/* ------------------------------------------------------------------ places that refuse */

static void a_folder_that_is_not_there_means_memory_only(void **state)
{
	struct replay_options o = {.tokenizer = nano, .path = "/nonexistent/folder/file", .warn = warn};
	struct replay *r = NULL;

	(void)state;
	assert_int_equal(replay_open(&r, &o, NULL), OK);
	remember(r, 1);
	replay_flush(r);
	expect_count(r, 1, 2, 1);
	replay_close(r);
	expect_warnings(1, "/nonexistent/folder/file: cannot be opened");
	o.path = folder;
	assert_int_equal(replay_open(&r, &o, NULL), OK);
	remember(r, 1);
	replay_close(r);
	expect_warnings(1, "cannot be opened");
	o.path = "/dev/full";
	assert_int_equal(replay_open(&r, &o, NULL), OK);
	remember(r, 1);
	replay_close(r);
	expect_warnings(1, "is not a regular file");
}

/* Runs fn in a child without privileges; its exit status is the number of things that went wrong. */
static void in_child(int (*fn)(void))
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		if (geteuid() == 0 && setuid(65534) != 0)
			_exit(99);
		_exit(fn());
	}
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("the child failed: %s %d", WIFEXITED(status) ? "status" : "signal",
			 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static int use_read_only(void)
{
	struct replay *r = open_map(0);
	int wrong = 0;

	wrong += count(r, 0, 3) != 3;
	remember(r, 5);
	replay_flush(r);
	wrong += !has(r, 5);
	replay_close(r);
	wrong += warnings != 1 || !strstr(last_warning, "can only be read");
	r = open_map(0);
	wrong += count(r, 0, 6) != 3;
	replay_close(r);
	return wrong;
}

static void a_read_only_file_is_read(void **state)
{
	(void)state;
	write_turns(0, 3);
	assert_int_equal(chmod(path, 0444), 0);
	assert_int_equal(chmod(folder, 0555), 0);
	in_child(use_read_only);
	assert_int_equal(chmod(folder, 0755), 0);
}

static int use_full_disk(void)
{
	struct stat sb;
	struct rlimit limit = {0, 0};
	struct replay *r;
	int wrong = 0;

	if (stat(path, &sb) < 0)
		return 98;
	limit.rlim_cur = limit.rlim_max = (rlim_t)sb.st_size + 333;
	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
		return 97;
	r = open_map(0);
	for (int i = 3; i < 20; i++) {
		remember(r, i);
		replay_flush(r);
	}
	wrong += count(r, 0, 20) != 20;		/* all are in memory */
	wrong += warnings != 1 || !strstr(last_warning, "cannot be written");
	replay_close(r);
	warnings = 0;
	r = open_map(0);
	wrong += count(r, 0, 3) != 3 || count(r, 3, 20) < 1 || count(r, 3, 20) > 10;	/* what fitted is in the file */
	wrong += warnings != 0;			/* and nothing half */
	replay_close(r);
	return wrong;
}

static void a_full_disk_keeps_what_fitted(void **state)
{
	(void)state;
	write_turns(0, 3);
	chmod(path, 0666);
	in_child(use_full_disk);
}

/* ------------------------------------------------------------------ several at once */

static void two_maps_on_one_file_learn_from_each_other(void **state)
{
	struct replay *a = open_map(0), *b = open_map(0);

	(void)state;
	for (int i = 0; i < 40; i++) {
		remember(i % 2 ? a : b, i);
		if (i % 7 == 0)
			replay_flush(a);
	}
	replay_flush(a);
	replay_flush(b);
	remember(a, 40);
	replay_flush(a);	/* by then it has read what the other wrote */
	expect_count(a, 0, 41, 41);
	replay_close(a);
	replay_close(b);
	a = open_map(0);
	expect_count(a, 0, 41, 41);
	replay_close(a);
	assert_int_equal(warnings, 0);
}

static int write_many(int from)
{
	struct replay *r = open_map(16 << 10);	/* small: the file is written anew again and again */

	for (int i = from; i < from + 300; i++)
		remember(r, i);
	replay_close(r);
	return warnings;
}

static void processes_share_a_file_that_is_written_anew(void **state)
{
	pid_t pid[3];
	struct replay *r;
	struct stat sb;

	(void)state;
	for (int k = 0; k < 3; k++) {
		pid[k] = fork();
		if (pid[k] == 0)
			_exit(write_many(k * 1000));
	}
	for (int k = 0; k < 3; k++) {
		int status = 0;

		waitpid(pid[k], &status, 0);
		assert_int_equal(status, 0);
	}
	r = open_map(0);
	assert_true(count(r, 0, 3000) > 30);
	replay_close(r);
	assert_int_equal(warnings, 0);
	assert_int_equal(stat(path, &sb), 0);
	assert_true(sb.st_size <= 2 * (16 << 10));
}

static void the_file_is_bounded_and_keeps_the_newest(void **state)
{
	uint64_t max = 16 << 10;
	struct replay *r = open_map(max);
	struct stat sb;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		remember(r, i);
		if (i % 3 == 0)
			replay_flush(r);
		if (i >= 20)
			assert_true(has(r, 10));	/* in use all the time */
		if (stat(path, &sb) == 0 && (uint64_t)sb.st_size > 2 * max)
			fail_msg("expected at most %d bytes, found %d", (int)(2 * max), (int)sb.st_size);
	}
	replay_close(r);
	r = open_map(max);
	expect_count(r, 980, 1000, 20);
	replay_close(r);
	assert_int_equal(warnings, 0);
}

static void a_file_that_vanished_is_made_again(void **state)
{
	struct replay *r = open_map(0);

	(void)state;
	remember(r, 1);
	replay_flush(r);
	unlink(path);
	remember(r, 2);
	replay_close(r);
	r = open_map(0);
	expect_count(r, 0, 5, 1);
	replay_close(r);
	assert_int_equal(warnings, 0);
}

static void a_file_that_was_emptied_is_begun_again(void **state)
{
	struct replay *r = open_map(0);

	(void)state;
	remember(r, 1);
	replay_flush(r);
	assert_int_equal(truncate(path, 0), 0);
	remember(r, 2);
	replay_close(r);
	r = open_map(0);
	expect_count(r, 0, 5, 1);
	replay_close(r);
	assert_int_equal(warnings, 0);
}

static void a_killed_process_leaves_whole_turns(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		struct replay *r;
		int last = 0;
		pid_t pid = fork();

		if (pid == 0) {
			r = open_map(64 << 10);
			for (int i = 0;; i++)
				remember(r, i % 900);
		}
		usleep(3000 + 1700 * (unsigned)round);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		r = open_map(64 << 10);
		last = count(r, 0, 900);
		remember(r, 950);
		replay_close(r);
		r = open_map(64 << 10);
		assert_true(has(r, 950));
		assert_true(count(r, 0, 900) >= last - 1);
		replay_close(r);
	}
}

static void without_memory_the_file_stays_right(void **state)
{
	(void)state;
	write_turns(0, 6);
	for (long n = 1; n < 60; n++) {
		struct replay_options o = {.tokenizer = nano, .path = path, .warn = warn};
		struct replay *r = NULL;
		struct err err = {0};

		mem_fail_at(n);
		if (replay_open(&r, &o, &err) != OK)
			assert_int_equal(err.code, ERR_MEMORY);
		mem_fail_at(0);
		if (r)
			assert_true(count(r, 0, 6) >= 0);
		replay_close(r);
		r = open_map(0);
		expect_count(r, 0, 6, 6);
		replay_close(r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(turns_survive_a_restart, fresh),
		cmocka_unit_test_setup(a_flush_reaches_the_file, fresh),
		cmocka_unit_test_setup(a_file_torn_at_any_byte_keeps_what_is_whole_and_can_be_continued, fresh),
		cmocka_unit_test_setup(a_bit_flipped_anywhere_costs_one_turn_at_most, fresh),
		cmocka_unit_test_setup(a_right_checksum_over_wrong_ids_is_no_turn, fresh),
		cmocka_unit_test_setup(a_foreign_file_is_left_alone, fresh),
		cmocka_unit_test_setup(a_folder_that_is_not_there_means_memory_only, fresh),
		cmocka_unit_test_setup(a_read_only_file_is_read, fresh),
		cmocka_unit_test_setup(a_full_disk_keeps_what_fitted, fresh),
		cmocka_unit_test_setup(two_maps_on_one_file_learn_from_each_other, fresh),
		cmocka_unit_test_setup(processes_share_a_file_that_is_written_anew, fresh),
		cmocka_unit_test_setup(the_file_is_bounded_and_keeps_the_newest, fresh),
		cmocka_unit_test_setup(a_file_that_vanished_is_made_again, fresh),
		cmocka_unit_test_setup(a_file_that_was_emptied_is_begun_again, fresh),
		cmocka_unit_test_setup(a_killed_process_leaves_whole_turns, fresh),
		cmocka_unit_test_setup(without_memory_the_file_stays_right, fresh),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
