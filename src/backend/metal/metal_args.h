/* metal_args.h - what the host passes to the kernels: one header for C, Objective-C and the Metal Shading Language.
 *
 * Fields have fixed widths and natural alignment, so that both sides lay them out alike; both check the sizes.
 * MTL_ADDRESS(T) is a device pointer in a kernel and its 64-bit GPU address on the host. */
#ifndef DS4_BACKEND_METAL_METAL_ARGS_H
#define DS4_BACKEND_METAL_METAL_ARGS_H

#ifdef __METAL__
#define MTL_ADDRESS(T) device T *
#define MTL_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), "size of an argument struct")
#else
#include <stdint.h>
#define MTL_ADDRESS(T) uint64_t
#define MTL_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "size of an argument struct")
#endif

/* Buffer indices that every kernel shares: the step block, bound once per encoder. */
#define MTL_ROW 16
#define MTL_SPAN 17
#define MTL_ROW_SPAN 18
#define MTL_LOGIT_ROW 19
#define MTL_TIMELINE 20
#define MTL_BLOCK 21

enum {
	MTL_SIMD = 32,		/* threads of a SIMD group */
	MTL_MV_SIMDS = 4,	/* matrix-vector: SIMD groups of a threadgroup */
	MTL_MV_OUT = 2,		/* and outputs of each */
	MTL_MV_ROWS = 4,	/* rows that share one reading of the weights */
	MTL_MM_ROWS = 32,	/* matrix-matrix: rows, outputs and depth of a tile */
	MTL_MM_OUT = 64,
	MTL_MM_DEPTH = 32,
	MTL_MM_THREADS = 128,
	MTL_HC_SPLITS = 16,	/* threadgroups that share one row's hyper-connection mix */
	MTL_HC_PART = 25,	/* 24 sums and the sum of squares */
	MTL_WIDE = 256,		/* threads of a threadgroup that works on one row */
	MTL_ATT_HEADS = 8,	/* attention: heads of a threadgroup, one SIMD group each */
	MTL_ATT_ROWS = 8,	/* rows that are unpacked at a time */
	MTL_KEYS = 32,		/* indexer: keys of a threadgroup */
	MTL_KEY_SIMDS = 4,
	MTL_MAX_EXPERTS = 512,
	MTL_MAX_USED = 16
};

/* The step block. */
struct mtl_row {		/* struct row of backend.h */
	int32_t token, timeline, pos, wants_logits;
};
MTL_SIZE(struct mtl_row, 16);

struct mtl_span {		/* struct span of backend.h */
	int32_t timeline, row0, n, pos0;
};
MTL_SIZE(struct mtl_span, 16);

struct mtl_timeline {
	MTL_ADDRESS(uint8_t) tail;
	int32_t first, n;	/* its blocks in the list of blocks */
};
MTL_SIZE(struct mtl_timeline, 16);

struct mtl_block {
	MTL_ADDRESS(uint8_t) at;
};
MTL_SIZE(struct mtl_block, 8);

/* Products.  Strides in elements. */
struct mtl_product {
	uint32_t in, out, rows;
	uint32_t row_bytes;		/* of a weight row */
	uint32_t x_stride, y_stride;
	uint32_t group_out;		/* outputs per group; x moves on by `in` for each group; 0 = one group */
	uint32_t groups;
};
MTL_SIZE(struct mtl_product, 32);

struct mtl_experts {
	uint32_t in, out, rows;		/* rows of the step in this piece */
	uint32_t row_bytes, matrix_bytes_lo, matrix_bytes_hi;	/* of one expert's matrix: 64 bits in two */
	uint32_t used, experts;
	uint32_t x_per;			/* pairs that share a row of x: `used` for gate and up, 1 for down */
	uint32_t pairs;			/* rows * used */
	float limit;
	uint32_t down_row_bytes;
};
MTL_SIZE(struct mtl_experts, 48);

struct mtl_embed {
	uint32_t width, row_bytes, streams, rows;
};
MTL_SIZE(struct mtl_embed, 16);

struct mtl_hc {
	uint32_t width, n_out, rows;	/* width d of x; n_out 24, head: 4 */
	uint32_t row_bytes;		/* of fn */
	int32_t scale_type, base_type;	/* enum dtype */
	int32_t iterations;
	int32_t head;			/* rows come from the list of rows that want logits */
	int32_t norm_type;		/* -1: no norm behind */
	int32_t pad;
};
MTL_SIZE(struct mtl_hc, 40);

struct mtl_norm {
	uint32_t width, group;
	int32_t weight_type;		/* -1: none */
	int32_t pad;
};
MTL_SIZE(struct mtl_norm, 16);

struct mtl_rope {
	uint32_t heads, width, rows;
	int32_t inverse;
	float freq[32];
};
MTL_SIZE(struct mtl_rope, 144);

struct mtl_route {
	uint32_t experts, used;
	int32_t bias_type;		/* -1: none */
	int32_t hash;			/* experts come from the table */
	uint32_t table_row_bytes;
	float scale;
};
MTL_SIZE(struct mtl_route, 24);

struct mtl_point {			/* element-wise */
	uint32_t n, width;
	float limit;
	uint32_t pad;
};
MTL_SIZE(struct mtl_point, 16);

/* History: struct kv_layer, and what each operation adds. */
struct mtl_layer {
	int32_t ratio, window;
	uint32_t block_rows, block_keys, tail_ring, tail_front, tail_front_key;
	uint32_t fresh_rows;		/* capacity of the packed rows of this step */
};
MTL_SIZE(struct mtl_layer, 32);

struct mtl_pool {
	struct mtl_layer layer;
	int32_t key;			/* indexer keys of 128 instead of rows of 512 */
	int32_t ape_type, norm_type;
	int32_t pad;
	float freq[32];
};
MTL_SIZE(struct mtl_pool, 176);

struct mtl_choose {
	struct mtl_layer layer;
	uint32_t heads, top_k;
	uint32_t row0;			/* first row of this piece */
	uint32_t score_stride;
};
MTL_SIZE(struct mtl_choose, 48);

struct mtl_attend {
	struct mtl_layer layer;
	uint32_t heads, top_k;
	int32_t pick;			/* is there a list of chosen rows? */
	int32_t sink_type;
};
MTL_SIZE(struct mtl_attend, 48);

#endif
