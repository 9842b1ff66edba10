/* http_parse_test.c - heads and chunks: what RFC 9112 says, and what is refused because it is how requests are smuggled. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "server/http_parse.h"

static int parse(struct http_head *h, const char *text)
{
	struct http_refusal why = {0};

	return http_head_parse(h, mem_strn(text, strlen(text)), strlen(text), &why) ? 0 : why.status;
}

static void expect(const char *text, int status)
{
	struct http_head h;
	int got = parse(&h, text);

	http_head_clear(&h);
	if (got != status)
		fail_msg("expected %d, found %d, for:\n%s", status, got, text);
}

static void a_head_is_taken_apart(void **state)
{
	struct http_head h;

	(void)state;
	assert_int_equal(parse(&h, "POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nX-One:  1 \r\nx-two:\t\r\n"
				   "Content-Length: 12\r\n\r\n"), 0);
	assert_string_equal(h.method, "POST");
	assert_string_equal(h.path, "/v1/messages");
	assert_string_equal(h.query, "beta=true");
	assert_string_equal(http_field(&h, "x-one"), "1");
	assert_string_equal(http_field(&h, "X-TWO"), "");
	assert_null(http_field(&h, "x-three"));
	assert_int_equal(h.length, 12);
	assert_true(h.keep);
	assert_false(h.chunked);
	http_head_clear(&h);
	assert_int_equal(parse(&h, "GET http://h:1/x?y HTTP/1.1\r\nHost: h\r\n\r\n"), 0);
	assert_string_equal(h.path, "/x");
	http_head_clear(&h);
}

static void the_connection_field_and_the_version_decide_about_keeping(void **state)
{
	static const struct {
		const char *text;
		bool keep;
	} all[] = {
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: te, Close\r\n\r\n", false},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", true},
		{"GET / HTTP/1.0\r\n\r\n", false},
		{"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		struct http_head h;

		assert_int_equal(parse(&h, all[i].text), 0);
		if (h.keep != all[i].keep)
			fail_msg("expected keep %d, found %d, for %s", all[i].keep, h.keep, all[i].text);
		http_head_clear(&h);
	}
}

static void malformed_heads_are_refused_with_their_status(void **state)
{
	static char many[16384], target[9000];
	int n = 0;

	(void)state;
	expect("GET /\r\n\r\n", 400);
	expect("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
	expect("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
	expect("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400);
	expect("GET / http/1.1\r\nHost: a\r\n\r\n", 400);
	expect("GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400);
	expect("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505);
	expect("GET / HTTP/1.1\r\n\r\n", 400);			/* no Host */
	expect("GET / HTTP/1.1\nHost: a\n\r\n\r\n", 400);	/* bare LF */
	expect("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400);
	expect("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n folded\r\n\r\n", 400);
	expect("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400);
	expect("GET / HTTP/1.1\r\nHost: a\r\nA: \x01\r\n\r\n", 400);
	expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400);
	expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400);
	expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400);
	expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400);
	expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400);
	expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", 0);
	expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
	expect("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501);
	expect("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501);
	expect("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501);
	expect("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
	expect("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417);
	memset(target, 'a', sizeof target - 1);
	n = snprintf(many, sizeof many, "GET /%s HTTP/1.1\r\nHost: a\r\n\r\n", target);
	expect(many, 414);
	n = snprintf(many, sizeof many, "GET / HTTP/1.1\r\nHost: a\r\n");
	for (int i = 0; i < HTTP_MAX_FIELDS; i++)
		n += snprintf(many + n, sizeof many - (size_t)n, "A: b\r\n");
	snprintf(many + n, sizeof many - (size_t)n, "\r\n");
	expect(many, 431);
}

static void the_end_of_a_head_is_found_however_it_is_cut(void **state)
{
	static const char text[] = "GET / HTTP/1.1\r\nA: b\r\n\r\nrest";
	size_t scanned = 0, end = 0;

	(void)state;
	for (size_t n = 1; n < sizeof text && !end; n++) {
		end = http_head_end(text, n, &scanned);
		if (end && n != 24)
			fail_msg("expected the end with 24 bytes, found it with %zu", n);
	}
	assert_int_equal(end, 24);
}

/* RFC 9112, section 7.1, cut at every place, in two and byte by byte. */
static void chunks_are_joined_however_they_are_cut(void **state)
{
	static const char text[] = "4\r\nWiki\r\n7;ext=\"a;b\"\r\npedia i\r\nB\r\nn \r\nchunks.\r\n0\r\nTrailer: x\r\n\r\nnext";
	size_t n = sizeof text - 1;

	(void)state;
	for (size_t cut = 0; cut <= n; cut++) {
		struct http_chunks c = {0};
		struct buf body = BUF_CAP(1000);
		size_t took = http_chunks_take(&c, text, cut, &body);

		if (took == cut)
			took += http_chunks_take(&c, text + cut, n - cut, &body);
		if (c.state != CHUNK_DONE || took != n - 4 || strcmp(buf_cstr(&body), "Wikipedia in \r\nchunks.") != 0)
			fail_msg("cut at %zu: state %d, took %zu of %zu, body '%s'", cut, c.state, took, n - 4, buf_cstr(&body));
		buf_clear(&body);
	}
}

static void malformed_chunks_are_refused(void **state)
{
	static const char *const bad[] = {"\r\n", "g\r\n", "-1\r\n", "0x4\r\nWiki\r\n", "4\nWiki\r\n", "4\r\nWikipedia\r\n",
					  "4\r\nWiki\n", "ffffffffffffffffff\r\n", " 4\r\nWiki\r\n"};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct http_chunks c = {0};
		struct buf body = BUF_CAP(1000);

		http_chunks_take(&c, bad[i], strlen(bad[i]), &body);
		if (c.state != CHUNK_BAD)
			fail_msg("expected '%s' to be refused, found state %d", bad[i], c.state);
		buf_clear(&body);
	}
}

static void random_bytes_do_no_harm(void **state)
{
	static const char seed[] = "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
	struct rng r = rng_seed(7);

	(void)state;
	for (int i = 0; i < 20000; i++) {
		size_t n = sizeof seed - 1;
		char *p = mem_strn(seed, n);
		struct http_refusal why = {0};
		struct http_head h;
		struct http_chunks c = {0};
		struct buf body = BUF_CAP(100);

		for (uint64_t k = rng_below(&r, 6); k; k--)
			p[rng_below(&r, n)] = (char)rng_below(&r, 256);
		http_chunks_take(&c, p, n, &body);
		if (!http_head_parse(&h, p, n, &why) && (why.status < 400 || why.status > 505 || !why.text[0]))
			fail_msg("a refusal with status %d and text '%s'", why.status, why.text);
		http_head_clear(&h);
		buf_clear(&body);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_head_is_taken_apart),
		cmocka_unit_test(the_connection_field_and_the_version_decide_about_keeping),
		cmocka_unit_test(malformed_heads_are_refused_with_their_status),
		cmocka_unit_test(the_end_of_a_head_is_found_however_it_is_cut),
		cmocka_unit_test(chunks_are_joined_however_they_are_cut),
		cmocka_unit_test(malformed_chunks_are_refused),
		cmocka_unit_test(random_bytes_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
