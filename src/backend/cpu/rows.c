/* rows.c - operations on single rows: embedding, residual streams, norms, rotation, SwiGLU, and the small
 * formats that rows and keys are kept in.
 *
 * Why   They are a few percent of the arithmetic but most of the operations, so they must cost little at one
 *       row: fixed-length loops over independent lanes, no library calls but sin, cos and sqrt.
 * Careful
 *       - C of a hyper-connection is used transposed: stream j flows into stream k with C[j][k].
 *       - A scale of the E4M3 and E2M1 forms is a power of two, so dividing by it is exact; everything below a
 *         float's normal range rounds to zero in both forms.
 * Source: docs/model.md 4-6, 7.3, 7.4, 7.6, 8.4, 9. */
#include "backend/cpu/cpu_int.h"

#include <assert.h>

#include "quant/quant.h"

/* ------------------------------------------------------------------ embedding */

struct embed_run {
	const struct step *s;
	struct tensor *streams;
	const struct weight *w;
};

static void embed_rows(void *ctx, long begin, long end, int thread)
{
	const struct embed_run *run = ctx;
	const size_t d = (size_t)run->w->in;

	(void)thread;
	for (long t = begin; t < end; t++) {
		float *x = row_of(run->streams, (int32_t)t);
		size_t token = (size_t)run->s->row[t].token;

		assert(token < (size_t)run->w->out);
		quant_decode(x, (const uint8_t *)run->w->device + token * run->w->row_bytes, run->w->type, d);
		for (size_t j = 1; j < GEOM_STREAMS; j++)
			memcpy(x + j * d, x, d * sizeof *x);
	}
}

void cpu_embed(struct backend *be, const struct step *s, struct tensor *streams, const struct weight *w)
{
	struct embed_run run = {s, streams, w};

	assert(streams->width == GEOM_STREAMS * w->in);
	cpu_for(cpu_of(be), s->n_rows, 2 * w->in, embed_rows, &run);
}

/* ------------------------------------------------------------------ hyper-connections */

/* C [4][4] of Z: softmax along k, then `iterations` column passes with row passes between them. */
static void sinkhorn(float *out, const float *z, int32_t iterations)
{
	float c[4][4], sum[4];

	for (int j = 0; j < 4; j++) {
		float top = z[4 * j];

		for (int k = 1; k < 4; k++)
			top = z[4 * j + k] > top ? z[4 * j + k] : top;
		for (int k = 0; k < 4; k++)
			c[j][k] = exp_f32(z[4 * j + k] - top);
		sum[j] = c[j][0] + c[j][1] + c[j][2] + c[j][3];
		for (int k = 0; k < 4; k++)
			c[j][k] = c[j][k] / sum[j] + CPU_EPS;
	}
	for (int32_t i = 0; i < iterations; i++) {
		if (i)
			for (int j = 0; j < 4; j++) {
				sum[j] = c[j][0] + c[j][1] + c[j][2] + c[j][3] + CPU_EPS;
				for (int k = 0; k < 4; k++)
					c[j][k] /= sum[j];
			}
		for (int k = 0; k < 4; k++)
			sum[k] = c[0][k] + c[1][k] + c[2][k] + c[3][k] + CPU_EPS;
		for (int j = 0; j < 4; j++)
			for (int k = 0; k < 4; k++)
				c[j][k] /= sum[k];
	}
	memcpy(out, c, sizeof c);
}

/* pre[4], and with n = 24 also post[4] and C[4][4], of the mix m (already times 1 / rms). */
static void hc_coefficients(float *coef, const float *m, int32_t n, const float *scale, const float *base,
			    int32_t iterations)
{
	float z[16];

	for (int j = 0; j < 4; j++)
		coef[j] = sigmoid_f32(m[j] * scale[0] + base[j]) + CPU_EPS;
	if (n == 4)
		return;
	for (int j = 4; j < 8; j++)
		coef[j] = 2 * sigmoid_f32(m[j] * scale[1] + base[j]);
	for (int j = 0; j < 16; j++)
		z[j] = m[8 + j] * scale[2] + base[8 + j];
	sinkhorn(coef + 8, z, iterations);
}

struct hc_run {
	const int32_t *pick;		/* rows of streams to do, NULL = all */
	struct tensor *x, *coef;	/* coef NULL: only pre */
	const struct tensor *streams;
	const float *mix, *scale, *base, *norm;
	int32_t n_mix, iterations;
};

