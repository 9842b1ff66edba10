/* hash.h - XXH3: checksums of what was written, fingerprints of what was read; fast, not against an adversary. */
#ifndef DS4_BASE_HASH_H
#define DS4_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash64(const void *p, size_t n);

struct hash128 {
	uint64_t low, high;
};

struct hash128 hash128(const void *p, size_t n);

#endif
