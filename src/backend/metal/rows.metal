/* rows.metal - operations that work row by row: embedding, norms, rotation, residual streams, router, element-wise.
 *
 * One threadgroup, SIMD group or thread per row and piece; a row never looks at another.  Formulas: docs/model.md and
 * backend/ref/ref.c. */
#include "backend/metal/common.metal"

/* streams[t, j * d + i] = w[token, i].  Grid: chunks of 8 elements, rows. */
template <int TYPE>
kernel void embed(constant mtl_embed &a [[buffer(0)]], device const uchar *w [[buffer(1)]], device float *streams [[buffer(2)]],
		  device const mtl_row *row [[buffer(MTL_ROW)]], uint2 at [[thread_position_in_grid]])
{
	const uint c = at.x, t = at.y;

	if (c >= a.width / 8)
		return;
	const eight e = decode8<TYPE>(w + ulong(row[t].token) * a.row_bytes, c);
	device float4 *y = (device float4 *)(streams + ulong(t) * a.streams * a.width) + 2 * c;
	for (uint j = 0; j < a.streams; j++) {
		y[0] = e.lo;
		y[1] = e.hi;
		y += a.width / 4;
	}
}
EVERY_TYPE(embed)

/* y = x / sqrt(mean(x^2) + 1e-6) * w over groups.  Grid: groups, rows.  y may be x: a thread touches only its elements. */
kernel void rms_norm(constant mtl_norm &a [[buffer(0)]], device float *y [[buffer(1)]], device const float *x [[buffer(2)]],
		     device const uchar *w [[buffer(3)]], uint2 tg [[threadgroup_position_in_grid]],
		     uint t [[thread_index_in_threadgroup]], uint2 nt [[threads_per_threadgroup]],
		     uint lane [[thread_index_in_simdgroup]], uint sg [[simdgroup_index_in_threadgroup]],
		     uint nsg [[simdgroups_per_threadgroup]])
{
	threadgroup float part[32];
	const ulong at = ulong(tg.y) * a.width + tg.x * a.group;
	float sum = 0;

	for (uint i = t; i < a.group; i += nt.x)
		sum = fma(x[at + i], x[at + i], sum);
	sum = group_sum(sum, part, lane, sg, nsg);
	const float r = 1.0f / precise::sqrt(sum / float(a.group) + 1e-6f);
	for (uint i = t; i < a.group; i += nt.x) {
		const float v = x[at + i] * r;

		y[at + i] = a.weight_type < 0 ? v : v * vector_at(w, a.weight_type, i);
	}
}

/* In place on the last 64 channels of each head.  Grid: pairs, heads, rows. */
kernel void rope(constant mtl_rope &a [[buffer(0)]], device float *x [[buffer(1)]], device const mtl_row *row [[buffer(MTL_ROW)]],
		 uint3 at [[thread_position_in_grid]])
{
	device float2 *u = (device float2 *)(x + (ulong(at.z) * a.heads + at.y + 1) * a.width - GEOM_ROT) + at.x;

	u[0] = rotate_pair(u[0], a.freq[at.x], row[at.z].pos, a.inverse != 0);
}

/* ------------------------------------------------------------------ residual streams */

