/* token.c - the endpoint and the token: options first, then the environment, then the hub's cache file.
 *
 * Careful
 *   - A token that was logged in for huggingface.co (the cache file) must not reach a mirror that somebody put into
 *     $HF_ENDPOINT: from the file it is used with the default endpoint alone.  Who names token and mirror together
 *     (--token, $HF_TOKEN) means them together.
 *   - A line break inside a token would add headers to the request: it is refused.  Messages never show a token. */
#include <curl/curl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "hub/hub.h"
#include "hub/request_int.h"

/* Copies text without the white space around it. */
static enum status take(char out[HUB_TOKEN_MAX + 1], const char *text, size_t n, const char *where, struct err *err)
{
	while (n && strchr(" \t\r\n", text[n - 1]))
		n--;
	while (n && strchr(" \t\r\n", *text))
		text++, n--;
	if (n > HUB_TOKEN_MAX)
		return err_set(err, ERR_FORMAT, "%s: expected a token of at most %d characters, found %zu", where,
			       HUB_TOKEN_MAX, n);
	for (size_t i = 0; i < n; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return err_set(err, ERR_FORMAT, "%s: not a token: character %zu is neither letter, digit nor sign", where,
				       i + 1);
	memcpy(out, text, n);
	out[n] = 0;
	return OK;
}

static const char *env(const char *name)
{
	const char *v = getenv(name);

	return v && *v ? v : NULL;
}

/* False when the environment leaves no place to look. */
static bool token_path(char *out, size_t room)
{
	int n = -1;

	if (env("HF_TOKEN_PATH"))
		n = snprintf(out, room, "%s", env("HF_TOKEN_PATH"));
	else if (env("HF_HOME"))
		n = snprintf(out, room, "%s/token", env("HF_HOME"));
	else if (env("HOME"))
		n = snprintf(out, room, "%s/.cache/huggingface/token", env("HOME"));
	return n > 0 && (size_t)n < room;
}

enum status hub_find_token(char out[HUB_TOKEN_MAX + 1], enum hub_token_source *source, const char *option,
			   const char *endpoint, struct err *err)
{
	struct buf text = BUF_CAP(4096);
	char path[PATH_MAX];
	struct err ignored;
	enum status st = OK;

	out[0] = 0;
	*source = HUB_TOKEN_NONE;
	if (option) {
		*source = HUB_TOKEN_OPTION;
		return take(out, option, strlen(option), "--token", err);
	}
	if (env("HF_TOKEN")) {
		*source = HUB_TOKEN_ENV;
		return take(out, env("HF_TOKEN"), strlen(env("HF_TOKEN")), "$HF_TOKEN", err);
	}
	if (!url_same_origin(endpoint, HUB_ENDPOINT) || !token_path(path, sizeof path))
		return OK;
	if (file_read(&text, path, &ignored) == OK && text.len) {
		st = take(out, text.data, text.len, path, err);
		*source = out[0] ? HUB_TOKEN_FILE : HUB_TOKEN_NONE;
	}
	buf_clear(&text);
	return st;
}

enum status hub_find_endpoint(char *out, size_t room, const char *option, struct err *err)
{
	const char *from = option ? "--endpoint" : "$HF_ENDPOINT";
	const char *text = option ? option : env("HF_ENDPOINT");
	char shown[256];
	size_t n;

	if (!text)
		text = HUB_ENDPOINT;
	n = strlen(text);
	while (n && text[n - 1] == '/')
		n--;
	if (n >= room)
		return err_set(err, ERR_ARGUMENT, "%s: expected at most %zu characters, found %zu", from, room - 1, n);
	memcpy(out, text, n);
	out[n] = 0;
	if ((!url_has_scheme(out, "https") && !url_has_scheme(out, "http")) || strpbrk(out, "?#@ ")) {
		url_shown(shown, sizeof shown, out);
		return err_set(err, ERR_ARGUMENT, "%s: expected an address like " HUB_ENDPOINT ", found '%s'", from, shown);
	}
	return OK;
}
