/* panel_avx512.c - weight matrices times many rows of activations, with AVX-512 VNNI: prefill and batches.
 *
 * How   128 weight rows by 2,048 columns are expanded once to bytes (panel.h) and meet all activation rows in tiles of up
 *       to 12 rows by 32 weight rows: 24 sums in registers, vpdpbusd for four columns at a time, an activation quad
 *       broadcast from memory for each.  Groups of 32 have their own scale: there the sums are turned to float and
 *       added to what stands in y's lanes; K beyond 2,048 continues from y.
 *       Expansion works on a strip of 16 rows: columns of four bytes are brought side by side with broadcasting
 *       masked loads and two levels of unpacking.
 * Careful
 *       - Sums, scales and their order are those of panel.h, whatever the tile: row_avx512.c has the same bits.
 *       - A tile's rows are copied to a fixed distance first: addresses then are constants, and twelve rows of
 *         4,096 bytes do not fall into the same set of the cache. */
#include "backend/cpu/lanes_avx512.h"

/* ------------------------------------------------------------------ expansion */

/* Bytes at..at+n-1 of the 16 rows that follow: the processor's own prefetcher does not see 16 rows coming. */
INLINE void prefetch_strip(const uint8_t *const row[16], size_t at, size_t ahead, size_t n)
{
	for (int r = 0; r < 16; r++)
		for (size_t i = 0; i < n; i += 64)
			_mm_prefetch((const char *)(row[r] + ahead + at + i), _MM_HINT_T1);
}

static void expand_q8_0(struct panel *p, int s, const uint8_t *const row[16], int32_t k0, int32_t k, size_t ahead)
{
	const __m512i flip = _mm512_set1_epi8((char)(0x80 ^ p->flip)), step = row_steps(row);

	for (int32_t g = 0; g < k / 32; g++) {
		const size_t at = (size_t)(k0 / 32 + g) * sizeof(struct block_q8_0);
		uint8_t *code = p->code[s] + 512 * g;
		__m512i v[4];

		if (g % 2 == 0)
			prefetch_strip(row, at, ahead, 64);
		for (int half = 0; half < 2; half++) {
			columns16(v, row, at + 2 + 16 * (size_t)half);
			for (int i = 0; i < 4; i++)
				_mm512_store_si512(code + 256 * half + 64 * i, _mm512_xor_si512(v[i], flip));
		}
		_mm512_store_ps(p->scale[s][g], low_halves(gather_rows(row[0], step, at)));
	}
}

static void expand_iq2_xxs(struct panel *p, int s, const uint8_t *const row[16], int32_t k0, int32_t k, size_t ahead)
{
	const struct iq2_context c = iq2_context(iq2_tables_avx512());
	const __m512i step = row_steps(row), flip = _mm512_set1_epi8((char)p->flip);
	const uint8_t *from[16];

	for (int r = 0; r < 16; r++)
		from[r] = p->row[r];
	for (int32_t b = 0; b < k / 256; b++) {
		const size_t at = (size_t)(k0 / 256 + b) * sizeof(struct block_iq2_xxs);
		uint8_t *code = p->code[s] + 4096 * b;
		__m512i groups[16], v[4];
		__m512 scale[8];

		prefetch_strip(row, at, ahead, 64);
		for (int r = 0; r < 16; r += 2) {
			__m512i x[4], y[4];

			groups[r] = load512(row[r] + at + 2);
			groups[r + 1] = load512(row[r + 1] + at + 2);
			iq2_codes_of_two(x, y, &c, groups[r], groups[r + 1]);
			for (int e = 0; e < 4; e++) {
				_mm512_store_si512(p->row[r] + 64 * e, x[e]);
				_mm512_store_si512(p->row[r + 1] + 64 * e, y[e]);
			}
		}
		for (int e = 0; e < 4; e++)	/* 16 bytes: eighth e of groups 2i and 2i + 1 */
			for (int i = 0; i < 4; i++) {
				uint8_t *to = code + 1024 * i + 128 * e;

				columns16(v, from, (size_t)(64 * e + 16 * i));
				_mm512_store_si512(to, _mm512_xor_si512(v[0], flip));
				_mm512_store_si512(to + 64, _mm512_xor_si512(v[1], flip));
				_mm512_store_si512(to + 512, _mm512_xor_si512(v[2], flip));
				_mm512_store_si512(to + 576, _mm512_xor_si512(v[3], flip));
			}
		iq2_scales(scale, groups, low_halves(gather_rows(row[0], step, at)));
		for (int g = 0; g < 8; g++)
			_mm512_store_ps(p->scale[s][8 * b + g], scale[g]);
	}
}

