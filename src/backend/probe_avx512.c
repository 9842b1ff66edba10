/* probe_avx512.c - the int8 product of AVX-512 VNNI: vpdpbusd, four multiply-adds in each of sixteen lanes.
 *
 * How   Ten rows by two strips of sixteen columns: 20 sums in registers, two vectors of b, and each quad of a
 *       broadcast from memory. */
#include <immintrin.h>

#include "backend/probe_int.h"

enum { ROWS = 10, STRIP = 16, STRIPS = 2 };

static int32_t b_at(int32_t k, int32_t col)
{
	return probe_quads(k, col, STRIP);
}

/* Four values of k: every sum gets a product. */
static inline __attribute__((always_inline)) void step(__m512i *sum, const int8_t *a, const int8_t *b, int k)
{
	__m512i b0 = _mm512_loadu_si512(b + k * STRIP * 4);
	__m512i b1 = _mm512_loadu_si512(b + (PROBE_K / 4 + k) * STRIP * 4);

#pragma GCC unroll 10
	for (int i = 0; i < ROWS; i++) {
		__m512i x = _mm512_set1_epi32(*(const int32_t *)(const void *)(a + i * PROBE_K + 4 * k));

		sum[2 * i] = _mm512_dpbusd_epi32(sum[2 * i], b0, x);
		sum[2 * i + 1] = _mm512_dpbusd_epi32(sum[2 * i + 1], b1, x);
	}
}

static void run(int32_t *c, const int8_t *a, const int8_t *b, int64_t times)
{
	for (int64_t n = 0; n < times; n++) {
		__m512i sum[ROWS * STRIPS];

#pragma GCC unroll 20
		for (int i = 0; i < ROWS * STRIPS; i++)
			sum[i] = _mm512_setzero_si512();
		for (int k = 0; k < PROBE_K / 4; k += 8)	/* unrolled: gcc copies all sums at the end of a loop's body */
#pragma GCC unroll 8
			for (int j = 0; j < 8; j++)
				step(sum, a, b, k + j);
#pragma GCC unroll 20
		for (int i = 0; i < ROWS * STRIPS; i++)
			_mm512_storeu_si512(c + i * STRIP, sum[i]);
		__asm__ volatile("" : : "r"(a), "r"(b), "r"(c) : "memory");	/* the next round is not this one */
	}
}

const struct probe_product probe_avx512 = {
	.name = "avx512-vnni", .rows = ROWS, .cols = STRIP * STRIPS, .b_at = b_at, .run = run};