/* Partial sums of fn . streams and of streams^2 over one piece of a row: part[row, split, 25].  Grid: splits, rows. */
template <int TYPE>
kernel void hc_mix(constant mtl_hc &a [[buffer(0)]], device const uchar *fn [[buffer(1)]], device const float *streams [[buffer(2)]],
		   device float *part [[buffer(3)]], device const int *logit_row [[buffer(MTL_LOGIT_ROW)]],
		   uint2 tg [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
		   uint sg [[simdgroup_index_in_threadgroup]], uint nsg [[simdgroups_per_threadgroup]])
{
	const uint chunks = a.width * GEOM_STREAMS / 8, per = (chunks + MTL_HC_SPLITS - 1) / MTL_HC_SPLITS;
	const uint begin = min(tg.x * per, chunks), end = min(begin + per, chunks);
	const uint from = a.head ? uint(logit_row[tg.y]) : tg.y;
	device const float4 *x = (device const float4 *)(streams + ulong(from) * GEOM_STREAMS * a.width);
	device float *out = part + (ulong(tg.y) * MTL_HC_SPLITS + tg.x) * MTL_HC_PART;

	for (uint o = sg; o <= a.n_out; o += nsg) {
		float sum = 0;

		for (uint c = begin + lane; c < end; c += MTL_SIMD) {
			const float4 lo = x[2 * c], hi = x[2 * c + 1];
			eight e;

			if (o < a.n_out) {
				e = decode8<TYPE>(fn + ulong(o) * a.row_bytes, c);
			} else {
				e.lo = lo;
				e.hi = hi;
			}
			sum = dot8(sum, e, lo, hi);
		}
		sum = simd_sum(sum);
		if (lane == 0)
			out[o < a.n_out ? o : MTL_HC_PART - 1] = sum;
	}
}
EVERY_TYPE(hc_mix)

/* One SIMD group makes the coefficients of one row from the partial sums: 24 (pre, post, C), or 4 of the head.
 * Lanes 0..23 hold one each; in the Sinkhorn rounds lanes 0..15 hold C[lane / 4][lane % 4]. */
inline float hc_coefficients(constant mtl_hc &a, device const float *part, device const uchar *scale, device const uchar *base,
			     uint lane)
{
	const uint o = min(lane, a.n_out - 1);
	float sum = 0, square = 0;

	for (uint s = 0; s < MTL_HC_SPLITS; s++) {
		sum += part[s * MTL_HC_PART + o];
		square += part[s * MTL_HC_PART + MTL_HC_PART - 1];
	}
	const float r = 1.0f / precise::sqrt(square / float(a.width * GEOM_STREAMS) + 1e-6f);
	const float v = sum * r * vector_at(scale, a.scale_type, o < 4 ? 0 : o < 8 ? 1 : 2) + vector_at(base, a.base_type, o);
	const float squashed = o < 4 ? sigmoid(v) + 1e-6f : 2.0f * sigmoid(v);

	if (a.head)
		return squashed;
	float c = simd_shuffle(v, ushort(8 + lane % 16));
	float top = max(c, simd_shuffle_xor(c, 1));
	top = max(top, simd_shuffle_xor(top, 2));
	c = precise::exp(c - top);
	for (int it = 0; it < a.iterations; it++) {
		float s = c + simd_shuffle_xor(c, 1);	/* rows; the first time the softmax, eps behind */

		s += simd_shuffle_xor(s, 2);
		c = it == 0 ? c / s + 1e-6f : c / (s + 1e-6f);
		s = c + simd_shuffle_xor(c, 4);		/* columns */
		s += simd_shuffle_xor(s, 8);
		c = c / (s + 1e-6f);
	}
	const float mixed = simd_shuffle(c, ushort((lane + 8) % 16));

	return lane < 8 ? squashed : mixed;
}

/* coef and x = sum_j pre[j] S[j] of one row, then the norm if there is one.  Grid: rows. */
kernel void hc_finish(constant mtl_hc &a [[buffer(0)]], device const float *part [[buffer(1)]], device const float *streams [[buffer(2)]],
		      device const uchar *scale [[buffer(3)]], device const uchar *base [[buffer(4)]],
		      device float *x [[buffer(5)]], device float *coef [[buffer(6)]], device const uchar *norm [[buffer(7)]],
		      device const int *logit_row [[buffer(MTL_LOGIT_ROW)]], uint row [[threadgroup_position_in_grid]],
		      uint t [[thread_index_in_threadgroup]], uint nt [[threads_per_threadgroup]],
		      uint lane [[thread_index_in_simdgroup]], uint sg [[simdgroup_index_in_threadgroup]],
		      uint nsg [[simdgroups_per_threadgroup]])
{
	threadgroup float mix[GEOM_MIX], sums[32];
	const uint from = a.head ? uint(logit_row[row]) : row;
	device const float *s = streams + ulong(from) * GEOM_STREAMS * a.width;
	device float *y = x + ulong(row) * a.width;
	float square = 0;

	if (sg == 0) {
		const float c = hc_coefficients(a, part + ulong(row) * MTL_HC_SPLITS * MTL_HC_PART, scale, base, lane);

		if (lane < a.n_out) {
			mix[lane] = c;
			if (!a.head)
				coef[row * GEOM_MIX + lane] = c;
		}
	}
	threadgroup_barrier(mem_flags::mem_threadgroup);
	for (uint i = t; i < a.width; i += nt) {
		float sum = 0;

		for (uint j = 0; j < GEOM_STREAMS; j++)
			sum = fma(mix[j], s[j * a.width + i], sum);
		y[i] = sum;
		square = fma(sum, sum, square);
	}
	if (a.norm_type < 0)
		return;
	square = group_sum(square, sums, lane, sg, nsg);
	const float r = 1.0f / precise::sqrt(square / float(a.width) + 1e-6f);
	for (uint i = t; i < a.width; i += nt)
		y[i] = y[i] * r * vector_at(norm, a.norm_type, i);
}

/* S'[k] = post[k] y + sum_j C[j][k] S[j], in place.  Grid: channels, rows. */
kernel void hc_out(constant mtl_hc &a [[buffer(0)]], device float *streams [[buffer(1)]], device const float *coef [[buffer(2)]],
		   device const float *y [[buffer(3)]], uint2 at [[thread_position_in_grid]])
{
	const uint i = at.x, d = a.width;

	if (i >= d)
		return;
	device float *s = streams + ulong(at.y) * GEOM_STREAMS * d + i;
	device const float *post = coef + at.y * GEOM_MIX + GEOM_STREAMS;
	device const float *c = post + GEOM_STREAMS;
	const float v = y[ulong(at.y) * d + i], s0 = s[0], s1 = s[d], s2 = s[2 * d], s3 = s[3 * d];
	for (uint k = 0; k < GEOM_STREAMS; k++) {
		float sum = post[k] * v;

		sum = fma(c[k], s0, sum);
		sum = fma(c[4 + k], s1, sum);
		sum = fma(c[8 + k], s2, sum);
		s[k * d] = fma(c[12 + k], s3, sum);
	}
}

/* ------------------------------------------------------------------ router */

/* log(1 + x) for 0 <= x <= 1: MSL has no log1p.  The quotient repairs what rounding 1 + x lost. */
inline float log1p_of(float x)
{
	const float u = 1.0f + x;

	return u == 1.0f ? x : precise::log(u) * (x / (u - 1.0f));
}

/* Experts and gates of one row; one SIMD group per row.  Lane l looks at experts l, l + 32, ... */
kernel void route(constant mtl_route &a [[buffer(0)]], device const float *logits [[buffer(1)]], device const uchar *bias [[buffer(2)]],
		  device const uchar *table [[buffer(3)]], device int *idx [[buffer(4)]], device float *gate [[buffer(5)]],
		  device const mtl_row *row [[buffer(MTL_ROW)]], uint t [[threadgroup_position_in_grid]],
		  uint lane [[thread_index_in_simdgroup]])
{
	threadgroup float p[MTL_MAX_EXPERTS];
	threadgroup int chosen[MTL_MAX_USED];
	float rank[MTL_MAX_EXPERTS / MTL_SIMD], sum = 0;
	const uint mine = (a.experts + MTL_SIMD - 1) / MTL_SIMD;

	for (uint j = 0; j < mine; j++) {
		const uint e = j * MTL_SIMD + lane;

		rank[j] = -INFINITY;
		if (e < a.experts) {
			const float z = logits[ulong(t) * a.experts + e];
			const float v = precise::sqrt(log1p_of(precise::exp(-fabs(z))) + max(z, 0.0f));

			p[e] = v;
			rank[j] = a.bias_type < 0 ? v : v + vector_at(bias, a.bias_type, e);
		}
	}
	for (uint k = 0; k < a.used; k++) {
		int e;

		if (a.hash) {
			e = ((device const int *)(table + ulong(row[t].token) * a.table_row_bytes))[k];
		} else {
			float best = -INFINITY;

			for (uint j = 0; j < mine; j++)
				best = max(best, rank[j]);
			best = simd_max(best);
			e = 0x7fffffff;
			for (uint j = mine; j-- > 0;)
				if (rank[j] == best && j * MTL_SIMD + lane < a.experts)
					e = int(j * MTL_SIMD + lane);
			e = simd_min(e);
			e = e == 0x7fffffff ? 0 : e;	/* nothing is comparable: the logits are not numbers */
			for (uint j = 0; j < mine; j++)
				if (int(j * MTL_SIMD + lane) == e)
					rank[j] = -INFINITY;
		}
		if (lane == 0)
			chosen[k] = e;
	}
	simdgroup_barrier(mem_flags::mem_threadgroup);
	for (uint k = 0; k < a.used; k++)
		sum += p[chosen[k]];
	for (uint k = lane; k < a.used; k += MTL_SIMD) {
		idx[ulong(t) * a.used + k] = chosen[k];
		gate[ulong(t) * a.used + k] = p[chosen[k]] / sum * a.scale;
	}
}

/* ------------------------------------------------------------------ element-wise */

kernel void swiglu(constant mtl_point &a [[buffer(0)]], device float *h [[buffer(1)]], device const float *g [[buffer(2)]],
		   device const float *u [[buffer(3)]], uint i [[thread_position_in_grid]])
{
	if (i < a.n)
		h[i] = swiglu_of(g[i], u[i], a.limit);
}

kernel void add(constant mtl_point &a [[buffer(0)]], device float *y [[buffer(1)]], device const float *x [[buffer(2)]],
		uint i [[thread_position_in_grid]])
{
	if (i < a.n)
		y[i] += x[i];
}
