/* chatlog_test.c - what a conversation's file gives back is what was said, up to where it was cut. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "chat/chatlog_int.h"
#include "common.h"

static struct tokenizer *nano;
static char folder[64], path[128];

static int setup(void **state)
{
	(void)state;
	nano = open_tokenizer(NANO);
	snprintf(folder, sizeof folder, "/dev/shm/ds4-chatlog-XXXXXX");
	if (!mkdtemp(folder)) {
		snprintf(folder, sizeof folder, "/tmp/ds4-chatlog-XXXXXX");
		assert_non_null(mkdtemp(folder));
	}
	snprintf(path, sizeof path, "%s/conversation", folder);
	return 0;
}

static int teardown(void **state)
{
	char command[160];

	(void)state;
	tokenizer_close(nano);
	snprintf(command, sizeof command, "rm -rf '%s'", folder);
	return system(command) != 0;
}

static int fresh(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

static struct conversation *conversation_of(const char *messages)
{
	struct conversation *c = conversation_new();
	json_t *m = parse(messages);
	struct err err = {0};

	if (conversation_add_json(c, m, &err) != OK)
		fail_msg("%s", err.msg);
	json_decref(m);
	return c;
}

static struct token_list ids_of(const char *text)
{
	struct token_list ids = {0};

	token_encode_control(nano, text, strlen(text), &ids);
	return ids;
}

static struct chatlog *create(void)
{
	struct chatlog *l;
	struct err err = {0};

	if (chatlog_create(&l, path, nano, "a model", &err) != OK)
		fail_msg("%s", err.msg);
	return l;
}

static struct chatlog *reopen(struct conversation **c, struct chatlog_info *info)
{
	struct chatlog *l;
	struct err err = {0};

	if (chatlog_open(&l, path, nano, c, info, &err) != OK)
		fail_msg("%s", err.msg);
	return l;
}

static struct conversation *read_back(struct chatlog_info *info)
{
	struct conversation *c;
	struct err err = {0};

	if (chatlog_read(path, nano, &c, info, &err) != OK)
		fail_msg("%s", err.msg);
	return c;
}

/* Both conversations as text, ids included: equal, or `have` is a beginning of `want`. */
static void describe(struct buf *b, const struct message *m)
{
	chatlog_message(b, m);
	buf_printf(b, " %zu ids", m->exact.n);
	for (size_t i = 0; i < m->exact.n; i++)
		buf_printf(b, " %d", (int)m->exact.id[i]);
	buf_printf(b, " %d\n", m->exact.n ? (int)m->exact.thinking : 0);
}

static void expect_same(const struct conversation *want, const struct conversation *have, size_t n)
{
	assert_true(have->n >= n && want->n >= n);
	for (size_t i = 0; i < n; i++) {
		struct buf a = BUF_CAP(BUF_MAX), b = BUF_CAP(BUF_MAX);

		describe(&a, &want->messages[i]);
		describe(&b, &have->messages[i]);
		expect_text("message", "read back", buf_cstr(&a), buf_cstr(&b));
		buf_clear(&a);
		buf_clear(&b);
	}
}

/* Answers c with `content`, sampled as these tokens; false: the answer is not kept. */
static void answer(struct chatlog *l, struct conversation *c, const char *sampled, const char *reasoning,
		   const char *content, bool keep)
{
	struct token_list ids = ids_of(sampled);
	enum thinking thinking = *reasoning ? THINKING_ON : THINKING_OFF;
	struct message *m;

	chatlog_begin(l, c, thinking, NULL, 0);
	for (size_t i = 0; i < ids.n; i++)
		chatlog_token(l, ids.id[i]);
	if (keep) {
		m = conversation_add(c, ROLE_ASSISTANT, content, strlen(content));
		conversation_set_reasoning(c, m, reasoning, strlen(reasoning));
		conversation_set_exact(c, m, nano, thinking, ids.id, ids.n);
	}
	chatlog_save(l, c);
	token_list_clear(&ids);
}

static void ask(struct chatlog *l, struct conversation *c, const char *question)
{
	conversation_add(c, ROLE_USER, question, strlen(question));
	chatlog_save(l, c);
}

