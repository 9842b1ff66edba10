/* trace.c - one JSON line per request; see trace.h.
 *
 * How   The line grows as things happen and is written once: requests that run side by side do not mix.
 * Careful
 *   - A prompt has control tokens; its text shows them by their literal names, its ids are exact. */
#include "server/trace.h"

#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"

#define TRACE_CAP ((size_t)256 << 20)

struct trace {
	struct buf line;
	bool events;		/* the list has been opened */
};

struct trace *trace_new(const char *id, const char *dialect, const char *peer)
{
	struct trace *t = mem_zero(sizeof *t);
	struct timespec now;

	if (!t)
		return NULL;
	clock_gettime(CLOCK_REALTIME, &now);
	t->line.cap = TRACE_CAP;
	buf_printf(&t->line, "{\"time\":%lld.%03d,\"id\":\"%s\",\"api\":\"%s\",\"from\":\"%s\"", (long long)now.tv_sec,
		   (int)(now.tv_nsec / 1000000), id, dialect, peer);
	return t;
}

static void add_text(struct trace *t, const char *key, const char *p, size_t n)
{
	struct buf clean = BUF_CAP(TRACE_CAP);

	utf8_add_lossy(&clean, p, n);
	buf_printf(&t->line, ",\"%s\":", key);
	json_write_string(&t->line, buf_cstr(&clean), clean.len);
	buf_clear(&clean);
}

void trace_request(struct trace *t, const char *body, size_t n)
{
	if (t)
		add_text(t, "body", body, n);
}

void trace_prompt(struct trace *t, const struct tokenizer *tk, const int32_t *id, int32_t n)
{
	struct buf text = BUF_CAP(TRACE_CAP);

	if (!t)
		return;
	for (int32_t i = 0; i < n; i++) {
		size_t bytes;
		const char *p = token_bytes(tk, id[i], &bytes);

		buf_add(&text, p, bytes);
	}
	add_text(t, "prompt", buf_cstr(&text), text.len);
	buf_str(&t->line, ",\"prompt_tokens\":[");
	for (int32_t i = 0; i < n; i++)
		buf_printf(&t->line, "%s%d", i ? "," : "", (int)id[i]);
	buf_byte(&t->line, ']');
	buf_clear(&text);
}

void trace_event(struct trace *t, const struct turn_event *ev, double seconds)
{
	static const char *const kind[] = {"waiting", "started", "read", "reasoning", "content", "call", "arguments",
					   "call_end", "finish"};
	static const char *const wait[] = {"nothing", "turn", "timeline", "memory", "prefix"};
	static const char *const finish[] = {"stop", "stop_string", "tool_calls", "length", "context", "cancelled", "error"};

	if (!t)
		return;
	buf_str(&t->line, t->events ? "," : ",\"events\":[");
	t->events = true;
	buf_printf(&t->line, "{\"at\":%.6f,\"event\":\"%s\"", seconds, kind[ev->kind]);
	if (ev->kind == TURN_WAITING)
		buf_printf(&t->line, ",\"for\":\"%s\"", wait[ev->wait]);
	else if (ev->kind == TURN_STARTED)
		buf_printf(&t->line, ",\"cached\":%d", (int)ev->done);
	else if (ev->kind == TURN_READ)
		buf_printf(&t->line, ",\"done\":%d,\"total\":%d", (int)ev->done, (int)ev->total);
	else if (ev->kind == TURN_FINISH)
		buf_printf(&t->line, ",\"finish\":\"%s\",\"prompt\":%d,\"cached\":%d,\"generated\":%d,\"reasoning\":%d",
			   finish[ev->finish], (int)ev->usage.prompt, (int)ev->usage.cached, (int)ev->usage.generated,
			   (int)ev->usage.reasoning);
	if (ev->kind == TURN_CALL_BEGIN)
		buf_printf(&t->line, ",\"id\":\"%s\"", ev->call_id);
	if (ev->n)
		add_text(t, "text", ev->text, ev->n);
	if (ev->kind == TURN_FINISH && ev->err)
		add_text(t, "error", ev->err->msg, strlen(ev->err->msg));
	buf_byte(&t->line, '}');
}

void trace_error(struct trace *t, int status, const char *message)
{
	if (!t)
		return;
	if (t->events)
		buf_byte(&t->line, ']');
	t->events = false;
	buf_printf(&t->line, ",\"status\":%d", status);
	add_text(t, "error", message, strlen(message));
}

void trace_end(struct trace *t, struct log *to, int status, double seconds)
{
	if (!t)
		return;
	if (t->events)
		buf_byte(&t->line, ']');
	buf_printf(&t->line, ",\"http\":%d,\"seconds\":%.6f}\n", status, seconds);
	log_bytes(to, &t->line);
	buf_clear(&t->line);
	mem_free(t);
}