/* Scales and minimums of block b, at `at` in its rows. */
INLINE void expand_k_scales(struct panel *p, int s, int32_t b, const uint8_t *const row[16], __m512i step, size_t at,
                            enum dtype type)
{
	const __m512i d = gather_rows(row[0], step, at + (type == DTYPE_Q4_K ? 0 : 80));
	__m512i mins[8], v[4];

	_mm512_store_ps(p->scale[s][b], low_halves(d));
	_mm512_store_ps(p->min[s][b], high_halves(d));
	k_mins(mins, row, at, type);
	for (int i = 0; i < 8; i++)
		_mm512_store_si512(p->mins[s][b][i], mins[i]);
	if (type != DTYPE_Q4_K)
		return;
	k_scale_bytes(v, row, at, type);
	for (int g = 0; g < 8; g++)
		_mm512_store_si512(p->sub[s][8 * b + g],
		                   _mm512_and_si512(_mm512_srlv_epi32(v[g / 4], _mm512_set1_epi32(8 * (g % 4))),
		                                    _mm512_set1_epi32(255)));
}

INLINE void expand_k(struct panel *p, int s, const uint8_t *const row[16], int32_t k0, int32_t k, size_t ahead, enum dtype type)
{
	static const uint8_t group_q2[8] = {0, 4, 1, 5, 2, 6, 3, 7}, group_q4[8] = {0, 2, 1, 3, 4, 6, 5, 7};
	const uint8_t *group = type == DTYPE_Q4_K ? group_q4 : group_q2;
	const size_t bytes = type == DTYPE_Q4_K ? sizeof(struct block_q4_k) : sizeof(struct block_q2_k);
	const __m512i step = row_steps(row);
	_Alignas(64) uint8_t buffer[16][256];
	const uint8_t *from[16];

	for (int r = 0; r < 16; r++)
		from[r] = buffer[r];
	for (int32_t b = 0; b < k / 256; b++) {
		const size_t at = (size_t)(k0 / 256 + b) * bytes;
		uint8_t *code = p->code[s] + 4096 * b;

		prefetch_strip(row, at, ahead, bytes);
		for (int r = 0; r < 16; r++) {
			struct k_codes e;

			k_codes(&e, row[r] + at, type);
			for (int i = 0; i < 4; i++)	/* at most 3 times 15: two bytes multiplied as one word */
				_mm512_store_si512(buffer[r] + 64 * i, type == DTYPE_Q4_K ? e.code[i]
				                   : _mm512_mullo_epi16(e.code[i], e.scale[i]));
		}
		for (int i = 0; i < 16; i++) {
			uint8_t *to = code + 512 * group[i / 2] + 256 * (i % 2);
			__m512i v[4];

			columns16(v, from, (size_t)(16 * i));
			for (int q = 0; q < 4; q++)
				_mm512_store_si512(to + 64 * q, v[q]);
		}
		expand_k_scales(p, s, b, row, step, at, type);
	}
}

static void expand_q2_k(struct panel *p, int s, const uint8_t *const row[16], int32_t k0, int32_t k, size_t ahead)
{
	expand_k(p, s, row, k0, k, ahead, DTYPE_Q2_K);
}

