/* gguf_test.c - what opens, what is found in it, and how whole files fail. */
#include "gguf/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "build.h"

#include "base/file.h"
#include "quant/half.h"

#define NANO "models/ds4-nano-q2.gguf"

static struct gguf *must_open(const struct buf *b)
{
	struct err err = {0};
	struct gguf *g;

	assert_true(buf_ok(b));
	if (gguf_open_memory(&g, b->data, b->len, "test", &err) != OK)
		fail_msg("expected the file to open, got: %s", err.msg);
	return g;
}

/* ---- layouts that are allowed */

static void tensors_may_alias_overlap_and_be_in_any_order(void **state)
{
	struct buf b = {0};
	struct gguf *g;
	const struct gguf_tensor *a, *z, *m;
	float x[8];

	(void)state;
	put_header(&b, 3, 0);
	put_tensor(&b, "z", DIMS(8), 0, 32);
	put_tensor(&b, "a", DIMS(8, 2), 0, 0);
	put_tensor(&b, "m", DIMS(16), 1, 32);
	put_padding(&b, 32);
	put_data(&b, 64);
	g = must_open(&b);
	z = gguf_tensor(g, "z");
	a = gguf_tensor(g, "a");
	m = gguf_tensor(g, "m");
	assert_ptr_equal(z, &g->tensor[0]);
	assert_ptr_equal(z->data, m->data);
	assert_ptr_equal(a->data + 32, z->data);
	assert_ptr_equal(a->data, (uint8_t *)b.data + g->data_offset);
	assert_int_equal(g->data_offset + 64, b.len);
	assert_int_equal(a->bytes, 64);
	assert_int_equal(m->bytes, 32);
	quant_decode(x, z->data, z->type, 8);
	assert_memory_equal(x, b.data + b.len - 32, 32);
	gguf_close(g);
	buf_clear(&b);
}

static void a_vocabulary_only_file_needs_no_tensors_and_no_padding(void **state)
{
	struct buf b = {0};
	struct gguf *g;

	(void)state;
	put_header(&b, 0, 1);
	put_array(&b, "tokenizer.ggml.tokens", GGUF_STRING, 1);
	put_string(&b, "a");
	g = must_open(&b);
	assert_int_equal(g->n_tensors, 0);
	assert_null(gguf_tensor(g, "token_embd.weight"));
	assert_true(g->data_offset <= b.len);
	assert_int_equal(g->alignment, 32);
	gguf_close(g);
	buf_clear(&b);
}

static void a_key_of_65535_bytes_and_keys_beyond_ascii_are_accepted(void **state)
{
	static char longest[65536];
	struct buf b = {0};
	struct gguf *g;
	uint64_t v;

	(void)state;
	memset(longest, 'k', 65535);
	put_header(&b, 0, 2);
	put_kv_u32(&b, longest, 5);
	put_kv_u32(&b, "l\xC3\xA4nge", 6);
	g = must_open(&b);
	assert_int_equal(gguf_u64(g, longest, &v, NULL), OK);
	assert_int_equal(v, 5);
	assert_int_equal(gguf_u64(g, "l\xC3\xA4nge", &v, NULL), OK);
	assert_int_equal(v, 6);
	gguf_close(g);
	buf_clear(&b);
}

/* ---- looking things up */

static void every_entry_is_found_and_nothing_else(void **state)
{
	struct buf b = {0};
	struct gguf *g;

	(void)state;
	build_everything(&b);
	g = must_open(&b);
	assert_int_equal(g->n_kv, 27);
	assert_int_equal(g->n_tensors, 9);
	assert_int_equal(g->alignment, 64);
	walk(g, 1 << 20);
	assert_null(gguf_find(g, ""));
	assert_null(gguf_find(g, "s.u"));
	assert_null(gguf_find(g, "s.u88"));
	assert_null(gguf_find(g, "zzz"));
	assert_null(gguf_find(g, "t.f32"));
	assert_null(gguf_tensor(g, "s.u8"));
	gguf_close(g);
	buf_clear(&b);
}

