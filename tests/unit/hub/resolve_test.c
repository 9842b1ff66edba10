/* resolve_test.c - names, addresses and tokens; what the hub's first answer is believed about, and what is refused.
 *
 * The hub is a server on the loopback interface (support/hub_server.h): nothing here leaves the machine. */
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

#include "base/clock.h"
#include "base/file.h"
#include "hub/hub.h"
#include "support/hub_server.h"

struct scene {
	struct hub_server s;
	struct hub_access a;
	struct hub_file f;
	struct err err;
	char what[200];
};

static void begin(struct scene *c)
{
	memset(c, 0, sizeof *c);
	hub_server_init(&c->s);
	c->a = (struct hub_access)HUB_ACCESS_DEFAULT;
	c->a.backoff_s = 0.01;
	c->a.stall_s = 1;
	c->a.retries = 3;
}

static enum status resolve(struct scene *c)
{
	const struct hub_model *m;

	if (!hub_server_start(&c->s))
		fail_msg("no socket on the loopback interface");
	c->a.endpoint = c->s.base;
	snprintf(c->what, sizeof c->what, "%s/o/r/resolve/main/x.gguf", c->s.base);
	if (hub_file_init(&c->f, &m, c->what, &c->a, "main", &c->err) != OK)
		fail_msg("%s", c->err.msg);
	return hub_resolve(&c->f, &c->a, &c->err);
}

static void end(struct scene *c)
{
	hub_file_clear(&c->f);
	hub_server_stop(&c->s);
}

static void works(struct scene *c)
{
	if (resolve(c) != OK)
		fail_msg("%s", c->err.msg);
	assert_int_equal(c->f.size, HUB_FILE_BYTES);
}

static void refuses(struct scene *c, enum status want, const char *part)
{
	enum status got = resolve(c);

	if (got != want || !strstr(c->err.msg, part))
		fail_msg("expected %s with '%s', found %s: %s", status_name(want), part, status_name(got), c->err.msg);
	if (strstr(c->err.msg, "hush") || (c->a.token && strstr(c->err.msg, c->a.token)))
		fail_msg("a secret is in the message: %s", c->err.msg);
	end(c);
}

/* ------------------------------------------------------------------ names */

static void names_become_addresses_and_safe_file_names(void **state)
{
	static const struct { const char *what, *url, *name; } cases[] = {
		{"mtp", "http://h/antirez/deepseek-v4-gguf/resolve/main/DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf",
		 "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"},
		{"q2", "http://h/antirez/deepseek-v4-gguf/resolve/main/"
		 "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf",
		 "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"},
		{"http://h/o/r/blob/main/a.gguf", "http://h/o/r/resolve/main/a.gguf", "a.gguf"},
		{"http://other/o/r/blob/main/a.gguf", "http://other/o/r/blob/main/a.gguf", "a.gguf"},
		{"https://x/a%20b.gguf?download=true", "https://x/a%20b.gguf?download=true", "a b.gguf"},
	};
	struct hub_access a = HUB_ACCESS_DEFAULT;
	const struct hub_model *m;
	struct hub_file f;
	struct err err = {0};

	(void)state;
	a.endpoint = "http://h";
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		if (hub_file_init(&f, &m, cases[i].what, &a, "main", &err) != OK)
			fail_msg("%s: %s", cases[i].what, err.msg);
		assert_string_equal(f.url, cases[i].url);
		assert_string_equal(f.name, cases[i].name);
		assert_true((m != NULL) == !strstr(cases[i].what, "://"));
		hub_file_clear(&f);
	}
}

