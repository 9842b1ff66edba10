/* dialect_chat_int.h - the two halves of /v1/chat/completions, and what /v1/completions shares with it. */
#ifndef DS4_SERVER_DIALECT_CHAT_INT_H
#define DS4_SERVER_DIALECT_CHAT_INT_H

#include "server/api_request_int.h"
#include "server/api_write_int.h"

bool parse_stream_options(struct parsing *p);
bool chat_parse(json_t *body, const struct dialect_env *env, struct api_request *q, struct api_error *e);

struct writer *chat_open(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens);
void chat_event(struct writer *w, const struct turn_event *ev, struct buf *out);
void chat_failed(struct writer *w, const struct api_error *e, struct buf *out);
void chat_close(struct writer *w);

/* "stop", "length" or "tool_calls" */
const char *openai_finish(enum turn_finish f);
/* An error in a stream whose clients know OpenAI's shape. */
void openai_stream_error(const struct api_error *e, struct buf *out);

#endif
