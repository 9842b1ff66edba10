/* geom.h - where a token's state lives is a pure function of its position.
 *
 * One header for C, CUDA and Metal: only arithmetic, no types of ours.  Positions count from 0.  r is a layer's
 * pooling ratio (0, 4 or 128), W the window.  "Row" is one key/value vector, "key" one indexer key.
 * Source: spec sections 7.5, 7.7, 12. */
#ifndef DS4_BACKEND_GEOM_H
#define DS4_BACKEND_GEOM_H

#include <stdint.h>

/* Compile-time constants of the family. */
enum {
	GEOM_HEAD = 512,	/* width of a head and of a row */
	GEOM_ROT = 64,		/* rotated channels at the end of a head */
	GEOM_PLAIN = 448,	/* the rest: held as E4M3 */
	GEOM_KEY = 128,		/* width of an indexer head and key */
	GEOM_STREAMS = 4,	/* residual streams */
	GEOM_MIX = 24,		/* (2 + streams) * streams hyper-connection coefficients */
	GEOM_BLOCK = 128,	/* tokens in a KV block */
	GEOM_FP8_GROUP = 64,	/* values that share an E8M0 scale in a row */
	GEOM_FP4_GROUP = 32,	/* and in a key */
	GEOM_ROW_SCALES = 7,	/* 448 / 64 */
	GEOM_KEY_SCALES = 4,	/* 128 / 32 */
	GEOM_ROW_BYTES = 583,	/* 448 E4M3 + 64 f16 + 7 E8M0 */
	GEOM_KEY_BYTES = 68	/* 64 (two E2M1 each) + 4 E8M0 */
};

/* Compressed rows that exist after the token at pos has been read (the one it completes included). */
static inline int32_t geom_visible(int32_t pos, int32_t r)
{
	return r ? (pos + 1) / r : 0;
}

/* Does the token at pos complete a group? */
static inline int32_t geom_pools_at(int32_t pos, int32_t r)
{
	return r && (pos + 1) % r == 0;
}

/* First position in the window of pos. */
static inline int32_t geom_window_first(int32_t pos, int32_t window)
{
	return pos + 1 > window ? pos + 1 - window : 0;
}

/* Slot of a position in a ring of `window` rows. */
static inline int32_t geom_ring_slot(int32_t pos, int32_t window)
{
	return pos % window;
}

/* Compressed rows per block, and where row n is. */
static inline int32_t geom_rows_per_block(int32_t r)
{
	return r ? GEOM_BLOCK / r : 0;
}

static inline int32_t geom_row_block(int32_t n, int32_t r)
{
	return n / (GEOM_BLOCK / r);
}

static inline int32_t geom_row_in_block(int32_t n, int32_t r)
{
	return n % (GEOM_BLOCK / r);
}

/* Frontier: projections of tokens that are not pooled yet.  r = 128: slot pos mod 128.  r = 4: slots 0..3 hold
 * the previous group (left halves are read), slots 4..7 the open one. */
static inline int32_t geom_frontier_slots(int32_t r)
{
	return r == 4 ? 8 : r;
}

static inline int32_t geom_frontier_slot(int32_t pos, int32_t r)
{
	return r == 4 ? 4 + pos % 4 : pos % r;
}

/* Width of a compressor projection for rows of `width`: the overlapping r = 4 form has two halves. */
static inline int32_t geom_pool_width(int32_t width, int32_t r)
{
	return r == 4 ? 2 * width : width;
}

#endif
