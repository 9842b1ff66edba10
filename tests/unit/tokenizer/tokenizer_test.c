/* tokenizer_test.c - text to ids and back with the real vocabulary, against ids of the published tokenizer. */
#include <pthread.h>

#include "base/rng.h"
#include "base/utf8.h"
#include "common.h"

static struct tokenizer *real;

static int setup(void **state)
{
	(void)state;
	real = open_tokenizer(REAL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	tokenizer_close(real);
	return 0;
}

/* Encodes p[0..n) one way and compares. */
static bool encodes_to(const char *what, bool control, const char *p, size_t n, const json_t *want_ids)
{
	struct token_list want = ids_of(want_ids), have = {0};
	bool same;

	if (control)
		token_encode_control(real, p, n, &have);
	else
		token_encode_text(real, p, n, &have);
	same = same_ids(what, &want, &have);
	token_list_clear(&want);
	token_list_clear(&have);
	return same;
}

static void text_case(void *ctx, int line, const json_t *o)
{
	const json_t *text = json_object_get(o, "text"), *ids = json_object_get(o, "ids");
	const json_t *plain = json_object_get(o, "ids_plain");
	const char *p = json_string_value(text);
	size_t n = json_string_length(text);
	int *wrong = ctx;
	char what[160];

	snprintf(what, sizeof what, "line %d, \"%.100s\", with control tokens", line, p);
	*wrong += !encodes_to(what, true, p, n, ids);
	snprintf(what, sizeof what, "line %d, \"%.100s\", plain", line, p);
	*wrong += !encodes_to(what, false, p, n, plain ? plain : ids);
}

static void all_text_cases_give_the_published_ids(void **state)
{
	int wrong = 0;

	(void)state;
	assert_int_equal(each_line(DATA "tokenizer_cases.jsonl", text_case, &wrong), 214);
	assert_int_equal(wrong, 0);
}

static void byte_case(void *ctx, int line, const json_t *o)
{
	const char *hex = json_string_value(json_object_get(o, "hex")), *json = json_string_value(json_object_get(o, "json"));
	const json_t *text = json_object_get(o, hex ? "lossy_text" : "text");
	struct buf bytes = BUF_CAP(1 << 12), lossy = BUF_CAP(1 << 12);
	struct err err = {0};
	char what[160];

	if (hex) {
		add_hex(&bytes, hex);
	} else {
		json_t *v = json_parse(json, strlen(json), &err);

		if (!v)
			fail_msg("line %d: %s", line, err.msg);
		buf_add(&bytes, json_string_value(v), json_string_length(v));
		json_decref(v);
	}
	utf8_add_lossy(&lossy, bytes.data, bytes.len);
	if (lossy.len != json_string_length(text) || memcmp(lossy.data, json_string_value(text), lossy.len))
		fail_msg("line %d: expected the text \"%s\", found \"%s\"", line, json_string_value(text), lossy.data);
	snprintf(what, sizeof what, "line %d, %s", line, hex ? hex : json);
	*(int *)ctx += !encodes_to(what, false, bytes.data, bytes.len, json_object_get(o, "ids"));
	*(int *)ctx += !encodes_to(what, true, bytes.data, bytes.len, json_object_get(o, "ids"));
	buf_clear(&bytes);
	buf_clear(&lossy);
}

static void ill_formed_utf8_and_lone_surrogates_are_read_as_u_fffd(void **state)
{
	int wrong = 0;

	(void)state;
	assert_int_equal(each_line(DATA "tokenizer_bytes_cases.jsonl", byte_case, &wrong), 15);
	assert_int_equal(wrong, 0);
}

/* Calls fn for each line "id<TAB>text<TAB>..." of the table of added tokens; returns how many. */
static int each_added(void (*fn)(int32_t id, const char *p, size_t n))
{
	struct buf file = BUF_CAP(1 << 20);
	struct err err = {0};
	int count = 0;

	if (file_read(&file, DATA "added_tokens.tsv", &err) != OK)
		fail_msg("%s", err.msg);
	for (char *p = strchr(file.data, '\n') + 1, *end; *p; p = strchr(end, '\n') + 1, count++) {
		int32_t id = (int32_t)strtol(p, &p, 10);

		end = strchr(++p, '\t');
		fn(id, p, (size_t)(end - p));
	}
	buf_clear(&file);
	return count;
}

static void check_added(int32_t id, const char *p, size_t n)
{
	struct token_list want = {0}, have = {0};
	size_t n_bytes;
	const char *bytes = token_bytes(real, id, &n_bytes);

	if (n_bytes != n || memcmp(bytes, p, n))
		fail_msg("token %d: expected \"%.*s\", found \"%.*s\"", id, (int)n, p, (int)n_bytes, bytes);
	assert_true(tokenizer_is_added(real, id));
	token_push(&want, id);
	token_encode_control(real, p, n, &have);
	assert_true(same_ids(p, &want, &have));
	token_list_clear(&have);
	token_encode_text(real, p, n, &have);
	for (size_t i = 0; i < have.n; i++)
		if (tokenizer_is_added(real, have.id[i]))
			fail_msg("the text of token %d gave the added token %d", id, have.id[i]);
	token_list_clear(&want);
	token_list_clear(&have);
}

static void every_added_token_is_literal_and_only_recognised_on_request(void **state)
{
	int added = 0;

	(void)state;
	assert_int_equal(each_added(check_added), 1283);
	for (int32_t id = 0; id < tokenizer_size(real); id++)
		added += tokenizer_is_added(real, id);
	assert_int_equal(added, 1283);
}

static void special_tokens_have_the_published_ids(void **state)
{
	static const int32_t want[SPECIAL_COUNT] = {
		[SPECIAL_BOS] = 0, [SPECIAL_EOS] = 1, [SPECIAL_USER] = 128803, [SPECIAL_ASSISTANT] = 128804,
		[SPECIAL_THINK] = 128821, [SPECIAL_END_THINK] = 128822, [SPECIAL_DSML] = 128825,
		[SPECIAL_REMINDER] = 128828, [SPECIAL_ACTION] = 128829, [SPECIAL_QUERY] = 128830,
		[SPECIAL_AUTHORITY] = 128831, [SPECIAL_DOMAIN] = 128832, [SPECIAL_TITLE] = 128836,
		[SPECIAL_READ_URL] = 128845, [SPECIAL_FIM_BEGIN] = 128801, [SPECIAL_FIM_HOLE] = 128800,
		[SPECIAL_FIM_END] = 128802,
	};

	(void)state;
	for (int s = 0; s < SPECIAL_COUNT; s++)
		if (tokenizer_special(real, s) != want[s])
			fail_msg("%s: expected %d, found %d", special_text(s), want[s], tokenizer_special(real, s));
}

static void the_longest_added_token_wins_from_the_left(void **state)
{
	/* ｜DSML｜ inside <｜DSML｜x>, and <dsml: which is shorter than </dsml: */
	static const char text[] = "</dsml:a<\xEF\xBD\x9C" "DSML\xEF\xBD\x9C>\xEF\xBD\x9C" "DSML";
	struct token_list want = {0}, have = {0};

	(void)state;
	token_push(&want, 128841);
	token_encode_text(real, "a<", 2, &want);
	token_push(&want, 128825);
	token_encode_text(real, ">\xEF\xBD\x9C" "DSML", 8, &want);
	token_encode_control(real, text, sizeof text - 1, &have);
	assert_true(same_ids(text, &want, &have));
	token_list_clear(&want);
	token_list_clear(&have);
}

/* Digest of u32 id, u32 length, bytes over all tokens: docs/tokenizer.md. */
static void the_bytes_of_all_tokens_have_the_published_digest(void **state)
{
	struct sha256 s = sha256_start();
	char hex[65];
	int ill_formed = 0, replaced = 0, longest = 0;

	(void)state;
	sha256_add(&s, "abc", 3);
	sha256_hex(&s, hex);
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	s = sha256_start();
	assert_int_equal(tokenizer_size(real), 129280);
	for (int32_t id = 0; id < tokenizer_size(real); id++) {
		struct buf lossy = BUF_CAP(1 << 12);
		size_t n;
		const char *p = token_bytes(real, id, &n);
		uint32_t head[2] = {(uint32_t)id, (uint32_t)n};

		sha256_add(&s, head, sizeof head);
		sha256_add(&s, p, n);
		utf8_add_lossy(&lossy, p, n);
		ill_formed += lossy.len != n || memcmp(lossy.data, p, n) != 0;
		replaced += strstr(buf_cstr(&lossy), "\xEF\xBF\xBD") != NULL;
		if (!tokenizer_is_added(real, id) && (int)n > longest)
			longest = (int)n;
		buf_clear(&lossy);
	}
	sha256_hex(&s, hex);
	assert_string_equal(hex, "bf9bafd05310d9d6867b56577c4421f0346c3bcd4834d1d7bb1cd08300391547");
	assert_int_equal(replaced, 1484);	/* the published count has the 14 that really hold U+FFFD, too */
	assert_int_equal(ill_formed, 1484 - 14);
	assert_int_equal(longest, 128);
}

/* Appends something a text might hold. */
static void add_random(struct buf *b, struct rng *r)
{
	static const uint32_t start[] = {0x20, 0x20, 0x20, 0xA0, 0x400, 0x5D0, 0x900, 0xE00, 0x2000, 0x3040, 0x4E00, 0xAC00,
					 0xFF00, 0x1F600, 0xE0020};
	int32_t id = (int32_t)rng_below(r, (uint64_t)tokenizer_size(real));
	const char *p;
	char c[4];
	size_t n;

	switch (rng_below(r, 6)) {
	case 0:
		buf_byte(b, (char)rng_below(r, 256));
		break;
	case 1:
		buf_byte(b, "\0 \n\r\t\x0B"[rng_below(r, 6)]);
		break;
	case 2:		/* any token, whole or cut */
		p = token_bytes(real, id, &n);
		buf_add(b, p, rng_below(r, 4) ? n : rng_below(r, n + 1));
		break;
	case 3:		/* a special one */
		buf_str(b, special_text((enum special)rng_below(r, SPECIAL_COUNT)));
		break;
	default:
		n = utf8_encode(start[rng_below(r, sizeof start / sizeof *start)] + (uint32_t)rng_below(r, 96), c);
		buf_add(b, c, n);
	}
}

static void tokens_join_to_the_lossy_text(void **state)
{
	struct rng r = rng_seed(11);

	(void)state;
	for (int round = 0; round < 5000; round++) {
		struct buf text = BUF_CAP(1 << 16), want = BUF_CAP(1 << 16);
		size_t parts = rng_below(&r, 40);

		for (size_t i = 0; i < parts; i++)
			add_random(&text, &r);
		utf8_add_lossy(&want, buf_cstr(&text), text.len);
		for (int control = 0; control < 2; control++) {
			struct buf have = BUF_CAP(1 << 16);
			struct token_list l = {0};

			(control ? token_encode_control : token_encode_text)(real, buf_cstr(&text), text.len, &l);
			for (size_t i = 0; i < l.n && !control; i++)
				assert_false(tokenizer_is_added(real, l.id[i]));
			add_tokens(&have, real, &l);
			if (l.failed || have.len != want.len || memcmp(buf_cstr(&have), buf_cstr(&want), want.len))
				fail_msg("round %d: expected \"%s\", found \"%s\"", round, buf_cstr(&want), buf_cstr(&have));
			token_list_clear(&l);
			buf_clear(&have);
		}
		buf_clear(&text);
		buf_clear(&want);
	}
}

static void ids_are_appended_behind_what_is_there(void **state)
{
	struct token_list l = {0};

	(void)state;
	token_push(&l, 7);
	token_encode_text(real, "Hello, world!", 13, &l);
	token_encode_text(real, "", 0, &l);
	assert_int_equal(l.n, 5);
	assert_int_equal(l.id[0], 7);
	assert_int_equal(l.id[1], 19923);
	assert_int_equal(l.id[4], 3);
	token_list_clear(&l);
	assert_null(l.id);
}

struct reader {
	const struct tokenizer *t;
	struct buf text;
	struct token_list l;
};

static void *read_text(void *arg)
{
	struct reader *r = arg;

	token_encode_text(r->t, r->text.data, r->text.len, &r->l);
	return NULL;
}

static void threads_may_encode_at_the_same_time(void **state)
{
	struct reader r[4] = {{.t = NULL}};
	pthread_t thread[4];
	struct err err = {0};

	(void)state;
	for (int i = 0; i < 4; i++) {
		r[i].t = i ? r[0].t : open_tokenizer(REAL);	/* a fresh one: nothing known about words yet */
		r[i].text.cap = 1 << 20;
		if (file_read(&r[i].text, DATA "tokenizer_cases.jsonl", &err) != OK)
			fail_msg("%s", err.msg);
	}
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, read_text, &r[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < 4; i++) {
		assert_true(same_ids("thread", &r[0].l, &r[i].l));
		buf_clear(&r[i].text);
		if (i)
			token_list_clear(&r[i].l);
	}
	assert_true(r[0].l.n > 5000);
	token_list_clear(&r[0].l);
	tokenizer_close((struct tokenizer *)r[0].t);
}

static void the_bundled_vocabulary_has_its_own_ids(void **state)
{
	struct tokenizer *nano = open_tokenizer(NANO);
	struct token_list l = {0};
	static const char text[] = "<\xEF\xBD\x9CUser\xEF\xBD\x9C>The cat.<think>";
	struct buf back = BUF_CAP(64);

	(void)state;
	assert_int_equal(tokenizer_size(nano), 8192);
	assert_int_equal(tokenizer_special(nano, SPECIAL_BOS), 0);
	assert_int_equal(tokenizer_special(nano, SPECIAL_USER), 7717);
	assert_int_equal(tokenizer_special(nano, SPECIAL_ASSISTANT), 7718);
	token_encode_control(nano, text, sizeof text - 1, &l);
	assert_int_equal(l.id[0], 7717);
	assert_int_equal(l.id[l.n - 1], tokenizer_special(nano, SPECIAL_THINK));
	add_tokens(&back, nano, &l);
	assert_string_equal(buf_cstr(&back), text);
	buf_clear(&back);
	token_list_clear(&l);
	tokenizer_close(nano);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_text_cases_give_the_published_ids),
		cmocka_unit_test(ill_formed_utf8_and_lone_surrogates_are_read_as_u_fffd),
		cmocka_unit_test(every_added_token_is_literal_and_only_recognised_on_request),
		cmocka_unit_test(special_tokens_have_the_published_ids),
		cmocka_unit_test(the_longest_added_token_wins_from_the_left),
		cmocka_unit_test(the_bytes_of_all_tokens_have_the_published_digest),
		cmocka_unit_test(tokens_join_to_the_lossy_text),
		cmocka_unit_test(ids_are_appended_behind_what_is_there),
		cmocka_unit_test(threads_may_encode_at_the_same_time),
		cmocka_unit_test(the_bundled_vocabulary_has_its_own_ids),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
