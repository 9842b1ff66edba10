/* product.cuh - shared by the files that make products: activations in other forms, the launches of few.cu. */
#ifndef DS4_CUDA_PRODUCT_CUH
#define DS4_CUDA_PRODUCT_CUH

#include "few.cuh"

/* product.cu: another form of n rows of x, made unless it is there. */
struct slot *form_of(struct eng *e, const float *x, int32_t width, int32_t n, enum form kind);
/* An empty form for a kernel that makes it on the way; call form_claim() behind its launch. */
struct slot *form_new(struct eng *e, const float *x, int32_t width, int32_t n, enum form kind);
/* Activations in the form that a type reads. */
bool vec_form(struct eng *e, struct vec_x *x, const float *f, int32_t width, int32_t n, int type);

struct few_product {
	float *y;			/* [rows, out], or NULL and: */
	int8_t *q;			/* [rows, q_stride] */
	float *d;
	int32_t q_stride;
	const struct dw *w;
	const float *x;			/* [rows, groups * in] */
	int32_t groups;
};

static const int ITEM_ROWS = 4;		/* few rows choose one expert; the shared expert takes up to SHARED_ROWS */
static const int SHARED_ROWS = 8;

struct item {
	int32_t expert, n, pair[ITEM_ROWS];
};

struct router {
	int32_t *idx;
	float *gate;
	const float *logits;
	struct dw bias, table;
	int32_t experts, used;
	float scale;
};

struct ffn {
	struct dw w[3], shared[3];	/* gate, up, down */
	struct vec_x x, x_shared;
	const float *weight;		/* [pairs] */
	const struct item *items;
	const int32_t *n_items;
	int8_t *q;			/* hidden values [pairs + rows, q_stride] */
	float *d, *part;
	int32_t rows, used, pairs, idx_items, shared_items, q_stride, tiles;
	float limit;
};

/* few.cu */
bool few_type(int type);
void few_products(struct eng *e, const struct few_product *p, int n, int rows);
/* product.cu: the list of items and its length, for `pairs` pairs. */
struct item *few_list(struct eng *e, int pairs, int32_t **n_items);
void few_items(struct eng *e, const int32_t *idx, int rows, int used, int experts, struct item *items, int32_t *n_items);
void few_route(struct eng *e, const struct router *r, int rows, struct item *items, int32_t *n_items);
bool few_ffn_types(const struct dw *w, const struct dw *shared);
bool few_ffn(struct eng *e, struct ffn *f, const float *x);
void few_gather(struct eng *e, float *y, const struct ffn *f, int add);

#ifdef __CUDACC__

/* One of 32 lanes' values, rounded with their common scale: d = max|x| / 127, q = round_half_even(x / d). */
static __device__ inline int8_t round_group(float v, float *scale)
{
	bool bad = __any_sync(~0u, !(fabsf(v) < INFINITY));
	float top = fabsf(v), d;
	int q;

	for (int o = 16; o; o >>= 1)
		top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
	d = top / 127;
	q = top > 0 && !bad ? (int)rintf(v / d) : 0;
	*scale = bad ? NAN : d;
	return (int8_t)max(-127, min(127, q));
}

static __device__ inline float gather_part(const float *part, int t, int i, int used, int pairs, int shared, int d)
{
	float v = 0;

#pragma unroll 6
	for (int k = 0; k < used; k++)
		v = __fadd_rn(v, part[((size_t)t * used + k) * d + i]);
	if (shared)
		v = __fadd_rn(v, part[(size_t)(pairs + t) * d + i]);
	return v;
}

#endif
#endif
