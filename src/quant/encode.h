/* encode.h - float -> block for every element type, with the least weighted error: the inverse of quant_decode().
 *
 * What is minimised for each block is  sum_i w[i] * (x[i] - decoded[i])^2.  The formats are given; the search for
 * scales and codes is ours, and on average no worse than one that tries everything (docs/quality.md).
 * Deterministic: the same bytes on every machine and with every number of threads. */
#ifndef DS4_QUANT_ENCODE_H
#define DS4_QUANT_ENCODE_H

#include <stddef.h>

#include "quant/dtype.h"

#define ENCODE_REVISION 1	/* changes when the same input would give other bytes */

/* Encodes x[n] into dst; n is a multiple of the block length, dst has the alignment of the block (2 bytes).
 *   w [n] importance of each element, >= 0 and finite; NULL: all equal.  A block whose weights are all 0 is
 *   encoded as if they were equal.  Ignored by the plain types.
 * x is finite.  F16: what exceeds 65504 becomes infinite, so ask encode_fits() first.  I32: rounded to
 * whole numbers. */
void quant_encode(void *dst, const float *x, const float *w, enum dtype t, size_t n);

/* The first x[i] that is NaN, infinite, or too large for type t; n when all of them fit. */
size_t encode_fits(const float *x, enum dtype t, size_t n);

#endif