/* A conversation with everything a message can have. */
static struct conversation *everything(void)
{
	struct conversation *c = conversation_of(
		"[{\"role\":\"system\",\"content\":\"Be \\\"brief\\\".\",\"tools\":[{\"name\":\"f\",\"parameters\":{\"b\":1,\"a\":[1.5,null]}}]},"
		"{\"role\":\"user\",\"content\":\"  A question\\nof two lines \\u0000 \xC3\xA9\"},"
		"{\"role\":\"assistant\",\"content\":\"let me see\",\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"call_1\","
		"\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\": 1}\"}},{\"id\":\"call_2\",\"function\":{\"name\":\"f\","
		"\"arguments\":\"{\\\"cut off\"}}]},"
		"{\"role\":\"tool\",\"tool_call_id\":\"call_1\",\"content\":\"42\"},"
		"{\"role\":\"assistant\",\"content\":\"it is 42\"},"
		"{\"role\":\"latest_reminder\",\"content\":\"be nice\"},"
		"{\"role\":\"user\",\"content\":\"go\",\"task\":\"title\"}]");
	struct token_list ids = ids_of("hm</think>let me see<｜DSML｜x");

	conversation_set_exact(c, &c->messages[2], nano, THINKING_ON, ids.id, ids.n);
	token_list_clear(&ids);
	return c;
}

/* ------------------------------------------------------------------ whole files */

static void everything_comes_back(void **state)
{
	struct conversation *c = everything(), *back;
	struct chatlog *l = create();
	struct chatlog_info info;

	(void)state;
	chatlog_save(l, c);
	chatlog_set_name(l, "my talk");
	assert_null(chatlog_trouble(l));
	chatlog_close(l);
	back = read_back(&info);
	assert_int_equal(back->n, c->n);
	expect_same(c, back, c->n);
	assert_string_equal(info.name, "my talk");
	assert_string_equal(info.title, "A question");
	assert_string_equal(info.model, "a model");
	assert_int_equal(info.turns, 2);
	assert_int_equal(info.tokens, c->messages[2].exact.n);
	assert_false(info.damaged || info.cut_off || info.other_vocabulary);
	assert_int_equal(chatlog_peek(path, &info, NULL), OK);
	assert_string_equal(info.title, "A question");
	conversation_free(back);
	conversation_free(c);
}

static void turns_are_saved_as_they_come_and_taken_back(void **state)
{
	struct conversation *c = conversation_of("[{\"role\":\"system\",\"content\":\"S\"}]"), *back;
	struct chatlog *l = create();
	struct chatlog_info info;

	(void)state;
	ask(l, c, "one");
	answer(l, c, "first</think>answer<｜end▁of▁sentence｜>", "first", "answer", true);
	ask(l, c, "two");
	answer(l, c, "given up", "", "", false);
	conversation_cut(c, 3);
	ask(l, c, "three");
	answer(l, c, "third", "", "third", true);
	conversation_cut(c, 1);
	ask(l, c, "four");
	answer(l, c, "fourth", "", "fourth", true);
	back = read_back(&info);
	assert_int_equal(back->n, 3);
	expect_same(c, back, 3);
	assert_string_equal(info.title, "four");
	conversation_free(back);
	chatlog_close(l);
	l = reopen(&back, &info);	/* and goes on */
	ask(l, back, "five");
	chatlog_close(l);
	conversation_free(back);
	back = read_back(&info);
	assert_int_equal(back->n, 4);
	expect_same(c, back, 3);
	conversation_free(back);
	conversation_free(c);
}

static void an_answer_that_was_given_up_does_not_come_back(void **state)
{
	struct conversation *c = conversation_of("[{\"role\":\"user\",\"content\":\"q\"}]"), *back;
	struct token_list ids = ids_of("given up");
	struct chatlog *l = create();
	struct chatlog_info info;

	(void)state;
	chatlog_begin(l, c, THINKING_OFF, ids.id, ids.n);
	chatlog_save(l, c);
	chatlog_close(l);
	back = read_back(&info);
	assert_int_equal(back->n, 1);
	assert_false(info.cut_off);
	token_list_clear(&ids);
	conversation_free(back);
	conversation_free(c);
}

static void an_answer_that_goes_on_replaces_its_beginning(void **state)
{
	struct conversation *c = conversation_of("[{\"role\":\"user\",\"content\":\"q\"}]"), *back;
	struct token_list ids = ids_of("one two");
	struct chatlog *l = create();
	struct chatlog_info info;
	struct message *m;

	(void)state;
	answer(l, c, "one two", "", "one two", true);
	conversation_cut(c, 1);
	chatlog_begin(l, c, THINKING_OFF, ids.id, ids.n);
	chatlog_token(l, 500);
	token_push(&ids, 500);
	m = conversation_add(c, ROLE_ASSISTANT, "one two more", 12);
	conversation_set_exact(c, m, nano, THINKING_OFF, ids.id, ids.n);
	chatlog_save(l, c);
	chatlog_close(l);
	back = read_back(&info);
	assert_int_equal(back->n, 2);
	expect_same(c, back, 2);
	token_list_clear(&ids);
	conversation_free(back);
	conversation_free(c);
}

