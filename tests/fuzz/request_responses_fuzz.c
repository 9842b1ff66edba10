/* request_responses_fuzz.c - any bytes as a body of the responses API; see request.h.
 *
 * `make fuzz T=request_responses` builds and runs it; make_request_corpus.py writes the seeds. */
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return fuzz_request(&dialect_responses, data, size);
}
