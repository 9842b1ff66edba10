/* request_chat_fuzz.c - any bytes as a body of the chat API; see request.h.
 *
 * `make fuzz T=request_chat` builds and runs it; make_request_corpus.py writes the seeds. */
#include "request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return fuzz_request(&dialect_chat, data, size);
}