/* ------------------------------------------------------------------ cut and damaged files */

static char *whole_file(size_t *n)
{
	struct buf b = BUF_CAP(1 << 20);
	struct err err = {0};

	if (file_read(&b, path, &err) != OK)
		fail_msg("%s", err.msg);
	*n = b.len;
	return buf_take(&b);
}

static void put_file(const char *p, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

static size_t lines_of(const char *p, size_t n)
{
	size_t lines = 0;

	for (size_t i = 0; i < n; i++)
		lines += p[i] == '\n';
	return lines;
}

static void a_file_cut_at_any_byte_gives_what_was_whole_and_goes_on(void **state)
{
	struct conversation *c = conversation_of("[]");
	struct chatlog *l = create();
	struct chatlog_info info;
	char *p;
	size_t n, last_n = 0;

	(void)state;
	ask(l, c, "one");
	answer(l, c, "first</think>answer", "first", "answer", true);
	ask(l, c, "two");
	answer(l, c, "second", "", "second", true);
	chatlog_close(l);
	p = whole_file(&n);
	for (size_t cut = 0; cut <= n; cut++) {
		struct conversation *back = NULL, *again;
		struct err err = {0};

		put_file(p, cut);
		if (chatlog_open(&l, path, nano, &back, &info, &err) != OK) {
			assert_int_equal(err.code, ERR_FORMAT);
			assert_int_equal(lines_of(p, cut), 0);
			continue;
		}
		assert_false(info.damaged);
		if (back->n < last_n)
			fail_msg("cut at %zu: expected at least %zu messages, found %zu", cut, last_n, back->n);
		last_n = back->n;
		/* the last may be an answer that was cut off: its text is decoded from the ids there are */
		expect_same(c, back, info.cut_off ? back->n - 1 : back->n);
		if (info.cut_off)
			assert_int_equal(back->messages[back->n - 1].role, ROLE_ASSISTANT);
		ask(l, back, "more");
		chatlog_close(l);
		again = read_back(&info);
		assert_int_equal(again->n, back->n);
		expect_same(back, again, again->n);
		assert_false(info.damaged || info.cut_off);
		conversation_free(again);
		conversation_free(back);
	}
	assert_int_equal(last_n, 4);
	conversation_free(c);
	mem_free(p);
}

static void an_answer_without_an_end_keeps_all_its_tokens(void **state)
{
	struct conversation *c = conversation_of("[{\"role\":\"user\",\"content\":\"q\"}]"), *back;
	struct token_list ids = ids_of("I think</think>the answer is");
	struct chatlog *l = create();
	struct chatlog_info info;

	(void)state;
	chatlog_begin(l, c, THINKING_ON, ids.id, ids.n);
	chatlog_close(l);
	l = reopen(&back, &info);
	assert_true(info.cut_off && info.thinking);
	assert_int_equal(back->n, 2);
	assert_string_equal(back->messages[1].reasoning.p, "I think");
	assert_string_equal(back->messages[1].content.p, "the answer is");
	assert_int_equal(back->messages[1].exact.n, ids.n);
	assert_memory_equal(back->messages[1].exact.id, ids.id, ids.n * sizeof *ids.id);
	chatlog_close(l);
	conversation_free(back);
	back = read_back(&info);	/* it has its end now */
	assert_false(info.cut_off);
	assert_int_equal(back->n, 2);
	assert_int_equal(back->messages[1].exact.n, ids.n);
	conversation_free(back);
	conversation_free(c);
	token_list_clear(&ids);
}

static void a_flipped_bit_ends_the_reading_there_and_the_file_is_kept(void **state)
{
	struct conversation *c = conversation_of("[]"), *back;
	struct chatlog *l = create();
	struct chatlog_info info;
	char *p, beside[160];
	size_t n;

	(void)state;
	snprintf(beside, sizeof beside, "%s.damaged", path);
	ask(l, c, "one");
	answer(l, c, "first", "", "first", true);
	ask(l, c, "two");
	answer(l, c, "second", "", "second", true);
	chatlog_close(l);
	p = whole_file(&n);
	for (size_t i = 0; i < n; i++) {
		struct err err = {0};

		p[i] ^= (char)(1 << i % 8);
		put_file(p, n);
		unlink(beside);
		if (chatlog_open(&l, path, nano, &back, &info, &err) != OK) {
			assert_int_equal(err.code, ERR_FORMAT);
			assert_true(lines_of(p, i) == 0);
		} else {
			bool last = i >= n - 1 || lines_of(p + i + 1, n - i - 1) <= 1;

			if (info.damaged == 0 && !last)
				fail_msg("byte %zu of %zu: expected damage to be told", i, n);
			expect_same(c, back, info.cut_off ? back->n - 1 : back->n);
			assert_int_equal(access(beside, F_OK) == 0, info.damaged);
			chatlog_close(l);
			conversation_free(back);
			back = read_back(&info);
			assert_false(info.damaged);
			conversation_free(back);
		}
		p[i] ^= (char)(1 << i % 8);
	}
	unlink(beside);
	mem_free(p);
	conversation_free(c);
}

static void lines_that_fit_nowhere_are_damage(void **state)
{
	static const char *const bad[] = {
		"{\"ids\": [1]}", "{\"end\": {\"role\": \"assistant\", \"content\": \"\"}}", "{\"cut\": 1}", "{\"cut\": -1}",
		"{\"message\": {\"role\": \"nobody\"}}", "{\"message\": 3}", "{\"answer\": 1}", "{\"what\": 1}", "[]", "nonsense",
	};
	struct err err = {0};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct buf b = BUF_CAP(BUF_MAX);
		struct chatlog_state s;

		chatlog_line(&b, "{\"ds4_chat\": 1, \"vocabulary\": \"x\"}", 34);
		chatlog_line(&b, bad[i], strlen(bad[i]));
		if (chatlog_parse(&s, b.data, b.len, nano, &err) != OK || !s.info.damaged || s.c->n)
			fail_msg("%s: expected damage", bad[i]);
		chatlog_state_clear(&s);
		buf_cut(&b, 0);
		chatlog_line(&b, bad[i], strlen(bad[i]));	/* and no beginning of a file */
		assert_int_equal(chatlog_parse(&s, b.data, b.len, nano, &err), ERR_FORMAT);
		buf_clear(&b);
	}
}

