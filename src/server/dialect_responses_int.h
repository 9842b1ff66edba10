/* dialect_responses_int.h - the two halves of /v1/responses. */
#ifndef DS4_SERVER_DIALECT_RESPONSES_INT_H
#define DS4_SERVER_DIALECT_RESPONSES_INT_H

#include "server/dialect.h"

struct writer *responses_open(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens);
void responses_event(struct writer *w, const struct turn_event *ev, struct buf *out);
void responses_fail(struct writer *w, const struct api_error *e, struct buf *out);
void responses_close(struct writer *w);

#endif
