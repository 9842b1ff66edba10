/* convert.h - from a source's tensors to the tensors of the file to be written: names, shapes, number formats.
 *
 * A target is one tensor of the output.  It is made of one or more pieces of [rows, cols]: one for each
 * expert of a stacked tensor, one otherwise.  Every piece is a matrix of the checkpoint (with its scales,
 * where it has some) or a slice of a GGUF tensor; piece_read() gives any run of its rows as floats.
 * Source: docs/formats/gguf.md sections 3, 5 and 7. */
#ifndef DS4_WORKSHOP_CONVERT_H
#define DS4_WORKSHOP_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "gguf/gguf.h"
#include "quant/dtype.h"
#include "workshop/safetensors.h"

enum coding {
	CODING_PLAIN,	/* F64, F32, F16, BF16, I64, I32 */
	CODING_FP8,	/* E4M3, one E8M0 scale for each 128 x 128 */
	CODING_FP4,	/* two E2M1 in a byte, one E8M0 scale for each 32 of a row */
	CODING_GGUF	/* rows of a GGUF tensor */
};

struct piece {
	enum coding coding;
	const struct st_tensor *w, *scale;	/* scale: FP8 and FP4 */
	const uint8_t *data;			/* CODING_GGUF: first byte of the slice */
};

struct target {
	char *name;
	uint32_t n_dims;
	uint64_t dims[4];		/* GGUF order */
	uint64_t cols, rows;		/* of a piece */
	size_t n_pieces;
	struct piece *piece;
	enum dtype type;		/* to be written; chosen by the recipe */
	enum dtype source_type;		/* CODING_GGUF */
	bool integer;			/* holds whole numbers: written as I32 whatever the recipe says */
	bool copy;			/* bytes go over unchanged (CODING_GGUF, same type) */
	bool spliced;			/* from another file: the recipe does not apply */
	uint64_t source_bytes;
};

/* Numbers of the model that shapes tell, and those that only a config can. */
#define MAX_LAYERS 512
struct numbers {
	int64_t d, vocab, layers, heads, head, q_rank, o_rank, groups, index_heads, key, streams;
	int64_t experts, used, ff, hash_layers, mtp_layers;
	int64_t ratio[MAX_LAYERS];
	/* from a config, or as in Flash */
	int64_t window, top_k, context, sinkhorn, original_context;
	double eps, hc_eps, theta, theta_pooled, yarn_factor, yarn_fast, yarn_slow, route_scale, clamp;
};

struct plan {
	struct target *t;
	size_t n, room;
};

/* What the shapes of a checkpoint say; the rest of *out as in Flash.  ERR_FORMAT names the tensor that is
 *      missing or odd. */
enum status numbers_from_checkpoint(struct numbers *out, const struct checkpoint *c, struct err *err);

/* Overwrites the numbers that a JSON config names, and checks that it agrees with the shapes (README.md
 * lists the keys). */
enum status numbers_from_config(struct numbers *n, const char *path, struct err *err);

/* The targets of the main file, or with mtp those of the MTP block.  Every tensor of the checkpoint must
 * have its place and the shape that the numbers give: ERR_FORMAT names the first that is missing, unknown,
 * of another dtype or shape. */
enum status plan_checkpoint(struct plan *out, const struct checkpoint *c, const struct numbers *n, bool mtp,
                            struct err *err);

/* All tensors of a GGUF file, in its order, to be copied. */
enum status plan_gguf(struct plan *out, const struct gguf *g, struct err *err);
enum status plan_add_gguf(struct plan *p, const struct gguf_tensor *t, struct err *err);

void plan_clear(struct plan *p);
struct target *plan_find(struct plan *p, const char *name);

/* Bytes of scratch that piece_read() needs for `rows` rows of a target. */
size_t piece_scratch(const struct target *t, uint64_t rows);

/* Rows row0 .. row0 + rows - 1 of a piece as floats dst[rows, cols].  c may be NULL for CODING_GGUF.
 * ERR_FORMAT names the tensor and the place of a NaN or an infinity; ERR_IO.
 * Thread: yes, each with its own scratch. */
enum status piece_read(float *dst, const struct checkpoint *c, const struct target *t, size_t piece,
                       uint64_t row0, uint64_t rows, void *scratch, struct err *err);

#endif