static void hc_rows(void *ctx, long begin, long end, int thread)
{
	const struct hc_run *run = ctx;
	const int32_t d = run->x->width;

	(void)thread;
	for (long t = begin; t < end; t++) {
		const float *s = row_of(run->streams, run->pick ? run->pick[t] : (int32_t)t);
		float *x = row_of(run->x, (int32_t)t), m[GEOM_MIX], coef[GEOM_MIX];
		float inv = 1.0f / sqrtf(sum_squares(s, 4 * d) / (float)(4 * d) + CPU_EPS);

		for (int32_t i = 0; i < run->n_mix; i++)
			m[i] = run->mix[t * run->n_mix + i] * inv;
		hc_coefficients(coef, m, run->n_mix, run->scale, run->base, run->iterations);
		if (run->coef)
			memcpy(row_of(run->coef, (int32_t)t), coef, sizeof coef);
		for (int32_t i = 0; i < d; i++)
			x[i] = coef[0] * s[i] + coef[1] * s[d + i] + coef[2] * s[2 * d + i] +
			       coef[3] * s[3 * d + i];
		if (run->norm)
			cpu_rms(x, x, run->norm, d);
	}
}

/* The 1 / rms of the streams is applied to the 24 products instead of the 4 d inputs. */
static void hc_mix(struct backend *be, int32_t n_rows, struct hc_run *run, const struct hc_weights *w)
{
	struct cpu *c = cpu_of(be);
	const int32_t d = run->x->width;
	struct linear l = {.w = w->fn, .n = n_rows, .parts = 1, .y_stride = (size_t)w->fn->out};
	struct dot_x *x;

	assert(w->fn->in == 4 * d && run->streams->width == 4 * d);
	run->n_mix = w->fn->out;
	run->iterations = w->iterations;
	run->scale = w->scale->device;
	run->base = w->base->device;
	assert(w->scale->type == DTYPE_F32 && w->base->type == DTYPE_F32);
	x = cpu_activations(c, run->streams->data, (size_t)run->streams->width,
	                    run->pick ? run->streams->rows : n_rows, 4 * d, 1, w->fn->type);
	l.y = cpu_scratch(c, SCRATCH_MIX, (size_t)n_rows * (size_t)w->fn->out * sizeof *l.y);
	if (!x || !l.y)
		return;
	if (run->pick)	/* ascending, so moving down in place is safe */
		for (int32_t i = 0; i < n_rows; i++)
			x[i] = x[run->pick[i]];
	l.x = x;
	run->mix = l.y;
	cpu_linear(c, &l);
	cpu_for(c, n_rows, 10 * (int64_t)d + 2000, hc_rows, run);
}

void cpu_hc_in(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
	       const struct tensor *streams, const struct hc_weights *w)
{
	struct hc_run run = {.x = x, .coef = coef, .streams = streams};

	hc_mix(be, s->n_rows, &run, w);
}

void cpu_hc_in_norm(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
		    const struct tensor *streams, const struct hc_weights *hc, const struct weight *w)
{
	struct hc_run run = {.x = x, .coef = coef, .streams = streams};

	run.norm = cpu_vector(cpu_of(be), w, SCRATCH_VECTOR);
	if (run.norm)
		hc_mix(be, s->n_rows, &run, hc);
}

void cpu_hc_head(struct backend *be, const struct step *s, struct tensor *x, const struct tensor *streams,
		 const struct hc_weights *w)
{
	struct hc_run run = {.x = x, .streams = streams, .pick = s->logit_row};

	if (s->n_logits)
		hc_mix(be, s->n_logits, &run, w);
}

struct hc_out_run {
	struct tensor *streams;
	const struct tensor *coef, *y;
	int32_t parts;		/* a row's channels are dealt out in so many parts */
};

static void hc_out_rows(void *ctx, long begin, long end, int thread)
{
	enum { N = 64 };
	const struct hc_out_run *run = ctx;
	const int32_t d = run->y->width;

	(void)thread;
	for (long i = begin; i < end; i++) {
		const int32_t t = (int32_t)(i / run->parts), part = (int32_t)(i % run->parts);
		const int32_t first = d / N * part / run->parts * N;
		const int32_t last = part + 1 < run->parts ? d / N * (part + 1) / run->parts * N : d;
		float *s = row_of(run->streams, t);
		const float *y = row_of(run->y, t), *post = row_of(run->coef, t) + 4, *c = post + 4;

		for (int32_t at = first; at < last; at += N) {
			float in[4][N], out[N];
			int32_t n = last - at < N ? last - at : N;

			for (int j = 0; j < 4; j++)
				memcpy(in[j], s + j * d + at, (size_t)n * sizeof *s);
			for (int k = 0; k < 4; k++) {
				for (int32_t m = 0; m < n; m++)
					out[m] = post[k] * y[at + m] + c[k] * in[0][m] + c[4 + k] * in[1][m] +
						 c[8 + k] * in[2][m] + c[12 + k] * in[3][m];
				memcpy(s + k * d + at, out, (size_t)n * sizeof *s);
			}
		}
	}
}

