/* encode_k_int.h - the searches for Q2_K, Q4_K and Q8_0: codes on a scale, with or without a minimum.
 *
 * What  A sub-block is  x = S code - M  with S = d scale, M = dmin min, where scale and min are whole
 *       numbers of 4 (Q2_K) or 6 bits (Q4_K) and d, dmin are shared by the sub-blocks of a block.
 * How   1 Each sub-block alone: S and M by least squares from 24 starts, codes rounded anew in between.
 *       2 Near its optimum a sub-block's error is a quadratic in (S, M) whose coefficients step 1 has
 *         summed: so hundreds of pairs (d, dmin) are compared for the price of one.  The best few go on.
 *       3 For a given pair, each sub-block tries the scales and mins around its optimum with codes rounded
 *         anew; then (d, dmin) by least squares over the block with all codes fixed; and again.  The best pair
 *         ends with a wider range: all 16 mins and 7 scales of Q2_K; 32 scales of Q4_K, each with the mins
 *         that least squares leads to from five starts.
 * Careful
 *       - x is divided by the block's largest magnitude; d and dmin are turned into halves before they are
 *         used, so that what is compared is what will be stored.
 *       - M is never below 0: the format cannot say so. */
#ifndef DS4_QUANT_ENCODE_K_INT_H
#define DS4_QUANT_ENCODE_K_INT_H

#include "quant/encode_search_int.h"

enum {
	K_MAX_SUB = 16,
	K_KEEP = 4,		/* pairs (d, dmin) that step 3 looks at */
	K_RANGES = 14,		/* of d in step 2, three values each */
	K_MINS = 20,		/* values of dmin in step 2 */
	K_FAR = 4		/* vectors of scales in the wider range of Q4_K */
};

/* What tells Q2_K from Q4_K; constant in each caller, so that the loops are compiled for it. */
struct k_format {
	int subs, len;		/* sub-blocks of len elements */
	int codes, tops;	/* largest code; largest scale and min */
};

/* One sub-block: its free optimum and the sums over its codes there. */
struct k_fit {
	float s, m, error;
	float w, x;		/* sum w, sum w x */
	float q, qq;		/* sum w code, sum w code^2 */
};

struct k_choice {
	uint16_t d, dmin;
	float error;
	uint8_t scale[K_MAX_SUB], min[K_MAX_SUB];
};

struct k_work {
	float x[256], w[256], amax;
	struct k_fit fit[K_MAX_SUB];
	_Alignas(32) float s[K_MAX_SUB], m[K_MAX_SUB], sw[K_MAX_SUB], sx[K_MAX_SUB], sq[K_MAX_SUB],
		sqq[K_MAX_SUB], e[K_MAX_SUB];
};

/* Eight (S, M): their errors with the best codes. */
ALWAYS_INLINE void k_errors(v8f *e, const float *x, const float *w, struct k_format f, const v8f *s, const v8f *m)
{
	v8f scale = *s, inverse = v_pick(scale > 0, 1 / v_max(scale, v_splat(1e-30f)), v_splat(0)),
	    sum = v_splat(0);

	for (int i = 0; i < f.len; i++) {
		v8f t = *m + x[i], r = t - scale * v_round_to(t * inverse, (float)f.codes);

		sum += r * r * w[i];
	}
	*e = sum;
}

/* One step of least squares for eight (S, M) at once. */
ALWAYS_INLINE void k_step(const float *x, const float *w, struct k_format f, v8f *s, v8f *m, struct k_fit *sums)
{
	v8f inverse = 1 / v_max(*s, v_splat(1e-30f)), q1 = v_splat(0), q2 = q1, qx = q1, det, s1, m1, s0;
	float w0 = 0, x1 = 0;

	for (int i = 0; i < f.len; i++) {
		v8f q = v_round_to((*m + x[i]) * inverse, (float)f.codes), wq = q * w[i];

		q1 += wq;
		q2 += wq * q;
		qx += wq * x[i];
		w0 += w[i];
		x1 += w[i] * x[i];
	}
	sums->w = w0;
	sums->x = x1;
	det = q2 * w0 - q1 * q1;
	s1 = (qx * w0 - q1 * x1) / v_max(det, v_splat(1e-30f));
	m1 = (s1 * q1 - x1) / w0;
	s0 = v_max(qx, v_splat(0)) / v_max(q2, v_splat(1e-30f));	/* with M = 0 */
	s0 = v_pick((det > q2 * w0 * 1e-6f) & (m1 >= 0) & (s1 > 0), s1, s0);
	*m = v_pick((det > q2 * w0 * 1e-6f) & (m1 >= 0) & (s1 > 0), m1, v_splat(0));
	*s = s0;
}

