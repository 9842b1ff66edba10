/* panel_amx.c - weight matrices times many rows of activations, with AMX int8: prefill and larger batches.
 *
 * How   The panels of panel_avx512.c are what a tile product wants as its second operand: four columns of 16 weight rows
 *       in each tile row.  The first operand is 16 activation rows.  A product gives 16 x 16 exact sums; they go through
 *       memory into vector registers, where 16 rows of floats wait for them.
 *       GROUPS: a product covers one group of 32, with weights as signed bytes.  BLOCKS (Q2_K): four products cover a
 *       block, and a fifth its minimums: sums of activations are cut into sum / 16 (signed) and the rest, which meet 16
 *       times the minimum and the minimum.
 * Why   A group's float part (24 cycles for 8,192 products) is longer than its tile product (16): this is what holds Q8_0
 *       and IQ2_XXS below a third of the unit's reach.
 * Careful
 *       - Integers are exact and the float part is that of panel.h: the bits are those of AVX-512.
 *       - Sums stored by a tile cannot be loaded for a while: products run a round ahead of their float parts, into
 *         the other half of a buffer.
 *       - Tile shapes are a thread's own state: set at the beginning of a call, released at its end.
 *       - Q4_K and few rows go to panel_avx512.c. */
#include <immintrin.h>
#include <string.h>

#include "backend/cpu/panel.h"

#define INLINE static inline __attribute__((always_inline))

enum {
	X = 16,		/* activation rows of a tile */
	LEAST_GROUPS = 32,	/* fewer rows are left to VNNI, which was found faster there */
	LEAST_BLOCKS = 12,
	ROUND = 4	/* groups in a round */
};

/* Tiles: 0..3 sums; 4, 5 activations; 6, 7 weights.  For GROUPS all of 4..7 are 32 columns deep; for BLOCKS 4 and 6 are
 * 64, 5 and 7 (minimums) 32.  The intrinsics want digits. */
/* What tile instructions read and write in memory is hidden from the compiler. */
INLINE void in_memory(const void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}

static void shapes(bool blocks)
{
	struct {
		uint8_t palette, start_row, reserved[14];
		uint16_t row_bytes[16];
		uint8_t rows[16];
	} config;

	memset(&config, 0, sizeof config);
	config.palette = 1;
	for (int t = 0; t < 8; t++) {
		bool deep = blocks && !(t & 1);

		config.row_bytes[t] = t < 4 || t > 5 || deep ? 64 : 32;
		config.rows[t] = t < 6 || deep ? 16 : 8;
	}
	in_memory(&config);	/* gcc 12 believes that only 8 bytes of it are read */
	_tile_loadconfig(&config);
}

/* y += c * x.d * scale, or -= . */
INLINE void add_tile(__m512 *y, int32_t (*c)[16], const float *xd, const float *scale, bool minus)
{
	const __m512 by = _mm512_load_ps(scale);

#pragma GCC unroll 16
	for (int i = 0; i < X; i++) {
		__m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(c[i])), _mm512_set1_ps(xd[i * (PANEL_K / 32)]));

		y[i] = minus ? _mm512_fnmadd_ps(f, by, y[i]) : _mm512_fmadd_ps(f, by, y[i]);
	}
}

#define GROUP_PRODUCT(sums, a, b, g)                                          \
	do {                                                                  \
		_tile_zero(sums);                                             \
		_tile_loadd(a, p->xq[0] + 32 * (g), PANEL_X_BYTES);           \
		_tile_loadd(b, p->code[s] + 512 * (g), 64);                   \
		_tile_dpbssd(sums, a, b);                                     \
		_tile_stored(sums, p->c[(g) % (2 * ROUND)], 64);              \
	} while (0)

INLINE void round_of_groups(struct panel *p, int s, int32_t g, int32_t groups)
{
	if (g + ROUND <= groups) {
		GROUP_PRODUCT(0, 4, 6, g);
		GROUP_PRODUCT(1, 5, 7, g + 1);
		GROUP_PRODUCT(2, 4, 6, g + 2);
		GROUP_PRODUCT(3, 5, 7, g + 3);
		return;
	}
	for (; g < groups; g++)
		GROUP_PRODUCT(0, 4, 6, g);
}

static void tile_groups(__m512 *to, struct panel *p, int s, int32_t groups)
{
	__m512 y[X];

#pragma GCC unroll 16
	for (int i = 0; i < X; i++)
		y[i] = to[i];
	in_memory(p);
	round_of_groups(p, s, 0, groups);
	for (int32_t g = 0; g < groups; g += ROUND) {
		round_of_groups(p, s, g + ROUND, groups);
		in_memory(p);
		for (int32_t k = g; k < groups && k < g + ROUND; k++)
			add_tile(y, p->c[k % (2 * ROUND)], p->xd[0] + k, p->scale[s][k], false);
	}
#pragma GCC unroll 16
	for (int i = 0; i < X; i++)
		to[i] = y[i];
}