static void shapes_are_filled_up_with_ones(void **state)
{
	static const uint64_t f32[] = {5, 2, 3, 2}, iq2[] = {512, 1, 2, 1}, last[] = {8, 1, 1, 1};
	struct buf b = {0};
	struct gguf *g;
	const struct gguf_tensor *t;

	(void)state;
	build_everything(&b);
	g = must_open(&b);
	t = gguf_tensor(g, "t.f32");
	assert_int_equal(t->n_dims, 4);
	assert_memory_equal(t->dims, f32, sizeof f32);
	assert_int_equal(t->bytes, 240);
	t = gguf_tensor(g, "t.iq2_xxs");
	assert_int_equal(t->n_dims, 3);
	assert_int_equal(t->type, DTYPE_IQ2_XXS);
	assert_memory_equal(t->dims, iq2, sizeof iq2);
	assert_int_equal(t->bytes, 4 * 66);
	t = gguf_tensor(g, "t.last");
	assert_int_equal(t->n_dims, 1);
	assert_memory_equal(t->dims, last, sizeof last);
	gguf_close(g);
	buf_clear(&b);
}

/* The bytes FE FF FF BF 11 22 33 C0 of build_everything() as each type; values by Python's struct module. */
static const struct {
	const char *key;
	double number;
	int64_t integer;
} scalars[] = {
	{"s.u8", 254, 254}, {"s.i8", -2, -2}, {"s.u16", 65534, 65534}, {"s.i16", -2, -2},
	{"s.u32", 3221225470.0, 3221225470}, {"s.i32", -1073741826.0, -1073741826}, {"s.f32", -0x1.fffffcp0, -1},
	{"s.u64", 0x1.806644238p63, INT64_MAX}, {"s.i64", -0x1.fe66ef72p61, -4597293334984130562},
	{"s.f64", -0x1.32211bffffffep4, -19},
};
enum { SCALARS = sizeof scalars / sizeof *scalars };

static void numbers_of_every_type_are_read_from_scalars_and_arrays(void **state)
{
	struct buf b = {0};
	struct gguf *g;

	(void)state;
	build_everything(&b);
	g = must_open(&b);
	for (int i = 0; i < 2 * SCALARS; i++) {
		const char *key = scalars[i % SCALARS].key;
		double number = scalars[i % SCALARS].number;
		int64_t integer = scalars[i % SCALARS].integer;
		char array[16];
		const struct gguf_kv *kv;

		snprintf(array, sizeof array, "array%s", key);
		kv = gguf_find(g, i < SCALARS ? key : array);
		assert_non_null(kv);
		assert_string_equal(gguf_type_name(kv->element), key + 2);
		assert_int_equal(kv->type == GGUF_ARRAY, i >= SCALARS);
		assert_int_equal(kv->count, i < SCALARS ? 1 : 3);
		for (uint64_t k = 0; k < kv->count; k++) {
			if (gguf_number(kv, k) != number)
				fail_msg("%s: expected %a, got %a", key, number, gguf_number(kv, k));
			if (gguf_integer(kv, k) != integer)
				fail_msg("%s: expected %lld, got %lld", key, (long long)integer,
					 (long long)gguf_integer(kv, k));
		}
	}
	gguf_close(g);
	buf_clear(&b);
}

