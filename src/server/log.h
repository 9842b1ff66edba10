/* log.h - files that lines are added to: the log, the trace.
 *
 * Thread: any.  A line is one write to a file opened for appending. */
#ifndef DS4_SERVER_LOG_H
#define DS4_SERVER_LOG_H

#include "base/buf.h"
#include "base/status.h"

struct log;

/* path NULL: standard error.  The file is made for its owner only. */
enum status log_open(struct log **out, const char *path, struct err *err);
void log_close(struct log *l);		/* accepts NULL, like the rest: a log that is not there takes everything */
void log_reopen(struct log *l);		/* after the file was moved away */

/* "2026-11-24T17:56:43.123Z what key=value ...\n" */
void log_line(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_bytes(struct log *l, const struct buf *b);

#endif
