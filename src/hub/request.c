/* request.c - sets up HTTP requests and says what an answer means.
 *
 * What  Options that all requests share, the few headers of interest, a verdict on failures, and address arithmetic.
 * Why   Whether the token goes along, and whether a failure is worth another try, must be decided in one place.
 * How   libcurl never follows a redirect by itself here.  Each hop is a request of its own that is prepared with its
 *       own address, so "does this origin get the token" is asked for every single request.
 * Careful
 *       - HTTP/1.1 on purpose: HTTP/2 would put all ranges on one connection, and one connection is what is slow.
 *       - No compression is asked for: byte ranges of a compressed body are not ranges of the file.
 *       - Messages show addresses without query and user: signed addresses are secrets.
 * Source: RFC 9110 sections 14 (ranges) and 15 (status codes), RFC 6750 (bearer tokens). */
#include "hub/request_int.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"

#define CONNECT_S 20L
#define STALL_BYTES_PER_S 64L	/* slower than this counts as nothing */
#define READ_BYTES (256L * 1024)
#define BACKOFF_MAX 60		/* times the first wait */

/* ------------------------------------------------------------------ libcurl itself */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode global_code;

static void start_curl(void)
{
	global_code = curl_global_init(CURL_GLOBAL_DEFAULT);
}

enum status request_global(struct err *err)
{
	pthread_once(&once, start_curl);
	if (global_code != CURLE_OK)
		return err_set(err, ERR_IO, "libcurl does not start: %s", curl_easy_strerror(global_code));
	return OK;
}

/* ------------------------------------------------------------------ addresses */

static char *url_part(const char *url, CURLUPart part)
{
	CURLU *u = curl_url();
	char *text = NULL;

	if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK)
		curl_url_get(u, part, &text, part == CURLUPART_PORT ? CURLU_DEFAULT_PORT : 0);
	curl_url_cleanup(u);
	return text;	/* curl_free() */
}

static bool same_part(const char *a, const char *b, CURLUPart part)
{
	char *x = url_part(a, part), *y = url_part(b, part);
	bool same = x && y && !strcasecmp(x, y);

	curl_free(x);
	curl_free(y);
	return same;
}

bool url_same_origin(const char *a, const char *b)
{
	return same_part(a, b, CURLUPART_SCHEME) && same_part(a, b, CURLUPART_HOST) && same_part(a, b, CURLUPART_PORT);
}

bool url_has_scheme(const char *url, const char *scheme)
{
	char *s = url_part(url, CURLUPART_SCHEME);
	bool same = s && !strcasecmp(s, scheme);

	curl_free(s);
	return same;
}

bool url_is_loopback(const char *url)
{
	char *h = url_part(url, CURLUPART_HOST);
	bool yes = h && (!strcasecmp(h, "localhost") || !strcmp(h, "127.0.0.1") || !strcmp(h, "[::1]"));

	curl_free(h);
	return yes;
}

void url_shown(char *out, size_t room, const char *url)
{
	CURLU *u = curl_url();
	char *text = NULL;

	if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK) {
		curl_url_set(u, CURLUPART_QUERY, NULL, 0);
		curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
		curl_url_set(u, CURLUPART_USER, NULL, 0);
		curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
		curl_url_get(u, CURLUPART_URL, &text, 0);
	}
	snprintf(out, room, "%s", text ? text : "(address)");
	curl_free(text);
	curl_url_cleanup(u);
}

/* ------------------------------------------------------------------ headers */

static bool whole_number(uint64_t *out, const char *s, char **end)
{
	unsigned long long v;

	if (!isdigit((unsigned char)*s))
		return false;
	errno = 0;
	v = strtoull(s, end, 10);
	*out = v;
	return errno == 0 && v <= INT64_MAX;
}

