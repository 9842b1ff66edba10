/* encode_iq2_int.h - the IQ2_XXS search.
 *
 * What  For 8 elements and a scale s the best codebook entry e minimises  s^2 A[e] - 2 s B[e]  with
 *           A[e] = sum w g^2,   B[e] = sum w |x| g  - 2 min_i w |x| g  when the number of minus signs is odd
 *       (one sign must then be wrong, and it is wrong where that costs least).  A and B do not depend on s.
 * Why   Codebook, signs and scales depend on each other; searching them in turn ends in a local minimum.
 * How   Over s, the best entry is the upper envelope of the lines 2 B - s A: some ten pieces, found from
 *       large s to small by jumping to the next crossing.  The envelopes of a group's four runs merge into
 *       one list of pieces with summed A and B, which gives the group's error at any s exactly.  What is
 *       left is one number for each block: d, tried over a range of values and refined; the 4-bit scale of
 *       each group then follows by trying all sixteen.
 * Careful
 *       - Everything is computed on x divided by the block's largest magnitude, with weights of mean 1: no
 *         overflow.
 *       - Entries with equal A occur when weights are 0; only a larger A may follow in an envelope, or it
 *         would not end. */
#ifndef DS4_QUANT_ENCODE_IQ2_INT_H
#define DS4_QUANT_ENCODE_IQ2_INT_H

#include "quant/encode_search_int.h"
#include "quant/quant.h"

enum {
	IQ2_RUN = 24,			/* pieces of a run of 8 */
	IQ2_GROUP = 4 * IQ2_RUN,	/* pieces of a group of 32 */
	IQ2_COARSE = 40,		/* values of d tried over the whole range */
	IQ2_FINE = 4			/* halves tried on either side of the best */
};

struct iq2_piece {
	float top, a, b;	/* for scales up to top: error is s^2 a - 2 s b + constant */
	int entry;
};

struct iq2_run {
	struct iq2_piece p[IQ2_RUN];
	int n;
};

struct iq2_group {
	float a[IQ2_GROUP], b[IQ2_GROUP], top[IQ2_GROUP + 1];
	uint8_t entry[IQ2_GROUP][4];
	int n;
	float best;		/* scale of least error when any is allowed */
};

struct iq2_work {
	float x[256], w[256], p[256];	/* normalised magnitudes, weights, and w |x| */
	uint8_t sign[32];
	float a[256], b[256];
	struct iq2_run run[4];
	struct iq2_group group[8];
};

/* A and B of all entries for the run at element i. */
ALWAYS_INLINE void iq2_lines(struct iq2_work *k, const struct iq2_tables *t, int i)
{
	int odd = __builtin_parity(k->sign[i / 8]);

	for (int v = 0; v < 32; v++) {
		v8f a = v_splat(0), b = v_splat(0), least = v_splat(INFINITY);

		for (int m = 0; m < 8; m++) {
			v8f u = t->g[m][v] * k->p[i + m];

			a += t->g2[m][v] * k->w[i + m];
			b += u;
			least = v_min(u, least);
		}
		if (odd)
			b -= 2 * least;
		memcpy(k->a + v * LANES, &a, sizeof a);
		memcpy(k->b + v * LANES, &b, sizeof b);
	}
}

/* The entry whose line takes over from piece `from` first when s falls; its crossing, or 0 when there is
 * none. */
ALWAYS_INLINE float iq2_next(const struct iq2_work *k, const struct iq2_piece *from, int *entry)
{
	v8f best = v_splat(0);
	v8i at = {0};
	float s = 0;

	for (int v = 0; v < 32; v++) {
		v8f da = v_load(k->a + v * LANES) - from->a, db = v_load(k->b + v * LANES) - from->b;
		v8f cross = db / da;
		v8i better = (da > from->a * 1e-6f) & (cross > best);

		best = v_pick(better, cross, best);
		at = (better & v) | (at & ~better);
	}
	*entry = 0;
	for (int l = 0; l < LANES; l++)
		if (best[l] > s) {
			s = best[l];
			*entry = at[l] * LANES + l;
		}
	return 2 * s;
}

