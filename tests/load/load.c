/* load.c - many clients at once against a running `ds4 serve`: make test-load.
 *
 *	load PORT PID SECONDS CLIENTS IDLE
 *
 * What  Opens IDLE connections that ask nothing.  Then CLIENTS threads ask for streamed answers (greedy, a few prompts, all
 *       dialects) for SECONDS; a tenth of them leave in the middle.  Every answer must be 200 and the text that the same
 *       request got alone before, or one of the documented refusals (429, 503, 529).  Meanwhile /health is asked.
 * How   The memory of process PID is read from /proc every second: after the first third it may grow by a tenth and 8 MiB.
 *       Prints "ok NAME" or "not ok NAME - why", and figures. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/rng.h"

enum { PROMPTS = 8, MAX_CLIENTS = 1024, DIALECTS = 3 };

static int port;
static double until;
static char *expected[PROMPTS][DIALECTS];
static int failures;

struct client {
	pthread_t thread;
	int number;
	int whole, left, busy, wrong, broken;
	double wait;			/* seconds of the slowest answer */
	char why[300];
};

static int connect_to(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct timeval limit = {.tv_sec = 120};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
		close(fd);
		return -1;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	return fd;
}

static void ask(int fd, int prompt, int dialect)
{
	static const char *const path[DIALECTS] = {"/v1/chat/completions", "/v1/messages", "/v1/responses"};
	static const char *const form[DIALECTS] = {
		"{\"stream\":true,\"temperature\":0,\"max_tokens\":24,\"thinking\":{\"type\":\"disabled\"},\"messages\":[{\"role\":"
		"\"user\",\"content\":\"%s\"}]}",
		"{\"stream\":true,\"temperature\":0,\"max_tokens\":24,\"thinking\":{\"type\":\"disabled\"},\"messages\":[{\"role\":"
		"\"user\",\"content\":\"%s\"}]}",
		"{\"stream\":true,\"temperature\":0,\"max_output_tokens\":24,\"reasoning\":{\"effort\":\"none\"},\"input\":\"%s\"}",
	};
	static const char *const text[PROMPTS] = {"What is 2+2?", "Tell me a story.", "Who are you?", "Name three colours.",
						  "Count to ten.", "Write a poem.", "What is 7*8?", "Say hello."};
	char body[512], request[1024];

	snprintf(body, sizeof body, form[dialect], text[prompt]);
	snprintf(request, sizeof request, "POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
		 path[dialect], strlen(body), body);
	if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
		return;
}

/* The texts of an answer, joined: what differs between two answers (ids, times) is left out. */
static char *text_of(const char *answer, int dialect)
{
	static const char *const mark[DIALECTS] = {"\"delta\":{\"content\":\"", "\"text_delta\",\"text\":\"",
						   "\"response.output_text.delta\""};
	struct buf out = BUF_CAP(BUF_MAX);

	for (const char *p = strstr(answer, mark[dialect]); p; p = strstr(p + 1, mark[dialect])) {
		const char *q = p + strlen(mark[dialect]);

		if (dialect == 2) {
			q = strstr(p, "\"delta\":\"");
			if (!q)
				break;
			q += 9;
		}
		while (*q && *q != '"') {
			if (*q == '\\' && q[1])
				buf_byte(&out, *q++);
			buf_byte(&out, *q++);
		}
	}
	return buf_take(&out);
}

/* Reads to the end, or leaves after `most` bytes.  Returns the status, 0 for none. */
static int read_answer(int fd, struct buf *in, size_t most)
{
	char part[8192];
	ssize_t n;
	int status = 0;

	buf_cut(in, 0);
	while (in->len < most && (n = recv(fd, part, sizeof part, 0)) > 0)
		buf_add(in, part, (size_t)n);
	sscanf(buf_cstr(in), "HTTP/1.1 %d", &status);
	return status;
}

static bool ended(const char *answer, int dialect)
{
	static const char *const end[DIALECTS] = {"[DONE]", "\"message_stop\"", "\"type\":\"response."};

	return strstr(answer, end[dialect]) &&
	       (dialect != 2 || strstr(answer, "response.completed") || strstr(answer, "response.incomplete"));
}

static void one_round(struct client *c, struct rng *rng, struct buf *in)
{
	int prompt = (int)rng_below(rng, PROMPTS), dialect = (int)rng_below(rng, DIALECTS), fd = connect_to(), status;
	bool leave = rng_below(rng, 10) == 0;
	double begun = clock_seconds();
	char *text;

	if (fd < 0) {
		c->broken++;
		snprintf(c->why, sizeof c->why, "no connection");
		usleep(10000);
		return;
	}
	ask(fd, prompt, dialect);
	status = read_answer(fd, in, leave ? 200 + (size_t)rng_below(rng, 4000) : SIZE_MAX);
	close(fd);
	if (status == 503 || status == 529 || status == 429) {
		c->busy++;
		usleep(100000);
		return;
	}
	if (leave && status == 200) {
		c->left++;
		return;
	}
	if (status != 200 || !ended(buf_cstr(in), dialect)) {
		c->broken++;
		snprintf(c->why, sizeof c->why, "status %d: %.*s", status, 200, buf_cstr(in) + (in->len > 200 ? in->len - 200 : 0));
		return;
	}
	if (clock_seconds() - begun > c->wait)
		c->wait = clock_seconds() - begun;
	text = text_of(buf_cstr(in), dialect);
	if (strcmp(text ? text : "", expected[prompt][dialect]) != 0) {
		c->wrong++;
		snprintf(c->why, sizeof c->why, "expected '%.100s', found '%.100s'", expected[prompt][dialect], text ? text : "");
	} else {
		c->whole++;
	}
	free(text);
}

