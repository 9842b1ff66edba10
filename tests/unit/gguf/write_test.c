/* write_test.c - the head of a model file: bytes as docs/formats/gguf.md says, and read back by the reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "build.h"
#include "gguf/gguf_write.h"

static void the_head_has_the_bytes_of_the_format(void **state)
{
	struct gguf_builder *b = gguf_builder_new();
	struct buf got = BUF_CAP(1 << 20), want = BUF_CAP(1 << 20);
	const uint64_t dims[] = {32, 3};
	struct err err = {0};

	(void)state;
	gguf_put_text(b, "general.architecture", "deepseek4");
	gguf_put_u32(b, "k", 7);
	gguf_add_tensor(b, "t", DTYPE_Q8_0, 2, dims);
	gguf_add_tensor(b, "u", DTYPE_F32, 1, dims);
	assert_int_equal(gguf_head(&got, b, &err), OK);

	put_header(&want, 2, 2);
	put_key(&want, "general.architecture", GGUF_STRING);
	put_string(&want, "deepseek4");
	put_kv_u32(&want, "k", 7);
	put_string(&want, "t");
	put_u32(&want, 2);
	put_u64(&want, 32);
	put_u64(&want, 3);
	put_u32(&want, 8);
	put_u64(&want, 0);
	put_string(&want, "u");
	put_u32(&want, 1);
	put_u64(&want, 32);
	put_u32(&want, 0);
	put_u64(&want, 128);		/* 3 * 34 = 102 bytes, padded */
	while (want.len % 32)
		buf_byte(&want, 0);
	assert_int_equal(got.len, want.len);
	assert_memory_equal(got.data, want.data, want.len);
	assert_int_equal(gguf_offset(b, 1), 128);
	assert_int_equal(gguf_data_bytes(b), 256);
	gguf_builder_free(b);
	buf_clear(&got);
	buf_clear(&want);
}

/* Opens what a builder gives; the bytes stay in *head. */
static struct gguf *reopened(const struct gguf_builder *b, struct buf *head)
{
	struct err err = {0};
	struct gguf *g;

	assert_int_equal(gguf_head(head, b, &err), OK);
	if (gguf_open_memory(&g, head->data, head->len, "head", &err) != OK)
		fail_msg("%s", err.msg);
	return g;
}

static void every_kind_of_value_is_read_back_and_copied(void **state)
{
	static const int32_t ints[] = {-1, 2, 1 << 30};
	static const float floats[] = {0.5f, -3};
	struct gguf_builder *b = gguf_builder_new(), *copy = gguf_builder_new();
	struct buf strings = BUF_CAP(1 << 10), head = BUF_CAP(1 << 20), head2 = BUF_CAP(1 << 20);
	struct gguf *g, *h;
	struct err err = {0};
	double x;
	bool yes;

	(void)state;
	gguf_add_string(&strings, "one", 3);
	gguf_add_string(&strings, "", 0);
	gguf_put_f32(b, "f", 1.5f);
	gguf_put_bool(b, "b", true);
	gguf_put_i32s(b, "i", ints, 3);
	gguf_put_f32s(b, "fs", floats, 2);
	gguf_put_strings(b, "s", &strings, 2);
	gguf_put_string(b, "raw", "a\0b", 3);
	g = reopened(b, &head);
	for (uint64_t i = 0; i < g->n_kv; i++)
		gguf_put_copy(copy, &g->kv[i]);
	h = reopened(copy, &head2);
	assert_int_equal(head.len, head2.len);
	assert_memory_equal(head.data, head2.data, head.len);
	assert_int_equal(gguf_f64(h, "f", &x, &err), OK);
	assert_true(x == 1.5);
	assert_int_equal(gguf_bool(h, "b", &yes, &err), OK);
	assert_true(yes);
	assert_int_equal(gguf_integer(gguf_find(h, "i"), 2), 1 << 30);
	assert_true(gguf_number(gguf_find(h, "fs"), 1) == -3);
	assert_int_equal(gguf_find(h, "s")->count, 2);
	assert_int_equal(gguf_find(h, "raw")->value[8 + 1], 0);
	gguf_close(g);
	gguf_close(h);
	gguf_builder_free(b);
	gguf_builder_free(copy);
	buf_clear(&strings);
	buf_clear(&head);
	buf_clear(&head2);
}

static void a_key_set_again_keeps_its_place_and_a_removed_one_is_gone(void **state)
{
	struct gguf_builder *b = gguf_builder_new();
	struct buf head = BUF_CAP(1 << 20);
	struct gguf *g;

	(void)state;
	gguf_put_u32(b, "a", 1);
	gguf_put_u32(b, "b", 2);
	gguf_put_u32(b, "c", 3);
	gguf_put_text(b, "a", "text");
	gguf_remove(b, "b");
	gguf_remove(b, "not there");
	assert_true(gguf_has(b, "a") && !gguf_has(b, "b"));
	g = reopened(b, &head);
	assert_int_equal(g->n_kv, 2);
	assert_memory_equal(g->kv[0].key.p, "a", 1);
	assert_int_equal(g->kv[0].type, GGUF_STRING);
	gguf_close(g);
	gguf_builder_free(b);
	buf_clear(&head);
}

static void no_memory_is_reported_at_the_end_and_nothing_leaks(void **state)
{
	const uint64_t dims[] = {32};
	long n;

	(void)state;
	for (n = 1; n < 100; n++) {
		struct buf head = BUF_CAP(1 << 20);
		struct gguf_builder *b;
		struct err err = {0};
		enum status st = ERR_MEMORY;

		mem_fail_at(n);
		b = gguf_builder_new();
		if (b) {
			gguf_put_text(b, "general.architecture", "deepseek4");
			gguf_put_u32(b, "k", 7);
			gguf_add_tensor(b, "t", DTYPE_F32, 1, dims);
			st = gguf_head(&head, b, &err);
		}
		mem_fail_at(0);
		gguf_builder_free(b);
		buf_clear(&head);
		if (st == OK)
			break;
		assert_int_equal(st, ERR_MEMORY);
	}
	assert_in_range(n, 2, 99);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_head_has_the_bytes_of_the_format),
		cmocka_unit_test(every_kind_of_value_is_read_back_and_copied),
		cmocka_unit_test(a_key_set_again_keeps_its_place_and_a_removed_one_is_gone),
		cmocka_unit_test(no_memory_is_reported_at_the_end_and_nothing_leaks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
