/* mask.h - which tokens an answer may hold at all. */
#ifndef DS4_ENGINE_MASK_H
#define DS4_ENGINE_MASK_H

#include <stdint.h>

#include "tokenizer/tokenizer.h"

/* A table [V], 1 = legal output: every ordinary piece, and of the added tokens only end of sentence, <think>,
 * </think> and the DSML marker.  Fillers of unused ids ("[PAD123]") are not pieces.
 * NULL when there is no memory; release with mem_free().  Source: docs/tokenizer.md section 3. */
uint8_t *token_mask_new(const struct tokenizer *t);

#endif
