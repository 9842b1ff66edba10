/* request_completions_fuzz.c - any bytes as a body of the completions API; see request.h.
 *
 * `make fuzz T=request_completions` builds and runs it; make_request_corpus.py writes the seeds. */
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return fuzz_request(&dialect_completions, data, size);
}
