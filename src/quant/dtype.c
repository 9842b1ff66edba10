/* dtype.c - the table of element types, spelled out from DTYPE_MAP.
 *
 * What  enum dtype <-> GGUF type id, with block length and block bytes.
 * Why   Every size in the engine follows from these two numbers; they exist once.
 * How   The X-macro of dtype.h becomes an array indexed by enum dtype; ids are searched, there are eight.
 * Careful
 *       - enum dtype is our own numbering; the ids of the file have holes and never index this table. */
#include "quant/dtype.h"

#include <assert.h>

static const struct dtype_info table[DTYPE_COUNT] = {
#define X(code, name, id, elements, bytes) [code] = {name, id, elements, bytes},
	DTYPE_MAP(X)
#undef X
};

const struct dtype_info *dtype_info(enum dtype t)
{
	assert((unsigned)t < DTYPE_COUNT);
	return &table[t];
}

bool dtype_from_gguf(enum dtype *out, uint32_t gguf_id)
{
	for (unsigned t = 0; t < DTYPE_COUNT; t++)
		if (table[t].gguf_id == gguf_id) {
			*out = (enum dtype)t;
			return true;
		}
	return false;
}
