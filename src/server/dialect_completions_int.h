/* dialect_completions_int.h - the two halves of /v1/completions. */
#ifndef DS4_SERVER_DIALECT_COMPLETIONS_INT_H
#define DS4_SERVER_DIALECT_COMPLETIONS_INT_H

#include "server/dialect.h"

struct writer *completions_open(const struct api_request *q, const struct dialect_env *env, int32_t prompt_tokens);
void completions_event(struct writer *w, const struct turn_event *ev, struct buf *out);
void completions_fail(struct writer *w, const struct api_error *e, struct buf *out);
void completions_close(struct writer *w);

#endif
