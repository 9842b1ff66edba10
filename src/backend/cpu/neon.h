/* neon.h - products of quantised weights for 64-bit ARM: what dot_dotprod.c and dot_i8mm.c share.
 *
 * How   A block of 256 weights (or up to eight groups of Q8_0) becomes bytes; one instruction's file gives the sums of
 *       16 products each for NEON_ROWS weight rows by NEON_X activation rows; scales and float sums are those of
 *       dot_scalar.c, in its order, so the bits are the same.
 * Careful
 *       - A row that is missing to a pair is done twice and stored once.
 * The including file defines NEON_ROWS, NEON_X and sums16(). */
#ifndef DS4_BACKEND_CPU_NEON_H
#define DS4_BACKEND_CPU_NEON_H

#include <arm_neon.h>

#include "backend/cpu/dot.h"
#include "backend/cpu/expand.h"

/* out[r * NEON_X + x][k] = sum over 16 products of code[r] and q[x], for k < pieces. */
static inline void sums16(int32_t out[][16], const int8_t *const code[NEON_ROWS], const int8_t *const q[NEON_X], int pieces);

struct neon_block {
	struct expanded e;
	float scale[8];		/* Q8_0: of each group */
};

static inline int neon_expand(struct neon_block *n, enum dtype type, const uint8_t *row, int32_t b, int32_t groups)
{
	int some = groups - 8 * b < 8 ? groups - 8 * b : 8;

	switch (type) {
	case DTYPE_Q2_K:
		expand_q2_k(&n->e, (const struct block_q2_k *)(const void *)row + b);
		break;
	case DTYPE_Q4_K:
		expand_q4_k(&n->e, (const struct block_q4_k *)(const void *)row + b);
		break;
	case DTYPE_IQ2_XXS:
		expand_iq2_xxs(&n->e, (const struct block_iq2_xxs *)(const void *)row + b);
		break;
	default:
		for (int g = 0; g < some; g++) {
			const struct block_q8_0 *w = (const struct block_q8_0 *)(const void *)row + 8 * b + g;

			memcpy(n->e.code + 32 * g, w->q, 32);
			n->scale[g] = f16_to_f32(w->d);
		}
	}
	return some;
}

static inline void neon_add(float *lane, const struct neon_block *n, enum dtype type, const struct dot_x *x, int32_t b,
			    int some, const int32_t *s16)
{
	const struct expanded *e = &n->e;
	const int16_t *sum = x->sum + 16 * b;
	const float *xd = x->d + 8 * b;

	for (int g = 0; g < some; g++) {
		int32_t both = s16[2 * g] + s16[2 * g + 1], s, m;

		switch (type) {
		case DTYPE_Q2_K:
			s = e->scale[2 * g] * s16[2 * g] + e->scale[2 * g + 1] * s16[2 * g + 1];
			m = e->min[2 * g] * sum[2 * g] + e->min[2 * g + 1] * sum[2 * g + 1];
			lane[g] += (e->d * (float)s - e->dmin * (float)m) * xd[g];
			break;
		case DTYPE_Q4_K:
			m = e->min[g] * (sum[2 * g] + sum[2 * g + 1]);
			lane[g] += (e->d * (float)(e->scale[g] * both) - e->dmin * (float)m) * xd[g];
			break;
		case DTYPE_IQ2_XXS:
			lane[g] += e->d * xd[g] * (float)(e->scale[g] * both);
			break;
		default:
			lane[g] += n->scale[g] * xd[g] * (float)both;
		}
	}
}

static inline void neon_matrix(const struct dot_job *j, enum dtype type)
{
	const int32_t groups = j->in / 32, blocks = (groups + 7) / 8;

	for (int32_t r0 = 0; r0 < j->rows; r0 += NEON_ROWS) {
		float lane[NEON_ROWS][DOT_TILE][8] = {{{0}}};

		for (int32_t b = 0; b < blocks; b++) {
			struct neon_block w[NEON_ROWS];
			const int8_t *code[NEON_ROWS];
			int some = 0;

			for (int r = 0; r < NEON_ROWS; r++) {
				int32_t row = r0 + r < j->rows ? r0 + r : r0;

				some = neon_expand(&w[r], type, j->w + (size_t)row * j->row_bytes, b, groups);
				code[r] = w[r].e.code;
			}
			for (int32_t i = 0; i < j->n; i += NEON_X) {
				int32_t s[NEON_ROWS * NEON_X][16];
				const int8_t *q[NEON_X];

				for (int x = 0; x < NEON_X; x++)
					q[x] = j->x[i + x < j->n ? i + x : i].q + 256 * b;
				sums16(s, code, q, 2 * some);
				for (int r = 0; r < NEON_ROWS; r++)
					for (int x = 0; x < NEON_X && i + x < j->n; x++)
						neon_add(lane[r][i + x], &w[r], type, &j->x[i + x], b, some,
							 s[r * NEON_X + x]);
			}
		}
		for (int r = 0; r < NEON_ROWS && r0 + r < j->rows; r++)
			for (int32_t i = 0; i < j->n; i++)
				j->y[(size_t)i * j->y_stride + (size_t)(r0 + r)] = add_lanes8(lane[r][i]);
	}
}

static void matrix_q8_0(const struct dot_job *j)
{
	neon_matrix(j, DTYPE_Q8_0);
}

static void matrix_q2_k(const struct dot_job *j)
{
	neon_matrix(j, DTYPE_Q2_K);
}

static void matrix_q4_k(const struct dot_job *j)
{
	neon_matrix(j, DTYPE_Q4_K);
}

static void matrix_iq2_xxs(const struct dot_job *j)
{
	neon_matrix(j, DTYPE_IQ2_XXS);
}

/* Plain C for the rest: every 64-bit ARM compiler makes NEON code of it. */
static inline struct dot_table neon_table(const char *name)
{
	struct dot_table t = *dot_scalar();

	t.name = name;
	t.matrix[DTYPE_Q8_0] = matrix_q8_0;
	t.matrix[DTYPE_Q2_K] = matrix_q2_k;
	t.matrix[DTYPE_Q4_K] = matrix_q4_k;
	t.matrix[DTYPE_IQ2_XXS] = matrix_iq2_xxs;
	return t;
}

#endif