/* Sums over a sub-block with its codes for (S, M): w code, w code^2, w code x. */
ALWAYS_INLINE void k_sums(const float *x, const float *w, struct k_format f, float s, float m, float sums[3])
{
	v8f q1 = v_splat(0), q2 = q1, qx = q1;
	float inverse = s > 0 ? 1 / s : 0;

	for (int i = 0; i < f.len; i += LANES) {
		v8f v = v_load(x + i), q = v_round_to((v + m) * inverse, (float)f.codes), wq = q * v_load(w + i);

		q1 += wq;
		q2 += wq * q;
		qx += wq * v;
	}
	sums[0] = sums[1] = sums[2] = 0;
	for (int l = 0; l < LANES; l++) {
		sums[0] += q1[l];
		sums[1] += q2[l];
		sums[2] += qx[l];
	}
}

/* Step 1. */
ALWAYS_INLINE void k_free_fit(const float *x, const float *w, struct k_format f, struct k_fit *out)
{
	static const v8f shrink[3] = {{0.55f, 0.62f, 0.69f, 0.76f, 0.82f, 0.87f, 0.91f, 0.94f},
				      {0.97f, 1.0f, 1.03f, 1.06f, 0.6f, 0.7f, 0.8f, 0.9f},
				      {1.09f, 1.12f, 1.16f, 1.2f, 1.25f, 1.25f, 1.3f, 1.35f}};
	static const v8f shift[3] = {{1, 1, 1, 1, 1, 1, 1, 1},
				     {1, 1, 1, 1, 0.6f, 0.75f, 0.8f, 0.9f},
				     {1, 1, 1, 1, 1, 1.25f, 1, 1}};
	float low = 0, high = 0, sum[3];

	for (int i = 0; i < f.len; i++) {
		low = x[i] < low ? x[i] : low;
		high = x[i] > high ? x[i] : high;
	}
	out->error = INFINITY;
	for (int part = 0; part < 3; part++) {
		v8f s = shrink[part] * ((high - low) / (float)f.codes), m = shift[part] * -low, e;

		for (int i = 0; i < 3; i++)
			k_step(x, w, f, &s, &m, out);
		k_errors(&e, x, w, f, &s, &m);
		for (int l = 0; l < LANES; l++)
			if (e[l] < out->error) {
				out->error = e[l];
				out->s = s[l];
				out->m = m[l];
			}
	}
	k_sums(x, w, f, out->s, out->m, sum);
	out->q = sum[0];
	out->qq = sum[1];
}

/* Step 2: what the quadratics say about a pair. */
ALWAYS_INLINE float k_estimate(const struct k_work *k, struct k_format f, float d, float dmin)
{
	v8f total = v_splat(0);
	float sum = 0, id = d > 0 ? 1 / d : 0, im = dmin > 0 ? 1 / dmin : 0;

	for (int b = 0; b < f.subs; b += LANES) {
		v8f s = v_load(k->s + b), m = v_load(k->m + b), w = v_load(k->sw + b), q = v_load(k->sq + b);
		v8f ds = v_round_to(s * id, (float)f.tops) * d - s, want = m + q * ds / w;
		v8f dm = v_round_to(want * im, (float)f.tops) * dmin - m;

		total += v_load(k->e + b) + ds * ds * v_load(k->sqq + b) - 2 * q * ds * dm + w * dm * dm;
	}
	for (int l = 0; l < LANES; l++)
		sum += total[l];
	return sum;
}

/* Best scale and min of a sub-block for (d, dmin): scales scale0 .. scale0 + scales - 1, and 8 * runs mins
 * from min0 on. */
ALWAYS_INLINE float k_pick(const float *x, const float *w, struct k_format f, float d, float dmin,
                           int scale0, int scales, int min0, int runs, uint8_t *scale, uint8_t *min)
{
	static const v8f lane = {0, 1, 2, 3, 4, 5, 6, 7};
	float best = INFINITY;

	for (int r = 0; r < runs; r++)
		for (int i = 0; i < scales; i++) {
			v8f m = (lane + (float)(min0 + 8 * r)) * dmin, s = v_splat((float)(scale0 + i) * d), e;

			k_errors(&e, x, w, f, &s, &m);
			for (int l = 0; l < LANES; l++)
				if (e[l] < best) {
					best = e[l];
					*scale = (uint8_t)(scale0 + i);
					*min = (uint8_t)(min0 + 8 * r + l);
				}
		}
	return best;
}

