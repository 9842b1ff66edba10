/* rng.h - seeded random numbers; the state is two words that the caller owns (xoroshiro128+). */
#ifndef DS4_BASE_RNG_H
#define DS4_BASE_RNG_H

#include <stdint.h>

struct rng {
	uint64_t a, b;
};

static inline uint64_t rng_mix(uint64_t *x)	/* splitmix64: spreads a seed over the state */
{
	uint64_t z = (*x += 0x9E3779B97F4A7C15u);

	z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
	z = (z ^ z >> 27) * 0x94D049BB133111EBu;
	return z ^ z >> 31;
}

static inline struct rng rng_seed(uint64_t seed)
{
	struct rng r;

	r.a = rng_mix(&seed);
	r.b = rng_mix(&seed);
	return r;
}

static inline uint64_t rng_u64(struct rng *r)
{
	uint64_t s0 = r->a, s1 = r->b, out = s0 + s1;

	s1 ^= s0;
	r->a = (s0 << 24 | s0 >> 40) ^ s1 ^ s1 << 16;
	r->b = s1 << 37 | s1 >> 27;
	return out;
}

/* Uniform in [0, 1), 53 bits. */
static inline double rng_uniform(struct rng *r)
{
	return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

/* Uniform in 0..n-1 (n small against 2^64: the bias is not visible). */
static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
	return rng_u64(r) % n;
}

#endif
