/* request_int.h - what resolving and fetching share: how a request is set up, what an answer means. */
#ifndef DS4_HUB_REQUEST_INT_H
#define DS4_HUB_REQUEST_INT_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "hub/hub.h"

/* The headers of the last answer that matter here. */
struct answer {
	long status;
	bool has_linked_size, has_range, has_total;
	uint64_t linked_size;
	uint64_t first, last, total;	/* Content-Range: bytes first-last/total */
	char linked_etag[160], etag[160];	/* quotes and W/ removed */
};

/* What a finished request calls for. */
enum verdict {
	VERDICT_RETRY,		/* the same again, after a while */
	VERDICT_STALE,		/* the address may have expired: ask the hub again */
	VERDICT_FAIL,
};

struct outcome {
	enum verdict verdict;
	enum status code;	/* of the error when this is final */
	double wait_s;		/* Retry-After; 0 = none */
	char why[240];		/* "429 Too Many Requests", "connection timed out" */
};

enum status request_global(struct err *err);	/* prepares libcurl once for the process */

/* Sets what every request has in common.  The token goes along only when url has the endpoint's origin, and over plain
 * http only to the loopback interface. */
enum status request_prepare(CURL *easy, const char *url, const struct hub_access *a, struct answer *answer,
			    struct err *err);

/* Judges a request that did not bring what it was for. */
void request_judge(struct outcome *out, CURL *easy, CURLcode code, const struct answer *answer,
		   const struct hub_access *a);

/* Sleeps in small steps.  ERR_CANCELLED when a->cancel is set meanwhile. */
enum status request_sleep(const struct hub_access *a, double seconds, struct err *err);

/* Seconds before try number `failures` + 1. */
double request_backoff(const struct hub_access *a, int failures);

bool request_cancelled(const struct hub_access *a);
bool url_same_origin(const char *a, const char *b);
bool url_has_scheme(const char *url, const char *scheme);
bool url_is_loopback(const char *url);

/* url without its query and without user names, for messages and files; cut to fit. */
void url_shown(char *out, size_t room, const char *url);

#endif