static void names_that_would_leave_the_folder_are_refused(void **state)
{
	static const char *const bad[] = {"q3", "", "ftp://h/x.gguf", "http://h/", "http://h/a/..%2f..%2fetc", "http://h/%2e%2e",
					  "http://h/.hidden", "http://h/a%0ab", "http://h/a%00b", "http://", "file:///etc/passwd",
					  "http://h/a%5cb"};
	struct hub_access a = HUB_ACCESS_DEFAULT;
	const struct hub_model *m;
	struct hub_file f;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		err.msg[0] = 0;
		if (hub_file_init(&f, &m, bad[i], &a, "main", &err) != ERR_ARGUMENT || !err.msg[0])
			fail_msg("'%s' was not refused: '%s'", bad[i], f.name ? f.name : "");
		hub_file_clear(&f);
	}
	assert_int_equal(hub_file_init(&f, &m, "q2", &a, "../x", &err), ERR_ARGUMENT);
	hub_file_clear(&f);
}

static void the_endpoint_comes_from_the_option_then_the_environment(void **state)
{
	char out[100];
	struct err err = {0};

	(void)state;
	unsetenv("HF_ENDPOINT");
	assert_int_equal(hub_find_endpoint(out, sizeof out, NULL, &err), OK);
	assert_string_equal(out, "https://huggingface.co");
	setenv("HF_ENDPOINT", "https://mirror.example/hf/", 1);
	assert_int_equal(hub_find_endpoint(out, sizeof out, NULL, &err), OK);
	assert_string_equal(out, "https://mirror.example/hf");
	assert_int_equal(hub_find_endpoint(out, sizeof out, "http://h:81//", &err), OK);
	assert_string_equal(out, "http://h:81");
	assert_int_equal(hub_find_endpoint(out, sizeof out, "mirror.example", &err), ERR_ARGUMENT);
	assert_int_equal(hub_find_endpoint(out, sizeof out, "https://u:hush@h", &err), ERR_ARGUMENT);
	assert_null(strstr(err.msg, "hush"));
	unsetenv("HF_ENDPOINT");
}

/* ------------------------------------------------------------------ tokens */

static void expect_token(const char *option, const char *endpoint, const char *want, enum hub_token_source source)
{
	char out[HUB_TOKEN_MAX + 1];
	enum hub_token_source from;
	struct err err = {0};

	if (hub_find_token(out, &from, option, endpoint, &err) != OK)
		fail_msg("%s", err.msg);
	assert_string_equal(out, want);
	assert_int_equal(from, source);
}

static void the_token_comes_from_the_option_the_environment_or_the_cache_file(void **state)
{
	char home[] = "/tmp/ds4-token-test-XXXXXX", path[100], out[HUB_TOKEN_MAX + 1];
	enum hub_token_source from;
	struct err err = {0};

	(void)state;
	assert_non_null(mkdtemp(home));
	unsetenv("HF_TOKEN");
	unsetenv("HF_TOKEN_PATH");
	setenv("HF_HOME", home, 1);
	expect_token(NULL, HUB_ENDPOINT, "", HUB_TOKEN_NONE);
	snprintf(path, sizeof path, "%s/token", home);
	assert_int_equal(file_write(path, "hf_file\n", 8, &err), OK);
	expect_token(NULL, HUB_ENDPOINT, "hf_file", HUB_TOKEN_FILE);
	expect_token(NULL, "https://mirror.example", "", HUB_TOKEN_NONE);	/* it is huggingface.co's */
	expect_token(NULL, "http://huggingface.co", "", HUB_TOKEN_NONE);
	setenv("HF_TOKEN", "hf_env", 1);
	expect_token(NULL, "https://mirror.example", "hf_env", HUB_TOKEN_ENV);
	expect_token("hf_option", HUB_ENDPOINT, "hf_option", HUB_TOKEN_OPTION);
	assert_int_equal(hub_find_token(out, &from, "a\r\nHost: x", HUB_ENDPOINT, &err), ERR_FORMAT);
	assert_null(strstr(err.msg, "Host"));
	unsetenv("HF_TOKEN");
	unsetenv("HF_HOME");
	setenv("HOME", home, 1);
	expect_token(NULL, HUB_ENDPOINT, "", HUB_TOKEN_NONE);
	unlink(path);
	snprintf(path, sizeof path, "%s/.cache", home);
	mkdir(path, 0700);
	snprintf(path, sizeof path, "%s/.cache/huggingface", home);
	mkdir(path, 0700);
	snprintf(path, sizeof path, "%s/.cache/huggingface/token", home);
	assert_int_equal(file_write(path, "hf_home", 7, &err), OK);
	expect_token(NULL, HUB_ENDPOINT, "hf_home", HUB_TOKEN_FILE);
	unlink(path);
	snprintf(path, sizeof path, "%s/.cache/huggingface", home);
	rmdir(path);
	snprintf(path, sizeof path, "%s/.cache", home);
	rmdir(path);
	rmdir(home);
}