ALWAYS_INLINE void iq2_envelope(const struct iq2_work *k, struct iq2_run *r)
{
	struct iq2_piece p = {.top = INFINITY, .entry = 0};

	for (int e = 1; e < 256; e++)
		if (k->a[e] < k->a[p.entry] || (k->a[e] == k->a[p.entry] && k->b[e] > k->b[p.entry]))
			p.entry = e;
	r->n = 0;
	for (;;) {
		p.a = k->a[p.entry];
		p.b = k->b[p.entry];
		r->p[r->n++] = p;
		if (r->n == IQ2_RUN)
			return;
		p.top = iq2_next(k, &p, &p.entry);
		if (!(p.top > 0))
			return;
		if (p.top > r->p[r->n - 1].top)		/* rounding */
			p.top = r->p[r->n - 1].top;
	}
}

/* The sum of four envelopes. */
ALWAYS_INLINE void iq2_merge(struct iq2_group *g, const struct iq2_run run[4])
{
	int at[4] = {0};
	float top = INFINITY;

	for (g->n = 0;; g->n++) {
		float next = 0, a = 0, b = 0;

		for (int j = 0; j < 4; j++) {
			const struct iq2_piece *p = &run[j].p[at[j]];

			a += p->a;
			b += p->b;
			g->entry[g->n][j] = (uint8_t)p->entry;
			if (at[j] + 1 < run[j].n && p[1].top > next)
				next = p[1].top;
		}
		g->a[g->n] = a;
		g->b[g->n] = b;
		g->top[g->n] = top;
		if (next == 0)
			break;
		top = next;
		for (int j = 0; j < 4; j++)
			while (at[j] + 1 < run[j].n && run[j].p[at[j] + 1].top >= next)
				at[j]++;
	}
	g->n++;
	g->top[g->n] = 0;
}

/* Least error over all scales; the error without the constant sum w x^2. */
ALWAYS_INLINE void iq2_free_scale(struct iq2_group *g)
{
	float least = 0;

	g->best = 0;
	for (int j = 0; j < g->n; j++) {
		float s = g->b[j] / g->a[j], e;

		s = s > g->top[j] ? g->top[j] : s < g->top[j + 1] ? g->top[j + 1] : s;
		e = s * (s * g->a[j] - 2 * g->b[j]);
		if (e < least) {
			least = e;
			g->best = s;
		}
	}
}

/* Error of a group when the sixteen scales are (0.5 + i) * unit; *scale is the best of them. */
ALWAYS_INLINE float iq2_group_error(const struct iq2_group *g, float unit, int *scale)
{
	static const v8f step[2] = {{0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f},
				    {8.5f, 9.5f, 10.5f, 11.5f, 12.5f, 13.5f, 14.5f, 15.5f}};
	v8f s0 = step[0] * unit, s1 = step[1] * unit;
	v8f e0 = v_splat(INFINITY), e1 = e0, low;
	float best;

	for (int j = 0; j < g->n; j++) {
		float a = g->a[j], b = 2 * g->b[j];

		e0 = v_min(s0 * (s0 * a - b), e0);
		e1 = v_min(s1 * (s1 * a - b), e1);
	}
	low = v_min(e0, e1);
	best = low[0];
	for (int l = 1; l < LANES; l++)
		best = low[l] < best ? low[l] : best;
	if (scale)
		for (int l = 0; l < LANES; l++) {
			if (e0[l] == best) {
				*scale = l;
				break;
			}
			if (e1[l] == best)
				*scale = 8 + l;
		}
	return best;
}

ALWAYS_INLINE float iq2_block_error(const struct iq2_work *k, float d)
{
	float e = 0;

	for (int g = 0; g < 8; g++)
		e += iq2_group_error(&k->group[g], 0.25f * d, NULL);
	return e;
}

/* The piece that holds at scale s. */
static inline int iq2_piece_at(const struct iq2_group *g, float s)
{
	float least = INFINITY;
	int at = 0;

	for (int j = 0; j < g->n; j++) {
		float e = s * (s * g->a[j] - 2 * g->b[j]);

		if (e < least) {
			least = e;
			at = j;
		}
	}
	return at;
}

/* Least squares for d when scales and entries stay as they are best at d. */
ALWAYS_INLINE float iq2_refit(const struct iq2_work *k, float d)
{
	float up = 0, down = 0;

	for (int g = 0; g < 8; g++) {
		int scale = 0, j;
		float c;

		iq2_group_error(&k->group[g], 0.25f * d, &scale);
		c = 0.25f * (0.5f + (float)scale);
		j = iq2_piece_at(&k->group[g], c * d);
		up += c * k->group[g].b[j];
		down += c * c * k->group[g].a[j];
	}
	return up > 0 ? up / down : d;
}