/* Scales scale0 .. scale0 + 8 K_FAR - 1, each with a min that suits it.  Shifting M by S moves all codes by one, by
 * S / 2 to other sides of their roundings: the starts are such shifts of what step 1 found.  Changes scale and min only
 * when an error is below `best`; returns the least. */
ALWAYS_INLINE float k_pick_far(const struct k_work *k, int b, struct k_format f, float d, float dmin, int scale0,
			       float best, uint8_t *scale, uint8_t *min)
{
	static const v8f lane = {0, 1, 2, 3, 4, 5, 6, 7};
	static const float shift[] = {0, -0.5f, 0.5f, -1, 1};
	const float *x = k->x + b * f.len, *w = k->w + b * f.len;
	float iw = 1 / k->sw[b], im = dmin > 0 ? 1 / dmin : 0;

	for (int at = scale0; at < scale0 + LANES * K_FAR; at += LANES) {
		v8f s = (lane + (float)at) * d, is = v_pick(s > 0, 1 / v_max(s, v_splat(1e-30f)), v_splat(0));
		v8f m0 = k->m[b] + k->sq[b] * iw * (s - k->s[b]);

		for (size_t i = 0; i < sizeof shift / sizeof *shift; i++) {
			v8f m = m0 + s * shift[i], q = v_splat(0), e;

			for (int j = 0; j < f.len; j++)
				q += v_round_to((m + x[j]) * is, (float)f.codes) * w[j];
			q = v_round_to((s * q - k->sx[b]) * iw * im, (float)f.tops);
			m = q * dmin;
			k_errors(&e, x, w, f, &s, &m);
			for (int l = 0; l < LANES; l++)
				if (e[l] < best) {
					best = e[l];
					*scale = (uint8_t)(at + l);
					*min = (uint8_t)q[l];
				}
		}
	}
	return best;
}

static inline int k_between(float x, int top)
{
	return x >= (float)top ? top : x > 0 ? (int)(x + 0.5f) : 0;
}

static inline int k_first(int x, int n, int tops)	/* of n numbers from x on that lie in 0..tops */
{
	return x < 0 ? 0 : x > tops + 1 - n ? tops + 1 - n : x;
}

/* Step 3, first half; fills scale, min and error for c->d and c->dmin. */
ALWAYS_INLINE void k_assign(const struct k_work *k, struct k_format f, struct k_choice *c, int wide)
{
	float d = f16_to_f32(c->d) / k->amax, dmin = f16_to_f32(c->dmin) / k->amax;
	int all = wide && f.tops == 15, far = wide && f.tops > 15, n = all ? 7 : 3;

	c->error = 0;
	for (int b = 0; b < f.subs; b++) {
		const float *x = k->x + b * f.len, *w = k->w + b * f.len;
		int s0 = k_between(k->s[b] / d, f.tops), m0 = dmin > 0 ? k_between(k->m[b] / dmin, f.tops) : 0;
		float e = k_pick(x, w, f, d, dmin, k_first(s0 - n / 2, n, f.tops), n,
		                 all ? 0 : k_first(m0 - 3, LANES, f.tops), all ? 2 : 1, &c->scale[b], &c->min[b]);

		if (far)
			e = k_pick_far(k, b, f, d, dmin, k_first(s0 - LANES * K_FAR / 2, LANES * K_FAR, f.tops), e,
			               &c->scale[b], &c->min[b]);
		c->error += e;
	}
}

/* Step 3, second half: least squares for (d, dmin) with all codes fixed.  Both stay when there is no
 * solution. */
