/* http_parse.c - heads and chunked bodies, byte for byte.
 *
 * What  A head's block is cut into strings in place; then the few fields that decide about framing are looked at.
 * Why   libevent's evhttp would do this, but its 2.1 answers a long target or head with an HTML 400, cannot say 431 or
 *       414, keeps no time over a head that comes byte by byte, and tells nobody when a connection goes that never asked
 *       anything, so that connections cannot be counted.  All of these are promises of docs/api.md.
 * Careful
 *       - A field that looks like Content-Length but is not one (sign, comma list, white space) is an error, never
 *         ignored: whoever sits between us and the client may read it otherwise.
 *       - The block may hold NUL: that is an error before strings are made of it. */
#include "server/http_parse.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

static bool refuse(struct http_refusal *why, int status, const char *text)
{
	why->status = status;
	snprintf(why->text, sizeof why->text, "%s", text);
	return false;
}

static bool is_token_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(const char *s)
{
	if (!*s)
		return false;
	for (; *s; s++)
		if (!is_token_char((unsigned char)*s))
			return false;
	return true;
}

size_t http_head_end(const char *p, size_t n, size_t *scanned)
{
	size_t i = *scanned > 3 ? *scanned - 3 : 0;

	for (; i + 4 <= n; i++)
		if (p[i + 3] == '\n' && p[i + 2] == '\r' && p[i + 1] == '\n' && p[i] == '\r')
			return i + 4;
	*scanned = n;
	return 0;
}

/* The next line of the block, without its CRLF; NULL at the end, or when the line is not right. */
static char *next_line(char **at, char *end)
{
	char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));

	if (!stop || stop == line || stop[-1] != '\r')
		return NULL;
	stop[-1] = 0;
	*at = stop + 1;
	return line;
}

static bool parse_target(struct http_head *h, char *target, struct http_refusal *why)
{
	char *query;

	if (strlen(target) > HTTP_MAX_TARGET)
		return refuse(why, 414, "the request target is longer than 8192 bytes");
	if (!strncasecmp(target, "http://", 7) || !strncasecmp(target, "https://", 8)) {
		target = strchr(strstr(target, "//") + 2, '/');
		if (!target) {
			h->path = "/";
			h->query = "";
			return true;
		}
	}
	for (const char *p = target; *p; p++)
		if ((unsigned char)*p <= 0x20 || (unsigned char)*p == 0x7f)
			return refuse(why, 400, "the request target has a control character");
	h->query = "";
	query = strchr(target, '?');
	if (query) {
		*query = 0;
		h->query = query + 1;
	}
	h->path = target;
	if (*target != '/' && strcmp(target, "*") != 0)
		return refuse(why, 400, "the request target does not begin with '/'");
	return true;
}

