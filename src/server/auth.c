/* auth.c - API keys from a file or the environment; where pages come from.
 *
 * Careful
 *   - "null" is the origin of sandboxed frames and files: anybody's page can have it, so it is not local. */
#include "server/auth.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

enum { DIGEST = 32, LEAST_KEY = 8, MAX_KEYS = 1024 };

struct auth {
	size_t n;
	unsigned char digest[MAX_KEYS][DIGEST];
};

static void digest_of(unsigned char out[DIGEST], const char *key, size_t n)
{
	unsigned int got = DIGEST;

	memset(out, 0, DIGEST);
	EVP_Digest(key, n, out, &got, EVP_sha256(), NULL);
}

/* Adds the keys of text: words; in a file a '#' hides the rest of its line. */
static enum status add_keys(struct auth *a, const char *from, const char *text, struct err *err)
{
	while (*text) {
		size_t n = strcspn(text, " \t\r\n,");

		if (*text == '#') {
			text += strcspn(text, "\n");
			continue;
		}
		if (!n) {
			text++;
			continue;
		}
		if (n < LEAST_KEY)
			return err_set(err, ERR_FORMAT, "--api-key %s: a key has %zu bytes, expected at least %d", from, n,
				       LEAST_KEY);
		if (a->n == MAX_KEYS)
			return err_set(err, ERR_FORMAT, "--api-key %s: more than %d keys", from, MAX_KEYS);
		digest_of(a->digest[a->n++], text, n);
		text += n;
	}
	return a->n ? OK : err_set(err, ERR_FORMAT, "--api-key %s: there is no key in it", from);
}

enum status auth_open(struct auth **out, const char *from, struct err *err)
{
	struct auth *a = mem_zero(sizeof *a);
	struct buf text = BUF_CAP(1 << 20);
	const char *variable;
	enum status st;

	*out = NULL;
	if (!a)
		return err_set(err, ERR_MEMORY, "no memory for API keys");
	if (!from) {
		*out = a;
		return OK;
	}
	variable = getenv(from);
	if (variable)
		st = add_keys(a, from, variable, err);
	else if (access(from, F_OK) != 0)
		st = err_set(err, ERR_NOT_FOUND,
			     "--api-key %s: neither a file nor an environment variable of that name (a key itself is not "
			     "accepted here: others could read it in the list of processes)", from);
	else if ((st = file_read(&text, from, err)) == OK)
		st = add_keys(a, from, buf_cstr(&text), err);
	if (text.data)
		OPENSSL_cleanse(text.data, text.len);
	buf_clear(&text);
	if (st != OK)
		mem_free(a);
	else
		*out = a;
	return st;
}

void auth_close(struct auth *a)
{
	if (a)
		OPENSSL_cleanse(a, sizeof *a);
	mem_free(a);
}

bool auth_needed(const struct auth *a)
{
	return a->n > 0;
}

bool auth_key_fits(const struct auth *a, const char *key)
{
	unsigned char d[DIGEST];
	int fits = 0;

	digest_of(d, key, strlen(key));
	for (size_t i = 0; i < a->n; i++)
		fits |= CRYPTO_memcmp(d, a->digest[i], DIGEST) == 0;
	return fits != 0;
}

bool auth_allows(const struct auth *a, const struct http_head *h)
{
	const char *bearer = http_field(h, "Authorization"), *key = http_field(h, "x-api-key");

	if (!auth_needed(a))
		return true;
	if (bearer && !strncasecmp(bearer, "Bearer ", 7) && auth_key_fits(a, bearer + 7 + strspn(bearer + 7, " ")))
		return true;
	return key && auth_key_fits(a, key);
}

bool origin_is_local(const char *origin)
{
	static const char *const hosts[] = {"localhost", "127.0.0.1", "[::1]"};
	const char *host;

	if (!origin)
		return true;
	if (!strncasecmp(origin, "http://", 7))
		host = origin + 7;
	else if (!strncasecmp(origin, "https://", 8))
		host = origin + 8;
	else
		return false;
	for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
		size_t n = strlen(hosts[i]);

		if (!strncasecmp(host, hosts[i], n) && strspn(host + n, ":0123456789") == strlen(host + n) &&
		    (!host[n] || host[n] == ':'))
			return true;
	}
	return false;
}
