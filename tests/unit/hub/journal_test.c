/* journal_test.c - which bytes are there: the set of ranges against a plain array of flags, and its file, damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/rng.h"
#include "hub/journal_int.h"

#define N 200

static char dir[64], path[96];

static int set_up(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/ds4-journal-test-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/x.part.json", dir);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static uint64_t first_missing(const bool *there, uint64_t from)
{
	while (from < N && there[from])
		from++;
	return from;
}

/* The set must be what the flags say, in its normal form. */
static void same_as(const struct ranges *s, const bool *there)
{
	uint64_t bytes = 0, end;
	struct range gap;

	for (size_t i = 0; i < N; i++)
		bytes += there[i];
	assert_int_equal(s->bytes, bytes);
	assert_int_equal(ranges_prefix(s), first_missing(there, 0));
	for (size_t i = 0; i < s->n; i++) {
		assert_true(s->r[i].begin < s->r[i].end);
		assert_true(!i || s->r[i - 1].end < s->r[i].begin);
		for (uint64_t j = s->r[i].begin; j < s->r[i].end; j++)
			assert_true(there[j]);
	}
	for (uint64_t from = 0; from <= N; from++) {
		gap = ranges_gap(s, from, N);
		assert_int_equal(gap.begin, first_missing(there, from));
		for (end = gap.begin; end < N && !there[end]; end++)
			;
		assert_int_equal(gap.end, end);
	}
}

static void ranges_added_in_any_order_are_the_bytes_they_name(void **state)
{
	struct rng r;

	(void)state;
	r = rng_seed(8);
	for (int round = 0; round < 200; round++) {
		bool there[N] = {false};
		struct ranges s = {0};

		for (int i = 0; i < 30; i++) {
			uint64_t a = rng_below(&r, N), b = a + rng_below(&r, 20);

			b = b > N ? N : b;
			assert_int_equal(ranges_add(&s, a, b, NULL), OK);
			for (uint64_t j = a; j < b; j++)
				there[j] = true;
			same_as(&s, there);
			if (i % 10 == 9) {
				a = rng_below(&r, N);
				ranges_cut(&s, a);
				memset(there + a, 0, N - a);
				same_as(&s, there);
			}
		}
		ranges_clear(&s);
	}
}

static struct hub_file a_file(void)
{
	static char url[] = "https://user:hush@huggingface.co/a/b/resolve/main/x.gguf?token=hush";
	struct hub_file f = {.url = url, .size = 1000};

	memset(f.sha256, 'a', HUB_SHA256_CHARS);
	snprintf(f.etag, sizeof f.etag, "\"\\mark");
	return f;
}

static void what_was_written_is_read_again_and_holds_no_secret(void **state)
{
	struct ranges s = {0}, back = {0};
	struct hub_file f = a_file();
	struct buf text = BUF_CAP(1 << 20);
	struct err err = {0};

	(void)state;
	for (uint64_t i = 0; i < 900; i += 10)
		assert_int_equal(ranges_add(&s, i, i + 5, &err), OK);
	assert_int_equal(journal_write(path, &f, &s, &err), OK);
	if (journal_read(&back, path, &f, &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(back.n, s.n);
	assert_int_equal(back.bytes, s.bytes);
	assert_memory_equal(back.r, s.r, s.n * sizeof *s.r);
	assert_int_equal(file_read(&text, path, &err), OK);
	assert_non_null(strstr(buf_cstr(&text), "huggingface.co/a/b/resolve/main/x.gguf"));
	assert_null(strstr(buf_cstr(&text), "hush"));
	buf_clear(&text);
	ranges_clear(&s);
	ranges_clear(&back);
}

static void refuses(const char *text, enum status want, const char *part)
{
	struct hub_file f = a_file();
	struct ranges s = {0};
	struct err err = {0};
	enum status got;

	assert_int_equal(file_write(path, text, strlen(text), &err), OK);
	got = journal_read(&s, path, &f, &err);
	if (got != want || !strstr(err.msg, part))
		fail_msg("%s: expected %s with '%s', found %s: %s", text, status_name(want), part, status_name(got), err.msg);
	assert_int_equal(s.n, 0);
	ranges_clear(&s);
}

#define HEAD "{\"format\": \"ds4-pull-1\", \"url\": \"x\", \"size\": 1000, \"etag\": \"\", \"sha256\": " \
	     "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\", \"done\": "

static void a_damaged_journal_is_refused(void **state)
{
	static const char *const lists[] = {"[[0, 1001]]", "[[5, 5]]", "[[5, 4]]", "[[-1, 4]]", "[[10, 20], [5, 8]]", "[[1]]",
					    "[[1, 2, 3]]", "[[0, \"1\"]]", "[[0.0, 1.0]]", "7", "[[10, 20], [15, 30]]",
					    "[[0, 18446744073709551617]]"};
	char text[600];

	(void)state;
	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
		snprintf(text, sizeof text, HEAD "%s}", lists[i]);
		refuses(text, ERR_FORMAT, "damaged");
	}
	refuses("", ERR_FORMAT, "damaged");
	refuses(HEAD "[[0, 1", ERR_FORMAT, "damaged");
	refuses("[]", ERR_FORMAT, "damaged");
	refuses("{\"format\": \"ds4-pull-2\", \"size\": 1000, \"etag\": \"\", \"sha256\": \"\", \"done\": []}", ERR_FORMAT, "damaged");
}

static void a_journal_of_another_version_is_refused(void **state)
{
	(void)state;
	refuses("{\"format\": \"ds4-pull-1\", \"size\": 999, \"etag\": \"\", \"sha256\": \"\", \"done\": []}", ERR_ARGUMENT,
		"999 bytes, the server's has 1000");
	refuses("{\"format\": \"ds4-pull-1\", \"size\": 1000, \"etag\": \"\", \"sha256\": \"bb\", \"done\": []}", ERR_ARGUMENT,
		"another version of the file (bb, the server's is aaaaaaaaaaaa)");
}

static void a_missing_journal_is_not_found(void **state)
{
	struct hub_file f = a_file();
	struct ranges s = {0};
	struct err err = {0};

	(void)state;
	unlink(path);
	assert_int_equal(journal_read(&s, path, &f, &err), ERR_NOT_FOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranges_added_in_any_order_are_the_bytes_they_name),
		cmocka_unit_test(what_was_written_is_read_again_and_holds_no_secret),
		cmocka_unit_test(a_damaged_journal_is_refused),
		cmocka_unit_test(a_journal_of_another_version_is_refused),
		cmocka_unit_test(a_missing_journal_is_not_found),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
