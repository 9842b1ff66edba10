/* hub.c - from a short name or an address to the place of the bytes, their number and their digest.
 *
 * What  Builds the address, asks for one byte of it, and follows the redirects by hand.
 * Why   The answer to that byte says everything the download needs: size, digest, storage address, whether parts can
 *       be had.  A lie in one of them costs a second here and an hour later.
 * How   GET with Range: bytes=0-0, hop by hop.  X-Linked-Size and X-Linked-ETag are believed from the origin that was
 *       asked alone; the storage host is believed about its own Content-Range, and the two must agree.
 * Careful
 *       - The storage host's ETag may have 64 hexadecimal digits and be no SHA-256 of the file: only the origin's counts.
 *       - A redirect from https to http is refused: what arrives could be anybody's.
 *       - A server without ranges answers 200 and the whole file: the request is given up after the first piece.
 * Source: the hub's download headers as huggingface_hub reads them (X-Linked-Etag or ETag, X-Linked-Size). */
#include "hub/hub.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/mem.h"
#include "hub/request_int.h"

#define HOPS_MAX 8
#define BODY_MAX (64 * 1024)	/* of an answer whose body nobody reads */
#define NAME_MAX_CHARS 200

const struct hub_model hub_models[] = {
	{"q2", "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf", 86714775900u, true},
	{"q4", "DeepSeek-V4-Flash-Q4KExperts-F16HC-F16Compressor-F16Indexer-Q8Attn-Q8Shared-Q8Out-chat-v2-imatrix.gguf",
	 164628167004u, true},
	{"mtp", "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf", 3807600108u, false},
	{NULL, NULL, 0, false},
};

/* ------------------------------------------------------------------ addresses */

static bool safe_name(const char *s)
{
	size_t n = strlen(s);

	if (!n || n > NAME_MAX_CHARS || s[0] == '.')
		return false;
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f || *s == '/' || *s == '\\')
			return false;
	return true;
}

/* The last part of the address's path, decoded. */
static enum status name_of_url(char **out, const char *url, struct err *err)
{
	CURLU *u = curl_url();
	char *path = NULL, *slash, *name = NULL, shown[256];
	int n = 0;

	url_shown(shown, sizeof shown, url);
	if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
	    curl_url_get(u, CURLUPART_PATH, &path, 0) == CURLUE_OK) {
		slash = strrchr(path, '/');
		name = curl_easy_unescape(NULL, slash ? slash + 1 : path, 0, &n);
	}
	if (name && strlen(name) == (size_t)n && safe_name(name))
		*out = mem_str(name);
	else
		err_set(err, ERR_ARGUMENT, "%s: expected an address that ends in the name of a file", shown);
	if (name && !*out && (!err || !err->msg[0]))
		err_set(err, ERR_MEMORY, "%s: no memory for its name", shown);
	curl_free(name);
	curl_free(path);
	curl_url_cleanup(u);
	return *out ? OK : err ? err->code : ERR_ARGUMENT;
}

/* A page of the hub about a file, .../blob/main/x, is not the file: .../resolve/main/x is. */
static char *download_address(const char *url, const char *endpoint)
{
	struct buf b = BUF_CAP(1 << 16);
	const char *blob = strstr(url, "/blob/");

	if (!blob || !url_same_origin(url, endpoint))
		return mem_str(url);
	buf_add(&b, url, (size_t)(blob - url));
	buf_printf(&b, "/resolve/%s", blob + 6);
	return buf_take(&b);
}

static const struct hub_model *find_model(const char *name)
{
	for (const struct hub_model *m = hub_models; m->name; m++)
		if (!strcmp(m->name, name))
			return m;
	return NULL;
}

static bool safe_revision(const char *s)
{
	for (const char *p = s; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("-_./", *p))
			return false;
	return *s && !strstr(s, "..");
}

