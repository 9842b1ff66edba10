/* fetch_test.c - a download arrives whole and checked, or fails with a sentence and can go on, whatever the server does.
 *
 * The hub is a server on the loopback interface (support/hub_server.h).  After a success the file is compared byte
 * for byte with the formula that defines it; after a failure the final name must not exist. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/file.h"
#include "hub/fetch.h"
#include "hub/hub.h"
#include "support/hub_server.h"

#define CHUNK (256 << 10)

struct scene {
	struct hub_server s;
	struct hub_access a;
	struct fetch_options o;
	struct hub_file f;
	struct fetch_report r;
	struct err err;
	char what[200];
	volatile int cancel;
	uint64_t cancel_at, checked;	/* cancel as soon as so many bytes are done; 0 = never */
	int most_connections;
	char waited[240];
};

static char dir[64], path[96], part[96], journal[96];

static int set_up(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/ds4-fetch-test-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/x.gguf", dir);
	snprintf(part, sizeof part, "%s/x.gguf.part", dir);
	snprintf(journal, sizeof journal, "%s/x.gguf.part.json", dir);
	return 0;
}

static void clean(void)
{
	unlink(path);
	unlink(part);
	unlink(journal);
}

static int tear_down(void **state)
{
	(void)state;
	return rmdir(dir);	/* fails when something else was left */
}

static void on_progress(void *ctx, const struct fetch_progress *p)
{
	struct scene *c = ctx;

	if (p->connections > c->most_connections)
		c->most_connections = p->connections;
	if (p->done > p->total || p->hashed > p->done)
		fail_msg("of %llu bytes %llu are done and %llu checked", (unsigned long long)p->total, (unsigned long long)p->done,
			 (unsigned long long)p->hashed);
	c->checked = p->hashed;
	if (c->cancel_at && p->done >= c->cancel_at)
		c->cancel = 1;
}

static void on_waiting(void *ctx, const char *why, double seconds)
{
	struct scene *c = ctx;

	(void)seconds;
	snprintf(c->waited, sizeof c->waited, "%s", why);
}

static void begin(struct scene *c)
{
	memset(c, 0, sizeof *c);
	hub_server_init(&c->s);
	c->a = (struct hub_access)HUB_ACCESS_DEFAULT;
	c->a.backoff_s = 0.01;
	c->a.stall_s = 1;
	c->a.retries = 4;
	c->a.cancel = &c->cancel;
	c->a.waiting = on_waiting;
	c->a.ctx = c;
	c->o = (struct fetch_options)FETCH_OPTIONS_DEFAULT;
	c->o.path = path;
	c->o.connections = 4;
	c->o.chunk_bytes = CHUNK;
	c->o.journal_s = 0.05;
	c->o.progress = on_progress;
	c->o.ctx = c;
}

static enum status run(struct scene *c)
{
	const struct hub_model *m;

	if (!c->s.base[0] && !hub_server_start(&c->s))
		fail_msg("no socket on the loopback interface");
	hub_file_clear(&c->f);
	c->a.endpoint = c->s.base;
	snprintf(c->what, sizeof c->what, "%s/o/r/resolve/main/x.gguf", c->s.base);
	c->err = (struct err){.code = OK};
	if (hub_file_init(&c->f, &m, c->what, &c->a, "main", &c->err) != OK ||
	    hub_resolve(&c->f, &c->a, &c->err) != OK)
		fail_msg("%s", c->err.msg);
	return fetch_run(&c->f, &c->a, &c->o, &c->r, &c->err);
}

static void end(struct scene *c)
{
	hub_file_clear(&c->f);
	hub_server_stop(&c->s);
}

static bool exists(const char *p)
{
	return access(p, F_OK) == 0;
}

/* The file is there, is the right one, and nothing else is. */
static void arrived(struct scene *c, enum status st)
{
	struct file_map m;

	if (st != OK)
		fail_msg("%s", c->err.msg);
	if (file_map(&m, path, &c->err) != OK)
		fail_msg("%s", c->err.msg);
	assert_int_equal(m.bytes, HUB_FILE_BYTES);
	for (size_t i = 0; i < m.bytes; i++)
		if (m.data[i] != hub_file_byte(i))
			fail_msg("byte %zu: expected %d, found %d", i, hub_file_byte(i), m.data[i]);
	file_unmap(&m);
	assert_false(exists(part));
	assert_false(exists(journal));
}