ALWAYS_INLINE void k_refit(const struct k_work *k, struct k_format f, struct k_choice *c)
{
	float d = f16_to_f32(c->d) / k->amax, dmin = f16_to_f32(c->dmin) / k->amax;
	double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0, det, new_d, new_m;

	for (int b = 0; b < f.subs; b++) {
		double s = c->scale[b], m = c->min[b];
		float sum[3];

		k_sums(k->x + b * f.len, k->w + b * f.len, f, d * c->scale[b], dmin * c->min[b], sum);
		aa += s * s * sum[1];
		ab += s * m * sum[0];
		bb += m * m * k->sw[b];
		ax += s * sum[2];
		bx += m * k->sx[b];
	}
	det = aa * bb - ab * ab;
	if (det > 1e-9 * aa * bb) {	/* minimum of sum w (x - d a + dmin m)^2 */
		new_d = (ax * bb - bx * ab) / det;
		new_m = (ax * ab - bx * aa) / det;
	} else {
		new_d = aa > 0 ? ax / aa : 0;
		new_m = 0;
	}
	if (!(new_d > 0) || new_m < 0)
		return;
	c->d = half_scale((float)(new_d * k->amax));
	if (bb > 0 && new_m > 0)
		c->dmin = half_scale((float)(new_m * k->amax));
}

/* Assigns and refits until nothing is gained; c ends with the best it met. */
ALWAYS_INLINE void k_settle(const struct k_work *k, struct k_format f, struct k_choice *c, int rounds, int wide)
{
	struct k_choice next = *c;

	k_assign(k, f, c, wide);
	for (int i = 0; i < rounds; i++) {
		next = *c;
		k_refit(k, f, &next);
		if (next.d == c->d && next.dmin == c->dmin)
			return;
		k_assign(k, f, &next, wide);
		if (!(next.error < c->error))
			return;
		*c = next;
	}
}

/* The best pair for each of K_RANGES ranges of d; of those the K_KEEP best, best first.  Neighbours end in
 * the same place, so the best few of all pairs would be one place looked at four times. */
ALWAYS_INLINE void k_candidates(const struct k_work *k, struct k_format f, struct k_choice keep[K_KEEP])
{
	float smax = largest(k->s, f.subs), mmax = largest(k->m, f.subs);

	for (int i = 0; i < K_KEEP; i++)
		keep[i] = (struct k_choice){.error = INFINITY};
	for (int range = 0; range < K_RANGES; range++) {
		struct k_choice best = {.error = INFINITY};
		int at = K_KEEP;

		for (int i = 0; i < 3; i++)
			for (int j = 0; j < (mmax > 0 ? K_MINS : 1); j++) {
				float fd = 0.8f + 0.02f * (float)(3 * range + i), fm = 0.8f + 0.035f * (float)j;
				struct k_choice c = {
					.d = half_scale(smax / (float)f.tops * fd * k->amax),
					.dmin = mmax > 0 ? half_scale(mmax / (float)f.tops * fm * k->amax)
				                         : 0};

				c.error = k_estimate(k, f, f16_to_f32(c.d) / k->amax,
				                     f16_to_f32(c.dmin) / k->amax);
				if (c.error < best.error)
					best = c;
			}
		while (at > 0 && best.error < keep[at - 1].error)
			at--;
		if (at == K_KEEP)
			continue;
		memmove(keep + at + 1, keep + at, (size_t)(K_KEEP - 1 - at) * sizeof *keep);
		keep[at] = best;
	}
}

/* 0 when the block is all zero. */
ALWAYS_INLINE int k_search(struct k_work *k, const float *x, const float *w, struct k_format f,
                           struct k_choice *best)
{
	struct k_choice keep[K_KEEP];

	k->amax = largest(x, 256);
	if (k->amax == 0)
		return 0;
	even_weights(k->w, w, 256);
	for (int i = 0; i < 256; i++)
		k->x[i] = x[i] / k->amax;
	for (int b = 0; b < f.subs; b++) {
		struct k_fit *fit = &k->fit[b];

		k_free_fit(k->x + b * f.len, k->w + b * f.len, f, fit);
		k->s[b] = fit->s;
		k->m[b] = fit->m;
		k->sw[b] = fit->w;
		k->sx[b] = fit->x;
		k->sq[b] = fit->q;
		k->sqq[b] = fit->qq;
		k->e[b] = fit->error;
	}
	k_candidates(k, f, keep);
	best->error = INFINITY;
	for (int i = 0; i < K_KEEP && keep[i].error < INFINITY; i++) {
		k_settle(k, f, &keep[i], 2, 0);
		if (keep[i].error < best->error)
			*best = keep[i];
	}
	k_settle(k, f, best, 1, 1);
	return 1;
}

static inline int k_code(float x, float s, float m, int codes)
{
	float q = s > 0 ? rintf((x + m) / s) : 0;

	return q <= 0 ? 0 : q >= (float)codes ? codes : (int)q;
}