enum status hub_file_init(struct hub_file *file, const struct hub_model **model, const char *what,
			  const struct hub_access *a, const char *revision, struct err *err)
{
	struct buf url = BUF_CAP(1 << 16);

	memset(file, 0, sizeof *file);
	*model = find_model(what);
	if (err)
		err->msg[0] = 0;
	if (!safe_revision(revision))
		return err_set(err, ERR_ARGUMENT, "--revision: expected a branch, tag or commit, found '%s'", revision);
	if (*model) {
		buf_printf(&url, "%s/" HUB_REPOSITORY "/resolve/%s/%s", a->endpoint, revision, (*model)->file);
		file->url = buf_take(&url);
	} else if (strstr(what, "://") && (url_has_scheme(what, "https") || url_has_scheme(what, "http"))) {
		file->url = download_address(what, a->endpoint);
	} else {
		return err_set(err, ERR_ARGUMENT, "expected q2, q4, mtp or an https:// address, found '%s'", what);
	}
	if (!file->url)
		return err_set(err, ERR_MEMORY, "no memory for the address of '%s'", what);
	return name_of_url(&file->name, file->url, err);
}

void hub_file_clear(struct hub_file *file)
{
	mem_free(file->url);
	mem_free(file->name);
	mem_free(file->location);
	memset(file, 0, sizeof *file);
}

/* ------------------------------------------------------------------ asking */

struct probe {
	CURL *easy;
	const struct hub_access *a;
	struct answer answer;
	size_t body;
	char *url;		/* of this hop */
	curl_off_t length;	/* of the body, -1 when not said */
};

static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
	struct probe *p = ctx;

	(void)data;
	p->body += size * n;
	return p->answer.status < 300 && p->answer.status != 206 ? 0 : p->body > BODY_MAX ? 0 : size * n;
}

/* One request, tried again while that may help.  OK: any answer below 400. */
static enum status ask(struct probe *p, struct err *err)
{
	struct outcome o;
	char shown[160];
	CURLcode code;

	url_shown(shown, sizeof shown, p->url);
	for (int failures = 1;; failures++) {
		TRY(request_prepare(p->easy, p->url, p->a, &p->answer, err));
		p->body = 0;
		curl_easy_setopt(p->easy, CURLOPT_RANGE, "0-0");
		curl_easy_setopt(p->easy, CURLOPT_WRITEFUNCTION, on_body);
		curl_easy_setopt(p->easy, CURLOPT_WRITEDATA, p);
		code = curl_easy_perform(p->easy);
		if (request_cancelled(p->a))
			return err_set(err, ERR_CANCELLED, "stopped");
		if (p->answer.status >= 200 && p->answer.status < 400 && (code == CURLE_OK || code == CURLE_WRITE_ERROR))
			return OK;
		request_judge(&o, p->easy, code, &p->answer, p->a);
		if (p->answer.status == 416 && p->answer.has_total && p->answer.total == 0)
			return err_set(err, ERR_FORMAT, "%s: the file on the server is empty", shown);
		if (o.verdict != VERDICT_RETRY)
			return err_set(err, o.code, "%s: %s", shown, o.why);
		if (failures > p->a->retries)
			return err_set(err, o.code, "%s: %s (tried %d times)", shown, o.why, failures);
		if (o.wait_s <= 0)
			o.wait_s = request_backoff(p->a, failures);
		if (p->a->waiting)
			p->a->waiting(p->a->ctx, o.why, o.wait_s);
		TRY(request_sleep(p->a, o.wait_s, err));
	}
}

static bool take_digest(char out[HUB_SHA256_CHARS + 1], const char *etag)
{
	if (strlen(etag) != HUB_SHA256_CHARS || strspn(etag, "0123456789abcdefABCDEF") != HUB_SHA256_CHARS)
		return false;
	for (int i = 0; i <= HUB_SHA256_CHARS; i++)
		out[i] = (char)tolower((unsigned char)etag[i]);
	return true;
}