static void bools_and_strings_are_read(void **state)
{
	static const char *const words[] = {"one", "", "\xFF not UTF-8 \x01", "four"};
	struct buf b = {0};
	struct gguf *g;
	struct gguf_string s;
	const struct gguf_kv *kv;
	const uint8_t *cursor;
	bool flag = false;

	(void)state;
	build_everything(&b);
	g = must_open(&b);
	assert_int_equal(gguf_bool(g, "a.bool", &flag, NULL), OK);
	assert_true(flag);
	kv = gguf_find(g, "a.bools");
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(gguf_integer(kv, i), i == 1 || i == 2);
	assert_int_equal(gguf_str(g, "a.string", &s, NULL), OK);
	assert_int_equal(s.n, 13);
	assert_memory_equal(s.p, "ein W\xC3\xB6rtchen", 13);
	assert_int_equal(gguf_str(g, "a.string.empty", &s, NULL), OK);
	assert_int_equal(s.n, 0);
	assert_true(isnan(gguf_number(gguf_find(g, "a.string"), 0)));
	assert_int_equal(gguf_integer(gguf_find(g, "a.string"), 0), 0);
	kv = gguf_find(g, "strings");
	assert_int_equal(kv->count, 4);
	cursor = kv->value;
	for (int i = 0; i < 4; i++) {
		s = gguf_next_string(&cursor);
		assert_int_equal(s.n, strlen(words[i]));
		assert_memory_equal(s.p, words[i], s.n);
	}
	assert_int_equal(gguf_find(g, "nothing")->count, 0);
	gguf_close(g);
	buf_clear(&b);
}

static void floats_out_of_range_become_the_nearest_integer_limit(void **state)
{
	static const double values[] = {1e300, -1e300, 0x1p63, -0x1p63, 0x1p62};
	static const int64_t want[] = {INT64_MAX, INT64_MIN, INT64_MAX, INT64_MIN, (int64_t)1 << 62};
	const double nan = (double)NAN;
	struct buf b = {0};
	struct gguf *g;

	(void)state;
	put_header(&b, 0, 1);
	put_array(&b, "x", GGUF_F64, 6);
	buf_add(&b, values, sizeof values);
	buf_add(&b, &nan, sizeof nan);
	g = must_open(&b);
	for (uint64_t i = 0; i < 5; i++)
		assert_true(gguf_integer(gguf_find(g, "x"), i) == want[i]);
	assert_int_equal(gguf_integer(gguf_find(g, "x"), 5), 0);
	gguf_close(g);
	buf_clear(&b);
}

/* ---- typed access */

