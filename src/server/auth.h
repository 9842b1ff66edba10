/* auth.h - API keys: who may ask.
 *
 * Keys are compared by their SHA-256, all of them, in constant time: neither a key's length nor how much of it was
 * right can be learned from how long a refusal takes.
 * Thread: read-only after auth_open. */
#ifndef DS4_SERVER_AUTH_H
#define DS4_SERVER_AUTH_H

#include "base/status.h"
#include "server/http_parse.h"

struct auth;

/* from: a file (one key a line; '#' begins a comment), or the name of an environment variable (keys separated by
 * commas or white space).  NULL: no keys, everybody may.  ERR_NOT_FOUND when it is neither; ERR_FORMAT when there is no
 * key in it, or one of less than 8 bytes. */
enum status auth_open(struct auth **out, const char *from, struct err *err);
void auth_close(struct auth *a);

bool auth_needed(const struct auth *a);
bool auth_key_fits(const struct auth *a, const char *key);

/* Looks at "Authorization: Bearer KEY" and "x-api-key: KEY". */
bool auth_allows(const struct auth *a, const struct http_head *h);

/* May a page from this origin (the value of an Origin field) drive a local server?  True for none at all and for
 * pages of this machine. */
bool origin_is_local(const char *origin);

#endif