/* What this hop says about the file, believed only from the origin that was asked. */
static void note_origin(struct hub_file *f, const struct answer *h, bool *has_size)
{
	if (h->has_linked_size && !*has_size) {
		f->size = h->linked_size;
		*has_size = true;
	}
	if (!f->sha256[0] && !take_digest(f->sha256, h->linked_etag))
		take_digest(f->sha256, h->etag);
	if (!f->etag[0])
		snprintf(f->etag, sizeof f->etag, "%s", h->linked_etag[0] ? h->linked_etag : h->etag);
}

static enum status next_hop(struct probe *p, struct err *err)
{
	char *next = NULL, *copy, shown[160];

	url_shown(shown, sizeof shown, p->url);
	curl_easy_getinfo(p->easy, CURLINFO_REDIRECT_URL, &next);
	if (!next)
		return err_set(err, ERR_IO, "%s: %ld without a Location", shown, p->answer.status);
	if (!url_has_scheme(next, "https") && !(url_has_scheme(next, "http") && url_has_scheme(p->url, "http")))
		return err_set(err, ERR_IO, "%s: redirects to an address that is not https; refused", shown);
	copy = mem_str(next);
	if (!copy)
		return err_set(err, ERR_MEMORY, "%s: no memory for its redirect", shown);
	mem_free(p->url);
	p->url = copy;
	return OK;
}

/* The last hop has the bytes: how many, and can parts be had? */
static enum status note_storage(struct hub_file *f, const struct probe *p, bool has_size, struct err *err)
{
	const struct answer *h = &p->answer;
	char shown[160];
	uint64_t there = 0;
	bool known = false;

	url_shown(shown, sizeof shown, f->url);
	f->ranges = h->status == 206;
	if (h->status == 206) {
		if (!h->has_range || h->first != 0 || h->last != 0)
			return err_set(err, ERR_FORMAT, "%s: asked for byte 0 and got an answer about other bytes", shown);
		known = h->has_total;
		there = h->total;
	} else if (p->length >= 0) {
		known = true;
		there = (uint64_t)p->length;
	}
	if (known && has_size && there != f->size)
		return err_set(err, ERR_FORMAT, "%s: the hub says that it has %llu bytes, the server that sends it says %llu",
			       shown, (unsigned long long)f->size, (unsigned long long)there);
	if (known)
		f->size = there;
	if (!known && !has_size)
		return err_set(err, ERR_FORMAT, "%s: the server does not say how large the file is", shown);
	if (!f->size)
		return err_set(err, ERR_FORMAT, "%s: the file on the server is empty", shown);
	return OK;
}

static enum status follow(struct hub_file *f, struct probe *p, struct err *err)
{
	bool has_size = false;
	char shown[160];

	for (int hop = 0; hop < HOPS_MAX; hop++) {
		TRY(ask(p, err));
		if (url_same_origin(p->url, f->url))
			note_origin(f, &p->answer, &has_size);
		if (p->answer.status < 300) {
			curl_easy_getinfo(p->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &p->length);
			TRY(note_storage(f, p, has_size, err));
			mem_free(f->location);
			f->location = p->url;
			p->url = NULL;
			return OK;
		}
		TRY(next_hop(p, err));
	}
	url_shown(shown, sizeof shown, f->url);
	return err_set(err, ERR_IO, "%s: more than %d redirects", shown, HOPS_MAX);
}

enum status hub_resolve(struct hub_file *file, const struct hub_access *a, struct err *err)
{
	struct probe p = {.a = a};
	enum status st = OK;

	TRY(request_global(err));
	p.easy = curl_easy_init();
	p.url = mem_str(file->url);
	file->sha256[0] = file->etag[0] = 0;
	file->size = 0;
	if (!p.easy || !p.url)
		st = err_set(err, ERR_MEMORY, "no memory to ask for a file");
	else
		st = follow(file, &p, err);
	mem_free(p.url);
	curl_easy_cleanup(p.easy);
	return st;
}
