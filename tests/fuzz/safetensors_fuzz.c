/* safetensors_fuzz.c - any bytes as the header of a shard: refused, or every promise of safetensors.h holds.
 *
 * `make fuzz T=safetensors` builds and runs it; the seeds in tests/fuzz/corpus/safetensors are written by
 * make_safetensors_corpus.py.  The input is a whole small shard: u64 length, JSON, data. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "workshop/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
	if (!holds)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct st_list list = {0};
	struct err err = {0};
	uint64_t header;

	if (size < 8)
		return 0;
	memcpy(&header, data, 8);
	if (header > size - 8)		/* open_shard() refuses it; look at the text all the same */
		header = size - 8;
	if (st_parse_header(&list, (const char *)data + 8, (size_t)header, size, 3, "fuzz", &err) != OK)
		check(err.code != OK && err.msg[0]);
	else
		for (size_t i = 0; i < list.n; i++) {
			const struct st_tensor *t = &list.t[i];
			uint64_t n = 1;

			check(t->name && t->name[0] && t->dtype < ST_DTYPE_COUNT && t->shard == 3 && t->n_dims <= ST_MAX_DIMS);
			for (int d = 0; d < ST_MAX_DIMS; d++) {
				check(t->dims[d] >= 1);
				n *= t->dims[d];
			}
			check(n * st_dtype_bytes(t->dtype) == t->bytes);
			check(t->offset >= 8 + header && t->offset <= size && t->bytes <= size - t->offset);
			check(i == 0 || list.t[i - 1].offset + list.t[i - 1].bytes <= t->offset);
		}
	st_list_free(&list);
	return 0;
}
