/* kit.h - what the parity tests share: random weights of every type, steps, and a backend with a timeline. */
#ifndef DS4_TESTS_SUPPORT_KIT_H
#define DS4_TESTS_SUPPORT_KIT_H

#include "backend/backend.h"
#include "base/rng.h"
#include "model/kv.h"

#define KIT_MAX_ROWS 320

/* Uniform in -a..a. */
float kit_uniform(struct rng *r, double a);

/* Fills a weight [n, out, in] of a type with random blocks of sensible scale; owned by the kit until kit_free_weights. */
struct weight *kit_weight(struct rng *r, const char *name, enum dtype t, int32_t in, int32_t out, int32_t n);
struct weight *kit_ints(struct rng *r, const char *name, int32_t in, int32_t out, int32_t below);
void kit_free_weights(void);

/* One backend under test. */
struct kit {
	struct backend *be;
	struct shape shape;		/* one layer: ratio and window of the test */
	struct kv_layout layout;
	struct kv_pool pool;
};

/* name, threads, then the layer's ratio and window (0, 0 when no history is used). */
void kit_open(struct kit *k, const char *name, int threads, int32_t ratio, int32_t window);
void kit_close(struct kit *k);
struct tensor kit_tensor(struct kit *k, enum tensor_type type, int32_t rows, int32_t width);
void kit_load(struct kit *k, struct weight *w);

/* A step of consecutive rows of one or more timelines. */
struct kit_step {
	struct step s;
	struct row row[KIT_MAX_ROWS];
	struct span span[KIT_MAX_ROWS];
	int32_t row_span[KIT_MAX_ROWS], logit_row[KIT_MAX_ROWS];
	struct be_timeline timeline[KIT_MAX_ROWS];
};

void kit_step_begin(struct kit_step *st);
/* n rows of kv (NULL: rows without history) from its position on; tokens are random below vocab. */
void kit_step_add(struct kit_step *st, struct rng *r, struct kv *kv, int32_t pos0, int32_t n, int32_t vocab);
void kit_step_end(struct kit_step *st, int32_t n_logits);

/* Relative L2 error |a - b| / |b| of n values. */
double kit_error(const float *a, const float *b, size_t n);

#endif