void cpu_hc_out(struct backend *be, const struct step *s, struct tensor *streams, const struct tensor *coef,
		const struct tensor *y)
{
	struct hc_out_run run = {streams, coef, y, 1};

	assert(streams->width == 4 * y->width && coef->width == GEOM_MIX);
	if (s->n_rows < 2 * cpu_of(be)->threads && y->width >= 1024)
		run.parts = y->width / 512;
	cpu_for(cpu_of(be), (int64_t)s->n_rows * run.parts, 20 * (int64_t)y->width / run.parts, hc_out_rows, &run);
}

/* ------------------------------------------------------------------ norms, rotation, elementwise */

void cpu_rms(float *y, const float *x, const float *w, int32_t n)
{
	float inv = 1.0f / sqrtf(sum_squares(x, n) / (float)n + CPU_EPS);

	if (w)
		for (int32_t i = 0; i < n; i++)
			y[i] = x[i] * inv * w[i];
	else
		for (int32_t i = 0; i < n; i++)
			y[i] = x[i] * inv;
}

struct norm_run {
	struct tensor *y;
	const struct tensor *x;
	const float *w;
	int32_t group, per_row;
};

static void norm_groups(void *ctx, long begin, long end, int thread)
{
	const struct norm_run *run = ctx;

	(void)thread;
	for (long i = begin; i < end; i++) {
		int32_t row = (int32_t)(i / run->per_row), at = (int32_t)(i % run->per_row) * run->group;

		cpu_rms(row_of(run->y, row) + at, row_of(run->x, row) + at, run->w, run->group);
	}
}

void cpu_rms_norm(struct backend *be, int32_t n_rows, struct tensor *y, const struct tensor *x,
                  const struct weight *w, int32_t group)
{
	struct norm_run run = {.y = y, .x = x, .group = group, .per_row = x->width / group};

	assert(x->width % group == 0 && y->width == x->width);
	if (w) {
		run.w = cpu_vector(cpu_of(be), w, SCRATCH_VECTOR);
		if (!run.w)
			return;
	}
	cpu_for(cpu_of(be), (int64_t)n_rows * run.per_row, group, norm_groups, &run);
}

void cpu_rope_table(float cos_sin[64], const float *freq, int32_t pos, bool inverse)
{
	for (int i = 0; i < 32; i++) {
		float angle = (float)pos * freq[i];	/* rounded to float32, as the model's own code does */

		cos_sin[i] = cosf(angle);
		cos_sin[32 + i] = inverse ? -sinf(angle) : sinf(angle);
	}
}

void cpu_rotate(float *tail, const float cos_sin[64])
{
	for (int i = 0; i < 32; i++) {
		float a = tail[2 * i], b = tail[2 * i + 1];

		tail[2 * i] = a * cos_sin[i] - b * cos_sin[32 + i];
		tail[2 * i + 1] = a * cos_sin[32 + i] + b * cos_sin[i];
	}
}

struct rope_run {
	const struct step *s;
	struct tensor *x;
	const struct rope_args *a;
};

static void rope_rows(void *ctx, long begin, long end, int thread)
{
	const struct rope_run *run = ctx;
	const struct rope_args *a = run->a;

	(void)thread;
	for (long t = begin; t < end; t++) {
		float cos_sin[64];

		cpu_rope_table(cos_sin, a->freq, run->s->row[t].pos, a->inverse);
		for (int32_t h = 0; h < a->heads; h++)
			cpu_rotate(row_of(run->x, (int32_t)t) + (size_t)(h + 1) * (size_t)a->width - GEOM_ROT,
			           cos_sin);
	}
}

void cpu_rope(struct backend *be, const struct step *s, struct tensor *x, const struct rope_args *a)
{
	struct rope_run run = {s, x, a};

	assert(x->width >= a->heads * a->width && a->width >= GEOM_ROT);
	cpu_for(cpu_of(be), s->n_rows, 3000 + 128 * (int64_t)a->heads, rope_rows, &run);
}

