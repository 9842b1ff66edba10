/* model_kit.h - a whole model on one backend, for tests that run the forward pass directly. */
#ifndef DS4_TESTS_SUPPORT_MODEL_KIT_H
#define DS4_TESTS_SUPPORT_MODEL_KIT_H

#include "model/forward.h"

struct model_kit {
	struct gguf *gguf;
	struct shape shape;
	struct backend *be;
	struct weights weights;
	struct kv_layout layout;
	struct kv_pool pool;
	struct forward *forward;
};

/* Steps of at most max_rows rows, all of which may want logits when max_logits is that large.  Fails the test on any error. */
void model_kit_open(struct model_kit *m, const char *path, const char *backend, int threads, struct be_numerics numerics,
		    int32_t max_rows, int32_t max_logits);
void model_kit_close(struct model_kit *m);
struct kv *model_kit_timeline(struct model_kit *m);

/* Reads n tokens in steps of at most `chunk` rows.  Logits [n_pos, V] of the ascending positions pos (of the timeline)
 * go to logits. */
void model_kit_read(struct model_kit *m, struct kv *kv, const int32_t *token, int32_t n, int32_t chunk,
		    const int32_t *pos, int32_t n_pos, float *logits);

/* rms(a - b) / std(b) of n logits; index of the largest; KL(softmax b || softmax a). */
double logits_distance(const float *a, const float *b, int32_t n);
int32_t logits_best(const float *a, int32_t n);
double logits_kl(const float *a, const float *b, int32_t n);

#endif