/* Tries half h as d (x was divided by amax); keeps the better of it and *best. */
ALWAYS_INLINE void iq2_try(const struct iq2_work *k, uint16_t h, float amax, uint16_t *best, float *least)
{
	float e;

	if (h == 0 || h > 0x7BFF)
		return;
	e = iq2_block_error(k, f16_to_f32(h) / amax);
	if (e < *least) {
		*least = e;
		*best = h;
	}
}

ALWAYS_INLINE uint16_t iq2_choose_d(const struct iq2_work *k, float amax)
{
	float top = 0, least = INFINITY, d;
	uint16_t best = 1, centre;

	for (int g = 0; g < 8; g++)
		top = k->group[g].best > top ? k->group[g].best : top;
	if (top == 0)
		return 0;
	/* 15.5 / 4 d = top makes the largest group use the largest scale; smaller d cuts it off, larger
	 * ones are coarser. */
	d = top * amax / 3.875f * 0.8f;
	for (int i = 0; i < IQ2_COARSE; i++, d *= 1.026f)
		iq2_try(k, half_scale(d), amax, &best, &least);
	for (int round = 0; round < 2; round++) {
		centre = half_scale(iq2_refit(k, f16_to_f32(best) / amax) * amax);
		for (int i = -IQ2_FINE; i <= IQ2_FINE; i++)
			iq2_try(k, (uint16_t)(centre + i), amax, &best, &least);
	}
	return best;
}

/* Sign pattern (7 bits) of a run: one sign is flipped when their number is odd, where it costs least. */
static inline uint32_t iq2_signs(const struct iq2_work *k, int i, int entry)
{
	uint8_t sign = k->sign[i / 8];
	float least = INFINITY;
	int at = 0;

	if (__builtin_parity(sign)) {
		for (int m = 0; m < 8; m++)
			if (k->p[i + m] * (float)iq2_xxs_grid[entry][m] < least) {
				least = k->p[i + m] * (float)iq2_xxs_grid[entry][m];
				at = m;
			}
		sign ^= (uint8_t)(1u << at);
	}
	return sign & 127u;
}

ALWAYS_INLINE void iq2_pack(struct block_iq2_xxs *out, const struct iq2_work *k, float d)
{
	for (int g = 0; g < 8; g++) {
		const struct iq2_group *group = &k->group[g];
		uint32_t word;
		int scale = 0, j;

		iq2_group_error(group, 0.25f * d, &scale);
		j = iq2_piece_at(group, 0.25f * d * (0.5f + (float)scale));
		word = (uint32_t)scale << 28;
		for (int r = 0; r < 4; r++) {
			out->group[g][r] = group->entry[j][r];
			word |= iq2_signs(k, 32 * g + 8 * r, group->entry[j][r]) << 7 * r;
		}
		memcpy(out->group[g] + 4, &word, sizeof word);
	}
}

ALWAYS_INLINE void iq2_search(struct block_iq2_xxs *out, const float *x, const float *w,
                              const struct iq2_tables *t)
{
	struct iq2_work k;
	float amax = largest(x, 256);

	memset(out, 0, sizeof *out);
	if (amax == 0)
		return;
	even_weights(k.w, w, 256);
	for (int i = 0; i < 256; i++) {
		k.x[i] = fabsf(x[i]) / amax;
		k.p[i] = k.w[i] * k.x[i];
		if (i % 8 == 0)
			k.sign[i / 8] = 0;
		k.sign[i / 8] |= (uint8_t)((x[i] < 0) << i % 8);
	}
	for (int g = 0; g < 8; g++) {
		for (int r = 0; r < 4; r++) {
			iq2_lines(&k, t, 32 * g + 8 * r);
			iq2_envelope(&k, &k.run[r]);
		}
		iq2_merge(&k.group[g], k.run);
		iq2_free_scale(&k.group[g]);
	}
	out->d = iq2_choose_d(&k, amax);
	if (out->d)
		iq2_pack(out, &k, f16_to_f32(out->d) / amax);
}

#endif