/* "bytes 0-99/1234", "bytes 0-99" followed by "/" and a star, "bytes" with a star and "/1234" */
static void read_content_range(struct answer *h, const char *s)
{
	char *end = NULL;

	h->has_range = h->has_total = false;
	if (strncasecmp(s, "bytes", 5) || (s[5] != ' ' && s[5] != '='))
		return;
	s += 6;
	while (*s == ' ')
		s++;
	if (*s == '*') {
		s++;
	} else {
		if (!whole_number(&h->first, s, &end) || *end != '-' || !whole_number(&h->last, end + 1, &end) ||
		    h->last < h->first)
			return;
		h->has_range = true;
		s = end;
	}
	if (*s == '/' && whole_number(&h->total, s + 1, &end))
		h->has_total = true;
}

static void read_etag(char out[160], const char *s)
{
	size_t n;

	if (!strncmp(s, "W/", 2))
		s += 2;
	if (*s == '"')
		s++;
	n = strcspn(s, "\"");
	if (n > 159)
		n = 0;	/* nothing we could use */
	memcpy(out, s, n);
	out[n] = 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
	struct answer *h = ctx;
	char text[512], *value, *end;
	size_t len = size * n < sizeof text - 1 ? size * n : sizeof text - 1;

	memcpy(text, line, len);
	text[len] = 0;
	text[strcspn(text, "\r\n")] = 0;
	if (!strncmp(text, "HTTP/", 5)) {	/* a new answer */
		memset(h, 0, sizeof *h);
		value = strchr(text, ' ');
		h->status = value ? strtol(value, NULL, 10) : 0;
		return size * n;
	}
	value = strchr(text, ':');
	if (!value)
		return size * n;
	*value++ = 0;
	value += strspn(value, " \t");
	if (!strcasecmp(text, "x-linked-size"))
		h->has_linked_size = whole_number(&h->linked_size, value, &end);
	else if (!strcasecmp(text, "x-linked-etag"))
		read_etag(h->linked_etag, value);
	else if (!strcasecmp(text, "etag"))
		read_etag(h->etag, value);
	else if (!strcasecmp(text, "content-range"))
		read_content_range(h, value);
	return size * n;
}

/* ------------------------------------------------------------------ one request */

bool request_cancelled(const struct hub_access *a)
{
	return a->cancel && *a->cancel;
}

static int on_tick(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	(void)a, (void)b, (void)c, (void)d;
	return request_cancelled(ctx);
}

static void only_http(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

enum status request_prepare(CURL *easy, const char *url, const struct hub_access *a, struct answer *answer,
			    struct err *err)
{
	bool with_token = a->token && *a->token && url_same_origin(url, a->endpoint) &&
			  (url_has_scheme(url, "https") || url_is_loopback(url));
	long stall = (long)(a->stall_s < 1 ? 1 : a->stall_s);

	curl_easy_reset(easy);
	memset(answer, 0, sizeof *answer);
	if (curl_easy_setopt(easy, CURLOPT_URL, url) != CURLE_OK)
		return err_set(err, ERR_MEMORY, "no memory for an address of %zu characters", strlen(url));
	only_http(easy);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "ds4-pull");
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, CONNECT_S < stall ? CONNECT_S : stall);
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, STALL_BYTES_PER_S);
	curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, stall);
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, READ_BYTES);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, answer);
	curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_tick);
	curl_easy_setopt(easy, CURLOPT_XFERINFODATA, (void *)(uintptr_t)a);
	curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
	if (with_token) {
		curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
		curl_easy_setopt(easy, CURLOPT_XOAUTH2_BEARER, a->token);
	}
	return OK;
}

double request_backoff(const struct hub_access *a, int failures)
{
	double factor = 1;

	for (int i = 1; i < failures && factor < BACKOFF_MAX; i++)
		factor *= 2;
	return a->backoff_s * (factor < BACKOFF_MAX ? factor : BACKOFF_MAX);
}

enum status request_sleep(const struct hub_access *a, double seconds, struct err *err)
{
	double until = clock_seconds() + seconds;

	while (clock_seconds() < until) {
		struct timespec t = {0, 50 * 1000 * 1000};

		if (request_cancelled(a))
			return err_set(err, ERR_CANCELLED, "stopped");
		if (until - clock_seconds() < 0.05)
			t.tv_nsec = 5 * 1000 * 1000;
		nanosleep(&t, NULL);
	}
	return OK;
}

