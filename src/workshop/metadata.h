/* metadata.h - the keys of a model file: from numbers, from a tokenizer.json, or from another GGUF file. */
#ifndef DS4_WORKSHOP_METADATA_H
#define DS4_WORKSHOP_METADATA_H

#include "base/status.h"
#include "gguf/gguf.h"
#include "gguf/gguf_write.h"
#include "workshop/convert.h"

/* general.* and deepseek4.* from numbers. */
void metadata_numbers(struct gguf_builder *b, const struct numbers *n, const char *name);

/* tokenizer.ggml.* from a tokenizer.json of byte-level BPE, and the ids of begin, end and padding from a
 * tokenizer_config.json (config NULL: DeepSeek's names of these tokens).  Ids without a token become
 * "[PAD<i>]", up to vocab.  ERR_FORMAT names what is missing. */
enum status metadata_tokenizer(struct gguf_builder *b, const char *path, const char *config, int64_t vocab,
			       struct err *err);

/* Copies keys: those that begin with prefix ("" = all), but none about how that file was quantised or laid
 * out. */
void metadata_copy(struct gguf_builder *b, const struct gguf *g, const char *prefix);

/* The keys of g must describe a model of these shapes.  ERR_FORMAT names the key and both values. */
enum status metadata_check(const struct gguf *g, const struct numbers *n, struct err *err);

#endif
