/* safetensors.h - a checkpoint: one .safetensors file, or a folder of shards with their index.
 *
 * Promise: in a checkpoint that opened, every tensor's bytes lie inside its shard, do not overlap another
 * tensor's, and are as many as dtype and shape say; names are unique over all shards; index and shards name
 * the same tensors.
 * Only the headers are read; weights come through checkpoint_read(), which needs no memory of its own.
 * Thread: read-only after opening; checkpoint_read may run in many threads at once.
 * Source: docs/formats/gguf.md section 7; the safetensors format. */
#ifndef DS4_WORKSHOP_SAFETENSORS_H
#define DS4_WORKSHOP_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define ST_DTYPE_MAP(X)                                  \
	/* code        name        bytes per element */  \
	X(ST_F64,      "F64",      8)                    \
	X(ST_F32,      "F32",      4)                    \
	X(ST_F16,      "F16",      2)                    \
	X(ST_BF16,     "BF16",     2)                    \
	X(ST_F8_E4M3,  "F8_E4M3",  1)                    \
	X(ST_F8_E8M0,  "F8_E8M0",  1)                    \
	X(ST_I64,      "I64",      8)                    \
	X(ST_I32,      "I32",      4)                    \
	X(ST_I8,       "I8",       1)                    \
	X(ST_U8,       "U8",       1)

enum st_dtype {
#define X(code, name, bytes) code,
	ST_DTYPE_MAP(X)
#undef X
	ST_DTYPE_COUNT
};

const char *st_dtype_name(enum st_dtype t);
unsigned st_dtype_bytes(enum st_dtype t);

#define ST_MAX_DIMS 4
#define ST_MAX_HEADER (100u << 20)	/* bytes; what the format allows */
#define ST_MAX_SHARDS 4096

struct st_tensor {
	char *name;			/* without a leading "model." */
	enum st_dtype dtype;
	uint32_t n_dims;		/* 0 (a scalar) .. 4 */
	uint64_t dims[ST_MAX_DIMS];	/* as in the file: the last one is contiguous; unused ones are 1 */
	uint64_t offset, bytes;		/* in the shard's file */
	int shard;
};

struct st_shard {
	char *path;
	uint64_t bytes, header_bytes;	/* of the file; of the JSON text */
	int64_t mtime_ns;
	uint64_t header_hash;
	int fd;
};

struct checkpoint {
	char *path, *folder; /* as given; where the shards and the config are, ending in '/' or empty */
	struct st_shard *shard;
	struct st_tensor *tensor;	/* sorted by name */
	size_t n_shards, n_tensors;
};

/* path: FILE.safetensors, FILE.safetensors.index.json, or a folder that holds model.safetensors.index.json
 * or exactly one .safetensors file.  ERR_NOT_FOUND (a shard that the index names), ERR_FORMAT, ERR_IO,
 * ERR_MEMORY. */
enum status checkpoint_open(struct checkpoint **out, const char *path, struct err *err);
void checkpoint_close(struct checkpoint *c);	/* accepts NULL */

const struct st_tensor *checkpoint_tensor(const struct checkpoint *c,
                                          const char *name); /* NULL when absent */

/* Reads n bytes from byte `at` of a tensor's data.  ERR_IO names shard and tensor. */
enum status checkpoint_read(const struct checkpoint *c, const struct st_tensor *t, uint64_t at, void *dst,
                            size_t n, struct err *err);

/* Parses the JSON text of one header into tensors (appended to *list, names owned by it) and checks them
 * against the file_bytes of the shard.  For checkpoint_open and the fuzz target. */
struct st_list {
	struct st_tensor *t;
	size_t n, room;
};
enum status st_parse_header(struct st_list *list, const char *json, size_t n, uint64_t file_bytes, int shard,
			    const char *path, struct err *err);
void st_list_free(struct st_list *list);

#endif
