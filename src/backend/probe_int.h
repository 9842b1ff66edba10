/* probe_int.h - the int8 products of the instruction sets, shared by probe.c and probe_*.c.
 *
 *   c [rows, cols] i32 += a [rows, K] . b [K, cols]      summed over K
 *
 * The operands stand as the units like them (b_at of each product) and fit the first-level cache.  a is signed; b is
 * signed, or unsigned where the unit wants that: values are 0..63, which both read alike. */
#ifndef DS4_BACKEND_PROBE_INT_H
#define DS4_BACKEND_PROBE_INT_H

#include <stdbool.h>
#include <stdint.h>

enum {
	PROBE_K = 512,
	PROBE_ROWS = 32,	/* most rows and columns of any product */
	PROBE_COLS = 64
};

struct probe_product {
	const char *name;
	int32_t rows, cols;
	/* Where element (k, col) of b stands; a is row-major [rows, K], c row-major [rows, cols] (both by the file). */
	int32_t (*b_at)(int32_t k, int32_t col);
	/* Does the product `times` times on the same operands; c is overwritten by the last. */
	void (*run)(int32_t *c, const int8_t *a, const int8_t *b, int64_t times);
	/* Once per thread before run; false: the system does not let this process use the unit.  May be NULL. */
	bool (*enter)(void);
};

/* Places of quads: four values of k side by side for each column, columns in strips of `strip`. */
static inline int32_t probe_quads(int32_t k, int32_t col, int32_t strip)
{
	return (col / strip * (PROBE_K / 4) + k / 4) * strip * 4 + col % strip * 4 + k % 4;
}

#if defined(__x86_64__)
extern const struct probe_product probe_avx2, probe_avx512, probe_amx;
#endif

#endif