/* ------------------------------------------------------------------ verdicts */

static const char *reason(long status)
{
	switch (status) {
	case 400: return "Bad Request";
	case 401: return "Unauthorized";
	case 403: return "Forbidden";
	case 404: return "Not Found";
	case 408: return "Request Timeout";
	case 410: return "Gone";
	case 416: return "Range Not Satisfiable";
	case 429: return "Too Many Requests";
	case 500: return "Internal Server Error";
	case 502: return "Bad Gateway";
	case 503: return "Service Unavailable";
	case 504: return "Gateway Timeout";
	}
	return "";
}

static const char *const token_names[] = {"", "the token of --token", "the token in $HF_TOKEN",
					   "the token in the hub's cache file"};

static void judge_refusal(struct outcome *out, long status, const struct hub_access *a)
{
	out->verdict = VERDICT_STALE;
	out->code = ERR_ARGUMENT;
	if (a->token && *a->token)
		snprintf(out->why, sizeof out->why, "%ld %s: %s gives no access (private, gated, or not there)", status,
			 reason(status), token_names[a->token_source]);
	else
		snprintf(out->why, sizeof out->why,
			 "%ld %s: private, gated or not there; a token is given with --token or $HF_TOKEN", status,
			 reason(status));
}

static void judge_status(struct outcome *out, CURL *easy, long status, const struct hub_access *a)
{
	curl_off_t after = 0;

	snprintf(out->why, sizeof out->why, "%ld %s", status, reason(status));
	if (out->why[strlen(out->why) - 1] == ' ')
		out->why[strlen(out->why) - 1] = 0;
	if (status == 401 || status == 403) {
		judge_refusal(out, status, a);
	} else if (status == 404 || status == 410) {
		out->verdict = VERDICT_STALE;
		out->code = ERR_NOT_FOUND;
	} else if (status >= 300 && status < 400) {
		out->verdict = VERDICT_STALE;
	} else if (status == 429 || status == 408 || status >= 500) {
		out->verdict = VERDICT_RETRY;
		out->code = status == 429 ? ERR_LIMIT : ERR_IO;
		if (curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &after) == CURLE_OK && after > 0)
			out->wait_s = (double)after;
		if (out->wait_s > HUB_RETRY_AFTER_MAX_S) {
			out->verdict = VERDICT_FAIL;
			out->code = ERR_LIMIT;
			snprintf(out->why, sizeof out->why, "%ld %s: the server asks to wait %.0f s, more than the %d s allowed",
				 status, reason(status), out->wait_s, HUB_RETRY_AFTER_MAX_S);
		}
	} else {
		out->verdict = VERDICT_FAIL;
	}
}

/* Failures that the next try would meet again. */
static bool hopeless(CURLcode code)
{
	switch (code) {
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_URL_MALFORMAT:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_OUT_OF_MEMORY:
	case CURLE_FAILED_INIT:
	case CURLE_NOT_BUILT_IN:
		return true;
	default:
		return false;
	}
}

void request_judge(struct outcome *out, CURL *easy, CURLcode code, const struct answer *answer,
		   const struct hub_access *a)
{
	memset(out, 0, sizeof *out);
	out->code = ERR_IO;
	if (answer->status >= 300) {	/* an answer, even if its body was cut or given up */
		judge_status(out, easy, answer->status, a);
		return;
	}
	out->verdict = hopeless(code) ? VERDICT_FAIL : VERDICT_RETRY;
	if (code == CURLE_OUT_OF_MEMORY)
		out->code = ERR_MEMORY;
	if (code == CURLE_OPERATION_TIMEDOUT)
		snprintf(out->why, sizeof out->why, "nothing came for %.0f s", a->stall_s);
	else if (code == CURLE_OK || code == CURLE_PARTIAL_FILE)
		snprintf(out->why, sizeof out->why, "the connection ended before the file did");
	else
		snprintf(out->why, sizeof out->why, "%s", curl_easy_strerror(code));
}
