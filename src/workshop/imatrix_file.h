/* imatrix_file.h - importance of columns, in the legacy layout that llama.cpp's tools read and write.
 *
 *	i32 n_entries
 *	  each: i32 name_len, name, i32 n_calls, i32 n_values, f32 values[n_values]
 *	i32 n_chunks, i32 dataset_len, dataset name            (may be absent)
 *
 * A value is a sum over calls of squared activations: the mean is value / calls.  For a stacked expert
 * tensor values are expert-major, n_values = experts * columns.  Entries are keyed by the GGUF tensor name.
 * Source: docs/formats/gguf.md section 7. */
#ifndef DS4_WORKSHOP_IMATRIX_FILE_H
#define DS4_WORKSHOP_IMATRIX_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct imatrix_entry {
	char *name;
	int32_t calls;
	int32_t n;		/* values */
	float *value;		/* [n] sums, >= 0 and finite */
};

struct imatrix {
	struct imatrix_entry *entry;
	size_t n, room;
	int32_t chunks;
	char *dataset;		/* "" when the file names none */
};

#define IMATRIX_EMPTY {0}

/* ERR_NOT_FOUND, ERR_IO, ERR_FORMAT (names the entry), ERR_MEMORY.  On failure nothing is to be cleared. */
enum status imatrix_read(struct imatrix *out, const char *path, struct err *err);
enum status imatrix_parse(struct imatrix *out, const void *data, size_t bytes, const char *path, struct err *err);
void imatrix_clear(struct imatrix *m);

/* Writes through a temporary name: the file is whole or absent. */
enum status imatrix_write(const struct imatrix *m, const char *path, struct err *err);

/* The entry of a tensor, NULL when absent.  imatrix_add returns an existing one with the same n, or a new
 * one of n zeros; NULL: no memory, or n differs. */
struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *name);
struct imatrix_entry *imatrix_add(struct imatrix *m, const char *name, int32_t n);

/* Adds the sums, calls and chunks of `from`.  ERR_FORMAT when an entry has another number of values. */
enum status imatrix_merge(struct imatrix *into, const struct imatrix *from, struct err *err);

#endif
