/* quantize_int.h - what the files of the driver share. */
#ifndef DS4_WORKSHOP_QUANTIZE_INT_H
#define DS4_WORKSHOP_QUANTIZE_INT_H

#include "base/buf.h"
#include "gguf/gguf.h"
#include "gguf/gguf_write.h"
#include "workshop/convert.h"
#include "base/hash.h"
#include "workshop/imatrix_file.h"
#include "workshop/output.h"
#include "workshop/quantize.h"
#include "workshop/recipe.h"

#define CHUNK_ELEMENTS (1u << 20)	/* what a thread holds at once, or one row if that is longer */
#define MAX_SPLICES 64

/* A target cut into chunks of whole rows; chunk k of piece p is number p * per_piece + k. */
struct chunks {
	uint64_t rows, per_piece, n;
};

struct quantize {
	struct quantize_options opt;
	struct checkpoint *checkpoint;
	struct gguf *gguf;		/* source; exactly one of the two is there */
	struct gguf *splice[MAX_SPLICES];
	int n_splice;
	bool mtp;			/* the tensors are those of an MTP block */
	struct numbers numbers;
	int64_t layers;
	struct recipe recipe;
	struct plan plan;
	struct imatrix imatrix;
	uint64_t imatrix_hash;
	struct gguf_builder *builder;
	struct buf head;
	struct quantize_report report;	/* what is known so far */
};

struct chunks chunks_of(const struct target *t);

/* Importance of the columns of a piece, or NULL. */
const float *importance_of(const struct quantize *q, const struct target *t, size_t piece);

/* Bytes that one thread needs. */
size_t thread_bytes(const struct quantize *q);

/* Converts (verify: reads back) all chunks of one tensor on all threads; *sum is the checksum of its bytes. */
struct worker_pool;
enum status worker_pool_open(struct worker_pool **out, struct quantize *q, struct output *o, struct err *err);
void worker_pool_close(struct worker_pool *w);
enum status worker_pool_run(struct worker_pool *w, size_t tensor, bool verify, uint64_t done, uint64_t total,
			    struct hash128 *sum, struct err *err);

#endif
