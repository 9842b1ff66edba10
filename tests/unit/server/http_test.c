/* http_test.c - connections and exchanges over real sockets: framing, limits, who leaves, who is slow.
 *
 * The server's loop runs on a thread.  /echo answers with the body, /later when it is told to, /stream with as much as
 * it is told to, everything else with its path. */
#include <event2/event.h>
#include <event2/thread.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/http.h"
#include "server/loop.h"
#include "support/http_client.h"

struct scene {
	struct event_base *base;
	struct loop *loop;
	struct http *http;
	pthread_t thread;
	int port;
	struct exchange *later;
	struct wake answer, quit;
	double gone_at;
	int gone, done, refused, last_status;
	size_t to_stream, most_unsent, streamed;
	pthread_mutex_t lock;
};

static struct scene scene;

static int read_int(const int *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static void add(int *p)
{
	__atomic_fetch_add(p, 1, __ATOMIC_SEQ_CST);
}

static void on_gone(void *ctx)
{
	struct scene *s = ctx;

	s->later = NULL;
	s->gone_at = clock_seconds();
	add(&s->gone);
}

/* Writes while less than 64 KiB wait, as a careful owner does. */
static void stream_more(void *ctx)
{
	static char block[8192];
	struct scene *s = ctx;

	while (s->later && s->streamed < s->to_stream && exchange_unsent(s->later) < 64 << 10) {
		exchange_write(s->later, block, sizeof block);
		s->streamed += sizeof block;
		if (exchange_unsent(s->later) > s->most_unsent)
			s->most_unsent = exchange_unsent(s->later);
	}
	if (s->later && s->streamed >= s->to_stream) {
		struct exchange *x = s->later;

		s->later = NULL;
		exchange_end(x);
	}
}

static void on_request(void *ctx, struct exchange *x)
{
	struct scene *s = ctx;

	if (!strcmp(x->head.path, "/echo")) {
		exchange_reply(x, 200, "text/plain", x->body.data, x->body.len);
	} else if (!strcmp(x->head.path, "/later")) {
		x->gone = on_gone;
		x->ctx = s;
		s->later = x;
	} else if (!strcmp(x->head.path, "/stream")) {
		x->gone = on_gone;
		x->drained = stream_more;
		x->ctx = s;
		s->streamed = 0;
		s->later = x;
		exchange_begin(x, 200, "text/plain");
		stream_more(s);
	} else {
		exchange_reply(x, 200, "text/plain", x->head.path, strlen(x->head.path));
	}
}

static void on_refused(void *ctx, struct exchange *x, const struct http_refusal *why)
{
	struct scene *s = ctx;

	add(&s->refused);
	exchange_reply(x, why->status, "text/plain", why->text, strlen(why->text));
}

static void on_done(void *ctx, struct exchange *x)
{
	struct scene *s = ctx;

	s->last_status = x->status;
	add(&s->done);
}

static void answer_later(struct wake *w)
{
	struct exchange *x = scene.later;

	(void)w;
	scene.later = NULL;
	if (x)
		exchange_reply(x, 200, "text/plain", "late", 4);
}

static void quit(struct wake *w)
{
	(void)w;
	event_base_loopbreak(scene.base);
}

static void *run(void *ctx)
{
	struct scene *s = ctx;

	event_base_loop(s->base, EVLOOP_NO_EXIT_ON_EMPTY);
	return NULL;
}

static void open_scene(const struct http_limits *limits)
{
	struct http_options o = {.limits = *limits, .request = on_request, .refused = on_refused, .done = on_done,
				 .ctx = &scene};
	struct err err;

	scene = (struct scene){.answer.run = answer_later, .quit.run = quit};
	signal(SIGPIPE, SIG_IGN);
	evthread_use_pthreads();
	scene.base = o.base = event_base_new();
	if (loop_open(&scene.loop, scene.base, 1, &err) != OK || http_open(&scene.http, &o, &err) != OK ||
	    http_listen(scene.http, NULL, 0, &err) != OK)
		fail_msg("%s", err.msg);
	scene.port = http_port(scene.http);
	assert_int_equal(pthread_create(&scene.thread, NULL, run, &scene), 0);
}

static void close_scene(void)
{
	wake_post(scene.loop, &scene.quit);
	pthread_join(scene.thread, NULL);
	http_close(scene.http);
	loop_close(scene.loop);
	event_base_loop(scene.base, EVLOOP_NONBLOCK);	/* libevent lets go of connections in the loop */
	event_base_free(scene.base);
}

static void wait_for(const char *what, const int *p, int n)
{
	double until = clock_seconds() + 5;

	while (read_int(p) < n && clock_seconds() < until)
		usleep(500);
	if (read_int(p) < n)
		fail_msg("expected %d %s, found %d", n, what, read_int(p));
}

static const struct http_limits normal = HTTP_LIMITS_DEFAULT;

static struct response fresh(void)
{
	return (struct response){.head = BUF_CAP(BUF_MAX), .body = BUF_CAP(BUF_MAX)};
}

/* ------------------------------------------------------------------ framing */

static void a_connection_serves_many_requests_also_sent_at_once(void **state)
{
	struct response r = fresh();
	char path[16];
	int fd;

	(void)state;
	open_scene(&normal);
	fd = client_connect(scene.port);
	for (int i = 0; i < 20; i++)
		client_text(fd, i % 2 ? "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" :
					"GET /a HTTP/1.1\r\nHost: a\r\n\r\n\r\n");
	for (int i = 0; i < 20; i++) {
		client_read(fd, &r, false);
		snprintf(path, sizeof path, "%s", i % 2 ? "abc" : "/a");
		assert_int_equal(r.status, 200);
		assert_string_equal(buf_cstr(&r.body), path);
	}
	client_text(fd, "HEAD /head HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
	client_read(fd, &r, true);
	assert_string_equal(response_field(&r, "content-length"), "5");
	client_read(fd, &r, false);
	assert_string_equal(buf_cstr(&r.body), "/b");
	assert_string_equal(response_field(&r, "connection"), "close");
	assert_true(client_closed(fd, 2));
	close(fd);
	response_clear(&r);
	close_scene();
}

static void chunked_bodies_and_expect_are_understood(void **state)
{
	struct response r = fresh();
	int fd;

	(void)state;
	open_scene(&normal);
	fd = client_connect(scene.port);
	client_text(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
	usleep(20000);
	client_text(fd, "2\r\nde\r\n0\r\n\r\n");
	client_read(fd, &r, false);
	assert_string_equal(buf_cstr(&r.body), "abcde");
	client_text(fd, "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
	client_read(fd, &r, false);
	assert_int_equal(r.status, 100);
	client_text(fd, "ok");
	client_read(fd, &r, false);
	assert_int_equal(r.status, 200);
	assert_string_equal(buf_cstr(&r.body), "ok");
	close(fd);
	fd = client_connect(scene.port);
	client_text(fd, "GET /old HTTP/1.0\r\n\r\n");
	client_read(fd, &r, false);
	assert_string_equal(buf_cstr(&r.body), "/old");
	assert_true(client_closed(fd, 2));
	close(fd);
	response_clear(&r);
	close_scene();
}

static void a_large_body_arrives_whole(void **state)
{
	enum { N = 5 << 20 };
	struct response r = fresh();
	char *body = mem_alloc(N), head[200];
	int fd;

	(void)state;
	for (int i = 0; i < N; i++)
		body[i] = (char)('a' + i * 7 % 26);
	open_scene(&normal);
	fd = client_connect(scene.port);
	snprintf(head, sizeof head, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", N);
	client_text(fd, head);
	client_send(fd, body, N);
	client_read(fd, &r, false);
	assert_int_equal(r.body.len, N);
	assert_memory_equal(r.body.data, body, N);
	close(fd);
	mem_free(body);
	response_clear(&r);
	close_scene();
}

/* ------------------------------------------------------------------ limits */

static int status_of(const char *text, bool fill)
{
	static char filler[100000];
	struct response r = fresh();
	int fd = client_connect(scene.port), status;

	memset(filler, 'a', sizeof filler);
	client_text(fd, text);
	if (fill)
		client_send(fd, filler, sizeof filler);
	client_read(fd, &r, false);
	status = r.status;
	if (status >= 400 && !client_closed(fd, 4))
		fail_msg("the connection stays open after %d", status);
	close(fd);
	response_clear(&r);
	return status;
}

static void too_much_is_refused_with_its_own_status(void **state)
{
	struct http_limits l = normal;

	(void)state;
	l.body_bytes = 1000;
	open_scene(&l);
	assert_int_equal(status_of("GET /", true), 414);
	assert_int_equal(status_of("GET / HTTP/1.1\r\nHost: a\r\nX: ", true), 431);
	assert_int_equal(status_of("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", false), 413);
	assert_int_equal(status_of("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", true), 413);
	assert_int_equal(status_of("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n", true), 413);
	assert_int_equal(status_of("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", false), 400);
	assert_int_equal(status_of("nonsense\r\n\r\n", false), 400);
	close_scene();
}

static void bodies_of_all_connections_together_are_bounded(void **state)
{
	struct http_limits l = normal;
	struct response r = fresh();
	char part[3000] = {0};
	int one, two;

	(void)state;
	l.bodies_bytes = 5000;
	open_scene(&l);
	one = client_connect(scene.port);
	client_text(one, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n");
	client_send(one, part, sizeof part);
	usleep(50000);
	two = client_connect(scene.port);
	client_text(two, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n");
	client_send(two, part, sizeof part);
	client_read(two, &r, false);
	assert_int_equal(r.status, 503);
	client_send(one, part, 1000);
	client_read(one, &r, false);
	assert_int_equal(r.status, 200);
	assert_int_equal(r.body.len, 4000);
	close(one);
	close(two);
	response_clear(&r);
	close_scene();
}

static void heads_and_bodies_that_trickle_are_ended(void **state)
{
	struct http_limits l = normal;
	struct response r = fresh();
	double begun;
	int fd[3];

	(void)state;
	l.head_seconds = l.body_seconds = 0.3;
	l.idle_seconds = 0.3;
	open_scene(&l);
	fd[0] = client_connect(scene.port);
	fd[1] = client_connect(scene.port);
	fd[2] = client_connect(scene.port);
	client_text(fd[1], "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
	begun = clock_seconds();
	while (clock_seconds() - begun < 0.5) {		/* a byte every 50 ms, as slow-loris does */
		client_text(fd[0], "G");
		client_text(fd[1], "b");
		usleep(50000);
	}
	client_read(fd[0], &r, false);
	assert_int_equal(r.status, 408);
	client_read(fd[1], &r, false);
	assert_int_equal(r.status, 408);
	assert_true(client_closed(fd[2], 2));		/* never asked anything */
	for (int i = 0; i < 3; i++)
		close(fd[i]);
	response_clear(&r);
	close_scene();
}

static void connections_are_counted_and_refused_in_words(void **state)
{
	struct http_limits l = normal;
	struct response r = fresh();
	int fd[5];

	(void)state;
	l.connections = 3;
	open_scene(&l);
	for (int i = 0; i < 4; i++) {
		fd[i] = client_connect(scene.port);
		client_text(fd[i], "GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
		client_read(fd[i], &r, false);
		assert_int_equal(r.status, i < 3 ? 200 : 503);
	}
	assert_true(client_closed(fd[3], 4));
	close(fd[0]);
	usleep(50000);
	fd[4] = client_connect(scene.port);
	client_text(fd[4], "GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
	client_read(fd[4], &r, false);
	assert_int_equal(r.status, 200);
	for (int i = 1; i < 5; i++)
		close(fd[i]);
	response_clear(&r);
	close_scene();
}

/* ------------------------------------------------------------------ who leaves, who is slow */

static void leave(bool reset)
{
	int fd = client_connect(scene.port), before = read_int(&scene.done);
	double left;

	client_text(fd, "POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
	usleep(50000);
	if (reset)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	left = clock_seconds();
	close(fd);
	wait_for("clients gone", &scene.done, before + 1);
	if (scene.gone_at - left > 0.05)
		fail_msg("expected to notice within 50 ms, found %.1f ms", (scene.gone_at - left) * 1000);
	assert_int_equal(scene.last_status, 499);
}

static void a_client_that_leaves_in_silence_is_noticed_at_once(void **state)
{
	(void)state;
	open_scene(&normal);
	leave(false);
	leave(true);
	close_scene();
}

static void an_answer_may_come_later(void **state)
{
	struct response r = fresh();
	int fd;

	(void)state;
	open_scene(&normal);
	fd = client_connect(scene.port);
	client_text(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
	usleep(50000);
	wake_post(scene.loop, &scene.answer);
	client_read(fd, &r, false);
	assert_string_equal(buf_cstr(&r.body), "late");
	client_read(fd, &r, false);
	assert_string_equal(buf_cstr(&r.body), "/next");
	close(fd);
	response_clear(&r);
	close_scene();
}

static void a_slow_reader_costs_a_bounded_buffer_and_is_dropped(void **state)
{
	struct http_limits l = normal;
	int fd;

	(void)state;
	l.send_seconds = 0.5;
	open_scene(&l);
	scene.to_stream = 64 << 20;
	fd = client_connect(scene.port);
	client_text(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
	wait_for("clients dropped", &scene.gone, 1);
	if (scene.most_unsent > (64 << 10) + 8192 + 64)
		fail_msg("expected at most 64 KiB and a block unsent, found %zu", scene.most_unsent);
	assert_true(scene.streamed < scene.to_stream);
	close(fd);
	close_scene();
}

static void a_stream_arrives_whole_when_it_is_read(void **state)
{
	struct response r = fresh();
	int fd;

	(void)state;
	open_scene(&normal);
	scene.to_stream = 8 << 20;
	fd = client_connect(scene.port);
	client_text(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
	client_read(fd, &r, false);
	assert_true(r.whole);
	assert_int_equal(r.body.len, 8 << 20);
	client_text(fd, "GET /stream HTTP/1.0\r\n\r\n");	/* no chunks: ends with the connection */
	client_read(fd, &r, false);
	assert_string_equal(response_field(&r, "transfer-encoding"), "");
	assert_int_equal(r.body.len, 8 << 20);
	close(fd);
	response_clear(&r);
	close_scene();
}

static void a_flood_behind_an_outstanding_answer_is_not_taken_in(void **state)
{
	static char flood[1 << 20];
	struct timeval limit = {.tv_usec = 300000};
	size_t sent = 0;
	ssize_t n;
	int fd;

	(void)state;
	open_scene(&normal);
	fd = client_connect(scene.port);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	client_text(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
	usleep(20000);
	while (sent < 64u << 20 && (n = send(fd, flood, sizeof flood, MSG_NOSIGNAL)) > 0)
		sent += (size_t)n;
	if (sent >= 32u << 20)		/* the system's own buffers hold a few MiB */
		fail_msg("expected the system to stop the client, found that %zu bytes were taken", sent);
	close(fd);
	close_scene();
}

static void hundreds_of_idle_connections_disturb_nobody(void **state)
{
	enum { N = 400 };	/* two thousand in make test-load; the usual limit of descriptors is 1024 */
	struct response r = fresh();
	int fd[N];

	(void)state;
	open_scene(&normal);
	for (int i = 0; i < N; i++)
		fd[i] = client_connect(scene.port);
	client_ask(scene.port, &r, "GET", "/x", NULL, NULL);
	assert_int_equal(r.status, 200);
	for (int i = 0; i < N; i++)
		close(fd[i]);
	response_clear(&r);
	close_scene();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_connection_serves_many_requests_also_sent_at_once),
		cmocka_unit_test(chunked_bodies_and_expect_are_understood),
		cmocka_unit_test(a_large_body_arrives_whole),
		cmocka_unit_test(too_much_is_refused_with_its_own_status),
		cmocka_unit_test(bodies_of_all_connections_together_are_bounded),
		cmocka_unit_test(heads_and_bodies_that_trickle_are_ended),
		cmocka_unit_test(connections_are_counted_and_refused_in_words),
		cmocka_unit_test(a_client_that_leaves_in_silence_is_noticed_at_once),
		cmocka_unit_test(an_answer_may_come_later),
		cmocka_unit_test(a_slow_reader_costs_a_bounded_buffer_and_is_dropped),
		cmocka_unit_test(a_stream_arrives_whole_when_it_is_read),
		cmocka_unit_test(a_flood_behind_an_outstanding_answer_is_not_taken_in),
		cmocka_unit_test(hundreds_of_idle_connections_disturb_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