ALWAYS_INLINE void q2_k_search(struct block_q2_k *out, const float *x, const float *w)
{
	const struct k_format f = {16, 16, 3, 15};
	struct k_work k;
	struct k_choice c;
	float d, dmin;

	memset(out, 0, sizeof *out);
	if (!k_search(&k, x, w, f, &c))
		return;
	out->d = c.d;
	out->dmin = c.dmin;
	d = f16_to_f32(c.d) / k.amax;
	dmin = f16_to_f32(c.dmin) / k.amax;
	for (int b = 0; b < 16; b++)
		out->scale_min[b] = (uint8_t)(c.scale[b] | c.min[b] << 4);
	for (int i = 0; i < 256; i++) {
		int q = k_code(k.x[i], d * c.scale[i / 16], dmin * c.min[i / 16], 3);

		out->q[32 * (i / 128) + i % 32] |= (uint8_t)(q << 2 * (i % 128 / 32));
	}
}

ALWAYS_INLINE void q4_k_search(struct block_q4_k *out, const float *x, const float *w)
{
	const struct k_format f = {8, 32, 15, 63};
	struct k_work k;
	struct k_choice c;
	float d, dmin;

	memset(out, 0, sizeof *out);
	if (!k_search(&k, x, w, f, &c))
		return;
	out->d = c.d;
	out->dmin = c.dmin;
	d = f16_to_f32(c.d) / k.amax;
	dmin = f16_to_f32(c.dmin) / k.amax;
	for (int b = 0; b < 4; b++) {
		out->s[b] = (uint8_t)(c.scale[b] | c.scale[b + 4] >> 4 << 6);
		out->s[b + 4] = (uint8_t)(c.min[b] | c.min[b + 4] >> 4 << 6);
		out->s[b + 8] = (uint8_t)((c.scale[b + 4] & 15) | (c.min[b + 4] & 15) << 4);
	}
	for (int i = 0; i < 256; i++) {
		int q = k_code(k.x[i], d * c.scale[i / 32], dmin * c.min[i / 32], 15);

		out->q[32 * (i / 64) + i % 32] |= (uint8_t)(i % 64 < 32 ? q : q << 4);
	}
}

/* Errors of eight d.  Every code keeps to -127..127: kernels negate codes. */
ALWAYS_INLINE void q8_errors(v8f *out, const float *x, const float *w, const v8f *d)
{
	v8f inverse = 1 / *d, e = v_splat(0);

	for (int i = 0; i < 32; i++) {
		v8f q = v_round(inverse * x[i]), r;

		q = v_max(v_min(q, v_splat(127)), v_splat(-127));
		r = x[i] - q * *d;
		e += r * r * w[i];
	}
	*out = e;
}

/* Every half in a range around amax / 127, and some powers of two: weights that came from FP8 are whole multiples of
 * one.  Rounding errors of 32 elements differ by chance from one d to the next, which is worth a fifth.  With
 * importance the largest element may be one that does not matter: then the range reaches further down. */
ALWAYS_INLINE void q8_0_search(struct block_q8_0 *out, const float *x, const float *w)
{
	enum { EVEN = 704, WEIGHTED = 1304, POWERS = 8 };
	float amax = largest(x, 32), y[32], v[32], best = INFINITY, d;
	int first = half_scale(amax / 127) - (w ? 600 : 200), tries = w ? WEIGHTED : EVEN, e;

	memset(out, 0, sizeof *out);
	if (amax == 0)
		return;
	even_weights(v, w, 32);
	for (int i = 0; i < 32; i++)
		y[i] = x[i] / amax;
	frexpf(amax / 127, &e);
	for (int i = 0; i < tries + POWERS; i += LANES) {
		uint16_t h[LANES];
		v8f dv, error;

		for (int l = 0; l < LANES; l++) {
			int at = first + i + l;

			h[l] = i < tries ? (uint16_t)(at < 1        ? 1
			                              : at > 0x7BFF ? 0x7BFF
			                                            : at)
			                 : half_scale(ldexpf(1, e - 2 + l));
			dv[l] = f16_to_f32(h[l]) / amax;
		}
		q8_errors(&error, y, v, &dv);
		for (int l = 0; l < LANES; l++)
			if (error[l] < best) {
				best = error[l];
				out->d = h[l];
			}
	}
	d = f16_to_f32(out->d) / amax;
	for (int i = 0; i < 32; i++) {
		float q = rintf(y[i] * (1 / d));

		out->q[i] = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
	}
}

#endif
