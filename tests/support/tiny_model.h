/* tiny_model.h - the small random models that the golden tests run, made when they are needed.
 *
 *            ratios             d    V    H  window  top-k   what it is for
 *   tiny-1   0 0 4 128 4 128    256  512  4  128     16      the published types
 *   tiny-2   0 4 128 4 0 128    512  397  6  32      48      odd shapes, every type, reversed data
 *   tiny-3   0 4 128 4          256  320  2  128     512     thousands of tokens, shared bytes */
#ifndef DS4_TESTS_TINY_MODEL_H
#define DS4_TESTS_TINY_MODEL_H

#include <stdint.h>

enum { TINY_MODELS = 3 };

/* Writes model tiny-`number` to path and says its length and FNV-1a-64 checksum.  The bytes are the same on every
 * machine.  Exits with a message on any failure: this is support for tests. */
void tiny_model_write(const char *path, int number, uint64_t *bytes, uint64_t *checksum);

#endif