static void expand_q4_k(struct panel *p, int s, const uint8_t *const row[16], int32_t k0, int32_t k, size_t ahead)
{
	expand_k(p, s, row, k0, k, ahead, DTYPE_Q4_K);
}

static void expand(struct panel *p, enum dtype type, const uint8_t *w, size_t row_bytes, int32_t rows, int32_t k0, int32_t k)
{
	for (int32_t r = 0; r < rows; r += 16) {
		const uint8_t *row[16];

		strip_rows(row, w + (size_t)r * row_bytes, row_bytes, rows - r);
		switch (type) {
		case DTYPE_IQ2_XXS:
			expand_iq2_xxs(p, r / 16, row, k0, k, 16 * row_bytes);
			break;
		case DTYPE_Q2_K:
			expand_q2_k(p, r / 16, row, k0, k, 16 * row_bytes);
			break;
		case DTYPE_Q4_K:
			expand_q4_k(p, r / 16, row, k0, k, 16 * row_bytes);
			break;
		default:
			expand_q8_0(p, r / 16, row, k0, k, 16 * row_bytes);
		}
	}
}

void panel_copy_x(struct panel *p, const struct dot_x *x, int32_t n, int32_t k0, int32_t k)
{
	for (int32_t i = 0; i < n; i++) {
		memcpy(p->xq[i], x[i].q + k0, (size_t)k);
		memcpy(p->xd[i], x[i].d + k0 / 32, (size_t)(k / 32) * sizeof(float));
		memcpy(p->xbias[i], x[i].bias + k0 / 32, (size_t)(k / 32) * sizeof(int32_t));
		memcpy(p->xsum[i], x[i].sum + k0 / 16, (size_t)(k / 16) * sizeof(int16_t));
	}
}

/* ------------------------------------------------------------------ a tile: X activation rows, V strips */

struct tile {
	const struct panel *p;
	int s;			/* first strip */
	int32_t k;		/* columns */
	bool first;		/* sums begin at zero, else at y */
	float *y;		/* [X] rows, y_stride apart, 16 V columns */
	size_t y_stride;
	__mmask16 mask[2];	/* of the strips' columns in y */
};

/* Four columns of V strips times X rows. */
INLINE void quads(__m512i *z, const struct panel *p, int s, int32_t quad, int X, int V)
{
	__m512i w0 = load512(p->code[s] + 64 * quad), w1 = w0;

	if (V == 2)
		w1 = load512(p->code[s + 1] + 64 * quad);
#pragma GCC unroll 12
	for (int i = 0; i < X; i++) {
		int32_t four;
		__m512i x;

		memcpy(&four, p->xq[i] + 4 * quad, sizeof four);
		x = _mm512_set1_epi32(four);
		z[V * i] = _mm512_dpbusd_epi32(z[V * i], w0, x);
		if (V == 2)
			z[V * i + 1] = _mm512_dpbusd_epi32(z[V * i + 1], w1, x);
	}
}

INLINE void tile_groups(const struct tile *t, __m512 *acc, int X, int V)
{
	const struct panel *p = t->p;

	for (int32_t g = 0; g < t->k / 32; g++) {
		__m512i z[2 * PANEL_X];

#pragma GCC unroll 12
		for (int i = 0; i < X; i++)
			for (int v = 0; v < V; v++)
				z[V * i + v] = _mm512_set1_epi32(p->xbias[i][g]);
#pragma GCC unroll 8
		for (int q = 0; q < 8; q++)
			quads(z, p, t->s, 8 * g + q, X, V);
#pragma GCC unroll 12
		for (int i = 0; i < X; i++)
			for (int v = 0; v < V; v++)
				acc[V * i + v] = _mm512_fmadd_ps(
					_mm512_mul_ps(_mm512_cvtepi32_ps(z[V * i + v]), _mm512_set1_ps(p->xd[i][g])),
					_mm512_load_ps(p->scale[t->s + v][g]), acc[V * i + v]);
	}
}