static void refused(struct scene *c, enum status want, const char *sentence)
{
	enum status got = run(c);

	if (got != want || c->err.code != want || !strstr(c->err.msg, sentence))
		fail_msg("expected %s with '%s', found %s: %s", status_name(want), sentence, status_name(got), c->err.msg);
	if (strstr(c->err.msg, "hush"))
		fail_msg("a signed address is in the message: %s", c->err.msg);
	assert_false(exists(path));
}

/* ------------------------------------------------------------------ what goes well */

static void a_file_arrives_over_several_connections_and_is_checked(void **state)
{
	struct hub_counts n;
	struct scene c;

	(void)state;
	begin(&c);
	c.s.token = c.a.token = "hf_secret";
	c.s.storage_name = "localhost";
	c.s.bytes_per_s = 2 << 20;
	arrived(&c, run(&c));
	n = hub_server_count(&c.s);
	assert_true(c.r.verified);
	assert_int_equal(n.body_bytes, HUB_FILE_BYTES + 1);	/* the 1 is the question's */
	assert_int_equal(c.r.fetched_bytes, HUB_FILE_BYTES);
	assert_int_equal(n.storage_tokens, 0);
	assert_int_equal(n.origin_tokens, 1);
	if (n.parallel < 3 || c.most_connections != 4)
		fail_msg("expected 4 connections, the server saw %d at once, the client %d", n.parallel, c.most_connections);
	end(&c);
	clean();
}

static void one_connection_and_odd_chunks_do_as_well(void **state)
{
	static const struct { int connections; uint64_t chunk; } cases[] = {
		{1, CHUNK}, {32, 100003}, {3, HUB_FILE_BYTES}, {8, 1 << 30}, {2, HUB_FILE_BYTES - 1},
	};
	struct scene c;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		begin(&c);
		c.o.connections = cases[i].connections;
		c.o.chunk_bytes = cases[i].chunk;
		arrived(&c, run(&c));
		end(&c);
		clean();
	}
}

static void a_slow_server_is_borne(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.bytes_per_s = 400 << 10;	/* of each of 4: two seconds, longer than the stall limit */
	arrived(&c, run(&c));
	assert_int_equal(c.r.failures, 0);
	end(&c);
	clean();
}

static void a_finished_file_is_checked_and_left_alone(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	arrived(&c, run(&c));
	arrived(&c, run(&c));
	assert_true(c.r.was_there);
	assert_true(c.r.verified);
	assert_int_equal(c.r.fetched_bytes, 0);
	end(&c);
	clean();
}

static void another_file_of_that_name_is_kept_unless_forced(void **state)
{
	uint8_t *other = malloc(HUB_FILE_BYTES);
	struct scene c;

	(void)state;
	assert_non_null(other);
	memset(other, 7, HUB_FILE_BYTES);
	begin(&c);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(file_write(path, other, i ? HUB_FILE_BYTES : 5, &c.err), OK);
		c.o.force = false;
		assert_int_equal(run(&c), ERR_ARGUMENT);
		assert_non_null(strstr(c.err.msg, i ? "its SHA-256 is not the one" : "is a file of another size"));
		assert_false(exists(part));
		c.o.force = true;
		arrived(&c, run(&c));
	}
	end(&c);
	clean();
	free(other);
}

/* ------------------------------------------------------------------ interruptions */

static void a_stopped_run_goes_on_without_fetching_twice(void **state)
{
	struct scene c;
	uint64_t first;

	(void)state;
	begin(&c);
	c.s.bytes_per_s = 2 << 20;
	c.cancel_at = HUB_FILE_BYTES / 2;
	refused(&c, ERR_CANCELLED, "stopped");
	assert_true(exists(part));
	assert_true(exists(journal));
	first = c.r.fetched_bytes;
	c.cancel = 0;
	c.cancel_at = 0;
	arrived(&c, run(&c));
	assert_int_equal(c.r.resumed_bytes, first);	/* an orderly end loses nothing */
	assert_int_equal(first + c.r.fetched_bytes, HUB_FILE_BYTES);
	assert_true(c.r.verified);
	end(&c);
	clean();
}