static void the_token_reaches_the_origin_and_no_other_host(void **state)
{
	struct hub_counts n;
	struct scene c;

	(void)state;
	for (int i = 0; i < 2; i++) {	/* another port, then another name as well */
		begin(&c);
		c.s.storage_name = i ? "localhost" : "127.0.0.1";
		c.s.token = c.a.token = "hf_secret";
		works(&c);
		n = hub_server_count(&c.s);
		assert_int_equal(n.origin_tokens, 1);
		assert_int_equal(n.storage_requests, 1);
		assert_int_equal(n.storage_tokens, 0);
		assert_null(strstr(c.f.location, "hf_secret"));
		end(&c);
	}
}

static void an_address_of_another_host_gets_no_token(void **state)
{
	const struct hub_model *m;
	struct scene c;

	(void)state;
	begin(&c);
	c.a.token = "hf_secret";
	assert_true(hub_server_start(&c.s));
	c.a.endpoint = "https://huggingface.co";
	snprintf(c.what, sizeof c.what, "%s/x.gguf", c.s.base);
	assert_int_equal(hub_file_init(&c.f, &m, c.what, &c.a, "main", &c.err), OK);
	assert_int_equal(hub_resolve(&c.f, &c.a, &c.err), OK);
	assert_int_equal(hub_server_count(&c.s).origin_requests, 1);
	assert_int_equal(hub_server_count(&c.s).origin_tokens, 0);
	end(&c);
}

/* ------------------------------------------------------------------ answers */

static void size_and_digest_are_the_origins(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	works(&c);
	assert_string_equal(c.f.sha256, HUB_FILE_SHA256);	/* not the storage host's ETag */
	assert_true(c.f.ranges);
	assert_non_null(strstr(c.f.location, "/store/x?sig=1"));
	end(&c);
	begin(&c);
	c.s.plain_etag = c.s.relative = true;
	works(&c);
	assert_string_equal(c.f.sha256, HUB_FILE_SHA256);
	end(&c);
}

static void a_storage_hosts_etag_is_no_digest(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.no_digest = true;
	works(&c);
	assert_string_equal(c.f.sha256, "");
	end(&c);
	begin(&c);
	c.s.digest = "d41d8cd98f00b204e9800998ecf8427e";	/* an MD5 */
	works(&c);
	assert_string_equal(c.f.sha256, "");
	assert_string_equal(c.f.etag, c.s.digest);
	end(&c);
}

static void a_server_without_redirect_or_ranges_is_fine(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.direct = true;
	works(&c);
	assert_true(c.f.ranges);
	assert_string_equal(c.f.location, c.f.url);
	end(&c);
	begin(&c);
	c.s.ignores_range = true;
	works(&c);
	assert_false(c.f.ranges);
	end(&c);
	begin(&c);
	c.s.ignores_range = c.s.no_length = true;
	works(&c);	/* X-Linked-Size says it */
	end(&c);
}

