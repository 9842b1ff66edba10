/* shape.h - the numbers of one model of the DeepSeek V4 Flash family, complete and consistent.
 *
 * The letters are used everywhere: T rows in a step, d width, H heads, D head size (512), R rotary channels (64),
 * W window, r pooling ratio, C compressed rows, E experts, K experts used (or rows chosen), F expert width,
 * V vocabulary, S residual streams (4), G output groups.
 * Source: docs/model.md section 2; keys: docs/formats/gguf.md. */
#ifndef DS4_MODEL_SHAPE_H
#define DS4_MODEL_SHAPE_H

#include <stdint.h>

#include "base/status.h"
#include "gguf/gguf.h"

#define SHAPE_MAX_LAYERS 256

struct shape {
	int32_t n_layer, d, vocab;
	int32_t heads, q_rank;			/* H, low rank of the queries */
	int32_t groups, o_rank;			/* G, rank of each group's output */
	int32_t window;				/* W */
	int32_t index_heads, index_top_k;	/* IH, K of the indexer */
	int32_t experts, used, ff;		/* E, K, F */
	int32_t n_hash;				/* first layers: experts from the token id */
	int32_t sinkhorn;			/* iterations */
	int32_t context;			/* positions the model is made for */
	float route_scale;
	float theta, theta_pooled;		/* RoPE bases: ratio 0, other layers */
	float yarn_factor, yarn_fast, yarn_slow;
	int32_t yarn_original;
	int32_t ratio[SHAPE_MAX_LAYERS];	/* 0, 4, 128 */
	float limit[SHAPE_MAX_LAYERS];		/* SwiGLU clamp */
	float freq[2][32];			/* radians per position: [0] ratio 0, [1] with YaRN */
};

/* Reads and checks every key.  ERR_FORMAT names the key, what is allowed and what the file has. */
enum status shape_read(struct shape *out, const struct gguf *g, struct err *err);

static inline const float *shape_freq(const struct shape *s, int32_t layer)
{
	return s->freq[s->ratio[layer] != 0];
}

#endif
