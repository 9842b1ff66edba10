/* encode_avx2.c - the searches of encode_iq2_int.h and encode_k_int.h, compiled for AVX2.
 *
 * Careful: no fused multiply-add (-ffp-contract=off): base and AVX2 give the same bytes. */
#include "quant/encode_iq2_int.h"
#include "quant/encode_k_int.h"

static void q8_0(struct block_q8_0 *out, const float *x, const float *w)
{
	q8_0_search(out, x, w);
}

static void q2_k(struct block_q2_k *out, const float *x, const float *w)
{
	q2_k_search(out, x, w);
}

static void q4_k(struct block_q4_k *out, const float *x, const float *w)
{
	q4_k_search(out, x, w);
}

static void iq2_xxs(struct block_iq2_xxs *out, const float *x, const float *w, const struct iq2_tables *tables)
{
	iq2_search(out, x, w, tables);
}

const struct encoders encoders_avx2 = {q8_0, q2_k, q4_k, iq2_xxs};
