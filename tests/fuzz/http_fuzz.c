/* http_fuzz.c - any bytes as a connection's input: heads are found, parsed or refused, bodies decoded; cut anywhere, the
 * same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "server/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void chunks(const char *p, size_t n, size_t cut)
{
	struct http_chunks one = {0}, two = {0};
	struct buf whole = BUF_CAP(1 << 20), parts = BUF_CAP(1 << 20);
	size_t took = http_chunks_take(&one, p, n, &whole), first;

	first = http_chunks_take(&two, p, cut, &parts);
	if (first == cut)
		first += http_chunks_take(&two, p + cut, n - cut, &parts);
	if (one.state != two.state || took != first || whole.len != parts.len ||
	    (whole.len && memcmp(whole.data, parts.data, whole.len)))
		abort();
	buf_clear(&whole);
	buf_clear(&parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *p = (const char *)data;
	struct http_refusal why = {0};
	struct http_head h;
	size_t scanned = 0, end = http_head_end(p, size, &scanned);

	chunks(p, size, size ? data[0] % (size + 1) : 0);
	if (!end)
		return 0;
	if (http_head_parse(&h, mem_copy(p, end), end, &why)) {
		if (!h.method || !h.path || !h.query || (h.chunked && h.length >= 0))
			abort();
		if (h.chunked)
			chunks(p + end, size - end, (size - end) / 2);
	} else if (why.status < 400 || why.status > 505 || !why.text[0]) {
		abort();
	}
	http_head_clear(&h);
	return 0;
}