struct pair_run {
	const struct cpu *c;
	struct tensor *y;
	const struct tensor *a, *b;
	float limit;
};

static void swiglu_rows(void *ctx, long begin, long end, int thread)
{
	const struct pair_run *run = ctx;

	(void)thread;
	for (long t = begin; t < end; t++)
		run->c->dot->silu(row_of(run->y, (int32_t)t), row_of(run->a, (int32_t)t),
		                  row_of(run->b, (int32_t)t), run->limit, 1.0f, run->y->width);
}

void cpu_swiglu(struct backend *be, const struct step *s, struct tensor *h, const struct tensor *g,
		const struct tensor *u, float limit)
{
	struct pair_run run = {.c = cpu_of(be), .y = h, .a = g, .b = u, .limit = limit};

	assert(h->width == g->width && h->width == u->width);
	cpu_for(cpu_of(be), s->n_rows, 8 * (int64_t)h->width, swiglu_rows, &run);
}

static void add_rows(void *ctx, long begin, long end, int thread)
{
	const struct pair_run *run = ctx;

	(void)thread;
	for (long t = begin; t < end; t++) {
		float *y = row_of(run->y, (int32_t)t);
		const float *x = row_of(run->a, (int32_t)t);

		for (int32_t i = 0; i < run->y->width; i++)
			y[i] += x[i];
	}
}

void cpu_add(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x)
{
	struct pair_run run = {.y = y, .a = x};

	assert(x->width == y->width);
	cpu_for(cpu_of(be), s->n_rows, y->width, add_rows, &run);
}

/* ------------------------------------------------------------------ packed rows and keys */

static inline float top_magnitude(const float *x, int n)
{
	int32_t top = 0;

	for (int i = 0; i < n; i++) {	/* magnitudes are ordered like their bits */
		int32_t a = (int32_t)(f32_bits(x[i]) & 0x7FFFFFFF);

		a = a > 0x7F800000 ? 0 : a;	/* NaN becomes a NaN code, not a scale */
		top = a > top ? a : top;
	}
	return f32_from_bits((uint32_t)top);
}

/* Exponent for pow2_scale_exponent, within what a scale byte can say. */
static inline int scale_exponent(float top, float least, double limit)
{
	int k = pow2_scale_exponent(top > least ? (double)top : (double)least, limit);

	return k > 127 || !(top < INFINITY) ? 127 : k < -126 ? -126 : k;
}

static inline float exp2_int(int k)	/* -127 < k < 128 */
{
	return f32_from_bits((uint32_t)(k + 127) << 23);
}

/* e4m3_from_f64 on a float, without branches. */
static inline uint8_t e4m3_code(float v)
{
	int32_t a = (int32_t)(f32_bits(v) & 0x7FFFFFFF), sign = (int32_t)(f32_bits(v) >> 24 & 0x80);
	int32_t low = a > 0x43E00000 ? 0x43E00000 : a;	/* 448 */
	int32_t tiny = (int32_t)f32_bits(f32_from_bits((uint32_t)low) * 512.0f + 12582912.0f) - 0x4B400000;
	int32_t code = ((low + 0x7FFFF + (low >> 20 & 1)) >> 20) - (120 << 3);

	code = low < 0x3C800000 ? tiny : code;	/* 2^-6 */
	return (uint8_t)(a > 0x7F800000 ? 0x7F : sign | code);
}

void cpu_store_row(struct packed_rows to, int32_t i, const float *x)
{
	const size_t count = (size_t)to.count, at = (size_t)i;
	uint8_t *code = to.base + GEOM_PLAIN * at;
	uint8_t *rot = to.base + GEOM_PLAIN * count + 2 * GEOM_ROT * at;
	uint8_t *scale = to.base + (GEOM_PLAIN + 2 * GEOM_ROT) * count + GEOM_ROW_SCALES * at;

	for (int g = 0; g < GEOM_ROW_SCALES; g++) {
		const float *v = x + GEOM_FP8_GROUP * g;
		int k = scale_exponent(top_magnitude(v, GEOM_FP8_GROUP), 1e-4f, 448);
		float inv = exp2_int(-k > -127 ? -k : -126);

		scale[g] = (uint8_t)(k + 127);
		for (int m = 0; m < GEOM_FP8_GROUP; m++)
			code[GEOM_FP8_GROUP * g + m] = e4m3_code(v[m] * inv);
	}
	for (int m = 0; m < GEOM_ROT; m++) {
		uint16_t h = f16_from_f32(x[GEOM_PLAIN + m]);

		memcpy(rot + 2 * m, &h, sizeof h);
	}
}

