/* sampler.h - logits to a token: no I/O, no globals; same seed, same token. */
#ifndef DS4_ENGINE_SAMPLER_H
#define DS4_ENGINE_SAMPLER_H

#include <stdint.h>

#include "base/rng.h"
#include "base/status.h"

struct sampler_params {
	float temperature;	/* 0 = greedy */
	int32_t top_k;		/* 0 = off */
	float top_p;		/* 1 = off */
	float min_p;		/* 0 = off: keep tokens with p >= min_p * p_max */
	uint64_t seed;
};

#define SAMPLER_DEFAULT {.temperature = 1.0f, .top_p = 1.0f}

struct sampler {
	struct sampler_params p;
	struct rng rng;
	int32_t vocab;
	const uint8_t *allowed;		/* [V] 1 = may be produced; NULL = all; borrowed */
	double *weight;			/* [V, padded] exp((l - l_max) / t) */
	struct sampler_item *work;	/* [V] candidates */
};

enum status sampler_check(const struct sampler_params *p, struct err *err);	/* ERR_ARGUMENT naming the field */

enum status sampler_init(struct sampler *s, const struct sampler_params *p, int32_t vocab, const uint8_t *allowed,
			 struct err *err);
void sampler_clear(struct sampler *s);

/* Picks a token from logits [V].  Order of filters: mask, temperature, top-k, top-p, min-p.  Equal logits: the
 * lower id first.  NaN logits are never picked; if nothing can be picked returns -1. */
int32_t sampler_pick(struct sampler *s, const float *logits);

/* Log-probabilities (natural, temperature 1, no filters) of the k best tokens, best first. */
void sampler_top(const float *logits, int32_t vocab, int32_t k, int32_t *id, float *logprob);
/* Log-probability of one token. */
double sampler_logprob(const float *logits, int32_t vocab, int32_t id);

#endif