static bool parse_request_line(struct http_head *h, char *line, struct http_refusal *why)
{
	char *target = strchr(line, ' '), *version;

	if (!target)
		return refuse(why, 400, "the request line has no target");
	*target++ = 0;
	version = strchr(target, ' ');
	if (!version)
		return refuse(why, 400, "the request line has no HTTP version");
	*version++ = 0;
	h->method = line;
	if (!is_token(line) || strlen(line) > 32)
		return refuse(why, 400, "the request's method is not a word");
	if (strncmp(version, "HTTP/", 5) != 0 || strlen(version) != 8 || version[6] != '.' ||
	    version[5] < '0' || version[5] > '9' || version[7] < '0' || version[7] > '9')
		return refuse(why, 400, "the request line does not end in HTTP/1.1");
	if (version[5] != '1')
		return refuse(why, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
	h->minor = version[7] - '0';
	return parse_target(h, target, why);
}

static bool parse_field(struct http_head *h, char *line, struct http_refusal *why)
{
	char *value = strchr(line, ':'), *end;

	if (h->n_fields == HTTP_MAX_FIELDS)
		return refuse(why, 431, "the request has more than 200 header fields");
	if (!value)
		return refuse(why, 400, "a header line has no colon");
	*value++ = 0;
	if (!is_token(line))
		return refuse(why, 400, "a header field's name is not a word");
	while (*value == ' ' || *value == '\t')
		value++;
	for (end = value + strlen(value); end > value && (end[-1] == ' ' || end[-1] == '\t'); end--)
		;
	*end = 0;
	for (const char *p = value; *p; p++)
		if (((unsigned char)*p < 0x20 && *p != '\t') || (unsigned char)*p == 0x7f)
			return refuse(why, 400, "a header field has a control character");
	h->field[h->n_fields++] = (struct http_field){line, value};
	return true;
}

static bool parse_length(struct http_head *h, const char *value, struct http_refusal *why)
{
	int64_t n = 0;
	const char *p = value;

	for (; *p >= '0' && *p <= '9' && n < ((int64_t)1 << 55); p++)
		n = n * 10 + (*p - '0');
	if (*p || p == value)
		return refuse(why, 400, "Content-Length is not a number");
	if (h->length >= 0 && h->length != n)
		return refuse(why, 400, "two different values of Content-Length");
	h->length = n;
	return true;
}

/* Is word among the comma-separated ones of value? */
static bool has_word(const char *value, const char *word)
{
	size_t n = strlen(word);

	while (*value) {
		value += strspn(value, " \t,");
		if (!strncasecmp(value, word, n) && (!value[n] || strchr(" \t,", value[n])))
			return true;
		value += strcspn(value, ",");
	}
	return false;
}

/* The fields that say where the body ends and what becomes of the connection. */
static bool parse_framing(struct http_head *h, struct http_refusal *why)
{
	h->length = -1;
	h->keep = h->minor >= 1;
	for (int i = 0; i < h->n_fields; i++) {
		const char *name = h->field[i].name, *value = h->field[i].value;

		if (!strcasecmp(name, "Content-Length")) {
			if (!parse_length(h, value, why))
				return false;
		} else if (!strcasecmp(name, "Transfer-Encoding")) {
			if (strcasecmp(value, "chunked") != 0 || h->chunked)
				return refuse(why, 501, "the only Transfer-Encoding here is chunked");
			h->chunked = true;
		} else if (!strcasecmp(name, "Connection")) {
			if (has_word(value, "close"))
				h->keep = false;
			else if (h->minor == 0 && has_word(value, "keep-alive"))
				h->keep = true;
		} else if (!strcasecmp(name, "Expect")) {
			if (strcasecmp(value, "100-continue") != 0)
				return refuse(why, 417, "the only Expect here is 100-continue");
			h->expect = h->minor >= 1;
		}
	}
	if (h->chunked && h->length >= 0)
		return refuse(why, 400, "both Content-Length and Transfer-Encoding");
	if (h->chunked && h->minor == 0)
		return refuse(why, 400, "HTTP/1.0 has no Transfer-Encoding");
	if (h->minor >= 1 && !http_field(h, "Host"))
		return refuse(why, 400, "an HTTP/1.1 request needs a Host field");
	return true;
}

bool http_head_parse(struct http_head *h, char *block, size_t n, struct http_refusal *why)
{
	char *at = block, *end = block + n, *line;

	memset(h, 0, sizeof *h);
	h->block = block;
	h->length = -1;
	if (memchr(block, 0, n))
		return refuse(why, 400, "the request's head has a NUL");
	line = next_line(&at, end);
	if (!line)
		return refuse(why, 400, "the request line does not end in CRLF");
	if (!parse_request_line(h, line, why))
		return false;
	for (;;) {
		line = next_line(&at, end);
		if (!line)
			return refuse(why, 400, "a header line does not end in CRLF");
		if (!*line)
			break;
		if (!parse_field(h, line, why))
			return false;
	}
	return parse_framing(h, why);
}

void http_head_clear(struct http_head *h)
{
	mem_free(h->block);
	memset(h, 0, sizeof *h);
}

const char *http_field(const struct http_head *h, const char *name)
{
	for (int i = 0; i < h->n_fields; i++)
		if (!strcasecmp(h->field[i].name, name))
			return h->field[i].value;
	return NULL;
}

/* ------------------------------------------------------------------ chunks */

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 :
	       c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* A whole size line, without CRLF: hexadecimal digits, then perhaps an extension that nobody needs. */
static void size_line(struct http_chunks *c)
{
	uint64_t n = 0;
	size_t i = 0;

	for (; i < c->n_line && hex_value(c->line[i]) >= 0; i++)
		n = i < 15 ? n << 4 | (uint64_t)hex_value(c->line[i]) : UINT64_MAX;
	if (i == 0 || n == UINT64_MAX || (i < c->n_line && !strchr(" \t;", c->line[i]))) {
		c->state = CHUNK_BAD;
		return;
	}
	c->left = n;
	c->state = n ? CHUNK_DATA : CHUNK_TRAILER;
}

static void whole_line(struct http_chunks *c)
{
	if (!c->n_line || c->line[c->n_line - 1] != '\r') {
		c->state = CHUNK_BAD;
		return;
	}
	c->n_line--;
	if (c->state == CHUNK_SIZE)
		size_line(c);
	else if (c->state == CHUNK_DATA_END)
		c->state = c->n_line ? CHUNK_BAD : CHUNK_SIZE;
	else if (!c->n_line)
		c->state = CHUNK_DONE;
	c->n_line = 0;
}

size_t http_chunks_take(struct http_chunks *c, const char *p, size_t n, struct buf *body)
{
	size_t i = 0;

	while (i < n && c->state != CHUNK_DONE && c->state != CHUNK_BAD) {
		if (c->state == CHUNK_DATA) {
			size_t m = n - i < c->left ? n - i : (size_t)c->left;

			buf_add(body, p + i, m);
			i += m;
			c->left -= m;
			if (!c->left)
				c->state = CHUNK_DATA_END;
			continue;
		}
		if (c->state == CHUNK_TRAILER && ++c->trailer_bytes > 8192)
			c->state = CHUNK_BAD;
		else if (p[i] == '\n')
			whole_line(c);
		else if (c->n_line == sizeof c->line)
			c->state = CHUNK_BAD;
		else
			c->line[c->n_line++] = p[i];
		i++;
	}
	return i;
}

const char *http_status_text(int status)
{
	static const struct {
		int status;
		const char *text;
	} all[] = {
		{200, "OK"}, {204, "No Content"}, {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"},
		{404, "Not Found"}, {405, "Method Not Allowed"}, {408, "Request Timeout"}, {409, "Conflict"},
		{413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"},
		{417, "Expectation Failed"}, {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"}, {501, "Not Implemented"}, {503, "Service Unavailable"},
		{504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"}, {529, "Overloaded"},
	};

	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (all[i].status == status)
			return all[i].text;
	return status < 400 ? "OK" : status < 500 ? "Bad Request" : "Internal Server Error";
}