void cpu_load_row(const struct cpu *c, struct packed_rows from, int32_t i, float *x)
{
	const size_t count = (size_t)from.count, at = (size_t)i;
	const uint8_t *code = from.base + GEOM_PLAIN * at;
	const uint8_t *rot = from.base + GEOM_PLAIN * count + 2 * GEOM_ROT * at;
	const uint8_t *scale = from.base + (GEOM_PLAIN + 2 * GEOM_ROT) * count + GEOM_ROW_SCALES * at;

	c->dot->load_row(x, code, rot, scale);
}

void cpu_copy_row(struct packed_rows to, int32_t i, struct packed_rows from, int32_t k)
{
	const size_t a = (size_t)to.count, b = (size_t)from.count;

	memcpy(to.base + GEOM_PLAIN * (size_t)i, from.base + GEOM_PLAIN * (size_t)k, GEOM_PLAIN);
	memcpy(to.base + GEOM_PLAIN * a + 2 * GEOM_ROT * (size_t)i,
	       from.base + GEOM_PLAIN * b + 2 * GEOM_ROT * (size_t)k, 2 * GEOM_ROT);
	memcpy(to.base + (GEOM_PLAIN + 2 * GEOM_ROT) * a + GEOM_ROW_SCALES * (size_t)i,
	       from.base + (GEOM_PLAIN + 2 * GEOM_ROT) * b + GEOM_ROW_SCALES * (size_t)k, GEOM_ROW_SCALES);
}

void cpu_hadamard(float *x)
{
	for (int h = 1; h < GEOM_KEY; h *= 2)
		for (int i = 0; i < GEOM_KEY; i += 2 * h)
			for (int k = i; k < i + h; k++) {
				float a = x[k], b = x[k + h];

				x[k] = a + b;
				x[k + h] = a - b;
			}
	for (int i = 0; i < GEOM_KEY; i++)
		x[i] *= 0.0883883476f;	/* 128^-0.5 */
}

/* e2m1_from_f64 on a float: the code is the number of thresholds below. */
static inline uint8_t e2m1_code(float v)
{
	float a = fabsf(v);
	int code = !(a <= 0.25f) + !(a < 0.75f) + !(a <= 1.25f) + !(a < 1.75f) + !(a <= 2.5f) + !(a < 3.5f) +
	           !(a <= 5);

	return (uint8_t)((f32_bits(v) >> 28 & 8) | (uint32_t)code);
}

/* The codes of 128 values and their 4 scale bytes. */
static void key_codes(uint8_t code[GEOM_KEY], uint8_t scale[GEOM_KEY_SCALES], const float *x)
{
	for (int g = 0; g < GEOM_KEY_SCALES; g++) {
		const float *v = x + GEOM_FP4_GROUP * g;
		int k = scale_exponent(top_magnitude(v, GEOM_FP4_GROUP), 6 * 0x1p-126f, 6);
		float inv = exp2_int(-k > -127 ? -k : -126);

		scale[g] = (uint8_t)(k + 127);
		for (int m = 0; m < GEOM_FP4_GROUP; m++)
			code[GEOM_FP4_GROUP * g + m] = e2m1_code(v[m] * inv);
	}
}

void cpu_store_key(struct packed_rows to, int32_t i, const float *x)
{
	uint8_t code[GEOM_KEY], *pair = to.base + GEOM_KEY / 2 * (size_t)i;

	key_codes(code, to.base + GEOM_KEY / 2 * (size_t)to.count + GEOM_KEY_SCALES * (size_t)i, x);
	for (int m = 0; m < GEOM_KEY / 2; m++)
		pair[m] = (uint8_t)(code[2 * m] | code[2 * m + 1] << 4);
}

void cpu_load_key(const struct cpu *c, struct packed_rows from, int32_t i, float *x)
{
	const uint8_t *pair = from.base + GEOM_KEY / 2 * (size_t)i;
	const uint8_t *scale = from.base + GEOM_KEY / 2 * (size_t)from.count + GEOM_KEY_SCALES * (size_t)i;

	c->dot->load_key(x, pair, scale);
}

void cpu_round_key(float *x)
{
	uint8_t code[GEOM_KEY], scale[GEOM_KEY_SCALES];

	key_codes(code, scale, x);
	for (int i = 0; i < GEOM_KEY; i++)
		x[i] = (float)e2m1_twice(code[i]) * (0.5f * e8m0_to_f32(scale[i / GEOM_FP4_GROUP]));
}
