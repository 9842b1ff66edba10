/* gguf_write.h - the head of a model file: metadata, directory, and every tensor's place, known in advance.
 *
 * Nothing is written here: gguf_head() gives the bytes in front of the tensor data, and each tensor the
 * offset where its bytes belong, so that tensors can be written in any order and by several threads.
 * Tensors lie one behind the other in the order they were added, each aligned.  Source: docs/formats/gguf.md.
 *
 * A builder keeps its first failure (no memory): many calls, one check, gguf_head(). */
#ifndef DS4_GGUF_GGUF_WRITE_H
#define DS4_GGUF_GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/status.h"
#include "gguf/gguf.h"
#include "quant/dtype.h"

#define GGUF_WRITE_ALIGNMENT 32

struct gguf_builder;

struct gguf_builder *gguf_builder_new(void);		/* NULL: no memory */
void gguf_builder_free(struct gguf_builder *b);		/* accepts NULL */

/* Each sets a key; one that is there already keeps its place and gets the new value. */
void gguf_put_u32(struct gguf_builder *b, const char *key, uint32_t v);
void gguf_put_f32(struct gguf_builder *b, const char *key, float v);
void gguf_put_bool(struct gguf_builder *b, const char *key, bool v);
void gguf_put_string(struct gguf_builder *b, const char *key, const char *s, size_t n);
void gguf_put_text(struct gguf_builder *b, const char *key, const char *s);
void gguf_put_i32s(struct gguf_builder *b, const char *key, const int32_t *v, size_t n);
void gguf_put_f32s(struct gguf_builder *b, const char *key, const float *v, size_t n);
/* strings: n entries of the form u64 length, bytes (as gguf_add_string() appends them). */
void gguf_put_strings(struct gguf_builder *b, const char *key, const struct buf *strings, size_t n);
void gguf_put_copy(struct gguf_builder *b, const struct gguf_kv *kv);	/* any key of an opened file */
void gguf_remove(struct gguf_builder *b, const char *key);
bool gguf_has(const struct gguf_builder *b, const char *key);

void gguf_add_string(struct buf *strings, const char *s, size_t n);

/* Adds a tensor of dims[0..n_dims), dims[0] contiguous and a multiple of the block length. */
void gguf_add_tensor(struct gguf_builder *b, const char *name, enum dtype t, uint32_t n_dims,
                     const uint64_t *dims);

/* Bytes of the directory and metadata, padded to where tensor data begins.  ERR_MEMORY. */
enum status gguf_head(struct buf *out, const struct gguf_builder *b, struct err *err);

uint64_t gguf_offset(const struct gguf_builder *b, size_t tensor);	/* from the start of tensor data */
uint64_t gguf_data_bytes(const struct gguf_builder *b);			/* of all tensors, padding included */

#endif
