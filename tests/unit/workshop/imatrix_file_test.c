/* imatrix_file_test.c - importance files byte by byte as llama.cpp's tools lay them out. */
#include "common.h"

#include <math.h>

#include "workshop/imatrix_file.h"

static void put_i32(struct buf *b, int32_t v)
{
	buf_add(b, &v, sizeof v);
}

static void put_text(struct buf *b, const char *s)
{
	put_i32(b, (int32_t)strlen(s));
	buf_str(b, s);
}

static void put_entry(struct buf *b, const char *name, int32_t calls, int32_t n, const float *v)
{
	put_text(b, name);
	put_i32(b, calls);
	put_i32(b, n);
	buf_add(b, v, (size_t)n * sizeof *v);
}

/* Two entries, then chunks and dataset. */
static struct buf sample(void)
{
	static const float a[] = {1, 2, 3}, b[] = {0, 0.5f};
	struct buf f = BUF_CAP(1 << 16);

	put_i32(&f, 2);
	put_entry(&f, "blk.0.ffn_gate_exps.weight", 10, 3, a);
	put_entry(&f, "output.weight", 4, 2, b);
	put_i32(&f, 7);
	put_text(&f, "prompts.txt");
	return f;
}

static void a_file_is_read_field_by_field(void **state)
{
	struct buf f = sample();
	struct imatrix m;
	struct err err = {0};
	const struct imatrix_entry *e;

	(void)state;
	if (imatrix_parse(&m, f.data, f.len, "x", &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(m.n, 2);
	assert_int_equal(m.chunks, 7);
	assert_string_equal(m.dataset, "prompts.txt");
	e = imatrix_find(&m, "blk.0.ffn_gate_exps.weight");
	assert_non_null(e);
	assert_int_equal(e->calls, 10);
	assert_int_equal(e->n, 3);
	assert_true(e->value[2] == 3);
	assert_null(imatrix_find(&m, "blk.1.ffn_gate_exps.weight"));
	imatrix_clear(&m);
	buf_clear(&f);
}

static void an_older_file_without_chunks_and_dataset_is_read(void **state)
{
	struct buf f = sample();
	struct imatrix m;
	struct err err = {0};

	(void)state;
	buf_cut(&f, f.len - 4 - 4 - strlen("prompts.txt"));
	if (imatrix_parse(&m, f.data, f.len, "x", &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(m.n, 2);
	assert_int_equal(m.chunks, 0);
	assert_string_equal(m.dataset, "");
	imatrix_clear(&m);
	buf_clear(&f);
}

static void what_was_written_has_the_bytes_of_the_layout(void **state)
{
	char path[] = "/tmp/ds4-imatrix-XXXXXX";
	struct buf f = sample(), back = BUF_CAP(1 << 16);
	struct imatrix m;
	struct err err = {0};

	(void)state;
	close(mkstemp(path));
	assert_int_equal(imatrix_parse(&m, f.data, f.len, "x", &err), OK);
	assert_int_equal(imatrix_write(&m, path, &err), OK);
	assert_int_equal(file_read(&back, path, &err), OK);
	assert_int_equal(back.len, f.len);
	assert_memory_equal(back.data, f.data, f.len);
	imatrix_clear(&m);
	buf_clear(&f);
	buf_clear(&back);
	unlink(path);
}

static void every_prefix_of_a_file_is_refused_or_read_whole(void **state)
{
	struct buf f = sample();
	struct err err = {0};

	(void)state;
	for (size_t n = 0; n <= f.len; n++) {
		uint8_t *copy = mem_copy(f.data, n ? n : 1);
		struct imatrix m;
		bool whole = n == f.len || n == f.len - 19 ||
		             n == f.len - 15; /* nothing, or chunks alone, behind the entries */

		assert_int_equal(imatrix_parse(&m, copy, n, "x", &err) == OK, whole);
		if (whole)
			imatrix_clear(&m);
		mem_free(copy);
	}
	buf_clear(&f);
}

static void refuses(struct buf *f, const char *expected)
{
	struct imatrix m;
	struct err err = {0};
	enum status st = imatrix_parse(&m, f->data, f->len, "x.dat", &err);

	if (st != ERR_FORMAT || !strstr(err.msg, expected) || !strstr(err.msg, "x.dat"))
		fail_msg("expected ERR_FORMAT with \"%s\", got %s: %s", expected, status_name(st), err.msg);
	buf_clear(f);
}

static void odd_counts_and_values_are_refused(void **state)
{
	static const float bad[] = {1, -1}, nan[] = {NAN}, inf[] = {INFINITY}, one[] = {1};
	struct buf f = BUF_CAP(1 << 16);

	(void)state;
	put_i32(&f, 0);
	refuses(&f, "number of entries");
	put_i32(&f, 1);
	put_entry(&f, "a", 1, 2, bad);
	refuses(&f, "value 1 is -1");
	put_i32(&f, 1);
	put_entry(&f, "a", 1, 1, nan);
	refuses(&f, "value 0");
	put_i32(&f, 1);
	put_entry(&f, "a", 1, 1, inf);
	refuses(&f, "value 0");
	put_i32(&f, 2);
	put_entry(&f, "a", 1, 1, one);
	put_entry(&f, "a", 1, 1, one);
	refuses(&f, "occurs twice");
	put_i32(&f, 1);
	put_text(&f, "a");
	put_i32(&f, 1);
	put_i32(&f, 2000000000);
	refuses(&f, "2000000000 values");
	put_i32(&f, 1);
	put_i32(&f, 2000000000);
	refuses(&f, "2000000000");
	put_i32(&f, 1);
	put_i32(&f, -5);
	refuses(&f, "-5");
}

static void merging_adds_sums_calls_and_chunks(void **state)
{
	struct buf f = sample();
	struct imatrix a, b;
	struct err err = {0};

	(void)state;
	assert_int_equal(imatrix_parse(&a, f.data, f.len, "a", &err), OK);
	assert_int_equal(imatrix_parse(&b, f.data, f.len, "b", &err), OK);
	assert_non_null(imatrix_add(&b, "new", 2));
	assert_int_equal(imatrix_merge(&a, &b, &err), OK);
	assert_int_equal(a.n, 3);
	assert_int_equal(a.chunks, 14);
	assert_int_equal(imatrix_find(&a, "output.weight")->calls, 8);
	assert_true(imatrix_find(&a, "output.weight")->value[1] == 1);
	imatrix_clear(&b);
	assert_non_null(imatrix_add(&b, "output.weight", 5));
	assert_int_equal(imatrix_merge(&a, &b, &err), ERR_FORMAT);
	assert_non_null(strstr(err.msg, "expected 2 values, the other importance file has 5"));
	imatrix_clear(&a);
	imatrix_clear(&b);
	buf_clear(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_is_read_field_by_field),
		cmocka_unit_test(an_older_file_without_chunks_and_dataset_is_read),
		cmocka_unit_test(what_was_written_has_the_bytes_of_the_layout),
		cmocka_unit_test(every_prefix_of_a_file_is_refused_or_read_whole),
		cmocka_unit_test(odd_counts_and_values_are_refused),
		cmocka_unit_test(merging_adds_sums_calls_and_chunks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
