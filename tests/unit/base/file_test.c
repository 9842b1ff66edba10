/* file_test.c - whole files: what was written is read back, and every way of failing names the path and the reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

static char dir[64];

static int set_up(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/ds4-file-test-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	return rmdir(dir);	/* fails when a test left a file: every test cleans up */
}

/* dir/name, in one of two buffers that take turns. */
static const char *in(const char *name)
{
	static char path[2][128];
	static int turn;

	turn = !turn;
	snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
	return path[turn];
}

static void expect(enum status got, const struct err *err, enum status code, const char *path, const char *reason)
{
	char want[256];

	snprintf(want, sizeof want, "%s: %s", path, reason);
	assert_int_equal(got, code);
	assert_int_equal(err->code, code);
	assert_string_equal(err->msg, want);
}

static void what_was_written_is_read_and_mapped(void **state)
{
	static char big[200001];
	struct buf b = BUF_CAP(sizeof big);
	const char *path = in("big");
	struct file_map m;
	struct err err = {0};

	(void)state;
	for (size_t i = 0; i < sizeof big; i++)
		big[i] = (char)(i * 31 >> 3);
	assert_int_equal(file_write(path, big, sizeof big, &err), OK);
	assert_int_equal(file_read(&b, path, &err), OK);
	assert_int_equal(b.len, sizeof big);
	assert_memory_equal(b.data, big, sizeof big);
	assert_int_equal(file_map(&m, path, &err), OK);
	assert_int_equal(m.bytes, sizeof big);
	assert_memory_equal(m.data, big, sizeof big);
	file_unmap(&m);
	assert_null(m.data);
	file_unmap(&m);		/* accepts a zeroed map */
	buf_clear(&b);
	unlink(path);
}

static void writing_replaces_the_file_and_leaves_no_other(void **state)
{
	struct buf b = BUF_CAP(100);
	const char *path = in("f");
	struct err err = {0};

	(void)state;
	assert_int_equal(file_write(path, "a long first text", 17, &err), OK);
	assert_int_equal(file_write(path, "two", 3, &err), OK);
	assert_int_equal(file_read(&b, path, &err), OK);
	assert_string_equal(buf_cstr(&b), "two");
	assert_int_equal(access(in("f.tmp"), F_OK), -1);
	buf_clear(&b);
	unlink(path);
}

static void a_missing_file_is_not_found(void **state)
{
	struct buf b = BUF_CAP(100);
	const char *path = in("nowhere");
	struct file_map m;
	struct err err = {0};

	(void)state;
	expect(file_map(&m, path, &err), &err, ERR_NOT_FOUND, path, "No such file or directory");
	assert_null(m.data);
	expect(file_read(&b, path, &err), &err, ERR_NOT_FOUND, path, "No such file or directory");
}

static void a_folder_is_not_a_file(void **state)
{
	struct buf b = BUF_CAP(100);
	struct file_map m;
	struct err err = {0};

	(void)state;
	expect(file_map(&m, dir, &err), &err, ERR_IO, dir, "is a directory, expected a file");
	expect(file_read(&b, dir, &err), &err, ERR_IO, dir, "is a directory, expected a file");
	assert_int_equal(file_map(&m, dir, NULL), ERR_IO);
}

static void an_empty_file_cannot_be_mapped_but_read(void **state)
{
	struct buf b = BUF_CAP(100);
	const char *path = in("empty");
	struct file_map m;
	struct err err = {0};

	(void)state;
	assert_int_equal(file_write(path, "", 0, &err), OK);
	expect(file_map(&m, path, &err), &err, ERR_FORMAT, path, "file is empty");
	assert_int_equal(file_read(&b, path, &err), OK);
	assert_int_equal(b.len, 0);
	buf_clear(&b);
	unlink(path);
}

static void a_device_cannot_be_mapped(void **state)
{
	struct file_map m;
	struct err err = {0};

	(void)state;
	expect(file_map(&m, "/dev/null", &err), &err, ERR_IO, "/dev/null", "is not a regular file and cannot be mapped");
}

static void the_cap_of_the_buffer_is_the_limit(void **state)
{
	struct buf b = BUF_CAP(4);
	const char *path = in("five");
	struct err err = {0};

	(void)state;
	assert_int_equal(file_write(path, "12345", 5, &err), OK);
	expect(file_read(&b, path, &err), &err, ERR_LIMIT, path, "larger than the 4 bytes allowed");
	buf_clear(&b);
	unlink(path);
}

static void a_failed_write_keeps_the_old_file(void **state)
{
	const char *path = in("kept"), *tmp = in("kept.tmp");
	struct buf b = BUF_CAP(100);
	struct err err = {0};

	(void)state;
	assert_int_equal(file_write(path, "old", 3, &err), OK);
	assert_int_equal(mkdir(tmp, 0700), 0);	/* the new text has nowhere to go */
	expect(file_write(path, "new", 3, &err), &err, ERR_IO, tmp, "Is a directory");
	assert_int_equal(file_read(&b, path, &err), OK);
	assert_string_equal(buf_cstr(&b), "old");
	buf_clear(&b);
	rmdir(tmp);
	unlink(path);
}

static void a_full_disk_is_an_error(void **state)
{
	FILE *full = fopen("/dev/full", "w");
	struct err err = {0};
	struct stat sb;

	(void)state;
	if (!full)
		skip();
	fclose(full);
	assert_int_equal(symlink("/dev/full", in("full.tmp")), 0);
	assert_int_equal(file_write(in("full"), "x", 1, &err), ERR_IO);
	assert_non_null(strstr(err.msg, "No space left on device"));
	assert_int_equal(access(in("full"), F_OK), -1);
	assert_int_equal(lstat(in("full.tmp"), &sb), -1);	/* nothing is left over */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_is_read_and_mapped),
		cmocka_unit_test(writing_replaces_the_file_and_leaves_no_other),
		cmocka_unit_test(a_missing_file_is_not_found),
		cmocka_unit_test(a_folder_is_not_a_file),
		cmocka_unit_test(an_empty_file_cannot_be_mapped_but_read),
		cmocka_unit_test(a_device_cannot_be_mapped),
		cmocka_unit_test(the_cap_of_the_buffer_is_the_limit),
		cmocka_unit_test(a_failed_write_keeps_the_old_file),
		cmocka_unit_test(a_full_disk_is_an_error),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
