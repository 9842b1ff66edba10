/* refusal_test.c - the whole sentence that each kind of bad file gets. */
#include "gguf/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "build.h"

/* b must be refused with the whole message "test: " + want.  Frees b. */
static void refused(struct buf *b, const char *want)
{
	struct err err = {0};
	struct gguf *g = (struct gguf *)&err;
	enum status st;

	assert_true(buf_ok(b));
	st = gguf_open_memory(&g, b->data, b->len, "test", &err);
	if (st == OK)
		fail_msg("expected a refusal (%s), but the file opened", want);
	assert_null(g);
	assert_int_equal(st, ERR_FORMAT);
	assert_int_equal(strncmp(err.msg, "test: ", 6), 0);
	assert_string_equal(err.msg + 6, want);
	buf_clear(b);
}

/* ---- the header */

static void a_header_that_is_not_gguf_version_3_is_refused(void **state)
{
	struct buf b = BUF_CAP(64);

	(void)state;
	refused(&b, "has 0 bytes, expected at least the 24 of a GGUF header");
	b.cap = 64;
	buf_str(&b, "GGUF");
	refused(&b, "has 4 bytes, expected at least the 24 of a GGUF header");
	put_header(&b, 0, 0);
	b.data[3] = 'f';
	refused(&b, "begins with bytes 47 47 55 66, expected 47 47 55 46 (\"GGUF\")");
	put_header(&b, 0, 0);
	b.data[4] = 2;
	refused(&b, "GGUF version is 2, expected 3");
	put_header(&b, 0, 0);
	memcpy(b.data + 4, "\0\0\0\3", 4);
	refused(&b, "is a big-endian GGUF file, expected little endian");
}

static void counts_beyond_the_file_are_refused_before_anything_is_allocated(void **state)
{
	struct buf b = {0};

	(void)state;
	put_header(&b, 0, 1ull << 63);
	refused(&b, "metadata: count is 9223372036854775808, but the 0 bytes left in the file hold at most 0");
	put_header(&b, UINT64_MAX, 0);
	refused(&b, "tensor directory: count is 18446744073709551615, but the 0 bytes left in the file hold at most 0");
	put_header(&b, 3, 0);
	put_data(&b, 70);
	refused(&b, "tensor directory: count is 3, but the 70 bytes left in the file hold at most 2");
}

/* ---- metadata */

static void bad_keys_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	put_header(&b, 0, 1);
	put_kv_u32(&b, "", 1);
	refused(&b, "metadata entry 1 of 1: key has 0 bytes, expected 1 to 65535");
	put_header(&b, 0, 1);
	put_u64(&b, 65536);
	put_data(&b, 70000);
	refused(&b, "metadata entry 1 of 1: key has 65536 bytes, expected 1 to 65535");
	put_header(&b, 0, 1);
	put_u64(&b, 1ull << 63);
	put_data(&b, 20);
	refused(&b, "metadata entry 1 of 1: key needs 9223372036854775808 bytes at byte 32, but the file ends after 52");
	put_header(&b, 0, 1);
	put_kv_u32(&b, "ab\xC3", 1);
	refused(&b, "metadata entry 1 of 1: key is not UTF-8 at its byte 2");
	put_header(&b, 0, 1);
	put_kv_u32(&b, "a\nb", 1);
	refused(&b, "metadata entry 1 of 1: key has the control byte 0x0A at its byte 1");
}

static void a_key_that_appears_twice_is_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	put_header(&b, 0, 4);
	put_kv_u32(&b, "b", 1);
	put_kv_u32(&b, "a", 2);
	put_kv_u32(&b, "ab", 2);
	put_kv_u32(&b, "a", 2);
	refused(&b, "metadata entry 4 of 4 (a): same name as metadata entry 2");
}

static void bad_value_types_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	put_header(&b, 0, 1);
	put_key(&b, "key", 13);
	put_u64(&b, 0);
	refused(&b, "metadata entry 1 of 1 (key): value type is 13, expected 0 to 12");
	put_header(&b, 0, 1);
	put_array(&b, "key", 0xFFFFFFFF, 1);
	put_u64(&b, 0);
	refused(&b, "metadata entry 1 of 1 (key): array element type is 4294967295, expected 0 to 12");
	put_header(&b, 0, 1);
	put_array(&b, "key", GGUF_ARRAY, 1);
	put_u64(&b, 0);
	refused(&b, "metadata entry 1 of 1 (key): array of arrays, expected an array of scalars or strings");
}

