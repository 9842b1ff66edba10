/* api_server.h - a whole server over ds4-nano inside a test, and answers taken apart. */
#ifndef DS4_TESTS_SUPPORT_API_SERVER_H
#define DS4_TESTS_SUPPORT_API_SERVER_H

#include <pthread.h>

#include "base/json.h"
#include "server/server.h"
#include "support/http_client.h"

struct api_server {
	struct server_options o;	/* set before api_start; defaults from api_init */
	struct server *s;
	pthread_t thread;
	int port;
	int32_t context, parallel;
	volatile int hold;		/* loading waits while this is set */
	enum status status;		/* of server_run */
	struct err err;
	char log[64];			/* its log file */
};

void api_init(struct api_server *a);
void api_start(struct api_server *a);	/* waits until the model is there unless hold is set */
void api_stop(struct api_server *a);	/* as SIGTERM does; fails the test when it does not end well */
void api_wait_ready(struct api_server *a);

/* POST with a JSON body. */
void api_post(struct api_server *a, struct response *r, const char *path, const char *fields, const char *body);

/* The answer's body as JSON; fails the test when it is none. */
json_t *response_json(const struct response *r);

/* Text of a member path: "choices.0.message.content"; "" when there is none. */
const char *json_at(json_t *o, const char *path);
json_int_t json_int_at(json_t *o, const char *path);

/* What the events of a stream say, whichever API it is. */
struct stream {
	struct buf content, reasoning, arguments;
	char finish[64];		/* finish_reason, stop_reason, or the last response event's type */
	int events, comments, calls;
	bool ended;			/* [DONE], message_stop, response.completed/incomplete/failed */
	bool error;			/* an error event */
	json_int_t prompt, cached, generated;	/* usage; -1 = not told */
};

void stream_take(struct stream *s, const struct response *r);
void stream_clear(struct stream *s);

/* The value of a line of /metrics that begins with `name `; -1 when there is none. */
double api_metric(struct api_server *a, const char *name);

#endif