static void another_vocabulary_reads_the_texts(void **state)
{
	struct tokenizer *real = open_tokenizer(REAL);
	struct conversation *c = conversation_of("[]"), *back;
	struct chatlog *l = create();
	struct chatlog_info info;
	struct err err = {0};

	(void)state;
	ask(l, c, "one");
	answer(l, c, "first</think>answer", "first", "answer", true);
	chatlog_close(l);
	assert_int_equal(chatlog_read(path, real, &back, &info, &err), OK);
	assert_true(info.other_vocabulary);
	assert_int_equal(back->n, 2);
	assert_string_equal(back->messages[1].content.p, "answer");
	assert_int_equal(back->messages[1].exact.n, 0);
	conversation_free(back);
	conversation_free(c);
	tokenizer_close(real);
}

/* ------------------------------------------------------------------ processes and failures */

static void a_file_is_open_once(void **state)
{
	struct chatlog *l = create(), *second;
	struct conversation *c;
	struct chatlog_info info;
	struct err err = {0};

	(void)state;
	assert_int_equal(chatlog_open(&second, path, nano, &c, &info, &err), ERR_LIMIT);
	assert_non_null(strstr(err.msg, "another ds4"));
	assert_int_equal(chatlog_create(&second, path, nano, "m", &err), ERR_IO);
	assert_int_equal(chatlog_peek(path, &info, &err), OK);	/* looking is allowed */
	chatlog_close(l);
	unlink(path);
	assert_int_equal(chatlog_open(&second, path, nano, &c, &info, &err), ERR_NOT_FOUND);
}

/* The child writes a token every 3 ms and tells how many it had sampled; what was older than a quarter of a second when
 * it was killed must be there. */
