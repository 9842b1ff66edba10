/* gguf_int.h - what gguf.c and value.c share; nobody else includes it. */
#ifndef DS4_GGUF_INT_H
#define DS4_GGUF_INT_H

#include "base/file.h"
#include "gguf/gguf.h"

#define GGUF_TYPES ((unsigned)GGUF_F64 + 1)

/* One name and its place in gguf.kv or gguf.tensor; arrays of these are sorted by name. */
struct gguf_entry {
	struct gguf_string name;
	uint64_t place;
};

struct gguf_index {
	struct file_map map;		/* zeroed when the bytes are the caller's */
	struct gguf_entry *kv, *tensor;
};

/* Bytes of one value; 0 for strings and arrays, whose size is in the file. */
unsigned gguf_type_bytes(enum gguf_type t);

#endif