/* y += sign * sum * x.d * factor, for block b. */
INLINE void add_block(__m512 *acc, const __m512i *sum, const struct tile *t, float (*const *factor)[16], int32_t b,
                      bool minus, int X, int V)
{
#pragma GCC unroll 12
	for (int i = 0; i < X; i++)
#pragma GCC unroll 2
		for (int v = 0; v < V; v++) {
			__m512 f = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[V * i + v]), _mm512_set1_ps(t->p->xd[i][8 * b]));
			__m512 by = _mm512_load_ps(factor[v][b]);

			acc[V * i + v] = minus ? _mm512_fnmadd_ps(f, by, acc[V * i + v]) : _mm512_fmadd_ps(f, by, acc[V * i + v]);
		}
}

/* The sums of products with the codes; with `sub`, each group's times its sub-scale. */
INLINE void block_codes(__m512i *z, const struct tile *t, int32_t b, bool sub, int X, int V)
{
	const struct panel *p = t->p;
	__m512i all[2 * PANEL_X];

#pragma GCC unroll 24
	for (int i = 0; i < X * V; i++)
		z[i] = all[i] = _mm512_setzero_si512();
	for (int32_t g = 8 * b; g < 8 * b + 8; g++) {
#pragma GCC unroll 8
		for (int q = 0; q < 8; q++)
			quads(z, p, t->s, 8 * g + q, X, V);
		if (!sub)
			continue;
#pragma GCC unroll 12
		for (int i = 0; i < X; i++)
#pragma GCC unroll 2
			for (int v = 0; v < V; v++) {
				__m512i one = _mm512_mullo_epi32(z[V * i + v], load512(p->sub[t->s + v][g]));

				all[V * i + v] = _mm512_add_epi32(all[V * i + v], one);
				z[V * i + v] = _mm512_setzero_si512();
			}
	}
	if (!sub)
		return;
#pragma GCC unroll 24
	for (int i = 0; i < X * V; i++)
		z[i] = all[i];
}

INLINE void block_mins(__m512i *z, const struct tile *t, int32_t b, int X, int V)
{
	const struct panel *p = t->p;

#pragma GCC unroll 24
	for (int i = 0; i < X * V; i++)
		z[i] = _mm512_setzero_si512();
#pragma GCC unroll 2
	for (int j = 0; j < 8; j++)
#pragma GCC unroll 12
		for (int i = 0; i < X; i++) {
			int32_t pair;

			memcpy(&pair, p->xsum[i] + 16 * b + 2 * j, sizeof pair);
#pragma GCC unroll 2
			for (int v = 0; v < V; v++)
				z[V * i + v] = _mm512_dpwssd_epi32(z[V * i + v], load512(p->mins[t->s + v][b][j]),
				                                   _mm512_set1_epi32(pair));
		}
}

INLINE void tile_blocks(const struct tile *t, __m512 *acc, bool sub, int X, int V)
{
	float (*const scale[2])[16] = {(void *)t->p->scale[t->s], (void *)t->p->scale[t->s + V - 1]};
	float (*const min[2])[16] = {(void *)t->p->min[t->s], (void *)t->p->min[t->s + V - 1]};

	for (int32_t b = 0; b < t->k / 256; b++) {
		__m512i z[2 * PANEL_X];

		block_codes(z, t, b, sub, X, V);
		add_block(acc, z, t, scale, b, false, X, V);
		block_mins(z, t, b, X, V);
		add_block(acc, z, t, min, b, true, X, V);
	}
}

enum form { GROUPS, BLOCKS, BLOCKS_SUB, FORMS };