static void cut_transfers_go_on_where_they_were(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.cut_after = CHUNK / 2;
	c.s.cuts = -1;
	arrived(&c, run(&c));
	assert_true(c.r.failures >= 10);
	assert_int_equal(c.r.fetched_bytes, HUB_FILE_BYTES);
	end(&c);
	clean();
}

static void a_silent_connection_is_given_up_and_replaced(void **state)
{
	double start = clock_seconds();
	struct scene c;

	(void)state;
	begin(&c);
	c.s.stall_after = 1000;
	c.s.stalls = 2;
	arrived(&c, run(&c));
	if (c.r.failures != 2)
		fail_msg("expected 2 silent connections, found %d failures", c.r.failures);
	if (clock_seconds() - start > 20)
		fail_msg("took %.1f s", clock_seconds() - start);
	end(&c);
	clean();
}

static void an_expired_address_is_asked_for_again(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.address_lasts = 6;
	c.s.token = c.a.token = "hf_secret";
	arrived(&c, run(&c));
	assert_true(hub_server_count(&c.s).origin_requests >= 3);
	assert_int_equal(hub_server_count(&c.s).storage_tokens, 0);
	end(&c);
	clean();
}

static void a_server_without_ranges_sends_the_whole_file(void **state)
{
	struct scene c;

	(void)state;
	for (int i = 0; i < 3; i++) {
		begin(&c);
		c.s.ignores_range = true;
		c.s.no_length = i == 1;
		c.s.cut_after = i == 2 ? 1000000 : 0;
		c.s.cuts = 3;
		arrived(&c, run(&c));
		assert_int_equal(c.most_connections, 1);
		end(&c);
		clean();
	}
}

static void a_server_that_loses_its_ranges_on_the_way_is_followed(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.bytes_per_s = 2 << 20;
	c.cancel_at = HUB_FILE_BYTES / 2;
	refused(&c, ERR_CANCELLED, "stopped");
	c.cancel = 0;
	c.cancel_at = 0;
	hub_server_stop(&c.s);
	c.s.bytes_per_s = 0;
	c.s.ignores_range = true;
	arrived(&c, run(&c));
	end(&c);
	clean();
}

/* ------------------------------------------------------------------ errors of the server */

static void troubles_that_pass_are_waited_for(void **state)
{
	static const struct hub_failure cases[] = {
		{.status = 500, .times = 3}, {.status = 503, .times = 4, .after = 1000000},
		{.status = 429, .times = 4, .after = 500000}, {.status = 408, .times = 1},
	};
	struct scene c;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		begin(&c);
		c.s.storage_failure = cases[i];
		arrived(&c, run(&c));
		end(&c);
		clean();
	}
}

static void retry_after_holds_all_connections(void **state)
{
	double start = clock_seconds();
	struct scene c;

	(void)state;
	begin(&c);
	c.s.storage_failure = (struct hub_failure){.status = 429, .times = 1, .after = 2, .retry_after = 1};
	arrived(&c, run(&c));
	if (clock_seconds() - start < 1)
		fail_msg("Retry-After: 1 was not kept: %.3f s", clock_seconds() - start);
	assert_string_equal(c.waited, "429 Too Many Requests");
	end(&c);
	clean();
}

static void troubles_that_stay_end_with_a_sentence_and_a_partial_file(void **state)
{
	static const struct { int status; enum status want; const char *part; } cases[] = {
		{500, ERR_IO, "/store/x: 500 Internal Server Error (tried 5 times; the same command continues)"},
		{429, ERR_LIMIT, "429 Too Many Requests (tried 5 times"},
		{401, ERR_ARGUMENT, "401 Unauthorized"},
		{404, ERR_NOT_FOUND, "404 Not Found"},
		{400, ERR_IO, "400 Bad Request"},
		{416, ERR_FORMAT, "416: the server says that bytes "},
	};
	struct scene c;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		begin(&c);
		c.s.storage_failure = (struct hub_failure){.status = cases[i].status, .times = -1, .after = 1000000};
		refused(&c, cases[i].want, cases[i].part);
		assert_true(exists(part) && exists(journal));
		hub_server_stop(&c.s);
		c.s.storage_failure.times = 0;	/* and the next run goes on */
		arrived(&c, run(&c));
		assert_true(c.r.resumed_bytes > 0);
		end(&c);
		clean();
	}
}

