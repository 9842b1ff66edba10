/* hub.h - a published file: where it is asked for, what the hub says about it, where its bytes are.
 *
 * The Hugging Face hub answers GET ENDPOINT/REPOSITORY/resolve/REVISION/FILE with a redirect to a storage host.  The
 * answer itself carries the size (X-Linked-Size) and the SHA-256 (X-Linked-ETag) of the file; the redirect's target is
 * a signed address that expires.
 *
 * The token goes to the endpoint's origin (scheme, host and port) and nowhere else, whatever redirects say.
 * Not run against the real hub: only against a server on the loopback interface that plays its part. */
#ifndef DS4_HUB_HUB_H
#define DS4_HUB_HUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define HUB_ENDPOINT "https://huggingface.co"
#define HUB_REPOSITORY "antirez/deepseek-v4-gguf"
#define HUB_SHA256_CHARS 64
#define HUB_TOKEN_MAX 512	/* characters */

/* The published models by their short names. */
struct hub_model {
	const char *name;	/* "q2" */
	const char *file;
	uint64_t bytes;		/* of its tensors: what the file has at least; for messages before the hub was asked */
	bool main_model;	/* the engine opens it alone (the MTP file is an addition) */
};

extern const struct hub_model hub_models[];	/* ends with a NULL name */

enum hub_token_source { HUB_TOKEN_NONE, HUB_TOKEN_OPTION, HUB_TOKEN_ENV, HUB_TOKEN_FILE };

/* Whom requests go to, with what right, and how patient they are. */
struct hub_access {
	const char *endpoint;		/* no slash at the end */
	const char *token;		/* NULL or "" = none; never appears in messages */
	enum hub_token_source token_source;
	int retries;			/* failures in a row without a byte of progress */
	double backoff_s;		/* wait after the first failure, doubled with each, at most 60 times this */
	double stall_s;			/* a connection that brings nothing for this long is given up */
	const volatile int *cancel;	/* may be NULL; nonzero = ERR_CANCELLED soon */
	/* Told when a request has to wait for a while, in one sentence; may be NULL. */
	void (*waiting)(void *ctx, const char *why, double seconds);
	void *ctx;
};

#define HUB_ACCESS_DEFAULT {.endpoint = HUB_ENDPOINT, .retries = 10, .backoff_s = 0.5, .stall_s = 30}

/* Longest wait that a server may ask for with Retry-After; more is ERR_LIMIT. */
#define HUB_RETRY_AFTER_MAX_S 600

struct hub_file {
	char *url;		/* where it was asked for */
	char *name;		/* its last part: a safe name for a local file */
	char *location;		/* where the bytes are; expires */
	uint64_t size;
	char sha256[HUB_SHA256_CHARS + 1];	/* lower case; "" = the server names none */
	char etag[160];		/* the server's own mark for this version; "" = none */
	bool ranges;		/* the server can send a part of the file */
};

/* Finds the token: `option`, else $HF_TOKEN, else the file $HF_TOKEN_PATH, $HF_HOME/token or
 * ~/.cache/huggingface/token.  A token from a file belongs to huggingface.co and is not used with another endpoint.
 * out holds it ("" = none).  ERR_FORMAT: a token that cannot be one (white space or control characters inside). */
enum status hub_find_token(char out[HUB_TOKEN_MAX + 1], enum hub_token_source *source, const char *option,
			   const char *endpoint, struct err *err);

/* The endpoint: `option`, else $HF_ENDPOINT, else the default; without slashes at the end.  ERR_ARGUMENT: not an
 * http or https address, or one with more than scheme, host, port and path. */
enum status hub_find_endpoint(char *out, size_t room, const char *option, struct err *err);

/* The address of `what`: a short name in hub_models, or an http(s) URL taken as it is (a page address of the
 * endpoint, .../blob/..., becomes its download address).  Sets file->url and file->name.
 * *model is the row, NULL for a URL.  ERR_ARGUMENT. */
enum status hub_file_init(struct hub_file *file, const struct hub_model **model, const char *what,
			  const struct hub_access *a, const char *revision, struct err *err);

/* Asks the server: fills location, size, sha256, etag, ranges.  May be called again when location expired.
 * ERR_NOT_FOUND (404), ERR_ARGUMENT (401, 403), ERR_LIMIT (429 for too long), ERR_FORMAT (sizes that disagree),
 * ERR_IO (unreachable, 5xx), ERR_CANCELLED. */
enum status hub_resolve(struct hub_file *file, const struct hub_access *a, struct err *err);

void hub_file_clear(struct hub_file *file);	/* accepts a zeroed one */

#endif
