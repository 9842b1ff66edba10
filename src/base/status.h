/* status.h - every failure is a code plus one sentence.
 *
 * Functions that can fail return enum status and take a struct err as their last parameter;
 * err_set() writes both and returns the code, so a failure is one line at the place that knows why:
 *
 *	return err_set(err, ERR_FORMAT, "%s: expected %d experts, file has %d", name, want, have);
 *
 * Messages name the thing and both values.  Nothing below a main() exits or prints. */
#ifndef DS4_BASE_STATUS_H
#define DS4_BASE_STATUS_H

#define STATUS_MAP(X)                                                  \
	/* code          http  exit  text */                           \
	X(OK,             200,  0, "ok")                               \
	X(ERR_ARGUMENT,   400,  2, "invalid request")                  \
	X(ERR_FORMAT,     500,  3, "malformed file")                   \
	X(ERR_LIMIT,      413,  4, "limit exceeded")                   \
	X(ERR_MEMORY,     503,  5, "out of memory")                    \
	X(ERR_DEVICE,     500,  6, "device failure")                   \
	X(ERR_CANCELLED,  499,  7, "cancelled")                        \
	X(ERR_IO,         500,  8, "input or output failed")           \
	X(ERR_NOT_FOUND,  404,  9, "not found")

enum status {
#define X(code, http, exit_code, text) code,
	STATUS_MAP(X)
#undef X
};

struct err {
	enum status code;
	char msg[480];	/* one sentence, no newline; empty when code is OK */
};

/* Writes code and message into err (which may be NULL) and returns code. */
enum status err_set(struct err *err, enum status code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "prefix: " in front of the message already in err; returns its code. */
enum status err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

const char *status_name(enum status code);	/* "ERR_FORMAT" */
const char *status_text(enum status code);	/* "malformed file" */
int status_http(enum status code);
int status_exit_code(enum status code);

#define TRY(call)                                      \
	do {                                           \
		enum status try_st_ = (call);          \
		if (try_st_ != OK)                     \
			return try_st_;                \
	} while (0)

/* The same with clean-up: needs a local `enum status st` that the label returns. */
#define TRY_TO(label, call)                            \
	do {                                           \
		st = (call);                           \
		if (st != OK)                          \
			goto label;                    \
	} while (0)

#endif