static void a_failure_before_the_first_byte_leaves_nothing(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.storage_failure = (struct hub_failure){.status = 500, .times = -1, .after = 1};
	refused(&c, ERR_IO, "500");
	assert_false(exists(part) || exists(journal));
	end(&c);
}

static void a_file_that_shrinks_on_the_server_is_a_contradiction(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.storage_failure = (struct hub_failure){.status = 416, .times = -1, .after = 1, .total = 77};
	refused(&c, ERR_FORMAT, "416: expected a file of 3146003 bytes, the server's has 77");
	end(&c);
}

/* ------------------------------------------------------------------ wrong bytes */

static void a_wrong_byte_is_found_and_the_file_thrown_away(void **state)
{
	static const int64_t at[] = {0, HUB_FILE_BYTES / 2, HUB_FILE_BYTES - 1};
	struct scene c;

	(void)state;
	for (int i = 0; i < 3; i++) {
		begin(&c);
		c.s.wrong_byte = at[i];
		refused(&c, ERR_FORMAT, "x.gguf: expected SHA-256 " HUB_FILE_SHA256 ", what arrived has ");
		assert_false(exists(part) || exists(journal));
		end(&c);
	}
}

static void a_partial_file_that_was_changed_meanwhile_is_found_too(void **state)
{
	struct scene c;
	int fd;

	(void)state;
	begin(&c);
	c.s.bytes_per_s = 2 << 20;
	c.cancel_at = HUB_FILE_BYTES / 2;
	refused(&c, ERR_CANCELLED, "stopped");
	fd = open(part, O_WRONLY);
	assert_int_equal(pwrite(fd, "\xff", 1, 100), 1);
	close(fd);
	c.cancel = 0;
	c.cancel_at = 0;
	refused(&c, ERR_FORMAT, "what arrived has ");
	end(&c);
	clean();
}

static void answers_about_other_bytes_are_not_written(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.shifted = true;
	refused(&c, ERR_FORMAT, "asked for bytes ");
	end(&c);
	clean();
	begin(&c);
	c.s.longer = true;
	arrived(&c, run(&c));	/* what is too much is cut off, and the digest agrees */
	end(&c);
	clean();
}

static void a_file_without_a_digest_is_refused_unless_asked_for(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.no_digest = true;
	refused(&c, ERR_FORMAT, "x.gguf: the server names no SHA-256 for it; give one with --sha256");
	c.o.unverified = true;
	arrived(&c, run(&c));
	assert_false(c.r.verified);
	end(&c);
	clean();
}

/* ------------------------------------------------------------------ the partial file */

static void half_a_file_of_another_version_is_kept_until_restart(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	c.s.bytes_per_s = 2 << 20;
	c.cancel_at = HUB_FILE_BYTES / 2;
	refused(&c, ERR_CANCELLED, "stopped");
	c.cancel = 0;
	c.cancel_at = 0;
	hub_server_stop(&c.s);
	c.s.digest = NULL;
	c.s.bytes_per_s = 0;
	refused(&c, ERR_ARGUMENT, "is about another version of the file");
	assert_true(exists(part) && exists(journal));
	c.o.restart = true;
	arrived(&c, run(&c));
	assert_int_equal(c.r.resumed_bytes, 0);
	end(&c);
	clean();
}

static void a_partial_file_of_unknown_origin_is_kept_until_restart(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	assert_int_equal(file_write(part, "what is this", 12, &c.err), OK);
	refused(&c, ERR_ARGUMENT, "has 12 bytes but no journal beside it");
	c.o.restart = true;
	arrived(&c, run(&c));
	end(&c);
	clean();
}

static void a_journal_that_promises_more_than_the_file_has_is_cut(void **state)
{
	struct scene c;

	(void)state;
	begin(&c);
	c.s.bytes_per_s = 2 << 20;
	c.cancel_at = HUB_FILE_BYTES / 2;
	refused(&c, ERR_CANCELLED, "stopped");
	assert_int_equal(truncate(part, 1000), 0);
	c.cancel = 0;
	c.cancel_at = 0;
	arrived(&c, run(&c));
	assert_true(c.r.resumed_bytes <= 1000);
	end(&c);
	clean();
}

