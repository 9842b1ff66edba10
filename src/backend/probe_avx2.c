/* probe_avx2.c - the int8 product of AVX2: vpmaddubsw (unsigned times signed, pairs), vpmaddwd, vpaddd.
 *
 * How   Four rows by two strips of eight columns: eight sums in registers, each loaded vector of b used four times.
 * Careful
 *       - vpmaddubsw saturates at 2^15: values of 0..63 times -64..63 stay far below. */
#include <immintrin.h>

#include "backend/probe_int.h"

enum { ROWS = 4, STRIP = 8, STRIPS = 2 };

static int32_t b_at(int32_t k, int32_t col)
{
	return probe_quads(k, col, STRIP);
}

static void run(int32_t *c, const int8_t *a, const int8_t *b, int64_t times)
{
	const __m256i ones = _mm256_set1_epi16(1);

	for (int64_t n = 0; n < times; n++) {
		__m256i sum[ROWS][STRIPS];

		for (int i = 0; i < ROWS; i++)
			for (int j = 0; j < STRIPS; j++)
				sum[i][j] = _mm256_setzero_si256();
		for (int k = 0; k < PROBE_K / 4; k++) {
			__m256i b0 = _mm256_loadu_si256((const void *)(b + k * STRIP * 4));
			__m256i b1 = _mm256_loadu_si256((const void *)(b + (PROBE_K / 4 + k) * STRIP * 4));

#pragma GCC unroll 4
			for (int i = 0; i < ROWS; i++) {
				__m256i x = _mm256_castps_si256(_mm256_broadcast_ss((const float *)(a + i * PROBE_K + 4 * k)));

				sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(_mm256_maddubs_epi16(b0, x), ones));
				sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(_mm256_maddubs_epi16(b1, x), ones));
			}
		}
		for (int i = 0; i < ROWS; i++)
			for (int j = 0; j < STRIPS; j++)
				_mm256_storeu_si256((void *)(c + i * STRIP * STRIPS + j * STRIP), sum[i][j]);
		__asm__ volatile("" : : "r"(a), "r"(b), "r"(c) : "memory");	/* the next round is not this one */
	}
}

const struct probe_product probe_avx2 = {
	.name = "avx2", .rows = ROWS, .cols = STRIP * STRIPS, .b_at = b_at, .run = run};
