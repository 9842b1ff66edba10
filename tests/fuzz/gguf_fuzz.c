/* gguf_fuzz.c - any bytes as a model file: refused, or every promise of gguf.h holds.
 *
 * `make fuzz T=gguf` builds and runs it; the seeds in tests/fuzz/corpus/gguf are written by make_gguf_corpus.py. */
#include <stdint.h>

#include "../unit/gguf/build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = {0};
	struct gguf *g = NULL;

	if (gguf_open_memory(&g, data, size, "fuzz", &err) != OK) {
		check(g == NULL && err.code != OK && err.msg[0]);
		return 0;
	}
	walk(g, 1 << 16);
	gguf_close(g);
	return 0;
}