INLINE void tile(const struct tile *t, int X, int V, enum form form)
{
	__m512 acc[2 * PANEL_X];

	for (int i = 0; i < X; i++)
		for (int v = 0; v < V; v++)
			acc[V * i + v] = t->first ? _mm512_setzero_ps()
			                          : _mm512_maskz_loadu_ps(t->mask[v], t->y + (size_t)i * t->y_stride + 16 * v);
	if (form == GROUPS)
		tile_groups(t, acc, X, V);
	else
		tile_blocks(t, acc, form == BLOCKS_SUB, X, V);
	for (int i = 0; i < X; i++)
		for (int v = 0; v < V; v++)
			_mm512_mask_storeu_ps(t->y + (size_t)i * t->y_stride + 16 * v, t->mask[v], acc[V * i + v]);
}

#define TILE(X, form, name)                           \
	static void name##_##X(const struct tile *t)  \
	{                                             \
		tile(t, X, 2, form);                  \
	}
TILE(1, GROUPS, groups)
TILE(2, GROUPS, groups)
TILE(3, GROUPS, groups)
TILE(4, GROUPS, groups)
TILE(6, GROUPS, groups)
TILE(8, GROUPS, groups)
TILE(12, GROUPS, groups)
TILE(1, BLOCKS, blocks)
TILE(2, BLOCKS, blocks)
TILE(4, BLOCKS, blocks)
TILE(8, BLOCKS, blocks)
TILE(12, BLOCKS, blocks)
TILE(1, BLOCKS_SUB, subs)
TILE(4, BLOCKS_SUB, subs)
TILE(12, BLOCKS_SUB, subs)

/* The largest tile of at most that many rows: each takes a second or more of the compiler's time, so there are few. */
static const struct {
	int32_t rows;
	void (*times[FORMS])(const struct tile *t);
} tiles[] = {
	{12, {groups_12, blocks_12, subs_12}}, {8, {groups_8, blocks_8, NULL}}, {6, {groups_6, NULL, NULL}},
	{4, {groups_4, blocks_4, subs_4}},     {3, {groups_3, NULL, NULL}},     {2, {groups_2, blocks_2, NULL}},
	{1, {groups_1, blocks_1, subs_1}},
};

/* ------------------------------------------------------------------ the matrix */

void panel_times_avx512(const struct panel_part *m)
{
	const enum form form = m->type == DTYPE_Q2_K ? BLOCKS : m->type == DTYPE_Q4_K ? BLOCKS_SUB : GROUPS;
	const struct dot_job *j = m->j;
	struct tile t = {.p = m->p, .k = m->k, .first = m->k0 == 0, .y_stride = j->y_stride};

	for (int32_t i = 0, size = 0; i < m->n; i += tiles[size].rows) {
		while (tiles[size].rows > m->n - i || !tiles[size].times[form])
			size++;
		panel_copy_x(m->p, j->x + i, tiles[size].rows, m->k0, m->k);
		for (int32_t r = 0; r < m->rows; r += 32) {
			t.s = r / 16;
			t.y = j->y + (size_t)i * j->y_stride + (size_t)(m->r0 + r);
			t.mask[0] = strip_mask(m->rows - r);
			t.mask[1] = strip_mask(m->rows - r - 16);	/* none: the second strip is old, and not stored */
			tiles[size].times[form](&t);
		}
	}
}

void panel_walk(const struct dot_job *j, enum dtype type, bool minus128, void (*times)(const struct panel_part *t))
{
	struct panel_part t = {.j = j, .p = j->work, .type = type, .n = j->n};

	t.p->flip = minus128 ? 0x80 : 0;
	for (t.r0 = 0; t.r0 < j->rows; t.r0 += PANEL_ROWS)
		for (t.k0 = 0; t.k0 < j->in; t.k0 += PANEL_K) {
			t.rows = j->rows - t.r0 < PANEL_ROWS ? j->rows - t.r0 : PANEL_ROWS;
			t.k = j->in - t.k0 < PANEL_K ? j->in - t.k0 : PANEL_K;
			expand(t.p, type, j->w + (size_t)t.r0 * j->row_bytes, j->row_bytes, t.rows, t.k0, t.k);
			times(&t);
		}
}