static void bools_other_than_0_and_1_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	put_header(&b, 0, 1);
	put_key(&b, "flag", GGUF_BOOL);
	buf_byte(&b, 2);
	refused(&b, "metadata entry 1 of 1 (flag): bool is 2, expected 0 or 1");
	put_header(&b, 0, 1);
	put_array(&b, "flags", GGUF_BOOL, 3);
	buf_add(&b, "\0\1\xFF", 3);
	refused(&b, "metadata entry 1 of 1 (flags): bool is 255, expected 0 or 1");
}

static void values_that_reach_past_the_end_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	put_header(&b, 0, 1);
	put_key(&b, "number", GGUF_U64);
	put_u32(&b, 0);
	refused(&b, "metadata entry 1 of 1 (number): value needs 8 bytes at byte 42, but the file ends after 46");
	put_header(&b, 0, 1);
	put_key(&b, "text", GGUF_STRING);
	put_u64(&b, 5);
	buf_str(&b, "four");
	refused(&b, "metadata entry 1 of 1 (text): string needs 5 bytes at byte 48, but the file ends after 52");
	put_header(&b, 0, 1);
	put_array(&b, "list", GGUF_F64, 1ull << 61);
	put_data(&b, 17);
	refused(&b, "metadata entry 1 of 1 (list): array: count is 2305843009213693952, but the 17 bytes left in the "
		"file hold at most 2");
	put_header(&b, 0, 1);
	put_array(&b, "words", GGUF_STRING, 3);
	put_string(&b, "a");
	put_u64(&b, UINT64_MAX);
	put_u64(&b, 0);
	refused(&b, "metadata entry 1 of 1 (words): string needs 18446744073709551615 bytes at byte 70, but the file "
		"ends after 78");
	put_header(&b, 0, 1);
	put_array(&b, "words", GGUF_STRING, 1ull << 61);
	put_u64(&b, 0);
	refused(&b, "metadata entry 1 of 1 (words): string array: count is 2305843009213693952, but the 8 bytes left "
		"in the file hold at most 1");
}

static void a_bad_alignment_is_refused(void **state)
{
	static const struct {
		uint32_t value;
		const char *shown;
	} bad[] = {{0, "0"}, {4, "4"}, {24, "24"}, {131072, "131072"}, {0xFFFFFFFF, "4294967295"}};
	struct buf b = {0};
	char want[128];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		put_header(&b, 0, 1);
		put_kv_u32(&b, "general.alignment", bad[i].value);
		snprintf(want, sizeof want, "general.alignment is %s, expected a power of two from 8 to 65536",
			 bad[i].shown);
		refused(&b, want);
	}
	put_header(&b, 0, 1);
	put_key(&b, "general.alignment", GGUF_U64);
	put_u64(&b, 32);
	refused(&b, "general.alignment is of type u64, expected u32");
}

/* ---- tensors */

static void one_tensor(struct buf *b, const char *name, const uint64_t *dims, uint32_t type, uint64_t offset,
		       size_t data_bytes)
{
	put_header(b, 1, 0);
	put_tensor(b, name, dims, type, offset);
	put_padding(b, 32);
	put_data(b, data_bytes);
}

static void bad_shapes_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	one_tensor(&b, "w", DIMS(0), 0, 0, 64);
	refused(&b, "tensor 1 of 1 (w): has 0 dimensions, expected 1 to 4");
	one_tensor(&b, "w", DIMS(1, 1, 1, 1, 1), 0, 0, 64);
	refused(&b, "tensor 1 of 1 (w): has 5 dimensions, expected 1 to 4");
	one_tensor(&b, "w", DIMS(3, 77), 0, 0, 64);
	memset(b.data + 24 + 9 + 4 + 8, 0, 8);		/* the 77 */
	refused(&b, "tensor 1 of 1 (w): dimension 1 is 0, expected 1 or more");
	one_tensor(&b, "w", DIMS(1ull << 32, 1ull << 32), 0, 0, 64);
	refused(&b, "tensor 1 of 1 (w): the product of its 2 dimensions exceeds 64 bits");
	one_tensor(&b, "w", DIMS(1ull << 62), 0, 0, 64);
	refused(&b, "tensor 1 of 1 (w): 4611686018427387904 elements of type F32 exceed 64 bits of bytes");
	one_tensor(&b, "w", DIMS(128, 2), 10, 0, 84);
	refused(&b, "tensor 1 of 1 (w): dimension 0 is 128, expected a multiple of 256 for type Q2_K");
	one_tensor(&b, "w", DIMS(48), 8, 0, 84);
	refused(&b, "tensor 1 of 1 (w): dimension 0 is 48, expected a multiple of 32 for type Q8_0");
}

static void an_unknown_type_names_the_tensor_and_the_id(void **state)
{
	struct buf b = {0};

	(void)state;
	one_tensor(&b, "blk.3.attn_kv.weight", DIMS(256), 14, 0, 210);
	refused(&b, "tensor 1 of 1 (blk.3.attn_kv.weight): type id is 14, expected one of F32=0 F16=1 Q8_0=8 Q2_K=10 "
		"Q4_K=12 IQ2_XXS=16 I32=26 BF16=30");
}