static void a_killed_process_leaves_its_tokens(void **state)
{
	(void)state;
	for (int round = 0; round < 8; round++) {
		int pipe_[2], told = 0, t;
		struct conversation *back;
		struct chatlog_info info;
		pid_t pid;

		unlink(path);
		assert_int_equal(pipe(pipe_), 0);
		pid = fork();
		if (pid == 0) {
			struct conversation *c = conversation_of("[{\"role\":\"user\",\"content\":\"q\"}]");
			struct chatlog *l = create();

			chatlog_begin(l, c, THINKING_OFF, NULL, 0);
			for (int i = 0;; i++) {
				chatlog_token(l, 300 + i);
				if (write(pipe_[1], &i, sizeof i) < 0)
					_exit(1);
				usleep(3000);
			}
		}
		close(pipe_[1]);
		usleep(150000 + 37000 * (unsigned)round);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		while (read(pipe_[0], &t, sizeof t) == sizeof t)
			told = t + 1;
		close(pipe_[0]);
		back = read_back(&info);
		assert_int_equal(back->n, 2);
		if ((int)back->messages[1].exact.n < told - 80)
			fail_msg("expected at least %d of %d tokens, found %zu", told - 80, told, back->messages[1].exact.n);
		for (size_t i = 0; i < back->messages[1].exact.n; i++)
			assert_int_equal(back->messages[1].exact.id[i], 300 + (int)i);
		conversation_free(back);
	}
}

static void a_slow_token_is_written_at_once(void **state)
{
	struct conversation *c = conversation_of("[{\"role\":\"user\",\"content\":\"q\"}]"), *back;
	struct chatlog *l = create();
	struct chatlog_info info;

	(void)state;
	chatlog_begin(l, c, THINKING_OFF, NULL, 0);
	for (int i = 0; i < 3; i++) {
		usleep(120000);
		chatlog_token(l, 300 + i);
		back = read_back(&info);
		assert_int_equal(back->messages[1].exact.n, i + 1);
		conversation_free(back);
	}
	chatlog_close(l);
	conversation_free(c);
}

static void a_full_disk_is_told_once_and_leaves_whole_lines(void **state)
{
	int status = 0;
	pid_t pid;

	(void)state;
	pid = fork();
	if (pid == 0) {
		struct rlimit limit = {700, 700};
		struct conversation *c = conversation_of("[]");
		struct chatlog *l = create();
		struct chatlog_info info;

		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &limit);
		for (int i = 0; i < 20; i++)
			ask(l, c, "a question that takes some room on a disk");
		if (!chatlog_trouble(l) || !strstr(chatlog_trouble(l), "not saved any more"))
			_exit(1);
		chatlog_close(l);
		c = read_back(&info);
		_exit(info.damaged || c->n < 2 || c->n > 10 ? 2 : 0);
	}
	assert_true(waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
}

static void without_memory_the_file_keeps_its_beginning(void **state)
{
	(void)state;
	for (long n = 1; n < 80; n++) {
		struct conversation *c = everything(), *back = NULL;
		struct chatlog *l = NULL;
		struct chatlog_info info;
		struct err err = {0};

		unlink(path);
		mem_fail_at(n);
		if (chatlog_create(&l, path, nano, "m", &err) == OK)
			chatlog_save(l, c);
		mem_fail_at(0);
		if (l) {
			bool trouble = chatlog_trouble(l) != NULL;

			chatlog_close(l);
			back = read_back(&info);
			assert_true(trouble ? back->n <= c->n : back->n == c->n);
			expect_same(c, back, back->n);
			conversation_free(back);
			mem_fail_at(n);
			if (chatlog_open(&l, path, nano, &back, &info, &err) == OK) {
				mem_fail_at(0);
				chatlog_close(l);
				conversation_free(back);
			}
			mem_fail_at(0);
		}
		conversation_free(c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(everything_comes_back, fresh),
		cmocka_unit_test_setup(turns_are_saved_as_they_come_and_taken_back, fresh),
		cmocka_unit_test_setup(an_answer_that_was_given_up_does_not_come_back, fresh),
		cmocka_unit_test_setup(an_answer_that_goes_on_replaces_its_beginning, fresh),
		cmocka_unit_test_setup(a_file_cut_at_any_byte_gives_what_was_whole_and_goes_on, fresh),
		cmocka_unit_test_setup(an_answer_without_an_end_keeps_all_its_tokens, fresh),
		cmocka_unit_test_setup(a_flipped_bit_ends_the_reading_there_and_the_file_is_kept, fresh),
		cmocka_unit_test_setup(lines_that_fit_nowhere_are_damage, fresh),
		cmocka_unit_test_setup(another_vocabulary_reads_the_texts, fresh),
		cmocka_unit_test_setup(a_file_is_open_once, fresh),
		cmocka_unit_test_setup(a_killed_process_leaves_its_tokens, fresh),
		cmocka_unit_test_setup(a_slow_token_is_written_at_once, fresh),
		cmocka_unit_test_setup(a_full_disk_is_told_once_and_leaves_whole_lines, fresh),
		cmocka_unit_test_setup(without_memory_the_file_keeps_its_beginning, fresh),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