static void refusals_say_what_to_do(void **state)
{
	static const struct { int status; enum status want; const char *part; } cases[] = {
		{401, ERR_ARGUMENT, "401 Unauthorized: private, gated or not there; a token is given with --token or $HF_TOKEN"},
		{403, ERR_ARGUMENT, "403 Forbidden"},
		{404, ERR_NOT_FOUND, "404 Not Found"},
		{400, ERR_IO, "400 Bad Request"},
		{416, ERR_IO, "416 Range Not Satisfiable"},
		{429, ERR_LIMIT, "429 Too Many Requests (tried 4 times)"},
		{500, ERR_IO, "500 Internal Server Error (tried 4 times)"},
	};
	struct scene c;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		begin(&c);
		c.s.origin_failure = (struct hub_failure){.status = cases[i].status, .times = -1};
		refuses(&c, cases[i].want, cases[i].part);
	}
	begin(&c);
	c.s.token = "hf_right";
	c.a.token = "hf_wrong";
	c.a.token_source = HUB_TOKEN_ENV;
	refuses(&c, ERR_ARGUMENT, "the token in $HF_TOKEN gives no access");
}

static void troubles_that_pass_are_waited_for(void **state)
{
	double start = clock_seconds();
	struct scene c;

	(void)state;
	begin(&c);
	c.s.origin_failure = (struct hub_failure){.status = 503, .times = 3};
	works(&c);
	end(&c);
	begin(&c);
	c.s.origin_failure = (struct hub_failure){.status = 429, .times = 1, .retry_after = 1};
	works(&c);
	if (clock_seconds() - start < 1)
		fail_msg("Retry-After: 1 was not kept: %.3f s", clock_seconds() - start);
	end(&c);
	begin(&c);
	c.s.origin_failure = (struct hub_failure){.status = 429, .times = 1, .retry_after = 4000};
	refuses(&c, ERR_LIMIT, "the server asks to wait 4000 s, more than the 600 s allowed");
}

static void lies_about_the_size_are_refused(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.linked_size = 1000;
	refuses(&c, ERR_FORMAT, "the hub says that it has 1000 bytes, the server that sends it says 3146003");
	begin(&c);
	c.s.total = 5;
	refuses(&c, ERR_FORMAT, "the hub says that it has 3146003 bytes, the server that sends it says 5");
	begin(&c);
	c.s.no_content_range = true;
	refuses(&c, ERR_FORMAT, "asked for byte 0");
	begin(&c);
	c.s.linked_size = -1;
	c.s.ignores_range = c.s.no_length = true;
	refuses(&c, ERR_FORMAT, "does not say how large the file is");
}

static void redirects_that_never_end_or_lead_elsewhere_are_refused(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.endless = true;
	refuses(&c, ERR_IO, "more than 8 redirects");
	begin(&c);
	c.s.location = "file:///etc/passwd";
	refuses(&c, ERR_IO, "redirects");
	begin(&c);
	c.s.location = "http://127.0.0.1:1/x?secret=hush";	/* nobody listens */
	refuses(&c, ERR_IO, "http://127.0.0.1:1/x: ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_become_addresses_and_safe_file_names),
		cmocka_unit_test(names_that_would_leave_the_folder_are_refused),
		cmocka_unit_test(the_endpoint_comes_from_the_option_then_the_environment),
		cmocka_unit_test(the_token_comes_from_the_option_the_environment_or_the_cache_file),
		cmocka_unit_test(the_token_reaches_the_origin_and_no_other_host),
		cmocka_unit_test(an_address_of_another_host_gets_no_token),
		cmocka_unit_test(size_and_digest_are_the_origins),
		cmocka_unit_test(a_storage_hosts_etag_is_no_digest),
		cmocka_unit_test(a_server_without_redirect_or_ranges_is_fine),
		cmocka_unit_test(refusals_say_what_to_do),
		cmocka_unit_test(troubles_that_pass_are_waited_for),
		cmocka_unit_test(lies_about_the_size_are_refused),
		cmocka_unit_test(redirects_that_never_end_or_lead_elsewhere_are_refused),
	};

	setenv("no_proxy", "*", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