INLINE void block_products(struct panel *p, int s, int32_t b)
{
	_tile_zero(0);
	for (int k = 0; k < 4; k++) {
		_tile_loadd(4, p->xq[0] + 256 * b + 64 * k, PANEL_X_BYTES);
		_tile_loadd(6, p->code[s] + 4096 * b + 1024 * k, 64);
		_tile_dpbsud(0, 4, 6);
	}
	_tile_stored(0, p->c[2 * (b & 1)], 64);
	_tile_zero(1);
	_tile_loadd(5, p->xsum8[0] + 32 * b, sizeof p->xsum8[0]);
	_tile_loadd(7, p->mins8[s][b], 64);
	_tile_dpbsud(1, 5, 7);
	_tile_stored(1, p->c[2 * (b & 1) + 1], 64);
}

static void tile_blocks(__m512 *to, struct panel *p, int s, int32_t blocks)
{
	__m512 y[X];

#pragma GCC unroll 16
	for (int i = 0; i < X; i++)
		y[i] = to[i];
	in_memory(p);
	block_products(p, s, 0);
	for (int32_t b = 0; b < blocks; b++) {
		if (b + 1 < blocks)
			block_products(p, s, b + 1);
		in_memory(p);
		add_tile(y, p->c[2 * (b & 1)], p->xd[0] + 8 * b, p->scale[s][b], false);
		add_tile(y, p->c[2 * (b & 1) + 1], p->xd[0] + 8 * b, p->min[s][b], true);
	}
#pragma GCC unroll 16
	for (int i = 0; i < X; i++)
		to[i] = y[i];
}

/* Quads of minimums for tdpbsud, from the pairs of int16. */
static void bytes_of_mins(struct panel *p, int32_t rows, int32_t blocks)
{
	const __m512i low = _mm512_set1_epi32(0xFFFF);

	for (int32_t s = 0; 16 * s < rows; s++)
		for (int32_t b = 0; b < blocks; b++)
			for (int q = 0; q < 4; q++) {
				__m512i u = _mm512_load_si512(p->mins[s][b][2 * q]);
				__m512i v = _mm512_load_si512(p->mins[s][b][2 * q + 1]);

				u = _mm512_and_si512(_mm512_or_si512(u, _mm512_srli_epi32(u, 8)), low);
				v = _mm512_slli_epi32(_mm512_or_si512(v, _mm512_srli_epi32(v, 8)), 16);
				u = _mm512_or_si512(u, v);
				_mm512_store_si512(p->mins8[s][b][4 + q], u);
				_mm512_store_si512(p->mins8[s][b][q], _mm512_slli_epi32(u, 4));	/* at most 15 * 16 */
			}
}

static void bytes_of_sums(struct panel *p, int32_t n, int32_t blocks)
{
	for (int32_t i = 0; i < n; i++)
		for (int32_t b = 0; b < blocks; b++)
			for (int k = 0; k < 16; k++) {
				int sum = p->xsum[i][16 * b + k];

				p->xsum8[i][32 * b + k] = (int8_t)(sum >> 4);
				p->xsum8[i][32 * b + 16 + k] = (int8_t)(sum & 15);
			}
}

static void times(const struct panel_part *t)
{
	const struct dot_job *j = t->j;
	const bool blocks = t->type == DTYPE_Q2_K;

	if (blocks)
		bytes_of_mins(t->p, t->rows, t->k / 256);
	for (int32_t i = 0; i < t->n; i += X) {
		const int32_t n = t->n - i < X ? t->n - i : X;

		panel_copy_x(t->p, j->x + i, n, t->k0, t->k);
		if (blocks)
			bytes_of_sums(t->p, n, t->k / 256);
		for (int32_t r = 0; r < t->rows; r += 16) {
			const __mmask16 mask = (__mmask16)(t->rows - r >= 16 ? 0xFFFF : (1u << (t->rows - r)) - 1);
			float *to = j->y + (size_t)i * j->y_stride + (size_t)(t->r0 + r);
			__m512 y[X];

			for (int k = 0; k < X; k++)
				y[k] = t->k0 && k < n ? _mm512_maskz_loadu_ps(mask, to + (size_t)k * j->y_stride)
				                      : _mm512_setzero_ps();
			if (blocks)
				tile_blocks(y, t->p, r / 16, t->k / 256);
			else
				tile_groups(y, t->p, r / 16, t->k / 32);
			for (int k = 0; k < n; k++)
				_mm512_mask_storeu_ps(to + (size_t)k * j->y_stride, mask, y[k]);
		}
	}
}

void panel_matrix_amx(const struct dot_job *j, enum dtype type)
{
	struct panel *p = j->work;

	if (j->n < (type == DTYPE_Q2_K ? LEAST_BLOCKS : LEAST_GROUPS) || type == DTYPE_Q4_K) {
		panel_walk(j, type, false, panel_times_avx512);
		return;
	}
	memset(p->xq, 0, sizeof p->xq);		/* rows of a tile beyond the last: any number, but a number */
	memset(p->xsum8, 0, sizeof p->xsum8);
	shapes(type == DTYPE_Q2_K);
	panel_walk(j, type, true, times);
	_tile_release();
}
