/* trace.h - everything about one request, as one line of JSON in the trace file: what it asked, the prompt as the
 * model saw it, what the cache knew, every event with its time.
 *
 * The only place where contents of requests are written; made only with --trace.
 * Thread: one at a time. */
#ifndef DS4_SERVER_TRACE_H
#define DS4_SERVER_TRACE_H

#include "server/log.h"
#include "tokenizer/tokenizer.h"
#include "turn/turn.h"

struct trace;

/* NULL without memory: functions accept it. */
struct trace *trace_new(const char *id, const char *dialect, const char *peer);
void trace_request(struct trace *t, const char *body, size_t n);
void trace_prompt(struct trace *t, const struct tokenizer *tk, const int32_t *id, int32_t n);
void trace_event(struct trace *t, const struct turn_event *ev, double seconds);
void trace_error(struct trace *t, int status, const char *message);
/* Writes the line and frees t.  seconds: the request's time in all. */
void trace_end(struct trace *t, struct log *to, int status, double seconds);

#endif