static void bad_tensor_names_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	one_tensor(&b, "", DIMS(16), 0, 0, 64);
	refused(&b, "tensor 1 of 1: name has 0 bytes, expected 1 to 65535");
	one_tensor(&b, "\xED\xA0\x80", DIMS(16), 0, 0, 64);	/* a surrogate */
	refused(&b, "tensor 1 of 1: name is not UTF-8 at its byte 0");
	one_tensor(&b, "a\x7F", DIMS(16), 0, 0, 64);
	refused(&b, "tensor 1 of 1: name has the control byte 0x7F at its byte 1");
	put_header(&b, 2, 0);
	put_tensor(&b, "same", DIMS(1), 0, 0);
	put_tensor(&b, "same", DIMS(1), 0, 32);
	put_padding(&b, 32);
	put_data(&b, 64);
	refused(&b, "tensor 2 of 2 (same): same name as tensor 1");
}

static void tensors_outside_the_file_or_off_the_alignment_are_refused(void **state)
{
	struct buf b = {0};

	(void)state;
	one_tensor(&b, "w", DIMS(8), 0, 16, 64);
	refused(&b, "tensor 1 of 1 (w): offset is 16, expected a multiple of 32");
	one_tensor(&b, "w", DIMS(16), 0, 0, 63);
	refused(&b, "tensor 1 of 1 (w): needs 64 bytes at offset 0, but the file (127 bytes) has 63 bytes of tensor "
		"data: it is cut short or damaged");
	one_tensor(&b, "w", DIMS(1), 0, UINT64_MAX - 31, 64);
	refused(&b, "tensor 1 of 1 (w): needs 4 bytes at offset 18446744073709551584, but the file (128 bytes) has 64 "
		"bytes of tensor data: it is cut short or damaged");
	one_tensor(&b, "w", DIMS((1ull << 62) - 1), 0, 32, 64);	/* the end, offset + bytes, exceeds 64 bits */
	refused(&b, "tensor 1 of 1 (w): needs 18446744073709551612 bytes at offset 32, but the file (128 bytes) has 64 "
		"bytes of tensor data: it is cut short or damaged");
	put_header(&b, 1, 0);				/* ends with the directory, before the padding */
	put_tensor(&b, "w", DIMS(1), 0, 0);
	refused(&b, "tensor 1 of 1 (w): needs 4 bytes at offset 0, but the file (57 bytes) has 0 bytes of tensor data: "
		"it is cut short or damaged");
	put_header(&b, 2, 0);
	put_tensor(&b, "w", DIMS(1), 0, 0);
	buf_add(&b, "\4\0\0\0\0\0\0\0name\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0abcdefgh", 36);
	buf_cut(&b, b.len - 3);
	refused(&b, "tensor 2 of 2 (name): offset needs 8 bytes at byte 85, but the file ends after 90");
}

static void long_names_are_cut_in_messages_between_characters(void **state)
{
	struct buf b = {0};
	char name[301], want[400];

	(void)state;
	for (int i = 0; i < 300; i += 2)
		memcpy(name + i, "\xC3\xA4", 2);
	name[0] = 'x';
	name[1] = 'y';
	name[2] = 'z';			/* 3 bytes, so that byte 96 is inside a character... */
	memmove(name + 3, name + 4, 296);
	name[299] = '\0';
	one_tensor(&b, name, DIMS(3), 8, 0, 64);
	snprintf(want, sizeof want, "tensor 1 of 1 (%.95s", name);	/* ...and 95 bytes are shown */
	strcat(want, "): dimension 0 is 3, expected a multiple of 32 for type Q8_0");
	refused(&b, want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_that_is_not_gguf_version_3_is_refused),
		cmocka_unit_test(counts_beyond_the_file_are_refused_before_anything_is_allocated),
		cmocka_unit_test(bad_keys_are_refused),
		cmocka_unit_test(a_key_that_appears_twice_is_refused),
		cmocka_unit_test(bad_value_types_are_refused),
		cmocka_unit_test(bools_other_than_0_and_1_are_refused),
		cmocka_unit_test(values_that_reach_past_the_end_are_refused),
		cmocka_unit_test(a_bad_alignment_is_refused),
		cmocka_unit_test(bad_shapes_are_refused),
		cmocka_unit_test(an_unknown_type_names_the_tensor_and_the_id),
		cmocka_unit_test(bad_tensor_names_are_refused),
		cmocka_unit_test(tensors_outside_the_file_or_off_the_alignment_are_refused),
		cmocka_unit_test(long_names_are_cut_in_messages_between_characters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
