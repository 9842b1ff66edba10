/* dialect_messages_int.h - the two halves of /v1/messages. */
#ifndef DS4_SERVER_DIALECT_MESSAGES_INT_H
#define DS4_SERVER_DIALECT_MESSAGES_INT_H

#include "server/dialect.h"

struct writer *messages_open(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens);
void messages_event(struct writer *w, const struct turn_event *ev, struct buf *out);
void messages_fail(struct writer *w, const struct api_error *e, struct buf *out);
void messages_close(struct writer *w);

#endif
