/* panel.h - expanded weights: what the integer units of AVX-512 and AMX multiply.
 *
 * A panel is up to PANEL_ROWS rows of a weight matrix by up to PANEL_K of its columns, expanded once from the blocks
 * of the file into bytes and used for every activation row of a step.  It stays in the second-level cache.
 *
 *   code    strips of 16 rows, each [K/4][16][4] bytes: four neighbouring columns of a row side by side
 *   GROUPS  (Q8_0, IQ2_XXS)  code = 128 + weight (for AMX the weight as a signed byte), scale [K/32][16] per strip
 *   BLOCKS  (Q2_K, Q4_K)     code = unsigned, scale and min [K/256][16] floats, 16 minimums of a block as pairs of int16
 *                            [K/256][8][16][2]; Q2_K's sub-scales are multiplied into the codes, Q4_K's are
 *                            sub [K/32][16]
 *
 * The result of one weight row and one activation row, the same for one row and for many:
 *   GROUPS  y = fma(isum_g * x.d_g, scale_g, y)                           for each group g of 32, ascending
 *   BLOCKS  y = fma(isum_b * x.d_b, scale_b, y), y = fma(-(msum_b * x.d_b), min_b, y)    for each block of 256
 * with exact integers isum, msum, converted to float. */
#ifndef DS4_BACKEND_CPU_PANEL_H
#define DS4_BACKEND_CPU_PANEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/cpu/dot.h"

enum {
	PANEL_ROWS = 128,
	PANEL_K = 2048,
	PANEL_STRIPS = PANEL_ROWS / 16,
	PANEL_STRIP_BYTES = 16 * PANEL_K + 320,	/* not a multiple of 4096: strips are read side by side */
	PANEL_X = 12,				/* activation rows of a tile */
	PANEL_X_BYTES = PANEL_K + 64
};

struct panel {
	_Alignas(64) uint8_t code[PANEL_STRIPS][PANEL_STRIP_BYTES];
	_Alignas(64) float scale[PANEL_STRIPS][PANEL_K / 32][16];	/* BLOCKS use the first eighth */
	union {
		_Alignas(64) int32_t sub[PANEL_STRIPS][PANEL_K / 32][16];
		_Alignas(64) uint8_t row[16][256];			/* while IQ2_XXS is expanded */
		/* AMX, Q2_K: quads of 16 times a minimum, for sums / 16, and of the minimum, for the rest of the sums. */
		_Alignas(64) uint8_t mins8[PANEL_STRIPS][PANEL_K / 256][8][16][4];
	};
	_Alignas(64) float min[PANEL_STRIPS][PANEL_K / 256][16];
	_Alignas(64) int16_t mins[PANEL_STRIPS][PANEL_K / 256][8][16][2];
	uint8_t flip;	/* what turns codes of 128 + weight into what is stored */
	/* One tile of activations. */
	_Alignas(64) int8_t xq[16][PANEL_X_BYTES];
	_Alignas(64) float xd[16][PANEL_K / 32];
	_Alignas(64) int32_t xbias[16][PANEL_K / 32];
	_Alignas(64) int16_t xsum[16][PANEL_K / 16];
	_Alignas(64) int8_t xsum8[16][PANEL_K / 8 + 64];		/* AMX: 16 sums / 16 of a block, then 16 rests */
	_Alignas(64) int32_t c[8][16][16];				/* AMX: products on their way to floats */
};

_Static_assert(sizeof(struct panel) <= DOT_WORK, "a panel is a thread's work space");

/* Expanded rows r0..r0+rows-1 and columns k0..k0+k-1 of a job, and the n activation rows to multiply. */
struct panel_part {
	const struct dot_job *j;
	struct panel *p;
	enum dtype type;
	int32_t r0, rows, k0, k, n;
};

/* Expands one panel after the other and calls `times` for all activation rows.  minus128: codes of GROUPS are stored
 * less 128, as signed bytes. */
void panel_walk(const struct dot_job *j, enum dtype type, bool minus128, void (*times)(const struct panel_part *t));
void panel_times_avx512(const struct panel_part *t);

/* Copies columns k0.. of n activation rows into the panel. */
void panel_copy_x(struct panel *p, const struct dot_x *x, int32_t n, int32_t k0, int32_t k);

/* The matrix functions of the tables: several activation rows, one activation row. */
void panel_matrix_amx(const struct dot_job *j, enum dtype type);
void row_matrix_avx512(const struct dot_job *j, enum dtype type);

/* attend and load_key of the tables. */
void load_key_avx512(float *x, const uint8_t *pair, const uint8_t *scale);
void attend_avx512(float *acc, float *top, float *sum, const float *q, const float *rows, int32_t n, int32_t heads);

#endif
