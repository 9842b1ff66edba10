/* ref_int.h - shared by the files of the reference backend. */
#ifndef DS4_BACKEND_REF_REF_INT_H
#define DS4_BACKEND_REF_REF_INT_H

#include "backend/backend.h"
#include "base/thread.h"

/* Loops that are worth compiling twice: the machine's wider vectors change the order of a sum, never its definition.
 * (Sanitizers cannot run code before they are set up, which choosing at load time would need.) */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
	!defined(__SANITIZE_THREAD__)
#define REF_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define REF_WIDE
#endif

struct ref {
	struct backend be;
	struct pool *pool;
	float *row;		/* [threads, row_room] decoded weight rows */
	double *wide;		/* [threads, row_room] the same as float64 */
	size_t row_room;
};

/* Row i of a real tensor. */
static inline double *real_row(const struct tensor *t, int32_t i)
{
	return (double *)t->data + (size_t)i * (size_t)t->width;
}

static inline int32_t *int_row(const struct tensor *t, int32_t i)
{
	return (int32_t *)t->data + (size_t)i * (size_t)t->width;
}

/* Element i of a small F32/F16/BF16 weight. */
double ref_weight_at(const struct weight *w, size_t i);

/* y[n] = x[n] / sqrt(mean(x^2) + eps) * w; w may be NULL; y may be x. */
void ref_rms(double *y, const double *x, const struct weight *w, int32_t n);

/* Rotates (or back) the last 64 of `width` channels at a position. */
void ref_rope(double *x, int32_t width, const float *freq, int32_t pos, bool inverse);

/* In place: 448 channels through E4M3 in groups of 64; 128 values through E2M1 in groups of 32; Hadamard. */
void ref_round_row(double *x);
void ref_round_key(double *x);
void ref_hadamard(double *x);

/* Packed storage: row i of a group of `count` rows (keys) at base. */
void ref_store_row(const struct backend *be, uint8_t *base, int32_t count, int32_t i, const double *x);
void ref_load_row(const struct backend *be, const uint8_t *base, int32_t count, int32_t i, double *x);
void ref_store_key(const struct backend *be, uint8_t *base, int32_t count, int32_t i, const double *x);
void ref_load_key(const struct backend *be, const uint8_t *base, int32_t count, int32_t i, double *x);

/* The operations of ref_attn.c. */
void ref_pack_rows(struct backend *be, const struct step *s, struct tensor *fresh, const struct tensor *kv);
void ref_pool(struct backend *be, const struct step *s, const struct pool_args *a);
void ref_index_query(struct backend *be, const struct step *s, struct tensor *q, int32_t heads);
void ref_choose_rows(struct backend *be, const struct step *s, struct tensor *pick, const struct choose_args *a);
void ref_attend(struct backend *be, const struct step *s, struct tensor *out, const struct attend_args *a);
void ref_ring_write(struct backend *be, const struct step *s, const struct tensor *fresh,
		    const struct kv_layer *layer);

#define REF_EPS 1e-6

#endif