static void a_second_run_at_the_same_file_is_refused(void **state)
{
	struct scene c;
	int fd;

	(void)state;
	begin(&c);
	fd = open(part, O_RDWR | O_CREAT, 0600);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	refused(&c, ERR_IO, "x.gguf.part: another ds4 pull is downloading this file");
	assert_true(exists(part));
	close(fd);
	arrived(&c, run(&c));
	end(&c);
	clean();
}

static void a_full_disk_is_one_sentence_and_resumable(void **state)
{
	struct rlimit old, low;
	struct scene c;
	enum status st;

	(void)state;
	begin(&c);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	low = (struct rlimit){1 << 20, old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &low);
	st = run(&c);
	setrlimit(RLIMIT_FSIZE, &old);
	if (st != ERR_IO || !strstr(c.err.msg, "x.gguf.part: File too large; the same command continues"))
		fail_msg("expected ERR_IO, found %s: %s", status_name(st), c.err.msg);
	arrived(&c, run(&c));
	assert_true(c.r.resumed_bytes > 0);
	end(&c);
	clean();
}

static void too_little_space_is_found_before_the_first_byte(void **state)
{
	uint64_t needed, available;
	struct scene c;

	(void)state;
	begin(&c);
	c.s.total = c.s.linked_size = (int64_t)1 << 60;
	refused(&c, ERR_LIMIT, "x.gguf.part: 1099511627776.0 MiB more are needed on its disk, ");
	assert_false(exists(part) || exists(journal));
	assert_int_equal(hub_server_count(&c.s).storage_requests, 1);
	assert_int_equal(fetch_space(&needed, &available, &c.f, path, &c.err), OK);
	assert_int_equal(needed, (uint64_t)1 << 60);
	end(&c);
}

static void a_missing_folder_is_said(void **state)
{
	char elsewhere[120];
	struct scene c;

	(void)state;
	begin(&c);
	snprintf(elsewhere, sizeof elsewhere, "%s/no/x.gguf", dir);
	c.o.path = elsewhere;
	refused(&c, ERR_NOT_FOUND, "/no/x.gguf.part: No such file or directory");
	end(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_arrives_over_several_connections_and_is_checked),
		cmocka_unit_test(one_connection_and_odd_chunks_do_as_well),
		cmocka_unit_test(a_slow_server_is_borne),
		cmocka_unit_test(a_finished_file_is_checked_and_left_alone),
		cmocka_unit_test(another_file_of_that_name_is_kept_unless_forced),
		cmocka_unit_test(a_stopped_run_goes_on_without_fetching_twice),
		cmocka_unit_test(cut_transfers_go_on_where_they_were),
		cmocka_unit_test(a_silent_connection_is_given_up_and_replaced),
		cmocka_unit_test(an_expired_address_is_asked_for_again),
		cmocka_unit_test(a_server_without_ranges_sends_the_whole_file),
		cmocka_unit_test(a_server_that_loses_its_ranges_on_the_way_is_followed),
		cmocka_unit_test(troubles_that_pass_are_waited_for),
		cmocka_unit_test(retry_after_holds_all_connections),
		cmocka_unit_test(troubles_that_stay_end_with_a_sentence_and_a_partial_file),
		cmocka_unit_test(a_failure_before_the_first_byte_leaves_nothing),
		cmocka_unit_test(a_file_that_shrinks_on_the_server_is_a_contradiction),
		cmocka_unit_test(a_wrong_byte_is_found_and_the_file_thrown_away),
		cmocka_unit_test(a_partial_file_that_was_changed_meanwhile_is_found_too),
		cmocka_unit_test(answers_about_other_bytes_are_not_written),
		cmocka_unit_test(a_file_without_a_digest_is_refused_unless_asked_for),
		cmocka_unit_test(half_a_file_of_another_version_is_kept_until_restart),
		cmocka_unit_test(a_partial_file_of_unknown_origin_is_kept_until_restart),
		cmocka_unit_test(a_journal_that_promises_more_than_the_file_has_is_cut),
		cmocka_unit_test(a_second_run_at_the_same_file_is_refused),
		cmocka_unit_test(a_full_disk_is_one_sentence_and_resumable),
		cmocka_unit_test(too_little_space_is_found_before_the_first_byte),
		cmocka_unit_test(a_missing_folder_is_said),
	};

	setenv("no_proxy", "*", 1);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