static void *run(void *ctx)
{
	struct client *c = ctx;
	struct rng rng = rng_seed((uint64_t)c->number + 1);
	struct buf in = BUF_CAP(BUF_MAX);

	while (clock_seconds() < until)
		one_round(c, &rng, &in);
	buf_clear(&in);
	return NULL;
}

static void check(const char *name, bool good, const char *why)
{
	failures += !good;
	printf(good ? "ok %s\n" : "not ok %s - %s\n", name, why);
	fflush(stdout);
}

static long memory_of(const char *pid)
{
	char path[64], line[200];
	long kib = -1;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%s/status", pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		sscanf(line, "VmRSS: %ld", &kib);
	if (f)
		fclose(f);
	return kib;
}

static bool health(void)
{
	struct buf in = BUF_CAP(BUF_MAX);
	int fd = connect_to(), status;

	if (fd < 0)
		return false;
	send(fd, "GET /health HTTP/1.0\r\n\r\n", 24, MSG_NOSIGNAL);
	status = read_answer(fd, &in, SIZE_MAX);
	close(fd);
	buf_clear(&in);
	return status == 200;
}

int main(int argc, char **argv)
{
	static struct client client[MAX_CLIENTS];
	static int idle[8192];
	struct rlimit r;
	struct buf in = BUF_CAP(BUF_MAX);
	int n, n_idle, whole = 0, left = 0, busy = 0, wrong = 0, broken = 0, healthy = 0, asked = 0;
	double seconds, slowest = 0, slowest_health = 0;
	long early = 0, late = 0;
	const char *why = "";

	if (argc != 6)
		return 2;
	port = atoi(argv[1]);
	seconds = atof(argv[3]);
	n = atoi(argv[4]) < MAX_CLIENTS ? atoi(argv[4]) : MAX_CLIENTS;
	n_idle = atoi(argv[5]) < 8192 ? atoi(argv[5]) : 8192;
	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	for (int i = 0; i < n_idle; i++)
		idle[i] = connect_to();
	check("idle_connections_are_accepted", n_idle == 0 || idle[n_idle - 1] >= 0, "the last one was refused");
	check("the_server_answers_beside_them", health(), "no 200 from /health");
	for (int p = 0; p < PROMPTS; p++) {
		for (int d = 0; d < DIALECTS; d++) {
			int fd = connect_to();

			ask(fd, p, d);
			if (read_answer(fd, &in, SIZE_MAX) != 200)
				check("each_request_alone", false, buf_cstr(&in));
			close(fd);
			expected[p][d] = text_of(buf_cstr(&in), d);
			if (!expected[p][d])
				expected[p][d] = calloc(1, 1);
		}
	}
	until = clock_seconds() + seconds;
	for (int i = 0; i < n; i++) {
		client[i].number = i;
		pthread_create(&client[i].thread, NULL, run, &client[i]);
	}
	while (clock_seconds() < until) {
		double begun = clock_seconds();

		asked++;
		healthy += health();
		if (clock_seconds() - begun > slowest_health)
			slowest_health = clock_seconds() - begun;
		usleep(1000000);
		if (!early && clock_seconds() > until - seconds * 2 / 3)
			early = memory_of(argv[2]);
		late = memory_of(argv[2]);
	}
	for (int i = 0; i < n; i++) {
		pthread_join(client[i].thread, NULL);
		whole += client[i].whole;
		left += client[i].left;
		busy += client[i].busy;
		wrong += client[i].wrong;
		broken += client[i].broken;
		slowest = client[i].wait > slowest ? client[i].wait : slowest;
		why = client[i].why[0] ? client[i].why : why;
	}
	printf("# %d clients, %.0f s: %d whole answers, %d left, %d told to come back, slowest answer %.2f s; /health %d of %d, "
	       "slowest %.3f s; resident %ld KiB after a third, %ld KiB at the end\n", n, seconds, whole, left, busy, slowest,
	       healthy, asked, slowest_health, early, late);
	check("every_answer_is_the_one_it_is_alone", wrong == 0 && whole > 0, why);
	check("no_error_that_is_not_documented", broken == 0, why);
	check("health_answers_all_the_time", healthy == asked, "not always 200");
	check("memory_is_flat", late < early + early / 10 + 8192, "it grew");
	for (int i = 0; i < n_idle; i++)
		close(idle[i]);
	check("it_lives", health(), "no 200 from /health");
	return failures > 0;
}
