/* status.c - the status table and the one way of writing an error message. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *text;
	int http, exit_code;
} table[] = {
#define X(code, http, exit_code, text) [code] = {#code, text, http, exit_code},
	STATUS_MAP(X)
#undef X
};

enum status err_set(struct err *err, enum status code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return code;
	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof err->msg, fmt, ap);
	va_end(ap);
	return code;
}

enum status err_prefix(struct err *err, const char *fmt, ...)
{
	char tail[sizeof err->msg];
	va_list ap;
	size_t n;

	if (!err)
		return ERR_ARGUMENT;
	memcpy(tail, err->msg, sizeof tail);
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof err->msg, fmt, ap);
	va_end(ap);
	n = strlen(err->msg);
	snprintf(err->msg + n, sizeof err->msg - n, ": %.*s", (int)(sizeof tail - 1), tail);
	return err->code;
}

const char *status_name(enum status code)
{
	return table[code].name;
}

const char *status_text(enum status code)
{
	return table[code].text;
}

int status_http(enum status code)
{
	return table[code].http;
}

int status_exit_code(enum status code)
{
	return table[code].exit_code;
}