static void integers_of_any_width_are_accepted_when_they_fit(void **state)
{
	struct buf b = {0};
	struct gguf *g;
	struct err err = {0};
	uint64_t u;

	(void)state;
	build_everything(&b);
	g = must_open(&b);
	assert_int_equal(gguf_u64(g, "s.u8", &u, &err), OK);
	assert_int_equal(u, 254);
	assert_int_equal(gguf_u64(g, "s.u64", &u, &err), OK);
	assert_true(u == 0xC0332211BFFFFFFEu);
	assert_int_equal(gguf_u64(g, "s.i32", &u, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key s.i32 is -1073741826, expected 0 or more");
	assert_int_equal(gguf_u64(g, "s.f32", &u, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key s.f32 is of type f32, expected an integer");
	assert_int_equal(gguf_u64(g, "a.bool", &u, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key a.bool is of type bool, expected an integer");
	assert_int_equal(gguf_u64(g, "arrays.u8", &u, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key arrays.u8 is an array of u8, expected an integer");
	gguf_close(g);
	buf_clear(&b);
}

static void floats_accept_f32_f64_and_integers(void **state)
{
	struct buf b = {0};
	struct gguf *g;
	struct err err = {0};
	double x;

	(void)state;
	build_everything(&b);
	g = must_open(&b);
	for (int i = 0; i < SCALARS; i++) {
		assert_int_equal(gguf_f64(g, scalars[i].key, &x, &err), OK);
		assert_true(x == scalars[i].number);
	}
	assert_int_equal(gguf_f64(g, "a.string", &x, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key a.string is of type string, expected a number");
	gguf_close(g);
	buf_clear(&b);
}

static void a_missing_key_and_a_wrong_type_are_named(void **state)
{
	struct buf b = {0};
	struct gguf *g;
	struct err err = {0};
	struct gguf_string s;
	uint64_t u;
	double x;
	bool flag;

	(void)state;
	build_everything(&b);
	g = must_open(&b);
	assert_int_equal(gguf_u64(g, "deepseek4.block_count", &u, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key deepseek4.block_count is missing, expected an integer");
	assert_int_equal(gguf_f64(g, "none", &x, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key none is missing, expected a number");
	assert_int_equal(gguf_bool(g, "none", &flag, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key none is missing, expected a bool");
	assert_int_equal(gguf_str(g, "none", &s, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key none is missing, expected a string");
	assert_int_equal(gguf_bool(g, "s.u8", &flag, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key s.u8 is of type u8, expected a bool");
	assert_int_equal(gguf_str(g, "strings", &s, &err), ERR_FORMAT);
	assert_string_equal(err.msg, "test: metadata key strings is an array of string, expected a string");
	gguf_close(g);
	buf_clear(&b);
}

/* ---- files */

static void open_fails(const char *path, enum status want, const char *message)
{
	struct err err = {0};
	struct gguf *g = (struct gguf *)&err;
	enum status st = gguf_open(&g, path, &err);

	if (st != want || !strstr(err.msg, message))
		fail_msg("%s: expected %s (%s), got %s (%s)", path, status_name(want), message, status_name(st), err.msg);
	assert_null(g);
}

static void missing_empty_foreign_and_cut_files_and_directories_say_what_they_are(void **state)
{
	char dir[] = "/tmp/gguf_test_XXXXXX", path[64];
	struct file_map map;
	struct err err = {0};
	FILE *f;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/m.gguf", dir);
	open_fails(path, ERR_NOT_FOUND, "m.gguf: No such file");
	open_fails(dir, ERR_IO, "is a directory, expected a file");
	f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
	open_fails(path, ERR_FORMAT, "m.gguf: file is empty");
	assert_int_equal(file_write(path, "PK\3\4 this is a zip archive", 26, &err), OK);
	open_fails(path, ERR_FORMAT, "m.gguf: begins with bytes 50 4B 03 04, expected 47 47 55 46");
	assert_int_equal(file_map(&map, NANO, &err), OK);
	assert_int_equal(file_write(path, map.data, 200000, &err), OK);		/* inside the vocabulary */
	open_fails(path, ERR_FORMAT, "m.gguf: metadata entry 50 of 55 (tokenizer.ggml.merges): string");
	assert_int_equal(file_write(path, map.data, 1000000, &err), OK);	/* inside the tensor data */
	open_fails(path, ERR_FORMAT, "but the file (1000000 bytes) has 715232 bytes of tensor data: it is cut short");
	file_unmap(&map);
	unlink(path);
	rmdir(dir);
}

static void every_failing_allocation_is_reported_and_leaks_nothing(void **state)
{
	struct buf b = {0};
	int failures = 0;

	(void)state;
	build_everything(&b);
	for (long n = 1;; n++) {
		struct err err = {0};
		struct gguf *g = (struct gguf *)&err;
		enum status st;

		mem_fail_at(n);
		st = gguf_open_memory(&g, b.data, b.len, "test", &err);
		mem_fail_at(0);
		if (st == OK) {
			gguf_close(g);
			break;
		}
		assert_int_equal(st, ERR_MEMORY);
		assert_int_equal(strncmp(err.msg, "test: no memory", 15), 0);
		assert_null(g);
		failures++;
	}
	assert_int_equal(failures, 8);	/* the object, path, index, two arrays for each directory, offsets */
	buf_clear(&b);
}

/* ---- the bundled model */

/* What models/README.md and docs/formats/gguf.md say about it. */
static void nano_has_the_numbers_of_its_description(void **state)
{
	static const struct {
		const char *key;
		double value;
	} want[] = {
		{"block_count", 8}, {"embedding_length", 256}, {"vocab_size", 8192}, {"attention.head_count", 8},
		{"attention.key_length", 512}, {"attention.q_lora_rank", 128}, {"attention.output_group_count", 4},
		{"attention.sliding_window", 128}, {"attention.indexer.top_k", 64}, {"rope.freq_base", 10000},
		{"expert_count", 16}, {"expert_used_count", 6}, {"hash_layer_count", 3}, {"hyper_connection.count", 4},
	};
	static const int ratios[] = {0, 0, 4, 128, 4, 128, 4, 128};
	struct err err = {0};
	struct gguf *g;
	struct gguf_string s;
	const struct gguf_kv *kv;
	const struct gguf_tensor *t;

	(void)state;
	if (gguf_open(&g, NANO, &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(gguf_str(g, "general.architecture", &s, &err), OK);
	assert_int_equal(s.n, 9);
	assert_memory_equal(s.p, "deepseek4", 9);
	for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
		char key[64];
		double got;

		snprintf(key, sizeof key, "deepseek4.%s", want[i].key);
		if (gguf_f64(g, key, &got, &err) != OK)
			fail_msg("%s", err.msg);
		if (got != want[i].value)
			fail_msg("%s: expected %g, got %g", key, want[i].value, got);
	}
	kv = gguf_find(g, "deepseek4.attention.compress_ratios");
	assert_non_null(kv);
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(gguf_integer(kv, i), ratios[i]);
	assert_int_equal(gguf_find(g, "tokenizer.ggml.tokens")->count, 8192);
	t = gguf_tensor(g, "blk.3.ffn_gate_exps.weight");
	assert_non_null(t);
	assert_int_equal(t->type, DTYPE_IQ2_XXS);
	assert_int_equal(t->n_dims, 3);
	assert_memory_equal(t->dims, ((uint64_t[]){256, 256, 16, 1}), sizeof t->dims);
	assert_int_equal(t->bytes, 16 * 256 * 66);
	gguf_close(g);
}

static void elements_of_nano_are_those_that_the_reference_reads(void **state)
{
	struct buf text = BUF_CAP(1 << 16);
	struct err err = {0};
	struct gguf *g;
	char name[64];
	unsigned long long at;
	double want;
	int used, n = 0;

	(void)state;
	if (gguf_open(&g, NANO, &err) != OK || file_read(&text, "tests/data/gguf/nano_values.txt", &err) != OK)
		fail_msg("%s", err.msg);
	for (const char *p = text.data; sscanf(p, "%63s %llu %la\n%n", name, &at, &want, &used) == 3; p += used, n++) {
		const struct gguf_tensor *t = gguf_tensor(g, name);
		const struct dtype_info *type;
		float x[256];

		assert_non_null(t);
		type = dtype_info(t->type);
		quant_decode(x, t->data + at / type->block_elements * type->block_bytes, t->type, type->block_elements);
		if (x[at % type->block_elements] != (float)want)
			fail_msg("%s, element %llu: expected %a, got %a", name, at, want,
				 (double)x[at % type->block_elements]);
	}
	assert_int_equal(n, 28);
	gguf_close(g);
	buf_clear(&text);
}

static void closing_nothing_is_allowed(void **state)
{
	(void)state;
	gguf_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tensors_may_alias_overlap_and_be_in_any_order),
		cmocka_unit_test(a_vocabulary_only_file_needs_no_tensors_and_no_padding),
		cmocka_unit_test(a_key_of_65535_bytes_and_keys_beyond_ascii_are_accepted),
		cmocka_unit_test(every_entry_is_found_and_nothing_else),
		cmocka_unit_test(shapes_are_filled_up_with_ones),
		cmocka_unit_test(numbers_of_every_type_are_read_from_scalars_and_arrays),
		cmocka_unit_test(bools_and_strings_are_read),
		cmocka_unit_test(floats_out_of_range_become_the_nearest_integer_limit),
		cmocka_unit_test(integers_of_any_width_are_accepted_when_they_fit),
		cmocka_unit_test(floats_accept_f32_f64_and_integers),
		cmocka_unit_test(a_missing_key_and_a_wrong_type_are_named),
		cmocka_unit_test(missing_empty_foreign_and_cut_files_and_directories_say_what_they_are),
		cmocka_unit_test(every_failing_allocation_is_reported_and_leaks_nothing),
		cmocka_unit_test(nano_has_the_numbers_of_its_description),
		cmocka_unit_test(elements_of_nano_are_those_that_the_reference_reads),
		cmocka_unit_test(closing_nothing_is_allowed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
